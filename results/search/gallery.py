"""The gallery: its pictures, and their embeddings, which are kept in a file and made only for what is new.

``common.evaluation`` embeds, in a process of its own. What is kept goes by content: by the hash of the network's files,
and by the hash of each picture. So a picture that was renamed is not embedded again, and one that was changed is.
"""
from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np

from common.errors import UsageError, UserError
from common.files import hash_file, read_npz, write_npz
from common.trained import description
from results.algorithms import ROOT

#: Suffixes that count as a picture, as in `dataset.image_files`.
SUFFIXES = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.gif', '.bmp', '.dib', '.webp', '.tif', '.tiff', '.ppm', '.pgm',
            '.pbm', '.pnm')
FORMAT = 1


class SearchError(UserError):
    """Pictures that cannot be searched."""


class Gallery(NamedTuple):
    """Pictures, and their classes where the folder has class folders.

    Parameters
    ----------
    paths : list of str
    names : list of str
        The paths as seen from the folder.
    labels : (N,) int array, or None
        The number of each picture's class.
    classes : list of str
    """

    paths: List[str]
    names: List[str]
    labels: Optional[np.ndarray]
    classes: List[str]

    def without(self, left_out: Sequence[int]) -> Gallery:
        """The gallery without some pictures; all classes stay."""
        kept = np.setdiff1d(np.arange(len(self.paths)), left_out)
        return Gallery([self.paths[i] for i in kept], [self.names[i] for i in kept],
                       None if self.labels is None else self.labels[kept], self.classes)


def _refuse(error: OSError) -> None:
    raise error


def read_gallery(folder: str) -> Gallery:
    """All pictures of a folder and of the folders in it, sorted. Hidden ones are left out.

    Classes are the folders directly in it, if every picture is in one.

    Raises
    ------
    SearchError
        If there is none.
    OSError
        If a folder cannot be read.
    """
    names, seen = [], set()
    for place, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:        # a link to a folder that was read already, or that holds it
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if name[0] != '.')
        names += [os.path.relpath(os.path.join(place, name), folder) for name in files
                  if name[0] != '.' and name.lower().endswith(SUFFIXES)]
    if not names:
        raise SearchError(f'--gallery {folder}: there are no pictures in it')
    names.sort()
    paths = [os.path.join(folder, name) for name in names]
    if not all(os.sep in name for name in names):
        return Gallery(paths, names, None, [])
    classes, labels = np.unique([name.split(os.sep)[0] for name in names], return_inverse=True)
    return Gallery(paths, names, labels.reshape(-1), [str(name) for name in classes])


