"""The learning-rate range test: raise lr step by step, record the loss, and find the usable band.
Smith 2017, https://arxiv.org/abs/1506.01186. Named by conf/task/.

lr is on a log10 axis, in decades. Letters: S seeds, n steps.
"""

import dataclasses
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from trainlab.config import keys
from trainlab.errors import ConfigError
from trainlab.experiment.phases import Bench, prepare
from trainlab.observe.console import Show
from trainlab.observe.metrics_log import Log
from trainlab.storage import atomic, run_folder
from trainlab.training.randomness import seed_everything

LOOK = 20  # steps between two checks for divergence
AWAY = 4.0  # times the first loss; above it the run has diverged
KERNEL = 0.15  # decades, standard deviation of the Gaussian that smooths the curves
LOST = 0.2  # share of the fall that is lost again where lr becomes too high
MARGIN = 0.3  # decades above that point that are still usable, a factor of two
ABOVE = 0.75  # decades the band reaches above the lowest loss, at most
BELOW = 1.0  # decades the band reaches below the lowest loss, at least
WIDEST = 2.0  # decades, the widest band
SURE = 5.0  # standard errors by which the smoothed loss must fall
LEAST = 0.02  # share of the initial loss by which it must fall
WIDTH, HEIGHT, EDGE = 640, 320, 40  # pixels

Curve = tuple[np.ndarray, np.ndarray]  # log10 lr (n,), loss (n,)


@dataclasses.dataclass(frozen=True)
class Answer:
    """The usable band and the lr to use, or `refusal`: why there is none. lr are values, not
    logs."""

    refusal: str = ""
    low: float | None = None
    lr: float | None = None
    high: float | None = None
    steepest: float | None = None
    start: float | None = None  # smoothed loss, nats for cross-entropy
    lowest: float | None = None
    noise: float | None = None  # standard deviation of one seed's step


