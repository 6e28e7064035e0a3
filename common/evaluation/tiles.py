"""The two ways of computing a tile of scores: NumPy in threads for a CPU, MXNet's operators for a GPU.

A score is |y|^2 - 2 x.y, a squared distance less |x|^2. Tiles are (gallery rows, queries).

NumPy's matrix product uses all cores by itself, but what follows it here (comparisons, sums, minima) uses one. So each
thread takes a block of queries through all steps, with a matrix product of one thread.
"""
from __future__ import annotations

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

import mxnet as mx
import numpy as np
from threadpoolctl import ThreadpoolController

from common.runtime import available_cores


def thread_count() -> int:
    """``OMP_NUM_THREADS`` where it is a number (`common` sets it to the number of cores), but not more than 16."""
    value = os.environ.get('OMP_NUM_THREADS', '')
    return min(16, int(value) if value.isdigit() and int(value) > 0 else available_cores())


@functools.lru_cache(maxsize=None)
def controller() -> ThreadpoolController:
    """The process's BLAS libraries; kept, because finding them takes 40 ms."""
    return ThreadpoolController().select(user_api='blas')


def map_blocks(function: Callable, blocks: Iterable) -> Iterator:
    """``map(function, blocks)`` in threads, results in order, with one BLAS thread each.

    The number of BLAS threads is the process's: other threads of the process have one too while this runs.
    """
    threads = thread_count()
    with controller().limit(limits=1):
        if threads == 1:
            yield from map(function, blocks)
        else:
            with ThreadPoolExecutor(threads) as pool:
                yield from pool.map(function, blocks)       # on an error or Ctrl-C it cancels what has not begun


def augment(x: np.ndarray, factor: float, last) -> np.ndarray:
    """Rows (factor * x, last), float32: the product of rows (-2x, 1) and (y, |y|^2) is the score."""
    out = np.empty((len(x), x.shape[1] + 1), np.float32)
    np.multiply(x, factor, out=out[:, :-1])
    out[:, -1] = last
    return out


class HostTiles:
    """Tiles of a gallery by NumPy.

    Parameters
    ----------
    gallery : (M, E + 1) float32, rows (y, |y|^2).
    """
    map = staticmethod(map_blocks)

    def __init__(self, gallery: np.ndarray):
        self.gallery = gallery
        self.local = threading.local()

    def _buffers(self, shape: Tuple[int, int]) -> List[np.ndarray]:
        """Uninitialised arrays of float32, bool and bool, kept by the thread: fresh memory costs page faults."""
        size = shape[0] * shape[1]
        if getattr(self.local, 'size', 0) < size:
            self.local.size = size
            self.local.arrays = np.empty(size, np.float32), np.empty(size, np.bool_), np.empty(size, np.bool_)
        return [array[:size].reshape(shape) for array in self.local.arrays]

    def queries(self, x: np.ndarray) -> np.ndarray:
        """Prepares a block of queries, (B, E) float32."""
        return augment(x, -2, 1)

    def scores(self, first: int, last: int, queries: np.ndarray, own: Sequence[np.ndarray]) -> np.ndarray:
        """Scores of the gallery rows first..last; those at the places `own` (rows, columns) become infinite."""
        scores = self._buffers((last - first, len(queries)))[0]
        np.dot(self.gallery[first:last], queries.T, out=scores)
        if len(own[0]):
            scores[own[0], own[1]] = np.inf
        return scores

    def group_minima(self, scores: np.ndarray, group: int) -> np.ndarray:
        """Minima of groups of `group` rows, (groups, queries); rows left over are left out."""
        groups = len(scores) // group
        return np.minimum.reduce(scores[:groups * group].reshape(groups, group, -1), axis=1)

    def split(self, scores: np.ndarray, low: np.ndarray, high: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """How many scores of every column are below low, and the flat places of those in low..high."""
        _, below, found = self._buffers(scores.shape)
        np.less_equal(scores, high, out=found)
        if np.count_nonzero(found) < found.size // 32:          # few: looked at one by one
            places = np.flatnonzero(found.reshape(-1))
            columns = places % scores.shape[1]
            nearer = scores.reshape(-1)[places] < low[columns]
            return np.bincount(columns[nearer], minlength=scores.shape[1]), places[~nearer]
        np.less(scores, low, out=below)
        below, found = below.view(np.uint8), found.view(np.uint8)
        np.bitwise_xor(found, below, out=found)
        count = np.zeros(scores.shape[1], np.int64)
        for start in range(0, len(scores), 255):                # sums of at most 255 fit into a byte
            count += np.add.reduce(below[start:start + 255], axis=0, dtype=np.uint8)
        return count, np.flatnonzero(found.view(np.bool_).reshape(-1))


class DeviceTiles:
    """The same by MXNet's operators: the gallery lives on the device, and only what is found comes back."""
    map = staticmethod(map)

    def __init__(self, gallery: np.ndarray, ctx: mx.Context):
        self.ctx = ctx
        self.gallery = mx.nd.array(gallery, ctx=ctx, dtype='float32')

    def queries(self, x: np.ndarray) -> mx.nd.NDArray:
        """Prepares a block of queries, (B, E) float32."""
        return mx.nd.array(augment(x, -2, 1), ctx=self.ctx)

    def scores(self, first: int, last: int, queries: mx.nd.NDArray, own: Sequence[np.ndarray]) -> mx.nd.NDArray:
        """As in `HostTiles`."""
        scores = mx.nd.dot(self.gallery[first:last], queries, transpose_b=True)
        if len(own[0]):
            rows, columns = (mx.nd.array(places, ctx=self.ctx, dtype='int32') for places in own)
            scores[rows, columns] = np.inf
        return scores

    def group_minima(self, scores: mx.nd.NDArray, group: int) -> np.ndarray:
        """As in `HostTiles`."""
        groups = scores.shape[0] // group
        return scores[:groups * group].reshape((groups, group, -1)).min(axis=1).asnumpy()

    def split(self, scores: mx.nd.NDArray, low: np.ndarray, high: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """As in `HostTiles`."""
        low, high = (mx.nd.array(bound.reshape(1, -1), ctx=self.ctx) for bound in (low, high))
        below = mx.nd.broadcast_lesser(scores, low)
        found = (mx.nd.broadcast_lesser_equal(scores, high) - below).reshape(-1)
        count = below.sum(axis=0).asnumpy().astype(np.int64)
        total = int(found.sum().asscalar())     # exact where it matters: it is 0 only if nothing was found
        if not total:                           # boolean_mask refuses to find nothing
            return count, np.empty(0, np.int64)
        places = mx.nd.arange(found.size, ctx=self.ctx, dtype='int32')
        return count, mx.nd.contrib.boolean_mask(places, found).asnumpy().astype(np.int64)


def on_host(ctx: Optional[mx.Context]) -> bool:
    """Whether NumPy computes for `ctx`: None or a CPU, where it is faster than MXNet's operators."""
    return ctx is None or ctx.device_type.startswith('cpu')


def tiles_for(gallery: np.ndarray, ctx: Optional[mx.Context]) -> Union[HostTiles, DeviceTiles]:
    """What computes the tiles of a gallery on `ctx`."""
    return HostTiles(gallery) if on_host(ctx) else DeviceTiles(gallery, ctx)
