"""The command ``python -m common.evaluation``: scores an embeddings file, or embeds a test set and scores that."""
from __future__ import annotations

import argparse
import collections
import copy
import glob
import importlib
import json
import os
import re
import zipfile
from typing import Dict, List, Optional, Tuple

import numpy as np

from common.args import main
from common.command import CommandParser
from common.devices import get_contexts
from common.errors import UsageError
from common.evaluation import DEFAULT_KS, SOP_KS, embed, evaluate
from common.files import atomic_write, read_npz, write_npz
from common.training.learner import Learner, seed_everything
from common.evaluation.pictures import embedding_map, retrieval_picture
from common.evaluation.retrieval import EvaluationError, check_inputs
from common.stats import metric_name
from common.training import Ensemble, load_data
from dataset import ImageSet
from dataset.loader import Loader
from models.ensemble import concatenate_members
from models.weights import load_parameters

ARRAYS = ('embeddings', 'labels', 'gallery_embeddings', 'gallery_labels')


def _ks(text: str) -> Tuple[int, ...]:
    ks = tuple(int(part) for part in text.split(','))
    if min(ks) < 1:
        raise ValueError
    return ks


_ks.__name__ = 'list of positive numbers'       # argparse names it in its message


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """The command's flags; ends the process with status 2 on a mistake.

    With --model, flags that are not the command's own are the script's, as is `script_opt`, what the script makes of
    them.
    """
    parser = CommandParser(
        'python -m common.evaluation',
        description='Score embeddings: recall@k, MAP@R, R-precision and NMI.',
        epilog='With --model, all further flags are those of the script, as in training: --dataset, --data-path, '
               '--embed-dim, ...')
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--embeddings', metavar='FILE', help='.npz file with arrays embeddings (N, E) and labels (N), '
                        'and optionally gallery_embeddings and gallery_labels, the images that are searched')
    source.add_argument('--model', dest='models', nargs='+', metavar='FILE',
                        help="saved model, .params; of an ensemble its members', in order: embed the test set")
    parser.add_argument('--script', metavar='NAME', help='script that the model is from, for example train_margin')
    parser.add_argument('--backbone', metavar='NAME', help="what the script's own --model was in training")
    parser.add_argument('--output', metavar='PREFIX', help="with --model: write PREFIX.npz, PREFIX-neighbours.png and "
                        "PREFIX-map.png; default: the model's name without .params")
    parser.add_argument('--json', metavar='FILE', help='also write the metrics as JSON')
    parser.add_argument('--ks', type=_ks, metavar='K,K,...',
                        help='k of recall@k; default: 1,2,4,8,16,32, and 1,10,100,1000 for --dataset SOP')
    parser.add_argument('--no-nmi', action='store_true', help='leave out k-means and NMI')
    parser.add_argument('--seed', type=int, default=123, help="seed of k-means, of the pictures' choice of "
                        "images, and the script's (default: %(default)s)")
    parser.add_argument('--gpus', default='-1', metavar='CODES',
                        help='-1: every GPU found, else the CPU; -2: the CPU; 0,1: those GPUs (default: %(default)s)')
    opt, further = parser.parse_known_args(argv)
    if not 0 <= opt.seed < 2 ** 31:
        parser.error(f'--seed {opt.seed} is not between 0 and 2147483647')
    if opt.embeddings is not None:
        for flag in ('script', 'output', 'backbone'):
            if getattr(opt, flag):
                parser.error(f'--{flag} goes with --model')
        if further:
            parser.error(f'unrecognized arguments: {" ".join(further)}')
        return opt
    if not opt.script:
        parser.error('--model needs --script')
    opt.module = _script(opt.script, parser)
    forwarded = ['--seed', str(opt.seed), '--gpus', opt.gpus] + (['--no-nmi'] if opt.no_nmi else [])
    if opt.backbone:
        forwarded += ['--model', opt.backbone]
    opt.script_opt = opt.module.parse_args(further + forwarded)
    return opt


def _script(name: str, parser: CommandParser):
    """The script's module."""
    name = os.path.basename(name)
    name = name[:-3] if name.endswith('.py') else name
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    scripts = sorted(os.path.basename(path)[:-3] for path in glob.glob(os.path.join(root, 'train_*.py')))
    if name not in scripts:
        parser.error(f'--script {name} is none of {", ".join(scripts)}')
    return importlib.import_module(name)


def load_embeddings(path: str) -> Dict[str, np.ndarray]:
    """The arrays of an embeddings file; nothing in it is run.

    Raises
    ------
    EvaluationError : no .npz file, a damaged one, arrays of Python objects, or missing arrays.
    OSError : the file cannot be read.
    """
    try:
        arrays = read_npz(path, ARRAYS)
    except ValueError as error:
        if zipfile.is_zipfile(path) and 'allow_pickle' in str(error):
            raise EvaluationError(f'{path}: it holds Python objects; save arrays of numbers') from None
        raise EvaluationError(f'{path}: it is not an .npz file, or a damaged one') from None
    for name in ARRAYS[:2]:
        if name not in arrays:
            raise EvaluationError(f'{path}: it has no array {name!r}')
    return arrays


