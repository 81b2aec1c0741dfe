"""Asking a model that is being trained, or is somebody's own, and leaving everything as it was."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_IGNORED = -100  # a label that is none
_ROUNDING, _MOST = 100, 0.02  # units of the last place, of the spread of logits: what rounding may make of the same row
_MASKED = 1e4  # logits beyond that are of tokens that a model never writes


@contextlib.contextmanager
def left_as_found(model: Any) -> Iterator[None]:
    """Run in evaluation mode without gradients; give back each module's mode and all random states afterwards."""
    import torch

    modes = {} if model is None else {module: module.training for module in model.modules()}
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    if model is not None:
        model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        random.setstate(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


def check_causal(model: Any, batch: Mapping[str, Any] | None = None) -> None:
    """Refuse what is no causal language model, by asking it: what it says of a token must not depend on later ones.

    An encoder has read the very token that it is asked about, so that its answers would look like memory.

    Args:
        model: Called with two rows that differ in their last token.
        batch: ``input_ids``, ``labels`` and what else the model takes; the first row is used, as far as it has labels.
            Default: four tokens.

    Raises:
        ValueError: If it is no network, has a decoder of its own, or looks at later tokens.
    """
    import torch

    name, config = type(model).__name__, getattr(model, "config", None)
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"model: received {name}, accepted: a causal model, such as AutoModelForCausalLM loads")
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"model: received {name}, which has a decoder of its own, accepted: a causal model")
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    n_tokens = min(getattr(embeddings, "num_embeddings", 3), 3)
    a, *others = [token for token in range(n_tokens) if token != getattr(config, "pad_token_id", None)]
    b = others[0] if others else a
    rows, rest = torch.tensor([[a, b, a, b]]), {}
    if batch is not None:
        size = 1 + int((batch["labels"][0] != _IGNORED).nonzero().max())
        shape = batch["labels"].shape
        per_token = {key: value for key, value in batch.items() if getattr(value, "shape", None) == shape}
        rest = {key: value[:1, :size] for key, value in per_token.items() if key not in ("input_ids", "labels")}
        rows = batch["input_ids"][:1, :size]
    device = next(model.parameters()).device
    rows, rest = rows.repeat(2, 1).to(device), {key: value.repeat(2, 1).to(device) for key, value in rest.items()}
    rows[1, -1] = b if rows[0, -1] == a else a
    with left_as_found(model):
        try:
            try:
                output = model(input_ids=rows, **({"attention_mask": torch.ones_like(rows)} | rest))
            except TypeError:  # some take no mask
                output = model(input_ids=rows, **rest)
        except TypeError as error:
            raise ValueError(
                f"model: received {name}, which does not take input_ids alone ({error!s:.100}), accepted: a causal"
                " model"
            ) from error
    logits = output["logits"] if isinstance(output, Mapping) else getattr(output, "logits", output)
    if not torch.is_tensor(logits) or logits.ndim != 3:
        raise ValueError(f"model: received {name}, which returns no logits, accepted: a causal model")
    before = logits[:, : rows.shape[1] - 1].float()
    said = (before.abs() < _MASKED).all(dim=0)
    one, other = before[0][said], before[1][said]
    share = min(_ROUNDING * torch.finfo(logits.dtype).eps, _MOST)
    if len(one) and (one - other).abs().max() > share * (one.max() - one.min()):
        raise ValueError(f"model: received {name}, which looks at later tokens, accepted: a causal model")
