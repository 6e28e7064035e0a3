"""The score of raw pixels: by definition, in the log, and one line for what is wrong."""
import json
import pathlib

import cv2
import numpy as np
import pytest

from common import pixels
from results.aggregate import boards
from results.readlog import read_logs
from tests.tiny import make_tree


def test_pixels_are_scored_by_their_distances(tmp_path, capsys):
    tree, log = make_tree(str(tmp_path / 'tree')), tmp_path / 'logs' / 'raw_pixels.jsonl'
    found = pixels.score_pixels(pixels.parse_args(['--dataset', 'miniCUB', '--data-path', tree, '--image-size', '16',
                                                   '--resize', '20', '--logfile', str(log)]))

    images, labels = [], []
    for c in range(4, 8):
        for i in range(8):
            images.append(cv2.imread(f'{tree}/{c:03d}.class/{i}.png')[2:18, 2:18].astype(np.float64).ravel())
            labels.append(c)
    distances = ((np.array(images)[:, None] - np.array(images)) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    nearest = np.array(labels)[distances.argmin(axis=1)]
    assert found['recall@1'] == pytest.approx(100 * np.mean(nearest == labels))
    assert 'R@1' in capsys.readouterr().out
    config, epoch = map(json.loads, pathlib.Path(log).read_text().splitlines())
    assert (config['algorithm'], config['dataset'], epoch['recall@1']) == ('raw-pixels', 'miniCUB', found['recall@1'])
    experiments, _ = read_logs([str(log.parent)])
    assert experiments[0].algorithm == 'raw-pixels' and boards(experiments) == []


@pytest.mark.parametrize('words, named', [
    (['--dataset', 'CUB'], '--data-path'), (['--dataset', 'GLYPHS', '--resize', '20'], '--resize'),
    (['--dataset', 'x'], '--dataset'), ([], '--dataset')])
def test_bad_flags_are_one_line(words, named, capsys):
    with pytest.raises(SystemExit) as end:
        pixels.parse_args(words)
    errors = capsys.readouterr().err
    assert end.value.code == 2 and named in errors and errors.count('\n') == 1
