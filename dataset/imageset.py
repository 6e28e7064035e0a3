"""A labelled set of image files, and the class-disjoint split of one."""
from __future__ import annotations

from dataclasses import dataclass
from typing import List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from common.errors import UsageError
from dataset.errors import DatasetError


@dataclass
class ImageSet:
    """Image files with the class of each.

    Parameters
    ----------
    paths : list of str
        One file an image.
    labels : int64 array, shape (N,)
        Class ids, contiguous from 0; every id below the number of classes occurs.
    class_names : list of str
        Name of class 0, 1, ...
    boxes : float32 array, shape (N, 4), optional
        The object's place in each image: x, y (upper left corner), width, height, in pixels.
    name : str
        The dataset's name, for messages and logs.
    mirror : bool
        Whether training may mirror these images. Text, for example, must not be: a mirrored b is a d.
    val : ImageSet, optional
        Of a training set: the validation set that the dataset itself brings.
    no_boxes : str
        Why there are no boxes, where a file could have brought them.
    queries : bool array, shape (N,), optional
        Of a test set: True for the queries, False for the gallery, which they search. None: each image searches all
        others.

    Raises
    ------
    DatasetError
        If the parts do not fit together.
    """

    paths: List[str]
    labels: np.ndarray
    class_names: List[str]
    boxes: Optional[np.ndarray] = None
    name: str = ''
    mirror: bool = True
    val: Optional[ImageSet] = None
    no_boxes: str = ''
    queries: Optional[np.ndarray] = None

    def __post_init__(self) -> None:
        self.paths = list(self.paths)
        self.class_names = list(self.class_names)
        labels = np.asarray(self.labels)
        if labels.ndim != 1 or len(labels) != len(self.paths) or labels.dtype.kind not in 'iu':
            raise DatasetError(f'{self._title} needs one integer label for each of its {len(self.paths)} images, not '
                               f'an array of shape {labels.shape} and type {labels.dtype}.')
        self.labels = labels.astype(np.int64)
        if not np.array_equal(np.unique(self.labels), np.arange(len(self.class_names))):
            raise DatasetError(f'{self._title} needs labels 0 to {len(self.class_names) - 1}, each with at least one '
                               'image.')
        if self.boxes is not None:
            self.boxes = np.asarray(self.boxes, dtype=np.float32)
            if self.boxes.shape != (len(self.paths), 4):
                raise DatasetError(f'{self._title} needs one box of 4 numbers for each of its {len(self.paths)} '
                                   f'images, not an array of shape {self.boxes.shape}.')
        if self.queries is not None:
            self.queries = np.asarray(self.queries)
            if self.queries.shape != (len(self.paths),) or self.queries.dtype != np.bool_:
                raise DatasetError(f'{self._title} needs True or False for each of its {len(self.paths)} images, to '
                                   'tell queries from the gallery.')

    @property
    def _title(self) -> str:
        return self.name or 'An image set'

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def require_boxes(self) -> None:
        """For ``--use-crops``.

        Raises
        ------
        UsageError
            If there are no boxes.
        """
        if self.boxes is None:
            raise UsageError(f'--use-crops: {self.name or "this dataset"} has no bounding boxes'
                             + (f' ({self.no_boxes})' if self.no_boxes else ''))

    def select_classes(self, ids: Sequence[int]) -> ImageSet:
        """The images of some classes, in their present order; class ``ids[k]`` becomes class k.

        Raises
        ------
        DatasetError
            If `ids` is empty, names a class twice or names one that does not exist.
        """
        ids = np.asarray(ids, dtype=np.int64).reshape(-1)
        if not len(ids) or len(np.unique(ids)) != len(ids) or ids.min() < 0 or ids.max() >= self.num_classes:
            raise DatasetError(f'{self._title} has classes 0 to {self.num_classes - 1}: cannot select {ids.tolist()}.')
        new_label = np.full(self.num_classes, -1, dtype=np.int64)
        new_label[ids] = np.arange(len(ids))
        labels = new_label[self.labels]
        keep = np.flatnonzero(labels >= 0)
        return ImageSet(paths=[self.paths[i] for i in keep], labels=labels[keep],
                        class_names=[self.class_names[i] for i in ids],
                        boxes=None if self.boxes is None else self.boxes[keep], name=self.name, mirror=self.mirror,
                        no_boxes=self.no_boxes,
                        queries=None if self.queries is None else self.queries[keep])


def split_classes(train: ImageSet, fraction: float, seed: int = 0) -> Tuple[ImageSet, ImageSet]:
    """Hold out a random share of the classes, with all of their images.

    Both parts keep the classes in their order, and each gets at least two of them.

    Parameters
    ----------
    train : ImageSet
    fraction : float
        Share of the classes to hold out, between 0 and 1, both excluded.
    seed : int
        Chooses the classes.

    Returns
    -------
    (rest, held_out) : ImageSets without a common class.

    Raises
    ------
    UsageError
        If `fraction` is out of range or there are fewer than four classes.
    """
    if not 0 < fraction < 1:
        raise UsageError(f'--val-split takes a share of the classes between 0 and 1, not {fraction:g}.')
    total = train.num_classes
    if total < 4:
        raise UsageError(f'--val-split needs at least 4 training classes, {train._title} has {total}.')
    count = min(max(int(round(fraction * total)), 2), total - 2)
    order = np.random.RandomState(seed).permutation(total)
    return train.select_classes(np.sort(order[count:])), train.select_classes(np.sort(order[:count]))


def fold_classes(train: ImageSet, number: int, parts: int, seed: int = 0) -> Tuple[ImageSet, ImageSet]:
    """Hold out one of several equal parts of the classes, with all of their images.

    With the same seed, the parts have no class in common, and every class is in one of them.

    Parameters
    ----------
    train : ImageSet
    number : int
        Which part to hold out, from 1.
    parts : int
        How many parts there are, at least 2. Their sizes differ by one class at most.
    seed : int
        Shuffles the classes before they are dealt out.

    Returns
    -------
    (rest, held_out) : ImageSets without a common class, each with its classes in their order.

    Raises
    ------
    UsageError
        If a part would have fewer than two classes.
    """
    total = train.num_classes
    if total < 2 * parts:
        raise UsageError(f'--fold {number}/{parts} needs at least {2 * parts} training classes, {train._title} has '
                         f'{total}.')
    dealt = np.array_split(np.random.RandomState(seed).permutation(total), parts)
    held_out = dealt.pop(number - 1)
    return train.select_classes(np.sort(np.concatenate(dealt))), train.select_classes(np.sort(held_out))


class Counts(NamedTuple):
    """How much a published dataset holds."""

    train_classes: int
    test_classes: int
    train_images: int
    test_images: int

    @property
    def classes(self) -> int:
        """Of both sets."""
        return self.train_classes + self.test_classes


def check_counts(train: ImageSet, test: ImageSet, expected: Counts, source: str) -> None:
    """Compare with the published counts; `source` is the file or folder to name.

    Raises
    ------
    DatasetError
        On the first count that differs.
    """
    found = Counts(train.num_classes, test.num_classes, len(train), len(test))
    for field, have, want in zip(Counts._fields, found, expected):
        if have != want:
            what = field.replace('train_', 'training ').replace('test_', 'test ')
            raise DatasetError(f'{source} has {have} {what} where {train.name} has {want}.')
