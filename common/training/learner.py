"""One network with its loss and optimisers: initialised, stepped, saved and restored, on one device or several."""
from __future__ import annotations

import argparse
import contextlib
import math
import traceback
from typing import Any, Dict, Iterable, Iterator, List, Optional

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from common.training import checkpoint
from common.distributed.cluster import Alone
from common.errors import TrainingError, UsageError, out_of_memory
from common.training.optimisers import GroupTrainer, ParamGroup, cosine, decay, parse_steps
from common.seeds import derived_seed, seed_everything


def initialize(block: gluon.Block, ctx: List[mx.Context]) -> None:
    """Initialises those parameters of a block that are not yet, by their own initialisers."""
    for param in block.collect_params().values():
        if param._data is None and not param._deferred_init:
            param.initialize(ctx=ctx, default_init=mx.init.Xavier(magnitude=0.2))


def said(error: Exception) -> str:
    """What MXNet says in an error, in one line; of an assertion without a word, the assertion."""
    line = str(error).strip().split('\n')[-1].replace('MXNetError: ', '')
    return line or traceback.extract_tb(error.__traceback__)[-1].line or type(error).__name__


class Learner:
    """One network with its loss and optimisers, on one or several devices.

    The batch is split over the devices; each embeds its share; the embeddings are gathered on the first device inside
    the recorded graph, and the loss sees the whole batch there. Gradients are therefore those of one device. Where
    there are several workers (`cluster`, see `common.distributed`), each has a learner, and all take the same steps.
    """

    def __init__(self, experiment, opt: argparse.Namespace, ctx: List[mx.Context], cluster: Optional[Alone] = None):
        self.opt, self.ctx, self.cluster = opt, ctx, cluster or Alone()
        self.net, self.loss = experiment.net, experiment.loss
        self.sampler = self.cluster.own_part(experiment.sampler)
        self.embed = experiment.embed or experiment.net
        initialize(self.net, ctx)
        initialize(self.loss, ctx[:1])
        try:
            for context in ctx:
                self.net(mx.nd.zeros((1, opt.image_size, opt.image_size, 3), ctx=context, dtype='uint8')).wait_to_read()
        except mx.base.MXNetError as error:
            if out_of_memory(error):
                raise
            raise UsageError(f'--image-size {opt.image_size} is not for --model {opt.model}: {said(error)}') from error
        if not opt.disable_hybridize:
            self.net.hybridize(static_alloc=True)
            self.loss.hybridize(static_alloc=True)
        devices = 'device' if opt.kvstore == 'dist_sync' else opt.kvstore
        self.trainers = []
        for group in experiment.param_groups:
            if group.trainable():
                with self._refusing_optimizer(group):
                    self.trainers.append(GroupTrainer(group, devices))
        self._has_stepped = False
        self._steps, self._multiplier = 0, 1.0
        trainable = [p for p in self.net.collect_params().values() if p.grad_req != 'null']
        self._watched = trainable[-1] if trainable else None

    def count_parameters(self) -> Dict[str, int]:
        """Numbers in the `backbone`, the `head` and the `loss`, and how many of them are trained (`trainable`).

        Constants and the running statistics of batch norm are no parameters.
        """
        def of(block: gluon.Block) -> Dict[str, gluon.Parameter]:
            return {name: param for name, param in block.collect_params().items()
                    if not isinstance(param, gluon.Constant) and not name.endswith(('running_mean', 'running_var'))}

        def count(params: Iterable[gluon.Parameter]) -> int:
            return sum(int(np.prod(param.shape)) for param in params)

        net, backbone, loss = of(self.net), of(getattr(self.net, 'backbone', self.net)), of(self.loss)
        learned = {id(param) for trainer in self.trainers for param in trainer.group.trainable()}
        return {'backbone': count(backbone.values()), 'loss': count(loss.values()),
                'head': count(param for name, param in net.items() if name not in backbone),
                'trainable': count(p for p in {**net, **loss}.values() if id(p) in learned)}

    def forward(self, images: np.ndarray) -> mx.nd.NDArray:
        """Embeddings (B, E) of a batch of uint8 images (B, H, W, 3), on the first device."""
        shares = np.array_split(images, len(self.ctx))
        parts = [self.net(mx.nd.array(share, ctx=context, dtype='uint8')) for share, context in zip(shares, self.ctx)]
        if len(parts) == 1:
            return parts[0]
        return mx.nd.concat(*[part.as_in_context(self.ctx[0]) for part in parts], dim=0)

    def step(self, images: np.ndarray, labels: np.ndarray) -> float:
        """One step of all optimisers; returns the loss, averaged over the workers like the gradients."""
        labels = mx.nd.array(labels, ctx=self.ctx[0], dtype='float32')
        self._steps += 1
        if self.opt.warmup:
            self._set_rates(self._steps)
        try:
            with autograd.record():
                value = self.loss(self.forward(images), labels)
            value.backward()
            self._wait_at_first()
        except mx.base.MXNetError:
            self._refuse_network(images)
            raise
        gradients = [copies for trainer in self.trainers for copies in trainer.add_up()]
        self.cluster.average([[value], *gradients])
        for trainer in self.trainers:
            with self._refusing_optimizer(trainer.group):
                trainer.step()
                self._wait_at_first()
        self._has_stepped = True
        return float(value.asscalar())

    def _wait_at_first(self) -> None:
        """In the first step, has what MXNet cannot do raised here and not later."""
        if not self._has_stepped:
            mx.nd.waitall()

    def _refuse_network(self, images: np.ndarray) -> None:
        """After a first step that failed: raises a UsageError where MXNet cannot train the network with any loss."""
        if self._has_stepped:
            return
        try:
            with autograd.record():
                embeddings = self.forward(images)
            embeddings.backward()
            mx.nd.waitall()
        except mx.base.MXNetError as error:
            if not out_of_memory(error):
                hint = ' (MXNET_MKLDNN_ENABLED=0 may help, and is slower)' if self.ctx[0].device_type == 'cpu' else ''
                raise UsageError(f'--model {self.opt.model}: MXNet cannot train this network on {self.ctx[0]} with '
                                 f'--image-size {self.opt.image_size}: {said(error)}{hint}') from error

    @contextlib.contextmanager
    def _refusing_optimizer(self, group: ParamGroup) -> Iterator[None]:
        """Whatever MXNet's optimiser raises is a UsageError, if it is the one of --optimizer."""
        try:
            yield
        except Exception as error:
            if out_of_memory(error) or group.optimizer != self.opt.optimizer:
                raise
            raise UsageError(f'--optimizer {group.optimizer}: MXNet cannot train with it: {said(error)}') from error

    def start_epoch(self, epoch: int, seed: int) -> float:
        """Seeds all that draws at random and sets the learning rates; returns the first group's, of the last batch."""
        seed_everything(seed, epoch)
        if hasattr(self.loss, 'reseed'):
            self.loss.reseed(derived_seed(seed, epoch, 1))
        if self.cluster.size > 1:  # alone, the sampler's generator runs on through the epochs
            self.sampler.reseed(derived_seed(seed, epoch, 2))
        opt = self.opt
        self._multiplier = (cosine(epoch, opt.epochs, opt.warmup) if opt.schedule == 'cosine' else
                            decay(epoch, parse_steps(opt.steps), opt.factor))
        self._steps = len(self.sampler) * (epoch - 1)
        if self.opt.freeze_backbone:
            self.net.freeze_backbone(self.opt.freeze_backbone == 'all' or epoch <= self.opt.freeze_backbone)
        for trainer in self.trainers:
            trainer.start_epoch(epoch)
        return self._set_rates(self._steps + len(self.sampler))

    def _set_rates(self, step: int) -> float:
        """Sets the learning rates of a step of the run, counted from 1; returns the first group's."""
        warmup = self.opt.warmup * len(self.sampler)
        rise = min(1.0, step / warmup) if warmup else 1.0
        return [trainer.scale_rate(self._multiplier * rise) for trainer in self.trainers][0]

    def start_alike(self) -> None:
        """Takes over the parameters of worker 0."""
        if self.cluster.size > 1:
            _, arrays = self.cluster.from_first({}, self.arrays())
            self.load_arrays(arrays, 'what worker 0 sent')

    def end_epoch(self) -> None:
        """Averages batch norm's running statistics over the workers, each device's for itself."""
        statistics = self.net.collect_params('.*running_(mean|var)$').values()
        self.cluster.average([[array] for param in statistics for array in param.list_data()])

    def is_finite(self) -> bool:
        """Are all parameters finite numbers?"""
        sums = [mx.nd.sum(param.list_data()[0]) for block in (self.net, self.loss)
                for param in block.collect_params().values()]
        return all(np.isfinite(total.asscalar()) for total in sums)

    def gradient_seen(self) -> mx.nd.NDArray:
        """Largest gradient of the network's last layer in this step, left on the device."""
        if self._watched is None or self._watched.grad_req == 'null':
            return mx.nd.ones(1)
        return mx.nd.max(mx.nd.abs(self._watched.list_grad()[0]))

    def largest_gradient(self) -> Dict[str, Any]:
        """Name and value of the largest gradient, for the message of a run that diverged."""
        found = [{'parameter': name, 'value': max(float(mx.nd.max(mx.nd.abs(grad)).asscalar())
                                                  for grad in param.list_grad())}
                 for block in (self.net, self.loss) for name, param in block.collect_params().items()
                 if param.grad_req != 'null']
        return max(found, key=lambda one: (math.isnan(one['value']), one['value']),
                   default={'parameter': None, 'value': 0.0})

    def arrays(self) -> Dict[str, np.ndarray]:
        """All of its state, for a checkpoint."""
        arrays = {**checkpoint.pack('net', checkpoint.block_arrays(self.net)),
                  **checkpoint.pack('loss', checkpoint.block_arrays(self.loss)),
                  **checkpoint.pack('sampler', {k: np.asarray(v) for k, v in self.sampler.state_dict().items()})}
        for i, trainer in enumerate(self.trainers):
            arrays.update(checkpoint.pack(f'optimizer{i}', trainer.state_arrays()))
        return arrays

    def load_arrays(self, arrays: Dict[str, np.ndarray], path: str) -> None:
        """Puts back what :meth:`arrays` returned; `path` is named in the error."""
        try:
            checkpoint.load_block_arrays(self.net, checkpoint.unpack('net', arrays))
            checkpoint.load_block_arrays(self.loss, checkpoint.unpack('loss', arrays))
            state = checkpoint.unpack('sampler', arrays)
            self.sampler.load_state_dict({k: v if v.ndim else v.item() for k, v in state.items()})
            for i, trainer in enumerate(self.trainers):
                trainer.load_state_arrays(checkpoint.unpack(f'optimizer{i}', arrays))
        except (KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError, RuntimeError) as error:
            raise TrainingError(f'{path} does not fit this network, loss and optimiser: {error}') from error
