"""All metrics of an embedding at once: recall@k, MAP@R, R-precision, NMI, and those of its structure."""
from __future__ import annotations

from typing import Any, Dict, Optional, Sequence

import mxnet as mx
import numpy as np

from common.evaluation.clustering import kmeans, nmi
from common.evaluation.retrieval import retrieval_metrics
from common.evaluation.structure import structure_metrics

DEFAULT_KS = (1, 2, 4, 8, 16, 32)
#: Datasets with other k than these.
OWN_KS = {'SOP': (1, 10, 100, 1000), 'INSHOP': (1, 10, 20, 30, 40, 50)}


def recall_ks(dataset: str) -> Sequence[int]:
    """The k of recall@k that are usual for a dataset, by its name."""
    return OWN_KS.get(dataset, DEFAULT_KS)


def evaluate(embeddings: np.ndarray, labels: np.ndarray, gallery: Optional[np.ndarray] = None,
             gallery_labels: Optional[np.ndarray] = None, ks: Sequence[int] = DEFAULT_KS, with_nmi: bool = True,
             ctx: Optional[mx.Context] = None, seed: int = 0, by_class: bool = False,
             queries: Optional[np.ndarray] = None) -> Dict[str, Any]:
    """All metrics of an embedding.

    Parameters
    ----------
    embeddings : (N, E) float array, the queries.
    labels : (N,) int array, their classes.
    gallery, gallery_labels : the set that is searched (In-shop protocol); None: the queries themselves.
    ks : the k of recall@k.
    with_nmi : whether to cluster the queries, by k-means into as many clusters as they have classes, for the NMI.
    ctx : device; a CPU (the default) is served by NumPy.
    seed : of the k-means, and of the sample of pairs.
    by_class : whether to add what recall@1 is made of, class by class.
    queries : (N,) bool array, as in `ImageSet`: the queries among the rows; the others are the gallery. None: all.

    Returns
    -------
    OrderedDict of 'recall@1', ..., 'map@r', 'r_precision' and, if `with_nmi`, 'nmi' (geometric mean), in percent; then
    the metrics of :mod:`common.evaluation.structure`, of the queries. If `by_class`, also 'class_images' and
    'class_hits', see `retrieval_metrics`.

    Raises
    ------
    EvaluationError : NaN or infinite embeddings, labels of another length, an empty gallery, one image only.
    """
    if queries is not None:
        gallery, gallery_labels = embeddings[~queries], labels[~queries]
        embeddings, labels = embeddings[queries], labels[queries]
    metrics = retrieval_metrics(embeddings, labels, gallery, gallery_labels, ks=ks, ctx=ctx, by_class=by_class)
    if with_nmi:
        clusters, _, _ = kmeans(embeddings, len(np.unique(labels)), ctx=ctx, seed=seed)
        metrics['nmi'] = 100.0 * nmi(labels, clusters)
    metrics.update(structure_metrics(embeddings, labels, seed))
    return metrics
