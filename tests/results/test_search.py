"""Searching in pictures: what is embedded again, what is found, the pages, and the map in a real browser."""
from __future__ import annotations

import csv
import itertools
import json
import os
import re
import shutil
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from dataset.folder import pictures_in
from dataset.image_files import IMAGE_SUFFIXES
from results.search import gallery as gallery_module
from results.search import pages
from results.search.__main__ import main
from results.search.gallery import SUFFIXES, Embedder, SearchError, read_gallery
from results.search.neighbours import nearest, project, worst
from tests.oracles import webdriver
from tests.tiny import flags, make_tree


@pytest.fixture
def embedded(monkeypatch):
    """The names of the pictures that were embedded, in the place of a network: the mean colour of nine fields."""
    names = []

    def run(self, paths):
        rows, reasons = {}, {}
        for i, path in enumerate(paths):
            names.append(os.path.basename(path))
            try:
                with Image.open(path) as image:
                    rows[i] = np.asarray(image.convert('RGB').resize((3, 3))).astype(np.float32).reshape(-1) / 255
            except OSError:
                reasons[i] = 'it is no picture'
        if len(reasons) > self.skip:
            raise SearchError(f'{paths[min(reasons)]}: it is no picture')
        return rows, reasons

    monkeypatch.setattr(Embedder, '_run', run)
    monkeypatch.delenv('DML_CACHE', raising=False)
    return names


@pytest.fixture
def model(tmp_path):
    (tmp_path / 'm.params').write_bytes(b'weights')
    (tmp_path / 'm.json').write_text('{"script": "train_margin", "flags": {}}')
    return str(tmp_path / 'm.params')


def search(model, gallery, output, *more):
    return main(['--model', model, '--gallery', str(gallery), '--output', str(output), *more])


def table(output):
    with open(output / 'neighbours.csv', newline='') as file:
        return list(csv.DictReader(file))


# The gallery ----------------------------------------------------------------------------------------------------------

def test_the_gallery_is_what_common_evaluation_embeds(tmp_path):
    tree = make_tree(tmp_path / 'tree', classes=2, per_class=2)
    os.makedirs(os.path.join(tree, '.hidden'))
    for name in ('.hidden/a.png', '000.class/.b.png', '000.class/notes.txt'):
        shutil.copy(os.path.join(tree, '000.class', '0.png'), os.path.join(tree, name))
    shutil.copytree(os.path.join(tree, '001.class'), os.path.join(tree, '001.class', 'deeper'))
    os.symlink(tree, os.path.join(tree, '001.class', 'circle'))
    os.remove(os.path.join(tree, '000.class', 'notes.txt'))         # begins as a picture, which `dataset` looks at
    found = read_gallery(tree)
    assert found.paths == pictures_in(tree) and len(found.paths) == 6 and SUFFIXES == IMAGE_SUFFIXES
    assert found.classes == ['000.class', '001.class'] and found.labels.tolist() == [0, 0, 1, 1, 1, 1]
    shutil.copy(found.paths[0], os.path.join(tree, 'loose.png'))
    assert read_gallery(tree).labels is None


def test_only_what_is_new_is_embedded(tmp_path, embedded, model):
    tree, cache = make_tree(tmp_path / 'tree', classes=2, per_class=3), str(tmp_path / 'c.npz')

    def embed():
        embedded.clear()
        return Embedder([model], cache).embed(read_gallery(tree).paths)[0]

    first = embed()
    assert len(embedded) == 6
    before = os.stat(cache).st_mtime_ns
    again = embed()
    assert embedded == [] and os.stat(cache).st_mtime_ns == before
    assert all(np.array_equal(first[i], again[i]) for i in range(6))
    changed, new = os.path.join(tree, '000.class', '1.png'), os.path.join(tree, '001.class', 'new.png')
    stamp = os.stat(changed)
    with Image.open(changed) as image:
        pixels = np.asarray(image)
    Image.fromarray(255 - pixels).save(changed)
    os.utime(changed, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))    # the content counts
    assert not np.array_equal(embed()[1], first[1]) and embedded == ['1.png']
    Image.fromarray(pixels).save(new)
    embed()
    assert embedded == ['new.png']
    os.rename(new, os.path.join(tree, '001.class', 'renamed.png'))
    shutil.copy(changed, os.path.join(tree, '001.class', 'twin.png'))
    os.remove(os.path.join(tree, '000.class', '0.png'))
    assert len(embed()) == 7 and embedded == []
    with np.load(cache, allow_pickle=False) as file:
        assert len(file['hashes']) == len(file['embeddings']) == 6      # the removed one is gone, twins are one


