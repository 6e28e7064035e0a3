"""Searches, with stand-ins for the training scripts; and what their record tells."""
from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from results import experiments, plots, report, reproduce, tune, tuning
from results.aggregate import boards
from results.algorithms import ALGORITHMS, algorithm
from results.experiments import ExperimentsError
from results.figures.tuning import draw_tuning
from results.readlog import read_logs
from results.tables import all_tables
from results.tuning import Record, Row, Trial
from tests.results import samples
from tests.tiny import make_tree

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FILE = """
experiments:
  tiny:
    runs: 2
    seed: 5
    flags: {dataset: GLYPHS, model: convnet, epochs: 3, lr: 0.001}
    images-per-epoch: 4000
    algorithms: {margin: {}, proxy-nca: {}}
  sizes:
    flags: {dataset: GLYPHS}
    sweep: {embed-dim: [64, 128]}
"""
RECORD = 'results/tuned/tiny.yaml'


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with stand-ins for all scripts, and a record that knows the raw pixels; also the current one."""
    pytest.importorskip('optuna', reason='Optuna is not installed (requirements-tune.txt)')
    samples.stand_ins(tmp_path, FILE, monkeypatch)
    begin()
    return tmp_path


def begin(folds=('1/4',)):
    tuning.save_record(RECORD, Record('tiny', 5, list(folds), raw_pixels=40.0))


def search(*words):
    return samples.run(tune, 'tiny', *words)


def journal():
    if not os.path.exists('journal'):
        return []
    return lines('journal')


def lines(path):
    """The JSON objects of a file."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def epochs():
    return sorted((os.path.basename(log), epoch) for log, epoch, *_ in journal())


def tried(path=RECORD):
    """Of each algorithm its trials, without the time they took."""
    return {key: [(t.number, t.flags, t.status, t.score, t.best_epoch) for t in row.trials]
            for key, row in tuning.load_record(path).rows.items()}


# The search -----------------------------------------------------------------------------------------------------------

def test_every_algorithm_has_its_trials_and_only_those(place):
    status, out, err = search('--trials', '7', '--jobs', '2')
    assert status == 0 and err == '' and '2 algorithms, 7 trials each, 14 runs to do' in out
    names = [f'{key}_trial{number:02d}_seed5.jsonl' for key in ('margin', 'proxy-nca') for number in range(7)]
    assert epochs() == sorted((name, epoch) for name in names for epoch in (1, 2, 3))
    record = tuning.load_record(RECORD)
    assert list(record.rows) == ['margin', 'proxy-nca'] and record.optuna and record.date
    for key, row in record.rows.items():
        assert [t.number for t in row.trials] == list(range(7)) and {t.images_seen for t in row.trials} == {300}
        default = {'margin': {'lr': 0.001, 'margin': 0.2, 'beta': 1.2},
                   'proxy-nca': {'lr': 0.001, 'embedding-multiplier': 3.0, 'epsilon': 0.01}}[key]
        assert row.trials[0].flags == default and row.trials[0].score == pytest.approx(48.9794)
        assert row.before_training == 7.0 and row.revisions == ['0123456789ab'] and row.best.score > 48.9794
        space = algorithm(key).search
        for trial in row.trials[1:]:
            assert set(trial.flags) == set(space)
            assert all(space[name][1] <= value <= space[name][2] for name, value in trial.flags.items())
        assert len({str(t.flags) for t in row.trials}) == 7
    assert os.listdir('results/models/tiny-tune') == []
    # and nothing the second time
    before = Path(RECORD).read_text()
    assert search('--trials', '7')[0] == 0 and len(epochs()) == 42 and Path(RECORD).read_text() == before


def test_two_trials_at_a_time_are_of_two_algorithms_and_change_nothing(place, monkeypatch):
    search('--trials', '6', '--jobs', '1')
    alone = tried()
    shutil.rmtree('results')
    os.remove('journal')
    begin()
    monkeypatch.setenv('STAND_IN_SECONDS', '0.1')
    search('--trials', '6', '--jobs', '2')
    assert tried() == alone
    spans = {}
    for log, _, _, start, end, _ in journal():
        low, high = spans.get(log, (start, end))
        spans[log] = min(low, start), max(high, end)
    overlaps = [(a, b) for a, b in itertools.combinations(spans, 2)
                if spans[a][0] < spans[b][1] and spans[b][0] < spans[a][1]]
    assert overlaps
    for a, b in overlaps:
        assert os.path.basename(a).split('_')[0] != os.path.basename(b).split('_')[0]


