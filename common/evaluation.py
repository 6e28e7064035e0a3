"""Embed a set of images and score the embedding: recall@k, MAP@R, R-precision and NMI.

MAP@R and R-precision follow K. Musgrave, S. Belongie, S. Lim, "A Metric Learning Reality Check",
arXiv:2003.08505, section 4.1; recall@k is that of H. Oh Song et al., arXiv:1511.06452.
"""
from __future__ import annotations

import collections
from typing import Callable, Iterable, Optional, Sequence

import mxnet as mx
import numpy as np

from .clustering import kmeans, nmi
from .retrieval import EvaluationError, recall_at_k, retrieval_metrics

__all__ = ['EvaluationError', 'embed', 'evaluate', 'kmeans', 'nmi', 'recall_at_k']

DEFAULT_KS = (1, 2, 4, 8, 16, 32)


def evaluate(embeddings: np.ndarray, labels: np.ndarray, gallery: Optional[np.ndarray] = None,
             gallery_labels: Optional[np.ndarray] = None, ks: Sequence[int] = DEFAULT_KS, with_nmi: bool = True,
             ctx=None, seed: int = 0) -> 'collections.OrderedDict[str, float]':
    """All metrics of an embedding, in percent.

    Parameters
    ----------
    embeddings : (N, E) float array, the queries.
    labels : (N,) int array, their classes.
    gallery, gallery_labels : the set that is searched, if it is not the queries themselves (In-shop protocol).
    ks : the k of recall@k.
    with_nmi : also cluster the queries (k-means into as many clusters as they have classes) and give the NMI.
    ctx : device for the computation; default CPU.
    seed : of the k-means.

    Returns
    -------
    OrderedDict 'recall@1', ..., 'map@r', 'r_precision', 'nmi' (geometric mean; only if `with_nmi`) -> percent.

    Raises
    ------
    EvaluationError : NaN or infinite embeddings, wrong lengths, an empty gallery, one image only.
    """
    metrics = retrieval_metrics(embeddings, labels, gallery, gallery_labels, ks=ks, ctx=ctx)
    if with_nmi:
        labels = np.asarray(labels)
        clusters, _, _ = kmeans(embeddings, len(np.unique(labels)), ctx=ctx, seed=seed)
        metrics['nmi'] = 100.0 * nmi(labels, clusters)
    return metrics


def embed(net: Callable, loader: Iterable, ctx: Sequence[mx.Context]):
    """Embed all images of a loader.

    Every batch that reaches the network has the same shape (the last one is padded with zeros, and the padding's
    embeddings are cut off), so that a hybridized network is compiled once. Results are fetched two batches late:
    MXNet computes while the next images are decoded.

    Parameters
    ----------
    net : callable from (B, H, W, 3) uint8 NDArray to (B, E) NDArray, or to an OrderedDict name -> (B, E) NDArray.
    loader : iterable of batches with `.images` (B, H, W, 3) uint8 and `.labels` (B,) NumPy arrays.
    ctx : devices; every batch is split over them.

    Returns
    -------
    embeddings : (N, E) float32 array, or an OrderedDict of them if the network has several outputs.
    labels : (N,) int64 array.
    """
    ctx = list(ctx) if isinstance(ctx, (list, tuple)) else [ctx]
    share = None                # images for each device in one batch, fixed by the first batch
    pending = collections.deque()
    columns, labels = collections.OrderedDict(), []
    single = True

    def fetch():
        parts, count = pending.popleft()
        for name in parts[0]:
            rows = np.concatenate([part[name].asnumpy() for part in parts])[:count]
            columns.setdefault(name, []).append(rows.astype(np.float32, copy=False))

    for batch in loader:
        images = np.asarray(batch.images)
        labels.append(np.asarray(batch.labels, dtype=np.int64))
        if share is None:
            share = -(-len(images) // len(ctx))
        for start in range(0, len(images), share * len(ctx)):
            chunk = images[start:start + share * len(ctx)]
            count = len(chunk)
            if count < share * len(ctx):
                chunk = np.concatenate([chunk, np.zeros((share * len(ctx) - count,) + chunk.shape[1:], chunk.dtype)])
            parts = []
            for i, device in enumerate(ctx):
                out = net(mx.nd.array(chunk[i * share:(i + 1) * share], ctx=device, dtype=chunk.dtype))
                single = not isinstance(out, dict)
                parts.append(collections.OrderedDict([('', out)]) if single else out)
            pending.append((parts, count))
            if len(pending) > 2:
                fetch()
    while pending:
        fetch()
    if not labels:
        raise EvaluationError('there are no images to embed')
    arrays = collections.OrderedDict((name, np.concatenate(rows)) for name, rows in columns.items())
    return (arrays[''] if single else arrays), np.concatenate(labels)
