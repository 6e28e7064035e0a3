"""Evaluation at the scale of Stanford Online Products and past it, beside faiss and scikit-learn.

    python3.11 -m venv V && V/bin/pip install faiss-cpu
    python -m tests.benchmarks.evaluation --faiss-python V/bin/python              # everything, many minutes
    python -m tests.benchmarks.evaluation rate search-64 search-512 kmeans nmi     # parts
    python -m tests.benchmarks.evaluation growth million embed structure

Embeddings are random points around random class centres, scaled to norm 1, in 11,316 classes of about 5 (60,502 of
them, as in SOP's test set). faiss runs in a process of its own, with as many threads, on the same embeddings; the two
take turns. Times are the best of `--rounds` rounds; "CPU" is the processor time of all threads, which depends less on
what else the machine does. Memory is the peak of the resident set over what was resident before, the embeddings
included in the latter. Ratios are ours / theirs: 1.0 or less is what is asked for.
"""
from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import subprocess
import sys
import tempfile
import time

import common  # noqa: F401  (prepares MXNet)
import mxnet as mx
import numpy as np

from common.evaluation.clustering import kmeans, nmi
from common.evaluation import DEFAULT_KS, embed, evaluate, recall_at_k, structure
from common.evaluation.retrieval import retrieval_metrics
from common.evaluation.tiles import controller, thread_count

COUNT, CLASSES = 60502, 11316
KS = (1, 10, 100, 1000)
FAISS = """
import json, sys, time
import faiss, numpy as np
x, what, number, threads = np.load(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
faiss.omp_set_num_threads(threads)
start, cpu = time.perf_counter(), time.process_time()
if what == 'search':
    index = faiss.IndexFlatL2(x.shape[1])
    index.add(x)
    index.search(x, number)
    result = {}
else:
    km = faiss.Kmeans(x.shape[1], number, seed=1, min_points_per_centroid=1)
    km.train(x)
    result = {'seconds': time.perf_counter() - start, 'cpu': time.process_time() - cpu}
    result['inertia'] = float(km.index.search(x, 1)[0].sum(dtype=np.float64))
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
print(json.dumps({'seconds': seconds, 'cpu': cpu, 'version': faiss.__version__, **result}))
"""


def clusters(count, classes, dims, spread=1.0, seed=0):
    """(count, dims) float32 of norm 1, and labels; every class has an image."""
    rng = np.random.RandomState(seed)
    labels = np.sort(np.concatenate([np.arange(classes), rng.randint(0, classes, count - classes)]))
    x = rng.randn(classes, dims).astype(np.float32)[labels]
    for start in range(0, count, 65536):
        part = x[start:start + 65536]
        part += spread * rng.randn(*part.shape).astype(np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return x, labels


def resident(what):
    """VmRSS or VmHWM of this process, bytes."""
    with open('/proc/self/status') as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(what))


def measured(function, *args, **kwargs):
    """(seconds, processor seconds, peak memory over what was resident, result)"""
    with open('/proc/self/clear_refs', 'w') as file:
        file.write('5')                         # forget the peak so far
    before, start, cpu = resident('VmRSS'), time.perf_counter(), time.process_time()
    result = function(*args, **kwargs)
    return time.perf_counter() - start, time.process_time() - cpu, resident('VmHWM') - before, result


def rival(opt, x, what, number):
    """What faiss takes, in a process of its own; None without faiss."""
    if opt.faiss_python is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'x.npy')
        np.save(path, x)
        threads = str(thread_count())
        done = subprocess.run([opt.faiss_python, '-c', FAISS, path, what, str(number), threads], check=True,
                              stdout=subprocess.PIPE, env={**os.environ, 'OMP_NUM_THREADS': threads,
                                                           'OPENBLAS_NUM_THREADS': threads})
    return json.loads(done.stdout)


@functools.lru_cache(maxsize=None)
def product_rate():
    """The machine's float32 matrix product, operations a second: the best of some 2048 x 2048 ones, measured once."""
    a = np.random.RandomState(0).randn(2048, 2048).astype(np.float32)
    out, times = np.empty_like(a), []
    with controller().limit(limits=thread_count()):
        for _ in range(8):
            start = time.perf_counter()
            np.dot(a, a, out=out)
            times.append(time.perf_counter() - start)
    return 2 * 2048.0 ** 3 / min(times)


def rate(_):
    """The matrix product."""
    print(f'matrix product, float32, {thread_count()} threads: {product_rate() / 1e9:.0f} GFLOP/s')


