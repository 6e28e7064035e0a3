"""A symbol of MXNet, with its parameters, as an ONNX model.

MXNet 1.9.1 has a converter of its own, which fails with the ONNX packages of today. This one knows the operators that
the networks of this project are made of, and names any other. What depends on parameters alone is computed by MXNet
here and now, and stored as a constant.
"""
from __future__ import annotations

import ast
import json
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import mxnet as mx
import numpy as np
from mxnet.symbol import Symbol

from models.errors import ModelError
from models.paramfile import Arrays

#: Version of ONNX's operators: that of 2022, the first with LayerNormalization. ONNX Runtime reads it from 1.12 on.
OPSET = 17
#: Version of the file format that goes with it.
IR_VERSION = 8
#: A protocol buffer, and so an ONNX file, ends at 2 GiB. Nodes and names need a little of it.
MAX_BYTES = 2 ** 31 - 2 ** 24

_BINARY = {'elemwise_add': 'Add', 'broadcast_add': 'Add', 'elemwise_sub': 'Sub', 'broadcast_sub': 'Sub',
           'elemwise_mul': 'Mul', 'broadcast_mul': 'Mul', 'elemwise_div': 'Div', 'broadcast_div': 'Div',
           'broadcast_power': 'Pow', 'broadcast_maximum': 'Max', 'broadcast_minimum': 'Min'}
_UNARY = {'relu': 'Relu', 'sigmoid': 'Sigmoid', 'tanh': 'Tanh', 'exp': 'Exp', 'log': 'Log', 'sqrt': 'Sqrt',
          'abs': 'Abs', 'negative': 'Neg', '_copy': 'Identity', 'Dropout': 'Identity'}
#: Operators with a number: the name in ONNX, and whether the number comes first.
_SCALAR = {'_plus_scalar': ('Add', False), '_minus_scalar': ('Sub', False), '_rminus_scalar': ('Sub', True),
           '_mul_scalar': ('Mul', False), '_div_scalar': ('Div', False), '_rdiv_scalar': ('Div', True),
           '_power_scalar': ('Pow', False), '_maximum_scalar': ('Max', False), '_minimum_scalar': ('Min', False)}
_ACTIVATION = {'relu': 'Relu', 'sigmoid': 'Sigmoid', 'tanh': 'Tanh', 'softrelu': 'Softplus', 'softsign': 'Softsign'}


class _Attributes:
    """The attributes of one operator: strings in MXNet, read as Python's literals where they are some."""

    def __init__(self, found: Dict[str, str]):
        self._found = found

    def __call__(self, name: str, default: Any = None) -> Any:
        text = self._found.get(name)
        if text is None:
            return default
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return text


class _Unknown(Exception):
    """An operator, or a setting of it, that is not known here; the message is the setting, or empty."""


class _Graph:
    """Nodes and constants of the ONNX graph as it grows. Values are known by their names."""

    def __init__(self):
        self.nodes: List[Any] = []
        self.constants: Arrays = {}

    def add(self, kind: str, inputs: Sequence[str], output: Optional[str] = None, **attributes: Any) -> str:
        """Adds a node with one output; returns the output's name."""
        from onnx import helper

        output = output or f'value{len(self.nodes)}'
        attributes = {name: value for name, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, value: Any, dtype: str = 'float32') -> str:
        """Adds a constant that is no parameter; returns its name."""
        name = f'constant{len(self.constants)}'
        self.constants[name] = np.asarray(value, dtype)
        return name


