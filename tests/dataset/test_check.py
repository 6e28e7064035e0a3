"""python -m dataset.check on folders with known faults."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dataset import ImageSet, check
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path):
    """Four class folders a to d, of 3, 2, 4 and 2 images; a and b train."""
    number = 0
    for name, count in zip('abcd', (3, 2, 4, 2)):
        (tmp_path / name).mkdir()
        for i in range(count):
            pixels = np.random.RandomState(number).randint(0, 256, (12, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / ('%d.png' % i))
            number += 1
    return tmp_path


def report(folder, **options):
    lines = []
    return check.check('miniCUB', str(folder), say=lines.append, **options), lines


def test_good_folder(folder):
    well, lines = report(folder)
    assert well
    assert '5 images of 2 classes, 2 to 3 a class (smallest: b)' in lines[0] and lines[0].startswith('training')
    assert '6 images of 2 classes, 2 to 4 a class (smallest: d)' in lines[1] and lines[1].startswith('test')
    assert lines[2:] == ['0 cannot be read', '0 in training and test']


@pytest.mark.parametrize('content', [b'', b'no picture', 'half'])
def test_unreadable_files_are_named(folder, content):
    bad = folder / 'b' / '1.png'
    bad.write_bytes(bad.read_bytes()[:-30] if content == 'half' else content)
    well, lines = report(folder)
    assert not well and lines[2] == '1 cannot be read' and str(bad) in lines[3]


def test_file_that_is_gone(folder):
    images = ImageSet([str(folder / 'a' / '0.png')], np.zeros(1, int), ['a'])
    gone = ImageSet([str(folder / 'gone.png')], np.zeros(1, int), ['c'])
    assert check.inspect(images, gone) == (['%s: No such file or directory' % (folder / 'gone.png')], [])


def test_duplicates_between_training_and_test(folder):
    shutil.copy(folder / 'a' / '1.png', folder / 'd' / '7.png')
    shutil.copy(folder / 'a' / '0.png', folder / 'b' / '8.png')     # both train: not what is looked for
    well, lines = report(folder)
    assert not well
    assert lines[3:] == ['1 in training and test', '    %s = %s' % (folder / 'a' / '1.png', folder / 'd' / '7.png')]


def test_empty_files_on_both_sides_are_unreadable_and_equal(folder):
    (folder / 'a' / '0.png').write_bytes(b'')
    (folder / 'c' / '0.png').write_bytes(b'')
    well, lines = report(folder, show=1)
    assert not well
    assert {'2 cannot be read', '    ... and 1 more', '1 in training and test'} <= set(lines)


def test_class_of_one_image_is_mentioned(folder):
    (folder / 'd' / '1.png').unlink()
    well, lines = report(folder)
    assert well and '1 of one image only' in lines[1] and 'one image' not in lines[0]


def test_box_outside_of_the_picture(folder):
    def images(name, box):
        return ImageSet([str(folder / name / '0.png')], np.zeros(1, int), [name], boxes=np.array([box], np.float32))
    good, bad = images('a', (2, 2, 5, 5)), images('c', (50, 50, 5, 5))
    unreadable, _ = check.inspect(good, bad)
    assert len(unreadable) == 1 and str(folder / 'c' / '0.png') in unreadable[0]
    assert check.inspect(good, images('c', (2, 2, 5, 5))) == ([], [])


def test_any_number_of_threads_finds_the_same(folder):
    (folder / 'b' / '1.png').write_bytes(b'')
    shutil.copy(folder / 'a' / '1.png', folder / 'd' / '7.png')
    assert report(folder, num_workers=1) == report(folder, num_workers=4)


@pytest.mark.parametrize('fault, status', [('none', 0), ('empty file', 1), ('empty class', 1), ('no folder', 1)])
def test_exit_status(folder, fault, status):
    if fault == 'empty file':
        (folder / 'a' / '0.png').write_bytes(b'')
    if fault == 'empty class':
        (folder / 'e').mkdir()
    path = folder / 'none' if fault == 'no folder' else folder
    done = subprocess.run([sys.executable, '-m', 'dataset.check', 'miniCUB', '--data-path', str(path)], cwd=ROOT,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == status, done.stderr
    if fault in ('empty class', 'no folder'):
        assert done.stderr.count('\n') == 1 and str(path) in done.stderr
    else:
        assert done.stdout.endswith('miniCUB: all is well\n' if not status else 'miniCUB: has problems\n')
        assert done.stderr == ''


@pytest.mark.skipif(sys.platform == 'darwin', reason='file names must be UTF-8 there')
def test_names_that_are_no_text(folder):
    odd = os.fsencode(str(folder / 'b')) + b'/\xff\n.png'
    with open(odd, 'wb') as file:
        file.write((folder / 'd' / '0.png').read_bytes())
    done = subprocess.run([sys.executable, '-m', 'dataset.check', 'miniCUB', '--data-path', str(folder)], cwd=ROOT,
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and done.stderr == ''
    pair = '    %s/b/\\udcff\\n.png = %s/d/0.png' % (folder, folder)
    assert done.stdout.splitlines()[3:5] == ['1 in training and test', pair]


def test_images_of_validation_are_read_too(folder):
    for split, name in (('train', 'a'), ('test', 'b'), ('val', 'c')):
        (folder / split).mkdir()
        (folder / name).rename(folder / split / name)
    shutil.rmtree(folder / 'd')
    assert report(folder)[0]
    bad = folder / 'val' / 'c' / '0.png'
    bad.write_bytes(b'')
    for split, source in (('train', 'a'), ('test', 'b')):
        shutil.copy(folder / split / source / '1.png', folder / 'val' / 'c' / f'from_{split}.png')
    well, lines = report(folder)
    assert not well and 'validation' in lines[2] and '6 images of 1 class' in lines[2]
    assert lines[3] == '1 cannot be read' and str(bad) in lines[4]
    assert lines[5:] == ['2 in two of training, test and validation'] + [
        f'    {folder}/{split}/{source}/1.png = {folder}/val/c/from_{split}.png'
        for source, split in (('b', 'test'), ('a', 'train'))]


def test_passed_over_files_are_counted_by_kind(folder):
    for name in ('a/x.txt', 'b/y.txt', 'notes'):
        (folder / name).write_bytes(b'text')
    well, lines = report(folder)
    assert well and lines[2] == 'passed over: 2 .txt, 1 without a suffix'


def test_queries_and_gallery_are_counted(folder, monkeypatch):
    train, test = check.get_dataset('miniCUB', str(folder))
    test.queries = np.arange(len(test)) < 2
    monkeypatch.setattr(check, 'get_dataset', lambda *_, **__: (train, test))
    _, lines = report(folder)
    assert lines[2].split() == ['2', 'of', 'them', 'are', 'queries,', 'which', 'search', 'the', 'other', '4']
