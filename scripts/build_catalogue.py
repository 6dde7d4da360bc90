"""Writes docs/catalogue.md: every word of conf/, its source, its keys, and whether it stacks.

    python scripts/build_catalogue.py

Whether a word stacks is tried: two runs of different seeds are stacked and must equal the two
alone after STEPS steps in float64 (tests/test_catalogue.py keeps this true).
"""

import tempfile
from pathlib import Path

import numpy as np
import torch

from trainlab.cli import compose
from trainlab.config import keys, words
from trainlab.config.build import Door
from trainlab.errors import TrainlabError
from trainlab.experiment import phases
from trainlab.stack import Stack
from trainlab.training.randomness import seed_everything
from trainlab.training.trainer import Trainer

PAGE = Path(__file__).resolve().parents[1] / "docs" / "catalogue.md"
GROUPS = (
    "activation", "init", "norm", "preprocess", "augment", "data", "model", "loss", "optim",
    "schedule",
)  # fmt: skip
OTHERS = ("preflight", "check", "rule", "probe", "metric", "task", "experiment", "fault")
STEPS = 5
# what a word needs beside itself
NEEDS = {("norm", "instance"): ["model=cnn"], ("loss", "squared_hinge"): ["optim.lr=0.005"]}
PLAIN = ["preflight=none", "probe=none", "device=cpu", "batch_size=16", "schedule=constant",
         "model.widths=[32,16]", "groups.decay_all=true"]  # fmt: skip


def folder_of_images() -> Path:
    """A folder with 80 random 3x32x32 images of four classes, in images.npz and in CLASS/N.png."""
    from PIL import Image

    folder = Path(tempfile.mkdtemp())
    y = np.arange(80) % 4
    noise = np.random.default_rng(0).integers(0, 64, (80, 3, 32, 32))
    x = (noise + 40 * y[:, None, None, None]).astype(np.uint8)
    np.savez(folder / "images.npz", x=x, y=y)
    for number, (image, label) in enumerate(zip(x, y, strict=True)):
        path = folder / "png" / f"class{label}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    return folder


def bench_of(*overrides: str) -> phases.Bench:
    """The data and the recipe of a command line, without a run."""
    from omegaconf import OmegaConf

    with compose.hydra_session() as hydra:
        cfg = compose.check(hydra, list(overrides)).cfg
    return phases.prepare(
        OmegaConf.masked_copy(cfg, [key for key in cfg if key != "hydra"]), Door()
    )


def overrides_of(group: str, word: str, images: Path) -> list[str]:
    """The command line on which a word is tried."""
    typed = {line.partition("=")[0]: line for line in PLAIN}
    typed[group] = f"{group}={word}"
    for line in NEEDS.get((group, word), ()):
        typed[line.partition("=")[0]] = line
    if group == "model" or "model" in typed:
        del typed["model.widths"]
    if group == "model" and word not in ("linear", "torchvision"):
        typed["norm"] = "norm=batch"  # deep ones do not train without
    if (group == "model" and word not in ("mlp", "linear", "residual_mlp")) or group == "augment":
        typed |= {"data": "data=npz", "data.root": f"data.root={images}/images.npz"}
    if word == "npz":
        typed["data.root"] = f"data.root={images}/images.npz"
    if word == "image_folder":
        typed["data.root"] = f"data.root={images}/png"
    return list(typed.values())


def in_double(bench: phases.Bench, seed: int) -> Trainer:
    """A fresh Trainer of another seed, in float64, on the batches of seed 0."""
    bench.cfg.seed = seed
    trainer = bench.fresh()
    bench.cfg.seed = 0
    trainer.change(batches=bench.fresh().batches, steps=STEPS)
    trainer.model.double()
    for batches in (trainer.batches, trainer.validation):
        batches.preprocess = batches.preprocess.to(bench.device, torch.float64)
    return trainer


def stacked(bench: phases.Bench) -> str:
    """Train two seeds in a stack and alone: "" where they are equal, or why they do not stack.

    Raises AssertionError where a stack is accepted and differs.
    """
    try:
        together = Stack([in_double(bench, seed) for seed in (1, 2)], (1, 2)).trainer
    except TrainlabError as error:
        return str(error).partition(";")[0]
    logits = after(together)
    for run, seed in enumerate((1, 2)):
        trainer = in_double(bench, seed)
        seed_everything(seed, "dropout")
        torch.testing.assert_close(logits[run], after(trainer), rtol=0, atol=1e-9)
    return ""


def after(trainer: Trainer) -> torch.Tensor:
    """Logits of the first batch after STEPS steps."""
    for step in range(STEPS):
        trainer.step(*trainer.batches(step))
    return trainer.forward(trainer.batches(0)[0])


def reasons(images: Path) -> dict[tuple[str, str], str]:
    """(group, word) -> "" or why it does not stack."""
    found = {}
    for group in GROUPS:
        for word in words.groups()[group]:
            try:
                found[group, word] = stacked(bench_of(*overrides_of(group, word, images)))
            except TrainlabError as error:  # data that is not here
                found[group, word] = f"not tried: {error.kind}"
    return found


def page(found: dict[tuple[str, str], str]) -> str:
    """The markdown of docs/catalogue.md."""
    lines = [
        "# Catalogue", "",
        "Every word that can be typed, from its file `conf/GROUP/WORD.yaml`; written by",
        "`scripts/build_catalogue.py`. *Stacks*: runs of different seeds and learning rates train",
        "as one and equal themselves alone to 1e-9 in float64; else the reason is given.",
    ]  # fmt: skip
    for group in (*GROUPS, *OTHERS):
        lines += ["", f"## {group}", "", "| word | source | keys | stacks |", "|---|---|---|---|"]
        for word in all_words(group):
            reason = found.get((group, word))
            told = "" if reason is None else reason or "yes"
            lines.append(
                f"| `{word}` | {words.source(group, word)} | {keys_of(group, word)} | {told} |"
            )
    return "\n".join(lines) + "\n"


def all_words(group: str) -> list[str]:
    """Those to choose from, or those that are all in use."""
    return list(words.parts(group)) if group in words.PARTS else words.groups()[group]


def keys_of(group: str, word: str) -> str:
    """`optim.lr=0.1` of a word, without what names its parts."""
    if group in OTHERS:
        return ""
    shown = {k: v for k, v in words.file_values(group, word).items() if "._" not in k}
    return " ".join(f"`{key}={keys.as_typed(value)}`" for key, value in shown.items())


if __name__ == "__main__":
    PAGE.write_text(page(reasons(folder_of_images())))
    print(PAGE)
