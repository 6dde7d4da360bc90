"""Ledgers of sweeps to test on, written by hand."""

import hashlib
import json
from dataclasses import asdict

from trainlab.sweeps.execute import ledger
from trainlab.training.metrics import LOSS, Facts

METRICS = {"loss": asdict(LOSS), "accuracy": asdict(Facts("accuracy", "up"))}


def result(number, values, loss=None, reason="diverged", accuracy=None, monitor="val/loss"):
    """One result in the ledger's format; without a loss it did not finish."""
    folder = f"{number:04d}_" + ",".join(f"{k}={v}" for k, v in values.items())
    entry = {"digest": hashlib.sha256(folder.encode()).hexdigest()[:16], "folder": folder}
    entry |= {"number": number, "values": values, "steps": 100, "seconds": 1.5}
    entry["metrics"] = METRICS
    if loss is None:
        return entry | {"state": "diverged", "reason": reason}
    accuracy = 1 - loss / 10 if accuracy is None else accuracy
    splits = {"train": 0.9, "val": 1.0, "test": 1.1}
    results = {s: {"loss": loss * f, "accuracy": accuracy / f} for s, f in splits.items()}
    value = results["val"][monitor.partition("/")[2]]
    monitored = {"name": monitor, "value": value}
    return entry | {"state": "finished", "reason": "", "results": results, "monitor": monitored}


def keep(directory, found, **sweep):
    """Write them as the ledger does."""
    (directory / "results").mkdir(parents=True, exist_ok=True)
    for entry in found:
        path = directory / "results" / f"{entry['digest']}.json"
        path.write_text(json.dumps(entry))
    told = {"command": [], "axes": {}, "jobs": len(found), "nuisance": [], "repeats": 1}
    told |= {"monitor": "val/loss"} | sweep
    (directory / "sweep.json").write_text(json.dumps(told))
    ledger.write_jobs(directory, {entry["folder"]: entry["number"] for entry in found})
