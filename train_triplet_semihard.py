"""Triplet loss with semi-hard negatives (Schroff et al., "FaceNet", arXiv:1503.03832).

An anchor should be closer to its positive than to any negative, by a margin. The negative of a pair is the nearest one
that is farther away than the positive. The hardest negatives would make the network collapse. Most others teach
nothing.

    python train_triplet_semihard.py --dataset CUB --data-path DIR
    python train_triplet_semihard.py --dataset GLYPHS --model convnet --image-size 32
"""
from common.args import TrainingParser, main, non_negative_float
from common.training import Experiment, build_backbone, param_group, run, shuffled_or_balanced
from models import EmbeddingNet
from models.losses.triplet_semihard import TripletSemihardLoss

ALGORITHM = {
    'key': 'triplet',
    'name': 'Triplet semi-hard',
    'paper': 'FaceNet: A Unified Embedding for Face Recognition and Clustering',
    'link': 'https://arxiv.org/abs/1503.03832',
    'published': '2015-03',
    'idea': 'Every positive pair is compared with the nearest negative that is farther away than the positive.',
    'smoke': ['--batch-k 2',
              '--normalize'],
    'search': {'lr': ('log', 1e-4, 1e-2), 'batch-k': ('choice', 0, 4, 8), 'margin': ('log', 0.1, 1.0),
               'normalize': ('choice', False, True)},
}


def parse_args(argv=None):
    """The flags, with the published settings as defaults."""
    parser = TrainingParser(__file__, 'triplet', __doc__, batch_size=128, epochs=60, steps='20,30,40')
    parser.add_batch_k(0, sop=4)
    parser.add_batches_per_epoch(0)
    group = parser.algorithm
    group.add_argument('--margin', type=non_negative_float, default=1.0, metavar='M',
                       help='margin m between the squared distances (the original uses 0.2 with --normalize)')
    parser.add_normalize()
    return parser.parse_args(argv)


def build(opt, data, ctx):
    """What makes the triplet loss different from the others."""
    net = EmbeddingNet(build_backbone(opt, ctx), opt.embed_dim, normalize=opt.normalize, init_scale=opt.init_scale)
    loss = TripletSemihardLoss(margin=opt.margin)
    return Experiment(net, loss, shuffled_or_balanced(opt, data.train.labels), [param_group(opt, net.collect_params())])


def train_triplet_semihard(opt):
    """Trains as `opt` says; returns the runs' results and their summary."""
    return run(opt, build)


if __name__ == '__main__':
    main(parse_args, train_triplet_semihard)
