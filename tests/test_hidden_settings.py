"""Every number that reaches an optimiser, a head, a loss or a sampler is a flag, and so stands in the log."""
import importlib
import inspect
import math

import mxnet as mx
import pytest
from mxnet import gluon

import dataset.samplers
import models.heads
from common import training
from common.training.optimisers import ParamGroup
from common.training.resume import flags_of
from models.backbones import finetune
from tests.tiny import SCRIPTS, flags, make_tree

#: Arguments that say how large something is; the data and other flags decide that.
SIZES = {'num_classes', 'embed_dim', 'seed', 'labels', 'class_map', 'ns', 'nq', 'nc', 'D', 'C', 'units', 'layers'}


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    return make_tree(str(tmp_path_factory.mktemp('tiny') / 'tree'))


def watched():
    """Classes of ours whose arguments shape training."""
    for module in (models.heads, dataset.samplers):
        for value in vars(module).values():
            if inspect.isclass(value) and value.__module__ == module.__name__:
                yield value
    waiting = list(gluon.loss.Loss.__subclasses__())
    while waiting:
        loss = waiting.pop()
        waiting.extend(loss.__subclasses__())
        if loss.__module__.startswith('models.'):
            yield loss
    yield from (ParamGroup, gluon.nn.Dropout)


def numbers(name, value):
    """The numbers in an argument, one by one."""
    if isinstance(value, dict):
        return [found for key, one in value.items() for found in numbers(key, one)]
    if isinstance(value, (int, float)) and not isinstance(value, bool) and name not in SIZES:
        return [(name, float(value))]
    return []


def arguments_that_reach(opt, script, monkeypatch):
    """(class, argument, number) for all that the script's `build` makes, defaults included."""
    found = []
    for made in set(watched()):
        def noted(self, *args, _made=made, _init=made.__init__, **kwargs):
            bound = inspect.signature(_init).bind(self, *args, **kwargs)
            bound.apply_defaults()
            if bound.arguments.get('kind', 'proxymargin') != 'proxymargin':     # of ProxyLoss, which then ignores them
                bound.arguments.update(margin=None, beta=None)
            found.extend((_made.__name__, *one) for name, value in bound.arguments.items() if name != 'self'
                         for one in numbers(name, value))
            _init(self, *args, **kwargs)

        monkeypatch.setattr(made, '__init__', noted)
    mx.random.seed(0)
    experiment = script.build(opt, training.load_data(opt), [mx.cpu()])
    if isinstance(experiment, training.Ensemble):
        experiment.member(0)
    return found


def is_a_flag(value, logged):
    """Is it the value of a flag, or the learning rate times a factor that is a flag?"""
    given = [float(flag) for flag in logged.values() if isinstance(flag, (int, float))]
    rates = [logged['lr'] * factor for factor in given if logged['lr']]
    return any(math.isclose(value, one, rel_tol=1e-9, abs_tol=1e-15) for one in [*given, *rates])


def commands():
    for name in SCRIPTS:
        first, *others = importlib.import_module(f'train_{name}').ALGORITHM['smoke']
        yield name, first
        for more in others:
            yield name, f'{first} {more}'


@pytest.mark.parametrize('name, words', list(commands()))
def test_every_number_that_shapes_training_is_a_flag(name, words, tree, tmp_path, monkeypatch):
    script = importlib.import_module(f'train_{name}')
    opt = script.parse_args(flags(tree, str(tmp_path), *words.split()))
    # Numbers that no other flag has, so that a value cannot pass for another one's.
    opt.seed, opt.num_workers, opt.epochs, opt.factor = 977, 979, 983, 0.787
    found = arguments_that_reach(opt, script, monkeypatch)
    assert any(made == 'ParamGroup' for made, _, _ in found)
    hidden = [one for one in found if not is_a_flag(one[2], flags_of(opt))]
    assert not hidden, hidden


def networks(opt, script):
    """All networks that the script's `build` makes."""
    experiment = script.build(opt, training.load_data(opt), [mx.cpu()])
    members = range(experiment.size) if isinstance(experiment, training.Ensemble) else []
    return [experiment.member(m).net for m in members] or [experiment.net]


@pytest.mark.parametrize('name', SCRIPTS)
def test_flags_of_the_network_reach_it(name, tree, tmp_path):
    script = importlib.import_module(f'train_{name}')
    opt = script.parse_args(flags(tree, str(tmp_path), *script.ALGORITHM['smoke'][0].split(), '--init-scale', '0.0625',
                                  '--momentum-bn', '0.8125', '--backbone-lr-factor', '0.375', '--conv-lr-factor', '0.5',
                                  '--freeze-bn'))
    for net in networks(opt, script):
        layers = finetune.batch_norms(net.backbone)
        assert {(layer._kwargs['momentum'], layer._kwargs['use_global_stats']) for layer in layers} == {(0.8125, True)}
        assert {p.lr_mult for n, p in net.backbone.collect_params().items() if '_conv' not in n} == {0.375}
        assert {p.lr_mult for n, p in net.backbone.collect_params().items() if '_conv' in n} == {0.375 * 0.5}
        assert {p.lr_mult for p in net.head.collect_params().values()} == {1.0}
        assert {p.init.magnitude for n, p in net.head.collect_params('.*weight').items()} == {0.0625}


def test_defaults_of_the_network_are_the_published_ones_and_stand_in_the_log():
    def of(*words):
        return flags_of(importlib.import_module('train_npairs').parse_args(['--dataset', 'GLYPHS', *words]))

    default = {'init_scale': 0.2, 'momentum_bn': 0.9, 'conv_lr_factor': 1.0, 'backbone_lr_factor': 1.0,
               'freeze_bn': False, 'freeze_backbone': 0}
    assert default.items() <= of().items()
    assert of('--model', 'ResNet50_v2')['conv_lr_factor'] == 0.01
    assert of('--model', 'nasnet_4_1056')['momentum_bn'] == 0.1
    assert of('--decrease-cnn-lr')['backbone_lr_factor'] == 0.1
    assert of('--cnn-lr-factor', '0.3', '--decrease-cnn-lr')['backbone_lr_factor'] == 0.3
    assert of('--freeze-backbone')['freeze_backbone'] == 'all'
    assert of('--freeze-backbone', '3')['freeze_backbone'] == 3


def test_a_hidden_number_is_found(tree, tmp_path, monkeypatch):
    script = importlib.import_module('train_proxy')
    opt = script.parse_args(flags(tree, str(tmp_path)))

    def build(opt, data, ctx):
        experiment = script.build(opt, data, ctx)
        ParamGroup(experiment.loss.collect_params(), opt.lr_proxynca, options={'epsilon': 0.123})
        return experiment

    found = arguments_that_reach(opt, type('Script', (), {'build': staticmethod(build)}), monkeypatch)
    assert ('ParamGroup', 'epsilon', 0.123) in [one for one in found if not is_a_flag(one[2], flags_of(opt))]
