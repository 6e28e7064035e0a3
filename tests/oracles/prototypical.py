"""Oracle of the prototypical loss (arXiv:1703.05175, eq. 1 and 2), query by query."""
from __future__ import annotations

import numpy as np

from tests.oracles.distance import squared_distance


def prototypical_loss(embeddings: np.ndarray, labels: np.ndarray, ns: int) -> float:
    """The first `ns` rows of a class are its support, the others its queries; the order of the classes is any."""
    classes = list(dict.fromkeys(labels.tolist()))
    prototypes = {k: sum(embeddings[labels == k][:ns]) / ns for k in classes}
    losses = []
    for k in classes:
        for query in embeddings[labels == k][ns:]:
            scores = {other: -squared_distance(query, prototypes[other]) for other in classes}
            top = max(scores.values())
            losses.append(top + np.log(sum(np.exp(s - top) for s in scores.values())) - scores[k])
    return float(np.mean(losses))
