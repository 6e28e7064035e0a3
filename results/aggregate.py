"""Groups runs that differ in their seed only, with means and intervals."""
from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from results.algorithms import algorithm, position
from results.records import TUNED, Experiment, Run, as_folds
from results.statistics import Interval, interval, metric_order

# Flags that say where a run happens and where its output goes, not what is computed.
PLACE_FLAGS = frozenset((
    'seed', 'number_of_runs', 'gpus', 'kvstore', 'num_workers', 'data_path', 'cache', 'results_dir', 'logfile',
    'log_postfix', 'save_model_prefix', 'tensorboard', 'load_checkpoint', 'disable_hybridize',
    'skip_pretrain_validation', 'skip_bad_images', 'script', 'algorithm_name', 'no_nmi'))
REFERENCE_KEYS = ('untrained', 'raw-pixels')
ANY_IMAGES = ('FOLDER', 'miniCUB')      # datasets whose name does not say which images they are


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
        return [run.metrics(selection)[metric] for _, run in self.runs if metric in run.metrics(selection)]

    def by_seed(self, selection: str, metric: str) -> Dict[Any, float]:
        """The same by seed, to pair runs of several groups."""
        return {_seed(experiment, run): run.chosen[selection][1][metric] for experiment, run in self.runs
                if metric in run.chosen.get(selection, (None, {}))[1]}

    def class_hits(self, selection: str) -> Dict[Any, Tuple[List[int], List[int]]]:
        """Of each seed whose log says: the images of each test class, and how many of them count for recall@1."""
        return {_seed(experiment, run): (run.class_images, run.class_hits[selection]) for experiment, run in self.runs
                if selection in run.class_hits}

    @property
    def flattery(self) -> Optional[float]:
        """Mean recall@1 at the best epoch on the test set minus that at the last epoch, None where one is missing."""
        best, last = (self.interval(selection, 'recall@1') for selection in ('best-on-test', 'last'))
        return best.mean - last.mean if best and last else None

    def metrics(self, selection: str) -> List[str]:
        """Names of the metrics that any run has, recalls first by k."""
        return sorted({name for _, run in self.runs for name in run.metrics(selection)}, key=metric_order)

    def interval(self, selection: str, metric: str) -> Optional[Interval]:
        """Mean and interval of `values`."""
        return interval(self.values(selection, metric))

    def median(self, attribute: str) -> Optional[float]:
        """Median over the finished runs of ``seconds_per_epoch``, ``seconds`` or ``images_seen``."""
        found = [v for v in (getattr(run, attribute) for _, run in self.runs) if v is not None]
        return float(np.median(found)) if found else None


def _seed(experiment: Experiment, run: Run) -> Tuple:
    """What tells runs of the same settings apart."""
    return (run.seed,) if run.seed is not None else (experiment.seed, run.number)


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
            groups.setdefault(key, {}).setdefault(_seed(experiment, run), []).append((experiment, run))
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
    """All groups of one comparison, dataset and backbone.

    Parameters
    ----------
    dataset, model : str
    groups : list of Group
    chosen : dict
        One group for each algorithm, for figures with one bar each.
    notes : list of str
        What was chosen where there was a choice.
    references : dict
        Of ``untrained`` and ``raw-pixels`` to their metrics.
    comparison : str
        Name of the folder of its logs, empty where they lie in none of their own.
    alone : bool
        Is it the only board of its comparison?
    published : Board or None
        The same comparison with published settings, where this one has tuned settings.
    """

    dataset: str
    model: str
    groups: List[Group]
    chosen: Dict[str, Group]
    notes: List[str]
    references: Dict[str, Dict[str, Interval]]
    comparison: str = ''
    alone: bool = False
    published: Optional[Board] = None

    def file(self, figure: str) -> str:
        """Name of the file of a figure, without its suffix."""
        slug = ''.join(c if c.isalnum() or c in '-_.' else '_' for c in f'{self.dataset}_{self.model}').lower()
        return '_'.join(part for part in (self.comparison, figure, '' if self.comparison and self.alone else slug)
                        if part)


def untuned(comparison: str) -> str:
    """The name of a comparison without what `results.reproduce` adds for tuned settings."""
    return comparison[:-len(TUNED)] if comparison.endswith(TUNED) else comparison


def boards(experiments: Sequence[Experiment]) -> List[Board]:
    """One board for each comparison, dataset and backbone that trained something."""
    # Trials of a search and raw pixels of held-out classes say nothing of the test set. Folds that were put together
    # are in a table of their own (results.crossval).
    of_folds = {one for e in experiments for one in (e.id, *as_folds(e)) if as_folds(e)}
    trained = [e for e in experiments if e.algorithm not in REFERENCE_KEYS and not e.flags.get('validate_only')
               and e.id not in of_folds]
    pixels = [e for e in experiments if e.algorithm == 'raw-pixels' and not e.flags.get('fold')]
    found: Dict[Tuple[str, str, str], Board] = {}
    for name in dict.fromkeys(e.comparison for e in trained):
        places: Dict[Tuple[str, str], List[Group]] = {}
        for group in group_runs(e for e in trained if e.comparison == name):
            places.setdefault((group.dataset, group.model), []).append(group)
        for (dataset, model), groups in places.items():
            chosen, notes = _one_each(groups)
            references = {'untrained': _untrained(groups), 'raw-pixels': _pixels(pixels, name, dataset)}
            found[name, dataset, model] = Board(dataset, model, groups, chosen, notes,
                                                {k: v for k, v in references.items() if v}, name, len(places) == 1)
    for (name, dataset, model), board in found.items():
        board.published = found.get((untuned(name), dataset, model)) if untuned(name) != name else None
    return list(found.values())


def _one_each(groups: List[Group]) -> Tuple[Dict[str, Group], List[str]]:
    """All training classes, most seeds, the embedding size of the paper, the youngest: never the best result."""
    chosen, notes = {}, []
    for key in dict.fromkeys(g.algorithm for g in groups):
        own = [g for g in groups if g.algorithm == key]
        chosen[key] = max(own, key=lambda g: (not g.settings.get('fold'), len(g.runs),
                                              g.settings.get('embed_dim') == 64, g.time))
        if len(own) > 1:
            notes.append(f'{algorithm(key).name}: {len(own)} settings in the logs; figures with one value for each '
                         f'algorithm show {chosen[key].label}')
    return chosen, notes


def _untrained(groups: List[Group]) -> Dict[str, Interval]:
    """Metrics before training: the mean over the algorithms for each seed, then the interval over seeds."""
    by_metric: Dict[str, Dict[str, List[float]]] = {}
    for experiment, run in (pair for group in groups for pair in group.runs):
        for name, value in run.untrained.items():
            by_metric.setdefault(name, {}).setdefault(_seed(experiment, run), []).append(value)
    return {name: interval([float(np.mean(v)) for v in by_metric[name].values()])
            for name in sorted(by_metric, key=metric_order)}


def _pixels(experiments: Sequence[Experiment], comparison: str, dataset: str) -> Dict[str, Interval]:
    """Metrics of raw pixels: from the comparison's own logs if they have them, of several the last one."""
    own = [comparison, untuned(comparison)]
    alike = [e for e in experiments if e.dataset == dataset and (e.comparison in own or dataset not in ANY_IMAGES)]
    found: Dict[str, float] = {}
    for run in (run for e in sorted(alike, key=lambda e: [e.comparison == name for name in own])
                for run in e.runs.values()):
        found.update(run.untrained or run.metrics('last'))
    return {name: interval([found[name]]) for name in sorted(found, key=metric_order)}
