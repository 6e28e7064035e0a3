"""Exported networks give the embeddings of MXNet, and what cannot be exported is one sentence."""
from __future__ import annotations

import glob
import importlib
import json
import os
import re
import sys
import warnings
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet.gluon import HybridBlock, nn

from models import export, onnx_graph
from models.ensemble import concatenate_members
from models.loading import save_parameters
from tests.tiny import SCRIPTS, flags, make_tree

onnx = pytest.importorskip('onnx')
onnxruntime = pytest.importorskip('onnxruntime')
ROOT = Path(__file__).resolve().parent.parent.parent
BACKBONES = ['convnet', 'resnet18_v2', 'resnet50_v2', 'inception-bn', 'mobilenetv2_1.0', 'efficientnet-lite0']


def shake(net, seed=0):
    """Random statistics and betas: with those of a new network, mistakes in batch norm would not show."""
    rng = np.random.RandomState(seed)
    for name, parameter in net.collect_params().items():
        if name.endswith(('running_mean', 'beta')):
            parameter.set_data(mx.nd.array(rng.normal(0, 0.3, parameter.shape)))
        elif name.endswith(('running_var', 'gamma')):
            parameter.set_data(mx.nd.array(rng.uniform(0.5, 1.5, parameter.shape)))


def saved(folder, script, *more, members=1):
    """Files as training writes them, of networks with random weights, and the networks."""
    module = importlib.import_module(f'train_{script}')
    opt = module.parse_args(['--dataset', 'GLYPHS', '--gpus', '-2', '--model', 'convnet', '--image-size', '32',
                             '--pretrained', 'none', '--embed-dim', '8', '--batch-size', '8',
                             *module.ALGORITHM['smoke'][0].split(), *more])
    data = type('Data', (), {})()
    data.train = type('Images', (), {'num_classes': 6, 'labels': np.repeat(np.arange(6), opt.batch_size)})()
    built = module.build(opt, data, [mx.cpu()])
    experiments = [built.member(m) if hasattr(built, 'member') else built for m in range(members)]
    words = {name: value for name, value in vars(opt).items()
             if isinstance(value, (str, int, float, bool, type(None)))}
    paths = []
    for number, experiment in enumerate(experiments):
        experiment.net.initialize()
        experiment.net(mx.nd.zeros((1, opt.image_size, opt.image_size, 3)))
        shake(experiment.net, number)
        paths.append(str(folder / f'X-member{number + 1:02d}.params'))
        save_parameters(experiment.net, paths[-1])
        with open(paths[-1][:-len('.params')] + '.json', 'w') as file:
            json.dump({'script': f'train_{script}', 'algorithm': script, 'flags': words,
                       'data': {'train_classes': 6}, 'git': '0123456789ab'}, file)
    return paths, experiments


def pictures(size, count=5, seed=3):
    return np.random.RandomState(seed).randint(0, 256, (count, size, size, 3)).astype(np.uint8)


def session_of(path):
    return onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])


def evaluated(experiment, images):
    found = (experiment.embed or experiment.net)(mx.nd.array(images, dtype='uint8'))
    return [x.asnumpy() for x in (found.values() if isinstance(found, dict) else [found])]


@pytest.mark.parametrize('backbone', BACKBONES)
def test_onnx_gives_the_embeddings_of_mxnet(tmp_path, backbone, capfd):
    (path,), (experiment,) = saved(tmp_path, 'margin', '--model', backbone, '--image-size', '64')
    assert export.main([path, '-o', str(tmp_path / 'x.onnx')]) == 0
    out, err = capfd.readouterr()
    assert re.search(r'x\.onnx: .* MB; images \(N, 64, 64, 3\) uint8 -> embeddings \(N, 8\)\n'
                     r'largest difference between ONNX Runtime and MXNet on 4 random pictures: \S+\n', out) and not err
    images, (expected,) = pictures(64), evaluated(experiment, pictures(64))
    assert np.abs(expected - expected.mean(axis=0)).max() > 1e-3         # they tell pictures apart
    found, = session_of(tmp_path / 'x.onnx').run(None, {'images': images})
    np.testing.assert_allclose(found, expected, rtol=0, atol=export.TOLERANCE)


def runs():
    for script in SCRIPTS:
        for line in ['', *importlib.import_module(f'train_{script}').ALGORITHM['smoke'][1:]]:
            yield pytest.param(script, line.split(), id=f'{script} {line}')


