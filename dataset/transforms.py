"""Where to crop and whether to mirror: a function of (seed, epoch, position in the epoch) and of nothing else.

Resizing belongs to decoding (`dataset.decode`), since a JPEG can be decoded smaller. Normalisation belongs to the
network, whose first step does it on the device, where the pixels arrive as uint8 (`models.embedding`).
"""
from __future__ import annotations

import cv2
import numpy as np


def draw_crops(seed: int, epoch: int, start: int, count: int, resize: int, image_size: int, mirror: bool,
               min_scale: float = 1.0, max_aspect: float = 1.33) -> np.ndarray:
    """The augmentation of the draws `start`, ..., `start + count - 1` of an epoch.

    Philox is a counter-based generator (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): block p
    of its stream belongs to the p-th draw of the epoch, so that neither the number of threads nor the way an epoch is
    cut into batches changes a pixel. The raw words are used because NumPy never changes their stream; taking the
    remainder of 64 bits favours no place by more than 1e-16.

    Parameters
    ----------
    seed, epoch : int
    start, count : int
        Which draws, counted from the beginning of the epoch.
    resize, image_size : int, pixels
        Sides of the picture and of the crop.
    mirror : bool
        Mirror every other picture?
    min_scale, max_aspect : float
        1: every crop has `image_size` x `image_size` pixels. Below 1: its share of the area is uniform from `min_scale`
        to 1, the logarithm of its width over its height is uniform from -log(max_aspect) to log(max_aspect), or as far
        as the picture holds such a crop. So crop Szegedy et al., arXiv:1409.4842, section 6, who draw from 8 % up, and
        aspects from 3/4 to 4/3.

    Returns
    -------
    numpy.ndarray, int64 (count, 5)
        Top and left edge of the crop, uniform over where it fits; 1 where the picture is mirrored; height and width.
    """
    key = np.array([seed % 2 ** 64, epoch % 2 ** 64], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=start).random_raw(4 * count).reshape(count, 4)
    crops = np.zeros((count, 5), dtype=np.int64)
    crops[:, 3:] = image_size
    if min_scale < 1:
        chances = np.stack([words[:, 3] >> np.uint64(32), words[:, 3] & np.uint64(2 ** 32 - 1)]) / 2 ** 32
        area = min_scale + (1 - min_scale) * chances[0]
        widest = np.minimum(max_aspect, 1 / area)
        aspect = widest ** (2 * chances[1] - 1)
        sides = np.sqrt(area * np.stack([1 / aspect, aspect])) * resize
        crops[:, 3:] = np.clip(np.rint(sides), 1, resize).T
    crops[:, :2] = words[:, :2] % (resize + 1 - crops[:, 3:]).astype(np.uint64)
    if mirror:
        crops[:, 2] = words[:, 2] >> np.uint64(63)
    return crops


def center_crops(count: int, resize: int, image_size: int) -> np.ndarray:
    """The crop of test pictures, int64 (count, 5) as in `draw_crops`: in the centre, not mirrored."""
    edge = (resize - image_size) // 2
    return np.tile(np.array([edge, edge, 0, image_size, image_size], dtype=np.int64), (count, 1))


def write_crop(image: np.ndarray, crop: np.ndarray, out: np.ndarray) -> None:
    """Cut a crop out of a picture, scale it if it has another size, and write it into a row of the batch.

    Parameters
    ----------
    image : numpy.ndarray, uint8 (R, R, 3)
    crop : five int
        Top, left, mirror, height, width.
    out : numpy.ndarray, uint8 (S, S, 3)
        Filled in place.
    """
    top, left, mirror, height, width = crop
    part = image[top:top + height, left:left + width]
    if part.shape != out.shape:
        part = cv2.resize(part, out.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    if mirror:
        cv2.flip(part, 1, dst=out)      # NumPy copies a reversed slice byte by byte, twenty times slower
    else:
        out[...] = part
