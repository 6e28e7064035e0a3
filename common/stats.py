"""Statistics over runs, and the names of the metrics: what logs, console, tables and figures have in common."""
from __future__ import annotations

import math
from typing import Dict, Optional, Sequence

import numpy as np

#: How a metric is written for a person; recall@k stays as it is.
METRIC_NAMES = {'map@r': 'MAP@R', 'r_precision': 'R-precision', 'nmi': 'NMI (geometric mean)',
                'intra_distance': 'intra-class distance', 'inter_distance': 'inter-class distance',
                'distance_ratio': 'intra / inter', 'rho': 'spectral decay rho', 'alignment': 'alignment',
                'uniformity': 'uniformity', 'pair_auc': 'AUC of pairs', 'tpr@0.001': 'TPR at FPR 0.1%',
                'tpr@0.01': 'TPR at FPR 1%', 'tpr@0.1': 'TPR at FPR 10%'}

#: Metrics that are no percentages.
PLAIN_METRICS = ('intra_distance', 'inter_distance', 'distance_ratio', 'rho', 'alignment', 'uniformity')

#: Metrics of what an embedding looks like inside (common.evaluation.structure); all others are of retrieval.
STRUCTURE_METRICS = (*PLAIN_METRICS, 'pair_auc', 'tpr@0.001', 'tpr@0.01', 'tpr@0.1')


def metric_name(metric: str) -> str:
    """The metric's name in tables: ``map@r`` -> ``MAP@R``."""
    return METRIC_NAMES.get(metric, metric)


def describe_metrics(metrics: Dict[str, float]) -> str:
    """Metrics of retrieval in one line of the console, in percent: ``R@1 55.12  MAP@R 20.03``."""
    return '  '.join(f"{METRIC_NAMES.get(k, k.replace('recall', 'R'))} {v:.2f}" for k, v in metrics.items()
                     if k not in STRUCTURE_METRICS)


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
