"""Training with several processes: all workers take the same steps, and if one dies, nothing is left running."""
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import uuid

import mxnet as mx
import numpy as np
import pytest

import train_margin
import train_triplet_semihard
from common.distributed import launch
from common import training
from common.training.checkpoint import load
from common.distributed.cluster import Alone, WorkersPart
from common.errors import UsageError
from common.files import read_npz
from common.training.learner import Learner
from dataset.samplers import BalancedBatches, EpisodeBatches, PairBatches, ShuffledBatches
from tests.tiny import flags, make_tree

MARGIN = ['train_margin.py', '--batch-k', '2', '--lr', '0.003', '--batches-per-epoch', '6']

#: A training script that writes down, for every worker, what it saw and where its parameters ended.
PROBE = '''
import os
import numpy as np
import mxnet as mx
import train_triplet_semihard as script
from common import training
from common.args import main
from common.training import checkpoint, loop
from common.distributed.cluster import get_cluster

def train(opt):
    seen, learners = [], []

    class Spy(loop.Learner):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            learners.append(self)

        def step(self, images, labels):
            seen.append((images.copy(), labels.copy()))
            return super().step(images, labels)

    def build(opt, data, ctx):
        mx.random.seed(1 + get_cluster(opt.kvstore).rank)  # workers would start from different parameters
        return script.build(opt, data, ctx)

    loop.Learner = Spy
    training.run(opt, build)
    cluster, learner = get_cluster(opt.kvstore), learners[0]
    streams = [np.random.RandomState(rank) for rank in range(cluster.size)]
    wrong = 0
    for size in [1, 7, 1000] * 20 + [1200007] * 2:  # the last is so large that it is divided between servers
        parts = [stream.standard_normal(size).astype(np.float32) for stream in streams]
        wrong += not np.array_equal(cluster._sum(mx.nd.array(parts[cluster.rank])).asnumpy(), sum(parts[1:], parts[0]))
    np.savez(os.environ['PROBE'] + f'-{cluster.rank}.npz', wrong=wrong, images=np.array([s[0] for s in seen]),
             labels=np.array([s[1] for s in seen]),
             **{f'net:{k}': v for k, v in checkpoint.block_arrays(learner.net).items()})

main(script.parse_args, train)
'''


@pytest.fixture(autouse=True)
def nothing_is_left():
    """Also if a test fails before it waits for the processes that it started."""
    yield
    while Job.started:
        job = Job.started.pop()
        job.kill()
        job.process.communicate()


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    return make_tree(str(tmp_path_factory.mktemp('tiny') / 'tree'))


class Job:
    """A launcher whose processes can be told from all others: they inherit a mark in their environment."""

    started = []

    def __init__(self, script, tree, results, *more, launcher=('--workers', '2'), environment=None):
        self.mark = uuid.uuid4().hex
        given = flags(tree, results, *more) if tree else ['--results-dir', str(results)]
        words = [sys.executable, '-m', 'common.launch', *launcher, '--', *script, *given]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env={**os.environ, 'JOB': self.mark, 'PORT': '1', 'OMP_NUM_THREADS': '1',
                                             **(environment or {})})
        self.started.append(self)

    def running(self):
        """Process id -> environment, of all but the launcher."""
        found = {}
        for pid in filter(str.isdigit, os.listdir('/proc')):
            try:
                with open(f'/proc/{pid}/environ', 'rb') as file:
                    variables = dict(v.split('=', 1) for v in file.read().decode().split('\0') if '=' in v)
            except OSError:
                continue
            if variables.get('JOB') == self.mark and int(pid) != self.process.pid:
                found[int(pid)] = variables
        return found

    def member(self, role, number=0):
        return next(pid for pid, v in self.running().items()
                    if v.get('DMLC_ROLE') == role and v.get('DML_WORKER') == str(number))

    def end(self, seconds=60):
        """Exit status and what was said; fails if that takes long, or if a process is left."""
        try:
            output, errors = self.process.communicate(timeout=seconds)
        finally:
            left = self.kill()
        assert not left, left
        return self.process.returncode, output, errors

    def kill(self):
        """Ends the launcher; returns the processes that it left, which are ended too."""
        self.process.kill()
        left = {} if self.gone() else self.running()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return left

    def gone(self, seconds=5):
        until = time.monotonic() + seconds
        while self.running() and time.monotonic() < until:
            time.sleep(0.05)
        return not self.running()

    def wait_for_epoch(self, results, epoch):
        log = os.path.join(str(results), 'logs', 'train_margin_miniCUB_convnet.jsonl')
        until = time.monotonic() + 60
        while time.monotonic() < until and self.process.poll() is None:
            if os.path.exists(log) and any(e.get('epoch') == epoch for e in events(log)):
                return
            time.sleep(0.02)
        raise AssertionError(self.process.communicate())


