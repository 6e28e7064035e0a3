"""Prototypical loss: against the oracle, degenerate episodes."""
from __future__ import annotations

import numpy as np
import pytest

from models.losses.prototypical import PrototypicalLoss
from tests.models import loss_cases
from tests.oracles.prototypical import prototypical_loss

#: For the test that the hybridised loss repeats the eager one: name -> how to make it, and the order of its batches.
HYBRIDISED = {'prototypical': (lambda: PrototypicalLoss(nc=6, ns=2, nq=2), 'episodes')}

RANDOM = loss_cases.random_batches('episodes', scale=0.6)
DEGENERATE = loss_cases.degenerate_batches('episodes')


def make(batch, ns, nq, hybridize=True):
    loss = PrototypicalLoss(nc=len(np.unique(batch.labels)), ns=ns, nq=nq)
    if hybridize:
        loss.hybridize(static_alloc=True)
    return loss


@pytest.mark.parametrize('hybridize', [False, True])
@pytest.mark.parametrize('ns, nq', [(1, 3), (2, 2), (3, 1)])
@pytest.mark.parametrize('batch', RANDOM, ids=lambda batch: batch.name)
def test_value_and_gradient_match_the_oracle(batch, ns, nq, hybridize):
    loss_cases.assert_matches_oracle(make(batch, ns, nq, hybridize), lambda x, y: prototypical_loss(x, y, ns), batch)


def test_finite_differences():
    batch = RANDOM[1]
    loss_cases.check_finite_differences(make(batch, 1, 3), batch.embeddings, batch.labels)


@pytest.mark.parametrize('batch', DEGENERATE, ids=lambda batch: batch.name)
def test_degenerate_batches(batch):
    value = loss_cases.assert_finite(make(batch, 2, 2), batch)
    exact = prototypical_loss(batch.embeddings.astype(np.float64), batch.labels, ns=2)
    assert value == pytest.approx(exact, rel=1e-4, abs=1e-6)
    expected = {
        'one_class': 0.0,               # the only class is sure
        'identical': np.log(4),         # four classes, all alike
        'norm_1e-6': np.log(4),
    }
    if batch.name in expected:
        assert value == pytest.approx(expected[batch.name], rel=1e-5, abs=1e-6)


def test_smallest_episode():
    """Two classes of one support and one query row each."""
    x = np.array([[0, 0], [1, 0], [2, 0], [2, 0]], dtype=np.float32)
    batch = loss_cases.Batch('smallest', x, np.array([5, 5, 1, 1]), 6)
    value, _ = loss_cases.value_and_gradient(make(batch, 1, 1), batch.embeddings, batch.labels)
    assert value == pytest.approx((np.log(2) + np.log(1 + np.exp(-4))) / 2, rel=1e-5)
