"""Runs a whole comparison: every algorithm, setting and seed of an experiment in ``results/experiments.yaml``.

    python -m results.reproduce --list
    python -m results.reproduce glyphs
    python -m results.reproduce cub-inception --runs 10 --data-path DIR --gpus 0,1,2,3
    python -m results.reproduce glyphs --only margin,proxy --dry-run
    python -m results.reproduce glyphs --settings tuned     (what python -m results.tune glyphs found)
    python -m results.reproduce cub-inception --folds 4 --data-path DIR

Every run (one algorithm, one setting, one seed) is a process of its own with a log of its own. After an interruption,
call the command again: finished runs are skipped, and broken ones go on from their checkpoint. If the experiment has
other settings now, the old log is put aside. A run that fails does not stop the others; its last lines are shown
at the end.

With --folds N, each run becomes N: each trains with another part of the training classes held out, which chooses its
epoch. Then the N networks are put together (see results.crossval). The logs go to EXPERIMENT-foldsN.

On a cluster whose machines share the folder, with the engines of requirements-cluster.txt, one worker for each GPU:

    dask scheduler
    CUDA_VISIBLE_DEVICES=0 PYTHONPATH=. dask worker tcp://HOST:8786 --nthreads 1 --no-nanny     (in this folder)
    python -m results.reproduce cub-inception --data-path DIR --backend dask --address tcp://HOST:8786

or ``--backend ray`` (``--address auto`` for a cluster that runs). If a worker dies, the engine gives its run to another
one. A lock, held as long as the training process lives, makes sure that no two processes train the same run.
"""
from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import queue
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from tqdm import tqdm

from common.command import CommandParser, run_command
from common.files import expand_path
from results.crossval import FoldsError, fold_sets, join
from results.experiments import (
    EXPERIMENTS_FILE,
    ExperimentsError,
    Job,
    chosen_rows,
    expand,
    find,
    finished,
    load_experiments,
    matching,
    put_stale_aside,
    read_note,
    write_note,
)
from results.records import TUNED
from results.tuning import best_settings, record_path

LAST_LINES = 8
WAIT = 0.2              # seconds until a thread without work asks again
PATIENCE = 120.0        # seconds that an interrupted run has to save its checkpoint


class Outcome(NamedTuple):
    """How a job ended: ``finished``, ``failed``, ``skipped`` (was finished before) or ``interrupted``."""

    job: Job
    status: str
    seconds: float = 0.0
    last_lines: Tuple[str, ...] = ()
    code: int = 0           # the exit status of its process


class RunsBar:
    """One bar over all runs, with the names of those under way behind it, and a line for each run that ended.

    Where the output is no terminal the bar is written once a minute.
    """

    def __init__(self, total: int) -> None:
        self._bar = tqdm(total=total, unit='run', file=sys.stdout, mininterval=0.1 if sys.stdout.isatty() else 60)
        self._lock = threading.Lock()
        self._running: Dict[str, None] = {}
        self._ended: Dict[str, Outcome] = {}

    def start(self, job: Job) -> None:
        """Notes that a job runs."""
        with self._lock:
            if job.name not in self._ended:
                self._running[job.name] = None
                self._bar.set_postfix_str(', '.join(self._running), refresh=False)

    def end(self, outcome: Outcome) -> None:
        """Notes how a job ended."""
        with self._lock:
            if outcome.job.name in self._ended:
                return
            self._running.pop(outcome.job.name, None)
            self._ended[outcome.job.name] = outcome
            spent = f' in {tqdm.format_interval(outcome.seconds)}' if outcome.seconds else ''
            tqdm.write(f'{outcome.status:<9} {outcome.job.name}{spent}{_reached(outcome)}', file=self._bar.fp)
            self._bar.set_postfix_str(', '.join(self._running), refresh=False)
            self._bar.update()

    def refresh(self) -> None:
        """Draws the bar again, which shows the time."""
        self._bar.update(0)

    def close(self) -> None:
        """Leaves the bar as it is and goes to the next line."""
        self._bar.close()


