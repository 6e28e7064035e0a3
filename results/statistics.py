"""Means and intervals over seeds, and what differs for sure."""
from __future__ import annotations

from typing import TYPE_CHECKING, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from scipy import stats

from common.stats import STRUCTURE_METRICS, metric_name, t_interval

if TYPE_CHECKING:
    from results.aggregate import Group


class Interval(NamedTuple):
    """Mean, sample standard deviation and half of the 95% confidence interval of n values; None where n is 1."""

    mean: float
    std: Optional[float]
    half: Optional[float]
    n: int


def interval(values: Sequence[float]) -> Optional[Interval]:
    """Student's t interval over seeds; None for no values."""
    if len(values) == 0:
        return None
    found = t_interval(values)
    return Interval(found['mean'], found['std'], found['ci95'], len(values))


def metric_order(metric: str) -> Tuple[int, int, str]:
    """Sorts metrics: recall@k by k, then MAP@R, R-precision, NMI, then those of the embedding's structure."""
    if metric.startswith('recall@'):
        return 0, int(metric[len('recall@'):]), metric
    if metric in STRUCTURE_METRICS:
        return 2, STRUCTURE_METRICS.index(metric), metric
    return 1, {'map@r': 0, 'r_precision': 1, 'nmi': 2}.get(metric, 3), metric


def metric_title(metric: str) -> str:
    """A metric at the head of a column: ``Recall@1``, ``NMI``."""
    title = metric_name(metric).split(' (')[0]
    return title[0].upper() + title[1:]


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
        size = f'{abs(difference):.2f} points of {metric_title(metric)}'
        tested = f'(Welch, {_p_value(adjusted)} after Holm over {tests} comparisons)' if p is not None else ''
        if p is None:
            words = (f'{better.name} is {size} above {worse.name}, but that cannot be tested: it takes two seeds of '
                     'each.')
        elif adjusted < level:
            words = f'{better.name} is better than {worse.name} by {size} {tested}.'
        else:
            words = f'{better.name} and {worse.name} are not distinguishable: {size} apart {tested}.'
        found.append(Comparison(a, b, difference, p, adjusted, words))
    return found


def _p_value(value: float) -> str:
    return 'p < 0.001' if value < 0.001 else f'p = {value:.3f}' if value < 0.1 else f'p = {value:.2f}'
