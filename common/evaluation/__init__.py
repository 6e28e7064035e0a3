"""Evaluation: embed a set of images, and score the embedding by recall@k, MAP@R, R-precision and NMI.

    python -m common.evaluation --embeddings E.npz
    python -m common.evaluation --model X-best.params

`retrieval` defines the retrieval metrics, `clustering` the clusters that the NMI is computed from, `__main__` what the
command line does.
"""
from common.evaluation.clustering import kmeans, nmi
from common.evaluation.embedding import embed, noting_indices
from common.evaluation.metrics import DEFAULT_KS, evaluate, recall_ks
from common.evaluation.pictures import draw_neighbours, retrieval_picture
from common.evaluation.retrieval import EvaluationError, recall_at_k

__all__ = ['DEFAULT_KS', 'EvaluationError', 'draw_neighbours', 'embed', 'evaluate', 'kmeans', 'nmi', 'noting_indices',
           'recall_at_k', 'recall_ks', 'retrieval_picture']
