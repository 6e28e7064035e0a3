"""A short run leaves nothing behind (how memory grows is for `tests.faults.soak`, a long one)."""
import subprocess
import sys
import threading

import mxnet as mx

from models.losses.distances import distances
from tests.faults import soak


def test_a_run_leaves_nothing_behind():
    figures = soak.run(iterations=20, every=10)
    assert figures['children'] == 0


def test_what_is_left_is_noticed(tmp_path):
    before, stop = soak.held(), threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    assert any('threads' in left for left in soak.more(before, soak.held()))
    stop.set()
    thread.join()
    with open(tmp_path / 'x', 'wb'):
        assert any('open files' in left for left in soak.more(before, soak.held()))
    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
    assert any('children' in left for left in soak.more(before, soak.held()))
    child.kill()
    child.wait()


def test_gradients_of_distances_lose_no_memory():
    """MXNet loses 6 KB at every gradient of a `concat` of two matrices on the CPU, as one wrote distances before."""
    points = mx.nd.random.normal(shape=(8, 8))
    points.attach_grad()

    def step():
        with mx.autograd.record():
            total = distances(mx.nd, points).sum()
        total.backward()
        total.wait_to_read()

    for _ in range(300):
        step()
    before = soak.resident()
    for _ in range(1000):
        step()
    assert soak.resident() - before < 2000
