"""The front door: every wrong word ends in one line, every run in its own folder."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import trainlab
from trainlab import errors
from trainlab.__main__ import main, with_saved
from trainlab.cli import compose
from trainlab.config import keys, words
from trainlab.errors import CheckpointError, ConfigError

ROOT = Path(__file__).resolve().parents[2]
STORY = """
import json, os, time
from pathlib import Path
from omegaconf import OmegaConf
from trainlab import errors
from trainlab.config import keys
def train(cfg, directory, door, choices, fail="", at=None):
    digest = keys.digest(OmegaConf.to_container(cfg, resolve=True))
    status = {"when": time.time(), "config_digest": digest}
    file = Path(directory) / "status.json"
    if fail and (at is None or cfg.seed == at):
        if fail == "none": return {}
        file.write_text(json.dumps(status | {"state": "failed", "reason": fail}))
        raise eval(fail)
    file.write_text(json.dumps(status | {"state": "finished"}))
    return {"lr": cfg.optim.lr, "resume": cfg.resume, "directory": str(directory)}
def story(): return train
"""


def validate(*argv: str) -> compose.Request:
    args = compose.flags(argv)
    with compose.hydra_session(args.config_dir) as hydra:
        return compose.check(hydra, args.overrides, args.multirun, args.config_dir)


def default_leaves() -> dict[str, object]:
    cfg = validate().cfg
    return keys.flat({k: OmegaConf.to_container(cfg)[k] for k in cfg if k != "hydra"})


LEAVES = default_leaves()


@pytest.fixture
def told(tmp_path, monkeypatch):
    """A folder to run in, with a story of our own: told(...) is main(...) with it."""
    (tmp_path / "conf" / "task").mkdir(parents=True)
    (tmp_path / "conf" / "task" / "told.yaml").write_text(
        "_target_: told_story.train\n_partial_: true\nfail: ''\nat: null\n"
    )
    (tmp_path / "told_story.py").write_text(STORY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    start = ["--config-dir", "conf", "task=told", "trust=[told_story]"]
    yield lambda *argv: main([*start, *argv])
    sys.modules.pop("told_story", None)


def wrong_type(value: object) -> str:
    if isinstance(value, bool):
        return "maybe"
    if isinstance(value, list):
        return "7"
    return "[1,{a:2}]" if value is None or isinstance(value, str) else "word"


def out_of_range(key: str, value: object) -> str | None:
    rule = keys.declared(key)
    if key.endswith("_target_"):
        return "os.system"
    if rule is None or rule.kind is bool:
        return None
    if rule.kind is str:
        return "''" if not rule.each else "['']"
    bad = "nan" if rule.kind is float else "-1"
    return f"[{bad}]" if rule.each else bad


@pytest.mark.parametrize("key", LEAVES)
def test_every_leaf_refuses_a_typo_a_wrong_type_and_a_value_out_of_range(key):
    value = LEAVES[key]
    tries = [f"{key[:-1]}_{key[-1]}={keys.as_typed(value)}", f"{key}={wrong_type(value)}"]
    if (bad := out_of_range(key, value)) is not None:
        tries.append(f"{key}={bad}")
    for line in tries:
        with pytest.raises(
            (ConfigError, CheckpointError)
        ) as caught:  # resume=FOLDER takes any text
            validate(*with_saved([line]))
        assert "\n" not in errors.one_line(caught.value)
        assert line.partition("=")[0] in str(caught.value)


def test_every_leaf_of_every_word_has_a_type_and_a_range():
    for group, options in words.groups().items():
        for word in options if group not in ("experiment", "search") else []:
            for key, value in words.file_values(group, word).items():
                if key == "defaults":  # Hydra's own
                    continue
                if not key.endswith("_target_") and value != {} and "${" not in str(value):
                    assert keys.declared(key), f"{key} of {group}={word}"
                    keys.check(key, value)


def test_every_word_composes_and_opens_with_its_source():
    for group, options in words.groups().items():
        for word in options if group != "search" else []:  # tested with the spaces
            extra = ["resume=auto"] if word == "evaluate" else []
            validate(f"{group}={word}", *extra)
            assert len(words.source(group, word)) > 10, (group, word)


REFUSED = {
    "activatoin=elu": "did you mean activation=elu?",
    "activation=eluu": "did you mean activation=elu?",
    "activation=elu activation.alpah=2": "did you mean activation.alpha=2?",
    "activation.alpha=2": "activation=relu has no alpha (celu, elu have it)",
    "lr=0.1": "did you mean optim.lr=0.1?",
    "betas=[0.9,0.99]": "did you mean optim.betas=[0.9,0.99]?",
    "hidden=32": "did you mean model.widths=[32]?",
    "momentum=0.9": "did you mean optim.momentum=0.9?",
    "gpu=1": "did you mean device (auto, cpu, cuda or cuda:N)?",
    "schedule=none": "did you mean schedule=constant?",
    "preflight=off": "did you mean preflight=none?",
    "optim=SGD": "did you mean optim=sgd?",
    "init=he": "did you mean init=he_normal?",
    "init=glorot": "did you mean init=xavier_normal?",
    "norm=bn": "did you mean norm=batch?",
    "clip_grad=1": "did you mean clip.norm=1?",
    "learning_rate=0.1": "did you mean optim.lr=0.1?",
    "optimizer=adam": "did you mean optim=adam?",
    "scheduler=cosine": "did you mean schedule=cosine?",
    "optim=adma": "did you mean optim=adam?",
    "+optim=adam": "did you mean optim=adam?",
    "+new=1": "cannot be added",
    "~epochs": "cannot be removed",
    "epochs=1 epochs=2": "given twice (1 and 2)",
    "--config-name=nope": "there is one config",
    "--experimental-rerun x.pkl": "there is one config",
    "--config-dir /nope": "no such folder",
    "-m hydra/launcher=rya": "not one of basic",
    "hydra.job.nope=1": "hydra.job.nope",
    "optim.lr=1e": "did you mean optim.lr=1e-3?",
    "optim.lr=0,001": "use optim.lr=0.001",
    "optim.lr=": "is empty",
    "optim.lr=[0.1]": "use optim.lr=0.1",
    "epochs=2.5": "a whole number >= 1",
    "epochs=1e3": "use epochs=1000",
    "batch_size=32.0": "use batch_size=32",
    "device=gpu": "use device=cuda",
    "model.widths=16": "use model.widths=[16]",
    "model.widths=16,16": "a list is model.widths=[16,16]",
    "model.widths=[16,a]": "model.widths[1] = a",
    "model.widths=[16,-4]": "model.widths[1] = -4",
    "model.dropout=50%": "use model.dropout=0.5",
    "monitor={a:1}": "monitor is a single value",
    "penalty=3": "set penalty.l1 or penalty.l2",
    "optim={lr:1}": "not one of",
    "optim.lr=inf": "finite number > 0",
    "optim.momentum=1.5": ">= 0 and < 1",
    "optim=adam optim.betas=[1.0,0.9]": "optim.betas[0] = 1.0",
    "epochs=99999999999999999999": "<= 1000000",
    "seed=-1": ">= 0 and <= 4294967295",
    "seed=1180591620717411303424": "<= 4294967295",
    "epochs:3": "use \"=\": epochs=3",
    "epochs = 3": "use epochs=3",
    "epochs= 3": "use epochs=3",
    "epochs =3": "use epochs=3",
    "--epochs=3": "no dashes; use epochs=3",
    "epochs": "key=value",
    "monitor=a=b": "quote it",
    "monitor=#tag": "quote it",
    "epochs=${nope}": "nope",
    "epochs=${max_steps}": "epochs = null",
    "-m activation=relu,eluu": "activation = eluu",
    "-m optim.lr=0.1,-1": "optim.lr = -1",
    "-m seed=1,1": "given twice",
    "-m seed=range(0,100000)": "more than 10000",
    "-m optim=sgd,adam optim.momentum=0.5": "optim=sgd has no momentum (lars, momentum, ",
    "-m resume=auto": "not with -m",
    "-m optim.lr=interval(-1,1)": "optim.lr = -1.0: must be a finite number > 0",
    "-m epochs=interval(1,4)": "use epochs=int(interval(1,4))",
    "-m activation=interval(0,1)": "list what to try",
    "-m clip.norm=interval(0,1) quiet=true,false": "one value",
    "-m hydra.sweep.subdir=x": "drop it",
    "probe=activation,weight": "-m",
    "activation=[relu,elu]": "one word",
    "experiment=null": "leave it out",
    "task=evaluate": "add resume=DIR",
    "activation._target_=os.system": "must be a class or function of torch.nn",
    "hydra.callbacks={a:{_target_:os.system}}": "hydra.callbacks",
    "+hydra.callbacks.a._target_=os.system": "hydra.callbacks",
}  # fmt: skip


@pytest.mark.parametrize("line", REFUSED)
def test_refused_with_the_right_word(line):
    with pytest.raises(ConfigError) as caught:
        validate(*line.split())
    text = errors.one_line(caught.value)
    assert REFUSED[line] in text
    assert text.startswith("trainlab: error[config]: ")
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("data=mnist|data.root=/d/my(1)", "data.root", "/d/my(1)"),
        ("data=mnist|data.root=/d/it's é#", "data.root", "/d/it's é#"),
        ("data=mnist|data.root=~/x", "data.root", os.path.expanduser("~/x")),
        ("probe=[activation,weight]", "probe.weight._partial_", True),
        ("log.every=2ep", "log.every", "2ep"),
        ("clip.norm=null", "clip.norm", None),
        ("optim.lr=1", "optim.lr", 1),
        ("experiment=mnist", "epochs", 10),
        ("batch_size=${epochs}", "batch_size", 30),
        ("seed=3|-m|optim=sgd,adam", "optim.lr", 0.1),
    ],
)
def test_accepted(line, key, value):
    cfg = validate(*line.split("|")).cfg
    assert OmegaConf.select(cfg, key) == value


def test_files_are_checked_like_words(told, capsys, tmp_path):
    (tmp_path / "conf" / "experiment").mkdir()
    bad = {
        "trust": "trust: [os]",
        "range": "optim: {lr: -1}",
        "stray": "optm: {lr: 1}",
        "tab": "epochs:\n\t- 3",
        "hook": "hydra: {callbacks: {a: {_target_: os.system}}}",
        "target": "activation: {_target_: os.system}",
    }
    for name, body in bad.items():
        (tmp_path / "conf" / "experiment" / f"{name}.yaml").write_text(
            f"# @package _global_\n{body}\n"
        )
        argv = ["--config-dir", "conf", f"experiment={name}"]
        assert main(argv) == 2, name
        err = capsys.readouterr().err
        assert err.count("\n") == 1, err
        assert err.startswith("trainlab: error[config]: ")
    assert not (tmp_path / "runs").exists()


CANARY = """
import sys
class Canary:
    def find_spec(self, name, path, target=None):
        if name == "torch":
            print("TORCH", file=sys.stderr)
