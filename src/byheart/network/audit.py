"""The audit: which training examples did a network memorize? Any torch module, its training data, one of its layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float32, Float64, Int64

from byheart.network.copies import CopyFinder
from byheart.network.counterfactual import Counterfactual
from byheart.network.curvature import in_float32, input_curvature
from byheart.network.detector import Carriers, Detector, carrying, make_detector, weights_digest
from byheart.network.doubts import notes_on_held_out, notes_on_log, notes_on_own_loss
from byheart.network.export import SUFFIXES, write_table
from byheart.network.ids import ID, as_ids
from byheart.network.inputs import Inputs, as_inputs, check_indexes, is_pair, require_torch
from byheart.network.layers import SCRIPTED, OfNetwork, unwrapped
from byheart.network.layout import Axes
from byheart.network.listed import Show, Shown, picture_or_text, to_list
from byheart.network.log import TrainingLog
from byheart.network.losses import losses_read
from byheart.network.passes import (
    FirstPass,
    OnProgress,
    Plan,
    first_pass,
    looking_at,
    over_checkpoints,
    second_pass,
    telling,
    third_pass,
)
from byheart.network.ranking import flagged
from byheart.network.reading import LossName, check_order_of_words
from byheart.network.refusals import refuse_log_unlike_losses
from byheart.network.saved import from_record, to_record
from byheart.network.score_table import SCORES, Evidence
from byheart.network.scores import RIDGE
from byheart.network.verdicts import judge, wrong_label_score
from byheart.provenance import provenance
from byheart.records import SUFFIX, read, write

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from torch import nn

_FIRST_COLUMNS = (
    *(ID, "label", "target", "prediction", "verdict", "score", "flagged", "estimate", "low", "high", "probability"),
    *("other_label", "copies", "copy_of"),
)
_LARGEST_PICTURE, _LARGEST_OF_NEIGHBOUR = 160, 64  # sides in pixels of pictures that are kept
_MOSTLY_WRONG = 0.5  # share of answers from which on something else than the network may be wrong
_SAME_LOSS = 1e-3  # relative; two passes over the same inputs differ by less


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found: data, which can be saved, loaded, pickled and compared, and hold no model.

    Attributes:
        table: One row per example, in the dataset's order: id, if ids were given; label and prediction (of
            classifications; of regressions with one number per example target and prediction), verdict (one of
            ``byheart.network.verdicts``), score, flagged; with a held-out run also estimate of memorization, low and
            high of its interval, and probability that it is above 0.25; other_label, the class that the last layer
            would answer instead; copies, how many other examples are the same or nearly so, and copy_of, one of them
            or -1; the scores of ``byheart.network.score_table`` by name.
        layers: The layers that were looked at.
        rank: By layer: how many of its dimensions are in use, the sum of ``maximal_dimensionality``.
        width: By layer: how many it has.
        score_name: What ``table["score"]`` is: the best ranking that the given evidence allows.
        evidence: What the scores are made from, such as "classes", "head" (a last linear layer), "log" (losses over
            training), "checkpoints", "curvature" and "held_out"; all are in ``byheart.network.score_table``.
        notes: What a reader of the results must know.
        provenance: What was audited, and with which versions, by name.
        label_names: Names of the classes, where the data have them.
        listed: Indices of the examples that are kept with picture or text, from the largest score on.
        neighbours: Indices of the up to three others nearest to each of them in the (first) layer.
        shown: What a reader looks at of these examples and neighbours, by index: a picture, of at most 160 pixels in
            height and width, a text, or a pair of both.
        carriers: What a detector needs, unless it is not to be kept or the model is no classifier with a last linear
            layer.
    """

    table: pd.DataFrame
    layers: list[str]
    rank: dict[str, int]
    width: dict[str, int]
    score_name: str
    evidence: frozenset[Evidence]
    notes: list[str]
    provenance: dict[str, str]
    label_names: list[str]
    listed: Int64[np.ndarray, " n_listed"]
    neighbours: Int64[np.ndarray, "n_listed n_nearest"]
    shown: dict[int, Shown]
    carriers: Carriers | None

    def __repr__(self) -> str:
        """Return what was audited, and how many examples are flagged."""
        return (
            f"Audit({self.provenance['model']}, layer {self.provenance['layer']}: {self.table['flagged'].sum():,} of"
            f" {len(self.table):,} examples flagged, by {self.score_name})"
        )

    def __eq__(self, other: object) -> bool:
        """Return whether the contents are the same, NaN counting as equal to NaN."""
        if not isinstance(other, Audit):
            return NotImplemented
        one, two = to_record(self), to_record(other)
        return (
            one.header == two.header
            and one.arrays.keys() == two.arrays.keys()
            and all(np.array_equal(one.arrays[k], two.arrays[k], equal_nan=True) for k in one.arrays)
        )

    @property
    def budget(self) -> pd.DataFrame:
        """By layer: how many dimensions the flagged examples hold, and how many all others do."""
        rows = []
        for layer, column in zip(self.layers, SCORES["maximal_dimensionality"].columns(self.layers), strict=True):
            held = self.table[column]
            flagged = float(held[self.table["flagged"]].sum())
            rows.append((layer, flagged, float(held.sum()) - flagged, int(self.table["flagged"].sum())))
        return pd.DataFrame(rows, columns=["layer", "flagged", "others", "n_flagged"])

    def nearest(self, indices: Any) -> Int64[np.ndarray, "n_chosen n_nearest"]:
        """Return the three other examples whose vectors in the (first) layer have the least angle to each of these.

        Args:
            indices: Listed examples: one index, or a sequence or array of them.

        Raises:
            ValueError: If one of them is not listed.
        """
        chosen = np.atleast_1d(np.asarray(indices))
        places = {index: place for place, index in enumerate(self.listed.tolist())}
        missing = [index for index in chosen.ravel().tolist() if index not in places]
        if missing or chosen.ndim != 1:
            raise ValueError(
                f"indices: received {missing[0] if missing else chosen.tolist()}, accepted: one or more of the"
                f" {len(places)} listed examples, audit.listed; audit(..., most_shown=...) lists more"
            )
        return self.neighbours[[places[index] for index in chosen.tolist()]]

    def plot(self) -> Figure:
        """Return a figure for a paper: how memorization is spread, beside the worst examples.

        On the left are the estimates with their 95 % intervals, or without a held-out run the scores as a histogram; on
        the right the most memorized examples, and the suspected wrong labels (of regressions the largest errors).

        Returns:
            A figure of matplotlib of 7.2 by 2.9 inches; its ``savefig`` writes PDF, PNG and more.
        """
        from byheart.network.figure import draw

        return draw(self)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the numbers, the worst examples, and a small histogram."""
        from byheart.network.page.notebook import notebook_html

        return notebook_html(self)

    def detector(self, model: nn.Module, held_out: Any, false_positive_rate: float = 0.05) -> Detector:
        """Return what finds new inputs whose prediction leans on memorized training examples.

        Args:
            model: The audited network; the audit has kept no more of it than a digest of its weights.
            held_out: Ordinary inputs that the model was not trained on: a dataset, or an array or tensor of inputs.
            false_positive_rate: Share of ordinary inputs that is flagged, in (0, 1).

        Raises:
            ValueError: If the model is not the audited one or no classifier with a last linear layer, the audit was
                made with ``detector=False``, or there are too few held-out inputs.
        """
        return make_detector(self, model, held_out, false_positive_rate)

    def save(self, path: str | Path, **options: Any) -> Path:
        """Write the audit as one HTML page that opens from disk, a table, or one file that ``load`` reads.

        Args:
            path: Name that ends in .html (a page), .csv or .parquet (the table), or .safetensors (all of it, as data);
                its directory is made if missing.
            **options: Of a page: title, label_names (``byheart.network.page.write_page``); of a table: verdict, of
                the examples that are written (``byheart.network.export.write_table``).

        Raises:
            ValueError: If the name ends otherwise, an option is not of this kind of file, or there is no such verdict.
            ModuleNotFoundError: If pyarrow is missing, which writes Parquet; the message says how to install it.
            OSError: If the file cannot be written.
        """
        path = Path(path)
        accepted = {".html": ("title", "label_names"), SUFFIX: (), **dict.fromkeys(SUFFIXES, ("verdict",))}
        if path.suffix not in accepted or not set(options) <= set(accepted[path.suffix]):
            received = f"{path} with {', '.join(options)}" if options else path
            raise ValueError(
                f"path: received {received}, accepted: a name that ends in .html (options title, label_names),"
                f" {' or '.join(SUFFIXES)} (option verdict), or {SUFFIX}"
            )
        if path.suffix == SUFFIX:
            write(path, to_record(self), "audit")
            return path
        if path.suffix in SUFFIXES:
            return write_table(self, path, **options)
        from byheart.network.page import write_page

        return write_page(
            self, path, **({"title": self.provenance["model"], "label_names": self.label_names} | options)
        )

    @classmethod
    def load(cls, path: str | Path) -> Audit:
        """Read an audit that ``save`` wrote as a file that ends in .safetensors.

        Raises:
            ValueError: If there is no such file, or it is damaged or no audit.
        """
        if Path(path).suffix != SUFFIX:
            raise ValueError(f"audit: received {path}, accepted: a file that ends in {SUFFIX}, as Audit.save wrote it")
        record = read(path, "audit")
        if "audit" not in record.header:
            raise ValueError(f"audit: received {path}, accepted: a file that Audit.save wrote")
        return cls(**from_record(record))


def audit(
    model: nn.Module,
    dataset: Any,
    layer: str | None = None,
    *,
    log: TrainingLog | None = None,
    held_out: Counterfactual | None = None,
    checkpoints: Sequence[Mapping[str, Any]] = (),
    ids: Any = None,
    loss: LossName | Callable[[Any, torch.Tensor], torch.Tensor] | None = None,
    head: str | Literal[False] | None = None,
    axes: Axes = None,
    mask: Callable[[Any], Any] | Any | Literal[False] | None = None,
    curvature: bool = False,
    batch_size: int = 512,
    show: Show | None = None,
    most_shown: int = 500,
    detector: bool = True,
    copies: bool = True,
    on_progress: OnProgress | None = None,
) -> Audit:
    """Score each training example of a network by how much it is memorized.

    ``table["score"]`` is, larger meaning more memorized,

    - with a held-out run: the estimate of memorization;
    - else with a log: the loss averaged over training times D* of the layer;
    - without one, in a classification: the mean of the ranks by ``ridge_leave_one_out``, ``gradient_dimensionality``
      and ``other_class``;
    - else: the loss times D*.

    In a classification the last three are lowered where the network answers wrongly now, since what it does not
    answer it does not know by heart: times 2 sigmoid(margin), at most 1, of the ranks the fourth root.

    Args:
        model: Any torch module with hooks, whose output is a tensor, or an object or dict with ``logits``; its mode,
            hooks and random states are left as found. Autocast is switched off.
        dataset: What it was trained on: a torch ``Dataset`` or ``DataLoader`` of (input, target), a list of such pairs,
            or a pair of arrays, of anything that ``byheart.arrays`` takes; labels may be words. Items and batches may
            be dicts with labels among them, as of a ``datasets.Dataset``, of which the model gets the columns that its
            ``forward`` takes. Else inputs that are a dict are passed by keyword, and a tuple as positional arguments.
        layer: Name of a module, or a glob pattern, for what it gives; with ".input" behind it, for what it reads.
            Default the input of the head. Layers with positions are scored position by position, and an example's
            score is the sum; of a layer that is called more than once, all calls count, as further positions.
        log: Of the losses in training, if there is one.
        held_out: Models that were trained on a part of the data, one or more: what turns the ranking into probabilities
            (``byheart.network.calibration``), and flags the examples whose probability is above 1/2.
        checkpoints: State dicts of the model during training, early ones too: adds ``mean_residual_dimensionality``
            (of classifications), and ``mean_loss`` if there is no log. Two more passes each.
        ids: A name per example, words or whole numbers, each once, such as file names: the column ``id`` of the table,
            by which ``byheart.changes`` finds the same example in another audit.
        loss: "cross_entropy" (default for classes), "nll" (log probabilities), "binary_cross_entropy" (probabilities of
            class 1, or of each of several labels), "binary_cross_entropy_with_logits", "mse" (default for other
            numbers), or a function of outputs and targets that returns one loss per example. By default what outputs
            and targets are is read from their numbers (``byheart.network.reading``); notes say what was assumed.
        head: Name of the last layer, which makes the output from a vector of each example; False for none, without the
            scores of such a layer. Default the linear layer whose numbers the output has, wrappers such as adapters
            seen through; not the one that is called last.
        axes: What each axis of the layer's tensors holds, a letter each: n for examples (one axis), u for units, any
            other for positions, such as "npu" of sequences, "pnu" where sequences come first, "nuhw" of images with
            channels first; or a dict of such words by layer. Default by the module's type and sizes, where these tell.
        mask: Which positions count, those of padding not: ones and zeros of shape (n_examples, n_positions), or
            how many of each example, or a function that returns one of these for a batch's inputs; False if all do.
            Default "attention_mask" of inputs that are dicts, else targets by position that are not -100, else ids that
            are not the ``padding_idx`` of the model's embeddings; ``notes`` say which.
        curvature: Adds ``input_curvature`` (``byheart.network.curvature``), for which gradients are computed.
        batch_size: Of data that do not come in batches.
        show: Function that makes a picture (an array of shape (height, width) or (height, width, 3)), a text, or a pair
            of both of an input; by default images are recognized by their shape, texts are texts, and of others the
            first numbers are shown, those of a table by name.
        most_shown: Number of examples that are listed with pictures or texts and neighbours: as many with the largest
            scores, with the largest ``wrong_label``, and of each verdict but "ordinary"; at least 1.
        detector: Whether to keep what ``Audit.detector`` needs: 4 bytes per input of the last linear layer and example
            that counts as memorized at all; without a held-out run these are half of the examples.
        copies: Whether to look for copies among the inputs; 272 bytes of each example are kept for it.
        on_progress: Called with the number of examples done, and the pass, after every batch. By default a notebook and
            a Python that is typed to show a bar if it takes longer than two seconds.

    Raises:
        ValueError: If the layer does not exist or is no tensor of finite numbers with the batch's examples, its axes or
            the head stay open, the model is a TorchScript module, the dataset is empty, targets do not fit the outputs
            or what they mean stays open, the log or the ids are of another number of examples, an id occurs twice, or
            an option lies outside its range.
        ModuleNotFoundError: If PyTorch is missing; the message says how to install it.

    References:
        Henighan et al. 2023 (D_X, and C. Olah's MNIST comment: D*); the scores' own in ``byheart.network.scores``.
    """
    require_torch()
    _check(model, layer, log, held_out, most_shown, head, axes, show)
    wrapper, model = model, unwrapped(model)
    if layer is not None:
        layer = layer.removeprefix(next(f"{name}." for name, module in wrapper.named_modules() if module is model))
    inputs = as_inputs(dataset, batch_size, model)
    if is_pair(dataset):
        check_indexes({"inputs": dataset[0], "targets": dataset[1], "ids": ids, "mask": mask})
    mean_loss = None if log is None else _mean_loss(log, inputs.n_examples)
    names = None if ids is None else as_ids(ids, len(inputs.loader.dataset))
    with looking_at(model), telling(on_progress, inputs.n_examples) as advance:
        try:
            plan = Plan.make(model, inputs, layer, loss, head, axes, mask)
        except ValueError as error:
            if inputs.parts_note:
                raise ValueError(f"{error} ({inputs.parts_note})") from error
            raise
        if log is not None and mean_loss is not None:
            refuse_log_unlike_losses(log, mean_loss, plan.loss)
        finder = CopyFinder(inputs.n_examples) if copies else None
        first = first_pass(model, inputs, plan, advance, finder)
        doubts = [] if first.spread is None else first.spread.check(float(first.table["loss"].mean()))
        if inputs.order_assumed and plan.n_classes is not None:
            answers = first.table["label"].to_numpy(), first.table["prediction"].to_numpy()
            check_order_of_words(*answers, inputs.label_names or ())
        scores, losses_again = second_pass(model, inputs, plan, first, advance, finder)
        table = pd.concat([first.table, scores], axis=1)
        if curvature:
            precise = in_float32(model)
            table["input_curvature"] = np.concatenate(
                [input_curvature(precise, batch, partial(losses_read, batch, plan.reading)) for batch in inputs]
            )
            table["input_curvature"] = inputs.in_order(table["input_curvature"].to_numpy())
    if names is not None:
        table.insert(0, ID, names.tolist())
    with telling(on_progress, inputs.n_examples) as advance:
        table = table.assign(**over_checkpoints(model, inputs, plan, checkpoints, advance))
    if mean_loss is not None:
        table["mean_loss"] = mean_loss

    evidence = _evidence(plan, first, log is not None, len(checkpoints) > 0, curvature, held_out is not None)
    score_name, table, of_score = flagged(table, plan.layers, evidence, held_out)
    doubts += [] if log is None else notes_on_log(log, table)
    doubts += [] if held_out is None else notes_on_held_out(held_out, table)
    if plan.n_classes is not None:
        table["wrong_label"] = wrong_label_score(table, plan.layers, evidence)
    labels = table["label"].to_numpy() if plan.n_classes is not None else None
    table["copies"], table["copy_of"], of_copies = (0, -1, []) if finder is None else finder.finish(labels)
    table["verdict"] = judge(table, plan.layers, evidence)
    first_columns = [name for name in _FIRST_COLUMNS if name in table]
    table = table[first_columns + [name for name in table if name not in first_columns]]

    listed = to_list(table, most_shown)
    with_carriers = detector and first.head_scores is not None
    kept = carrying(table, evidence) if with_carriers else np.zeros(0, dtype=np.int64)
    with looking_at(model), telling(on_progress, inputs.n_examples) as advance:
        neighbours, head_inputs = third_pass(model, inputs, plan, listed, kept, advance)
        shown = _shown(inputs, listed, neighbours, show)
    return Audit(
        table=table,
        layers=plan.layers,
        rank={name: found.rank for name, found in first.layer_scores.items()},
        width={name: found.moments.n_hidden for name, found in first.layer_scores.items()},
        score_name=score_name,
        evidence=evidence,
        notes=[*inputs.notes, *plan.notes, *_notes(plan, first, losses_again), *doubts, *of_score, *of_copies],
        provenance=_provenance(model, plan),
        label_names=[str(name) for name in inputs.label_names or ()],
        listed=listed,
        neighbours=neighbours,
        shown=shown,
        carriers=_carriers(model, plan, first, kept, head_inputs) if with_carriers else None,
    )


def _mean_loss(log: TrainingLog, n_examples: int) -> Float64[np.ndarray, " n_examples"]:
    """The averages of a log, which is asked for before the passes take their time."""
    if len(log) != n_examples:
        raise ValueError(f"log: received one of {len(log)} examples, accepted: of the dataset's {n_examples}")
    return log.mean_loss


def _shown(
    inputs: Inputs,
    listed: Int64[np.ndarray, " n_listed"],
    neighbours: Int64[np.ndarray, "n_listed n_nearest"],
    show: Show | None,
) -> dict[int, Shown]:
    """What a reader looks at of the listed examples and, smaller, of their neighbours."""
    chosen = np.union1d(listed, neighbours)
    sides = np.where(np.isin(chosen, listed), _LARGEST_PICTURE, _LARGEST_OF_NEIGHBOUR)
    items = zip(chosen.tolist(), inputs.items(chosen), sides.tolist(), strict=True)
    return {index: picture_or_text(item, show, inputs.feature_names, side) for index, item, side in items}


def _carriers(
    model: nn.Module,
    plan: Plan,
    first: FirstPass,
    kept: Int64[np.ndarray, " n_kept"],
    head_inputs: Float32[np.ndarray, "n_kept n_inputs"],
) -> Carriers:
    """What a detector needs of the examples that may be memorized."""
    assert plan.head is not None
    assert first.head_scores is not None
    seen = first.head_scores.moments.inputs
    at = seen.span.coordinates(head_inputs) if len(kept) else head_inputs
    one_output = plan.reading.outputs if plan.reading.one_output else ""
    return Carriers(plan.head, kept, at, seen.moment, weights_digest(model), seen.span.basis, one_output)


def _check(model: Any, layer: Any, log: Any, held_out: Any, most_shown: int, head: Any, axes: Any, show: Any) -> None:
    import torch
    from torch import nn

    if isinstance(model, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        raise ValueError(f"model: received {SCRIPTED}")
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: received {type(model).__name__}, accepted: a torch module")
    if layer is not None and not isinstance(layer, str):
        raise ValueError(f"layer: received {layer!r}, accepted: a name or a glob pattern")
    if head is not None and head is not False and not isinstance(head, str):
        raise ValueError(f"head: received {head!r}, accepted: the name of a module, or False for none")
    if axes is not None and not isinstance(axes, (str, Mapping)):
        raise ValueError(f"axes: received {axes!r}, accepted: letters such as 'npu', or a dict of them by layer")
    if log is not None and not isinstance(log, TrainingLog):
        hint = ", such as its .training_log" if hasattr(type(log), "training_log") else ""
        raise ValueError(f"log: received {type(log).__name__}, accepted: a TrainingLog{hint}")
    if held_out is not None and not isinstance(held_out, Counterfactual):
        raise ValueError(f"held_out: received {type(held_out).__name__}, accepted: a Counterfactual")
    if not isinstance(most_shown, (int, np.integer)) or isinstance(most_shown, bool) or most_shown < 1:
        raise ValueError(f"most_shown: received {most_shown!r}, accepted: at least 1, a whole number")
    if show is not None and not callable(show):
        raise ValueError(f"show: received {show!r}, accepted: a function that makes a picture or a text of an input")


def _evidence(
    plan: Plan, first: FirstPass, log: bool, checkpoints: bool, curvature: bool, held_out: bool
) -> frozenset[Evidence]:
    there: dict[Evidence, bool] = {
        "model": True,
        "classes": plan.n_classes is not None,
        "class_moments": first.by_class,
        "head": first.head_scores is not None,
        "log": log or checkpoints,
        "checkpoints": checkpoints,
        "curvature": curvature,
        "held_out": held_out,
    }
    return frozenset(name for name, is_there in there.items() if is_there)


def _notes(plan: Plan, first: FirstPass, losses_again: pd.Series[float]) -> list[str]:
    notes = list(first.notes)
    if plan.n_classes is not None and first.head_scores is None:
        names = [score.name for score in SCORES.values() if {"classes", "head"} <= score.evidence]
        note = (
            f"No linear layer makes the outputs: {', '.join(names)} are left out of the table and of the score. A"
            " network whose outputs are those of a linear layer has them; F.linear, a function, is none."
        )
        notes.append(OfNetwork(note))
    if plan.n_classes is not None:
        wrong = float((first.table["prediction"] != first.table["label"]).mean())
        if wrong > _MOSTLY_WRONG:
            notes.append(
                f"The network answers {wrong:.0%} of the examples otherwise than they are labelled: is it the trained"
                " one, are these its training data, and are the labels in the order of its outputs?"
            )
    losses = first.table["loss"]
    if plan.n_classes is not None and callable(plan.loss):
        notes += notes_on_own_loss(first.table)
    if (losses_again - losses).abs().max() > _SAME_LOSS * max(float(losses.abs().max()), 1e-6):
        notes.append(
            "Two passes gave different losses: the data are drawn anew each time (augmentation), or the model is random"
            " in evaluation mode. Scores are those of one draw, and copies are not found; audit the data without"
            " augmentation."
        )
    return notes


def _provenance(model: nn.Module, plan: Plan) -> dict[str, str]:
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    loss = plan.loss if isinstance(plan.loss, str) else getattr(plan.loss, "__name__", "the user's own")
    return {
        "model": type(model).__name__,
        "parameters": f"{n_parameters:,}",
        "layer": ", ".join(plan.layers),
        "loss": loss,
        "ridge of scores by class": f"{RIDGE:g} of the mean eigenvalue",
        # the same audit made again is equal, whenever that was
        **{name: str(value) for name, value in provenance("numpy", "torch").items() if name != "started"},
    }
