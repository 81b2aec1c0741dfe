"""Packages that only this wing needs: missing ones are errors that say how to install them."""

from __future__ import annotations

import importlib.util


def require(*modules: str) -> None:
    """Check that these modules are installed.

    Raises:
        ModuleNotFoundError: If one is missing; the message is the command that installs it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            extra = "recite" if module == "transformers" else "language"
            raise ModuleNotFoundError(f'{module} is missing: pip install "byheart[{extra}]"')
