"""The page, in a real browser where there is one, and the tables of the README.

The browser: ``apt-get install chromium chromium-driver``.
"""
from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import pytest

from results import report, tables
from results.algorithms import ALGORITHMS
from results.readlog import read_logs
from results.tuning import Record, Row, Trial, save_record
from tests.oracles import webdriver
from tests.results import samples

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="330" height="200"><rect width="330" height="200"/></svg>'
PNG = base64.b64decode('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGP4////fwAJ+wP9CNHoHgAAAABJRU5ErkJgg'
                       'g==')


@pytest.fixture
def quick(monkeypatch):
    """Leaves the drawing of figures, tested elsewhere, out of the page."""
    monkeypatch.setattr(report, 'figures', lambda board: {'bars': None})
    monkeypatch.setattr(report, 'render', lambda figure, kind: SVG)


class _Parser(HTMLParser):
    """Collects elements; fails on ones that do not nest."""

    VOID = {'meta', 'link', 'input', 'img', 'br'}

    def __init__(self):
        super().__init__()
        self.stack, self.elements, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] not in ('script', 'style'):
            self.text.append(data)


def _parsed(page):
    parser = _Parser()
    parser.feed(page)
    assert not parser.stack
    return parser


def _page(folder, **options):
    return report.page(*read_logs([str(folder)]), **options)


def test_the_page_is_whole_html_that_asks_for_nothing(tmp_path, quick):
    samples.comparison(tmp_path / 'logs', epochs=3)
    (tmp_path / 'pictures').mkdir()
    (tmp_path / 'pictures' / 'margin_retrieval.png').write_bytes(PNG)
    page = _page(tmp_path / 'logs', pictures=str(tmp_path / 'pictures'))
    parsed = _parsed(page)
    for tag, attributes in parsed.elements:
        for name in ('src', 'href'):
            assert attributes.get(name, '#').startswith(('#', 'data:')), (tag, attributes)
    assert "default-src 'none'" in page
    text = ' '.join(parsed.text)
    for wanted in ('margin retrieval', 'Structured clustering', '0123456789ab', 'ab' * 32, 'mxnet 1.9.1',
                   'batch_size=80', 'Untrained net', 'Raw pixels', 'geometric mean', 'MAP@R', 's / epoch',
                   'What may be said of a difference', 'P(first > second)', 'cannot be told apart', 'second is better',
                   'Best-on-test minus last', 'over 3 seeds alone', 'Claimed: ', 'share a letter',
                   'What else differs', 'Batch norm', 'Evaluation s'):
        assert wanted in text, wanted


def test_a_log_cannot_put_its_own_html_into_the_page(tmp_path, quick):
    nasty = '</script><script>alert(1)</script><img src=x onerror=alert(1)>"\'&'
    for seed in (1, 2):
        for name in (nasty, 'plain'):
            config = samples.config('margin', seed, identity=f'{name[:5]}{seed}', nasty=nasty)
            config.update(algorithm=name, script='train_mine.py', dataset=nasty, git=nasty, device=[nasty],
                          versions={nasty: nasty}, weights={'file': nasty, 'sha256': nasty}, data={nasty: nasty})
            samples.write(tmp_path / f'{name[:2].strip("</")}x{seed}.jsonl',
                          [config] + samples.run_events(config['id'], [40.0 + seed], seed=seed))
    page = _page(tmp_path)
    tags = [tag for tag, _ in _parsed(page).elements]
    assert tags.count('script') == 2 and tags.count('img') == 1       # the data and the program; the figure
    data = re.search(r'<script type="application/json">(.*?)</script>', page, re.S).group(1)
    assert nasty in json.loads(data)['last']['recall@1']['0,1']