def to_onnx(symbol: Symbol, arrays: Arrays, size: int, outputs: Dict[str, int], metadata: Dict[str, str]) -> Any:
    """Converts a network.

    Parameters
    ----------
    symbol : Symbol
        Of one input ``images`` and the outputs `outputs`, in this order.
    arrays : dict
        All its parameters, by name.
    size : int, pixels
        ``images`` becomes uint8 (B, size, size, 3), for any B.
    outputs : dict
        Name -> length of the embedding.
    metadata : dict
        Goes into the file as it is.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    ModelError
        For an operator that is not known here, or if the model is too large for ONNX.
    """
    from onnx import TensorProto, checker, helper, numpy_helper

    described = json.loads(symbol.tojson())
    nodes, graph = described['nodes'], _Graph()
    constant = _constant_nodes(nodes)
    folded = _fold(described, constant, arrays)
    values = {}
    for (number, index), array in folded.items():
        values[number, index] = nodes[number]['name'] + (f'_{index}' if index else '')
        graph.constants[values[number, index]] = array
    for number, node in enumerate(nodes):
        if constant[number]:
            continue
        if node['op'] == 'null':
            values[number, 0] = node['name']
            continue
        try:
            inputs = [_value(values, nodes, source) for source in node['inputs']]
            values[number, 0] = _convert(graph, node['op'], inputs, _Attributes(node.get('attrs', {})))
        except _Unknown as unknown:
            raise ModelError(f"the layer {node['name']} ({node['op']}{unknown}) has no counterpart in ONNX here; "
                             '--format symbol takes it') from None
    for head, name in zip(described['heads'], outputs):
        graph.add('Identity', [_value(values, nodes, head)], name)
    used = {name for node in graph.nodes for name in node.input}
    constants = {name: array for name, array in graph.constants.items() if name in used}    # no gamma fixed at 1
    if sum(array.nbytes for array in constants.values()) > MAX_BYTES:
        raise ModelError('its parameters take more than 2 GiB, which an ONNX file cannot hold; --format symbol can')
    model = helper.make_model(
        helper.make_graph(
            graph.nodes, 'dml_playground',
            [helper.make_tensor_value_info('images', TensorProto.UINT8, ['batch', size, size, 3])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ['batch', length])
             for name, length in outputs.items()],
            [numpy_helper.from_array(array, name) for name, array in constants.items()]),
        producer_name='dml-playground', ir_version=IR_VERSION, opset_imports=[helper.make_opsetid('', OPSET)])
    helper.set_model_props(model, metadata)
    checker.check_model(model)
    return model


def _constant_nodes(nodes: List[Dict]) -> List[bool]:
    """For each node, whether it depends on parameters alone."""
    constant: List[bool] = []
    for node in nodes:
        constant.append(node['name'] != 'images' if node['op'] == 'null' else
                        all(constant[source] for source, *_ in node['inputs']))
    return constant


def _fold(described: Dict, constant: List[bool], arrays: Arrays) -> Dict[Tuple[int, int], np.ndarray]:
    """(node, output) -> the array of every constant that another node uses."""
    nodes = described['nodes']
    taken = sorted({(source, index) for node, fixed in zip(nodes, constant) if not fixed
                    for source, index, *_ in node['inputs'] if constant[source]})
    found = {output: arrays[nodes[output[0]]['name']] for output in taken if nodes[output[0]]['op'] == 'null'}
    computed = [output for output in taken if output not in found]
    if computed:
        symbol = mx.sym.load_json(json.dumps({**described, 'heads': [[*output, 0] for output in computed]}))
        found.update(zip(computed, run(symbol, arrays)))
    return found


def run(symbol: Symbol, arrays: Arrays) -> List[np.ndarray]:
    """The outputs of a symbol for these inputs and parameters, without training."""
    inputs = [mx.nd.array(arrays[name], dtype=arrays[name].dtype) for name in symbol.list_inputs()]
    outputs = mx.nd.CachedOp(symbol)(*inputs)
    return [output.asnumpy() for output in (outputs if isinstance(outputs, list) else [outputs])]


def _value(values: Dict[Tuple[int, int], str], nodes: List[Dict], source: Sequence[int]) -> str:
    if tuple(source[:2]) not in values:
        raise _Unknown(f', after output {source[1]} of {nodes[source[0]]["op"]}')
    return values[tuple(source[:2])]


def _convert(graph: _Graph, op: str, inputs: List[str], attributes: _Attributes) -> str:
    """Adds what `op` is in ONNX; returns the name of its (first) output."""
    if op in _BINARY:
        return graph.add(_BINARY[op], inputs)
    if op in _UNARY:
        return graph.add(_UNARY[op], inputs)
    if op in _SCALAR:
        kind, number_first = _SCALAR[op]
        both = [inputs[0], graph.constant(float(attributes('scalar')))]
        return graph.add(kind, both[::-1] if number_first else both)
    if op not in _OPERATORS:
        raise _Unknown('')
    return _OPERATORS[op](graph, inputs, attributes)


