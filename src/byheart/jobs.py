"""Pools of worker processes that may be killed at any time without a word from them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import loky
from loky.backend import resource_tracker

_QUIET = "ignore:resource_tracker"


def process_pool(size: int, initializer: Callable[..., None], initargs: tuple[Any, ...] = ()) -> Any:
    """Return an executor of so many processes; ``shutdown(kill_workers=True)`` ends them at once.

    The process that frees what killed workers leave warns of what another has freed already: it is started such that
    it does not.
    """
    usual = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = f"{usual},{_QUIET}" if usual else _QUIET
    try:
        resource_tracker.ensure_running()
    finally:
        if usual is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = usual
    return loky.ProcessPoolExecutor(size, initializer=initializer, initargs=initargs)
