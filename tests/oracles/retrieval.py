"""recall@k, MAP@R and R-precision by a loop over queries, with a stable sort of float64 distances from differences."""
from __future__ import annotations

import numpy as np

NEVER = np.iinfo(np.int64).max


def brute_force(query, query_labels, gallery=None, gallery_labels=None):
    """(rank of the nearest positive or NEVER, average precision, R-precision) of every query."""
    itself = gallery is None
    if itself:
        gallery, gallery_labels = query, query_labels
    first, precisions, shares = [], [], []
    for i in range(len(query)):
        distances = ((gallery.astype(np.float64) - query[i].astype(np.float64)) ** 2).sum(axis=1)
        order = [j for j in np.argsort(distances, kind='stable') if not (itself and j == i)]
        right = [gallery_labels[j] == query_labels[i] for j in order]
        relevant = sum(right)
        first.append(right.index(True) + 1 if relevant else NEVER)
        hits, total = 0, 0.0
        for place in range(relevant):
            if right[place]:
                hits += 1
                total += hits / (place + 1)
        precisions.append(total / relevant if relevant else 0.0)
        shares.append(hits / relevant if relevant else 0.0)
    return np.array(first), np.array(precisions), np.array(shares)
