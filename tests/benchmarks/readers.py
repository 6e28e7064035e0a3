"""Readers at full scale: exact counts, reading time and memory.

    python -m tests.benchmarks.readers [--annotations DIR] [--keep DIR]

builds trees of the full size and structure of CUB (11,788 images), CARS196 (16,185 images and a ``cars_annos.mat``),
SOP (120,053 images in 12 categories) and INSHOP (52,712 images in 7,982 folders) and reads each in a process of its
own. All images are hard links to a few tiny JPEGs. DIR may hold ``cub/`` with the official lists (images.txt,
image_class_labels.txt, bounding_boxes.txt) and ``cars/cars_16185_joined.csv`` (split, fname, class, x1, y1, x2, y2,
name); what is not there is made up, with the published counts.
"""
from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from typing import List, Optional, Sequence, Tuple

import cv2
import numpy as np

#: (classes, images) of train and test: DESIGN, section 6.
PUBLISHED = {'CUB': ((100, 5864), (100, 5924)), 'CARS196': ((98, 8054), (98, 8131)),
             'SOP': ((11318, 59551), (11316, 60502)), 'INSHOP': ((3997, 25882), (3985, 26830))}
QUERIES = 14218             # of INSHOP's test images
SOP_CATEGORIES = ('bicycle', 'cabinet', 'chair', 'coffee_maker', 'fan', 'kettle', 'lamp', 'mug', 'sofa', 'stapler',
                  'table', 'toaster')


class Pictures:
    """Makes image files: hard links to tiny JPEGs, a new one before a file system's limit of links is reached."""

    def __init__(self, folder: str) -> None:
        self._folder = os.path.join(folder, 'pictures')
        os.makedirs(self._folder)
        self._count = 0

    def add(self, path: str) -> None:
        number, rest = divmod(self._count, 30000)
        source = os.path.join(self._folder, '%d.jpg' % number)
        if not rest:
            cv2.imwrite(source, np.full((8, 8, 3), 16 * number, dtype=np.uint8))
        os.link(source, path)
        self._count += 1


def published_classes(name: str) -> List[int]:
    """A class id, from 1, for each image, with the published counts."""
    (train_classes, train_images), (test_classes, test_images) = PUBLISHED[name]
    return sorted([1 + i % train_classes for i in range(train_images)]
                  + [1 + train_classes + i % test_classes for i in range(test_images)])


def build_cub(root: str, annotations: Optional[str], pictures: Pictures) -> str:
    lists = ('images.txt', 'image_class_labels.txt', 'bounding_boxes.txt')
    source = os.path.join(annotations or '', 'cub')
    os.makedirs(root)
    official = annotations is not None and os.path.isdir(source)
    if official:
        for name in lists:
            shutil.copyfile(os.path.join(source, name), os.path.join(root, name))
    else:
        classes = published_classes('CUB')
        rows = ([('%03d.Some_Species/Some_Species_%04d_%d.jpg' % (label, i, 796000 + i),) for i, label
                 in enumerate(classes)], [(label,) for label in classes], [(60.0, 27.0, 325.0, 304.0)] * len(classes))
        for name, content in zip(lists, rows):
            with open(os.path.join(root, name), 'w') as stream:
                stream.writelines('%d %s\n' % (i + 1, ' '.join(map(str, row))) for i, row in enumerate(content))
    with open(os.path.join(root, 'images.txt')) as stream:
        names = [line.split()[1] for line in stream]
    for folder in sorted({name.split('/')[0] for name in names}):
        os.makedirs(os.path.join(root, 'images', folder))
    for name in names:
        pictures.add(os.path.join(root, 'images', name))
    return 'official lists' if official else 'made-up lists'


def build_cars(root: str, annotations: Optional[str], pictures: Pictures) -> str:
    from scipy.io import savemat
    table_file = os.path.join(annotations or '', 'cars', 'cars_16185_joined.csv')
    official = annotations is not None and os.path.isfile(table_file)
    if official:
        with open(table_file, newline='', encoding='utf-8') as stream:
            rows = [(int(row['class']), [int(row[k]) for k in ('x1', 'y1', 'x2', 'y2')], row['name'])
                    for row in csv.DictReader(stream)]
        rows.sort(key=lambda row: row[0])  # as in the published table, where classes follow one another
    else:
        rows = [(label, [39, 116, 569, 375], 'Model %d' % label) for label in published_classes('CARS196')]
    os.makedirs(os.path.join(root, 'car_ims'))
    fields = ('relative_im_path', 'bbox_x1', 'bbox_y1', 'bbox_x2', 'bbox_y2', 'class', 'test')
    table = np.zeros((1, len(rows)), dtype=[(field, object) for field in fields])
    for i, (label, box, _) in enumerate(rows):
        name = 'car_ims/%06d.jpg' % (i + 1)
        table[0, i] = (name, *map(np.uint16, box), np.uint8(label), np.uint8(0))
        pictures.add(os.path.join(root, name))
    names = {label: name for label, _, name in rows}
    savemat(os.path.join(root, 'cars_annos.mat'), do_compression=True, mdict={
        'annotations': table, 'class_names': np.array([[names[k] for k in sorted(names)]], dtype=object)})
    return 'official labels and boxes' if official else 'made-up table'