def _reached(outcome: Outcome) -> str:
    for _, run in matching(outcome.job) if outcome.status == 'finished' else ():
        held_out = [epoch.val['recall@1'] for epoch in run.epochs if 'recall@1' in epoch.val]
        if outcome.job.validates_only and held_out:
            return f', recall@1 of held-out classes {held_out[-1]:.2f}'
        best, last = (run.chosen.get(s, (None, {}))[1].get('recall@1') for s in ('best-on-test', 'last'))
        if best is not None and last is not None:
            return f', recall@1 {best:.2f} (last epoch {last:.2f})'
    return ''


# ---------------------------------------------------------------------------------------------------------------------
# Running one

def execute(job: Job, gpu: Optional[str] = None, threads: Optional[int] = None,
            started: Optional[Callable[[subprocess.Popen], None]] = None) -> Outcome:
    """Trains one run in a process of its own, unless it is finished; waits if somebody else is at it.

    Parameters
    ----------
    job : Job
        What to run; relative paths count from the current folder.
    gpu : str or None
        Value of ``--gpus``.
    threads : int or None
        OMP_NUM_THREADS of the process, where the environment does not set it.
    started : callable or None
        Is given the process.
    """
    begin = time.time()
    for path in (job.log, job.prefix, job.note('')):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    ignore = os.path.join(os.path.dirname(job.note('')), '.gitignore')
    if not os.path.exists(ignore):
        with open(ignore, 'w') as file:
            file.write('*\n')
    with open(job.note('.lock'), 'a') as lock:
        # The training process inherits the lock and holds it until it ends. If a worker dies, its training process may
        # live on; the worker that gets the run next waits for that process here.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if finished(job):
            return Outcome(job, 'skipped')
        put_stale_aside(job)
        command = job.command(gpu, os.path.exists(job.checkpoint), sys.executable)
        environment = dict(os.environ)
        if threads is not None:
            environment.setdefault('OMP_NUM_THREADS', str(threads))
        with open(job.note('.out'), 'ab') as output:
            before = output.tell()
            try:
                process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                                           env=environment, pass_fds=[lock.fileno()], start_new_session=True)
            except OSError as error:
                return Outcome(job, 'failed', 0.0, (f'{command[0]}: {error.strerror}',))
            write_note(job, state='running', pid=process.pid, host=socket.gethostname(), started=begin)
            if started is not None:
                started(process)
            code = process.wait()
        seconds = time.time() - begin
        if code == 0 and finished(job):
            write_note(job, state='finished', seconds=seconds)
            return Outcome(job, 'finished', seconds)
        lines = _last_lines(job.note('.out'), before)
        lines += (f'(exit status {code}; the whole output is in {job.note(".out")})' if code else
                  f'(exit status 0, but {job.log} has no end of the run)',)
        write_note(job, state='failed', seconds=seconds)
        return Outcome(job, 'failed', seconds, lines, code)


def _last_lines(path: str, start: int) -> Tuple[str, ...]:
    with open(path, 'rb') as file:
        file.seek(max(start, os.path.getsize(path) - 20_000))
        text = file.read().decode('utf-8', 'replace')
    lines = [line.rstrip() for line in re.split(r'[\r\n]+', text) if line.strip()]
    return tuple(line[:300] for line in lines[-LAST_LINES:])


def execute_in(folder: str, job: Job) -> Outcome:
    """What a worker of a cluster calls; every worker has the folder, at the same place."""
    os.chdir(folder)
    return execute(job)


# ---------------------------------------------------------------------------------------------------------------------
# Running all

class JobList:
    """Jobs that may run in any order, as `run_locally` takes them.

    A class like this decides what runs next; several threads call it.
    """

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.total = len(jobs)
        self._waiting = list(reversed(jobs))
        self._lock = threading.Lock()

    def take(self) -> Optional[Job]:
        """What is to run next; None where nothing can start now."""
        with self._lock:
            return self._waiting.pop() if self._waiting else None

    def has_more(self) -> bool:
        """May `take` give another job, now or when one under way has ended?"""
        return bool(self._waiting)

    def done(self, outcome: Outcome) -> Outcome:
        """Is told how a job ended; gives what is to be shown of it."""
        return outcome


