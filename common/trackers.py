"""What trackers (TensorBoard, MLflow) are told about a run: the lines of its log, one by one.

Training hands each line to a :class:`Follower` as it is written, and `results.export` the lines of a finished log. So
both give the same numbers.
"""
from __future__ import annotations

import datetime
import importlib.util
import os
import re
import time
from typing import Any, Callable, Dict, Optional

import numpy as np

from common.errors import UserError

#: What an `epoch` line says of training; its other numbers are of the evaluation.
TRAINING = ('loss', 'lr', 'seconds', 'images_per_second', 'evaluation_seconds')
#: Fields of a line that say what it is about.
ABOUT = ('event', 'id', 'time', 'run', 'epoch', 'member', 'selection', 'seed')
#: End of the name of an event file that `results.export` wrote.
EXPORTED = '.export'


def require(package: str) -> None:
    """Raises a UserError where an optional package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f'the package {package} is not installed: pip install -r requirements-trackers.txt')


def numbers(record: Any, prefix: str = '', depth: int = 2) -> Dict[str, float]:
    """The numbers of a line by name; those of an object in it as ``val/recall@1``."""
    found: Dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, dict) and depth:
            found.update(numbers(value, f'{prefix}{name}/', depth - 1))
        elif (isinstance(value, (int, float)) and not isinstance(value, bool) and name not in ABOUT
              and abs(value) < 1e300):                      # which NaN is not
            found[prefix + name] = float(value)
    return found


def tag(name: str) -> str:
    """The name of a number in trackers, in letters that all of them take: ``recall@1`` -> ``test/recall_at_1``."""
    if '/' not in name:
        name = ('train/' if name in TRAINING else 'test/') + name
    return re.sub(r'[^-/\w.]', '_', name.replace('@', '_at_'))


def seconds(text: Any) -> float:
    """A line's time (ISO 8601), as seconds since 1970; 0 where it has none."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return 0.0


class Follower:
    """Turns the lines of one experiment's log into calls of a tracker.

    Parameters
    ----------
    open_run : callable
        Gets what is known of a run, as a dict, when its first number comes: `id` of the experiment, `name` of the
        experiment, `run`, `params` (its flags), `epoch` and `time` (seconds) of that line. Returns an object with
        ``scalars(epoch, values, time)``, ``end(time, failed)`` and ``close()``; and ``picture(epoch, image, time)``
        where :meth:`picture` is called.
    """

    def __init__(self, open_run: Callable[[Dict[str, Any]], Any]):
        self._open_run = open_run
        self._config: Dict[str, Any] = {}
        self._runs: Dict[int, Any] = {}
        self._epoch = 0

    def __call__(self, event: Dict[str, Any]) -> None:
        """Takes the next line."""
        kind, when = event['event'], seconds(event.get('time'))
        if kind == 'config':
            self._config = event
        elif kind == 'epoch':
            self._epoch = event['epoch']
            self._scalars(event, self._epoch, numbers(event))
        elif kind == 'best':
            self._scalars(event, event['epoch'], numbers(event, f"{event.get('selection')}/"))
        elif kind == 'run_end':
            # The epochs that the selections chose are in `epoch` and in `best`; here are the costs.
            self._scalars(event, self._epoch, numbers(event, 'run/', depth=0))
            self._run(event).end(when, failed=False)
        elif kind == 'diverged':
            self._run(event).end(when, failed=True)

    def _scalars(self, event: Dict[str, Any], epoch: int, values: Dict[str, float]) -> None:
        self._run(event).scalars(epoch, {tag(name): value for name, value in values.items()},
                                 seconds(event.get('time')))

    def _run(self, event: Dict[str, Any]) -> Any:
        number, config = event['run'], self._config
        if number not in self._runs:
            for other in self._runs.values():       # runs come one after another
                other.close()
            script = re.sub(r'\.py$', '', str(config.get('script') or config.get('algorithm')))
            name = '_'.join(str(part) for part in (script, config.get('dataset'), config.get('model'),
                                                   str(event['id'])[:8]))
            params = {**config['flags'], 'algorithm': config.get('algorithm')}
            if isinstance(config.get('seed'), int):
                params['seed'] = config['seed'] + number - 1
            self._runs = {number: self._open_run({
                'id': str(event['id']), 'name': re.sub(r'[^-\w.]', '_', name), 'run': number, 'params': params,
                'epoch': event.get('epoch') or 0, 'time': seconds(event.get('time'))})}
        return self._runs[number]

    def picture(self, run: int, epoch: int, image: np.ndarray) -> None:
        """Shows a picture, (height, width, 3) uint8, of a run whose epoch came before."""
        self._runs[run].picture(epoch, image, time.time())

    def close(self) -> None:
        """Ends all files and connections."""
        for run in self._runs.values():
            run.close()


class EventFile:
    """One run in TensorBoard: an event file in ``FOLDER/EXPERIMENT/runN``.

    A run that is resumed gets another file in the same folder. Its first event makes TensorBoard drop what the earlier
    ones say about this epoch and later ones, which are done again. tensorboardX's `SummaryWriter` is not used: it
    writes in a thread, where the error of a full disk is lost.
    """

    def __init__(self, folder: str, about: Dict[str, Any], suffix: str = ''):
        require('tensorboardX')
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2
        self._summary, self._event = summary, event_pb2.Event
        self._folder = run_folder(folder, about)
        os.makedirs(self._folder, exist_ok=True)
        # Files are read in the order of their names, which begin with the seconds.
        self._file = event_file_writer.EventsWriter(os.path.join(self._folder, 'events'),
                                                    f'.{time.time_ns()}{suffix}')
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._file.write_event(self._event(session_log=start, step=about['epoch'], wall_time=about['time']))
        params = {name: value if isinstance(value, (bool, int, float, str)) else str(value)
                  for name, value in about['params'].items()}
        # Without the first of the three TensorBoard makes its columns from the flags and numbers of all runs.
        _, begin, self._end = summary.hparams(params, {})
        self._write(begin, about['epoch'], about['time'])

    def _write(self, summary: Any, epoch: int, when: float) -> None:
        self._file.write_event(self._event(summary=summary, step=epoch, wall_time=when))

    def scalars(self, epoch: int, values: Dict[str, float], when: float) -> None:
        """Adds numbers of an epoch."""
        for name, value in values.items():
            self._write(self._summary.scalar(name, value), epoch, when)
        self._file.flush()

    def picture(self, epoch: int, image: np.ndarray, when: float) -> None:
        """Adds a picture of neighbours."""
        self._write(self._summary.image('neighbours', image, dataformats='HWC'), epoch, when)
        self._file.flush()

    def end(self, when: float, failed: bool) -> None:
        """Notes that the run has ended; TensorBoard shows one that failed like one that has not ended."""
        if not failed:
            self._write(self._end, 0, when)
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def run_folder(folder: str, about: Dict[str, Any]) -> str:
    """The folder of a run's event files."""
    return os.path.join(folder, about['name'], f"run{about['run']}")


def event_files(folder: Optional[str]) -> Optional[Follower]:
    """What training tells TensorBoard, in event files below a folder; None without one."""
    return None if folder is None else Follower(lambda about: EventFile(folder, about))
