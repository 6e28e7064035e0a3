"""The algorithms in the order of the paper, with their names, scripts, sources and looks.

Thirteen rows come from twelve scripts: ``train_proxy.py`` is two of them. The looks are safe for the colour-blind:
seven hues of Okabe and Ito drawn solid, then six of Paul Tol's drawn hatched, dashed and with open markers, so that any
two algorithms differ in a hue that everybody can tell apart, or in all of hatch, dash and the filling of the marker.
"""
from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple


@dataclass(frozen=True)
class Algorithm:
    """One row of the comparison.

    Parameters
    ----------
    key : str
        Short name, used in logs, in ``paper.csv`` and in ``experiments.yaml``.
    name : str
        Name as in the paper's figures.
    script : str
        The script that trains it.
    flags : dict
        Flags that make the script this algorithm and not a relative.
    title, link, idea : str
        The publication, where it is, and what it does in one sentence.
    colour, hatch, marker, dashes, open_marker :
        How it is drawn in every figure.
    """

    key: str
    name: str
    script: str = ''
    flags: Tuple[Tuple[str, str], ...] = ()
    title: str = ''
    link: str = ''
    idea: str = ''
    colour: str = '#4D4D4D'
    hatch: str = ''
    marker: str = 'o'
    dashes: str = '-'
    open_marker: bool = False


_SOLID = ('#0072B2', '#D55E00', '#009E73', '#E69F00', '#CC79A7', '#56B4E9', '#4D4D4D')
_HATCHED = ('#332288', '#CC6677', '#999933', '#44AA99', '#882255', '#DDCC77')
_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')


def _look(i: int) -> Dict[str, Any]:
    if i < len(_SOLID):
        return {'colour': _SOLID[i], 'marker': _MARKERS[i]}
    i = (i - len(_SOLID)) % len(_HATCHED)
    return {'colour': _HATCHED[i], 'marker': _MARKERS[i], 'hatch': '/////', 'dashes': '--', 'open_marker': True}


_ARXIV = 'https://arxiv.org/abs/'
_ROWS = (
    ('triplet', 'Triplet semi-hard', 'train_triplet_semihard.py', (),
     'FaceNet: A Unified Embedding for Face Recognition and Clustering', _ARXIV + '1503.03832',
     'Every positive pair is compared with the nearest negative that is farther away than the positive.'),
    ('liftedstruct', 'Lifted structure', 'train_liftedstruct.py', (),
     'Deep Metric Learning via Lifted Structured Feature Embedding', _ARXIV + '1511.06452',
     'Every positive pair is pulled together against all negatives of both of its ends at once.'),
    ('npairs', 'N-pairs', 'train_npairs.py', (),
     'Improved Deep Metric Learning with Multi-class N-pair Loss Objective',
     'https://papers.nips.cc/paper/6200-improved-deep-metric-learning-with-multi-class-n-pair-loss-objective',
     'In a batch of one pair per class, each anchor must pick its own positive among the positives of all classes.'),
    ('clusterloss', 'Structured clustering', 'train_clusterloss.py', (),
     'Deep Metric Learning via Facility Location', _ARXIV + '1612.01213',
     'The true clustering of the batch must score higher than the best wrong one, by as much as that one is wrong.'),
    ('margin', 'Margin', 'train_margin.py', (),
     'Sampling Matters in Deep Embedding Learning', _ARXIV + '1706.07567',
     'Negatives are drawn evenly over all distances, and every class learns its own border between near and far.'),
    ('angular', 'Angular', 'train_angular.py', (),
     'Deep Metric Learning with Angular Loss', _ARXIV + '1708.01682',
     'Bounds the angle at the negative of the triangle that it forms with a positive pair, whatever its size.'),
    ('prototype', 'Prototype', 'train_prototype.py', (),
     'Prototypical Networks for Few-shot Learning', _ARXIV + '1703.05175',
     'Queries are classified by the nearest mean of a few support images of each class.'),
    ('proxy-nca', 'Proxy-NCA', 'train_proxy.py', (('loss', 'nca'),),
     'No Fuss Distance Metric Learning using Proxies', _ARXIV + '1703.07464',
     'Images are compared with one learned proxy per class instead of with each other.'),
    ('proxy-triplet', 'Proxy-triplet', 'train_proxy.py', (('loss', 'triplet'),),
     'No Fuss Distance Metric Learning using Proxies', _ARXIV + '1703.07464',
     'The triplet loss with learned class proxies as positives and negatives.'),
    ('normproxy', 'Proxy-softmax', 'train_normproxy.py', (),
     'Classification is a Strong Baseline for Deep Metric Learning', _ARXIV + '1811.12649',
     'A softmax over cosine similarities to class proxies: plain classification, with both sides normalised.'),
    ('rankedlistloss', 'Ranked list', 'train_rankedlistloss.py', (),
     'Ranked List Loss for Deep Metric Learning', _ARXIV + '1903.03238',
     'Keeps positives inside a ball around the query and pushes negatives, the nearest most, beyond a margin.'),
    ('dreml', 'DREML', 'train_dreml.py', (),
     'Deep Randomized Ensembles for Metric Learning', _ARXIV + '1808.04469',
     'Many small networks each learn a random grouping of the classes; their embeddings are joined.'),
    ('discriminative', 'Discriminative', 'train_discriminative.py', (),
     'A Theoretically Sound Upper Bound on the Triplet Loss for Improving the Efficiency of Deep Distance Metric '
     'Learning',
     _ARXIV + '1904.08720',
     'Pulls every image to a fixed, one-hot centre of its class: a bound on the triplet loss that needs no triplets.'),
)

