"""N-pair loss: against the oracle, degenerate batches, one image as both anchor and positive."""
from __future__ import annotations

import numpy as np
import pytest

from models.losses.npairs import NPairLoss
from tests.models import loss_cases
from tests.oracles.npairs import npair_loss

#: For the test that the hybridised loss repeats the eager one: name -> how to make it, and the order of its batches.
HYBRIDISED = {'npairs': (lambda: NPairLoss(symmetric=True), 'pairs')}

RANDOM = loss_cases.random_batches('pairs')
DEGENERATE = loss_cases.degenerate_batches('pairs', unit=True)


def make(hybridize=True, **kwargs):
    loss = NPairLoss(**kwargs)
    if hybridize:
        loss.hybridize(static_alloc=True)
    return loss


@pytest.mark.parametrize('hybridize', [False, True])
@pytest.mark.parametrize('l2_reg, symmetric', [(0.0005, False), (0.1, False), (0.0, True), (0.0005, True)])
@pytest.mark.parametrize('batch', RANDOM, ids=lambda batch: batch.name)
def test_value_and_gradient_match_the_oracle(batch, l2_reg, symmetric, hybridize):
    loss_cases.assert_matches_oracle(make(hybridize, l2_reg=l2_reg, symmetric=symmetric),
                                     lambda x, y: npair_loss(x, y, l2_reg, symmetric), batch)


@pytest.mark.parametrize('symmetric', [False, True])
def test_finite_differences(symmetric):
    batch = RANDOM[1]
    loss_cases.check_finite_differences(make(symmetric=symmetric), batch.embeddings, batch.labels)


@pytest.mark.parametrize('batch', DEGENERATE, ids=lambda batch: batch.name)
def test_degenerate_batches(batch):
    value = loss_cases.assert_finite(make(), batch)
    assert value == pytest.approx(npair_loss(batch.embeddings.astype(np.float64), batch.labels), rel=1e-4)
    regulariser = 2 * 0.0005  # of norm 1
    expected = {
        'one_class': regulariser,       # a single pair: log(1 + nothing)
        'batch_of_two': regulariser,
        'identical': np.log(4) + regulariser,  # four pairs, all scores alike
        'norm_1e-6': np.log(4),
    }
    if batch.name in expected:
        assert value == pytest.approx(expected[batch.name], rel=1e-5)


def test_one_image_as_anchor_and_positive():
    """`same_image_prob` of the sampler: equal embeddings in a pair."""
    batch = RANDOM[2]
    batch = loss_cases.Batch('same_image', np.repeat(batch.embeddings[::2], 2, axis=0), batch.labels, batch.num_classes)
    loss_cases.assert_matches_oracle(make(), npair_loss, batch)


def test_pairs_of_one_class_are_no_negatives():
    x = np.random.RandomState(0).normal(size=(6, 5)).astype(np.float32)
    both, _ = loss_cases.value_and_gradient(make(l2_reg=0), x, np.array([2, 2, 2, 2, 2, 2]))
    assert both == 0
    value, _ = loss_cases.value_and_gradient(make(l2_reg=0), x, np.array([4, 4, 2, 2, 4, 4]))
    scores = x[::2].astype(np.float64) @ x[1::2].T
    scores -= scores.diagonal()[:, None]
    sums = [np.exp(scores[0, 1]), np.exp(scores[1, 0]) + np.exp(scores[1, 2]), np.exp(scores[2, 1])]
    assert value == pytest.approx(np.log1p(sums).mean(), rel=1e-5)
