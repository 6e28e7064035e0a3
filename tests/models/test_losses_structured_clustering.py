"""Clustering loss: the vectorised search against brute force, value and gradient, degenerate batches."""
from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

from models.losses.structured_clustering import StructuredClusteringLoss
from models.losses.medoids import MedoidSearch
from tests.models import loss_cases
from tests.oracles import structured_clustering as oracle

#: For the test that the hybridised loss repeats the eager one: name -> how to make it, and the order of its batches.
HYBRIDISED = {'structured_clustering': (StructuredClusteringLoss, 'any')}

RANDOM = loss_cases.random_batches(unit=True)
DEGENERATE = loss_cases.degenerate_batches(unit=True)


def make(hybridize=True, **kwargs):
    loss = StructuredClusteringLoss(**kwargs)
    if hybridize:
        loss.hybridize(static_alloc=True)
    return loss


def problem(seed, batch=14, num_classes=4, dim=3):
    """Distances and labels with classes of unequal sizes, in any order."""
    rng = np.random.RandomState(seed)
    labels = np.append(np.arange(num_classes), rng.randint(num_classes, size=batch - num_classes))
    labels = rng.permutation(labels)
    x = loss_cases.normalise(rng.normal(size=(batch, dim)) + 0.6 * rng.normal(size=(num_classes, dim))[labels])
    return np.array(oracle.distance_matrix(x.astype(np.float64))), labels


def brute_force_loss(batch, **kwargs):
    x = batch.embeddings.astype(np.float64)
    return oracle.cluster_loss(x, batch.labels, oracle.search(x, batch.labels, **kwargs))


def score(search, distances, labels, medoids):
    assigned, delta = search.assign(medoids)
    return -distances[np.arange(len(labels)), medoids[assigned]].sum() + search.gamma * delta


@pytest.mark.parametrize('hybridize', [False, True])
@pytest.mark.parametrize('gamma', [0.3, 1.0, 10.0])
@pytest.mark.parametrize('batch', RANDOM, ids=lambda batch: batch.name)
def test_value_and_gradient_match_the_oracle(batch, gamma, hybridize):
    medoids = oracle.search(batch.embeddings.astype(np.float64), batch.labels, gamma)     # found outside the gradient
    assert oracle.cluster_loss(batch.embeddings.astype(np.float64), batch.labels, medoids, gamma) > 0
    loss_cases.assert_matches_oracle(make(hybridize, gamma=gamma),
                                     lambda x, y: oracle.cluster_loss(x, y, medoids, gamma), batch)


def test_finite_differences():
    loss_cases.check_finite_differences(make(), RANDOM[1].embeddings, RANDOM[1].labels, step=1e-3)


@pytest.mark.parametrize('gamma', [0.0, 1.0, 20.0])
@pytest.mark.parametrize('seed', range(6))
def test_search_chooses_the_medoids_of_the_brute_force_loops(seed, gamma):
    distances, labels = problem(seed, batch=10 + 2 * seed, num_classes=2 + seed)
    search = MedoidSearch(distances, labels, gamma)
    greedy = search.greedy()
    assert greedy.tolist() == oracle.greedy(distances.tolist(), labels.tolist(), gamma)
    for rounds in (1, 5):
        expected = oracle.refine(distances.tolist(), labels.tolist(), greedy.tolist(), gamma, rounds)
        assert search.refine(greedy, rounds).tolist() == expected


def test_assignment_and_delta_match_the_oracle_and_scikit_learn():
    distances, labels = problem(3, batch=30, num_classes=6)
    search = MedoidSearch(distances, labels)
    medoids = np.random.RandomState(0).permutation(30)[:6]
    assigned, delta = search.assign(medoids)
    assert assigned.tolist() == oracle.assign(distances.tolist(), medoids.tolist())
    geometric = normalized_mutual_info_score(labels, assigned, average_method='geometric')
    assert delta == pytest.approx(1 - geometric, abs=1e-12) == 1 - oracle.nmi(labels.tolist(), assigned.tolist())
    assert abs(geometric - normalized_mutual_info_score(labels, assigned)) > 1e-6      # so the choice of mean shows


