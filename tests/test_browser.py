"""TensorBoard in a real headless browser: every chart of the panels has curves, and HParams has
every run of a sweep."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from forked import finish

from trainlab.sweeps.execute import ledger

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "screenshot.py"


@pytest.fixture
def screenshot():
    pytest.importorskip("selenium", reason="selenium is not installed")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium with chromedriver on this machine")
    spec = importlib.util.spec_from_file_location("screenshot", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_panels_with_curves_for_every_layer(tmp_path, screenshot):
    code, _ = finish(["epochs=3", "preflight=none", f"hydra.run.dir={tmp_path}/run"], tmp_path)
    assert code == 0
    with screenshot.tensorboard(tmp_path / "run") as address:
        charts = dict(screenshot.shoot(address, tmp_path / "panels.png"))
        images = screenshot.shoot_images(address, tmp_path / "images.png")
    assert charts["mean"] == 3  # two activations and the logits
    assert charts["norm in weights"] >= 3
    assert charts["log10 of norm(update) / norm(weight)"] == 3 + 3  # and the bands
    assert charts["01.relu"] == charts["03.logits"] == 1  # a margin each
    assert all(curves > 0 for curves in charts.values())
    assert (tmp_path / "panels.png").stat().st_size > 20_000
    assert images == 1 + 5  # the curve of lr, and what the probes saw


def test_hparams_lists_every_run_with_its_values_and_figures(tmp_path, screenshot):
    words = ["max_steps=20", "preflight=none", "probe=none", "hydra/launcher=stack"]
    words += ["activation=relu,elu", "optim.lr=0.1,1000", f"hydra.sweep.dir={tmp_path}/s"]
    code, _ = finish(["-m", *words], tmp_path)
    assert code == 8  # lr = 1000 diverges, and is listed all the same
    with screenshot.tensorboard(tmp_path / "s") as address:
        cells = screenshot.shoot_hparams(address, tmp_path / "hparams.png")
    for entry in ledger.results(tmp_path / "s"):
        row = cells[cells.index(entry["folder"]) :][:5]
        assert row[1] == entry["values"]["activation"]
        assert float(row[2]) == entry["values"]["optim.lr"]
        if entry["state"] == "finished":
            assert float(row[3]) == pytest.approx(entry["results"]["val"]["loss"], rel=1e-3)
    assert cells[3:5] == ["optim.lr", "best/val_loss"]
