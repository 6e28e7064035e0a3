"""MATLAB files, read by SciPy in a process of its own.

``scipy.io.loadmat`` ends the process with a segmentation fault on some damaged files (SciPy 1.15.3: a few changed bytes
in the header of a matrix suffice), and a download may be damaged. So it reads in another process, which hands the
variables over as JSON.
"""
from __future__ import annotations

import json
import subprocess
import sys
from typing import Any, Dict

_MEMORY = 4 << 30   # bytes that the other process may take
_SECONDS = 120

_READ = '''
import json, resource, sys
from scipy.io import loadmat
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]), int(sys.argv[2])))
try:
    variables = loadmat(sys.argv[1], simplify_cells=True)
    print(json.dumps({name: value for name, value in variables.items() if name[:2] != '__'},
                     default=lambda value: value.tolist()))
except Exception as error:
    sys.exit(f'{type(error).__name__}: {error}')
'''


def read_mat(file: str) -> Dict[str, Any]:
    """Read all variables of a MATLAB file (what MATLAB writes with ``-v6`` and ``-v7``, and SciPy by default).

    Parameters
    ----------
    file : str

    Returns
    -------
    variables : dict from name to value. Arrays and cell arrays are lists, or a single value where they hold only one;
        a structure is a dict, and an array of structures a list of these.

    Raises
    ------
    ValueError
        If it cannot be read, is damaged, or holds something else (sparse matrices, objects).
    """
    try:
        done = subprocess.run([sys.executable, '-W', 'ignore', '-c', _READ, file, str(_MEMORY)],
                              capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f'it takes more than {_SECONDS} seconds to read') from None
    if done.returncode:
        raise ValueError(done.stderr.strip().rpartition('\n')[2] or 'it is damaged')
    return json.loads(done.stdout)
