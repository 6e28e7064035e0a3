"""Normalised softmax, Zhai and Wu, "Classification is a Strong Baseline for Deep Metric Learning", arXiv:1811.12649."""
from __future__ import annotations

import math

import mxnet as mx
from mxnet import gluon

from models.losses.proxy import EPS


class NormProxyLoss(gluon.loss.Loss):
    r"""Classification by cosine similarity to one proxy a class, arXiv:1811.12649, eq. 3-4.

    .. math:: L = -\log \frac{\exp(x^\top p_y / \sigma)}{\sum_z \exp(x^\top p_z / \sigma)}

    averaged over the batch, with x and all p of unit length. The logit is the similarity: the proxy of the own class
    attracts. With label smoothing ε the target is :math:`(1 - ε) 1_y + ε / C` (arXiv:1512.00567, section 7).

    Parameters
    ----------
    num_classes, embed_dim : int
        C and E.
    temperature : float
        σ.
    label_smooth : float
        ε.
    static : bool
        Proxies are the one-hot vectors of R^C and fixed (E = C); else they are learned, from U(-1/√E, 1/√E).

    Inputs:
        - **embeddings**: (B, E), any length
        - **labels**: (B,), 0 .. C-1

    Outputs:
        - **loss**: (1,)
    """

    def __init__(self, num_classes: int, embed_dim: int, temperature: float = 0.05, label_smooth: float = 0.1,
                 static: bool = False, **kwargs):
        super().__init__(weight=None, batch_axis=0, **kwargs)
        if static and embed_dim != num_classes:
            raise ValueError(f'static proxies are one-hot: embed_dim must be {num_classes}, not {embed_dim}')
        self._sigma, self._label_smooth = temperature, label_smooth
        if not static:
            with self.name_scope():
                self.proxies = self.params.get('proxies', shape=(num_classes, embed_dim),
                                               init=mx.init.Uniform(1 / math.sqrt(embed_dim)))

    def hybrid_forward(self, F, x, labels, proxies=None):
        x = F.L2Normalization(x, eps=EPS)
        similarity = x if proxies is None else F.dot(x, F.L2Normalization(proxies, eps=EPS), transpose_b=True)
        log_p = F.log_softmax(similarity / self._sigma)                            # (B, C)
        target = F.pick(log_p, labels)
        if self._label_smooth:
            target = (1 - self._label_smooth) * target + self._label_smooth * F.mean(log_p, axis=1)
        return -F.mean(target)
