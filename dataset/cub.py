"""CUB-200-2011: 200 bird species (Wah et al., 2011, https://www.vision.caltech.edu/datasets/cub_200_2011/).

Layout of the unpacked archive; DIR may also be the folder that holds ``CUB_200_2011``::

    DIR/images.txt  image_class_labels.txt  [bounding_boxes.txt, for --use-crops]
    DIR/images/001.Black_footed_Albatross/...
"""
from __future__ import annotations

import os
from typing import List, Tuple

import numpy as np

from dataset.errors import DatasetError
from dataset.imageset import Counts, ImageSet, check_counts
from dataset.image_files import find_root, image_paths, read_rows
from dataset.registry import register

#: Classes 1 to 100 train, 101 to 200 test (Song et al., arXiv:1511.06452, section 6).
COUNTS = Counts(train_classes=100, test_classes=100, train_images=5864, test_images=5924)


def _by_image(root: str, file: str, ids: List[int], types: tuple) -> List[list]:
    """The columns of a list after its image ids, which must be those of ``images.txt``; returned in its order."""
    path = os.path.join(root, file)
    columns = read_rows(path, (int,) + types)
    if columns[0] == ids:
        return columns[1:]
    row_of = {image: row for row, image in enumerate(columns[0])}
    if set(ids) < set(row_of):
        raise DatasetError(f'{os.path.join(root, "images.txt")} lists {len(ids)} images, and {file} {len(row_of)}: '
                           'images.txt is cut off.')
    if len(row_of) != len(columns[0]) or set(row_of) != set(ids):
        raise DatasetError(f'{path} must list each image id of images.txt once ({len(ids)} ids), and does not.')
    rows = [row_of[image] for image in ids]
    return [[column[row] for row in rows] for column in columns[1:]]


@register('CUB')
def read_cub(data_path: str) -> Tuple[ImageSet, ImageSet]:
    """Read the official lists.

    Raises
    ------
    DatasetError
        If a list or an image is missing, a line cannot be read, or the counts are not the published ones.
    """
    root = find_root(data_path, 'images.txt', 'CUB_200_2011', 'CUB')
    images_file = os.path.join(root, 'images.txt')
    ids, names = read_rows(images_file, (int, str))
    if len(set(ids)) != len(ids):
        raise DatasetError(f'{images_file} lists an image id twice.')
    classes = _by_image(root, 'image_class_labels.txt', ids, (int,))[0]
    boxes, boxes_file = None, os.path.join(root, 'bounding_boxes.txt')      # needed for --use-crops alone
    if os.path.lexists(boxes_file):
        boxes = np.array(_by_image(root, 'bounding_boxes.txt', ids, (float,) * 4), dtype=np.float64).T
    if boxes is not None and (not np.isfinite(boxes).all() or (boxes < 0).any() or (boxes[:, 2:] <= 0).any()):
        raise DatasetError(f'{boxes_file} holds a box that is not x y width height with a positive size.')
    total = COUNTS.classes
    if set(classes) != set(range(1, total + 1)):
        raise DatasetError(f'{os.path.join(root, "image_class_labels.txt")} must use the class ids 1 to {total}, each '
                           'at least once.')
    labels = np.array(classes, dtype=np.int64) - 1
    class_names = [''] * total
    for label, name in zip(labels, names):
        class_names[label] = name.split('/', 1)[0]
    images = ImageSet(image_paths(os.path.join(root, 'images'), names, images_file), labels, class_names,
                      boxes=boxes, name='CUB', no_boxes=f'there is no {boxes_file}')
    train = images.select_classes(np.arange(COUNTS.train_classes))
    test = images.select_classes(np.arange(COUNTS.train_classes, total))
    check_counts(train, test, COUNTS, images_file)
    return train, test
