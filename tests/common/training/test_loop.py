"""The training loop: logs, fresh starts, several devices, interruption and exact resumption."""
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

import train_dreml
import train_margin
from common import training
from common.training import checkpoint, ensemble
from common.devices import describe_contexts, gpu_memory_mb, peak_memory_mb
from common.stats import STRUCTURE_METRICS
from common.errors import TrainingError, UsageError
from common.interrupts import Interrupts
from common.training.learner import Learner
from common.training.optimisers import param_group
from dataset import DatasetError
from models.embedding import L2Normalization
from tests.tiny import flags, make_tree

TIMES = {'time', 'seconds', 'images_per_second', 'evaluation_seconds', 'total_seconds', 'peak_memory_mb',
         'id', 'git'}


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    return make_tree(str(tmp_path_factory.mktemp('tiny') / 'tree'))


def margin(tree, results, *more):
    return train_margin.parse_args(flags(tree, results, '--batch-k', '2', '--batches-per-epoch', '3', '--lr', '0.003',
                                         *more))


def events(path, *kinds):
    records = [json.loads(line) for line in pathlib.Path(path).read_text().splitlines()]
    return [r for r in records if not kinds or r['event'] in kinds]


def timeless(path):
    """The log without what differs between equal runs: times, ids and where the files are."""
    def strip(value):
        if isinstance(value, dict):
            return {k: strip(v) for k, v in value.items() if k not in TIMES}
        return value
    records = [strip(r) for r in events(path)]
    for record in records:
        for name in ('results_dir', 'logfile', 'save_model_prefix', 'load_checkpoint'):
            record.get('flags', {}).pop(name, None)
    return records


def parameters(path):
    return {name: array.asnumpy() for name, array in mx.nd.load(path).items()}


def only(folder, suffix):
    found = [str(p) for p in folder.rglob('*' + suffix)]
    assert len(found) == 1, found
    return found[0]


def test_log_of_a_run(tree, tmp_path):
    result = training.run(margin(tree, tmp_path, '--number-of-runs', '2'), train_margin.build)
    path = only(tmp_path, '.jsonl')
    config, = events(path, 'config')
    assert config['flags']['margin'] == 0.2 and config['algorithm'] == 'margin' and config['seed'] == 123
    assert config['data'] == {'train_images': 32, 'train_classes': 4, 'test_images': 32, 'test_classes': 4}
    assert set(config['versions']) >= {'python', 'mxnet', 'numpy'}
    epochs = events(path, 'epoch')
    assert [(e['run'], e['epoch']) for e in epochs] == [(r, e) for r in (1, 2) for e in range(4)]
    assert 'loss' not in epochs[0] and set(epochs[1]) >= {'loss', 'lr', 'seconds', 'images_per_second', 'recall@1',
                                                          'recall@32', 'map@r', 'r_precision', 'nmi'}
    assert {*STRUCTURE_METRICS} - {'tpr@0.001'} <= set(epochs[0])               # 32 images have few pairs
    assert config['sampler'] == 'BalancedBatches' and config['batch_images'] == 8 and config['batches_per_epoch'] == 3
    assert config['members'] == 1 and all(e['embedding_size'] == 8 for e in epochs)
    network = parameters(only(tmp_path, 'convnet-last.params'))
    sizes = {name: array.size for name, array in network.items() if 'running' not in name and 'pixels' not in name}
    assert config['parameters']['head'] == sum(n for name, n in sizes.items() if name.startswith('head'))
    assert config['parameters']['backbone'] == sum(n for name, n in sizes.items() if name.startswith('backbone'))
    assert config['parameters']['loss'] == 4                                    # beta, one for each class
    assert config['parameters']['trainable'] == sum(sizes.values()) + 4
    ends = events(path, 'run_end')
    for end in ends:
        of_run = [e for e in epochs if e['run'] == end['run']]
        for name in 'seconds', 'evaluation_seconds':
            assert end[name] == pytest.approx(sum(e.get(name, 0) for e in of_run), rel=1e-5)
        assert end['seconds'] + end['evaluation_seconds'] < end['total_seconds']
        assert 50 < end['peak_memory_mb'] < 20000 and 'gpu_memory_mb' not in end
    assert [e['seed'] for e in ends] == [123, 124] and ends[0]['images_seen'] == 3 * 3 * 8
    for end in ends:
        of_run = [e for e in epochs if e['run'] == end['run'] and e['epoch']]
        best = max(of_run, key=lambda e: e['recall@1'])
        assert end['best-on-test']['epoch'] == best['epoch'] and end['best-on-test']['recall@1'] == best['recall@1']
        assert end['last']['recall@1'] == of_run[-1]['recall@1']
        assert end['class_images'] == [8, 8, 8, 8]
        for selection in 'best-on-test', 'last':
            assert len(end[selection]['class_hits']) == 4 and 'class_images' not in end[selection]
            assert 100 * sum(end[selection]['class_hits']) / 32 == pytest.approx(end[selection]['recall@1'])
    assert not any('class_hits' in json.dumps(e) for e in epochs + events(path, 'best'))   # the log stays small
    summary, = events(path, 'summary')
    values = [e['last']['recall@1'] for e in ends]
    assert summary['last']['recall@1']['mean'] == pytest.approx(np.mean(values))
    # 12.706: Student's t for two values
    assert summary['last']['recall@1']['ci95'] == pytest.approx(12.7062 * np.std(values, ddof=1) / np.sqrt(2), rel=1e-4)
    assert result['summary']['last']['recall@1']['mean'] == pytest.approx(np.mean(values))


