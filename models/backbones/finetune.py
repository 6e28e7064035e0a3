"""How a backbone takes part in training: its batch norm, and its share of the learning rate."""

from __future__ import annotations

from typing import NamedTuple

from mxnet.gluon import HybridBlock, nn

from common.errors import UsageError
from models.backbones.base import Backbone


class Published(NamedTuple):
    """What a network trains with if nothing else is asked for."""
    momentum_bn: float
    conv_lr_factor: float


def published(name: str) -> Published:
    """The settings of the network `name`; it need not be built for this."""
    key = name.lower().replace('_', '').replace('-', '')
    return Published(momentum_bn=0.1 if key.startswith('nasnet') else 0.9,
                     conv_lr_factor=0.01 if key.startswith('resnet50') else 1.0)


def batch_norms(backbone: Backbone) -> list[HybridBlock]:
    """All layers that keep running statistics."""
    found: list[HybridBlock] = []
    backbone.apply(lambda block: found.append(block) if 'running_mean' in block._reg_params else None)
    return found


def set_batch_norm(backbone: Backbone, momentum: float | None = None, freeze: bool = False) -> None:
    """Sets the momentum of batch norm, or freezes it: call it before the network is hybridized.

    Frozen, it normalises with its running statistics in training, too, and these, its scale (gamma) and its shift
    (beta) stay as they are. So does the code of "A Metric Learning Reality Check" (arXiv:2003.08505).

    Parameters
    ----------
    backbone : Backbone
    momentum : float, optional
        Share of the old running statistics that is kept in each step. None leaves it alone.
    freeze : bool

    Raises
    ------
    UsageError
        If the network has no batch norm.
    """
    layers = batch_norms(backbone)
    if not layers:
        flag = '--freeze-bn' if freeze else '--momentum-bn'
        raise UsageError(f'{flag}: --model {backbone.model} has no batch norm')
    for layer in layers:
        if momentum is not None:
            layer._kwargs['momentum'] = momentum
        if freeze:
            layer._kwargs['use_global_stats'] = True
            layer.gamma.grad_req = layer.beta.grad_req = 'null'


def set_learning_rates(backbone: Backbone, factor: float = 1.0, conv_factor: float = 1.0) -> None:
    """Lets the backbone learn at `factor` x the learning rate; its convolutions' weights at `conv_factor` x that."""
    convolutions: set[str] = set()
    backbone.apply(lambda block: convolutions.add(block.weight.name) if isinstance(block, nn.Conv2D) else None)
    for name, parameter in backbone.collect_params().items():
        parameter.lr_mult = factor * (conv_factor if name in convolutions else 1.0)
