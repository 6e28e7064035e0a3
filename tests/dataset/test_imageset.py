"""ImageSet, the class split, the registry and the error type."""
from __future__ import annotations

import numpy as np
import pytest

from common.errors import UsageError
from dataset import DatasetError, ImageSet, dataset_names, fold_classes, get_dataset, register, split_classes
from dataset import registry
from dataset.imageset import Counts, check_counts


def image_set(classes=6, **changes):
    labels = np.random.RandomState(1).permutation(np.repeat(np.arange(classes), 3))
    arguments = {'paths': ['%d/%d.jpg' % (label, i) for i, label in enumerate(labels)], 'labels': labels,
                     'class_names': ['class %d' % i for i in range(classes)],
                     'boxes': np.arange(12 * classes).reshape(-1, 4), 'name': 'Toy', 'mirror': False}
    arguments.update(changes)
    return ImageSet(**arguments)


def test_length_classes_and_types():
    images = image_set(labels=image_set().labels.astype(np.int32))
    assert len(images) == 18 and images.num_classes == 6
    assert images.labels.dtype == np.int64 and images.boxes.dtype == np.float32


@pytest.mark.parametrize('changes', [
    {'labels': np.zeros(3, dtype=int)}, {'labels': np.zeros((18, 1), dtype=int)}, {'labels': np.zeros(18)},
    {'labels': np.zeros(18, dtype=int)}, {'labels': np.arange(18) % 7}, {'labels': np.arange(18) % 6 - 1},
    {'boxes': np.zeros((17, 4))}, {'boxes': np.zeros((18, 3))}, {'class_names': ['only one']},
    {'queries': np.zeros(17, bool)}, {'queries': np.zeros(18)},
])
def test_parts_that_do_not_fit_are_refused(changes):
    with pytest.raises(DatasetError, match='^Toy needs .*[.]$'):
        image_set(**changes)


def test_select_classes_relabels_and_keeps_everything_together():
    images = image_set(queries=np.arange(18) % 2 == 0)
    chosen = images.select_classes([4, 1])
    assert chosen.class_names == ['class 4', 'class 1']
    assert (chosen.name, chosen.mirror) == ('Toy', False)
    expected = [(path, {4: 0, 1: 1}[label], box.tolist(), query)
                for path, label, box, query in zip(images.paths, images.labels, images.boxes, images.queries)
                if label in (4, 1)]
    assert list(zip(chosen.paths, chosen.labels.tolist(), chosen.boxes.tolist(), chosen.queries)) == expected


def test_select_classes_without_boxes():
    assert image_set(boxes=None).select_classes([0]).boxes is None


@pytest.mark.parametrize('ids', [[], [0, 0], [6], [-1]])
def test_select_classes_refuses(ids):
    with pytest.raises(DatasetError, match='Toy'):
        image_set().select_classes(ids)


@pytest.mark.parametrize('fraction, held', [(0.5, 5), (0.3, 3), (0.01, 2), (0.99, 8)])
def test_split_is_class_disjoint_and_complete(fraction, held):
    images = image_set(10)
    rest, held_out = split_classes(images, fraction, seed=3)
    assert held_out.num_classes == held and rest.num_classes == 10 - held
    assert not set(rest.class_names) & set(held_out.class_names)
    assert sorted(rest.class_names + held_out.class_names) == sorted(images.class_names)
    assert sorted(rest.paths + held_out.paths) == sorted(images.paths)
    assert rest.class_names == sorted(rest.class_names)


def test_split_depends_on_the_seed_only():
    images = image_set(40)
    np.random.seed(0)
    first = split_classes(images, 0.5, seed=1)[1].class_names
    np.random.seed(1)
    assert split_classes(images, 0.5, seed=1)[1].class_names == first
    assert split_classes(images, 0.5, seed=2)[1].class_names != first


@pytest.mark.parametrize('fraction', [0, 1, -0.1, 1.5, float('nan')])
def test_split_refuses_a_share_that_is_none(fraction):
    with pytest.raises(UsageError, match='--val-split'):
        split_classes(image_set(), fraction)


