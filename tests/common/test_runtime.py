"""MXNet is prepared whoever imports it first; what the CUDA build says about drivers and cards."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from common import devices, runtime
from common.errors import UsageError
from common.runtime import available_cores
from models.losses.margin import MarginLoss

ROOT = Path(__file__).resolve().parent.parent.parent
THREADS = '''
import common, mxnet
import json, os, sys
from threadpoolctl import threadpool_info
mxnet_root = os.path.dirname(sys.modules['mxnet'].__file__)
blas = {os.path.realpath(i['filepath']): i['num_threads'] for i in threadpool_info() if i['user_api'] == 'blas'}
print(json.dumps([[n for path, n in blas.items() if path.startswith(mxnet_root)],
                  [n for path, n in blas.items() if 'numpy' in path]]))
'''
#: All that somebody may import first.
MODULES = sorted('.'.join(path.relative_to(ROOT).with_suffix('').parts).replace('.__init__', '')
                 for pattern in ('common/**/*.py', 'dataset/**/*.py', 'models/**/*.py', 'results/**/*.py', 'train_*.py',
                                 'tests/benchmarks/*.py', 'tests/faults/[!t]*.py')
                 for path in ROOT.glob(pattern))
#: In place of MXNet: tells whether all is there that MXNet needs when it is run, and ends the process.
FAKE = '''
import os, warnings
missing = [name for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS') if name not in os.environ]
try:
    import distutils.version
    import numpy
    assert distutils.version.LooseVersion('2.10.0') > distutils.version.LooseVersion('2.9')
except ImportError as error:
    missing.append(str(error))
warnings.simplefilter('ignore')
missing += [name for name in ('bool', 'float', 'PINF', 'NaN', 'alltrue', 'in1d', 'trapz', 'msort', 'compat')
            if not hasattr(numpy, name)]
os.write(1, ('missing: ' + ' '.join(missing) if missing else 'prepared').encode())
os._exit(0)
'''
#: Forks a process for each module, which is quick, and prints what the fake said.
IMPORT_EACH = '''
import os, sys
for name in sys.argv[1:]:
    print(name, end=' ', flush=True)
    if not os.fork():
        sys.argv = [name]
        __import__(name)
        os.write(1, b'not imported')
        os._exit(0)
    os.wait()
    print(flush=True)
'''


@pytest.mark.skipif(available_cores() < 2, reason='there is one core only')
@pytest.mark.parametrize('asked, mxnets, numpys', [({'OMP_NUM_THREADS': '2'}, 2, 1), ({'OMP_NUM_THREADS': '1'}, 1, 1),
                                                   ({'OMP_NUM_THREADS': '2', 'OPENBLAS_NUM_THREADS': '2'}, 2, 2)])
def test_threads_of_mxnet_and_numpy(asked, mxnets, numpys):
    done = subprocess.run([sys.executable, '-c', THREADS], env={**without_threads(), **asked}, capture_output=True,
                          text=True, check=True)
    of_mxnet, of_numpy = json.loads(done.stdout)
    assert set(of_mxnet) <= {mxnets}  # not every build of MXNet has a library of its own for that
    assert of_numpy == [numpys]


def without_threads():
    return {k: v for k, v in os.environ.items() if k not in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS')}


@pytest.fixture
def fake(tmp_path):
    """An environment in which MXNet is a stand-in."""
    (tmp_path / 'mxnet').mkdir()
    (tmp_path / 'mxnet' / '__init__.py').write_text(FAKE)
    return {**without_threads(), 'PYTHONPATH': f'{tmp_path}{os.pathsep}{ROOT}'}


def test_whichever_module_comes_first_mxnet_is_prepared(fake):
    done = subprocess.run([sys.executable, '-c', IMPORT_EACH, *MODULES], env=fake, capture_output=True, text=True,
                          cwd=ROOT, check=True)
    said = dict(line.split(' ', 1) for line in done.stdout.splitlines())
    assert set(said) == set(MODULES), done.stderr
    assert set(said.values()) <= {'prepared', 'not imported'}, said
    assert said['common'] == said['common.runtime'] == said['results.report'] == 'not imported'
    assert sum(value == 'prepared' for value in said.values()) > 50


def test_a_failure_of_mxnet_is_one_line(fake, tmp_path):
    (tmp_path / 'mxnet' / '__init__.py').write_text('raise OSError("libquadmath.so.0: cannot open shared object")')
    for code in ('import common.training', 'from models import losses', 'import common, mxnet'):
        done = subprocess.run([sys.executable, '-c', code], env=fake, capture_output=True, text=True, cwd=ROOT)
        assert done.returncode == 1 and done.stderr.count('\n') == 1, done.stderr
        assert 'libquadmath.so.0' in done.stderr and 'apt-get install libquadmath0' in done.stderr


def test_mxnet_that_was_there_before_is_left_alone():
    code = 'import common, mxnet, sys; a = mxnet; from common.runtime import prepare; prepare(); import models; ' \
           'print(sys.modules["mxnet"] is a, sum(type(f).__name__ == "_Finder" for f in sys.meta_path))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == 'True 1\n', done.stderr


def test_what_numpy_has_stays_as_it_is():
    code = 'import numpy; before = dict(vars(numpy)); from common.runtime import prepare; prepare(); ' \
           'print([n for n, v in before.items() if vars(numpy)[n] is not v])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == '[]\n', done.stderr
    old = {'alltrue': np.all, 'sometrue': np.any, 'product': np.prod, 'round_': np.round, 'in1d': np.isin,
           'trapz': getattr(np, 'trapezoid', None)}
    for name, function in old.items():
        if function is not None and not name.startswith('in1d'):
            assert getattr(np, name)(np.array([1.25, 2.5])) is not None
            assert np.array_equal(getattr(np, name)(np.array([1.25, 2.5])), function(np.array([1.25, 2.5])))


def test_shapes_may_hold_integers_of_numpy():
    n = np.int64(3)
    assert mx.nd.zeros((n, 2)).shape == mx.nd.zeros([n, 2]).shape == (3, 2)
    assert mx.nd.reshape(mx.nd.ones(6), shape=(n, 2)).shape == (3, 2)
    assert mx.nd.slice(mx.nd.arange(6), begin=(n,), end=(np.int64(5),)).shape == (2,)
    assert mx.sym.zeros((n, 2)).eval()[0].shape == (3, 2)
    loss, net = MarginLoss(n), mx.gluon.nn.HybridSequential()
    net.add(mx.gluon.nn.Conv2D(n, (n, n)), mx.gluon.nn.Dense(n))
    net.add(mx.gluon.nn.HybridLambda(lambda F, x: F.reshape(x, shape=(n, 2))))
    for block in loss, net:
        block.initialize()
        block.hybridize()
    assert net(mx.nd.ones((2, 3, 8, 8))).shape == (3, 2)
    assert loss(mx.nd.L2Normalization(mx.nd.random.normal(shape=(4, 8))), mx.nd.array([0, 0, 1, 1])).shape == (1,)


class Driver:
    """Stands in for libcuda.so.1 where it is called from Python."""

    def __init__(self, version, cards):
        self.version, self.cards = version, cards

    def cuInit(self, flags):
        return 0

    def cuDriverGetVersion(self, out):
        out._obj.value = self.version

    def cuDeviceGetCount(self, out):
        out._obj.value = len(self.cards)

    def cuDeviceGet(self, out, index):
        out._obj.value = index

    def cuDeviceGetName(self, out, length, device):
        out.value = self.cards[device.value][0].encode()

    def cuDeviceGetAttribute(self, out, attribute, device):
        out._obj.value = self.cards[device.value][1][{75: 0, 76: 1}[attribute]]


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that puts a driver and cards into the machine."""
    def put(cards, number='535.104.05', version=12020, build='cu117'):
        file = tmp_path / 'version'
        if number:
            file.write_text(f'NVRM version: NVIDIA UNIX x86_64 Kernel Module  {number}  Sat Aug 19 01:15:15 UTC 2023\n')
        monkeypatch.setattr(runtime, '_DRIVER_VERSION_FILE', str(file))
        monkeypatch.setattr(runtime.ctypes, 'CDLL', lambda name, mode=0: Driver(version, cards))
        monkeypatch.setattr(runtime, 'cuda_build', lambda site=None: build)
    return put


