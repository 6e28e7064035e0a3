"""Normalised softmax: against the oracle, the sign of the similarity, degenerate batches."""
from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from models.losses.normproxy import NormProxyLoss
from tests.models import loss_cases
from tests.oracles.proxy import norm_proxy_loss

#: For the test that the hybridised loss repeats the eager one: name -> how to make it, and the order of its batches.
HYBRIDISED = {'normproxy': (lambda: NormProxyLoss(loss_cases.CLASSES, loss_cases.DIM), 'any')}

RANDOM = loss_cases.random_batches()
DEGENERATE = loss_cases.degenerate_batches()
DIM = RANDOM[0].embeddings.shape[1]


def make(num_classes, hybridize=True, dim=DIM, **kwargs):
    loss = NormProxyLoss(num_classes, dim, **kwargs)
    loss.initialize()
    if not kwargs.get('static'):
        rng = np.random.RandomState(0)
        proxies = rng.normal(size=(num_classes, dim)) * rng.uniform(0.5, 2, size=(num_classes, 1))
        loss.proxies.set_data(mx.nd.array(proxies))
    if hybridize:
        loss.hybridize(static_alloc=True)
    return loss


def proxies_of(loss):
    return loss.proxies.data().asnumpy().astype(np.float64)


@pytest.mark.parametrize('hybridize', [False, True])
@pytest.mark.parametrize('sigma, smooth', [(0.05, 0.1), (0.05, 0.0), (0.7, 0.3)])
@pytest.mark.parametrize('batch', RANDOM, ids=lambda batch: batch.name)
def test_value_and_gradients_match_the_oracle(batch, sigma, smooth, hybridize):
    loss = make(batch.num_classes, hybridize, temperature=sigma, label_smooth=smooth)
    proxies = proxies_of(loss)
    loss_cases.assert_matches_oracle(loss, lambda x, y: norm_proxy_loss(x, y, proxies, sigma, smooth), batch)
    x = batch.embeddings.astype(np.float64)
    expected = loss_cases.numeric_gradient(lambda p: norm_proxy_loss(x, batch.labels, p, sigma, smooth), proxies)
    np.testing.assert_allclose(loss.proxies.grad().asnumpy(), expected, atol=1e-4 * np.abs(expected).max())


def test_finite_differences():
    batch = RANDOM[1]
    loss = make(batch.num_classes)
    loss_cases.check_finite_differences(loss, batch.embeddings, batch.labels, step=1e-3)
    loss_cases.value_and_gradient(loss, batch.embeddings, batch.labels)
    grad, data = loss.proxies.grad().asnumpy(), loss.proxies.data().asnumpy()
    direction, ends = grad / np.sqrt((grad ** 2).sum()), []
    for step in (2e-3, -2e-3):
        loss.proxies.set_data(mx.nd.array(data + step * direction))
        ends.append(loss_cases.value_and_gradient(loss, batch.embeddings, batch.labels)[0])
    assert (ends[0] - ends[1]) / 4e-3 == pytest.approx((grad * direction).sum(), rel=0.02)


@pytest.mark.parametrize('batch', DEGENERATE, ids=lambda batch: batch.name)
def test_degenerate_batches(batch):
    loss = make(batch.num_classes)
    value = loss_cases.assert_finite(loss, batch)
    expected = norm_proxy_loss(batch.embeddings.astype(np.float64), batch.labels, proxies_of(loss))
    assert value == pytest.approx(expected, rel=1e-3)


def test_zero_embeddings_are_chance():
    batch = loss_cases.Batch('zero', np.zeros((6, DIM), dtype=np.float32), np.arange(6), 7)
    assert loss_cases.assert_finite(make(7), batch) == pytest.approx(np.log(7), rel=1e-5)


def test_own_proxy_attracts():
    """The known mistake is the sign: a step down the gradient must raise the similarity to the own proxy."""
    batch = RANDOM[3]
    loss = make(batch.num_classes)

    def own_similarity(x):
        return (loss_cases.normalise(x) * loss_cases.normalise(proxies_of(loss))[batch.labels]).sum(axis=1)

    _, grad = loss_cases.value_and_gradient(loss, batch.embeddings, batch.labels)
    before = own_similarity(batch.embeddings)
    assert (own_similarity(batch.embeddings - 0.02 * grad) > before).mean() > 0.8
    assert own_similarity(batch.embeddings - 0.02 * grad).mean() > before.mean()
    loss.proxies.set_data(loss.proxies.data() - 0.02 * loss.proxies.grad())
    assert own_similarity(batch.embeddings).mean() > before.mean()
    # And an embedding on its proxy costs less than one opposite to it.
    on, _ = loss_cases.value_and_gradient(loss, proxies_of(loss), np.arange(batch.num_classes))
    opposite, _ = loss_cases.value_and_gradient(loss, -proxies_of(loss), np.arange(batch.num_classes))
    assert on < 5 < opposite


def test_static_proxies_are_one_hot():
    batch = loss_cases.random_batches(dim=9)[0]
    loss = make(9, dim=9, static=True)
    assert not list(loss.collect_params())
    loss_cases.assert_matches_oracle(loss, lambda x, y: norm_proxy_loss(x, y, np.eye(9)), batch)
    with pytest.raises(ValueError, match='embed_dim'):
        NormProxyLoss(9, 8, static=True)
