"""The live table of `results.reproduce`: what runs, how far it is, and when all will be done."""
from __future__ import annotations

import datetime
import shutil
import sys
import threading
import time
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from results.experiments import Job, matching


class Outcome(NamedTuple):
    """How a job ended: ``finished``, ``failed``, ``skipped`` (was finished before) or ``interrupted``."""

    job: Job
    status: str
    seconds: float = 0.0
    last_lines: Tuple[str, ...] = ()


class Progress(NamedTuple):
    """How far a running job is; None where its log does not say yet."""

    epoch: Optional[int]
    epochs: Optional[int]
    recall: Optional[float]


def progress(job: Job) -> Progress:
    """Reads the log of a running job."""
    found = matching(job)
    if not found:
        return Progress(None, None, None)
    experiment, run = found[-1]
    epochs, members = (experiment.flags.get(k) for k in ('epochs', 'ensemble_size'))
    total = epochs if isinstance(epochs, int) and epochs > 0 else None
    if total and isinstance(members, int) and members > 0:
        total *= members
    trained = [e for e in run.epochs if e.number]
    recalls = [e.metrics['recall@1'] for e in run.epochs if 'recall@1' in e.metrics]
    return Progress(len(trained), total, recalls[-1] if recalls else None)


class Board:
    """The live table: what runs, how far it is, and when all will be done.

    On a terminal the table is redrawn in place; elsewhere every event is one line, and a summary comes once a minute.
    """

    def __init__(self, jobs: Sequence[Job], slots: int, stream: Any = None):
        self._jobs = list(jobs)
        self._slots = max(1, slots)
        self._stream = stream or sys.stdout
        self._tty = self._stream.isatty()
        self._lock = threading.Lock()
        self._running: Dict[str, float] = {}
        self._outcomes: Dict[str, Outcome] = {}
        self._lines = 0
        self._spoke = time.time()

    def start(self, job: Job) -> None:
        """Notes that a job runs."""
        with self._lock:
            if job.name not in self._running:
                self._running[job.name] = time.time()
                self._say(f'started   {job.name}')

    def end(self, outcome: Outcome) -> None:
        """Notes how a job ended."""
        with self._lock:
            if outcome.job.name in self._outcomes:
                return
            self._running.pop(outcome.job.name, None)
            self._outcomes[outcome.job.name] = outcome
            extra = f' in {duration(outcome.seconds)}' if outcome.seconds else ''
            reached = self._reached(outcome)
            self._say(f'{outcome.status:<9} {outcome.job.name}{extra}{reached}')

    @staticmethod
    def _reached(outcome: Outcome) -> str:
        if outcome.status != 'finished':
            return ''
        for _, run in matching(outcome.job):
            best, last = (run.chosen.get(s, (None, {}))[1].get('recall@1') for s in ('best-on-test', 'last'))
            if best is not None and last is not None:
                return f', recall@1 {best:.2f} (last epoch {last:.2f})'
        return ''

    def refresh(self) -> None:
        """Draws the table again, or once a minute says a line."""
        with self._lock:
            if self._tty:
                self._erase()
                columns = shutil.get_terminal_size().columns
                lines = [line[:columns - 1] for line in self.table()]       # a line that wraps could not be erased
                self._stream.write('\n'.join(lines) + '\n')
                self._lines = len(lines)
                self._stream.flush()
            elif time.time() - self._spoke > 60:
                self._say('running   ' + '; '.join(' '.join(line.split()) for line in self.table()[1:]))

    def table(self) -> List[str]:
        """Lines of the table."""
        width = max([len(name) for name in self._running] + [20])
        lines = [f'{"run":<{width}}  {"epoch":>9}  {"recall@1":>8}  {"elapsed":>8}  {"left":>8}']
        lefts = []
        by_name = {job.name: job for job in self._jobs}
        for name, since in list(self._running.items()):
            state, spent = progress(by_name[name]), time.time() - since
            left = spent / state.epoch * (state.epochs - state.epoch) if state.epoch and state.epochs else None
            lefts.append(left)
            epoch = f'{state.epoch}/{state.epochs}' if state.epochs else '-'
            recall = f'{state.recall:.2f}' if state.recall is not None else '-'
            lines.append(f'{name:<{width}}  {epoch:>9}  {recall:>8}  {duration(spent):>8}  '
                         f'{duration(left) if left is not None else "?":>8}')
        lines.append(self._summary(lefts))
        return lines

    def _summary(self, lefts: List[Optional[float]]) -> str:
        done = len(self._outcomes)
        failed = sum(o.status == 'failed' for o in self._outcomes.values())
        waiting = [j for j in self._jobs if j.name not in self._outcomes and j.name not in self._running]
        left = self._time_left(lefts, waiting)
        return (f'{done} of {len(self._jobs)} done' + (f' ({failed} failed)' if failed else '')
                + f', {len(self._running)} running, {len(waiting)} to come; '
                + (f'about {duration(left)} left' if left is not None else 'time left not known yet'))

    def _time_left(self, lefts: List[Optional[float]], waiting: List[Job]) -> Optional[float]:
        """From runs of the same algorithm where there are some, else from all."""
        known: Dict[str, List[float]] = {}
        for outcome in self._outcomes.values():
            if outcome.status == 'finished':
                known.setdefault(outcome.job.algorithm, []).append(outcome.seconds)
        every = [s for values in known.values() for s in values]
        for (_name, since), left in zip(self._running.items(), lefts):
            if left is not None and not every:
                known.setdefault('', []).append(time.time() - since + left)
        every = [s for values in known.values() for s in values]
        if not every:
            return None
        mean = sum(every) / len(every)
        total = sum(left if left is not None else mean for left in lefts)
        for job in waiting:
            own = known.get(job.algorithm)
            total += sum(own) / len(own) if own else mean
        return total / min(self._slots, max(1, len(lefts) + len(waiting)))

    def _erase(self) -> None:
        if self._lines:
            self._stream.write(f'\x1b[{self._lines}A\x1b[J')
            self._lines = 0

    def _say(self, text: str) -> None:
        self._spoke = time.time()
        if self._tty:
            self._erase()
        self._stream.write(f'[{datetime.datetime.now():%H:%M:%S}] {text}\n')
        self._stream.flush()


def duration(seconds: float) -> str:
    """Seconds as a person reads them: 48 s, 12:30 min, 3:05 h."""
    seconds = int(round(seconds))
    if seconds < 60:
        return f'{seconds} s'
    if seconds < 3600:
        return f'{seconds // 60}:{seconds % 60:02d} min'
    return f'{seconds // 3600}:{seconds % 3600 // 60:02d} h'
