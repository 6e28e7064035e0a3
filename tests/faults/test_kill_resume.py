"""A few of the kills of `tests.faults.kill_resume`, and proof that it notices what differs."""
import json
import os
import pathlib
import shutil

import numpy as np
import pytest

from common.training import checkpoint
from tests.faults import kill_resume


def test_killed_ensemble_ends_with_the_same_bits(tmp_path):
    moments = ('line', 'evaluation', 'writing', 'file')
    tally = kill_resume.run('dreml', 4, str(tmp_path), seed=1, moments=moments)
    assert sum(tally[f'killed: {moment}'] for moment in moments) == 4
    assert tally['left half a line']


@pytest.fixture
def pair(tmp_path):
    """Two equal folders of results."""
    folder = tmp_path / 'a'
    folder.mkdir()
    records = [{'event': 'config', 'flags': {'lr': 1, 'results_dir': 'a'}},
               {'event': 'epoch', 'loss': 0.5, 'seconds': 1}]
    (folder / 'x.jsonl').write_text(''.join(json.dumps(record) + '\n' for record in records))
    (folder / 'x.params').write_bytes(b'1234')
    checkpoint.save(str(folder / 'x.ckpt.npz'), {'epoch': 1, 'seconds': 3}, {'a': np.zeros(3)})
    shutil.copytree(folder, tmp_path / 'b')
    return str(folder), str(tmp_path / 'b')


def test_times_and_places_may_differ(pair):
    log = os.path.join(pair[1], 'x.jsonl')
    text = pathlib.Path(log).read_text().replace('"seconds": 1', '"seconds": 2').replace('"a"', '"b"')
    with open(log, 'w') as file:
        file.write(text)
    checkpoint.save(os.path.join(pair[1], 'x.ckpt.npz'), {'epoch': 1, 'seconds': 4}, {'a': np.zeros(3)})
    kill_resume.compare(*pair)


@pytest.mark.parametrize('name, content', [
    ('x.params', b'1235'), ('x.params.tmp-12', b''), ('x.lock', b''), ('x.jsonl', b'{"event": "config"}\n'),
    ('x.jsonl', b'{"event": "config", "flags": {"lr": 1}}\n{"event": "epoch", "loss": 0.50000001}\n'),
    ('x.jsonl', b'{"event": "config", "flags": {"lr": 1}}\n{"event": "epoch", "loss": 0.5}')])
def test_what_differs_is_noticed(pair, name, content):
    with open(os.path.join(pair[1], name), 'wb') as file:
        file.write(content)
    with pytest.raises(AssertionError):
        kill_resume.compare(*pair)


@pytest.mark.parametrize('meta, array', [({'epoch': 2}, 0.0), ({'epoch': 1}, -0.0), ({'epoch': 1}, 1e-30)])
def test_another_checkpoint_is_noticed(pair, meta, array):
    checkpoint.save(os.path.join(pair[1], 'x.ckpt.npz'), meta, {'a': np.full(3, array)})
    with pytest.raises(AssertionError, match='differs'):
        kill_resume.compare(*pair)
