"""Every network that --model accepts and every optimiser of MXNet, tried once: it trains, or says in a line why not.

    python -m tests.faults.zoo                          all of them: an hour or two on two cores
    python -m tests.faults.zoo --only nasnet adam       those whose names contain one of these
    python -m tests.faults.zoo --missing                those that docs/networks.md does not name yet

Left out of `make faults`, as it takes long. Each is one step of a training script in a process of its own, on a batch
of four images, from random weights. Networks get 64 pixels, 224 where that is too few, and those for CIFAR 32. The exit
status is 1 if any ended otherwise than with a step or with one line: that is a bug. What does not train is listed in
docs/networks.md.
"""
from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from typing import List, Optional, Sequence, Set, Tuple

import common  # noqa: F401  prepares MXNet

TIMEOUT = 900                   # seconds each
MEMORY = 8 * 1024 ** 3          # bytes of address space each
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PAGE = os.path.join(ROOT, 'docs', 'networks.md')
COMMAND = ['train_triplet_semihard.py', '--dataset', 'miniCUB', '--pretrained', 'none', '--batch-size', '4',
           '--batch-k', '2', '--batches-per-epoch', '1', '--epochs', '1', '--skip-pretrain-validation', '--no-nmi',
           '--num-workers', '1', '--gpus', '-2', '--logfile', 'None', '--save-model-prefix', 'None']
LIBRARY = re.compile(r'\[\d\d:\d\d:\d\d\] ')      # what MXNet's libraries print by themselves
PASSED = ('trains', 'refused')


def sizes(network: str) -> Tuple[int, ...]:
    """The image sizes to try, in pixels."""
    return (32,) if network.startswith('cifar_') or network == 'convnet' else (64, 224)


def attempt(network: str, optimizer: str, size: int, tree: str) -> Tuple[str, str]:
    """One step.

    Returns
    -------
    outcome : str
        ``trains``, ``refused``, or what must not be: ``traceback``, ``killed by signal N``, ``no end``.
    line : str
        The last line on stderr.
    """
    command = [sys.executable, os.path.join(ROOT, COMMAND[0]), *COMMAND[1:], '--data-path', tree, '--model', network,
               '--optimizer', optimizer, '--image-size', str(size)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, preexec_fn=limit)
    except subprocess.TimeoutExpired:
        return 'no end', f'after {TIMEOUT} s'
    lines = [line for line in child.stderr.strip().split('\n') if not LIBRARY.match(line)]
    if child.returncode == 0:
        return 'trains', ''
    if child.returncode < 0:
        return f'killed by signal {-child.returncode}', lines[-1]
    said = len(lines) == 1 and lines[0].startswith(COMMAND[0] + ': ')
    return ('refused' if said else 'traceback'), lines[-1]


def named_on_page() -> Set[str]:
    """All words of docs/networks.md, among them the names of what was tried."""
    with open(PAGE, encoding='utf-8') as file:
        return {word.rstrip('.') for word in re.findall(r'[\w.-]+', file.read())}


def limit() -> None:
    """Limits the memory of this process, and lets others go first."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.nice(10)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Tries what `argv` names; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', nargs='+', default=[''], metavar='NAME', help='parts of names (default: all)')
    parser.add_argument('--missing', action='store_true', help='leave out what docs/networks.md names')
    opt = parser.parse_args(argv)
    import mxnet as mx

    from models.backbones import backbone_names
    from tests.tiny import make_tree
    tried: List[Tuple[str, str, str]] = [('network', name, 'adam') for name in backbone_names()]
    tried += [('optimiser', 'convnet', name) for name in sorted(mx.optimizer.Optimizer.opt_registry)]
    known = named_on_page() if opt.missing else set()
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = make_tree(os.path.join(folder, 'tree'), classes=4, per_class=2)
        print('| | name | pixels | outcome | s | line |\n|---|---|---:|---|---:|---|', flush=True)
        for kind, network, optimizer in tried:
            name = network if kind == 'network' else optimizer
            if name in known or not any(part in name for part in opt.only):
                continue
            for size in sizes(network):
                start = time.monotonic()
                outcome, line = attempt(network, optimizer, size, tree)
                if outcome == 'trains' or '--image-size' not in line:
                    break
            failures += outcome not in PASSED
            print(f'| {kind} | {name} | {size} | {outcome} | {time.monotonic() - start:.0f} | {line} |', flush=True)
    print(f'{failures} ended without a line' if failures else 'all train, or say why not')
    return 1 if failures else 0


if __name__ == '__main__':
    sys.exit(main())
