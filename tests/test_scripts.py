"""What holds for every script that stands here: --help, real files through the loop, several devices, resumption.

Scripts are found by their names, and say themselves, in ALGORITHM, with which flags a run of seconds is possible.
"""
import argparse
import importlib
import json
import pathlib
import re
import sys

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from common import training
from common.args import TrainingParser
from common.training.learner import Learner
from tests.tiny import SCRIPTS, flags, make_tree


def smoke(name):
    """The flags of a smoke run, and of each variant of it: lists of words."""
    first, *others = (line.split() for line in module(name).ALGORITHM['smoke'])
    return first, others


def module(name):
    return importlib.import_module(f'train_{name}')


VARIANTS = [(name, more) for name in SCRIPTS for more in smoke(name)[1]]


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    return make_tree(str(tmp_path_factory.mktemp('tiny') / 'tree'))


def named(value):
    return value if isinstance(value, str) else ' '.join(value)


def parse(name, tree, results, *more):
    return module(name).parse_args(flags(tree, results, *smoke(name)[0], *more))


def train(name, opt):
    return getattr(module(name), f'train_{name}')(opt)


@pytest.mark.parametrize('name', SCRIPTS)
def test_help_explains_every_flag_and_how_to_start(name, capsys, monkeypatch):
    parsers = []
    monkeypatch.setattr(TrainingParser, 'exit', lambda self, *_: parsers.append(self) or sys.exit())
    with pytest.raises(SystemExit):
        module(name).parse_args(['--help'])
    text = re.sub(r'\s+', ' ', capsys.readouterr().out)
    assert f'python train_{name}.py --dataset CUB' in text and re.search('arXiv:|NIPS 2016', text)
    for action in parsers[0]._actions:
        assert action.help, action.option_strings
        if action.default not in (None, False, '', 'auto', argparse.SUPPRESS):
            assert f'(default: {action.default}' in text, action.option_strings
        if action.nargs is None and action.choices is None and action.option_strings:
            assert action.metavar, f'{action.option_strings}: say what its value is'


@pytest.mark.parametrize('name', SCRIPTS)
def test_script_trains_evaluates_and_saves(name, tree, tmp_path):
    opt = parse(name, tree, tmp_path)
    result = train(name, opt)
    last = result['runs'][0]['last']
    assert 0 <= last['recall@1'] <= 100 and np.isfinite(last['nmi'])
    log, = tmp_path.rglob('*.jsonl')
    records = map(json.loads, pathlib.Path(log).read_text().splitlines())
    losses = [r['loss'] for r in records if r['event'] == 'epoch' and 'loss' in r]
    assert len(losses) == opt.epochs * getattr(opt, 'ensemble_size', 1) and None not in losses
    assert list(tmp_path.rglob('*.params'))


@pytest.mark.parametrize('name, more', VARIANTS, ids=named)
def test_every_variant_trains(name, more, tree, tmp_path):
    opt = parse(name, tree, tmp_path, '--epochs', '1', '--skip-pretrain-validation', *more)
    assert train(name, opt)['runs'][0]['last']['recall@1'] >= 0


def gradients(name, opt, ctx, odd=False):
    """Loss and gradients of the first batch of the script's sampler; of an odd number of images where that may be."""
    mx.random.seed(0)
    data = training.load_data(opt)
    experiment = module(name).build(opt, data, ctx)
    if isinstance(experiment, training.Ensemble):
        experiment = experiment.member(0)
    indices = next(iter(experiment.sampler))
    if odd and type(experiment.sampler).__name__ in ('ShuffledBatches', 'BalancedBatches'):
        indices = indices[:-1]
    labels = data.train.labels[indices]
    images = np.random.RandomState(0).randint(0, 256, (len(indices), 16, 16, 3)).astype(np.uint8)
    for block in experiment.net.backbone.features:
        if isinstance(block, gluon.nn.BatchNorm):
            block._kwargs['use_global_stats'] = True  # else it normalises within a device
    learner = Learner(experiment, opt, ctx)
    for _ in range(3):  # the first pass of a hybridized block allocates, the later ones reuse
        learner.start_epoch(1, 0)
        with mx.autograd.record():
            value = learner.loss(learner.forward(images), mx.nd.array(labels))
        value.backward()
    grads = {f'{kind}.{n}': sum(g.asnumpy() for g in p.list_grad())
             for kind, block in (('net', learner.net), ('loss', learner.loss))
             for n, p in block._collect_params_with_prefix().items() if p.grad_req != 'null'}
    return value.asscalar(), grads


