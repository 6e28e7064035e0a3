"""Downloads from a server that fails in every way, archives that mean harm, and calls that are interrupted."""
from __future__ import annotations

import hashlib
import http.server
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from common.errors import UsageError
from dataset import DatasetError, cars196, cub, download, get_dataset, inshop, sop, unpack
from dataset.imageset import Counts

ROOT = Path(__file__).resolve().parents[2]
DATA = np.random.RandomState(0).bytes(300000)


def md5(data):
    return hashlib.md5(data).hexdigest()


class Server:
    """Serves `self.data` at any path. `self.script` holds, for each request to come, how it is to fail."""

    def __init__(self, data):
        self.data, self.script, self.requests, self.headers = data, [], [], []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = 'HTTP/1.1'

            def do_GET(self):
                outer.requests.append(self.headers.get('Range'))
                outer.headers.append(dict(self.headers))
                outer.answer(self, outer.script.pop(0) if outer.script else 'well')

            def end_headers(self):
                self.send_header('Connection', 'close')
                super().end_headers()

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        self.server.daemon_threads = True
        self.url = 'http://127.0.0.1:%d/file' % self.server.server_port
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, request, how):
        data, start, status = self.data, 0, 200
        asked = request.headers.get('Range')
        if isinstance(how, int):
            request.send_response(how)
            request.send_header('Retry-After', '0')
            request.send_header('Content-Length', '0')
            request.end_headers()
            return
        if how.startswith('redirect'):
            request.send_response(302)
            request.send_header('Location', how.partition(' ')[2] or self.url + '/elsewhere')
            request.send_header('Content-Length', '0')
            request.end_headers()
            return
        if how == 'hangs':
            time.sleep(1.5)
            return
        if asked and how != 'ignores range' and not how.startswith('no range'):
            start, status = int(asked[len('bytes='):-1]), 206
            if start >= len(data):
                request.send_response(416)
                request.send_header('Content-Range', 'bytes */%d' % len(data))
                request.send_header('Content-Length', '0')
                request.end_headers()
                return
        if how == 'corrupt':
            data = data[:1000] + bytes([data[1000] ^ 1]) + data[1001:] if start <= 1000 else data[:-1] + b'?'
        body = data[start:]
        length = len(body)
        if how == 'says longer':
            length += 1000
        if how == 'says shorter':
            length -= 1000
        request.send_response(status)
        if status == 206:
            shown = start + 5 if how == 'wrong range' else start
            request.send_header('Content-Range', 'bytes %d-%d/%d' % (shown, len(data) - 1, len(data)))
        if 'no length' not in how:
            request.send_header('Content-Length', str(length))
        request.end_headers()
        if 'cut' in how:
            body = body[:len(body) // 2]
        request.wfile.write(body)

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server():
    server = Server(DATA)
    yield server
    server.close()


@pytest.fixture
def mirror():
    server = Server(DATA)
    yield server
    server.close()


def fetch(folder, *servers, data=DATA, lines=None, **options):
    remote = download.Source('file.tgz', md5(data), len(data), [getattr(s, 'url', s) for s in servers])
    say = (lines if lines is not None else []).append
    return download.fetch(remote, str(folder), say=say, **{'tries': 3, 'wait': 0.01, 'timeout': (5, 0.5), **options})


@pytest.mark.parametrize('script', [
    ['well'],
    ['cut'],
    ['cut', 'cut', 'cut', 'cut', 'cut'],        # each brings something: never given up
    ['no range cut', 'ignores range'],
    ['cut', 'ignores range'],
    ['cut', 'no range no length'],
    ['says longer'],
    ['cut', 'says longer'],
    [503],
    [503, 429, 'well'],
    ['cut', 503, 'well'],
    ['redirect'],
    ['cut', 'redirect'],
    ['hangs'],
    ['no length'],
    ['cut', 'corrupt', 'well'],                 # the second half was wrong: again from the start
], ids=str)
def test_one_server_that_recovers(server, tmp_path, script):
    server.script = list(script)
    path = fetch(tmp_path, server)
    assert Path(path).read_bytes() == DATA and os.listdir(tmp_path) == ['file.tgz']
    assert server.script == []


def test_goes_on_where_it_ended(server, tmp_path):
    server.script = ['cut', 'cut']
    fetch(tmp_path, server)
    assert server.requests == [None, 'bytes=150000-', 'bytes=225000-']
    assert server.headers[0]['Accept-Encoding'] == 'identity'


def test_begins_anew_where_ranges_are_ignored(server, tmp_path):
    server.script = ['cut', 'ignores range']
    fetch(tmp_path, server)
    assert server.requests == [None, 'bytes=150000-']


def test_part_of_an_earlier_call_is_used(server, tmp_path):
    (tmp_path / 'file.tgz.part').write_bytes(DATA[:150000])
    fetch(tmp_path, server)
    assert server.requests == ['bytes=150000-']


def test_complete_part_needs_no_more_bytes(server, tmp_path):
    (tmp_path / 'file.tgz.part').write_bytes(DATA)
    fetch(tmp_path, server)
    assert server.requests == ['bytes=300000-']


@pytest.mark.parametrize('rubbish', [b'x' * 1000, b'x' * 400000])
def test_rubbish_of_an_earlier_call_is_thrown_away(server, tmp_path, rubbish):
    (tmp_path / 'file.tgz.part').write_bytes(rubbish)
    assert Path(fetch(tmp_path, server)).read_bytes() == DATA
    assert server.requests[-1] is None


@pytest.mark.parametrize('script, told', [
    ([404], 'HTTP status 404'),
    ([403], 'HTTP status 403'),
    ([503] * 3, 'HTTP status 503'),
    (['corrupt'], 'checksum'),
    (['says shorter'], 'checksum'),
    (['cut', 'wrong range'], 'another range'),
    (['hangs'] * 3, 'timed out'),
    (['redirect file:///etc/passwd'], 'No connection adapters'),
    (['redirect'] * 31, 'redirects'),
])
def test_the_next_mirror_is_asked(server, mirror, tmp_path, script, told):
    server.script, lines = list(script), []
    path = fetch(tmp_path, server, mirror, lines=lines)
    assert Path(path).read_bytes() == DATA and server.script == [] and len(mirror.requests) == 1
    assert any(told in line and server.url in line for line in lines), lines


def test_a_second_mirror_goes_on_with_the_bytes_of_the_first(server, mirror, tmp_path):
    server.script = ['cut', 404]
    fetch(tmp_path, server, mirror)
    assert mirror.requests == ['bytes=150000-']


@pytest.mark.parametrize('script', [[404], ['corrupt'], ['no range cut'] * 9, [500] * 9, ['says shorter']])
def test_nothing_that_looks_finished_is_left(server, tmp_path, script):
    server.script = list(script)
    with pytest.raises(DatasetError, match='file.tgz could not be downloaded') as error:
        fetch(tmp_path, server)
    assert server.url in str(error.value) and '\n' not in str(error.value)
    assert set(os.listdir(tmp_path)) <= {'file.tgz.part'}
    server.script = []
    assert Path(fetch(tmp_path, server)).read_bytes() == DATA       # and the next call is a good one


def test_server_that_is_wrong_again_and_again_is_given_up(server, tmp_path):
    server.script = ['cut', 'corrupt'] * 10
    with pytest.raises(DatasetError, match='checksum'):
        fetch(tmp_path, server)
    assert len(server.requests) == 4


def test_server_that_is_not_there(server, tmp_path):
    port = server.server.server_port
    server.close()
    with pytest.raises(DatasetError, match='refused'):
        fetch(tmp_path, 'http://127.0.0.1:%d/x' % port)
    with pytest.raises(DatasetError):
        fetch(tmp_path, 'no-scheme')


@pytest.mark.parametrize('script', [['well'], ['no length']])
def test_endless_file_is_cut_short(tmp_path, script):
    server = Server(DATA * 10)
    server.script = list(script)
    try:
        with pytest.raises(DatasetError, match='cannot be right'):
            fetch(tmp_path, server)
    finally:
        server.close()
    # Refused before the first byte where the server says how long it is.
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) <= (0 if script == ['well'] else 4e6)


