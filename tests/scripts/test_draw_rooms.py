"""The picture of the rooms: every room of the code is in it, and on the page that is kept."""

import importlib.util
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("draw_rooms", ROOT / "scripts" / "draw_rooms.py")
draw_rooms = importlib.util.module_from_spec(spec)
spec.loader.exec_module(draw_rooms)
SVG = "{http://www.w3.org/2000/svg}"


def names(text):
    """The rooms that a picture names."""
    texts = ElementTree.fromstring(text).iter(f"{SVG}text")
    return {t.text for t in texts if t.get("class") == "name"}


def test_the_picture_has_every_room():
    rooms = {room for row in draw_rooms.house().ROWS for room in row}
    assert names(draw_rooms.picture()) == rooms
    assert names(draw_rooms.PAGE.read_text()) == rooms, "run scripts/draw_rooms.py"


def test_no_box_covers_another_and_no_arrow_a_box():
    """Boxes of a floor lie beside each other; an arrow passes a floor where no box is."""
    house = draw_rooms.house()
    lines, imports = draw_rooms.lines_and_imports(house)
    drawn = draw_rooms.Picture(house.ROWS, lines)
    drawn.arrows(draw_rooms.needed(imports))
    for floor, row in enumerate(house.ROWS):
        boxes = sorted(drawn.box(room) for room in row)
        for one, other in zip(boxes, boxes[1:], strict=False):
            assert one[2] < other[0]
        for x in drawn.taken[floor]:
            assert not any(left < x < right for left, _, right, _ in boxes)


def test_an_arrow_is_left_out_only_where_others_lead_there():
    """Of a -> b -> c the arrow a -> c; nothing else."""
    imports = {"a": {"b", "c"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert draw_rooms.needed(imports) == [("a", "b"), ("b", "c"), ("c", "d")]
