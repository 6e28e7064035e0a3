"""Reads run logs: the JSON lines of this project and the plain text that the paper's repository wrote.

Whatever the bytes, reading ends with experiments or with one `LogError`. What is damaged is left out: a line cut off,
an unknown event, a number that is none. Metrics come out in percent, and epoch 0 is always the untrained network.
"""
from __future__ import annotations

import ast
import hashlib
import json
import math
import os
import re
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Dict, Iterable, Iterator, List, Optional, Tuple

from common.errors import UserError
from results.algorithms import identify

SELECTIONS = ('best-on-test', 'last', 'best-on-val')
SUFFIXES = ('.jsonl', '.log')
MAX_LINE = 1 << 20          # bytes; a longer line is no line of a log
MAX_COUNT = 10 ** 7         # of epochs and runs


class LogError(UserError):
    """A file, or a set of them, holds no run that could be used; the message is one sentence."""


@dataclass
class Epoch:
    """What one epoch logged; `metrics` is empty where the epoch was not evaluated.

    Number 0 is the untrained network. The epochs of an ensemble's members are counted through, `member` from 1.
    """

    number: int
    member: Optional[int] = None
    metrics: Dict[str, float] = field(default_factory=dict)
    loss: Optional[float] = None
    lr: Optional[float] = None
    seconds: Optional[float] = None
    images_per_second: Optional[float] = None
    val: Dict[str, float] = field(default_factory=dict)
    outputs: Dict[str, Dict[str, float]] = field(default_factory=dict)


