"""k-means against scikit-learn and a plain Lloyd's algorithm; NMI against scikit-learn."""
from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score

from common.evaluation import clustering
from common.evaluation.clustering import Lloyd, kmeans, nearest_centres, nmi, plus_plus
from common.evaluation.retrieval import EvaluationError


def blobs(count=600, classes=40, dims=8, spread=0.5, seed=0):
    rng = np.random.RandomState(seed)
    labels = rng.randint(0, classes, count)
    return (rng.randn(classes, dims)[labels] + spread * rng.randn(count, dims)).astype(np.float32), labels


def squared_distances(x, centres):
    return ((x[:, None].astype(np.float64) - centres[None]) ** 2).sum(axis=2)


@pytest.mark.parametrize('k', [1, 2, 40, 599, 600])
def test_result_is_a_fixed_point_of_lloyd(k):
    x, _ = blobs()
    index, centres, inertia = kmeans(x, k, tol=0, swap_tol=0)
    squared = squared_distances(x, centres)
    own = squared[np.arange(len(x)), index]
    assert index.dtype == np.int64 and centres.shape == (k, 8)
    np.testing.assert_allclose(own, squared.min(axis=1), rtol=1e-4, atol=1e-4)      # everyone is with the nearest
    np.testing.assert_allclose(own.sum(), inertia, rtol=1e-4, atol=1e-6)
    assert np.bincount(index, minlength=k).all()
    for c in range(k):
        np.testing.assert_allclose(centres[c], x[index == c].mean(axis=0), atol=1e-4)


@pytest.mark.parametrize('spread', [0.2, 0.5, 1.0, 3.0])
def test_inertia_near_that_of_scikit_learn(spread):
    x, _ = blobs(2000, 200, 16, spread)
    reference = KMeans(200, n_init=1, random_state=0).fit(x).inertia_
    for seed in range(3):
        assert kmeans(x, 200, seed=seed)[2] <= 1.02 * reference


def test_distinct_blobs_are_found():
    x, labels = blobs(1500, 100, spread=0.01)
    assert nmi(labels, kmeans(x, 100)[0]) == 1.0


def test_same_seed_same_result(monkeypatch):
    x, _ = blobs()
    first = kmeans(x, 40, seed=7)
    for threads in '1', '3':
        monkeypatch.setenv('OMP_NUM_THREADS', threads)
        for a, b in zip(first, kmeans(x, 40, seed=7)):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first[0], kmeans(x, 40, seed=8)[0])


def test_global_generators_are_left_alone():
    np.random.seed(3)
    expected = np.random.rand()
    np.random.seed(3)
    kmeans(*blobs()[:1], 5)
    assert np.random.rand() == expected


def test_offset_and_scale_change_nothing():
    x = np.round(blobs(512)[0] * 64)    # so many that both means are exact, and all the rest is the same bits
    plain = kmeans(x, 40)
    moved = kmeans(x * 2.0 ** 40 + 2.0 ** 50, 40)
    np.testing.assert_array_equal(plain[0], moved[0])
    np.testing.assert_allclose(moved[1], plain[1] * 2.0 ** 40 + 2.0 ** 50, rtol=1e-6)


@pytest.mark.parametrize('k', [3, 5, 9])
def test_fewer_distinct_points_than_clusters(k):
    x = np.repeat(np.eye(4, dtype=np.float32), 5, axis=0)
    index, centres, inertia = kmeans(x, k)
    assert index.shape == (20,) and np.isfinite(centres).all()
    assert inertia == pytest.approx(0 if k > 3 else 5, abs=1e-9)
    assert len(np.unique(index)) == min(k, 4)
    assert kmeans(np.ones((6, 2)), k - 1 if k < 9 else 6)[2] == 0


def test_empty_clusters_are_filled():
    x, _ = blobs()
    centres = np.concatenate([x[:5], np.full((15, 8), 1e3, np.float32)])        # 15 that nobody is near to
    state = Lloyd(x, centres.copy())
    assert (np.bincount(state.index, minlength=20) == 0).sum() == 15
    state.step()
    assert np.bincount(state.index, minlength=20).all()
    state.run(100, 1e-4)
    assert np.bincount(state.index, minlength=20).all()
    assert state.inertia < 1.3 * kmeans(x, 20)[2]


def test_skipped_work_changes_nothing():
    """Step by step the same as Lloyd's algorithm that computes all distances."""
    x, _ = blobs(spread=1.0)
    start = x[np.random.RandomState(1).permutation(len(x))[:50]]
    state, centres = Lloyd(x, start.copy()), start.astype(np.float64)
    for _ in range(12):
        index = squared_distances(x, centres).argmin(axis=1)
        np.testing.assert_array_equal(state.index, index)
        centres = np.array([x[index == c].mean(axis=0, dtype=np.float64) for c in range(50)])
        state.step()
        np.testing.assert_allclose(state.centres, centres, atol=1e-5)


