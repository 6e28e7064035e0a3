"""--tensorboard: what TensorBoard reads is what the log says, also after a run was killed and resumed."""
import importlib.util
import json
import pathlib

import numpy as np
import pytest

import train_margin
from common import training
from common.errors import UserError
from common.training import resume
from common.trackers import event_files, numbers, require, tag
from results.export import main
from tests.tiny import flags, make_tree


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    return make_tree(str(tmp_path_factory.mktemp('tiny') / 'tree'))


def train(tree, folder, *more):
    words = flags(tree, folder, '--batch-k', '2', '--batches-per-epoch', '2', '--tensorboard', str(folder / 'tb'))
    return training.run(train_margin.parse_args([*words, *more]), train_margin.build)


def log_of(folder):
    path, = folder.rglob('*.jsonl')
    return path, [json.loads(line) for line in path.read_text().splitlines()]


def expected(events, run=1):
    """Tag -> epoch -> number, from the lines of a log."""
    found = {}
    for event in events:
        prefix = {'epoch': '', 'best': f"{event.get('selection')}/", 'run_end': 'run/'}.get(event['event'])
        if prefix is None or event['run'] != run:
            continue
        top = {k: v for k, v in event.items() if not isinstance(v, (dict, list)) and k not in (
            'event', 'id', 'time', 'run', 'epoch', 'seed', 'selection')}
        for name, value in top.items():
            group = prefix or ('train/' if name in ('loss', 'lr', 'seconds', 'images_per_second', 'evaluation_seconds')
                               else 'test/')
            epoch = event.get('epoch', 3)
            found.setdefault(group + name.replace('@', '_at_'), {})[epoch] = value
        for name, value in (event.get('val') or {}).items():
            found.setdefault(f"{prefix}val/{name.replace('@', '_at_')}", {})[event['epoch']] = value
    return found


def accumulated(folder):
    reader = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    accumulator = reader.EventAccumulator(str(folder), size_guidance={'scalars': 0, 'images': 0})
    accumulator.Reload()
    return accumulator


def scalars(folder):
    accumulator = accumulated(folder)
    found = {}
    for name in accumulator.Tags()['scalars']:
        points = accumulator.Scalars(name)
        found[name] = {point.step: point.value for point in points}
        assert len(found[name]) == len(points), f'{name} has an epoch twice'
    return found


def same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, points in wanted.items():
        assert found[name] == {epoch: float(np.float32(value)) for epoch, value in points.items()}, name


def test_event_files_have_the_numbers_of_the_log_the_flags_and_the_picture(tree, tmp_path):
    pytest.importorskip('tensorboardX')
    train(tree, tmp_path, '--number-of-runs', '2', '--fold', '1/2', '--batch-k', '4')
    _, events = log_of(tmp_path)
    experiment, = (tmp_path / 'tb').iterdir()
    assert experiment.name == f"train_margin_miniCUB_convnet_{events[0]['id'][:8]}"
    for run in 1, 2:
        folder = experiment / f'run{run}'
        wanted = expected(events, run)
        assert {'train/loss', 'train/lr', 'train/images_per_second', 'test/recall_at_1', 'val/recall_at_1', 'test/nmi',
                'best-on-val/val/recall_at_1', 'run/peak_memory_mb'} <= wanted.keys()
        same(scalars(folder), wanted)
        accumulator = accumulated(folder)
        pictures = accumulator.Images('neighbours')
        assert {p.step for p in pictures} == {e['epoch'] for e in events if e['event'] == 'best' and e['run'] == run
                                              and e['selection'] == 'best-on-val'}
        assert pictures[0].width > pictures[0].height > 100
        api = pytest.importorskip('tensorboard.plugins.hparams.plugin_data_pb2')
        content = accumulator.SummaryMetadata('_hparams_/session_start_info').plugin_data.content
        start = api.HParamsPluginData.FromString(content).session_start_info.hparams
        assert start['margin'].number_value == 0.2 and start['seed'].number_value == 122 + run
        assert start['algorithm'].string_value == 'margin' and start['freeze_bn'].bool_value is False
        assert '_hparams_/session_end_info' in accumulator.summary_metadata


def test_without_the_flag_there_are_no_event_files(tree, tmp_path):
    assert event_files(train_margin.parse_args(flags(tree, tmp_path)).tensorboard) is None


def test_a_resumed_run_goes_on_and_an_epoch_done_twice_counts_once(tree, tmp_path, monkeypatch):
    pytest.importorskip('tensorboardX')
    save, calls = resume.save, []

    def killed(*args):
        calls.append(args)
        if len(calls) == 4:             # epoch 2 stands in the log, but in no checkpoint
            raise KeyboardInterrupt
        save(*args)

    with monkeypatch.context() as patch:
        patch.setattr(resume, 'save', killed)
        with pytest.raises(KeyboardInterrupt):
            train(tree, tmp_path)
    path, events = log_of(tmp_path)
    assert [e['epoch'] for e in events if e['event'] == 'epoch'] == [0, 1, 2]
    with open(path, 'a') as file:       # so that the line about epoch 2 stays
        file.write('{"event": "note", "id": "another"}\n')
    train(tree, tmp_path, '--load-checkpoint')
    _, events = log_of(tmp_path)
    assert [e['epoch'] for e in events if e['event'] == 'epoch'] == [0, 1, 2, 2, 3]
    experiment, = (tmp_path / 'tb').iterdir()
    live = scalars(experiment / 'run1')
    same({name: v for name, v in live.items() if not name.startswith('best')},
         {name: v for name, v in expected(events).items() if not name.startswith('best')})
    assert len(list((experiment / 'run1').iterdir())) == 2

    assert main(['--tensorboard', str(tmp_path / 'exported'), str(path)]) == 0
    assert scalars(tmp_path / 'exported' / experiment.name / 'run1') == live


def test_without_the_package_one_line_says_what_to_install(tree, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(SystemExit) as end:
        train_margin.parse_args(flags(tree, tmp_path, '--tensorboard', str(tmp_path)))
    assert end.value.code == 2
    assert capsys.readouterr().err.count('pip install -r requirements-trackers.txt') == 1
    with pytest.raises(UserError, match='tensorboardX is not installed'):
        require('tensorboardX')


def test_numbers_of_a_line():
    line = {'event': 'epoch', 'id': 'a', 'run': 1, 'epoch': 2, 'seed': 3, 'loss': 1, 'recall@1': 2.5, 'ok': True,
            'val': {'recall@1': 4, 'epoch': 1}, 'outputs': {'x': {'nmi': 5.0, 'deep': {'y': 1}}}, 'large': 10 ** 400,
            'none': None, 'not': float('nan'), 'list': [1]}
    found = numbers(line)
    assert found == {'loss': 1.0, 'recall@1': 2.5, 'val/recall@1': 4.0, 'outputs/x/nmi': 5.0}
    assert [tag(name) for name in found] == ['train/loss', 'test/recall_at_1', 'val/recall_at_1', 'outputs/x/nmi']
    assert pathlib.PurePath(tag('a b\n')).name == 'a_b_'
