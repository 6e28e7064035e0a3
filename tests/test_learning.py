"""Every algorithm learns: recall@1 on classes never seen rises clearly above where the network began.

Real files through the script's own parser, loader, loop and evaluation: the glyphs of 30 classes train, those of 30
others test, at 24 pixels. The flags are the published ones but for what is scaled down: fewer and shorter epochs,
batches of no more classes than there are, and one learning rate for networks that start from random weights.
"""
import importlib
import json
import os

import pytest

from dataset import get_dataset
from tests.tiny import SCRIPTS

CLASSES = 30
#: Points of recall@1: about three standard errors of a recall of 30 % over the 750 images that test.
CLEAR = 5.0
COMMON = ['--dataset', 'miniCUB', '--model', 'convnet', '--image-size', '24', '--resize', '28', '--lr', '1e-3',
          '--steps', '0', '--num-workers', '1', '--gpus', '-2', '--no-nmi', '--eval-every', '100']
#: Where a script does not say with which flags it learns here.
USUAL = '--epochs 12'


def declared():
    """Script, flags that make it one of its variants, and the flags that it learns with, for all scripts."""
    for name in SCRIPTS:
        algorithm = importlib.import_module(f'train_{name}').ALGORITHM
        for variant in algorithm.get('variants', {'': {}}).values():
            learns = variant.get('learns', algorithm.get('learns', USUAL))
            yield name, f'{variant.get("flags", "")} {learns}'


@pytest.fixture(scope='module')
def glyphs(tmp_path_factory):
    """Class folders in the layout of miniCUB: the first half trains."""
    base = tmp_path_factory.mktemp('glyphs')
    tree = base / 'tree'
    for images in get_dataset('GLYPHS', str(base), resize=28):
        for path, label in zip(images.paths, images.labels):
            if label < CLASSES:
                folder = tree / os.path.basename(os.path.dirname(path))
                folder.mkdir(parents=True, exist_ok=True)
                os.link(path, folder / os.path.basename(path))
    return tree


def train(name, glyphs, folder, more):
    """Recall@1 of the test classes before training and after the last epoch."""
    module = importlib.import_module(f'train_{name}')
    opt = module.parse_args(['--data-path', str(glyphs), '--results-dir', str(folder), *COMMON, *more.split()])
    result = getattr(module, f'train_{name}')(opt)
    log, = folder.rglob('*.jsonl')
    with open(log) as file:
        before = next(r for r in map(json.loads, file) if r['event'] == 'epoch')
    assert before['epoch'] == 0
    return before['recall@1'], result['runs'][0]['last']['recall@1']


@pytest.mark.slow
@pytest.mark.parametrize('name, flags', list(declared()))
def test_recall_on_unseen_classes_rises(name, flags, glyphs, tmp_path):
    before, after = train(name, glyphs, tmp_path, flags)
    assert after > before + CLEAR, (before, after)
