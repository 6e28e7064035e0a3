"""Angular loss (Wang et al., "Deep Metric Learning with Angular Loss", arXiv:1708.01682).

Anchor, positive and negative form a triangle. The loss bounds its angle at the negative. Unlike a margin between
distances, an angle does not depend on scale. Batches consist of pairs, as for the N-pair loss.

    python train_angular.py --dataset CUB --data-path DIR
    python train_angular.py --dataset GLYPHS --model convnet --image-size 32 --lr 1e-3
"""
from common.args import TrainingParser, fraction, main, non_negative_float, positive_float
from common.training import Experiment, build_backbone, param_group, run
from dataset.samplers import PairBatches
from models import EmbeddingNet
from models.losses.angular import AngularLoss

ALGORITHM = {
    'key': 'angular',
    'name': 'Angular',
    'paper': 'Deep Metric Learning with Angular Loss',
    'link': 'https://arxiv.org/abs/1708.01682',
    'published': '2017-08',
    'idea': 'Bounds the angle at the negative of the triangle that it forms with a positive pair, whatever its size.',
    'smoke': ['--batches-per-epoch 3',
              '--angular-lambda 1 --symmetric-loss', '--normalize --decrease-cnn-lr'],
    'learns': '--epochs 12 --batch-size 60 --batches-per-epoch 20',
    'search': {'lr': ('log', 1e-4, 1e-2), 'alpha': ('linear', 30, 60), 'normalize': ('choice', False, True)},
}


def parse_args(argv=None):
    """The flags, with the published settings as defaults."""
    parser = TrainingParser(__file__, 'angular', __doc__, batch_size=128, epochs=30, lr=1e-5, steps='10,20')
    parser.add_batches_per_epoch(200)
    group = parser.algorithm
    group.add_argument('--alpha', type=positive_float, default=45.0, metavar='DEGREES',
                       help='upper bound alpha of the angle at the negative, below 90')
    group.add_argument('--angular-lambda', type=non_negative_float, default=0.0, metavar='LAMBDA',
                       help='above 0: the N-pair loss plus LAMBDA times the angular loss; 0: the angular loss alone')
    group.add_argument('--l2reg-weight', type=non_negative_float, default=0.0005, metavar='WEIGHT',
                       help='weight of the squared length of the embeddings')
    group.add_argument('--same-image-sampling', type=fraction, default=0.1, metavar='P',
                       help='probability that anchor and positive are one image, augmented twice')
    group.add_argument('--symmetric-loss', action='store_true',
                       help='average with the loss that has anchors and positives swapped')
    parser.add_normalize(help='scale embeddings to length 1: the loss bounds an angle, and no longer shrinks them')
    parser.add_decrease_cnn_lr()
    opt = parser.parse_args(argv)
    if opt.alpha >= 90:
        parser.error(f'--alpha {opt.alpha:g} is not below 90 degrees')
    return opt


def build(opt, data, ctx):
    """What makes angular loss different from the others."""
    net = EmbeddingNet(build_backbone(opt, ctx), opt.embed_dim, normalize=opt.normalize, init_scale=opt.init_scale)
    loss = AngularLoss(alpha_degrees=opt.alpha, npair_lambda=opt.angular_lambda, l2_reg=opt.l2reg_weight,
                       symmetric=opt.symmetric_loss)
    sampler = PairBatches(data.train.labels, opt.batch_size, opt.batches_per_epoch, opt.same_image_sampling,
                          seed=opt.seed)
    return Experiment(net, loss, sampler, [param_group(opt, net.collect_params())])


def train_angular(opt):
    """Trains as `opt` says; returns the runs' results and their summary."""
    return run(opt, build)


if __name__ == '__main__':
    main(parse_args, train_angular)
