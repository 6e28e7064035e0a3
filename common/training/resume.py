"""What a command leaves on disk beside its log: how far it is, and its models."""
from __future__ import annotations

import argparse
import dataclasses
import glob
import os
import re
import uuid
from typing import Any, Dict, IO, List, Optional, Tuple

import numpy as np

from common.errors import TrainingError, UsageError
from common.files import lock
from common.training import checkpoint

#: Flags that may change when a run is resumed: they say where things are and how fast, not what is computed.
MAY_CHANGE = ('load_checkpoint', 'number_of_runs', 'num_workers', 'gpus', 'logfile', 'log_postfix', 'save_model_prefix',
              'results_dir', 'tensorboard', 'data_path', 'cache', 'kvstore')

#: What a run cost, in `run_end`: seconds of training, of evaluation, and of all; MB.
COSTS = ('seconds', 'evaluation_seconds', 'total_seconds', 'peak_memory_mb')

#: What `parse_args` adds to the flags.
NO_FLAGS = ('script', 'algorithm_name', 'given_flags')


@dataclasses.dataclass
class Progress:
    """How far a command is. Every checkpoint holds it.

    Parameters
    ----------
    id : str
        Of the experiment, in every line of its log.
    run, member : int
        The run under way, from 1, and the member of its ensemble, from 0.
    epoch : int or None
        Epochs that its network has done; None before it was evaluated for the first time.
    images_seen, seconds : of the run's training so far.
    evaluation_seconds, total_seconds : of its evaluations, and of everything: setting up and saving too.
    peak_memory_mb : of the process so far.
    chosen : dict
        Selection (best-on-test, last, ...) -> its epoch and metrics so far.
    runs : list
        Results of the runs that are done.
    log_offset : int or None
        Length of the log; None before its first line.
    described, zero_gradient : whether the log has its `config` line, and the note that nothing is learned.
    finished : dict
        State of the last finished run before its end was noted, from where more --epochs go on; empty where none can.
    """
    id: str = dataclasses.field(default_factory=lambda: uuid.uuid4().hex)
    run: int = 1
    member: int = 0
    epoch: Optional[int] = None
    images_seen: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    total_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    chosen: Dict[str, Any] = dataclasses.field(default_factory=dict)
    runs: List[Dict[str, Any]] = dataclasses.field(default_factory=list)
    log_offset: Optional[int] = None
    described: bool = False
    zero_gradient: bool = False
    finished: Dict[str, Any] = dataclasses.field(default_factory=dict)

    def start_next_run(self) -> None:
        """Resets everything for the next run."""
        self.run, self.member, self.epoch = self.run + 1, 0, None
        self.images_seen, self.chosen = 0, {}
        self.seconds = self.evaluation_seconds = self.total_seconds = 0.0


def flags_of(opt: argparse.Namespace) -> Dict[str, Any]:
    """All flags, as types that JSON has."""
    flags = {name: value for name, value in vars(opt).items() if name not in NO_FLAGS}
    return {name: value if isinstance(value, (type(None), bool, int, float, str)) else str(value)
            for name, value in flags.items()}


def save(path: str, progress: Progress, opt: argparse.Namespace, data: Dict[str, Any],
         arrays: Dict[str, np.ndarray]) -> None:
    """Takes a checkpoint; without `arrays` it is one of a border between members or runs. `data`: the fingerprint."""
    meta = {**dataclasses.asdict(progress), 'flags': flags_of(opt), 'script': opt.script, 'data': data}
    checkpoint.save(path, meta, arrays)


def load(path: str, opt: argparse.Namespace, data: Dict[str, Any]) -> Tuple[Progress, Dict[str, np.ndarray]]:
    """Where a checkpoint stands, and the arrays of its network.

    Raises
    ------
    TrainingError
        If it is no checkpoint of such a run.
    UsageError
        If flags or data are not those that it was made with.
    """
    meta, arrays = checkpoint.load(path)
    for name, value in (('finished', {}), *((name, 0.0) for name in COSTS[1:])):
        meta.setdefault(name, value)    # older checkpoints have none
    start = dataclasses.asdict(Progress())
    wrong = [name for name, default in {**start, 'flags': {}}.items() if not _is_like(meta.get(name, ...), default)]
    if wrong:
        raise TrainingError(f'{path} is not the checkpoint of a training run: its {wrong[0]!r} is missing or wrong')
    if meta['epoch'] is not None and not arrays:
        raise TrainingError(f'{path} does not fit this network: it is of epoch {meta["epoch"]}, and has no arrays')
    if meta.get('script', opt.script) != opt.script:
        raise TrainingError(f"{path} was made by {meta['script']}.py")
    flags = flags_of(opt)
    for name, value in meta['flags'].items():
        if name == 'epochs' and type(value) is int and value < opt.epochs:
            if opt.schedule == 'cosine':
                raise UsageError(f'--epochs {opt.epochs}: {path} was made with {value}, and --schedule cosine depends '
                                 'on it')
            _extend(meta, path, opt)
        elif name not in MAY_CHANGE and flags.get(name, value) != value:
            flag = '--' + name.replace('_', '-')
            raise UsageError(
                f'{flag} is {flags[name]!r}, but {path} was made with {value!r}. A run can go on with more --epochs or '
                f'--number-of-runs, other paths, --gpus and --num-workers; to train its weights further with other '
                f'flags, start anew with --pretrained FILE.params')
    there = meta.get('data')
    if isinstance(there, dict) and there != data:
        raise UsageError(f'--data-path: {path} was made with {_in_words(there)}; here are {_in_words(data)}')
    if meta['epoch'] is None:
        arrays = {}                     # those are of the run that has ended
    return Progress(**{name: meta[name] for name in start}), arrays


