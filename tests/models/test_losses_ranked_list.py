"""Ranked list loss: against the oracle, degenerate batches."""
from __future__ import annotations

import numpy as np
import pytest

from models.losses.ranked_list import RankedListLoss
from tests.models import loss_cases
from tests.oracles.ranked_list import ranked_list_loss

#: For the test that the hybridised loss repeats the eager one: name -> how to make it, and the order of its batches.
HYBRIDISED = {'ranked_list': (RankedListLoss, 'any')}

RANDOM = loss_cases.random_batches(unit=True)
DEGENERATE = loss_cases.degenerate_batches(unit=True)


def make(hybridize=True, **kwargs):
    loss = RankedListLoss(**kwargs)
    if hybridize:
        loss.hybridize(static_alloc=True)
    return loss


@pytest.mark.parametrize('hybridize', [False, True])
@pytest.mark.parametrize('options', [
    {}, {'lam': 0.2}, {'alpha': 1.0, 'margin': 0.6, 'temperature': 3.0}, {'alpha': 0.7, 'margin': 0.3},
    {'alpha': 0.3, 'margin': 0.5}], ids=str)
@pytest.mark.parametrize('batch', RANDOM, ids=lambda batch: batch.name)
def test_value_and_gradient_match_the_oracle(batch, options, hybridize):
    fixed = batch.embeddings.astype(np.float64)
    loss_cases.assert_matches_oracle(make(hybridize, **options),
                                     lambda x, y: ranked_list_loss(x, y, weights_at=fixed, **options), batch)


def test_finite_differences():
    """Where w does not matter: T = 0 weighs evenly, so that differences of the loss itself are its gradient."""
    batch = RANDOM[0]
    loss_cases.check_finite_differences(make(temperature=0.0), batch.embeddings, batch.labels, step=1e-4, rtol=5e-2)


@pytest.mark.parametrize('batch', DEGENERATE, ids=lambda batch: batch.name)
def test_degenerate_batches(batch):
    value = loss_cases.assert_finite(make(), batch)
    exact = ranked_list_loss(batch.embeddings.astype(np.float64), batch.labels)
    assert value == pytest.approx(exact, rel=1e-4, abs=1e-6)
    d = np.sqrt(((batch.embeddings[0] - batch.embeddings[1]) ** 2).sum())
    expected = {
        'batch_of_two': 0.5 * max(d - 0.8, 0),
        'batch_of_two_distinct': 0.5 * max(1.2 - d, 0),
        'identical': 0.5 * 1.2,         # no positive is far, all negatives are at 0
        'norm_1e-6': 0.5 * 1.2,
    }
    if batch.name in expected:
        assert value == pytest.approx(expected[batch.name], rel=1e-4, abs=1e-6)


def test_only_trivial_pairs():
    x = loss_cases.normalise(np.array([[1, 0], [1, 0.01], [-1, 0], [-1, 0.01]]))
    value, grad = loss_cases.value_and_gradient(make(), x, np.array([0, 0, 1, 1]))
    assert value == 0 and (grad == 0).all()


@pytest.mark.parametrize('temperature', [0.0, 1000.0])
def test_extreme_temperatures(temperature):
    """T = 0 is the mean over negatives, a large T their hardest; exp(T alpha) alone would overflow."""
    batch = RANDOM[0]
    value = loss_cases.assert_finite(make(temperature=temperature, lam=1.0), batch)
    d = np.sqrt(((batch.embeddings[:, None] - batch.embeddings) ** 2).sum(axis=2))
    terms = []
    for i, label in enumerate(batch.labels):
        near = d[i][(batch.labels != label) & (d[i] < 1.2)]
        far = d[i][(batch.labels == label) & (d[i] > 0.8)]
        if len(near) or len(far):
            pick = near.mean if temperature == 0 else near.min
            terms.append(1.2 - pick() if len(near) else 0.0)
    assert value == pytest.approx(np.mean(terms), rel=1e-3)
