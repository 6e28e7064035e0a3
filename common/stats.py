"""Statistics over runs, and the names of the metrics: what logs, console, tables and figures have in common."""
from __future__ import annotations

import math
from typing import Dict, Optional, Sequence

import numpy as np

#: How a metric is written for a person; recall@k stays as it is.
METRIC_NAMES = {'map@r': 'MAP@R', 'r_precision': 'R-precision', 'nmi': 'NMI (geometric mean)'}


def metric_name(metric: str) -> str:
    """The metric's name in tables: ``map@r`` -> ``MAP@R``."""
    return METRIC_NAMES.get(metric, metric)


def describe_metrics(metrics: Dict[str, float]) -> str:
    """Metrics in one line of the console, in percent: ``R@1 55.12  MAP@R 20.03``."""
    return '  '.join(f"{METRIC_NAMES.get(k, k.replace('recall', 'R'))} {v:.2f}" for k, v in metrics.items())


def t_interval(values: Sequence[float]) -> Dict[str, Optional[float]]:
    """Mean, standard deviation and half of the 95% confidence interval (Student's t).

    Parameters
    ----------
    values : sequence of float
        One number a run, at least one.

    Returns
    -------
    dict
        ``mean``, ``std`` and ``ci95``; with one run the last two are None.
    """
    from scipy import stats     # slow to import
    n = len(values)
    std = float(np.std(values, ddof=1)) if n > 1 else None
    half = float(stats.t.ppf(0.975, n - 1)) * std / math.sqrt(n) if n > 1 else None
    return {'mean': float(np.mean(values)), 'std': std, 'ci95': half}
