"""Unpacks archives from the internet: nothing gets out of the target folder, and nothing grows without a limit.

Only plain files and folders are taken. A link, a device, an absolute name, a name with ``..``, or a name given twice is
refused, and with it the archive: none of the published datasets has one. Owners, modes and times are not restored.
"""
from __future__ import annotations

import bz2
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from dataclasses import dataclass
from typing import IO, Optional

from tqdm import tqdm

from dataset.errors import DatasetError

CHUNK = 1 << 20
#: The most that is ever read at once; tarfile reads a header of any size that the archive claims.
MAX_READ = 1 << 26
_WINDOWS_DEVICES = {'con', 'prn', 'aux', 'nul'} | {d + str(n) for d in ('com', 'lpt') for n in range(10)}


@dataclass
class Limits:
    """What may still come out of archives, together: bytes and files (folders count as files)."""

    bytes: int
    files: int

    def take(self, size: int, archive: str) -> None:
        """Count one file of `size` bytes.

        Raises
        ------
        DatasetError
            If that is too much.
        """
        self.bytes -= size
        self.files -= 1
        if size < 0 or self.bytes < 0 or self.files < 0:
            raise DatasetError(f'{archive} would unpack to more bytes or files than the dataset can have.')


class _CappedReader:
    """A decompressed stream; an error after `limit` bytes, or where more than MAX_READ are wanted at once."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream, self._limit = stream, limit

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > MAX_READ:
            raise tarfile.ReadError(f'a header claims {size} bytes')
        data = self._stream.read(size)
        if self._stream.tell() > self._limit:
            raise tarfile.ReadError(f'it unpacks to more than {self._limit} bytes')
        return data

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        if position > self._limit:
            raise tarfile.ReadError(f'it claims to have more than {self._limit} bytes')
        return self._stream.seek(position, whence)

    def tell(self) -> int:
        return self._stream.tell()


def _target(folder: str, name: str, archive: str) -> Optional[str]:
    """Where a member goes; None for the rubbish that some packers add.

    Raises
    ------
    DatasetError
        If the name leads out of the folder, or is not one that every file system takes for a plain name.
    """
    parts = name.rstrip('/').split('/')
    while parts and parts[0] == '.':        # tar's "./"
        parts = parts[1:]
    if not parts:
        return None
    for part in parts:
        if part in ('', '.', '..') or '\\' in part or ':' in part or any(ord(c) < 32 for c in part) \
                or part.split('.')[0].lower() in _WINDOWS_DEVICES:
            raise DatasetError(f'{archive} holds the name {name!r}, which may lead out of the folder: refused.')
    if parts[0] == '__MACOSX' or parts[-1] == '.DS_Store' or parts[-1].startswith('._'):
        return None
    return os.path.join(folder, *parts)


def _write(source: IO[bytes], target: str, size: int, archive: str) -> None:
    """Copy one member to a file that must not exist yet."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    left = size
    try:
        with open(target, 'xb') as file:
            while left:
                block = source.read(min(CHUNK, left))
                if not block:
                    raise DatasetError(f'{archive} is cut off inside {os.path.basename(target)}.')
                file.write(block)
                left -= len(block)
    except FileExistsError:
        raise DatasetError(f'{archive} holds {os.path.basename(target)} twice.') from None
    except OSError as error:
        if error.errno is None:
            raise               # damage in the archive
        raise OSError(error.errno, error.strerror, target) from error


def _unpack_tar(archive: str, stream: IO[bytes], folder: str, limits: Limits, bar: tqdm) -> None:
    # Headers and padding come on top of the content: at most a few blocks a file.
    capped = _CappedReader(stream, limits.bytes + 4096 * limits.files)
    with tarfile.open(fileobj=capped, mode='r:') as tar:
        count = 0
        for member in tar:
            if not (member.isreg() or member.isdir()) or member.issparse():
                raise DatasetError(f'{archive} holds {member.name!r}, which is a link, a device or another special '
                                   'file: refused.')
            target = _target(folder, member.name, archive)
            limits.take(member.size if member.isreg() else 0, archive)
            count += 1
            bar.update(1)
            if target is None:
                continue
            if member.isdir():
                os.makedirs(target, exist_ok=True)
            else:
                _write(tar.extractfile(member), target, member.size, archive)
    while capped.read(CHUNK):      # to the end, where a compressed file's checksum is compared
        pass
    if not count:
        raise DatasetError(f'{archive} is an empty archive.')


def _unpack_zip(archive: str, folder: str, limits: Limits, bar: tqdm) -> None:
    with zipfile.ZipFile(archive) as content:
        members = content.infolist()
        for member in members:      # all names are judged before the first file is written
            mode = member.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise DatasetError(f'{archive} holds {member.filename!r}, which is a link, a device or another '
                                   'special file: refused.')
            if member.flag_bits & 1:
                raise DatasetError(f'{archive} is encrypted.')
            _target(folder, member.orig_filename, archive)
            limits.take(member.file_size, archive)
        bar.total = len(members)
        for member in members:
            target = _target(folder, member.filename, archive)
            bar.update(1)
            if target is None:
                continue
            if member.is_dir():
                os.makedirs(target, exist_ok=True)
            else:
                with content.open(member) as source:
                    _write(source, target, member.file_size, archive)
    if not members:
        raise DatasetError(f'{archive} is an empty archive.')


def unpack(archive: str, folder: str, limits: Limits, progress: bool = True) -> None:
    """Unpack a tar (plain, gzip, bzip2 or xz) or zip archive; its kind is seen from its content.

    Parameters
    ----------
    archive : str
    folder : str
        Must exist. What was written before an error stays there, so give a folder of its own.
    limits : Limits
        Counted down.
    progress : bool
        Whether to draw a progress bar (never where stderr is no terminal).

    Raises
    ------
    DatasetError
        If the archive is damaged, too large, or holds anything but plain files and folders inside `folder`.
    OSError
        If the disk cannot take it.
    """
    openers = {b'\x1f\x8b': gzip.open, b'BZ': bz2.open, b'\xfd7': lzma.open}
    with open(archive, 'rb') as file:
        magic = file.read(4)
    try:
        hidden = None if progress else True     # None: where stderr is no terminal
        with tqdm(unit=' files', desc=os.path.basename(archive), disable=hidden, leave=False) as bar:
            if magic[:2] == b'PK':
                _unpack_zip(archive, folder, limits, bar)
            else:
                with openers.get(magic[:2], open)(archive, 'rb') as stream:
                    _unpack_tar(archive, stream, folder, limits, bar)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DatasetError(f'{archive} uses one name for a file and a folder ({error.filename}).') from None
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, ValueError,
            RecursionError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise               # the disk; gzip and bz2 report damage as an OSError without a number
        raise DatasetError(f'{archive} is damaged, or no tar or zip archive '
                           f'({" ".join(str(error).split()) or type(error).__name__}).') from None
