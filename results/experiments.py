"""What ``results/experiments.yaml`` declares, as single runs; how far each is, by its log.

The head of that file says how it is written. Whatever the file, reading it ends with experiments or with one
`ExperimentsError`.
"""
from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import yaml

from common.errors import UsageError
from common.files import atomic_write, expand_path
from results.algorithms import algorithm, algorithms, script_word
from results.readlog import LogError, read_log
from results.records import TUNED, Experiment, Run

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
    images_per_epoch: Optional[int] = None
    tuned: str = ''

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
    found = {}
    for name, value in listed.items():
        if not isinstance(name, str) or not re.fullmatch(r'[A-Za-z0-9][\w.-]{0,99}', name):
            raise ExperimentsError(f'{path}: {_short(name)} is no name (letters, digits, dots, dashes)')
        try:
            found[name] = _spec(name, value)
        except ExperimentsError as error:
            raise ExperimentsError(f'{path}, {name}: {error}') from error
    for spec in found.values():
        if spec.tuned and spec.tuned not in found:
            raise ExperimentsError(f'{path}, {spec.name}: "tuned" names no experiment: {_short(spec.tuned)}')
    return found


def find(specs: Dict[str, Spec], name: str, path: str) -> Spec:
    """The experiment of this name in the file `path`; raises an ExperimentsError if there is none."""
    if name not in specs:
        raise ExperimentsError(f'there is no experiment {name!r} in {path} (there are: {", ".join(specs)})')
    return specs[name]


def _short(value: Any) -> str:
    return repr(str(value)[:60])


def _spec(name: str, value: Any) -> Spec:
    """Checks one experiment; what is wrong with it is an `ExperimentsError` that does not say where."""
    fields = ('title', 'runs', 'seed', 'flags', 'algorithms', 'images-per-epoch', 'sweep', 'tuned')
    if not isinstance(value, dict):
        raise ExperimentsError('an experiment is a mapping')
    for key in value:
        if key not in fields:
            raise ExperimentsError(f'{_short(key)} is none of {", ".join(fields)}')
    sweep = value.get('sweep') or {}
    if not isinstance(sweep, dict) or not all(isinstance(v, list) and v for v in sweep.values()):
        raise ExperimentsError('"sweep" must map a flag to a list of values')
    axes: Dict[str, List[str]] = {}
    for flag, values in sweep.items():
        texts = [_flags({flag: one}).get(flag) for one in values]
        if None in texts:
            raise ExperimentsError('the values of "sweep" must be numbers or words')
        axes[flag] = texts
    tuned = value.get('tuned', '')
    if not isinstance(tuned, str):
        raise ExperimentsError('"tuned" must be the name of an experiment')
    images = value.get('images-per-epoch')
    return Spec(name, str(value.get('title') or name)[:200], _whole(value, 'runs', 1, 1),
                _whole(value, 'seed', 123, 0), _flags(value.get('flags')), _algorithms(value.get('algorithms', 'all')),
                axes, None if images is None else _whole(value, 'images-per-epoch', 1, 1), tuned)


def _algorithms(chosen: Any) -> Dict[str, Dict[str, Optional[str]]]:
    """The algorithms of an experiment with their own flags; `all` stands for those that are not named."""
    if chosen == 'all':
        chosen = {'all': {}}
    if isinstance(chosen, list):
        chosen = {one: {} for one in chosen if isinstance(one, str)}
    if not isinstance(chosen, dict) or not chosen:
        raise ExperimentsError('"algorithms" must be all, or name at least one')
    known = [row.key for row in algorithms()]
    for key in chosen:
        if key not in known and key != 'all':
            raise ExperimentsError(f'there is no algorithm {_short(key)} (there are: {", ".join(known)})')
    flags = {key: _flags(own) for key, own in chosen.items()}
    rest = flags.pop('all', None)
    return flags if rest is None else {key: flags.get(key, rest) for key in known}


def _whole(value: Dict[str, Any], name: str, default: int, low: int) -> int:
    number = value.get(name, default)
    if isinstance(number, bool) or not isinstance(number, int) or not low <= number < 2 ** 31:
        raise ExperimentsError(f'"{name}" must be a whole number from {low}')
    return number


def _flags(value: Any) -> Dict[str, Optional[str]]:
    """Checked flags; a flag that is false or null is left out."""
    if not isinstance(value, (dict, type(None))):
        raise ExperimentsError('flags are a mapping of names to values')
    found: Dict[str, Optional[str]] = {}
    for name, one in (value or {}).items():
        if not isinstance(name, str) or not re.fullmatch(r'[A-Za-z][A-Za-z0-9-]{0,60}', name):
            raise ExperimentsError(f'{_short(name)} is no name of a flag (leave the dashes out)')
        if name in ('seed', 'number-of-runs', 'logfile', 'save-model-prefix', 'load-checkpoint', 'data-path', 'gpus'):
            raise ExperimentsError(f'--{name} is set by results.reproduce itself')
        if one is None or one is False:
            continue
        words = one if isinstance(one, list) else [one]
        if one is not True and not all(type(word) in (str, int, float) for word in words):
            raise ExperimentsError(f'the value of {name} must be a number, a word, true or false')
        text = None if one is True else ','.join(str(word) for word in words)
        if text is not None and (len(text) > 500 or '\0' in text):
            raise ExperimentsError(f'the value of {name} cannot be passed to a program')
        found[name] = text if text is None else expand_path(text)
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

    @property
    def validates_only(self) -> bool:
        """Does it leave the test set alone?"""
        return 'validate-only' in self.flags

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


