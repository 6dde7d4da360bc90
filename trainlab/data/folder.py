"""A folder of images with one subfolder per class. Named by conf/data/.

What torchvision's ImageFolder does silently (hidden folders as classes, circular links, classes
numbered separately in every split) is an error or a notice here that names the file.
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
    """The images of a folder: file, class and split ("" without splits) of each."""

    classes: tuple[str, ...] = ()
    files: list[File] = field(default_factory=list)
    y: list[int] = field(default_factory=list)
    part: list[str] = field(default_factory=list)
    remarks: dict[str, list[Path]] = field(default_factory=dict)  # what is unusual -> files

    def note(self, what: str, path: Path) -> None:
        self.remarks.setdefault(what, []).append(path)

    def notices(self) -> list[str]:
        """One line for each kind of remark, however many files it has."""
        return [
            f"{paths[0]}: {what}" + f" (and {len(paths) - 1:,} more)" * (len(paths) > 1)
            for what, paths in self.remarks.items()
        ]


def image_folder(
    root: str | None = None,
    size: int | None = None,
    memory_limit: int = 4096,
    workers: int = 0,
    split_seed: int = 0,
) -> Splits:
    """root/CLASS/*.jpg, split 70 / 10 / 20 %; or root/{train,val,test}/CLASS/*.jpg, where a tenth
    of train is validation if there is no val. Classes in alphabetical order; grey or colour, 0 to
    255.

    Decoded once into a file under $TRAINLAB_CACHE or ~/.cache/trainlab/images. `size`: resize
    the shorter side to it and crop the centre; null: all images must have the same size. Above
    `memory_limit` MiB images are read from that file batch by batch, by `workers` processes (0: the
    training process). Raises DataError with the file's name for anything that is not an image.
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
    facts = {"max_value": 255.0, "name": "image_folder", "keeps": FOR_IMAGES}
    facts["notices"] = (*found.notices(), *notices)
    if not any(found.part):
        return split_three_ways(whole, found.classes, split_seed, **facts)
    where = {name: [i for i, part in enumerate(found.part) if part == name] for name in PARTS}
    parts = {name: whole.take(torch.tensor(where[name])) for name in where if where[name]}
    if "test" not in parts:
        raise DataError(f"{Path(root) / 'test'}: no such folder beside train; add it, or put the "
                        f"class folders directly into {root}")  # fmt: skip
    if "val" in parts:
        splits = (parts[name] for name in ("train", "val", "test"))
        return Splits(*splits, found.classes, **facts)
    tenth = max(len(parts["train"]) // 10, 1)
    return split_off_validation(
        parts["train"], parts["test"], found.classes, split_seed, tenth, **facts
    )


def listing(root: Path) -> Listing:
    """Every image below `root`, sorted by split, class and name. Opens none of them."""
    if not root.is_dir():
        what = "is a file, not a folder" if root.exists() else "no such folder"
        raise DataError(f"data.root = {root}: {what}; give a folder with one subfolder per class")
    found = Listing()
    top = dict(_folders(root, root, found))
    if "train" not in top:
        if not set(top) - set(PARTS) and top:
            raise DataError(f"{root / 'train'}: no such folder beside {', '.join(top)}; add it")
        found.classes = _classes(root, top, "", found)
        return found
    if strange := [name for name in top if name not in PARTS]:
        raise DataError(
            f"{top[strange[0]]}: a folder beside train; move it into a split, or delete it"
        )
    for name in sorted(top, key=lambda name: list(PARTS).index(name)):
        inside = dict(_folders(top[name], root, found))
        classes = _classes(top[name], inside, PARTS[name], found)
        found.classes = found.classes or classes
        if odd := sorted(set(classes) ^ set(found.classes)):
            lacking = top[name] if odd[0] in found.classes else top["train"]
            raise DataError(
                f"{lacking / odd[0]}: no such folder, but another split has class {odd[0]}; every "
                f"split needs every class, or class numbers would differ"
            )
    return found


def _folders(place: Path, root: Path, found: Listing) -> Iterator[tuple[str, Path]]:
    """Name and path of the folders in `place`; hidden ones and files are skipped with a remark."""
    paths = {os.path.realpath(place): place}
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
            raise DataError(f"{path}: a link back to {real}, an endless loop; remove it")
        if real in paths:
            raise DataError(f"{path}: the same folder as {paths[real]}, so its images would count "
                            f"twice; remove the link")  # fmt: skip
        paths[real] = path
        yield entry.name, path
    if len(paths) == 1:
        raise DataError(
            f"{place}: has {len(files)} files and no class folders; make one folder per class"
        )
    for path in files:
        found.note("not in a class folder, skipped", path)


def _classes(place: Path, folders: dict[str, Path], part: str, found: Listing) -> tuple[str, ...]:
    """Add the images of these class folders to `found`; returns the class names."""
    names = tuple(sorted(folders))
    if len(names) == 1:
        raise DataError(f"{folders[names[0]]}: the only class in {place}; two or more are needed")
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
    """The image files directly in one class folder."""
    stems = {}
    for entry in _entries(folder):
        path = folder / entry.name
        if _hidden(path, found):
            continue
        if os.path.isdir(path):
            raise DataError(f"{path}: a folder inside a class; put images directly in {folder}")
        if not os.path.isfile(path):
            raise DataError(f"{path}: a broken link; repair or remove it")
        if path.suffix.lower() not in SUFFIXES:
            found.note("not an image by its name, skipped", path)
            continue
        if path.stem in stems:
            found.note(
                f"perhaps the same image as the {stems[path.stem]} beside it; both used", path
            )
        stems[path.stem] = path.suffix
        stat = os.stat(path)
        if stat.st_size == 0:
            raise DataError(f"{path}: an empty file (0 bytes); replace or remove it")
        yield File(path, f"{inside}/{entry.name}", stat.st_size, stat.st_mtime_ns)


def _entries(folder: Path) -> list[os.DirEntry]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be read ({error.strerror}); fix its permissions"
        ) from error


def _hidden(path: Path, found: Listing) -> bool:
    hidden = path.name.startswith(".") or path.name == "__MACOSX"
    if hidden:
        found.note("hidden, skipped", path)
    return hidden
