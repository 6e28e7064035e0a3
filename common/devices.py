"""From the codes of --gpus to MXNet contexts; how much memory a process used."""
from __future__ import annotations

import resource
import sys
from typing import Dict, List, Union

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


def peak_memory_mb() -> float:
    """The most memory (resident set) that this process used so far, in MB of 2^20 bytes.

    Loaders have threads and no processes of their own: theirs is counted.
    """
    try:
        with open('/proc/self/status') as file:   # ru_maxrss begins with the parent process's
            return next(int(line.split()[1]) / 1024 for line in file if line.startswith('VmHWM'))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2 ** 20 if sys.platform == 'darwin' else 1024)


def gpu_memory_mb(contexts: List[mx.Context]) -> Dict[str, float]:
    """`gpu_memory_mb`, the memory in use on the fullest of these GPUs, in MB; nothing where none is a GPU.

    MXNet keeps what it once had, so that at the end of a run this is the peak. Other processes' is counted too.
    """
    used = []
    for context in contexts:
        if context.device_type == 'gpu':
            free, total = mx.context.gpu_memory_info(context.device_id)
            used.append((total - free) / 2 ** 20)
    return {'gpu_memory_mb': max(used)} if used else {}
