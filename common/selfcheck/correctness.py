"""Checks of a device against the CPU: losses, networks, evaluation, several devices, resumption.

Each check yields what it compared. Device and CPU get the same parameters and the same input. Where arrays are
compared, the number is |a - b| / |b| (Euclidean norms). docs/gpu.md says how the tolerances were found.
"""
from __future__ import annotations

import argparse
import contextlib
import glob
import importlib
import io
import os
from types import ModuleType
from typing import Any, Callable, Dict, Iterator, List, Tuple

import cv2
import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from common import training
from common.evaluation import kmeans, nmi
from common.evaluation.clustering import nearest_centres
from common.evaluation.retrieval import rank
from common.seeds import seed_everything
from common.selfcheck.machine import for_evaluation
from common.selfcheck.report import Finding
from common.training.checkpoint import block_arrays
from common.training.learner import Learner
from dataset import ImageSet
from dataset.loader import Batch, Loader
from models import EmbeddingNet, get_backbone

CPU = mx.cpu(0)
NETWORKS = ('inception-bn', 'resnet50_v2', 'convnet')
DEPTH = 32                      # of recall@k
RESUMED = 'train_margin'        # its loss draws at random, and has parameters and an optimiser of its own
SPLIT = 'train_npairs'          # its loss chooses nothing, so that rounding cannot change a choice

#: Largest difference that is still right.
TOLERANCES = {
    'loss': 1e-4,                                                       # value and gradients, on the same embeddings
    'embeddings, running': 1e-4, 'gradient, running': 1e-2,             # with batch norm's running statistics
    'embeddings, trained': 1e-2, 'gradient, trained': 0.6,              # with the batch's; of the deep networks
    'small gradient': 5e-2,                                             # the same, of convnet
    'running mean': 5e-3, 'running variance': 1e-2,                     # cuDNN divides by n - 1, the CPU by n
    'rank': 0, 'map@r': 1e-6,                                           # percent: both are exact
    'centre': 1e-5, 'inertia': 1e-2, 'nmi': 1.0,                        # k-means may go another way after a tie
    'several devices': 1e-2,                                            # gradients
    'resumed': 10,                                      # times the difference of two runs without interruption
}


def scripts() -> List[str]:
    """Names of the modules of all training scripts."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return sorted(os.path.basename(path)[:-len('.py')] for path in glob.glob(os.path.join(glob.escape(root),
                                                                                          'train_*.py')))


def make_images(folder: str, size: int) -> str:
    """Writes class folders of JPEGs: enough classes and images for the published batches of all scripts."""
    rng = np.random.RandomState(0)
    for c in range(128):
        os.makedirs(os.path.join(folder, f'{c:03d}'))
        for i in range(10 if c < 64 else 2):        # the first half is trained on
            smooth = cv2.resize(rng.randint(0, 256, (6, 6, 3)).astype(np.uint8), (size, size))
            cv2.imwrite(os.path.join(folder, f'{c:03d}', f'{i}.jpg'), smooth)   # networks cannot tell noise apart
    return folder


def parse(module: ModuleType, tree: str, *more: str) -> argparse.Namespace:
    """A script's flags with its published settings, on the images that were made; nothing is written."""
    return module.parse_args(['--dataset', 'miniCUB', '--data-path', tree, '--pretrained', 'none', '--logfile', 'None',
                              '--save-model-prefix', 'None', *more])


def small_network(opt: argparse.Namespace) -> List[str]:
    """Flags of a network that takes no time."""
    size = str(opt.small_image_size)
    return ['--model', 'convnet', '--image-size', size, '--resize', size]


def learner_of(module: ModuleType, flags: argparse.Namespace, data: training.Data, devices: List[mx.Context],
               calm: bool = False) -> Learner:
    """The script's experiment, ready to be trained; of an ensemble the first member.

    `calm`: without dropout, whose masks differ between devices, and with batch norm's running statistics.
    """
    seed_everything(flags.seed)
    built = module.build(flags, data, devices)
    learner = Learner(built.member(0) if isinstance(built, training.Ensemble) else built, flags, devices)
    if calm:
        learner.net.apply(use_running_statistics).apply(without_dropout)    # in time: there is no graph yet
    return learner


