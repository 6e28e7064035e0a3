"""Angular loss: Wang, Zhou, Wen, Liu, Lin, "Deep metric learning with angular loss", ICCV 2017 (arXiv:1708.01682)."""
from __future__ import annotations

import math
from mxnet.gluon.loss import Loss

from models.losses.npairs import NPairLoss, log_one_plus_sum_exp, split_pairs


class AngularLoss(Loss):
    r"""Angular loss over N pairs (eq. 6 to 8), alone or together with the N-pair loss (eq. 9).

    .. math::
        f_{apn} = 4 \tan^2 \alpha \, (x_a + x_p) \cdot x_n - 2 (1 + \tan^2 \alpha) \, x_a \cdot x_p , \qquad
        L_{ang} = \frac{1}{N} \sum_a \log \Big( 1 + \sum_{n: y_n \ne y_a} e^{f_{apn}} \Big)

    :math:`x_n` are the positives of the other pairs. With :math:`\lambda > 0`, :math:`L = L_{npair} + \lambda L_{ang}`.

    Parameters
    ----------
    alpha_degrees : float
        alpha, in degrees.
    npair_lambda : float
        lambda; 0 for the angular loss alone.
    l2_reg : float
        The N-pair loss's regulariser, in both forms once.
    symmetric : bool
        Average with the loss that has anchors and positives swapped.

    Inputs:
        - **embeddings**: (2N, E), anchors in rows 2i and their positives in rows 2i + 1
        - **labels**: (2N,)

    Outputs:
        - **loss**: (1,)
    """

    def __init__(self, alpha_degrees: float = 45.0, npair_lambda: float = 0.0, l2_reg: float = 0.0005,
                 symmetric: bool = False, **kwargs):
        super().__init__(weight=None, batch_axis=0, **kwargs)
        self._tan2, self._lambda, self._l2_reg = math.tan(math.radians(alpha_degrees)) ** 2, npair_lambda, l2_reg
        self._symmetric = symmetric
        with self.name_scope():
            self.npair = NPairLoss(l2_reg, symmetric) if npair_lambda else None

    def hybrid_forward(self, F, embeddings, labels):
        anchors, positives, pair_labels = split_pairs(F, embeddings, labels)

        def one_way(x_a, x_p):
            own = F.sum(x_a * x_p, axis=1, keepdims=True)
            f_apn = F.broadcast_sub(4 * self._tan2 * F.dot(x_a + x_p, x_p, transpose_b=True),
                                    2 * (1 + self._tan2) * own)
            return F.mean(log_one_plus_sum_exp(F, f_apn, pair_labels))

        loss = one_way(anchors, positives)
        if self._symmetric:
            loss = (loss + one_way(positives, anchors)) / 2
        if self._lambda:
            return self.npair(embeddings, labels) + self._lambda * loss
        return loss + self._l2_reg * 2 * F.mean(F.sum(F.square(embeddings), axis=1))
