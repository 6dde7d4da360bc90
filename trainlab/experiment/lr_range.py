"""The learning-rate range test: loss while lr rises, and the band of lr that it allows. Smith 2017,
https://arxiv.org/abs/1506.01186. Named by conf/task/.

Everything is on the axis of log10 lr, in decades. Letters: S seeds, n steps.
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

LOOK = 20  # steps between two looks at whether the loss has run away
AWAY = 4.0  # times the first loss: it has
KERNEL = 0.15  # decades, standard deviation of the smoothing
LOST = 0.2  # of the fall: the loss is that much above its lowest where lr is too high
MARGIN = 0.3  # decades above that place that still count: a factor of two
ABOVE = 0.75  # decades above the lowest loss that count at most
BELOW = 1.0  # decades below the lowest loss that count at least
WIDEST = 2.0  # decades
SURE = 5.0  # standard errors that a fall of the smoothed loss must have
LEAST = 0.02  # of the loss at the start that a fall must have
WIDTH, HEIGHT, EDGE = 640, 320, 40  # pixels

Curve = tuple[np.ndarray, np.ndarray]  # log10 lr (n,), loss (n,)


@dataclasses.dataclass(frozen=True)
class Answer:
    """A band with an lr inside, or `refusal`: why there is none. All lr are plain, not logs."""

    refusal: str = ""
    low: float | None = None
    lr: float | None = None
    high: float | None = None
    steepest: float | None = None
    start: float | None = None  # smoothed loss, nats for cross-entropy
    lowest: float | None = None
    noise: float | None = None  # standard deviation of one seed's step


def smoothed(axis: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gaussian kernel on the log axis, symmetric, so that nothing lags as in a running average;
    the curve (..., n) of `losses` (..., n), and sqrt(sum w^2) (n,), its error in units of theirs.
    """
    width = max(KERNEL, 1.5 * (axis[-1] - axis[0]) / max(len(axis) - 1, 1))
    weights = np.exp(-0.5 * ((axis[:, None] - axis) / width) ** 2)
    weights /= weights.sum(1, keepdims=True)
    return losses @ weights.T, np.sqrt((weights**2).sum(1))


