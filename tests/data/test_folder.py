"""A folder of images: decoded once, streamed bit for bit, and what is wrong is named."""

import os
import struct
import zlib

import numpy as np
import pytest
import torch

import trainlab
from trainlab.data import folder, image_cache
from trainlab.data.batches import Batches, Shuffled
from trainlab.data.folder import image_folder
from trainlab.data.memory_map import Rows
from trainlab.data.options import apply_options
from trainlab.data.preprocess import standardize
from trainlab.data.whitening import zca
from trainlab.errors import DataError

Image = pytest.importorskip("PIL.Image")
RANDOM = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    where = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("TRAINLAB_CACHE", str(where))
    return where


def picture(size=(6, 4), mode="RGB"):
    """Of (width, height), in any mode of Pillow."""
    pixels = RANDOM.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def build(root, classes=("ant", "bee"), n=10, mode="RGB", end="png"):
    """root/CLASS/NN.png; the pixels by name."""
    for name in classes:
        (root / name).mkdir(parents=True)
        for k in range(n):
            picture(mode=mode).save(root / name / f"{k:02d}.{end}")
    return root


def refused(root, message, **keys):
    with pytest.raises(DataError, match=message) as caught:
        image_folder(str(root), **keys)
    assert "\n" not in str(caught.value)


def pixels(path):
    return torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).permute(2, 0, 1)


@pytest.mark.parametrize("limit", [4096, 0])
def test_every_image_has_its_pixels_and_its_label(tmp_path, limit):
    root = build(tmp_path / "images", n=20)
    data = image_folder(str(root), memory_limit=limit)
    assert [len(part) for part in data.parts().values()] == [28, 4, 8]
    assert data.shape == (3, 4, 6) and data.classes == ("ant", "bee")
    assert isinstance(data.train.x, Rows) == (limit == 0)
    seen = {}
    for part in data.parts().values():
        x = torch.cat(list(part.x.split(3)))
        seen |= {
            image.numpy().tobytes(): int(label) for image, label in zip(x, part.y, strict=True)
        }
    expected = {
        pixels(path).contiguous().numpy().tobytes(): label
        for label, name in enumerate(data.classes)
        for path in (root / name).iterdir()
    }
    assert seen == expected


@pytest.mark.parametrize("val", [None, "val", "valid"])
def test_splits_by_folder(tmp_path, val):
    for part, n in (("train", 20), ("test", 3), *([(val, 4)] if val else [])):
        build(tmp_path / part, n=n)
    data = image_folder(str(tmp_path))
    expected = [40, 8, 6] if val else [36, 4, 6]
    assert [len(part) for part in data.parts().values()] == expected
    for k in range(3):
        assert torch.equal(data.test.x[k], pixels(tmp_path / "test" / "ant" / f"{k:02d}.png"))


def test_a_second_run_decodes_nothing_and_a_change_everything(tmp_path, cache):
    root = build(tmp_path / "images")
    before = image_cache.decodes
    first = image_folder(str(root))
    assert image_cache.decodes == before + 20
    assert any("20 images decoded in" in notice for notice in first.notices)
    again = image_folder(str(root))
    streamed = image_folder(str(root), memory_limit=0)
    for data in (again, streamed):
        batches = Batches(data.train, standardize(data.train.x, 255.0), 4, Shuffled(14, 0))
        for step in range(2 * batches.per_epoch):
            batches(step)
    assert image_cache.decodes == before + 20
    assert again.digest() == first.digest() == streamed.digest()
    assert again.notices == ()
    assert len(list(cache.iterdir())) == 2
    os.utime(root / "ant" / "03.png", ns=(1, 1))
    image_folder(str(root))
    assert image_cache.decodes == before + 40
    image_folder(str(root), size=4)
    assert image_cache.decodes == before + 60


