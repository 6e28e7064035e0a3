"""Damaged pictures through the real loader: each is decoded, or refused by name. Nothing else is affected.

    python -m tests.faults.fuzz_images [--count 10000] [--seed 0] [--keep FOLDER]

JPEGs and PNGs of many kinds are damaged: bits flipped, cut off, blocks overwritten, removed and repeated, absurd sizes,
PNG chunks inserted with right checksums, decompression bombs. They are mixed with good pictures. A separate process
loads `GROUP` of them at a time. Checked for every group: the process ends by itself, in time and without a crash. Its
memory stays below `MEMORY`. Every picture is either delivered, in order and with its label, or reported once. All good
ones are delivered, with their pixels.
"""
from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import struct
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from typing import Callable

import numpy as np
from PIL import Image

GROUP = 500                     # pictures a process
MEMORY = 2 * 1024 ** 3          # bytes, with two threads; a picture of just under the limit is 512 MiB of RGB
TIMEOUT = 300                   # seconds a group
SIZE = 32
MUTATIONS: dict[str, Callable[[random.Random, bytes], bytes]] = {}


def mutation(function: Callable[[random.Random, bytes], bytes]) -> Callable[[random.Random, bytes], bytes]:
    MUTATIONS[function.__name__.replace('_', ' ')] = function
    return function


def is_png(data: bytes) -> bool:
    return data[:4] == b'\x89PNG'


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, place = [], 8
    while place + 12 <= len(data):
        length, = struct.unpack_from('>I', data, place)
        chunks.append((data[place + 4:place + 8], data[place + 8:place + 8 + length]))
        place += 12 + length
    return chunks


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*parts) for parts in chunks)


@mutation
def bits_flipped(rng: random.Random, data: bytes) -> bytes:
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


@mutation
def bits_flipped_in_the_header(rng: random.Random, data: bytes) -> bytes:
    end = len(data) if is_png(data) else data.find(b'\xff\xda') + 16
    return bits_flipped(rng, data[:min(end, 800)]) + data[min(end, 800):]


@mutation
def cut_off(rng: random.Random, data: bytes) -> bytes:
    return data[:rng.randrange(len(data))]


@mutation
def cut_off_but_with_an_end(rng: random.Random, data: bytes) -> bytes:
    return data[:rng.randrange(len(data))] + (chunk(b'IEND', b'') if is_png(data) else b'\xff\xd9')


@mutation
def block_overwritten(rng: random.Random, data: bytes) -> bytes:
    start, length = rng.randrange(len(data)), rng.randrange(1, 200)
    fill = rng.choice((bytes(length), b'\xff' * length, bytes(rng.randrange(256) for _ in range(length))))
    return data[:start] + fill + data[start + length:]


@mutation
def block_removed(rng: random.Random, data: bytes) -> bytes:
    start = rng.randrange(len(data))
    return data[:start] + data[start + rng.randrange(1, 200):]


@mutation
def block_repeated(rng: random.Random, data: bytes) -> bytes:
    start, place = rng.randrange(len(data)), rng.randrange(len(data))
    return data[:place] + data[start:start + rng.randrange(1, 400)] + data[place:]


@mutation
def absurd_size(rng: random.Random, data: bytes) -> bytes:
    sides = (0, 1, 2, 255, 4096, 13000, 20000, 65535)
    if is_png(data):
        kind, header = png_chunks(data)[0]
        sides += (2 ** 31 - 1, 2 ** 32 - 1)
        header = struct.pack('>II', rng.choice(sides), rng.choice(sides)) + header[8:]
        return png_of([(kind, header)] + png_chunks(data)[1:])
    place = max(data.find(b'\xff\xc0'), data.find(b'\xff\xc2')) + 5
    return data[:place] + struct.pack('>HH', rng.choice(sides), rng.choice(sides)) + data[place + 4:]


@mutation
def png_content_changed_checksums_right(rng: random.Random, data: bytes) -> bytes:
    if not is_png(data):
        return bits_flipped(rng, data)
    chunks = png_chunks(data)
    index = rng.randrange(len(chunks))
    kind, content = chunks[index]
    chunks[index] = kind, rng.choice(list(MUTATIONS.values())[:6:2])(rng, content) if content else b'?'
    return png_of(chunks)


@mutation
def png_pixels_changed_deflate_right(rng: random.Random, data: bytes) -> bytes:
    if not is_png(data):
        return bits_flipped_in_the_header(rng, data)
    chunks = png_chunks(data)
    raw = zlib.decompress(b''.join(content for kind, content in chunks if kind == b'IDAT'))
    raw = rng.choice((bits_flipped, cut_off, block_overwritten, block_repeated))(rng, raw)
    before = [parts for parts in chunks if parts[0] not in (b'IDAT', b'IEND')]
    return png_of(before + [(b'IDAT', zlib.compress(raw)), (b'IEND', b'')])


