"""The heads: what they compute, what they learn, and that dropout is for training."""
from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from models import EmbeddingNet
from models.heads import BottleneckHead, DiscriminativeHead, NormProxyHead

FEATURES = np.random.RandomState(0).normal(3, 2, size=(6, 10)).astype(np.float32)


@pytest.fixture(autouse=True)
def seeded():
    mx.random.seed(3)


def ready(head, hybridize=True):
    head.initialize()
    if hybridize:
        head.hybridize(static_alloc=True)
    return head


def weight(dense):
    return dense.weight.data().asnumpy()


def trained_output(head):
    with mx.autograd.record():
        return head(mx.nd.array(FEATURES)).asnumpy()


@pytest.mark.parametrize('hybridize', [False, True])
def test_normproxy_head_normalises_then_projects(hybridize):
    head = ready(NormProxyHead(4), hybridize)
    output = head(mx.nd.array(FEATURES)).asnumpy()
    normalised = (FEATURES - FEATURES.mean(axis=1, keepdims=True)) / FEATURES.std(axis=1, keepdims=True)
    np.testing.assert_allclose(output, normalised @ weight(head.fc).T, rtol=1e-3, atol=1e-5)
    assert head.fc.bias is None
    # Scale and offset of the features do not matter.
    np.testing.assert_allclose(head(mx.nd.array(5 * FEATURES + 7)).asnumpy(), output, rtol=1e-3, atol=1e-4)


def test_normproxy_head_learns_its_dense_layer_only():
    learned = [name for name, p in ready(NormProxyHead(4)).collect_params().items() if p.grad_req != 'null']
    assert len(learned) == 1 and learned[0].endswith('dense0_weight')


def test_normproxy_head_without_dense_layer():
    head = ready(NormProxyHead(4, dropout=0, fc=False))
    output = head(mx.nd.array(FEATURES)).asnumpy()
    assert output.shape == FEATURES.shape
    np.testing.assert_allclose(output.mean(axis=1), 0, atol=1e-5)
    np.testing.assert_allclose(output.std(axis=1), 1, rtol=1e-3)
    assert not [p for p in head.collect_params().values() if p.grad_req != 'null']
    assert np.isfinite(head(mx.nd.ones((2, 10))).asnumpy()).all()          # no variance


def test_normproxy_head_drops_features_in_training_alone():
    head = ready(NormProxyHead(4, fc=False))
    assert 0.2 < (trained_output(head) == 0).mean() < 0.8
    assert (head(mx.nd.array(FEATURES)).asnumpy() != 0).all()
    kept = ready(NormProxyHead(4, dropout=0.0))
    np.testing.assert_allclose(trained_output(kept), kept(mx.nd.array(FEATURES)).asnumpy(), rtol=1e-5)


@pytest.mark.parametrize('hybridize', [False, True])
def test_bottleneck_head(hybridize):
    head = ready(BottleneckHead([8, 5], 3), hybridize)
    head(mx.nd.array(FEATURES))                                            # settles the shapes
    head.layers[2].bias.set_data(mx.nd.full(3, -10))
    output = head(mx.nd.array(FEATURES)).asnumpy()
    x = FEATURES
    for number, dense in enumerate(head.layers):
        x = x @ weight(dense).T + dense.bias.data().asnumpy()
        x = np.maximum(x, 0) if number < 2 else x
    np.testing.assert_allclose(output, x, rtol=1e-4, atol=1e-6)
    assert output.shape == (6, 3) and (output < 0).all()                   # no ReLU at the end
    assert ready(BottleneckHead([], 3))(mx.nd.array(FEATURES)).shape == (6, 3)


@pytest.mark.parametrize('hybridize', [False, True])
def test_discriminative_head_gives_both_layers(hybridize):
    head = ready(DiscriminativeHead(4, 7), hybridize)
    features = mx.nd.array(FEATURES)
    output = head(features).asnumpy()
    embedding = head.embedding(features)
    assert embedding.shape == (6, 4) and output.shape == (6, 7)
    np.testing.assert_allclose(head.output(embedding).asnumpy(), output, rtol=1e-5, atol=1e-6)
    with mx.autograd.record():
        dropped = head(features).asnumpy()
    assert np.abs(dropped - output).max() > 1e-4                           # dropout between the two


@pytest.mark.parametrize('head, width', [
    (NormProxyHead(4), 4), (NormProxyHead(0, fc=False), 10), (BottleneckHead([32], 4), 4),
    (DiscriminativeHead(4, 7), 7),
])
def test_the_net_normalises_what_the_head_gives(head, width):
    class Backbone(mx.gluon.HybridBlock):
        mean, std, features_dim = np.zeros(3), np.ones(3), 10

        def __init__(self):
            super().__init__()
            self.dense = mx.gluon.nn.Dense(10)

        def hybrid_forward(self, F, x):
            return self.dense(x)

    net = EmbeddingNet(Backbone(), width, normalize=True, head=head)
    net.initialize()
    net.hybridize()
    images = mx.nd.array(np.random.RandomState(1).randint(256, size=(3, 4, 4, 3)), dtype='uint8')
    output = net(images).asnumpy()
    assert output.shape == (3, width)
    np.testing.assert_allclose(np.linalg.norm(output, axis=1), 1, rtol=1e-3)
