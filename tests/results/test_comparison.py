"""The rule for differences, against plain loops and numbers worked out by hand."""
from __future__ import annotations

import itertools
import math
import pathlib
import random

import numpy as np
import pytest

from results import comparison
from results.aggregate import group_runs
from results.comparison import (
    RESAMPLES,
    claimed,
    compact_letters,
    compare,
    false_claims,
    group_letters,
    power,
    probability,
    resample_classes,
    rule_in_words,
)
from results.readlog import read_logs
from tests.results import samples

IMAGES = [40, 30, 20, 10]


def _groups(folder, **recalls):
    """Groups of runs with seeds 1, 2, ...; a recall may be a list of hits by class."""
    for key, values in recalls.items():
        for seed, value in enumerate(values, 1):
            if value is None:
                continue
            hits = value if isinstance(value, list) else None
            recall = 100 * sum(hits) / sum(IMAGES) if hits else value
            samples.log(folder / f'{key}{seed}.jsonl', key, (recall,), seed, hits=hits, images=IMAGES)
    return group_runs(read_logs([str(folder)])[0])


def _one(folder, **more):
    [found] = compare(_groups(folder, **more), 'last', 'recall@1')
    return found


def _exact_bootstrap(wins):
    """The interval of the mean of `wins` over all draws with replacement, each as likely as the others."""
    means = sorted(sum(draw) / len(draw) for draw in itertools.product(wins, repeat=len(wins)))
    below = math.ceil(0.025 * len(means)) - 1
    return means[below], means[-1 - below]


# P(A > B) -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('differences', [(1, 2, 3), (1, 2, -3), (1, -2, -3), (1, 1, 1, 1, -1), (1, 0, -1, 2), (0, 0, 0),
                                         (5, 4, 3, -2, 1, 2), (-1, -1, -1, -1, 1, -1)])
def test_the_interval_is_that_of_all_draws_of_seeds(differences):
    wins = [1.0 if d > 0 else 0.5 if d == 0 else 0.0 for d in differences]
    d = np.array(differences, float)
    p, low, high = probability(d, d[None])
    assert p == sum(wins) / len(wins) and (low, high) == _exact_bootstrap(wins)


def test_an_interval_by_hand():
    """Two wins of three: of the 27 draws one has no win (3.7%, more than 2.5%), and eight have three."""
    d = np.array([1.0, 1.0, -1.0])
    assert probability(d, d[None]) == (2 / 3, 0.0, 1.0)
    # five wins of six: 6^6 = 46,656 draws; one loss has the chance 1/6: P(X <= 2) = 0.0087, P(X <= 3) = 0.0623
    d = np.array([1.0] * 5 + [-1.0])
    assert probability(d, d[None]) == (5 / 6, 0.5, 1.0)


def test_classes_are_drawn_with_replacement_and_the_same_for_all_runs():
    images, a, b = [4, 2, 6], [4, 0, 3], [1, 2, 3]
    found = resample_classes([{1: (images, a)}, {1: (images, b)}, {}])
    assert set(found) == {(0, 1), (1, 1)}
    (_, x), (_, y) = found[0, 1], found[1, 1]
    possible = {}
    for draw in itertools.product(range(3), repeat=3):
        total = sum(images[c] for c in draw)
        pair = tuple(round(100 * sum(hits[c] for c in draw) / total, 9) for hits in (a, b))
        possible[pair] = possible.get(pair, 0) + 1 / 27
    seen = {}
    for pair in zip(np.round(x, 9), np.round(y, 9)):
        seen[pair] = seen.get(pair, 0) + 1 / RESAMPLES
    assert seen.keys() == possible.keys()
    for pair, share in possible.items():            # five standard errors
        assert seen[pair] == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / RESAMPLES))


def test_the_interval_over_seeds_and_classes_against_loops(tmp_path):
    a, b = [[30, 20, 10, 5], [31, 18, 11, 4], [28, 20, 8, 6]], [[26, 21, 10, 5], [31, 19, 9, 4], [24, 22, 9, 5]]
    found = _one(tmp_path, margin=b, angular=a)
    assert found.by_class and found.seeds == 3 and found.second.algorithm == 'angular'
    chance, drawn = random.Random(0), []
    for _ in range(20000):
        classes = [chance.randrange(4) for _ in IMAGES]
        wins = 0.0
        for _ in range(3):
            seed = chance.randrange(3)
            x, y = (sum(hits[seed][c] for c in classes) for hits in (b, a))
            wins += 1.0 if x > y else 0.5 if x == y else 0.0
        drawn.append(wins / 3)
    # the interval's ends are quantiles: the share of draws below them is known to five standard errors
    for end, share in ((found.low, 0.025), (found.high, 0.975)):
        assert sum(d < end - 1e-9 for d in drawn) / 20000 <= share + 0.006
        assert sum(d <= end + 1e-9 for d in drawn) / 20000 >= share - 0.006