def test_more_trials_go_on_as_if_they_had_been_asked_for_at_once(place):
    search('--trials', '7')
    whole = tried()
    shutil.rmtree('results')
    os.remove('journal')
    begin()
    search('--trials', '3')
    assert {key: rows[:3] for key, rows in whole.items()} == tried()
    search('--trials', '7')
    assert tried() == whole and len(epochs()) == len(set(epochs())) == 42


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGINT])
def test_a_killed_search_goes_on_and_repeats_no_finished_trial(place, number):
    search('--trials', '5')
    whole = tried()
    shutil.rmtree('results')
    os.remove('journal')
    begin()
    command = [sys.executable, '-m', 'results.tune', 'tiny', '--file', 'x.yaml', '--trials', '5', '--jobs', '2']
    environment = dict(os.environ, STAND_IN_SECONDS='0.3',
                       PYTHONPATH=os.pathsep.join([ROOT, *filter(None, [os.environ.get('PYTHONPATH')])]))
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.time() + 60
    while len(journal()) < 8:
        assert time.time() < end
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -9) and 'Traceback' not in err
    done = tried()
    assert 2 <= sum(map(len, done.values())) < 10
    assert all(rows == whole[key][:len(rows)] for key, rows in done.items())
    assert search('--trials', '5')[0] == 0
    assert tried() == whole and epochs() == sorted(set(epochs())) and len(epochs()) == 30


def test_a_trial_does_not_see_the_test_set(place):
    search('--trials', '2', '--only', 'margin')
    for trial in (0, 1):
        log = f'results/logs/tiny-tune/margin_trial0{trial}_seed5.jsonl'
        events = lines(log)
        flags = events[0]['flags']
        assert flags['validate_only'] and flags['fold'] == '1/4' and flags['no_nmi'] and flags['eval_every'] == 1
        assert flags['skip_pretrain_validation'] is bool(trial)
        assert flags['batches_per_epoch'] == 3000 // 125
        assert not any('recall@1' in event or 'best-on-test' in event for event in events)


def test_folds_are_other_classes_and_their_mean_is_the_score(place):
    assert 'made with 1/4, not 1/4, 2/4' in search('--folds', '2')[2]
    begin(('1/4', '2/4'))
    assert search('--trials', '2', '--folds', '2', '--only', 'margin')[0] == 0
    record = tuning.load_record(RECORD)
    value = 60 - 20 * np.log10(2)
    assert record.rows['margin'].trials[0].score == pytest.approx(value - 7.5, abs=1e-3)
    assert record.rows['margin'].trials[0].images_seen == 600
    folds = [lines(f'results/logs/tiny-tune/margin_trial01-fold{k}_seed5.jsonl')[0]['flags']['fold'] for k in (1, 2)]
    assert folds == ['1/4', '2/4'] and len(epochs()) == 12


@pytest.mark.parametrize('code, status', [('1', 'diverged'), ('2', 'failed')])
def test_settings_that_do_not_train_score_0_and_the_search_goes_on(place, monkeypatch, code, status):
    monkeypatch.setenv('STAND_IN_LIMIT', f'0.0015:{code}')
    assert search('--trials', '8')[0] == 0
    trials = [trial for row in tuning.load_record(RECORD).rows.values() for trial in row.trials]
    assert len(trials) == 16 and {t.status for t in trials} == {'finished', status}
    assert all((t.score == 0.0) == (t.flags['lr'] > 0.0015) == (t.status == status) for t in trials)