@pytest.mark.parametrize("workers", [0, 1])
def test_the_stream_gives_the_same_batches_in_the_same_order(tmp_path, workers):
    root = str(build(tmp_path / "images", n=40))
    memory, disk = image_folder(root), image_folder(root, memory_limit=0, workers=workers)
    assert all(map(torch.equal, standardize(memory.train.x, 255.0).state().values(),
                   standardize(disk.train.x, 255.0).state().values()))  # fmt: skip
    fitted = standardize(memory.train.x, 255.0)
    state = torch.get_rng_state()
    one, two = (
        Batches(data.train, fitted, 9, Shuffled(len(data.train), 3)) for data in (memory, disk)
    )
    assert one.per_epoch == two.per_epoch == 7
    for step in (*range(10), 5, 6, 20, 3, 4, 4, 13, 14):  # on, back, into other epochs, twice
        assert all(map(torch.equal, one(step), two(step))), step
    resumed = Batches(disk.train, fitted, 9, Shuffled(len(disk.train), 3))
    assert all(map(torch.equal, one(11), resumed(11)))
    one, two = (Batches.in_order(data.val, fitted, 3) for data in (memory, disk))
    for step in range(one.per_epoch):
        assert all(map(torch.equal, one(step), two(step)))
    assert torch.equal(torch.get_rng_state(), state)


def test_options_and_matrices_on_the_disk(tmp_path):
    root = str(build(tmp_path / "images", ("ant", "bee", "cat"), n=80))
    asked = {"classes": ["ant", "cat"], "fold": 1, "train_size": 90, "label_noise": 0.1}
    memory, disk = (apply_options(image_folder(root, memory_limit=m), 0, **asked) for m in (64, 0))
    assert isinstance(disk.train.x, Rows)
    assert memory.digest() == disk.digest()
    assert torch.equal(memory.train.x[3:5], disk.train.x[3:5])
    for a, b in zip(zca(memory.train.x, 255.0).state().values(),
                    zca(disk.train.x, 255.0).state().values(), strict=True):  # fmt: skip
        assert torch.equal(a, b)


WORDS = ["data=image_folder", "model.widths=[8]", "batch_size=8", "quiet=true", "preflight=none",
         "probe=none"]  # fmt: skip


def test_a_run_by_either_path_ends_in_the_same_weights(tmp_path):
    root = build(tmp_path / "images", n=20)
    words = [*WORDS, f"data.root={root}", "max_steps=12"]
    runs = [
        trainlab.run(*words, f"data.memory_limit={limit}", f"hydra.run.dir={tmp_path}/{limit}")
        for limit in (4096, 0)
    ]
    assert runs[0]["weights_sha256"] == runs[1]["weights_sha256"]
    assert runs[0]["results"] == runs[1]["results"]


def test_a_streamed_run_resumes_in_mid_epoch(tmp_path):
    root = build(tmp_path / "images", n=20)
    words = [*WORDS, f"data.root={root}", "data.memory_limit=0", "schedule=constant"]
    whole = trainlab.run(*words, "max_steps=9", f"hydra.run.dir={tmp_path}/whole")
    trainlab.run(*words, "max_steps=5", f"hydra.run.dir={tmp_path}/parts")
    parts = trainlab.run(f"resume={tmp_path}/parts", "max_steps=9")
    assert parts["resumes"] == 1
    assert parts["weights_sha256"] == whole["weights_sha256"]


def test_sizes_that_differ(tmp_path):
    root = build(tmp_path / "images")
    picture((9, 5)).save(root / "bee" / "03.png")
    refused(root, r"bee/03.png: 9x5 pixels, but .*ant/00.png has 6x4; type data.size=4")
    data = image_folder(str(root), size=4)
    assert data.shape == (3, 4, 4)
    path = root / "ant" / "00.png"  # 6x4: the middle four columns
    parts = torch.cat([part.x for part in data.parts().values()])
    assert (parts == pixels(path)[:, :, 1:5]).flatten(1).all(1).any()


