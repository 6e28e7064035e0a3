"""Recall@1 against a size: of the embedding, or of the batch."""
from __future__ import annotations

from typing import Any, Dict, List, Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from results.aggregate import Board, Group
from results.algorithms import algorithm, position
from results.figures.style import GREY, bottom_legend, marker_style, new_figure
from results.statistics import Interval

#: The flag of each size, and the name of its figure.
SIZES = {'embed_dim': 'embedding-size', 'batch_size': 'batch-size'}


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


def draw_sweep(title: str, what: str, lines: Dict[str, Dict[int, Interval]],
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
    figure = new_figure(2.6 + 0.115 * -(-(len(keys) + bool(published)) // columns))
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
        axes.plot(xs, [lines[key][x].mean for x in xs], **marker_style(a))
        for x in xs:
            if lines[key][x].half is not None:
                axes.errorbar(x, lines[key][x].mean, yerr=lines[key][x].half, color=a.colour, elinewidth=0.7,
                              capsize=1.5)
        handles.append(Line2D([], [], label=a.name, **marker_style(a)))
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
    axes.set_title(title)
    bottom_legend(figure, handles, columns)
    for text in figure.legends[0].get_texts():
        if text.get_text().endswith('not run'):
            text.set_color(GREY)
    return figure
