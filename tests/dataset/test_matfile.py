"""The reader of MATLAB files: tables as SciPy writes them, and damaged files, which may crash SciPy but not us."""
from __future__ import annotations

import io

import numpy as np
import pytest
from scipy.io import savemat

from dataset import matfile
from dataset.matfile import read_mat

TABLE = np.zeros((1, 3), dtype=[('path', object), ('number', object)])
for row in range(3):
    TABLE[0, row] = ('car_ims/%d.jpg' % row, np.uint16(300 + row))
CONTENT = {'table': TABLE, 'names': np.array([['one', 'two, and longer', 'Ωß']], dtype=object),
           'matrix': np.array([[1.5, 2.5], [-3.0, np.inf]]), 'text': 'abc', 'nothing': np.zeros((0, 0))}
EXPECTED = {'table': [{'path': f'car_ims/{row}.jpg', 'number': 300 + row} for row in range(3)],
            'names': ['one', 'two, and longer', 'Ωß'], 'matrix': [[1.5, 2.5], [-3.0, np.inf]], 'text': 'abc',
            'nothing': []}


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


@pytest.mark.parametrize('content', [b'', b'x' * 500, b'\x89HDF' + bytes(500), b'MATLAB 5.0 MAT-file'])
def test_other_files_are_refused(tmp_path, content):
    with pytest.raises(ValueError, match='.'):
        read(tmp_path, content)


def test_missing_files_and_sparse_matrices_are_refused(tmp_path):
    from scipy.sparse import eye
    with pytest.raises(ValueError, match='none.mat'):
        read_mat(str(tmp_path / 'none.mat'))
    with pytest.raises(ValueError, match='.'):
        read(tmp_path, saved({'x': eye(3)}))


def test_a_damaged_compressed_variable_is_refused(tmp_path):
    content = bytearray(saved(CONTENT, do_compression=True))
    content[-1] ^= 1
    with pytest.raises(ValueError, match='.'):
        read(tmp_path, bytes(content))


def test_what_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(matfile, '_MEMORY', 1 << 20)
    with pytest.raises(ValueError, match='MemoryError'):
        read(tmp_path, saved({'x': np.zeros((1, 1 << 22))}, do_compression=True))


def test_a_crash_of_the_reader_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(matfile, '_READ', 'import os, signal; os.kill(os.getpid(), signal.SIGSEGV)')
    with pytest.raises(ValueError, match='it is damaged'):
        read(tmp_path, saved(CONTENT))
    monkeypatch.setattr(matfile, '_READ', 'import time; time.sleep(60)')
    monkeypatch.setattr(matfile, '_SECONDS', 0.1)
    with pytest.raises(ValueError, match='seconds'):
        read(tmp_path, saved(CONTENT))


@pytest.mark.parametrize('seed', [0, 1, 2, 11, 14, 21])
def test_damaged_files_are_read_or_refused(tmp_path, seed):
    """Of the last three SciPy 1.15.3 dies."""
    random = np.random.RandomState(seed)
    content = bytearray(saved(CONTENT))
    for _ in range(random.randint(1, 5)):
        content[random.randint(124, len(content))] = random.choice([0, 1, 2, 5, 14, 128, 255])
    try:
        assert isinstance(read(tmp_path, bytes(content)), dict)
    except ValueError as error:
        assert str(error)
