"""What makes a vector of the last feature maps: formulas against loops, and every network that can have them."""
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from common.errors import UsageError
from models import EmbeddingNet, backbone_names, get_backbone
from models.backbones import _build, features_length
from models.backbones.pooling import KINDS, GlobalPooling, set_pooling
from models.loading import load_parameters, save_parameters


def oracle(kind, x, p=3.0, eps=1e-6):
    """One map after the other, in float64."""
    out = np.zeros(x.shape[:2])
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            values = [float(v) for v in x[b, c].ravel()]
            average = sum(values) / len(values)
            out[b, c] = {'avg': average, 'max': max(values), 'avg+max': average + max(values),
                         'gem': (sum(max(v, eps) ** p for v in values) / len(values)) ** (1 / p)}[kind]
    return out


def pooling(kind, p=None, hybrid=True):
    block = GlobalPooling(kind)
    block.initialize()
    if p is not None:
        block.gem_p.set_data(mx.nd.full((1, 1, 1, 1), p))
    if hybrid:
        block.hybridize(static_alloc=True)
    return block


@pytest.mark.parametrize('hybrid', [True, False])
@pytest.mark.parametrize('kind, p', [('avg', None), ('max', None), ('avg+max', None), ('gem', None), ('gem', 1.0),
                                     ('gem', 4.5)])
def test_formula(kind, p, hybrid):
    x = np.random.RandomState(0).gamma(1, 1, (2, 5, 4, 3)) - 0.3
    got = pooling(kind, p, hybrid)(mx.nd.array(x)).asnumpy()
    assert got.shape == (2, 5, 1, 1)
    np.testing.assert_allclose(got[:, :, 0, 0], oracle(kind, np.float32(x), p or 3.0), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize('p', [1.5, 3.0])
def test_gradients_of_gem(p):
    """Of x and of p, against differences of the oracle."""
    x = np.random.RandomState(1).gamma(1, 1, (2, 3, 2, 2)) + 0.1
    weight = np.random.RandomState(2).normal(size=(2, 3))
    block, data = pooling('gem', p), mx.nd.array(x)
    data.attach_grad()
    with autograd.record():
        loss = (block(data).reshape((2, 3)) * mx.nd.array(weight)).sum()
    loss.backward()

    def value(x, p):
        return (oracle('gem', x, p) * weight).sum()

    expected = np.zeros_like(x)
    for i in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[i] += 1e-5
        down[i] -= 1e-5
        expected[i] = (value(up, p) - value(down, p)) / 2e-5
    np.testing.assert_allclose(data.grad.asnumpy(), expected, rtol=1e-3, atol=1e-5)
    assert block.gem_p.grad().asscalar() == pytest.approx((value(x, p + 1e-5) - value(x, p - 1e-5)) / 2e-5, rel=1e-3)


@pytest.mark.parametrize('x', [0.0, -1.0, 100.0])
def test_gem_of_maps_that_are_all_alike_has_finite_gradients(x):
    block, data = pooling('gem'), mx.nd.full((2, 3, 2, 2), x)
    data.attach_grad()
    with autograd.record():
        y = block(data)
    y.backward()
    assert np.isfinite(y.asnumpy()).all() and np.isfinite(data.grad.asnumpy()).all()
    assert np.isfinite(block.gem_p.grad().asnumpy()).all()


NETWORKS = [('convnet', 32), ('inception-bn', 64), ('efficientnet-lite0', 64), ('resnet18_v2', 64),
            ('resnet18_v1b', 64), ('mobilenetv2_0.25', 64)]


def last_maps(backbone, x):
    """What the average in a network is taken of."""
    seen = []
    pools = []
    backbone.apply(lambda block: pools.append(block) if type(block).__name__ == 'GlobalAvgPool2D' else None)
    if pools:
        handle = pools[-1].register_forward_pre_hook(lambda block, args: seen.append(args[0].asnumpy()))
        backbone(x)
        handle.detach()
        return seen[0]
    return backbone._maps(x).asnumpy()


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name, size', NETWORKS)
def test_networks(name, size, kind):
    """Their last maps, pooled by the oracle."""
    x = mx.nd.array(np.random.RandomState(0).normal(size=(2, 3, size, size)))
    mx.random.seed(0)
    plain = get_backbone(name)
    maps = last_maps(plain, x)
    mx.random.seed(0)
    backbone = get_backbone(name, pooling=kind)
    backbone.hybridize(static_alloc=True)
    assert backbone.features_dim == plain.features_dim
    assert maps.shape[2] > 1
    got = backbone(x).asnumpy()
    assert got.shape == (2, plain.features_dim)
    np.testing.assert_allclose(got, oracle(kind, maps), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('name', ['mobilenetv3_small', 'residualattentionnet56'])
def test_a_network_without_such_an_average_is_refused(name):
    with pytest.raises(UsageError, match=f'--pooling gem: --model {name} does not end in an average'):
        get_backbone(name, pooling='gem')


@pytest.mark.slow
def test_every_network_takes_it_or_says_so():
    refused = set()
    for name in backbone_names():
        backbone = _build(name)
        backbone.features_dim = features_length(backbone, backbone.image_size)
        try:
            set_pooling(backbone, 'gem')
        except UsageError as error:
            assert '--pooling' in str(error)
            refused.add(name)
    assert {name.rstrip('0123456789') for name in refused} == {
        'cifar_residualattentionnet', 'residualattentionnet', 'mobilenetv3_large', 'mobilenetv3_small'}


@pytest.mark.parametrize('name', ['convnet', 'resnet18_v2', 'resnet18_v1b'])
def test_the_exponent_is_saved_and_comes_back(name, tmp_path):
    path = str(tmp_path / 'x.params')
    net = EmbeddingNet(get_backbone(name, pooling='gem'), 4)
    net.initialize()
    p, = (p for n, p in net._collect_params_with_prefix().items() if n.endswith('gem_p'))
    p.set_data(mx.nd.full((1, 1, 1, 1), 2.25))
    net(mx.nd.zeros((1, 64, 64, 3), dtype='uint8'))
    save_parameters(net, path)

    def exponents(backbone):
        return [p.data().asscalar() for n, p in backbone._collect_params_with_prefix().items() if n.endswith('gem_p')]

    again = EmbeddingNet(get_backbone(name, pooling='gem'), 4)
    load_parameters(again, path, mx.cpu())
    assert exponents(again.backbone) == [2.25]
    assert exponents(get_backbone(name, path, pooling='gem')) == [2.25]     # as --pretrained
    assert exponents(get_backbone(name, path)) == []                        # another pooling can take over the rest
    plain = EmbeddingNet(get_backbone(name), 4)
    plain.initialize()
    plain(mx.nd.zeros((1, 64, 64, 3), dtype='uint8'))
    save_parameters(plain, path)
    assert exponents(get_backbone(name, path, pooling='gem')) == [3.0]


def test_the_exponent_does_not_decay():
    backbone = get_backbone('convnet', pooling='gem')
    assert {p.wd_mult for n, p in backbone.collect_params().items() if n.endswith('gem_p')} == {0.0}
