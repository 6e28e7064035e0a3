"""Weights of other frameworks, for our networks. No PyTorch needed.

What is known, by the names in the file:

- ``inception-bn`` from PyTorch's ``bn_inception`` (Cadene's port of Caffe's BN-Inception: BGR, 0..255, mean
  104, 117, 128). The order of the channels is folded into the first convolution; the difference of the means and the
  rounding of the pools are told by an array ``shift`` (see models/backbones/inception_bn.py), so that features are
  the source's for the same pixels.
- ``efficientnet-lite0`` from PyTorch's ``efficientnet_lite0`` (models/packaged.py, also for ``--pretrained auto``).
- ``resnet18_v1b`` to ``resnet152_v1b`` from torchvision's and timm's ``resnet18`` to ``resnet152``, which have the
  same graph. Not ``resnet50_v1``, which has stride two in another layer of each block: the same shapes, and other
  features.
- ``resnet18_v2`` to ``resnet152_v2`` from MXNet's own symbol checkpoints of 2016 (``resnet-50-0000.params``), which
  normalise raw pixels in their first layer.
- anything from ``.params`` of the same network: exported by Gluon, or a symbol checkpoint with our names.

Classifiers are left out.
"""

from __future__ import annotations

import re
import zipfile

import numpy as np

from models import packaged, paramfile
from models.backbones import Backbone, get_backbone
from models.errors import ModelError
from models.loading import fit
from models.paramfile import Arrays
from models.safe_pickle import read_torch

_CAFFE_MEAN_RGB = (128.0, 117.0, 104.0)
_SYMBOL_EPSILON = 2e-5  # of batch norm in MXNet's ResNet symbols
_GLUON_EPSILON = 1e-5


def convert(source: str, model: str, target: str) -> str:
    """Converts the file `source` into `target`, a ``.params`` file for ``--model model --pretrained target``.

    Returns
    -------
    str
        What it was, in a few words.

    Raises
    ------
    ModelError
        Unreadable, unknown, or for another network. Nothing is written.
    OSError
        `target` cannot be written.
    """
    arrays = _read(source)
    backbone = get_backbone(model)
    try:
        note, converted = _convert(arrays, backbone)
        pairs = fit(backbone, backbone.named, converted, backbone.removed)
    except ModelError as error:
        raise ModelError(f'{source}: {error}') from None
    keep = {name for _, name in pairs}
    paramfile.write(target, {name: array.astype(np.float32) for name, array in converted.items() if name in keep})
    return note


def _read(path: str) -> Arrays:
    with open(path, 'rb') as file:
        pickled = file.read(1) == b'\x80'
    return read_torch(path) if pickled or zipfile.is_zipfile(path) else paramfile.read(path)


def _convert(arrays: Arrays, backbone: Backbone):
    model = backbone.model
    if 'conv1_7x7_s2.weight' in arrays:
        if model != 'inception-bn':
            raise ModelError(f'these are weights of bn_inception: use --model inception-bn, not {model}')
        return 'from PyTorch bn_inception', from_bn_inception(arrays, backbone)
    if '_conv_stem.weight' in arrays:
        if model != packaged.MODEL:
            raise ModelError(f'these are weights of EfficientNet-Lite: use --model {packaged.MODEL}, not {model}')
        return 'from PyTorch EfficientNet-Lite0', packaged.from_torch(arrays)
    if 'layer1.0.conv1.weight' in arrays:
        if re.fullmatch(r'resnet\d+_v1b', model) is None:
            raise ModelError(f'these are weights of a torchvision ResNet: use --model resnet50_v1b (or the v1b of '
                             f'their depth), not {model}, whose graph differs')
        return 'from a torchvision ResNet', from_torchvision(arrays)
    if 'arg:bn_data_gamma' in arrays or 'arg:bn_data_beta' in arrays:
        if re.fullmatch(r'resnet\d+_v2', model) is None:
            raise ModelError(f'these are weights of an MXNet ResNet symbol: use --model resnet50_v2, not {model}')
        return 'from an MXNet ResNet symbol', from_resnet_symbol(arrays, backbone)
    return 'from the same network', arrays


def _get(arrays: Arrays, name: str) -> np.ndarray:
    try:
        return arrays[name]
    except KeyError:
        raise ModelError(f'it has no {name}') from None


