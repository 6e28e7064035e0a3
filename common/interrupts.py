"""Ctrl-C between two batches, not in the middle of anything."""
from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Iterable, Iterator, Optional, TypeVar

Item = TypeVar('Item')


class Interrupts:
    """Notes Ctrl-C (SIGINT) while it is entered; :meth:`check` raises it where that is safe.

    Python raises KeyboardInterrupt at whatever line it is, and drops it where that line belongs to a destructor; the
    arrays of MXNet have one, so that a run would go on as if nothing had happened. A second Ctrl-C is raised at once,
    for what takes long between two checks.

    Only the main thread may handle signals, and where Ctrl-C is ignored or somebody else's, it stays so: then this does
    nothing.
    """

    def __init__(self) -> None:
        self._asked = self._installed = False

    def __enter__(self) -> Interrupts:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._note)
            self._installed = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._installed = False

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        if self._asked:
            raise KeyboardInterrupt
        self._asked = True

    def check(self) -> None:
        """Raises KeyboardInterrupt if Ctrl-C was pressed."""
        if self._asked:
            raise KeyboardInterrupt

    def between(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, with a :meth:`check` before each."""
        for item in items:
            self.check()
            yield item
