"""The confound card and the table of what embeddings look like inside, from logs."""
from __future__ import annotations

import pytest

from common.stats import STRUCTURE_METRICS
from results.aggregate import boards
from results.cards import HEADS, card, card_table, structure_table
from results.readlog import read_logs
from results.records import known_metrics
from results.statistics import metric_order, metric_title
from tests.results import samples

INSIDE = {'intra_distance': 0.25, 'inter_distance': 0.5, 'distance_ratio': 0.5, 'rho': 0.125, 'alignment': 0.5,
          'uniformity': -3.25, 'pair_auc': 98.76, 'tpr@0.001': 40.0, 'tpr@0.01': 60.0, 'tpr@0.1': 90.0}


def write_log(folder, key='margin', seed=1, setup=None, inside=None, cost=None, size=None, **flags):
    """A log of one run, with what newer logs say."""
    config = dict(samples.config(key, seed, identity=f'{key}{seed}', **flags), **(setup or {}))
    events = samples.run_events(config['id'], [40.0, 50.0], seed=seed)
    for event in events:
        if event['event'] == 'epoch':
            event.update(inside or {}, **({'embedding_size': size} if size else {}))
        elif event['event'] == 'run_end':
            event.update(cost or {})
            event['last'].update(inside or {})
    samples.write(folder / f'{key}{seed}.jsonl', [config] + events)


def only_board(folder):
    found, = boards(read_logs([str(folder)])[0])
    return found


def only_card(folder, **options):
    write_log(folder, **options)
    return card(only_board(folder).groups[0])


def test_card_of_a_new_log(tmp_path):
    setup = {'sampler': 'BalancedBatches', 'batch_images': 125, 'batches_per_epoch': 32, 'members': 1,
             'parameters': {'backbone': 23454912, 'head': 131136, 'loss': 100, 'trainable': 23586148}}
    cost = {'evaluation_seconds': 7.4, 'total_seconds': 1016.2, 'peak_memory_mb': 2345.6, 'gpu_memory_mb': 800.0}
    got = only_card(tmp_path, setup=setup, cost=cost, size=64, batch_k=5, image_size=224, resize=256, mirror=True,
                    optimizer='sgd', lr=0.01, wd=0.0001, momentum=0.9, schedule='cosine', warmup=2, pooling='gem',
                    freeze_bn=True, min_scale=0.16, use_crops=True)
    assert got == {
        'Dimensions': '64', 'Pooling': 'gem', 'Batch norm': 'frozen',
        'Crop': '224 of 256, area from 0.16, mirrored, in boxes', 'Sampler': '25 classes x 5', 'Batch': '125',
        'Optimiser': 'sgd, lr 0.01, wd 0.0001, momentum 0.9, cosine, warm-up 2', 'Images seen': '8,000',
        'Parameters': '23,454,912 + 131,136 + 100', 'Training, s': '8', 'Evaluation, s': '7', 'Total, s': '1,016',
        'Memory, MB': '2,346 + 800 on the GPU'}
    assert tuple(got) == HEADS


def test_card_of_an_old_log(tmp_path):
    got = only_card(tmp_path, image_size=32, resize=37)
    assert (got['Dimensions'], got['Pooling'], got['Batch norm'], got['Crop']) == ('64', 'avg', 'trained', '32 of 37')
    assert got['Batch'] == '80' and got['Images seen'] == '8,000' and got['Training, s'] == '8'
    assert not any(got[head] for head in ('Sampler', 'Parameters', 'Evaluation, s', 'Total, s', 'Memory, MB'))
    table = card_table(only_board(tmp_path))
    assert 'Pooling' in table and 'Parameters' not in table and 'Memory' not in table       # no log says them


