"""Inception with batch normalisation (arXiv:1502.03167), the network of most published metric-learning results.

The graph is exactly that of MXNet's public ``Inception-BN-symbol.json``, up to the last pooling, and the names of the
layers are its names, so that ``Inception-BN-0126.params`` loads. What the paper's figure does not say and that file
does: convolutions have biases; batch norm has epsilon 1.00001e-05, momentum 0.9 and a learned scale; the first two
pools have no padding; average pools count their padding; block 5b pools by maximum; the blocks that halve the
resolution (3c, 4e) have no 1x1 branch and pass the pooled input on.

There is a second Inception-BN: Caffe's, from which PyTorch's ``bn_inception`` was ported. Its layers are the same, but
its max-pools of stride two have no padding and round up, so that other pixels meet in a window, and it was trained on
another mean. `InceptionBN` turns into it when it is given weights that ``python -m models.weights convert`` made from
that network: these bring an array ``shift``, the difference of the means, to be subtracted from every pixel. (Folding
it into the first bias instead would be wrong along the border: padding puts zeros where the source has its mean.)
"""

from __future__ import annotations

import re

from mxnet.gluon import HybridBlock, nn

from models.backbones.base import IMAGENET_MEAN, Backbone

# block: (1x1, 3x3 reduce, 3x3, double 3x3 reduce, double 3x3, projection of the pool, kind of pool)
_BLOCKS = {
    '3a': (64, 64, 64, 64, 96, 32, 'avg'),
    '3b': (64, 64, 96, 64, 96, 64, 'avg'),
    '3c': (0, 128, 160, 64, 96, 0, 'max'),
    '4a': (224, 64, 96, 96, 128, 128, 'avg'),
    '4b': (192, 96, 128, 96, 128, 128, 'avg'),
    '4c': (160, 128, 160, 128, 160, 128, 'avg'),
    '4d': (96, 128, 192, 160, 192, 128, 'avg'),
    '4e': (0, 128, 192, 192, 256, 0, 'max'),
    '5a': (352, 192, 320, 160, 224, 128, 'avg'),
    '5b': (352, 192, 320, 192, 224, 128, 'max'),
}


class _Unit(HybridBlock):
    """Convolution, batch norm, ReLU; its parameters are called conv_<name> and bn_<name>."""

    def __init__(self, name: str, channels: int, before: int, kernel: int = 1, stride: int = 1, pad: int = 0):
        super().__init__(prefix='')
        with self.name_scope():
            self.conv = nn.Conv2D(channels, kernel, stride, pad, in_channels=before, prefix=f'conv_{name}_')
            self.bn = nn.BatchNorm(momentum=0.9, epsilon=1.00001e-05, in_channels=channels, prefix=f'bn_{name}_')

    def hybrid_forward(self, F, x):
        return F.relu(self.bn(self.conv(x)))


class _HalvingPool(HybridBlock):
    """Max-pool, 3x3 with stride 2, as in MXNet's graph (with `pad`, rounding down) or, with `caffe`, as in Caffe's."""

    def __init__(self, pad: int = 0):
        super().__init__(prefix='')
        self.pad = pad
        self.caffe = False

    def hybrid_forward(self, F, x):
        pad, convention = (0, 'full') if self.caffe else (self.pad, 'valid')
        return F.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(pad, pad), pool_type='max',
                         pooling_convention=convention)


class _Block(HybridBlock):
    """Up to four branches side by side, their channels one after another."""

    def __init__(self, name: str, before: int):
        super().__init__(prefix='')
        one, reduce3, three, reduce33, double, project, kind = _BLOCKS[name]
        stride = 1 if one else 2
        if one:
            pool = (nn.AvgPool2D if kind == 'avg' else nn.MaxPool2D)(3, 1, 1)
        else:
            pool = _HalvingPool(1)
        branches = [
            [_Unit(f'{name}_3x3_reduce', reduce3, before), _Unit(f'{name}_3x3', three, reduce3, 3, stride, 1)],
            [_Unit(f'{name}_double_3x3_reduce', reduce33, before),
             _Unit(f'{name}_double_3x3_0', double, reduce33, 3, 1, 1),
             _Unit(f'{name}_double_3x3_1', double, double, 3, stride, 1)],
            [pool],
        ]
        if one:
            branches.insert(0, [_Unit(f'{name}_1x1', one, before)])
            branches[-1].append(_Unit(f'{name}_proj', project, before))
        self.channels = one + three + double + (project or before)
        with self.name_scope():
            self.branches = nn.HybridSequential(prefix='')
            for units in branches:
                branch = nn.HybridSequential(prefix='')
                branch.add(*units)
                self.branches.add(branch)

    def hybrid_forward(self, F, x):
        return F.concat(*[branch(x) for branch in self.branches], dim=1)


class InceptionBN(Backbone):
    """See the module. Pixels are expected as RGB minus the mean, not scaled.

    Features have length 1024. The public graph ends in a 7x7 average pool, which at 224 pixels is global; here it is
    global at any size.
    """

    def __init__(self, name: str = 'inception-bn', **kwargs):
        super().__init__(name, IMAGENET_MEAN, (1, 1, 1), **kwargs)
        with self.name_scope():
            self.features = nn.HybridSequential(prefix='')
            self.features.add(_Unit('1', 64, 3, 7, 2, 3), _HalvingPool(),
                              _Unit('2_red', 64, 64), _Unit('2', 192, 64, 3, 1, 1), _HalvingPool())
            channels = 192
            for block in _BLOCKS:
                self.features.add(_Block(block, channels))
                channels = self.features[-1].channels
            self.features.add(nn.GlobalAvgPool2D(), nn.Flatten())

    @property
    def removed(self) -> frozenset:
        return frozenset(('fc1_weight', 'fc1_bias'))

    def adapt(self, names) -> bool:
        if not any(re.search(r'(^|[.:_])shift$', name) for name in names) or 'shift' in self._reg_params:
            return False
        self.shift = self.params.get_constant('shift', [[[[0]], [[0]], [[0]]]])

        def visit(block):
            if isinstance(block, _HalvingPool):
                block.caffe = True

        self.apply(visit)
        return True

    def hybrid_forward(self, F, x, shift=None):
        return self.features(x if shift is None else F.broadcast_sub(x, shift))
