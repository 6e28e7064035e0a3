"""GLYPHS, the embedded default: letters and symbols drawn from the fonts that matplotlib ships, no network needed.

200 classes, one character each, in the twelve DejaVu faces. Every image has its own face, size, proportions,
rotation, shear, place, ink, paper and noise. How much they vary was chosen by measurement: at 32 pixels, raw pixels and
an untrained convnet find a neighbour of the right class for 15 to 30 % of the queries, so that methods which mine among
neighbours have a start, and a trained one has room above. Which 100 characters train and which test is drawn by the
seed.

The images are real files in class folders, the first hundred of which train (the layout of miniCUB)::

    CACHE/glyphs-v3-seed0-size37/0000_U+03A9/000.jpg ...

They are made once, by threads: OpenCV and NumPy release the interpreter lock while they draw. Each class has its own
random generator, seeded by (seed, size, character), so any number of threads makes the same files. They are drawn into
a temporary folder, which is renamed when it is complete. If two processes draw at once, the second to finish uses what
the first has made.
"""
from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from io import BytesIO
from typing import List, Optional, Tuple

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from common.errors import UsageError
from dataset.errors import DatasetError
from dataset.folder import read_folders, split_halves
from dataset.imageset import ImageSet
from dataset.registry import register

#: Part of the folder's name: to be raised when the pictures change.
FORMAT = 3
IMAGES_PER_CLASS = 25
_TEMPORARY = '.tmp-'

FACES = ('DejaVuSans', 'DejaVuSans-Bold', 'DejaVuSans-Oblique', 'DejaVuSans-BoldOblique',
         'DejaVuSansMono', 'DejaVuSansMono-Bold', 'DejaVuSansMono-Oblique', 'DejaVuSansMono-BoldOblique',
         'DejaVuSerif', 'DejaVuSerif-Bold', 'DejaVuSerif-Italic', 'DejaVuSerif-BoldItalic')

#: One character a class, chosen once from the 2,383 that all faces have: accented letters, ligatures and box drawing
#: left out, all drawn at one size in four faces and turned by up to 30 degrees; then letters in the order Latin, Greek,
#: Cyrillic, Armenian, Georgian, others, and symbols from the most different on, each taken only if its correlation
#: with every one taken before stays below 0.84. So of A, Alpha and Cyrillic A there is one, and S gives way to 5.
CHARACTERS = (
              '%&0123457:<>ACEKLMNPRTUVWXYZbdekmnqr®±»ÆæƕƢƦƨƸɁɔɮɷ'
              'ɹʁʍʞʬʭΞΣΦΨαβζλμνςϗϝϞϠϷϻЂЉЊЋЖЛЦЧЩЪЫЮьяђѣӋәԲԴԶԷԸԹԾԿՀ'
              'ՃՇՊՎՔՖխմչպაგდელორტფწჯჰჱ჻ᴖᴗᴝᴞᴟ↜↢↲↸⇦⇩⇫⇰⇱⇲√∞∹∺≂≐≤≥⊂⊆⊇'
              '⊐⊔⊢⌑⌘⌥⎡▱△▷▻▽◁◅◌◔◝◟◧◩◪◰◲◵◸◹◿☼♃♅♡♢♤♧♩♫♬♭♮⟶⩪⩫⬒⬓⬔⬕⬚Ⱶ⸟⸮'
)


def cache_folder() -> str:
    """Where generated data goes: ``$DML_CACHE``, or ``~/.cache/dml-playground``."""
    return os.environ.get('DML_CACHE') or os.path.join(os.path.expanduser('~'), '.cache', 'dml-playground')


