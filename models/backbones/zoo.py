"""Classification networks of GluonCV's model zoo, by their names there, without their classifiers.

GluonCV is slow to import. It is imported only for names that are not ours.
"""

from __future__ import annotations

import contextlib
import io
import sys

import mxnet as mx
from mxnet.gluon import HybridBlock, nn

from models.backbones.base import IMAGENET_MEAN, IMAGENET_STD, Backbone
from common.errors import UsageError

# The modules of gluoncv.model_zoo that define classification networks; the others detect, segment, track, or are
# quantised symbols that cannot be trained.
_MODULES = frozenset((
    'alexnet', 'cifarresnet', 'cifarresnext', 'cifarwideresnet', 'densenet', 'dla', 'googlenet', 'hrnet', 'inception',
    'mobilenet', 'mobilenetv3', 'nasnet', 'pruned_resnet.resnetv1b_pruned', 'residual_attentionnet', 'resnest',
    'resnet', 'resnetv1b', 'resnext', 'se_resnet', 'senet', 'shufflenet', 'squeezenet', 'vgg', 'xception',
    'yolo.darknet'))
# HRNets for segmentation; group norm as GluonCV writes it, which has no symbolic form and cannot be hybridized
_UNFIT = ('_s', '_gn')
# Pixels over 255 minus (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225), as GluonCV and torchvision train; the Gluon
# zoo's ResNets get the rounded numbers of base.py, with which the published results were made.
_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)
_CIFAR_MEAN = (125.307, 122.961, 113.8575)
_CIFAR_STD = (51.5865, 50.847, 51.255)
_CLASSIFIERS = ('output', 'fc', 'classifier', 'out', 'head')
_TAIL = (nn.Flatten, nn.Dropout, nn.Dense, nn.AvgPool2D, nn.GlobalAvgPool2D)


class ZooBackbone(Backbone):
    """A zoo network cut before its classifier, its features averaged over the image.

    Where the network has ``features`` and ``output``, the end of ``features`` is cut back too (dropout, dense layers
    as in VGG, pooling of a fixed size), so that any image size works and the features are those of the last
    convolution. Elsewhere the last layer is replaced by the identity. Names of the layers that stay do not change,
    so the zoo's own weights load.

    Parameters
    ----------
    name : str
        As given to ``--model``.
    net : HybridBlock
        The whole network. It is cut in place.
    image_size : int
        What it was made for.
    """

    def __init__(self, name: str, net: HybridBlock, mean=IMAGENET_MEAN, std=IMAGENET_STD, image_size: int = 224,
                 **kwargs):
        super().__init__(name, mean, std, **kwargs)
        self.image_size = image_size
        before = _names(net)
        _cut(name, net)
        self._removed = before - _names(net)
        self._split = hasattr(net, 'features')
        self.net = net
        self.pool: HybridBlock | None = None    # instead of the average, see models/backbones/pooling.py

    @property
    def named(self) -> HybridBlock:
        return self.net

    @property
    def removed(self) -> frozenset:
        return self._removed

    def maps_are_larger_than_a_pixel(self) -> bool:
        """Whether what the network gives has still to be averaged over the image."""
        shape = (1, 3, self.image_size, self.image_size)
        _, (output,), _ = self._maps(mx.sym.var('data')).infer_shape(data=shape)
        return len(output) == 4 and output[2] * output[3] > 1

    def _maps(self, x):
        return self.net.features(x) if self._split else self.net(x)

    def hybrid_forward(self, F, x):
        x = self._maps(x)
        if self.pool is not None:
            return F.flatten(self.pool(x))
        # Global average pooling of (B, C, H, W) that leaves (B, C) as it is.
        return F.mean(F.reshape(x, shape=(0, 0, -1)), axis=2)


def _names(net: HybridBlock) -> frozenset:
    # both ways that Gluon names parameters in files: by attribute, and (exported, or before 1.3) by prefix
    by_prefix = {name[len(net.prefix):] for name in net.collect_params()}
    return frozenset(net._collect_params_with_prefix()) | by_prefix


def _cut(name: str, net: HybridBlock) -> None:
    classifiers = [child for child in _CLASSIFIERS if child in net._children]
    if not classifiers:
        raise UsageError(f'--model {name}: no classifier found to take off this network, choose another')
    if isinstance(getattr(net, 'features', None), nn.HybridSequential):
        for child in classifiers:
            _drop(net, child)
        _cut_tail(net.features)
        return
    for child, block in list(net._children.items()):
        if child in classifiers and isinstance(block, nn.HybridSequential):
            _cut_tail(block)
        elif child in classifiers or isinstance(block, nn.Dropout):
            replace(net, child, nn.HybridLambda('identity'))
    if 'out_aux' in net._children:  # NASNet's second classifier, for training on ImageNet
        _drop(net, 'out_aux')
        net.out_aux = None


def _cut_tail(blocks: nn.HybridSequential) -> None:
    # Only from the end: the layers that stay keep their numbers, and with these their names in weights files.
    for child in reversed(list(blocks._children)):
        if not isinstance(blocks._children[child], _TAIL):
            break
        del blocks._children[child]


def replace(net: HybridBlock, child: str, block: HybridBlock) -> None:
    """Puts `block` in the place of a child of another type."""
    _drop(net, child)
    setattr(net, child, block)


def _drop(net: HybridBlock, child: str) -> None:
    # Gluon has no public way to take a child off; assigning None or another type is refused.
    del net._children[child]
    delattr(net, child)


def _models() -> dict[str, object]:
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            from gluoncv.model_zoo import model_zoo
        except RuntimeError:  # it refuses to be beside PyTorch 2, after having imported all that is needed here
            model_zoo = sys.modules['gluoncv.model_zoo.model_zoo']
    start = 'gluoncv.model_zoo.'
    return {name: build for name, build in model_zoo._models.items()
            if build.__module__[len(start):] in _MODULES and not name.endswith(_UNFIT)}


def _key(name: str) -> str:
    return name.lower().replace('_', '').replace('-', '')


def names() -> list[str]:
    """All names, sorted."""
    return sorted(_models())


def find(name: str) -> str | None:
    """The zoo's spelling of `name` (``mobilenet_v2_1.0`` is ``mobilenetv2_1.0`` there), or None."""
    return {_key(known): known for known in _models()}.get(_key(name))


def build(name: str) -> ZooBackbone:
    """The network `name` (the zoo's spelling), uninitialised."""
    net = _models()[name](pretrained=False)     # the default, but one of them asks for it
    if name.startswith('cifar_'):
        return ZooBackbone(name, net, _CIFAR_MEAN, _CIFAR_STD, 32)
    return ZooBackbone(name, net, _MEAN, _STD)
