"""Searches the hyperparameters of every algorithm of an experiment, each with the same number of trials.

    python -m results.tune glyphs --trials 20
    python -m results.tune glyphs --trials 20 --jobs 2          two trials at a time, of two algorithms
    python -m results.tune cub-inception --trials 20 --data-path DIR --gpus 0,1,2,3
    python -m results.tune glyphs --only margin --trials 12 --folds 2
    python -m results.reproduce glyphs --settings tuned         then uses the best settings

What is searched stands in the scripts: ALGORITHM's 'search'. Trial 0 has the settings of the experiment as it is. The
others come from Optuna (TPE). All trials see the same number of images.

No trial sees a test image. A trial trains on three quarters of the training classes (--fold 1/4 of the script). Its
score is the recall@1 on the other classes after the last epoch, not that of its best epoch. With --folds K, it trains
K times, each time without another quarter, and its score is the mean.

Everything is written to results/tuned/EXPERIMENT.yaml after every trial. Call the command again after an interruption,
or with more --trials: it goes on, and no finished trial is run again.

Needs Optuna: pip install -r requirements-tune.txt
"""
from __future__ import annotations

import argparse
import contextlib
import datetime
import glob
import os
import shlex
import shutil
import subprocess
import sys
import threading
import zlib
from fractions import Fraction
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from common.command import CommandParser, run_command
from common.errors import UserError
from common.files import expand_path, lock
from results.algorithms import ROOT, algorithm
from results.experiments import (
    EXPERIMENTS_FILE,
    ExperimentsError,
    Job,
    Spec,
    batches,
    chosen_rows,
    find,
    load_experiments,
    matching,
    read_note,
    row_flags,
    with_values,
)
from results.readlog import LogError, read_log
from results.reproduce import Outcome, gpus_of, positive, run_locally, run_on_cluster
from results.tuning import Record, Row, Trial, load_record, record_path, save_record

PARTS = 4               # of the training classes, of which each fold holds one out
RANDOM_TRIALS = 5       # before TPE has enough to go by, the default included
EVALUATIONS = 4         # of a trial, where the experiment does not say --eval-every


class TuneError(UserError):
    """A search that cannot go on."""


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ExperimentsError('Optuna is not installed: pip install -r requirements-tune.txt') from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def suggest(space: Dict[str, Sequence[Any]], trials: Sequence[Trial], seed: int) -> Dict[str, Any]:
    """The next settings to try: a function of the space, the trials so far and the seed alone.

    Numbers are rounded to four digits, so that the record is easy to read and holds what was run.
    """
    optuna = _optuna()
    kinds = {'log': lambda low, high: optuna.distributions.FloatDistribution(low, high, log=True),
             'linear': optuna.distributions.FloatDistribution,
             'choice': lambda *values: optuna.distributions.CategoricalDistribution(values)}
    distributions = {name: kinds[kind](*values) for name, (kind, *values) in space.items()}
    study = optuna.create_study(direction='maximize', sampler=optuna.samplers.TPESampler(
        seed=seed, n_startup_trials=RANDOM_TRIALS))
    for trial in trials:
        # The default settings may lie outside of the space.
        with contextlib.suppress(ValueError, KeyError):
            study.add_trial(optuna.trial.create_trial(params={name: trial.flags[name] for name in space},
                                                      distributions=distributions, value=trial.score))
    values = study.ask(distributions).params
    return {name: float(f'{value:.4g}') if space[name][0] != 'choice' else value for name, value in values.items()}


# ---------------------------------------------------------------------------------------------------------------------
# One algorithm

class Result(NamedTuple):
    """What the log says of one run of a trial; `flags` are those that the script ran with."""

    status: str
    score: float = 0.0
    best_epoch: float = 0.0
    before_training: Optional[float] = None
    seconds: float = 0.0
    images_seen: int = 0
    flags: Optional[Dict[str, Any]] = None
    revision: str = ''


