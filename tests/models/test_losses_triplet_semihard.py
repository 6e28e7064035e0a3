"""Triplet loss with semi-hard negatives: against the oracle, its mining, degenerate batches."""
from __future__ import annotations

import numpy as np
import pytest

from models.losses.triplet_semihard import TripletSemihardLoss
from tests.models import loss_cases
from tests.oracles.triplet_semihard import triplet_semihard_loss

#: For the test that the hybridised loss repeats the eager one: name -> how to make it, and the order of its batches.
HYBRIDISED = {'triplet_semihard': (TripletSemihardLoss, 'any')}

RANDOM = loss_cases.random_batches(scale=0.5)
DEGENERATE = loss_cases.degenerate_batches()


def make(hybridize=True, **kwargs):
    loss = TripletSemihardLoss(**kwargs)
    if hybridize:
        loss.hybridize(static_alloc=True)
    return loss


@pytest.mark.parametrize('hybridize', [False, True])
@pytest.mark.parametrize('margin', [1.0, 0.2])
@pytest.mark.parametrize('batch', RANDOM, ids=lambda batch: batch.name)
def test_value_and_gradient_match_the_oracle(batch, margin, hybridize):
    loss = make(hybridize, margin=margin)
    loss_cases.assert_matches_oracle(loss, lambda x, y: triplet_semihard_loss(x, y, margin), batch)


def test_both_kinds_of_negatives_are_in_the_random_batches():
    """Otherwise the comparison above would show less than it seems to."""
    easiest = semihard = 0
    for batch in RANDOM:
        d2 = ((batch.embeddings[:, None] - batch.embeddings) ** 2).sum(axis=2)
        for a, p in np.argwhere(batch.labels[:, None] == batch.labels):
            if a != p and (d2[a][batch.labels != batch.labels[a]] > d2[a, p]).any():
                semihard += 1
            elif a != p:
                easiest += 1
    assert easiest > 5 and semihard > 50


def test_finite_differences():
    batch = RANDOM[3]
    loss_cases.check_finite_differences(make(margin=2.0), batch.embeddings, batch.labels, step=1e-3)


@pytest.mark.parametrize('batch', DEGENERATE, ids=lambda batch: batch.name)
def test_degenerate_batches(batch):
    value = loss_cases.assert_finite(make(), batch)
    exact = triplet_semihard_loss(batch.embeddings.astype(np.float64), batch.labels)
    assert value == pytest.approx(exact, rel=1e-4, abs=1e-6)
    expected = {
        'one_class': 0.0,               # no negative: no triplet
        'all_distinct': 0.0,            # no positive pair
        'batch_of_two': 0.0,
        'batch_of_two_distinct': 0.0,
        'identical': 1.0,               # all distances 0: the margin remains
        'norm_1e-6': 1.0,
    }
    if batch.name in expected:
        assert value == pytest.approx(expected[batch.name], abs=1e-6)


def test_a_negative_as_far_as_the_positive_is_not_semihard():
    """The same picture under two labels: n* is the next farther one."""
    x = np.array([[0, 0], [1, 0], [1, 0], [0, 2], [5, 5]], dtype=np.float32)
    labels = np.array([7, 7, 3, 4, 5])
    weights, negatives = TripletSemihardLoss.mine(x, labels)
    assert np.argwhere(weights).tolist() == [[0, 1], [1, 0]] and negatives[0, 1] == 0 * 5 + 3
    for order in np.random.RandomState(0).permutation(24).tolist():  # the answer does not hang on the order of rows
        shuffle = np.random.RandomState(order).permutation(5)
        weights, negatives = TripletSemihardLoss.mine(x[shuffle], labels[shuffle])
        a, p = np.flatnonzero(shuffle == 0)[0], np.flatnonzero(shuffle == 1)[0]
        assert weights[a, p] == 0.5 and shuffle[negatives[a, p] - a * 5] == 3
