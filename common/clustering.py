"""k-means and normalised mutual information."""
from __future__ import annotations

from typing import Optional, Tuple

import numpy as np
import scipy.sparse


def kmeans(x: np.ndarray, k: int, ctx=None, seed: int = 0, max_iter: int = 50, tol: float = 1e-4,
           ) -> Tuple[np.ndarray, np.ndarray, float]:
    """Lloyd's k-means: (assignments (N,), centroids (k, E), inertia)."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    x = x - x.mean(axis=0)
    rng = np.random.RandomState(seed)
    centroids = x[rng.permutation(len(x))[:k]].copy()
    x2 = (x.astype(np.float64) ** 2).sum(axis=1)
    previous = np.inf
    for _ in range(max_iter):
        assign, d = np.empty(len(x), np.int64), np.empty(len(x))
        c2 = (centroids ** 2).sum(axis=1)
        for s in range(0, len(x), 1024):
            dist = c2 - 2 * x[s:s + 1024].dot(centroids.T)
            assign[s:s + 1024] = dist.argmin(axis=1)
            d[s:s + 1024] = dist.min(axis=1)
        d = np.maximum(d + x2, 0)
        inertia = d.sum()
        count = np.bincount(assign, minlength=k)
        empty = np.flatnonzero(count == 0)
        if len(empty):
            far = np.argsort(-d, kind='stable')[:len(empty)]
            assign[far] = empty
            count = np.bincount(assign, minlength=k)
        onehot = scipy.sparse.csr_matrix((np.ones(len(x), np.float32), assign, np.arange(len(x) + 1)), (len(x), k))
        centroids = onehot.T.dot(x) / np.maximum(count, 1)[:, None].astype(np.float32)
        if previous - inertia <= tol * inertia:
            break
        previous = inertia
    return assign, centroids, float(inertia)


def nmi(labels: np.ndarray, clusters: np.ndarray, average: str = 'geometric') -> float:
    """Normalised mutual information, 0..1."""
    n = len(labels)
    a, b = np.unique(labels, return_inverse=True)[1], np.unique(clusters, return_inverse=True)[1]
    joint = scipy.sparse.coo_matrix((np.ones(n), (a, b))).tocsr().tocoo()
    p, pa, pb = joint.data / n, np.bincount(a) / n, np.bincount(b) / n
    mi = (p * (np.log(p) - np.log(pa[joint.row]) - np.log(pb[joint.col]))).sum()
    ha, hb = -(pa * np.log(pa)).sum(), -(pb * np.log(pb)).sum()
    if ha == 0 and hb == 0:
        return 1.0
    return float(max(0.0, mi) / max(np.sqrt(ha * hb), np.finfo(np.float64).eps))
