"""What one command has open while it trains: data, devices, log, model files and checkpoint."""
from __future__ import annotations

import argparse
import dataclasses
import os
import threading
import time
import zlib
from typing import Dict, List, Optional

import numpy as np
from tqdm import tqdm

from common.devices import describe_contexts, get_contexts, peak_memory_mb
from common.distributed import get_cluster
from common.errors import UsageError
from common.interrupts import Interrupts
from common.training import resume
from common.training.experiment import Experiment, load_data
from common.training.learner import Learner
from common.training.recorder import Recorder
from dataset import ImageSet
from dataset.loader import Loader

# tqdm's own lock is one between processes, for which Python 3.14 starts a process that outlives a killed one.
tqdm.set_lock(threading.RLock())


class Session:
    """All that a command has open, from its start to its end.

    Where several workers train together (`common.distributed`), each has a session, and worker 0 alone evaluates and
    writes.
    """

    def __init__(self, opt: argparse.Namespace):
        self._clock = time.perf_counter()
        self.interrupts = Interrupts()
        self.cluster = get_cluster(opt.kvstore)
        if self.cluster.rank:
            opt = argparse.Namespace(**{**vars(opt), 'logfile': None, 'save_model_prefix': None,
                                        'tensorboard': None})
        self.opt = opt
        self.ctx = get_contexts(opt.gpus)
        if opt.batch_size < len(self.ctx):
            raise UsageError(f'--batch-size {opt.batch_size} is smaller than the number of devices')
        self.data = load_data(opt)
        if opt.early_stopping and self.data.val is None:
            raise UsageError('--early-stopping needs validation classes: give --val-split')
        opt.mirror = self.data.train.mirror     # for the log
        self.fingerprint = self.data.fingerprint()
        self.progress, self.arrays = resume.Progress(), {}
        if opt.load_checkpoint and not self.cluster.rank:
            self.progress, self.arrays = resume.load(opt.load_checkpoint, opt, self.fingerprint)
        self._agree()
        self.skipped: List[Dict[str, str]] = []     # images, by a worker that does not write the log
        self.evaluated: Dict[str, Loader] = {}
        self.recorder: Optional[Recorder] = None
        self.files = resume.ModelFiles(opt.save_model_prefix)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _agree(self) -> None:
        """Makes all workers continue from worker 0's progress, and checks that they have the same flags and data."""
        flags = {name: value for name, value in resume.flags_of(self.opt).items() if name not in resume.MAY_CHANGE}
        self.cluster.require_same({'flags': flags, 'training images': len(self.data.train), 'devices': len(self.ctx),
                                   'labels of the training images': zlib.crc32(self.data.train.labels.tobytes())})
        progress, self.arrays = self.cluster.from_first(dataclasses.asdict(self.progress), self.arrays)
        self.progress = resume.Progress(**progress)

    def _open(self) -> None:
        tqdm.write(f'training on {describe_contexts(self.ctx, self.opt.gpus)}')
        aside = None if self.opt.load_checkpoint else self.files.put_aside()
        if aside:
            tqdm.write(f'the models and the checkpoint of an earlier run are now in {aside}')
        self.recorder = Recorder(self.opt, self.progress, self.files, self.fingerprint, self.data.val is not None)
        if self.progress.log_offset is None:
            self.save(None)     # before the first line of the log: killed from here on, the experiment can be resumed
        if self.cluster.rank:
            return
        if not self.opt.validate_only:
            self.evaluated['test'] = self.loader(self.data.test, None, self.opt.seed)
        if self.data.val:
            self.evaluated['val'] = self.loader(self.data.val, None, self.opt.seed)

    def __enter__(self) -> Session:
        self.interrupts.__enter__()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self.interrupts.__exit__(kind, error, traceback)
        self.close()
        if isinstance(error, KeyboardInterrupt):
            raise type(error)(self._how_to_go_on()) from None

    def close(self) -> None:
        """Ends the loaders' threads and gives up the locks."""
        for loader in self.evaluated.values():
            loader.close()
        if self.recorder:
            self.recorder.close()
        self.files.close()

    def loader(self, images: ImageSet, sampler, seed: int) -> Loader:
        """Batches of `images`: augmented and in the sampler's order, or, without a sampler, as they are for a test."""
        opt, train = self.opt, sampler is not None
        return Loader(images, sampler, train=train, image_size=opt.image_size, resize=opt.resize,
                      batch_size=None if train else opt.batch_size, use_crops=opt.use_crops, seed=seed,
                      num_workers=opt.num_workers, cache=opt.cache, skip_bad_images=opt.skip_bad_images,
                      on_bad=self._skip, min_scale=opt.min_scale, max_aspect=opt.max_aspect)

    def _skip(self, path: str, reason: str) -> None:
        if self.cluster.rank:
            self.skipped.append({'path': path, 'reason': reason})
        else:
            self.recorder.log.write('skipped_image', path=path, reason=reason)

    def log_skipped_images(self) -> None:
        """Logs what other workers left out (--skip-bad-images)."""
        if self.opt.skip_bad_images:
            for record in self.cluster.to_first(self.skipped):
                self.recorder.log.write('skipped_image', **record)
            self.skipped.clear()

    def describe(self, experiment: Experiment, learner: Learner, members: int) -> None:
        """Writes the log's `config` line, if it has none yet."""
        self.recorder.describe(experiment, learner, members, self.cluster.size)

    def save(self, learner: Optional[Learner]) -> None:
        """Takes a checkpoint; without a learner, one of a border between members or runs."""
        self._save(learner.arrays() if learner else {})

    def _save(self, arrays: Dict[str, np.ndarray]) -> None:
        self._count_costs()
        if self.files.checkpoint:
            self.progress.log_offset = self.recorder.log.offset
            resume.save(self.files.checkpoint, self.progress, self.opt, self.fingerprint, arrays)

    def _count_costs(self) -> None:
        """Adds the time since the last call to the run's, and notes the memory."""
        now = time.perf_counter()
        self.progress.total_seconds += now - self._clock
        self.progress.peak_memory_mb = max(self.progress.peak_memory_mb, peak_memory_mb())
        self._clock = now

    def end_run(self, run: int, seed: int, arrays: Dict[str, np.ndarray]) -> None:
        """Notes a run's result; `arrays`, its network's, stay in the checkpoint, so that it can get more epochs."""
        self._count_costs()
        before = {**dataclasses.asdict(self.progress), 'log_offset': self.recorder.log.offset}
        self.recorder.end_run(run, seed, self.ctx)
        self.progress.start_next_run()
        self.progress.finished = {name: value for name, value in before.items() if name != 'finished'} if arrays else {}
        self._save(arrays)
        self.progress.finished = {}

    def _how_to_go_on(self) -> str:
        path = self.files.checkpoint
        if not path or not os.path.exists(path):
            return 'interrupted'
        return (f'interrupted after epoch {self.progress.epoch or 0} of run {self.progress.run}: the same command with '
                f'--load-checkpoint goes on from {path}')
