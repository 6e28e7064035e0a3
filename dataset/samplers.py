"""Batch samplers: which images make up each batch, chosen from the labels alone.

Every sampler draws from a generator of its own, never from NumPy's global one. Each epoch has a generator that is
seeded from the sampler's when the epoch begins. So the state to save depends on the number of epochs only, not on how
far a loader has read ahead, and a sampler that is restored between two epochs goes on as if it had never stopped.
"""
from __future__ import annotations

import logging
from typing import Any, Dict, Iterator, List, Optional, Sequence

import numpy as np
from mxnet.gluon.data import Sampler

from common.errors import UsageError
from dataset.errors import DatasetError


class BatchSampler(Sampler):
    """What all have in common: labels, length, seeding, state. Iterating once is one epoch.

    Parameters
    ----------
    labels : int array, shape (N,)
        Class of each image; any integers in any order.
    seed : int
        Two samplers with the same arguments give the same batches.

    Raises
    ------
    DatasetError
        If there are no labels or they are no integers.
    """

    def __init__(self, labels: Sequence[int], seed: int) -> None:
        labels = np.asarray(labels)
        if labels.ndim != 1 or not len(labels) or labels.dtype.kind not in 'iu':
            raise DatasetError(f'A sampler needs one integer label for each image, not an array of shape '
                               f'{labels.shape} and type {labels.dtype}.')
        self._num_images = len(labels)
        order = np.argsort(labels, kind='stable')
        starts = np.flatnonzero(np.diff(labels[order])) + 1
        self._classes: List[np.ndarray] = np.split(order, starts)  # image indices of each class
        self.batch_size = self._length = 1      # images in a batch, batches in an epoch
        self._rng = np.random.RandomState(seed)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[List[int]]:
        # Not a generator function: the draw must happen now, not when the first batch is asked for.
        rng = np.random.RandomState(self._rng.randint(0, 2 ** 32, size=4, dtype=np.uint32))
        return self._batches(rng)

    def _batches(self, rng: np.random.RandomState) -> Iterator[List[int]]:
        for _ in range(self._length):
            yield self._batch(rng)

    def _batch(self, rng: np.random.RandomState) -> List[int]:
        raise NotImplementedError

    def state_dict(self) -> Dict[str, Any]:
        """The generator's state as plain numbers and one array: fits into an ``.npz`` without pickling."""
        _, keys, position, has_gauss, cached = self._rng.get_state()
        return {'keys': keys, 'position': int(position), 'has_gauss': int(has_gauss),
                'cached_gaussian': float(cached)}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Continue from `state`. Labels and settings must be the same as then."""
        if not 0 <= int(state['position']) <= 624:      # NumPy does not look, and reads behind its array
            raise ValueError(f'the generator of the batches has no position {state["position"]}')
        keys = np.asarray(state['keys']).astype(np.uint32, casting='same_kind')     # no floats, no complex numbers
        self._rng.set_state(('MT19937', keys, int(state['position']), int(state['has_gauss']),
                             float(state['cached_gaussian'])))

    def reseed(self, seed: int) -> None:
        """Draw from here on as a new sampler with this seed would."""
        self._rng = np.random.RandomState(seed)

    def _set_length(self, batches_per_epoch: Optional[int], batch_size: int) -> None:
        """An epoch without a length of its own shows about as many images as the set has."""
        self.batch_size, self._length = batch_size, batches_per_epoch or max(self._num_images // batch_size, 1)

    def _choose_classes(self, rng: np.random.RandomState, count: int) -> List[np.ndarray]:
        return [self._classes[i] for i in rng.permutation(len(self._classes))[:count]]


class ShuffledBatches(BatchSampler):
    """Batches of shuffled images; an epoch is one pass, and shows no image twice.

    The last batch, if not full, is dropped (``last_batch='discard'`` in Gluon's words), unless it is the only one.
    What is dropped differs from epoch to epoch.

    Parameters
    ----------
    labels : int array, shape (N,)
    batch_size : int
    seed : int
    """

    def __init__(self, labels: Sequence[int], batch_size: int, seed: int = 0) -> None:
        super().__init__(labels, seed)
        self.batch_size = min(batch_size, self._num_images)
        self._length = self._num_images // self.batch_size

    def _batches(self, rng: np.random.RandomState) -> Iterator[List[int]]:
        order = rng.permutation(self._num_images)
        for start in range(0, self._length * self.batch_size, self.batch_size):
            yield order[start:start + self.batch_size].tolist()


class BalancedBatches(BatchSampler):
    """``batch_size / batch_k`` distinct classes, and exactly `batch_k` images of each, class after class.

    Within a batch the images of a class are all different; only a class with fewer than `batch_k` images is topped
    up: each of its images once, then some of them again.

    Parameters
    ----------
    labels : int array, shape (N,)
    batch_size : int
        A multiple of `batch_k`.
    batch_k : int
        Images of a class.
    batches_per_epoch : int, optional
        None or 0: as many as show about as many images as there are.
    seed : int

    Raises
    ------
    UsageError
        If `batch_size` is no multiple of `batch_k`, or there are fewer classes than a batch takes.
    """

    def __init__(self, labels: Sequence[int], batch_size: int, batch_k: int,
                 batches_per_epoch: Optional[int] = None, seed: int = 0) -> None:
        super().__init__(labels, seed)
        if batch_size % batch_k:
            raise UsageError(f'--batch-size {batch_size} is not a multiple of --batch-k {batch_k}.')
        self._num_classes = batch_size // batch_k
        if self._num_classes > len(self._classes):
            raise UsageError(f'--batch-size {batch_size} with --batch-k {batch_k} takes {self._num_classes} classes, '
                             f'the training set has {len(self._classes)}: lower --batch-size or raise --batch-k.')
        self._batch_k = batch_k
        self._set_length(batches_per_epoch, batch_size)

    def _batch(self, rng: np.random.RandomState) -> List[int]:
        batch: List[int] = []
        for members in self._choose_classes(rng, self._num_classes):
            batch.extend(rng.permutation(members)[:self._batch_k].tolist())
            missing = self._batch_k - len(members)
            if missing > 0:
                batch.extend(members[rng.randint(len(members), size=missing)].tolist())
        return batch


class PairBatches(BatchSampler):
    """N = ``batch_size / 2`` distinct classes; row 2i holds the anchor and row 2i + 1 the positive of pair i.

    Anchor and positive are different images, except with probability `same_image_prob`, and in a class of one image:
    there both are the same, augmented twice.

    Parameters
    ----------
    labels : int array, shape (N,)
    batch_size : int
        Even.
    batches_per_epoch : int, optional
        None or 0: as many as show about as many images as there are.
    same_image_prob : float
        From 0 to 1.
    seed : int

    Raises
    ------
    UsageError
        If `batch_size` is odd, or there are fewer classes than pairs.
    """

    def __init__(self, labels: Sequence[int], batch_size: int, batches_per_epoch: Optional[int] = None,
                 same_image_prob: float = 0.0, seed: int = 0) -> None:
        super().__init__(labels, seed)
        if batch_size % 2:
            raise UsageError(f'--batch-size must be even to hold pairs, {batch_size} is not.')
        self._num_pairs = batch_size // 2
        if self._num_pairs > len(self._classes):
            raise UsageError(f'--batch-size {batch_size} takes pairs of {self._num_pairs} classes, the training set '
                             f'has {len(self._classes)}: lower --batch-size.')
        self._same_image_prob = same_image_prob
        self._set_length(batches_per_epoch, batch_size)

    def _batch(self, rng: np.random.RandomState) -> List[int]:
        batch: List[int] = []
        for members in self._choose_classes(rng, self._num_pairs):
            if rng.random_sample() < self._same_image_prob or len(members) == 1:
                batch.extend([int(members[rng.randint(len(members))])] * 2)
            else:
                batch.extend(rng.permutation(members)[:2].tolist())
        return batch


class EpisodeBatches(BatchSampler):
    """Episodes: `nc` classes one after another, for each `ns` support rows and then `nq` query rows.

    No image occurs twice in an episode. Classes with fewer than ``ns + nq`` images are never drawn; their number is
    in `skipped_classes`, and logged once as a warning.

    Parameters
    ----------
    labels : int array, shape (N,)
    nc, ns, nq : int
        Classes in an episode, support images and query images of each.
    batches_per_epoch : int, optional
        None or 0: as many as show about as many images as there are.
    seed : int

    Raises
    ------
    UsageError
        If fewer than `nc` classes are large enough.
    """

    def __init__(self, labels: Sequence[int], nc: int, ns: int, nq: int,
                 batches_per_epoch: Optional[int] = None, seed: int = 0) -> None:
        super().__init__(labels, seed)
        large_enough = [members for members in self._classes if len(members) >= ns + nq]
        self.skipped_classes = len(self._classes) - len(large_enough)
        if nc > len(large_enough):
            raise UsageError(f'--nc {nc} asks for more classes than the {len(large_enough)} (of {len(self._classes)}) '
                             f'that have --ns {ns} + --nq {nq} images.')
        if self.skipped_classes:
            logging.getLogger(__name__).warning('%d of %d classes have fewer than %d images and are skipped.',
                                                self.skipped_classes, len(self._classes), ns + nq)
        self._classes = large_enough
        self._nc, self._rows = nc, ns + nq
        self._set_length(batches_per_epoch, nc * (ns + nq))

    def _batch(self, rng: np.random.RandomState) -> List[int]:
        batch: List[int] = []
        for members in self._choose_classes(rng, self._nc):
            batch.extend(rng.permutation(members)[:self._rows].tolist())
        return batch
