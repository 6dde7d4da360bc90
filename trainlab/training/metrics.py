"""Metrics: what is counted in a batch, the figure it makes, and which way is better. Named by
conf/metric/.

Counts add up over batches, parts of a batch and ranks, and are separate for each run of a stack.
Ranking, printing and refusing a figure all use its `Facts`, which need no torch. B batch, K
classes, R runs; a stack puts R in front of every shape below.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

TOP = 5


@dataclass(frozen=True)
class Facts:
    """Name of a figure, which way is better, and how it is printed."""

    name: str
    direction: str | None  # up, down, or None: not one number, cannot be ranked
    unit: str | None = None
    digits: int = 4

    def cost(self, figure: Any) -> Any:
        """The figure with its sign changed so that lower is better; twice gives the figure back."""
        return -figure if self.direction == "up" else figure

    def text(self, figure: float) -> str:
        """`0.9713`"""
        return f"{figure:.{self.digits}f}{self.unit or ''}"


LOSS = Facts("loss", "down")  # the criterion, which every run reports


@dataclass(frozen=True)
class Metric:
    """state(outputs (B, K), y) -> counts (...); figure(their sum, number of samples) -> ()."""

    facts: Facts
    state: "Callable[[Tensor, Tensor], Tensor]"
    figure: "Callable[[Tensor, Any], Tensor]"


def facts_of(config: Mapping[str, Any]) -> dict[str, Facts]:
    """Name -> Facts, for the loss and the metrics of a resolved config."""
    given = ("direction", "unit", "digits")
    facts = {"loss": LOSS}
    for name, node in config.get("metric", {}).items():
        facts[name] = Facts(name, **{key: node[key] for key in given if key in node})
    return facts


def validated(values: Mapping[str, Any]) -> bool:
    """Whether the figures of one step include those of an evaluation."""
    return "val/loss" in values


def accuracy(**facts: Any) -> Metric:
    """Share of samples whose largest output is at their class."""
    return Metric(Facts(**facts), n_correct, lambda right, n: right / n)


def top5(**facts: Any) -> Metric:
    """Share of samples whose class is among the five largest outputs."""
    return Metric(Facts(**facts), n_among_top, lambda right, n: right / n)


def macro_f1(**facts: Any) -> Metric:
    """Mean over classes of 2 hits / (samples of the class + predictions of it); a class that
    neither occurs nor is predicted is left out. As scikit-learn's f1_score(average="macro")."""

    def figure(counts: "Tensor", n: Any) -> "Tensor":
        hits = counts.diagonal(dim1=-2, dim2=-1)
        size = counts.sum(-1) + counts.sum(-2)  # true and predicted, (K,)
        return (2 * hits / size.clamp(min=1)).sum(-1) / (size > 0).sum(-1)

    return Metric(Facts(**facts), confusion_counts, figure)


def balanced_accuracy(**facts: Any) -> Metric:
    """Mean recall over classes; a class without samples is left out. As scikit-learn's
    balanced_accuracy_score."""

    def figure(counts: "Tensor", n: Any) -> "Tensor":
        size = counts.sum(-1)  # of each true class, (K,)
        recall = counts.diagonal(dim1=-2, dim2=-1) / size.clamp(min=1)
        return recall.sum(-1) / (size > 0).sum(-1)

    return Metric(Facts(**facts), confusion_counts, figure)


def confusion(**facts: Any) -> Metric:
    """Number of samples of each class (row) predicted as each class (column), (K, K)."""
    return Metric(Facts(**facts), confusion_counts, lambda counts, n: counts)


def n_correct(outputs: "Tensor", y: "Tensor") -> "Tensor":
    """Number of samples with the largest output at their class, ()."""
    return (outputs.argmax(-1) == classes_of(y)).sum(-1)


def n_among_top(outputs: "Tensor", y: "Tensor") -> "Tensor":
    """Number of samples with their class among the TOP largest outputs, ()."""
    largest = outputs.topk(min(TOP, outputs.shape[-1]), -1).indices  # (B, 5)
    return (largest == classes_of(y)[..., None]).any(-1).sum(-1)


def confusion_counts(outputs: "Tensor", y: "Tensor") -> "Tensor":
    """Number of samples of class i predicted as class j, (K, K)."""
    classes = outputs.shape[-1]
    cell = classes_of(y) * classes + outputs.argmax(-1)  # (B,)
    counts = cell.new_zeros((*cell.shape[:-1], classes * classes))
    return counts.scatter_add_(-1, cell, cell.new_ones(cell.shape)).unflatten(
        -1, (classes, classes)
    )


def classes_of(y: "Tensor") -> "Tensor":
    """Class numbers (B,) of y, which may be shares of classes (B, K)."""
    return y.argmax(-1) if y.is_floating_point() else y
