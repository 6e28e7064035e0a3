"""From images to embeddings: runs a network over all batches of a loader."""
from __future__ import annotations

import collections
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple, Union

import mxnet as mx
import numpy as np

from common.evaluation.retrieval import EvaluationError

LATE = 2                # batches whose embeddings may be under way on the device


def noting_indices(loader: Iterable, seen: List[np.ndarray]) -> Iterator[Any]:
    """The batches of a loader; `seen` gets the indices of the images of each, which leave out unreadable images."""
    for batch in loader:
        seen.append(batch.indices)
        yield batch


def embed(net: Callable, loader: Iterable, ctx: Union[mx.Context, Sequence[mx.Context]],
          ) -> Tuple[Union[np.ndarray, Dict[str, np.ndarray]], np.ndarray]:
    """Embeds all images of a loader.

    Every batch that reaches the network has the shape of the first one (a smaller one is filled up with black images,
    whose embeddings are cut off), so that a hybridized network is compiled once. Embeddings are fetched late: MXNet
    computes while the next images are decoded.

    Parameters
    ----------
    net : callable from (B, H, W, 3) uint8 NDArray to (B, E) NDArray, or to an OrderedDict name -> (B, E) NDArray.
    loader : iterable of batches with `.images` (B, H, W, 3) uint8 and `.labels` (B,), NumPy arrays.
    ctx : devices; every batch is split over them.

    Returns
    -------
    embeddings : (N, E) float32 array, or an OrderedDict of them if the network returns one.
    labels : (N,) int64 array.

    Raises
    ------
    EvaluationError : the loader has no images.
    """
    devices = list(ctx) if isinstance(ctx, (list, tuple)) else [ctx]
    share = 0                                   # images of one batch for each device
    pending, labels = collections.deque(), []
    blocks: Dict[Optional[str], List[np.ndarray]] = collections.OrderedDict()

    def fetch():
        outputs, count = pending.popleft()
        for name in outputs[0]:
            rows = np.concatenate([output[name].asnumpy() for output in outputs])[:count]
            blocks.setdefault(name, []).append(rows.astype(np.float32, copy=False))

    for batch in loader:
        labels.append(np.asarray(batch.labels, dtype=np.int64))
        share = share or -(-len(batch.images) // len(devices))
        whole = share * len(devices)
        for start in range(0, len(batch.images), whole):
            images = batch.images[start:start + whole]
            count = len(images)
            if count < whole:
                images = np.concatenate([images, np.zeros((whole - count,) + images.shape[1:], images.dtype)])
            outputs = []
            for i, device in enumerate(devices):
                output = net(mx.nd.array(images[i * share:(i + 1) * share], ctx=device, dtype=images.dtype))
                outputs.append(output if isinstance(output, dict) else {None: output})
            pending.append((outputs, count))
            if len(pending) > LATE:
                fetch()
    while pending:
        fetch()
    if not labels:
        raise EvaluationError('there are no images to embed')
    arrays = collections.OrderedDict((name, np.concatenate(rows)) for name, rows in blocks.items())
    return arrays.get(None, arrays), np.concatenate(labels)
