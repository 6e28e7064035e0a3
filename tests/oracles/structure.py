"""The metrics of an embedding's structure by loops over pairs, in float64, as their papers write them."""
from __future__ import annotations

import math

import numpy as np


def unit(x):
    """Rows of length 1; rows of zeros stay."""
    out = []
    for row in np.asarray(x, np.float64):
        largest = np.abs(row).max()
        row = row / (largest if largest else 1)
        length = math.sqrt(sum(value * value for value in row))
        out.append(row / (length if length else 1))
    return np.array(out)


def squared(a, b):
    return sum((u - v) ** 2 for u, v in zip(a.tolist(), b.tolist()))


def structure(embeddings, labels):
    """All metrics that are defined, over all pairs; rho by the singular values themselves."""
    x, found = unit(embeddings), {}
    pairs = [(i, j) for i in range(len(x)) for j in range(i + 1, len(x))]
    distance = {(i, j): squared(x[i], x[j]) for i, j in pairs}
    same = [distance[i, j] for i, j in pairs if labels[i] == labels[j]]
    other = [distance[i, j] for i, j in pairs if labels[i] != labels[j]]

    within, centres = [], []
    for c in sorted(set(labels.tolist())):
        members = [i for i in range(len(x)) if labels[i] == c]
        own = [distance[i, j] / 2 for i in members for j in members if i < j]
        if own:
            within.append(sum(own) / len(own))
        centres.append(unit([sum(x[i] for i in members) / len(members)])[0])
    between = [squared(a, b) / 2 for n, a in enumerate(centres) for b in centres[n + 1:]]
    if within:
        found['intra_distance'] = sum(within) / len(within)
        found['alignment'] = sum(same) / len(same)
    if between:
        found['inter_distance'] = sum(between) / len(between)
        if within and found['inter_distance'] > 1e-9:
            found['distance_ratio'] = found['intra_distance'] / found['inter_distance']

    values = np.linalg.svd(x, compute_uv=False)
    if values.min() > 1e-6 * values.max():
        share = values / values.sum()
        found['rho'] = sum(1 / len(values) * math.log(1 / len(values) / s) for s in share)

    found['uniformity'] = math.log(sum(math.exp(-2 * d) for d in distance.values()) / len(pairs))
    if same and other:
        wins = sum(1.0 if p < n else 0.5 if p == n else 0.0 for p in same for n in other)
        found['pair_auc'] = 100 * wins / (len(same) * len(other))
        for rate in 0.001, 0.01, 0.1:
            best = None
            for threshold in sorted(set(other)):                    # "of one class" where nearer than the threshold
                if sum(n < threshold for n in other) <= rate * len(other):
                    best = threshold
            if rate * len(other) >= 1:
                found[f'tpr@{rate:g}'] = 100 * sum(p < best for p in same) / len(same)
    return found
