"""Gets a dataset: downloads its archive, checks it, unpacks it, and checks the images.

    python -m dataset.download CUB --data-path DIR
    python -m dataset.download SOP --data-path DIR --archive Stanford_Online_Products.zip      (a file you have already)
    python -m dataset.download CARS196 --data-path DIR --archive car_ims.tgz cars_annos.mat
    python -m dataset.download INSHOP --data-path DIR --archive img.zip list_eval_partition.txt

An interrupted call can be run again, and continues. All work happens in the hidden folder DIR/.download-NAME. Only a
complete dataset is moved into DIR.

Where the files are (checksums are those of the published files):

* CUB: CaltechDATA, record 65de6-vp158; the same file is in fast.ai's collection. The visipedia host is dead.
* SOP: Stanford's ftp.cs.stanford.edu, by HTTP.
* CARS196: both of the original hosts (ai.stanford.edu/~jkrause, imagenet.stanford.edu) are dead since 2023. Left is the
  copy that the authors of SOP keep beside theirs, CARS196.zip. No checksum of it was ever published, so it is verified
  as any repacked archive is: by the counts and by the checksums of two images.
* INSHOP: the authors give it on request, and there is no public link. The files are verified by the counts.
"""
from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from dataclasses import dataclass, field, replace
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import requests
import urllib3
from tqdm import tqdm

from common.command import CommandParser, run_command
from common.errors import UsageError
from common.files import expand_path, hash_file, lock
from dataset import unpack
from dataset.errors import DatasetError
from dataset.registry import get_dataset

CHUNK = 1 << 16


@dataclass
class Source:
    """Where a dataset comes from, and how it is checked.

    Parameters
    ----------
    file : str
        The name of its archive.
    md5 : str or None
        None where no checksum was published. Then `spot_md5` is compared.
    size : int
        About how large the archive is, in bytes. A file of more than twice this is refused.
    urls : list of str
        Where it is, tried in turn.
    hint : str
        One sentence for those who cannot download it.
    known : dict
        Other published files by checksum, for those who have them: name of each.
    spot_md5 : dict
        Images that must be in an archive whose own checksum is unknown: file name to MD5. Empty: such archives are
        refused.
    repacked : bool
        Whether a user's archive may have another checksum if all the counts are right.
    lists : tuple of str
        Suffixes of files that a user may give beside the archive. They are copied as they are.
    max_bytes, max_files : int
        How much may come out of one archive.
    """

    file: str
    md5: Optional[str]
    size: int
    urls: List[str]
    hint: str = ''
    known: Dict[str, str] = field(default_factory=dict)
    spot_md5: Dict[str, str] = field(default_factory=dict)
    repacked: bool = False
    lists: Tuple[str, ...] = ()
    max_bytes: int = 8 << 30
    max_files: int = 200000


SOURCES = {
    'CUB': Source(
        'CUB_200_2011.tgz', '97eceeb196236b17998738112f37df78', 1150585339,
        ['https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1',
         'https://s3.amazonaws.com/fast-ai-imageclas/CUB_200_2011.tgz'],
        'Get CUB_200_2011.tgz (https://data.caltech.edu/records/65de6-vp158) by other means and name it with '
        '--archive.'),
    'SOP': Source(
        'Stanford_Online_Products.zip', '7f73d41a2f44250d4779881525aea32e', 3100000000,
        ['https://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip',
         'http://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip'],
        'Get Stanford_Online_Products.zip (http://ftp.cs.stanford.edu/cs/cvgl/) by other means and name it with '
        '--archive.', repacked=True),
    'CARS196': Source(
        'CARS196.zip', None, 2000000000,
        ['https://ftp.cs.stanford.edu/cs/cvgl/CARS196.zip', 'http://ftp.cs.stanford.edu/cs/cvgl/CARS196.zip'],
        'The original hosts are dead since 2023: if you have car_ims.tgz and cars_annos.mat, or a repacked archive of '
        'them, name them with --archive.',
        known={'d5c8f0aa497503f355e17dc7886c3f14': 'car_ims.tgz', 'b407c6086d669747186bd1d764ff9dbc': 'cars_annos.mat'},
        spot_md5={'000001.jpg': '2d44a28f071aeaac9c0802fddcde452e', '016185.jpg': 'bab296d5e4b2290d024920bf4dc23d07'},
        lists=('.mat',)),
    'INSHOP': Source(
        'img.zip', None, 2000000000, [],
        'Follow https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html to the folder of the In-shop '
        'Clothes Retrieval Benchmark, get Img/img.zip, Eval/list_eval_partition.txt and, for --use-crops, '
        'Anno/list_bbox_inshop.txt, and name them with --archive.', repacked=True, lists=('.txt',)),
}


