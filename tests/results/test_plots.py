"""Figures from logs and from the published numbers."""
from __future__ import annotations

import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex

from results import plots
from results.algorithms import ALGORITHMS, algorithm
from results.aggregate import boards
from results.figures.curves import curve
from results.figures.paper import paper_figures, read_paper
from results.figures.selection import draw_selection
from results.figures.style import render, styled
from results.figures.sweep import sweeps
from results.figures.time import draw_time, time_to
from results.readlog import read_log, read_logs
from tests.results import samples


@pytest.fixture(scope='module')
def board(tmp_path_factory):
    folder = samples.comparison(tmp_path_factory.mktemp('logs'), leave_out=('dreml',))
    return boards(read_logs([folder])[0])[0]


def _texts(figure):
    figure.canvas.draw()
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()]


def _overlaps(figure):
    """Pairs of texts that lie on each other, and texts that stick out of the picture."""
    figure.canvas.draw()
    beyond = set()          # labels of ticks outside the axes exist, but are not drawn
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        beyond |= {tick.label1 for tick in axis.get_major_ticks() if not low - 1e-9 <= tick.get_loc() <= high + 1e-9}
    boxes = [(t.get_text(), t.get_window_extent()) for t in figure.findobj(matplotlib.text.Text)
             if t.get_text().strip() and t.get_visible() and t not in beyond]
    width, height = figure.canvas.get_width_height()
    out = [name for name, b in boxes if b.x0 < -1 or b.y0 < -1 or b.x1 > width + 1 or b.y1 > height + 1]
    pairs = [(a, b) for i, (a, x) in enumerate(boxes) for b, y in boxes[i + 1:]
             if min(x.x1, y.x1) - max(x.x0, y.x0) > 1 and min(x.y1, y.y1) - max(x.y0, y.y0) > 1]
    return out, pairs


def _assert_readable(drawn):
    for name, figure in drawn.items():
        assert figure.get_size_inches()[0] == 3.3 and figure.get_size_inches()[1] < 5
        sizes = [t.get_fontsize() for t in figure.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()]
        assert min(sizes) >= 5.5, name
        out, pairs = _overlaps(figure)
        assert not out and not pairs, (name, out, pairs)


def test_every_figure_is_a_column_wide_and_its_texts_are_readable(board):
    drawn = styled(lambda: plots.figures(board))
    assert sorted(drawn) == ['bars', 'curves', 'selection', 'time']
    styled(lambda: _assert_readable(drawn))


def test_bars_name_all_algorithms_in_their_order_with_value_interval_and_gap(board):
    figure = styled(lambda: plots.figures(board))['bars']
    texts = _texts(figure)
    names = [a.name for a in ALGORITHMS]
    assert [t for t in texts if t in names] == names and texts.count('not run') == 2     # recall@1 and NMI of DREML
    recall, nmi = figure.axes
    group = board.chosen['margin']
    one = group.interval('last', 'recall@1')
    assert f'{one.mean:.1f}' in texts
    widths = {round(p.get_width(), 6) for p in recall.patches}
    assert round(one.mean, 6) in widths and len(recall.patches) == len(nmi.patches) == len(ALGORITHMS) - 1
    whiskers = [np.array(c.get_segments()[0]) for c in recall.collections]
    assert any(np.allclose(w[:, 0], [one.mean - one.half, one.mean + one.half]) for w in whiskers)


def test_the_published_value_is_a_diamond_and_ours_a_bar(tmp_path):
    for seed in (1, 2, 3):
        samples.log(tmp_path / f'{seed}.jsonl', 'margin', (50.0 + seed,), seed, dataset='CUB', model='inception-bn')
    [board] = boards(read_logs([str(tmp_path)])[0])
    figure = styled(lambda: plots.figures(board))['bars']
    diamonds = [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == 'D']
    published = {p.algorithm: p.value for p in read_paper()
                 if (p.figure, p.dataset, p.model, p.metric) == ('table', 'CUB', 'inception-bn', 'recall@1')}
    assert diamonds == [published[a.key] for a in ALGORITHMS if a.key in published]
    assert 51.28 in diamonds and len(diamonds) == len(published) and len(figure.axes[0].patches) == 1


