"""Datasets by name: each reader's module enters itself here."""
from __future__ import annotations

from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

from common.errors import UsageError
from dataset.imageset import ImageSet


class _Entry(NamedTuple):
    reader: Callable[..., Tuple[ImageSet, ImageSet]]
    generated: bool
    takes: Tuple[str, ...]


_READERS: Dict[str, _Entry] = {}


def register(name: str, generated: bool = False, takes: Tuple[str, ...] = ()) -> Callable:
    """Decorator that enters a reader under `name`.

    A reader takes the data folder and returns (train, test). A reader that is `generated` makes its images itself:
    it is called as ``reader(data_path or None, size=..., seed=...)``. `takes` names further arguments of `get_dataset`
    that it wants.
    """
    def enter(reader: Callable) -> Callable:
        if name in _READERS:
            raise ValueError(f'dataset {name} is registered twice')
        _READERS[name] = _Entry(reader, generated, takes)
        return reader
    return enter


def dataset_names() -> List[str]:
    """Names that `get_dataset` knows, in the order of registration."""
    return list(_READERS)


def get_dataset(name: str, data_path: Optional[str], image_size: int = 224, resize: int = 256,
                seed: int = 0, allow_seen_classes: bool = False) -> Tuple[ImageSet, ImageSet]:
    """Read a dataset: its training and its test images, which share no class.

    Parameters
    ----------
    name : str
        One of `dataset_names()`.
    data_path : str or None
        The dataset's folder. None only for a generated set, which then goes to the cache folder.
    image_size, resize : int
        Side in pixels of the crop the network sees, and of the image it is cut from. Generated images are made with
        side `resize`, files on disk are left as they are; `image_size` is accepted so that every caller can pass its
        preprocessing as a whole.
    seed : int
        Of a generated set.
    allow_seen_classes : bool
        Of your own images: whether a class may be in both sets.

    Returns
    -------
    (train, test) : ImageSets

    Raises
    ------
    UsageError
        If the name is unknown or no folder is given.
    DatasetError
        If the folder is missing, or its content is not what the dataset must have.
    """
    if name not in _READERS:
        raise UsageError(f'--dataset {name} is unknown: choose one of {", ".join(dataset_names())}.')
    entry = _READERS[name]
    if entry.generated:
        return entry.reader(data_path, size=resize, seed=seed)
    if not data_path:
        raise UsageError(f'--dataset {name} needs --data-path, the folder that holds it.')
    options = {'allow_seen_classes': allow_seen_classes}
    return entry.reader(data_path, **{name: options[name] for name in entry.takes})
