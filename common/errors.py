"""The errors that end a command with one line: what the user got wrong, and with which exit status it ends.

DatasetError, ModelError, EvaluationError, LogError and the like stand in the packages that raise them; all are a
:class:`UserError`. Everything else is a mistake in this program, and shows its traceback.
"""
from __future__ import annotations

import re


class UserError(Exception):
    """One sentence for the user; the command ends with `exit_status`.

    File names may hold line breaks, or bytes that are not UTF-8. Such characters are written as escapes, so that the
    message stays one line.
    """

    exit_status = 1     # bad data

    def __init__(self, message: object = '') -> None:
        text = str(message).encode('utf-8', 'backslashreplace').decode('utf-8')
        super().__init__(''.join(c if c.isprintable() else c.encode('unicode_escape').decode('ascii') for c in text))


class UsageError(UserError):
    """A flag, or a combination of flags, that cannot be carried out."""

    exit_status = 2


class TrainingError(UserError):
    """A run that cannot start or go on: it diverged, is locked, or its checkpoint is damaged."""


def out_of_memory(error: BaseException) -> bool:
    """Does this error of Python or MXNet mean that there was no memory left?"""
    said = re.search('(?i)out of memory|failed to allocate|bad_alloc', str(error))
    return isinstance(error, MemoryError) or said is not None
