"""The flags that all twelve scripts share, and the way a script ends when its input is bad."""
from __future__ import annotations

import argparse
import math
import os
import sys
from typing import Any, Callable, List, Optional, Set

from common.command import CommandParser, command_name, run_command
from common.errors import UserError
from common.files import expand_path
from common.runtime import available_cores
from common.trackers import require
from common.training.optimisers import default_momentum, parse_steps
from dataset import dataset_names
from models import is_backbone
from models.backbones.finetune import published
from models.backbones.pooling import KINDS as POOLINGS
from models.heads import INIT_SCALE

MAX_SEED = 2 ** 31 - 1


def _number(convert: Callable, low: float, high: float, low_open: bool, what: str) -> Callable[[str], Any]:
    def parse(text: str):
        try:
            value = convert(text)
        except ValueError:
            value = math.nan
        if not (low < value if low_open else low <= value) or not value <= high or math.isinf(value):
            raise argparse.ArgumentTypeError(f'{text!r} is not {what}')
        return value
    return parse


positive_int = _number(int, 1, 2 ** 31 - 1, False, 'a whole number from 1')
non_negative_int = _number(int, 0, 2 ** 31 - 1, False, 'a whole number from 0')
positive_float = _number(float, 0, math.inf, True, 'a number above 0')
non_negative_float = _number(float, 0, math.inf, False, 'a number from 0')
fraction = _number(float, 0, 1, False, 'a number from 0 to 1')
_share = _number(float, 0, 1, True, 'a number above 0, up to 1')
_aspect = _number(float, 1, 100, False, 'a number from 1 to 100')
_momentum = _number(float, 0, math.nextafter(1, 0) if hasattr(math, 'nextafter') else 1 - 2 ** -53, False,
                    'a number from 0 to below 1')
seed_number = _number(int, 0, MAX_SEED, False, f'a whole number from 0 to {MAX_SEED}')


def fold(text: str) -> str:
    """``1/4``: the first of four parts."""
    number, _, parts = text.partition('/')
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts) and 2 <= int(parts) <= 1000):
        raise argparse.ArgumentTypeError(f'{text!r} is not a part of several, as 1/4')
    return f'{int(number)}/{int(parts)}'


def _backbone(name: str) -> str:
    if not is_backbone(name):
        raise argparse.ArgumentTypeError(f'{name!r} is neither inception-bn, efficientnet-lite0, resnet50_v2, '
                                         "resnet18_v2, convnet nor the name of a classification network in "
                                         "GluonCV's model zoo")
    return name


