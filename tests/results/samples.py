"""Small made-up run logs of both families, and stand-ins for the scripts that write such logs."""
from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil

from results.algorithms import ALGORITHMS, algorithm

KS = (1, 2, 4, 8)


def stand_ins(folder, experiments, monkeypatch):
    """Makes `folder` the current one, with stand-ins for all scripts, and `experiments` in its ``x.yaml``."""
    for a in ALGORITHMS:
        shutil.copy(os.path.join(os.path.dirname(__file__), 'stand_in.py'), folder / a.script)
    (folder / 'x.yaml').write_text(experiments)
    monkeypatch.chdir(folder)
    monkeypatch.setenv('STAND_IN_JOURNAL', str(folder / 'journal'))


def run(command, *words):
    """Exit status, standard output and standard error of a command that reads ``x.yaml``."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = command.main([*words, '--file', 'x.yaml'])
        except SystemExit as end:
            status = end.code
    return status, out.getvalue(), err.getvalue()


def metrics(recall, jitter=0.0):
    """Metrics of a network whose recall@1 is `recall` percent."""
    found = {f'recall@{k}': round(min(100.0, recall + 6.0 * i), 4) for i, k in enumerate(KS)}
    return dict(found, **{'map@r': round(recall * 0.5, 4), 'r_precision': round(recall * 0.55, 4),
                          'nmi': round(min(100, 45 + recall * 0.3 + jitter), 4)})


def config(key='margin', seed=123, runs=1, identity=None, time='2026-01-01T00:00:00+00:00', **flags):
    """The first line of a log."""
    a = algorithm(key)
    own = dict({'dataset': 'GLYPHS', 'model': 'convnet', 'embed_dim': 64, 'batch_size': 80, 'epochs': 8, 'seed': seed,
                'number_of_runs': runs, 'gpus': '-1', 'logfile': 'x'}, **dict(a.flags), **flags)
    return {'event': 'config', 'id': identity or f'{key}-{seed}-{own["embed_dim"]}', 'time': time,
            'algorithm': key if not a.flags else key.split('-')[0], 'script': a.script or f'train_{key}.py',
            'dataset': own['dataset'], 'model': own['model'], 'flags': own, 'seed': seed, 'runs': runs,
            'versions': {'python': '3.11.9', 'mxnet': '1.9.1', 'numpy': '1.23.5'}, 'device': ['cpu(0)'],
            'weights': {'file': 'convnet.params', 'sha256': 'ab' * 32}, 'git': '0123456789ab',
            'data': {'train_images': 4000, 'train_classes': 100, 'test_images': 4000, 'test_classes': 100},
            'selection': ['best-on-test', 'last']}


def run_events(identity, recalls, run=1, seed=123, before=8.0, end=True, seconds=4.0, hits=None, images=None):
    """The lines of a run whose epochs end with these values of recall@1; `hits`: of each class, at the last epoch."""
    stamp = {'id': identity, 'time': '2026-01-01T00:01:00+00:00'}
    events = [dict(stamp, event='epoch', run=run, epoch=0, **metrics(before))]
    for i, recall in enumerate(recalls, 1):
        events.append(dict(stamp, event='epoch', run=run, epoch=i, loss=1.0 / i, lr=0.001, seconds=seconds,
                           images_per_second=1000.0, **metrics(recall)))
    if end:
        best = max(range(len(recalls)), key=lambda i: recalls[i])
        events.append(dict(stamp, event='run_end', run=run, seed=seed, seconds=seconds * len(recalls),
                           images_seen=4000 * len(recalls), **{
                               'best-on-test': dict(metrics(recalls[best]), epoch=best + 1),
                               'last': dict(metrics(recalls[-1]), epoch=len(recalls),
                                            **({'class_hits': hits} if hits else {}))},
                           **({'class_images': images} if hits else {})))
        events.append(dict(stamp, event='summary', runs=run))
    return events


def write(path, events):
    """Writes events as lines."""
    os.makedirs(os.path.dirname(str(path)) or '.', exist_ok=True)
    with open(path, 'w') as file:
        file.writelines(json.dumps(e) + '\n' for e in events)
    return str(path)


def log(path, key='margin', recalls=(40.0, 60.0, 55.0), seed=123, end=True, seconds=4.0, hits=None, images=None,
        **flags):
    """A log of one run."""
    first = config(key, seed, **flags)
    return write(path, [first] + run_events(first['id'], list(recalls), seed=seed, end=end, seconds=seconds, hits=hits,
                                            images=images))


def comparison(folder, seeds=(123, 124, 125), leave_out=(), epochs=8, dataset='GLYPHS', model='convnet'):
    """Logs of all algorithms, three seeds each, with curves that look like training; and of raw pixels."""
    for i, a in enumerate(ALGORITHMS):
        for seed in seeds:
            chance = random.Random(f'{a.key} {seed}')
            top = 62 + 27 * ((i * 7) % 13) / 12 + chance.gauss(0, 0.8)
            speed = 0.35 + 0.08 * (i % 5)
            fall = 1.2 * (i % 4)
            recalls = [top * (1 - 0.8 * 2.718 ** (-speed * e)) - fall * max(0, e - 5) + chance.gauss(0, 0.4)
                       for e in range(1, epochs + 1)]
            if a.key not in leave_out:
                log(os.path.join(str(folder), f'{a.key}_seed{seed}.jsonl'), a.key, recalls, seed,
                    seconds=3.0 + 2.2 * (i % 6), dataset=dataset, model=model)
    first = config('raw-pixels', identity='raw', dataset=dataset, model='none')
    write(os.path.join(str(folder), 'raw_pixels.jsonl'), [
        first, dict(event='epoch', id='raw', run=1, epoch=0, **metrics(11.0)),
        {'event': 'run_end', 'id': 'raw', 'run': 1, 'seed': 123, 'last': dict(metrics(11.0), epoch=0)},
        {'event': 'summary', 'id': 'raw', 'runs': 1}])
    return str(folder)


NAMESPACE = ("INFO:root:Namespace(batch_k=5, batch_size=125, beta=1.2, data_path='/DATA/CUB', dataset='CUB', "
             "embed_dim=64, epochs={epochs}, gpus=-1, lr=0.0001, model='{model}', number_of_runs={runs}, "
             "save_model_prefix='{prefix}', seed=123, steps='12,14', use_crops=False, wd=1e-05)")


def text_log(recalls, first_epoch=0, percent=False, model='inception-bn', prefix='margin_loss_model',
             before='Pre-train', finish=True):
    """Plain text in the styles of the paper's repository; `recalls` holds the percents of the epochs of each run."""
    def show(name, value):
        return f'{name}={value if percent else value / 100:.6f}'

    lines = [NAMESPACE.format(epochs=len(recalls[0]), runs=len(recalls), model=model, prefix=prefix),
             'INFO:root:Using 1 GPU(s)']
    for number, run in enumerate(recalls, 1):
        lines.append(f'INFO:root:Starting run {number}/{len(recalls)}')
        lines += [f'INFO:root:{before} validation: ' + show(n, v)
                  for n, v in (('Recall@1', 30.0), ('Recall@2', 40.0), ('NMI', 44.0))]
        for epoch, recall in enumerate(run, first_epoch):
            lines.append(f'INFO:root:[Epoch {epoch}] training loss=50.5')
            lines += [f'INFO:root:[Epoch {epoch}] validation: ' + show(n, v)
                      for n, v in (('Recall@1', recall), ('Recall@2', recall + 10), ('NMI', recall + 5))]
            lines.append('INFO:root:Saving margin_loss_model.')
        if finish:
            lines.append(f'INFO:root:Run {number} finished with {max(run)}')
    if finish:
        lines += [f'INFO:root:Average validation of {len(recalls)} runs:', 'R@1\tR@2\tNMI', '51.28\t63.24\t61.09',
                  'INFO:root:Average validation:', 'N/A']
    return '\n'.join(lines) + '\n'
