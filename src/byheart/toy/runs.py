"""One run = one record, ``<id>.safetensors``: arrays, and in its header the config, metrics and provenance as JSON."""

from __future__ import annotations

import functools
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pandas as pd
from jaxtyping import Float, Int64

from byheart import records, storage
from byheart.records import SUFFIX, Record
from byheart.storage import Place
from byheart.toy.config import TrainConfig, brief
from byheart.toy.saved import check_arrays, check_numbers

if TYPE_CHECKING:
    import xarray as xr

_WHAT = "run file"
_SIZES = ("n_examples", "n_features", "sparsity", "n_hidden", "n_steps")


@dataclass(frozen=True, eq=False)
class Run:
    """A trained model with what was measured on it.

    Attributes:
        config: What was trained.
        W: Weights, one column per feature; of untied models the encoder's rows, then the decoder's.
        b: Bias.
        hidden: Hidden vectors h_i = W x_i of the distinct training examples (of test examples where T is infinite).
        repeats: How often each of these examples occurs in the training set (1 where T is infinite).
        history: Arrays over the logged steps: ``step``, ``train_loss``, ``W_norm``, ``b_norm``.
        snapshots: ``step`` and, per snapshot, ``W``, ``b`` and ``hidden``; empty unless asked for.
        metrics: Numbers by name; None where one does not apply.
        provenance: Versions, git revision, kernel, device, threads, wall time.
        data_digest: Hash of the user's own examples or weights; empty if all was drawn from the seed.
    """

    config: TrainConfig
    W: Float[np.ndarray, "n_rows n_features"]
    b: Float[np.ndarray, " n_features"]
    hidden: Float[np.ndarray, "n_examples n_hidden"]
    repeats: Int64[np.ndarray, " n_examples"]
    history: dict[str, np.ndarray]
    metrics: dict[str, float | None]
    snapshots: dict[str, np.ndarray] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    data_digest: str = ""

    @property
    def id(self) -> str:
        """Hash of the config and of the user's own data or weights."""
        return self.config.run_id(self.data_digest)

    def __repr__(self) -> str:
        """Return what was trained, and the losses."""
        return f"Run {self.id} ({brief(self.config)}): {_losses(self.metrics)}"

    def _repr_html_(self) -> str:
        """Return the same, with all metrics, as a table for notebooks."""
        rows = {"id": self.id, "config": brief(self.config), **self.metrics}
        found = {name: _in_words(value) for name, value in rows.items() if value is not None}
        return str(pd.DataFrame({"": found}).to_html(header=False))

    def to_record(self) -> Record:
        """Return the run as arrays and texts."""
        arrays = {"W": self.W, "b": self.b, "hidden": self.hidden, "repeats": self.repeats}
        arrays |= {f"history.{name}": array for name, array in self.history.items()}
        arrays |= {f"snapshots.{name}": array for name, array in self.snapshots.items()}
        header = {
            "config": json.dumps(self.config.to_dict()),
            "metrics": json.dumps(self.metrics),
            "provenance": json.dumps(self.provenance),
            "data_digest": self.data_digest,
        }
        return Record(arrays, header)

    def save(self, directory: str | Path) -> Place:
        """Write the run to ``directory`` (made if missing), or the URL of an object store, and return its place.

        Raises:
            ValueError: If a file of this name is there and is no run.
            OSError: If the directory cannot be written or the disk is full; nothing is left behind.
        """
        return records.write(storage.join(storage.place(directory), self.id + SUFFIX), self.to_record(), _WHAT)


@dataclass(frozen=True)
class Header:
    """What a run's file says without its arrays being read."""

    path: Place
    config: TrainConfig
    metrics: dict[str, float | None]
    provenance: dict[str, Any]
    data_digest: str

    @property
    def id(self) -> str:
        """The run's id, which is also its file's name."""
        return storage.name_of(self.path).removesuffix(SUFFIX)


