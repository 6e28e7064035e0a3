"""Your own images: class folders, with or without a split, or a list (FOLDER, also called miniCUB).

These layouts::

    DIR/train/NAME/*.jpg  DIR/test/NAME/*.jpg  [DIR/val/NAME/*.jpg]     your own split
    DIR/NAME/*.jpg                          the first half of the classes, by name, trains; the second half tests
    DIR/any.csv                             the columns path, label and split (train, test or val), and those of a box
    DIR/any.json                            as in COCO and iNaturalist, each image with a split; --data-path names it
    DIR/train.json  DIR/test.json and/or DIR/val.json       the same without a split; --data-path may name train.json,
                                            or train2018.json, to which val2018.json belongs
"""
from __future__ import annotations

import csv
import math
import os
import re
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from dataset import coco
from dataset.errors import DatasetError
from dataset.imageset import ImageSet
from dataset.image_files import list_folders, list_images, name_in
from dataset.registry import register


_SPLITS = {'train': 'train', 'test': 'test', 'val': 'val', 'valid': 'val', 'validation': 'val'}
_COLUMNS = ('path', 'label', 'split')
#: By split: path, label and box.
_Rows = Dict[str, List[Tuple[str, str, Optional[Tuple[float, ...]]]]]
#: The columns of a box: the first two kinds give two corners, the others a corner and a size.
_BOXES = (('x1', 'y1', 'x2', 'y2'), ('xmin', 'ymin', 'xmax', 'ymax'), ('x', 'y', 'w', 'h'),
          ('x', 'y', 'width', 'height'))


def pictures_in(folder: str) -> List[str]:
    """The paths of all pictures in `folder` and in the folders inside it, sorted.

    Raises
    ------
    DatasetError
        If a folder cannot be read, or a link leads nowhere.
    """
    return [os.path.join(folder, name) for name in list_images(folder)]


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


def _own_split(root: str) -> Optional[Dict[str, ImageSet]]:
    """The sets of ``train``, ``test`` and ``val``; None where the folders are classes."""
    folders = list_folders(root)
    places = {split: name_in(root, name) for name, split in reversed(list(_SPLITS.items()))
              if name_in(root, name) in folders}
    if 'train' not in places or not {'test', 'val'} & set(places):
        return None
    if 'test' not in places and len(folders) > 2:
        return None     # classes, of which two are called so
    if 'test' not in places:
        raise DatasetError(f'{root} holds the folders train and {places["val"]}, but no test.')
    return {split: read_folders(os.path.join(root, place), 'FOLDER') for split, place in places.items()}


def _header(file: str) -> List[str]:
    try:
        with open(file, encoding='utf-8-sig', newline='') as stream:
            return [name.strip().lower() for name in next(csv.reader(stream), [])]
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(f'{file} cannot be read ({error}).') from None


def _box_columns(header: List[str]) -> Tuple[str, ...]:
    """The names in a heading of the columns of a box, in the order of `_BOXES`; ``x_1`` and ``bbox_x1`` will do too."""
    plain = {re.sub('^(bbox|box)|_', '', name): name for name in header}
    return next((tuple(plain[name] for name in names) for names in _BOXES if set(names) <= set(plain)), ())


def _read_box(columns: Tuple[str, ...], texts: List[str], where: str) -> Optional[Tuple[float, ...]]:
    """x, y, width and height; None if the columns are empty."""
    if not any(texts):
        return None
    try:
        x, y, w, h = map(float, texts)
        if columns[2].endswith(('2', 'max')):
            w, h = w - x, h - y
        if min(w, h) > 0 and math.isfinite(x + y + w + h):
            return x, y, w, h
    except ValueError:
        pass
    raise DatasetError(f'{where} has the box {" ".join(texts)}, which is not {" ".join(columns)} with a positive size.')


def _read_csv(file: str) -> Dict[str, ImageSet]:
    """The sets of a table; paths are relative to its folder. Where no row says test, the rows of val are the test."""
    header = _header(file)
    missing = [name for name in _COLUMNS if name not in header]
    if missing:
        raise DatasetError(f'{file} has no column {missing[0]}: its first line must name the columns path, label and '
                           'split.')
    box_columns = _box_columns(header)
    no_boxes = '' if box_columns else f'{file} has no columns x, y, w, h or x1, y1, x2, y2'
    rows: _Rows = {}
    seen: Dict[str, int] = {}
    try:
        with open(file, encoding='utf-8-sig', newline='') as stream:
            reader = csv.reader(stream, strict=True)
            next(reader)
            for row in reader:
                if not row:
                    continue
                values = dict(zip(header, (value.strip() for value in row)))
                path, label, split = (values.get(name, '') for name in _COLUMNS)
                where = f'{file}: line {reader.line_num}'
                if len(row) != len(header) or not path or not label:
                    raise DatasetError(f'{where} does not have a value for each column.')
                if split.lower() not in _SPLITS:
                    raise DatasetError(f'{where} has the split {split!r}, which is none of train, test and val.')
                path = os.path.join(os.path.dirname(file), path)
                if not os.path.isfile(path):
                    raise DatasetError(f'{where} lists {path}, which does not exist.')
                if path in seen:
                    raise DatasetError(f'{where} lists {path}, as line {seen[path]} does.')
                seen[path] = reader.line_num
                box = _read_box(box_columns, [values[name] for name in box_columns], where)
                no_boxes = no_boxes or ('' if box else f'{where} has none')
                rows.setdefault(_SPLITS[split.lower()], []).append((path, label, box))
    except (OSError, ValueError, csv.Error) as error:
        raise DatasetError(f'{file} cannot be read ({error}).') from None
    return _as_sets(rows, no_boxes, f'{file} has no row whose split is')


