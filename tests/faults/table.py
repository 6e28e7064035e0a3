"""Faults provoked for real, and the table in docs/faults.md of what one sees then.

    python -m tests.faults.table                      provoke all
    python -m tests.faults.table --update-readme      provoke all, write the table between the markers in docs/faults.md
    python -m tests.faults.table --check-readme       exit status 1 if it is not the table of these cases

Every case is a command in its own folder. It runs as the shell would run it, but in a child of this process, because
the imports are done here. Checked are its exit status, its one line of output, and the files that must be unchanged. In
the test suite, tests/faults/test_table.py does the same. A full disk is a small tmpfs in a mount namespace. Where the
system allows none, these cases are left out, and their names are printed.
"""
from __future__ import annotations

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import re
import resource
import runpy
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
import warnings
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple

import numpy as np

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PAGE = os.path.join(ROOT, 'docs', 'faults.md')
BEGIN, END = '<!-- faults:begin -->', '<!-- faults:end -->'
DISK_SIZE = 24              # MB
TIMEOUT = 120               # seconds a command
NAME = 'train_margin_miniCUB_convnet'
CHECKPOINT, LOG = f'results/models/{NAME}.ckpt.npz', f'results/logs/{NAME}.jsonl'
BEST = f'trained/models/{NAME}-best.params'
DATA = ['--dataset', 'miniCUB', '--data-path', 'tree', '--image-size', '16', '--resize', '18', '--embed-dim', '8',
        '--batch-size', '8', '--batch-k', '2', '--num-workers', '1']
TRAIN = ['train_margin.py', *DATA, '--model', 'convnet', '--batches-per-epoch', '3', '--epochs', '3', '--lr', '0.003',
         '--gpus', '-2', '--no-nmi']
RESUME = [*TRAIN, '--load-checkpoint']
EVALUATE = ['-m', 'common.evaluation', '--gpus', '-2', '--no-nmi', '--ks', '1']


@dataclasses.dataclass
class Case:
    """One fault.

    Parameters
    ----------
    name : str
        For the test's name.
    wrong : str
        What goes wrong, as the page says it; cases that share it share a line of the table.
    sees : str
        The whole line on stderr, with ... for what differs from machine to machine; where the status is 0, a line on
        stdout. Empty: nothing is said.
    status : int
        Exit status; negative: the signal that ended the process.
    kept : str
        What is kept, as the page says it.
    words : list of str
        The command: a script or ``-m MODULE``, and its arguments.
    spoil : callable, optional
        Called in the case's folder before the command.
    intact : list of str
        Files that must be the same bytes afterwards.
    after : callable, optional
        Called in the case's folder afterwards; asserts more.
    disk : int, optional
        Run with ``disk`` being a disk on which so many KB are free.
    file_limit : int, optional
        No file may become larger, in bytes.
    held : str, optional
        A file that another process has locked meanwhile.
    signal_at : (int, int), optional
        A signal, and after how many further lines of the log to send it.
    stdout : str
        Where what is printed goes.
    within : callable, optional
        Called in the process, before the command.
    """

    name: str
    wrong: str
    sees: str
    status: int
    kept: str
    words: List[str]
    spoil: Optional[Callable[[], None]] = None
    intact: Tuple[str, ...] = ()
    after: Optional[Callable[[], None]] = None
    disk: Optional[int] = None
    file_limit: Optional[int] = None
    held: Optional[str] = None
    signal_at: Optional[Tuple[int, int]] = None
    stdout: str = 'stdout'
    within: Optional[Callable[[], None]] = None


# ---------------------------------------------------------------------------------------------------------------------
# Damage

def cut(path: str, fraction: float = 0.7) -> Callable[[], None]:
    """Cuts off the end of a file."""
    return lambda: os.truncate(path, int(os.path.getsize(path) * fraction))


def flip(path: str, fraction: float = 0.5) -> Callable[[], None]:
    """Flips a bit of a file."""
    def spoil() -> None:
        with open(path, 'r+b') as file:
            file.seek(int(os.path.getsize(path) * fraction))
            byte = file.read(1)[0]
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 16]))
    return spoil


