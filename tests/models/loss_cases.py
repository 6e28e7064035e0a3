"""What the tests of every loss share: batches, the comparison with a float64 oracle, and the finite-difference check.

An oracle is a function ``oracle(embeddings, labels) -> float`` in float64 NumPy, written with loops from the paper's
formula. Its gradient is had by central differences, so that no derivation stands between the formula and the test.

Layouts, as the samplers promise them: 'any' (any order), 'pairs' (rows 2i and 2i + 1 of one class, classes distinct),
'episodes' (per class `per_class` rows one after another).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, List, Optional, Tuple

import mxnet as mx
import numpy as np

#: Classes and dimensions of the losses that `HYBRIDISED` of a test module makes.
CLASSES, DIM = 12, 8

Oracle = Callable[[np.ndarray, np.ndarray], float]


@dataclass
class Batch:
    """One batch: embeddings (B, E) float32, labels (B,) int64 below `num_classes`."""

    name: str
    embeddings: np.ndarray
    labels: np.ndarray
    num_classes: int


def normalise(x: np.ndarray) -> np.ndarray:
    """Scale the rows of `x` (B, E) to norm 1."""
    return (x / np.sqrt((x * x).sum(axis=1, keepdims=True))).astype(np.float32)


def _labels(rng: np.random.RandomState, layout: str, batch: int, per_class: int, num_classes: int) -> np.ndarray:
    if layout == 'any':
        return rng.randint(num_classes, size=batch)
    size = 2 if layout == 'pairs' else per_class
    return np.repeat(rng.permutation(num_classes)[:batch // size], size)


def random_batches(layout: str = 'any', dim: int = 6, num_classes: int = 9, per_class: int = 4, unit: bool = False,
                   scale: float = 1.0, seed: int = 0) -> List[Batch]:
    """Five random batches; with layout 'any' classes of unequal sizes (1 to 5 images) in a shuffled order.

    Embeddings are normal around the origin, moved towards a centre for each class so that a part of the pairs is easy.
    """
    rng, batches = np.random.RandomState(seed), []
    for number in range(5):
        if layout == 'any':
            sizes = rng.permutation([1, 1, 2, 3, 5])
            labels = rng.permutation(np.repeat(rng.permutation(num_classes)[:5], sizes))
        else:
            size = 2 if layout == 'pairs' else per_class
            labels = np.repeat(rng.permutation(num_classes)[:3 + number % 3], size)
        centres = rng.normal(size=(num_classes, dim))
        x = scale * (rng.normal(size=(len(labels), dim)) + 0.7 * centres[labels])
        batches.append(Batch('random_%d' % number, normalise(x) if unit else x.astype(np.float32), labels, num_classes))
    return batches


def degenerate_batches(layout: str = 'any', dim: int = 6, per_class: int = 4, unit: bool = False,
                       seed: int = 0) -> List[Batch]:
    """The degenerate cases: one class only, all distinct, all identical, a batch of two, more images than classes (in
    the training set) and fewer, norms 1e-6 and 1e3.

    `unit` scales rows to norm 1 except where the norm is the case. Layouts 'pairs' and 'episodes' keep their order.
    """
    rng = np.random.RandomState(seed)
    size = {'any': 4, 'pairs': 2, 'episodes': per_class}[layout]

    def rows(batch: int, norm: Optional[float] = None) -> np.ndarray:
        x = rng.normal(size=(batch, dim))
        return (normalise(x) * np.float32(norm or 1.0)) if unit or norm else x.astype(np.float32)

    grouped = np.repeat(np.arange(4), size)
    shuffled = rng.permutation(grouped) if layout == 'any' else grouped
    many = rng.permutation(np.repeat(np.arange(3), 5)) if layout == 'any' else grouped
    cases = [
        Batch('one_class', rows(size), np.full(size, 2), 5),
        Batch('all_distinct', rows(8), np.arange(8), 8),
        Batch('identical', np.repeat(rows(1), 4 * size, axis=0), shuffled, 5),
        Batch('batch_of_two', rows(2), np.array([1, 1]), 5),
        Batch('batch_of_two_distinct', rows(2), np.array([3, 1]), 5),
        Batch('more_images_than_classes', rows(len(many)), many, int(many.max()) + 1),
        Batch('fewer_images_than_classes', rows(4 * size), shuffled, 1000),
        Batch('norm_1e-6', rows(4 * size, 1e-6), shuffled, 5),
        Batch('norm_1e3', rows(4 * size, 1e3), shuffled, 5),
    ]
    if layout == 'pairs':  # rows 2i and 2i + 1 are one class by promise
        cases = [case for case in cases if case.name not in ('all_distinct', 'batch_of_two_distinct')]
    if layout == 'episodes':
        cases = [case for case in cases if case.name not in ('all_distinct', 'batch_of_two', 'batch_of_two_distinct')]
    return cases


def value_and_gradient(loss: Callable, embeddings: np.ndarray, labels: np.ndarray) -> Tuple[float, np.ndarray]:
    """Run `loss` forward and backward; return its value and the gradient in the embeddings (B, E).

    Gradients of the loss's own parameters are left in the parameters.
    """
    x = mx.nd.array(embeddings, dtype='float32')
    x.attach_grad()
    with mx.autograd.record():
        value = loss(x, mx.nd.array(labels, dtype='int64'))
    assert value.shape == (1,)
    value.backward()
    return float(value.asscalar()), x.grad.asnumpy()


def numeric_gradient(function: Callable[[np.ndarray], float], x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences of a float64 `function` at `x`, entry by entry; `step` is relative to the largest entry."""
    x = x.astype(np.float64)
    step = step * max(np.abs(x).max(), 1e-12)
    gradient = np.zeros_like(x)
    for i in np.ndindex(*x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[i] += sign * step
            ends.append(function(moved))
        gradient[i] = (ends[0] - ends[1]) / (2 * step)
    return gradient


def assert_matches_oracle(loss: Callable, oracle: Oracle, batch: Batch, rtol: float = 1e-4,
                          gradient: bool = True) -> None:
    """Value, and gradient unless told not to, agree with the oracle; `rtol` is relative to the largest entry."""
    value, grad = value_and_gradient(loss, batch.embeddings, batch.labels)
    expected = oracle(batch.embeddings.astype(np.float64), batch.labels)
    assert abs(value - expected) <= rtol * max(1.0, abs(expected)), (batch.name, value, expected)
    if gradient:
        expected_grad = numeric_gradient(lambda x: oracle(x, batch.labels), batch.embeddings)
        # Where the exact gradient is 0, rounding of cancelling terms of the embeddings' size remains.
        bound = rtol * max(np.abs(expected_grad).max(), 1e-2)
        np.testing.assert_allclose(grad, expected_grad, rtol=0, atol=bound, err_msg=batch.name)


def assert_finite(loss: Callable, batch: Batch) -> float:
    """Value and gradient, those of the loss's parameters too, are finite numbers; return the value."""
    value, grad = value_and_gradient(loss, batch.embeddings, batch.labels)
    assert np.isfinite(value), (batch.name, value)
    assert np.isfinite(grad).all(), batch.name
    for name, parameter in (loss.collect_params() if hasattr(loss, 'collect_params') else {}).items():
        if parameter.grad_req != 'null':
            assert np.isfinite(parameter.grad().asnumpy()).all(), (batch.name, name)
    return value


def check_finite_differences(loss: Callable, embeddings: np.ndarray, labels: np.ndarray, step: float = 1e-2,
                             rtol: float = 2e-2, directions: int = 3, seed: int = 0) -> None:
    """Compare the loss's gradient with differences of its own float32 values, along the gradient and random directions.

    `loss` must be a function of its inputs: reseed a random one before each call. `step` is the length of the move,
    relative to the norm of the embeddings; keep hinges away from it.
    """
    rng = np.random.RandomState(seed)
    _, grad = value_and_gradient(loss, embeddings, labels)
    step = step * float(np.sqrt((embeddings ** 2).sum(axis=1)).mean())
    for direction in [grad] + [rng.normal(size=grad.shape) for _ in range(directions)]:
        direction = direction / np.sqrt((direction ** 2).sum())
        ends = [value_and_gradient(loss, embeddings + sign * step * direction, labels)[0] for sign in (1, -1)]
        expected = (grad * direction).sum()
        bound = rtol * np.sqrt((grad ** 2).sum())
        assert abs((ends[0] - ends[1]) / (2 * step) - expected) <= bound, (ends, expected, bound)
