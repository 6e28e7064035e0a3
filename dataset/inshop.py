"""In-Shop Clothes (DeepFashion): 7,982 articles of clothing, with queries and a gallery (Liu et al., CVPR 2016).

Layouts that are read; DIR may also be the folder that holds ``In-shop Clothes Retrieval Benchmark``::

    DIR[/Eval]/list_eval_partition.txt              (a count, a heading, then: image_name item_id evaluation_status)
    DIR[/Anno]/list_bbox_inshop.txt                 for --use-crops
    DIR[/Img]/img/WOMEN/Dresses/id_00000002/02_1_front.jpg ...

The list says of each image whether it trains, or is a query or part of the gallery of the test.
"""
from __future__ import annotations

import os
from typing import List, Tuple

import numpy as np

from dataset.errors import DatasetError
from dataset.imageset import Counts, ImageSet, check_counts
from dataset.image_files import image_paths, name_in, read_lines, read_rows
from dataset.registry import register

#: Liu et al., "DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich Annotations", CVPR 2016, and
#: the list that its authors publish. The test images are 14,218 queries and 12,612 images of the gallery.
COUNTS = Counts(train_classes=3997, test_classes=3985, train_images=25882, test_images=26830)
QUERIES = 14218
FOLDER = 'In-shop Clothes Retrieval Benchmark'
LIST, BOXES = 'list_eval_partition.txt', 'list_bbox_inshop.txt'


def _find(root: str, file: str, *folders: str) -> str:
    """A list of `root` or of one of these folders in it; where it should be, if it is nowhere."""
    for folder in ('', *folders):
        place = os.path.join(root, name_in(root, folder) or folder) if folder else root
        found = name_in(place, file)
        if found:
            return os.path.join(place, found)
    return os.path.join(root, file)


def _image_root(root: str) -> str:
    """The folder that the names of the list, ``img/...``, start from."""
    nested = os.path.join(root, name_in(root, 'Img') or 'Img')
    return nested if os.path.isdir(os.path.join(nested, name_in(nested, 'img') or 'img')) else root


def _read_table(file: str, types: tuple) -> List[list]:
    """The columns of a list whose first line says how many rows follow its heading."""
    count = read_lines(file)[0].strip()
    columns = read_rows(file, types, header=2)
    if count != str(len(columns[0])):
        raise DatasetError(f'{file} has {len(columns[0])} rows, but its first line says {count}.')
    return columns


def _read_boxes(file: str, names: List[str]) -> np.ndarray:
    """The box of each image: x, y, width and height, from two corners."""
    listed, _, _, *corners = _read_table(file, (str,) + (float,) * 6)
    row_of = {name: row for row, name in enumerate(listed)}
    missing = next((name for name in names if name not in row_of), None)
    if missing is not None:
        raise DatasetError(f'{file} does not list {missing}.')
    x1, y1, x2, y2 = np.array(corners, dtype=np.float64)[:, [row_of[name] for name in names]]
    wrong = np.flatnonzero(~(np.isfinite(x1 + y1 + x2 + y2) & (x2 > x1) & (y2 > y1)))
    if len(wrong):
        raise DatasetError(f'{file} has a box of {names[wrong[0]]} whose second corner is not right of and below the '
                           'first.')
    return np.stack([x1, y1, x2 - x1, y2 - y1], axis=1)


@register('INSHOP')
def read_inshop(data_path: str) -> Tuple[ImageSet, ImageSet]:
    """Read the list.

    Raises
    ------
    DatasetError
        If the list or an image is missing, a line cannot be read, a class is in both sets, a class of the test has no
        query or no image in the gallery, or the counts are not the published ones.
    """
    inside = name_in(data_path, FOLDER)
    for root in [data_path] + ([os.path.join(data_path, inside)] if inside else []):
        file = _find(root, LIST, 'Eval', 'Anno')
        if os.path.lexists(file):
            break
    else:
        raise DatasetError(f'INSHOP: neither {data_path} nor its folder {FOLDER} holds {LIST}, also not in a folder '
                           'Eval (--data-path must name the folder of the unpacked dataset).')
    names, items, status = _read_table(file, (str, str, str))
    unknown = sorted(set(status) - {'train', 'query', 'gallery'})
    if unknown:
        raise DatasetError(f'{file} has the evaluation_status {unknown[0]}, which is none of train, query and gallery.')
    paths = image_paths(_image_root(root), names, file)
    boxes_file = _find(root, BOXES, 'Anno', 'Eval')
    boxes, no_boxes = None, f'there is no {boxes_file}'
    if os.path.lexists(boxes_file):
        try:
            boxes = _read_boxes(boxes_file, names)
        except DatasetError as error:       # matters to --use-crops alone, which will say it
            no_boxes = str(error).rstrip('.')
    trains, queries = np.array(status) == 'train', np.array(status) == 'query'

    def part(rows: np.ndarray, **more) -> ImageSet:
        ids, labels = np.unique([items[row] for row in rows], return_inverse=True)
        return ImageSet([paths[row] for row in rows], labels.reshape(-1), ids.tolist(), name='INSHOP',
                        boxes=None if boxes is None else boxes[rows], no_boxes=no_boxes, **more)

    rows = np.flatnonzero(~trains)
    if trains.all() or not trains.any():
        raise DatasetError(f'{file} lists no images to {"test" if trains.all() else "train"} with.')
    train, test = part(np.flatnonzero(trains)), part(rows, queries=queries[rows])
    _check(train, test, file)
    return train, test


def _check(train: ImageSet, test: ImageSet, file: str) -> None:
    """The published counts, and what query against gallery needs."""
    common = sorted(set(train.class_names) & set(test.class_names))
    if common:
        raise DatasetError(f'{file} has images of {common[0]} to train and to test with: no class may be in both.')
    check_counts(train, test, COUNTS, file)
    if test.queries.sum() != QUERIES:
        raise DatasetError(f'{file} has {test.queries.sum()} queries where INSHOP has {QUERIES}.')
    for kind, rows in (('query', test.queries), ('gallery', ~test.queries)):
        lacking = np.setdiff1d(np.arange(test.num_classes), test.labels[rows])
        if len(lacking):
            raise DatasetError(f'{file} has no {kind} image of {test.class_names[lacking[0]]}.')
