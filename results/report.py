"""One page with everything in the run logs, and the tables of the README and of docs/.

    python -m results.report                      results/logs -> results/report.html
    python -m results.report LOG_OR_FOLDER ...    any logs
    python -m results.report --update-readme      writes the tables between the markers in README.md and docs/*.md
    python -m results.report --check-readme       exit status 1 if they are not what the logs say

The page is one file that needs no network. It has leaderboards to sort and filter, what may be said of differences, the
figures, pictures of retrieval, and the flags, versions, weights and revision of every run. The tables come only from
``results/logs/EXPERIMENT`` for the experiments of ``results/experiments.yaml``.
"""
from __future__ import annotations

import argparse
import base64
import os
import sys
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.command import CommandParser, run_command
from common.files import atomic_write, expand_path
from common.stats import PLAIN_METRICS
from results.across import together
from results.aggregate import Board, Group, boards
from results.algorithms import algorithm
from results.cards import HEADS, card
from results.comparison import compare, group_letters, rule_in_words
from results.figures.profile import draw_profiles
from results.figures.style import MODEL_NAMES, SELECTION_NAMES, board_title, render, styled
from results.figures.sweep import SIZES
from results.figures.tuning import draw_tuning
from results.plots import figures
from results.readlog import LogError, read_logs
from results.records import SELECTIONS, Experiment, Run
from results.statistics import interval, metric_order, metric_title
from results.tables import (
    FLATTERY,
    FLATTERY_NOTE,
    LETTERS_NOTE,
    NMI_NOTE,
    across,
    check_pages,
    crossvalidation,
    number,
    tuning_records,
    update_pages,
)
from results.tuning import Record, collapse_rate, tunability

HERE = os.path.dirname(os.path.abspath(__file__))
MAIN_METRICS = ('recall@1', 'map@r', 'nmi')
SWEEPS = set(SIZES.values())
MAX_PICTURE = 4 << 20
PICTURES = {'.png': 'image/png', '.jpg': 'image/jpeg', '.jpeg': 'image/jpeg'}
CAPTIONS = {
    'bars': 'Recall@1 and NMI', 'curves': 'Recall@1 over training', 'time': 'Training time to a given recall@1',
    'selection': 'Best epoch on the test set against the last epoch: how much the choice flatters',
    'profiles': 'The share of runs above each recall@1, over all benchmarks',
    'embedding-size': 'Recall@1 against the size of the embedding', 'batch-size': 'Recall@1 against the batch size'}


# ---------------------------------------------------------------------------------------------------------------------
# The values in the template

def _board(board: Board) -> Dict[str, Any]:
    selections = [s for s in SELECTIONS if s != 'best-on-val' or any(g.values(s, 'recall@1') for g in board.groups)]
    names = sorted({m for s in selections for g in board.groups for m in g.metrics(s)}, key=metric_order)
    drawn = styled(lambda: figures(board))
    # A comparison of sizes has many groups, and one question, which its figure answers.
    of_sizes = board.comparison and SWEEPS & drawn.keys()
    compared = [] if of_sizes else [g for g in board.groups if g.runs]
    pairs = {(s, m): compare(compared, s, m) for s in selections for m in MAIN_METRICS}
    rows = []
    for selection in selections:
        letters = group_letters(compared, selection, 'recall@1', pairs[selection, 'recall@1'])
        rows += [{'group': g, 'selection': selection, 'letters': letters.get(id(g), ''), 'state': _group_state(g),
                  'metrics': {name: g.interval(selection, name) for name in names}}
                 for g in board.groups if selection != 'best-on-val' or g.values(selection, 'recall@1')]
    number_of = {id(g): i for i, g in enumerate(compared)}
    words = {s: {m: {f'{number_of[id(c.first)]},{number_of[id(c.second)]}': c.words(m) for c in pairs[s, m]}
                 for m in MAIN_METRICS} for s in selections}
    rendered = styled(lambda: [(name, render(figure, 'svg')) for name, figure in drawn.items()])
    title = board_title(board.dataset, board.model, board.comparison)
    return {'title': f'{board.comparison}: {title}' if board.comparison else title, 'selections': selections,
            'metrics': names, 'rows': rows, 'compared': compared, 'words': words,
            'notes': [] if of_sizes else board.notes,
            'references': [(key, {**dict.fromkeys(names), **own}) for key, own in board.references.items()],
            'pairs': pairs['last', 'recall@1'], 'rule': rule_in_words(pairs['last', 'recall@1']),
            'cards': [(g, card(g)) for g in compared],
            'figures': [(CAPTIONS.get(name, name), 'image/svg+xml', base64.b64encode(content).decode())
                        for name, content in rendered]}


