"""Training time until a recall@1 was first reached."""
from __future__ import annotations

from typing import Any, Optional

import numpy as np
from matplotlib.figure import Figure

from results.aggregate import Board
from results.figures.style import all_rows, board_title, marker_style, name_rows, new_figure, write_gap
from results.records import Run


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
    rows = all_rows(list(runs))
    figure = new_figure(0.5 + 0.172 * len(rows))
    axes = figure.subplots()
    for y, a in enumerate(rows):
        if a.key not in runs:
            write_gap(axes, y, 'not run')
            continue
        times = reached[a.key]
        if not times:
            best = board.chosen[a.key].interval('best-on-test', 'recall@1')
            write_gap(axes, y, f'never (best {best.mean:.1f})' if best else 'never')
            continue
        middle = float(np.median(times))
        axes.plot(times, [y] * len(times), **{**marker_style(a), 'linestyle': ''})
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
    name_rows(axes, rows, [a.key for a in rows if a.key not in runs])
    axes.grid(axis='x')
    axes.set_title(board_title(board.dataset, board.model, board.comparison))
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
