"""The tables of README.md and docs/*.md, as Markdown, from the run logs.

A page has a table wherever it has its two markers, each on a line of its own::

    <!-- results:begin -->
    <!-- results:end -->

``methods`` lists the methods, their papers, scripts and results; ``commands`` the exact command of each; ``results``
has a table for each experiment that has logs; ``structure`` has one of what their embeddings look like inside, and
``cards`` one of what else differs between the methods.
"""
from __future__ import annotations

import glob
import os
import shlex
import sys
from typing import Dict, List, Optional, Sequence

from common.files import atomic_write
from results.aggregate import Board, Group, boards
from results.algorithms import algorithm, algorithms, position
from results.cards import card_table, structure_table
from results.cards import markdown as _markdown
from results.experiments import EXPERIMENTS_FILE, expand, load_experiments
from results.figures.style import MODEL_NAMES
from results.readlog import LogError, read_logs
from results.statistics import Interval, compare

NMI_NOTE = 'NMI is normalised by the geometric mean of the entropies.'


def number(value: Optional[float], digits: int = 2) -> str:
    """A number with so many digits after the point; empty for None."""
    return '' if value is None else f'{value:.{digits}f}'


def standing(groups: Sequence[Group], selection: str, metric: str = 'recall@1') -> Dict[int, str]:
    """Of each group (by ``id``) what Welch's test with Holm's correction says of it against the best one."""
    have = [g for g in groups if g.values(selection, metric)]
    if not have:
        return {}
    best = max(have, key=lambda g: g.interval(selection, metric).mean)
    found = {id(best): 'best'}
    # Holm over all pairs, as in the comparisons: what is said here is what is said there.
    for c in compare(have, selection, metric):
        if best in (c.first, c.second):
            other = c.second if c.first is best else c.first
            found[id(other)] = ('cannot be tested' if c.adjusted is None else
                                'worse' if c.adjusted < 0.05 else 'not distinguishable')
    return found


def _mean(one: Optional[Interval]) -> str:
    if one is None:
        return ''
    return f'{one.mean:.1f}' + (f' ± {one.half:.1f}' if one.half is not None else '')


def results_table(board: Board, title: str = '', declared: Optional[Sequence[str]] = None) -> str:
    """A board as Markdown: the references, then the algorithms in the paper's order; the best mean is bold.

    Parameters
    ----------
    board : Board
    title : str
        What stands above; default: the data set and the network.
    declared : list of str, optional
        Keys of the algorithms that have a row also where they have no run; default: all.
    """
    lines = [f'**{title or board.dataset + ", " + MODEL_NAMES.get(board.model, board.model)}**', '',
             '| | Recall@1 | MAP@R | NMI | Recall@1, last epoch | s / epoch | Seeds |',
             '|---|---:|---:|---:|---:|---:|---:|']
    for key, metrics in board.references.items():
        lines.append(f'| *{algorithm(key).name.lower()}* | {_mean(metrics.get("recall@1"))} | '
                     f'{_mean(metrics.get("map@r"))} | {_mean(metrics.get("nmi"))} | | | '
                     f'{next(iter(metrics.values())).n} |')
    groups = [g for g in board.groups if g.runs]
    columns = [('best-on-test', 'recall@1'), ('best-on-test', 'map@r'), ('best-on-test', 'nmi'), ('last', 'recall@1')]
    best = {c: max((i.mean for i in (g.interval(*c) for g in groups) if i), default=None) for c in columns}
    have = {g.algorithm for g in groups}
    due = {a.key for a in algorithms()} if declared is None else set(declared)
    for key in sorted(have | due, key=position):
        if key not in have:
            lines.append(f'| {algorithm(key).name} | not run | | | | | |')
        for group in (g for g in groups if g.algorithm == key):
            cells = []
            for column in columns:
                one = group.interval(*column)
                text = _mean(one)
                cells.append(f'**{text}**' if one and one.mean == best[column] else text)
            cells += [number(group.median('seconds_per_epoch'), 1), str(len(group.runs))]
            lines.append(f'| {_markdown(group.name)} | ' + ' | '.join(cells) + ' |')
    lines += ['', 'Percent, mean ± half of the 95% interval (Student\'s t) over seeds. All but the fifth column are at '
              'the best epoch on the test set, the paper\'s rule, which flatters. ' + NMI_NOTE + _seen(groups)]
    said = _standing_in_words(groups)
    return '\n'.join(lines + (['', said] if said else []))