def use_running_statistics(block: gluon.Block, yes: bool = True) -> None:
    """Lets batch norm use its running statistics, or the batch's, while it trains.

    Not by ``autograd.record(train_mode=False)``: there batch norm's gradients are wrong in MXNet 1.9.1 on the CPU.
    """
    if isinstance(block, gluon.nn.BatchNorm):
        block._kwargs['use_global_stats'] = yes


def without_dropout(block: gluon.Block) -> None:
    """Switches off dropout."""
    if isinstance(block, gluon.nn.Dropout):
        block._rate = 0


def first_batch(images: ImageSet, learner: Learner, flags: argparse.Namespace) -> Batch:
    """The first batch that a script would train on."""
    with Loader(images, learner.sampler, train=True, image_size=flags.image_size, resize=flags.resize,
                seed=flags.seed) as loader:
        return next(iter(loader))


def copy_parameters(source: gluon.Block, target: gluon.Block) -> None:
    """Gives `target`, on all its devices, the parameters and running statistics of `source`."""
    values = source._collect_params_with_prefix()
    for name, param in target._collect_params_with_prefix().items():
        param.set_data(values[name].list_data()[0])


def relative(measured: Dict[str, np.ndarray], reference: Dict[str, np.ndarray]) -> float:
    """The largest relative difference of arrays with the same names; infinite where a number is not finite.

    What is small beside the others (below a thousandth of the largest) is rounding itself, as the gradient of a bias
    before batch norm is, and is measured against that thousandth.
    """
    norms = {name: float(np.linalg.norm(array.astype(np.float64))) for name, array in reference.items()}
    floor = 1e-3 * max(norms.values(), default=0) or 1.0
    differences = [float(np.linalg.norm(measured[name].astype(np.float64) - array)) / max(norms[name], floor)
                   for name, array in reference.items()]
    return max((d if np.isfinite(d) else np.inf for d in differences), default=0.0)


def same_arrays(name: str, measured: Any, reference: Any, tolerance: str) -> Finding:
    """Compares an array, or arrays by name."""
    if not isinstance(reference, dict):
        measured, reference = {'': measured}, {'': reference}
    return Finding(f'{name}, relative difference', relative(measured, reference), 0.0, TOLERANCES[tolerance])


def gradients(block: gluon.Block, device: mx.Context) -> Dict[str, np.ndarray]:
    """The gradients of a block's parameters on one device."""
    return {name: param.grad(device).asnumpy() for name, param in block._collect_params_with_prefix().items()
            if param.grad_req != 'null'}


def loss_and_head(name: str, device: mx.Context, opt: argparse.Namespace, tree: str) -> Iterator[Finding]:
    """One script at its published batch size: its loss on given embeddings, and its network with its head."""
    module = importlib.import_module(name)
    flags = parse(module, tree, *small_network(opt))
    data = training.load_data(flags)
    there, here = (learner_of(module, flags, data, [ctx], calm=True) for ctx in (device, CPU))
    copy_parameters(here.net, there.net)
    copy_parameters(here.loss, there.loss)
    batch = first_batch(data.train, here, flags)
    outputs = [learner.forward(batch.images).asnumpy() for learner in (there, here)]
    yield same_arrays('embeddings', outputs[0], outputs[1], 'embeddings, running')
    embeddings = drawn_like(outputs[1], batch.labels)
    (value, slope, own), (right, right_slope, right_own) = (
        loss_gradients(learner, embeddings, batch.labels, flags.seed) for learner in (there, here))
    yield Finding('value of the loss', value, right, TOLERANCES['loss'] * abs(right))
    yield same_arrays('gradient of the embeddings', slope, right_slope, 'loss')
    if right_own:
        yield same_arrays("gradients of the loss's parameters", own, right_own, 'loss')
    slope = np.random.RandomState(6).normal(size=embeddings.shape)
    slopes = [embed_and_differentiate(learner.forward, learner.net, batch.images, slope, learner.ctx[0])[1]
              for learner in (there, here)]
    yield same_arrays('gradients of network and head', *slopes, 'gradient, running')


