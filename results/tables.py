"""The tables of README.md and docs/*.md, as Markdown, from the run logs.

A page has a table wherever it has its two markers, each on a line of its own::

    <!-- results:begin -->
    <!-- results:end -->

``methods`` lists the methods, their papers, scripts and results; ``commands`` has the exact command of each.
``results`` has a table for each experiment that has logs, ``tuning`` one for each that `results.tune` has searched,
``structure`` one of what their embeddings look like inside, and ``cards`` one of what else differs between the methods.
``orders`` compares the order of the algorithms with the paper's. ``first-picture``, ``more-pictures`` and
``paper-pictures`` show the figures of ``results/plots`` that are there.
"""
from __future__ import annotations

import glob
import os
import re
import shlex
import sys
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

from common.files import atomic_write
from results.across import Together, together
from results.aggregate import Board, Group, boards
from results.algorithms import algorithm, algorithms, position
from results.cards import card_table, structure_table
from results.cards import markdown as _markdown
from results.comparison import compare, group_letters, rule_in_words
from results.crossval import crossval_table
from results.experiments import EXPERIMENTS_FILE, expand, load_experiments
from results.figures.style import MODEL_NAMES, board_title
from results.figures.sweep import SIZES, sweeps
from results.orders import orders_table
from results.readlog import LogError, read_logs
from results.records import TUNED, Experiment
from results.statistics import Interval, interquartile_mean
from results.tuning import Record, collapse_rate, load_record, record_path, tunability

NMI_NOTE = 'NMI is normalised by the geometric mean of the entropies.'
LETTERS_NOTE = 'Rows that share a letter cannot be told apart by recall@1.'
SELECTION = 'last'      # the epoch that all tables show: nothing chooses it
FLATTERY = 'Best-on-test minus last'
FLATTERY_NOTE = f'{FLATTERY}: what recall@1 gains where the test set chooses the epoch, which is the paper\'s rule.'
INTERVAL_NOTE = 'Percent at the last epoch, mean ± half of the 95% interval (Student\'s t) over seeds.'


def number(value: Optional[float], digits: int = 2) -> str:
    """A number with so many digits after the point; empty for None."""
    return '' if value is None else f'{value:.{digits}f}'


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
             f'| | Recall@1 | Group | MAP@R | NMI | {FLATTERY} | s / epoch | Seeds |',
             '|---|---:|---|---:|---:|---:|---:|---:|']
    for key, metrics in board.references.items():
        lines.append(f'| *{algorithm(key).name.lower()}* | {_mean(metrics.get("recall@1"))} | | '
                     f'{_mean(metrics.get("map@r"))} | {_mean(metrics.get("nmi"))} | | | '
                     f'{next(iter(metrics.values())).n} |')
    groups = [g for g in board.groups if g.runs]
    best = {m: max((i.mean for i in (g.interval(SELECTION, m) for g in groups) if i), default=None)
            for m in ('recall@1', 'map@r', 'nmi')}
    compared = compare(groups, SELECTION, 'recall@1')
    letters = group_letters(groups, SELECTION, 'recall@1', compared)
    have = {g.algorithm for g in groups}
    due = {a.key for a in algorithms()} if declared is None else set(declared)
    for key in sorted(have | due, key=position):
        if key not in have:
            lines.append(f'| {algorithm(key).name} | not run | | | | | | |')
        for group in (g for g in groups if g.algorithm == key):
            cells = []
            for metric, top in best.items():
                one = group.interval(SELECTION, metric)
                cells.append(f'**{_mean(one)}**' if one and one.mean == top else _mean(one))
            cells[1:1] = [letters.get(id(group), '')]
            cells += [_signed(group.flattery), number(group.median('seconds_per_epoch'), 1), str(len(group.runs))]
            lines.append(f'| {_markdown(group.name)} | ' + ' | '.join(cells) + ' |')
    lines += ['', f'{INTERVAL_NOTE} {FLATTERY_NOTE} {NMI_NOTE}{_budget(groups)}']
    rule = rule_in_words(compared)
    return '\n'.join(lines + (['', f'{LETTERS_NOTE} {rule}'] if rule else []))


