"""Runs a whole comparison: every algorithm, setting and seed of an experiment in ``results/experiments.yaml``.

    python -m results.reproduce --list
    python -m results.reproduce glyphs
    python -m results.reproduce cub-inception --runs 10 --data-path DIR --gpus 0,1,2,3
    python -m results.reproduce glyphs --only margin,proxy --dry-run

Every run (one algorithm, one setting, one seed) is a process of its own with a log of its own. Call the command again
after whatever happened: finished runs are skipped, broken ones go on from their checkpoint, and a log whose settings
are no longer those of the experiment is put aside. A run that fails does not stop the others; its last lines are shown
at the end.

On a cluster whose machines share the folder, with the engines of requirements-cluster.txt, one worker for each GPU:

    dask scheduler
    CUDA_VISIBLE_DEVICES=0 PYTHONPATH=. dask worker tcp://HOST:8786 --nthreads 1 --no-nanny     (in this folder)
    python -m results.reproduce cub-inception --data-path DIR --backend dask --address tcp://HOST:8786

or ``--backend ray`` (``--address auto`` for a cluster that runs). If a worker dies, the engine gives its run to another
one; a lock that lives as long as the training process sees to it that no run is ever trained by two.
"""
from __future__ import annotations

import argparse
import contextlib
import datetime
import fcntl
import json
import os
import queue
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import yaml

from results.algorithms import ALGORITHMS, algorithm
from results.readlog import Experiment, LogError, Run, read_log

HERE = os.path.dirname(os.path.abspath(__file__))
EXPERIMENTS_FILE = os.path.join(HERE, 'experiments.yaml')
MAX_FILE = 1 << 20
MAX_JOBS = 100_000
LAST_LINES = 8
PATIENCE = 120.0        # seconds that an interrupted run has to save its checkpoint


class ExperimentsError(Exception):
    """The file of experiments, or what was asked of it, makes no sense; the message is one sentence."""


# ---------------------------------------------------------------------------------------------------------------------
# What to run

@dataclass(frozen=True)
class Spec:
    """One experiment of the file; flags map to text, or to None where the flag takes no value."""

    name: str
    title: str
    runs: int
    seed: int
    flags: Dict[str, Optional[str]]
    algorithms: Dict[str, Dict[str, Optional[str]]]
    sweep: Dict[str, List[str]]

    @property
    def needs_data(self) -> bool:
        """Must the user say where the images are?"""
        return any({**self.flags, **own}.get('dataset') != 'GLYPHS' for own in self.algorithms.values())


