"""From the codes of --gpus to MXNet contexts."""
from __future__ import annotations

from typing import List, Union

import mxnet as mx

from common.errors import UsageError
from common.runtime import gpu_problem


def describe_contexts(contexts: List[mx.Context], gpus: Union[str, List[mx.Context]]) -> str:
    """Which devices these are, in words: ``GPU 0, 1``; for the CPU, also whether `--gpus` had asked for GPUs."""
    if contexts == [mx.cpu(0)]:
        return 'the CPU' + (' (no GPU was found that MXNet can use)' if str(gpus).strip() == '-1' else '')
    kind = 'GPU' if all(context.device_type == 'gpu' for context in contexts) else 'CPU'
    return f'{kind} {", ".join(str(context.device_id) for context in contexts)}'


def get_contexts(gpus: Union[str, List[mx.Context]]) -> List[mx.Context]:
    """Contexts named by `--gpus`.

    Parameters
    ----------
    gpus : str, or list of mx.Context
        ``-1``: every GPU found, else the CPU; ``-2``: the CPU; ``0,1``: those GPUs. Contexts are returned as they are,
        for callers from Python: ``[mx.cpu(0), mx.cpu(1)]``.

    Raises
    ------
    UsageError
        If the code is malformed, or names a GPU that is not there or that this MXNet cannot use.
    """
    if isinstance(gpus, (list, tuple)):
        return list(gpus)
    try:
        ids = [int(part) for part in str(gpus).split(',')]
    except ValueError:
        ids = []
    if ids == [-2]:
        return [mx.cpu(0)]
    if ids != [-1] and (not ids or min(ids) < 0 or len(set(ids)) < len(ids)):
        raise UsageError(f'--gpus: {gpus!r} is not -1, -2 or a list of different GPU numbers such as 0,1')
    problem = gpu_problem(None if ids == [-1] else ids)
    if problem:
        raise UsageError(f'--gpus {gpus}: {problem}')
    found = mx.context.num_gpus()
    if ids == [-1]:
        return [mx.gpu(i) for i in range(found)] or [mx.cpu(0)]
    if max(ids) >= found:
        raise UsageError(f'--gpus {gpus}: this machine has {found} GPUs that MXNet can use (-2 trains on the CPU)')
    return [mx.gpu(i) for i in ids]
