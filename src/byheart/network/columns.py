"""Rows and batches that are dicts: which columns a model is called with, and which holds the targets.

The model's ``forward`` decides by the names of its parameters, as in the Trainer of Transformers. Targets are never
given to the model.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from byheart.network.huggingface import of_next_token, transformers_model
from byheart.network.layers import unwrapped

TARGETS = ("labels", "label", "label_ids", "targets", "target")
IGNORED = -100


class Columns:
    """What of a batch that is a dict a model is called with.

    Attributes:
        model: Which; None if batches are only looked at for their targets.
        names: Parameters of its ``forward``; None if it takes any.
        first: The parameter that a single column may stand for, whatever its name; empty if there is none.
    """

    def __init__(self, model: Any = None) -> None:
        self.model = None if model is None else unwrapped(model)
        self.names: frozenset[str] | None = None
        self.first = ""
        if model is None:
            return
        parameters = _parameters(self.model)
        named = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            inner = transformers_model(self.model)
            if inner is None:
                return
            named += [p.name for p in _parameters(inner)]  # its further keywords are no columns
        elif named or parameters:
            self.first = parameters[0].name
        self.names = frozenset(named)

    def split(self, batch: Mapping[str, Any], *, by_default: bool, labelled: bool = True) -> tuple[Any, Any, list[str]]:
        """Return what the model is called with, the targets, and notes.

        Args:
            batch: By name, a value per example.
            by_default: Whether torch's default collation made it, or ours, rather than a function of the user's.
            labelled: Whether there must be targets; else they may be None.

        Raises:
            ValueError: If there are no targets or several, the model takes none of the columns, or one that it takes is
                a list of rows that were not made one tensor.
        """
        present = [name for name in TARGETS if name in batch]
        if len(present) > 1 or (labelled and not present):
            raise ValueError(
                f"dataset: received batches with the columns {', '.join(map(str, batch))}, accepted: one of"
                f" {', '.join(TARGETS)} among them, the targets; or pairs (inputs, targets)"
            )
        targets = batch[present[0]] if present else None
        others = {str(name): value for name, value in batch.items() if name not in TARGETS}
        notes = []
        taken = {name: value for name, value in others.items() if self.names is None or name in self.names}
        inputs: Any = taken
        if not taken and self.first and len(others) == 1:
            ((name, inputs),) = others.items()
            taken = others
            notes.append(f"The column {name} is what the model's forward takes as {self.first}.")
        if not taken:
            raise ValueError(
                f"dataset: received batches with the columns {', '.join(others) or 'of targets alone'}, accepted: some"
                f" that the model's forward takes ({', '.join(sorted(self.names or ()))}); or pairs (inputs, targets)"
            )
        if self.model is not None and by_default:
            for name, value in {**taken, **({present[0]: targets} if present else {})}.items():
                _check_rows(name, value, name in present)
        left_out = [name for name in others if name not in taken]
        if left_out:
            notes.append(f"Columns that the model's forward does not take were left out: {', '.join(left_out)}.")
        if self.model is not None and of_next_token(self.model, targets, taken):
            targets = _of_next(targets)
            notes.append("The model generates text: the target of each position is the label of the next one.")
        return inputs, targets, notes

    def by_position(self, n_parts: int) -> str:
        """Return a note on batches of several parts, of which the last is taken for the targets; "" of pairs."""
        if self.model is None or n_parts < 3:
            return ""
        positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        names = [p.name for p in _parameters(self.model) if p.kind in positional][: n_parts - 1]
        named = f", as {', '.join(names)}" if len(names) == n_parts - 1 else ""
        wrong = next((f" {name} is a name of targets: are they last?" for name in names if name in TARGETS), "")
        return (
            f"Batches have {n_parts} parts: the last is taken for the targets, and those before it are given to the"
            f" model's forward in their order{named}.{wrong}"
        )


def _parameters(module: Any) -> list[inspect.Parameter]:
    """The parameters of a module's forward, also where accelerate has put autocast around it."""
    forward = vars(module).get("_original_forward", module.forward)
    try:
        return list(inspect.signature(forward).parameters.values())
    except (TypeError, ValueError):  # compiled functions have none
        return [inspect.Parameter("columns", inspect.Parameter.VAR_KEYWORD)]


def _check_rows(name: str, values: Any, are_targets: bool) -> None:
    if not isinstance(values, (list, tuple)) or all(isinstance(value, str) for value in values):
        return
    collator = "DataCollatorForTokenClassification" if are_targets else "DataCollatorWithPadding"
    arrays = all(hasattr(value, "shape") or isinstance(value, (list, tuple)) for value in values)
    shapes = [tuple(getattr(value, "shape", (len(value),))) for value in values] if arrays else []
    if len(set(shapes)) == 1 and all(hasattr(value, "detach") for value in values):
        received = "lists, of which torch's default collation makes a tensor per position"
        accepted = f"tensors (dataset.with_format('torch')), or collate_fn={collator}(tokenizer)"
    elif arrays:
        received = f"rows of shape {' and '.join(map(str, sorted(set(shapes))[:2]))}, or of parts of several lengths"
        accepted = (
            f"rows of one length, as DataLoader(dataset, batch_size, collate_fn={collator}(tokenizer)) makes them"
        )
    else:
        received, accepted = f"{type(values[0]).__name__} objects", "numbers"
    raise ValueError(f"dataset: received in the column {name} {received}, accepted: {accepted}")


def _of_next(labels: Any) -> Any:
    """Labels of the positions that follow; the last one has none."""
    moved = labels.roll(-1, dims=1)
    moved[:, -1] = IGNORED
    return moved


def collate_rows(rows: list[Any]) -> Any:
    """Make a batch of a dataset's items: of dicts of numbers, lists or tensors a dict of tensors, as far as they fit.

    Torch's default collation turns lists round: of two lists of five it makes five tensors of two.
    """
    import torch
    from torch.utils.data import default_collate

    if not isinstance(rows[0], Mapping):
        return default_collate(rows)
    batch: dict[str, Any] = {}
    for name in rows[0]:
        values = [row[name] for row in rows]
        batch[name] = values
        if isinstance(values[0], (str, bytes, Mapping)) or values[0] is None or hasattr(values[0], "getbands"):
            continue  # texts, and images of PIL, are no numbers yet
        try:
            arrays = isinstance(values[0], np.ndarray) or torch.is_tensor(values[0])
            batch[name] = torch.stack([torch.as_tensor(v) for v in values]) if arrays else torch.tensor(values)
        except (TypeError, ValueError, RuntimeError):  # of several lengths, which matters if the model takes them
            continue
    return batch


def names_of_classes(dataset: Any) -> tuple[str, ...] | None:
    """Return the names of the classes that a ``datasets.Dataset`` has with its labels, or None."""
    features = getattr(dataset, "features", None)
    if not isinstance(features, Mapping):
        return None
    names = next((getattr(features[name], "names", None) for name in TARGETS if name in features), None)
    return tuple(map(str, names)) if names else None
