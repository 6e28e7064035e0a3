"""The CUDA build of MXNet with CUDA from pip, without a GPU: the C compiler builds a stand-in for the driver.

Not in CI: 2.0 GB are downloaded, and take 4 GB on the disk. To run it:

    make setup VENV=.venv-cuda MXNET=mxnet-cu117 || true     # without a driver the last step says that there is none
    CUDA_PYTHON=.venv-cuda/bin/python make test PYTEST_ARGS=tests/common/test_cuda.py
"""
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import flags, make_tree

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON = os.environ.get('CUDA_PYTHON', '')

pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    not PYTHON or not shutil.which('cc'), reason='CUDA_PYTHON names no Python with requirements-cuda.txt, or no cc')]

#: Version and cards come from the environment; the functions that nobody calls without a GPU fail.
STUB = r"""
#include <stdlib.h>
#include <stdio.h>
static int number(const char *name) { char *text = getenv(name); return text ? atoi(text) : 0; }
int cuInit(unsigned flags) { return number("STUB_MAJOR") ? 0 : 100; }
int cuDriverGetVersion(int *version) { *version = number("STUB_VERSION"); return 0; }
int cuDeviceGetCount(int *count) { *count = number("STUB_MAJOR") ? 1 : 0; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int length, int device) { snprintf(name, length, "Stub 1"); return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    *value = number(which == 75 ? "STUB_MAJOR" : which == 76 ? "STUB_MINOR" : "");
    return 0;
}
int cuGetErrorString(int error, const char **text) { *text = "no GPU"; return 0; }
#define FAILS(name) int name(void) { return 100; }
FAILS(cuDevicePrimaryCtxRetain) FAILS(cuGraphKernelNodeGetParams) FAILS(cuGraphNodeGetType) FAILS(cuLaunchKernel)
FAILS(cuModuleGetFunction) FAILS(cuModuleLoadData) FAILS(cuModuleLoadDataEx) FAILS(cuModuleUnload)
"""


@pytest.fixture(scope='module')
def driver(tmp_path_factory):
    """The folder of the stand-in."""
    folder = tmp_path_factory.mktemp('driver')
    (folder / 'cuda.c').write_text(STUB)
    subprocess.run(['cc', '-shared', '-fPIC', '-Wl,-soname,libcuda.so.1', '-o', folder / 'libcuda.so.1',
                    folder / 'cuda.c'], check=True)
    return folder


def run(words, folder=None, **variables):
    environment = {k: v for k, v in os.environ.items() if k != 'LD_LIBRARY_PATH'}
    environment.update(variables, **({'LD_LIBRARY_PATH': str(folder)} if folder else {}))
    return subprocess.run([PYTHON, *words], env=environment, capture_output=True, text=True, cwd=ROOT)


def test_mxnet_starts_with_cuda_from_pip(driver):
    code = 'import common, mxnet; f = mxnet.runtime.Features(); ' \
           'print(*[f.is_enabled(n) for n in ("CUDA", "CUDNN", "NCCL")], mxnet.context.num_gpus()); ' \
           'print(open("/proc/self/maps").read())'
    done = run(['-c', code], driver, STUB_VERSION='11070')
    first, maps = done.stdout.split('\n', 1)
    assert first == 'True True True 0', done.stderr
    for name in ('libcudart', 'libcublasLt', 'libcudnn.so.8', 'libnccl.so.2', 'libnvrtc'):
        assert any(name in line and '/site-packages/nvidia/' in line for line in maps.splitlines()), name


def test_training_on_the_cpu_gives_the_metrics_of_the_cpu_build(driver, tmp_path):
    tree, found = make_tree(str(tmp_path / 'tree')), {}
    for name, python in (('cuda', PYTHON), ('cpu', sys.executable)):
        words = ['train_margin.py', '--batch-k', '2', *flags(tree, tmp_path / name)]
        environment = {**os.environ, 'STUB_VERSION': '11070', 'LD_LIBRARY_PATH': str(driver)}
        done = subprocess.run([python, *words], env=environment, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 0, done.stderr
        log, = (tmp_path / name / 'logs').iterdir()
        events = map(json.loads, log.read_text().splitlines())
        found[name] = [{k: v for k, v in e.items() if '@' in k or k in ('epoch', 'loss')} for e in events
                       if e['event'] == 'epoch']
    assert found['cuda'] == found['cpu'] and len(found['cpu']) > 1


@pytest.mark.parametrize('variables, said', [
    (None, 'no NVIDIA driver: libcuda.so.1'),
    ({'STUB_VERSION': '10020', 'STUB_MAJOR': '7'}, 'needs driver 450.80.02'),
    ({'STUB_VERSION': '12080', 'STUB_MAJOR': '9'}, 'GPU 0 (Stub 1) has compute capability 9.0'),
    ({'STUB_VERSION': '12080', 'STUB_MAJOR': '12'}, 'GPU 0 (Stub 1) has compute capability 12.0')])
def test_what_cannot_work_is_one_line_that_says_how_to_go_on(driver, tmp_path, variables, said):
    tree = make_tree(str(tmp_path / 'tree'))
    words = ['train_margin.py', '--batch-k', '2', *flags(tree, tmp_path / 'r', '--gpus', '-1')]
    done = run(words, driver if variables else None, **(variables or {}))
    assert done.returncode and done.stderr.count('\n') == 1 and said in done.stderr, done.stderr
    assert ('--gpus -2' if variables else 'make setup MXNET=mxnet') in done.stderr
