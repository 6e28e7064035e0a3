"""Draws the paper's figures, and some more, from run logs.

    python -m results.plots                          all of results/logs into results/plots
    python -m results.plots results/logs/glyphs      one folder, or any files
    python -m results.plots results/tuned/glyphs.yaml
                                                     what a search found, against its trials
    python -m results.plots --paper                  the paper's six figures, from results/paper.csv

The logs of each folder of results/logs are a comparison of their own, whose name their pictures begin with:
``glyphs-tuned_bars``. All other logs are one comparison without a name: ``bars_cub_inception-bn``.

One PNG and one SVG, as wide as a column (3.3 inches), for each of: recall@1 and NMI as bars, learning curves, best
epoch on the test set against the last epoch, and time to a given recall; or, where a comparison is of sizes, recall@1
against the size of the embedding or of the batch. With two benchmarks or more, ``profiles``: the share of runs above
each recall@1. Whiskers and bands are 95% intervals (Student's t) over seeds. Where a comparison has tuned settings,
pale bars show the published ones, if their logs are there.
"""
from __future__ import annotations

import argparse
import glob
import os
import sys
from typing import Dict, List, Optional

from matplotlib.figure import Figure

from common.command import CommandParser, run_command
from common.files import atomic_write, expand_path
from results.across import together
from results.aggregate import Board, boards
from results.figures.bars import draw_bars
from results.figures.curves import draw_curves
from results.figures.paper import paper_figures, published_lines, read_paper
from results.figures.profile import draw_profiles
from results.figures.selection import draw_selection
from results.figures.style import SELECTION_NAMES, board_title, render, styled
from results.figures.sweep import SIZES, draw_sweep, sweeps
from results.figures.time import draw_time
from results.figures.tuning import draw_tuning
from results.readlog import LogError, read_logs
from results.records import SELECTIONS
from results.statistics import Interval
from results.tuning import load_record


def figures(board: Board, selection: str = 'last', target: Optional[float] = None) -> Dict[str, Figure]:
    """All figures of a board, by what they show; of a comparison of sizes only that."""
    title = board_title(board.dataset, board.model, board.comparison)
    here = [p for p in read_paper() if (p.dataset, p.model) == (board.dataset, board.model)]
    found: Dict[str, Optional[Figure]] = {}
    for what, name in SIZES.items():
        groups = sweeps(board, what)
        lines = {k: {x: g.interval(selection, 'recall@1') for x, g in own.items()} for k, own in groups.items()}
        lines = {k: {x: i for x, i in own.items() if i} for k, own in lines.items()}
        if lines:
            behind = published_lines(here, name, what)
            found[name] = draw_sweep(title, what, lines, behind, list(behind))
    if board.comparison and found:
        return found
    values, gaps = _values(board, selection), {}
    for key, group in board.chosen.items():
        if group.open and not group.runs:
            gaps[key] = 'diverged' if any(r.diverged for _, r in group.open) else 'unfinished'
        elif not values[key]:
            gaps[key] = f'no {selection}'
    papers = {(p.algorithm, p.metric): p.value for p in here if p.figure == 'table'}
    found['bars'] = draw_bars(f'{title}\n{SELECTION_NAMES[selection]}', values, papers, gaps, board.references,
                              _values(board.published, selection) if board.published else None)
    found['curves'] = draw_curves(board)
    found['selection'] = draw_selection(board)
    found['time'] = draw_time(board, target)
    return {name: figure for name, figure in found.items() if figure is not None}


def _values(board: Board, selection: str) -> Dict[str, Dict[str, Interval]]:
    own = {key: {m: group.interval(selection, m) for m in ('recall@1', 'nmi')} for key, group in board.chosen.items()}
    return {key: {m: i for m, i in one.items() if i is not None} for key, one in own.items()}


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


def main(argv: Optional[List[str]] = None) -> int:
    """The command; gives its exit status."""
    parser = CommandParser(prog='python -m results.plots', description=__doc__,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('logs', nargs='*', type=expand_path,
                        help='logs, or folders of them (results/logs), and records of searches '
                             '(results/tuned/*.yaml)')
    parser.add_argument('--paper', action='store_true', help='draw the paper\'s figures instead')
    parser.add_argument('--out', type=expand_path, default='results/plots', metavar='DIR',
                        help='where the pictures go (results/plots)')
    parser.add_argument('--selection', choices=SELECTIONS, default='last',
                        help='which epoch counts in bars and sizes (last; the paper\'s is best-on-test)')
    parser.add_argument('--target-recall', type=float, metavar='PERCENT',
                        help='recall@1 of the time figure (what half of the algorithms reach)')
    parser.add_argument('--dpi', type=int, default=300, help='resolution of the PNGs, dots per inch (300)')
    opt = parser.parse_args(argv)
    return run_command('results.plots', lambda: styled(lambda: _run(opt)))


def _run(opt: argparse.Namespace) -> int:
    if opt.paper:
        drawn = paper_figures()
    else:
        paths = opt.logs or ['results/logs', *sorted(glob.glob('results/tuned/*.yaml'))]
        logs = [path for path in paths if not path.endswith('.yaml')]
        experiments, problems = read_logs(logs) if logs else ([], [])
        for problem in problems:
            print(f'results.plots: left out {problem}', file=sys.stderr)
        drawn = {}
        for record in (load_record(path) for path in paths if path not in logs):
            figure = draw_tuning(record)
            if figure is not None:
                drawn[f'tuning_{record.experiment}'] = figure
        found = boards(experiments)
        for board in found:
            own = figures(board, opt.selection, opt.target_recall)
            for note in board.notes if 'bars' in own else ():
                print(f'results.plots: {board.comparison or board.dataset}, {board.model}: {note}', file=sys.stderr)
            drawn.update((board.file(name), figure) for name, figure in own.items())
        profiles = draw_profiles(together(found))
        if profiles:
            drawn['profiles'] = profiles
        if not drawn:
            raise LogError('the logs hold no trained run')
    for path in save(drawn, opt.out, opt.dpi):
        print(path)
    return 0


if __name__ == '__main__':
    sys.exit(main())