@pytest.mark.parametrize('setup, flags, words, batch', [
    ({'sampler': 'ShuffledBatches', 'batch_images': 32}, {'batch_k': 0}, 'shuffled', '32'),
    ({'sampler': 'PairBatches', 'batch_images': 128}, {}, 'one pair a class', '128'),
    ({'sampler': 'EpisodeBatches', 'batch_images': 120}, {'nc': 12, 'ns': 5, 'nq': 5},
     '12 classes x (5 support + 5 query)', '120'),
    ({}, {'nc': 12, 'ns': 5, 'nq': 5}, '12 classes x (5 support + 5 query)', '120'),
    ({}, {'batch_k': 4}, '20 classes x 4', '80'),
    ({'sampler': 'MyBatches', 'batch_images': None}, {}, 'MyBatches', '80'),
])
def test_batches_in_words(tmp_path, setup, flags, words, batch):
    got = only_card(tmp_path, setup=setup, **flags)
    assert (got['Sampler'], got['Batch']) == (words, batch)


@pytest.mark.parametrize('frozen, words', [('all', 'frozen'), (3, 'frozen for 3 epochs'), (0, 'trained')])
def test_frozen_backbones(tmp_path, frozen, words):
    assert only_card(tmp_path, freeze_backbone=frozen)['Batch norm'] == words


def test_an_ensemble_has_the_dimensions_and_parameters_of_its_members(tmp_path):
    setup = {'members': 3, 'parameters': {'backbone': 100, 'head': 20, 'loss': 5, 'trainable': 125}}
    got = only_card(tmp_path, setup=setup, size=36, embed_dim=36)
    assert got['Dimensions'] == '36 (3 x 12)' and got['Parameters'] == '300 + 60 + 15'


def test_costs_are_medians_over_runs(tmp_path):
    for seed, seconds in enumerate((5.0, 100.0, 7.0), 1):
        write_log(tmp_path, seed=seed, cost={'evaluation_seconds': seconds})
    assert card(only_board(tmp_path).groups[0])['Evaluation, s'] == '7'


def test_what_a_log_says_is_shown_as_it_is_and_never_an_error(tmp_path):
    nasty = 'a|b\n<c>'
    setup = {'sampler': nasty, 'batch_images': 'x', 'members': -1, 'parameters': [nasty]}
    write_log(tmp_path, setup=setup, optimizer=nasty, lr='x', pooling=nasty, batch_k='x', image_size=nasty,
              freeze_backbone=nasty, cost={'total_seconds': nasty, 'peak_memory_mb': [1]}, size=-5)
    rows = [line for line in card_table(only_board(tmp_path)).split('\n') if line.startswith('| Margin')]
    assert len(rows) == 1 and r'a\|b \<c\>' in rows[0]


def test_structure_is_of_the_last_epoch(tmp_path):
    write_log(tmp_path, inside=INSIDE)
    write_log(tmp_path, seed=2, inside=dict(INSIDE, rho=0.375))
    write_log(tmp_path, 'npairs')
    lines = structure_table(only_board(tmp_path)).split('\n')
    assert '| Margin | 0.250 | 0.500 | 0.500 | 0.250 | 0.500 | -3.250 | 98.8 | 40.0 | 60.0 | 90.0 |' in lines
    assert not any('N-pairs' in line for line in lines)
    assert 'Intra-class distance' in lines[2] and 'TPR at FPR 0.1%' in lines[2]


def test_old_logs_have_no_structure(tmp_path):
    write_log(tmp_path)
    assert structure_table(only_board(tmp_path)) == ''


def test_numbers_that_are_no_percentages_are_read():
    assert known_metrics(INSIDE) == INSIDE
    assert known_metrics({'uniformity': -1e300, 'rho': None, 'pair_auc': 101.0, 'nmi': -3.0, 'loss': 1.0}) == {}
    assert sorted(['nmi', *reversed(STRUCTURE_METRICS), 'recall@10', 'recall@2'], key=metric_order) == [
        'recall@2', 'recall@10', 'nmi', *STRUCTURE_METRICS]
    assert [metric_title(m) for m in ('recall@1', 'map@r', 'nmi', 'distance_ratio')] == [
        'Recall@1', 'MAP@R', 'NMI', 'Intra / inter']
