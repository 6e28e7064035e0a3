"""Hands finished run logs to a tracker, or writes them as a table.

    python -m results.export --tensorboard DIR               all of results/logs, for tensorboard --logdir DIR
    python -m results.export --mlflow DIR results/logs/x.jsonl
                                                             into DIR/mlflow.db, for mlflow ui
    python -m results.export --mlflow http://HOST:5000       to a server
    python -m results.export --csv epochs.csv                one row an epoch; - is standard output

The numbers are those of the log, and those that training writes itself with --tensorboard. A run that was exported
before is not doubled: what has not changed is left, what has is replaced. TensorBoard and MLflow need
pip install -r requirements-trackers.txt.
"""
from __future__ import annotations

import argparse
import csv
import glob
import hashlib
import io
import json
import os
import re
import sys
from typing import Any, Dict, Iterable, List, Optional

from common.command import CommandParser, run_command
from common.errors import UserError
from common.files import atomic_write, expand_path
from common.trackers import EXPORTED, EventFile, Follower, numbers, require, run_folder
from results.readlog import read_logs
from results.records import SELECTIONS, Experiment, Run

#: What a row of the table begins with, and the marks that it ends with.
ABOUT = ('log', 'experiment', 'algorithm', 'dataset', 'model', 'seed', 'run', 'epoch', 'member')
#: Tags by which exported runs are found again in MLflow: which run it is, and a hash of its lines.
RUN, LINES = 'dml_playground.run', 'dml_playground.lines'
BATCH = 1000        # numbers that MLflow takes in one call


def events_of(experiment: Experiment) -> List[Dict[str, Any]]:
    """The lines of its log, each once; those of a text log of the paper's repository are made from what it says."""
    if experiment.events:
        return experiment.events
    events: List[Dict[str, Any]] = [{
        'event': 'config', 'id': experiment.id, 'algorithm': experiment.algorithm, 'dataset': experiment.dataset,
        'model': experiment.model, 'seed': experiment.seed, 'flags': experiment.flags, 'time': experiment.time}]
    for run in experiment.runs.values():
        events += [{'event': 'epoch', 'id': experiment.id, 'run': run.number, 'epoch': epoch.number, **epoch.metrics,
                    **({} if epoch.loss is None else {'loss': epoch.loss})} for epoch in run.epochs]
        if run.finished:
            events.append({'event': 'run_end', 'id': experiment.id, 'run': run.number})
    return events


# ---------------------------------------------------------------------------------------------------------------------
# CSV

def rows(experiments: Iterable[Experiment]) -> List[Dict[str, Any]]:
    """One row an epoch, with all numbers of its line, and 1 at the epochs that each selection chose."""
    found = []
    for experiment in experiments:
        for event in events_of(experiment):
            run: Optional[Run] = experiment.runs.get(event.get('run', 0))
            if event['event'] != 'epoch' or run is None:
                continue
            values = (experiment.path, experiment.id, experiment.algorithm, experiment.dataset, experiment.model,
                      run.seed, run.number, event['epoch'], event.get('member'))
            chosen = {name: int(event['epoch'] == run.chosen[name][0]) for name in SELECTIONS if name in run.chosen}
            found.append({**dict(zip(ABOUT, values)), **numbers(event), **chosen})
    return found


def write_csv(experiments: Iterable[Experiment], path: str) -> None:
    """Writes the table of epochs; ``-`` is standard output."""
    table = rows(experiments)
    columns = list(dict.fromkeys([*ABOUT, *(name for row in table for name in row if name not in SELECTIONS)]))
    columns += [name for name in SELECTIONS if any(name in row for row in table)]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator='\n')
    writer.writeheader()
    writer.writerows(table)
    if path == '-':
        sys.stdout.write(text.getvalue())
        return
    with atomic_write(path) as file:
        file.write(text.getvalue().encode('utf-8', 'replace'))
    print(f'{path}: {len(table)} epochs')


# ---------------------------------------------------------------------------------------------------------------------
# TensorBoard

class _LeftOut:
    """Takes the numbers of a run that is not exported."""

    def scalars(self, epoch: int, values: Dict[str, float], when: float) -> None:
        pass

    def end(self, when: float, failed: bool) -> None:
        pass

    def close(self) -> None:
        pass


def write_tensorboard(experiments: Iterable[Experiment], folder: str) -> None:
    """Writes event files. Those of an earlier export are replaced; runs that training wrote itself are left alone."""
    require('tensorboardX')
    written, before = 0, []

    def open_run(about: Dict[str, Any]) -> Any:
        nonlocal written
        own = run_folder(folder, about)
        there = glob.glob(os.path.join(glob.escape(own), 'events.out.tfevents.*'))
        if any(not path.endswith(EXPORTED) for path in there):
            print(f'{own}: left as training wrote it')
            return _LeftOut()
        written += 1
        before.extend(there)
        return EventFile(folder, about, EXPORTED)

    for experiment in experiments:
        follow(experiment, Follower(open_run))
        for path in before:
            os.unlink(path)
        before.clear()
    print(f'{folder}: {written} runs written')


def follow(experiment: Experiment, follower: Follower) -> None:
    """Gives a follower the lines of an experiment."""
    try:
        for event in events_of(experiment):
            follower(event)
    finally:
        follower.close()


# ---------------------------------------------------------------------------------------------------------------------
# MLflow