def test_unfinished_and_diverged_runs_are_told(tmp_path, quick):
    samples.log(tmp_path / 'a.jsonl', 'margin', (40.0, 41.0), 1)
    samples.log(tmp_path / 'b.jsonl', 'margin', (40.0, 41.0), 2, end=False)
    config = samples.config('margin', 3)
    samples.write(tmp_path / 'c.jsonl', [config, *samples.run_events(config['id'], [9.0], end=False, seed=3),
                                         {'event': 'diverged', 'id': config['id'], 'run': 1, 'epoch': 2, 'lr': 0.5}])
    (tmp_path / 'd.log').write_bytes(b'\x00')
    text = ' '.join(_parsed(_page(tmp_path)).text)
    assert '1 finished, 1 diverged, 1 unfinished' in text and 'diverged at epoch 2' in text and 'd.log' in text
    assert 'unfinished: epoch 2 of 8' in text


def test_the_command_writes_the_page_and_names_bad_input_in_one_line(tmp_path, quick, capsys):
    logs = samples.comparison(tmp_path / 'logs', seeds=(1,), epochs=2)
    assert report.main([logs, '--out', str(tmp_path / 'new' / 'page.html')]) == 0
    assert (tmp_path / 'new' / 'page.html').read_text().startswith('<!DOCTYPE html>')
    capsys.readouterr()
    (tmp_path / 'bad.log').write_bytes(b'bad')
    assert report.main([str(tmp_path / 'bad.log'), '--out', str(tmp_path / 'x.html')]) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and 'bad.log' in error and not (tmp_path / 'x.html').exists()


# A real browser -------------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def browser():
    if webdriver.MISSING:
        pytest.skip(webdriver.MISSING)
    with webdriver.Browser() as found:
        yield found


@pytest.fixture(scope='module')
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp('page')
    samples.comparison(folder / 'logs', leave_out=('dreml',))
    samples.comparison(folder / 'logs' / 'cub', seeds=(1, 2), epochs=3, dataset='CUB', model='inception-bn')
    path = folder / 'page.html'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, 'figures', lambda board: {'bars': None})
        patch.setattr(report, 'render', lambda figure, kind: SVG)
        path.write_text(_page(folder / 'logs'))
    return path.as_uri()


NAMES = """return [...document.querySelectorAll('#board0 table.leaderboard tbody tr')].filter(r => !r.hidden)
    .map(r => [r.cells[0].textContent, parseFloat(r.cells[1].dataset.value)])"""


def _header(text, table='leaderboard'):
    """Marks the button of a column, so that a selector finds it."""
    return f"""const all = [...document.querySelectorAll('#board0 table.{table} thead button')];
        all.forEach(b => b.id = ''); all.find(b => b.textContent === '{text}').id = 'wanted'"""


def test_browser_sorts_both_ways_and_by_name(browser, url):
    browser.open(url)
    before = browser.run(NAMES)
    assert [n for n, _ in before][:3] == ['Untrained net', 'Raw pixels', 'Triplet semi-hard']
    assert len(before) == len(ALGORITHMS) + 1
    browser.run(_header('Recall@1'))
    browser.click('#wanted')
    down = browser.run(NAMES)
    assert [v for _, v in down] == sorted((v for _, v in before), reverse=True)
    browser.click('#wanted')
    assert browser.run(NAMES) == down[::-1]
    state = "return document.querySelector('#wanted').closest('th').getAttribute('aria-sort')"
    assert browser.run(state) == 'ascending'
    browser.run(_header('Algorithm'))
    browser.click('#wanted')
    names = [n for n, _ in browser.run(NAMES)]
    assert names == sorted(names, key=str.lower)
    # what has no value comes last, whichever way
    browser.run(_header('s / epoch'))
    for _ in range(2):
        browser.click('#wanted')
        assert {n for n, _ in browser.run(NAMES)[-2:]} == {'Untrained net', 'Raw pixels'}
    assert browser.log() == []


def test_browser_filters_by_words_and_by_the_epoch_that_counts(browser, url):
    browser.open(url)
    browser.type('#board0 input.filter', 'proxy')
    assert [n for n, _ in browser.run(NAMES)] == ['Proxy-NCA', 'Proxy-triplet', 'Proxy-softmax']
    browser.type('#board0 input.filter', '3 finished')
    assert len(browser.run(NAMES)) == len(ALGORITHMS) - 1
    browser.type('#board0 input.filter', 'no such thing')
    assert browser.run(NAMES) == [] and browser.run("return !document.querySelector('#board0 .none').hidden")
    browser.type('#board0 input.filter', 'Proxy-NCA')
    [[_, best]] = browser.run(NAMES)
    browser.run("""const s = document.querySelector('#board0 select.selection'); s.value = 'last';
        s.dispatchEvent(new Event('change'))""")
    [[_, last]] = browser.run(NAMES)
    assert last < best
    # the other board is left alone
    hidden = browser.run("return document.querySelectorAll('#board1 table.leaderboard tbody tr[hidden]').length")
    assert hidden == len(ALGORITHMS)
    assert browser.log() == []


