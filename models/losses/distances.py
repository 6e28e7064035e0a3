"""Pairwise distances that are safe in float32: on the device for the gradient, in NumPy for mining.

All are computed as ``|x|² + |y|² - 2 x·y``, in B x B memory. Cancellation makes that form wrong by about ``1e-7 |x|²``,
so the points are first moved to their common mean (distances do not change, and neither do gradients): embeddings that
share a large offset, or are all the same, come out right.
"""
from __future__ import annotations

import numpy as np

# Added to log-domain masks: far below any score, far from overflow in float32.
MINUS_INFINITY = -1e30


def same_class(F, labels):
    """Return ``S`` (B, B) float32 with ``S_ij = 1`` where ``labels_i == labels_j`` (the diagonal included), else 0."""
    labels = F.cast(labels, dtype='float32')  # exact for class ids below 2^24
    return F.broadcast_equal(F.expand_dims(labels, axis=1), F.expand_dims(labels, axis=0))


def weighted_sum(F, weights, values):
    """Return Σ weights · values over all entries of two matrices, (1,).

    One BLAS call, no matrix of products; MXNet's own ``sum`` takes two (B = 128) to thirty times (B = 1024) as long.
    """
    return F.dot(F.reshape(weights, shape=(-1,)), F.reshape(values, shape=(-1,)))


def row_sums(F, x):
    """Return Σ_j x_ij, (B, 1), by BLAS for the same reason."""
    return F.dot(x, F.ones_like(F.slice_axis(x, axis=0, begin=0, end=1)), transpose_b=True)


def log_sum_exp(F, scores):
    """Return log Σ_j exp(scores_ij), (B, 1), without overflow.

    Not by MXNet's ``log_softmax``: on the CPU it is wrong by 1.4e-6 (so that a loss can fall below 0), and its gradient
    crashes MXNet 1.9.1 where the scores come from ``concat``.
    """
    top = F.BlockGrad(F.max(scores, axis=1, keepdims=True))
    return top + F.log(row_sums(F, F.exp(F.broadcast_sub(scores, top))))


def other_rows(F, labels):
    """Return (B, B) float32 with 0 on the diagonal and 1 elsewhere, B being the length of `labels`."""
    index = F.contrib.arange_like(F.cast(labels, dtype='float32'))
    return F.broadcast_not_equal(F.expand_dims(index, axis=1), F.expand_dims(index, axis=0))


def squared_distances(F, x, y=None, centre: bool = True):
    """Squared Euclidean distances, differentiable everywhere.

    Parameters
    ----------
    F : module
        ``mxnet.nd`` or ``mxnet.sym``.
    x : (B, E)
    y : (C, E), optional
        Without it, distances are among the rows of `x`.
    centre : bool
        Move the points by the mean of `x` first. Not needed for rows of norm 1.

    Returns
    -------
    (B, C) or (B, B). Rounding may leave values slightly below 0, also on the diagonal: mask it.
    """
    if centre:
        mean = F.BlockGrad(F.mean(x, axis=0, keepdims=True))
        x = F.broadcast_sub(x, mean)
        y = y if y is None else F.broadcast_sub(y, mean)
    # Three dimensions, because on the CPU the gradient of a `concat` of matrices loses 3 KB of memory at every step.
    x, y = F.expand_dims(x, axis=1), y if y is None else F.expand_dims(y, axis=1)
    x2 = F.sum(F.square(x), axis=2, keepdims=True)
    y, y2 = (x, x2) if y is None else (y, F.sum(F.square(y), axis=2, keepdims=True))
    # [-2x, |x|², 1] · [y, 1, |y|²]: one product, one matrix, and the gradient is two products.
    left, right = F.concat(-2 * x, x2, F.ones_like(x2), dim=2), F.concat(y, F.ones_like(y2), y2, dim=2)
    return F.dot(F.reshape(left, shape=(0, -1)), F.reshape(right, shape=(0, -1)), transpose_b=True)


def distances(F, x, y=None, eps: float = 1e-16, centre: bool = True):
    """Euclidean distances (not squared), with gradient 0 instead of NaN where two points coincide.

    `eps` is the smallest squared distance told from 0; see `squared_distances` for the rest.
    """
    return F.sqrt(F.maximum(squared_distances(F, x, y, centre), eps))


def host_squared_distances(x: np.ndarray) -> np.ndarray:
    """Squared distances among the rows of `x` (B, E), float64 (B, B), none negative: for choosing indices.

    Double precision makes moving the points unnecessary.
    """
    x = x.astype(np.float64)
    x2 = np.einsum('ij,ij->i', x, x)
    d2 = x @ x.T
    d2 *= -2
    d2 += x2[:, None]
    d2 += x2
    return np.maximum(d2, 0, out=d2)
