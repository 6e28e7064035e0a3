"""Atomic writes and locks."""
import hashlib
import os
import subprocess
import sys

import pytest

from common.files import atomic_write, expand_path, hash_file, lock


def test_an_error_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / 'x'
    path.write_bytes(b'old')
    with pytest.raises(RuntimeError), atomic_write(str(path)) as file:
        file.write(b'new, half')
        raise RuntimeError
    assert path.read_bytes() == b'old'
    assert os.listdir(tmp_path) == ['x']


def test_success_replaces_the_file(tmp_path):
    path = tmp_path / 'x'
    path.write_bytes(b'old')
    with atomic_write(str(path)) as file:
        file.write(b'new')
        assert path.read_bytes() == b'old'
    assert path.read_bytes() == b'new'
    assert os.listdir(tmp_path) == ['x']


def test_an_os_error_names_the_target(tmp_path):
    with pytest.raises(OSError) as caught, atomic_write(str(tmp_path / 'no' / 'x')):
        pass
    assert caught.value.filename == str(tmp_path / 'no' / 'x')


def test_file_size_limit_leaves_the_old_file(tmp_path):
    code = ('import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
            'resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n'
            'from common.files import atomic_write\n'
            'try:\n'
            '    with atomic_write(sys.argv[1]) as f: f.write(b"x" * 5000)\n'
            'except OSError as e: print("refused", e.filename)\n')
    path = tmp_path / 'x'
    path.write_bytes(b'old')
    done = subprocess.run([sys.executable, '-c', code, str(path)], capture_output=True, text=True)
    assert done.stdout == f'refused {path}\n', done.stderr
    assert path.read_bytes() == b'old' and os.listdir(tmp_path) == ['x']


def test_a_lock_is_exclusive_and_dies_with_its_process(tmp_path):
    path = str(tmp_path / 'x')
    code = ('import sys, time; from common.files import lock\n'
            'f = open(sys.argv[1], "ab"); print(lock(f), flush=True); time.sleep(60)')
    other = subprocess.Popen([sys.executable, '-c', code, path], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == 'True\n'
    with open(path, 'ab') as file:
        assert not lock(file)
        other.kill()
        other.wait()
        assert lock(file)
    other.stdout.close()


def test_a_lock_on_a_deleted_file_is_none(tmp_path):
    """The last holder deleted it between our opening and locking: the next process will make and lock another."""
    path = tmp_path / 'x'
    with open(path, 'ab') as file:
        path.unlink()
        assert not lock(file)


def test_arrays_are_written_whole_or_not_at_all(tmp_path):
    """A full disk is one OSError with the file's name, and nothing is printed when the archive is collected."""
    code = ('import numpy as np, resource, sys\n'
            'from common.files import read_npz, write_npz\n'
            'write_npz(sys.argv[1], {"a": np.arange(3), "b": np.array("text")})\n'
            'resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n'
            'for n in (100, 500, 100000):\n'
            '    try: write_npz(sys.argv[1], {"a": np.zeros(n), "b": np.zeros(n)})\n'
            '    except OSError as e: print("refused", e.filename)\n'
            'print(read_npz(sys.argv[1])["a"].tolist())\n')
    path = tmp_path / 'x'
    done = subprocess.run([sys.executable, '-c', code, str(path)], capture_output=True, text=True)
    assert done.stdout == f'refused {path}\n' * 3 + '[0, 1, 2]\n' and not done.stderr, done.stderr
    assert os.listdir(tmp_path) == ['x']


def test_an_error_without_a_number_says_what_it_said(tmp_path):
    with pytest.raises(OSError, match='4 requested and 0 written'), atomic_write(str(tmp_path / 'x')):
        raise OSError('4 requested and 0 written')


def test_hash_of_a_file(tmp_path):
    (tmp_path / 'x').write_bytes(b'x' * (3 << 20))
    assert hash_file(str(tmp_path / 'x')) == hashlib.sha256(b'x' * (3 << 20)).hexdigest()
    assert hash_file(str(tmp_path / 'x'), 'md5') == hashlib.md5(b'x' * (3 << 20)).hexdigest()


def test_paths_are_expanded_as_a_shell_does(monkeypatch):
    monkeypatch.setenv('HOME', '/home/me')
    monkeypatch.setenv('WHERE', 'data')
    assert expand_path('~/$WHERE/${WHERE}x') == '/home/me/data/datax'
    assert expand_path('plain/~') == 'plain/~'
