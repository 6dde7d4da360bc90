"""The learning-rate range test: the rule on curves whose answer is known, and on digits."""

import json

import numpy as np
import pytest
import torch
from benches import bench_of

from trainlab.__main__ import main
from trainlab.experiment import lr_range
from trainlab.experiment.lr_range import Answer, judge, seeded, smoothed, sweep

AXIS = np.linspace(-6, 1, 200)


def valley(noise: float, seed: int, centre: float = -2.0, edge: float = 0.2, seeds: int = 3):
    """Loss falls by a sigmoid around 10^centre, blows up above `edge`: curves of several seeds."""
    rng = np.random.default_rng(seed)
    blow = 10 ** np.minimum(2 * (AXIS - np.log10(edge)), 20)
    clean = 2.3 - 2 / (1 + np.exp(-(AXIS - centre) / 0.25)) + blow
    curves = []
    for losses in clean + noise * rng.standard_normal((seeds, len(AXIS))):
        away = np.nonzero(losses > 4 * 2.3)[0]
        end = away[0] + 1 if len(away) else len(AXIS)
        curves.append((AXIS[:end], losses[:end]))
    return curves


def level(noise: float, seed: int, height: float = 2.3):
    rng = np.random.default_rng(seed)
    return [(AXIS, height + noise * rng.standard_normal(len(AXIS))) for _ in range(3)]


@pytest.mark.parametrize("noise", [0.0, 0.005, 0.05, 0.2])
@pytest.mark.parametrize("edge", [0.05, 0.2])
def test_the_band_holds_the_right_lr_under_noise(noise, edge):
    for seed in range(20):
        answer = judge(valley(noise, seed, edge=edge))
        assert answer.refusal == ""
        assert answer.low <= 1e-2 <= answer.high
        assert answer.low < answer.lr < answer.high
        assert np.log10(answer.high / answer.low) <= 2 + 1e-9
        assert answer.high < 0.5
        assert 1e-2 <= answer.lr <= 7e-2  # diagnosis: the curve's answer is 1e-2 to 6e-2
        assert abs(np.log10(answer.steepest) + 2) < 0.4


def linear_axis(axis: np.ndarray, losses: np.ndarray) -> float:
    """The rule of Lightning 2.5.3 (issue 21141): the steepest descent on the axis of lr itself,
    after a running average of beta 0.98 and without the first 10 steps and the last."""
    mean, average = [], 0.0
    for step, loss in enumerate(losses, 1):
        average = 0.98 * average + 0.02 * loss
        mean.append(average / (1 - 0.98**step))
    lr = 10 ** axis[10:-1]
    return lr[np.gradient(np.array(mean)[10:-1], lr).argmin()]


def test_a_linear_axis_is_wrong_on_the_same_curves():
    found = [linear_axis(*valley(0.05, seed, seeds=1)[0]) for seed in range(60)]
    assert np.median(found) < 1e-4
    own = [judge(valley(0.05, seed, seeds=1)) for seed in range(60)]
    assert all(answer.low <= 1e-2 <= answer.high for answer in own)


def test_the_answer_moves_with_the_curve():
    one, other = judge(valley(0.05, 0)), judge(valley(0.05, 0, centre=-4.0, edge=2e-3))
    for name in ("low", "lr", "high", "steepest"):
        assert np.log10(getattr(one, name) / getattr(other, name)) == pytest.approx(2, abs=0.15)


def test_smoothing_keeps_a_constant_and_does_not_lag():
    curve, error = smoothed(AXIS, np.full(200, 3.0))
    np.testing.assert_allclose(curve, 3.0)
    np.testing.assert_allclose(smoothed(AXIS, AXIS)[0][40:160], AXIS[40:160], atol=1e-6)
    draws = smoothed(AXIS, np.random.default_rng(0).standard_normal((4000, 200)))[0]
    np.testing.assert_allclose(draws.std(0), error, rtol=0.06)


@pytest.mark.parametrize("noise, reason", [(0.0, "flat"), (0.01, "flat"), (1.0, "noise")])
def test_nothing_learned_is_refused_with_its_reason(noise, reason):
    answers = [judge(level(noise, seed)) for seed in range(100)]
    assert all(answer.refusal and answer.lr is None for answer in answers)
    said = [answer.refusal.startswith(reason) for answer in answers]
    assert sum(said) >= 95  # a noisy level whose lowest place is the first "only rises"


def test_a_loss_that_only_rises_is_refused():
    rising = [(AXIS, 2.3 + np.exp(AXIS)) for _ in range(3)]
    assert "only rises" in judge(rising).refusal
    short = [(AXIS[:1], np.array([np.nan])), (AXIS[:3], np.array([2.0, 9.0, np.inf]))]
    assert "diverges immediately" in judge(short).refusal


def test_a_loss_that_still_falls_is_refused():
    cut = [(axis[:120], losses[:120]) for axis, losses in valley(0.02, 0)]
    assert "task.high" in judge(cut).refusal


def test_seeds_that_disagree_are_refused():
    curves = valley(0.05, 0)
    curves[1] = level(0.05, 1)[0]
    assert judge(curves).refusal.startswith("seeds disagree")
    curves = [*valley(0.05, 0, seeds=2), *valley(0.05, 1, centre=-5, edge=2e-4, seeds=1)]
    assert judge(curves).refusal.startswith("seeds disagree")


