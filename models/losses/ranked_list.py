"""Ranked list loss: Wang, Hua, Kodirov, Hu, Garnier, Robertson, "Ranked list loss for deep metric learning", CVPR 2019
(arXiv:1903.03238)."""
from __future__ import annotations

from mxnet.gluon.loss import Loss

from models.losses.distances import MINUS_INFINITY, distances, other_rows, same_class


class RankedListLoss(Loss):
    r"""Ranked list loss (eq. 2 to 7), every image of the batch being a query once.

    .. math::
        P^*_i = \{ j \ne i : y_j = y_i, D_{ij} > \alpha - m \} , \qquad
        N^*_i = \{ j : y_j \ne y_i, D_{ij} < \alpha \}

    .. math::
        L_P = \frac{1}{|P^*_i|} \sum_{j \in P^*_i} (D_{ij} - (\alpha - m)) , \qquad
        L_N = \sum_{j \in N^*_i} \frac{w_{ij}}{\sum_k w_{ik}} (\alpha - D_{ij})

    .. math:: w_{ij} = e^{T (\alpha - D_{ij})} , \qquad L_i = (1 - \lambda) L_P + \lambda L_N

    L is the mean of :math:`L_i` over the queries that have a non-trivial pair. No gradient flows through w.

    Parameters
    ----------
    alpha, margin, temperature, lam : float
        alpha, m, T and lambda.

    Inputs:
        - **embeddings**: (B, E) of norm 1
        - **labels**: (B,), in any order

    Outputs:
        - **loss**: (1,); 0 where no pair is non-trivial
    """

    def __init__(self, alpha: float = 1.2, margin: float = 0.4, temperature: float = 10.0, lam: float = 0.5, **kwargs):
        super().__init__(weight=None, batch_axis=0, **kwargs)
        self._alpha, self._margin, self._temperature, self._lambda = alpha, margin, temperature, lam

    def hybrid_forward(self, F, embeddings, labels):
        d = distances(F, embeddings)
        same = same_class(F, labels)
        positives = same * other_rows(F, labels) * (d > self._alpha - self._margin)
        negatives = (1 - same) * (d < self._alpha)

        num_positives = F.sum(positives, axis=1)
        loss_p = F.sum(positives * (d - (self._alpha - self._margin)), axis=1) / F.maximum(num_positives, 1)
        scores = F.BlockGrad(self._temperature * (self._alpha - d)) * negatives + MINUS_INFINITY * (1 - negatives)
        weights = F.softmax(scores, axis=1) * negatives  # all 0 where there are none
        loss_n = F.sum(weights * (self._alpha - d), axis=1)

        loss = (1 - self._lambda) * loss_p + self._lambda * loss_n
        queries = F.sum(num_positives + F.sum(negatives, axis=1) > 0)
        return F.sum(loss) / F.maximum(queries, 1)
