"""R runs as one: models stacked on a leading run axis, trained by the ordinary Trainer. The only
room with torch.func.

Models are built and initialised one by one, then stacked, so every initialiser works unchanged.
Runs share no weight, so one `losses.backward(ones(R))` gives each its own gradient. Equal to R
separate runs up to the order of additions (1e-9 over 100 steps in float64), never bit for bit. R
runs, B batch, F features, C channels, H W image.

    group = Stack(trainers, seeds)      # R single Trainers of one structure, at one step
    group.trainer.fit(...)              # the ordinary loop; values are (R,)
    group.leaving()                     # which runs are done or have diverged
    group.take_out(r, single)           # what run r became, in its own Trainer
    group.compact([0, 2, 3])            # these stay, bit for bit
"""

from trainlab.stack.layers import stack
from trainlab.stack.lifting import CrossEntropy, lift
from trainlab.stack.optimizer import Optimizer
from trainlab.stack.runs import Stack

__all__ = ["CrossEntropy", "Optimizer", "Stack", "lift", "stack"]
