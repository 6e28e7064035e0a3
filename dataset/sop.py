"""Stanford Online Products: 22,634 products in 12 categories (Song et al., arXiv:1511.06452).

Layout of the unpacked archive; DIR may also be the folder that holds ``Stanford_Online_Products``::

    DIR/Ebay_train.txt  DIR/Ebay_test.txt      (a heading, then: image_id class_id super_class_id path)
    DIR/bicycle_final/111085122871_0.JPG ...
"""
from __future__ import annotations

import os
from typing import Tuple

import numpy as np

from dataset.errors import DatasetError
from dataset.imageset import Counts, ImageSet, check_counts
from dataset.image_files import find_root, image_paths, name_in, read_rows
from dataset.registry import register

#: The split of Song et al., arXiv:1511.06452, section 6.
COUNTS = Counts(train_classes=11318, test_classes=11316, train_images=59551, test_images=60502)


def _read_list(root: str, file: str) -> Tuple[ImageSet, np.ndarray]:
    """One of the two lists, and the class ids it uses (contiguous or not, they become labels in numeric order)."""
    path = os.path.join(root, name_in(root, file) or file)
    _, classes, _, names = read_rows(path, (int, int, int, str), header=1)
    try:
        ids, labels = np.unique(np.array(classes, dtype=np.int64), return_inverse=True)
    except OverflowError:
        raise DatasetError(f'{path} holds a class id too large for a number of 64 bits.') from None
    return ImageSet(image_paths(root, names, path), labels, [str(number) for number in ids], name='SOP'), ids


@register('SOP')
def read_sop(data_path: str) -> Tuple[ImageSet, ImageSet]:
    """Read the two lists.

    Raises
    ------
    DatasetError
        If a list or an image is missing, a line cannot be read, a class is in both lists, or the counts are not the
        published ones.
    """
    root = find_root(data_path, 'Ebay_train.txt', 'Stanford_Online_Products', 'SOP')
    train, train_ids = _read_list(root, 'Ebay_train.txt')
    test, test_ids = _read_list(root, 'Ebay_test.txt')
    common = np.intersect1d(train_ids, test_ids)
    if len(common):
        raise DatasetError(f'{os.path.join(root, "Ebay_train.txt")} and Ebay_test.txt both hold class {common[0]}: no '
                           'class may be in both.')
    check_counts(train, test, COUNTS, root)
    return train, test
