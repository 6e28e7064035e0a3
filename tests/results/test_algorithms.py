"""The list of algorithms: complete, recognised in logs, and told apart by everybody."""
from __future__ import annotations

import itertools
import os
import re

import numpy as np
import pytest

from results.algorithms import ALGORITHMS, AlgorithmError, algorithm, identify, look, position, read_scripts

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
def test_any_two_of_52_rows_differ_in_hue_for_this_sight_or_in_hatch_and_dash(sight):
    looks = [look(place) for place in range(52)]
    colours = {one['colour']: _lab(one['colour'], SIGHT[sight]) for one in looks}
    for a, b in itertools.combinations(looks, 2):
        apart = np.linalg.norm(colours[a['colour']] - colours[b['colour']])
        other = a['hatch'] != b['hatch'] and a['dashes'] != b['dashes']
        assert other or (apart > 15 and a['marker'] != b['marker']), (a, b, apart)
        assert a['colour'] != b['colour'] or a['marker'] != b['marker'], (a, b)


def test_every_row_of_the_project_has_the_look_of_its_place():
    for place, a in enumerate(ALGORITHMS):
        assert {name: getattr(a, name) for name in look(place)} == look(place)


def test_every_script_of_the_project_has_a_row_in_the_order_of_publication():
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    assert {name for name in os.listdir(root) if re.fullmatch(r'train_\w+\.py', name)} == {a.script for a in ALGORITHMS}
    assert [(a.published, a.script) for a in ALGORITHMS] == sorted((a.published, a.script) for a in ALGORITHMS)
    assert [a.key for a in ALGORITHMS if a.script == 'train_proxy.py'] == ['proxy-nca', 'proxy-triplet']
    for a in ALGORITHMS:
        assert a.link.startswith('https://') and a.title and a.idea.endswith('.') and a.idea.count('.') == 1


SCRIPT = """
import nothing_of_this_name
ALGORITHM = {'key': 'mine', 'name': 'Mine', 'paper': 'A Paper', 'link': 'https://arxiv.org/abs/1',
             'published': '2019-04', 'idea': 'One sentence.', 'smoke': ['--x 1'], 'search': {'lr': ('log', 1e-4, 1e-2)}}

def parse_args(argv=None):
    parser = TrainingParser('train_mine', 'mine', __doc__, batch_size=80)
    parser.add_batches_per_epoch(200)
"""


def test_a_script_is_read_and_not_run(tmp_path):
    (tmp_path / 'train_mine.py').write_text(SCRIPT)
    (tmp_path / 'train_b.py').write_text(SCRIPT.replace("'mine'", "'b'").replace('2019-04', '2015-01').replace(
        "'search'", "'variants': {'b-2': {'name': 'Two', 'flags': '--loss 2'}, 'b-1': {'name': 'One', 'flags': "
                    "'--loss 1 --k 3', 'idea': 'Other.'}}, 'search'").replace('parser.add_batches_per_epoch(200)', ''))
    two, one, mine = read_scripts(str(tmp_path))
    assert (two.key, two.name, two.flags, two.idea) == ('b-2', 'Two', (('loss', '2'),), 'One sentence.')
    assert (one.key, one.flags, one.idea, one.title) == ('b-1', (('loss', '1'), ('k', '3')), 'Other.', 'A Paper')
    assert (mine.key, mine.script, mine.batch_size, mine.batches_per_epoch) == ('mine', 'train_mine.py', 80, 200)
    assert (two.batch_size, two.batches_per_epoch) == (80, None) and mine.search == {'lr': ('log', 1e-4, 1e-2)}
    assert len({a.colour for a in (two, one, mine)}) == 3