def test_browser_compares_two_algorithms_in_words(browser, url):
    browser.open(url)
    said = "return document.querySelector('#board0 .verdict').textContent"
    choose = """const [a, b] = arguments;
        for (const [css, name] of [['select.first', a], ['select.second', b]]) {
            const s = document.querySelector('#board0 ' + css);
            s.value = [...s.options].find(o => o.textContent === name).value; s.dispatchEvent(new Event('change')); }"""
    browser.run(choose, 'Proxy-softmax', 'Triplet semi-hard')
    words = browser.run(said)
    assert words.startswith('Proxy-softmax is better than Triplet semi-hard, on average by')
    browser.run(choose, 'Triplet semi-hard', 'Proxy-softmax')
    assert browser.run(said) == words
    browser.run(choose, 'Margin', 'Margin')
    assert browser.run(said) == 'Choose two different algorithms.'
    browser.run("document.querySelector('#board0 table.pairs').closest('details').open = true")
    browser.run(_header('Difference', 'pairs'))
    browser.click('#wanted')
    values = browser.run("""return [...document.querySelectorAll('#board0 table.pairs tbody tr')]
        .map(r => parseFloat(r.cells[2].dataset.value))""")
    assert len(values) == (len(ALGORITHMS) - 1) * (len(ALGORITHMS) - 2) // 2 and values == sorted(values, reverse=True)
    assert browser.log() == []


@pytest.mark.parametrize('width', [320, 390])
def test_browser_page_is_readable_on_a_phone(browser, url, width):
    browser.emulate(width, 800)
    browser.open(url)
    assert browser.run('return [innerWidth, document.documentElement.scrollWidth]') == [width, width]
    small = browser.run("""return [...document.querySelectorAll('body *')].filter(e => e.offsetParent &&
        [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) && e.closest('script,style,svg') === null
        && parseFloat(getComputedStyle(e).fontSize) < 12).map(e => e.outerHTML.slice(0, 80))""")
    assert small == []
    fits = browser.run("""const box = document.querySelector('#board0 .scroll');
        return [box.scrollWidth, box.clientWidth,
                [...document.querySelectorAll('#board0 table.leaderboard th')].filter(t => t.offsetParent)
                .map(t => t.textContent)]""")
    assert fits[2] == ['Algorithm', 'Recall@1', 'MAP@R', 'NMI'] and fits[0] <= fits[1]
    browser.click('#board0 input.columns')
    assert browser.run("return document.querySelector('#board0 .scroll').scrollWidth") > width
    assert browser.run('return document.documentElement.scrollWidth') == width
    assert browser.log() == []


# README ---------------------------------------------------------------------------------------------------------------

README = ('head\n<!-- results:begin -->\nold\n<!-- results:end -->\nmiddle\n'
          '<!-- commands:begin --><!-- commands:end -->\ntail\n')


