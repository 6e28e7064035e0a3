"""Randomised ensembles, DREML (Xuan et al., "Deep Randomized Ensembles for Metric Learning", arXiv:1808.04469).

For each of L networks, the classes are put at random into D meta-classes. The network learns to tell these apart. One
network alone knows little. The embeddings of all, joined, make a good one. The networks are trained one after another,
and each is saved when it is done. Recall is logged as the ensemble grows. An interrupted run goes on with the network
that it had reached.

    python train_dreml.py --dataset CUB --data-path DIR
    python train_dreml.py --dataset GLYPHS --model convnet --image-size 32 -L 6
"""
import numpy as np

from common.args import TrainingParser, main, positive_int
from common.errors import UsageError
from common.seeds import derived_seed
from common.training import Ensemble, Experiment, build_backbone, param_group, run
from dataset.samplers import ShuffledBatches
from models import EmbeddingNet
from models.ensemble import MetaClassLoss, random_meta_classes
from models.losses.proxy import ProxyLoss

ALGORITHM = {
    'key': 'dreml',
    'name': 'DREML',
    'paper': 'Deep Randomized Ensembles for Metric Learning',
    'link': 'https://arxiv.org/abs/1808.04469',
    'published': '2018-08',
    'idea': 'Many small networks each learn a random grouping of the classes; their embeddings are joined.',
    'smoke': ['-L 2 -D 3 --embed-dim 6',
              '--static-proxies --loss xentropy'],
    'learns': '--epochs 10 -L 3',
    'search': {'lr': ('log', 1e-4, 1e-2), 'meta-classes': ('choice', 12, 24, 32), 'epsilon': ('log', 1e-8, 1e-2)},
}


def parse_args(argv=None):
    """The flags, with the published settings as defaults."""
    parser = TrainingParser(__file__, 'dreml', __doc__, batch_size=128, epochs=12, lr=0.01, steps='-4', factor=0.1,
                            wd=5e-4)
    group = parser.algorithm
    group.add_argument('-L', '--ensemble-size', '--number-of-ensembles', type=positive_int, default=48, metavar='N',
                       help='networks in the ensemble, each trained for --epochs')
    group.add_argument('-D', '--meta-classes', type=positive_int, default=12, metavar='N',
                       help="meta-classes, and the size of a member's embedding (--embed-dim becomes L x D)")
    group.add_argument('--loss', default='nca', choices=['nca', 'triplet', 'xentropy'], help='proxy loss of a member')
    group.add_argument('--static-proxies', action='store_true', help='fixed one-hot proxies')
    parser.add_proxy_scale()
    parser.differs('--epsilon', '0.01')
    opt = parser.parse_args(argv)
    if opt.meta_classes < 2:
        parser.error('--meta-classes 1 leaves nothing to tell apart')
    parser.check_label_smooth(opt)
    dim = opt.ensemble_size * opt.meta_classes
    if opt.embed_dim not in (dim, parser.get_default('embed_dim')):
        parser.error(f'--embed-dim {opt.embed_dim} is not the {dim} of -L networks with -D numbers each')
    opt.embed_dim = dim
    return opt


def build(opt, data, ctx):
    """What makes DREML different from the others."""
    classes, dim = data.train.num_classes, opt.meta_classes
    if dim > classes:
        raise UsageError(f'--meta-classes {dim} is more than the {classes} training classes')

    def member(m):
        net = EmbeddingNet(build_backbone(opt, ctx), dim, normalize=True, init_scale=opt.init_scale)
        class_map = random_meta_classes(classes, dim, np.random.RandomState(derived_seed(opt.seed, m)))
        proxies = ProxyLoss(dim, dim, opt.loss, multiplier=opt.embedding_multiplier, temperature=opt.temperature,
                            label_smooth=opt.label_smooth, static=opt.static_proxies)
        loss = MetaClassLoss(proxies, class_map)
        sampler = ShuffledBatches(data.train.labels, opt.batch_size, seed=derived_seed(opt.seed, m))
        return Experiment(net, loss, sampler, [param_group(opt, net.collect_params()),
                                               param_group(opt, loss.collect_params())])

    return Ensemble(opt.ensemble_size, member)


def train_dreml(opt):
    """Trains as `opt` says; returns the runs' results and their summary."""
    return run(opt, build)


if __name__ == '__main__':
    main(parse_args, train_dreml)