@pytest.mark.parametrize('old, new, part', [
    ('ALGORITHM =', 'OTHER =', 'no ALGORITHM'), ("'key': 'mine', ", '', "no 'key'"), ("'A Paper'", '5', "'paper'"),
    ("'2019-04'", "'2019-13'", "'published'"), ("'2019-04'", "'April'", "'published'"),
    ("'idea'", "'ideal'", "'ideal'"), ("['--x 1']", "'--x 1'", "'smoke'"), ("['--x 1']", '[]', "'smoke'"),
    ("('log', 1e-4, 1e-2)", '(1, 2)', "'search'"), ("('log', 1e-4, 1e-2)", "('log', 0, 1)", "'search'"),
    ("'Mine'", 'open("x")', 'literal'), ('ALGORITHM =', 'A = (', 'line'), ('https://arxiv', 'arxiv', "'link'"),
    ("'search'", "'variants': {'b': {'name': 'B', 'flags': 'x'}}, 'search'", "'b'"), ("'mine'", "'My Own'", "'My Own'"),
    ("'search'", "'batch': 'nc * ns', 'search'", "'batch'"), ("'search'", "'batch': '2 ** 9', 'search'", "'batch'"),
    ("'mine'", "'raw-pixels'", "'raw-pixels' is taken"), ('(200)', '(N)', 'line 8')])
def test_a_mistake_in_a_script_is_one_sentence_that_names_file_and_field(tmp_path, old, new, part):
    assert old in SCRIPT
    (tmp_path / 'train_mine.py').write_text(SCRIPT.replace(old, new, 1))
    with pytest.raises(AlgorithmError) as error:
        read_scripts(str(tmp_path))
    assert part in str(error.value) and 'train_mine.py' in str(error.value) and '\n' not in str(error.value)


def test_the_size_of_a_batch_may_follow_from_other_flags(tmp_path):
    (tmp_path / 'train_mine.py').write_text(SCRIPT.replace("'search'", "'batch': 'nc * (ns + n_q)', 'search'") + '''
    parser.algorithm.add_argument('--nc', type=int, default=3)
    parser.algorithm.add_argument('--ns', '--support', type=int, default=4)
    parser.algorithm.add_argument('--n-q', type=int, default=5)
''')
    (tmp_path / 'train_b.py').write_text(SCRIPT.replace("'mine'", "'b'"))
    plain, mine = read_scripts(str(tmp_path))
    assert mine.images_in_batch({}) == 27 and mine.images_in_batch({'nc': '6', 'batch-size': '5'}) == 54
    assert plain.images_in_batch({}) == 80 and plain.images_in_batch({'batch-size': '5'}) == 5
    for wrong in ('x', '0', '1.5', None):
        with pytest.raises((TypeError, ValueError)):
            plain.images_in_batch({'batch-size': wrong})


def test_two_scripts_of_one_key_are_named_both(tmp_path):
    for name in ('train_a.py', 'train_b.py'):
        (tmp_path / name).write_text(SCRIPT)
    with pytest.raises(AlgorithmError, match="train_b.py: .*'mine' is taken by train_a.py"):
        read_scripts(str(tmp_path))


@pytest.mark.parametrize('given, key', [
    (('margin', 'train_margin.py', {}), 'margin'), (('x', 'train_proxy.py', {'loss': 'nca'}), 'proxy-nca'),
    (('proxy', None, {'loss': 'triplet'}), 'proxy-triplet'), (('proxy', None, {'loss': 'xentropy'}), 'proxy-xentropy'),
    (('proxy', 'train_proxy.py', {'loss': 'proxymargin'}), 'proxy-margin'),
    (('semihard', 'train_triplet_semihard.py', {}), 'triplet'), (('raw-pixels', 'x.py', {}), 'raw-pixels'),
    (('margin-mine', 'train_margin_mine.py', {}), 'margin-mine'), ((None, 'train_new_idea.py', {}), 'new_idea'),
    ((None, None, {}, '/a/train_rankedlistloss_cub_resnet.log'), 'rankedlistloss'),
    ((None, None, {}, 'marginal.log'), 'marginal'),
    ((None, None, {'save_model_prefix': 'dreml_model'}, 'x.log'), 'dreml'),
    ((None, None, {'save_model_prefix': 5}, ''), 'unknown')])
def test_a_log_is_recognised(given, key):
    assert identify(*given) == key


def test_an_algorithm_of_the_users_own_comes_last_and_always_looks_the_same():
    keys = sorted(['zebra', 'my-loss', ALGORITHMS[-1].key, 'triplet'], key=position)
    assert keys == ['triplet', ALGORITHMS[-1].key, 'my-loss', 'zebra']
    assert algorithm('proxy-margin').name == 'Proxy-margin'
    assert algorithm('my-loss') == algorithm('my-loss') and algorithm('my-loss').name == 'my-loss'
