"""How a backbone takes part in training: batch norm's momentum and freezing, its learning rate, the whole frozen."""
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

from common.errors import UsageError
from models import EmbeddingNet, backbone_names, get_backbone
from models.backbones import _build, finetune


def values(block, pattern=''):
    return {name: p.list_data()[0].asnumpy() for name, p in block._collect_params_with_prefix().items()
            if pattern in name}


def train(net, size, steps=2, seed=0):
    """Steps of SGD on random images; returns the gradients of the last one."""
    rng = np.random.RandomState(seed)
    mx.random.seed(seed)
    trainer = gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 0.1})
    for _ in range(steps):
        images = mx.nd.array(rng.randint(0, 256, (4, size, size, 3)), dtype='uint8')
        with autograd.record():
            loss = mx.nd.square(net(images) - mx.nd.array(rng.normal(size=(4, net.embed_dim)))).sum()
        loss.backward()
        trainer.step(4)
    return {name: p.grad().asnumpy() for name, p in net._collect_params_with_prefix().items() if p.grad_req != 'null'}


def randomised(backbone):
    """Running statistics and gamma as after some training, so that to use them differs from not to use them."""
    rng = np.random.RandomState(0)
    for layer in finetune.batch_norms(backbone):
        for name, low, high in (('gamma', 0.7, 1.3), ('beta', -0.3, 0.3), ('running_mean', -0.5, 0.5),
                                ('running_var', 0.5, 2)):
            parameter = getattr(layer, name)
            if name == 'gamma' and layer._kwargs['fix_gamma']:
                continue    # MXNet sets it to one
            parameter.set_data(mx.nd.array(rng.uniform(low, high, parameter.shape)))
    return backbone


def network(name, freeze=True, hybrid=True, **kwargs):
    mx.random.seed(0)
    backbone = randomised(get_backbone(name))
    if freeze:
        finetune.set_batch_norm(backbone, freeze=True)
    net = EmbeddingNet(backbone, 4, **kwargs)
    net.initialize()
    if hybrid:
        net.hybridize(static_alloc=True)
    return net


OURS = [('convnet', 32), ('resnet18_v2', 32), ('inception-bn', 64), ('efficientnet-lite0', 32),
        ('mobilenetv2_0.25', 32)]


@pytest.mark.parametrize('hybrid', [True, False])
@pytest.mark.parametrize('name, size', OURS)
def test_frozen_batch_norm_stays_bit_for_bit_and_the_rest_moves(name, size, hybrid):
    net = network(name, hybrid=hybrid)
    layers = {parameter for layer in finetune.batch_norms(net.backbone)
              for parameter in layer.collect_params().values()}
    named = net._collect_params_with_prefix()
    fixed = {n for n, p in named.items() if p in layers}
    assert len(fixed) >= 16
    before = values(net)
    train(net, size)
    after = values(net)
    for n in named:
        if n in fixed or n.startswith('pixels'):
            np.testing.assert_array_equal(before[n], after[n], n)
    moved = [n for n in named if not np.array_equal(before[n], after[n])]
    assert len(moved) >= len([n for n in named if n.endswith('weight')]) - 1


@pytest.mark.parametrize('name, size', OURS)
def test_without_the_flag_batch_norm_moves(name, size):
    net = network(name, freeze=False)
    before = values(net)
    train(net, size)
    after = values(net)
    for part in ('running_mean', 'running_var', 'gamma', 'beta'):
        assert any(n.endswith(part) and not np.array_equal(before[n], after[n]) for n in before), part


@pytest.mark.parametrize('name, size', OURS)
def test_gradients_through_frozen_batch_norm_are_those_of_the_network_in_a_test(name, size):
    """Hybridized against eager; and the output is the same in training and in a test: nothing of the batch is used."""
    hybrid, eager = (train(network(name, hybrid=h), size, steps=1) for h in (True, False))
    assert hybrid.keys() == eager.keys()
    for n in eager:
        np.testing.assert_allclose(hybrid[n], eager[n], atol=2e-4 * max(1e-3, np.abs(eager[n]).max()), err_msg=n)
    net = network(name)
    x = mx.nd.array(np.random.RandomState(1).randint(0, 256, (3, size, size, 3)), dtype='uint8')
    with autograd.record():
        training = net(x)
    np.testing.assert_allclose(training.asnumpy(), net(x).asnumpy(), rtol=1e-4, atol=1e-5)


def test_a_gradient_through_frozen_batch_norm_is_the_numerical_one():
    net = network('convnet', hybrid=True)
    x = mx.nd.array(np.random.RandomState(1).randint(0, 256, (3, 32, 32, 3)), dtype='uint8')
    weight = net.backbone.features[0].weight
    with autograd.record():
        loss = mx.nd.square(net(x)).sum()
    loss.backward()
    gradient, start = weight.grad().asnumpy(), weight.data().asnumpy()
    direction = gradient / np.linalg.norm(gradient)
    losses = []
    for step in (1e-3, -1e-3):
        weight.set_data(mx.nd.array(start + step * direction))
        losses.append(float(mx.nd.square(net(x)).sum().asscalar()))
    assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(np.linalg.norm(gradient), rel=0.05)