def build_sop(root: str, annotations: Optional[str], pictures: Pictures) -> str:
    (train_classes, train_images), _ = PUBLISHED['SOP']
    classes = published_classes('SOP')
    for category in SOP_CATEGORIES:
        os.makedirs(os.path.join(root, category + '_final'))
    rows = []
    for i, label in enumerate(classes):
        kind = label % len(SOP_CATEGORIES)
        name = '%s_final/%d_%d.JPG' % (SOP_CATEGORIES[kind], 110000000000 + 7919 * label, i)
        rows.append('%d %d %d %s\n' % (i + 1, label, kind + 1, name))
        pictures.add(os.path.join(root, name))
    for name, part in (('Ebay_train.txt', rows[:train_images]), ('Ebay_test.txt', rows[train_images:])):
        with open(os.path.join(root, name), 'w') as stream:
            stream.write('image_id class_id super_class_id path\n')
            stream.writelines(part)
    return 'made-up lists'


def build_inshop(root: str, annotations: Optional[str], pictures: Pictures) -> str:
    (train_classes, train_images), (test_classes, _) = PUBLISHED['INSHOP']
    rows, boxes, tested = [], [], 0
    for i, label in enumerate(published_classes('INSHOP')):
        folder = 'img/%s/Dresses/id_%08d' % (('WOMEN', 'MEN')[label % 2], label)
        os.makedirs(os.path.join(root, 'Img', folder), exist_ok=True)
        pictures.add(os.path.join(root, 'Img', folder, '%02d_1_front.jpg' % i))
        rows.append(['%s/%02d_1_front.jpg' % (folder, i), 'id_%08d' % label, 'train'])
        boxes.append('%s 3 1 1 2 7 8\n' % rows[-1][0])
    # each class of the test gets a query and a gallery image, and then queries until there are enough
    seen = {}
    for row in rows[train_images:]:
        seen[row[1]] = seen.get(row[1], 0) + 1
        row[2] = 'query' if seen[row[1]] == 1 else 'gallery'
    for row in rows[train_images:]:
        if seen[row[1]] > 2 and row[2] == 'gallery' and tested < QUERIES - test_classes:
            row[2], seen[row[1]], tested = 'query', seen[row[1]] - 1, tested + 1
    for folder, name, heading, lines in (
            ('Eval', 'list_eval_partition.txt', 'image_name item_id evaluation_status',
             ['%-70s %s %s\n' % tuple(row) for row in rows]),
            ('Anno', 'list_bbox_inshop.txt', 'image_name clothes_type pose_type x_1 y_1 x_2 y_2', boxes)):
        os.makedirs(os.path.join(root, folder))
        with open(os.path.join(root, folder, name), 'w') as stream:
            stream.write('%d\n%s\n' % (len(rows), heading))
            stream.writelines(lines)
    return 'made-up lists'


def read(name: str, root: str) -> None:
    """In a process of its own: read twice, print the result as JSON."""
    from dataset import get_dataset
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        train, test = get_dataset(name, root)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({'counts': [[images.num_classes, len(images)] for images in (train, test)], 'seconds': seconds,
                      'peak': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 'before': before / 1024}))


def main(argv: Optional[Sequence[str]] = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--annotations', metavar='DIR', help='folder with the official lists (default: made up)')
    parser.add_argument('--keep', metavar='DIR', help='build the trees in DIR and leave them (default: temporary)')
    parser.add_argument('--read', nargs=2, metavar=('NAME', 'DIR'), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.read:
        read(*options.read)
        return 0
    folder = options.keep or tempfile.mkdtemp(prefix='readers-')
    wrong = 0
    try:
        pictures = Pictures(folder)
        print('| dataset | classes train / test | images train / test | first reading (s) | second (s) '
              '| peak memory (MB; with imports alone) | from |\n|---|---|---|---|---|---|---|')
        for name, build in (('CUB', build_cub), ('CARS196', build_cars), ('SOP', build_sop),
                            ('INSHOP', build_inshop)):
            root = os.path.join(folder, name)
            source = build(root, options.annotations, pictures)
            result = json.loads(subprocess.check_output(
                [sys.executable, '-m', 'tests.benchmarks.readers', '--read', name, root]))
            counts: List[Tuple[int, int]] = [tuple(part) for part in result['counts']]
            wrong += tuple(counts) != PUBLISHED[name]
            (train_classes, train_images), (test_classes, test_images) = counts
            print('| %s | %d / %d | %d / %d | %.2f | %.2f | %.0f (%.0f) | %s |' % (
                name, train_classes, test_classes, train_images, test_images, *result['seconds'], result['peak'],
                result['before'], source), flush=True)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print('counts as published' if not wrong else '%d datasets with wrong counts' % wrong)
    return 1 if wrong else 0


if __name__ == '__main__':
    sys.exit(main())
