"""The confusion matrix of the fault benchmark as a picture."""

from collections import Counter
from pathlib import Path

from fault_pool import NOTHING, Pool, Row, first, names, planted, right_first


def draw(rows: list[Row], path: Path, cell: int = 26) -> None:
    """Planted x first name of the effective and healthy runs of pool "report", as a PNG. Green: a
    right name; red: a wrong one, or nothing for a fault; grey: nothing for a healthy run."""
    from PIL import Image, ImageDraw, ImageFont

    pool = Pool([row for row in rows if row["pool"] == "report"])
    counts, good = Counter(), set()
    for row in [*pool.effective, *pool.healthy]:
        key = planted(row), first(row)
        counts[key] += 1
        if right_first(row) if row["kind"] == "fault" else not names(row):
            good.add(key)
    down = sorted({a for a, _ in counts}, key=lambda name: (name.startswith("("), name))
    seen = {b for _, b in counts}
    across = [name for name in down if name in seen]
    across += sorted(seen - set(across), key=lambda name: (name.startswith("("), name))
    totals = Counter()
    for (a, _), n in counts.items():
        totals[a] += n
    font = ImageFont.load_default(13)
    room = 16 + int(max((font.getlength(name) for name in [*down, *across]), default=0))
    size = room + cell * len(across) + 60, room + cell * len(down) + 34
    image = Image.new("RGB", (max(size[0], 420), size[1]), "white")
    pen = ImageDraw.Draw(image)
    for i, name in enumerate(down):
        y = room + i * cell + cell // 2
        pen.text((room - 6, y), name, "black", font, anchor="rm")
        pen.text((room + cell * len(across) + 6, y), f"of {totals[name]}", "grey", font, "lm")
    for j, name in enumerate(across):
        label = Image.new("RGB", (room - 6, cell), "white")
        ImageDraw.Draw(label).text((0, cell // 2), name, "black", font, anchor="lm")
        image.paste(label.rotate(90, expand=True), (room + j * cell, 0))
    for (a, b), n in counts.items():
        x, y = room + across.index(b) * cell, room + down.index(a) * cell
        pen.rectangle((x, y, x + cell, y + cell), _shade(n / totals[a], (a, b) in good, b))
        pen.text((x + cell // 2, y + cell // 2), str(n), "black", font, anchor="mm")
    grid = range(max(len(down), len(across)) + 1)
    right, bottom = room + cell * len(across), room + cell * len(down)
    for k in grid:
        at = room + k * cell
        if k <= len(down):
            pen.line((room, at, right, at), "#dddddd")
        if k <= len(across):
            pen.line((at, room, at, bottom), "#dddddd")
    pen.text((6, bottom + 8), "rows: what was planted; columns: the first name", "black", font)
    image.save(path, "png", optimize=True)


def _shade(share: float, good: bool, name: str) -> tuple[int, int, int]:
    """Paler where it is a smaller part of its row."""
    full = (
        (110, 195, 120) if good and name != NOTHING else (190, 190, 190) if good else (240, 95, 80)
    )
    weight = 0.25 + 0.75 * share
    return tuple(round(255 - (255 - c) * weight) for c in full)
