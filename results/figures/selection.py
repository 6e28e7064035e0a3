"""Best epoch on the test set against the last epoch."""
from __future__ import annotations

from typing import Optional

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from results.aggregate import Board
from results.figures.style import all_rows, board_title, bottom_legend, name_rows, new_figure, write_gap


def draw_selection(board: Board) -> Optional[Figure]:
    """Best epoch on the test set against the last epoch: how much the choice flatters."""
    pairs = {}
    for key, group in board.chosen.items():
        best, last = group.interval('best-on-test', 'recall@1'), group.interval('last', 'recall@1')
        if best and last:
            pairs[key] = (best.mean, last.mean, group.interval('best-on-val', 'recall@1'))
    if not pairs:
        return None
    rows = all_rows(list(pairs))
    figure = new_figure(0.62 + 0.172 * len(rows))
    axes = figure.subplots()
    validated = False
    for y, a in enumerate(rows):
        if a.key not in pairs:
            write_gap(axes, y, 'not run')
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
    name_rows(axes, rows, [a.key for a in rows if a.key not in pairs])
    axes.set_title(board_title(board.dataset, board.model, board.comparison))
    dot = {'linestyle': '', 'marker': 'o', 'markersize': 4.2, 'markeredgecolor': '#333333'}
    handles = [Line2D([], [], markerfacecolor='white', label='last epoch', **dot),
               Line2D([], [], markerfacecolor='#333333', label='best epoch on test set', **dot)]
    if validated:
        handles.append(Line2D([], [], linestyle='', marker='|', color='black', markersize=6, label='held-out classes'))
    bottom_legend(figure, handles, 3)
    return figure
