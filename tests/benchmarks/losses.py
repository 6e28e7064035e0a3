"""Forward and backward of every loss, beside pytorch-metric-learning; then time and memory as the batch grows.

    python3.11 -m venv V && V/bin/pip install torch==2.13.0 pytorch-metric-learning
    python -m tests.benchmarks.losses --rival-python V/bin/python      # table, then growth
    python -m tests.benchmarks.losses margin npairs --only table

Times are medians of 30 calls after warm-up, on all cores (or OMP_NUM_THREADS, for both). Our losses are hybridised with
``static_alloc`` and run in one process, the rivals in another; the two take turns for `--rounds` rounds and each keeps
its best round. Mining counts, for both. Embeddings have 64 dimensions and norm 1, and there are 100 classes, unless the
row says otherwise.

Growth: each number is from a process of its own. Memory is the peak of the resident set during two calls over what was
resident before (the same loss warmed up on a tiny batch; parameters, embeddings and gradients in place), in floats per
B², or per B C for losses with proxies or centroids; below B = 512 it would be noise. 16 B² and 8 B C are the limits.
"""
from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

import numpy as np

DIM, CLASSES, SOP_CLASSES = 64, 100, 11318
GROWTH = (128, 256, 512, 1024)
MEMORY_FROM = 512  # B of the first batch whose memory stands out from the noise

# Rows of the table: loss, batch size, order of the batch, goal in ms or None, goal as a multiple of the rival or None
CASES: Dict[str, Tuple[str, int, str, Optional[float], Optional[float]]] = {
    'triplet_semihard, shuffled': ('triplet_semihard', 128, 'shuffled', None, 1.0),
    'triplet_semihard, 25 x 5': ('triplet_semihard', 125, '5', None, 1.0),
    'lifted_struct': ('lifted_struct', 128, 'shuffled', 3, None),
    'margin': ('margin', 125, '5', 4, None),
    'npairs': ('npairs', 128, '2', None, 1.0),
    'angular': ('angular', 128, '2', None, 1.0),
    'prototypical': ('prototypical', 120, '10', 2, None),
    'ranked_list': ('ranked_list', 180, '3', 4, None),
    'cluster, 24 classes': ('cluster', 120, '5', 60, None),
    'cluster, shuffled': ('cluster', 120, 'shuffled', 150, None),
    'proxy nca': ('proxy_nca', 128, 'shuffled', None, 1.5),
    'proxy triplet': ('proxy_triplet', 128, 'shuffled', 3, None),
    'normproxy': ('normproxy', 128, 'shuffled', None, 1.5),
    'discriminative': ('discriminative', 128, 'shuffled', 3, None),
    'dreml member (12 classes)': ('dreml', 128, 'shuffled', None, None),
}
WITH_PROXIES = ('proxy_nca', 'proxy_triplet', 'normproxy', 'discriminative')
GROWING = ('triplet_semihard', 'lifted_struct', 'margin', 'npairs', 'angular', 'prototypical', 'ranked_list', 'cluster')


def batch_of(size: int, order: str, classes: int, dim: int) -> Tuple[np.ndarray, np.ndarray]:
    """Embeddings (size, dim) of norm 1 around a centre for each class; labels (size,): random, or `order` rows each."""
    rng = np.random.RandomState(0)
    labels = rng.randint(classes, size=size) if order == 'shuffled' else np.arange(size) // int(order)
    x = rng.normal(size=(size, dim)) + 0.7 * rng.normal(size=(int(labels.max()) + 1, dim))[labels]
    return (x / np.sqrt((x * x).sum(axis=1, keepdims=True))).astype(np.float32), labels


