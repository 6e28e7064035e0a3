"""Checks of a device against the CPU: losses, networks, evaluation, several devices, resumption.

Each check yields what it compared. Device and CPU get the same parameters and the same input. Where arrays are compared,
the number is |a - b| / |b| (Euclidean norms). The tolerances are stated beside each other below; docs/gpu.md says how
they were found.
"""
from __future__ import annotations

import argparse
import contextlib
import glob
import importlib
import io
import os
from types import ModuleType
from typing import Any, Dict, Iterator, List, Tuple

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
from common.selfcheck.report import Comparison, Finding, Measurement
from common.training.checkpoint import block_arrays
from common.training.learner import Learner
from dataset.loader import Loader
from models import EmbeddingNet, get_backbone

CPU = mx.cpu(0)
NETWORKS = ('inception-bn', 'resnet50_v2', 'convnet')
DEPTH = 32                      # of recall@k
RESUMED = 'train_margin'        # its loss draws at random, and has parameters and an optimiser of its own
SPLIT = 'train_npairs'          # its loss chooses nothing, so that rounding cannot change a choice

#: Largest difference that is still right.
TOLERANCES = {
    'loss value': 1e-4, 'loss gradient': 1e-4,              # the loss alone, on the same embeddings
    'embeddings': 1e-4, 'gradient': 1e-3,                   # of the small network, batch norm as in a test
    'deep embeddings': 1e-3, 'deep gradient': 5e-2,         # of the three networks, as they are trained
    'running mean': 1e-3, 'running variance': 1e-2,         # cuDNN divides the variance by n - 1, the CPU by n
    'rank': 0, 'map@r': 1e-6,                               # percent: both are exact
    'centre': 1e-5, 'inertia': 1e-2, 'nmi': 1.0,            # k-means may end elsewhere after one tie; NMI in percent
    'several devices': 1e-4,
    'resumed': 10,                                          # times the difference of two runs without interruption
}


def scripts() -> List[str]:
    """Names of the modules of all training scripts."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return sorted(os.path.basename(path)[:-len('.py')] for path in glob.glob(os.path.join(glob.escape(root),
                                                                                          'train_*.py')))


def make_images(folder: str, size: int, classes: int = 128, train: int = 10, test: int = 2) -> str:
    """Writes class folders of JPEGs: enough classes and images for the published batches of all scripts."""
    rng = np.random.RandomState(0)
    for c in range(classes):
        os.makedirs(os.path.join(folder, f'{c:03d}'))
        for i in range(train if c < classes // 2 else test):
            image = cv2.resize(rng.randint(0, 256, (6, 6, 3)).astype(np.uint8), (size, size))
            cv2.imwrite(os.path.join(folder, f'{c:03d}', f'{i}.jpg'), image)
    return folder


def parse(module: ModuleType, tree: str, *more: str) -> argparse.Namespace:
    """A script's flags with its published settings, on the images that were made; nothing is written."""
    return module.parse_args(['--dataset', 'miniCUB', '--data-path', tree, '--pretrained', 'none', '--logfile', 'None',
                              '--save-model-prefix', 'None', *more])


def small_network(opt: argparse.Namespace) -> List[str]:
    """Flags of a network that takes no time."""
    size = str(opt.small_image_size)
    return ['--model', 'convnet', '--image-size', size, '--resize', size]


def learner_of(module: ModuleType, flags: argparse.Namespace, data: training.Data, devices: List[mx.Context]) -> Learner:
    """The script's experiment, ready to be trained; of an ensemble the first member."""
    seed_everything(flags.seed)
    built = module.build(flags, data, devices)
    return Learner(built.member(0) if isinstance(built, training.Ensemble) else built, flags, devices)


def calm_learner_of(module: ModuleType, flags: argparse.Namespace, data: training.Data,
                    devices: List[mx.Context]) -> Learner:
    """The same without dropout, and with batch norm's running statistics."""
    learner = learner_of(module, flags, data, devices)
    learner.net.apply(without_chance)   # in time: the graph is made when the network is first called hybridized
    return learner


def without_chance(block: gluon.Block) -> None:
    """Switches off dropout, whose masks differ, and lets batch norm use its running statistics as it trains."""
    if isinstance(block, gluon.nn.BatchNorm):
        block._kwargs['use_global_stats'] = True
    elif isinstance(block, gluon.nn.Dropout):
        block._rate = 0


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


