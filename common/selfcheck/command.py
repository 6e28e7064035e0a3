"""The command: `python -m common.selfcheck`."""
from __future__ import annotations

import argparse
import os
import tempfile
from typing import List, Optional

import mxnet as mx

from common.args import non_negative_int, positive_int
from common.command import CommandParser, run_command
from common.devices import get_contexts
from common.selfcheck import correctness, machine, speed
from common.selfcheck.report import Report

#: Sizes of --quick, which sees every line run within a minute on a CPU.
QUICK = {'points': 1000, 'speed_points': 1500, 'embed_dim': 16, 'images': 4, 'image_size': 64, 'small_image_size': 16,
         'batch_size': 8, 'steps': 1, 'epochs': 2}


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """The flags; --quick changes the defaults of the sizes."""
    parser = CommandParser(prog='common.selfcheck', formatter_class=argparse.ArgumentDefaultsHelpFormatter,
                           description='Compares the GPUs of this machine with its CPU and measures their speed: a '
                                       'table, a JSON file, and exit status 1 if anything differs.')
    parser.add_argument('--gpus', default='-1', metavar='CODE',
                        help='-1: all GPUs found; 0,1: those; -2, or where there are none: two CPU contexts in their '
                             'place')
    parser.add_argument('--quick', action='store_true', help='small sizes: ' + ', '.join(
        f"--{name.replace('_', '-')} {value}" for name, value in QUICK.items()))
    parser.add_argument('--output', default='gpu-check.json', metavar='FILE', help='the JSON file')
    sizes = parser.add_argument_group('sizes')
    for flag, default, kind, metavar, text in (
            ('--points', 20000, positive_int, 'N', 'embeddings whose metrics are compared'),
            ('--speed-points', 60502, positive_int, 'N', 'embeddings whose metrics are timed (the size of SOP)'),
            ('--embed-dim', 64, positive_int, 'N', 'size of these embeddings'),
            ('--images', 8, positive_int, 'N', 'images in the batch on which networks are compared'),
            ('--image-size', 224, positive_int, 'PIXELS', 'their side; also of those that speed is measured with'),
            ('--small-image-size', 32, positive_int, 'PIXELS', 'side of the images for losses, heads and whole runs'),
            ('--batch-size', 0, non_negative_int, 'IMAGES', 'batch that speed is measured with; 0: all published ones'),
            ('--steps', 20, positive_int, 'N', 'steps that are timed'),
            ('--epochs', 3, positive_int, 'N', 'epochs of the run that is resumed before its last; from 2')):
        sizes.add_argument(flag, type=kind, default=default, metavar=metavar, help=text)
    if parser.parse_args(argv).quick:
        parser.set_defaults(**QUICK)
    opt = parser.parse_args(argv)
    if opt.epochs < 2:
        parser.error('--epochs 1 leaves nothing to resume')
    if opt.points < 100 or opt.speed_points < 100:
        parser.error('--points and --speed-points must be at least 100')
    return opt


def run(opt: argparse.Namespace) -> int:
    """Runs all checks; returns the exit status."""
    devices = get_contexts(opt.gpus)
    if devices[0].device_type != 'gpu':
        devices = [mx.cpu(0), mx.cpu(1)]
        print('No GPU: two CPU contexts are checked in place of devices. Differences of 0 say nothing about a GPU.')
    about = {'machine': machine.describe_machine(), 'devices': [machine.describe_device(d) for d in devices],
             'flags': vars(opt), 'tolerances': correctness.TOLERANCES}
    for found in about['devices']:
        print('  '.join(f'{key} {value}' for key, value in found.items()))
    report, together = Report(opt.output, about), ' and '.join(map(str, devices))
    report.write()      # a place that cannot be written to is found out now
    with tempfile.TemporaryDirectory(prefix='selfcheck-') as folder:
        tree = correctness.make_images(os.path.join(folder, 'images'), max(32, opt.image_size * 8 // 7))
        for device in devices:
            for script in correctness.scripts():
                report.run(f'loss and head of {script}', str(device), correctness.loss_and_head, script, device, opt,
                           tree)
            for name in correctness.NETWORKS:
                report.run(f'network {name}', str(device), correctness.network, name, device, opt)
            report.run(f'evaluation of {opt.points} x {opt.embed_dim}', str(device), correctness.evaluation, device,
                       opt)
            report.run('resumed run', str(device), correctness.resumption, device, opt, tree,
                       os.path.join(folder, str(device)))
        if len(devices) > 1:
            report.run('several devices against one', together, correctness.several_devices, devices, opt, tree)
        report.run(f'speed of evaluation, {opt.speed_points} x {opt.embed_dim}', str(devices[0]),
                   speed.evaluation_speed, devices[0], opt)
        groups = [devices[:1]] + ([devices] if len(devices) > 1 else [])
        for name in speed.NETWORKS:
            for batch_size, script in speed.batch_sizes(opt, tree).items():
                for group in groups:
                    report.run(f'speed of {name}, {opt.image_size} pixels, batch {batch_size} of {script}',
                               ' and '.join(map(str, group)), speed.training_speed, name, script, group, opt, tree)
    return report.finish()


def command() -> int:
    """Entry point."""
    return run_command('common.selfcheck', lambda: run(parse_args()))