def load_experiments(path: str = EXPERIMENTS_FILE) -> Dict[str, Spec]:
    """Reads the file of experiments.

    Raises
    ------
    ExperimentsError
        If it cannot be read or is not made as its head says.
    """
    try:
        if os.path.getsize(path) > MAX_FILE:
            raise ExperimentsError(f'{path} is larger than a file of experiments can be (1 MiB)')
        with open(path, 'rb') as file:
            content = yaml.safe_load(file)
    except OSError as error:
        raise ExperimentsError(f'{path}: {error.strerror}') from error
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError, KeyError) as error:
        where = getattr(error, 'problem_mark', None)
        line = f', line {where.line + 1}' if where else ''
        raise ExperimentsError(f'{path}{line}: not readable as YAML') from error
    listed = content.get('experiments') if isinstance(content, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise ExperimentsError(f'{path} has no mapping "experiments" of names to experiments')
    return {_name(name, path): _spec(name, value, path) for name, value in listed.items()}


def _name(name: Any, path: str) -> str:
    if not isinstance(name, str) or not re.fullmatch(r'[A-Za-z0-9][\w.-]{0,99}', name):
        raise ExperimentsError(f'{path}: {str(name)[:60]!r} is no name (letters, digits, dots, dashes)')
    return name


def _spec(name: str, value: Any, path: str) -> Spec:
    where = f'{path}, {name}'
    if not isinstance(value, dict):
        raise ExperimentsError(f'{where}: an experiment is a mapping')
    unknown = [k for k in value if k not in ('title', 'runs', 'seed', 'flags', 'algorithms', 'sweep')]
    if unknown:
        raise ExperimentsError(f'{where}: {str(unknown[0])[:60]!r} is none of title, runs, seed, flags, algorithms, '
                               'sweep')
    chosen = value.get('algorithms')
    if isinstance(chosen, list):
        chosen = {one: {} for one in chosen if isinstance(one, str)}
    if not isinstance(chosen, dict) or not chosen:
        raise ExperimentsError(f'{where}: "algorithms" must name at least one')
    for key in chosen:
        if key not in {a.key for a in ALGORITHMS}:
            raise ExperimentsError(f'{where}: there is no algorithm {str(key)[:60]!r} (there are: '
                                   f'{", ".join(a.key for a in ALGORITHMS)})')
    sweep = value.get('sweep') or {}
    if not isinstance(sweep, dict) or not all(isinstance(v, list) and v for v in sweep.values()):
        raise ExperimentsError(f'{where}: "sweep" must map a flag to a list of values')
    axes: Dict[str, List[str]] = {}
    for flag, values in sweep.items():
        given = [_flags({flag: v}, where) for v in values]
        axes[str(flag)] = [one[str(flag)] for one in given if one.get(str(flag)) is not None]
        if len(axes[str(flag)]) != len(values):
            raise ExperimentsError(f'{where}: the values of "sweep" must be numbers or words')
    return Spec(name, str(value.get('title') or name)[:200], _whole(value, 'runs', 1, 1, where),
                _whole(value, 'seed', 123, 0, where), _flags(value.get('flags'), where),
                {key: _flags(own, where) for key, own in chosen.items()}, axes)


def _whole(value: Dict[str, Any], name: str, default: int, low: int, where: str) -> int:
    number = value.get(name, default)
    if isinstance(number, bool) or not isinstance(number, int) or not low <= number < 2 ** 31:
        raise ExperimentsError(f'{where}: "{name}" must be a whole number from {low}')
    return number


def _flags(value: Any, where: str) -> Dict[str, Optional[str]]:
    """Checked flags; a flag that is false or null is left out."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ExperimentsError(f'{where}: flags are a mapping of names to values')
    found: Dict[str, Optional[str]] = {}
    for name, one in value.items():
        if not isinstance(name, str) or not re.fullmatch(r'[A-Za-z][A-Za-z0-9-]{0,60}', name):
            raise ExperimentsError(f'{where}: {str(name)[:60]!r} is no name of a flag (leave the dashes out)')
        if name in ('seed', 'number-of-runs', 'logfile', 'save-model-prefix', 'load-checkpoint', 'data-path', 'gpus'):
            raise ExperimentsError(f'{where}: --{name} is set by results.reproduce itself')
        if one is None or one is False:
            continue
        if isinstance(one, list) and all(isinstance(v, (str, int, float)) and not isinstance(v, bool) for v in one):
            one = ','.join(str(v) for v in one)
        if one is not True and (isinstance(one, bool) or not isinstance(one, (str, int, float))):
            raise ExperimentsError(f'{where}: the value of {name} must be a number, a word, true or false')
        text = None if one is True else str(one)
        if text is not None and (len(text) > 500 or '\0' in text):
            raise ExperimentsError(f'{where}: the value of {name} cannot be passed to a program')
        found[name] = text
    return found


@dataclass(frozen=True)
class Job:
    """One run: one algorithm, one setting, one seed, and where its files are."""

    experiment: str
    algorithm: str
    variant: str
    seed: int
    flags: Dict[str, Optional[str]]
    results_dir: str
    data_path: Optional[str] = None
    script_dir: str = ''

    @property
    def name(self) -> str:
        """Unique within the experiment; part of the names of its files."""
        return '_'.join(p for p in (self.algorithm, self.variant, f'seed{self.seed}') if p)

    def _path(self, kind: str, suffix: str) -> str:
        return os.path.join(self.results_dir, kind, self.experiment, self.name + suffix)

    @property
    def log(self) -> str:
        """The run log."""
        return self._path('logs', '.jsonl')

    @property
    def prefix(self) -> str:
        """What the names of the models and of the checkpoint begin with."""
        return self._path('models', '')

    @property
    def checkpoint(self) -> str:
        """Where the script keeps its checkpoint."""
        return self.prefix + '.ckpt.npz'

    def note(self, suffix: str) -> str:
        """A file of this program about the run, in a hidden folder beside its log."""
        return os.path.join(self.results_dir, 'logs', self.experiment, '.runs', self.name + suffix)

    def settings(self) -> List[str]:
        """The flags that say what is computed."""
        words: List[str] = []
        for name, value in self.flags.items():
            words.append(('-' if len(name) == 1 else '--') + name)
            if value is not None:
                words.append(value)
        return words

    def command(self, gpu: Optional[str] = None, resume: bool = False, python: str = 'python') -> List[str]:
        """The exact words of the command."""
        words = [python, os.path.join(self.script_dir, algorithm(self.algorithm).script), *self.settings()]
        if self.data_path is not None:
            words += ['--data-path', self.data_path]
        words += ['--seed', str(self.seed), '--number-of-runs', '1', '--logfile', self.log,
                  '--save-model-prefix', self.prefix]
        if gpu is not None:
            words += ['--gpus', gpu]
        return words + (['--load-checkpoint'] if resume else [])


def expand(spec: Spec, results_dir: str = 'results', runs: Optional[int] = None, only: Optional[Sequence[str]] = None,
           data_path: Optional[str] = None, script_dir: str = '') -> List[Job]:
    """All runs of an experiment, one seed of everything before the next.

    Raises
    ------
    ExperimentsError
        If `only` names something that the experiment does not have.
    """
    chosen = spec.algorithms if only is None else [k for k in spec.algorithms if any(_is_named(k, o) for o in only)]
    for one in only or ():
        if not any(_is_named(k, one) for k in spec.algorithms):
            raise ExperimentsError(f'--only {one}: {spec.name} has {", ".join(spec.algorithms)}')
    settings: List[Dict[str, Optional[str]]] = [{}]
    for flag, values in spec.sweep.items():
        settings = [{**s, flag: v} for s in settings for v in values]
    count = runs or spec.runs
    if count * len(settings) * len(chosen) > MAX_JOBS:
        raise ExperimentsError(f'{spec.name} would be more than {MAX_JOBS:,} runs')
    jobs = []
    for seed in range(spec.seed, spec.seed + count):
        for setting in settings:
            variant = '_'.join(re.sub(r'[^\w.-]', '-', f'{k}-{v}') for k, v in setting.items())
            for key in chosen:
                flags = {**spec.flags, **dict(algorithm(key).flags), **spec.algorithms[key], **setting}
                jobs.append(Job(spec.name, key, variant, seed, flags, results_dir, data_path, script_dir))
    return jobs


def _is_named(key: str, word: str) -> bool:
    """Does a word of ``--only`` mean this algorithm? By its key, or by its script, which may be two."""
    return word in (key, algorithm(key).script[len('train_'):-len('.py')])


# ---------------------------------------------------------------------------------------------------------------------
# How far it is

def matching(job: Job) -> List[Tuple[Experiment, Run]]:
    """The runs in the job's log that have its seed and settings, the youngest last."""
    try:
        experiments = read_log(job.log)
    except LogError:
        return []
    return [(e, r) for e in experiments for r in e.runs.values() if r.seed == job.seed and _agrees(job, e.flags)]


def _agrees(job: Job, logged: Dict[str, Any]) -> bool:
    for name, value in job.flags.items():
        key = name.replace('-', '_')
        if key not in logged:
            continue                    # a second name of a flag, as --epoch-length
        if value is None:
            if logged[key] is not True:
                return False
        elif str(logged[key]) != value:
            try:
                if float(logged[key]) != float(value):
                    return False
            except (TypeError, ValueError, OverflowError):
                return False
    return True


def finished(job: Job) -> bool:
    """Is there a whole run with these settings, and none begun with others since?"""
    note = _read_note(job)
    return any(run.finished for _, run in matching(job)) and note.get('flags', job.flags) == job.flags


def _read_note(job: Job) -> Dict[str, Any]:
    try:
        with open(job.note('.json'), encoding='utf-8') as file:
            value = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _write_note(job: Job, **fields: Any) -> None:
    path = job.note('.json')
    temporary = f'{path}.tmp-{os.getpid()}-{threading.get_ident()}'
    with open(temporary, 'w', encoding='utf-8') as file:
        json.dump({**fields, 'flags': job.flags}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _put_stale_aside(job: Job) -> None:
    """Renames a log and a checkpoint that other settings made: they neither count as this run nor begin it."""
    note = _read_note(job)
    try:
        logged = read_log(job.log)
    except LogError:
        logged = []
    known = note.get('flags', job.flags) == job.flags
    if known and (not logged or any(_agrees(job, e.flags) for e in logged)):
        return
    number = 1
    while os.path.exists(f'{job.log}.stale-{number}') or os.path.exists(f'{job.checkpoint}.stale-{number}'):
        number += 1
    for path in (job.log, job.checkpoint):
        if os.path.exists(path):
            os.rename(path, f'{path}.stale-{number}')


# ---------------------------------------------------------------------------------------------------------------------
# Running one

class Outcome(NamedTuple):
    """How a job ended: ``finished``, ``failed``, ``skipped`` (was finished before) or ``interrupted``."""

    job: Job
    status: str
    seconds: float = 0.0
    last_lines: Tuple[str, ...] = ()


def execute(job: Job, gpu: Optional[str] = None, threads: Optional[int] = None,
            started: Optional[Callable[[subprocess.Popen], None]] = None) -> Outcome:
    """Trains one run in a process of its own, unless it is finished; waits if somebody else is at it.

    Parameters
    ----------
    job : Job
        What to run; relative paths count from the current folder.
    gpu : str or None
        Value of ``--gpus``.
    threads : int or None
        OMP_NUM_THREADS of the process, where the environment does not set it.
    started : callable or None
        Is given the process.
    """
    begin = time.time()
    for path in (job.log, job.prefix, job.note('')):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    ignore = os.path.join(os.path.dirname(job.note('')), '.gitignore')
    if not os.path.exists(ignore):
        with open(ignore, 'w') as file:
            file.write('*\n')
    with open(job.note('.lock'), 'a') as lock:
        # The training process inherits the lock: it is held until that process ends too, whoever started it. Should a
        # worker die, whoever gets the run next waits here for what the orphan makes of it.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if finished(job):
            return Outcome(job, 'skipped')
        _put_stale_aside(job)
        command = job.command(gpu, os.path.exists(job.checkpoint), sys.executable)
        environment = dict(os.environ)
        if threads is not None:
            environment.setdefault('OMP_NUM_THREADS', str(threads))
        with open(job.note('.out'), 'ab') as output:
            before = output.tell()
            try:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                           env=environment, pass_fds=[lock.fileno()], start_new_session=True)
            except OSError as error:
                return Outcome(job, 'failed', 0.0, (f'{command[0]}: {error.strerror}',))
            _write_note(job, state='running', pid=process.pid, host=socket.gethostname(), started=begin)
            if started is not None:
                started(process)
            code = process.wait()
        seconds = time.time() - begin
        if code == 0 and finished(job):
            _write_note(job, state='finished', seconds=seconds)
            return Outcome(job, 'finished', seconds)
        lines = _last_lines(job.note('.out'), before)
        lines += (f'(exit status {code}; the whole output is in {job.note(".out")})' if code else
                  f'(exit status 0, but {job.log} has no end of the run)',)
        _write_note(job, state='failed', seconds=seconds)
        return Outcome(job, 'failed', seconds, lines)


def _last_lines(path: str, start: int) -> Tuple[str, ...]:
    with open(path, 'rb') as file:
        file.seek(max(start, os.path.getsize(path) - 20_000))
        text = file.read().decode('utf-8', 'replace')
    lines = [line.rstrip() for line in re.split(r'[\r\n]+', text) if line.strip()]
    return tuple(line[:300] for line in lines[-LAST_LINES:])


def execute_in(folder: str, job: Job) -> Outcome:
    """What a worker of a cluster calls; every worker has the folder, at the same place."""
    os.chdir(folder)
    return execute(job)


# ---------------------------------------------------------------------------------------------------------------------
# Running all

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


def run_locally(jobs: Sequence[Job], slots: int, gpus: Sequence[str], board: Board) -> List[Outcome]:
    """Runs `slots` at a time on this machine; each has a GPU of its own if `gpus` are named."""
    threads = max(1, (os.cpu_count() or 1) // slots) if not gpus and slots > 1 else None
    devices: queue.Queue[Optional[str]] = queue.Queue()
    for i in range(slots):
        devices.put(gpus[i % len(gpus)] if gpus else None)
    waiting: queue.Queue[Job] = queue.Queue()
    for job in jobs:
        waiting.put(job)
    outcomes: List[Outcome] = []
    processes: Dict[str, subprocess.Popen] = {}
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            try:
                job = waiting.get_nowait()
            except queue.Empty:
                return
            device = devices.get()
            board.start(job)
            try:
                outcome = execute(job, device, threads, lambda p, name=job.name: processes.__setitem__(name, p))
            except OSError as error:
                outcome = Outcome(job, 'failed', 0.0, (f'{error.filename or job.log}: {error.strerror}',))
            finally:
                processes.pop(job.name, None)
                devices.put(device)
            if stop.is_set() and outcome.status == 'failed':
                outcome = Outcome(job, 'interrupted', outcome.seconds)
            outcomes.append(outcome)
            board.end(outcome)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(slots)]
    for worker in workers:
        worker.start()
    try:
        _watch(workers, board)
    except KeyboardInterrupt:
        stop.set()
        board.refresh()
        print('interrupted: waiting for the runs to save their checkpoints', file=sys.stderr)
        _stop(processes, workers)
        raise
    return outcomes


def _watch(workers: Sequence[threading.Thread], board: Board) -> None:
    while any(w.is_alive() for w in workers):
        for worker in workers:
            worker.join(0.5 / len(workers))
        board.refresh()


def _stop(processes: Dict[str, subprocess.Popen], workers: Sequence[threading.Thread]) -> None:
    """Ctrl-C for all: a script then saves its checkpoint. Whoever does not end is killed."""
    for process in list(processes.values()):
        with contextlib.suppress(OSError):
            process.send_signal(signal.SIGINT)
    end = time.time() + PATIENCE
    try:
        for worker in workers:
            worker.join(max(0.0, end - time.time()))
    finally:
        for process in list(processes.values()):
            with contextlib.suppress(OSError):
                process.kill()


@contextlib.contextmanager
def _engine(backend: str, address: Optional[str]) -> Iterator[Tuple[Dict[str, Any], int]]:
    """joblib's settings for an engine, and how many runs it can do at a time."""
    if backend == 'dask':
        try:
            from distributed import Client
        except ImportError:
            raise ExperimentsError('--backend dask needs dask and distributed: pip install -r requirements-cluster.txt'
                                   ) from None
        if address is None:
            raise ExperimentsError('--backend dask needs --address, as tcp://HOST:8786')
        try:
            client = Client(address, timeout=30)
        except (OSError, ValueError) as error:
            raise ExperimentsError(f'--address {address}: no Dask scheduler answers there') from error
        try:
            yield {'backend': _dask_backend(), 'n_jobs': -1}, sum(client.nthreads().values())
        finally:
            client.close()
    else:
        try:
            import ray
            from ray.util.joblib import register_ray
        except ImportError:
            raise ExperimentsError('--backend ray needs ray: pip install -r requirements-cluster.txt') from None
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, OSError, ValueError, RuntimeError) as error:
            raise ExperimentsError(f'--address {address}: no Ray cluster answers there') from error
        register_ray()
        try:
            resources = ray.cluster_resources()
            gpus = int(resources.get('GPU', 0))
            slots = gpus or max(2, int(resources.get('CPU', 1)))
            # a GPU of its own for each run, where there are any
            yield {'backend': 'ray', 'n_jobs': slots, 'ray_remote_args': {'num_gpus': 1} if gpus else {}}, slots
        finally:
            ray.shutdown()


