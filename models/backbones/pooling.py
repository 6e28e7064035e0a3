"""What makes a vector of the last feature maps: --pooling."""

from __future__ import annotations

import mxnet as mx
from mxnet.gluon import HybridBlock, nn

from common.errors import UsageError
from models.backbones.base import Backbone, Contexts, features_length
from models.backbones.zoo import ZooBackbone, replace

KINDS = ('avg', 'max', 'avg+max', 'gem')
P = 3.0         # of GeM, to begin with, as published
EPS = 1e-6      # of GeM: smaller values are taken for this


class GlobalPooling(HybridBlock):
    r"""Pools every feature map to one number.

    .. math::
        \mathrm{avg:} \; \frac{1}{n} \sum_i x_i \qquad \mathrm{max:} \; \max_i x_i \qquad
        \mathrm{avg+max:} \; \text{their sum} \qquad
        \mathrm{gem:} \; \Bigl( \frac{1}{n} \sum_i \max(x_i, \epsilon)^p \Bigr)^{1/p}

    GeM is the generalised mean of Radenović et al., "Fine-tuning CNN Image Retrieval with No Human Annotation"
    (arXiv:1711.02512), eq. 3. Its p is learned, one for all maps, without weight decay.

    Parameters
    ----------
    kind : {'avg', 'max', 'avg+max', 'gem'}

    Inputs:
        - **x**: (B, C, H, W)

    Outputs:
        - **y**: (B, C, 1, 1)
    """

    def __init__(self, kind: str, **kwargs):
        super().__init__(**kwargs)
        self._kind = kind
        if kind == 'gem':
            with self.name_scope():
                self.gem_p = self.params.get('gem_p', shape=(1, 1, 1, 1), init=mx.init.Constant(P), wd_mult=0.0)

    def hybrid_forward(self, F, x, gem_p=None):
        if gem_p is not None:
            mean = F.mean(F.broadcast_power(F.maximum(x, EPS), gem_p), axis=(2, 3), keepdims=True)
            return F.broadcast_power(mean, 1 / gem_p)
        average = F.mean(x, axis=(2, 3), keepdims=True) if 'avg' in self._kind else 0
        return average + F.max(x, axis=(2, 3), keepdims=True) if 'max' in self._kind else average


def set_pooling(backbone: Backbone, kind: str, ctx: Contexts = None) -> None:
    """Puts another pooling at the end of a backbone, in place of the average: call it before it is hybridized.

    Where the backbone's weights came with the p of a GeM, it is taken over.

    Raises
    ------
    UsageError
        If the network does not end in an average over feature maps.
    """
    pooling = GlobalPooling(kind)
    if not _put_in(backbone, pooling):
        raise UsageError(f'--pooling {kind}: --model {backbone.model} does not end in an average over feature maps, '
                         'which could be replaced')
    pooling.initialize(ctx=ctx)
    if kind == 'gem' and backbone.pretrained_gem is not None:
        pooling.gem_p.set_data(mx.nd.array(backbone.pretrained_gem).reshape((1, 1, 1, 1)))
    assert features_length(backbone, backbone.image_size) == backbone.features_dim


def _put_in(backbone: Backbone, pooling: GlobalPooling) -> bool:
    if not isinstance(backbone, ZooBackbone):
        place, = (key for key, layer in backbone.features._children.items() if isinstance(layer, nn.GlobalAvgPool2D))
        backbone.features._children[place] = pooling
        return True
    if backbone.maps_are_larger_than_a_pixel():
        backbone.pool = pooling
        return True
    places = [key for key, layer in backbone.net._children.items() if isinstance(layer, nn.GlobalAvgPool2D)]
    if len(places) == 1:
        replace(backbone.net, places[0], pooling)
    return len(places) == 1
