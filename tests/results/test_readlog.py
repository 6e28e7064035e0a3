"""The reader of run logs: both families, and anything else."""
from __future__ import annotations

import json
import os
import pathlib
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from results.readlog import LogError, log_files, read_log, read_logs
from tests.results import samples


def _write(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_a_json_log_tells_everything(tmp_path):
    [experiment] = read_log(samples.log(tmp_path / 'a.jsonl', 'margin', (40.0, 60.0, 55.0), seed=7))
    assert (experiment.algorithm, experiment.dataset, experiment.model) == ('margin', 'GLYPHS', 'convnet')
    assert experiment.flags['embed_dim'] == 64 and experiment.git == '0123456789ab'
    assert experiment.weights['sha256'] == 'ab' * 32 and experiment.versions['mxnet'] == '1.9.1'
    run = experiment.runs[1]
    assert run.finished and run.seed == 7 and run.seconds == 12.0 and run.images_seen == 12000
    assert run.untrained['recall@1'] == 8.0 and [e.number for e in run.epochs] == [0, 1, 2, 3]
    assert run.chosen['best-on-test'][0] == 2 and run.chosen['best-on-test'][1]['recall@1'] == 60.0
    assert run.chosen['last'][0] == 3 and run.chosen['last'][1]['nmi'] == samples.metrics(55.0)['nmi']


def test_a_log_cut_off_anywhere_reads_up_to_its_last_whole_line(tmp_path):
    whole = pathlib.Path(samples.log(tmp_path / 'a.jsonl')).read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord('\n')]
    for cut in range(0, len(whole), 17):
        lines = sum(end <= cut for end in ends)
        path = _write(tmp_path / 'cut.jsonl', whole[:cut])
        # A line that lacks nothing but its end is whole too.
        lines += cut in [end - 1 for end in ends]
        if lines < 2:
            with pytest.raises(LogError):
                read_log(path)
            continue
        [run] = read_log(path)[0].runs.values()
        assert len(run.epochs) == min(lines - 1, 4)
        assert run.finished == (lines >= 6)


def test_the_best_of_an_unfinished_run_comes_from_its_epochs_after_training_began(tmp_path):
    [experiment] = read_log(samples.log(tmp_path / 'a.jsonl', recalls=(5.0, 4.0), end=False))
    run = experiment.runs[1]
    assert not run.finished
    assert run.chosen['best-on-test'][0] == 1          # not epoch 0, although that was better
    assert run.chosen['last'][0] == 2


def test_of_lines_that_a_resumed_run_wrote_twice_the_last_counts(tmp_path):
    config = samples.config()
    first = samples.run_events(config['id'], [40.0, 41.0, 42.0], end=False)
    again = samples.run_events(config['id'], [40.0, 51.0, 52.0])[2:]
    [experiment] = read_log(samples.write(tmp_path / 'a.jsonl', [config, *first, *again]))
    assert [e.metrics['recall@1'] for e in experiment.runs[1].epochs] == [8.0, 40.0, 51.0, 52.0]
    assert experiment.runs[1].finished


def test_experiments_that_share_a_file_are_kept_apart_even_if_their_lines_mix(tmp_path):
    a, b = samples.config('margin', identity='a'), samples.config('npairs', identity='b')
    lines_a, lines_b = samples.run_events('a', [30.0, 31.0]), samples.run_events('b', [60.0, 61.0])
    mixed = [a, b] + [line for pair in zip(lines_a, lines_b) for line in pair]
    found = {e.algorithm: e for e in read_log(samples.write(tmp_path / 'a.jsonl', mixed))}
    assert found['margin'].runs[1].chosen['last'][1]['recall@1'] == 31.0
    assert found['npairs'].runs[1].chosen['last'][1]['recall@1'] == 61.0


def test_several_runs_have_their_own_seeds(tmp_path):
    config = samples.config(seed=10, runs=2)
    lines = samples.run_events(config['id'], [30.0], 1, 10) + samples.run_events(config['id'], [40.0], 2, 11, end=False)
    [experiment] = read_log(samples.write(tmp_path / 'a.jsonl', [config, *lines]))
    assert [(r.seed, r.finished) for r in experiment.runs.values()] == [(10, True), (11, False)]


