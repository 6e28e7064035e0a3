"""A small network for small images (32 pixels and up)."""

from __future__ import annotations

from mxnet.gluon import nn

from models.backbones.base import Backbone


class ConvNet(Backbone):
    """Four blocks of convolution (3x3), batch norm, ReLU and max-pooling (2x2), then global average pooling.

    Like the *Conv-4* networks of few-shot learning (arXiv:1703.05175), but the widths double from block to block. At 32
    pixels this takes about as many multiplications as 64-64-64-64, and the features have length 256 instead of 64.
    """

    WIDTHS = (32, 64, 128, 256)

    def __init__(self, name: str = 'convnet', **kwargs):
        super().__init__(name, **kwargs)
        with self.name_scope():
            self.features = nn.HybridSequential()
            for width, before in zip(self.WIDTHS, (3,) + self.WIDTHS[:-1]):
                self.features.add(nn.Conv2D(width, 3, padding=1, use_bias=False, in_channels=before),
                                  nn.BatchNorm(in_channels=width), nn.Activation('relu'), nn.MaxPool2D(2))
            self.features.add(nn.GlobalAvgPool2D(), nn.Flatten())

    def hybrid_forward(self, F, x):
        return self.features(x)
