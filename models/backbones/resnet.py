"""ResNets of the Gluon model zoo (arXiv:1512.03385 for v1, arXiv:1603.05027 for v2)."""

from __future__ import annotations

from mxnet.gluon.model_zoo import vision

from models.backbones.zoo import ZooBackbone

NAMES = tuple(f'resnet{layers}_v{version}' for layers in (18, 34, 50, 101, 152) for version in (1, 2))


def build(name: str) -> ZooBackbone:
    """The network `name`, uninitialised."""
    return ZooBackbone(name, vision.get_model(name))
