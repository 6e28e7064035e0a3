"""Published weights: where they are on this machine, or how to get them.

Gluon's own model store would do, but trusts 8 digits of a file's name, unpacks beside other files without a temporary
name, and says nothing useful without a network.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import tarfile
import urllib.error
import urllib.request
import zipfile
from typing import IO, Callable, NamedTuple, Optional

from common.errors import UsageError
from common.files import atomic_write, hash_file
from models import packaged
from models.errors import ModelError

_REPOSITORY = 'https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/'
_TIMEOUT = 20  # seconds without a byte
# GluonCV names its pruned ResNets by what is left of them, and their files by the speed-up.
_PRUNED = {'0.89': '2.6x', '0.86': '1.8x', '0.48': '3.6x', '0.37': '5.9x', '0.11': '8.8x',
           '0.76': '1.9x', '0.73': '2.2x'}
_INCEPTION_URL = 'http://data.mxnet.io/models/imagenet/inception-bn.tar.gz'
_INCEPTION_SHA256 = '9f0d62e4adfde8bf3fef65ba20b3497e7845786b803fa8fed717602b9878ea03'


class Published(NamedTuple):
    """Weights that were published: a file inside an archive behind an address."""

    file: str  # name of the weights file
    url: str
    hash_name: str
    file_hash: Optional[str]  # of the weights file, where known
    archive_hash: Optional[str]  # of the archive, where known


def _published(name: str) -> Published:
    if name == 'inception-bn':
        return Published('Inception-BN-0126.params', _INCEPTION_URL, 'sha256', None, _INCEPTION_SHA256)
    from mxnet.gluon.model_zoo import model_store as store

    if not re.fullmatch(r'resnet\d+_v[12]', name):
        from gluoncv.model_zoo import model_store as store  # Gluon's has other weights of the same names
    stored = re.sub(r'^(hrnet_\w+)_c$', r'\1_cls', name)
    stored = re.sub(r'(?<=_)(0\.\d\d)$', lambda match: _PRUNED.get(match.group(1), match.group(1)), stored)
    digest = store._model_sha1.get(stored)
    if digest is None:
        raise UsageError(f'--pretrained auto: no weights of {name} were published; use --pretrained none, or a FILE')
    file = f'{stored}-{digest[:8]}'
    repository = os.environ.get('MXNET_GLUON_REPO', _REPOSITORY).rstrip('/')
    return Published(f'{file}.params', f'{repository}/gluon/models/{file}.zip', 'sha1', digest, None)


def folder() -> str:
    """``$MXNET_HOME/models``, or ``~/.mxnet/models``."""
    return os.path.join(os.path.expanduser(os.environ.get('MXNET_HOME') or os.path.join('~', '.mxnet')), 'models')


def find(name: str) -> str:
    """Path of the published weights of network `name`; downloads them where they are not on this machine.

    Raises
    ------
    ModelError
        No network, a wrong hash, nothing published: one sentence, with the file to put in place.
    """
    if name == packaged.MODEL:
        return packaged.find(folder())
    known = _published(name)
    path = os.path.join(folder(), known.file)
    if os.path.exists(path):
        if known.file_hash and hash_file(path, known.hash_name) != known.file_hash:
            raise ModelError(f'{path}: its {known.hash_name.upper()} is not {known.file_hash}, so it is damaged or '
                             f'another version: remove it, or use it as it is with --pretrained {path}')
        return path
    archive = os.path.join(folder(), known.url.rsplit('/', 1)[1])
    try:
        os.makedirs(folder(), exist_ok=True)
        if os.path.exists(archive):
            _unpack(archive, path, known)
        else:
            temporary = f'{archive}.tmp-{os.getpid()}'
            try:
                _download(known.url, temporary)
                _unpack(temporary, path, known)
            finally:
                if os.path.exists(temporary):
                    os.remove(temporary)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):  # like URLError and time-outs, an OSError; holds the connection
            error.close()
        advice = ', convert other weights with python -m models.weights convert,' if name == 'inception-bn' else ','
        raise UsageError(f'--pretrained auto: {known.url} cannot be had ({getattr(error, "reason", None) or error}): '
                         f'put {known.file} or {os.path.basename(archive)} into {folder()}{advice} '
                         f'or use --pretrained none') from None
    return path


def _download(url: str, path: str) -> None:
    from tqdm import tqdm

    with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, open(path, 'wb') as file:
        length = int(answer.headers.get('Content-Length') or 0)
        with tqdm(total=length or None, unit='B', unit_scale=True, unit_divisor=1024,
                  desc=url.rsplit('/', 1)[1]) as bar:
            for block in iter(lambda: answer.read(1 << 16), b''):
                file.write(block)
                bar.update(len(block))
        if length and file.tell() != length:
            raise OSError(f'the connection ended after {file.tell()} of {length} bytes')


def _unpack(archive: str, path: str, known: Published) -> None:
    """Checks the hashes and puts the one file that is wanted in its place, whole or not at all."""
    shown = re.sub(r'\.tmp-\d+$', '', archive)
    if known.archive_hash and hash_file(archive, known.hash_name) != known.archive_hash:
        raise ModelError(f'{shown}: its {known.hash_name.upper()} is not {known.archive_hash}, so it is damaged or '
                         f'another version: put {known.file} into {folder()} yourself, or use --pretrained FILE')
    try:
        with atomic_write(path) as target:
            _member(archive, known.file)(target)
            target.flush()
            if known.file_hash and hash_file(target.name, known.hash_name) != known.file_hash:
                raise ModelError(f'{shown}: the {known.hash_name.upper()} of {known.file} in it is not '
                                 f'{known.file_hash}: put the right {known.file} into {folder()}, or use '
                                 f'--pretrained FILE')
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, KeyError):
        raise ModelError(f'{shown}: no archive with {known.file} in it: put {known.file} into {folder()} yourself, '
                         f'or use --pretrained FILE') from None


def _member(archive: str, wanted: str) -> Callable[[IO[bytes]], None]:
    # Only this one file is read, and written under a name of ours: paths and links inside the archive do not matter.
    def copy(target: IO[bytes]) -> None:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as zipped, zipped.open(wanted) as source:
                shutil.copyfileobj(source, target)
            return
        with tarfile.open(archive) as packed:
            member = next((m for m in packed if m.isfile() and os.path.basename(m.name) == wanted), None)
            if member is None:
                raise KeyError(wanted)
            shutil.copyfileobj(packed.extractfile(member), target)

    return copy