@pytest.mark.parametrize('script, words', list(runs()))
def test_what_the_script_evaluates_is_exported(tmp_path, script, words):
    """Heads, second outputs, thresholds: whatever a script makes of its network."""
    paths, experiments = saved(tmp_path, script, *words, members=2 if script == 'dreml' else 1)
    images = pictures(32)
    expected = [evaluated(experiment, images) for experiment in experiments]
    if script == 'dreml':
        expected = [[concatenate_members([outputs[0] for outputs in expected])]]
    assert export.main([*paths, '-o', str(tmp_path / 'x.onnx')]) == 0
    session = session_of(tmp_path / 'x.onnx')
    assert session.get_outputs()[0].name == 'embeddings'
    for found, due in zip(session.run(None, {'images': images}), expected[0]):
        np.testing.assert_allclose(found, due, rtol=1e-5, atol=1e-5)
    about = session.get_modelmeta().custom_metadata_map
    assert (about['normalized'] == 'yes') == np.allclose(np.linalg.norm(expected[0][0], axis=1), 1, atol=1e-3)
    assert about['embedding_size'] == str(expected[0][0].shape[1])
    assert about.get('members') == ('2 of 2' if script == 'dreml' else None)


def test_a_second_output_has_the_name_that_the_script_gives_it(tmp_path):
    (path,), _ = saved(tmp_path, 'discriminative')
    assert export.main([path]) == 0         # beside the network, by default
    outputs = session_of(tmp_path / 'X-member01.onnx').get_outputs()
    assert [(output.name, output.shape) for output in outputs] == [
        ('embeddings', ['batch', 6]), ('embeddings_embedding', ['batch', 8])]


def test_a_symbol_is_read_by_mxnet_alone(tmp_path):
    (path,), (experiment,) = saved(tmp_path, 'margin')
    assert export.main([path, '-o', str(tmp_path / 'x'), '--format', 'symbol']) == 0
    code = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/export.md').read_text(), flags=re.S)[1]
    names = {'images': pictures(32)}
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Cannot decide type')       # the page tells of it
        exec(code.replace("'X-", f"'{tmp_path}/x-"), names)
    np.testing.assert_allclose(names['embeddings'].asnumpy(), *evaluated(experiment, pictures(32)), rtol=0, atol=1e-6)
    symbol, arguments, auxiliary = mx.model.load_checkpoint(str(tmp_path / 'x'), 0)
    assert symbol.list_outputs() == ['embeddings_output']
    assert set(arguments) | set(auxiliary) | {'images'} == set(symbol.list_inputs())
    about = json.loads(symbol.attr_dict()['images']['__metadata__'])
    assert about['algorithm'] == 'margin' and about['mean'] == '[123.68, 116.779, 103.939]'


def test_metadata(tmp_path):
    (path,), _ = saved(tmp_path, 'margin', '--model', 'efficientnet-lite0', '--resize', '40')
    assert export.main([path, '-o', str(tmp_path / 'x.onnx')]) == 0
    model = onnx.load(str(tmp_path / 'x.onnx'))
    assert [entry.version for entry in model.opset_import] == [17]
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert about.pop('preprocessing').startswith('RGB, uint8, 0..255, (N, H, W, 3): resize to 40 x 40 without')
    assert about.pop('sha256') == export.hash_file(path)
    assert about == {'algorithm': 'margin', 'script': 'train_margin', 'backbone': 'efficientnet-lite0',
                     'dataset': 'GLYPHS', 'embedding_size': '8', 'normalized': 'yes', 'image_size': '32',
                     'resize': '40', 'crop': 'center', 'mean': '[127.0, 127.0, 127.0]',
                     'std': '[128.0, 128.0, 128.0]', 'git': '0123456789ab'}


