# DML Playground. "make help" lists the targets; all of them first make .venv if need be (see tools/setup.sh).
#   make demo PYTHON=python3.9         choose the Python (3.8 to 3.14)
#   make demo MXNET=mxnet-cu101        choose the MXNet build
#   make test PYTEST_ARGS="-k margin"  pass arguments to pytest
#   make reproduce RUN=1               train all of GLYPHS again, then draw
#   make benchmarks IMAGES=FOLDER      a folder of photographs, which the loader's benchmark needs

VENV ?= .venv
PYTHON ?=
MXNET ?=
PYTEST_ARGS ?=
IMAGES ?=
export VENV PYTHON MXNET
RUN ?=
PY = $(VENV)/bin/python
BENCHMARKS = $(sort $(filter-out %/__init__.py,$(wildcard tests/benchmarks/*.py)))
DEMO_DATA = --dataset GLYPHS --image-size 32
DEMO_MODEL = demo/models/train_margin_GLYPHS_convnet-best
GLYPHS_RUNS = $(foreach kind,logs models,$(addprefix results/$(kind)/glyphs,/ -tuned/ -embedding-size-tuned/ -batch-size-tuned/))
GLYPHS_PIXELS = results/logs/glyphs/raw_pixels.jsonl
FAULTS = $(sort $(filter-out tests/faults/test_% tests/faults/zoo.py,$(wildcard tests/faults/*.py)))

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint faults reproduce benchmarks gpu-check clean distclean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

setup:  ## make .venv with everything pinned; does nothing when it is up to date
	@tools/setup.sh

demo: setup  ## train on the embedded data set for some minutes; prints recall and where the results are
	$(PY) train_margin.py --model convnet $(DEMO_DATA) --lr 1e-3 --epochs 12 --batches-per-epoch 20 --steps 8,10 --results-dir demo
	@$(PY) -m common.evaluation --model $(DEMO_MODEL).params --no-nmi --output demo/glyphs

test: setup  ## the whole test suite
	$(PY) -m pytest $(PYTEST_ARGS)

lint: setup  ## style check
	$(PY) -m ruff check .

faults: setup  ## kill, corrupt and starve runs, and see that they end well (minutes)
	@set -e; for f in $(FAULTS:.py=); do echo "== $$f"; $(PY) -m $$(echo $$f | tr / .); done

reproduce: setup  ## draw all figures, tables and the report from the logs; RUN=1 first makes those of GLYPHS anew (hours)
ifneq ($(RUN),)
	@# An interrupted call goes on: the runs of before are removed once.
	[ -e results/logs/.anew ] || rm -rf $(GLYPHS_RUNS)
	@mkdir -p results/logs && touch results/logs/.anew
	[ -e $(GLYPHS_PIXELS) ] || $(PY) -m common.pixels --dataset GLYPHS --image-size 32 --logfile $(GLYPHS_PIXELS)
	$(PY) -m results.reproduce glyphs --jobs 2
	$(PY) -m results.reproduce glyphs glyphs-embedding-size glyphs-batch-size --settings tuned --jobs 2
	@rm results/logs/.anew
endif
	$(PY) -m results.plots --paper
	$(PY) -m results.plots
	$(PY) -m results.report
	$(PY) -m results.report --update-readme

benchmarks: setup  ## measure speed, each against a plain way of doing the same (minutes)
	@set -e; for f in $(BENCHMARKS:.py=); do echo "== $$f"; \
	if [ $$f != tests/benchmarks/loader ]; then $(PY) -m $$(echo $$f | tr / .); \
	elif [ -n "$(IMAGES)" ]; then $(PY) -m tests.benchmarks.loader "$(IMAGES)"; \
	else echo "left out: name a folder of photographs with make benchmarks IMAGES=FOLDER"; fi; done

gpu-check: setup  ## compare the GPUs with the CPU and measure their speed; writes gpu-check.json (GPUS=0,1 for some)
	$(PY) -m common.selfcheck --gpus $(or $(GPUS),-1)

clean:  ## remove caches and the demo's output
	rm -rf demo .pytest_cache .ruff_cache .hypothesis tools/opencv-python/build tools/opencv-python/*.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## remove .venv too
	rm -rf $(VENV)
