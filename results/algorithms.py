"""The algorithms of the comparison, as their scripts declare them.

Every ``train_*.py`` of the project has a literal ``ALGORITHM = {...}`` at its top. It is read without importing the
script, which would load MXNet. Rows stand in the order of publication, then of the file's name.

How a row is drawn follows from its place. The first 13 looks are safe for the colour-blind: seven hues of Okabe and Ito
drawn solid, then six of Paul Tol's drawn hatched, dashed and with open markers. After that the hues begin again with
another hatch, another dash and another marker.
"""
from __future__ import annotations

import ast
import functools
import glob
import os
import re
import shlex
import zlib
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Optional, Tuple

from common.errors import UserError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

_SOLID = ('#0072B2', '#D55E00', '#009E73', '#E69F00', '#CC79A7', '#56B4E9', '#4D4D4D')
_HATCHED = ('#332288', '#CC6677', '#999933', '#44AA99', '#882255', '#DDCC77')
_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')
#: Hatch and dash of each pass through the hues: first the one of the solid hues, then the one of the hatched.
_STYLES: Tuple[Tuple[str, Any], ...] = (
    ('', '-'), ('/////', '--'), ('.....', ':'), ('xxxxx', '-.'), ('\\\\\\\\\\', (0, (6, 1, 1, 1, 1, 1))),
    ('|||||', (0, (8, 2))), ('-----', (0, (1, 4))), ('ooooo', (0, (4, 1, 4, 3))))
_UNKNOWN_STYLE = ('+++++', (0, (2, 3)))


class AlgorithmError(UserError):
    """A script does not declare its algorithm as it should."""


@dataclass(frozen=True)
class Algorithm:
    """One row of the comparison.

    Parameters
    ----------
    key, name : str
        The key is used in logs, in ``paper.csv`` and in ``experiments.yaml``; the name in tables and figures.
    script : str
        The script that trains it.
    flags : tuple of (str, str)
        Flags that make the script this variant and not another.
    title, link, published, idea : str
        The publication, where it is, its month (``2017-06``), and what it does in one sentence.
    smoke : tuple of str
        Command lines for a test of seconds; the first is added to the others.
    learns : str
        Flags for the test that it learns.
    search : dict
        The hyperparameters to search, as the script declares them.
    batch_size, batches_per_epoch : int or None
        The script's defaults, where they are literals. ``batches_per_epoch`` is 0 where an epoch is one pass over the
        images, and None where the script has no such flag.
    batch : str
        Where the size of a batch follows from other flags: from which, as ``nc * (ns + nq)``.
    defaults : dict
        The defaults of the script's own flags, where they are whole numbers.
    colour, hatch, marker, dashes, open_marker :
        How it is drawn in every figure.
    """

    key: str
    name: str
    script: str = ''
    flags: Tuple[Tuple[str, str], ...] = ()
    title: str = ''
    link: str = ''
    published: str = ''
    idea: str = ''
    smoke: Tuple[str, ...] = ()
    learns: str = ''
    search: Dict[str, Tuple] = field(default_factory=dict, compare=False)
    batch_size: Optional[int] = None
    batches_per_epoch: Optional[int] = None
    batch: str = ''
    defaults: Dict[str, int] = field(default_factory=dict, compare=False)
    colour: str = '#4D4D4D'
    hatch: str = ''
    marker: str = 'o'
    dashes: Any = '-'
    open_marker: bool = False

    def images_in_batch(self, flags: Dict[str, Optional[str]]) -> int:
        """How many images a batch has with these flags.

        Raises
        ------
        ValueError
            If that is not a whole number from 1.
        """
        numbers = {'batch-size': self.batch_size, **self.defaults, **flags}
        size = _count(ast.parse(self.batch or 'batch_size', mode='eval').body, numbers)
        if size < 1:
            raise ValueError
        return size


