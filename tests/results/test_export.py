"""results.export: the table of epochs, and what trackers read back, against the log."""
import csv
import json
import os
import random

import numpy as np
import pytest

from common.trackers import numbers, tag
from results.export import main
from tests.results.samples import config, run_events, text_log, write


def log(path, identity='abcdef0123456789', key='margin', seed=123, extra=()):
    events = [config(key, identity=identity, seed=seed), *run_events(identity, [30.0, 50.0, 40.0], seed=seed)]
    best = {'event': 'best', 'id': identity, 'time': '2026-01-01T00:02:00+00:00', 'run': 1, 'epoch': 2,
            'selection': 'best-on-test', 'recall@1': 50.0}
    events[4:4] = [best, *extra]
    return write(path, events), events


def table(path):
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def test_csv_has_a_row_an_epoch_with_all_its_numbers_and_the_marks(tmp_path):
    again = {'event': 'epoch', 'id': 'abcdef0123456789', 'run': 1, 'epoch': 2, 'loss': 0.25, 'recall@1': 50.0,
             'val': {'recall@1': 12.5}}
    path, events = log(tmp_path / 'logs' / 'x.jsonl', extra=[again])
    out = str(tmp_path / 'x.csv')
    assert main(['--csv', out, path]) == 0
    rows = table(out)
    assert [row['epoch'] for row in rows] == ['0', '1', '2', '3']
    assert {(r['log'], r['experiment'], r['algorithm'], r['dataset'], r['model'], r['seed'], r['run'], r['member'])
            for r in rows} == {(path, 'abcdef0123456789', 'margin', 'GLYPHS', 'convnet', '123', '1', '')}
    lines = {e['epoch']: e for e in events if e['event'] == 'epoch'}        # the last about each
    for row in rows:
        filled = {k: float(v) for k, v in row.items() if v and (k in numbers(again) or '@' in k or k in (
            'loss', 'lr', 'seconds', 'images_per_second', 'r_precision', 'nmi'))}
        assert filled == numbers(lines[int(row['epoch'])])
    assert [row['best-on-test'] for row in rows] == ['0', '0', '1', '0']
    assert [row['last'] for row in rows] == ['0', '0', '0', '1']
    assert main(['--csv', out, path, str(tmp_path / 'logs')]) == 0 and table(out) == rows


def test_csv_of_the_papers_text_logs(tmp_path):
    path = str(tmp_path / 'train_margin.log')
    with open(path, 'w') as file:
        file.write(text_log([[40.0, 60.0, 50.0]]))
    out = str(tmp_path / 'x.csv')
    assert main(['--csv', out, path]) == 0
    assert [row['recall@1'] for row in table(out)] == ['30.0', '40.0', '60.0', '50.0']
    assert [row['loss'] for row in table(out)] == ['', '50.5', '50.5', '50.5']


def test_nowhere_to_write_and_no_log(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2 and '--csv FILE' in capsys.readouterr().err
    assert main(['--csv', '-', str(tmp_path / 'none.jsonl')]) == 1
    assert capsys.readouterr().err.count('\n') == 1


def test_damaged_lines_are_no_traceback(tmp_path, capsys):
    rng = random.Random(0)
    values = [None, True, -1, 1e308, '', 'x', [], {}, {'a': {'b': {'c': 1}}}, '../..']
    for number in range(200):
        events = log(tmp_path / 'good.jsonl')[1]
        for _ in range(4):
            event = rng.choice(events)
            event[rng.choice(list(event))] = rng.choice(values)
        path = write(tmp_path / f'{number}.jsonl', events)
        assert main(['--csv', '-', path]) in (0, 1)


def points(folder):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator').EventAccumulator(
        str(folder), size_guidance={'scalars': 0})
    accumulator.Reload()
    return {name: [(p.step, p.value, p.wall_time) for p in accumulator.Scalars(name)]
            for name in accumulator.Tags()['scalars']}


