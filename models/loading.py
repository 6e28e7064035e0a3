"""Weights into networks and out of them, checked before anything is loaded.

A damaged file, or one of another network, is a `ModelError` of one sentence, and the network stays as it was.
"""
from __future__ import annotations

import os
from typing import Any, Dict, List, Mapping, Tuple

import mxnet as mx
import numpy as np
from mxnet.gluon import Block, Parameter

from common.files import hash_file
from models import paramfile
from models.backbones.base import Backbone, Contexts
from models.errors import ModelError
from models.paramfile import Arrays
from models.store import find


def save_parameters(net: Block, path: str) -> None:
    """Writes all parameters of `net` to a ``.params`` file, under a temporary name first.

    Gluon's ``net.load_parameters`` reads these files too; what it does not check is the SHA-256 at their end.
    Parameters that are on several devices are averaged (only batch norm's running statistics differ).

    Raises
    ------
    OSError
        Disk full, no permission: the old file stays as it was.
    """
    paramfile.write(path, {name: parameter._reduce().asnumpy()
                           for name, parameter in net._collect_params_with_prefix().items()})


def load_parameters(net: Block, path: str, ctx: Contexts = None) -> None:
    """Loads all parameters of `net` from a ``.params`` or ``.safetensors`` file, or none.

    Parameters
    ----------
    net : Block
        Initialised or not.
    path : str
        From :func:`save_parameters`, Gluon's ``save_parameters`` or ``export``, or a symbol checkpoint.
    ctx : context or list of contexts, optional
        For parameters that are not initialised yet; default: where the others are.

    Raises
    ------
    ModelError
        One sentence naming the file: unreadable, cut off, bits flipped, of another network (with the first
        parameter that does not fit), or with values that are not finite.
    """
    _load(net, net, path, paramfile.read(path), frozenset(), ctx)


def load_pretrained(backbone: Backbone, pretrained: str) -> None:
    """Loads `pretrained` (``auto`` or a file) and notes file, hash and source in ``backbone.weights``.

    The classifier's parameters in the file are ignored. It may be the file of a whole `EmbeddingNet`. Then its head is
    kept in ``backbone.pretrained_head`` for :func:`load_head`.
    """
    auto = pretrained == 'auto'
    path = find(backbone.model) if auto else os.path.expanduser(pretrained)
    arrays = paramfile.read(path)
    start = 'backbone.'
    whole = any(name.startswith(start) for name in arrays)
    if whole:
        own = _below(start, arrays)
        for name in [name for name in own if name.endswith('gem_p')]:
            backbone.pretrained_gem = own.pop(name)
        _load(backbone, backbone, path, own, frozenset(), None)
    else:
        _load(backbone, backbone.named, path, arrays, backbone.removed, None)
    backbone.pretrained_head = _below('head.', arrays) if whole else {}
    backbone.weights = {'file': path, 'sha256': hash_file(path), 'source': 'published' if auto else 'file',
                        'taken': 'backbone'}


def load_head(head: Block, backbone: Backbone) -> None:
    """Loads what fits `head` of the head that came with the backbone's weights; notes it in ``backbone.weights``."""
    head.infer_shape(mx.nd.zeros((1, backbone.features_dim)))    # so that no layer takes an array of any length
    own = head._collect_params_with_prefix()
    fitting = {name: array for name, array in backbone.pretrained_head.items()
               if name in own and _fits(own[name], array)}
    for name, array in fitting.items():
        _refuse_not_finite(f'{backbone.weights["file"]}: expected weights of {backbone.model}, but head.{name}', array)
    if fitting:
        contexts = next(iter(backbone.collect_params().values())).list_ctx()
        _fill([(own[name], array) for name, array in fitting.items()], contexts)
        backbone.weights['taken'] += ' and head' if len(fitting) == len(own) else \
            f' and {len(fitting)} of the {len(own)} arrays of the head'


