"""The reader of MATLAB 5 files against SciPy's writer, and on damaged files."""
from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from dataset.matfile import read_mat

TABLE = np.zeros((1, 3), dtype=[('path', object), ('number', object)])
for row in range(3):
    TABLE[0, row] = ('car_ims/%d.jpg' % row, np.uint16(300 + row))
CONTENT = {'table': TABLE, 'names': np.array([['one', 'two, and longer', 'Ωß']], dtype=object),
           'matrix': np.array([[1.5, 2.5], [-3.0, np.inf]]), 'text': 'abc', 'nothing': np.zeros((0, 0))}
EXPECTED = {'table': {'path': ['car_ims/0.jpg', 'car_ims/1.jpg', 'car_ims/2.jpg'],
                      'number': [(300,), (301,), (302,)]},
            'names': ['one', 'two, and longer', 'Ωß'], 'matrix': (1.5, -3.0, 2.5, np.inf), 'text': 'abc',
            'nothing': ()}


def saved(content, **options):
    stream = io.BytesIO()
    savemat(stream, content, **options)
    return stream.getvalue()


def read(tmp_path, content):
    (tmp_path / 'file.mat').write_bytes(content)
    return read_mat(str(tmp_path / 'file.mat'))


@pytest.mark.parametrize('compress', [False, True])
def test_everything_a_table_needs(tmp_path, compress):
    assert read(tmp_path, saved(CONTENT, do_compression=compress)) == EXPECTED


@pytest.mark.parametrize('dtype', ['int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'int64', 'uint64',
                                   'float32', 'float64'])
def test_all_number_types(tmp_path, dtype):
    values = np.array([[0, 1, 127]], dtype=dtype)
    assert read(tmp_path, saved({'x': values})) == {'x': (0, 1, 127)}
    assert type(read(tmp_path, saved({'x': values}))['x'][0]) is type(values[0, 0].item())


def test_big_endian(tmp_path):
    """Made by hand: x = uint16 [1 258], with a packed and a full element."""
    array = (struct.pack('>IIII', 6, 8, 11, 0) + struct.pack('>IIii', 5, 8, 1, 2)
             + struct.pack('>HH4s', 1, 1, b'x') + struct.pack('>HHHH', 4, 4, 1, 258))
    header = b'MATLAB 5.0 MAT-file'.ljust(124) + struct.pack('>H', 0x0100) + b'MI'
    assert read(tmp_path, header + struct.pack('>II', 14, len(array)) + array) == {'x': (1, 258)}


@pytest.mark.parametrize('content, message', [
    (b'', 'no MATLAB 5 file'), (b'x' * 500, 'no MATLAB 5 file'), (b'\x89HDF' + bytes(500), 'no MATLAB 5 file'),
])
def test_other_files_are_refused(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, content)


def test_sparse_matrices_are_refused(tmp_path):
    from scipy.sparse import eye
    with pytest.raises(ValueError, match='class 5'):
        read(tmp_path, saved({'x': eye(3)}))


def test_nesting_has_a_limit(tmp_path):
    value = np.zeros((1, 1))
    for _ in range(20):
        cell = np.empty((1, 1), dtype=object)
        cell[0, 0] = value
        value = cell
    with pytest.raises(ValueError, match='deep'):
        read(tmp_path, saved({'x': value}))


def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr('dataset.matfile._LARGEST', 1000)
    with pytest.raises(ValueError, match='container'):
        read(tmp_path, saved({'x': np.zeros((100, 100))}, do_compression=True))


def test_huge_sizes_neither_take_memory_nor_time(tmp_path):
    good = saved({'x': np.array([['a', 'b']], dtype=object)})
    size = struct.pack('<ii', 1, 2)
    assert good.count(size) == 1
    with pytest.raises(ValueError, match='ends within|reaches beyond'):
        read(tmp_path, good.replace(size, struct.pack('<ii', 2 ** 31 - 1, 2 ** 31 - 1)))


def test_a_damaged_compressed_variable_is_refused(tmp_path):
    content = bytearray(saved(CONTENT, do_compression=True))
    content[-1] ^= 1
    with pytest.raises(ValueError, match='damaged MATLAB 5 file.*incorrect data check'):
        read(tmp_path, bytes(content))


@pytest.mark.parametrize('compress', [False, True])
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_damaged_files_are_read_or_refused(tmp_path_factory, compress, data):
    """SciPy's own reader crashes the process on some of these."""
    content = bytearray(saved(CONTENT, do_compression=False))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(124, len(content) - 1))] = data.draw(st.sampled_from([0, 1, 2, 5, 14, 128, 255]))
    content = bytes(content[:data.draw(st.one_of(st.none(), st.integers(0, len(content))))])
    if compress:  # the damage lies under an intact checksum
        packed = zlib.compress(content[128:])
        content = content[:128] + struct.pack('<II', 15, len(packed)) + packed
    try:
        assert isinstance(read(tmp_path_factory.getbasetemp(), content), dict)
    except ValueError as error:
        assert str(error)
