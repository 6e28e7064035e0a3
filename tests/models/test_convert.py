"""Weights of other frameworks: same pixels, same features; and a pickle that wants more than tensors is refused."""
from __future__ import annotations

import collections
import os
import pickle
import subprocess
import sys
import zipfile

import mxnet as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.files import hash_file
from models import EmbeddingNet, ModelError, get_backbone, paramfile, safe_pickle, weights
from tests.oracles import torch_files, torch_nets

SIZE = 64


def pixels(count=2, size=SIZE):
    return np.random.RandomState(1).randint(0, 256, (count, size, size, 3)).astype(np.uint8)


def features(backbone, x):
    """Of raw pixels, through the normalisation of an EmbeddingNet."""
    net = EmbeddingNet(backbone)
    net.initialize()
    return backbone(net.pixels(mx.nd.array(x, dtype='uint8'))).asnumpy()


def convert(source, model, target):
    assert weights.main(['convert', str(source), '--model', model, '-o', str(target)]) == 0
    return get_backbone(model, str(target))


def close(got, expected):
    assert np.abs(expected).mean() > 0.05, 'features of nothing prove nothing'
    assert np.abs(got - expected).max() <= 1e-4 * max(1, np.abs(expected).max())


@pytest.fixture(scope='module')
def resnet():
    return torch_nets.resnet50_state()


@pytest.fixture(scope='module')
def inception():
    return torch_nets.bn_inception_state()


# the oracles themselves


def test_oracle_against_mxnet():
    random = np.random.RandomState(0)
    x, w = random.normal(size=(2, 3, 11, 11)), random.normal(size=(4, 3, 3, 3))
    a = mx.nd.array(x)
    due = mx.nd.Convolution(a, mx.nd.array(w), no_bias=True, kernel=(3, 3), num_filter=4, stride=(2, 2), pad=(1, 1))
    np.testing.assert_allclose(torch_nets.convolution(x, w, None, 2, 1), due.asnumpy(), rtol=1e-4, atol=1e-4)
    for size in (10, 11, 12, 13):
        a = mx.nd.array(random.normal(size=(1, 2, size, size)))
        due = mx.nd.Pooling(a, kernel=(3, 3), stride=(2, 2), pool_type='max', pooling_convention='full')
        np.testing.assert_array_equal(torch_nets.max_pool(a.asnumpy(), 3, 2, ceil=True), due.asnumpy())
        due = mx.nd.Pooling(a, kernel=(3, 3), stride=(1, 1), pad=(1, 1), pool_type='avg')
        np.testing.assert_allclose(torch_nets.average_pool(a.asnumpy()), due.asnumpy(), atol=1e-6)


def test_oracles_against_torch(resnet, inception):
    torch = pytest.importorskip('torch')
    functional = torch.nn.functional

    def conv(x, w, bias=None, stride=1, pad=0):
        bias = None if bias is None else torch.from_numpy(bias).double()
        return functional.conv2d(torch.as_tensor(x).double(), torch.from_numpy(w).double(), bias, stride, pad).numpy()

    def pool(x, kernel, stride, pad=0, ceil=False):
        return functional.max_pool2d(torch.as_tensor(x), kernel, stride, pad, ceil_mode=ceil).numpy()

    def average(x):
        return functional.avg_pool2d(torch.as_tensor(x), 3, 1, 1, ceil_mode=True, count_include_pad=True).numpy()

    def norm(x, state, name, eps=1e-5):
        parts = [torch.from_numpy(state[f'{name}.{kind}']).double()
                 for kind in ('running_mean', 'running_var', 'weight', 'bias')]
        return functional.batch_norm(torch.as_tensor(x).double(), *parts, False, 0, eps).numpy()

    x = pixels().transpose(0, 3, 1, 2).astype(np.float64)
    due = torch_nets.resnet50(resnet, x / 255), torch_nets.bn_inception(inception, x)
    with pytest.MonkeyPatch.context() as patch:
        for name, function in (('convolution', conv), ('max_pool', pool), ('average_pool', average),
                               ('batch_norm', norm)):
            patch.setattr(torch_nets, name, function)
        got = torch_nets.resnet50(resnet, x / 255), torch_nets.bn_inception(inception, x)
    for one, other in zip(got, due):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


# conversions


