"""What ``results/experiments.yaml`` declares, as single runs; how far each is, by its log.

The head of that file says how it is written. Whatever the file, reading it ends with experiments or with one
`ExperimentsError`.
"""
from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import yaml

from common.errors import UsageError
from results.algorithms import ALGORITHMS, algorithm
from results.readlog import Experiment, LogError, Run, read_log

EXPERIMENTS_FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'experiments.yaml')
MAX_FILE = 1 << 20
MAX_JOBS = 100_000


class ExperimentsError(UsageError):
    """The file of experiments, or what was asked of it, makes no sense; the message is one sentence."""


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
    return [(e, r) for e in experiments for r in e.runs.values() if r.seed == job.seed and agrees(job, e.flags)]


def agrees(job: Job, logged: Dict[str, Any]) -> bool:
    """Are the job's flags those of a log? Flags that only the log has are taken for the script's defaults."""
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
    note = read_note(job)
    return any(run.finished for _, run in matching(job)) and note.get('flags', job.flags) == job.flags


def read_note(job: Job) -> Dict[str, Any]:
    """What `results.reproduce` noted of the run: state, since when, with which flags; empty if nothing."""
    try:
        with open(job.note('.json'), encoding='utf-8') as file:
            value = json.load(file)
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def write_note(job: Job, **fields: Any) -> None:
    """Notes `fields` and the job's flags, atomically."""
    path = job.note('.json')
    temporary = f'{path}.tmp-{os.getpid()}-{threading.get_ident()}'
    try:
        with open(temporary, 'w', encoding='utf-8') as file:
            json.dump({**fields, 'flags': job.flags}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise OSError(error.errno, error.strerror, path) from error


def put_stale_aside(job: Job) -> None:
    """Renames a log and a checkpoint that other settings made: they neither count as this run nor begin it."""
    note = read_note(job)
    try:
        logged = read_log(job.log)
    except LogError:
        logged = []
    known = note.get('flags', job.flags) == job.flags
    if known and (not logged or any(agrees(job, e.flags) for e in logged)):
        return
    number = 1
    while os.path.exists(f'{job.log}.stale-{number}') or os.path.exists(f'{job.checkpoint}.stale-{number}'):
        number += 1
    for path in (job.log, job.checkpoint):
        if os.path.exists(path):
            os.rename(path, f'{path}.stale-{number}')
