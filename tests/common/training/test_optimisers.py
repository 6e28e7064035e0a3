"""Learning-rate schedule, parameter groups, optimiser state."""
import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

from common.training.optimisers import GroupTrainer, ParamGroup, decay, parse_steps


@pytest.mark.parametrize('text, epochs, expected', [
    ('0', [1, 5, 100], [1, 1, 1]),
    ('12,14', [1, 12, 13, 14, 15, 99], [1, 1, .5, .5, .25, .25]),
    ('-4', [1, 4, 5, 8, 9], [1, 1, .5, .5, .25]),
    ('3', [3, 4], [1, .5]),
])
def test_decay_follows_the_published_logs(text, epochs, expected):
    """The paper's logs count epochs from 0 and halve the rate in epoch 12 of --steps 12,14: the 13th."""
    assert [decay(epoch, parse_steps(text), 0.5) for epoch in epochs] == expected


@pytest.mark.parametrize('text', ['', 'x', '0,3', '3,3', '4,2', '-2,4', '1.5'])
def test_bad_steps_are_refused(text):
    with pytest.raises(ValueError):
        parse_steps(text)


def network(ctx):
    net = gluon.nn.HybridSequential()
    net.add(gluon.nn.Dense(4, in_units=3), gluon.nn.Dense(2, in_units=4))
    net.initialize(mx.init.Xavier(), ctx=ctx)
    return net


def train(net, trainer, steps, ctx, seed=0):
    rng = np.random.RandomState(seed)
    for _ in range(steps):
        x = rng.normal(size=(4, 3)).astype(np.float32)
        with autograd.record():
            losses = [(net(mx.nd.array(part, ctx=c)) ** 2).sum() for part, c in zip(np.split(x, len(ctx)), ctx)]
        autograd.backward(losses)
        trainer.step()


def values(net):
    return np.concatenate([p.list_data()[0].asnumpy().ravel() for p in net.collect_params().values()])


@pytest.mark.parametrize('optimizer, options', [('adam', {}), ('sgd', {'momentum': 0.9}), ('sgd', {}), ('rmsprop', {}),
                                                ('nag', {'momentum': 0.9})])
@pytest.mark.parametrize('devices', [1, 2])
def test_a_restored_optimiser_goes_on_bit_for_bit(optimizer, options, devices):
    ctx = [mx.cpu(i) for i in range(devices)]

    def fresh():
        mx.random.seed(1)
        net = network(ctx)
        return net, GroupTrainer(ParamGroup(net.collect_params(), 0.01, 1e-3, optimizer, options), 'device')

    net, trainer = fresh()
    train(net, trainer, 3, ctx)
    weights, state = [p.list_data()[0].asnumpy() for p in net.collect_params().values()], trainer.state_arrays()
    train(net, trainer, 3, ctx, seed=1)

    again, restored = fresh()
    for p, value in zip(again.collect_params().values(), weights):
        p.set_data(mx.nd.array(value))
    restored.load_state_arrays(state)
    train(again, restored, 3, ctx, seed=1)
    np.testing.assert_array_equal(values(net), values(again))


def test_a_state_of_another_shape_is_refused():
    net, ctx = network([mx.cpu()]), [mx.cpu()]
    trainer = GroupTrainer(ParamGroup(net.collect_params(), 0.01), 'device')
    train(net, trainer, 1, ctx)
    state = trainer.state_arrays()
    state['0/0'] = state['0/0'][:1]
    with pytest.raises(ValueError):
        trainer.load_state_arrays(state)


def test_a_frozen_group_waits_and_then_moves():
    net, ctx = network([mx.cpu()]), [mx.cpu()]
    trainer = GroupTrainer(ParamGroup(net.collect_params(), 0.01, frozen_epochs=1), 'device')
    before = values(net)
    trainer.start_epoch(1)
    train(net, trainer, 1, ctx)
    np.testing.assert_array_equal(before, values(net))
    trainer.start_epoch(2)
    train(net, trainer, 1, ctx)
    assert not np.array_equal(before, values(net))


def test_gradients_are_clipped_element_by_element():
    net, ctx = network([mx.cpu()]), [mx.cpu()]
    trainer = GroupTrainer(ParamGroup(net.collect_params(), 1.0, optimizer='sgd', clip=0.01), 'device')
    before = values(net)
    train(net, trainer, 1, ctx)
    assert 0 < np.abs(values(net) - before).max() <= 0.01 + 1e-6
