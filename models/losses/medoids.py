"""The search for the most violating medoids inside :class:`models.losses.ClusterLoss`, in NumPy on the host.

It works on the matrix of distances alone, without gradients. A candidate medoid j takes over the points that are nearer
to it than to their present medoid, the others are kept. So the contingency tables of *all* candidates follow from two
masks (candidates x B) by matrix products with indicators of the present clusters, classes and their intersections, of
which at most B are not empty: O(B^2) memory, and no loop over candidates or points.
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

    def _sum_n_log_n(self, masks: np.ndarray, groups: np.ndarray) -> np.ndarray:
        """Σ n log n / B over the sizes n of the groups among the points of each mask: (M, B), (B,) -> (M,)."""
        indicator = np.eye(groups.max() + 1, dtype=np.float32)[groups]
        return self.n_log_n[(masks.astype(np.float32) @ indicator).astype(np.intp)].sum(axis=1)

    def scores(self, candidates: np.ndarray, nearest: np.ndarray, assigned: np.ndarray) -> np.ndarray:
        """A(S + {j}) for every candidate j.

        S is given by the distance of each point to its `nearest` medoid and the cluster 0, 1, ... it is `assigned` to
        (S empty: infinite and 0).
        """
        distances = self.distances[candidates]
        f = -np.minimum(distances, nearest).sum(axis=1)                                     # F(X, S + {j})
        taken = distances < nearest
        kept = ~taken
        cells = np.unique(assigned * self.num_classes + self.labels, return_inverse=True)[1]
        cluster_entropy = self.log_b - self._sum_n_log_n(kept, assigned) - self.n_log_n[taken.sum(axis=1)]
        joint_entropy = self.log_b - self._sum_n_log_n(kept, cells) - self._sum_n_log_n(taken, self.labels)
        return f + self.gamma * (1 - self._nmi(cluster_entropy, joint_entropy))

    def _nmi(self, cluster_entropy: np.ndarray, joint_entropy: np.ndarray) -> np.ndarray:
        information = self.class_entropy + cluster_entropy - joint_entropy
        product = self.class_entropy * cluster_entropy
        alike = (self.num_classes == 1) & (cluster_entropy < 1e-9)
        return np.where(product > 1e-9, information / np.sqrt(np.maximum(product, 1e-9)), alike)

    def assign(self, medoids: np.ndarray) -> Tuple[np.ndarray, float]:
        """g(S) as clusters 0, 1, ... in the order of `medoids`, and its Δ."""
        assigned = self.distances[:, medoids].argmin(axis=1)
        everything = np.ones((1, len(assigned)), dtype=bool)
        cells = np.unique(assigned * self.num_classes + self.labels, return_inverse=True)[1]
        return assigned, 1 - float(self._nmi(self.log_b - self._sum_n_log_n(everything, assigned),
                                             self.log_b - self._sum_n_log_n(everything, cells))[0])

    def greedy(self) -> np.ndarray:
        """Algorithm 1: from the empty set, adds the best point until there are as many medoids as classes."""
        batch = len(self.labels)
        nearest, assigned = np.full(batch, np.inf), np.zeros(batch, dtype=np.intp)
        free, medoids = np.ones(batch, dtype=bool), []
        for k in range(self.num_classes):
            candidates = np.flatnonzero(free)
            j = candidates[_first_best(self.scores(candidates, nearest, assigned))]
            assigned[self.distances[j] < nearest] = k
            nearest = np.minimum(nearest, self.distances[j])
            free[j] = False
            medoids.append(j)
        return np.array(medoids)

    def refine(self, medoids: np.ndarray, max_rounds: int) -> np.ndarray:
        """Algorithm 2 (PAM): swaps a cluster's medoid for its best member while that raises A, for `max_rounds` rounds.

        The points are assigned anew after every swap, so the score never falls.
        """
        medoids = medoids.copy()
        to_medoids = self.distances[:, medoids]                                              # (B, |S|)
        for _ in range(max_rounds):
            swapped = False
            for k, medoid in enumerate(medoids):
                members = np.flatnonzero(to_medoids.argmin(axis=1) == k)
                if len(members) < 2:
                    continue
                to_medoids[:, k] = np.inf                                                    # S without its k-th medoid
                members = np.append(medoid, members[members != medoid])                      # stays if no other is better
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
