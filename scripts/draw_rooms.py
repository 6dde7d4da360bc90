"""Draws docs/architecture.svg: the rooms on their floors, their imports, the way of one run.

    python scripts/draw_rooms.py

Floors are ROWS of tests/test_house.py, boxes are as wide as a room has lines, arrows are read from
the imports. An arrow is left out where others lead down to the same room, or the picture would be
black. Colours are of Okabe and Ito 2008, https://jfly.uni-koeln.de/color/, which differ for
everybody.
"""

import importlib.util
from collections import defaultdict
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.svg"
# room -> where its middle stands, from left to right, and what it is for
ROOMS = {
    "__main__": (400, "the door"),
    "_plugins": (580, "for Hydra"),
    "cli": (400, "what was typed"),
    "sweeps": (540, "many runs"),
    "experiment": (345, "one run, chapter by chapter"),
    "checks": (440, "before the training"),
    "faults": (655, "what broken looks like"),
    "doctor": (235, "while it trains, and after"),
    "nn": (100, "networks, init"),
    "probes": (258, "what is measured"),
    "data": (462, "splits, batches"),
    "optim": (672, "steps, schedules"),
    "observe": (235, "capture, rows, console"),
    "storage": (330, "checkpoints, folders"),
    "stack": (716, "R runs as one"),
    "config": (235, "words, keys, build"),
    "training": (500, "the loop"),
    "errors": (365, "one line each"),
}
# the way of one run: the room, its file, what comes out of it
RUN = [
    ("__main__", "__main__.py", "a command line"),
    ("cli", "cli/compose.py", "one checked config, or one line"),
    ("config", "config/build.py", "the door: a node becomes an object"),
    ("experiment", "experiment/phases.py", "the story; reads the config"),
    ("data", "data/sources.py", "splits, preprocessing, batches"),
    ("nn", "nn/mlp.py, nn/init.py", "a network with its first weights"),
    ("checks", "checks/__init__.py", "verdicts, before the training"),
    ("training", "training/trainer.py", "steps, evaluations"),
    ("observe", "observe/capture.py", "rows of what was seen inside"),
    ("doctor", "doctor/examine.py", "findings: causes, what to type"),
    ("storage", "storage/checkpoint.py", "what a kill cannot take away"),
]
BLUE, ORANGE, INK, GREY = "#0072B2", "#D55E00", "#222222", "#8a8f98"
WIDTH, FLOOR, HEIGHT, TOP = 1200, 72, 46, 84  # px; from floor to floor, of a box, of the heading
GAP = 9  # px between an arrow and a box, or another arrow


