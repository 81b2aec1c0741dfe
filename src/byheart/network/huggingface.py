"""What a model of Transformers says of itself: which loss it is trained with, and what its labels are labels of.

Transformers is not imported: where it has not been, no model can be one of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from byheart.network.reading import LossName

# These read ``problem_type``, which the first call with labels sets in the model's configuration.
_CLASSIFIERS = tuple(f"For{kind}Classification" for kind in ("Sequence", "Image", "Video", "Audio"))
_LOSSES: dict[str, LossName] = {
    "regression": "mse",
    "single_label_classification": "cross_entropy",
    "multi_label_classification": "binary_cross_entropy_with_logits",
}


def transformers_model(model: Any) -> Any:
    """Return the one model of Transformers that a network is or has inside, as peft's and Lightning's do, or None."""
    library = sys.modules.get("transformers.modeling_utils")
    if library is None:
        return None

    def outermost(module: Any) -> Iterator[Any]:
        if isinstance(module, library.PreTrainedModel):
            yield module
        else:
            for child in module.children():
                yield from outermost(child)

    found = list(outermost(model))
    return found[0] if len(found) == 1 else None


def names_of_outputs(model: Any) -> tuple[str, ...] | None:
    """Return the names of the classes that a classifier's configuration gives its outputs; None if it has none."""
    inner = None if model is None else transformers_model(model)
    names = getattr(getattr(inner, "config", None), "id2label", None)
    if not isinstance(names, dict) or getattr(inner, "loss_type", None) not in _CLASSIFIERS:
        return None
    if sorted(names) != list(range(len(names))) or names == {i: f"LABEL_{i}" for i in names}:
        return None
    return tuple(str(names[i]) for i in range(len(names)))


def loss_of_config(model: Any, targets: torch.Tensor, output: Any) -> tuple[LossName | None, tuple[str, ...]]:
    """Return the loss that a classifier's configuration names, and a note; None if it names none.

    Raises:
        ValueError: If the configuration does not say whether one output is a number or a logit, nor do the targets.
    """
    inner = transformers_model(model)
    if inner is None or getattr(inner, "loss_type", None) not in _CLASSIFIERS:
        return None, ()
    problem = getattr(inner.config, "problem_type", None)
    if problem in _LOSSES:
        loss = _LOSSES[problem]
        return loss, (f"The model's configuration says problem_type={problem!r}: the loss is {loss}.",)
    if output.numel() == len(output) and bool(((targets == 0) | (targets == 1)).all()):
        raise ValueError(
            "loss: received none, with one output, targets of 0 and 1 and no problem_type in the model's configuration,"
            " accepted: 'mse' (what Transformers trains one output with) or 'binary_cross_entropy_with_logits'"
        )
    return None, ()


def of_next_token(model: Any, targets: Any, inputs: Mapping[str, Any]) -> bool:
    """Return whether a model's labels, one for each position, are those of the position before.

    Raises:
        ValueError: If it is an encoder and decoder whose outputs depend on the labels.
    """
    inner = transformers_model(model)
    if inner is None or getattr(targets, "ndim", 0) != 2 or not inner.can_generate():
        return False
    if getattr(inner.config, "is_encoder_decoder", False):
        if "decoder_input_ids" in inputs:
            return False
        raise ValueError(
            f"dataset: received labels of a {type(inner).__name__}, which makes its decoder's inputs of them, accepted:"
            " batches with decoder_input_ids, as DataCollatorForSeq2Seq(tokenizer, model=model) makes them"
        )
    return True
