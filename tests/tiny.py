"""A tiny dataset of real files in the miniCUB layout, and the flags to train on it within seconds."""
from __future__ import annotations

import glob
import os
from typing import List

import cv2
import numpy as np


#: Names of all training scripts, without ``train_`` and ``.py``.
SCRIPTS = sorted(os.path.basename(path)[len('train_'):-len('.py')] for path in glob.glob(
    os.path.join(glob.escape(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), 'train_*.py')))


def make_tree(folder: str, classes: int = 8, per_class: int = 8, size: int = 20, seed: int = 0) -> str:
    """Writes class folders of PNGs: every class has a colour pattern of its own, every image noise of its own."""
    rng = np.random.RandomState(seed)
    for c in range(classes):
        os.makedirs(os.path.join(folder, f'{c:03d}.class'))
        pattern = rng.randint(0, 256, (4, 4, 3)).astype(np.uint8)
        for i in range(per_class):
            image = cv2.resize(pattern, (size, size), interpolation=cv2.INTER_LINEAR).astype(np.float32)
            image += rng.normal(0, 25, image.shape)
            cv2.imwrite(os.path.join(folder, f'{c:03d}.class', f'{i}.png'), image.clip(0, 255).astype(np.uint8))
    return str(folder)


def flags(tree: str, results: str, *more: str) -> List[str]:
    """The flags of a run of seconds on `tree`."""
    return ['--dataset', 'miniCUB', '--data-path', tree, '--model', 'convnet', '--image-size', '16', '--resize', '18',
            '--embed-dim', '8', '--batch-size', '8', '--epochs', '3', '--num-workers', '1', '--gpus', '-2',
            '--results-dir', str(results), *more]