def test_another_network_or_a_damaged_cache_embeds_all(tmp_path, embedded, model, capsys):
    tree, cache = make_tree(tmp_path / 'tree', classes=2, per_class=2), tmp_path / 'c.npz'

    def embed():
        embedded.clear()
        Embedder([model], str(cache)).embed(read_gallery(tree).paths)
        return len(embedded)

    assert [embed(), embed()] == [4, 0]
    (tmp_path / 'm.params').write_bytes(b'other weights')
    assert [embed(), embed()] == [4, 0]
    (tmp_path / 'm.json').write_text('{"script": "train_margin", "flags": {"image_size": 32}}')
    assert [embed(), embed()] == [4, 0]
    whole = cache.read_bytes()
    for damaged in (whole[:-30], b'', b'x' * 100):
        cache.write_bytes(damaged)
        assert [embed(), embed()] == [4, 0] and 'c.npz is damaged' in capsys.readouterr().out
    np.savez(cache, key=np.array([{}], dtype=object), hashes=[], embeddings=[], bad=[], reasons=[])
    assert embed() == 4


def test_broken_pictures_are_named_and_counted(tmp_path, embedded, model, capsys):
    tree, output = make_tree(tmp_path / 'tree', classes=2, per_class=3), tmp_path / 'out'
    bad = os.path.join(tree, '001.class', 'bad.png')
    open(bad, 'wb').close()
    for _ in range(2):
        assert search(model, tree, output) == 1
        assert capsys.readouterr().err == f'results.search: {bad}: it is no picture\n'
    assert search(model, tree, output, '--skip-bad-images', '1') == 0
    assert f'left out: {bad}: it is no picture\n' in capsys.readouterr().out and len(table(output)) == 6 * 5
    embedded.clear()
    assert search(model, tree, output, '--skip-bad-images', '1') == 0 and embedded == []
    assert f'left out: {bad}' in capsys.readouterr().out
    assert search(model, tree, output) == 1 and f'{bad}: it is no picture' in capsys.readouterr().err


def test_what_cannot_be_used_ends_in_one_line(tmp_path, embedded, model, capsys):
    tree, output = make_tree(tmp_path / 'tree', classes=2, per_class=1), tmp_path / 'out'
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'text.jpg').write_text('no picture')
    shutil.copy(model, tmp_path / 'alone.params')
    single = tmp_path / 'single'
    single.mkdir()
    shutil.copy(os.path.join(tree, '000.class', '0.png'), single)
    for arguments, status, said in (
            ((tmp_path / 'none.params', tree), 1, 'none.params'),
            ((tmp_path / 'alone.params', tree), 2, 'alone.params has no .json beside it'),
            ((model, tmp_path / 'empty'), 1, 'empty: there are no pictures in it'),
            ((model, tmp_path / 'nowhere'), 1, 'nowhere'),
            ((model, single), 1, 'single: there is no other picture in it to find'),
            ((model, tree, '--query', str(tmp_path / 'text.jpg')), 1, 'text.jpg: it is no picture'),
            ((model, tree, '--query', str(tmp_path / 'text.jpg'), '--skip-bad-images', '1'), 1,
             'text.jpg: it is no picture'),
            ((model, tree, '--query', str(tmp_path / 'nothing.jpg')), 1, 'nothing.jpg'),
            ((model, tree, '--query', tree), 1, 'tree')):
        network, folder, *more = arguments
        assert search(str(network), folder, output, *more) == status, arguments
        error = capsys.readouterr().err
        assert error.count('\n') == 1 and said in error, error
        assert not (output / 'search.html').exists()
    with pytest.raises(SystemExit) as end:
        search(model, tree, output, '--neighbours', '0')
    assert end.value.code == 2 and capsys.readouterr().err.count('\n') == 1