def test_full_disk_is_an_oserror_at_once(server, tmp_path):
    (tmp_path / 'file.tgz.part').symlink_to('/dev/full')
    with pytest.raises(OSError, match='No space left'):
        fetch(tmp_path, server)
    assert len(server.requests) == 1


def test_room_is_looked_for_first(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, 'disk_usage', lambda path: download.shutil._ntuple_diskusage(10, 9, 1000))
    with pytest.raises(OSError, match='No space left'):
        fetch(tmp_path, server)


# ---------------------------------------------------------------------------------------------------- whole datasets

def jpeg(number):
    from PIL import Image
    stream = io.BytesIO()
    Image.fromarray(np.random.RandomState(number).randint(0, 256, (8, 9, 3), dtype=np.uint8)).save(stream, 'JPEG')
    return stream.getvalue()


def cub_files():
    """A CUB of 4 classes with 2 images each."""
    names = ['%03d.Bird_%d/Bird_%04d.jpg' % (c, c, i) for c in range(1, 5) for i in range(2)]
    files = {'CUB_200_2011/images/' + name: jpeg(n) for n, name in enumerate(names)}
    lists = {'images.txt': ['%d %s' % (n + 1, name) for n, name in enumerate(names)],
             'image_class_labels.txt': ['%d %d' % (n + 1, n // 2 + 1) for n in range(8)],
             'bounding_boxes.txt': ['%d 0.0 0.0 5.0 5.0' % (n + 1) for n in range(8)]}
    files.update({'CUB_200_2011/' + name: ('\n'.join(lines) + '\n').encode() for name, lines in lists.items()})
    files['attributes.txt'] = b'1 colour\n'
    return files


def make_tar(files, mode='w:gz', extra=()):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info, content in extra:
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def make_zip(files, extra=()):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for info, content in extra:
            archive.writestr(info, content)
    return stream.getvalue()


@pytest.fixture
def small_cub(monkeypatch):
    monkeypatch.setattr(cub, 'COUNTS', Counts(2, 2, 4, 4))
    archive = make_tar(cub_files())
    server = Server(archive)
    yield server, download.Source('CUB_200_2011.tgz', md5(archive), len(archive), [server.url])
    server.close()


def get(name, folder, source, **options):
    lines = []
    counts = download.download(name, str(folder), source=source, say=lines.append, **options)
    return counts, lines


def test_download_unpack_verify(small_cub, tmp_path):
    server, source = small_cub
    counts, lines = get('CUB', tmp_path / 'new' / 'cub', source)
    assert counts == (4, 4) and '4 training and 4 test images' in lines[-1]
    assert sorted(os.listdir(tmp_path / 'new' / 'cub')) == ['CUB_200_2011', 'attributes.txt']
    counts, lines = get('CUB', tmp_path / 'new' / 'cub', source)
    assert counts == (4, 4) and 'already' in lines[0] and len(server.requests) == 1
    assert sorted(os.listdir(tmp_path / 'new' / 'cub')) == ['CUB_200_2011', 'attributes.txt']


def test_keep_archive_and_further_url(small_cub, tmp_path):
    server, source = small_cub
    source.urls = []
    get('CUB', tmp_path, source, urls=[server.url], keep=True)
    assert (tmp_path / 'CUB_200_2011.tgz').read_bytes() == server.data


@pytest.mark.parametrize('when', ['fetch', 'unpack', 'verify', 'move'])
def test_interrupted_call_leaves_nothing_finished_and_can_be_run_again(small_cub, tmp_path, monkeypatch, when):
    server, source = small_cub
    target = {'fetch': (download.os, 'replace'), 'unpack': (unpack, '_write'), 'verify': (download, '_find_root'),
              'move': (download.os, 'replace')}[when]
    original, calls = getattr(*target), []

    def interrupt(*arguments):
        calls.append(arguments)
        if when != 'move' or 'CUB_200_2011' in arguments[0] and 'ready' in arguments[0]:
            if when == 'unpack' and len(calls) < 5:
                return original(*arguments)
            raise KeyboardInterrupt
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(*target, interrupt)
        with pytest.raises(KeyboardInterrupt):
            get('CUB', tmp_path, source)
    with pytest.raises(DatasetError):
        cub.read_cub(str(tmp_path))
    assert set(os.listdir(tmp_path)) <= {'.download-CUB', 'attributes.txt'}
    counts, _ = get('CUB', tmp_path, source)
    assert counts == (4, 4) and sorted(os.listdir(tmp_path)) == ['CUB_200_2011', 'attributes.txt']
    assert len(server.requests) == (2 if when == 'fetch' else 1)


def test_what_was_there_is_not_overwritten(small_cub, tmp_path):
    _, source = small_cub
    (tmp_path / 'CUB_200_2011').mkdir()
    (tmp_path / 'CUB_200_2011' / 'mine').touch()
    with pytest.raises(DatasetError, match='exists already'):
        get('CUB', tmp_path, source)
    assert (tmp_path / 'CUB_200_2011' / 'mine').exists()


def test_one_process_at_a_time(small_cub, tmp_path):
    import fcntl
    _, source = small_cub
    (tmp_path / '.download-CUB').mkdir()
    with open(tmp_path / '.download-CUB' / 'lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DatasetError, match='another process'):
            get('CUB', tmp_path, source)
    assert get('CUB', tmp_path, source)[0] == (4, 4)


def test_own_archive(small_cub, tmp_path):
    server, source = small_cub
    mine = tmp_path / 'mine.tgz'
    mine.write_bytes(server.data)
    assert get('CUB', tmp_path / 'cub', source, archives=[str(mine)])[0] == (4, 4)
    assert mine.read_bytes() == server.data and server.requests == []
    mine.write_bytes(server.data[:-1])
    with pytest.raises(DatasetError, match='mine.tgz has the MD5 [0-9a-f]{32}, not that of CUB_200_2011.tgz'):
        get('CUB', tmp_path / 'other', source, archives=[str(mine)])
    with pytest.raises(UsageError, match='no such file'):
        get('CUB', tmp_path / 'other', source, archives=[str(tmp_path / 'none')])


def test_archive_that_is_not_the_dataset(small_cub, tmp_path):
    _, source = small_cub
    files = cub_files()
    del files['CUB_200_2011/images/003.Bird_3/Bird_0001.jpg']
    mine = tmp_path / 'mine.tgz'
    mine.write_bytes(make_tar(files))
    source.known[md5(mine.read_bytes())] = 'as published'
    with pytest.raises(DatasetError, match='is not the complete CUB.*003.Bird_3/Bird_0001.jpg'):
        get('CUB', tmp_path / 'cub', source, archives=[str(mine)])
    assert os.listdir(tmp_path / 'cub') == ['.download-CUB']
    assert os.listdir(tmp_path / 'cub' / '.download-CUB') == ['lock']


# ------------------------------------------------------------------------------------------------------------ CARS196

@pytest.fixture
def small_cars(monkeypatch):
    """CARS196 of 4 classes with 2 images each, in both layouts; and a source that knows two of the images."""
    from scipy.io import savemat
    monkeypatch.setattr(cars196, 'COUNTS', Counts(2, 2, 4, 4))
    images = {'%06d.jpg' % (n + 1): jpeg(n) for n in range(8)}
    columns = ('relative_im_path', 'bbox_x1', 'bbox_y1', 'bbox_x2', 'bbox_y2', 'class')
    table = np.array([('car_ims/%06d.jpg' % (n + 1), 0, 0, 5, 5, n // 2 + 1) for n in range(8)],
                     dtype=[(column, object) for column in columns])
    stream = io.BytesIO()
    savemat(stream, {'annotations': table.reshape(1, -1), 'class_names': np.array(list('abcd'), dtype=object)})
    spots = {name: md5(images[name]) for name in ('000001.jpg', '000008.jpg')}
    return images, stream.getvalue(), download.Source('CARS196.zip', None, 1000000, [], 'Dead.', spot_md5=spots,
                                                     lists=('.mat',))


@pytest.mark.parametrize('pack', [make_tar, make_zip])
@pytest.mark.parametrize('layout', ['apart', 'together', 'inside', 'inside apart', 'folders'])
def test_repacked_cars(small_cars, tmp_path, layout, pack):
    images, mat, source = small_cars
    archives, top = [str(tmp_path / 'mine.bin')], 'cars/' if 'inside' in layout else ''
    if layout == 'folders':
        files = {'cars/%d/%s' % (n // 2 + 1, name): data for n, (name, data) in enumerate(images.items())}
    else:
        files = {top + 'car_ims/' + name: data for name, data in images.items()}
        if 'apart' in layout:
            archives.append(str(tmp_path / 'annos.mat'))
            Path(archives[1]).write_bytes(mat)
        else:
            files[top + 'cars_annos.mat'] = mat
    Path(archives[0]).write_bytes(pack(files))
    assert get('CARS196', tmp_path / 'cars', source, archives=archives)[0] == (4, 4)


def test_move_interrupted_in_the_middle(small_cars, tmp_path, monkeypatch):
    images, _, source = small_cars
    mine = tmp_path / 'mine.tar'
    mine.write_bytes(make_tar({'%d/%s' % (n // 2 + 1, name): data for n, (name, data) in enumerate(images.items())}))
    original = os.replace

    def interrupt(old, new):
        if os.path.basename(new) == '3':
            raise KeyboardInterrupt
        original(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(download.os, 'replace', interrupt)
        with pytest.raises(KeyboardInterrupt):
            get('CARS196', tmp_path / 'cars', source, archives=[str(mine)])
    assert sorted(os.listdir(tmp_path / 'cars')) == ['.download-CARS196', '1', '2']
    with pytest.raises(DatasetError):
        cars196.read_cars196(str(tmp_path / 'cars'))
    moved = tmp_path / 'elsewhere'
    (tmp_path / 'cars' / '1').rename(moved)
    copy = tmp_path / 'copy'
    shutil.copytree(tmp_path / 'cars', copy)
    with pytest.raises(DatasetError, match='has lost files'):
        get('CARS196', copy, source, archives=[str(mine)])
    moved.rename(tmp_path / 'cars' / '1')
    assert get('CARS196', tmp_path / 'cars', source, archives=[str(mine)])[0] == (4, 4)
    assert sorted(os.listdir(tmp_path / 'cars')) == ['1', '2', '3', '4']


def test_repacked_cars_must_be_the_published_images(small_cars, tmp_path):
    images, mat, source = small_cars
    mine = tmp_path / 'mine.zip'

    def attempt(files):
        mine.write_bytes(make_zip(files))
        return get('CARS196', tmp_path / 'cars', source, archives=[str(mine)])

    files = dict({'car_ims/' + name: data for name, data in images.items()}, **{'cars_annos.mat': mat})
    with pytest.raises(DatasetError, match='000008.jpg in the archive has the MD5'):
        attempt(dict(files, **{'car_ims/000008.jpg': jpeg(99)}))
    with pytest.raises(DatasetError, match='holds no 000001.jpg'):
        attempt({name.replace('000001', '1'): data for name, data in files.items()})
    with pytest.raises(DatasetError, match='000004.jpg'):
        attempt({name: data for name, data in files.items() if '000004' not in name})
    assert attempt(files)[0] == (4, 4)


def test_cars_without_its_list(small_cars, tmp_path):
    images, _, source = small_cars
    mine = tmp_path / 'car_ims.tgz'
    mine.write_bytes(make_tar({'car_ims/' + name: data for name, data in images.items()}))
    with pytest.raises(DatasetError, match='cars_annos.mat'):
        get('CARS196', tmp_path / 'cars', source, archives=[str(mine)])


def test_the_hint_is_given_where_nothing_can_be_downloaded(small_cars, server, tmp_path):
    _, _, source = small_cars
    source.urls = [server.url]
    server.script = [404]
    with pytest.raises(DatasetError, match='HTTP status 404.* Dead.'):
        get('CARS196', tmp_path, source)
    with pytest.raises(DatasetError, match='no tar or zip'):        # random bytes, no checksum known
        get('CARS196', tmp_path, source)
    assert not list(tmp_path.rglob('CARS196.zip*'))                 # ... so a later call begins anew


# ---------------------------------------------------------------------------------------------------- hostile archives

def special(name, kind, link=''):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b''


def zip_info(name, mode):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, mode << 16
    return info, b'../../target'


BAD_NAMES = ['/etc/passwd', '../evil', 'a/../../evil', 'a//b', '..', 'a\nb']


def unpack_bytes(data, folder, max_bytes=10 ** 6, max_files=100):
    folder.mkdir(exist_ok=True)
    file = folder.parent / 'archive'
    file.write_bytes(data)
    target = folder / 'in'
    target.mkdir()
    unpack.unpack(str(file), str(target), max_bytes, max_files)
    return {str(p.relative_to(target)): p.read_bytes() for p in target.rglob('*') if p.is_file()}


@pytest.mark.parametrize('archive', [
    *(pytest.param(make_tar({name: b'x'}), id='tar ' + repr(name)) for name in BAD_NAMES),
    *(pytest.param(make_zip({name: b'x'}), id='zip ' + repr(name)) for name in BAD_NAMES),
    pytest.param(make_tar({}, extra=[special('l', tarfile.SYMTYPE, '/etc')]), id='symlink'),
    pytest.param(make_tar({}, extra=[special('l', tarfile.SYMTYPE, '..'), special('l/evil', tarfile.REGTYPE)]),
                 id='through a symlink'),
    pytest.param(make_tar({'a': b'x'}, extra=[special('l', tarfile.LNKTYPE, 'a')]), id='hard link'),
    pytest.param(make_tar({}, extra=[special('d', tarfile.CHRTYPE)]), id='device'),
    pytest.param(make_tar({}, extra=[special('d', tarfile.FIFOTYPE)]), id='fifo'),
    pytest.param(make_zip({}, extra=[zip_info('l', 0o120777)]), id='zip symlink'),
    pytest.param(make_zip({}, extra=[zip_info('l', 0o010777)]), id='zip fifo'),
])
def test_nothing_gets_out(tmp_path, archive):
    with pytest.raises(DatasetError, match='refused'):
        unpack_bytes(archive, tmp_path / 'folder')
    outside = [p for p in tmp_path.rglob('*') if p.is_file() and p.name != 'archive']
    assert not [p for p in outside if (tmp_path / 'folder' / 'in') not in p.parents]
    assert not [p for p in tmp_path.rglob('*') if p.is_symlink()]


@pytest.mark.parametrize('pack', [make_tar, make_zip])
def test_limits(tmp_path, pack):
    bomb = pack({'a': b'\0' * 10 ** 7})
    assert len(bomb) < 20000
    with pytest.raises(DatasetError, match='more bytes or files'):
        unpack_bytes(bomb, tmp_path / 'a')
    with pytest.raises(DatasetError, match='more bytes or files'):
        unpack_bytes(pack({'f%d' % i: b'' for i in range(101)}), tmp_path / 'b')
    assert len(unpack_bytes(pack({'f%d' % i: b'' for i in range(100)}), tmp_path / 'c')) == 100


def test_limit_of_tar_headers(tmp_path):
    """A header that claims gigabytes is not read into memory, and one that claims less than nothing is no way back."""
    huge = tarfile.TarInfo('x')
    huge.type, huge.size = tarfile.XHDTYPE, 1 << 32
    archive = huge.tobuf(tarfile.GNU_FORMAT) + b'\0' * 10240
    # Python 3.14 reads such a header in pieces of a megabyte, and refuses a negative size itself.
    with pytest.raises(DatasetError, match='a header claims 4294967296 bytes|empty header'):
        unpack_bytes(archive, tmp_path / 'a')
    header = bytearray(tarfile.TarInfo('x').tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b'\xff' * 10 + b'\xfe\x00'        # base 256: -512
    header[148:156] = b' ' * 8
    header[148:156] = b'%06o\0 ' % sum(header)
    with pytest.raises(DatasetError, match='more bytes or files|invalid offset'):
        unpack_bytes(bytes(header) + b'\0' * 10240, tmp_path / 'b')


@pytest.mark.parametrize('mode', ['w', 'w:gz', 'w:bz2', 'w:xz'])
def test_damaged_tar(tmp_path, mode):
    files = {'f%d' % i: np.random.RandomState(i).bytes(3000) for i in range(10)}
    whole = make_tar(files, mode)
    assert unpack_bytes(whole, tmp_path / 'whole') == files
    with pytest.raises(DatasetError):
        unpack_bytes(whole[:len(whole) // 2], tmp_path / 'half')
    if mode != 'w':     # a plain tar has no checksum of its content
        for place in (len(whole) // 2, len(whole) - 6):
            flipped = whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1:]
            with pytest.raises(DatasetError):
                unpack_bytes(flipped, tmp_path / ('flipped%d' % place))


def test_damaged_zip(tmp_path):
    files = {'f%d' % i: np.random.RandomState(i).bytes(3000) for i in range(10)}
    whole = make_zip(files)
    assert unpack_bytes(whole, tmp_path / 'whole') == files
    for number, data in enumerate((whole[:len(whole) // 2], whole[:9000] + b'?' + whole[9001:])):
        with pytest.raises(DatasetError, match='damaged'):
            unpack_bytes(data, tmp_path / str(number))
    encrypted = bytearray(whole)
    for place in (encrypted.find(b'PK\1\2') + 8, 6):
        encrypted[place] |= 1
    with pytest.raises(DatasetError, match='encrypted'):
        unpack_bytes(bytes(encrypted), tmp_path / 'encrypted')


@pytest.mark.parametrize('data', [b'', b'<html>404</html>' * 100, b'PK', b'\x1f\x8b', b'BZh9', b'\xfd7zXZ\0' * 9,
                                  make_tar({}), make_zip({})])
def test_no_archive(tmp_path, data):
    with pytest.raises(DatasetError):
        unpack_bytes(data, tmp_path / 'a')


def test_odd_but_harmless(tmp_path):
    files = {'./a/b.jpg': b'1', '__MACOSX/a/._b.jpg': b'2', 'a/.DS_Store': b'3', 'a/._b.jpg': b'4', 'a/c d.jpg': b'5'}
    for number, pack in enumerate((make_tar, make_zip)):
        assert unpack_bytes(pack(files), tmp_path / str(number)) == {'a/b.jpg': b'1', 'a/c d.jpg': b'5'}


def test_name_given_twice(tmp_path):
    with pytest.raises(DatasetError, match='twice'):
        unpack_bytes(make_tar({'a': b'1', './a': b'2'}), tmp_path / 'x')
    with pytest.raises(DatasetError):
        unpack_bytes(make_tar({'a': b'1', 'a/b': b'2'}), tmp_path / 'y')


def test_modes_are_not_taken_over(tmp_path):
    info = tarfile.TarInfo('a')
    info.mode = 0o6777
    unpack_bytes(make_tar({}, extra=[(info, b'')]), tmp_path / 'x')
    assert (tmp_path / 'x' / 'in' / 'a').stat().st_mode & 0o7111 == 0


# -------------------------------------------------------------------------------------------------------- the command

def command(*arguments, **options):
    return subprocess.Popen([sys.executable, '-m', 'dataset.download', *arguments], cwd=ROOT, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, **options)


def test_command_says_one_line(tmp_path):
    (tmp_path / 'mine.tgz').write_bytes(b'no archive')
    process = command('CUB', '--data-path', str(tmp_path / 'cub'), '--archive', str(tmp_path / 'mine.tgz'))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err.count('\n') == 1 and 'mine.tgz' in err and not out


def test_command_on_a_full_disk(server, tmp_path):
    (tmp_path / '.download-CUB').mkdir()
    (tmp_path / '.download-CUB' / 'CUB_200_2011.tgz.part').symlink_to('/dev/full')
    process = command('CUB', '--data-path', str(tmp_path), '--url', server.url)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and err.count('\n') == 1 and 'No space left' in err


def test_command_interrupted_and_killed(tmp_path):
    """The download stops in the middle; Ctrl-C says that it can go on, SIGKILL leaves the bytes that came."""
    server = Server(DATA)
    server.answer = stall
    try:
        sizes = [0]
        for kind, status in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
            process = command('CUB', '--data-path', str(tmp_path), '--url', server.url)
            part, deadline = tmp_path / '.download-CUB' / 'CUB_200_2011.tgz.part', time.time() + 30
            while time.time() < deadline and (not part.exists() or part.stat().st_size <= sizes[-1]):
                time.sleep(0.02)
            process.send_signal(kind)
            _, err = process.communicate(timeout=30)
            assert process.returncode == status
            if status == 130:
                assert 'interrupted; the same command goes on from here' in err and 'Traceback' not in err
            assert os.listdir(tmp_path) == ['.download-CUB']
            sizes.append(part.stat().st_size)
        # How much of the last chunk is kept differs between versions of Python.
        assert server.requests == [None, 'bytes=%d-' % sizes[1]] and download.CHUNK <= sizes[1] < sizes[2]
        assert part.read_bytes() == DATA[:sizes[2]]
    finally:
        server.close()


def stall(request, how):
    """Some of a file, then nothing for long."""
    asked = request.headers.get('Range')
    begin = int(asked[6:-1]) if asked else 0
    request.send_response(206 if asked else 200)
    request.send_header('Content-Range', 'bytes %d-%d/%d' % (begin, len(DATA) - 1, len(DATA)))
    request.send_header('Content-Length', str(len(DATA) - begin))
    request.end_headers()
    request.wfile.write(DATA[begin:begin + 100000])
    request.wfile.flush()
    time.sleep(20)


def test_a_mirror_of_cars_with_other_numbers(small_cars, tmp_path):
    from scipy.io import savemat
    images, _, source = small_cars
    stream = io.BytesIO()
    savemat(stream, {'class_names': np.array(list('zaxb'), dtype=object)})
    pictures = list(images.values())
    files = {f'car_data/{split}/{name}/{place:05d}.jpg': pictures[2 * number + place]
             for number, name in enumerate('abxz') for place, split in enumerate(('train', 'test'))}
    mine = tmp_path / 'mine.zip'
    mine.write_bytes(make_zip(dict(files, **{'car_data/cars_meta.mat': stream.getvalue()})))
    assert get('CARS196', tmp_path / 'cars', source, archives=[str(mine)])[0] == (4, 4)


def test_sop_repacked_without_its_folder_and_in_lower_case(monkeypatch, tmp_path):
    monkeypatch.setattr(sop, 'COUNTS', Counts(2, 2, 4, 4))
    names = [f'{kind}_final/{number}_{i}.JPG' for number, kind in enumerate(('lamp', 'sofa', 'fan', 'mug'))
             for i in '01']
    files = {name.lower(): jpeg(number) for number, name in enumerate(names)}
    for split, start in (('train', 0), ('test', 4)):
        rows = [f'{n + 1} {n // 2 + 1} 1 {names[n]}' for n in range(start, start + 4)]
        files[f'ebay_{split}.txt'] = '\r\n'.join(['image_id class_id super_class_id path', *rows]).encode()
    mine = tmp_path / 'mine.zip'
    mine.write_bytes(make_zip(files))
    assert get('SOP', tmp_path / 'sop', download.SOURCES['SOP'], archives=[str(mine)])[0] == (4, 4)
    train, test = get_dataset('SOP', str(tmp_path / 'sop'))
    assert [os.path.relpath(path, tmp_path / 'sop') for path in train.paths + test.paths] == list(map(str.lower, names))
    del files['mug_final/3_1.jpg']
    mine.write_bytes(make_zip(files))
    with pytest.raises(DatasetError, match=r'mine.zip is not the complete SOP: ebay_test.txt lists mug_final/3_1.JPG'):
        get('SOP', tmp_path / 'other', download.SOURCES['SOP'], archives=[str(mine)])


def test_inshop_from_its_archive_and_lists(monkeypatch, tmp_path):
    monkeypatch.setattr(inshop, 'COUNTS', Counts(1, 1, 1, 2))
    monkeypatch.setattr(inshop, 'QUERIES', 1)
    names = [f'img/MEN/Shirts/id_{n:08d}/{n}{i}.jpg' for n, i in ((1, 0), (2, 0), (2, 1))]
    rows = [f'{name} {name.split("/")[3]} {status}' for name, status in zip(names, ('train', 'query', 'gallery'))]
    archive, table = tmp_path / 'img.zip', tmp_path / 'list_eval_partition.txt'
    archive.write_bytes(make_zip({name: jpeg(number) for number, name in enumerate(names)}))
    table.write_text('\n'.join(['3', 'image_name item_id evaluation_status', *rows]) + '\n')
    source = download.SOURCES['INSHOP']
    with pytest.raises(DatasetError, match='img.zip is not the complete INSHOP: .* holds list_eval_partition.txt'):
        get('INSHOP', tmp_path / 'x', source, archives=[str(archive)])
    assert get('INSHOP', tmp_path / 'x', source, archives=[str(archive), str(table)])[0] == (1, 2)
    assert get_dataset('INSHOP', str(tmp_path / 'x'))[1].queries.tolist() == [True, False]
    with pytest.raises(DatasetError, match='img.zip has no public link. Follow https.* with --archive'):
        get('INSHOP', tmp_path / 'y', source)


def test_a_repacked_archive_where_the_counts_may_tell(tmp_path):
    path = tmp_path / 'mine.zip'
    path.write_bytes(b'x')
    assert download._verify_archive(download.SOURCES['SOP'], str(path)) is False
