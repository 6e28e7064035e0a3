"""Whole comparisons, with stand-ins for the training scripts."""
from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from results import experiments, reproduce
from results.algorithms import ALGORITHMS, algorithm
from results.readlog import read_log
from results.tuning import Record, Row, Trial, record_path, save_record
from tests.results import samples

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FILE = """
experiments:
  tiny:
    title: A tiny one
    runs: 2
    seed: 5
    flags: {dataset: GLYPHS, model: convnet, epochs: 3}
    algorithms: {margin: {use-crops: true}, proxy-nca: {lr: 0.01}, proxy-triplet: {}}
  sizes:
    flags: {dataset: CUB, model: inception-bn, epochs: 2}
    sweep: {embed-dim: [64, 128]}
    algorithms: [margin]
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with stand-ins for all scripts and a file of experiments; also the current one."""
    samples.stand_ins(tmp_path, FILE, monkeypatch)
    return tmp_path


def _run(*words):
    """Exit status, standard output and standard error of the command."""
    return samples.run(reproduce, *words)


def _journal():
    if not os.path.exists('journal'):
        return []
    with open('journal') as file:
        return [json.loads(line) for line in file]


def _epochs():
    return sorted((os.path.basename(log), epoch) for log, epoch, *_ in _journal())


ALL = sorted((f'{name}_seed{seed}.jsonl', epoch) for name in ('margin', 'proxy-nca', 'proxy-triplet') for seed in (5, 6)
             for epoch in (1, 2, 3))


def test_all_runs_of_an_experiment_each_once(place):
    status, out, err = _run('tiny')
    assert status == 0 and err == '' and _epochs() == ALL and '6 runs done, 0 failed' in out
    assert 'python -m results.plots results/logs/tiny' in out and 'recall@1 30.00' in out
    [experiment] = read_log('results/logs/tiny/proxy-nca_seed6.jsonl')
    assert experiment.algorithm == 'proxy-nca' and experiment.runs[1].seed == 6 and experiment.flags['lr'] == 0.01
    assert experiment.flags['number_of_runs'] == 1 and experiment.flags['use_crops'] is False
    assert read_log('results/logs/tiny/margin_seed5.jsonl')[0].flags['use_crops'] is True
    # and nothing the second time
    status, out, _ = _run('tiny')
    assert status == 0 and _epochs() == ALL and '6 of them finished before' in out


def test_dry_run_prints_the_exact_commands_and_runs_nothing(place):
    status, out, _ = _run('tiny', '--dry-run', '--only', 'proxy', '--runs', '1')
    assert status == 0 and not os.path.exists('journal') and not os.path.exists('results')
    lines = out.strip().split('\n')
    assert len(lines) == 2 and shlex.split(lines[0]) == [
        'python', 'train_proxy.py', '--dataset', 'GLYPHS', '--model', 'convnet', '--epochs', '3', '--loss', 'nca',
        '--lr', '0.01', '--seed', '5', '--number-of-runs', '1', '--logfile', 'results/logs/tiny/proxy-nca_seed5.jsonl',
        '--save-model-prefix', 'results/models/tiny/proxy-nca_seed5']
    subprocess.run([sys.executable, *shlex.split(lines[0])[1:]], check=True)
    status, out, _ = _run('tiny', '--dry-run', '--only', 'proxy-nca', '--runs', '1')
    assert out == '# finished: results/logs/tiny/proxy-nca_seed5.jsonl\n'


def test_only_runs_data_path_and_sweep(place):
    status, out, _ = _run('sizes', '--dry-run', '--runs', '2', '--data-path', '/data/birds and more', '--gpus', '0,1')
    commands = [shlex.split(line) for line in out.strip().split('\n')]
    assert [c[c.index('--embed-dim') + 1] for c in commands] == ['64', '128', '64', '128']
    assert [c[c.index('--seed') + 1] for c in commands] == ['123', '123', '124', '124']
    assert [c[c.index('--gpus') + 1] for c in commands] == ['0', '1', '0', '1']
    assert {c[c.index('--data-path') + 1] for c in commands} == {'/data/birds and more'}
    assert len({c[c.index('--logfile') + 1] for c in commands}) == 4
    assert '--data-path DIR' in _run('sizes', '--dry-run')[1]


