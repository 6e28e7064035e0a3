"""Draws the paper's figures, and three more, from run logs.

    python -m results.plots                          all of results/logs into results/plots
    python -m results.plots results/logs/glyphs      one folder, or any files
    python -m results.plots --paper                  the published figures, from results/paper.csv

One PNG and one SVG, as wide as a column (3.3 inches), for each of: recall@1 and NMI as bars, learning curves, best
epoch on the test set against the last epoch, and time to a given recall; and recall@1 against embedding size and
against batch size where the logs hold several. Whiskers and bands are 95% intervals (Student's t) over seeds.
"""
from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from results.algorithms import Algorithm, algorithm, algorithms, position
from common.command import CommandParser, run_command
from common.files import atomic_write
from results.aggregate import Board, Group, boards
from results.readlog import LogError, read_logs
from results.records import SELECTIONS, Run
from results.statistics import Interval, interval

HERE = os.path.dirname(os.path.abspath(__file__))
WIDTH = 3.3
STYLE = {
    'font.family': 'DejaVu Sans', 'font.size': 6.5, 'axes.titlesize': 7.5, 'axes.labelsize': 6.5, 'axes.linewidth': 0.5,
    'axes.spines.top': False, 'axes.spines.right': False, 'axes.edgecolor': '#888888', 'axes.axisbelow': True,
    'xtick.labelsize': 6, 'ytick.labelsize': 6.5, 'xtick.major.size': 2, 'ytick.major.size': 0,
    'xtick.major.width': 0.5, 'xtick.color': '#333333', 'ytick.color': '#000000', 'grid.color': '#E4E4E4',
    'grid.linewidth': 0.5, 'legend.fontsize': 6, 'legend.frameon': False, 'lines.linewidth': 1.1,
    'lines.markersize': 3.6,
    'hatch.linewidth': 0.6, 'svg.hashsalt': 'dml-playground', 'svg.fonttype': 'path', 'path.simplify': True}
MODEL_NAMES = {'inception-bn': 'Inception-BN', 'resnet50_v2': 'ResNet50', 'resnet18_v2': 'ResNet18'}
DATASET_NAMES = {'CARS196': 'Cars196', 'CUB': 'CUB-200-2011', 'SOP': 'Stanford Online Products'}
SELECTION_NAMES = {'best-on-test': 'best epoch on the test set (the paper\'s rule)', 'last': 'last epoch',
                   'best-on-val': 'epoch chosen on held-out classes'}
GREY = '#767676'


class Published(NamedTuple):
    """One published number."""

    figure: str
    dataset: str
    model: str
    algorithm: str
    embed_dim: Optional[int]
    batch_size: Optional[int]
    metric: str
    value: float
    source: str
    note: str


def read_paper(path: Optional[str] = None) -> List[Published]:
    """The published numbers, from ``results/paper.csv``."""
    with open(path or os.path.join(HERE, 'paper.csv'), newline='', encoding='utf-8') as file:
        return [Published(r['figure'], r['dataset'], r['model'], r['algorithm'],
                          int(r['embed_dim']) if r['embed_dim'] else None,
                          int(r['batch_size']) if r['batch_size'] else None,
                          r['metric'], float(r['value']), r['source'], r['note']) for r in csv.DictReader(file)]


# ---------------------------------------------------------------------------------------------------------------------
# Parts of figures

def _title(dataset: str, model: str) -> str:
    return f'{DATASET_NAMES.get(dataset, dataset)}, {MODEL_NAMES.get(model, model)}'


def _rows(keys: Sequence[str]) -> List[Algorithm]:
    """Every algorithm of the project, there or not, then the user's own."""
    return [algorithm(k) for k in sorted({*keys, *(a.key for a in algorithms())}, key=position)]


def _figure(height: float) -> Figure:
    figure = Figure(figsize=(WIDTH, height), layout='constrained')
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    FigureCanvasAgg(figure)
    return figure