def write(path: str, content: bytes) -> Callable[[], None]:
    """Replaces a file."""
    def spoil() -> None:
        os.makedirs(os.path.dirname(path) or '.', exist_ok=True)
        with open(path, 'wb') as file:
            file.write(content)
    return spoil


def some_embeddings(last: float = 1.0) -> None:
    """An embeddings file."""
    embeddings = np.ones((4, 2), np.float32)
    embeddings[3, 1] = last
    np.savez('e.npz', embeddings=embeddings, labels=np.array([0, 0, 1, 1]))


def some_nan() -> None:
    """Makes a value of the saved weights NaN; the checksum is right."""
    import mxnet as mx
    arrays = mx.nd.load(BEST)
    arrays[sorted(arrays)[0]][:] = np.nan
    mx.nd.save(BEST, arrays)


def flip_cache() -> None:
    """Builds the image caches of both sets, and damages them."""
    assert run_command([*TRAIN, '--cache', 'cache', '--epochs', '1', *ELSEWHERE]) == 0
    for name in os.listdir('cache'):
        if name.endswith('.u8'):
            flip(os.path.join('cache', name))()


def cut_off_lists() -> None:
    """The lists of CUB, cut off."""
    write('CUB_200_2011/images.txt', b'1 001.Bird/a.jpg\n2 001.Bird/b.jpg\n3\n')()
    write('CUB_200_2011/image_class_labels.txt', b'1 1\n2 1\n3 1\n')()


def large_archive() -> None:
    """An archive with more in it than fits."""
    with tarfile.open('CUB.tgz', 'w:gz') as tar:
        for number in range(8):
            info = tarfile.TarInfo(f'CUB_200_2011/images/001.Bird/{number}.jpg')
            info.size = 20000
            tar.addfile(info, io.BytesIO(np.random.RandomState(number).bytes(info.size)))


def published() -> None:
    """Gives every file the MD5 of the published CUB."""
    class MD5:
        def update(self, block: bytes) -> None:
            pass

        def hexdigest(self) -> str:
            return '97eceeb196236b17998738112f37df78'

    hashlib.new = lambda name: MD5()


# ---------------------------------------------------------------------------------------------------------------------
# What is kept

def resumes() -> None:
    """The same command with --load-checkpoint ends well."""
    assert run_command(RESUME) == 0
    assert events(LOG)[-1] == 'summary'


def events(path: str) -> List[str]:
    """The events of a log, in order."""
    with open(path, encoding='utf-8') as file:
        return [json.loads(line)['event'] for line in file]


def logged(event: str, script: str = 'train_margin') -> Callable[[], None]:
    """The log of the run has this event, once."""
    def after() -> None:
        assert events(f'other/logs/{script}_miniCUB_convnet.jsonl').count(event) == 1
    return after


def loadable(path: str) -> Callable[[], None]:
    """The checkpoint can be loaded."""
    from common.training import checkpoint
    return lambda: checkpoint.load(path)


def nothing_in(folder: str, *but: str) -> Callable[[], None]:
    """Nothing is left in a folder except locks."""
    def after() -> None:
        found = [os.path.join(where, name) for where, _, names in os.walk(folder) for name in names
                 if name not in ('lock', 'filler', *but) and not name.endswith('.lock')]
        assert not found, f'left behind: {found}'
        assert not any(os.path.getsize(os.path.join(folder, name)) for name in but)
    return after


def not_run() -> None:
    """The code in the pickle was not run."""
    assert not os.path.exists('ran')


# ---------------------------------------------------------------------------------------------------------------------
# The cases

FULL = 'No space left on device'
NOT_WHOLE = f'train_margin.py: {CHECKPOINT} is not a whole checkpoint of this program (.ckpt.npz, format 1)'
DAMAGED_CHECKPOINT = 'the checkpoint is cut off, empty, or a bit of it has flipped'
DAMAGED_PARAMS = 'weights (`.params`) are cut off, or a bit has flipped'
BAD_CHECKSUM = (f'train_margin.py: {BEST}: expected weights (.params or .safetensors), but its checksum does not '
                'match: it is cut off, or bits were flipped')
