"""Prototypical networks (Snell et al., "Prototypical Networks for Few-shot Learning", arXiv:1703.05175).

A batch is an episode of nc classes. Each class has ns support images and nq queries. The mean of the support images is
the prototype of the class. The queries are classified by their distances to the prototypes.

    python train_prototype.py --dataset CUB --data-path DIR
    python train_prototype.py --dataset GLYPHS --model convnet --image-size 32
"""
from common.args import TrainingParser, main, positive_int
from common.training import Experiment, build_backbone, param_group, run
from dataset.samplers import EpisodeBatches
from models import EmbeddingNet
from models.losses.prototypical import PrototypicalLoss

ALGORITHM = {
    'key': 'prototype',
    'name': 'Prototype',
    'paper': 'Prototypical Networks for Few-shot Learning',
    'link': 'https://arxiv.org/abs/1703.05175',
    'published': '2017-03',
    'idea': 'Queries are classified by the nearest mean of a few support images of each class.',
    'smoke': ['--nc 2 --ns 2 --nq 2 --batches-per-epoch 3 --batch-size 8'],
    'learns': '--epochs 8 --batches-per-epoch 10',
    'batch': 'nc * (ns + nq)',
    'search': {'lr': ('log', 1e-4, 1e-2), 'nc': ('choice', 6, 12, 24)},
}

#: --batch-size of the published command, which its episodes (120 images) do not follow either.
PUBLISHED_BATCH = 32


def parse_args(argv=None):
    """The flags, with the published settings as defaults."""
    parser = TrainingParser(__file__, 'prototype', __doc__, batch_size=120, epochs=30, steps='12,14,16,18')
    parser.add_batches_per_epoch(100, 'episodes in an epoch')
    group = parser.algorithm
    group.add_argument('--nc', type=positive_int, default=12, metavar='CLASSES', help='classes in an episode')
    group.add_argument('--ns', type=positive_int, default=5, metavar='IMAGES', help='support images of a class')
    group.add_argument('--nq', type=positive_int, default=5, metavar='IMAGES', help='query images of a class')
    parser.add_normalize()
    opt = parser.parse_args(argv)
    images = opt.nc * (opt.ns + opt.nq)
    if opt.batch_size not in (images, parser.get_default('batch_size'), PUBLISHED_BATCH):
        parser.error(f'--batch-size {opt.batch_size} is not the {images} images of an episode, --nc x (--ns + --nq)')
    opt.batch_size = images
    return opt


def build(opt, data, ctx):
    """What makes prototypical networks different from the others."""
    net = EmbeddingNet(build_backbone(opt, ctx), opt.embed_dim, normalize=opt.normalize, init_scale=opt.init_scale)
    loss = PrototypicalLoss(opt.nc, opt.ns, opt.nq)
    sampler = EpisodeBatches(data.train.labels, opt.nc, opt.ns, opt.nq, opt.batches_per_epoch, seed=opt.seed)
    return Experiment(net, loss, sampler, [param_group(opt, net.collect_params())])


def train_prototype(opt):
    """Trains as `opt` says; returns the runs' results and their summary."""
    return run(opt, build)


if __name__ == '__main__':
    main(parse_args, train_prototype)
