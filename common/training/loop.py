"""The training loop that all twelve scripts share: runs x members x epochs x batches.

A script says what is its own in `build(opt, data, ctx)`, which returns an :class:`Experiment`; :func:`run` does the
rest: seeds, batches, several devices, the optimisers' steps, evaluation, log, checkpoints and the models on disk.
"""
from __future__ import annotations

import argparse
import contextlib
import copy
import dataclasses
import glob
import io
import math
import os
import re
import threading
import time
import uuid
import zlib
from typing import Any, Callable, Dict, List, Optional, Union

import mxnet as mx
import numpy as np
from mxnet import gluon
from tqdm import tqdm

from common.training import checkpoint
from common.devices import get_contexts
from common.distributed.cluster import get_cluster
from common.errors import TrainingError, UsageError
from common.evaluation import embed, evaluate
from common.files import atomic_write, lock
from common.interrupts import Interrupts
from common.training.learner import Learner
from common.training.optimisers import ParamGroup
from common.runlog import RunLog, git_revision, versions
from common.stats import describe_metrics, t_interval
from common.seeds import derived_seed, seed_everything
from dataset import ImageSet, get_dataset, split_classes
from dataset.loader import Loader
from dataset.samplers import BalancedBatches, ShuffledBatches
from models.ensemble import concatenate_members
from models.weights import load_parameters, save_parameters

# tqdm's own lock is one between processes, for which Python 3.14 starts a process that outlives a killed one.
tqdm.set_lock(threading.RLock())

MAY_CHANGE = {'load_checkpoint', 'number_of_runs', 'num_workers', 'gpus', 'logfile', 'log_postfix', 'save_model_prefix',
              'results_dir', 'data_path', 'cache', 'kvstore'}
#: What may follow the prefix of models in the name of a temporary file; other runs' prefixes may begin with this one.
_UNFINISHED = re.compile(r'(-run\d+)?(-(best|last|member\d+(-(test|val))?)\.(params|npy)|\.ckpt\.npz)\.tmp-\d+')


@dataclasses.dataclass
class Data:
    """The image sets of a run; `val` holds the classes of --val-split, or is None."""
    train: ImageSet
    test: ImageSet
    val: Optional[ImageSet] = None


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
    train, test = get_dataset(opt.dataset, opt.data_path, image_size=opt.image_size, resize=opt.resize)
    if opt.use_crops and (train.boxes is None or test.boxes is None):
        raise UsageError(f'--use-crops: {opt.dataset} has no bounding boxes')
    val = None
    if opt.val_split:
        train, val = split_classes(train, opt.val_split, opt.seed)
    return Data(train, test, val)


def shuffled_or_balanced(opt: argparse.Namespace, labels: np.ndarray) -> gluon.data.Sampler:
    """Class-balanced batches with --batch-k, else shuffled ones."""
    if not opt.batch_k:
        return ShuffledBatches(labels, opt.batch_size, seed=opt.seed)
    return BalancedBatches(labels, opt.batch_size, opt.batch_k, opt.batches_per_epoch, seed=opt.seed)


