"""The table of scores: what each means, where it comes from and what it is made of.

Whatever lists scores reads this table: the page, the calibration, the leaderboard, and a test of docs/audit.md. A score
is added here and where it is computed: ``scores.py``, ``curvature.py``, ``passes.py`` or ``baselines.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pandas as pd

Evidence = Literal[
    "inputs",  # the data compared with each other, without a model; no part of an audit
    "model",
    "classes",  # targets that are classes, so that there are labels, predictions and margins
    "class_moments",  # moments of the layers by class, unless there are too many classes
    "head",  # a linear layer that makes the logits of the classes
    "log",  # losses over training, from a TrainingLog or from checkpoints
    "checkpoints",
    "curvature",
    "held_out",  # models that were trained on a part of the data
]


@dataclass(frozen=True)
class Score:
    """A score of the training examples.

    Attributes:
        name: Its column in ``Audit.table``.
        title: What a page calls it, in words that need no explanation.
        meaning: What it is, in words that begin a sentence or follow a colon.
        source: Publication that it is taken from, or "ours"; empty if it is a plain quantity.
        evidence: All that it is made from; an audit with this evidence has the score.
        sign: 1 if a larger score means more memorized, -1 if less.
        transform: Function under which it enters a regression: the logarithm of what is positive, else the identity.
        calibrates: When it is among the scores that held-out runs are regressed on.
        by_layer: Whether there is one for each layer that is looked at.
    """

    name: str
    title: str
    meaning: str
    source: str
    evidence: frozenset[Evidence]
    sign: Literal[1, -1] = 1
    transform: Literal["log", "identity"] = "log"
    calibrates: Literal["always", "with a log", "without a log", "never"] = "never"
    by_layer: bool = False

    @property
    def sentence(self) -> str:
        """The meaning as a sentence, with the source."""
        words = self.meaning[0].upper() + self.meaning[1:]
        return f"{words} ({self.source})." if self.source else f"{words}."

    def columns(self, layers: Sequence[str]) -> list[str]:
        """Return its columns in the table of an audit of these layers."""
        return [f"{self.name}:{layer}" for layer in layers] if self.by_layer and len(layers) > 1 else [self.name]

    def values(self, table: pd.DataFrame, layers: Sequence[str]) -> pd.Series[float]:
        """Return the score of every example, a mean over layers where there is one for each."""
        return table[self.columns(layers)].mean(axis=1)


_INPUTS: frozenset[Evidence] = frozenset({"inputs"})
_MODEL: frozenset[Evidence] = frozenset({"model"})
_HEAD: frozenset[Evidence] = _MODEL | {"classes", "head"}
_CLASS_MOMENTS: frozenset[Evidence] = _MODEL | {"classes", "class_moments"}

SCORES = {
    score.name: score
    for score in (
        Score(
            "kernel_leave_one_out",
            "unlike what similar inputs say",
            "how wrong a kernel ridge regression on the inputs is without the example (closed form)",
            "Rifkin and Lippert 2007",
            _INPUTS,
            transform="identity",
        ),
        Score(
            "neighbour_disagreement",
            "nearest inputs with another label",
            "the share of the nearest inputs that have another label",
            "",
            _INPUTS,
            transform="identity",
        ),
        Score("loss", "error now", "the loss of the network as it is now", "", _MODEL, calibrates="without a log"),
        Score(
            "mean_loss",
            "error averaged over training",
            "the loss averaged over training, from a log or checkpoints",
            "Pleiss et al. 2020 and others",
            _MODEL | {"log"},
            calibrates="with a log",
        ),
        Score(
            "margin",
            "lead of the right answer",
            "the logit of the right class less the largest other one; below 0 the answer is wrong",
            "",
            _MODEL | {"classes"},
            sign=-1,
            transform="identity",
        ),
        Score(
            "example_dimensionality",
            "room of its own in the network",
            "D_X, the share of a dimension of the layer that the example has to itself",
            "Henighan et al. 2023",
            _MODEL,
            by_layer=True,
        ),
        Score(
            "maximal_dimensionality",
            "unlike all other examples",
            "D*, the share of a dimension along the direction that isolates the example best: its leverage, which sums"
            " to the layer's rank",
            "C. Olah, comment in Henighan et al. 2023",
            _MODEL,
            calibrates="always",
            by_layer=True,
        ),
        Score(
            "ridge_leave_one_out",
            "error of the last layer without it",
            "how wrong a ridge regression on the last layer's input is without the example (closed form)",
            "Allen 1974",
            _HEAD,
            transform="identity",
            calibrates="always",
        ),
        Score(
            "gradient_dimensionality",
            "unlike others in what it asks of the network",
            "D* of the gradient in the last linear layer, by Kronecker factors",
            "after Martens and Grosse 2015",
            _HEAD,
            calibrates="always",
        ),
        Score(
            "other_class",
            "more like another class",
            "own-class leave-one-out D* over the lowest D* of another class, each times the class's size (logarithm):"
            " finds wrong labels",
            "ours",
            _CLASS_MOMENTS,
            transform="identity",
            calibrates="without a log",
            by_layer=True,
        ),
        Score(
            "wrong_label",
            "suspicion of a wrong label",
            "how much the evidence says that the label is wrong: the rank by the loss averaged over training (without a"
            " log, by the loss now), and by other_class, as far as that tells the classes apart",
            "ours",
            _MODEL | {"classes"},
            transform="identity",
        ),
        Score(
            "class_dimensionality",
            "unlike the others of its class",
            "D* among the examples of its own class and an average of all, with a ridge of 0.01 of the mean eigenvalue",
            "",
            _CLASS_MOMENTS,
            calibrates="without a log",
            by_layer=True,
        ),
        Score(
            "residual_dimensionality",
            "unlike all others, times error",
            "D* of the last layer's input times the squared residual",
            "ours",
            _HEAD,
            calibrates="without a log",
        ),
        Score(
            "gradient_norm",
            "how much it asks of the network",
            "the length of the gradient in the last linear layer",
            "Paul et al. 2021",
            _HEAD,
            calibrates="without a log",
        ),
        Score(
            "mean_residual_dimensionality",
            "unlike all others, times error, averaged over training",
            "D* of the last layer's input times the squared residual, averaged over checkpoints",
            "ours",
            _HEAD | {"checkpoints"},
        ),
        Score(
            "input_curvature",
            "answer changes with small changes of the input",
            "how fast the loss's gradient changes along the input",
            "Garg, Ravikumar and Roy 2024",
            _MODEL | {"curvature"},
        ),
    )
}


def scores_from(evidence: Collection[Evidence]) -> list[Score]:
    """Return the scores that an audit with this evidence has."""
    return [score for score in SCORES.values() if score.evidence <= frozenset(evidence)]
