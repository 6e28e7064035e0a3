"""Proxy-NCA and relatives (arXiv:1703.07464), normalised softmax (arXiv:1811.12649), term by term."""
from __future__ import annotations

import math
from typing import List

import numpy as np

from tests.oracles.distance import distance, squared_distance


def unit_rows(x: np.ndarray) -> List[List[float]]:
    """Rows of length one (zero rows stay zero), as lists: the loops below are slow enough."""
    rows = []
    for row in x.tolist():
        length = math.sqrt(sum(a * a for a in row))
        rows.append([a / length for a in row] if length else row)
    return rows


def _log_sum_exp(values: List[float]) -> float:
    largest = max(values)
    return largest + math.log(sum(math.exp(v - largest) for v in values))


def _target(y: int, z: int, num_classes: int, smooth: float) -> float:
    return (1 - smooth) * (z == y) + smooth / num_classes


def softmax_proxy_loss(x: np.ndarray, labels: np.ndarray, proxies: np.ndarray, own_in_denominator: bool, s: float = 3.0,
                       temperature: float = 1.0, smooth: float = 0.0) -> float:
    """'nca' (the own class is not in the denominator) and 'xentropy' (it is)."""
    classes, total, proxies = range(len(proxies)), 0.0, unit_rows(proxies)
    for e, y in zip(unit_rows(x), labels):
        d = [squared_distance([s * a for a in e], [s * a for a in p]) / temperature for p in proxies]
        log_denominator = _log_sum_exp([-d[z] for z in classes if own_in_denominator or z != y])
        total += sum(_target(y, z, len(proxies), smooth) * -(-d[z] - log_denominator) for z in classes)
    return total / len(x)


def triplet_proxy_loss(x: np.ndarray, labels: np.ndarray, proxies: np.ndarray, temperature: float = 1.0) -> float:
    total, count, proxies = 0.0, 0, unit_rows(proxies)
    for e, y in zip(unit_rows(x), labels):
        d = [squared_distance(e, p) / temperature for p in proxies]
        for z in range(len(proxies)):
            if z != y:
                total += max(0.0, d[y] - d[z] + 1)
                count += 1
    return total / count


def margin_proxy_loss(x: np.ndarray, labels: np.ndarray, proxies: np.ndarray, betas: np.ndarray,
                      alpha: float = 0.2) -> float:
    total, count, proxies, betas = 0.0, 0, unit_rows(proxies), betas.astype(np.float64)
    for e, y in zip(unit_rows(x), labels):
        for z in range(len(proxies)):
            d = distance(e, proxies[z])
            term = max(0.0, alpha + d - betas[y] if z == y else alpha - d + betas[y])
            total += term
            count += term > 0
    return total / max(count, 1)


def norm_proxy_loss(x: np.ndarray, labels: np.ndarray, proxies: np.ndarray, sigma: float = 0.05,
                    smooth: float = 0.1) -> float:
    classes, total, proxies = range(len(proxies)), 0.0, unit_rows(proxies)
    for e, y in zip(unit_rows(x), labels):
        logits = [sum(a * b for a, b in zip(e, p)) / sigma for p in proxies]
        log_denominator = _log_sum_exp(logits)
        total -= sum(_target(y, z, len(proxies), smooth) * (logits[z] - log_denominator) for z in classes)
    return total / len(x)
