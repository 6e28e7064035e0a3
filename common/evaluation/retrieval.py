"""Exact retrieval metrics at any scale: recall@k, MAP@R and R-precision.

What is computed, for a query *i* with R_i images of its class in the gallery (itself excepted):

- ``recall@k``: 1 where one of the k nearest gallery images is of the query's class (H. Oh Song et al., "Deep Metric
  Learning via Lifted Structured Feature Embedding", arXiv:1511.06452).
- ``R-precision``: r / R_i, where r is the number of images of its class among the R_i nearest.
- ``MAP@R``: 1/R_i * sum_{j=1..R_i} P(j), where P(j) is the precision at j if the j-th nearest image is of the query's
  class and 0 otherwise (K. Musgrave, S. Belongie, S. Lim, "A Metric Learning Reality Check", arXiv:2003.08505, 4.1).

Conventions, the same for all metrics:

- Distances are Euclidean, between the values as given. Images at exactly the same distance (duplicates, for example)
  come in the order of their index in the gallery: a stable sort by distance.
- A query does not retrieve itself, by index; a duplicate of it under another index is retrieved as any other image.
- A query without another image of its class (R_i = 0) counts as a miss: 0 in all three, as in the published code for
  recall. (pytorch-metric-learning leaves such queries out.) `Ranking.positives` tells which they are.

How it is computed. recall@k needs the rank of the nearest positive only, and that is the number of gallery images that
are nearer: no sort, no top-k selection. MAP@R needs the R_i nearest images, and only where the nearest positive is
among them. One matrix product in float32 gives the distances, tile by tile, in the form |y|^2 - 2 x.y of the centred
embeddings; a bound on its rounding error tells the comparisons that are certain from those that are not, and the few
that are not are decided in float64 from differences. The result is that of a brute-force search in float64; the memory
is that of one centred copy of the gallery plus the tiles.
"""
from __future__ import annotations

import collections
from typing import Any, Callable, Dict, NamedTuple, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np

from common.errors import UserError
from common.evaluation.tiles import tiles_for

MISS = np.iinfo(np.int64).max           # rank of a query whose nearest positive was not found
QUERIES = 512                           # queries in a block
TILE = 1020                             # gallery rows in a tile: 1020 x 512 float32 = 2 MB, cached
FIRST_TILE = 8160                       # gallery rows from which the distance of the R-th nearest is estimated
PAIRS = 1 << 18                         # pairs (query, gallery image) that may wait for their exact distance
UNIT = 2.0 ** -24                       # unit round-off of float32


class EvaluationError(UserError):
    """Embeddings or labels that cannot be scored; the message is one sentence."""


def check_embeddings(x, what: str = 'embeddings') -> np.ndarray:
    """`x` as a finite (N, E) array of float32 or float64, N >= 1.

    Raises
    ------
    EvaluationError : another shape or type, no rows, NaN or infinite values.
    """
    x = np.asarray(x)
    if x.ndim != 2 or x.dtype.kind not in 'fiu' or x.shape[1] == 0:
        raise EvaluationError(f'the {what} must be an array of numbers with shape (images, dimensions), '
                              f'but have shape {x.shape} and type {x.dtype}')
    if len(x) == 0:
        raise EvaluationError('the gallery is empty' if what.startswith('gallery') else f'there are no {what} to score')
    x = x.astype(np.float32 if x.dtype in (np.float16, np.float32) else np.float64, copy=False)
    blocks = (x[start:start + 65536] for start in range(0, len(x), 65536))      # isfinite() makes an array of its own
    bad = np.flatnonzero(np.concatenate([~np.isfinite(block).all(axis=1) for block in blocks]))
    if len(bad):
        raise EvaluationError(f'the {what} have NaN or infinite values in {len(bad)} of {len(x)} rows '
                              f'(the first is row {bad[0]})')
    return x


