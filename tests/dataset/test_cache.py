"""The cache is built once, is never half a cache, and notices when it is no longer true."""
import errno
import glob
import json
import multiprocessing
import os
import resource
import shutil
import signal
import time

import numpy as np
import pytest

import dataset.cache
from dataset.cache import open_cache
from dataset.decode import read_image
from dataset.errors import DatasetError
from dataset.loader import Loader
from tests.dataset.pictures import encoded, image_folder, smooth

SIZE = 24 * 20 * 20 * 3


@pytest.fixture
def images(tmp_path):
    return image_folder(tmp_path)


@pytest.fixture
def folder(tmp_path):
    return str(tmp_path / 'made' / 'cache')


def open_it(folder, images, resize=20, **options):
    return open_cache(folder, images.paths, resize, **options)


def assert_right(cache, images, resize=20):
    for index, path in enumerate(images.paths):
        np.testing.assert_array_equal(cache.read(index), read_image(path, resize))


def file_of(folder, pattern):
    file, = glob.glob(os.path.join(folder, pattern))
    return file


def decoded(monkeypatch):
    """List of the images that were decoded from now on."""
    paths = []
    monkeypatch.setattr(dataset.cache, 'read_image', lambda path, *rest: paths.append(path) or read_image(path, *rest))
    return paths


@pytest.mark.parametrize('workers', [0, 1, 3])
def test_built_once(images, folder, workers, monkeypatch):
    monkeypatch.setattr(dataset.cache, '_CHUNK', 5)
    paths = decoded(monkeypatch)
    assert_right(open_it(folder, images, num_workers=workers), images)
    assert sorted(paths) == images.paths
    assert_right(open_it(folder, images), images)
    assert len(paths) == 24
    assert os.path.getsize(file_of(folder, '*.u8')) == SIZE
    assert len(os.listdir(folder)) == 3, 'pixels, manifest, lock: nothing temporary'


def test_the_loader_gives_the_same_pixels(images, folder):
    batches = [[3, 3, 20], [0, 23]]
    for train in (True, False):
        found = []
        for cache in (None, folder, folder):
            with Loader(images, batches, train, 16, 20, num_workers=2, seed=4, cache=cache) as loader:
                found.append(np.concatenate([batch.images for batch in loader]))
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found[0], found[2])


def test_sets_and_settings_do_not_get_into_each_others_way(images, folder, monkeypatch):
    boxes = np.tile(np.array([[5, 5, 20, 10]], dtype=np.float32), (24, 1))
    paths = decoded(monkeypatch)
    for _ in range(2):
        assert_right(open_it(folder, images), images)
        assert_right(open_it(folder, images, resize=16), images, 16)
        assert_right(open_it(folder, images.select_classes([1])), images.select_classes([1]))
        cropped = open_it(folder, images, boxes=boxes)
        np.testing.assert_array_equal(cropped.read(7), read_image(images.paths[7], 20, boxes[7]))
    assert len(paths) == 24 * 3 + 6


@pytest.mark.parametrize('change', ['pixels', 'time', 'shorter list'])
def test_rebuilt_when_images_change(images, folder, change, monkeypatch):
    open_it(folder, images)
    path = images.paths[7]
    if change == 'pixels':
        with open(path, 'wb') as file:
            file.write(encoded(smooth(40, 40, seed=99), 'PNG'))
    elif change == 'time':
        os.utime(path, ns=(1, os.stat(path).st_mtime_ns + 1))
    else:
        images = images.select_classes([0, 1, 2])
    paths = decoded(monkeypatch)
    assert_right(open_it(folder, images), images)
    assert sorted(paths) == images.paths
    if change != 'shorter list':
        assert len(os.listdir(folder)) == 3, 'the old pixels are gone'


def flip(file, place):
    with open(file, 'r+b') as stream:
        stream.seek(place)
        byte = stream.read(1)[0]
        stream.seek(place)
        stream.write(bytes([byte ^ 1]))


@pytest.mark.parametrize('damage', ['manifest cut', 'manifest bit', 'manifest empty', 'pixels cut', 'pixels gone',
                                    'pixels longer', 'another format'])
