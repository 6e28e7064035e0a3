"""One page with everything that the run logs tell, and the tables of the README.

    python -m results.report                      results/logs -> results/report.html
    python -m results.report LOG_OR_FOLDER ...    any logs
    python -m results.report --update-readme      writes the tables between the markers in README.md
    python -m results.report --check-readme       exit status 1 if they are not what the logs say

The page is one file that needs no network: leaderboards to sort and filter, what differs for sure and what does not,
the figures, pictures of retrieval, and of every run its flags, versions, weights and revision. The README's tables come
from ``results/logs/EXPERIMENT`` for the experiments of ``results/experiments.yaml``, and from nothing else.
"""
from __future__ import annotations

import argparse
import base64
import html
import json
import os
import re
import shlex
import sys
from typing import Any, Dict, List, Optional, Sequence, Tuple

from results.algorithms import algorithm, algorithms, position
from results.experiments import EXPERIMENTS_FILE, ExperimentsError, expand, load_experiments
from results.aggregate import Board, Group, boards
from results.plots import MODEL_NAMES, SELECTION_NAMES, figures, one_line, render, styled, write_atomically
from results.readlog import LogError, read_logs
from results.records import SELECTIONS, Experiment, Run
from results.statistics import Comparison, Interval, compare, interval, metric_order, metric_title

HERE = os.path.dirname(os.path.abspath(__file__))
COMPARED = ('recall@1', 'map@r', 'nmi')
MAX_PICTURE = 4 << 20
PICTURES = {'.png': 'image/png', '.jpg': 'image/jpeg', '.jpeg': 'image/jpeg'}
CAPTIONS = {
    'bars': 'Recall@1 and NMI', 'curves': 'Recall@1 over training', 'time': 'Training time to a given recall@1',
    'selection': 'Best epoch on the test set against the last epoch: how much the choice flatters',
    'embedding-size': 'Recall@1 against the size of the embedding', 'batch-size': 'Recall@1 against the batch size'}
NMI_NOTE = 'NMI is normalised by the geometric mean of the entropies.'


def _e(text: Any) -> str:
    return html.escape(str(text), quote=True)


def _number(value: Optional[float], digits: int = 2) -> str:
    return '' if value is None else f'{value:.{digits}f}'


# ---------------------------------------------------------------------------------------------------------------------
# Leaderboard

def _cell(one: Optional[Interval], css: str = '') -> str:
    css = f' class="{css}"' if css else ''
    if one is None:
        return f'<td{css} data-value=""></td>'
    half = f'<span class="pm">±{one.half:.2f}</span>' if one.half is not None else ''
    return f'<td{css} data-value="{one.mean:.6f}">{one.mean:.2f}{half}</td>'


def _swatch(key: str) -> str:
    look = algorithm(key)
    return f'<span class="swatch{" hatched" if look.hatch else ""}" style="background-color:{look.colour}"></span>'


def _state(group: Group) -> str:
    parts = [f'{len(group.runs)} finished'] if group.runs else []
    diverged = sum(run.diverged is not None for _, run in group.open)
    if diverged:
        parts.append(f'{diverged} diverged')
    if len(group.open) > diverged:
        parts.append(f'{len(group.open) - diverged} unfinished')
    if group.left_out:
        parts.append(f'{group.left_out} repeated and left out')
    return ', '.join(parts)


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