# Neighbours -----------------------------------------------------------------------------------------------------------

def oracle(queries, gallery, own, count):
    """Loops, in float64."""
    found = []
    for q, query in enumerate(queries.astype(np.float64)):
        far = [(float(np.sqrt(sum((a - b) ** 2 for a, b in zip(query, row)))), i)
               for i, row in enumerate(gallery.astype(np.float64)) if i != own[q]]
        found.append(sorted(far)[:count])
    return found


@pytest.mark.parametrize('block', [4, 4096])
def test_nearest_are_those_of_loops(monkeypatch, block):
    monkeypatch.setattr('results.search.neighbours.BLOCK', block)
    rng = np.random.RandomState(0)
    gallery = rng.normal(size=(30, 5)).astype(np.float32)
    gallery[10:18] = gallery[3]                     # more equal pictures than are asked for
    for queries, own in ((gallery, np.arange(30)),
                         (np.concatenate([gallery[[7, 3]], rng.normal(size=(9, 5)).astype(np.float32)]),
                          np.array([7, -1, *[-1] * 9]))):
        places, distances = nearest(queries, gallery, own, 4)
        for q, expected in enumerate(oracle(queries, gallery, own, 4)):
            np.testing.assert_allclose(distances[q], [far for far, _ in expected], rtol=1e-6)
            assert own[q] not in places[q] and len(set(places[q])) == 4
            if expected[-1][0] > 0:                 # which of the equal ones are found is not said
                assert places[q].tolist() == [i for _, i in expected]
    places, _ = nearest(gallery[:3], gallery[:3], np.arange(3), 10)
    assert places.shape == (3, 2)
    places, _ = nearest(gallery[:1], gallery[:3], np.array([-1]), 10)
    assert places.shape == (1, 3)


def test_the_worst_find_their_class_last_and_are_sure_of_the_wrong_one():
    wrong = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 1], [1, 0, 0], [1, 1, 0]], bool)
    assert worst(wrong, np.array([[.1], [.5], [.9], [.2], [.3]])).tolist() == [2, 4, 3, 1]


@pytest.mark.parametrize('method', ['tsne', 'pca'])
def test_a_map_of_anything_is_finite_and_the_same_again(method):
    rng = np.random.RandomState(0)
    cases = [rng.normal(size=shape) for shape in ((40, 60), (12, 3), (5, 1), (3, 4), (2, 2), (1, 4))]
    cases += [np.ones((6, 3)), np.repeat(rng.normal(size=(2, 3)), 5, axis=0), 1e-30 * rng.normal(size=(8, 3))]
    for x in cases:
        places, said = project(x.astype(np.float32), method, seed=1)
        assert places.shape == (len(x), 2) and places.min() >= 0 and places.max() <= 1 and np.isfinite(places).all()
        np.testing.assert_array_equal(places, project(x.astype(np.float32), method, seed=1)[0])
    assert ('perplexity 13, seed 1, of the first 40 principal' in project(cases[0], 'tsne', 1)[1]
            and 'PCA' in project(cases[0], 'pca', 1)[1])


def test_pca_keeps_what_lies_in_a_plane():
    x = np.array([[0, 0], [4, 0], [4, 1], [0, 1], [2, .5]]) @ np.array([[0, 1, 0], [0, 0, 1]])
    places = project(x.astype(np.float32), 'pca', 0)[0] * 4
    for i, j in itertools.combinations(range(5), 2):
        assert np.linalg.norm(places[i] - places[j]) == pytest.approx(np.linalg.norm(x[i] - x[j]), abs=1e-5)


# Pages ----------------------------------------------------------------------------------------------------------------