class _MirrorError(Exception):
    """This mirror cannot give the file: try the next."""


class _Retry(Exception):
    """A temporary failure: try this mirror again, after `wait` seconds if the server says so."""

    def __init__(self, message: str, wait: Optional[float] = None) -> None:
        super().__init__(message)
        self.wait = wait


def _reason(error: Exception) -> str:
    """The innermost cause of a network error in one line; requests and urllib3 wrap theirs several times."""
    inner = [value for value in (*error.args, getattr(error, 'reason', None)) if isinstance(value, Exception)]
    return _reason(inner[-1]) if inner else ' '.join(str(error).split()) or type(error).__name__


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def _get(url: str, part: str, limit: int, timeout: Tuple[float, float]) -> None:
    """One request: append to `part` what is missing of the file.

    Raises
    ------
    _Retry, _MirrorError
        See there. Returning normally means that the server considers the file complete.
    """
    headers = {'Accept-Encoding': 'identity', 'User-Agent': 'dml-playground'}
    have = _size(part)
    if have:
        headers['Range'] = f'bytes={have}-'
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
            status, content_range = response.status_code, response.headers.get('Content-Range', '')
            if status == 416 and have:
                # Nothing lies beyond our last byte: the file is complete (its checksum will tell), or not this file.
                if content_range.rpartition('/')[2] == str(have):
                    return
                os.unlink(part)
                raise _Retry(f'the server has no bytes after {have}')
            if status == 429 or status >= 500:
                wait = response.headers.get('Retry-After', '')
                raise _Retry(f'HTTP status {status}', min(float(wait), 60) if wait.isdigit() else None)
            if status not in (200, 206):
                raise _MirrorError(f'HTTP status {status}')
            if status == 200:
                have = 0    # it ignores ranges, or none was asked for: from the start
            elif not content_range.startswith(f'bytes {have}-'):
                raise _MirrorError('the server sent another range than asked for')
            length = response.headers.get('Content-Length', '')
            total = have + int(length) if length.isdigit() else None
            too_large = _MirrorError(f'the file has more than {limit} bytes, which cannot be right')
            if total is not None and total > limit:
                raise too_large
            free = shutil.disk_usage(os.path.dirname(part)).free
            if total is not None and total - have > free:
                raise OSError(errno.ENOSPC, f'No space left on device ({(total - have) / 1e9:.1f} GB to download, '
                                            f'{free / 1e9:.1f} GB free)', part)
            with open(part, 'ab' if have else 'wb') as file, \
                    tqdm(total=total, initial=have, unit='B', unit_scale=True, desc=os.path.basename(part)[:-5],
                         disable=None, leave=False) as bar:
                while True:     # a connection that ends before Content-Length is an IncompleteRead of urllib3's
                    block = response.raw.read(CHUNK, decode_content=False)
                    if not block:
                        return
                    file.write(block)
                    have += len(block)
                    bar.update(len(block))
                    if have > limit:
                        raise too_large
    except (ValueError, requests.TooManyRedirects) as error:     # no address, or one of another kind
        raise _MirrorError(_reason(error)) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise _Retry(_reason(error)) from None


def fetch(source: Source, folder: str, tries: int = 5, wait: float = 1.0, timeout: Tuple[float, float] = (20, 60),
          say: Callable[[str], None] = print) -> str:
    """Download a file, going on with ``folder/NAME.part`` where that exists.

    Parameters
    ----------
    source : Source
    folder : str
    tries : int
        Attempts in a row at one mirror that bring no byte, before the next mirror is tried.
    wait : float
        Seconds before the second attempt; doubled at each further one.
    timeout : (float, float)
        Seconds to wait for a connection, and for the next bytes.
    say : callable
        Takes one line about what goes wrong on the way.

    Returns
    -------
    path : str
        ``folder/NAME``, complete and verified. The name does not exist before that.

    Raises
    ------
    DatasetError
        If no mirror gave the right file.
    OSError
        If the disk cannot take it.
    """
    path = os.path.join(folder, source.file)
    if os.path.exists(path):
        return path
    if not source.urls:
        raise DatasetError(f'{source.file} has no public link. {source.hint}')
    part = f'{path}.part'
    problems = []
    for url in source.urls:
        failures, restarted = 0, False
        while failures < tries:
            before, pause = _size(part), wait * 2 ** failures
            try:
                _get(url, part, 2 * source.size, timeout)
                found = source.md5 and hash_file(part, 'md5')
                if found == source.md5:
                    os.replace(part, path)
                    return path
                os.unlink(part)
                problem = f'its checksum is {found}, not {source.md5}'
                if restarted or not before:
                    break           # all of these bytes came from this mirror: more of the same will not help
                restarted = True    # the older bytes may have been the wrong ones
            except _MirrorError as error:
                problem = str(error)
                break
            except _Retry as error:
                problem = str(error)
                failures = 0 if _size(part) > before else failures + 1
                pause = pause if error.wait is None else error.wait
            if failures < tries:
                say(f'{url}: {problem}; trying again')
                time.sleep(pause)
        problems.append(f'{url}: {problem}')
        say(problems[-1])
    raise DatasetError(f'{source.file} could not be downloaded ({"; ".join(problems)}). {source.hint}'.rstrip())


