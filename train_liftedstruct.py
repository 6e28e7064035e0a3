"""Lifted structured embedding (Oh Song et al., "Deep Metric Learning via Lifted Structured Feature Embedding",
arXiv:1511.06452).

Every positive pair of the batch is compared with all negatives of both its images, through a smooth maximum. No
negative needs to be chosen.

    python train_liftedstruct.py --dataset CUB --data-path DIR
    python train_liftedstruct.py --dataset GLYPHS --model convnet --image-size 32
"""
from common.args import TrainingParser, main, non_negative_float
from common.training import Experiment, build_backbone, param_group, run, shuffled_or_balanced
from models import EmbeddingNet
from models.losses.lifted_struct import LiftedStructLoss

ALGORITHM = {
    'key': 'liftedstruct',
    'name': 'Lifted structure',
    'paper': 'Deep Metric Learning via Lifted Structured Feature Embedding',
    'link': 'https://arxiv.org/abs/1511.06452',
    'published': '2015-11',
    'idea': 'Every positive pair is pulled together against all negatives of both of its ends at once.',
    'smoke': ['--batch-k 2'],
    'learns': '--epochs 10',
    'search': {'lr': ('log', 1e-4, 1e-2), 'batch-k': ('choice', 0, 4, 8), 'margin': ('log', 0.3, 3.0)},
}


def parse_args(argv=None):
    """The flags, with the published settings as defaults."""
    parser = TrainingParser(__file__, 'lifted', __doc__, batch_size=128, epochs=60, steps='20,30,40')
    parser.add_batch_k(0, sop=4)
    parser.add_batches_per_epoch(0)
    group = parser.algorithm
    group.add_argument('--margin', type=non_negative_float, default=1.0, metavar='M',
                       help='margin m that negatives should keep, a distance')
    parser.add_normalize()
    return parser.parse_args(argv)


def build(opt, data, ctx):
    """What makes lifted structured embedding different from the others."""
    net = EmbeddingNet(build_backbone(opt, ctx), opt.embed_dim, normalize=opt.normalize, init_scale=opt.init_scale)
    loss = LiftedStructLoss(margin=opt.margin)
    return Experiment(net, loss, shuffled_or_balanced(opt, data.train.labels), [param_group(opt, net.collect_params())])


def train_liftedstruct(opt):
    """Trains as `opt` says; returns the runs' results and their summary."""
    return run(opt, build)


if __name__ == '__main__':
    main(parse_args, train_liftedstruct)
