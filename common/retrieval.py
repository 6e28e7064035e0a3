"""Exact retrieval metrics, blockwise."""
from __future__ import annotations

import collections
from typing import Optional, Sequence

import numpy as np


class EvaluationError(Exception):
    """Embeddings or labels that cannot be scored; the message is one sentence."""


def check_embeddings(x, what: str = 'embeddings') -> np.ndarray:
    """`x` as a finite, two-dimensional float array, or EvaluationError."""
    x = np.asarray(x)
    if x.ndim != 2 or x.dtype.kind not in 'fiu':
        raise EvaluationError('%s must be a two-dimensional array of numbers, but have shape %s and type %s'
                              % (what, x.shape, x.dtype))
    if not np.isfinite(x).all():
        rows = np.flatnonzero(~np.isfinite(x).all(axis=1))
        raise EvaluationError('%s contain NaN or infinite values in %d of %d rows (first: row %d)'
                              % (what, len(rows), len(x), rows[0]))
    return x


def check_pair(x, labels, what: str = 'embeddings'):
    """Embeddings and their labels, checked."""
    x, labels = check_embeddings(x, what), np.asarray(labels)
    if labels.shape != (len(x),):
        raise EvaluationError('%s have %d rows, but their labels have shape %s' % (what, len(x), labels.shape))
    return x, labels


def retrieval_metrics(query, query_labels, gallery=None, gallery_labels=None, ks=(1, 2, 4, 8, 16, 32), ctx=None):
    """recall@k, MAP@R and R-precision in percent."""
    query, query_labels = check_pair(query, query_labels)
    same = gallery is None
    if same:
        gallery, gallery_labels = query, query_labels
    gallery, gallery_labels = check_pair(gallery, gallery_labels, 'gallery embeddings')
    if len(gallery) == 0:
        raise EvaluationError('the gallery is empty')
    if same and len(gallery) < 2:
        raise EvaluationError('one image only: there is nothing to retrieve')
    q, g = query.astype(np.float64), gallery.astype(np.float64)
    centre = g.mean(axis=0)
    q, g = q - centre, g - centre
    g2 = (g ** 2).sum(axis=1)
    ks = sorted(set(int(k) for k in ks))
    hits, ap, rp = np.zeros(len(ks)), 0.0, 0.0
    for start in range(0, len(q), 256):
        block = q[start:start + 256]
        d = g2 - 2 * block.dot(g.T)
        rows = np.arange(len(block))
        if same:
            d[rows, start + rows] = np.inf
        order = np.argsort(d, axis=1, kind='stable')
        right = gallery_labels[order] == query_labels[start:start + 256, None]
        if same:
            right = right[:, :-1]
        first = np.where(right.any(axis=1), right.argmax(axis=1), len(g))
        hits += [(first < k).sum() for k in ks]
        r = right.sum(axis=1)
        within = right & (np.arange(right.shape[1]) < r[:, None])
        precision = within.cumsum(axis=1) / np.arange(1, right.shape[1] + 1)
        ap += ((precision * within).sum(axis=1) / np.maximum(r, 1)).sum()
        rp += (within.sum(axis=1) / np.maximum(r, 1)).sum()
    out = collections.OrderedDict(('recall@%d' % k, 100.0 * h / len(q)) for k, h in zip(ks, hits))
    out['map@r'] = 100.0 * ap / len(q)
    out['r_precision'] = 100.0 * rp / len(q)
    return out


def recall_at_k(query, query_labels, gallery=None, gallery_labels=None, ks: Sequence[int] = (1, 2, 4, 8, 16, 32),
                ctx=None) -> 'collections.OrderedDict[int, float]':
    """recall@k in percent: OrderedDict k -> percent."""
    m = retrieval_metrics(query, query_labels, gallery, gallery_labels, ks, ctx)
    return collections.OrderedDict((k, m['recall@%d' % k]) for k in ks)
