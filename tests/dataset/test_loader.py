"""The loader keeps order and labels, draws the same pixels with any number of threads, and never hangs."""
import gc
import os
import threading
import time

import cv2
import numpy as np
import pytest

import dataset.loader
from common.errors import UsageError
from dataset.decode import read_image
from dataset.errors import DatasetError
from dataset.imageset import ImageSet
from dataset.loader import Loader
from dataset.transforms import draw_crops
from tests.dataset.pictures import encoded, image_folder, smooth

BATCHES = [[5, 0, 23, 11], [7, 7, 1, 2], [12], [3, 4, 22, 21]]


@pytest.fixture
def images(tmp_path):
    return image_folder(tmp_path)


def pixels_of(images, index):
    return read_image(images.paths[index])


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith('loader')]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    if loader_threads():
        gc.collect()
    deadline = time.monotonic() + 5
    while loader_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not loader_threads()


@pytest.mark.parametrize('workers', [0, 1, 3])
def test_test_batches_are_the_centres_in_order(images, workers):
    with Loader(images, None, train=False, image_size=32, resize=40, num_workers=workers, batch_size=7) as loader:
        batches = list(loader)
        assert len(loader) == len(batches) == 4
    assert [len(batch.labels) for batch in batches] == [7, 7, 7, 3]
    np.testing.assert_array_equal(np.concatenate([batch.indices for batch in batches]), np.arange(24))
    np.testing.assert_array_equal(np.concatenate([batch.labels for batch in batches]), images.labels)
    for batch in batches:
        assert batch.images.dtype == np.uint8 and batch.labels.dtype == batch.indices.dtype == np.int64
        for image, index in zip(batch.images, batch.indices):
            np.testing.assert_array_equal(image, pixels_of(images, index)[4:36, 4:36])


@pytest.mark.parametrize('workers', [0, 1, 4])
def test_training_batches_follow_the_sampler(images, workers):
    with Loader(images, BATCHES, train=True, image_size=32, resize=40, num_workers=workers, seed=3) as loader:
        loader.set_epoch(2)
        batches = list(loader)
        assert len(loader) == 4
    draws = iter(draw_crops(3, 2, 0, 13, 40, 32, mirror=True))      # one sequence for the whole epoch
    for batch, indices in zip(batches, BATCHES):
        np.testing.assert_array_equal(batch.indices, indices)
        np.testing.assert_array_equal(batch.labels, images.labels[indices])
        for image, index in zip(batch.images, indices):
            top, left, mirrored, *_ = next(draws)
            crop = pixels_of(images, index)[top:top + 32, left:left + 32]
            np.testing.assert_array_equal(image, crop[:, ::-1] if mirrored else crop)


def test_crops_of_any_size_are_scaled(images):
    with Loader(images, BATCHES, train=True, image_size=24, resize=40, seed=3, min_scale=0.2, max_aspect=1.5) as loader:
        batches = list(loader)
    draws = iter(draw_crops(3, 0, 0, 13, 40, 24, mirror=True, min_scale=0.2, max_aspect=1.5))
    for batch, indices in zip(batches, BATCHES):
        for image, index in zip(batch.images, indices):
            top, left, mirrored, height, width = next(draws)
            crop = cv2.resize(pixels_of(images, index)[top:top + height, left:left + width], (24, 24),
                              interpolation=cv2.INTER_LINEAR)
            np.testing.assert_array_equal(image, crop[:, ::-1] if mirrored else crop)


def test_same_pixels_with_any_number_of_threads(images):
    def epoch(workers, number, seed=1, **options):
        with Loader(images, BATCHES, True, 24, 40, num_workers=workers, seed=seed, **options) as loader:
            loader.set_epoch(number)
            return np.concatenate([batch.images for batch in loader])

    reference = epoch(0, 1)
    for workers in (1, 2, 5):
        np.testing.assert_array_equal(epoch(workers, 1), reference)
        np.testing.assert_array_equal(epoch(workers, 1, prefetch=1), reference)
    assert not np.array_equal(epoch(2, 2), reference)
    assert not np.array_equal(epoch(2, 1, seed=2), reference)
    # The same image twice in a batch: two draws.
    with Loader(images, [[7] * 20], True, 24, 40) as loader:
        assert len({image.tobytes() for image in next(iter(loader)).images}) > 10


