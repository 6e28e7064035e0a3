"""Unpacks archives from the internet: nothing is written outside of the target folder, and there are limits of size.

Only plain files and folders are taken. A link, a device, an absolute name, a name with ``..``, or a name given twice is
refused, and with it the archive: none of the published datasets has one. Owners, modes and times are not restored.
(Python's own filters for `tarfile` are missing in older versions of Python 3.8 to 3.11, and set no limits.)
"""
from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from functools import partial
from typing import IO, Callable, Iterator, Optional, Tuple

from tqdm import tqdm

from dataset.errors import DatasetError

CHUNK = 1 << 20
#: The most that is ever read at once; tarfile reads a header of any size that the archive claims.
MAX_READ = 1 << 26
_SPECIAL = '{} holds {!r}, which is a link, a device or another special file: refused.'

#: Name, size in bytes, and what opens it; a folder has nothing to open.
_Member = Tuple[str, int, Optional[Callable[[], IO[bytes]]]]


class _CappedReader:
    """A decompressed stream; an error after `limit` bytes, or where more than MAX_READ are wanted at once."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream, self._limit = stream, limit
        self.tell = stream.tell

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > MAX_READ:
            raise tarfile.ReadError(f'a header claims {size} bytes')
        data = self._stream.read(size)
        if self.tell() > self._limit:
            raise tarfile.ReadError(f'it unpacks to more than {self._limit} bytes')
        return data

    def seek(self, position: int) -> int:
        if position > self._limit:
            raise tarfile.ReadError(f'it claims to have more than {self._limit} bytes')
        return self._stream.seek(position)


def _tar_members(archive: str, magic: bytes, limit: int) -> Iterator[_Member]:
    openers = {b'\x1f\x8b': gzip.open, b'BZ': bz2.open, b'\xfd7': lzma.open}
    with openers.get(magic, open)(archive, 'rb') as stream:
        capped = _CappedReader(stream, limit)
        with tarfile.open(fileobj=capped, mode='r:') as tar:
            for member in tar:
                if not (member.isreg() or member.isdir()) or member.issparse():
                    raise DatasetError(_SPECIAL.format(archive, member.name))
                yield (member.name, 0, None) if member.isdir() else \
                    (member.name, member.size, partial(tar.extractfile, member))
        while capped.read(CHUNK):      # to the end, where a compressed file's checksum is compared
            pass


def _zip_members(archive: str) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as content:
        for member in content.infolist():
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DatasetError(_SPECIAL.format(archive, member.filename))
            if member.flag_bits & 1:
                raise DatasetError(f'{archive} is encrypted.')
            yield (member.filename, 0, None) if member.is_dir() else \
                (member.filename, member.file_size, partial(content.open, member))


def _target(folder: str, name: str, archive: str) -> Optional[str]:
    """The path of a member; None for files that some packers add (``__MACOSX``, ``.DS_Store``).

    Raises
    ------
    DatasetError
        If the name leads out of the folder, or holds control characters.
    """
    parts = name.rstrip('/').split('/')
    while parts and parts[0] == '.':        # tar's "./"
        parts = parts[1:]
    if any(part in ('', '.', '..') or any(ord(c) < 32 for c in part) for part in parts):
        raise DatasetError(f'{archive} holds the name {name!r}, which may lead out of the folder: refused.')
    if not parts or parts[0] == '__MACOSX' or parts[-1] == '.DS_Store' or parts[-1].startswith('._'):
        return None
    return os.path.join(folder, *parts)


def _write(source: IO[bytes], target: str, size: int, archive: str) -> None:
    """Copy one member to a file that must not exist yet."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    try:
        with open(target, 'xb') as file:
            shutil.copyfileobj(source, file, CHUNK)
            if file.tell() != size:
                raise DatasetError(f'{archive} is cut off inside {os.path.basename(target)}.')
    except FileExistsError:
        raise DatasetError(f'{archive} holds {os.path.basename(target)} twice.') from None
    except OSError as error:
        if error.errno is None:
            raise               # damage in the archive
        raise OSError(error.errno, error.strerror, target) from error


def unpack(archive: str, folder: str, max_bytes: int, max_files: int) -> None:
    """Unpack a tar (plain, gzip, bzip2 or xz) or zip archive; its kind is seen from its content.

    Parameters
    ----------
    archive : str
    folder : str
        Must exist. What was written before an error stays there, so give a folder of its own.
    max_bytes, max_files : int
        How much may come out; folders count as files.

    Raises
    ------
    DatasetError
        If the archive is damaged, too large, or holds anything but plain files and folders inside `folder`.
    OSError
        If the disk cannot take it.
    """
    with open(archive, 'rb') as file:
        magic = file.read(2)
    # The headers and the padding of a tar come on top of its content: at most a few blocks a file.
    members = _zip_members(archive) if magic == b'PK' else _tar_members(archive, magic, max_bytes + 4096 * max_files)
    count = total = 0
    try:
        for name, size, opener in tqdm(members, unit=' files', desc=os.path.basename(archive), disable=None,
                                       leave=False):
            target = _target(folder, name, archive)
            count, total = count + 1, total + size
            if size < 0 or total > max_bytes or count > max_files:
                raise DatasetError(f'{archive} would unpack to more bytes or files than the dataset can have.')
            if target is not None and opener is None:
                os.makedirs(target, exist_ok=True)
            elif target is not None:
                with opener() as source:
                    _write(source, target, size, archive)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DatasetError(f'{archive} uses one name for a file and a folder ({error.filename}).') from None
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError,
            RecursionError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise               # the disk; gzip and bz2 report damage as an OSError without a number
        raise DatasetError(f'{archive} is damaged, or no tar or zip archive '
                           f'({" ".join(str(error).split()) or type(error).__name__}).') from None
    if not count:
        raise DatasetError(f'{archive} is an empty archive.')
