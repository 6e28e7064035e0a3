"""What holds for all twelve scripts: --help, real files through the loop, several devices, and that they learn."""
import argparse
import importlib
import json
import re
import sys

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from common import training
from common.args import TrainingParser
from common.training.learner import Learner
from tests.tiny import flags, make_tree

SCRIPTS = {
    'triplet_semihard': ['--batch-k', '2'],
    'liftedstruct': ['--batch-k', '2'],
    'npairs': ['--batches-per-epoch', '3'],
    'clusterloss': ['--batch-k', '2'],
    'margin': ['--batch-k', '2', '--batches-per-epoch', '3'],
    'prototype': ['--nc', '2', '--ns', '2', '--nq', '2', '--batches-per-epoch', '3'],
    'proxy': [],
    'angular': ['--batches-per-epoch', '3'],
    'normproxy': ['--no-dropout'],
    'dreml': ['-L', '2', '-D', '3', '--embed-dim', '6'],
    'rankedlistloss': ['--batch-k', '2', '--batches-per-epoch', '3'],
    'discriminative': ['--dropout', '0'],
}
VARIANTS = [
    ('triplet_semihard', ['--normalize']), ('npairs', ['--symmetric-loss', '--decrease-cnn-lr']),
    ('proxy', ['--loss', 'triplet']), ('proxy', ['--loss', 'xentropy', '--label-smooth', '0.1']),
    ('proxy', ['--loss', 'proxymargin']), ('proxy', ['--iteration-per-epoch', '2', '--batch-k', '2', '--lr', '1e-3']),
    ('angular', ['--angular-lambda', '1', '--symmetric-loss']), ('normproxy', ['--no-fc']),
    ('normproxy', ['--binarize', '--static-proxies']), ('normproxy', ['--binarize', '--similarity', 'euclidean']),
    ('dreml', ['--static-proxies', '--loss', 'xentropy']), ('rankedlistloss', ['--bottleneck-layers', '16,12']),
    ('discriminative', ['--squared', '--dropout', '0.5']), ('margin', ['--lr-beta', '0', '--nu', '0.1']),
]


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    return make_tree(str(tmp_path_factory.mktemp('tiny') / 'tree'))


def named(value):
    return value if isinstance(value, str) else ' '.join(value)


def module(name):
    return importlib.import_module(f'train_{name}')


def parse(name, tree, results, *more):
    argv = flags(tree, results, *SCRIPTS[name], *more)
    if name == 'prototype':
        argv[argv.index('--batch-size') + 1] = '8'
    return module(name).parse_args(argv)


@pytest.mark.parametrize('name', SCRIPTS)
def test_help_explains_every_flag_and_how_to_start(name, capsys, monkeypatch):
    parsers = []
    monkeypatch.setattr(TrainingParser, 'exit', lambda self, *_: parsers.append(self) or sys.exit())
    with pytest.raises(SystemExit):
        module(name).parse_args(['--help'])
    text = re.sub(r'\s+', ' ', capsys.readouterr().out)
    assert f'python train_{name}.py --dataset CUB' in text and ('arXiv:' in text or 'NIPS 2016' in text)
    for action in parsers[0]._actions:
        assert action.help, action.option_strings
        if action.default not in (None, False, '', 'auto', argparse.SUPPRESS):
            assert f'(default: {action.default}' in text, action.option_strings
        if action.nargs is None and action.choices is None and action.option_strings:
            assert action.metavar, f'{action.option_strings}: say what its value is'


@pytest.mark.parametrize('name', SCRIPTS)
def test_script_trains_evaluates_and_saves(name, tree, tmp_path):
    opt = parse(name, tree, tmp_path)
    result = getattr(module(name), f'train_{name}')(opt)
    last = result['runs'][0]['last']
    assert 0 <= last['recall@1'] <= 100 and np.isfinite(last['nmi'])
    log, = tmp_path.rglob('*.jsonl')
    losses = [r['loss'] for r in map(json.loads, open(log)) if r['event'] == 'epoch' and 'loss' in r]
    assert len(losses) == opt.epochs * getattr(opt, 'ensemble_size', 1) and None not in losses
    assert list(tmp_path.rglob('*.params'))


@pytest.mark.parametrize('name, more', VARIANTS, ids=named)
def test_every_variant_trains(name, more, tree, tmp_path):
    opt = parse(name, tree, tmp_path, '--epochs', '1', '--skip-pretrain-validation', *more)
    assert getattr(module(name), f'train_{name}')(opt)['runs'][0]['last']['recall@1'] >= 0


def gradients(name, opt, ctx, images, labels):
    mx.random.seed(0)
    experiment = module(name).build(opt, training.load_data(opt), ctx)
    if isinstance(experiment, training.Ensemble):
        experiment = experiment.member(0)
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


@pytest.mark.parametrize('name, more', [(name, []) for name in SCRIPTS] + VARIANTS, ids=named)
def test_hybridized_gradients_are_the_eager_ones(name, more, tree, tmp_path):
    """MXNet's static allocation can give wrong gradients, silently, where a graph has inputs without a gradient."""
    labels = np.repeat(np.arange(4), 2) if name != 'prototype' else np.repeat([0, 1], 4)
    images = np.random.RandomState(0).randint(0, 256, (len(labels), 16, 16, 3)).astype(np.uint8)
    more = [*more, '--dropout', '0'] if name == 'discriminative' else more
    eager_opt, opt = parse(name, tree, tmp_path, *more, '--disable-hybridize'), parse(name, tree, tmp_path, *more)
    eager_value, eager = gradients(name, eager_opt, [mx.cpu()], images, labels)
    value, hybrid = gradients(name, opt, [mx.cpu()], images, labels)
    assert value == pytest.approx(eager_value, abs=1e-5, rel=1e-5)
    for key in eager:
        np.testing.assert_allclose(hybrid[key], eager[key], atol=1e-5 * max(1, np.abs(eager[key]).max()), err_msg=key)


@pytest.mark.parametrize('name', SCRIPTS)
@pytest.mark.parametrize('devices', [2, 3])
def test_several_devices_give_the_gradients_of_one(name, devices, tree, tmp_path):
    """Also where the batch cannot be split evenly, and for the loss's own parameters."""
    opt = parse(name, tree, tmp_path)
    labels = np.repeat(np.arange(4), 2) if name != 'prototype' else np.repeat([0, 1], 4)
    if name not in ('npairs', 'angular', 'prototype'):
        labels = labels[:-1]  # odd
    images = np.random.RandomState(0).randint(0, 256, (len(labels), 16, 16, 3)).astype(np.uint8)
    value, one = gradients(name, opt, [mx.cpu(0)], images, labels)
    again, several = gradients(name, opt, [mx.cpu(i) for i in range(devices)], images, labels)
    assert value == pytest.approx(again, abs=1e-5, rel=1e-5)
    assert any(np.abs(g).max() > 1e-6 for g in one.values())
    for key in one:
        np.testing.assert_allclose(one[key], several[key], atol=1e-5 * max(1, np.abs(one[key]).max()), err_msg=key)