def test_readme_is_updated_between_its_markers_and_checked(tmp_path, capsys):
    samples.comparison(tmp_path / 'logs' / 'glyphs', leave_out=('dreml',))
    samples.comparison(tmp_path / 'logs' / 'my-own', seeds=(9,))            # declared nowhere: not for the README
    samples.log(tmp_path / 'logs' / 'loose.jsonl', 'margin', (99.0,), 999)
    readme = tmp_path / 'README.md'
    readme.write_text(README)
    options = ['--results-dir', str(tmp_path), '--readme', str(readme)]
    assert report.main(['--check-readme', *options]) == 1 and readme.read_text() == README
    assert capsys.readouterr().err.count('\n') == 1
    assert report.main(['--update-readme', *options]) == 0
    text = readme.read_text()
    assert report.main(['--check-readme', *options]) == 0
    assert report.main(['--update-readme', *options]) == 0 and readme.read_text() == text
    assert text.startswith('head\n') and '\nmiddle\n' in text and text.endswith('\ntail\n') and '\nold\n' not in text
    rows = [line for line in text.split('\n') if line.startswith('| ')]
    names = [row.split(' | ')[0][2:] for row in rows]
    assert names[:5] == ['', '*untrained net*', '*raw pixels*', 'Triplet semi-hard', 'Lifted structure']
    assert '| DREML | not run' in text and '99.0' not in text
    for a in ALGORITHMS:
        [row] = [r for r in rows if r.startswith(f'| {a.name} | {a.idea}')]
        assert f'`python {a.script} --dataset GLYPHS' in row
    proxies = [r for r in rows if 'train_proxy.py' in r]
    assert '--loss nca' in proxies[0] and '--loss triplet' in proxies[1]
    samples.log(tmp_path / 'logs' / 'glyphs' / 'more.jsonl', 'margin', (10.0,), 999)
    assert report.main(['--check-readme', *options]) == 1


def test_pages_in_docs_have_tables_wherever_their_markers_stand(tmp_path, capsys):
    samples.comparison(tmp_path / 'logs' / 'glyphs', seeds=(1, 2), leave_out=('dreml',))
    (tmp_path / 'docs').mkdir()
    pages = {'README.md': 'methods', 'docs/protocol.md': 'commands', 'docs/results.md': 'results'}
    for name, table in pages.items():
        (tmp_path / name).write_text(f'head\n<!-- {table}:begin -->\nold\n<!-- {table}:end -->\n<!-- other:begin -->\n')
    (tmp_path / 'docs' / 'prose.md').write_text('no table')
    options = ['--results-dir', str(tmp_path), '--readme', str(tmp_path / 'README.md')]
    assert report.main(['--check-readme', *options]) == 1 and capsys.readouterr().err.count('\n') == 3
    assert report.main(['--update-readme', *options]) == 0 and report.main(['--check-readme', *options]) == 0
    methods, commands, results = ((tmp_path / name).read_text() for name in pages)
    assert 'prose' not in capsys.readouterr().out and (tmp_path / 'docs' / 'prose.md').read_text() == 'no table'
    for a in ALGORITHMS:
        [row] = [line for line in methods.split('\n') if line.startswith(f'| {a.name} | [')]
        assert f'({a.link})' in row and f'[`{a.script}`]({a.script})' in row and 'python ' not in row
        assert ('–' in row) == (a.key == 'dreml')
        [row] = [line for line in commands.split('\n') if line.startswith(f'| {a.name} | ')]
        assert f'`python {a.script} --dataset GLYPHS' in row and a.idea in row
    assert '**All algorithms on GLYPHS' in results
    # a mistake in one page leaves all as they are
    (tmp_path / 'README.md').write_text('<!-- methods:begin -->\nold\n<!-- methods:end -->')
    (tmp_path / 'docs' / 'results.md').write_text('<!-- results:begin -->\nold\n')
    capsys.readouterr()
    assert report.main(['--update-readme', *options]) == 1 and 'old' in (tmp_path / 'README.md').read_text()
    assert 'docs/results.md must have the lines' in capsys.readouterr().err


def test_a_link_to_a_script_works_from_docs(tmp_path):
    text = tables.with_tables('<!-- methods:begin --><!-- methods:end -->', {'methods': '[x](train_x.py)'},
                              'docs/protocol.md')
    assert '(../train_x.py)' in text


def test_an_experiment_of_some_algorithms_has_rows_for_these_alone(tmp_path):
    samples.comparison(tmp_path / 'logs' / 'few', leave_out=('dreml',))
    declared = tmp_path / 'experiments.yaml'
    declared.write_text('experiments:\n  few:\n    title: A few\n    runs: 3\n    flags: {dataset: GLYPHS}\n'
                        '    algorithms: {triplet: {}, dreml: {}}\n')
    text = tables.all_tables(str(tmp_path), str(declared))['results']
    assert '| DREML | not run' in text and text.count('not run') == 1 and '| Margin | ' in text
    for key in ('margin', 'npairs'):
        for log in (tmp_path / 'logs' / 'few').glob(f'{key}_*'):
            log.unlink()
    assert 'Margin' not in tables.all_tables(str(tmp_path), str(declared))['results']