def _group_state(group: Group) -> str:
    diverged = sum(run.diverged is not None for _, run in group.open)
    counts = ((len(group.runs), 'finished'), (diverged, 'diverged'), (len(group.open) - diverged, 'unfinished'),
              (group.left_out, 'repeated and left out'))
    return ', '.join(f'{count} {word}' for count, word in counts if count)


def _pictures(folder: str) -> Iterator[Tuple[str, str, str]]:
    """Caption, type and content of every picture of a folder; no content where it is too large for a page."""
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        stem, suffix = os.path.splitext(name)
        path = os.path.join(folder, name)
        if suffix.lower() not in PICTURES:
            continue
        if os.path.getsize(path) > MAX_PICTURE:
            yield path, '', ''
            continue
        with open(path, 'rb') as file:
            yield stem.replace('_', ' '), PICTURES[suffix.lower()], base64.b64encode(file.read()).decode()


def _experiment(experiment: Experiment) -> Dict[str, Any]:
    runs = list(experiment.runs.values())
    weights = experiment.weights or {}
    facts: List[Tuple[str, str]] = [
        ('log', experiment.path), ('experiment', experiment.id), ('begun', experiment.time or 'unknown'),
        ('revision', experiment.git or 'unknown'),
        ('weights', f'{weights.get("file")} (SHA-256 {weights.get("sha256")})' if weights else 'none, or unknown'),
        ('versions', ', '.join(f'{k} {v}' for k, v in experiment.versions.items()) or 'unknown'),
        ('device', ', '.join(experiment.device) or 'unknown'),
        ('data', ', '.join(f'{k.replace("_", " ")} {v}' for k, v in experiment.data.items()) or 'unknown')]
    if experiment.skipped:
        facts.append(('skipped images', '; '.join(f'{s["path"]}: {s["reason"]}' for s in experiment.skipped[:50])))
    facts += [(f'run {run.number} diverged', ', '.join(f'{k} {v}' for k, v in run.diverged.items()))
              for run in runs if run.diverged is not None]
    return {'experiment': experiment, 'facts': facts, 'outputs': _outputs(runs),
            'flags': ' '.join(f'{k}={v}' for k, v in sorted(experiment.flags.items())),
            'runs': [_run_row(run, experiment) for run in runs],
            'seeds': ', '.join(str(r.seed if r.seed is not None else f'run {r.number}') for r in runs),
            'states': '; '.join(sorted({_run_state(r, experiment) for r in runs}))}


def _run_state(run: Run, experiment: Experiment) -> str:
    if run.finished:
        return 'finished'
    if run.diverged is not None:
        return f'diverged at epoch {run.diverged.get("epoch")}'
    return f'unfinished: epoch {run.epochs[-1].number if run.epochs else 0} of {experiment.flags.get("epochs")}'


def _run_row(run: Run, experiment: Experiment) -> List[Any]:
    best, last = (run.chosen.get(s, (None, {})) for s in ('best-on-test', 'last'))
    cells = [run.number, run.seed, best[0], number(best[1].get('recall@1')), last[0], number(last[1].get('recall@1')),
             number(last[1].get('nmi')), number(run.seconds, 0), number(run.evaluation_seconds, 0),
             number(run.total_seconds, 0), number(run.peak_memory_mb, 0), number(run.gpu_memory_mb, 0),
             _run_state(run, experiment)]
    return ['' if cell is None else cell for cell in cells]


def _outputs(runs: Sequence[Run]) -> List[Tuple[str, float]]:
    """Mean recall@1 of other embeddings of the same network, at the last epoch that scored them."""
    found: Dict[str, List[float]] = {}
    for run in runs:
        outputs = next((e.outputs for e in reversed(run.epochs) if e.outputs), {})
        for name, metrics in outputs.items():
            if 'recall@1' in metrics:
                found.setdefault(name, []).append(metrics['recall@1'])
    return [(name, interval(values).mean) for name, values in found.items()]