@pytest.mark.parametrize('line', [
    {'event': 'tea', 'id': 'margin-123-64'}, {'event': 'epoch', 'id': 'margin-123-64', 'run': True, 'epoch': 1},
    {'event': 'epoch', 'id': 'margin-123-64', 'run': 1, 'epoch': None, 'recall@1': 99.0},
    {'event': 'epoch', 'id': 'margin-123-64', 'run': 1, 'epoch': -1, 'recall@1': 99.0},
    {'event': 'epoch', 'id': 'margin-123-64', 'run': 1, 'epoch': 1.5, 'recall@1': 99.0},
    {'event': 'epoch', 'run': 1, 'epoch': 1, 'recall@1': 99.0},
    {'event': 'epoch', 'id': 'stranger', 'run': 1, 'epoch': 1},
    {'event': 'config', 'id': ['x']}, [1, 2], 'text', 17, None])
def test_what_a_reader_does_not_know_is_ignored(tmp_path, line):
    path = samples.log(tmp_path / 'a.jsonl')
    with open(path, 'a') as file:
        file.write(json.dumps(line) + '\n')
    [run] = read_log(path)[0].runs.values()
    assert [e.metrics['recall@1'] for e in run.epochs] == [8.0, 40.0, 60.0, 55.0]


@pytest.mark.parametrize('value', [float('nan'), float('inf'), None, '50', True, 101.0, -3.0, [], 10 ** 400])
def test_a_metric_that_is_no_percentage_is_left_out(tmp_path, value):
    config = samples.config()
    lines = samples.run_events(config['id'], [40.0, 50.0], end=False)
    lines[-1]['recall@1'] = value
    [experiment] = read_log(samples.write(tmp_path / 'a.jsonl', [config, *lines]))
    run = experiment.runs[1]
    assert 'recall@1' not in run.epochs[-1].metrics and run.chosen['best-on-test'][1]['recall@1'] == 40.0


def test_diverged_skipped_outputs_and_validation(tmp_path):
    config = samples.config()
    lines = samples.run_events(config['id'], [40.0, 45.0, 44.0], end=False)
    for line, val in zip(lines[1:], (9.0, 5.0, 7.0)):
        line['val'] = {'recall@1': val}
        line['outputs'] = {'64-d layer': {'recall@1': 33.0}}
    lines += [{'event': 'diverged', 'id': config['id'], 'run': 1, 'epoch': 4, 'batch': 2, 'lr': 0.1},
              {'event': 'skipped_image', 'id': config['id'], 'path': 'x.jpg', 'reason': 'empty'}]
    [experiment] = read_log(samples.write(tmp_path / 'a.jsonl', [config, *lines]))
    run = experiment.runs[1]
    assert run.diverged['batch'] == 2 and experiment.skipped == [{'path': 'x.jpg', 'reason': 'empty'}]
    assert run.chosen['best-on-val'][1]['recall@1'] == 40.0 and run.chosen['best-on-test'][1]['recall@1'] == 45.0
    assert run.epochs[1].outputs == {'64-d layer': {'recall@1': 33.0}}


def test_an_ensemble_starts_untrained_and_counts_its_epochs_through(tmp_path):
    config = samples.config('dreml', epochs=2)
    lines = [dict(event='epoch', id=config['id'], run=1, member=1, epoch=0, **samples.metrics(8.0)),
             {'event': 'epoch', 'id': config['id'], 'run': 1, 'member': 1, 'epoch': 1, 'loss': 1.0},
             dict(event='epoch', id=config['id'], run=1, member=1, epoch=2, **samples.metrics(30.0)),
             dict(event='epoch', id=config['id'], run=1, member=2, epoch=4, **samples.metrics(50.0))]
    run = read_log(samples.write(tmp_path / 'a.jsonl', [config, *lines]))[0].runs[1]
    assert run.untrained['recall@1'] == 8.0 and run.chosen['last'] == (4, samples.metrics(50.0))
    assert [e.member for e in run.epochs] == [1, 1, 1, 2]