class _Parser(HTMLParser):
    """Collects elements; fails on ones that do not nest."""

    def __init__(self, page):
        super().__init__()
        self.stack, self.elements = [], []
        self.feed(page)
        assert not self.stack

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in ('meta', 'link', 'input', 'img', 'wbr'):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def parsed(path):
    """The elements of a page, which asks for nothing but its two neighbours."""
    page = path.read_text()
    parser = _Parser(page)
    for tag, attributes in parser.elements:
        for name in ('src', 'href'):
            assert attributes.get(name, 'data:').startswith('data:') or (
                tag == 'a' and attributes[name] in ('map.html', 'search.html')), (tag, attributes)
    assert "default-src 'none'" in page and 'http' not in re.sub('http-equiv', '', page)
    return parser.elements


def map_data(output):
    page = (output / 'map.html').read_text()
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S).group(1))


def test_the_gallery_searched_by_itself(tmp_path, embedded, model, capsys):
    tree, output = make_tree(tmp_path / 'tree', classes=3, per_class=4), tmp_path / 'out'
    shutil.copy(os.path.join(tree, '000.class', '0.png'), os.path.join(tree, '002.class', 'wrong.png'))
    assert search(model, tree, output, '--neighbours', '3', '--gpus', '-2') == 0
    rows = table(output)
    assert len(rows) == 13 * 3 and list(rows[0]) == ['query', 'rank', 'path', 'class', 'distance']
    assert all(row['query'] != row['path'] and row['path'].split(os.sep)[-2] == row['class'] for row in rows)
    first = {row['query']: row for row in rows if row['rank'] == '1'}
    failed = [query for query, row in first.items() if query.split(os.sep)[-2] != row['class']]
    assert len(failed) == 2 and float(first[os.path.join(tree, '002.class', 'wrong.png')]['distance']) == 0
    assert f'recall@1, each picture searched among the others: {100 * 11 / 13:.2f} %' in capsys.readouterr().out
    shown = [attributes['title'] for tag, attributes in parsed(output / 'search.html')
             if attributes.get('class', '').split()[:1] == ['tile']]
    assert len(shown) == 2 * 4 and set(shown[::4]) == {os.path.relpath(path, tree) for path in failed}
    parsed(output / 'map.html')
    data = map_data(output)
    assert data['near'] == [[read_gallery(tree).paths.index(row['path']) for row in rows[3 * i:3 * i + 3]]
                            for i in range(13)]
    assert sorted(os.listdir(output)) == ['embeddings.npz', 'map.html', 'neighbours.csv', 'search.html']


def test_queries_and_cosines_on_a_part_of_a_gallery(tmp_path, embedded, model, monkeypatch):
    monkeypatch.setenv('DML_CACHE', str(tmp_path / 'cache'))
    tree, output = make_tree(tmp_path / 'tree', classes=3, per_class=4), tmp_path / 'out'
    inside, outside = os.path.join(tree, '001.class', '2.png'), str(tmp_path / 'copy.png')
    shutil.copy(inside, outside)
    more = ('--query', inside, outside, '--neighbours', '2', '--normalize', '--map-pictures', '5', '--projection',
            'pca')
    assert search(model, tree, output, *more) == 0
    rows = table(output)
    assert [row['query'] for row in rows] == [inside] * 2 + [outside] * 2
    assert rows[2]['path'] == inside and float(rows[2]['cosine']) == 1 and rows[0]['path'] != inside
    assert rows[0]['path'] == rows[3]['path'] and rows[0]['cosine'] == rows[3]['cosine']
    a, b = ([np.asarray(Image.open(path).resize((3, 3))).astype(np.float64).reshape(-1) for path in
             (inside, rows[0]['path'])])
    assert float(rows[0]['cosine']) == pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b)), abs=2e-6)
    data = map_data(output)
    assert len(data['x']) == 7 and data['queries'] == 2 and data['labels'][5:] == [1, -1]
    assert 'shows 5 of 12 pictures' in (output / 'map.html').read_text()
    assert os.listdir(tmp_path / 'cache') and 'embeddings.npz' not in os.listdir(output)
    embedded.clear()
    assert search(model, tree, output, *more) == 0 and embedded == []


