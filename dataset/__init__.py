"""Datasets: from a name and a folder to batches of images.

`get_dataset` gives the training and the test set of a dataset, samplers choose the images of each batch, and
the loader decodes them. The readers are imported here so that they register themselves; samplers and loader are
imported from their modules by those who use them, which keeps this import light.
"""
import common  # noqa: F401  (prepares MXNet)

from dataset.errors import DatasetError
from dataset.imageset import ImageSet, fold_classes, split_classes
from dataset.registry import dataset_names, get_dataset, register

from dataset import cub, cars196, sop, inshop, folder, glyphs  # isort: skip  (each registers its reader)

__all__ = ['DatasetError', 'ImageSet', 'dataset_names', 'fold_classes', 'get_dataset', 'register', 'split_classes',
           'cub', 'cars196', 'sop', 'inshop', 'folder', 'glyphs']
