"""Prepares MXNet 1.9, once a process, just before it is imported.

MXNet 1.9.1 is from 2022. It takes half of the cores, warns about its own age, and uses names that NumPy and Python have
dropped since. ``import common`` puts a finder in front of Python's own (:func:`watch`). Any import of MXNet after that
gives it:

- **Threads.** MXNet gets all cores unless ``OMP_NUM_THREADS`` says otherwise: training is nearly twice as fast. NumPy's
  matrix product has threads of its own. While these wait for more work they keep the cores busy that MXNet needs: the
  step of the triplet loss took 2.5 to 4.7 ms in `tests.benchmarks.losses`, and with one thread 2.7 to 2.8. So NumPy
  gets one, unless ``OPENBLAS_NUM_THREADS`` is set. Evaluation starts its own threads (`common.evaluation.tiles`).
- **Names.** What NumPy 1.24 to 2 and Python 3.12 no longer have is put back. What is there stays as it is.
- **CUDA.** The libraries that pip installed (``requirements-cuda.txt``) are loaded; CUDA on the machine is not needed.
- **Shapes** may hold integers of NumPy 2, which writes them in a way that MXNet cannot read.
- **Failures** end the process with one line.
"""
from __future__ import annotations

import contextlib
import ctypes
import functools
import glob
import importlib.machinery
import os
import re
import sys
import types
import warnings
from typing import Any, Callable, Dict, List, Optional, Tuple

_LIBRARIES = {'libgomp': 'libgomp1', 'libquadmath': 'libquadmath0', 'libgfortran': 'libgfortran5'}
#: In this order: each finds those that it needs already loaded.
_CUDA_LIBRARIES = ('libcudart.so.11.0', 'libnvrtc.so.11.2', 'libnvToolsExt.so.1', 'libcublasLt.so.11',
                   'libcublas.so.11', 'libcufft.so.10', 'libcurand.so.10', 'libcusparse.so.11', 'libcusolver.so.11',
                   'libcudnn.so.8', 'libnccl.so.2')
#: Compute capabilities that the builds of MXNet have code for. Code for 8.0 runs on 8.6 and 8.9, but not on 9.0.
_KERNELS = {'cu101': ((3, 0), (5, 0), (6, 0), (7, 0), (7, 5)),
            'cu112': ((5, 0), (6, 0), (7, 0), (8, 0), (8, 6)),
            'cu117': ((5, 0), (6, 0), (7, 0), (8, 0), (8, 6))}
#: The oldest driver of each: its number, and the CUDA version that it reports (CUDA 11 runs with any 11).
_OLDEST_DRIVER = {'cu101': ('418.39', 10010), 'cu112': ('450.80.02', 11000), 'cu117': ('450.80.02', 11000)}
_DRIVER_VERSION_FILE = '/proc/driver/nvidia/version'
_CPU_BUILD = 'without a GPU: make setup MXNET=mxnet'


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else (os.cpu_count() or 1)


def prepare() -> None:
    """Imports MXNet with all that it needs; does nothing the second time.

    Ends the process with one line if MXNet is not installed, or does not work with this Python, NumPy or system.
    """
    watch()
    import mxnet  # noqa: F401


def watch() -> None:
    """From now on MXNet is prepared when it is imported for the first time."""
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')      # NumPy's; MXNet's own follows OMP_NUM_THREADS
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Finds MXNet where Python finds it, and has it run by :func:`_run`."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Optional[importlib.machinery.ModuleSpec]:
        if name != 'mxnet':
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is None or spec.loader is None:
            raise SystemExit('MXNet is not installed: make setup')
        spec.loader.exec_module = functools.partial(_run, spec.loader.exec_module)
        return spec


def _run(execute: Callable[[types.ModuleType], None], module: types.ModuleType) -> None:
    os.environ.setdefault('OMP_NUM_THREADS', str(available_cores()))
    _add_dropped_names()
    _load_cuda(os.path.dirname(os.path.dirname(module.__file__)))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            execute(module)
    except OSError as error:
        package = next((p for lib, p in _LIBRARIES.items() if lib in str(error)), None)
        hint = f' (on Debian: apt-get install {package})' if package else ''
        raise SystemExit(f'MXNet cannot be loaded: {error}{hint}') from None
    except ModuleNotFoundError as error:
        raise SystemExit(f'{error}: install the packages with `make setup`') from None
    except AttributeError as error:
        raise SystemExit(f'MXNet 1.9.1 does not start with this NumPy ({error}): install the pinned one with '
                         '`make setup`') from None


