"""From an image file to RGB pixels, fast where it is safe, and never silently wrong.

Ordinary JPEGs and PNGs are decoded by OpenCV, which releases the interpreter lock and lets libjpeg-turbo decode at 1/2, 1/4 or
1/8 size where the picture is that much larger than needed. Everything else (CMYK JPEGs, GIF, BMP, WebP, TIFF, ...) goes through
Pillow. OpenCV accepts truncated files without an error and allocates whatever a header asks for; so the header and the structure
of a file are checked here before a decoder sees it.
"""
from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from typing import NamedTuple, Sequence

import cv2
import numpy as np
from PIL import Image, ImageOps

from .errors import DatasetError

# One image, one thread: the loader's threads are the only parallelism, or they would get in each other's way.
cv2.setNumThreads(1)

MAX_PIXELS = 178956970
"""Larger pictures are refused as decompression bombs: Pillow's limit, 512 MiB of RGB."""

_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_SOF_BASELINE_TO_PROGRESSIVE = (0xC0, 0xC1, 0xC2)
_SOF_OTHERS = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)


class _Broken(Exception):
    """Why a file is refused; becomes a DatasetError once the name of the file is known."""


class _Header(NamedTuple):
    width: int
    height: int
    fast: bool      # OpenCV decodes this kind right
    alpha: bool = False


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise _Broken(f'its header says {width} x {height} pixels')
    if width * height > MAX_PIXELS:
        raise _Broken(f'its header says {width} x {height} pixels, more than the limit of {MAX_PIXELS / 1e6:.0f} million')


def _jpeg_header(data: bytes) -> _Header:
    """Walk over the segments up to the first scan; needs the end-of-image marker behind it (see `_decode_jpeg`)."""
    position, end, header = 2, len(data), None
    while position + 4 <= end:
        if data[position] != 0xFF:
            raise _Broken(f'broken JPEG: no marker at byte {position}')
        marker = data[position + 1]
        if marker == 0xFF:                                      # a fill byte
            position += 1
            continue
        if marker == 0x01 or 0xD0 <= marker <= 0xD7:            # markers without a length
            position += 2
            continue
        length = (data[position + 2] << 8) | data[position + 3]
        if length < 2 or position + 2 + length > end:
            raise _Broken('truncated JPEG: it ends inside its header')
        if marker in _SOF_BASELINE_TO_PROGRESSIVE or marker in _SOF_OTHERS:
            if length < 8:
                raise _Broken('broken JPEG: its frame header is too short')
            precision, height, width, components = struct.unpack_from('>BHHB', data, position + 4)
            _check_size(width, height)
            fast = marker in _SOF_BASELINE_TO_PROGRESSIVE and precision == 8 and components in (1, 3)
            header = _Header(width, height, fast)
        elif marker == 0xDA:
            if header is None:
                raise _Broken('broken JPEG: pixels before the frame header')
            # Stuffing keeps FF D9 out of the pixel data, so finding it behind the start of the scan means that all was written.
            whole = data.endswith(b'\xff\xd9') or data.rfind(b'\xff\xd9', position + 2 + length) >= 0
            return header if whole else header._replace(fast=False)
        elif marker == 0xD9:
            break
        position += 2 + length
    raise _Broken('truncated JPEG: no pixels')


def _png_header(data: bytes) -> _Header:
    """Walk over all chunks: lengths, checksums and the closing IEND."""
    if len(data) < 33 or data[12:16] != b'IHDR':
        raise _Broken('truncated PNG: no header')
    width, height, _, color_type = struct.unpack_from('>IIBB', data, 16)
    _check_size(width, height)
    alpha = color_type in (4, 6)
    position, end, pixels = 8, len(data), False
    view = memoryview(data)
    while position + 12 <= end:
        length = int.from_bytes(data[position:position + 4], 'big')
        kind = data[position + 4:position + 8]
        stop = position + 8 + length
        if stop + 4 > end:
            break
        if zlib.crc32(view[position + 4:stop]) != int.from_bytes(data[stop:stop + 4], 'big'):
            raise _Broken('broken PNG: wrong checksum in its {} chunk'.format(kind.decode('latin-1')))
        if kind == b'IEND':
            if not pixels:
                raise _Broken('broken PNG: no pixels')
            return _Header(width, height, True, alpha)
        alpha = alpha or kind == b'tRNS'
        pixels = pixels or kind == b'IDAT'
        position = stop + 4
    raise _Broken('truncated PNG')


