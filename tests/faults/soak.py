"""A long run neither grows nor leaves anything behind.

    python -m tests.faults.soak [--iterations 3000] [--every 100]

Trains a small network for --iterations, with an evaluation after each --every of them. After the first `SETTLED`
iterations, resident memory must grow by less than `GROWTH`. When the run is over, the process must have no child, and
no more threads and open files than before. When the process is over, the machine must have no more shared memory and
temporary files than before.
"""
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any, Dict, List, Optional, Sequence

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
GROWTH = 0.02
SETTLED = 300               # iterations


def resident() -> int:
    """Resident memory of this process, in KB."""
    with open('/proc/self/status', encoding='ascii') as file:
        return next(int(line.split()[1]) for line in file if line.startswith('VmRSS:'))


def held() -> Dict[str, List[str]]:
    """What this process has: Python's threads, all threads, open files, children."""
    open_files = []
    for name in os.listdir('/proc/self/fd'):
        try:
            open_files.append(os.readlink(f'/proc/self/fd/{name}'))
        except FileNotFoundError:           # the listing itself
            continue
    tasks = os.listdir('/proc/self/task')
    children = []
    for task in tasks:
        try:
            with open(f'/proc/self/task/{task}/children', encoding='ascii') as file:
                children += file.read().split()
        except FileNotFoundError:           # it has just ended
            continue
    names = [f'{task} {comm(task)}' for task in tasks]
    return {'threads of Python': sorted(thread.name for thread in threading.enumerate()), 'threads': names,
            'open files': sorted(open_files), 'children': children}


def comm(task: str) -> str:
    """The name of a thread; empty where it has just ended."""
    try:
        with open(f'/proc/self/task/{task}/comm', encoding='utf-8', errors='replace') as file:
            return file.read().strip()
    except FileNotFoundError:
        return ''


def left_on_machine(folder: str) -> List[str]:
    """Shared memory and temporary files."""
    return sorted([f'/dev/shm/{name}' for name in os.listdir('/dev/shm')]
                  + [os.path.join(folder, name) for name in os.listdir(folder)])


def child(folder: str, iterations: int, every: int) -> None:
    """Trains; writes ``figures.json`` into the folder."""
    import train_margin
    from common import training
    from common.runlog import RunLog
    from tests.tiny import flags
    sizes: List[int] = []
    write = RunLog.write

    def noted(log: RunLog, event: str, **fields: Any) -> None:
        write(log, event, **fields)
        if event == 'epoch':
            sizes.append(resident())

    def train(name: str, epochs: int) -> None:
        training.run(train_margin.parse_args(flags(
            os.path.join(folder, 'tree'), os.path.join(folder, name), '--batch-k', '2', '--batches-per-epoch',
            str(every), '--epochs', str(epochs), '--num-workers', '2', '--skip-pretrain-validation')),
            train_margin.build)

    train('before', 1)                      # MXNet starts its threads at their first use
    before = held()
    RunLog.write = noted
    began = time.time()
    train('soak', iterations // every)
    seconds, deadline = time.time() - began, time.time() + 5
    after = held()
    while more(before, after) and time.time() < deadline:   # a thread that was joined may still be on its way out
        time.sleep(0.05)
        after = held()
    with open(os.path.join(folder, 'figures.json'), 'w', encoding='utf-8') as file:
        json.dump({'sizes': sizes, 'before': before, 'after': after, 'seconds': seconds}, file)


def run(iterations: int = 3000, every: int = 100) -> Dict[str, Any]:
    """Trains in a separate process, and checks what it leaves behind.

    Returns
    -------
    dict
        ``settled`` and ``end``, resident memory in KB after `SETTLED` iterations (or the first evaluation) and at the
        end; ``peak`` after the former; ``seconds``.

    Raises
    ------
    AssertionError
        If something is left behind. (The caller checks the memory.)
    """
    from tests.tiny import make_tree
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as temporary:
        make_tree(os.path.join(folder, 'tree'))
        before = left_on_machine(temporary)
        subprocess.run([sys.executable, '-m', 'tests.faults.soak', '--child', folder, '--iterations', str(iterations),
                        '--every', str(every)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
                       env=dict(os.environ, TMPDIR=temporary))
        assert left_on_machine(temporary) == before, f'left behind: {left_on_machine(temporary)}'
        with open(os.path.join(folder, 'figures.json'), encoding='utf-8') as file:
            figures = json.load(file)
    left = more(figures['before'], figures['after'])
    assert not left, '; '.join(left)
    sizes = figures['sizes']
    assert len(sizes) == iterations // every
    settled = min(max(SETTLED // every, 1), len(sizes)) - 1
    return {'settled': sizes[settled], 'end': sizes[-1], 'peak': max(sizes[settled:]), 'seconds': figures['seconds'],
            **{kind: len(what) for kind, what in figures['after'].items()}}


def more(before: Dict[str, List[str]], after: Dict[str, List[str]]) -> List[str]:
    """Of what a process has more than before, in words."""
    return [f'{kind} before: {before[kind]}, and after: {names}' for kind, names in after.items()
            if len(names) > len(before[kind])]


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--iterations', type=int, default=3000)
    parser.add_argument('--every', type=int, default=100, help='iterations between evaluations (100)')
    parser.add_argument('--child', metavar='FOLDER', help=argparse.SUPPRESS)
    opt = parser.parse_args(argv)
    if opt.child:
        child(opt.child, opt.iterations, opt.every)
        return 0
    figures = run(opt.iterations, opt.every)
    growth = figures['end'] / figures['settled'] - 1
    for name, value in figures.items():
        print(f'{name:20}{value:10.0f}' + (' KB' if name in ('settled', 'end', 'peak') else ''))
    print(f'{opt.iterations} iterations: memory grew by {growth:.2%} after the first {SETTLED}, nothing is left')
    if growth >= GROWTH:
        print(f'tests.faults.soak: that is not under {GROWTH:.0%}', file=sys.stderr)
    return int(growth >= GROWTH)


if __name__ == '__main__':
    sys.exit(main())