DAMAGED_EMBEDDINGS = 'embeddings (`.npz`) are cut off, or a bit has flipped'
NO_NPZ = 'common.evaluation: e.npz: it is not an .npz file, or a damaged one'
BEFORE = 'the checkpoint before'
ELSEWHERE = ['--results-dir', 'other']

CASES = [
    Case('killed', 'killed at any moment (SIGKILL, out of memory, power)', '', -9,
         'all up to the last epoch: `--load-checkpoint` goes on, and ends with the same bits', RESUME,
         signal_at=(signal.SIGKILL, 2), after=resumes),
    Case('ctrl-c', 'Ctrl-C', 'train_margin.py: interrupted after epoch ... of run 1: the same command with '
         f'--load-checkpoint goes on from {CHECKPOINT}', 130, 'the same', RESUME, signal_at=(signal.SIGINT, 2),
         after=resumes),
    Case('sigterm', 'SIGTERM (SLURM, `docker stop`, preemption)', 'train_margin.py: interrupted after epoch ... of run '
         f'1: the same command with --load-checkpoint goes on from {CHECKPOINT}', 143, 'the same', RESUME,
         signal_at=(signal.SIGTERM, 2), after=resumes),
    Case('new-start', 'a run starts anew where an earlier one has saved its models',
         f'the models and the checkpoint of an earlier run are now in results/models/{NAME}.previous-1', 0,
         'all of the earlier run', [word for word in RESUME if word != '--load-checkpoint'],
         after=lambda: loadable(f'results/models/{NAME}.previous-1/{NAME}.ckpt.npz')()),
    Case('disk-checkpoint', 'the disk is full: checkpoint', f'train_margin.py: {FULL}: disk/run.ckpt.npz', 1, BEFORE,
         [*RESUME, '--save-model-prefix', 'disk/run'], lambda: shutil.copy(CHECKPOINT, 'disk/run.ckpt.npz'),
         disk=3000, intact=('disk/run.ckpt.npz',)),
    Case('disk-params', 'the disk is full: saved network', f'train_margin.py: {FULL}: disk/run-best.params', 1, BEFORE,
         [*TRAIN, *ELSEWHERE, '--save-model-prefix', 'disk/run'], disk=2500, after=loadable('disk/run.ckpt.npz')),
    Case('disk-log', 'the disk is full: run log', f'train_margin.py: {FULL}: disk/run.jsonl', 1,
         'all whole lines, and the checkpoint', [*RESUME, '--logfile', 'disk/run.jsonl'], disk=0, intact=(CHECKPOINT,),
         after=nothing_in('disk', 'run.jsonl')),
    Case('disk-stdout', 'the disk is full: what is printed', f'train_margin.py: {FULL}: standard output', 1, BEFORE,
         RESUME, stdout='/dev/full', after=resumes),
    Case('limit-checkpoint', 'a limit of the file size (`ulimit -f`)', f'train_margin.py: File too large: {CHECKPOINT}',
         1, BEFORE, RESUME, file_limit=2 * 10 ** 6, intact=(CHECKPOINT,), after=resumes),
    Case('disk-cache', 'the disk is full: image cache', 'train_margin.py: disk: the image cache (--cache) needs ... MB '
         'for 32 images of 18 x 18 pixels, and ... MB are free', 1, 'no half cache',
         [*TRAIN, *ELSEWHERE, '--cache', 'disk'], disk=8, after=nothing_in('disk')),
    Case('limit-cache', 'a limit of the file size: image cache', 'train_margin.py: cache: the image cache (--cache) '
         'cannot be written or read: File too large', 1, 'no half cache', [*TRAIN, *ELSEWHERE, '--cache', 'cache'],
         file_limit=20000, after=nothing_in('cache')),
    Case('disk-unpack', 'the disk is full: unpacking a dataset',
         f'dataset.download: {FULL}: disk/.download-CUB/tree/...', 1,
         'the archive; no half dataset',
         ['-m', 'dataset.download', 'CUB', '--data-path', 'disk', '--archive', 'CUB.tgz'], large_archive, disk=40,
         intact=('CUB.tgz',), after=nothing_in('disk'), within=published),
    Case('disk-embeddings', 'the disk is full: embeddings', f'common.evaluation: {FULL}: disk/e.npz', 1,
         'the file before', [*EVALUATE, '--model', BEST, '--output', 'disk/e'],
         disk=0, after=nothing_in('disk')),
    Case('disk-plots', 'the disk is full: figures', f'results.plots: {FULL}: disk/....png', 1, 'the figures before',
         ['-m', 'results.plots', 'trained/logs', '--out', 'disk'], disk=0, after=nothing_in('disk')),
    Case('disk-report', 'the disk is full: report', f'results.report: {FULL}: disk/r.html', 1, 'the report before',
         ['-m', 'results.report', 'trained/logs', '--out', 'disk/r.html'], disk=8, after=nothing_in('disk')),
    Case('two-runs', 'two runs save the same models', f'train_margin.py: results/models/{NAME}.*: another run saves '
         'its models there: choose another --save-model-prefix', 1, 'the first run is not disturbed', TRAIN,
         held=f'results/models/{NAME}.lock', intact=(CHECKPOINT, LOG)),
    Case('two-logs', 'two runs write the same log', f'train_margin.py: {LOG} is being written by another run: choose '
         'another --logfile or --log-postfix', 1, 'the first run is not disturbed',
         [*TRAIN, '--save-model-prefix', 'x'], held=LOG, intact=(CHECKPOINT, LOG)),
    Case('checkpoint-cut', DAMAGED_CHECKPOINT, NOT_WHOLE, 1, 'log and models', RESUME, cut(CHECKPOINT),
         intact=(CHECKPOINT, LOG)),
    Case('checkpoint-flipped', DAMAGED_CHECKPOINT, NOT_WHOLE, 1, 'log and models', RESUME, flip(CHECKPOINT),
         intact=(CHECKPOINT, LOG)),
    Case('checkpoint-empty', DAMAGED_CHECKPOINT, NOT_WHOLE, 1, 'log and models', RESUME, cut(CHECKPOINT, 0),
         intact=(CHECKPOINT, LOG)),
    Case('checkpoint-pickle', 'the checkpoint is a pickle with code in it', NOT_WHOLE, 1, 'the code is not run', RESUME,
         write(CHECKPOINT, b"cposix\nmkdir\n(S'ran'\ntR."), intact=(CHECKPOINT, LOG), after=not_run),
    Case('checkpoint-flags', 'resumed with other flags', f'train_margin.py: --margin is 0.3, but {CHECKPOINT} was made '
         'with 0.2. A run can go on with more --epochs or --number-of-runs, other paths, --gpus and --num-workers; to '
         'train its weights further with other flags, start anew with --pretrained FILE.params', 2, 'log and models',
         [*RESUME, '--margin', '0.3'], intact=(CHECKPOINT, LOG)),
    Case('checkpoint-data', 'resumed on other images', f'train_margin.py: --data-path: {CHECKPOINT} was made with ... '
         'images of ... classes to train and ... of ... to test (names and labels: ...); here are ... images of ... '
         'classes to train and ... of ... to test (names and labels: ...)', 2, 'log and models', RESUME,
         lambda: os.rename('tree/000.class/0.png', 'tree/000.class/x.png'), intact=(CHECKPOINT, LOG)),
    Case('checkpoint-script', 'resumed by another script', f'train_liftedstruct.py: {CHECKPOINT} was made by '
         'train_margin.py', 1, 'log and models',
         ['train_liftedstruct.py', *TRAIN[1:], '--load-checkpoint', CHECKPOINT, *ELSEWHERE], intact=(CHECKPOINT, LOG)),
    Case('params-cut', DAMAGED_PARAMS, BAD_CHECKSUM, 1, '', [*TRAIN, *ELSEWHERE, '--pretrained', BEST], cut(BEST)),
    Case('params-flipped', DAMAGED_PARAMS, BAD_CHECKSUM, 1, '', [*TRAIN, *ELSEWHERE, '--pretrained', BEST], flip(BEST)),
    Case('params-empty', 'weights are empty', f'train_margin.py: {BEST}: expected weights (.params or .safetensors), '
         'but it is empty', 1, '', [*TRAIN, *ELSEWHERE, '--pretrained', BEST], cut(BEST, 0)),
    Case('params-other', 'weights are of another network', f'train_margin.py: {BEST}: expected weights of resnet18_v2, '
         'but it has no ...', 1, '', [*TRAIN, *ELSEWHERE, '--model', 'resnet18_v2', '--pretrained', BEST]),
    Case('params-nan', 'weights are of a network that diverged', f'train_margin.py: {BEST}: expected weights of '
         'convnet, but ... has values that are not finite', 1, '',
         [*TRAIN, *ELSEWHERE, '--pretrained', BEST], some_nan),
    Case('cache-flipped', 'a bit of the image cache has flipped', 'train_margin.py: cache/pixels-....u8: the image '
         'cache is damaged (wrong checksum of image ...): delete this file, and it will be built again', 1,
         'the images', [*TRAIN, '--results-dir', 'third', '--cache', 'cache'], flip_cache),
    Case('embeddings-cut', DAMAGED_EMBEDDINGS, NO_NPZ, 1, '', [*EVALUATE, '--embeddings', 'e.npz'],
         lambda: (some_embeddings(), cut('e.npz')())),
    Case('embeddings-flipped', DAMAGED_EMBEDDINGS, NO_NPZ, 1, '', [*EVALUATE, '--embeddings', 'e.npz'],
         lambda: (some_embeddings(), flip('e.npz', 0.2)())),
    Case('embeddings-nan', 'an embedding is not a number', 'common.evaluation: e.npz: the embeddings have NaN or '
         'infinite values in 1 of 4 rows (the first is row 3)', 1, '',
         [*EVALUATE, '--embeddings', 'e.npz'], lambda: some_embeddings(np.nan)),
    Case('image', 'an image cannot be read', 'train_margin.py: tree/000.class/3.png: it is empty', 1, BEFORE,
         [*TRAIN, *ELSEWHERE], cut('tree/000.class/3.png', 0), after=loadable(f'other/models/{NAME}.ckpt.npz')),
    Case('image-skipped', 'the same, with `--skip-bad-images 1`', '', 0, 'the run goes on; the log names the image',
         [*TRAIN, *ELSEWHERE, '--skip-bad-images', '1'], cut('tree/000.class/3.png', 0), after=logged('skipped_image')),
    Case('diverged', 'the loss becomes infinite or no number', 'train_margin.py: run 1 diverged: a loss of ... in '
         'epoch ..., batch ..., at learning rate 1e+30, largest gradient ... in ...; the checkpoint before it is '
         f'other/models/{NAME}.ckpt.npz', 1, 'the last good checkpoint; the log says `diverged`',
         [*TRAIN, *ELSEWHERE, '--optimizer', 'sgd', '--lr', '1e30'],
         after=lambda: (logged('diverged')(), loadable(f'other/models/{NAME}.ckpt.npz')())),
    Case('zero-gradient', 'gradients are zero for a whole epoch', 'run 1/1, epoch ...: the gradient was zero in every '
         'batch; the network learned nothing', 0, 'the run goes on; said once, and in the log',
         ['train_clusterloss.py', *TRAIN[1:], *ELSEWHERE, '--gamma', '1e-6'],
         after=logged('zero_gradient', 'train_clusterloss')),
    Case('list-missing', 'a dataset is not where it should be', 'train_margin.py: CUB: neither tree nor its folder '
         'CUB_200_2011 holds images.txt (--data-path must name the folder of the unpacked dataset).', 1, '',
         [*TRAIN, '--dataset', 'CUB', *ELSEWHERE]),
    Case('list-cut', "a dataset's list is cut off", 'train_margin.py: ./CUB_200_2011/images.txt: line 3 is not of the '
         'form "integer text".', 1, '', [*TRAIN, '--dataset', 'CUB', '--data-path', '.', *ELSEWHERE], cut_off_lists),
    Case('archive-cut', 'a downloaded archive is cut off', 'dataset.download: mine.tgz has the MD5 ..., not '
         'that of CUB_200_2011.tgz, ...: it is damaged or another file.', 1, 'the archive; no half dataset',
         ['-m', 'dataset.download', 'CUB', '--data-path', 'data', '--archive', 'mine.tgz'],
         write('mine.tgz', b'\x1f\x8b' + bytes(100)), intact=('mine.tgz',), after=nothing_in('data')),
    Case('flag', 'a flag makes no sense', "train_margin.py: argument --epochs: '0' is not a whole number from 1 (see "
         '--help)', 2, '', [*TRAIN, '--epochs', '0']),
    Case('log-cut', 'a run log is cut off', '', 0, 'all whole lines are read',
         ['-m', 'results.plots', 'trained/logs', '--out', 'other', '--dpi', '50'],
         cut(f'trained/logs/{NAME}.jsonl', 0.95), after=lambda: os.listdir('other')),
    Case('log-rubbish', 'a run log holds no run', 'results.plots: x.jsonl: no run log (neither JSON lines nor the text '
         'of a training script)', 1, 'the figures before', ['-m', 'results.plots', 'x.jsonl', '--out', 'other'],
         write('x.jsonl', b'{"event": "epoch"')),
    Case('experiments', '`experiments.yaml` has a mistake', "results.reproduce: e.yaml, mine: there is no algorithm "
         "'magrin' (there are: ...)", 2, '', ['-m', 'results.reproduce', '--file', 'e.yaml', '--list'],
         write('e.yaml', b'experiments:\n  mine:\n    algorithms: [magrin]\n')),
]


