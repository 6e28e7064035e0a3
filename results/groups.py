"""Runs put together: what is the same experiment with other seeds, its mean and interval, and what differs for sure."""
from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from scipy import stats

from results.algorithms import algorithm, position
from results.readlog import Experiment, Run

# Flags that say where a run happens and where its output goes, not what is computed.
PLACE_FLAGS = frozenset((
    'seed', 'number_of_runs', 'gpus', 'kvstore', 'num_workers', 'data_path', 'cache', 'results_dir', 'logfile',
    'log_postfix', 'save_model_prefix', 'load_checkpoint', 'disable_hybridize', 'skip_pretrain_validation',
    'skip_bad_images', 'script', 'algorithm_name', 'no_nmi'))
REFERENCE_KEYS = ('untrained', 'raw-pixels')


class Interval(NamedTuple):
    """Mean, sample standard deviation and half of the 95% confidence interval of n values; None where n is 1."""

    mean: float
    std: Optional[float]
    half: Optional[float]
    n: int


def interval(values: Sequence[float]) -> Optional[Interval]:
    """Student's t interval over seeds; None for no values."""
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n == 0:
        return None
    if n == 1:
        return Interval(float(values[0]), None, None, 1)
    std = float(values.std(ddof=1))
    return Interval(float(values.mean()), std, float(stats.t.ppf(0.975, n - 1)) * std / math.sqrt(n), n)


@dataclass
class Group:
    """The runs of one algorithm with the same settings, one for each seed.

    `runs` holds the finished ones, `open` those that are unfinished or diverged; `left_out` counts runs of a seed that
    another run of the group has repeated.
    """

    algorithm: str
    dataset: str
    model: str
    settings: Dict[str, Any]
    runs: List[Tuple[Experiment, Run]] = field(default_factory=list)
    open: List[Tuple[Experiment, Run]] = field(default_factory=list)
    left_out: int = 0
    label: str = ''

    @property
    def name(self) -> str:
        """The algorithm's name, with the settings that tell this group from others of the same algorithm."""
        name = algorithm(self.algorithm).name
        return f'{name} ({self.label})' if self.label else name

    @property
    def time(self) -> str:
        """When the youngest of its experiments began (ISO 8601, so that it sorts)."""
        return max((e.time for e, _ in self.runs + self.open), default='')

    def values(self, selection: str, metric: str) -> List[float]:
        """The metric at the chosen epoch of every finished run that has it."""
        found = []
        for _, run in self.runs:
            metrics = run.chosen.get(selection, (None, {}))[1]
            if metric in metrics:
                found.append(metrics[metric])
        return found

    def metrics(self, selection: str) -> List[str]:
        """Names of the metrics that any run has, recalls first by k."""
        names = {name for _, run in self.runs for name in run.chosen.get(selection, (None, {}))[1]}
        return sorted(names, key=metric_order)

    def interval(self, selection: str, metric: str) -> Optional[Interval]:
        """Mean and interval of `values`."""
        return interval(self.values(selection, metric))

    def median(self, attribute: str) -> Optional[float]:
        """Median over the finished runs of ``seconds_per_epoch``, ``seconds`` or ``images_seen``."""
        found = [v for v in (getattr(run, attribute) for _, run in self.runs) if v is not None]
        return float(np.median(found)) if found else None


def metric_order(name: str) -> Tuple[int, int, str]:
    """Sorts metrics: recall@k by k, then MAP@R, R-precision, NMI."""
    if name.startswith('recall@'):
        return 0, int(name[len('recall@'):]), name
    return 1, {'map@r': 0, 'r_precision': 1, 'nmi': 2}.get(name, 3), name


METRIC_NAMES = {'map@r': 'MAP@R', 'r_precision': 'R-precision', 'nmi': 'NMI'}


def metric_name(name: str) -> str:
    """A metric as a person reads it."""
    return METRIC_NAMES.get(name, name.replace('recall@', 'Recall@'))


def group_runs(experiments: Iterable[Experiment]) -> List[Group]:
    """Groups runs by dataset, backbone, algorithm and settings, in the paper's order.

    A seed counts once: of several finished runs with the same settings and seed the one of the youngest experiment
    stays. Copies of the same file must not make an interval narrower.
    """
    groups: Dict[Tuple, Dict[Tuple, List[Tuple[Experiment, Run]]]] = {}
    settings: Dict[Tuple, Dict[str, Any]] = {}
    for experiment in experiments:
        own = {k: v for k, v in experiment.flags.items() if k not in PLACE_FLAGS}
        key = (experiment.dataset, experiment.model, position(experiment.algorithm), experiment.algorithm,
               json.dumps(own, sort_keys=True, default=str))
        settings[key] = own
        for run in experiment.runs.values():
            seed = (run.seed,) if run.seed is not None else (experiment.seed, run.number)
            groups.setdefault(key, {}).setdefault(seed, []).append((experiment, run))
    found = []
    for key in sorted(groups):
        group = Group(key[3], key[0], key[1], settings[key])
        for seed in sorted(groups[key], key=str):
            same = sorted(groups[key][seed], key=lambda pair: pair[0].time)
            finished = [pair for pair in same if pair[1].finished]
            (group.runs if finished else group.open).append((finished or same)[-1])
            group.left_out += max(0, len(finished) - 1)
        found.append(group)
    _label(found)
    return found


def _label(groups: List[Group]) -> None:
    """Names the flags in which groups of the same algorithm, dataset and backbone differ."""
    alike: Dict[Tuple[str, str, str], List[Group]] = {}
    for group in groups:
        alike.setdefault((group.dataset, group.model, group.algorithm), []).append(group)
    for members in alike.values():
        names = sorted({name for g in members for name in g.settings})
        differing = [n for n in names if len({str(g.settings.get(n)) for g in members}) > 1]
        for group in members:
            group.label = ', '.join(f'{n}={group.settings.get(n)}' for n in differing)


