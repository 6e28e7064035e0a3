"""Saved networks for use elsewhere: as an ONNX model, or as a symbol and parameters of MXNet.

    python -m models.export X-best.params -o X.onnx
    python -m models.export X-member*.params -o X.onnx              an ensemble: all members in one file
    python -m models.export X-best.params -o X --format symbol      X-symbol.json and X-0000.params

The network is the one that its training script builds, and what is exported is what the script evaluates: embeddings
of uint8 images, with the normalisation of pixels inside. docs/export.md shows how to use the file.
"""
from __future__ import annotations

import argparse
import json
import re
import sys
from types import SimpleNamespace
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

import mxnet as mx
import numpy as np
from mxnet.symbol import Symbol

from common.command import CommandParser, run_command
from common.errors import UsageError
from common.files import atomic_write, expand_path, hash_file
from common.trained import description, find_script
from models import paramfile
from models.embedding import L2Normalization
from models.errors import ModelError
from models.loading import load_parameters
from models.onnx_graph import run, to_onnx

#: Largest difference to MXNet that is rounding; of embeddings with larger numbers than 1, in parts of the largest.
TOLERANCE = 1e-4
PICTURES = 4


class Trained(NamedTuple):
    """A saved network, or the members of a saved ensemble."""
    embed: Callable[[Any], Dict[str, Any]]     # images, an NDArray or a Symbol -> name -> outputs
    parameters: Dict[str, Any]
    flags: argparse.Namespace
    saved: Dict[str, Any]
    backbone: Any
    members: Optional[Tuple[int, int]]                              # of an ensemble: how many are here, and of how many


def load(paths: List[str], script: Optional[str] = None) -> Trained:
    """Loads what training saved.

    Parameters
    ----------
    paths : list of str
        The ``.params`` of a network, or those of an ensemble's members in order.
    script : str, optional
        The training script; default: the one that the ``.json`` beside the network names.

    Raises
    ------
    UsageError, ModelError
        If the files are not what training writes, or not as many as the script's algorithm has networks.
    """
    saved = description(paths[0])
    if saved is None:
        paramfile.read(paths[0])                    # a name with a slip in it, or no saved network at all
        beside = re.sub(r'\.params$', '', paths[0]) + '.json'
        raise ModelError(f'{beside} is missing: training writes it beside the network, and says there what it is')
    module = find_script(script or saved['script'])
    flags = _flags(module, saved['flags'])
    try:
        # The script sizes its loss and its sampler by the training classes; nothing is drawn from them here.
        classes = int(saved['data']['train_classes'])
    except (KeyError, TypeError, ValueError):
        raise ModelError(f'{paths[0]}: the .json beside it does not say how many classes it was trained on') from None
    each = max(flags.batch_size, 2)
    images = SimpleNamespace(num_classes=classes, labels=np.repeat(np.arange(classes), each))
    built = module.build(flags, SimpleNamespace(train=images, test=images, val=None), [mx.cpu()])
    size = getattr(built, 'size', None)             # an Ensemble's
    if len(paths) > (size or 1):
        raise UsageError(f'{len(paths)} files, but {flags.script} has {size or 1} network{"s" if size else ""}')
    experiments = [built.member(number) if size else built for number in range(len(paths))]
    parameters: Dict[str, Any] = {}
    for path, experiment in zip(paths, experiments):
        load_parameters(experiment.net, path, mx.cpu())
        parameters.update(experiment.net.collect_params())
    for name, parameter in parameters.items():
        if not np.isfinite(parameter.data().asnumpy()).all():
            raise ModelError(f'{" ".join(paths)}: {name} has values that are no finite numbers: the network diverged')
    members = [experiment.embed or experiment.net for experiment in experiments]

    def embed(images: Any) -> Dict[str, Any]:
        if size:
            return {'embeddings': _joined([member(images) for member in members])}
        outputs = members[0](images)
        if not isinstance(outputs, dict):
            return {'embeddings': outputs}
        first, *others = outputs.items()
        return {'embeddings': first[1], **{f'embeddings_{name}': x for name, x in others}}

    return Trained(embed, parameters, flags, saved, getattr(experiments[0].net, 'backbone', None),
                   (len(paths), size) if size else None)


