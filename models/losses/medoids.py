"""The search for the most violating medoids of the structured clustering loss, in NumPy on the host.

It works on the matrix of distances, without gradients. A candidate medoid j takes over the points that are nearer to it
than to their present medoid. All other points stay where they are. So the contingency tables of *all* candidates follow
from the present one by counting the pairs (candidate, point taken over). A step takes O(B^2) time and memory.
"""
from __future__ import annotations

from typing import Tuple

import numpy as np


def _first_best(scores: np.ndarray) -> int:
    """Position of the highest score: the first of equal ones, also where rounding tells them apart.

    Equal scores are common: of two points alone in their cluster either may be the medoid.
    """
    best = scores.max()
    return int(np.argmax(scores >= best - 1e-11 * max(1, abs(best))))


class MedoidSearch:
    r"""Scores sets S of medoids by A(S) = F(X, S) + γ Δ(g(S), y) and looks for a high score (arXiv:1612.01213v2).

    F(X, S) = -Σ_i min_{j in S} D_ij ; Δ(y, ŷ) = 1 - NMI(y, ŷ), NMI = MI / sqrt(H(y) H(ŷ)) ; ŷ = g(S) assigns every
    point to its nearest medoid, the one chosen first where two are equally near. NMI is 0 where one of the entropies is
    0 (a single cluster of several classes), and 1 where both are.

    Parameters
    ----------
    distances : float array (B, B)
        D, not squared, 0 on the diagonal.
    labels : int array (B,)
        y.
    gamma : float
        γ.
    """

    def __init__(self, distances: np.ndarray, labels: np.ndarray, gamma: float = 1.0):
        self.distances, self.gamma = distances, gamma
        _, self.labels, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        self.num_classes, self.log_b = len(sizes), np.log(len(labels))
        n = np.arange(len(labels) + 1)
        self.n_log_n = n * np.log(np.maximum(n, 1)) / len(labels)      # H = log B - Σ n log n / B, n = sizes of groups
        self.class_entropy = self.log_b - self.n_log_n[sizes].sum()

    def scores(self, candidates: np.ndarray, nearest: np.ndarray, assigned: np.ndarray) -> np.ndarray:
        """A(S + {j}) for every candidate j.

        S is given by the distance of each point to its `nearest` medoid and the cluster 0, 1, ... it is `assigned` to.
        """
        distances = self.distances[candidates]
        f = -np.minimum(distances, nearest).sum(axis=1)                                     # F(X, S + {j})
        rows, points = np.nonzero(distances < nearest)                                      # who takes over whom
        cells = assigned * self.num_classes + self.labels                                   # (cluster, class)
        taken = np.bincount(rows, minlength=len(candidates))
        clusters = self._after_loss(rows, points, assigned, len(candidates)) + self.n_log_n[taken]
        joint = (self._after_loss(rows, points, cells, len(candidates))
                 + self._of_gain(rows, points, self.labels, len(candidates)))
        return f + self.gamma * (1 - self._nmi(clusters, joint))

    def _after_loss(self, rows: np.ndarray, points: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
        """Σ n log n / B over the sizes n of `groups` (B,) once each of `count` candidates has taken its points away."""
        sizes = np.bincount(groups)
        keys, lost = np.unique(rows * len(sizes) + groups[points], return_counts=True)
        before = sizes[keys % len(sizes)]
        change = self.n_log_n[before - lost] - self.n_log_n[before]
        return self.n_log_n[sizes].sum() + np.bincount(keys // len(sizes), weights=change, minlength=count)

    def _of_gain(self, rows: np.ndarray, points: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
        """Σ n log n / B over the sizes n of `groups` among the points that each candidate takes over."""
        width = groups.max() + 1
        keys, gained = np.unique(rows * width + groups[points], return_counts=True)
        return np.bincount(keys // width, weights=self.n_log_n[gained], minlength=count)

    def _nmi(self, clusters: np.ndarray, joint: np.ndarray) -> np.ndarray:
        """NMI from Σ n log n / B over the clusters and over the cells of the contingency table."""
        cluster_entropy, joint_entropy = self.log_b - clusters, self.log_b - joint
        information = self.class_entropy + cluster_entropy - joint_entropy
        product = self.class_entropy * cluster_entropy
        alike = (self.num_classes == 1) & (cluster_entropy < 1e-9)
        return np.where(product > 1e-9, information / np.sqrt(np.maximum(product, 1e-9)), alike)

    def assign(self, medoids: np.ndarray) -> Tuple[np.ndarray, float]:
        """g(S) as clusters 0, 1, ... in the order of `medoids`, and its Δ."""
        assigned = self.distances[:, medoids].argmin(axis=1)
        clusters, joint = (self.n_log_n[np.bincount(groups)].sum()
                           for groups in (assigned, assigned * self.num_classes + self.labels))
        return assigned, 1 - float(self._nmi(clusters, joint))

    def greedy(self) -> np.ndarray:
        """Algorithm 1: from the empty set, adds the best point until there are as many medoids as classes."""
        # One cluster has the same Δ whatever its medoid, so the first one is best by F alone.
        medoids = [_first_best(-self.distances.sum(axis=1))]
        nearest, assigned = self.distances[medoids[0]], np.zeros(len(self.labels), dtype=np.intp)
        for k in range(1, self.num_classes):
            candidates = np.delete(np.arange(len(self.labels)), medoids)
            j = candidates[_first_best(self.scores(candidates, nearest, assigned))]
            assigned[self.distances[j] < nearest] = k
            nearest = np.minimum(nearest, self.distances[j])
            medoids.append(j)
        return np.array(medoids)

    def refine(self, medoids: np.ndarray, max_rounds: int) -> np.ndarray:
        """Algorithm 2 (PAM): swaps a cluster's medoid for its best member while that raises A, for `max_rounds` rounds.

        The points are assigned anew after every swap, so the score never falls.
        """
        if len(medoids) == 1:
            return medoids                                                # the greedy choice is the best there is
        medoids = medoids.copy()
        to_medoids = self.distances[:, medoids]                                              # (B, |S|)
        for _ in range(max_rounds):
            swapped = False
            for k, medoid in enumerate(medoids):
                members = np.flatnonzero(to_medoids.argmin(axis=1) == k)
                if len(members) < 2:
                    continue
                to_medoids[:, k] = np.inf                                                    # S without its k-th medoid
                members = np.append(medoid, members[members != medoid])              # stays if no other is better
                scores = self.scores(members, to_medoids.min(axis=1), to_medoids.argmin(axis=1))
                medoids[k] = members[_first_best(scores)]
                swapped |= medoids[k] != medoid
                to_medoids[:, k] = self.distances[:, medoids[k]]
            if not swapped:
                break
        return medoids

    def class_medoids(self) -> np.ndarray:
        """For every point the medoid of its own class, argmax_{j: y_j = k} F(X_k, {j}): (B,) indices."""
        same = self.labels[:, None] == self.labels
        cost = np.where(same, self.distances, 0).sum(axis=1)
        order = np.lexsort((cost, self.labels))                          # by class; the cheapest of each class first
        first = np.searchsorted(self.labels[order], np.arange(self.num_classes))
        return order[first][self.labels]
