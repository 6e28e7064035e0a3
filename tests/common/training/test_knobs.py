"""Flags of all scripts that change how a network is trained: each does what it says, and survives a stop."""
import importlib
import json
import pathlib

import mxnet as mx
import numpy as np
import pytest

from common import training
from common.errors import UsageError
from common.evaluation import __main__ as evaluation
from common.training.learner import Learner
from common.training.session import Session
from tests.tiny import flags, make_tree


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    return make_tree(str(tmp_path_factory.mktemp('tiny') / 'tree'))


def train(name, tree, folder, *more):
    script = importlib.import_module(f'train_{name}')
    first = script.ALGORITHM['smoke'][0].split()
    opt = script.parse_args(flags(tree, str(folder), *first, '--no-nmi', '--skip-pretrain-validation', *more))
    return training.run(opt, script.build)


def models(folder):
    return {path.name: {n: a.asnumpy() for n, a in mx.nd.load(str(path)).items()}
            for path in pathlib.Path(folder).rglob('*.params')}


def epochs(folder):
    log, = pathlib.Path(folder).rglob('*.jsonl')
    records = [json.loads(line) for line in log.read_text().splitlines()]
    return [r for r in records if r['event'] == 'epoch' and r['epoch']]


def moved(folder, monkeypatch, name, tree, *more):
    """Names of the parameters that training changed, of the last network."""
    starts = []
    start_epoch = Learner.start_epoch

    def noted(self, epoch, seed):
        if epoch == 1:
            starts.append({n: p.list_data()[0].asnumpy() for n, p in self.net._collect_params_with_prefix().items()})
        return start_epoch(self, epoch, seed)

    monkeypatch.setattr(Learner, 'start_epoch', noted)
    train(name, tree, folder, *more)
    last = [m for n, m in sorted(models(folder).items()) if 'best' not in n][-1]
    return {n for n in last if not np.array_equal(last[n], starts[-1][n])}


@pytest.mark.parametrize('name', ['npairs', 'dreml', 'normproxy', 'discriminative'])
def test_freeze_backbone(name, tree, tmp_path, monkeypatch):
    found = moved(tmp_path, monkeypatch, name, tree, '--freeze-backbone')
    assert found and all(n.startswith('head.') for n in found)


@pytest.mark.parametrize('name', ['npairs', 'dreml', 'normproxy'])
def test_freeze_backbone_for_some_epochs(name, tree, tmp_path, monkeypatch):
    found = moved(tmp_path, monkeypatch, name, tree, '--freeze-backbone', '2')
    assert any(n.startswith('backbone.') and n.endswith('weight') for n in found)
    assert any(n.endswith('running_mean') for n in found)


@pytest.mark.parametrize('name', ['npairs', 'dreml', 'proxy'])
def test_freeze_bn(name, tree, tmp_path, monkeypatch):
    found = moved(tmp_path, monkeypatch, name, tree, '--freeze-bn')
    assert any(n.startswith('backbone.') and n.endswith('weight') for n in found)
    assert not [n for n in found if n.endswith(('running_mean', 'running_var', 'gamma', 'beta'))]


def test_backbone_lr_factor_is_its_share_of_a_step(tree, tmp_path):
    """SGD, one step: the backbone's is a quarter as long, the head's is the same."""
    steps = []
    for folder, factor in (('whole', '1'), ('part', '0.25')):
        starts = []
        script = importlib.import_module('train_npairs')
        opt = script.parse_args(flags(tree, str(tmp_path / folder), '--optimizer', 'sgd', '--lr', '0.01', '--wd', '0',
                                      '--batches-per-epoch', '1', '--epochs', '1', '--no-nmi', '--backbone-lr-factor',
                                      factor))

        def build(*args, script=script, starts=starts):
            experiment = script.build(*args)
            experiment.net.initialize(mx.init.Constant(0.01))
            starts.append({n: p.data().asnumpy() for n, p in experiment.net._collect_params_with_prefix().items()})
            return experiment

        training.run(opt, build)
        last = next(m for n, m in models(tmp_path / folder).items() if 'last' in n)
        steps.append({n: last[n] - starts[0][n] for n in last})
    for n in ('head.weight', 'backbone.features.0.weight'):
        assert np.abs(steps[0][n]).max() > 1e-5
        np.testing.assert_allclose(steps[1][n], steps[0][n] * (0.25 if n.startswith('backbone') else 1), rtol=2e-2,
                                   atol=1e-7)