def _leaderboard(board: Board, selections: Sequence[str]) -> str:
    names = sorted({m for s in selections for g in board.groups for m in g.metrics(s)}, key=metric_order)
    main = [m for m in ('recall@1', 'map@r', 'nmi') if m in names]
    head = ['<th data-kind="text"><button type="button">Algorithm</button></th>']
    for name in names:
        css = '' if name in main else ' class="more"'
        head.append(f'<th data-kind="number"{css}><button type="button">{_e(metric_title(name))}</button></th>')
    for title, kind in (('Against the best', 'text'), ('s / epoch', 'number'), ('Images seen', 'number'),
                        ('Seeds', 'number'), ('Runs', 'text'), ('Selection', 'text')):
        css = 'more words' if kind == 'text' else 'more'
        head.append(f'<th data-kind="{kind}" class="{css}"><button type="button">{title}</button></th>')
    rows = []
    for key, metrics in board.references.items():
        cells = [f'<td>{_swatch(key)}{_e(algorithm(key).name)}</td>']
        cells += [_cell(metrics.get(n), '' if n in main else 'more') for n in names]
        n = next(iter(metrics.values())).n
        cells += ['<td class="more words"></td>', '<td class="more" data-value=""></td>',
                  '<td class="more" data-value="0">0</td>', f'<td class="more" data-value="{n}">{n}</td>',
                  '<td class="more words"></td>', '<td class="more words">any</td>']
        rows.append(f'<tr class="reference" data-selection="">{"".join(cells)}</tr>')
    for selection in selections:
        against = standing(board.groups, selection)
        for group in board.groups:
            if selection == 'best-on-val' and not group.values(selection, 'recall@1'):
                continue
            cells = [f'<td>{_swatch(group.algorithm)}{_e(group.name)}</td>']
            cells += [_cell(group.interval(selection, n), '' if n in main else 'more') for n in names]
            speed, seen = group.median('seconds_per_epoch'), group.median('images_seen')
            cells += [f'<td class="more words">{against.get(id(group), "")}</td>',
                      f'<td class="more" data-value="{_number(speed, 4)}">{_number(speed, 1)}</td>',
                      f'<td class="more" data-value="{_number(seen, 0)}">{f"{seen:,.0f}" if seen else ""}</td>',
                      f'<td class="more" data-value="{len(group.runs)}">{len(group.runs)}</td>',
                      f'<td class="more words">{_e(_state(group))}</td>',
                      f'<td class="more words">{selection}</td>']
            rows.append(f'<tr data-selection="{selection}">{"".join(cells)}</tr>')
    options = ''.join(f'<option value="{s}">{_e(SELECTION_NAMES[s])}</option>' for s in selections)
    return (
        '<div class="controls">'
        f'<label>Epoch that counts<select class="selection">{options}</select></label>'
        '<label>Show only<input class="filter" type="search" placeholder="margin, proxy, …"></label>'
        '<label class="tick"><input class="columns" type="checkbox">all columns</label></div>'
        f'<div class="scroll"><table class="leaderboard sortable"><thead><tr>{"".join(head)}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div>'
        '<p class="none soft" hidden>Nothing matches.</p>'
        f'<p class="soft">Percent; mean ± half of the 95% interval (Student\'s t) over seeds. {NMI_NOTE}</p>')