def _require(attributes: _Attributes, **known: Any) -> None:
    """Refuses a setting other than the known one, which is MXNet's default."""
    for name, value in known.items():
        if attributes(name, value) not in (value, None):
            raise _Unknown(f' with {name} {attributes(name)}')


def _activation(graph: _Graph, inputs: List[str], attributes: _Attributes) -> str:
    kind = attributes('act_type')
    if kind not in _ACTIVATION:
        raise _Unknown(f' with act_type {kind}')
    return graph.add(_ACTIVATION[kind], inputs)


def _leaky_relu(graph: _Graph, inputs: List[str], attributes: _Attributes) -> str:
    kind = attributes('act_type', 'leaky')
    if kind not in ('leaky', 'elu'):
        raise _Unknown(f' with act_type {kind}')
    return graph.add('LeakyRelu' if kind == 'leaky' else 'Elu', inputs, alpha=float(attributes('slope', 0.25)))


def _convolution(graph: _Graph, inputs: List[str], attributes: _Attributes) -> str:
    _require(attributes, layout='NCHW')
    kernel = attributes('kernel')
    ones = (1,) * len(kernel)
    return graph.add('Conv', inputs, kernel_shape=kernel, strides=attributes('stride') or ones,
                     pads=(attributes('pad') or (0,) * len(kernel)) * 2, dilations=attributes('dilate') or ones,
                     group=attributes('num_group', 1))


def _fully_connected(graph: _Graph, inputs: List[str], attributes: _Attributes) -> str:
    _require(attributes, flatten=True)
    return graph.add('Gemm', [graph.add('Flatten', inputs[:1], axis=1), *inputs[1:]], transB=1)


def _batch_norm(graph: _Graph, inputs: List[str], attributes: _Attributes) -> str:
    _require(attributes, axis=1, output_mean_var=False)
    x, gamma, beta, mean, variance = inputs
    if attributes('fix_gamma', True):
        gamma = graph.constant(np.ones_like(graph.constants[beta]))
    return graph.add('BatchNormalization', [x, gamma, beta, mean, variance], epsilon=float(attributes('eps', 1e-3)))


def _layer_norm(graph: _Graph, inputs: List[str], attributes: _Attributes) -> str:
    _require(attributes, axis=-1, output_mean_var=False)
    return graph.add('LayerNormalization', inputs, axis=-1, epsilon=float(attributes('eps', 1e-5)))


def _pooling(graph: _Graph, inputs: List[str], attributes: _Attributes) -> str:
    _require(attributes, layout='NCHW')
    kind = {'max': 'MaxPool', 'avg': 'AveragePool'}.get(attributes('pool_type', 'max'))
    convention = attributes('pooling_convention', 'valid')
    if kind is None or convention not in ('valid', 'full'):
        raise _Unknown(f' with pool_type {attributes("pool_type")} and pooling_convention {convention}')
    if attributes('global_pool', False):
        return graph.add(f'Global{kind}', inputs)
    kernel = attributes('kernel')
    return graph.add(kind, inputs, kernel_shape=kernel, strides=attributes('stride') or (1,) * len(kernel),
                     pads=(attributes('pad') or (0,) * len(kernel)) * 2, ceil_mode=int(convention == 'full'),
                     count_include_pad=int(attributes('count_include_pad', True)) if kind == 'AveragePool' else None)


def _adaptive_pooling(graph: _Graph, inputs: List[str], attributes: _Attributes) -> str:
    if attributes('output_size', 1) not in (1, (1,), (1, 1), ()):
        raise _Unknown(f' with output_size {attributes("output_size")}')
    return graph.add('GlobalAveragePool', inputs)


def _upsampling(graph: _Graph, inputs: List[str], attributes: _Attributes) -> str:
    _require(attributes, sample_type='nearest', num_args=1)
    scale = float(attributes('scale'))
    return graph.add('Resize', [inputs[0], '', graph.constant([1, 1, scale, scale])], mode='nearest',
                     coordinate_transformation_mode='asymmetric', nearest_mode='floor')


