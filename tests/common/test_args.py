"""The command line: one line and exit status 2 for every mistake, defaults in --help, names as published."""
import re
import shlex
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import train_margin
from common.args import TrainingParser

SHARED = ['--gpus', '--kvstore', '--dataset', '--data-path', '--use-crops', '--num-workers', '--embed-dim', '--model',
          '--optimizer', '--seed', '--number-of-runs', '--skip-pretrain-validation', '--logfile', '--log-postfix',
          '--save-model-prefix', '--no-nmi', '--disable-hybridize', '--load-checkpoint', '--batch-size', '--epochs',
          '--lr', '--factor', '--steps', '--wd', '--image-size', '--resize', '--pretrained', '--val-split', '--fold',
          '--validate-only', '--eval-every', '--results-dir']
GLYPHS = ['--dataset', 'GLYPHS']


def test_every_shared_flag_is_in_help_with_its_default(capsys):
    with pytest.raises(SystemExit) as end:
        train_margin.parse_args(['--help'])
    text = capsys.readouterr().out
    assert end.value.code == 0
    for flag in SHARED:
        assert re.search(rf'^  .*{flag}\b', text, re.M), flag
    for part in ('(default: 125)', '(default: 1.2)', '(default: 12,14,16,18)', '(default: 123)', '(default: 64)'):
        assert part in re.sub(r'\s+', ' ', text)
    groups = re.findall(r'^([a-z]+):$', text, re.M)
    assert [g for g in groups if g != 'options' and g != 'optional arguments'] == [
        'data', 'model', 'optimisation', 'evaluation', 'run', 'margin']


def test_a_published_command_works_unchanged():
    opt = train_margin.parse_args(shlex.split(
        '--gpus -1 --kvstore device --dataset CUB --data-path /DATA/CUB_200_2011 --batch-k 5 --batch-size 125 '
        '--lr 1e-4 --lr-beta 0.1 --margin 0.2 --beta 1.2 --nu 0 --epochs 20 --steps 12,14,16,18 --factor 0.5 --wd 1e-5 '
        '--seed 123 --iteration-per-epoch 200 --number-of-runs 10 --save-model-prefix margin_loss_model'))
    assert (opt.batches_per_epoch, opt.number_of_runs, opt.resize) == (200, 10, 256)
    assert opt.save_model_prefix == 'margin_loss_model'


@pytest.mark.parametrize('flags, named', [
    (['--dataset', 'CUB'], '--data-path'),
    (['--dataset', 'NOSUCH'], '--dataset'),
    (GLYPHS + ['--epochs', '0'], '--epochs'),
    (GLYPHS + ['--lr', 'nan'], '--lr'),
    (GLYPHS + ['--lr', 'inf'], '--lr'),
    (GLYPHS + ['--wd', '-1'], '--wd'),
    (GLYPHS + ['--steps', '14,12'], '--steps'),
    (GLYPHS + ['--steps', '0,2'], '--steps'),
    (GLYPHS + ['--steps', 'x'], '--steps'),
    (GLYPHS + ['--model', 'resnet51'], '--model'),
    (GLYPHS + ['--optimizer', 'magic'], '--optimizer'),
    (GLYPHS + ['--val-split', '1'], '--val-split'),
    *((GLYPHS + ['--fold', text], f'argument --fold: {text!r} is not a part of several') for text in (
        '0/4', '5/4', '1/1', '1', '/4', '1/4/2', '1.5/4', '1/²')),
    (GLYPHS + ['--fold', '1/4', '--val-split', '0.2'], 'not allowed with'),
    (GLYPHS + ['--image-size', '64', '--resize', '32'], '--resize'),
    (GLYPHS + ['--seed', '2147483647', '--number-of-runs', '2'], '--seed'),
    (GLYPHS + ['--save-model-prefix', 'None', '--load-checkpoint'], '--load-checkpoint'),
    (GLYPHS + ['--no-such-flag'], '--no-such-flag'),
])
def test_a_mistake_is_one_line_that_names_the_flag(flags, named, capsys):
    with pytest.raises(SystemExit) as end:
        train_margin.parse_args(flags)
    text = capsys.readouterr().err
    assert end.value.code == 2
    assert named in text and text.count('\n') == 1


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(SHARED), st.text(max_size=12), st.integers().map(str),
                          st.floats().map(str)), max_size=6))
def test_no_command_line_ends_in_a_traceback(flags):
    try:
        train_margin.parse_args(flags)
    except SystemExit as end:
        assert end.code in (0, 2)


def test_none_turns_outputs_off():
    opt = train_margin.parse_args(GLYPHS + ['--logfile', 'None', '--save-model-prefix', 'None'])
    assert opt.logfile is None and opt.save_model_prefix is None


@pytest.mark.parametrize('dataset, given, expected',
                         [('GLYPHS', [], 0), ('SOP', [], 4), ('INSHOP', [], 4), ('SOP', ['--batch-k', '0'], 0)])
def test_batch_k_depends_on_the_dataset(dataset, given, expected):
    parser = TrainingParser('train_x', 'x', '', batch_size=8, epochs=1)
    parser.add_batch_k(0, sop=4)
    assert parser.parse_args(['--dataset', dataset, '--data-path', '.', *given]).batch_k == expected


@pytest.mark.parametrize('flags, status', [
    (['--dataset', 'miniCUB', '--data-path', '/no/such/folder'], 1),
    (['--dataset', 'GLYPHS', '--gpus', '99'], 2),
    (['--dataset', 'GLYPHS', '--gpus', 'x'], 2),
])
def test_bad_data_and_bad_usage_end_the_process_with_one_line(flags, status, tmp_path):
    done = subprocess.run([sys.executable, 'train_margin.py', *flags, '--results-dir', str(tmp_path)],
                          capture_output=True, text=True)
    assert done.returncode == status
    assert done.stderr.count('\n') == 1 and 'Traceback' not in done.stderr
    assert flags[2] in done.stderr or flags[3] in done.stderr


def test_every_flag_that_names_a_file_is_expanded(monkeypatch):
    import train_margin
    monkeypatch.setenv('HOME', '/home/me')
    monkeypatch.setenv('WHERE', 'x')
    flags = ['--data-path', '--cache', '--results-dir', '--logfile', '--save-model-prefix', '--pretrained',
             '--load-checkpoint']
    opt = train_margin.parse_args([f'{flag}=~/$WHERE{flag}' for flag in flags])
    for flag in flags:
        assert getattr(opt, flag[2:].replace('-', '_')) == f'/home/me/x{flag}'
