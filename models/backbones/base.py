"""What every backbone has in common."""

from __future__ import annotations

import contextlib
import io
from typing import Iterable, List, Sequence, Union

import mxnet as mx
from mxnet.base import MXNetError
from mxnet.gluon import HybridBlock

from common.errors import UsageError

Contexts = Union[None, mx.Context, List[mx.Context]]

# RGB, 0..255, ImageNet. Gluon's networks were trained on pixels scaled by the deviation, Inception-BN's were not.
IMAGENET_MEAN = (123.68, 116.779, 103.939)
IMAGENET_STD = (58.393, 57.12, 57.375)


class Backbone(HybridBlock):
    """A network from normalised images to pooled features.

    Parameters
    ----------
    name : str
        As given to ``--model``.
    mean, std : sequences of 3 floats
        What the pixels (RGB, 0..255) are normalised with before they come here.

    Attributes
    ----------
    image_size : int
        A size in pixels that it can take. Most networks can take many others.
    features_dim : int or None
        Length of the feature vector.
    weights : dict or None
        ``file``, ``sha256`` and ``source`` of the pretrained weights that were loaded, and ``taken``: the backbone
        alone, or also the head.
    pretrained_head : dict
        Arrays of the head that the file brought, if it was that of a whole `EmbeddingNet`.
    pretrained_gem : array or None
        The p of a GeM that such a file brought.

    Inputs:
        - **x**: (B, 3, H, W) float32, normalised

    Outputs:
        - **features**: (B, features_dim) float32
    """

    def __init__(self, name: str, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD,
                 **kwargs):
        super().__init__(**kwargs)
        self.model = name
        self.image_size = 224
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.features_dim: int | None = None
        self.weights: dict | None = None
        self.pretrained_head: dict = {}
        self.pretrained_gem = None

    @property
    def named(self) -> HybridBlock:
        """The block whose parameter names a weights file uses."""
        return self

    @property
    def removed(self) -> frozenset:
        """Names in weights files that belong to the classifier, which this network does without."""
        return frozenset()

    def adapt(self, names: Iterable[str]) -> bool:
        """Turns into the variant of this network that weights of these names are for; true if that changed it."""
        return False


def features_length(backbone: Backbone, image_size: int) -> int:
    """Length of the features of square images of `image_size` pixels, by shape inference: nothing is computed.

    Raises
    ------
    UsageError
        Where the network cannot take images of that size.
    """
    shape = (1, 3, image_size, image_size)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its arguments where it fails
            _, outputs, _ = backbone(mx.sym.var('data')).infer_shape(data=shape)
    except (MXNetError, ValueError) as error:
        raise UsageError(f'--model {backbone.model} cannot take images of --image-size {image_size}: '
                         f'try {backbone.image_size}, or a network for small images such as convnet') from error
    return outputs[0][1]


def initialize(backbone: Backbone, ctx: Contexts) -> None:
    """Initialises all parameters (He's variant of Xavier), and infers their shapes."""
    init = mx.init.Xavier(rnd_type='gaussian', factor_type='in', magnitude=2)
    backbone.infer_shape(mx.nd.zeros((1, 3, backbone.image_size, backbone.image_size)))
    backbone.initialize(init, ctx=ctx)
