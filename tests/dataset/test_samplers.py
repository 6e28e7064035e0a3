"""The promises of the batch samplers."""
from __future__ import annotations

import io
import logging

import numpy as np
import pytest

from common.errors import UserError
from dataset.samplers import BalancedBatches, EpisodeBatches, PairBatches, ShuffledBatches

# Class ids neither contiguous nor in order, class sizes from 1 to 12, images of a class scattered.
SIZES = {7: 12, 3: 9, 40: 7, 0: 6, 12: 5, 5: 3, 99: 2, 21: 1}
LABELS = np.random.RandomState(0).permutation(np.repeat(list(SIZES), list(SIZES.values())))

MAKERS = {
    'shuffled': lambda seed=0: ShuffledBatches(LABELS, 8, seed=seed),
    'balanced': lambda seed=0: BalancedBatches(LABELS, 12, 4, 9, seed=seed),
    'pairs': lambda seed=0: PairBatches(LABELS, 8, 9, 0.2, seed=seed),
    'episodes': lambda seed=0: EpisodeBatches(LABELS, 3, 2, 2, 9, seed=seed),
}
every_sampler = pytest.mark.parametrize('make', list(MAKERS.values()), ids=list(MAKERS))


def epochs(sampler, count):
    return [list(sampler) for _ in range(count)]


@every_sampler
def test_batches_are_lists_of_valid_int_indices_and_len_counts_them(make):
    sampler = make()
    batches = list(sampler)
    assert len(batches) == len(sampler)
    for batch in batches:
        assert isinstance(batch, list) and all(type(i) is int for i in batch)
        assert min(batch) >= 0 and max(batch) < len(LABELS)


@every_sampler
def test_seed_decides(make):
    assert epochs(make(5), 3) == epochs(make(5), 3)
    assert epochs(make(5), 1) != epochs(make(6), 1)


@every_sampler
def test_no_batch_is_drawn_twice(make):
    """A public implementation drew every batch four times."""
    batches = [tuple(batch) for epoch in epochs(make(), 5) for batch in epoch]
    assert len(set(batches)) == len(batches)


@every_sampler
def test_global_generator_is_neither_used_nor_moved(make):
    np.random.seed(1)
    first = epochs(make(), 2)
    assert np.random.randint(1 << 30) == np.random.RandomState(1).randint(1 << 30)
    np.random.seed(2)
    assert epochs(make(), 2) == first


@every_sampler
@pytest.mark.parametrize('border', [0, 1, 3])
def test_restored_at_an_epoch_border_it_goes_on_the_same(make, border):
    whole = make(4)
    epochs(whole, border)
    file = io.BytesIO()
    np.savez(file, **whole.state_dict())
    expected = epochs(whole, 3)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        other = make(77)
        other.load_state_dict({name: arrays[name] for name in arrays.files})
    assert epochs(other, 3) == expected


@every_sampler
def test_state_is_a_copy(make):
    sampler = make()
    state = sampler.state_dict()
    before = state['keys'].copy()
    epochs(sampler, 200)
    assert np.array_equal(state['keys'], before)


@every_sampler
def test_state_depends_on_epochs_begun_not_on_how_far_they_were_read(make):
    """A loader that prefetches, or a run stopped in mid-epoch, must not move what comes next."""
    read, unread, part = make(), make(), make()
    list(read)
    iter(unread)
    next(iter(part))
    assert list(unread) == list(part) == list(read)


@every_sampler
def test_two_epochs_read_at_once_do_not_disturb_each_other(make):
    one, two = epochs(make(), 2)
    sampler = make()
    first, second = iter(sampler), iter(sampler)
    assert list(zip(first, second)) == list(zip(one, two))


