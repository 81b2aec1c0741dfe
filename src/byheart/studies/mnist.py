"""Are the MNIST images with a high maximal dimensionality D* memorized? Olah's network, against counterfactual truth.

A study of a real network: its runs are networks on 5,000 images, each audited at several epochs, beside many networks
that were trained without some of the images. With a folder of IDX files also all 60,000, without the truth.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from byheart import jobs
from byheart.claims import Claim, Finding, compare, judged, one_digit
from byheart.colors import GREEN
from byheart.datasets import Labelled, fashion_mnist, idx_folder, mnist_5k
from byheart.jobs import Job, JobsError, Report
from byheart.network.audit import audit
from byheart.network.calibration import MEMORIZED
from byheart.network.counterfactual import counterfactual
from byheart.network.fit import Fit, recorded
from byheart.network.log import TrainingLog
from byheart.records import Record, Records, digest
from byheart.studies.study import N_SEEDS, Captioned, Scale, Study, Tables
from byheart.toy.figures import EXAMPLES, FEATURES, REFERENCE, figure_of

if TYPE_CHECKING:
    from torch import nn

    from byheart.toy.sweep import OnProgress

_N_EXAMPLES = 5_000
_N_ALL = 60_000
_N_MODELS: dict[Scale, int] = {"quick": 15, "medium": 48, "paper": 48}
_SIZES: dict[Scale, tuple[int, ...]] = {"quick": (1_000,), "medium": (500, 1_000, 2_000), "paper": (500, 1_000, 2_000)}
_BY_SIZE = "by size"  # the group of MNIST's networks by number of images; the others are named after their dataset
_EPOCHS = (0, 1, 2, 5, 10, 30)
_END = f"D*_{_EPOCHS[-1]}"
_N_TOP = 40
_N_SHOWN = 12
_OLAH = "Olah, comment in Henighan et al. 2023"
_HOBBHAHN = "Hobbhahn, comment and second post"


@dataclass(frozen=True)
class Network:
    """A network that is audited while it is trained on the first images of a dataset."""

    dataset: str | Path
    """"MNIST" (the 5,000 that are installable), "Fashion-MNIST", or the path of a folder of IDX files."""
    n_examples: int
    seed: int
    n_models: int = 0
    """Number of networks that are trained without some of the images, for the truth; with 0 it stays unknown."""

    @property
    def on(self) -> str:
        """Name of the dataset, with its size."""
        name = self.dataset if isinstance(self.dataset, str) else f"folder {self.dataset.resolve().name}"
        return f"{name}, {self.n_examples:,}"

    @property
    def key(self) -> str:
        """Name of the directory of the truth's models, with which the name of its record begins."""
        return f"{self.on.replace(', ', '-').replace(',', '').replace(' ', '-')}"


def _groups(scale: Scale, folder: Path | None = None) -> dict[str, list[Network]]:
    """The networks by dataset, and those on MNIST by size."""
    chosen: list[tuple[str | Path, int, int, int]] = [("MNIST", _N_EXAMPLES, N_SEEDS[scale], _N_MODELS[scale])]
    if scale != "quick":
        chosen.append(("Fashion-MNIST", _N_EXAMPLES, N_SEEDS[scale], _N_MODELS[scale]))
    if scale == "paper":
        chosen.append(("Fashion-MNIST", _N_ALL, 1, 0))
    if folder is not None:
        chosen.append((folder, len(idx_folder(folder)), 1, 0))
    by_dataset = [[Network(name, n, seed, n_models) for seed in range(seeds)] for name, n, seeds, n_models in chosen]
    sizes = [Network("MNIST", n, seed) for n in _SIZES[scale] for seed in range(N_SEEDS[scale])]
    return {own[0].on: own for own in by_dataset} | {_BY_SIZE: sizes + by_dataset[0]}


