"""Angular loss: against the oracle, degenerate batches, one image as both anchor and positive."""
from __future__ import annotations

import numpy as np
import pytest

from models.losses.angular import AngularLoss
from tests.models import loss_cases
from tests.oracles.npairs import angular_loss

#: For the test that the hybridised loss repeats the eager one: name -> how to make it, and the order of its batches.
HYBRIDISED = {'angular': (lambda: AngularLoss(npair_lambda=0.5, symmetric=True), 'pairs')}

RANDOM = loss_cases.random_batches('pairs', scale=0.6)
DEGENERATE = loss_cases.degenerate_batches('pairs', unit=True)


def make(hybridize=True, **kwargs):
    loss = AngularLoss(**kwargs)
    if hybridize:
        loss.hybridize(static_alloc=True)
    return loss


@pytest.mark.parametrize('hybridize', [False, True])
@pytest.mark.parametrize('options', [
    {}, {'symmetric': True}, {'alpha_degrees': 36.0, 'l2_reg': 0.1}, {'npair_lambda': 2.0},
    {'npair_lambda': 0.5, 'symmetric': True, 'l2_reg': 0.1}], ids=str)
@pytest.mark.parametrize('batch', RANDOM, ids=lambda batch: batch.name)
def test_value_and_gradient_match_the_oracle(batch, options, hybridize):
    loss_cases.assert_matches_oracle(make(hybridize, **options), lambda x, y: angular_loss(x, y, **options), batch)


def test_finite_differences():
    batch = RANDOM[1]
    loss_cases.check_finite_differences(make(npair_lambda=1.0), batch.embeddings, batch.labels)


@pytest.mark.parametrize('batch', DEGENERATE, ids=lambda batch: batch.name)
def test_degenerate_batches(batch):
    value = loss_cases.assert_finite(make(), batch)
    assert value == pytest.approx(angular_loss(batch.embeddings.astype(np.float64), batch.labels), rel=1e-4)
    regulariser = 2 * 0.0005  # of norm 1
    expected = {
        'one_class': regulariser,       # a single pair: no negative
        'batch_of_two': regulariser,
        'identical': np.log(1 + 3 * np.exp(4)) + regulariser,  # f = 4 (1 + 1) - 4 = 4 for three negatives
        'norm_1e-6': np.log(4),
    }
    if batch.name in expected:
        assert value == pytest.approx(expected[batch.name], rel=1e-5)


def test_one_image_as_anchor_and_positive():
    """`same_image_prob` of the sampler: equal embeddings in a pair."""
    batch = RANDOM[2]
    batch = loss_cases.Batch('same_image', np.repeat(batch.embeddings[::2], 2, axis=0), batch.labels, batch.num_classes)
    loss_cases.assert_matches_oracle(make(), angular_loss, batch)


def test_pairs_of_one_class_are_no_negatives():
    x = np.random.RandomState(0).normal(size=(6, 5)).astype(np.float32)
    value, _ = loss_cases.value_and_gradient(make(l2_reg=0), x, np.array([2, 2, 2, 2, 2, 2]))
    assert value == 0