def test_a_broken_run_stops_its_algorithm_alone_and_the_same_command_goes_on(place, monkeypatch):
    monkeypatch.setenv('STAND_IN_FAILS', 'train_margin.py 5')
    status, out, _ = search('--trials', '2')
    assert status == 1 and 'failed: margin_trial00_seed5' in out and 'the last words of a broken run' in out
    record = tuning.load_record(RECORD)
    assert record.rows['margin'].trials == [] and len(record.rows['proxy-nca'].trials) == 2
    monkeypatch.setenv('STAND_IN_FAILS', '')
    assert search('--trials', '2')[0] == 0 and len(tuning.load_record(RECORD).rows['margin'].trials) == 2
    # nor is a mistake in the experiment a trial
    monkeypatch.setenv('STAND_IN_LIMIT', '0.0005:2')
    shutil.rmtree('results')
    begin()
    assert search('--trials', '2')[0] == 1 and tuning.load_record(RECORD).rows == {}


def test_a_record_of_other_settings_is_not_mixed_with_these(place):
    search('--trials', '2', '--only', 'margin')
    assert '--seed: ' + RECORD in search('--seed', '6')[2]
    (place / 'x.yaml').write_text(FILE.replace('{margin: {}', '{margin: {wd: 0.1}'))
    status, _, err = search('--trials', '2')
    assert status == 2 and 'margin was searched with other flags' in err


def test_a_second_search_of_the_same_experiment_is_refused(place):
    with tune._alone(RECORD):
        status, _, err = search()
    assert status == 2 and 'another results.tune is writing it' in err


def test_a_record_that_cannot_be_written_ends_the_search(place, monkeypatch):
    def full(path, record):
        raise OSError(28, 'No space left on device', path)

    monkeypatch.setattr(tune, 'save_record', full)
    status, _, err = search('--trials', '3', '--jobs', '2')
    assert status == 1 and err.startswith('results.tune: No space left') and len({log for log, *_ in journal()}) <= 2


@pytest.mark.parametrize('words, part', [
    (['nothing'], "no experiment 'nothing'"), (['sizes'], 'is a sweep'), (['tiny', '--only', 'tea'], '--only tea'),
    (['tiny', '--gpus', 'a'], '--gpus a'), (['tiny', '--trials', '0'], "'0' is not"), ([], 'EXPERIMENT'),
    (['tiny', '--seed', '-1'], '--seed -1'), (['tiny', '--backend', 'dask', '--jobs', '2'], 'one worker')])
def test_wrong_use_is_one_sentence_and_status_2(place, words, part):
    status, out, err = samples.run(tune, *words)
    assert status == 2 and part in err and out == '' and 'Traceback' not in err


def test_without_optuna_the_command_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'x.yaml').write_text(FILE)
    monkeypatch.setitem(sys.modules, 'optuna', None)
    status, _, err = samples.run(tune, 'tiny')
    assert status == 2 and err == 'results.tune: Optuna is not installed: pip install -r requirements-tune.txt\n'


def test_a_suggestion_depends_on_the_trials_and_the_seed_alone(place):
    space = {'lr': ['log', 1e-4, 1e-2], 'batch-k': ['choice', 0, 4, 8], 'normalize': ['choice', False, True]}
    trials, found = [Trial(0, {'lr': 1e-5, 'batch-k': 0, 'normalize': False}, 'finished', 3.0)], []     # outside of it
    for number in range(1, 30):
        flags = tune.suggest(space, trials, number)
        assert flags == tune.suggest(space, list(trials), number)
        assert 1e-4 <= flags['lr'] <= 1e-2 and flags['batch-k'] in (0, 4, 8) and flags['normalize'] in (False, True)
        assert float(f'{flags["lr"]:.4g}') == flags['lr']
        found.append(abs(np.log10(flags['lr'] / 1e-3)))
        trials.append(Trial(number, flags, 'finished', 100.0 - 50.0 * found[-1]))
    assert np.mean(found[15:]) < 0.35       # it learns from the scores: 0.5 is chance
    assert tune.suggest(space, trials, 1) != tune.suggest(space, trials, 2)


