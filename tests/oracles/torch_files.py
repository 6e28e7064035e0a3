"""Writes what ``torch.save(state_dict)`` writes, in both of its formats, without PyTorch."""
from __future__ import annotations

import collections
import io
import pickle
import struct
import sys
import types
import zipfile
from unittest import mock

import numpy as np

_CLASSES = {'<f4': 'FloatStorage', '<f8': 'DoubleStorage', '<f2': 'HalfStorage', '<i8': 'LongStorage',
            '|u1': 'ByteStorage', '|b1': 'BoolStorage'}


class _Storage:
    def __init__(self, key, array):
        self.key, self.array = key, array


class _Tensor:
    def __init__(self, storage, offset, shape, strides):
        self.arguments = (storage, offset, tuple(shape), tuple(strides), False, collections.OrderedDict())

    def __reduce__(self):
        return sys.modules['torch._utils']._rebuild_tensor_v2, self.arguments


class _Pickler(pickle.Pickler):
    def __init__(self, file, legacy):
        super().__init__(file, protocol=2)
        self.legacy = legacy

    def persistent_id(self, item):
        if not isinstance(item, _Storage):
            return None
        kind = getattr(sys.modules['torch'], _CLASSES[item.array.dtype.newbyteorder('<').str])
        return ('storage', kind, item.key, 'cpu', item.array.size) + ((None,) if self.legacy else ())


def _modules():
    torch, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')
    for name in _CLASSES.values():
        setattr(torch, name, type(name, (), {'__module__': 'torch', '__qualname__': name}))

    def _rebuild_tensor_v2():
        pass

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = 'torch._utils', '_rebuild_tensor_v2'
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    return {'torch': torch, 'torch._utils': utils}


def _tensors(arrays, storages):
    tensors = collections.OrderedDict()
    for name, array in arrays.items():
        if isinstance(array, np.ndarray):
            storage = _Storage(str(len(storages)), np.ascontiguousarray(array).reshape(-1))
            storages[storage.key] = storage.array
            strides = [stride // array.itemsize for stride in np.ascontiguousarray(array).strides]
            array = _Tensor(storage, 0, array.shape, strides)
        tensors[name] = array
    return tensors


def view(storage, offset, shape, strides, key='view'):
    """A tensor that is a view, for `save`."""
    return _Tensor(_Storage(key, storage), offset, shape, strides)


def save(path, arrays, legacy=False, wrap=None, extra_storages=()):
    """Writes `arrays` (name to np.ndarray or `view`); `wrap` makes another object of the dictionary first."""
    storages = {}
    tensors = _tensors(arrays, storages)
    storages.update(extra_storages)
    found = wrap(tensors) if wrap else tensors
    with mock.patch.dict(sys.modules, _modules()):
        if legacy:
            with open(path, 'wb') as file:
                for value in (0x1950A86A20F9469CFC6C, 1001,
                              {'protocol_version': 1001, 'little_endian': True, 'type_sizes': {'int': 4}}):
                    pickle.dump(value, file, protocol=2)
                _Pickler(file, True).dump(found)
                pickle.dump(sorted(storages), file, protocol=2)
                for key in sorted(storages):
                    file.write(struct.pack('<q', storages[key].size) + storages[key].tobytes())
            return
        data = io.BytesIO()
        _Pickler(data, False).dump(found)
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('archive/data.pkl', data.getvalue())
        archive.writestr('archive/byteorder', 'little')
        for key, array in storages.items():
            archive.writestr(f'archive/data/{key}', array.tobytes())
        archive.writestr('archive/version', '3\n')
