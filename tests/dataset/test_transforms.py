"""Crops: uniform, and a function of (seed, epoch, position) only."""
import numpy as np
import pytest
from scipy import stats

from dataset.transforms import center_crops, draw_crops, write_crop


def test_every_place_is_equally_likely():
    crops = draw_crops(seed=1, epoch=2, start=0, count=33 * 33 * 40, resize=256, image_size=224, mirror=True)
    places = np.bincount(crops[:, 0] * 33 + crops[:, 1], minlength=33 * 33)
    assert places.size == 33 * 33
    assert stats.chisquare(places).pvalue > 1e-3
    # Mirroring does not depend on the place.
    assert stats.chi2_contingency(np.histogram2d(crops[:, 0], crops[:, 2], bins=(33, 2))[0]).pvalue > 1e-3
    assert abs(crops[:, 2].mean() - 0.5) < 4 * 0.5 / np.sqrt(len(crops))


def test_cutting_an_epoch_into_batches_changes_nothing():
    whole = draw_crops(3, 1, 0, 100, 256, 224, True)
    for size in (1, 7, 64):
        parts = [draw_crops(3, 1, start, min(size, 100 - start), 256, 224, True) for start in range(0, 100, size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize('other', [(4, 1), (3, 2), (1, 3), (-1, 1), (3 + 2 ** 32, 1)])
def test_other_seed_or_epoch_draws_others(other):
    a, b = draw_crops(3, 1, 0, 400, 256, 224, True), draw_crops(*other, 0, 400, 256, 224, True)
    assert (a[:, :2] == b[:, :2]).all(axis=1).sum() < 8


def test_first_draws_are_these_on_every_version_of_numpy():
    assert draw_crops(123, 1, 0, 3, 256, 224, True).tolist() == [[2, 24, 0, 224, 224], [17, 0, 0, 224, 224],
                                                              [32, 6, 1, 224, 224]]


def test_no_mirror_and_no_room_to_crop():
    assert not draw_crops(0, 0, 0, 1000, 256, 224, mirror=False)[:, 2].any()
    assert not draw_crops(0, 0, 0, 1000, 32, 32, mirror=True)[:, :2].any()
    assert center_crops(2, 256, 224).tolist() == [[16, 16, 0, 224, 224]] * 2


SIDE = 100_000      # pixels; so large that rounding hardly shows


@pytest.mark.parametrize('min_scale, max_aspect', [(0.08, 4 / 3), (0.5, 1.0), (0.9, 3.0)])
def test_crops_of_any_size(min_scale, max_aspect):
    """Area and the logarithm of the aspect are uniform, as far as the picture holds the crop; so are the places."""
    crops = draw_crops(5, 1, 0, 40000, SIDE, 224, True, min_scale, max_aspect)
    top, left, _, height, width = crops.T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= SIDE).all() and (left + width <= SIDE).all()
    area = height * width / SIDE ** 2
    assert stats.kstest(area, stats.uniform(min_scale, 1 - min_scale).cdf).pvalue > 1e-3
    widest = np.minimum(max_aspect, 1 / area)
    inside = widest > 1.02      # else there is little but the rounding to pixels
    if max_aspect > 1:
        aspect = np.log(width / height)[inside] / np.log(widest)[inside]
        assert stats.kstest(aspect, stats.uniform(-1, 2).cdf).statistic < 0.02
    else:
        assert (abs(width - height) <= 1).all()
    wide = height < 0.9 * SIDE
    if not wide.any():
        return
    places = (top[wide] + 0.5) / (SIDE + 1 - height[wide])
    assert stats.kstest(places, stats.uniform(0, 1).cdf).pvalue > 1e-3


def test_without_a_smallest_share_crops_are_as_ever():
    ever = draw_crops(3, 1, 0, 50, 256, 224, True)
    np.testing.assert_array_equal(draw_crops(3, 1, 0, 50, 256, 224, True, 1.0, 2.0), ever)


@pytest.mark.parametrize('mirror', [0, 1])
def test_a_crop_of_another_size_is_scaled(mirror):
    ramp = np.repeat(np.arange(20, 140, 10, dtype=np.uint8)[None, :, None], 12, axis=0).repeat(3, axis=2)
    out = np.zeros((8, 8, 3), dtype=np.uint8)
    write_crop(ramp, (0, 2, mirror, 12, 4), out)    # columns 40, 50, 60, 70 become 8
    expected = [40, 43, 48, 53, 58, 63, 68, 70]
    row = out[3, ::-1, 0] if mirror else out[3, :, 0]
    assert np.abs(row.astype(int) - expected).max() <= 1
    assert (out == out[:1]).all()


@pytest.mark.parametrize('mirror', [0, 1])
def test_write_crop(mirror):
    image = np.random.RandomState(0).randint(0, 256, (12, 12, 3)).astype(np.uint8)
    image.setflags(write=False)     # as the pixels of a cache are
    rows = np.zeros((2, 8, 8, 3), dtype=np.uint8)
    write_crop(image, (3, 1, mirror, 8, 8), rows[1])
    expected = image[3:11, 1:9]
    np.testing.assert_array_equal(rows[1], expected[:, ::-1] if mirror else expected)
    assert not rows[0].any()