@register('GLYPHS', generated=True)
def read_glyphs(data_path: Optional[str], size: int = 256, seed: int = 0) -> Tuple[ImageSet, ImageSet]:
    """Read the set, and make it first where it does not exist.

    Parameters
    ----------
    data_path : str or None
        The folder to generate into, each (seed, size) in a folder of its own; None: `cache_folder()`.
    size : int
        Side of the images in pixels.
    seed : int
        Draws the split and every picture.

    Returns
    -------
    (train, test) : ImageSets of 100 classes and 2,500 images each, not to be mirrored.

    Raises
    ------
    DatasetError
        If the folder cannot be written, or exists and was changed since it was made.
    """
    if size < 16:
        raise UsageError(f'--resize {size} is too small to tell glyphs apart, use 16 or more.')
    base = data_path or cache_folder()
    folder = os.path.join(base, f'glyphs-v{FORMAT}-seed{seed}-size{size}')
    if not os.path.isdir(folder):
        try:
            generate(folder, size, seed)
        except OSError as error:
            raise DatasetError(f'{folder} cannot be written ({error}): choose another place with --data-path or '
                               '$DML_CACHE.') from None
    images = read_folders(folder, 'GLYPHS', mirror=False)
    if (images.num_classes, len(images)) != (len(CHARACTERS), len(CHARACTERS) * IMAGES_PER_CLASS):
        raise DatasetError(f'{folder} is not as it was made ({images.num_classes} classes, {len(images)} images): '
                           'delete it, and it will be made again.')
    return split_halves(images)


