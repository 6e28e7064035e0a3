"""Weights files: whole or refused by name, on disk and over a network."""
from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import os
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile

import mxnet as mx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mxnet import gluon
from mxnet.gluon import nn

from common.errors import UsageError
from common.files import hash_file
from models import EmbeddingNet, ModelError, get_backbone, paramfile, store, weights
from models.heads import BottleneckHead
from models.backbones import zoo


def small(seed=0, units=5):
    """A network of a few hundred numbers, initialised."""
    mx.random.seed(seed)
    net = nn.HybridSequential()
    with net.name_scope():
        net.add(nn.Dense(units, in_units=3), nn.BatchNorm(in_channels=units), nn.Dense(2, in_units=units))
    net.initialize(mx.init.Normal(1))
    return net


def values(net):
    return {name: p.data().asnumpy() for name, p in net._collect_params_with_prefix().items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def refused(path, *words, net=None):
    """One line that names the file, and the network as it was."""
    net = net or small(1)
    before = values(net)
    with pytest.raises(ModelError) as caught:
        weights.load_parameters(net, str(path))
    message = str(caught.value)
    assert str(path) in message and '\n' not in message and 'expected' in message
    for word in words:
        assert word in message, message
    assert_same(values(net), before)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / 'net.params'
    weights.save_parameters(small(), str(path))
    return path


def test_round_trip(saved):
    net = small(1)
    weights.load_parameters(net, str(saved))
    assert_same(values(net), values(small()))
    assert os.listdir(saved.parent) == ['net.params']


def test_plain_gluon_reads_what_we_write(saved):
    net = small(1)
    net.load_parameters(str(saved))
    assert_same(values(net), values(small()))


@pytest.mark.parametrize('name', ['convnet', 'resnet18_v1b'])
def test_embedding_net_round_trip(name, tmp_path):
    path = str(tmp_path / 'net.params')
    net, other = EmbeddingNet(get_backbone(name)), EmbeddingNet(get_backbone(name))
    net.initialize()
    other.initialize(ctx=[mx.cpu(0), mx.cpu(1)])
    other.hybridize(static_alloc=True)
    x = mx.nd.random.uniform(0, 255, (2, 64, 64, 3))
    other(x)
    weights.save_parameters(net, path)
    weights.load_parameters(other, path)
    for ctx in (mx.cpu(0), mx.cpu(1)):
        np.testing.assert_allclose(other(x.as_in_context(ctx)).asnumpy(), net(x).asnumpy(), rtol=1e-4, atol=1e-5)
    backbone = get_backbone(name, path)  # the whole network's file will do for its backbone
    assert_same(values(backbone), values(net.backbone))
    assert backbone.weights == {'file': path, 'sha256': hash_file(path), 'source': 'file', 'taken': 'backbone'}


def test_loss_parameters_and_uninitialised_networks(tmp_path):
    class Proxies(gluon.HybridBlock):
        def __init__(self):
            super().__init__()
            self.proxies = self.params.get('proxies', shape=(4, 3))

    one, other = Proxies(), Proxies()
    one.initialize()
    weights.save_parameters(one, str(tmp_path / 'p.params'))
    weights.load_parameters(other, str(tmp_path / 'p.params'), ctx=mx.cpu(1))
    assert_same(values(one), {'proxies': other.proxies.data(mx.cpu(1)).asnumpy()})


@pytest.mark.parametrize('write', [lambda net, path: net.save_parameters(path),
                                   lambda net, path: net.collect_params().save(path, net.prefix),
                                   lambda net, path: net.collect_params().save(path)])
def test_files_of_gluon_without_checksum(write, tmp_path):
    path = str(tmp_path / 'gluon.params')
    write(small(), path)
    net = small(1)
    weights.load_parameters(net, path)
    assert_same(values(net), values(small()))


def test_exported_symbol(tmp_path):
    net = small()
    net.hybridize()
    net(mx.nd.ones((1, 3)))
    net.export(str(tmp_path / 'net'))
    other = small(1)
    weights.load_parameters(other, str(tmp_path / 'net-0000.params'))
    assert_same(values(other), values(net))


@pytest.mark.parametrize('name', ['convnet', 'inception-bn', 'resnet18_v2', 'mobilenetv2_0.25'])
def test_exported_embedding_net(name, tmp_path):
    """Its backbone was made before it, so that its parameters have another prefix, with a number of its own."""
    mx.random.seed(0)
    x = mx.nd.random.uniform(0, 255, (2, 64, 64, 3))
    net, other = EmbeddingNet(get_backbone(name)), EmbeddingNet(get_backbone(name))
    net.initialize()
    other.initialize()
    net.hybridize()
    net(x)
    net.export(str(tmp_path / 'net'))
    weights.load_parameters(other, str(tmp_path / 'net-0000.params'))
    assert_same(values(other), values(net))
    smaller = EmbeddingNet(get_backbone(name), embed_dim=3)
    smaller.initialize()
    refused(tmp_path / 'net-0000.params', 'dense0_weight has the shape (64, ', net=smaller)


@pytest.mark.parametrize('dtype', ['float32', 'float64', 'float16', 'uint8', 'int32', 'int8', 'int64'])
def test_reads_and_writes_what_mxnet_does(dtype, tmp_path):
    arrays = {'a': np.arange(6).reshape(2, 3).astype(dtype), 'é': np.ones((1, 2, 1, 2), dtype)}
    mx.nd.save(str(tmp_path / 'theirs'), {name: mx.nd.array(array, dtype=dtype) for name, array in arrays.items()})
    paramfile.write(str(tmp_path / 'ours'), arrays)
    theirs = {name: array.asnumpy() for name, array in mx.nd.load(str(tmp_path / 'ours')).items()}
    for got in (paramfile.read(str(tmp_path / 'theirs')), paramfile.read(str(tmp_path / 'ours')), theirs):
        assert_same(dict(sorted(got.items())), arrays)
        assert all(array.dtype == dtype for array in got.values())


@pytest.mark.parametrize('version', [0, 1])
def test_formats_before_mxnet_1(version, tmp_path):
    array = np.arange(6, dtype='<f4').reshape(2, 3)
    shape = struct.pack('<III', 2, 2, 3) if version == 0 else struct.pack('<Iiqq', 0xF993FAC8, 2, 2, 3)
    data = struct.pack('<QQQ', 0x112, 0, 1) + shape + struct.pack('<iii', 1, 0, 0) + array.tobytes() \
        + struct.pack('<QQ', 1, 1) + b'x'
    (tmp_path / 'old.params').write_bytes(data)
    np.testing.assert_array_equal(mx.nd.load(str(tmp_path / 'old.params'))['x'].asnumpy(), array)
    np.testing.assert_array_equal(paramfile.read(str(tmp_path / 'old.params'))['x'], array)


def test_safetensors(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / 'net.safetensors'
    save_file(values(small()), str(path))
    net = small(1)
    weights.load_parameters(net, str(path))
    assert_same(values(net), values(small()))
    whole = path.read_bytes()
    path.write_bytes(whole[:len(whole) // 2])
    refused(path, 'safetensors')


# faults


def test_truncated_anywhere(saved):
    whole = saved.read_bytes()
    for length in range(len(whole)):
        saved.write_bytes(whole[:length])
        with pytest.raises(ModelError, match='expected weights'):
            paramfile.read(str(saved))
    saved.write_bytes(whole[:-10])
    refused(saved, 'cut off')
    saved.write_bytes(b'')
    refused(saved, 'empty')


def test_every_flipped_bit_is_seen(saved):
    whole = saved.read_bytes()
    for position in range(8 * len(whole)):
        flipped = bytearray(whole)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises(ModelError):
            paramfile._parse(bytes(flipped))
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    saved.write_bytes(bytes(flipped))
    refused(saved, 'checksum')


def test_truncated_files_without_checksum(tmp_path):
    path = tmp_path / 'gluon.params'
    small().save_parameters(str(path))
    whole = path.read_bytes()
    for length in range(len(whole)):
        with pytest.raises(ModelError):
            paramfile._parse(whole[:length])
    with pytest.raises(ModelError, match='left over'):
        paramfile._parse(whole + b'x')


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_is_anything_but_a_model_error(saved, data):
    whole = bytearray(saved.read_bytes())
    struct.pack_into('<Q', whole, 8, 0)  # no checksum: everything behind has to stand on its own
    whole = whole[:-71]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        patch = data.draw(st.one_of(st.binary(min_size=1, max_size=9), st.sampled_from(
            [b'\xff' * 8, b'\x00' * 8, b'\xff\xff\xff\x7f', struct.pack('<q', 1 << 40)])))
        whole[at:at + len(patch)] = patch
    try:
        arrays = paramfile._parse(bytes(whole))
    except ModelError:
        return
    assert all(isinstance(array, np.ndarray) for array in arrays.values())


def test_other_kinds_of_files(tmp_path):
    path = tmp_path / 'x.params'
    refused(path, 'No such file')
    refused(tmp_path, 'directory')
    for content in (b'hello', b'\x89PNG' + b'\0' * 100, b'\0' * 1000, os.urandom(1000)):
        path.write_bytes(content)
        refused(path, 'expected weights')


def test_wrong_architecture(saved, tmp_path):
    refused(saved, 'has the shape (5, 3)', '(6, 3)', net=small(units=6))
    deeper = small()
    deeper.add(nn.Dense(2, in_units=2))
    deeper[-1].initialize()
    refused(saved, '3.weight', net=deeper)
    shallow = nn.HybridSequential()
    shallow.add(nn.Dense(5, in_units=3))
    shallow.initialize()
    refused(saved, '1.gamma', net=shallow)
    with pytest.raises(ModelError, match='expected weights of resnet18_v2') as caught:
        get_backbone('resnet18_v2', str(saved))
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize('value', [np.nan, np.inf])
def test_weights_that_are_not_finite(value, tmp_path):
    path, net = str(tmp_path / 'net.params'), EmbeddingNet(get_backbone('convnet'))
    net.initialize()
    for place in ('backbone', 'head'):
        arrays = values(net)
        name = [name for name in arrays if name.startswith(place)][-1]
        arrays[name] = np.full_like(arrays[name], value)
        paramfile.write(path, arrays)
        refused(path, f'{name} has values that are not finite', net=net)
        name = name.replace('backbone.', '')
        with pytest.raises(ModelError, match=f'{path}: expected .* but {name} has values that are not finite'):
            EmbeddingNet(get_backbone('convnet', path))
    arrays = values(small())
    arrays['1.running_var'][2] = value
    paramfile.write(path, arrays)
    refused(path, '1.running_var has values that are not finite')


def test_the_interpreter_survives(saved, tmp_path):
    """Each fault in a process of its own: a line on stdout, and the exit status is Python's."""
    whole = saved.read_bytes()
    flipped = bytearray(whole)
    flipped[40] ^= 64  # a length of a shape
    faults = {'cut': whole[:100], 'flipped': bytes(flipped), 'empty': b'', 'noise': os.urandom(4096),
              'unchecked': struct.pack('<QQQ', 0x112, 0, 1 << 60), 'other': whole}
    for name, content in faults.items():
        (tmp_path / name).write_bytes(content)
    code = ('import common, sys\nfrom models import ModelError, get_backbone\n'
            'for path in sys.argv[1:]:\n'
            '    try:\n        get_backbone("convnet", path)\n'
            '    except ModelError as error:\n        print(error)\n')
    paths = [str(tmp_path / name) for name in faults]
    done = subprocess.run([sys.executable, '-c', code, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ''
    lines = done.stdout.splitlines()
    assert len(lines) == len(faults)
    assert all(line.startswith(path + ': expected weights') for path, line in zip(paths, lines))
    assert 'of convnet, but it has no ' in lines[-1]


def test_disk_full_keeps_the_old_file(saved, monkeypatch):
    before = saved.read_bytes()

    def full(descriptor):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space left'):
        weights.save_parameters(small(1), str(saved))
    assert saved.read_bytes() == before and os.listdir(saved.parent) == ['net.params']


# --pretrained auto

NAME = 'mobilenet0.25'


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('MXNET_HOME', str(tmp_path / 'mxnet'))
    folder = tmp_path / 'mxnet' / 'models'
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    """A file of a small network with its classifier, as the zoo publishes them."""
    path = tmp_path_factory.mktemp('published') / 'x.params'
    mx.random.seed(5)
    whole = zoo._models()[NAME]()
    whole.initialize(mx.init.Xavier())
    whole(mx.nd.zeros((1, 3, 64, 64)))
    whole.save_parameters(str(path))
    return path.read_bytes()


@pytest.fixture
def zoo_hash(published, monkeypatch):
    digest = hashlib.sha1(published).hexdigest()
    from gluoncv.model_zoo import model_store

    monkeypatch.setitem(model_store._model_sha1, NAME, digest)
    return digest


class Server:
    """Answers every request with what it is told to."""

    def __init__(self):
        self.status, self.body, self.cut, self.requests = 200, b'', None, []
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                owner.requests.append(self.path)
                self.send_response(owner.status)
                self.send_header('Content-Length', str(len(owner.body)))
                self.end_headers()
                with contextlib.suppress(ConnectionError):  # nobody reads the page of an error to its end
                    self.wfile.write(owner.body[:owner.cut])

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.url = f'http://127.0.0.1:{self.server.server_port}'
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def server(monkeypatch):
    server = Server()
    monkeypatch.setenv('MXNET_GLUON_REPO', server.url)
    monkeypatch.setattr(store, '_INCEPTION_URL', server.url + '/inception-bn.tar.gz')
    yield server
    server.server.shutdown()
    server.server.server_close()


def zipped(name, content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:
        archive.writestr(name, content)
    return file.getvalue()


def test_auto_takes_what_is_there(home, zoo_hash, published, monkeypatch):
    monkeypatch.setenv('MXNET_GLUON_REPO', 'http://127.0.0.1:1')
    path = home / f'{NAME}-{zoo_hash[:8]}.params'
    path.write_bytes(published)
    backbone = get_backbone(NAME, 'auto')
    assert backbone.weights == {'file': str(path), 'sha256': hashlib.sha256(published).hexdigest(),
                                'source': 'published', 'taken': 'backbone'}
    due = paramfile._parse(published)
    np.testing.assert_array_equal(values(backbone)['net.features.0.weight'], due['features.0.weight'])


def test_auto_downloads(home, zoo_hash, published, server, capfd):
    name = f'{NAME}-{zoo_hash[:8]}'
    server.body = zipped(name + '.params', published)
    backbone = get_backbone(NAME, 'auto')
    assert server.requests == [f'/gluon/models/{name}.zip']
    assert os.listdir(home) == [name + '.params'] and (home / (name + '.params')).read_bytes() == published
    assert backbone.weights['file'] == str(home / (name + '.params'))
    assert '100%' in capfd.readouterr().err  # the bar
    get_backbone(NAME, 'auto')
    assert len(server.requests) == 1


def failing(home, name, *words):
    with pytest.raises((ModelError, UsageError)) as caught:
        get_backbone(name, 'auto')
    message = str(caught.value)
    assert '\n' not in message and str(home) in message
    for word in words:
        assert word in message, message


def test_auto_fails_in_one_line_that_says_what_to_do(home, zoo_hash, published, server, monkeypatch):
    name = f'{NAME}-{zoo_hash[:8]}'
    good = zipped(name + '.params', published)
    server.body, server.cut = good, len(good) // 2
    failing(home, NAME, 'the connection ended after', name + '.params')
    server.cut, server.status, server.body = None, 404, b'no such file'
    failing(home, NAME, name + '.params', '--pretrained none')
    server.status, server.body = 200, zipped(name + '.params', published[:-1] + b'x')
    failing(home, NAME, zoo_hash, name + '.params')
    server.body = zipped('other.params', published)
    failing(home, NAME, name + '.params')
    server.body = b'<html>not here</html>'
    failing(home, NAME, name + '.params')
    monkeypatch.setenv('MXNET_GLUON_REPO', 'http://127.0.0.1:1')
    failing(home, NAME, 'http://127.0.0.1:1/gluon', name + '.params', '--pretrained none')
    assert os.listdir(home) == []


def test_auto_refuses_a_file_with_another_hash(home, zoo_hash, published, server):
    (home / f'{NAME}-{zoo_hash[:8]}.params').write_bytes(published[:-1] + b'x')
    failing(home, NAME, zoo_hash, 'remove it')
    assert server.requests == []


def tarball(content):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode='w:gz', compresslevel=1) as archive:
        for name in ('Inception-BN-symbol.json', 'Inception-BN-0126.params'):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def test_auto_for_inception_bn(home, server, tmp_path, monkeypatch):
    own = get_backbone('inception-bn')
    for number, parameter in enumerate(own.collect_params().values()):
        parameter.set_data(mx.nd.full(parameter.shape, number))  # what gzip makes short work of
    mx.nd.save(str(tmp_path / 'x'), {
        ('aux:' if 'running' in name else 'arg:') + name[len(own.prefix):].replace('running', 'moving'): p.data()
        for name, p in own.collect_params().items()})
    content = (tmp_path / 'x').read_bytes()
    server.body = tarball(content)
    failing(home, 'inception-bn', '9f0d62e4adfde8bf3fef65ba20b3497e7845786b803fa8fed717602b9878ea03',
            'Inception-BN-0126.params')
    assert os.listdir(home) == []
    monkeypatch.setattr(store, '_INCEPTION_SHA256', hashlib.sha256(server.body).hexdigest())
    assert_same(values(get_backbone('inception-bn', 'auto')), values(own))
    assert os.listdir(home) == ['Inception-BN-0126.params']
    (home / 'Inception-BN-0126.params').unlink()
    (home / 'inception-bn.tar.gz').write_bytes(server.body)  # the tarball that a user already has
    server.status, server.body = 404, b''
    assert_same(values(get_backbone('inception-bn', 'auto')), values(own))
    assert len(server.requests) == 2
    (home / 'Inception-BN-0126.params').unlink()
    (home / 'inception-bn.tar.gz').unlink()
    failing(home, 'inception-bn', 'inception-bn.tar.gz', 'models.weights convert', '--pretrained none')


def test_auto_is_none_for_convnet_and_refused_where_nothing_was_published(home, server):
    assert get_backbone('convnet', 'auto').weights is None
    with pytest.raises(UsageError, match='no weights of shufflenet_v1 were published'):
        get_backbone('shufflenet_v1', 'auto')
    assert server.requests == []


def test_default_folder(monkeypatch):
    monkeypatch.delenv('MXNET_HOME', raising=False)
    assert store.folder() == os.path.expanduser('~/.mxnet/models')


@pytest.mark.parametrize('name, file', [
    ('resnet50_v2', 'resnet50_v2-ecdde353.params'), ('resnet50_v1', 'resnet50_v1-0aee57f9.params'),
    ('resnet50_v1b', 'resnet50_v1b-0ecdba34.params'), ('mobilenetv2_1.0', 'mobilenetv2_1.0-f9952bcd.params'),
    ('hrnet_w18_c', 'hrnet_w18_cls-9c946e56.params'), ('resnet50_v1d_0.11', 'resnet50_v1d_8.8x-6a25eece.params')])
def test_names_of_published_files(name, file):
    assert store._published(name).file == file


def test_of_a_pretrained_head_what_fits_is_taken(tmp_path):
    """A layer takes no array that only fits because its own size is not known yet."""
    path = str(tmp_path / 'net.params')

    def make(layers, pretrained='none'):
        net = EmbeddingNet(get_backbone('convnet', pretrained), head=BottleneckHead(layers, 8))
        net.initialize()
        net(mx.nd.zeros((1, 32, 32, 3)))
        return net

    net = make((16, 4))
    weights.save_parameters(net, path)
    same = make((16, 4), path)
    assert same.backbone.weights['taken'] == 'backbone and head'
    assert_same(values(same), values(net))
    other = make((16, 5), path)
    assert other.backbone.weights['taken'] == 'backbone and 3 of the 6 arrays of the head'
    taken = {name for name, array in values(other.head).items() if np.array_equal(array, values(net.head).get(name))}
    assert taken >= {'layers.0.weight', 'layers.0.bias'} and 'layers.2.weight' not in taken
    assert make((5,), path).backbone.weights['taken'] == 'backbone'
