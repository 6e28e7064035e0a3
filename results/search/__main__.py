"""Searches in a folder of pictures with a trained network, and draws a map of it.

    python -m results.search --model X-best.params --gallery DIR --output DIR
    python -m results.search --model X-best.params --gallery DIR --query IMG IMG --output DIR

Writes into the folder --output:

    neighbours.csv    the nearest pictures of each query: query, rank, path, class, distance
    search.html       the same as pictures; without --query, the pictures whose first neighbour is of another class
    map.html          a map of the gallery, to look around in
    embeddings.npz    the embeddings; the next call embeds only pictures that are new. With $DML_CACHE, they go there

Without --query, each picture of the gallery searches among all others. Folders in the gallery are classes. Each page is
one file and needs no network.
"""
from __future__ import annotations

import argparse
import hashlib
import os
import sys
from typing import Any, Dict, Iterator, List, Optional

import numpy as np

from common.command import CommandParser, run_command
from common.files import expand_path
from results.reproduce import positive
from results.search import pages
from results.search.gallery import Embedder, SearchError, read_gallery
from results.search.neighbours import nearest, project, worst

MAX_ROWS = 100          # of the page; the table has all


def _whole(text: str) -> int:
    if not text.isdigit() or int(text) > 2 ** 31 - 1:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 0')
    return int(text)


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """The command's flags; ends the process with status 2 on a mistake."""
    parser = CommandParser(prog='python -m results.search', description=__doc__,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', required=True, type=expand_path, nargs='+', metavar='FILE', dest='models',
                        help="saved network, .params, with the .json that training wrote; of an ensemble its members'")
    parser.add_argument('--gallery', required=True, type=expand_path, metavar='DIR', help='the pictures to search in')
    parser.add_argument('--query', type=expand_path, nargs='+', default=[], metavar='IMG', dest='queries',
                        help='pictures to search for (default: each of the gallery)')
    parser.add_argument('--output', required=True, type=expand_path, metavar='DIR', help='folder for what is written')
    parser.add_argument('--neighbours', type=positive, default=10, metavar='N',
                        help='nearest pictures of each query (default: %(default)s)')
    parser.add_argument('--normalize', action='store_true',
                        help='scale embeddings to unit length: pictures are ranked by cosine similarity')
    parser.add_argument('--projection', choices=('tsne', 'pca'), default='tsne',
                        help='how the map is made (default: %(default)s)')
    parser.add_argument('--map-pictures', type=positive, default=2000, metavar='N',
                        help='pictures on the map, chosen at random from a larger gallery (default: %(default)s)')
    parser.add_argument('--seed', type=_whole, default=123,
                        help='seed of t-SNE and of the choice of pictures (default: %(default)s)')
    parser.add_argument('--skip-bad-images', type=_whole, default=0, metavar='N',
                        help='go on with up to N unreadable pictures in the gallery, each named (default: %(default)s)')
    parser.add_argument('--gpus', default='-1', metavar='CODES',
                        help='-1: every GPU found, else the CPU; -2: the CPU; 0,1: those GPUs (default: %(default)s)')
    return parser.parse_args(argv)


def _cache_file(opt: argparse.Namespace) -> str:
    folder = os.environ.get('DML_CACHE')
    if not folder:
        return os.path.join(opt.output, 'embeddings.npz')
    names = '\0'.join(map(os.path.abspath, [*opt.models, opt.gallery])).encode('utf-8', 'surrogateescape')
    os.makedirs(folder, exist_ok=True)
    return os.path.join(folder, f'search-{hashlib.sha256(names).hexdigest()[:16]}.npz')


class Search:
    """A gallery, queries, and their embeddings.

    Parameters
    ----------
    opt : flags of the command

    Raises
    ------
    SearchError, UsageError, OSError
        If the network, the gallery or a query cannot be used.
    """

    def __init__(self, opt: argparse.Namespace) -> None:
        gallery = read_gallery(opt.gallery)
        first = len(gallery.paths)
        embedder = Embedder(opt.models, _cache_file(opt), opt.gpus, opt.skip_bad_images)
        found, bad = embedder.embed(gallery.paths + opt.queries)
        for i, reason in bad.items():
            if i >= first:
                raise SearchError(f'--query {opt.queries[i - first]}: {reason}')
            print(f'left out: {gallery.paths[i]}: {reason}')
        x = np.stack([found[i] for i in sorted(found)])
        if opt.normalize:
            lengths = np.linalg.norm(x, axis=1, keepdims=True)
            if not lengths.all():
                raise SearchError(f'--normalize: {int((lengths == 0).sum())} of the embeddings are zero, and have no '
                                  'direction')
            x = x / lengths
        self.opt, self.gallery = opt, gallery.without([i for i in bad if i < first])
        self.measure = 'cosine' if opt.normalize else 'distance'
        self.x, self.query_x = np.split(x, [len(self.gallery.paths)])
        place = {os.path.realpath(path): i for i, path in enumerate(self.gallery.paths)}
        #: Where each query is in the gallery, or -1; and what it is called.
        self.own = np.array([place.get(os.path.realpath(path), -1) for path in opt.queries], dtype=int)
        self.query_paths = opt.queries

    def value(self, distance: float) -> float:
        """What is shown for a distance: the cosine with --normalize."""
        return float(1 - distance ** 2 / 2 if self.opt.normalize else distance)

    def class_of(self, place: int) -> str:
        """The name of a picture's class; empty where it is not known."""
        return '' if self.gallery.labels is None or place < 0 else self.gallery.classes[self.gallery.labels[place]]

    def row(self, query: int, places: np.ndarray, distances: np.ndarray) -> Dict[str, Any]:
        """One query and what it finds."""
        own, path = (query, self.gallery.paths[query]) if not self.query_paths else (
            int(self.own[query]), self.query_paths[query])
        known = self.class_of(own)
        return {'path': path, 'name': self.gallery.names[own] if own >= 0 else path, 'class': known, 'found': [
            {'path': self.gallery.paths[i], 'name': self.gallery.names[i], 'class': self.class_of(i),
             'value': self.value(d), 'wrong': bool(known) and self.class_of(i) != known}
            for i, d in zip(places, distances)]}