@mutation
def segment_inserted(rng: random.Random, data: bytes) -> bytes:
    noise = bytes(rng.randrange(256) for _ in range(rng.choice((0, 1, 2, 8, 26, 100))))
    if not is_png(data):
        marker = rng.choice((0xC0, 0xC4, 0xDB, 0xDD, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE, 0xFE))
        content = rng.choice((b'', b'Exif\0\0MM\0*', b'Exif\0\0II*\0\x08\0\0\0', b'Adobe\0d', b'JFIF\0')) + noise
        return data[:2] + struct.pack('>BBH', 0xFF, marker, len(content) + 2) + content + data[2:]
    chunks = png_chunks(data)
    extra = rng.choice([
        (b'acTL', struct.pack('>II', rng.choice((1, 2, 2 ** 31)), 0)),
        (b'fcTL', struct.pack('>IIIIIHHBB', 0, rng.choice((8, 20000)), 20000, 0, 0, 1, 1, 0, 0)),
        (b'fdAT', struct.pack('>I', 1) + zlib.compress(bytes(5000))), (b'eXIf', b'MM\0*' + noise), (b'tRNS', noise),
        (b'PLTE', noise * 3), (b'gAMA', noise), (b'bKGD', noise), (b'sBIT', noise), (b'IHDR', chunks[0][1]),
        (b'iCCP', b'x\0\0' + zlib.compress(bytes(10 ** 6))), (b'zTXt', b'x\0\0' + zlib.compress(bytes(10 ** 7))),
        (b'iTXt', noise), (b'IDAT', noise), (b'IEND', b'')])
    place = rng.randrange(len(chunks) + 1)
    return png_of(chunks[:place] + [extra] + chunks[place:])


