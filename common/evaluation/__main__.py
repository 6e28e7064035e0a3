"""The command ``python -m common.evaluation``: scores embeddings, or embeds images with a trained network."""
from __future__ import annotations

import argparse
import collections
import json
import os
import re
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np

from common.args import main, seed_number
from common.command import CommandParser
from common.devices import describe_contexts, get_contexts
from common.evaluation import saved_model
from common.evaluation.embeddings_file import ARRAYS, load_embeddings
from common.evaluation.metrics import DEFAULT_KS, evaluate, recall_ks
from common.evaluation.pictures import embedding_map, retrieval_picture
from common.evaluation.retrieval import EvaluationError, check_embeddings
from common.files import atomic_write, expand_path, write_npz
from common.stats import PLAIN_METRICS, metric_name
from common.trained import description, find_script
from common.training import load_data


def _ks(text: str) -> Tuple[int, ...]:
    ks = tuple(int(part) for part in text.split(','))
    if min(ks) < 1:
        raise ValueError
    return ks


_ks.__name__ = 'list of positive numbers'       # argparse names it in its message


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """The command's flags; ends the process with status 2 on a mistake.

    With --model, flags that are not the command's own are the script's; `script_opt` is what the script makes of them
    and of those that the network was trained with.
    """
    parser = CommandParser(
        'python -m common.evaluation', formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Score embeddings by recall@k, MAP@R, R-precision and NMI, or embed images with a trained '
                    'network.\n'
                    'Neighbours are ranked by Euclidean distance. With --normalize, their order is that of the cosine '
                    'similarity.',
        epilog='python -m common.evaluation --embeddings E.npz --normalize\n'
               'python -m common.evaluation --model X-best.params                   the test set of training\n'
               'python -m common.evaluation --model X-best.params --images DIR      any folder of pictures\n'
               'python -m common.evaluation --model A-best.params B-best.params     their embeddings joined\n\n'
               'With --model, all further flags are those of the script, as in training: --dataset, --data-path, ...\n'
               'Those that the network was trained with stand in X-best.json and need not be given.')
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument('--embeddings', type=expand_path, metavar='FILE',
                        help='.npz with arrays embeddings (N, E) and labels (N), and optionally gallery_embeddings and '
                             'gallery_labels, the images that are searched; .csv with a column label and one a '
                             'dimension; or .npy with embeddings, beside --labels')
    source.add_argument('--model', dest='models', type=expand_path, nargs='+', action='extend', metavar='FILE',
                        help="saved network, .params; of an ensemble its members', in order: embed the test set. Of "
                             'several networks, as those of all folds, the embeddings are joined, each scaled to '
                             'unit length')
    parser.add_argument('--labels', type=expand_path, metavar='FILE',
                        help='labels of an .npy of embeddings: .npy, or text, one a line')
    parser.add_argument('--normalize', action='store_true', help='scale all embeddings to unit length first')
    pictures = parser.add_mutually_exclusive_group()
    pictures.add_argument('--images', type=expand_path, metavar='DIR',
                          help='with --model: embed all pictures of this folder instead of a test set; folders in it '
                               'are classes')
    pictures.add_argument('--image-list', type=expand_path, metavar='FILE',
                          help='with --model: embed the pictures of this JSON list of paths, and write only '
                               'PREFIX.npz')
    parser.add_argument('--script', metavar='NAME',
                        help='script that the model is from, for example train_margin (default: what training noted)')
    parser.add_argument('--backbone', metavar='NAME', help="the script's own --model (default: what training noted)")
    parser.add_argument('--output', type=expand_path, metavar='PREFIX',
                        help='with --model: write PREFIX.npz, PREFIX-neighbours.png and '
                        "PREFIX-map.png; default: the model's name without .params")
    parser.add_argument('--json', type=expand_path, metavar='FILE', help='also write the metrics as JSON')
    parser.add_argument('--ks', type=_ks, metavar='K,K,...',
                        help='k of recall@k; default: those of --dataset: 1,10,100,1000 for SOP, '
                        '1,10,20,30,40,50 for INSHOP, else 1,2,4,8,16,32')
    parser.add_argument('--no-nmi', action='store_true', help='leave out k-means and NMI')
    parser.add_argument('--seed', type=seed_number, default=123, help="seed of k-means, of the pictures' choice of "
                        "images, and the script's (default: %(default)s)")
    parser.add_argument('--gpus', default='-1', metavar='CODES',
                        help='-1: every GPU found, else the CPU; -2: the CPU; 0,1: those GPUs (default: %(default)s)')
    opt, further = parser.parse_known_args(argv)
    if opt.embeddings is not None:
        for flag in ('script', 'output', 'backbone', 'images', 'image_list'):
            if getattr(opt, flag):
                parser.error(f'--{flag.replace("_", "-")} goes with --model')
        if further:
            parser.error(f'unrecognized arguments: {" ".join(further)}')
        return opt
    if opt.labels:
        parser.error('--labels goes with --embeddings')
    opt.saved = description(opt.models[0])
    script = opt.script or (opt.saved or {}).get('script')
    if not script:
        parser.error(f'--model {opt.models[0]} has no .json beside it that says what it is: name its --script, and '
                     'give the flags of training')
    if opt.saved and opt.script and re.sub(r'\.py$', '', os.path.basename(opt.script)) != opt.saved['script']:
        opt.saved = {**opt.saved, 'flags': {}}      # a script of another name: its own flags count
    opt.module = find_script(script)
    forwarded = ['--seed', str(opt.seed), '--gpus', opt.gpus] + (['--no-nmi'] if opt.no_nmi else [])
    if opt.backbone:
        forwarded += ['--model', opt.backbone]
    opt.script_opt = saved_model.flags_of_training(opt.module, opt.saved, further + forwarded)
    return opt


