"""The distances that the losses share: right in float32, finite gradients, device and host alike."""
from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from models.losses.distances import (
    distances,
    host_squared_distances,
    other_rows,
    same_class,
    squared_distances,
    weighted_sum,
)
from tests.oracles.distance import squared_distance


def exact(x, y):
    return np.array([[squared_distance(a, b) for b in y] for a in x])


@pytest.mark.parametrize('offset, scale', [(0, 1), (1000, 1), (-30, 1e-3), (0, 1e-6), (0, 1e3)])
def test_squared_distances_whatever_the_offset_and_scale(offset, scale):
    rng = np.random.RandomState(0)
    x, y = ((offset + scale * rng.normal(size=(n, 8))).astype(np.float32) for n in (7, 5))
    bound = 1e-5 * scale ** 2 + 1e-6 * abs(offset) * scale
    for other in (None, y):
        found = squared_distances(mx.nd, mx.nd.array(x), None if other is None else mx.nd.array(other)).asnumpy()
        expected = exact(x.astype(np.float64), (x if other is None else other).astype(np.float64))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=bound)
    expected = exact(x.astype(np.float64), x.astype(np.float64))
    np.testing.assert_allclose(host_squared_distances(x), expected, rtol=1e-9, atol=1e-14 * (scale ** 2 + offset ** 2))


def test_coinciding_points_have_distance_and_gradient_zero():
    x = mx.nd.ones((6, 4)) * 1000.3
    x.attach_grad()
    with mx.autograd.record():
        d = distances(mx.nd, x)
        total = d.sum()
    total.backward()
    assert d.asnumpy().max() < 1e-3 and np.abs(x.grad.asnumpy()).max() == 0


def test_gradient_of_the_distances_is_the_direction():
    x = mx.nd.array([[0, 0], [3, 4]])
    x.attach_grad()
    with mx.autograd.record():
        d = distances(mx.nd, x)[0, 1]
    d.backward()
    np.testing.assert_allclose(x.grad.asnumpy(), [[-0.6, -0.8], [0.6, 0.8]], rtol=1e-5)


def test_masks():
    labels = mx.nd.array([70000, 3, 70000], dtype='int64')
    assert same_class(mx.nd, labels).asnumpy().tolist() == [[1, 0, 1], [0, 1, 0], [1, 0, 1]]
    assert (other_rows(mx.nd, labels).asnumpy() == 1 - np.eye(3)).all()
    a, b = np.random.RandomState(0).normal(size=(2, 4, 5))
    assert weighted_sum(mx.nd, mx.nd.array(a), mx.nd.array(b)).asscalar() == pytest.approx((a * b).sum(), rel=1e-5)