def events(path):
    lines = pathlib.Path(path).read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith('\n')]


def epochs(results):
    log, = (os.path.join(str(results), 'logs', name) for name in os.listdir(os.path.join(str(results), 'logs')))
    return [{k: v for k, v in e.items() if k not in ('id', 'time', 'seconds', 'images_per_second',
                                                  'evaluation_seconds')}
            for e in events(log) if e['event'] == 'epoch']


def files(folder):
    return sorted(os.path.relpath(os.path.join(where, name), str(folder))
                  for where, _, names in os.walk(str(folder)) for name in names)


def test_workers_take_the_step_of_the_mean_gradient(tree, tmp_path):
    """Against a single process that computes each worker's gradient in turn, and NumPy's mean of them."""
    script = tmp_path / 'train_probe.py'
    script.write_text(PROBE)
    sgd = ['--optimizer', 'sgd', '--lr', '0.05', '--wd', '0', '--batch-k', '2', '--batches-per-epoch', '8']
    job = Job([str(script)], tree, tmp_path / 'r', *sgd, launcher=('--workers', '2', '--servers', '2'),
              environment={'PROBE': str(tmp_path / 'probe'), 'PYTHONPATH': os.getcwd()})
    status, _, errors = job.end()
    assert status == 0, errors
    first, second = (read_npz(tmp_path / f'probe-{rank}.npz') for rank in (0, 1))
    assert first['wrong'] == second['wrong'] == 0
    names = [name for name in first if name.startswith('net:')]
    assert len(names) > 10
    for name in names:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert len(first['images']) == 3 * 4 and not np.array_equal(first['images'], second['images'])

    mx.random.seed(1)
    opt = train_triplet_semihard.parse_args(flags(tree, tmp_path, *sgd))
    learner = Learner(train_triplet_semihard.build(opt, training.load_data(opt), [mx.cpu()]), opt, [mx.cpu()])
    params = {n: p for n, p in learner.net._collect_params_with_prefix().items() if p.grad_req != 'null'}
    for step in range(len(first['images'])):
        gradients = []
        for worker in (first, second):
            with mx.autograd.record():
                loss = learner.loss(learner.forward(worker['images'][step]), mx.nd.array(worker['labels'][step]))
            loss.backward()
            gradients.append({n: p.grad().asnumpy() for n, p in params.items()})
        for name, param in params.items():
            mean = (gradients[0][name] + gradients[1][name]) / 2
            param.set_data(mx.nd.array(param.data().asnumpy() - np.float32(0.05) * mean))
    moved = 0
    for name, param in params.items():
        np.testing.assert_allclose(param.data().asnumpy(), first[f'net:{name}'], atol=1e-5, err_msg=name)
        moved += np.abs(param.data().asnumpy()).sum()
    assert moved > 1


def test_a_killed_worker_ends_the_job_and_it_goes_on_from_the_checkpoint(tree, tmp_path):
    status, _, errors = Job(MARGIN, tree, tmp_path / 'whole').end()
    assert status == 0, errors
    job = Job(MARGIN, tree, tmp_path / 'killed')
    job.wait_for_epoch(tmp_path / 'killed', 1)
    os.kill(job.member('worker', 1), signal.SIGKILL)
    start = time.monotonic()
    status, _, errors = job.end()
    assert time.monotonic() - start < 60
    assert (status, errors) == (1, 'common.launch: worker 1 was killed by SIGKILL\n')
    status, _, errors = Job(MARGIN, tree, tmp_path / 'killed', '--load-checkpoint').end()
    assert status == 0, errors
    assert epochs(tmp_path / 'killed') == epochs(tmp_path / 'whole')
    assert files(tmp_path / 'killed') == files(tmp_path / 'whole') and len(files(tmp_path / 'whole')) == 6
    name = os.path.join('models', 'train_margin_miniCUB_convnet.ckpt.npz')
    (meta, whole), (_, killed) = (load(str(tmp_path / where / name)) for where in ('whole', 'killed'))
    assert meta['runs'][0]['images_seen'] == 3 * 6 * 8
    assert whole.keys() == killed.keys()
    for array in whole:
        np.testing.assert_array_equal(whole[array], killed[array], err_msg=array)


