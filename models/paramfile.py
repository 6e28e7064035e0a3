"""Weights files as NumPy arrays: MXNet's ``.params`` (read and written) and ``.safetensors`` (read).

MXNet's own reader can abort the process on a damaged file, and does not notice flipped bits. So the files are read
here, and every length is checked before it is used.

Layout (little-endian): u64 0x112, u64 reserved, u64 count, the arrays, u64 count, the names (u64 length, bytes).
An array: u32 0xF993FAC9 or ...CA, i32 storage (0, dense), i32 dimensions, i64 sizes, i32 i32 device, i32 type, data.
Files older than MXNet 1.0, as the public Inception-BN of 2016, have (u32 0xF993FAC8, i32 dimensions, i64 sizes) or
(u32 dimensions, u32 sizes) in front.
(src/ndarray/ndarray.cc, ``NDArray::Save``, ``NDArray::Load``, ``LegacyLoad``.)

Files written here have a mark in the reserved word, and end in ``sha256=<hex>``, the hash of everything before it.
MXNet and Gluon ignore both, so they load these files like any other.
"""

from __future__ import annotations

import hashlib
import math
import struct
from typing import Dict

import numpy as np

from common.files import atomic_write
from models.errors import ModelError

Arrays = Dict[str, np.ndarray]

_MAGIC = 0x112
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_CHECKED = int.from_bytes(b'sha256 @', 'little')
_TRAILER = len(b'sha256=') + 64
_TYPES = tuple(np.dtype(name) for name in ('<f4', '<f8', '<f2', 'u1', '<i4', 'i1', '<i8', '?'))
_MAX_DIMENSIONS = 32


class _Cursor:
    """Reads values one after another, never past the end."""

    def __init__(self, data: bytes):
        self.data = data
        self.at = 0

    def take(self, length: int) -> int:
        start = self.at
        if length < 0 or length > len(self.data) - start:
            raise ModelError(f'{length} bytes are due at byte {start}, but the file has {len(self.data)}')
        self.at += length
        return start

    def ints(self, kind: str, count: int = 1):
        form = f'<{count}{kind}'
        return struct.unpack_from(form, self.data, self.take(struct.calcsize(form)))

    def int(self, kind: str) -> int:
        return self.ints(kind)[0]


def _array(cursor: _Cursor) -> np.ndarray:
    dimensions, size_kind = cursor.int('I'), 'I'    # without a magic number: the oldest files
    if dimensions in (_V1, _V2, _V3):
        storage = 0 if dimensions == _V1 else cursor.int('i')
        if storage != 0:
            raise ModelError(f'an array is not dense (storage type {storage})')
        dimensions, size_kind = cursor.int('i'), 'q'
    if not 0 < dimensions <= _MAX_DIMENSIONS:
        raise ModelError(f'an array has {dimensions} dimensions')
    shape = cursor.ints(size_kind, dimensions)
    if min(shape) < 0:
        raise ModelError(f'an array has the shape {shape}')
    cursor.ints('i', 2)
    code = cursor.int('i')
    if not 0 <= code < len(_TYPES):
        raise ModelError(f'an array has the unknown type {code}')
    size = math.prod(shape)
    start = cursor.take(size * _TYPES[code].itemsize)
    return np.frombuffer(cursor.data, _TYPES[code], size, start).reshape(shape)


def _parse(data: bytes) -> Arrays:
    cursor = _Cursor(data)
    if cursor.int('Q') != _MAGIC:
        raise ModelError('it does not start like a .params file')
    mark = cursor.int('Q')
    if mark not in (0, _CHECKED):
        raise ModelError('its header is damaged')
    if mark == _CHECKED:
        cursor.data, trailer = data[:-_TRAILER], data[-_TRAILER:]
        if trailer != b'sha256=' + hashlib.sha256(cursor.data).hexdigest().encode():
            raise ModelError('its checksum does not match: it is cut off, or bits were flipped')
    # The shortest array is longer than 16 bytes: a count that cannot be right is refused before it is looped over.
    count = cursor.int('Q')
    if count > len(data) // 16:
        raise ModelError(f'{count} arrays cannot be in {len(data)} bytes')
    arrays = [_array(cursor) for _ in range(count)]
    if cursor.int('Q') != count:
        raise ModelError('it has not as many names as arrays')
    names = []
    for _ in range(count):
        length = cursor.int('Q')
        start = cursor.take(length)
        try:
            names.append(bytes(cursor.data[start:start + length]).decode())
        except UnicodeDecodeError:
            raise ModelError('a name in it is damaged') from None
    if cursor.at != len(cursor.data):
        raise ModelError(f'{len(cursor.data) - cursor.at} bytes are left over')
    if len(set(names)) != count:
        raise ModelError('a name is in it twice')
    return dict(zip(names, arrays))


def _read_safetensors(path: str) -> Arrays:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(path))
    except (SafetensorError, KeyError, TypeError, ValueError) as error:  # KeyError: types that NumPy does not have
        raise ModelError(f'not readable as .safetensors: {error}') from None


def read(path: str) -> Arrays:
    """Reads all arrays of a ``.params`` or ``.safetensors`` file.

    Raises
    ------
    ModelError
        One sentence, that names the file and what is wrong with it. No damage crashes the interpreter.
    """
    try:
        with open(path, 'rb') as file:
            head = file.read(9)
            if head[8:9] == b'{':  # 8 bytes of length, then JSON; in .params, the reserved word starts with 's' or 0
                return _read_safetensors(path)
            data = head + file.read()
        if not data:
            raise ModelError('it is empty')
        return _parse(data)
    except (ModelError, OSError) as error:
        reason = f'it cannot be read ({error.strerror or error})' if isinstance(error, OSError) else error
        raise ModelError(f'{path}: expected weights (.params or .safetensors), but {reason}') from None


def _serialise(arrays: Arrays):
    yield struct.pack('<QQQ', _MAGIC, _CHECKED, len(arrays))
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder('<')
        if dtype not in _TYPES or array.ndim == 0:
            raise ModelError(f'{name}: arrays of type {array.dtype} and shape {array.shape} do not fit into .params')
        yield struct.pack(f'<Iii{array.ndim}qiii', _V2, 0, array.ndim, *array.shape, 1, 0, _TYPES.index(dtype))
        yield np.ascontiguousarray(array, dtype).tobytes()
    yield struct.pack('<Q', len(arrays))
    for name in arrays:
        encoded = name.encode()
        yield struct.pack('<Q', len(encoded)) + encoded


def write(path: str, arrays: Arrays) -> None:
    """Writes a ``.params`` file with a checksum, under a temporary name first: the old file stays until the new one is
    whole and on disk.

    Raises
    ------
    OSError
        Disk full, no permission, ...; nothing is left behind.
    """
    digest = hashlib.sha256()
    with atomic_write(path) as file:
        for block in _serialise(arrays):
            digest.update(block)
            file.write(block)
        file.write(b'sha256=' + digest.hexdigest().encode())
