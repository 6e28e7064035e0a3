"""Any images in class folders: the first half of the classes trains, the second half tests (miniCUB).

The folder of each image is its class::

    DIR/001.Black_footed_Albatross/any_name.jpg
    DIR/002.Laysan_Albatross/...
"""
from __future__ import annotations

import os
from typing import Tuple

import numpy as np

from dataset.errors import DatasetError
from dataset.imageset import ImageSet
from dataset.image_files import list_folders, list_images
from dataset.registry import register


def read_folders(root: str, name: str, mirror: bool = True) -> ImageSet:
    """All class folders of `root`, sorted by name, as one set; files that are no images are ignored.

    Raises
    ------
    DatasetError
        If `root` is no folder, has no class folders, or a class folder holds no image.
    """
    classes = list_folders(root)
    if not classes:
        raise DatasetError(f'{root} holds no class folders: {name} expects one folder of images a class.')
    paths, labels = [], []
    for label, folder in enumerate(classes):
        images = list_images(os.path.join(root, folder))
        if not images:
            raise DatasetError(f'{os.path.join(root, folder)} holds no image file: every folder in {root} is taken '
                               'for a class.')
        paths.extend(os.path.join(root, folder, image) for image in images)
        labels.extend([label] * len(images))
    return ImageSet(paths, np.array(labels, dtype=np.int64), classes, name=name, mirror=mirror)


def split_halves(images: ImageSet) -> Tuple[ImageSet, ImageSet]:
    """The first half of the classes and the others (one more where the number is odd).

    Raises
    ------
    DatasetError
        If there is only one class.
    """
    half = images.num_classes // 2
    if not half:
        raise DatasetError(f'{images.name} needs at least 2 class folders, one to train and one to test, and found '
                           f'only {os.path.dirname(images.paths[0])}.')
    return images.select_classes(np.arange(half)), images.select_classes(np.arange(half, images.num_classes))


@register('miniCUB')
def read_minicub(data_path: str) -> Tuple[ImageSet, ImageSet]:
    """Read class folders; any number of classes and images.

    Raises
    ------
    DatasetError
        See `read_folders` and `split_halves`.
    """
    return split_halves(read_folders(data_path, 'miniCUB'))