def _count(node: ast.AST, numbers: Dict[str, Any]) -> int:
    """The value of a formula of names, sums and products."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mult)):
        left, right = _count(node.left, numbers), _count(node.right, numbers)
        return left + right if isinstance(node.op, ast.Add) else left * right
    value = numbers.get(node.id.replace('_', '-')) if isinstance(node, ast.Name) else None
    if value is None:
        raise ValueError
    return int(value)


def look(place: int) -> Dict[str, Any]:
    """How the row at that place (from 0) is drawn: 52 different looks, then they begin again."""
    hues = len(_SOLID) + len(_HATCHED)
    repeat, hue = place // hues % (len(_STYLES) // 2), place % hues
    hatched = hue >= len(_SOLID)
    hatch, dashes = _STYLES[2 * repeat + hatched]
    own = hue - len(_SOLID) if hatched else hue
    return {'colour': (_HATCHED if hatched else _SOLID)[own], 'marker': _MARKERS[(own + repeat) % len(_MARKERS)],
            'hatch': hatch, 'dashes': dashes, 'open_marker': hatched}


# ---------------------------------------------------------------------------------------------------------------------
# Reading the scripts

_TEXTS = ('key', 'name', 'paper', 'link', 'published', 'idea', 'learns', 'batch')
_NEEDED = ('key', 'name', 'paper', 'link', 'published', 'idea', 'smoke', 'search')
_VARIANT_TEXTS = ('name', 'flags', 'idea', 'learns')


def read_scripts(folder: str = ROOT) -> List[Algorithm]:
    """The algorithms of all ``train_*.py`` in a folder, in the order of the rows.

    Raises
    ------
    AlgorithmError
        If a script does not declare its algorithm, or two declare the same.
    """
    rows: List[Algorithm] = []
    for path in sorted(glob.glob(os.path.join(folder, 'train_*.py'))):
        rows += _read_script(path)
    owner: Dict[str, str] = {}
    for row in rows + list(REFERENCES):
        if row.key in owner:
            raise AlgorithmError(f"{row.script or owner[row.key]}: ALGORITHM's key {row.key!r} is taken"
                                 + (f' by {owner[row.key]}' if row.script else ''))
        owner[row.key] = row.script
    rows.sort(key=lambda row: (row.published, row.script))
    return [replace(row, **look(place)) for place, row in enumerate(rows)]


def _read_script(path: str) -> List[Algorithm]:
    script = os.path.basename(path)
    try:
        with open(path, 'rb') as file:
            tree = ast.parse(file.read())
        declared = next((ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)
                         and [getattr(target, 'id', None) for target in node.targets] == ['ALGORITHM']), None)
    except OSError as error:
        raise AlgorithmError(f'{script}: {error.strerror}') from error
    except SyntaxError as error:
        raise AlgorithmError(f'{script}, line {error.lineno}: {error.msg}') from error
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        raise AlgorithmError(f'{script}: ALGORITHM must be a literal, which can be read without running it') from error
    problem = _problem(declared)
    if problem:
        raise AlgorithmError(f'{script}: {problem}')
    batch_size, batches, defaults = _defaults(tree, script)
    row = Algorithm(declared['key'], declared['name'], script, (), declared['paper'], declared['link'],
                    declared['published'], declared['idea'], tuple(declared['smoke']), declared.get('learns', ''),
                    declared['search'], batch_size, batches, declared.get('batch', ''), defaults)
    try:
        row.images_in_batch({'batch-size': '1'})
    except (ValueError, SyntaxError, RecursionError) as error:
        raise AlgorithmError(f"{script}: ALGORITHM's 'batch' must be made of flags with a number as default, + and *, "
                             "as nc * (ns + nq)") from error
    return [replace(row, key=key, name=own['name'], flags=_pairs(own['flags']), idea=own.get('idea', row.idea),
                    learns=own.get('learns', row.learns))
            for key, own in declared.get('variants', {}).items()] or [row]


def _problem(declared: Any) -> str:
    """What is wrong with a script's ALGORITHM, with the name of the field; empty if nothing is wrong."""
    if not isinstance(declared, dict):
        return 'there is no ALGORITHM = {...} at its top'
    unknown = [name for name in declared if name not in (*_TEXTS, 'smoke', 'search', 'variants')]
    if unknown:
        return f'ALGORITHM has an unknown field {unknown[0]!r}'
    for name in _NEEDED:
        if name not in declared:
            return f'ALGORITHM has no {name!r}'
    for name in _TEXTS:
        if not isinstance(declared.get(name, 'x'), str) or not declared.get(name, 'x').strip():
            return f"ALGORITHM's {name!r} must be a text"
    if not re.fullmatch(r'\d{4}-(0[1-9]|1[0-2])', declared['published']):
        return f"ALGORITHM's 'published' must be a month, as 2017-06, not {declared['published']!r}"
    if not declared['link'].startswith(('https://', 'http://')):
        return "ALGORITHM's 'link' must begin with https://"
    smoke, search, variants = declared['smoke'], declared['search'], declared.get('variants', {})
    if not isinstance(smoke, (list, tuple)) or not smoke or not all(isinstance(line, str) for line in smoke):
        return "ALGORITHM's 'smoke' must be a list of command lines"
    if not isinstance(search, dict) or not all(isinstance(name, str) and _is_range(one) for name, one in
                                               search.items()):
        return "ALGORITHM's 'search' must map flags to ('log'|'linear', low, high) or ('choice', ...)"
    if not isinstance(variants, dict):
        return "ALGORITHM's 'variants' must map keys to mappings"
    for key in (declared['key'], *variants):
        if not isinstance(key, str) or not re.fullmatch(r'[a-z0-9][\w.-]{0,60}', key):
            return f"ALGORITHM's key {key!r} must consist of small letters, digits and dashes"
    for key, own in variants.items():
        if not (isinstance(own, dict) and 'name' in own and set(own) <= set(_VARIANT_TEXTS)
                and all(isinstance(text, str) for text in own.values()) and _pairs(own.get('flags', ''))):
            return f"ALGORITHM's variant {key!r} must have texts 'name' and 'flags' (as --flag value), and may have " \
                   "'idea' and 'learns'"
    return ''