def test_an_epoch_can_be_repeated_and_left_midway(images):
    with Loader(images, BATCHES, True, 24, 40, num_workers=2) as loader:
        whole = [batch.images for batch in loader]
        for count in (1, 3, 0):
            iteration = iter(loader)
            for image, _ in zip(whole, range(count)):
                np.testing.assert_array_equal(next(iteration).images, image)
            iteration.close()
            assert len(loader_threads()) <= 2
        for a, b in zip(loader, loader):        # two at the same time
            np.testing.assert_array_equal(a.images, b.images)
        np.testing.assert_array_equal([batch.images for batch in loader][3], whole[3])


def test_a_batch_stays_as_it_was_delivered(images):
    with Loader(images, BATCHES * 3, True, 24, 40, num_workers=2) as loader:
        copies = [(batch.images, batch.images.copy()) for batch in loader]
    for image, copy in copies:
        np.testing.assert_array_equal(image, copy)


def test_mirroring_is_up_to_the_image_set(images):
    left = images.paths[0]
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:, :16] = 255
    with open(left, 'wb') as file:
        file.write(encoded(pixels, 'PNG'))

    def mirrored(set_mirrors, mirror, train=True):
        images.mirror = set_mirrors
        with Loader(images, [[0] * 64], train, 32, 32, mirror=mirror) as loader:
            batch = next(iter(loader)).images
        return int((batch[:, 0, 0, 0] == 0).sum())

    assert 16 < mirrored(True, None) < 48 and 16 < mirrored(False, True) < 48
    assert mirrored(False, None) == mirrored(True, False) == mirrored(True, True, train=False) == 0


def test_crops_to_the_bounding_boxes(tmp_path):
    pixels = np.zeros((60, 90, 3), dtype=np.uint8)
    pixels[10:40, 20:80] = smooth(30, 60)
    path = str(tmp_path / 'a.png')
    with open(path, 'wb') as file:
        file.write(encoded(pixels, 'PNG'))
    images = ImageSet([path], np.array([0]), ['a'], boxes=np.array([[20, 10, 60, 30]], dtype=np.float32))
    for cache in (None, str(tmp_path / 'cache')):
        with Loader(images, None, False, 40, 40, use_crops=True, batch_size=1, cache=cache) as loader:
            image = next(iter(loader)).images[0]
        assert image.min(axis=2).max() > 0 and image.max(axis=2).min() > 0, 'nothing of the black border'
    with pytest.raises(UsageError, match='--use-crops'):
        Loader(ImageSet([path], np.array([0]), ['a']), None, False, 40, 40, use_crops=True, batch_size=1)


def spoil(images, *indices):
    for index in indices:
        with open(images.paths[index], 'r+b') as file:
            file.truncate(100)


@pytest.mark.parametrize('workers', [0, 2])
def test_a_bad_image_is_an_error_that_names_it_once(images, workers):
    spoil(images, 12)
    with Loader(images, BATCHES * 2, True, 24, 40, num_workers=workers) as loader:
        iteration = iter(loader)
        for indices in BATCHES[:2]:
            np.testing.assert_array_equal(next(iteration).indices, indices)
        with pytest.raises(DatasetError, match='012.png: truncated PNG'):
            next(iteration)
        with pytest.raises(StopIteration):
            next(iteration)
        with pytest.raises(DatasetError, match='012.png'):       # it still works, and still refuses
            list(loader)


@pytest.mark.parametrize('workers', [0, 1, 3])
@pytest.mark.parametrize('cached', [False, True])
def test_bad_images_are_replaced_in_training(images, workers, cached, tmp_path):
    spoil(images, 5, 0, 23, 7)
    said = []
    with Loader(images, BATCHES * 2, True, 40, 40, mirror=False, num_workers=workers, skip_bad_images=4,
                on_bad=lambda *pair: said.append(pair), cache=str(tmp_path / 'cache') if cached else None) as loader:
        batches = [batch for _ in range(2) for batch in loader]
    # The next good one of the class, cyclically: 5 -> 1 (0 is bad), 0 -> 1, 23 -> 18, 7 -> 8.
    expected = [[1, 1, 18, 11], [8, 8, 1, 2], [12], [3, 4, 22, 21]] * 4
    for batch, indices, wanted in zip(batches, expected, BATCHES * 4):
        np.testing.assert_array_equal(batch.indices, indices)
        np.testing.assert_array_equal(batch.labels, images.labels[wanted])
        for image, index in zip(batch.images, batch.indices):
            np.testing.assert_array_equal(image, pixels_of(images, index))
    assert len(batches) == len(expected)
    assert [os.path.basename(path) for path, _ in said] == ['005.png', '000.png', '023.png', '007.png']
    assert all(reason.startswith('truncated PNG') for _, reason in said)


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('cached', [False, True])
def test_bad_images_are_left_out_in_testing(images, workers, cached, tmp_path):
    spoil(images, 0, 10, 18, 19, 20)
    said = []
    with Loader(images, None, False, 40, 40, num_workers=workers, skip_bad_images=5, batch_size=3,
                on_bad=lambda *pair: said.append(pair), cache=str(tmp_path / 'cache') if cached else None) as loader:
        for _ in range(2):
            batches = list(loader)
            indices = np.concatenate([batch.indices for batch in batches])
            np.testing.assert_array_equal(indices, np.setdiff1d(np.arange(24), [0, 10, 18, 19, 20]))
            for batch in batches:
                np.testing.assert_array_equal(batch.labels, images.labels[batch.indices])
                for image, index in zip(batch.images, batch.indices):
                    np.testing.assert_array_equal(image, pixels_of(images, index))
    assert len(batches) == 7 and len(said) == 5


