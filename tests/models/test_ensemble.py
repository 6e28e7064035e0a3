"""DREML: random meta-classes, the loss over them, the concatenated embedding."""
from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest

from models.ensemble import MetaClassLoss, concatenate_members, random_meta_classes
from models.losses.proxy import ProxyLoss
from tests.models import loss_cases
from tests.oracles.proxy import softmax_proxy_loss


@pytest.mark.parametrize('num_classes, num_meta', [(100, 12), (12, 12), (13, 12), (5, 1), (11318, 48)])
def test_every_class_has_a_meta_class_and_none_is_empty(num_classes, num_meta):
    for seed in range(5):
        meta = random_meta_classes(num_classes, num_meta, np.random.RandomState(seed))
        assert meta.shape == (num_classes,) and meta.dtype == np.int64
        assert set(meta.tolist()) == set(range(num_meta))


def test_meta_classes_are_even_and_differ_between_members():
    rng = np.random.RandomState(0)
    members = np.array([random_meta_classes(60, 6, rng) for _ in range(2000)])
    counts = np.array([(members == m).sum(axis=0) for m in range(6)])          # (6, 60): 333 expected, sd 17
    assert np.abs(counts - 2000 / 6).max() < 85                                # five sd, at the first classes too
    together = (members[:, 0] == members[:, 1]).mean()
    assert abs(together - 1 / 6) < 0.05
    again = random_meta_classes(60, 6, np.random.RandomState(0))
    assert (again == members[0]).all() and (members[0] != members[1]).any()


@pytest.mark.parametrize('num_meta', [0, 6])
def test_impossible_numbers_of_meta_classes(num_meta):
    with pytest.raises(ValueError, match='5 classes'):
        random_meta_classes(5, num_meta, np.random.RandomState(0))


@pytest.mark.parametrize('hybridize', [False, True])
@pytest.mark.parametrize('static', [False, True])
def test_meta_class_loss_is_the_loss_of_the_meta_classes(static, hybridize):
    class_map = random_meta_classes(9, 4, np.random.RandomState(1))
    loss = MetaClassLoss(ProxyLoss(4, 4, static=static), class_map)
    loss.initialize()
    if hybridize:
        loss.hybridize(static_alloc=True)
    assert len(list(loss.collect_params())) == (0 if static else 1)
    proxies = np.eye(4) if static else loss.loss.proxies.data().asnumpy().astype(np.float64)
    for batch in loss_cases.random_batches(dim=4):
        loss_cases.assert_matches_oracle(
            loss, lambda x, y: softmax_proxy_loss(x, class_map[y], proxies, own_in_denominator=False), batch)


def test_unknown_class_is_an_error():
    loss = MetaClassLoss(ProxyLoss(2, 4), np.array([0, 1, 1]))
    loss.initialize()
    with pytest.raises(mx.base.MXNetError):
        loss(mx.nd.ones((1, 4)), mx.nd.array([3])).asnumpy()


def test_concatenated_members_count_alike():
    rng = np.random.RandomState(0)
    members = [rng.normal(size=(5, 3)).astype(np.float32), 1000 * rng.normal(size=(5, 4)).astype(np.float32)]
    joined = concatenate_members(members)
    assert joined.shape == (5, 7) and joined.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(joined[:, :3], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(joined[:, 3:], axis=1), 1, rtol=1e-5)
    # The similarity of the ensemble is the mean of the members' cosines.
    cosines = [(m @ m.T) / np.outer(np.linalg.norm(m, axis=1), np.linalg.norm(m, axis=1)) for m in members]
    np.testing.assert_allclose(joined @ joined.T, sum(cosines), atol=1e-5)
    assert np.isfinite(concatenate_members([np.zeros((2, 3), dtype=np.float32)])).all()