def _dask_backend() -> Any:
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):
        # joblib does all work in this very process when it counts one worker; and workers may still join
        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(2, super().effective_n_jobs(n_jobs))

    return Backend(wait_for_workers_timeout=60)


def run_on_cluster(jobs: Sequence[Job], backend: str, address: Optional[str], stream: Any = None) -> List[Outcome]:
    """Runs all on a cluster through joblib; the engine hands out what a dead worker had."""
    import joblib
    folder = os.getcwd()
    results: List[Outcome] = []
    problems: List[BaseException] = []
    with _engine(backend, address) as (settings, slots):
        board = Board(jobs, slots, stream)

        def work() -> None:
            try:
                with joblib.parallel_config(**settings):        # holds for the thread that makes it
                    results.extend(joblib.Parallel(batch_size=1, pre_dispatch='all')(
                        joblib.delayed(execute_in)(folder, job) for job in jobs))
            except Exception as error:      # whatever an engine raises; the logs tell what was done before
                problems.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        begin = time.time()
        while thread.is_alive():
            thread.join(0.5)
            for job in jobs:
                note = _read_note(job)
                if note.get('state') == 'running' and note.get('started', 0) >= begin - 1:
                    board.start(job)
                elif note.get('state') == 'finished' and finished(job):
                    board.end(Outcome(job, 'finished', float(note.get('seconds') or 0)))
            board.refresh()
    have = {o.job.name for o in results}
    why = tuple(f'the {backend} engine: {problem!r}'[:300] for problem in problems)
    for job in jobs:
        if job.name not in have:
            results.append(Outcome(job, 'finished') if finished(job) else Outcome(job, 'failed', 0.0, why))
    for outcome in results:
        board.end(outcome)
    return results