def without_dropout(name, more):
    """Eager and hybrid networks, and several devices, draw different masks."""
    flags_of_it = module(name).parse_args(['--dataset', 'GLYPHS'])
    if hasattr(flags_of_it, 'no_dropout'):
        return [*more, *([] if '--no-dropout' in [*smoke(name)[0], *more] else ['--no-dropout'])]
    return [*more, '--dropout', '0'] if hasattr(flags_of_it, 'dropout') else more


@pytest.mark.parametrize('name, more', [(name, []) for name in SCRIPTS] + VARIANTS, ids=named)
def test_hybridized_gradients_are_the_eager_ones(name, more, tree, tmp_path):
    """MXNet's static allocation can give wrong gradients, silently, where a graph has inputs without a gradient."""
    more = without_dropout(name, more)
    eager_value, eager = gradients(name, parse(name, tree, tmp_path, *more, '--disable-hybridize'), [mx.cpu()])
    value, hybrid = gradients(name, parse(name, tree, tmp_path, *more), [mx.cpu()])
    assert value == pytest.approx(eager_value, abs=1e-5, rel=1e-5)
    for key in eager:
        np.testing.assert_allclose(hybrid[key], eager[key], atol=1e-5 * max(1, np.abs(eager[key]).max()), err_msg=key)


@pytest.mark.parametrize('name', SCRIPTS)
@pytest.mark.parametrize('devices', [2, 3])
def test_several_devices_give_the_gradients_of_one(name, devices, tree, tmp_path):
    """Also where the batch cannot be split evenly, and for the loss's own parameters."""
    opt = parse(name, tree, tmp_path, *without_dropout(name, []))
    value, one = gradients(name, opt, [mx.cpu(0)], odd=True)
    again, several = gradients(name, opt, [mx.cpu(i) for i in range(devices)], odd=True)
    assert value == pytest.approx(again, abs=1e-5, rel=1e-5)
    assert any(np.abs(g).max() > 1e-6 for g in one.values())
    for key in one:
        np.testing.assert_allclose(one[key], several[key], atol=1e-5 * max(1, np.abs(one[key]).max()), err_msg=key)


@pytest.mark.parametrize('name', SCRIPTS)
def test_interrupted_and_resumed_ends_with_the_same_bits(name, tree, tmp_path, monkeypatch):
    """Ctrl-C in the last but one epoch, or in the last member of an ensemble."""
    train(name, parse(name, tree, tmp_path / 'whole'))
    step, steps = Learner.step, []
    monkeypatch.setattr(Learner, 'step', lambda *batch: steps.append(0) or step(*batch))
    train(name, parse(name, tree, tmp_path / 'counted'))
    stop = len(steps) * 2 // 3

    def step_or_stop(*batch):
        steps.pop()
        if len(steps) == len(steps_of_all) - stop:
            raise KeyboardInterrupt
        return step(*batch)

    steps_of_all = list(steps)
    monkeypatch.setattr(Learner, 'step', step_or_stop)
    with pytest.raises(KeyboardInterrupt, match='--load-checkpoint'):
        train(name, parse(name, tree, tmp_path / 'stopped'))
    monkeypatch.setattr(Learner, 'step', step)
    train(name, parse(name, tree, tmp_path / 'stopped', '--load-checkpoint'))
    whole = {path.name: mx.nd.load(str(path)) for path in (tmp_path / 'whole').rglob('*.params')}
    resumed = {path.name: mx.nd.load(str(path)) for path in (tmp_path / 'stopped').rglob('*.params')}
    assert whole.keys() == resumed.keys() and whole
    for file in whole:
        for key in whole[file]:
            np.testing.assert_array_equal(whole[file][key].asnumpy(), resumed[file][key].asnumpy(), f'{file} {key}')
