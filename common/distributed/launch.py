"""Trains on several machines, or with several processes on this one.

    python -m common.launch --workers 2 --servers 1 -- train_margin.py --dataset CUB --data-path DIR
    python -m common.launch --workers 4 --servers 2 --hosts hosts.txt -- train_margin.py --dataset CUB --data-path DIR

Every worker runs the script with --kvstore dist_sync: it draws batches of its own, of --batch-size images each, and its
loss sees these alone; gradients are averaged over the workers. An epoch shows as many images as that of one process.
Worker 0, on the first host, evaluates and writes the log, the models and the checkpoint. If a process fails, all are
ended.
"""
from __future__ import annotations

import argparse
import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Dict, List, Optional, Tuple

from common.args import positive_int
from common.command import CommandParser, Terminated, run_command
from common.distributed.cluster import RANK
from common.errors import UsageError
from common.runtime import available_cores

_LEASH = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'leash.py')
_HOST = re.compile(r'([\w.-]+@)?[\w.-]+')
_SSH = ['ssh', '-o', 'BatchMode=yes', '-o', 'ConnectTimeout=20', '-o', 'ServerAliveInterval=10',
        '-o', 'ServerAliveCountMax=3']
_EXPLAINED = (1, 2, 130)    # a script that ends with one of these has printed why
_SECONDS_TO_END = 3         # for the others, when one has ended: what stops one often stops all
_SECONDS_TO_STOP = 10       # for worker 0 after Ctrl-C, to finish the batch and print how to go on
_SECONDS_OF_SILENCE = 40    # then a process on another machine ends, because the launcher seems to be gone
_PULSE = 5                  # seconds between two bytes that show that the launcher is alive


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    """Reads the command line; ends with one line and exit status 2 on a mistake."""
    argv = sys.argv[1:] if argv is None else list(argv)
    parser = CommandParser(
        prog='common.launch', description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage='python -m common.launch --workers N [--servers M] [--hosts FILE] -- SCRIPT ARGUMENT ...')
    parser.add_argument('--workers', type=positive_int, required=True, metavar='N', help='processes that train')
    parser.add_argument('--servers', type=positive_int, default=1, metavar='M',
                        help='processes that add up gradients (default: 1)')
    parser.add_argument('--hosts', metavar='FILE',
                        help='machines, one [USER@]HOST a line, reached with ssh without a password; processes are '
                             'dealt out in this order. Each needs this folder, this Python and the data under the '
                             'same paths, and ports open to the others (default: all on this machine)')
    parser.add_argument('--port', type=positive_int, metavar='PORT',
                        help='port of the scheduler, on the first host (default: one that is free here)')
    own = argv.index('--') if '--' in argv else len(argv)
    opt = parser.parse_args(argv[:own])
    try:
        opt.command = _checked(argv[own + 1:])
        opt.machines = _read_hosts(opt.hosts) if opt.hosts else [(None, '127.0.0.1')]
    except UsageError as error:
        parser.error(str(error))
    return opt


def _checked(command: List[str]) -> List[str]:
    if not command:
        raise UsageError('the script to run is missing: -- train_margin.py --dataset ...')
    if not command[0].endswith('.py') or not os.path.isfile(command[0]):
        raise UsageError(f'{command[0]} is not a training script here, such as train_margin.py')
    given = [b for a, b in zip(command, command[1:]) if a == '--kvstore']
    given += [a.split('=', 1)[1] for a in command if a.startswith('--kvstore=')]
    if set(given) - {'dist_sync'}:
        raise UsageError(f'--kvstore {given[-1]} does not reach other processes: leave it out, or give dist_sync')
    return command if given else [*command, '--kvstore', 'dist_sync']


def _read_hosts(path: str) -> List[Tuple[str, str]]:
    """Of each machine what ssh is given, and the address, because the parameter server binds to addresses only."""
    try:
        with open(path, encoding='utf-8') as file:
            lines = [line.split('#')[0].strip() for line in file]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f'--hosts {path}: {getattr(error, "strerror", "not a text file")}') from None
    for number, line in enumerate(lines, 1):
        if line and (not _HOST.fullmatch(line) or line.startswith('-')):
            raise UsageError(f'--hosts {path}, line {number}: {line!r} is not of the form [USER@]HOST')
    if not any(lines):
        raise UsageError(f'--hosts {path} names no host')
    machines = []
    for line in filter(None, lines):
        try:
            machines.append((line, socket.gethostbyname(line.split('@')[-1])))
        except OSError:
            raise UsageError(f'--hosts {path}: no address is known for {line}') from None
    local = [line for line, address in machines if address.startswith('127.')]
    if local and len(local) < len(machines):
        raise UsageError(f'--hosts {path}: {local[0]} is an address that the other machines cannot reach')
    return machines


