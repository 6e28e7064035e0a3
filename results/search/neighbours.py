"""The nearest pictures, and a map of the gallery in two dimensions, from embeddings."""
from __future__ import annotations

from typing import Optional, Tuple

import numpy as np

BLOCK = 4096            # queries whose distances are computed at once


def nearest(queries: np.ndarray, gallery: np.ndarray, own: np.ndarray, count: int) -> Tuple[np.ndarray, np.ndarray]:
    """The nearest rows of the gallery, by Euclidean distance, exactly; of equally near ones, the first come first.

    Parameters
    ----------
    queries : (Q, E) float array
    gallery : (N, E) float array
    own : (Q,) int array
        Where a query itself is in the gallery, or -1. A query does not find itself.
    count : int
        How many; fewer where the gallery is smaller.

    Returns
    -------
    places : (Q, K) int array
    distances : (Q, K) float64 array
    """
    from sklearn.neighbors import NearestNeighbors      # slow to import

    more = min(count + 1, len(gallery))         # one of them may be the query itself
    count = min(count, len(gallery) - bool((own >= 0).any()))
    index = NearestNeighbors(n_neighbors=more, algorithm='brute').fit(gallery)
    places, distances = [], []
    for start in range(0, len(queries), BLOCK):
        block = queries[start:start + BLOCK]
        found = index.kneighbors(block, return_distance=False)
        # Those of the library are rounded: equal pictures have a distance above 0.
        exact = np.linalg.norm(gallery[found].astype(np.float64) - block[:, None], axis=2)
        exact[found == own[start:start + BLOCK, None]] = np.inf
        order = np.lexsort((found, exact), axis=1)[:, :count]
        places.append(np.take_along_axis(found, order, axis=1))
        distances.append(np.take_along_axis(exact, order, axis=1))
    return np.concatenate(places), np.concatenate(distances)


def rank_of_first_right(wrong: np.ndarray) -> np.ndarray:
    """How many wrong pictures stand before the first right one; K where all K are wrong."""
    return np.where(wrong.all(axis=1), wrong.shape[1], wrong.argmin(axis=1))


def worst(wrong: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """The queries whose first neighbour is wrong, the worst first.

    The worst have the most wrong pictures before the first right one; among equals, those whose wrong one is nearest.
    """
    order = np.lexsort((distances[:, 0], -rank_of_first_right(wrong)))
    return order[wrong[order, 0]]


def project(x: np.ndarray, method: str, seed: int) -> Tuple[np.ndarray, Optional[str]]:
    """Places in two dimensions, each from 0 to 1.

    Parameters
    ----------
    x : (N, E) float array
    method : 'tsne' or 'pca'
        t-SNE (L. van der Maaten, G. Hinton, JMLR 2008) starts from the first two principal components, and sees 50 of
        them where E is larger.
    seed : int

    Returns
    -------
    places : (N, 2) float array
    said : str
        What was done, in words.
    """
    from sklearn.decomposition import PCA       # slow to import
    from sklearn.manifold import TSNE

    x = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    x /= np.abs(x).max() or 1.0
    places, said = np.zeros((len(x), 2)), 'PCA: the first two principal components'
    if x.any():
        parts = PCA(min(50, *x.shape), svd_solver='full').fit_transform(x)
        places[:, :parts.shape[1]] = parts[:, :2]
        if method == 'tsne' and len(x) > 3:
            perplexity = min(30.0, (len(x) - 1) / 3)
            start = places / places[:, 0].std() * 1e-4
            places = TSNE(init=start.astype(np.float32), learning_rate='auto', perplexity=perplexity,
                          random_state=seed).fit_transform(parts.astype(np.float32)).astype(np.float64)
            said = f't-SNE, perplexity {perplexity:.3g}, seed {seed}'
            if x.shape[1] > parts.shape[1]:
                said += f', of the first {parts.shape[1]} principal components'
    places -= places.min(axis=0)
    return places / (places.max() or 1.0), said