@pytest.mark.slow
def test_two_workers_reach_the_recall_of_one_process(tmp_path):
    """The same number of images and of steps; the loss sees half as many of them at once."""
    shared = ['--dataset', 'GLYPHS', '--model', 'convnet', '--image-size', '16', '--resize', '18', '--gpus', '-2',
              '--num-workers', '0', '--lr', '0.003', '--epochs', '2', '--eval-every', '2', '--no-nmi']
    environment = {'DML_CACHE': str(tmp_path / 'cache')}
    words = [sys.executable, 'train_margin.py', *shared, '--batch-size', '100', '--batches-per-epoch', '40',
             '--number-of-runs', '3', '--results-dir', str(tmp_path / 'one')]
    done = subprocess.run(words, capture_output=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    words = ['train_margin.py', *shared, '--batch-size', '50', '--batches-per-epoch', '80']
    status, _, errors = Job(words, None, tmp_path / 'two', environment=environment).end(300)
    assert status == 0, errors
    untrained, alone = ([e['recall@1'] for e in epochs(tmp_path / 'one') if e['epoch'] == n] for n in (0, 2))
    together, = (e['recall@1'] for e in epochs(tmp_path / 'two') if e['epoch'] == 2)
    assert together > 2 * max(untrained)
    # Another draw from three: Student's t with two degrees of freedom, 95 %.
    assert abs(together - np.mean(alone)) < 4.303 * np.std(alone, ddof=1) * np.sqrt(4 / 3), (together, alone)


@pytest.mark.parametrize('sent, status, said', [
    (signal.SIGINT, 130, 'the same command with --load-checkpoint goes on'),
    (signal.SIGTERM, 143, 'the same command with --load-checkpoint goes on'),
    (signal.SIGKILL, -9, ''),
])
def test_whatever_ends_the_launcher_ends_all(tree, tmp_path, sent, status, said):
    job = Job(MARGIN, tree, tmp_path, '--epochs', '2000', '--eval-every', '2000')
    job.wait_for_epoch(tmp_path, 2)
    assert len(job.running()) == 4
    job.process.send_signal(sent)
    ended, _, errors = job.end()
    assert ended == status and said in errors and errors.count('\n') == bool(said), errors


@pytest.mark.parametrize('role', ['server', pytest.param('scheduler', marks=pytest.mark.slow)])
def test_a_dead_server_is_named(tree, tmp_path, role):
    job = Job(MARGIN, tree, tmp_path, '--epochs', '2000', '--eval-every', '2000')
    job.wait_for_epoch(tmp_path, 1)
    os.kill(job.member(role), signal.SIGKILL)
    status, _, errors = job.end()
    assert status == 1 and errors.count('\n') == 1 and role in errors and 'SIGKILL' in errors, errors


def test_bad_data_of_one_worker_ends_the_job_with_one_sentence(tree, tmp_path):
    """Both workers read the same files; this one is met by the other worker first, or by both at once."""
    broken = make_tree(str(tmp_path / 'tree'))
    with open(os.path.join(broken, '001.class', '3.png'), 'w') as file:
        file.write('no picture')
    status, _, errors = Job(MARGIN, broken, tmp_path / 'r').end()
    assert status == 1 and errors.count('\n') == 1 and '3.png' in errors, errors


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """A stand-in for ssh runs the line here, with an environment of its own, as a login shell would.

    Returns the file in which it writes down the hosts.
    """
    fake, seen = tmp_path / 'bin' / 'ssh', tmp_path / 'seen'
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nwhile [ "${1#-}" != "$1" ]; do shift 2; done\necho "$1" >> "$HOSTS_SEEN"\nshift\n'
                    'exec env -i JOB="$JOB" HOME="$HOME" PATH=/usr/bin:/bin PORT=1 sh -c "$*"\n')
    fake.chmod(0o755)
    monkeypatch.setenv('PATH', f'{fake.parent}:{os.environ["PATH"]}')
    monkeypatch.setenv('HOSTS_SEEN', str(seen))
    return seen


def test_over_ssh_an_ensemble_is_trained(tree, tmp_path, ssh):
    hosts = tmp_path / 'hosts.txt'
    hosts.write_text('127.0.0.1   # this machine\n\nsomebody@localhost\n')
    job = Job(['train_dreml.py', '-L', '2', '-D', '4'], tree, tmp_path / 'r', '--embed-dim', '8', '--epochs', '1',
              launcher=('--workers', '2', '--hosts', str(hosts)))
    status, _, errors = job.end()
    assert status == 0, errors
    assert sorted(ssh.read_text().split()) == ['127.0.0.1'] * 3 + ['somebody@localhost']
    assert [(e['epoch'], e.get('member')) for e in epochs(tmp_path / 'r')] == [(0, 1), (1, 1), (2, 2)]


def test_processes_elsewhere_are_shown_that_the_launcher_lives(tree, tmp_path, ssh, monkeypatch):
    monkeypatch.setattr(launch, '_SECONDS_OF_SILENCE', 2)  # less than the job takes
    monkeypatch.setattr(launch, '_PULSE', 0.2)
    hosts = tmp_path / 'hosts.txt'
    hosts.write_text('127.0.0.1\n')
    given = flags(tree, tmp_path / 'r', '--epochs', '1')
    opt = launch.parse_args(['--workers', '1', '--hosts', str(hosts), '--', *MARGIN, *given])
    start = time.monotonic()
    assert launch.launch(opt) == (0, '')
    assert time.monotonic() - start > 2


