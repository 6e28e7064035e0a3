"""Means and intervals over seeds, by numbers worked out elsewhere."""
from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from results.algorithms import ALGORITHMS
from results.aggregate import boards, group_runs
from results.readlog import read_logs
from results.statistics import interquartile_mean, interval
from tests.results import samples


def test_interval_is_students():
    # t(0.975, 2) = 4.302653; the sample standard deviation of 1, 2, 4 is sqrt(7/3)
    found = interval([1.0, 2.0, 4.0])
    assert found.mean == pytest.approx(7 / 3) and found.std == pytest.approx(math.sqrt(7 / 3)) and found.n == 3
    assert found.half == pytest.approx(4.302653 * math.sqrt(7 / 3) / math.sqrt(3), rel=1e-6)


def test_one_value_has_no_interval_and_none_has_nothing():
    assert interval([5.0]) == (5.0, None, None, 1) and interval([]) is None


def test_interquartile_mean_by_hand():
    # the middle four of eight are 3, 4, 10 and 20; of five values one at each end is left out
    assert interquartile_mean([[1, 40, 3, 20], [10, 4, 30, 2]]).value == 9.25
    assert interquartile_mean([[0.0, 10.0, 11.0, 12.0, 1000.0]]).value == pytest.approx(11.0)


def test_the_interval_of_the_interquartile_mean_resamples_each_benchmark_alone():
    strata = [[1.0, 3.0, 8.0, 20.0], [50.0, 54.0, 55.0, 80.0]]
    # every draw of four seeds from each, as likely as the others; of eight values the middle four count
    means = np.array([sum(sorted(a + b)[2:-2]) / 4 for a in itertools.product(strata[0], repeat=4)
                      for b in itertools.product(strata[1], repeat=4)])
    found = interquartile_mean(strata)
    for end, share in ((found.low, 0.025), (found.high, 0.975)):    # five standard errors of 2,000 draws are 0.017
        assert (means < end - 1e-9).mean() <= share + 0.017 and (means <= end + 1e-9).mean() >= share - 0.017
    assert found == interquartile_mean(strata)                      # no chance is left
    assert interquartile_mean([[5.0, 5.0], [7.0, 7.0]]) == (6.0, 6.0, 6.0)


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