def our_loss(name: str, size: int, order: str, classes: int) -> Any:
    """The loss object behind a name, for batches of `size` rows."""
    from models.losses.angular import AngularLoss
    from models.losses.discriminative import DiscriminativeLoss
    from models.losses.lifted_struct import LiftedStructLoss
    from models.losses.margin import MarginLoss
    from models.losses.normproxy import NormProxyLoss
    from models.losses.npairs import NPairLoss
    from models.losses.prototypical import PrototypicalLoss
    from models.losses.proxy import ProxyLoss
    from models.losses.ranked_list import RankedListLoss
    from models.losses.structured_clustering import StructuredClusteringLoss
    from models.losses.triplet_semihard import TripletSemihardLoss
    support = int(order) // 2 if order != 'shuffled' else 0
    return {
        'triplet_semihard': lambda: TripletSemihardLoss(),
        'lifted_struct': lambda: LiftedStructLoss(),
        'margin': lambda: MarginLoss(classes),
        'npairs': lambda: NPairLoss(),
        'angular': lambda: AngularLoss(),
        'prototypical': lambda: PrototypicalLoss(size // int(order), support, int(order) - support),
        'ranked_list': lambda: RankedListLoss(),
        'cluster': lambda: StructuredClusteringLoss(),
        'proxy_nca': lambda: ProxyLoss(classes, DIM, kind='nca'),
        'proxy_triplet': lambda: ProxyLoss(classes, DIM, kind='triplet'),
        'normproxy': lambda: NormProxyLoss(classes, DIM),
        'discriminative': lambda: DiscriminativeLoss(classes),
        'dreml': lambda: ProxyLoss(classes, classes, kind='nca'),
    }[name]()


def our_step(name: str, size: int, order: str, classes: int, loss: Any = None) -> Tuple[Callable[[], None], Any]:
    """A function that runs forward and backward once and waits for the gradients; and the loss, which may be given."""
    import common  # noqa: F401  (prepares MXNet)
    import mxnet as mx
    if loss is None:
        loss = our_loss(name, size, order, classes)
        loss.initialize()
        loss.hybridize(static_alloc=True, static_shape=True)
    embeddings, labels = batch_of(size, order, classes, classes if name in ('discriminative', 'dreml') else DIM)
    x, y = mx.nd.array(embeddings), mx.nd.array(labels)
    x.attach_grad()
    x.grad[:] = 1

    def step() -> None:
        with mx.autograd.record():
            value = loss(x, y)
        value.backward()
        mx.nd.waitall()

    return step, loss


def rival_step(name: str, size: int, order: str, classes: int) -> Optional[Callable[[], None]]:
    """The same in pytorch-metric-learning, or None where that has no such loss."""
    import torch
    from pytorch_metric_learning import distances, losses, miners
    torch.set_num_threads(int(os.environ.get('OMP_NUM_THREADS', os.cpu_count() or 1)))
    squared = distances.LpDistance(normalize_embeddings=False, power=2)
    found = {
        'triplet_semihard': lambda: (losses.TripletMarginLoss(margin=1.0, distance=squared),
                                     miners.TripletMarginMiner(1.0, type_of_triplets='semihard', distance=squared)),
        'lifted_struct': lambda: (losses.LiftedStructureLoss(neg_margin=1.0), None),
        'lifted_struct, generalised': lambda: (losses.GeneralizedLiftedStructureLoss(neg_margin=1.0), None),
        'margin': lambda: (losses.MarginLoss(0.2, beta=1.2, learn_beta=True, num_classes=classes),
                           miners.DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=1.4)),
        'npairs': lambda: (losses.NPairsLoss(), None),
        'angular': lambda: (losses.AngularLoss(alpha=45), None),
        'ranked_list': lambda: (losses.RankedListLoss(margin=0.4, Tn=10, alpha=1.2), None),
        'proxy_nca': lambda: (losses.ProxyNCALoss(classes, DIM), None),
        'normproxy': lambda: (losses.NormalizedSoftmaxLoss(classes, DIM, temperature=0.05), None),
    }.get(name)
    if found is None:
        return None
    loss, miner = found()
    embeddings, labels = batch_of(size, order, classes, DIM)
    x, y = torch.tensor(embeddings, requires_grad=True), torch.tensor(labels)

    def step() -> None:
        x.grad = None
        loss.zero_grad(set_to_none=True)
        (loss(x, y, miner(x, y)) if miner else loss(x, y)).backward()

    return step