def describe_scores(name: str, arrays: Dict[str, np.ndarray], metrics: Dict[str, float]) -> Tuple[Dict, str]:
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
    lines += [f'  {metric_name(metric):<22}' + (f'{value:9.4f}' if metric in PLAIN_METRICS else f'{value:7.2f} %')
              for metric, value in metrics.items()]
    if lonely:
        lines.append(f'  {lonely:,} of the images have no other of their class to retrieve; they count as misses')
    return record, '\n'.join(lines)


def run(opt: argparse.Namespace) -> List[Dict]:
    """Does what the flags ask for; returns one record for each embedding that was scored."""
    print(f'evaluating on {describe_contexts(get_contexts(opt.gpus), opt.gpus)}')
    if opt.embeddings is not None:
        arrays = load_embeddings(opt.embeddings, opt.labels)
        try:
            records = [_score(opt, os.path.basename(opt.embeddings), arrays, DEFAULT_KS)]
        except EvaluationError as error:
            raise EvaluationError(f'{opt.embeddings}: {error}') from None
    else:
        records = _embed_and_score(opt)
    if opt.json and records:
        with atomic_write(opt.json, 'w') as file:
            json.dump(records if len(records) > 1 else records[0], file, indent=2, allow_nan=False)
            file.write('\n')
    return records


def _embed_and_score(opt: argparse.Namespace) -> List[Dict]:
    if opt.images:
        (images, labelled), ks = saved_model.images_in(opt.images), DEFAULT_KS
    elif opt.image_list:
        images, labelled, ks = saved_model.listed_images(opt.image_list), False, DEFAULT_KS
    else:
        images, labelled, ks = load_data(opt.script_opt).test, True, recall_ks(opt.script_opt.dataset)
    images, outputs, labels = saved_model.embed_images(opt.models, opt.module, opt.script_opt, opt.saved, images)
    first, *others = outputs.items()
    prefix = opt.output or re.sub(r'\.params$', '', opt.models[0])
    arrays = {'embeddings': first[1], 'paths': np.array(images.paths)}
    if labelled:
        arrays['labels'] = labels
    arrays.update((f'embeddings_{name}', x) for name, x in others)
    arrays = _queries_and_gallery(arrays, images.queries)
    write_npz(f'{prefix}.npz', {**arrays, 'classes': np.array(images.class_names)} if labelled else arrays)
    written, records = [f'{prefix}.npz'], []
    if labelled and len(images.paths) > 1:
        for name, x in outputs.items():
            title = opt.models[0] if len(outputs) == 1 else f'{opt.models[0]}, {name}'
            records.append(_score(opt, title, _queries_and_gallery({'embeddings': x, 'labels': labels},
                                                                    images.queries), ks))
    pictured = 0 if opt.image_list else len(images.paths)
    if pictured > 1:
        retrieval_picture(images, first[1], labels, f'{prefix}-neighbours.png', seed=opt.seed)
        written.append(f'{prefix}-neighbours.png')
    if pictured > 3:
        embedding_map(first[1], labels, f'{prefix}-map.png', seed=opt.seed)
        written.append(f'{prefix}-map.png')
    print(f'written: {", ".join(written)}')
    return records


def _queries_and_gallery(arrays: Dict[str, np.ndarray], queries: Optional[np.ndarray]) -> Dict[str, np.ndarray]:
    """The rows of the queries, and under ``gallery_NAME`` those of the gallery; all as it is without a gallery."""
    if queries is None:
        return arrays
    return {**{name: x[queries] for name, x in arrays.items()},
            **{f'gallery_{name}': x[~queries] for name, x in arrays.items()}}


def _unit(x: Optional[np.ndarray], what: str) -> Optional[np.ndarray]:
    """`x` with rows of length 1."""
    if x is None:
        return None
    x = check_embeddings(x, what)
    lengths = np.sqrt(np.einsum('ij,ij->i', x, x, dtype=np.float64))[:, None]
    if not lengths.all():
        raise EvaluationError(f'--normalize: {int((lengths == 0).sum())} of the {what} are zero, and have no direction')
    return (x / lengths).astype(x.dtype)


def _score(opt: argparse.Namespace, name: str, arrays: Dict[str, np.ndarray], ks: Sequence[int]) -> Dict:
    if opt.normalize:
        arrays = {**arrays, 'embeddings': _unit(arrays['embeddings'], 'embeddings'),
                  'gallery_embeddings': _unit(arrays.get('gallery_embeddings'), 'gallery embeddings')}
    inputs = [arrays.get(array) for array in ARRAYS]
    metrics = evaluate(*inputs, ks=opt.ks or ks, with_nmi=not opt.no_nmi, ctx=get_contexts(opt.gpus)[0], seed=opt.seed)
    record, table = describe_scores(name, arrays, metrics)
    print(table)
    return record


if __name__ == '__main__':
    main(parse_args, run)
