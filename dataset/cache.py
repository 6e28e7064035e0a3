"""A memory-mapped cache of the resized images (`--cache DIR`): decode once, then read 50 times faster.

For each list of images and each setting there are, in DIR,

    pixels-KEY-BUILD.u8     N x R x R x 3 bytes, RGB
    pixels-KEY.json         the manifest: settings, every image with its size, time of change and CRC-32 of its pixels
    pixels-KEY.lock         held (flock) while building or opening; the system frees it when a process dies

The manifest is written last, by renaming, and names the file of pixels, so that half a cache is never used. The cache
is built again when an image has changed, or when the cache itself is damaged. Another size or other boxes make another
KEY. Pixels are checked against their CRC when they are first used in a process.
"""
from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import uuid
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from common.files import atomic_write
from dataset.decode import ImageError, read_image
from dataset.errors import DatasetError

_FORMAT = 1
_CHUNK = 32             # images a task


class PixelCache:
    """Opened cache. `bad` holds the images that could not be decoded: index -> reason."""

    def __init__(self, file: str, images: list[list], resize: int) -> None:
        self._file = file
        self._pixels = np.memmap(file, np.uint8, 'r', shape=(len(images), resize, resize, 3)).view(np.ndarray)
        self._checksums = [image[3] for image in images]
        self._checked = np.zeros(len(images), dtype=bool)
        self.bad = {index: image[4] for index, image in enumerate(images) if image[4] is not None}

    def read(self, index: int) -> np.ndarray:
        """The pixels of an image, uint8 (R, R, 3), RGB, read-only.

        Raises
        ------
        DatasetError
            The cache was damaged after it was built.
        """
        image = self._pixels[index]
        if not self._checked[index]:
            if zlib.crc32(image) != self._checksums[index]:
                raise DatasetError(f'{self._file}: the image cache is damaged (wrong checksum of image {index}): '
                                   f'delete this file, and it will be built again')
            self._checked[index] = True
        return image


def open_cache(folder: str, paths: Sequence[str], resize: int, boxes: np.ndarray | None = None,
               num_workers: int = 1, skip_bad_images: int = 0) -> PixelCache:
    """Open the cache of these images. It is built first if it is missing or out of date.

    Parameters
    ----------
    folder : str
        Made if missing. Many caches can share it, and many processes can open or build at the same time.
    paths : list of str
    resize : int, pixels
    boxes : numpy.ndarray, float (N, 4), optional
        Crop to these boxes before resizing.
    num_workers : int
        Threads that build.
    skip_bad_images : int
        How many images may be bad. With more, no cache is made.

    Raises
    ------
    DatasetError
        No room on the disk, no right to write, or too many bad images.
    """
    paths = [os.path.abspath(path) for path in paths]
    settings = {'format': _FORMAT, 'resize': resize, 'boxes': None if boxes is None else np.asarray(boxes).tolist()}
    key = hashlib.sha256(json.dumps([settings, paths]).encode()).hexdigest()[:16]
    base = os.path.join(folder, f'pixels-{key}')
    try:
        os.makedirs(folder, exist_ok=True)
        with _locked(f'{base}.lock', fcntl.LOCK_SH):
            cache = _open(base, paths, resize)
        if cache is None:
            with _locked(f'{base}.lock', fcntl.LOCK_EX):
                cache = _open(base, paths, resize)          # another process may have built it while this one waited
                if cache is None:
                    _build(base, paths, resize, boxes, max(1, num_workers), skip_bad_images)
                    cache = _open(base, paths, resize)
    except OSError as error:
        raise DatasetError(f'{folder}: the image cache (--cache) cannot be written or read: '
                           f'{error.strerror or error}') from error
    if cache is None:
        raise DatasetError(f'{base}.json: images change while their cache (--cache) is being built')
    return cache


@contextmanager
def _locked(path: str, how: int) -> Iterator[None]:
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError:
        if not os.path.exists(path):
            raise
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)    # a finished cache on a read-only disk
    try:
        fcntl.flock(lock, how)
        yield
    finally:
        os.close(lock)


