"""Backbones: Inception-BN is the public graph; zoo networks lose their classifier and nothing else."""
from __future__ import annotations

import pathlib
import subprocess
import sys

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import nn
from mxnet.gluon.model_zoo import vision

from common.errors import UsageError
from models import backbone_names, get_backbone, is_backbone
from models.backbones import features_length, zoo

GRAPH = pathlib.Path(__file__).with_name('inception_bn_graph.txt')


def public_graph():
    """Inception-BN as mx.sym, from the table of the public symbol file."""
    nodes = {'data': mx.sym.var('data')}
    for line in GRAPH.read_text().splitlines():
        if line.startswith('#'):
            continue
        op, name, inputs, *rest = line.split()
        x = [nodes[source] for source in inputs.split(',')]
        if op in ('Convolution', 'Pooling'):
            kernel, stride, pad = ((int(value), int(value)) for value in rest[:3])
        if op == 'Convolution':
            nodes[name] = mx.sym.Convolution(*x, name=name, kernel=kernel, stride=stride, pad=pad,
                                             num_filter=int(rest[3]))
        elif op == 'BatchNorm':
            nodes[name] = mx.sym.BatchNorm(*x, name=name, eps=1.00001e-05, momentum=0.9, fix_gamma=False)
        elif op == 'Pooling':
            nodes[name] = mx.sym.Pooling(*x, name=name, kernel=kernel, stride=stride, pad=pad, pool_type=rest[3],
                                         pooling_convention='valid')
        elif op == 'Activation':
            nodes[name] = mx.sym.Activation(*x, name=name, act_type='relu')
        elif op == 'Concat':
            nodes[name] = mx.sym.concat(*x, name=name, dim=1)
        else:
            assert op == 'Flatten'
            nodes[name] = mx.sym.flatten(*x, name=name)
    return nodes[name]


def randomise(block, seed=0):
    """Statistics, biases and scales away from their defaults, so that each of them matters."""
    random = np.random.RandomState(seed)
    for name, parameter in block.collect_params().items():
        shape = parameter.shape
        if name.endswith(('gamma', 'running_var')):
            parameter.set_data(mx.nd.array(random.uniform(0.5, 1.5, shape)))
        elif name.endswith(('bias', 'beta', 'running_mean')):
            parameter.set_data(mx.nd.array(random.normal(0, 0.1, shape)))
    return block


def images(size, count=2, seed=0, scale=1.0):
    return mx.nd.array(np.random.RandomState(seed).normal(0, scale, (count, 3, size, size)))


@pytest.fixture(scope='module')
def inception():
    mx.random.seed(0)
    return randomise(get_backbone('inception-bn'))


@pytest.mark.parametrize('train', [False, True])
def test_inception_bn_is_the_public_graph(inception, train):
    symbol = public_graph()
    own = {name[len(inception.prefix):].replace('_running_', '_moving_'): parameter
           for name, parameter in inception.collect_params().items()}
    names, auxiliary = set(symbol.list_arguments()) - {'data'}, set(symbol.list_auxiliary_states())
    assert set(own) == names | auxiliary
    x = images(224, scale=50)
    arguments = {name: own[name].data().copy() for name in names}
    reference = symbol.bind(mx.cpu(), {'data': x, **arguments}, aux_states={n: own[n].data().copy() for n in auxiliary},
                            args_grad={n: mx.nd.zeros_like(array) for n, array in arguments.items()})
    expected = reference.forward(is_train=train)[0].asnumpy()
    statistics = {name: own[name].data().copy() for name in auxiliary}
    with mx.autograd.record(train_mode=train):
        features = inception(x)
    scale = np.abs(expected).max()
    assert expected.shape == (2, 1024) and scale > 0.1
    assert np.abs(features.asnumpy() - expected).max() <= 1e-5 * max(1, scale)
    if train:
        features.backward()
        reference.backward(mx.nd.ones((2, 1024)))
        for name in names:
            if name.endswith('_bias'):
                continue  # zero but for rounding: the batch norm behind takes a bias away
            due = reference.grad_dict[name].asnumpy()
            got = own[name].grad().asnumpy()
            assert np.abs(got - due).max() <= 1e-4 * np.abs(due).max() + 1e-5, name
        for name in auxiliary:  # the running statistics move by the same momentum
            np.testing.assert_allclose(own[name].data().asnumpy(), reference.aux_dict[name].asnumpy(), rtol=1e-5,
                                       atol=1e-6)
            own[name].set_data(statistics[name])