def test_classes_make_a_small_difference_uncertain_that_every_seed_shows(tmp_path):
    # A wins with every seed, but by one class alone
    a, b = [[40, 10, 10, 5]] * 4, [[30, 11, 11, 6]] * 4
    by_class = _one(tmp_path / 'a', margin=a, angular=b)
    alone = _one(tmp_path / 'b', margin=[65.0] * 4, angular=[58.0] * 4)
    assert abs(by_class.p - 0.5) == abs(alone.p - 0.5) == 0.5
    assert by_class.claim == 0 and alone.claim and not alone.by_class and by_class.power < alone.power == 1.0


@pytest.mark.parametrize('spoil', ['missing', 'other-images', 'no-sum', 'more-hits-than-images', 'text'])
def test_without_results_by_class_for_all_pairs_the_seeds_alone_count(tmp_path, spoil):
    a, b = [[40, 10, 10, 5]] * 4, [[30, 11, 11, 6]] * 4
    _groups(tmp_path, margin=a, angular=b)
    if spoil == 'missing':
        samples.log(tmp_path / 'margin2.jsonl', 'margin', (65.0,), 2)
    elif spoil == 'other-images':
        samples.log(tmp_path / 'margin2.jsonl', 'margin', (65.0,), 2, hits=a[0], images=IMAGES[:2] + IMAGES[:1:-1])
    elif spoil == 'no-sum':
        samples.log(tmp_path / 'margin2.jsonl', 'margin', (66.0,), 2, hits=a[0], images=IMAGES)
    elif spoil == 'more-hits-than-images':
        samples.log(tmp_path / 'margin2.jsonl', 'margin', (65.0,), 2, hits=[41, 9, 10, 5], images=IMAGES)
    else:
        samples.log(tmp_path / 'margin2.jsonl', 'margin', (65.0,), 2, hits=['x', 10, 10, 5], images=IMAGES)
    [found] = compare(group_runs(read_logs([str(tmp_path)])[0]), 'last', 'recall@1')
    assert not found.by_class and found.claim and found.seeds == 4
    assert 'over 4 seeds alone, as the logs have no results by class' in rule_in_words([found])


# The rule -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('p, low, enough', [(0.76, 0.51, True), (0.75, 0.51, False), (0.76, 0.5, False),
                                            (1.0, 1.0, True), (0.8, 0.4, False)])
def test_the_rule_at_its_borders(p, low, enough):
    assert claimed(p, low) is enough


@pytest.mark.parametrize('wins, losses, claim', [(3, 0, True), (4, 0, True), (3, 1, False), (4, 1, False), (5, 0, True),
                                                 (5, 1, False), (6, 1, True), (8, 2, False), (9, 1, True)])
def test_the_rule_from_wins_and_losses(tmp_path, wins, losses, claim):
    """(3, 1) has P = 0.75 exactly; (5, 1) has an interval that begins at 0.5; (4, 1) and (8, 2) at less."""
    n = wins + losses
    other = [50.0 + (1 if k < wins else -1) for k in range(n)]
    found = _one(tmp_path / 'a', margin=[50.0] * n, angular=other)
    assert (found.first.algorithm, found.claim) == ('margin', -1 if claim else 0)
    back = _one(tmp_path / 'b', margin=other, angular=[50.0] * n)       # the same, seen from the other side
    assert back.claim == -found.claim and back.difference == -found.difference
    assert (back.p, back.low, back.high) == pytest.approx((1 - found.p, 1 - found.high, 1 - found.low))


def test_runs_are_paired_by_seed(tmp_path):
    """Seeds that one of the two lacks do not count; the others are compared with their own."""
    found = _one(tmp_path, margin=(99.0, 60.0, 70.0, 80.0, 40.0), angular=(None, 61.0, 71.0, 81.0, 41.0))
    assert found.seeds == 4 and found.p == 0.0 and found.claim == -1 and found.difference == -1.0
    assert found.verdict == 'second is better'


def test_what_differs_is_said_in_words(tmp_path):
    groups = _groups(tmp_path, margin=(80.0, 80.2, 79.9), npairs=(60.0, 60.1, 60.3), angular=(79.0, 80.5, 79.5),
                     prototype=(50.0, 51.0))
    found = compare(groups, 'last', 'recall@1')
    words = {(c.first.algorithm, c.second.algorithm): c.words('recall@1') for c in found}
    assert len(words) == 6
    assert words['npairs', 'margin'] == (
        'Margin is better than N-pairs, on average by 19.90 points of Recall@1. P(Margin > N-pairs) = 1.00, 95% '
        'interval 1.00 to 1.00 over 3 seeds; power 100%.')
    assert words['margin', 'angular'].startswith('Margin and Angular cannot be told apart: on average 0.37 points of')
    assert words['prototype', 'margin'] == ('Margin and Prototype cannot be compared: it takes 3 seeds that both have.')
    assert {c.verdict for c in found} == {'cannot be compared', 'cannot be told apart', 'second is better'}
    letters = group_letters(groups, 'last', 'recall@1', found)
    assert {g.algorithm: letters.get(id(g)) for g in groups} == {'margin': 'a', 'angular': 'a', 'npairs': 'b',
                                                                 'prototype': None}
    rule = rule_in_words(found)
    assert 'Claimed: 2 of 3 differences' in rule and 'up to 25% of pairs with 3 seeds' in rule
    assert rule_in_words([c for c in found if c.p is None]) == ''


