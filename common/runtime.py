"""Prepares the process for MXNet 1.9, once, before anything imports it.

MXNet takes half of the cores unless ``OMP_NUM_THREADS`` says otherwise, which nearly halves the speed of training on a
CPU. NumPy's matrix product has threads of its own, which wait for more work by spinning, on the cores that MXNet needs
meanwhile: by chance the triplet's step took from 2.5 to 4.7 ms in `tests.benchmarks.losses`, with one thread 2.7 to 2.8
(evaluation starts its own threads, see `common.evaluation.tiles`). And MXNet warns about its own age at every import. All is
settled here and nowhere else: ``import common`` first.
"""
from __future__ import annotations

import os
import sys
import warnings

_LIBRARIES = {'libgomp': 'libgomp1', 'libquadmath': 'libquadmath0', 'libgfortran': 'libgfortran5'}


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else (os.cpu_count() or 1)


def prepare() -> None:
    """Sets the thread counts (unless the user did) and imports MXNet without its import warnings.

    Ends the process with one line where the interpreter, NumPy or a system library cannot carry MXNet.
    """
    if 'mxnet' in sys.modules:
        return
    os.environ.setdefault('OMP_NUM_THREADS', str(available_cores()))
    os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')      # NumPy's; MXNet's own follows OMP_NUM_THREADS
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            import mxnet  # noqa: F401
    except OSError as error:
        package = next((p for lib, p in _LIBRARIES.items() if lib in str(error)), None)
        hint = f' (on Debian: apt-get install {package})' if package else ''
        raise SystemExit(f'MXNet cannot be loaded: {error}{hint}') from None
    except ModuleNotFoundError as error:
        raise SystemExit(f'{error}: install the packages with `make setup`') from None
    except AttributeError as error:
        raise SystemExit(f'MXNet 1.9.1 needs NumPy below 1.24, as pinned in requirements ({error})') from None
