"""Where our defaults differ from the published scripts' (docs/published.md); commands for those run unchanged."""
import importlib
import os
import re

import pytest

from common.args import TrainingParser

PAGE = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), 'docs', 'published.md')


def rows():
    """Script, flag, published default and ours, of each row of the table."""
    with open(PAGE, encoding='utf-8') as file:
        return re.findall(r'^\| `(train_\w+)\.py` \| `(--[\w-]+)` \| (\S+) \| (\S+) \|', file.read(), re.MULTILINE)


def parse(script, *words):
    return importlib.import_module(script).parse_args(['--dataset', 'GLYPHS', *words])


def test_the_table_is_read():
    assert len(rows()) == 8


@pytest.mark.parametrize('script, flag, published, ours', rows())
def test_our_default_is_what_the_table_says_and_the_published_one_is_taken(script, flag, published, ours, monkeypatch):
    parsers = []
    parse_args = TrainingParser.parse_args
    monkeypatch.setattr(TrainingParser, 'parse_args',
                        lambda self, *args: parsers.append(self) or parse_args(self, *args))
    name = flag[2:].replace('-', '_')
    assert str(getattr(parse(script), name)) == ours
    parse(script, flag, published)
    text = re.sub(r'\s+', ' ', parsers[0].format_help())
    if (script, flag) not in (('train_prototype', '--batch-size'), ('train_proxy', '--batch-k'),
                              ('train_normproxy', '--similarity')):
        its_help = re.search(rf'{flag} (?:(?! --\w).)*?; the published log has this value, .*?script ([\w.-]+)', text)
        said = its_help.group(1)
        assert said == published or float(said) == float(published)


@pytest.mark.parametrize('script, words', [
    ('train_angular', '--decrease-cnn-lr --epoch-length 200 --l2reg-weight 0.0005'),
    ('train_clusterloss', '--decrease-cnn-lr --epsilon 1e-7 --iteration-per-epoch 0 --batch-k 5'),
    ('train_dreml', '--data-shape 224 --embedding-multiplier 3 --epsilon 0.01 --number-of-ensembles 48'),
    ('train_dreml', '--label-smooth 0 --static-proxies'),
    ('train_normproxy', '--epsilon 0.01 --start-epoch 1 --label-smooth 0.1 --similarity euclidean'),
    ('train_proxy', '--epsilon 0.01 --embedding-multiplier 3 --iteration-per-epoch 0 --batch-k 5 --loss triplet'),
    ('train_prototype', '--batch-size 32 --iteration-per-epoch 100 --nc 12 --nq 5 --ns 5')])
def test_flags_of_the_published_scripts_are_taken(script, words):
    parse(script, *words.split())
