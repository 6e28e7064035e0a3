"""EmbeddingNet: what happens to a pixel, unit length, initialisation, several devices."""
from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd
from mxnet.gluon import nn

from models import EmbeddingNet, L2Normalization, get_backbone


def pixels(count=3, size=32, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (count, size, size, 3)).astype(np.uint8)


def make(normalize=False, name='convnet', ctx=None, **kwargs):
    mx.random.seed(0)
    net = EmbeddingNet(get_backbone(name, ctx=ctx), normalize=normalize, **kwargs)
    net.initialize(ctx=ctx)
    return net


@pytest.mark.parametrize('name', ['convnet', 'inception-bn'])
def test_pixels_are_normalised_before_the_backbone(name):
    net = make(name=name)
    x = pixels()
    expected = (x.astype(np.float64) - net.backbone.mean) / net.backbone.std
    got = net.pixels(mx.nd.array(x, dtype='uint8'))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got.asnumpy(), expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(net(mx.nd.array(x, dtype='uint8')).asnumpy(),
                                  net.head(net.backbone(got)).asnumpy())


def test_uint8_and_float_pixels_give_the_same():
    net = make()
    x = pixels()
    np.testing.assert_array_equal(net(mx.nd.array(x, dtype='uint8')).asnumpy(),
                                  net(mx.nd.array(x, dtype='float32')).asnumpy())


@pytest.mark.parametrize('normalize', [False, True])
def test_hybrid_is_eager(normalize):
    net = make(normalize)
    x = mx.nd.array(pixels(), dtype='uint8')
    eager = net(x)
    net.hybridize(static_alloc=True)
    np.testing.assert_allclose(net(x).asnumpy(), eager.asnumpy(), rtol=1e-5, atol=1e-6)
    assert eager.shape == (3, 64) and eager.dtype == np.float32
    lengths = np.linalg.norm(eager.asnumpy(), axis=1)
    assert np.allclose(lengths, 1, atol=1e-5) == normalize


def test_every_parameter_has_its_shape_before_the_first_batch():
    net = make()
    assert all(p.data() is not None for p in net.collect_params().values())
    assert net.head.weight.shape == (64, 256)


def test_head_is_xavier_of_magnitude_a_fifth():
    weight = make(embed_dim=128).head.weight.data().asnumpy()
    bound = np.sqrt(0.2 / ((256 + 128) / 2))
    assert 0.95 * bound < np.abs(weight).max() <= bound
    assert abs(weight.std() - bound / np.sqrt(3)) < 0.03 * bound
    assert not make().head.bias.data().asnumpy().any()


def test_head_of_your_own():
    head = nn.HybridSequential()
    head.add(nn.Dense(8, activation='relu'), nn.Dense(5))  # input lengths unknown until the first batch
    net = make(head=head)
    net.hybridize(static_alloc=True)
    assert net(mx.nd.array(pixels(), dtype='uint8')).shape == (3, 5)
    assert net.head is head


@pytest.mark.filterwarnings('error::UserWarning')  # Gluon's "already initialized, ignoring"
def test_initialize_keeps_the_weights_of_the_backbone():
    backbone = get_backbone('convnet')
    before = {n: p.data().asnumpy() for n, p in backbone.collect_params().items()}
    net = EmbeddingNet(backbone)
    net.initialize(ctx=[mx.cpu(0), mx.cpu(1)])
    for name, array in before.items():
        for ctx in (mx.cpu(0), mx.cpu(1)):
            np.testing.assert_array_equal(net.collect_params()[name].data(ctx).asnumpy(), array)
    net.initialize(ctx=mx.cpu(0), force_reinit=True)
    weight = next(name for name in before if name.endswith('weight'))
    assert not np.array_equal(net.collect_params()[weight].data().asnumpy(), before[weight])
    assert net.head.weight.list_ctx() == [mx.cpu(0)]


def test_two_devices():
    contexts = [mx.cpu(0), mx.cpu(1)]
    net = make(True, ctx=contexts)
    net.hybridize(static_alloc=True)
    halves = [mx.nd.array(pixels(), dtype='uint8', ctx=ctx) for ctx in contexts]
    with autograd.record():
        outputs = [net(x) for x in halves]
        # sum, not squared length: unit vectors have no gradient there
        losses = [output.sum() for output in outputs]
    autograd.backward(losses)
    np.testing.assert_allclose(outputs[0].asnumpy(), outputs[1].asnumpy(), rtol=1e-6)
    assert outputs[1].context == contexts[1]
    gradients = [net.head.weight.grad(ctx).asnumpy() for ctx in contexts]
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)
    assert np.abs(gradients[0]).max() > 0


def test_l2_normalization():
    layer = L2Normalization()
    x = mx.nd.array([[3, 4], [0, 0], [1e-3, 0], [1e15, 1e15]])
    x.attach_grad()
    with autograd.record():
        y = layer(x)
    y.backward()
    np.testing.assert_allclose(y.asnumpy(), [[0.6, 0.8], [0, 0], [1, 0], [0.5 ** 0.5, 0.5 ** 0.5]], rtol=1e-5)
    assert np.isfinite(x.grad.asnumpy()).all()


def test_l2_normalization_gradient():
    random = np.random.RandomState(0)
    x, weight = random.normal(size=(4, 6)), random.normal(size=(4, 6))

    def loss(values):
        return (weight * values / np.linalg.norm(values, axis=1, keepdims=True)).sum()

    step = 1e-6
    expected = np.array([[(loss(x + step * unit) - loss(x - step * unit)) / (2 * step)
                          for unit in np.eye(24).reshape(24, 4, 6)[row * 6:row * 6 + 6]] for row in range(4)])
    data = mx.nd.array(x)
    data.attach_grad()
    with autograd.record():
        (L2Normalization()(data) * mx.nd.array(weight)).sum().backward()
    np.testing.assert_allclose(data.grad.asnumpy(), expected, rtol=1e-3, atol=1e-5)


def test_learns_at_32_pixels():
    """convnet and head fit a few classes of noise patterns within thirty steps: gradients reach every layer."""
    random = np.random.RandomState(0)
    labels = np.repeat(np.arange(4), 4)
    patterns = random.randint(0, 200, (4, 32, 32, 3))
    x = mx.nd.array((patterns[labels] + random.randint(0, 56, (16, 32, 32, 3))).astype(np.uint8), dtype='uint8')
    net = make(embed_dim=4)
    net.hybridize(static_alloc=True)
    trainer = mx.gluon.Trainer(net.collect_params(), 'adam', {'learning_rate': 1e-2})
    loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    before = {n: p.data().asnumpy() for n, p in net.collect_params().items() if p.grad_req != 'null'}
    values = []
    for _ in range(30):
        with autograd.record():
            value = loss(net(x), mx.nd.array(labels)).mean()
        value.backward()
        trainer.step(1)
        values.append(float(value.asscalar()))
    assert values[-1] < 0.05 * values[0]
    assert all(not np.array_equal(net.collect_params()[n].data().asnumpy(), array) for n, array in before.items())
