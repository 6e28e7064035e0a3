"""What may be said of a difference between two algorithms, and which ones cannot be told apart.

Runs are paired by seed. P(A > B) is the share of seeds with which A is better; equal results count half. Its 95%
interval comes from a bootstrap over the seeds and, where the logs have results by class, over the test classes. A
difference is claimed where the interval lies above 0.5 and P above 0.75, after X. Bouthillier et al., "Accounting for
Variance in Machine Learning Benchmarks", arXiv:2103.03098. Rows that cannot be told apart share a letter.

Every draw comes from a generator with a fixed seed: the same logs give the same words.
"""
from __future__ import annotations

import functools
import math
import string
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from scipy import stats

from results.statistics import metric_title

if TYPE_CHECKING:
    from results.aggregate import Group

LEVEL = 0.05
CLAIMED = 0.75          # what P must be above
MIN_SEEDS = 3           # with fewer, nothing is said
RESAMPLES = 10000
SIMULATED = 200         # experiments, for the power; each is judged by its own SIMULATED_RESAMPLES
SIMULATED_RESAMPLES = 1000


class Comparison(NamedTuple):
    """Two groups; what depends on pairs is None where there are too few.

    `difference` is the mean of first minus second over the paired seeds; `p` is P(first > second) with its interval,
    `low` to `high`; `by_class` says whether test classes were resampled too; `claim` is 1 where the first is better, -1
    where the second is, 0 where neither can be said; `power` is how often the rule would claim the difference, were it
    as large as it looks.
    """

    first: Group
    second: Group
    difference: float
    seeds: int
    p: Optional[float] = None
    low: Optional[float] = None
    high: Optional[float] = None
    by_class: bool = False
    claim: Optional[int] = None
    power: Optional[float] = None

    @property
    def verdict(self) -> str:
        """In a few words, for a table."""
        return {None: 'cannot be compared', 0: 'cannot be told apart', 1: 'first is better',
                -1: 'second is better'}[self.claim]

    def words(self, metric: str) -> str:
        """In a sentence or two."""
        size = f'{abs(self.difference):.2f} points of {metric_title(metric)}'
        ahead = self.difference >= 0 if self.p in (None, 0.5) else self.p > 0.5
        better, worse = (self.first, self.second) if ahead else (self.second, self.first)
        if self.p is None:
            return f'{better.name} and {worse.name} cannot be compared: it takes {MIN_SEEDS} seeds that both have.'
        p, low, high = (self.p, self.low, self.high) if ahead else (1 - self.p, 1 - self.high, 1 - self.low)
        tested = (f'P({better.name} > {worse.name}) = {p:.2f}, 95% interval {low:.2f} to {high:.2f} over {self.seeds} '
                  f'seeds{" and the test classes" if self.by_class else ""}; power {100 * self.power:.0f}%')
        if (self.difference >= 0) != ahead and self.difference:
            size += ' the other way round'
        if self.claim:
            return f'{better.name} is better than {worse.name}, on average by {size}. {tested}.'
        return f'{better.name} and {worse.name} cannot be told apart: on average {size} lie between them. {tested}.'


def compare(groups: Sequence[Group], selection: str, metric: str) -> List[Comparison]:
    """All pairs of the `groups` that have the metric."""
    have = [g for g in groups if g.values(selection, metric)]
    values = [g.by_seed(selection, metric) for g in have]
    resampled = resample_classes([g.class_hits(selection) if metric == 'recall@1' else {} for g in have])
    return [_compare(have, values, resampled, i, j) for i in range(len(have)) for j in range(i + 1, len(have))]


def _compare(groups, values, resampled, i: int, j: int) -> Comparison:
    seeds = sorted(values[i].keys() & values[j].keys(), key=str)
    if len(seeds) < MIN_SEEDS:
        means = (np.mean(list(values[g].values())) for g in (i, j))
        return Comparison(groups[i], groups[j], float(next(means) - next(means)), len(seeds))
    differences = np.array([values[i][seed] - values[j][seed] for seed in seeds])
    by_class = all((g, seed) in resampled for g in (i, j) for seed in seeds) and len(
        {resampled[g, seed][0] for g in (i, j) for seed in seeds}) == 1
    drawn = differences[None]
    if by_class:
        drawn = np.stack([resampled[i, seed][1] - resampled[j, seed][1] for seed in seeds], axis=1)
    p, low, high = probability(differences, drawn)
    claim = int(claimed(p, low)) - int(claimed(1 - p, 1 - high))
    return Comparison(groups[i], groups[j], float(differences.mean()), len(seeds), p, low, high, by_class, claim,
                      power(differences, drawn))