class _MlflowRun:
    """One run in MLflow; its numbers are sent when it is closed."""

    def __init__(self, client: Any, experiment: str, about: Dict[str, Any], tags: Dict[str, str]):
        from mlflow.entities import Metric, Param
        self._client, self._metric, self._numbers = client, Metric, []
        self._start, self._status = about['time'], ('RUNNING', None)
        made = client.create_run(experiment, start_time=_milliseconds(about['time']), tags=tags,
                                 run_name=f"{about['name']}/run{about['run']}")
        self._id = made.info.run_id
        params = [Param(name, str(value)[:500]) for name, value in about['params'].items() if value is not None]
        for begin in range(0, len(params), 100):
            client.log_batch(self._id, params=params[begin:begin + 100])

    def scalars(self, epoch: int, values: Dict[str, float], when: float) -> None:
        self._numbers += [self._metric(name, value, _milliseconds(when), epoch) for name, value in values.items()]

    def end(self, when: float, failed: bool) -> None:
        self._status = 'FAILED' if failed else 'FINISHED', _milliseconds(when)

    def close(self) -> None:
        for begin in range(0, len(self._numbers), BATCH):
            self._client.log_batch(self._id, metrics=self._numbers[begin:begin + BATCH])
        self._numbers = []
        if self._status[0] != 'RUNNING':
            self._client.set_terminated(self._id, *self._status)
        # Last: a run without it was interrupted here, and is replaced by the next export.
        self._client.set_tag(self._id, f'{LINES}.complete', 'yes')


def _milliseconds(when: float) -> int:
    return int(1000 * when)


def write_mlflow(experiments: Iterable[Experiment], place: str) -> None:
    """Sends runs to MLflow: a server, or ``PLACE/mlflow.db`` where `place` is a folder."""
    require('mlflow')
    from mlflow.exceptions import MlflowException
    try:
        _write_mlflow(experiments, place)
    except MlflowException as error:
        raise UserError(f'--mlflow {place}: {str(error).splitlines()[0] if str(error) else type(error).__name__}'
                        ) from None


def _write_mlflow(experiments: Iterable[Experiment], place: str) -> None:
    from mlflow.tracking import MlflowClient
    uri = place
    if not re.match('[a-z][a-z0-9+-]*:', place):
        require('sqlalchemy')
        os.makedirs(place, exist_ok=True)
        uri = f'sqlite:///{os.path.abspath(place)}/mlflow.db'
    client = MlflowClient(uri)
    counts = {'new': 0, 'replaced': 0, 'unchanged': 0}
    for experiment in experiments:
        name = f'{experiment.dataset}_{experiment.model}'
        found = client.get_experiment_by_name(name)
        number = found.experiment_id if found else client.create_experiment(name)

        def open_run(about: Dict[str, Any], experiment: Experiment = experiment, number: str = number) -> Any:
            lines = [e for e in events_of(experiment) if e['event'] == 'config' or e['run'] == about['run']]
            digest = hashlib.sha256(json.dumps(lines, sort_keys=True).encode()).hexdigest()
            identity = hashlib.sha256(f"{about['id']} {about['run']}".encode()).hexdigest()
            there = client.search_runs([number], f"tags.`{RUN}` = '{identity}'")
            if len(there) == 1 and there[0].data.tags.get(LINES) == digest and (
                    f'{LINES}.complete' in there[0].data.tags):
                counts['unchanged'] += 1
                return _LeftOut()
            for run in there:
                client.delete_run(run.info.run_id)
            counts['replaced' if there else 'new'] += 1
            return _MlflowRun(client, number, about, {
                RUN: identity, LINES: digest, 'algorithm': experiment.algorithm, 'log': experiment.path,
                'experiment': experiment.id, 'git': experiment.git or 'unknown'})

        follow(experiment, Follower(open_run))
    print(f'{uri}: ' + ', '.join(f'{count} runs {what}' for what, count in counts.items()))


def main(argv: Optional[List[str]] = None) -> int:
    """The command; gives its exit status."""
    parser = CommandParser(prog='python -m results.export', description=__doc__,
                           formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('logs', nargs='*', type=expand_path, help='logs, or folders of them (results/logs)')
    parser.add_argument('--tensorboard', type=expand_path, metavar='DIR', help='write event files below this folder')
    parser.add_argument('--mlflow', type=expand_path, metavar='URI_OR_DIR',
                        help="send runs to MLflow: a server's address, or a folder for mlflow.db")
    parser.add_argument('--csv', type=expand_path, metavar='FILE', help='write one row an epoch; -: standard output')
    opt = parser.parse_args(argv)
    if opt.tensorboard is None and opt.mlflow is None and opt.csv is None:
        parser.error('say where to: --tensorboard DIR, --mlflow URI_OR_DIR or --csv FILE')
    return run_command('results.export', lambda: _run(opt))


def _run(opt: argparse.Namespace) -> int:
    experiments, problems = read_logs(opt.logs or ['results/logs'])
    for problem in problems:
        print(f'results.export: left out {problem}', file=sys.stderr)
    for place, write in ((opt.csv, write_csv), (opt.tensorboard, write_tensorboard), (opt.mlflow, write_mlflow)):
        if place is not None:
            write(experiments, place)
    return 0


if __name__ == '__main__':
    sys.exit(main())