# ---------------------------------------------------------------------------------------------------------------------
# Running one

def run_command(words: List[str], case: Optional[Case] = None, stdout: str = 'stdout') -> int:
    """Runs a command as the shell would, in the current folder. Returns its exit status. Its output goes to files.

    It is a child of this process, because importing MXNet again would take most of the time.
    """
    lines_before = count_lines(LOG)
    child = os.fork()
    if not child:
        status = 1
        try:
            for name, number in ((stdout, 1), ('stderr', 2)):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666), number)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if case and case.file_limit:
                resource.setrlimit(resource.RLIMIT_FSIZE, (case.file_limit, case.file_limit))
            if case and case.within:
                case.within()
            status = as_main(words)
        finally:
            os._exit(status)
    deadline, pending = time.time() + TIMEOUT, case.signal_at if case else None
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return -(status & 0x7f) if status & 0x7f else status >> 8
        if pending and count_lines(LOG) >= lines_before + pending[1]:
            os.kill(child, pending[0])
            pending = None
        if time.time() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f'{words}: not over after {TIMEOUT} s')
        time.sleep(0.005)


def prepare() -> None:
    """Imports once what takes long to import."""
    sys.path.insert(0, ROOT)
    import matplotlib.figure  # noqa: F401
    import requests  # noqa: F401

    import common.evaluation.__main__  # noqa: F401
    warnings.filterwarnings('ignore', category=RuntimeWarning, module='runpy')  # that a command is imported already