def rule_in_words(comparisons: Sequence[Comparison]) -> str:
    """The rule, what it claims among these pairs, and its power; empty where no pair can be compared."""
    tested = [c for c in comparisons if c.p is not None]
    if not tested:
        return ''
    low, high = (f(c.seeds for c in tested) for f in (min, max))
    seeds = f'{low} seeds' if low == high else f'{low} to {high} seeds'
    by_class = sum(c.by_class for c in tested)
    over = (f'{seeds} and the test classes' if by_class == len(tested) else
            f'{seeds} alone, as the logs have no results by class' if not by_class else
            f'{seeds}, and over the test classes in the {by_class} pairs whose logs have results by class')
    weak = sum(c.power < 0.8 for c in tested)
    return (f'A is claimed to be better than B where P(A > B), over runs paired by seed, is above {CLAIMED} and its '
            f'95% interval above 0.5 (bootstrap over {over}). Claimed: {sum(bool(c.claim) for c in tested)} of '
            f'{len(tested)} differences. Power, if the true effects are the observed ones: median '
            f'{100 * np.median([c.power for c in tested]):.0f}%, below 80% for {weak} of {len(tested)} pairs. Where '
            f'there is no difference, the rule claims one in up to {100 * false_claims(low):.0f}% of pairs with '
            f'{low} seeds.')


def claimed(p: float, low: float) -> bool:
    """The rule: is a P of `p`, whose interval begins at `low`, enough to say that A is better than B?"""
    return low > 0.5 and p > CLAIMED


# ---------------------------------------------------------------------------------------------------------------------
# Resampling

@functools.lru_cache(maxsize=None)
def seed_weights(seeds: int, resamples: int = RESAMPLES) -> np.ndarray:
    """(resamples, seeds): how often each seed is drawn, with replacement."""
    return np.random.RandomState(0).multinomial(seeds, np.full(seeds, 1 / seeds), resamples)