def _reduction(kind: str) -> Callable[[_Graph, List[str], _Attributes], str]:
    def convert(graph: _Graph, inputs: List[str], attributes: _Attributes) -> str:
        _require(attributes, exclude=False)
        axes = attributes('axis')
        axes = (axes,) if isinstance(axes, int) else axes or None
        keep = int(attributes('keepdims', False))
        if kind == 'ReduceSum' and axes:        # the first of the reductions whose axes became an input
            return graph.add(kind, [*inputs, graph.constant(axes, 'int64')], keepdims=keep)
        return graph.add(kind, inputs, axes=axes, keepdims=keep)
    return convert


def _reshape(graph: _Graph, inputs: List[str], attributes: _Attributes) -> str:
    _require(attributes, reverse=False)
    shape = attributes('shape')
    if min(shape) < -1:
        raise _Unknown(f' with shape {shape}')
    return graph.add('Reshape', [*inputs, graph.constant(shape, 'int64')])      # 0 and -1 mean the same in both


def _slice(graph: _Graph, x: str, axes: Sequence[int], starts: Sequence[int], ends: Sequence[int], step: int) -> str:
    parts = [starts, ends, axes, [step] * len(axes)]
    return graph.add('Slice', [x, *(graph.constant(part, 'int64') for part in parts)])


def _slice_axis(graph: _Graph, inputs: List[str], attributes: _Attributes) -> str:
    end = attributes('end')
    return _slice(graph, inputs[0], [attributes('axis')], [attributes('begin')],
                  [2 ** 63 - 1 if end in (None, 'None') else end], 1)


def _reverse(graph: _Graph, inputs: List[str], attributes: _Attributes) -> str:
    axes = attributes('axis')
    axes = (axes,) if isinstance(axes, int) else axes
    return _slice(graph, inputs[0], axes, [-1] * len(axes), [-2 ** 63] * len(axes), -1)


def _pad(graph: _Graph, inputs: List[str], attributes: _Attributes) -> str:
    width = attributes('pad_width')             # before and after, axis by axis; ONNX has all before, then all after
    return graph.add('Pad', [*inputs, graph.constant(width[::2] + width[1::2], 'int64'),
                             graph.constant(float(attributes('constant_value', 0)))], mode=attributes('mode'))


def _clip(graph: _Graph, inputs: List[str], attributes: _Attributes) -> str:
    return graph.add('Clip', [*inputs, *(graph.constant(float(attributes(end))) for end in ('a_min', 'a_max'))])


def _cast(graph: _Graph, inputs: List[str], attributes: _Attributes) -> str:
    _require(attributes, dtype='float32')
    return graph.add('Cast', inputs, to=1)      # TensorProto.FLOAT


def _greater_scalar(graph: _Graph, inputs: List[str], attributes: _Attributes) -> str:
    above = graph.add('Greater', [*inputs, graph.constant(float(attributes('scalar')))])
    return graph.add('Cast', [above], to=1)


_OPERATORS: Dict[str, Callable[[_Graph, List[str], _Attributes], str]] = {
    'Activation': _activation,
    'BatchNorm': _batch_norm,
    'Cast': _cast,
    'Concat': lambda graph, inputs, attributes: graph.add('Concat', inputs, axis=attributes('dim', 1)),
    'Convolution': _convolution,
    'Flatten': lambda graph, inputs, attributes: graph.add('Flatten', inputs, axis=1),
    'FullyConnected': _fully_connected,
    'LayerNorm': _layer_norm,
    'LeakyReLU': _leaky_relu,
    'Pad': _pad,
    'Pooling': _pooling,
    'Reshape': _reshape,
    'UpSampling': _upsampling,
    '_contrib_AdaptiveAvgPooling2D': _adaptive_pooling,
    '_greater_scalar': _greater_scalar,
    'clip': _clip,
    'expand_dims': lambda graph, inputs, attributes: graph.add(
        'Unsqueeze', [*inputs, graph.constant([attributes('axis')], 'int64')]),
    'max': _reduction('ReduceMax'),
    'mean': _reduction('ReduceMean'),
    'reverse': _reverse,
    'slice_axis': _slice_axis,
    'square': lambda graph, inputs, attributes: graph.add('Mul', inputs * 2),
    'sum': _reduction('ReduceSum'),
    'transpose': lambda graph, inputs, attributes: graph.add('Transpose', inputs, perm=attributes('axes') or None),
}