def test_raw_pixels_are_scored_on_the_held_out_classes(tmp_path, monkeypatch):
    tree = make_tree(str(tmp_path / 'tree'), classes=16)
    for c in range(8, 16):                  # the test classes
        for name in os.listdir(os.path.join(tree, f'{c:03d}.class')):
            with open(os.path.join(tree, f'{c:03d}.class', name), 'wb') as file:
                file.write(b'no picture')
    flags = {'dataset': 'miniCUB', 'image-size': '16', 'epochs': '3'}
    value = tune.score_raw_pixels(flags, tree, ['1/4', '2/4'], 5, str(tmp_path / 'FOLD.jsonl'))
    assert 0 < value <= 100
    config = lines(tmp_path / '1of4.jsonl')[0]
    assert config['flags']['fold'] == '1/4' and config['flags']['seed'] == 5 and config['flags']['image_size'] == 16
    with pytest.raises(tune.TuneError, match='raw pixels of fold 1/9: .*needs at least 18 training classes'):
        tune.score_raw_pixels(flags, tree, ['1/9'], 5, str(tmp_path / 'FOLD.jsonl'))


# The budget -----------------------------------------------------------------------------------------------------------

def settings_of(space):
    """The corners of a space."""
    return [dict(zip(space, values)) for values in itertools.product(*(one[1:] for one in space.values()))]


@pytest.mark.parametrize('key', [a.key for a in ALGORITHMS])
def test_all_trials_of_all_algorithms_see_equally_many_images(key):
    import importlib
    spec = experiments.load_experiments()['glyphs']
    assert len(algorithm(key).search) <= 4 and 'lr' in algorithm(key).search
    row = Row('', {name: list(one) for name, one in algorithm(key).search.items()})
    one = tune.Search(spec, key, row, 20, Record('glyphs', 123, ['1/4']),
                      {'results_dir': 'results', 'data_path': None, 'script_dir': ''})
    script = importlib.import_module(algorithm(key).script[:-3])
    for number, values in enumerate([{}, *settings_of(row.search)]):
        job = one.job(number, values, '1/4')
        opt = script.parse_args(job.command()[2:])
        assert experiments.agrees(job, vars(opt)) and opt.validate_only and opt.fold == '1/4'
        for name, value in values.items():
            assert getattr(opt, name.replace('-', '_')) == value
        if getattr(opt, 'batches_per_epoch', 0):
            trained = spec.images_per_epoch * 3 // 4                # the other quarter is held out
            assert trained - opt.batch_size < opt.batches_per_epoch * opt.batch_size <= trained
        assert int(opt.epochs) * getattr(opt, 'ensemble_size', 1) == 12
        assert opt.skip_pretrain_validation is bool(number) and opt.no_nmi


def test_a_searched_batch_keeps_the_images_of_a_published_epoch():
    spec = experiments.load_experiments()['cub-inception']
    flags = experiments.row_flags(spec, 'rankedlistloss')
    tuned = experiments.with_values(flags, {'batch-size': 60, 'lr': 0.001})
    assert experiments.batches(spec, 'rankedlistloss', flags, flags) == {}
    assert experiments.batches(spec, 'rankedlistloss', flags, tuned) == {'batches-per-epoch': '600'}
    assert experiments.batches(spec, 'rankedlistloss', flags, tuned, Fraction(3, 4)) == {'batches-per-epoch': '450'}
    said = {**flags, 'epoch-length': '100'}
    assert experiments.batches(spec, 'rankedlistloss', said, {**said, **tuned}) == {'batches-per-epoch': '300'}
    assert experiments.batches(spec, 'proxy-nca', flags, tuned, Fraction(3, 4)) == {}       # an epoch is one pass


# Tuned settings -------------------------------------------------------------------------------------------------------