@pytest.mark.slow
def test_a_trained_network_and_the_snippet_of_the_docs(tmp_path):
    from common.evaluation import __main__ as score
    import train_margin
    tree = make_tree(tmp_path / 'tree', size=30)
    train_margin.train_margin(train_margin.parse_args(flags(
        tree, str(tmp_path), '--batch-k', '2', '--batches-per-epoch', '2', '--epochs', '1')))
    model = str(tmp_path / 'models' / 'train_margin_miniCUB_convnet-best.params')
    assert export.main([model, '-o', str(tmp_path / 'x.onnx')]) == 0
    record, = score.run(score.parse_args(['--model', model, '--output', str(tmp_path / 'o'), '--gpus', '-2',
                                          '--no-nmi']))
    with np.load(tmp_path / 'o.npz') as file:
        ours, paths, labels = file['embeddings'], file['paths'], file['labels']
    snippet = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/export.md').read_text(), flags=re.S)[0]
    theirs = []
    for path in paths:
        names = {}
        exec(snippet.replace('X.onnx', str(tmp_path / 'x.onnx')).replace('bird.jpg', str(path)), names)
        theirs.append(names['embeddings'][0])
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=1e-5)
    distances = np.linalg.norm(np.array(theirs)[:, None] - np.array(theirs)[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert record['metrics']['recall@1'] == 100 * (labels[distances.argmin(axis=1)] == labels).mean()




def compared(function, inner=None):
    """Largest difference between ONNX and MXNet of `function` on features (2, 4, 7, 7)."""
    class Net(HybridBlock):
        def __init__(self):
            super().__init__()
            with self.name_scope():
                self.inner = inner

        def hybrid_forward(self, F, x):
            x = F.transpose(F.cast(x, 'float32'), axes=(0, 3, 1, 2)) * 0.02 - 2
            x = F.concat(x, F.slice_axis(x, axis=1, begin=0, end=1), dim=1)
            x = function(F, x) if inner is None else function(F, self.inner(x))
            return F.flatten(x)

    net = Net()
    net.initialize(mx.init.Xavier(magnitude=3))
    images = pictures(7, 2)
    expected = net(mx.nd.array(images, dtype='uint8')).asnumpy()
    symbol = mx.sym.Group([net(mx.sym.var('images', dtype='uint8'))])
    arrays = {name: parameter.data().asnumpy() for name, parameter in net.collect_params().items()}
    model = onnx_graph.to_onnx(symbol, arrays, 7, {'embeddings': expected.shape[1]}, {})
    found, = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider']).run(
        None, {'images': images})
    assert found.shape == expected.shape and np.isfinite(expected).all() and np.abs(expected).max() > 0
    return np.abs(found - expected).max()


@pytest.mark.parametrize('function', [
    lambda F, x: F.LeakyReLU(x, act_type='leaky', slope=0.3),
    lambda F, x: F.LeakyReLU(x, act_type='elu', slope=0.3),
    lambda F, x: F.Activation(x, act_type='softrelu'),
    lambda F, x: F.Activation(x, act_type='softsign') + F.Activation(x, act_type='sigmoid') - F.tanh(x),
    lambda F, x: F.pad(x, mode='constant', pad_width=(0, 0, 0, 0, 1, 2, 3, 0), constant_value=1.5),
    lambda F, x: F.pad(x, mode='reflect', pad_width=(0, 0, 0, 0, 1, 2, 3, 0)),
    lambda F, x: F.UpSampling(x, scale=2, sample_type='nearest'),
    lambda F, x: F.contrib.AdaptiveAvgPooling2D(x, output_size=1),
    lambda F, x: F.reverse(x, axis=(2, 3)),
    lambda F, x: F.slice_axis(x, axis=2, begin=2, end=None),
    lambda F, x: F.clip(x, -0.5, 0.7),
    lambda F, x: F.broadcast_mul(F.expand_dims(x, axis=2), F.expand_dims(F.tanh(x), axis=-3)),
    lambda F, x: (1 - x) * (2 / (3 + F.exp(x))) / 5 - 3 * F.abs(x) ** 1.5,
    lambda F, x: F.broadcast_maximum(x, F.mean(x, axis=(2, 3), keepdims=True)),
    lambda F, x: F.broadcast_div(x, 1 + F.sum(F.square(x), axis=1, keepdims=True)),
    lambda F, x: F.broadcast_power(F.maximum(x, 0.1), F.max(x, axis=1, keepdims=True)),
    lambda F, x: F.mean(F.reshape(x, shape=(0, 0, -1)), axis=2),
    lambda F, x: F.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type='avg'),
    lambda F, x: F.Pooling(x, kernel=(3, 2), stride=(2, 1), pad=(1, 0), pool_type='avg', count_include_pad=False),
    lambda F, x: F.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type='avg', pooling_convention='full',
                           count_include_pad=False),
    lambda F, x: F.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type='max', pooling_convention='full'),
    lambda F, x: F.Pooling(x, kernel=(2, 2), global_pool=True, pool_type='max'),
    lambda F, x: x > 0.25])
def test_operators(function):
    assert compared(function) < 1e-5


@pytest.mark.parametrize('inner', [
    nn.Conv2D(6, (3, 1), strides=(2, 1), padding=(1, 0), dilation=(2, 1), in_channels=4),
    nn.Conv2D(8, 3, groups=4, use_bias=False, in_channels=4), nn.Dense(5, in_units=4 * 49),
    nn.LayerNorm(in_channels=7), nn.BatchNorm(scale=False, in_channels=4), nn.LeakyReLU(0.1)])
