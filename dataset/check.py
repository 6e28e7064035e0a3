"""Checks a dataset before training.

    python -m dataset.check CUB --data-path DIR

Reads every image as training will, and reports the counts, the smallest classes, files that cannot be read (or whose
bounding box lies outside of the picture), and images that are in two of the sets (training, test and, where there is
one, validation), byte for byte.
The exit status is 0 where all is well, 1 otherwise.
"""
from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, List, Optional, Sequence, Tuple

import numpy as np
from tqdm import tqdm

from common.command import CommandParser, run_command
from common.files import expand_path
from common.runtime import available_cores
from dataset.decode import read_image
from dataset.errors import DatasetError
from dataset.imageset import ImageSet
from dataset.registry import dataset_names, get_dataset


def _look(path: str, box: Optional[np.ndarray]) -> Tuple[Optional[bytes], Optional[str]]:
    """The digest of a file's content, and what is wrong with it."""
    try:
        with open(path, 'rb') as file:
            digest = hashlib.blake2b(file.read(), digest_size=16).digest()
        read_image(path, box=box)
    except DatasetError as error:
        return digest, str(error)
    except OSError as error:
        return None, f'{path}: {error.strerror}'
    return digest, None


def inspect(*sets: ImageSet, num_workers: int = 2) -> Tuple[List[str], List[Tuple[str, str]]]:
    """Read all images of all sets.

    Parameters
    ----------
    sets : ImageSets
    num_workers : int
        Threads that decode.

    Returns
    -------
    unreadable : list of str
        One sentence for each file.
    duplicates : list of (str, str)
        Images of the same content in two sets; one pair for each such image of the later set.
    """
    paths, boxes, owners = [], [], []
    for images in sets:
        paths.extend(images.paths)
        boxes.extend([None] * len(images) if images.boxes is None else images.boxes)
        owners.extend([images] * len(images))
    unreadable, duplicates = [], []
    first = {}
    with ThreadPoolExecutor(max(1, num_workers)) as pool:
        looks = tqdm(pool.map(_look, paths, boxes), total=len(paths), unit=' images', disable=None, leave=False)
        for path, owner, (digest, problem) in zip(paths, owners, looks):
            if problem:
                unreadable.append(problem)
            if digest is not None:
                other, other_owner = first.setdefault(digest, (path, owner))
                if other_owner is not owner:
                    duplicates.append((other, path))
    return unreadable, duplicates


def _describe(title: str, images: ImageSet) -> str:
    sizes = np.bincount(images.labels, minlength=images.num_classes)
    smallest = int(sizes.argmin())
    line = (f'{title:<9} {len(images):7d} images of {images.num_classes} classes, {sizes.min()} to {sizes.max()} a '
            f'class (smallest: {DatasetError(images.class_names[smallest])})')
    single = int((sizes == 1).sum())
    return line + (f'; {single} of one image only, which has no positive' if single else '')


def count_passed_over(data_path: str, train: ImageSet, test: ImageSet) -> Counter:
    """How many files in the dataset's folder belong to no set, by suffix."""
    folder = data_path if os.path.isdir(data_path) else os.path.dirname(data_path) or '.'
    used = {os.path.abspath(path) for images in (train, test, train.val) if images is not None
            for path in images.paths}
    passed: Counter = Counter()
    for place, _, names in os.walk(folder):
        for name in names:
            if os.path.abspath(os.path.join(place, name)) not in used:
                passed[os.path.splitext(name)[1].lower() or 'without a suffix'] += 1
    return passed


def check(name: str, data_path: Optional[str], resize: int = 256, num_workers: int = 2, show: int = 20,
          say: Callable[[str], None] = print, allow_seen_classes: bool = False) -> bool:
    """Check a dataset and print what was found; returns whether all is well.

    Parameters
    ----------
    name, data_path, resize, allow_seen_classes
        As for `get_dataset`.
    num_workers : int
        Threads that decode.
    show : int
        How many of each kind of problem to name.
    say : callable
        Takes the lines of the report.

    Raises
    ------
    DatasetError
        If the reader refuses it: lists or images missing, wrong counts.
    """
    train, test = get_dataset(name, data_path, resize=resize, allow_seen_classes=allow_seen_classes)
    say(_describe('training', train))
    say(_describe('test', test))
    if test.queries is not None:
        say(f'{"":<9} {test.queries.sum():7d} of them are queries, which search the other {(~test.queries).sum()}')
    if train.val is not None:
        say(_describe('validation', train.val))
    if data_path:
        passed = count_passed_over(data_path, train, test)
        if passed:
            say('passed over: ' + ', '.join(f'{count} {kind}' for kind, count in passed.most_common()))
    sets = [images for images in (train, test, train.val) if images is not None]
    unreadable, duplicates = inspect(*sets, num_workers=num_workers)
    for title, lines in (('cannot be read', unreadable),
                         ('in training and test' if len(sets) == 2 else 'in two of training, test and validation',
                          [f'{one} = {other}' for one, other in duplicates])):
        say(f'{len(lines)} {title}')
        for line in lines[:show]:
            say(f'    {DatasetError(line)}')      # which escapes what no terminal can show
        if len(lines) > show:
            say(f'    ... and {len(lines) - show} more')
    return not unreadable and not duplicates


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command; returns its exit status."""
    return run_command('dataset.check', lambda: _run(argv))


def _run(argv: Optional[Sequence[str]]) -> int:
    parser = CommandParser(prog='dataset.check', description='Check a dataset before training.')
    parser.add_argument('dataset', choices=dataset_names(), help='which dataset')
    parser.add_argument('--data-path', type=expand_path, metavar='DIR', help='its folder (GLYPHS: made if not given)')
    parser.add_argument('--resize', type=int, default=256, help='side of generated images in pixels (default: 256)')
    parser.add_argument('--num-workers', type=int, default=available_cores(), help='threads (default: one a core)')
    parser.add_argument('--allow-seen-classes', action='store_true', help='with your own split: classes may be in both')
    options = parser.parse_args(argv)
    well = check(options.dataset, options.data_path, options.resize, options.num_workers,
                 allow_seen_classes=options.allow_seen_classes)
    print(f'{options.dataset}: {"all is well" if well else "has problems"}')
    return 0 if well else 1


if __name__ == '__main__':
    sys.exit(main())
