"""Ranked list loss (Wang et al., "Ranked List Loss for Deep Metric Learning", arXiv:1903.03238).

Every image of the batch is a query. Its positives are pulled into a ball of radius alpha - m around it. Its negatives
are pushed out of a larger ball of radius alpha. The nearest negatives have the greatest weight.

    python train_rankedlistloss.py --dataset CUB --data-path DIR
    python train_rankedlistloss.py --dataset GLYPHS --model convnet --image-size 32
"""
import argparse

from common.args import TrainingParser, fraction, main, non_negative_float, positive_float, positive_int
from common.training import Experiment, build_backbone, param_group, run
from dataset.samplers import BalancedBatches
from models import EmbeddingNet
from models.heads import BottleneckHead
from models.losses.ranked_list import RankedListLoss


def layers(text):
    """Sizes of the bottleneck layers: ``512,256``."""
    try:
        return ','.join(str(positive_int(part)) for part in text.split(','))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f'{text!r} is not a list of layer sizes such as 512,256') from None

ALGORITHM = {
    'key': 'rankedlistloss',
    'name': 'Ranked list',
    'paper': 'Ranked List Loss for Deep Metric Learning',
    'link': 'https://arxiv.org/abs/1903.03238',
    'published': '2019-03',
    'idea': 'Keeps positives inside a ball around the query and pushes negatives, the nearest most, beyond a margin.',
    'smoke': ['--batch-k 2 --batches-per-epoch 3',
              '--bottleneck-layers 16,12'],
    'learns': '--epochs 10 --batches-per-epoch 14 --batch-size 90',
    'search': {'lr': ('log', 1e-4, 1e-2), 'batch-size': ('choice', 60, 120, 180), 'margin': ('linear', 0.2, 0.6)},
}


def parse_args(argv=None):
    """The flags, with the published settings as defaults."""
    parser = TrainingParser(__file__, 'rankedlist', __doc__, batch_size=180, epochs=60, steps='20,30,40')
    parser.add_batch_k(3)
    parser.add_batches_per_epoch(200)
    group = parser.algorithm
    group.add_argument('--alpha', type=positive_float, default=1.2, metavar='DISTANCE',
                       help='radius outside of which negatives should be')
    group.add_argument('--margin', type=non_negative_float, default=0.4, metavar='M',
                       help='positives should be inside of radius alpha - m')
    group.add_argument('--temperature', type=non_negative_float, default=10.0, metavar='T',
                       help='how much more deep negatives weigh; 0: all alike')
    group.add_argument('--lambda', dest='lam', type=fraction, default=0.5, metavar='LAMBDA',
                       help='weight of the negatives; 1 - LAMBDA is that of the positives')
    group.add_argument('--bottleneck-layers', type=layers, metavar='SIZES',
                       help='further dense layers before the last one, e.g. 512,256')
    group.add_argument('--head-lr-factor', type=positive_float, default=10.0, metavar='F',
                       help='the head learns at F x --lr')
    parser.add_normalize(default=True)
    return parser.parse_args(argv)


def build(opt, data, ctx):
    """What makes ranked list loss different from the others."""
    head = BottleneckHead([int(n) for n in opt.bottleneck_layers.split(',')], opt.embed_dim, opt.init_scale) \
        if opt.bottleneck_layers else None
    net = EmbeddingNet(build_backbone(opt, ctx), opt.embed_dim, normalize=opt.normalize, head=head,
                       init_scale=opt.init_scale)
    loss = RankedListLoss(alpha=opt.alpha, margin=opt.margin, temperature=opt.temperature, lam=opt.lam)
    sampler = BalancedBatches(data.train.labels, opt.batch_size, opt.batch_k, opt.batches_per_epoch, seed=opt.seed)
    groups = [param_group(opt, net.backbone.collect_params()),
              param_group(opt, net.head.collect_params(), lr=opt.head_lr_factor * opt.lr)]
    return Experiment(net, loss, sampler, groups)


def train_rankedlistloss(opt):
    """Trains as `opt` says; returns the runs' results and their summary."""
    return run(opt, build)


if __name__ == '__main__':
    main(parse_args, train_rankedlistloss)
