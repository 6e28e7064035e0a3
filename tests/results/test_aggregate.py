"""Means, intervals and tests over seeds, by numbers worked out elsewhere."""
from __future__ import annotations

import math

import pytest

from results.algorithms import ALGORITHMS
from results.aggregate import boards, group_runs
from results.readlog import read_logs
from results.statistics import compare, holm, interval, welch
from tests.results import samples


def test_interval_is_students():
    # t(0.975, 2) = 4.302653; the sample standard deviation of 1, 2, 4 is sqrt(7/3)
    found = interval([1.0, 2.0, 4.0])
    assert found.mean == pytest.approx(7 / 3) and found.std == pytest.approx(math.sqrt(7 / 3)) and found.n == 3
    assert found.half == pytest.approx(4.302653 * math.sqrt(7 / 3) / math.sqrt(3), rel=1e-6)


def test_one_value_has_no_interval_and_none_has_nothing():
    assert interval([5.0]) == (5.0, None, None, 1) and interval([]) is None


def test_welch_by_hand():
    a, b = [27.5, 21.0, 19.0, 23.6, 17.0, 17.9], [27.1, 22.0, 20.8, 23.4, 23.4, 23.5, 25.8]
    mean = [sum(x) / len(x) for x in (a, b)]
    share = [sum((v - m) ** 2 for v in x) / (len(x) - 1) / len(x) for x, m in zip((a, b), mean)]
    t = (mean[0] - mean[1]) / math.sqrt(sum(share))
    df = sum(share) ** 2 / (share[0] ** 2 / 5 + share[1] ** 2 / 6)
    # two-sided tail of Student's t by numerical integration of its density
    constant = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    step, inner = abs(t) / 20000, 0.0
    for i in range(20000):
        inner += constant * (1 + ((i + 0.5) * step) ** 2 / df) ** (-(df + 1) / 2) * step
    assert welch(a, b) == pytest.approx(1 - 2 * inner, abs=1e-7)


def test_welch_needs_two_seeds_of_each_and_survives_no_spread():
    assert welch([1.0], [2.0, 3.0]) is None
    assert welch([1.0, 1.0], [1.0, 1.0]) == 1.0 and welch([1.0, 1.0], [2.0, 2.0]) == 0.0


def test_holm_by_hand():
    # sorted 0.005 0.01 0.03 0.04, times 4 3 2 1, never falling
    assert holm([0.01, 0.04, None, 0.03, 0.005]) == pytest.approx([0.03, 0.06, None, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def _groups(tmp_path, **recalls):
    for key, values in recalls.items():
        for seed, value in enumerate(values, 1):
            samples.log(tmp_path / f'{key}{seed}.jsonl', key, (value,), seed)
    return group_runs(read_logs([str(tmp_path)])[0])


def test_what_differs_is_said_in_words(tmp_path):
    groups = _groups(tmp_path, margin=(80.0, 80.2, 79.9), npairs=(60.0, 60.1, 60.3), angular=(79.0, 80.5, 81.5),
                     prototype=(50.0,))
    words = {(c.first.algorithm, c.second.algorithm): c.words for c in compare(groups, 'last', 'recall@1')}
    assert len(words) == 6
    assert words['npairs', 'margin'].startswith('Margin is better than N-pairs by 19.90 points of Recall@1 (Welch, p')
    assert 'not distinguishable' in words['margin', 'angular']
    assert 'Holm over 3 comparisons' in words['margin', 'angular']
    assert 'cannot be tested' in words['prototype', 'margin']


def test_a_seed_counts_once_however_often_it_ran(tmp_path):
    for name, recall, time in (('old', 10.0, '2026-01-01'), ('new', 30.0, '2026-01-03'), ('mid', 20.0, '2026-01-02')):
        samples.log(tmp_path / f'{name}.jsonl', 'margin', (recall,), 5, identity=name, time=time)
    samples.log(tmp_path / 'broken.jsonl', 'margin', (99.0,), 5, identity='broken', time='2026-02-01', end=False)
    samples.log(tmp_path / 'other.jsonl', 'margin', (40.0,), 6)
    [group] = group_runs(read_logs([str(tmp_path)])[0])
    assert group.values('last', 'recall@1') == [30.0, 40.0] and group.left_out == 2 and not group.open


def test_settings_make_groups_places_do_not(tmp_path):
    samples.log(tmp_path / 'a.jsonl', 'margin', (50.0,), 1, data_path='/a', gpus='0', num_workers=2)
    samples.log(tmp_path / 'b.jsonl', 'margin', (51.0,), 2, data_path='/b', gpus='1', num_workers=4)
    samples.log(tmp_path / 'c.jsonl', 'margin', (70.0,), 3, embed_dim=128)
    groups = group_runs(read_logs([str(tmp_path)])[0])
    assert sorted((g.values('last', 'recall@1'), g.settings['embed_dim']) for g in groups) == [([50.0, 51.0], 64),
                                                                                            ([70.0], 128)]
    [board] = boards(read_logs([str(tmp_path)])[0])
    assert board.chosen['margin'].settings['embed_dim'] == 64       # more seeds, although the other is better
    assert 'embed_dim=64' in board.notes[0] and board.chosen['margin'].name == 'Margin (embed_dim=64)'


def test_unfinished_runs_count_in_no_mean(tmp_path):
    samples.log(tmp_path / 'a.jsonl', 'margin', (50.0,), 1)
    samples.log(tmp_path / 'b.jsonl', 'margin', (10.0,), 2, end=False)
    [group] = group_runs(read_logs([str(tmp_path)])[0])
    assert group.interval('best-on-test', 'recall@1').mean == 50.0 and len(group.open) == 1


def test_references_are_the_untrained_net_and_raw_pixels(tmp_path):
    samples.comparison(tmp_path, seeds=(1, 2), epochs=2)
    [board] = boards(read_logs([str(tmp_path)])[0])
    assert board.references['untrained']['recall@1'] == (8.0, 0.0, 0.0, 2)
    assert board.references['raw-pixels']['recall@1'] == (11.0, None, None, 1)
    assert len(board.groups) == len(ALGORITHMS) and 'raw-pixels' not in board.chosen
