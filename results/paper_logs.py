"""Reads the plain text that the training scripts of the paper's repository wrote."""
from __future__ import annotations

import ast
import hashlib
import re
from typing import Any, Dict, List, Optional

from results.algorithms import identify
from results.records import Epoch, Experiment, Run, as_text, choose_epochs, finite, integer, known_metrics

_NUMBER = r'([-+]?(?:\d{1,15}(?:\.\d{0,30})?|\.\d{1,30})(?:[eE][-+]?\d{1,3})?)'
_NAMESPACE = re.compile(r'Namespace\((.*)\)\s*$')
_START = re.compile(r'Starting run (\d{1,7})\s*/\s*\d{1,7}')
_END = re.compile(r'Run (\d{1,7}) finished with')
_BEFORE = re.compile(r'Pre-train(?:ing)? validation: (Recall@\d{1,6}|NMI)=' + _NUMBER)
_AFTER = re.compile(r'\[Epoch (\d{1,7})\] validation: (Recall@\d{1,6}|NMI)=' + _NUMBER)
_LOSS = re.compile(r'\[Epoch (\d{1,7})\] training loss=' + _NUMBER)
_FLAG = re.compile(r"(\w{1,60})=('[^']{0,500}'|[-+.\w]{1,60})")


class PaperLog:
    """Takes a log line by line. A session begins at each ``Namespace(...)``, and where the run number starts again."""

    def __init__(self, path: str):
        self._path = path
        self._sessions: List[Dict[str, Any]] = []
        self._session: Optional[Dict[str, Any]] = None
        self._run = 0

    def line(self, line: str) -> None:
        if match := _NAMESPACE.search(line):
            self._begin(_namespace(match.group(1)))
        elif match := _START.search(line):
            number = int(match.group(1))
            if self._session is None or number <= self._run:
                self._begin(self._session['flags'] if self._session else {})
            self._run = number
        elif match := _BEFORE.search(line):
            self._current()['before'][match.group(1).lower()] = float(match.group(2))
        elif match := _AFTER.search(line):
            epoch = self._current()['after'].setdefault(int(match.group(1)), {})
            epoch[match.group(2).lower()] = float(match.group(3))
        elif match := _LOSS.search(line):
            self._current()['loss'][int(match.group(1))] = float(match.group(2))
        elif (match := _END.search(line)) and self._session and int(match.group(1)) in self._session['runs']:
            self._session['runs'][int(match.group(1))]['finished'] = True

    def _begin(self, flags: Dict[str, Any]) -> None:
        self._session = {'flags': flags, 'runs': {}}
        self._sessions.append(self._session)
        self._run = 0

    def _current(self) -> Dict[str, Any]:
        if self._session is None:
            self._begin({})
        self._run = self._run or 1
        return self._session['runs'].setdefault(self._run, {'before': {}, 'after': {}, 'loss': {}, 'finished': False})

    def finish(self) -> List[Experiment]:
        """The sessions that hold a number."""
        return [experiment for experiment in map(self._experiment, self._sessions) if experiment.runs]

    def _experiment(self, session: Dict[str, Any]) -> Experiment:
        flags, runs = session['flags'], session['runs']
        values = [v for run in runs.values() for m in [run['before'], *run['after'].values()] for v in m.values()]
        scale = 100.0 if values and max(values) <= 1 else 1.0
        # Half of the published scripts number their epochs from 0, and print nothing else that would say so.
        first = 1 if any(0 in run['after'] or 0 in run['loss'] for run in runs.values()) else 0
        experiment = Experiment(
            id=hashlib.sha256(repr((flags, runs)).encode('utf-8', 'replace')).hexdigest()[:32], path=self._path,
            algorithm=identify(None, None, flags, self._path), dataset=as_text(flags.get('dataset')) or 'unknown',
            model=as_text(flags.get('model')) or 'unknown', flags=flags, runs={},
            seed=integer(flags.get('seed')))
        for number, logged in runs.items():
            run = Run(number, finished=logged['finished'])
            before = known_metrics({k: v * scale for k, v in logged['before'].items()})
            if before:
                run.epochs.append(Epoch(0, metrics=before))
            for epoch in sorted(set(logged['after']) | set(logged['loss'])):
                metrics = known_metrics({k: v * scale for k, v in logged['after'].get(epoch, {}).items()})
                run.epochs.append(Epoch(epoch + first, metrics=metrics, loss=finite(logged['loss'].get(epoch))))
            if run.epochs:
                choose_epochs(run)
                experiment.runs[number] = run
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
