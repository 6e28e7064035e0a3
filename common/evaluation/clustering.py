"""k-means and normalised mutual information.

The published evaluation clusters with mini-batch k-means above 1,000 classes, which costs 9 points of NMI. This is
Lloyd's full k-means for any number of clusters, in matrix products:

- k-means++ (D. Arthur, S. Vassilvitskii, SODA 2007) draws one centre at a time, k passes over the data. Here centres
  are drawn in batches from the distribution before the batch, and each is then accepted with the probability by which
  the batch's earlier centres lowered its weight: exactly k-means++'s distribution.
- In a step of Lloyd's algorithm, a point whose own centre has not come to be further away can only be taken over by a
  centre that moved: the others were further away than its own before, and still are. Only that is computed.
- Between two runs of Lloyd's algorithm, centres that are hardly missed move to points that need one: the swaps of
  T. Kanungo et al., "A local search approximation algorithm for k-means clustering" (2004), many at a time.
"""
from __future__ import annotations

import copy
from typing import Optional, Tuple

import mxnet as mx
import numpy as np
import scipy.sparse

from common.evaluation.retrieval import EvaluationError, check_embeddings, check_labels, fit_centre, square_norms
from common.evaluation.tiles import augment, map_blocks, on_host

POINTS = 256                            # points in a block
CENTRES = 2048                          # centres in a tile: 256 x 2048 float32 = 2 MB, cached
AVERAGES = {'geometric': lambda a, b: np.sqrt(a * b), 'arithmetic': lambda a, b: (a + b) / 2, 'min': min, 'max': max}


def nearest_centres(x: np.ndarray, centres: np.ndarray, ctx: Optional[mx.Context] = None,
                    itself: bool = False, with_second: bool = False) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nearest centre of every point.

    Parameters
    ----------
    x : (n, E) float32.
    centres : (m, E) float32.
    ctx : device; a CPU (the default) is served by NumPy.
    itself : whether x are the centres, and none is its own nearest.
    with_second : whether the second nearest is wanted.

    Returns
    -------
    index : (n,) int64.
    score : (n,) float32, |c|^2 - 2 x.c.
    second : (n,) float32, the score of the second nearest; infinite where there is none, or it is not wanted.
    """
    weights = augment(centres, 1, square_norms(centres))

    def block(start: int):
        points = augment(x[start:start + POINTS], -2, 1)
        rows = np.arange(len(points))
        index = np.zeros(len(points), np.int64)
        best, second = np.full((2, len(points)), np.inf, np.float32)
        for first in range(0, len(weights), CENTRES):
            scores = np.dot(points, weights[first:first + CENTRES].T)
            if itself:
                own = rows[(rows + start >= first) & (rows + start < first + scores.shape[1])]
                scores[own, own + start - first] = np.inf
            tile_index = scores.argmin(axis=1)
            tile_best = scores[rows, tile_index]
            if with_second:
                scores[rows, tile_index] = np.inf
                np.minimum(second, np.maximum(best, tile_best), out=second)
                np.minimum(second, scores.min(axis=1), out=second)
            better = tile_best < best
            index[better], best[better] = tile_index[better] + first, tile_best[better]
        return index, best, second

    def device_block(start: int):
        points = mx.nd.array(augment(x[start:start + 4096], -2, 1), ctx=ctx)
        scores = mx.nd.dot(points, device_weights, transpose_b=True)
        if itself:
            own = mx.nd.arange(start, start + scores.shape[0], ctx=ctx)
            scores = mx.nd.where(mx.nd.one_hot(own, len(weights)), mx.nd.full(scores.shape, np.inf, ctx=ctx), scores)
        value, index = mx.nd.topk(scores, k=min(2, len(weights)), ret_typ='both', is_ascend=True, dtype='int32')
        value = value.asnumpy()
        second = value[:, 1] if len(weights) > 1 else np.full(len(value), np.inf, np.float32)
        return index.asnumpy()[:, 0].astype(np.int64), value[:, 0], second

    if on_host(ctx):
        results = map_blocks(block, range(0, len(x), POINTS))
    else:
        device_weights = mx.nd.array(weights, ctx=ctx)
        results = map(device_block, range(0, len(x), 4096))
    return tuple(np.concatenate(parts) for parts in zip(*results))


def own_distances(x: np.ndarray, centres: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Squared distances of the points to the centres `index`, (n,) float64, from differences."""
    out = np.empty(len(x))
    for start in range(0, len(x), 4096):
        out[start:start + 4096] = square_norms(x[start:start + 4096] - centres[index[start:start + 4096]])
    return out