@pytest.mark.parametrize('size', [32, 64, 96, 299])
def test_inception_bn_takes_other_sizes(inception, size):
    features = inception(images(size, count=1))
    assert features.shape == (1, 1024) and np.isfinite(features.asnumpy()).all()


def test_inception_bn_loads_the_public_file_by_its_own_names(inception, tmp_path):
    symbol = public_graph()
    own = {name[len(inception.prefix):].replace('_running_', '_moving_'): parameter
           for name, parameter in inception.collect_params().items()}
    arrays = {'arg:' + name: own[name].data() for name in symbol.list_arguments() if name != 'data'}
    arrays.update({'aux:' + name: own[name].data() for name in symbol.list_auxiliary_states()})
    arrays.update({'arg:fc1_weight': mx.nd.ones((1000, 1024)), 'arg:fc1_bias': mx.nd.zeros(1000)})
    path = str(tmp_path / 'Inception-BN-0126.params')
    mx.nd.save(path, arrays)
    loaded = get_backbone('inception-bn', path)
    x = images(64)
    np.testing.assert_array_equal(loaded(x).asnumpy(), inception(x).asnumpy())
    assert loaded.weights['file'] == path and len(loaded.weights['sha256']) == 64


def test_two_inceptions_can_live_in_one_network():
    pair = nn.HybridSequential()
    pair.add(get_backbone('inception-bn'), get_backbone('inception-bn'))
    assert len(pair.collect_params().keys()) == 2 * len(pair[0].collect_params().keys())


@pytest.mark.parametrize('size', [32, 33, 48, 224])
def test_convnet_takes_small_images(size):
    net = get_backbone('convnet')
    net.hybridize(static_alloc=True)
    features = net(images(size))
    assert features.shape == (2, 256) == (2, net.features_dim)
    assert np.isfinite(features.asnumpy()).all() and features.asnumpy().std() > 0


def test_convnet_is_four_blocks():
    kinds = [type(layer).__name__ for layer in get_backbone('convnet').features]
    assert kinds == ['Conv2D', 'BatchNorm', 'Activation', 'MaxPool2D'] * 4 + ['GlobalAvgPool2D', 'Flatten']


CUT = ['resnet18_v1', 'resnet18_v2', 'mobilenet0.25', 'mobilenetv2_0.25', 'mobilenetv3_small', 'densenet121',
       'resnet18_v1b', 'resnet50_v1d_0.11', 'se_resnet18_v1', 'shufflenet_v1', 'resnest14', 'dla34', 'googlenet',
       'inceptionv3', 'darknet53', 'hrnet_w18_small_v1_c', 'cifar_resnet20_v1']
SIZES = {'inceptionv3': 299, 'googlenet': 224, 'cifar_resnet20_v1': 32, 'densenet121': 224}


@pytest.mark.parametrize('name', CUT)
def test_zoo_network_is_cut_before_its_classifier_and_nowhere_else(name):
    """The classifier on our features gives what the whole network gives."""
    whole = zoo._models()[name]()
    whole.initialize(mx.init.Xavier(), ctx=mx.cpu())
    x = images(SIZES.get(name, 96))
    whole(x)
    randomise(whole)
    expected = whole(x).asnumpy()
    classifier = next(getattr(whole, child) for child in ('output', 'fc', 'classifier') if hasattr(whole, child))
    weight, bias = (next((p.data().asnumpy() for n, p in classifier.collect_params().items() if n.endswith(kind)), 0)
                    for kind in ('weight', 'bias'))
    backbone = zoo.ZooBackbone(name, whole)
    features = backbone(x).asnumpy()
    assert features.ndim == 2 and backbone.removed
    got = features @ weight.reshape(len(weight), -1).T + bias
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()
    assert not any(p in backbone.collect_params().values() for p in classifier.collect_params().values())


WIDE = CUT + ['mobilenet_v2_1.0', 'resnet50_v1b', 'resnet50_v2', 'resnet34_v1', 'resnet50_v1s', 'vgg11', 'vgg11_bn',
              'alexnet', 'squeezenet1.1', 'resnext50_32x4d', 'se_resnext50_32x4d', 'se_resnet18_v2', 'xception',
              'resnet18_v1b_0.89', 'cifar_wideresnet16_10', 'cifar_resnext29_32x4d',
              'mobilenet1.0', 'mobilenetv3_large', 'nasnet_4_1056', 'efficientnet-lite0']