def _as_sets(rows: _Rows, no_boxes: str, lacks: str) -> Dict[str, ImageSet]:
    """The sets of path, label and box by split; `no_boxes` says why there are no boxes, and is empty if there are."""
    if 'test' not in rows and 'val' in rows:
        rows['test'] = rows.pop('val')
    for split in ('train', 'test'):
        if split not in rows:
            raise DatasetError(f'{lacks} {split}.')
    sets = {}
    for split, found in rows.items():
        paths, classes, boxes = zip(*found)
        names = sorted(set(classes))
        label_of = {name: number for number, name in enumerate(names)}
        sets[split] = ImageSet(list(paths), np.array([label_of[label] for label in classes]), names, name='FOLDER',
                               boxes=None if no_boxes else np.array(boxes), no_boxes=no_boxes)
    return sets


def _lists_beside(file: str) -> Dict[str, str]:
    """The lists ``test`` and ``val`` that belong to ``train.json`` or, by the same name, to ``train2018.json``."""
    folder, name = os.path.split(file)
    found = {}
    for split in ('val', 'test') if name.startswith('train') else ():
        for other in (split + name[len('train'):], f'{split}.json'):
            if os.path.isfile(os.path.join(folder, other)):
                found.setdefault(split, os.path.join(folder, other))
    return found


def _read_json(file: str, content: Optional[Dict[str, Any]]) -> Dict[str, ImageSet]:
    """The sets of a JSON list, whose content has been read: each image has a split, or other files are the test."""
    form = 'is no list of images, annotations and categories, as those of COCO and iNaturalist'
    if content is None:
        raise DatasetError(f'{file} {form}.')
    found = {'': coco.rows(content, file)}
    if not any(row.split for row in found['']):
        beside = _lists_beside(file)
        if not beside:
            raise DatasetError(f'{file} has no image with a split (train, test or val), and there is no list to test '
                               'with: train.json needs test.json or val.json beside it.')
        found = {'train': found['']}
        for split, other in beside.items():
            content = coco.load(other)
            if content is None:
                raise DatasetError(f'{other} {form}.')
            found[split] = coco.rows(content, other)
    rows: _Rows = {}
    no_boxes = ''
    seen: Dict[str, str] = {}
    for split, images in found.items():
        for path, label, own, box in images:
            if not split and (own or '').lower() not in _SPLITS:
                raise DatasetError(f'{file} gives {path} the split {own!r}, which is none of train, test and val.')
            if seen.setdefault(path, split) != split:
                raise DatasetError(f'{path} is both in the list of {seen[path]} and in that of {split}.')
            no_boxes = no_boxes or ('' if box else f'{path} has not one bbox in {file}')
            rows.setdefault(split or _SPLITS[own.lower()], []).append((path, label, box))
    return _as_sets(rows, no_boxes, f'{file} has no annotated image for' if '' in found
                    else f'there are no annotated images beside {file} for')


def _tables(folder: str) -> List[str]:
    """The ``.csv`` files of a folder that have the columns of a dataset."""
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith('.csv') and not name.startswith('.'))
    files = [os.path.join(folder, name) for name in names]
    return [file for file in files if os.path.isfile(file) and set(_COLUMNS) <= set(_header(file))]


def _refuse_seen_classes(sets: Dict[str, ImageSet], source: str) -> None:
    """No class of training may be tested."""
    for split in ('test', 'val'):
        if split in sets:
            shared = sorted(set(sets['train'].class_names) & set(sets[split].class_names))
            if shared:
                named = ', '.join(shared[:5]) + (f' and {len(shared) - 5} more' if len(shared) > 5 else '')
                raise DatasetError(f'{source}: train and {split} both hold the classes {named}: a test of new classes '
                                   'needs others (or say --allow-seen-classes).')


@register('FOLDER', takes=('allow_seen_classes',))
def read_folder(data_path: str, allow_seen_classes: bool = False) -> Tuple[ImageSet, ImageSet]:
    """Read a folder or a table of images; any number of classes and images.

    Parameters
    ----------
    data_path : str
        The folder, or the ``.csv`` or ``.json`` file.
    allow_seen_classes : bool
        Whether classes of the training set may be in the test set, too.

    Raises
    ------
    DatasetError
        If a folder, a table or a picture is missing or cannot be read, or a class is in both sets.
    """
    if data_path.lower().endswith('.csv') and not os.path.isdir(data_path):
        sets: Optional[Dict[str, ImageSet]] = _read_csv(data_path)
    elif data_path.lower().endswith('.json') and not os.path.isdir(data_path):
        sets = _read_json(data_path, coco.load(data_path))
    else:
        list_folders(data_path)     # or an error
        tables = _tables(data_path)
        if len(tables) > 1:
            raise DatasetError(f'{data_path} holds {len(tables)} tables ({", ".join(map(os.path.basename, tables))}): '
                               'name one with --data-path.')
        train = os.path.join(data_path, 'train.json')
        content = coco.load(train) if not tables and os.path.isfile(train) and _lists_beside(train) else None
        if tables:
            sets = _read_csv(tables[0])
        else:       # a train.json of another kind says nothing of the folders beside it
            sets = _own_split(data_path) if content is None else _read_json(train, content)
    if sets is None:
        return split_halves(read_folders(data_path, 'FOLDER'))
    if not allow_seen_classes:
        _refuse_seen_classes(sets, data_path)
    sets['train'].val = sets.get('val')
    return sets['train'], sets['test']


register('miniCUB', takes=('allow_seen_classes',))(read_folder)
