"""Discriminative loss: against the oracle, the bound on the triplet loss, the sign of the gain, degenerate batches."""
from __future__ import annotations

import itertools

import numpy as np
import pytest

from models.losses.discriminative import DiscriminativeLoss
from tests.models import loss_cases
from tests.oracles.discriminative import discriminative_loss
from tests.oracles.distance import distance

#: For the test that the hybridised loss repeats the eager one: name -> how to make it, and the order of its batches.
HYBRIDISED = {'discriminative': (lambda: DiscriminativeLoss(loss_cases.DIM), 'any')}

RANDOM = loss_cases.random_batches(dim=9, unit=True)
NAMES = [batch.name for batch in loss_cases.degenerate_batches()]


def make(num_classes, hybridize=True, **kwargs):
    loss = DiscriminativeLoss(num_classes, **kwargs)
    if hybridize:
        loss.hybridize(static_alloc=True)
    return loss


def degenerate(name):
    """The case of that name, with embeddings in R^C."""
    num_classes = next(batch.num_classes for batch in loss_cases.degenerate_batches() if batch.name == name)
    return next(b for b in loss_cases.degenerate_batches(dim=num_classes, unit=True) if b.name == name)


@pytest.mark.parametrize('hybridize', [False, True])
@pytest.mark.parametrize('gain, squared', [(1.0, False), (2.5, False), (1.0, True)])
@pytest.mark.parametrize('batch', RANDOM, ids=lambda batch: batch.name)
def test_value_and_gradient_match_the_oracle(batch, gain, squared, hybridize):
    loss = make(9, hybridize, gain=gain, squared=squared)
    loss_cases.assert_matches_oracle(loss, lambda x, y: discriminative_loss(x, y, gain, squared), batch)


@pytest.mark.parametrize('squared', [False, True])
def test_finite_differences(squared):
    loss_cases.check_finite_differences(make(9, squared=squared), RANDOM[1].embeddings, RANDOM[1].labels)


@pytest.mark.parametrize('squared', [False, True])
@pytest.mark.parametrize('name', NAMES)
def test_degenerate_batches(name, squared):
    batch = degenerate(name)
    value = loss_cases.assert_finite(make(batch.num_classes, squared=squared), batch)
    expected = discriminative_loss(batch.embeddings.astype(np.float64), batch.labels, squared=squared)
    assert value == pytest.approx(expected, rel=1e-4, abs=1e-4)
    if name == 'norm_1e-6':             # near 0 all centroids are at distance 1
        assert value == pytest.approx(1 - 1 / 3, abs=1e-4)


@pytest.mark.parametrize('squared', [False, True])
def test_embeddings_on_their_centroids(squared):
    """The minimum over the unit sphere, -sqrt(2) / 3 (squared: -2 / 3), where the root has no derivative."""
    batch = loss_cases.Batch('own', np.eye(6, dtype=np.float32), np.arange(6), 6)
    value = loss_cases.assert_finite(make(6, squared=squared), batch)
    assert value == pytest.approx(-2 / 3 if squared else -np.sqrt(2) / 3, abs=1e-5)


@pytest.mark.parametrize('batch_size', [2, 5, 64, 300])
def test_a_step_moves_to_the_own_centroid_whatever_the_batch_size(batch_size):
    """The known mistake: a gain made of the batch size, which turns the objective round where that is below C."""
    num_classes, rng = 100, np.random.RandomState(0)
    f = loss_cases.normalise(rng.normal(size=(batch_size, num_classes)))
    labels = rng.randint(num_classes, size=batch_size)
    value, grad = loss_cases.value_and_gradient(make(num_classes), f, labels)
    moved = loss_cases.normalise(f - 0.1 * batch_size * grad)
    rows = np.arange(batch_size)
    assert (moved[rows, labels] > f[rows, labels]).all()
    assert loss_cases.value_and_gradient(make(num_classes), moved, labels)[0] < value
    # G scales the gradient and nothing else.
    _, twice = loss_cases.value_and_gradient(make(num_classes, gain=2.0), f, labels)
    np.testing.assert_allclose(twice, 2 * grad, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize('spread', [0.0, 0.1, 0.5, 3.0])
def test_bounds_the_triplet_loss(spread):
    """The theorem: with K images of each of C classes, the sum of D_ap - D_an over all triplets is at most
    3 K (K - 1) (C - 1) B L, and equal to that where all images lie on their centroids."""
    num_classes, k, rng = 4, 3, np.random.RandomState(0)
    labels = rng.permutation(np.repeat(np.arange(num_classes), k))
    f = loss_cases.normalise(np.eye(num_classes)[labels] + spread * rng.normal(size=(len(labels), num_classes)))
    triplets = sum(distance(f[a], f[p]) - distance(f[a], f[n]) for a, p, n in itertools.product(range(len(f)), repeat=3)
                   if a != p and labels[a] == labels[p] and labels[a] != labels[n])
    value, _ = loss_cases.value_and_gradient(make(num_classes), f, labels)
    bound = 3 * k * (k - 1) * (num_classes - 1) * len(f) * value
    if spread == 0:
        assert triplets == pytest.approx(bound, rel=1e-4)
    else:
        assert triplets < bound


@pytest.mark.parametrize('arguments', [{'num_classes': 1}, {'gain': 0.0}, {'gain': -1.0}])
def test_refused_settings(arguments):
    with pytest.raises(ValueError):
        DiscriminativeLoss(**{'num_classes': 5, **arguments})