# The paper's repository -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('first_epoch', [0, 1])
@pytest.mark.parametrize('percent', [False, True])
@pytest.mark.parametrize('before', ['Pre-train', 'Pre-training'])
def test_both_styles_of_text_say_the_same(tmp_path, first_epoch, percent, before):
    text = samples.text_log([[40.0, 52.0, 45.0], [41.0, 42.0, 50.0]], first_epoch, percent, before=before)
    [experiment] = read_log(_write(tmp_path / 'train_margin_cub.log', text))
    assert (experiment.algorithm, experiment.dataset, experiment.model) == ('margin', 'CUB', 'inception-bn')
    assert experiment.flags['beta'] == 1.2 and experiment.flags['gpus'] == -1 and experiment.flags['use_crops'] is False
    assert [r.finished for r in experiment.runs.values()] == [True, True]
    one, two = experiment.runs.values()
    assert one.untrained == pytest.approx({'recall@1': 30.0, 'recall@2': 40.0, 'nmi': 44.0})
    assert [e.number for e in one.epochs] == [0, 1, 2, 3] and one.epochs[1].loss == 50.5
    assert one.chosen['best-on-test'][0] == 2 and one.chosen['best-on-test'][1]['recall@1'] == pytest.approx(52.0)
    assert two.chosen['last'][0] == 3 and two.chosen['last'][1]['nmi'] == pytest.approx(55.0)


def test_sessions_in_one_text_file_are_kept_apart(tmp_path):
    first = samples.text_log([[40.0, 52.0], [41.0, 42.0]], finish=False)
    second = samples.text_log([[60.0, 62.0]], first_epoch=1, percent=True, model='resnet50_v2')
    restarted = '\n'.join(samples.text_log([[20.0, 22.0]]).split('\n')[2:])        # starts at run 1, says no flags
    found = read_log(_write(tmp_path / 'a.log', first + second + restarted + 'Segmentation fault\n\x00\xff'))
    assert [(e.model, len(e.runs)) for e in found] == [('inception-bn', 2), ('resnet50_v2', 1), ('resnet50_v2', 1)]
    assert [e.runs[1].finished for e in found] == [False, True, True]
    assert [round(e.runs[1].chosen['best-on-test'][1]['recall@1'], 3) for e in found] == [52.0, 62.0, 22.0]


def test_the_algorithm_of_a_text_log_comes_from_its_name_else_from_its_flags(tmp_path):
    text = samples.text_log([[40.0, 52.0]], prefix='npairs_model')
    assert read_log(_write(tmp_path / 'a.log', text))[0].algorithm == 'npairs'
    assert read_log(_write(tmp_path / 'train_triplet_semihard_cub.log', text))[0].algorithm == 'triplet'


def test_flags_run_nothing(tmp_path):
    marker = tmp_path / 'ran'
    line = f"INFO:root:Namespace(lr=__import__('os').system('touch {marker}'), dataset='CUB')\n"
    [experiment] = read_log(_write(tmp_path / 'margin.log', line + samples.text_log([[40.0]]).split('\n', 1)[1]))
    assert not marker.exists() and experiment.dataset == 'CUB'


# Anything else --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('content', [b'', b'\n', b'\x00' * 100, b'{', b'{}\n', b'hello\n', b'[' * 100_000,
                                     b'{"event":' * 50_000, b'\xff\xfe' * 999, b'x' * (3 << 20),
                                     json.dumps(samples.config()).encode()])
def test_nothing_usable_is_one_sentence(tmp_path, content):
    with pytest.raises(LogError) as error:
        read_log(_write(tmp_path / 'a.jsonl', content))
    assert 'a.jsonl' in str(error.value) and '\n' not in str(error.value)


def test_a_line_too_long_for_a_log_is_dropped_whole(tmp_path):
    path = samples.log(tmp_path / 'a.jsonl')
    with open(path, 'ab') as file:
        tail = json.dumps(dict(event='epoch', id='margin-123-64', run=1, epoch=9, **samples.metrics(99.0))).encode()
        file.write(b' ' * (1 << 20) + tail + b'\n')
    assert [e.number for e in read_log(path)[0].runs[1].epochs] == [0, 1, 2, 3]


