"""Reads an image file: as fast as is safe; damage is always an error.

OpenCV decodes ordinary JPEGs and PNGs: it releases the interpreter lock, and lets libjpeg-turbo decode at 1/2, 1/4 or
1/8 size where a picture is that much larger than needed. Everything else (CMYK, GIF, BMP, WebP, TIFF, ...) goes to
Pillow. Decoders allocate what a header asks for, fill what is missing with grey, and may crash on rarely used parts of
a format (OpenCV 4.11 on broken animated PNGs). So header and structure are checked here before they see a file. Pillow
checks by itself, but takes twice as long for a PNG.
"""
from __future__ import annotations

import io
import struct
import threading
import zlib
from contextlib import ExitStack
from typing import Sequence

import cv2
import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from dataset.errors import DatasetError

# The loader has its own threads. More threads inside OpenCV would only slow them down.
cv2.setNumThreads(1)

MAX_PIXELS = 178956970
"""Larger pictures are refused as decompression bombs. The limit is Pillow's: 512 MiB of RGB."""

HUGE_PIXELS = 2 ** 25
"""Larger pictures are decoded one at a time: each may take up to a gigabyte of memory."""

_huge_one = threading.RLock()

# What Pillow may open. Some of its other readers are not safe: that of EPS starts Ghostscript.
_PILLOW_FORMATS = ('JPEG', 'PNG', 'GIF', 'BMP', 'WEBP', 'TIFF', 'PPM')

_JPEG = b'\xff\xd8'
_PNG = b'\x89PNG\r\n\x1a\n'
_FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BARE_MARKERS = frozenset(range(0xD0, 0xD8)) | {0x01}
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# How OpenCV decodes to RGB at 1/1, 1/2, 1/4 and 1/8 of the size.
_READ = {1: cv2.IMREAD_COLOR_RGB, 2: cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_COLOR_RGB,
         4: cv2.IMREAD_REDUCED_COLOR_4 | cv2.IMREAD_COLOR_RGB, 8: cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_COLOR_RGB}