def test_an_algorithm_has_its_colour_in_every_figure(board):
    drawn = styled(lambda: plots.figures(board))
    for key in ('margin', 'proxy-nca'):
        colour = algorithm(key).colour.lower()
        bars = {to_hex(p.get_facecolor()) for p in drawn['bars'].axes[0].patches}
        assert colour in bars
        row = [a.key for a in ALGORITHMS].index(key)
        panel = drawn['curves'].axes[row]
        assert panel.get_title() == algorithm(key).name and to_hex(panel.lines[-1].get_color()) == colour
        for name in ('selection', 'time'):
            own = [line for line in drawn[name].axes[0].lines if np.ravel(line.get_ydata())[0] == row]
            assert {to_hex(line.get_color()) for line in own} <= {colour} and (own or name.startswith('time'))


def test_a_curve_is_the_mean_over_seeds_with_its_interval(tmp_path):
    for seed, recalls in ((1, (10.0, 20.0)), (2, (20.0, 40.0)), (3, (30.0, 90.0))):
        samples.log(tmp_path / f'{seed}.jsonl', 'margin', recalls, seed)
    runs = [r for e in read_logs([str(tmp_path)])[0] for r in e.runs.values()]
    found = curve(runs, 'images')
    assert found.x.tolist() == [0.0, 4.0, 8.0] and found.mean.tolist() == [8.0, 20.0, 50.0]
    assert found.half == pytest.approx([0.0, 4.302653 * 10 / 3 ** 0.5, 4.302653 * 36.0555 / 3 ** 0.5], rel=1e-5)
    assert curve(runs, 'epochs').x.tolist() == [0.0, 1.0, 2.0]


def test_time_to_a_recall(tmp_path):
    [experiment] = read_log(samples.log(tmp_path / 'a.jsonl', recalls=(10.0, 30.0, 50.0, 40.0), seconds=2.5))
    run = experiment.runs[1]
    assert time_to(run, 30.0, 'seconds') == 5.0 and time_to(run, 31.0, 'seconds') == 7.5
    assert time_to(run, 50.1, 'seconds') is None and time_to(run, 50.0, 'epochs') == 3.0


def test_the_time_figure_falls_back_to_epochs_and_says_who_never_got_there(tmp_path):
    path = tmp_path / 'train_margin.log'
    path.write_text(samples.text_log([[40.0, 52.0, 45.0]]))
    other = tmp_path / 'train_npairs.log'
    other.write_text(samples.text_log([[20.0, 22.0, 23.0]]))
    [board] = boards(read_logs([str(tmp_path)])[0])
    texts = _texts(styled(lambda: draw_time(board, 50.0)))
    assert 'epochs to recall@1 = 50%' in texts and 'never (best 23.0)' in texts and '2' in texts


def test_selection_shows_how_much_the_choice_flatters(tmp_path):
    for seed in (1, 2):
        samples.log(tmp_path / f'{seed}.jsonl', 'margin', (50.0, 60.0 + seed, 52.5), seed)
    [board] = boards(read_logs([str(tmp_path)])[0])
    assert '+9.0' in _texts(styled(lambda: draw_selection(board)))


def test_sizes_make_lines_with_published_ones_behind_and_gaps_named(tmp_path):
    for size in (64, 128, 256):
        for seed in (1, 2):
            samples.log(tmp_path / f'm{size}-{seed}.jsonl', 'margin', (50.0 + size / 64 + seed,), seed, embed_dim=size,
                        dataset='CUB', model='inception-bn')
    # one size makes no line
    samples.log(tmp_path / 'n.jsonl', 'npairs', (50.0,), 1, dataset='CUB', model='inception-bn')
    [board] = boards(read_logs([str(tmp_path)])[0])
    assert list(sweeps(board, 'embed_dim')) == ['margin'] and not sweeps(board, 'batch_size')
    drawn = styled(lambda: plots.figures(board))
    assert 'batch-size' not in drawn
    figure = drawn['embedding-size']
    styled(lambda: _assert_readable(drawn))
    ours = [line for line in figure.axes[0].lines if line.get_marker() == algorithm('margin').marker]
    assert ours[0].get_xdata().tolist() == [64, 128, 256] and ours[0].get_ydata().tolist() == [52.5, 53.5, 55.5]
    legend = [t.get_text() for t in figure.legends[0].get_texts()]
    assert legend[0] == 'Triplet semi-hard: not run' and 'Margin' in legend and 'N-pairs: not run' in legend
    assert any(line.get_ydata().tolist()[:2] == [50.5, 55.2] for line in figure.axes[0].lines if line is not ours[0]
               if not isinstance(line.get_ydata(), tuple) and len(line.get_ydata()) == 6)