def _name_rows(axes: Any, rows: Sequence[Algorithm], missing: Sequence[str]) -> None:
    axes.set_yticks(range(len(rows)), [a.name for a in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    for label, row in zip(axes.get_yticklabels(), rows):
        label.set_color(GREY if row.key in missing else 'black')


def _gap(axes: Any, y: int, text: str) -> None:
    axes.annotate(text, (0, y), (3, 0), xycoords=('axes fraction', 'data'), textcoords='offset points', va='center',
                  fontsize=5.5, color=GREY, style='italic',
                  bbox={'facecolor': 'white', 'edgecolor': 'none', 'pad': 0.6})


def _bar_style(a: Algorithm) -> Dict[str, Any]:
    # The hatch is drawn in the edge's colour: white lines over the fill.
    return {'facecolor': a.colour, 'edgecolor': 'white', 'hatch': a.hatch, 'linewidth': 0}


def _marker_style(a: Algorithm) -> Dict[str, Any]:
    return {'color': a.colour, 'marker': a.marker, 'linestyle': a.dashes, 'markeredgewidth': 0.9,
                'markerfacecolor': 'white' if a.open_marker else a.colour, 'markeredgecolor': a.colour}


def _bottom_legend(figure: Figure, handles: Sequence[Any], columns: int) -> None:
    figure.legend(handles=list(handles), loc='outside lower center', ncols=columns, handlelength=1.9, columnspacing=1.0,
                  handletextpad=0.5, borderpad=0.1, labelspacing=0.35)


# ---------------------------------------------------------------------------------------------------------------------
# The figures

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
    rows = rows or _rows(list(values))
    figure = _figure(0.62 + 0.188 * len(rows))
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
                _gap(axes, y, gaps.get(a.key, 'not run') if a.key in missing else 'no value')
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
    _name_rows(panels[0], rows, missing)
    figure.suptitle(_title(dataset, model) + note, fontsize=7.5)
    handles: List[Any] = []
    if any(i.half is not None for v in values.values() for i in v.values()):
        handles.append(Line2D([], [], color='black', linewidth=0.7, marker='|', markersize=4, label='95% interval'))
    if published:
        handles.append(Line2D([], [], linestyle='', marker='D', color='white', markeredgecolor='black', markersize=3.1,
                              markeredgewidth=0.7, label='published'))
    if reference:
        handles.append(Line2D([], [], color='#555555', linestyle=':', linewidth=0.8, label='untrained net'))
    if handles:
        _bottom_legend(figure, handles, 3)
    return figure


def draw_sweep(dataset: str, model: str, what: str, lines: Dict[str, Dict[int, Interval]],
               published: Dict[str, Dict[int, float]], expected: Sequence[str]) -> Figure:
    """Recall@1 against a size, one line for each algorithm; published lines thin and pale behind ours.

    Parameters
    ----------
    lines : dict
        Of algorithm and size to `Interval`.
    published : dict
        Of algorithm and size to the published value, drawn behind.
    expected : list of str
        Algorithms that are named in the legend even where they have no line.
    """
    keys = sorted(set(lines) | set(expected), key=position)
    columns = 3 if set(keys) == set(lines) else 2           # gaps have longer names
    figure = _figure(2.6 + 0.115 * -(-(len(keys) + bool(published)) // columns))
    axes = figure.subplots()
    handles: List[Any] = []
    for key in keys:
        a = algorithm(key)
        if key in published:
            xs = sorted(published[key])
            axes.plot(xs, [published[key][x] for x in xs], color=a.colour, linewidth=0.7, alpha=0.45, zorder=1)
        if key not in lines:
            handles.append(Line2D([], [], linestyle='', label=f'{a.name}: not run'))
            continue
        xs = sorted(lines[key])
        axes.plot(xs, [lines[key][x].mean for x in xs], **_marker_style(a))
        for x in xs:
            if lines[key][x].half is not None:
                axes.errorbar(x, lines[key][x].mean, yerr=lines[key][x].half, color=a.colour, elinewidth=0.7,
                              capsize=1.5)
        handles.append(Line2D([], [], label=a.name, **_marker_style(a)))
    if published:
        handles.append(Line2D([], [], color='#555555', linewidth=0.7, alpha=0.6, label='published (thin)'))
    sizes = sorted({x for line in list(lines.values()) + list(published.values()) for x in line})
    axes.set_xscale('log', base=2)
    axes.set_xticks(sizes, [str(x) for x in sizes])
    axes.minorticks_off()
    axes.set_xlabel({'embed_dim': 'Embedding size', 'batch_size': 'Batch size'}[what])
    axes.set_ylabel('Recall@1 (%)')
    axes.grid(axis='y')
    axes.margins(x=0.04)
    axes.set_title(_title(dataset, model))
    _bottom_legend(figure, handles, columns)
    for text in figure.legends[0].get_texts():
        if text.get_text().endswith('not run'):
            text.set_color(GREY)
    return figure


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
    rows = _rows(list(curves))
    columns = 3
    lines = -(-len(rows) // columns)
    figure = _figure(0.55 + 0.74 * lines)
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
    figure.suptitle(f'{_title(board.dataset, board.model)}: recall@1 (%)')
    panels[0].yaxis.set_major_locator(MaxNLocator(4))
    figure.supxlabel(('thousand training images seen' if unit == 'images' else 'epoch')
                     + '\nband: 95% interval over seeds; grey: the others', fontsize=6)
    return figure


def draw_selection(board: Board) -> Optional[Figure]:
    """Best epoch on the test set against the last epoch: how much the choice flatters."""
    pairs = {}
    for key, group in board.chosen.items():
        best, last = group.interval('best-on-test', 'recall@1'), group.interval('last', 'recall@1')
        if best and last:
            pairs[key] = (best.mean, last.mean, group.interval('best-on-val', 'recall@1'))
    if not pairs:
        return None
    rows = _rows(list(pairs))
    figure = _figure(0.62 + 0.172 * len(rows))
    axes = figure.subplots()
    validated = False
    for y, a in enumerate(rows):
        if a.key not in pairs:
            _gap(axes, y, 'not run')
            continue
        best, last, held_out = pairs[a.key]
        axes.plot([last, best], [y, y], color=a.colour, linewidth=1.6, solid_capstyle='butt', zorder=2)
        axes.plot(last, y, 'o', color=a.colour, markersize=4.2, markerfacecolor='white', markeredgewidth=1,
                  zorder=3)
        axes.plot(best, y, 'o', markersize=4.2, color=a.colour, markeredgecolor=a.colour, markeredgewidth=1, zorder=4)
        if held_out:
            validated = True
            axes.plot(held_out.mean, y, '|', color='black', markersize=6, markeredgewidth=0.9, zorder=5)
        axes.annotate(f'+{best - last:.1f}', (max(best, last), y), (5, 0), textcoords='offset points', va='center',
                      fontsize=6)
    ends = [v for best, last, _ in pairs.values() for v in (best, last)]
    spread = max(max(ends) - min(ends), 2.0)
    axes.set_xlim(max(0, min(ends) - 0.08 * spread), max(ends) + 0.16 * spread)
    axes.set_xlabel('Recall@1 (%), mean over seeds')
    axes.grid(axis='x')
    _name_rows(axes, rows, [a.key for a in rows if a.key not in pairs])
    axes.set_title(_title(board.dataset, board.model))
    dot = {'linestyle': '', 'marker': 'o', 'markersize': 4.2, 'markeredgecolor': '#333333'}
    handles = [Line2D([], [], markerfacecolor='white', label='last epoch', **dot),
               Line2D([], [], markerfacecolor='#333333', label='best epoch on test set', **dot)]
    if validated:
        handles.append(Line2D([], [], linestyle='', marker='|', color='black', markersize=6, label='held-out classes'))
    _bottom_legend(figure, handles, 3)
    return figure


def time_to(run: Run, recall: float, unit: str) -> Optional[float]:
    """Seconds (or epochs) of training until recall@1 was first seen at `recall` percent; None where it never was."""
    spent = 0.0
    for epoch in (e for e in run.epochs if e.number):
        if unit == 'seconds':
            if epoch.seconds is None:
                return None
            spent += epoch.seconds
        else:
            spent = float(epoch.number)
        if epoch.metrics.get('recall@1', -1.0) >= recall:
            return spent
    return None


def default_target(board: Board) -> float:
    """The largest multiple of five that half of the algorithms reach with their mean best."""
    best = sorted(i.mean for i in (g.interval('best-on-test', 'recall@1') for g in board.chosen.values()) if i)
    return 5.0 * (best[(len(best) - 1) // 2] // 5) if best else 0.0


def draw_time(board: Board, target: Optional[float] = None) -> Optional[Figure]:
    """Training time until recall@1 first reached `target`: every seed a dot, their median a line.

    In seconds, or in epochs where the logs do not tell the time (those of the paper's repository).
    """
    runs = {k: [r for _, r in g.runs] for k, g in board.chosen.items() if g.runs}
    if not runs:
        return None
    recall = default_target(board) if target is None else target
    if recall <= 0:
        return None         # half of them do not reach 5%
    timed = all(e.seconds is not None for own in runs.values() for r in own for e in r.epochs if e.number)
    unit = 'seconds' if timed else 'epochs'
    reached = {k: [t for t in (time_to(r, recall, unit) for r in own) if t is not None] for k, own in runs.items()}
    rows = _rows(list(runs))
    figure = _figure(0.5 + 0.172 * len(rows))
    axes = figure.subplots()
    for y, a in enumerate(rows):
        if a.key not in runs:
            _gap(axes, y, 'not run')
            continue
        times = reached[a.key]
        if not times:
            best = board.chosen[a.key].interval('best-on-test', 'recall@1')
            _gap(axes, y, f'never (best {best.mean:.1f})' if best else 'never')
            continue
        middle = float(np.median(times))
        axes.plot(times, [y] * len(times), **{**_marker_style(a), 'linestyle': ''})
        axes.plot([middle, middle], [y - 0.34, y + 0.34], color='black', linewidth=0.9, zorder=4)
        missed = '' if len(times) == len(runs[a.key]) else f', {len(times)} of {len(runs[a.key])} seeds'
        axes.annotate(_duration(middle, unit) + missed, (max(times), y), (6, 0), textcoords='offset points',
                      va='center', fontsize=6)
    every = [t for times in reached.values() for t in times if t > 0]
    if every:
        axes.set_xscale('log')
        low, high = min(every), max(every)
        room = max(high / low, 2.0)
        axes.set_xlim(low / room ** 0.06, high * room ** 0.28)
        _time_ticks(axes, unit)
    else:
        axes.set_xticks([])
    _name_rows(axes, rows, [a.key for a in rows if a.key not in runs])
    axes.grid(axis='x')
    axes.set_title(_title(board.dataset, board.model))
    axes.set_xlabel(('training time' if timed else 'epochs') + f' to recall@1 = {recall:g}%')
    return figure


_DURATIONS = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18000, 36000, 86400, 172800, 432000)


def _time_ticks(axes: Any, unit: str) -> None:
    low, high = axes.get_xlim()
    choices = _DURATIONS if unit == 'seconds' else (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 500, 1000)
    ticks = [t for t in choices if low <= t <= high]
    while len(ticks) > 7:
        ticks = ticks[::2]
    axes.set_xticks(ticks, [_duration(t, unit) for t in ticks])
    axes.minorticks_off()


def _duration(value: float, unit: str) -> str:
    if unit == 'epochs':
        return f'{value:g}'
    for size, name in ((86400, 'd'), (3600, 'h'), (60, 'min')):
        if value >= size:
            return f'{value / size:.3g} {name}'
    return f'{value:.2g} s' if value < 1 else f'{value:.0f} s'


# ---------------------------------------------------------------------------------------------------------------------
# From logs, and from the paper

def sweeps(board: Board, what: str) -> Dict[str, Dict[int, Group]]:
    """Of algorithm and size to group, for algorithms that were run with at least two sizes.

    Groups belong to one sweep where all else that they set is the same, but for flags that follow from the size.
    """
    free = {'embed_dim': {'embed_dim'},
            'batch_size': {'batch_size', 'batch_k', 'lr', 'nc', 'ns', 'nq', 'batches_per_epoch'}}[what]
    free = free | {'epochs', 'steps'}
    families: Dict[str, Dict[str, Dict[int, Group]]] = {}
    for group in board.groups:
        size = group.settings.get(what)
        if isinstance(size, int) and not isinstance(size, bool) and size > 0 and group.runs:
            rest = str(sorted((k, str(v)) for k, v in group.settings.items() if k not in free))
            family = families.setdefault(group.algorithm, {}).setdefault(rest, {})
            if size not in family or len(group.runs) > len(family[size].runs):
                family[size] = group
    largest = {key: max(own.values(), key=len) for key, own in families.items()}
    return {key: family for key, family in largest.items() if len(family) > 1}


def figures(board: Board, selection: str = 'best-on-test', target: Optional[float] = None,
            paper: Optional[List[Published]] = None) -> Dict[str, Figure]:
    """All figures of a board, by the name of their file (without its suffix)."""
    paper = read_paper() if paper is None else paper
    here = [p for p in paper if (p.dataset, p.model) == (board.dataset, board.model)]
    found: Dict[str, Optional[Figure]] = {}
    values, gaps = {}, {}
    for key, group in board.chosen.items():
        own = {m: group.interval(selection, m) for m in ('recall@1', 'nmi')}
        values[key] = {m: i for m, i in own.items() if i is not None}
        if group.open and not group.runs:
            gaps[key] = 'diverged' if any(r.diverged for _, r in group.open) else 'unfinished'
        elif not values[key]:
            gaps[key] = f'no {selection}'
    published = {(p.algorithm, p.metric): p.value for p in here if p.figure == 'table'}
    found['bars'] = draw_bars(board.dataset, board.model, values, published, gaps, board.references.get('untrained'),
                              '' if selection == 'best-on-test' else f': {SELECTION_NAMES[selection]}')
    for what, name in (('embed_dim', 'embedding-size'), ('batch_size', 'batch-size')):
        groups = sweeps(board, what)
        lines = {k: {x: g.interval(selection, 'recall@1') for x, g in own.items()} for k, own in groups.items()}
        lines = {k: {x: i for x, i in own.items() if i} for k, own in lines.items()}
        if lines:
            behind = _published_lines(here, name, what)
            found[name] = draw_sweep(board.dataset, board.model, what, lines, behind, list(behind))
    found['curves'] = draw_curves(board)
    found['selection'] = draw_selection(board)
    found['time'] = draw_time(board, target)
    return {f'{name}_{board.slug}': figure for name, figure in found.items() if figure is not None}


def paper_figures(paper: Optional[List[Published]] = None) -> Dict[str, Figure]:
    """The published figures."""
    paper = read_paper() if paper is None else paper
    rows = [algorithm(k) for k in sorted({p.algorithm for p in paper}, key=position)]
    found = {}
    for dataset, model in dict.fromkeys((p.dataset, p.model) for p in paper if p.figure == 'table'):
        values: Dict[str, Dict[str, Interval]] = {}
        for p in paper:
            if (p.figure, p.dataset, p.model) == ('table', dataset, model):
                values.setdefault(p.algorithm, {})[p.metric] = Interval(p.value, None, None, 1)
        gaps = {a.key: 'not published' for a in rows}
        name = f'paper_bars_{dataset}_{model}'.lower()
        found[name] = draw_bars(dataset, model, values, {}, gaps, None, ' (published)', rows)
    for what, name in (('embed_dim', 'embedding-size'), ('batch_size', 'batch-size')):
        lines = {k: {x: Interval(v, None, None, 1) for x, v in own.items()}
                 for k, own in _published_lines(paper, name, what).items()}
        found[f'paper_{name}_cub_inception-bn'] = draw_sweep('CUB', 'inception-bn', what, lines, {}, [])
    return found


def _published_lines(paper: Sequence[Published], figure: str, what: str) -> Dict[str, Dict[int, float]]:
    found: Dict[str, Dict[int, float]] = {}
    for p in paper:
        if p.figure == figure:
            found.setdefault(p.algorithm, {})[getattr(p, what)] = p.value
    return found


# ---------------------------------------------------------------------------------------------------------------------
# Files

def render(figure: Figure, kind: str, dpi: int = 300) -> bytes:
    """A figure as the bytes of a ``png`` or ``svg`` file, the same bytes every time."""
    buffer = io.BytesIO()
    metadata = {'Date': None, 'Creator': None} if kind == 'svg' else {'Software': None}
    figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def save(drawn: Dict[str, Figure], folder: str, dpi: int = 300) -> List[str]:
    """Writes each figure as PNG and SVG; gives the paths."""
    os.makedirs(folder, exist_ok=True)
    paths = []
    for name, figure in drawn.items():
        for kind in ('png', 'svg'):
            path = os.path.join(folder, f'{name}.{kind}')
            with atomic_write(path) as file:
                file.write(render(figure, kind, dpi))
            paths.append(path)
    return paths


def styled(draw: Callable[[], Any]) -> Any:
    """Calls `draw` with the project's look; matplotlib reads some of it only when it renders."""
    with matplotlib.rc_context(STYLE):
        return draw()


def main(argv: Optional[List[str]] = None) -> int:
    """The command; gives its exit status."""
    parser = CommandParser(prog='python -m results.plots', description=__doc__,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('logs', nargs='*', default=['results/logs'], help='logs, or folders of them (results/logs)')
    parser.add_argument('--paper', action='store_true', help='draw the published figures instead')
    parser.add_argument('--out', default='results/plots', metavar='DIR', help='where the pictures go (results/plots)')
    parser.add_argument('--selection', choices=SELECTIONS, default='best-on-test',
                        help='which epoch counts in bars and sizes (best-on-test, as in the paper)')
    parser.add_argument('--target-recall', type=float, metavar='PERCENT',
                        help='recall@1 of the time figure (what half of the algorithms reach)')
    parser.add_argument('--dpi', type=int, default=300, help='resolution of the PNGs, dots per inch (300)')
    opt = parser.parse_args(argv)
    return run_command('results.plots', lambda: styled(lambda: _run(opt)))


def _run(opt: argparse.Namespace) -> int:
    if opt.paper:
        drawn = paper_figures()
    else:
        experiments, problems = read_logs(opt.logs)
        for problem in problems:
            print(f'results.plots: left out {problem}', file=sys.stderr)
        drawn = {}
        for board in boards(experiments):
            for note in board.notes:
                print(f'results.plots: {board.dataset}, {board.model}: {note}', file=sys.stderr)
            drawn.update(figures(board, opt.selection, opt.target_recall))
        if not drawn:
            raise LogError('the logs hold no trained run')
    for path in save(drawn, opt.out, opt.dpi):
        print(path)
    return 0


if __name__ == '__main__':
    sys.exit(main())
