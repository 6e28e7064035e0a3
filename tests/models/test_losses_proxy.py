"""Proxy-NCA, softmax, triplet and margin on proxies: against the oracle, degenerate batches, known mistakes."""
from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from models.losses.proxy import ProxyLoss
from tests.models import loss_cases
from tests.oracles import proxy as oracle

#: For the test that the hybridised loss repeats the eager one: name -> how to make it, and the order of its batches.
HYBRIDISED = {
    'proxy_nca': (lambda: ProxyLoss(loss_cases.CLASSES, loss_cases.DIM, kind='nca', label_smooth=0.1), 'any'),
    'proxy_xentropy': (lambda: ProxyLoss(loss_cases.CLASSES, loss_cases.DIM, kind='xentropy'), 'any'),
    'proxy_triplet': (lambda: ProxyLoss(loss_cases.CLASSES, loss_cases.DIM, kind='triplet'), 'any'),
    'proxymargin': (lambda: ProxyLoss(loss_cases.CLASSES, loss_cases.DIM, kind='proxymargin'), 'any')}

RANDOM = loss_cases.random_batches()
DEGENERATE = loss_cases.degenerate_batches()
DIM = RANDOM[0].embeddings.shape[1]
KINDS = ('nca', 'xentropy', 'triplet', 'proxymargin')


def make(num_classes, kind, hybridize=True, dim=DIM, seed=0, **kwargs):
    """A loss with proxies of unequal lengths, and a different beta for each class: a mix-up of indices shows."""
    rng = np.random.RandomState(seed)
    loss = ProxyLoss(num_classes, dim, kind=kind, **kwargs)
    loss.initialize()
    proxies = rng.normal(size=(num_classes, dim)) * rng.uniform(0.5, 2, size=(num_classes, 1))
    if not kwargs.get('static'):
        loss.proxies.set_data(mx.nd.array(proxies))
    if kind == 'proxymargin':
        loss.beta.set_data(mx.nd.array(rng.uniform(0.9, 1.4, size=num_classes)))
    if hybridize:
        loss.hybridize(static_alloc=True)
    return loss


def expected_loss(loss, kind, x, y, proxies=None, betas=None, s=3.0, temperature=1.0, smooth=0.0):
    x = x.astype(np.float64)
    proxies = loss.proxies.data().asnumpy().astype(np.float64) if proxies is None else proxies
    if kind == 'triplet':
        return oracle.triplet_proxy_loss(x, y, proxies, temperature)
    if kind == 'proxymargin':
        return oracle.margin_proxy_loss(x, y, proxies, loss.beta.data().asnumpy() if betas is None else betas)
    return oracle.softmax_proxy_loss(x, y, proxies, kind == 'xentropy', s, temperature, smooth)


@pytest.mark.parametrize('hybridize', [False, True])
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('batch', RANDOM, ids=lambda batch: batch.name)
def test_value_and_gradients_match_the_oracle(batch, kind, hybridize):
    loss = make(batch.num_classes, kind, hybridize)
    loss_cases.assert_matches_oracle(loss, lambda x, y: expected_loss(loss, kind, x, y), batch)
    x, y = batch.embeddings, batch.labels
    proxies = loss.proxies.data().asnumpy()
    expected = loss_cases.numeric_gradient(lambda p: expected_loss(loss, kind, x, y, proxies=p), proxies)
    np.testing.assert_allclose(loss.proxies.grad().asnumpy(), expected, atol=1e-4 * np.abs(expected).max())
    if kind == 'proxymargin':
        betas = loss.beta.data().asnumpy()
        expected = loss_cases.numeric_gradient(lambda b: expected_loss(loss, kind, x, y, betas=b), betas)
        np.testing.assert_allclose(loss.beta.grad().asnumpy(), expected, atol=1e-4)


@pytest.mark.parametrize('kind, settings', [
    ('nca', {'temperature': 0.4, 's': 2.0}), ('xentropy', {'temperature': 2.0, 's': 1.0}),
    ('triplet', {'temperature': 0.5}), ('nca', {'smooth': 0.1}), ('xentropy', {'smooth': 0.3})])
def test_settings_match_the_oracle(kind, settings):
    names = {'s': 'multiplier', 'smooth': 'label_smooth'}
    loss = make(9, kind, **{names.get(name, name): value for name, value in settings.items()})
    for batch in RANDOM:
        loss_cases.assert_matches_oracle(loss, lambda x, y: expected_loss(loss, kind, x, y, **settings), batch)


@pytest.mark.parametrize('kind', KINDS)
def test_finite_differences(kind):
    batch = RANDOM[1]
    loss = make(batch.num_classes, kind)
    loss_cases.check_finite_differences(loss, batch.embeddings, batch.labels, step=1e-3)
    for parameter in loss.collect_params().values():
        loss_cases.value_and_gradient(loss, batch.embeddings, batch.labels)
        grad, data = parameter.grad().asnumpy(), parameter.data().asnumpy()
        direction = grad / np.sqrt((grad ** 2).sum())
        ends = []
        for step in (2e-3, -2e-3):
            parameter.set_data(mx.nd.array(data + step * direction))
            ends.append(loss_cases.value_and_gradient(loss, batch.embeddings, batch.labels)[0])
        assert (ends[0] - ends[1]) / 4e-3 == pytest.approx((grad * direction).sum(), rel=0.02), parameter.name
        parameter.set_data(mx.nd.array(data))


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('batch', DEGENERATE, ids=lambda batch: batch.name)
def test_degenerate_batches(batch, kind):
    loss = make(batch.num_classes, kind)
    value = loss_cases.assert_finite(loss, batch)
    assert value == pytest.approx(expected_loss(loss, kind, batch.embeddings, batch.labels), rel=1e-3)