def _add_dropped_names() -> None:
    import numpy as np

    def add(name: str, value: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')     # NumPy 1.20 to 1.23 warn when they are asked for some
            if not hasattr(np, name):
                setattr(np, name, value)

    def alias(function: Callable) -> Callable:
        # A function of its own for each name: MXNet keys a dictionary by function.
        return functools.wraps(function)(lambda *args, **kwargs: function(*args, **kwargs))

    for kind in (bool, int, float):
        add(kind.__name__, kind)
    for name, value in (('Inf', np.inf), ('PINF', np.inf), ('NINF', -np.inf), ('NaN', np.nan), ('NAN', np.nan),
                        ('PZERO', 0.0), ('NZERO', -0.0)):
        add(name, value)
    for old, new in (('alltrue', 'all'), ('sometrue', 'any'), ('product', 'prod'), ('round_', 'round'),
                     ('in1d', 'isin'), ('trapz', 'trapezoid')):
        if hasattr(np, new):
            add(old, alias(getattr(np, new)))
    for name in ('mirr', 'msort', 'npv', 'pmt', 'ppmt', 'pv', 'rate'):      # MXNet copies them and calls none
        add(name, _never_called(name))
    add('compat', types.SimpleNamespace(basestring=(str, bytes)))
    if repr(np.int64(2)) != '2':
        # MXNet hands shapes over as text, in which NumPy 2 writes (np.int64(2),) where it must be (2,).
        np.set_printoptions(legacy='1.25')

    try:
        import distutils.version  # noqa: F401  gone from Python 3.12
    except ImportError:
        from packaging.version import Version
        package, module = types.ModuleType('distutils'), types.ModuleType('distutils.version')
        package.__path__ = []
        package.version = module
        module.LooseVersion = module.StrictVersion = Version
        sys.modules.setdefault('distutils', package)
        sys.modules['distutils.version'] = module


def _never_called(name: str) -> Callable:
    def function(*args, **kwargs):
        raise NotImplementedError(f'numpy.{name} is gone')
    return function


def cuda_build(site: Optional[str] = None) -> Optional[str]:
    """The CUDA version that the build of MXNet in the folder `site` was made for, as ``cu117``; None for the CPU build.

    The default is the imported MXNet.
    """
    site = site or os.path.dirname(os.path.dirname(sys.modules['mxnet'].__file__))
    for path in glob.glob(os.path.join(glob.escape(site), 'mxnet_cu*.dist-info')):
        return re.match(r'mxnet_(cu\d+)', os.path.basename(path)).group(1)
    return None


def _load_cuda(site: str) -> None:
    """Loads the CUDA libraries that pip installed, if this MXNet needs them; ends the process without a driver."""
    build = cuda_build(site)
    if build is None:
        return
    try:
        ctypes.CDLL('libcuda.so.1')
    except OSError as error:
        raise SystemExit(f'MXNet for CUDA (mxnet-{build}) is installed, but there is no NVIDIA driver: {error}. It '
                         f'needs one from {_OLDEST_DRIVER.get(build, ("450.80.02",))[0]}; {_CPU_BUILD}') from None
    folders = glob.glob(os.path.join(glob.escape(site), 'nvidia', '*', 'lib'))
    names = _CUDA_LIBRARIES if build.startswith('cu11') else ()
    for path in filter(os.path.exists, (os.path.join(folder, name) for name in names for folder in folders)):
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise SystemExit(f'{path} cannot be loaded: {error}; make setup installs it again after make distclean; '
                             f'{_CPU_BUILD}') from None


def _driver() -> Optional[ctypes.CDLL]:
    try:
        return ctypes.CDLL('libcuda.so.1')
    except OSError:
        return None


def default_build() -> str:
    """The package of MXNet for this machine; says on stderr if there is a GPU that it cannot use.

    `tools/setup.sh` asks, before anything is installed.
    """
    if not graphics_cards():
        return 'mxnet'
    problem = gpu_problem(build='cu117')
    if problem:
        sys.stderr.write(f'{problem}. The CPU build is installed.\n')
    return 'mxnet' if problem else 'mxnet-cu117'


def gpu_problem(numbers: Optional[List[int]] = None, build: Optional[str] = None) -> Optional[str]:
    """Why MXNet cannot use the GPUs `numbers` (default: all), in one sentence; None if it can, or if nothing is known.

    `build` is ``cu117``, ... (default: the one that is installed).
    """
    build, driver = build or cuda_build(), _driver()
    if build not in _KERNELS or driver is None:
        return None
    oldest, oldest_cuda = _OLDEST_DRIVER[build]
    number, cuda = driver_number(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(cuda))
    if cuda.value < oldest_cuda or (number and _parts(number) < _parts(oldest)):
        found = f'NVIDIA driver {number}' if number else 'an NVIDIA driver'
        return (f'{found} for CUDA {cuda.value // 1000}.{cuda.value % 1000 // 10} was found, and mxnet-{build} needs '
                f'driver {oldest} or later: update it, or train on the CPU with --gpus -2')
    for index, (name, (major, minor)) in graphics_cards().items():
        if numbers is not None and index not in numbers:
            continue
        if not any(major == kernel[0] and minor >= kernel[1] for kernel in _KERNELS[build]):
            known = ', '.join('%d.%d' % kernel for kernel in _KERNELS[build])
            return (f'GPU {index} ({name}) has compute capability {major}.{minor}, and mxnet-{build} has code for '
                    f'{known} (and later ones with the same first number) only: choose another with --gpus, or train '
                    'on the CPU with --gpus -2')
    return None


def driver_number() -> Optional[str]:
    """``450.80.02``, or None where the file of the kernel module is not there (as in WSL)."""
    with contextlib.suppress(OSError), open(_DRIVER_VERSION_FILE, encoding='utf-8', errors='replace') as file:
        found = re.search(r'\b\d{3,}\.\d+(\.\d+)?\b', file.readline())
        return found.group() if found else None
    return None


def graphics_cards() -> Dict[int, Tuple[str, Tuple[int, int]]]:
    """Number -> name and compute capability of each GPU that the driver shows; empty without a driver."""
    driver, count, cards = _driver(), ctypes.c_int(), {}
    if driver is None or driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return cards
    for index in range(count.value):
        device, major, minor, name = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(100)
        driver.cuDeviceGet(ctypes.byref(device), index)
        driver.cuDeviceGetName(name, len(name), device)
        driver.cuDeviceGetAttribute(ctypes.byref(major), 75, device)
        driver.cuDeviceGetAttribute(ctypes.byref(minor), 76, device)
        cards[index] = name.value.decode(errors='replace'), (major.value, minor.value)
    return cards


def _parts(number: str) -> Tuple[int, ...]:
    return tuple(map(int, number.split('.')))
