"""What can be retrieved without learning: the test images of a dataset, scored by their pixels alone.

    python -m common.pixels --dataset GLYPHS --image-size 32 --logfile results/logs/glyphs/raw_pixels.jsonl

The embedding of an image is its resized and cropped RGB values, compared by Euclidean distance, as embeddings are. The
figure goes into a run log, where `results.report` and `results.plots` find it: what a network has to beat. With --fold
it is the figure of the training classes that this fold holds out; the test images are then not read.
"""
from __future__ import annotations

import argparse
import uuid
from typing import Dict, List, Optional

import numpy as np

from common.args import fold, main, positive_int, seed_number
from common.command import CommandParser
from common.devices import get_contexts
from common.evaluation import evaluate, recall_ks
from common.files import expand_path
from common.runlog import RunLog, git_revision, versions
from common.stats import describe_metrics
from dataset import dataset_names, fold_classes, get_dataset
from dataset.loader import Loader


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Reads the command line; ends with one line and exit status 2 on a mistake."""
    parser = CommandParser(prog='common.pixels', description=__doc__,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--dataset', choices=dataset_names(), required=True, help='whose test images')
    parser.add_argument('--data-path', type=expand_path, metavar='DIR', help='folder of the dataset; GLYPHS needs none')
    parser.add_argument('--allow-seen-classes', action='store_true',
                        help='test on classes of your training folder, too')
    parser.add_argument('--image-size', type=positive_int, default=32, metavar='PIXELS',
                        help='side of the crop from the centre (default: %(default)s)')
    parser.add_argument('--resize', type=positive_int, metavar='PIXELS',
                        help='side to which images are resized before the crop (default: 8/7 of --image-size)')
    parser.add_argument('--fold', type=fold, metavar='K/N',
                        help='score the training classes that --fold of a training script holds out')
    parser.add_argument('--seed', type=seed_number, default=123, metavar='N',
                        help='with --fold: the seed of that run (default: %(default)s)')
    parser.add_argument('--logfile', type=expand_path, metavar='FILE', help='append the result to this run log')
    opt = parser.parse_args(argv)
    opt.resize = opt.resize or round(opt.image_size * 8 / 7)
    if opt.resize < opt.image_size:
        parser.error(f'--resize {opt.resize} is smaller than --image-size {opt.image_size}')
    if opt.data_path is None and opt.dataset != 'GLYPHS':
        parser.error(f'--data-path is needed for --dataset {opt.dataset}')
    return opt


def score_pixels(opt: argparse.Namespace) -> Dict[str, float]:
    """Scores as the flags say; percents, by name of the metric.

    Raises
    ------
    DatasetError, EvaluationError, TrainingError, OSError
        If the dataset is not right, or the log cannot be written.
    """
    train, images = get_dataset(opt.dataset, opt.data_path, image_size=opt.image_size, resize=opt.resize,
                                allow_seen_classes=opt.allow_seen_classes)
    if opt.fold:
        _, images = fold_classes(train, *map(int, opt.fold.split('/')), seed=opt.seed)
    with Loader(images, None, train=False, batch_size=100, image_size=opt.image_size, resize=opt.resize) as loader:
        batches = [(batch.images, batch.labels) for batch in loader]
    pixels = np.concatenate([part.reshape(len(part), -1) for part, _ in batches]).astype(np.float32) / 255
    metrics = evaluate(pixels, np.concatenate([labels for _, labels in batches]), ks=recall_ks(opt.dataset),
                       ctx=get_contexts('-2')[0], seed=0, queries=images.queries)
    print(f'pixels of {opt.dataset}: {describe_metrics(metrics)}')
    log = RunLog(opt.logfile, uuid.uuid4().hex)
    try:
        flags = {name: value for name, value in vars(opt).items() if name != 'logfile'}
        log.write('config', algorithm='raw-pixels', script='common.pixels', dataset=opt.dataset, model='none',
                  flags=flags, runs=1, versions=versions(), git=git_revision())
        log.write('epoch', run=1, epoch=0, **metrics)
    finally:
        log.close()
    return metrics


if __name__ == '__main__':
    main(parse_args, score_pixels)
