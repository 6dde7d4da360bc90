"""Configs of a sweep's jobs: composed once, equal to Hydra's own; and which jobs stack."""

from hydra.types import RunMode
from omegaconf import OmegaConf

from trainlab.cli.compose import context_of, hydra_session
from trainlab.config import keys
from trainlab.sweeps.execute import compose, partition

JOBS = [
    ["optim=adam", "optim.lr=0.1", "seed=5", "epochs=3"],
    ["optim=adam", "optim.lr=0.2", "seed=1"],
    ["optim=sgd", "optim.lr=0.2", "seed=1"],
    ["optim=adam", "optim.lr=0.2", "model.widths=[8,8]", "data.classes=[1,2]"],
    ["optim=adam", "optim.lr=0.3", "groups.lr=['head*:10']", "monitor=val/accuracy"],
    ["optim=adam", "optim.weight_decay=0.1", "clip={norm:1}"],
    ["optim=annealed_noise", "seed=7", "hydra.output_subdir=.hydra/resume-001", "resume='a b'"],
]


def test_a_job_is_composed_as_hydra_does():
    with hydra_session() as hydra:
        master = hydra.compose_config("config", ["seed=0,1"], RunMode.MULTIRUN)
        found = compose.Jobs(context_of(hydra), master, JOBS, 3)
        for number, lines in enumerate(JOBS, 3):
            cfg = found.config(number - 3)
            own = hydra.config_loader.load_sweep_config(master, lines)
            own.hydra.job.id = own.hydra.job.num = number
            assert OmegaConf.to_container(cfg) == OmegaConf.to_container(own), lines
            ours = OmegaConf.masked_copy(own, [key for key in own if key != "hydra"])
            assert found.plain(number - 3) == keys.flat(keys.values(ours)), lines


def test_jobs_that_differ_in_values_only_are_one_stack():
    base = keys.defaults() | {"optim": {"_target_": "torch.optim.SGD", "lr": 0.1, "momentum": 0.9}}

    def job(**changes):
        config = OmegaConf.create(base)
        for key, value in changes.items():
            OmegaConf.update(config, key.replace("__", "."), value)
        return OmegaConf.to_container(config)

    jobs = [job(), job(seed=1), job(optim__lr=0.2), job(optim___target_="torch.optim.Adam"),
            job(batch_size=64), job(penalty__l2=0.1), job(penalty__l2=0.2),
            job(epochs=2), job(schedule___target_="other"), job(data__root="elsewhere"),
            job(fault__severity=1), job(fault__severity=1)]  # fmt: skip
    alone = [[place] for place in range(7, 12)]
    assert partition.stackable_jobs(jobs) == [[0, 1, 2], [3], [4], [5, 6], *alone]
