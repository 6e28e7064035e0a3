"""What a search writes: a page of pictures, a table, and a map to look around in. None needs a network."""
from __future__ import annotations

import base64
import csv
import functools
import io
import os
from typing import Any, Dict, Iterable

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image, ImageOps

from common.files import atomic_write

SIDE = 96               # of a small picture, in pixels
#: Colours that stand out from white and from the dark background, and for colour-blind eyes from each other.
COLOURS = ('#0072b2', '#d55e00', '#00875f', '#c0639a', '#a87400', '#2e8fc7', '#7a6fd0', '#808080')
SHAPES = ('circle', 'square', 'triangle', 'diamond', 'cross')


@functools.lru_cache(maxsize=None)
def thumbnail(path: str) -> str:
    """A small picture as a data URI; grey where Pillow cannot read it."""
    try:
        with Image.open(path) as image:
            image.draft('RGB', (2 * SIDE, 2 * SIDE))
            small = ImageOps.exif_transpose(image).convert('RGB')
            small.thumbnail((SIDE, SIDE))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        small = Image.new('RGB', (SIDE, SIDE), (128, 128, 128))
    buffer = io.BytesIO()
    small.save(buffer, 'JPEG', quality=78)
    return 'data:image/jpeg;base64,' + base64.b64encode(buffer.getvalue()).decode()


def write_page(path: str, template: str, **values: Any) -> None:
    """Fills a template of this folder, and writes it. Texts are escaped.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    environment = Environment(loader=FileSystemLoader(os.path.dirname(os.path.abspath(__file__))), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    with atomic_write(path) as file:
        file.write(environment.get_template(template).render(**values).encode('utf-8', 'replace'))


def write_table(path: str, rows: Iterable[Dict[str, Any]], measure: str) -> None:
    """Writes the CSV: one line for each picture found.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    with atomic_write(path) as file:
        text = io.TextIOWrapper(file, 'utf-8', 'surrogateescape', newline='')
        table = csv.writer(text, lineterminator='\n')
        table.writerow(['query', 'rank', 'path', 'class', measure])
        for row in rows:
            for rank, tile in enumerate(row['found'], 1):
                table.writerow([row['path'], rank, tile['path'], tile['class'], f'{tile["value"]:.6f}'])
        text.detach()