@pytest.mark.parametrize('capability, build, usable', [
    ((7, 0), 'cu117', True), ((7, 5), 'cu117', True), ((8, 6), 'cu117', True), ((8, 9), 'cu117', True),
    ((9, 0), 'cu117', False), ((10, 0), 'cu117', False), ((12, 0), 'cu117', False), ((3, 7), 'cu117', False),
    ((3, 7), 'cu101', True), ((7, 5), 'cu101', True), ((8, 0), 'cu101', False), ((9, 0), 'cu118', True)])
def test_a_card_without_code_is_named(machine, capability, build, usable):
    machine([('NVIDIA Something', capability)], build=build)
    problem = runtime.gpu_problem()
    assert (problem is None) == usable
    if not usable:
        assert 'NVIDIA Something' in problem and '%d.%d' % capability in problem and '--gpus -2' in problem
        for gpus in '-1', '0':
            with pytest.raises(UsageError, match='NVIDIA Something'):
                devices.get_contexts(gpus)
        assert devices.get_contexts('-2') == [mx.cpu(0)]


@pytest.mark.parametrize('number, version, usable', [
    ('450.80.02', 11000, True), ('450.36.06', 11000, False), ('418.87.01', 10010, False), ('580.1', 13000, True),
    (None, 11040, True), (None, 10020, False)])
