"""The one exception type for bad data."""
from __future__ import annotations


class DatasetError(Exception):
    """Something about the data is wrong: one sentence that names the file, folder or flag and what was expected.

    The scripts print it as one line and exit, so whatever stands in a file name (line breaks, bytes that are no
    UTF-8) must not break that line or the terminal's encoding: such characters are written as escapes.
    """

    def __init__(self, message: str) -> None:
        text = str(message).encode('utf-8', 'backslashreplace').decode('utf-8')
        super().__init__(''.join(c if c.isprintable() else c.encode('unicode_escape').decode('ascii') for c in text))