def test_the_second_run_is_the_first_run_of_the_next_seed(tree, tmp_path):
    """A fresh start: network, loss parameters, generators and learning rates of run 2 owe nothing to run 1."""
    training.run(margin(tree, tmp_path / 'two', '--number-of-runs', '2'), train_margin.build)
    training.run(margin(tree, tmp_path / 'one', '--seed', '124'), train_margin.build)
    second = [e for e in timeless(only(tmp_path / 'two', '.jsonl')) if e.get('run') == 2 and e['event'] == 'epoch']
    alone = [e for e in timeless(only(tmp_path / 'one', '.jsonl')) if e['event'] == 'epoch']
    assert [dict(e, run=1) for e in second] == alone
    for kind in ('best', 'last'):
        a = parameters(only(tmp_path / 'two', f'-run2-{kind}.params'))
        b = parameters(only(tmp_path / 'one', f'-{kind}.params'))
        for x, y in zip(a.values(), b.values()):
            np.testing.assert_array_equal(x, y)


def test_convolutions_of_resnet50_learn_slower_in_every_run(tree, tmp_path):
    rates = []

    def build(opt, data, ctx):
        experiment = train_margin.build(opt, data, ctx)
        rates.append({p.lr_mult for name, p in experiment.net.backbone.collect_params('.*conv.*weight').items()})
        opt.epochs = 0  # nothing needs to be trained to see this
        raise StopIteration

    for run in range(2):
        opt = margin(tree, tmp_path, '--model', 'resnet50_v2', '--pretrained', 'none', '--image-size', '32', '--resize',
                     '32', '--seed', str(run), '--log-postfix', str(run))
        with pytest.raises(StopIteration):
            training.run(opt, build)
    assert rates == [{0.01}, {0.01}]


def test_any_worker_count_gives_the_same_run(tree, tmp_path):
    for workers in ('0', '3'):
        training.run(margin(tree, tmp_path / workers, '--num-workers', workers), train_margin.build)
    a, b = (timeless(only(tmp_path / w, '.jsonl')) for w in ('0', '3'))
    assert [e for e in a if e['event'] != 'config'] == [e for e in b if e['event'] != 'config']