def test_tuned_settings_reach_the_command_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'x.yaml').write_text(FILE.replace('proxy-nca: {}', 'rankedlistloss: {}, triplet: {normalize: true}, '
                                                                   'angular: {}'))
    rows = {'margin': {'lr': 0.0031, 'beta': 1.1}, 'rankedlistloss': {'batch-size': 60, 'lr': 0.002},
            'triplet': {'normalize': False, 'batch-k': 4}}
    record = Record('tiny', 5, ['1/4'], rows={key: Row('', {}, trials=[
        Trial(0, {'lr': 0.001}, 'finished', 10.0), Trial(1, flags, 'finished', 20.0), Trial(2, {}, 'diverged', 0.0)])
        for key, flags in rows.items()})
    words = ['tiny', '--runs', '1', '--dry-run', '--settings', 'tuned']
    status, _, err = samples.run(reproduce, *words)
    assert status == 2 and 'there is no results/tuned/tiny.yaml; python -m results.tune tiny writes it' in err
    tuning.save_record(RECORD, record)
    status, _, err = samples.run(reproduce, *words)
    assert status == 2 and 'has no trial of angular' in err
    record.rows['angular'] = Row('', {}, trials=[Trial(0, {'normalize': True}, 'finished', 1.0)])
    tuning.save_record(RECORD, record)
    status, out, err = samples.run(reproduce, *words)
    assert status == 0 and err == ''
    found = {os.path.basename(line).split('_')[0]: shlex.split(line) for line in out.strip().split('\n')}
    margin, ranked = found['margin'], found['rankedlistloss']
    assert margin[margin.index('--lr') + 1] == '0.0031' and margin[margin.index('--beta') + 1] == '1.1'
    assert margin.count('--lr') == 1 and margin[margin.index('--batches-per-epoch') + 1] == '32'
    assert ranked[ranked.index('--batch-size') + 1] == '60' and ranked[ranked.index('--batches-per-epoch') + 1] == '66'
    assert '--normalize' not in found['triplet'] and '--normalize' in found['angular']
    assert margin[margin.index('--logfile') + 1] == 'results/logs/tiny-tuned/margin_seed5.jsonl'
    out = samples.run(reproduce, 'tiny', '--runs', '1', '--dry-run')[1]
    assert '--normalize' in out and 'tuned' not in out and '--lr 0.0031' not in out


def test_tuned_runs_are_run(place):
    search('--trials', '3')
    status, out, _ = samples.run(reproduce, 'tiny', '--settings', 'tuned')
    assert status == 0 and '4 runs done, 0 failed' in out and 'results.plots results/logs/tiny-tuned' in out


# The record -----------------------------------------------------------------------------------------------------------

def example():
    space = {'lr': ['log', 1e-4, 1e-2], 'normalize': ['choice', False, True]}
    trials = [Trial(0, {'lr': 0.001, 'normalize': False}, 'finished', 30.0, 31.0, 5.5, 300),
              Trial(1, {'lr': 1e-05, 'normalize': True}, 'finished', 50.0, 50.0, 5.0, 300),
              Trial(2, {'lr': 0.01, 'normalize': True}, 'diverged', 0.0, 0.0, 1.0, None),
              Trial(3, {'lr': 0.002, 'normalize': True}, 'finished', 50.0, 52.0, 5.0, 300)]
    return Record('tiny', 5, ['1/4'], '2026-01-01', '5.0.0', 30.0, {
        'margin': Row('--lr 0.001', space, 4.0, ['0123456789ab'], trials), 'triplet': Row('', space)})


def test_a_record_is_read_as_it_was_written(tmp_path):
    path = str(tmp_path / 'tuned' / 'x.yaml')
    tuning.save_record(path, example())
    assert tuning.load_record(path) == example()
    content = yaml.safe_load(Path(path).read_text())
    assert content['rows']['margin']['best'] == {'lr': 1e-05, 'normalize': True}
    assert content['rows']['margin']['best_trial'] == 1 and content['rows']['margin']['default_score'] == 30.0
    assert Path(path).read_text().count('\n    - {number:') == 4      # a trial a line


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 3000), st.integers(0, 60), st.sampled_from(['', 'x', '-', '{', '\0', '1', ': ', 'null']))
def test_a_damaged_record_is_read_or_refused_in_one_sentence(tmp_path_factory, at, length, instead):
    path = str(tmp_path_factory.mktemp('record') / 'x.yaml')
    tuning.save_record(path, example())
    text = Path(path).read_text()
    with open(path, 'w') as file:
        file.write(text[:at] + instead + text[at + length:])
    try:
        tuning.load_record(path)
    except ExperimentsError as error:
        assert str(error) == f'{path} is not a record that results.tune wrote'