def judge(curves: Sequence[Curve]) -> Answer:
    """S curves on the same axis, each ending where its loss ran away -> the band of lr, or why not.

    The median over seeds is smoothed; what lies beyond a curve's end counts as a loss that ran
    away. The lr inside is where the loss is lowest, of the places where every seed has half of the
    fall. Usable is from the lowest of three (where it falls most steeply against log lr, where 80 %
    of the fall is reached, BELOW the lr inside) to the lower of two (MARGIN above where 20 % of the
    fall is lost again, ABOVE the lr inside); of that, the upper WIDEST decades.
    """
    axis = max((curve[0] for curve in curves), key=len)
    if len(axis) < 10:
        return Answer(f"diverges at once, at lr {10 ** axis[-1]:.2g}; lower task.low")
    most = 2 * _first(curves)
    losses = np.stack([_padded(own, len(axis), most) for _, own in curves])  # (S, n)
    each, _ = smoothed(axis, losses)
    mean, error = smoothed(axis, np.median(losses, 0))
    at = int(mean.argmin())
    start, lowest = float(mean[0]), float(mean[at])
    fall = start - lowest
    calm = slice(0, max(at, len(axis) // 4))
    noise = float((losses - each)[:, calm].std())
    seen = Answer(start=start, lowest=lowest, noise=noise)
    sure = SURE * float(np.hypot(error[0], error[at])) * noise / math.sqrt(len(curves))
    if fall < max(sure, LEAST * start):
        return dataclasses.replace(seen, refusal=_why(axis, mean, fall, sure))
    if at == len(axis) - 1:
        text = f"the loss still falls at lr {10 ** axis[-1]:.2g}; raise task.high"
        return dataclasses.replace(seen, refusal=text)
    common = (each < start - fall / 2).all(0)  # where every seed learns
    if not common.any():
        most = int((each < start - fall / 2).sum(0).max())
        text = f"seeds disagree: at no lr do more than {most} of {len(curves)} learn"
        return dataclasses.replace(seen, refusal=f"{text}; try another init, or clip.norm=1")
    at = int(np.where(common, mean, np.inf).argmin())

    seen = dataclasses.replace(seen, lowest=float(mean[at]))
    level = seen.lowest + LOST * fall
    steepest = int(np.gradient(mean, axis)[: at + 1].argmin())
    low = min(axis[min(steepest, int(np.argmax(mean < level)))], axis[at] - BELOW)
    lost = np.nonzero(mean[at:] > level)[0]
    high = axis[at + lost[0]] + MARGIN if len(lost) else axis[-1]
    high = min(high, axis[at] + ABOVE, axis[-1])
    low = max(low, high - WIDEST, axis[0])
    band = {"low": low, "lr": axis[at], "high": high, "steepest": axis[steepest]}
    return dataclasses.replace(seen, **{name: float(10**value) for name, value in band.items()})


def _padded(losses: np.ndarray, n: int, most: float) -> np.ndarray:
    """Losses (n,), none above `most`, which is also what follows the end and what is not finite."""
    losses = np.nan_to_num(losses, nan=most, posinf=most, neginf=most)
    return np.concatenate([losses, np.full(n - len(losses), most)]).clip(max=most)


def _first(curves: Sequence[Curve]) -> float:
    """The loss that the curves start from."""
    found = [losses[:5].mean() for _, losses in curves]
    return float(np.median([value for value in found if math.isfinite(value)] or [1.0]))


def _why(axis: np.ndarray, mean: np.ndarray, fall: float, sure: float) -> str:
    """Why the loss `mean` (n,) does not fall enough."""
    start, away = float(mean[0]), np.nonzero(mean > 1.5 * mean[0])[0]
    soon = len(away) and axis[away[0]] < axis[0] + 1
    if soon or (fall <= 0 and mean.max() > (1 + LEAST) * start):
        return f"the loss only rises from lr {10 ** axis[0]:.2g} on; lower task.low"
    if sure > 5 * LEAST * start:
        return (
            f"noise: the loss falls by {fall:.2g} and {sure:.2g} may be chance; "
            "raise batch_size, task.steps or task.seeds"
        )
    more = f", and runs away at {10 ** axis[away[0]]:.2g}" if len(away) else ""
    return (
        f"flat: no lr from {10 ** axis[0]:.2g} to {10 ** axis[-1]:.2g} lowers the loss of "
        f"{start:.3g} by more than {fall:.2g}{more}; try task=check"
    )


def seeded(bench: Bench, seed: int) -> Bench:
    """The same data and recipe with another seed."""
    return dataclasses.replace(bench, cfg=OmegaConf.merge(bench.cfg, {"seed": seed}))


def sweep(bench: Bench, low: float, high: float, steps: int) -> Curve:
    """log10 of lr and, after the step taken with it, the training loss of the next batch, (n,).

    The recipe's optimizer, batch size and augmentation stay; its schedule gives way. Losses stay on
    the device but for a look every LOOK steps, which ends a curve that ran away.
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
    """`task=lr_range`: lr_range.json, lr_range.png and status.json in the run's folder; the answer
    and the smoothed curve in TensorBoard. Raises ConfigError where `low` is not below `high`."""
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
        atomic.write(directory / "lr_range.png", drawn(curves, answer))
        lines = said(answer, bench, low, high)
        with Log(directory) as log:
            log.text("lr_range", "\n".join(f"- {line}" for line in lines))
            log.curve("lr_range/loss", list(median_curve(curves)[1]))
        show.notes([*lines, f"files   {directory}"])
        status.write("finished")
    return figures | {"directory": str(directory)}


def blind(bench: Bench) -> float:
    """The loss of the best guess that does not look at the input: the shares of the classes."""
    y = bench.splits.train.y
    shares = y.bincount(minlength=len(bench.splits.classes)) / len(y)
    return float(bench.door(bench.cfg.loss)(shares.clamp(min=1e-9).log().expand(len(y), -1), y))


def said(answer: Answer, bench: Bench, low: float, high: float) -> list[str]:
    """What was found and what to type, or the one line of a refusal."""
    if answer.refusal:
        return [f"no usable valley: {answer.refusal}"]
    now, guess, where = bench.cfg.optim.lr, blind(bench), "inside the band"
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
        lines[2] = f"too high    not reached; see further with task.high={10 * high:g}"
    if answer.lowest > (1 - LEAST) * guess:
        lines[3] += f"; a guess without the input has {guess:.3g}: raise task.steps, or task=check"
    return lines


def median_curve(curves: Sequence[Curve]) -> Curve:
    """The smoothed median of S curves on the longest axis, for the eye; none above 1.5 times their
    first loss."""
    axis = max((curve[0] for curve in curves), key=len)
    most = 1.5 * _first(curves)
    return axis, smoothed(axis, np.median([_padded(own, len(axis), most) for _, own in curves], 0))[
        0
    ]


def drawn(curves: Sequence[Curve], answer: Answer) -> bytes:
    """Loss against log10 lr as PNG: a line a seed, their smoothed median, the band in green."""
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    axis, line = median_curve(curves)
    most = 1.5 * _first(curves)
    span = (axis[-1] - axis[0]) or 1.0

    def place(decade: float, loss: float) -> tuple[float, float]:
        across, up = (decade - axis[0]) / span, min(max(loss, 0.0) / most, 1.0)
        return EDGE + (WIDTH - 2 * EDGE) * across, HEIGHT - EDGE - (HEIGHT - 2 * EDGE) * up

    if not answer.refusal:
        left, right = (place(math.log10(lr), 0)[0] for lr in (answer.low, answer.high))
        draw.rectangle((left, EDGE, right, HEIGHT - EDGE), fill="#d7f0d7")
        draw.line([place(math.log10(answer.lr), loss) for loss in (0, most)], fill="green", width=2)
    for own, losses in curves:
        draw.line([place(*p) for p in zip(own, _padded(losses, len(own), most), strict=True)],
                  fill="lightgrey")  # fmt: skip
    draw.line([place(*p) for p in zip(axis, line, strict=True)], fill="#f57c00", width=2)
    draw.rectangle((EDGE, EDGE, WIDTH - EDGE, HEIGHT - EDGE), outline="grey")
    for decade in range(math.ceil(axis[0] - 1e-9), math.floor(axis[-1] + 1e-9) + 1):
        draw.text((place(decade, 0)[0] - 10, HEIGHT - EDGE + 6), f"1e{decade}", fill="black")
    draw.text((4, EDGE), f"{most:.2g}", fill="black")
    band = f"usable {answer.low:.2g} to {answer.high:.2g}" if answer.low else "no usable valley"
    draw.text((EDGE, 12), f"training loss against lr: {band}", fill="black")
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def _plain(losses: np.ndarray) -> list[float | str]:
    return [float(v) if math.isfinite(v) else str(v) for v in losses]
