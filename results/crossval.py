"""Cross-validation over classes: the folds of one algorithm and seed, put together.

As in K. Musgrave, S. Belongie, S. Lim, "A Metric Learning Reality Check" (arXiv:2003.08505): each of N networks is
trained with another part of the training classes held out, which choose its epoch (``best-on-val``). All are then
tested on the test classes. There are two results:

- *separate*: the mean of the N networks' test metrics, at E dimensions each;
- *concatenated*: the test metrics of their embeddings side by side, each scaled to unit length, at N x E dimensions.

Both stand in a run log of their own, ``logs/EXPERIMENT-foldsN/ALGORITHM_Nfolds_seedS.jsonl``, which this module writes.
"""
from __future__ import annotations

import glob
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from common.errors import UserError
from common.files import atomic_write
from results.aggregate import Group, group_runs
from results.algorithms import ROOT, algorithm
from results.experiments import Job, matching
from results.readlog import LogError, read_log
from results.records import Experiment, Run, as_folds, known_metrics
from results.statistics import Interval

SELECTION = 'best-on-val'


class FoldsError(UserError):
    """The folds of a run cannot be put together; the message is one sentence."""


def fold_sets(jobs: Sequence[Job]) -> List[List[Job]]:
    """The jobs of `results.experiments.expand` with folds, those that belong together in one list."""
    found: Dict[str, List[Job]] = {}
    for job in jobs:
        found.setdefault(joined(job).log, []).append(job)
    return list(found.values())


def joined(job: Job) -> Job:
    """What has the name of all folds together: ``margin_4folds_seed123`` for ``margin_fold1of4_seed123``."""
    return replace(job, variant=re.sub(r'fold\d+of(\d+)$', r'\1folds', job.variant))


def join(jobs: Sequence[Job], gpu: Optional[str] = None) -> Optional[str]:
    """Scores the N networks together and writes the log, unless that is done already.

    Parameters
    ----------
    jobs : sequence of Job
        Of one set, in order.
    gpu : str, optional
        Value of ``--gpus``.

    Returns
    -------
    line : str or None
        The result, for the console; None where a fold is not finished.

    Raises
    ------
    FoldsError
        If a model is missing, or ``python -m common.evaluation`` fails.
    """
    ends = [next((pair for pair in reversed(matching(job)) if pair[1].finished), None) for job in jobs]
    if None in ends:
        return None
    whole = joined(jobs[0])
    try:
        known = as_folds(read_log(whole.log)[0])
    except LogError:
        known = []
    if known != [experiment.id for experiment, _ in ends]:
        _write(whole, ends, _score(whole, jobs, gpu))
    line = Line(*read_log(whole.log))
    return f'{whole.name}: recall@1 {line.words("recall@1")}'


class Line(NamedTuple):
    """The two results in a log that `join` wrote."""

    separate: Experiment
    concatenated: Experiment

    def words(self, metric: str) -> str:
        """Both, with their dimensions."""
        runs = [next(iter(one.runs.values())) for one in self]
        return ', '.join(f'{run.metrics(SELECTION)[metric]:.2f} {what} ({run.embedding_size} dimensions)'
                         for run, what in zip(runs, ('mean of the folds', 'concatenated')))


def _models(job: Job) -> List[str]:
    """The network of a fold that its held-out classes chose; of an ensemble, all members."""
    best = job.prefix + '-best.params'
    found = [best] if os.path.exists(best) else sorted(glob.glob(glob.escape(job.prefix) + '-member*.params'))
    if not found:
        raise FoldsError(f'{best} is missing: the folds cannot be put together')
    return found


def _score(whole: Job, jobs: Sequence[Job], gpu: Optional[str]) -> Dict[str, Any]:
    """What ``python -m common.evaluation`` says of all networks together."""
    models = [path for job in jobs for path in _models(job)]
    output = whole.note('.scores.json')
    words = [sys.executable, '-m', 'common.evaluation', '--seed', str(whole.seed), '--json', os.path.abspath(output),
             '--output', whole.prefix, *(['--gpus', gpu] if gpu is not None else []),
             *(['--data-path', whole.data_path] if whole.data_path is not None else []), '--model', *models]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, (ROOT, os.environ.get('PYTHONPATH')))))
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment)
    try:
        if done.returncode:
            raise ValueError
        with open(output, encoding='utf-8') as file:
            found = json.load(file)
        return found[0] if isinstance(found, list) else found
    except (OSError, ValueError):
        last = (done.stderr.strip().split('\n') or [''])[-1][:300]
        raise FoldsError(f'the folds of {whole.name} cannot be scored together: {last or "there are no scores"}'
                         ) from None


