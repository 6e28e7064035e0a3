"""Parameter groups, the learning-rate schedule, and optimiser states in a plain format."""
from __future__ import annotations

import dataclasses
import inspect
import math
from typing import Any, Dict, Iterable, List, Optional, Union

import mxnet as mx
import numpy as np
from mxnet import gluon

Parameters = Union[gluon.ParameterDict, Dict[str, gluon.Parameter], Iterable[gluon.Parameter]]


def parse_steps(text: str) -> List[int]:
    """Reads --steps: ``12,14`` -> [12, 14], ``-4`` -> [-4] (every fourth epoch), ``0`` -> [] (never).

    Raises
    ------
    ValueError
        If the text is of another form.
    """
    try:
        steps = [int(part) for part in text.split(',')]
    except ValueError:
        steps = [0, 0]
    if steps == [0]:
        return []
    if len(steps) == 1 or (min(steps) > 0 and sorted(set(steps)) == steps):
        return steps
    raise ValueError(f'{text!r} is not a rising list of epochs such as 12,14, nor -N for every N epochs, nor 0')


def default_momentum(optimizer: str) -> Optional[float]:
    """Momentum of an optimiser of MXNet if none is given; None for one that has no such setting."""
    arguments = inspect.signature(mx.optimizer.Optimizer.opt_registry[optimizer].__init__).parameters
    return arguments['momentum'].default if 'momentum' in arguments else None


def decay(epoch: int, steps: List[int], factor: float) -> float:
    """What the learning rates are multiplied by in an epoch.

    Parameters
    ----------
    epoch : int
        Counted from 1. A step of 12 means: after 12 epochs, so from the 13th on.
    steps : list of int
        As :func:`parse_steps` returns them.
    factor : float
        Applied once per step passed.
    """
    done = epoch - 1
    passed = done // -steps[0] if steps and steps[0] < 0 else sum(step <= done for step in steps)
    return factor ** passed


def cosine(epoch: int, epochs: int, warmup: int) -> float:
    """What the learning rates are multiplied by in an epoch, counted from 1: half a cosine over those after `warmup`.

    1 in the first of them; the 0 at its end would be reached in the epoch after the last.
    """
    return (1 + math.cos(math.pi * max(0, epoch - 1 - warmup) / (epochs - warmup))) / 2


@dataclasses.dataclass
class ParamGroup:
    """Parameters that learn alike.

    Parameters
    ----------
    params : ParameterDict, dict or list of Parameter
        Those with ``grad_req='null'`` (running statistics) are left alone. A Parameter's own `lr_mult` still counts.
    lr : float
        Learning rate before decay.
    wd : float
        Weight decay.
    optimizer : str
        Name of an MXNet optimiser.
    options : dict
        Further arguments of the optimiser, e.g. ``{'momentum': 0.9}``.
    clip : float or None
        Element-wise bound of the gradient.
    frozen_epochs : int
        The group does not move in the first so many epochs; its gradients are computed, and batch norm's running
        statistics move.
    """
    params: Parameters
    lr: float
    wd: float = 0.0
    optimizer: str = 'adam'
    options: Dict[str, Any] = dataclasses.field(default_factory=dict)
    clip: Optional[float] = 10.0
    frozen_epochs: int = 0

    def trainable(self) -> List[gluon.Parameter]:
        """The group's parameters that have a gradient, in a fixed order."""
        params = self.params.values() if hasattr(self.params, 'values') else self.params
        return [p for p in params if p.grad_req != 'null']


def param_group(opt, params: Parameters, lr: Optional[float] = None, wd: Optional[float] = None,
                frozen_epochs: int = 0) -> ParamGroup:
    """A group that follows --optimizer, --lr, --wd, --epsilon, --momentum and --clip-gradient."""
    options = {'epsilon': opt.epsilon} if opt.optimizer in ('adam', 'nadam', 'ftml', 'rmsprop', 'adadelta') else {}
    if opt.momentum is not None:
        options['momentum'] = opt.momentum
    return ParamGroup(params, opt.lr if lr is None else lr, opt.wd if wd is None else wd, opt.optimizer, options,
                      clip=opt.clip_gradient or None, frozen_epochs=frozen_epochs)