def fit(net: Block, named: Block, arrays: Arrays, removed: frozenset = frozenset()) -> List[Tuple[Parameter, str]]:
    """Which array of `arrays` belongs to which parameter of `named`.

    Returns
    -------
    list of (Parameter, str)
        With the names in `arrays`.

    Raises
    ------
    ModelError
        Without the file's name: the caller knows it.
    """
    adapted = []
    net.apply(lambda block: adapted.append(isinstance(block, Backbone) and block.adapt(arrays)))
    if any(adapted) and getattr(net, '_active', False):
        net.hybridize(True, **dict(net._flags))  # forget the graph of the variant before
    expected = named._collect_params_with_prefix()
    names = {name: name for name in arrays}
    if not set(names) & set(expected):
        # By prefix: exported, saved before Gluon 1.3, or a symbol checkpoint with its own word for running statistics.
        expected = {name[len(named.prefix):]: p for name, p in named.collect_params().items()}
        names = _without_prefix(arrays, expected)
        if not set(names) & set(expected):
            # An export of a network whose parts were made apart, as an EmbeddingNet's backbone: several prefixes.
            expected, names = _numbered_anew(named.collect_params()), _numbered_anew(names)
    names = {name: name_in_file for name, name_in_file in names.items() if name not in removed}
    shown = f'expected weights of {network_name(net)}, but '
    missing = [name for name in expected if name not in names]
    if missing:
        raise ModelError(f'{shown}it has no {_some(missing)}')
    extra = [name for name in names if name not in expected]
    if extra:
        raise ModelError(f'{shown}it has {_some(extra)} too')
    for name, parameter in expected.items():
        array = arrays[names[name]]
        if not _fits(parameter, array):
            raise ModelError(f'{shown}{name} has the shape {array.shape} in it, not {tuple(parameter.shape)}')
        _refuse_not_finite(shown + names[name], array)
    return [(parameter, names[name]) for name, parameter in expected.items()]


def _load(net: Block, named: Block, path: str, arrays: Arrays, removed: frozenset, ctx: Contexts) -> None:
    try:
        pairs = fit(net, named, arrays, removed)
    except ModelError as error:
        raise ModelError(f'{path}: {error}') from None
    if ctx is None:
        ctx = next((p.list_ctx() for p, _ in pairs if p._data is not None or p._deferred_init), None)
    _fill([(parameter, arrays[name]) for parameter, name in pairs], ctx)


def _fits(parameter: Parameter, array: np.ndarray) -> bool:
    shape = parameter.shape or array.shape      # None or 0: not known yet
    return len(shape) == array.ndim and all(due in (0, -1, got) for due, got in zip(shape, array.shape))


def _refuse_not_finite(name: str, array: np.ndarray) -> None:
    """A network that diverged holds NaN or infinite values: nothing can be done with it."""
    if not np.isfinite(array).all():
        raise ModelError(f'{name} has values that are not finite')


def _fill(pairs: List[Tuple[Parameter, np.ndarray]], ctx: Contexts) -> None:
    for parameter, array in pairs:
        data = mx.nd.array(array, dtype=parameter.dtype)
        if parameter._data is None:
            parameter._load_init(data, parameter.list_ctx() if parameter._deferred_init else ctx)
        else:
            parameter.set_data(data)


def _below(start: str, arrays: Arrays) -> Arrays:
    return {name[len(start):]: array for name, array in arrays.items() if name.startswith(start)}


def _without_prefix(arrays: Arrays, expected) -> Dict[str, str]:
    plain = {}
    for name in arrays:
        short = name[4:] if name.startswith(('arg:', 'aux:')) else name
        plain[short.replace('_moving_', '_running_')] = name
    common = os.path.commonprefix(list(plain))
    common = common[:common.rfind('_') + 1]
    if not set(plain) & set(expected) and common:
        plain = {name[len(common):]: name_in_file for name, name_in_file in plain.items()}
    return plain


def _numbered_anew(named: Mapping[str, Any]) -> Dict[str, Any]:
    """`named` with the first word of each name (convnet7 of convnet7_conv0_weight) numbered from 0 in its kind."""
    kinds: Dict[str, List[Tuple[int, str]]] = {}
    for word in {name.split('_')[0] for name in named}:
        kind = word.rstrip('0123456789')
        kinds.setdefault(kind, []).append((int(word[len(kind):] or 0), word))
    new = {word: f'{kind}{i}' for kind, words in kinds.items() for i, (_, word) in enumerate(sorted(words))}
    return {new[name.split('_')[0]] + name[len(name.split('_')[0]):]: value for name, value in named.items()}


def _some(names: List[str]) -> str:
    return names[0] + (f' (and {len(names) - 1} more)' if len(names) > 1 else '')


def network_name(net: Block) -> str:
    """A network in a few words, for messages."""
    if isinstance(net, Backbone):
        return net.model
    backbone = getattr(net, 'backbone', None)
    name = type(net).__name__
    return f'{name} with {backbone.model}' if isinstance(backbone, Backbone) else name
