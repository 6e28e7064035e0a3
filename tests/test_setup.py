"""The Makefile and the requirement files, without a network: Python, venv and pip are stand-ins that note each call."""
from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = ['Makefile', 'tools/setup.sh', 'tools/opencv-python/pyproject.toml', 'requirements.txt', 'requirements-cpu.txt',
         'requirements-cuda.txt', 'requirements-common.txt', 'requirements-dev.txt', 'requirements-export.txt']
PYTHONS = ['3.8', '3.9', '3.10', '3.11', '3.12', '3.13', '3.14']
TOOLS = ['make', 'sh', 'sed', 'cat', 'cksum', 'ls', 'rm', 'mv', 'mkdir', 'cp', 'tail', 'awk', 'grep']

pytestmark = pytest.mark.skipif(not shutil.which('make'), reason='needs make')

# Answers as a Python of the given version would: to setup.sh's question for its version, to -m venv and to -m pip.
FAKE_PYTHON = r"""#!/bin/sh
version={version}
case "$*" in
    *"sys.version_info"*)
        exec "{python}" -c "import sys; sys.version_info = tuple(map(int, '$version'.split('.'))); {spoil}
$2" ;;
    "-m venv "*)
        echo "venv $version" >> "$DIARY"
        mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    "-m pip "*)
        echo "pip $*" >> "$DIARY"
        case "$*" in *"-r requirements"*) if [ -e "$DIARY.break" ]; then kill -9 $PPID; fi ;; esac ;;
    *"import prepare"*)
        if [ -e "$DIARY.nomxnet" ]; then echo "OSError: libgomp.so.1: cannot open" >&2; exit 1; fi ;;
    *"import default_build"*)
        if [ -e "$DIARY.gpu" ]; then echo mxnet-cu117; else echo mxnet; fi ;;
    *) echo "run $*" >> "$DIARY" ;;
esac
"""