def _steps(text: str) -> str:
    try:
        parse_steps(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def _optimizer(name: str) -> str:
    import mxnet as mx
    if name.lower() not in mx.optimizer.Optimizer.opt_registry:
        raise argparse.ArgumentTypeError(f'{name!r} is not an optimiser of MXNet (adam, sgd, rmsprop, ...)')
    return name.lower()


def _frozen_epochs(text: str):
    return text if text == 'all' else non_negative_int(text)


def _file_or_none(text: str) -> Optional[str]:
    return None if text == 'None' else expand_path(text)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows the script's docstring as it is written, and every default."""

    def _get_help_string(self, action):
        if action.default in (None, False, '') or 'default' in (action.help or ''):
            return action.help
        return super()._get_help_string(action)


class TrainingParser(CommandParser):
    """Parser of one training script: the shared flags, with the script's own defaults.

    Parameters
    ----------
    script : str
        The script's ``__file__``; its name, as ``train_margin``, becomes part of the names of log and models, so that a
        copy has names of its own.
    algorithm : str
        Short name of the algorithm; the title of its group of flags, which is the attribute `algorithm`.
    description : str
        Head of ``--help``: the script's docstring.
    batch_size, epochs, lr, steps, factor, wd, epsilon :
        The published settings of the algorithm, which become the defaults. `lr` None: the script has rates of its own.
    """

    def __init__(self, script: str, algorithm: str, description: str, *, batch_size: int, epochs: int,
                 lr: Optional[float] = 1e-4, steps: str = '0', factor: float = 0.5, wd: float = 1e-5,
                 epsilon: float = 1e-7):
        script = os.path.splitext(os.path.basename(script))[0]
        super().__init__(prog=f'{script}.py', description=description, formatter_class=_Formatter)
        self.set_defaults(script=script, algorithm_name=algorithm)

        data = self.add_argument_group('data')
        data.add_argument('--dataset', default='CUB', choices=dataset_names(), help='dataset')
        data.add_argument('--data-path', type=expand_path, metavar='DIR',
                          help='folder of the dataset; needed for all but GLYPHS, which is drawn into a cache')
        data.add_argument('--allow-seen-classes', action='store_true',
                          help='with your own split: test on classes that were also trained on')
        data.add_argument('--use-crops', action='store_true', help='crop every image to its bounding box first')
        data.add_argument('--image-size', '--data-shape', type=positive_int, default=224, metavar='PIXELS',
                          help='side of the crop that the network sees')
        data.add_argument('--resize', type=positive_int, metavar='PIXELS',
                          help='side to which images are resized before the crop (default: 8/7 of --image-size: 256)')
        mirror = data.add_mutually_exclusive_group()
        mirror.add_argument('--mirror', dest='mirror', action='store_true', default=None,
                            help='mirror every other training image (default: for all datasets but GLYPHS)')
        mirror.add_argument('--no-mirror', dest='mirror', action='store_false', default=None,
                            help='mirror no image, as where left and right differ')
        data.add_argument('--min-scale', type=_share, default=1.0, metavar='S',
                          help='smallest share of the area of a training image that is cut out, and scaled to '
                               '--image-size; 1: the crop has --image-size pixels, and is not scaled')
        data.add_argument('--max-aspect', type=_aspect, default=1.33, metavar='A',
                          help='with --min-scale below 1: width over height of what is cut out is drawn from 1/A to A')
        data.add_argument('--num-workers', type=non_negative_int, default=available_cores(), metavar='THREADS',
                          help='threads that decode images; 0 decodes in the training thread')
        data.add_argument('--cache', type=expand_path, metavar='DIR',
                          help='keep the decoded, resized images in a memory-mapped file in this folder')
        data.add_argument('--skip-bad-images', type=non_negative_int, default=0, metavar='N',
                          help='go on with up to N unreadable images, each named in the log')
        held_out = data.add_mutually_exclusive_group()
        held_out.add_argument('--val-split', type=fraction, default=0.0, metavar='F',
                              help='fraction of the training classes held out to choose the epoch; 0 holds out none')
        held_out.add_argument('--fold', type=fold, metavar='K/N',
                              help='instead: hold out the Kth of N equal parts of the training classes, dealt out by '
                                   '--seed')

        model = self.add_argument_group('model')
        model.add_argument('--model', type=_backbone, default='inception-bn', metavar='NAME',
                           help="backbone: inception-bn, efficientnet-lite0, resnet50_v2, resnet18_v2, convnet, or "
                                "the name of any classification network in GluonCV's model zoo")
        model.add_argument('--embed-dim', type=positive_int, default=64, metavar='N', help='size of the embedding')
        model.add_argument('--pretrained', type=expand_path, default='auto', metavar='{auto,none,FILE}',
                           help='weights of the backbone: auto (looked for in $MXNET_HOME/models, then downloaded; '
                                'none for convnet), none, or a .params or .safetensors file')
        model.add_argument('--pooling', default='avg', choices=POOLINGS,
                           help='what makes a vector of the last feature maps: average, maximum, their sum, or the '
                                'generalised mean with a learned exponent (GeM, arXiv:1711.02512)')
        model.add_argument('--init-scale', type=positive_float, default=INIT_SCALE, metavar='M',
                           help="magnitude of the last layer's first weights (Xavier)")
        model.add_argument('--momentum-bn', type=fraction, metavar='M',
                           help="batch norm's momentum in the backbone: the share of the old running statistics that "
                                'is kept in each step (default: 0.9; 0.1 in NASNet)')
        model.add_argument('--freeze-bn', action='store_true',
                           help="batch norm in the backbone uses its running statistics in training, too; these, its "
                                'scale and its shift do not change')
        model.add_argument('--disable-hybridize', action='store_true', help='run the network eagerly, to debug it')

        optimisation = self.add_argument_group('optimisation')
        optimisation.add_argument('--batch-size', type=positive_int, default=batch_size, metavar='IMAGES',
                                  help='images in a batch, over all devices; of each worker with --kvstore dist_sync')
        optimisation.add_argument('--epochs', type=positive_int, default=epochs, metavar='N', help='epochs of a run')
        optimisation.add_argument('--optimizer', type=_optimizer, default='adam', metavar='NAME',
                                  help='optimiser, by its name in MXNet')
        optimisation.add_argument('--lr', type=positive_float, default=lr, metavar='RATE',
                                  help='learning rate' + ('' if lr else ' of everything (default: see below)'))
        optimisation.add_argument('--backbone-lr-factor', '--cnn-lr-factor', type=positive_float, default=1.0,
                                  metavar='F', help="the backbone's learning rate is multiplied by this")
        optimisation.add_argument('--conv-lr-factor', type=positive_float, metavar='F',
                                  help="the learning rate of the backbone's convolutions is multiplied by this, too "
                                       '(default: 0.01 for ResNet50, as published, else 1)')
        optimisation.add_argument('--freeze-backbone', type=_frozen_epochs, nargs='?', const='all', default=0,
                                  metavar='EPOCHS',
                                  help='the backbone works as in a test, and does not change, in the first so many '
                                       'epochs; without a number (or with all): in all')
        optimisation.add_argument('--factor', type=positive_float, default=factor, metavar='F',
                                  help='the learning rates are multiplied by this at each step')
        optimisation.add_argument('--steps', type=_steps, default=steps, metavar='EPOCHS',
                                  help='when the rates decay: 12,14 after the 12th and the 14th epoch, -4 after every '
                                       'fourth, 0 never')
        optimisation.add_argument('--schedule', default='step', choices=['step', 'cosine'],
                                  help='step: --steps and --factor; cosine: from --lr down to 0 along half a cosine, '
                                       'from epoch to epoch (arXiv:1608.03983, without restarts)')
        optimisation.add_argument('--warmup', type=non_negative_int, default=0, metavar='EPOCHS',
                                  help='the learning rates rise linearly from batch to batch in the first so many '
                                       'epochs; the log shows that of the last batch of an epoch')
        optimisation.add_argument('--momentum', type=_momentum, metavar='M',
                                  help='momentum of an --optimizer that has one, as sgd or nag (default: as in MXNet, '
                                       '0 for these)')
        optimisation.add_argument('--wd', type=non_negative_float, default=wd, metavar='RATE', help='weight decay')
        optimisation.add_argument('--epsilon', type=non_negative_float, default=epsilon, metavar='E',
                                  help="what Adam, or an optimiser like it, adds to the root of the squared gradients' "
                                       'mean')
        optimisation.add_argument('--clip-gradient', type=non_negative_float, default=10.0, metavar='G',
                                  help='bound of each element of a gradient; 0 for none')

        evaluation = self.add_argument_group('evaluation')
        evaluation.add_argument('--eval-every', type=positive_int, default=1, metavar='EPOCHS',
                                help='evaluate after every so many epochs, and after the last')
        evaluation.add_argument('--early-stopping', type=non_negative_int, default=0, metavar='EPOCHS',
                                help='end a run when recall@1 on the validation classes (see --val-split) has not '
                                     'risen for so many epochs; 0: never')
        evaluation.add_argument('--skip-pretrain-validation', action='store_true',
                                help='do not evaluate before training')
        evaluation.add_argument('--validate-only', action='store_true',
                                help='evaluate the held-out training classes (--fold, --val-split) alone; no test '
                                     'image is read')
        evaluation.add_argument('--no-nmi', action='store_true', help='leave out clustering and its NMI')

        run = self.add_argument_group('run')
        run.add_argument('--gpus', default='-1', metavar='CODE',
                         help='devices: -1 all GPUs found, else the CPU; -2 the CPU; 0,1 those GPUs')
        run.add_argument('--kvstore', default='device', choices=['local', 'device', 'dist_sync'],
                         help='where the gradients of several devices are added up: on the CPU, or on the devices; '
                              'dist_sync: over several machines, where each worker draws batches of its own, its loss '
                              'sees these alone, and an epoch has 1/WORKERS of the batches (see python -m '
                              'common.launch --help)')
        run.add_argument('--seed', type=seed_number, default=123, metavar='N',
                         help='seed of the first run; run r uses seed + r - 1')
        run.add_argument('--number-of-runs', type=positive_int, default=1, metavar='N',
                         help='independent runs, each from a fresh start')
        run.add_argument('--results-dir', type=expand_path, default='results', metavar='DIR',
                         help='folder of logs/ and models/')
        run.add_argument('--logfile', type=_file_or_none, default='auto', metavar='FILE',
                         help='run log, appended to; None writes none (default: '
                              'RESULTS_DIR/logs/SCRIPT_DATASET_MODEL.jsonl)')
        run.add_argument('--log-postfix', default='', metavar='TEXT', help="added to the default log's name")
        run.add_argument('--save-model-prefix', type=_file_or_none, default='auto', metavar='PREFIX',
                         help='models go to PREFIX-best.params and PREFIX-last.params, the checkpoint to '
                              'PREFIX.ckpt.npz; None saves nothing (default: RESULTS_DIR/models/SCRIPT_DATASET_MODEL)')
        run.add_argument('--tensorboard', type=expand_path, metavar='DIR',
                         help='also write event files for TensorBoard below this folder (pip install -r '
                              'requirements-trackers.txt)')
        run.add_argument('--load-checkpoint', type=expand_path, nargs='?', const='auto', metavar='FILE',
                         help='go on from this checkpoint, exactly; without a FILE, from that of --save-model-prefix '
                              'if there is one, else from the start')

        self.algorithm = self.add_argument_group(algorithm)

    def differs(self, flag: str, published: str) -> None:
        """Says in --help that the published script has another default; docs/published.md lists all of these."""
        action = self._option_string_actions[flag]
        action.help += f'; the published log has this value, the published script {published}'

    def add_normalize(self, default: bool = False, help: str = 'scale embeddings to length 1') -> None:
        """Adds --normalize and --no-normalize, for a loss that is defined on vectors of any length."""
        normalize = self.algorithm.add_mutually_exclusive_group()
        normalize.add_argument('--normalize', action='store_true', default=default,
                               help=f'{help} (default: {"yes" if default else "no"})')
        normalize.add_argument('--no-normalize', dest='normalize', action='store_false', default=default,
                               help='leave the length of embeddings as it is')

    def add_proxy_scale(self) -> None:
        """Adds what scales and smooths the distances of a `ProxyLoss`; see :meth:`check_label_smooth`."""
        self.algorithm.add_argument('--embedding-multiplier', type=positive_float, default=3.0, metavar='S',
                                    help='length to which embeddings and proxies are scaled; for nca and xentropy')
        self.algorithm.add_argument('--temperature', type=positive_float, default=1.0, metavar='T',
                                    help='squared distances are divided by this')
        self.algorithm.add_argument('--label-smooth', type=fraction, default=0.0, metavar='EPSILON',
                                    help='label smoothing; for nca and xentropy')

    def check_label_smooth(self, opt: argparse.Namespace) -> None:
        """Ends with exit status 2 where --loss has nothing to smooth."""
        if opt.label_smooth and opt.loss not in ('nca', 'xentropy'):
            self.error(f'--label-smooth: --loss {opt.loss} has no target distribution to smooth')

    def add_decrease_cnn_lr(self) -> None:
        """Adds --decrease-cnn-lr, as published."""
        self.algorithm.add_argument('--decrease-cnn-lr', action='store_true',
                                    help='the same as --backbone-lr-factor 0.1, if that is not given')

    def add_batch_k(self, default: int, sop: Optional[int] = None) -> None:
        """Adds --batch-k; with a `default` of 0 it chooses between shuffled and class-balanced batches.

        `sop` is the default on SOP and INSHOP, where a shuffled batch has hardly a positive pair.
        """
        self._batch_k = {'': default, **({} if sop is None else {'SOP': sop, 'INSHOP': sop})}
        shown = str(default) if sop is None else f'{default}, the published setting; {sop} on SOP and INSHOP'
        self.algorithm.add_argument(
            '--batch-k', type=positive_int if default else non_negative_int, metavar='K',
            help=f'images of each class in a {"" if default else "class-balanced "}batch'
                 f'{"" if default else "; 0: shuffled batches"} (default: {shown})')

    def add_batches_per_epoch(self, default: int, help: Optional[str] = None) -> None:
        """Adds --batches-per-epoch and the names it had in the published scripts; 0: as many as one pass has."""
        if help is None:
            help = 'batches in an epoch' + ('' if default else ', if class-balanced; 0: as many as one pass would have')
        self.algorithm.add_argument('--batches-per-epoch', '--iteration-per-epoch', '--epoch-length', default=default,
                                    type=positive_int if default else non_negative_int, metavar='N', help=help)

    def _given(self, args: Optional[List[str]]) -> Set[str]:
        """Names of the flags that stand on the command line."""
        defaults, kept = [(action, action.default) for action in self._actions], self._defaults
        try:
            for action, _ in defaults:
                action.default = argparse.SUPPRESS
            self._defaults = {}
            return set(vars(super().parse_args(args)))
        finally:
            self._defaults = kept
            for action, default in defaults:
                action.default = default

    def parse_args(self, args: Optional[List[str]] = None, namespace=None) -> argparse.Namespace:
        """Parses and checks what concerns more than one flag; ends with exit status 2 on a mistake."""
        opt = super().parse_args(args, namespace)
        opt.given_flags = self._given(args)
        if opt.momentum_bn is None:
            opt.momentum_bn = published(opt.model).momentum_bn
        if opt.conv_lr_factor is None:
            opt.conv_lr_factor = published(opt.model).conv_lr_factor
        if getattr(opt, 'decrease_cnn_lr', False) and 'backbone_lr_factor' not in opt.given_flags:
            opt.backbone_lr_factor = 0.1
        if opt.momentum is None:
            opt.momentum = default_momentum(opt.optimizer)
        elif default_momentum(opt.optimizer) is None:
            self.error(f'--momentum: --optimizer {opt.optimizer} has none')
        if opt.warmup >= opt.epochs:
            self.error(f'--warmup {opt.warmup} leaves none of --epochs {opt.epochs} at the whole learning rate')
        if opt.resize is None:
            opt.resize = round(opt.image_size * 8 / 7)
        if opt.resize < opt.image_size:
            self.error(f'--resize {opt.resize} is smaller than --image-size {opt.image_size}')
        if opt.data_path is None and opt.dataset != 'GLYPHS':
            self.error(f'--data-path is needed for --dataset {opt.dataset}')
        if opt.val_split >= 1:
            self.error('--val-split 1 leaves no class to train on')
        if opt.seed + opt.number_of_runs - 1 > MAX_SEED:
            self.error(f'--seed {opt.seed} is too large for --number-of-runs {opt.number_of_runs}')
        if getattr(opt, 'batch_k', 0) is None:
            opt.batch_k = self._batch_k.get(opt.dataset, self._batch_k[''])
        if opt.tensorboard is not None:
            try:
                require('tensorboardX')
            except UserError as error:
                self.error(f'--tensorboard: {error}')
        name = f'{opt.script}_{opt.dataset}_{opt.model}'
        if opt.logfile == 'auto':
            opt.logfile = os.path.join(opt.results_dir, 'logs', f'{name}{opt.log_postfix}.jsonl')
        if opt.save_model_prefix == 'auto':
            opt.save_model_prefix = os.path.join(opt.results_dir, 'models', name + opt.log_postfix)
        if opt.load_checkpoint == 'auto':
            if opt.save_model_prefix is None:
                self.error('--load-checkpoint needs a FILE when --save-model-prefix is None')
            path = opt.save_model_prefix + '.ckpt.npz'
            opt.load_checkpoint = path if os.path.exists(path) else None
        return opt


def main(parse_args: Callable[..., argparse.Namespace], train: Callable[[argparse.Namespace], Any]) -> None:
    """Runs a script and ends the process; see `common.command`."""
    def action() -> None:
        train(parse_args())

    sys.exit(run_command(command_name(), action))
