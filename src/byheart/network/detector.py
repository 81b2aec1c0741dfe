"""Memorized at inference: does a prediction stand on the training set at large, or on a few examples known by heart?

A ridge regression of the classes on the vectors z that the last linear layer reads answers an input x by the sum over
training examples of a_i = x^T M^-1 z_i times the class of each, with M = sum z z^T + lambda: a_i is the share of its
answer that comes from example i. The score of x is the largest a_i times the memorization of i, over examples of the
predicted class. It is compared with that of ordinary inputs that the model has not seen, so that the rate of false
positives is kept whatever the score is (conformal prediction, Vovk et al. 2005). The score is ours; the weights a_i are
those of representer points (Yeh et al. 2018) of a ridge regression.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.linalg
from jaxtyping import Float, Float64, Int64

from byheart.network.calibration import MEMORIZED
from byheart.network.calling import call, of_input
from byheart.network.head import read_by_head
from byheart.network.inputs import inputs_only
from byheart.network.layers import INPUT, left_as_found, unwrapped, watched
from byheart.network.layout import NotFinite
from byheart.network.score_table import Evidence

if TYPE_CHECKING:
    from torch import nn

    from byheart.network.audit import Audit

_RIDGE = 1e-3  # of the mean eigenvalue
_LEAST_WEIGHT = 1e-3  # examples with less memorization than that carry no prediction


@dataclass(frozen=True, eq=False)
class Carriers:
    """The training examples that predictions may lean on, as the last linear layer reads them.

    Attributes:
        head: Name of the last linear layer.
        examples: Their indices: those that count as memorized at all.
        inputs: What the layer reads of each.
        moment: Sum of z z^T over all training examples, z what the layer reads.
        weights_digest: Digest of the audited network's weights.
        basis: Orthonormal columns, where the layer reads more numbers than there are examples: inputs and moment are
            coordinates in it. Else None: they are what the layer reads.
        one_output: If the network has one output for two classes, what that is: "logits" or "probabilities of each".
    """

    head: str
    examples: Int64[np.ndarray, " n_examples"]
    inputs: Float[np.ndarray, "n_examples n_coordinates"]
    moment: Float64[np.ndarray, "n_coordinates n_coordinates"]
    weights_digest: str
    basis: Float64[np.ndarray, "n_inputs n_coordinates"] | None = None
    one_output: str = ""


@dataclass(frozen=True, eq=False)
class Detector:
    """Tells inputs whose prediction leans on memorized training examples.

    Attributes:
        false_positive_rate: Of ordinary inputs, the share that is flagged.
        threshold: Score from which on an input is flagged.
        held_out_scores: Of the ordinary inputs that it was set by, ascending.
    """

    false_positive_rate: float
    threshold: float
    held_out_scores: Float64[np.ndarray, " n_held_out"] = field(repr=False)
    _model: nn.Module = field(repr=False)
    _weights_digest: str = field(repr=False)
    _head: str = field(repr=False)
    _one_output: str = field(repr=False)
    _examples: Int64[np.ndarray, " n_memorized"] = field(repr=False)
    _labels: Int64[np.ndarray, " n_memorized"] = field(repr=False)
    _scores: Float64[np.ndarray, " n_memorized"] = field(repr=False)
    _carriers: Float64[np.ndarray, "n_memorized n_hidden"] = field(repr=False)

    def __call__(self, inputs: Any) -> pd.DataFrame:
        """Return a row per input: prediction, score, p_value, flagged, example (the one that carries most of it).

        The p-value is the chance of such a score for an ordinary input. The example is -1 where no memorized one has
        the predicted class.

        Args:
            inputs: A dataset, or an array or tensor of inputs.

        Raises:
            ValueError: If the network's weights have changed since the audit, or it cannot take the inputs.
        """
        parts = [self._table(*part) for part in self._carried(inputs)]
        return pd.concat(parts, ignore_index=True)

    def explain(self, inputs: Any, n: int = 5) -> pd.DataFrame:
        """Return the memorized training examples that carry each prediction: a row per input and example.

        Columns: input, prediction, example (index in the training data), label, score (the audit's, of that example),
        share of what memorized examples contribute to the prediction. Only those with a share above 0 are listed.

        Args:
            inputs: A dataset, or an array or tensor of inputs.
            n: Largest number of examples for each input, at least 1.

        Raises:
            ValueError: If the network's weights have changed since the audit, it cannot take the inputs, or ``n`` is
                below 1.
        """
        if n < 1:
            raise ValueError(f"n: received {n}, accepted: at least 1")
        rows: list[tuple[int, int, int, int, float, float]] = []
        first = 0
        for predictions, carried in self._carried(inputs):
            total = np.maximum(carried.sum(axis=1), 1e-300)
            order = np.argsort(-carried, axis=1)[:, :n]
            for row, prediction in enumerate(predictions.tolist()):
                for k in order[row]:
                    if carried[row, k] > 0:
                        which = int(self._examples[k]), int(self._labels[k]), float(self._scores[k])
                        rows.append((first + row, prediction, *which, float(carried[row, k] / total[row])))
            first += len(predictions)
        return pd.DataFrame(rows, columns=["input", "prediction", "example", "label", "score", "share"])

    def _carried(self, inputs: Any) -> Any:
        """Yield, batch by batch, the predictions, and what each memorized example contributes to each (at least 0)."""
        _check_weights(self._model, self._weights_digest)
        for predictions, z in _answers(self._model, self._head, self._one_output, inputs):
            carried = np.maximum(z @ self._carriers.T, 0) * (self._labels == predictions[:, None])
            yield predictions, carried

    def _table(self, predictions: np.ndarray, carried: np.ndarray) -> pd.DataFrame:
        scores, best = carried.max(axis=1), self._examples[carried.argmax(axis=1)]
        n_above = len(self.held_out_scores) - np.searchsorted(self.held_out_scores, scores)
        return pd.DataFrame(
            {
                "prediction": predictions,
                "score": scores,
                "p_value": (n_above + 1) / (len(self.held_out_scores) + 1),
                "flagged": scores > self.threshold,
                "example": np.where(scores > 0, best, -1),
            }
        )


def make_detector(audit: Audit, model: nn.Module, held_out: Any, false_positive_rate: float) -> Detector:
    """Return the detector of an audited model; see ``Audit.detector``."""
    if not 0 < false_positive_rate < 1:
        raise ValueError(f"false_positive_rate: received {false_positive_rate}, accepted: between 0 and 1")
    if "head" not in audit.evidence:
        raise ValueError(
            f"detector: received an audit of {audit.provenance['model']}, accepted: one of a classifier whose outputs"
            " a linear layer makes"
        )
    carriers = audit.carriers
    if carriers is None:
        raise ValueError("detector: received an audit made with detector=False, accepted: one with detector=True")
    if not len(carriers.examples):
        raise ValueError("detector: received an audit in which no example counts as memorized, accepted: one with some")
    model = unwrapped(model)
    _check_weights(model, carriers.weights_digest)
    moment = carriers.moment.copy()
    width = len(moment) if carriers.basis is None else len(carriers.basis)
    moment[np.diag_indices_from(moment)] += _RIDGE * np.trace(moment) / width or 1.0
    solved = scipy.linalg.cho_solve(scipy.linalg.cho_factor(moment), carriers.inputs.astype(np.float64).T).T
    if carriers.basis is not None:
        solved = solved @ carriers.basis.T
    kept = carriers.examples
    labels = audit.table["label"].to_numpy()[kept]
    ranked = audit.table["score"].to_numpy()[kept]
    carried = memorization_weights(audit.table, audit.evidence)[kept, None] * solved
    network = model, carriers.weights_digest, carriers.head, carriers.one_output
    detector = Detector(false_positive_rate, np.inf, np.zeros(0), *network, kept, labels, ranked, carried)
    scores = np.sort(detector(held_out)["score"].to_numpy())
    rank = int(np.ceil((1 - false_positive_rate) * (len(scores) + 1)))  # the conformal quantile
    if rank > len(scores):
        raise ValueError(
            f"held_out: received {len(scores)} inputs, accepted: at least {int(np.ceil(1 / false_positive_rate)) - 1}"
            f" for a false positive rate of {false_positive_rate:g}"
        )
    return dataclasses.replace(detector, threshold=float(scores[rank - 1]), held_out_scores=scores)


def _check_weights(model: nn.Module, digest: str) -> None:
    if not hasattr(model, "named_modules") or weights_digest(model) != digest:
        raise ValueError(
            f"model: received a {type(model).__name__} that is not the audited network, accepted: the one that was"
            " audited, with the same weights"
        )


def weights_digest(model: nn.Module) -> str:
    """Return the SHA-256 of the names, shapes and contents of a network's parameters and buffers."""
    import torch

    result = hashlib.sha256()
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        result.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        result.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return result.hexdigest()


def carrying(table: pd.DataFrame, evidence: Collection[Evidence]) -> Int64[np.ndarray, " n_examples"]:
    """Return the examples that count as memorized at all, so that predictions may lean on them."""
    return np.flatnonzero(memorization_weights(table, evidence) > _LEAST_WEIGHT)


def memorization_weights(table: pd.DataFrame, evidence: Collection[Evidence]) -> Float64[np.ndarray, " n_examples"]:
    """Return how much each training example counts as memorized, in [0, 1].

    By an estimate, examples with a memorization of 0.25 or more count fully; by a ranking, the top tenth, and of the
    others the tenth power of their relative rank.
    """
    if "held_out" in evidence:
        return np.clip(table["estimate"].to_numpy() / MEMORIZED, 0, 1)
    weights: Float64[np.ndarray, " n_examples"] = np.minimum(table["score"].rank(pct=True).to_numpy() / 0.9, 1) ** 10
    return weights


def _answers(model: nn.Module, head: str, one_output: str, inputs: Any) -> Any:
    """Yield predictions, and the vectors that the last linear layer reads, batch by batch."""
    first = 0
    with left_as_found(model), watched(model, [head, f"{head}{INPUT}"]) as seen:
        for batch in inputs_only(inputs, model=model):
            seen.clear()
            outputs = call(model, batch)
            first_input = batch
            while isinstance(first_input, (Mapping, tuple)):
                first_input = next(iter(first_input.values() if isinstance(first_input, Mapping) else first_input))
            n_inputs = len(first_input)
            if outputs.ndim != 2 and not (one_output and outputs.shape[:1] == (n_inputs,)):
                raise ValueError(
                    f"inputs: received some with outputs of shape {tuple(outputs.shape)}, accepted: a batch of inputs,"
                    " with outputs of shape (n_inputs, n_classes); of one input x, x[None]"
                )
            try:
                z = read_by_head(seen, head, outputs, first + np.arange(len(outputs))).astype(np.float64)
            except NotFinite as error:
                raise of_input(error, batch, len(outputs)) from error
            first += len(outputs)
            if one_output:  # of two classes: a logit, or a probability
                predictions = (outputs.reshape(-1) > (0.5 if one_output == "probabilities of each" else 0)).long()
            else:
                predictions = outputs.argmax(dim=1)
            yield predictions.cpu().numpy(), z