def _write(whole: Job, ends: Sequence[Tuple[Experiment, Run]], scores: Dict[str, Any]) -> None:
    """The log, with two experiments in it."""
    each = [run.metrics(SELECTION) for _, run in ends]
    if not all(each):
        raise FoldsError(f'a fold of {whole.name} has no test metrics for {SELECTION}')
    mean = {name: sum(one[name] for one in each) / len(each) for name in each[0] if all(name in one for one in each)}
    first, ids = ends[0][0], [experiment.id for experiment, _ in ends]
    lines = []
    for kind, metrics, size in (('separate', mean, ends[0][1].embedding_size),
                                ('concatenated', known_metrics(scores.get('metrics')), scores.get('dimensions'))):
        common = {'id': f'{ids[0]}-{len(ids)}folds-{kind}', 'time': first.time}
        lines += [{'event': 'config', **common, **_config(first), 'folds': ids, 'runs': 1, 'seed': whole.seed,
                   'flags': {**first.flags, 'fold': None, 'folds': len(ids), 'joined': kind}},
                  {'event': 'epoch', **common, 'run': 1, 'epoch': 0, 'embedding_size': size},
                  {'event': 'run_end', **common, 'run': 1, 'seed': whole.seed, SELECTION: metrics,
                   **{name: sum(getattr(run, name) or 0 for _, run in ends) for name in ('seconds', 'images_seen')}}]
    with atomic_write(whole.log, 'w') as file:
        file.writelines(json.dumps(line) + '\n' for line in lines)


def _config(experiment: Experiment) -> Dict[str, Any]:
    """The line of a fold's log that describes it, without what is the run's own."""
    with open(experiment.path, encoding='utf-8', errors='replace') as file:
        found = [json.loads(line) for line in file if '"config"' in line and experiment.id in line]
    own = next(one for one in reversed(found) if one.get('event') == 'config' and one.get('id') == experiment.id)
    return {name: value for name, value in own.items() if name not in ('event', 'id', 'time')}


# ---------------------------------------------------------------------------------------------------------------------
# The table

def crossval_table(experiments: Sequence[Experiment], mean: Callable[[Optional[Interval]], str]
                   ) -> Tuple[List[str], List[List[str]], str]:
    """Heads, rows and note of the table of all cross-validations; no rows where there is none.

    Parameters
    ----------
    experiments : sequence of Experiment
    mean : callable
        Writes an interval.
    """
    rows = []
    pairs: Dict[str, Dict[str, Group]] = {}
    for group in group_runs(e for e in experiments if as_folds(e)):
        own = {name: value for name, value in group.settings.items() if name != 'joined'}
        key = json.dumps([group.dataset, group.model, group.algorithm, own], sort_keys=True, default=str)
        pairs.setdefault(key, {})[str(group.settings.get('joined'))] = group
    for pair in pairs.values():
        if set(pair) != {'separate', 'concatenated'}:
            continue
        separate, concatenated = pair['separate'], pair['concatenated']
        cells = []
        for metric in ('recall@1', 'map@r'):
            cells += [mean(group.interval(SELECTION, metric)) for group in (separate, concatenated)]
        sizes = [next((str(run.embedding_size) for _, run in group.runs if run.embedding_size), '')
                 for group in (separate, concatenated)]
        rows.append([separate.dataset, algorithm(separate.algorithm).name, *cells, ' / '.join(sizes),
                     str(separate.settings.get('folds')), str(len(separate.runs))])
    heads = ['', 'Algorithm', 'Recall@1, separate', 'Recall@1, concatenated', 'MAP@R, separate', 'MAP@R, concatenated',
             'Dimensions', 'Folds', 'Seeds']
    return heads, rows, ('Percent on the test classes, mean ± half of the 95% interval (Student\'s t) over seeds. '
                         'Separate: the mean of the folds, each at the epoch that its held-out training classes chose. '
                         'Concatenated: their embeddings side by side, each scaled to unit length '
                         '(arXiv:2003.08505).')
