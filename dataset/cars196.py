"""CARS196, Stanford Cars: 196 models of car (Krause et al., 3dRR 2013).

Two layouts, the second as a commonly repacked form::

    DIR/cars_annos.mat  DIR/car_ims/000001.jpg ...
    DIR/1/...  DIR/2/...  ...  DIR/196/...      [DIR/cars_annos.mat, for the boxes]
"""
from __future__ import annotations

import os
from typing import List, NamedTuple, Tuple

import numpy as np

from dataset.errors import DatasetError
from dataset.imageset import Counts, ImageSet, check_counts
from dataset.listing import image_paths, list_folders, list_images
from dataset.matfile import read_mat
from dataset.registry import register

#: Classes 1 to 98 train, 99 to 196 test (Song et al., arXiv:1511.06452, section 6).
COUNTS = Counts(train_classes=98, test_classes=98, train_images=8054, test_images=8131)


class _Annotations(NamedTuple):
    names: List[str]       # relative_im_path
    classes: np.ndarray    # int (N,), from 1
    boxes: np.ndarray      # float (N, 4), x y width height
    class_names: List[str]


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f'{value!r} in place of a text')
    return value


def _number(value: object) -> float:
    if not isinstance(value, tuple) or len(value) != 1:
        raise ValueError(f'{value!r} in place of a number')
    return value[0]


def _read_mat(file: str) -> _Annotations:
    """The table of ``cars_annos.mat``."""
    total = COUNTS.train_classes + COUNTS.test_classes
    try:
        content = read_mat(file)
        table = content['annotations']
        names = [_text(value) for value in table['relative_im_path']]
        classes = np.array([int(_number(value)) for value in table['class']], dtype=np.int64)
        corners = np.array([[_number(value) for value in table[field]]
                            for field in ('bbox_x1', 'bbox_y1', 'bbox_x2', 'bbox_y2')]).T
        class_names = [_text(name) for name in content.get('class_names', map(str, range(1, total + 1)))]
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise DatasetError(f'{file} cannot be read as the table "annotations" of relative_im_path, bbox_x1, bbox_y1, '
                           f'bbox_x2, bbox_y2 and class ({type(error).__name__}: {error}).') from None
    if set(classes.tolist()) != set(range(1, total + 1)):
        raise DatasetError(f'{file} must use the class ids 1 to {total}, each at least once.')
    if len(class_names) != total:
        raise DatasetError(f'{file} names {len(class_names)} classes where {total} were expected.')
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)
    if not np.isfinite(boxes).all() or (boxes[:, 2:] <= 0).any():
        raise DatasetError(f'{file} holds a box whose second corner is not right of and below the first.')
    return _Annotations(names, classes, boxes, class_names)


def _read_folders(root: str, folders: List[str], mat_file: str) -> ImageSet:
    """The layout with a folder for each class, in numeric order."""
    total = COUNTS.train_classes + COUNTS.test_classes
    numbers = {int(folder): folder for folder in folders}
    if len(numbers) != len(folders) or set(numbers) != set(range(1, total + 1)):
        wrong = sorted(set(numbers) ^ set(range(1, total + 1)))
        raise DatasetError(f'{root} must have one class folder for each number from 1 to {total} (see folder '
                           f'{wrong[0] if wrong else "names that differ in leading zeros"}).')
    paths: List[str] = []
    labels: List[int] = []
    for number in range(1, total + 1):
        images = list_images(os.path.join(root, numbers[number]))
        if not images:
            raise DatasetError(f'{os.path.join(root, numbers[number])} holds no image file.')
        paths.extend(os.path.join(root, numbers[number], image) for image in images)
        labels.extend([number - 1] * len(images))
    class_names = [str(number) for number in range(1, total + 1)]
    boxes = None
    if os.path.exists(mat_file):
        annotations = _read_mat(mat_file)
        row_of = {name.rpartition('/')[2]: row for row, name in enumerate(annotations.names)}
        rows = [row_of.get(os.path.basename(path), -1) for path in paths]
        for path, row, label in zip(paths, rows, labels):
            if row < 0 or annotations.classes[row] != label + 1:
                raise DatasetError(f'{mat_file} does not list {path} in class {label + 1}: without the .mat file the '
                                   'folders are read '
                                   'without boxes.')
        boxes, class_names = annotations.boxes[rows], annotations.class_names
    return ImageSet(paths, np.array(labels, dtype=np.int64), class_names, boxes=boxes, name='CARS196')


@register('CARS196')
def read_cars196(data_path: str) -> Tuple[ImageSet, ImageSet]:
    """Read whichever layout is there; ``cars_annos.mat`` with ``car_ims`` goes first.

    Raises
    ------
    DatasetError
        If neither is there, a file is missing or unreadable, or the counts are not the published ones.
    """
    mat_file = os.path.join(data_path, 'cars_annos.mat')
    folders = list_folders(data_path)
    if os.path.exists(mat_file) and 'car_ims' in folders:
        source = mat_file
        annotations = _read_mat(mat_file)
        images = ImageSet(image_paths(data_path, annotations.names, mat_file), annotations.classes - 1,
                          annotations.class_names, boxes=annotations.boxes, name='CARS196')
    else:
        source = data_path
        numbered = [folder for folder in folders if folder.isascii() and folder.isdigit()]
        if not numbered:
            raise DatasetError(f'{data_path} holds neither cars_annos.mat with the folder car_ims nor class folders 1 '
                               f'to {COUNTS.train_classes + COUNTS.test_classes}.')
        images = _read_folders(data_path, numbered, mat_file)
    train = images.select_classes(np.arange(COUNTS.train_classes))
    test = images.select_classes(np.arange(COUNTS.train_classes, images.num_classes))
    check_counts(train, test, COUNTS, source)
    return train, test
