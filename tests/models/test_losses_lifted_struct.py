"""Lifted structured loss: against the oracle, degenerate batches."""
from __future__ import annotations

import numpy as np
import pytest

from models.losses.lifted_struct import LiftedStructLoss
from tests.models import loss_cases
from tests.oracles.lifted_struct import lifted_struct_loss

#: For the test that the hybridised loss repeats the eager one: name -> how to make it, and the order of its batches.
HYBRIDISED = {'lifted_struct': (LiftedStructLoss, 'any')}

RANDOM = loss_cases.random_batches()
DEGENERATE = loss_cases.degenerate_batches()


def make(hybridize=True, **kwargs):
    loss = LiftedStructLoss(**kwargs)
    if hybridize:
        loss.hybridize(static_alloc=True)
    return loss


@pytest.mark.parametrize('hybridize', [False, True])
@pytest.mark.parametrize('margin', [1.0, 0.3])
@pytest.mark.parametrize('batch', RANDOM, ids=lambda batch: batch.name)
def test_value_and_gradient_match_the_oracle(batch, margin, hybridize):
    loss = make(hybridize, margin=margin)
    loss_cases.assert_matches_oracle(loss, lambda x, y: lifted_struct_loss(x, y, margin), batch)


def test_negative_j_counts_as_zero():
    """Two tight classes far apart: every J is below 0, loss and gradient vanish."""
    x = np.array([[0, 0], [0.1, 0], [90, 0], [90.1, 0]], dtype=np.float32)
    value, grad = loss_cases.value_and_gradient(make(), x, np.array([0, 0, 1, 1]))
    assert value == 0 and (grad == 0).all()


def test_finite_differences():
    batch = RANDOM[0]
    loss_cases.check_finite_differences(make(), batch.embeddings, batch.labels)


@pytest.mark.parametrize('batch', DEGENERATE, ids=lambda batch: batch.name)
def test_degenerate_batches(batch):
    value = loss_cases.assert_finite(make(), batch)
    exact = lifted_struct_loss(batch.embeddings.astype(np.float64), batch.labels)
    assert value == pytest.approx(exact, rel=1e-4, abs=1e-6)
    collapsed = (np.log(2 * 12) + 1) ** 2 / 2  # all D = 0: each end of a pair has 12 negatives
    expected = {'one_class': 0.0, 'all_distinct': 0.0, 'batch_of_two': 0.0, 'batch_of_two_distinct': 0.0,
                'identical': collapsed, 'norm_1e-6': collapsed}
    if batch.name in expected:
        assert value == pytest.approx(expected[batch.name], rel=1e-5)
