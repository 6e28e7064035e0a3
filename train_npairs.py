"""Multi-class N-pair loss (Sohn, "Improved Deep Metric Learning with Multi-class N-pair Loss Objective", NIPS 2016).

A batch holds one pair of each of N classes. The loss is a softmax over the batch: by inner product, every anchor has to
pick its own positive among all N.

    python train_npairs.py --dataset CUB --data-path DIR
    python train_npairs.py --dataset GLYPHS --model convnet --image-size 32
"""
from common.args import TrainingParser, fraction, main, non_negative_float
from common.training import Experiment, build_backbone, param_group, run
from dataset.samplers import PairBatches
from models import EmbeddingNet
from models.losses.npairs import NPairLoss

ALGORITHM = {
    'key': 'npairs',
    'name': 'N-pairs',
    'paper': 'Improved Deep Metric Learning with Multi-class N-pair Loss Objective',
    'link': 'https://papers.nips.cc/paper/6200-improved-deep-metric-learning-with-multi-class-n-pair-loss-objective',
    'published': '2016-12',
    'idea': 'In a batch of one pair per class, each anchor must pick its own positive among the positives of '
            'all classes.',
    'smoke': ['--batches-per-epoch 3',
              '--symmetric-loss --decrease-cnn-lr', '--normalize'],
    'learns': '--epochs 12 --batch-size 60 --batches-per-epoch 20',
    'search': {'lr': ('log', 1e-4, 1e-2), 'l2reg-weight': ('log', 1e-5, 1e-2)},
}


def parse_args(argv=None):
    """The flags, with the published settings as defaults."""
    parser = TrainingParser(__file__, 'npairs', __doc__, batch_size=128, epochs=25, steps='12,14,16,18')
    parser.add_batches_per_epoch(200)
    group = parser.algorithm
    group.add_argument('--l2reg-weight', type=non_negative_float, default=0.0005, metavar='LAMBDA',
                       help='weight of the squared length of the embeddings')
    group.add_argument('--same-image-sampling', type=fraction, default=0.1, metavar='P',
                       help='probability that anchor and positive are one image, augmented twice')
    group.add_argument('--symmetric-loss', action='store_true',
                       help='average with the loss that has anchors and positives swapped')
    parser.add_normalize()
    parser.add_decrease_cnn_lr()
    return parser.parse_args(argv)


def build(opt, data, ctx):
    """What makes the N-pair loss different from the others."""
    net = EmbeddingNet(build_backbone(opt, ctx), opt.embed_dim, normalize=opt.normalize, init_scale=opt.init_scale)
    loss = NPairLoss(l2_reg=opt.l2reg_weight, symmetric=opt.symmetric_loss)
    sampler = PairBatches(data.train.labels, opt.batch_size, opt.batches_per_epoch, opt.same_image_sampling,
                          seed=opt.seed)
    return Experiment(net, loss, sampler, [param_group(opt, net.collect_params())])


def train_npairs(opt):
    """Trains as `opt` says; returns the runs' results and their summary."""
    return run(opt, build)


if __name__ == '__main__':
    main(parse_args, train_npairs)