class Session:
    """All runs of one command: their data, log, checkpoint and results.

    Where several workers train together (`common.distributed`), each has a session, and worker 0 alone evaluates and
    writes.
    """

    def __init__(self, opt: argparse.Namespace, build: Callable):
        self.opt, self.build = opt, build
        self.interrupts = Interrupts()
        self.cluster = get_cluster(opt.kvstore)
        if self.cluster.rank:
            self.opt = opt = argparse.Namespace(**{**vars(opt), 'logfile': None, 'save_model_prefix': None})
        self.ctx = get_contexts(opt.gpus)
        if opt.batch_size < len(self.ctx):
            raise UsageError(f'--batch-size {opt.batch_size} is smaller than the number of devices')
        self.data = load_data(opt)
        self.arrays: Dict[str, np.ndarray] = {}
        self.progress = {'id': uuid.uuid4().hex, 'run': 1, 'member': 0, 'epoch': None, 'images_seen': 0, 'seconds': 0.0,
                         'chosen': {}, 'runs': [], 'log_offset': None, 'described': False, 'zero_gradient': False}
        if opt.load_checkpoint and not self.cluster.rank:
            self._resume(opt.load_checkpoint)
        self._agree()
        self.checkpoint_path = opt.save_model_prefix and opt.save_model_prefix + '.ckpt.npz'
        self.selections = ['best-on-test', 'last'] + (['best-on-val'] if self.data.val else [])
        self.evaluated: Dict[str, Loader] = {}
        self.log: Optional[RunLog] = None
        self.skipped: List[Dict[str, str]] = []  # images, by a worker that does not write the log
        self._lock = self._lock_models()
        try:
            self._open_outputs()
        except BaseException:
            self.close()
            raise

    def _open_outputs(self) -> None:
        self.log = RunLog(self.opt.logfile, self.progress['id'], self.progress['log_offset'])
        if not self.log.offset:
            self.progress['described'] = False
        if self.progress['log_offset'] is None:
            self._save(None)  # before the first line of the log: killed from here on, the experiment can be resumed
        if self.cluster.rank:
            return
        self.evaluated['test'] = self._test_loader(self.data.test)
        if self.data.val:
            self.evaluated['val'] = self._test_loader(self.data.val)

    def run(self) -> Dict[str, Any]:
        """Does all runs that are not done; returns their results and the summary."""
        try:
            with self.interrupts:
                for run in range(self.progress['run'], self.opt.number_of_runs + 1):
                    self._one_run(run)
                return {} if self.cluster.rank else self._summary()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(self._how_to_go_on()) from None
        finally:
            self.close()

    def close(self) -> None:
        """Ends the loaders' threads and gives up the locks."""
        for loader in self.evaluated.values():
            loader.close()
        if self.log:
            self.log.close()
        if self._lock:
            with contextlib.suppress(OSError):
                os.unlink(self._lock.name)
            self._lock.close()

    def _resume(self, path: str) -> None:
        meta, self.arrays = checkpoint.load(path)
        wrong = [name for name, default in {**self.progress, 'flags': {}}.items()
                 if not _is_like(meta.get(name, ...), default)]
        if wrong:
            raise TrainingError(f'{path} is not the checkpoint of a training run: it has no right {wrong[0]!r}')
        if meta['epoch'] is not None and not self.arrays:
            raise TrainingError(f'{path} does not fit this network: it is of epoch {meta["epoch"]}, and has no arrays')
        if meta.get('script', self.opt.script) != self.opt.script:
            raise TrainingError(f"{path} was made by {meta['script']}.py")
        flags = _flags(self.opt)
        for name, value in meta['flags'].items():
            if name not in MAY_CHANGE and flags.get(name, value) != value:
                flag = '--' + name.replace('_', '-')
                raise UsageError(f'{flag} is {flags[name]!r}, but {path} was made with {value!r}')
        self.progress.update({name: meta[name] for name in self.progress})

    def _agree(self) -> None:
        """Sees to it that all workers do the same: from where worker 0 stands, on the same data."""
        flags = {name: value for name, value in _flags(self.opt).items() if name not in MAY_CHANGE}
        train = self.data.train
        self.cluster.require_same({'flags': flags, 'training images': len(train), 'devices': len(self.ctx),
                                   'labels of the training images': zlib.crc32(train.labels.tobytes())})
        self.progress, self.arrays = self.cluster.from_first(self.progress, self.arrays)

    def _lock_models(self):
        prefix = self.opt.save_model_prefix
        if prefix is None:
            return None
        os.makedirs(os.path.dirname(prefix) or '.', exist_ok=True)
        file = open(prefix + '.lock', 'ab')  # noqa: SIM115  held, and locked, until close()
        if not lock(file):
            file.close()
            raise TrainingError(f'{prefix}.*: another run saves its models there: choose another --save-model-prefix')
        for unfinished in glob.glob(glob.escape(prefix) + '*.tmp-*'):
            if _UNFINISHED.fullmatch(unfinished[len(prefix):]):  # of a killed process: we hold the lock
                os.unlink(unfinished)
        if not self.opt.load_checkpoint and os.path.exists(self.checkpoint_path):
            os.replace(self.checkpoint_path, self.checkpoint_path + '.previous')
        return file

    def _test_loader(self, images: ImageSet) -> Loader:
        return self._loader(images, None, False, self.opt.seed)

    def _loader(self, images: ImageSet, sampler, train: bool, seed: int) -> Loader:
        opt = self.opt
        return Loader(images, sampler, train=train, image_size=opt.image_size, resize=opt.resize,
                      batch_size=None if train else opt.batch_size, use_crops=opt.use_crops, seed=seed,
                      num_workers=opt.num_workers, cache=opt.cache, skip_bad_images=opt.skip_bad_images,
                      on_bad=self._skip)

    def _skip(self, path: str, reason: str) -> None:
        if self.cluster.rank:
            self.skipped.append({'path': path, 'reason': reason})
        else:
            self.log.write('skipped_image', path=path, reason=reason)

    def _log_what_others_skipped(self) -> None:
        for record in self.cluster.to_first(self.skipped):
            self.log.write('skipped_image', **record)
        self.skipped.clear()

    def _one_run(self, run: int) -> None:
        opt = copy.copy(self.opt)
        opt.seed = self.opt.seed + run - 1
        seed_everything(opt.seed)
        built = self.build(opt, self.data, self.ctx)
        ensemble = built if isinstance(built, Ensemble) else Ensemble(1, lambda m: built)
        finished: Dict[str, List[np.ndarray]] = {name: [] for name in self.evaluated}
        for member in range(ensemble.size):
            if member < self.progress['member']:
                if not self.cluster.rank:
                    self._recall_member(run, member, opt, ensemble, finished)
                continue
            if built is ensemble:
                seed_everything(opt.seed, member)
            experiment = ensemble.member(member)
            self._describe(experiment)
            last_member = member == ensemble.size - 1
            self._one_member(run, opt, experiment, member if built is ensemble else None, finished, last_member)
        self._end_run(run, opt.seed)

    def _one_member(self, run: int, opt: argparse.Namespace, experiment: Experiment, member: Optional[int],
                    finished: Dict[str, List[np.ndarray]], last_member: bool) -> None:
        learner = Learner(experiment, opt, self.ctx, self.cluster)
        seed = self.cluster.own_seed(opt.seed if member is None else derived_seed(opt.seed, member))
        loader = self._loader(self.data.train, learner.sampler, True, seed)
        first = (member or 0) * opt.epochs
        try:
            if self.arrays:
                learner.load_arrays(self.arrays, self.opt.load_checkpoint)
                self.arrays = {}
            elif self.progress['epoch'] is None:
                learner.start_alike()
                if not opt.skip_pretrain_validation and not member:
                    self._evaluate(learner, run, 0, {}, opt, member, finished)
                self.progress['epoch'] = 0
                self._save(learner)
            for epoch in range(self.progress['epoch'] + 1, opt.epochs + 1):
                record = self._train_epoch(learner, loader, run, epoch, seed)
                due = epoch % opt.eval_every == 0 if member is None else False
                if due or epoch == opt.epochs:
                    self._evaluate(learner, run, first + epoch, record, opt, member, finished)
                else:
                    self._record(run, first + epoch, record, member)
                if not checkpoint.check_finite([learner.net, learner.loss]):
                    self._diverged(learner, run, epoch, len(loader), record['lr'], 'parameters that are not finite')
                self.progress['epoch'] = epoch
                if epoch == opt.epochs and member is not None:
                    self._keep_member(learner, run, member, finished)
                    if not last_member:
                        self.progress.update(member=member + 1, epoch=None)
                elif epoch == opt.epochs and opt.save_model_prefix:
                    save_parameters(learner.net, self._model_path(run, 'last'))
                self._save(learner if self.progress['epoch'] is not None else None)
                self.interrupts.check()
        finally:
            loader.close()

    def _train_epoch(self, learner: Learner, loader: Loader, run: int, epoch: int, seed: int) -> Dict[str, Any]:
        lr = learner.start_epoch(epoch, seed)
        loader.set_epoch(epoch)
        total, images, batches = 0.0, 0, 0
        gradient = mx.nd.zeros(1, ctx=self.ctx[0])
        title = f'run {run}/{self.opt.number_of_runs}, epoch {epoch}/{self.opt.epochs}'
        images_due = len(loader) * self.opt.batch_size * self.cluster.size
        start = time.perf_counter()
        with tqdm(total=images_due, desc=title, unit=' images', leave=False, disable=None) as bar:
            for batch in self.interrupts.between(loader):
                value = learner.step(batch.images, batch.labels)
                batches += 1
                if not math.isfinite(value):
                    self._diverged(learner, run, epoch, batches, lr, f'a loss of {value}')
                gradient = mx.nd.maximum(gradient, learner.gradient_seen().as_in_context(self.ctx[0]))
                total += value
                images += len(batch.labels) * self.cluster.size
                bar.set_postfix_str(f'loss {total / batches:.4f}{self._best_so_far()}', refresh=False)
                bar.update(len(batch.labels) * self.cluster.size)
        learner.end_epoch()
        if self.opt.skip_bad_images:
            self._log_what_others_skipped()
        seconds = time.perf_counter() - start
        if gradient.asscalar() == 0 and not self.progress['zero_gradient']:
            self.progress['zero_gradient'] = True
            self.log.write('zero_gradient', run=run, epoch=epoch)
            tqdm.write(f'{title}: the gradient was zero in every batch; the network learned nothing')
        self.progress['images_seen'] += images
        self.progress['seconds'] += seconds
        return {'loss': total / batches, 'lr': lr, 'seconds': seconds, 'images_per_second': images / seconds}

    def _evaluate(self, learner: Learner, run: int, epoch: int, record: Dict[str, Any], opt: argparse.Namespace,
                  member: Optional[int], finished: Dict[str, List[np.ndarray]]) -> None:
        """Evaluates, logs the epoch, and keeps the model where it is the best so far; nothing but on worker 0."""
        if self.cluster.rank:
            return
        ks = (1, 10, 100, 1000) if opt.dataset == 'SOP' else (1, 2, 4, 8, 16, 32)
        scored: Dict[str, Any] = {}
        for name, loader in self.evaluated.items():
            embeddings, labels = embed(learner.embed, self.interrupts.between(loader), self.ctx)
            outputs = embeddings if isinstance(embeddings, dict) else {'': embeddings}
            if member is not None and epoch:
                finished[name].append(next(iter(outputs.values())))
                outputs = {'': concatenate_members(finished[name])}
            scores = [(output, evaluate(x, labels, ks=ks, with_nmi=not opt.no_nmi, ctx=self.ctx[0], seed=opt.seed))
                      for output, x in outputs.items()]
            if name == 'test':
                scored.update(scores[0][1])
                if len(scores) > 1:
                    scored['outputs'] = {output: dict(metrics) for output, metrics in scores[1:]}
            else:
                scored[name] = dict(scores[0][1])
        self._record(run, epoch, {**record, **scored}, member)
        self.progress['chosen']['last'] = {'epoch': epoch, **scored}
        for selection in self.selections:
            if selection != 'last' and epoch:
                self._choose(selection, learner, run, epoch, scored, member)

    def _choose(self, selection: str, learner: Learner, run: int, epoch: int, scored: Dict[str, Any],
                member: Optional[int]) -> None:
        value = scored['recall@1'] if selection == 'best-on-test' else scored['val']['recall@1']
        best = self.progress['chosen'].get(selection)
        if best is not None and value <= best['value']:
            return
        self.progress['chosen'][selection] = {'epoch': epoch, 'value': value, **scored}
        self.log.write('best', run=run, epoch=epoch, selection=selection, **scored)
        keeps = 'best-on-val' if self.data.val else 'best-on-test'
        if selection == keeps and member is None and self.opt.save_model_prefix:
            save_parameters(learner.net, self._model_path(run, 'best'))

    def _record(self, run: int, epoch: int, record: Dict[str, Any], member: Optional[int]) -> None:
        extra = {} if member is None else {'member': member + 1}
        self.log.write('epoch', run=run, epoch=epoch, **extra, **record)
        metrics = {k: v for k, v in record.items() if k.startswith('recall') or k in ('map@r', 'r_precision', 'nmi')}
        head = f'[run {run}, epoch {epoch}' + (f', member {member + 1}]' if member is not None else ']')
        trained = (f"  loss {record['loss']:.4f}  lr {record['lr']:.3g}  {record['images_per_second']:.0f} images/s"
                   if 'loss' in record else '  before training')
        tqdm.write(f'{head}{trained}  {describe_metrics(metrics)}')

    def _best_so_far(self) -> str:
        best = self.progress['chosen'].get('best-on-test')
        return f", best R@1 {best['recall@1']:.2f}" if best else ''

    def _model_path(self, run: int, kind: str) -> str:
        several = f'-run{run}' if run > 1 else ''  # so that more runs can be added later
        return f'{self.opt.save_model_prefix}{several}-{kind}.params'

    def _keep_member(self, learner: Learner, run: int, member: int, finished: Dict[str, List[np.ndarray]]) -> None:
        """Saves a finished member and its embeddings, so that nothing of it is ever computed again."""
        if self.opt.save_model_prefix:
            save_parameters(learner.net, self._model_path(run, f'member{member + 1:02d}'))
            for name, embeddings in finished.items():
                content = io.BytesIO()  # on a full disk, np.save to a file does not say why it failed
                np.save(content, embeddings[member], allow_pickle=False)
                with atomic_write(self._embeddings_path(run, member, name)) as file:
                    file.write(content.getbuffer())

    def _embeddings_path(self, run: int, member: int, name: str) -> str:
        return self._model_path(run, f'member{member + 1:02d}')[:-len('.params')] + f'-{name}.npy'

    def _recall_member(self, run: int, member: int, opt: argparse.Namespace, ensemble: Ensemble,
                       finished: Dict[str, List[np.ndarray]]) -> None:
        """Takes a finished member's embeddings from the disk; where they are damaged, its saved network makes them."""
        learner = None
        for name, loader in self.evaluated.items():
            try:
                embeddings = np.load(self._embeddings_path(run, member, name), allow_pickle=False)
                if embeddings.ndim != 2 or any(len(embeddings) != len(others) for others in finished[name]):
                    raise ValueError
            except (OSError, ValueError, EOFError):
                if learner is None:
                    learner = Learner(ensemble.member(member), opt, self.ctx)
                    load_parameters(learner.net, self._model_path(run, f'member{member + 1:02d}'), self.ctx)
                embeddings, _ = embed(learner.embed, self.interrupts.between(loader), self.ctx)
            finished[name].append(embeddings)

    def _save(self, learner: Optional[Learner]) -> None:
        """Takes a checkpoint; without a learner, one of a border between members or runs."""
        if self.checkpoint_path:
            self.progress['log_offset'] = self.log.offset
            meta = dict(self.progress, flags=_flags(self.opt), script=self.opt.script)
            checkpoint.save(self.checkpoint_path, meta, learner.arrays() if learner else {})

    def _describe(self, experiment: Experiment) -> None:
        """Writes the log's `config` line, once, as soon as the weights are known."""
        if self.progress['described']:
            return
        self.progress['described'] = True
        train, test = self.data.train, self.data.test
        self.log.write(
            'config', algorithm=self.opt.algorithm_name, script=f'{self.opt.script}.py', dataset=self.opt.dataset,
            model=self.opt.model, flags=_flags(self.opt), seed=self.opt.seed, runs=self.opt.number_of_runs,
            versions=versions(), device=[str(context) for context in self.ctx],
            **({'workers': self.cluster.size} if self.cluster.size > 1 else {}),
            weights=getattr(experiment.net.backbone, 'weights', None), git=git_revision(),
            data={'train_images': len(train), 'train_classes': train.num_classes, 'test_images': len(test),
                  'test_classes': test.num_classes}, selection=self.selections)

    def _end_run(self, run: int, seed: int) -> None:
        chosen = {name: {k: v for k, v in record.items() if k != 'value'}
                  for name, record in self.progress['chosen'].items()}
        result = {'run': run, 'seed': seed, 'seconds': self.progress['seconds'],
                  'images_seen': self.progress['images_seen'], **chosen}
        self.log.write('run_end', **result)
        self.progress['runs'].append(result)
        self.progress.update(run=run + 1, member=0, epoch=None, images_seen=0, seconds=0.0, chosen={})
        self._save(None)

    def _summary(self) -> Dict[str, Any]:
        runs = self.progress['runs']
        summary = {}
        for selection in self.selections:
            names = [n for n, v in runs[0][selection].items() if isinstance(v, float)]
            summary[selection] = {n: t_interval([result[selection][n] for result in runs]) for n in names}
            shown = {n: s for n, s in summary[selection].items() if n in ('recall@1', 'map@r', 'nmi')}
            tqdm.write(f'{selection}, {len(runs)} runs: ' + '  '.join(
                describe_metrics({n: s['mean']}) + ('' if s['ci95'] is None else f" ± {s['ci95']:.2f}")
                for n, s in shown.items()))
        self.log.write('summary', runs=len(runs), **summary)
        if self.opt.logfile:
            tqdm.write(f'log: {self.opt.logfile}')
        if self.opt.save_model_prefix:
            tqdm.write(f'models: {self.opt.save_model_prefix}*.params')
        return {'runs': runs, 'summary': summary}

    def _diverged(self, learner: Learner, run: int, epoch: int, batch: int, lr: float, what: str) -> None:
        largest = learner.largest_gradient()
        self.log.write('diverged', run=run, epoch=epoch, batch=batch, lr=lr, largest_gradient=largest['value'],
                       parameter=largest['parameter'])
        kept = f'; the checkpoint before it is {self.checkpoint_path}' if self.checkpoint_path else ''
        raise TrainingError(f'run {run} diverged: {what} in epoch {epoch}, batch {batch}, at learning rate {lr:g}, '
                            f"largest gradient {largest['value']:g} in {largest['parameter']}{kept}")

    def _how_to_go_on(self) -> str:
        if not self.checkpoint_path or not os.path.exists(self.checkpoint_path):
            return 'interrupted'
        return (f"interrupted after epoch {self.progress['epoch'] or 0} of run {self.progress['run']}: the same "
                f'command with --load-checkpoint goes on from {self.checkpoint_path}')


