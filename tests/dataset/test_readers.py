"""The readers of CUB, CARS196, SOP and class folders on small trees with their structure, and on garbage.

Readers never open an image, so the images here are empty files; the published counts are replaced by small ones,
and one test reads a CUB of full size.
"""
from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from common.errors import UsageError
from dataset import DatasetError, ImageSet, cars196, cub, get_dataset, inshop, sop
from dataset.imageset import Counts

SMALL = Counts(train_classes=2, test_classes=3, train_images=4, test_images=6)  # two images a class
garbage = settings(max_examples=150, deadline=None,
                   suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture(autouse=True)
def small_counts(monkeypatch):
    for module in (cub, cars196, sop, inshop):
        monkeypatch.setattr(module, 'COUNTS', SMALL)
    monkeypatch.setattr(inshop, 'QUERIES', 3)


def touch(*parts):
    path = os.path.join(*map(str, parts))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    open(path, 'wb').close()


def write(folder, name, lines, end='\n'):
    with open(os.path.join(str(folder), name), 'w', encoding='utf-8', newline='') as stream:
        stream.write(end.join(lines) + end)


def refused(name, path, *words):
    with pytest.raises(DatasetError) as caught:
        get_dataset(name, str(path))
    message = str(caught.value)
    for word in words:
        assert word in message
    assert message.endswith('.') and '\n' not in message


def without_boxes(images):
    with pytest.raises(UsageError, match='^--use-crops: ') as caught:
        images.require_boxes()
    return str(caught.value)[len('--use-crops: '):]


# CUB

def cub_lists():
    names = ['%03d.Bird_%d/Bird_%04d.jpg' % (c, c, i) for c in range(1, 6) for i in (2 * c - 1, 2 * c)]
    return {'images.txt': ['%d %s' % (i + 1, name) for i, name in enumerate(names)],
            'image_class_labels.txt': ['%d %d' % (i + 1, i // 2 + 1) for i in range(10)],
            'bounding_boxes.txt': ['%d %d.0 2.5 30.0 4%d.0' % (i + 1, i, i) for i in range(10)]}


def cub_tree(root, end='\n', **changes):
    lists = cub_lists()
    lists.update(changes)
    for line in cub_lists()['images.txt']:
        touch(root, 'images', line.split()[1])
    for name, lines in lists.items():
        write(root, name, lines, end)
    return root


def changed(name, row, line):
    """The official list but for one line (None: left out)."""
    lines = cub_lists()[name]
    lines[row:row + 1] = [] if line is None else [line]
    return {name: lines}


@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_cub(tmp_path, end):
    cub_tree(tmp_path, end)
    train, test = get_dataset('CUB', str(tmp_path))
    assert isinstance(train, ImageSet) and train.name == 'CUB' and train.mirror
    assert train.labels.tolist() == [0, 0, 1, 1] and test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert train.class_names == ['001.Bird_1', '002.Bird_2']
    assert test.class_names == ['003.Bird_3', '004.Bird_4', '005.Bird_5']
    assert all(os.path.isfile(path) for path in train.paths + test.paths)
    assert os.path.basename(test.paths[1]) == 'Bird_0006.jpg'
    assert test.boxes[1].tolist() == [5, 2.5, 30, 45]


def test_blanks_at_line_ends_and_a_byte_order_mark_are_no_part_of_a_name(tmp_path):
    lines = cub_lists()['images.txt']
    cub_tree(tmp_path, **{'images.txt': ['\ufeff' + lines[0] + '  '] + lines[1:] + ['', '  ']})
    assert os.path.basename(get_dataset('CUB', str(tmp_path))[0].paths[0]) == 'Bird_0001.jpg'


def test_cub_in_the_archives_own_folder(tmp_path):
    (tmp_path / 'CUB_200_2011').mkdir()
    cub_tree(tmp_path / 'CUB_200_2011')
    assert len(get_dataset('CUB', str(tmp_path))[0]) == 4


def test_cub_lists_in_another_order_are_joined_by_image_id(tmp_path):
    lists = cub_lists()
    for name in ('image_class_labels.txt', 'bounding_boxes.txt'):
        lists[name].reverse()
    cub_tree(tmp_path, **lists)
    train, test = get_dataset('CUB', str(tmp_path))
    assert test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert test.boxes[1].tolist() == [5, 2.5, 30, 45]


@pytest.mark.parametrize('change, words', [
    (changed('images.txt', 3, 'x y'), ['images.txt', 'line 4', 'integer text']),
    (changed('images.txt', 3, '4'), ['images.txt', 'line 4']),
    (changed('images.txt', 3, '3 002.Bird_2/Bird_0004.jpg'), ['images.txt', 'twice']),
    (changed('images.txt', 3, '4 002.Bird_2/Bird_0003.jpg'), ['images.txt', 'Bird_0003.jpg', 'twice']),
    (changed('images.txt', 3, '4 002.Bird_2/none.jpg'), ['images.txt', 'none.jpg', 'missing']),
    (changed('images.txt', 3, '4 no_folder/none.jpg'), ['images.txt', 'no folder']),
    (changed('images.txt', 3, '4 ../images.txt'), ['images.txt', 'leads out']),
    (changed('images.txt', 3, '4 /etc/passwd'), ['images.txt', 'leads out']),
    (changed('images.txt', 3, '4 002.Bird_2/../../images.txt'), ['images.txt', 'leads out']),
    (changed('images.txt', 9, None), ['images.txt lists 9 images', 'cut off']),
    ({'images.txt': ['']}, ['images.txt', 'empty']),
    (changed('image_class_labels.txt', 3, '4 x'), ['image_class_labels.txt', 'line 4']),
    (changed('image_class_labels.txt', 3, '4 6'), ['image_class_labels.txt', '1 to 5']),
    (changed('image_class_labels.txt', 3, '4 0'), ['image_class_labels.txt', '1 to 5']),
    (changed('image_class_labels.txt', 3, '3 2'), ['image_class_labels.txt', 'each image id']),
    (changed('image_class_labels.txt', 3, None), ['image_class_labels.txt', 'each image id']),
    (changed('image_class_labels.txt', 3, '4 3'), ['3 training images', 'CUB has 4']),
    (changed('bounding_boxes.txt', 3, '4 1 2 3'), ['bounding_boxes.txt', 'line 4']),
    (changed('bounding_boxes.txt', 3, '4 1 2 3 nan'), ['bounding_boxes.txt', 'box']),
    (changed('bounding_boxes.txt', 3, '4 1 2 0 5'), ['bounding_boxes.txt', 'box']),
    (changed('bounding_boxes.txt', 9, None), ['bounding_boxes.txt', 'each image id']),
])
def test_cub_refuses(tmp_path, change, words):
    refused('CUB', cub_tree(tmp_path, **change), *words)


@pytest.mark.parametrize('name', ['images.txt', 'image_class_labels.txt'])
def test_cub_names_a_missing_list(tmp_path, name):
    os.remove(str(cub_tree(tmp_path) / name))
    refused('CUB', tmp_path, name)


def test_cub_names_a_missing_image_and_encoding(tmp_path):
    cub_tree(tmp_path)
    (tmp_path / 'bounding_boxes.txt').write_bytes(b'1 \xff')
    refused('CUB', tmp_path, 'bounding_boxes.txt', 'UTF-8')
    os.remove(str(tmp_path / 'images' / '004.Bird_4' / 'Bird_0008.jpg'))
    refused('CUB', tmp_path, 'bounding_boxes.txt')


def test_cub_of_full_size(tmp_path, monkeypatch):
    counts = Counts(100, 100, 5864, 5924)
    monkeypatch.setattr(cub, 'COUNTS', counts)
    classes = np.sort(np.concatenate([np.arange(5864) % 100, 100 + np.arange(5924) % 100])) + 1
    names = ['%03d.c/%d.jpg' % (label, i) for i, label in enumerate(classes)]
    for label in range(1, 201):
        os.makedirs(str(tmp_path / 'images' / ('%03d.c' % label)))
    for name in names:
        open(str(tmp_path / 'images' / name), 'wb').close()
    write(tmp_path, 'images.txt', ['%d %s' % row for row in enumerate(names)])
    write(tmp_path, 'image_class_labels.txt', ['%d %d' % row for row in enumerate(classes)])
    write(tmp_path, 'bounding_boxes.txt', ['%d 0 0 1 1' % i for i in range(len(names))])
    train, test = get_dataset('CUB', str(tmp_path))
    assert (len(train), len(test), train.num_classes, test.num_classes) == (5864, 5924, 100, 100)
    os.remove(test.paths[-1])
    refused('CUB', tmp_path, '11787.jpg', 'missing')


def test_cub_without_boxes(tmp_path):
    os.remove(str(cub_tree(tmp_path) / 'bounding_boxes.txt'))
    train, test = get_dataset('CUB', str(tmp_path))
    assert (len(train), train.boxes, test.boxes) == (4, None, None)
    for images in (train, test):
        assert without_boxes(images) == f'CUB has no bounding boxes (there is no {tmp_path / "bounding_boxes.txt"})'


# CARS196

def cars_table(**changes):
    """The table of a small cars_annos.mat, in the order of the official one (classes mixed)."""
    classes = [1, 2, 3, 4, 5, 5, 4, 3, 2, 1]
    columns = {'relative_im_path': ['car_ims/%06d.jpg' % (i + 1) for i in range(10)],
                   'bbox_x1': [i + 1 for i in range(10)], 'bbox_y1': [2] * 10, 'bbox_x2': [i + 31 for i in range(10)],
                   'bbox_y2': [42] * 10, 'test': [0] * 10}
    columns['class'] = classes
    columns.update(changes)
    return columns


def save_cars(path, class_names=('AM General', 'Acura', 'Aston', 'Audi', 'BMW'), **changes):
    columns = {name: values for name, values in cars_table(**changes).items() if values is not None}
    table = np.zeros((1, 10), dtype=[(name, object) for name in columns])
    for name, values in columns.items():
        for i, value in enumerate(values):
            table[0, i][name] = np.uint8(value) if isinstance(value, int) and 0 <= value < 256 else value
    content = {'annotations': table}
    if class_names is not None:
        content['class_names'] = np.array([class_names], dtype=object)
    savemat(str(path / 'cars_annos.mat'), content)


def cars_tree(root, **changes):
    for name in cars_table()['relative_im_path']:
        touch(root, name)
    save_cars(root, **changes)
    return root


def cars_folders(root, names=('1', '2', '3', '4', '5')):
    table = cars_table()
    for name, label in zip(table['relative_im_path'], table['class']):
        touch(root, names[label - 1], os.path.basename(name))
    return root


def test_cars_from_the_mat_file(tmp_path):
    train, test = get_dataset('CARS196', str(cars_tree(tmp_path)))
    assert train.labels.tolist() == [0, 1, 1, 0] and test.labels.tolist() == [0, 1, 2, 2, 1, 0]
    assert train.class_names == ['AM General', 'Acura'] and test.class_names == ['Aston', 'Audi', 'BMW']
    assert [os.path.basename(path) for path in train.paths] == ['000001.jpg', '000002.jpg', '000009.jpg', '000010.jpg']
    assert all(os.path.isfile(path) for path in train.paths + test.paths)
    assert train.boxes[1].tolist() == [2, 2, 30, 40]
    assert train.name == 'CARS196'


def test_cars_without_class_names(tmp_path):
    assert get_dataset('CARS196', str(cars_tree(tmp_path, class_names=None)))[1].class_names == ['3', '4', '5']


def test_cars_from_class_folders_in_numeric_order(tmp_path, monkeypatch):
    monkeypatch.setattr(cars196, 'COUNTS', Counts(6, 6, 6, 6))
    for number in range(1, 13):
        touch(tmp_path, number, 'a.jpg')
    touch(tmp_path, '1', 'notes.txt')
    touch(tmp_path, 'other', 'a.jpg')
    train, test = get_dataset('CARS196', str(tmp_path))
    assert train.class_names == ['1', '2', '3', '4', '5', '6'] and test.class_names[-1] == '12'
    assert [os.path.basename(os.path.dirname(path)) for path in test.paths] == ['7', '8', '9', '10', '11', '12']
    assert f'neither {tmp_path} nor a folder devkit has cars_annos.mat' in without_boxes(train)


def test_cars_from_class_folders_with_boxes(tmp_path):
    cars_folders(tmp_path)
    save_cars(tmp_path)
    train, _ = get_dataset('CARS196', str(tmp_path))
    assert [os.path.basename(path) for path in train.paths] == ['000001.jpg', '000010.jpg', '000002.jpg', '000009.jpg']
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert train.boxes[:, 0].tolist() == [1, 10, 2, 9]
    assert train.class_names == ['AM General', 'Acura']


def test_cars_folders_against_the_mat_file(tmp_path):
    cars_folders(tmp_path)
    save_cars(tmp_path, **{'class': [2, 1, 3, 4, 5, 5, 4, 3, 2, 1]})
    refused('CARS196', tmp_path, 'cars_annos.mat', '000001.jpg', 'class 1')


@pytest.mark.parametrize('changes, words', [
    ({'class': [1, 2, 3, 4, 5, 5, 4, 3, 2, 6]}, ['1 to 5']),
    ({'class': [1, 2, 3, 4, 4, 4, 4, 3, 2, 1]}, ['1 to 5']),
    ({'class': ['one'] * 10}, ['annotations']),
    ({'class': None}, ['annotations']),
    ({'bbox_x2': None}, ['bbox_x2']),
    ({'bbox_x2': [1] * 10}, ['box']),
    ({'bbox_y1': [float('nan')] * 10}, ['box']),
    ({'relative_im_path': ['car_ims/000001.jpg'] * 10}, ['000001.jpg', 'twice']),
    ({'relative_im_path': ['car_ims/%d.jpg' % i for i in range(10)]}, ['0.jpg', 'missing']),
    ({'relative_im_path': ['../%d.jpg' % i for i in range(10)]}, ['leads out']),
    ({'class_names': ['a', 'b']}, ['names 2 classes', '5']),
    ({'class': [1, 2, 3, 4, 5, 5, 4, 3, 3, 1]}, ['3 training images', 'CARS196 has 4']),
])
def test_cars_refuses(tmp_path, changes, words):
    refused('CARS196', cars_tree(tmp_path, **changes), 'cars_annos.mat', *words)


def test_cars_refuses_a_folder_with_neither_layout(tmp_path):
    touch(tmp_path, 'x', 'a.jpg')
    refused('CARS196', tmp_path, 'holds x', 'cars_annos.mat', 'car_ims', 'cars_test_annos_withlabels.mat', '1 to 5')
    refused('CARS196', tmp_path / 'none', 'none')


@pytest.mark.parametrize('names, words', [
    (('1', '2', '3', '4', '6'), ['1 to 5', '5']),
    (('0', '2', '3', '4', '5'), ['1 to 5', '0']),
])
def test_cars_refuses_other_folders(tmp_path, names, words):
    refused('CARS196', cars_folders(tmp_path, names), *words)


def test_cars_refuses_an_empty_or_doubled_class(tmp_path):
    cars_folders(tmp_path)
    (tmp_path / '01').mkdir()
    refused('CARS196', tmp_path, 'leading zeros')
    (tmp_path / '01').rmdir()
    for name in os.listdir(str(tmp_path / '3')):
        os.remove(str(tmp_path / '3' / name))
    refused('CARS196', tmp_path, os.path.join(str(tmp_path), '3'), 'no image')


@pytest.mark.parametrize('content', [b'', b'MATLAB 5.0 MAT-file', b'\x00' * 500, b'\xff' * 500])
def test_cars_refuses_a_broken_mat_file(tmp_path, content):
    cars_tree(tmp_path)
    (tmp_path / 'cars_annos.mat').write_bytes(content)
    refused('CARS196', tmp_path, 'cars_annos.mat')


@settings(garbage, max_examples=10)       # each starts a process
@given(data=st.data())
def test_cars_with_a_damaged_mat_file_reads_or_refuses(tmp_path, data):
    whole = tmp_path / 'whole'
    if not whole.exists():
        whole.mkdir()
        cars_tree(whole)
        (whole / 'cars_annos.mat').rename(tmp_path / 'good.mat')
    content = bytearray((tmp_path / 'good.mat').read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (whole / 'cars_annos.mat').write_bytes(content[:data.draw(st.one_of(st.none(), st.integers(0, len(content))))])
    reads_or_refuses('CARS196', whole)


@pytest.mark.parametrize('nested, where', [(False, ''), (True, 'devkit')])
def test_cars_from_the_devkit(tmp_path, nested, where):
    (tmp_path / where).mkdir(exist_ok=True)
    for folder, name, classes in (('cars_train', 'cars_train_annos.mat', [3, 1, 2, 4, 5]),
                                  ('cars_test', 'cars_test_annos_withlabels.mat', [5, 4, 3, 2, 1])):
        names = ['%05d.jpg' % i for i in range(1, 6)]
        table = np.zeros((1, 5), dtype=[(field, object) for field in
                                        ('bbox_x1', 'bbox_y1', 'bbox_x2', 'bbox_y2', 'class', 'fname')])
        for i in range(5):
            table[0, i] = (i + 1, 2, i + 31, 42, classes[i], names[i])
            touch(tmp_path, folder, folder if nested else '', names[i])
        savemat(str(tmp_path / where / name), {'annotations': table})
    savemat(str(tmp_path / where / 'cars_meta.mat'), {'class_names': np.array([CAR_NAMES], dtype=object)})
    train, test = get_dataset('CARS196', str(tmp_path))
    assert (train.class_names, test.class_names) == (CAR_NAMES[:2], CAR_NAMES[2:])
    assert train.labels.tolist() == [0, 1, 1, 0] and test.labels.tolist() == [0, 1, 2, 2, 1, 0]
    assert train.boxes[:, 0].tolist() == [2, 3, 4, 5] and train.boxes[0].tolist() == [2, 2, 30, 40]
    os.remove(str(tmp_path / where / 'cars_test_annos_withlabels.mat'))
    refused('CARS196', tmp_path, 'cars_test_annos_withlabels.mat')


CAR_NAMES = ['Z 1', 'A C/V', 'M 3', 'B 4', 'Y 5']


@pytest.mark.parametrize('splits', [('',), ('train', 'test')])
@pytest.mark.parametrize('slash', ['-', '_', ''])
def test_cars_from_named_folders_are_in_the_published_order(tmp_path, monkeypatch, splits, slash):
    if splits == ('',):
        monkeypatch.setattr(cars196, 'COUNTS', Counts(2, 3, 2, 3))
    for split in splits:
        for name in CAR_NAMES:
            touch(tmp_path, 'car_data', split, name.replace('/', slash), '1.jpg')
    refused('CARS196', tmp_path, 'cars_meta.mat')
    savemat(str(tmp_path / 'car_data' / 'cars_meta.mat'), {'class_names': np.array([CAR_NAMES], dtype=object)})
    train, test = get_dataset('CARS196', str(tmp_path))
    assert (train.class_names, test.class_names) == (CAR_NAMES[:2], CAR_NAMES[2:])
    assert ('cars_annos.mat' if splits == ('',) else 'cars_test_annos_withlabels.mat') in without_boxes(test)
    assert 'Z 1' in train.paths[0] and train.labels.tolist() == sorted(train.labels.tolist())


def test_cars_published_order_is_a_permutation():
    assert sorted(cars196._SORTED_IDS) == list(range(1, 197))


# SOP

def sop_tree(root, train=None, test=None, heading='image_id class_id super_class_id path'):
    def rows(classes):
        return ['%d %d %d %s_final/%d_%d.JPG' % (i, c, 1 + c % 2, ('bicycle', 'lamp')[c % 2], c, i)
                for i, c in enumerate(np.repeat(classes, 2).tolist())]
    train, test = train or rows([1, 2]), test or rows([3, 4, 5])
    for row in rows([1, 2]) + rows([3, 4, 5]):
        touch(root, row.split()[-1])
    write(root, 'Ebay_train.txt', [heading] + train)
    write(root, 'Ebay_test.txt', [heading] + test)
    return root


def test_sop(tmp_path):
    train, test = get_dataset('SOP', str(sop_tree(tmp_path)))
    assert train.labels.tolist() == [0, 0, 1, 1] and test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert train.class_names == ['1', '2'] and test.class_names == ['3', '4', '5']
    assert train.paths[3] == os.path.join(str(tmp_path), 'bicycle_final', '2_3.JPG')
    assert train.boxes is None and train.name == 'SOP'


def test_sop_in_the_archives_own_folder(tmp_path):
    (tmp_path / 'Stanford_Online_Products').mkdir()
    sop_tree(tmp_path / 'Stanford_Online_Products')
    assert len(get_dataset('SOP', str(tmp_path))[1]) == 6


@pytest.mark.parametrize('train, words', [
    (['0 1 1 bicycle_final/2_2.JPG', '1 1 1 x'], ['Ebay_train.txt', 'x', 'missing']),
    (['0 1 1 bicycle_final/2_2.JPG', '1 x 1 bicycle_final/2_3.JPG'], ['Ebay_train.txt', 'line 3']),
    (['0 1 1 bicycle_final/2_2.JPG', '1 1 bicycle_final/2_3.JPG'], ['Ebay_train.txt', 'line 3']),
    (['0 1 1 bicycle_final/2_2.JPG', '1 1 1 bicycle_final/2_2.JPG'], ['Ebay_train.txt', 'twice']),
    (['0 1 1 bicycle_final/2_2.JPG', '1 3 1 bicycle_final/2_3.JPG'], ['Ebay_train.txt', 'class 3']),
    (['0 1 1 bicycle_final/2_2.JPG', '1 2 1 bicycle_final/2_3.JPG'], ['2 training images', 'SOP has 4']),
    (['0 1 1 /Ebay_test.txt'], ['Ebay_train.txt', 'leads out']),
    (['0 %d 1 bicycle_final/2_2.JPG' % 2 ** 70], ['Ebay_train.txt', '64']),
    ([''], ['Ebay_train.txt', 'empty']),
])
def test_sop_refuses(tmp_path, train, words):
    refused('SOP', sop_tree(tmp_path, train=train), *words)


def test_sop_names_a_missing_list(tmp_path):
    os.remove(str(sop_tree(tmp_path) / 'Ebay_test.txt'))
    refused('SOP', tmp_path, 'Ebay_test.txt')
    refused('SOP', tmp_path / 'none', 'Ebay_train.txt', 'Stanford_Online_Products')


def test_sop_looks_at_folders_not_at_files(tmp_path, monkeypatch):
    """With 120,053 images a stat per file is what makes reading slow."""
    sop_tree(tmp_path)
    calls = []
    real = os.stat

    def counting(path, *args, **kwargs):
        calls.append(str(path))
        return real(path, *args, **kwargs)
    monkeypatch.setattr(os, 'stat', counting)
    get_dataset('SOP', str(tmp_path))
    assert not [path for path in calls if path.endswith('.JPG')]


def test_sop_in_lower_case(tmp_path):
    sop_tree(tmp_path)
    for place, folders, names in os.walk(str(tmp_path), topdown=False):
        for name in names + folders:
            os.rename(os.path.join(place, name), os.path.join(place, name.lower()))
    train, test = get_dataset('SOP', str(tmp_path))
    assert (len(train), len(test)) == (4, 6) and all(os.path.isfile(path) for path in train.paths)


# INSHOP

INSHOP_ROWS = [f'img/WOMEN/Dresses/id_{item:08d}/0{i}_front.jpg   id_{item:08d}  {status}'
               for item, statuses in ((1, ['train'] * 2), (7, ['train'] * 2), (3, ['query', 'gallery']),
                                      (4, ['gallery', 'query']), (5, ['query', 'gallery']))
               for i, status in enumerate(statuses)]


def inshop_tree(root, rows=INSHOP_ROWS, count=10, places=('Eval', 'Img', 'Anno'), boxes='2 1 10 20 40 60'):
    evaluation, pictures, annotations = places
    for row in INSHOP_ROWS:
        touch(root, pictures, row.split()[0])
    for folder, name, heading, lines in (
            (evaluation, 'list_eval_partition.txt', 'image_name item_id evaluation_status', rows),
            (annotations, 'list_bbox_inshop.txt', 'image_name clothes_type pose_type x_1 y_1 x_2 y_2',
             [f'{row.split()[0]}  {boxes}' for row in reversed(INSHOP_ROWS)])):
        os.makedirs(os.path.join(str(root), folder), exist_ok=True)
        write(os.path.join(str(root), folder), name, [str(count), heading, *lines])
    return root


@pytest.mark.parametrize('folder', ['', 'In-shop Clothes Retrieval Benchmark'])
@pytest.mark.parametrize('places', [('Eval', 'Img', 'Anno'), ('', '', ''), ('eval', '', 'anno'), ('Anno', 'Img', '')])
def test_inshop(tmp_path, folder, places):
    root = inshop_tree(tmp_path / folder, places=places)
    train, test = get_dataset('INSHOP', str(tmp_path))
    assert (train.class_names, train.labels.tolist()) == (['id_00000001', 'id_00000007'], [0, 0, 1, 1])
    assert (test.class_names, test.labels.tolist()) == (['id_00000003', 'id_00000004', 'id_00000005'],
                                                        [0, 0, 1, 1, 2, 2])
    assert train.queries is None and test.queries.tolist() == [True, False, False, True, True, False]
    assert test.paths[3] == os.path.join(str(root), places[1], 'img/WOMEN/Dresses/id_00000004/01_front.jpg')
    assert all(os.path.isfile(path) for path in train.paths + test.paths)
    assert test.boxes.tolist() == [[10, 20, 30, 40]] * 6


def test_inshop_without_boxes_or_with_bad_ones_reads_but_says_why(tmp_path):
    inshop_tree(tmp_path, boxes='2 1 10 20 10 60')
    file = tmp_path / 'Anno' / 'list_bbox_inshop.txt'
    train, test = get_dataset('INSHOP', str(tmp_path))
    assert train.boxes is test.boxes is None
    assert 'a box of img/WOMEN/Dresses/id_00000001/00_front.jpg whose second corner' in without_boxes(train)
    lines = file.read_text().split('\n')
    file.write_text('\n'.join(['9', *lines[1:3], *lines[4:]]))
    assert f'INSHOP has no bounding boxes ({file} does not list' in without_boxes(get_dataset('INSHOP',
                                                                                              str(tmp_path))[0])
    file.unlink()
    assert 'there is no' in without_boxes(get_dataset('INSHOP', str(tmp_path))[1])


def inshop_with(**changes):
    return [changes.get(f'row{number}', row) for number, row in enumerate(INSHOP_ROWS)]


@pytest.mark.parametrize('rows, words', [
    (INSHOP_ROWS[:9], ['9 rows', 'says 10']),
    (inshop_with(row2='img/WOMEN/Dresses/id_00000007/00_front.jpg id_00000007'), ['line 5', 'text text text']),
    (inshop_with(row2='img/WOMEN/Dresses/id_00000007/00_front.jpg id_00000007 val'), ['evaluation_status val']),
    (inshop_with(row2='img/WOMEN/Dresses/id_00000007/09_front.jpg id_00000007 train'), ['09_front.jpg', 'missing']),
    (inshop_with(row2='../x.jpg id_00000007 train'), ['leads out']),
    (inshop_with(row2=INSHOP_ROWS[3]), ['twice']),
    (inshop_with(row2=INSHOP_ROWS[2].replace('train', 'gallery')), ['id_00000007', 'no class may be in both']),
    (inshop_with(row2=INSHOP_ROWS[2].replace(' id_00000007', ' id_00000008')), ['3 training classes', 'INSHOP has 2']),
    (inshop_with(row7=INSHOP_ROWS[7].replace('query', 'gallery')), ['2 queries', 'INSHOP has 3']),
    (inshop_with(row7=INSHOP_ROWS[7].replace('query', 'gallery'), row9=INSHOP_ROWS[9].replace('gallery', 'query')),
     ['no query image of id_00000004']),
    ([row.replace('train', 'query') for row in INSHOP_ROWS], ['no images to train with']),
])
def test_inshop_refuses(tmp_path, rows, words):
    refused('INSHOP', inshop_tree(tmp_path, rows), 'list_eval_partition.txt', *words)


def test_inshop_names_a_missing_list(tmp_path):
    refused('INSHOP', tmp_path, 'list_eval_partition.txt', 'In-shop Clothes Retrieval Benchmark', 'Eval')


# miniCUB

def test_minicub(tmp_path):
    for folder in ('002.Laysan_Albatross', '001.Black_footed_Albatross.', 'A name with blanks', 'ä', '.hidden'):
        for name in ('b.jpg', 'a.JPEG', 'c.png', 'notes.txt', '.d.jpg', 'Thumbs.db', 'jpg'):
            touch(tmp_path, folder, name)
    touch(tmp_path, 'list.txt')
    touch(tmp_path, 'top.jpg')
    train, test = get_dataset('miniCUB', str(tmp_path))
    assert train.class_names == ['001.Black_footed_Albatross.', '002.Laysan_Albatross']
    assert test.class_names == ['A name with blanks', 'ä']
    assert [os.path.basename(path) for path in train.paths] == ['a.JPEG', 'b.jpg', 'c.png'] * 2
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert all(os.path.isfile(path) for path in train.paths + test.paths)


def test_minicub_tests_one_class_more_where_the_number_is_odd(tmp_path):
    for folder in 'abcde':
        touch(tmp_path, folder, 'x.jpg')
    train, test = get_dataset('miniCUB', str(tmp_path))
    assert (train.class_names, test.class_names) == (['a', 'b'], ['c', 'd', 'e'])


def test_minicub_follows_links(tmp_path):
    for folder in 'ab':
        touch(tmp_path, 'real', folder, 'x.jpg')
    (tmp_path / 'linked' / 'b').mkdir(parents=True)
    os.symlink(str(tmp_path / 'real' / 'a'), str(tmp_path / 'linked' / 'a'))
    os.symlink(str(tmp_path / 'real' / 'b' / 'x.jpg'), str(tmp_path / 'linked' / 'b' / 'x.jpg'))
    train, test = get_dataset('miniCUB', str(tmp_path / 'linked'))
    assert (len(train), len(test)) == (1, 1)
    os.symlink(str(tmp_path / 'nowhere'), str(tmp_path / 'linked' / 'b' / 'broken.jpg'))
    refused('miniCUB', tmp_path / 'linked', 'broken.jpg', 'nowhere', 'does not exist')


def test_minicub_refuses(tmp_path):
    refused('miniCUB', tmp_path / 'none', 'none')
    refused('miniCUB', tmp_path, str(tmp_path), 'no class folders')
    touch(tmp_path, 'a', 'x.jpg')
    refused('miniCUB', tmp_path, 'at least 2', os.path.join(str(tmp_path), 'a'))
    (tmp_path / 'b').mkdir()
    refused('miniCUB', tmp_path, os.path.join(str(tmp_path), 'b'), 'no image')
    refused('miniCUB', tmp_path / 'a' / 'x.jpg', 'x.jpg')


# FOLDER

def own_split(root, **classes):
    for split, names in classes.items():
        for name in names:
            touch(root, split, name, '1.jpg')
    return root


@pytest.mark.parametrize('name', ['FOLDER', 'miniCUB'])
def test_own_split(tmp_path, name):
    own_split(tmp_path, train='abc', test='ef', val='gh')
    train, test = get_dataset(name, str(tmp_path))
    assert (train.class_names, test.class_names, train.val.class_names) == (list('abc'), list('ef'), list('gh'))
    shutil.rmtree(str(tmp_path / 'val'))
    assert get_dataset(name, str(tmp_path))[0].val is None
    shutil.rmtree(str(tmp_path / 'test'))
    train, test = get_dataset(name, str(own_split(tmp_path, other='x')))
    assert (train.class_names, test.class_names) == (['other'], ['train'])


@pytest.mark.parametrize('split', ['test', 'val'])
def test_classes_of_training_are_not_tested_unless_asked(tmp_path, split):
    own_split(tmp_path, **{'train': 'abc', 'test': 'xy', split: 'bcz'})
    refused('FOLDER', tmp_path, 'b, c', split, '--allow-seen-classes')
    train, test = get_dataset('FOLDER', str(tmp_path), allow_seen_classes=True)
    assert (test if split == 'test' else train.val).class_names == ['b', 'c', 'z']


def test_validation_without_a_test_set_is_refused(tmp_path):
    refused('FOLDER', own_split(tmp_path, train='ab', val='cd'), 'no test')


def test_table(tmp_path):
    for name in ('1.jpg', '2.jpg', '3.jpg', '4.jpg'):
        touch(tmp_path, 'pictures', name)
    lines = ['Label,path,split,note', 'b,pictures/1.jpg,train,x', '"a, b",pictures/2.jpg,train,',
             'c,pictures/3.jpg,test,',
             'd,pictures/4.jpg,val,']
    write(tmp_path, 'list.csv', lines)
    write(tmp_path, 'other.csv', ['x,y', '1,2'])
    for path in (tmp_path, tmp_path / 'list.csv'):
        train, test = get_dataset('FOLDER', str(path))
        assert (train.class_names, train.labels.tolist()) == (['a, b', 'b'], [1, 0])
        assert (test.class_names, train.val.class_names) == (['c'], ['d'])
    write(tmp_path, 'list.csv', lines[:3] + lines[4:])
    train, test = get_dataset('FOLDER', str(tmp_path))
    assert (test.class_names, train.val) == (['d'], None)
    for changes, words in (([], ['no row']), (['c,pictures/9.jpg,test,'], ['line 4', '9.jpg', 'not exist']),
                           (['c,pictures/1.jpg,test,'], ['line 4', 'line 2']), (['c,pictures/3.jpg,exam,'], ['exam']),
                           (['c'], ['line 4', 'each column']), (['b,pictures/3.jpg,test,'], ['classes b'])):
        write(tmp_path, 'list.csv', lines[:3] + changes)
        refused('FOLDER', tmp_path, 'list.csv' if 'classes b' not in words else 'b', *words)
    write(tmp_path, 'list.csv', ['path,label', 'x,y'])
    refused('FOLDER', tmp_path / 'list.csv', 'no column split')


@pytest.mark.parametrize('heading, box', [
    ('x,y,w,h', '1,2,3,4.5'), ('x1,y1,x2,y2', '1,2,4,6.5'), ('x_1,x_2,y_1,y_2', '1,4,2,6.5'),
    ('width,height,xmin,ymin,xmax,ymax', '90,90,1,2,4,6.5'), ('bbox_y,bbox_x,bbox_width,bbox_height', '2,1,3,4.5')])
def test_table_with_boxes(tmp_path, heading, box):
    rows = [f'{number}.jpg,{split},{box}'
            for number, split in enumerate(('train,a', 'val,b', 'test,c', 'train,d'))]
    for number in range(4):
        touch(tmp_path, f'{number}.jpg')
    table = tmp_path / 'list.csv'

    def read(*rows):
        write(tmp_path, 'list.csv', [f'path,split,label,{heading}', *rows])
        return get_dataset('FOLDER', str(tmp_path))

    train, test = read(*rows)
    for images, count in ((train, 2), (test, 1), (train.val, 1)):
        assert images.boxes.tolist() == [[1, 2, 3, 4.5]] * count
        images.require_boxes()
    train, test = read(*rows[:3], '3.jpg,train,d' + ',' * box.count(',') + ',')    # none for this one
    assert train.boxes is test.boxes is None
    assert without_boxes(train) == without_boxes(test) == f'FOLDER has no bounding boxes ({table}: line 5 has none)'
    for value in ('x', '', '-1', '0', 'nan', 'inf'):
        with pytest.raises(DatasetError, match='list.csv: line 5 has the box .*, which is not .* with a positive'):
            read(*rows[:3], '3.jpg,train,d,' + box.rpartition(',')[0] + ',' + value)
    write(tmp_path, 'list.csv', ['path,split,label', *(row[:row.index(f',{box}')] for row in rows)])
    train, test = get_dataset('FOLDER', str(table))
    assert f'{table} has no columns x, y, w, h or x1, y1, x2, y2' in without_boxes(train)


def coco_list(folder, name, *pictures, **parts):
    """Writes a list of (file, category, what else its image and its annotation have)."""
    images, annotations = [], []
    for number, (file, category, image, annotation) in enumerate(pictures):
        touch(folder, file)
        images.append({'id': number, 'file_name': file, **image})
        annotations.append({'id': number, 'image_id': number, 'category_id': category, **annotation})
    content = {'info': {}, 'images': images, 'annotations': annotations,
               'categories': [{'id': i, 'name': name} for i, name in enumerate(('fly', 'bee', 'ant', 'owl'))], **parts}
    path = os.path.join(str(folder), name)
    with open(path, 'w') as file:
        json.dump(content, file)
    return path


def coco_images(*splits):
    return [{'id': i, 'file_name': f'{i + 1}.jpg', 'split': split} for i, split in enumerate(splits)]


def named(train, test):
    return [[(os.path.basename(path), images.class_names[label]) for path, label in zip(images.paths, images.labels)]
            for images in filter(None, (train, test, train.val))]


def test_json_with_a_split(tmp_path):
    box = {'bbox': [1, 2, 3.5, 4]}
    pictures = [('a/1.jpg', 0, {'split': 'train'}, box), ('a/2.jpg', 3, {'split': 'Val'}, box),
                ('a/3.jpg', 1, {'split': 'train'}, box), ('a/4.jpg', 2, {'split': 'test'}, box)]
    train, test = get_dataset('FOLDER', coco_list(tmp_path, 'x.json', *pictures))
    assert named(train, test) == [[('1.jpg', 'fly'), ('3.jpg', 'bee')], [('4.jpg', 'ant')], [('2.jpg', 'owl')]]
    assert train.class_names == ['bee', 'fly'] and test.boxes.tolist() == [[1, 2, 3.5, 4]]
    pictures[2] = ('a/3.jpg', 1, {'split': 'train'}, {})
    train, test = get_dataset('FOLDER', coco_list(tmp_path, 'x.json', *pictures[:3]))
    assert named(train, test)[1] == [('2.jpg', 'owl')]          # without a test, val is tested
    assert f'{tmp_path}/a/3.jpg has not one bbox in {tmp_path}/x.json' in without_boxes(test)


@pytest.mark.parametrize('train_list, val_list, whole', [
    ('train.json', 'val.json', True), ('train2018.json', 'val2018.json', False),
    ('train_mini.json', 'val.json', False)])
def test_json_in_two_files(tmp_path, train_list, val_list, whole):
    own = coco_list(tmp_path, train_list, ('train/1.jpg', 0, {}, {}), ('train/2.jpg', 1, {}, {}))
    coco_list(tmp_path, val_list, ('val/3.jpg', 2, {}, {}))
    coco_list(tmp_path, val_list.replace('val', 'test'), ('test/4.jpg', 3, {}, {}), annotations=[])  # as iNaturalist's
    expected = [[('1.jpg', 'fly'), ('2.jpg', 'bee')], [('3.jpg', 'ant')]]
    assert named(*get_dataset('FOLDER', own)) == expected
    if whole:
        assert named(*get_dataset('FOLDER', str(tmp_path))) == expected
    coco_list(tmp_path, val_list.replace('val', 'test'), ('test/4.jpg', 3, {}, {}))
    assert named(*get_dataset('FOLDER', own)) == [expected[0], [('4.jpg', 'owl')], expected[1]]
    coco_list(tmp_path, val_list, ('val/3.jpg', 1, {}, {}))
    refused('FOLDER', own, 'train and val both hold the classes bee', '--allow-seen-classes')
    assert get_dataset('FOLDER', own, allow_seen_classes=True)[0].val.class_names == ['bee']
    coco_list(tmp_path, val_list, ('train/2.jpg', 3, {}, {}))
    refused('FOLDER', own, 'train/2.jpg', 'is both in the list of train and in that of val')


def test_json_of_another_kind_beside_class_folders_is_passed_over(tmp_path):
    own_split(tmp_path, train='ab', val='c', test='d')
    for name in ('train.json', 'val.json'):
        write(tmp_path, name, ['{"images": 3}'])
    assert named(*get_dataset('FOLDER', str(tmp_path)))[1] == [('1.jpg', 'd')]
    refused('FOLDER', tmp_path / 'train.json', 'train.json', 'is no list of images')


def test_categories_of_one_name_are_two_classes(tmp_path):
    own = coco_list(tmp_path, 'x.json', ('1.jpg', 0, {'split': 'train'}, {}), ('2.jpg', 1, {'split': 'test'}, {}),
                    categories=[{'id': 0, 'name': 'fly'}, {'id': 1, 'name': 'fly'}])
    train, test = get_dataset('FOLDER', own)
    assert (train.class_names, test.class_names) == (['fly (0)'], ['fly (1)'])


@pytest.mark.parametrize('parts, words', [
    ({'images': [3]}, ['number 0 of "images"']), ({'images': [{'id': []}]}, ['number 0 of "images"']),
    ({'categories': [{'id': 1}, {'id': 1}]}, ['id 1 twice', 'categories']),
    ({'annotations': [{'image_id': 9, 'category_id': 1}]}, ['annotation 0']),
    ({'annotations': [{'image_id': {}, 'category_id': 1}]}, ['annotation 0']), ({'annotations': [0]}, ['annotation 0']),
    ({'annotations': [{'image_id': 0, 'category_id': 0}, {'image_id': 0, 'category_id': 1}]}, ['fly and bee']),
    ({'images': [{'id': 0, 'split': 'train'}, {'id': 1}]}, ['image 0 has no file_name']),
    ({'images': [{'id': 0, 'file_name': '9.jpg'}, {'id': 1, 'file_name': '2.jpg'}]}, ['9.jpg, which is missing']),
    ({'images': [{'id': 0, 'file_name': '../x'}, {'id': 1, 'file_name': '2.jpg'}]}, ['leads out']),
    ({'images': coco_images('train', None)}, ['2.jpg', 'split None']),
    ({'images': coco_images('train', 'x')}, ['2.jpg', "split 'x'"]),
    ({'annotations': []}, ['no image with a split']), ({'images': {}}, ['no list of images']),
    ({'images': coco_images(None, None)}, ['no image with a split', 'train.json needs']),
    ({'images': coco_images('test', 'test')}, ['no annotated image for train'])
])
def test_json_refuses(tmp_path, parts, words):
    own = coco_list(tmp_path, 'x.json', ('1.jpg', 0, {'split': 'train'}, {}), ('2.jpg', 1, {'split': 'test'}, {}),
                    **parts)
    refused('FOLDER', own, 'x.json', *words)


@pytest.mark.parametrize('content', [b'', b'{', b'[' * 100000, b'\xff', b'null', b'{"images": []}'])
def test_json_that_cannot_be_read(tmp_path, content):
    (tmp_path / 'x.json').write_bytes(content)
    refused('FOLDER', tmp_path / 'x.json', 'x.json')


def test_pictures_of_any_suffix_and_depth(tmp_path):
    for name in ('1.gif', '2.JFIF', '3.jpe', 'deep/er/4.jpg'):
        touch(tmp_path, 'a', name)
    for name, start in (('5', b'\xff\xd8\xff\xe0'), ('6.img', b'RIFF\0\0\0\0WEBP'), ('notes', b'text'), ('7.txt', b'')):
        (tmp_path / 'a' / name).write_bytes(start)
    touch(tmp_path, 'b', 'x.jpg')
    os.symlink(str(tmp_path / 'a'), str(tmp_path / 'a' / 'deep' / 'round'))
    train, _ = get_dataset('FOLDER', str(tmp_path))
    assert [os.path.relpath(path, str(tmp_path / 'a')) for path in train.paths] == [
        '1.gif', '2.JFIF', '3.jpe', '5', '6.img', 'deep/er/4.jpg']


# Garbage in every text list: data or a DatasetError, nothing else.

def reads_or_refuses(name, root):
    try:
        for images in get_dataset(name, str(root)):
            assert all(os.path.isfile(path) for path in images.paths)
            for path in images.paths:
                assert os.path.realpath(path).startswith(os.path.realpath(str(root)) + os.sep)
    except DatasetError as error:
        assert str(error).isprintable() and len(str(error).encode('utf-8')) > 10


LISTS = [('CUB', cub_tree, name) for name in cub_lists()] + [('SOP', sop_tree, 'Ebay_train.txt'),
                                                             ('SOP', sop_tree, 'Ebay_test.txt'),
                                                             ('INSHOP', inshop_tree, 'Eval/list_eval_partition.txt'),
                                                             ('INSHOP', inshop_tree, 'Anno/list_bbox_inshop.txt')]
number = st.one_of(st.integers(-3, 12), st.integers(), st.floats()).map(str)
word = st.one_of(number, st.sampled_from(['..', '/', '../../x', 'images.txt', '002.Bird_2/Bird_0003.jpg', '.', 'a//b',
                                          'bicycle_final/2_2.JPG', 'C:\\x', 'nan', '1_0', '\u0661', '\0', '\ud7ff']),
                 st.text(max_size=8))


@pytest.mark.parametrize('name, tree, file', LISTS, ids=[file for _, _, file in LISTS])
@garbage
@given(data=st.data())
def test_garbage_in_a_list(tmp_path, name, tree, file, data):
    if not (tmp_path / file).exists():
        tree(tmp_path)
        (tmp_path / file).rename(tmp_path / 'good')
    lines = (tmp_path / 'good').read_bytes().split(b'\n')
    for _ in range(data.draw(st.integers(0, 3))):
        row = data.draw(st.integers(0, len(lines) - 1))
        kind = data.draw(st.sampled_from(['word', 'line', 'drop', 'repeat', 'bytes']))
        if kind == 'word':
            words = lines[row].split()
            if words:
                words[data.draw(st.integers(0, len(words) - 1))] = data.draw(word).encode('utf-8')
            lines[row] = b' '.join(words)
        elif kind == 'line':
            lines[row] = ' '.join(data.draw(st.lists(word, max_size=6))).encode('utf-8')
        elif kind == 'drop':
            lines[row] = b''
        elif kind == 'repeat':
            lines.insert(row, lines[row])
        else:
            lines[row] = data.draw(st.binary(max_size=20))
    content = b'\n'.join(lines)
    (tmp_path / file).write_bytes(content[:data.draw(st.one_of(st.none(), st.integers(0, len(content))))])
    reads_or_refuses(name, tmp_path)


@pytest.mark.parametrize('name, tree, file', LISTS, ids=[file for _, _, file in LISTS])
@garbage
@given(content=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda text: text.encode('utf-16'))))
def test_nothing_but_garbage_in_a_list(tmp_path, name, tree, file, content):
    if not (tmp_path / file).exists():
        tree(tmp_path)
    (tmp_path / file).write_bytes(content)
    reads_or_refuses(name, tmp_path)


folder_name = st.one_of(st.sampled_from(['001.Bird', '.hidden', ' ', '~', 'a b', '-', '\u00e4', '\u202e', 'x\ny',
                                         'x.jpg']),
                        st.text(min_size=1, max_size=6).filter(lambda t: '/' not in t and '\0' not in t
                                                               and t not in ('.', '..')))


@garbage
@given(tree=st.dictionaries(folder_name, st.lists(st.one_of(folder_name, st.sampled_from(
    ['a.jpg', 'B.PNG', '.c.jpg', 'notes.txt', 'x.jpg/y.jpg'])), max_size=4), max_size=6))
def test_any_folders_of_minicub(tmp_path, tree):
    root = tmp_path / 'tree'
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for folder, names in tree.items():
        for name in names or ['']:
            try:
                touch(root, folder, name) if name else (root / folder).mkdir()
            except (OSError, UnicodeError):     # no name for this file system, or one that is taken
                continue
    reads_or_refuses('miniCUB', root)