def test_published_figures_from_the_table(tmp_path):
    drawn = styled(paper_figures)
    assert sorted(drawn) == ['CARS196_inception', 'CUB_inception', 'CUB_resnet50', 'SOP_inception', 'batch_size',
                             'embedding_size']
    styled(lambda: _assert_readable(drawn))
    assert _texts(drawn['SOP_inception']).count('not published') == 8       # 4 algorithms, two panels
    paper = read_paper()
    table = {(p.dataset, p.model, p.algorithm, p.metric): p.value for p in paper if p.figure == 'table'}
    assert table['CARS196', 'inception-bn', 'normproxy', 'recall@1'] == 81.70
    assert table['SOP', 'inception-bn', 'dreml', 'nmi'] == 65.76 and len(table) == 2 * (13 + 11 + 12 + 9)
    assert all(p.source for p in paper) and {p.algorithm for p in paper} <= {a.key for a in ALGORITHMS}


def test_files_are_png_and_svg_and_the_same_bytes_every_time(tmp_path, capsys, board):
    folder = samples.comparison(tmp_path / 'logs', seeds=(1,), epochs=2)
    assert plots.main([folder, '--out', str(tmp_path / 'out'), '--dpi', '60']) == 0
    names = sorted(os.listdir(tmp_path / 'out'))
    assert len(names) == 8 and len(capsys.readouterr().out.split()) == 8
    for name in names:
        assert (tmp_path / 'out' / name).read_bytes().startswith(b'\x89PNG' if name.endswith('png') else b'<?xml')
    for kind in ('png', 'svg'):
        twice = [styled(lambda k=kind: render(draw_selection(board), k, 60)) for _ in range(2)]
        assert twice[0] == twice[1]


def test_nothing_to_draw_is_one_line_and_status_1(tmp_path):
    (tmp_path / 'a.log').write_bytes(b'\x00nothing')
    run = subprocess.run([sys.executable, '-m', 'results.plots', str(tmp_path / 'a.log'), '--out', str(tmp_path)],
                         capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.count('\n') == 1 and 'no run log' in run.stderr and not run.stdout


def test_a_folder_that_cannot_be_written_is_one_line_and_leaves_the_old_picture(tmp_path, capsys, monkeypatch):
    folder = samples.comparison(tmp_path / 'logs', seeds=(1,), epochs=2)
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'bars_glyphs_convnet.png').write_bytes(b'old')

    def full(_):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(plots.os, 'fsync', full)
    assert plots.main([folder, '--out', str(out)]) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and 'No space left' in error and 'bars_glyphs_convnet.png' in error
    assert os.listdir(out) == ['bars_glyphs_convnet.png'] and (out / 'bars_glyphs_convnet.png').read_bytes() == b'old'


# Several comparisons --------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def several(tmp_path_factory):
    """Published and tuned settings, a sweep, photographs in a folder, and logs of no comparison."""
    root = tmp_path_factory.mktemp('several') / 'logs'
    for name, shift in (('glyphs', 0.0), ('glyphs-tuned', 10.0)):
        for key in ('margin', 'npairs'):
            for seed in (1, 2):
                samples.log(root / name / f'{key}{seed}.jsonl', key, (50.0 + shift, 60.0 + shift + seed, 55.0 + shift),
                            seed)
    pixels = samples.config('raw-pixels', identity='raw', model='none')
    samples.write(root / 'glyphs' / 'raw_pixels.jsonl', [
        pixels, {'event': 'epoch', 'id': 'raw', 'run': 1, 'epoch': 0, **samples.metrics(21.0)}])
    for size in (8, 16):
        samples.log(root / 'glyphs-batch-size-tuned' / f'{size}.jsonl', 'margin', (50.0, 50.0 + size),
                    identity=str(size), batch_size=size)
    samples.log(root / 'cars196-half' / 'a.jsonl', 'margin', (30.0, 40.0), dataset='FOLDER', model='efficientnet-lite0')
    samples.log(root / 'mine.jsonl', 'margin', (70.0, 80.0))
    return root


