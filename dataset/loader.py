"""Decode, augment and batch: a prefetching loader of uint8 pixels.

Threads, not processes: OpenCV releases the interpreter lock while it decodes and resizes, and a thread writes its pictures straight
into the batch. The batch leaves as uint8 (B, S, S, 3); the network's first step normalises on the device.
"""
from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Callable, Iterable, Iterator, NamedTuple

import numpy as np

from . import transforms
from .decode import decode_bgr
from .errors import DatasetError

_CHUNK = 8          # pictures a task: large enough to make the cost of a task small, small enough to keep all threads busy


class Batch(NamedTuple):
    """images uint8 (B, S, S, 3) RGB; labels int64 (B,); indices int64 (B,) into the ImageSet."""

    images: np.ndarray
    labels: np.ndarray
    indices: np.ndarray


class _Job(NamedTuple):
    images: np.ndarray
    indices: np.ndarray
    keep: np.ndarray        # rows that hold a picture
    tasks: list[Future]


class Loader:
    """Batches of an ImageSet, in the order of its batch sampler.

    Training: resize to `resize` x `resize`, crop `image_size` pixels at a place drawn uniformly, mirror with probability 1/2.
    Testing: the same with the crop in the centre.

    Parameters
    ----------
    imageset : ImageSet
    batches : iterable of lists of int, or None
        A batch sampler. None: all images in order, in batches of `batch_size`, the last one partial.
    train : bool
        Augment?
    image_size, resize : int, pixels
    use_crops : bool
        Crop to the bounding box before resizing.
    num_workers : int
        Threads that decode. 0: decode in the calling thread.
    seed : int
        The augmentation is a function of (seed, epoch, position of the draw in the epoch) alone.
    mirror : bool, optional
        Mirror training images? Default: what the image set says.
    cache : str, optional
        Folder for a memory-mapped cache of the resized pictures, see `dataset.cache`.
    skip_bad_images : int
        So many distinct bad images are tolerated. In training, a bad image is replaced by the next good image of its class, in the
        order of the image set, so labels and batch size stay what the sampler wanted (`indices` has the replacement). In testing,
        its row is left out, and the batch is smaller.
    on_bad : callable, optional
        `on_bad(path, reason)`, called once an image in the thread that iterates.
    batch_size : int
        Only where `batches` is None.
    prefetch : int
        Batches prepared ahead of the one in use.

    Raises
    ------
    DatasetError
        While iterating: an image is bad (and is not to be skipped). A bad image ends the iteration; the loader stays usable.
    """

    def __init__(self, imageset, batches: Iterable[list[int]] | None, train: bool, image_size: int = 224, resize: int = 256,
                 use_crops: bool = False, num_workers: int = 0, seed: int = 0, mirror: bool | None = None,
                 cache: str | None = None, skip_bad_images: int = 0,
                 on_bad: Callable[[str, str], None] | None = None, batch_size: int | None = None, prefetch: int = 2):
        if not 1 <= image_size <= resize:
            raise DatasetError(f'--image-size {image_size} must be between 1 and --resize {resize}')
        if use_crops and imageset.boxes is None:
            raise DatasetError('--use-crops: {} has no bounding boxes'.format(imageset.name or 'this dataset'))
        if (batches is None) == (batch_size is None):
            raise ValueError('give either a batch sampler or batch_size')
        self._imageset = imageset
        self._labels = np.asarray(imageset.labels, dtype=np.int64)
        self._batches = batches
        self._batch_size = batch_size
        self._train = train
        self._image_size = image_size
        self._resize = resize
        self._boxes = imageset.boxes if use_crops else None
        self._seed = seed
        self._mirror = (imageset.mirror if mirror is None else mirror) and train
        self._skip = skip_bad_images
        self._on_bad = on_bad
        self._bad = {}
        self._prefetch = max(1, prefetch)
        self._epoch = 0
        self._closed = False
        self._members = None
        self._pool = ThreadPoolExecutor(num_workers, thread_name_prefix='loader') if num_workers > 0 else None
        self._workers = num_workers

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose augmentation the next iteration draws."""
        self._epoch = epoch

    def __len__(self) -> int:
        if self._batches is not None:
            return len(self._batches)
        return -(-len(self._labels) // self._batch_size)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """End the threads. The loader cannot be used any more."""
        self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=True)

    def __iter__(self) -> Iterator[Batch]:
        jobs = deque()
        epoch = self._epoch
        try:
            position = 0
            for indices in self._index_batches():
                jobs.append(self._start(epoch, position, np.asarray(indices, dtype=np.int64)))
                position += len(indices)
                if self._pool is None or len(jobs) > self._prefetch:
                    yield from self._finish(jobs.popleft())
            while jobs:
                yield from self._finish(jobs.popleft())
        finally:
            # Left midway, or an error: what has not begun will not begin.
            for job in jobs:
                for task in job.tasks:
                    task.cancel()

    def _index_batches(self) -> Iterable[list[int]]:
        if self._batches is not None:
            return self._batches
        count = len(self._labels)
        return (np.arange(i, min(i + self._batch_size, count)) for i in range(0, count, self._batch_size))

    def _start(self, epoch: int, position: int, indices: np.ndarray) -> _Job:
        if self._closed:
            raise RuntimeError('the loader has been closed')
        count, size = len(indices), self._image_size
        if self._train:
            crops = transforms.draw_crops(self._seed, epoch, position, count, self._resize, size, self._mirror)
        else:
            crops = transforms.center_crops(count, self._resize, size)
        job = _Job(np.empty((count, size, size, 3), dtype=np.uint8), indices.copy(), np.ones(count, dtype=bool), [])
        if self._pool is None:
            job.tasks.append(Future())
            job.tasks[0].set_result(self._fill(job, crops, 0, count))
        else:
            chunk = max(1, min(_CHUNK, -(-count // self._workers)))
            for begin in range(0, count, chunk):
                job.tasks.append(self._pool.submit(self._fill, job, crops, begin, min(begin + chunk, count)))
        return job

    def _fill(self, job: _Job, crops: np.ndarray, begin: int, end: int) -> list[tuple[str, str]]:
        """Fill rows of a batch; returns the bad images met, with reasons. Runs in a worker."""
        bad = []
        for row in range(begin, end):
            index = int(job.indices[row])
            image = self._read(index, bad)
            if image is None:
                if self._train:
                    index, image = self._replace(index, bad)
                    job.indices[row] = index
                else:
                    job.keep[row] = False
                    continue
            transforms.write_crop(image, crops[row], job.images[row], bgr=True)
        return bad

    def _read(self, index: int, bad: list[tuple[str, str]]) -> np.ndarray | None:
        path = self._imageset.paths[index]
        if path in self._bad:
            return None
        try:
            return decode_bgr(path, side=self._resize, box=None if self._boxes is None else self._boxes[index],
                              resize=self._resize)
        except DatasetError as error:
            if self._skip < 1:
                raise
            bad.append((path, str(error)))
            return None

    def _replace(self, index: int, bad: list[tuple[str, str]]) -> tuple[int, np.ndarray]:
        """The next image of the same class that can be read: depends on the files alone, so on no timing."""
        members = np.flatnonzero(self._labels == self._labels[index])
        place = int(np.searchsorted(members, index))
        for other in np.concatenate([members[place + 1:], members[:place]]):
            image = self._read(int(other), bad)
            if image is not None:
                return int(other), image
        raise DatasetError(f'{self._imageset.paths[index]}: bad, and its class has no other image that can be read')

    def _finish(self, job: _Job) -> Iterator[Batch]:
        bad = [pair for task in job.tasks for pair in task.result()]
        for path, reason in bad:
            if path in self._bad:
                continue
            self._bad[path] = reason
            if self._on_bad is not None:
                self._on_bad(path, reason)
            if len(self._bad) > self._skip:
                raise DatasetError(f'{reason} (the {len(self._bad)}th bad image: more than --skip-bad-images {self._skip} allows)')
        if job.keep.all():
            yield Batch(job.images, self._labels[job.indices], job.indices)
        elif job.keep.any():
            indices = job.indices[job.keep]
            yield Batch(job.images[job.keep], self._labels[indices], indices)
