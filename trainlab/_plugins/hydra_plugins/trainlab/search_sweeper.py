"""hydra/sweeper=grid and the other samplers: a sampler chooses the jobs, which
trainlab/sweeps/execute/drive.py runs. Hydra looks for plug-ins in this namespace."""

from collections.abc import Callable, Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper


class SearchSweeper(Sweeper):
    def __init__(self, sampler: Callable, takes: Sequence[str] = ()):
        """takes: the `sweep.*` keys that the sampler is given, and `directory`, the sweep's folder,
        for one that keeps something there."""
        self.sampler, self.takes = sampler, takes

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: Sequence[str]) -> None:
        from trainlab.sweeps.execute.drive import drive

        loader = self.context.config_loader
        drive(self.launcher, loader, self.config, arguments, self.sampler, self.takes)
