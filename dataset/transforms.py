"""Where to crop and whether to mirror: a function of (seed, epoch, position in the epoch) and of nothing else.

Resizing belongs to decoding (`dataset.decode`), since a JPEG can be decoded smaller. Normalisation belongs to the
network, whose first step does it on the device, where the pixels arrive as uint8 (`models.embedding`).
"""
from __future__ import annotations

import cv2
import numpy as np


def draw_crops(seed: int, epoch: int, start: int, count: int, resize: int, image_size: int, mirror: bool) -> np.ndarray:
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

    Returns
    -------
    numpy.ndarray, int64 (count, 3)
        Top and left edge of the crop, uniform over 0, ..., resize - image_size, and 1 where the picture is mirrored.
    """
    key = np.array([seed % 2 ** 64, epoch % 2 ** 64], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=start).random_raw(4 * count).reshape(count, 4)
    crops = np.zeros((count, 3), dtype=np.int64)
    crops[:, :2] = words[:, :2] % np.uint64(resize - image_size + 1)
    if mirror:
        crops[:, 2] = words[:, 2] >> np.uint64(63)
    return crops


def center_crops(count: int, resize: int, image_size: int) -> np.ndarray:
    """The crop of test pictures, int64 (count, 3) as in `draw_crops`: in the centre, not mirrored."""
    edge = (resize - image_size) // 2
    return np.tile(np.array([edge, edge, 0], dtype=np.int64), (count, 1))


def write_crop(image: np.ndarray, crop: np.ndarray, out: np.ndarray) -> None:
    """Cut a crop out of a picture and write it into a row of the batch.

    Parameters
    ----------
    image : numpy.ndarray, uint8 (R, R, 3)
    crop : three int
        Top, left, mirror.
    out : numpy.ndarray, uint8 (S, S, 3)
        Filled in place.
    """
    size = out.shape[0]
    top, left, mirror = crop
    part = image[top:top + size, left:left + size]
    if mirror:
        cv2.flip(part, 1, dst=out)      # NumPy copies a reversed slice byte by byte, twenty times slower
    else:
        out[...] = part
