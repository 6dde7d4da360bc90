"""Rules of AUTOTRAINER, DeepDiagnosis and TheDeepChecker, RE-IMPLEMENTED for trainlab's Trainer.

They are not the tools: those are Keras 2.2 and TensorFlow 1.14. Thresholds are those of the public
code (AutoTrainer/utils/monitor.py; DeepDiagnosis callbacks.py; deep_checker/config/settings.yaml).
Same for all: an "epoch" is a true one if 6 fit into the run, else 25 steps or a sixth of the run;
the training loss is the mean of its steps, the training accuracy that of the first 256 samples in
evaluation mode; gradients and activations are those of the first batch (of 32 samples at least) in
evaluation mode; validation is its first batch; layers are activation calls and the logits.
B batch, U units.

AUTOTRAINER (Zhang et al. 2021): judged at half of the run, and later once learning is slow or the
loss abnormal; the first diagnosis stands, as its repair would begin. Gradients are checked each
epoch, not each third, and one hit is enough. No check of Keras' loss and output strings.
DeepDiagnosis (Wardat et al. 2022): the first symptom stands. Conv weights are judged as dense ones.
"out of range" stays out: torch's cross entropy takes logits, where it always fires.
TheDeepChecker (Ben Braiek and Khomh 2022): its checks run on the training itself, not on 16 samples
to be overfitted; on one fixed batch, not a buffer of 10; update ratios are those of one step an
epoch, and slow or fast is their geometric mean so far, or the tail of every schedule were slow.
Left out: biases' initial values, the 1,000 step fit, numerical gradients, CKA, and the output's
sum (logits again). Saturation takes the activation's own range, where the original takes [0, 1].
"""

from typing import Any

import torch
from published_symptoms import Epoch
from published_tools import AutoTrainer, DeepDiagnosis, TheDeepChecker
from torch import Tensor

from trainlab.observe.capture import StepRecord, capture, eager, unmoved
from trainlab.training.metrics import n_correct
from trainlab.training.trainer import Trainer, evaluating


class Published:
    """The three sets of rules beside one run of a single network; its weights stay as they are.

    Call `before` on the fresh Trainer, `watch` after every step, `names` at the end, also when the
    training raised. Batches are drawn ahead: they must be a function of the step.
    """

    def __init__(self, every: int = 25):
        self.most = every

    def before(self, trainer: Trainer) -> None:
        sixth, whole = max(1, trainer.steps // 6), trainer.batches.per_epoch
        self.every = whole if 10 <= whole <= sixth else min(self.most, sixth)
        self.many = _first(trainer, 256)
        self.x, self.y = _first(trainer, 32)
        self.record: list[tuple] = []
        self.last_record: Any = None
        self.looked, self.old, self.moves = -1, [], []
        self.rules = {
            "autotrainer": AutoTrainer(),
            "deepdiagnosis": DeepDiagnosis(),
            "thedeepchecker": TheDeepChecker(),
        }
        with evaluating(trainer.model):
            record = capture(trainer.model, trainer.objective, self.x, self.y)
        self.rules["thedeepchecker"].prepare(trainer, record, *self.many)

    def watch(self, trainer: Trainer) -> None:
        """After every step. `interval` may have emptied the record; then that one step is lost."""
        if trainer.record and trainer.record[-1] is not self.last_record:
            self.last_record = trainer.record[-1]
            self.record.append(self.last_record)
        if self.old:
            pairs = zip(trainer.model.parameters(), self.old, strict=True)
            self.moves, self.old = [p.detach() - q for p, q in pairs], []
        if (
            trainer.step_count + 1
        ) % self.every == self.every // 2:  # the middle stands for the mean
            self.old = [p.detach().clone() for p in trainer.model.parameters()]
        if trainer.step_count % self.every == 0:
            self._look(trainer)

    def names(self, trainer: Trainer) -> dict[str, list[str]]:
        """The symptoms of each tool, in the order in which they were seen. A run that broke off
        inside an epoch is looked at as it is."""
        if trainer.step_count != self.looked and trainer.step_count % self.every:
            self._look(trainer)
        return {tool: list(rules.found) for tool, rules in self.rules.items()}

    def _look(self, trainer: Trainer) -> None:
        self.looked = trainer.step_count
        with evaluating(trainer.model), unmoved(trainer.model):
            record = capture(trainer.model, trainer.objective, self.x, self.y)
            x, y = trainer.validation(0) if trainer.validation is not None else (self.x, self.y)
            with torch.no_grad():
                model, (many, labels) = eager(trainer.model), self.many
                logits = model(x)
                val = trainer.criterion(logits, y), n_correct(logits, y) / len(y)
                accuracy = float(n_correct(model(many), labels) / len(labels))
        if self.moves:
            record.updates = dict(zip(record.params, self.moves, strict=True))
        loss = _mean(self.record)
        self.record, self.moves = [], []
        epoch = Epoch(
            trainer.step_count / trainer.steps,
            trainer.step_count + self.every > trainer.steps, loss, accuracy,
            float(val[0]), float(val[1]), record, _regularised(trainer, record),
        )  # fmt: skip
        for rules in self.rules.values():
            rules.epoch(epoch)


def _first(trainer: Trainer, least: int) -> tuple[Tensor, Tensor]:
    """The first batches that are at least so many samples, or an epoch."""
    drawn, step = [trainer.batches(0)], 1
    while step < trainer.batches.per_epoch and sum(len(y) for _, y in drawn) < least:
        drawn.append(trainer.batches(step))
        step += 1
    xs, ys = zip(*drawn, strict=True)
    return torch.cat(xs), torch.cat(ys)


def _mean(record: list[tuple]) -> float:
    """Mean loss of steps: (loss (), hits (), clipped, B); nan without any."""
    sizes = [row[3] for row in record]
    losses = [float(row[0]) * row[3] for row in record]
    return sum(losses) / sum(sizes) if record else float("nan")


def _regularised(trainer: Trainer, record: StepRecord) -> float:
    if trainer.penalty is None:
        return 0.0
    free = {
        n: p
        for n, p in zip(record.params, trainer.model.parameters(), strict=True)
        if p.requires_grad
    }
    reg = trainer.penalty(trainer.penalised)
    grads = torch.autograd.grad(reg, list(free.values()), allow_unused=True)
    pairs = [(g, record.grads.get(n)) for n, g in zip(free, grads, strict=True) if g is not None]
    ratios = [float(g.norm() / ((h - g).norm() + 1e-8)) for g, h in pairs if h is not None]
    return max(ratios, default=0.0)