def across(all_of_them: Together) -> Tuple[str, List[str], List[List[str]], str]:
    """Title, heads, rows and note of the table of all benchmarks together, of which there are at least two."""
    rows, seeds = [], set()
    for key in all_of_them.algorithms:
        best, last = (all_of_them.scores(key, selection) for selection in ('best-on-test', SELECTION))
        one = interquartile_mean(last)
        seeds |= {len(values) for values in last}
        flattery = interquartile_mean(best).value - one.value if all(best) else None
        rows.append([algorithm(key).name, f'{one.value:.1f}', f'{one.low:.1f} to {one.high:.1f}', _signed(flattery),
                     str(sum(map(len, last)))])
    names = '; '.join(board_title(b.dataset, b.model, b.comparison) for b in all_of_them.boards)
    seen = _budget([b.chosen[key] for b in all_of_them.boards for key in all_of_them.algorithms])
    return (f'{len(all_of_them.boards)} benchmarks together',
            ['Algorithm', 'Recall@1, interquartile mean', '95% interval', FLATTERY, 'Runs'], rows,
            f'Percent at the last epoch: the mean of the middle half of all runs, over {names}, with '
            f'{_span(seeds)} seeds each. The interval comes from a bootstrap over the seeds of each benchmark. '
            f'{FLATTERY_NOTE}{seen}')


def _across_table(found: Sequence[Board]) -> str:
    all_of_them = together(found)
    if not all_of_them.algorithms:
        return ''
    title, heads, rows, note = across(all_of_them)
    return '\n'.join([f'**{title}**', '', _table(heads, rows), '', note])


def _span(values: Iterable[float]) -> str:
    low, high = min(values), max(values)
    return f'{low:,.0f}' + (f' to {high:,.0f}' if high > low else '')


def _signed(value: Optional[float]) -> str:
    return '' if value is None else f'{value:+.1f}'


