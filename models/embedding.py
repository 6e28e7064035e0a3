"""The embedding network: normalised pixels, a backbone, a head, and L2 normalisation where the loss wants it."""

from __future__ import annotations

import mxnet as mx
from mxnet import autograd
from mxnet.gluon import HybridBlock

from models.heads import INIT_SCALE, last_layer
from models.loading import load_head


class L2Normalization(HybridBlock):
    r"""Scales every row to unit length.

    .. math:: y_i = x_i / \sqrt{\textstyle\sum_j x_{ij}^2 + \epsilon}

    Written with elementary operators, because ``F.L2Normalization`` does not export to ONNX; the epsilon inside the
    root keeps the gradient of a zero row finite.

    Parameters
    ----------
    eps : float
        Added to the squared length.

    Inputs:
        - **x**: (B, E)

    Outputs:
        - **y**: (B, E), rows of length one (zero rows stay zero)
    """

    def __init__(self, eps: float = 1e-12, **kwargs):
        super().__init__(**kwargs)
        self._eps = eps

    def hybrid_forward(self, F, x):
        length = F.sqrt(F.sum(F.square(x), axis=-1, keepdims=True) + self._eps)
        return F.broadcast_div(x, length)


class PixelNormalization(HybridBlock):
    """Normalises pixels as the backbone expects them.

    Cast, subtraction and scaling happen in HWC and the transpose comes last: on the CPU that is five times faster than
    the other way round. Mean and scale are constants of the graph, so they follow the network to any device and are
    stored with it.

    Parameters
    ----------
    mean, std : sequences of 3 floats
        Per channel (RGB), in units of 0..255.

    Inputs:
        - **x**: (B, H, W, 3), uint8 or float, 0..255, RGB

    Outputs:
        - **y**: (B, 3, H, W) float32
    """

    def __init__(self, mean, std, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.mean = self.params.get_constant('mean', mx.nd.array(mean).reshape((1, 1, 1, 3)))
            self.scale = self.params.get_constant('scale', (1 / mx.nd.array(std)).reshape((1, 1, 1, 3)))

    def hybrid_forward(self, F, x, mean, scale):
        x = F.broadcast_mul(F.broadcast_sub(F.cast(x, 'float32'), mean), scale)
        return F.transpose(x, axes=(0, 3, 1, 2))


class EmbeddingNet(HybridBlock):
    """Backbone and head. If the backbone's weights came with a head (--pretrained), what fits of it is loaded too.

    Parameters
    ----------
    backbone : HybridBlock
        From :func:`models.get_backbone`: (B, 3, H, W) to (B, F), with attributes ``mean`` and ``std`` (and
        ``features_dim``, where known).
    embed_dim : int
        Length of an embedding. Unused with a `head` of your own.
    normalize : bool
        Scale embeddings to unit length.
    head : HybridBlock, optional
        (B, F) to (B, E), instead of one dense layer.
    init_scale : float
        Magnitude of that layer's first weights (Xavier). Unused with a `head` of your own.

    Inputs:
        - **x**: (B, H, W, 3) uint8 (or float), RGB, 0..255

    Outputs:
        - **embeddings**: (B, embed_dim) float32
    """

    def __init__(self, backbone: HybridBlock, embed_dim: int = 64, normalize: bool = False,
                 head: HybridBlock | None = None, init_scale: float = INIT_SCALE, **kwargs):
        super().__init__(**kwargs)
        self.embed_dim = embed_dim
        with self.name_scope():
            self.pixels = PixelNormalization(backbone.mean, backbone.std)
            self.backbone = backbone
            self.head = head if head is not None else last_layer(
                embed_dim, init_scale, in_units=getattr(backbone, 'features_dim', None) or 0)
            self.l2 = L2Normalization() if normalize else None
        self._frozen: list[mx.gluon.Parameter] = []
        if getattr(backbone, 'pretrained_head', None):
            load_head(self.head, backbone)

    def hybrid_forward(self, F, x):
        x = self.head(self.backbone(self.pixels(x)))
        return x if self.l2 is None else self.l2(x)

    def freeze_backbone(self, frozen: bool = True) -> None:
        """Freezes the backbone, or lets it learn again.

        Frozen, it works in training as in a test: batch norm uses its running statistics, nothing is dropped, nothing
        in it changes, and the backward pass ends at the head.
        """
        if frozen and not self._frozen:
            self._frozen = [p for p in self.backbone.collect_params().values() if p.grad_req != 'null']
        for parameter in self._frozen:
            parameter.grad_req = 'null' if frozen else 'write'
        if not frozen:
            self._frozen = []

    def forward(self, x, *args):
        if not (self._frozen and autograd.is_training()):
            return super().forward(x, *args)
        with autograd.pause(train_mode=False):
            features = self.backbone(self.pixels(x))
        x = self.head(features)
        return x if self.l2 is None else self.l2(x)

    def initialize(self, init=None, ctx: mx.Context | list[mx.Context] | None = None, verbose: bool = False,
                   force_reinit: bool = False) -> None:
        """Initialises what is not initialised yet and puts all of it on `ctx`.

        The backbone comes with its weights: these stay, unless `force_reinit` is given.

        Parameters
        ----------
        init : mx.init.Initializer, optional
            For parameters without one of their own; default Xavier.
        ctx : context or list of contexts, optional
            Default: the current context.
        """
        ctx = [mx.current_context()] if ctx is None else ctx
        ctx = [ctx] if isinstance(ctx, mx.Context) else list(ctx)
        init = mx.init.Xavier() if init is None else init
        for parameter in self.collect_params().values():
            # An initialised Parameter says so only by raising: `_data` and `_deferred_init` are what Gluon itself asks.
            if force_reinit or (parameter._data is None and not parameter._deferred_init):
                parameter.initialize(None, ctx, default_init=init, force_reinit=force_reinit)
            elif parameter._data is None or parameter.list_ctx() != ctx:
                parameter.reset_ctx(ctx)