class GroupTrainer:
    """The optimiser of one :class:`ParamGroup`: a Gluon Trainer with a schedule and a state that can be saved."""

    def __init__(self, group: ParamGroup, kvstore: str):
        options = dict(group.options, learning_rate=group.lr, wd=group.wd)
        if group.clip is not None:
            options['clip_gradient'] = group.clip
        self.group = group
        self.active = True
        self._trainer = gluon.Trainer(group.trainable(), group.optimizer, options, kvstore=kvstore,
                                      update_on_kvstore=False)

    def start_epoch(self, epoch: int) -> None:
        """Lets the group move, or not."""
        self.active = epoch > self.group.frozen_epochs

    def scale_rate(self, multiplier: float) -> float:
        """Sets the learning rate to `multiplier` x the group's, and returns it."""
        lr = self.group.lr * multiplier
        self._trainer.set_learning_rate(lr)
        return lr

    def add_up(self) -> List[List[mx.nd.NDArray]]:
        """Adds up the gradients of all devices; returns those that :meth:`step` will use, as a list of equal copies."""
        if not self.active:
            return []
        self._trainer.allreduce_grads()
        return [param.list_grad() for param in self._trainer._params if param.grad_req != 'null']

    def step(self) -> None:
        """Moves the parameters, but for those that have no gradient now (--freeze-backbone)."""
        if self.active:
            self._trainer.update(1)

    def state_arrays(self) -> Dict[str, np.ndarray]:
        """Optimiser state as named NumPy arrays: ``INDEX/SLOT`` and the update counts.

        The state is the same on every device, so the first one's is kept.
        """
        updater, optimizer = self._trainer._updaters[0], self._trainer._optimizer
        arrays = {f'{i}/{slot}': array.asnumpy()
                  for i, state in updater.states.items() for slot, array in enumerate(_flat(state))}
        counts = next((c for c in optimizer._all_index_update_counts.values() if c), {})
        arrays['counts'] = np.array(sorted(counts.items()), dtype=np.int64).reshape(-1, 2)
        return arrays

    def load_state_arrays(self, arrays: Dict[str, np.ndarray]) -> None:
        """Puts back what :meth:`state_arrays` returned.

        Raises
        ------
        ValueError
            If the arrays do not fit the optimiser.
        """
        optimizer = self._trainer._optimizer
        if arrays['counts'].ndim != 2:
            raise ValueError('the numbers of updates are no table')
        counts = {int(i): int(n) for i, n in arrays['counts']}
        for device, context in enumerate(self._trainer._contexts):
            updater = self._trainer._updaters[device]
            for i, param in enumerate(self._trainer._params):
                if i not in counts:     # it has not moved yet
                    continue
                weight = param.data(context)
                state = optimizer.create_state_multi_precision(i, weight)
                for slot, array in enumerate(_flat(state)):
                    saved = arrays.get(f'{i}/{slot}')
                    if saved is None or saved.shape != array.shape:
                        raise ValueError(f'the optimiser state of {param.name} does not fit {self.group.optimizer}')
                    array[:] = mx.nd.array(saved, ctx=context, dtype=saved.dtype)
                updater.states[i] = state
                updater.states_synced[i] = True
            optimizer._all_index_update_counts[context.device_id] = dict(counts)
        optimizer._set_current_context(self._trainer._contexts[0].device_id)
        optimizer.num_update = max(counts.values(), default=0)


def _flat(state) -> List[mx.nd.NDArray]:
    if state is None:
        return []
    return [array for part in state for array in _flat(part)] if isinstance(state, (list, tuple)) else [state]
