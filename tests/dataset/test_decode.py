"""Every kind of picture decodes to the colours it shows, and every broken one is refused by name."""
import io
import re
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from dataset import decode
from dataset.decode import ImageError, read_image
from dataset.errors import DatasetError
from tests.dataset.pictures import encoded, png, png_chunk, smooth, with_size

PIXELS = smooth(60, 80)
GREY = np.asarray(Image.fromarray(PIXELS).convert('L'))


def write(folder, data, name='picture.jpg'):
    path = str(folder / name)
    with open(path, 'wb') as file:
        file.write(data)
    return path


def read_rgb(folder, data, *arguments):
    return read_image(write(folder, data), *arguments)


def refused(folder, data, match):
    path = write(folder, data, 'broken picture.jpg')
    with pytest.raises(ImageError) as caught:
        read_image(path, 32)
    assert re.search(match, caught.value.reason)        # the path, too, may hold the word
    assert str(caught.value).startswith(path + ': ') and '\n' not in str(caught.value)
    assert caught.value.path == path and path not in caught.value.reason
    assert isinstance(caught.value, DatasetError)


def rows(pixels):
    """PNG rows without filter."""
    return b''.join(b'\0' + row.tobytes() for row in pixels)


KINDS = {
    'jpeg': (encoded(PIXELS), PIXELS, 4),
    'progressive jpeg': (encoded(PIXELS, progressive=True), PIXELS, 4),
    'jpeg, subsampled': (encoded(PIXELS, subsampling=2), PIXELS, 6),
    'grey jpeg': (encoded(PIXELS, mode='L'), np.repeat(GREY[:, :, None], 3, 2), 4),
    'cmyk jpeg': (encoded(PIXELS, mode='CMYK'), PIXELS, 6),
    'png': (encoded(PIXELS, 'PNG'), PIXELS, 0),
    'grey png': (encoded(PIXELS, 'PNG', 'L'), np.repeat(GREY[:, :, None], 3, 2), 0),
    'black and white png': (encoded(PIXELS, 'PNG', '1'),
                            np.repeat(np.asarray(Image.fromarray(PIXELS).convert('1'))[:, :, None], 3, 2) * 255, 0),
    'palette png': (encoded(PIXELS, 'PNG', 'P'), np.asarray(Image.fromarray(PIXELS).convert('P').convert('RGB')), 0),
    '16-bit png': (png(80, 60, 16, 2, rows(PIXELS.astype('>u2') * 257)), PIXELS, 1),
    '16-bit grey png': (png(80, 60, 16, 0, rows(GREY.astype('>u2') * 257)), np.repeat(GREY[:, :, None], 3, 2), 1),
    'rotated 16-bit grey png': (png(80, 60, 16, 0, rows(GREY.astype('>u2') * 257), png_chunk(b'eXIf', b'MM')),
                                np.repeat(GREY[:, :, None], 3, 2), 1),
    'gif': (encoded(PIXELS, 'GIF', 'P'), np.asarray(Image.fromarray(PIXELS).convert('P').convert('RGB')), 0),
    'bmp': (encoded(PIXELS, 'BMP'), PIXELS, 0),
    'webp': (encoded(PIXELS, 'WEBP', lossless=True), PIXELS, 0),
    'tiff': (encoded(PIXELS, 'TIFF'), PIXELS, 0),
    'png with an odd profile and text': (encoded(PIXELS, 'PNG', icc_profile=b'no profile'), PIXELS, 0),
    'jpeg with bytes behind its end': (encoded(PIXELS) + b'\0' * 100, PIXELS, 4),
}


@pytest.mark.parametrize('kind', KINDS)
def test_colours(kind, tmp_path, capfd):
    data, expected, bound = KINDS[kind]
    image = read_rgb(tmp_path, data)
    assert image.dtype == np.uint8 and image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= max(bound, 0) * 3
    assert np.abs(image.astype(int) - expected).mean() <= bound
    assert capfd.readouterr() == ('', ''), 'a good picture makes no noise'