def _comparisons(board: Board, selections: Sequence[str]) -> str:
    groups = [g for g in board.groups if g.runs]
    if len(groups) < 2:
        return ''
    number = {id(g): i for i, g in enumerate(groups)}
    data: Dict[str, Dict[str, Dict[str, str]]] = {}
    tables: List[Comparison] = []
    for selection in selections:
        for metric in COMPARED:
            made = compare(groups, selection, metric)
            if (selection, metric) == (selections[0], 'recall@1'):
                tables = made
            data.setdefault(selection, {})[metric] = {
                f'{number[id(c.first)]},{number[id(c.second)]}': c.words for c in made}
    options = [f'<option value="{i}"{{}}>{_e(g.name)}</option>' for i, g in enumerate(groups)]
    first = ''.join(o.format('') for o in options)
    second = ''.join(o.format(' selected' if i == 1 else '') for i, o in enumerate(options))
    metrics = ''.join(f'<option value="{m}">{_e(metric_title(m))}</option>' for m in COMPARED)
    rows = ''.join(
        f'<tr><td>{_e(c.first.name)}</td><td class="words">{_e(c.second.name)}</td>'
        f'<td data-value="{c.difference:.6f}">{c.difference:+.2f}</td>'
        f'<td data-value="{_number(c.p, 8)}">{_number(c.p, 4)}</td>'
        f'<td data-value="{_number(c.adjusted, 8)}">{_number(c.adjusted, 4)}</td>'
        f'<td class="words">{_e(_verdict(c))}</td></tr>' for c in tables)
    # "</" would end the script element inside a string: JSON allows the slash to be escaped.
    text = json.dumps(data).replace('</', '<\\/').replace('<!--', '<\\u0021--')
    return (
        '<h3>What differs for sure</h3><div class="controls">'
        f'<label>Is<select class="first">{first}</select></label>'
        f'<label>better than<select class="second">{second}</select></label>'
        f'<label>in<select class="metric">{metrics}</select></label></div>'
        '<p class="verdict" aria-live="polite"></p>'
        f'<script type="application/json">{text}</script>'
        f'<details><summary>All {len(tables)} pairs, recall@1, {_e(SELECTION_NAMES[selections[0]])}</summary><div>'
        '<div class="scroll"><table class="pairs sortable"><thead><tr>'
        '<th data-kind="text"><button type="button">First</button></th>'
        '<th data-kind="text" class="words"><button type="button">Second</button></th>'
        '<th data-kind="number"><button type="button">Difference</button></th>'
        '<th data-kind="number"><button type="button">p (Welch)</button></th>'
        '<th data-kind="number"><button type="button">p (Holm)</button></th>'
        '<th data-kind="text" class="words"><button type="button">Verdict</button></th></tr></thead>'
        f'<tbody>{rows}</tbody></table></div></div></details>')


def _verdict(c: Comparison) -> str:
    if c.adjusted is None:
        return 'cannot be tested'
    if c.adjusted >= 0.05:
        return 'not distinguishable'
    return 'first is better' if c.difference > 0 else 'second is better'


# ---------------------------------------------------------------------------------------------------------------------
# Figures, pictures, runs

def _image(content: bytes, kind: str, caption: str) -> str:
    data = base64.b64encode(content).decode()
    return (f'<figure><img alt="{_e(caption)}" src="data:{kind};base64,{data}"><figcaption>{_e(caption)}</figcaption>'
            '</figure>')


def _figures(board: Board) -> str:
    drawn = styled(lambda: [(name, render(figure, 'svg')) for name, figure in figures(board).items()])
    images = [_image(content, 'image/svg+xml', CAPTIONS.get(name.split('_')[0], name)) for name, content in drawn]
    return f'<h3>Figures</h3><div class="figures">{"".join(images)}</div>'


def _pictures(folder: str) -> str:
    """Every picture of a folder, with its name as caption; what is too large for a page is named."""
    if not os.path.isdir(folder):
        return ''
    parts = []
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        kind = PICTURES.get(os.path.splitext(name)[1].lower())
        if kind is None:
            continue
        caption = os.path.splitext(name)[0].replace('_', ' ')
        if os.path.getsize(path) > MAX_PICTURE:
            parts.append(f'<p class="soft">{_e(path)} is larger than 4 MiB and left out.</p>')
            continue
        with open(path, 'rb') as file:
            parts.append(_image(file.read(), kind, caption))
    if not parts:
        return ''
    return f'<section id="retrieval"><h2>Retrieval</h2><div class="figures">{"".join(parts)}</div></section>'


def _run_state(run: Run, experiment: Experiment) -> str:
    if run.finished:
        return 'finished'
    if run.diverged is not None:
        return f'diverged at epoch {run.diverged.get("epoch")}'
    planned = experiment.flags.get('epochs')
    return f'unfinished: epoch {run.epochs[-1].number if run.epochs else 0} of {planned}'


