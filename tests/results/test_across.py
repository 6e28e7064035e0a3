"""Several benchmarks together."""
from __future__ import annotations

import pytest

from results import plots, report, tables
from results.across import profile, together
from results.aggregate import boards
from results.algorithms import ALGORITHMS
from results.figures.profile import draw_profiles
from results.figures.style import styled
from results.readlog import read_logs
from tests.results import samples


def _boards(folder):
    return boards(read_logs([str(folder)])[0])


def _log(folder, dataset, **recalls):
    for key, values in recalls.items():
        for seed, value in enumerate(values, 1):
            samples.log(folder / f'{dataset}{key}{seed}.jsonl', key, (value + 1, value), seed, dataset=dataset,
                        identity=f'{dataset}{key}{seed}')


def test_benchmarks_with_the_same_algorithms_are_put_together(tmp_path):
    _log(tmp_path, 'CUB', margin=(50.0, 52.0), npairs=(40.0, 44.0), angular=(30.0, 31.0))
    _log(tmp_path, 'SOP', margin=(70.0, 72.0, 74.0), npairs=(60.0, 61.0))      # angular was not run
    _log(tmp_path, 'GLYPHS', margin=(90.0,))                                    # less than half of the algorithms
    found = together(_boards(tmp_path))
    assert sorted(b.dataset for b in found.boards) == ['CUB', 'SOP'] and found.algorithms == ['npairs', 'margin']
    assert sorted(found.scores('margin', 'last')) == [[50.0, 52.0], [70.0, 72.0, 74.0]]
    title, heads, rows, note = tables.across(found)
    # 50 52 70 72 74: the middle three
    assert title == '2 benchmarks together' and rows[1][:2] == ['Margin', '64.7'] and rows[1][3:] == ['+1.0', '5']
    assert '2 to 3 seeds each' in note and 'Training images seen: 8,000 each' in note and 'last epoch' in note
    assert '| Margin | 64.7 |' in tables._across_table(_boards(tmp_path))


def test_one_benchmark_is_not_several(tmp_path):
    _log(tmp_path, 'CUB', margin=(50.0, 52.0))
    assert together(_boards(tmp_path)) == together([]) == ([], [])
    assert draw_profiles(together([])) is None and tables._across_table(_boards(tmp_path)) == ''


def test_of_two_boards_of_the_same_benchmark_the_one_with_more_runs_counts(tmp_path):
    _log(tmp_path / 'a', 'CUB', margin=(50.0, 52.0))
    _log(tmp_path / 'b', 'CUB', margin=(60.0, 62.0))
    _log(tmp_path / 'c', 'CUB', margin=(70.0,))
    _log(tmp_path / 'd', 'SOP', margin=(80.0,))
    found = together([board for name in 'abcd' for board in _boards(tmp_path / name)])
    assert found.scores('margin', 'last') == [[60.0, 62.0], [80.0]]


def test_a_profile_by_hand():
    assert profile([[10.0, 20.0], [20.0, 40.0]], [5, 10, 15, 20, 39.9, 40]).tolist() == [1, 0.75, 0.75, 0.25, 0.25, 0]


@pytest.fixture(scope='module')
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('logs')
    samples.comparison(folder / 'glyphs')
    samples.comparison(folder / 'cub-inception', seeds=(1, 2), epochs=3, dataset='CUB', model='inception-bn')
    return folder


def test_profiles_are_drawn_as_steps(logs):
    figure = styled(lambda: draw_profiles(together(_boards(logs))))
    assert len(figure.axes[0].lines) == len(ALGORITHMS)
    for line in figure.axes[0].lines:
        assert line.get_drawstyle() == 'steps-post' and line.get_ydata()[0] == 100 and line.get_ydata()[-1] == 0
        assert (line.get_ydata()[1:] <= line.get_ydata()[:-1]).all() and len(line.get_xdata()) == 3 + 2 + 2


def test_the_command_draws_profiles_of_two_benchmarks_or_more(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, 'figures', lambda *_: {})
    _log(tmp_path, 'CUB', margin=(50.0, 52.0))
    assert plots.main([str(tmp_path), '--out', str(tmp_path / 'one')]) == 1
    _log(tmp_path, 'SOP', margin=(60.0, 62.0))
    assert plots.main([str(tmp_path), '--out', str(tmp_path / 'two')]) == 0
    assert sorted(path.name for path in (tmp_path / 'two').iterdir()) == ['profiles.png', 'profiles.svg']


def test_the_report_and_the_pages_have_the_table(logs, monkeypatch):
    monkeypatch.setattr(report, 'figures', lambda board: {})
    page = report.page(*read_logs([str(logs)]))
    assert '<h2>2 benchmarks together</h2>' in page and 'The share of runs above each recall@1' in page
    (logs / 'logs').mkdir()
    for name in 'glyphs', 'cub-inception':
        (logs / name).rename(logs / 'logs' / name)
    assert '**2 benchmarks together**' in tables.all_tables(str(logs))['results']
