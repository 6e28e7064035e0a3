"""Retrieval metrics against brute force; embedding; the picture; the command line."""
from __future__ import annotations

import collections
import glob
import json
import os
import shutil
import subprocess
import sys
import time

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon
from PIL import Image

from common import evaluation, pixels
from common.errors import UsageError
from common.evaluation import pictures, retrieval, tiles
from common.evaluation import __main__ as score
from common.evaluation import EvaluationError, embed, evaluate, recall_at_k
from common.evaluation.embeddings_file import ARRAYS
from common.stats import PLAIN_METRICS
from dataset import get_dataset, inshop
from dataset.imageset import Counts
from dataset.loader import Loader
from models import ModelError
from tests.oracles.retrieval import NEVER, brute_force
from tests.tiny import flags, make_tree

Batch = collections.namedtuple('Batch', 'images labels indices')


def clusters(count=260, classes=40, dims=9, spread=1.0, seed=0):
    """Gaussian classes of different sizes, some of them of one image."""
    rng = np.random.RandomState(seed)
    labels = np.minimum(rng.randint(0, classes, count), rng.randint(0, classes, count))
    return (rng.randn(classes, dims)[labels] + spread * rng.randn(count, dims)).astype(np.float32), labels


def compare(*inputs, depth=10 ** 6, **kwargs):
    first, precision, share = brute_force(*inputs)
    got = retrieval.rank(*inputs, depth=depth, **kwargs)
    np.testing.assert_array_equal(got.first, np.where(first <= depth, first, NEVER))
    if kwargs.get('with_r', True):
        np.testing.assert_allclose(got.average_precision, precision, atol=1e-12)
        np.testing.assert_allclose(got.r_precision, share, atol=1e-12)
    return first


def with_duplicates(x, labels):
    x = x.copy()
    x[::3] = x[0]
    x[1::5] = x[1]
    return x, labels


CASES = {
    'easy': lambda: clusters(spread=0.3),
    'mixed': lambda: clusters(spread=1.5),
    'hard': lambda: clusters(spread=20.0),
    'duplicates': lambda: with_duplicates(*clusters()),
    'ties': lambda: (np.round(clusters()[0]), clusters()[1]),
    'all equal': lambda: (np.ones((60, 3), np.float32), np.arange(60) % 7),
    'large offset': lambda: ((clusters()[0] + 5000).astype(np.float32), clusters()[1]),
    'an outlier': lambda: (np.concatenate([clusters()[0], np.full((1, 9), 1e7, np.float32)]), np.r_[clusters()[1], 3]),
    'huge': lambda: (clusters()[0] * 1e30, clusters()[1]),
    'tiny': lambda: (clusters()[0] * 1e-30, clusters()[1]),
    'float64': lambda: (clusters()[0].astype(np.float64) / 3, clusters()[1]),
    'integers': lambda: (np.round(clusters()[0]).astype(np.int64), clusters()[1]),
    'one dimension': lambda: (clusters()[0][:, :1].copy(), clusters()[1]),
    'two classes': lambda: (clusters()[0], clusters()[1] % 2),
    'one class': lambda: (clusters()[0], clusters()[1] * 0),
    'no positives': lambda: (clusters()[0], np.arange(260)),
    'negative labels': lambda: (clusters()[0], -7 * clusters()[1]),
    'two images': lambda: (clusters()[0][:2], np.array([5, 5])),
}


@pytest.mark.parametrize('name', CASES)
def test_ranks_are_those_of_brute_force(name):
    compare(*CASES[name]())


@pytest.mark.parametrize('name', CASES)
def test_ranks_in_many_small_blocks(name, monkeypatch):
    for constant, value in (('QUERIES', 33), ('TILE', 17), ('FIRST_TILE', 40), ('PAIRS', 60)):
        monkeypatch.setattr(retrieval, constant, value)
    x, labels = CASES[name]()
    compare(x, labels)
    compare(x, labels, depth=3)
    compare(x, labels, with_r=False)
    compare(x, labels, depth=5, with_r=False)


@pytest.mark.parametrize('block', [1, 2, 31, 259, 260, 261])
@pytest.mark.parametrize('tile', [1, 7, 260, 500])
def test_every_block_size(block, tile, monkeypatch):
    x, labels = clusters()
    monkeypatch.setattr(retrieval, 'QUERIES', block)
    monkeypatch.setattr(retrieval, 'TILE', tile)
    monkeypatch.setattr(retrieval, 'FIRST_TILE', 2 * tile)
    got, expected = retrieval.rank(x, labels, depth=100), brute_force(x, labels)
    np.testing.assert_array_equal(got.first, np.where(expected[0] <= 100, expected[0], NEVER))
    np.testing.assert_allclose(got.average_precision, expected[1], atol=1e-12)


@pytest.mark.parametrize('spread', [0.3, 1.5])
def test_query_and_gallery_differ(spread):
    x, labels = clusters(spread=spread)
    compare(x[:90], labels[:90], x[90:], labels[90:])
    compare(x[:1], labels[:1], x[1:], labels[1:])
    compare(x[:5], labels[:5], x[5:6], labels[5:6])
    compare(x[:90], labels[:90] + 20, x[90:], labels[90:])          # some classes have no gallery images
    first = compare(x, labels, x, labels)                           # the query in the gallery is an image like others
    assert (first == 1).all()


