"""What training wrote beside a network, ``X-best.json`` beside ``X-best.params``, and the script that it names."""
from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import sys
from typing import Any, Dict, Iterator, Optional

from common.errors import UsageError, UserError


def description(path: str) -> Optional[Dict[str, Any]]:
    """What training wrote beside a ``.params`` file; None where there is nothing.

    Raises
    ------
    UserError
        If it is not what training writes.
    """
    beside = re.sub(r'\.params$', '', path) + '.json'
    try:
        with open(beside, encoding='utf-8') as file:
            found = json.load(file)
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not isinstance(found.get('flags'), dict) or not isinstance(
            found.get('script'), str):
        raise UserError(f'{beside}: it is not the description of a trained network that training writes')
    return found


def find_script(name: str) -> Any:
    """The module of a training script: by its name in the project's folder or the current one, or by its path.

    Raises
    ------
    UsageError
        If there is no such script.
    """
    folder, name = os.path.split(name)
    name = re.sub(r'\.py$', '', name)
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    for place in [os.path.abspath(folder)] if folder else [root, os.getcwd()]:
        if os.path.isfile(os.path.join(place, f'{name}.py')):
            with _in_path(place):
                module = importlib.import_module(name)
            if hasattr(module, 'parse_args') and hasattr(module, 'build'):
                return module
            raise UsageError(f'--script {name}: {name}.py has no parse_args and build, as a training script has')
    scripts = sorted(file[:-3] for file in os.listdir(root) if re.fullmatch(r'train_\w+\.py', file))
    raise UsageError(f'--script {name}: there is no such file; it is none of {", ".join(scripts)}')


@contextlib.contextmanager
def _in_path(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)