class _Process:
    """One process of the cluster, here or behind ssh. It ends when its standard input closes (see `leash`)."""

    def __init__(self, role: str, number: int, host: Optional[str], variables: Dict[str, str], command: List[str]):
        self.role, self.host = role, host
        self.name = role if role == 'scheduler' else f'{role} {number}'
        if host:
            self.name += f' on {host}'
        self.first = role == 'worker' and number == 0
        self._errors = None if self.first else tempfile.TemporaryFile()  # noqa: SIM115  closed by end()
        environment = dict(os.environ)
        environment.pop('PORT', None)
        if host:
            # What worker 0 prints comes through a pipe, and should come line by line.
            variables = {**variables, 'DML_SILENCE': str(_SECONDS_OF_SILENCE), 'PYTHONUNBUFFERED': '1'}
            words = ['env', '-u', 'PORT', *(f'{name}={value}' for name, value in variables.items()),
                     sys.executable, _LEASH, *command]
            line = f'cd {shlex.quote(os.getcwd())} && exec ' + ' '.join(map(shlex.quote, words))
            words = [*_SSH, host, line]
        else:
            words = [sys.executable, _LEASH, *command]
            environment.update(variables)
        # In another session, so that only the launcher gets Ctrl-C. It then ends all others in order.
        self._process = subprocess.Popen(words, env=environment, stdin=subprocess.PIPE, bufsize=0,
                                         stdout=None if self.first else subprocess.DEVNULL, stderr=self._errors,
                                         start_new_session=True)

    @property
    def status(self) -> Optional[int]:
        return self._process.poll()

    def pulse(self) -> None:
        """Shows the process that the launcher is alive."""
        with contextlib.suppress(OSError):
            self._process.stdin.write(b'.')

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def wait(self, until: float) -> None:
        """Waits until it has ended, or until that time of the monotonic clock."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(max(until - time.monotonic(), 0))

    def let_go(self) -> None:
        """Closes its standard input, so that the process ends."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._errors:
            self._errors.close()

    def how_it_ended(self) -> str:
        """How it ended, in one sentence; prints its traceback first, if there is one."""
        if self.status < 0:
            how = f'{self.name} was killed by {signal.Signals(-self.status).name}'
        elif self.host and self.status == 255:      # of ssh
            how = f'{self.name} was killed, or cannot be reached'
        else:
            how = f'{self.name} ended' + (f' with exit status {self.status}' if self.status else ' too early')
        printed = ''
        if self._errors:
            self._errors.seek(0)
            printed = self._errors.read().decode(errors='replace').strip()
        if 'Traceback (most recent call last)' in printed:
            sys.stderr.write(printed + '\n')
        return how + (': ' + printed.splitlines()[-1] if printed else '')


def launch(opt: argparse.Namespace) -> Tuple[int, str]:
    """Runs the job.

    Returns
    -------
    status : int
        Exit status: 0, or that with which worker 0 gave up, or 1.
    message : str
        Which process ended the job and how; empty if worker 0 has printed it.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C or SIGTERM, if worker 0 did not print how to go on.
    """
    processes: List[_Process] = []
    try:
        _start(opt, processes)
        return _watch(processes)
    except KeyboardInterrupt as error:
        for first in (p for p in processes if p.first and p.status is None):
            first.interrupt()
            first.wait(time.monotonic() + _SECONDS_TO_STOP)
            if first.status == 130:
                return 143 if isinstance(error, Terminated) else 130, ''
        raise
    finally:
        for process in processes:
            process.let_go()
        until = time.monotonic() + 2
        for process in processes:
            process.wait(until)
            process.kill()


def _start(opt: argparse.Namespace, processes: List[_Process]) -> None:
    shared = {'DMLC_PS_ROOT_URI': opt.machines[0][1], 'DMLC_PS_ROOT_PORT': str(opt.port or _free_port()),
              'DMLC_NUM_WORKER': str(opt.workers), 'DMLC_NUM_SERVER': str(opt.servers)}
    # That many are the default of one process (common.runtime).
    if not opt.hosts and os.environ.get('OMP_NUM_THREADS') == str(available_cores()):
        shared['OMP_NUM_THREADS'] = str(max(available_cores() // opt.workers, 1))
    for role, count, command in (('scheduler', 1, []), ('server', opt.servers, []),
                                 ('worker', opt.workers, opt.command)):
        for number in range(count):
            host, address = opt.machines[number % len(opt.machines)]
            own = {'DMLC_ROLE': role, 'DMLC_NODE_HOST': address, RANK: str(number)}
            processes.append(_Process(role, number, host, {**shared, **own}, command))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('', 0))
        return probe.getsockname()[1]


def _watch(processes: List[_Process]) -> Tuple[int, str]:
    """Waits until all workers are done, or one process has ended that should not have."""
    workers = [p for p in processes if p.role == 'worker']
    pulse = time.monotonic()
    while True:
        if time.monotonic() >= pulse:
            pulse = time.monotonic() + _PULSE
            for process in processes:
                process.pulse()
        if all(p.status == 0 for p in workers):
            return 0, ''
        ended = [p for p in processes if p.status is not None and (p.status or p not in workers)]
        if ended:
            break
        time.sleep(0.1)
    until = time.monotonic() + _SECONDS_TO_END
    for process in workers:
        process.wait(until)
    dead = next((p for p in ended if p.status < 0), ended[0])
    first = workers[0]
    if dead.status >= 0 and first.status in _EXPLAINED:
        return first.status, ''
    return 2 if dead.status == 2 else 1, dead.how_it_ended()


def main(argv: Optional[List[str]] = None) -> int:
    """Runs the launcher; returns its exit status."""
    def action() -> int:
        status, message = launch(parse_args(argv))
        if message:
            sys.stderr.write(f'common.launch: {message}\n')
        return status

    return run_command('common.launch', action)
