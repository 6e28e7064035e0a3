"""Facility-location clustering loss by brute force, arXiv:1612.01213v2: every set of medoids is scored from scratch."""
from __future__ import annotations

import itertools
import math
from typing import List, Sequence

import numpy as np

from tests.oracles.distance import distance


def distance_matrix(x: np.ndarray) -> List[List[float]]:
    return [[distance(a, b) for b in x] for a in x]


def entropy(groups: Sequence[int]) -> float:
    h = 0.0
    for g in set(groups):
        p = sum(1 for other in groups if other == g) / len(groups)
        h -= p * math.log(p)
    return h


def nmi(y: Sequence[int], clusters: Sequence[int]) -> float:
    """MI / sqrt(H H), eq. 7; where an entropy is 0: 1 if both are, else 0."""
    h_y, h_c = entropy(y), entropy(clusters)
    if h_y == 0 or h_c == 0:
        return 1.0 if h_y == h_c else 0.0
    information, total = 0.0, len(y)
    for a in set(y):
        for b in set(clusters):
            joint = sum(1 for i in range(total) if y[i] == a and clusters[i] == b) / total
            p_a = sum(1 for i in range(total) if y[i] == a) / total
            p_b = sum(1 for i in range(total) if clusters[i] == b) / total
            if joint > 0:
                information += joint * math.log(joint / (p_a * p_b))
    return information / math.sqrt(h_y * h_c)


def assign(d: List[List[float]], medoids: Sequence[int]) -> List[int]:
    """g(S): for each point the number of its nearest medoid."""
    return [min(range(len(medoids)), key=lambda k: d[i][medoids[k]]) for i in range(len(d))]


def facility(d: List[List[float]], medoids: Sequence[int]) -> float:
    """F(X, S)."""
    return -sum(min(d[i][j] for j in medoids) for i in range(len(d)))


def score(d: List[List[float]], y: Sequence[int], medoids: Sequence[int], gamma: float) -> float:
    """A(S) = F(X, S) + gamma Delta(g(S), y)."""
    return facility(d, medoids) + gamma * (1 - nmi(y, assign(d, medoids)))


def better(s: float, best: float) -> bool:
    """Is `s` higher than `best` by more than rounding? Ties are common; they go to the lower index."""
    return s > best + 1e-11 * max(1.0, abs(best))


def greedy(d: List[List[float]], y: Sequence[int], gamma: float) -> List[int]:
    medoids: List[int] = []
    while len(medoids) < len(set(y)):
        best, best_score = None, -math.inf
        for j in range(len(y)):
            if j not in medoids:
                s = score(d, y, [*medoids, j], gamma)
                if best is None or better(s, best_score):
                    best, best_score = j, s
        medoids.append(best)
    return medoids


def refine(d: List[List[float]], y: Sequence[int], medoids: Sequence[int], gamma: float, max_rounds: int) -> List[int]:
    medoids = list(medoids)
    for _ in range(max_rounds):
        before = list(medoids)
        for k in range(len(medoids)):
            clusters = assign(d, medoids)
            best, best_score = medoids[k], score(d, y, medoids, gamma)
            for j in range(len(y)):
                if clusters[j] == k:
                    s = score(d, y, [*medoids[:k], j, *medoids[k + 1:]], gamma)
                    if better(s, best_score):
                        best, best_score = j, s
            medoids[k] = best
        if medoids == before:
            break
    return medoids


def exhaustive(d: List[List[float]], y: Sequence[int], gamma: float) -> float:
    """max_S A(S), over all sets of as many medoids as classes."""
    return max(score(d, y, medoids, gamma) for medoids in itertools.combinations(range(len(y)), len(set(y))))


def facility_of_classes(d: List[List[float]], y: Sequence[int]) -> float:
    """F~(X, y)."""
    total = 0.0
    for k in set(y):
        members = [i for i in range(len(y)) if y[i] == k]
        total += max(-sum(d[i][j] for i in members) for j in members)
    return total


def search(x: np.ndarray, labels: np.ndarray, gamma: float = 1.0, max_rounds: int = 5) -> List[int]:
    d, y = distance_matrix(x), labels.tolist()
    return refine(d, y, greedy(d, y, gamma), gamma, max_rounds)


def cluster_loss(x: np.ndarray, labels: np.ndarray, medoids: Sequence[int], gamma: float = 1.0) -> float:
    """L for the set S that the search has found."""
    d, y = distance_matrix(x), labels.tolist()
    return max(0.0, score(d, y, medoids, gamma) - facility_of_classes(d, y))