def test_a_missing_file_and_a_folder_are_one_sentence(tmp_path):
    for path in (tmp_path / 'none.jsonl', tmp_path):
        with pytest.raises(LogError) as error:
            read_log(str(path))
        assert '\n' not in str(error.value)


_LINES = [json.dumps(e).encode() for e in [samples.config(), *samples.run_events('margin-123-64', [40.0, 50.0])]]
_LINES += [line.encode() for line in samples.text_log([[40.0, 50.0], [30.0, 20.0]]).split('\n')]
_PIECE = st.one_of(st.binary(max_size=6), st.sampled_from([b'nan', b'1e999', b'-1', b'9' * 400, b'[', b'=',
                                                           b'Namespace(', b'{', b'lambda: 0', b'\xff', b'%', b':',
                                                           b'epoch']))
_JUNK = st.one_of(st.binary(max_size=200), st.sampled_from(_LINES), st.builds(
    lambda line, start, length, piece: line[:start] + piece + line[start + length:], st.sampled_from(_LINES),
    st.integers(0, 200), st.integers(0, 12), _PIECE), st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([
        'event', 'id', 'run', 'epoch', 'recall@1', 'flags', 'config', 'seed', 'best-on-test', 'val', 'outputs',
        'member', 'runs', 'device', 'weights', 'time', 'algorithm', 'script']), inner, max_size=6), max_leaves=12,
).map(lambda value: json.dumps(value).encode()), st.builds(
    lambda base, key, value: json.dumps({**json.loads(base), key: value}).encode(), st.sampled_from(_LINES[:6]),
    st.sampled_from(['event', 'id', 'run', 'epoch', 'flags', 'seed', 'last', 'recall@1', 'member', 'model', 'dataset']),
    st.none() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)))


@settings(max_examples=250, deadline=None)
@given(st.lists(_JUNK, max_size=15), st.binary(max_size=20), st.integers(0, 5000))
def test_any_bytes_read_or_are_refused(lines, tail, cut):
    content = (b'\n'.join(lines) + b'\n')[:5000 - cut] + tail
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'train_proxy.log')
        with open(path, 'wb') as file:
            file.write(content)
        try:
            found = read_log(path)
        except LogError:
            return
    for experiment in found:
        assert experiment.runs and isinstance(experiment.algorithm, str)
        for run in experiment.runs.values():
            assert run.epochs or run.finished or run.diverged
            for epoch in run.epochs:
                assert epoch.number >= 0 and all(-1e-5 <= v <= 100.0001 for v in epoch.metrics.values())


# Many files -----------------------------------------------------------------------------------------------------------

def test_folders_are_searched_copies_count_once_and_problems_are_told(tmp_path):
    path = samples.log(tmp_path / 'one' / 'a.jsonl')
    for name in ('copy.jsonl', 'notes.txt', '.hidden.jsonl'):
        _write(tmp_path / name, pathlib.Path(path).read_bytes())
    (tmp_path / '.runs').mkdir()
    _write(tmp_path / '.runs' / 'b.jsonl', b'')
    _write(tmp_path / 'broken.log', b'nothing')
    assert [os.path.basename(p) for p in log_files([str(tmp_path)])] == ['broken.log', 'copy.jsonl', 'a.jsonl']
    found, problems = read_logs([str(tmp_path)])
    assert len(found) == 1 and len(problems) == 1 and 'broken.log' in problems[0]


def test_of_two_copies_the_longer_counts(tmp_path):
    whole = samples.log(tmp_path / 'b.jsonl')
    lines = pathlib.Path(whole).read_bytes().split(b'\n')
    _write(tmp_path / 'a.jsonl', b'\n'.join(lines[:3]))
    [experiment], _ = read_logs([str(tmp_path)])
    assert experiment.runs[1].finished


def test_no_logs_at_all_is_one_sentence(tmp_path):
    with pytest.raises(LogError, match='no run log'):
        read_logs([str(tmp_path)])