def plus_plus(x: np.ndarray, k: int, rng: np.random.RandomState, ctx: Optional[mx.Context] = None) -> np.ndarray:
    """k-means++: indices of k points, each drawn with a chance proportional to the squared distance to the nearest
    one drawn before it. Where fewer than k points are distinct, the rest are drawn from the other points.
    """
    norms = square_norms(x)
    chosen = new = [int(rng.randint(len(x)))]
    weights = np.full(len(x), np.inf)
    while len(chosen) < k:
        weights = np.minimum(weights, nearest_centres(x, x[new], ctx)[1] + norms)
        weights[weights <= 1e-6 * norms] = 0            # rounding leaves a little to duplicates of a centre
        weights[new] = 0
        total = np.cumsum(weights)
        if total[-1] <= 0:
            rest = np.setdiff1d(np.arange(len(x)), chosen)
            return np.concatenate([chosen, rng.permutation(rest)[:k - len(chosen)]])
        # The more centres there are, the less one more changes: batches may grow.
        batch = min(2048, max(8, len(chosen) // 2), 2 * (k - len(chosen)))
        drawn = np.searchsorted(total, rng.random_sample(batch) * total[-1], side='right')
        drawn = np.minimum(drawn, np.flatnonzero(weights)[-1])
        chance = rng.random_sample(batch) * weights[drawn]
        points = x[drawn].astype(np.float64)
        between = square_norms(points)[:, None] + square_norms(points) - 2 * points.dot(points.T)
        left = weights[drawn]                           # the weights after the centres accepted so far
        new = []
        for i in range(batch):
            if chance[i] < left[i] and len(chosen) + len(new) < k:
                new.append(int(drawn[i]))
                np.minimum(left, between[i], out=left)
                left[drawn == drawn[i]] = 0
        chosen = chosen + new
    return np.array(chosen)


class Lloyd:
    """Points, centres, and the centre of each point.

    Attributes
    ----------
    x : (N, E) float32.
    centres : (k, E) float32.
    index : (N,) int64, every point's centre, always the nearest one.
    own : (N,) float64, its squared distance.
    """

    def __init__(self, x: np.ndarray, centres: np.ndarray, ctx: Optional[mx.Context] = None):
        self.x, self.norms, self.centres, self.ctx = x, square_norms(x), centres, ctx
        self.index = nearest_centres(x, centres, ctx)[0]
        self.own = own_distances(x, centres, self.index)
        self.stale = np.ones(len(centres), np.bool_)        # clusters that gained or lost points since their last mean

    @property
    def inertia(self) -> float:
        """Sum of squared distances."""
        return float(self.own.sum())

    def copy(self) -> Lloyd:
        """A copy that can change without changing this one."""
        other = copy.copy(self)
        for name in ('centres', 'index', 'own', 'stale'):
            setattr(other, name, getattr(self, name).copy())
        return other

    def move(self, which: np.ndarray, centres: np.ndarray) -> None:
        """Puts the centres `which` elsewhere, and every point to its nearest centre."""
        self.centres[which] = centres
        moved = np.zeros(len(self.centres), np.bool_)
        moved[which] = True
        affected = np.flatnonzero(moved[self.index])
        further = np.zeros(len(self.x), np.bool_)
        squared = own_distances(self.x[affected], self.centres, self.index[affected])
        further[affected] = squared > self.own[affected]
        self.own[affected] = squared
        self._compete(np.flatnonzero(further), np.arange(len(self.centres)))
        self._compete(np.flatnonzero(~further), which)

    def _compete(self, points: np.ndarray, which: np.ndarray) -> None:
        """Gives each of `points` to the nearest of the centres `which`, if it is nearer than its own."""
        if not len(points) or not len(which):
            return
        x = self.x[points]
        found = which[nearest_centres(x, self.centres[which], self.ctx)[0]]
        squared = own_distances(x, self.centres, found)
        better = squared < self.own[points]
        points, found = points[better], found[better]
        self.stale[self.index[points]] = self.stale[found] = True
        self.index[points], self.own[points] = found, squared[better]

    def step(self) -> None:
        """Moves the centres to the means of their points, and those without points to the points furthest off."""
        k = len(self.centres)
        counts = np.bincount(self.index, minlength=k)
        members = np.flatnonzero(self.stale[self.index])
        ones = scipy.sparse.csr_matrix((np.ones(len(members)), self.index[members], np.arange(len(members) + 1)),
                                       (len(members), k))
        which = np.flatnonzero(self.stale & (counts > 0))
        means = (ones.T.dot(self.x[members])[which] / counts[which, None]).astype(np.float32)
        moved = (means != self.centres[which]).any(axis=1)
        which, means = which[moved], means[moved]
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            furthest = np.argsort(-self.own, kind='stable')[:len(empty)]
            furthest = furthest[self.own[furthest] > 0]     # fewer points are distinct than there are clusters
            which = np.concatenate([which, empty[:len(furthest)]])
            means = np.concatenate([means, self.x[furthest]])
        self.stale[:] = False
        self.move(which, means)

    def run(self, max_iter: int, tol: float) -> None:
        """Steps until one lowers the inertia by less than the share `tol` and no cluster is empty without need; at
        most `max_iter` steps.
        """
        for _ in range(max_iter):
            before = self.inertia
            self.step()
            if self.inertia >= before * (1 - tol) and (
                    self.inertia == 0 or np.bincount(self.index, minlength=len(self.centres)).all()):
                break

    def swap(self, rng: np.random.RandomState) -> bool:
        """Moves centres that are hardly missed to where one is needed; False where no such swap would gain anything.

        A removed centre costs at most what it costs to give its points to their second nearest centres, or to merge
        the cluster with the nearest one. A new centre, at the mean of those points that are nearer to some candidate
        point than to their own centre, gains at least the difference of these points' inertia. Swaps are made
        together if no cluster is touched by two of them.
        """
        k = len(self.centres)
        if k < 2 or self.inertia == 0:
            return False
        second = nearest_centres(self.x, self.centres, self.ctx, with_second=True)[2] + self.norms
        cost = np.bincount(self.index, np.maximum(second - self.own, 0), minlength=k)
        partner, score, _ = nearest_centres(self.centres, self.centres, self.ctx, itself=True)
        counts = np.bincount(self.index, minlength=k)
        apart = np.maximum(score + square_norms(self.centres), 0)
        cost = np.minimum(cost, counts * counts[partner] / np.maximum(counts + counts[partner], 1) * apart)

        size = min(np.count_nonzero(self.own), max(k, 1024))
        candidates = rng.choice(len(self.x), size, replace=False, p=self.own / self.own.sum())
        takes = self._points_nearer(candidates)
        sums, taken = takes.dot(self.x), np.maximum(np.diff(takes.indptr), 1)
        gain = takes.dot(self.own - self.norms) + square_norms(sums) / taken

        touched = np.zeros(k, np.bool_)
        victims = iter(np.argsort(cost, kind='stable'))
        victim = next(victims)
        removed, added = [], []
        for c in np.argsort(-gain, kind='stable'):
            losers = self.index[takes.indices[takes.indptr[c]:takes.indptr[c + 1]]]
            if touched[losers].any():
                continue
            touched[losers] = True
            while victim is not None and (touched[victim] or touched[partner[victim]]):
                victim = next(victims, None)
            if victim is None or gain[c] <= cost[victim]:
                break
            touched[[victim, partner[victim]]] = True
            removed.append(victim)
            added.append(sums[c] / taken[c])
        if removed:
            self.stale[removed] = True
            self.move(np.array(removed), np.array(added, np.float32))
        return bool(removed)

    def _points_nearer(self, candidates: np.ndarray) -> scipy.sparse.csr_matrix:
        """(candidates, N) matrix of ones where a point is nearer to a candidate point than to its own centre."""
        weights = augment(self.x[candidates], 1, self.norms[candidates])
        limit = (self.own - self.norms).astype(np.float32)

        def block(start: int):
            scores = np.dot(augment(self.x[start:start + POINTS], -2, 1), weights.T)
            row, place = np.nonzero(scores < limit[start:start + POINTS, None])
            return place, row + start

        place, point = (np.concatenate(part) for part in zip(*map_blocks(block, range(0, len(self.x), POINTS))))
        return scipy.sparse.csr_matrix((np.ones(len(point)), (place, point)), (len(candidates), len(self.x)))


def kmeans(x: np.ndarray, k: int, ctx: Optional[mx.Context] = None, seed: int = 0, max_iter: int = 100,
           tol: float = 1e-4, swap_rounds: int = 10, swap_tol: float = 1e-2) -> Tuple[np.ndarray, np.ndarray, float]:
    """k-means: k-means++, Lloyd's algorithm, and rounds of swaps followed by Lloyd's algorithm.

    The result depends on the data and the seed alone. No cluster is empty, unless fewer than k points are distinct.

    Parameters
    ----------
    x : (N, E) float array.
    k : number of clusters, 1..N.
    ctx : device for the distances; a CPU (the default) is served by NumPy.
    seed : of the k-means++ and of the swaps' candidates.
    max_iter : most steps of each run of Lloyd's algorithm.
    tol : Lloyd's algorithm stops where a step lowers the inertia by a smaller share than this.
    swap_rounds : most rounds of swaps; 0 for none.
    swap_tol : they stop where one, with Lloyd's algorithm, lowers the inertia by a smaller share than this.

    Returns
    -------
    assignments : (N,) int64.
    centroids : (k, E) float64.
    inertia : sum of squared distances of the points to their centroids.

    Raises
    ------
    EvaluationError : embeddings that are no finite (N, E) array, or k outside 1..N.
    """
    x = check_embeddings(x)
    if not 1 <= k <= len(x):
        raise EvaluationError(f'{len(x)} embeddings cannot be put into {k} clusters')
    place = fit_centre(x)
    x = place(x)
    rng = np.random.RandomState(seed)
    best = Lloyd(x, x[plus_plus(x, k, rng, ctx)], ctx)
    best.run(max_iter, tol)
    for _ in range(swap_rounds):
        other = best.copy()
        if not other.swap(rng):
            break
        other.run(max_iter, tol)
        gained = best.inertia - other.inertia
        enough = gained > swap_tol * best.inertia
        if gained > 0:
            best = other
        if not enough:
            break
    return best.index, best.centres / place.scale + place.mean, best.inertia / place.scale ** 2


def nmi(labels: np.ndarray, clusters: np.ndarray, average: str = 'geometric') -> float:
    """Normalised mutual information, I(labels, clusters) / mean(H(labels), H(clusters)), 0..1.

    Conventions and limit cases are scikit-learn's: 1 where both have one value only, 0 where one of them has.

    Parameters
    ----------
    labels, clusters : (N,) arrays of whole numbers.
    average : 'geometric' (the mean that metric learning's papers use), 'arithmetic', 'min' or 'max'.

    Raises
    ------
    EvaluationError : different lengths, none at all, or labels that are not whole numbers.
    """
    if average not in AVERAGES:
        raise EvaluationError(f'the mean {average!r} is none of {", ".join(AVERAGES)}')
    labels = check_labels(labels, np.size(labels), 'images')
    clusters = check_labels(clusters, len(labels), 'cluster assignments')
    if not len(labels):
        raise EvaluationError('there are no labels to compare with clusters')
    labels, clusters = (np.unique(values, return_inverse=True)[1] for values in (labels, clusters))
    a, b = np.bincount(labels), np.bincount(clusters)
    if len(a) == len(b) == 1:
        return 1.0
    pairs, joint = np.unique(labels * len(b) + clusters, return_counts=True)
    n = float(len(labels))
    expected = np.log(a[pairs // len(b)]) + np.log(b[pairs % len(b)]) - np.log(n)
    mutual = float((joint / n * (np.log(joint) - expected)).sum())
    entropy = [max(0.0, -float((c / n * (np.log(c) - np.log(n))).sum())) for c in (a, b)]
    mean = AVERAGES[average](*entropy)
    return min(1.0, max(0.0, mutual) / mean) if mean > 0 else 0.0
