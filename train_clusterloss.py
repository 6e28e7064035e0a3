"""Structured clustering (Oh Song et al., "Deep Metric Learning via Facility Location", arXiv:1612.01213).

The clustering of the batch by class must score better than any other clustering, by a margin. The margin is larger the
more the other clustering differs from the classes. The loss looks for the one that violates this most.

    python train_clusterloss.py --dataset CUB --data-path DIR
    python train_clusterloss.py --dataset GLYPHS --model convnet --image-size 32
"""
from common.args import TrainingParser, main, non_negative_float, non_negative_int
from common.training import Experiment, build_backbone, param_group, run, shuffled_or_balanced
from models import EmbeddingNet
from models.losses.structured_clustering import StructuredClusteringLoss

ALGORITHM = {
    'key': 'clusterloss',
    'name': 'Structured clustering',
    'paper': 'Deep Metric Learning via Facility Location',
    'link': 'https://arxiv.org/abs/1612.01213',
    'published': '2016-12',
    'idea': 'The true clustering of the batch must score higher than the best wrong one, by as much as that '
            'one is wrong.',
    'smoke': ['--batch-k 2', '--decrease-cnn-lr'],
    'learns': '--epochs 24',
    'search': {'lr': ('log', 1e-4, 1e-2), 'batch-k': ('choice', 0, 4, 8), 'gamma': ('log', 0.3, 3.0)},
}


def parse_args(argv=None):
    """The flags, with the published settings as defaults."""
    parser = TrainingParser(__file__, 'cluster', __doc__, batch_size=120, epochs=25, steps='12,14,16,18')
    parser.add_batch_k(0, sop=4)
    parser.add_batches_per_epoch(0)
    group = parser.algorithm
    group.add_argument('--gamma', type=non_negative_float, default=1.0, metavar='GAMMA',
                       help='weight of the clustering error 1 - NMI in the search for the worst clustering')
    group.add_argument('--pam-rounds', type=non_negative_int, default=5, metavar='N',
                       help='at most so many rounds of swapping medoids after the greedy search')
    parser.add_normalize(default=True)
    parser.add_decrease_cnn_lr()
    parser.differs('--batch-k', '5')
    return parser.parse_args(argv)


def build(opt, data, ctx):
    """What makes structured clustering different from the others."""
    net = EmbeddingNet(build_backbone(opt, ctx), opt.embed_dim, normalize=opt.normalize, init_scale=opt.init_scale)
    loss = StructuredClusteringLoss(gamma=opt.gamma, max_pam_rounds=opt.pam_rounds)
    return Experiment(net, loss, shuffled_or_balanced(opt, data.train.labels), [param_group(opt, net.collect_params())])


def train_clusterloss(opt):
    """Trains as `opt` says; returns the runs' results and their summary."""
    return run(opt, build)


if __name__ == '__main__':
    main(parse_args, train_clusterloss)
