"""Asking a model that is being trained, or is somebody's own, and leaving everything as it was."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from typing import Any

import numpy as np


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