def _experiment(experiment: Experiment) -> str:
    runs = list(experiment.runs.values())
    seeds = ', '.join(str(r.seed if r.seed is not None else f'run {r.number}') for r in runs)
    states = sorted({_run_state(r, experiment) for r in runs})
    weights = experiment.weights or {}
    facts: List[Tuple[str, str]] = [
        ('log', experiment.path), ('experiment', experiment.id), ('begun', experiment.time or 'not said'),
        ('revision', experiment.git or 'not said'),
        ('weights', f'{weights.get("file")} (SHA-256 {weights.get("sha256")})' if weights else 'none, or not said'),
        ('versions', ', '.join(f'{k} {v}' for k, v in experiment.versions.items()) or 'not said'),
        ('device', ', '.join(experiment.device) or 'not said'),
        ('data', ', '.join(f'{k.replace("_", " ")} {v}' for k, v in experiment.data.items()) or 'not said')]
    if experiment.resumed:
        facts.append(('resumed', f'{experiment.resumed} times'))
    if experiment.skipped:
        facts.append(('skipped images', '; '.join(f'{s["path"]}: {s["reason"]}' for s in experiment.skipped[:50])))
    for run in runs:
        if run.diverged is not None:
            facts.append((f'run {run.number} diverged', ', '.join(f'{k} {v}' for k, v in run.diverged.items())))
    flags = ' '.join(f'{k}={v}' for k, v in sorted(experiment.flags.items()))
    rows = ''.join(_run_row(run, experiment) for run in runs)
    head = ''.join(f'<th>{h}</th>' for h in ('Run', 'Seed', 'Best epoch', 'Recall@1', 'Last epoch', 'Recall@1', 'NMI',
                                             'Seconds', 'State'))
    described = ''.join(f'<dt>{_e(k)}</dt><dd>{_e(v)}</dd>' for k, v in facts)
    return (
        f'<details><summary>{_swatch(experiment.algorithm)}{_e(algorithm(experiment.algorithm).name)}, '
        f'{_e(experiment.dataset)}, {_e(MODEL_NAMES.get(experiment.model, experiment.model))}, seed {_e(seeds)}: '
        f'{_e("; ".join(states))}</summary><div>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
        f'{_outputs(runs)}<dl>{described}<dt>flags</dt><dd><code>{_e(flags)}</code></dd></dl></div></details>')


def _run_row(run: Run, experiment: Experiment) -> str:
    best, last = (run.chosen.get(s, (None, {})) for s in ('best-on-test', 'last'))
    cells = [run.number, run.seed if run.seed is not None else '', best[0] if best[0] is not None else '',
             _number(best[1].get('recall@1')), last[0] if last[0] is not None else '', _number(last[1].get('recall@1')),
             _number(last[1].get('nmi')), _number(run.seconds, 0), _run_state(run, experiment)]
    return f'<tr>{"".join(f"<td>{_e(c)}</td>" for c in cells)}</tr>'


def _outputs(runs: Sequence[Run]) -> str:
    """Other embeddings of the same network that the run scored too, at the last epoch that has them."""
    found: Dict[str, List[float]] = {}
    for run in runs:
        outputs = next((e.outputs for e in reversed(run.epochs) if e.outputs), {})
        for name, metrics in outputs.items():
            if 'recall@1' in metrics:
                found.setdefault(name, []).append(metrics['recall@1'])
    return ''.join(f'<p class="soft">Recall@1 of its output {_e(name)} at the last epoch: '
                   f'{interval(values).mean:.2f}</p>' for name, values in found.items())


