"""What a run log holds, in both formats, and the checks of its values."""
from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

from common.stats import METRIC_NAMES, PLAIN_METRICS

SELECTIONS = ('best-on-test', 'last', 'best-on-val')
MAX_COUNT = 10 ** 7         # of epochs and runs
TUNED = '-tuned'            # what `results.reproduce --settings tuned` adds to the name of an experiment
#: What `config` says beside the flags.
SETUP = ('sampler', 'batch_images', 'batches_per_epoch', 'members', 'parameters',
         'folds')


@dataclass
class Epoch:
    """What one epoch logged; `metrics` is empty where the epoch was not evaluated.

    Number 0 is the untrained network. The epochs of an ensemble's members are counted through, `member` from 1.
    """

    number: int
    member: Optional[int] = None
    metrics: Dict[str, float] = field(default_factory=dict)
    loss: Optional[float] = None
    seconds: Optional[float] = None
    val: Dict[str, float] = field(default_factory=dict)
    outputs: Dict[str, Dict[str, float]] = field(default_factory=dict)


@dataclass
class Run:
    """One run of an experiment, with one seed.

    `chosen` maps a selection to (epoch, metrics); an unfinished run has what its epochs so far allow. `class_images`
    are the images of each test class, and `class_hits`, by selection, those of them that count for recall@1; empty
    where the log does not say.
    """

    number: int
    epochs: List[Epoch] = field(default_factory=list)
    chosen: Dict[str, Tuple[Optional[int], Dict[str, float]]] = field(default_factory=dict)
    seed: Optional[int] = None
    finished: bool = False
    diverged: Optional[Dict[str, Any]] = None
    seconds: Optional[float] = None
    images_seen: Optional[float] = None
    class_images: List[int] = field(default_factory=list)
    class_hits: Dict[str, List[int]] = field(default_factory=dict)
    evaluation_seconds: Optional[float] = None
    total_seconds: Optional[float] = None
    peak_memory_mb: Optional[float] = None
    gpu_memory_mb: Optional[float] = None
    embedding_size: Optional[int] = None                  # of what the last evaluation scored

    @property
    def untrained(self) -> Dict[str, float]:
        """Metrics before training, empty where they were not taken."""
        return next((e.metrics for e in self.epochs if e.number == 0), {})

    def metrics(self, selection: str) -> Dict[str, float]:
        """The metrics of the epoch that a selection chose; empty if it chose none."""
        return self.chosen.get(selection, (None, {}))[1]

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
    time: str = ''
    seed: Optional[int] = None
    versions: Dict[str, Any] = field(default_factory=dict)
    device: List[str] = field(default_factory=list)
    weights: Optional[Dict[str, Any]] = None
    git: Optional[str] = None
    data: Dict[str, Any] = field(default_factory=dict)
    skipped: List[Dict[str, Any]] = field(default_factory=list)
    # the lines about its runs; of those that a resumed run wrote twice, the last; empty for text logs
    events: List[Dict[str, Any]] = field(default_factory=list, repr=False)
    setup: Dict[str, Any] = field(default_factory=dict)   # what the flags do not say: sampler, parameters, ...

    @property
    def comparison(self) -> str:
        """The comparison that the log belongs to: NAME for a log in ``logs/NAME``; empty elsewhere."""
        folders = os.path.abspath(self.path).split(os.sep)[:-1]
        below = [place + 1 for place, folder in enumerate(folders[:-1]) if folder == 'logs']
        return folders[below[-1]] if below else ''


def choose_epochs(run: Run) -> None:
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
# Values of a log, which may be anything

def finite(value: Any) -> Optional[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def whole_count(value: Any) -> Optional[int]:
    number = finite(value)
    return int(number) if number is not None and number == int(number) and 0 <= number <= MAX_COUNT else None


def whole_counts(value: Any) -> List[int]:
    """A list of counts; empty where anything in it is none."""
    found = [whole_count(one) for one in value] if isinstance(value, list) else []
    return [] if None in found else found


def integer(value: Any) -> Optional[int]:
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2 ** 63 else None


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else ''


def as_folds(experiment: Experiment) -> List[str]:
    """The ids of the runs that a result of `results.crossval` is made of; empty for all others."""
    found = experiment.setup.get('folds')
    return [str(one) for one in found] if isinstance(found, list) else []


def as_dict(value: Any) -> Dict[str, Any]:
    return value if isinstance(value, dict) else {}


_RECALL = re.compile(r'recall@\d{1,6}')


def known_metrics(value: Any) -> Dict[str, float]:
    """The metrics in an object, most of them in percent; anything that is none is left out."""
    found = {}
    for name, one in as_dict(value).items():
        number = finite(one)
        if number is None or not (_RECALL.fullmatch(name) or name in METRIC_NAMES):
            continue
        if -1e-6 <= number <= 100 + 1e-6 or name in PLAIN_METRICS and abs(number) <= MAX_COUNT:
            found[name] = number
    return found
