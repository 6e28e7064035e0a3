"""The command: ``python -m common.selfcheck [--gpus 0,1] [--quick]``."""
from __future__ import annotations

import argparse
import os
import sys
import tempfile
from typing import List, Optional

import mxnet as mx

from common.args import non_negative_int, positive_int
from common.command import CommandParser, run_command
from common.devices import get_contexts
from common.selfcheck import correctness, machine, speed
from common.selfcheck.report import Report

#: points: embeddings whose metrics are compared; speed_points: those whose metrics are timed (the size of SOP);
#: embed_dim: their size; images: batch on which networks are compared; small_image_size: side of the images for losses,
#: heads and whole runs; steps: those that are timed; epochs: of the run that is resumed before its last.
SIZES = {'points': 20000, 'speed_points': 60502, 'embed_dim': 64, 'images': 8, 'image_size': 224,
         'small_image_size': 32, 'batch_size': 0, 'steps': 20, 'epochs': 3}
#: With these, every line runs within a minute on a CPU.
QUICK = {'points': 1000, 'speed_points': 1500, 'embed_dim': 16, 'images': 4, 'image_size': 64, 'small_image_size': 16,
         'batch_size': 8, 'steps': 1, 'epochs': 2}


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """The flags, and all sizes."""
    parser = CommandParser(prog='common.selfcheck',
                           description='Compares the GPUs of this machine with its CPU and measures their speed: a '
                                       'table, a JSON file, and exit status 1 if anything differs.')
    parser.add_argument('--gpus', default='-1', metavar='CODE',
                        help='-1: all GPUs found; 0,1: those; -2, or where there are none: two CPU contexts in their '
                             'place (default: -1)')
    parser.add_argument('--quick', action='store_true', help='everything small: about a minute on a CPU')
    parser.add_argument('--output', default='gpu-check.json', metavar='FILE',
                        help='the JSON file (default: %(default)s)')
    parser.add_argument('--image-size', type=positive_int, metavar='PIXELS',
                        help='side of the images for networks and speed (default: 224, with --quick 64)')
    parser.add_argument('--batch-size', type=non_negative_int, metavar='IMAGES',
                        help='batch that speed is measured with; 0: all published ones (default: 0, with --quick 8)')
    opt = parser.parse_args(argv)
    for name, size in (QUICK if opt.quick else SIZES).items():
        if getattr(opt, name, None) is None:
            setattr(opt, name, size)
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
    with tempfile.TemporaryDirectory(prefix='selfcheck-') as folder:
        tree = correctness.make_images(os.path.join(folder, 'images'), max(32, opt.image_size * 8 // 7))
        for device in devices:
            here = str(device)
            for script in correctness.scripts():
                report.run(f'loss and head of {script}', here, correctness.loss_and_head, script, device, opt, tree)
            for name in correctness.NETWORKS:
                report.run(f'network {name}', here, correctness.network, name, device, opt)
            report.run(f'evaluation of {opt.points} x {opt.embed_dim}', here, correctness.evaluation, device, opt)
            report.run('resumed run', here, correctness.resumption, device, opt, tree, os.path.join(folder, here))
        if len(devices) > 1:
            report.run('several devices against one', together, correctness.several_devices, devices, opt, tree)
        report.run(f'speed of evaluation, {opt.speed_points} x {opt.embed_dim}', str(devices[0]),
                   speed.evaluation_speed, devices[0], opt)
        for name in speed.NETWORKS:
            for batch_size, script in speed.batch_sizes(opt, tree).items():
                for group in [devices[:1]] + ([devices] if len(devices) > 1 else []):
                    report.run(f'speed of {name}, {opt.image_size} pixels, batch {batch_size} of {script}',
                               ' and '.join(map(str, group)), speed.training_speed, name, script, group, opt, tree)
    return report.finish()


if __name__ == '__main__':
    sys.exit(run_command('common.selfcheck', lambda: run(parse_args())))
