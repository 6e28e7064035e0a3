"""GLYPHS: the same files from the same arguments, published whole or not at all, and as hard as promised."""
from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path

import cv2
import numpy as np
import pytest

from common.errors import UsageError
from dataset import DatasetError, get_dataset, glyphs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def few(monkeypatch):
    """Three images of 20 classes: all of the mechanics in a fraction of the time."""
    monkeypatch.setattr(glyphs, 'IMAGES_PER_CLASS', 3)
    monkeypatch.setattr(glyphs, 'CHARACTERS', glyphs.CHARACTERS[::10])


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    """The real thing at the size that the demo uses."""
    return get_dataset('GLYPHS', str(tmp_path_factory.mktemp('glyphs')), image_size=32, resize=37, seed=0)


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(str(folder)).rglob('*') if path.is_file()}


def python(code, *arguments, **kwargs):
    prelude = ('import sys; from dataset import glyphs, get_dataset; '
               'glyphs.IMAGES_PER_CLASS, glyphs.CHARACTERS = 3, glyphs.CHARACTERS[::10]\n')
    return subprocess.Popen([sys.executable, '-c', prelude + code, *map(str, arguments)], cwd=str(ROOT),
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, universal_newlines=True, **kwargs)


def ended(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def read(images):
    return np.stack([cv2.imread(path) for path in images.paths])


def test_counts_split_and_pictures(whole):
    train, test = whole
    for images in (train, test):
        assert (len(images), images.num_classes) == (2500, 100)
        assert (np.bincount(images.labels) == 25).all()
        assert images.name == 'GLYPHS' and not images.mirror and images.boxes is None
        assert read(images).shape == (2500, 37, 37, 3)
    names = train.class_names + test.class_names
    assert [name[:5] for name in names] == ['%04d_' % i for i in range(200)]
    assert sorted(chr(int(name[7:], 16)) for name in names) == sorted(glyphs.CHARACTERS)


def test_pictures_within_a_class_all_differ(whole):
    pictures = read(whole[0]).reshape(2500, -1)
    assert len(np.unique(pictures, axis=0)) == 2500


def test_pixels_find_a_neighbour_of_the_same_class_for_15_to_30_percent(whole):
    """By brute force on the centre crop of the test half: recall@1 from 15 to 30 percent, in colour and in grey."""
    test = whole[1]
    pictures = read(test)[:, 2:34, 2:34].astype(np.float32)
    grey = pictures @ np.array([0.114, 0.587, 0.299], dtype=np.float32)
    for pixels in (pictures.reshape(2500, -1), grey.reshape(2500, -1)):
        squares = (pixels ** 2).sum(axis=1)
        distances = squares[:, None] + squares - 2 * pixels @ pixels.T
        np.fill_diagonal(distances, np.inf)
        recall = 100 * (test.labels[distances.argmin(axis=1)] == test.labels).mean()
        assert 15 < recall < 30


def test_every_face_has_every_character_and_none_looks_like_another():
    """Shapes at one size, in the upright and the most different faces: correlation below 0.9 for every pair."""
    assert len(set(glyphs.CHARACTERS)) == len(glyphs.CHARACTERS) == 200
    for font in glyphs._load_fonts(48):
        missing = glyphs._shape(font, '\uffff')
        shapes = [glyphs._shape(font, character) for character in glyphs.CHARACTERS]
        assert not [character for character, shape in zip(glyphs.CHARACTERS, shapes)
                    if shape.shape == missing.shape and (shape == missing).all()]
        scaled = []
        for shape in shapes:
            height, width = shape.shape
            side = max(height, width)
            square = np.zeros((side, side), dtype=np.float32)
            top, left = (side - height) // 2, (side - width) // 2
            square[top:top + height, left:left + width] = shape
            small = cv2.GaussianBlur(cv2.resize(square, (24, 24), interpolation=cv2.INTER_AREA), (0, 0), 1)
            scaled.append((small - small.mean()).ravel() / (small.std() * 24))
        correlation = np.array(scaled) @ np.array(scaled).T
        np.fill_diagonal(correlation, 0)
        assert correlation.max() < 0.9


def test_no_character_is_a_mark_on_another_or_invisible():
    for character in glyphs.CHARACTERS:
        assert unicodedata.category(character)[0] in 'LNSP'
        assert unicodedata.normalize('NFKD', character) == character


def test_look_alikes_of_three_alphabets_are_there_once():
    for alike in ('AΑА', 'BΒВ', 'OΟО0о', 'PΡР', 'XΧХ', 'cсϲ', 'Ss'):
        assert len(set(alike) & set(glyphs.CHARACTERS)) <= 1


@pytest.mark.parametrize('threads', [2, 7])
def test_any_number_of_threads_makes_the_same_files(tmp_path, few, threads):
    glyphs.generate(str(tmp_path / 'one'), 24, 3, threads=1)
    glyphs.generate(str(tmp_path / 'more'), 24, 3, threads=threads)
    assert content(tmp_path / 'one') == content(tmp_path / 'more')


def test_seed_and_size_decide(tmp_path, few):
    for name, size, seed in [('a', 24, 3), ('b', 24, 4), ('c', 25, 3)]:
        np.random.seed(seed)
        glyphs.generate(str(tmp_path / name), size, seed)
    a, b, c = (content(tmp_path / name) for name in 'abc')
    classes = [{name.split(os.sep)[0][5:] for name in files if name < '0010'} for files in (a, b)]
    assert classes[0] != classes[1], 'the split does not depend on the seed'
    assert not set(a.values()) & set(b.values()) and not set(a.values()) & set(c.values())
    assert cv2.imread(str(next((tmp_path / 'c').rglob('*.jpg')))).shape == (25, 25, 3)


def test_negative_and_huge_seeds_are_seeds(tmp_path, few):
    for seed in (-1, 2 ** 40):
        assert len(get_dataset('GLYPHS', str(tmp_path), resize=16, seed=seed)[0]) == 30


def test_second_reading_draws_nothing(tmp_path, few, monkeypatch):
    first = get_dataset('GLYPHS', str(tmp_path), resize=24, seed=1)
    monkeypatch.setattr(glyphs, 'generate', None)
    second = get_dataset('GLYPHS', str(tmp_path), resize=24, seed=1)
    assert [images.paths for images in first] == [images.paths for images in second]


def test_sizes_and_seeds_live_side_by_side(tmp_path, few):
    for size, seed in [(24, 0), (24, 1), (28, 0)]:
        get_dataset('GLYPHS', str(tmp_path), resize=size, seed=seed)
    assert sorted(os.listdir(str(tmp_path))) == ['glyphs-v3-seed0-size24', 'glyphs-v3-seed0-size28',
                                                 'glyphs-v3-seed1-size24']


def test_cache_folder(tmp_path, few, monkeypatch):
    monkeypatch.setenv('DML_CACHE', str(tmp_path / 'not' / 'there' / 'yet'))
    train, _ = get_dataset('GLYPHS', None, resize=16)
    assert train.paths[0].startswith(str(tmp_path / 'not' / 'there' / 'yet' / 'glyphs-v3-seed0-size16'))
    monkeypatch.delenv('DML_CACHE')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert glyphs.cache_folder() == str(tmp_path / '.cache' / 'dml-playground')


def test_two_processes_starting_together_are_both_right(tmp_path, few):
    code = 'print(*map(len, get_dataset("GLYPHS", sys.argv[1], resize=24, seed=9)))'
    both = [python(code, tmp_path / 'both') for _ in range(2)]
    assert [ended(process) for process in both] == ['30 30\n'] * 2
    assert os.listdir(str(tmp_path / 'both')) == ['glyphs-v3-seed9-size24'], 'something temporary is left'
    get_dataset('GLYPHS', str(tmp_path / 'alone'), resize=24, seed=9)
    assert content(tmp_path / 'both') == content(tmp_path / 'alone')


def test_who_finishes_second_takes_the_first_ones(tmp_path, few, monkeypatch):
    folder = tmp_path / 'set'
    draw = glyphs._draw_classes

    def slow(*arguments):
        draw(*arguments)
        if not folder.exists():
            folder.mkdir()
            (folder / 'of the other').touch()
    monkeypatch.setattr(glyphs, '_draw_classes', slow)
    glyphs.generate(str(folder), 16, 0, threads=1)
    assert os.listdir(str(folder)) == ['of the other']
    assert os.listdir(str(tmp_path)) == ['set']


def test_killed_in_the_middle_it_leaves_nothing_that_is_taken_for_whole(tmp_path, few):
    code = ('import time; draw = glyphs._draw\n'
            'def slow(shapes, size, rng):\n'
            '    sys.stdout.write("drawing\\n"); sys.stdout.flush(); time.sleep(0.05)\n'
            '    return draw(shapes, size, rng)\n'
            'glyphs._draw = slow\n'
            'get_dataset("GLYPHS", sys.argv[1], resize=24)')
    process = python(code, tmp_path)
    for _ in range(8):
        assert process.stdout.readline() == 'drawing\n'
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = os.listdir(str(tmp_path))
    assert len(left) == 1 and '.tmp-' in left[0], 'killed too late or too early to test anything'
    assert [len(images) for images in get_dataset('GLYPHS', str(tmp_path), resize=24)] == [30, 30]
    old = time.time() - 7200
    os.utime(str(tmp_path / left[0]), (old, old))
    get_dataset('GLYPHS', str(tmp_path), resize=16)
    assert left[0] not in os.listdir(str(tmp_path)), 'what was left hours ago is still there'


def test_failure_while_drawing_leaves_nothing(tmp_path, few, monkeypatch):
    calls = []

    def fail(*arguments):
        calls.append(1)
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(glyphs, '_draw', fail)
    with pytest.raises(DatasetError, match='glyphs-v3-seed0-size24 cannot be written .*No space.*--data-path'):
        get_dataset('GLYPHS', str(tmp_path), resize=24)
    assert calls and os.listdir(str(tmp_path)) == []


def test_interrupted_it_stops_soon_and_leaves_nothing(tmp_path, monkeypatch):
    drawn = []
    draw = glyphs._draw

    def interrupted(*arguments):
        drawn.append(1)
        if len(drawn) == 5:
            raise KeyboardInterrupt
        time.sleep(0.01)
        return draw(*arguments)
    monkeypatch.setattr(glyphs, '_draw', interrupted)
    with pytest.raises(KeyboardInterrupt):
        glyphs.generate(str(tmp_path / 'set'), 16, 0, threads=2)
    assert len(drawn) < 10
    assert os.listdir(str(tmp_path)) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(DatasetError, match='cannot be written.*DML_CACHE'):
        get_dataset('GLYPHS', str(tmp_path / 'file'), resize=24)


@pytest.mark.parametrize('damage', ['image', 'class', 'one more'])
def test_a_changed_set_is_refused_and_named(tmp_path, few, damage):
    train, _ = get_dataset('GLYPHS', str(tmp_path), resize=16)
    if damage == 'image':
        os.remove(train.paths[0])
    elif damage == 'class':
        shutil.rmtree(os.path.dirname(train.paths[0]))
    else:
        shutil.copy(train.paths[0], os.path.join(os.path.dirname(train.paths[0]), 'more.jpg'))
    with pytest.raises(DatasetError, match='glyphs-v3-seed0-size16 is not as it was made.*delete it'):
        get_dataset('GLYPHS', str(tmp_path), resize=16)


def test_too_small_a_size_names_the_flag(tmp_path):
    with pytest.raises(UsageError, match='--resize 15'):
        get_dataset('GLYPHS', str(tmp_path), resize=15)


def test_missing_fonts_are_named(tmp_path, monkeypatch):
    import matplotlib
    monkeypatch.setattr(matplotlib, 'get_data_path', lambda: str(tmp_path))
    with pytest.raises(DatasetError, match='DejaVu'):
        get_dataset('GLYPHS', str(tmp_path / 'set'), resize=24)
    assert os.listdir(str(tmp_path / 'set')) == []
