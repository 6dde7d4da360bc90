"""hydra/sweeper=grid and its sisters: which jobs there are is told by a sampler, what becomes of
them by trainlab/sweeps/execute/drive.py. Hydra wants its plug-ins in this namespace."""

from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


class SearchSweeper(Sweeper):
    def __init__(self, sampler: Callable):
        self.sampler = sampler

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: Sequence[str]) -> None:
        from trainlab.sweeps.execute.drive import drive

        drive(self.launcher, self.context.config_loader, self.config, arguments, self.sampler)
