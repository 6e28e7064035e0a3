"""How one network is trained, the same for all scripts: epochs x batches. Read it from the top.

One step is `Learner.step`; what a command has open is a `Session`; several runs, one after another, are
`common.training.runs`; the members of an ensemble are trained by the same loop (`common.training.ensemble`).
"""
from __future__ import annotations

import argparse
import math
import time
from typing import Any, Dict, List, Optional

import mxnet as mx
import numpy as np
from tqdm import tqdm

from common.evaluation import draw_neighbours, embed, evaluate, noting_indices, recall_ks
from common.training.experiment import Experiment
from common.training.learner import Learner
from common.training.recorder import without_classes
from common.training.session import Session
from dataset.loader import Loader


def train_network(session: Session, opt: argparse.Namespace, experiment: Experiment, network: SingleNetwork) -> Learner:
    """Trains one network for --epochs, or until --early-stopping, from wherever the last checkpoint left it."""
    learner = Learner(experiment, opt, session.ctx, session.cluster)
    session.describe(experiment, learner, network.members)
    progress, seed = session.progress, session.cluster.own_seed(network.seed)
    with session.loader(session.data.train, learner.sampler, seed) as loader:
        if session.arrays:
            learner.load_arrays(session.arrays, opt.load_checkpoint)
            session.arrays = {}
        elif progress.epoch is None:
            learner.start_alike()
            if network.is_first and not opt.skip_pretrain_validation:
                evaluate_network(session, learner, network, 0, {})
            progress.epoch = 0
            session.save(learner)
        over = network.is_over(progress.epoch)
        while not over:
            epoch = progress.epoch + 1
            record = train_epoch(session, learner, loader, network.run, epoch, seed)
            if not learner.is_finite():
                raise session.recorder.diverged(learner, network.run, epoch, len(loader), record['lr'],
                                                'parameters that are not finite')
            if network.is_due(epoch):
                evaluate_network(session, learner, network, network.epochs_before + epoch, record)
            else:
                session.recorder.epoch(network.run, network.epochs_before + epoch, record, network.number)
            progress.epoch = epoch
            over = network.is_over(epoch)
            if over:
                network.finish(learner)
            session.save(learner if progress.epoch is not None else None)
            session.interrupts.check()
    return learner


def train_epoch(session: Session, learner: Learner, loader: Loader, run: int, epoch: int, seed: int) -> Dict[str, Any]:
    """One pass over the sampler's batches; returns the mean loss, the rate, and the speed."""
    lr = learner.start_epoch(epoch, seed)
    loader.set_epoch(epoch)
    total, images, batches = 0.0, 0, 0
    gradient = mx.nd.zeros(1, ctx=session.ctx[0])
    title = f'run {run}/{session.opt.number_of_runs}, epoch {epoch}/{session.opt.epochs}'
    start = time.perf_counter()
    with tqdm(total=len(loader) * session.opt.batch_size * session.cluster.size, desc=title, unit=' images',
              leave=False, disable=None) as bar:
        for batch in session.interrupts.between(loader):
            value = learner.step(batch.images, batch.labels)
            batches += 1
            if not math.isfinite(value):
                raise session.recorder.diverged(learner, run, epoch, batches, lr, f'a loss of {value}')
            gradient = mx.nd.maximum(gradient, learner.gradient_seen().as_in_context(session.ctx[0]))
            total += value
            images += len(batch.labels) * session.cluster.size
            bar.set_postfix_str(f'loss {total / batches:.4f}{session.recorder.best_so_far()}', refresh=False)
            bar.update(len(batch.labels) * session.cluster.size)
    learner.end_epoch()
    session.log_skipped_images()
    seconds = time.perf_counter() - start
    if gradient.asscalar() == 0:
        session.recorder.zero_gradient(run, epoch)
    session.progress.images_seen += images
    session.progress.seconds += seconds
    return {'loss': total / batches, 'lr': lr, 'seconds': seconds, 'images_per_second': images / seconds}


def evaluate_network(session: Session, learner: Learner, network: SingleNetwork, epoch: int,
                     record: Dict[str, Any]) -> None:
    """Scores the test set, and the validation classes if there are any; logs it; nothing but on worker 0."""
    if session.cluster.rank:
        return
    opt, scores, shown, start = network.opt, {}, None, time.perf_counter()
    for name, loader in session.evaluated.items():
        seen: List[np.ndarray] = []
        embeddings, labels = embed(learner.embed, noting_indices(session.interrupts.between(loader), seen), session.ctx)
        queries = (session.data.test if name == 'test' else session.data.val).queries
        queries = None if queries is None else queries[np.concatenate(seen)]
        outputs = embeddings if isinstance(embeddings, dict) else {'': embeddings}
        if epoch:
            outputs = network.combine(name, outputs)
        shown = shown or (loader, next(iter(outputs.values())), labels, queries)
        first, *others = [
            (output, evaluate(x, labels, ks=recall_ks(opt.dataset), with_nmi=not opt.no_nmi, ctx=session.ctx[0],
                              seed=opt.seed, by_class=name == 'test', queries=queries))
            for output, x in outputs.items()]
        if name != 'test':
            scores[name] = dict(first[1])
            continue
        scores.update(first[1], embedding_size=next(iter(outputs.values())).shape[1])
        if others:
            scores['outputs'] = {output: without_classes(metrics) for output, metrics in others}
    seconds = time.perf_counter() - start
    session.progress.evaluation_seconds += seconds
    session.recorder.epoch(network.run, epoch,
                           {**record, 'evaluation_seconds': seconds, **without_classes(scores)}, network.number)
    network.keep(learner, scores, epoch)
    if session.recorder.wants_picture(epoch):
        loader, embeddings, labels, queries = shown
        picture = draw_neighbours(loader.readable_paths, embeddings, labels, seed=opt.seed, is_query=queries)
        session.recorder.tracker.picture(network.run, epoch, np.asarray(picture))


class SingleNetwork:
    """When the network of a run is evaluated, and what is kept of it; a member of an ensemble differs in this alone."""

    number: Optional[int] = None    # of the member
    epochs_before = 0               # that the members before it had
    is_first, members = True, 1

    def __init__(self, session: Session, opt: argparse.Namespace, run: int):
        self.session, self.opt, self.run, self.seed = session, opt, run, opt.seed

    def is_due(self, epoch: int) -> bool:
        """Is it evaluated after this epoch?"""
        return epoch % self.opt.eval_every == 0 or epoch == self.opt.epochs

    def is_over(self, epoch: int) -> bool:
        """Has it done all its epochs, or has --early-stopping ended it?"""
        patience = self.opt.early_stopping
        if epoch >= self.opt.epochs or not patience or not epoch or not self.is_due(epoch):
            return epoch >= self.opt.epochs
        best = self.session.progress.chosen.get('best-on-val', {}).get('epoch', 0)
        answer, _ = self.session.cluster.from_first({'over': epoch - best >= patience}, {})
        return answer['over']

    def combine(self, name: str, outputs: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
        """What is scored: its embeddings as they are."""
        return outputs

    def keep(self, learner: Learner, scores: Dict[str, Any], epoch: int) -> None:
        """Notes the result, and saves the network where it is the best so far."""
        self.session.recorder.choose(self.run, epoch, scores, learner.net)

    def finish(self, learner: Learner) -> None:
        """Saves the network of the last epoch, and says so if it came early."""
        epoch = self.session.progress.epoch
        if epoch < self.opt.epochs:
            self.session.recorder.stopped_early(self.run, epoch)
        self.session.recorder.save_network(learner.net, self.run, 'last')