def test_a_broken_run_goes_on_from_its_checkpoint_and_a_whole_one_is_left_alone(place):
    _run('tiny', '--only', 'margin')
    log = 'results/logs/tiny/margin_seed5.jsonl'
    with open(log) as file:
        lines = file.readlines()
    with open(log, 'w') as file:
        file.writelines(lines[:3])               # configuration and two epochs
    identity = read_log(log)[0].id
    with open('results/models/tiny/margin_seed5.ckpt.npz', 'w') as file:
        json.dump({'id': identity, 'epoch': 2}, file)
    os.remove('journal')
    assert _run('tiny', '--only', 'margin')[0] == 0
    assert _epochs() == [('margin_seed5.jsonl', 3)]
    [experiment] = read_log(log)
    assert experiment.id == identity and experiment.runs[1].finished


def test_a_log_of_other_settings_is_put_aside_with_its_checkpoint(place):
    _run('tiny', '--only', 'proxy-nca')
    (place / 'x.yaml').write_text(FILE.replace('lr: 0.01', 'lr: 0.02'))
    os.remove('journal')
    assert _run('tiny', '--only', 'proxy-nca')[0] == 0
    assert len(_epochs()) == 6                   # all again, not resumed
    [experiment] = read_log('results/logs/tiny/proxy-nca_seed5.jsonl')
    assert experiment.flags['lr'] == 0.02
    assert read_log('results/logs/tiny/proxy-nca_seed5.jsonl.stale-1')[0].flags['lr'] == 0.01
    # a flag that is taken back to the script's default cannot be seen in the log alone
    (place / 'x.yaml').write_text(FILE.replace('{lr: 0.01}', '{}'))
    os.remove('journal')
    assert _run('tiny', '--only', 'proxy-nca')[0] == 0 and len(_epochs()) == 6
    assert read_log('results/logs/tiny/proxy-nca_seed5.jsonl')[0].flags['lr'] == 0.001


def test_failures_come_last_with_their_last_lines_and_stop_nobody(place, monkeypatch):
    monkeypatch.setenv('STAND_IN_FAILS', 'train_margin.py 5;train_proxy.py 99')
    status, out, _ = _run('tiny')
    assert status == 1 and _epochs() == [e for e in ALL if e[0] != 'margin_seed5.jsonl']
    tail = out[out.index('failed: margin_seed5'):]
    assert 'the last words of a broken run' in tail and 'exit status 3' in tail and '5 runs done, 1 failed' in tail
    assert 'repeat it with: python train_margin.py' in tail
    monkeypatch.setenv('STAND_IN_FAILS', '')
    assert _run('tiny')[0] == 0 and _epochs() == ALL


def test_a_run_that_ends_well_but_says_nothing_has_failed(place):
    (place / 'train_margin.py').write_text('print("bye")')
    status, out, _ = _run('tiny', '--only', 'margin', '--runs', '1')
    assert status == 1 and 'has no end of the run' in out and 'bye' in out


def test_gpus_are_handed_out_one_to_a_run(place, monkeypatch):
    monkeypatch.setenv('STAND_IN_SECONDS', '0.15')
    assert _run('tiny', '--gpus', '2,5')[0] == 0
    spans = {}
    for log, _, _, start, end, gpu in _journal():
        low, high = spans.get((gpu, log), (start, end))
        spans[gpu, log] = min(low, start), max(high, end)
    assert {gpu for gpu, _ in spans} == {'2', '5'} and len(spans) == 6
    runs = sorted((low, high, gpu) for (gpu, _), (low, high) in spans.items())
    both = 0
    for i, (low, high, gpu) in enumerate(runs):
        together = [g for lo, hi, g in runs[:i] + runs[i + 1:] if lo < high and hi > low]
        assert gpu not in together
        both += bool(together)
    assert both >= 4


