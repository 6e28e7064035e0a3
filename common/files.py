"""Files: atomic writes, ``.npz`` without pickles, hashes, and locks that end with their process."""
from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import struct
import zipfile
from typing import IO, Dict, Iterator, Optional, Sequence

import numpy as np

#: The record at the end of a zip archive without a comment, as NumPy writes them: mark and number of entries.
_ZIP_END = struct.Struct('<4s6xH10x')


@contextlib.contextmanager
def atomic_write(path: str, mode: str = 'wb') -> Iterator[IO]:
    """Opens a temporary file beside `path`, and puts it in `path`'s place when the block ends without an error.

    The data is on the disk before the name changes, so that a reader, or a process killed at any moment, finds the old
    content or the new one. On an error the temporary file is removed and `path` stays as it was.

    Raises
    ------
    OSError
        With `path` as its file name, where the file cannot be written (disk full, no such folder, ...).
    """
    temporary = f'{path}.tmp-{os.getpid()}'
    try:
        with open(temporary, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(os.path.dirname(path) or '.')
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            # Some libraries report a failed write with a text alone, without a number.
            raise OSError(error.errno, error.strerror or str(error), path) from error
        raise


def expand_path(text: str) -> str:
    """`text` with ``~`` and environment variables replaced, as a shell does it; the `type` of flags that name files."""
    return os.path.expanduser(os.path.expandvars(text))


def write_npz(path: str, arrays: Dict[str, np.ndarray]) -> None:
    """Writes a ``.npz`` without pickles, atomically.

    `numpy.savez` leaves its archive open where a write fails; Python closes it later, which prints a traceback.

    Raises
    ------
    OSError
        With `path` as its file name.
    ValueError
        If an array holds Python objects.
    """
    with atomic_write(path) as file, zipfile.ZipFile(file, 'w') as archive:
        for name, array in arrays.items():
            with archive.open(f'{name}.npy', 'w', force_zip64=True) as entry:
                np.lib.format.write_array(entry, np.asanyarray(array), allow_pickle=False)


def read_npz(path: str, names: Optional[Sequence[str]] = None) -> Dict[str, np.ndarray]:
    """Reads the arrays of a ``.npz``, or those among `names`; nothing in it is run.

    Raises
    ------
    ValueError
        If it is damaged, holds Python objects, or is no such file.
    OSError
        If the disk cannot give it.
    """
    try:
        with open(path, 'rb') as archive:       # NumPy leaves a damaged one open
            with np.load(archive, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files if names is None or name in names}
                found = len(file.files)
            archive.seek(-_ZIP_END.size, os.SEEK_END)
            magic, count = _ZIP_END.unpack(archive.read())
    except Exception as error:      # a flipped bit may raise anything, as it may ask for another compression
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # damage makes it seek to nowhere
            raise
        raise ValueError(str(error)) from error
    # A flipped bit in the length of one entry hides those behind it, which `zipfile` takes for the end of the list.
    if magic != b'PK\5\6' or count not in (found, 0xffff):
        raise ValueError(f'{count} arrays are in it, {found} were found')
    return arrays


def hash_file(path: str, name: str = 'sha256') -> str:
    """Hash of a file's content, in hex; `name` as `hashlib` knows it.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    digest = hashlib.new(name)
    with open(path, 'rb') as file:
        for block in iter(lambda: file.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()


def sync_folder(folder: str) -> None:
    """Makes renames inside `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock(file: IO) -> bool:
    """Takes an exclusive lock on an open file; False where another process holds it.

    The kernel drops the lock when the process ends, however it ends.
    """
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(file.fileno()).st_nlink > 0  # else its last holder has deleted it, and others may lock a new one
