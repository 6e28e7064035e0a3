"""Structured clustering, Song et al., "Deep Metric Learning via Facility Location", arXiv:1612.01213."""
from __future__ import annotations

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from models.losses.distances import host_squared_distances
from models.losses.medoids import MedoidSearch


def _distance(F, x, y):
    """Row by row, with gradient 0 where the rows are equal; differences first, so nothing cancels."""
    return F.sqrt(F.maximum(F.sum(F.square(x - y), axis=1), 1e-24))


class StructuredClusteringLoss(gluon.loss.Loss):
    r"""Facility-location clustering loss, arXiv:1612.01213v2, eq. 4-9 and algorithms 1-2.

    .. math::
        F(X, S) &= -\sum_i \min_{j \in S} D_{ij}, \qquad
        \tilde F(X, y) = \sum_k \max_{j: y_j = k} F(X_k, \{j\}), \qquad
        \Delta(y, \hat y) = 1 - \mathrm{NMI}(y, \hat y)

        L &= \Bigl[ \max_S \{ F(X, S) + \gamma \Delta(g(S), y) \} - \tilde F(X, y) \Bigr]_+

    D are Euclidean distances, not squared; :math:`|S|` is the number of classes in the batch. NMI is the mutual
    information over the *geometric* mean of the entropies (the paper's; scikit-learn's default is the arithmetic one).
    S is searched on the host without gradient (:mod:`models.losses.medoids`): greedily, then refined by swaps. The loss
    is a sum over the batch, not a mean, as in the paper.

    Parameters
    ----------
    gamma : float
        :math:`\gamma`, weight of the structured margin.
    max_pam_rounds : int
        At most so many rounds of swaps; 0 leaves the greedy choice.

    Inputs:
        - **embeddings**: (B, E); the paper normalises them to unit length
        - **labels**: (B,)

    Outputs:
        - **loss**: (1,)
    """

    def __init__(self, gamma: float = 1.0, max_pam_rounds: int = 5, **kwargs):
        super().__init__(weight=None, batch_axis=0, **kwargs)
        self._gamma, self._rounds = gamma, max_pam_rounds

    def forward(self, embeddings, labels):
        with autograd.pause():
            distances = np.sqrt(host_squared_distances(embeddings.asnumpy()))
            np.fill_diagonal(distances, 0)                       # a medoid is its own nearest, whatever the rounding
            search = MedoidSearch(distances, labels.asnumpy(), self._gamma)
            medoids = search.refine(search.greedy(), self._rounds)
            assigned, delta = search.assign(medoids)
            ctx = embeddings.context
            nearest_medoid = mx.nd.array(medoids[assigned], ctx=ctx, dtype='int32')
            class_medoid = mx.nd.array(search.class_medoids(), ctx=ctx, dtype='int32')
            margin = mx.nd.array([self._gamma * delta], ctx=ctx)
        return super().forward(embeddings, nearest_medoid, class_medoid, margin)

    def hybrid_forward(self, F, x, nearest_medoid, class_medoid, margin):
        f = -F.sum(_distance(F, x, F.take(x, nearest_medoid)))                               # F(X, S)
        f_oracle = -F.sum(_distance(F, x, F.take(x, class_medoid)))                          # F~(X, y)
        # BlockGrad: under static_alloc MXNet 1.9.1 gives wrong gradients where an input without one is added as it is.
        return F.relu(f + F.BlockGrad(margin) - f_oracle)