def as_main(words: List[str]) -> int:
    """Runs a script or module as Python's command line does, to the exit status."""
    try:
        if words[0] == '-m':
            sys.argv = words[1:]
            runpy.run_module(words[1], run_name='__main__', alter_sys=True)
        else:
            sys.argv = words
            runpy.run_path(os.path.join(ROOT, words[0]), run_name='__main__')
        status = 0
    except SystemExit as end:
        status = end.code or 0
        if not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    try:
        sys.stdout.flush()
    except OSError:
        traceback.print_exc()
        status = 120
    sys.stderr.flush()
    return status


def count_lines(path: str) -> int:
    """Whole lines of a file, 0 where there is none."""
    try:
        with open(path, 'rb') as file:
            return file.read().count(b'\n')
    except FileNotFoundError:
        return 0


def read(path: str) -> bytes:
    with open(path, 'rb') as file:
        return file.read()


def unfinished() -> Set[str]:
    """Temporary files, and locks of models, at any depth of the current folder."""
    return {os.path.join(where, name) for where, _, names in os.walk('.') for name in names
            if '.tmp-' in name or where.endswith('models') and name.endswith('.lock')}


class World:
    """Folders for the cases: images, a run that was killed (``results``) and one that has ended (``trained``).

    Parameters
    ----------
    folder : str
        An empty one.
    disk : bool
        Whether small disks can be mounted.
    """

    def __init__(self, folder: str, disk: bool):
        from tests.tiny import make_tree
        self.folder, self.disk = folder, disk
        self.base = os.path.join(folder, 'base')
        os.mkdir(self.base)
        make_tree(os.path.join(self.base, 'tree'))
        with inside(self.base):
            case = dataclasses.replace(CASES[0], signal_at=(signal.SIGKILL, 4))
            assert run_command(TRAIN, case) == -signal.SIGKILL
            os.unlink(f'results/models/{NAME}.lock')
            assert run_command([*TRAIN, '--results-dir', 'trained']) == 0

    def run(self, case: Case) -> None:
        """Provokes a fault.

        Raises
        ------
        AssertionError
            If it is not as the case says.
        """
        place = os.path.join(self.folder, case.name)
        shutil.copytree(self.base, place)
        with inside(place), contextlib.ExitStack() as stack:
            if case.disk is not None:
                os.mkdir('disk')
                subprocess.run(['mount', '-t', 'tmpfs', '-o', f'size={DISK_SIZE}m', 'tmpfs', 'disk'], check=True)
                stack.callback(subprocess.run, ['umount', '-l', 'disk'], check=True)
            if case.spoil:
                case.spoil()
            if case.disk is not None:
                fill('disk', case.disk)
            before = {path: read(path) for path in case.intact}
            before_it = unfinished()  # the run in `results` may have been killed while it wrote
            held = stack.enter_context(open(case.held, 'ab')) if case.held else None
            if held:
                fcntl.flock(held, fcntl.LOCK_EX)
            status = run_command(case.words, case, case.stdout)
            errors, printed = read('stderr').decode(), '' if case.stdout != 'stdout' else read('stdout').decode()
            if held:
                held.close()
                if held.name.endswith('.lock'):
                    os.unlink(held.name)
            told = f'exit status {status}, stderr: {errors!r}, stdout: {printed[-300:]!r}'
            assert status == case.status, told
            if status:
                assert errors.count('\n') == (1 if case.sees else 0) and matches(case.sees, errors.rstrip('\n')), told
            else:
                assert not errors and any(matches(case.sees, line) for line in printed.split('\n')), told
            for path, content in before.items():
                assert read(path) == content, f'{path} has changed'
            if status != -signal.SIGKILL:
                left = unfinished() - before_it
                assert not left, f'left behind: {sorted(left)}'
            if case.after:
                case.after()
        shutil.rmtree(place)