def test_loose_pictures_have_no_classes_and_names_cannot_put_html_into_a_page(tmp_path, embedded, model):
    tree, folder, output = make_tree(tmp_path / 'tree', classes=2, per_class=3), tmp_path / 'flat', tmp_path / 'out'
    folder.mkdir()
    nasty = '<img src=x onerror=alert(1)>"\'&<\u2028_</script>'.replace('/', '')
    for i, path in enumerate(read_gallery(tree).paths):
        shutil.copy(path, folder / f'{i}{nasty}.png')
    assert search(model, folder, output, '--neighbours', '2') == 0
    assert {row['class'] for row in table(output)} == {''} and len(table(output)) == 12
    for name, images in (('search.html', 18), ('map.html', 1)):
        tags = [tag for tag, _ in parsed(output / name)]
        assert tags.count('img') == images and tags.count('script') == (2 if name == 'map.html' else 0)
    assert map_data(output)['names'][0] == f'0{nasty}.png'
    (tmp_path / 'classes').mkdir()
    os.rename(folder, tmp_path / 'classes' / nasty)
    assert search(model, tmp_path / 'classes', output) == 0
    assert [tag for tag, _ in parsed(output / 'map.html')].count('script') == 2


def test_colours_stand_out_from_both_backgrounds():
    def luminance(colour):
        parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= .04045 else ((c + .055) / 1.055) ** 2.4 for c in parts)
        return .2126 * red + .7152 * green + .0722 * blue

    for colour in pages.COLOURS:                    # WCAG 2.1, 1.4.11: 3 to 1
        for background in ('#f6f8fa', '#1b2129'):
            low, high = sorted((luminance(colour), luminance(background)))
            assert (high + .05) / (low + .05) >= 3, (colour, background)
    assert len({(i % len(pages.COLOURS), i % len(pages.SHAPES)) for i in range(40)}) == 40


# A real network -------------------------------------------------------------------------------------------------------

@pytest.mark.slow
def test_a_trained_network_embeds_as_common_evaluation_does(tmp_path, capsys, monkeypatch):
    import train_margin
    from common.evaluation import __main__ as evaluation
    monkeypatch.delenv('DML_CACHE', raising=False)
    tree, output = make_tree(tmp_path / 'tree', classes=4, per_class=8), tmp_path / 'out'
    train_margin.train_margin(train_margin.parse_args(flags(
        tree, str(tmp_path), '--batch-k', '4', '--batches-per-epoch', '2', '--epochs', '1')))
    network = str(tmp_path / 'models' / 'train_margin_miniCUB_convnet-last.params')
    evaluation.run(evaluation.parse_args(['--model', network, '--images', tree, '--output', str(tmp_path / 'e'),
                                          '--gpus', '-2', '--no-nmi']))
    bad = os.path.join(tree, '000.class', 'bad.png')
    with open(bad, 'wb') as file:
        file.write(b'bad')
    capsys.readouterr()
    assert search(network, tree, output, '--gpus', '-2', '--skip-bad-images', '1') == 0
    assert re.search(rf'left out: {re.escape(bad)}: it is no picture of a known kind', capsys.readouterr().out)
    os.remove(bad)
    with monkeypatch.context() as patch:
        patch.setattr(gallery_module.subprocess, 'run', lambda *_, **__: pytest.fail('nothing is to be embedded'))
        found, _ = Embedder([network], str(output / 'embeddings.npz')).embed(read_gallery(tree).paths)
    with np.load(tmp_path / 'e.npz', allow_pickle=False) as file:
        assert file['paths'].tolist() == read_gallery(tree).paths
        np.testing.assert_allclose(np.stack([found[i] for i in range(32)]), file['embeddings'], atol=1e-6)
    text = tmp_path / 'query.jpg'
    text.write_text('no picture')
    assert search(network, tree, output, '--gpus', '-2', '--query', str(text)) == 1
    assert capsys.readouterr().err.startswith(f'results.search: {text}: it is no picture of a known kind')


# A real browser -------------------------------------------------------------------------------------------------------

@pytest.fixture
def browser():
    if webdriver.MISSING:
        pytest.skip(webdriver.MISSING)
    with webdriver.Browser() as found:
        yield found


SPOT = 'const r = canvas.getBoundingClientRect(); return [r.left + placeX(arguments[0]), r.top + placeY(arguments[0])]'


