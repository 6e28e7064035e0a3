"""A small share of the 10,000 mutated pictures of `tests.faults.fuzz_images`, and proof that it can fail."""
import pytest

from tests.faults import fuzz_images


def test_mutated_pictures():
    tally = fuzz_images.run(200, seed=1)
    outcomes = [sum(count for (kind, how), count in tally.items() if how == outcome and kind != 'good')
                for outcome in ('decoded', 'refused')]
    assert sum(outcomes) == 200 and min(outcomes) > 20, 'both happen, and nothing is lost'
    assert tally['good', 'decoded'] > 30


def test_it_notices_a_good_picture_come_to_harm(monkeypatch):
    picture = fuzz_images.good_picture
    monkeypatch.setattr(fuzz_images, 'good_picture', lambda index: (picture(index)[0], 0))
    monkeypatch.setattr(fuzz_images, 'bombs', list)
    with pytest.raises(AssertionError, match='came to harm'):
        fuzz_images.run(10, seed=1)