def test_shuffled_is_one_pass_without_the_partial_batch():
    sampler = ShuffledBatches(LABELS, 8)
    dropped = []
    for epoch in epochs(sampler, 10):
        assert [len(batch) for batch in epoch] == [8] * (len(LABELS) // 8)
        seen = sum(epoch, [])
        assert len(set(seen)) == len(seen)
        dropped.append(tuple(sorted(set(range(len(LABELS))) - set(seen))))
    assert len(set(dropped)) > 1, 'the same images are dropped in every epoch'


def test_shuffled_keeps_a_partial_batch_that_is_the_only_one():
    sampler = ShuffledBatches(LABELS, 1000)
    assert [sorted(batch) for batch in sampler] == [list(range(len(LABELS)))]
    assert len(sampler) == 1


def test_shuffled_order_is_uniform():
    """Each image is first equally often."""
    counts = np.zeros(5)
    sampler = ShuffledBatches(np.arange(5), 5)
    for _ in range(2000):
        counts[next(iter(sampler))[0]] += 1
    assert ((counts - 400) ** 2 / 400).sum() < 18.5  # chi-square, 4 degrees of freedom, p = 0.001


@pytest.mark.parametrize('batch_size, batch_k', [(12, 4), (24, 3), (8, 1), (10, 5), (24, 12)])
def test_balanced_counts_and_repeats(batch_size, batch_k):
    for batch in BalancedBatches(LABELS, batch_size, batch_k, 60):
        groups = np.array(batch).reshape(-1, batch_k)
        classes = LABELS[groups]
        assert (classes == classes[:, :1]).all()
        assert len(set(classes[:, 0])) == batch_size // batch_k
        for group, label in zip(groups, classes[:, 0]):
            assert len(set(group)) == min(batch_k, SIZES[label]), 'only a small class repeats, all of it first'


def test_balanced_top_up_is_random():
    labels = np.array([0, 0, 0])
    extra = {tuple(batch[3:]) for batch in BalancedBatches(labels, 5, 5, 200)}
    assert len(extra) == 9


def test_balanced_draws_every_class_and_every_image():
    seen = set(sum(BalancedBatches(LABELS, 12, 4, 200), []))
    assert seen == set(range(len(LABELS)))


@pytest.mark.parametrize('length', [None, 0])
def test_epoch_without_a_length_shows_about_the_whole_set(length):
    assert len(BalancedBatches(LABELS, 12, 4, length)) == len(LABELS) // 12
    assert len(PairBatches(LABELS, 8, length)) == len(LABELS) // 8
    assert len(EpisodeBatches(LABELS, 3, 2, 2, length)) == len(LABELS) // 12
    assert len(BalancedBatches([0, 1], 8, 4, length)) == 1


def test_pairs_are_of_distinct_classes_and_two_images():
    for batch in PairBatches(LABELS, 16, 100):
        pairs = np.array(batch).reshape(-1, 2)
        classes = LABELS[pairs]
        assert (classes[:, 0] == classes[:, 1]).all()
        assert len(set(classes[:, 0])) == 8
        for (anchor, positive), label in zip(pairs, classes[:, 0]):
            assert (anchor == positive) == (SIZES[label] == 1), 'only a class of one image pairs it with itself'


@pytest.mark.parametrize('probability', [0.0, 0.1, 1.0])
def test_pairs_of_the_same_image_come_as_often_as_asked(probability):
    labels = np.repeat(np.arange(20), 6)
    pairs = np.array(list(PairBatches(labels, 40, 250, probability))).reshape(-1, 2)
    share = (pairs[:, 0] == pairs[:, 1]).mean()
    # 5,000 draws: 4 standard deviations
    assert abs(share - probability) <= 4 * np.sqrt(probability * (1 - probability) / len(pairs))


def test_anchor_is_not_always_the_earlier_image():
    pairs = np.array(list(PairBatches(np.repeat([0, 1], 2), 4, 200))).reshape(-1, 2)
    assert 0.4 < (pairs[:, 0] < pairs[:, 1]).mean() < 0.6


def test_episode_structure():
    sampler = EpisodeBatches(LABELS, 4, 2, 3, 100)
    drawn = set()
    for batch in sampler:
        classes = LABELS[batch].reshape(4, 5)
        assert (classes == classes[:, :1]).all()
        assert len(set(classes[:, 0])) == 4
        assert len(set(batch)) == 20, 'an image is support and query at once'
        drawn.update(classes[:, 0])
    assert drawn == {label for label, size in SIZES.items() if size >= 5}


def test_skipped_classes_are_counted_and_reported_once(caplog):
    with caplog.at_level(logging.WARNING):
        sampler = EpisodeBatches(LABELS, 3, 2, 3, 5)
        epochs(sampler, 3)
    assert sampler.skipped_classes == 3
    assert [record.getMessage() for record in caplog.records] == [
        '3 of 8 classes have fewer than 5 images and are skipped.']


def test_no_report_when_no_class_is_skipped(caplog):
    with caplog.at_level(logging.WARNING):
        assert EpisodeBatches(LABELS, 3, 1, 0 + 1, 5).skipped_classes == 1
        caplog.clear()
        assert EpisodeBatches(np.repeat([0, 1, 2], 4), 3, 2, 2, 5).skipped_classes == 0
    assert not caplog.records


@pytest.mark.parametrize('make, flags', [
    (lambda: BalancedBatches(LABELS, 27, 3), ['--batch-size', '--batch-k', '9 classes', 'has 8']),
    (lambda: BalancedBatches(LABELS, 10, 4), ['--batch-size', '--batch-k', 'multiple']),
    (lambda: PairBatches(LABELS, 18), ['--batch-size', '9 classes', 'has 8']),
    (lambda: PairBatches(LABELS, 7), ['--batch-size', 'even']),
    (lambda: EpisodeBatches(LABELS, 6, 2, 3), ['--nc', '--ns', '--nq', '5 (of 8)']),
    (lambda: ShuffledBatches([], 4), ['label']),
    (lambda: ShuffledBatches([0.5, 1.5], 4), ['label']),
    (lambda: ShuffledBatches([[0], [1]], 4), ['label']),
])
def test_refusals_name_the_flag(make, flags):
    with pytest.raises(UserError) as caught:
        make()
    for flag in flags:
        assert flag in str(caught.value)
