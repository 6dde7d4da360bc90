"""What a symptom of AUTOTRAINER, DeepDiagnosis or TheDeepChecker could mean, and what each of the
re-implemented rules (published_rules.py) looks at."""

from dataclasses import dataclass, replace

from torch import Tensor

from trainlab.observe.capture import StepRecord

BLOWN = "grad.exploding init.too_large init.mismatch optim.lr_high optim.lr_mismatch"
BLOWN += " data.unnormalised data.nonfinite loss.sum_reduction loss.sign loop.no_zero_grad"
FADED = "grad.vanishing init.too_small init.mismatch init.zero init.symmetric act.dead"
SLOW = "optim.lr_low optim.lr_mismatch optim.eps optim.overclipped optim.few_updates"
SLOW += " sched.wrong_unit fit.undertrained reg.weight_decay_high reg.dropout_high"
STUCK = f"{SLOW} {FADED} arch.double_softmax data.labels_random data.misaligned data.constant_input"
STUCK += " graph.input_ignored loop.param_not_updated arch.output_activation"
JUMPY = "optim.lr_high optim.lr_mismatch optim.noisy data.not_shuffled loop.no_zero_grad"
SCALE = "data.unnormalised data.double_norm data.noisy_input"
INIT = "init.mismatch init.too_small init.too_large init.zero init.symmetric"
INERT = "loop.param_not_updated init.zero init.symmetric graph.input_ignored data.constant_input"

_RIGHT = {
    "autotrainer": {
        "vanish": FADED, "explode": BLOWN, "dying": "act.dead init.zero optim.lr_high",
        "oscillate": JUMPY + " loss.sum_reduction", "slow": STUCK,
        "abnormal_data": SCALE + " data.nonfinite init.too_large", "abnormal_loss": "loss.sign",
    },
    "deepdiagnosis": {
        "numerical": f"{BLOWN} {FADED} data.constant_input", "dead_node": "act.dead optim.lr_high",
        "saturated": "grad.vanishing init.too_large act.dead optim.lr_high " + SCALE,
        "unchanged": f"{INERT} optim.lr_low sched.wrong_unit act.dead", "vanishing": FADED,
        "invalid_loss": BLOWN, "loss_not_decreasing": STUCK, "invalid_accuracy": STUCK + " "+ BLOWN,
        "accuracy_not_increasing": STUCK,
    },
    "thedeepchecker": {
        "features_constant": "data.constant_input graph.input_ignored",
        "features_unnormalized": SCALE, "unbalanced_labels": "data.imbalance",
        "poor_init": "init.zero init.symmetric", "need_init": INIT,
        "poor_init_loss": f"{INIT} {SCALE} loss.sum_reduction loss.sign",
        "poor_reduction_loss": "loss.sum_reduction", "nan_loss": BLOWN, "act_nan": BLOWN,
        "out_cons": f"{INERT} act.dead", "act_dead": "act.dead init.zero optim.lr_high",
        "act_sat": f"grad.vanishing init.too_large act.dead {SCALE}",
        "act_unstable": f"{INIT} {SCALE} grad.exploding grad.vanishing act.dead",
        "w_nan": BLOWN, "w_dead": "init.zero init.too_small reg.weight_decay_high",
        "w_negative": "act.dead", "w_div": BLOWN, "b_div": BLOWN, "gw_nan": BLOWN,
        "gw_van": FADED, "gw_exp": BLOWN, "w_untrained": INERT,
        "w_fast": BLOWN + " optim.noisy reg.weight_decay_high",
        "w_slow": "loop.param_not_updated grad.vanishing " + SLOW, "stagnated_loss": STUCK,
        "div_loss": BLOWN, "fluctuated_loss": JUMPY, "repr_loss": "metric.inconsistent loss.sign",
        "overwhelm_reg": "reg.weight_decay_high",
    },
}  # fmt: skip
# tool -> symptom -> names of faults that it could mean, read generously
RIGHT = {
    tool: {symptom: set(names.split()) for symptom, names in means.items()}
    for tool, means in _RIGHT.items()
}


@dataclass
class Epoch:
    """What one look shows; a loss is nan where no step was taken since the last look."""

    progress: float  # share of all steps that is done
    last: bool
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    record: StepRecord  # `updates` are those of the step in the middle
    reg: float  # gradient norm of the penalty / that of the loss, the largest of the weights'

    @property
    def weights(self) -> list[Tensor]:
        return [p for p in self.record.params.values() if p.dim() > 1]

    @property
    def slopes(self) -> list[Tensor]:
        """Gradients of the weights that have one."""
        return [g for g in self.record.grads.values() if g.dim() > 1]


class Rules:
    """What one tool has reported so far, in order; only names that RIGHT knows."""

    tool = ""

    def __init__(self):
        self.found: dict[str, None] = {}
        self.past: list[Epoch] = []  # without their tensors

    def tell(self, symptom: str, hit: bool = True) -> None:
        if symptom not in RIGHT[self.tool]:
            raise KeyError(f"{symptom}: no such symptom of {self.tool}")
        if hit:
            self.found.setdefault(symptom)

    def epoch(self, now: Epoch) -> None:
        self.past.append(now)
        self.judge(now)
        self.past[-1] = replace(now, record=None)

    def judge(self, now: Epoch) -> None:
        raise NotImplementedError