def drawn_like(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Embeddings of which classes lie somewhat apart, as an untrained network's do not.

    They have length 1 if those given have, else 2 on average: no loss and no gradient vanishes.
    """
    rng = np.random.RandomState(1)
    centres = {label: rng.normal(size=embeddings.shape[1]) for label in np.unique(labels)}
    drawn = np.array([centres[label] for label in labels]) + rng.normal(size=embeddings.shape)
    lengths = np.linalg.norm(drawn, axis=1, keepdims=True)
    unit = np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3)
    return (drawn / lengths if unit else drawn * 2 / lengths.mean()).astype(np.float32)


def loss_gradients(learner: Learner, embeddings: np.ndarray, labels: np.ndarray,
                   seed: int) -> Tuple[float, np.ndarray, Dict[str, np.ndarray]]:
    """Value of the loss, its gradient by the embeddings, and those by its own parameters."""
    device = learner.ctx[0]
    if hasattr(learner.loss, 'reseed'):
        learner.loss.reseed(seed)
    x = mx.nd.array(embeddings, ctx=device)
    x.attach_grad()
    with autograd.record():
        value = learner.loss(x, mx.nd.array(labels, ctx=device, dtype='float32'))
    value.backward()
    return float(value.asscalar()), x.grad.asnumpy(), gradients(learner.loss, device)


def embed_and_differentiate(forward: Callable, net: gluon.Block, images: np.ndarray, slope: np.ndarray,
                            device: mx.Context) -> Tuple[np.ndarray, Dict[str, np.ndarray]]:
    """Embeddings, and the gradients of the network's parameters, given that of the embeddings."""
    with autograd.record():
        embeddings = forward(images)
    embeddings.backward(mx.nd.array(slope, ctx=device))
    return embeddings.asnumpy(), gradients(net, device)


def network(name: str, device: mx.Context, opt: argparse.Namespace) -> Iterator[Finding]:
    """One backbone, forward and backward: with batch norm's running statistics, and with the batch's, as it is trained.

    The images are noise: in smooth ones whole areas are constant, and batch norm blows up their rounding.
    """
    rng = np.random.RandomState(2)
    images = rng.randint(0, 256, (opt.images, opt.image_size, opt.image_size, 3)).astype(np.uint8)
    slope = rng.normal(size=(opt.images, opt.embed_dim))
    nets = []
    for ctx in (device, CPU):
        seed_everything(3)
        net = EmbeddingNet(get_backbone(name, 'none', [ctx]), opt.embed_dim, normalize=True)
        net.initialize(ctx=ctx)
        net(mx.nd.array(images[:1], ctx=ctx, dtype='uint8')).wait_to_read()     # shapes are known from here on
        nets.append((net, ctx))
    copy_parameters(nets[1][0], nets[0][0])

    for running, how, tolerance in ((True, 'running statistics', 'running'), (False, 'as trained', 'trained')):
        for net, _ in nets:
            net.apply(lambda block, yes=running: use_running_statistics(block, yes))
            net.hybridize(static_alloc=True)    # again, because the graph holds the setting
        mine, right = (embed_and_differentiate(
            lambda batch, net=net, ctx=ctx: net(mx.nd.array(batch, ctx=ctx, dtype='uint8')), net, images, slope, ctx)
            for net, ctx in nets)
        yield same_arrays(f'embeddings, {how}', mine[0], right[0], f'embeddings, {tolerance}')
        slack = 'small gradient' if name == 'convnet' and not running else f'gradient, {tolerance}'
        yield same_arrays(f'gradients, {how}', mine[1], right[1], slack)
    for kind, what in (('mean', 'running mean'), ('var', 'running variance')):
        arrays = [{key: value for key, value in block_arrays(net).items() if f'running_{kind}' in key}
                  for net, _ in nets]
        yield same_arrays(f'{what}s of batch norm', *arrays, what)


def points(count: int, dim: int) -> Tuple[np.ndarray, np.ndarray]:
    """Clusters that overlap, of as many points each as SOP's classes have images."""
    rng = np.random.RandomState(4)
    labels = np.arange(count) // 5
    x = rng.normal(size=(labels[-1] + 1, dim))[labels] + 0.9 * rng.normal(size=(count, dim))
    return x.astype(np.float32), labels


def evaluation(device: mx.Context, opt: argparse.Namespace) -> Iterator[Finding]:
    """Ranks, MAP@R, nearest centres, k-means and NMI by the code for devices, against that for the CPU."""
    x, labels = points(opt.points, opt.embed_dim)
    ctx = for_evaluation(device)
    right, found = (rank(x, labels, depth=DEPTH, ctx=c) for c in (None, ctx))
    for k in (1, DEPTH):
        yield Finding(f'recall@{k}, percent', 100 * float((found.first <= k).mean()),
                         100 * float((right.first <= k).mean()), TOLERANCES['rank'])
    yield Finding('queries whose rank differs', float((found.first != right.first).sum()), 0.0, TOLERANCES['rank'])
    yield Finding('MAP@R, percent', 100 * float(found.average_precision.mean()),
                     100 * float(right.average_precision.mean()), TOLERANCES['map@r'])
    clusters = int(labels[-1]) + 1
    scores, right_scores = (nearest_centres(x, x[:clusters], c, with_second=True)[1:] for c in (ctx, None))
    for which, mine, theirs in zip(('nearest', 'second nearest'), scores, right_scores):
        yield same_arrays(f'score of the {which} centre', mine, theirs, 'centre')
    (mine, _, inertia), (theirs, _, right_inertia) = (kmeans(x, clusters, ctx=c, seed=5) for c in (ctx, None))
    yield Finding(f'inertia of {clusters} clusters', inertia, right_inertia, TOLERANCES['inertia'] * right_inertia)
    yield Finding('NMI, percent', 100 * nmi(labels, mine), 100 * nmi(labels, theirs), TOLERANCES['nmi'])


def several_devices(devices: List[mx.Context], opt: argparse.Namespace, tree: str) -> Iterator[Finding]:
    """One batch and one step on several devices, against the first alone; batch norm with its running statistics."""
    module = importlib.import_module(SPLIT)
    flags = parse(module, tree, *small_network(opt))
    data = training.load_data(flags)
    together, alone = (learner_of(module, flags, data, group, calm=True) for group in (devices, devices[:1]))
    copy_parameters(alone.net, together.net)
    batch = first_batch(data.train, alone, flags)
    values, slopes, moved = [], [], []
    for learner in (together, alone):
        with autograd.record():
            value = learner.loss(learner.forward(batch.images), mx.nd.array(batch.labels, ctx=devices[0]))
        value.backward()
        for trainer in learner.trainers:
            trainer.add_up()
        values.append(float(value.asscalar()))
        slopes.append([gradients(learner.net, ctx) for ctx in learner.ctx])
        for trainer in learner.trainers:
            trainer.step()
        moved.append([{name: param.data(ctx).asnumpy() for name, param in
                       learner.net._collect_params_with_prefix().items()} for ctx in learner.ctx])
    yield Finding('value of the loss', values[0], values[1], TOLERANCES['loss'] * abs(values[1]))
    for ctx, mine in zip(devices, slopes[0]):
        yield same_arrays(f'gradients on {ctx}', mine, slopes[1][0], 'several devices')
    unequal = sum(not np.array_equal(array, other[name]) for other in moved[0][1:]
                  for name, array in moved[0][0].items())
    yield Finding('parameters that differ between the devices after a step', float(unequal), 0.0, 0.0)


def resumption(device: mx.Context, opt: argparse.Namespace, tree: str, folder: str) -> Iterator[Finding]:
    """A run that ends early and goes on, against one that does not, and that one against its repetition.

    On a CPU both differences are 0. On a GPU sums may be added up in another order each time.
    """
    module = importlib.import_module(RESUMED)
    whole, again = (train(module, device, opt, tree, os.path.join(folder, name), opt.epochs)
                    for name in ('whole', 'again'))
    train(module, device, opt, tree, os.path.join(folder, 'resumed'), opt.epochs - 1)
    resumed = train(module, device, opt, tree, os.path.join(folder, 'resumed'), opt.epochs, '--load-checkpoint')
    noise = relative(again, whole)
    yield Finding('a run and its repetition, relative difference', noise)
    yield Finding('a run and one that was resumed, relative difference', relative(resumed, whole), 0.0,
                     TOLERANCES['resumed'] * noise)


def train(module: ModuleType, device: mx.Context, opt: argparse.Namespace, tree: str, folder: str, epochs: int,
          *more: str) -> Dict[str, np.ndarray]:
    """Trains the small network by the whole machinery, silently; returns its parameters at the end."""
    prefix = os.path.join(folder, 'model')
    os.makedirs(folder, exist_ok=True)
    flags = parse(module, tree, *small_network(opt), '--epochs', str(epochs), '--batches-per-epoch', '4', '--no-nmi',
                  '--skip-pretrain-validation', '--save-model-prefix', prefix, *more)
    flags.gpus = [device]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        training.run(flags, module.build)
    return {name: array.asnumpy() for name, array in mx.nd.load(f'{prefix}-last.params').items()}
