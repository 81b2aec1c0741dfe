"""``byheart report``: the runs of a directory as one HTML page that explores them and needs no network."""

from __future__ import annotations

import math
import os
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import plotly.offline
from markupsafe import Markup

from byheart.page.encoding import to_script_json
from byheart.records import SUFFIX
from byheart.toy.page.contents import collect, provenance, shared_config
from byheart.toy.runs import open_runs

__all__ = ["write_report"]

_SCRIPTS = (
    ("byheart.page", "decode.js"),
    ("byheart.page", "style.js"),
    ("byheart.toy.page", "sweep_figures.js"),
    ("byheart.toy.page", "run_figures.js"),
    ("byheart.toy.page", "page.js"),
)
_MAIN_SETUP = ("n_features", "sparsity", "n_hidden", "n_steps", "weight_decay")


def write_report(directory: str | Path, out: str | Path) -> Path:
    """Write a self-contained, interactive page about all runs of a directory, and return its path.

    The same runs give the same bytes.

    Args:
        directory: Directory of run files.
        out: The page to write, replaced if it exists.

    Raises:
        ValueError: If there is no such directory, it holds no runs, or a run file in it is damaged.
        OSError: If ``out`` cannot be written.
    """
    directory, out = Path(directory), Path(out)
    runs = open_runs(directory)
    if not len(runs):
        raise ValueError(f"runs: received {directory} with no run files, accepted: a directory of {SUFFIX} run files")
    data, shared = collect(runs), shared_config(runs)
    page = _template().render(
        title=directory.resolve().name,
        data=data,
        paper=_paper_reference() if any(run["paper_setup"] for run in data["runs"]) else None,
        shared=shared,
        provenance=provenance(runs),
        axes=_axes(data) + [(name, [shared[name]]) for name in _MAIN_SETUP if name in shared],
        style=_inert("byheart.page", "page.css") + _inert(__package__, "page.css"),
        scripts=[_inert(package, name) for package, name in _SCRIPTS],
        plotly=Markup(plotly.offline.get_plotlyjs()),  # the library, not text of a user
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return out


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["script_json"] = lambda value: Markup(to_script_json(value))
    environment.filters["number"] = _as_number
    return environment.from_string(resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8"))


def _inert(package: str, name: str) -> Markup:
    return Markup(resources.files(package).joinpath(name).read_text(encoding="utf-8"))


def _as_number(value: float | None, digits: int = 4) -> str:
    if value is None:
        return "n/a"
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.{max(digits - 2, 1)}e}"
    return f"{value:,.{digits}f}" if abs(value) < 100 else f"{value:,.1f}"


def _axes(data: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Name T, the seed and every other swept axis, each with its values."""
    numbers = sorted({math.inf if run["T"] is None else run["T"] for run in data["runs"]})
    seeds = sorted({run["seed"] for run in data["runs"]})
    return [
        ("training examples T", ["∞" if t == math.inf else f"{t:,}" for t in numbers]),
        ("seed", [str(s) for s in seeds] if len(seeds) <= 20 else [str(seeds[0]), "…", str(seeds[-1])]),
        *((axis["name"], axis["values"]) for axis in data["axes"]),
    ]


def _paper_reference() -> list[dict[str, float | None]]:
    """Return the paper's values as JSON: None for an infinite T and for what is off scale or not given."""
    from byheart.toy.reference import paper_reference

    table = paper_reference()
    return [
        {name: float(value) if math.isfinite(value) else None for name, value in zip(table.columns, row, strict=True)}
        for row in table.itertuples(index=False)
    ]