def bombs() -> list[bytes]:
    """Small files, huge pictures: just below the limit of pixels and far above it, whole and cut off."""
    def zeros(width: int, height: int, color: int, channels: int) -> bytes:
        packer = zlib.compressobj(9)
        packed = b''.join(packer.compress(bytes(1 + width * channels)) for _ in range(height)) + packer.flush()
        header = struct.pack('>II5B', width, height, 8, color, 0, 0, 0)
        return png_of([(b'IHDR', header), (b'IDAT', packed), (b'IEND', b'')])

    file = io.BytesIO()
    Image.new('L', (13000, 13000), 77).save(file, 'JPEG', quality=1)
    below, above, jpeg = zeros(13000, 13000, 2, 3), zeros(20000, 20000, 0, 1), file.getvalue()
    return [below, zeros(11000, 11000, 6, 4), above, jpeg, below[:-500] + chunk(b'IEND', b''),
            jpeg[:len(jpeg) * 3 // 4] + b'\xff\xd9']


def originals() -> list[bytes]:
    y, x = np.mgrid[:70, :90]
    waves = [127 + 99 * np.sin(x / 9 + y / 20), 127 + 99 * np.cos(y / 7), (x * y) % 256]
    pixels = np.stack(waves, axis=2).astype(np.uint8)
    pixels = pixels + np.random.RandomState(0).randint(0, 20, pixels.shape).astype(np.uint8)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = image.copy()
    alpha.putalpha(Image.fromarray(pixels[:, :, 0]))
    wanted: list[tuple[Image.Image, str, dict]] = [
        (image, 'JPEG', {}), (image, 'JPEG', {'progressive': True}), (image, 'JPEG', {'quality': 95, 'subsampling': 0}),
        (image.convert('L'), 'JPEG', {}), (image.convert('CMYK'), 'JPEG', {}), (image, 'JPEG', {'exif': exif}),
        (image.resize((300, 280)), 'JPEG', {'restart_marker_rows': 1}),
        (image, 'PNG', {}), (image.convert('L'), 'PNG', {}), (image.convert('P'), 'PNG', {}),
        (image.convert('1'), 'PNG', {}), (alpha, 'PNG', {}), (alpha.convert('LA'), 'PNG', {}),
        (image.convert('P'), 'PNG', {'transparency': 3}),
        (image.convert('I').convert('I;16'), 'PNG', {}), (image, 'PNG', {'exif': exif})]
    data = []
    for picture, kind, options in wanted:
        file = io.BytesIO()
        picture.save(file, kind, **options)
        data.append(file.getvalue())
    return data


def load(folder: str) -> None:
    """The child: load the folder's pictures in order, say what came out."""
    from dataset.imageset import ImageSet
    from dataset.loader import Loader
    with open(os.path.join(folder, 'labels.json')) as file:
        labels = np.array(json.load(file), dtype=np.int64)
    paths = [os.path.join(folder, f'{index:05d}') for index in range(len(labels))]
    classes = [str(name) for name in np.unique(labels)]
    refused, delivered = [], []
    with Loader(ImageSet(paths, labels, classes), None, False, SIZE, SIZE, num_workers=2, batch_size=16,
                skip_bad_images=len(paths), on_bad=lambda *pair: refused.append(pair)) as loader:
        for batch in loader:
            delivered += [(int(index), int(label), zlib.crc32(np.ascontiguousarray(image)))
                          for image, label, index in zip(*batch)]
    with open(os.path.join(folder, 'result.json'), 'w') as file:
        json.dump({'refused': refused, 'delivered': delivered}, file)


def good_picture(index: int) -> tuple[bytes, int]:
    """A picture of the loader's size, and the checksum of the pixels it must give."""
    pixels = np.random.RandomState(index).randint(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'PNG')
    return file.getvalue(), zlib.crc32(pixels)


def one_group(rng: random.Random, count: int, folder: str, sources: list[bytes], explosives: list[bytes],
              tally: Counter) -> None:
    """Write, load and check `count` mutated pictures and a third as many good ones."""
    kinds, good, labels = [], {}, []
    mutated = 0
    while mutated < count:
        index = len(kinds)
        if rng.random() < 0.25:
            data, good[index] = good_picture(index)
            kind = 'good'
        elif rng.random() < 0.004:
            data, kind = rng.choice(explosives), 'bomb'
        else:
            kind = rng.choice(list(MUTATIONS))
            data = MUTATIONS[kind](rng, rng.choice(sources))
        mutated += kind != 'good'
        kinds.append(kind)
        labels.append(rng.randrange(5))
        with open(os.path.join(folder, f'{index:05d}'), 'wb') as file:
            file.write(data)
    present = sorted(set(labels))
    labels = [present.index(label) for label in labels]     # contiguous, as an image set wants them
    with open(os.path.join(folder, 'labels.json'), 'w') as file:
        json.dump(labels, file)

    with open(os.path.join(folder, 'noise'), 'wb') as noise:
        child = subprocess.Popen([sys.executable, '-m', 'tests.faults.fuzz_images', '--load', folder], stderr=noise)
        try:
            child.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            child.kill()
            raise AssertionError(f'{folder}: the loader hangs') from None
    assert child.returncode == 0, f'{folder}: the loader ended with {child.returncode}'

    with open(os.path.join(folder, 'result.json')) as file:
        result = json.load(file)
    indices = [index for index, _, _ in result['delivered']]
    refused = [int(os.path.basename(path)) for path, _ in result['refused']]
    assert indices == sorted(set(indices)), f'{folder}: out of order'
    assert sorted(indices + refused) == list(range(len(kinds))), f'{folder}: lost, or both delivered and refused'
    assert all(reason.strip() and '\n' not in reason for _, reason in result['refused']), f'{folder}: no reason'
    checksums = {index: checksum for index, _, checksum in result['delivered']}
    for index, label, _ in result['delivered']:
        assert label == labels[index], f'{folder}/{index:05d}: wrong label'
    for index, checksum in good.items():
        assert checksums.get(index) == checksum, f'{folder}/{index:05d}: a good picture came to harm'
    for index in refused:
        tally[kinds[index], 'refused'] += 1
    for index in indices:
        tally[kinds[index], 'decoded'] += 1
    with open(os.path.join(folder, 'noise'), 'rb') as noise:
        tally['lines on stderr', ''] += len(noise.read().splitlines())


def run(count: int, seed: int = 0, keep: str | None = None) -> Counter:
    """Mutate and load `count` pictures.

    Returns
    -------
    collections.Counter
        (mutation, 'decoded' or 'refused') -> pictures.

    Raises
    ------
    AssertionError
        Something was wrong; names the group's folder, which is still there if `keep` was given.
    """
    rng, tally, sources, explosives = random.Random(seed), Counter(), originals(), bombs()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss     # of children that are none of ours
    for done in range(0, count, GROUP):
        with tempfile.TemporaryDirectory() as temporary:
            folder = temporary
            if keep is not None:
                folder = os.path.join(keep, f'{done:06d}')
                os.makedirs(folder)
            one_group(rng, min(GROUP, count - done), folder, sources, explosives, tally)
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    memory = largest * 1024 if largest > before else 0
    tally['peak memory of a loader in MB', ''] = memory // 2 ** 20
    assert memory < MEMORY, f'a loader used {memory / 2 ** 20:.0f} MB'
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--count', type=int, default=10000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--keep', help='new folder: leave the pictures there')
    parser.add_argument('--load', help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load(options.load)
        return
    tally = run(options.count, options.seed, options.keep)
    for kind in ['good', 'bomb', *MUTATIONS]:
        print(f'{kind:40}{tally[kind, "decoded"]:7} decoded{tally[kind, "refused"]:7} refused')
    for kind in ('lines on stderr', 'peak memory of a loader in MB'):
        print(f'{kind:40}{tally[kind, ""]:7}')
    print(f'{options.count} mutated pictures: each decoded or refused by name, the others unharmed')


if __name__ == '__main__':
    main()