def from_bn_inception(arrays: Arrays, backbone: Backbone) -> Arrays:
    """PyTorch's bn_inception, with the names of ``Inception-BN-0126.params``."""
    stem = {'1': 'conv1_7x7_s2', '2_red': 'conv2_3x3_reduce', '2': 'conv2_3x3'}

    def theirs(conv: str) -> str:
        if conv in stem:
            return stem[conv]
        block, layer = conv.split('_', 1)
        layer = {'double_3x3_0': 'double_3x3_1', 'double_3x3_1': 'double_3x3_2', 'proj': 'pool_proj'}.get(layer, layer)
        return f'inception_{block}_{layer}'

    result = {'arg:shift': np.subtract(_CAFFE_MEAN_RGB, backbone.mean).reshape((1, 3, 1, 1))}
    for conv in re.findall(r'conv_(\w+)_weight', ' '.join(backbone.collect_params())):
        name = theirs(conv)
        result[f'arg:conv_{conv}_weight'] = _get(arrays, f'{name}.weight')
        result[f'arg:conv_{conv}_bias'] = _get(arrays, f'{name}.bias')
        for kind, ours in (('weight', 'arg:bn_{}_gamma'), ('bias', 'arg:bn_{}_beta'),
                           ('running_mean', 'aux:bn_{}_moving_mean'), ('running_var', 'aux:bn_{}_moving_var')):
            result[ours.format(conv)] = _get(arrays, f'{name}_bn.{kind}').reshape(-1)  # (1, C) in the oldest files
    result['arg:conv_1_weight'] = result['arg:conv_1_weight'][:, ::-1]
    return result


def from_torchvision(arrays: Arrays) -> Arrays:
    """torchvision's and timm's ResNets, with GluonCV's names for v1b: the same, but for batch norm."""
    norms = {name[:-len('running_mean')] for name in arrays if name.endswith('.running_mean')}
    result = {}
    for name, array in arrays.items():
        layer, kind = name.rsplit('.', 1)
        if kind != 'num_batches_tracked':
            result[f'{layer}.{packaged.STATISTICS[kind]}' if f'{layer}.' in norms else name] = array
    return result


def from_resnet_symbol(arrays: Arrays, backbone: Backbone) -> Arrays:
    """MXNet's ResNet v2 symbols (example/image-classification/symbols/resnet.py), with Gluon's names for v2.

    Their batch norm has epsilon 2e-5, Gluon's has 1e-5: the difference goes into the variances. Their first layer
    takes raw pixels, ours normalised ones, and ``(x - mean) / std`` goes into its statistics. Both are exact where
    the running statistics are used.
    """
    mean, std = np.array(backbone.mean), np.array(backbone.std)
    stages = sorted({int(stage) for stage in re.findall(r'stage(\d+)_unit1_', ' '.join(arrays))})
    units = {'conv0': 'features.1', 'bn0': 'features.2', 'bn_data': 'features.0', 'bn1': f'features.{5 + len(stages)}'}
    result = {}
    for name, array in arrays.items():
        layer, kind = re.fullmatch(r'(?:arg|aux):(.*)_(weight|bias|gamma|beta|moving_mean|moving_var)', name).groups()
        unit = re.fullmatch(r'stage(\d+)_unit(\d+)_(\w+)', layer)
        if unit:
            stage, number, inner = int(unit.group(1)), int(unit.group(2)), unit.group(3)
            ours = f'features.{4 + stage}.{number - 1}.' + ('downsample' if inner == 'sc' else inner)
        elif layer in units:
            ours = units[layer]
        elif layer == 'fc1':
            continue
        else:
            raise ModelError(f'{name} is in it, which an MXNet ResNet symbol has not')
        if layer == 'bn_data' and kind == 'moving_mean':
            array = (array - mean) / std
        elif kind == 'moving_var':
            scale = std if layer == 'bn_data' else 1
            array = (array.astype(np.float64) + _SYMBOL_EPSILON) / scale ** 2 - _GLUON_EPSILON
        elif layer == 'bn_data' and kind == 'gamma':
            array = np.ones_like(array)  # fixed at one, whatever the file says
        result[f'{ours}.{kind.replace("moving", "running")}'] = array
    return result
