"""Every loss, hybridised, repeats what it gives eagerly, batch after batch.

MXNet 1.9.1 reuses buffers with static_alloc, and has been seen to corrupt gradients where an input that has none is
handed on as it is.
"""
from __future__ import annotations

import importlib
import inspect
import pkgutil

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

import models.losses
from tests.models import loss_cases
from tests.models.loss_cases import CLASSES, DIM

MODULES = [name for _, name, _ in pkgutil.iter_modules(models.losses.__path__)]


def its_tests(module):
    """The module of tests of a loss's module; None where there is none."""
    name = f'tests.models.test_losses_{module}'
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


LOSSES = {name: made for module in MODULES for name, made in getattr(its_tests(module), 'HYBRIDISED', {}).items()}


@pytest.mark.parametrize('module', MODULES)
def test_every_loss_is_compared_with_an_oracle(module):
    defined = {name for name, value in vars(importlib.import_module(f'models.losses.{module}')).items()
               if inspect.isclass(value) and issubclass(value, gluon.loss.Loss)
               and value.__module__ == f'models.losses.{module}'}
    if defined:
        tests = its_tests(module)
        assert tests is not None, f'there is no tests/models/test_losses_{module}.py'
        assert getattr(tests, 'HYBRIDISED', None), f'tests/models/test_losses_{module}.py has no HYBRIDISED'
        assert 'oracle' in inspect.getsource(tests), f'tests/models/test_losses_{module}.py has no oracle'


def batches(layout):
    """Four batches of one shape."""
    rng = np.random.RandomState(0)
    for _ in range(4):
        size = {'any': None, 'pairs': 2, 'episodes': 4}[layout]
        labels = rng.randint(DIM, size=24) if size is None else np.repeat(rng.permutation(CLASSES)[:24 // size], size)
        yield loss_cases.normalise(rng.normal(size=(len(labels), DIM))), labels


def trace(make, layout, **hybridize):
    """Values and gradients, those of parameters too, of four batches one after another."""
    mx.random.seed(1)
    loss = make()
    loss.initialize()
    if hybridize:
        loss.hybridize(**hybridize)
    found = []
    for x, y in batches(layout):
        value, grad = loss_cases.value_and_gradient(loss, x, y)
        found.append([np.array(value), grad] + [parameter.grad().asnumpy().copy() for parameter in
                                                loss.collect_params().values() if parameter.grad_req != 'null'])
    return found


@pytest.mark.parametrize('static_shape', [False, True])
@pytest.mark.parametrize('name', sorted(LOSSES))
def test_hybridised_as_eager(name, static_shape):
    eager, hybrid = trace(*LOSSES[name]), trace(*LOSSES[name], static_alloc=True, static_shape=static_shape)
    for ours, theirs in zip(hybrid, eager):
        for a, b in zip(ours, theirs):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * max(np.abs(b).max(), 1e-3))


@pytest.mark.parametrize('name', [name for name in sorted(LOSSES) if LOSSES[name][1] != 'episodes'])  # of fixed shape
def test_batches_of_changing_size(name):
    make, layout = LOSSES[name]
    eager, hybrid = make(), make()
    mx.random.seed(1)
    eager.initialize()
    mx.random.seed(1)
    hybrid.initialize()
    hybrid.hybridize(static_alloc=True)
    for (x, y), size in zip(batches(layout), (24, 8, 16, 24)):
        ours, theirs = (loss_cases.value_and_gradient(loss, x[:size], y[:size]) for loss in (hybrid, eager))
        assert ours[0] == pytest.approx(theirs[0], rel=1e-4, abs=1e-5)
        np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-3, atol=1e-5)
