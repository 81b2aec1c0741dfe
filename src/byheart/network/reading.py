"""What outputs and targets mean: logits or probabilities, classes or numbers. Types alone do not tell.

What the first batch's numbers show is recognized and noted, and every batch is checked against it; what they leave open
is asked for, by the name of a loss. All that comes after sees logits and class numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from jaxtyping import Int64

from byheart.network.calling import call, copied_inputs, described
from byheart.network.huggingface import loss_of_config
from byheart.network.inputs import listed
from byheart.network.layers import OfNetwork

if TYPE_CHECKING:
    import torch

    from byheart.network.inputs import Batch, Inputs

LossName = Literal["cross_entropy", "nll", "binary_cross_entropy", "binary_cross_entropy_with_logits", "mse"]
Loss = LossName | Callable[[Any, "torch.Tensor"], "torch.Tensor"]
Outputs = Literal["logits", "probabilities", "log probabilities", "probabilities of each", "as they are"]
Targets = Literal["as they are", "column", "whole numbers", "one-hot rows", "labels", "shares"]
_BINARY = ("binary_cross_entropy", "binary_cross_entropy_with_logits")
_IGNORED = -100  # what torch's cross-entropy leaves out
_LEAST = 1e-45  # of a probability: the smallest number of float32
_SUM = {4: 1e-4, 8: 1e-4, 2: 2e-2}  # how far from 1 rows of probabilities may sum, by the bytes of a number
_SIGNS = (
    "Targets are -1 and 1 and the model has one output: they are taken for numbers, with squared error. Targets of 0"
    " and 1 are two classes."
)
_OF_SHAPE = ("View", "Reshape", "UnsafeView", "Squeeze", "Unsqueeze", "Select", "Slice", "Clone", "ToCopy", "Alias")
_LINEAR = ("Addmm", "Mm", "Mv", "Add", "Sub", "Bmm", "Baddbmm", "Linear", "Convolution", "Mean", "Sum")


@dataclass(frozen=True)
class Reading:
    """How outputs and targets are read.

    Attributes:
        loss: Name of the loss, or the user's own function of both as they are.
        outputs: What the outputs are.
        targets: What the targets are; "labels" are a 0 or 1 for each output, "shares" a number from 0 to 1.
        n_classes: Number of classes, of a classification.
        one_output: Whether there is one output for two classes.
        assumed: Whether squared error was taken for want of a better reading, so that it is checked by how large it is.
        notes: What was assumed.
        classes: Their names, where the data say them, for messages.
    """

    loss: Loss
    outputs: Outputs = "as they are"
    targets: Targets = "as they are"
    n_classes: int | None = None
    one_output: bool = False
    assumed: bool = False
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def logits(self, outputs: Any, indices: Int64[np.ndarray, " n_examples"]) -> Any:
        """Return a batch's outputs with probabilities as logits, of two classes where there is one output.

        Raises:
            ValueError: If there is not a row per example, one is NaN or infinite (a logit may be -inf), or they are
                not what the first batch's were.
        """
        import torch

        if not torch.is_tensor(outputs) or (callable(self.loss) and self.n_classes is None):
            return outputs  # all that comes of them is what the user's own function returns
        if not outputs.ndim or len(outputs) != len(indices):
            raise ValueError(
                f"model: received outputs of shape {tuple(outputs.shape)} for a batch of {len(indices)} examples,"
                " accepted: a row for each"
            )
        if not callable(self.loss) and not outputs.is_floating_point():
            raise ValueError(f"model: received outputs of {outputs.dtype}, accepted: real floating-point numbers")
        if outputs.is_floating_point():
            _refuse(outputs.isnan() | (outputs == torch.inf), "model", outputs, indices, "finite outputs")
        if self.outputs not in ("logits", "as they are"):
            _refuse(~_fits(outputs, self.outputs), "model", outputs, indices, f"{self.outputs}, as in the first batch")
        if self.outputs == "probabilities":
            outputs = outputs.double().clamp_min(_LEAST).log()
        elif self.outputs == "probabilities of each":
            p, least = outputs.double(), torch.finfo(outputs.dtype).eps / 4  # what 1 - p may be where p rounds to 1
            outputs = p.clamp_min(_LEAST).log() - (1 - p).clamp_min(least).log()
        if self.one_output:
            z = outputs.double().reshape(-1)
            outputs = torch.stack([torch.zeros_like(z), z], dim=1)
        return outputs

    def numbers(self, targets: torch.Tensor, indices: Int64[np.ndarray, " n_examples"]) -> torch.Tensor:
        """Return a batch's targets with classes as their numbers.

        Raises:
            ValueError: If they are not what the first batch's were, or no class has such a number.
        """
        flat = targets.reshape(len(targets), -1)
        if targets.is_floating_point() and not callable(self.loss):
            _refuse(~flat.isfinite(), "dataset", flat, indices, "finite targets")
        if self.one_output or self.targets == "labels":
            accepted = "targets of 0 and 1, as in the first batch; loss='mse' takes numbers"
            _refuse((flat != 0) & (flat != 1), "dataset", flat, indices, accepted)
        elif self.targets == "shares":
            _refuse(
                (flat < 0) | (flat > 1), "dataset", flat, indices, f"targets from 0 to 1, as {self.loss!r} takes them"
            )
        if self.targets == "one-hot rows":
            accepted = (
                "one-hot targets, as in the first batch, or loss='binary_cross_entropy_with_logits' (several labels)"
            )
            _refuse(~_one_hot(flat), "dataset", flat, indices, accepted)
            targets = targets.argmax(dim=1)
        elif self.targets == "whole numbers":
            _refuse(flat != flat.round(), "dataset", flat, indices, "whole numbers, as in the first batch")
        if self.targets in ("column", "whole numbers") or self.one_output:
            targets = targets.reshape(len(targets)).long()
        if (
            self.n_classes is not None
            and len(targets)
            and not 0 <= int(targets.min()) <= int(targets.max()) < self.n_classes
        ):
            numbers = "; floating-point targets are taken for numbers" if callable(self.loss) else ""
            if 1 <= int(targets.min()) <= int(targets.max()) == self.n_classes:
                numbers = f" (targets - 1, if classes are numbered from 1){numbers}"
            raise ValueError(
                f"dataset: received targets from {targets.min()} to {targets.max()}{_named(self.classes)}, accepted: 0"
                f" to {self.n_classes - 1}{numbers}"
            )
        return targets


def read_model(model: Any, inputs: Inputs, batch: Batch, output: Any, loss: Loss | None) -> Reading:
    """Decide how the outputs and targets of a model are read, by its configuration and by those of the first batch.

    Args:
        model: The network.
        inputs: The data.
        batch: The first batch.
        output: The model's for it.
        loss: What the user says.

    Raises:
        ValueError: As ``read``, and if the output is no tensor and the loss no function.
    """
    import torch

    if not torch.is_tensor(output):
        way_out = "model.register_forward_hook(lambda module, args, output: output[0])"
        if not callable(loss):
            raise ValueError(
                f"model: received outputs that are a {described(output)}, accepted: a tensor, or an output with"
                f" logits; {way_out}, with your index or name in place of 0, makes one of them the output"
            )
        note = (
            f"The model's outputs are a {described(output)}, of which only the loss is made: there are no predictions"
            f" and no scores of the last linear layer. {way_out} makes one of them the output."
        )
        return Reading(loss, notes=(note,))
    said, notes = (None, ()) if loss is not None else loss_of_config(model, batch.targets, output)
    again = lambda: call(model, copied_inputs(batch.inputs))  # noqa: E731
    found = read(inputs, batch, output, loss or said, lambda: last_operation(again))
    assumed = loss is None and said is None and found.loss == "mse"
    return dataclasses.replace(
        found, assumed=assumed, notes=(*found.notes, *notes), classes=tuple(inputs.label_names or ())
    )


def read(inputs: Inputs, batch: Batch, output: Any, loss: Loss | None, last_operation: Callable[[], str]) -> Reading:
    """Decide how the outputs and targets of a model are read, by those of the first batch.

    Args:
        inputs: The data, of which targets are gone through where 0 and 1 in a batch may be numbers like others.
        batch: The first batch.
        output: The model's for it.
        loss: What the user says.
        last_operation: Returns what torch calls the operation that made the output, if it is known.

    Raises:
        ValueError: If there is no such loss, or the meaning stays open; the message says what settles it.
    """
    import torch

    if isinstance(loss, str) and loss not in get_args(LossName):
        raise ValueError(f"loss: received {loss!r}, accepted: {', '.join(get_args(LossName))} or a function")
    y = batch.targets
    whole = not y.is_floating_point()
    default: Loss = loss or ("cross_entropy" if whole else "mse")
    if (
        loss == "mse"
        or not torch.is_tensor(output)
        or not output.is_floating_point()
        or output.shape[:1] != y.shape[:1]
    ):
        return Reading(default)
    one_target = y.numel() == len(y)
    shares = loss in _BINARY and y.is_floating_point() and not _only_0_and_1(y, inputs)
    if output.numel() == len(output) and not (one_target and shares):
        return _of_one_output(inputs, y, output, loss, last_operation) if one_target else Reading(default)
    if (
        output.ndim == 2
        and one_target
        and (whole or (loss in (None, "cross_entropy", "nll") and bool((y == y.round()).all())))
    ):
        return _of_classes(y, output, loss, last_operation)
    if output.ndim == 2 and y.shape == output.shape and not callable(loss) and not shares:
        return _of_rows(y, output, loss, last_operation)
    if output.ndim == 3 and whole and output.shape[2] > 1 and y.shape == output.shape[:2] and not callable(loss):
        _check_positions(y, output)
        kind, notes = _kind_of(output, loss, last_operation)
        return Reading(default, kind, notes=notes)
    if _squeezed(y) == _squeezed(output) and not callable(loss):
        return _of_each_output(inputs, y, output, loss, last_operation)
    if loss in _BINARY:
        raise ValueError(
            f"loss: received {loss!r} with outputs {tuple(output.shape)} and targets {tuple(y.shape)}, accepted: one"
            " output, or a target of 0 or 1 for each"
        )
    return Reading(default)


def _squeezed(values: torch.Tensor) -> tuple[int, ...]:
    """The shape without axes of length 1, but for the first."""
    return (len(values), *(n for n in values.shape[1:] if n > 1))


def _check_positions(y: torch.Tensor, output: torch.Tensor) -> None:
    """Refuse outputs (n, classes, positions) with as many classes as positions, which are asked for the other way."""
    if output.shape[1] != output.shape[2]:
        return
    real = (y >= 0) & (y < output.shape[2])
    as_is, turned = (float(((output.argmax(dim=axis) == y) & real).sum()) for axis in (2, 1))
    if turned > max(2 * as_is, float(real.sum()) / 2):  # else it may be that nothing was learned
        raise ValueError(
            f"model: received outputs {tuple(output.shape)}, of which {turned:.0f} of {int(real.sum())} answers are"
            f" right as (n_examples, n_classes, n_positions) and {as_is:.0f} as (n_examples, n_positions, n_classes),"
            " accepted: the latter; model.register_forward_hook(lambda module, args, output: output.transpose(1, 2))"
            " makes it so"
        )


def _named(classes: Sequence[str] | None) -> str:
    return f" ({listed(classes)})" if classes else ""


def _of_one_output(
    inputs: Inputs, y: torch.Tensor, output: torch.Tensor, loss: Loss | None, last_operation: Callable[[], str]
) -> Reading:
    whole = not y.is_floating_point()
    if callable(loss) and not whole:
        return Reading(loss)
    if not (loss in _BINARY or _two_values(y, inputs)):
        if whole and not callable(loss):
            raise ValueError(
                f"dataset: received targets from {y.min()} to {y.max()}{_named(inputs.label_names)} and one output,"
                " accepted: 0 and 1 (two classes), or loss='mse' for numbers"
            )
        if loss in ("cross_entropy", "nll"):
            raise ValueError(f"loss: received {loss!r} with one output, accepted: targets of 0 and 1, or 'mse'")
        signs = () if loss is not None or not bool((y.abs() == 1).all()) or bool((y == 1).all()) else (_SIGNS,)
        return Reading(loss or "mse", notes=signs)
    if loss == "nll":
        raise ValueError(f"loss: received 'nll' with one output, accepted: {' or '.join(map(repr, _BINARY))}")
    kind, named = _kind_of_binary(output, loss, last_operation)
    what = "logit" if kind == "logits" else "probability"
    note = (
        f"Targets are 0 and 1 and the model has one output, which is taken for the {what} of class 1: a binary"
        " classification with cross-entropy. loss='mse' takes it for a number."
    )
    return Reading(
        loss if callable(loss) else named,
        kind,
        n_classes=2,
        one_output=True,
        notes=() if loss in _BINARY else (note,),
    )


def _of_classes(y: torch.Tensor, output: torch.Tensor, loss: Loss | None, last_operation: Callable[[], str]) -> Reading:
    if loss in _BINARY:
        raise ValueError(
            f"loss: received {loss!r} with {output.shape[1]} outputs and one class per example, accepted: cross_entropy"
            " or nll, or a target of 0 or 1 for each output"
        )
    kind, notes = _kind_of(output, loss, last_operation)
    targets: Targets = "as they are" if y.ndim == 1 else "column"
    if y.is_floating_point():
        targets = "whole numbers"
        notes += (f"Targets are whole numbers, and there are {output.shape[1]} outputs: they are taken for classes.",)
    return Reading(loss or "cross_entropy", kind, targets, int(output.shape[1]), notes=notes)


def _of_rows(y: torch.Tensor, output: torch.Tensor, loss: Loss | None, last_operation: Callable[[], str]) -> Reading:
    """Of as many targets as outputs of each example."""
    assert not callable(loss)
    if bool(_one_hot(y).all()) and loss not in _BINARY:
        kind, notes = _kind_of(output, loss, last_operation)
        note = "Targets are one-hot rows: they are taken for classes. loss='mse' takes them for numbers."
        return Reading(loss or "cross_entropy", kind, "one-hot rows", int(output.shape[1]), notes=(*notes, note))
    if loss in _BINARY or (loss is None and bool(((y == 0) | (y == 1)).all())):
        kind, named = _kind_of_binary(output, loss, last_operation)
        what = "logits" if kind == "logits" else "probabilities"
        note = (
            f"Targets are {y.shape[1]} columns of 0 and 1: several labels per example, whose {what} the outputs are"
            " taken for; the loss is the mean of their binary cross-entropies. loss='mse' takes them for numbers."
        )
        return Reading(named, kind, "labels", notes=() if loss else (note,))
    if loss is None and y.is_floating_point() and bool(_fits(y, "probabilities").all()):
        raise ValueError(
            "loss: received none, with targets whose rows sum to 1, accepted: 'cross_entropy' (shares of the classes),"
            " 'mse' (numbers) or a function"
        )
    if loss == "cross_entropy" and y.is_floating_point():
        kind, notes = _kind_of(output, loss, last_operation)
        return Reading(loss, kind, notes=notes)
    return Reading(loss or ("mse" if y.is_floating_point() else "cross_entropy"))


def _of_each_output(
    inputs: Inputs, y: torch.Tensor, output: torch.Tensor, loss: Loss | None, last_operation: Callable[[], str]
) -> Reading:
    """Of a target for each output, of any shape, as of the pixels of a mask."""
    assert not callable(loss)
    default: Loss = loss or ("mse" if y.is_floating_point() else "cross_entropy")
    if not y.is_floating_point() and bool((y == _IGNORED).any()) and not bool((y > 1).any()):
        raise ValueError(
            f"dataset: received targets 0, 1 and {_IGNORED} with one output for each, accepted: 0 and 1 alone, or loss="
            f" as a function that leaves out {_IGNORED}"
        )
    if loss not in (None, *_BINARY) or not (loss in _BINARY or _only_0_and_1(y, inputs)):
        return Reading(default)
    if loss is None and any(y.shape[axis] > 1 and bool((y.sum(dim=axis) == 1).all()) for axis in range(1, y.ndim)):
        raise ValueError(
            f"loss: received none, with targets {tuple(y.shape)} of which one of several is 1 and the others 0,"
            " accepted: a class for each position, as a whole number, with outputs (n_examples, n_positions,"
            " n_classes); 'binary_cross_entropy_with_logits' (each is 0 or 1 by itself) or 'mse' (numbers)"
        )
    kind, named = _kind_of_binary(output, loss, last_operation)
    if loss is not None:
        return Reading(named, kind, "shares")
    what = "logits" if kind == "logits" else "probabilities"
    note = (
        f"Targets are 0 and 1, one for each of the outputs {tuple(output.shape[1:])}, which are taken for {what}; the"
        " loss is the mean of their binary cross-entropies. loss='mse' takes them for numbers."
    )
    return Reading(named, kind, "labels", notes=(note,))


def _kind_of_binary(
    output: torch.Tensor, loss: Loss | None, last_operation: Callable[[], str]
) -> tuple[Outputs, LossName]:
    """What outputs are of which each is one of two classes, and the name of their loss."""
    kind: Outputs = "probabilities of each" if loss == "binary_cross_entropy" else "logits"
    if loss not in _BINARY and bool(_fits(output, "probabilities of each").all()):
        kind = _each_or_logits(last_operation())
    return kind, "binary_cross_entropy_with_logits" if kind == "logits" else "binary_cross_entropy"


def _kind_of(
    output: torch.Tensor, loss: Loss | None, last_operation: Callable[[], str]
) -> tuple[Outputs, tuple[str, ...]]:
    """What the outputs for several classes are, and a note if that is no logits."""
    if bool(_fits(output, "probabilities").all()):
        note = (
            "Outputs are probabilities, as of a softmax (rows that sum to 1): their logarithms are taken for logits. If"
            " the model was trained with a softmax of them once more, give that as a function, loss=."
        )
        return "probabilities", (note,)
    if bool(_fits(output, "log probabilities").all()):
        return "log probabilities", (OfNetwork("Outputs are log probabilities, as of a log_softmax."),)
    if loss == "nll":
        raise ValueError(
            "loss: received 'nll' with outputs that are no log probabilities, accepted: 'cross_entropy' for logits, or"
            " outputs of a log_softmax"
        )
    # What made them is unknown of a frozen network, and may be a sigmoid of another name: only a linear layer is sure.
    if not callable(loss) and bool(_fits(output, "probabilities of each").all()) and last_operation() not in _LINEAR:
        if loss is None:
            raise ValueError(
                "loss: received none, with outputs between 0 and 1 for several classes, as of a sigmoid, accepted:"
                " 'cross_entropy' (they are logits), or 'binary_cross_entropy' and one-hot targets (each is a"
                " probability)"
            )
        return "logits", ("Outputs lie between 0 and 1: they are taken for logits, as loss='cross_entropy' says.",)
    return "logits", ()


def _each_or_logits(operation: str) -> Outputs:
    """Whether numbers between 0 and 1 are probabilities or logits, by what made them."""
    if operation == "Sigmoid":
        return "probabilities of each"
    if operation in _LINEAR:
        return "logits"
    raise ValueError(
        "loss: received none, with outputs between 0 and 1, accepted: 'binary_cross_entropy' if they are probabilities,"
        " 'binary_cross_entropy_with_logits' if they are logits, 'mse' for numbers"
    )


def last_operation(forward: Callable[[], Any]) -> str:
    """Return torch's name of the operation that made an output, such as "Sigmoid" or "Addmm"; "" if it is not known.

    Args:
        forward: Returns the output; it is called with gradients.
    """
    import torch

    with torch.enable_grad():
        node = getattr(forward(), "grad_fn", None)
    while node is not None and node.name().split("Backward")[0] in _OF_SHAPE:
        node = node.next_functions[0][0]
    return "" if node is None else str(node.name().split("Backward")[0])


def check_order_of_words(labels: np.ndarray, predictions: np.ndarray, names: Sequence[str]) -> None:
    """Refuse classes in another order than the outputs: that order would make most wrong answers right.

    Raises:
        ValueError: If so; the message has the better order.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    counts = np.zeros((len(names), int(predictions.max(initial=0)) + 1))
    np.add.at(counts, (labels, predictions), 1)
    counts = np.pad(counts, ((0, 0), (0, max(0, len(names) - counts.shape[1]))))
    rows, columns = linear_sum_assignment(counts, maximize=True)
    moved = rows != columns
    of_moved = counts[rows[moved]].sum()
    here, there = counts[rows[moved], rows[moved]].sum(), counts[rows[moved], columns[moved]].sum()
    if there > max(2 * here, of_moved / 2):
        better = ", ".join(f"{names[row]!r} {column}" for row, column in zip(rows[moved], columns[moved], strict=True))
        raise ValueError(
            f"targets: received classes in an order that names other outputs: {there:.0f} of {of_moved:.0f} answers are"
            f" right with {better}, accepted: the outputs' numbers, or categories of pandas in the outputs' order"
        )