def read_result(job: Job) -> Optional[Result]:
    """How the run of a trial ended; None where its log does not say."""
    if read_note(job).get('flags', job.flags) != job.flags:
        return None
    for experiment, run in reversed(matching(job)):
        known = {'seconds': run.seconds or sum(epoch.seconds or 0.0 for epoch in run.epochs),
                 'images_seen': int(run.images_seen or 0), 'flags': experiment.flags, 'revision': experiment.git or ''}
        scores = {epoch.number: epoch.val['recall@1'] for epoch in run.epochs if 'recall@1' in epoch.val}
        before = scores.pop(0, None)
        if run.diverged is not None or (run.finished and not scores):
            return Result('diverged', before_training=before, **known)
        if run.finished:
            return Result('finished', scores[max(scores)], max(scores.values()), before, **known)
    return None


class Search:
    """The search of one algorithm: one trial after another, and of a trial one fold after another.

    Parameters
    ----------
    spec : Spec
    key : str
        The algorithm.
    row : Row
        Its record, which gets the trials.
    count : int
        How many trials it is to have.
    record : Record
        Seed and folds of the search.
    place : dict
        `results_dir`, `data_path` and `script_dir` of its jobs.
    """

    def __init__(self, spec: Spec, key: str, row: Row, count: int, record: Record, place: Dict[str, Any]) -> None:
        self.spec, self.key, self.row, self.count, self.record, self.place = spec, key, row, count, record, place
        self.busy = self.stopped = False
        self._values: Optional[Dict[str, Any]] = None
        self._results: List[Result] = []

    @property
    def has_more(self) -> bool:
        """Are there trials to run?"""
        return not self.stopped and len(self.row.trials) < self.count

    def job(self, number: int, values: Dict[str, Any], fold: str) -> Job:
        """One run of a trial."""
        declared = row_flags(self.spec, self.key)
        flags = with_values(declared, values)
        flags.update(batches(self.spec, self.key, declared, flags, _share_left(fold)))
        flags.pop('val-split', None)
        flags.update({'fold': fold, 'validate-only': None, 'no-nmi': None})
        if 'eval-every' not in flags:
            epochs = flags.get('epochs') or ''
            flags['eval-every'] = str(-(-int(epochs) // EVALUATIONS)) if epochs.isdigit() else '5'
        flags.pop('skip-pretrain-validation', None)
        if number:
            flags['skip-pretrain-validation'] = None
        variant = f'trial{number:02d}' + (f'-fold{fold.split("/")[0]}' if len(self.record.folds) > 1 else '')
        return Job(f'{self.spec.name}-tune', self.key, variant, self.record.seed, flags, **self.place)

    def next_job(self) -> Job:
        """What is to run next."""
        number = len(self.row.trials)
        if self._values is None:
            seed = zlib.crc32(f'{self.key} {self.record.seed} {number}'.encode())
            self._values = suggest(self.row.search, self.row.trials, seed) if number else {}
        return self.job(number, self._values, self.record.folds[len(self._results)])

    def take(self, outcome: Outcome) -> Outcome:
        """Notes how a job ended; gives what is to be shown."""
        if outcome.status == 'interrupted':
            return outcome
        result, number = read_result(outcome.job), len(self.row.trials)
        if result is None and outcome.code == 2 and number:
            result = Result('failed', seconds=outcome.seconds)      # the script refuses these settings
        if result is None:
            self.stopped = True
            return outcome
        self._results.append(result)
        if result.status != 'finished' or len(self._results) == len(self.record.folds):
            self._end_trial()
        return outcome._replace(status=result.status if outcome.status == 'failed' else outcome.status)

    def _end_trial(self) -> None:
        number, results = len(self.row.trials), self._results
        whole = all(result.status == 'finished' for result in results)
        flags = self._values or {}
        if not number:
            used = results[0].flags or {}
            flags = {name: used.get(name.replace('-', '_')) for name in self.row.search}
            flags = {name: value for name, value in flags.items() if value is not None}
            known = [result.before_training for result in results if result.before_training is not None]
            self.row.before_training = _mean(known) if known else None
        self.row.trials.append(Trial(
            number, flags, results[-1].status, _mean([result.score for result in results]) if whole else 0.0,
            _mean([result.best_epoch for result in results]) if whole else 0.0,
            round(sum(result.seconds for result in results), 1),
            sum(result.images_seen for result in results) if whole else None))
        for result in results:
            if result.revision and result.revision not in self.row.revisions:
                self.row.revisions.append(result.revision)
        for fold in self.record.folds:
            _remove_models(self.job(number, self._values or {}, fold))
        self._values, self._results = None, []


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4)


def _share_left(fold: str) -> Fraction:
    return 1 - Fraction(1, int(fold.split('/')[1]))


def _remove_models(job: Job) -> None:
    """Removes models and checkpoint of a trial, whose score is all that is kept."""
    for path in glob.glob(glob.escape(job.prefix) + '[-.]*'):
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


# ---------------------------------------------------------------------------------------------------------------------
# All algorithms

class Searches:
    """Hands out the next trial of whichever algorithm has none under way, the one with the fewest trials first.

    A `results.reproduce.JobList` whose jobs come from the results of those before.
    """

    def __init__(self, searches: Sequence[Search], record: Record, path: str) -> None:
        self.searches, self.record, self.path = list(searches), record, path
        self.total = sum(search.count - len(search.row.trials) for search in searches) * len(record.folds)
        self._lock = threading.Lock()

    def take(self) -> Optional[Job]:
        """The next run; None where every algorithm is busy or done."""
        with self._lock:
            idle = [search for search in self.searches if search.has_more and not search.busy]
            if not idle:
                return None
            chosen = min(idle, key=lambda search: len(search.row.trials))
            job = chosen.next_job()
            chosen.busy = True
            return job

    def has_more(self) -> bool:
        """May there be another run?"""
        return any(search.has_more for search in self.searches)

    def done(self, outcome: Outcome) -> Outcome:
        """Notes a result, and writes the record where a trial has ended."""
        with self._lock:
            search = next(search for search in self.searches if search.key == outcome.job.algorithm)
            before = len(search.row.trials)
            shown = search.take(outcome)
            search.busy = False
            if len(search.row.trials) > before:
                self.record.date = datetime.date.today().isoformat()
                self.record.optuna = _optuna().__version__
                save_record(self.path, self.record)
            return shown

    def run_on_cluster(self, backend: str, address: Optional[str]) -> List[Outcome]:
        """In rounds: one run of each algorithm at a time."""
        outcomes: List[Outcome] = []
        while True:
            jobs = list(iter(self.take, None))
            if not jobs:
                return outcomes
            outcomes += [self.done(outcome) for outcome in run_on_cluster(jobs, backend, address)]


def open_record(path: str, spec: Spec, keys: Sequence[str], seed: int, folds: List[str]) -> Record:
    """The record so far, with a row for each algorithm.

    Raises
    ------
    ExperimentsError
        If it was made with another seed, other folds, or other flags of one of them.
    """
    record = load_record(path) if os.path.exists(path) else Record(spec.name, seed, folds)
    for what, there, here in (('--seed', record.seed, seed), ('--folds', ', '.join(record.folds), ', '.join(folds))):
        if there != here:
            raise ExperimentsError(f'{what}: {path} was made with {there}, not {here}; move it away to search anew')
    for key in keys:
        flags = shlex.join(_words(row_flags(spec, key)))
        space = {name: list(one) for name, one in algorithm(key).search.items()}
        row = record.rows.setdefault(key, Row(flags, space))
        if not row.trials:
            row.flags, row.search = flags, space
        elif (row.flags, row.search) != (flags, space):
            what = 'flags of the experiment' if row.flags != flags else "'search' of its script"
            raise ExperimentsError(f'{path}: {key} was searched with other {what}; take {key} out of the file to '
                                   'search it anew')
    order = [key for key in spec.algorithms if key in record.rows]
    record.rows = {key: record.rows[key] for key in dict.fromkeys([*order, *record.rows])}
    return record


def _words(flags: Dict[str, Optional[str]]) -> List[str]:
    return [word for name, value in flags.items()
            for word in ((f'--{name}' if len(name) > 1 else f'-{name}'), value) if word is not None]


def score_raw_pixels(flags: Dict[str, Optional[str]], data_path: Optional[str], folds: Sequence[str], seed: int,
                     logfile: str) -> float:
    """The recall@1 of the images themselves on the held-out classes, mean over the folds.

    Raises
    ------
    TuneError
        If ``python -m common.pixels`` fails.
    """
    known = {'dataset': 'CUB', 'image-size': flags.get('data-shape', '224'),      # the scripts' defaults
             **{name: flags[name] for name in ('dataset', 'image-size', 'resize', 'allow-seen-classes')
                if name in flags}}
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, (ROOT, os.environ.get('PYTHONPATH')))))
    words = [sys.executable, '-m', 'common.pixels', *_words(known), '--seed', str(seed)]
    words += ['--data-path', data_path] if data_path is not None else []
    found = []
    for fold in folds:
        path = logfile.replace('FOLD', fold.replace('/', 'of'))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        done = subprocess.run([*words, '--fold', fold, '--logfile', path], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, env=environment)
        if done.returncode:
            last = (done.stderr.strip().split('\n') or [''])[-1]
            raise TuneError(f'raw pixels of fold {fold}: {last}')
        try:
            found += [run.untrained['recall@1'] for one in read_log(path) for run in one.runs.values()]
        except (LogError, KeyError) as error:
            raise TuneError(f'raw pixels of fold {fold}: {path} has no recall@1') from error
    return _mean(found)


