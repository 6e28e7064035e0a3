"""Lists of pictures in the JSON of COCO and iNaturalist::

    {"images":      [{"id": 7, "file_name": "Aves/3/x.jpg", "split": "train"}, ...],     split may be missing
     "annotations": [{"image_id": 7, "category_id": 3, "bbox": [x, y, width, height]}, ...],     bbox may be missing
     "categories":  [{"id": 3, "name": "Turdus merula"}, ...]}

The class of a picture is the category of its annotations. Names of files are relative to the folder of the list.
"""
from __future__ import annotations

import json
import math
import os
from collections import Counter
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

from dataset.errors import DatasetError
from dataset.image_files import image_paths

Box = Tuple[float, ...]


class Row(NamedTuple):
    """One picture; `split` as the list has it, None where it has none."""

    path: str
    label: str
    split: Optional[str]
    box: Optional[Box]      # x, y, width, height


def load(file: str) -> Optional[Dict[str, Any]]:
    """The content of a JSON file; None where it is no list of pictures.

    Raises
    ------
    DatasetError
        If the file cannot be read, or is no JSON.
    """
    try:
        with open(file, encoding='utf-8-sig') as stream:
            content = json.load(stream)
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f'{file} cannot be read as JSON ({error or type(error).__name__}).') from None
    parts = ('images', 'annotations', 'categories')
    return content if isinstance(content, dict) and all(isinstance(content.get(p), list) for p in parts) else None


def rows(content: Dict[str, Any], file: str) -> List[Row]:
    """The pictures that have an annotation, in the order of ``images``.

    Parameters
    ----------
    content : dict
        As `load` gives it.
    file : str
        Where it is from.

    Raises
    ------
    DatasetError
        If a part is not of the form, an id is there twice or is not known, a picture has two categories, or a file is
        missing.
    """
    names = {ident: str(category.get('name', ident)) for ident, category in _by_id(content, 'categories', file)}
    often = Counter(names.values())
    labels = {ident: name if often[name] == 1 else f'{name} ({ident})' for ident, name in names.items()}
    images = dict(_by_id(content, 'images', file))
    of_image: Dict[Any, Any] = {}
    boxes: Dict[Any, List[Optional[Box]]] = {}
    for number, one in enumerate(content['annotations']):
        image, category = (_ident(one.get(key) if isinstance(one, dict) else None)
                           for key in ('image_id', 'category_id'))
        if image not in images or category not in labels:
            raise DatasetError(f'{file}: annotation {number} has no image_id of "images" and category_id of '
                               '"categories".')
        if of_image.setdefault(image, category) != category:
            raise DatasetError(f'{file} puts image {image} into the categories {labels[of_image[image]]} and '
                               f'{labels[category]}: a picture has one class.')
        boxes.setdefault(image, []).append(_box(one.get('bbox')))
    kept = [(ident, image) for ident, image in images.items() if ident in of_image]
    files = [image.get('file_name') for _, image in kept]
    wrong = next((ident for (ident, _), name in zip(kept, files) if not isinstance(name, str) or not name), None)
    if wrong is not None:
        raise DatasetError(f'{file}: image {wrong} has no file_name.')
    paths = image_paths(os.path.dirname(file) or '.', files, file)
    return [Row(path, labels[of_image[ident]], None if image.get('split') is None else str(image['split']),
                boxes[ident][0] if len(boxes[ident]) == 1 else None) for path, (ident, image) in zip(paths, kept)]


def _ident(value: Any) -> Any:
    """An id: a whole number or a text; None for anything else."""
    return value if isinstance(value, (int, str)) and not isinstance(value, bool) else None


def _by_id(content: Dict[str, Any], part: str, file: str) -> Iterator[Tuple[Any, Dict[str, Any]]]:
    """The objects of ``images`` or ``categories`` with their ids."""
    seen = set()
    for number, one in enumerate(content[part]):
        ident = _ident(one.get('id')) if isinstance(one, dict) else None
        if ident is None:
            raise DatasetError(f'{file}: number {number} of "{part}" has no id.')
        if ident in seen:
            raise DatasetError(f'{file} has the id {ident} twice in "{part}".')
        seen.add(ident)
        yield ident, one


def _box(value: Any) -> Optional[Box]:
    """x, y, width and height; None where they are no box with a positive size."""
    if not isinstance(value, list) or len(value) != 4 or any(
            isinstance(one, bool) or not isinstance(one, (int, float)) for one in value):
        return None
    try:
        box = tuple(map(float, value))
    except OverflowError:
        return None
    return box if math.isfinite(sum(box)) and min(box[2:]) > 0 else None
