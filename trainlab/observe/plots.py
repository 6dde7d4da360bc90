"""Pictures of what the probes saw, drawn by PIL alone: each function gives the fields of a
Summary's image. L layers, T looks. Colours: viridis, early looks dark, late ones bright.
"""

import io
from collections.abc import Mapping, Sequence
from functools import cache
from math import ceil, floor, inf, isfinite, log10, sqrt
from typing import Any

import numpy as np

WIDTH, HEIGHT = 350, 230  # pixels; as wide as TensorBoard shows them, which does not smooth
WIDE, HIGH, MARGIN = 480, 200, 24  # of a plain curve
LEFT, TOP, RIGHT, BOTTOM = 46, 24, 56, 36  # margins of the plot
DECADES = 12  # shown at most, from the largest downwards
CELLS = 30  # heat maps in one picture, at most
# ten anchors of viridis, https://bids.github.io/colormap (CC0), a straight line between them
ANCHORS = "440154 482878 3e4989 31688e 26828e 1f9e89 35b779 6ece58 b5de2b fde725".split()  # noqa: SIM905
# a picture's palette, which is faster than three bytes a pixel: viridis, a red, black to white
EARLY, LATE, ALARM, INK, GREY, PALE, WHITE = 0, 190, 191, 192, 220, 248, 255


@cache
def palette() -> bytes:
    """Red, green, blue of the 256 colours."""
    anchors = np.array([list(bytes.fromhex(anchor)) for anchor in ANCHORS])
    places = np.linspace(0, len(ANCHORS) - 1, LATE + 1)
    channels = [np.interp(places, range(len(ANCHORS)), column) for column in anchors.T]
    greys = np.linspace(0, 255, WHITE + 1 - INK)[:, None].repeat(3, 1)
    colours = np.concatenate([np.stack(channels, 1), [[211, 47, 47]], greys])
    return colours.round().astype(np.uint8).tobytes()


def colour(share: float) -> int:
    """Of 0 (early) to 1 (late); short of the brightest yellow, which white would swallow."""
    return round(share * 0.92 * LATE)


def blank(width: int, height: int) -> tuple[Any, Any]:
    """A white picture and what draws on it."""
    from PIL import Image, ImageDraw

    image = Image.new("P", (width, height), WHITE)
    image.putpalette(palette())
    draw = ImageDraw.Draw(image)
    draw.fontmode = "L"  # smooth: between black and white lie the greys
    return image, draw


class Plot:
    """A white picture with a log10 axis over the layers, from input to output."""

    def __init__(self, title: str, layers: Sequence[str], values: Sequence[float]):
        """`values` are all that is to be shown; the axis spans what is finite and above 0."""
        self.image, self.draw = blank(WIDTH, HEIGHT)
        logs = [log10(value) for value in values if 0 < value < inf]
        self.high = ceil(max(logs, default=0.0) + 1e-9)
        self.low = min(floor(min(logs, default=0.0)), self.high - 1)
        self.low = max(self.low, self.high - DECADES)
        self.across = (WIDTH - LEFT - RIGHT) / len(layers)
        self.text(4, 4, title, size=12)
        self._axes(layers)

    def text(self, x: float, y: float, text: str, anchor: str = "la", **style: Any) -> None:
        fill = style.get("fill", INK)
        self.draw.text((x, y), text, fill=fill, font=font(style.get("size", 11)), anchor=anchor)

    def _axes(self, layers: Sequence[str]) -> None:
        right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
        span = self.high - self.low
        for decade in range(self.low, self.high + 1, ceil(span / 8)):
            parts = (1, 2, 5) if span <= 2 and decade < self.high else (1,)
            for value in (part * 10.0**decade for part in parts):
                y = self.y(value)
                self.draw.line((LEFT, y, right, y), fill=PALE)
                self.text(LEFT - 4, y, f"{value:g}", "rm", fill=GREY)
        every = ceil(20 / self.across)  # a number takes 20 pixels
        for place, layer in enumerate(layers):
            if place % every == 0:
                self.text(self.x(place), bottom + 4, layer.partition(".")[0], "ma", fill=GREY)
        self.text(LEFT, bottom + 19, layers[0])
        if len(layers) > 1:
            self.text(right, bottom + 19, layers[-1], "ra")
        self.draw.rectangle((LEFT, TOP, right, bottom), outline=GREY)

    def x(self, place: float) -> float:
        return LEFT + self.across * (place + 0.5)

    def y(self, value: float) -> float:
        """What lies outside of the axis is drawn at its end."""
        if not 0 < value < inf:
            return TOP if value > 0 else HEIGHT - BOTTOM
        share = (log10(value) - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - min(max(share, 0.0), 1.0) * (HEIGHT - BOTTOM - TOP)

    def odd(self, place: int, value: float) -> None:
        """Says in red what a log axis cannot show: 0, inf, nan."""
        if not 0 < value < inf:
            y = min(max(self.y(value), TOP + 8), HEIGHT - BOTTOM - 8)
            self.draw.fontmode = "1"  # no grey between red and white
            self.text(self.x(place), y, f"{value:g}", "mm", fill=ALARM, size=13)
            self.draw.fontmode = "L"

    def key(self, steps: Sequence[int]) -> None:
        """A bar of the colours with the first and the last step."""
        x, top, bottom = WIDTH - RIGHT + 10, TOP + 30, HEIGHT - BOTTOM - 30
        for y in range(top, bottom):
            self.draw.line((x, y, x + 10, y), fill=colour((bottom - y) / (bottom - top)))
        self.text(x, TOP, f"step\n{steps[-1]}", fill=GREY)
        self.text(x, bottom + 3, f"step\n{steps[0]}", fill=GREY)

    def png(self) -> dict[str, Any]:
        return packed(self.image)


@cache
def font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size)


