"""Runs that are killed again and again end with the same bits as one that was never disturbed.

    python -m tests.faults.kill_resume [--kills 30] [--kind single] [--kind dreml] [--seed 0] [--keep FOLDER]

A tiny run of each kind (one network with loss parameters; an ensemble) is started, killed with SIGKILL at a random
moment, resumed with --load-checkpoint, killed again, up to `CHAIN` times, and then left to end. Parameters, embeddings,
metrics and log (apart from times) must be those of an undisturbed run, bit by bit; after every kill the checkpoint must
be whole; at the end no temporary file and no lock may be left. Then the next run, until all kills are done.

The moments (`MOMENTS`) are: any time after the start of the process; just before a file is opened, renamed, cut or
removed; some milliseconds after the writing of a checkpoint or a network began; the middle of a line of the log; some
milliseconds after an evaluation began. The process itself chooses the moment, except the first kind.
"""
from __future__ import annotations

import argparse
import filecmp
import itertools
import json
import os
import random
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from typing import Any, Dict, List, Optional, Sequence

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
KINDS = {'single': ['train_margin.py', '--batch-k', '2', '--batches-per-epoch', '3', '--lr', '0.003',
                    '--number-of-runs', '2'],
         'dreml': ['train_dreml.py', '-L', '3', '-D', '3', '--embed-dim', '9', '--lr', '0.003']}
# of each, how many of its moments there may be before the one at which the process dies
MOMENTS = {'clock': 0, 'file': 30, 'writing': 8, 'line': 6, 'evaluation': 3}
CHAIN = 5                   # kills of one run
TIMEOUT = 300               # seconds a process
TIMES = {'time', 'seconds', 'images_per_second', 'evaluation_seconds', 'total_seconds', 'peak_memory_mb',
         'id', 'git', 'log_offset'}
PLACES = {'results_dir', 'logfile', 'save_model_prefix', 'load_checkpoint'}


# ---------------------------------------------------------------------------------------------------------------------
# The process that is to die

def child(moment: str, number: int, seed: int, words: Sequence[str]) -> None:
    """Trains as `words` say, and dies at the `number`-th moment of a kind, if there are so many."""
    from common import runlog
    from common.training import loop
    counter, rng = itertools.count(1), random.Random(seed)
    results = words[words.index('--results-dir') + 1]

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def soon(seconds: float) -> None:
        timer = threading.Timer(rng.uniform(0, seconds), die)
        timer.daemon = True
        timer.start()

    def file_hook(event: str, arguments: Sequence[Any]) -> None:
        if event in ('open', 'os.rename', 'os.remove', 'os.truncate') and str(arguments[0]).startswith(results) \
                and next(counter) == number:
            die()

    def writing_hook(event: str, arguments: Sequence[Any]) -> None:
        if event == 'open' and str(arguments[0]).startswith(results) and 'w' in str(arguments[1]) \
                and next(counter) == number:
            soon(0.01)

    append, evaluate = runlog.RunLog._append, loop.evaluate

    def half_a_line(log: runlog.RunLog, line: bytes) -> None:
        if next(counter) == number:
            os.write(log._file.fileno(), line[:rng.randrange(len(line))])
            die()
        append(log, line)

    def cut_short(*arguments: Any, **more: Any) -> Any:
        if next(counter) == number:
            soon(0.02)
        return evaluate(*arguments, **more)

    if moment in ('file', 'writing'):
        sys.addaudithook(file_hook if moment == 'file' else writing_hook)
    elif moment == 'line':
        runlog.RunLog._append = half_a_line
    elif moment == 'evaluation':
        loop.evaluate = cut_short
    sys.argv = list(words)
    runpy.run_path(os.path.join(ROOT, words[0]), run_name='__main__')