def test_damage_that_shows_is_repaired(images, folder, damage, monkeypatch):
    open_it(folder, images)
    manifest, pixels = file_of(folder, '*.json'), file_of(folder, '*.u8')
    if damage == 'manifest cut':
        os.truncate(manifest, os.path.getsize(manifest) // 2)
    elif damage == 'manifest bit':
        with open(manifest, 'rb') as file:
            flip(manifest, file.read().rindex(b', null]') - 1)         # a digit of a checksum: still JSON
    elif damage == 'manifest empty':
        os.truncate(manifest, 0)
    elif damage == 'pixels cut':
        os.truncate(pixels, SIZE - 1)
    elif damage == 'pixels longer':
        os.truncate(pixels, SIZE + 1)
    elif damage == 'pixels gone':
        os.remove(pixels)
    else:
        with open(manifest, 'w') as file:
            json.dump({'images': []}, file)
    paths = decoded(monkeypatch)
    assert_right(open_it(folder, images), images)
    assert len(paths) == 24 and len(os.listdir(folder)) == 3


def test_flipped_bits_in_pixels_are_an_error(images, folder):
    open_it(folder, images)
    pixels = file_of(folder, '*.u8')
    flip(pixels, SIZE // 24 * 7 + 100)
    cache = open_it(folder, images)
    cache.read(6)
    for _ in range(2):
        with pytest.raises(DatasetError, match='damaged') as caught:
            cache.read(7)
        assert str(caught.value).startswith(pixels)
    os.remove(pixels)
    assert_right(open_it(folder, images), images)


def test_bad_images(images, folder):
    with open(images.paths[3], 'wb'):
        pass
    with pytest.raises(DatasetError, match='003.png: it is empty'):
        open_it(folder, images)
    assert len(os.listdir(folder)) == 1, 'only the lock'
    assert open_it(folder, images, skip_bad_images=1).bad == {3: 'it is empty'}
    assert open_it(folder, images).bad == {3: 'it is empty'}
    with pytest.raises(DatasetError, match='003.png: it is empty'), \
            Loader(images, None, False, 20, 20, batch_size=5, cache=folder) as loader:
        list(loader)
    with open(images.paths[20], 'wb'):
        pass
    with pytest.raises(DatasetError, match='020.png: it is empty.*--skip-bad-images 1'):
        open_it(folder, images, skip_bad_images=1)
    assert open_it(folder, images, skip_bad_images=2).bad.keys() == {3, 20}
    os.remove(images.paths[3])
    for _ in range(2):
        assert 'cannot be read' in open_it(folder, images, skip_bad_images=2).bad[3]


def test_no_room_on_the_disk(images, folder, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(100, 80, SIZE - 1))
    paths = decoded(monkeypatch)
    with pytest.raises(DatasetError) as caught:
        open_it(folder, images)
    for words in ('--cache', '0.0 MB for 24 images', folder):
        assert words in str(caught.value)
    assert not paths and len(os.listdir(folder)) == 1


@pytest.mark.parametrize('call', ['posix_fallocate', 'pwrite', 'fsync', 'replace'])
def test_disk_full_while_writing(images, folder, call, monkeypatch):
    with monkeypatch.context() as patch:
        def full(*_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        patch.setattr(os, call, full)
        with pytest.raises(DatasetError, match='--cache.*No space left on device'):
            open_it(folder, images)
        assert not glob.glob(os.path.join(folder, '*.json'))
    assert_right(open_it(folder, images), images)
    assert len(os.listdir(folder)) == 3


def test_writes_that_stop_short(images, folder, monkeypatch):
    pwrite = os.pwrite
    monkeypatch.setattr(os, 'pwrite', lambda file, data, offset: pwrite(file, data[:500], offset))
    assert_right(open_it(folder, images), images)


def test_file_size_limit(images, folder):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, hard))
    try:
        with pytest.raises(DatasetError, match='--cache.*File too large'):
            open_it(folder, images)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert_right(open_it(folder, images), images)


def test_folder_that_cannot_be(images, tmp_path):
    with pytest.raises(DatasetError, match='--cache.*File exists|--cache.*Not a directory'):
        open_it(images.paths[0], images)


def test_an_open_cache_outlives_its_replacement(images, folder):
    """A process that has the old pixels mapped goes on with them while another one builds anew."""
    cache = open_it(folder, images)
    before = cache.read(0).copy()
    with open(images.paths[0], 'wb') as file:
        file.write(encoded(smooth(40, 40, seed=77), 'PNG'))
    assert_right(open_it(folder, images), images)
    np.testing.assert_array_equal(cache.read(0), before)
    cache.read(23)


def _slow_build(folder, paths, count):
    def slowly(path, *rest):
        with count.get_lock():
            count.value += 1
        time.sleep(0.02)
        return read_image(path, *rest)

    dataset.cache.read_image = slowly
    cache = open_cache(folder, paths, 20)
    for index, path in enumerate(paths):
        if not np.array_equal(cache.read(index), read_image(path, 20)):
            os._exit(3)
    os._exit(0)


def start(folder, images, count):
    process = multiprocessing.get_context('fork').Process(target=_slow_build, args=(folder, images.paths, count))
    process.start()
    return process


def test_two_builders_at_once(images, folder):
    count = multiprocessing.Value('i', 0)
    processes = [start(folder, images, count) for _ in range(3)]
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert count.value == 24, 'one of them built, the others waited'


def test_built_by_another_between_looking_and_locking(images, folder, monkeypatch):
    open_it(folder, images)
    look, looks = dataset.cache._open, []

    def too_early(*arguments):
        looks.append(arguments)
        return None if len(looks) == 1 else look(*arguments)

    monkeypatch.setattr(dataset.cache, '_open', too_early)
    paths = decoded(monkeypatch)
    assert_right(open_it(folder, images), images)
    assert len(looks) == 2 and not paths, 'looked again under the lock, and did not build again'


def test_a_killed_builder_leaves_no_lock_and_no_half_cache(images, folder):
    count = multiprocessing.Value('i', 0)
    process = start(folder, images, count)
    deadline = time.monotonic() + 20
    while count.value < 10 and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    assert 10 <= count.value < 24
    assert not glob.glob(os.path.join(folder, '*.json')) and glob.glob(os.path.join(folder, '*.tmp-*'))
    assert_right(open_it(folder, images), images)
    assert len(os.listdir(folder)) == 3, 'what the killed process left is gone'
