"""Sizes that no run can have here are refused before anything is drawn, with the bytes that they would take."""

from __future__ import annotations

import contextlib
import os
from decimal import Decimal
from pathlib import Path

from byheart.toy.config import TrainConfig

_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def least_bytes(config: TrainConfig) -> dict[str, int]:
    """Return what training holds in memory at once, at least, by the field of the config that asks for it."""
    active = max(1, int(config.n_features * (1 - config.sparsity)))  # entries of an example that are not 0
    row = 8 * active + 8 + 8 * config.n_hidden  # index and value of each; hidden vector and its gradient
    weights = 4 * (config.n_hidden + 1) * config.n_features
    if config.n_examples == "inf":
        drawn = {"batch_size": config.batch_size * row}
    else:
        drawn = {"n_examples": config.n_examples * row, "repeats": (sum(config.repeats) - len(config.repeats)) * row}
    return drawn | {
        "n_hidden": 4 * weights,  # beside the weights their gradient, and two moments
        "n_steps": 8 * config.n_steps,  # the learning rate of each
        "snapshot_steps": len(config.snapshot_steps) * weights,
        "n_test": config.n_test * (row - 4 * config.n_hidden),
    }


def check_memory(config: TrainConfig) -> None:
    """Raise a ValueError that says the bytes it would take if a run cannot fit in this machine's memory."""
    needed, there = least_bytes(config), memory_size()
    if there is None or sum(needed.values()) <= there:
        return
    name = max(needed, key=lambda field: needed[field])
    value = getattr(config, name)
    received = f"counts that sum to {_short(sum(value))}" if name == "repeats" else value
    received = f"{len(value)} steps" if name == "snapshot_steps" else received
    raise ValueError(
        f"{name}: received {_short(received) if isinstance(received, int) else received}, for which a run takes at"
        f" least {_short(sum(needed.values()))} bytes, accepted: what fits in the {_short(there)} bytes of memory here"
    )


def memory_size() -> int | None:
    """Return the bytes of memory that there are for this process, None if the system does not say."""
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):  # Windows has no such question
        return None
    for limit in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no container, or none with a limit
            found.append(int(Path(limit).read_text()))
    return min(found)


def _short(number: int) -> str:
    return f"{number:,}" if number < 10**18 else f"{Decimal(number):.2g}"
