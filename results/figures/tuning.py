"""What a search finds against the number of its trials."""
from __future__ import annotations

from typing import Optional

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from results.algorithms import algorithm, position
from results.figures.style import GREY, bottom_legend, marker_style, new_figure
from results.tuning import Record, expected_best


def draw_tuning(record: Record) -> Optional[Figure]:
    """Expected score of the best of n trials, one line for each algorithm; None where nothing was tried."""
    keys = [key for key in sorted(record.rows, key=position) if record.rows[key].trials]
    if not keys:
        return None
    figure = new_figure(2.6 + 0.115 * -(-(len(keys) + 1) // 3))
    axes = figure.subplots()
    handles = []
    for key in keys:
        scores = expected_best([trial.score for trial in record.rows[key].trials])
        look = {**marker_style(algorithm(key)), 'markersize': 2.6}
        axes.plot(range(1, len(scores) + 1), scores, **look)
        handles.append(Line2D([], [], label=algorithm(key).name, **look))
    if record.raw_pixels is not None:
        axes.axhline(record.raw_pixels, color=GREY, linewidth=0.8, linestyle=':', zorder=1)
        handles.append(Line2D([], [], color=GREY, linewidth=0.8, linestyle=':', label='raw pixels'))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel('Trials')
    axes.set_ylabel('Expected best recall@1 (%)')
    axes.set_title(f'{record.experiment}: held-out training classes')
    axes.grid(axis='y')
    axes.margins(x=0.04)
    bottom_legend(figure, handles, 3)
    return figure