@pytest.mark.parametrize('momentum', [0.9, 0.5])
def test_momentum_of_batch_norm(momentum):
    """running = momentum x running + (1 - momentum) x batch, by hand, for the first layer."""
    net = network('convnet', freeze=False)
    finetune.set_batch_norm(net.backbone, momentum)
    conv, bn = net.backbone.features[0], net.backbone.features[1]
    x = np.random.RandomState(0).randint(0, 256, (4, 32, 32, 3))
    before = bn.running_mean.data().asnumpy()
    with autograd.record():
        y = net(mx.nd.array(x, dtype='uint8'))
    y.backward()
    pixels = mx.nd.array((x - np.array(net.backbone.mean)) / np.array(net.backbone.std)).transpose((0, 3, 1, 2))
    batch = conv(pixels).asnumpy().mean(axis=(0, 2, 3))
    np.testing.assert_allclose(bn.running_mean.data().asnumpy(), momentum * before + (1 - momentum) * batch, rtol=1e-3,
                               atol=1e-4)


@pytest.mark.parametrize('flag, options', [('--freeze-bn', {'freeze': True}), ('--momentum-bn', {'momentum': 0.5})])
def test_a_network_without_batch_norm_is_refused(flag, options):
    with pytest.raises(UsageError, match=f'{flag}: --model squeezenet1.1 has no batch norm'):
        finetune.set_batch_norm(get_backbone('squeezenet1.1'), **options)


def test_published_settings_are_those_of_every_network_of_the_zoo():
    """And every running statistic belongs to a layer that is found."""
    seen = set()
    for name in backbone_names():
        backbone = _build(name)
        layers = finetune.batch_norms(backbone)
        assert {layer._kwargs['momentum'] for layer in layers} <= {finetune.published(name).momentum_bn}, name
        statistics = {p for n, p in backbone.collect_params().items() if n.endswith(('running_mean', 'running_var'))}
        assert statistics == {p for layer in layers for p in (layer.running_mean, layer.running_var)}, name
        seen.add(finetune.published(name))
    assert len(seen) == 3   # most, ResNet50, NASNet


@pytest.mark.parametrize('name', ['resnet50_v2', 'convnet'])
def test_learning_rates_of_a_backbone(name):
    backbone = get_backbone(name)
    finetune.set_learning_rates(backbone, 0.5, 0.1)
    found = {(n.endswith('weight'), p.lr_mult) for n, p in backbone.collect_params().items()}
    assert found == {(True, 0.05), (False, 0.5)}


@pytest.mark.parametrize('hybrid', [True, False])
@pytest.mark.parametrize('name, size', OURS)
def test_a_frozen_backbone_stays_bit_for_bit_and_the_head_learns(name, size, hybrid):
    net = network(name, freeze=False, hybrid=hybrid, normalize=True)
    before = values(net)
    net.freeze_backbone()
    net.freeze_backbone()       # twice is once
    gradients = train(net, size)
    after = values(net)
    assert {n.split('.')[0] for n in gradients} == {'head'}
    assert {n for n in before if not np.array_equal(before[n], after[n])} == {'head.weight', 'head.bias'}
    net.freeze_backbone(False)
    train(net, size)
    last = values(net)
    assert any(n.endswith('running_mean') and not np.array_equal(last[n], after[n]) for n in last)
    assert all(not np.array_equal(last[n], after[n]) for n in last if n.endswith('conv0_weight'))


@pytest.mark.parametrize('hybrid', [True, False])
def test_gradients_of_a_head_on_a_frozen_backbone(hybrid):
    """Those of a dense layer on the features that a test gives."""
    net = network('convnet', freeze=False, hybrid=hybrid)
    net.freeze_backbone()
    x = mx.nd.array(np.random.RandomState(1).randint(0, 256, (3, 32, 32, 3)), dtype='uint8')
    for _ in range(3):
        with autograd.record():
            loss = mx.nd.square(net(x)).sum() / 2
        loss.backward()
    features, y = net.backbone(net.pixels(x)).asnumpy(), net(x).asnumpy()
    np.testing.assert_allclose(net.head.weight.grad().asnumpy(), y.T @ features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(net.head.bias.grad().asnumpy(), y.sum(axis=0), rtol=1e-4, atol=1e-5)


def test_gradients_after_the_thaw_are_those_of_a_network_that_was_never_frozen():
    never, thawed = network('convnet', freeze=False), network('convnet', freeze=False)
    thawed.freeze_backbone()
    with autograd.record():
        y = thawed(mx.nd.zeros((2, 32, 32, 3), dtype='uint8'))
    y.backward()
    thawed.freeze_backbone(False)
    expected, got = train(never, 32), train(thawed, 32)
    assert expected.keys() == got.keys()
    for n in expected:
        np.testing.assert_array_equal(expected[n], got[n], n)
