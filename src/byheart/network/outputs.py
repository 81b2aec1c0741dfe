"""The audit of outputs that were computed elsewhere, for those who have arrays in place of a torch module."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float64

from byheart.arrays import as_labels, finite_array
from byheart.network.audit import Audit, audit
from byheart.network.counterfactual import Counterfactual
from byheart.network.inputs import check_indexes, require_torch
from byheart.network.layers import OfNetwork
from byheart.network.listed import Show
from byheart.network.log import TrainingLog
from byheart.network.passes import OnProgress

if TYPE_CHECKING:
    import torch
    from torch import nn

_LEAST = 1e-45  # of a probability: the smallest number of float32
_SUM = 1e-3  # how far from 1 rows may sum


def audit_outputs(
    labels: Any,
    *,
    probabilities: Any = None,
    logits: Any = None,
    features: Any = None,
    log: TrainingLog | None = None,
    held_out: Counterfactual | None = None,
    ids: Any = None,
    batch_size: int = 512,
    show: Show | None = None,
    most_shown: int = 500,
    on_progress: OnProgress | None = None,
) -> Audit:
    """Score each training example of a classifier from what it gave, without the classifier.

    With features the audit has every score of a torch module that ends in a linear layer, except ``input_curvature``
    and those of checkpoints, no copies and no detector. Without them, what is looked at in place of a layer is the
    outputs, and scores of a last layer are left out.

    Args:
        labels: Class of each example, from 0 on, or words in the order of the outputs, of shape (n_examples,). Of a
            table of outputs whose columns are named as the words, the columns say the order; so they do of whole
            numbers that are names of columns but no places.
        probabilities: Of the classes, as the classifier gives them that was trained on these examples and labels, of
            shape (n_examples, n_classes); (n_examples,) are of class 1 of two. Probabilities of models that did not see
            an example, such as of a cross-validation, say nothing of what was memorized.
        logits: In place of probabilities: what goes into a softmax.
        features: What its last linear layer reads of each example, of shape (n_examples, n_features).
        log: Of the losses in training, if there is one.
        held_out: As of ``audit``.
        ids: As of ``audit``, like all that follow.
        batch_size: Examples that are looked at together.
        show: Makes a picture or a text of an example's arrays.
        most_shown: Number of examples that are kept for the page.
        on_progress: Called with the number of examples done, and the pass.

    Raises:
        ValueError: If not one of probabilities and logits is given, they are no such numbers (all logits from 0 to 1
            are none), rows of probabilities do not sum to 1, the arrays are of different numbers of examples, tables or
            columns have different indexes, or columns name other classes than labels do.
        ModuleNotFoundError: If PyTorch is missing.
    """
    require_torch()
    if (probabilities is None) == (logits is None):
        received = "neither" if logits is None else "both"
        raise ValueError(f"probabilities, logits: received {received}, accepted: one of them")
    outputs = finite_array(logits, "logits") if probabilities is None else _logs(probabilities)
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        one = outputs.ndim == 1 or outputs.shape[1:] == (1,)
        hint = "; of one logit z of class 1, np.stack([0 * z, z], axis=1) with z of shape (n_examples,)" if one else ""
        raise ValueError(
            f"logits: received shape {outputs.shape}, accepted: (n_examples, n_classes), two or more{hint}"
        )
    check_indexes(
        {"labels": labels, "probabilities": probabilities, "logits": logits, "features": features, "ids": ids}
    )
    labels = _in_order_of_columns(labels, logits if probabilities is None else probabilities)
    read = outputs if features is None else finite_array(features, "features")
    n_labels = len(as_labels(labels, "labels")[0])
    if read.ndim != 2 or not len(read) == len(outputs) == n_labels:
        raise ValueError(
            f"labels, features: received {n_labels} labels, features of shape {read.shape} and outputs of"
            f" {outputs.shape}, accepted: a label and a row of each for every example"
        )
    _check_range(labels, outputs.shape[1])
    if logits is not None and outputs.size and outputs.min() >= 0 and outputs.max() <= 1 + _SUM:
        raise ValueError(
            f"logits: received numbers from {outputs.min():.4g} to {outputs.max():.4g} alone, as probabilities are,"
            " accepted: what goes into a softmax (logits - 2 says the same as logits); probabilities= takes rows that"
            " sum to 1"
        )
    given = {"features": read.astype(np.float32), "outputs": outputs.astype(np.float32)}
    head: Literal[False] | str = False if features is None else "head"
    found = audit(
        _recorded(),
        (given, labels),
        "features",
        loss="cross_entropy",
        head=head,
        log=log,
        held_out=held_out,
        ids=ids,
        batch_size=batch_size,
        show=show,
        most_shown=most_shown,
        on_progress=on_progress,
        detector=False,
        copies=False,  # outputs that are the same are no copies
    )
    layer = "outputs" if features is None else "features"
    notes = [note for note in found.notes if not isinstance(note, OfNetwork)]
    if features is None:
        note = "What is looked at are the outputs themselves, without scores of a last linear layer: features= gives"
        notes.insert(0, f"{note} what it reads.")
    return dataclasses.replace(
        found,
        layers=[layer],
        rank={layer: found.rank["features"]},
        width={layer: found.width["features"]},
        notes=notes,
        provenance=found.provenance | {"model": "arrays", "parameters": "unknown", "layer": layer},
    )


def _in_order_of_columns(labels: Any, outputs: Any) -> Any:
    """Labels numbered by the columns of a table of outputs, where these are named as classes; else as they are."""
    columns = list(getattr(outputs, "column_names", getattr(outputs, "columns", ())))
    numbers, words = as_labels(labels, "labels")
    if words is None:
        whole = all(isinstance(name, (int, np.integer)) for name in columns)
        if columns and whole and columns != list(range(len(columns))):
            names = set(np.unique(numbers).tolist())
            if numbers.ndim == 1 and names <= set(columns) and not names <= set(range(len(columns))):
                return pd.Categorical(numbers, categories=columns)  # one is no place, so that these are names
            raise ValueError(
                f"labels: received whole numbers with outputs whose columns are {', '.join(map(str, columns[:10]))},"
                f" accepted: columns 0 to {len(columns) - 1} in this order, and labels that are their places; or words"
                " and columns that are these"
            )
        return labels
    used = [words[number] for number in np.unique(numbers)]
    if not set(used) & set(columns):  # columns such as p0 name no class
        return labels
    unknown = [word for word in used if word not in columns]
    if unknown:
        named = ", ".join(map(str, columns))
        raise ValueError(f"labels: received {unknown[0]!r}, accepted: the outputs' columns {named}")
    return pd.Categorical(np.array(words, dtype=object)[numbers], categories=columns)


def _check_range(labels: Any, n_classes: int) -> None:
    """Refuse whole numbers that are no places of the outputs' columns, as of classes from 1 on."""
    numbers, words = as_labels(labels, "labels")
    whole = (
        numbers.dtype.kind in "if" and bool(np.isfinite(numbers).all()) and bool((numbers == np.round(numbers)).all())
    )
    if words is not None or numbers.ndim != 1 or not numbers.size or not whole:
        return
    least, most = int(numbers.min()), int(numbers.max())
    if least >= 0 and most < n_classes:
        return
    ways = ["outputs as a table whose columns are the classes"]
    if most - least < n_classes:
        ways.insert(0, f"labels {'-' if least > 0 else '+'} {abs(least)}, if the first column is of class {least}")
    raise ValueError(
        f"labels: received classes from {least} to {most}, accepted: 0 to {n_classes - 1}, the places of the outputs'"
        f" columns; {', or '.join(ways)}"
    )