@dataclass
class Board:
    """All groups of one dataset and backbone; `chosen` has one for each algorithm, for figures with one bar each."""

    dataset: str
    model: str
    groups: List[Group]
    chosen: Dict[str, Group]
    notes: List[str]
    references: Dict[str, Dict[str, Interval]]

    @property
    def slug(self) -> str:
        """Part of a file's name."""
        return ''.join(c if c.isalnum() or c in '-_.' else '_' for c in f'{self.dataset}_{self.model}').lower()


def boards(experiments: Sequence[Experiment]) -> List[Board]:
    """One board for each dataset and backbone that trained something."""
    trained = [e for e in experiments if e.algorithm not in REFERENCE_KEYS]
    pixels = [e for e in experiments if e.algorithm == 'raw-pixels']
    by_place: Dict[Tuple[str, str], List[Group]] = {}
    for group in group_runs(trained):
        by_place.setdefault((group.dataset, group.model), []).append(group)
    found = []
    for (dataset, model), groups in by_place.items():
        chosen, notes = _one_each(groups)
        references = {'untrained': _untrained(groups), 'raw-pixels': _pixels(e for e in pixels if e.dataset == dataset)}
        found.append(Board(dataset, model, groups, chosen, notes, {k: v for k, v in references.items() if v}))
    return found


def _one_each(groups: List[Group]) -> Tuple[Dict[str, Group], List[str]]:
    """Most seeds first, then the embedding size of the paper, then the youngest: never the best result."""
    chosen, notes = {}, []
    for key in dict.fromkeys(g.algorithm for g in groups):
        own = [g for g in groups if g.algorithm == key]
        chosen[key] = max(own, key=lambda g: (len(g.runs), g.settings.get('embed_dim') == 64, g.time))
        if len(own) > 1:
            notes.append(f'{algorithm(key).name}: {len(own)} settings in the logs; figures with one value for each '
                         f'algorithm show {chosen[key].label}')
    return chosen, notes


def _untrained(groups: List[Group]) -> Dict[str, Interval]:
    """Metrics before training: the mean over the algorithms for each seed, then the interval over seeds."""
    by_metric: Dict[str, Dict[str, List[float]]] = {}
    for group in groups:
        for experiment, run in group.runs:
            for name, value in run.untrained.items():
                seed = str(run.seed if run.seed is not None else (experiment.seed, run.number))
                by_metric.setdefault(name, {}).setdefault(seed, []).append(value)
    return {name: interval([float(np.mean(v)) for v in by_metric[name].values()])
            for name in sorted(by_metric, key=metric_order)}


def _pixels(experiments: Iterable[Experiment]) -> Dict[str, Interval]:
    by_metric: Dict[str, List[float]] = {}
    for experiment in experiments:
        for run in experiment.runs.values():
            for name, value in (run.untrained or run.chosen.get('last', (None, {}))[1]).items():
                by_metric.setdefault(name, []).append(value)
    return {name: interval(by_metric[name][-1:]) for name in sorted(by_metric, key=metric_order)}


# ---------------------------------------------------------------------------------------------------------------------
# What differs for sure

class Comparison(NamedTuple):
    """Two groups; `p` by Welch's t-test, `adjusted` by Holm over all comparisons made together, None untestable."""

    first: Group
    second: Group
    difference: Optional[float]
    p: Optional[float]
    adjusted: Optional[float]
    words: str


def welch(first: Sequence[float], second: Sequence[float]) -> Optional[float]:
    """Two-sided p of Welch's t-test; None where one side has fewer than two values."""
    if len(first) < 2 or len(second) < 2:
        return None
    if np.ptp(first) == 0 and np.ptp(second) == 0:
        return 1.0 if first[0] == second[0] else 0.0
    return float(stats.ttest_ind(first, second, equal_var=False).pvalue)


def holm(p_values: Sequence[Optional[float]]) -> List[Optional[float]]:
    """Holm's step-down adjustment; None stays None and does not count."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: List[Optional[float]] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[i] = largest
    return adjusted


def compare(groups: Sequence[Group], selection: str, metric: str, level: float = 0.05) -> List[Comparison]:
    """All pairs of `groups` that have the metric, with what can be said of them in words."""
    have = [g for g in groups if g.values(selection, metric)]
    pairs = [(a, b) for i, a in enumerate(have) for b in have[i + 1:]]
    p_values = [welch(a.values(selection, metric), b.values(selection, metric)) for a, b in pairs]
    tests = sum(p is not None for p in p_values)
    found = []
    for (a, b), p, adjusted in zip(pairs, p_values, holm(p_values)):
        difference = float(np.mean(a.values(selection, metric)) - np.mean(b.values(selection, metric)))
        better, worse = (a, b) if difference >= 0 else (b, a)
        size = f'{abs(difference):.2f} points of {metric_name(metric)}'
        if p is None:
            words = (f'{better.name} is {size} above {worse.name}, but that cannot be tested: it takes two seeds of '
                     'each.')
        elif adjusted < level:
            words = (f'{better.name} is better than {worse.name} by {size} (Welch, {_p(adjusted)} after Holm over '
                     f'{tests} comparisons).')
        else:
            words = (f'{better.name} and {worse.name} are not distinguishable: {size} apart (Welch, {_p(adjusted)} '
                     f'after Holm over {tests} comparisons).')
        found.append(Comparison(a, b, difference, p, adjusted, words))
    return found


def _p(value: float) -> str:
    return 'p < 0.001' if value < 0.001 else f'p = {value:.3f}' if value < 0.1 else f'p = {value:.2f}'
