"""The passes over the data: what is watched in the network, the moments, the scores, and what is kept of examples.

The first pass sums second moments, the second scores each example by them (``scores.py``), the third compares the
examples that are listed with all others. Nothing of the model is changed, and no activations are kept.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import threadpoolctl
from jaxtyping import Float32, Int64

from byheart.network.calling import call, copied_inputs, of_input
from byheart.network.company import notes_of_company
from byheart.network.copies import CopyFinder
from byheart.network.head import Forward, default_layer, find_head, follow, read_by_head
from byheart.network.inputs import Batch, Inputs
from byheart.network.layers import INPUT, OfNetwork, find_layers, left_as_found, watched
from byheart.network.layout import Axes, Layouts, NotFinite, axes_of_layers, rows_of
from byheart.network.losses import Spread, losses_read
from byheart.network.masks import Given, Mask, find_mask
from byheart.network.reading import Loss, Reading, read_model
from byheart.network.refusals import refuse_shared_states
from byheart.network.score_table import SCORES
from byheart.network.scores import HeadMoments, HeadScores, LayerMoments, LayerScores
from byheart.progress import bar_for_a_person

if TYPE_CHECKING:
    import torch
    from torch import nn

OnProgress = Callable[[int, str], None]
_N_NEAREST = 3
_OF_HEAD = ""  # the name under which passes yield what the head read, no module's


@dataclass(frozen=True)
class Plan:
    """What is watched, and how outputs are read.

    Attributes:
        layers: Names of the layers that are looked at; NAME.input is what a module reads.
        head: Name of the linear layer that makes the output, if there is one.
        axes: By layer: a letter for each axis (``layout``).
        one_position: Whether the head makes the output at one position of each example.
        mask: Which positions count.
        reading: How outputs and targets are read.
        notes: What a reader of the results must know.
    """

    layers: list[str]
    head: str | None
    axes: dict[str, str]
    one_position: bool
    mask: Mask
    reading: Reading
    notes: list[str]

    @property
    def n_classes(self) -> int | None:
        """Number of classes, of a classification."""
        return self.reading.n_classes

    @property
    def loss(self) -> Loss:
        """Name of the loss, or the user's own function."""
        return self.reading.loss

    @classmethod
    def make(
        cls,
        model: nn.Module,
        inputs: Inputs,
        layer: str | None,
        loss: Loss | None,
        head: str | Literal[False] | None = None,
        axes: Axes = None,
        mask: Given = None,
    ) -> Plan:
        """Call the model on the first batch twice, and decide.

        Raises:
            ValueError: If the layer, the head or the loss does not exist, what the outputs mean stays open, or axes or
                mask fit none of the layers.
        """
        batch = next(iter(inputs))
        output, forward = _called(model, batch)
        reading = read_model(model, inputs, batch, output, loss)
        if layer is None and head is False:
            raise ValueError("layer: received none with head=False, accepted: the layer to look at")
        head, notes = find_head(model, forward, head, output)
        if layer is not None and not head and reading.n_classes is not None:
            note = "Scores of the last linear layer are left out: none makes the output, or head=False says so."
            notes.append(OfNetwork(note))
        layers = find_layers(model, layer) if layer is not None else [default_layer(model, forward, head, notes)]
        one_position = forward.makers.get(head or "") == "position"
        fewer = _fewer(model, inputs, batch)
        found = axes_of_layers(model, forward.layouts, layers, axes, len(batch), fewer)
        by_position = [name for name in layers if not (one_position and name == f"{head}{INPUT}")]
        n_examples = len(inputs.loader.dataset)
        masked, more = find_mask(mask, batch, n_examples, model, forward.layouts, by_position, found, fewer)
        losses = (lambda asked, given: losses_read(asked, reading, given)) if callable(reading.loss) else None
        more += notes_of_company(model, batch, output, losses)
        return cls(layers, head, found, one_position, masked, reading, [*notes, *more, *reading.notes])

    @property
    def reads_head(self) -> bool:
        """Whether it takes what the head reads: for scores of the head, or as a layer."""
        as_layer = self.one_position and f"{self.head}{INPUT}" in self.layers
        return self.head is not None and (self.n_classes is not None or as_layer)


