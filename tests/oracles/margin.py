"""Oracle of the margin loss (arXiv:1706.07567): summed pair by pair, and the sampling's exact probabilities."""
from __future__ import annotations

from typing import List, Sequence, Tuple

import numpy as np

from tests.oracles.distance import distance


def margin_loss(embeddings: np.ndarray, labels: np.ndarray, betas: np.ndarray,
                negative_pairs: Sequence[Tuple[int, int]], alpha: float = 0.2, nu: float = 0.0) -> float:
    """Loss with the drawn (anchor, negative) pairs given; `betas` (C,) by class."""
    terms, anchors, betas = [], [], np.asarray(betas, dtype=np.float64)
    for a in range(len(labels)):
        for p in range(len(labels)):
            if p != a and labels[p] == labels[a]:
                terms.append(max(0.0, alpha + distance(embeddings[a], embeddings[p]) - betas[labels[a]]))
                anchors.append(a)
    for a, n in negative_pairs:
        assert labels[a] != labels[n]
        terms.append(max(0.0, alpha - distance(embeddings[a], embeddings[n]) + betas[labels[a]]))
    active = sum(term > 0 for term in terms)
    return (sum(terms) + nu * sum(betas[labels[a]] for a in anchors)) / max(active, 1)


def negative_probabilities(embeddings: np.ndarray, labels: np.ndarray, anchor: int, min_distance: float = 0.5,
                           max_distance: float = 1.4) -> List[float]:
    """Pr(n | anchor) for every row n of the batch."""
    dim = embeddings.shape[1]

    def q(d: float) -> float:
        return d ** (dim - 2) * (1 - d * d / 4) ** ((dim - 3) / 2)

    weights = []
    for n in range(len(labels)):
        d = distance(embeddings[anchor], embeddings[n])
        if labels[n] == labels[anchor] or d >= max_distance:
            weights.append(0.0)
        else:
            weights.append(min(1 / q(min_distance), 1 / q(d)))
    if sum(weights) == 0:
        weights = [float(label != labels[anchor]) for label in labels]
    return [w / sum(weights) for w in weights]