# ---------------------------------------------------------------------------------------------------------------------
# The command

def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = CommandParser(prog='python -m results.tune', description=__doc__,
                         formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument('experiment', metavar='EXPERIMENT', help='whose settings; results.reproduce --list names them')
    made.add_argument('--trials', type=positive, default=20, metavar='N',
                      help='of each algorithm, the default settings included (20)')
    made.add_argument('--folds', type=positive, default=1, metavar='K',
                      help=f'runs of a trial, each with other held-out classes, a part of {PARTS} or of K (1)')
    made.add_argument('--seed', type=int, metavar='N',
                      help='of the search, the held-out classes and the training (that of the experiment)')
    made.add_argument('--only', metavar='A,B', help='only these algorithms, by the names in the file or of the scripts')
    made.add_argument('--data-path', type=expand_path, metavar='DIR',
                      help='folder of the dataset; not needed for GLYPHS')
    made.add_argument('--results-dir', type=expand_path, default='results', metavar='DIR',
                      help='folder of tuned/, logs/ and models/ (results)')
    made.add_argument('--jobs', type=positive, metavar='N',
                      help='trials at a time, each of another algorithm (1, or one for each of --gpus)')
    made.add_argument('--gpus', metavar='0,1', help='hand these GPUs out, one to a trial')
    made.add_argument('--backend', choices=['local', 'dask', 'ray'], default='local',
                      help='where to run (local); see results.reproduce')
    made.add_argument('--address', help='of the cluster: tcp://HOST:8786 for dask; auto for ray')
    made.add_argument('--file', type=expand_path, default=EXPERIMENTS_FILE,
                      help='the file of experiments (results/experiments.yaml)')
    return made


def main(argv: Optional[List[str]] = None, script_dir: str = '') -> int:
    """The command; gives its exit status: 0, 1 if a run failed, or what `run_command` says.

    Parameters
    ----------
    argv : list of str or None
        Words of the command line.
    script_dir : str
        Folder of the training scripts; the current one unless said.
    """
    opt = parser().parse_args(argv)
    return run_command('results.tune', lambda: _run(opt, script_dir))


def _run(opt: argparse.Namespace, script_dir: str) -> int:
    specs = load_experiments(opt.file)
    spec = find(specs, opt.experiment, opt.file)
    if spec.sweep:
        raise ExperimentsError(f'{spec.name} is a sweep over {", ".join(spec.sweep)}, which cannot be searched')
    if spec.needs_data and opt.data_path is None:
        raise ExperimentsError(f'{spec.name} needs --data-path, the folder of its dataset')
    gpus = gpus_of(opt)
    seed = spec.seed if opt.seed is None else opt.seed
    if not 0 <= seed < 2 ** 31:
        raise ExperimentsError(f'--seed {seed} is not a whole number from 0 to {2 ** 31 - 1}')
    _optuna()
    keys = chosen_rows(spec, [o for o in opt.only.split(',') if o] if opt.only is not None else None)
    path = record_path(opt.results_dir, spec.name)
    with _alone(path):
        folds = [f'{number}/{max(PARTS, opt.folds)}' for number in range(1, opt.folds + 1)]
        record = open_record(path, spec, keys, seed, folds)
        return _search(opt, spec, keys, record, path, gpus, script_dir)


@contextlib.contextmanager
def _alone(path: str) -> Iterator[None]:
    """Keeps other searches of the same experiment away."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, f'.{name}.lock'), 'a') as file:
        if not lock(file):
            raise ExperimentsError(f'{path}: another results.tune is writing it')
        yield


def _search(opt: argparse.Namespace, spec: Spec, keys: Sequence[str], record: Record, path: str, gpus: Sequence[str],
            script_dir: str) -> int:
    data_path = opt.data_path if spec.needs_data else None
    place = {'results_dir': opt.results_dir, 'data_path': data_path, 'script_dir': script_dir}
    searches = [Search(spec, key, record.rows[key], opt.trials, record, place) for key in keys]
    source = Searches([search for search in searches if search.has_more], record, path)
    if record.raw_pixels is None:
        folder = os.path.join(opt.results_dir, 'logs', f'{spec.name}-tune', '.runs')
        os.makedirs(folder, exist_ok=True)
        record.raw_pixels = score_raw_pixels(row_flags(spec, keys[0]), data_path, record.folds, record.seed,
                                             os.path.join(folder, 'raw_pixels_fold_FOLD.jsonl'))
        save_record(path, record)
    print(f'{len(keys)} algorithms, {opt.trials} trials each, {source.total} runs to do; raw pixels: '
          f'recall@1 {record.raw_pixels:.2f} on the held-out classes', flush=True)
    outcomes: List[Outcome] = []
    try:
        if opt.backend == 'local':
            outcomes = run_locally(source, max(1, min(opt.jobs or len(gpus) or 1, len(source.searches))), gpus)
        else:
            outcomes = source.run_on_cluster(opt.backend, opt.address)
    except KeyboardInterrupt as interruption:
        interruption.args = ('interrupted; the same command goes on from here',)
        raise
    return _close(spec, [search.key for search in searches if search.stopped], keys, record, outcomes, path)


def _close(spec: Spec, stopped: Sequence[str], keys: Sequence[str], record: Record, outcomes: Sequence[Outcome],
           path: str) -> int:
    for outcome in outcomes:
        if outcome.job.algorithm in stopped and outcome.status == 'failed':
            print(f'\nfailed: {outcome.job.name}; the search of {outcome.job.algorithm} stopped here, and the same '
                  'command goes on with it')
            for line in outcome.last_lines:
                print(f'    {line}')
            print('  repeat it with: ' + shlex.join(outcome.job.command(resume=os.path.exists(
                outcome.job.checkpoint))))
    print(f'\n{"":<24} trials  default    best  with')
    for key in keys:
        row = record.rows[key]
        if row.trials:
            best = ' '.join(_words(with_values({}, row.best.flags)))
            print(f'{algorithm(key).name:<24} {len(row.trials):>6} {row.trials[0].score:>8.2f} {row.best.score:>7.2f}  '
                  f'{best}')
    print(f'\n{path} has it all; use it with:\n  python -m results.reproduce {spec.name} --settings tuned')
    return 1 if stopped else 0


if __name__ == '__main__':
    from results.tune import main as command        # by its real name, so that clusters can import what they run
    sys.exit(command())