def resample_classes(hits: Sequence[Dict[Any, Tuple[Sequence[int], Sequence[int]]]],
                     resamples: int = RESAMPLES) -> Dict[Tuple[int, Any], Tuple[Any, np.ndarray]]:
    """Recall@1 of every run on test classes drawn with replacement, the same for all runs.

    Parameters
    ----------
    hits : list of dict
        For each group: seed -> (images of each class, hits of each class). Runs without them are left out.

    Returns
    -------
    dict
        (group, seed) -> (the images of each class, recall@1 in percent (resamples,)). Runs whose images of each class
        differ were not tested on the same set.
    """
    alike: Dict[Tuple[int, ...], List[Tuple[int, Any, Sequence[int]]]] = {}
    for number, group in enumerate(hits):
        for seed, (images, own) in group.items():
            alike.setdefault(tuple(images), []).append((number, seed, own))
    found = {}
    for images, members in alike.items():
        counts = np.array([images] + [own for *_, own in members], np.float64).T     # whole numbers: sums are exact
        sums = np.empty((resamples, counts.shape[1]))
        random, classes = np.random.RandomState(1), len(images)
        step = max(1, (1 << 22) // classes)
        for start in range(0, resamples, step):
            rows = min(step, resamples - start)
            drawn = random.randint(classes, size=(rows, classes)) + classes * np.arange(rows)[:, None]
            weights = np.bincount(drawn.ravel(), minlength=rows * classes).reshape(rows, classes)
            sums[start:start + rows] = weights @ counts
        recalls = 100 * sums[:, 1:] / sums[:, :1]
        found.update({(number, seed): (images, recalls[:, k]) for k, (number, seed, _) in enumerate(members)})
    return found


def probability(differences: np.ndarray, drawn: np.ndarray) -> Tuple[float, float, float]:
    """P(A > B) and its 95% interval, by the percentiles of a bootstrap.

    Parameters
    ----------
    differences : (seeds,) float array
        A minus B.
    drawn : (resamples or 1, seeds) float array
        The same on other draws of the test classes; one row where classes are not resampled.
    """
    n = len(differences)
    wins = (np.sign(drawn) + 1) / 2
    p = np.sort((seed_weights(n) * wins).sum(axis=1) / n)
    below = math.ceil(LEVEL / 2 * RESAMPLES) - 1
    return float((np.sign(differences) + 1).mean() / 2), float(p[below]), float(p[-1 - below])


def power(differences: np.ndarray, drawn: np.ndarray) -> float:
    """How often the rule would claim the difference with so many seeds, if the true effect were the observed one.

    In the simulated experiments the seeds' differences are normal, with the observed mean and standard deviation. The
    test classes add what they added to the observed ones.

    Parameters
    ----------
    differences, drawn
        As for :func:`probability`.
    """
    n = len(differences)
    mean = abs(differences.mean())
    noise = (drawn[:SIMULATED_RESAMPLES] - differences) * (1 if differences.mean() >= 0 else -1)
    simulated = np.random.RandomState(2).normal(size=(SIMULATED, n)) * differences.std(ddof=1) + mean
    weights = seed_weights(n)[:SIMULATED_RESAMPLES]
    ahead = np.zeros((SIMULATED, SIMULATED_RESAMPLES))        # wins minus losses
    for seed in range(n):
        ahead += np.sign(simulated[:, seed, None] + noise[:, seed]) * weights[:, seed]
    certain = (ahead <= 0).sum(axis=1) < LEVEL / 2 * SIMULATED_RESAMPLES
    return float((certain & ((np.sign(simulated) + 1).mean(axis=1) / 2 > CLAIMED)).mean())


def false_claims(seeds: int) -> float:
    """How often the rule claims a difference where there is none, at most: where the test classes add nothing."""
    wins = np.arange(seeds + 1)
    # The bootstrap's number of wins is binomial; its lower bound is above one half if so few are half or less.
    claims = (wins > CLAIMED * seeds) & (stats.binom.cdf(seeds // 2, seeds, wins / seeds) < LEVEL / 2)
    return float(2 * stats.binom.pmf(wins, seeds, 0.5)[claims].sum())


# ---------------------------------------------------------------------------------------------------------------------
# Letters

def compact_letters(count: int, different: Iterable[Tuple[int, int]]) -> List[str]:
    """Letters of `count` rows: two rows share one exactly if they are not among the `different` pairs.

    By inserting and absorbing (H.-P. Piepho, "An Algorithm for a Letter-Based Representation of All-Pairwise
    Comparisons", Journal of Computational and Graphical Statistics 13, 2004): a letter that two different rows share is
    split in two, and a letter whose rows all share another one is dropped. The first row has the letter a.
    """
    shared = [frozenset(range(count))]
    for i, j in different:
        split = []
        for rows in shared:
            split += [rows - {j}, rows - {i}] if i in rows and j in rows else [rows]
        split = list(dict.fromkeys(split))
        shared = [rows for rows in split if not any(rows < other for other in split)]
    shared.sort(key=sorted)
    return [''.join(_letter(k) for k, rows in enumerate(shared) if row in rows) for row in range(count)]


def _letter(number: int) -> str:
    turn, place = divmod(number, len(string.ascii_lowercase))
    return string.ascii_lowercase[place] + (str(turn) if turn else '')


def group_letters(groups: Sequence[Group], selection: str, metric: str,
                  comparisons: Sequence[Comparison]) -> Dict[int, str]:
    """The letters of each group, by its ``id``, the best mean first; groups of too few seeds have none."""
    able = [g for g in groups if len(g.values(selection, metric)) >= MIN_SEEDS]
    able.sort(key=lambda g: -g.interval(selection, metric).mean)
    place = {id(g): i for i, g in enumerate(able)}
    different = [(place[id(c.first)], place[id(c.second)]) for c in comparisons if c.claim]
    return {id(g): letters for g, letters in zip(able, compact_letters(len(able), different))}
