"""What the readers share: reading text lists, and listing folders without opening every file.

A list may be cut off, re-encoded or edited. Then a DatasetError names the file and the line.
"""
from __future__ import annotations

import os
from typing import Callable, Dict, FrozenSet, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from dataset.errors import DatasetError

#: Suffixes that count as an image, in lower case.
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.gif', '.bmp', '.dib', '.webp', '.tif', '.tiff', '.ppm',
                  '.pgm', '.pbm', '.pnm')
#: The first bytes of image files. A file with another suffix, or none, is opened and compared.
_IMAGE_STARTS = (b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n', b'GIF87a', b'GIF89a', b'II*\0', b'MM\0*')


def find_root(data_path: str, marker: str, subfolder: str, dataset: str) -> str:
    """The folder that holds `marker`: `data_path` itself, or the archive's own folder inside it.

    Raises
    ------
    DatasetError
        If neither holds it.
    """
    inside = name_in(data_path, subfolder)
    for root in [data_path] + ([os.path.join(data_path, inside)] if inside else []):
        if name_in(root, marker):
            return root
    raise DatasetError(f'{dataset}: neither {data_path} nor its folder {subfolder} holds {marker} (--data-path must '
                       'name the folder of the unpacked dataset).')


def read_lines(file: str) -> List[str]:
    """The lines of a text. Blank lines at the end are left out.

    Raises
    ------
    DatasetError
        If the file cannot be read, is not UTF-8, or is empty.
    """
    try:
        with open(file, 'rb') as stream:
            text = stream.read().decode('utf-8-sig')
    except (OSError, ValueError) as error:
        reason = 'is not UTF-8 text' if isinstance(error, UnicodeDecodeError) else f'cannot be read ({error})'
        raise DatasetError(f'{file} {reason}.') from None
    if not text.strip():
        raise DatasetError(f'{file} is empty.')
    # Not splitlines(): that also splits at characters that may stand in a file name.
    return text.rstrip().replace('\r\n', '\n').split('\n')


def read_rows(file: str, types: Sequence[type], header: int = 0) -> List[list]:
    """Read a list whose lines hold one blank-separated value for each of `types`; the last may hold blanks.

    Parameters
    ----------
    file : str
    types : sequence of int, float or str
        What each column is converted with.
    header : int
        How many lines at the start are a heading, to be skipped.

    Returns
    -------
    rows : list of columns, each a list with one value a line. Blank lines at the end are ignored.

    Raises
    ------
    DatasetError
        If the file cannot be read, is not UTF-8, is empty, or a line does not have these columns.
    """
    lines = read_lines(file)[header:]
    if not lines:
        raise DatasetError(f'{file} is empty.')
    columns: List[list] = [[] for _ in types]
    for number, line in enumerate(lines, header + 1):
        try:
            values = [kind(value) for kind, value in zip(types, line.rstrip().split(None, len(types) - 1))]
        except ValueError:
            values = []
        if len(values) != len(types):
            names = ' '.join({int: 'integer', float: 'number', str: 'text'}[kind] for kind in types)
            raise DatasetError(f'{file}: line {number} is not of the form "{names}".')
        for column, value in zip(columns, values):
            column.append(value)
    return columns


def _scan(folder: str, keep: Callable[[os.DirEntry], bool]) -> List[os.DirEntry]:
    """The entries of a folder that `keep` takes. The kind of an entry comes with the scan; only links need a look."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if keep(entry)]
    except (OSError, ValueError) as error:
        raise DatasetError(f'{folder} cannot be read as a folder ({error}).') from None


def list_folders(folder: str) -> List[str]:
    """Names of the folders directly in `folder`, sorted, hidden ones left out.

    Raises
    ------
    DatasetError
        If the folder cannot be read.
    """
    return sorted(entry.name for entry in _scan(folder, lambda entry: entry.name[:1] != '.' and entry.is_dir()))


def list_images(folder: str) -> List[str]:
    """Names of the pictures in `folder` and in the folders inside it, relative to `folder`, sorted.

    A picture has one of `IMAGE_SUFFIXES`, or begins as one. Hidden files and folders are left out.

    Raises
    ------
    DatasetError
        If a folder cannot be read, or a link leads nowhere.
    """
    return sorted(_images(folder, '', frozenset()))


def _images(folder: str, prefix: str, above: FrozenSet[str]) -> Iterator[str]:
    """The images in `folder`, each with `prefix` before its name; `above` are the folders that led here."""
    place = os.path.realpath(folder)
    if place in above:      # a link to a folder that holds it
        return
    for entry in _scan(folder, lambda entry: entry.name[:1] != '.'):
        name = os.path.join(prefix, entry.name)
        if entry.is_dir():
            yield from _images(entry.path, name, above | {place})
        elif entry.is_symlink() and not os.path.exists(entry.path):
            raise DatasetError(f'{entry.path} is a link to {os.readlink(entry.path)}, which does not exist.')
        elif entry.is_file() and (name.lower().endswith(IMAGE_SUFFIXES) or _begins_as_image(entry.path)):
            yield name


def _begins_as_image(path: str) -> bool:
    try:
        with open(path, 'rb') as file:
            start = file.read(16)
    except OSError:
        return False
    return start.startswith(_IMAGE_STARTS) or (start[:4], start[8:12]) == (b'RIFF', b'WEBP')


def name_in(folder: str, name: str) -> Optional[str]:
    """The entry of `folder` called `name`, else the only one that differs from it in upper and lower case alone."""
    try:
        names = os.listdir(folder)
    except (OSError, ValueError):
        return None
    same = [other for other in names if other.lower() == name.lower()]
    return name if name in same else same[0] if len(same) == 1 else None


def image_paths(root: str, relative: Iterable[str], source: str) -> List[str]:
    """Join listed names to `root` and check that each exists, by one scan of each folder.

    Parameters
    ----------
    root : str
        The folder the names are relative to.
    relative : iterable of str
        Names with forward slashes, as in the published lists.
    source : str
        The list, for messages.

    Raises
    ------
    DatasetError
        If a name is listed twice, leads out of `root`, or names a file that does not exist.
    """
    folders: Dict[str, Tuple[str, Dict[str, str]]] = {}     # its path, and its files by name and by name in lower case
    seen: Set[str] = set()
    paths = []
    for name in relative:
        head, _, tail = name.rpartition('/')
        if head not in folders:
            if name.startswith('/') or '\0' in head or any(part in ('', '.', '..') for part in head.split('/') if head):
                raise DatasetError(f'{source} lists {name}, which leads out of the image folder.')
            folder = root
            for part in head.split('/') if head else ():
                folder = os.path.join(folder, part if os.path.isdir(os.path.join(folder, part))
                                      else name_in(folder, part) or part)
            if not os.path.isdir(folder):
                raise DatasetError(f'{source} lists {name}, but there is no folder {folder}.')
            files = [entry.name for entry in _scan(folder, os.DirEntry.is_file)]
            folders[head] = os.path.join(folder, ''), {**{file.lower(): file for file in files},
                                                       **{file: file for file in files}}
        prefix, files = folders[head]
        file = files.get(tail) or files.get(tail.lower())   # a file system may have lost the upper case
        if file is None:
            raise DatasetError(f'{source} lists {name}, which is missing in {root}.')
        if prefix + file in seen:
            raise DatasetError(f'{source} lists {name} twice.')
        seen.add(prefix + file)
        paths.append(prefix + file)
    return paths
