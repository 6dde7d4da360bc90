"""The jobs of a sweep, each in a process of its own: what kills one ends no other.

A server process imports torch once and forks for every job (0.1 s instead of 3). It and the jobs
end when the sweep's own process does: a pipe that it holds closes.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import OmegaConf

from trainlab.errors import TrainlabError
from trainlab.storage import atomic, run_folder
from trainlab.sweeps.execute import ledger
from trainlab.sweeps.execute.compose import Jobs

IMPORTED = [
    "torch._dynamo",  # private, but every optimizer imports it when it is made
    "trainlab.__main__",
    "trainlab.experiment.phases",
    "trainlab.observe.capture",
]
THREADS = "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"
GPUS = "CUDA_VISIBLE_DEVICES"
GRACE = 20.0  # s that a job has to save its checkpoint when the sweep is stopped
LOOK = 1.0  # s between two looks at who hangs


@dataclass
class Running:
    """A job's process, its folder, the GPU it has, and when its folder last changed."""

    process: Any
    folder: Path
    cfg: Any
    gpu: str | None
    since: float


def launch(
    context: Any, task: Any, master: Any, overrides: Sequence[Sequence[str]], begin: int
) -> list[None]:
    """Run every job to its end, `sweep.workers` at a time. A process that ends without a word has
    failed, and so has one whose folder has not changed for `sweep.timeout` seconds."""
    for name in THREADS:  # before the server starts: its children have it from there
        os.environ[name] = str(master.threads)
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(IMPORTED)
    workers = master.sweep.workers or max(cores() // master.threads, 1)
    gpus = visible(master.device)
    jobs = Jobs(context, master, overrides, begin)
    waiting = map(jobs.config, range(len(overrides)))
    running: list[Running] = []
    try:
        while True:
            while len(running) < workers and (cfg := next(waiting, None)) is not None:
                gpu = min(gpus, key=[r.gpu for r in running].count, default=None)
                running.append(started(server, task, cfg, gpu, context.callbacks))
            if not running:
                return [None] * len(overrides)
            wait([r.process.sentinel for r in running], LOOK)
            for each in running[:]:
                if must_end(each, master.sweep.timeout):
                    running.remove(each)  # first: `stop` has no use for a closed process
                    each.process.close()
    finally:
        stop(running)


def cores() -> int:
    return len(os.sched_getaffinity(0))


def visible(device: str) -> list[str]:
    """The GPUs to lease, where there are several."""
    there = len(list(Path("/dev").glob("nvidia[0-9]*")))  # torch would take its seconds to say so
    if device not in ("auto", "cuda") or there < 2:
        return []
    gpus = os.environ.get(GPUS, ",".join(map(str, range(there)))).split(",")  # "" is none
    return gpus if len(gpus) > 1 else []


def started(server: Any, task: Any, cfg: Any, gpu: str | None, callbacks: Any) -> Running:
    folder = Path(str(cfg.hydra.sweep.dir), str(cfg.hydra.sweep.subdir))
    process = server.Process(target=work, args=(task, cfg, gpu, callbacks), name=folder.name)
    process.start()
    return Running(process, folder, cfg, gpu, time.time())


def work(task: Any, cfg: Any, gpu: str | None, callbacks: Any) -> None:
    """In the job's process: as every launcher runs a job."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    if gpu is not None:
        os.environ[GPUS] = gpu
    setup_globals()
    run_job(
        hydra_context=HydraContext(None, callbacks),
        task_function=task,
        config=cfg,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        configure_logging=False,
    )


def end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os.kill(os.getpid(), signal.SIGKILL)  # as the sweep itself: what is on the disk stands


def must_end(running: Running, timeout: float | None) -> bool:
    """Whether a process is done with; it is killed where it hangs. What it lost is kept."""
    code, reason = running.process.exitcode, ""
    if code is None and timeout is not None:
        running.since = max(running.since, changed(running.folder))
        if time.time() - running.since > timeout:
            running.process.kill()
            running.process.join()
            code, reason = -signal.SIGKILL, f"hung: nothing for {timeout:g} s (sweep.timeout)"
    if code is None:
        return False
    if code < 0:
        reason = reason or f"killed by {signal.Signals(-code).name}"
        lost(running, reason)
    elif code and run_folder.read_status(running.folder).get("state") != "stopped":
        lost(running, f"its process ended with code {code}")
    return True


def lost(running: Running, reason: str) -> None:
    """Keep that a job failed, unless it had ended: it may have died after that."""
    folder = running.folder
    ledger.recovered(folder)
    names = {result["folder"] for result in ledger.results(folder.parent)}
    if folder.name not in names and (folder / ".hydra" / "overrides.yaml").exists():
        status = run_folder.read_status(folder) | {"state": "failed", "reason": reason}
        atomic.write_json(folder / "status.json", status)
        ours = OmegaConf.masked_copy(running.cfg, [key for key in running.cfg if key != "hydra"])
        ledger.ended(TrainlabError(reason), folder, ours)


def changed(folder: Path) -> float:
    """When anything in a folder last changed, s."""
    times = [path.stat().st_mtime for path in (folder, *folder.rglob("*")) if path.exists()]
    return max(times, default=0.0)


def stop(running: list[Running]) -> None:
    """A signal ended the sweep: the jobs save a checkpoint and end."""
    for each in running:
        each.process.terminate()
    end = time.monotonic() + GRACE
    for each in running:
        each.process.join(max(end - time.monotonic(), 0.0))
        each.process.kill()