class ImageError(DatasetError):
    """One picture that cannot be used: its `path`, and the `reason` in a few words."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f'{path}: {reason}')
        self.path = path
        self.reason = reason


class _Broken(Exception):
    """Why a file is refused. `read_image` adds the name of the file."""


def _check_size(width: int, height: int, turn: ExitStack, pixel_bytes: int = 3) -> None:
    """Refuse impossible sizes; for a huge one, wait for `turn` to be the only one."""
    if width < 1 or height < 1:
        raise _Broken(f'its header says {width} x {height} pixels')
    limit = MAX_PIXELS * 3 // max(3, pixel_bytes)
    if width * height > limit:
        raise _Broken(f'its header says {width} x {height} pixels, and more than {limit // 10 ** 6} million are '
                      f'refused as a decompression bomb')
    if width * height > HUGE_PIXELS:
        turn.enter_context(_huge_one)


def _jpeg_header(data: bytes, turn: ExitStack) -> tuple[int, int, bool]:
    """Walk over the segments up to the first scan, and look whether the end-of-image marker stands behind it.

    Returns width, height, and whether OpenCV decodes this kind right: 8 bits, grey or three colours, Huffman.
    """
    position, end, header = 2, len(data), None
    while position + 4 <= end:
        if data[position] != 0xFF:
            raise _Broken(f'broken JPEG: no marker at byte {position}')
        marker = data[position + 1]
        if marker == 0xFF:                          # a fill byte
            position += 1
            continue
        if marker in _BARE_MARKERS:
            position += 2
            continue
        following = position + 2 + ((data[position + 2] << 8) | data[position + 3])
        if marker == 0xD9 or following < position + 4 or following > end:
            break
        if marker in _FRAME_MARKERS:
            if following < position + 10:
                raise _Broken('broken JPEG: its frame header is too short')
            precision, height, width, components = struct.unpack_from('>BHHB', data, position + 4)
            _check_size(width, height, turn)
            huffman = marker <= 0xC2
            header = width, height, huffman and precision == 8 and components in (1, 3)
        elif marker == 0xDA:
            if header is None:
                raise _Broken('broken JPEG: pixels before the frame header')
            # Byte stuffing keeps FF D9 out of the pixels: where it stands behind them, they were all written.
            if not data.endswith(b'\xff\xd9') and data.rfind(b'\xff\xd9', following) < 0:
                raise _Broken('truncated JPEG: its end-of-image marker is missing')
            # The shortest Huffman code has one bit, and every block of 8 x 8 has at least one code.
            if huffman and width * height > 64 * 8 * (end - following):
                raise _Broken(f'truncated or forged JPEG: {end} bytes cannot hold its {width} x {height} pixels')
            return header
        position = following
    raise _Broken('truncated JPEG: it ends before its pixels')


def _plain_png(data: bytes, turn: ExitStack) -> bytes | None:
    """Walk over all chunks: lengths, checksums and the closing IEND.

    Returns the file without the chunks that say nothing about pixels; None where it has alpha or EXIF data.
    """
    view, position, end = memoryview(data), 8, len(data)
    kept, packed, plain, kind = [data[:8]], 0, True, None
    while position + 12 <= end and kind != b'IEND':
        stop = position + 12 + int.from_bytes(data[position:position + 4], 'big')
        if stop > end:
            break
        first, kind = kind is None, data[position + 4:position + 8]
        if zlib.crc32(view[position + 4:stop - 4]) != int.from_bytes(data[stop - 4:stop], 'big'):
            raise _Broken(f'broken PNG: the checksum of the chunk at byte {position} is wrong')
        if first != (kind == b'IHDR') or (first and stop != 33):
            raise _Broken('broken PNG: it does not start with the one header it must have')
        if kind in (b'IHDR', b'PLTE', b'IDAT', b'IEND'):
            kept.append(view[position:stop])
        packed += stop - position - 12 if kind == b'IDAT' else 0
        plain = plain and kind not in (b'tRNS', b'eXIf')
        position = stop
    if kind != b'IEND':
        raise _Broken('truncated PNG: its last chunk is missing')
    width, height, depth, color = struct.unpack_from('>IIBB', data, 16)
    if depth not in _PNG_DEPTHS.get(color, ()):
        raise _Broken(f'broken PNG: {depth} bits of colour type {color} do not exist')
    plain = plain and color not in (4, 6)
    _check_size(width, height, turn, (3 if plain else 4) * (2 if depth == 16 else 1))
    # Deflate packs 1032 bytes into one at best; a row has one byte more than its pixels.
    if height * (1 + width * depth * _PNG_CHANNELS[color] // 8) > 1032 * packed:
        raise _Broken(f'truncated or forged PNG: {packed} bytes cannot hold its {width} x {height} pixels')
    return b''.join(kept) if plain else None


def _opencv(data: bytes, flags: int) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise _Broken('its pixels cannot be decoded')
    return image


def _pillow(data: bytes, turn: ExitStack) -> np.ndarray:
    """Decode with Pillow: slower, but it knows all formats above. A truncated file is an error."""
    try:
        ImageFile.LOAD_TRUNCATED_IMAGES = False  # importing gluoncv.data turns it on for the whole process
        with Image.open(io.BytesIO(data), formats=_PILLOW_FORMATS) as image:
            _check_size(*image.size, turn)
            image.load()
            return _pillow_rgb(image)
    except UnidentifiedImageError as error:
        raise _Broken('it is no picture of a known kind (JPEG, PNG, GIF, BMP, WebP, TIFF, PPM)') from error
    except _Broken:
        raise
    except Exception as error:      # Pillow's readers raise nearly anything on a broken file
        raise _Broken(str(error) or type(error).__name__) from error


def _pillow_rgb(image: Image.Image) -> np.ndarray:
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:               # broken EXIF data says nothing about the pixels: leave them as they are
        image = image.copy()
    if image.mode == 'F':           # floats, which convert() would clip to 0..255
        grey = np.asarray(image)
        if not np.isfinite(grey).all() or grey.min() < 0 or grey.max() > 255:
            raise _Broken('it holds floating-point numbers outside of 0 to 1 and 0 to 255')
        grey = (grey * (255 if grey.max() <= 1 else 1)).round().astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode.startswith('I'):  # 16 bits of grey, which convert() would clip instead of scale
        grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode in ('LA', 'PA', 'La', 'RGBa') or 'transparency' in image.info:
        image = image.convert('RGBA')
    if image.mode == 'RGBA':
        return _over_white(np.asarray(image))
    return np.array(image.convert('RGB'))


def _over_white(image: np.ndarray) -> np.ndarray:
    """RGBA over white. What a transparent pixel hides is often black or garbage."""
    result = np.empty((*image.shape[:2], 3), dtype=np.uint8)
    for top in range(0, len(image), 256):       # strips: 16-bit copies of a huge picture as a whole would be huge, too
        strip = image[top:top + 256]
        alpha = strip[:, :, 3:].astype(np.uint16)
        total = strip[:, :, :3] * alpha + 255 * (255 - alpha) + 128
        result[top:top + 256] = (total + (total >> 8)) >> 8      # division by 255, rounded
    return result


def _reduction(width: float, height: float, side: int) -> int:
    """By how much JPEG decoding may shrink and still leave at least `side` pixels both ways: 1, 2, 4 or 8."""
    for factor in (8, 4, 2):
        if width >= side * factor and height >= side * factor:
            return factor
    return 1


def _crop(image: np.ndarray, box: Sequence[float], factor: int) -> np.ndarray:
    height, width = image.shape[:2]
    x, y, w, h = (float(value) / factor for value in box)
    if not np.isfinite(x + y + w + h):
        raise _Broken('its bounding box is not finite')
    left, top = max(0, int(np.floor(x))), max(0, int(np.floor(y)))
    right, bottom = min(width, int(np.ceil(x + w))), min(height, int(np.ceil(y + h)))
    if right <= left or bottom <= top:
        raise _Broken(f'its bounding box (x {x * factor:g}, y {y * factor:g}, width {w * factor:g}, height '
                      f'{h * factor:g}) has nothing of the picture, {width * factor} x {height * factor} pixels')
    return image[top:bottom, left:right]


def _decode(data: bytes, side: int | None, box: Sequence[float] | None, turn: ExitStack) -> np.ndarray:
    factor = 1
    if data[:2] == _JPEG:
        width, height, fast = _jpeg_header(data, turn)
        if fast and side is not None:
            factor = _reduction(*((width, height) if box is None else box[2:]), side)
        image = _opencv(data, _READ[factor]) if fast else _pillow(data, turn)
    elif data[:8] == _PNG:
        plain = _plain_png(data, turn)
        image = _pillow(data, turn) if plain is None else _opencv(plain, cv2.IMREAD_COLOR_RGB)
    elif data:
        image = _pillow(data, turn)
    else:
        raise _Broken('it is empty')
    return image if box is None else _crop(image, box, factor)


def read_image(path: str, resize: int | None = None, box: Sequence[float] | None = None) -> np.ndarray:
    """Read one picture.

    Grey-scale, CMYK, palette and 16-bit pictures become 8-bit colours, transparent ones are put on white, the EXIF
    orientation is applied, and of an animation the first picture is taken.

    Parameters
    ----------
    path : str
    resize : int, optional, pixels
        Resize to `resize` x `resize`, not keeping the aspect ratio. A picture of this size is left as it is.
    box : four numbers, optional, pixels
        x, y, width, height: crop to this part of the (upright) picture before resizing.

    Returns
    -------
    numpy.ndarray, uint8 (height, width, 3), RGB

    Raises
    ------
    ImageError
        The file cannot be read, is no picture, is damaged, or is larger than `MAX_PIXELS`.
    """
    try:
        with open(path, 'rb', buffering=0) as file:
            data = file.readall()
    except (OSError, ValueError) as error:      # ValueError: a zero byte in the name
        raise ImageError(path, f'it cannot be read: {getattr(error, "strerror", None) or error}') from error
    try:
        with ExitStack() as turn:
            image = _decode(data, resize, box, turn)
            if resize is not None and image.shape[:2] != (resize, resize):
                # Linear interpolation looks at 2 x 2 pixels: enough up to twice the size. Beyond that, average.
                how = cv2.INTER_AREA if max(image.shape[:2]) > 2 * resize else cv2.INTER_LINEAR
                image = cv2.resize(image, (resize, resize), interpolation=how)
            return image
    except (_Broken, cv2.error, MemoryError) as error:
        raise ImageError(path, ' '.join(str(error).split()) or 'there is not enough memory') from error