def test_readme_numbers_are_those_of_the_logs(tmp_path):
    for seed, recall in ((1, 50.0), (2, 52.0), (3, 54.0)):
        samples.log(tmp_path / 'logs' / 'glyphs' / f'{seed}.jsonl', 'margin', (recall, recall - 1), seed)
        samples.log(tmp_path / 'logs' / 'glyphs' / f'n{seed}.jsonl', 'npairs', (recall + 0.1, recall), seed)
    made = tables.all_tables(str(tmp_path))
    # 4.302653 * 2 / sqrt(3) = 4.97
    assert '| Margin | 51.0 ± 5.0 | b | 25.5 ± 2.5 | 60.3 ± 1.5 | +1.0 | 4.0 | 3 |' in made['results']
    assert '| N-pairs | **52.0 ± 5.0** | a | **26.0 ± 2.5** | **60.6 ± 1.5** | +0.1 |' in made['results']
    assert '| 51.0 ± 5.0 | b | +1.0 |' in next(r for r in made['methods'].split('\n') if 'train_margin.py' in r)
    # selection, seeds, budget and rule stand under each
    for table in 'methods', 'results':
        for wanted in ('Percent at the last epoch', 'Training images seen: 8,000 each', 'above 0.75', 'Power, if',
                       'over 3 seeds alone', 'Claimed: 1 of 1 differences', 'minus last: what recall@1 gains'):
            assert wanted in made[table], (table, wanted)


@pytest.mark.parametrize('text', ['', README.replace('<!-- results:end -->', ''), README + README,
                                  README.replace('results:begin', 'x').replace('results:end', 'results:begin')])
def test_a_readme_without_its_markers_is_one_line_and_untouched(tmp_path, capsys, text):
    readme = tmp_path / 'README.md'
    readme.write_text(text)
    assert report.main(['--update-readme', '--results-dir', str(tmp_path), '--readme', str(readme)]) == 1
    error = capsys.readouterr().err
    assert error.count('\n') == 1 and '<!-- results:begin -->' in error and readme.read_text() == text


def test_no_readme_and_no_runs(tmp_path, capsys):
    assert report.main(['--check-readme', '--readme', str(tmp_path / 'none.md')]) == 1
    assert capsys.readouterr().err.count('\n') == 1
    assert 'no runs' in tables.all_tables(str(tmp_path))['results']


def test_tuned_and_published_settings_stand_side_by_side(tmp_path):
    for name, shift in (('glyphs', 0.0), ('glyphs-tuned', 20.0)):
        for seed, recall in ((1, 50.0), (2, 52.0), (3, 54.0)):
            recall += shift
            samples.log(tmp_path / 'logs' / name / f'{seed}.jsonl', 'margin', (recall, recall - 1), seed)
            samples.log(tmp_path / 'logs' / name / f'n{seed}.jsonl', 'npairs', (recall,), seed)
    (tmp_path / 'logs' / 'glyphs' / 'n3.jsonl').unlink()
    trials = [Trial(i, {'lr': 0.1}, 'finished', 50.0) for i in range(12)]
    save_record(str(tmp_path / 'tuned' / 'glyphs.yaml'),
                Record('glyphs', 123, ['1/4'], rows={'margin': Row('', {}, trials=trials)}))
    table = tables.all_tables(str(tmp_path))['methods']
    heads, margin = (next(line for line in table.split('\n') if word in line) for word in ('Method', 'train_margin.py'))
    assert '| Recall@1 on GLYPHS, tuned | Group | Best-on-test minus last | Recall@1, published settings |' in heads
    assert margin.endswith('| 71.0 ± 5.0 | b | +1.0 | 51.0 ± 5.0 |')
    npairs, dreml = (next(line for line in table.split('\n') if word in line) for word in ('npairs', 'dreml'))
    assert '| 72.0 ± 5.0 | a | +0.0 | 51.0 ± 12.7 |' in npairs and dreml.endswith('| – |  |  | – |')
    for wanted in ('best of 12 trials for each method', 'no trial saw a test image', 'over 3 seeds', 'last epoch',
                   'Training images seen: 4,000 to 8,000'):
        assert wanted in table
    both = tables.all_tables(str(tmp_path))['results']
    assert both.count('**All algorithms on GLYPHS') == 2 and 'seen, with tuned settings**' in both


