"""Checkpoints: everything that a run needs to go on exactly, in one ``.npz`` that holds no pickle.

A checkpoint is taken between epochs. It holds the parameters of the network and of the loss, the running statistics of
every device, the optimisers' states, the sampler's generator and a JSON text with the counters and the results so far.
MXNet's own generator cannot be read; the training loop therefore reseeds it at every epoch.
"""
from __future__ import annotations

import json
import os
from typing import Any, Dict, Tuple

import mxnet as mx
import numpy as np
from mxnet import gluon

from common.errors import TrainingError
from common.files import read_npz, write_npz

FORMAT = 1


def save(path: str, meta: Dict[str, Any], arrays: Dict[str, np.ndarray]) -> None:
    """Writes a checkpoint atomically: killed at any moment, it leaves the old one or the new one."""
    text = json.dumps(dict(meta, format=FORMAT))
    write_npz(path, {'meta': np.array(text), **arrays})


def load(path: str) -> Tuple[Dict[str, Any], Dict[str, np.ndarray]]:
    """Reads a checkpoint; nothing in it can run code.

    Raises
    ------
    TrainingError
        If the file is not there, damaged, or not a checkpoint of this format.
    """
    if not os.path.exists(path):
        raise TrainingError(f'{path}: there is no checkpoint to resume')
    try:
        arrays = read_npz(path)
        meta = json.loads(str(arrays.pop('meta')))
        if meta.get('format') != FORMAT:
            raise ValueError
    except OSError as error:
        raise TrainingError(f'{path}: {error.strerror}') from error
    except (ValueError, KeyError, AttributeError, RecursionError) as error:
        raise TrainingError(f'{path} is not a whole checkpoint of this program (.ckpt.npz, format {FORMAT})') from error
    return meta, arrays


def pack(prefix: str, arrays: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """`arrays` with every name put behind ``prefix:``."""
    return {f'{prefix}:{name}': array for name, array in arrays.items()}


def unpack(prefix: str, arrays: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """What :func:`pack` put behind `prefix`."""
    start = prefix + ':'
    return {name[len(start):]: array for name, array in arrays.items() if name.startswith(start)}


def block_arrays(block: gluon.Block) -> Dict[str, np.ndarray]:
    """All parameters of a block by structural name; those that are not trained once per device as ``NAME@DEVICE``."""
    arrays = {}
    for name, param in block._collect_params_with_prefix().items():
        if param.grad_req == 'null':
            arrays.update({f'{name}@{i}': array.asnumpy() for i, array in enumerate(param.list_data())})
        else:
            arrays[name] = param.list_data()[0].asnumpy()
    return arrays


def load_block_arrays(block: gluon.Block, arrays: Dict[str, np.ndarray]) -> None:
    """Puts back what :func:`block_arrays` returned.

    Raises
    ------
    ValueError
        If names or shapes do not fit the block, or values are not finite.
    """
    for name, param in block._collect_params_with_prefix().items():
        for i, target in enumerate(param.list_data()):
            saved = arrays.get(f'{name}@{i}', arrays.get(name))
            if saved is None or saved.shape != target.shape:
                raise ValueError(f'{name} does not fit')
            if not np.isfinite(saved).all():
                raise ValueError(f'{name} has values that are not finite')
            target[:] = mx.nd.array(saved, ctx=target.context, dtype=saved.dtype)
