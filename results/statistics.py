"""Means and intervals over seeds."""
from __future__ import annotations

from typing import NamedTuple, Optional, Sequence, Tuple

import numpy as np
from scipy import stats

from common.stats import STRUCTURE_METRICS, metric_name, t_interval


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


class Range(NamedTuple):
    """A value with its 95% interval, which need not be symmetric."""

    value: float
    low: float
    high: float


def interquartile_mean(strata: Sequence[Sequence[float]], resamples: int = 2000) -> Range:
    """Mean of the middle half of all values together, with a stratified bootstrap.

    After R. Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", arXiv:2108.13264:
    the values of each stratum, here the seeds of one benchmark, are resampled by themselves.
    """
    random = np.random.RandomState(0)
    drawn = [np.asarray(values)[random.randint(len(values), size=(resamples, len(values)))] for values in strata]
    means = stats.trim_mean(np.concatenate(drawn, axis=1), 0.25, axis=1)
    low, high = np.percentile(means, (2.5, 97.5))
    return Range(float(stats.trim_mean(np.concatenate(strata), 0.25)), float(low), float(high))