def test_a_seed_that_runs_away_early_lowers_the_lr():
    """The other two are lowest where it has gone."""
    curves = valley(0.02, 0, seeds=2)
    answer = judge([*curves, *valley(0.02, 1, edge=0.04, seeds=1)])
    assert answer.refusal == ""
    assert answer.lr < judge(curves).lr
    assert 0.01 < answer.lr < 0.05


def test_one_wild_loss_changes_little():
    curves = valley(0.02, 0)
    before = judge(curves)
    curves[0][1][60] = 9.0
    curves[2][1][100] = np.inf
    after = judge(curves)
    for name in ("low", "lr", "high"):
        assert np.log10(getattr(after, name) / getattr(before, name)) == pytest.approx(0, abs=0.1)


def test_the_picture_shows_the_band():
    from io import BytesIO

    from PIL import Image

    curves = valley(0.05, 0)
    answer = judge(curves)

    def colours(answer: Answer) -> set:
        image = Image.open(BytesIO(lr_range.draw_png(curves, answer)))
        assert image.size == (lr_range.WIDTH, lr_range.HEIGHT)
        return {colour for _, colour in image.getcolors(100_000)}

    green = (0xD7, 0xF0, 0xD7)
    assert green in colours(answer)
    assert green not in colours(Answer("flat"))
    lr_range.draw_png([(AXIS[:1], np.array([np.nan]))], Answer("diverges at once"))


def test_a_sweep_trains_with_the_lr_it_tells():
    """Plain SGD by hand over the same batches gives the same losses."""
    bench = bench_of("optim=sgd", "schedule=warmup_cosine")
    axis, losses = sweep(bench, 1e-4, 1e-1, 30)
    np.testing.assert_allclose(axis, np.linspace(-4, -1, 30))
    trainer = bench.fresh()
    expected = []
    for step in range(31):
        x, y = trainer.batches(step)
        loss = trainer.criterion(trainer.model(x), y)
        expected.append(loss.item())
        grads = torch.autograd.grad(loss, trainer.params)
        with torch.no_grad():
            for p, grad in zip(trainer.params, grads, strict=True):
                p -= 10 ** axis[min(step, 29)] * grad
    np.testing.assert_allclose(losses, expected[1:], rtol=1e-4)


def test_a_sweep_ends_where_the_loss_runs_away():
    axis, losses = sweep(bench_of("optim=sgd"), 1e-3, 1e5, 100)
    assert len(axis) == len(losses) < 100
    assert not losses[-1] < 4 * losses[0]
    assert (losses[:-1] < 5 * losses[0]).all()


def test_seeds_differ_and_repeat():
    bench = bench_of("optim=sgd")
    one, again, other = (sweep(seeded(bench, s), 1e-3, 1e-1, 25)[1] for s in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).all()
    assert bench.cfg.seed == 0


@pytest.mark.parametrize("optim, best", [("momentum", 0.053), ("adam", 0.019)])
def test_the_band_on_digits_holds_the_best_of_the_grid(optim, best):
    """docs/lr_range.md: the median best lr of a grid of 12, trained for five epochs."""
    bench = bench_of(f"optim={optim}")
    answer = judge([sweep(seeded(bench, seed), 1e-6, 10, 200) for seed in range(3)])
    assert answer.refusal == ""
    assert answer.low <= best <= answer.high


def told(tmp_path, capfd, *words: str) -> tuple[int, str, dict]:
    folder = tmp_path / "run"
    code = main(["task=lr_range", f"hydra.run.dir={folder}", "device=cpu", *words])
    file = folder / "lr_range.json"
    return code, "".join(capfd.readouterr()), json.loads(file.read_text()) if file.exists() else {}


def test_the_task_writes_and_prints_its_answer(tmp_path, capfd):
    code, text, found = told(tmp_path, capfd, "optim=sgd", "optim.lr=1e-5", "task.steps=100")
    assert code == 0
    assert f"optim.lr={found['lr']:.2g}" in text
    assert "optim.lr=1e-05 is too low" in text
    assert found["refusal"] == "" and found["low"] < found["lr"] < found["high"]
    assert len(found["curves"]) == 3
    names = {path.name.split(".")[0] for path in (tmp_path / "run").iterdir()}
    assert {"lr_range", "metrics", "events"} <= names
    assert (tmp_path / "run" / "lr_range.png").read_bytes().startswith(b"\x89PNG")


def test_the_task_refuses_in_one_line_with_exit_code_0(tmp_path, capfd):
    code, text, found = told(tmp_path, capfd, "init=zeros", "task.steps=60")
    assert code == 0
    assert [line for line in text.splitlines() if line.startswith("no usable valley: flat: no lr")]
    assert found["lr"] is None


def test_labels_without_meaning_are_told(tmp_path, capfd):
    """The loss falls to that of a guess, as the output shrinks, and no further."""
    _, text, _ = told(tmp_path, capfd, "data.label_noise=0.9", "task.steps=100")
    assert "a constant answer has 2.3" in text


@pytest.mark.parametrize(
    "word, says",
    [
        ("task.low=20", "task.low = 20: must be below task.high = 10"),
        ("task.seeds=0", "task.seeds = 0: must be a whole number >= 1"),
        ("task.steps=abc", "task.steps = abc: must be a whole number"),
    ],
)
def test_wrong_keys_are_one_line(tmp_path, capfd, word, says):
    code, text, _ = told(tmp_path, capfd, word)
    assert code == 2
    assert says in text