def test_near_ties_beyond_float32():
    """Distances that differ by less than float32 can tell, in the data's own units and far from the origin."""
    rng = np.random.RandomState(0)
    x = 1 + rng.randn(200, 3) * 1e-9
    x[:100] += 1e3
    compare(x, rng.randint(0, 20, 200))


def test_ranks_beyond_a_byte():
    """More than 256 nearer images in one tile, and tiles whose height is no multiple of 255."""
    first = compare(*clusters(900, 300, spread=20.0), with_r=False)
    assert np.sum((first > 256) & (first < NEVER)) > 100


def test_device_tiles_give_the_same(monkeypatch):
    """What runs on a GPU, run by MXNet on the CPU."""
    for constant, value in (('QUERIES', 64), ('TILE', 50), ('FIRST_TILE', 80)):
        monkeypatch.setattr(retrieval, constant, value)
    for name in 'mixed', 'hard', 'duplicates', 'two images':
        compare(*CASES[name](), make_tiles=lambda rows: tiles.DeviceTiles(rows, mx.cpu()))


@pytest.mark.parametrize('depth', [1, 3, 20, 299])
def test_many_duplicates_at_every_depth(depth):
    """Some of them are left out of the search; that must not show. Negative zeros equal zeros."""
    rng = np.random.RandomState(depth)
    x = np.repeat(rng.randint(-1, 2, (6, 2)), 50, axis=0).astype(np.float32)[rng.permutation(300)]
    x[rng.rand(300) < 0.5] *= -1                                    # makes negative zeros
    x[::17] += rng.randn(18, 2)
    for classes in 2, 30, 250:
        labels = rng.randint(0, classes, 300)
        compare(x, labels, depth=depth)
        compare(x, labels, depth=depth, with_r=False)
        compare(x[:70], labels[:70], x[70:], labels[70:], depth=depth)


def test_spare_duplicates_where_hashes_collide(monkeypatch):
    x = np.array([[1, 2], [1, 2], [3, 4], [1, 2], [3, 4], [1, 2], [5, 6], [3, 4]], np.float32)
    assert list(retrieval.without_spare_duplicates(x, 1)) == [0, 1, 2, 4, 6]
    monkeypatch.setattr(retrieval, 'row_hashes', lambda x: np.zeros(len(x), np.uint64))
    assert list(retrieval.without_spare_duplicates(x, 1)) == [0, 1, 2, 4, 6, 7]     # different rows are never left out


def test_collapsed_embeddings_take_no_longer_search(monkeypatch):
    """20,000 equal embeddings: the search sees as many of them as can be retrieved."""
    seen = []
    labels = np.arange(20000) // 5
    retrieval.rank(np.ones((20000, 4), np.float32), labels, depth=8, make_tiles=lambda rows: seen.append(len(rows)) or
                   tiles.HostTiles(rows))
    assert seen == [9]


def test_threads_do_not_change_anything(monkeypatch):
    x, labels = clusters(2000, 300)
    results = []
    for threads in '1', '2', '5', '4,2':
        monkeypatch.setenv('OMP_NUM_THREADS', threads)
        results.append(retrieval.rank(x, labels, depth=50))
    for other in results[1:]:
        for a, b in zip(results[0], other):
            np.testing.assert_array_equal(a, b)


def test_metrics_are_percentages_of_the_ranks():
    x, labels = clusters()
    first, precision, share = brute_force(x, labels)
    assert (first == NEVER).any()                                   # and such queries count as misses, in all metrics
    metrics = evaluate(x, labels, ks=(4, 1, 1000))
    assert list(metrics)[:6] == ['recall@1', 'recall@4', 'recall@1000', 'map@r', 'r_precision', 'nmi']
    for k in 1, 4, 1000:                                            # 1000 is more than there are
        assert metrics[f'recall@{k}'] == pytest.approx(100 * np.mean(first <= k), abs=1e-10)
    assert metrics['map@r'] == pytest.approx(100 * precision.mean(), abs=1e-10)
    assert metrics['r_precision'] == pytest.approx(100 * share.mean(), abs=1e-10)
    assert recall_at_k(x, labels, ks=(1, 4)) == {1: metrics['recall@1'], 4: metrics['recall@4']}
    assert 'nmi' not in evaluate(x, labels, with_nmi=False)


@pytest.mark.parametrize('with_gallery', [False, True])
def test_hits_of_recall_at_1_by_class(with_gallery):
    x, labels = clusters()
    labels = labels * 7 - 3                                         # any whole numbers, in any order
    half = len(x) // 2
    arguments = (x[:half], labels[:half], x[half:], labels[half:]) if with_gallery else (x, labels)
    metrics = evaluate(*arguments, ks=(4,), with_nmi=False, by_class=True)
    first = retrieval.rank(*arguments).first
    for i, label in enumerate(sorted(set(arguments[1]))):
        of_class = [rank for rank, own in zip(first, arguments[1]) if own == label]
        assert metrics['class_images'][i] == len(of_class)
        assert metrics['class_hits'][i] == sum(rank == 1 for rank in of_class)
    assert len(metrics['class_images']) == len(metrics['class_hits']) == len(set(arguments[1]))
    assert 100 * sum(metrics['class_hits']) / sum(metrics['class_images']) == pytest.approx(100 * np.mean(first == 1))