def test_layers(inner):
    assert compared(lambda F, x: x, inner) < 1e-5


@pytest.mark.parametrize('function, said', [
    (lambda F, x: F.cos(x), r'\(cos\) has no counterpart in ONNX'),
    (lambda F, x: F.LeakyReLU(x, act_type='gelu'), r'\(LeakyReLU with act_type gelu\)'),
    (lambda F, x: F.Activation(F.split(x, num_outputs=2, axis=1)[1], act_type='relu'), r'\(SliceChannel\)'),
    (lambda F, x: F.Pooling(x, kernel=(2, 2), pool_type='sum'), r'\(Pooling with pool_type sum'),
    (lambda F, x: F.reshape(x, shape=(0, -3, 0)), r'\(Reshape with shape \(0, -3, 0\)\)'),
    (lambda F, x: F.mean(x, axis=1, exclude=True), r'\(mean with exclude True\)'),
    (lambda F, x: F.contrib.AdaptiveAvgPooling2D(x, output_size=3), r'AdaptiveAvgPooling2D with output_size')])
def test_unknown_operators_are_named(function, said):
    with pytest.raises(export.ModelError, match=said):
        compared(function)


def refusal(capfd, *argv):
    status = export.main([*map(str, argv)])
    out, err = capfd.readouterr()
    assert not out and err.count('\n') == 1 and err.startswith('models.export: ')
    return status, err


def test_what_cannot_be_exported_is_one_sentence(tmp_path, capfd, monkeypatch):
    (path,), _ = saved(tmp_path, 'margin')
    target = tmp_path / 'x.onnx'
    assert refusal(capfd, path, path, '-o', target) == (
        2, 'models.export: 2 files, but train_margin has 1 network\n')
    assert refusal(capfd, tmp_path / 'none.params', '-o', target)[1].endswith('(No such file or directory)\n')
    monkeypatch.setattr(onnx_graph, 'MAX_BYTES', 10 ** 5)
    assert '2 GiB' in refusal(capfd, path, '-o', target)[1]
    monkeypatch.undo()
    assert refusal(capfd, path, '-o', tmp_path / 'no' / 'folder')[0] == 1
    monkeypatch.setitem(sys.modules, 'onnx', None)
    assert 'pip install -r requirements-export.txt' in refusal(capfd, path, '-o', target)[1]
    monkeypatch.undo()
    description = path[:-len('.params')] + '.json'
    text = Path(description).read_text()
    for wrong, said in [(text.replace('train_classes', 'x'), 'how many classes'),
                        ('{"flags": 3}', 'not the description'),
                        (text.replace('"script": "train_margin"', '"script": "train_none"', 1), 'train_none')]:
        Path(description).write_text(wrong)
        assert said in refusal(capfd, path, '-o', target)[1]
    os.remove(description)
    assert 'X-member01.json is missing' in refusal(capfd, path, '-o', target)[1]
    assert not target.exists() and not glob.glob(str(tmp_path / '*tmp*'))


def test_a_network_that_diverged_is_refused(tmp_path, capfd):
    (path,), (experiment,) = saved(tmp_path, 'margin')
    experiment.net.head.bias.set_data(mx.nd.full(8, np.nan))
    save_parameters(experiment.net, path)
    assert re.search('X-member01.params: .*bias has values that are not finite', refusal(capfd, path)[1])


@pytest.mark.parametrize('kind', ['onnx', 'symbol'])
def test_what_differs_from_mxnet_is_not_written(tmp_path, capfd, monkeypatch, kind):
    (path,), _ = saved(tmp_path, 'margin')
    inputs = export._inputs

    def wrong(trained):
        images, expected, arrays = inputs(trained)
        return images, {name: x + 2e-4 for name, x in expected.items()}, arrays

    monkeypatch.setattr(export, '_inputs', wrong)
    status, said = refusal(capfd, path, '-o', tmp_path / 'x', '--format', kind)
    assert status == 1 and 'differ by 0.0002 from' in said and not list(tmp_path.glob('x*'))


def test_without_onnxruntime_nothing_is_compared(tmp_path, capfd, monkeypatch):
    (path,), _ = saved(tmp_path, 'margin')
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert export.main([path, '-o', str(tmp_path / 'x.onnx')]) == 0
    assert 'not compared with MXNet: the package onnxruntime is not installed' in capfd.readouterr().out
    monkeypatch.undo()
    assert session_of(tmp_path / 'x.onnx').run(None, {'images': pictures(32)})[0].shape == (5, 8)