@pytest.mark.parametrize('name', WIDE)
def test_zoo_network_by_name(name):
    size = 32 if name.startswith('cifar') else 96
    backbone = get_backbone(name)
    assert all(0 not in p.shape for p in backbone.collect_params().values()), 'a shape is left to be found out'
    backbone.hybridize(static_alloc=True)
    features = backbone(images(size))
    assert features.shape == (2, backbone.features_dim)
    assert np.isfinite(features.asnumpy()).all() and features.asnumpy().std() > 0


@pytest.mark.parametrize('name', ['residualattentionnet56', 'cifar_residualattentionnet56'])
def test_networks_of_one_size_refuse_others_by_name(name):
    backbone = get_backbone(name)
    assert backbone(images(backbone.image_size, count=1)).shape == (1, backbone.features_dim)
    with pytest.raises(UsageError, match=f'--model {name} .*--image-size 64'):
        features_length(backbone, 64)


def test_pooled_features_do_not_depend_on_a_fixed_pool():
    """densenet ends in a 7x7 pool, which is global at 224 pixels only."""
    backbone = get_backbone('densenet121')
    assert backbone(images(256, count=1)).shape == backbone(images(64, count=1)).shape == (1, 1024)


def test_vgg_features_are_those_of_its_last_convolution():
    assert get_backbone('vgg11').features_dim == 512


@pytest.mark.parametrize('name', ['nonsense', 'ssd_300_vgg16_atrous_voc', 'resnet50_v1_int8',
                                  'hrnet_w48_s', 'resnet50_v1b_gn', 'yolo3_darknet53_coco', ''])
def test_unknown_and_unfit_names_are_refused(name):
    assert not is_backbone(name)
    with pytest.raises(UsageError, match='no such network'):
        get_backbone(name)


def test_names():
    names = backbone_names()
    assert {'inception-bn', 'convnet', 'efficientnet-lite0', 'resnet18_v2', 'resnet50_v2', 'resnet50_v1b',
            'densenet121'} <= set(names)
    assert len(names) == len(set(names)) > 90
    assert all(is_backbone(name) for name in ('mobilenet_v2_1.0', 'MobileNetV2_1.0', 'convnet'))
    assert len({zoo._key(name) for name in names}) == len(names), 'two names would be taken for one'


@pytest.mark.parametrize('name, factor', [('resnet50_v2', 0.01), ('resnet50_v1b', 0.01), ('resnet18_v2', 1.0)])
def test_only_resnet50_convolutions_learn_slowly(name, factor):
    for _ in range(2):  # in every run
        backbone = get_backbone(name)
        convolutions, others = set(), set()

        def visit(block, convolutions=convolutions):
            if isinstance(block, nn.Conv2D):
                convolutions.add(block.weight.name)

        backbone.apply(visit)
        others = set(backbone.collect_params()) - convolutions
        assert len(convolutions) > 15 and len(others) > 15
        assert {backbone.collect_params()[n].lr_mult for n in convolutions} == {factor}
        assert {backbone.collect_params()[n].lr_mult for n in others} == {1.0}


def test_normalisation():
    inception, resnet = get_backbone('inception-bn'), get_backbone('resnet18_v2')
    assert inception.mean == resnet.mean == (123.68, 116.779, 103.939)
    assert inception.std == (1, 1, 1) and resnet.std == (58.393, 57.12, 57.375)
    np.testing.assert_allclose(get_backbone('resnet18_v1b').mean, np.array([0.485, 0.456, 0.406]) * 255)
    np.testing.assert_allclose(get_backbone('resnet18_v1b').std, np.array([0.229, 0.224, 0.225]) * 255)


def test_same_seed_same_weights():
    x = images(32)
    outputs = []
    for seed in (1, 1, 2):
        mx.random.seed(seed)
        outputs.append(get_backbone('convnet')(x).asnumpy())
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])


def test_initialised_on_every_context():
    contexts = [mx.cpu(0), mx.cpu(1)]
    backbone = get_backbone('convnet', ctx=contexts)
    one, other = (backbone(images(32).as_in_context(ctx)).asnumpy() for ctx in contexts)
    np.testing.assert_array_equal(one, other)


def test_gluon_zoo_resnet_is_used_unchanged():
    whole = vision.resnet18_v2()
    assert list(get_backbone('resnet18_v2').named._collect_params_with_prefix()) == \
        [n for n in whole._collect_params_with_prefix() if not n.startswith('output.')]


def test_gluoncv_is_imported_only_for_its_networks():
    code = ('import common, sys, models\n'
            'assert models.is_backbone("resnet50_v2") and models.get_backbone("resnet18_v2")\n'
            'assert "gluoncv" not in sys.modules\n'
            'assert models.is_backbone("densenet121") and "gluoncv" in sys.modules\n')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
