"""``byheart report``: the runs of a directory as one HTML page that explores them and needs no network."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from markupsafe import Markup

from byheart.own import check_page
from byheart.page import asset, write_page
from byheart.records import SUFFIX
from byheart.storage import name_of, place
from byheart.toy.page.contents import collect, provenance_of, shared_config
from byheart.toy.reference import paper_reference
from byheart.toy.runs import open_runs

__all__ = ["write_report"]

_SCRIPTS = ("page/figures.js", "toy/page/sweep_figures.js", "toy/page/run_figures.js", "toy/page/page.js")
_MAIN_SETUP = ("n_features", "sparsity", "n_hidden", "n_steps", "weight_decay")


def write_report(directory: str | Path, out: str | Path, basins: bool = False) -> Path:
    """Write a self-contained, interactive page about all runs of a directory, and return its path.

    The same runs give the same bytes.

    Args:
        directory: Directory of run files, or URL of an object store; damaged ones are left out with a warning.
        out: The page to write, replaced if it is one of byheart's.
        basins: Also colour the plane of every model of two hidden units by where it flows when the model is fed its own
            answers (``attractors_of``); of own data or with other variants it is left out. Takes seconds per run.

    Raises:
        ValueError: If there is no such directory, it holds no runs, or a file that is no page is in the way of ``out``.
        OSError: If ``out`` cannot be written.
    """
    import plotly.offline

    check_page(out)
    runs = open_runs(directory)
    where = place(directory)
    if not len(runs):
        raise ValueError(f"runs: received {directory} with no run files, accepted: a directory of {SUFFIX} run files")
    data, shared, origin = collect(runs, basins), shared_config(runs), provenance_of(runs)
    if not data["runs"]:
        raise ValueError(f"runs: received {directory} without a whole run file, accepted: at least one")
    paper = None
    if data["x"]["name"] == "n_examples" and any(run["paper_setup"] for run in data["runs"]):
        paper = json.loads(paper_reference().to_json(orient="records"))  # null: T infinite, off scale, not given
    library = Markup(plotly.offline.get_plotlyjs())  # not text of a user
    return write_page(
        Path(out),
        "toy/page/page.html",
        style=asset("toy/page/page.css"),
        scripts=[library, *map(asset, _SCRIPTS)],
        data={"report": data, "paper": paper},
        kind="byheart report",
        title=name_of(where.resolve() if isinstance(where, Path) else where),
        axes=_axes(data) + [(name, [shared[name]]) for name in _MAIN_SETUP if name in shared],
        tables={"Configuration all runs share": shared, f"Where the numbers come from: {origin['cost']}": origin},
        number=_as_number,
    )


def _as_number(value: float | None, digits: int = 4) -> str:
    if value is None:
        return "n/a"
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.{max(digits - 2, 1)}e}"
    return f"{value:,.{digits}f}" if abs(value) < 100 else f"{value:,.1f}"


def _axes(data: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Name T, what else is along x, the seed and every other swept axis, each with its values."""
    numbers = sorted({math.inf if run["T"] is None else run["T"] for run in data["runs"]})
    seeds = sorted({run["seed"] for run in data["runs"]})
    along = sorted({run["x"] for run in data["runs"]}) if data["x"]["name"] != "n_examples" else []
    return [
        ("training examples T", ["∞" if t == math.inf else f"{t:,}" for t in numbers]),
        *([(data["x"]["title"], [f"{value:,}" for value in along])] if along else []),
        ("seed", [str(s) for s in seeds] if len(seeds) <= 20 else [str(seeds[0]), "…", str(seeds[-1])]),
        *((axis["name"], axis["values"]) for axis in data["axes"]),
    ]