def generate(folder: str, size: int, seed: int = 0, threads: Optional[int] = None) -> None:
    """Draw all images into a new `folder`. If the folder exists by then, it stays as it is.

    Parameters
    ----------
    folder : str
    size, seed : int
    threads : int, optional
        Default: one a core.

    Raises
    ------
    OSError
        If the folder cannot be written.
    DatasetError
        If matplotlib's fonts are not where they should be.
    """
    parent = os.path.dirname(os.path.abspath(folder))
    os.makedirs(parent, exist_ok=True)
    _remove_leftovers(parent)
    temporary = tempfile.mkdtemp(prefix=os.path.basename(folder) + _TEMPORARY, dir=parent)
    try:
        threads = threads or os.cpu_count() or 1
        order = np.random.RandomState([FORMAT, seed % 2 ** 32]).permutation(len(CHARACTERS))
        stop = threading.Event()
        with ThreadPoolExecutor(threads) as pool:
            jobs = [pool.submit(_draw_classes, temporary, order, range(start, len(order), threads), size, seed, stop)
                    for start in range(threads)]
            try:
                wait(jobs, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()  # after an error or Ctrl-C the others need not finish
            for job in jobs:
                job.result()
        os.chmod(temporary, 0o755)  # mkdtemp makes it private, the cache may be shared
        try:
            os.rename(temporary, folder)
        except OSError:
            if not os.path.isdir(folder):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_leftovers(parent: str) -> None:
    """Delete what killed processes left behind more than an hour ago."""
    with os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith('glyphs-v') and _TEMPORARY in entry.name \
                    and time.time() - entry.stat().st_mtime > 3600:
                shutil.rmtree(entry.path, ignore_errors=True)


def _draw_classes(folder: str, order: np.ndarray, places: range, size: int, seed: int,
                  stop: threading.Event) -> None:
    """One thread's share: the classes at these places of the split's order."""
    fonts = _load_fonts(size)
    for place in places:
        character = CHARACTERS[order[place]]
        shapes = [_shape(font, character) for font in fonts]
        class_folder = os.path.join(folder, f'{place:04d}_U+{ord(character):04X}')
        os.mkdir(class_folder)
        rng = np.random.RandomState([FORMAT, seed % 2 ** 32, size, ord(character)])
        for number, image in enumerate(_draw(shapes, size, rng)):
            encoded = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
            with open(os.path.join(class_folder, f'{number:03d}.jpg'), 'wb') as stream:
                stream.write(encoded.tobytes())
        if stop.is_set():
            return


def _load_fonts(size: int) -> List[ImageFont.FreeTypeFont]:
    """The twelve faces, large enough that a shape is seldom enlarged."""
    import matplotlib  # only for its folder, and only when there is something to draw
    folder = os.path.join(matplotlib.get_data_path(), 'fonts', 'ttf')
    fonts = []
    for face in FACES:
        # The bytes, not the name: Pillow would look for a missing file among the fonts of the system.
        try:
            with open(os.path.join(folder, f"{face}.ttf"), 'rb') as stream:
                fonts.append(ImageFont.truetype(BytesIO(stream.read()), size, layout_engine=ImageFont.Layout.BASIC))
        except OSError as error:
            raise DatasetError(f'{folder} lacks the DejaVu fonts that matplotlib ships ({error}).') from None
    return fonts


def _shape(font: ImageFont.FreeTypeFont, character: str) -> np.ndarray:
    """The character's coverage, uint8, cut to its ink."""
    left, top, right, bottom = font.getbbox(character)
    image = Image.new('L', (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(image).text((1 - left, 1 - top), character, fill=255, font=font)
    pixels = np.asarray(image)
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    return np.ascontiguousarray(pixels[rows[0]:rows[-1] + 1, columns[0]:columns[-1] + 1])


def _draw(shapes: List[np.ndarray], size: int, rng: np.random.RandomState) -> np.ndarray:
    """All pictures of a class, uint8 (IMAGES_PER_CLASS, size, size, 3)."""
    count = IMAGES_PER_CLASS
    face = rng.randint(len(shapes), size=count)
    blur = rng.uniform(0.2, 0.8, size=count) * size / 37
    linear, room = _transforms([shapes[i].shape for i in face], size, rng)
    centre = size / 2 + rng.uniform(-1, 1, size=(count, 2)) * room
    coverage = np.empty((count, size, size, 1), dtype=np.float32)
    for i in range(count):
        shape = shapes[face[i]]
        offset = centre[i] - linear[i] @ [shape.shape[1] / 2, shape.shape[0] / 2]
        drawn = cv2.warpAffine(shape, np.column_stack([linear[i], offset]), (size, size))
        coverage[i, :, :, 0] = cv2.GaussianBlur(drawn, (0, 0), blur[i])
    coverage /= 255
    paper, ink = _colours(count, rng)
    paper = paper + _clouds(count, 3, size, rng) * rng.uniform(0, 10, size=(count, 1, 1, 1)).astype(np.float32)
    ink = ink + _clouds(count, 2, size, rng) * rng.uniform(0, 5, size=(count, 1, 1, 1)).astype(np.float32)
    noise = rng.standard_normal((count, size, size, 3)).astype(np.float32)
    noise *= rng.uniform(2, 20, size=(count, 1, 1, 1)).astype(np.float32)
    return np.clip(np.rint(paper + (ink - paper) * coverage + noise), 0, 255).astype(np.uint8)


def _transforms(shapes: List[Tuple[int, int]], size: int, rng: np.random.RandomState) -> Tuple[np.ndarray, np.ndarray]:
    """How each shape is stretched, sheared, turned and scaled: matrices (N, 2, 2), and how far it may move (N, 2)."""
    count = len(shapes)
    angle, shear, stretch = (rng.uniform(-limit, limit, size=count) for limit in (np.deg2rad(25), 0.3, 0.2))
    one, nought = np.ones(count), np.zeros(count)

    def matrices(*entries: np.ndarray) -> np.ndarray:
        return np.stack(entries, axis=1).reshape(count, 2, 2)

    linear = matrices(np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)) \
        @ matrices(one, shear, nought, one) @ matrices(np.exp(stretch), nought, nought, np.exp(-stretch))
    box = np.array(shapes, dtype=np.float64)[:, ::-1, None]        # width, height
    extent = (np.abs(linear) @ box)[:, :, 0]                       # of the transformed box
    scale = rng.uniform(0.48, 0.8, size=count) * size / extent.max(axis=1)
    room = (0.86 * size - extent * scale[:, None]) / 2             # the margin stays outside of the centre crop
    return linear * scale[:, None, None], room


def _colours(count: int, rng: np.random.RandomState) -> Tuple[np.ndarray, np.ndarray]:
    """Light paper and dark ink, float32 (count, 1, 1, 3) each, both with a slight tint."""
    def tinted(grey: np.ndarray) -> np.ndarray:
        return (grey + rng.uniform(-5, 5, size=(count, 3))).astype(np.float32)[:, None, None]

    return tinted(rng.uniform(225, 235, size=(count, 1))), tinted(rng.uniform(20, 30, size=(count, 1)))


def _clouds(count: int, cells: int, size: int, rng: np.random.RandomState) -> np.ndarray:
    """Smooth changes of brightness over the picture, float32 (count, size, size, 1), about -1 to 1."""
    coarse = rng.uniform(-1, 1, size=(count, cells, cells)).astype(np.float32)
    return np.stack([cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC) for grid in coarse])[..., None]