def test_browser_hovers_clicks_moves_and_filters(tmp_path, embedded, model, browser):
    tree, output = make_tree(tmp_path / 'tree', classes=3, per_class=4), tmp_path / 'out'
    shutil.copy(os.path.join(tree, '000.class', '0.png'), os.path.join(tree, '002.class', 'wrong.png'))
    assert search(model, tree, output, '--neighbours', '3', '--projection', 'pca') == 0
    browser.open((output / 'search.html').as_uri())
    assert browser.run("return [...document.images].every(i => i.complete ? i.naturalWidth > 0 : i.loading === 'lazy')")
    browser.click('a[href="map.html"]')
    browser.pointer(*browser.run(SPOT, 12))
    assert browser.run('return [hovered === 12 || data.x[hovered] === data.x[12], tip.hidden]') == [True, False]
    browser.pointer(*browser.run(SPOT, 5), click=True)
    assert browser.run('return chosen') == 5
    assert browser.run("return document.querySelector('#chosen h2').textContent") == '001.class'
    browser.run('choose(12)')
    marks = browser.run("return [...document.querySelectorAll('#chosen .tile')].map(t => t.className)")
    assert marks == ['tile wrong' if near < 8 else 'tile right' for near in map_data(output)['near'][12]]
    browser.click('#chosen li:first-child .tile')
    assert browser.run('return chosen') == 0
    browser.click('#next')
    assert browser.run('return failed[chosen] && chosen > 0')
    browser.click('#legend li:nth-child(2) button')
    assert browser.run('return [...data.x.keys()].filter(shown)') == [4, 5, 6, 7]
    browser.click('#none')
    browser.click('#only-wrong')
    assert sorted(browser.run('return [...data.x.keys()].filter(shown)')) == [0, 12]
    browser.click('#only-wrong')
    browser.type('#words', '001')
    assert browser.run("return [...document.querySelectorAll('#legend li')].map(l => l.hidden)") == [True, False, True]
    before = browser.run(SPOT, 5)
    browser.run('zoom(2, placeX(5), placeY(5))')
    assert browser.run(SPOT, 5) == pytest.approx(before) and browser.run('return view.zoom') == 2
    browser.pointer(*before)
    browser.pointer(before[0] + 40, before[1] + 25, drag=True)
    assert browser.run(SPOT, 5) == pytest.approx([before[0] + 40, before[1] + 25], abs=1)
    browser.click('#all')
    assert browser.run('return view') == {'x': 0, 'y': 0, 'zoom': 1}
    ink = """const all = pen.getImageData(0, 0, canvas.width, canvas.height).data;
        return all.filter((value, i) => i % 4 === 3 && value > 0).length"""
    marks_alone = browser.run(ink)
    browser.click('#pictures')
    for _ in range(50):         # until they are loaded and drawn
        if browser.run(ink) > 2 * marks_alone:
            break
        time.sleep(.1)
    assert browser.run(ink) > 2 * marks_alone > 0
    assert [entry for entry in browser.log() if 'getImageData' not in entry['message']] == []      # the test's own


def test_browser_shows_loose_pictures_and_queries_on_a_phone(tmp_path, embedded, model, browser):
    tree, folder, output = make_tree(tmp_path / 'tree', classes=2, per_class=3), tmp_path / 'flat', tmp_path / 'out'
    folder.mkdir()
    for i, path in enumerate(read_gallery(tree).paths[1:]):
        shutil.copy(path, folder / f'{i}.png')
    assert search(model, folder, output, '--query', read_gallery(tree).paths[0]) == 0
    browser.emulate(390, 800)
    for name in ('search.html', 'map.html'):
        browser.open((output / name).as_uri())
        assert browser.run('return [innerWidth, document.documentElement.scrollWidth]') == [390, 390]
    browser.run('choose(count - 1)')
    assert browser.run("return document.querySelector('#chosen h2').textContent") == 'Query'
    assert browser.run("return document.querySelectorAll('#chosen .tile').length") == 5
    assert browser.run("return document.querySelectorAll('.wrong, .right, #legend').length") == 0
    assert browser.log() == []