def chosen_rows(spec: Spec, only: Optional[Sequence[str]]) -> List[str]:
    """The algorithms that the words of ``--only`` mean; all for None.

    Raises
    ------
    ExperimentsError
        If `only` names something that the experiment does not have.
    """
    for one in only or ():
        if not any(_is_named(key, one) for key in spec.algorithms):
            raise ExperimentsError(f'--only {one}: {spec.name} has {", ".join(spec.algorithms)}')
    return [key for key in spec.algorithms if only is None or any(_is_named(key, one) for one in only)]


def row_flags(spec: Spec, key: str) -> Dict[str, Optional[str]]:
    """The flags that an experiment gives to an algorithm."""
    return {**spec.flags, **dict(algorithm(key).flags), **spec.algorithms[key]}


def with_values(flags: Dict[str, Optional[str]], values: Mapping[str, Any]) -> Dict[str, Optional[str]]:
    """`flags` with the values of a search in their place; True and False say whether a flag without value is there."""
    found = dict(flags)
    for name, value in values.items():
        if value is False:
            found.pop(name, None)
        else:
            found[name] = None if value is True else str(value)
    return found


def expand(spec: Spec, results_dir: str = 'results', runs: Optional[int] = None, only: Optional[Sequence[str]] = None,
           data_path: Optional[str] = None, script_dir: str = '',
           tuned: Optional[Mapping[str, Mapping[str, Any]]] = None, folds: Optional[int] = None) -> List[Job]:
    """All runs of an experiment, one seed of everything before the next.

    Parameters
    ----------
    spec, results_dir, runs, only, data_path, script_dir
        As the flags of `results.reproduce` say.
    tuned : mapping, optional
        Algorithm -> the values that a search found, by flag. The runs then belong to ``EXPERIMENT-tuned``. They win
        over the experiment's flags; if the search was of another experiment (`tuned` of the file), not over those that
        an algorithm has of its own. The values of `sweep` win over all.
    folds : int, optional
        How many parts of the training classes are held out, each in a run of its own. The runs then belong to
        ``EXPERIMENT-foldsN``, and see fewer images, by the share of the classes that is left.

    Raises
    ------
    ExperimentsError
        If `only` names something that the experiment does not have.
    """
    chosen = chosen_rows(spec, only)
    name = spec.name + (TUNED if tuned is not None else '') + (f'-folds{folds}' if folds else '')
    parts = [f'{number}/{folds}' for number in range(1, folds + 1)] if folds else [None]
    share = 1 - Fraction(1, folds) if folds else Fraction(1)
    settings: List[Dict[str, Optional[str]]] = [{}]
    for flag, values in spec.sweep.items():
        settings = [{**s, flag: v} for s in settings for v in values]
    count = runs or spec.runs
    if count * len(settings) * len(chosen) * len(parts) > MAX_JOBS:
        raise ExperimentsError(f'{spec.name} would be more than {MAX_JOBS:,} runs')
    jobs = []
    for seed in range(spec.seed, spec.seed + count):
        for setting in settings:
            variant = '_'.join(re.sub(r'[^\w.-]', '-', f'{k}-{v}') for k, v in setting.items())
            for key in chosen:
                own = row_flags(spec, key)
                values = dict((tuned or {}).get(key, {}))
                if spec.tuned:              # the search was of another experiment: what this one says is meant
                    values = {flag: value for flag, value in values.items() if flag not in spec.algorithms[key]}
                flags = {**with_values(own, values), **setting}
                flags.update(batches(spec, key, {**own, **setting}, flags, share))
                for part in parts:
                    held_out = [] if part is None else [f'fold{part.replace("/", "of")}']
                    jobs.append(Job(name, key, '_'.join(filter(None, [variant, *held_out])), seed,
                                    {**flags, **({'fold': part} if part else {})}, results_dir, data_path, script_dir))
    return jobs


def _is_named(key: str, word: str) -> bool:
    """Does a word of ``--only`` mean this algorithm? By its key, or by its script, which may be two."""
    return word in (key, script_word(algorithm(key)))


def batches(spec: Spec, key: str, declared: Dict[str, Optional[str]], flags: Dict[str, Optional[str]],
            share: Fraction = Fraction(1)) -> Dict[str, str]:
    """The flag that keeps the images of an epoch equal, for a script whose epoch is a fixed number of batches.

    All others' epoch is one pass over the images already.

    Parameters
    ----------
    spec, key
        The experiment and the algorithm.
    declared : dict
        The flags that the experiment gives to it.
    flags : dict
        The flags that it runs with; a search may have changed the size of its batches.
    share : Fraction
        The part of the training classes that is left where some are held out.

    Returns
    -------
    dict
        ``batches-per-epoch``, or nothing where it is as it should be.

    Raises
    ------
    ExperimentsError
        If the size of a batch is not known.
    """
    row = algorithm(key)
    said = next((declared[name] for name in ('batches-per-epoch', 'iteration-per-epoch', 'epoch-length')
                 if name in declared), None)
    fixed = said if said is not None else row.batches_per_epoch
    if fixed in (None, 0, '0'):
        return {}
    by_experiment = said is None and spec.images_per_epoch is not None
    if not by_experiment and flags == declared and share == 1:
        return {}
    try:
        images = spec.images_per_epoch if by_experiment else int(fixed) * row.images_in_batch(declared)
        return {'batches-per-epoch': str(max(1, int(images * share) // row.images_in_batch(flags)))}
    except (TypeError, ValueError):
        raise ExperimentsError(f'{spec.name}: the batch size of {row.script} is not known; say its batches-per-epoch '
                               'under "algorithms"') from None


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
    with atomic_write(job.note('.json'), 'w') as file:
        json.dump({**fields, 'flags': job.flags}, file)


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
