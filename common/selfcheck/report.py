"""What was compared and measured: printed line by line, and kept as JSON."""
from __future__ import annotations

import dataclasses
import json
import math
import time
from typing import Any, Callable, Dict, Iterable, List, Union

import mxnet as mx

from common.errors import out_of_memory
from common.files import atomic_write


@dataclasses.dataclass
class Comparison:
    """A number of a device beside that of the reference.

    Parameters
    ----------
    name : str
    measured, reference : float
        Of the device, and what it should be. Where arrays are compared, `measured` is their relative difference, and
        the reference 0.
    tolerance : float
        The largest difference that is still right.
    """
    name: str
    measured: float
    reference: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """False also where a number is NaN."""
        return bool(abs(self.measured - self.reference) <= self.tolerance)


@dataclasses.dataclass
class Measurement:
    """A number that has no right value."""
    name: str
    value: float
    unit: str


Finding = Union[Comparison, Measurement]


class Report:
    """Runs checks and keeps what they found.

    Parameters
    ----------
    path : str
        The JSON file. It is written anew after every check, because a driver's fault may end the process.
    about : dict
        What stands at its head: machine, devices, sizes.
    """

    def __init__(self, path: str, about: Dict[str, Any]):
        self.path, self.about = path, about
        self.checks: List[Dict[str, Any]] = []
        self.wrong: List[str] = []
        self.compared = 0
        self.start = time.perf_counter()

    def run(self, name: str, device: str, check: Callable[..., Iterable[Finding]], *args: Any) -> None:
        """Runs one check; if it raises, its reason is kept and the next one can run."""
        title, start, problem = f'{name} on {device}', time.perf_counter(), None
        findings: List[Finding] = []
        print(title, flush=True)
        try:
            for finding in check(*args):
                findings.append(finding)
                self._print(title, finding)
            mx.nd.waitall()     # MXNet reports errors late: here they still belong to this check
        except (Exception, SystemExit) as error:    # a script's parser ends with SystemExit
            problem = one_line(error)
            self.wrong.append(f'{title}: {problem}')
            print(f'    FAILED: {problem}', flush=True)
        self.checks.append({'check': name, 'device': device, 'seconds': time.perf_counter() - start,
                            'problem': problem, 'findings': [as_dict(finding) for finding in findings]})
        self.write()

    def _print(self, title: str, finding: Finding) -> None:
        if isinstance(finding, Measurement):
            print(f'    {finding.name:<58} {finding.value:>12.6g} {finding.unit}', flush=True)
            return
        self.compared += 1
        if not finding.ok:
            self.wrong.append(f'{title}: {finding.name}')
        print(f'    {finding.name:<58} {finding.measured:>12.6g}   expected {finding.reference:g} '
              f'+- {finding.tolerance:.2g}   {"ok" if finding.ok else "DIFFERS"}', flush=True)

    def write(self) -> None:
        """Writes the JSON file."""
        content = {**self.about, 'seconds': time.perf_counter() - self.start, 'wrong': self.wrong,
                   'checks': self.checks}
        with atomic_write(self.path, 'w') as file:
            json.dump(content, file, indent=1, allow_nan=False)
            file.write('\n')

    def finish(self) -> int:
        """Prints the summary; returns the exit status."""
        self.write()
        print(f'\n{len(self.checks)} checks with {self.compared} comparisons in '
              f'{time.perf_counter() - self.start:.0f} s. All of it is in {self.path}.')
        for line in self.wrong:
            print(f'WRONG  {line}')
        print(f'{len(self.wrong)} of them wrong: see above' if self.wrong else 'Everything is as it should be.')
        return 1 if self.wrong else 0


def one_line(error: BaseException) -> str:
    """Why a check failed, without the stack trace that MXNet puts into its messages."""
    if out_of_memory(error):
        return 'out of memory'
    lines = [line.strip() for line in str(error).split('\n') if line.strip()]
    return f'{type(error).__name__}: {lines[-1]}' if lines else type(error).__name__


def as_dict(finding: Finding) -> Dict[str, Any]:
    """For JSON, which has no NaN and no infinity: these become null."""
    found: Dict[str, Any] = {name: value if isinstance(value, str) else float(value) if math.isfinite(value) else None
                             for name, value in dataclasses.asdict(finding).items()}
    if isinstance(finding, Comparison):
        found['ok'] = finding.ok
    return found
