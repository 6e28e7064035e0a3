"""The run log: valid JSON at every moment, one writer, superseded lines cut off."""
import json
import pathlib

import numpy as np
import pytest

from common.errors import TrainingError
from common.runlog import RunLog
from common.stats import t_interval


def lines(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]


def test_each_event_is_a_line_of_strict_json(tmp_path):
    path = str(tmp_path / 'logs' / 'x.jsonl')
    log = RunLog(path, 'a')
    log.write('epoch', loss=float('nan'), recall=np.float32(1.5), n=np.int64(3), more={'x': [float('inf')]}, lr=1e-9)
    record, = lines(path)  # read while the log is open: flushed
    log.close()
    assert record['loss'] is None and record['recall'] == 1.5 and record['n'] == 3 and record['more'] == {'x': [None]}
    assert record['lr'] == 1e-9 and record['event'] == 'epoch' and record['id'] == 'a' and 'time' in record


def test_a_second_writer_is_refused(tmp_path):
    path = str(tmp_path / 'x.jsonl')
    log = RunLog(path, 'a')
    with pytest.raises(TrainingError, match='written by another run'):
        RunLog(path, 'b')
    log.close()
    RunLog(path, 'b').close()


def test_resuming_cuts_off_what_will_be_done_again(tmp_path):
    path = str(tmp_path / 'x.jsonl')
    log = RunLog(path, 'a')
    log.write('config')
    offset = log.offset
    log.write('epoch', epoch=1)
    log.close()
    with open(path, 'ab') as file:
        file.write(b'{"event": "epoch", "id": "a", "ep')  # killed in the middle of a line
    log = RunLog(path, 'a', offset)
    log.write('epoch', epoch=1)
    log.close()
    assert [r['event'] for r in lines(path)] == ['config', 'epoch']


def test_lines_of_another_experiment_are_kept(tmp_path):
    path = str(tmp_path / 'x.jsonl')
    log = RunLog(path, 'a')
    log.write('config')
    offset = log.offset
    log.close()
    other = RunLog(path, 'b')
    other.write('config')
    other.close()
    log = RunLog(path, 'a', offset)
    log.write('epoch', epoch=1)
    log.close()
    assert [(r['id'], r['event']) for r in lines(path)] == [('a', 'config'), ('b', 'config'), ('a', 'epoch')]


def test_a_new_experiment_does_not_touch_a_line_that_was_cut_off(tmp_path):
    path = str(tmp_path / 'x.jsonl')
    with open(path, 'wb') as file:
        file.write(b'{"event": "conf')
    log = RunLog(path, 'b')
    log.write('config')
    log.close()
    first, second = pathlib.Path(path).read_text().splitlines()
    assert first == '{"event": "conf' and json.loads(second)['id'] == 'b'


def test_interval_of_one_run_is_unknown():
    assert t_interval([3.0]) == {'mean': 3.0, 'std': None, 'ci95': None}


def test_interval_against_a_table():
    # Student's t, 4 degrees of freedom, 97.5%: 2.7764
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert t_interval(values)['ci95'] == pytest.approx(2.7764 * np.sqrt(2.5) / np.sqrt(5), rel=1e-4)
