"""Flags of all scripts that change how a network is trained: each does what it says, and survives a stop."""
import importlib
import json
import pathlib

import mxnet as mx
import numpy as np
import pytest

from common import training
from common.training.learner import Learner
from tests.tiny import flags, make_tree


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    return make_tree(str(tmp_path_factory.mktemp('tiny') / 'tree'))


def train(name, tree, folder, *more):
    script = importlib.import_module(f'train_{name}')
    first = script.ALGORITHM['smoke'][0].split()
    opt = script.parse_args(flags(tree, str(folder), *first, '--no-nmi', '--skip-pretrain-validation', *more))
    return training.run(opt, script.build)


def models(folder):
    return {path.name: {n: a.asnumpy() for n, a in mx.nd.load(str(path)).items()}
            for path in pathlib.Path(folder).rglob('*.params')}


def epochs(folder):
    log, = pathlib.Path(folder).rglob('*.jsonl')
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [r for r in records if r['event'] == 'epoch' and r['epoch']]


def moved(folder, monkeypatch, name, tree, *more):
    """Names of the parameters that training changed, of the last network."""
    starts = []
    start_epoch = Learner.start_epoch

    def noted(self, epoch, seed):
        if epoch == 1:
            starts.append({n: p.list_data()[0].asnumpy() for n, p in self.net._collect_params_with_prefix().items()})
        return start_epoch(self, epoch, seed)

    monkeypatch.setattr(Learner, 'start_epoch', noted)
    train(name, tree, folder, *more)
    last = [m for n, m in sorted(models(folder).items()) if 'best' not in n][-1]
    return {n for n in last if not np.array_equal(last[n], starts[-1][n])}


@pytest.mark.parametrize('name', ['npairs', 'dreml', 'normproxy', 'discriminative'])
def test_freeze_backbone(name, tree, tmp_path, monkeypatch):
    found = moved(tmp_path, monkeypatch, name, tree, '--freeze-backbone')
    assert found and all(n.startswith('head.') for n in found)


@pytest.mark.parametrize('name', ['npairs', 'dreml', 'normproxy'])
def test_freeze_backbone_for_some_epochs(name, tree, tmp_path, monkeypatch):
    found = moved(tmp_path, monkeypatch, name, tree, '--freeze-backbone', '2')
    assert any(n.startswith('backbone.') and n.endswith('weight') for n in found)
    assert any(n.endswith('running_mean') for n in found)


@pytest.mark.parametrize('name', ['npairs', 'dreml', 'proxy'])
def test_freeze_bn(name, tree, tmp_path, monkeypatch):
    found = moved(tmp_path, monkeypatch, name, tree, '--freeze-bn')
    assert any(n.startswith('backbone.') and n.endswith('weight') for n in found)
    assert not [n for n in found if n.endswith(('running_mean', 'running_var', 'gamma', 'beta'))]


def test_backbone_lr_factor_is_its_share_of_a_step(tree, tmp_path):
    """SGD, one step: the backbone's is a quarter as long, the head's is the same."""
    steps = []
    for folder, factor in (('whole', '1'), ('part', '0.25')):
        starts = []
        script = importlib.import_module('train_npairs')
        opt = script.parse_args(flags(tree, str(tmp_path / folder), '--optimizer', 'sgd', '--lr', '0.01', '--wd', '0',
                                      '--batches-per-epoch', '1', '--epochs', '1', '--no-nmi', '--backbone-lr-factor',
                                      factor))

        def build(*args, script=script, starts=starts):
            experiment = script.build(*args)
            experiment.net.initialize(mx.init.Constant(0.01))
            starts.append({n: p.data().asnumpy() for n, p in experiment.net._collect_params_with_prefix().items()})
            return experiment

        training.run(opt, build)
        last = next(m for n, m in models(tmp_path / folder).items() if 'last' in n)
        steps.append({n: last[n] - starts[0][n] for n in last})
    for n in ('head.weight', 'backbone.features.0.weight'):
        assert np.abs(steps[0][n]).max() > 1e-5
        np.testing.assert_allclose(steps[1][n], steps[0][n] * (0.25 if n.startswith('backbone') else 1), rtol=2e-2,
                                   atol=1e-7)


KNOBS = ['--freeze-bn', '--freeze-backbone', '--freeze-backbone 1', '--freeze-backbone 2', '--momentum-bn 0.5',
         '--backbone-lr-factor 0.1', '--init-scale 1']


def stop_after(epoch, monkeypatch):
    """A KeyboardInterrupt in the first step of the epoch after the `epoch`-th, counted over members."""
    step, start_epoch, started = Learner.step, Learner.start_epoch, []

    def noted(self, *args):
        started.append(0)
        return start_epoch(self, *args)

    def step_or_stop(*batch):
        if len(started) > epoch:
            raise KeyboardInterrupt
        return step(*batch)

    monkeypatch.setattr(Learner, 'start_epoch', noted)
    monkeypatch.setattr(Learner, 'step', step_or_stop)


@pytest.mark.parametrize('name, after', [('npairs', 1), ('npairs', 2), ('dreml', 4)])
@pytest.mark.parametrize('knob', KNOBS)
def test_stopped_and_resumed_ends_with_the_same_bits(name, after, knob, tree, tmp_path, monkeypatch):
    train(name, tree, tmp_path / 'whole', *knob.split())
    with monkeypatch.context() as patch:
        stop_after(after, patch)
        with pytest.raises(KeyboardInterrupt):
            train(name, tree, tmp_path / 'stopped', *knob.split())
    train(name, tree, tmp_path / 'stopped', *knob.split(), '--load-checkpoint')
    whole, resumed = models(tmp_path / 'whole'), models(tmp_path / 'stopped')
    assert whole.keys() == resumed.keys() and whole
    for file in whole:
        for n in whole[file]:
            np.testing.assert_array_equal(whole[file][n], resumed[file][n], f'{file} {n}')
    for a, b in zip(epochs(tmp_path / 'whole'), epochs(tmp_path / 'stopped')):
        for key in ('epoch', 'loss', 'lr', 'recall@1'):
            assert a.get(key) == b.get(key)