def _seen(groups: Sequence[Group]) -> str:
    seen = [v for v in (g.median('images_seen') for g in groups) if v]
    if not seen:
        return ''
    low, high = min(seen), max(seen)
    return f' Training images seen: {low:,.0f}' + (f' to {high:,.0f}.' if high > low else ' each.')


def _standing_in_words(groups: Sequence[Group]) -> str:
    """Which algorithms can be told from the best one, by recall@1."""
    against = standing(groups, 'best-on-test')
    names = {word: [g.name for g in groups if against.get(id(g)) == word] for word in set(against.values())}
    if 'best' not in names or len(groups) < 2:
        return ''
    text = f'Best by recall@1: {_markdown(names["best"][0])}. '
    if names.get('not distinguishable'):
        text += f'Not distinguishable from it: {_markdown(", ".join(names["not distinguishable"]))}. '
    elif 'worse' in names:
        text += 'All others are worse. ' if 'cannot be tested' not in names else ''
    if names.get('cannot be tested'):
        text += ('Cannot be tested against it, which takes two seeds of each: '
                 f'{_markdown(", ".join(names["cannot be tested"]))}. ')
    return text + "(Welch's t-test over seeds, Holm's correction over all pairs, level 5%.)"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the last column is numbers where its head begins with Recall."""
    rule = '|'.join('---:' if head.startswith('Recall') else '---' for head in heads)
    return '\n'.join([f'| {" | ".join(heads)} |', f'|{rule}|', *(f'| {" | ".join(row)} |' for row in rows)])


def methods_and_commands(glyphs: Dict[str, Group], experiments_file: str = EXPERIMENTS_FILE) -> Dict[str, str]:
    """The tables ``methods``, ``commands`` and ``scripts``, which is both in one.

    Parameters
    ----------
    glyphs : dict
        Of algorithm to the group of its GLYPHS runs; a missing one gets a dash.
    experiments_file : str
        Where the experiment ``glyphs`` says what the command is.
    """
    spec = load_experiments(experiments_file).get('glyphs')
    commands = {job.algorithm: shlex.join(['python', algorithm(job.algorithm).script, *job.settings()])
                for job in (expand(spec, runs=1) if spec else [])}
    methods, exact, scripts = [], [], []
    for a in algorithms():
        paper, script = f'[{_markdown(a.title)}]({a.link})', f'[`{a.script}`]({a.script})'
        command = f'`{commands.get(a.key, f"python {a.script}")}`'
        reached = _mean(glyphs[a.key].interval('best-on-test', 'recall@1')) if a.key in glyphs else '–'
        methods.append([a.name, paper, script, reached])
        exact.append([a.name, _markdown(a.idea), command])
        scripts.append([f'{script} {a.name}', paper, _markdown(a.idea), command, reached])
    return {'methods': _table(['Method', 'Paper', 'Script', 'Recall@1 on GLYPHS'], methods),
            'commands': _table(['Method', 'Idea', 'Command'], exact),
            'scripts': _table(['Script', 'Paper', 'Idea', 'Command', 'Recall@1 on GLYPHS'], scripts)}


def all_tables(results_dir: str = 'results', experiments_file: str = EXPERIMENTS_FILE) -> Dict[str, str]:
    """Every table by the name of its markers, from the logs of the declared experiments.

    Parameters
    ----------
    results_dir : str
        Has ``logs/EXPERIMENT``.
    experiments_file : str
        Declares the experiments.
    """
    found, structures, cards, glyphs = [], [], [], {}
    for name, spec in load_experiments(experiments_file).items():
        folder = os.path.join(results_dir, 'logs', name)
        if not os.path.isdir(folder):
            continue
        try:
            experiments, _ = read_logs([folder])
        except LogError:
            continue
        for board in boards(experiments):
            found.append(results_table(board, spec.title, list(spec.algorithms)))
            structures.append(structure_table(board, spec.title))
            cards.append(card_table(board, spec.title))
            if name == 'glyphs':
                glyphs = {key: group for key, group in board.chosen.items() if group.runs}
    made = {'results': found, 'structure': structures, 'cards': cards}
    texts = {name: '\n\n'.join(filter(None, own)) or 'There are no runs of these experiments in `results/logs/` yet.'
             for name, own in made.items()}
    if found and not any(structures):
        texts['structure'] = 'The logs in `results/logs/` are older than these numbers.'
    return {**texts, **methods_and_commands(glyphs, experiments_file)}


# ---------------------------------------------------------------------------------------------------------------------
# The pages

def with_tables(text: str, tables: Dict[str, str], path: str) -> str:
    """`text` with what is between the markers of each table replaced; a table without markers is left out.

    Raises
    ------
    LogError
        If a marker is there twice or alone, or the two are the wrong way round.
    """
    for name, table in tables.items():
        begin, end = f'<!-- {name}:begin -->', f'<!-- {name}:end -->'
        counts = text.count(begin), text.count(end)
        if counts == (0, 0):
            continue
        if counts != (1, 1) or text.index(begin) > text.index(end):
            raise LogError(f'{path} must have the lines {begin} and {end} once each, in this order')
        before, rest = text.split(begin)
        text = f'{before}{begin}\n{_links_from(path, table)}\n{end}{rest.split(end)[1]}'
    return text


def _links_from(path: str, table: str) -> str:
    """The links to scripts, from a page in docs/."""
    if os.path.basename(os.path.dirname(os.path.abspath(path))) != 'docs':
        return table
    return table.replace('](train_', '](../train_')


def _pages(readme: str, results_dir: str) -> Dict[str, List[str]]:
    """Of each page that has tables: its text, and what it should be."""
    tables = all_tables(results_dir)
    found = {}
    for path in [readme, *sorted(glob.glob(os.path.join(glob.escape(os.path.dirname(readme)), 'docs', '*.md')))]:
        try:
            with open(path, encoding='utf-8') as file:
                text = file.read()
        except UnicodeDecodeError as error:
            raise LogError(f'{path}: not a text in UTF-8') from error
        if any(f'<!-- {name}:{end} -->' in text for name in tables for end in ('begin', 'end')):
            found[path] = [text, with_tables(text, tables, path)]
    if not any('<!-- results:begin -->' in text for text, _ in found.values()):
        raise LogError(f'neither {readme} nor a page in docs/ has the lines <!-- results:begin --> and '
                       '<!-- results:end -->')
    return found


def update_pages(readme: str, results_dir: str) -> int:
    """Writes the tables into the pages; gives the exit status."""
    for path, (text, new) in _pages(readme, results_dir).items():
        if new != text:
            with atomic_write(path) as file:
                file.write(new.encode('utf-8'))
        print(f'{path}: {"updated" if new != text else "was current"}')
    return 0


def check_pages(readme: str, results_dir: str) -> int:
    """Are the tables of the pages those that the logs make? Gives the exit status."""
    pages = _pages(readme, results_dir)
    stale = [path for path, (text, new) in pages.items() if new != text]
    for path in pages:
        if path not in stale:
            print(f'{path} says what the logs say')
    for path in stale:
        print(f'results.report: {path} is not what the logs say; run python -m results.report --update-readme',
              file=sys.stderr)
    return 1 if stale else 0