def test_the_winner_of_most_seeds_may_have_the_lower_mean(tmp_path):
    found = _one(tmp_path, margin=[50.0] * 10, angular=[51.0] * 9 + [10.0])
    assert found.claim == -1 and found.difference > 0
    assert found.words('recall@1').startswith('Angular is better than Margin, on average by 3.10 points of Recall@1 '
                                              'the other way round. P(Angular > Margin) = 0.90')


def test_the_same_logs_give_the_same_words(tmp_path):
    groups = _groups(tmp_path, margin=[[30, 20, 10, 5]] * 3, angular=[[28, 21, 10, 5]] * 3, npairs=(60.0, 63.0, 66.0))
    assert compare(groups, 'last', 'recall@1') == compare(groups, 'last', 'recall@1')


# Power ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('differences', [(1.0, 2.0, 3.0), (3.0, -1.0, 1.0), (-4.0, 1.0, -2.0, -1.0, 0.5),
                                         (0.5, 0.1, -0.3, 0.2, 0.4, -0.1, 0.3)])
def test_power_is_the_chance_of_enough_wins(differences, monkeypatch):
    """Of normal differences with the observed mean and deviation; what is claimed depends on the number of wins."""
    monkeypatch.setattr(comparison, 'SIMULATED', 4000)
    n, mean, deviation = len(differences), abs(np.mean(differences)), np.std(differences, ddof=1)
    chance = 0.5 * (1 + math.erf(mean / deviation / math.sqrt(2)))
    expected = 0.0
    for wins in range(n + 1):
        low, _ = _exact_bootstrap([1.0] * wins + [0.0] * (n - wins)) if n < 7 else (0.51 if wins > 5 else 0.5, 1)
        if wins / n > 0.75 and low > 0.5:
            expected += math.comb(n, wins) * chance ** wins * (1 - chance) ** (n - wins)
    d = np.array(differences)
    error = math.sqrt(expected * (1 - expected) / comparison.SIMULATED)
    assert power(d, d[None]) == pytest.approx(expected, abs=4 * error + 1e-9)
    assert power(-d, -d[None]) == power(d, d[None])


def test_power_without_spread_is_all_or_nothing():
    for value, expected in ((1.0, 1.0), (0.0, 0.0)):
        d = np.full(4, value)
        assert power(d, d[None]) == expected


def test_false_claims_by_counting_all_outcomes():
    for n in range(1, 7):
        count = 0
        for outcome in itertools.product((0.0, 1.0), repeat=n):
            low, high = _exact_bootstrap(outcome)
            share = sum(outcome) / n
            count += claimed(share, low) or claimed(1 - share, 1 - high)
        assert false_claims(n) == pytest.approx(count / 2 ** n)
    assert false_claims(3) == 0.25 and false_claims(5) == 0.0625
    # what the protocol says
    text = (pathlib.Path(__file__).resolve().parents[2] / 'docs' / 'protocol.md').read_text(encoding='utf-8')
    heads, _, row = text[text.index('| Seeds | 3 |'):].split('\n')[:3]
    for seeds, share in zip(heads.split(' | ')[1:], row.rstrip(' |').split(' | ')[1:]):
        assert f'{100 * false_claims(int(seeds.strip(" |"))):.0f} %' == share


# Letters --------------------------------------------------------------------------------------------------------------

def _letters_by_brute_force(count, different):
    """Every largest set of rows of which no two differ, the set with the first row first."""
    fitting = [rows for size in range(1, count + 1) for rows in itertools.combinations(range(count), size)
               if not any(pair in different for pair in itertools.combinations(rows, 2))]
    return sorted(rows for rows in fitting if not any(set(rows) < set(other) for other in fitting))


@pytest.mark.parametrize('seed', range(60))
def test_letters_say_exactly_which_rows_differ(seed):
    chance = random.Random(seed)
    count = chance.randrange(1, 9)
    pairs = list(itertools.combinations(range(count), 2))
    different = {pair for pair in pairs if chance.random() < seed % 5 / 4}
    order = sorted(different, key=lambda _: chance.random())
    letters = compact_letters(count, [pair if chance.random() < 0.5 else pair[::-1] for pair in order])
    for i, j in pairs:
        assert bool(set(letters[i]) & set(letters[j])) == ((i, j) not in different)
    sets = _letters_by_brute_force(count, different)
    found = [tuple(i for i in range(count) if chr(97 + k) in letters[i]) for k in range(len(set(''.join(letters))))]
    assert found == [rows for rows in sets if rows in found]            # largest sets only, in their order


def test_letters_by_hand():
    assert compact_letters(3, []) == ['a', 'a', 'a'] and compact_letters(0, []) == []
    assert compact_letters(3, [(0, 2)]) == ['a', 'ab', 'b']
    assert compact_letters(4, [(0, 2), (0, 3), (1, 3)]) == ['a', 'ab', 'bc', 'c']
    assert compact_letters(30, itertools.combinations(range(30), 2))[24:28] == ['y', 'z', 'a1', 'b1']