def packed(image: Any) -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, "png", compress_level=1)  # twice the bytes of the default, a third of the time
    size = {"width": image.width, "height": image.height, "colorspace": 3}
    return size | {"encoded_image_string": file.getvalue()}


def curve(title: str, values: Sequence[float]) -> dict[str, Any]:
    """A line through equally spaced finite values, with their largest and smallest beside
    it."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDE, HIGH), "white")
    draw = ImageDraw.Draw(image)
    low, high = min(values), max(values)
    across = (WIDE - 2 * MARGIN) / max(len(values) - 1, 1)
    up = (HIGH - 2 * MARGIN) / ((high - low) or 1.0)
    points = [
        (MARGIN + across * i, HIGH - MARGIN - up * (value - low)) for i, value in enumerate(values)
    ]
    draw.rectangle((MARGIN, MARGIN, WIDE - MARGIN, HIGH - MARGIN), outline="lightgrey")
    draw.line(points, fill="#f57c00", width=2)
    draw.text((MARGIN, 4), f"{title}: {low:.3g} to {high:.3g}", fill="black")
    draw.text((MARGIN, HIGH - 18), "the whole training", fill="black")
    return packed(image)


def profile(
    title: str,
    layers: Sequence[str],
    lines: Mapping[int, Sequence[float]],
    bands: Sequence[float] = (),
) -> dict[str, Any]:
    """{step: values (L,)}: one line a step over the depth. 0 and inf lie on the frame, nan is left
    out; those of the last step are named. `bands` are values to compare with."""
    plot = Plot(title, layers, [*(value for line in lines.values() for value in line), *bands])
    for limit in bands:
        y = plot.y(limit)
        plot.draw.line((LEFT, y, WIDTH - RIGHT, y), fill=ALARM)
    steps = list(lines)
    for number, (step, line) in enumerate(lines.items()):
        last = step == steps[-1]
        ink = colour(number / max(len(steps) - 1, 1))
        points = [(plot.x(i), plot.y(v)) for i, v in enumerate(line) if v == v]
        for place, value in enumerate(line):
            if value == value and (last or len(line) == 1):
                x, y = plot.x(place), plot.y(value)
                plot.draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=ink)
            if last:
                plot.odd(place, value)
        plot.draw.line(points, fill=ink, width=2 if last else 1)
    plot.key(steps)
    return plot.png()


def bars(
    title: str, layers: Sequence[str], steps: Sequence[int], lines: Sequence
) -> dict[str, Any]:
    """Values (L,) of the last step as bars on a log axis, and those of the first as marks."""
    first, last = lines
    plot = Plot(title, layers, [*first, *last])
    half = max(plot.across * 0.36, 1)
    for place, (old, new) in enumerate(zip(first, last, strict=True)):
        x = plot.x(place)
        if 0 < new < inf:
            box = (x - half, plot.y(new), x + half, HEIGHT - BOTTOM)
            plot.draw.rectangle(box, fill=colour(0.5))
        plot.odd(place, new)
        if 0 < old < inf:
            plot.draw.line((x - half, plot.y(old), x + half, plot.y(old)), fill=INK, width=2)
    x = WIDTH - RIGHT + 8
    plot.text(x, TOP, f"bars:\nstep\n{steps[1]}", fill=GREY)
    plot.text(x, TOP + 60, f"marks:\nstep\n{steps[0]}", fill=GREY)
    return plot.png()


def rebinned(
    looks: Sequence[tuple[Sequence[int], float, float]], bins: int = 64
) -> tuple[np.ndarray, float, float]:
    """Histograms (counts, low, high) of T looks -> log1p of the counts in common bins (bins, T),
    the lowest values first, and their limits.

    The limits are those of all looks, but at most 4 times the median size of an extreme: what one
    explosion adds goes to the outermost bins. A look that is not finite is a column of nan.
    """
    fine = [(low, high) for _, low, high in looks if isfinite(high - low)]
    if not fine:
        return np.full((bins, len(looks)), np.nan), np.nan, np.nan
    lows, highs = np.array(fine).T
    most = 4 * float(np.median(np.maximum(abs(lows), abs(highs)))) or 1.0
    low, high = max(float(lows.min()), -most), min(float(highs.max()), most)
    if not high > low:
        low, high = low - 0.5, low + 0.5
    edges = np.linspace(low, high, bins + 1)
    counts, starts, ends = (np.array(part, float) for part in zip(*looks, strict=True))
    fine = np.isfinite(ends - starts)
    width = np.maximum(ends - starts, 1e-9 * (high - low))  # all alike: one bin
    n = counts.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        place = (edges - starts[:, None]) / width[:, None] * n  # (T, bins + 1)
    place = np.nan_to_num(place).clip(0, n)
    whole = np.minimum(place.astype(int), n - 1)
    below = np.pad(counts.cumsum(1), ((0, 0), (1, 0)))
    left, right = (np.take_along_axis(below, whole + k, 1) for k in (0, 1))
    found = left + (place - whole) * (right - left)
    found[:, 0], found[:, -1] = 0, below[:, -1]
    found[~fine] = np.nan
    return np.log1p(np.diff(found).T), low, high


def heat_maps(title: str, steps: Sequence[int], layers: Mapping[str, Sequence]) -> dict[str, Any]:
    """The colourful dimension (fastai, Howard and Gugger 2020, chapter 13): for every layer its
    histograms (counts, low, high), one column a look, one row a value; red is not finite."""
    from PIL import Image

    shown = list(layers)[:: ceil(len(layers) / CELLS)]
    columns = min(ceil(sqrt(len(shown))), 3)
    width, height, head, gap = (WIDTH - 4) // columns, 110, 22, 15
    image, draw = blank(WIDTH, head + ceil(len(shown) / columns) * height + 14)
    draw.text((4, 4), title, fill=INK, font=font(12))
    for place, layer in enumerate(shown):
        x, y = 4 + place % columns * width, head + place // columns * height
        map_, low, high = rebinned(layers[layer])
        size = width - 4, height - gap - 4
        top = (np.nanmax(map_) if isfinite(low) else 0.0) or 1.0
        lit = np.nan_to_num(map_ / top * LATE, nan=ALARM).astype(np.uint8)[::-1]
        tile = Image.frombytes("P", lit.shape[::-1], lit.tobytes())
        image.paste(tile.resize(size, Image.Resampling.NEAREST), (x, y + gap))
        draw.text((x, y + 1), layer, fill=INK, font=font(11))
        limits = f"{low:.2g} to {high:.2g}"
        draw.text((x + size[0], y + 2), limits, fill=GREY, font=font(9), anchor="ra")
    text = (
        f"one column per probed step, {steps[0]} to {steps[-1]}; one row per value, largest on top"
    )
    draw.text((4, image.height - 14), text, fill=GREY, font=font(10))
    return packed(image)
