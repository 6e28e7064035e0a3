"""Our order of the algorithms against the paper's: Spearman's correlation, and the rows that disagree most."""
from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Tuple

import numpy as np
from scipy import stats

from results.aggregate import Board
from results.algorithms import algorithm
from results.figures.paper import read_paper
from results.figures.style import board_title

MIN_ROWS = 4
NAMED = 3               # rows that are named, the most different first


class Agreement(NamedTuple):
    """Spearman's correlation with its 95% interval, and of each algorithm the two ranks; 1 is the best."""

    rho: float
    low: float
    high: float
    ranks: Dict[str, Tuple[float, float]]


def agreement(ours: Dict[str, float], theirs: Dict[str, float], resamples: int = 10000) -> Optional[Agreement]:
    """How alike two orders of algorithms are.

    The interval comes from a bootstrap that draws the rows, with replacement. Draws in which one side has a single
    value have no correlation and are left out.

    Parameters
    ----------
    ours, theirs : dict
        Of algorithm to its value; rows that only one of them has do not count.

    Returns
    -------
    Agreement or None
        None for fewer than four rows, or where all values of one side are equal.
    """
    keys = [key for key in ours if key in theirs]
    pairs = np.array([[ours[key] for key in keys], [theirs[key] for key in keys]])
    if len(keys) < MIN_ROWS or (pairs.min(axis=1) == pairs.max(axis=1)).any():
        return None
    drawn = pairs[:, np.random.RandomState(0).randint(len(keys), size=(resamples, len(keys)))]
    ranks = stats.rankdata(drawn, axis=-1)
    ranks -= ranks.mean(axis=-1, keepdims=True)
    norms = np.sqrt((ranks ** 2).sum(axis=-1).prod(axis=0))
    possible = norms > 0
    low, high = np.percentile((ranks[0] * ranks[1]).sum(axis=-1)[possible] / norms[possible], (2.5, 97.5))
    places = stats.rankdata(-pairs, axis=-1)
    return Agreement(float(stats.spearmanr(*pairs)[0]), float(low), float(high),
                     {key: (float(a), float(b)) for key, a, b in zip(keys, *places)})


def orders_table(boards: List[Board], selection: str) -> str:
    """Each board against each table of the paper, or against that of its own dataset, as Markdown; empty without any.

    Parameters
    ----------
    boards : list of Board
    selection : str
        Which epoch counts in ours.
    """
    papers: Dict[Tuple[str, str], Dict[str, float]] = {}
    for p in read_paper():
        if (p.figure, p.metric) == ('table', 'recall@1'):
            papers.setdefault((p.dataset, p.model), {})[p.algorithm] = p.value
    lines = []
    for board in boards:
        values = {key: group.interval(selection, 'recall@1') for key, group in board.chosen.items()}
        ours = {key: one.mean for key, one in values.items() if one}
        own = {place: table for place, table in papers.items() if place[0] == board.dataset} or papers
        for place, theirs in own.items():
            found = agreement(ours, theirs)
            if found:
                lines.append(f'| {board_title(board.dataset, board.model, board.comparison)} | {board_title(*place)} | '
                             f'{len(found.ranks)} | {found.rho:.2f} | {found.low:.2f} to {found.high:.2f} | '
                             f'{_disagreements(found)} |')
    if not lines:
        return ''
    return '\n'.join(['| Ours | The paper\'s | Rows | Correlation | 95% interval | Ranks that differ most |',
                      '|---|---|---:|---:|---|---|', *lines, '',
                      'Spearman\'s rank correlation of recall@1, ours at the last epoch. The interval is a bootstrap '
                      'over the rows. Rank 1 is the best, among the rows that both have.'])


def _disagreements(found: Agreement) -> str:
    apart = sorted(found.ranks.items(), key=lambda row: -abs(row[1][0] - row[1][1]))
    return '; '.join(f'{algorithm(key).name}: ours {ours:g}, the paper\'s {theirs:g}'
                     for key, (ours, theirs) in apart[:NAMED] if ours != theirs)