def same_arrays(name: str, measured: Any, reference: Any, tolerance: str) -> Comparison:
    """Compares an array, or arrays by name."""
    if not isinstance(reference, dict):
        measured, reference = {'': measured}, {'': reference}
    return Comparison(f'{name}, relative difference', relative(measured, reference), 0.0, TOLERANCES[tolerance])


def gradients(block: gluon.Block, device: mx.Context) -> Dict[str, np.ndarray]:
    """The gradients of a block's parameters on one device."""
    return {name: param.grad(device).asnumpy() for name, param in block._collect_params_with_prefix().items()
            if param.grad_req != 'null'}


def loss_and_head(name: str, device: mx.Context, opt: argparse.Namespace, tree: str) -> Iterator[Finding]:
    """One script at its published batch size: its loss on given embeddings, and its network with its head.

    Without dropout, whose masks differ, and with batch norm's running statistics.
    """
    module = importlib.import_module(name)
    flags = parse(module, tree, *small_network(opt))
    data = training.load_data(flags)
    there, here = (calm_learner_of(module, flags, data, [ctx]) for ctx in (device, CPU))
    copy_parameters(here.net, there.net)
    copy_parameters(here.loss, there.loss)
    with Loader(data.train, here.sampler, train=True, image_size=flags.image_size, resize=flags.resize,
                seed=flags.seed) as loader:
        batch = next(iter(loader))

    outputs = [learner.forward(batch.images).asnumpy() for learner in (there, here)]
    yield same_arrays('embeddings', outputs[0], outputs[1], 'embeddings')
    embeddings = drawn_like(outputs[1], batch.labels)
    (value, slope, own), (right, right_slope, right_own) = (
        loss_gradients(learner, embeddings, batch.labels, flags.seed) for learner in (there, here))
    yield Comparison('value of the loss', value, right, TOLERANCES['loss value'] * abs(right))
    yield same_arrays('gradient of the embeddings', slope, right_slope, 'loss gradient')
    if right_own:
        yield same_arrays("gradients of the loss's parameters", own, right_own, 'loss gradient')
    nets = [net_gradients(learner, batch.images, right_slope) for learner in (there, here)]
    yield same_arrays('gradients of network and head', nets[0], nets[1], 'gradient')


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


def net_gradients(learner: Learner, images: np.ndarray, slope: np.ndarray) -> Dict[str, np.ndarray]:
    """Gradients of the network's parameters, given the gradient of its embeddings."""
    with autograd.record():
        embeddings = learner.forward(images)
    embeddings.backward(mx.nd.array(slope, ctx=learner.ctx[0]))
    return gradients(learner.net, learner.ctx[0])


def network(name: str, device: mx.Context, opt: argparse.Namespace) -> Iterator[Finding]:
    """One backbone, forward and backward as in training, and forward as in a test."""
    rng = np.random.RandomState(2)
    images = rng.randint(0, 256, (opt.images, opt.image_size, opt.image_size, 3)).astype(np.uint8)
    slope = rng.normal(size=(opt.images, opt.embed_dim)).astype(np.float32)
    results, start = [], None
    for ctx in (CPU, device):
        seed_everything(3)
        net = EmbeddingNet(get_backbone(name, 'none', [ctx]), opt.embed_dim, normalize=True)
        net.initialize(ctx=ctx)
        x = mx.nd.array(images, ctx=ctx, dtype='uint8')
        tested = net(x).asnumpy()
        if start is None:
            start = net
        else:
            copy_parameters(start, net)
            tested = net(x).asnumpy()
        net.hybridize(static_alloc=True)
        results.append((net, x, tested))
    (_, _, right_test), (_, _, tested) = results
    trained = [train_once(net, x, slope) for net, x, _ in results]
    (right, right_slopes, right_statistics), (embeddings, slopes, statistics) = trained
    yield same_arrays('embeddings, as in a test', tested, right_test, 'deep embeddings')
    yield same_arrays('embeddings, as trained', embeddings, right, 'deep embeddings')
    yield same_arrays('gradients', slopes, right_slopes, 'deep gradient')
    for kind in ('mean', 'var'):
        mine, theirs = ({key: value for key, value in arrays.items() if f'running_{kind}' in key}
                        for arrays in (statistics, right_statistics))
        what = 'running mean' if kind == 'mean' else 'running variance'
        if theirs:
            yield same_arrays(f'{what}s of batch norm', mine, theirs, what)


