"""Margin loss with distance-weighted sampling (Wu et al., "Sampling Matters in Deep Embedding Learning",
arXiv:1706.07567).

A pair of one class should be closer than beta - alpha, and a pair of two classes farther than beta + alpha. Every class
learns its own beta. Negatives are drawn so that all distances occur equally often, not just the common ones.

    python train_margin.py --dataset CUB --data-path DIR
    python train_margin.py --dataset GLYPHS --model convnet --image-size 32
"""
from common.args import TrainingParser, fraction, main, non_negative_float, positive_float
from common.training import Experiment, ParamGroup, build_backbone, param_group, run
from dataset.samplers import BalancedBatches
from models import EmbeddingNet
from models.losses.margin import MarginLoss

ALGORITHM = {
    'key': 'margin',
    'name': 'Margin',
    'paper': 'Sampling Matters in Deep Embedding Learning',
    'link': 'https://arxiv.org/abs/1706.07567',
    'published': '2017-06',
    'idea': 'Negatives are drawn evenly over all distances, and every class learns its own border between near '
            'and far.',
    'smoke': ['--batch-k 2 --batches-per-epoch 3',
              '--lr-beta 0 --nu 0.1'],
    'learns': '--epochs 10 --batches-per-epoch 10',
    'search': {'lr': ('log', 1e-4, 1e-2), 'margin': ('log', 0.05, 0.5), 'beta': ('linear', 0.8, 1.4)},
}


def parse_args(argv=None):
    """The flags, with the published settings as defaults."""
    parser = TrainingParser(__file__, 'margin', __doc__, batch_size=125, epochs=20, steps='12,14,16,18')
    parser.add_batch_k(5)
    parser.add_batches_per_epoch(200)
    group = parser.algorithm
    group.add_argument('--margin', type=non_negative_float, default=0.2, metavar='ALPHA',
                       help='margin alpha around beta, a distance')
    group.add_argument('--beta', type=positive_float, default=1.2, metavar='DISTANCE',
                       help='initial boundary between positive and negative pairs')
    group.add_argument('--lr-beta', type=non_negative_float, default=0.1, metavar='RATE',
                       help='learning rate of beta (SGD); 0 keeps beta fixed')
    group.add_argument('--momentum-beta', type=fraction, default=0.9, metavar='M',
                       help="momentum of beta's SGD")
    group.add_argument('--nu', type=fraction, default=0.0, metavar='WEIGHT', help='weight of the regulariser of beta')
    group.add_argument('--min-distance', type=positive_float, default=0.5, metavar='DISTANCE',
                       help='negatives nearer than this are drawn as if they were so far')
    group.add_argument('--max-distance', type=positive_float, default=1.4, metavar='DISTANCE',
                       help='negatives beyond this are not drawn')
    opt = parser.parse_args(argv)
    if not opt.min_distance < opt.max_distance <= 2:
        parser.error(f'--min-distance {opt.min_distance:g} and --max-distance {opt.max_distance:g} leave no distance '
                     'between unit vectors: from 0 to 2')
    return opt


def build(opt, data, ctx):
    """What makes margin loss different from the others."""
    net = EmbeddingNet(build_backbone(opt, ctx), opt.embed_dim, normalize=True, init_scale=opt.init_scale)
    loss = MarginLoss(data.train.num_classes, margin=opt.margin, beta=opt.beta, nu=opt.nu, learn_beta=opt.lr_beta > 0,
                      min_distance=opt.min_distance, max_distance=opt.max_distance)
    sampler = BalancedBatches(data.train.labels, opt.batch_size, opt.batch_k, opt.batches_per_epoch, seed=opt.seed)
    groups = [param_group(opt, net.collect_params())]
    if opt.lr_beta:
        groups.append(ParamGroup(loss.collect_params(), opt.lr_beta, optimizer='sgd',
                                 options={'momentum': opt.momentum_beta}, clip=None))
    return Experiment(net, loss, sampler, groups)


def train_margin(opt):
    """Trains as `opt` says; returns the runs' results and their summary."""
    return run(opt, build)


if __name__ == '__main__':
    main(parse_args, train_margin)
