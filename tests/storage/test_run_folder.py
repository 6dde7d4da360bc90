"""The folders of the starts of a run; the signals that stop one: the first waits for the step, a
second Ctrl-C does not."""

import os
import signal

import pytest

import trainlab
from trainlab.errors import Stopped
from trainlab.storage import run_folder
from trainlab.training.trainer import Trainer

RUN = ["max_steps=5", "preflight=none", "probe=none", "quiet=true", "model.widths=[8]"]


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", run_folder.EXIT_CODES)
def test_a_signal_is_a_flag_until_the_loop_reads_it(number):
    with run_folder.signals() as flag:
        assert flag.raised is None
        send(number)
        assert flag.raised == number


def test_a_second_ctrl_c_leaves_at_once():
    with run_folder.signals(), pytest.raises(KeyboardInterrupt):
        send(signal.SIGINT, signal.SIGINT)


def test_ctrl_c_counts_as_the_first_where_another_signal_came_before():
    with run_folder.signals() as flag:
        send(signal.SIGTERM, signal.SIGTERM, signal.SIGINT)
        assert flag.raised == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_many_runs_have_one_flag_and_the_handlers_are_given_back():
    before = {number: signal.getsignal(number) for number in run_folder.EXIT_CODES}
    with run_folder.signals() as flag:
        with run_folder.signals() as inner:
            assert inner is flag
        send(signal.SIGTERM)  # still a flag: the inner one took nothing away
        assert flag.raised == signal.SIGTERM
    assert {number: signal.getsignal(number) for number in before} == before
    with run_folder.signals() as later:
        assert later.raised is None


@pytest.mark.parametrize("times", [1, 2])
def test_the_first_ctrl_c_waits_for_the_step_and_saves_it_the_second_does_not(
    tmp_path, monkeypatch, times
):
    done, step = [], Trainer.step

    def interrupted(trainer, x, y):
        send(*[signal.SIGINT] * times)
        losses = step(trainer, x, y)
        done.append(trainer.step_count)
        return losses

    monkeypatch.setattr(Trainer, "step", interrupted)
    with pytest.raises(Stopped if times == 1 else KeyboardInterrupt):
        trainlab.run(*RUN, f"hydra.run.dir={tmp_path}/run")
    assert done == ([1] if times == 1 else [])
    assert run_folder.read_status(tmp_path / "run")["state"] == "stopped"
    saved = [path.name for path in (tmp_path / "run").glob("checkpoints/*.json")]
    assert saved == (["ckpt-00000001.json"] if times == 1 else [])


def test_every_start_has_a_folder_of_its_own_the_newest_last(tmp_path):
    assert run_folder.start_folders(tmp_path) == [tmp_path / ".hydra"]
    names = []
    for _ in range(11):
        names.append(run_folder.next_start(tmp_path))
        (tmp_path / names[-1]).mkdir(parents=True)
    assert names[0] == ".hydra/resume-001" and names[-1] == ".hydra/resume-011"
    assert run_folder.start_folders(tmp_path)[1:] == [tmp_path / name for name in names]


def test_a_failure_is_recorded_where_no_status_is_and_nowhere_else(tmp_path):
    run_folder.record_failure(tmp_path, ValueError("no such word"))
    first = run_folder.read_status(tmp_path)
    assert (first["state"], first["step"], first["reason"]) == ("failed", 0, "no such word")
    with run_folder.locked(tmp_path, "digest") as status:
        status.step = 7
        status.write("finished")
    run_folder.record_failure(tmp_path, ValueError("afterwards"))
    assert run_folder.read_status(tmp_path)["state"] == "finished"


def test_a_run_that_is_at_its_end_may_be_resumed_and_says_the_same(tmp_path):
    first = trainlab.run(*RUN, f"hydra.run.dir={tmp_path}/run")
    again = trainlab.run(f"resume={tmp_path}/run")
    assert (again["steps"], again["results"]) == (5, first["results"])