def check_labels(labels, count: int, what: str = 'embeddings') -> np.ndarray:
    """`labels` as an int64 (count,) array.

    Raises
    ------
    EvaluationError : another length or shape, or labels that are not whole numbers.
    """
    labels = np.asarray(labels)
    if labels.shape != (count,):
        raise EvaluationError(f'there are {count} {what}, but their labels have shape {labels.shape}')
    with np.errstate(invalid='ignore'):
        whole = labels.astype(np.int64) if labels.dtype.kind in 'fiub' else None
    if whole is None or not (whole == labels).all():
        raise EvaluationError(f'the labels of the {what} must be whole numbers, but have type {labels.dtype}')
    return whole


def check_inputs(query, query_labels, gallery=None, gallery_labels=None):
    """The four arrays, checked; `gallery` None means that the queries are the gallery."""
    query = check_embeddings(query)
    query_labels = check_labels(query_labels, len(query))
    if gallery is None:
        if gallery_labels is not None:
            raise EvaluationError('there are gallery labels, but no gallery embeddings')
        if len(query) < 2:
            raise EvaluationError('there is one image only: nothing to retrieve')
        return query, query_labels, query, query_labels
    gallery = check_embeddings(gallery, 'gallery embeddings')
    if gallery_labels is None:
        raise EvaluationError('there are gallery embeddings, but no gallery labels')
    gallery_labels = check_labels(gallery_labels, len(gallery), 'gallery embeddings')
    if gallery.shape[1] != query.shape[1]:
        raise EvaluationError(f'the embeddings have {query.shape[1]} dimensions, but those of the gallery '
                              f'{gallery.shape[1]}')
    return query, query_labels, gallery, gallery_labels


def check_ks(ks: Sequence[int]) -> Tuple[int, ...]:
    """The k of recall@k: ascending, without repeats.

    Raises
    ------
    EvaluationError : none, or one that is not a positive whole number.
    """
    if not len(ks) or any(int(k) != k or k < 1 for k in ks):
        raise EvaluationError(f'the k of recall@k must be positive whole numbers, but are {list(ks)}')
    return tuple(sorted({int(k) for k in ks}))


class Ranking(NamedTuple):
    """What the metrics are made of, one value a query."""
    first: np.ndarray                           # rank (from 1) of the nearest positive; MISS beyond the depth asked for
    positives: np.ndarray                       # R_i
    average_precision: Optional[np.ndarray]     # MAP@R's summand, 0..1
    r_precision: Optional[np.ndarray]           # 0..1


class Centred(NamedTuple):
    """The float32 side of the computation: embeddings moved to the gallery's mean and scaled to unit size."""
    mean: np.ndarray                    # (E,) float64
    scale: float                        # a power of two, so that scaling is exact

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(n, E) float32"""
        return ((x - self.mean) * self.scale).astype(np.float32)


def fit_centre(gallery: np.ndarray, *others: np.ndarray) -> Centred:
    """The gallery's mean, and the power of two that brings the largest deviation from it to between 1/2 and 1."""
    def blocks(x):
        return (x[start:start + 4096] for start in range(0, len(x), 4096))

    mean = sum((block / len(gallery)).sum(axis=0, dtype=np.float64) for block in blocks(gallery))
    largest = max(float(np.abs(block - mean).max()) for x in (gallery,) + others for block in blocks(x))
    return Centred(mean, 2.0 ** -np.frexp(largest)[1] if largest > 0 else 1.0)


def square_norms(x: np.ndarray) -> np.ndarray:
    """Squared lengths of the rows, (n,) float64."""
    out = np.empty(len(x))
    for start in range(0, len(x), 4096):        # blocks, because the squares are an array of their own
        out[start:start + 4096] = np.square(x[start:start + 4096], dtype=np.float64).sum(axis=1)
    return out


def row_hashes(x: np.ndarray) -> np.ndarray:
    """(n,) uint64, equal for rows of the same bits."""
    words = x.shape[1] * x.dtype.itemsize // 4
    factors = np.random.RandomState(0).randint(1 << 62, size=words).astype(np.uint64) * 2 + 1
    hashes = np.empty(len(x), np.uint64)
    for start in range(0, len(x), 4096):
        bits = np.ascontiguousarray(x[start:start + 4096]).view(np.uint32)
        hashes[start:start + 4096] = (bits * factors).sum(axis=1, dtype=np.uint64)
    return hashes


