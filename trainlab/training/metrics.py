"""Metrics: what is counted in a batch, the figure it makes, and which way is better. Named by
conf/metric/.

Counts add up over batches, parts of a batch and ranks; runs of a stack keep theirs apart. Whoever
ranks, prints or refuses a figure asks its `Facts`, which need no torch. B batch, K classes, R runs;
a stack puts R in front of every shape below.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

TOP = 5


@dataclass(frozen=True)
class Facts:
    """What a figure is called, which way is better, and how it is printed."""

    name: str
    direction: str | None  # up, down, or None: no number that could be ranked
    unit: str | None = None
    digits: int = 4

    def cost(self, figure: Any) -> Any:
        """The figure with lower as better, and back."""
        return -figure if self.direction == "up" else figure

    def text(self, figure: float) -> str:
        """`0.9713`"""
        return f"{figure:.{self.digits}f}{self.unit or ''}"


LOSS = Facts("loss", "down")  # the criterion's own figure, which every run has


@dataclass(frozen=True)
class Metric:
    """state(outputs (B, K), y) -> counts (...); figure(their sum, number of samples) -> ()."""

    facts: Facts
    state: "Callable[[Tensor, Tensor], Tensor]"
    figure: "Callable[[Tensor, Any], Tensor]"


def facts_of(config: Mapping[str, Any]) -> dict[str, Facts]:
    """Name -> Facts of the loss and of what `metric` names in a resolved config."""
    given = ("direction", "unit", "digits")
    found = {"loss": LOSS}
    for name, node in config.get("metric", {}).items():
        found[name] = Facts(name, **{key: node[key] for key in given if key in node})
    return found


def validated(values: Mapping[str, Any]) -> bool:
    """Whether figures of one step hold those of an evaluation."""
    return "val/loss" in values


def accuracy(**facts: Any) -> Metric:
    """Share of samples whose largest output is that of their class."""
    return Metric(Facts(**facts), n_correct, lambda right, n: right / n)


def top5(**facts: Any) -> Metric:
    """Share of samples whose class is among the five largest outputs."""
    return Metric(Facts(**facts), n_among_top, lambda right, n: right / n)


def macro_f1(**facts: Any) -> Metric:
    """Mean over the classes of 2 hits / (samples of the class + samples called so); a class that
    neither occurs nor is predicted is left out. As scikit-learn's f1_score(average="macro")."""

    def figure(counts: "Tensor", n: Any) -> "Tensor":
        hits = counts.diagonal(dim1=-2, dim2=-1)
        size = counts.sum(-1) + counts.sum(-2)  # true and predicted, (K,)
        return (2 * hits / size.clamp(min=1)).sum(-1) / (size > 0).sum(-1)

    return Metric(Facts(**facts), confusion_counts, figure)


def balanced_accuracy(**facts: Any) -> Metric:
    """Mean of the classes' recall; a class without a sample is left out. As scikit-learn's
    balanced_accuracy_score."""

    def figure(counts: "Tensor", n: Any) -> "Tensor":
        size = counts.sum(-1)  # of each true class, (K,)
        recall = counts.diagonal(dim1=-2, dim2=-1) / size.clamp(min=1)
        return recall.sum(-1) / (size > 0).sum(-1)

    return Metric(Facts(**facts), confusion_counts, figure)


def confusion(**facts: Any) -> Metric:
    """How many samples of each class (row) were called each class (column), (K, K)."""
    return Metric(Facts(**facts), confusion_counts, lambda counts, n: counts)


def n_correct(outputs: "Tensor", y: "Tensor") -> "Tensor":
    """How many of the batch have their largest output at their class, ()."""
    return (outputs.argmax(-1) == classes_of(y)).sum(-1)


def n_among_top(outputs: "Tensor", y: "Tensor") -> "Tensor":
    """How many of the batch have their class among the TOP largest outputs, ()."""
    largest = outputs.topk(min(TOP, outputs.shape[-1]), -1).indices  # (B, 5)
    return (largest == classes_of(y)[..., None]).any(-1).sum(-1)


def confusion_counts(outputs: "Tensor", y: "Tensor") -> "Tensor":
    """How many of the batch are of class i and called class j, (K, K)."""
    classes = outputs.shape[-1]
    cell = classes_of(y) * classes + outputs.argmax(-1)  # (B,)
    counts = cell.new_zeros((*cell.shape[:-1], classes * classes))
    return counts.scatter_add_(-1, cell, cell.new_ones(cell.shape)).unflatten(
        -1, (classes, classes)
    )


def classes_of(y: "Tensor") -> "Tensor":
    """Class numbers (B,) of y, which may be shares of classes (B, K)."""
    return y.argmax(-1) if y.is_floating_point() else y
