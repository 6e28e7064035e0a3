"""Checkpoints with a flipped bit, and whole files with wrong content: of another script, or made by a stranger."""
import json

import numpy as np
import pytest

import train_liftedstruct
import train_margin
from common import training
from common.training import checkpoint
from common.errors import TrainingError
from common.evaluation import EvaluationError
from common.files import write_npz
from common.evaluation.embeddings_file import load_embeddings
from tests.tiny import flags, make_tree


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    return make_tree(str(tmp_path_factory.mktemp('tiny') / 'tree'))


def margin(tree, results, *more):
    return train_margin.parse_args(flags(tree, results, '--batch-k', '2', '--batches-per-epoch', '1', *more))


@pytest.mark.parametrize('load, refusal', [(checkpoint.load, TrainingError), (load_embeddings, EvaluationError)])
def test_a_flipped_bit_is_refused_or_harmless(tmp_path, load, refusal):
    """Also those that ask for another compression, an encrypted file, or a place before the file's beginning."""
    path = str(tmp_path / 'x.npz')
    write_npz(path, {'meta': np.array(json.dumps({'format': checkpoint.FORMAT})),
                     'embeddings': np.float32([[1, 2]]), 'labels': np.array([3])})
    with open(path, 'rb') as file:
        whole = file.read()
    good, refused = load(path), 0
    for bit in range(0, 8 * len(whole), 5):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        with open(path, 'wb') as file:
            file.write(damaged)
        try:
            loaded = load(path)
        except refusal as error:
            refused += 1
            assert path in str(error) and '\n' not in str(error)
        else:
            np.testing.assert_equal(loaded, good)
    assert refused > 8 * len(whole) / 5 / 3


@pytest.mark.parametrize('method', [1, 8, 9, 12, 14, 99])
def test_another_compression(tmp_path, method):
    """One or two flipped bits make stored entries compressed ones: each module has an exception of its own."""
    path = str(tmp_path / 'x.npz')
    write_npz(path, {'meta': np.array(json.dumps({'format': checkpoint.FORMAT})), 'x': np.zeros(9)})
    with open(path, 'rb') as file:
        damaged = bytearray(file.read())
    for start, field in ((b'PK\3\4', 8), (b'PK\1\2', 10)):
        place = damaged.rfind(start)
        damaged[place + field] = method
    with open(path, 'wb') as file:
        file.write(damaged)
    with pytest.raises(TrainingError, match='not a whole checkpoint'):
        checkpoint.load(path)


def test_an_entry_hidden_by_a_flipped_bit(tmp_path):
    """The comment of the last entry but one grows over the last: what is left looks like a whole archive."""
    path = str(tmp_path / 'x.npz')
    write_npz(path, {'meta': np.array(json.dumps({'format': checkpoint.FORMAT})), 'x': np.zeros(1)})
    with open(path, 'rb') as file:
        damaged = bytearray(file.read())
    first = damaged.find(b'PK\1\2')
    damaged[first + 32] = damaged.find(b'PK\5\6') - damaged.find(b'PK\1\2', first + 1)
    with open(path, 'wb') as file:
        file.write(damaged)
    with np.load(path) as file:
        assert file.files == ['meta']
    with pytest.raises(TrainingError, match='not a whole checkpoint'):
        checkpoint.load(path)


class Killed(Exception):
    pass


@pytest.fixture(scope='module')
def made(tree, tmp_path_factory):
    """Meta data and arrays of a checkpoint in the middle of a run."""
    folder = tmp_path_factory.mktemp('made')
    saved = []

    def save(path, meta, arrays):
        saved.append((json.loads(json.dumps(meta)), arrays))
        if meta['epoch'] == 1:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint, 'save', save)
        training.run(margin(tree, folder), train_margin.build)
    return saved[-1]


def test_no_arrays_at_all(tree, tmp_path, made):
    assert 'does not fit' in resume(tree, tmp_path, made[0], {})


def resume(tree, folder, meta, arrays, parse=margin, build=train_margin.build):
    path = str(folder / 'x.ckpt.npz')
    write_npz(path, {'meta': np.array(json.dumps(dict(meta, format=checkpoint.FORMAT))), **arrays})
    with pytest.raises(TrainingError) as caught:
        training.run(parse(tree, folder, '--load-checkpoint', path), build)
    assert path in str(caught.value) and '\n' not in str(caught.value)
    return str(caught.value)


def test_of_another_script(tree, tmp_path, made):
    def lifted(tree, results, *more):
        return train_liftedstruct.parse_args(flags(tree, results, '--batch-k', '2', '--batches-per-epoch', '1', *more))

    assert 'train_margin.py' in resume(tree, tmp_path, *made, lifted, train_liftedstruct.build)


@pytest.mark.parametrize('name', ['id', 'run', 'member', 'epoch', 'images_seen', 'seconds', 'chosen', 'runs',
                                  'log_offset', 'described', 'zero_gradient', 'flags'])
def test_entries_that_are_missing_or_of_another_kind(tree, tmp_path, made, name):
    meta, arrays = made
    assert name in resume(tree, tmp_path, {k: v for k, v in meta.items() if k != name}, arrays)
    for wrong in ('x', [1], {'a': 1}, -3.5):
        if type(wrong) is not type(meta[name]):
            assert name in resume(tree, tmp_path, dict(meta, **{name: wrong}), arrays)


def test_arrays_that_are_missing_or_of_another_kind(tree, tmp_path, made):
    """One array of each kind is taken away and replaced by others; nothing but a sentence comes of it."""
    meta, arrays = made
    kinds = {name.split(':')[0] + name[-6:]: name for name in arrays if name.startswith(('net', 'optimizer'))}
    names = [*list(kinds.values())[:4], 'loss:beta', 'optimizer1:counts', 'sampler:keys', 'sampler:position']
    for name in names:
        assert name in arrays, list(arrays)
        assert 'does not fit' in resume(tree, tmp_path, meta, {k: v for k, v in arrays.items() if k != name})
        for wrong in (np.array('text'), np.zeros((2, 3, 4)), np.array([1 + 2j] * 3), np.zeros(0), np.array(b'\0'),
                      np.array(['x'] * 5)):
            resume(tree, tmp_path, meta, dict(arrays, **{name: wrong}))


@pytest.mark.parametrize('start', ['net:', 'loss:beta'])
def test_parameters_that_are_not_finite(tree, tmp_path, made, start):
    meta, arrays = made
    name = next(name for name in arrays if name.startswith(start))
    arrays = dict(arrays, **{name: np.full_like(arrays[name], np.nan)})
    assert f'{name.split(":")[1].split("@")[0]} has values that are not finite' in resume(tree, tmp_path, meta, arrays)


@pytest.mark.parametrize('position', [-1, 625, 2 ** 40])
def test_a_position_outside_the_generator(tree, tmp_path, made, position):
    """NumPy would read memory that is not the generator's."""
    meta, arrays = made
    assert 'position' in resume(tree, tmp_path, meta, dict(arrays, **{'sampler:position': np.array(position)}))
