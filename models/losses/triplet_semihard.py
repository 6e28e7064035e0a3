"""Triplet loss with semi-hard negatives: Schroff, Kalenichenko, Philbin, "FaceNet: a unified embedding for face
recognition and clustering", CVPR 2015 (arXiv:1503.03832)."""
from __future__ import annotations

from typing import Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon.loss import Loss

from models.losses.distances import host_squared_distances, squared_distances, weighted_sum


class TripletSemihardLoss(Loss):
    r"""Triplet loss over all positive pairs of the batch, each with its semi-hard negative.

    .. math::
        L = \frac{1}{|P|} \sum_{(a, p) \in P} [D^2_{ap} - D^2_{an^*} + m]_+ , \qquad
        n^* = \arg\min_n \{ D^2_{an} : y_n \ne y_a, D^2_{an} > D^2_{ap} \}

    P holds the ordered pairs of one class. Where no negative is farther away than the positive,
    :math:`n^* = \arg\max_n \{ D^2_{an} : y_n \ne y_a \}`, the easiest one.

    Parameters
    ----------
    margin : float
        m, in units of squared distance.

    Inputs:
        - **embeddings**: (B, E)
        - **labels**: (B,), in any order

    Outputs:
        - **loss**: (1,); 0 where the batch has no positive pair or no negative
    """

    def __init__(self, margin: float = 1.0, **kwargs):
        super().__init__(weight=None, batch_axis=0, **kwargs)
        self._margin = margin

    def forward(self, embeddings: mx.nd.NDArray, labels: mx.nd.NDArray) -> mx.nd.NDArray:
        weights, negatives = self.mine(embeddings.asnumpy(), labels.asnumpy())
        return super().forward(embeddings, mx.nd.array(weights, ctx=embeddings.ctx),
                               mx.nd.array(negatives, ctx=embeddings.ctx, dtype='int32'))

    def hybrid_forward(self, F, embeddings, weights, negatives):
        d2_ap = squared_distances(F, embeddings)
        d2_an = F.take(F.reshape(d2_ap, shape=(-1,)), negatives)
        return weighted_sum(F, weights, F.relu(d2_ap - d2_an + self._margin))

    @staticmethod
    def mine(embeddings: np.ndarray, labels: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Find n* of every positive pair in O(B² log B) time and O(B²) memory.

        Returns
        -------
        weights : (B, B) float32, 1 / |P| at (a, p) in P, else 0
        negatives : (B, B) int32, at (a, p) the place a B + n* of D²_an* in the flattened matrix of distances
        """
        batch, places = len(labels), np.arange(len(labels), dtype=np.int32)
        same = labels[:, None] == labels
        d2 = host_squared_distances(embeddings).astype(np.float32).astype(np.float64)
        # Half a unit in the last place of float32 more for the own class: at equal distance, negatives sort before it.
        d2[same] += 0.5 * np.spacing(d2[same].astype(np.float32))
        order = np.argsort(d2, axis=1)
        negative = ~np.take_along_axis(same, order, axis=1)
        following = np.where(negative, places, batch)
        following = np.minimum.accumulate(following[:, ::-1], axis=1)[:, ::-1]  # the nearest negative behind each place
        last = batch - 1 - negative[:, ::-1].argmax(axis=1)  # the farthest negative, if there is any

        a, place_p = np.nonzero(~negative & (order != places[:, None]) & negative.any(axis=1, keepdims=True))
        place_n = following[a, place_p]
        place_n = np.where(place_n < batch, place_n, last[a])
        p, n = order[a, place_p], order[a, place_n]
        weights, negatives = np.zeros((batch, batch), np.float32), np.zeros((batch, batch), np.int32)
        weights[a, p], negatives[a, p] = 1 / max(len(a), 1), a * batch + n
        return weights, negatives