def _flags(module: Any, trained: Dict[str, Any]) -> argparse.Namespace:
    """The script's flags, as they were in training; those that it did not have yet have their defaults."""
    words = ['--dataset', str(trained.get('dataset', 'GLYPHS'))]
    if trained.get('data_path'):
        words += ['--data-path', str(trained['data_path'])]
    flags = module.parse_args(words)
    for name, value in trained.items():
        setattr(flags, name, value)
    flags.pretrained = 'none'                       # all weights come from the saved file
    return flags


def _joined(members: List[Any]) -> Any:
    """The embedding of an ensemble, as `models.ensemble.concatenate_members` makes it, of NDArrays or Symbols."""
    unit = L2Normalization()
    function = mx.sym if isinstance(members[0], Symbol) else mx.nd
    return function.concat(*[unit(member) for member in members], dim=1)


def trace(trained: Trained, **attributes: str) -> Symbol:
    """The graph from ``images``, with these attributes, to the outputs, named as by `Trained.embed`."""
    outputs = trained.embed(mx.sym.var('images', dtype='uint8', **attributes))
    return mx.sym.Group([mx.sym.identity(output, name=name) for name, output in outputs.items()])


def describe(trained: Trained, paths: List[str], embeddings: np.ndarray) -> Dict[str, str]:
    """What stands in the exported file beside the graph; `embeddings` are those of some pictures."""
    flags, saved, backbone = trained.flags, trained.saved, trained.backbone
    lengths = np.linalg.norm(embeddings, axis=1)
    box = 'crop to the bounding box, ' if flags.use_crops else ''
    found = {
        'algorithm': saved.get('algorithm', ''), 'script': saved['script'], 'backbone': flags.model,
        'dataset': flags.dataset, 'embedding_size': embeddings.shape[1],
        'normalized': 'yes' if np.allclose(lengths, 1, atol=1e-3) else 'no',
        'image_size': flags.image_size, 'resize': flags.resize, 'crop': 'center',
        'preprocessing': f'RGB, uint8, 0..255, (N, H, W, 3): {box}resize to {flags.resize} x {flags.resize} without '
                         f'keeping the aspect ratio, crop {flags.image_size} x {flags.image_size} from the centre; '
                         'mean and std are in the graph',
        'mean': list(getattr(backbone, 'mean', ())), 'std': list(getattr(backbone, 'std', ())),
        'git': saved.get('git') or 'unknown', 'sha256': ' '.join(hash_file(path) for path in paths)}
    if trained.members:
        found['members'] = '{} of {}'.format(*trained.members)
    return {name: str(value) for name, value in found.items()}