def _map(search: Search) -> Dict[str, Any]:
    """What the map's template needs."""
    opt, gallery = search.opt, search.gallery
    sample = np.sort(np.random.RandomState(opt.seed).permutation(len(gallery.paths))[:opt.map_pictures])
    x, count = search.x[sample], len(sample)
    places, said = project(np.concatenate([x, search.query_x]), opt.projection, opt.seed)
    near = [nearest(x, x, np.arange(count), opt.neighbours)]
    if search.query_paths:
        in_sample = {i: number for number, i in enumerate(sample.tolist())}
        own = np.array([in_sample.get(i, -1) for i in search.own.tolist()])
        near.append(nearest(search.query_x, x, own, opt.neighbours))
    paths = [gallery.paths[i] for i in sample] + list(search.query_paths)
    names = [gallery.names[i] for i in sample] + list(search.query_paths)
    labels = [-1 if gallery.labels is None or i < 0 else int(gallery.labels[i]) for i in [*sample, *search.own]]
    data = {'classes': gallery.classes, 'measure': search.measure, 'queries': len(search.query_paths),
            'colours': pages.COLOURS, 'shapes': pages.SHAPES,
            'x': places[:, 0].round(4).tolist(), 'y': places[:, 1].round(4).tolist(), 'names': names,
            'labels': labels, 'pictures': [pages.thumbnail(path) for path in paths],
            'near': [row for found, _ in near for row in found.tolist()],
            'values': [[round(search.value(d), 4) for d in row] for _, far in near for row in far.tolist()]}
    limits = '' if count == len(gallery.paths) else (
        f'It shows {count:,} of {len(gallery.paths):,} pictures, chosen at random (seed {opt.seed}). Neighbours are '
        'searched among these.')
    return {'data': data, 'said': said, 'limits': limits}


def run(opt: argparse.Namespace) -> None:
    """Does what the flags ask for."""
    os.makedirs(opt.output, exist_ok=True)
    search = Search(opt)
    gallery, one_out = search.gallery, not opt.queries
    places, distances = nearest(search.x if one_out else search.query_x, search.x,
                                np.arange(len(gallery.paths)) if one_out else search.own, opt.neighbours)
    if not places.size:
        raise SearchError(f'--gallery {opt.gallery}: there is no other picture in it to find')

    def rows(queries: np.ndarray) -> Iterator[Dict[str, Any]]:
        return (search.row(query, places[query], distances[query]) for query in queries)

    everything = np.arange(len(places))
    shown, recall, failed = everything, None, None
    if one_out and gallery.labels is not None:
        wrong = gallery.labels[places] != gallery.labels[:, None]
        shown, recall = worst(wrong, distances), 100 * float(np.mean(~wrong[:, 0]))
        failed = len(shown)
        print(f'recall@1, each picture searched among the others: {recall:.2f} %')
    about = {'model': ', '.join(map(os.path.basename, opt.models)), 'gallery': opt.gallery,
             'pictures': len(gallery.paths), 'classes': len(gallery.classes), 'measure': search.measure,
             'recall': recall}
    written = [os.path.join(opt.output, name) for name in ('neighbours.csv', 'search.html', 'map.html')]
    pages.write_table(written[0], rows(everything), search.measure)
    pages.write_page(written[1], 'page.html.j2', rows=list(rows(shown[:MAX_ROWS])), one_out=one_out, failed=failed,
                     total=len(shown), thumbnail=pages.thumbnail, **about)
    pages.write_page(written[2], 'map.html.j2', **_map(search), **about)
    print(f'written: {", ".join(written)}')


def main(argv: Optional[List[str]] = None) -> int:
    """The command; gives its exit status."""
    opt = parse_args(argv)
    return run_command('results.search', lambda: run(opt))


if __name__ == '__main__':
    sys.exit(main())