sys.meta_path.insert(0, Canary())
"""
GOOD = ["--help", "--version", "--cfg job", "--cfg job optim=adam -m"]
WRONG = ["lr=0.1", "optim.lr=nan", "optim=adma", "epochs:3", "hydra.job.nope=1", "-m seed=1,x"]


@pytest.mark.parametrize("line", [*GOOD, *WRONG, "activation._target_=os.system"])
def test_the_command_answers_without_torch(line, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(CANARY)
    env = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    argv = [sys.executable, "-m", "trainlab", *line.split()]
    done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True)
    good = line in GOOD
    assert done.returncode == (0 if good else 2)
    assert "TORCH" not in done.stderr
    assert done.stderr.count("\n") == (0 if good else 1), done.stderr
    assert not (tmp_path / "runs").exists()


def test_help_lists_every_word_and_key(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for group, options in words.groups().items():
        assert all(word in text for word in (group, *options))
    assert all(f"  {key}=" in text for key in keys.OWN_KEYS)
    assert "[overfit] output_range" in text  # of the checks, those of quick in brackets
    assert text.count("  python -m trainlab") == 6
    assert "  trainlab compare RUN RUN...    which settings of runs differ, and what" in text


@pytest.mark.parametrize(
    "typed, says",
    [
        ("compar a b", "compar: no such command; did you mean trainlab compare?"),
        ("Compare", "Compare: no such command; did you mean trainlab compare?"),
        ("compile", "compile: a setting is key=value"),  # a key, nearer than the command
        ("seed=1 compare", "compare: a setting is key=value"),  # only a first argument is one
        ("cli", "cli: a setting is key=value"),
        ("compose", "compose: a setting is key=value"),  # a file beside it that is no command
    ],
)
def test_a_first_argument_that_is_nearly_a_command(typed, says, capsys):
    assert main(typed.split()) == 2
    err = capsys.readouterr().err
    assert err.startswith("trainlab: error[config]: ")
    assert says in err
    assert err.count("\n") == 1


def test_the_runs_folder_says_what_was_typed(told, tmp_path):
    assert told("activation=elu", "optim=adam", "seed=3") == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name[4] == "-"
    assert run.name.endswith("activation=elu,optim=adam_s3")
    assert (run / ".hydra" / "overrides.yaml").exists()


def test_two_starts_in_one_minute_never_share_a_folder(tmp_path, monkeypatch):
    from trainlab.storage import run_folder

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: run_folder.make(tmp_path / "runs", "same"), range(16)))
    assert len(set(made)) == 16


FAULTS = {
    "errors.DataError('no')": 3,
    "errors.CheckpointError('no')": 4,
    "errors.BusyError('no')": 5,
    "errors.NonFiniteError('no', 1)": 7,
    "errors.Stopped('stopped', 143)": 143,
    "OSError(28, 'No space left on device')": 6,
    "PermissionError(13, 'Permission denied')": 6,
    "MemoryError()": 6,
    "RuntimeError('two\\nlines')": 1,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_an_exit_code_and_a_file(fault, told, capsys, tmp_path):
    assert told(f'task.fail="{fault}"', "hydra.run.dir=here") == FAULTS[fault]
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    if "Stopped" not in fault:
        assert "Traceback" in (tmp_path / "here" / "error.txt").read_text()


def test_a_failed_run_does_not_lose_the_others(told, capsys, tmp_path):
    assert told("-m", "seed=0,1,2", "task.at=1", "task.fail=\"errors.DataError('bad pixel')\"") == 8
    (sweep,) = (tmp_path / "runs").iterdir()
    states = [json.loads(p.read_text())["state"] for p in sorted(sweep.glob("*/status.json"))]
    assert states == ["finished", "failed", "finished"]
    err = capsys.readouterr().err
    assert "error[sweep]" in err
    assert "bad pixel" in err
    assert "Traceback" not in err


def test_a_run_that_dies_before_its_status_has_one(told, tmp_path):
    assert told("-m", "seed=0,1", "task.fail=none", "task.at=1", "+hydra.job.env_set.A=b") == 8


def test_a_signal_ends_the_whole_sweep(told, tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        told("-m", "seed=0,1,2", "task.at=1", "task.fail=\"errors.Stopped('stopped', 143)\"")
    assert caught.value.code == 143
    assert "re-run the same command" in capsys.readouterr().err
    assert len(list((tmp_path / "runs").glob("*/*/status.json"))) == 2


def test_resume_takes_the_saved_words_and_the_typed_ones_over_them(told, tmp_path, capsys):
    assert told("optim=adam", "optim.lr=0.5", "hydra.run.dir=one") == 0
    start = ["--config-dir", "conf", "trust=[told_story]"]
    assert main([*start, "resume=one"]) == 0
    assert main([*start, "resume=one", "optim.lr=0.25"]) == 0
    assert OmegaConf.load("one/.hydra/config.yaml").optim.lr == 0.5
    assert OmegaConf.load("one/.hydra/resume-001/config.yaml").optim.lr == 0.5
    again = OmegaConf.load("one/.hydra/resume-002/config.yaml")
    assert (again.optim.lr, again.optim.betas[1], again.resume) == (0.25, 0.999, "one")
    assert main([*start, "resume=one"]) == 0
    assert OmegaConf.load("one/.hydra/resume-003/config.yaml").optim.lr == 0.25
    assert main(["--config-dir", "conf", "resume=one"]) == 2  # trust is not remembered
    assert "told_story.train: must be a class" in capsys.readouterr().err
    assert main(["resume=nowhere"]) == 4
    assert "no such run" in capsys.readouterr().err


def test_an_evaluation_does_not_change_what_a_run_is_resumed_with(told, tmp_path):
    assert told("optim=adam", "hydra.run.dir=one") == 0
    (tmp_path / "conf" / "task" / "judged.yaml").write_text(
        (tmp_path / "conf" / "task" / "told.yaml").read_text()
    )
    argv = ["--config-dir", "conf", "trust=[told_story]", "resume=one", "task=judged", "quiet=true"]
    assert main(argv) == 0
    assert with_saved(["resume=one"]) == ["optim=adam", "task=told", "resume=one"]


def test_resume_auto_takes_the_newest_unfinished_run_of_the_same_recipe(told, tmp_path, capsys):
    def runs() -> set[str]:
        return {path.name for path in (tmp_path / "runs").iterdir()}

    assert told("optim.lr=0.5", "resume=auto") == 0
    first = runs()
    assert told("optim.lr=0.5", "resume=auto") == 0  # the first has ended: another one
    second = runs()
    assert len(second) == 2
    (new,) = second - first
    status = tmp_path / "runs" / new / "status.json"
    status.write_text(status.read_text().replace("finished", "running"))
    assert told("optim.lr=0.25", "resume=auto") == 0  # another recipe
    assert len(runs()) == 3
    assert told("optim.lr=0.5", "resume=auto", "log.every=7") == 0
    assert len(runs()) == 3
    assert json.loads(status.read_text())["state"] == "finished"


def test_a_folder_that_holds_a_run_or_cannot_be_made(told, tmp_path, capsys):
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "metrics.jsonl").touch()
    assert told("hydra.run.dir=held") == 5
    (tmp_path / "file").touch()
    assert told("hydra.run.dir=file/below") == 6
    assert told("hydra.run.dir=/proc/x") == 6
    assert capsys.readouterr().err.count("\n") == 3


def test_from_python(told, tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(ConfigError, match=r"did you mean optim\.lr"):
        trainlab.run("lr=1")
    node = ["task._target_=told_story.story", "trust=[told_story]"]
    assert trainlab.run(*node, "optim.lr=0.5")["lr"] == 0.5


def test_digests():
    plain = keys.defaults()
    assert keys.digest(plain) == keys.digest(plain | {"resume": "x", "quiet": True})
    assert keys.digest({"optim": {"lr": 1}}) == keys.digest({"optim": {"lr": 1.0}})
    assert keys.digest(plain) != keys.digest(plain | {"seed": 1})
    assert keys.digest({"a": 1, "b": 2}) == keys.digest({"b": 2, "a": 1})
