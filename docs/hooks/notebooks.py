"""Notebooks are committed without outputs; the tests run them, and the site shows what they gave."""

from __future__ import annotations

import base64
import hashlib
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".notebooks"
_TERMINAL = re.compile(r"\x1b\[[0-9;]*m")  # colours
_STYLE = re.compile(r"<style.*?</style>", re.DOTALL)  # that pandas brings; the site has its own


@dataclass
class NotebookPage:
    """A notebook as Markdown, and its pictures (base name to bytes)."""

    text: str
    pictures: dict[str, bytes] = field(default_factory=dict)


def run(path: Path, timeout: int = 300) -> Any:
    """Run a notebook from its first cell, keep what it gave for the site, and return it.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:  # what it writes is not kept
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=timeout, kernel_name="python3", resources=resources).execute()
    KEPT.mkdir(exist_ok=True)
    nbformat.write(notebook, _kept(path))
    return notebook


def with_outputs(path: Path) -> Any:
    """Return a notebook with its outputs: those that are kept if nothing changed since, else run it."""
    return nbformat.read(_kept(path), as_version=4) if _kept(path).exists() else run(path)


def as_page(path: Path) -> NotebookPage:
    """Return a notebook, with its outputs, as a page of the site."""
    page = NotebookPage("")
    parts: list[str] = []
    for number, cell in enumerate(with_outputs(path).cells):
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":  # warnings of the machine at hand
                continue
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}-{number}.png"
                page.pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![What the cell draws]({name})")
            elif "text/html" in data:
                table = _STYLE.sub("", data["text/html"]).replace('<table border="1" class="dataframe">', "<table>")
                parts.append(f"<div markdown='0'>\n{table}\n</div>")
            elif text := output.get("text") or data.get("text/plain"):
                parts.append("```text\n" + _TERMINAL.sub("", text).rstrip() + "\n```")
    title, *rest = parts
    note = f"*The notebook [{path.name}]({path.name}), with what it gave when this site was built.*"
    page.text = "\n\n".join([title, note, *rest]) + "\n"
    return page


def _kept(path: Path) -> Path:
    """Return where the outputs of this notebook, with byheart as it is, are kept."""
    digest = hashlib.sha256(path.read_bytes())
    for source in sorted((ROOT / "src").rglob("*.py")):
        digest.update(source.read_bytes())
    return KEPT / f"{path.stem}-{digest.hexdigest()[:16]}.ipynb"
