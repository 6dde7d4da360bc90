"""Pictures say what the figures say: places, colours and counts, read back from the pixels."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from trainlab.observe import charts, plots
from trainlab.observe.plots import (
    ALARM,
    BOTTOM,
    HEIGHT,
    LATE,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Plot,
    rebinned,
)


def opened(made):
    """Palette indices (height, width)."""
    image = Image.open(io.BytesIO(made["encoded_image_string"]))
    assert (image.width, image.height, image.mode) == (made["width"], made["height"], "P")
    return np.array(image)


def test_the_axis_is_logarithmic_and_spans_the_values():
    plot = Plot("t", ["01.a", "02.b"], [3e-5, 0.2, 0.0, math.nan, math.inf])
    assert (plot.low, plot.high) == (-5, 0)
    assert plot.y(1e-5) == HEIGHT - BOTTOM and plot.y(1.0) == TOP
    assert plot.y(1e-2) - plot.y(1e-1) == pytest.approx((HEIGHT - BOTTOM - TOP) / 5)
    assert plot.y(0.0) == HEIGHT - BOTTOM and plot.y(math.inf) == TOP
    wide = Plot("t", ["01.a"], [1e-38, 1.0])
    assert wide.high - wide.low == plots.DECADES and wide.y(1e-38) == HEIGHT - BOTTOM
    for values in ([], [0.0], [math.nan], [1.0], [1e-3]):
        plot = Plot("t", ["01.a"], values)
        assert plot.high > plot.low


def test_a_profile_draws_early_looks_dark_and_late_ones_bright():
    layers = ["01.a", "02.b", "03.c"]
    pixels = opened(plots.profile("t", layers, {1: [1e-3] * 3, 50: [1e-2] * 3, 99: [0.1] * 3}))
    plot = Plot("t", layers, [1e-3, 0.1])
    column = pixels[:, round(plot.x(0.5))]
    inks = [int(column[round(plot.y(value))]) for value in (1e-3, 1e-2, 0.1)]
    assert inks == [plots.colour(share) for share in (0, 0.5, 1)] == sorted(inks)


def test_what_a_log_axis_cannot_show_is_named_in_red():
    frame = np.s_[TOP + 1 : HEIGHT - BOTTOM, LEFT + 1 : WIDTH - RIGHT]
    for odd in (0.0, math.inf, math.nan):
        pixels = opened(plots.profile("t", ["01.a", "02.b", "03.c"], {1: [odd, 0.1, 0.2]}))
        assert (pixels[frame] == ALARM).sum() > 5, odd
    assert not (opened(plots.profile("t", ["01.a"], {1: [0.1]}))[frame] == ALARM).any()
    banded = opened(plots.profile("t", ["01.a"], {1: [0.1]}, (1e-3, 1e-1)))
    plot = Plot("t", ["01.a"], [1e-3, 0.1])
    reds = np.flatnonzero(banded[:, LEFT + 3] == ALARM)
    assert list(reds) == pytest.approx([plot.y(0.1), plot.y(1e-3)], abs=1)


def test_a_bar_ends_at_its_value_and_a_mark_lies_at_the_first_one():
    layers = ["01.w", "02.b", "03.w"]
    first, last = [1e-2, 1e-3, 0.1], [1e-4, 1e-1, math.nan]
    pixels = opened(plots.bars("t", layers, [1, 9], [first, last]))
    plot = Plot("t", layers, [*first, *last[:2]])
    for place, (old, new) in enumerate(zip(first[:2], last[:2], strict=True)):
        column = pixels[:, round(plot.x(place))]
        bar = np.flatnonzero(column == plots.colour(0.5))
        assert bar[0] == pytest.approx(plot.y(new), abs=1.5)
        assert column[round(plot.y(old))] == plots.INK
    third = pixels[:, round(plot.x(2) - 0.3 * plot.across)]
    assert not (third == plots.colour(0.5)).any()


def test_rebinning_counts_what_numpy_counts():
    rng = np.random.default_rng(0)
    data = [rng.normal(mean, 1, 4000) for mean in (0, 2)]
    looks = [(np.histogram(d, 640)[0], float(d.min()), float(d.max())) for d in data]
    map_, low, high = rebinned(looks)
    assert (low, high) == (min(d.min() for d in data), max(d.max() for d in data))
    for column, d in zip(map_.T, data, strict=True):
        exact = np.histogram(d, 64, (low, high))[0]
        assert np.expm1(column).sum() == pytest.approx(4000)
        assert abs(np.expm1(column) - exact).max() < 25  # a fine bin lies in two coarse ones


def test_rebinning_of_odd_looks():
    flat = ([7] + [0] * 63, 0.5, 0.5)
    map_, low, high = rebinned([flat, flat])
    assert low < 0.5 < high and np.expm1(map_).sum(0) == pytest.approx([7, 7])
    usual, exploded = ([1] * 64, -1.0, 1.0), ([1] * 64, -1e6, 1e6)
    map_, low, high = rebinned([usual, usual, usual, exploded])
    assert (low, high) == (-4, 4) and np.expm1(map_).sum(0) == pytest.approx([64] * 4)
    assert np.expm1(map_[[0, -1], 3]).sum() == pytest.approx(64, rel=1e-3)
    map_, _, _ = rebinned([usual, ([0] * 64, math.nan, math.nan)])
    assert np.isfinite(map_[:, 0]).all() and np.isnan(map_[:, 1]).all()
    map_, low, _ = rebinned([([0] * 64, math.nan, math.nan)])
    assert np.isnan(map_).all() and math.isnan(low)
    map_, _, _ = rebinned([([0] * 64, 0.0, 1.0)])
    assert not map_.any()


def test_a_heat_map_has_the_largest_values_on_top_and_red_for_what_is_not_finite():
    low, high = ([9] + [0] * 63, -1.0, 1.0), ([0] * 63 + [9], -1.0, 1.0)
    broken = ([0] * 64, math.nan, math.nan)
    pixels = opened(plots.heat_maps("t", [1, 2, 3], {"01.a": [low, high, broken]}))
    rows, columns = np.nonzero(pixels == LATE)
    assert rows[columns < WIDTH / 3 - 4].min() > rows[columns > WIDTH / 3 + 4].max()
    assert (pixels == ALARM).sum() == pytest.approx(pixels.shape[1] / 3 * 91, rel=0.1)
    opened(plots.heat_maps("t", [1], {"01.a": [broken], "02.b": [([0] * 64, 0.0, 0.0)]}))
    many = opened(plots.heat_maps("t", [1], {f"{i:03}.a": [low] for i in range(200)}))
    assert len(many) < 1200


def test_long_runs_keep_evenly_spaced_looks_and_the_last():
    seen = charts.Charts()
    for step in range(3000):
        seen._keep(charts.ProbedStep(step, {"activation_std/01.a": 1.0}, {}))
    steps = [look.step for look in seen.kept]
    assert charts.MOST / 2 <= len(steps) <= charts.MOST
    assert set(np.diff(steps)) == {seen.stride} and steps[0] == 0
    assert seen.latest.step == 2999


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf, 1e-45, 3e38, -1.0])
def test_any_figure_can_be_drawn(value):
    seen = charts.Charts()
    for step in (1, 2):
        tags = [f"{kind}/{n}" for kind in charts.SEEN for n in ("01.a", "02.b")]
        seen.feed({"step": step} | dict.fromkeys(tags, value))
        limits = {"low": value, "high": value, "counts": [5] + [0] * 63}
        seen.feed({"step": step, "histogram": "activation/01.a"} | limits)
    made = {each["tag"]: opened(each["image"]) for each in seen.drawn()}
    assert len(made) == 5