def run_locally(source: Any, slots: int, gpus: Sequence[str]) -> List[Outcome]:
    """Runs `slots` at a time on this machine; each has a GPU of its own if `gpus` are named.

    Parameters
    ----------
    source : JobList, or what has its methods
        Gives the jobs.
    slots : int
    gpus : sequence of str

    Raises
    ------
    Exception
        What `source.done` raised, after the other runs have saved their checkpoints.
    """
    threads = max(1, (os.cpu_count() or 1) // slots) if not gpus and slots > 1 else None
    devices: queue.Queue[Optional[str]] = queue.Queue()
    for i in range(slots):
        devices.put(gpus[i % len(gpus)] if gpus else None)
    outcomes: List[Outcome] = []
    processes: Dict[str, subprocess.Popen] = {}
    problems: List[BaseException] = []
    stop = threading.Event()
    bar = RunsBar(source.total)

    def work() -> None:
        while not stop.is_set():
            try:
                job = source.take()
            except Exception as error:
                problems.append(error)
                stop.set()
                return
            if job is None:
                if not source.has_more():
                    return
                stop.wait(WAIT)
                continue
            device = devices.get()
            bar.start(job)
            try:
                outcome = execute(job, device, threads, lambda p, name=job.name: processes.__setitem__(name, p))
            except OSError as error:
                outcome = Outcome(job, 'failed', 0.0, (f'{error.filename or job.log}: {error.strerror}',))
            finally:
                processes.pop(job.name, None)
                devices.put(device)
            if stop.is_set() and outcome.status == 'failed':
                outcome = Outcome(job, 'interrupted', outcome.seconds)
            try:
                outcome = source.done(outcome)
            except Exception as error:
                problems.append(error)
                stop.set()
            outcomes.append(outcome)
            bar.end(outcome)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(slots)]
    for worker in workers:
        worker.start()
    try:
        while any(worker.is_alive() for worker in workers):
            for worker in workers:
                worker.join(0.5 / len(workers))
            bar.refresh()
            if problems:
                _stop(processes, workers)
    except KeyboardInterrupt:
        stop.set()
        print('interrupted: waiting for the runs to save their checkpoints', file=sys.stderr)
        _stop(processes, workers)
        raise
    finally:
        bar.close()
    if problems:
        raise problems[0]
    return outcomes


def _stop(processes: Dict[str, subprocess.Popen], workers: Sequence[threading.Thread]) -> None:
    """Ctrl-C for all: a script then saves its checkpoint. Whoever does not end is killed."""
    for process in list(processes.values()):
        with contextlib.suppress(OSError):
            process.send_signal(signal.SIGINT)
    end = time.time() + PATIENCE
    try:
        for worker in workers:
            worker.join(max(0.0, end - time.time()))
    finally:
        for process in list(processes.values()):
            with contextlib.suppress(OSError):
                process.kill()


@contextlib.contextmanager
def _engine(backend: str, address: Optional[str]) -> Iterator[Dict[str, Any]]:
    """joblib's settings for an engine."""
    if backend == 'dask':
        try:
            from distributed import Client
        except ImportError:
            raise ExperimentsError('--backend dask needs dask and distributed: pip install -r requirements-cluster.txt'
                                   ) from None
        if address is None:
            raise ExperimentsError('--backend dask needs --address, as tcp://HOST:8786')
        try:
            client = Client(address, timeout=30)
        except (OSError, ValueError) as error:
            raise ExperimentsError(f'--address {address}: no Dask scheduler answers there') from error
        try:
            yield {'backend': _dask_backend(), 'n_jobs': -1}
        finally:
            client.close()
    else:
        try:
            import ray
            from ray.util.joblib import register_ray
        except ImportError:
            raise ExperimentsError('--backend ray needs ray: pip install -r requirements-cluster.txt') from None
        try:
            ray.init(address=address, log_to_driver=False)
        except (ConnectionError, OSError, ValueError, RuntimeError) as error:
            raise ExperimentsError(f'--address {address}: no Ray cluster answers there') from error
        register_ray()
        try:
            resources = ray.cluster_resources()
            gpus = int(resources.get('GPU', 0))
            slots = gpus or max(2, int(resources.get('CPU', 1)))
            # a GPU of its own for each run, where there are any
            yield {'backend': 'ray', 'n_jobs': slots, 'ray_remote_args': {'num_gpus': 1} if gpus else {}}
        finally:
            ray.shutdown()


def _dask_backend() -> Any:
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):
        # joblib does all work in this very process when it counts one worker; and workers may still join
        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(2, super().effective_n_jobs(n_jobs))

    return Backend(wait_for_workers_timeout=60)


