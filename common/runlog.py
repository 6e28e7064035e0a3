"""The run log: JSON objects, one a line, appended and flushed. A file that was cut off can be read up to there."""
from __future__ import annotations

import contextlib
import datetime
import functools
import json
import math
import os
import platform
import subprocess
import sys
from typing import Any, Callable, Dict, Optional

import mxnet as mx
import numpy as np

from common.errors import TrainingError
from common.files import lock


class RunLog:
    """Appends events to a file, if there is one.

    Parameters
    ----------
    path : str or None
        The file; None writes nothing.
    experiment_id : str
        Written into every line: tells experiments in one file apart, and stays the same when one is resumed.
    offset : int or None
        Length of the log at the checkpoint that is being resumed. Later lines of this experiment describe what will be
        done again. They are cut off, unless another experiment has written lines after them; readers then take the last
        line about each epoch.
    follow : callable or None
        Gets each event, as a dict, after it is written; also where there is no file.

    Raises
    ------
    TrainingError
        If another process writes to the file.
    """

    def __init__(self, path: Optional[str], experiment_id: str, offset: Optional[int] = None,
                 follow: Optional[Callable[[Dict[str, Any]], None]] = None):
        self.experiment_id = experiment_id
        self._follow = follow
        self._file = None
        if path is None:
            return
        os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
        # Without a buffer: what a full disk refused must not be tried again when the file is closed.
        self._file = open(path, 'a+b', buffering=0)  # noqa: SIM115  held, and locked, until close()
        if not lock(self._file):
            self._file.close()
            raise TrainingError(f'{path} is being written by another run: choose another --logfile or --log-postfix')
        if offset is not None and self.offset > offset and self._only_mine_behind(offset):
            self._file.truncate(offset)
        if self.offset:
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b'\n':
                self._append(b'\n')        # after a line that was cut off

    def _only_mine_behind(self, offset: int) -> bool:
        self._file.seek(offset)
        whole_lines = self._file.read().split(b'\n')[:-1]
        return all(_id_of(line) == self.experiment_id for line in whole_lines)

    @property
    def offset(self) -> int:
        """Length of the file in bytes."""
        return os.fstat(self._file.fileno()).st_size if self._file else 0

    def write(self, event: str, **fields: Any) -> None:
        """Appends one event, and hands it to the operating system."""
        record = self._record(event, fields)
        if self._file is not None:
            self._append(json.dumps(record, allow_nan=False).encode() + b'\n')
        if self._follow is not None:
            self._follow(record)

    def repeat(self, event: str, **fields: Any) -> None:
        """Tells who follows the log what stands in it from before the run was resumed."""
        if self._follow is not None:
            self._follow(self._record(event, fields))

    def _record(self, event: str, fields: Dict[str, Any]) -> Dict[str, Any]:
        time = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')
        return plain({'event': event, 'id': self.experiment_id, 'time': time, **fields})

    def _append(self, line: bytes) -> None:
        """Appends a line whole, or not at all where the disk refuses a part of it."""
        before = self.offset
        try:
            while line:
                line = line[self._file.write(line):]
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(before)
            raise OSError(error.errno, error.strerror, self._file.name) from error

    def close(self) -> None:
        """Closes the file, and so unlocks it."""
        if self._file:
            self._file.close()


def _id_of(line: bytes) -> Optional[str]:
    try:
        return json.loads(line.decode()).get('id')
    except (ValueError, AttributeError):
        return None


def plain(value: Any) -> Any:
    """`value` in JSON's types; what is not a finite number becomes null."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (np.floating, float)):
        return float(f'{value:.8g}') if math.isfinite(value) else None
    if isinstance(value, (np.integer, np.bool_)):
        return value.item()
    return value


def versions() -> Dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {'python': platform.python_version(), 'mxnet': mx.__version__, 'numpy': np.__version__}
    for name in ('gluoncv', 'sklearn', 'scipy', 'cv2'):
        module = sys.modules.get(name)
        if module is not None and hasattr(module, '__version__'):
            found[name] = module.__version__
    return found


@functools.lru_cache(maxsize=None)      # two processes of git a call, and networks are saved often
def git_revision() -> Optional[str]:
    """Revision of this code, with ``+dirty`` where files differ from it; None outside a clone."""
    folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        run = {'cwd': folder, 'capture_output': True, 'text': True, 'timeout': 10, 'check': True}
        revision = subprocess.run(['git', 'rev-parse', '--short=12', 'HEAD'], **run).stdout.strip()
        changed = subprocess.run(['git', 'status', '--porcelain', '--untracked-files=no', '--', '*.py'], **run).stdout
        return revision + ('+dirty' if changed.strip() else '')
    except (OSError, subprocess.SubprocessError):
        return None
