"""Normalised softmax (Zhai and Wu, "Classification is a Strong Baseline for Deep Metric Learning", arXiv:1811.12649).

This is plain classification. Embeddings and class weights (the proxies) are scaled to length 1. The temperature is low.
The head has layer normalisation and dropout. The published figures use --embed-dim 2048.

    python train_normproxy.py --dataset CUB --data-path DIR
    python train_normproxy.py --dataset GLYPHS --model convnet --image-size 32
"""
from common.args import TrainingParser, fraction, main, non_negative_int, positive_float
from common.training import Experiment, build_backbone, param_group, run, shuffled_or_balanced
from models import EmbeddingNet, L2Normalization
from models.heads import NormProxyHead
from models.losses.normproxy import NormProxyLoss

ALGORITHM = {
    'key': 'normproxy',
    'name': 'Proxy-softmax',
    'paper': 'Classification is a Strong Baseline for Deep Metric Learning',
    'link': 'https://arxiv.org/abs/1811.12649',
    'published': '2018-11',
    'idea': 'A softmax over cosine similarities to class proxies: plain classification, with both sides normalised.',
    'smoke': ['--no-dropout',
              '--no-fc',
              '--binarize --static-proxies',
              '--binarize --similarity euclidean'],
    'learns': '--epochs 22',
    'search': {'lr': ('log', 1e-4, 1e-2), 'temperature': ('log', 0.02, 0.2), 'epsilon': ('log', 1e-8, 1e-2)},
}


def parse_args(argv=None):
    """The flags, with the published settings as defaults."""
    parser = TrainingParser(__file__, 'normproxy', __doc__, batch_size=75, epochs=30, lr=1e-3, steps='15',
                            factor=0.1, wd=1e-4, epsilon=0.01)
    parser.add_batch_k(0)
    parser.add_batches_per_epoch(0)
    group = parser.algorithm
    group.add_argument('--temperature', type=positive_float, default=0.05, metavar='SIGMA',
                       help='similarities are divided by this')
    group.add_argument('--label-smooth', type=fraction, default=0.1, metavar='EPSILON', help='label smoothing')
    group.add_argument('--dropout', type=fraction, default=0.5, metavar='P', help='dropout of the features in the head')
    group.add_argument('--no-dropout', action='store_true', help='the same as --dropout 0')
    group.add_argument('--start-epoch', type=non_negative_int, default=1, metavar='EPOCHS',
                       help='epochs in which head and proxies learn alone, before the backbone joins; batch norm in '
                            'the backbone works as in training (see also --freeze-backbone)')
    group.add_argument('--no-fc', action='store_true',
                       help="leave out the dense layer: the embedding is the backbone's features, layer-normalised")
    group.add_argument('--static-proxies', action='store_true',
                       help='fixed one-hot proxies; the embedding then has one number for each training class')
    group.add_argument('--binarize', action='store_true',
                       help='evaluate binary embeddings, thresholded at zero')
    group.add_argument('--similarity', default='cosine', choices=['cosine', 'euclidean'],
                       help='what neighbours are ranked by; only with --binarize does it matter')
    parser.differs('--lr', '1e-4')
    parser.differs('--wd', '1e-5')
    opt = parser.parse_args(argv)
    if opt.no_dropout:
        opt.dropout = 0.0
    if opt.no_fc and opt.static_proxies:
        parser.error('--static-proxies needs the dense layer that --no-fc leaves out')
    return opt


def build(opt, data, ctx):
    """What makes normalised softmax different from the others."""
    backbone = build_backbone(opt, ctx)
    classes = data.train.num_classes
    dim = backbone.features_dim if opt.no_fc else classes if opt.static_proxies else opt.embed_dim
    head = NormProxyHead(dim, dropout=opt.dropout, fc=not opt.no_fc, init_scale=opt.init_scale)
    net = EmbeddingNet(backbone, dim, normalize=True, head=head)
    loss = NormProxyLoss(classes, dim, temperature=opt.temperature, label_smooth=opt.label_smooth,
                         static=opt.static_proxies)
    unit = L2Normalization() if opt.similarity == 'cosine' else (lambda x: x)
    # The head and the proxies learn first; the backbone follows.
    groups = [param_group(opt, net.head.collect_params()),
              param_group(opt, loss.collect_params()),
              param_group(opt, net.backbone.collect_params(), frozen_epochs=opt.start_epoch)]
    return Experiment(net, loss, shuffled_or_balanced(opt, data.train.labels), groups,
                      embed=(lambda images: unit(net(images) > 0)) if opt.binarize else None)


def train_normproxy(opt):
    """Trains as `opt` says; returns the runs' results and their summary."""
    return run(opt, build)


if __name__ == '__main__':
    main(parse_args, train_normproxy)