def test_each_folder_of_logs_is_a_comparison_of_its_own(several):
    found = {board.comparison: board for board in boards(read_logs([str(several)])[0])}
    assert list(found) == ['', 'cars196-half', 'glyphs', 'glyphs-batch-size-tuned', 'glyphs-tuned']
    recalls = {name: board.chosen['margin'].interval('last', 'recall@1').mean for name, board in found.items()}
    assert recalls == {'': 80.0, 'cars196-half': 40.0, 'glyphs': 55.0, 'glyphs-batch-size-tuned': 66.0,
                       'glyphs-tuned': 65.0}
    assert [name for name, board in found.items() if board.published] == ['glyphs-tuned']
    assert found['glyphs-tuned'].published is found['glyphs']
    # raw pixels are those of the dataset; those of a folder of pictures are nobody else's
    assert [name for name, board in found.items() if 'raw-pixels' in board.references] == [
        '', 'glyphs', 'glyphs-batch-size-tuned', 'glyphs-tuned']


def test_raw_pixels_of_a_comparison_win_over_those_of_others(several, tmp_path):
    for folder, recall in (('glyphs', 22.0), ('glyphs-tuned', 23.0), ('z', 24.0)):
        samples.write(tmp_path / 'logs' / folder / 'raw.jsonl', [
            samples.config('raw-pixels', identity=folder, model='none'),
            {'event': 'epoch', 'id': folder, 'run': 1, 'epoch': 0, **samples.metrics(recall)}])
    found = {b.comparison: b for b in boards(read_logs([str(several), str(tmp_path)])[0])}
    pixels = {name: found[name].references['raw-pixels']['recall@1'].mean for name in ('glyphs', 'glyphs-tuned')}
    assert pixels == {'glyphs': 22.0, 'glyphs-tuned': 23.0}


def test_one_command_draws_all_comparisons_and_none_overwrites_another(several, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(plots, 'render', lambda *_: b'')            # the slow part
    assert plots.main([str(several), '--out', str(tmp_path)]) == 0
    names = {path.stem for path in tmp_path.glob('*.png')}
    assert {'bars_glyphs_convnet', 'glyphs_bars', 'glyphs-tuned_bars', 'cars196-half_bars', 'glyphs-tuned_curves',
            'glyphs-batch-size-tuned_batch-size'} < names
    assert [name for name in names if name.startswith('glyphs-batch')] == ['glyphs-batch-size-tuned_batch-size']
    assert 'settings in the logs' not in capsys.readouterr().err


def test_two_networks_of_a_comparison_have_a_figure_each(tmp_path):
    for model in ('convnet', 'resnet18_v2'):
        samples.log(tmp_path / 'logs' / 'x' / f'{model}.jsonl', 'margin', (50.0, 60.0), model=model, identity=model)
    assert [board.file('bars') for board in boards(read_logs([str(tmp_path)])[0])] == [
        'x_bars_glyphs_convnet', 'x_bars_glyphs_resnet18_v2']


def test_published_settings_are_pale_bars_below_the_tuned_ones(several):
    [board] = [b for b in boards(read_logs([str(several)])[0]) if b.comparison == 'glyphs-tuned']
    drawn = styled(lambda: plots.figures(board))
    styled(lambda: _assert_readable({'bars': drawn['bars']}))
    recall = drawn['bars'].axes[0]
    bars = {(round(p.get_width(), 6), p.get_alpha()) for p in recall.patches}
    assert bars == {(65.0, None), (55.0, 0.4)} and len(recall.patches) == 4
    solid, pale = ([p.get_bbox() for p in recall.patches if p.get_alpha() == alpha] for alpha in (None, 0.4))
    assert all(one.y1 < two.y0 for one, two in zip(solid, pale))        # the axis points down
    legend = [t.get_text() for t in drawn['bars'].legends[0].get_texts()]
    assert legend == ['95% interval', 'published settings', 'untrained net', 'raw pixels']
    assert {line.get_xdata()[0] for line in recall.lines if line.get_linestyle() in (':', '--')} >= {8.0, 21.0}
    assert 'GLYPHS, convnet, tuned settings\nlast epoch' in _texts(drawn['bars'])


def test_a_picture_is_small(board):
    content = styled(lambda: render(plots.figures(board)['curves'], 'png'))
    assert len(content) < 100_000 and content.startswith(b'\x89PNG')
