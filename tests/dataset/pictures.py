"""Image files for the tests of decoding and loading, written without the code under test."""
from __future__ import annotations

import io
import os
import struct
import zlib

import numpy as np
from PIL import Image

from dataset.imageset import ImageSet


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Colours without sharp edges, which JPEG keeps to a few grey levels: uint8 (height, width, 3), RGB."""
    y, x = np.mgrid[:height, :width]
    waves = np.random.RandomState(seed).uniform(0.5, 1.5, (3, 3)) * 2
    channels = [np.sin(a * y / height * 3 + c) + np.cos(b * x / width * 3 + c) for a, b, c in waves]
    return np.clip(127 + 60 * np.stack(channels, axis=2), 0, 255).astype(np.uint8)


def encoded(pixels: np.ndarray, kind: str = 'JPEG', mode: str | None = None, **options: object) -> bytes:
    image = Image.fromarray(pixels)
    file = io.BytesIO()
    if kind == 'JPEG':
        options = {'quality': 95, 'subsampling': 0, **options}
    (image.convert(mode) if mode else image).save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, color: int, raw: bytes, extra: bytes = b'',
        packed: bytes | None = None) -> bytes:
    """A PNG put together by hand; `raw` are its rows with their filter bytes."""
    header = struct.pack('>IIBBBBB', width, height, depth, color, 0, 0, 0)
    return (b'\x89PNG\r\n\x1a\n' + png_chunk(b'IHDR', header) + extra
            + png_chunk(b'IDAT', zlib.compress(raw) if packed is None else packed) + png_chunk(b'IEND', b''))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


def jpeg_frame(data: bytes) -> int:
    """Where the frame header's marker stands."""
    return min(place for place in (data.find(b'\xff\xc0'), data.find(b'\xff\xc2')) if place >= 0)


def with_size(data: bytes, width: int, height: int) -> bytes:
    """The JPEG or PNG with another size in its header."""
    if data[:2] == b'\xff\xd8':
        place = jpeg_frame(data) + 5
        return data[:place] + struct.pack('>HH', height, width) + data[place + 4:]
    header = b'IHDR' + struct.pack('>II', width, height) + data[24:29]
    return data[:12] + header + struct.pack('>I', zlib.crc32(header)) + data[33:]


def image_folder(folder: str, classes: int = 4, each: int = 6, side: int = 40, kind: str = 'PNG') -> ImageSet:
    """An image set whose image number i has its own pixels; PNG, so that they come back exactly."""
    paths = []
    for index in range(classes * each):
        paths.append(os.path.join(str(folder), f'{index:03d}.{kind.lower()}'))
        with open(paths[-1], 'wb') as file:
            file.write(encoded(smooth(side, side, seed=index), kind))
    return ImageSet(paths, np.repeat(np.arange(classes), each), [f'class {c}' for c in range(classes)], name='test')
