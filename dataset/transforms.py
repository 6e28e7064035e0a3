"""Where to crop and whether to mirror, drawn so that the result depends on nothing but (seed, epoch, position in the epoch).

Normalisation is not here: the network's first step does it on the device, where uint8 pixels arrive
(see models/embedding.py).
"""
from __future__ import annotations

import cv2
import numpy as np


def draw_crops(seed: int, epoch: int, start: int, count: int, resize: int, image_size: int, mirror: bool) -> np.ndarray:
    """The augmentation of the draws `start` to `start + count - 1` of an epoch.

    Philox is a counter-based generator: block p of its stream belongs to the p-th draw of the epoch, so neither the number of
    threads nor the way an epoch is cut into batches changes any picture. (J. K. Salmon et al., "Parallel random numbers: as easy
    as 1, 2, 3", SC 2011.) The raw 64-bit words are used, whose stream NumPy promises not to change; the bias of a remainder is
    below 1e-16.

    Returns
    -------
    numpy.ndarray, int64 (count, 3)
        Top and left edge of the crop, uniform over 0 .. resize - image_size, and 1 where the picture is mirrored, else 0.
    """
    key = np.array([seed % 2 ** 64, epoch % 2 ** 64], dtype=np.uint64)
    words = np.random.Philox(key=key, counter=start).random_raw(4 * count).reshape(count, 4)
    crops = np.empty((count, 3), dtype=np.int64)
    crops[:, :2] = words[:, :2] % np.uint64(resize - image_size + 1)
    crops[:, 2] = words[:, 2] >> np.uint64(63) if mirror else 0
    return crops


def center_crops(count: int, resize: int, image_size: int) -> np.ndarray:
    """The crop of test pictures, int64 (count, 3), as in `draw_crops`."""
    edge = (resize - image_size) // 2
    return np.tile(np.array([edge, edge, 0], dtype=np.int64), (count, 1))


def write_crop(image: np.ndarray, crop: np.ndarray, out: np.ndarray, bgr: bool) -> None:
    """Cut `crop` (top, left, mirror) out of `image` and write it, RGB, into the batch row `out` (S, S, 3)."""
    size = out.shape[0]
    top, left, mirror = crop
    part = image[top:top + size, left:left + size]
    if mirror:
        cv2.flip(part, 1, dst=out)
        if bgr:
            cv2.cvtColor(out, cv2.COLOR_BGR2RGB, dst=out)
    elif bgr:
        cv2.cvtColor(part, cv2.COLOR_BGR2RGB, dst=out)
    else:
        out[...] = part
