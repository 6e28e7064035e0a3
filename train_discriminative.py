"""Discriminative loss (Do et al., "A Theoretically Sound Upper Bound on the Triplet Loss for Improving the Efficiency
of Deep Distance Metric Learning", arXiv:1904.08720).

Each class has a fixed centre, a one-hot vector. Distances to the centres bound the triplet loss from above. This takes
B x C distances instead of B^3 triplets. The output (C numbers, published) and the layer before it (--embed-dim numbers)
are both evaluated. The output chooses the best epoch.

    python train_discriminative.py --dataset CUB --data-path DIR
    python train_discriminative.py --dataset GLYPHS --model convnet --image-size 32
"""
from collections import OrderedDict

from common.args import TrainingParser, fraction, main, positive_float
from common.training import Experiment, build_backbone, param_group, run
from dataset.samplers import ShuffledBatches
from models import EmbeddingNet
from models.heads import DiscriminativeHead
from models.losses.discriminative import DiscriminativeLoss

ALGORITHM = {
    'key': 'discriminative',
    'name': 'Discriminative',
    'paper': 'A Theoretically Sound Upper Bound on the Triplet Loss for Improving the Efficiency of Deep '
             'Distance Metric Learning',
    'link': 'https://arxiv.org/abs/1904.08720',
    'published': '2019-04',
    'idea': 'Pulls every image to a fixed, one-hot centre of its class: a bound on the triplet loss that needs '
            'no triplets.',
    'smoke': ['--dropout 0',
              '--squared --dropout 0.5'],
    'learns': '--epochs 14',
    'search': {'lr': ('log', 1e-4, 1e-2), 'dropout': ('linear', 0.0, 0.5)},
}


def parse_args(argv=None):
    """The flags, with the published settings as defaults."""
    parser = TrainingParser(__file__, 'discriminative', __doc__, batch_size=128, epochs=60,
                            steps='20,30,40')
    group = parser.algorithm
    group.add_argument('--gain', type=positive_float, default=1.0, metavar='G', help='factor of the loss')
    group.add_argument('--squared', action='store_true', help='squared distances, for which the bound does not hold')
    group.add_argument('--dropout', type=fraction, default=0.5, metavar='P',
                       help='dropout between the embedding and the output')
    return parser.parse_args(argv)


def build(opt, data, ctx):
    """What makes the discriminative loss different from the others."""
    classes = data.train.num_classes
    head = DiscriminativeHead(opt.embed_dim, classes, dropout=opt.dropout, init_scale=opt.init_scale)
    net = EmbeddingNet(build_backbone(opt, ctx), classes, normalize=True, head=head)
    loss = DiscriminativeLoss(classes, gain=opt.gain, squared=opt.squared)

    def embed(images):
        embedding = head.embedding(net.backbone(net.pixels(images)))
        return OrderedDict(output=net.l2(head.output(embedding)), embedding=embedding)

    return Experiment(net, loss, ShuffledBatches(data.train.labels, opt.batch_size, seed=opt.seed),
                      [param_group(opt, net.collect_params())], embed=embed)


def train_discriminative(opt):
    """Trains as `opt` says; returns the runs' results and their summary."""
    return run(opt, build)


if __name__ == '__main__':
    main(parse_args, train_discriminative)
