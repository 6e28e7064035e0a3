"""Recall@1 over training, one small panel for each algorithm."""
from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from results.aggregate import Board
from results.figures.style import GREY, all_rows, board_title, new_figure
from results.records import Run
from results.statistics import interval


class Curve(NamedTuple):
    """Recall@1 over training, averaged over seeds; `half` is 0 where there is one seed only."""

    x: np.ndarray
    mean: np.ndarray
    half: np.ndarray


def curve(runs: Sequence[Run], unit: str) -> Optional[Curve]:
    """Averages runs at the points that all of them evaluated.

    Parameters
    ----------
    runs : list of Run
        Seeds of one experiment.
    unit : str
        ``images`` (needs `images_seen`) or ``epochs``.
    """
    points: Dict[int, List[float]] = {}
    total = 0
    for run in runs:
        for epoch in run.epochs:
            total = max(total, epoch.number)
            if 'recall@1' in epoch.metrics:
                points.setdefault(epoch.number, []).append(epoch.metrics['recall@1'])
    most = max((len(v) for v in points.values()), default=0)
    steps = sorted(s for s, v in points.items() if len(v) == most)
    if not steps:
        return None
    scale = 1.0
    if unit == 'images':
        scale = float(np.median([r.images_seen for r in runs if r.images_seen])) / max(total, 1) / 1000
    stats = [interval(points[s]) for s in steps]
    return Curve(np.array(steps) * scale, np.array([i.mean for i in stats]), np.array([i.half or 0.0 for i in stats]))


def draw_curves(board: Board) -> Optional[Figure]:
    """Learning curves, one small panel for each algorithm with all the others in grey behind it."""
    groups = {k: [r for _, r in g.runs] or [r for _, r in g.open] for k, g in board.chosen.items()}
    unit = 'images' if all(any(r.images_seen for r in runs) for runs in groups.values()) else 'epochs'
    curves = {k: c for k, c in ((k, curve(runs, unit)) for k, runs in groups.items()) if c is not None and len(c.x) > 1}
    if not curves:
        return None
    rows = all_rows(list(curves))
    columns = 3
    lines = -(-len(rows) // columns)
    figure = new_figure(0.55 + 0.74 * lines)
    panels = figure.subplots(lines, columns, sharex=True, sharey=True).ravel()
    top = max(float(c.mean.max()) for c in curves.values())
    for axes, a in zip(panels, rows):
        axes.set_title(a.name, fontsize=6, pad=2, color='black' if a.key in curves else GREY)
        axes.grid(axis='y')
        axes.tick_params(labelsize=5.5, pad=1.5)
        if a.key not in curves:
            axes.text(0.5, 0.5, 'not run', transform=axes.transAxes, ha='center', va='center', fontsize=5.5, color=GREY,
                      style='italic')
            continue
        for key, other in curves.items():
            if key != a.key:
                axes.plot(other.x, other.mean, color='#DDDDDD', linewidth=0.5, zorder=1)
        own = curves[a.key]
        axes.fill_between(own.x, own.mean - own.half, own.mean + own.half, color=a.colour, alpha=0.25, linewidth=0,
                          zorder=2)
        axes.plot(own.x, own.mean, color=a.colour, linestyle=a.dashes, linewidth=1.2, zorder=3)
        axes.annotate(f'{own.mean[-1]:.1f}', (1, 0.04), xycoords='axes fraction', ha='right', va='bottom', fontsize=5.5)
    for axes in panels[len(rows):]:
        axes.set_visible(False)
    for i in range(len(rows) - columns, len(rows)):       # the last panel of every column shows its scale
        panels[i].tick_params(labelbottom=True)
    panels[0].set_ylim(0, min(100, top * 1.1))
    panels[0].set_xlim(left=0)
    figure.suptitle(f'{board_title(board.dataset, board.model, board.comparison)}: recall@1 (%)')
    panels[0].yaxis.set_major_locator(MaxNLocator(4))
    figure.supxlabel(('thousand training images seen' if unit == 'images' else 'epoch')
                     + '\nband: 95% interval over seeds; grey: the others', fontsize=6)
    return figure
