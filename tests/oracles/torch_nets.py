"""PyTorch's ResNet50 (torchvision) and bn_inception (Cadene) in NumPy, and MXNet's ResNet symbol: what conversions are
compared with. Written from the networks' definitions, not from our code."""
from __future__ import annotations

import mxnet as mx
import numpy as np


def _windows(x, kernel, stride, value, pad, ceil):
    """(B, C, kernel, kernel, h, w) views of x, padded by `value`; `ceil` adds the last, partial window."""
    size = x.shape[2] + 2 * pad
    out = (-(-(size - kernel) // stride) if ceil else (size - kernel) // stride) + 1
    if ceil and (out - 1) * stride >= x.shape[2] + pad:
        out -= 1  # a window must start inside
    more = max(0, (out - 1) * stride + kernel - size)
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad + more), (pad, pad + more)), constant_values=value)
    b, c, h, w = x.strides
    return np.lib.stride_tricks.as_strided(x, x.shape[:2] + (kernel, kernel, out, out),
                                           (b, c, h, w, h * stride, w * stride))


def convolution(x, weight, bias=None, stride=1, pad=0):
    columns = _windows(x, weight.shape[2], stride, 0, pad, False)
    y = np.tensordot(columns, weight, ((1, 2, 3), (1, 2, 3))).transpose(0, 3, 1, 2)
    return y if bias is None else y + bias[:, None, None]


def max_pool(x, kernel, stride, pad=0, ceil=False):
    return _windows(x, kernel, stride, -np.inf, pad, ceil).max((2, 3))


def average_pool(x):
    """3x3, stride 1, padding 1 that counts."""
    return _windows(x, 3, 1, 0, 1, False).mean((2, 3))


def batch_norm(x, state, name, eps=1e-5):
    scale, bias, mean, var = (state[f'{name}.{kind}'].astype(np.float64)[:, None, None]
                              for kind in ('weight', 'bias', 'running_mean', 'running_var'))
    return (x - mean) * scale / np.sqrt(var + eps) + bias


class _State:
    """Makes up parameters as they are asked for."""

    def __init__(self, seed):
        self.random, self.arrays = np.random.RandomState(seed), {}

    def convolution(self, name, before, after, kernel, bias):
        self.arrays[name + '.weight'] = self.random.normal(0, np.sqrt(2 / (before * kernel ** 2)),
                                                           (after, before, kernel, kernel)).astype(np.float32)
        if bias:
            self.arrays[name + '.bias'] = self.random.normal(0, 0.1, after).astype(np.float32)

    def batch_norm(self, name, channels, scale=1.0):
        for kind, low, high in (('weight', 0.5, 1.5), ('bias', -0.2, 0.2), ('running_mean', -0.2, 0.2),
                                ('running_var', 0.5, 1.5)):
            factor = scale if kind == 'weight' else 1
            self.arrays[f'{name}.{kind}'] = (factor * self.random.uniform(low, high, channels)).astype(np.float32)
        self.arrays[f'{name}.num_batches_tracked'] = np.array([7])


RESNET50 = (3, 4, 6, 3)


def resnet50_state(seed=0):
    state = _State(seed)
    state.convolution('conv1', 3, 64, 7, False)
    state.batch_norm('bn1', 64)
    before = 64
    for stage, blocks in enumerate(RESNET50):
        width = 64 * 2 ** stage
        for block in range(blocks):
            name = f'layer{stage + 1}.{block}'
            for number, (source, target, kernel) in enumerate(((before, width, 1), (width, width, 3),
                                                               (width, 4 * width, 1)), 1):
                state.convolution(f'{name}.conv{number}', source, target, kernel, False)
                state.batch_norm(f'{name}.bn{number}', target, 0.5 if number == 3 else 1)
            if block == 0:
                state.convolution(f'{name}.downsample.0', before, 4 * width, 1, False)
                state.batch_norm(f'{name}.downsample.1', 4 * width)
            before = 4 * width
    state.arrays['fc.weight'] = state.random.normal(0, 0.01, (10, 2048)).astype(np.float32)
    state.arrays['fc.bias'] = np.zeros(10, np.float32)
    return state.arrays


def resnet50(state, x):
    """Features before `fc`. The stride of a block is in its 3x3 convolution."""
    x = np.maximum(batch_norm(convolution(x, state['conv1.weight'], None, 2, 3), state, 'bn1'), 0)
    x = max_pool(x, 3, 2, 1)
    for stage, blocks in enumerate(RESNET50):
        for block in range(blocks):
            name, stride = f'layer{stage + 1}.{block}', 2 if stage and not block else 1
            y = np.maximum(batch_norm(convolution(x, state[name + '.conv1.weight']), state, name + '.bn1'), 0)
            y = np.maximum(batch_norm(convolution(y, state[name + '.conv2.weight'], None, stride, 1), state,
                                      name + '.bn2'), 0)
            y = batch_norm(convolution(y, state[name + '.conv3.weight']), state, name + '.bn3')
            if block == 0:
                x = batch_norm(convolution(x, state[name + '.downsample.0.weight'], None, stride), state,
                               name + '.downsample.1')
            x = np.maximum(x + y, 0)
    return x.mean((2, 3))


