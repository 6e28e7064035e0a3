"""Metrics of an embedding's structure against loops over pairs; invariances; degenerate sets; the sample of pairs."""
from __future__ import annotations

import math

import numpy as np
import pytest

from common.evaluation import evaluate, structure
from common.evaluation.structure import draw_pairs, structure_metrics
from common.stats import PLAIN_METRICS, STRUCTURE_METRICS, describe_metrics, metric_name
from tests.oracles import structure as oracle


def clusters(count=60, classes=9, dims=6, spread=0.7, seed=0):
    """Classes of different sizes, some of one image, in a shuffled order."""
    rng = np.random.RandomState(seed)
    labels = np.minimum(rng.randint(0, classes, count), rng.randint(0, classes, count))
    labels[:2] = classes + np.arange(2)
    return (rng.randn(classes + 2, dims)[labels] + spread * rng.randn(count, dims)).astype(np.float32), labels


CASES = {
    'easy': lambda: clusters(spread=0.2),
    'mixed': lambda: clusters(),
    'hard': lambda: clusters(spread=20.0),
    'unequal axes': lambda: ((clusters()[0] * 10.0 ** -np.arange(0, 3, 0.5)).astype(np.float32), clusters()[1]),
    'float64': lambda: (clusters()[0].astype(np.float64) / 3, clusters()[1]),
    'huge': lambda: (clusters()[0].astype(np.float64) * 1e300, clusters()[1]),
    'tiny': lambda: (clusters()[0].astype(np.float64) * 1e-300, clusters()[1]),
    'integers': lambda: (np.round(300 * clusters()[0]).astype(np.int64), clusters()[1]),
    'more dimensions than images': lambda: (clusters(30, 4, 50)[0], clusters(30, 4, 50)[1]),
    'two classes': lambda: (clusters()[0], clusters()[1] % 2),
    'negative labels': lambda: (clusters()[0], -7 * clusters()[1]),
    'one class': lambda: (clusters()[0], clusters()[1] * 0),
    'classes of one image': lambda: (clusters()[0], np.arange(60)),
    'two images of one class': lambda: (clusters()[0][:2], np.array([5, 5])),
    'two images of two classes': lambda: (clusters()[0][:2], np.array([5, 6])),
    'one dimension': lambda: (clusters()[0][:, :1], clusters()[1]),
    'all equal': lambda: (np.full((20, 3), 0.1, np.float32), np.arange(20) % 4),
    'all zero': lambda: (np.zeros((20, 3), np.float32), np.arange(20) % 4),
    'some zero': lambda: (clusters()[0] * (np.arange(60) % 3 > 0)[:, None], clusters()[1]),
    'duplicates': lambda: (clusters()[0][np.arange(60) // 3], clusters()[1]),
    'opposites': lambda: (np.array([[1, 2], [-1, -2], [3, 1], [-3, -1]], np.float32), np.array([0, 0, 1, 1])),
    'in a plane': lambda: (clusters()[0] * np.array([1, 1, 0, 0, 0, 0]), clusters()[1]),
}


@pytest.mark.parametrize('name', CASES)
def test_metrics_are_those_of_loops_over_pairs(name, monkeypatch):
    monkeypatch.setattr(structure, 'ROWS', 7)
    monkeypatch.setattr(structure, 'CACHED', 140)
    monkeypatch.setattr(structure, 'PAIRS', 100)
    x, labels = CASES[name]()
    got, expected = structure_metrics(x, labels), oracle.structure(x, labels)
    assert list(got) == [metric for metric in STRUCTURE_METRICS if metric in expected]
    assert all(math.isfinite(value) for value in got.values())
    for metric, value in expected.items():
        if name == 'some zero' and metric in STRUCTURE_METRICS[6:]:
            continue                        # which of the many distances of 1 is larger is rounding
        assert got[metric] == pytest.approx(value, rel=1e-5 if metric == 'rho' else 1e-6, abs=1e-6), metric


def test_cosine_distances_of_a_worked_example():
    """Class 0 at 0 and 90 degrees (centre 45), class 1 at 180 and 180 degrees."""
    x, labels = np.array([[2, 0], [0, 3], [-1, 0], [-5, 0]], np.float32), np.array([0, 0, 1, 1])
    got = structure_metrics(x, labels)
    assert got['intra_distance'] == pytest.approx((1 + 0) / 2) and got['alignment'] == pytest.approx((2 + 0) / 2)
    assert got['inter_distance'] == pytest.approx(1 - math.cos(math.radians(135)))
    assert got['distance_ratio'] == pytest.approx(0.5 / (1 + math.sqrt(0.5)))
    values = np.array([math.sqrt(3), 1]) / (math.sqrt(3) + 1)           # x^T x = diag(3, 1)
    assert got['rho'] == pytest.approx(np.mean(np.log(0.5 / values)))
    # From the first image the two of class 1 are at distance 4, from the second at 2; the pairs of one class: 2 and 0.
    assert got['pair_auc'] == pytest.approx(100 * (4 + 2 + 2 * 0.5) / 8)


def test_rho_is_0_where_all_directions_are_used_alike():
    assert structure_metrics(np.eye(8), np.arange(8) % 2)['rho'] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize('change', ['rotation', 'scale', 'order', 'names of classes', 'length of each'])
def test_what_does_not_matter(change):
    x, labels = clusters(400, 30, 8)
    rng = np.random.RandomState(1)
    others = {'rotation': lambda: (x.astype(np.float64).dot(np.linalg.qr(rng.randn(8, 8))[0]), labels),
              'scale': lambda: (x * 0.125, labels),
              'order': lambda: (lambda order: (x[order], labels[order]))(rng.permutation(400)),
              'names of classes': lambda: (x, 1000 - 3 * labels),
              'length of each': lambda: (x * rng.uniform(0.1, 9, (400, 1)), labels)}
    first, other = structure_metrics(x, labels), structure_metrics(*others[change]())
    sampled = ('pair_auc', 'uniformity')
    for metric, value in first.items():
        if change in ('order', 'names of classes') and (metric.startswith('tpr') or metric in sampled):
            continue                        # another sample, see below
        # tpr: two pairs at nearly the same distance may change places
        assert other[metric] == pytest.approx(value, rel=1e-5, abs=0.02 if metric.startswith('tpr') else 1e-5), metric


def test_sample_is_the_same_at_every_evaluation_and_close_to_all_pairs(monkeypatch):
    x, labels = clusters(500, 40, 8)
    everything = structure_metrics(x, labels)
    monkeypatch.setattr(structure, 'POSITIVE_PAIRS', 4000)
    monkeypatch.setattr(structure, 'NEGATIVE_PAIRS', 20000)
    first = structure_metrics(x, labels, seed=3)
    assert structure_metrics(x, labels, seed=3) == first
    other = structure_metrics(x, labels, seed=4)
    assert other['pair_auc'] != first['pair_auc'] and other['rho'] == first['rho']
    for got in first, other:
        assert got['pair_auc'] == pytest.approx(everything['pair_auc'], abs=1)      # 0.2 is their standard deviation
        assert got['uniformity'] == pytest.approx(everything['uniformity'], abs=0.05)
        assert got['tpr@0.01'] == pytest.approx(everything['tpr@0.01'], abs=5)


@pytest.mark.parametrize('same', [True, False])
@pytest.mark.parametrize('counts', [[1, 5, 2, 1, 7, 3], [4], [1, 1, 1], [30, 1], [2, 2]])
def test_all_pairs_are_drawn_once_where_they_are_few(counts, same):
    labels = np.repeat(np.arange(len(counts)), counts)
    i, j = draw_pairs(np.array(counts), same, 1000, np.random.RandomState(0))
    expected = [(a, b) for a in range(len(labels)) for b in range(len(labels))
                if a < b and (labels[a] == labels[b]) == same]
    assert sorted(zip(i.tolist(), j.tolist())) == expected


@pytest.mark.parametrize('same', [True, False])
def test_every_pair_has_the_same_chance(same):
    counts = np.array([1, 5, 2, 1, 7, 3])
    labels = np.repeat(np.arange(6), counts)
    rng, times = np.random.RandomState(0), np.zeros((19, 19))
    for _ in range(4000):
        i, j = draw_pairs(counts, same, 30, rng)
        assert len(i) == 30
        np.add.at(times, (i, j), 1)
    allowed = (labels[:, None] == labels) == same
    np.fill_diagonal(allowed, False)
    assert not times[~allowed].any()
    mean = 4000 * 30 / allowed.sum()
    assert (abs(times[allowed] - mean) < 5 * math.sqrt(mean)).all()


def test_threads_and_blocks_do_not_change_anything(monkeypatch):
    x, labels = clusters(700, 9, 8)
    first = structure_metrics(x, labels)
    for threads, pairs, cached in (('2', 8192, 65536), ('3', 1000, 1 << 12), ('1', 1 << 20, 8)):
        monkeypatch.setenv('OMP_NUM_THREADS', threads)
        monkeypatch.setattr(structure, 'PAIRS', pairs)
        monkeypatch.setattr(structure, 'CACHED', cached)
        assert structure_metrics(x, labels) == first


def test_evaluate_has_them_after_those_of_retrieval():
    x, labels = clusters()
    metrics = evaluate(x, labels, ks=(1, 2), seed=5)
    assert list(metrics) == ['recall@1', 'recall@2', 'map@r', 'r_precision', 'nmi', *STRUCTURE_METRICS]
    for metric, value in structure_metrics(x, labels, seed=5).items():
        assert metrics[metric] == value
    queries = evaluate(x[:40], labels[:40], x[40:], labels[40:], with_nmi=False)        # of the queries alone
    assert queries['intra_distance'] == structure_metrics(x[:40], labels[:40])['intra_distance']


def test_names():
    assert all(metric_name(metric) for metric in STRUCTURE_METRICS) and set(PLAIN_METRICS) < set(STRUCTURE_METRICS)
    assert describe_metrics({'recall@1': 12.345, 'rho': 0.5, 'pair_auc': 99.0, 'nmi': 3.0}) == \
        'R@1 12.35  NMI (geometric mean) 3.00'