class Project:
    """A copy of the set-up files and a PATH that holds nothing but a shell's tools and the stand-ins."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin, self.diary_file = folder / 'project', folder / 'bin', folder / 'diary'
        for name in FILES:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.folder / name)
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))

    def python(self, command: str, version: str, no_venv: bool = False) -> Path:
        file = self.bin / command
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(FAKE_PYTHON.format(version=version, python=sys.executable,
                                           spoil="sys.modules['ensurepip'] = None" if no_venv else ''))
        file.chmod(0o755)
        return file

    def make(self, *arguments: str) -> subprocess.CompletedProcess:
        environment = {'PATH': str(self.bin), 'HOME': str(self.bin), 'DIARY': str(self.diary_file),
                       'OS_RELEASE': str(self.folder / 'os-release')}
        return subprocess.run(['make', '--no-print-directory', *arguments], cwd=self.folder, env=environment,
                              capture_output=True, text=True, timeout=60)

    def diary(self) -> list:
        """What the stand-ins were asked to do since the last call."""
        lines = self.diary_file.read_text().splitlines() if self.diary_file.exists() else []
        self.diary_file.write_text('')
        return lines


@pytest.fixture
def project(tmp_path):
    return Project(tmp_path)


def installs(diary):
    return [line for line in diary if line.startswith('pip') and '-r requirements' in line]


@pytest.mark.parametrize('os_release, said', [
    ('ID=debian\nVERSION_ID="13"\n', 'As root: apt-get install python3-venv;'),
    ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', 'As root: apt-get install python3-venv;'),
    ('ID=fedora\nVERSION_ID=44\n', 'As root: dnf install python3.12;'),
    ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', 'As root: dnf install python3.12;'),
    ('ID=arch\n', 'As root: pacman -S python;'),
    ('ID="opensuse-leap"\nID_LIKE="suse opensuse"\nVERSION_ID="15.6"\n', 'As root: zypper install python312;'),
    ('ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n', 'As root: zypper install python313;'),
    ('ID=alpine\n', 'musl'), ('ID=other\n', "your distribution's command"), (None, "your distribution's command")])
def test_without_a_usable_python_one_line_names_the_command_that_brings_one(project, os_release, said):
    project.python('python3', '3.15.1')
    project.python('python3.11', '3.11.4', no_venv=True)
    if os_release:
        (project.folder / 'os-release').write_text(os_release)
    done = project.make('test')
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith('make')]
    assert len(lines) == 1 and said in lines[0]
    assert 'musl' in said or ('3.8 to 3.14' in lines[0] and 'venv' in lines[0])
    assert not (project.folder / '.venv').exists()


def test_alpine_is_refused_with_a_python_too(project):
    project.python('python3', '3.12.1')
    (project.folder / 'os-release').write_text('NAME="Alpine Linux"\nID=alpine\n')
    done = project.make('setup')
    assert done.returncode != 0 and 'musl' in done.stderr and project.diary() == []


def test_second_call_reinstalls_nothing(project):
    project.python('python3', '3.11.4')
    done = project.make('setup')
    assert done.returncode == 0, done.stderr
    first = project.diary()
    assert first[0] == 'venv 3.11.4' and f'for Python 3.11.4 ({project.bin}/python3)' in done.stdout
    assert '--no-deps' in installs(first)[0]
    assert len(installs(first)) == 1 and '-r requirements-cpu.txt -r requirements-dev.txt' in installs(first)[0]
    done = project.make('test', 'PYTEST_ARGS=-k name')
    assert done.returncode == 0, done.stderr
    assert project.diary() == ['run -m pytest -k name']


def test_python_is_searched_by_version_and_in_pyenv(project):
    project.python('python3', '3.7.2')
    project.python('.pyenv/versions/3.8.18/bin/python', '3.8.18')
    for command, version in (('.pyenv/versions/3.14.1/bin/python', '3.14.1'), ('python3.9', '3.9.1'),
                             ('python3.12', '3.12.1')):
        project.python(command, version)
    for version, command in (('3.12.1', 'python3.12'), ('3.9.1', 'python3.9'),
                             ('3.14.1', '.pyenv/versions/3.14.1/bin/python'), ('3.8.18', None)):
        project.make('setup')
        assert project.diary()[0] == f'venv {version}'
        shutil.rmtree(project.folder / '.venv')
        if command:
            (project.bin / command).unlink()


def test_python_can_be_chosen_and_changed(project):
    project.python('python3', '3.11.4')
    project.python('other', '3.9.1')
    project.make('setup')
    project.diary()
    project.make('setup', 'PYTHON=other')
    assert project.diary()[0] == 'venv 3.9.1'
    project.make('setup', 'PYTHON=other')
    project.make('setup')
    assert project.diary() == []
    project.python('wrong', '3.15.0')
    done = project.make('setup', 'PYTHON=wrong')
    assert done.returncode != 0 and 'PYTHON=wrong' in done.stderr and '3.8' in done.stderr
    assert project.make('setup').returncode == 0 and project.diary() == []      # what was there still is


@pytest.mark.parametrize('choice, arguments', [
    ('mxnet', '-r requirements-cpu.txt '),
    ('mxnet-cu101', '-r requirements.txt '),
    ('mxnet-cu117', '-r requirements-cuda.txt '),
    ('mxnet-cu112', '-r requirements-common.txt mxnet-cu112==1.9.1 '),
    ('mxnet-cu112==1.9.0', '-r requirements-common.txt mxnet-cu112==1.9.0 '),
    ('./my/mxnet.whl', '-r requirements-common.txt ./my/mxnet.whl '),
])
def test_mxnet_build_can_be_chosen(project, choice, arguments):
    project.python('python3', '3.11.4')
    project.make('setup', 'MXNET=' + choice)
    assert arguments in installs(project.diary())[0]
    project.make('setup')                           # no choice: the one made before is kept
    assert project.diary() == []
    project.make('setup', 'MXNET=mxnet-cu102')      # another: nothing of the old one stays
    assert 'mxnet-cu102==1.9.1' in installs(project.diary())[0]


def test_default_mxnet_follows_the_nvidia_driver(project):
    """What asks the driver is in tests/common/test_runtime.py."""
    project.python('python3', '3.11.4')
    Path(str(project.diary_file) + '.gpu').touch()
    project.make('setup')
    assert '-r requirements-cuda.txt ' in installs(project.diary())[0]
    project.make('setup', 'MXNET=mxnet')            # the user knows better
    assert '-r requirements-cpu.txt ' in installs(project.diary())[0]
    project.make('setup')
    assert project.diary() == []


def test_an_environment_of_an_earlier_version_is_made_anew_with_its_mxnet(project):
    project.python('python3', '3.12.1')
    project.python('.venv/bin/python', '3.9.1')
    venv = project.folder / '.venv'
    (project.bin / '.venv').rename(venv)
    (venv / 'dml-playground.stamp').write_text('requirements: 123 456\nmxnet: mxnet-cu101\nstarts: yes\n')
    done = project.make('setup')
    assert done.returncode == 0, done.stderr
    diary = project.diary()
    assert diary[0] == 'venv 3.12.1' and '-r requirements.txt ' in installs(diary)[0]


def test_killed_installation_is_done_again(project):
    project.python('python3', '3.11.4')
    switch = Path(str(project.diary_file) + '.break')
    switch.touch()
    assert project.make('setup').returncode != 0
    project.diary()
    switch.unlink()
    done = project.make('setup')
    assert done.returncode == 0, done.stderr
    diary = project.diary()
    assert diary[0] == 'venv 3.11.4' and len(installs(diary)) == 1


def test_changed_requirements_are_installed(project):
    project.python('python3', '3.11.4')
    project.make('setup')
    project.diary()
    with open(project.folder / 'requirements-dev.txt', 'a') as file:
        file.write('# another\n')
    project.make('setup')
    assert len(installs(project.diary())) == 1
    os.utime(project.folder / 'requirements-dev.txt')       # touched (git checkout does that), not changed
    project.make('setup')
    assert project.diary() == []


def test_a_venv_of_the_users_own_is_left_alone(project):
    project.python('python3', '3.11.4')
    (project.folder / '.venv').mkdir()
    (project.folder / '.venv' / 'mine').touch()
    done = project.make('setup')
    assert done.returncode != 0 and '.venv was not made by this Makefile' in done.stderr
    assert (project.folder / '.venv' / 'mine').exists() and project.diary() == []
    assert project.make('setup', 'VENV=.other').returncode == 0
    assert (project.folder / '.other' / 'bin' / 'python').exists()


def test_mxnet_that_does_not_start_is_told(project):
    project.python('python3', '3.11.4')
    switch = Path(str(project.diary_file) + '.nomxnet')
    switch.touch()
    done = project.make('setup')
    assert done.returncode != 0 and 'libgomp.so.1' in done.stderr and 'libgomp1 libquadmath0' in done.stderr
    assert project.make('test').returncode != 0     # told again, and nothing is run
    switch.unlink()
    project.diary()
    assert project.make('test').returncode == 0     # the library was put there: nothing is installed again
    assert project.diary() == ['run -m pytest']
    switch.touch()
    assert project.make('setup').returncode == 0    # it started once: not tried at every call


def test_help_lists_the_targets(project):
    done = project.make()
    listed = set(re.findall(r'^make ([a-z-]+)', done.stdout, re.M))
    assert {'demo', 'test', 'lint', 'faults', 'reproduce', 'benchmarks', 'clean', 'help', 'setup'} <= listed
    phony = set(re.search(r'^\.PHONY: (.*)$', (ROOT / 'Makefile').read_text(), re.M).group(1).split())
    assert listed == phony


def requirements(name):
    """(name, specifier, marker) of each line, those of included files too."""
    from packaging.requirements import Requirement
    for line in (ROOT / name).read_text().splitlines():
        line = line.split('#')[0].strip()
        if line.startswith('-r '):
            yield from requirements(line[3:])
        elif line.startswith('./'):
            assert (ROOT / line / 'pyproject.toml').exists()
        elif line:
            requirement = Requirement(line)
            yield requirement.name.lower(), str(requirement.specifier), requirement.marker


@pytest.mark.parametrize('file, mxnet', [('requirements.txt', 'mxnet-cu101'), ('requirements-cpu.txt', 'mxnet'),
                                         ('requirements-cuda.txt', 'mxnet-cu117')])
@pytest.mark.parametrize('python', PYTHONS)
def test_every_python_gets_exactly_one_pin_of_each(file, mxnet, python):
    pins = {}
    for name, specifier, marker in list(requirements(file)) + list(requirements('requirements-dev.txt')):
        assert re.match(r'^==[0-9a-z.]+$', specifier), f'{name}{specifier} is not an exact version'
        if marker is None or marker.evaluate({'python_version': python}):
            assert name not in pins, f'{name} is pinned twice for Python {python}'
            pins[name] = specifier
    assert pins[mxnet] == '==1.9.1' and sum(name.startswith('mxnet') for name in pins) == 1
    for name in ('numpy', 'gluoncv', 'opencv-python-headless', 'scikit-learn', 'scipy', 'matplotlib', 'pillow', 'tqdm',
                 'pyyaml', 'safetensors', 'joblib', 'requests', 'pytest', 'hypothesis', 'ruff'):
        assert name in pins, f'{name} has no pin for Python {python}'
    assert 'opencv-python' not in pins


def test_the_list_is_complete_for_this_python():
    """Installed with --no-deps: nothing that an installed package asks for may be missing, or of another version."""
    import importlib.metadata
    import warnings

    from packaging.requirements import Requirement
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        packages = {re.sub('[-_.]+', '-', d.metadata['Name']).lower(): d for d in importlib.metadata.distributions()}
    listed = [n for n, _, m in [*requirements('requirements-cpu.txt'), *requirements('requirements-dev.txt')]
              if (m is None or m.evaluate()) and n != 'mxnet']
    mxnet = [name for name in packages if re.match(r'mxnet(-cu\d+)?$', name)]
    missing = [name for name in listed if re.sub('[-_.]+', '-', name) not in packages]
    assert mxnet and not missing, f'not installed: {missing} (make setup)'
    for name in [re.sub('[-_.]+', '-', name) for name in listed] + mxnet:
        for line in packages[name].requires or []:
            needed = Requirement(line)
            if needed.marker is not None and not needed.marker.evaluate({'extra': ''}):
                continue
            if name in mxnet and needed.name == 'numpy':        # below 2: common/runtime.py adds what it misses
                continue
            found = packages.get(re.sub('[-_.]+', '-', needed.name).lower())
            assert found is not None, f'{name} needs {line}, which no requirement file has'
            assert needed.specifier.contains(found.version, prereleases=True), f'{name} needs {line}: {found.version}'