def test_a_worked_example():
    """Four images on a line: A at 0, B at 1, A at 3, A at 3.5; for the A at 0: B, A, A, so P(2) = 1/2 of R = 2."""
    x, labels = np.array([[0.0], [1.0], [3.0], [3.5]]), np.array([0, 1, 0, 0])
    got = retrieval.rank(x, labels, depth=4)
    np.testing.assert_array_equal(got.first, [2, NEVER, 1, 1])
    np.testing.assert_allclose(got.average_precision, [0.25, 0, 0.5, 0.5])
    np.testing.assert_allclose(got.r_precision, [0.5, 0, 0.5, 0.5])
    np.testing.assert_array_equal(got.positives, [2, 0, 2, 2])


def test_embeddings_are_not_changed():
    x, labels = clusters()
    before = x.copy()
    evaluate(x, labels)
    np.testing.assert_array_equal(x, before)


def spoilt(value):
    x = np.zeros((4, 2), np.float32)
    x[2, 1] = value
    return x


FOUR = np.arange(8.0).reshape(4, 2), np.array([0, 0, 1, 1])


@pytest.mark.parametrize('arguments, message', [
    ((spoilt(np.nan), FOUR[1]), 'NaN or infinite values in 1 of 4 rows (the first is row 2)'),
    ((spoilt(np.inf), FOUR[1]), 'NaN or infinite'),
    ((FOUR[0], FOUR[1][:3]), 'there are 4 embeddings, but their labels have shape (3,)'),
    ((FOUR[0], FOUR[1] + 0.5), 'whole numbers'),
    ((FOUR[0], np.array(['a', 'b', 'c', 'd'])), 'whole numbers'),
    ((FOUR[0][0], FOUR[1]), 'shape'),
    ((np.array([['a']]), FOUR[1]), 'array of numbers'),
    ((FOUR[0][:1], FOUR[1][:1]), 'one image only'),
    ((FOUR[0][:0], FOUR[1][:0]), 'no embeddings'),
    ((*FOUR, FOUR[0][:0], FOUR[1][:0]), 'the gallery is empty'),
    ((*FOUR, spoilt(np.nan), FOUR[1]), 'gallery embeddings have NaN'),
    ((*FOUR, FOUR[0][:, :1], FOUR[1]), '2 dimensions, but those of the gallery 1'),
    ((*FOUR, FOUR[0], None), 'no gallery labels'),
    ((*FOUR, None, FOUR[1]), 'no gallery embeddings'),
    ((*FOUR, FOUR[0], FOUR[1][:1]), 'there are 4 gallery embeddings, but their labels'),
    ((*FOUR, None, None, (0, 1)), 'positive whole numbers'),
    ((*FOUR, None, None, ()), 'positive whole numbers'),
])
def test_what_cannot_be_scored_is_refused(arguments, message):
    with pytest.raises(EvaluationError) as error:
        evaluate(*arguments)
    assert message in str(error.value) and '\n' not in str(error.value)


def batches(count, size, classes=3, side=6, seed=0):
    rng = np.random.RandomState(seed)
    images = rng.randint(0, 256, (count, side, side, 3)).astype(np.uint8)
    labels = np.arange(count) % classes
    return [Batch(images[s:s + size], labels[s:s + size], np.arange(count)[s:s + size]) for s in range(0, count, size)]


class Net(gluon.HybridBlock):
    """Notes the shapes that it is compiled for."""

    def __init__(self):
        super().__init__()
        self.shapes = []
        self.dense = gluon.nn.Dense(5)

    def hybrid_forward(self, F, x):
        if F is mx.nd:
            self.shapes.append(x.shape)
        return self.dense(F.cast(x, 'float32') / 255)


def make_net(ctx):
    net = Net()
    net.initialize(mx.init.Xavier(), ctx=ctx)
    return net


