"""TensorBoard in a real headless browser: every chart of the panels has curves."""

import importlib.util
import shutil
from pathlib import Path

import pytest
from forked import finish

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "screenshot.py"


def test_panels_with_curves_for_every_layer(tmp_path):
    pytest.importorskip("selenium", reason="selenium is not installed")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium with chromedriver on this machine")
    code, _ = finish(["epochs=3", "preflight=none", f"hydra.run.dir={tmp_path}/run"], tmp_path)
    assert code == 0
    spec = importlib.util.spec_from_file_location("screenshot", SCRIPT)
    screenshot = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(screenshot)
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