def made_up_pictures(size: int) -> np.ndarray:
    """uint8 (4, size, size, 3): random colours in squares of 8 x 8 pixels, and noise."""
    rng = np.random.RandomState(0)
    squares = rng.randint(0, 200, (PICTURES, -(-size // 8), -(-size // 8), 3)).repeat(8, axis=1).repeat(8, axis=2)
    return (squares[:, :size, :size] + rng.randint(0, 56, (PICTURES, size, size, 3))).astype(np.uint8)


def _refuse_what_differs(path: str, reader: str, found: List[np.ndarray], expected: Dict[str, np.ndarray]) -> str:
    largest = max(float(np.abs(a - b).max() / max(1.0, np.abs(b).max())) for a, b in zip(found, expected.values()))
    if not largest <= TOLERANCE:
        raise ModelError(f"{path} is not written: {reader}'s embeddings differ by {largest:.2g} from MXNet's, which is "
                         f'more than {TOLERANCE}')
    return f'largest difference between {reader} and MXNet on {PICTURES} random pictures: {largest:.2g}'


def _inputs(trained: Trained) -> Tuple[np.ndarray, Dict[str, np.ndarray], Dict[str, np.ndarray]]:
    """Random pictures, what the network makes of them, and all parameters by name."""
    pictures = made_up_pictures(trained.flags.image_size)
    outputs = trained.embed(mx.nd.array(pictures, dtype='uint8'))
    return (pictures, {name: value.asnumpy() for name, value in outputs.items()},
            {name: parameter.data().asnumpy() for name, parameter in trained.parameters.items()})


def export_onnx(trained: Trained, paths: List[str], output: str) -> List[str]:
    """Writes an ONNX model if ONNX Runtime, where that is installed, agrees with MXNet; returns lines for the user."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise ModelError('the package onnx is not installed: pip install -r requirements-export.txt') from None
    pictures, expected, arrays = _inputs(trained)
    try:
        model = to_onnx(trace(trained), arrays, trained.flags.image_size,
                        {name: x.shape[1] for name, x in expected.items()},
                        describe(trained, paths, expected['embeddings']))
    except ModelError as error:
        raise ModelError(f'{paths[0]}: {error}') from None
    content = model.SerializeToString()
    try:
        import onnxruntime
    except ImportError:
        checked = 'not compared with MXNet: the package onnxruntime is not installed'
    else:
        session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
        # Two batches of different sizes: the size must not be fixed in the graph.
        parts = [session.run(list(expected), {'images': part}) for part in (pictures[:1], pictures[1:])]
        checked = _refuse_what_differs(output, 'ONNX Runtime', [np.concatenate(both) for both in zip(*parts)], expected)
    with atomic_write(output) as file:
        file.write(content)
    return [f'{output}: {len(content) / 1e6:.1f} MB; {_signature(trained, expected)}', checked]


def export_symbol(trained: Trained, paths: List[str], prefix: str) -> List[str]:
    """Writes PREFIX-symbol.json and PREFIX-0000.params, after a comparison; returns lines for the user.

    What ONNX has as its metadata stands in the attribute ``__metadata__`` of the input, as JSON.
    """
    pictures, expected, arrays = _inputs(trained)
    symbol = trace(trained, __metadata__=json.dumps(describe(trained, paths, expected['embeddings'])))
    checked = _refuse_what_differs(f'{prefix}-symbol.json', 'the symbol', run(symbol, {**arrays, 'images': pictures}),
                                   expected)
    auxiliary = symbol.list_auxiliary_states()
    paramfile.write(f'{prefix}-0000.params', {f'{"aux" if name in auxiliary else "arg"}:{name}': arrays[name]
                                              for name in symbol.list_inputs() if name != 'images'})
    with atomic_write(f'{prefix}-symbol.json', 'w') as file:
        file.write(symbol.tojson())
    return [f'{prefix}-symbol.json, {prefix}-0000.params; {_signature(trained, expected)}', checked]


def _signature(trained: Trained, outputs: Dict[str, np.ndarray]) -> str:
    size = trained.flags.image_size
    return f'images (N, {size}, {size}, 3) uint8 -> ' + ', '.join(
        f'{name} (N, {x.shape[1]})' for name, x in outputs.items())


def main(argv: Optional[List[str]] = None) -> int:
    """The command; returns its exit status."""
    parser = CommandParser('python -m models.export', description='Export a saved network, for ONNX Runtime and '
                           'whatever else reads ONNX, or for MXNet without this project. The result is compared with '
                           'the network on random pictures before it is written.')
    parser.add_argument('models', type=expand_path, nargs='+', metavar='FILE',
                        help="saved network, .params, with the .json beside it; of an ensemble its members', in order")
    parser.add_argument('-o', '--output', type=expand_path, metavar='OUT.onnx',
                        help="the file; with --format symbol a prefix: OUT-symbol.json and OUT-0000.params (default: "
                             "the model's name, with .onnx in place of .params)")
    parser.add_argument('--format', choices=['onnx', 'symbol'], default='onnx',
                        help='onnx: one file (pip install -r requirements-export.txt); symbol: MXNet (default: '
                             '%(default)s)')
    parser.add_argument('--script', metavar='NAME', help='script that the model is from, where it is not in the '
                        "project's folder (default: what training noted)")
    opt = parser.parse_args(argv)

    def action() -> None:
        trained = load(opt.models, opt.script)
        name = re.sub(r'\.params$', '', opt.models[0])
        if opt.format == 'onnx':
            lines = export_onnx(trained, opt.models, opt.output or f'{name}.onnx')
        else:
            lines = export_symbol(trained, opt.models, opt.output or name)
        print('\n'.join(lines))

    return run_command('models.export', action)


if __name__ == '__main__':
    sys.exit(main())
