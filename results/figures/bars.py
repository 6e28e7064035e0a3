"""Recall@1 and NMI of every algorithm as bars."""
from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from results.algorithms import Algorithm
from results.figures.style import all_rows, board_title, bottom_legend, name_rows, new_figure, write_gap
from results.statistics import Interval


def _bar_style(a: Algorithm) -> Dict[str, Any]:
    # The hatch is drawn in the edge's colour: white lines over the fill.
    return {'facecolor': a.colour, 'edgecolor': 'white', 'hatch': a.hatch, 'linewidth': 0}


def draw_bars(dataset: str, model: str, values: Dict[str, Dict[str, Interval]], published: Dict[Tuple[str, str], float],
              gaps: Dict[str, str], reference: Optional[Dict[str, Interval]] = None, note: str = '',
              rows: Optional[List[Algorithm]] = None) -> Figure:
    """Recall@1 and NMI of every algorithm, side by side.

    Parameters
    ----------
    values : dict
        Of algorithm and metric to its `Interval`.
    published : dict
        Of (algorithm, metric) to the published value, drawn as a diamond.
    gaps : dict
        Of algorithm to what is written where it has no value ('not run' where nothing is said).
    reference : dict or None
        Of metric to the untrained network's, drawn as a dotted line.
    rows : list of Algorithm, optional
        Which have a row, in this order; default: all of the project and all that have a value.
    """
    rows = rows or all_rows(list(values))
    figure = new_figure(0.62 + 0.188 * len(rows))
    panels = figure.subplots(1, 2, sharey=True)
    missing = [a.key for a in rows if not values.get(a.key)]
    for axes, metric in zip(panels, ('recall@1', 'nmi')):
        tops = [10.0]
        for y, a in enumerate(rows):
            one = values.get(a.key, {}).get(metric)
            marker = published.get((a.key, metric))
            end = max(one.mean + (one.half or 0) if one else 0, marker or 0)
            tops.append(end)
            shift = 0.15 if marker and one and one.half is not None else 0      # neither must hide the other
            if one is None:
                write_gap(axes, y, gaps.get(a.key, 'not run') if a.key in missing else 'no value')
            else:
                axes.barh(y, one.mean, height=0.72, **_bar_style(a))
                if one.half is not None:
                    axes.errorbar(one.mean, y - shift, xerr=one.half, color='black', elinewidth=0.7, capsize=1.4,
                                  capthick=0.7)
            if marker is not None:
                axes.plot(marker, y + shift, 'D', color='white', markeredgecolor='black', markersize=3.1,
                          markeredgewidth=0.7, zorder=5)
            if one is not None:
                axes.annotate(f'{one.mean:.1f}', (end, y), (3.2, 0), textcoords='offset points', va='center',
                              fontsize=6)
        if reference and metric in reference:
            axes.axvline(reference[metric].mean, color='#555555', linestyle=':', linewidth=0.8, zorder=0.5)
        axes.set_xlim(0, max(tops) * 1.27)
        axes.set_title({'recall@1': 'Recall@1 (%)'}.get(metric, 'NMI (%)'), fontsize=6.5, pad=3)
        axes.grid(axis='x')
        axes.tick_params(axis='x', pad=1.5)
    name_rows(panels[0], rows, missing)
    figure.suptitle(board_title(dataset, model) + note, fontsize=7.5)
    handles: List[Any] = []
    if any(i.half is not None for v in values.values() for i in v.values()):
        handles.append(Line2D([], [], color='black', linewidth=0.7, marker='|', markersize=4, label='95% interval'))
    if published:
        handles.append(Line2D([], [], linestyle='', marker='D', color='white', markeredgecolor='black', markersize=3.1,
                              markeredgewidth=0.7, label='published'))
    if reference:
        handles.append(Line2D([], [], color='#555555', linestyle=':', linewidth=0.8, label='untrained net'))
    if handles:
        bottom_legend(figure, handles, 3)
    return figure