def _verify_archive(source: Source, path: str) -> bool:
    """Whether a file of the user's is a published one; False where only its content can tell.

    Raises
    ------
    DatasetError
        If it is not, and its content could not tell.
    """
    known = {**source.known, source.md5: source.file}
    md5 = hash_file(path, 'md5')
    if md5 in known or source.spot_md5 or source.repacked:
        return md5 in known
    expected = ' or '.join(f'{name}, {digest}' for digest, name in known.items())
    raise DatasetError(f'{path} has the MD5 {md5}, not that of {expected}: it is damaged or another file.')


def _check_spots(source: Source, tree: str) -> None:
    """Compare the images whose checksums are known.

    Raises
    ------
    DatasetError
        If one differs or is missing.
    """
    walk = list(os.walk(tree))
    splits = any({'train', 'test'} <= set(folders) or {'cars_train', 'cars_test'} <= set(folders)
                 for _, folders, _ in walk)
    if splits and not any('car_ims' in folders for _, folders, _ in walk):
        return      # a mirror that numbers the images in another way: the counts have to do
    missing = dict(source.spot_md5)
    for folder, _, files in walk:
        for name in set(files) & set(missing):
            md5 = hash_file(os.path.join(folder, name), 'md5')
            if md5 != missing.pop(name):
                raise DatasetError(f'{name} in the archive has the MD5 {md5}, not {source.spot_md5[name]}: it is not '
                                   'the published image.')
    if missing:
        raise DatasetError(f'the archive holds no {" and no ".join(sorted(missing))}, so it cannot be verified.')


def _find_root(name: str, tree: str) -> str:
    """The folder inside `tree` that the reader accepts: `tree` itself or one directly in it.

    Raises
    ------
    DatasetError
        The reader's, if it accepts none.
    """
    errors = []
    for folder in [tree] + sorted(entry.path for entry in os.scandir(tree) if entry.is_dir()):
        try:
            get_dataset(name, folder)
            return folder
        except DatasetError as error:
            errors.append(error)
    # With nothing but one folder in the archive, that is where the dataset should have been.
    raise errors[-1] if len(os.listdir(tree)) == 1 else errors[0]


def _unpack_all(name: str, source: Source, files: Sequence[str], tree: str, verified: bool,
                say: Callable[[str], None]) -> str:
    """Unpack archives into `tree`, and return the folder in it that the reader accepts; remove `tree` on an error."""
    shutil.rmtree(tree, ignore_errors=True)
    os.makedirs(tree)
    try:
        for path in files:
            say(f'Unpacking {path} ...')
            if path.lower().endswith(source.lists):
                own = os.path.basename(path)
                if name == 'CARS196' and not own.startswith('cars_'):
                    own = 'cars_annos.mat'
                target = os.path.join(tree, own)
                try:
                    shutil.copyfile(path, target)
                except OSError as error:    # it names the source, also where the target has no room
                    raise OSError(error.errno, error.strerror, target) from error
            else:
                unpack.unpack(path, tree, source.max_bytes, source.max_files)
        try:
            if not verified:
                _check_spots(source, tree)
            return _find_root(name, tree)
        except DatasetError as error:
            reason = str(error).replace(tree + os.sep, '').replace(tree, 'it')
            raise DatasetError(f'{" with ".join(files)} is not the complete {name}: {reason}') from None
    except BaseException:
        shutil.rmtree(tree, ignore_errors=True)
        raise


def _publish(ready: str, data_path: str) -> None:
    """Move everything in `ready` into `data_path`. If it is interrupted, the next call moves what is left."""
    # Lists last: without them no reader takes the folder for a dataset.
    names = sorted(os.listdir(ready), key=lambda name: (os.path.isfile(os.path.join(ready, name)), name))
    for name in names:
        if os.path.lexists(os.path.join(data_path, name)):
            raise DatasetError(f'{os.path.join(data_path, name)} exists already, but {data_path} holds no complete '
                               'dataset: move it away, or choose another --data-path.')
    os.sync()       # the files' content is on the disk before their names are
    for name in names:
        os.replace(os.path.join(ready, name), os.path.join(data_path, name))
    os.sync()