class Runs:
    """The runs of a directory, by width, T and seed: table, dataset over the swept axes, the runs themselves."""

    def __init__(self, headers: list[Header]) -> None:
        self.headers = sorted(headers, key=lambda h: (h.config.n_hidden, _finite_or_inf(h.config), h.config.seed, h.id))

    def __len__(self) -> int:
        return len(self.headers)

    def __iter__(self) -> Iterator[Run]:
        return (load_run(header.path) for header in self.headers)

    @overload
    def __getitem__(self, key: int | np.integer | str | TrainConfig) -> Run: ...
    @overload
    def __getitem__(self, key: slice) -> Runs: ...
    def __getitem__(self, key: int | np.integer | str | TrainConfig | slice) -> Run | Runs:
        """Return the run at a position, with an id, or of a config, or the runs of a slice of positions.

        Raises:
            IndexError: If there are not so many runs.
            KeyError: If no run has this id or config.
            ValueError: If a slice goes backwards; runs have one order.
        """
        n = len(self)
        if isinstance(key, slice):
            if key.indices(n)[2] < 0:
                raise ValueError(f"runs: received a step of {key.step}, accepted: steps of 1 or more")
            return Runs(self.headers[key])
        if isinstance(key, int | np.integer):
            if not -n <= key < n:
                accepted = f"{-n} to {n - 1}" if n else "nothing, there are no runs"
                raise IndexError(f"runs: received position {key}, accepted: {accepted}")
            return load_run(self.headers[key].path)
        run_id = key.run_id() if isinstance(key, TrainConfig) else key
        for header in self.headers:
            if header.id == run_id:
                return load_run(header.path)
        raise KeyError(f"runs: received {run_id!r}, accepted: the id, config or position of one of {n} runs")

    def __repr__(self) -> str:
        """Return how many runs there are, what they share, what was varied, and the range of the losses."""
        if not self.headers:
            return "0 runs"
        shared = {name: value for name, value in self.headers[0].config.to_dict().items() if name in _SIZES}
        fixed = ", ".join(f"{name} {_in_words(value)}" for name, value in shared.items() if name not in self.axes)
        lines = [f"{len(self):,} run{'s' * (len(self) > 1)}{f': {fixed}' if fixed else ''}"]
        for name in self.axes:
            values = list(dict.fromkeys(getattr(header.config, name) for header in self.headers))
            shown = [
                _in_words(value) for value in (values if len(values) <= 12 else [*values[:6], "...", *values[-3:]])
            ]
            lines.append(f"  {name}: {', '.join(shown)}")
        for name in ("train_loss", "test_loss"):
            known = [value for header in self.headers if (value := header.metrics.get(name)) is not None]
            if known:
                lines.append(f"  {name}: {' to '.join(dict.fromkeys(f'{end(known):.4g}' for end in (min, max)))}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return what they share, and a row per run with what was varied and the losses, for notebooks."""
        columns = ["id", *self.axes, "train_loss", "test_loss"]
        table = self.table.reindex(columns=columns).to_html(index=False, max_rows=20, float_format="{:.4g}".format)
        return f"<p>{escape(repr(self).splitlines()[0])}</p>{table}" if self.headers else "<p>0 runs</p>"

    def where(self, **fields: Any) -> Runs:
        """Return the runs whose config has these values, e.g. ``runs.where(n_examples=5, seed=0)``."""
        if unknown := set(fields) - set(TrainConfig.__dataclass_fields__):
            raise ValueError(f"where: received {sorted(unknown)}, accepted: {sorted(TrainConfig.__dataclass_fields__)}")
        return Runs([h for h in self.headers if all(getattr(h.config, k) == v for k, v in fields.items())])

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        """One row per run: id, config, metrics and wall time; an infinite n_examples is ``inf``."""
        rows = [
            {
                "id": h.id,
                "data_digest": h.data_digest,
                **h.config.to_dict(),
                **h.metrics,
                "wall_seconds": h.provenance.get("wall_seconds"),
            }
            for h in self.headers
        ]
        table = pd.DataFrame(rows)
        if len(table):
            table["n_examples"] = [_finite_or_inf(h.config) for h in self.headers]
        return table

    @functools.cached_property
    def axes(self) -> list[str]:
        """The config fields in which the runs differ."""
        names = [name for name in TrainConfig.__dataclass_fields__ if name != "snapshot_steps"]
        if all(h.config.warmup_steps == round(0.05 * h.config.n_steps) for h in self.headers):
            names.remove("warmup_steps")  # the default follows n_steps
        return [name for name in names if len({getattr(h.config, name) for h in self.headers}) > 1]

    @functools.cached_property
    def dataset(self) -> xr.Dataset:
        """The metrics as arrays over the swept axes (and the user's own data sets); NaN where one was not run.

        Raises:
            ValueError: If two runs differ in nothing but their own data, so that no axis tells them apart.
        """
        if not self.headers:
            raise ValueError("dataset: received no runs, accepted: at least one")
        table = self.table
        axes = [*self.axes, *(["data_digest"] if len(set(table["data_digest"])) > 1 else [])] or ["seed"]
        metrics = [c for c in table if c not in {*TrainConfig.__dataclass_fields__, "id", "data_digest"}]
        if table.duplicated(axes).any():
            raise ValueError(f"dataset: received several runs with the same {axes}, accepted: one run per combination")
        return table.set_index(axes)[metrics].astype(float).to_xarray()


def _in_words(value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _losses(metrics: Mapping[str, float | None]) -> str:
    known = {name: metrics.get(name) for name in ("train_loss", "test_loss")}
    return ", ".join(f"{name} {value:.4g}" for name, value in known.items() if value is not None) or "no losses"


def summed(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of runs with losses summed over features, those of runs that average too: times n."""
    factor = np.where(table["reduction"] == "mean", table["n_features"], 1)
    losses = ("train_loss", "test_loss", "test_loss_se")
    return table.assign(**{name: table[name] * factor for name in losses if name in table})


def open_runs(directory: str | Path) -> Runs:
    """Read the headers of all runs in a directory, or below a URL such as "s3://bucket/runs".

    Raises:
        ValueError: If there is no such directory.
        OSError: If an object store cannot be listed.

    Warns:
        UserWarning: For every file that is no whole run, which is left out: it is damaged, was edited, is of a newer
            format or something else, such as a pipe.
    """
    where = storage.place(directory)
    if isinstance(where, Path) and not where.is_dir():
        raise ValueError(f"runs: received {directory}, accepted: a directory of {SUFFIX} run files")
    headers = []
    for path, found in records.read_headers(where, _WHAT):
        try:
            if isinstance(found, ValueError):
                raise found
            headers.append(_as_header(path, found))
        except ValueError as error:
            warnings.warn(f"left out: {error}", stacklevel=1)
    return Runs(headers)


def read_header(path: str | Path) -> Header:
    """Read config, metrics and provenance of one run.

    Raises:
        ValueError: If the file is not a run, is truncated, or was edited.
    """
    path = storage.place(path)
    return _as_header(path, records.read_header(path, _WHAT))


def load_run(path: str | Path) -> Run:
    """Load one run with its arrays.

    Raises:
        ValueError: If the file is not a run, is truncated, was edited, or its arrays do not fit its config.
    """
    path = storage.place(path)
    return as_run(path, records.read(path, _WHAT))


def as_run(path: Place, record: Record) -> Run:
    """Return the run that a record holds.

    Raises:
        ValueError: If it is none, or its arrays do not fit its config.
    """
    header = _as_header(path, record.header)
    arrays = record.arrays
    try:
        check_arrays(header.config, arrays)
    except ValueError as error:
        raise records.not_whole(path, str(error), _WHAT) from error
    return Run(
        config=header.config,
        W=arrays["W"],
        b=arrays["b"],
        hidden=arrays["hidden"],
        repeats=arrays["repeats"],
        history={name[8:]: array for name, array in arrays.items() if name.startswith("history.")},
        snapshots={name[10:]: array for name, array in arrays.items() if name.startswith("snapshots.")},
        metrics=header.metrics,
        provenance=header.provenance,
        data_digest=header.data_digest,
    )


def _as_header(path: Place, header: Mapping[str, str]) -> Header:
    """Return what a record's texts say of a run.

    Raises:
        ValueError: If they are not those of a run, or of another one than the file is named after.
    """
    if "config" not in header:
        raise records.not_whole(path, "it is no run", _WHAT)
    try:
        config = TrainConfig.from_dict(json.loads(header["config"]))
        metrics, provenance = json.loads(header["metrics"]), json.loads(header["provenance"])
        check_numbers(metrics, provenance)
        run_id = config.run_id(header["data_digest"])
    except (ValueError, TypeError, AttributeError, LookupError, OverflowError, RecursionError) as error:
        raise records.not_whole(path, f"its header is none of a run: {' '.join(str(error).split())}", _WHAT) from error
    found = Header(path, config, metrics, provenance, header["data_digest"])
    if found.id != run_id:
        raise records.not_whole(path, f"its config belongs to {run_id}{SUFFIX}", _WHAT)
    return found


def _finite_or_inf(config: TrainConfig) -> float:
    return math.inf if config.n_examples == "inf" else config.n_examples