def test_expected_best_is_the_mean_over_all_subsets():
    scores = [3.0, 50.0, 12.5, 50.0, 0.0, 61.25, 7.0]
    found = tuning.expected_best(scores)
    for n in range(1, len(scores) + 1):
        every = [max(subset) for subset in itertools.combinations(scores, n)]
        assert found[n - 1] == pytest.approx(sum(every) / len(every), rel=1e-12)
    assert found[-1] == max(scores) and found[0] == pytest.approx(np.mean(scores))


def test_tunability_and_collapse():
    row = example().rows['margin']
    assert tuning.tunability(row) == 20.0 and tuning.collapse_rate(row, 30.0) == 0.5
    assert tuning.collapse_rate(row, 60.0) == 1.0 and tuning.collapse_rate(row, -1.0) == 0.0


# Tables, figures and report -----------------------------------------------------------------------------------------

def test_the_table_says_what_the_record_says(tmp_path):
    tuning.save_record(str(tmp_path / 'tuned' / 'glyphs.yaml'), dataclasses.replace(example(), experiment='glyphs'))
    tuning.save_record(str(tmp_path / 'tuned' / 'theirs.yaml'), dataclasses.replace(example(), experiment='theirs'))
    table = all_tables(str(tmp_path))['tuning']
    assert '| Margin | 4 | 30.0 | 50.0 | 20.0 | 50 % | `lr 1e-05` `normalize yes` |' in table
    assert table.count('| Margin |') == 1 and 'Triplet' not in table and 'Raw pixels have 30.0' in table
    assert 'Training images of a run: 300 to 300' in table and 'fold 1/4; seed 5' in table
    assert all_tables(str(tmp_path / 'none'))['tuning'] == 'No experiment has been searched yet.'


def test_the_figure_has_the_expected_best_of_every_algorithm(tmp_path, monkeypatch):
    figure = draw_tuning(example())
    lines = figure.axes[0].get_lines()
    assert list(lines[0].get_ydata()) == tuning.expected_best([30.0, 50.0, 0.0, 50.0]) and len(lines) == 2
    assert list(lines[1].get_ydata()) == [30.0, 30.0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ['Margin', 'raw pixels']
    assert draw_tuning(Record('tiny', 5, ['1/4'])) is None
    monkeypatch.chdir(tmp_path)
    tuning.save_record(RECORD, example())
    with contextlib.redirect_stdout(io.StringIO()):
        assert plots.main([RECORD, '--out', 'p']) == 0
    assert sorted(os.listdir('p')) == ['tuning_tiny.png', 'tuning_tiny.svg']


def test_the_report_shows_the_search_and_leaves_its_trials_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    samples.log('results/logs/glyphs/margin_seed123.jsonl')
    trial = samples.config('triplet', identity='trial', validate_only=True)
    samples.write('results/logs/glyphs-tune/triplet_trial00_seed123.jsonl', [
        trial, {'event': 'epoch', 'id': 'trial', 'run': 1, 'epoch': 1, 'val': {'recall@1': 33.0}},
        {'event': 'run_end', 'id': 'trial', 'run': 1, 'seed': 123, 'last': {'epoch': 1, 'val': {'recall@1': 33.0}}}])
    pixels = samples.config('raw-pixels', identity='raw', fold='1/4')
    samples.write('results/logs/glyphs-tune/raw_pixels.jsonl', [
        pixels, {'event': 'epoch', 'id': 'raw', 'run': 1, 'epoch': 0, **samples.metrics(11.0)}])
    experiments, _ = read_logs(['results/logs'])
    [board] = boards(experiments)
    assert [group.algorithm for group in board.groups] == ['margin'] and 'raw-pixels' not in board.references
    tuning.save_record(RECORD, example())
    with contextlib.redirect_stdout(io.StringIO()):
        assert report.main([]) == 0
    page = Path('results/report.html').read_text()
    assert 'Settings of tiny' in page and 'lr 1e-05, normalize True' in page and 'Triplet semi-hard, GLYPHS' not in page