def test_grey_images_have_one_channel(tmp_path):
    root = build(tmp_path / "images", mode="L")
    assert image_folder(str(root)).shape == (1, 4, 6)
    picture().save(root / "bee" / "04.png")
    data = image_folder(str(root))
    assert data.shape == (3, 4, 6)
    assert any("grey among colour, as 19 of 20" in text for text in data.notices)


def test_an_image_lying_on_its_side_is_put_upright(tmp_path):
    root = build(tmp_path / "images", end="jpg")
    image = picture((4, 6))
    exif = image.getexif()
    exif[0x0112] = 6  # turn by 90 degrees
    image.save(root / "bee" / "02.jpg", exif=exif)
    assert image_folder(str(root)).shape == (3, 4, 6)


def png16(path):
    """A 16-bit colour PNG, which Pillow does not write but reads as 8-bit without a word."""

    def chunk(kind, data):
        return (struct.pack(">I", len(data)) + kind + data
                + struct.pack(">I", zlib.crc32(kind + data)))  # fmt: skip

    rows = b"".join(b"\0" + bytes(6 * 6) for _ in range(4))
    head = struct.pack(">IIBBBBB", 6, 4, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def animated(path):
    picture().save(path, save_all=True, append_images=[picture(), picture()])


def truncated(path):
    picture((64, 48)).save(path)
    path.write_bytes(path.read_bytes()[:-200])


def clear(path):
    image = picture(mode="RGBA")
    image.putpixel((0, 0), (1, 2, 3, 0))
    image.save(path)


BAD_FILES = {
    "16-bit grey": ("04.tif", lambda p: Image.new("I;16", (6, 4)).save(p), "more than 8 bits"),
    "16-bit colour": ("04.png", png16, "more than 8 bits"),
    "float": ("04.tif", lambda p: Image.new("F", (6, 4)).save(p), "more than 8 bits"),
    "animated": ("04.gif", animated, "3 frames"),
    "truncated": ("04.jpg", truncated, "cannot be decoded .*truncated"),
    "text": ("04.jpg", lambda p: p.write_text("no image"), "cannot be decoded .cannot identify"),
    "empty": ("04.jpg", lambda p: p.write_bytes(b""), "an empty file .0 bytes."),
    "transparent": ("04.png", clear, "has transparent pixels"),
    "broken link": ("04.jpg", lambda p: p.symlink_to("nowhere"), "a broken link"),
    "link to itself": ("04.jpg", lambda p: p.symlink_to(p), "a broken link"),
    "nested folder": ("04", lambda p: p.mkdir(), "a folder inside a class"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_file_is_named(tmp_path, cache, kind):
    name, make, message = BAD_FILES[kind]
    root = build(tmp_path / "images")
    make(root / "bee" / name)
    refused(root, f"images/bee/{name}: .*{message}" if message else name)
    assert list(cache.iterdir()) == []


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    root = build(tmp_path / "images")
    opened = Image.open

    def guarded(path, *args):
        if str(path).endswith("bee/04.png"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *args)

    monkeypatch.setattr(Image, "open", guarded)
    refused(root, "bee/04.png: cannot be decoded .Permission denied.")

    def closed(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder.os, "scandir", closed)
    refused(root, f"{root}: cannot be read .Permission denied.")


TOLD_FILES = {
    "palette": ("04b.png", lambda p: picture(mode="P").save(p), "palette colours converted"),
    "cmyk": ("04b.jpg", lambda p: picture(mode="CMYK").save(p), "converted from CMYK to RGB"),
    "alpha": ("04b.png", lambda p: picture(mode="RGBA").save(p), "opaque alpha channel dropped"),
    "same stem": ("04.tif", lambda p: picture().save(p), "perhaps the same image as the .png"),
    "hidden file": (".04.png", lambda p: picture().save(p), "hidden, skipped"),
    "other file": ("labels.csv", lambda p: p.write_text("a,b"), "not an image by its name"),
}


@pytest.mark.parametrize("kind", TOLD_FILES)
def test_a_strange_file_is_told(tmp_path, kind):
    name, make, message = TOLD_FILES[kind]
    root = build(tmp_path / "images")
    make(root / "bee" / name)
    for _ in range(2):  # a second run says it too
        (notice,) = (n for n in image_folder(str(root)).notices if "decoded in" not in n)
        assert f"bee/{name}: " in notice and message in notice


def test_many_strange_files_are_one_notice(tmp_path):
    root = build(tmp_path / "images")
    for name in ("ant", "bee"):
        (root / name / ".DS_Store").write_bytes(b"x")
    (root / "README").write_text("hello")
    notices = [n for n in image_folder(str(root)).notices if "decoded in" not in n]
    assert sorted(notices) == [
        f"{root}/README: not in a class folder, skipped",
        f"{root}/ant/.DS_Store: hidden, skipped (and 1 more)",
    ]


def test_a_hidden_folder_is_no_class(tmp_path):
    root = build(tmp_path / "images", ("ant", "bee", ".git", "__MACOSX"))
    data = image_folder(str(root))
    assert data.classes == ("ant", "bee")
    assert any(".git: hidden, skipped (and 1 more)" in notice for notice in data.notices)


BAD_FOLDERS = {
    "missing": (lambda r: None, "no such folder; give"),
    "a file": (lambda r: r.write_text("x"), "is a file, not a folder"),
    "nothing in it": (lambda r: r.mkdir(), "has 0 files and no class folders"),
    "images without classes": (
        lambda r: (r.mkdir(), picture().save(r / "a.png")),
        "has 1 files and no class",
    ),
    "one class": (lambda r: build(r, ("ant",)), "images/ant: the only class"),
    "an empty class": (lambda r: (build(r), (r / "cat").mkdir()), "images/cat: no image in it"),
    "a link upwards": (lambda r: (build(r), (r / "up").symlink_to(r)), "images/up: a link back"),
    "the same class twice": (
        lambda r: (build(r), (r / "wasp").symlink_to(r / "bee")),
        "images/wasp: the same folder as .*bee",
    ),
    "a class missing from test": (
        lambda r: (build(r / "train", ("a", "b", "c")), build(r / "test", ("a", "c"))),
        "images/test/b: no such folder, but another split has class b",
    ),
    "a class of test alone": (
        lambda r: (build(r / "train"), build(r / "test", ("ant", "bee", "cow"))),
        "images/train/cow: no such folder",
    ),
    "no test": (lambda r: build(r / "train"), "images/test: no such folder beside train"),
    "no train": (lambda r: (build(r / "test"), build(r / "val")), "images/train: no such folder"),
    "strange split": (
        lambda r: (build(r / "train"), build(r / "test"), build(r / "more")),
        "images/more: a folder beside train",
    ),
}


@pytest.mark.parametrize("kind", BAD_FOLDERS)
def test_a_bad_folder_is_named(tmp_path, kind):
    make, message = BAD_FOLDERS[kind]
    make(tmp_path / "images")
    refused(tmp_path / "images", message)


def test_no_folder_asked_for():
    with pytest.raises(DataError, match="data.root = null: data=image_folder needs a folder"):
        image_folder()


def test_a_build_that_stops_leaves_nothing_behind(tmp_path, cache, monkeypatch):
    root = build(tmp_path / "images")

    def full(*args):
        raise OSError(28, "No space")

    monkeypatch.setattr(image_cache.atomic, "replace", full)
    with pytest.raises(trainlab.errors.MachineError, match="cannot write .No space"):
        image_folder(str(root))
    assert list(cache.iterdir()) == []


def test_a_damaged_cache_is_told(tmp_path, cache):
    root = build(tmp_path / "images")
    image_folder(str(root))
    (path,) = cache.glob("*.npy")
    path.write_bytes(path.read_bytes()[:-5])
    refused(root, f"{path.name}: damaged .*delete it")
