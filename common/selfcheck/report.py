"""What was compared and measured: printed line by line, and kept as JSON."""
from __future__ import annotations

import dataclasses
import json
import time
from typing import Any, Callable, Dict, Iterable, List, Optional

import mxnet as mx

from common.errors import out_of_memory
from common.files import atomic_write
from common.runlog import plain
from common.training.learner import said


@dataclasses.dataclass
class Finding:
    """A number that a check found.

    Parameters
    ----------
    name : str
    measured : float
        Of the device. Where arrays are compared it is their relative difference, and the reference is 0.
    reference, tolerance : float or None
        What it should be, and the largest difference that is still right; None where there is no right value.
    unit : str
    """
    name: str
    measured: float
    reference: Optional[float] = None
    tolerance: Optional[float] = None
    unit: str = ''

    @property
    def ok(self) -> bool:
        """False also where a number is NaN."""
        return self.reference is None or bool(abs(self.measured - self.reference) <= self.tolerance)


class Report:
    """Runs checks and keeps what they found.

    Parameters
    ----------
    path : str
        The JSON file. It is written again after every check, because a fault of the driver may end the process.
    about : dict
        What stands at its head: machine, devices, sizes.
    """

    def __init__(self, path: str, about: Dict[str, Any]):
        self.path, self.about = path, about
        self.checks: List[Dict[str, Any]] = []
        self.wrong: List[str] = []
        self.start = time.perf_counter()
        self.write()        # a place that cannot be written to is found out now

    def run(self, name: str, device: str, check: Callable[..., Iterable[Finding]], *args: Any) -> None:
        """Runs one check; if it raises, its reason is kept and the next one can run."""
        title, start, problem = f'{name} on {device}', time.perf_counter(), None
        findings: List[Finding] = []
        print(title, flush=True)
        try:
            for finding in check(*args):
                findings.append(finding)
                line = f'    {finding.name:<58} {finding.measured:>12.6g} {finding.unit}'
                if finding.reference is not None:
                    line += f'  expected {finding.reference:g} +- {finding.tolerance:.2g}   '
                    line += 'ok' if finding.ok else 'DIFFERS'
                print(line, flush=True)
                if not finding.ok:
                    self.wrong.append(f'{title}: {finding.name}')
            mx.nd.waitall()     # MXNet reports errors late: here they still belong to this check
        except (Exception, SystemExit) as error:    # a script's parser ends with SystemExit
            problem = 'out of memory' if out_of_memory(error) else f'{type(error).__name__}: {said(error)}'
            self.wrong.append(f'{title}: {problem}')
            print(f'    FAILED: {problem}', flush=True)
        self.checks.append({'check': name, 'device': device, 'seconds': time.perf_counter() - start, 'problem': problem,
                            'findings': [{**dataclasses.asdict(finding), 'ok': finding.ok} for finding in findings]})
        self.write()

    def write(self) -> None:
        """Writes the JSON file."""
        content = {**self.about, 'seconds': time.perf_counter() - self.start, 'wrong': self.wrong,
                   'checks': self.checks}
        with atomic_write(self.path, 'w') as file:
            json.dump(plain(content), file, indent=1, allow_nan=False)
            file.write('\n')

    def finish(self) -> int:
        """Prints the summary; returns the exit status."""
        compared = sum(finding['reference'] is not None for check in self.checks for finding in check['findings'])
        print(f'\n{len(self.checks)} checks with {compared} comparisons in '
              f'{time.perf_counter() - self.start:.0f} s. All of it is in {self.path}.')
        for line in self.wrong:
            print(f'WRONG  {line}')
        print(f'{len(self.wrong)} of them wrong: see above' if self.wrong else 'Everything is as it should be.')
        return 1 if self.wrong else 0