@pytest.mark.parametrize('devices', [1, 2, 3])
@pytest.mark.parametrize('static', [False, True])
def test_embed_equals_one_forward_pass(devices, static):
    ctx = [mx.cpu(i) for i in range(devices)]
    net, data = make_net(ctx), batches(61, 8)
    whole = np.concatenate([b.images for b in data])
    expected = net(mx.nd.array(whole, dtype='uint8')).asnumpy()
    net.hybridize(static_alloc=static)
    embeddings, labels = embed(net, data, ctx)
    assert embeddings.dtype == np.float32 and labels.dtype == np.int64
    np.testing.assert_allclose(embeddings, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(labels, np.arange(61) % 3)


def test_embed_always_sends_one_shape():
    """So that a hybridized net is compiled once: for partial batches, and where a batch is larger than the first."""
    ctx = [mx.cpu(0), mx.cpu(1)]
    net = make_net(ctx)
    net(mx.nd.zeros((1, 6, 6, 3), dtype='uint8'))
    net.shapes.clear()
    data = [*batches(9, 9), *batches(3, 3), *batches(20, 20)]
    embeddings, _ = embed(net, data, ctx)
    assert set(net.shapes) == {(5, 6, 6, 3)}
    whole = np.concatenate([b.images for b in data])
    np.testing.assert_allclose(embeddings, net(mx.nd.array(whole, dtype='uint8')).asnumpy(), rtol=1e-5, atol=1e-6)


def test_embed_several_outputs():
    net, data = make_net([mx.cpu()]), batches(10, 4)
    embeddings, _ = embed(lambda x: collections.OrderedDict(b=net(x), a=2 * net(x)), data, mx.cpu())
    assert list(embeddings) == ['b', 'a']
    np.testing.assert_allclose(embeddings['a'], 2 * embeddings['b'], rtol=1e-6)


def test_embed_nothing():
    with pytest.raises(EvaluationError, match='no images'):
        embed(lambda x: x, [], mx.cpu())


def test_retrieval_picture_frames(tmp_path):
    """Classes are at 0 and 100 on a line, but one image of class 0 is among those of class 1."""
    positions, labels = [0, 1, 100, 101, 102], [0, 0, 1, 1, 0]
    paths = []
    for i, colour in enumerate(['white', 'gray', 'blue', 'navy']):
        paths.append(str(tmp_path / f'{i}.png'))
        Image.new('RGB', (30, 20), colour).save(paths[-1])
    paths.append(str(tmp_path / 'missing.png'))
    imageset = collections.namedtuple('Images', 'paths')(paths)
    target = str(tmp_path / 'picture.png')
    embeddings = np.array(positions, np.float32)[:, None]
    evaluation.retrieval_picture(imageset, embeddings, np.array(labels), target, queries=5, neighbours=2)
    with Image.open(target) as image:
        pixels = np.asarray(image)
    step = pictures.SIDE + 2 * pictures.FRAME + pictures.GAP
    order = []
    for row in range(5):
        y = pictures.GAP + row * step + 10
        colours = [tuple(pixels[y, pictures.GAP + c * step + (2 * pictures.GAP if c else 0) + 1]) for c in range(3)]
        assert colours[0] == pictures.PLAIN
        inner = pixels[y + 20, pictures.GAP + pictures.FRAME + 40]
        query = {(255, 255, 255): 0, (128, 128, 128): 1, (0, 0, 255): 2, (0, 0, 128): 3}.get(tuple(inner), 4)
        order.append(query)
        for colour, neighbour in zip(colours[1:], pictures.nearest_neighbours(embeddings, query, 2)):
            assert colour == (pictures.RIGHT if labels[neighbour] == labels[query] else pictures.WRONG)
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert labels[order[0]] != labels[order[1]]                     # classes first
    assert os.listdir(tmp_path).count('picture.png') == 1 and not [f for f in os.listdir(tmp_path) if '.tmp-' in f]


def test_nearest_neighbours_of_a_picture():
    x = np.array([[5.], [0.], [5.], [6.], [5.]])
    assert list(pictures.nearest_neighbours(x, 2, 3)) == [0, 4, 3]
    assert list(pictures.nearest_neighbours(x, 0, 9)) == [2, 4, 3, 1]


def test_retrieval_picture_shows_every_class_first(tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr(pictures, 'nearest_neighbours', lambda x, query, *_: shown.append(query) or [0])
    labels = np.array([0] * 40 + [1, 2, 3])
    imageset = collections.namedtuple('Images', 'paths')(['none'] * 43)
    evaluation.retrieval_picture(imageset, np.zeros((43, 2)), labels, str(tmp_path / 'p.png'), queries=6)
    assert sorted(labels[shown[:4]]) == [0, 1, 2, 3] and list(labels[shown[4:]]) == [0, 0] and len(set(shown)) == 6


def test_retrieval_picture_of_queries_shows_the_gallery(tmp_path, monkeypatch):
    found, real = {}, pictures.nearest_neighbours
    monkeypatch.setattr(pictures, 'nearest_neighbours', lambda *a: found.setdefault(a[1], real(*a)))
    queries = np.array([True, False, True, False, False, True])
    imageset = collections.namedtuple('Images', 'paths queries')(['none'] * 6, queries)
    x = np.array([[0.], [1.], [0.5], [5.], [4.], [4.5]])
    evaluation.retrieval_picture(imageset, x, np.zeros(6, int), str(tmp_path / 'p.png'))
    assert {query: list(rows) for query, rows in found.items()} == {0: [1, 4, 3], 2: [1, 4, 3], 5: [3, 4, 1]}


def test_retrieval_picture_refuses(tmp_path):
    imageset = collections.namedtuple('Images', 'paths')(['a', 'b', 'c'])
    with pytest.raises(EvaluationError, match='2 embeddings, but 3 images'):
        evaluation.retrieval_picture(imageset, np.zeros((2, 2)), np.zeros(2), str(tmp_path / 'p.png'))
    with pytest.raises(OSError):
        evaluation.retrieval_picture(imageset, np.zeros((3, 2)), np.zeros(3), str(tmp_path / 'none' / 'p.png'))


@pytest.mark.parametrize('x', [np.random.RandomState(0).randn(30, 3), np.zeros((5, 2)), np.eye(4)[:, :1]])
def test_embedding_map(x, tmp_path):
    path = str(tmp_path / 'map.png')
    pictures.embedding_map(x, np.arange(len(x)) % 3, path)
    with Image.open(path) as image:
        assert min(image.size) > 300


def save(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def test_command_scores_a_file(tmp_path, capsys):
    x, labels = clusters()
    labels[labels == np.flatnonzero(np.bincount(labels) == 2)[0]] = 0
    path = save(tmp_path / 'e.npz', embeddings=x, labels=labels)
    output = str(tmp_path / 'o.json')
    score.run(score.parse_args(['--embeddings', path, '--ks', '1,7', '--gpus', '-2', '--json', output]))
    record = json.loads((tmp_path / 'o.json').read_text())
    expected = evaluate(x, labels, ks=(1, 7), seed=123)
    assert record['metrics'] == expected and record['images'] == 260 and record['dimensions'] == 9
    lonely = (retrieval.rank(x, labels).positives == 0).sum()
    assert record['queries_without_positive'] == lonely != (np.bincount(labels) == 2).sum() and lonely
    out = capsys.readouterr().out
    for metric, value in expected.items():
        assert (f'{value:.4f}' if metric in PLAIN_METRICS else f'{value:.2f} %') in out
    assert 'count as misses' in out and 'geometric' in out


def test_command_takes_a_gallery(tmp_path):
    x, labels = clusters()
    path = save(tmp_path / 'e.npz', embeddings=x[:50], labels=labels[:50], gallery_embeddings=x[50:],
                gallery_labels=labels[50:])
    record, = score.run(score.parse_args(['--embeddings', path, '--no-nmi', '--gpus', '-2']))
    assert record['metrics'] == evaluate(x[:50], labels[:50], x[50:], labels[50:], with_nmi=False)
    assert record['gallery'] == 210


def test_queries_search_the_gallery_alone():
    x, labels = clusters()
    queries = np.random.RandomState(0).rand(len(x)) < 0.5
    expected = evaluate(x[queries], labels[queries], x[~queries], labels[~queries], ks=(1, 3), with_nmi=False)
    assert evaluate(x, labels, ks=(1, 3), with_nmi=False, queries=queries) == expected
    assert expected['recall@1'] != evaluate(x, labels, ks=(1, 3), with_nmi=False)['recall@1']
    with pytest.raises(EvaluationError, match='gallery is empty'):
        evaluate(x, labels, queries=np.ones(len(x), bool))


def damaged(tmp_path, kind):
    path = tmp_path / 'e.npz'
    x = np.zeros((4, 2))
    if kind == 'text':
        path.write_text('no archive')
    elif kind == 'empty':
        path.write_text('')
    elif kind == 'npy':
        with open(path, 'wb') as file:
            np.save(file, x)
    elif kind == 'objects':
        save(path, embeddings=np.array([None, {}]), labels=FOUR[1])
    elif kind == 'no labels':
        save(path, embeddings=x)
    elif kind == 'no embeddings':
        save(path, labels=FOUR[1])
    elif kind == 'short labels':
        save(path, embeddings=x, labels=FOUR[1][:2])
    elif kind == 'folder':
        path.mkdir()
    elif kind in ('cut', 'flipped'):
        save(path, embeddings=np.random.RandomState(0).randn(40, 9), labels=np.zeros(40))
        data = bytearray(path.read_bytes())
        if kind == 'cut':
            data = data[:1500]
        else:
            data[900] ^= 255
        path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize('kind, message', [
    ('text', 'not an .npz'), ('empty', 'not an .npz'), ('npy', 'not an .npz'), ('objects', 'Python objects'),
    ('no labels', "no array 'labels'"), ('no embeddings', "no array 'embeddings'"),
    ('short labels', 'labels have shape'), ('folder', 'irectory'), ('missing', 'No such file'), ('cut', 'damaged'),
    ('flipped', 'damaged')])
def test_command_ends_with_one_line_on_a_bad_file(kind, message, tmp_path, monkeypatch, capsys):
    path = damaged(tmp_path, kind)
    monkeypatch.setattr(sys, 'argv', ['evaluation.py', '--embeddings', path, '--gpus', '-2'])
    with pytest.raises(SystemExit) as end:
        score.main(score.parse_args, score.run)
    err = capsys.readouterr().err
    assert end.value.code == 1 and message in err and path in err and err.count('\n') == 1


@pytest.mark.parametrize('argv', [
    [], ['--embeddings', 'a', '--model', 'b'], ['--model', 'a'], ['--model', 'a', '--script', 'train_nothing'],
    ['--model', 'a', '--script', '../../etc/train_margin2'], ['--embeddings', 'a', '--ks', '0'],
    ['--embeddings', 'a', '--ks', 'x'], ['--embeddings', 'a', '--unknown'], ['--embeddings', 'a', '--seed', '-1'],
    ['--embeddings', 'a', '--script', 'train_margin'], ['--embeddings', 'a', '--gpus', 'x']])
def test_wrong_usage_ends_with_status_2(argv, monkeypatch, capsys, tmp_path):
    argv = [save(tmp_path / 'a.npz', embeddings=FOUR[0], labels=FOUR[1]) if a == 'a' else a for a in argv]
    monkeypatch.setattr(sys, 'argv', ['evaluation.py', *argv])
    with pytest.raises(SystemExit) as end:
        score.main(score.parse_args, score.run)
    assert end.value.code == 2 and capsys.readouterr().err.count('\n') == 1


def test_command_embeds_with_a_saved_model(tmp_path, monkeypatch):
    """The scores are those that training logged; the files can be read again; a damaged image is left out."""
    import train_margin
    tree, results = make_tree(tmp_path / 'tree'), str(tmp_path / 'results')
    more = ['--batch-k', '2', '--batches-per-epoch', '2', '--epochs', '1', '--seed', '3']
    summary = train_margin.train_margin(train_margin.parse_args(flags(tree, results, *more)))
    logged = summary['runs'][0]['last'] if 'runs' in summary else summary['last']
    model = os.path.join(results, 'models', 'train_margin_miniCUB_convnet-last.params')
    own = flags(tree, results, *more)
    own[own.index('--model')] = '--backbone'
    output = str(tmp_path / 'out')
    argv = ['--model', model, '--script', 'train_margin', '--output', output, *own]
    record, = score.run(score.parse_args(argv))
    assert record['metrics'] == {name: pytest.approx(logged[name], abs=1e-9) for name in record['metrics']}
    with np.load(output + '.npz', allow_pickle=False) as file:
        assert file['embeddings'].shape == (32, 8) and len(file['paths']) == len(file['labels']) == 32
    again, = score.run(score.parse_args(['--embeddings', output + '.npz', '--seed', '3', '--gpus', '-2']))
    assert again['metrics'] == record['metrics']
    for name in 'neighbours', 'map':
        with Image.open(f'{output}-{name}.png') as image:
            assert min(image.size) > 100

    bad = os.path.join(tree, '005.class', '3.png')
    open(bad, 'wb').close()
    record, = score.run(score.parse_args([*argv, '--skip-bad-images', '1']))
    assert record['images'] == 31
    with np.load(output + '.npz', allow_pickle=False) as file:
        assert bad not in list(file['paths']) and len(file['paths']) == 31


def test_command_as_a_module(tmp_path):
    path = save(tmp_path / 'e.npz', embeddings=clusters()[0], labels=clusters()[1])
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(evaluation.__file__))))
    done = subprocess.run([sys.executable, '-m', 'common.evaluation', '--embeddings', path, '--gpus', '-2'], cwd=root,
                          capture_output=True, text=True)
    assert done.returncode == 0 and 'MAP@R' in done.stdout and done.stderr == ''


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A folder with `tree`, and a network that was trained on it at 16 pixels; its last weights."""
    import train_margin
    folder = tmp_path_factory.mktemp('trained')
    tree = make_tree(folder / 'tree')
    train_margin.train_margin(train_margin.parse_args(flags(
        tree, str(folder), '--batch-k', '2', '--batches-per-epoch', '2', '--epochs', '1')))
    return folder, str(folder / 'models' / 'train_margin_miniCUB_convnet-last.params')


def scored(*argv):
    return score.run(score.parse_args([*argv, '--gpus', '-2', '--no-nmi']))


def test_a_saved_model_needs_no_flags_of_training(trained, tmp_path):
    folder, model = trained
    with open(folder / 'logs' / 'train_margin_miniCUB_convnet.jsonl') as file:
        logged = [json.loads(line) for line in file][-1]['last']
    record, = scored('--model', model, '--output', str(tmp_path / 'o'))
    assert record['metrics']['recall@1'] == pytest.approx(logged['recall@1']['mean'])
    with pytest.raises(UsageError, match='--image-size is 18, but the network was trained with 16'):
        scored('--model', model, '--image-size', '18')


def test_embeddings_of_several_networks_are_joined(trained, tmp_path):
    """As A Metric Learning Reality Check does it with folds: each scaled to unit length, then side by side."""
    import train_margin
    folder, other = trained
    own = ['--batch-k', '4', '--batches-per-epoch', '2', '--epochs', '1']
    for fold in '1/2', '2/2':
        train_margin.train_margin(train_margin.parse_args(flags(
            str(folder / 'tree'), str(tmp_path), '--fold', fold, '--log-postfix', fold[0], *own)))
    models = [str(tmp_path / 'models' / f'train_margin_miniCUB_convnet{n}-best.params') for n in '12']
    for number, model in enumerate(models):
        scored('--model', model, '--output', str(tmp_path / f'{number}'))
    record, = scored('--model', models[0], '--model', models[1], '--output', str(tmp_path / 'both'))
    x = []
    for number in '01':
        with np.load(tmp_path / f'{number}.npz') as file:
            x.append(file['embeddings'].astype(np.float64))
            labels = file['labels']
    assert not np.allclose(*x)
    x = np.concatenate([one / np.linalg.norm(one, axis=1, keepdims=True) for one in x], axis=1)
    with np.load(tmp_path / 'both.npz') as file:
        np.testing.assert_allclose(file['embeddings'], x, atol=1e-5)
    distances = ((x[:, None] - x) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    assert record['metrics']['recall@1'] == pytest.approx(100 * np.mean(labels[distances.argmin(axis=1)] == labels))
    assert record['dimensions'] == 16
    with open(models[1].replace('.params', '.json')) as file:
        saved = json.load(file)
    for change, message in (({'flags': {**saved['flags'], 'resize': 20}}, '--resize 20, but the first model 18'),
                            ({'script': 'train_angular'}, 'is of train_angular, but the first model is of')):
        with open(models[1].replace('.params', '.json'), 'w') as file:
            json.dump({**saved, **change}, file)
        with pytest.raises(UsageError, match=message):
            scored('--model', *models, '--output', str(tmp_path / 'both'))


def small_inshop(tmp_path, monkeypatch):
    """Four classes to train with and four to test with, of 3 queries and 5 images in the gallery each."""
    monkeypatch.setattr(inshop, 'COUNTS', Counts(4, 4, 32, 32))
    monkeypatch.setattr(inshop, 'QUERIES', 12)
    tree = make_tree(tmp_path / 'inshop' / 'img')
    names = sorted(os.path.relpath(path, tmp_path / 'inshop') for path in glob.glob(f'{tree}/*/*.png'))
    rows = [f'{name} {name.split("/")[1]} {"train" if i < 32 else "query" if i % 8 in (1, 4, 6) else "gallery"}'
            for i, name in enumerate(names)]
    (tmp_path / 'inshop' / 'list_eval_partition.txt').write_text(
        '\n'.join(['64', 'image_name item_id evaluation_status', *rows, '']))
    return str(tmp_path / 'inshop')


def test_queries_search_the_gallery_in_training_in_the_command_and_for_pixels(tmp_path, monkeypatch):
    import train_margin
    tree = small_inshop(tmp_path, monkeypatch)
    bad = os.path.join(tree, 'img', '006.class', '2.png')      # of the gallery
    shutil.move(bad, tmp_path / 'good.png')
    open(bad, 'wb').close()
    own = ['--skip-bad-images', '1', '--epochs', '1', '--batch-k', '4', '--batches-per-epoch', '2', '--seed', '3']
    words = flags(tree, str(tmp_path), '--val-split', '0.5', *own)
    words[words.index('miniCUB')] = 'INSHOP'
    logged = train_margin.train_margin(train_margin.parse_args(words))['runs'][0]['last']
    assert [name for name in logged if name.startswith('recall')] == [f'recall@{k}' for k in (1, 10, 20, 30, 40, 50)]
    assert logged['class_hits'] and logged['val']['recall@50'] == 100
    model = str(tmp_path / 'models' / 'train_margin_INSHOP_convnet-last.params')
    record, = score.run(score.parse_args(['--model', model, '--output', str(tmp_path / 'o'), '--gpus', '-2',
                                          '--seed', '3']))
    assert (record['images'], record['gallery']) == (12, 19)
    assert record['metrics'] == {name: pytest.approx(logged[name], abs=1e-9) for name in record['metrics']}
    with np.load(tmp_path / 'o.npz') as file:
        x, labels, gallery, gallery_labels = (file[name].astype(np.float64) for name in ARRAYS)
        assert bad not in file['gallery_paths'] and len(file['paths']) == 12
    nearest = ((x[:, None] - gallery) ** 2).sum(axis=2).argmin(axis=1)
    assert logged['recall@1'] == pytest.approx(100 * np.mean(gallery_labels[nearest] == labels))
    again, = score.run(score.parse_args(['--embeddings', str(tmp_path / 'o.npz'), '--ks', '1,10,20,30,40,50', '--seed',
                                         '3', '--gpus', '-2']))
    assert again['metrics'] == record['metrics']

    shutil.move(tmp_path / 'good.png', bad)
    found = pixels.score_pixels(pixels.parse_args(['--dataset', 'INSHOP', '--data-path', tree, '--image-size', '16']))
    _, test = get_dataset('INSHOP', tree)
    with Loader(test, None, train=False, batch_size=32, image_size=16, resize=18) as loader:
        x = next(iter(loader)).images.reshape(32, -1).astype(np.float64)
    gallery = np.flatnonzero(~test.queries)
    hits = [test.labels[gallery[((x[gallery] - x[query]) ** 2).sum(axis=1).argmin()]] == test.labels[query]
            for query in np.flatnonzero(test.queries)]
    assert found['recall@1'] == pytest.approx(100 * np.mean(hits)) and 'recall@50' in found


def test_any_folder_of_pictures_is_embedded_in_the_order_of_its_paths(trained, tmp_path):
    """Two pictures would never do for the sampler of the training."""
    folder, model = trained
    flat = tmp_path / 'flat'
    flat.mkdir()
    for name in ('b.png', 'a.png'):
        shutil.copy(folder / 'tree' / '007.class' / '0.png', flat / name)
    assert scored('--model', model, '--images', str(flat), '--output', str(tmp_path / 'o')) == []
    with np.load(tmp_path / 'o.npz') as file:
        assert [os.path.basename(path) for path in file['paths']] == ['a.png', 'b.png'] and 'labels' not in file.files
        np.testing.assert_array_equal(*file['embeddings'])
    record, = scored('--model', model, '--images', str(folder / 'tree'), '--output', str(tmp_path / 'p'))
    assert record['images'] == 64 and record['classes'] == 8        # all classes, not half of them
    (tmp_path / 'empty').mkdir()
    with pytest.raises(EvaluationError, match='--images .*empty: there are no pictures'):
        scored('--model', model, '--images', str(tmp_path / 'empty'))


def test_a_list_of_pictures_is_embedded_in_its_order_and_nothing_is_drawn(trained, tmp_path):
    folder, model = trained
    paths = [str(folder / 'tree' / name) for name in ('007.class/0.png', '000.class/3.png', '003.class/1.png')]
    listed = tmp_path / 'list.json'
    listed.write_text(json.dumps(paths))
    assert scored('--model', model, '--image-list', str(listed), '--output', str(tmp_path / 'o')) == []
    assert sorted(os.listdir(tmp_path)) == ['list.json', 'o.npz']
    with np.load(tmp_path / 'o.npz') as file:
        assert file['paths'].tolist() == paths and file['embeddings'].shape == (3, 8) and 'labels' not in file.files
    for text in ('[]', '["a.png", 3]', '{"a": 1}', 'a.png\n'):
        listed.write_text(text)
        with pytest.raises(EvaluationError, match='--image-list .*list.json: it is not a JSON list of paths'):
            scored('--model', model, '--image-list', str(listed), '--output', str(tmp_path / 'o'))


def test_a_copied_script_has_names_of_its_own_and_can_be_evaluated(trained, tmp_path, monkeypatch):
    folder, model = trained
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(evaluation.__file__))))
    shutil.copy(os.path.join(root, 'train_margin.py'), tmp_path / 'my_margin.py')
    monkeypatch.chdir(tmp_path)
    words = flags(str(folder / 'tree'), str(tmp_path), '--batch-k', '2', '--batches-per-epoch', '1', '--epochs', '1')
    subprocess.run([sys.executable, 'my_margin.py', *words], check=True, env={**os.environ, 'PYTHONPATH': root},
                   stdout=subprocess.DEVNULL)
    mine = str(tmp_path / 'models' / 'my_margin_miniCUB_convnet-best.params')
    assert scored('--model', mine, '--output', 'o') and scored('--model', mine, '--script', 'my_margin.py')
    with pytest.raises(UsageError, match='--script nothing: there is no such file'):
        scored('--model', mine, '--script', 'nothing')


def test_a_network_that_diverged_is_refused_by_name(trained, tmp_path):
    folder, model = trained
    arrays = mx.nd.load(model)
    name = sorted(arrays)[0]
    arrays[name][:] = np.nan
    broken = str(tmp_path / 'broken.params')
    mx.nd.save(broken, arrays)
    shutil.copy(model[:-len('.params')] + '.json', tmp_path / 'broken.json')
    with pytest.raises(ModelError, match=f'broken.params: expected .* but {name} has values that are not finite'):
        scored('--model', broken)


@pytest.mark.parametrize('normalize, recall', [([], 0), (['--normalize'], 100)])
@pytest.mark.parametrize('kind', ['npz', 'npy', 'csv'])
def test_embeddings_of_others(kind, normalize, recall, tmp_path):
    """By Euclidean distance every nearest neighbour is of the other class, by cosine of its own."""
    x, labels = np.array([[1, 0], [10, 1], [1, 1], [10, 10.]]), ['cat', 'cat', 'dog', 'dog']
    path, more = str(tmp_path / f'e.{kind}'), []
    if kind == 'npz':
        save(path, embeddings=x, labels=np.array([[0], [0], [1], [1]]))     # a column
    elif kind == 'npy':
        np.save(path, x)
        (tmp_path / 'labels.txt').write_text('\n'.join(labels))
        more = ['--labels', str(tmp_path / 'labels.txt')]
    else:
        rows = [','.join([label, *map(str, row)]) for label, row in zip(labels, x)]
        (tmp_path / 'e.csv').write_text('\n'.join(['label,x,y', *rows]))
    record, = scored('--embeddings', path, *more, '--ks', '1', *normalize)
    assert record['metrics']['recall@1'] == recall


@pytest.mark.parametrize('name, content, refusal', [
    ('e.csv', 'x,y\n1,2', 'no column "label"'), ('e.csv', 'label,x\na,b', 'not a table of a label and numbers'),
    ('e.csv', '', 'not a table'), ('e.npy', 'nonsense', 'not an .npy file')])
def test_damaged_embeddings_of_others(name, content, refusal, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(EvaluationError, match=refusal):
        scored('--embeddings', str(tmp_path / name))


def test_an_npy_needs_labels(tmp_path):
    np.save(tmp_path / 'e.npy', np.eye(3))
    with pytest.raises(UsageError, match='--labels'):
        scored('--embeddings', str(tmp_path / 'e.npy'))


@pytest.mark.parametrize('threads', ['1', '2'])
def test_after_an_error_no_further_block_begins(threads, monkeypatch):
    monkeypatch.setenv('OMP_NUM_THREADS', threads)
    begun = []

    def fail(block):
        begun.append(block)
        time.sleep(0.02)
        raise ValueError('this block')

    with pytest.raises(ValueError, match='this block'):
        list(tiles.map_blocks(fail, range(1000)))
    assert len(begun) < 500
