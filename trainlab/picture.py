"""Small pictures for TensorBoard."""

import io
from collections.abc import Sequence

WIDTH, HEIGHT, MARGIN = 480, 200, 24  # pixels


def curve(title: str, values: Sequence[float]) -> bytes:
    """A line through equally spaced finite values, with their largest and smallest beside it, as
    PNG."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    low, high = min(values), max(values)
    across = (WIDTH - 2 * MARGIN) / max(len(values) - 1, 1)
    up = (HEIGHT - 2 * MARGIN) / ((high - low) or 1.0)
    points = [
        (MARGIN + across * i, HEIGHT - MARGIN - up * (value - low))
        for i, value in enumerate(values)
    ]
    draw.rectangle((MARGIN, MARGIN, WIDTH - MARGIN, HEIGHT - MARGIN), outline="lightgrey")
    draw.line(points, fill="#f57c00", width=2)
    draw.text((MARGIN, 4), f"{title}: {low:.3g} to {high:.3g}", fill="black")
    draw.text((MARGIN, HEIGHT - 18), "start", fill="black")
    draw.text((WIDTH - MARGIN - 20, HEIGHT - 18), "end", fill="black")
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()
