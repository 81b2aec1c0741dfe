"""Commands of the toy model: train, sweep, report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import GenericAlias
from typing import TYPE_CHECKING, Any

from byheart.cli.console import print_table
from byheart.cli.options import options
from byheart.cli.where import Where
from byheart.progress import Advance, bar
from byheart.records import Records
from byheart.toy.config import TrainConfig
from byheart.toy.kernels import KERNELS, KernelName

if TYPE_CHECKING:
    from byheart.toy.sweep import OnProgress

_METRICS = ("train_loss", "test_loss", "test_loss_se", "W_norm", "b_norm", "n_features_represented")
_SINGLE = ("repeats", "snapshot_steps", "seed")  # fields that are not swept by listing values
_KERNELS = "; ".join(f'"{name}": {kernel.meaning}' for name, kernel in KERNELS.items())
_KERNEL = {"help": f"{_KERNELS}. Default: the fastest of them on the CPU that can train the model."}


@dataclass
class TrainCommand:
    """Train one model and keep it as one file."""

    config: TrainConfig
    out: str = "runs"
    """Directory of the run file, or URL of an object store such as s3://bucket/runs."""
    kernel: KernelName | None = field(default=None, metadata=_KERNEL)
    n_threads: int | None = None
    """Most threads that the kernel "cpu" may use; default all cores, and fewer where more do not pay."""

    def run(self) -> None:
        """Train, and print the metrics."""
        from byheart.toy.kernels.compile import told
        from byheart.toy.train import train

        _refuse_batches([self.config.n_examples], [self.config.batch_size])
        total = self.config.n_steps * self.config.n_inits
        store = Records(self.out)
        known = self.config.run_id() in store
        with bar("train") as advance, told(lambda: advance(0, None, "compiles, once for each width")):
            run = train(
                self.config,
                kernel=self.kernel,
                n_threads=self.n_threads,
                out=self.out,
                on_progress=lambda steps, loss: advance(steps, total, f"loss {loss:.4g}"),
            )
        shown = {name: "not measured" if value is None else f"{value:.6g}" for name, value in run.metrics.items()}
        print_table(("metric", "value"), shown.items())
        print(f"{'was there already' if known else 'kept'} as {store.path(run.id)}")


def _refuse_batches(sizes: Sequence[int | str], batches: Sequence[int]) -> None:
    """Refuse a batch size where no training set is infinite: finite ones are trained on as a whole."""
    asked = [batch for batch in batches if batch != TrainConfig.__dataclass_fields__["batch_size"].default]
    if asked and "inf" not in sizes:
        raise ValueError(f"batch_size: received {asked[0]} with n_examples {sizes[0]}, accepted: with n_examples inf")


def _axes_class() -> type:
    """Return TrainConfig with several values for each field that can be swept."""
    fields = []
    for option in options(TrainConfig):
        hint, default = option.hint, option.default
        if option.name not in _SINGLE:
            hint = GenericAlias(tuple, (hint, ...))
            default = default if option.required else (default,)
        fields.append((option.name, hint, field(default=default, metadata={"help": option.help})))
    return dataclasses.make_dataclass("Axes", fields, frozen=True)


_Axes = _axes_class()


@dataclass
class SweepCommand:
    """Train every combination of the values given, in parallel; the same command again goes on where it stopped."""

    axes: _Axes  # type: ignore[valid-type]
    n_seeds: int = 1
    """Seeds per combination, from --seed on."""
    where: Where = field(default_factory=Where)
    kernel: KernelName | None = field(default=None, metadata=_KERNEL)
    n_threads: int | None = None
    """Most threads of a large run, which has all cores to itself; default all cores."""
    out: str = "runs"
    """Directory of the run files, or URL of an object store such as s3://bucket/runs."""

    def run(self) -> None:
        """Train the grid, and print a table of all its runs."""
        from byheart.toy.sweep import grid, sweep

        if self.n_seeds < 1:
            raise ValueError(f"n_seeds: received {self.n_seeds}, accepted: an integer >= 1")
        given: Mapping[str, Any] = vars(self.axes)
        for name, values in given.items():
            if name not in _SINGLE and not values:
                raise ValueError(f"{name}: received no value, accepted: one or more")
        _refuse_batches(given["n_examples"], given["batch_size"])
        base = TrainConfig(**{name: v if name in _SINGLE else v[0] for name, v in given.items()})
        varied = {name: v for name, v in given.items() if name not in _SINGLE and len(v) > 1}
        configs = grid(base, varied, range(base.seed, base.seed + self.n_seeds))
        resources = {"GPU": 1} if self.kernel == "gpu" else None
        with self.where.executor(resources) as executor, bar("sweep") as advance:
            runs = sweep(
                configs,
                self.out,
                n_workers=self.where.n_workers,
                executor=executor,
                kernel=self.kernel,
                n_threads=self.n_threads,
                on_progress=follow(advance),
            )
        columns = [*(runs.axes or ["n_examples"]), *_METRICS]
        print_table((name.replace("_", " ") for name in columns), runs.table[columns].itertuples(index=False))
        print(f"{len(runs)} runs in {self.out}")


def follow(advance: Advance) -> OnProgress:
    """Return what moves a progress bar along with a sweep."""
    return lambda p: advance(p.work_done, p.work_total or None, "" if p.loss is None else f"loss {p.loss:.4g}")


@dataclass
class ReportCommand:
    """Write one self-contained interactive HTML page about a directory of runs, or of language models."""

    runs: str = field(metadata={"positional": "RUNS"})
    """Directory of run files, or URL of an object store with them, or what byheart counterfactual wrote."""
    out: Path = Path("report.html")
    """The page."""
    basins: bool = False
    """Also colour planes of two hidden units by where they flow, the basins of attractors; takes seconds a run."""

    def run(self) -> None:
        """Write the page."""
        from byheart.language.counterfactual import DESIGN, report
        from byheart.toy.page import write_report

        if (Path(self.runs) / DESIGN).is_file():
            print(f"wrote {report(self.runs, self.out)}")
            return

        page = write_report(self.runs, self.out, self.basins)
        print(f"wrote {page}")