# ---------------------------------------------------------------------------------------------------------------------
# The command

def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog='python -m results.reproduce', description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument('experiments', nargs='*', metavar='EXPERIMENT', help='what to run; --list names them')
    made.add_argument('--list', action='store_true', help='list the experiments')
    made.add_argument('--runs', type=_positive, metavar='N', help='seeds of each (what the file says)')
    made.add_argument('--only', metavar='A,B', help='only these algorithms, by the names in the file or of the scripts')
    made.add_argument('--data-path', metavar='DIR', help='folder of the dataset; not needed for GLYPHS')
    made.add_argument('--results-dir', default='results', metavar='DIR', help='folder of logs/ and models/ (results)')
    made.add_argument('--dry-run', action='store_true', help='print the commands and run nothing')
    made.add_argument('--jobs', type=_positive, metavar='N', help='runs at a time (1, or one for each of --gpus)')
    made.add_argument('--gpus', metavar='0,1', help='hand these GPUs out, one to a run')
    made.add_argument('--backend', choices=['local', 'dask', 'ray'], default='local', help='where to run (local)')
    made.add_argument('--address', help='of the cluster: tcp://HOST:8786 for dask; auto for ray')
    made.add_argument('--file', default=EXPERIMENTS_FILE, help='the file of experiments (results/experiments.yaml)')
    return made