# block: 1x1, 3x3 reduce, 3x3, double reduce, double, pool projection
INCEPTION = {'3a': (64, 64, 64, 64, 96, 32), '3b': (64, 64, 96, 64, 96, 64), '3c': (0, 128, 160, 64, 96, 0),
             '4a': (224, 64, 96, 96, 128, 128), '4b': (192, 96, 128, 96, 128, 128),
             '4c': (160, 128, 160, 128, 160, 128), '4d': (96, 128, 192, 160, 192, 128),
             '4e': (0, 128, 192, 192, 256, 0), '5a': (352, 192, 320, 160, 224, 128),
             '5b': (352, 192, 320, 192, 224, 128)}


def bn_inception_state(seed=0):
    state = _State(seed)

    def unit(name, before, after, kernel=1):
        state.convolution(name, before, after, kernel, True)
        state.batch_norm(name + '_bn', after)

    unit('conv1_7x7_s2', 3, 64, 7)
    state.arrays['conv1_7x7_s2.weight'] /= 60  # pixels are not scaled
    unit('conv2_3x3_reduce', 64, 64)
    unit('conv2_3x3', 64, 192, 3)
    before = 192
    for block, (one, reduce3, three, reduce33, double, project) in INCEPTION.items():
        name = f'inception_{block}_'
        if one:
            unit(name + '1x1', before, one)
            unit(name + 'pool_proj', before, project)
        unit(name + '3x3_reduce', before, reduce3)
        unit(name + '3x3', reduce3, three, 3)
        unit(name + 'double_3x3_reduce', before, reduce33)
        unit(name + 'double_3x3_1', reduce33, double, 3)
        unit(name + 'double_3x3_2', double, double, 3)
        before = one + three + double + (project or before)
    state.arrays['last_linear.weight'] = state.random.normal(0, 0.01, (10, 1024)).astype(np.float32)
    state.arrays['last_linear.bias'] = np.zeros(10, np.float32)
    return state.arrays


def bn_inception(state, pixels):
    """Features before `last_linear` of pixels (B, 3, H, W) RGB, 0..255: BGR minus (104, 117, 128)."""
    def unit(x, name, stride=1, pad=0):
        return np.maximum(batch_norm(convolution(x, state[name + '.weight'], state[name + '.bias'], stride, pad),
                                     state, name + '_bn'), 0)

    x = pixels[:, ::-1] - np.array([104, 117, 128])[:, None, None]
    x = max_pool(unit(x, 'conv1_7x7_s2', 2, 3), 3, 2, ceil=True)
    x = max_pool(unit(unit(x, 'conv2_3x3_reduce'), 'conv2_3x3', 1, 1), 3, 2, ceil=True)
    for block, (one, *_) in INCEPTION.items():
        name, stride = f'inception_{block}_', 1 if one else 2
        three = unit(unit(x, name + '3x3_reduce'), name + '3x3', stride, 1)
        double = unit(unit(unit(x, name + 'double_3x3_reduce'), name + 'double_3x3_1', 1, 1), name + 'double_3x3_2',
                      stride, 1)
        if not one:
            x = np.concatenate((three, double, max_pool(x, 3, 2, ceil=True)), 1)
            continue
        pooled = max_pool(x, 3, 1, 1) if block == '5b' else average_pool(x)
        x = np.concatenate((unit(x, name + '1x1'), three, double, unit(pooled, name + 'pool_proj')), 1)
    return x.mean((2, 3))


def resnet_symbol(units=RESNET50):
    """MXNet's ResNet v2 with bottlenecks (example/image-classification/symbols/resnet.py), up to its features."""
    def bn(x, name, fix_gamma=False):
        return mx.sym.BatchNorm(x, name=name, fix_gamma=fix_gamma, eps=2e-5, momentum=0.9)

    def relu(x):
        return mx.sym.Activation(x, act_type='relu')

    def conv(x, name, filters, kernel, stride=1, pad=0):
        return mx.sym.Convolution(x, name=name, num_filter=filters, kernel=(kernel, kernel), stride=(stride, stride),
                                  pad=(pad, pad), no_bias=True)

    x = bn(mx.sym.var('data'), 'bn_data', True)
    x = relu(bn(conv(x, 'conv0', 64, 7, 2, 3), 'bn0'))
    x = mx.sym.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type='max')
    for stage, count in enumerate(units, 1):
        filters = 128 * 2 ** stage
        for number in range(1, count + 1):
            name, stride = f'stage{stage}_unit{number}_', 2 if stage > 1 and number == 1 else 1
            act = relu(bn(x, name + 'bn1'))
            y = conv(act, name + 'conv1', filters // 4, 1)
            y = conv(relu(bn(y, name + 'bn2')), name + 'conv2', filters // 4, 3, stride, 1)
            y = conv(relu(bn(y, name + 'bn3')), name + 'conv3', filters, 1)
            x = y + (conv(act, name + 'sc', filters, 1, stride) if number == 1 else x)
    x = mx.sym.Pooling(relu(bn(x, 'bn1')), global_pool=True, kernel=(7, 7), pool_type='avg')
    return mx.sym.flatten(x)
