"""What the logs of several benchmarks say together: interquartile means and performance profiles.

After R. Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", arXiv:2108.13264. A
benchmark is a dataset with a network; its runs are the seeds.
"""
from __future__ import annotations

from typing import Dict, List, NamedTuple, Sequence, Set, Tuple

import numpy as np

from results.aggregate import Board
from results.algorithms import position


class Together(NamedTuple):
    """Several benchmarks, and the algorithms that all of them have; empty where there are fewer than two."""

    boards: List[Board]
    algorithms: List[str]

    def scores(self, algorithm: str, selection: str) -> List[List[float]]:
        """Recall@1 of the runs of each benchmark."""
        return [board.chosen[algorithm].values(selection, 'recall@1') for board in self.boards]


def together(boards: Sequence[Board]) -> Together:
    """The benchmarks that can be put together.

    A board with less than half of the algorithms of the largest one is left out. Of several boards of the same dataset
    and network the one with the most runs stays, of these the last.
    """
    scored = [{k for k, g in board.chosen.items() if g.values('last', 'recall@1')} for board in boards]
    most = max(map(len, scored), default=0)
    kept: Dict[Tuple[str, str], Tuple[int, Board, Set[str]]] = {}
    for board, keys in zip(boards, scored):
        runs, place = sum(len(board.chosen[key].runs) for key in keys), (board.dataset, board.model)
        if runs and 2 * len(keys) >= most and (place not in kept or runs >= kept[place][0]):
            kept[place] = runs, board, keys
    if len(kept) < 2:
        return Together([], [])
    common = set.intersection(*(keys for *_, keys in kept.values()))
    return Together([board for _, board, _ in kept.values()], sorted(common, key=position))


def profile(scores: Sequence[Sequence[float]], thresholds: Sequence[float]) -> np.ndarray:
    """Share of all runs with a score above each threshold."""
    return (np.concatenate(scores)[:, None] > np.asarray(thresholds)).mean(axis=0)