def test_split_needs_four_classes():
    with pytest.raises(UsageError, match='--val-split needs at least 4 training classes, Toy has 3'):
        split_classes(image_set(3), 0.5)


@pytest.mark.parametrize('classes, parts', [(12, 4), (13, 4), (10, 5), (4, 2), (11, 3)])
def test_folds_share_no_class_and_hold_out_every_class_once(classes, parts):
    images = image_set(classes)
    held = []
    for number in range(1, parts + 1):
        rest, held_out = fold_classes(images, number, parts, seed=7)
        assert sorted(rest.class_names + held_out.class_names) == sorted(images.class_names)
        assert sorted(rest.paths + held_out.paths) == sorted(images.paths)
        for part in (rest, held_out):
            assert part.class_names == sorted(part.class_names, key=images.class_names.index)
        assert held_out.num_classes in (classes // parts, -(-classes // parts))
        held += held_out.class_names
    assert sorted(held) == sorted(images.class_names)


def test_folds_depend_on_the_seed_only():
    images = image_set(20)
    np.random.seed(0)
    first = fold_classes(images, 2, 4, seed=1)[1].class_names
    np.random.seed(1)
    assert fold_classes(images, 2, 4, seed=1)[1].class_names == first
    assert fold_classes(images, 2, 4, seed=2)[1].class_names != first


def test_a_fold_needs_two_classes():
    with pytest.raises(UsageError, match='--fold 1/4 needs at least 8 training classes, Toy has 7'):
        fold_classes(image_set(7), 1, 4)


def test_published_counts_are_compared():
    images = image_set()
    train, test = images.select_classes([0, 1, 2]), images.select_classes([3, 4, 5])
    check_counts(train, test, Counts(3, 3, 9, 9), 'list.txt')
    for wrong, message in [(Counts(4, 3, 9, 9), '3 training classes where Toy has 4'),
                           (Counts(3, 4, 9, 9), '3 test classes where Toy has 4'),
                           (Counts(3, 3, 8, 9), '9 training images where Toy has 8'),
                           (Counts(3, 3, 9, 8), '9 test images where Toy has 8')]:
        with pytest.raises(DatasetError, match='^list.txt has ' + message + '[.]$'):
            check_counts(train, test, wrong, 'list.txt')


def test_registry_has_the_datasets_of_the_design():
    assert set(dataset_names()) >= {'CUB', 'CARS196', 'SOP', 'INSHOP', 'miniCUB', 'GLYPHS'}


def test_unknown_dataset_names_the_choices():
    with pytest.raises(UsageError, match='--dataset CUBE .*CUB, '):
        get_dataset('CUBE', None)


@pytest.mark.parametrize('name', ['CUB', 'CARS196', 'SOP', 'INSHOP', 'miniCUB'])
@pytest.mark.parametrize('path', [None, ''])
def test_data_path_is_needed(name, path):
    with pytest.raises(UsageError, match='--data-path'):
        get_dataset(name, path)


def test_a_dataset_of_ones_own(monkeypatch):
    monkeypatch.setattr(registry, '_READERS', dict(registry._READERS))
    calls = []

    @register('Mine')
    def read(path):
        calls.append(path)
        return 'train', 'test'

    @register('Made', generated=True)
    def make(path, size, seed):
        calls.append((path, size, seed))
        return 'train', 'test'

    assert get_dataset('Mine', 'folder') == ('train', 'test')
    get_dataset('Made', None, image_size=32, resize=37, seed=5)
    assert calls == ['folder', (None, 37, 5)]
    with pytest.raises(ValueError, match='Mine'):
        register('Mine')(read)


def test_an_error_is_one_printable_line():
    message = str(DatasetError('a\nb\x1b[31m \udcff is wrong, café is fine.'))
    assert message == 'a\\nb\\x1b[31m \\udcff is wrong, café is fine.'
    assert message.encode('utf-8')
