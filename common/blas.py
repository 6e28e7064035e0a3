"""Work on blocks with NumPy, in as many threads as there are cores.

NumPy's matrix product uses all cores by itself, but what follows it here (comparisons, sums, minima) uses one. So each
thread takes a block through all its steps, with a matrix product of one thread.
"""
from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterable, Iterator

from threadpoolctl import threadpool_limits

from common.runtime import available_cores


def thread_count() -> int:
    """``OMP_NUM_THREADS`` where it is a number (`common` sets it to the number of cores), but not more than 16."""
    value = os.environ.get('OMP_NUM_THREADS', '')
    return min(16, int(value) if value.isdigit() and int(value) > 0 else available_cores())


def map_blocks(function: Callable, blocks: Iterable) -> Iterator:
    """``map(function, blocks)`` in threads, results in order, with one BLAS thread each.

    The number of BLAS threads is the process's: other threads of the process have one too while this runs.
    """
    threads = thread_count()
    with threadpool_limits(1, user_api='blas'):
        if threads == 1:
            yield from map(function, blocks)
            return
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(function, blocks)
