"""The backbone that the flags ask for."""
from __future__ import annotations

import argparse
from typing import List

import mxnet as mx

from models import get_backbone
from models.backbones import Backbone, finetune


def build_backbone(opt: argparse.Namespace, ctx: List[mx.Context]) -> Backbone:
    """The network of --model with the weights of --pretrained, set up for training.

    Raises
    ------
    ModelError, UsageError
        If weights or flags do not fit the network.
    """
    backbone = get_backbone(opt.model, opt.pretrained, ctx, opt.pooling)
    if opt.freeze_bn or opt.momentum_bn != finetune.published(opt.model).momentum_bn:
        finetune.set_batch_norm(backbone, opt.momentum_bn, opt.freeze_bn)
    finetune.set_learning_rates(backbone, opt.backbone_lr_factor, opt.conv_lr_factor)
    return backbone
