"""Images a second of the loader, against the published way and Pillow, and how far its pixels are from the plain ones.

    python -m tests.benchmarks.loader FOLDER [--seconds 4] [--rounds 3]

FOLDER holds photographs, at any depth. Every way does the published preprocessing: decode, resize to 256, random crop
of 224, mirror, normalise. One thread means one core: each measurement is a process of its own, pinned to as many cores
as it has threads. The rounds take turns, so that what else the machine does hits all ways alike; the best round counts.

published   mx.image.imread, mx.image.CreateAugmenter called for each image, transpose, stack
pillow      Pillow and NumPy, the plain way, float32 batch
loader-1    our loader, 1 thread, uint8 batch, copied to the device and normalised there (MXNet on the same core here)
bare-1, -2  our loader alone, 1 and 2 threads: what a GPU that normalises would see
cached-1    our loader, 1 thread, from its cache (read once before), copied and normalised on the device
bare-cached-1  the same without the device
"""
from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from typing import Callable, Iterator

import numpy as np

BATCH = 32
RESIZE, SIZE = 256, 224
MEAN = np.array([123.68, 116.779, 103.939], dtype=np.float32)
STD = np.array([58.393, 57.12, 57.375], dtype=np.float32)
WAYS = {'published': 1, 'pillow': 1, 'loader-1': 1, 'bare-1': 1, 'bare-2': 2, 'cached-1': 1, 'bare-cached-1': 1}


def photographs(folder: str) -> list[str]:
    return sorted(os.path.join(root, name) for root, _, names in os.walk(folder) for name in names
                  if name.lower().endswith(('.jpg', '.jpeg', '.png')))


def published(paths: list[str]) -> Iterator[int]:
    import mxnet as mx
    batch = []
    for path in paths:
        image = mx.image.imread(path)
        for augment in mx.image.CreateAugmenter((3, SIZE, SIZE), resize=RESIZE, rand_crop=True, rand_mirror=True,
                                                mean=MEAN, std=STD):
            image = augment(image)
        batch.append(mx.nd.transpose(image, (2, 0, 1)))
        if len(batch) == BATCH:
            mx.nd.stack(*batch).wait_to_read()
            batch = []
            yield BATCH


def pillow(paths: list[str]) -> Iterator[int]:
    from PIL import Image
    batch = []
    for path in paths:
        image = np.asarray(Image.open(path).convert('RGB').resize((RESIZE, RESIZE), Image.BILINEAR))
        top, left = random.randint(0, RESIZE - SIZE), random.randint(0, RESIZE - SIZE)
        image = image[top:top + SIZE, left:left + SIZE]
        if random.random() < 0.5:
            image = image[:, ::-1]
        batch.append(((image.astype(np.float32) - MEAN) / STD).transpose(2, 0, 1))
        if len(batch) == BATCH:
            np.stack(batch)
            batch = []
            yield BATCH


def ours(paths: list[str], threads: int, device: bool, cache: str | None) -> Iterator[int]:
    from dataset.imageset import ImageSet
    from dataset.loader import Loader
    if device:
        import mxnet as mx

        from models.embedding import PixelNormalization
        normalize = PixelNormalization(MEAN, STD)
        normalize.initialize()
        normalize.hybridize(static_alloc=True)
    images = ImageSet(paths, np.zeros(len(paths), dtype=np.int64), ['all'])
    order = np.tile(np.arange(len(paths)), -(-4 * BATCH // len(paths)) * BATCH).reshape(-1, BATCH)
    with Loader(images, order, True, SIZE, RESIZE, num_workers=threads, cache=cache) as loader:
        if cache is not None:
            for _ in loader:        # a first epoch, which checks the pixels
                pass
        while True:
            for batch in loader:
                if device:
                    normalize(mx.nd.array(batch.images, dtype='uint8')).wait_to_read()
                yield BATCH


def again_and_again(way: Callable[[list[str]], Iterator[int]], paths: list[str]) -> Iterator[int]:
    while True:
        yield from way(paths)


def measure(way: str, paths: list[str], seconds: float, cache: str) -> dict[str, float]:
    """Images a second of wall-clock time and of processor time, in this process."""
    if way in ('published', 'pillow'):
        batches = again_and_again({'published': published, 'pillow': pillow}[way], paths * BATCH)
    else:
        batches = ours(paths, WAYS[way], 'bare' not in way, cache if 'cached' in way else None)
    for _ in range(4):
        next(batches)
    count, wall, processor = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        count += next(batches)
    result = {'wall': count / (time.perf_counter() - wall), 'processor': count / (time.process_time() - processor)}
    batches.close()
    return result


def difference(paths: list[str]) -> tuple[float, float]:
    """Mean absolute difference to Pillow's and to OpenCV's resize of the picture decoded in full, in grey levels."""
    import cv2
    from PIL import Image

    from dataset.decode import read_image
    to_pillow, to_opencv = [], []
    for path in paths:
        mine = read_image(path, RESIZE).astype(int)
        whole = Image.open(path).convert('RGB')
        to_pillow.append(np.abs(mine - np.asarray(whole.resize((RESIZE, RESIZE), Image.BILINEAR))).mean())
        plain = cv2.resize(np.asarray(whole), (RESIZE, RESIZE), interpolation=cv2.INTER_LINEAR)
        to_opencv.append(np.abs(mine - plain).mean())
    return float(np.mean(to_pillow)), float(np.mean(to_opencv))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder')
    parser.add_argument('--seconds', type=float, default=4, help='of each measurement')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--way', choices=WAYS, help='measure this one in this process')
    parser.add_argument('--cache', help='folder of the cache, for --way')
    options = parser.parse_args()
    paths = photographs(options.folder)
    if options.way:
        print(json.dumps(measure(options.way, paths, options.seconds, options.cache)))
        return

    cores = sorted(os.sched_getaffinity(0))
    best = {way: {'wall': 0., 'processor': 0.} for way in WAYS}
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(options.rounds):
            for way, threads in WAYS.items():
                command = [sys.executable, '-m', 'tests.benchmarks.loader', options.folder, '--way', way, '--seconds',
                           str(options.seconds), '--cache', cache]
                used = cores[-threads:]
                result = subprocess.run(command, stdout=subprocess.PIPE, check=True,
                                        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'},
                                        preexec_fn=lambda used=used: os.sched_setaffinity(0, used))
                found = json.loads(result.stdout.splitlines()[-1])
                best[way] = {kind: max(best[way][kind], found[kind]) for kind in found}

    print(f'{len(paths)} photographs, best of {options.rounds} rounds of {options.seconds:g} s, images a second')
    print(f'{"":15}{"wall clock":>12}{"x published":>13}{"x pillow":>10}'
          f'   {"per s of processor":>18}{"x published":>13}{"x pillow":>10}')
    for way in WAYS:
        row, base, plain = best[way], best['published'], best['pillow']
        print(f'{way:15}{row["wall"]:12.0f}{row["wall"] / base["wall"]:13.1f}{row["wall"] / plain["wall"]:10.1f}'
              f'   {row["processor"]:18.0f}{row["processor"] / base["processor"]:13.1f}'
              f'{row["processor"] / plain["processor"]:10.1f}')
    print(f'2 threads / 1 thread: {best["bare-2"]["wall"] / best["bare-1"]["wall"]:.2f}')
    print('mean absolute difference to the plain resize of the whole picture: '
          '{:.2f} grey levels (Pillow, bilinear), {:.2f} (OpenCV, linear)'.format(*difference(paths)))


if __name__ == '__main__':
    main()