def run_on_cluster(jobs: Sequence[Job], backend: str, address: Optional[str]) -> List[Outcome]:
    """Runs all on a cluster through joblib; the engine hands out what a dead worker had."""
    import joblib
    folder = os.getcwd()
    results: List[Outcome] = []
    problems: List[BaseException] = []
    with _engine(backend, address) as settings, contextlib.closing(RunsBar(len(jobs))) as bar:

        def work() -> None:
            try:
                with joblib.parallel_config(**settings):        # holds for the thread that makes it
                    results.extend(joblib.Parallel(batch_size=1, pre_dispatch='all')(
                        joblib.delayed(execute_in)(folder, job) for job in jobs))
            except Exception as error:      # whatever an engine raises; the logs tell what was done before
                problems.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        begin = time.time()
        while thread.is_alive():
            thread.join(0.5)
            for job in jobs:
                note = read_note(job)
                if note.get('state') == 'running' and note.get('started', 0) >= begin - 1:
                    bar.start(job)
                elif note.get('state') == 'finished' and finished(job):
                    bar.end(Outcome(job, 'finished', float(note.get('seconds') or 0)))
            bar.refresh()
        have = {outcome.job.name for outcome in results}
        why = tuple(f'the {backend} engine: {problem!r}'[:300] for problem in problems)
        for job in jobs:
            if job.name not in have:
                results.append(Outcome(job, 'finished') if finished(job) else Outcome(job, 'failed', 0.0, why))
        for outcome in results:
            bar.end(outcome)
    return results


# ---------------------------------------------------------------------------------------------------------------------
# The command