@pytest.mark.parametrize('devices', [2, 3])
def test_several_devices_give_the_gradients_of_one(tree, tmp_path, devices):
    """Batch norm normalises within a device, so it is frozen here; all else must agree, also for an odd batch."""
    rng = np.random.RandomState(0)
    images, labels = rng.randint(0, 256, (7, 16, 16, 3)).astype(np.uint8), np.array([0, 0, 1, 1, 2, 2, 2])
    gradients, losses = [], []
    for ctx in ([mx.cpu(0)], [mx.cpu(i) for i in range(devices)]):
        mx.random.seed(0)
        opt = margin(tree, tmp_path)
        experiment = train_margin.build(opt, training.load_data(opt), ctx)
        for block in experiment.net.backbone.features:
            if isinstance(block, gluon.nn.BatchNorm):
                block._kwargs['use_global_stats'] = True
        learner = Learner(experiment, opt, ctx)
        learner.loss.reseed(0)
        with mx.autograd.record():
            value = learner.loss(learner.forward(images), mx.nd.array(labels))
        value.backward()
        losses.append(value.asscalar())
        grads = {}
        for block in (learner.net, learner.loss):
            for name, p in block._collect_params_with_prefix().items():
                if p.grad_req != 'null':
                    grads[name] = sum(g.asnumpy() for g in p.list_grad())
        gradients.append(grads)
    assert losses[0] > 0 and losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert 'beta' in gradients[0]
    for name in gradients[0]:
        np.testing.assert_allclose(gradients[0][name], gradients[1][name], atol=1e-5, err_msg=name)


def test_val_split_chooses_the_epoch_without_the_test_set(tree, tmp_path):
    training.run(margin(tree, tmp_path, '--val-split', '0.5', '--batch-size', '4'), train_margin.build)
    path = only(tmp_path, '.jsonl')
    config, = events(path, 'config')
    assert config['data']['train_classes'] == 2 and config['selection'] == ['best-on-test', 'last', 'best-on-val']
    epochs, (end,) = events(path, 'epoch'), events(path, 'run_end')
    best = max(epochs[1:], key=lambda e: e['val']['recall@1'])
    assert end['best-on-val']['epoch'] == best['epoch'] and end['best-on-val']['recall@1'] == best['recall@1']


def test_validate_only_reads_no_test_image(tmp_path):
    tree = make_tree(str(tmp_path / 'tree'), classes=16)
    for c in range(8, 16):                      # the test classes
        for name in os.listdir(os.path.join(tree, f'{c:03d}.class')):
            with open(os.path.join(tree, f'{c:03d}.class', name), 'wb') as file:
                file.write(b'no picture')
    words = ('--fold', '2/4', '--batch-size', '4', '--no-nmi')
    with pytest.raises(DatasetError):
        training.run(margin(tree, tmp_path / 'seen', *words), train_margin.build)
    found = training.run(margin(tree, tmp_path, *words, '--validate-only', '--number-of-runs', '2'), train_margin.build)
    path = str(tmp_path / 'logs' / os.listdir(tmp_path / 'logs')[0])
    config, = events(path, 'config')
    assert config['data']['train_classes'] == 6 and config['selection'] == ['last', 'best-on-val']
    epochs, ends, (summary,) = events(path, 'epoch'), events(path, 'run_end'), events(path, 'summary')
    assert len(epochs) == 8 and all('recall@1' in e['val'] for e in epochs) and len(ends) == 2
    for event in events(path):
        assert 'recall@1' not in event and 'best-on-test' not in event, event
    best = max(epochs[1:4], key=lambda e: e['val']['recall@1'])
    assert ends[0]['best-on-val'] == {'epoch': best['epoch'], 'val': best['val']}
    assert ends[0]['last'] == {'epoch': 3, 'val': epochs[3]['val']}
    mean = sum(end['last']['val']['recall@1'] for end in ends) / 2
    assert summary['last']['val']['recall@1']['mean'] == pytest.approx(mean)
    assert found['summary']['last']['val']['recall@1']['mean'] == pytest.approx(mean)
    models = os.listdir(tmp_path / 'models')
    assert sum(name.endswith('-best.params') for name in models) == 2


def test_validate_only_needs_classes_to_validate_on(tree, tmp_path):
    with pytest.raises(UsageError, match='--validate-only needs classes to validate on'):
        training.run(margin(tree, tmp_path, '--validate-only'), train_margin.build)