def _train(
    groups: Mapping[str, list[Network]],
    directory: Path,
    *,
    n_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[dict[str, pd.DataFrame], list[dict[str, Any]]]:
    """Train the models of the truth, then the audited networks, and return a table of examples for each group."""
    from byheart.toy.sweep import Progress

    networks = list(dict.fromkeys(network for own in groups.values() for network in own))
    todo = {network: _job(network) for network in networks}  # a missing dataset is noticed before time is spent
    with_truth = {network.on: network for network in networks if network.n_models}
    n_truth = sum(network.n_models for network in with_truth.values())
    total, done = n_truth + len(networks), 0

    def advance(n_finished: int) -> None:
        if on_progress is not None:
            on_progress(Progress(total, done + n_finished, done + n_finished, total, None))

    mem: dict[str, np.ndarray] = {}
    made_by = []
    for network in with_truth.values():
        data, store = _load(network.dataset, network.n_examples), Records(directory / network.key)
        found = counterfactual(
            _fit(data),
            (data.inputs, data.labels),
            network.n_models,
            store=store.directory,
            groups=False,  # as in the paper
            n_workers=n_workers,
            executor=executor,
            on_progress=lambda n_finished, _: advance(n_finished),
        )
        mem[network.on], done = found.memorization.mem, done + network.n_models
        made_by += [store.read(key).header for key in store.keys()[: network.n_models]]
    records = Records(directory)
    if failures := jobs.run(
        list(todo.values()),
        records,
        n_workers=n_workers,
        executor=executor,
        on_progress=lambda progress: advance(progress.n_finished),
    ):
        raise JobsError(failures)
    audited = {network: records.read(job.key) for network, job in todo.items()}
    made_by += [record.header for record in audited.values()]
    tables = {network: _table(network, record.arrays, mem.get(network.on)) for network, record in audited.items()}
    by_group = {label: pd.concat([tables[network] for network in own]) for label, own in groups.items()}
    return by_group, [json.loads(header["provenance"]) for header in made_by]


@functools.lru_cache(maxsize=1)
def _load(dataset: str | Path, n_examples: int) -> Labelled:
    if isinstance(dataset, Path):
        return idx_folder(dataset, n_examples)
    return mnist_5k().take(np.arange(n_examples)) if dataset == "MNIST" else fashion_mnist(n_examples)


def _fit(data: Labelled) -> Fit:
    from torch import nn

    n_inputs = int(np.prod(data.inputs.shape[1:]))
    model = nn.Sequential(nn.Flatten(), nn.Linear(n_inputs, 512), nn.ReLU(), nn.Linear(512, len(data.label_names)))
    return Fit(model, data.inputs, data.labels, n_epochs=_EPOCHS[-1])


def _job(network: Network) -> Job:
    data = _load(network.dataset, network.n_examples)
    identity = {"dataset": digest(data.inputs, data.labels), "settings": _fit(data).settings, "epochs": list(_EPOCHS)}
    key = f"{network.key}-audit-{network.seed}"
    return Job(key, _audit, (network,), {**identity, "seed": network.seed}, cost=network.n_examples)


def _audit(network: Network, *, n_threads: int | None, report: Report) -> Record:
    """D* and answers of the training examples at several epochs, and what the log and the end say."""
    with recorded(n_threads) as header:
        data = _load(network.dataset, network.n_examples)
        given = data.inputs, data.labels
        seen: list[pd.DataFrame | None] = []

        def look(model: nn.Module) -> None:
            seen.append(audit(model, given).table if len(seen) in _EPOCHS else None)
            report((len(seen) - 1) / _EPOCHS[-1], 0)

        log = TrainingLog(len(data))
        model = _fit(data)(np.arange(len(data)), network.seed, log, look)
        at_end = audit(model, given, log=log).table
        looks = [table for table in seen if table is not None]
        arrays = {name: at_end[name].to_numpy() for name in ("label", "loss", "mean_loss", "score")}
        arrays["D*"] = np.stack([table["maximal_dimensionality"] for table in looks])
        arrays["wrong"] = np.stack([table["prediction"] != table["label"] for table in looks])
    return Record(arrays, header)


def _table(network: Network, arrays: Mapping[str, np.ndarray], mem: np.ndarray | None) -> pd.DataFrame:
    """A row per example of a network: what is known of it, and its memorization, nan if that is unknown."""
    fixed = {"n_examples": network.n_examples, "n_models": network.n_models, "seed": network.seed}
    found = pd.DataFrame({name: arrays[name] for name in ("label", "loss", "mean_loss", "score")}).assign(**fixed)
    for name in ("D*", "wrong"):
        found[[f"{name}_{epoch}" for epoch in _EPOCHS]] = arrays[name].T
    return found.assign(example=np.arange(len(found)), mem=np.nan if mem is None else mem)


def _tables(groups: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    examples = pd.concat([table.assign(dataset=label) for label, table in groups.items() if label != _BY_SIZE])
    grouped = examples.groupby(["dataset", "seed"], sort=False)
    networks = [({"dataset": name, "seed": seed}, part) for (name, seed), part in grouped]
    sizes = groups[_BY_SIZE].groupby(["n_examples", "seed"])[_END]
    labels = examples.groupby(["dataset", "label"], sort=False)
    return {
        "by-dataset": pd.DataFrame([key | _of_network(part) for key, part in networks]),
        "by-epoch": pd.DataFrame([key | _at_epoch(part, epoch) for key, part in networks for epoch in _EPOCHS]),
        "by-size": sizes.agg(mean="mean", median="median", largest="max").reset_index(),
        "by-label": labels.agg(D_star=(_END, "mean"), mem=("mem", "mean"), loss=("mean_loss", "mean")).reset_index(),
        "sorted": _curves(examples[examples["seed"] == 0]),
        "images": _shown(networks[0][1]),
    }


def _of_network(part: pd.DataFrame) -> dict[str, object]:
    row: dict[str, object] = {
        **{name: part[name].iloc[0] for name in ("n_examples", "n_models")},
        "D*_max_over_median": part[_END].max() / part[_END].median(),
        "rank_correlation_with_initial": spearmanr(part["D*_0"], part[_END]).statistic,
    }
    if part["mem"].notna().all():
        memorized = part["mem"] > MEMORIZED
        row |= {"mem": part["mem"].mean(), "memorized": memorized.mean()}
        for score in (_END, "loss", "mean_loss", "score"):
            row[f"top{_N_TOP}_mem_by_{score}"] = part.nlargest(_N_TOP, score)["mem"].mean()
            row[f"auroc_{score}"] = _area(part[score], memorized)
    return row


def _at_epoch(part: pd.DataFrame, epoch: int) -> dict[str, object]:
    here, wrong = part[f"D*_{epoch}"], part[f"wrong_{epoch}"]
    return {
        "epoch": epoch,
        "D*_max_over_median": here.max() / here.median(),
        "rank_correlation_with_end": spearmanr(here, part[_END]).statistic,
        "wrong": wrong.mean(),
        "auroc_of_wrong": _area(here, wrong),
        "auroc_of_memorized": _area(here, part["mem"] > MEMORIZED),
    }


def _curves(examples: pd.DataFrame) -> pd.DataFrame:
    """Of one network each: D* over its median, sorted; and of the first, the mean memorization of those with most."""
    rows = []

    def add(dataset: object, curve: str, values: np.ndarray, first: int = 1) -> None:
        n = len(values)
        kept = np.unique(np.rint(np.concatenate([np.geomspace(first, n, 100), np.linspace(first, n, 100)])).astype(int))
        rows.append(pd.DataFrame({"dataset": dataset, "curve": curve, "share": kept / n, "value": values[kept - 1]}))

    parts = examples.groupby("dataset", sort=False)
    for name, part in parts:
        add(name, "D* over its median", np.sort(part[_END])[::-1] / part[_END].median())
    name, part = next(iter(parts))
    for column, words in ((_END, "D*"), ("loss", "final loss"), ("score", "mean loss \N{MULTIPLICATION SIGN} D*")):
        mem = part.sort_values(column, ascending=False)["mem"].to_numpy()
        add(name, words, np.cumsum(mem) / np.arange(1, len(mem) + 1), 10)
    return pd.concat(rows, ignore_index=True)


def _shown(part: pd.DataFrame) -> pd.DataFrame:
    """The images with the largest and smallest D*, and those with the largest score."""
    rows = {
        "largest D*": part.nlargest(_N_SHOWN, _END),
        "smallest D*": part.nsmallest(_N_SHOWN, _END),
        "largest mean loss \N{MULTIPLICATION SIGN} D*": part.nlargest(_N_SHOWN, "score"),
    }
    return pd.concat([chosen.assign(row=name) for name, chosen in rows.items()])[["row", "example", "label", "mem"]]


def _area(scores: pd.Series[float], positive: pd.Series[bool]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores)) if positive.nunique() == 2 else float("nan")


def _mean(values: pd.Series[float]) -> str:
    if len(values) == 1:
        return f"{values.iloc[0]:.3g} (one network)"
    spread = one_digit(float(values.std()) / len(values) ** 0.5)
    return f"{values.mean():.3g} \N{PLUS-MINUS SIGN} {spread} (standard error, {len(values)} networks)"


def _first(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the first dataset, 5,000 images of MNIST."""
    return table.query("dataset == dataset.iloc[0]")


def _outliers(tables: Tables) -> Finding:
    table = tables["by-dataset"]
    ratios = table.groupby("dataset", sort=False)["D*_max_over_median"]
    words = "; ".join(f"{name}: {_mean(found)}" for name, found in ratios)
    # of 5,000 images in 512 dimensions the mean is 0.1, so that no D* can be 30 times the typical one
    large = table.loc[table["n_examples"] >= _N_ALL, "D*_max_over_median"]
    return judged(words, large.min() > 30, large.max() < 10)


def _top_is_memorized(tables: Tables) -> Finding:
    table = _first(tables["by-dataset"])
    top, areas = table[f"top{_N_TOP}_mem_by_{_END}"], table[f"auroc_{_END}"]
    ours = f"mean memorization {_mean(top)}; of all: {table['mem'].iloc[0]:.3f}; AUROC {_mean(areas)}"
    return judged(ours, top.min() > 0.5, top.max() < 0.25)


def _is_of_training(tables: Tables) -> Finding:
    ranks = _first(tables["by-dataset"])["rank_correlation_with_initial"]
    return judged(f"rank correlation {_mean(ranks)}", ranks.max() < 0.5, ranks.min() > 0.7)


def _wrong_are_spread(tables: Tables) -> Finding:
    words, verdicts = [], set()
    for name, rows in tables["by-epoch"].query("epoch > 0").groupby("dataset", sort=False):
        few = rows["wrong"].between(0.01, 0.1, inclusive="neither").groupby(rows["epoch"]).all()
        if not few.any():
            words.append(f"{name}: no epoch with 90 to 99 % of the training examples right")
            continue
        areas = rows[rows["epoch"] == few.idxmax()]["auroc_of_wrong"].to_numpy()
        finding = compare(areas, 0.5, 0.1, ".3f")
        words.append(f"{name}: AUROC {finding.ours} at epoch {few.idxmax()}")
        verdicts |= {finding.verdict} if len(areas) > 1 else set()
    return judged("; ".join(words), verdicts == {"reproduced"}, verdicts == {"differs"})


def _score_tells(tables: Tables) -> Finding:
    areas = _first(tables["by-dataset"])["auroc_score"]
    return judged(f"AUROC {_mean(areas)}", areas.min() > 0.95, areas.max() < 0.8)


_CLAIMS = (
    Claim(
        "outliers",
        "D* of most training examples is alike, and that of a few far larger (largest over median)",
        _OLAH,
        "almost 100, of 60,000 images presumably (above 30)",
        _outliers,
        refuted_if="of 60,000 images the largest is less than 10 times the median in every network",
    ),
    Claim(
        "top-memorized",
        f"Examples with a high D* are memorized special cases (the top {_N_TOP})",
        f"{_OLAH} (tentative)",
        "memorized",
        _top_is_memorized,
        refuted_if="their mean memorization is below 0.25 in every network",
    ),
    Claim(
        "of-training",
        "D* is a property of what was learned, not of the initial weights",
        f"{_OLAH} (assumed)",
        "of what was learned",
        _is_of_training,
        refuted_if="D* at the end ranks examples as D* before training does (rank correlation above 0.7)",
    ),
    Claim(
        "errors-spread",
        "Misclassified training examples are spread evenly over D* (AUROC of D* for them, on every dataset)",
        _HOBBHAHN,
        "evenly: 0.5 (tolerance 0.1)",
        _wrong_are_spread,
        refuted_if="on every dataset our mean, with its interval of two standard errors, lies outside the tolerance",
    ),
    Claim(
        "weighted-tells",
        "D* times the loss averaged over training tells which are memorized (AUROC above 0.95)",
        "ours",
        "not asked",
        _score_tells,
        refuted_if="the AUROC is below 0.8 in every network",
    ),
)


def _figures(tables: Tables) -> dict[str, Captioned]:
    captions = _captions(tables["by-dataset"])
    drawn = {"sorted": _draw_sorted(tables), "images": _draw_images(tables["images"])}
    return {name: Captioned(figure, captions[name]) for name, figure in drawn.items()}


def _captions(networks: pd.DataFrame) -> dict[str, str]:
    """Captions of the figures, by the table "by-dataset"."""
    first = networks.iloc[0]
    images = f"images of {first['dataset'].split(', ')[0]}"
    network = "one network with 512 hidden units (seed 0) each, so that there are no bars"
    truth = f"Memorization is estimated from {first['n_models']} networks on 60 % of the images each"
    return {
        "sorted": (
            f"Left: D* of every training image over the median, from the largest on; {network}. Right: the mean"
            f" memorization of the {first['n_examples']:,} {images} that a score takes first: D*, the loss at the end,"
            f" or the loss averaged over training times D*. {truth}. Dashed: the mean of all images."
        ),
        "images": (
            f"The {images} with the largest and the smallest D*, and with the largest loss averaged over training times"
            f" D*, in the network with seed 0; above each its label and its memorization. {truth}."
        ),
    }


def _draw_sorted(tables: Tables) -> Figure:
    """Sorted D* of all training examples, and the memorization along it."""
    figure, axes = figure_of(1, 2, (8, 3.6))
    for ax, (of_dataset, own) in zip(axes, _by_panel(tables["sorted"]), strict=True):
        for color, (label, rows) in zip((FEATURES, EXAMPLES, GREEN, REFERENCE), own, strict=False):
            ax.plot(rows["share"], rows["value"], color=color, lw=1.5, label=label)
        first = "largest D*" if of_dataset else "highest score"
        ax.set(xscale="log", xlabel=f"share of training examples, {first} first")
    left, right = axes
    left.set(yscale="log", ylabel="D* over its median")
    left.axhline(1, color="black", lw=0.8, ls="--", zorder=0)
    right.axhline(tables["by-dataset"]["mem"].iloc[0], color="black", lw=0.8, ls="--", label="all")
    right.set(ylabel="their mean memorization", ylim=(0, 1.02))
    for ax in axes:
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    return figure


def _by_panel(curves: pd.DataFrame) -> list[tuple[bool, list[tuple[str, pd.DataFrame]]]]:
    """The lines of the left panel, one for each dataset, and of the right one, one for each score."""
    lines = {True: "dataset", False: "curve"}
    is_left = curves["curve"] == "D* over its median"
    return [
        (left, [(str(name), rows) for name, rows in curves[is_left == left].groupby(column, sort=False)])
        for left, column in lines.items()
    ]


def _draw_images(shown: pd.DataFrame) -> Figure:
    """The images of the table, a line for each kind, each with its memorization."""
    pictures = mnist_5k().inputs
    figure, axes = figure_of(3, _N_SHOWN, (9, 3.4))
    for line, (name, rows) in zip(axes, shown.groupby("row", sort=False), strict=True):
        for ax, (i, label, mem) in zip(line, rows[["example", "label", "mem"]].to_numpy(), strict=True):
            ax.imshow(pictures[int(i)], cmap="gray_r")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            ax.set_title(f"{label:.0f}: {mem:.2f}", fontsize=8)
        line[0].set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
    figure.suptitle("one network on images of MNIST; above each image its label: its memorization", fontsize=9)
    return figure


def _setup(tables: Tables) -> str:
    counts = tables["by-dataset"].groupby("dataset", sort=False).size()
    return (
        f"A hidden layer of 512 units, AdamW at 1e-3, batches of 100, {_EPOCHS[-1]} epochs; audited networks:"
        f" {', '.join(f'{n} on {name}' for name, n in counts.items())}; truth: {tables['by-dataset']['n_models'].max()}"
        " networks, each on 60 % of the images. Claims that name no dataset are judged on MNIST."
    )


STUDY = Study(
    "mnist",
    "Are the training images with a high D* memorized, in a real network?",
    _groups,
    _tables,
    _CLAIMS,
    _figures,
    train=_train,
    setup=_setup,
    needs=("torch", "sklearn", "mlxtend"),
    options=("folder",),
)