def page(experiments: Sequence[Experiment], problems: Sequence[str] = (), pictures: str = '') -> str:
    """The whole page.

    Parameters
    ----------
    experiments : list of Experiment
        As read from logs; nothing in them is trusted to be harmless in HTML.
    problems : list of str
        What could not be read, to be said at the end.
    pictures : str
        A folder of pictures to show, where it exists.

    Raises
    ------
    LogError
        If no experiment trained anything.
    """
    found = boards(experiments)
    if not found:
        raise LogError('the logs hold no trained run')
    sections, links = [], []
    for number, board in enumerate(found):
        title = f'{board.dataset}, {MODEL_NAMES.get(board.model, board.model)}'
        selections = [s for s in SELECTIONS if s != 'best-on-val'
                      or any(g.values(s, 'recall@1') for g in board.groups)]
        notes = ''.join(f'<p class="soft">{_e(note)}.</p>' for note in board.notes)
        sections.append(f'<section class="board" id="board{number}"><h2>{_e(title)}</h2>'
                        f'{_leaderboard(board, selections)}{notes}{_comparisons(board, selections)}{_figures(board)}'
                        '</section>')
        links.append(f'<li><a href="#board{number}">{_e(title)}</a></li>')
    shown = _pictures(pictures) if pictures else ''
    if shown:
        sections.append(shown)
        links.append('<li><a href="#retrieval">Retrieval</a></li>')
    links.append('<li><a href="#runs">Runs</a></li>')
    runs = ''.join(_experiment(e) for e in experiments)
    left_out = ''.join(f'<p class="soft">Left out: {_e(problem)}</p>' for problem in problems)
    latest = max((e.time for e in experiments), default='')
    with open(os.path.join(HERE, 'report.css'), encoding='utf-8') as file:
        css = file.read()
    with open(os.path.join(HERE, 'report.js'), encoding='utf-8') as file:
        script = file.read()
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
        'style-src \'unsafe-inline\'; script-src \'unsafe-inline\'">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f'<title>DML Playground: results</title><style>{css}</style></head><body>'
        '<h1>Deep metric learning, compared</h1>'
        f'<p class="soft">{len(experiments)} experiments, {sum(len(e.runs) for e in experiments)} runs'
        f'{f"; the last one began {_e(latest)}" if latest else ""}.</p>'
        '<p class="soft">The paper chooses the best epoch on the test set, which flatters; the last epoch does not. '
        'Both are here.</p>'
        f'<nav><ul>{"".join(links)}</ul></nav>{"".join(sections)}'
        f'<section id="runs"><h2>Runs</h2>{runs}{left_out}</section><script>{script}</script></body></html>\n')


# ---------------------------------------------------------------------------------------------------------------------
# README

MARKERS = {name: (f'<!-- {name}:begin -->', f'<!-- {name}:end -->') for name in ('results', 'scripts')}


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
            cells += [_number(group.median('seconds_per_epoch'), 1), str(len(group.runs))]
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
        text += f'Not to be tested, with one seed: {_markdown(", ".join(names["cannot be tested"]))}. '
    return text + "(Welch's t-test over seeds, Holm's correction over all pairs, level 5%.)"


def _markdown(text: str) -> str:
    return re.sub(r'([|\\`*_<>\[\]])', r'\\\1', text).replace('\n', ' ')


def scripts_table(chosen: Dict[str, Group], experiments_file: str = EXPERIMENTS_FILE) -> str:
    """One row for each algorithm: paper, idea, command, and what it reaches on GLYPHS.

    Parameters
    ----------
    chosen : dict
        Of algorithm to the group of its GLYPHS runs; a missing one gets a dash.
    experiments_file : str
        Where the experiment ``glyphs`` says what the command is.
    """
    spec = load_experiments(experiments_file).get('glyphs')
    commands = {}
    for job in expand(spec) if spec else []:
        commands.setdefault(job.algorithm, shlex.join(['python', algorithm(job.algorithm).script, *job.settings()]))
    lines = ['| Script | Paper | Idea | Command | Recall@1 on GLYPHS |', '|---|---|---|---|---:|']
    for a in algorithms():
        command = commands.get(a.key, f'python {a.script}')
        reached = _mean(chosen[a.key].interval('best-on-test', 'recall@1')) if a.key in chosen else ''
        lines.append(f'| [`{a.script}`]({a.script}) {a.name} | [{a.title}]({a.link}) | {a.idea} | `{command}` | '
                     f'{reached or "–"} |')
    return '\n'.join(lines)