@pytest.mark.parametrize('depth', [8, 16])
@pytest.mark.parametrize('color', ['la', 'rgba'])
def test_transparent_pixels_show_white(color, depth, tmp_path):
    alpha = np.zeros((60, 80, 1), dtype=np.uint8)
    alpha[:, 40:] = 255
    alpha[:, 40:50] = 128
    colours = PIXELS if color == 'rgba' else GREY[:, :, None]
    pixels = np.concatenate([colours, alpha], axis=2)
    pixels = pixels if depth == 8 else pixels.astype('>u2') * 257
    image = read_rgb(tmp_path, png(80, 60, depth, 6 if color == 'rgba' else 4, rows(pixels)))
    assert (image[:, :40] == 255).all()
    assert np.abs(image[:, 50:].astype(int) - colours[:, 50:]).max() <= 1
    half = (colours[:, 40:50].astype(int) + 255) / 2
    assert np.abs(image[:, 40:50] - half).max() <= 2


def test_transparent_and_higher_than_a_strip(tmp_path):
    pixels = np.concatenate([smooth(600, 20), np.full((600, 20, 1), 255, dtype=np.uint8)], axis=2)
    pixels[::100, :, 3] = 0
    image = read_rgb(tmp_path, encoded(pixels, 'PNG'))
    assert (image[::100] == 255).all()
    np.testing.assert_array_equal(image[pixels[:, 0, 3] > 0], pixels[pixels[:, 0, 3] > 0][:, :, :3])