def embed_test_set(opt: argparse.Namespace) -> Tuple[ImageSet, Dict[str, np.ndarray], np.ndarray]:
    """Embeds the test set with the model that the flags name.

    Returns
    -------
    images : the ImageSet of the images that could be read.
    outputs : name -> embeddings; the first is the one that the script evaluates.
    labels : (N,) int64.
    """
    script_opt = copy.copy(opt.script_opt)
    script_opt.pretrained = 'none'              # all weights come from the model's file
    data, ctx = load_data(script_opt), get_contexts(script_opt.gpus)
    seed_everything(script_opt.seed)
    built = opt.module.build(script_opt, data, ctx)
    ensemble = built if isinstance(built, Ensemble) else Ensemble(1, lambda m: built)
    if len(opt.models) > ensemble.size:
        raise UsageError(f'--model: {len(opt.models)} files, but {opt.script} has {ensemble.size} networks')
    members = []
    with Loader(data.test, None, train=False, image_size=script_opt.image_size, resize=script_opt.resize,
                batch_size=script_opt.batch_size, use_crops=script_opt.use_crops, num_workers=script_opt.num_workers,
                cache=script_opt.cache, skip_bad_images=script_opt.skip_bad_images,
                on_bad=lambda path, reason: print(f'left out: {path}: {reason}')) as loader:
        for m, path in enumerate(opt.models):
            learner = Learner(ensemble.member(m), script_opt, ctx)
            load_parameters(learner.net, path, ctx)
            seen = []
            outputs, labels = embed(learner.embed, _watched(loader, seen), ctx)
            members.append(outputs if isinstance(outputs, dict) else collections.OrderedDict(embeddings=outputs))
    outputs = members[0]
    if built is ensemble:
        firsts = [next(iter(member.values())) for member in members]
        outputs = collections.OrderedDict(embeddings=concatenate_members(firsts))
    images = copy.copy(data.test)
    images.paths = [data.test.paths[i] for i in np.concatenate(seen)]
    images.labels = labels
    return images, outputs, labels


def _watched(loader, seen: list):
    """The loader's batches, whose indices are noted in `seen`."""
    for batch in loader:
        seen.append(batch.indices)
        yield batch


def describe(name: str, arrays: Dict[str, np.ndarray], metrics: Dict[str, float]) -> Tuple[Dict, str]:
    """What was scored and its scores: as a dict for JSON, and as a table."""
    labels = arrays['labels']
    classes, counts = np.unique(labels, return_counts=True)
    if arrays.get('gallery_labels') is None:
        lonely, gallery = int((counts == 1).sum()), None
    else:
        lonely, gallery = int((~np.isin(labels, arrays['gallery_labels'])).sum()), len(arrays['gallery_labels'])
    shape = arrays['embeddings'].shape
    record = collections.OrderedDict(source=name, images=shape[0], dimensions=shape[1], classes=len(classes),
                                     gallery=gallery, queries_without_positive=lonely, nmi_average='geometric',
                                     metrics=metrics)
    lines = [f'{name}: {shape[0]:,} images, {shape[1]:,} dimensions, {len(classes):,} classes'
             + ('' if gallery is None else f', searched among {gallery:,} gallery images')]
    lines += [f'  {metric_name(metric):<22}{value:7.2f} %' for metric, value in metrics.items()]
    if lonely:
        lines.append(f'  {lonely:,} of the images have no other of their class to retrieve; they count as misses')
    return record, '\n'.join(lines)


def run(opt: argparse.Namespace) -> List[Dict]:
    """Does what the flags ask for; returns one record for each embedding that was scored."""
    records = []
    if opt.embeddings is not None:
        arrays = load_embeddings(opt.embeddings)
        try:
            records.append(_score(opt, os.path.basename(opt.embeddings), arrays, DEFAULT_KS))
        except EvaluationError as error:
            raise EvaluationError(f'{opt.embeddings}: {error}') from None
    else:
        images, outputs, labels = embed_test_set(opt)
        first = next(iter(outputs.values()))
        prefix = opt.output or re.sub(r'\.params$', '', opt.models[0])
        arrays = {'embeddings': first, 'labels': labels, 'paths': np.array(images.paths)}
        arrays.update((f'embeddings_{name}', x) for name, x in list(outputs.items())[1:])
        write_npz(f'{prefix}.npz', arrays)
        for name, x in outputs.items():
            title = opt.models[0] if len(outputs) == 1 else f'{opt.models[0]}, {name}'
            ks = SOP_KS if opt.script_opt.dataset == 'SOP' else DEFAULT_KS
            records.append(_score(opt, title, {'embeddings': x, 'labels': labels}, ks))
        retrieval_picture(images, first, labels, f'{prefix}-neighbours.png', seed=opt.seed)
        embedding_map(first, labels, f'{prefix}-map.png', seed=opt.seed)
        print(f'written: {prefix}.npz, {prefix}-neighbours.png, {prefix}-map.png')
    if opt.json:
        with atomic_write(opt.json, 'w') as file:
            json.dump(records if len(records) > 1 else records[0], file, indent=2, allow_nan=False)
            file.write('\n')
    return records


def _score(opt: argparse.Namespace, name: str, arrays: Dict[str, np.ndarray], ks: Tuple[int, ...]) -> Dict:
    inputs = [arrays.get(array) for array in ARRAYS]
    check_inputs(*inputs)
    metrics = evaluate(*inputs, ks=opt.ks or ks, with_nmi=not opt.no_nmi, ctx=get_contexts(opt.gpus)[0], seed=opt.seed)
    record, table = describe(name, arrays, metrics)
    print(table)
    return record


def command() -> None:
    """Entry point; an expected error ends the process with one line and status 1, wrong usage with status 2."""
    main(parse_args, run)