def _logs(probabilities: Any) -> Float64[np.ndarray, "n_examples n_classes"]:
    """Logarithms of probabilities, of both classes where those of class 1 are given."""
    p = finite_array(probabilities, "probabilities").astype(np.float64)
    if p.ndim not in (1, 2):
        raise ValueError(f"probabilities: received shape {p.shape}, accepted: (n_examples, n_classes)")
    p = np.stack([1 - p, p], axis=1) if p.ndim == 1 else p
    wrong = (p < 0).any(axis=1) | (p > 1).any(axis=1) | (np.abs(p.sum(axis=1) - 1) > _SUM)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"probabilities: received {', '.join(f'{v:g}' for v in p[row, :5])} of example {row}, accepted: numbers"
            " from 0 to 1 that sum to 1 in each row; logits= takes what goes into a softmax"
        )
    found: Float64[np.ndarray, "n_examples n_classes"] = np.log(np.maximum(p, _LEAST))
    return found


def _recorded() -> nn.Module:
    """A module that gives the outputs it is called with, and whose head reads the features."""
    from torch import nn

    class Recorded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.head = nn.Identity(), _Given()

        def forward(self, features: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
            self.head.outputs = outputs
            found: torch.Tensor = self.head(self.features(features))
            return found

    class _Given(nn.Module):
        outputs: torch.Tensor

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return self.outputs

    return Recorded()
