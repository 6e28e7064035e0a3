"""Recall@1 and NMI of every algorithm as bars."""
from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from results.algorithms import Algorithm, algorithm
from results.figures.style import all_rows, bottom_legend, name_rows, new_figure, write_gap
from results.statistics import Interval


#: How the lines of the references are drawn.
REFERENCE_DASHES = {'untrained': ':', 'raw-pixels': (0, (5, 2))}


def _whisker(axes: Any, y: float, one: Interval, colour: str) -> None:
    if one.half is not None:
        axes.errorbar(one.mean, y, xerr=one.half, color=colour, elinewidth=0.7, capsize=1.4, capthick=0.7)


def _bar_style(a: Algorithm) -> Dict[str, Any]:
    # The hatch is drawn in the edge's colour: white lines over the fill.
    return {'facecolor': a.colour, 'edgecolor': 'white', 'hatch': a.hatch, 'linewidth': 0}


def draw_bars(title: str, values: Dict[str, Dict[str, Interval]], papers: Dict[Tuple[str, str], float],
              gaps: Dict[str, str], references: Optional[Dict[str, Dict[str, Interval]]] = None,
              published: Optional[Dict[str, Dict[str, Interval]]] = None,
              rows: Optional[List[Algorithm]] = None) -> Figure:
    """Recall@1 and NMI of every algorithm, side by side.

    Parameters
    ----------
    values : dict
        Of algorithm and metric to its `Interval`.
    papers : dict
        Of (algorithm, metric) to the paper's value, drawn as a diamond.
    gaps : dict
        Of algorithm to what is written where it has no value ('not run' where nothing is said).
    references : dict, optional
        Of ``untrained`` and ``raw-pixels`` to their metrics, drawn as lines.
    published : dict, optional
        Our own values with published settings, drawn as pale bars below those of `values`.
    rows : list of Algorithm, optional
        Which have a row, in this order; default: all of the project and all that have a value.
    """
    rows = rows or all_rows(list(values))
    figure = new_figure(0.62 + 0.1 * (title.count('\n') + bool(published)) + 0.188 * len(rows))
    shift, height = (-0.14, 0.46) if published else (0, 0.72)
    references = references or {}
    panels = figure.subplots(1, 2, sharey=True)
    missing = [a.key for a in rows if not values.get(a.key)]
    for axes, metric in zip(panels, ('recall@1', 'nmi')):
        tops = [10.0]
        for y, a in enumerate(rows):
            one = values.get(a.key, {}).get(metric)
            marker = papers.get((a.key, metric))
            below = (published or {}).get(a.key, {}).get(metric)
            end = max(marker or 0, *(i.mean + (i.half or 0) for i in (one, below) if i), 0)
            tops.append(end)
            apart = 0.15 if marker and one and one.half is not None else 0      # neither must hide the other
            if one is None:
                write_gap(axes, y, gaps.get(a.key, 'not run') if a.key in missing else 'no value')
            else:
                axes.barh(y + shift, one.mean, height=height, **_bar_style(a))
                _whisker(axes, y + shift - apart, one, 'black')
            if below is not None:
                axes.barh(y + 0.24, below.mean, height=0.24, color=a.colour, alpha=0.4, linewidth=0)
                _whisker(axes, y + 0.24, below, '#666666')
            if marker is not None:
                axes.plot(marker, y + apart, 'D', color='white', markeredgecolor='black', markersize=3.1,
                          markeredgewidth=0.7, zorder=5)
            if one is not None:
                axes.annotate(f'{one.mean:.1f}', (end, y), (3.2, 0), textcoords='offset points', va='center',
                              fontsize=6)
        for key, dashes in REFERENCE_DASHES.items():
            if metric in references.get(key, {}):
                axes.axvline(references[key][metric].mean, color='#555555', linestyle=dashes, linewidth=0.8, zorder=1.5)
        axes.set_xlim(0, max(tops) * 1.27)
        axes.set_title({'recall@1': 'Recall@1 (%)'}.get(metric, 'NMI (%)'), fontsize=6.5, pad=3)
        axes.grid(axis='x')
        axes.tick_params(axis='x', pad=1.5)
    name_rows(panels[0], rows, missing)
    figure.suptitle(title, fontsize=7.5)
    handles: List[Any] = []
    if any(i.half is not None for v in values.values() for i in v.values()):
        handles.append(Line2D([], [], color='black', linewidth=0.7, marker='|', markersize=4, label='95% interval'))
    if published:
        handles.append(Patch(facecolor='#555555', alpha=0.4, label='published settings'))
    if papers:
        handles.append(Line2D([], [], linestyle='', marker='D', color='white', markeredgecolor='black', markersize=3.1,
                              markeredgewidth=0.7, label='the paper\'s'))
    handles += [Line2D([], [], color='#555555', linestyle=dashes, linewidth=0.8, label=algorithm(key).name.lower())
                for key, dashes in REFERENCE_DASHES.items() if references.get(key)]
    if handles:
        bottom_legend(figure, handles, 3)
    return figure
