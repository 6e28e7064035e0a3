"""Discriminative loss, Do et al., "A Theoretically Sound Upper Bound on the Triplet Loss", arXiv:1904.08720."""
from __future__ import annotations

from mxnet import gluon


class DiscriminativeLoss(gluon.loss.Loss):
    r"""Distances to fixed class centroids, arXiv:1904.08720, eq. 8-13: an upper bound on the triplet loss.

    .. math::
        L = \frac{G}{B} \sum_i \Bigl( \|f_i - c_{y_i}\| - \frac{1}{3(C-1)} \sum_{m \neq y_i} \|f_i - c_m\| \Bigr)

    The centroids :math:`c_1 .. c_C` are the one-hot vectors of R^C, hence
    :math:`\|f - c_m\|^2 = \|f\|^2 + 1 - 2 f_m`, which needs no B x C x C tensor. With K images of every class the sum
    of D_ap - D_an over all triplets is at most 3 K (K - 1) (C - 1) B L / G.

    Parameters
    ----------
    num_classes : int
        C, at least 2: the length of f.
    gain : float
        G > 0, a constant: computed from the batch size it turns negative where the batch is smaller than C.
    squared : bool
        Squared distances instead (the bound rests on the triangle inequality and does not hold for these).

    Inputs:
        - **embeddings**: f, (B, C); the head normalises them to unit length
        - **labels**: (B,), 0 .. C-1

    Outputs:
        - **loss**: (1,)
    """

    def __init__(self, num_classes: int, gain: float = 1.0, squared: bool = False, **kwargs):
        super().__init__(weight=None, batch_axis=0, **kwargs)
        if num_classes < 2:
            raise ValueError(f'the discriminative loss needs at least 2 classes, not {num_classes}')
        if gain <= 0:
            raise ValueError(f'gain must be positive, not {gain}: a negative one drives the classes together')
        self._num_classes, self._gain, self._squared = num_classes, gain, squared

    def hybrid_forward(self, F, f, labels):
        squared = F.broadcast_sub(F.sum(F.square(f), axis=1, keepdims=True) + 1, 2 * f)      # (B, C)
        distance = squared if self._squared else F.sqrt(F.maximum(squared, 1e-12))
        own = F.pick(distance, labels)
        others = F.sum(distance, axis=1) - own
        return self._gain * F.mean(own - others / (3 * (self._num_classes - 1)))