def house():
    """tests/test_house.py: rows, files, and who imports whom."""
    spec = importlib.util.spec_from_file_location("house", ROOT / "tests" / "test_house.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lines_and_imports(house) -> tuple[dict[str, int], dict[str, set[str]]]:
    """Room -> its lines of Python; room -> the rooms that it imports."""
    lines: dict[str, int] = defaultdict(int)
    imports: dict[str, set[str]] = defaultdict(set)
    for path in house.FILES:
        if path == house.PACKAGE / "__init__.py":  # the public functions, each lazily
            continue
        own = house.room(path)
        lines[own] += len(path.read_text().splitlines())
        imports[own] |= {house.room(used) for used in house.files_used(path)} - {own}
    return lines, imports


def below(room: str, imports: dict[str, set[str]]) -> set[str]:
    """All rooms that a room needs, directly or not."""
    found = set(imports[room])
    for other in imports[room]:
        found |= below(other, imports)
    return found


def needed(imports: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The arrows without those that a way over other rooms makes superfluous."""
    arrows = []
    for room in list(imports):
        for other in sorted(imports[room]):
            others = imports[room] - {other}
            if not any(other in below(way, imports) for way in others):
                arrows.append((room, other))
    return arrows


class Picture:
    """Boxes, and arrows that pass between them."""

    def __init__(self, rows, lines):
        self.floor = {room: number for number, row in enumerate(rows) for room in row}
        self.rows, self.lines = rows, lines
        self.taken: dict[int, list[float]] = defaultdict(list)  # floor -> x of arrows passing it

    def box(self, room: str) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        middle, words = ROOMS[room]
        half = max(104 + 0.055 * self.lines[room], 24 + 6.1 * len(words)) / 2
        top = TOP + FLOOR * self.floor[room]
        return middle - half, top, middle + half, top + HEIGHT

    def free(self, floor: int, x: float) -> float:
        """The place nearest to x where an arrow passes a floor beside boxes and other arrows."""
        boxes = [self.box(room) for room in self.rows[floor]]

        def clear(place: float) -> bool:
            beside = all(not left - GAP < place < right + GAP for left, _, right, _ in boxes)
            return beside and all(abs(place - other) >= GAP for other in self.taken[floor])

        return min(filter(clear, map(float, range(10, 830))), key=lambda place: abs(place - x))

    def arrow(self, start: str, end: str, leaves: float, arrives: float) -> str:
        """A smooth line from the foot of a box, past the floors between, to the head of another."""
        x, y = leaves, self.box(start)[3]
        path = [f"M{x:.0f},{y:.0f}"]
        first, last = self.floor[start], self.floor[end]
        for floor in range(first + 1, last + 1):
            top = TOP + FLOOR * floor
            aim = x + (arrives - x) / (last - floor + 1)
            place = arrives if floor == last else self.free(floor, aim)
            foot = top - 5 if floor == last else top
            middle = (y + foot) / 2
            path.append(f"C{x:.0f},{middle:.0f} {place:.0f},{middle:.0f} {place:.0f},{foot:.0f}")
            if floor < last:
                self.taken[floor].append(place)
                path.append(f"V{top + HEIGHT:.0f}")
            x, y = place, top + HEIGHT
        return f'<path d="{" ".join(path)}" class="arrow" marker-end="url(#head)"/>'

    def arrows(self, pairs: list[tuple[str, str]]) -> list[str]:
        """Each box gives and takes its arrows from left to right, so that fewer cross."""

        def ends(room: str, others: list[str]) -> dict[str, float]:
            left, _, right, _ = self.box(room)
            others = sorted(others, key=lambda other: ROOMS[other][0])
            step = min((right - left) / (len(others) + 1), 40)
            start = (left + right - step * (len(others) - 1)) / 2
            return {other: start + step * number for number, other in enumerate(others)}

        leave = {room: ends(room, [b for a, b in pairs if a == room]) for room in ROOMS}
        reach = {room: ends(room, [a for a, b in pairs if b == room]) for room in ROOMS}
        short_first = sorted(pairs, key=lambda pair: self.floor[pair[1]] - self.floor[pair[0]])
        return [self.arrow(a, b, leave[a][b], reach[b][a]) for a, b in short_first]

    def room(self, room: str) -> str:
        """A box with its name, its lines, what it is for, and its place in the way of a run."""
        left, top, right, bottom = self.box(room)
        middle, words = ROOMS[room]
        steps = [number for number, (own, *_) in enumerate(RUN, 1) if own == room]
        kind = "box way" if steps else "box"
        parts = [
            f'<rect x="{left:.0f}" y="{top}" width="{right - left:.0f}" height="{HEIGHT}" rx="7" '
            f'class="{kind}"/>',
            f'<text x="{middle}" y="{top + 20}" class="name">{escape(room)}'
            f'<tspan class="lines" dx="7">{self.lines[room]:,}</tspan></text>',
            f'<text x="{middle}" y="{top + 37}" class="words">{escape(words)}</text>',
        ]
        parts += [badge(left + 2, top + 3, number) for number in steps]
        return "\n".join(parts)


def badge(x: float, y: float, number: int) -> str:
    return (
        f'<circle cx="{x:.0f}" cy="{y:.0f}" r="11" class="badge"/>'
        f'<text x="{x:.0f}" y="{y + 4.5:.1f}" class="number">{number}</text>'
    )


def way(height: int) -> list[str]:
    """The column on the right: one run, step by step."""
    left, step = 880, (height - TOP - 60) / (len(RUN) - 1)
    feet = TOP + 20 + step * (len(RUN) - 1)
    parts = [f'<path d="M{left},{TOP + 20} V{feet:.0f}" class="thread"/>']
    for number, (_, file, words) in enumerate(RUN, 1):
        y = TOP + 20 + step * (number - 1)
        parts.append(badge(left, y, number))
        parts.append(f'<text x="{left + 24}" y="{y - 1:.0f}" class="file">{escape(file)}</text>')
        parts.append(f'<text x="{left + 24}" y="{y + 16:.0f}" class="step">{escape(words)}</text>')
    return parts


STYLE = f"""
text {{ font-family: Helvetica, Arial, "DejaVu Sans", sans-serif; fill: {INK}; }}
.title {{ font-size: 19px; font-weight: bold; }}
.note, .words, .step {{ font-size: 12px; fill: #4a4f57; }}
.name {{ font-size: 15px; font-weight: bold; text-anchor: middle; }}
.lines {{ font-size: 11px; font-weight: normal; fill: #4a4f57; }}
.words {{ text-anchor: middle; }}
.file {{ font-size: 14px; font-weight: bold; }}
.box {{ fill: #f3f4f6; stroke: {GREY}; stroke-width: 1.2; }}
.way {{ fill: #fdeee3; stroke: {ORANGE}; stroke-width: 2; }}
.arrow {{ fill: none; stroke: {BLUE}; stroke-width: 1.6; }}
.badge {{ fill: {ORANGE}; stroke: white; stroke-width: 1.5; }}
.number {{ font-size: 12px; font-weight: bold; fill: white; text-anchor: middle; }}
.thread {{ fill: none; stroke: {ORANGE}; stroke-width: 3; }}
.floor {{ stroke: #e3e5e9; stroke-width: 1; }}
"""


def picture() -> str:
    """The SVG."""
    own = house()
    lines, imports = lines_and_imports(own)
    for _, files, _ in RUN:
        missing = [file for file in files.split(", ") if not (own.PACKAGE / file).exists()]
        assert not missing, f"RUN names files that are not there: {missing}"
    drawn = Picture(own.ROWS, lines)
    pairs = needed(imports)
    height = TOP + FLOOR * len(own.ROWS) + 4
    count = sum(map(len, imports.values()))
    heading = f"{len(lines)} rooms on {len(own.ROWS)} floors; every import leads down"
    note = f"{len(pairs)} of {count} arrows: one is left out where others lead to the same room. "
    note += "The wider the more lines of Python (the number)."
    floors = range(TOP + HEIGHT + (FLOOR - HEIGHT) // 2, height - FLOOR // 2, FLOOR)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-label="The rooms of trainlab and the way of one run">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="6.5" '
        f'markerHeight="6.5" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{BLUE}"/></marker>'
        "</defs>",
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="20" y="34" class="title">{heading}</text>',
        f'<text x="20" y="56" class="note">{note}</text>',
        '<text x="868" y="34" class="title">The way of one run</text>',
        '<text x="868" y="56" class="note">from what was typed to what is kept</text>',
        *(f'<path d="M20,{y} H826" class="floor"/>' for y in floors),
        *drawn.arrows(pairs),
        *(drawn.room(room) for row in own.ROWS for room in row),
        *way(height),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(picture())
    print(PAGE)