def test_swaps_lower_the_inertia():
    """Two centres in one blob and one for two blobs: Lloyd's algorithm cannot repair that, a swap can."""
    x = np.concatenate([np.random.RandomState(i).randn(30, 2) * 0.1 + 10 * np.array([i, 0]) for i in range(4)])
    x = x.astype(np.float32)
    state = Lloyd(x, np.array([[-.1, 0], [.1, 0], [10, 0], [25, 0]], np.float32))
    state.run(100, 0)
    stuck = state.inertia
    assert state.swap(np.random.RandomState(0))
    state.run(100, 0)
    assert state.inertia < 0.01 * stuck
    assert not state.swap(np.random.RandomState(0))


def test_nearest_centres_in_blocks(monkeypatch):
    x, _ = blobs(100)
    monkeypatch.setattr(clustering, 'POINTS', 7)
    monkeypatch.setattr(clustering, 'CENTRES', 9)
    monkeypatch.setattr(clustering, 'on_host', lambda ctx: ctx is None)
    squared = squared_distances(x, x[:31])
    for ctx in None, mx.cpu():                      # the second as on a GPU
        index, value, second = nearest_centres(x, x[:31], ctx, with_second=True)
        np.testing.assert_array_equal(index, squared.argmin(axis=1))
        norms = (x.astype(np.float64) ** 2).sum(axis=1)
        np.testing.assert_allclose(value + norms, squared.min(axis=1), atol=1e-4)
        np.testing.assert_allclose(second + norms, np.sort(squared, axis=1)[:, 1], atol=1e-4)
        others = squared_distances(x, x)
        np.fill_diagonal(others, np.inf)
        np.testing.assert_array_equal(nearest_centres(x, x, ctx, itself=True)[0], others.argmin(axis=1))
        assert np.isinf(nearest_centres(x, x[:1], ctx, with_second=True)[2]).all()


def test_plus_plus_draws_from_its_distribution():
    """Third centres, given the first two, against the exact chances (chi-square)."""
    x = np.array([[0.], [1.], [3.], [7.], [8.]], np.float32)
    counts = {}
    draws = 3000
    for seed in range(draws):
        a, b, c = plus_plus(x, 3, np.random.RandomState(seed))
        counts[a, b, c] = counts.get((a, b, c), 0) + 1
    statistic, cells = 0.0, 0
    for a in range(5):
        first = (x[:, 0] - x[a]) ** 2
        for b in np.flatnonzero(first):
            weights = np.minimum(first, (x[:, 0] - x[b]) ** 2)
            for c in np.flatnonzero(weights):
                expected = draws / 5 * first[b] / first.sum() * weights[c] / weights.sum()
                statistic += (counts.pop((a, b, c), 0) - expected) ** 2 / expected
                cells += 1
    assert not counts                               # nothing that cannot be drawn
    assert cells == 60 and statistic < 98.3         # the 0.999 quantile for 59 degrees of freedom


def test_plus_plus_draws_different_points():
    x, _ = blobs(300)
    for k in 1, 7, 150, 300:
        assert len(set(plus_plus(x, k, np.random.RandomState(0)))) == k
    wide = np.random.RandomState(0).randn(300, 2000).astype(np.float32)    # rounding leaves more there
    assert len(set(plus_plus(wide, 300, np.random.RandomState(0)))) == 300
    doubled = np.concatenate([x, x])
    assert len(np.unique(doubled[plus_plus(doubled, 300, np.random.RandomState(0))], axis=0)) == 300


@pytest.mark.parametrize('x, k', [(np.zeros((3, 2)), 4), (np.zeros((3, 2)), 0), (np.full((3, 2), np.nan), 2),
                                  (np.zeros((0, 2)), 1), (np.zeros(3), 1)])
def test_kmeans_refuses(x, k):
    with pytest.raises(EvaluationError):
        kmeans(x, k)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 5), st.integers(0, 6)), min_size=1, max_size=60),
       st.sampled_from(['geometric', 'arithmetic', 'min', 'max']))
def test_nmi_is_that_of_scikit_learn(pairs, average):
    labels, clusters = np.array(pairs).T
    assert nmi(labels, clusters, average) == pytest.approx(
        normalized_mutual_info_score(labels, clusters, average_method=average), abs=1e-12)


def test_nmi_of_many_classes():
    rng = np.random.RandomState(0)
    labels, clusters = rng.randint(0, 5000, 30000), rng.randint(0, 7000, 30000)
    clusters[::2] = labels[::2]
    for average in 'geometric', 'arithmetic', 'min', 'max':
        assert nmi(labels, clusters, average) == pytest.approx(
            normalized_mutual_info_score(labels, clusters, average_method=average), abs=1e-12)
    assert nmi(labels, clusters) == pytest.approx(nmi(labels, clusters, 'geometric'))


def test_nmi_limit_cases():
    assert nmi([0, 0, 1, 1], [5, 5, 2, 2]) == 1.0
    assert nmi([0, 0, 0], [1, 1, 1]) == 1.0
    assert nmi([0, 0, 0], [0, 1, 2]) == 0.0
    assert nmi([0, 1, 0, 1], [0, 0, 1, 1]) == pytest.approx(0, abs=1e-15)
    for arguments in (([0, 1], [0]), ([], []), ([0.5, 1], [0, 1]), ([0, 1], [0, 1], 'harmonic')):
        with pytest.raises(EvaluationError):
            nmi(*arguments)
