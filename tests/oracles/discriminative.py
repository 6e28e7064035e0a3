"""Discriminative loss, arXiv:1904.08720, eq. 8-13, term by term."""
from __future__ import annotations

import numpy as np

def discriminative_loss(f: np.ndarray, labels: np.ndarray, gain: float = 1.0, squared: bool = False) -> float:
    num_classes, total = f.shape[1], 0.0
    centroids = np.eye(num_classes)
    for e, y in zip(f, labels):
        d = [np.linalg.norm(e - c) ** (2 if squared else 1) for c in centroids]
        total += d[y] - sum(d[m] for m in range(num_classes) if m != y) / (3 * (num_classes - 1))
    return gain * total / len(f)
