"""Oracles of the N-pair loss (NIPS 2016, eq. 7 and section 3.2) and the angular loss (arXiv:1708.01682, eq. 6 to 9)."""
from __future__ import annotations

from typing import List

import numpy as np


def _log_one_plus_sum_exp(exponents: List[float]) -> float:
    exponents = [0.0] + exponents
    top = max(exponents)
    return float(top + np.log(sum(np.exp(e - top) for e in exponents)))


def _regulariser(embeddings: np.ndarray, l2_reg: float) -> float:
    return l2_reg / (len(embeddings) // 2) * float(sum(np.dot(x, x) for x in embeddings))


def _npair_one_way(f: np.ndarray, f_plus: np.ndarray) -> float:
    n = len(f)
    return sum(_log_one_plus_sum_exp([np.dot(f[i], f_plus[j]) - np.dot(f[i], f_plus[i]) for j in range(n) if j != i])
               for i in range(n)) / n


def npair_loss(embeddings: np.ndarray, labels: np.ndarray, l2_reg: float = 0.0005, symmetric: bool = False) -> float:
    """Rows 2i and 2i + 1 are a pair; all classes are distinct, so that `labels` is not needed."""
    f, f_plus = embeddings[0::2], embeddings[1::2]
    loss = _npair_one_way(f, f_plus)
    if symmetric:
        loss = (loss + _npair_one_way(f_plus, f)) / 2
    return loss + _regulariser(embeddings, l2_reg)


def _angular_one_way(x_a: np.ndarray, x_p: np.ndarray, alpha: float) -> float:
    n, tan2 = len(x_a), np.tan(alpha) ** 2

    def f(a: int, k: int) -> float:
        return 4 * tan2 * np.dot(x_a[a] + x_p[a], x_p[k]) - 2 * (1 + tan2) * np.dot(x_a[a], x_p[a])

    return sum(_log_one_plus_sum_exp([f(a, k) for k in range(n) if k != a]) for a in range(n)) / n


def angular_loss(embeddings: np.ndarray, labels: np.ndarray, alpha_degrees: float = 45.0, npair_lambda: float = 0.0,
                 l2_reg: float = 0.0005, symmetric: bool = False) -> float:
    alpha, x_a, x_p = np.pi * alpha_degrees / 180, embeddings[0::2], embeddings[1::2]
    loss = _angular_one_way(x_a, x_p, alpha)
    if symmetric:
        loss = (loss + _angular_one_way(x_p, x_a, alpha)) / 2
    if npair_lambda:
        return npair_loss(embeddings, labels, l2_reg, symmetric) + npair_lambda * loss
    return loss + _regulariser(embeddings, l2_reg)
