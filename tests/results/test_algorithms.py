"""The list of algorithms: complete, recognised in logs, and told apart by everybody."""
from __future__ import annotations

import itertools
import os
import re

import numpy as np
import pytest

from results.algorithms import ALGORITHMS, algorithm, identify, position

# Machado, Oliveira and Fernandes (2009), severity 1.0, on linear RGB.
SIGHT = {
    'normal': np.eye(3),
    'protanopia': np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
                            [-0.003882, -0.048116, 1.051998]]),
    'deuteranopia': np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
                              [-0.011820, 0.042940, 0.968881]]),
    'tritanopia': np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
                            [0.004733, 0.691367, 0.303900]])}


def _lab(colour, sight):
    rgb = np.array([int(colour[i:i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[.4124, .3576, .1805], [.2126, .7152, .0722], [.0193, .1192, .9505]])
    xyz = to_xyz @ np.clip(sight @ linear, 0, 1) / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize('sight', SIGHT)
def test_any_two_differ_in_hue_for_this_sight_or_in_hatch_dash_and_filling(sight):
    assert len({a.colour for a in ALGORITHMS}) == 13
    for a, b in itertools.combinations(ALGORITHMS, 2):
        apart = np.linalg.norm(_lab(a.colour, SIGHT[sight]) - _lab(b.colour, SIGHT[sight]))
        other = a.hatch != b.hatch and a.dashes != b.dashes and a.open_marker != b.open_marker
        assert other or (apart > 15 and a.marker != b.marker), (a.name, b.name, apart)


def test_every_script_of_the_project_has_a_row():
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    there = {name for name in os.listdir(root) if re.fullmatch(r'train_\w+\.py', name)}
    assert there == {a.script for a in ALGORITHMS} and len(there) == 12 and len(ALGORITHMS) == 13
    for a in ALGORITHMS:
        assert a.link.startswith('https://') and a.title and a.idea.endswith('.') and a.idea.count('.') == 1


@pytest.mark.parametrize('given, key', [
    (('margin', 'train_margin.py', {}), 'margin'), (('x', 'train_proxy.py', {'loss': 'nca'}), 'proxy-nca'),
    (('proxy', None, {'loss': 'triplet'}), 'proxy-triplet'), (('proxy', None, {'loss': 'xentropy'}), 'proxy-xentropy'),
    (('semihard', 'train_triplet_semihard.py', {}), 'triplet'), (('raw-pixels', 'x.py', {}), 'raw-pixels'),
    (('margin-mine', 'train_margin_mine.py', {}), 'margin-mine'), ((None, 'train_new_idea.py', {}), 'new_idea'),
    ((None, None, {}, '/a/train_rankedlistloss_cub_resnet.log'), 'rankedlistloss'),
    ((None, None, {}, 'marginal.log'), 'marginal'),
    ((None, None, {'save_model_prefix': 'dreml_model'}, 'x.log'), 'dreml'),
    ((None, None, {'save_model_prefix': 5}, ''), 'unknown')])
def test_a_log_is_recognised(given, key):
    assert identify(*given) == key


def test_an_algorithm_of_the_users_own_comes_last_and_always_looks_the_same():
    keys = sorted(['zebra', 'my-loss', 'discriminative', 'triplet'], key=position)
    assert keys == ['triplet', 'discriminative', 'my-loss', 'zebra']
    assert algorithm('my-loss') == algorithm('my-loss') and algorithm('my-loss').name == 'my-loss'
