"""How every command of this project starts and ends. What may go wrong is one line and an exit status:

| exit status | |
|---|---|
| 0 | done |
| 1 | bad data, a full disk, a run that diverged, out of memory |
| 2 | bad usage |
| 130, 143 | Ctrl-C, SIGTERM |
"""
from __future__ import annotations

import argparse
import contextlib
import errno
import os
import signal
import sys
import threading
from typing import Any, Callable, Iterator, Optional

from common.errors import UserError, out_of_memory

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EPIPE)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does, but for the exit status."""


class CommandParser(argparse.ArgumentParser):
    """An argument parser that ends with one line and exit status 2 on a mistake, and takes no abbreviated flags."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{'allow_abbrev': False, **kwargs})

    def error(self, message: str) -> None:
        """Ends the process."""
        self.exit(2, f'{self.prog}: {message} (see --help)\n')


def run_command(name: str, action: Callable[[], Any]) -> int:
    """Runs a command; an expected error is printed as one line on stderr.

    Parameters
    ----------
    name : str
        The command, which begins the line, as ``train_margin.py``.
    action : callable
        Reads the flags and does the work. A number that it returns is the exit status.

    Returns
    -------
    int
        The exit status.
    """
    _make_streams_usable()
    try:
        with _termination():
            status = action()
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except UserError as error:
        status, message = error.exit_status, error
    except OSError as error:
        where = error.filename or _silenced_stdout(error)
        status, message = 1, f'{error.strerror or error}' + (f': {where}' if where else '')
    except KeyboardInterrupt as error:
        status = 143 if isinstance(error, Terminated) else 130
        message = error if error.args else 'interrupted'
    except Exception as error:
        if not out_of_memory(error):
            raise
        status, message = 1, 'out of memory: lower --batch-size, --image-size or --num-workers'
    sys.stderr.write(f'{name}: {message}\n')
    return status


def command_name() -> str:
    """What the user called: ``train_margin.py``, or ``common.evaluation`` after ``python -m``."""
    spec = getattr(sys.modules.get('__main__'), '__spec__', None)
    if spec is not None and sys.argv[0].endswith('.py'):
        return spec.name[:-len('.__main__')] if spec.name.endswith('.__main__') else spec.name
    return os.path.basename(sys.argv[0])


@contextlib.contextmanager
def _termination() -> Iterator[None]:
    """Raises :class:`Terminated` where SIGTERM comes, in the main thread, unless somebody else handles it."""
    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if mine:
        signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        if mine:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def terminate(number: int, frame: Optional[Any]) -> None:
    """The handler of SIGTERM: raises :class:`Terminated`."""
    raise Terminated


def _make_streams_usable() -> None:
    """Opens closed streams on /dev/null, and has them replace characters that they cannot encode.

    Neither may end a long run. A closed descriptor would also be given to the next file that is opened, and everything
    that is printed would go into that file.
    """
    for number, name, mode in ((0, 'stdin', 'r'), (1, 'stdout', 'w'), (2, 'stderr', 'w')):
        stream = getattr(sys, name)
        if stream is None:
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  for as long as the process lives
        elif mode == 'w' and hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace' if name == 'stderr' else 'replace')


def _silenced_stdout(error: OSError) -> str:
    """'standard output' if it is a full disk or a closed pipe; what is printed from then on goes to /dev/null."""
    if error.errno not in _FULL:
        return ''
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python tries to print the rest at its end
    return 'standard output'
