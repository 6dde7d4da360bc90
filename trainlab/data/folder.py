"""A folder of images, one folder a class. Named by conf/data/.

What torchvision's ImageFolder does silently (hidden folders as classes, links followed in circles,
classes counted anew in every split) is an error or a notice here, and names the file.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from trainlab.data.image_cache import File, decode_all
from trainlab.data.memory_map import Rows
from trainlab.data.splits import FOR_IMAGES, Split, Splits, split_off_validation, split_three_ways
from trainlab.errors import DataError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}
PARTS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass
class Listing:
    """Every image of a folder: its file, its class, its split ("" where there are none)."""

    classes: tuple[str, ...] = ()
    files: list[File] = field(default_factory=list)
    y: list[int] = field(default_factory=list)
    part: list[str] = field(default_factory=list)
    odd: dict[str, list[Path]] = field(default_factory=dict)  # what is wrong -> files

    def note(self, what: str, path: Path) -> None:
        self.odd.setdefault(what, []).append(path)

    def notices(self) -> list[str]:
        """One line a kind, however many files there are."""
        return [
            f"{paths[0]}: {what}" + f" (and {len(paths) - 1:,} more)" * (len(paths) > 1)
            for what, paths in self.odd.items()
        ]


def image_folder(
    root: str | None = None,
    size: int | None = None,
    memory_limit: int = 4096,
    workers: int = 0,
    split_seed: int = 0,
) -> Splits:
    """root/CLASS/*.jpg, dealt out as 70 / 10 / 20 %; or root/{train,val,test}/CLASS/*.jpg, where
    without val a tenth of train is. Classes in alphabetical order; grey or colour, 0 to 255.

    Decoded once into a file under $TRAINLAB_CACHE or ~/.cache/trainlab/images. `size`: the shorter
    side is resized to it and the centre cut out; null: all images must have one size. Above
    `memory_limit` MiB images are read from that file batch by batch, by `workers` processes (0: the
    training itself). Raises DataError, which names the file, for whatever is not an image.
    """
    if root is None:
        raise DataError("data.root = null: data=image_folder needs a folder; type data.root=DIR")
    found = listing(Path(root).expanduser())
    images, notices = decode_all(Path(root).expanduser(), found.files, size)
    if images.nbytes <= memory_limit * 2**20:
        x = torch.from_numpy(np.array(images))
    else:
        x = Rows(images, torch.arange(len(images)), workers)
    whole = Split(x, torch.tensor(found.y))
    told = {"max_value": 255.0, "name": "image_folder", "keeps": FOR_IMAGES}
    told["notices"] = (*found.notices(), *notices)
    if not any(found.part):
        return split_three_ways(whole, found.classes, split_seed, **told)
    where = {name: [i for i, part in enumerate(found.part) if part == name] for name in PARTS}
    parts = {name: whole.take(torch.tensor(where[name])) for name in where if where[name]}
    if "test" not in parts:
        raise DataError(f"{Path(root) / 'test'}: no such folder beside train; add it, or put the "
                        f"class folders straight into {root}")  # fmt: skip
    if "val" in parts:
        splits = (parts[name] for name in ("train", "val", "test"))
        return Splits(*splits, found.classes, **told)
    tenth = max(len(parts["train"]) // 10, 1)
    return split_off_validation(
        parts["train"], parts["test"], found.classes, split_seed, tenth, **told
    )


def listing(root: Path) -> Listing:
    """Every image below `root`, sorted by split, class and name. Opens none."""
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "no such folder"
        raise DataError(f"data.root = {root}: {what}; give a folder of class folders")
    found = Listing()
    top = dict(_folders(root, root, found))
    if "train" not in top:
        if not set(top) - set(PARTS) and top:
            raise DataError(f"{root / 'train'}: no such folder beside {', '.join(top)}; add it")
        found.classes = _classes(root, top, "", found)
        return found
    if strange := [name for name in top if name not in PARTS]:
        raise DataError(
            f"{top[strange[0]]}: a folder beside train; put it into train, val and test, or away"
        )
    for name in sorted(top, key=lambda name: list(PARTS).index(name)):
        inside = dict(_folders(top[name], root, found))
        classes = _classes(top[name], inside, PARTS[name], found)
        found.classes = found.classes or classes
        if odd := sorted(set(classes) ^ set(found.classes)):
            lacking = top[name] if odd[0] in found.classes else top["train"]
            raise DataError(
                f"{lacking / odd[0]}: no such folder, but another split has class {odd[0]}; every "
                f"split needs every class, or labels would shift"
            )
    return found


def _folders(place: Path, root: Path, found: Listing) -> Iterator[tuple[str, Path]]:
    """Name and path of the folders in `place`; hidden ones and files are left out and told."""
    seen = {os.path.realpath(place): place}
    files = []
    for entry in _entries(place):
        path = place / entry.name
        if _hidden(path, found):
            continue
        if not os.path.isdir(path):
            files.append(path)
            continue
        real = os.path.realpath(path)
        if real == "/" or Path(os.path.realpath(root)).is_relative_to(real):
            raise DataError(f"{path}: a link back to {real}, so images would never end; remove it")
        if real in seen:
            raise DataError(f"{path}: the same folder as {seen[real]}, so its images would count "
                            f"twice; remove the link")  # fmt: skip
        seen[real] = path
        yield entry.name, path
    if len(seen) == 1:
        raise DataError(
            f"{place}: no class folders in it, and {len(files)} files; make one for each class"
        )
    for path in files:
        found.note("beside the class folders, left out", path)


def _classes(place: Path, folders: dict[str, Path], part: str, found: Listing) -> tuple[str, ...]:
    """List the images of these class folders; the class names."""
    names = tuple(sorted(folders))
    if len(names) == 1:
        raise DataError(
            f"{folders[names[0]]}: the only class in {place}; there must be two or more"
        )
    for label, name in enumerate(names):
        before = len(found.files)
        for file in _images(folders[name], f"{part}/{name}".lstrip("/"), place, found):
            found.files.append(file)
            found.y.append(label)
            found.part.append(part)
        if len(found.files) == before:
            raise DataError(f"{folders[name]}: no image in it; add some, or remove the folder")
    return names


def _images(folder: Path, inside: str, place: Path, found: Listing) -> Iterator[File]:
    """The image files straight in one class folder."""
    stems = {}
    for entry in _entries(folder):
        path = folder / entry.name
        if _hidden(path, found):
            continue
        if os.path.isdir(path):
            raise DataError(
                f"{path}: a folder inside a class; images must lie straight in {folder}"
            )
        if not os.path.isfile(path):
            raise DataError(f"{path}: leads to no file; repair the link or remove it")
        if path.suffix.lower() not in SUFFIXES:
            found.note("not an image by its name, left out", path)
            continue
        if path.stem in stems:
            found.note(
                f"perhaps the same image as the {stems[path.stem]} beside it; both used", path
            )
        stems[path.stem] = path.suffix
        about = os.stat(path)
        if about.st_size == 0:
            raise DataError(f"{path}: an empty file (0 bytes); replace or remove it")
        yield File(path, f"{inside}/{entry.name}", about.st_size, about.st_mtime_ns)


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); mend its rights") from error


def _hidden(path: Path, found: Listing) -> bool:
    hidden = path.name.startswith(".") or path.name == "__MACOSX"
    if hidden:
        found.note("hidden, left out", path)
    return hidden
