"""What an embedding looks like inside: distances within and between classes, spectrum, spread, and pairs.

All embeddings are scaled to unit length first, also those of networks that do not do it. x_i is the embedding of image
i, c(i) its class, n_c the number of images of class c, and d(x, y) = |x - y|^2 / 2 = 1 - x.y the cosine distance.

K. Roth et al., "Revisiting Training Strategies and Generalization Performance in Deep Metric Learning"
(arXiv:2002.08473), as in its published code:

- ``intra_distance``: the mean over classes of the mean of d(x_i, x_j) over the class's pairs. Classes of one image
  have none, and are left out.
- ``inter_distance``: the mean of d(u_c, u_k) over the pairs of classes. u_c is the mean of the class's embeddings,
  scaled to unit length.
- ``distance_ratio``: intra_distance / inter_distance.
- ``rho``: the spectral decay KL(U || S) = sum_e 1/D log((1/D) / S_e). S_1, ..., S_D are the singular values of the
  (N, E) matrix of embeddings, divided by their sum, and D is the smaller of N and E. 0: all directions are used alike.

T. Wang, P. Isola, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the
Hypersphere" (arXiv:2005.10242), with alpha = 2 and t = 2. Two images of one class are taken as a positive pair:

- ``alignment``: the mean of |x_i - x_j|^2 over all pairs of one class.
- ``uniformity``: log of the mean of exp(-2 |x_i - x_j|^2) over all pairs of images.

Verification, "are these two images of one class?", answered by a threshold on the distance, in percent:

- ``pair_auc``: the chance that a pair of one class is nearer than a pair of two classes; a tie counts half.
- ``tpr@0.001``, ``tpr@0.01``, ``tpr@0.1``: the share of pairs of one class that are found at the largest threshold
  that takes at most this share of the pairs of two classes for one class.

Distances, ratio, alignment and rho are exact, by sums over classes and by the eigenvalues of the matrix of products.
uniformity, pair_auc and tpr are over all pairs where there are few, else over a sample of `POSITIVE_PAIRS` and
`NEGATIVE_PAIRS`, which depends on the labels and the seed alone: it is the same one at every evaluation.

What is not defined is left out: a ratio to a distance of 0, rho where embeddings lie in fewer than D dimensions (it is
infinite), a false-positive rate smaller than one negative pair.
"""
from __future__ import annotations

import collections
import functools
from typing import Dict, Optional, Tuple

import numpy as np
import scipy.sparse

from common.evaluation.tiles import map_blocks

POSITIVE_PAIRS = 1 << 15                # sampled pairs of one class
NEGATIVE_PAIRS = 1 << 16                # of two classes
FALSE_POSITIVE_RATES = (0.001, 0.01, 0.1)
ROWS = 4096                             # embeddings in a block
PAIRS = 1 << 13                         # pairs in a block
CACHED = 1 << 16                        # numbers of the pairs that are looked at together
ROUNDING = 1e-6                         # singular values below this share of the largest are rounding errors of float32


def structure_metrics(embeddings: np.ndarray, labels: np.ndarray, seed: int = 0) -> Dict[str, float]:
    """The metrics of this module.

    Parameters
    ----------
    embeddings : (N, E) float array of finite numbers.
    labels : (N,) int array.
    seed : of the sample of pairs.

    Returns
    -------
    OrderedDict of those that are defined; `pair_auc` and `tpr` in percent.
    """
    classes, codes, counts = np.unique(labels, return_inverse=True, return_counts=True)
    x = unit_rows(embeddings, np.argsort(codes.reshape(-1), kind='stable'))
    metrics = _distances(x, counts)
    spectral = spectral_decay(x)
    if spectral is not None:
        metrics['rho'] = spectral
    metrics.update(_of_pairs(x, counts, seed))
    order = ('intra_distance', 'inter_distance', 'distance_ratio', 'rho', 'alignment', 'uniformity', 'pair_auc',
             *(f'tpr@{rate:g}' for rate in FALSE_POSITIVE_RATES))
    return collections.OrderedDict((name, metrics[name]) for name in order if name in metrics)


def unit_rows(x: np.ndarray, order: np.ndarray) -> np.ndarray:
    """The rows of `x` in this order, scaled to length 1, (N, E) float32; rows of zeros stay."""
    out = np.empty(x.shape, np.float32)
    for start in range(0, len(x), ROWS):
        rows = x[order[start:start + ROWS]].astype(np.float64)
        if x.dtype != np.float32:           # squares of float64 may overflow
            largest = np.abs(rows).max(axis=1, keepdims=True)
            rows /= np.where(largest > 0, largest, 1)
        lengths = np.sqrt(np.einsum('ij,ij->i', rows, rows))[:, None]
        np.divide(rows, np.where(lengths > 0, lengths, 1), out=out[start:start + ROWS], casting='same_kind')
    return out


def _distances(x: np.ndarray, counts: np.ndarray) -> Dict[str, float]:
    """The exact ones. `x`: class after class. The sum of |x_i - x_j|^2 / 2 over i, j is n sum |x_i|^2 - |sum x_i|^2."""
    found = {}
    sums = _sums_of_classes(x, counts)
    squares = np.add.reduceat(np.einsum('ij,ij->i', x, x), np.cumsum(counts) - counts, dtype=np.float64)
    lengths = np.einsum('ij,ij->i', sums, sums)
    pairs = counts * (counts - 1)
    some = pairs > 0
    if some.any():
        within = np.maximum(counts * squares - lengths, 0)[some]
        found['intra_distance'] = float(np.mean(within / pairs[some]))
        found['alignment'] = float(2 * within.sum() / pairs.sum())
    if len(counts) > 1:
        centres = sums / np.sqrt(np.where(lengths > 0, lengths, 1))[:, None]
        between = len(counts) * np.square(centres).sum() - np.square(centres.sum(axis=0)).sum()
        found['inter_distance'] = float(max(between, 0) / (len(counts) * (len(counts) - 1)))
    if found.get('inter_distance', 0) > 1e-12 and 'intra_distance' in found:
        found['distance_ratio'] = found['intra_distance'] / found['inter_distance']
    return found