def test_transparent_palette_shows_white(tmp_path):
    pixels = np.zeros((10, 10), dtype=np.uint8)
    pixels[5:] = 1
    extra = png_chunk(b'PLTE', bytes([200, 10, 20, 30, 40, 50])) + png_chunk(b'tRNS', bytes([0, 255]))
    for exif in (b'', png_chunk(b'eXIf', b'MM')):       # OpenCV's and Pillow's way
        image = read_rgb(tmp_path, png(10, 10, 8, 3, rows(pixels), extra + exif))
        assert (image[:5] == 255).all() and (image[5:] == [30, 40, 50]).all()


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'TIFF'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation(kind, orientation, tmp_path):
    upright = {1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1], 5: PIXELS.transpose(1, 0, 2),
               6: np.rot90(PIXELS, -1), 7: PIXELS[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(PIXELS)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = read_rgb(tmp_path, encoded(PIXELS, kind, exif=exif.tobytes()))
    assert image.shape == upright.shape
    assert np.abs(image.astype(int) - upright).mean() < 3


def test_broken_exif_does_not_matter(tmp_path):
    for exif in (b'Exif\0\0MM\0*\xff\xff\xff\xff', b'Exif\0\0', b'Exif\0\0II*\0\x08\0\0\0\xff\xff'):
        assert np.abs(read_rgb(tmp_path, encoded(PIXELS, exif=exif)).astype(int) - PIXELS).mean() < 3
    broken = png(80, 60, 8, 2, rows(PIXELS), png_chunk(b'eXIf', b'MM\0*\xff\xff\xff\xff'))
    np.testing.assert_array_equal(read_rgb(tmp_path, broken), PIXELS)


def test_resize(tmp_path):
    data = encoded(PIXELS, 'PNG')
    expected = cv2.resize(PIXELS, (64, 64), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(read_rgb(tmp_path, data, 64), expected)


def test_stored_size_is_left_as_it_is(tmp_path, monkeypatch):
    path = write(tmp_path, encoded(PIXELS[:60, :60], 'PNG'))
    monkeypatch.setattr(cv2, 'resize', None)
    np.testing.assert_array_equal(read_image(path, 60), PIXELS[:60, :60])


@pytest.mark.parametrize('size, reduced', [((600, 800), 8), ((300, 256), 4), ((255, 900), 2), ((127, 900), 1)])
def test_large_jpegs_are_decoded_smaller_never_too_small(size, reduced, tmp_path, monkeypatch):
    pixels = smooth(*size)
    shapes = []
    opencv = decode._opencv

    def spy(data, flags):
        shapes.append(opencv(data, flags).shape[:2])
        return opencv(data, flags)

    monkeypatch.setattr(decode, '_opencv', spy)
    image = read_rgb(tmp_path, encoded(pixels), 64)
    assert shapes == [(-(-size[0] // reduced), -(-size[1] // reduced))]
    plain = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.BOX))
    assert np.abs(image.astype(int) - plain).mean() < 2


def test_large_pngs_are_averaged(tmp_path):
    noise = np.random.RandomState(0).randint(0, 256, (256, 256, 3)).astype(np.uint8)
    image = read_image(write(tmp_path, encoded(noise, 'PNG')), 32)
    assert image.std() < 1.2 * noise.std() / 8, 'the mean of 8 x 8 pixels'


@pytest.mark.parametrize('kind', ['PNG', 'JPEG'])
def test_bounding_box(kind, tmp_path):
    pixels = smooth(300, 400)
    pixels[50:250, 100:340] = smooth(200, 240, seed=5)
    plain = np.asarray(Image.fromarray(smooth(200, 240, seed=5)).resize((64, 64), Image.BILINEAR))
    image = read_rgb(tmp_path, encoded(pixels, kind), 64, (100., 50., 240., 200.))
    assert np.abs(image.astype(int) - plain).mean() < 3
    # Boxes may stick out of the picture.
    image = read_rgb(tmp_path, encoded(pixels, 'PNG'), None, (-10, -5, 60.5, 20))
    np.testing.assert_array_equal(image, pixels[:15, :51])


@pytest.mark.parametrize('box', [(400, 0, 10, 10), (5, 5, 0, 10), (5, 5, -3, 10), (float('nan'), 0, 5, 5),
                                 (0, 0, float('inf'), 5)])
def test_impossible_boxes_are_refused(box, tmp_path):
    with pytest.raises(ImageError, match='bounding box'):
        read_image(write(tmp_path, encoded(PIXELS)), 32, box)


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'GIF', 'BMP', 'TIFF'])
def test_truncated_anywhere(kind, tmp_path):
    data = encoded(PIXELS, kind, 'P' if kind == 'GIF' else None)
    for length in [1, 2, 3, 8, 20, 33, 40, 100, 200, len(data) // 4, len(data) // 2, len(data) - 200, len(data) - 13]:
        refused(tmp_path, data[:length], '.')
    if kind in ('JPEG', 'PNG'):
        refused(tmp_path, data[:-1], 'truncated')
        refused(tmp_path, data[:-2], 'truncated')


def test_truncated_progressive_jpeg(tmp_path):
    data = encoded(PIXELS, progressive=True)
    for length in range(len(data) // 4, len(data) - 1, len(data) // 20):
        refused(tmp_path, data[:length], '.')


REFUSED = {
    'empty': (b'', 'it is empty'),
    'a page of HTML': (b'<html>404</html>' * 50, 'no picture of a known kind'),
    'zeros': (bytes(5000), 'no picture of a known kind'),
    'PostScript': (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n', 'no picture of a known kind'),
    'jpeg bomb': (with_size(encoded(PIXELS), 65500, 65500), 'decompression bomb'),
    'png bomb': (with_size(encoded(PIXELS, 'PNG'), 2 ** 31 - 1, 2 ** 31 - 1), 'decompression bomb'),
    'jpeg with a forged size': (with_size(encoded(PIXELS), 13000, 13000), 'forged'),
    'cmyk jpeg with a forged size': (with_size(encoded(PIXELS, mode='CMYK'), 13000, 13000), 'forged'),
    'png with a forged size': (with_size(encoded(PIXELS, 'PNG'), 13000, 13000), 'forged'),
    'jpeg without size': (with_size(encoded(PIXELS), 80, 0), '80 x 0 pixels'),
    'png without size': (with_size(encoded(PIXELS, 'PNG'), 0, 60), '0 x 60 pixels'),
    'png with too few rows': (png(80, 60, 8, 2, rows(PIXELS[:30])), 'cannot be decoded'),
    'png with broken deflate': (png(80, 60, 8, 2, b'', packed=zlib.compress(rows(PIXELS))[:-9]), 'cannot be decoded'),
    'png of 3 bits': (png(80, 60, 3, 2, rows(PIXELS)), 'do not exist'),
    'png without pixels': (encoded(PIXELS, 'PNG')[:33] + png_chunk(b'IEND', b''), 'cannot hold'),
    'png with two headers': (png(80, 60, 8, 2, rows(PIXELS), png_chunk(b'IHDR', encoded(PIXELS, 'PNG')[16:29])),
                             'the one header'),
    'png with a wrong checksum': (encoded(PIXELS, 'PNG')[:-20] + b'??' + encoded(PIXELS, 'PNG')[-18:], 'checksum'),
    'jpeg, pixels first': (b'\xff\xd8\xff\xda\0\x04\0\0\xff\xd9', 'before the frame header'),
    'jpeg with garbage': (b'\xff\xd8' + b'garbage' * 20, 'no marker'),
}


@pytest.mark.parametrize('kind', REFUSED)
def test_refused(kind, tmp_path):
    refused(tmp_path, *REFUSED[kind])


def test_bombs_in_other_formats(tmp_path):
    file = io.BytesIO()
    Image.new('1', (14000, 13000)).save(file, 'TIFF', compression='group4')
    refused(tmp_path, file.getvalue(), 'decompression bomb')


def test_huge_pictures_wait_for_each_other(tmp_path, monkeypatch):
    """Decoding them in all threads at once would take a gigabyte for each thread."""
    monkeypatch.setattr(decode, 'HUGE_PIXELS', 80 * 60 - 1)
    inside, most, opencv = [], [], decode._opencv

    def spy(data, flags):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        image = opencv(data, flags)
        inside.pop()
        return image

    def most_at_once():
        del most[:]
        with ThreadPoolExecutor(3) as pool:
            assert len(list(pool.map(read_image, paths * 3))) == 6
        return max(most)

    monkeypatch.setattr(decode, '_opencv', spy)
    paths = [write(tmp_path, encoded(PIXELS), 'a.jpg'), write(tmp_path, encoded(PIXELS, 'PNG'), 'b.png')]
    assert most_at_once() == 1
    monkeypatch.setattr(decode, 'HUGE_PIXELS', 80 * 60)
    assert most_at_once() > 1


def test_the_limit_is_one_of_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(decode, 'MAX_PIXELS', 80 * 60)
    alpha = np.concatenate([PIXELS, PIXELS[:, :, :1]], axis=2)
    read_rgb(tmp_path, encoded(PIXELS, 'PNG'))
    refused(tmp_path, encoded(alpha, 'PNG'), 'decompression bomb')
    refused(tmp_path, KINDS['16-bit png'][0], 'decompression bomb')


def test_broken_animated_png_does_not_reach_opencv(tmp_path):
    """OpenCV 4.11 ends with a segmentation fault on this one."""
    frame = struct.pack('>IIIIIHHBB', 0, 20000, 20000, 0, 0, 1, 1, 0, 0)
    extra = png_chunk(b'acTL', struct.pack('>II', 2, 0)) + png_chunk(b'fcTL', frame)
    np.testing.assert_array_equal(read_rgb(tmp_path, png(80, 60, 8, 2, rows(PIXELS), extra)), PIXELS)


def test_files_that_cannot_be_read(tmp_path):
    for path in (str(tmp_path / 'missing.jpg'), str(tmp_path), str(tmp_path / 'a\0b.jpg')):
        with pytest.raises(ImageError, match='cannot be read'):
            read_image(path)


def test_a_library_that_lets_truncated_pictures_pass_changes_nothing(tmp_path, monkeypatch):
    """GluonCV sets this for the whole process when it is imported."""
    monkeypatch.setattr(ImageFile, 'LOAD_TRUNCATED_IMAGES', True)
    path = tmp_path / 'cut.bmp'
    path.write_bytes(encoded(np.zeros((32, 32, 3), np.uint8), 'BMP')[:-500])
    with pytest.raises(ImageError):
        read_image(str(path))


def test_floats_from_0_to_1_are_scaled(tmp_path):
    for pixels, expected in (([[0, 0.5, 1]], [0, 128, 255]), ([[0, 100.4, 255]], [0, 100, 255])):
        Image.fromarray(np.array(pixels, np.float32)).save(tmp_path / 'x.tif')
        assert read_image(str(tmp_path / 'x.tif'))[0, :, 0].tolist() == expected
    for pixels in ([[-1, 0.5, 1]], [[0, 300, 1]], [[0, np.nan, 1]]):
        Image.fromarray(np.array(pixels, np.float32)).save(tmp_path / 'x.tif')
        with pytest.raises(DatasetError, match='floating-point'):
            read_image(str(tmp_path / 'x.tif'))
