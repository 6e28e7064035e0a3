"""Oracle of the triplet loss with semi-hard negatives (arXiv:1503.03832, section 3.2), triplet by triplet."""
from __future__ import annotations

import numpy as np

from tests.oracles.distance import squared_distance


def triplet_semihard_loss(embeddings: np.ndarray, labels: np.ndarray, margin: float = 1.0) -> float:
    total, pairs, batch = 0.0, 0, len(labels)
    for a in range(batch):
        to_negatives = [squared_distance(embeddings[a], embeddings[n]) for n in range(batch) if labels[n] != labels[a]]
        for p in range(batch):
            if p == a or labels[p] != labels[a]:
                continue
            pairs += 1
            d_ap = squared_distance(embeddings[a], embeddings[p])
            farther = [d for d in to_negatives if d > d_ap]
            if farther:
                total += max(0.0, d_ap - min(farther) + margin)
            elif to_negatives:
                total += max(0.0, d_ap - max(to_negatives) + margin)
    return total / max(pairs, 1)