def _is_range(one: Any) -> bool:
    if not isinstance(one, (list, tuple)) or len(one) < 2:
        return False
    numbers = len(one) == 3 and all(type(value) in (int, float) for value in one[1:]) and one[1] < one[2]
    return one[0] == 'choice' or (numbers and (one[0] == 'linear' or (one[0] == 'log' and one[1] > 0)))


def _pairs(flags: str) -> Tuple[Tuple[str, str], ...]:
    """``--loss nca`` as (('loss', 'nca'),); empty where it is not made of flags with a value each."""
    try:
        words = shlex.split(flags)
    except ValueError:
        return ()
    names, values = words[::2], words[1::2]
    if len(names) != len(values) or not all(name.startswith('--') and len(name) > 2 for name in names):
        return ()
    return tuple((name[2:], value) for name, value in zip(names, values))


def _defaults(tree: ast.AST, script: str) -> Tuple[Optional[int], Optional[int], Dict[str, int]]:
    """The defaults of --batch-size and --batches-per-epoch in a script's `parse_args`, None where it has none; and of
    its own flags, where they are whole numbers.
    """
    batch_size = batches = None
    own: Dict[str, int] = {}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called = getattr(call.func, 'id', getattr(call.func, 'attr', None))
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        names = [getattr(word, 'value', None) for word in call.args]
        if called == 'TrainingParser':
            batch_size = getattr(given.get('batch_size'), 'value', None)
        elif called == 'add_batches_per_epoch' or (called == 'add_argument' and '--batches-per-epoch' in names):
            batches = getattr(given['default'], 'value', None) if 'default' in given else names[0] if names else None
            if type(batches) is not int:
                raise AlgorithmError(f'{script}, line {call.lineno}: the default of --batches-per-epoch must be a '
                                     'literal number, so that results can make all epochs equally long')
        elif called == 'add_argument':
            value = getattr(given.get('default'), 'value', None)
            own.update({name[2:]: value for name in names if type(value) is int and str(name).startswith('--')})
    return batch_size if type(batch_size) is int else None, batches, own


