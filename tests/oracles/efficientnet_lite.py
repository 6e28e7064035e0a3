"""EfficientNet-Lite0 with PyTorch's names of weights: in NumPy, and in PyTorch where that is installed. Written from
the network's definition, not from our code: images and kernels as published, padding as TensorFlow's 'same'."""
from __future__ import annotations

import numpy as np

# expansion, channels, stride, kernel: one line a block
BLOCKS = ((1, 16, 1, 3),
          (6, 24, 2, 3), (6, 24, 1, 3),
          (6, 40, 2, 5), (6, 40, 1, 5),
          (6, 80, 2, 3), (6, 80, 1, 3), (6, 80, 1, 3),
          (6, 112, 1, 5), (6, 112, 1, 5), (6, 112, 1, 5),
          (6, 192, 2, 5), (6, 192, 1, 5), (6, 192, 1, 5), (6, 192, 1, 5),
          (6, 320, 1, 3))


def state(seed=0):
    """Random weights, with statistics away from their defaults; every eighth channel lies around 6."""
    random, arrays = np.random.RandomState(seed), {}

    def convolution(name, after, before, kernel):
        arrays[name + '.weight'] = random.normal(0, np.sqrt(1 / (before * kernel ** 2)),
                                                 (after, before, kernel, kernel)).astype(np.float32)

    def batch_norm(name, channels):
        for kind, low, high in (('weight', 0.5, 1.5), ('bias', -0.5, 1), ('running_mean', -0.2, 0.2),
                                ('running_var', 0.5, 1.5)):
            arrays[f'{name}.{kind}'] = random.uniform(low, high, channels).astype(np.float32)
        arrays[f'{name}.bias'][::8] += 5
        arrays[f'{name}.num_batches_tracked'] = np.array([7])

    convolution('_conv_stem', 32, 3, 3)
    batch_norm('_bn0', 32)
    before = 32
    for number, (expansion, channels, _, kernel) in enumerate(BLOCKS):
        name, width = f'_blocks.{number}.', before * expansion
        if expansion > 1:
            convolution(name + '_expand_conv', width, before, 1)
            batch_norm(name + '_bn0', width)
        convolution(name + '_depthwise_conv', width, 1, kernel)
        batch_norm(name + '_bn1', width)
        convolution(name + '_project_conv', channels, width, 1)
        batch_norm(name + '_bn2', channels)
        before = channels
    convolution('_conv_head', 1280, before, 1)
    batch_norm('_bn1', 1280)
    arrays['_fc.weight'] = random.normal(0, 0.01, (10, 1280)).astype(np.float32)
    arrays['_fc.bias'] = random.normal(0, 0.1, 10).astype(np.float32)
    return arrays


def same(size, kernel, stride):
    """TensorFlow's 'same': pixels before and after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def convolution(x, weight, stride):
    """Full, or depthwise where the weight has one input channel."""
    kernel, size = weight.shape[2], -(-x.shape[2] // stride)
    pad = same(x.shape[2], kernel, stride)
    x = np.pad(x, ((0, 0), (0, 0), pad, pad))
    result = 0
    for row in range(kernel):
        for column in range(kernel):
            part = x[:, :, row:row + stride * size:stride, column:column + stride * size:stride][:, :, :size, :size]
            tap = weight[:, :, row, column]
            result = result + (part * tap[:, 0, None, None] if weight.shape[1] == 1
                               else np.einsum('bchw,oc->bohw', part, tap, optimize=True))
    return result


def batch_norm(x, arrays, name):
    scale, bias, mean, var = (arrays[f'{name}.{kind}'].astype(np.float64)[:, None, None]
                              for kind in ('weight', 'bias', 'running_mean', 'running_var'))
    return (x - mean) / np.sqrt(var + 1e-3) * scale + bias


def relu6(x):
    return np.minimum(np.maximum(x, 0), 6)


def features(arrays, pixels):
    """Of pixels (B, 3, H, W), RGB, 0..255: (B, 1280)."""
    x = (pixels - 127) / 128
    x = relu6(batch_norm(convolution(x, arrays['_conv_stem.weight'], 2), arrays, '_bn0'))
    before = 32
    for number, (expansion, channels, stride, _) in enumerate(BLOCKS):
        name, y = f'_blocks.{number}.', x
        if expansion > 1:
            y = relu6(batch_norm(convolution(y, arrays[name + '_expand_conv.weight'], 1), arrays, name + '_bn0'))
        y = relu6(batch_norm(convolution(y, arrays[name + '_depthwise_conv.weight'], stride), arrays, name + '_bn1'))
        y = batch_norm(convolution(y, arrays[name + '_project_conv.weight'], 1), arrays, name + '_bn2')
        x = x + y if stride == 1 and channels == before else y
        before = channels
    x = relu6(batch_norm(convolution(x, arrays['_conv_head.weight'], 1), arrays, '_bn1'))
    return x.mean((2, 3))


def logits(arrays, found):
    """The published classifier on features."""
    return found @ arrays['_fc.weight'].T + arrays['_fc.bias']


def torch_network(torch):
    """The trainable network as a torch module (PyTorch's module is an argument), without pooling of a fixed size."""
    functional = torch.nn.functional

    class Unit(torch.nn.Module):
        def __init__(self, channels, before, kernel=1, stride=1, groups=1, active=True):
            super().__init__()
            self.kernel, self.stride, self.active = kernel, stride, active
            self.conv = torch.nn.Conv2d(before, channels, kernel, stride, 0 if stride > 1 else kernel // 2,
                                        groups=groups, bias=False)
            self.bn = torch.nn.BatchNorm2d(channels, 1e-3, 0.1)

        def forward(self, x):
            if self.stride > 1:
                rows, columns = (same(size, self.kernel, self.stride) for size in x.shape[2:])
                x = functional.pad(x, columns + rows)
            x = self.bn(self.conv(x))
            return functional.relu6(x, inplace=True) if self.active else x

    class Block(torch.nn.Module):
        def __init__(self, before, expansion, channels, stride, kernel):
            super().__init__()
            width = before * expansion
            units = [Unit(width, before)] if expansion > 1 else []
            self.body = torch.nn.Sequential(*units, Unit(width, width, kernel, stride, width),
                                            Unit(channels, width, active=False))
            self.residual = stride == 1 and before == channels

        def forward(self, x):
            return x + self.body(x) if self.residual else self.body(x)

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            layers, before = [Unit(32, 3, 3, 2)], 32
            for expansion, channels, stride, kernel in BLOCKS:
                layers.append(Block(before, expansion, channels, stride, kernel))
                before = channels
            self.layers = torch.nn.Sequential(*layers, Unit(1280, before))

        def forward(self, x):
            return self.layers(x).mean((2, 3))

        def load(self, arrays):
            """Takes `arrays` by their order, which is that of the layers."""
            own = self.state_dict()
            theirs = [array for name, array in arrays.items() if not name.startswith('_fc')]
            assert [tuple(v.shape) for v in own.values()] == [a.shape if a.ndim and a.size > 1 else () for a in theirs]
            self.load_state_dict({name: torch.as_tensor(array.reshape(own[name].shape).copy())
                                  for name, array in zip(own, theirs)})
            return self

    return Network()
