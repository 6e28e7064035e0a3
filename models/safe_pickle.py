"""PyTorch's ``.pth`` files without PyTorch, and without running what is in them.

A ``.pth`` file is a pickle, and a pickle can run code. Some published weights exist in no other form. So this module
subclasses ``pickle.Unpickler`` as Python's manual shows for untrusted data (*Restricting Globals*): `find_class` knows
only the names that a dictionary of tensors needs, answers them with functions of our own, which build NumPy arrays, and
refuses every other name. Nothing else in this project reads a pickle; training reads ``.params`` and ``.safetensors``.

Both of PyTorch's formats are read: the zip archive (since 1.6) and the older sequence of pickles and raw storages.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from typing import Dict, NamedTuple, Tuple

import numpy as np

from models.errors import ModelError
from models.paramfile import Arrays

_BFLOAT16 = 'V2'    # NumPy has no such type
_STORAGES = {
    'FloatStorage': '<f4', 'DoubleStorage': '<f8', 'HalfStorage': '<f2', 'LongStorage': '<i8', 'IntStorage': '<i4',
    'ShortStorage': '<i2', 'CharStorage': 'i1', 'ByteStorage': 'u1', 'BoolStorage': '?', 'BFloat16Storage': _BFLOAT16,
}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


def _decode(data: bytes, kind: str) -> np.ndarray:
    if kind == _BFLOAT16:  # the upper half of a float32
        return (np.frombuffer(data, '<u2').astype('<u4') << 16).view('<f4')
    return np.frombuffer(data, kind)


class _Tensor(NamedTuple):
    """A view of a storage that may be read later; `array` builds it."""

    key: str
    offset: int
    shape: Tuple[int, ...]
    strides: Tuple[int, ...]

    def array(self, storages: Arrays) -> np.ndarray:
        storage = storages[self.key]
        if len(self.shape) != len(self.strides) or not all(isinstance(n, int) and n >= 0 for n in
                                                           (self.offset, *self.shape, *self.strides)):
            raise ModelError('a tensor has an impossible shape')
        size = math.prod(self.shape)
        if size == 0:
            return np.zeros(self.shape, storage.dtype)
        last = self.offset + sum((length - 1) * stride for length, stride in zip(self.shape, self.strides))
        # Every element inside the storage, and not more elements than it has: stride 0 could ask for terabytes.
        if last >= storage.size or size > storage.size:
            raise ModelError('a tensor is larger than its storage')
        steps = [stride * storage.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(storage[self.offset:], self.shape, steps).copy()


def _globals() -> Dict[Tuple[str, str], object]:
    # New functions for every file: a pickle may set attributes on what it was given.
    def tensor(storage, offset, shape, strides, *_ignored):
        return _Tensor(storage, offset, shape, strides)

    def parameter(data, *_ignored):
        return data

    return {('torch._utils', '_rebuild_tensor_v2'): tensor, ('torch._utils', '_rebuild_tensor'): tensor,
            ('torch._utils', '_rebuild_parameter'): parameter, ('torch.nn.parameter', 'Parameter'): parameter,
            ('collections', 'OrderedDict'): OrderedDict, **{('torch', name): kind for name, kind in _STORAGES.items()}}


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries of `_Tensor`, notes the storages that they need, and nothing else."""

    def __init__(self, file, persistent: bool = True):
        super().__init__(file, encoding='utf-8')
        self._known = _globals() if persistent else {}
        self.kinds: Dict[str, Tuple[str, int]] = {}

    def find_class(self, module, name):
        try:
            return self._known[module, name]
        except KeyError:
            raise ModelError(f'it asks for {module}.{name}, and nothing but tensors is read from .pth files '
                             f'(save the state_dict alone)') from None

    def persistent_load(self, pid):
        # ('storage', type, key, device, number of elements[, view]); the type is a string here, see _globals
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != 'storage' or not isinstance(pid[1], str) \
                or not isinstance(pid[2], str) or not isinstance(pid[4], int):
            raise ModelError('it refers to something that is no storage')
        if len(pid) > 5 and pid[5] is not None:
            raise ModelError('its storages are views of each other, as before PyTorch 0.4')
        self.kinds[pid[2]] = (pid[1], pid[4])
        return pid[2]


def _read_zip(path: str):
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        top = next((name[:-len('data.pkl')] for name in names if name.endswith('/data.pkl')), None)
        if top is None:
            raise ModelError('it is a zip archive without data.pkl')
        if top + 'byteorder' in names and archive.read(top + 'byteorder') != b'little':
            raise ModelError('it was written on a big-endian machine')
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise ModelError('it is compressed, which torch.save does not do')  # and could grow without bound
        unpickler = _Unpickler(io.BytesIO(archive.read(top + 'data.pkl')))
        found = unpickler.load()
        storages = {}
        for key, (kind, count) in unpickler.kinds.items():
            entry, due = archive.getinfo(f'{top}data/{key}'), count * np.dtype(kind).itemsize
            if entry.file_size != due:  # before it is read
                raise ModelError(f'storage {key} has {entry.file_size} bytes, not {due}')
            storages[key] = _decode(archive.read(entry), kind)
    return found, storages


def _read_legacy(path: str):
    with open(path, 'rb') as file:
        if _Unpickler(file, False).load() != _LEGACY_MAGIC or _Unpickler(file, False).load() != _LEGACY_PROTOCOL:
            raise ModelError('it does not start like a file of torch.save')
        if _Unpickler(file, False).load().get('little_endian') is not True:
            raise ModelError('it was written on a big-endian machine')
        unpickler = _Unpickler(file)
        found = unpickler.load()
        left = os.path.getsize(path) - file.tell()
        storages = {}
        for key in _Unpickler(file, False).load():
            kind, count = unpickler.kinds[key]
            due = count * np.dtype(kind).itemsize
            if struct.unpack('<q', file.read(8))[0] != count or not 0 <= due <= left:
                raise ModelError(f'storage {key} has not the {count} elements that are due')
            storages[key] = _decode(file.read(due), kind)
    return found, storages


def read_torch(path: str) -> Arrays:
    """Reads the state dictionary of a ``.pth`` file.

    Parameters
    ----------
    path : str
        A file of ``torch.save(model.state_dict())``, or of a dictionary that has it as ``state_dict`` or ``model``.

    Returns
    -------
    dict of str to np.ndarray
        ``module.`` in front of the names (from ``DataParallel``) is removed.

    Raises
    ------
    ModelError
        One sentence that names the file: damaged, no dictionary of tensors, or asking for any Python object other
        than tensors (whose code is not run).
    """
    try:
        found, storages = (_read_zip if zipfile.is_zipfile(path) else _read_legacy)(path)
        for key in ('state_dict', 'model'):
            if isinstance(found, dict) and isinstance(found.get(key), dict):
                found = found[key]
        arrays = {name: value.array(storages) for name, value in found.items() if isinstance(value, _Tensor)} \
            if isinstance(found, dict) else {}
        if not arrays or not all(isinstance(name, str) for name in arrays):
            raise ModelError('no dictionary of tensors is in it')
    except Exception as error:  # a damaged pickle can raise anything, MemoryError and RecursionError included
        reason = f'it is damaged ({type(error).__name__}: {error})'
        if isinstance(error, OSError):
            reason = f'it cannot be read ({error.strerror or error})'
        raise ModelError(f'{path}: expected PyTorch weights (.pth), but '
                         f'{error if isinstance(error, ModelError) else reason}') from None
    start = 'module.'
    if all(name.startswith(start) for name in arrays):
        arrays = {name[len(start):]: array for name, array in arrays.items()}
    return arrays
