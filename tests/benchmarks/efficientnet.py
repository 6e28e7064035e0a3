"""Training steps of EfficientNet-Lite0 against PyTorch's same graph, in turns, in processes of their own.

    python -m tests.benchmarks.efficientnet [--batch-size 32] [--image-size 96] [--turns 5]

PyTorch (``pip install torch``) runs in its usual layout and in channels-last. Each process takes all cores, warms up
and reports the images a second of its median step; the median of the turns counts.
"""
from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

STEPS, WARM_UP = 6, 2
SIDES = ('ours', 'torch', 'torch channels-last')


def ours(batch_size: int, size: int):
    import common  # noqa: F401  (prepares MXNet)
    import mxnet as mx

    from models import get_backbone

    net = get_backbone('efficientnet-lite0')
    net.hybridize(static_alloc=True)
    trainer = mx.gluon.Trainer(net.collect_params(), 'sgd', {'learning_rate': 1e-4})
    x = mx.nd.random.normal(shape=(batch_size, 3, size, size))

    def step():
        with mx.autograd.record():
            loss = net(x).mean()
        loss.backward()
        trainer.step(1)
        mx.nd.waitall()

    return step


def theirs(batch_size: int, size: int, channels_last: bool):
    import torch

    from tests.oracles.efficientnet_lite import torch_network

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    net = torch_network(torch).train().to(memory_format=layout)
    optimizer = torch.optim.SGD(net.parameters(), 1e-4)
    x = torch.randn(batch_size, 3, size, size).contiguous(memory_format=layout)

    def step():
        optimizer.zero_grad()
        net(x).mean().backward()
        optimizer.step()

    return step


def measure(side: str, batch_size: int, size: int) -> float:
    """Images a second."""
    step = ours(batch_size, size) if side == 'ours' else theirs(batch_size, size, side != 'torch')
    seconds = []
    for _ in range(WARM_UP + STEPS):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return batch_size / statistics.median(seconds[WARM_UP:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--image-size', type=int, default=96)
    parser.add_argument('--turns', type=int, default=5)
    parser.add_argument('--side', choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(measure(arguments.side, arguments.batch_size, arguments.image_size))
        return
    sides, rates = SIDES, {}
    try:
        import torch  # noqa: F401
    except ImportError:
        print('left out: PyTorch is not installed')
        sides = SIDES[:1]
    same = [f'--batch-size={arguments.batch_size}', f'--image-size={arguments.image_size}']
    for _ in range(arguments.turns):
        for side in sides:
            output = subprocess.run([sys.executable, '-m', 'tests.benchmarks.efficientnet', '--side', side, *same],
                                    check=True, stdout=subprocess.PIPE, text=True).stdout
            rates.setdefault(side, []).append(float(output.split()[-1]))
    middle = {side: statistics.median(values) for side, values in rates.items()}
    for side, value in middle.items():
        print(f'{side:20} {value:6.0f} images/s (from {min(rates[side]):.0f} to {max(rates[side]):.0f}), '
              f'ours / this {middle["ours"] / value:.2f}')


if __name__ == '__main__':
    main()
