"""Distance-weighted sampling of negatives (arXiv:1706.07567, section 4.1), in NumPy on the host."""
from __future__ import annotations

import numpy as np

from models.losses.distances import host_squared_distances


def log_inverse_q(d: np.ndarray, dim: int) -> np.ndarray:
    """Log of 1 / q(d), up to a constant: how rare the distance d is between random points on the sphere in R^dim."""
    return (2 - dim) * np.log(d) + (3 - dim) / 2 * np.log(1 - d * d / 4)


def distance_weighted_pairs(embeddings: np.ndarray, labels: np.ndarray, rng: np.random.RandomState,
                            min_distance: float = 0.5, max_distance: float = 1.4) -> np.ndarray:
    """For every ordered positive pair (a, p), draw one negative n of its anchor.

    Pr(n | a) ~ min(1 / q(min_distance), 1 / q(D_an)), q(d) ~ d^(E-2) (1 - d²/4)^((E-3)/2).

    Only negatives nearer than `max_distance` are drawn, or any, evenly, where there are none. 1 / q spans hundreds of
    orders of magnitude: the work is done on logarithms, relative to the largest of each anchor.

    Parameters
    ----------
    embeddings : (B, E), of norm 1
    labels : (B,), in any order
    rng : RandomState
        One number is drawn from it for every positive pair whose anchor has a negative.

    Returns
    -------
    (B, B) float32: 1 at every positive pair (a, p), the number of draws at every (a, n). B x B memory.
    """
    batch, dim = embeddings.shape
    same = labels[:, None] == labels
    pairs = (same & ~np.eye(batch, dtype=bool)).astype(np.float32)
    d = np.sqrt(host_squared_distances(embeddings), dtype=np.float32)
    near = ~same & (d < max_distance)
    log_w = log_inverse_q(np.clip(d, min_distance, max_distance, out=d), dim)
    del d  # B x B
    log_w[~near] = -np.inf
    far, alone = ~near.any(axis=1), same.all(axis=1)
    log_w[far] = np.where(same[far], -np.inf, 0)
    log_w[alone] = 0  # no negative at all: not drawn from

    log_w -= log_w.max(axis=1, keepdims=True)
    cdf = np.exp(log_w, out=log_w).cumsum(axis=1, dtype=np.float64)
    cdf /= cdf[:, -1:]
    cdf += np.arange(batch)[:, None]  # row i now covers (i, i + 1]: one search serves all anchors
    anchors = np.nonzero(pairs)[0]
    anchors = anchors[~alone[anchors]]
    draws = rng.random_sample(len(anchors)) * (1 - 1e-9)  # keeps i + draw below i + 1 after rounding
    drawn, times = np.unique(np.searchsorted(cdf.ravel(), anchors + draws, side='right'), return_counts=True)
    pairs.ravel()[drawn] += times
    return pairs
