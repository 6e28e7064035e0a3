"""Backbones by name: ``get_backbone``."""

from __future__ import annotations

from models.backbones import convnet, efficientnet_lite, finetune, inception_bn, resnet, zoo
from models.backbones.base import Backbone, Contexts, features_length, initialize
from models.backbones.pooling import set_pooling
from common.errors import UsageError
from models.loading import load_pretrained

__all__ = ['Backbone', 'backbone_names', 'features_length', 'get_backbone', 'is_backbone']

_OWN = {'convnet': convnet.ConvNet, 'inception-bn': inception_bn.InceptionBN,
        'efficientnet-lite0': efficientnet_lite.EfficientNetLite0}


def backbone_names() -> list[str]:
    """All names that :func:`get_backbone` knows, ours first. Imports GluonCV."""
    first = list(_OWN) + list(resnet.NAMES)
    return first + [name for name in zoo.names() if name not in first]


def is_backbone(name: str) -> bool:
    """Whether :func:`get_backbone` knows `name`. Imports GluonCV only for names of its zoo."""
    return name in _OWN or name in resnet.NAMES or zoo.find(name) is not None


def get_backbone(name: str, pretrained: str = 'none', ctx: Contexts = None, pooling: str = 'avg') -> Backbone:
    """Builds a backbone, initialised on `ctx`.

    Parameters
    ----------
    name : str
        ``inception-bn``, ``efficientnet-lite0``, ``convnet``, ``resnet18_v2``, ``resnet50_v2`` or any classification
        network of GluonCV.
    pretrained : str
        ``none`` for random weights (He), ``auto`` for the published ones (looked for in ``$MXNET_HOME/models``, then
        downloaded; none for convnet), or a file.
    ctx : context or list of contexts, optional
        Default: the current context.
    pooling : {'avg', 'max', 'avg+max', 'gem'}
        What makes a vector of the last feature maps.

    Returns
    -------
    Backbone
        (B, 3, H, W) float32, normalised with its ``mean`` and ``std`` (RGB, 0..255), to (B, ``features_dim``).

    Raises
    ------
    ModelError
        Weights missing, damaged or of another network.
    UsageError
        Unknown name; a network that has no such pooling.
    """
    backbone = _build(name)
    backbone.features_dim = features_length(backbone, backbone.image_size)
    finetune.set_learning_rates(backbone, conv_factor=finetune.published(backbone.model).conv_lr_factor)
    initialize(backbone, ctx)
    if pretrained != 'none' and not (pretrained == 'auto' and backbone.model == 'convnet'):
        load_pretrained(backbone, pretrained)
    if pooling != 'avg':
        set_pooling(backbone, pooling, ctx)
    return backbone


def _build(name: str) -> Backbone:
    if name in _OWN:
        return _OWN[name]()
    if name in resnet.NAMES:
        return resnet.build(name)
    known = zoo.find(name)
    if known is None:
        raise UsageError(f'--model {name}: no such network (inception-bn, efficientnet-lite0, resnet50_v2, '
                         f'resnet18_v2, convnet, or a classification network of GluonCV by its name there)')
    return zoo.build(known)
