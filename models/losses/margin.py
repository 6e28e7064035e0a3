"""Margin loss with distance-weighted sampling: Wu, Manmatha, Smola, Krähenbühl, "Sampling matters in deep embedding
learning", ICCV 2017 (arXiv:1706.07567)."""
from __future__ import annotations

import mxnet as mx
import numpy as np
from mxnet.gluon.loss import Loss

from models.losses.distance_weighted import distance_weighted_pairs
from models.losses.distances import distances, same_class, weighted_sum


class MarginLoss(Loss):
    r"""Margin loss (eq. 4 to 8).

    .. math::
        \ell(i, j) = [\alpha + y_{ij} (D_{ij} - \beta_{c(i)})]_+ , \qquad
        L = \frac{\sum \ell(i, j) + \nu \sum \beta_{c(a)}}{\#\{\ell(i, j) > 0\}}

    :math:`y_{ij}` is 1 for a pair of one class, else -1; :math:`\beta_{c(i)}` belongs to the **class of the anchor** i.
    The sum runs over all ordered positive pairs (a, p), and for each of them one pair (a, n) drawn with

    .. math:: \Pr(n | a) \propto \min(\lambda, q(D_{an})^{-1}), \qquad q(d) \propto d^{E-2} (1 - d^2/4)^{(E-3)/2}

    among the negatives with D < `max_distance`, where the loss can be non-zero; 1/q falls until there, so that
    :math:`\lambda = q(\mathrm{min\_distance})^{-1}`. An anchor without such a negative draws evenly from all of its
    negatives. The regulariser counts :math:`\beta_{c(a)}` once for every (a, p, n), as the authors' code does.

    Parameters
    ----------
    num_classes : int
        Number of training classes, the length of beta.
    margin, beta, nu : float
        alpha, the initial value of every beta, and the weight of the regulariser.
    learn_beta : bool
        False keeps beta where it is.
    min_distance, max_distance : float
        Range of distances within which the sampling weighs.
    seed : int
        Of the sampling; see `reseed`.

    Inputs:
        - **embeddings**: (B, E) of norm 1
        - **labels**: (B,), 0 .. num_classes - 1, in any order

    Outputs:
        - **loss**: (1,); 0 (plus the regulariser) where no pair violates its margin
    """

    def __init__(self, num_classes: int, margin: float = 0.2, beta: float = 1.2, nu: float = 0.0,
                 learn_beta: bool = True, min_distance: float = 0.5, max_distance: float = 1.4, seed: int = 0,
                 **kwargs):
        super().__init__(weight=None, batch_axis=0, **kwargs)
        self._margin, self._nu, self._range = margin, nu, (min_distance, max_distance)
        self.reseed(seed)
        with self.name_scope():
            self.beta = self.params.get('beta', shape=(num_classes,), init=mx.init.Constant(beta),
                                        grad_req='write' if learn_beta else 'null')

    def reseed(self, seed: int) -> None:
        """Start the sampling anew: the same seed and batches give the same negatives."""
        self._rng = np.random.RandomState(seed)

    def forward(self, embeddings: mx.nd.NDArray, labels: mx.nd.NDArray) -> mx.nd.NDArray:
        pairs = self.sample(embeddings.asnumpy(), labels.asnumpy())
        return super().forward(embeddings, labels, mx.nd.array(pairs, ctx=embeddings.ctx))

    def hybrid_forward(self, F, embeddings, labels, pairs, beta):
        y = 2 * same_class(F, labels) - 1
        beta = F.expand_dims(F.take(beta, labels), axis=1)
        loss = F.relu(self._margin + y * F.broadcast_sub(distances(F, embeddings), beta))
        count = F.maximum(weighted_sum(F, pairs, loss > 0), 1)
        regulariser = self._nu * F.sum(F.broadcast_mul(pairs * (y > 0), beta)) if self._nu else 0
        return (weighted_sum(F, pairs, loss) + regulariser) / count

    def sample(self, embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """How often each ordered pair enters the loss, (B, B) float32: a positive pair once, a negative as drawn."""
        return distance_weighted_pairs(embeddings, labels, self._rng, *self._range)