def search(opt, dims):
    """Retrieval metrics against faiss's search."""
    runs = [('recall@1', {'ks': (1,), 'with_r': False}, 2),
            ('recall@1,2,4,..,32, MAP@R, R-precision', {}, 33),
            ('recall@1,10,100,1000', {'ks': KS, 'with_r': False}, 1001),
            ('recall@1,10,100,1000, MAP@R, R-precision', {'ks': KS}, 1001)]
    runs = [run for run in runs if run[2] in opt.k]
    product_rate()                              # before the machine is warm and busy
    for spread in opt.spreads:
        x, labels = clusters(opt.count, opt.count * CLASSES // COUNT, dims, spread)
        theirs = {}
        for title, kwargs, k in runs:
            ours = []
            for _ in range(opt.rounds):
                ours.append(measured(retrieval_metrics, x, labels, **kwargs))
                if opt.faiss_python and len(theirs.setdefault(k, [])) < opt.rounds:
                    theirs[k].append(rival(opt, x, 'search', k))
            seconds, cpu, memory = min(r[0] for r in ours), min(r[1] for r in ours), max(r[2] for r in ours)
            speed = 2.0 * opt.count ** 2 * dims / seconds
            print(f'{opt.count} x {dims}, spread {spread}, {title:<41} {seconds:6.2f} s  CPU {cpu:6.2f} s  '
                  f'{memory / 1e6:4.0f} MB  {speed / 1e9:4.0f} GFLOP/s, {100 * speed / product_rate():3.0f} % of the '
                  'matrix product')
            if k in theirs:
                other, other_cpu = (min(run[name] for run in theirs[k]) for name in ('seconds', 'cpu'))
                print(f'      faiss {theirs[k][0]["version"]}, k = {k}: {other:6.2f} s  CPU {other_cpu:6.2f} s  ratio '
                      f'{seconds / other:.2f}  of CPU {cpu / other_cpu:.2f}', flush=True)
        print('      ' + '  '.join(f'{name} {value:.2f}' for name, value in ours[0][3].items()), flush=True)


def clustering(opt):
    """k-means against faiss's and scikit-learn's."""
    from sklearn.cluster import KMeans
    k = opt.count * CLASSES // COUNT
    for spread in opt.spreads:
        x, labels = clusters(opt.count, k, 64, spread)
        seconds, cpu, memory, (index, _, inertia) = measured(kmeans, x, k, seed=1)
        print(f'k-means {opt.count} x 64, k = {k}, spread {spread}: {seconds:6.1f} s  CPU {cpu:6.1f} s  '
              f'{memory / 1e6:.0f} MB  inertia {inertia:.1f}  NMI {100 * nmi(labels, index):.2f}', flush=True)
        other = rival(opt, x, 'kmeans', k)
        if other:
            print(f'      faiss.Kmeans: {other["seconds"]:6.1f} s  CPU {other["cpu"]:6.1f} s  '
                  f'inertia {other["inertia"]:.1f}  '
                  f'ratio {seconds / other["seconds"]:.2f}  of CPU {cpu / other["cpu"]:.2f}  of inertia '
                  f'{inertia / other["inertia"]:.4f}', flush=True)
    for spread in (0.25, 0.5, 1.0, 2.0):
        x, _ = clusters(5000, 500, 64, spread)
        ours = [measured(kmeans, x, 500, seed=seed) for seed in range(3)]
        theirs = [measured(KMeans(500, n_init=1, random_state=seed).fit, x) for seed in range(3)]
        worst, best = max(run[3][2] for run in ours), min(run[3].inertia_ for run in theirs)
        print(f'k-means 5000 x 64, k = 500, spread {spread}: {min(r[0] for r in ours):.2f} s  scikit-learn '
              f'{min(r[0] for r in theirs):.2f} s  inertia of the worst of 3 seeds / of its best {worst / best:.4f}',
              flush=True)


def information(_):
    """NMI against scikit-learn's."""
    from sklearn.metrics import normalized_mutual_info_score
    for count in (60502, 605020):
        rng = np.random.RandomState(0)
        labels, found = rng.randint(0, CLASSES, count), rng.randint(0, CLASSES, count)
        seconds, _, memory, ours = measured(nmi, labels, found)
        theirs = normalized_mutual_info_score(labels, found, average_method='geometric')
        print(f'NMI of {count}: {1000 * seconds:.0f} ms  {memory / 1e6:.0f} MB  difference from scikit-learn '
              f'{abs(ours - theirs):.1e}')


def growth(_):
    """Time per N squared."""
    first = None
    for count in (10000, 20000, 60000, 120000, 240000):
        x, labels = clusters(count, count // 5, 64)
        seconds, cpu, memory, _ = measured(retrieval_metrics, x, labels, ks=KS)
        unit = cpu / count ** 2
        first = first or unit
        print(f'N = {count:6d}: {seconds:7.2f} s  CPU {cpu:7.2f} s  {memory / 1e6:5.0f} MB  '
              f'{1e9 * unit:.3f} ns of CPU per pair ({unit / first:.2f} of the first)', flush=True)


def million(_):
    """recall@1 of 10,000 queries in a gallery of a million."""
    x, labels = clusters(1010000, 200000, 64)
    chosen = np.random.RandomState(1).permutation(len(x))
    query, gallery = np.sort(chosen[:10000]), np.sort(chosen[10000:])
    query, query_labels, gallery, gallery_labels = x[query], labels[query], x[gallery], labels[gallery]
    del x, labels, chosen
    seconds, _, memory, recall = measured(recall_at_k, query, query_labels, gallery, gallery_labels, ks=(1,))
    print(f'recall@1 of 10,000 queries among 1,000,000 x 64: {recall[1]:.2f} %  {seconds:.2f} s  {memory / 1e6:.0f} MB '
          f'beside the embeddings, {resident("VmHWM") / 1e6:.0f} MB in all')


def inference(opt):
    """embed() against a bare forward loop."""
    from models import EmbeddingNet, get_backbone
    Batch = collections.namedtuple('Batch', 'images labels')
    rng = np.random.RandomState(0)
    for name, size, images, batch_size in (('convnet', 32, 4050, 100), ('resnet18_v2', 112, 230, 20)):
        net = EmbeddingNet(get_backbone(name, 'none', mx.cpu()), 64)
        net.initialize(mx.init.Xavier(), ctx=mx.cpu())
        net.hybridize(static_alloc=True)
        pixels = rng.randint(0, 256, (images, size, size, 3)).astype(np.uint8)
        data = [Batch(pixels[s:s + batch_size], np.zeros(len(pixels[s:s + batch_size])))
                for s in range(0, images, batch_size)]

        def bare(net=net, data=data):
            for batch in data[:-1]:             # the last one has another shape
                net(mx.nd.array(batch.images, dtype='uint8'))
            mx.nd.waitall()

        bare()
        times = [(measured(bare)[0], measured(embed, net, data, [mx.cpu()])[0]) for _ in range(max(5, opt.rounds))]
        plain, ours = (min(column) for column in zip(*times))
        plain_rate, rate = (images - len(data[-1].images)) / plain, images / ours
        print(f'embed, {name}, {size} pixels: {rate:.0f} images/s, bare forward loop {plain_rate:.0f}  ratio '
              f'{rate / plain_rate:.3f} (0.95 or more)', flush=True)


def inside(opt):
    """evaluate() without NMI, with and without the metrics of structure.py; and how far its sample is off."""
    for count, classes, dims in ((4000, 100, 64), (4000, 100, 512), (opt.count, opt.count * CLASSES // COUNT, 64)):
        x, labels = clusters(count, classes, dims)
        ks = KS if count == opt.count else DEFAULT_KS
        times = [(measured(evaluate, x, labels, ks=ks, with_nmi=False)[:2],
                  measured(retrieval_metrics, x, labels, ks=ks)[:2]) for _ in range(max(5, opt.rounds))]
        whole, without = (np.min(column, axis=0) for column in zip(*times))
        alone = np.min([measured(structure.structure_metrics, x, labels)[:2] for _ in range(5)], axis=0)
        print(f'{count} x {dims}: evaluate {whole[0]:.3f} s, without {without[0]:.3f} s, ratio '
              f'{whole[0] / without[0]:.3f}; alone {1000 * alone[0]:.0f} ms, {100 * alone[0] / without[0]:.1f} % '
              f'(of CPU {100 * alone[1] / without[1]:.1f} %; 10 % or less)', flush=True)
    x, labels = clusters(4000, 100, 64, spread=2.0)
    drawn = [structure.structure_metrics(x, labels, seed) for seed in range(10)]
    structure.NEGATIVE_PAIRS = structure.POSITIVE_PAIRS = 1 << 24
    for name, value in structure.structure_metrics(x, labels).items():
        values = [one[name] for one in drawn]
        print(f'      {name}: all pairs {value:.4f}, sample {np.mean(values):.4f}, standard deviation over seeds '
              f'{np.std(values, ddof=1):.4f}')


PARTS = {'rate': rate, 'search-64': lambda opt: search(opt, 64), 'search-512': lambda opt: search(opt, 512),
         'kmeans': clustering, 'nmi': information, 'growth': growth, 'million': million, 'embed': inference,
         'structure': inside}


def main():
    """Runs the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('parts', nargs='*', metavar='PART', help=', '.join(PARTS))
    parser.add_argument('--faiss-python', metavar='PATH', help='a Python that has faiss; without, it is left out')
    parser.add_argument('--rounds', type=int, default=1)
    parser.add_argument('--count', type=int, default=COUNT, help='embeddings, for search and kmeans')
    parser.add_argument('--k', type=int, nargs='+', default=[2, 33, 1001], help='which of the searches (default: all)')
    parser.add_argument('--spreads', type=float, nargs='+', default=[1.0],
                        help='width of the classes in units of the distance of their centres')
    opt = parser.parse_args()
    if set(opt.parts) - set(PARTS):
        parser.error(f'parts are {", ".join(PARTS)}')
    if opt.faiss_python is None:
        print('faiss is left out: name an interpreter that has it with --faiss-python', file=sys.stderr)
    for part in opt.parts or PARTS:
        print(f'-- {part}', flush=True)
        PARTS[part](opt)


if __name__ == '__main__':
    main()
