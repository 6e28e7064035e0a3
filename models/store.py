"""Published weights: where they are on this machine, or how to get them.

Gluon's own model store compares 8 digits of a file's name instead of its hash, and has no clear message where there is
no network.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
from typing import IO, NamedTuple, Optional

from tqdm import tqdm

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
    hash_name = known.hash_name.upper()
    if os.path.exists(path):
        if known.file_hash and hash_file(path, known.hash_name) != known.file_hash:
            raise ModelError(f'{path}: its {hash_name} is not {known.file_hash}, so it is damaged or another version: '
                             f'remove it, or use it as it is with --pretrained {path}')
        return path
    archive = os.path.join(folder(), known.url.rsplit('/', 1)[1])
    by_hand = f'put {known.file} into {folder()} yourself, or use --pretrained FILE'
    try:
        os.makedirs(folder(), exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder()) as temporary:
            source = archive
            if not os.path.exists(archive):
                source = os.path.join(temporary, 'archive')
                _download(known.url, source)
            if known.archive_hash and hash_file(source, known.hash_name) != known.archive_hash:
                raise ModelError(f'{archive}: its {hash_name} is not {known.archive_hash}, so it is damaged or another '
                                 f'version: {by_hand}')
            with atomic_write(path) as file:
                _extract(source, known.file, file)
                file.flush()
                if known.file_hash and hash_file(file.name, known.hash_name) != known.file_hash:
                    raise ModelError(f'{archive}: the {hash_name} of {known.file} in it is not {known.file_hash}: '
                                     f'{by_hand}')
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, KeyError):
        raise ModelError(f'{archive}: no archive with {known.file} in it: {by_hand}') from None
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):  # like URLError and time-outs, an OSError; holds the connection
            error.close()
        advice = ', convert other weights with python -m models.weights convert,' if name == 'inception-bn' else ','
        raise UsageError(f'--pretrained auto: {known.url} cannot be had ({getattr(error, "reason", None) or error}): '
                         f'put {known.file} or {os.path.basename(archive)} into {folder()}{advice} '
                         f'or use --pretrained none') from None
    return path


def _download(url: str, path: str) -> None:
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer, open(path, 'wb') as file:
        length = int(answer.headers.get('Content-Length') or 0)
        with tqdm.wrapattr(answer, 'read', total=length or None, desc=url.rsplit('/', 1)[1]) as source:
            shutil.copyfileobj(source, file)
        if length and file.tell() != length:
            raise OSError(f'the connection ended after {file.tell()} of {length} bytes')


def _extract(archive: str, wanted: str, target: IO[bytes]) -> None:
    # Only this one file is read, and written under a name of ours: paths and links inside the archive do not matter.
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as zipped, zipped.open(wanted) as source:
            shutil.copyfileobj(source, target)
        return
    with tarfile.open(archive) as packed:
        member = next((m for m in packed if m.isfile() and os.path.basename(m.name) == wanted), None)
        if member is None:
            raise KeyError(wanted)
        shutil.copyfileobj(packed.extractfile(member), target)
