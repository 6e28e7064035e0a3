"""Decode, augment and batch: a prefetching loader of uint8 pixels.

Threads, not processes: OpenCV releases the interpreter lock while it decodes and resizes, and a thread writes its
images straight into the batch. The network's first step normalises, on the device (`models.embedding`).
"""
from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, Iterable, Iterator, NamedTuple, Sequence

import numpy as np

from dataset import transforms
from dataset.cache import open_cache
from dataset.decode import ImageError, read_image
from common.errors import UsageError
from dataset.errors import DatasetError
from dataset.imageset import ImageSet

_CHUNK = 8      # images of one task, at most: large enough that tasks cost little, small enough to busy all threads


class Batch(NamedTuple):
    """What the loader yields."""

    images: np.ndarray      # uint8 (B, S, S, 3), RGB
    labels: np.ndarray      # int64 (B,)
    indices: np.ndarray     # int64 (B,), into the image set


class _Job(NamedTuple):
    images: np.ndarray
    indices: np.ndarray
    crops: np.ndarray
    kept: np.ndarray        # bool (B,): rows that hold an image
    tasks: list


class Loader:
    """Batches of an image set, in the order of its batch sampler.

    Training: resize to `resize` x `resize`, crop `image_size` x `image_size` at a place drawn uniformly, mirror with
    probability 1/2. Testing: crop in the centre. Which pixels a draw gives is a function of (seed, epoch, position of
    the draw in the epoch), whatever the number of threads.

    A bad image (see `dataset.decode`) is an error that ends the iteration, unless `skip_bad_images` allows it. Then

    - in training it is replaced by the next good image of its class, in the order of the image set: labels and batch
      size stay what the sampler promised (`indices` names the replacement, which may occur in the batch already);
    - in testing its row is left out, and the batch is smaller; a batch without any image is left out.

    Threads run until `close()`. An iteration may be left at any time; its sampler has then been read up to `prefetch`
    batches ahead.

    Parameters
    ----------
    imageset : ImageSet
    batches : batch sampler (yields lists of int), or None
        None: all images in order, `batch_size` at a time, the last batch partial.
    train : bool
        Augment, or crop in the centre?
    image_size, resize : int, pixels
    use_crops : bool
        Crop to the bounding boxes before resizing.
    num_workers : int
        Threads. 0: decode in the calling thread, when a batch is asked for.
    seed : int
    mirror : bool, optional
        Mirror training images? Default: what the image set says.
    cache : str, optional
        Folder for a cache of the resized images, see `dataset.cache`; built here if it is missing.
    skip_bad_images : int
        How many different images may be bad.
    on_bad : callable, optional
        `on_bad(path, reason)`, called once for each bad image that is skipped, by the thread that iterates.
    batch_size : int
        Where `batches` is None.
    prefetch : int
        Batches prepared while one is in use.
    min_scale, max_aspect : float
        Below 1: crop from that share of the area up and scale to `image_size`, see `dataset.transforms.draw_crops`.

    Raises
    ------
    DatasetError
        Here: flags that do not fit the data, a cache that cannot be built. While iterating: a bad image, named.
    """

    def __init__(self, imageset: ImageSet, batches: Iterable[Sequence[int]] | None, train: bool, image_size: int = 224,
                 resize: int = 256, use_crops: bool = False, num_workers: int = 0, seed: int = 0,
                 mirror: bool | None = None, cache: str | None = None, skip_bad_images: int = 0,
                 on_bad: Callable[[str, str], None] | None = None, batch_size: int | None = None,
                 prefetch: int = 2, min_scale: float = 1.0, max_aspect: float = 1.33) -> None:
        if not 1 <= image_size <= resize:
            raise UsageError(f'--image-size {image_size} must lie between 1 and --resize {resize}')
        if use_crops:
            imageset.require_boxes()
        if (batches is None) == (batch_size is None) or (batch_size is not None and batch_size < 1):
            raise ValueError('give either a batch sampler or a batch_size of at least 1')
        self._paths = imageset.paths
        self._labels = np.asarray(imageset.labels, dtype=np.int64)
        self._boxes = imageset.boxes if use_crops else None
        self._batches = batches
        self._batch_size = batch_size
        self._train = train
        self._image_size = image_size
        self._resize = resize
        self._seed = seed
        self._mirror = imageset.mirror if mirror is None else mirror
        self._scales = min_scale, max_aspect
        self._skip = skip_bad_images
        self._on_bad = on_bad
        self._bad = set()       # paths
        self._prefetch = prefetch
        self._epoch = 0
        self._closed = False
        self._cache = None
        if cache is not None and len(self._paths):
            self._cache = open_cache(cache, self._paths, resize, self._boxes, num_workers, skip_bad_images)
        self._num_workers = num_workers
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix='loader') if num_workers > 0 else None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentation the next iteration draws. Without it every iteration draws the same."""
        self._epoch = epoch

    @property
    def readable_paths(self) -> list[str]:
        """The images without the bad ones that were skipped so far."""
        return [path for path in self._paths if path not in self._bad]

    def __len__(self) -> int:
        if self._batches is not None:
            return len(self._batches)
        return -(-len(self._paths) // self._batch_size)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the threads. The loader cannot be used afterwards."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=True)

    def __iter__(self) -> Iterator[Batch]:
        ahead = self._prefetch if self._pool is not None else 0
        epoch, position, jobs = self._epoch, 0, deque()
        try:
            for indices in self._index_batches():
                jobs.append(self._start(epoch, position, np.array(indices, dtype=np.int64)))
                position += len(indices)
                if len(jobs) > ahead:
                    yield from self._finish(jobs.popleft())
            while jobs:
                yield from self._finish(jobs.popleft())
        finally:
            # The iteration was left early, or failed: cancel what has not begun.
            for job in jobs:
                for task in job.tasks:
                    task.cancel()

    def _index_batches(self) -> Iterable[Sequence[int]]:
        if self._batches is not None:
            return self._batches
        order = np.arange(len(self._paths))
        return (order[begin:begin + self._batch_size] for begin in range(0, len(order), self._batch_size))

    def _start(self, epoch: int, position: int, indices: np.ndarray) -> _Job:
        if self._closed:
            raise RuntimeError('this loader has been closed')
        count, size = len(indices), self._image_size
        if self._train:
            crops = transforms.draw_crops(self._seed, epoch, position, count, self._resize, size, self._mirror,
                                          *self._scales)
        else:
            crops = transforms.center_crops(count, self._resize, size)
        job = _Job(np.empty((count, size, size, 3), dtype=np.uint8), indices, crops, np.ones(count, dtype=bool), [])
        if self._pool is None:
            job.tasks.append(Future())
            job.tasks[0].set_result(self._fill(job, 0, count))
        else:
            chunk = max(1, min(_CHUNK, -(-count // self._num_workers)))
            for begin in range(0, count, chunk):
                job.tasks.append(self._pool.submit(self._fill, job, begin, min(begin + chunk, count)))
        return job

    def _fill(self, job: _Job, begin: int, end: int) -> list[ImageError]:
        """Fill rows of a batch, in a worker. Returns the bad images met on the way."""
        errors = []
        for row in range(begin, end):
            image = self._read(job.indices[row], errors)
            if image is None and self._train:
                job.indices[row], image = self._replace(job.indices[row], errors)
            if image is None:
                job.kept[row] = False
            else:
                transforms.write_crop(image, job.crops[row], job.images[row])
        return errors

    def _read(self, index: int, errors: list[ImageError]) -> np.ndarray | None:
        """The resized image; None if it is bad and that is allowed."""
        path = self._paths[index]
        if path in self._bad:
            return None
        try:
            if self._cache is None:
                return read_image(path, self._resize, None if self._boxes is None else self._boxes[index])
            if index in self._cache.bad:
                raise ImageError(path, self._cache.bad[index])
            return self._cache.read(index)
        except ImageError as error:
            if self._skip < 1:
                raise
            errors.append(error)
            return None

    def _replace(self, index: int, errors: list[ImageError]) -> tuple[int, np.ndarray | None]:
        """The next good image of the class. Which one depends on the files alone, not on what was read before."""
        members = np.flatnonzero(self._labels == self._labels[index])
        place = np.searchsorted(members, index)
        for other in np.roll(members, -place)[1:]:
            image = self._read(other, errors)
            if image is not None:
                return other, image
        return index, None

    def _finish(self, job: _Job) -> Iterator[Batch]:
        errors = [error for task in job.tasks for error in task.result()]
        for error in errors:
            if error.path in self._bad:
                continue
            if len(self._bad) == self._skip:
                raise DatasetError(f'{error} (--skip-bad-images {self._skip} allows no more)')
            self._bad.add(error.path)
            if self._on_bad is not None:
                self._on_bad(error.path, error.reason)
        if job.kept.all():
            yield Batch(job.images, self._labels[job.indices], job.indices)
        elif self._train:
            path = self._paths[job.indices[np.argmin(job.kept)]]
            raise DatasetError(f'{path}: it is bad, and so is every other image of its class')
        elif job.kept.any():
            indices = job.indices[job.kept]
            yield Batch(job.images[job.kept], self._labels[indices], indices)