def test_a_launcher_that_falls_silent_is_taken_for_dead(tmp_path):
    script = tmp_path / 'sleep.py'
    script.write_text('import time\ntime.sleep(60)\n')
    process = subprocess.Popen([sys.executable, launch._LEASH, str(script)], stdin=subprocess.PIPE, bufsize=0,
                               env={**os.environ, 'DML_SILENCE': '1'})
    with process:
        for _ in range(15):
            process.stdin.write(b'.')
            time.sleep(0.2)
        assert process.poll() is None
        assert process.wait(timeout=20) == 1  # with the pipe open


def test_a_machine_that_cannot_be_reached_is_named(tree, tmp_path, ssh):
    (tmp_path / 'bin' / 'ssh').write_text('#!/bin/sh\nexit 255\n')
    hosts = tmp_path / 'hosts.txt'
    hosts.write_text('somebody@localhost\n')
    status, _, errors = Job(MARGIN, tree, tmp_path, launcher=('--workers', '1', '--hosts', str(hosts))).end()
    assert status == 1 and errors.count('\n') == 1, errors
    assert 'somebody@localhost was killed, or cannot be reached' in errors


@pytest.mark.parametrize('words, named', [
    (['--', 'train_margin.py'], '--workers'),
    (['--workers', '0', '--', 'train_margin.py'], '--workers'),
    (['--workers', '2', '--servers', 'x', '--', 'train_margin.py'], '--servers'),
    (['--workers', '2'], 'the script to run is missing'),
    (['--workers', '2', '--'], 'the script to run is missing'),
    (['--workers', '2', 'train_margin.py'], 'train_margin.py'),
    (['--workers', '2', '--', 'train_nothing.py'], 'train_nothing.py'),
    (['--workers', '2', '--', 'README.md'], 'README.md'),
    (['--workers', '2', '--', 'train_margin.py', '--kvstore', 'local'], '--kvstore local'),
    (['--workers', '2', '--', 'train_margin.py', '--kvstore=device'], '--kvstore device'),
    (['--workers', '2', '--hosts', 'no-such-file', '--', 'train_margin.py'], 'no-such-file'),
    (['--workers', '2', '--hosts', '.', '--', 'train_margin.py'], '--hosts .'),
])
def test_a_bad_command_is_one_line(words, named, capsys):
    with pytest.raises(SystemExit) as end:
        launch.parse_args(words)
    text = capsys.readouterr().err
    assert end.value.code == 2 and named in text and text.count('\n') == 1


@pytest.mark.parametrize('content, named', [
    (b'', 'names no host'), (b'# nobody\n\n', 'names no host'), (b'ok\n-oProxyCommand=x\n', 'line 2'),
    (b'a b\n', 'line 1'), (b'host;reboot\n', 'line 1'), (b'\xff\xfe', 'not a text file'), (b'\0\n', 'line 1'),
    (b'no-such-host.invalid\n', 'no-such-host.invalid'), (b'127.0.0.1\n192.0.2.1\n', '127.0.0.1'),
])
def test_a_bad_hosts_file_is_one_line(content, named, tmp_path, capsys):
    path = tmp_path / 'hosts.txt'
    path.write_bytes(content)
    with pytest.raises(SystemExit) as end:
        launch.parse_args(['--workers', '2', '--hosts', str(path), '--', 'train_margin.py'])
    text = capsys.readouterr().err
    assert end.value.code == 2 and named in text and 'hosts.txt' in text and text.count('\n') == 1


def test_dist_sync_without_a_cluster_is_refused(tree, tmp_path, monkeypatch):
    opt = train_margin.parse_args(flags(tree, tmp_path, '--kvstore', 'dist_sync'))
    with pytest.raises(UsageError, match='common.launch.*DMLC_ROLE'):
        training.run(opt, train_margin.build)
    assert not os.listdir(tmp_path)


def test_workers_share_an_epoch_and_draw_their_own():
    labels = np.repeat(np.arange(8), 10)
    for sampler in (ShuffledBatches(labels, 8), BalancedBatches(labels, 8, 2, 10), PairBatches(labels, 8, 10),
                    EpisodeBatches(labels, 4, 1, 1, 10)):
        part = WorkersPart(sampler, 3)
        part.reseed(1)
        one = list(part)
        assert len(one) == len(part) == 3 and all(len(batch) == 8 for batch in one)
        part.reseed(2)
        assert list(part) != one
        part.reseed(1)
        assert list(part) == one
    assert len(WorkersPart(ShuffledBatches(labels, 80), 3)) == 1
    assert Alone().own_part(sampler) is sampler