def test_jobs_limits_how_many_run_at_a_time(place, monkeypatch):
    monkeypatch.setenv('STAND_IN_SECONDS', '0.05')
    assert _run('tiny', '--jobs', '1')[0] == 0
    spans = sorted((start, end) for _, _, _, start, end, _ in _journal())
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:]))


def test_ctrl_c_lets_runs_save_and_the_same_command_goes_on(place):
    environment = dict(os.environ, STAND_IN_SECONDS='0.6', PYTHONPATH=ROOT)
    process = subprocess.Popen([sys.executable, '-m', 'results.reproduce', 'tiny', '--file', 'x.yaml', '--jobs', '2'],
                               env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _until(lambda: len(_journal()) >= 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and 'the same command goes on' in err and 'Traceback' not in err
    done = len(_epochs())
    assert done < 6                              # the two that ran were told, and stopped after the epoch
    time.sleep(1.3)
    assert len(_epochs()) == done                # nobody was left behind
    assert _run('tiny')[0] == 0 and _epochs() == ALL        # no epoch twice


def test_killed_outright_the_next_call_waits_for_the_orphan_instead_of_running_it_twice(place):
    environment = dict(os.environ, STAND_IN_SECONDS='0.5', PYTHONPATH=ROOT)
    command = [sys.executable, '-m', 'results.reproduce', 'tiny', '--file', 'x.yaml', '--only', 'margin']
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _until(lambda: len(_journal()) >= 1)
    process.kill()
    process.wait()
    assert _run('tiny', '--only', 'margin')[0] == 0
    time.sleep(1.5)                              # an orphan still at it would now be seen
    assert _epochs() == [e for e in ALL if e[0].startswith('margin')]
    with open('results/logs/tiny/margin_seed5.jsonl') as file:
        assert sum('"run_end"' in line for line in file) == 1


def _until(condition, seconds=60):
    end = time.time() + seconds
    while not condition():
        assert time.time() < end, 'waited too long'
        time.sleep(0.05)


def test_the_bar_shows_what_runs_and_a_line_tells_what_ended(place, capsys):
    job, other = experiments.expand(experiments.load_experiments('x.yaml')['tiny'])[:2]
    bar = reproduce.RunsBar(2)
    bar.start(job)
    bar.start(other)
    bar.end(reproduce.Outcome(job, 'failed', 90.0))
    bar.end(reproduce.Outcome(job, 'failed', 90.0))         # a cluster may tell it twice
    bar.start(job)
    bar.close()
    out = capsys.readouterr().out
    assert out.count('failed    margin_seed5 in 01:30') == 1 and '1/2' in out.split('\r')[-1]
    assert other.name in out.split('\r')[-1] and job.name not in out.split('\r')[-1]


@pytest.mark.parametrize('words, part', [
    (['nothing'], "no experiment 'nothing'"), ([], 'say which experiment: tiny, sizes'),
    (['sizes'], 'needs --data-path'),
    (['tiny', '--only', 'margin,tea'], '--only tea'), (['tiny', '--gpus', 'a'], '--gpus a'),
    (['tiny', '--backend', 'dask', '--jobs', '2'], 'one worker for each GPU'), (['tiny', '--jobs', '0'], "'0' is not"),
    (['tiny', '--runs', 'x'], "'x' is not")])
def test_wrong_use_is_one_sentence_and_status_2(place, words, part):
    status, out, err = _run(*words)
    assert status == 2 and part in err and out == '' and 'Traceback' not in err


def test_list(place):
    assert _run('--list')[1].split('\n')[0] == 'tiny                6 runs   A tiny one'


# The file of experiments ----------------------------------------------------------------------------------------------

def test_the_projects_own_file_declares_the_paper_and_glyphs():
    specs = experiments.load_experiments()
    assert list(specs) == ['glyphs', 'glyphs-embedding-size', 'glyphs-batch-size', 'cars196-half', 'cub-inception',
                           'cub-resnet50', 'cars196', 'sop', 'embedding-size', 'batch-size']
    for name in ('glyphs', 'cars196-half', 'cub-inception', 'cub-resnet50', 'cars196', 'sop'):
        assert list(specs[name].algorithms) == [a.key for a in ALGORITHMS]
    assert len(experiments.expand(specs['glyphs'])) == 5 * len(ALGORITHMS) and not specs['glyphs'].needs_data
    assert len(experiments.expand(specs['embedding-size'])) == 8 * 6 * 3 and specs['embedding-size'].needs_data
    assert len(experiments.expand(specs['batch-size'])) == 6 * 5 * 3
    assert len(experiments.expand(specs['glyphs-embedding-size'])) == 8 * 8
    assert len(experiments.expand(specs['glyphs-batch-size'])) == 6 * 5
    for name in ('embedding-size', 'batch-size'):           # the paper's algorithms
        assert list(specs[f'glyphs-{name}'].algorithms) == list(specs[name].algorithms)
    for spec in specs.values():
        jobs = experiments.expand(spec)
        assert len({job.log for job in jobs}) == len({job.prefix for job in jobs}) == len(jobs)


def test_everybody_sees_equally_many_images_of_glyphs():
    spec = experiments.load_experiments()['glyphs']
    for job in experiments.expand(spec, runs=1):
        row = algorithm(job.algorithm)
        if row.batches_per_epoch:
            seen = int(job.flags['batches-per-epoch']) * row.batch_size
            assert spec.images_per_epoch - row.batch_size < seen <= spec.images_per_epoch
        else:
            assert 'batches-per-epoch' not in job.flags         # an epoch is one pass
        assert int(job.flags['epochs']) * int(job.flags.get('ensemble-size', 1)) == 12


@pytest.mark.parametrize('text', ['algorithms: all', 'algorithms: {all: {}}', ''])
def test_an_experiment_of_all_needs_no_list(place, text):
    (place / 'x.yaml').write_text('experiments: {a: {title: x, images-per-epoch: 4000, flags: {batch-size: 100}')
    with open('x.yaml', 'a') as file:
        file.write(f', {text}}}}}' if text else '}}')
    spec = experiments.load_experiments('x.yaml')['a']
    assert list(spec.algorithms) == [a.key for a in ALGORITHMS]
    flags = {job.algorithm: job.flags for job in experiments.expand(spec)}
    assert flags['margin']['batches-per-epoch'] == '40' and 'batches-per-epoch' not in flags['triplet']


def test_all_stands_for_those_that_are_not_named(place):
    (place / 'x.yaml').write_text('experiments: {a: {algorithms: {margin: {lr: 1}, all: {lr: 2, wd: 3}}}}')
    spec = experiments.load_experiments('x.yaml')['a']
    assert spec.algorithms['margin'] == {'lr': '1'} and spec.algorithms['triplet'] == {'lr': '2', 'wd': '3'}


def test_every_command_is_one_that_its_script_takes():
    import importlib
    for spec in experiments.load_experiments().values():
        for job in experiments.expand(spec, runs=1, data_path='DIR' if spec.needs_data else None):
            words = job.command(resume=True)
            opt = importlib.import_module(words[1][:-3]).parse_args(words[2:])
            assert experiments.agrees(job, vars(opt)), words
            assert opt.save_model_prefix == job.prefix and opt.logfile == job.log and opt.seed == job.seed


@pytest.mark.parametrize('change, part', [
    (('runs: 2', 'runs: 0'), '"runs"'), (('seed: 5', 'seed: x'), '"seed"'), (('margin:', 'tea:'), "'tea'"),
    (('title:', 'titel:'), "'titel'"), (('lr: 0.01', 'seed: 3'), '--seed is set by'),
    (('lr: 0.01', 'lr: {a: b}'), 'lr'), (('lr: 0.01', '--lr: 1'), 'leave the dashes out'),
    (('[64, 128]', '64'), '"sweep"'), (('[64, 128]', '[]'), '"sweep"'),
    (('[64, 128]', '[null]'), '"sweep"'), (('tiny:', '../tiny:'), 'is no name'), (('{dataset', '{{{dataset'), 'line'),
    (('runs: 2', 'tuned: tea'), "names no experiment: 'tea'"), (('runs: 2', 'tuned: 3'), '"tuned" must be'),
    (('experiments:', 'experiment:'), 'no mapping'), (('lr: 0.01', 'lr: "a\\0b"'), 'passed'),
    (('[margin]', '[]'), 'at least one'), (('lr: 0.01', 'lr: 2020-13-45'), 'x.yaml')])
def test_a_mistake_in_the_file_is_one_sentence_that_names_it(place, change, part):
    (place / 'x.yaml').write_text(FILE.replace(*change))
    with pytest.raises(experiments.ExperimentsError) as error:
        experiments.load_experiments('x.yaml')
    assert part in str(error.value) and 'x.yaml' in str(error.value) and '\n' not in str(error.value)


_TREE = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.dates(),
                     lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                         st.sampled_from(['experiments', 'tiny', 'runs', 'seed', 'flags', 'algorithms', 'sweep', 'lr',
                                          'margin', '?', 'title']) | st.integers() | st.none(), inner, max_size=5),
                     max_leaves=15)


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode),
                 _TREE.map(lambda v: yaml.dump(v).encode()),
                 _TREE.map(lambda v: yaml.dump({'experiments': {'tiny': v}}).encode()),
                 st.tuples(st.integers(0, len(FILE)), st.integers(0, 30), st.text(max_size=8)).map(
                     lambda t: (FILE[:t[0]] + t[2] + FILE[t[0] + t[1]:]).encode())))
