"""What the readers share: text lists read with care, and folders read without touching every file.

A list comes from a download and may be cut off, re-encoded or edited; whatever it holds, the outcome is data or a
DatasetError that names the file and the line.
"""
from __future__ import annotations

import os
from typing import Dict, Iterable, List, Sequence, Set, Tuple

from dataset.errors import DatasetError

#: Suffixes that count as an image, in lower case.
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm')


def find_root(data_path: str, marker: str, subfolder: str, dataset: str) -> str:
    """The folder that holds `marker`: `data_path` itself, or the archive's own folder inside it.

    Raises
    ------
    DatasetError
        If neither holds it.
    """
    for root in (data_path, os.path.join(data_path, subfolder)):
        if os.path.exists(os.path.join(root, marker)):
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
    """Names of the image files directly in `folder`, sorted; one directory scan, no look at the files.

    Raises
    ------
    DatasetError
        If the folder cannot be read.
    """
    return sorted(name for name in _file_names(folder)
                  if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith('.'))


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
    seen: Set[str] = set()
    paths = []
    for name in relative:
        head, _, tail = name.rpartition('/')
        if head not in folders:
            if name.startswith('/') or '\\' in head or ':' in head or '\0' in head \
                    or any(part in ('', '.', '..') for part in head.split('/') if head):
                raise DatasetError(f'{source} lists {name}, which leads out of the image folder.')
            folder = os.path.join(root, *head.split('/'))
            if not os.path.isdir(folder):
                raise DatasetError(f'{source} lists {name}, but there is no folder {folder}.')
            folders[head] = (os.path.join(folder, ''), _file_names(folder))
        prefix, present = folders[head]
        if tail not in present:
            raise DatasetError(f'{source} lists {name}, which is missing in {root}.')
        if name in seen:
            raise DatasetError(f'{source} lists {name} twice.')
        seen.add(name)
        paths.append(prefix + tail)
    return paths