def _sums_of_classes(x: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """(classes, E) float64. As a sparse product it is ten times as fast as `np.add.reduceat`."""
    sums = np.zeros((len(counts), x.shape[1]))
    codes = np.repeat(np.arange(len(counts)), counts)
    for start in range(0, len(x), ROWS):
        rows = x[start:start + ROWS].astype(np.float64)
        own = codes[start:start + ROWS] - codes[start]
        ones = scipy.sparse.csr_matrix((np.ones(len(own)), (own, np.arange(len(own)))))
        sums[codes[start]:codes[start] + ones.shape[0]] += ones.dot(rows)
    return sums


def spectral_decay(x: np.ndarray) -> Optional[float]:
    """rho of (N, E) embeddings; None where a singular value is 0."""
    if len(x) < x.shape[1]:
        products = np.dot(x.astype(np.float64), x.T.astype(np.float64))
    else:
        products = np.zeros((x.shape[1], x.shape[1]))
        for start in range(0, len(x), ROWS):
            rows = x[start:start + ROWS].astype(np.float64)
            products += np.dot(rows.T, rows)
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(products), 0))
    if values[0] <= ROUNDING * values[-1]:
        return None
    return float(max(np.mean(np.log(values.sum() / (len(values) * values))), 0))


def _of_pairs(x: np.ndarray, counts: np.ndarray, seed: int) -> Dict[str, float]:
    """uniformity, pair_auc and tpr."""
    found = {}
    pairs = _sample(counts.astype(np.int64).tobytes(), seed, POSITIVE_PAIRS, NEGATIVE_PAIRS)
    positive, negative = (_squared_distances(x, *own) for own in pairs)
    images = float(len(x))
    share = float((counts * (counts - 1.0)).sum() / (images * (images - 1)))        # of positive pairs among all
    parts = [(share, positive), (1 - share, negative)]
    spread = sum(weight * np.exp(-2.0 * squared).mean(dtype=np.float64) for weight, squared in parts if len(squared))
    found['uniformity'] = float(np.log(spread))
    if len(positive) and len(negative):
        positive, negative = map_blocks(np.sort, [positive, negative])
        below = np.searchsorted(negative, positive, 'left').sum(dtype=np.float64)
        not_above = np.searchsorted(negative, positive, 'right').sum(dtype=np.float64)
        found['pair_auc'] = 100 - 50 * (below + not_above) / (len(positive) * float(len(negative)))
        for rate in FALSE_POSITIVE_RATES:
            allowed = int(rate * len(negative))
            if allowed:
                found[f'tpr@{rate:g}'] = 100.0 * np.searchsorted(positive, negative[allowed]) / len(positive)
    return {name: float(value) for name, value in found.items()}


@functools.lru_cache(maxsize=4)          # the test set and the validation classes, at every evaluation
def _sample(counts: bytes, seed: int, positive: int, negative: int) -> Tuple[Tuple[np.ndarray, np.ndarray], ...]:
    """The pairs (i, j) of one class, and those of two. `counts`: an int64 array."""
    rng = np.random.RandomState(seed)
    images = np.frombuffer(counts, np.int64)
    return draw_pairs(images, True, positive, rng), draw_pairs(images, False, negative, rng)


def draw_pairs(counts: np.ndarray, same: bool, most: int, rng: np.random.RandomState) -> Tuple[np.ndarray, np.ndarray]:
    """Pairs of different images, of one class or of two; images are numbered class after class.

    The pairs (i, j) and (j, i) are numbered. Where there are more than `most` pairs, the numbers are cut into `most`
    stretches of equal length, and one is drawn from each: every pair has the same chance, every image has its share.

    Returns
    -------
    i, j : int64 arrays.
    """
    of_image = np.repeat(counts, counts)                    # images of its class
    first = np.repeat(np.cumsum(counts) - counts, counts)   # number of its class's first image
    images = len(of_image)
    partners = of_image - 1 if same else images - of_image
    ends = np.cumsum(partners)
    total = int(ends[-1])
    few = total <= 2 * most
    if few:
        number = np.arange(total)
    else:
        number = np.minimum(((np.arange(most) + rng.random_sample(most)) * (total / most)).astype(np.int64), total - 1)
    i = np.searchsorted(ends, number, 'right')
    j = number - (ends[i] - partners[i])
    if same:
        j += first[i]
        j += j >= i
    else:
        j += np.where(j >= first[i], of_image[i], 0)
    return (i[i < j], j[i < j]) if few else (i, j)


def _squared_distances(x: np.ndarray, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    out = np.empty(len(i), np.float32)
    rows = max(CACHED // x.shape[1], 1)

    def block(first: int) -> None:
        last = min(first + PAIRS, len(i))
        for start in range(first, last, rows):
            part = slice(start, min(start + rows, last))
            difference = x.take(i[part], axis=0)
            difference -= x.take(j[part], axis=0)
            np.einsum('ij,ij->i', difference, difference, out=out[part])

    for _ in map_blocks(block, range(0, len(i), PAIRS)):
        pass
    return out
