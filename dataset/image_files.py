"""What the readers share: text lists read with care, and folders read without touching every file.

A list comes from a download and may be cut off, re-encoded or edited; whatever it holds, the outcome is data or a
DatasetError that names the file and the line.
"""
from __future__ import annotations

import os
from typing import Dict, Iterable, List, Optional, Sequence, Set, Tuple

from dataset.errors import DatasetError

#: Suffixes that count as an image, in lower case.
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.gif', '.bmp', '.dib', '.webp', '.tif', '.tiff', '.ppm',
                  '.pgm', '.pbm', '.pnm')
#: How pictures begin: what has another suffix, or none, is opened to look.
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
                       'name the folder of the unpacked '
                       'dataset).')


def read_rows(file: str, types: Sequence[type], header: bool = False) -> List[list]:
    """Read a list whose lines hold one blank-separated value for each of `types`; the last may hold blanks.

    Parameters
    ----------
    file : str
    types : sequence of int, float or str
        What each column is converted with.
    header : bool
        Whether the first line is a heading, to be skipped.

    Returns
    -------
    rows : list of columns, each a list with one value a line. Blank lines at the end are ignored.

    Raises
    ------
    DatasetError
        If the file cannot be read, is not UTF-8, is empty, or a line does not have these columns.
    """
    try:
        with open(file, 'rb') as stream:
            text = stream.read().decode('utf-8-sig')
    except (OSError, ValueError) as error:
        reason = 'is not UTF-8 text' if isinstance(error, UnicodeDecodeError) else f'cannot be read ({error})'
        raise DatasetError(f'{file} {reason}.') from None
    # Not splitlines(): that also splits at characters that may stand in a file name.
    lines = text.rstrip().replace('\r\n', '\n').split('\n')[1 if header else 0:]
    if not lines or lines == ['']:
        raise DatasetError(f'{file} is empty.')
    rows = [line.rstrip().split(None, len(types) - 1) for line in lines]
    try:
        columns = list(zip(*rows)) if all(len(row) == len(types) for row in rows) else None
        if columns is not None:
            return [list(column) if kind is str else list(map(kind, column)) for kind, column in zip(types, columns)]
    except ValueError:
        pass  # the slow way below finds the line to name
    names = ' '.join({int: 'integer', float: 'number', str: 'text'}[kind] for kind in types)
    for number, row in enumerate(rows, 2 if header else 1):
        try:
            bad = len(row) != len(types) or not [kind(value) for kind, value in zip(types, row)]
        except ValueError:
            bad = True
        if bad:
            raise DatasetError(f'{file}: line {number} is not of the form "{names}".')
    raise DatasetError(f'{file} cannot be read as lines of the form "{names}".')


def list_images(folder: str) -> List[str]:
    """Names of the pictures in `folder` and in the folders inside it, relative to `folder`, sorted.

    A picture has one of `IMAGE_SUFFIXES`, or begins as one. Hidden files and folders are left out.

    Raises
    ------
    DatasetError
        If a folder cannot be read, or a link leads nowhere.
    """
    found: List[str] = []
    _collect_images(folder, '', found, set())
    return sorted(found)


def _collect_images(folder: str, prefix: str, found: List[str], above: Set[str]) -> None:
    """Appends the pictures in `folder` to `found`, each with `prefix` before its name."""
    place = os.path.realpath(folder)
    if place in above:      # a link to a folder that holds it
        return
    try:
        with os.scandir(folder) as entries:
            shown = [entry for entry in entries if not entry.name.startswith('.')]
    except (OSError, ValueError) as error:
        raise DatasetError(f'{folder} cannot be read as a folder ({error}).') from None
    for entry in shown:
        if entry.is_dir():
            _collect_images(entry.path, os.path.join(prefix, entry.name), found, above | {place})
        elif not entry.is_file():
            if entry.is_symlink():
                raise DatasetError(f'{entry.path} is a link to {os.readlink(entry.path)}, which does not exist.')
        elif entry.name.lower().endswith(IMAGE_SUFFIXES) or _begins_as_image(entry.path):
            found.append(os.path.join(prefix, entry.name))


def _begins_as_image(path: str) -> bool:
    try:
        with open(path, 'rb') as file:
            start = file.read(16)
    except OSError:
        return False
    return start.startswith(_IMAGE_STARTS) or (start[:4], start[8:12]) == (b'RIFF', b'WEBP')


def name_in(folder: str, name: str) -> Optional[str]:
    """The name in `folder` that is `name`, or the only one that differs from it in upper and lower case alone."""
    try:
        names = os.listdir(folder)
    except (OSError, ValueError):
        return None
    same = [other for other in names if other.lower() == name.lower()]
    return name if name in same else same[0] if len(same) == 1 else None


def list_folders(folder: str) -> List[str]:
    """Names of the folders directly in `folder`, sorted, hidden ones left out.

    Raises
    ------
    DatasetError
        If the folder cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith('.') and entry.is_dir())
    except (OSError, ValueError) as error:
        raise DatasetError(f'{folder} cannot be read as a folder ({error}).') from None


def _file_names(folder: str) -> Set[str]:
    """Names of the files in a folder. The kind of an entry comes with the scan; only links need a look."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError) as error:
        raise DatasetError(f'{folder} cannot be read as a folder ({error}).') from None


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
    folders: Dict[str, Tuple[str, Set[str]]] = {}
    lower: Dict[str, Dict[str, str]] = {}
    seen: Set[str] = set()
    paths = []
    for name in relative:
        head, _, tail = name.rpartition('/')
        if head not in folders:
            if name.startswith('/') or '\\' in head or ':' in head or '\0' in head \
                    or any(part in ('', '.', '..') for part in head.split('/') if head):
                raise DatasetError(f'{source} lists {name}, which leads out of the image folder.')
            folder = root
            for part in head.split('/') if head else ():
                folder = os.path.join(folder, part if os.path.isdir(os.path.join(folder, part))
                                      else name_in(folder, part) or part)
            if not os.path.isdir(folder):
                raise DatasetError(f'{source} lists {name}, but there is no folder {folder}.')
            folders[head] = (os.path.join(folder, ''), _file_names(folder))
        prefix, present = folders[head]
        if tail not in present:     # as a file system that knows no upper case leaves it
            if head not in lower:
                lower[head] = {other.lower(): other for other in present}
            tail = lower[head].get(tail.lower(), tail)
        if tail not in present:
            raise DatasetError(f'{source} lists {name}, which is missing in {root}.')
        if prefix + tail in seen:
            raise DatasetError(f'{source} lists {name} twice.')
        seen.add(prefix + tail)
        paths.append(prefix + tail)
    return paths