def _called(model: nn.Module, batch: Batch) -> tuple[Any, Forward]:
    """Return a batch's outputs, and what a second forward pass of it shows."""
    import torch

    state = torch.get_rng_state()
    output = call(model, copied_inputs(batch.inputs))
    if torch.is_tensor(output):
        output = output.clone()
    torch.set_rng_state(state)
    return output, follow(model, lambda: call(model, copied_inputs(batch.inputs)), output)


def _fewer(model: nn.Module, inputs: Inputs, batch: Batch) -> Callable[[], tuple[Layouts, int]]:
    """Return what follows a forward pass of one example less than the batch has."""

    @functools.cache
    def layouts() -> tuple[Layouts, int]:
        less = next(iter(inputs.take(batch.indices[:-1])))
        return follow(model, lambda: call(model, less.inputs), None).layouts, len(less)

    return layouts


@dataclass(frozen=True)
class FirstPass:
    """What the first pass found.

    Attributes:
        table: Loss of each example; of classifications also label, prediction and margin; of regressions with one
            number per example target and prediction.
        layer_scores: By layer, what scores examples by the moments.
        head_scores: The same of the last linear layer of a classification.
        by_class: Whether there are moments of every layer by class.
        spread: Of targets that are taken for numbers though nobody said so.
        notes: What a reader of the results must know.
    """

    table: pd.DataFrame
    layer_scores: dict[str, LayerScores]
    head_scores: HeadScores | None
    by_class: bool
    spread: Spread | None
    notes: list[str]


@contextmanager
def looking_at(model: nn.Module) -> Iterator[None]:
    """Leave a network as it was found, and do without threads of BLAS.

    They and PyTorch's wait for each other's cores: with two of each an audit takes twice as long.
    """
    with threadpoolctl.threadpool_limits(1, user_api="blas"), left_as_found(model):
        yield


@contextmanager
def telling(on_progress: OnProgress | None, n_examples: int) -> Iterator[OnProgress]:
    """Yield what is told how far passes have come: the caller's own function, or else a bar where a person looks on."""
    if on_progress is not None:
        yield on_progress
        return
    with bar_for_a_person("audit") as advance:
        yield lambda done, what: advance(done, n_examples, what)


def first_pass(
    model: nn.Module, inputs: Inputs, plan: Plan, on_progress: OnProgress | None, copies: CopyFinder | None = None
) -> FirstPass:
    """Sum the moments of the layers and of the last linear layer; ``copies`` looks at the inputs."""
    parts: list[pd.DataFrame] = []
    moments: dict[str, LayerMoments] = {}
    head: HeadMoments | None = None
    spread = Spread() if plan.reading.assumed else None
    for batch, outputs, seen in passes(model, inputs, plan):
        parts.append(_answers(batch, outputs, plan))
        if spread is not None:
            spread.add(batch.targets)
        if copies is not None:
            copies.look(batch.inputs)
        labels = parts[-1]["label"].to_numpy() if plan.n_classes is not None else None
        for name in plan.layers:
            rows = seen[name]
            moments.setdefault(name, LayerMoments(rows.shape[-1], plan.n_classes, f"layer {name}")).add(rows, labels)
        if plan.head is not None and labels is not None and plan.n_classes is not None:
            z = seen[_OF_HEAD]
            head = head or HeadMoments(z.shape[1], plan.n_classes)
            head.add(z, _probabilities(batch, outputs, plan), labels)
        if on_progress is not None:
            on_progress(batch.first + len(batch), "moments")
    table = pd.concat(parts).sort_index()
    layer_scores = {name: LayerScores(m) for name, m in moments.items()}
    without_classes = [m.without_classes for m in moments.values() if m.without_classes]
    by_class = plan.n_classes is not None and not without_classes
    notes = without_classes[:1] + [note for scores in layer_scores.values() for note in scores.notes]
    return FirstPass(table, layer_scores, HeadScores(head) if head else None, by_class, spread, notes)