def _positive(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 1 to 10000')
    return int(text)


def main(argv: Optional[List[str]] = None, script_dir: str = '') -> int:
    """The command; gives its exit status: 0, 1 if a run failed, 2 on wrong use, 130 if interrupted.

    Parameters
    ----------
    argv : list of str or None
        Words of the command line.
    script_dir : str
        Folder of the training scripts; the current one unless said.
    """
    made = parser()
    opt = made.parse_args(argv)
    signal_before = signal.getsignal(signal.SIGTERM)
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)       # so that runs save their checkpoints
        return _main(opt, script_dir)
    except ExperimentsError as error:
        print(f'results.reproduce: {error}', file=sys.stderr)
        return 2
    except OSError as error:
        print(f'results.reproduce: {error.filename}: {error.strerror}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('results.reproduce: interrupted; the same command goes on from here', file=sys.stderr)
        return 130
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal_before)


def _main(opt: argparse.Namespace, script_dir: str) -> int:
    specs = load_experiments(opt.file)
    if opt.list:
        for spec in specs.values():
            print(f'{spec.name:<16} {len(expand(spec)):>4} runs   {spec.title}')
        return 0
    if not opt.experiments:
        raise ExperimentsError(f'say which experiment: {", ".join(specs)}')
    gpus = [g for g in (opt.gpus or '').split(',') if g]
    if not all(g.isdigit() for g in gpus):
        raise ExperimentsError(f'--gpus {opt.gpus}: numbers of GPUs, as 0,1,2')
    if opt.backend != 'local' and (gpus or opt.jobs):
        raise ExperimentsError('--gpus and --jobs are for --backend local; on a cluster start one worker for each GPU, '
                               'with CUDA_VISIBLE_DEVICES')
    jobs: List[Job] = []
    for name in opt.experiments:
        if name not in specs:
            raise ExperimentsError(f'there is no experiment {name!r} in {opt.file} (there are: {", ".join(specs)})')
        data_path = opt.data_path if specs[name].needs_data else None
        if specs[name].needs_data and data_path is None:
            if not opt.dry_run:
                raise ExperimentsError(f'{name} needs --data-path, the folder of its dataset')
            data_path = 'DIR'
        only = [o for o in opt.only.split(',') if o] if opt.only is not None else None
        jobs += expand(specs[name], opt.results_dir, opt.runs, only, data_path, script_dir)
    waiting = [job for job in jobs if not finished(job)]
    if opt.dry_run:
        return _dry_run(jobs, waiting, gpus)
    print(f'{len(jobs)} runs, {len(jobs) - len(waiting)} of them finished before', flush=True)
    if opt.backend == 'local':
        slots = min(opt.jobs or len(gpus) or 1, max(1, len(waiting)))
        outcomes = run_locally(waiting, slots, gpus, Board(waiting, slots))
    else:
        outcomes = run_on_cluster(waiting, opt.backend, opt.address) if waiting else []
    return _close(opt, outcomes)


def _dry_run(jobs: Sequence[Job], waiting: Sequence[Job], gpus: Sequence[str]) -> int:
    for job in jobs:
        if job in waiting:
            device = gpus[waiting.index(job) % len(gpus)] if gpus else None
            print(shlex.join(job.command(device, os.path.exists(job.checkpoint))))
        else:
            print(f'# finished: {job.log}')
    return 0


def _close(opt: argparse.Namespace, outcomes: Sequence[Outcome]) -> int:
    failed = [o for o in outcomes if o.status == 'failed']
    for outcome in failed:
        print(f'\nfailed: {outcome.job.name}')
        for line in outcome.last_lines:
            print(f'    {line}')
        print('  repeat it with: ' + shlex.join(outcome.job.command(resume=os.path.exists(outcome.job.checkpoint))))
    folders = ' '.join(shlex.quote(os.path.join(opt.results_dir, 'logs', name)) for name in opt.experiments)
    print(f'\n{len(outcomes) - len(failed)} runs done, {len(failed)} failed; see them with:\n'
          f'  python -m results.plots {folders}\n  python -m results.report {folders}')
    return 1 if failed else 0


if __name__ == '__main__':
    from results.reproduce import main as command       # by its real name, so that clusters can import what they run
    sys.exit(command())