def _stat(path: str) -> list[int]:
    try:
        status = os.stat(path)
    except OSError:
        return [-1, -1]         # missing: decoding will say so
    return [status.st_size, status.st_mtime_ns]


def _open(base: str, paths: list[str], resize: int) -> PixelCache | None:
    """The cache, or None where it is missing, damaged, or where an image has changed since."""
    try:
        with open(f'{base}.json', 'rb') as file:
            checksum, body = file.read().split(b'\n', 1)
        if hashlib.sha256(body).hexdigest().encode() != checksum:
            return None
        manifest = json.loads(body.decode())
        data, images = os.path.join(os.path.dirname(base), manifest['data']), manifest['images']
        if [image[0] for image in images] != paths or any(_stat(image[0]) != image[1:3] for image in images):
            return None
        if os.path.getsize(data) != len(images) * resize * resize * 3:
            return None
        return PixelCache(data, images, resize)
    except (FileNotFoundError, ValueError, TypeError, LookupError):
        return None


def _build(base: str, paths: list[str], resize: int, boxes: np.ndarray | None, num_workers: int, skip: int) -> None:
    folder, prefix = os.path.split(base)
    for name in os.listdir(folder):                         # what is out of date, or left behind by a killed process
        if name.startswith(prefix) and not name.endswith('.lock'):
            os.remove(os.path.join(folder, name))
    size = resize * resize * 3
    free = shutil.disk_usage(folder).free
    if len(paths) * size > free:
        raise DatasetError(f'{folder}: the image cache (--cache) needs {len(paths) * size / 1e6:.1f} MB for '
                           f'{len(paths)} images of {resize} x {resize} pixels, and {free / 1e6:.1f} MB are free')
    data = f'{base}-{uuid.uuid4().hex[:8]}.u8'
    with atomic_write(data) as file:
        os.posix_fallocate(file.fileno(), 0, len(paths) * size)     # a full disk shows here, not after an hour
        images = _decode_all(file.fileno(), paths, resize, boxes, num_workers, skip)
    body = json.dumps({'data': os.path.basename(data), 'resize': resize, 'images': images}).encode()
    with atomic_write(base + '.json') as file:
        file.write(hashlib.sha256(body).hexdigest().encode() + b'\n' + body)


def _decode_all(file: int, paths: list[str], resize: int, boxes: np.ndarray | None, num_workers: int,
                skip: int) -> list[list]:
    """Decode into the file; per image its path, size, time of change, checksum, and the reason if it is bad."""
    stopped = []

    def task(begin: int) -> list[list]:
        done = []
        for index in range(begin, min(begin + _CHUNK, len(paths))):
            if stopped:
                break
            status = _stat(paths[index])        # before reading: if the file changes meanwhile, that will be seen
            try:
                image = read_image(paths[index], resize, None if boxes is None else boxes[index])
                pixels, reason = np.ascontiguousarray(image), None
            except ImageError as error:
                if skip < 1:
                    raise
                pixels, reason = np.zeros((resize, resize, 3), dtype=np.uint8), error.reason
            _write(file, pixels, index * pixels.size)
            done.append([paths[index], *status, zlib.crc32(pixels), reason])
        return done

    images, bad = [], 0
    with ThreadPoolExecutor(num_workers, thread_name_prefix='cache') as pool, \
            tqdm(total=len(paths), desc='image cache', unit=' images', leave=False, disable=None) as bar:
        tasks = [pool.submit(task, begin) for begin in range(0, len(paths), _CHUNK)]
        try:
            for future in tasks:
                for image in future.result():
                    images.append(image)
                    bad += image[4] is not None
                    if bad > skip:
                        raise DatasetError(f'{image[0]}: {image[4]} (--skip-bad-images {skip} allows no more)')
                bar.update(len(images) - bar.n)
        finally:
            stopped.append(True)                            # after an error, the other tasks need not finish
    return images


def _write(file: int, pixels: np.ndarray, offset: int) -> None:
    view = memoryview(pixels).cast('B')
    while view:
        written = os.pwrite(file, view, offset)
        view, offset = view[written:], offset + written