@pytest.mark.parametrize('form', ['zip', 'legacy', 'safetensors', 'DataParallel'])
def test_torchvision_resnet50(form, resnet, tmp_path):
    source = tmp_path / ('resnet50.safetensors' if form == 'safetensors' else 'resnet50.pth')
    if form == 'safetensors':
        from safetensors.numpy import save_file

        save_file(resnet, str(source))
    elif form == 'DataParallel':
        torch_files.save(source, {'module.' + n: a for n, a in resnet.items()}, wrap=lambda found: {
            'epoch': 3, 'arch': 'resnet50', 'state_dict': found, 'best_acc1': 0.5})
    else:
        torch_files.save(source, resnet, legacy=form == 'legacy')
    backbone = convert(source, 'resnet50_v1b', tmp_path / 'out.params')
    x = pixels()
    normal = (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    close(features(backbone, x), torch_nets.resnet50(resnet, normal.transpose(0, 3, 1, 2)))
    assert backbone.weights['sha256'] == hash_file(str(tmp_path / 'out.params'))


@pytest.mark.parametrize('size', [64, 96])
def test_bn_inception(size, inception, tmp_path):
    torch_files.save(tmp_path / 'bn.pth', inception, legacy=True)
    backbone = convert(tmp_path / 'bn.pth', 'inception-bn', tmp_path / 'out.params')
    x = pixels(size=size)
    expected = torch_nets.bn_inception(inception, x.transpose(0, 3, 1, 2).astype(np.float64))
    close(features(backbone, x), expected)
    assert backbone.mean == (123.68, 116.779, 103.939), 'preprocessing stays the same'
    # hybridized, and through the file of a whole network into one that was built without the converted file
    net, other = EmbeddingNet(backbone), EmbeddingNet(get_backbone('inception-bn'))
    net.initialize()
    other.initialize()
    other.hybridize(static_alloc=True)
    data = mx.nd.array(x, dtype='uint8')
    other(data)  # the graph of MXNet's variant is cached
    weights.save_parameters(net, str(tmp_path / 'net.params'))
    weights.load_parameters(other, str(tmp_path / 'net.params'))
    np.testing.assert_allclose(other(data).asnumpy(), net(data).asnumpy(), rtol=1e-3, atol=1e-4)


def test_old_bn_inception_files_have_rows(inception, tmp_path):
    rows = {n: a.reshape(1, -1) if '_bn.' in n and a.size > 1 else a for n, a in inception.items()}
    torch_files.save(tmp_path / 'rows.pth', rows)
    torch_files.save(tmp_path / 'flat.pth', inception)
    for name in ('rows', 'flat'):
        convert(tmp_path / f'{name}.pth', 'inception-bn', tmp_path / f'{name}.params')
    assert (tmp_path / 'rows.params').read_bytes() == (tmp_path / 'flat.params').read_bytes()


def test_mxnet_resnet_symbol(tmp_path):
    symbol = torch_nets.resnet_symbol()
    shapes, _, auxiliary = symbol.infer_shape(data=(2, 3, SIZE, SIZE))
    random = np.random.RandomState(0)
    arrays = {}
    for prefix, names, sizes in (('arg:', symbol.list_arguments(), shapes),
                                 ('aux:', symbol.list_auxiliary_states(), auxiliary)):
        for name, shape in zip(names, sizes):
            if name.endswith('weight'):
                value = random.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
            else:
                low, high = (0.5, 1.5) if name.endswith(('gamma', 'var')) else (-0.2, 0.2)
                value = random.uniform(low, high, shape)
            arrays[prefix + name] = mx.nd.array(value)
    del arrays['arg:data']
    arrays['aux:bn_data_moving_mean'] = mx.nd.array([120, 115, 100])
    arrays['aux:bn_data_moving_var'] = mx.nd.array([4000, 3500, 3900])
    arrays['aux:bn0_moving_var'] = mx.nd.array(random.uniform(1e-5, 1e-4, 64))  # where epsilon matters
    arrays['arg:conv0_weight'] *= 0.01
    mx.nd.save(str(tmp_path / 'resnet-50-0000.params'),
               {**arrays, 'arg:fc1_weight': mx.nd.ones((10, 2048)), 'arg:fc1_bias': mx.nd.ones(10)})
    x = pixels()
    bound = symbol.bind(mx.cpu(), {'data': mx.nd.array(x.transpose(0, 3, 1, 2)),
                                   **{n[4:]: a for n, a in arrays.items() if n[:4] == 'arg:'}},
                        aux_states={n[4:]: a for n, a in arrays.items() if n[:4] == 'aux:'})
    expected = bound.forward(is_train=False)[0].asnumpy()
    backbone = convert(tmp_path / 'resnet-50-0000.params', 'resnet50_v2', tmp_path / 'out.params')
    close(features(backbone, x), expected)


@pytest.mark.parametrize('model', ['resnet18_v2', 'resnet18_v1', 'inception-bn'])
def test_checkpoints_of_the_same_network(model, tmp_path):
    mx.random.seed(0)
    source = get_backbone(model)
    source.hybridize()
    source.named.hybridize()
    source(mx.nd.zeros((1, 3, SIZE, SIZE)))
    source.export(str(tmp_path / 'net'))  # names with prefixes, arg: and aux:
    backbone = convert(tmp_path / 'net-0000.params', model, tmp_path / 'out.params')
    x = pixels()
    np.testing.assert_array_equal(features(backbone, x), features(source, x))


def test_plain_gluon_loads_a_converted_resnet(resnet, tmp_path):
    from gluoncv.model_zoo import get_model

    torch_files.save(tmp_path / 'r.pth', resnet)
    backbone = convert(tmp_path / 'r.pth', 'resnet50_v1b', tmp_path / 'out.params')
    plain = get_model('resnet50_v1b')
    plain.load_parameters(str(tmp_path / 'out.params'), allow_missing=True)  # all but the classifier
    np.testing.assert_array_equal(plain.layer4[2].conv3.weight.data().asnumpy(),
                                  backbone.net.layer4[2].conv3.weight.data().asnumpy())


# the command line


def fails(capsys, source, model, target, *words, status=1):
    assert weights.main(['convert', str(source), '--model', model, '-o', str(target)]) == status
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == 1 and err.endswith('\n')
    for word in words:
        assert word in err, err
    assert not os.path.exists(target)


def test_errors_are_one_line(resnet, inception, tmp_path, capsys):
    out = tmp_path / 'out.params'
    torch_files.save(tmp_path / 'r.pth', resnet)
    torch_files.save(tmp_path / 'i.pth', inception)
    fails(capsys, tmp_path / 'r.pth', 'resnet50_v1', out, 'r.pth', '--model resnet50_v1b')
    fails(capsys, tmp_path / 'r.pth', 'resnet50_v2', out, 'r.pth', '--model resnet50_v1b')
    fails(capsys, tmp_path / 'r.pth', 'resnet18_v1b', out, 'r.pth', 'resnet18_v1b')
    fails(capsys, tmp_path / 'i.pth', 'resnet50_v2', out, 'i.pth', '--model inception-bn')
    fails(capsys, tmp_path / 'none.pth', 'inception-bn', out, 'none.pth')
    fails(capsys, tmp_path / 'r.pth', 'nonsense', out, 'no such network', status=2)
    fails(capsys, tmp_path / 'r.pth', 'resnet50_v1b', tmp_path / 'no' / 'out.params', 'No such file')
    short = dict(inception)
    del short['inception_4c_3x3.weight']
    torch_files.save(tmp_path / 's.pth', short)
    fails(capsys, tmp_path / 's.pth', 'inception-bn', out, 's.pth', 'inception_4c_3x3.weight')
    broken = dict(resnet)
    broken['layer1.0.conv1.weight'] = np.full_like(broken['layer1.0.conv1.weight'], np.nan)
    torch_files.save(tmp_path / 'n.pth', broken)
    fails(capsys, tmp_path / 'n.pth', 'resnet50_v1b', out, 'n.pth', 'layer1.0.conv1.weight', 'not finite')
    (tmp_path / 'half.pth').write_bytes((tmp_path / 'r.pth').read_bytes()[:10000])
    fails(capsys, tmp_path / 'half.pth', 'resnet50_v1b', out, 'half.pth', 'expected')
    paramfile.write(str(tmp_path / 'x.params'), {'a': np.ones(3, np.float32)})
    fails(capsys, tmp_path / 'x.params', 'convnet', out, 'x.params', 'expected weights of convnet')


def test_run_as_a_script(tmp_path):
    (tmp_path / 'bad.params').write_bytes(b'bad')
    done = subprocess.run([sys.executable, '-m', 'models.weights', 'convert', str(tmp_path / 'bad.params'), '--model',
                           'convnet', '-o', str(tmp_path / 'o.params')], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and 'Traceback' not in done.stderr and 'bad.params: expected' in done.stderr


@pytest.mark.parametrize('arguments', [[], ['convert'], ['convert', 'x.pth'], ['convert', 'x.pth', '--model', 'x']])
def test_usage(arguments):
    with pytest.raises(SystemExit) as stop:
        weights.main(arguments)
    assert stop.value.code == 2


# .pth without PyTorch

ARRAYS = {'f4': np.arange(6, dtype='<f4').reshape(2, 3), 'f8': np.ones(3), 'f2': np.ones((2, 1), '<f2'),
          'i8': np.array([1, -2]), 'u1': np.array([7], np.uint8), 'b': np.array([True, False]),
          'empty': np.zeros((0, 3), '<f4')}


@pytest.mark.parametrize('legacy', [False, True])
def test_all_types(legacy, tmp_path):
    torch_files.save(tmp_path / 'x.pth', ARRAYS, legacy)
    got = safe_pickle.read_torch(str(tmp_path / 'x.pth'))
    assert got.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(got[name], array)
        assert got[name].dtype == array.dtype


@pytest.mark.parametrize('legacy', [False, True])
def test_views_of_storages(legacy, tmp_path):
    storage = np.arange(12, dtype='<f4')
    views = {'t': torch_files.view(storage, 0, (3, 4), (1, 3)), 'part': torch_files.view(storage, 5, (2,), (2,))}
    torch_files.save(tmp_path / 'x.pth', views, legacy, extra_storages={'view': storage})
    got = safe_pickle.read_torch(str(tmp_path / 'x.pth'))
    np.testing.assert_array_equal(got['t'], storage.reshape(4, 3).T)
    np.testing.assert_array_equal(got['part'], [5, 7])


@pytest.mark.parametrize('shape, strides, offset', [((13,), (1,), 0), ((2,), (12,), 0), ((1 << 40,), (0,), 0),
                                                    ((2,), (-1,), 3), ((1,), (1,), 12), ((2, 2), (1,), 0)])
def test_views_outside_their_storage_are_refused(shape, strides, offset, tmp_path):
    storage = np.arange(12, dtype='<f4')
    torch_files.save(tmp_path / 'x.pth', {'x': torch_files.view(storage, offset, shape, strides)},
                     extra_storages={'view': storage})
    with pytest.raises(ModelError, match=r'x\.pth: expected PyTorch weights'):
        safe_pickle.read_torch(str(tmp_path / 'x.pth'))


@pytest.mark.parametrize('legacy', [False, True])
def test_real_torch_files(legacy, tmp_path):
    torch = pytest.importorskip('torch')
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    state = collections.OrderedDict(net.state_dict(), extra=torch.arange(4.).reshape(2, 2).t(),
                                    half=torch.ones(3, dtype=torch.bfloat16) * 1.5,
                                    parameter=torch.nn.Parameter(torch.ones(2)))
    torch.save(state, tmp_path / 'x.pth', _use_new_zipfile_serialization=not legacy)
    got = safe_pickle.read_torch(str(tmp_path / 'x.pth'))
    assert got.keys() == state.keys()
    for name, tensor in state.items():
        np.testing.assert_array_equal(got[name], tensor.detach().float().numpy())


class Evil:
    """Leaves a file behind where it is unpickled by somebody careless."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


@pytest.mark.parametrize('legacy', [False, True])
def test_code_in_a_pickle_is_not_run(legacy, tmp_path):
    mark = tmp_path / 'mark'
    evils = [Evil(os.system, f'touch {mark}'), Evil(eval, f'open({str(mark)!r}, "w")'), Evil(os.mkdir, str(mark)),
             Evil(getattr, 'x', 'upper'), Evil(np.load, str(mark)), Evil(__import__, 'this')]
    for evil in evils:
        torch_files.save(tmp_path / 'x.pth', {'x': np.ones(2)}, legacy, wrap=lambda found, evil=evil: {
            'state_dict': found, 'evil': evil})
        with pytest.raises(ModelError, match='nothing but tensors') as caught:
            safe_pickle.read_torch(str(tmp_path / 'x.pth'))
        assert 'x.pth' in str(caught.value) and '\n' not in str(caught.value)
        assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(os.mkdir, str(mark))))
    assert mark.exists(), 'the bait works'


def test_raw_pickles_and_other_archives_are_refused(tmp_path):
    path = tmp_path / 'x.pth'
    path.write_bytes(pickle.dumps(Evil(os.mkdir, str(tmp_path / 'mark'))))
    with pytest.raises(ModelError, match='nothing but tensors'):
        safe_pickle.read_torch(str(path))
    assert not (tmp_path / 'mark').exists()
    for content in (pickle.dumps({'a': 1}), b'', b'\x80\x02', b'\x80\x02.', os.urandom(100)):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=r'x\.pth: expected'):
            safe_pickle.read_torch(str(path))
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('readme', 'hello')
    with pytest.raises(ModelError, match='data.pkl'):
        safe_pickle.read_torch(str(path))
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('archive/data.pkl', b'\0' * 1000000)
    with pytest.raises(ModelError, match='compressed'):
        safe_pickle.read_torch(str(path))
    torch_files.save(path, {}, wrap=lambda found: {'a': 1})
    with pytest.raises(ModelError, match='no dictionary of tensors'):
        safe_pickle.read_torch(str(path))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), legacy=st.booleans())
def test_damaged_files_raise_one_error(data, legacy, tmp_path):
    path = tmp_path / 'x.pth'
    torch_files.save(path, ARRAYS, legacy)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content[:data.draw(st.integers(0, len(content)))]))
    try:
        safe_pickle.read_torch(str(path))
    except ModelError as error:
        assert str(path) in str(error)
