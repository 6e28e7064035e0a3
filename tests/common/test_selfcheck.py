"""The check of a machine, with two CPU contexts in place of devices: it runs, and goes red when a device is wrong."""
import json

import mxnet as mx
import numpy as np
import pytest

from common.errors import UsageError
from common.evaluation.tiles import DeviceTiles
from common.selfcheck import __main__ as command
from common.selfcheck import correctness, machine, speed
from common.selfcheck.report import Finding, Report
from common.training.optimisers import GroupTrainer
from models import EmbeddingNet
from models.losses.npairs import NPairLoss
from tests.tiny import SCRIPTS


def options(*more, **sizes):
    opt = command.parse_args(['--quick', *more])
    vars(opt).update(sizes)
    return opt


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    return correctness.make_images(str(tmp_path_factory.mktemp('selfcheck') / 'images'), 32)


def failed(findings):
    return [f.name for f in findings if not f.ok]


@pytest.mark.slow
def test_the_whole_check_runs_without_a_gpu(tmp_path, capsys):
    path = tmp_path / 'check.json'
    assert command.run(options('--gpus', '-2', '--output', str(path))) == 0
    output = capsys.readouterr().out
    assert output.startswith('No GPU: two CPU contexts') and output.rstrip().endswith('Everything is as it should be.')
    content = json.loads(path.read_text())
    assert content['wrong'] == [] and len(content['devices']) == 2 and content['flags']['points'] == 1000
    assert content['tolerances'] == correctness.TOLERANCES
    names = {check['check'] for check in content['checks']}
    assert names >= {f'loss and head of train_{name}' for name in SCRIPTS}
    assert names >= {f'network {name}' for name in correctness.NETWORKS}
    assert names >= {'several devices against one', 'resumed run'}
    for check in content['checks']:
        assert check['problem'] is None and check['findings'], check['check']
        for finding in check['findings']:
            assert finding.get('ok', True) and np.isfinite([v for v in finding.values() if type(v) is float]).all()
    resumed = next(c for c in content['checks'] if c['check'] == 'resumed run')
    assert [f['measured'] for f in resumed['findings']] == [0, 0]     # the same bits


def test_the_slow_parts_run_on_the_smallest_sizes(tree):
    """As the whole check, which CI may leave out, but for the two large networks."""
    opt = options(points=300, speed_points=300, image_size=32)
    devices = [mx.cpu(0), mx.cpu(1)]
    findings = [*correctness.network('convnet', devices[1], opt), *correctness.evaluation(devices[1], opt),
                *correctness.several_devices(devices, opt, tree)]
    assert len(findings) == 6 + 8 + 4 and not failed(findings)
    measured = [*speed.evaluation_speed(devices[1], opt),
                *speed.training_speed('convnet', 'train_proxy', devices, opt, tree)]
    assert len(measured) == 4 + 6 and all(m.measured > 0 for m in measured)


@pytest.mark.parametrize('name', SCRIPTS)
def test_every_loss_is_compared_where_it_has_a_value_and_a_slope(name, tree, monkeypatch):
    seen, loss_gradients = [], correctness.loss_gradients
    monkeypatch.setattr(correctness, 'loss_gradients', lambda *a: seen.append(loss_gradients(*a)) or seen[-1])
    findings = list(correctness.loss_and_head(f'train_{name}', mx.cpu(1), options(), tree))
    assert len(findings) >= 4 and not failed(findings)
    for value, slope, own in seen:
        assert abs(value) > 1e-3 and np.linalg.norm(slope) > 1e-3
        assert all(np.linalg.norm(gradient) > 1e-6 for gradient in own.values())


def wrong_on(device, method, change):
    """`method`, whose result is changed on one device."""
    def changed(self, x, *more):
        result = method(self, x, *more)
        return change(result) if x.context == device else result
    return changed


def run_one(tmp_path, *check):
    report = Report(str(tmp_path / 'check.json'), {})
    report.run('the check', 'cpu(1)', *check)
    return report.finish(), json.loads((tmp_path / 'check.json').read_text())