def test_refinement_raises_the_score_and_comes_near_the_optimum():
    gaps, raised = [], 0                # of this kind of problem the search solves four in five exactly
    for seed in range(40):
        distances, labels = problem(seed, batch=9, num_classes=3)
        search = MedoidSearch(distances, labels)
        greedy = search.greedy()
        refined = search.refine(greedy, 5)
        before, after = (score(search, distances, labels, medoids) for medoids in (greedy, refined))
        assert len(set(refined)) == 3
        assert after >= before
        raised += after > before
        best = oracle.exhaustive(distances.tolist(), labels.tolist(), 1.0)
        assert after <= best + 1e-9
        gaps.append((best - after) / abs(best))
    assert raised > 5
    assert np.mean(np.array(gaps) < 1e-9) >= 0.7 and np.mean(gaps) < 0.05


def test_labels_may_be_any_integers_in_any_order():
    batch = RANDOM[0]
    value, grad = loss_cases.value_and_gradient(make(), batch.embeddings, batch.labels)
    order = np.random.RandomState(4).permutation(len(batch.labels))
    renamed = 5000 - 7 * batch.labels
    other_value, other_grad = loss_cases.value_and_gradient(make(), batch.embeddings[order], renamed[order])
    assert other_value == pytest.approx(value, rel=1e-5)
    np.testing.assert_allclose(other_grad, grad[order], atol=1e-5)


def test_zero_rounds_leave_the_greedy_choice():
    for batch in RANDOM:
        expected = brute_force_loss(batch, max_rounds=0)
        value, _ = loss_cases.value_and_gradient(make(max_pam_rounds=0), batch.embeddings, batch.labels)
        assert value == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('batch', DEGENERATE, ids=lambda batch: batch.name)
def test_degenerate_batches(batch):
    value = loss_cases.assert_finite(make(), batch)
    expected = {
        'one_class': 0.0,               # one medoid, that of the class
        'batch_of_two': 0.0,
        'all_distinct': 0.0,            # every point its own medoid: F = 0, NMI = 1
        'batch_of_two_distinct': 0.0,
        'identical': 1.0,               # F = F~ = 0, and one cluster holds everything: Delta = 1
    }
    if batch.name in expected:
        assert value == pytest.approx(expected[batch.name], abs=1e-6)
    else:
        assert value == pytest.approx(brute_force_loss(batch), rel=1e-3)
    if batch.name == 'norm_1e-6':       # distances vanish beside the margin, which is gamma for the worst clustering
        assert 0.2 < value <= 1.0


def test_separated_classes_cost_nothing():
    labels = np.repeat(np.arange(4), 3)
    x = 100 * np.eye(4)[labels] + np.random.RandomState(0).normal(size=(12, 4))
    value, grad = loss_cases.value_and_gradient(make(), x.astype(np.float32), labels)
    assert value == 0 and (grad == 0).all()


def test_a_search_that_falls_short_of_the_classes_costs_nothing():
    """Here greedy choice and swaps end in a local optimum 0.5 below F~: the hinge holds the loss at 0."""
    rng, labels = np.random.RandomState(394), np.repeat(np.arange(4), 3)
    x = loss_cases.normalise(0.3 * rng.normal(size=(12, 3)) + rng.normal(size=(4, 3))[labels])
    distances = np.array(oracle.distance_matrix(x.astype(np.float64)))
    search = MedoidSearch(distances, labels, 0.05)
    found = score(search, distances, labels, search.refine(search.greedy(), 5))
    assert found < oracle.facility_of_classes(distances.tolist(), labels.tolist()) - 0.5
    value, grad = loss_cases.value_and_gradient(make(gamma=0.05), x, labels)
    assert value == 0 and (grad == 0).all()


def test_a_gradient_step_lowers_the_loss():
    batch = RANDOM[2]
    loss = make()
    before, grad = loss_cases.value_and_gradient(loss, batch.embeddings, batch.labels)
    after, _ = loss_cases.value_and_gradient(loss, batch.embeddings - 0.02 * grad, batch.labels)
    assert after < before