def _count(name: str, data_path: str) -> Optional[Tuple[int, int]]:
    """Images to train and to test with; None where the reader does not find the complete dataset."""
    try:
        train, test = get_dataset(name, data_path)
    except DatasetError:
        return None
    return len(train), len(test)


def download(name: str, data_path: str, archives: Sequence[str] = (), urls: Sequence[str] = (), keep: bool = False,
             source: Optional[Source] = None, say: Callable[[str], None] = print, **options) -> Tuple[int, int]:
    """Get a dataset into a folder.

    Parameters
    ----------
    name : str
        A key of `SOURCES`.
    data_path : str
        The folder; made if missing.
    archives : list of str
        Files that the user has already, in place of the download. They are not changed.
    urls : list of str
        Further places of the archive, tried before the known ones.
    keep : bool
        Keep the downloaded archive, in ``data_path``.
    source : Source, optional
        In place of ``SOURCES[name]``.
    say : callable
        Takes the lines to print.
    options
        Of `fetch`.

    Returns
    -------
    train, test : int
        Numbers of images.

    Raises
    ------
    DatasetError
        If it cannot be downloaded, or is not the dataset.
    OSError
        If the disk cannot take it.
    """
    source = source or SOURCES[name]
    for archive in archives:
        if not os.path.isfile(archive):
            raise UsageError(f'--archive {archive}: there is no such file.')
    work = os.path.join(data_path, '.download-' + name)
    os.makedirs(work, exist_ok=True)
    with open(os.path.join(work, 'lock'), 'w') as file:
        if not lock(file):
            raise DatasetError(f'another process is downloading {name} into {data_path}.')
        counts = _count(name, data_path)
        if counts:
            say(f'{name} is already in {data_path}: {counts[0]} training and {counts[1]} test images.')
        else:
            ready = os.path.join(work, 'ready')     # what is unpacked and found right
            if not os.path.isdir(ready):
                files = list(archives) or [fetch(replace(source, urls=[*urls, *source.urls]), work, say=say, **options)]
                verified = all(_verify_archive(source, path) for path in archives) if archives else bool(source.md5)
                try:
                    os.replace(_unpack_all(name, source, files, os.path.join(work, 'tree'), verified, say), ready)
                except DatasetError:
                    if not archives and not verified:
                        os.unlink(files[0])     # it has no known checksum: a new download may be better
                    raise
            _publish(ready, data_path)
            if keep and os.path.exists(os.path.join(work, source.file)):
                os.replace(os.path.join(work, source.file), os.path.join(data_path, source.file))
            counts = _count(name, data_path)
            if counts is None:
                shutil.rmtree(ready)
                raise DatasetError(f'{data_path} has lost files that an earlier call put there: move the rest away, '
                                   'and run the same command again.')
            say(f'{name} is in {data_path}: {counts[0]} training and {counts[1]} test images, as published.')
        shutil.rmtree(work)
    return counts


def main(argv: Optional[Sequence[str]] = None) -> int:
    """The command; returns its exit status."""
    return run_command('dataset.download', lambda: _run(argv))


def _run(argv: Optional[Sequence[str]]) -> None:
    parser = CommandParser(prog='dataset.download', description='Get a dataset: download, verify, unpack.')
    parser.add_argument('dataset', choices=sorted(SOURCES), help='which dataset')
    parser.add_argument('--data-path', type=expand_path, required=True, metavar='DIR',
                        help='folder to put it into; made if missing')
    parser.add_argument('--archive', type=expand_path, nargs='+', default=[], metavar='FILE',
                        help='files you have already, in place of the download; for CARS196 car_ims.tgz and '
                             'cars_annos.mat, or a repacked archive; for INSHOP img.zip and '
                             'list_eval_partition.txt')
    parser.add_argument('--url', action='append', default=[], metavar='URL',
                        help='another place of the file, tried first; may be given several times')
    parser.add_argument('--keep-archive', action='store_true', help='keep the downloaded file, in DIR')
    options = parser.parse_args(argv)
    try:
        download(options.dataset, options.data_path, options.archive, options.url, options.keep_archive)
    except KeyboardInterrupt as error:
        raise type(error)('interrupted; the same command goes on from here') from None


if __name__ == '__main__':
    sys.exit(main())