def second_pass(
    model: nn.Module,
    inputs: Inputs,
    plan: Plan,
    first: FirstPass,
    on_progress: OnProgress | None,
    copies: CopyFinder | None = None,
) -> tuple[pd.DataFrame, pd.Series[float]]:
    """Return the scores of each example, and its loss in this pass; ``copies`` compares the inputs."""
    parts: list[pd.DataFrame] = []
    for batch, outputs, seen in passes(model, inputs, plan):
        answers = _answers(batch, outputs, plan)
        if copies is not None:
            copies.add(batch.inputs, batch.indices)
        labels = answers["label"].to_numpy() if plan.n_classes is not None else None
        columns: dict[str, np.ndarray] = {"second_loss": answers["loss"].to_numpy()}
        for name in plan.layers:
            found = first.layer_scores[name](seen[name], labels if first.by_class else None)
            columns |= {_column(score, name, plan.layers): values for score, values in found.items()}
        if first.head_scores is not None and labels is not None:
            z = seen[_OF_HEAD]
            columns |= _of_outputs(first.head_scores(z, _probabilities(batch, outputs, plan), labels), plan)
        parts.append(pd.DataFrame(columns, index=batch.indices))
        if on_progress is not None:
            on_progress(batch.first + len(batch), "scores")
    table = pd.concat(parts).sort_index()
    losses = table.pop("second_loss")
    return table, losses


def third_pass(
    model: nn.Module,
    inputs: Inputs,
    plan: Plan,
    listed: Int64[np.ndarray, " n_listed"],
    kept: Int64[np.ndarray, " n_kept"],
    on_progress: OnProgress | None,
) -> tuple[Int64[np.ndarray, "n_listed n_nearest"], Float32[np.ndarray, "n_kept n_inputs"]]:
    """Return the nearest others of the listed examples, and what the last linear layer reads of the kept ones.

    Nearest are the three whose vectors in the first layer, means over positions, have the least angle to an example's.
    """
    import torch

    of_listed = passes(model, inputs.take(listed), plan)
    chosen = torch.as_tensor(np.concatenate([_directions(seen, plan) for _, _, seen in of_listed]))
    best, found = torch.zeros(len(listed), 0), torch.zeros(len(listed), 0, dtype=torch.int64)
    head, read_of = [np.zeros((0, 0), np.float32)], [np.zeros(0, np.int64)]
    for batch, _, seen in passes(model, inputs, plan):
        places = batch.indices
        cosines = chosen @ torch.as_tensor(_directions(seen, plan)).T
        _, own, column = np.intersect1d(listed, places, assume_unique=True, return_indices=True)
        cosines[own, column] = -torch.inf
        values, order = cosines.topk(min(_N_NEAREST, len(places)))
        values, indices = torch.hstack([best, values]), torch.hstack([found, torch.as_tensor(places)[order]])
        best, order = values.topk(min(_N_NEAREST, values.shape[1]))
        found = indices.gather(1, order)
        if len(kept):
            head.append(seen[_OF_HEAD][np.isin(places, kept)])
            read_of.append(places[np.isin(places, kept)])
        if on_progress is not None:
            on_progress(batch.first + len(batch), "neighbours")
    nearest = found[:, : batch.first + len(batch) - 1].numpy()  # of few examples the last one is the example itself
    return nearest, np.concatenate(head[1:] or head)[np.argsort(np.concatenate(read_of))]


def over_checkpoints(
    model: nn.Module,
    inputs: Inputs,
    plan: Plan,
    checkpoints: Sequence[Mapping[str, Any]],
    on_progress: OnProgress | None,
) -> dict[str, np.ndarray]:
    """Averages over saved states of the model of the loss, and of D* weighted by squared residuals."""
    if not checkpoints:
        return {}
    refuse_shared_states(checkpoints)
    found: dict[str, list[np.ndarray]] = {"mean_loss": [], "mean_residual_dimensionality": []}
    then = copy.deepcopy(model)
    names = then.state_dict().keys()
    plan = dataclasses.replace(plan, layers=[])  # what is averaged is of the last linear layer
    for number, state in enumerate(checkpoints):
        try:
            inner = {name: name.removeprefix("module.").removeprefix("_orig_mod.") for name in state}  # of wrappers
            then.load_state_dict({n if n in names else inner[n]: value for n, value in state.items()})
        except (RuntimeError, TypeError, AttributeError) as error:
            words = " ".join(str(error).split())[:200]
            raise ValueError(f"checkpoints: received {number}: {words}, accepted: state dicts of the model") from error
        with looking_at(then):
            first = first_pass(then, inputs, plan, on_progress)
            found["mean_loss"].append(first.table["loss"].to_numpy())
            if first.head_scores is not None:
                scores, _ = second_pass(then, inputs, plan, first, on_progress)
                found["mean_residual_dimensionality"].append(scores["residual_dimensionality"].to_numpy())
    return {name: np.mean(values, axis=0) for name, values in found.items() if values}