def test_eval_every_and_skipped_validation(tree, tmp_path):
    training.run(margin(tree, tmp_path, '--eval-every', '2', '--skip-pretrain-validation', '--no-nmi'),
                 train_margin.build)
    epochs = events(only(tmp_path, '.jsonl'), 'epoch')
    assert [(e['epoch'], 'recall@1' in e) for e in epochs] == [(1, False), (2, True), (3, True)]
    assert not any('nmi' in e for e in epochs)


def test_nothing_is_written_where_outputs_are_off(tree, tmp_path):
    training.run(margin(tree, tmp_path / 'r', '--logfile', 'None', '--save-model-prefix', 'None'), train_margin.build)
    assert not (tmp_path / 'r').exists()


def test_a_loss_that_is_not_finite_stops_the_run(tree, tmp_path):
    def build(opt, data, ctx):
        experiment = train_margin.build(opt, data, ctx)
        experiment.param_groups = [param_group(opt, experiment.net.collect_params(), lr=1e30)]
        return experiment

    with pytest.raises(TrainingError, match=r'run 1 diverged: .* in epoch 1, batch \d+, at learning rate 1e\+30'):
        training.run(margin(tree, tmp_path, '--optimizer', 'sgd'), build)
    event, = events(only(tmp_path, '.jsonl'), 'diverged')
    assert (event['run'], event['epoch']) == (1, 1) and event['lr'] == 1e30
    meta, arrays = checkpoint.load(only(tmp_path, '.ckpt.npz'))
    assert meta['epoch'] == 0 and all(np.isfinite(a).all() for a in arrays.values())


def test_gradients_of_zero_are_reported_once(tree, tmp_path, capsys):
    class Zero(gluon.loss.Loss):
        def __init__(self):
            super().__init__(None, 0)

        def hybrid_forward(self, F, embeddings, labels):
            return F.sum(embeddings * 0).reshape((1,)) + 0 * F.sum(labels)

    def build(opt, data, ctx):
        experiment = train_margin.build(opt, data, ctx)
        experiment.loss, experiment.param_groups = Zero(), experiment.param_groups[:1]
        return experiment

    training.run(margin(tree, tmp_path), build)
    assert len(events(only(tmp_path, '.jsonl'), 'zero_gradient')) == 1
    assert capsys.readouterr().out.count('gradient was zero') == 1


SCRIPT = [sys.executable, 'train_margin.py', '--batch-k', '2', '--batches-per-epoch', '3', '--lr', '0.003']


def start(tree, results, *more):
    return subprocess.Popen([*SCRIPT, *flags(tree, results, '--number-of-runs', '2', *more)], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True)


def wait_for(condition, process):
    for _ in range(1200):
        if condition() or process.poll() is not None:
            return
        time.sleep(0.05)


def test_killed_at_any_moment_and_resumed_ends_with_the_same_bits(tree, tmp_path):
    whole = start(tree, tmp_path / 'whole')
    assert whole.wait() == 0, whole.stderr.read()
    log = tmp_path / 'killed' / 'logs' / 'train_margin_miniCUB_convnet.jsonl'
    for attempt, lines in enumerate([2, 4, 6, 9]):
        resume = ['--load-checkpoint'] if attempt else []
        process = start(tree, tmp_path / 'killed', *resume)
        wait_for(lambda n=lines: log.exists() and log.read_bytes().count(b'\n') >= n, process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    last = start(tree, tmp_path / 'killed', '--load-checkpoint')
    assert last.wait() == 0, last.stderr.read()
    assert timeless(str(log)) == timeless(only(tmp_path / 'whole', '.jsonl'))
    for name in ('convnet-best', 'convnet-last', 'convnet-run2-best', 'convnet-run2-last'):
        a, b = (parameters(only(tmp_path / where, f'{name}.params')) for where in ('whole', 'killed'))
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)
    assert not list((tmp_path / 'killed').rglob('*.tmp-*')) and not list((tmp_path / 'killed').rglob('*.lock'))


