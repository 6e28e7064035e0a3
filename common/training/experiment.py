"""What a script's `build` returns, and the data that it gets."""
from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
from typing import Any, Callable, Dict, List, Optional

import numpy as np
from mxnet import gluon

from common.errors import UsageError
from common.training.optimisers import ParamGroup
from dataset import ImageSet, fold_classes, get_dataset, split_classes
from dataset.samplers import BalancedBatches, ShuffledBatches


@dataclasses.dataclass
class Data:
    """The image sets of a run; `val` holds the classes of --val-split or --fold, or the dataset's own, or is None."""
    train: ImageSet
    test: ImageSet
    val: Optional[ImageSet] = None

    def fingerprint(self) -> Dict[str, Any]:
        """Identifies the images, in any folder: their numbers, and a hash of their names and labels."""
        found: Dict[str, Any] = {'train_images': len(self.train), 'train_classes': self.train.num_classes,
                                 'test_images': len(self.test), 'test_classes': self.test.num_classes}
        digest = hashlib.sha256()
        if self.test.queries is not None:
            found['test_queries'] = int(self.test.queries.sum())
            digest.update(self.test.queries.tobytes())
        for images in (self.train, self.test):
            for path, label in zip(images.paths, images.labels):
                digest.update(os.fsencode(f'{os.sep.join(path.split(os.sep)[-2:])}\0{label}\n'))
        return {**found, 'sha256': digest.hexdigest()[:16]}


@dataclasses.dataclass
class Experiment:
    """What makes one algorithm different from another.

    Parameters
    ----------
    net : HybridBlock
        ``net(images)``: uint8 (B, H, W, 3) -> embeddings (B, E).
    loss : Loss
        ``loss(embeddings, labels)`` -> (1,). Its parameters, if any, live on the first device.
    sampler : Sampler
        Batches of image indices, with `state_dict` and `load_state_dict`.
    param_groups : list of ParamGroup
        All that learns: the network's parameters and the loss's.
    embed : callable, optional
        What is evaluated instead of `net`: images -> embeddings, or an ordered dict name -> embeddings, of which the
        first chooses the best epoch and the others are logged under their names.
    """
    net: gluon.HybridBlock
    loss: gluon.loss.Loss
    sampler: gluon.data.Sampler
    param_groups: List[ParamGroup]
    embed: Optional[Callable] = None


@dataclasses.dataclass
class Ensemble:
    """An algorithm that trains several networks one after another and concatenates their embeddings.

    Parameters
    ----------
    size : int
        Number of members.
    member : callable
        ``member(m)`` -> Experiment, a function of m and the run's seed alone.
    """
    size: int
    member: Callable[[int], Experiment]


def load_data(opt: argparse.Namespace) -> Data:
    """Reads the dataset that the flags name.

    Raises
    ------
    DatasetError
        If files are missing or wrong.
    UsageError
        If flags ask for what the dataset does not have.
    """
    train, test = get_dataset(opt.dataset, opt.data_path, image_size=opt.image_size, resize=opt.resize,
                              allow_seen_classes=opt.allow_seen_classes)
    if opt.use_crops:
        for images in filter(None, (train, test, train.val)):
            images.require_boxes()
    if opt.mirror is not None:
        train.mirror = opt.mirror
    val = train.val
    if opt.val_split:
        train, val = split_classes(train, opt.val_split, opt.seed)
    elif opt.fold:
        train, val = fold_classes(train, *map(int, opt.fold.split('/')), seed=opt.seed)
    if opt.validate_only and val is None:
        raise UsageError('--validate-only needs classes to validate on: hold some out with --fold or --val-split')
    return Data(train, test, val)


def shuffled_or_balanced(opt: argparse.Namespace, labels: np.ndarray) -> gluon.data.Sampler:
    """Class-balanced batches with --batch-k, else shuffled ones."""
    if not opt.batch_k:
        return ShuffledBatches(labels, opt.batch_size, seed=opt.seed)
    return BalancedBatches(labels, opt.batch_size, opt.batch_k, opt.batches_per_epoch, seed=opt.seed)
