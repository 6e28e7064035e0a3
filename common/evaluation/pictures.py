"""Pictures of an embedding: queries with their nearest neighbours, and a map in two dimensions."""
from __future__ import annotations

import os
from typing import Any, Optional, Sequence

import numpy as np
from PIL import Image, ImageDraw

from common.files import atomic_write
from common.evaluation.retrieval import EvaluationError, check_embeddings, check_labels, square_norms

SIDE, FRAME, GAP = 96, 4, 6                     # pixels
RIGHT, WRONG, PLAIN = (0, 158, 60), (213, 40, 30), (90, 90, 90)
MAP_POINTS = 2000


def nearest_neighbours(embeddings: np.ndarray, query: int, count: int,
                       gallery: Optional[np.ndarray] = None) -> np.ndarray:
    """Indices of the `count` images nearest to image `query`, itself excepted; equally near ones by index.

    `gallery`: the indices that are searched, ascending; None: all.
    """
    searched = np.arange(len(embeddings)) if gallery is None else gallery
    squared = square_norms(np.subtract(embeddings[searched], embeddings[query], dtype=np.float64))
    order = searched[np.argsort(squared, kind='stable')]
    return order[order != query][:count]


def _thumbnail(path: str) -> Image.Image:
    """The image as a square, or a crossed-out one where it cannot be read."""
    try:
        with Image.open(path) as image:
            image.draft('RGB', (2 * SIDE, 2 * SIDE))
            return image.convert('RGB').resize((SIDE, SIDE), Image.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        tile = Image.new('RGB', (SIDE, SIDE), (220, 220, 220))
        ImageDraw.Draw(tile).line([(0, 0), (SIDE, SIDE)], fill=PLAIN, width=2)
        return tile


def draw_neighbours(paths: Sequence[str], embeddings: np.ndarray, labels: np.ndarray, queries: int = 8,
                    neighbours: int = 8, seed: int = 0, is_query: Optional[np.ndarray] = None) -> Image.Image:
    """Draws queries, one a row, with their nearest neighbours: those of the query's class framed green, others red.

    Parameters
    ----------
    paths : the images, one for each row of `embeddings`.
    embeddings : (N, E) float array.
    labels : (N,) int array.
    queries, neighbours : rows and columns; fewer where there are not as many images.
    seed : of the choice of queries, of different classes as far as there are enough.
    is_query : (N,) bool array: these are the queries, and the others the gallery; None: all are both.

    Raises
    ------
    EvaluationError : embeddings or labels that do not fit the images, or fewer than two images.
    """
    embeddings = check_embeddings(embeddings)
    labels = check_labels(labels, len(embeddings))
    if len(paths) != len(embeddings):
        raise EvaluationError(f'there are {len(embeddings)} embeddings, but {len(paths)} images')
    if len(embeddings) < 2:
        raise EvaluationError('there is one image only: nothing to retrieve')
    gallery = None if is_query is None else np.flatnonzero(~is_query)
    searching = np.arange(len(labels)) if is_query is None else np.flatnonzero(is_query)
    shuffled = searching[np.random.RandomState(seed).permutation(len(searching))]
    _, first = np.unique(labels[shuffled], return_index=True)
    first.sort()                                # one image of every class, classes in random order; then the others
    chosen = shuffled[np.concatenate([first, np.setdiff1d(np.arange(len(shuffled)), first)])][:queries]
    neighbours = min(neighbours, len(labels) - 1 if gallery is None else len(gallery))
    step = SIDE + 2 * FRAME + GAP
    canvas = Image.new('RGB', ((neighbours + 1) * step + 3 * GAP, len(chosen) * step + GAP), 'white')
    draw = ImageDraw.Draw(canvas)
    for row, query in enumerate(chosen):
        top = GAP + row * step
        for column, index in enumerate([query, *nearest_neighbours(embeddings, query, neighbours, gallery)]):
            left = GAP + column * step + (2 * GAP if column else 0)
            colour = PLAIN if not column else RIGHT if labels[index] == labels[query] else WRONG
            draw.rectangle([left, top, left + SIDE + 2 * FRAME - 1, top + SIDE + 2 * FRAME - 1], fill=colour)
            canvas.paste(_thumbnail(paths[index]), (left + FRAME, top + FRAME))
    return canvas


def retrieval_picture(imageset, embeddings: np.ndarray, labels: np.ndarray, path: str, **options: Any) -> None:
    """Writes the picture of `draw_neighbours`, of the images in ``imageset.paths``.

    Parameters
    ----------
    path : the picture to write, PNG unless its name says otherwise.
    options : `queries`, `neighbours` and `seed` of `draw_neighbours`.

    Raises
    ------
    EvaluationError : see `draw_neighbours`.
    OSError : the picture cannot be written.
    """
    canvas = draw_neighbours(imageset.paths, embeddings, labels, is_query=getattr(imageset, 'queries', None), **options)
    with atomic_write(path) as file:
        canvas.save(file, Image.registered_extensions().get(os.path.splitext(path)[1].lower(), 'PNG'))


def embedding_map(embeddings: np.ndarray, labels: np.ndarray, path: str, seed: int = 0) -> None:
    """Draws a map of the embedding in two dimensions, by t-SNE (L. van der Maaten, G. Hinton, JMLR 2008).

    Parameters
    ----------
    embeddings : (N, E) float array; of more than 2,000 rows, so many are chosen at random.
    labels : (N,) int array, shown as colours (close ones for close labels).
    path : the PNG to write.
    seed : of the choice and of t-SNE.

    Raises
    ------
    EvaluationError : embeddings or labels that cannot be used, or fewer than 4 images.
    OSError : the picture cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg     # slow to import, and seldom needed
    from matplotlib.figure import Figure
    from sklearn.manifold import TSNE

    embeddings = check_embeddings(embeddings)
    labels = check_labels(labels, len(embeddings))
    if len(embeddings) < 4:
        raise EvaluationError(f'{len(embeddings)} images are too few for a map')
    chosen = np.random.RandomState(seed).permutation(len(labels))[:MAP_POINTS]
    points = embeddings[chosen].astype(np.float64)
    points -= points.mean(axis=0)
    points /= np.abs(points).max() or 1.0
    if points.any():                            # t-SNE cannot place images that are all the same
        # a random start, because one from principal components fails for one dimension and a single value in all others
        tsne = TSNE(init='random', learning_rate='auto', perplexity=min(30.0, (len(points) - 1) / 3), random_state=seed)
        places = tsne.fit_transform(points.astype(np.float32))
    else:
        places = np.zeros((len(points), 2))
    figure = Figure(figsize=(8, 8))
    axes = FigureCanvasAgg(figure).figure.add_subplot()
    _, colours = np.unique(labels[chosen], return_inverse=True)
    axes.scatter(places[:, 0], places[:, 1], c=colours, cmap='nipy_spectral', s=8, linewidths=0)
    axes.set_axis_off()
    axes.set_title(f't-SNE of {len(points):,} of {len(labels):,} images, {colours.max() + 1:,} classes')
    with atomic_write(path) as file:
        figure.savefig(file, format='png', dpi=120, bbox_inches='tight')