def smoothed(axis: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`losses` (..., n) smoothed by a Gaussian kernel on the log axis, (..., n), and sqrt(sum w^2)
    (n,), the error of a smoothed value in units of the error of one loss. The kernel is symmetric,
    so it does not lag as a running average does.
    """
    width = max(KERNEL, 1.5 * (axis[-1] - axis[0]) / max(len(axis) - 1, 1))
    weights = np.exp(-0.5 * ((axis[:, None] - axis) / width) ** 2)
    weights /= weights.sum(1, keepdims=True)
    return losses @ weights.T, np.sqrt((weights**2).sum(1))


def judge(curves: Sequence[Curve]) -> Answer:
    """The usable band from S curves on the same axis, each of which ends where it diverged.

    The median over seeds is smoothed; beyond the end of a curve its loss counts as diverged. The lr
    inside is where the loss is lowest, of the places where every seed has half of the fall. Usable
    is from the lowest of three (where it falls most steeply against log lr, where 80 % of the fall
    is reached, BELOW the lr inside) to the lower of two (MARGIN above where 20 % of the fall is
    lost again, ABOVE the lr inside); of that, the upper WIDEST decades.
    """
    axis = max((curve[0] for curve in curves), key=len)
    if len(axis) < 10:
        return Answer(f"diverges immediately, at lr {10 ** axis[-1]:.2g}; lower task.low")
    most = 2 * _first(curves)
    losses = np.stack([_padded(curve, len(axis), most) for _, curve in curves])  # (S, n)
    by_seed, _ = smoothed(axis, losses)
    mean, error = smoothed(axis, np.median(losses, 0))
    at = int(mean.argmin())
    start, lowest = float(mean[0]), float(mean[at])
    fall = start - lowest
    calm = slice(0, max(at, len(axis) // 4))
    noise = float((losses - by_seed)[:, calm].std())
    measured = Answer(start=start, lowest=lowest, noise=noise)
    sure = SURE * float(np.hypot(error[0], error[at])) * noise / math.sqrt(len(curves))
    if fall < max(sure, LEAST * start):
        return dataclasses.replace(measured, refusal=_why(axis, mean, fall, sure))
    if at == len(axis) - 1:
        text = f"the loss still falls at lr {10 ** axis[-1]:.2g}; raise task.high"
        return dataclasses.replace(measured, refusal=text)
    common = (by_seed < start - fall / 2).all(0)  # where every seed learns
    if not common.any():
        most = int((by_seed < start - fall / 2).sum(0).max())
        text = f"seeds disagree: at every lr at most {most} of {len(curves)} learn"
        return dataclasses.replace(measured, refusal=f"{text}; try another init, or clip.norm=1")
    at = int(np.where(common, mean, np.inf).argmin())

    measured = dataclasses.replace(measured, lowest=float(mean[at]))
    level = measured.lowest + LOST * fall
    steepest = int(np.gradient(mean, axis)[: at + 1].argmin())
    low = min(axis[min(steepest, int(np.argmax(mean < level)))], axis[at] - BELOW)
    lost = np.nonzero(mean[at:] > level)[0]
    high = axis[at + lost[0]] + MARGIN if len(lost) else axis[-1]
    high = min(high, axis[at] + ABOVE, axis[-1])
    low = max(low, high - WIDEST, axis[0])
    band = {"low": low, "lr": axis[at], "high": high, "steepest": axis[steepest]}
    return dataclasses.replace(measured, **{name: float(10**value) for name, value in band.items()})


def _padded(losses: np.ndarray, n: int, most: float) -> np.ndarray:
    """Losses (n,) clipped at `most`, which also fills the end and replaces what is not finite."""
    losses = np.nan_to_num(losses, nan=most, posinf=most, neginf=most)
    return np.concatenate([losses, np.full(n - len(losses), most)]).clip(max=most)


def _first(curves: Sequence[Curve]) -> float:
    """The initial loss: the median over curves of the mean of their first five losses."""
    means = [losses[:5].mean() for _, losses in curves]
    return float(np.median([value for value in means if math.isfinite(value)] or [1.0]))


def _why(axis: np.ndarray, mean: np.ndarray, fall: float, sure: float) -> str:
    """The refusal for a smoothed loss `mean` (n,) that does not fall enough."""
    start, away = float(mean[0]), np.nonzero(mean > 1.5 * mean[0])[0]
    soon = len(away) and axis[away[0]] < axis[0] + 1
    if soon or (fall <= 0 and mean.max() > (1 + LEAST) * start):
        return f"the loss only rises, from lr {10 ** axis[0]:.2g} up; lower task.low"
    if sure > 5 * LEAST * start:
        return (
            f"noise: the loss falls by {fall:.2g}, and noise alone could make {sure:.2g}; "
            "raise batch_size, task.steps or task.seeds"
        )
    more = f", and it diverges at {10 ** axis[away[0]]:.2g}" if len(away) else ""
    return (
        f"flat: no lr from {10 ** axis[0]:.2g} to {10 ** axis[-1]:.2g} lowers the loss of "
        f"{start:.3g} by more than {fall:.2g}{more}; try task=check"
    )


def seeded(bench: Bench, seed: int) -> Bench:
    """The same Bench with another seed."""
    return dataclasses.replace(bench, cfg=OmegaConf.merge(bench.cfg, {"seed": seed}))


def sweep(bench: Bench, low: float, high: float, steps: int) -> Curve:
    """log10 lr, and the training loss of the batch after the step with that lr, (n,) each.

    Optimizer, batch size and augmentation are the recipe's; lr replaces its schedule. Losses stay
    on the device and are read every LOOK steps, which ends a curve that has diverged.
    """
    trainer = bench.fresh()
    axis = np.linspace(math.log10(low), math.log10(high), steps)
    trainer.change(
        steps=steps + 1,
        schedule=lambda step, _: 10 ** axis[min(step, steps - 1)] / bench.cfg.optim.lr,
    )
    seed_everything(bench.cfg.seed, "dropout")
    trainer.set_train_mode(trainer.model)
    losses: list[float] = []
    while trainer.step_count <= steps:
        trainer.step(*trainer.batches(trainer.step_count))
        if trainer.step_count % LOOK == 0 or trainer.step_count > steps:
            losses += torch.stack([row[0] for row in trainer.record]).tolist()
            trainer.record.clear()
            away = ~(np.array(losses) < AWAY * losses[0])
            if away.any():
                losses = losses[: max(int(away.argmax()), 1) + 1]
                break
    return axis[: len(losses) - 1], np.array(losses[1:])


def find(
    cfg: DictConfig,
    directory: Path,
    door: Callable,
    choices: dict[str, Any],
    *,
    seeds: int,
    low: float,
    high: float,
    steps: int,
) -> dict[str, Any]:
    """`task=lr_range`: writes lr_range.json, lr_range.png and status.json into the run's folder,
    the answer and the smoothed curve to TensorBoard. Raises ConfigError where `low` is not below
    `high`."""
    if cfg.resume is not None:
        raise ConfigError(f"resume = {cfg.resume}: task=lr_range trains from step 0; drop it")
    if low >= high:
        raise ConfigError(
            f"task.low = {low:g}: must be below task.high = {high:g}; use 1e-6 and 10"
        )
    with run_folder.locked(directory, keys.digest(keys.values(cfg))) as status:
        show = Show(quiet=cfg.quiet)
        bench = prepare(cfg, door)
        show.notes(bench.notices())
        curves = [sweep(seeded(bench, cfg.seed + i), low, high, steps) for i in range(seeds)]
        answer = judge(curves)
        figures = {"optim": choices["optim"], "lr_now": cfg.optim.lr, **dataclasses.asdict(answer)}
        rows = [{"log10_lr": list(axis), "loss": _plain(losses)} for axis, losses in curves]
        atomic.write_json(directory / "lr_range.json", figures | {"curves": rows})
        atomic.write(directory / "lr_range.png", draw_png(curves, answer))
        lines = report(answer, bench, low, high)
        with Log(directory) as log:
            log.text("lr_range", "\n".join(f"- {line}" for line in lines))
            log.curve("lr_range/loss", list(median_curve(curves)[1]))
        show.notes([*lines, f"files   {directory}"])
        status.write("finished")
    return figures | {"directory": str(directory)}


def constant_answer_loss(bench: Bench) -> float:
    """The loss of the best constant answer, the class shares of the training split."""
    y = bench.splits.train.y
    shares = y.bincount(minlength=len(bench.splits.classes)) / len(y)
    return float(bench.door(bench.cfg.loss)(shares.clamp(min=1e-9).log().expand(len(y), -1), y))


def report(answer: Answer, bench: Bench, low: float, high: float) -> list[str]:
    """The lines to print: the band and what to type, or why there is none."""
    if answer.refusal:
        return [f"no usable valley: {answer.refusal}"]
    now, guess, where = bench.cfg.optim.lr, constant_answer_loss(bench), "in the usable band"
    if not answer.low <= now <= answer.high:
        where = "too low" if now < answer.low else "too high"
    lines = [
        f"too low     {low:.2g} to {answer.low:.2g}",
        f"usable      {answer.low:.2g} to {answer.high:.2g}",
        f"too high    {answer.high:.2g} to {high:.2g}",
        f"loss        {answer.start:.3g} at the lowest lr, {answer.lowest:.3g} at {answer.lr:.2g}",
        f"yours       optim.lr={now:g} is {where}",
        f"type        optim.lr={answer.lr:.2g}",
    ]
    if answer.high >= high:
        lines[2] = f"too high    not reached; look further with task.high={10 * high:g}"
    if answer.lowest > (1 - LEAST) * guess:
        lines[3] += f"; a constant answer has {guess:.3g}: raise task.steps, or try task=check"
    return lines


def median_curve(curves: Sequence[Curve]) -> Curve:
    """The smoothed median of S curves on the longest axis, clipped at 1.5 times the initial loss,
    for display."""
    axis = max((curve[0] for curve in curves), key=len)
    most = 1.5 * _first(curves)
    return axis, smoothed(axis, np.median([_padded(own, len(axis), most) for _, own in curves], 0))[
        0
    ]


def draw_png(curves: Sequence[Curve], answer: Answer) -> bytes:
    """A PNG of loss against log10 lr: one line per seed, the smoothed median, the band in green."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    axis, line = median_curve(curves)
    most = 1.5 * _first(curves)
    span = (axis[-1] - axis[0]) or 1.0

    def point(decade: float, loss: float) -> tuple[float, float]:
        across, up = (decade - axis[0]) / span, min(max(loss, 0.0) / most, 1.0)
        return EDGE + (WIDTH - 2 * EDGE) * across, HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * up

    if not answer.refusal:
        left, right = (point(math.log10(lr), 0)[0] for lr in (answer.low, answer.high))
        draw.rectangle((left, EDGE, right, HEIGHT - EDGE), fill="#d7f0d7")
        draw.line([point(math.log10(answer.lr), loss) for loss in (0, most)], fill="green", width=2)
    for decades, losses in curves:
        line_of_seed = zip(decades, _padded(losses, len(decades), most), strict=True)
        draw.line([point(*p) for p in line_of_seed], fill="lightgrey")
    draw.line([point(*p) for p in zip(axis, line, strict=True)], fill="#f57c00", width=2)
    draw.rectangle((EDGE, EDGE, WIDTH - EDGE, HEIGHT - EDGE), outline="grey")
    for decade in range(math.ceil(axis[0] - 1e-9), math.floor(axis[-1] + 1e-9) + 1):
        draw.text((point(decade, 0)[0] - 10, HEIGHT - EDGE + 6), f"1e{decade}", fill="black")
    draw.text((4, EDGE), f"{most:.2g}", fill="black")
    band = f"usable {answer.low:.2g} to {answer.high:.2g}" if answer.low else "no usable valley"
    draw.text((EDGE, 12), f"training loss against learning rate: {band}", fill="black")
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def _plain(losses: np.ndarray) -> list[float | str]:
    return [float(v) if math.isfinite(v) else str(v) for v in losses]
