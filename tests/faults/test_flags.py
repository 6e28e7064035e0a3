"""Random words as flags of every command: it prints its help, or one line that says what is wrong."""
import argparse
import contextlib
import importlib
import io
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.distributed import launch
from common.evaluation import __main__ as score
from common.errors import UsageError
from dataset import check, download
from models import weights
from results import plots, report, reproduce
from tests.faults import fuzz_flags

word = st.text(st.characters(blacklist_characters='\0', blacklist_categories=['Cs']), max_size=12)
value = st.one_of(st.sampled_from(fuzz_flags.VALUES), word, st.integers().map(str),
                  st.floats().map(str))


@pytest.mark.parametrize('script', fuzz_flags.SCRIPTS)
def test_scripts_parse_or_refuse(script):
    module = importlib.import_module(script[:-len('.py')])
    flags = [option for action in fuzz_flags.flags_of(script) for option in action.option_strings]

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.one_of(st.sampled_from(flags), value), max_size=6))
    def check_words(words):
        errors = io.StringIO()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
                module.parse_args(['--dataset', 'GLYPHS', *words])
        except SystemExit as end:
            assert end.code in (0, 2)
            assert end.code == 0 or errors.getvalue().rstrip('\n').count('\n') == errors.getvalue().count('\n') - 1

    check_words()


# Each with words of its own, and with those that keep it from the network, from training, and from minutes of drawing.
COMMANDS = {
    'plots': (plots.main, ['--out', 'o', '--selection', 'best-on-val', '--target-recall', '--dpi', 'x.jsonl', '.'], []),
    'report': (report.main, ['--out', 'o', '--results-dir', '--pictures', '--readme', '--update-readme',
                             '--check-readme', 'x.jsonl'], ['--readme', 'r.md']),
    'reproduce': (reproduce.main, ['glyphs', '--list', '--runs', '--only', 'margin', '--data-path', '--results-dir',
                                   '--jobs', '--gpus', '--backend', 'local', '--address', '--file'], ['--dry-run']),
    'download': (download.main, ['CUB', 'SOP', 'CARS196', '--data-path', '--keep-archive', '--url'],
                 ['--archive', 'x.jsonl']),
    'check': (check.main, ['CUB', 'SOP', 'CARS196', 'miniCUB', '--data-path', '--num-workers', '--resize'],
              ['--data-path', 'd']),
    'weights': (weights.main, ['convert', 'x.jsonl', '--model', 'resnet18_v2', 'inception-bn', '-o', 'o.params'], []),
    'launch': (launch.parse_args, ['--workers', '--servers', '--hosts', 'x.jsonl', '--', 'train_margin.py'], []),
    'evaluation': (score.parse_args, ['--embeddings', '--model', '--script', 'train_margin', '--backbone', '--output',
                                      '--json', '--ks', '1,2', '--no-nmi', '--seed', '--gpus'], []),
}


@pytest.mark.parametrize('name', list(COMMANDS))
def test_commands_do_it_or_refuse(name, tmp_path, monkeypatch):
    main, own, always = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'x.jsonl').write_text('{"event"')

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.one_of(st.sampled_from(own), value), max_size=6))
    def check_words(words):
        errors = io.StringIO()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
                status = main([*words, *always])
        except SystemExit as end:
            status = end.code
        except UsageError as error:     # what main() makes a line of
            assert '\n' not in str(error)
            return
        if not isinstance(status, argparse.Namespace):
            assert status in (0, 1, 2), errors.getvalue()
            assert errors.getvalue().strip() or status == 0
        assert 'Traceback' not in errors.getvalue()

    check_words()


def test_random_flags_on_real_images():
    """A few of the 500 commands of `tests.faults.fuzz_flags`."""
    done = subprocess.run([sys.executable, '-m', 'tests.faults.fuzz_flags', '--count', '20', '--seed', '5'],
                          cwd=fuzz_flags.ROOT, env=dict(os.environ, OMP_NUM_THREADS='1'), capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