def test_a_wrong_loss_is_named(tree, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(NPairLoss, 'forward', wrong_on(mx.cpu(1), NPairLoss.forward, lambda loss: loss * 1.001))
    status, content = run_one(tmp_path, correctness.loss_and_head, 'train_npairs', mx.cpu(1), options(), tree)
    assert status == 1
    assert content['wrong'] == ['the check on cpu(1): value of the loss',
                                'the check on cpu(1): gradient of the embeddings, relative difference']
    output = capsys.readouterr().out
    assert 'WRONG  the check on cpu(1): value of the loss' in output and 'DIFFERS' in output


def test_a_wrong_device_is_found_by_every_kind_of_check(tree, tmp_path, monkeypatch):
    """A network and a tile of scores that are slightly wrong on the second device, and a resumption that forgets."""
    devices, opt = [mx.cpu(0), mx.cpu(1)], options(points=300, image_size=32)
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddingNet, 'forward', wrong_on(mx.cpu(1), EmbeddingNet.forward, lambda y: y + 0.01))
        assert 'embeddings, running statistics, relative difference' in failed(
            correctness.network('convnet', devices[1], opt))
        assert 'value of the loss' in failed(correctness.several_devices(devices, opt, tree))
    with monkeypatch.context() as patch:
        scores = DeviceTiles.scores
        patch.setattr(DeviceTiles, 'scores', lambda *a: scores(*a) * 0.9)
        assert 'queries whose rank differs' in failed(correctness.evaluation(devices[1], opt))
    with monkeypatch.context() as patch:
        patch.setattr(GroupTrainer, 'load_state_arrays', lambda self, arrays: None)      # the optimiser starts afresh
        found = failed(correctness.resumption(devices[1], opt, tree, str(tmp_path)))
        assert found == ['a run and one that was resumed, relative difference']


def test_a_check_that_raises_is_one_line_and_the_next_goes_on(tmp_path, capsys):
    def broken():
        yield Finding('speed', 1.0, unit='images/s')
        raise mx.base.MXNetError('Traceback:\n  stack\nMXNetError: the device is gone\n')

    report = Report(str(tmp_path / 'check.json'), {'machine': 'here'})
    report.run('broken', 'gpu(0)', broken)
    report.run('exits', 'gpu(0)', lambda: command.parse_args(['--batch-size', 'x']))
    report.run('full', 'gpu(0)', lambda: (_ for _ in ()).throw(MemoryError()))
    report.run('nothing', 'gpu(0)', lambda: [Finding('a NaN', float('nan'), 0.0, 1.0)])
    report.run('good', 'gpu(0)', lambda: [Finding('a number', 1.0, 1.1, 0.2)])
    assert report.finish() == 1
    content = json.loads((tmp_path / 'check.json').read_text())
    assert content['wrong'] == ['broken on gpu(0): MXNetError: the device is gone',
                                'exits on gpu(0): SystemExit: 2', 'full on gpu(0): out of memory',
                                'nothing on gpu(0): a NaN']
    assert content['checks'][3]['findings'][0]['measured'] is None and content['machine'] == 'here'
    assert content['checks'][4]['findings'][0]['ok']


def test_devices_are_described(monkeypatch):
    assert machine.describe_device(mx.cpu(1))['name'] == 'CPU in place of a device'
    monkeypatch.setattr(machine, 'graphics_cards', lambda: {1: ('Tesla V100-SXM2-16GB', (7, 0))})
    monkeypatch.setattr(machine, 'driver_number', lambda: '450.80.02')
    monkeypatch.setattr(mx.context, 'gpu_memory_info', lambda number: (2 ** 30, 16 * 2 ** 30))
    known = {'device': 'gpu(1)', 'name': 'Tesla V100-SXM2-16GB', 'memory': 16384, 'compute_capability': '7.0',
             'driver': '450.80.02'}
    assert machine.describe_device(mx.gpu(1)) == known
    assert machine.describe_device(mx.gpu(0)) == {**known, 'device': 'gpu(0)', 'name': 'unknown',
                                                  'compute_capability': 'unknown'}
    assert machine.memory_in_use(mx.gpu(1)) == 15 * 1024


def test_flags(capsys):
    assert command.parse_args([]).points == 20000 and command.parse_args([]).speed_points == 60502
    assert options('--batch-size', '0').batch_size == 0     # a flag counts more than --quick
    with pytest.raises(SystemExit) as ended:
        command.parse_args(['--image-size', '0'])
    assert ended.value.code == 2 and '--image-size' in capsys.readouterr().err
    with pytest.raises(UsageError, match='--gpus 7'):
        command.run(options('--gpus', '7'))


def test_published_batch_sizes(tree):
    sizes = speed.batch_sizes(command.parse_args([]), tree)
    assert list(sizes) == sorted(sizes) and {32, 125, 128} <= set(sizes)
    assert speed.batch_sizes(options(), tree) == {8: speed.ANY_SIZE}