def readme_tables(results_dir: str = 'results', experiments_file: str = EXPERIMENTS_FILE) -> Dict[str, str]:
    """What stands between each pair of markers, from the logs of the declared experiments.

    Parameters
    ----------
    results_dir : str
        Has ``logs/EXPERIMENT``.
    experiments_file : str
        Declares the experiments.
    """
    specs = load_experiments(experiments_file)
    tables, glyphs = [], {}
    for name, spec in specs.items():
        folder = os.path.join(results_dir, 'logs', name)
        if not os.path.isdir(folder):
            continue
        try:
            experiments, _ = read_logs([folder])
        except LogError:
            continue
        for board in boards(experiments):
            tables.append(results_table(board, spec.title, list(spec.algorithms)))
            if name == 'glyphs':
                glyphs = {key: group for key, group in board.chosen.items() if group.runs}
    text = '\n\n'.join(tables) or 'There are no runs of these experiments in `results/logs/` yet.'
    return {'results': text, 'scripts': scripts_table(glyphs, experiments_file)}


def with_tables(text: str, tables: Dict[str, str], path: str) -> str:
    """`text` with what is between the markers replaced.

    Raises
    ------
    LogError
        If a marker is missing, is there twice, or they are the wrong way round.
    """
    for name, table in tables.items():
        begin, end = MARKERS[name]
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise LogError(f'{path} must have the lines {begin} and {end} once each, in this order')
        head, rest = text.split(begin)
        text = f'{head}{begin}\n{table}\n{end}{rest.split(end)[1]}'
    return text


def _readme(opt: argparse.Namespace) -> int:
    with open(opt.readme, encoding='utf-8', errors='strict') as file:
        text = file.read()
    new = with_tables(text, readme_tables(opt.results_dir), opt.readme)
    if opt.check_readme:
        if new == text:
            print(f'{opt.readme} says what the logs say')
            return 0
        print(f'results.report: {opt.readme} is not what the logs say; run python -m results.report --update-readme',
              file=sys.stderr)
        return 1
    if new != text:
        write_atomically(opt.readme, new.encode('utf-8'))
    print(f'{opt.readme}: {"updated" if new != text else "was current"}')
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# The command

def main(argv: Optional[List[str]] = None) -> int:
    """The command; gives its exit status."""
    parser = argparse.ArgumentParser(prog='python -m results.report', description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('logs', nargs='*', help='logs, or folders of them (RESULTS_DIR/logs)')
    parser.add_argument('--out', metavar='FILE', help='the page (RESULTS_DIR/report.html)')
    parser.add_argument('--results-dir', default='results', metavar='DIR',
                        help='folder of logs/ and pictures/ (results)')
    parser.add_argument('--pictures', metavar='DIR', help='retrieval pictures to show (RESULTS_DIR/pictures)')
    parser.add_argument('--readme', default='README.md', metavar='FILE', help='where the tables go (README.md)')
    action = parser.add_mutually_exclusive_group()
    action.add_argument('--update-readme', action='store_true', help='write the tables of the README, and no page')
    action.add_argument('--check-readme', action='store_true', help='exit status 1 if the README is not current')
    opt = parser.parse_args(argv)
    return one_line(lambda: _run(opt), 'results.report')


def _run(opt: argparse.Namespace) -> int:
    try:
        if opt.update_readme or opt.check_readme:
            return _readme(opt)
    except (ExperimentsError, UnicodeDecodeError) as error:
        raise LogError(str(error)) from error
    experiments, problems = read_logs(opt.logs or [os.path.join(opt.results_dir, 'logs')])
    out = opt.out or os.path.join(opt.results_dir, 'report.html')
    made = page(experiments, problems, opt.pictures or os.path.join(opt.results_dir, 'pictures'))
    os.makedirs(os.path.dirname(out) or '.', exist_ok=True)
    write_atomically(out, made.encode('utf-8', 'replace'))
    print(out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