def passes(model: nn.Module, inputs: Inputs, plan: Plan) -> Iterator[tuple[Batch, Any, dict[str, np.ndarray]]]:
    """Yield each batch with the model's outputs, the vectors of its layers, and under "" those that its head read.

    Args:
        model: The network.
        inputs: The data.
        plan: What is looked at.

    Raises:
        ValueError: If the model does not use a layer, or its tensors are not of the batch's examples.
    """
    of_head = [f"{plan.head}{INPUT}"] if plan.reads_head else []
    made_by_head = [str(plan.head)] if plan.reads_head else []
    names = dict.fromkeys([*plan.layers, *of_head, *made_by_head])
    with watched(model, {**names, **dict.fromkeys(plan.mask.watched)}) as seen:
        for batch in inputs:
            seen.clear()
            outputs = call(model, batch.inputs)
            missing = [name for name in names if name not in seen]
            if missing:
                raise ValueError(
                    f"layer: received {missing[0]!r}, which the model does not use, accepted: one it calls"
                )
            counted = plan.mask.of(batch, batch.indices, seen)
            found = {}
            try:
                if plan.reads_head:
                    found[_OF_HEAD] = read_by_head(seen, str(plan.head), outputs, batch.indices)
                for name in plan.layers:
                    if plan.one_position and name in of_head:
                        found[name] = found[_OF_HEAD][:, None]
                    else:
                        found[name] = rows_of(
                            seen[name], name, plan.axes[name], batch.indices, counted, exact=plan.mask.exact
                        )
            except NotFinite as error:
                raise of_input(error, batch.inputs, len(batch)) from error
            yield batch, outputs, found


def _answers(batch: Batch, outputs: Any, plan: Plan) -> pd.DataFrame:
    """Losses of a batch; of classifications also labels, predictions and margins, of single numbers also these."""
    import torch

    losses = losses_read(batch, plan.reading, outputs)
    columns = {"loss": losses.to("cpu", torch.float64).numpy()}
    if plan.n_classes is not None:
        logits = plan.reading.logits(outputs, batch.indices).to("cpu", torch.float64).numpy()
        labels = plan.reading.numbers(batch.targets, batch.indices).cpu().numpy()
        index = np.arange(len(labels))
        others = logits.copy()
        others[index, labels] = -np.inf
        columns = {
            "label": labels.astype(np.int64),
            "prediction": logits.argmax(axis=1),
            "margin": logits[index, labels] - others.max(axis=1),
            **columns,
        }
    elif torch.is_tensor(outputs) and outputs.numel() == batch.targets.numel() == len(batch):
        numbers = {"target": plan.reading.numbers(batch.targets, batch.indices), "prediction": outputs}
        columns = {name: each.reshape(-1).to("cpu", torch.float64).numpy() for name, each in numbers.items()} | columns
    return pd.DataFrame(columns, index=batch.indices)


def _probabilities(batch: Batch, outputs: torch.Tensor, plan: Plan) -> np.ndarray:
    found: np.ndarray = plan.reading.logits(outputs, batch.indices).double().softmax(dim=1).cpu().numpy()
    return found


def _of_outputs(scores: dict[str, np.ndarray], plan: Plan) -> dict[str, np.ndarray]:
    """Scores of the last linear layer that has one output, which were computed with one for each of the two classes."""
    if plan.reading.one_output:
        scores["gradient_norm"] = scores["gradient_norm"] / np.sqrt(2)
        scores["residual_dimensionality"] = scores["residual_dimensionality"] / 2
    return scores


def _directions(seen: dict[str, np.ndarray], plan: Plan) -> Float32[np.ndarray, "n_examples n_hidden"]:
    """Unit vectors of a batch in the first layer, of means over positions."""
    rows = seen[plan.layers[0]].mean(axis=1)
    found: np.ndarray = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)
    return found


def _column(score: str, layer: str, layers: list[str]) -> str:
    return SCORES[score].columns(layers)[layers.index(layer)]
