"""CARS196, Stanford Cars: 196 models of car (Krause et al., 3dRR 2013).

The layouts that are read, in this order; each may also be one or two folders deeper::

    DIR/cars_annos.mat  DIR/car_ims/000001.jpg ...
    DIR/cars_train[/cars_train]/00001.jpg ...  DIR/cars_test[/cars_test]/00001.jpg ...
        with cars_train_annos.mat, cars_test_annos_withlabels.mat and, for the names, cars_meta.mat in DIR or DIR/devkit
    DIR/train/NAME/*.jpg  DIR/test/NAME/*.jpg   the names of cars_meta.mat; another character may stand for the slash
    DIR/NAME/*.jpg  or  DIR/1/*.jpg ... DIR/196/*.jpg

The classes of all of them are in the order of ``cars_meta.mat``. Boxes come from the .mat files, where they are.
"""
from __future__ import annotations

import hashlib
import os
import re
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from dataset.errors import DatasetError
from dataset.imageset import Counts, ImageSet, check_counts
from dataset.image_files import image_paths, list_folders, list_images
from dataset.matfile import read_mat
from dataset.registry import register

#: Classes 1 to 98 train, 99 to 196 test (Song et al., arXiv:1511.06452, section 6).
COUNTS = Counts(train_classes=98, test_classes=98, train_images=8054, test_images=8131)

#: The published class ids, in the alphabetical order of the names as `_simple` writes them, and the names' hash.
_SORTED_IDS = [
    6, 2, 3, 4, 5, 7, 1, 8, 9, 10, 11, 17, 18, 13, 15, 12, 24, 23, 21, 22, 20, 19, 25, 14, 16, 40, 44, 43, 42, 39,
    41, 27, 28, 29, 30, 31, 26, 34, 35, 36, 37, 32, 33, 38, 45, 46, 50, 48, 47, 49, 51, 53, 52, 65, 59, 66, 55,
    57, 56, 64, 71, 60, 61, 67, 73, 72, 70, 74, 54, 75, 69, 63, 62, 68, 58, 79, 76, 80, 81, 77, 78, 82, 84, 83,
    85, 93, 96, 97, 91, 90, 95, 94, 89, 92, 86, 87, 88, 98, 103, 104, 102, 101, 99, 100, 105, 110, 116, 109, 114,
    113, 106, 117, 115, 108, 112, 107, 111, 123, 121, 122, 119, 118, 120, 128, 129, 127, 126, 125, 124, 136, 140,
    135, 139, 137, 131, 134, 138, 132, 130, 133, 141, 142, 143, 144, 149, 148, 147, 145, 146, 151, 153, 152, 150,
    155, 154, 156, 158, 159, 160, 161, 162, 164, 165, 163, 166, 157, 167, 171, 170, 168, 169, 172, 173, 174, 176,
    175, 177, 178, 196, 179, 180, 181, 182, 183, 184, 185, 189, 187, 188, 186, 192, 191, 190, 194, 193, 195]
_NAMES_SHA256 = '5c6c8031c31517cde1be7030ab2ed49518dca0b14a06f0fb41133ca1cecb2109'
#: The tables of ``cars_train`` and ``cars_test``.
_DEVKIT = ('cars_train_annos.mat', 'cars_test_annos_withlabels.mat')
_CORNERS = ('bbox_x1', 'bbox_y1', 'bbox_x2', 'bbox_y2')


class _Table(NamedTuple):
    names: List[str]       # relative_im_path, or fname
    classes: np.ndarray    # int (N,), from 1
    boxes: np.ndarray      # float (N, 4), x y width height
    class_names: List[str]


def _read(file: str) -> Dict[str, Any]:
    try:
        return read_mat(file)
    except ValueError as error:
        raise DatasetError(f'{file} cannot be read ({error}).') from None


def _class_names(file: str, content: Dict[str, Any]) -> Optional[List[str]]:
    """The names of the classes in a .mat file, where it has them."""
    names = content.get('class_names')
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise DatasetError(f'{file} has class_names that are not a list of texts.')
    if len(names) != COUNTS.classes:
        raise DatasetError(f'{file} names {len(names)} classes where {COUNTS.classes} were expected.')
    return names