def test_a_driver_that_is_too_old_is_named(machine, number, version, usable):
    machine([('V100', (7, 0))], number, version)
    problem = runtime.gpu_problem()
    assert (problem is None) == usable
    if not usable:
        assert (number or 'driver') in problem and '450.80.02' in problem and '--gpus -2' in problem


def test_the_default_build_follows_driver_and_card(machine, monkeypatch, capsys):
    machine([('V100', (7, 0))])
    assert runtime.default_build() == 'mxnet-cu117' and not capsys.readouterr().err
    machine([])
    assert runtime.default_build() == 'mxnet' and not capsys.readouterr().err
    machine([('V100', (7, 0)), ('H100', (9, 0))])
    assert runtime.default_build() == 'mxnet' and 'GPU 1 (H100)' in capsys.readouterr().err
    assert runtime.gpu_problem([0]) is None

    def missing(name, mode=0):
        raise OSError(f'{name}: cannot open shared object file')
    monkeypatch.setattr(runtime.ctypes, 'CDLL', missing)
    assert runtime.default_build() == 'mxnet'


def test_cuda_libraries_that_pip_installed_are_loaded_in_order(monkeypatch, tmp_path):
    (tmp_path / 'mxnet_cu117-1.9.1.dist-info').mkdir()
    for number, name in enumerate(reversed(runtime._CUDA_LIBRARIES)):
        folder = tmp_path / 'nvidia' / f'part{number // 2}' / 'lib'
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    loaded = []
    monkeypatch.setattr(runtime.ctypes, 'CDLL', lambda name, mode=0: loaded.append(os.path.basename(name)))
    runtime._load_cuda(str(tmp_path))
    assert loaded == ['libcuda.so.1', *runtime._CUDA_LIBRARIES]
    (tmp_path / 'mxnet_cu117-1.9.1.dist-info').rename(tmp_path / 'mxnet-1.9.1.dist-info')
    loaded.clear()
    runtime._load_cuda(str(tmp_path))       # the CPU build needs none of them
    assert loaded == []


def test_without_a_driver_the_cuda_build_says_how_to_go_on(monkeypatch, tmp_path):
    (tmp_path / 'mxnet_cu117-1.9.1.dist-info').mkdir()

    def missing(name, mode=0):
        raise OSError(f'{name}: cannot open shared object file')
    monkeypatch.setattr(runtime.ctypes, 'CDLL', missing)
    with pytest.raises(SystemExit, match=r'no NVIDIA driver.*libcuda\.so\.1.*450\.80\.02.*MXNET=mxnet'):
        runtime._load_cuda(str(tmp_path))