def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = CommandParser(prog='python -m results.reproduce', description=__doc__,
                         formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument('experiments', nargs='*', metavar='EXPERIMENT', help='what to run; --list names them')
    made.add_argument('--list', action='store_true', help='list the experiments')
    made.add_argument('--settings', choices=['published', 'tuned'], default='published',
                      help='tuned: with the best flags that results.tune found; the logs go to EXPERIMENT-tuned '
                           '(published)')
    made.add_argument('--folds', type=_folds, metavar='N',
                      help='cross-validation: N runs in place of each, with other training classes held out, and their '
                           'embeddings joined; the logs go to EXPERIMENT-foldsN')
    made.add_argument('--runs', type=positive, metavar='N', help='seeds of each (what the file says)')
    made.add_argument('--only', metavar='A,B', help='only these algorithms, by the names in the file or of the scripts')
    made.add_argument('--data-path', type=expand_path, metavar='DIR',
                      help='folder of the dataset; not needed for GLYPHS')
    made.add_argument('--results-dir', type=expand_path, default='results', metavar='DIR',
                      help='folder of logs/ and models/ (results)')
    made.add_argument('--dry-run', action='store_true', help='print the commands and run nothing')
    made.add_argument('--jobs', type=positive, metavar='N', help='runs at a time (1, or one for each of --gpus)')
    made.add_argument('--gpus', metavar='0,1', help='hand these GPUs out, one to a run')
    made.add_argument('--backend', choices=['local', 'dask', 'ray'], default='local', help='where to run (local)')
    made.add_argument('--address', help='of the cluster: tcp://HOST:8786 for dask; auto for ray')
    made.add_argument('--file', type=expand_path, default=EXPERIMENTS_FILE,
                      help='the file of experiments (results/experiments.yaml)')
    return made


def positive(text: str) -> int:
    """The `type` of a flag that counts."""
    if not text.isdigit() or not 0 < int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 1 to 10000')
    return int(text)


def _folds(text: str) -> int:
    if not text.isdigit() or not 2 <= int(text) <= 1000:
        raise argparse.ArgumentTypeError(f'{text!r} is not a whole number from 2 to 1000')
    return int(text)


def gpus_of(opt: argparse.Namespace) -> List[str]:
    """The numbers of ``--gpus``; raises an ExperimentsError if these, ``--jobs`` and ``--backend`` do not fit."""
    gpus = [g for g in (opt.gpus or '').split(',') if g]
    if not all(g.isdigit() for g in gpus):
        raise ExperimentsError(f'--gpus {opt.gpus}: numbers of GPUs, as 0,1,2')
    if opt.backend != 'local' and (gpus or opt.jobs):
        raise ExperimentsError('--gpus and --jobs are for --backend local; on a cluster start one worker for each GPU, '
                               'with CUDA_VISIBLE_DEVICES')
    return gpus


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
    return run_command('results.reproduce', lambda: _run(opt, script_dir))


def _run(opt: argparse.Namespace, script_dir: str) -> int:
    specs = load_experiments(opt.file)
    if opt.list:
        for spec in specs.values():
            print(f'{spec.name:<16} {len(expand(spec)):>4} runs   {spec.title}')
        return 0
    if not opt.experiments:
        raise ExperimentsError(f'say which experiment: {", ".join(specs)}')
    gpus = gpus_of(opt)
    jobs: List[Job] = []
    for name in opt.experiments:
        spec = find(specs, name, opt.file)
        data_path = opt.data_path if spec.needs_data else None
        if spec.needs_data and data_path is None:
            if not opt.dry_run:
                raise ExperimentsError(f'{name} needs --data-path, the folder of its dataset')
            data_path = 'DIR'
        only = [o for o in opt.only.split(',') if o] if opt.only is not None else None
        tuned = None
        if opt.settings == 'tuned':
            tuned = best_settings(record_path(opt.results_dir, spec.tuned or name), chosen_rows(spec, only))
        jobs += expand(spec, opt.results_dir, opt.runs, only, data_path, script_dir, tuned, opt.folds)
    waiting = [job for job in jobs if not finished(job)]
    if opt.dry_run:
        return _dry_run(jobs, waiting, gpus)
    print(f'{len(jobs)} runs, {len(jobs) - len(waiting)} of them finished before', flush=True)
    outcomes: List[Outcome] = []
    try:
        if waiting and opt.backend == 'local':
            outcomes = run_locally(JobList(waiting), min(opt.jobs or len(gpus) or 1, len(waiting)), gpus)
        elif waiting:
            outcomes = run_on_cluster(waiting, opt.backend, opt.address)
    except KeyboardInterrupt as interruption:
        interruption.args = ('interrupted; the same command goes on from here',)
        raise
    joined, problems = _join_folds(jobs, gpus) if opt.folds else ([], [])
    return _close(opt, outcomes, joined, problems)


def _join_folds(jobs: Sequence[Job], gpus: Sequence[str]) -> Tuple[List[str], List[str]]:
    """Puts the folds together; gives a line of each result, and one of each problem."""
    lines, problems = [], []
    for own in fold_sets(jobs):
        try:
            lines += filter(None, [join(own, gpus[0] if gpus else None)])
        except FoldsError as error:
            problems.append(str(error))
    return lines, problems


def _dry_run(jobs: Sequence[Job], waiting: Sequence[Job], gpus: Sequence[str]) -> int:
    for job in jobs:
        if job in waiting:
            device = gpus[waiting.index(job) % len(gpus)] if gpus else None
            print(shlex.join(job.command(device, os.path.exists(job.checkpoint))))
        else:
            print(f'# finished: {job.log}')
    return 0


def _close(opt: argparse.Namespace, outcomes: Sequence[Outcome], joined: Sequence[str],
           problems: Sequence[str]) -> int:
    failed = [o for o in outcomes if o.status == 'failed']
    for outcome in failed:
        print(f'\nfailed: {outcome.job.name}')
        for line in outcome.last_lines:
            print(f'    {line}')
        print('  repeat it with: ' + shlex.join(outcome.job.command(resume=os.path.exists(outcome.job.checkpoint))))
    for line in joined:
        print(line)
    for line in problems:
        print(f'results.reproduce: {line}', file=sys.stderr)
    suffix = (TUNED if opt.settings == 'tuned' else '') + (f'-folds{opt.folds}' if opt.folds else '')
    folders = ' '.join(shlex.quote(os.path.join(opt.results_dir, 'logs', name + suffix)) for name in opt.experiments)
    print(f'\n{len(outcomes) - len(failed)} runs done, {len(failed)} failed; see them with:'
          + ('' if opt.folds else f'\n  python -m results.plots {folders}') + f'\n  python -m results.report {folders}')
    return 1 if failed or problems else 0


if __name__ == '__main__':
    from results.reproduce import main as command       # by its real name, so that clusters can import what they run
    sys.exit(command())