class Embedder:
    """A saved network that embeds pictures, and remembers the embeddings.

    Parameters
    ----------
    models : list of str
        Its ``.params``; of an ensemble its members'.
    cache : str
        The ``.npz`` that remembers. One that is damaged, or of another network, is written anew.
    gpus : str
    skip : int
        How many pictures may be unreadable.

    Raises
    ------
    UsageError
        If no ``.json`` beside the network says what it is.
    OSError
        If a file of the network cannot be read.
    """

    def __init__(self, models: Sequence[str], cache: str, gpus: str = '-1', skip: int = 0) -> None:
        self.models, self.cache, self.gpus, self.skip = list(models), cache, gpus, skip
        digest = hashlib.sha256(f'{FORMAT}'.encode())
        for path in self.models:
            digest.update(hash_file(path).encode())
        if description(self.models[0]) is None:
            raise UsageError(f'--model {self.models[0]} has no .json beside it that says what it is')
        digest.update(hash_file(re.sub(r'\.params$', '', self.models[0]) + '.json').encode())
        self.key = digest.hexdigest()

    def _remembered(self) -> Tuple[Dict[str, np.ndarray], Dict[str, str]]:
        """Hash -> embedding, and hash -> what is wrong with it."""
        if not os.path.exists(self.cache):
            return {}, {}
        try:
            arrays = read_npz(self.cache)
            if str(arrays['key']) != self.key:
                return {}, {}
            hashes, rows = arrays['hashes'].tolist(), arrays['embeddings']
            if rows.ndim != 2 or len(hashes) != len(rows) or not np.isfinite(rows).all():
                raise ValueError
            return dict(zip(hashes, rows)), dict(zip(arrays['bad'].tolist(), arrays['reasons'].tolist()))
        except (ValueError, KeyError, TypeError):
            print(f'{self.cache} is damaged: all pictures are embedded again')
            return {}, {}

    def embed(self, paths: Sequence[str]) -> Tuple[Dict[int, np.ndarray], Dict[int, str]]:
        """Embeds pictures, those alone that the cache lacks; it then holds these pictures and no others.

        Returns
        -------
        embeddings : place in `paths` -> (E,) float32
        bad : place in `paths` -> why there is no embedding

        Raises
        ------
        SearchError
            If ``common.evaluation`` could not embed them; with what it said.
        OSError
            If a picture cannot be read, or the cache cannot be written.
        """
        hashes = [hash_file(path) for path in paths]
        known, bad = self._remembered()
        before = known.keys() | bad.keys()
        wanted = dict(zip(reversed(hashes), reversed(list(paths))))     # of equal pictures, the first is embedded
        missing = [(digest, wanted[digest]) for digest in dict.fromkeys(hashes) if digest not in known]
        if any(digest not in bad for digest, _ in missing) or len(missing) > self.skip:
            print(f'embedding {len(missing)} of {len(wanted)} pictures; the others are known', flush=True)
            rows, reasons = self._run([path for _, path in missing])
            for i, (digest, _) in enumerate(missing):
                if i in rows:
                    known[digest] = rows[i]
                else:
                    bad[digest] = reasons.get(i, 'it cannot be read')
        else:
            print(f'embedding none of {len(wanted)} pictures: all are known')
        known = {digest: row for digest, row in known.items() if digest in wanted}
        bad = {digest: reason for digest, reason in bad.items() if digest in wanted and digest not in known}
        if not known:
            raise SearchError(f'{paths[0]}: {bad[hashes[0]]}; and so it is with all other pictures')
        if known.keys() | bad.keys() != before:
            write_npz(self.cache, {
                'key': np.array(self.key), 'hashes': np.array(list(known)),
                'embeddings': np.stack(list(known.values())),
                'bad': np.array(list(bad), dtype=str), 'reasons': np.array(list(bad.values()), dtype=str)})
        return ({i: known[digest] for i, digest in enumerate(hashes) if digest in known},
                {i: bad[digest] for i, digest in enumerate(hashes) if digest in bad})

    def _run(self, paths: List[str]) -> Tuple[Dict[int, np.ndarray], Dict[int, str]]:
        """Calls ``common.evaluation``; gives embeddings and reasons, by place in `paths`."""
        with tempfile.TemporaryDirectory(prefix='search-') as folder:
            listed, output = os.path.join(folder, 'pictures.json'), os.path.join(folder, 'embedded')
            with open(listed, 'w', encoding='utf-8') as file:
                json.dump(paths, file)
            python_path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
            done = subprocess.run(
                [sys.executable, '-m', 'common.evaluation', '--model', *self.models, '--image-list', listed,
                 '--output', output, '--gpus', self.gpus, '--skip-bad-images', str(self.skip)],
                stdin=subprocess.DEVNULL, capture_output=True,
                encoding='utf-8', errors='replace', env={
                    **os.environ, 'PYTHONPATH': python_path, 'PYTHONIOENCODING': 'utf-8'})
            reasons = {}
            for line in done.stdout.splitlines():
                for i, path in enumerate(paths if line.startswith('left out: ') else ()):
                    if line.startswith(f'left out: {path}: '):
                        reasons[i] = line[len(f'left out: {path}: '):]
            if len(reasons) == len(paths):      # with nothing left, it ends with an error
                return {}, reasons
            if done.returncode:
                said = done.stderr.strip().splitlines() or [f'common.evaluation: exit status {done.returncode}']
                raise SearchError(re.sub(r'^common\.evaluation: ', '', said[-1]))
            arrays = read_npz(f'{output}.npz', ('embeddings', 'paths'))
        if not np.isfinite(arrays['embeddings']).all():
            raise SearchError(f'--model {self.models[0]}: some of its embeddings are infinite or not a number')
        place = {path: i for i, path in enumerate(paths)}
        return {place[path]: row for path, row in zip(arrays['paths'].tolist(), arrays['embeddings'])}, reasons