@dataclass
class Run:
    """One run of an experiment, with one seed.

    `chosen` maps a selection to (epoch, metrics); an unfinished run has what its epochs so far allow.
    """

    number: int
    epochs: List[Epoch] = field(default_factory=list)
    chosen: Dict[str, Tuple[Optional[int], Dict[str, float]]] = field(default_factory=dict)
    seed: Optional[int] = None
    finished: bool = False
    diverged: Optional[Dict[str, Any]] = None
    seconds: Optional[float] = None
    images_seen: Optional[float] = None

    @property
    def untrained(self) -> Dict[str, float]:
        """Metrics before training, empty where they were not taken."""
        return next((e.metrics for e in self.epochs if e.number == 0), {})

    @property
    def seconds_per_epoch(self) -> Optional[float]:
        """Median over the epochs, None where no epoch says."""
        times = sorted(e.seconds for e in self.epochs if e.seconds)
        return times[len(times) // 2] if times else None


@dataclass
class Experiment:
    """Everything that one call of a script logged: its settings and its runs, by number."""

    id: str
    path: str
    algorithm: str
    dataset: str
    model: str
    flags: Dict[str, Any]
    runs: Dict[int, Run]
    style: str = 'json'                                   # or 'text'
    time: str = ''
    script: Optional[str] = None
    seed: Optional[int] = None
    planned_runs: Optional[int] = None
    versions: Dict[str, Any] = field(default_factory=dict)
    device: List[str] = field(default_factory=list)
    weights: Optional[Dict[str, Any]] = None
    git: Optional[str] = None
    data: Dict[str, Any] = field(default_factory=dict)
    resumed: int = 0
    skipped: List[Dict[str, Any]] = field(default_factory=list)
    complete: bool = False                                # the summary was written


def read_log(path: str) -> List[Experiment]:
    """Reads one log.

    Parameters
    ----------
    path : str
        A file of either family.

    Outputs
    -------
    list of Experiment
        In the order in which they start in the file; each has a run with at least one metric, or a failed one.

    Raises
    ------
    LogError
        If the file cannot be read, or holds nothing usable.
    """
    events: List[Dict[str, Any]] = []
    text = _TextReader(path)
    try:
        with open(path, 'rb') as file:
            for raw in _lines(file):
                line = raw.decode('utf-8', 'replace').strip()
                if line.startswith('{'):
                    event = _json_object(line)
                    if event is not None:
                        events.append(event)
                else:
                    text.line(line)
    except (OSError, ValueError) as error:
        raise LogError(f'{path}: {getattr(error, "strerror", None) or error}') from error
    found = _experiments_from_json(events, path) + text.finish()
    if not found:
        raise LogError(f'{path}: no run log (neither JSON lines nor the text of a training script)')
    return found


def log_files(paths: Iterable[str]) -> List[str]:
    """All logs among `paths`: files as they are, folders searched for ``.jsonl`` and ``.log``, hidden ones left out."""
    files = []
    for path in paths:
        if os.path.isdir(path):
            for folder, names, members in os.walk(path):
                names[:] = sorted(n for n in names if not n.startswith('.'))
                files += [os.path.join(folder, m) for m in sorted(members)
                          if m.endswith(SUFFIXES) and not m.startswith('.')]
        else:
            files.append(path)
    return list(dict.fromkeys(files))


def read_logs(paths: Iterable[str]) -> Tuple[List[Experiment], List[str]]:
    """Reads files and folders.

    Outputs
    -------
    experiments : list of Experiment
        Of all logs; the same experiment found twice (a copied file) is there once.
    problems : list of str
        One sentence for each file that could not be used.

    Raises
    ------
    LogError
        If nothing at all could be used.
    """
    paths = list(paths)
    files = log_files(paths)
    found: Dict[str, Experiment] = {}
    problems = []
    for path in files:
        try:
            for experiment in read_log(path):
                known = found.get(experiment.id)
                if known is None or _extent(experiment) > _extent(known):
                    found[experiment.id] = experiment
        except LogError as error:
            problems.append(str(error))
    if not found:
        raise LogError(problems[0] if len(problems) == 1 else f'no run log in {", ".join(paths) or "no place"}')
    return list(found.values()), problems


def _extent(experiment: Experiment) -> Tuple[int, int]:
    runs = experiment.runs.values()
    return sum(run.finished for run in runs), sum(len(run.epochs) for run in runs)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines of a file in bounded memory; what is longer than a line of a log can be is dropped."""
    while True:
        line = file.readline(MAX_LINE)
        if not line:
            return
        if len(line) == MAX_LINE and not line.endswith(b'\n'):
            while line and not line.endswith(b'\n'):
                line = file.readline(MAX_LINE)
            continue
        yield line


# ---------------------------------------------------------------------------------------------------------------------
# Values that cannot be trusted

def _json_object(line: str) -> Optional[Dict[str, Any]]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get('event'), str) else None


def _number(value: Any) -> Optional[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def _count(value: Any) -> Optional[int]:
    number = _number(value)
    return int(number) if number is not None and number == int(number) and 0 <= number <= MAX_COUNT else None


def _integer(value: Any) -> Optional[int]:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2 ** 63 else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ''


def _dict(value: Any) -> Dict[str, Any]:
    return value if isinstance(value, dict) else {}


_METRIC = re.compile(r'recall@\d{1,6}|map@r|r_precision|nmi')


def _metrics(value: Any) -> Dict[str, float]:
    """The metrics in an object, in percent; anything that is none is left out."""
    found = {}
    for name, one in _dict(value).items():
        number = _number(one)
        if number is not None and _METRIC.fullmatch(name) and -1e-6 <= number <= 100 + 1e-6:
            found[name] = number
    return found


# ---------------------------------------------------------------------------------------------------------------------
# JSON lines

def _experiments_from_json(events: List[Dict[str, Any]], path: str) -> List[Experiment]:
    by_id: Dict[str, List[Dict[str, Any]]] = {}
    for event in events:
        if _text(event.get('id')):
            by_id.setdefault(event['id'], []).append(event)
    found = []
    for identity, own in by_id.items():
        experiment = _experiment(identity, own, path)
        if experiment is not None:
            found.append(experiment)
    return found


def _experiment(identity: str, events: List[Dict[str, Any]], path: str) -> Optional[Experiment]:
    config = next((e for e in reversed(events) if e['event'] == 'config'), None)
    if config is None:
        return None
    flags = _dict(config.get('flags'))
    script = _text(config.get('script')) or None
    experiment = Experiment(
        id=identity, path=path, algorithm=identify(_text(config.get('algorithm')) or None, script, flags, path),
        dataset=_text(config.get('dataset')) or _text(flags.get('dataset')) or 'unknown',
        model=_text(config.get('model')) or _text(flags.get('model')) or 'unknown',
        flags=flags, runs={}, time=_text(config.get('time')), script=script, seed=_integer(config.get('seed')),
        planned_runs=_count(config.get('runs')), versions=_dict(config.get('versions')),
        device=[str(d) for d in config.get('device')] if isinstance(config.get('device'), list) else [],
        weights=_dict(config.get('weights')) or None, git=_text(config.get('git')) or None,
        data=_dict(config.get('data')))

    # The run is (run number), the epoch (run, member, epoch): of lines that a resumed run wrote twice the last counts.
    epochs: Dict[int, Dict[Tuple[int, int], Epoch]] = {}
    for event in events:
        kind, number = event['event'], _count(event.get('run'))
        if kind == 'resume':
            experiment.resumed += 1
        elif kind == 'skipped_image':
            experiment.skipped.append({'path': str(event.get('path')), 'reason': str(event.get('reason'))})
        elif kind == 'summary':
            experiment.complete = True
        elif kind in ('epoch', 'run_end', 'diverged') and number:
            run = experiment.runs.setdefault(number, Run(number))
            if kind == 'epoch':
                epoch = _epoch(event)
                if epoch is not None:
                    epochs.setdefault(number, {})[epoch.member or 0, epoch.number] = epoch
            elif kind == 'run_end':
                _end_run(run, event)
            else:
                run.diverged = {k: v for k, v in event.items() if k not in ('event', 'id')}
    for number, run in experiment.runs.items():
        run.epochs = [epochs[number][key] for key in sorted(epochs.get(number, {}))]
        if run.seed is None and experiment.seed is not None:
            run.seed = experiment.seed + number - 1
        _choose(run)
        if run.finished:
            run.diverged = None         # that was before it was resumed
    experiment.runs = {n: r for n, r in sorted(experiment.runs.items()) if r.finished or r.epochs or r.diverged}
    return experiment if experiment.runs else None


def _epoch(event: Dict[str, Any]) -> Optional[Epoch]:
    number = _count(event.get('epoch'))
    if number is None:
        return None
    outputs = {str(name): _metrics(value) for name, value in _dict(event.get('outputs')).items()}
    return Epoch(number, _count(event.get('member')), _metrics(event), _number(event.get('loss')),
                 _number(event.get('lr')), _number(event.get('seconds')), _number(event.get('images_per_second')),
                 _metrics(event.get('val')), {name: value for name, value in outputs.items() if value})


def _end_run(run: Run, event: Dict[str, Any]) -> None:
    run.finished = True
    run.seed = _integer(event.get('seed'))
    run.seconds = _number(event.get('seconds'))
    run.images_seen = _number(event.get('images_seen'))
    for selection in SELECTIONS:
        metrics = _metrics(event.get(selection))
        if metrics:
            run.chosen[selection] = (_count(_dict(event.get(selection)).get('epoch')), metrics)


def _choose(run: Run) -> None:
    """Fills in what `run_end` did not say, from the epochs."""
    evaluated = [e for e in run.epochs if e.metrics and e.number]
    if not evaluated:
        return
    run.chosen.setdefault('last', (evaluated[-1].number, evaluated[-1].metrics))
    scored = [e for e in evaluated if 'recall@1' in e.metrics]
    if scored:
        best = max(scored, key=lambda e: e.metrics['recall@1'])
        run.chosen.setdefault('best-on-test', (best.number, best.metrics))
    held_out = [e for e in scored if 'recall@1' in e.val]
    if held_out:
        best = max(held_out, key=lambda e: e.val['recall@1'])
        run.chosen.setdefault('best-on-val', (best.number, best.metrics))


# ---------------------------------------------------------------------------------------------------------------------
# Plain text of the paper's repository

_NUMBER = r'([-+]?(?:\d{1,15}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][-+]?\d{1,3})?)'
_NAMESPACE = re.compile(r'Namespace\((.*)\)\s*$')
_START = re.compile(r'Starting run (\d{1,7})\s*/\s*(\d{1,7})')
_END = re.compile(r'Run (\d{1,7}) finished with')
_BEFORE = re.compile(r'Pre-train(?:ing)? validation: (Recall@\d{1,6}|NMI)=' + _NUMBER)
_AFTER = re.compile(r'\[Epoch (\d{1,7})\] validation: (Recall@\d{1,6}|NMI)=' + _NUMBER)
_LOSS = re.compile(r'\[Epoch (\d{1,7})\] training loss=' + _NUMBER)
_FLAG = re.compile(r"(\w{1,60})=('[^']{0,500}'|[-+.\w]{1,60})")


class _TextReader:
    """Feeds on lines, and cuts them into sessions: one for each ``Namespace(...)`` or restart at a smaller run."""

    def __init__(self, path: str):
        self._path = path
        self._sessions: List[Dict[str, Any]] = []
        self._session: Optional[Dict[str, Any]] = None
        self._run = 0

    def line(self, line: str) -> None:
        match = _NAMESPACE.search(line)
        if match:
            self._begin(_namespace(match.group(1)))
            return
        match = _START.search(line)
        if match:
            number = int(match.group(1))
            if self._session is None or number <= self._run:
                self._begin(self._session['flags'] if self._session else {})
            self._run = number
            self._session['planned'] = int(match.group(2))
            return
        match = _BEFORE.search(line)
        if match:
            self._metric(None, match.group(1), match.group(2))
            return
        match = _AFTER.search(line)
        if match:
            self._metric(int(match.group(1)), match.group(2), match.group(3))
            return
        match = _LOSS.search(line)
        if match:
            self._current()['loss'][int(match.group(1))] = float(match.group(2))
            return
        match = _END.search(line)
        if match and self._session is not None and int(match.group(1)) in self._session['runs']:
            self._session['runs'][int(match.group(1))]['finished'] = True

    def _begin(self, flags: Dict[str, Any]) -> None:
        self._session = {'flags': flags, 'runs': {}, 'planned': None}
        self._sessions.append(self._session)
        self._run = 0

    def _current(self) -> Dict[str, Any]:
        if self._session is None:
            self._begin({})
        self._run = self._run or 1
        return self._session['runs'].setdefault(self._run, {'before': {}, 'after': {}, 'loss': {}, 'finished': False})

    def _metric(self, epoch: Optional[int], name: str, value: str) -> None:
        run = self._current()
        target = run['before'] if epoch is None else run['after'].setdefault(epoch, {})
        target[name.lower()] = float(value)

    def finish(self) -> List[Experiment]:
        """The sessions that hold a number."""
        found = []
        for session in self._sessions:
            experiment = self._experiment(session)
            if experiment.runs:
                found.append(experiment)
        return found

    def _experiment(self, session: Dict[str, Any]) -> Experiment:
        flags, runs = session['flags'], session['runs']
        values = [v for run in runs.values() for m in [run['before'], *run['after'].values()] for v in m.values()]
        scale = 100.0 if values and max(values) <= 1 else 1.0
        # Half of the published scripts number their epochs from 0, and print nothing else that would say so.
        first = 1 if any(0 in run['after'] or 0 in run['loss'] for run in runs.values()) else 0
        experiment = Experiment(
            id=hashlib.sha256(repr((flags, runs)).encode('utf-8', 'replace')).hexdigest()[:32], path=self._path,
            algorithm=identify(None, None, flags, self._path), dataset=_text(flags.get('dataset')) or 'unknown',
            model=_text(flags.get('model')) or 'unknown', flags=flags, runs={}, style='text',
            seed=_integer(flags.get('seed')), planned_runs=session['planned'])
        for number, logged in runs.items():
            run = Run(number, finished=logged['finished'])
            before = _metrics({k: v * scale for k, v in logged['before'].items()})
            if before:
                run.epochs.append(Epoch(0, metrics=before))
            for epoch in sorted(set(logged['after']) | set(logged['loss'])):
                metrics = _metrics({k: v * scale for k, v in logged['after'].get(epoch, {}).items()})
                run.epochs.append(Epoch(epoch + first, metrics=metrics, loss=_number(logged['loss'].get(epoch))))
            if run.epochs:
                _choose(run)
                experiment.runs[number] = run
        experiment.complete = bool(experiment.runs) and len(experiment.runs) == session['planned'] and all(
            run.finished for run in experiment.runs.values())
        return experiment


def _namespace(text: str) -> Dict[str, Any]:
    """Flags of a printed argparse.Namespace, of which nothing is run."""
    try:
        call = ast.parse(f'f({text})', mode='eval').body
        return {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg}
    except (SyntaxError, ValueError, TypeError, AttributeError, RecursionError, MemoryError):
        return {name: _literal(value) for name, value in _FLAG.findall(text)}


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return text
