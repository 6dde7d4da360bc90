"""Images decoded once into a cache file under the user's cache folder.

The file's name is a digest of the list of images (path, bytes, time of change) and of how they are
decoded, so a changed image leads to a new file. Letters: N images, C channels, H W image.
"""

import contextlib
import hashlib
import json
import os
import secrets
import struct
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from trainlab.errors import DataError
from trainlab.storage import atomic

FORMAT = 1  # of the cache; to be raised when decoding changes
AT_ONCE = 256  # images in memory while decoding
decodes = 0  # images decoded by this process
BROKEN = (OSError, SyntaxError, ValueError, TypeError, IndexError, EOFError, struct.error)


@dataclass(frozen=True)
class File:
    """An image file: its path, its name below the root, its size in bytes, when it changed (ns)."""

    path: Path
    name: str
    size: int
    changed: int


@dataclass(frozen=True)
class Decoded:
    """pixels (H, W, 3) uint8; whether they are grey; which conversion was needed, "" for none."""

    pixels: np.ndarray
    grey: bool
    converted: str


def decode_all(root: Path, files: Sequence[File], size: int | None) -> tuple[np.ndarray, list[str]]:
    """All images as a read-only memory map (N, C, H, W) uint8, in the order of `files`; notices.

    C is 1 if every image is grey, else 3. Raises DataError, which names the file, for one that is
    not a whole 8-bit image of one frame, and for sizes that differ where `size` is null.
    """
    key = [
        FORMAT,
        size,
        os.path.realpath(root),
        [(file.name, file.size, file.changed) for file in files],
    ]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    base = os.environ.get("TRAINLAB_CACHE")
    folder = Path(base) if base else Path("~/.cache/trainlab/images").expanduser()
    cache, beside = folder / f"{name}.npy", folder / f"{name}.json"
    new_notices = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (cache.exists() and beside.exists()):
            begun = time.monotonic()
            notices = _build(files, size, cache)
            atomic.write_json(beside, notices)
            took = time.monotonic() - begun
            new_notices = [f"{root}: {len(files):,} images decoded in {took:.1f} s into {cache}"]
    except OSError as error:
        raise atomic.unwritable(cache, error) from error
    try:
        images = np.load(cache, mmap_mode="r", allow_pickle=False)
        notices = json.loads(beside.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{cache}: damaged ({error}); delete it, and it is rebuilt") from None
    if len(images) != len(files):
        raise DataError(
            f"{cache}: holds {len(images)} of {len(files)} images; delete it, and it is rebuilt"
        )
    return images, new_notices + notices


def _build(files: Sequence[File], size: int | None, cache: Path) -> list[str]:
    """Decode all images and write the cache file, all or nothing. Returns notices."""
    global decodes
    first = decode(files[0].path, size)
    height, width, _ = first.pixels.shape
    shape, greys, converted = (len(files), 3, height, width), [], {}
    with _beside(cache) as path:
        with open(path, "xb") as out:
            _header(out, shape)
            for file, image in _all(files, size, first):
                decodes += 1
                out.write(np.ascontiguousarray(image.pixels.transpose(2, 0, 1)))
                if image.grey:
                    greys.append(file)
                if image.converted:
                    converted.setdefault(image.converted, []).append(file)
            out.flush()
            atomic.fsync(out.fileno())
        if len(greys) == len(files):
            _one_channel(path)
        atomic.replace(path, cache)
    atomic.sync_folder(cache.parent)
    notices = [
        f"{same[0].path}: {what}, as in {len(same):,} of {len(files):,} images"
        for what, same in converted.items()
    ]
    if 0 < len(greys) < len(files):
        notices.append(
            f"{greys[0].path}: grey among colour, as {len(greys):,} of {len(files):,} images; "
            f"stored with three equal channels"
        )
    return notices


def _all(files: Sequence[File], size: int | None, first: Decoded) -> Iterator[tuple[File, Decoded]]:
    """Every image, in order. Raises DataError at the first one that cannot be used."""
    yield files[0], first
    decode_same_size = partial(_decode_same_size, files[0].path, first.pixels.shape, size)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes outside Python's lock
        for start in range(1, len(files), AT_ONCE):
            chunk = files[start : start + AT_ONCE]
            yield from zip(chunk, pool.map(decode_same_size, chunk), strict=True)


def _decode_same_size(first: Path, shape: tuple[int, ...], size: int | None, file: File) -> Decoded:
    image = decode(file.path, size)
    if image.pixels.shape != shape:
        (h, w, _), (h0, w0, _) = image.pixels.shape, shape
        raise DataError(
            f"{file.path}: {w}x{h} pixels, but {first} has {w0}x{h0}; "
            f"type data.size={min(h, w, h0, w0)} to resize and crop all of them"
        )
    return image


def decode(path: Path, size: int | None = None) -> Decoded:
    """One image in RGB, turned upright by its EXIF tag; with `size`, resized and cropped to (size,
    size)."""
    try:
        from PIL import Image, ImageOps
    except ModuleNotFoundError:
        raise DataError(
            "data = image_folder: needs Pillow, which is not installed; pip install pillow"
        ) from None
    try:
        with Image.open(path) as image:
            converted = _conversion(image, path)
            image.load()
            if _alpha(image):
                converted = "opaque alpha channel dropped"
                if image.convert("RGBA").getextrema()[3][0] < 255:
                    raise DataError(
                        f"{path}: has transparent pixels, whose colour is undefined; "
                        f"flatten it onto a background"
                    )
            grey = image.mode in ("1", "L", "LA")
            image = ImageOps.exif_transpose(image).convert("RGB")
            if size is not None:
                image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
            return Decoded(np.asarray(image), grey, converted)
    except (*BROKEN, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or str(error).replace(f"'{path}'", "it")
        raise DataError(f"{path}: cannot be decoded ({reason}); replace or remove it") from None


def _conversion(image: Any, path: Path) -> str:
    """The conversion that an image needs, "" for none, from its header alone. Raises DataError for
    more than 8 bits or more than one frame."""
    # an MPO file of a phone is a picture and its preview
    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        raise DataError(f"{path}: {image.n_frames} frames, expected one; save the one you need")
    # Pillow silently reduces 16-bit colour to 8; only the decoder's arguments show it
    if image.mode[0] in "IF" or any(";16" in str(tile[3]) for tile in image.tile):
        raise DataError(f"{path}: more than 8 bits per channel; save it with 8")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        return f"converted from {image.mode} to RGB"
    return "palette colours converted to RGB" if image.mode == "P" and not _alpha(image) else ""


def _alpha(image: Any) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _header(out: Any, shape: tuple[int, ...]) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, header)


def _one_channel(path: Path) -> None:
    """Rewrite a file of three equal channels with one channel."""
    images = np.load(path, mmap_mode="r")
    with _beside(path) as grey:
        with open(grey, "xb") as out:
            _header(out, (len(images), 1, *images.shape[2:]))
            for start in range(0, len(images), AT_ONCE):
                out.write(np.ascontiguousarray(images[start : start + AT_ONCE, :1]))
            out.flush()
            atomic.fsync(out.fileno())
        atomic.replace(grey, path)


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder; the file is removed unless it was renamed."""
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)