def _read_table(file: str, name_field: str) -> _Table:
    """The table ``annotations`` of a .mat file, whose class ids are the published ones."""
    content = _read(file)
    try:
        rows = content['annotations']
        names = [row[name_field] for row in rows]
        numbers = np.array([[row[field] for field in (*_CORNERS, 'class')] for row in rows], dtype=np.float64)
        if numbers.shape != (len(rows), 5) or not all(isinstance(name, str) for name in names):
            raise ValueError('a value is of another kind')
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f'{file} cannot be read as the table "annotations" of {name_field}, {", ".join(_CORNERS)} '
                           f'and class ({type(error).__name__}: {error}).') from None
    if set(numbers[:, 4]) != set(range(1, COUNTS.classes + 1)):
        raise DatasetError(f'{file} must use the class ids 1 to {COUNTS.classes}, each at least once.')
    boxes = np.concatenate([numbers[:, :2], numbers[:, 2:4] - numbers[:, :2]], axis=1)
    if not np.isfinite(boxes).all() or (boxes[:, 2:] <= 0).any():
        raise DatasetError(f'{file} holds a box whose second corner is not right of and below the first.')
    class_names = _class_names(file, content) or [str(number) for number in range(1, COUNTS.classes + 1)]
    return _Table(names, numbers[:, 4].astype(np.int64), boxes, class_names)


def _find(root: str, name: str) -> Optional[str]:
    """A file of `root`, of ``devkit`` in it, or beside it."""
    above = os.path.dirname(os.path.abspath(root))
    for folder in (root, os.path.join(root, 'devkit'), os.path.join(above, 'devkit'), above):
        if os.path.isfile(os.path.join(folder, name)):
            return os.path.join(folder, name)
    return None


def _published_names(root: str) -> Optional[List[str]]:
    """The names of ``cars_meta.mat``, or of ``cars_annos.mat``, in their order; None if neither has them."""
    for name in ('cars_meta.mat', 'cars_annos.mat'):
        file = _find(root, name)
        names = _class_names(file, _read(file)) if file else None
        if names:
            return names
    return None


def _simple(name: str) -> str:
    """A name as it is compared: without the slash and all else that mirrors write in several ways."""
    return re.sub('[^a-z0-9]', '', name.lower())


def _number_folders(root: str, folders: List[str]) -> Dict[str, int]:
    """The published class id, from 1, of each class folder.

    Raises
    ------
    DatasetError
        If they are not the published classes.
    """
    numbered = [folder for folder in folders if folder.isascii() and folder.isdigit()]
    if numbered:
        ids = {folder: int(folder) for folder in numbered}
        wrong = sorted(set(ids.values()) ^ set(range(1, COUNTS.classes + 1)))
        if wrong or len(ids) != COUNTS.classes:
            raise DatasetError(f'{root} must have one class folder for each number from 1 to {COUNTS.classes} (see '
                               f'folder {wrong[0] if wrong else "names that differ in leading zeros"}).')
        return ids
    simple = {_simple(folder): folder for folder in folders}
    names = _published_names(root)
    if names is not None:
        missing = [name for name in names if _simple(name) not in simple]
        if missing:
            raise DatasetError(f'{root} has no folder for {len(missing)} of the {len(names)} classes, as {missing[0]}.')
        return {simple[_simple(name)]: number for number, name in enumerate(names, 1)}
    ordered = sorted(simple)
    if hashlib.sha256('\n'.join(ordered).encode()).hexdigest() != _NAMES_SHA256:
        raise DatasetError(f'{root} has {len(folders)} class folders, as {folders[0]}, which are not the '
                           f'{COUNTS.classes} names of cars_meta.mat.')
    return {simple[name]: number for name, number in zip(ordered, _SORTED_IDS)}


def _read_class_folders(root: str, splits: Sequence[str]) -> ImageSet:
    """A folder for each class, in each of the folders `splits` of `root` (or in `root` itself: an empty name)."""
    images: List[Tuple[int, str, str]] = []     # class, split, path
    names: Dict[int, str] = {}
    for split in splits:
        place = os.path.join(root, split) if split else root
        for folder, number in _number_folders(place, list_folders(place)).items():
            found = list_images(os.path.join(place, folder))
            if not found:
                raise DatasetError(f'{os.path.join(place, folder)} holds no image file.')
            images.extend((number, split, os.path.join(place, folder, image)) for image in found)
            names[number] = folder
    images.sort(key=lambda image: image[0])
    files = ' and '.join(_DEVKIT) if len(splits) == 2 else 'cars_annos.mat'
    return ImageSet([path for _, _, path in images], np.array([number for number, _, _ in images]) - 1,
                    _published_names(root) or [names[number] for number in sorted(names)],
                    boxes=_folder_boxes(root, splits, images), name='CARS196',
                    no_boxes=f'neither {root} nor a folder devkit has {files}')