def test_a_sweep_has_a_table_of_its_sizes_and_no_other(tmp_path):
    for size in (8, 16, 1024):
        samples.log(tmp_path / 'logs' / 'glyphs-embedding-size' / f'{size}.jsonl', 'margin', (30.0, 40.0 + size / 32),
                    embed_dim=size)
    samples.log(tmp_path / 'logs' / 'glyphs-embedding-size' / 'n8.jsonl', 'npairs', (30.0, 31.0), embed_dim=8)
    samples.log(tmp_path / 'logs' / 'glyphs-embedding-size' / 'n16.jsonl', 'npairs', (30.0, 32.0), embed_dim=16)
    made = tables.all_tables(str(tmp_path))
    assert '| Embedding size | 8 | 16 | 1024 |' in made['results'] and '| Margin | 40.2 | 40.5 | 72.0 |' in made[
        'results'] and '| N-pairs | 31.0 | 32.0 |  |' in made['results']
    assert 'last epoch, 1 seed each.' in made['results'] and 'Group' not in made['results']
    assert 'no runs' in made['cards']


def test_pages_show_the_pictures_that_are_there(tmp_path):
    def pictures(*files):
        for name in files:
            (tmp_path / 'plots').mkdir(exist_ok=True)
            (tmp_path / 'plots' / name).write_bytes(b'')
        return tables.all_tables(str(tmp_path))

    made = pictures()
    assert all('not in' in made[name] and '![' not in made[name]
               for name in ('first-picture', 'more-pictures', 'paper-pictures'))
    made = pictures('glyphs_bars.png', 'CUB_resnet50.png', 'embedding_size.png')
    assert 'plots/glyphs_bars.png)' in made['first-picture'] and '![' not in made['more-pictures']
    rows = made['paper-pictures'].split('\n')[2:]
    assert len(rows) == 2 and 'CUB_resnet50.png' in rows[0] and 'glyphs_bars.png' in rows[0] and 'not run' in rows[1]
    made = pictures('glyphs-tuned_bars.png', 'cars196-half-tuned_bars.png', 'CARS196_inception.png',
                    'glyphs-embedding-size-tuned_embedding-size.png', 'glyphs-batch-size-tuned_batch-size.png')
    assert 'glyphs-tuned_bars.png' in made['first-picture'] and 'glyphs_bars.png' not in made['first-picture']
    places = [made['more-pictures'].index(name) for name in (
        'cars196-half-tuned_bars', 'embedding-size-tuned_embedding', 'batch-size-tuned_batch')]
    assert places == sorted(places)
    rows = made['paper-pictures'].split('\n')[2:]
    assert 'cars196-half-tuned_bars.png' in rows[1] and 'glyphs-embedding-size-tuned_embedding-size.png' in rows[2]
    page = tables.with_tables('<!-- x:begin --><!-- x:end -->', {'x': '![a](results/plots/a.png)'}, 'docs/paper.md')
    assert '(../results/plots/a.png)' in page


def test_the_report_has_a_part_for_each_comparison(tmp_path, quick):
    for name in ('glyphs', 'glyphs-tuned'):
        samples.log(tmp_path / 'logs' / name / 'a.jsonl', 'margin', (30.0, 40.0))
    samples.log(tmp_path / 'logs' / 'mine.jsonl', 'margin', (50.0,))
    page = report.page(*read_logs([str(tmp_path)]))
    assert re.findall(r'<h2>(.*GLYPHS.*)</h2>', page) == [
        'GLYPHS, convnet', 'glyphs: GLYPHS, convnet', 'glyphs-tuned: GLYPHS, convnet, tuned settings']
