"""How fast a device trains and evaluates, and how much memory that takes."""
from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import io
import itertools
import time
from typing import Dict, Iterator, List

import mxnet as mx
import numpy as np
from mxnet import autograd

from common.evaluation import kmeans, nmi
from common.evaluation.retrieval import rank
from common.selfcheck.correctness import DEPTH, learner_of, parse, points, scripts
from common.selfcheck.machine import for_evaluation, memory_in_use
from common.selfcheck.report import Finding
from common.training.learner import Learner
from common.training.loop import train_epoch
from common.training.session import Session

NETWORKS = ('inception-bn', 'resnet50_v2')
WARM_UP = 3                     # steps that are not timed: memory is taken, and cuDNN tries its algorithms
ANY_SIZE = 'train_proxy'        # takes every batch size, for --batch-size


def batch_sizes(opt: argparse.Namespace, tree: str) -> Dict[int, str]:
    """Batch size -> a script: --batch-size, or all published ones, in rising order."""
    if opt.batch_size:
        return {opt.batch_size: ANY_SIZE}
    found: Dict[int, str] = {}
    for name in scripts():
        found.setdefault(parse(importlib.import_module(name), tree).batch_size, name)
    return dict(sorted(found.items()))


def training_speed(network: str, script: str, devices: List[mx.Context], opt: argparse.Namespace,
                   tree: str) -> Iterator[Finding]:
    """Images a second of one script on one network: steps on a batch in memory, then the loop that scripts run."""
    module = importlib.import_module(script)
    size = ['--batch-size', str(opt.batch_size)] if opt.batch_size else []
    flags = parse(module, tree, '--model', network, '--image-size', str(opt.image_size), *size)
    flags.gpus = devices
    gc.collect()
    for device in devices:
        if device.device_type == 'gpu':
            device.empty_cache()
    before = [memory_in_use(device) for device in devices]
    with Session(flags) as session:
        learner = learner_of(module, flags, session.data, devices)
        epochs = itertools.repeat(learner.sampler)
        batches = list(itertools.islice(itertools.chain.from_iterable(epochs), opt.steps))
        with session.loader(session.data.train, batches, flags.seed) as loader:
            batch = next(iter(loader))
            yield Finding('bare loop', bare_loop(learner, batch.images, batch.labels, opt.steps), unit='images/s')
            start = time.perf_counter()
            with contextlib.redirect_stderr(io.StringIO()):
                train_epoch(session, learner, loader, 1, 1, flags.seed)
            mx.nd.waitall()     # the epoch's own clock stops before the last backward pass
            yield Finding('whole loop', opt.steps * flags.batch_size / (time.perf_counter() - start), unit='images/s')
    for device, start in zip(devices, before):
        yield Finding(f'memory before, {device}', start, unit='MiB')
        yield Finding(f'peak memory, {device}', memory_in_use(device), unit='MiB')


def bare_loop(learner: Learner, images: np.ndarray, labels: np.ndarray, steps: int) -> float:
    """Images a second of steps on one batch that is in memory, without waiting for any result."""
    def step() -> None:
        with autograd.record():
            value = learner.loss(learner.forward(images), mx.nd.array(labels, ctx=learner.ctx[0]))
        value.backward()
        for trainer in learner.trainers:
            trainer.add_up()
            trainer.step()

    for _ in range(min(WARM_UP, steps)):
        step()
    mx.nd.waitall()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    mx.nd.waitall()
    return steps * len(labels) / (time.perf_counter() - start)


def evaluation_speed(device: mx.Context, opt: argparse.Namespace) -> Iterator[Finding]:
    """Seconds for the metrics of a test set of SOP's size, by the device and by the CPU."""
    x, labels = points(opt.speed_points, opt.embed_dim)
    clusters = int(labels[-1]) + 1
    for where, ctx in ((str(device), for_evaluation(device)), ('NumPy on the CPU', None)):
        start = time.perf_counter()
        rank(x, labels, depth=DEPTH, ctx=ctx)
        middle = time.perf_counter()
        yield Finding(f'recall@1..{DEPTH} and MAP@R, {where}', middle - start, unit='s')
        assigned = kmeans(x, clusters, ctx=ctx, seed=5)[0]
        nmi(labels, assigned)
        yield Finding(f'k-means with {clusters} clusters and NMI, {where}', time.perf_counter() - middle, unit='s')
