"""Randomised ensembles (DREML), Xuan et al., "Deep Randomized Ensembles for Metric Learning", arXiv:1808.04469."""
from __future__ import annotations

from typing import Sequence

import mxnet as mx
import numpy as np
from mxnet import gluon


def random_meta_classes(num_classes: int, num_meta: int, rng: np.random.RandomState) -> np.ndarray:
    """Assigns every class at random to one of D meta-classes, each of which gets at least one class.

    Parameters
    ----------
    num_classes : int
        Classes of the training set.
    num_meta : int
        D, at least 1 and at most `num_classes`.
    rng : RandomState
        The member's own, so that a member can be trained again alone.

    Returns
    -------
    int64 array (num_classes,)
        The meta-class 0 .. D-1 of every class.
    """
    if not 1 <= num_meta <= num_classes:
        raise ValueError(f'{num_classes} classes cannot fill {num_meta} meta-classes')
    meta = np.concatenate([np.arange(num_meta), rng.randint(num_meta, size=num_classes - num_meta)])
    return rng.permutation(meta).astype(np.int64)


def concatenate_members(members: Sequence[np.ndarray]) -> np.ndarray:
    """The ensemble's embedding: the members' (N, D) embeddings, each scaled to unit length, side by side (N, L D)."""
    return np.concatenate([x / np.sqrt((x ** 2).sum(axis=1, keepdims=True) + 1e-12) for x in members], axis=1)


class MetaClassLoss(gluon.loss.Loss):
    """A loss over the meta-classes of one member of the ensemble.

    Parameters
    ----------
    loss : HybridBlock
        ``loss(embeddings, meta_labels) -> (1,)``, for D classes.
    class_map : int array (num_classes,)
        The meta-class of every class, see :func:`random_meta_classes`.

    Inputs:
        - **embeddings**: (B, E)
        - **labels**: (B,), classes (not meta-classes)

    Outputs:
        - **loss**: (1,)
    """

    def __init__(self, loss: gluon.HybridBlock, class_map: np.ndarray, **kwargs):
        super().__init__(weight=None, batch_axis=0, **kwargs)
        self.class_map = mx.nd.array(class_map, ctx=mx.cpu(), dtype='int32')
        self.loss = loss

    def forward(self, embeddings, labels):
        class_map = self.class_map.as_in_context(labels.context)
        return self.loss(embeddings, mx.nd.take(class_map, labels, mode='raise'))
