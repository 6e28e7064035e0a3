"""The published numbers, and the figures of the paper."""
from __future__ import annotations

import csv
import os
from typing import Dict, List, NamedTuple, Optional, Sequence

from matplotlib.figure import Figure

from results.algorithms import ROOT, algorithm, position
from results.figures.bars import draw_bars
from results.figures.style import board_title
from results.figures.sweep import SIZES, draw_sweep
from results.statistics import Interval


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


def read_paper() -> List[Published]:
    """The published numbers, from ``results/paper.csv``."""
    with open(os.path.join(ROOT, 'results', 'paper.csv'), newline='', encoding='utf-8') as file:
        return [Published(r['figure'], r['dataset'], r['model'], r['algorithm'],
                          int(r['embed_dim']) if r['embed_dim'] else None,
                          int(r['batch_size']) if r['batch_size'] else None,
                          r['metric'], float(r['value']), r['source'], r['note']) for r in csv.DictReader(file)]


def paper_figures() -> Dict[str, Figure]:
    """The six figures of the paper, by its names of their files."""
    paper = read_paper()
    rows = [algorithm(k) for k in sorted({p.algorithm for p in paper}, key=position)]
    found = {}
    for dataset, model in dict.fromkeys((p.dataset, p.model) for p in paper if p.figure == 'table'):
        values: Dict[str, Dict[str, Interval]] = {}
        for p in paper:
            if (p.figure, p.dataset, p.model) == ('table', dataset, model):
                values.setdefault(p.algorithm, {})[p.metric] = Interval(p.value, None, None, 1)
        gaps = {a.key: 'not published' for a in rows}
        name = f'{dataset}_{model.split("-")[0].split("_")[0]}'
        found[name] = draw_bars(f'{board_title(dataset, model)} (published)', values, {}, gaps, rows=rows)
    for what, name in SIZES.items():
        lines = {k: {x: Interval(v, None, None, 1) for x, v in own.items()}
                 for k, own in published_lines(paper, name, what).items()}
        title = f'{board_title("CUB", "inception-bn")} (published)'
        found[name.replace('-', '_')] = draw_sweep(title, what, lines, {}, [])
    return found


def published_lines(paper: Sequence[Published], figure: str, what: str) -> Dict[str, Dict[int, float]]:
    """Of algorithm and size to recall@1, of one of the paper's two figures of sizes."""
    found: Dict[str, Dict[int, float]] = {}
    for p in paper:
        if p.figure == figure:
            found.setdefault(p.algorithm, {})[getattr(p, what)] = p.value
    return found