# ---------------------------------------------------------------------------------------------------------------------
# The rows

# Baselines, drawn in grey. They are no algorithms: a figure leaves no gap where one is missing.
REFERENCES: List[Algorithm] = [
    Algorithm('untrained', 'Untrained net', colour='#BBBBBB', marker='|'),
    Algorithm('raw-pixels', 'Raw pixels', colour='#DDDDDD', marker='|')]


@functools.lru_cache(maxsize=None)
def algorithms() -> Tuple[Algorithm, ...]:
    """The algorithms of this project; also as the constant ``ALGORITHMS``."""
    return tuple(read_scripts())


def __getattr__(name: str) -> Any:
    # Not read at import, so that a mistake in a script is one line of the command and not a traceback.
    if name == 'ALGORITHMS':
        return list(algorithms())
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def _by_key() -> Dict[str, Algorithm]:
    return {row.key: row for row in (*algorithms(), *REFERENCES)}


def _by_script() -> Dict[str, List[Algorithm]]:
    """Algorithms by the name of their script without ``train_`` and ``.py``."""
    found: Dict[str, List[Algorithm]] = {}
    for row in algorithms():
        found.setdefault(script_word(row), []).append(row)
    return found


def script_word(row: Algorithm) -> str:
    """What a script is called for short: ``proxy`` for ``train_proxy.py``."""
    return _plain(row.script)


def algorithm(key: str) -> Algorithm:
    """The algorithm of that key. An unknown key is also the name, and decides the look."""
    known = _by_key()
    if key in known:
        return known[key]
    relative = next((word for word, rows in _by_script().items() if rows[0].flags and key.startswith(f'{word}-')), '')
    hatch, dashes = _UNKNOWN_STYLE
    place = len(_SOLID) + zlib.crc32(key.encode('utf-8', 'replace')) % len(_HATCHED)
    return Algorithm(key, relative.capitalize() + key[len(relative):],
                     **{**look(place), 'hatch': hatch, 'dashes': dashes})


def position(key: str) -> Tuple[int, str]:
    """Sorts keys: first the project's algorithms in the order of their rows, then all others by name."""
    keys = [row.key for row in algorithms()]
    return (keys.index(key), '') if key in keys else (len(keys), key)


def identify(name: Optional[str], script: Optional[str], flags: Dict[str, Any], path: str = '') -> str:
    """Key of the algorithm of a log: from `name` and `script` in its ``config``, else from its flags and file name.

    It is a key of `ALGORITHMS` or `REFERENCES`, or the name that a user's own algorithm has.
    """
    if name in _by_key():
        return str(name)
    known = _by_script()
    for text in (script, name):
        if _plain(text) in known:
            return _variant(known[_plain(text)], flags)
    if name or script:
        return str(name or _plain(script))
    stem = os.path.basename(path).split('.')[0]
    prefix = flags.get('save_model_prefix')
    for text in (stem, prefix if isinstance(prefix, str) else ''):
        for word in sorted(known, key=len, reverse=True):
            if (_plain(text) + '_').startswith(word + '_'):
                return _variant(known[word], flags)
    return stem or 'unknown'


def _plain(script: Optional[str]) -> str:
    name = os.path.basename(script or '').replace('-', '_')
    name = name[:-len('.py')] if name.endswith('.py') else name
    return name[len('train_'):] if name.startswith('train_') else name


def _variant(rows: List[Algorithm], flags: Dict[str, Any]) -> str:
    """The key of the script's row whose flags the log has; a variant that is no row is named by its first flag."""
    for row in rows:
        if all(str(flags.get(name.replace('-', '_'))) == value for name, value in row.flags):
            return row.key
    word, value = script_word(rows[0]), str(flags.get(rows[0].flags[0][0].replace('-', '_'), 'default'))
    return f'{word}-{value[len(word):] if value.startswith(word) else value}'
