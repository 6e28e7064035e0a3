"""Prototypical networks: Snell, Swersky, Zemel, "Prototypical networks for few-shot learning", NIPS 2017
(arXiv:1703.05175)."""
from __future__ import annotations

from mxnet.gluon.loss import Loss

from models.losses.distances import log_sum_exp, squared_distances


class PrototypicalLoss(Loss):
    r"""Cross entropy of each query over the distances to the prototypes of the episode's classes (eq. 1 and 2).

    .. math::
        c_k = \frac{1}{n_s} \sum_{x \in S_k} f(x) , \qquad
        p(y = k | x) = \frac{e^{-\|f(x) - c_k\|^2}}{\sum_{k'} e^{-\|f(x) - c_{k'}\|^2}} , \qquad
        L = -\frac{1}{n_c n_q} \sum_x \log p(y_x | x)

    Parameters
    ----------
    nc, ns, nq : int
        Classes of an episode, support and query images of each class.

    Inputs:
        - **embeddings**: (nc (ns + nq), E): for each class `ns` support rows, then `nq` query rows (`EpisodeBatches`)
        - **labels**: (nc (ns + nq),), not used

    Outputs:
        - **loss**: (1,)
    """

    def __init__(self, nc: int, ns: int, nq: int, **kwargs):
        super().__init__(weight=None, batch_axis=0, **kwargs)
        self._nc, self._ns, self._nq = nc, ns, nq

    def forward(self, embeddings, labels):
        return super().forward(embeddings)  # the order of the rows says it all

    def hybrid_forward(self, F, embeddings):
        episode = F.reshape(embeddings, shape=(-4, self._nc, self._ns + self._nq, -2))
        c = F.mean(F.slice_axis(episode, axis=1, begin=0, end=self._ns), axis=1)
        queries = F.reshape(F.slice_axis(episode, axis=1, begin=self._ns, end=None), shape=(-3, 0))
        d2 = squared_distances(F, queries, c)
        y = F.floor(F.arange(self._nc * self._nq) / self._nq)  # queries follow each other class by class
        log_p = -F.pick(d2, y, axis=1, keepdims=True) - log_sum_exp(F, -d2)
        return -F.mean(log_p)
