"""Ctrl-C and SIGTERM between two batches, not in the middle of anything."""
from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Dict, Iterable, Iterator, Optional, TypeVar

from common.command import Terminated, terminate

Item = TypeVar('Item')


class Interrupts:
    """Notes Ctrl-C (SIGINT) and SIGTERM while it is entered; :meth:`check` raises them where that is safe.

    By default, Python raises KeyboardInterrupt at the line that is running. In a destructor it is lost, and MXNet's
    arrays have destructors: the run would go on. A second signal is raised at once, because a check may be far away.

    Only the main thread may handle signals. A signal that is ignored, or handled by somebody else, stays so.
    """

    _handled = {signal.SIGINT: (signal.default_int_handler,), signal.SIGTERM: (signal.SIG_DFL, terminate)}

    def __init__(self) -> None:
        self._asked: Optional[int] = None
        self._before: Dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number, usual in self._handled.items():
                if signal.getsignal(number) in usual:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _note(self, number: int, frame: Optional[FrameType]) -> None:
        again, self._asked = self._asked is not None, number
        if again:
            self.check()

    def check(self) -> None:
        """Raises KeyboardInterrupt if Ctrl-C was pressed, Terminated if SIGTERM came."""
        if self._asked is not None:
            raise Terminated if self._asked == signal.SIGTERM else KeyboardInterrupt

    def between(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, with a :meth:`check` before each."""
        for item in items:
            self.check()
            yield item