def expected(events):
    found = {}
    for event in events:
        if event['event'] in ('epoch', 'best'):
            prefix = 'best-on-test/' if event['event'] == 'best' else ''
            for name, value in numbers(event).items():
                found.setdefault(tag(prefix + name), []).append((event['epoch'], value))
        elif event['event'] == 'run_end':
            found.update({'run/seconds': [(3, event['seconds'])], 'run/images_seen': [(3, event['images_seen'])]})
    return found


def test_tensorboard_reads_what_the_log_says_however_often_it_is_exported(tmp_path, capsys):
    pytest.importorskip('tensorboardX')
    path, events = log(tmp_path / 'x.jsonl')
    folder = tmp_path / 'tb'
    for _ in range(2):
        assert main(['--tensorboard', str(folder), path]) == 0
        own = folder / 'train_margin_GLYPHS_convnet_abcdef01' / 'run1'
        assert len(os.listdir(str(own))) == 1
        found = points(own)
        assert {n: [(s, v) for s, v, _ in p] for n, p in found.items()} == {
            n: [(s, float(np.float32(v))) for s, v in p] for n, p in expected(events).items()}
        assert found['train/loss'][0][2] == 1767225660.0
    (own / 'events.out.tfevents.1.host.2').write_bytes(b'')         # as training names its own
    before = sorted(os.listdir(str(own)))
    assert main(['--tensorboard', str(folder), path]) == 0
    assert sorted(os.listdir(str(own))) == before and 'left as training wrote it' in capsys.readouterr().out


def test_names_in_a_log_lead_nowhere_else(tmp_path):
    pytest.importorskip('tensorboardX')
    first, *events = log(tmp_path / 'x.jsonl')[1]
    path = write(tmp_path / 'x.jsonl', [{**first, 'dataset': '../../../out', 'script': '/etc/x'}, *events])
    assert main(['--tensorboard', str(tmp_path / 'a' / 'b'), path]) == 0
    assert sorted(os.listdir(str(tmp_path))) == ['a', 'x.jsonl'] and os.listdir(str(tmp_path / 'a')) == ['b']


@pytest.mark.filterwarnings('ignore')      # of libraries that MLflow imports
def test_mlflow_reads_what_the_log_says_and_nothing_is_doubled(tmp_path, capsys):
    pytest.importorskip('mlflow')
    pytest.importorskip('sqlalchemy')
    from mlflow.tracking import MlflowClient
    path, events = log(tmp_path / 'x.jsonl')
    place = str(tmp_path / 'mlflow')
    client = MlflowClient(f'sqlite:///{place}/mlflow.db')

    def runs():
        number = client.get_experiment_by_name('GLYPHS_convnet').experiment_id
        return client.search_runs([number])

    for said in '1 runs new, 0 runs replaced, 0 runs unchanged', '0 runs new, 0 runs replaced, 1 runs unchanged':
        assert main(['--mlflow', place, path]) == 0
        assert said in capsys.readouterr().out
        run, = runs()
        assert run.info.status == 'FINISHED' and run.data.params['seed'] == '123'
        wanted = expected(events)
        assert run.data.metrics.keys() == wanted.keys()
        for name, values in wanted.items():
            history = client.get_metric_history(run.info.run_id, name)
            assert sorted((m.step, m.value) for m in history) == values
    old = run.info.run_id
    more = {**events[2], 'epoch': 4, 'loss': 0.125}
    with open(path, 'a') as file:                       # the run got more epochs
        file.write(json.dumps(more) + '\n')
    assert main(['--mlflow', place, path]) == 0
    run, = runs()
    assert run.info.run_id != old and run.data.metrics['train/loss'] == 0.125


@pytest.mark.parametrize('flag, package', [('--tensorboard', 'tensorboardX'), ('--mlflow', 'mlflow')])
def test_without_the_package_one_line_says_what_to_install(flag, package, tmp_path, monkeypatch, capsys):
    path, _ = log(tmp_path / 'x.jsonl')
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    assert main([flag, str(tmp_path / 'out'), path]) == 1
    error = capsys.readouterr().err
    assert error == (f'results.export: the package {package} is not installed: pip install -r '
                     'requirements-trackers.txt\n')