def _search(record: Record) -> Dict[str, Any]:
    drawn = styled(lambda: render(draw_tuning(record), 'svg'))
    rows = [{'key': key, 'trials': len(row.trials), 'default': row.trials[0].score, 'best': row.best.score,
             'gain': tunability(row), 'settings': ', '.join(f'{k} {v}' for k, v in row.best.flags.items()),
             'collapse': None if record.raw_pixels is None else 100 * collapse_rate(row, record.raw_pixels)}
            for key, row in record.rows.items() if row.trials]
    return {'record': record, 'rows': rows, 'figure': base64.b64encode(drawn).decode()}


def page(experiments: Sequence[Experiment], problems: Sequence[str] = (), pictures: str = '',
         records: Sequence[Record] = ()) -> str:
    """The whole page, in HTML; texts from logs are escaped.

    Parameters
    ----------
    experiments : list of Experiment
    problems : list of str
        What could not be read; stands at the end of the page.
    pictures : str
        A folder of pictures to show, if it exists.
    records : list of Record
        Of searches, each with at least one trial.

    Raises
    ------
    LogError
        If no experiment trained anything.
    """
    found = boards(experiments)
    folds = crossvalidation(experiments)
    if not found and not folds[1]:
        raise LogError('the logs hold no trained run')
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters['number'] = number
    environment.globals.update(algorithm=algorithm, metric_title=metric_title, main_metrics=MAIN_METRICS,
                               selection_names=SELECTION_NAMES, model_names=MODEL_NAMES, nmi_note=NMI_NOTE,
                               flattery=FLATTERY, flattery_note=FLATTERY_NOTE, letters_note=LETTERS_NOTE,
                               plain_metrics=PLAIN_METRICS, card_heads=HEADS)
    all_of_them = together(found)
    profiles = styled(lambda: render(draw_profiles(all_of_them), 'svg')) if all_of_them.algorithms else b''
    return environment.get_template('report.html.j2').render(
        across=across(all_of_them) if all_of_them.algorithms else None, folds=folds,
        profiles=(CAPTIONS['profiles'], 'image/svg+xml', base64.b64encode(profiles).decode()),
        boards=[_board(board) for board in found], searches=[_search(record) for record in records],
        experiments=[_experiment(e) for e in experiments],
        number_of_runs=sum(len(e.runs) for e in experiments), latest=max((e.time for e in experiments), default=''),
        pictures=list(_pictures(pictures)), problems=problems)


# ---------------------------------------------------------------------------------------------------------------------
# The command

def main(argv: Optional[List[str]] = None) -> int:
    """The command; gives its exit status."""
    parser = CommandParser(prog='python -m results.report', description=__doc__,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('logs', nargs='*', type=expand_path, help='logs, or folders of them (RESULTS_DIR/logs)')
    parser.add_argument('--out', type=expand_path, metavar='FILE', help='the page (RESULTS_DIR/report.html)')
    parser.add_argument('--results-dir', type=expand_path, default='results', metavar='DIR',
                        help='folder of logs/ and pictures/ (results)')
    parser.add_argument('--pictures', type=expand_path, metavar='DIR',
                        help='retrieval pictures to show (RESULTS_DIR/pictures)')
    parser.add_argument('--readme', default='README.md', metavar='FILE',
                        help='where the tables go, besides docs/*.md beside it (README.md)')
    action = parser.add_mutually_exclusive_group()
    action.add_argument('--update-readme', action='store_true', help='write the tables of the pages, and no report')
    action.add_argument('--check-readme', action='store_true', help='exit status 1 if a page is not current')
    opt = parser.parse_args(argv)
    return run_command('results.report', lambda: _run(opt))


def _run(opt: argparse.Namespace) -> int:
    if opt.update_readme or opt.check_readme:
        return (update_pages if opt.update_readme else check_pages)(opt.readme, opt.results_dir)
    experiments, problems = read_logs(opt.logs or [os.path.join(opt.results_dir, 'logs')])
    experiments = [e for e in experiments if not e.flags.get('validate_only')]      # trials: in the records
    records = tuning_records(opt.results_dir)
    out = opt.out or os.path.join(opt.results_dir, 'report.html')
    made = page(experiments, problems, opt.pictures or os.path.join(opt.results_dir, 'pictures'),
                records)
    os.makedirs(os.path.dirname(out) or '.', exist_ok=True)
    with atomic_write(out) as file:
        file.write(made.encode('utf-8', 'replace'))
    print(out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
