"""Lifted structured loss: Song, Xiang, Jegelka, Savarese, "Deep metric learning via lifted structured feature
embedding", CVPR 2016 (arXiv:1511.06452)."""
from __future__ import annotations

from mxnet.gluon.loss import Loss

from models.losses.distances import MINUS_INFINITY, distances, log_sum_exp, other_rows, same_class, weighted_sum


class LiftedStructLoss(Loss):
    r"""Lifted structured loss (eq. 4): every positive pair against all negatives of both of its ends.

    .. math::
        J_{ij} = \log \Big( \sum_{(i, k) \in N} e^{m - D_{ik}} + \sum_{(j, l) \in N} e^{m - D_{jl}} \Big) + D_{ij} ,
        \qquad
        L = \frac{1}{2 |P|} \sum_{(i, j) \in P} [J_{ij}]_+^2

    With :math:`s_i = \log \sum_k e^{m - D_{ik}}`, :math:`J_{ij} = \log(e^{s_i} + e^{s_j}) + D_{ij}`: B x B memory.

    Parameters
    ----------
    margin : float
        m.

    Inputs:
        - **embeddings**: (B, E)
        - **labels**: (B,), in any order

    Outputs:
        - **loss**: (1,); 0 where the batch has no positive pair or no negative
    """

    def __init__(self, margin: float = 1.0, **kwargs):
        super().__init__(weight=None, batch_axis=0, **kwargs)
        self._margin = margin

    def hybrid_forward(self, F, embeddings, labels):
        d = distances(F, embeddings)
        same = same_class(F, labels)
        scores = (1 - same) * (self._margin - d) + MINUS_INFINITY * same
        s = log_sum_exp(F, scores)

        # log(e^a + e^b) = max(a, b) + log(1 + e^-|a - b|)
        s_i, s_j = s, F.transpose(s)
        log_sum = F.broadcast_maximum(s_i, s_j) + F.Activation(-F.abs(F.broadcast_sub(s_i, s_j)), act_type='softrelu')
        # Both orders of a pair are in `positives`, in the sum and in its size.
        positives = same * other_rows(F, labels)
        j = F.relu(log_sum + d)
        return weighted_sum(F, positives, F.square(j)) / F.maximum(2 * F.sum(positives), 1)