def median_ms(step: Callable[[], None], calls: int = 30, seconds: float = 20.0) -> float:
    """Median time of `calls` calls after five for warm-up; of fewer, but two, after one, once `seconds` are over."""
    times: List[float] = []
    start = time.perf_counter()
    while len(times) < calls + 5 and (len(times) < 3 or time.perf_counter() - start < seconds):
        begin = time.perf_counter()
        step()
        times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times[5:] if len(times) > 10 else times[1:])


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (the peak since the last reset) of this process, in bytes."""
    with open('/proc/self/status') as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(field + ':'))


def work(args: argparse.Namespace) -> None:
    """What a subprocess does: measure, print one JSON object."""
    if args.work == 'growth':
        name, size, classes = args.losses[0], args.size, args.classes
        order = {'npairs': '2', 'angular': '2', 'prototypical': '8'}.get(name, '4')
        if name in WITH_PROXIES:
            order = 'shuffled'
        step, loss = our_step(name, 16, order, classes)
        step()
        # The shape of an episode belongs to the loss object: another one then.
        step, _ = our_step(name, size, order, classes, None if name == 'prototypical' else loss)
        with open('/proc/self/clear_refs', 'w') as file:
            file.write('5')  # VmHWM := VmRSS
        before = resident('VmRSS')
        for _ in range(2):
            step()
        peak = resident('VmHWM') - before
        print(json.dumps({'ms': median_ms(step, seconds=6.0), 'floats': peak / 4}))
        return
    found = {}
    for row in args.losses:
        name, size, order, _, _ = CASES[row]
        classes = 12 if name == 'dreml' else CLASSES
        if args.work == 'ours':
            found[row] = median_ms(our_step(name, size, order, classes)[0])
        else:
            step = rival_step(name, size, order, classes)
            if step is not None:
                found[row] = median_ms(step)
            if name == 'lifted_struct':
                found[row + ', generalised'] = median_ms(rival_step(name + ', generalised', size, order, classes))
    print(json.dumps(found))


def run(python: str, *arguments: str) -> Dict[str, float]:
    """Run this file in a process of its own and read what it measured."""
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(['.', os.environ.get('PYTHONPATH', '')]).strip(os.pathsep))
    if python == sys.executable:
        env.setdefault('OPENBLAS_NUM_THREADS', '1')  # as `common` does for the scripts
    done = subprocess.run([python, __file__, *arguments], env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(args: argparse.Namespace, rows: List[str]) -> None:
    """Print ms of ours and the rival's, their ratio, and the goal."""
    ours: Dict[str, float] = {}
    rivals: Dict[str, float] = {}
    for _ in range(args.rounds):
        sides = [(ours, sys.executable, 'ours')]
        if args.rival_python:
            sides.append((rivals, args.rival_python, 'rival'))
        for best, python, side in sides:
            for row, ms in run(python, '--work', side, *rows).items():
                best[row] = min(ms, best.get(row, ms))
    print('| loss | B | ours ms | rival ms | ours / rival | goal | reached |')
    print('|---|---|---|---|---|---|---|')
    for row in rows:
        _, size, _, goal, ratio = CASES[row]
        rival = rivals.get(row)
        wanted = goal if goal is not None else ratio * rival if ratio is not None and rival is not None else None
        print('| {} | {} | {:.2f} | {} | {} | {} | {} |'.format(
            row, size, ours[row], '' if rival is None else f'{rival:.2f}',
            '' if rival is None else f'{ours[row] / rival:.2f}',
            f'{goal:g} ms' if goal is not None else '' if ratio is None else f'{ratio:g} x rival',
            '' if wanted is None else 'yes' if ours[row] <= wanted else 'NO'))
        if row + ', generalised' in rivals:
            print(f'| (the rival in its generalised form) | {size} | | {rivals[row + ", generalised"]:.2f} | | | |')


def growth(losses: List[str]) -> None:
    """Print time and memory against the batch size."""
    print('\n| loss | ' + ' | '.join(f'B = {size}: ms' for size in GROWTH)
          + ' | ' + ' | '.join(f'floats / B² at {size}' for size in GROWTH if size >= MEMORY_FROM) + ' |')
    print('|---' * (1 + len(GROWTH) + sum(size >= MEMORY_FROM for size in GROWTH)) + '|')
    for name in losses:
        if name in GROWING:
            found = [run(sys.executable, '--work', 'growth', '--size', str(size), '--classes', str(1024), name)
                     for size in GROWTH]
            print(f'| {name} | ' + ' | '.join(f'{point["ms"]:.2f}' for point in found) + ' | '
                  + ' | '.join(f'{point["floats"] / size ** 2:.1f}' for size, point in zip(GROWTH, found)
                               if size >= MEMORY_FROM) + ' |', flush=True)
    print(f'\n| loss, C = {SOP_CLASSES} | B = 32: ms | B = 128: ms | floats / (B C) at 128 |\n|---|---|---|---|')
    for name in losses:
        if name in WITH_PROXIES:
            found = [run(sys.executable, '--work', 'growth', '--size', str(size), '--classes', str(SOP_CLASSES), name)
                     for size in (32, 128)]
            print(f'| {name} | {found[0]["ms"]:.2f} | {found[1]["ms"]:.2f} | '
                  f'{found[1]["floats"] / (128 * SOP_CLASSES):.1f} |', flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('losses', nargs='*', help='names of losses or rows; default: all')
    parser.add_argument('--rival-python', help='interpreter that has torch and pytorch-metric-learning')
    parser.add_argument('--rounds', type=int, default=2, help='rounds of the table')
    parser.add_argument('--only', choices=('table', 'growth'), help='one part')
    parser.add_argument('--work', choices=('ours', 'rival', 'growth'), help=argparse.SUPPRESS)
    parser.add_argument('--size', type=int, help=argparse.SUPPRESS)
    parser.add_argument('--classes', type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        work(args)
        return
    rows = [row for row in CASES if not args.losses or row in args.losses or CASES[row][0] in args.losses]
    if args.only != 'growth' and rows:
        table(args, rows)
    if args.only != 'table':
        growth([name for name in GROWING + WITH_PROXIES if not args.losses or name in args.losses])


if __name__ == '__main__':
    main()
