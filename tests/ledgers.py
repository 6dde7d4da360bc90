"""Ledgers of sweeps to test on: written by hand, or from the folders that a real sweep left."""

import hashlib
import json
from pathlib import Path

import yaml

from trainlab import rundir


def result(number, values, loss=None, reason="diverged", accuracy=None, monitor="val/loss"):
    """One result in the ledger's format; without a loss it did not finish."""
    folder = f"{number:04d}_" + ",".join(f"{k}={v}" for k, v in values.items())
    entry = {"digest": hashlib.sha256(folder.encode()).hexdigest()[:16], "folder": folder}
    entry |= {"number": number, "values": values, "steps": 100, "seconds": 1.5}
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


def read(directory: Path, keys):
    """The results of a sweep that is over, `keys` being what it varies."""
    found = []
    for folder in directory.glob("[0-9]*"):
        number = int(folder.name.partition("_")[0])
        lines = yaml.safe_load((folder / ".hydra" / "overrides.yaml").read_text())
        typed = dict(line.split("=", 1) for line in lines)
        values = {key: yaml.safe_load(typed[key]) for key in keys}
        status, path = rundir.told(folder), folder / "summary.json"
        entry = {"digest": status["config_digest"][:16], "folder": folder.name, "number": number}
        entry |= {"values": values, "state": status["state"], "reason": status["reason"]}
        if path.exists():
            summary = json.loads(path.read_text())
            entry |= {key: summary[key] for key in ("results", "steps", "seconds")}
            loss = summary["results"]["val"]["loss"]
            entry["monitor"] = {"name": "val/loss", "value": loss}
        found.append(entry)
    return sorted(found, key=lambda entry: entry["number"])
