# DML Playground. "make help" lists the targets; all of them first make .venv if need be (see tools/setup.sh).
#   make demo PYTHON=python3.9         choose the Python (3.8 to 3.14)
#   make demo MXNET=mxnet-cu101        choose the MXNet build
#   make test PYTEST_ARGS="-k margin"  pass arguments to pytest
#   make benchmarks IMAGES=FOLDER      a folder of photographs, which the loader's benchmark needs

VENV ?= .venv
PYTHON ?=
MXNET ?=
PYTEST_ARGS ?=
IMAGES ?=
export VENV PYTHON MXNET
RUN = $(VENV)/bin/python
BENCHMARKS = $(sort $(filter-out %/__init__.py,$(wildcard tests/benchmarks/*.py)))
DEMO_DATA = --dataset GLYPHS --image-size 32
DEMO_MODEL = demo/models/train_margin_GLYPHS_convnet-best
FAULTS = $(sort $(filter-out tests/faults/test_% tests/faults/zoo.py,$(wildcard tests/faults/*.py)))

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint faults reproduce benchmarks gpu-check clean distclean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

setup:  ## make .venv with everything pinned; does nothing when it is up to date
	@tools/setup.sh

demo: setup  ## train on the embedded data set for some minutes; prints recall and where the results are
	$(RUN) train_margin.py --model convnet $(DEMO_DATA) --lr 1e-3 --epochs 12 --batches-per-epoch 50 --steps 8,10 --results-dir demo
	@$(RUN) -m common.evaluation --model $(DEMO_MODEL).params --no-nmi --output demo/glyphs

test: setup  ## the whole test suite
	$(RUN) -m pytest $(PYTEST_ARGS)

lint: setup  ## style check
	$(RUN) -m ruff check .

faults: setup  ## kill, corrupt and starve runs, and see that they end well (minutes)
	@set -e; for f in $(FAULTS:.py=); do echo "== $$f"; $(RUN) -m $$(echo $$f | tr / .); done

reproduce: setup  ## all twelve algorithms on the embedded data set, three seeds; figures and report (an hour)
	$(RUN) -m common.pixels --dataset GLYPHS --image-size 32 --logfile results/logs/glyphs/raw_pixels.jsonl
	$(RUN) -m results.reproduce glyphs --jobs 2
	$(RUN) -m results.reproduce glyphs-pretrained --jobs 2
	$(RUN) -m results.plots results/logs/glyphs
	$(RUN) -m results.report results/logs/glyphs

benchmarks: setup  ## measure speed, each against a plain way of doing the same (minutes)
	@set -e; for f in $(BENCHMARKS:.py=); do echo "== $$f"; \
	if [ $$f != tests/benchmarks/loader ]; then $(RUN) -m $$(echo $$f | tr / .); \
	elif [ -n "$(IMAGES)" ]; then $(RUN) -m tests.benchmarks.loader "$(IMAGES)"; \
	else echo "left out: name a folder of photographs with make benchmarks IMAGES=FOLDER"; fi; done

gpu-check: setup  ## compare the GPUs with the CPU and measure their speed; writes gpu-check.json (GPUS=0,1 for some)
	$(RUN) -m common.selfcheck --gpus $(or $(GPUS),-1)

clean:  ## remove caches and the demo's output
	rm -rf demo .pytest_cache .ruff_cache .hypothesis tools/opencv-python/build tools/opencv-python/*.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean  ## remove .venv too
	rm -rf $(VENV)