def run(opt: argparse.Namespace, build: Callable[..., Union[Experiment, Ensemble]]) -> Dict[str, Any]:
    """Trains as the flags say.

    Parameters
    ----------
    opt : Namespace
        The flags, from the script's `parse_args`. `opt.gpus` may be a list of contexts.
    build : callable
        ``build(opt, data, ctx)`` -> Experiment or Ensemble, called afresh for every run, with `opt.seed` the run's.

    Returns
    -------
    dict
        On worker 0 (the only one without --kvstore dist_sync; an empty one on the others):
        ``runs``, one result a run as in the log's `run_end`, and ``summary``, as in the log. Percents.

    Raises
    ------
    UsageError, TrainingError, DatasetError, ModelError, EvaluationError
        With one sentence that says what is wrong.
    """
    return Session(opt, build).run()


def _is_like(value: Any, default: Any) -> bool:
    """May a checkpoint hold `value` where a new run holds `default`? A default of None stands for a count."""
    if default is None:
        return value is None or type(value) is int and value >= 0
    return type(value) is type(default) or isinstance(default, float) and type(value) is int


def _flags(opt: argparse.Namespace) -> Dict[str, Any]:
    flags = {name: value for name, value in vars(opt).items() if name not in ('script', 'algorithm_name')}
    return {name: value if isinstance(value, (type(None), bool, int, float, str)) else str(value)
            for name, value in flags.items()}
