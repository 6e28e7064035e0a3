"""Files that are whole or not there: atomic writes, and locks that die with their process."""
from __future__ import annotations

import contextlib
import fcntl
import os
from typing import IO, Iterator


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
            raise OSError(error.errno, error.strerror, path) from error
        raise


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
        return True
    except BlockingIOError:
        return False