ALGORITHMS: List[Algorithm] = [
    Algorithm(key, name, script, flags, title, link, idea, **_look(i))
    for i, (key, name, script, flags, title, link, idea) in enumerate(_ROWS)]

# What is compared with, drawn in grey: no algorithm of the paper, so never a gap where it is missing.
REFERENCES: List[Algorithm] = [
    Algorithm('untrained', 'Untrained net', colour='#BBBBBB', marker='|'),
    Algorithm('raw-pixels', 'Raw pixels', colour='#DDDDDD', marker='|')]

_BY_KEY = {a.key: a for a in ALGORITHMS + REFERENCES}
_RELATIVES = {'proxy-xentropy': 'Proxy-xentropy', 'proxy-margin': 'Proxy-margin'}


def algorithm(key: str) -> Algorithm:
    """The algorithm of that key; one that nobody here has heard of gets its key as name, and a look made from it."""
    if key in _BY_KEY:
        return _BY_KEY[key]
    look = _look(len(_SOLID) + zlib.crc32(key.encode('utf-8', 'replace')) % len(_HATCHED))
    return Algorithm(key, _RELATIVES.get(key, key), **dict(look, hatch='.....', dashes=':'))


def position(key: str) -> Tuple[int, str]:
    """Sorts keys: first the paper's, in its order, then all others by name."""
    keys = [a.key for a in ALGORITHMS]
    return (keys.index(key), '') if key in keys else (len(keys), key)


def identify(name: Optional[str], script: Optional[str], flags: Dict[str, Any], path: str = '') -> str:
    """Key of the algorithm of a log, from what the log says of itself, else from the name of its file.

    Parameters
    ----------
    name, script : str or None
        Fields of the log's ``config``.
    flags : dict
        All flags of the run.
    path : str
        The file.

    Outputs
    -------
    str
        A key of `ALGORITHMS` or `REFERENCES`, or, for an algorithm of the user's own, the name it goes by.
    """
    if name in _BY_KEY:
        return str(name)
    known = {a.script[len('train_'):-len('.py')] for a in ALGORITHMS}
    for text in (script, name):
        text = _plain(text)
        if text in known:
            return _with_loss(text, flags)
    if name or script:
        return str(name or _plain(script))
    stem = os.path.basename(path).split('.')[0]
    prefix = flags.get('save_model_prefix')
    for text in (stem, prefix if isinstance(prefix, str) else ''):
        for one in sorted(known, key=len, reverse=True):
            if (_plain(text) + '_').startswith(one + '_'):
                return _with_loss(one, flags)
    return stem or 'unknown'


def _plain(script: Optional[str]) -> str:
    name = os.path.basename(script or '').replace('-', '_')
    name = name[:-len('.py')] if name.endswith('.py') else name
    return name[len('train_'):] if name.startswith('train_') else name


def _with_loss(script: str, flags: Dict[str, Any]) -> str:
    if script != 'proxy':
        return next(a.key for a in ALGORITHMS if a.script == f'train_{script}.py')
    loss = str(flags.get('loss', 'triplet'))
    return {'nca': 'proxy-nca', 'triplet': 'proxy-triplet', 'proxymargin': 'proxy-margin'}.get(loss, f'proxy-{loss}')