@pytest.mark.parametrize('cached', [False, True])
def test_too_many_bad_images(images, cached, tmp_path):
    spoil(images, 1, 2, 3)
    with pytest.raises(DatasetError, match='003.png: truncated PNG.*--skip-bad-images 2'), \
            Loader(images, None, False, 40, 40, num_workers=2, skip_bad_images=2, batch_size=4,
                   cache=str(tmp_path / 'cache') if cached else None) as loader:
        list(loader)


def test_a_class_without_any_good_image(images):
    spoil(images, *range(6, 12))
    with pytest.raises(DatasetError, match='every other image of its class'), \
            Loader(images, BATCHES, True, 40, 40, num_workers=2, skip_bad_images=24) as loader:
        list(loader)


def test_errors_of_sampler_and_callback_surface(images):
    def sampler():
        yield [1, 2]
        raise KeyError('sampler')

    def on_bad(*_):
        raise OSError('the log cannot be written')

    with Loader(images, sampler(), True, 24, 40, num_workers=2) as loader, pytest.raises(KeyError, match='sampler'):
        list(loader)
    with Loader(images, [[24]], True, 24, 40, num_workers=2) as loader, pytest.raises(IndexError):
        list(loader)
    spoil(images, 1)
    with Loader(images, [[1]], True, 24, 40, num_workers=2, skip_bad_images=1, on_bad=on_bad) as loader, \
            pytest.raises(OSError, match='the log'):
        list(loader)


def test_prefetch_is_bounded(images):
    read = []

    def sampler():
        for number in range(20):
            read.append(number)
            yield [number]

    with Loader(images, sampler(), True, 24, 40, num_workers=2, prefetch=3) as loader:
        for number, _ in enumerate(loader):
            assert len(read) <= number + 1 + 3
    assert len(read) == 20


def test_threads_work_at_the_same_time(images, monkeypatch):
    barrier = threading.Barrier(3)

    def wait(*arguments):
        barrier.wait(timeout=10)        # passes only if three wait together
        return np.zeros((40, 40, 3), dtype=np.uint8)

    monkeypatch.setattr(dataset.loader, 'read_image', wait)
    with Loader(images, [[0, 1, 2]], True, 24, 40, num_workers=3) as loader:
        assert len(list(loader)) == 1


def test_closing(images):
    loader = Loader(images, BATCHES, True, 24, 40, num_workers=2)
    iteration = iter(loader)
    next(iteration)
    loader.close()
    assert not loader_threads()
    loader.close()
    with pytest.raises(RuntimeError, match='closed'):
        list(loader)
    Loader(images, BATCHES, True, 24, 40, num_workers=2)        # never used, never closed: see no_thread_is_left


@pytest.mark.parametrize('image_size, resize', [(41, 40), (0, 40)])
def test_impossible_sizes(images, image_size, resize):
    with pytest.raises(UsageError, match='--image-size'):
        Loader(images, BATCHES, True, image_size, resize)


def test_either_sampler_or_batch_size(images):
    for batches, size in ((None, None), (BATCHES, 3), (None, 0)):
        with pytest.raises(ValueError, match='batch'):
            Loader(images, batches, True, 24, 40, batch_size=size)


def test_no_images(tmp_path):
    with Loader(ImageSet([], np.zeros(0, dtype=np.int64), []), None, False, 24, 40, batch_size=3,
                cache=str(tmp_path / 'cache'), num_workers=1) as loader:
        assert len(loader) == 0 and list(loader) == []
