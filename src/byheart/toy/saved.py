"""What a run file may say: arrays whose shapes, types and values fit the config, and numbers that are numbers.

A digest shows that a file is as someone wrote it; not that what was written is a run.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from byheart.toy.config import TrainConfig

_OVER_STEPS = ("step", "train_loss", "W_norm", "b_norm")
_OF_A_SNAPSHOT = ("step", "W", "b", "hidden")


def check_arrays(config: TrainConfig, arrays: Mapping[str, np.ndarray]) -> None:
    """Check that arrays are those of a run of this config.

    Raises:
        ValueError: If one is missing or unknown, or its shape, type or values are of no such run.
    """
    n_examples = config.n_test if config.n_examples == "inf" else config.n_examples
    n_rows = config.n_hidden * (1 if config.tied else 2)
    model = {
        "W": (n_rows, config.n_features),
        "b": (config.n_features,),
        "hidden": (n_examples, config.n_hidden),
    }
    expected: dict[str, tuple[int, ...]] = {**model, "repeats": (n_examples,)}
    n_logged = len(arrays.get("history.step", ()))
    expected |= {f"history.{name}": (n_logged,) for name in _OVER_STEPS}
    if n_snapshots := len(config.snapshot_steps):
        expected |= {"snapshots.step": (n_snapshots,)}
        expected |= {f"snapshots.{name}": (n_snapshots, *shape) for name, shape in model.items()}
    if differing := sorted(set(expected) ^ set(arrays)):
        raise ValueError(f"arrays {', '.join(differing)} are missing or belong to no such run")
    kind = arrays["W"].dtype
    for name, shape in expected.items():
        array, is_count = arrays[name], name.endswith(("step", "repeats"))
        accepted = np.dtype(np.int64) if is_count else np.dtype(np.float64) if name.startswith("history") else kind
        if array.shape != shape or array.dtype != accepted:
            raise ValueError(f"{name} is {array.dtype} of shape {array.shape}, its config has {accepted} of {shape}")
        if not is_count and not np.isfinite(array).all():
            raise ValueError(f"{name} has NaN or infinite numbers")
    if kind not in (np.float32, np.float64):
        raise ValueError(f"W is {kind}, a run has float32 or float64")
    steps, repeats = arrays["history.step"], arrays["repeats"]
    if not n_logged or steps[0] < 0 or steps[-1] > config.n_steps or (np.diff(steps) <= 0).any():
        raise ValueError(f"history.step does not rise from 0 to n_steps = {config.n_steps}")
    if n_snapshots and arrays["snapshots.step"].tolist() != list(config.snapshot_steps):
        raise ValueError("snapshots.step differs from the config's snapshot_steps")
    if (repeats < 1).any() or repeats[: len(config.repeats)].tolist() != list(config.repeats):
        raise ValueError("repeats differ from the config's, or are below 1")


def check_numbers(metrics: Any, provenance: Any) -> None:
    """Check what a header says beside the config.

    Raises:
        ValueError: If metrics are no finite numbers by name, or provenance is no words and numbers by name.
    """
    for what, found in (("metrics", metrics), ("provenance", provenance)):
        if not isinstance(found, dict):
            raise ValueError(f"{what} are no values by name")
    for name, value in metrics.items():
        if not (value is None or _is_number(value)):
            raise ValueError(f"the metric {name} is {str(value)[:40]}, no finite number")
    for name, value in provenance.items():
        if not (value is None or isinstance(value, str | bool) or _is_number(value)):
            raise ValueError(f"{name} of the provenance is neither a word nor a number")
    if not isinstance(provenance.get("wall_seconds") or 0.0, int | float):
        raise ValueError("wall_seconds of the provenance is no number")


def check_kernel(made_by: Mapping[str, Any], asked: str | None, usual: str, where: object) -> None:
    """Tell a run that is there, made by another kernel, from the one that is asked for.

    Args:
        made_by: Provenance of the run that is there.
        asked: Kernel that was asked for by name; None if any will do.
        usual: Kernel that would train the run now.
        where: The run, for messages.

    Raises:
        ValueError: If a kernel was asked for by name and the run is of another one.

    Warns:
        UserWarning: If none was asked for and the run is of another one than the usual.
    """
    kernel = made_by.get("kernel")
    if kernel is None or kernel == (asked or usual):
        return
    if asked is not None:
        raise ValueError(
            f'kernel: received "{asked}", but {where} is there, made by "{kernel}", accepted: no kernel by name, which'
            " takes it as it is, or another directory"
        )
    directory = str(where).rpartition("/")[0]
    warnings.warn(f'{directory}: has runs of the kernel "{kernel}", which are taken as they are', stacklevel=1)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
