"""Throughput of the whole training loop against a bare forward-backward-step loop on batches held in memory.

    python -m tests.benchmarks.training [--model convnet] [--image-size 32] [--dataset GLYPHS] [--data-path DIR]

Both train the margin loss from the same start, in turns, in one process; the median of the turns counts. What the loop
does on top of the bare one is reading, decoding and augmenting images, checking the loss of every batch, and the
progress bar. Any flag of train_margin.py may be given.
"""
from __future__ import annotations

import contextlib
import io
import statistics
import sys
import time

import common  # noqa: F401  (prepares MXNet)
import mxnet as mx
from mxnet import autograd, gluon

import train_margin
from common.training.loop import train_epoch
from common.training.session import Session
from common.training.learner import Learner, initialize

TURNS = 5


def bare_loop(opt, session, batches) -> float:
    """Images a second of the plainest loop."""
    experiment = train_margin.build(opt, session.data, session.ctx)
    net, loss = experiment.net, experiment.loss
    initialize(net, session.ctx)
    initialize(loss, session.ctx)
    net.hybridize(static_alloc=True)
    loss.hybridize(static_alloc=True)
    trainers = [gluon.Trainer(group.trainable(), group.optimizer,
                              dict(group.options, learning_rate=group.lr, wd=group.wd, clip_gradient=group.clip or -1))
                for group in experiment.param_groups]

    def step(batch):
        with autograd.record():
            value = loss(net(mx.nd.array(batch.images, dtype='uint8')), mx.nd.array(batch.labels))
        value.backward()
        for trainer in trainers:
            trainer.step(1)

    for batch in batches[:3]:
        step(batch)
    mx.nd.waitall()
    start = time.perf_counter()
    for batch in batches:
        step(batch)
    mx.nd.waitall()
    return sum(len(b.labels) for b in batches) / (time.perf_counter() - start)


def whole_loop(opt, session, batches) -> float:
    """Images a second of the loop that the scripts run."""
    learner = Learner(train_margin.build(opt, session.data, session.ctx), opt, session.ctx)
    for batch in batches[:3]:
        learner.step(batch.images, batch.labels)
    loader = session.loader(session.data.train, learner.sampler, opt.seed)
    with contextlib.redirect_stderr(io.StringIO()):
        record = train_epoch(session, learner, loader, 1, 1, opt.seed)
    loader.close()
    return record['images_per_second']


def main() -> None:
    defaults = ['--dataset', 'GLYPHS', '--model', 'convnet', '--image-size', '32', '--batches-per-epoch', '40']
    opt = train_margin.parse_args([*defaults, *sys.argv[1:], '--logfile', 'None', '--save-model-prefix', 'None'])
    session = Session(opt)
    sampler = train_margin.build(opt, session.data, session.ctx).sampler
    loader = session.loader(session.data.train, sampler, opt.seed)
    batches = list(loader)
    loader.close()
    rates = {'bare': [], 'loop': []}
    for _ in range(TURNS):
        rates['bare'].append(bare_loop(opt, session, batches))
        rates['loop'].append(whole_loop(opt, session, batches))
    session.close()
    bare, loop = statistics.median(rates['bare']), statistics.median(rates['loop'])
    print(f'{opt.model}, {opt.image_size} pixels, batches of {opt.batch_size}: bare {bare:.0f} images/s, whole loop '
          f'{loop:.0f} images/s, ratio {loop / bare:.3f}')


if __name__ == '__main__':
    main()
