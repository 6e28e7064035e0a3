"""Checkpoint files: whole or refused with one sentence, and unable to run code."""
import json
import os
import pathlib
import pickle

import numpy as np
import pytest

from common.training import checkpoint
from common.errors import TrainingError


@pytest.fixture
def path(tmp_path):
    path = str(tmp_path / 'x.ckpt.npz')
    checkpoint.save(path, {'epoch': 3}, {'net:a': np.arange(1000, dtype=np.float32), 'net:b': np.float64(2.5)})
    return path


def test_what_was_saved_is_loaded(path):
    meta, arrays = checkpoint.load(path)
    assert meta == {'epoch': 3, 'format': 1}
    np.testing.assert_array_equal(arrays['net:a'], np.arange(1000))
    assert arrays['net:b'] == 2.5


def test_names_are_packed_and_unpacked():
    arrays = {'x': np.zeros(1), 'y:z': np.ones(1)}
    assert checkpoint.unpack('p', {**checkpoint.pack('p', arrays), 'q:x': np.zeros(1)}) == arrays


def test_any_truncation_is_refused(path):
    data = pathlib.Path(path).read_bytes()
    for length in list(range(0, len(data), 97)) + [len(data) - 1]:
        with open(path, 'wb') as file:
            file.write(data[:length])
        with pytest.raises(TrainingError, match='not a whole checkpoint'):
            checkpoint.load(path)


def test_a_flipped_bit_is_refused_or_harmless(path):
    data = pathlib.Path(path).read_bytes()
    good_meta, good = checkpoint.load(path)
    refused = 0
    for place in range(0, len(data), 13):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        with open(path, 'wb') as file:
            file.write(damaged)
        try:
            meta, arrays = checkpoint.load(path)
        except TrainingError as error:
            refused += 1
            assert path in str(error)
        else:  # a bit that carries nothing, such as a time stamp of the archive
            assert meta == good_meta and arrays.keys() == good.keys()
            assert all(np.array_equal(arrays[k], good[k]) for k in good)
    assert refused > len(data) / 13 * 0.8


def test_a_pickle_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'ran'),)

    path = str(tmp_path / 'x.ckpt.npz')
    np.savez(path, meta=np.array(json.dumps({'format': 1})), a=np.array([Evil()], dtype=object))
    with pytest.raises(TrainingError):
        checkpoint.load(path)
    with open(path, 'wb') as file:
        pickle.dump(Evil(), file)
    with pytest.raises(TrainingError):
        checkpoint.load(path)
    assert not (tmp_path / 'ran').exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TrainingError, match='no checkpoint'):
        checkpoint.load(str(tmp_path / 'none'))
