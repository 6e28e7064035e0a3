"""What the machine is: its devices, their memory, and the versions of what runs on them."""
from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
from typing import Any, Dict, Optional

import mxnet as mx

from common.runlog import git_revision, versions
from common.runtime import available_cores, cuda_build

MIB = 2 ** 20


class ActingDevice(mx.Context):
    """A CPU that evaluation takes for a device, so that the code for devices runs where there is none."""

    device_type = 'acting'      # MXNet itself goes by the number of the type, which is the CPU's, and by the text below

    def __init__(self, number: int):
        super().__init__('cpu', number)

    def __str__(self) -> str:
        return f'cpu({self.device_id})'


def for_evaluation(device: mx.Context) -> mx.Context:
    """The device as evaluation shall see it."""
    return device if device.device_type == 'gpu' else ActingDevice(device.device_id)


def describe_machine() -> Dict[str, Any]:
    """Processor, versions and settings."""
    features = mx.runtime.Features()
    return {'processor': _processor(), 'cores': available_cores(), 'platform': platform.platform(),
            'versions': versions(), 'cuda_build': cuda_build() or 'none',
            'features': [name for name in ('CUDA', 'CUDNN', 'NCCL', 'MKLDNN') if features.is_enabled(name)],
            'OMP_NUM_THREADS': os.environ.get('OMP_NUM_THREADS'),
            'CUDA_VISIBLE_DEVICES': os.environ.get('CUDA_VISIBLE_DEVICES'),
            'NVIDIA_TF32_OVERRIDE': os.environ.get('NVIDIA_TF32_OVERRIDE'), 'git': git_revision()}


def _processor() -> str:
    try:
        with open('/proc/cpuinfo', encoding='utf-8', errors='replace') as file:
            return next(line.split(':', 1)[1].strip() for line in file if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.machine() or 'unknown'


def describe_device(device: mx.Context) -> Dict[str, Any]:
    """Name, memory (MiB), compute capability and driver of a device; 'unknown' where nobody can say."""
    if device.device_type != 'gpu':
        return {'device': str(device), 'name': 'CPU in place of a device', 'memory': None,
                'compute_capability': 'none', 'driver': 'none'}
    try:
        memory: Optional[int] = mx.context.gpu_memory_info(device.device_id)[1] // MIB
    except mx.base.MXNetError:
        memory = None
    ask = {'name': 'name', 'compute_capability': 'compute_cap', 'driver': 'driver_version'}
    return {'device': str(device), 'memory': memory,
            **{key: nvidia_smi(field, device.device_id) or 'unknown' for key, field in ask.items()}}


def nvidia_smi(field: str, number: int) -> Optional[str]:
    """One field of one GPU; None if nvidia-smi is not there or does not know it (old ones have no compute_cap)."""
    program = shutil.which('nvidia-smi')
    if program is None:
        return None
    visible = os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',')     # nvidia-smi counts all, CUDA only these
    index = visible[number].strip() if number < len(visible) and visible[number].strip() else str(number)
    try:
        result = subprocess.run([program, '-i', index, f'--query-gpu={field}', '--format=csv,noheader,nounits'],
                                capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip().split('\n')[0].strip() or None


def memory_in_use(device: mx.Context) -> float:
    """MiB in use on a GPU, by whomever; for a CPU the largest that this process ever had.

    MXNet keeps what it once took, so after some steps this is the most that they needed.
    """
    if device.device_type == 'gpu':
        free, total = mx.context.gpu_memory_info(device.device_id)
        return (total - free) / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