KNOBS = ['--freeze-bn', '--freeze-backbone', '--freeze-backbone 1', '--freeze-backbone 2', '--momentum-bn 0.5',
         '--backbone-lr-factor 0.1', '--init-scale 1', '--warmup 2', '--schedule cosine --warmup 1',
         '--optimizer sgd --momentum 0.9', '--min-scale 0.3', '--pooling gem', '--pooling avg+max',
         '--freeze-backbone 1 --pooling gem --optimizer sgd --momentum 0.9 --warmup 1']


def rates(tree, folder, monkeypatch, *more):
    """The learning rate of every step of a run, and those in its log."""
    seen = []
    step = Learner.step

    def noted(self, *batch):
        value = step(self, *batch)
        seen.append(self.trainers[0]._trainer.learning_rate)
        return value

    monkeypatch.setattr(Learner, 'step', noted)
    train('npairs', tree, folder, '--lr', '1', '--factor', '0.5', *more)
    return seen, [e['lr'] for e in epochs(folder)]


@pytest.mark.parametrize('more, steps, logged', [
    ([], [1] * 9, [1, 1, 1]),
    (['--warmup', '1'], [1 / 3, 2 / 3, 1] + [1] * 6, [1, 1, 1]),
    (['--warmup', '2'], [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1, 1], [3 / 6, 1, 1]),
    (['--steps', '2', '--warmup', '1'], [1 / 3, 2 / 3, 1, 1, 1, 1, 0.5, 0.5, 0.5], [1, 1, 0.5]),
    (['--schedule', 'cosine'], [1] * 3 + [0.75] * 3 + [0.25] * 3, [1, 0.75, 0.25]),
    (['--schedule', 'cosine', '--warmup', '1'], [1 / 3, 2 / 3, 1] + [1] * 3 + [0.5] * 3, [1, 1, 0.5])])
def test_learning_rates(more, steps, logged, tree, tmp_path, monkeypatch):
    """Three epochs of three batches; half a cosine over three epochs is 1, 3/4, 1/4."""
    found, log = rates(tree, tmp_path, monkeypatch, '--steps', '12', *more)
    np.testing.assert_allclose(found, steps)
    np.testing.assert_allclose(log, logged)


def test_warmup_of_every_group(tree, tmp_path, monkeypatch):
    """Those with a rate of their own, too: beta of the margin loss."""
    seen = []
    step = Learner.step
    monkeypatch.setattr(Learner, 'step', lambda self, *batch: (step(self, *batch), seen.append(
        [trainer._trainer.learning_rate for trainer in self.trainers]))[0])
    train('margin', tree, tmp_path, '--warmup', '2', '--lr', '0.01', '--lr-beta', '0.1')
    np.testing.assert_allclose(seen[0], [0.01 / 6, 0.1 / 6])
    np.testing.assert_allclose(seen[-1], [0.01, 0.1])


@pytest.mark.parametrize('optimizer, more, momentum', [
    ('adam', [], None), ('sgd', [], 0.0), ('sgd', ['--momentum', '0.9'], 0.9), ('nag', ['--momentum', '0.5'], 0.5),
    ('rmsprop', [], None)])
def test_momentum_reaches_the_optimiser(optimizer, more, momentum, tree, tmp_path):
    script = importlib.import_module('train_npairs')
    opt = script.parse_args(flags(tree, str(tmp_path), '--optimizer', optimizer, *more))
    assert opt.momentum == momentum
    learner = Learner(script.build(opt, training.load_data(opt), [mx.cpu()]), opt, [mx.cpu()])
    assert getattr(learner.trainers[0]._trainer._optimizer, 'momentum', None) == momentum


