"""Asking a model that is being trained, or is somebody's own, and leaving everything as it was."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_ROUNDING = 100  # in units of the last place: by how much what does not depend on a token may differ with it


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


def check_causal(model: Any) -> None:
    """Refuse what is no causal language model, by asking it: what it says of a token must not depend on later ones.

    An encoder has read the very token that it is asked about, so that its answers would look like memory.

    Args:
        model: Called with two rows of four tokens.

    Raises:
        ValueError: If it is no network, has a decoder of its own, or looks at later tokens.
    """
    import torch

    name, config = type(model).__name__, getattr(model, "config", None)
    if not isinstance(model, torch.nn.Module):
        raise ValueError(f"model: received {name}, accepted: a causal model, such as AutoModelForCausalLM loads")
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"model: received {name}, which has a decoder of its own, accepted: a causal model")
    a, b = [token for token in range(3) if token != getattr(config, "pad_token_id", None)][:2]
    rows = torch.tensor([[a, b, a, b], [a, b, a, a]], device=next(model.parameters()).device)
    with left_as_found(model):
        try:
            try:
                output = model(input_ids=rows)
            except TypeError:  # some need the mask
                output = model(input_ids=rows, attention_mask=torch.ones_like(rows))
        except TypeError:
            raise ValueError(f"model: received {name}, which takes no input_ids, accepted: a causal model") from None
    logits = output["logits"] if isinstance(output, Mapping) else getattr(output, "logits", output)
    if not torch.is_tensor(logits) or logits.ndim != 3:
        raise ValueError(f"model: received {name}, which returns no logits, accepted: a causal model")
    before = logits[:, : rows.shape[1] - 1].float()
    if (before[0] - before[1]).abs().max() > _ROUNDING * torch.finfo(logits.dtype).eps * before.abs().max():
        raise ValueError(f"model: received {name}, which looks at later tokens, accepted: a causal model")