def _folder_boxes(root: str, splits: Sequence[str], images: List[Tuple[int, str, str]]) -> Optional[np.ndarray]:
    """The boxes of images in class folders, where ``cars_annos.mat`` or the devkit is there."""
    files = [_find(root, name) for name in (_DEVKIT if len(splits) == 2 else ('cars_annos.mat',))]
    if not all(files):
        return None
    listed: Dict[Tuple[str, str], Tuple[int, np.ndarray]] = {}
    for split, file in zip(splits, files):
        table = _read_table(file, 'fname' if split else 'relative_im_path')
        for name, number, box in zip(table.names, table.classes, table.boxes):
            listed[split, os.path.basename(name)] = number, box
    boxes = []
    for number, split, path in images:
        found, box = listed.get((split, os.path.basename(path)), (0, None))
        if found != number:
            raise DatasetError(f'{" and ".join(files)} does not list {path} in class {number}: without the .mat file '
                               'the folders are read without boxes.')
        boxes.append(box)
    return np.array(boxes)


def _read_devkit(root: str) -> ImageSet:
    """``cars_train`` and ``cars_test``, with the tables of the devkit."""
    paths: List[str] = []
    tables: List[_Table] = []
    for folder, name in zip(('cars_train', 'cars_test'), _DEVKIT):
        file = _find(root, name)
        if file is None:
            annos = _find(root, 'cars_annos.mat')
            raise DatasetError(f'{root} holds the folder {folder}, but neither it nor its folder devkit holds {name}'
                               + (f' ({annos} is of no use here: it numbers the images of car_ims, in another order).'
                                  if annos else '.'))
        place = os.path.join(root, folder)
        if folder in list_folders(place):
            place = os.path.join(place, folder)
        tables.append(_read_table(file, 'fname'))
        paths.extend(image_paths(place, tables[-1].names, file))
    return ImageSet(paths, np.concatenate([table.classes for table in tables]) - 1,
                    _published_names(root) or tables[0].class_names,
                    boxes=np.concatenate([table.boxes for table in tables]), name='CARS196')


def _read_layout(root: str) -> Optional[ImageSet]:
    """The images of `root` in whichever layout it has; None if it has none."""
    folders = list_folders(root)
    mat_file = _find(root, 'cars_annos.mat')
    if mat_file and 'car_ims' in folders:
        table = _read_table(mat_file, 'relative_im_path')
        return ImageSet(image_paths(root, table.names, mat_file), table.classes - 1, table.class_names,
                        boxes=table.boxes, name='CARS196')
    if {'cars_train', 'cars_test'} <= set(folders):
        return _read_devkit(root)
    if {'train', 'test'} <= set(folders):
        return _read_class_folders(root, ['train', 'test'])
    if len(folders) >= COUNTS.train_classes or any(folder.isascii() and folder.isdigit() for folder in folders):
        return _read_class_folders(root, [''])
    return None


@register('CARS196')
def read_cars196(data_path: str) -> Tuple[ImageSet, ImageSet]:
    """Read whichever layout is there.

    Raises
    ------
    DatasetError
        If none is, a file is missing or unreadable, or the counts are not the published ones.
    """
    roots, images = [data_path], None
    for root in roots:
        images = _read_layout(root)
        if images is not None:
            break
        if os.path.relpath(root, data_path).count(os.sep) == 0:     # down to two folders deep
            roots.extend(os.path.join(root, folder) for folder in list_folders(root))
    if images is None:
        names = sorted(os.listdir(data_path))
        found = ', '.join(names[:5]) + (f' and {len(names) - 5} more' if len(names) > 5 else '') if names else 'nothing'
        raise DatasetError(f'{data_path} holds {found}: no layout of CARS196 that is known. These are: cars_annos.mat '
                           'with car_ims; cars_train and cars_test with cars_train_annos.mat and '
                           'cars_test_annos_withlabels.mat; train and test with class folders of the published names; '
                           f'class folders of these names, or 1 to {COUNTS.classes}.')
    train = images.select_classes(np.arange(COUNTS.train_classes))
    test = images.select_classes(np.arange(COUNTS.train_classes, images.num_classes))
    check_counts(train, test, COUNTS, _find(root, 'cars_annos.mat') or root)
    return train, test
