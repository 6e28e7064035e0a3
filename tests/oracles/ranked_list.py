"""Oracle of the ranked list loss (arXiv:1903.03238, eq. 2 to 7), query by query."""
from __future__ import annotations

from typing import Optional

import numpy as np

from tests.oracles.distance import distance


def ranked_list_loss(embeddings: np.ndarray, labels: np.ndarray, alpha: float = 1.2, margin: float = 0.4,
                     temperature: float = 10.0, lam: float = 0.5, weights_at: Optional[np.ndarray] = None) -> float:
    """`weights_at`: embeddings at which w and the sets P*, N* are taken, so that differences see them as constants."""
    fixed = embeddings if weights_at is None else weights_at
    losses, batch = [], len(labels)
    for i in range(batch):
        others = [j for j in range(batch) if j != i]
        positives = [j for j in others if labels[j] == labels[i] and distance(fixed[i], fixed[j]) > alpha - margin]
        negatives = [j for j in others if labels[j] != labels[i] and distance(fixed[i], fixed[j]) < alpha]
        if not positives and not negatives:
            continue
        d = {j: distance(embeddings[i], embeddings[j]) for j in others}
        w = {j: np.exp(temperature * (alpha - distance(fixed[i], fixed[j]))) for j in negatives}
        loss_p = sum(d[j] - (alpha - margin) for j in positives) / max(len(positives), 1)
        loss_n = sum(w[j] / sum(w.values()) * (alpha - d[j]) for j in negatives)
        losses.append((1 - lam) * loss_p + lam * loss_n)
    return sum(losses) / max(len(losses), 1)