def without_spare_duplicates(x: np.ndarray, depth: int) -> np.ndarray:
    """The rows that can be among the `depth` nearest to anything: of equal rows, the first depth + 1.

    It is one more than depth because one of them may be the query itself. A network that collapses makes all embeddings
    equal. Without this function every comparison would then be a tie, which takes long to decide.

    Parameters
    ----------
    x : (M, E) float32 or float64.
    depth : at least 1.

    Returns
    -------
    Ascending row numbers, int64.
    """
    hashes = row_hashes(x)
    order = np.argsort(hashes, kind='stable')
    heads = np.flatnonzero(np.r_[True, np.diff(hashes[order]) != 0])
    keep = np.ones(len(x), np.bool_)
    sizes = np.diff(np.r_[heads, len(x)])
    for group in np.flatnonzero(sizes > depth + 1):
        rows = order[heads[group]:heads[group] + sizes[group]]
        equal = rows[(x[rows] == x[rows[0]]).all(axis=1)]
        keep[equal[depth + 1:]] = False
    return np.flatnonzero(keep)


class Positives:
    """The gallery's rows, grouped by class."""

    def __init__(self, gallery_labels: np.ndarray):
        self.order = np.argsort(gallery_labels, kind='stable')
        self.classes, self.starts, self.counts = np.unique(gallery_labels[self.order], return_index=True,
                                                           return_counts=True)

    def of(self, labels: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """First place in `order` and number of the gallery rows of every label (0 where the gallery has none)."""
        place = np.minimum(np.searchsorted(self.classes, labels), len(self.classes) - 1)
        return self.starts[place], np.where(self.classes[place] == labels, self.counts[place], 0)

    def pairs(self, starts: np.ndarray, counts: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """All (row in the block, gallery row) pairs of one class, by row and then by gallery row."""
        rows = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rows, self.order[starts[rows] + within]


class Search:
    """One exact search; `block` ranks a block of queries and may be called from several threads.

    Parameters
    ----------
    query, query_labels, gallery, gallery_labels : checked arrays.
    own : (N,) int64, the gallery row that is the query itself and not to be retrieved, or -1.
    relevant : (N,) int64, R_i of every query, positives that were left out of the gallery included.
    depth : ranks of nearest positives beyond this one need not be known.
    with_r : whether MAP@R and R-precision are wanted.
    make_tiles : from the (M, E + 1) float32 rows (y, |y|^2) to a `common.evaluation.tiles.HostTiles` or its like.
    """

    def __init__(self, query: np.ndarray, query_labels: np.ndarray, gallery: np.ndarray, gallery_labels: np.ndarray,
                 own: np.ndarray, relevant: np.ndarray, depth: int, with_r: bool, make_tiles: Callable):
        self.query, self.query_labels = query, query_labels
        self.gallery, self.gallery_labels = gallery, gallery_labels
        self.own, self.relevant, self.depth, self.with_r = own, relevant, depth, with_r
        self.positives = Positives(gallery_labels)
        self.centre = fit_centre(gallery, query)
        # A random order, because the first tile must be a fair sample: data sets come sorted by class.
        self.order = np.random.RandomState(0).permutation(len(gallery))
        places = np.empty(len(gallery) + 1, np.int64)
        places[self.order], places[-1] = np.arange(len(gallery)), -1
        self.own_place = places[own]                                    # in that order; -1: nowhere
        dims = gallery.shape[1]
        rows = np.empty((len(gallery), dims + 1), np.float32)
        norms = np.empty(len(gallery))
        for start in range(0, len(gallery), 4096):
            stop = min(start + 4096, len(gallery))
            y = self.centre(gallery[self.order[start:stop]])
            norms[start:stop] = square_norms(y)
            rows[start:stop, :-1], rows[start:stop, -1] = y, norms[start:stop]
        self.tiles = make_tiles(rows)
        self.radius = float(np.sqrt(norms.max()))
        self.block_size = int(np.clip((1 << 20) // max(1, relevant.max() if with_r else 1), 32, QUERIES))

    def distances(self, query_rows: np.ndarray, gallery_rows: np.ndarray) -> np.ndarray:
        """Squared distances of pairs in float64, from differences; in units of the scale."""
        out = np.empty(len(query_rows))
        step = max(64, (1 << 17) // self.gallery.shape[1])              # 1 MB of float64
        for start in range(0, len(out), step):
            part = slice(start, start + step)
            difference = self.query[query_rows[part]].astype(np.float64)
            difference -= self.gallery[gallery_rows[part]]
            difference *= self.centre.scale
            difference *= difference
            out[part] = difference.sum(axis=1)
        return out

    def nearest_positives(self, rows: np.ndarray):
        """Squared distance and gallery row of the nearest positive, squared distance of the farthest, for `rows`.

        Where there is no positive: inf, -1, inf.
        """
        starts, counts = self.positives.of(self.query_labels[rows])
        near, far = np.full(len(rows), np.inf), np.full(len(rows), np.inf)
        index = np.full(len(rows), -1, np.int64)
        ends = np.cumsum(counts)
        first = 0
        while first < len(rows):                # as many queries at once as have PAIRS positives
            last = max(first + 1, int(np.searchsorted(ends, (ends[first - 1] if first else 0) + PAIRS, side='right')))
            block, gallery_rows = self.positives.pairs(starts[first:last], counts[first:last])
            other = gallery_rows != self.own[rows[first:last][block]]
            block, gallery_rows = block[other], gallery_rows[other]
            if len(block):
                squared = self.distances(rows[first:last][block], gallery_rows)
                heads = np.flatnonzero(np.r_[True, block[1:] != block[:-1]])
                owners = block[heads] + first
                near[owners] = np.minimum.reduceat(squared, heads)
                far[owners] = np.maximum.reduceat(squared, heads)
                tied = np.flatnonzero(squared == near[block + first])[::-1]     # backwards: the lowest index stays
                index[block[tied] + first] = gallery_rows[tied]
            first = last
        return near, index, far

    def block(self, start: int):
        """Ranks of a block of queries: (rows, first, average precision, R-precision)."""
        rows = np.arange(start, min(start + self.block_size, len(self.query)))
        count = self.relevant[rows]
        near, near_index, far = self.nearest_positives(rows)
        x = self.centre(self.query[rows])
        norms = square_norms(x)
        # Bound on |computed score + |x|^2 - exact squared distance|. Three sources: the product's accumulation
        # (dims + 1 terms of at most 2|x||y| and |y|^2 in all), rounding after centring, rounding of the thresholds.
        length = np.sqrt(norms)
        error = 1.01 * UNIT * ((x.shape[1] + 2) * (2 * length * self.radius + self.radius ** 2)
                               + 6 * (length + self.radius) ** 2) + 1e-37
        # Scores below `low` are certainly nearer than the nearest positive, and above `high` certainly not.
        # In list mode (see `list_mode`) low is -inf, and everything up to high is looked at.
        low, high = (near - norms - error).astype(np.float32), (near - norms + error).astype(np.float32)
        low[count == 0] = high[count == 0] = -np.inf
        state = BlockState(self, rows, count, near, near_index, norms, error, low, high)
        size = len(self.gallery)
        edge = min(FIRST_TILE if self.with_r else TILE, size)
        bounds = [0] + list(range(edge, size, TILE)) + [size]
        queries, own = self.tiles.queries(x), self.own_place[rows]
        for a, b in zip(bounds[:-1], bounds[1:]):
            inside = np.flatnonzero((own >= a) & (own < b))
            scores = self.tiles.scores(a, b, queries, (own[inside] - a, inside))
            if a == 0 and self.with_r:
                state.list_mode(scores, far)
            nearer, found = self.tiles.split(scores, state.low, state.high)
            state.nearer += nearer
            state.add(a, found)
        return (rows,) + state.finish()


class BlockState:
    """What is known of a block of queries while the gallery passes by."""

    def __init__(self, search: Search, rows, count, near, near_index, norms, error, low, high):
        self.search, self.rows, self.count = search, rows, count
        self.near, self.near_index, self.norms, self.error = near, near_index, norms, error
        self.low, self.high = low, high
        self.nearer = np.zeros(len(rows), np.int64)         # gallery images nearer than the nearest positive
        self.listed = np.zeros(len(rows), np.bool_)         # queries in list mode
        self.waiting, self.pairs = [], 0
        self.list = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)   # (row in block, gallery row, distance)

    def list_mode(self, scores, far: np.ndarray) -> None:
        """Chooses the queries that need the list of their R_i nearest images: the nearest positive may be in it.

        The R_i-th smallest score of any gallery images bounds that of the R_i-th nearest from above; groups of rows
        give one image each, so that a partial sort of the groups' minima is enough. Beyond the farthest positive there
        is nothing to find, either.
        """
        most = int(self.count.max())
        group = int(np.clip(scores.shape[0] // max(1, 4 * most), 1, 64))
        minima = self.search.tiles.group_minima(scores, group)
        groups = len(minima)
        bound = np.full(len(self.rows), np.inf)
        known = np.flatnonzero((self.count > 0) & (self.count <= groups))
        if len(known):
            last = int(self.count[known].max())
            minima.partition(last - 1, axis=0)
            smallest = np.sort(minima[:last], axis=0)
            bound[known] = smallest[self.count[known] - 1, known] + 2 * self.error[known]
        bound = np.minimum(bound, far - self.norms + self.error)
        self.listed = (self.count > 0) & (self.near - self.norms + self.error <= bound)
        self.low[self.listed] = -np.inf
        self.high[self.listed] = bound[self.listed]

    def add(self, first_row: int, found: np.ndarray) -> None:
        """Notes places in a (gallery rows, block) tile whose distances must be computed exactly."""
        if len(found):
            gallery, row = np.divmod(found, len(self.rows))
            self.waiting.append((row, self.search.order[gallery + first_row]))
            self.pairs += len(found)
            if self.pairs >= PAIRS:
                self.flush()

    def flush(self) -> None:
        """Finds the exact distances of what waits, counts or lists it, and draws the thresholds closer."""
        if not self.waiting:
            return
        row, gallery = (np.concatenate(arrays) for arrays in zip(*self.waiting))
        self.waiting, self.pairs = [], 0
        squared = self.search.distances(self.rows[row], gallery)
        listed = self.listed[row]
        r, g, d = row[~listed], gallery[~listed], squared[~listed]
        before = (d < self.near[r]) | ((d == self.near[r]) & (g < self.near_index[r]))
        self.nearer += np.bincount(r[before], minlength=len(self.rows))
        done = ~self.listed & (self.nearer >= self.search.depth)
        self.low[done] = self.high[done] = -np.inf
        if not listed.any():
            return
        row, gallery, squared = (np.concatenate([old, new[listed]]) for old, new in
                                 zip(self.list, (row, gallery, squared)))
        order = np.lexsort((gallery, squared, row))
        row, gallery, squared = row[order], gallery[order], squared[order]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        keep = (place < self.count[row]) | ((squared <= self.near[row]) & (place < self.search.depth))
        last = place == self.count[row] - 1                 # these rows' lists are full
        limit = np.maximum(squared[last], self.near[row[last]]) - self.norms[row[last]] + self.error[row[last]]
        self.high[row[last]] = np.minimum(self.high[row[last]], limit)
        self.list = row[keep], gallery[keep], squared[keep]

    def finish(self):
        """(rank of the nearest positive, average precision, R-precision) of every query of the block."""
        self.flush()
        first = np.where((self.count > 0) & (self.nearer < self.search.depth), self.nearer + 1, MISS)
        if not self.search.with_r:
            return first, None, None
        row, gallery, _ = self.list
        place = np.arange(len(row)) - np.searchsorted(row, row)
        right = self.search.gallery_labels[gallery] == self.search.query_labels[self.rows[row]]
        first[self.listed] = MISS
        hits = np.flatnonzero(right)[::-1]                  # backwards: the nearest stays
        first[row[hits]] = place[hits] + 1
        first[first > self.search.depth] = MISS
        right &= place < self.count[row]
        total = np.cumsum(right)
        precision = right * (total - (total - right)[np.searchsorted(row, row)]) / (place + 1)
        size = np.maximum(self.count, 1)
        return (first, np.bincount(row, precision, len(self.rows)) / size,
                np.bincount(row, right, len(self.rows)) / size)


def rank(query: np.ndarray, query_labels: np.ndarray, gallery: Optional[np.ndarray] = None,
         gallery_labels: Optional[np.ndarray] = None, depth: int = 1, with_r: bool = True,
         ctx: Optional[mx.Context] = None, make_tiles: Optional[Callable] = None) -> Ranking:
    """Ranks of the nearest positives, and the summands of MAP@R and R-precision, for every query.

    Parameters
    ----------
    query : (N, E) float array.
    query_labels : (N,) int array.
    gallery, gallery_labels : (M, E) and (M,), the set that is searched; None: the queries themselves.
    depth : ranks are exact up to this one, and MISS beyond.
    with_r : whether MAP@R and R-precision are wanted (else None).
    ctx : device; a CPU (the default) is served by NumPy.
    make_tiles : what computes the tiles, if it is not to be what serves `ctx` best.

    Raises
    ------
    EvaluationError : arrays that cannot be scored.
    """
    itself = gallery is None
    query, query_labels, gallery, gallery_labels = check_inputs(query, query_labels, gallery, gallery_labels)
    relevant = Positives(gallery_labels).of(query_labels)[1] - int(itself)
    kept = without_spare_duplicates(gallery, max(depth, int(relevant.max()) if with_r else 1))
    own = np.full(len(query), -1, np.int64)
    if itself:
        own[kept] = np.arange(len(kept))
    if len(kept) < len(gallery):
        gallery, gallery_labels = gallery[kept], gallery_labels[kept]
    search = Search(query, query_labels, gallery, gallery_labels, own, relevant, depth, with_r,
                    make_tiles or (lambda rows: tiles_for(rows, ctx)))
    first = np.empty(len(query), np.int64)
    precisions = np.zeros(len(query)), np.zeros(len(query))
    for rows, block_first, *block_precisions in search.tiles.map(search.block, range(0, len(query), search.block_size)):
        first[rows] = block_first
        if with_r:
            for whole, part in zip(precisions, block_precisions):
                whole[rows] = part
    return Ranking(first, relevant, *(precisions if with_r else (None, None)))


def retrieval_metrics(query: np.ndarray, query_labels: np.ndarray, gallery: Optional[np.ndarray] = None,
                      gallery_labels: Optional[np.ndarray] = None, ks: Sequence[int] = (1, 2, 4, 8, 16, 32),
                      with_r: bool = True, ctx: Optional[mx.Context] = None,
                      by_class: bool = False) -> Dict[str, Any]:
    """recall@k and, if `with_r`, MAP@R and R-precision: OrderedDict name -> percent. See `rank` for the parameters.

    With `by_class` there are two lists more, one number a class, in the order of the labels: ``class_images``, its
    queries, and ``class_hits``, how many of them count for recall@1.
    """
    ks = check_ks(ks)
    ranking = rank(query, query_labels, gallery, gallery_labels, depth=max(ks), with_r=with_r, ctx=ctx)
    metrics = collections.OrderedDict((f'recall@{k}', 100.0 * float((ranking.first <= k).mean())) for k in ks)
    if with_r:
        metrics['map@r'] = 100.0 * float(ranking.average_precision.mean())
        metrics['r_precision'] = 100.0 * float(ranking.r_precision.mean())
    if by_class:
        classes = np.unique(query_labels, return_inverse=True)[1]
        metrics['class_images'] = np.bincount(classes).tolist()
        metrics['class_hits'] = np.bincount(classes, ranking.first <= 1).astype(int).tolist()
    return metrics


def recall_at_k(query: np.ndarray, query_labels: np.ndarray, gallery: Optional[np.ndarray] = None,
                gallery_labels: Optional[np.ndarray] = None, ks: Sequence[int] = (1, 2, 4, 8, 16, 32),
                ctx: Optional[mx.Context] = None) -> Dict[int, float]:
    """recall@k: OrderedDict k -> percent. See `rank` for the parameters."""
    metrics = retrieval_metrics(query, query_labels, gallery, gallery_labels, ks, with_r=False, ctx=ctx)
    return collections.OrderedDict((k, metrics[f'recall@{k}']) for k in check_ks(ks))
