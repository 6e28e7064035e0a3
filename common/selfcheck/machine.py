"""What the machine is: its devices, their memory, and the versions of what runs on them."""
from __future__ import annotations

import os
import platform
import resource
from typing import Any, Dict

import mxnet as mx

from common.runlog import git_revision, versions
from common.runtime import available_cores, cuda_build, driver_number, graphics_cards

MIB = 2 ** 20


class ActingDevice(mx.Context):
    """A CPU that evaluation takes for a device, so that the code for devices runs where there is none."""

    device_type = 'acting'      # MXNet itself goes by the number of the type, which is the CPU's, and by the text below

    def __init__(self, number: int):
        super().__init__('cpu', number)

    def __str__(self) -> str:
        return f'cpu({self.device_id})'


def for_evaluation(device: mx.Context) -> mx.Context:
    """The device that evaluation is given."""
    return device if device.device_type == 'gpu' else ActingDevice(device.device_id)


def describe_machine() -> Dict[str, Any]:
    """Processor, versions and settings."""
    features = mx.runtime.Features()
    variables = ('OMP_NUM_THREADS', 'CUDA_VISIBLE_DEVICES', 'NVIDIA_TF32_OVERRIDE')
    return {'processor': _processor(), 'cores': available_cores(), 'platform': platform.platform(),
            'versions': versions(), 'cuda_build': cuda_build() or 'none',
            'features': [name for name in ('CUDA', 'CUDNN', 'NCCL', 'MKLDNN') if features.is_enabled(name)],
            **{name: os.environ.get(name) for name in variables}, 'git': git_revision()}


def _processor() -> str:
    try:
        with open('/proc/cpuinfo', encoding='utf-8', errors='replace') as file:
            return next(line.split(':', 1)[1].strip() for line in file if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.machine() or 'unknown'


def describe_device(device: mx.Context) -> Dict[str, Any]:
    """Name, memory (MiB), compute capability and driver of a device; 'unknown' or None where nobody can say."""
    if device.device_type != 'gpu':
        return {'device': str(device), 'name': 'CPU in place of a device'}
    name, capability = graphics_cards().get(device.device_id, ('unknown', ()))
    try:
        memory = mx.context.gpu_memory_info(device.device_id)[1] // MIB
    except mx.base.MXNetError:
        memory = None
    return {'device': str(device), 'name': name, 'memory': memory, 'driver': driver_number() or 'unknown',
            'compute_capability': '.'.join(map(str, capability)) or 'unknown'}


def memory_in_use(device: mx.Context) -> float:
    """MiB in use on a GPU by all processes; for a CPU the peak of this process.

    MXNet does not give memory back, so after some steps this is the most that they needed.
    """
    if device.device_type == 'gpu':
        free, total = mx.context.gpu_memory_info(device.device_id)
        return (total - free) / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
