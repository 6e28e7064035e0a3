"""A trained network, ``X-best.params``, and what is needed to use it: ``X-best.json``, which training wrote beside it.

The JSON names the script and all its flags, so that images are prepared as they were in training.
"""
from __future__ import annotations

import argparse
import collections
import copy
import json
import os
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np

from common.devices import get_contexts
from common.errors import UsageError
from common.evaluation.embedding import embed, noting_indices
from common.evaluation.retrieval import EvaluationError
from common.seeds import seed_everything
from common.trained import description
from common.training import Data, Ensemble, load_data
from common.training.learner import Learner
from dataset import ImageSet
from dataset.folder import pictures_in
from dataset.loader import Loader
from models.ensemble import concatenate_members
from models.loading import load_parameters

#: Flags that may differ from those of training: they say which images are embedded, where, and how fast.
MAY_CHANGE = {'allow_seen_classes',
              'dataset', 'data_path', 'use_crops', 'num_workers', 'cache', 'skip_bad_images', 'val_split', 'fold',
              'validate_only', 'batch_size', 'no_nmi', 'gpus', 'seed', 'kvstore', 'disable_hybridize', 'results_dir',
              'logfile', 'log_postfix', 'save_model_prefix', 'tensorboard', 'load_checkpoint'}


def flags_of_training(module: Any, saved: Optional[Dict[str, Any]], words: List[str]) -> argparse.Namespace:
    """The script's flags: those of training, and what the user says on top.

    Parameters
    ----------
    module : module
        The script.
    saved : dict or None
        As :func:`common.trained.description` gives it; None: the user's words are all there is.
    words : list of str
        The user's flags.

    Raises
    ------
    UsageError
        If a flag contradicts those that the network was trained with.
    """
    if saved is None:
        return module.parse_args(words)
    trained = saved['flags']
    first = ['--dataset', str(trained.get('dataset', 'GLYPHS'))]
    if trained.get('data_path'):
        first += ['--data-path', str(trained['data_path'])]
    opt = module.parse_args(first + words)
    for name, value in trained.items():
        given = name in opt.given_flags and not (name in ('dataset', 'data_path') and getattr(opt, name) == value)
        if not given:
            setattr(opt, name, value)
        elif name not in MAY_CHANGE and getattr(opt, name) != value:
            raise UsageError(f'--{name.replace("_", "-")} is {getattr(opt, name)!r}, but the network was trained with '
                             f'{value!r}')
    opt.logfile = opt.save_model_prefix = opt.load_checkpoint = None
    return opt


def images_in(folder: str) -> Tuple[ImageSet, bool]:
    """All pictures of a folder and of the folders in it, in the order of their paths.

    Returns
    -------
    images : ImageSet
    labelled : bool
        Whether every picture is in a folder inside `folder`, which then is its class.

    Raises
    ------
    EvaluationError
        If there is none.
    """
    paths = pictures_in(folder)
    if not paths:
        raise EvaluationError(f'--images {folder}: there are no pictures in it')
    classes = [os.path.relpath(path, folder).split(os.sep)[0] for path in paths]
    labelled = all(os.path.dirname(path) != os.path.normpath(folder) for path in map(os.path.normpath, paths))
    names, labels = np.unique(classes if labelled else [''] * len(paths), return_inverse=True)
    return ImageSet(paths, labels.reshape(-1), [str(name) for name in names], name=folder), labelled


def listed_images(file: str) -> ImageSet:
    """The pictures that a JSON list of paths names, in its order, all of one class.

    Raises
    ------
    EvaluationError
        If the file is no such list, or an empty one.
    OSError
        If it cannot be read.
    """
    try:
        with open(file, encoding='utf-8') as stream:
            paths = json.load(stream)
    except (ValueError, RecursionError):
        paths = None
    if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
        raise EvaluationError(f'--image-list {file}: it is not a JSON list of paths')
    return ImageSet(paths, np.zeros(len(paths), np.int64), [''], name=file)


def _require_same_flags(saved: Optional[Dict[str, Any]], path: str) -> None:
    """Networks whose embeddings are joined are of one script, and see images that are prepared in the same way."""
    other = description(path)
    if saved is None or other is None:
        return
    if other['script'] != saved['script']:
        raise UsageError(f'--model {path} is of {other["script"]}, but the first model is of {saved["script"]}')
    for name, value in saved['flags'].items():
        if name not in MAY_CHANGE and other['flags'].get(name, value) != value:
            raise UsageError(f'--model {path} has --{name.replace("_", "-")} {other["flags"][name]!r}, but the first '
                             f'model {value!r}')


def _training_classes(saved: Optional[Dict[str, Any]], opt: argparse.Namespace) -> ImageSet:
    """A stand-in for the training images: the script sizes its loss by them, and nothing is drawn from them."""
    count = (saved or {}).get('data', {}).get('train_classes') or load_data(opt).train.num_classes
    each = max(opt.batch_size, 2)
    return ImageSet(['not read'] * (count * each), np.repeat(np.arange(count), each), [str(c) for c in range(count)])


def embed_images(paths: Sequence[str], module: Any, opt: argparse.Namespace, saved: Optional[Dict[str, Any]],
                 images: ImageSet) -> Tuple[ImageSet, Dict[str, np.ndarray], np.ndarray]:
    """Embeds images with a saved network.

    Parameters
    ----------
    paths : sequence of str
        Its ``.params``; of an ensemble its members', in order. Of several networks (or whole ensembles) of one script
        the embeddings are joined, each scaled to unit length.
    module, opt, saved
        The script, its flags, and the description that training wrote, or None.
    images : ImageSet

    Returns
    -------
    images : the ImageSet of the images that could be read.
    outputs : name -> embeddings; the first is the one that the script evaluates.
    labels : (N,) int64.
    """
    opt = copy.copy(opt)
    opt.pretrained = 'none'             # all weights come from the saved file
    ctx = get_contexts(opt.gpus)
    seed_everything(opt.seed)
    stand_in = _training_classes(saved, opt)
    built = module.build(opt, Data(stand_in, stand_in), ctx)
    ensemble = built if isinstance(built, Ensemble) else Ensemble(1, lambda m: built)
    if len(paths) > ensemble.size and len(paths) % ensemble.size:
        raise UsageError(f'--model: {len(paths)} files, but {opt.script} has {ensemble.size} networks')
    for path in paths[1:]:
        _require_same_flags(saved, path)
    members = []
    with Loader(images, None, train=False, image_size=opt.image_size, resize=opt.resize, batch_size=opt.batch_size,
                use_crops=opt.use_crops, num_workers=opt.num_workers, cache=opt.cache,
                skip_bad_images=opt.skip_bad_images,
                on_bad=lambda path, reason: print(f'left out: {path}: {reason}')) as loader:
        for number, path in enumerate(paths):
            learner = Learner(ensemble.member(number % ensemble.size), opt, ctx)
            load_parameters(learner.net, path, ctx)
            seen: List[np.ndarray] = []
            outputs, labels = embed(learner.embed, noting_indices(loader, seen), ctx)
            members.append(outputs if isinstance(outputs, dict) else collections.OrderedDict(embeddings=outputs))
    outputs = members[0]
    if built is ensemble or len(paths) > 1:
        outputs = collections.OrderedDict(
            embeddings=concatenate_members([next(iter(member.values())) for member in members]))
    found, rows = copy.copy(images), np.concatenate(seen)
    found.paths, found.labels = [images.paths[i] for i in rows], labels
    found.queries = None if images.queries is None else images.queries[rows]
    return found, outputs, labels