@pytest.mark.parametrize('words, sentence', [
    ('--momentum 0.9', '--momentum: --optimizer adam has none'),
    ('--optimizer sgd --momentum 1', 'a number from 0 to below 1'),
    ('--warmup 3', '--warmup 3 leaves none of --epochs 3'),
    ('--schedule linear', '--schedule'),
    ('--min-scale 0', '--min-scale'), ('--min-scale 1.1', '--min-scale'), ('--max-aspect 0.5', '--max-aspect'),
    ('--pooling min', '--pooling'), ('--freeze-backbone -1', '--freeze-backbone'), ('--momentum-bn 2', '--momentum-bn'),
    ('--early-stopping -1', '--early-stopping'), ('--backbone-lr-factor 0', '--backbone-lr-factor')])
def test_mistakes(words, sentence, tree, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        importlib.import_module('train_npairs').parse_args(flags(tree, str(tmp_path), *words.split()))
    text = capsys.readouterr().err
    assert end.value.code == 2 and sentence in text and text.count('\n') == 1


def test_more_epochs_are_refused_under_a_cosine(tree, tmp_path):
    train('npairs', tree, tmp_path, '--schedule', 'cosine')
    with pytest.raises(UsageError, match='--schedule cosine depends on it'):
        train('npairs', tree, tmp_path, '--schedule', 'cosine', '--epochs', '4', '--load-checkpoint')


def falling(scores):
    """Stands for `evaluate`: recall@1 on the validation classes as listed; 50 on the test set."""
    left = list(scores)

    def evaluate(embeddings, labels, **options):
        value = left.pop(0) if len(set(labels.tolist())) == 2 else 50.0     # 2 of the 4 training classes
        return {'recall@1': float(value)}

    return evaluate


@pytest.mark.parametrize('scores, more, ended, best', [
    ([10, 20, 15, 20, 30, 5], [], 4, 2),            # 20 again is no rise
    ([10, 20, 15, 21, 30, 5], [], 6, 5),
    ([10, 20, 15], ['--eval-every', '2'], 6, 4),    # scored after 2, 4, 6
    ([10, 5, 15], ['--eval-every', '2'], 4, 2)])
def test_early_stopping(scores, more, ended, best, tree, tmp_path, monkeypatch):
    monkeypatch.setattr('common.training.loop.evaluate', falling(scores))
    train('npairs', tree, tmp_path, '--epochs', '6', '--batch-size', '4', '--val-split', '0.5',
          '--early-stopping', '2', *more)
    log, = tmp_path.rglob('*.jsonl')
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert max(r['epoch'] for r in records if r['event'] == 'epoch') == ended
    why = [r for r in records if r['event'] == 'early_stopping']
    assert [(r['epoch'], r['best_epoch'], r['patience']) for r in why] == ([(ended, best, 2)] if ended < 6 else [])
    assert next(r for r in records if r['event'] == 'run_end')['last']['epoch'] == ended
    assert {path.name.rsplit('-', 1)[1] for path in tmp_path.rglob('*.params')} == {'best.params', 'last.params'}


def test_early_stopping_counts_on_after_a_stop(tree, tmp_path, monkeypatch):
    words = ['--epochs', '6', '--batch-size', '4', '--val-split', '0.5', '--early-stopping', '2']
    scores = [10, 20, 15, 20, 30, 5]
    monkeypatch.setattr('common.training.loop.evaluate', falling(scores))
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            train('npairs', tree, tmp_path, *words)
    monkeypatch.setattr('common.training.loop.evaluate', falling(scores[3:]))
    train('npairs', tree, tmp_path, *words, '--load-checkpoint')
    assert max(e['epoch'] for e in epochs(tmp_path)) == 4


def test_a_run_that_was_ended_early_does_not_go_on(tree, tmp_path, monkeypatch):
    """Killed between its last checkpoint and its end, and resumed."""
    words = ['--epochs', '6', '--batch-size', '4', '--val-split', '0.5', '--early-stopping', '1']
    monkeypatch.setattr('common.training.loop.evaluate', falling([20, 10]))
    with monkeypatch.context() as patch:
        patch.setattr(Session, 'end_run', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            train('npairs', tree, tmp_path, *words)
    result = train('npairs', tree, tmp_path, *words, '--load-checkpoint')
    assert result['runs'][0]['last']['epoch'] == 2 and len(epochs(tmp_path)) == 2


def test_early_stopping_needs_validation_classes(tree, tmp_path):
    with pytest.raises(UsageError, match='--early-stopping needs validation classes: give --val-split'):
        train('npairs', tree, tmp_path, '--early-stopping', '2')


def test_members_of_an_ensemble_are_not_stopped_early(tree, tmp_path):
    with pytest.raises(UsageError, match='--early-stopping: the networks of an ensemble'):
        train('dreml', tree, tmp_path, '--early-stopping', '2', '--val-split', '0.5', '-D', '2', '--embed-dim', '4')


@pytest.mark.parametrize('workers', ['0', '2'])
def test_any_number_of_workers_crops_alike(workers, tree, tmp_path):
    for folder, number in (('one', '1'), ('other', workers)):
        train('npairs', tree, tmp_path / folder, '--min-scale', '0.2', '--num-workers', number)
    assert [e['loss'] for e in epochs(tmp_path / 'one')] == [e['loss'] for e in epochs(tmp_path / 'other')]


def test_a_saved_network_is_rebuilt_with_its_pooling(tree, tmp_path):
    train('npairs', tree, tmp_path, '--pooling', 'gem', '--freeze-bn')
    path, = tmp_path.rglob('*-last.params')
    assert json.loads(path.with_suffix('.json').read_text())['flags']['pooling'] == 'gem'
    scores, = evaluation.run(evaluation.parse_args(['--model', str(path), '--gpus', '-2', '--no-nmi']))
    assert scores['metrics']['recall@1'] == pytest.approx(epochs(tmp_path)[-1]['recall@1'], abs=1e-9)


@pytest.mark.parametrize('name, default', [
    ('angular', False), ('npairs', False), ('prototype', False), ('liftedstruct', False), ('triplet_semihard', False),
    ('clusterloss', True), ('rankedlistloss', True)])
def test_normalize(name, default, tree, tmp_path):
    script = importlib.import_module(f'train_{name}')
    first = script.ALGORITHM['smoke'][0].split()
    for words, expected in (([], default), (['--normalize'], True), (['--no-normalize'], False)):
        opt = script.parse_args(flags(tree, str(tmp_path), *first, *words))
        net = script.build(opt, training.load_data(opt), [mx.cpu()]).net
        assert opt.normalize is expected and (net.l2 is not None) is expected


@pytest.mark.parametrize('name', ['margin', 'proxy', 'normproxy', 'dreml', 'discriminative'])
def test_losses_on_unit_vectors_have_no_such_flag(name, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module(f'train_{name}').parse_args(['--dataset', 'GLYPHS', '--no-normalize'])


def stop_after(epoch, monkeypatch):
    """A KeyboardInterrupt in the first step of the epoch after the `epoch`-th, counted over members."""
    step, start_epoch, started = Learner.step, Learner.start_epoch, []

    def noted(self, *args):
        started.append(0)
        return start_epoch(self, *args)

    def step_or_stop(*batch):
        if len(started) > epoch:
            raise KeyboardInterrupt
        return step(*batch)

    monkeypatch.setattr(Learner, 'start_epoch', noted)
    monkeypatch.setattr(Learner, 'step', step_or_stop)


@pytest.mark.parametrize('name, after', [('npairs', 1), ('npairs', 2), ('dreml', 4)])
@pytest.mark.parametrize('knob', KNOBS)
def test_stopped_and_resumed_ends_with_the_same_bits(name, after, knob, tree, tmp_path, monkeypatch):
    train(name, tree, tmp_path / 'whole', *knob.split())
    with monkeypatch.context() as patch:
        stop_after(after, patch)
        with pytest.raises(KeyboardInterrupt):
            train(name, tree, tmp_path / 'stopped', *knob.split())
    train(name, tree, tmp_path / 'stopped', *knob.split(), '--load-checkpoint')
    whole, resumed = models(tmp_path / 'whole'), models(tmp_path / 'stopped')
    assert whole.keys() == resumed.keys() and whole
    for file in whole:
        for n in whole[file]:
            np.testing.assert_array_equal(whole[file][n], resumed[file][n], f'{file} {n}')
    for a, b in zip(epochs(tmp_path / 'whole'), epochs(tmp_path / 'stopped')):
        for key in ('epoch', 'loss', 'lr', 'recall@1'):
            assert a.get(key) == b.get(key)