class Dying:
    """Ctrl-C is pressed while its destructor runs, as it may while one of MXNet's arrays is freed."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(100):  # Python looks for signals between two lines
            pass


def test_ctrl_c_is_not_lost_in_a_destructor(tree, tmp_path, monkeypatch):
    step, dropped = Learner.step, []
    monkeypatch.setattr(sys, 'unraisablehook', dropped.append)

    def step_and_free(self, *batch):
        Dying()
        return step(self, *batch)

    monkeypatch.setattr(Learner, 'step', step_and_free)
    with pytest.raises(KeyboardInterrupt, match='--load-checkpoint'):
        training.run(margin(tree, tmp_path), train_margin.build)
    assert not dropped
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not events(only(tmp_path, '.jsonl'), 'summary')


def test_ctrl_c_does_not_wait_for_the_end_of_an_evaluation(tree, tmp_path):
    calls = []

    def build(opt, data, ctx):
        experiment = train_margin.build(opt, data, ctx)

        def embed(images):
            if not calls:
                signal.raise_signal(signal.SIGINT)
            calls.append(len(images))
            return experiment.net(images)

        return dataclasses.replace(experiment, embed=embed)

    with pytest.raises(KeyboardInterrupt):
        training.run(margin(tree, tmp_path, '--batch-size', '8'), build)
    assert calls == [8]  # of 32 images


def test_a_second_ctrl_c_is_raised_at_once_and_one_that_is_ignored_stays_so():
    with pytest.raises(KeyboardInterrupt), Interrupts():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGINT)
            interrupts.check()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_second_process_may_not_write_the_same_files(tree, tmp_path):
    first = start(tree, tmp_path, '--epochs', '200')
    log = tmp_path / 'logs' / 'train_margin_miniCUB_convnet.jsonl'
    wait_for(log.exists, first)
    try:
        elsewhere = ['--save-model-prefix', str(tmp_path / 'x')]
        for more, named in (([], 'train_margin_miniCUB_convnet'), (elsewhere, '.jsonl')):
            second = start(tree, tmp_path, *more)
            _, errors = second.communicate()
            assert second.returncode == 1 and errors.count('\n') == 1 and named in errors, errors
        assert first.poll() is None
    finally:
        first.kill()
        first.communicate()
    assert os.path.exists(log)


def test_resuming_with_other_flags_is_refused(tree, tmp_path):
    training.run(margin(tree, tmp_path), train_margin.build)
    with pytest.raises(UsageError, match='--margin'):
        training.run(margin(tree, tmp_path, '--load-checkpoint', '--margin', '0.3'), train_margin.build)


def test_more_runs_can_be_added_to_a_finished_experiment(tree, tmp_path):
    training.run(margin(tree, tmp_path / 'a'), train_margin.build)
    training.run(margin(tree, tmp_path / 'a', '--load-checkpoint', '--number-of-runs', '2'), train_margin.build)
    training.run(margin(tree, tmp_path / 'b', '--number-of-runs', '2'), train_margin.build)
    a, b = (events(only(tmp_path / x, '.jsonl'), 'run_end') for x in 'ab')
    assert [e['last']['recall@1'] for e in a] == [e['last']['recall@1'] for e in b]


def test_an_ensemble_that_was_interrupted_may_be_told_of_more_runs(tree, tmp_path, monkeypatch):
    """Members are found again under the name they were saved with, and are not made anew."""
    def dreml(*more):
        return train_dreml.parse_args(flags(tree, tmp_path, '-L', '2', '-D', '3', '--embed-dim', '6', '--epochs', '1',
                                            '--skip-pretrain-validation', *more))

    class Killed(Exception):
        pass

    def killed_at_the_second(session, *arguments):
        if session.progress.member == 1:
            raise Killed
        return train_network(session, *arguments)

    train_network = ensemble.train_network
    monkeypatch.setattr(ensemble, 'train_network', killed_at_the_second)
    with pytest.raises(Killed):
        training.run(dreml(), train_dreml.build)
    monkeypatch.setattr(ensemble, 'train_network', train_network)
    embeddings = only(tmp_path, 'member01-test.npy')
    before = os.stat(embeddings).st_mtime_ns
    result = training.run(dreml('--load-checkpoint', '--number-of-runs', '2'), train_dreml.build)
    assert len(result['runs']) == 2 and os.stat(embeddings).st_mtime_ns == before
    assert len(list(tmp_path.rglob('*-run2-member*.params'))) == 2


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_new_start_puts_all_of_the_earlier_run_aside_together(tree, tmp_path, capsys):
    """Twice: the third start must not lose what the second put aside."""
    models, earlier = tmp_path / 'models', []
    for rate in ('0.003', '0.01', '0.02'):
        training.run(margin(tree, tmp_path, '--lr', rate), train_margin.build)
        earlier.append(files(models))
        assert {'-best.params', '-last.params', '-best.json'} <= {
            name[len('train_margin_miniCUB_convnet'):] for name in earlier[-1]}
    said = capsys.readouterr().out
    for number in (1, 2):
        folder = models / f'train_margin_miniCUB_convnet.previous-{number}'
        assert files(folder) == earlier[number - 1] and str(folder) in said


def test_a_run_whose_parameters_are_no_numbers_is_neither_evaluated_nor_saved(tree, tmp_path):
    """In its very last batch: the loss was still finite, and nothing after it would look."""
    def build(opt, data, ctx):
        experiment = train_margin.build(opt, data, ctx)
        experiment.param_groups = [param_group(opt, experiment.net.collect_params(), lr=1e38)]
        return experiment

    opt = margin(tree, tmp_path, '--optimizer', 'sgd', '--epochs', '1', '--batches-per-epoch', '1')
    with pytest.raises(TrainingError, match='diverged: parameters that are not finite in epoch 1'):
        training.run(opt, build)
    assert not list(tmp_path.rglob('*.params'))
    assert [e['event'] for e in events(only(tmp_path, '.jsonl'))] == ['config', 'epoch', 'diverged']


def test_resuming_on_other_images_is_refused_and_a_moved_folder_is_not(tree, tmp_path):
    training.run(margin(tree, tmp_path, '--epochs', '1'), train_margin.build)
    moved = tmp_path / 'moved'
    shutil.copytree(tree, moved)
    again = ('--epochs', '1', '--load-checkpoint', '--number-of-runs', '2')
    training.run(margin(str(moved), tmp_path, *again), train_margin.build)
    (moved / '000.class' / '0.png').rename(moved / '000.class' / 'x.png')
    with pytest.raises(UsageError, match='--data-path: .* was made with 32 images of 4 classes .*; here are 32 images'):
        training.run(margin(str(moved), tmp_path, *again), train_margin.build)


def test_more_epochs_end_with_the_bits_of_one_longer_run(tree, tmp_path):
    steps = ('--steps', '2,3')
    training.run(margin(tree, tmp_path / 'a', '--epochs', '2', *steps), train_margin.build)
    training.run(margin(tree, tmp_path / 'a', '--epochs', '4', *steps, '--load-checkpoint'), train_margin.build)
    training.run(margin(tree, tmp_path / 'b', '--epochs', '4', *steps), train_margin.build)
    for kind in ('best', 'last'):
        a, b = (parameters(only(tmp_path / x, f'-{kind}.params')) for x in 'ab')
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)
    a, b = (timeless(only(tmp_path / x, '.jsonl')) for x in 'ab')
    assert [e for e in a if e['event'] != 'config'] == b[1:]
    for kept in ('--lr', '--epochs'):   # fewer epochs, or another rate, is no longer run
        with pytest.raises(UsageError, match=f'{kept} is .* can go on with more --epochs .* --pretrained FILE'):
            training.run(margin(tree, tmp_path / 'a', '--epochs', '4', *steps, '--load-checkpoint', kept, '1'),
                         train_margin.build)


def test_of_several_runs_none_gets_more_epochs(tree, tmp_path):
    training.run(margin(tree, tmp_path, '--epochs', '1', '--number-of-runs', '2'), train_margin.build)
    with pytest.raises(UsageError, match='--epochs 2: .* only a single run'):
        training.run(margin(tree, tmp_path, '--epochs', '2', '--number-of-runs', '2', '--load-checkpoint'),
                     train_margin.build)


@pytest.mark.parametrize('number, status', [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_between_batches_and_says_how_to_go_on(tree, tmp_path, number, status):
    process = start(tree, tmp_path, '--epochs', '25')  # long enough not to be over by itself
    log = tmp_path / 'logs' / 'train_margin_miniCUB_convnet.jsonl'
    wait_for(lambda: log.exists() and log.read_bytes().count(b'\n') >= 3, process)
    process.send_signal(number)
    _, errors = process.communicate()
    assert process.returncode == status
    assert '--load-checkpoint' in errors and 'Traceback' not in errors and errors.count('\n') == 1, errors
    again = start(tree, tmp_path, '--epochs', '25', '--load-checkpoint')
    assert again.wait() == 0


@pytest.mark.parametrize('closed', ['', '>&-', '2>&-', '>&- 2>&- <&-'])
def test_streams_that_are_closed_or_know_ascii_only_change_what_is_seen_and_nothing_else(tree, tmp_path, closed):
    words = [*SCRIPT, *flags(tree, tmp_path, '--number-of-runs', '2', '--epochs', '1', '--no-nmi')]
    done = subprocess.run(['sh', '-c', f'exec "$@" {closed}', 'sh', *words], capture_output=True, text=True,
                          env={**os.environ, 'PYTHONIOENCODING': 'ascii'})
    assert done.returncode == 0 and not done.stderr, done.stderr
    summary, = events(only(tmp_path, '.jsonl'), 'summary')
    assert summary['runs'] == 2 and ('>&-' in closed.split() or 'best-on-test, 2 runs' in done.stdout)
    assert mx.nd.load(only(tmp_path, 'convnet-last.params'))


# ---------------------------------------------------------------------------------------------------------------------
# What the device, the weights, the network and the optimiser have to do with it

@pytest.mark.parametrize('gpus, line', [('-1', 'training on the CPU (no GPU was found that MXNet can use)'),
                                        ('-2', 'training on the CPU'),
                                        ([mx.cpu(0), mx.cpu(1)], 'training on CPU 0, 1')])
def test_one_line_says_which_device_trains(tree, tmp_path, capsys, monkeypatch, gpus, line):
    monkeypatch.setattr(mx.context, 'num_gpus', lambda: 0)
    opt = margin(tree, tmp_path, '--epochs', '1')
    opt.gpus = gpus
    training.run(opt, train_margin.build)
    assert [said for said in capsys.readouterr().out.splitlines() if said.startswith('training on')] == [line]


def test_gpus_are_named_by_their_numbers():
    assert describe_contexts([mx.gpu(0), mx.gpu(2)], '0,2') == 'GPU 0, 2'
    assert describe_contexts([mx.gpu(0)], '-1') == 'GPU 0'


def test_pretrained_brings_the_head_where_it_fits(tmp_path, capsys):
    """A run starts with the recall that the one before ended with; with another head, from the backbone alone."""
    tree = make_tree(str(tmp_path / 'tree'), classes=40, per_class=3)
    training.run(margin(tree, tmp_path / 'first', '--embed-dim', '2'), train_margin.build)
    last, path = events(only(tmp_path / 'first', '.jsonl'), 'epoch')[-1], only(tmp_path / 'first', '-last.params')
    assert last['recall@1'] < 90
    for dim, taken in (('2', 'backbone and head'), ('3', 'backbone')):
        capsys.readouterr()
        training.run(margin(tree, tmp_path / dim, '--pretrained', path, '--embed-dim', dim), train_margin.build)
        assert f'weights: {taken}, from {path}\n' in capsys.readouterr().out
        config, before = events(only(tmp_path / dim, '.jsonl'), 'config', 'epoch')[:2]
        assert config['weights']['taken'] == taken and before['epoch'] == 0
        metrics = [name for name in before if name.startswith('recall') or name in ('map@r', 'r_precision', 'nmi')]
        assert len(metrics) > 6
        assert ([before[name] for name in metrics] == [last[name] for name in metrics]) == (dim == '2')


class CannotTrain(L2Normalization):
    """Fails in MXNet, but only in training."""

    def hybrid_forward(self, F, x, *labels):
        return F.broadcast_add(x, F.ones((3, 5))) if autograd.is_training() else x


def test_a_network_that_mxnet_cannot_train_is_refused_by_its_flag(tree, tmp_path):
    def build(opt, data, ctx):
        experiment = train_margin.build(opt, data, ctx)
        experiment.net.l2 = CannotTrain()
        return experiment

    with pytest.raises(UsageError, match=r'--model convnet: MXNet cannot train this network on cpu\(0\) with '
                                         r'--image-size \d+: .+ '):
        training.run(margin(tree, tmp_path, '--disable-hybridize'), build)


@pytest.mark.slow
def test_a_network_whose_gradient_mxnet_cannot_compute_is_refused_by_its_flag(tree, tmp_path):
    opt = margin(tree, tmp_path, '--model', 'nasnet_4_1056', '--image-size', '32', '--resize', '32', '--pretrained',
                 'none', '--skip-pretrain-validation')
    with pytest.raises(UsageError, match='--model nasnet_4_1056: .*could not construct a sub-memory'):
        training.run(opt, train_margin.build)


def test_a_mistake_in_a_loss_keeps_its_traceback(tree, tmp_path):
    def build(opt, data, ctx):
        experiment = train_margin.build(opt, data, ctx)
        experiment.loss = CannotTrain()
        return dataclasses.replace(experiment, param_groups=experiment.param_groups[:1])

    with pytest.raises(mx.base.MXNetError):
        training.run(margin(tree, tmp_path, '--disable-hybridize'), build)


def test_an_optimiser_that_cannot_train_the_network_is_refused_by_its_flag(tree, tmp_path):
    with pytest.raises(UsageError, match=r'--optimizer groupadagrad: .*assert len\(weight.shape\) == 2'):
        training.run(margin(tree, tmp_path, '--optimizer', 'groupadagrad'), train_margin.build)


def test_a_mistake_in_a_scripts_own_optimiser_keeps_its_traceback(tree, tmp_path):
    def build(opt, data, ctx):
        experiment = train_margin.build(opt, data, ctx)
        group = experiment.param_groups[0]
        group.optimizer, group.options = 'groupadagrad', {}
        return experiment

    with pytest.raises(AssertionError):
        training.run(margin(tree, tmp_path), build)


def test_memory_of_process_and_gpu(monkeypatch):
    before = peak_memory_mb()
    block = np.ones(60 * 2 ** 17)                       # 60 MB
    assert block.sum() and 0 <= peak_memory_mb() - before < 200
    assert gpu_memory_mb([mx.cpu(0)]) == {}
    used = {0: 100, 3: 300}
    monkeypatch.setattr(mx.context, 'gpu_memory_info', lambda i: ((1000 - used[i]) * 2 ** 20, 1000 * 2 ** 20))
    assert gpu_memory_mb([mx.gpu(0), mx.gpu(3)]) == {'gpu_memory_mb': 300}


@pytest.mark.parametrize('old', [False, True])
def test_costs_go_on_where_a_run_goes_on(old, tree, tmp_path):
    """Also from a checkpoint of before they were counted."""
    training.run(margin(tree, tmp_path, '--epochs', '1', '--no-nmi'), train_margin.build)
    path = only(tmp_path, '.ckpt.npz')
    first, = events(only(tmp_path, '.jsonl'), 'run_end')
    if old:
        meta, arrays = checkpoint.load(path)
        for place in meta, meta['finished']:
            for name in 'evaluation_seconds', 'total_seconds', 'peak_memory_mb':
                del place[name]
        checkpoint.save(path, meta, arrays)
    training.run(margin(tree, tmp_path, '--epochs', '2', '--no-nmi', '--load-checkpoint', path), train_margin.build)
    second = events(only(tmp_path, '.jsonl'), 'run_end')[-1]
    spent = [e['evaluation_seconds'] for e in events(only(tmp_path, '.jsonl'), 'epoch')]
    assert len(spent) == 3
    assert second['evaluation_seconds'] == pytest.approx(sum(spent[2:] if old else spent), rel=1e-5)
    assert second['peak_memory_mb'] >= (0 if old else first['peak_memory_mb'])
    if not old:
        assert second['total_seconds'] > first['total_seconds'] > first['seconds'] + first['evaluation_seconds']
