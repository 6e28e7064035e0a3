"""Imports point one way: scripts -> common -> models, dataset -> the leaves of common; and never in a circle.

Read from the source, imports inside functions too. Importing a package is not counted as importing all that is in it:
who imports `models.errors` depends on that module, not on what `models/__init__.py` offers.
"""
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ('common', 'dataset', 'models', 'results')
LEAVES = {f'common.{leaf}' for leaf in ('command', 'errors', 'files', 'runtime', 'stats', 'trackers', 'trained')}
HEAVY = {'mxnet', 'gluoncv'}
#: Imports each module while nothing of ours is loaded, as if it were the first; prints those that fail. In one process,
#: for the libraries take seconds to load.
IMPORT_EACH = '''
import sys, traceback
for name in sys.argv[2:]:
    for loaded in [one for one in sys.modules if one.split('.')[0] in sys.argv[1].split(',')]:
        del sys.modules[loaded]
    try:
        __import__(name)
    except BaseException:
        traceback.print_exc()
        print(name)
'''


def modules():
    """Name -> path of every module of the four packages."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob('*.py')):
            parts = path.relative_to(ROOT).with_suffix('').parts
            found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return found


MODULES = modules()


def for_types_only(node):
    """Is it ``if TYPE_CHECKING:``, whose block never runs?"""
    test = getattr(node, 'test', None)
    return isinstance(node, ast.If) and getattr(test, 'id', getattr(test, 'attr', None)) == 'TYPE_CHECKING'


def nodes(tree):
    """All nodes of a syntax tree that can run."""
    for child in ast.iter_child_nodes(tree):
        for one in child.orelse if for_types_only(child) else [child]:
            yield one
            yield from nodes(one)


def imports_of(name, source, is_package, known):
    """All that the source of a module imports: modules among `known` where it is one, else the names as written."""
    found = set()
    for node in nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = name.split('.')
            parent = parent[:len(parent) - node.level + is_package] if node.level else []
            base = '.'.join([*parent, *([node.module] if node.module else [])])
            for alias in node.names:
                whole = f'{base}.{alias.name}'
                found.add(whole if whole in known else base)
    return found - {name}


IMPORTS = {name: imports_of(name, path.read_text(), path.name == '__init__.py', MODULES)
           for name, path in MODULES.items()}


def circle(graph):
    """Some circle of the graph as a list of modules, the first again at the end; [] where there is none."""
    done = set()

    def search(path):
        for following in sorted(graph[path[-1]] & graph.keys()):
            if following in path:
                return [*path[path.index(following):], following]
            if following not in done:
                found = search([*path, following])
                if found:
                    return found
        done.add(path[-1])
        return []

    return next(filter(None, (search([start]) for start in graph if start not in done)), [])


def package_of(name):
    return name.split('.')[0]


def test_no_circle():
    assert circle(IMPORTS) == []


def test_leaves_import_nothing_of_ours_but_each_other_and_no_mxnet():
    for leaf in sorted(LEAVES):
        ours = {name for name in IMPORTS[leaf] if package_of(name) in PACKAGES} - LEAVES
        assert not ours, (leaf, ours)
    for leaf in sorted(LEAVES - {'common.runtime'}):    # which prepares MXNet, and imports it to see how that ends
        assert not {package_of(name) for name in IMPORTS[leaf]} & HEAVY, leaf


@pytest.mark.parametrize('package', ['dataset', 'models', 'results'])
def test_a_package_imports_of_others_only_the_leaves_of_common(package):
    # `import common` alone, which prepares MXNet, stands at the top of dataset and models.
    allowed = LEAVES | ({'common'} if package != 'results' else set())
    wrong = {(name, other) for name in IMPORTS if package_of(name) == package for other in IMPORTS[name]
             if package_of(other) in PACKAGES and package_of(other) != package and other not in allowed}
    assert not wrong


def test_results_import_no_mxnet():
    wrong = {(name, other) for name in IMPORTS if package_of(name) == 'results' for other in IMPORTS[name]
             if package_of(other) in HEAVY}
    assert not wrong


def test_no_package_imports_scripts_or_tests():
    wrong = {(name, other) for name in IMPORTS for other in IMPORTS[name]
             if package_of(other) == 'tests' or package_of(other).startswith('train_')}
    assert not wrong


def test_imports_inside_a_package_are_absolute():
    relative = sorted(name for name, path in MODULES.items() for node in ast.walk(ast.parse(path.read_text()))
                      if isinstance(node, ast.ImportFrom) and node.level)
    assert not relative, sorted(set(relative))


def test_every_module_can_be_imported_alone():
    names = [name for name in MODULES if not name.endswith('__main__')]     # which is to be run
    done = subprocess.run([sys.executable, '-c', IMPORT_EACH, ','.join(PACKAGES), *names], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout.split(), done.stderr


def test_results_can_be_imported_without_loading_mxnet():
    names = sorted(name for name in MODULES if package_of(name) == 'results')
    code = f'import sys, {", ".join(names)}; print(*({HEAVY!r} & sys.modules.keys()))'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout.split(), (done.stdout, done.stderr)


@pytest.mark.parametrize('sources, found', [
    ({'a': 'import b', 'b': 'import c', 'c': 'def f():\n    from a import x'}, ['a', 'b', 'c', 'a']),
    ({'a': 'import b', 'b': 'import c', 'c': ''}, []),
    ({'a': 'import b', 'b': 'if TYPE_CHECKING:\n    import a'}, []),
    ({'a': 'import b', 'b': 'if TYPE_CHECKING:\n    pass\nelse:\n    import a'}, ['a', 'b', 'a']),
    ({'p': 'from p import m', 'p.m': 'from p.n import x', 'p.n': 'from . import m'}, ['p.m', 'p.n', 'p.m'])])
def test_a_circle_is_found(sources, found):
    graph = {name: imports_of(name, source, name == 'p', sources) for name, source in sources.items()}
    assert circle(graph) == found
