"""Margin loss: against the oracle, its sampling against the exact distribution, degenerate batches."""
from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from scipy import stats

from models.losses.margin import MarginLoss
from tests.models import loss_cases
from tests.oracles.margin import margin_loss, negative_probabilities

#: For the test that the hybridised loss repeats the eager one: name -> how to make it, and the order of its batches.
HYBRIDISED = {'margin': (lambda: MarginLoss(loss_cases.CLASSES, nu=0.1), 'any')}

RANDOM = loss_cases.random_batches(unit=True)
DEGENERATE = loss_cases.degenerate_batches(unit=True)


def make(num_classes, hybridize=True, betas=None, **kwargs):
    loss = MarginLoss(num_classes, **kwargs)
    loss.initialize()
    if betas is not None:
        loss.beta.set_data(mx.nd.array(betas))
    if hybridize:
        loss.hybridize(static_alloc=True)
    return loss


def negative_pairs(loss, batch, seed):
    """The (anchor, negative) pairs that the loss draws next after `reseed(seed)`."""
    loss.reseed(seed)
    pairs = loss.sample(batch.embeddings, batch.labels)
    loss.reseed(seed)
    drawn = np.argwhere(pairs * (batch.labels[:, None] != batch.labels))
    return [(a, n) for a, n in drawn for _ in range(int(pairs[a, n]))]


@pytest.mark.parametrize('hybridize', [False, True])
@pytest.mark.parametrize('nu', [0.0, 0.3])
@pytest.mark.parametrize('batch', RANDOM, ids=lambda batch: batch.name)
def test_value_and_gradients_match_the_oracle(batch, nu, hybridize):
    betas = np.random.RandomState(1).uniform(0.9, 1.3, size=batch.num_classes)  # by class: a mix-up of indices shows
    loss = make(batch.num_classes, hybridize, betas, nu=nu)
    pairs = negative_pairs(loss, batch, seed=5)
    loss_cases.assert_matches_oracle(loss, lambda x, y: margin_loss(x, y, betas, pairs, nu=nu), batch)
    expected = loss_cases.numeric_gradient(
        lambda b: margin_loss(batch.embeddings.astype(np.float64), batch.labels, b, pairs, nu=nu), betas)
    np.testing.assert_allclose(loss.beta.grad().asnumpy(), expected, atol=1e-4)


def test_beta_follows_the_class_not_the_place_in_the_batch():
    batch = RANDOM[0]
    present, absent = batch.labels, np.setdiff1d(np.arange(batch.num_classes), batch.labels)
    loss = make(batch.num_classes)
    loss_cases.value_and_gradient(loss, batch.embeddings, batch.labels)
    grad = loss.beta.grad().asnumpy()
    assert len(absent) and (grad[absent] == 0).all() and (grad[present] != 0).any()


def test_finite_differences():
    batch = RANDOM[1]
    loss = make(batch.num_classes)

    def same_draws(x, y):
        loss.reseed(3)
        return loss(x, y)

    loss_cases.check_finite_differences(same_draws, batch.embeddings, batch.labels, step=1e-3)


@pytest.mark.parametrize('batch', DEGENERATE, ids=lambda batch: batch.name)
def test_degenerate_batches(batch):
    loss = make(batch.num_classes)
    pairs = negative_pairs(loss, batch, seed=2)
    value = loss_cases.assert_finite(loss, batch)
    betas = np.full(batch.num_classes, 1.2)
    exact = margin_loss(batch.embeddings.astype(np.float64), batch.labels, betas, pairs)
    assert value == pytest.approx(exact, rel=1e-4)
    expected = {
        'all_distinct': 0.0,                # no positive pair, so no pair at all
        'batch_of_two_distinct': 0.0,
        'identical': 0.2 + 1.2,             # positives are within beta, all negatives at distance 0
        'norm_1e-6': 0.2 + 1.2,
    }
    if batch.name in expected:
        assert value == pytest.approx(expected[batch.name], abs=1e-4)
    if batch.name == 'norm_1e3':            # positives a thousand apart, no negative near
        assert value > 100


def test_fewer_images_than_k_and_odd_classes_draw_one_negative_for_each_positive_pair():
    labels = np.array([4, 0, 4, 4, 2, 0])
    x = loss_cases.normalise(np.random.RandomState(0).normal(size=(6, 8)))
    pairs = make(5).sample(x, labels)
    same = labels[:, None] == labels
    positives = same & ~np.eye(6, dtype=bool)
    assert (pairs[positives] == 1).all() and (pairs.diagonal() == 0).all()
    assert (np.where(same, 0, pairs).sum(axis=1) == positives.sum(axis=1)).all()


@pytest.mark.parametrize('dim, spread', [(3, 1.0), (16, 1.0), (64, 0.6), (128, 4.0)])
def test_sampling_follows_the_exact_distribution(dim, spread):
    """Chi-square over all anchors, classes of 4, 3, 2 and 1 images; small `spread`: distances below the cut-off."""
    rng = np.random.RandomState(dim)
    labels = rng.permutation([0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9])
    x = loss_cases.normalise(np.eye(dim)[0] + spread * rng.normal(size=(16, dim)) / np.sqrt(dim))
    loss = make(10, seed=11)
    repeats = 4000
    counts = sum(loss.sample(x, labels) for _ in range(repeats))
    for anchor in np.flatnonzero(np.bincount(labels)[labels] > 1):
        p = np.array(negative_probabilities(x.astype(np.float64), labels, anchor))
        draws = repeats * (np.sum(labels == labels[anchor]) - 1)
        observed = np.where(labels == labels[anchor], 0, counts[anchor])
        assert observed.sum() == draws and (observed[p == 0] == 0).all()
        often = p * draws >= 5  # chi-square wants cells of five; the rare ones are counted together
        seen, expected = observed[often], p[often] * draws
        if (~often).any() and p[~often].sum() * draws >= 5:
            seen, expected = np.append(seen, observed[~often].sum()), np.append(expected, p[~often].sum() * draws)
        if len(seen) > 1:
            statistic = ((seen - expected) ** 2 / expected).sum()
            assert stats.chi2.sf(statistic, len(seen) - 1) > 1e-4, anchor


def test_anchor_without_near_negative_draws_evenly():
    x = np.array([[1, 0, 0, 0], [0.99, 0.1, 0, 0], [-1, 0, 0, 0], [-0.9, 0.1, 0, 0]], dtype=np.float32)
    loss = make(3)
    counts = sum(loss.sample(loss_cases.normalise(x), np.array([0, 0, 1, 2])) for _ in range(2000))
    assert abs(counts[0, 2] - 1000) < 120 and counts[0, 2] + counts[0, 3] == 2000


def test_reseed_repeats_the_draws():
    batch = RANDOM[2]
    loss = make(batch.num_classes)
    first, second = (loss.sample(batch.embeddings, batch.labels) for _ in range(2))
    assert (first != second).any()
    loss.reseed(0)
    assert (loss.sample(batch.embeddings, batch.labels) == first).all()


def test_learn_beta_false_fixes_beta():
    loss = make(4, learn_beta=False)
    assert loss.beta.grad_req == 'null'
    np.testing.assert_array_equal(loss.beta.data().asnumpy(), np.full(4, 1.2, dtype=np.float32))
    loss_cases.value_and_gradient(loss, *(RANDOM[0].embeddings, RANDOM[0].labels % 4))