def _opencv(data: bytes, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except (cv2.error, MemoryError) as error:
        raise _Broken(str(error).strip().split('\n')[0]) from error
    if image is None:
        raise _Broken('its pixels cannot be decoded')
    return image


def _pillow(data: bytes) -> np.ndarray:
    """The strict and slow way: every format that Pillow knows; a truncated file is an error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            with Image.open(io.BytesIO(data)) as image:
                _check_size(*image.size)
                image.load()
                image = ImageOps.exif_transpose(image)
                if image.mode in ('LA', 'PA', 'RGBa') or 'transparency' in image.info:
                    image = image.convert('RGBA')
                if image.mode == 'RGBA':
                    image = Image.alpha_composite(Image.new('RGBA', image.size, (255, 255, 255, 255)), image)
                return np.array(image.convert('RGB'))
    except _Broken:
        raise
    except Exception as error:      # Pillow's plugins raise nearly anything on a broken file
        raise _Broken(' '.join(str(error).split()) or type(error).__name__) from error


def _over_white(image: np.ndarray) -> np.ndarray:
    """BGRA of 8 or 16 bits over white."""
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    if image.ndim == 2:
        return np.repeat(image[:, :, None], 3, axis=2)
    if image.shape[2] == 3:
        return image
    alpha = image[:, :, 3:].astype(np.uint16)
    return ((image[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _reduction(width: int, height: int, side: int) -> int:
    """The largest of 1, 2, 4, 8 by which JPEG decoding may shrink and still leave at least `side` pixels both ways."""
    for factor in (8, 4, 2):
        if width >= side * factor and height >= side * factor:
            return factor
    return 1


_REDUCED = {1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


def _crop(image: np.ndarray, box: Sequence[float], factor: int) -> np.ndarray:
    height, width = image.shape[:2]
    x, y, w, h = (float(v) / factor for v in box)
    if not all(np.isfinite(v) for v in (x, y, w, h)):
        raise _Broken('its bounding box is not finite')
    left, top = max(0, int(np.floor(x))), max(0, int(np.floor(y)))
    right, bottom = min(width, int(np.ceil(x + w))), min(height, int(np.ceil(y + h)))
    if right <= left or bottom <= top:
        raise _Broken(f'its bounding box {[float(v) for v in box]} is empty or outside of the picture')
    return image[top:bottom, left:right]


def _decode(data: bytes, side: int | None, box: Sequence[float] | None) -> np.ndarray:
    """Pixels in BGR, cropped to the box, perhaps reduced."""
    factor = 1
    if data[:2] == b'\xff\xd8':
        header = _jpeg_header(data)
        if header.fast:
            if side is not None:
                w, h = (header.width, header.height) if box is None else (int(box[2]), int(box[3]))
                factor = _reduction(w, h, side)
            image = _opencv(data, _REDUCED[factor])
        else:
            image = _pillow(data)[:, :, ::-1]
    elif data[:8] == _PNG_SIGNATURE:
        header = _png_header(data)
        image = _over_white(_opencv(data, cv2.IMREAD_UNCHANGED)) if header.alpha else _opencv(data, cv2.IMREAD_COLOR)
    elif not data:
        raise _Broken('it is empty')
    else:
        image = _pillow(data)[:, :, ::-1]
    return image if box is None else _crop(image, box, factor)


def decode_bgr(path: str, side: int | None = None, box: Sequence[float] | None = None,
               resize: int | None = None) -> np.ndarray:
    """Read one picture.

    Parameters
    ----------
    path : str
    side : int, optional
        The pixels needed each way: lets large JPEGs be decoded at 1/2, 1/4 or 1/8 size, never below this.
    box : four numbers, optional
        x, y, width, height in pixels of the upright picture: crop to it.
    resize : int, optional
        Resize to `resize` x `resize` (not keeping the aspect ratio). A picture of this size is left as it is.

    Returns
    -------
    numpy.ndarray, uint8 (height, width, 3), BGR as OpenCV has it

    Raises
    ------
    DatasetError
        The file cannot be read, is no picture, is damaged or too large.
    """
    try:
        with open(path, 'rb', buffering=0) as file:
            data = file.read()
    except OSError as error:
        raise DatasetError(f'{path}: cannot be read: {error.strerror or error}') from error
    except ValueError as error:     # a NUL in the name
        raise DatasetError(f'{path!r}: cannot be read: {error}') from error
    try:
        image = _decode(data, side, box)
        if resize is not None and image.shape[:2] != (resize, resize):
            # Linear interpolation looks at 2 x 2 pixels, enough while the picture is at most twice as large; beyond that, average.
            shrinks = image.shape[0] > 2 * resize or image.shape[1] > 2 * resize
            image = cv2.resize(image, (resize, resize), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        return image
    except (_Broken, cv2.error) as error:
        raise DatasetError('{}: {}'.format(os.fspath(path), ' '.join(str(error).split()))) from error
