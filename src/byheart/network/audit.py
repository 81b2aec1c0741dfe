"""The audit: which training examples did a network memorise? Any torch module, its training data, one of its layers.

The data are gone through twice, in evaluation mode: once for the second moments of the layer, once for the scores of
each example (``scores.py``). Nothing of the model is changed, and no activations are kept.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd
import threadpoolctl
from jaxtyping import Int64
from scipy.special import expit

from byheart.network.calibration import MEMORIZED, calibrate
from byheart.network.counterfactual import Counterfactual
from byheart.network.curvature import input_curvature
from byheart.network.inputs import Batch, Inputs, as_inputs, call, require_torch
from byheart.network.layers import find_head, find_layers, left_as_found, vectors, watched
from byheart.network.log import TrainingLog
from byheart.network.scores import RIDGE, HeadMoments, HeadScores, LayerMoments, LayerScores

if TYPE_CHECKING:
    import torch
    from torch import nn

    from byheart.network.detector import Detector

LossName = Literal["cross_entropy", "nll", "mse"]
OnProgress = Callable[[int, str], None]
_UNCALIBRATED_SHARE = 0.01  # of the examples that are flagged where nothing says how many are memorised
_SAME_LOSS = 1e-3  # relative; two passes over the same inputs differ by less


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found.

    Attributes:
        table: One row per example, in the dataset's order: label, prediction and margin (of classifications), loss,
            the scores of ``byheart.network.scores`` by name, mean_loss (with a log), score, flagged; with a held-out
            run also estimate of memorization, low and high of its interval, and probability that it is above 0.25.
        layers: The layers that were looked at.
        rank: By layer: how many of its dimensions are in use, the sum of ``maximal_dimensionality``.
        width: By layer: how many it has.
        score_name: What ``table["score"]`` is: the best ranking that the given evidence allows.
        notes: What a reader of the results must know.
        provenance: What was audited, by name.
    """

    table: pd.DataFrame
    layers: list[str]
    rank: dict[str, int]
    width: dict[str, int]
    score_name: str
    notes: list[str]
    provenance: dict[str, str]
    _model: nn.Module
    _inputs: Inputs
    _plan: _Plan

    def __repr__(self) -> str:
        """Return what was audited, and how many examples are flagged."""
        return (
            f"Audit({self.provenance['model']}, layer {self.provenance['layer']}: {self.table['flagged'].sum():,} of"
            f" {len(self.table):,} examples flagged, by {self.score_name})"
        )

    @property
    def budget(self) -> pd.DataFrame:
        """By layer: how many dimensions the flagged examples hold, and how many all others do."""
        rows = []
        for layer in self.layers:
            held = self.table[_column("maximal_dimensionality", layer, self.layers)]
            flagged = float(held[self.table["flagged"]].sum())
            rows.append((layer, flagged, float(held.sum()) - flagged, int(self.table["flagged"].sum())))
        return pd.DataFrame(rows, columns=["layer", "flagged", "others", "n_flagged"])

    def detector(self, held_out: Any, false_positive_rate: float = 0.05) -> Detector:
        """Return what tells new inputs whose prediction leans on memorised training examples (``audit.detector``).

        Args:
            held_out: Ordinary inputs that the model was not trained on: a dataset, or an array or tensor of inputs.
            false_positive_rate: Share of ordinary inputs that is flagged, in (0, 1).

        Raises:
            ValueError: If the model is no classifier with a last linear layer, or there are too few held-out inputs.
        """
        from byheart.network.detector import make_detector

        return make_detector(self, held_out, false_positive_rate)

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write the audit as one HTML page that opens from disk; options as of ``byheart.network.page.write_page``.

        Raises:
            ValueError: If the name does not end in .html.
            OSError: If the page cannot be written.
        """
        from byheart.network.page import write_page

        path = Path(path)
        if path.suffix != ".html":
            raise ValueError(f"path: received {path}, accepted: a name that ends in .html")
        path.parent.mkdir(parents=True, exist_ok=True)
        options = {"title": self.provenance["model"], "label_names": self._inputs.label_names} | options
        return write_page(self, path, **options)

    def item(self, index: int) -> Any:
        """Return the input of an example, as the dataset has it."""
        return self._inputs.item(index)

    def nearest(self, indices: Any, n: int = 3) -> Int64[np.ndarray, "n_chosen n_nearest"]:
        """Return the other examples whose vectors in the (first) layer have the least angle to each of these.

        Args:
            indices: Of examples: a sequence or array of integers.
            n: How many of each.

        Raises:
            ValueError: If these are no indices of examples, or ``n`` is below 1.
        """
        indices = np.atleast_1d(np.asarray(indices))
        if (
            indices.ndim != 1
            or indices.dtype.kind not in "iu"
            or not np.isin(indices, np.arange(len(self.table))).all()
        ):
            raise ValueError(f"indices: received {indices}, accepted: integers from 0 to {len(self.table) - 1}")
        if n < 1:
            raise ValueError(f"n: received {n}, accepted: at least 1")
        name = self.layers[0]
        with left_as_found(self._model):
            each, places_of = np.unique(indices, return_inverse=True)
            chosen = np.concatenate(
                [rows[np.isin(first + np.arange(len(rows)), each)] for first, rows in self._directions(name)]
            )[places_of]
            best = np.full((len(indices), n), -np.inf)
            found = np.zeros((len(indices), n), dtype=np.int64)
            for first, rows in self._directions(name):
                cosines = chosen @ rows.T
                own = (indices >= first) & (indices < first + len(rows))
                cosines[own, indices[own] - first] = -np.inf
                values = np.hstack([best, cosines])
                places = np.hstack([found, np.broadcast_to(first + np.arange(len(rows)), cosines.shape)])
                order = np.argsort(-values, axis=1)[:, :n]
                best, found = np.take_along_axis(values, order, 1), np.take_along_axis(places, order, 1)
        return found[:, : min(n, len(self.table) - 1)]

    def _directions(self, layer: str) -> Iterator[tuple[int, np.ndarray]]:
        """Unit vectors of the examples in a layer, batch by batch; means over positions."""
        for batch, _, seen in _passes(self._model, self._inputs, self._plan):
            rows = vectors(seen[layer], layer, batch.first).mean(axis=1)
            yield batch.first, rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)


def audit(
    model: nn.Module,
    dataset: Any,
    layer: str | None = None,
    *,
    log: TrainingLog | None = None,
    held_out: Counterfactual | None = None,
    checkpoints: Sequence[Mapping[str, Any]] = (),
    loss: LossName | Callable[[Any, torch.Tensor], torch.Tensor] | None = None,
    curvature: bool = False,
    batch_size: int = 512,
    on_progress: OnProgress | None = None,
) -> Audit:
    """Score each training example of a network by how much it is memorised.

    ``table["score"]`` is, larger meaning more memorised,

    - with a held-out run: the estimate of memorization;
    - else with a log: the loss averaged over training times D* of the layer;
    - without one, in a classification: the mean of the ranks by ``ridge_leave_one_out``, ``gradient_dimensionality``
      and ``other_class``;
    - else: the loss times D*.

    In a classification the last three are lowered where the network answers wrongly now, since what it does not
    answer it does not know by heart: times 2 sigmoid(margin), at most 1, of the ranks the fourth root.

    Args:
        model: Any torch module; its mode, hooks and random states are left as found.
        dataset: What it was trained on: a torch ``Dataset`` or ``DataLoader`` of (input, target), or a pair of arrays.
        layer: Name of a module, or a glob pattern; default the input of the last linear layer, or if the model has none
            there, its last submodule.
        log: Of the losses in training, if there is one.
        held_out: Models that were trained on a part of the data, one or more: what turns the ranking into probabilities
            (``byheart.network.calibration``), and flags the examples whose probability is above 1/2.
        checkpoints: State dicts of the model during training, early ones too: adds ``mean_residual_dimensionality``
            (of classifications), and ``mean_loss`` if there is no log. Two more passes each.
        loss: "cross_entropy" (outputs are logits; default for integer targets), "nll" (log probabilities), "mse"
            (default for other targets), or a function of outputs and targets that returns one loss per example.
        batch_size: Of data that do not come in batches.
        curvature: Adds ``input_curvature`` (``byheart.network.curvature``), for which gradients are computed.
        on_progress: Called with the number of examples done, and the pass, after every batch.

    Raises:
        ValueError: If the layer does not exist or is no tensor of finite numbers, the dataset is empty, targets do not
            fit the outputs, or the log is of another number of examples.
        ModuleNotFoundError: If PyTorch is missing; the message says how to install it.

    References:
        Henighan et al. 2023 (D_X, and C. Olah's MNIST comment: D*); the scores' own in ``byheart.network.scores``.
    """
    require_torch()
    from torch import nn

    if not isinstance(model, nn.Module):
        raise ValueError(f"model: received {type(model).__name__}, accepted: a torch module")
    if layer is not None and not isinstance(layer, str):
        raise ValueError(f"layer: received {layer!r}, accepted: a name or a glob pattern")
    if log is not None and not isinstance(log, TrainingLog):
        raise ValueError(f"log: received {type(log).__name__}, accepted: a TrainingLog")
    if held_out is not None and not isinstance(held_out, Counterfactual):
        raise ValueError(f"held_out: received {type(held_out).__name__}, accepted: a Counterfactual")
    inputs = as_inputs(dataset, batch_size)
    # Threads of BLAS and of PyTorch wait for each other's cores: with two of each an audit takes twice as long.
    with threadpoolctl.threadpool_limits(1, user_api="blas"), left_as_found(model):
        plan = _Plan.make(model, inputs, layer, loss)
        first = _first_pass(model, inputs, plan, on_progress)
        if log is not None and len(log) != len(first.table):
            raise ValueError(f"log: received one of {len(log)} examples, accepted: of the dataset's {len(first.table)}")
        scores = _second_pass(model, inputs, plan, first, on_progress)
        table = pd.concat([first.table, scores], axis=1)
        if curvature:
            table["input_curvature"] = np.concatenate(
                [input_curvature(model, batch, lambda out, y: _losses(out, y, plan.loss)) for batch in inputs]
            )
    for name, values in _over_checkpoints(model, inputs, plan, checkpoints, on_progress).items():
        table[name] = values
    notes = [*inputs.notes, *plan.notes]
    difference = (table.pop("second_loss") - table["loss"]).abs().max()
    if difference > _SAME_LOSS * max(float(table["loss"].abs().max()), 1e-6):
        notes.append(
            "Two passes gave different losses: the data are drawn anew each time (augmentation), or the model is random"
            " in evaluation mode. Scores are those of one draw; audit the data without augmentation."
        )
    if log is not None:
        table["mean_loss"] = log.mean_loss
    name, table["score"] = best_score(table, plan.layers)
    if held_out is not None:
        table[["estimate", "low", "high", "probability"]] = calibrate(table, held_out)
        name, table["score"] = "estimate of memorization", table["estimate"]
        table["flagged"] = table["probability"] > 0.5
        n_runs = len(held_out.train_mask)
        notes.append(
            f"Probabilities that memorization is above {MEMORIZED:g} come from {n_runs} held-out"
            f" run{'s' if n_runs > 1 else ''}; flagged are those above 1/2."
        )
    else:
        n_flagged = max(1, round(_UNCALIBRATED_SHARE * len(table)))
        table["flagged"] = table["score"].rank(ascending=False, method="first") <= n_flagged
        notes.append(
            f"The ranking is uncalibrated: no model was trained without some of the examples. The {n_flagged} with the"
            " largest scores are flagged, however many are memorised."
        )
    scored = first.layer_scores
    return Audit(
        table,
        plan.layers,
        {name: scores.rank for name, scores in scored.items()},
        {name: len(scores.moments.moment) for name, scores in scored.items()},
        name,
        notes,
        _provenance(model, plan),
        model,
        inputs,
        plan,
    )


def _provenance(model: nn.Module, plan: _Plan) -> dict[str, str]:
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    loss = plan.loss if isinstance(plan.loss, str) else getattr(plan.loss, "__name__", "the user's own")
    return {
        "model": type(model).__name__,
        "parameters": f"{n_parameters:,}",
        "layer": ", ".join(plan.layers),
        "loss": loss,
        "ridge of scores by class": f"{RIDGE:g} of the mean eigenvalue",
    }


@dataclass
class _Plan:
    """What is watched, and how outputs are read."""

    layers: list[str]
    layer_is_head_input: bool
    head: str | None
    n_classes: int | None
    loss: LossName | Callable[[Any, torch.Tensor], torch.Tensor]
    notes: list[str]

    @classmethod
    def make(
        cls,
        model: nn.Module,
        inputs: Inputs,
        layer: str | None,
        loss: LossName | Callable[[Any, torch.Tensor], torch.Tensor] | None,
    ) -> _Plan:
        import torch

        batch = next(iter(inputs))
        outputs: list[Any] = []

        def forward() -> Any:
            outputs.append(call(model, batch.inputs))
            return outputs[0]

        head = find_head(model, forward)
        whole = not batch.targets.is_floating_point()
        if loss is None:
            loss = "cross_entropy" if whole else "mse"
        if isinstance(loss, str) and loss not in get_args(LossName):
            raise ValueError(f"loss: received {loss!r}, accepted: {', '.join(get_args(LossName))} or a function")
        output = outputs[0]
        classes = torch.is_tensor(output) and output.ndim == 2 and whole and batch.targets.ndim == 1 and loss != "mse"
        notes = []
        if layer is None and head is None:
            names = [name for name, _ in model.named_modules() if name]
            if not names:
                raise ValueError("layer: received none of a model without submodules, accepted: a model with some")
            layer = names[-1]
            notes.append(f"No linear layer makes the output; the layer looked at is {layer}.")
        y = batch.targets
        if y.ndim == 2 and y.shape[1] > 1 and bool(((y == 0) | (y == 1)).all() and (y.sum(dim=1) == 1).all()):
            notes.append(
                "Targets look like one-hot rows, which are not taken as classes; for these give class numbers."
            )
        layers = find_layers(model, layer) if layer is not None else [f"{head}.input"]
        return cls(layers, layer is None, head, int(output.shape[1]) if classes else None, loss, notes)


@dataclass
class _FirstPass:
    table: pd.DataFrame
    layer_scores: dict[str, LayerScores]
    head_scores: HeadScores | None


def _first_pass(model: nn.Module, inputs: Inputs, plan: _Plan, on_progress: OnProgress | None) -> _FirstPass:
    parts: list[pd.DataFrame] = []
    moments: dict[str, LayerMoments] = {}
    head: HeadMoments | None = None
    for batch, outputs, seen in _passes(model, inputs, plan):
        parts.append(_answers(batch, outputs, plan))
        labels = parts[-1]["label"].to_numpy() if plan.n_classes is not None else None
        for name in plan.layers:
            rows = vectors(seen[name], name, batch.first)
            moments.setdefault(name, LayerMoments(rows.shape[-1], plan.n_classes)).add(rows, labels)
        if plan.head is not None and labels is not None and plan.n_classes is not None:
            z = vectors(seen[f"{plan.head}.input"], plan.head, batch.first)[:, 0]
            head = head or HeadMoments(z.shape[1], plan.n_classes)
            head.add(z, _probabilities(outputs, plan), labels)
        if on_progress is not None:
            on_progress(batch.first + len(batch), "moments")
    table = pd.concat(parts, ignore_index=True)
    return _FirstPass(table, {n: LayerScores(m) for n, m in moments.items()}, HeadScores(head) if head else None)


def _second_pass(
    model: nn.Module, inputs: Inputs, plan: _Plan, first: _FirstPass, on_progress: OnProgress | None
) -> pd.DataFrame:
    parts: list[pd.DataFrame] = []
    for batch, outputs, seen in _passes(model, inputs, plan):
        answers = _answers(batch, outputs, plan)
        labels = answers["label"].to_numpy() if plan.n_classes is not None else None
        columns: dict[str, np.ndarray] = {"second_loss": answers["loss"].to_numpy()}
        for name in plan.layers:
            found = first.layer_scores[name](vectors(seen[name], name, batch.first), labels)
            columns |= {_column(score, name, plan.layers): values for score, values in found.items()}
        if first.head_scores is not None and labels is not None:
            z = vectors(seen[f"{plan.head}.input"], str(plan.head), batch.first)[:, 0]
            columns |= first.head_scores(z, _probabilities(outputs, plan), labels)
        parts.append(pd.DataFrame(columns))
        if on_progress is not None:
            on_progress(batch.first + len(batch), "scores")
    return pd.concat(parts, ignore_index=True)


def _over_checkpoints(
    model: nn.Module,
    inputs: Inputs,
    plan: _Plan,
    checkpoints: Sequence[Mapping[str, Any]],
    on_progress: OnProgress | None,
) -> dict[str, np.ndarray]:
    """Averages over saved states of the model of the loss, and of D* weighted by squared residuals."""
    if not checkpoints:
        return {}
    found: dict[str, list[np.ndarray]] = {"mean_loss": [], "mean_residual_dimensionality": []}
    then = copy.deepcopy(model)
    plan = dataclasses.replace(plan, layers=[])  # what is averaged is of the last linear layer
    for number, state in enumerate(checkpoints):
        try:
            then.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            words = " ".join(str(error).split())[:200]
            raise ValueError(f"checkpoints: received {number}: {words}, accepted: state dicts of the model") from error
        with threadpoolctl.threadpool_limits(1, user_api="blas"), left_as_found(then):
            first = _first_pass(then, inputs, plan, on_progress)
            found["mean_loss"].append(first.table["loss"].to_numpy())
            if first.head_scores is not None:
                scores = _second_pass(then, inputs, plan, first, on_progress)
                found["mean_residual_dimensionality"].append(scores["residual_dimensionality"].to_numpy())
    return {name: np.mean(values, axis=0) for name, values in found.items() if values}


def _passes(model: nn.Module, inputs: Inputs, plan: _Plan) -> Iterator[tuple[Batch, Any, dict[str, Any]]]:
    outputs_of = [] if plan.layer_is_head_input else plan.layers
    with watched(model, outputs_of, [plan.head] if plan.head else []) as seen:
        for batch in inputs:
            seen.clear()
            outputs = call(model, batch.inputs)
            missing = [name for name in plan.layers if name not in seen]
            if missing:
                raise ValueError(
                    f"layer: received {missing[0]!r}, which the model does not use, accepted: one it calls"
                )
            yield batch, outputs, seen


def _answers(batch: Batch, outputs: Any, plan: _Plan) -> pd.DataFrame:
    """Losses of a batch; of classifications also labels, predictions and margins."""
    import torch

    targets = batch.targets.to(outputs.device) if torch.is_tensor(outputs) else batch.targets
    losses = _losses(outputs, targets, plan.loss)
    if losses.shape != (len(batch),):
        raise ValueError(f"loss: received shape {tuple(losses.shape)}, accepted: one per example, ({len(batch)},)")
    columns = {"loss": losses.to("cpu", torch.float64).numpy()}
    if plan.n_classes is not None:
        logits = outputs.to("cpu", torch.float64).numpy()
        labels = targets.cpu().numpy()
        index = np.arange(len(labels))
        others = logits.copy()
        others[index, labels] = -np.inf
        columns = {
            "label": labels.astype(np.int64),
            "prediction": logits.argmax(axis=1),
            "margin": logits[index, labels] - others.max(axis=1),
            **columns,
        }
    return pd.DataFrame(columns)


def _losses(
    outputs: Any, targets: torch.Tensor, loss: LossName | Callable[[Any, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """One loss per example: a mean over positions, where there are any."""
    import torch
    from torch.nn import functional

    if not isinstance(loss, str):
        return loss(outputs, targets)
    if not torch.is_tensor(outputs):
        raise ValueError(
            f"model: received outputs of type {type(outputs).__name__}, accepted: a tensor, or with them as loss a"
            " function of outputs and targets"
        )
    if loss == "mse":
        if outputs.numel() != targets.numel():
            raise ValueError(f"dataset: received targets {tuple(targets.shape)}, accepted: {tuple(outputs.shape)}")
        return (outputs.reshape(targets.shape) - targets).square().reshape(len(targets), -1).mean(dim=1)
    tokens = outputs.ndim == 3 and targets.shape == outputs.shape[:2]
    if not tokens and targets.ndim != 1:
        raise ValueError(
            f"dataset: received targets {tuple(targets.shape)} and outputs {tuple(outputs.shape)}, accepted: one class"
            " per example, or per position of outputs (n_examples, n_positions, n_classes)"
        )
    n_classes = outputs.shape[-1]
    real = targets[targets != -100] if tokens else targets
    if len(real) and not (int(real.min()) >= 0 and int(real.max()) < n_classes):
        raise ValueError(f"dataset: received targets from {real.min()} to {real.max()}, accepted: 0 to {n_classes - 1}")
    function = functional.cross_entropy if loss == "cross_entropy" else functional.nll_loss
    if not tokens:
        return function(outputs, targets.long(), reduction="none")
    each = function(outputs.flatten(0, 1), targets.flatten().long(), reduction="none").reshape(targets.shape)
    return each.sum(dim=1) / (targets != -100).sum(dim=1).clamp(min=1)


def _probabilities(outputs: torch.Tensor, plan: _Plan) -> np.ndarray:
    p = outputs.double().softmax(dim=1) if plan.loss != "nll" else outputs.double().exp()
    found: np.ndarray = p.cpu().numpy()
    return found


def _column(score: str, layer: str, layers: list[str]) -> str:
    return score if len(layers) == 1 else f"{score}:{layer}"


def best_score(table: pd.DataFrame, layers: list[str]) -> tuple[str, pd.Series[float]]:
    """Return the best ranking that a table of scores allows without a held-out run, and its name; see ``audit``.

    The exponent was decided on the first half of the leaderboard's tasks: ranks are crowded near 1.
    """
    held = table[[_column("maximal_dimensionality", layer, layers) for layer in layers]].mean(axis=1)
    answered, words = pd.Series(1.0, table.index), ""
    if "margin" in table:  # what the network does not answer now, it does not know by heart
        answered, words = (2 * pd.Series(expit(table["margin"]), table.index)).clip(upper=1), ", if answered"
    if "mean_loss" in table:
        return f"mean_loss x maximal_dimensionality{words}", table["mean_loss"] * held * answered
    if "ridge_leave_one_out" in table:
        ranked = [table[column] for column in ("ridge_leave_one_out", "gradient_dimensionality")]
        ranked += [table[column] for column in map(str, table) if column.startswith("other_class")]
        mean = sum((column.rank(pct=True) for column in ranked), start=pd.Series(0.0, table.index)) / len(ranked)
        names = ", ".join(str(column.name) for column in ranked)
        return f"mean rank by {names}{words}", mean * answered**0.25
    return f"loss x maximal_dimensionality{words}", table["loss"] * held * answered