def matches(sees: str, line: str) -> bool:
    """Is it the line that a case expects?"""
    return re.fullmatch('.+'.join(re.escape(part) for part in sees.split('...')), line) is not None


@contextlib.contextmanager
def inside(folder: str):
    """Works in a folder meanwhile."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def fill(folder: str, leave: int) -> None:
    """Fills a disk until `leave` KB are free."""
    with open(os.path.join(folder, 'filler'), 'wb', buffering=0) as file:
        file.write(bytes(max(0, shutil.disk_usage(folder).free - leave * 1024)))


def run_all(names: Sequence[str], disk: bool) -> Dict[str, Dict[str, Any]]:
    """Provokes the named faults, or all. Returns for each case that could run its ``problem``, or None."""
    prepare()
    found: Dict[str, Dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        world = World(folder, disk)
        for case in CASES:
            if (names and case.name not in names) or (case.disk is not None and not disk):
                continue
            start, problem = time.time(), None
            try:
                world.run(case)
            except Exception as error:      # a bug in a check, too, must not stop the other cases
                problem = f'{type(error).__name__}: {error}'
            found[case.name] = {'problem': problem, 'seconds': time.time() - start}
    return found


def provoke(names: Sequence[str] = ()) -> Dict[str, Dict[str, Any]]:
    """:func:`run_all` in its own process, which can mount small disks if the system allows it."""
    command = [sys.executable, '-m', 'tests.faults.table', '--run', ','.join(names)]
    environment = dict(os.environ, OMP_NUM_THREADS='1', MPLBACKEND='agg')
    with tempfile.TemporaryDirectory() as folder:
        mount = ['mount', '-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', folder]
        try:
            disk = subprocess.run(['unshare', '-Urm', *mount], stderr=subprocess.DEVNULL).returncode == 0
        except OSError:
            disk = False
        result = os.path.join(folder, 'result.json')
        subprocess.run([*(['unshare', '-Urm'] if disk else []), *command, '--result', result,
                        *(['--disk'] if disk else [])], cwd=ROOT, env=environment, check=True)
        with open(result, encoding='utf-8') as file:
            return json.load(file)


# ---------------------------------------------------------------------------------------------------------------------
# The page

def table() -> str:
    """The cases as Markdown."""
    lines = ['| What goes wrong | What you see | Exit status | What is kept |', '|---|---|---:|---|']
    for case in CASES:
        sees = case.sees.replace('|', '\\|')
        status = 128 - case.status if case.status < 0 else case.status
        lines.append(f"| {case.wrong} | {f'`{sees}`' if sees else ''} | {status} | {case.kept} |")
    return '\n'.join(dict.fromkeys(lines))


def with_table(text: str) -> str:
    """`text` with what is between the markers replaced."""
    head, rest = text.split(BEGIN)
    return f'{head}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}'


def main(argv: Optional[List[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--update-readme', action='store_true')
    parser.add_argument('--check-readme', action='store_true')
    parser.add_argument('--only', metavar='CASE,CASE', help='only these')
    for flag in ('--run', '--result'):
        parser.add_argument(flag, help=argparse.SUPPRESS)
    parser.add_argument('--disk', action='store_true', help=argparse.SUPPRESS)
    opt = parser.parse_args(argv)
    if opt.result:
        found = run_all([name for name in opt.run.split(',') if name], opt.disk)
        with open(opt.result, 'w', encoding='utf-8') as file:
            json.dump(found, file)
        return 0
    with open(PAGE, encoding='utf-8') as file:
        text = file.read()
    if opt.check_readme:
        if with_table(text) != text:
            print('docs/faults.md: the table of faults is not that of the tests; run python -m tests.faults.table '
                  '--update-readme', file=sys.stderr)
        return int(with_table(text) != text)
    found = provoke(opt.only.split(',') if opt.only else ())
    for name, outcome in found.items():
        print(f"{name:20}{outcome['seconds']:6.2f} s  {outcome['problem'] or 'as expected'}")
    problems = [name for name, outcome in found.items() if outcome['problem']]
    print(f'{len(found)} faults, {len(problems)} of them not as expected')
    left_out = [case.name for case in CASES if case.disk is not None and case.name not in found and not opt.only]
    if left_out:
        print(f'left out, because no small disk can be mounted here: {", ".join(left_out)}')
    if opt.update_readme and not problems:
        with open(PAGE, 'w', encoding='utf-8') as file:
            file.write(with_table(text))
    return int(bool(problems))


if __name__ == '__main__':
    sys.exit(main())
