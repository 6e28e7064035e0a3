"""Oracle of the lifted structured loss (arXiv:1511.06452, eq. 4), pair by pair."""
from __future__ import annotations

import numpy as np

from tests.oracles.distance import distance


def lifted_struct_loss(embeddings: np.ndarray, labels: np.ndarray, margin: float = 1.0) -> float:
    total, pairs, batch = 0.0, 0, len(labels)
    for i in range(batch):
        for j in range(i + 1, batch):  # unordered
            if labels[i] != labels[j]:
                continue
            pairs += 1
            exponents = [margin - distance(embeddings[end], embeddings[k])
                         for end in (i, j) for k in range(batch) if labels[k] != labels[end]]
            if exponents:
                log_sum = max(exponents) + np.log(sum(np.exp(e - max(exponents)) for e in exponents))
                total += max(0.0, log_sum + distance(embeddings[i], embeddings[j])) ** 2
    return total / (2 * max(pairs, 1))
