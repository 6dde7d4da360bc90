"""TensorBoard's HParams tab: what a sweep varied, in the event files that the runs have already.

`add_hparams` would open another run for each, named by the clock. The keys of all runs stand once,
in the sweep's own folder: several such cards, and TensorBoard shows the keys of one only.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2

from trainlab.errors import as_typed
from trainlab.observe.event_file import Events
from trainlab.storage import atomic

CARD, END = "_hparams_/experiment", "_hparams_/session_end_info"
DISCRETE = 10  # values, up to which the tab offers each by itself


def write(directory: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Append each run's values to its newest event file, once; write the card of the sweep anew."""
    columns = {key: None for result in results for key in result["values"]}
    kinds = {key: _kind([r["values"].get(key) for r in results]) for key in columns}
    for result in results:
        files = sorted((directory / result["folder"]).glob("events.out.tfevents.*"))
        if files and END.encode() not in files[-1].read_bytes():
            values = {key: kinds[key](value) for key, value in result["values"].items()}
            _add(directory, _session(result, values), files[-1])
    files = sorted(directory.glob("events.out.tfevents.*"))
    atomic.remove([path for path in files if CARD.encode() in path.read_bytes()])
    infos = []
    for key, kind in kinds.items():
        values = {kind(r["values"][key]) for r in results if key in r["values"]}
        infos.append(_column(key, kind, sorted(values)))
    # scalars of a run's own file; the test split is left out, for it chooses nothing
    measures = dict.fromkeys(name for r in results for name, own in r["metrics"].items()
                             if own["direction"])  # fmt: skip
    tags = [f"best/{split}_{name}" for split in ("val", "train") for name in measures]
    metrics = [api_pb2.MetricInfo(name={"tag": tag}, display_name=tag) for tag in tags]
    card = api_pb2.Experiment(hparam_infos=infos, metric_infos=metrics)
    _add(directory, {CARD: {"experiment": card}})


def _kind(values: Sequence[Any]) -> type | Any:
    """bool, float, or the text that was typed, for all values of a key."""
    if all(isinstance(v, bool) for v in values):
        return bool
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        return float
    return as_typed


def _column(key: str, kind: Any, values: Sequence[Any]) -> api_pb2.HParamInfo:
    types = {bool: api_pb2.DATA_TYPE_BOOL, float: api_pb2.DATA_TYPE_FLOAT64}
    info = api_pb2.HParamInfo(name=key, type=types.get(kind, api_pb2.DATA_TYPE_STRING))
    if kind is float and len(values) > DISCRETE:
        info.domain_interval.min_value, info.domain_interval.max_value = values[0], values[-1]
    else:
        info.domain_discrete.extend(values)
    return info


def _session(result: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The two cards of one run."""
    start = plugin_data_pb2.SessionStartInfo(group_name=result["folder"])
    for key, value in values.items():
        fields = {bool: "bool_value", float: "number_value", str: "string_value"}
        setattr(start.hparams[key], fields[type(value)], value)
    finished = result["state"] == "finished"
    status = api_pb2.STATUS_SUCCESS if finished else api_pb2.STATUS_FAILURE
    end = plugin_data_pb2.SessionEndInfo(status=status)
    return {
        "_hparams_/session_start_info": {"session_start_info": start},
        END: {"session_end_info": end},
    }


class _Cards:
    """Cards as the Charts of a file, so that this one writes none itself."""

    def __init__(self, cards: Mapping[str, Mapping[str, Any]]):
        self.cards = cards

    def feed(self, row: Any) -> list[dict[str, Any]]:
        return [
            {
                "tag": tag,
                "tensor": {"dtype": "DT_FLOAT", "tensor_shape": {"dim": [{"size": 0}]}},
                "metadata": {
                    "plugin_data": {
                        "plugin_name": "hparams",
                        "content": plugin_data_pb2.HParamsPluginData(**card).SerializeToString(),
                    }
                },
            }
            for tag, card in self.cards.items()
        ]

    def panels(self) -> list[dict[str, Any]]:
        return []


def _add(directory: Path, cards: Mapping[str, Any], path: Path | None = None) -> None:
    """To the file `path`, or to a new one in `directory`."""
    events = Events(directory, _Cards(cards), path)
    try:
        events.write([{"step": 0}])
    finally:
        events.close()
