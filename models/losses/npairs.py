"""Multi-class N-pair loss: Sohn, "Improved deep metric learning with multi-class N-pair loss objective", NIPS 2016."""
from __future__ import annotations

from mxnet.gluon.loss import Loss

from models.losses.distances import MINUS_INFINITY, row_sums, same_class


def split_pairs(F, embeddings, labels):
    """Take rows 2i (anchors) and 2i + 1 (positives) apart: (N, E), (N, E) and the labels (N,) of N = B / 2 pairs."""
    anchors, positives = F.split(F.reshape(embeddings, shape=(-4, -1, 2, -2)), num_outputs=2, axis=1, squeeze_axis=True)
    return anchors, positives, F.slice_axis(F.reshape(labels, shape=(-1, 2)), axis=1, begin=0, end=1).reshape((-1,))


def log_one_plus_sum_exp(F, scores, labels):
    """Return log(1 + Σ_n exp(scores_an)) of every a, over the n of other classes; scores (N, N) -> (N, 1)."""
    same = same_class(F, labels)
    scores = (1 - same) * scores + MINUS_INFINITY * same
    top = F.BlockGrad(F.relu(F.max(scores, axis=1, keepdims=True)))  # the largest exponent, that of 1 = exp(0) included
    return top + F.log(F.exp(-top) + row_sums(F, F.exp(F.broadcast_sub(scores, top))))


class NPairLoss(Loss):
    r"""Multi-class N-pair loss (eq. 7) with its L2 regulariser (section 3.2).

    .. math::
        L = \frac{1}{N} \sum_i \log \Big( 1 + \sum_{j \ne i} e^{f_i \cdot f_j^+ - f_i \cdot f_i^+} \Big)
            + \frac{\lambda}{N} \sum_i (\|f_i\|^2 + \|f_i^+\|^2)

    The N classes are distinct (`PairBatches`); should two pairs share a class, they are no negatives of each other.

    Parameters
    ----------
    l2_reg : float
        lambda.
    symmetric : bool
        Average with the loss that has anchors and positives swapped.

    Inputs:
        - **embeddings**: (2N, E), anchors in rows 2i and their positives in rows 2i + 1
        - **labels**: (2N,)

    Outputs:
        - **loss**: (1,)
    """

    def __init__(self, l2_reg: float = 0.0005, symmetric: bool = False, **kwargs):
        super().__init__(weight=None, batch_axis=0, **kwargs)
        self._l2_reg, self._symmetric = l2_reg, symmetric

    def hybrid_forward(self, F, embeddings, labels):
        f, f_plus, labels = split_pairs(F, embeddings, labels)

        def one_way(f, f_plus):
            own = F.sum(f * f_plus, axis=1, keepdims=True)
            scores = F.broadcast_sub(F.dot(f, f_plus, transpose_b=True), own)
            return F.mean(log_one_plus_sum_exp(F, scores, labels))

        loss = one_way(f, f_plus)
        if self._symmetric:
            loss = (loss + one_way(f_plus, f)) / 2
        return loss + self._l2_reg * 2 * F.mean(F.sum(F.square(embeddings), axis=1))