def test_any_file_of_experiments_is_read_or_refused_in_one_sentence(content):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'x.yaml')
        with open(path, 'wb') as file:
            file.write(content)
        try:
            specs = experiments.load_experiments(path)
            for spec in specs.values():
                for job in experiments.expand(spec, runs=1):
                    assert all(isinstance(word, str) for word in job.command())
        except experiments.ExperimentsError as error:
            assert '\n' not in str(error)


# A cluster ------------------------------------------------------------------------------------------------------------

needs_dask = pytest.mark.skipif(importlib.util.find_spec('distributed') is None,
                                reason='dask and distributed are not installed (requirements-cluster.txt)')


@contextlib.contextmanager
def _cluster(workers):
    """A scheduler and workers of one run each, over TCP; gives the address and the workers."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    environment = dict(os.environ, PYTHONPATH=ROOT)
    address = f'tcp://127.0.0.1:{port}'
    base = [sys.executable, '-m', 'distributed.cli.dask_scheduler', '--host', '127.0.0.1', '--port', str(port),
            '--no-dashboard', '--no-show']
    worker = [sys.executable, '-m', 'distributed.cli.dask_worker', address, '--nthreads', '1', '--no-nanny',
              '--no-dashboard', '--host', '127.0.0.1']
    processes = []
    with open('cluster.out', 'w') as output:
        try:
            for command in [base] + [worker] * workers:
                processes.append(subprocess.Popen(command, env=environment, stdout=output, stderr=output))
            if workers:
                from distributed import Client
                with Client(address, timeout=60) as client:
                    client.wait_for_workers(workers, timeout=60)
            yield address, processes[1:]
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _children(pid):
    with open(f'/proc/{pid}/task/{pid}/children') as file:
        found = [int(word) for word in file.read().split()]
    for task in os.listdir(f'/proc/{pid}/task'):
        with open(f'/proc/{pid}/task/{task}/children') as file:
            found += [int(word) for word in file.read().split()]
    return sorted(set(found))


@needs_dask
@pytest.mark.parametrize('whole_machine', [False, True])
def test_a_worker_killed_midway_loses_nothing_and_nothing_runs_twice(place, monkeypatch, whole_machine):
    """Only the worker dies, and its training process lives on; or the machine dies, both at once."""
    monkeypatch.setenv('STAND_IN_SECONDS', '0.4')
    monkeypatch.setenv('PYTHONPATH', ROOT)
    with _cluster(2) as (address, workers):
        process = subprocess.Popen(
            [sys.executable, '-m', 'results.reproduce', 'tiny', '--file', 'x.yaml', '--backend', 'dask', '--address',
             address], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            _until(lambda: len(_journal()) >= 3 and _children(workers[0].pid))
            victims = _children(workers[0].pid)
            workers[0].kill()
            if whole_machine:
                for victim in victims:
                    os.kill(victim, signal.SIGKILL)
            out, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == 0, out
    assert '6 runs done, 0 failed' in out
    jobs = experiments.expand(experiments.load_experiments('x.yaml')['tiny'])
    for job in jobs:
        [experiment] = read_log(job.log)                    # one experiment: gone on with, not begun again
        assert experiment.runs[1].finished and [e.number for e in experiment.runs[1].epochs] == [1, 2, 3]
    # an epoch that was under way when the machine died is done again, none that was saved
    assert _epochs() == ALL
    spans = {}
    for log, _, pid, start, end, _ in _journal():
        spans.setdefault(log, []).append((start, end, pid))
    for own in spans.values():
        own.sort()
        assert all(a[1] <= b[0] for a, b in zip(own, own[1:])), 'two processes trained the same run'
        assert len({pid for *_, pid in own}) <= 1 + whole_machine


@needs_dask
def test_a_single_worker_does_the_work_and_not_the_process_that_asks(place):
    # joblib runs everything in its own process when it counts one worker
    with _cluster(1) as (address, [worker]):
        process = subprocess.Popen(
            [sys.executable, '-m', 'results.reproduce', 'tiny', '--file', 'x.yaml', '--only', 'margin', '--backend',
             'dask', '--address', address], env=dict(os.environ, STAND_IN_SECONDS='0.3', PYTHONPATH=ROOT),
            stdout=subprocess.PIPE, text=True)
        _until(lambda: len(_journal()) >= 1)
        assert _journal()[0][2] in _children(worker.pid)
        assert process.communicate(timeout=60) and process.returncode == 0
    assert _epochs() == [e for e in ALL if e[0].startswith('margin')]


@needs_dask
def test_a_cluster_that_is_not_there_is_one_sentence(place):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    run = subprocess.run([sys.executable, '-c', 'import sys; from results import reproduce; import distributed; '
                          'from unittest import mock; real = distributed.Client\n'
                          'with mock.patch("distributed.Client", lambda a, timeout: real(a, timeout=2)):\n'
                          f'    sys.exit(reproduce.main(["tiny", "--file", "x.yaml", "--backend", "dask", "--address", '
                          f'"tcp://127.0.0.1:{port}"]))'], env=dict(os.environ, PYTHONPATH=ROOT), capture_output=True,
                         text=True, timeout=120)
    assert run.returncode == 2 and 'no Dask scheduler answers' in run.stderr and 'Traceback' not in run.stderr


@pytest.mark.skipif(importlib.util.find_spec('distributed') is not None, reason='dask is installed')
def test_without_the_engine_the_command_says_what_to_install(place):
    status, _, err = _run('tiny', '--backend', 'dask', '--address', 'tcp://127.0.0.1:1')
    assert status == 2 and 'requirements-cluster.txt' in err


@pytest.mark.skipif(importlib.util.find_spec('ray') is None, reason='ray is not installed (requirements-cluster.txt)')
def test_ray_runs_all_each_once(place, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', ROOT)
    run = subprocess.run([sys.executable, '-m', 'results.reproduce', 'tiny', '--file', 'x.yaml', '--backend', 'ray'],
                         capture_output=True, text=True, timeout=300)
    assert run.returncode == 0 and '6 runs done, 0 failed' in run.stdout, run.stdout + run.stderr
    assert _epochs() == ALL


def test_home_and_variables_are_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('WEIGHTS', 'w')
    (tmp_path / 'e.yaml').write_text('experiments: {mine: {flags: {dataset: GLYPHS, pretrained: ~/$WEIGHTS/x.params}, '
                                     'algorithms: {margin: {}}}}')
    spec = experiments.load_experiments(str(tmp_path / 'e.yaml'))['mine']
    assert spec.flags['pretrained'] == str(tmp_path / 'w' / 'x.params')
    opt = reproduce.parser().parse_args(['mine', '--data-path', '~/d', '--results-dir', '$WEIGHTS/r', '--file', '~/e'])
    assert (opt.data_path, opt.results_dir, opt.file) == (str(tmp_path / 'd'), 'w/r', str(tmp_path / 'e'))


# Tuned settings of another experiment ---------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def tuned_glyphs(tmp_path_factory):
    """A record of `glyphs` that found the largest batches, and ``--batch-k`` 8, wherever a script searches them."""
    folder = tmp_path_factory.mktemp('found')
    rows = {}
    for row in ALGORITHMS:
        found = {name: space[-1] for name, space in row.search.items()}
        rows[row.key] = Row('', {}, trials=[Trial(0, {**found, 'lr': 0.0042}, 'finished', 50.0)])
    save_record(record_path(str(folder), 'glyphs'), Record('glyphs', 123, ['1/4'], rows=rows))
    return folder


@pytest.mark.parametrize('name, flag', [('glyphs-embedding-size', 'embed_dim'), ('glyphs-batch-size', 'batch_size')])
def test_a_sweep_takes_the_settings_of_another_search(tuned_glyphs, name, flag):
    import importlib
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert reproduce.main([name, '--settings', 'tuned', '--results-dir', str(tuned_glyphs), '--dry-run']) == 0
    spec, sizes = experiments.load_experiments()[name], {}
    for line in out.getvalue().strip().split('\n'):
        words = shlex.split(line)
        opt = importlib.import_module(words[1][:-3]).parse_args(words[2:])
        assert opt.lr == 0.0042 and words.count('--lr') == 1 and words.count(f'--{flag.replace("_", "-")}') == 1
        folder, log = os.path.split(opt.logfile)
        key = log.split('_')[0]
        assert os.path.basename(folder) == f'{name}-tuned'
        sizes.setdefault(key, []).append(getattr(opt, flag))
        if key == 'margin':
            assert opt.batch_k == (2 if flag == 'batch_size' else 5)
        images = opt.nc * (opt.ns + opt.nq) if key == 'prototype' else opt.batch_size
        row = algorithm(key)
        if row.batches_per_epoch:                               # elsewhere an epoch is one pass
            assert 2500 - images < opt.batches_per_epoch * images <= 2500
        each = getattr(opt, 'batch_k', 0) or 1
        assert opt.batch_size // each >= 2 and (key == 'prototype' or opt.batch_size % each == 0), words
    values = [int(value) for value in spec.sweep[flag.replace('_', '-')]]
    assert sizes == dict.fromkeys(spec.algorithms, values)


def test_what_an_algorithm_is_given_wins_over_the_search_of_another(place, tuned_glyphs):
    (place / 'x.yaml').write_text('experiments: {glyphs: {flags: {dataset: GLYPHS}, algorithms: {triplet: '
                                  '{batch-k: 4}}}, a: {flags: {dataset: GLYPHS, lr: 1}, tuned: glyphs, '
                                  'algorithms: {triplet: {batch-k: 2}}}}')
    flags = {}
    for name in ('glyphs', 'a'):
        status, out, _ = _run(name, '--settings', 'tuned', '--results-dir', str(tuned_glyphs), '--dry-run')
        assert status == 0
        words = shlex.split(out)
        flags[name] = {flag: words[words.index(flag) + 1] for flag in ('--batch-k', '--lr')}
    assert flags == {'glyphs': {'--batch-k': '8', '--lr': '0.0042'}, 'a': {'--batch-k': '2', '--lr': '0.0042'}}
