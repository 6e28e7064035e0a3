"""Weights: saved, loaded, found, converted.

    python -m models.weights convert FILE --model NAME -o OUT.params

turns weights from elsewhere into a file for ``--pretrained OUT.params``; `models.convert` says what it knows.
"""
from __future__ import annotations

import sys
from typing import List, Optional

from common.command import CommandParser, run_command
from common.files import expand_path
from models.convert import convert
from models.loading import load_parameters, load_pretrained, save_parameters
from models.store import find

__all__ = ['find', 'load_parameters', 'load_pretrained', 'main', 'save_parameters']


def main(argv: Optional[List[str]] = None) -> int:
    """The command; returns its exit status."""
    parser = CommandParser('python -m models.weights', description='Turn weights from elsewhere into a file of ours.')
    command = parser.add_subparsers(dest='command', required=True, parser_class=CommandParser).add_parser(
        'convert', help='turn weights from elsewhere into a file for --pretrained')
    command.add_argument('file', type=expand_path, metavar='FILE',
                         help='.pth, .safetensors or .params (prefix-0000.params of a symbol)')
    command.add_argument('--model', required=True, help='inception-bn, resnet50_v2, resnet50_v1, resnet50_v1b, ...')
    command.add_argument('-o', '--output', type=expand_path, required=True, metavar='OUT.params')
    arguments = parser.parse_args(argv)

    def action() -> None:
        note = convert(arguments.file, arguments.model, arguments.output)
        print(f'{arguments.output}: {note}; use it with --model {arguments.model} --pretrained {arguments.output}')

    return run_command('models.weights', action)


if __name__ == '__main__':
    sys.exit(main())
