"""What README.md, CONTRIBUTING.md and docs/*.md name must exist, and the README's loss must work."""
from __future__ import annotations

import glob
import os
import re
import subprocess
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from results import reproduce
from results.experiments import load_experiments

ROOT = Path(__file__).resolve().parent.parent
PAGES = ['README.md', 'CONTRIBUTING.md', *sorted(f'docs/{path.name}' for path in (ROOT / 'docs').glob('*.md'))]
FOLDERS = sorted(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith('.'))
#: What runs and commands write: these files need not be there.
WRITTEN = re.compile(r'demo/|results/(logs|models|report|tuned|pictures)\b')
#: <name> and capitals stand for what the reader chooses.
PLACEHOLDER = re.compile(r'<\w+>|\b(DIR|FILE|FOLDER|NAME|SCRIPT|PREFIX)\b')


def read(page):
    """The text without generated tables of faults, whose file names are those of made-up runs."""
    text = (ROOT / page).read_text(encoding='utf-8')
    return re.sub(r'<!-- faults:begin -->.*?<!-- faults:end -->', '', text, flags=re.S)


def anchors(page):
    """The anchors of a page's headings."""
    headings = re.findall(r'^#+ (.*)$', (ROOT / page).read_text(encoding='utf-8'), flags=re.M)
    return {re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings}


def broken_links(page, text):
    """Relative links that lead nowhere."""
    broken = []
    for link in re.findall(r'\]\(([^)\s]+)\)', text):
        if re.match(r'[a-z]+:', link):
            continue
        path, _, anchor = link.partition('#')
        target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
        if not (ROOT / target).exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


def missing_files(text):
    """Named scripts and files below the project's folders that do not exist."""
    below = rf'(?:{"|".join(FOLDERS)})/[\w./*<>-]*'
    named = re.findall(rf'(?<![\w./-])({below}|train_[\w<>*]+\.py|requirements[\w-]*\.txt)', text)
    return [name for name in sorted({name.rstrip('.') for name in named})
            if not (WRITTEN.match(name) or PLACEHOLDER.search(name) or glob.glob(str(ROOT / name)))]


def missing_modules(text):
    """Modules of this project that `python -m` is said to run, and that do not exist."""
    named = {name.rstrip('.') for name in re.findall(r'python -m ([\w.]+)', text)}
    return [name for name in sorted(named) if name.split('.')[0] in FOLDERS
            and not (ROOT / (name.replace('.', '/') + '.py')).exists()
            and not (ROOT / name.replace('.', '/') / '__main__.py').exists()]


def missing_targets(text):
    """Targets of `make` that the Makefile does not have."""
    targets = set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(encoding='utf-8'), flags=re.M))
    return sorted(set(re.findall(r'(?:^ {4}|`)make ([a-z-]+)', text, flags=re.M)) - targets)


@pytest.mark.parametrize('page', PAGES)
def test_what_a_page_names_exists(page):
    text = read(page)
    found = {'links': broken_links(page, text), 'files': missing_files(text), 'modules': missing_modules(text),
             'targets': missing_targets(text)}
    assert not any(found.values()), found


def test_what_does_not_exist_is_found():
    assert broken_links('docs/x.md', '[a](../README.md) [b](none.md) [c](https://a.b) [d](../README.md#none)') == [
        'none.md', '../README.md#none']
    assert missing_files('`train_margin.py` `train_none.py`, models/losses/none.py. results/logs/x') == [
        'models/losses/none.py', 'train_none.py']
    assert missing_modules('python -m results.none, python -m common.evaluation, python -m pytest') == ['results.none']
    assert missing_targets('`make test`, `make none`, they make sense') == ['none']


def test_the_loss_in_the_readme_is_what_it_says():
    code, = re.findall(r'```python\n(.*?)```', read('README.md'), flags=re.S)
    names = {}
    exec(code, names)
    x = np.random.RandomState(0).normal(size=(6, 3)) * 0.4
    labels = np.array([0, 0, 1, 1, 2, 2])
    expected = 0.0
    for a in range(6):
        for b in range(6):
            distance = np.sqrt(((x[a] - x[b]) ** 2).sum())
            expected += distance ** 2 if labels[a] == labels[b] else max(0.0, 0.5 - distance) ** 2
    for hybridize in (False, True):
        loss = names['ContrastiveLoss']()
        if hybridize:
            loss.hybridize()
        value = loss(mx.nd.array(x), mx.nd.array(labels))
        assert value.shape == (1,) and value.asscalar() == pytest.approx(expected / 36, rel=1e-5)


def test_the_half_of_cars196_is_made_as_the_page_says(tmp_path, monkeypatch):
    cv2 = pytest.importorskip('cv2')
    from scipy.io import savemat
    monkeypatch.chdir(tmp_path)
    for folder in ('cars/cars_train', 'cars/devkit'):
        (tmp_path / folder).mkdir(parents=True)
    kind = [('class', 'u1'), ('fname', 'O')]
    notes = np.zeros((1, 3), kind)
    for i, (number, height, width) in enumerate([(7, 256, 400), (196, 100, 90), (7, 300, 200)]):
        notes[0, i] = number, f'0000{i}.jpg'
        cv2.imwrite(f'cars/cars_train/0000{i}.jpg', np.full((height, width, 3), 128, np.uint8))
    savemat('cars/devkit/cars_train_annos.mat', {'annotations': notes})
    code, = re.findall(r'```python\n(.*?)```', read('docs/datasets.md'), flags=re.S)
    exec(code, {})
    made = {str(path.relative_to('cars_train_half')): cv2.imread(str(path)).shape[:2]
            for path in Path('cars_train_half').rglob('*.jpg')}
    # the shorter side has 128 pixels; none is enlarged
    assert made == {'007/00000.jpg': (128, 200), '196/00001.jpg': (100, 90), '007/00002.jpg': (192, 128)}


def test_make_reproduce_draws_and_trains_only_if_told_to():
    def commands(*words):
        done = subprocess.run(['make', '-n', 'reproduce', *words], cwd=ROOT, capture_output=True, text=True, check=True)
        return [line.split(' -m ')[1] for line in done.stdout.split('\n') if ' -m ' in line]

    drawn = ['results.plots --paper', 'results.plots', 'results.report', 'results.report --update-readme']
    assert commands() == drawn
    trained = commands('RUN=1')
    assert trained[-4:] == drawn and trained[0].startswith('common.pixels --dataset GLYPHS') and len(trained) == 7
    for line in trained[1:3]:
        assert line.startswith('results.reproduce glyphs')
        opt = reproduce.parser().parse_args(line.split()[1:])
        assert set(opt.experiments) <= set(load_experiments())
