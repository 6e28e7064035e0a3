"""Folds that are put together, with stand-ins for the training scripts and for the evaluation."""
from __future__ import annotations

import glob
import json
import os
import re
import subprocess

import pytest

from results import crossval, report, reproduce
from results.aggregate import boards
from results.experiments import expand, load_experiments
from results.readlog import read_log, read_logs
from results.tables import all_tables, crossvalidation
from tests.results import samples

FILE = """
experiments:
  tiny:
    runs: 2
    seed: 5
    flags: {dataset: GLYPHS, model: convnet, epochs: 3}
    images-per-epoch: 4000
    algorithms: {margin: {}, proxy-nca: {}}
"""
HEADS = re.compile(r'margin_4folds_seed5: recall@1 22.50 mean of the folds \(64 dimensions\), '
                   r'77.00 concatenated \(256 dimensions\)')


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with stand-ins for all scripts; the calls of the evaluation are noted."""
    samples.stand_ins(tmp_path, FILE, monkeypatch)
    calls = []

    def evaluation(words, **options):
        calls.append(words)
        if 'proxy-nca' in words[-1] and os.path.exists('broken'):
            return subprocess.CompletedProcess(words, 1, '', 'common.evaluation: a model is damaged')
        with open(words[words.index('--json') + 1], 'w') as file:
            json.dump({'dimensions': 256, 'metrics': {'recall@1': 77.0, 'map@r': 20.0}}, file)
        return subprocess.CompletedProcess(words, 0, '', '')

    monkeypatch.setattr(crossval.subprocess, 'run', evaluation)
    return calls


def run(capsys, *words):
    status = reproduce.main(['tiny', '--folds', '4', '--file', 'x.yaml', *words])
    return (status, *capsys.readouterr())


def test_all_folds_are_run_and_put_together(place, capsys):
    status, out, err = run(capsys)
    assert status == 0 and err == '' and HEADS.search(out) and '16 runs done' in out
    names = [f'{a}_fold{k}of4_seed{s}.jsonl' for a in ('margin', 'proxy-nca') for k in range(1, 5) for s in (5, 6)]
    joined = [f'{a}_4folds_seed{s}.jsonl' for a in ('margin', 'proxy-nca') for s in (5, 6)]
    assert sorted(name for name in os.listdir('results/logs/tiny-folds4') if name[0] != '.') == sorted(names + joined)
    assert len(place) == 4
    words = next(words for words in place if 'margin_fold1of4_seed5' in ' '.join(words))
    assert words[words.index('--model') + 1:] == [
        f'results/models/tiny-folds4/margin_fold{k}of4_seed5-best.params' for k in range(1, 5)]
    assert words[words.index('--seed') + 1] == '5'

    # what the log says: the epoch that held-out classes chose, not the best and not the last
    separate, concatenated = read_log('results/logs/tiny-folds4/margin_4folds_seed5.jsonl')
    of_folds = [read_log(f'results/logs/tiny-folds4/margin_fold{k}of4_seed5.jsonl')[0] for k in range(1, 5)]
    assert separate.setup['folds'] == concatenated.setup['folds'] == [one.id for one in of_folds]
    assert separate.runs[1].chosen == {'best-on-val': (None, {'recall@1': 22.5, 'map@r': 5.0})}
    assert concatenated.runs[1].metrics('best-on-val') == {'recall@1': 77.0, 'map@r': 20.0}
    assert (separate.algorithm, separate.seed, separate.flags['folds']) == ('margin', 5, 4)
    assert separate.runs[1].images_seen == 4 * 300

    # the second call does nothing
    status, out, err = run(capsys)
    assert status == 0 and len(place) == 4 and HEADS.search(out) and '16 of them finished before' in out


def test_table_and_report_show_them_and_leave_the_folds_out(place, capsys, tmp_path):
    run(capsys)
    experiments, problems = read_logs(['results/logs'])
    assert not problems and boards(experiments) == []
    heads, rows, note = crossvalidation(experiments)
    assert [dict(zip(heads, row)) for row in rows][0] == {
        '': 'GLYPHS', 'Algorithm': 'Proxy-NCA', 'Recall@1, separate': '22.5 ± 0.0', 'Recall@1, concatenated':
        '77.0 ± 0.0', 'MAP@R, separate': '5.0 ± 0.0', 'MAP@R, concatenated': '20.0 ± 0.0', 'Dimensions': '64 / 256',
        'Folds': '4', 'Seeds': '2'}
    table = all_tables('results', 'x.yaml')['crossval']
    assert '| GLYPHS | Margin | 22.5 ± 0.0 | 77.0 ± 0.0 |' in table and note in table
    assert all_tables('nowhere', 'x.yaml')['crossval'] == 'No cross-validation has been run yet.'
    assert 'id="folds"' in report.page(experiments) and 'Margin' in report.page(experiments)
    # a run with all classes is on its board, with and without the folds beside it
    reproduce.main(['tiny', '--file', 'x.yaml', '--only', 'margin'])
    [board] = boards(read_logs(['results/logs'])[0])
    assert [len(group.runs) for group in board.groups] == [2] and list(board.chosen) == ['margin']


def test_folds_that_are_not_put_together_never_stand_for_the_algorithm(place, capsys):
    run(capsys, '--only', 'margin')
    reproduce.main(['tiny', '--file', 'x.yaml', '--only', 'margin', '--runs', '1'])
    for seed in (5, 6):
        os.remove(f'results/logs/tiny-folds4/margin_4folds_seed{seed}.jsonl')
    for log in glob.glob('results/logs/tiny-folds4/*.jsonl'):
        os.rename(log, os.path.join('results/logs/tiny', os.path.basename(log)))
    [board] = boards(read_logs(['results/logs'])[0])
    assert len(board.groups) == 5 and not board.chosen['margin'].settings['fold']


def test_a_problem_is_one_sentence_and_the_others_are_put_together(place, capsys, monkeypatch):
    open('broken', 'w').close()
    status, out, err = run(capsys, '--runs', '1')
    assert status == 1 and HEADS.search(out)
    assert err == ('results.reproduce: the folds of proxy-nca_4folds_seed5 cannot be scored together: '
                   'common.evaluation: a model is damaged\n')
    os.remove('broken')
    os.remove('results/models/tiny-folds4/proxy-nca_fold3of4_seed5-best.params')
    assert 'proxy-nca_fold3of4_seed5-best.params is missing' in run(capsys, '--runs', '1')[2]
    monkeypatch.setenv('STAND_IN_FAILS', 'train_margin.py 6')
    status, out, _ = run(capsys, '--only', 'margin')
    assert status == 1 and HEADS.search(out) and 'margin_4folds_seed6:' not in out and '4 failed' in out


def test_a_fold_sees_fewer_images(place):
    spec = load_experiments('x.yaml')['tiny']
    whole = {job.algorithm: job for job in expand(spec, runs=1)}
    folds = [job for job in expand(spec, runs=1, folds=4) if job.algorithm == 'margin']
    assert [job.flags['fold'] for job in folds] == ['1/4', '2/4', '3/4', '4/4']
    assert {job.flags['batches-per-epoch'] for job in folds} == {str(int(4000 * 0.75) // 125)}
    assert whole['margin'].flags['batches-per-epoch'] == '32' and 'fold' not in whole['margin'].flags
    assert all(job.experiment == 'tiny-folds4' for job in folds)


@pytest.mark.parametrize('value', ['1', '0', 'x', '1001'])
def test_wrong_use_is_one_sentence_and_status_2(place, capsys, value):
    with pytest.raises(SystemExit) as end:
        reproduce.main(['tiny', '--folds', value, '--file', 'x.yaml'])
    assert end.value.code == 2 and 'whole number from 2 to 1000' in capsys.readouterr().err