def train_once(net: EmbeddingNet, x: mx.nd.NDArray, slope: np.ndarray) -> Tuple[np.ndarray, Dict, Dict]:
    """Embeddings, gradients, and all parameters with the running statistics, after one pass in training mode."""
    with autograd.record():
        embeddings = net(x)
    embeddings.backward(mx.nd.array(slope, ctx=x.context))
    return embeddings.asnumpy(), gradients(net, x.context), block_arrays(net)


def points(count: int, dim: int, per_class: int = 5) -> Tuple[np.ndarray, np.ndarray]:
    """Clusters that overlap, of as many points each as SOP's classes have images."""
    rng = np.random.RandomState(4)
    labels = np.arange(count) // per_class
    x = rng.normal(size=(labels[-1] + 1, dim))[labels] + 0.9 * rng.normal(size=(count, dim))
    return x.astype(np.float32), labels


def evaluation(device: mx.Context, opt: argparse.Namespace) -> Iterator[Finding]:
    """Ranks, MAP@R, nearest centres, k-means and NMI by the code for devices, against that for the CPU."""
    x, labels = points(opt.points, opt.embed_dim)
    ctx = for_evaluation(device)
    right, found = (rank(x, labels, depth=DEPTH, ctx=c) for c in (None, ctx))
    for k in (1, DEPTH):
        yield Comparison(f'recall@{k}, percent', 100 * float((found.first <= k).mean()),
                         100 * float((right.first <= k).mean()), TOLERANCES['rank'])
    yield Comparison('queries whose rank differs', float((found.first != right.first).sum()), 0.0, TOLERANCES['rank'])
    yield Comparison('MAP@R, percent', 100 * float(found.average_precision.mean()),
                     100 * float(right.average_precision.mean()), TOLERANCES['map@r'])
    clusters = int(labels[-1]) + 1
    scores, right_scores = (nearest_centres(x, x[:clusters], c, with_second=True)[1:] for c in (ctx, None))
    for which, mine, theirs in zip(('nearest', 'second nearest'), scores, right_scores):
        yield same_arrays(f'score of the {which} centre', mine, theirs, 'centre')
    (mine, _, inertia), (theirs, _, right_inertia) = (kmeans(x, clusters, ctx=c, seed=5) for c in (ctx, None))
    yield Comparison(f'inertia of {clusters} clusters', inertia, right_inertia, TOLERANCES['inertia'] * right_inertia)
    yield Comparison('NMI, percent', 100 * nmi(labels, mine), 100 * nmi(labels, theirs), TOLERANCES['nmi'])


def several_devices(devices: List[mx.Context], opt: argparse.Namespace, tree: str) -> Iterator[Finding]:
    """One batch and one step on several devices, against the first alone; batch norm with its running statistics."""
    module = importlib.import_module(SPLIT)
    flags = parse(module, tree, *small_network(opt))
    data = training.load_data(flags)
    together, alone = (calm_learner_of(module, flags, data, group) for group in (devices, devices[:1]))
    copy_parameters(alone.net, together.net)
    with Loader(data.train, alone.sampler, train=True, image_size=flags.image_size, resize=flags.resize,
                seed=flags.seed) as loader:
        batch = next(iter(loader))
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
    yield Comparison('value of the loss', values[0], values[1], TOLERANCES['several devices'] * abs(values[1]))
    for ctx, mine in zip(devices, slopes[0]):
        yield same_arrays(f'gradients on {ctx}', mine, slopes[1][0], 'several devices')
    unequal = sum(not np.array_equal(array, other[name]) for other in moved[0][1:]
                  for name, array in moved[0][0].items())
    yield Comparison('parameters that differ between the devices after a step', float(unequal), 0.0, 0.0)


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
    yield Measurement('a run and its repetition, relative difference', noise, '')
    yield Comparison('a run and one that was resumed, relative difference', relative(resumed, whole), 0.0,
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
