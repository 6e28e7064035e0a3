"""The record of a search: ``results/tuned/EXPERIMENT.yaml``, which `results.tune` writes and all others read.

For each algorithm it has all trials and the best of them. Nothing in it comes from a test set.
"""
from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Sequence

import yaml

from common.files import atomic_write
from results.experiments import MAX_FILE, ExperimentsError
from results.records import finite

#: How a trial ended. The script refuses the settings of a failed one, as a batch with more classes than there are.
STATUSES = ('finished', 'diverged', 'failed')
RULE = 'recall@1 in percent on held-out training classes after the last epoch, mean over the folds'
_HEAD = """\
# Written by `python -m results.tune {name}`, and read by `python -m results.reproduce {name} --settings tuned`.
# Trial 0 has the settings of the experiment as it is. A trial that diverged or failed scores 0.
"""


@dataclass
class Trial:
    """One setting that was tried; `best_epoch` is the score of its best evaluated epoch, which chooses nothing."""

    number: int
    flags: Dict[str, Any]
    status: str
    score: float
    best_epoch: float = 0.0
    seconds: float = 0.0
    images_seen: Optional[int] = None


@dataclass
class Row:
    """The search of one algorithm.

    Parameters
    ----------
    flags : str
        The experiment's flags for it, as words of a command.
    search : dict
        The space, as the script declares it.
    before_training : float or None
        Score of the untrained network.
    revisions : list of str
        Of the code that trained.
    trials : list of Trial
        Complete up to its last, by number.
    """

    flags: str
    search: Dict[str, List[Any]]
    before_training: Optional[float] = None
    revisions: List[str] = field(default_factory=list)
    trials: List[Trial] = field(default_factory=list)

    @property
    def best(self) -> Trial:
        """The trial with the highest score, of several the first."""
        return max(self.trials, key=lambda trial: (trial.score, -trial.number))


@dataclass
class Record:
    """All searches of an experiment; `raw_pixels` is the score of the images themselves, mean over the folds."""

    experiment: str
    seed: int
    folds: List[str]
    date: str = ''
    optuna: str = ''
    raw_pixels: Optional[float] = None
    rows: Dict[str, Row] = field(default_factory=dict)


def record_path(results_dir: str, experiment: str) -> str:
    """Where the record of an experiment is."""
    return os.path.join(results_dir, 'tuned', f'{experiment}.yaml')


# ---------------------------------------------------------------------------------------------------------------------
# The file

class _Line(dict):
    """A mapping that is written on one line."""


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(_Line, lambda dumper, value: dumper.represent_mapping('tag:yaml.org,2002:map', value, True))
_Dumper.add_representer(list, lambda dumper, value: dumper.represent_sequence(
    'tag:yaml.org,2002:seq', value, not any(isinstance(one, dict) for one in value)))


def save_record(path: str, record: Record) -> None:
    """Writes a record, atomically."""
    content = {'experiment': record.experiment, 'date': record.date, 'optuna': record.optuna, 'seed': record.seed,
               'folds': record.folds, 'score': RULE, 'raw_pixels': record.raw_pixels,
               'rows': {key: _row_content(row) for key, row in record.rows.items()}}
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with atomic_write(path, 'w') as file:
        file.write(_HEAD.format(name=record.experiment))
        yaml.dump(content, file, Dumper=_Dumper, sort_keys=False, width=10_000, allow_unicode=True)


def _row_content(row: Row) -> Dict[str, Any]:
    found: Dict[str, Any] = {'flags': row.flags, 'search': _Line(row.search), 'revisions': row.revisions,
                             'before_training': row.before_training}
    if row.trials:
        found.update({'best_trial': row.best.number, 'best': _Line(row.best.flags), 'best_score': row.best.score,
                      'default_score': row.trials[0].score})
    found['trials'] = [_Line({**vars(trial), 'flags': _Line(trial.flags)}) for trial in row.trials]
    return found


def load_record(path: str) -> Record:
    """Reads a record.

    Raises
    ------
    ExperimentsError
        If it cannot be read, or is no such record.
    """
    try:
        if os.path.getsize(path) > MAX_FILE:
            raise ValueError
        with open(path, 'rb') as file:
            return _record(yaml.safe_load(file))
    except OSError as error:
        raise ExperimentsError(f'{path}: {error.strerror}') from error
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError, KeyError) as error:
        raise ExperimentsError(f'{path} is not a record that results.tune wrote') from error


def _record(content: Dict[str, Any]) -> Record:
    """Raises one of many errors where something is missing or is not what it should be."""
    rows = {}
    for key, row in content['rows'].items():
        trials = [Trial(number, _values(one['flags']), STATUSES[STATUSES.index(one['status'])],
                        _number(one['score']), _number(one['best_epoch']), _number(one['seconds']),
                        None if one['images_seen'] is None else int(_number(one['images_seen'])))
                  for number, one in enumerate(row['trials'])]
        rows[str(key)] = Row(str(row['flags']), {name: list(one) for name, one in row['search'].items()},
                             finite(row['before_training']), [str(one) for one in row['revisions']], trials)
    return Record(str(content['experiment']), int(content['seed']), [str(one) for one in content['folds']],
                  str(content['date']), str(content['optuna']), finite(content['raw_pixels']), rows)


def _number(value: Any) -> float:
    number = finite(value)
    if number is None:
        raise ValueError
    return number


def _values(flags: Dict[str, Any]) -> Dict[str, Any]:
    if not all(isinstance(name, str) and isinstance(value, (bool, int, float, str)) for name, value in flags.items()):
        raise ValueError
    return dict(flags)


def best_settings(path: str, keys: Sequence[str]) -> Dict[str, Dict[str, Any]]:
    """The flags of the best trial of each algorithm.

    Raises
    ------
    ExperimentsError
        If there is no record, or it has no trial of one of them.
    """
    name = os.path.basename(path)[:-len('.yaml')]
    if not os.path.exists(path):
        raise ExperimentsError(f'--settings tuned: there is no {path}; python -m results.tune {name} writes it')
    record = load_record(path)
    missing = [key for key in keys if key not in record.rows or not record.rows[key].trials]
    if missing:
        raise ExperimentsError(f'--settings tuned: {path} has no trial of {", ".join(missing)}; search it with '
                               f'python -m results.tune {name}')
    return {key: record.rows[key].best.flags for key in keys}


# ---------------------------------------------------------------------------------------------------------------------
# What a search tells

def expected_best(scores: Sequence[float]) -> List[float]:
    """Expected best score of n trials, for n = 1 to all of them.

    The unbiased estimator of Tang et al., "Showing Your Work Doesn't Always Work" (arXiv:2004.13705): the mean of the
    maximum over all subsets of n of the N scores,

        sum_i x_(i) C(i - 1, n - 1) / C(N, n),   x_(1) <= ... <= x_(N).
    """
    ordered, total = sorted(scores), len(scores)
    return [sum(x * math.comb(i - 1, n - 1) for i, x in enumerate(ordered, 1)) / math.comb(total, n)
            for n in range(1, total + 1)]


def tunability(row: Row) -> float:
    """What the search gains: the best score minus that of the default settings."""
    return row.best.score - row.trials[0].score


def collapse_rate(row: Row, raw_pixels: float) -> float:
    """The share of the trials whose score is not above that of raw pixels."""
    return sum(trial.score <= raw_pixels for trial in row.trials) / len(row.trials)
