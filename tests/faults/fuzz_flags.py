"""Random flags for all scripts, on real images: the script trains, or says why it cannot.

    python -m tests.faults.fuzz_flags [--count 500] [--seed 0]

Each command has a few flags of its script. Their values are sensible, extreme or invalid. The command must end with
exit status 0, or with 1 or 2 and one line on stderr.
"""
from __future__ import annotations

import argparse
import glob
import importlib
import os
import random
import shutil
import tempfile
from collections import Counter
from typing import Any, Dict, List, Optional, Sequence
from unittest import mock

from tests.faults.table import ROOT, inside, prepare, read, run_command

SCRIPTS = sorted(os.path.basename(path) for path in glob.glob(os.path.join(ROOT, 'train_*.py')))
VALUES = ['0', '1', '2', '3', '4', '7', '16', '17', '99', '-1', '-4', '0.3', '0.5', '1e-9', '1e9', 'nan', 'inf', '',
          'x', 'None', '1,2', '-', '--', '1_0', '\u0661']
SENSIBLE = ['1', '2', '4']
DATA = ['--dataset', 'miniCUB', '--data-path', 'tree', '--resize', '18', '--batch-size', '8', '--num-workers', '1']
# With these, the script can train on eight classes of eight images.
FITTING = {'train_prototype.py': ['--nc', '2', '--ns', '2', '--nq', '2'], 'train_dreml.py': ['-L', '2', '-D', '3']}
# Flags of places, which other tests cover, and flags that only make a run longer.
LEFT_OUT = {'help', 'results_dir', 'data_path', 'logfile', 'log_postfix', 'save_model_prefix', 'tensorboard',
            'load_checkpoint',
            'cache', 'dataset', 'pretrained', 'num_workers', 'epochs', 'kvstore', 'model', 'number_of_runs',
            'image_size', 'resize'}


def flags_of(script: str) -> List[argparse.Action]:
    """The flags of a script that get random values."""
    from common.args import TrainingParser
    parsers = []

    def spy(parser: TrainingParser, *arguments: Any) -> argparse.Namespace:
        parsers.append(parser)
        return parse(parser, *arguments)

    parse = TrainingParser.parse_args
    with mock.patch.object(TrainingParser, 'parse_args', spy):
        importlib.import_module(script[:-len('.py')]).parse_args(['--dataset', 'GLYPHS'])
    return [action for action in parsers[0]._actions if action.option_strings and action.dest not in LEFT_OUT]


def command(rng: random.Random, script: str, actions: Sequence[argparse.Action]) -> List[str]:
    """A command with one to three of the script's flags."""
    small = [word for name in ('batch_k', 'batches_per_epoch') if any(action.dest == name for action in actions)
             for word in ('--' + name.replace('_', '-'), '2')]
    words = [script, *DATA, *small, *FITTING.get(script, ()), '--model', 'convnet', '--epochs', '1', '--gpus', '-2',
             '--results-dir', 'results', '--image-size', rng.choice(['16'] * 9 + ['8', '4', '1'])]
    for action in rng.sample(list(actions), rng.randint(1, 3)):
        words.append(rng.choice(action.option_strings))
        if action.nargs != 0:
            sensible = rng.random() < 0.7
            words.append(str(rng.choice(list(action.choices or SENSIBLE) if sensible else VALUES)))
    return words


def run(count: int, seed: int) -> Counter:
    """Runs so many commands in a new folder; gives how often which exit status was.

    Raises
    ------
    AssertionError
        If a command ended otherwise.
    """
    from tests.tiny import make_tree
    prepare()
    rng, tally = random.Random(seed), Counter()
    actions: Dict[str, List[argparse.Action]] = {script: flags_of(script) for script in SCRIPTS}
    with tempfile.TemporaryDirectory() as folder, inside(folder):
        make_tree('tree')
        for _ in range(count):
            script = rng.choice(SCRIPTS)
            words = command(rng, script, actions[script])
            status, errors = run_command(words), read('stderr').decode()
            tally[status] += 1
            told = f'{words}: exit status {status}, {errors!r}'
            assert status in (0, 1, 2) and 'Traceback' not in errors, told
            assert errors.count('\n') == 1 if status else not errors, told
            shutil.rmtree('results', ignore_errors=True)
    return tally


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--count', type=int, default=500)
    parser.add_argument('--seed', type=int, default=0)
    opt = parser.parse_args(argv)
    tally = run(opt.count, opt.seed)
    assert min(tally[0], tally[2]) >= opt.count // 20, f'hardly any of a kind: {tally}'
    print(f'{opt.count} commands: {tally[0]} trained, {tally[1]} ended with status 1 and {tally[2]} with status 2, and '
          'one line each')


if __name__ == '__main__':
    main()
