"""Proxy-NCA and its relatives (Movshovitz-Attias et al., "No Fuss Distance Metric Learning using Proxies",
arXiv:1703.07464).

Every class has a proxy, a learned point. Images are compared with proxies instead of with each other, so nothing has
to be sampled or mined. --loss chooses the loss that is computed from the distances: NCA, softmax, triplet or margin.

    python train_proxy.py --dataset CUB --data-path DIR
    python train_proxy.py --dataset GLYPHS --model convnet --image-size 32 --loss triplet
"""
from common.args import TrainingParser, main, non_negative_float, positive_float, positive_int
from common.training import Experiment, build_backbone, param_group, run, shuffled_or_balanced
from models import EmbeddingNet
from models.losses.proxy import ProxyLoss

ALGORITHM = {
    'key': 'proxy',
    'name': 'Proxy',
    'paper': 'No Fuss Distance Metric Learning using Proxies',
    'link': 'https://arxiv.org/abs/1703.07464',
    'published': '2017-03',
    'idea': 'Images are compared with one learned proxy per class instead of with each other.',
    'variants': {
        'proxy-nca': {'name': 'Proxy-NCA', 'flags': '--loss nca', 'learns': '--epochs 10'},
        'proxy-triplet': {'name': 'Proxy-triplet', 'flags': '--loss triplet', 'learns': '--epochs 16',
                          'idea': 'The triplet loss with learned class proxies as positives and negatives.'},
    },
    'smoke': ['',
              '--loss triplet',
              '--loss xentropy --label-smooth 0.1',
              '--loss proxymargin',
              '--iteration-per-epoch 2 --batch-k 2 --lr 1e-3'],
    'search': {'lr': ('log', 1e-4, 1e-2), 'embedding-multiplier': ('log', 1, 8), 'epsilon': ('log', 1e-8, 1e-2)},
}

RATES = {'embedding': 1e-5, 'inception': 1e-3, 'proxynca': 1e-3}


def parse_args(argv=None):
    """The flags, with the published settings as defaults."""
    parser = TrainingParser(__file__, 'proxy', __doc__, batch_size=32, epochs=20, lr=None, steps='3,10,16',
                            factor=0.1, wd=5e-4, epsilon=0.01)
    group = parser.algorithm
    group.add_argument('--loss', default='nca', choices=['nca', 'triplet', 'xentropy', 'proxymargin'], help='loss')
    for name, what in zip(RATES, ('the head', 'the backbone, whichever it is,', 'the proxies')):
        group.add_argument(f'--lr-{name}', type=positive_float, metavar='RATE',
                           help=f'learning rate of {what} (default: --lr if given, else {RATES[name]:g})')
    parser.add_proxy_scale()
    group.add_argument('--margin', type=non_negative_float, default=0.2, metavar='ALPHA',
                       help='margin around beta, a distance; for proxymargin')
    group.add_argument('--beta', type=positive_float, default=1.2, metavar='DISTANCE',
                       help='initial boundary between positive and negative proxies; for proxymargin')
    parser.add_batches_per_epoch(0, 'batches in an epoch, with --batch-k images of each class; 0: shuffled batches, '
                                    'one pass an epoch')
    group.add_argument('--batch-k', type=positive_int, default=5, metavar='K',
                       help='images of each class in a batch, where --batches-per-epoch is above 0')
    parser.differs('--loss', 'triplet')
    opt = parser.parse_args(argv)
    for name, rate in RATES.items():
        if getattr(opt, f'lr_{name}') is None:
            setattr(opt, f'lr_{name}', opt.lr or rate)
    parser.check_label_smooth(opt)
    if not opt.batches_per_epoch:
        opt.batch_k = 0
    return opt


def build(opt, data, ctx):
    """What makes proxy losses different from the others."""
    net = EmbeddingNet(build_backbone(opt, ctx), opt.embed_dim, normalize=True, init_scale=opt.init_scale)
    loss = ProxyLoss(data.train.num_classes, opt.embed_dim, opt.loss, multiplier=opt.embedding_multiplier,
                     temperature=opt.temperature, label_smooth=opt.label_smooth, margin=opt.margin,
                     beta=opt.beta)
    groups = [param_group(opt, net.head.collect_params(), lr=opt.lr_embedding),
              param_group(opt, net.backbone.collect_params(), lr=opt.lr_inception),
              param_group(opt, loss.collect_params(), lr=opt.lr_proxynca)]
    return Experiment(net, loss, shuffled_or_balanced(opt, data.train.labels), groups)


def train_proxy(opt):
    """Trains as `opt` says; returns the runs' results and their summary."""
    return run(opt, build)


if __name__ == '__main__':
    main(parse_args, train_proxy)
