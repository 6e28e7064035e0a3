"""Proxy losses, Movshovitz-Attias et al., "No Fuss Distance Metric Learning using Proxies", arXiv:1703.07464."""
from __future__ import annotations

import math

import mxnet as mx
from mxnet import gluon

from models.losses.distances import MINUS_INFINITY

EPS = 1e-16         # added to squared lengths: a zero row stays zero and has a finite gradient


class ProxyLoss(gluon.loss.Loss):
    r"""Proxy-NCA (arXiv:1703.07464, eq. 4-7) and its relatives, over one B x C matrix of distances.

    Embeddings x and proxies :math:`p_1 .. p_C` have unit length, :math:`d(x, p) = \|s x - s p\|^2 / T`.

    .. math::
        \mathrm{nca:} \quad & -\log \frac{\exp(-d(x, p_y))}{\sum_{z \neq y} \exp(-d(x, p_z))} \\
        \mathrm{xentropy:} \quad & -\log \frac{\exp(-d(x, p_y))}{\sum_{z} \exp(-d(x, p_z))} \\
        \mathrm{triplet:} \quad & \frac{1}{C-1} \sum_{z \neq y} [d(x, p_y) - d(x, p_z) + 1]_+ , \quad s = 1

    each averaged over the batch, and the margin loss (arXiv:1706.07567, eq. 4) with D = :math:`\|x - p\|` (s = T = 1):

    .. math::
        \mathrm{proxymargin:} \quad \frac{\sum_x \{ [\alpha + D_{x p_y} - \beta_y]_+
        + \sum_{z \neq y} [\alpha - D_{x p_z} + \beta_y]_+ \}}{\#\{\text{terms} > 0\}}

    Parameters
    ----------
    num_classes, embed_dim : int
        C (at least 2) and E.
    kind : {'nca', 'xentropy', 'triplet', 'proxymargin'}
        Which loss.
    multiplier, temperature : float
        s ('nca' and 'xentropy' only) and T (not for 'proxymargin').
    label_smooth : float
        ε: the target is :math:`q = (1 - ε) 1_y + ε / C` instead of :math:`1_y`, so :math:`d(x, p_y)` in the numerator
        becomes :math:`\sum_z q_z d(x, p_z)` (arXiv:1512.00567, section 7); 'nca' and 'xentropy' only.
    margin, beta : float
        α, and the initial β of every class ('proxymargin' only).
    static : bool
        Proxies are the one-hot vectors of R^C and fixed (E = C); else they are learned, from N(0, 1/E).

    Inputs:
        - **embeddings**: (B, E), any length
        - **labels**: (B,), 0 .. C-1

    Outputs:
        - **loss**: (1,)
    """

    def __init__(self, num_classes: int, embed_dim: int, kind: str = 'nca', multiplier: float = 3.0,
                 temperature: float = 1.0, label_smooth: float = 0.0, margin: float = 0.2, beta: float = 1.2,
                 static: bool = False, **kwargs):
        super().__init__(weight=None, batch_axis=0, **kwargs)
        if kind not in ('nca', 'xentropy', 'triplet', 'proxymargin'):
            raise ValueError(f'kind must be nca, xentropy, triplet or proxymargin, not {kind!r}')
        if num_classes < 2:
            raise ValueError(f'a proxy loss needs at least 2 classes, not {num_classes}')
        if label_smooth and kind not in ('nca', 'xentropy'):
            raise ValueError(f'label_smooth is for nca and xentropy: {kind} has no target distribution')
        if static and embed_dim != num_classes:
            raise ValueError(f'static proxies are one-hot: embed_dim must be {num_classes}, not {embed_dim}')
        self._num_classes, self._kind, self._label_smooth, self._margin = num_classes, kind, label_smooth, margin
        self._scale = (multiplier ** 2 if kind in ('nca', 'xentropy') else 1.0) / temperature     # s^2 / T
        with self.name_scope():
            if not static:
                self.proxies = self.params.get('proxies', shape=(num_classes, embed_dim),
                                               init=mx.init.Normal(1 / math.sqrt(embed_dim)))
            if kind == 'proxymargin':
                self.beta = self.params.get('beta', shape=(num_classes,), init=mx.init.Constant(beta))

    def hybrid_forward(self, F, x, labels, proxies=None, beta=None):
        x = F.L2Normalization(x, eps=EPS)
        cosine = x if proxies is None else F.dot(x, F.L2Normalization(proxies, eps=EPS), transpose_b=True)
        if self._kind == 'proxymargin':
            return self._proxymargin(F, cosine, labels, beta)
        d = 2 * self._scale * (1 - cosine)                                         # (B, C), as |x| = |p| = 1
        d_y = F.pick(d, labels, keepdims=True)
        if self._kind == 'triplet':
            hinge = F.relu(F.broadcast_sub(d_y + 1, d))                            # 1 at z = y, whatever d
            return F.reshape((F.mean(F.sum(hinge, axis=1)) - 1) / (self._num_classes - 1), shape=(1,))
        minus_d = -d
        if self._kind == 'nca':                                                    # z != y in the denominator
            minus_d = minus_d + F.one_hot(labels, self._num_classes, on_value=MINUS_INFINITY)
        largest = F.BlockGrad(F.max(minus_d, axis=1, keepdims=True))
        log_sum = F.log(F.sum(F.exp(F.broadcast_sub(minus_d, largest)), axis=1, keepdims=True)) + largest
        target = d_y
        if self._label_smooth:
            target = (1 - self._label_smooth) * d_y + self._label_smooth * F.mean(d, axis=1, keepdims=True)
        return F.mean(target + log_sum)

    def _proxymargin(self, F, cosine, labels, beta):
        distance = F.sqrt(F.maximum(2 - 2 * cosine, EPS))                          # D (B, C)
        beta_y = F.take(beta, labels)                                              # the class's, not the position's
        d_y = F.pick(distance, labels)
        positive = F.relu(self._margin + d_y - beta_y)
        own = F.relu((self._margin + beta_y) - d_y)                                # z = y, to be taken out again
        negative = F.relu(F.broadcast_sub(F.expand_dims(self._margin + beta_y, axis=1), distance))
        count = F.BlockGrad(F.sum(positive > 0) + F.sum(F.sum(negative > 0, axis=1) - (own > 0)))
        return (F.sum(positive) + F.sum(F.sum(negative, axis=1) - own)) / F.maximum(count, 1)