def start(words: Sequence[str], moment: str = 'none', number: int = 0, seed: int = 0) -> subprocess.Popen:
    """Starts :func:`child` in a process of its own, on one thread: several are not bit-equal to one."""
    own = ['-m', 'tests.faults.kill_resume', '--child', moment, str(number), str(seed)]
    return subprocess.Popen([sys.executable, *own, *words], cwd=ROOT, env=dict(os.environ, OMP_NUM_THREADS='1'),
                            text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def end(process: subprocess.Popen, seconds: Optional[float] = None) -> int:
    """Waits, or kills after so many seconds; gives the exit status, after a look at what was said."""
    try:
        _, errors = process.communicate(timeout=TIMEOUT if seconds is None else seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        _, errors = process.communicate()
        assert seconds is not None, f'{process.args}: not over after {TIMEOUT} s'
    assert process.returncode in (0, -signal.SIGKILL) and not errors, f'{process.args}: {process.returncode}, {errors}'
    return process.returncode


# ---------------------------------------------------------------------------------------------------------------------
# What must be the same

def timeless(value: Any) -> Any:
    """A record without times and places."""
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES and k not in PLACES}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def read_lines(path: str) -> List[Dict[str, Any]]:
    """All lines of a log, each a whole JSON object."""
    with open(path, 'rb') as file:
        content = file.read()
    assert content.endswith(b'\n'), f'{path}: the last line is not whole'
    records = [json.loads(line) for line in content.decode().split('\n')[:-1]]
    assert all(isinstance(record, dict) for record in records)
    return records


def files(folder: str) -> List[str]:
    """All files below a folder, by their relative names."""
    return sorted(os.path.relpath(os.path.join(where, name), folder) for where, _, names in os.walk(folder)
                  for name in names)


def compare(expected: str, got: str) -> None:
    """Compares two folders of results.

    Raises
    ------
    AssertionError
        If anything but times and places differs, or something is left behind.
    """
    from common.training import checkpoint
    assert files(expected) == files(got), f'{got} has {files(got)}, not {files(expected)}'
    for name in files(expected):
        a, b = os.path.join(expected, name), os.path.join(got, name)
        if name.endswith('.jsonl'):
            left, right = (timeless(read_lines(path)) for path in (a, b))
            assert left == right, f'{b}: {next((x, y) for x, y in itertools.zip_longest(left, right) if x != y)}'
        elif name.endswith('.ckpt.npz'):
            (meta, arrays), (other, others) = checkpoint.load(a), checkpoint.load(b)
            assert timeless(meta) == timeless(other) and arrays.keys() == others.keys(), f'{b} differs'
            assert all(arrays[key].tobytes() == others[key].tobytes() for key in arrays), f'{b} differs'
        elif name.endswith('.json'):
            with open(a, encoding='utf-8') as left, open(b, encoding='utf-8') as right:
                assert timeless(json.load(left)) == timeless(json.load(right)), f'{b} differs'
        else:
            assert filecmp.cmp(a, b, shallow=False), f'{b} differs'


def check_after_kill(results: str, tally: Counter) -> None:
    """Whatever the moment: a checkpoint is whole, and so are all lines of the log but the last."""
    from common.training import checkpoint
    checkpoints = [name for name in files(results) if name.endswith('.ckpt.npz')]
    for name in checkpoints:
        checkpoint.load(os.path.join(results, name))
    for name in files(results):
        if name.endswith('.jsonl'):
            with open(os.path.join(results, name), 'rb') as file:
                *whole, last = file.read().split(b'\n')
            assert all(isinstance(json.loads(line), dict) for line in whole)
            tally['left half a line'] += bool(last)
    tally['left a half written file'] += any('.tmp-' in name for name in files(results))
    tally['before the first checkpoint'] += not checkpoints


# ---------------------------------------------------------------------------------------------------------------------
# All of it

def run(kind: str, kills: int, folder: str, seed: int = 0, moments: Sequence[str] = tuple(MOMENTS)) -> Counter:
    """Kills runs of a kind so often.

    Parameters
    ----------
    kind : str
        One of `KINDS`.
    kills : int
    folder : str
        An empty one, for images and results.
    seed : int
        Of the moments.
    moments : sequence of str
        Among `MOMENTS`; taken in turn.

    Returns
    -------
    collections.Counter
        What was killed when, and what it left behind.

    Raises
    ------
    AssertionError
        If a resumed run did not end like the undisturbed one.
    """
    from tests.tiny import flags, make_tree
    rng, tally, turn = random.Random(seed), Counter(), itertools.cycle(moments)
    tree, whole = make_tree(os.path.join(folder, 'tree')), os.path.join(folder, 'whole')

    def words(results: str) -> List[str]:
        script, *own = KINDS[kind]
        return [script, *flags(tree, results, *own, '--load-checkpoint')]

    began = time.time()
    assert end(start(words(whole))) == 0
    duration, done = time.time() - began, 0
    while done < kills:
        tally['runs'] += 1
        results = os.path.join(folder, f'killed{tally["runs"]:02d}')
        for _ in range(min(CHAIN, kills - done)):
            moment = next(turn)
            if moment == 'clock':
                status = end(start(words(results)), rng.uniform(0, duration))
            else:
                status = end(start(words(results), moment, rng.randint(1, MOMENTS[moment]), rng.randrange(2 ** 30)))
            if status == 0:         # it had ended before its moment came
                break
            done += 1
            tally[f'killed: {moment}'] += 1
            check_after_kill(results, tally)
        assert end(start(words(results))) == 0
        compare(whole, results)
    return tally


def main(argv: Optional[Sequence[str]] = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ['--child']:
        child(argv[1], int(argv[2]), int(argv[3]), argv[4:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--kills', type=int, default=30, help='of each kind (30)')
    parser.add_argument('--kind', choices=list(KINDS), action='append', help='may be given several times (all)')
    parser.add_argument('--seed', type=int, default=0, help='of the moments (0)')
    parser.add_argument('--keep', help='new folder: leave everything there')
    opt = parser.parse_args(argv)
    for kind in opt.kind or KINDS:
        began = time.time()
        with tempfile.TemporaryDirectory() as temporary:
            folder = temporary if opt.keep is None else os.path.join(opt.keep, kind)
            os.makedirs(folder, exist_ok=True)
            tally = run(kind, opt.kills, folder, opt.seed)
        for what, count in sorted(tally.items()):
            print(f'{kind:8}{what:32}{count:5}')
        print(f'{kind}: {opt.kills} kills, all {tally["runs"]} runs ended with the same bits '
              f'({time.time() - began:.0f} s)', flush=True)


if __name__ == '__main__':
    main()
