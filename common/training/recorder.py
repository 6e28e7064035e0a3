"""What a run reports: run log, console, the best epoch so far, and the summary over runs."""
from __future__ import annotations

import argparse
import json
from typing import Any, Dict, List, Optional

import mxnet as mx
from tqdm import tqdm

from common.devices import gpu_memory_mb
from common.errors import TrainingError
from common.files import atomic_write
from common.runlog import RunLog, git_revision, versions
from common.stats import METRIC_NAMES, describe_metrics, t_interval
from common.trackers import event_files
from common.training.experiment import Experiment
from common.training.learner import Learner
from common.training.resume import COSTS, ModelFiles, Progress, flags_of
from models.loading import save_parameters


def without_classes(scores: Dict[str, Any]) -> Dict[str, Any]:
    """The totals alone: results by class would make the log long, so they stand in `run_end` only."""
    return {name: value for name, value in scores.items() if name not in ('class_images', 'class_hits')}


class Recorder:
    """Writes what happens to the log and to the console, and keeps the best network.

    Results so far are kept in `progress`, so that a checkpoint holds them. `data` is the data's fingerprint. If there
    are validation classes (`with_val`, from --val-split or --fold), they choose the network that is kept.
    """

    def __init__(self, opt: argparse.Namespace, progress: Progress, files: ModelFiles, data: Dict[str, Any],
                 with_val: bool):
        self.opt, self.progress, self.files, self.data = opt, progress, files, data
        self.selections = [] if opt.validate_only else ['best-on-test']
        self.selections += ['last'] + (['best-on-val'] if with_val else [])
        self.tracker = event_files(opt.tensorboard)
        self.log = RunLog(opt.logfile, progress.id, progress.log_offset, self.tracker)
        if not self.log.offset:
            progress.described = False

    def describe(self, experiment: Experiment, learner: Learner, members: int, workers: int) -> None:
        """Writes the log's `config` line, once, as soon as the weights are known; a tracker is told in each process."""
        write = self.log.repeat if self.progress.described else self.log.write
        first, self.progress.described = not self.progress.described, True
        opt, weights = self.opt, getattr(experiment.net.backbone, 'weights', None)
        if weights and first:
            tqdm.write(f"weights: {weights['taken']}, from {weights['file']}")
        numbers = {name: value for name, value in self.data.items() if name != 'sha256'}
        write(
            'config', algorithm=opt.algorithm_name, script=f'{opt.script}.py', dataset=opt.dataset, model=opt.model,
            flags=flags_of(opt), seed=opt.seed, runs=opt.number_of_runs, versions=versions(),
            device=[str(context) for context in learner.ctx], **({'workers': workers} if workers > 1 else {}),
            weights=weights, git=git_revision(), data=numbers, sampler=type(experiment.sampler).__name__,
            batch_images=getattr(experiment.sampler, 'batch_size', None), batches_per_epoch=len(experiment.sampler),
            members=members, parameters=learner.count_parameters(),
            selection=self.selections)

    def epoch(self, run: int, epoch: int, record: Dict[str, Any], member: Optional[int] = None) -> None:
        """One epoch: what training and evaluation found, in percent and seconds; epoch 0 is before training."""
        extra = {} if member is None else {'member': member + 1}
        self.log.write('epoch', run=run, epoch=epoch, **extra, **record)
        scores = record.get('val', {}) if self.opt.validate_only else record
        metrics = {k: v for k, v in scores.items() if k.startswith('recall') or k in METRIC_NAMES}
        head = f'[run {run}, epoch {epoch}' + (f', member {member + 1}]' if member is not None else ']')
        trained = (f"  loss {record['loss']:.4f}  lr {record['lr']:.3g}  {record['images_per_second']:.0f} images/s"
                   if 'loss' in record else '  before training')
        tqdm.write(f'{head}{trained}  {self._which}{describe_metrics(metrics)}')

    @property
    def _which(self) -> str:
        return 'held-out classes: ' if self.opt.validate_only else ''

    def choose(self, run: int, epoch: int, scores: Dict[str, Any], net=None) -> None:
        """Notes the epoch where it is the best so far, by each selection; saves `net`, if there is one, with it."""
        chosen = self.progress.chosen
        chosen['last'] = {'epoch': epoch, **scores}
        if not epoch:
            return
        for selection in self.selections:
            if selection == 'last':
                continue
            value = scores['recall@1'] if selection == 'best-on-test' else scores['val']['recall@1']
            if selection in chosen and value <= chosen[selection]['value']:
                continue
            chosen[selection] = {'epoch': epoch, 'value': value, **scores}
            self.log.write('best', run=run, epoch=epoch, selection=selection, **without_classes(scores))
            if net is not None and selection == self._deciding:
                self.save_network(net, run, 'best')

    @property
    def _deciding(self) -> str:
        """The selection whose best network is kept."""
        return self.selections[-1 if 'best-on-val' in self.selections else 0]

    def wants_picture(self, epoch: int) -> bool:
        """Is there a tracker, and is this epoch the best so far?"""
        return self.tracker is not None and self.progress.chosen.get(self._deciding, {}).get('epoch') == epoch

    def save_network(self, net, run: int, kind: str) -> None:
        """Saves a network, and beside it, as JSON, what is needed to use it again: script and flags."""
        path = self.files.path(run, kind)
        if path is None:
            return
        save_parameters(net, path)
        with atomic_write(path[:-len('.params')] + '.json', 'w') as file:
            json.dump({'script': self.opt.script, 'algorithm': self.opt.algorithm_name, 'flags': flags_of(self.opt),
                       'data': self.data, 'git': git_revision()}, file, indent=1)
            file.write('\n')

    def best_so_far(self) -> str:
        """For the progress bar."""
        best = self.progress.chosen.get('best-on-val' if self.opt.validate_only else 'best-on-test')
        return f", best R@1 {best['value']:.2f}" if best else ''

    def zero_gradient(self, run: int, epoch: int) -> None:
        """Warns, once, that nothing is learned."""
        if not self.progress.zero_gradient:
            self.progress.zero_gradient = True
            self.log.write('zero_gradient', run=run, epoch=epoch)
            tqdm.write(f'run {run}/{self.opt.number_of_runs}, epoch {epoch}/{self.opt.epochs}: the gradient was zero '
                       'in every batch; the network learned nothing')

    def stopped_early(self, run: int, epoch: int) -> None:
        """Logs and says that --early-stopping ended a run."""
        best = self.progress.chosen.get('best-on-val', {})
        self.log.write('early_stopping', run=run, epoch=epoch, best_epoch=best.get('epoch'), value=best.get('value'),
                       patience=self.opt.early_stopping)
        tqdm.write(f'run {run}/{self.opt.number_of_runs} ended after epoch {epoch}/{self.opt.epochs}: recall@1 on the '
                   f'validation classes has not risen since epoch {best.get("epoch")} (--early-stopping '
                   f'{self.opt.early_stopping})')

    def diverged(self, learner, run: int, epoch: int, batch: int, lr: float, what: str) -> TrainingError:
        """Logs that a run diverged; returns the error to raise."""
        largest = learner.largest_gradient()
        self.log.write('diverged', run=run, epoch=epoch, batch=batch, lr=lr, largest_gradient=largest['value'],
                       parameter=largest['parameter'])
        kept = f'; the checkpoint before it is {self.files.checkpoint}' if self.files.checkpoint else ''
        return TrainingError(f'run {run} diverged: {what} in epoch {epoch}, batch {batch}, at learning rate {lr:g}, '
                             f"largest gradient {largest['value']:g} in {largest['parameter']}{kept}")

    def end_run(self, run: int, seed: int, ctx: List[mx.Context]) -> None:
        """Logs and keeps a run's result."""
        progress = self.progress
        chosen = {name: {k: v for k, v in record.items() if k not in ('value', 'class_images')}
                  for name, record in progress.chosen.items()}
        cost = {name: getattr(progress, name) for name in COSTS}
        result = {'run': run, 'seed': seed, **cost, **gpu_memory_mb(ctx), 'images_seen': progress.images_seen,
                  **chosen}
        images = progress.chosen.get('last', {}).get('class_images')
        if images:                      # the same at every epoch; checkpoints of older versions have none
            result['class_images'] = images
        self.log.write('run_end', **result)
        progress.runs.append(result)

    def summary(self) -> Dict[str, Any]:
        """Logs and prints mean and confidence interval over runs; returns them with the runs' results."""
        runs = self.progress.runs
        summary = {}
        for selection in self.selections:
            scores = [result[selection]['val'] if self.opt.validate_only else result[selection] for result in runs]
            names = [n for n, v in scores[0].items() if isinstance(v, float) and all(n in one for one in scores)]
            summary[selection] = {n: t_interval([one[n] for one in scores]) for n in names}
            if self.opt.validate_only:
                summary[selection] = {'val': summary[selection]}
        self.log.write('summary', runs=len(runs), **summary)
        for selection, metrics in summary.items():
            shown = {n: s for n, s in metrics.get('val', metrics).items() if n in ('recall@1', 'map@r', 'nmi')}
            tqdm.write(f'{selection}, {len(runs)} runs: {self._which}' + '  '.join(
                describe_metrics({n: s['mean']}) + ('' if s['ci95'] is None else f" ± {s['ci95']:.2f}")
                for n, s in shown.items()))
        if self.opt.logfile:
            tqdm.write(f'log: {self.opt.logfile}')
        if self.opt.save_model_prefix:
            tqdm.write(f'models: {self.opt.save_model_prefix}*.params')
        return {'runs': runs, 'summary': summary}

    def close(self) -> None:
        """Closes the log and the event files."""
        self.log.close()
        if self.tracker:
            self.tracker.close()
