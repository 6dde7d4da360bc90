"""hydra/launcher=process: one process a job. Hydra wants its plug-ins in this namespace; what it
does stands in trainlab/sweep/."""

from collections.abc import Sequence
from typing import Any

from hydra.plugins.launcher import Launcher


class ProcessLauncher(Launcher):
    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.context, self.task, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> list:
        from trainlab.sweeps.execute.processes import launch

        return launch(self.context, self.task, self.config, job_overrides, initial_job_idx)
