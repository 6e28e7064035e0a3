"""One page with everything that the run logs tell, and the tables of the README and of docs/.

    python -m results.report                      results/logs -> results/report.html
    python -m results.report LOG_OR_FOLDER ...    any logs
    python -m results.report --update-readme      writes the tables between the markers in README.md and docs/*.md
    python -m results.report --check-readme       exit status 1 if they are not what the logs say

The page is one file that needs no network: leaderboards to sort and filter, what differs for sure and what does not,
the figures, pictures of retrieval, and of every run its flags, versions, weights and revision. The tables come from
``results/logs/EXPERIMENT`` for the experiments of ``results/experiments.yaml``, and from nothing else.
"""
from __future__ import annotations

import argparse
import base64
import os
import sys
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from common.command import CommandParser, run_command
from common.files import atomic_write, expand_path
from common.stats import PLAIN_METRICS
from results.aggregate import Board, Group, boards
from results.algorithms import algorithm
from results.cards import HEADS, card
from results.figures.style import MODEL_NAMES, SELECTION_NAMES, render, styled
from results.plots import figures
from results.readlog import LogError, read_logs
from results.records import SELECTIONS, Experiment, Run
from results.statistics import compare, interval, metric_order, metric_title
from results.tables import NMI_NOTE, check_pages, number, standing, update_pages

HERE = os.path.dirname(os.path.abspath(__file__))
MAIN_METRICS = ('recall@1', 'map@r', 'nmi')
MAX_PICTURE = 4 << 20
PICTURES = {'.png': 'image/png', '.jpg': 'image/jpeg', '.jpeg': 'image/jpeg'}
CAPTIONS = {
    'bars': 'Recall@1 and NMI', 'curves': 'Recall@1 over training', 'time': 'Training time to a given recall@1',
    'selection': 'Best epoch on the test set against the last epoch: how much the choice flatters',
    'embedding-size': 'Recall@1 against the size of the embedding', 'batch-size': 'Recall@1 against the batch size'}


# ---------------------------------------------------------------------------------------------------------------------
# What the template shows

def _board(board: Board) -> Dict[str, Any]:
    selections = [s for s in SELECTIONS if s != 'best-on-val' or any(g.values(s, 'recall@1') for g in board.groups)]
    names = sorted({m for s in selections for g in board.groups for m in g.metrics(s)}, key=metric_order)
    rows = []
    for selection in selections:
        against = standing(board.groups, selection)
        rows += [{'group': g, 'selection': selection, 'standing': against.get(id(g), ''), 'state': _group_state(g),
                  'metrics': {name: g.interval(selection, name) for name in names}}
                 for g in board.groups if selection != 'best-on-val' or g.values(selection, 'recall@1')]
    compared = [g for g in board.groups if g.runs]
    number_of = {id(g): i for i, g in enumerate(compared)}
    pairs = {(s, m): compare(compared, s, m) for s in selections for m in MAIN_METRICS}
    words = {s: {m: {f'{number_of[id(c.first)]},{number_of[id(c.second)]}': c.words for c in pairs[s, m]}
                 for m in MAIN_METRICS} for s in selections}
    drawn = styled(lambda: [(name, render(figure, 'svg')) for name, figure in figures(board).items()])
    return {'title': f'{board.dataset}, {MODEL_NAMES.get(board.model, board.model)}', 'selections': selections,
            'metrics': names, 'rows': rows, 'notes': board.notes, 'compared': compared, 'words': words,
            'references': [(key, {**dict.fromkeys(names), **own}) for key, own in board.references.items()],
            'pairs': pairs[selections[0], 'recall@1'], 'cards': [(g, card(g)) for g in compared],
            'figures': [(CAPTIONS.get(name.split('_')[0], name), 'image/svg+xml', base64.b64encode(content).decode())
                        for name, content in drawn]}


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
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)
    environment.filters['number'] = number
    environment.globals.update(algorithm=algorithm, metric_title=metric_title, main_metrics=MAIN_METRICS,
                               selection_names=SELECTION_NAMES, model_names=MODEL_NAMES, nmi_note=NMI_NOTE,
                               plain_metrics=PLAIN_METRICS, card_heads=HEADS)
    return environment.get_template('report.html.j2').render(
        boards=[_board(board) for board in found], experiments=[_experiment(e) for e in experiments],
        number_of_runs=sum(len(e.runs) for e in experiments), latest=max((e.time for e in experiments), default=''),
        pictures=list(_pictures(pictures)), problems=problems, css=_own_text('report.css'),
        script=_own_text('report.js'))


def _own_text(name: str) -> Markup:
    """A file of this folder, to stand in the page as it is."""
    with open(os.path.join(HERE, name), encoding='utf-8') as file:
        return Markup(file.read())


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
    out = opt.out or os.path.join(opt.results_dir, 'report.html')
    made = page(experiments, problems, opt.pictures or os.path.join(opt.results_dir, 'pictures'))
    os.makedirs(os.path.dirname(out) or '.', exist_ok=True)
    with atomic_write(out) as file:
        file.write(made.encode('utf-8', 'replace'))
    print(out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