@pytest.mark.parametrize('kind, expected', [
    ('nca', np.log(4)), ('xentropy', np.log(5)), ('triplet', 1.0),
    ('proxymargin', ((0.2 + np.sqrt(2) - 1.2) + 0.0) / 1)])
def test_zero_embeddings_and_equal_proxies(kind, expected):
    """All proxies are equally far: chance for the softmaxes, the margin for the triplet; gradients stay finite."""
    loss = make(5, kind)
    if kind == 'proxymargin':
        loss.beta.set_data(mx.nd.full(5, 1.2))          # negatives at sqrt(2) > beta + margin cost nothing
    batch = loss_cases.Batch('zero', np.zeros((6, DIM), dtype=np.float32), np.array([0, 1, 2, 3, 4, 0]), 5)
    assert loss_cases.assert_finite(loss, batch) == pytest.approx(expected, rel=1e-5)
    if kind != 'proxymargin':
        loss.proxies.set_data(mx.nd.ones((5, DIM)))
        batch = loss_cases.Batch('random', RANDOM[0].embeddings, RANDOM[0].labels % 5, 5)
        assert loss_cases.assert_finite(loss, batch) == pytest.approx(expected, rel=1e-4)


def test_nca_leaves_the_own_class_out_of_the_denominator_without_losing_digits():
    """On the own proxy p_y -> 1: log(sum - exp(-d_y)) would be the log of rounding noise; here s^2 / T = 900."""
    proxies = np.eye(4, DIM)
    loss = make(4, 'nca', temperature=0.01)
    loss.proxies.set_data(mx.nd.array(proxies))
    batch = loss_cases.Batch('own', proxies.astype(np.float32), np.arange(4), 4)
    assert loss_cases.assert_finite(loss, batch) == pytest.approx(-1800 + np.log(3), rel=1e-5)      # may be negative


@pytest.mark.parametrize('kind', KINDS)
def test_own_proxy_attracts_and_others_repel(kind):
    batch = RANDOM[3]
    loss = make(batch.num_classes, kind)
    _, grad = loss_cases.value_and_gradient(loss, batch.embeddings, batch.labels)

    def own_minus_others(x):
        proxies = loss_cases.normalise(loss.proxies.data().asnumpy())
        similarity = loss_cases.normalise(x) @ proxies.T
        own = similarity[np.arange(len(x)), batch.labels]
        return (own - (similarity.sum(axis=1) - own) / (batch.num_classes - 1)).mean()

    assert own_minus_others(batch.embeddings - 0.1 * grad) > own_minus_others(batch.embeddings)
    before = own_minus_others(batch.embeddings)
    loss.proxies.set_data(loss.proxies.data() - 0.1 * loss.proxies.grad())
    assert own_minus_others(batch.embeddings) > before


@pytest.mark.parametrize('kind', KINDS)
def test_order_of_the_batch_does_not_matter(kind):
    batch = RANDOM[4]
    loss = make(batch.num_classes, kind)
    value, grad = loss_cases.value_and_gradient(loss, batch.embeddings, batch.labels)
    order = np.random.RandomState(2).permutation(len(batch.labels))
    other_value, other_grad = loss_cases.value_and_gradient(loss, batch.embeddings[order], batch.labels[order])
    assert other_value == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(other_grad, grad[order], atol=1e-6)


def test_beta_follows_the_class_not_the_place_in_the_batch():
    loss = make(9, 'proxymargin')
    loss_cases.value_and_gradient(loss, RANDOM[0].embeddings, RANDOM[0].labels)
    grad = loss.beta.grad().asnumpy()
    absent = np.setdiff1d(np.arange(9), RANDOM[0].labels)
    assert len(absent) and (grad[absent] == 0).all() and (grad != 0).any()


@pytest.mark.parametrize('kind', KINDS)
def test_static_proxies_are_one_hot(kind):
    batch = loss_cases.random_batches(dim=9)[0]
    loss = make(9, kind, dim=9, static=True)
    assert not [name for name in loss.collect_params() if 'proxies' in name]
    loss_cases.assert_matches_oracle(loss, lambda x, y: expected_loss(loss, kind, x, y, proxies=np.eye(9)), batch)


def test_proxies_start_on_the_unit_sphere_roughly():
    mx.random.seed(3)
    loss = ProxyLoss(200, 64)
    loss.initialize()
    lengths = np.linalg.norm(loss.proxies.data().asnumpy(), axis=1)
    assert abs(lengths.mean() - 1) < 0.05 and lengths.std() > 0.02


@pytest.mark.parametrize('arguments', [
    {'kind': 'softmax'}, {'num_classes': 1}, {'kind': 'triplet', 'label_smooth': 0.1}, {'static': True}])
def test_refused_settings(arguments):
    with pytest.raises(ValueError):
        ProxyLoss(**{'num_classes': 5, 'embed_dim': 8, **arguments})