def _budget(groups: Sequence[Group]) -> str:
    """How many images the runs saw."""
    seen = {v for v in (g.median('images_seen') for g in groups) if v}
    return f' Training images seen: {_span(seen)}{" each" if len(seen) == 1 else ""}.' if seen else ''


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; columns of numbers are those whose head begins with Recall or Best."""
    rule = '|'.join('---:' if head.startswith(('Recall', 'Best')) else '---' for head in heads)
    return '\n'.join([f'| {" | ".join(heads)} |', f'|{rule}|', *(f'| {" | ".join(row)} |' for row in rows)])


def crossvalidation(experiments: Sequence[Experiment]) -> Tuple[List[str], List[List[str]], str]:
    """Heads, rows and note of the table of cross-validations."""
    return crossval_table(experiments, _mean)


def _crossval_markdown(results_dir: str, names: Sequence[str]) -> str:
    folders = [folder for name in names
               for folder in sorted(glob.glob(os.path.join(glob.escape(results_dir), 'logs', f'{name}-folds*')))]
    try:
        heads, rows, note = crossvalidation(read_logs(folders)[0] if folders else [])
    except LogError:
        rows = []
    return f'{_table(heads, rows)}\n\n{note}' if rows else 'No cross-validation has been run yet.'


def tuning_table(record: Record, title: str) -> str:
    """What the search of each algorithm found, as Markdown.

    Parameters
    ----------
    record : Record
        With at least one trial.
    title : str
        What stands above.
    """
    rows, seen = [], []
    for key in sorted(record.rows, key=position):
        row = record.rows[key]
        if row.trials:
            lost = record.raw_pixels is not None
            rows.append([algorithm(key).name, str(len(row.trials)), f'{row.trials[0].score:.1f}',
                         f'{row.best.score:.1f}', f'{tunability(row):.1f}',
                         f'{100 * collapse_rate(row, record.raw_pixels):.0f} %' if lost else '',
                         ' '.join(f'`{name} {_setting(value)}`' for name, value in row.best.flags.items())])
            seen += [trial.images_seen / len(record.folds) for trial in row.trials if trial.images_seen]
    heads = ['', 'Trials', 'Default', 'Best', 'Tunability', 'Collapse', 'Best settings']
    lines = [f'| {" | ".join(heads)} |', '|---|---:|---:|---:|---:|---:|---|', *(f'| {" | ".join(r)} |' for r in rows)]
    pixels = '' if record.raw_pixels is None else f' Raw pixels have {record.raw_pixels:.1f} there.'
    budget = f' Training images of a run: {min(seen):,.0f} to {max(seen):,.0f}.' if seen else ''
    return '\n'.join([f'**{title}**', '', *lines, '',
                      'Recall@1 in percent on held-out training classes, after the last epoch '
                      f'(fold {", ".join(record.folds)}; seed {record.seed}; one run of each setting).{pixels}'
                      f'{budget} No trial saw a test image. Tunability is best minus default. Collapse is the share of '
                      'the trials that are not above raw pixels.'])


def _setting(value: Any) -> str:
    return {True: 'yes', False: 'no'}[value] if isinstance(value, bool) else str(value)


def tuning_records(results_dir: str) -> List[Record]:
    """The records of all experiments that have been searched."""
    records = [load_record(path) for path in sorted(glob.glob(record_path(glob.escape(results_dir), '*')))]
    return [record for record in records if any(row.trials for row in record.rows.values())]


def sweep_table(board: Board, title: str) -> str:
    """Recall@1 of each algorithm at each size, as Markdown; empty where the board has one size only."""
    lines = []
    for what, name in SIZES.items():
        rows = sweeps(board, what)
        if not rows:
            continue
        sizes = sorted({size for own in rows.values() for size in own})
        lines += [f'**{title}**', '', f'| {name.capitalize().replace("-", " ")} | {" | ".join(map(str, sizes))} |',
                  '|---|' + '---:|' * len(sizes)]
        for key in sorted(rows, key=position):
            cells = [_mean(rows[key][size].interval(SELECTION, 'recall@1')) if size in rows[key] else ''
                     for size in sizes]
            lines.append(f'| {algorithm(key).name} | {" | ".join(cells)} |')
        groups = [group for own in rows.values() for group in own.values()]
        seeds = _span({len(group.runs) for group in groups})
        seeds += ' seed' if seeds == '1' else ' seeds'
        lines += ['', f'Recall@1 in percent at the last epoch, {seeds} each.{_budget(groups)}', '']
    return '\n'.join(lines).strip()


def methods_and_commands(published: Dict[str, Group], tuned: Optional[Dict[str, Group]] = None, search: str = '',
                         experiments_file: str = EXPERIMENTS_FILE) -> Dict[str, str]:
    """The tables ``methods`` and ``commands``.

    Parameters
    ----------
    published, tuned : dict
        Of algorithm to the group of its runs on GLYPHS; a missing one gets a dash. Letters and flattery are those of
        the tuned ones, if there are any.
    search : str
        How the tuned settings were found.
    experiments_file : str
        Where the experiment ``glyphs`` says what the command is.
    """
    spec = load_experiments(experiments_file).get('glyphs')
    commands = {job.algorithm: shlex.join(['python', algorithm(job.algorithm).script, *job.settings()])
                for job in (expand(spec, runs=1) if spec else [])}
    main = tuned or published
    groups = list(main.values())
    compared = compare(groups, SELECTION, 'recall@1')
    letters = group_letters(groups, SELECTION, 'recall@1', compared)
    methods, exact = [], []
    for a in algorithms():
        paper, script = f'[{_markdown(a.title)}]({a.link})', f'[`{a.script}`]({a.script})'
        command = f'`{commands.get(a.key, f"python {a.script}")}`'
        group = main.get(a.key)
        reached = ['–', '', ''] if group is None else [
            _mean(group.interval(SELECTION, 'recall@1')), letters.get(id(group), ''), _signed(group.flattery)]
        if tuned:
            reached.append(_mean(published[a.key].interval(SELECTION, 'recall@1')) if a.key in published else '–')
        methods.append([a.name, paper, script, *reached])
        exact.append([a.name, _markdown(a.idea), command])
    heads = ['Recall@1 on GLYPHS' + (', tuned' if tuned else ''), 'Group', FLATTERY,
             *(['Recall@1, published settings'] if tuned else [])]
    rule = rule_in_words(compared)
    note = (f'\n\n{INTERVAL_NOTE} {FLATTERY_NOTE}{_budget(groups)}{search if tuned else ""}' if groups else '') + (
        f'\n\n{LETTERS_NOTE} {rule}' if rule else '')
    return {'methods': _table(['Method', 'Paper', 'Script', *heads], methods) + note,
            'commands': _table(['Method', 'Idea', 'Command'], exact)}


def all_tables(results_dir: str = 'results', experiments_file: str = EXPERIMENTS_FILE) -> Dict[str, str]:
    """Every table by the name of its markers, from the logs of the declared experiments.

    Parameters
    ----------
    results_dir : str
        Has ``logs/EXPERIMENT``, ``tuned/EXPERIMENT.yaml`` and ``plots``.
    experiments_file : str
        Declares the experiments.
    """
    specs = load_experiments(experiments_file)
    declared = {name + suffix: (spec, spec.title + said) for name, spec in specs.items()
                for suffix, said in (('', ''), (TUNED, ', with tuned settings'))}
    places: Dict[str, List[Board]] = {}
    for board in _boards(results_dir, declared):
        places.setdefault(board.comparison, []).append(board)
    found, structures, cards, compared = [], [], [], []
    for name, (spec, title) in declared.items():
        for board in places.get(name, []):
            if spec.sweep:
                found.append(sweep_table(board, title))
                continue
            compared.append(board)
            found.append(results_table(board, title, list(spec.algorithms)))
            structures.append(structure_table(board, title))
            cards.append(card_table(board, title))
    found.append(_across_table(compared))
    made = {'results': found, 'structure': structures, 'cards': cards, 'orders': [orders_table(compared, SELECTION)]}
    texts = {name: '\n\n'.join(filter(None, own)) or 'There are no runs of these experiments in `results/logs/` yet.'
             for name, own in made.items()}
    if any(found) and not any(structures):
        texts['structure'] = 'The logs in `results/logs/` are older than these numbers.'
    texts['crossval'] = _crossval_markdown(results_dir, list(declared))
    records = {record.experiment: record for record in tuning_records(results_dir) if record.experiment in specs}
    searched = [tuning_table(record, specs[name].title) for name, record in records.items()]
    published, tuned = ({key: group for board in places.get(name, []) for key, group in board.chosen.items()
                         if group.runs} for name in ('glyphs', f'glyphs{TUNED}'))
    search = _search(records['glyphs']) if 'glyphs' in records else ''
    return {**texts, **pictures(results_dir), 'tuning': '\n\n'.join(searched) or 'No experiment has been searched yet.',
            **methods_and_commands(published, tuned, search, experiments_file)}


def _boards(results_dir: str, names: Iterable[str]) -> List[Board]:
    """The boards of the comparisons of these names that have logs."""
    folders = [os.path.join(results_dir, 'logs', name) for name in names]
    try:
        return boards(read_logs([folder for folder in folders if os.path.isdir(folder)])[0])
    except LogError:
        return []


def _search(record: Record) -> str:
    trials = {len(row.trials) for row in record.rows.values() if row.trials}
    return (f' Tuned settings are the best of {_span(trials)} trials for each method, by recall@1 on held-out training '
            'classes; no trial saw a test image.')


# ---------------------------------------------------------------------------------------------------------------------
# Pictures

#: The paper's figures, and which of ours is beside each.
PAPER_PICTURES = {'CUB_resnet50': 'glyphs', 'CUB_inception': 'glyphs', 'CARS196_inception': 'cars196-half',
                  'SOP_inception': 'glyphs', 'embedding_size': 'embedding-size', 'batch_size': 'batch-size'}


def pictures(results_dir: str) -> Dict[str, str]:
    """The figures of ``plots`` that are there: ours, and the paper's with ours beside them."""
    def show(text: str, *names: str) -> str:
        """The first of them that is there; empty if none is."""
        files = [os.path.join(results_dir, 'plots', f'{name}.png') for name in names]
        return next((f'![{text}]({file})' for file in files if os.path.exists(file)), '')

    def ours(text: str, experiment: str, figure: str) -> str:
        return show(text, f'{experiment}{TUNED}_{figure}', f'{experiment}_{figure}')

    bars = {name: ours(f'Recall@1 and NMI of all algorithms on {title}', name, 'bars')
            for name, title in (('glyphs', 'GLYPHS'), ('cars196-half', 'the training half of Cars196'))}
    sizes = {figure: ours(f'Recall@1 on GLYPHS against the {figure.replace("-", " ")}', f'glyphs-{figure}', figure)
             for figure in SIZES.values()}
    pair = [picture for picture in sizes.values() if picture]
    more = [bars['cars196-half'], f'| {" | ".join(pair)} |\n|{"---|" * len(pair)}' if pair else '']
    beside = {**bars, **sizes}
    theirs = {name: show(f'The paper\'s figure {name}', name) for name in PAPER_PICTURES}
    rows = [f'| {picture} | {beside[PAPER_PICTURES[name]] or "not run yet"} |'
            for name, picture in theirs.items() if picture]
    none = 'These figures are not in `results/plots/` yet.'
    return {'first-picture': bars['glyphs'] or none, 'more-pictures': '\n\n'.join(filter(None, more)) or none,
            'paper-pictures': '\n'.join(['| The paper\'s | Ours |', '|---|---|', *rows]) if rows else none}


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
    """`table` with the links to scripts and pictures as a page in docs/ needs them."""
    in_docs = os.path.basename(os.path.dirname(os.path.abspath(path))) == 'docs'
    return re.sub(r'\]\((?=(?:train_|results/))', '](../', table) if in_docs else table


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
