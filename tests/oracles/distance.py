"""Distances by their definition, in float64."""
from __future__ import annotations

import numpy as np


def squared_distance(x: np.ndarray, y: np.ndarray) -> float:
    return float(sum((a - b) ** 2 for a, b in zip(x, y)))


def distance(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sqrt(squared_distance(x, y)))
