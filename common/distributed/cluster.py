"""Training with several processes, on one machine or several: ``--kvstore dist_sync``, started by `common.launch`.

Every worker computes its own batches with the same parameters. MXNet's parameter server does one thing only: it adds
up what the workers push. After each batch that is the loss and all gradients, in one piece; every worker then takes the
same step with the same optimiser, so parameters and optimiser states are the same bits on all of them, and a checkpoint
of worker 0 is a checkpoint of all.

Gluon's Trainer could talk to the server itself. It would then keep the optimiser's state on the server, from where it
cannot be saved, and several trainers (one a parameter group) would use the same keys for different parameters; with
update_on_kvstore=False it ended with wrong weights in 2 of 10 trials, for a reason that we did not find. The sum below
was right in all of 26: to NumPy's bits in 22 with two workers, to 1e-5 in 4 with three, whose order of summing is
free.
"""
from __future__ import annotations

import io
import itertools
import json
import os
from typing import Any, Dict, Iterator, List, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet import gluon

from common.errors import TrainingError, UsageError
from common.seeds import derived_seed

VARIABLES = ('DMLC_ROLE', 'DMLC_PS_ROOT_URI', 'DMLC_PS_ROOT_PORT', 'DMLC_NUM_WORKER', 'DMLC_NUM_SERVER')
#: Number of this worker. The parameter server numbers workers too, but in the order in which they happen to arrive.
RANK = 'DML_WORKER'
_CHUNK = 2 ** 16    # numbers in one message of a broadcast


class Alone:
    """A single process, which has nothing to add up and nothing to agree on.

    Attributes
    ----------
    rank, size : int
        Number of this worker, from 0, and of all.
    """
    rank, size = 0, 1

    def own_seed(self, seed: int) -> int:
        """The seed of what this worker draws."""
        return seed

    def own_part(self, sampler: gluon.data.Sampler) -> gluon.data.Sampler:
        """The batches of an epoch that this worker computes."""
        return sampler

    def average(self, arrays: List[List[mx.nd.NDArray]]) -> None:
        """Replaces every array by its mean over the workers, in place; each is given with its copies on all devices."""

    def from_first(self, state: Dict[str, Any], arrays: Dict[str, np.ndarray]) -> Tuple[Dict, Dict]:
        """What worker 0 gave: a dictionary in JSON's types, and named arrays."""
        return state, arrays

    def to_first(self, records: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
        """The records of all workers, in JSON's types, on every worker."""
        return records

    def require_same(self, state: Dict[str, Any]) -> None:
        """Raises TrainingError where this worker's flags or data are not those of worker 0."""


class Cluster(Alone):
    """One of several workers. All of them must call the same methods in the same order, with arrays of equal shapes.

    Waits until all workers and servers are there; a process can do that once (:func:`get_cluster`).
    """

    def __init__(self):
        self._store = mx.kv.create('dist_sync')
        self._keys: Dict[int, int] = {}
        self.size = self._store.num_workers
        self.rank = int(os.environ.get(RANK, self._store.rank))

    def own_seed(self, seed: int) -> int:
        return derived_seed(seed, self.size, self.rank)

    def own_part(self, sampler: gluon.data.Sampler) -> gluon.data.Sampler:
        return WorkersPart(sampler, self.size)

    def _sum(self, values: mx.nd.NDArray) -> mx.nd.NDArray:
        """Sum over the workers, float32 (N,) on the CPU; one key of the store for each N.

        The server answers a push when all workers have pushed, and keeps the sum until all have pushed again, which
        none of them does before it has pulled. Nothing else of ours is under way meanwhile.
        """
        if values.size not in self._keys:
            self._keys[values.size] = len(self._keys)
            self._store.init(self._keys[values.size], mx.nd.zeros_like(values))
        total = mx.nd.zeros_like(values)
        self._store.push(self._keys[values.size], values)
        self._store.pull(self._keys[values.size], out=total)
        total.wait_to_read()
        return total

    def average(self, arrays: List[List[mx.nd.NDArray]]) -> None:
        flat = [copies[0].as_in_context(mx.cpu()).reshape(-1) for copies in arrays]
        mean = self._sum(mx.nd.concat(*flat, dim=0)) / self.size
        end = 0
        for copies in arrays:
            start, end = end, end + copies[0].size
            for copy in copies:
                mean[start:end].reshape(copy.shape).copyto(copy)

    def from_first(self, state: Dict[str, Any], arrays: Dict[str, np.ndarray]) -> Tuple[Dict, Dict]:
        content = io.BytesIO()
        if not self.rank:
            np.savez(content, state=np.array(json.dumps(state)), **arrays)
        with np.load(io.BytesIO(self._bytes_from(0, content.getvalue())), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return json.loads(str(arrays.pop('state'))), arrays

    def to_first(self, records: List[Dict[str, Any]]) -> List[Dict[str, Any]]:
        return [record for rank in range(self.size)
                for record in json.loads(self._bytes_from(rank, json.dumps(records).encode()).decode())]

    def _bytes_from(self, rank: int, content: bytes) -> bytes:
        """Two bytes in each float32: a sum to which the others give zeros returns every whole number below 2^24."""
        content = content if rank == self.rank else b''
        head = np.array(divmod(len(content), 2 ** 20), dtype=np.float32)
        high, low = self._sum(mx.nd.array(head)).asnumpy()
        length = int(high) * 2 ** 20 + int(low)
        words = np.zeros(-(-length // (2 * _CHUNK)) * _CHUNK, dtype=np.uint16)
        words.view(np.uint8)[:len(content)] = np.frombuffer(content, dtype=np.uint8)
        for start in range(0, len(words), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            words[chunk] = self._sum(mx.nd.array(words[chunk], dtype=np.float32)).asnumpy()
        return words.tobytes()[:length]

    def require_same(self, state: Dict[str, Any]) -> None:
        expected, _ = self.from_first(state, {})
        for name, value in state.items():
            if value != expected.get(name):
                raise TrainingError(f'the {name} of worker {self.rank} are not those of worker 0')


class WorkersPart(gluon.data.Sampler):
    """The first ``1 / size`` of the batches of a sampler: an epoch of one of `size` workers.

    Every worker draws from all images, in its own order. Its batches are as large as those of a single process, because
    the loss is made for that size. Together the workers see about as many images in an epoch as a single process.
    """

    def __init__(self, sampler: gluon.data.Sampler, size: int):
        self._sampler, self._length = sampler, max(len(sampler) // size, 1)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[List[int]]:
        return itertools.islice(iter(self._sampler), self._length)

    def reseed(self, seed: int) -> None:
        """Starts the generator again; done at each epoch, so that a checkpoint need not hold all workers' states."""
        self._sampler.reseed(seed)

    def state_dict(self) -> Dict[str, Any]:
        return self._sampler.state_dict()

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        self._sampler.load_state_dict(state)


_cluster: Optional[Cluster] = None


def get_cluster(kvstore: str) -> Alone:
    """The workers that --kvstore stands for; :class:`Alone` for all values but ``dist_sync``.

    Raises
    ------
    UsageError
        If the environment names no cluster.
    """
    global _cluster
    if kvstore != 'dist_sync':
        return Alone()
    missing = [name for name in VARIABLES if name not in os.environ]
    if missing:
        raise UsageError(f'--kvstore dist_sync is for processes that python -m common.launch starts: the environment '
                         f'variable {missing[0]} is not set')
    if 'PORT' in os.environ:
        raise UsageError('--kvstore dist_sync: unset the environment variable PORT, which MXNet would read')
    if _cluster is None:
        _cluster = Cluster()
    return _cluster