def _extend(meta: Dict[str, Any], path: str, opt: argparse.Namespace) -> None:
    """Restores the state before the last run was ended, so that it can get more epochs."""
    if len(meta['runs']) > (1 if meta['finished'] else 0) or meta['member']:
        raise UsageError(f'--epochs {opt.epochs}: {path} was made with {meta["flags"]["epochs"]}, and holds '
                         'networks that are done: only a single run of a single network can get more epochs')
    if meta['finished']:
        meta.update(dict.fromkeys(COSTS[1:], 0.0))      # older ones do not hold them
        meta.update(meta['finished'], finished={})
    meta['described'] = False           # the log gets a line with the new flags


def _in_words(data: Dict[str, Any]) -> str:
    return (f"{data.get('train_images')} images of {data.get('train_classes')} classes to train and "
            f"{data.get('test_images')} of {data.get('test_classes')} to test (names and labels: {data.get('sha256')})")


def _is_like(value: Any, default: Any) -> bool:
    """Has `value`, from a checkpoint, the type of a new run's `default`? A default of None stands for a count."""
    if default is None:
        return value is None or type(value) is int and value >= 0
    return type(value) is type(default) or isinstance(default, float) and type(value) is int


class ModelFiles:
    """The files ``PREFIX-best.params``, ``PREFIX-last.params``, ... of one command, locked while it runs.

    Parameters
    ----------
    prefix : str or None
        --save-model-prefix; None: nothing is saved.
    """

    _OURS = re.compile(r'(-run\d+)?(-(best|last|member\d+(-(test|val))?)\.(params|json|npy)|\.ckpt\.npz)')

    def __init__(self, prefix: Optional[str]):
        self.prefix = prefix
        self.checkpoint = None if prefix is None else prefix + '.ckpt.npz'
        self._lock: Optional[IO] = None
        if prefix is None:
            return
        os.makedirs(os.path.dirname(prefix) or '.', exist_ok=True)
        file = open(prefix + '.lock', 'ab')  # noqa: SIM115  held, and locked, until close()
        if not lock(file):
            file.close()
            raise TrainingError(f'{prefix}.*: another run saves its models there: choose another --save-model-prefix')
        self._lock = file
        for unfinished in glob.glob(glob.escape(prefix) + '*.tmp-*'):
            if self._OURS.fullmatch(re.sub(r'\.tmp-\d+$', '', unfinished)[len(prefix):]):
                os.unlink(unfinished)   # of a killed process: we hold the lock

    def put_aside(self) -> Optional[str]:
        """Moves all files of an earlier run into one folder; returns it, or None where there are no such files."""
        if self.prefix is None:
            return None
        found = [path for path in sorted(glob.glob(glob.escape(self.prefix) + '*'))
                 if self._OURS.fullmatch(path[len(self.prefix):])]
        if not found:
            return None
        number = 1
        while os.path.exists(f'{self.prefix}.previous-{number}'):
            number += 1
        folder = f'{self.prefix}.previous-{number}'
        os.mkdir(folder)
        # The checkpoint goes first: without it nothing here can be taken for the new run's.
        for path in sorted(found, key=lambda path: path != self.checkpoint):
            os.replace(path, os.path.join(folder, os.path.basename(path)))
        return folder

    def path(self, run: int, kind: str) -> Optional[str]:
        """``PREFIX-KIND.params`` of run 1, ``PREFIX-run2-KIND.params`` of run 2: more runs can be added later."""
        if self.prefix is None:
            return None
        return f"{self.prefix}{f'-run{run}' if run > 1 else ''}-{kind}.params"

    def close(self) -> None:
        """Gives up the lock."""
        if self._lock:
            os.unlink(self._lock.name)
            self._lock.close()
            self._lock = None
