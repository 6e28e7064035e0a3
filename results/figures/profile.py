"""Performance profiles: the share of runs with a recall@1 above a threshold, over all benchmarks."""
from __future__ import annotations

from typing import Optional

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from results.across import Together, profile
from results.algorithms import algorithm
from results.figures.style import bottom_legend, new_figure


def draw_profiles(found: Together) -> Optional[Figure]:
    """One step line for each algorithm; None where there are fewer than two benchmarks."""
    if not found.algorithms:
        return None
    rows = [algorithm(key) for key in found.algorithms]
    figure = new_figure(2.2 + 0.11 * -(-len(rows) // 3))
    axes = figure.subplots()
    scores = [found.scores(a.key, 'last') for a in rows]
    values = [sorted(value for benchmark in own for value in benchmark) for own in scores]
    low, high = min(v[0] for v in values), max(v[-1] for v in values)
    edge = max(0.04 * (high - low), 0.5)
    handles = []
    for a, own, steps in zip(rows, scores, values):
        thresholds = [low - edge, *steps, high + edge]
        look = {'color': a.colour, 'linestyle': a.dashes, 'linewidth': 1.1}
        axes.plot(thresholds, 100 * profile(own, thresholds), drawstyle='steps-post', **look)
        handles.append(Line2D([], [], label=a.name, **look))
    axes.set_xlim(low - edge, high + edge)
    axes.set_ylim(0, 103)
    axes.set_xlabel('Recall@1 at the last epoch (%)')
    axes.set_ylabel('Runs above it (%)')
    axes.grid()
    axes.set_title(f'Performance profiles over {len(found.boards)} benchmarks')
    bottom_legend(figure, handles, 3)
    return figure