def _two_values(y: torch.Tensor, inputs: Inputs) -> bool:
    """Whether targets are 0 and 1 alone; of floating-point ones, which may be numbers like others, both of them."""
    return _only_0_and_1(y, inputs, both=y.is_floating_point())


def _only_0_and_1(y: torch.Tensor, inputs: Inputs, *, both: bool = False) -> bool:
    """Whether targets are 0 and 1 alone; floating-point ones, which may be numbers like others, in all the data."""
    if not bool(((y == 0) | (y == 1)).all()):
        return False
    if not y.is_floating_point():
        return True
    found: set[float] = set()  # of sorted data, the first batch may have one of them
    for batch in inputs:
        found |= set(batch.targets.unique().tolist())
        if not found <= {0, 1}:
            return False
    return len(found) == 2 or not both


def _one_hot(y: torch.Tensor) -> torch.Tensor:
    """Of each row, whether it has a 1 and else only 0."""
    return ((y == 0) | (y == 1)).all(dim=1) & (y.sum(dim=1) == 1)


def _fits(values: torch.Tensor, kind: Outputs) -> torch.Tensor:
    """Of each row, or each number, whether it is of this kind."""
    values = values.detach()
    if kind == "probabilities of each":
        return (values >= 0) & (values <= 1)
    tolerance = _SUM.get(values.element_size(), _SUM[2])
    p = values.double() if kind == "probabilities" else values.double().exp()
    return (p >= 0).all(dim=-1) & ((p.sum(dim=-1) - 1).abs() < tolerance)


def _refuse(
    wrong: torch.Tensor, name: str, values: torch.Tensor, indices: Int64[np.ndarray, " n_examples"], accepted: str
) -> None:
    """Name the first example that is wrong, by a truth value for each row or number."""
    if bool(wrong.any()):
        example = int(wrong.reshape(len(wrong), -1).any(dim=1).nonzero()[0])
        row = values[example].detach().reshape(-1)
        bad = row[wrong[example].reshape(-1)] if wrong[example].numel() == row.numel() else row
        shown = ", ".join(f"{value:g}" for value in bad[:3].tolist()) + (", ..." if len(bad) > 3 else "")
        raise ValueError(f"{name}: received {shown} for example {int(indices[example])}, accepted: {accepted}")
