"""hydra/launcher=stack: the jobs that can, train as one. Hydra wants its plug-ins in this
namespace; what it does stands in trainlab/sweep/."""

from collections.abc import Sequence
from typing import Any

from hydra.plugins.launcher import Launcher


class StackLauncher(Launcher):
    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list:
        from trainlab.sweeps.execute.launch import launch

        return launch(self.context, self.task, self.config, job_overrides, initial_job_idx)
