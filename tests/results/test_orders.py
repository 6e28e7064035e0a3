"""Our order of the algorithms against the paper's."""
from __future__ import annotations

import numpy as np
import pytest

from results import tables
from results.figures.paper import read_paper
from results.orders import agreement
from tests.results import samples


def _ranks(values):
    """Rank 1 for the smallest; equal values share the mean of their ranks."""
    return [sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
            for value in values]


def _spearman(xs, ys):
    """The correlation of the ranks; None where one side has a single value."""
    a, b = (np.array(_ranks(values)) for values in (xs, ys))
    products = ((a - a.mean()) * (b - b.mean())).sum()
    norm = ((a - a.mean()) ** 2).sum() * ((b - b.mean()) ** 2).sum()
    return products / norm ** 0.5 if norm else None


@pytest.mark.parametrize('rows', [4, 9])
def test_correlation_and_interval_against_loops(rows):
    random = np.random.RandomState(rows)
    ours = {f'a{i}': float(v) for i, v in enumerate(random.randint(0, 6, rows))}        # with ties
    theirs = {f'a{i}': float(v) for i, v in enumerate(random.normal(size=rows))}
    found = agreement({**ours, 'only ours': 1.0}, {**theirs, 'only theirs': 2.0}, resamples=300)
    xs, ys = list(ours.values()), [theirs[key] for key in ours]
    drawn = []
    for places in np.random.RandomState(0).randint(rows, size=(300, rows)):
        rho = _spearman([xs[i] for i in places], [ys[i] for i in places])
        if rho is not None:
            drawn.append(rho)
    assert found.rho == pytest.approx(_spearman(xs, ys), abs=1e-12)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(drawn, (2.5, 97.5))), abs=1e-12)
    assert rows != 4 or len(drawn) < 300                    # some draws have no correlation
    places = list(zip(_ranks([-x for x in xs]), _ranks([-y for y in ys])))
    assert found.ranks == dict(zip(ours, places))           # 1 is the best


def test_too_few_rows_and_a_single_value_have_no_correlation():
    values = {'a': 1.0, 'b': 2.0, 'c': 3.0}
    assert agreement(values, values) is None
    assert agreement({**values, 'd': 4.0}, dict.fromkeys('abcd', 5.0)) is None
    assert agreement({**values, 'd': 4.0}, {**values, 'd': 4.0})[:3] == (1.0, pytest.approx(1), pytest.approx(1))


def test_the_table_names_the_rows_that_disagree(tmp_path):
    paper = {p.algorithm: p.value for p in read_paper()
             if (p.figure, p.dataset, p.metric) == ('table', 'CARS196', 'recall@1')}
    for key, value in {**paper, 'triplet': 99.0}.items():       # 11th of 12 in the paper, the best here
        samples.log(tmp_path / 'logs' / 'cars196-half-tuned' / f'{key}.jsonl', key, (value - 5, value),
                    dataset='FOLDER', model='efficientnet-lite0')
    table = tables.all_tables(str(tmp_path))['orders']
    [row] = [line for line in table.split('\n') if '| Cars196, Inception-BN |' in line]
    cells = [cell.strip() for cell in row.split('|')[1:-1]]
    assert cells[0] == 'Cars196, training half, EfficientNet-Lite0, tuned settings' and cells[2] == '12'
    keys = list(paper)
    rho = _spearman([99.0 if key == 'triplet' else paper[key] for key in keys], [paper[key] for key in keys])
    assert cells[3] == f'{rho:.2f}' and cells[5].startswith('Triplet semi-hard: ours 1, the paper\'s 11')
    assert table.count('| Cars196, training half') == 4         # each table of the paper
    assert 'no runs' in tables.all_tables(str(tmp_path / 'none'))['orders']
