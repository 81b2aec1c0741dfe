"""Are the MNIST images with a high maximal dimensionality D* memorised? Olah's network, against counterfactual truth.

A study of a real network: its runs are networks on 5,000 images, each scored at several epochs, beside many networks
that were trained without some of the images. With a folder of IDX files also all 60,000, without the truth.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from byheart.claims import Claim, Finding, compare, judge, judged, one_digit
from byheart.datasets import Labelled, fashion_mnist, idx_folder, mnist_5k
from byheart.network.audit import audit
from byheart.network.calibration import MEMORIZED
from byheart.network.counterfactual import counterfactual
from byheart.network.fit import Fit
from byheart.network.log import TrainingLog
from byheart.records import prepare_directory, write_atomically
from byheart.studies.readme import write_readme
from byheart.studies.study import Scale
from byheart.toy.figures import figure_of, style

if TYPE_CHECKING:
    from torch import nn

NAME = "mnist"
QUESTION = "Are the training images with a high D* memorised, in a real network?"
_N_EXAMPLES = 5_000
_N_ALL = 60_000
_N_MODELS: dict[Scale, int] = {"quick": 15, "medium": 48, "paper": 48}
_N_SEEDS: dict[Scale, int] = {"quick": 2, "medium": 4, "paper": 4}
_SIZES: dict[Scale, tuple[int, ...]] = {"quick": (1_000,), "medium": (500, 1_000, 2_000), "paper": (500, 1_000, 2_000)}
_EPOCHS = (0, 1, 2, 5, 10, 30)
_N_TOP = 40
_OLAH = "Olah, comment in Henighan et al. 2023"
_HOBBHAHN = "Hobbhahn, comment and second post"


def reproduce_mnist(
    scale: Scale,
    out: Path,
    *,
    images: Path | None = None,
    n_workers: int | None = None,
    on_progress: Callable[[float, float | None, str], None] | None = None,
) -> pd.DataFrame:
    """Train the networks, and write tables, figures and README.md to ``out``.

    Args:
        scale: "quick" (MNIST's 5,000, 15 networks for the truth), "medium" (also Fashion-MNIST's first 5,000, 48
            each) or "paper" (also all 60,000 of Fashion-MNIST).
        out: Directory; ``runs/`` in it keeps what is known of each network, and is gone on from.
        images: Folder with the IDX files of MNIST's 60,000, which are then scored too.
        n_workers: Processes; default all cores.
        on_progress: Called with the networks trained, of all, and the dataset.

    Returns:
        The table of verdicts.

    Raises:
        ModuleNotFoundError, FileNotFoundError: If a dataset is not installed; the message says how to get it.
    """
    start = time.perf_counter()
    datasets = [(mnist_5k(), True)]  # whether with the truth
    if scale != "quick":
        datasets.append((fashion_mnist(_N_EXAMPLES), True))
    if scale == "paper":
        datasets.append((fashion_mnist(), False))
    if images is not None:
        datasets.append((idx_folder(images), False))
    prepare_directory(out / "runs")
    tables: list[pd.DataFrame] = []
    total = sum(_N_MODELS[scale] for _, with_truth in datasets if with_truth)
    done = 0
    for data, with_truth in datasets:
        name = f"{data.name}, {len(data):,}"
        mem = np.full(len(data), np.nan)
        if with_truth:

            def advance(k: int, _: int, first: int = done, name: str = name) -> None:
                if on_progress is not None:
                    on_progress(first + k, total, name)

            found = counterfactual(
                _fit(data),
                (data.inputs, data.labels),
                _N_MODELS[scale],
                store=out / "runs" / f"{data.name}-{len(data)}",
                n_workers=n_workers,
                on_progress=advance,
            )
            mem, done = found.memorization.mem, done + _N_MODELS[scale]
        seeds = range(_N_SEEDS[scale] if with_truth else 1)
        tables += [_scored(data, seed, out).assign(dataset=name, mem=mem) for seed in seeds]
    examples = pd.concat(tables, ignore_index=True)
    sizes = [
        _scored(_first(n), seed, out).assign(n_examples=n) for n in _SIZES[scale] for seed in range(_N_SEEDS[scale])
    ]
    sizes += [part.assign(n_examples=_N_EXAMPLES) for part in _by_network(examples)]
    seconds = time.perf_counter() - start
    return _write(scale, out, examples, pd.concat(sizes), datasets[0][0].inputs, seconds)


def _fit(data: Labelled) -> Fit:
    from torch import nn

    n_inputs = int(np.prod(data.inputs.shape[1:]))
    model = nn.Sequential(nn.Flatten(), nn.Linear(n_inputs, 512), nn.ReLU(), nn.Linear(512, len(data.label_names)))
    return Fit(model, data.inputs, data.labels, n_epochs=_EPOCHS[-1])


def _first(n: int) -> Labelled:
    data = mnist_5k()
    return replace(data, inputs=data.inputs[:n], labels=data.labels[:n])


def _scored(data: Labelled, seed: int, out: Path) -> pd.DataFrame:
    """D* and answers of the training examples at several epochs, and what the log and the end say; kept as a file."""
    path = out / "runs" / f"{data.name}-{len(data)}-audit-{seed}.csv"
    if path.exists():
        return pd.read_csv(path)
    given = data.inputs, data.labels
    columns: dict[str, np.ndarray] = {}
    log = TrainingLog(len(data))
    seen = 0

    def look(model: nn.Module) -> None:
        nonlocal seen
        if seen in _EPOCHS:
            table = audit(model, given).table
            columns[f"D*_{seen}"] = table["maximal_dimensionality"].to_numpy()
            columns[f"wrong_{seen}"] = (table["prediction"] != table["label"]).to_numpy()
        seen += 1

    model = _fit(data)(np.arange(len(data)), seed, log, look)
    table = audit(model, given, log=log).table
    found = pd.DataFrame({"seed": seed, "example": np.arange(len(table)), **columns})
    for name in ("label", "loss", "mean_loss", "score"):
        found[name] = table[name]
    write_atomically(path, found.to_csv(index=False, float_format="%.7g").encode())
    return found


_END = f"D*_{_EPOCHS[-1]}"


def _by_network(table: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each network on 5,000 images of MNIST."""
    return [part for _, part in table[table["dataset"] == f"MNIST, {_N_EXAMPLES:,}"].groupby("seed")]


def _area(scores: pd.Series[float], positive: pd.Series[bool]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores)) if positive.nunique() == 2 else float("nan")


def _mean(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3g} (one network)"
    spread = np.std(values, ddof=1) / np.sqrt(len(values))
    return f"{np.mean(values):.3g} \N{PLUS-MINUS SIGN} {one_digit(spread)} (standard error, {len(values)} networks)"


def _outliers(table: pd.DataFrame) -> Finding:
    words, ratios = [], []
    for name, rows in table.groupby("dataset", sort=False):
        found = [float(part[_END].max() / part[_END].median()) for _, part in rows.groupby("seed")]
        words.append(f"{name}: {_mean(found)}")
        ratios += found if rows.groupby("seed").size().max() >= _N_ALL else []
    # of 5,000 images in 512 dimensions the mean is 0.1, so that no D* can be 30 times the typical one
    return judged("; ".join(words), bool(ratios) and min(ratios) > 30, bool(ratios) and max(ratios) < 10)


def _top_is_memorised(table: pd.DataFrame) -> Finding:
    top = [float(part.nlargest(_N_TOP, _END)["mem"].mean()) for part in _by_network(table)]
    areas = [_area(part[_END], part["mem"] > MEMORIZED) for part in _by_network(table)]
    ours = f"mean memorization {_mean(top)}; of all: {_by_network(table)[0]['mem'].mean():.3f}; AUROC {_mean(areas)}"
    return judged(ours, min(top) > 0.5, max(top) < 0.25)


def _is_of_training(table: pd.DataFrame) -> Finding:
    ranks = [float(spearmanr(part["D*_0"], part[_END]).statistic) for part in _by_network(table)]
    return judged(f"rank correlation {_mean(ranks)}", max(ranks) < 0.5, min(ranks) > 0.7)


def _wrong_are_spread(table: pd.DataFrame) -> Finding:
    words, verdicts = [], set()
    for name, rows in table.groupby("dataset", sort=False):
        parts = [part for _, part in rows.groupby("seed")]
        epoch = next((e for e in _EPOCHS[1:] if all(0.9 < 1 - p[f"wrong_{e}"].mean() < 0.99 for p in parts)), None)
        if epoch is None:
            words.append(f"{name}: no epoch with 90 to 99 % of the training examples right")
            continue
        finding = compare([_area(part[f"D*_{epoch}"], part[f"wrong_{epoch}"]) for part in parts], 0.5, 0.1, ".3f")
        words.append(f"{name}: AUROC {finding.ours} at epoch {epoch}")
        verdicts |= {finding.verdict} if len(parts) > 1 else set()
    return judged("; ".join(words), verdicts == {"reproduced"}, verdicts == {"differs"})


def _score_tells(table: pd.DataFrame) -> Finding:
    areas = [_area(part["score"], part["mem"] > MEMORIZED) for part in _by_network(table)]
    return judged(f"AUROC {_mean(areas)}", min(areas) > 0.95, max(areas) < 0.8)


CLAIMS = (
    Claim(
        "outliers",
        "D* of most training examples is alike, and that of a few far larger (largest over median)",
        _OLAH,
        "almost 100, of 60,000 images presumably (above 30)",
        _outliers,
        refuted_if="of 60,000 images the largest is less than 10 times the median in every network",
    ),
    Claim(
        "top-memorised",
        f"Examples with a high D* are memorised special cases (the top {_N_TOP})",
        f"{_OLAH} (tentative)",
        "memorised",
        _top_is_memorised,
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
        "D* times the loss averaged over training tells which are memorised (AUROC above 0.95)",
        "ours",
        "not asked",
        _score_tells,
        refuted_if="the AUROC is below 0.8 in every network",
    ),
)


def _write(
    scale: Scale, out: Path, examples: pd.DataFrame, sizes: pd.DataFrame, pictures: np.ndarray, seconds: float
) -> pd.DataFrame:
    verdicts = judge(CLAIMS, examples)
    tables = {"by-dataset": _by_dataset(examples), "by-epoch": _by_epoch(examples), "by-size": _by_size(sizes)}
    tables["by-label"] = _by_label(examples)
    for name, table in {"verdicts": verdicts, **tables}.items():
        table.to_csv(out / f"{name}.csv", index=False, float_format="%.6g")
    with style():
        figures = {"sorted": _draw_sorted(examples), "images": _draw_images(examples, pictures)}
        for name, figure in figures.items():
            figure.savefig(out / f"{name}.png")
    counts = examples.groupby("dataset").agg(networks=("seed", "nunique"))["networks"]
    words = (
        f"A hidden layer of 512 units, AdamW at 1e-3, batches of 100, {_EPOCHS[-1]} epochs; audited networks:"
        f" {', '.join(f'{n} on {name}' for name, n in counts.items())}; truth: {_N_MODELS[scale]} networks, each on 60"
        f" % of the 5,000 images. Claims that name no dataset are judged on MNIST. {seconds / 60:.1f} minutes."
    )
    command = f"byheart reproduce {NAME} --scale {scale}"
    write_readme(NAME, QUESTION, command, words, verdicts, list(figures), list(tables), out / "README.md")
    return verdicts


def _by_dataset(examples: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (name, seed), part in examples.groupby(["dataset", "seed"], sort=False):
        known = bool(part["mem"].notna().all())
        row: dict[str, object] = {
            "dataset": name,
            "seed": seed,
            "D*_max_over_median": part[_END].max() / part[_END].median(),
        }
        row["rank_correlation_with_initial"] = spearmanr(part["D*_0"], part[_END]).statistic
        if known:
            row["memorised"] = (part["mem"] > MEMORIZED).mean()
            for score in (_END, "loss", "mean_loss", "score"):
                row[f"top{_N_TOP}_mem_by_{score}"] = part.nlargest(_N_TOP, score)["mem"].mean()
                row[f"auroc_{score}"] = _area(part[score], part["mem"] > MEMORIZED)
        rows.append(row)
    return pd.DataFrame(rows)


def _by_epoch(examples: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for (name, seed), part in examples.groupby(["dataset", "seed"], sort=False):
        for epoch in _EPOCHS:
            here = part[f"D*_{epoch}"]
            row = {"dataset": name, "seed": seed, "epoch": epoch, "D*_max_over_median": here.max() / here.median()}
            row["rank_correlation_with_end"] = spearmanr(here, part[_END]).statistic
            row["wrong"] = part[f"wrong_{epoch}"].mean()
            row["auroc_of_wrong"] = _area(here, part[f"wrong_{epoch}"])
            row["auroc_of_memorised"] = _area(here, part["mem"] > MEMORIZED)
            rows.append(row)
    return pd.DataFrame(rows)


def _by_size(sizes: pd.DataFrame) -> pd.DataFrame:
    grouped = sizes.groupby(["n_examples", "seed"])[_END]
    return grouped.agg(mean="mean", median="median", largest="max").reset_index()


def _by_label(examples: pd.DataFrame) -> pd.DataFrame:
    grouped = examples.groupby(["dataset", "label"], sort=False)
    return grouped.agg(D_star=(_END, "mean"), mem=("mem", "mean"), loss=("mean_loss", "mean")).reset_index()


def _draw_sorted(examples: pd.DataFrame) -> Figure:
    """Sorted D* of all training examples, and the memorization along it."""
    figure, (left, right) = figure_of(1, 2, (9, 3.4))
    for name, part in examples[examples["seed"] == 0].groupby("dataset", sort=False):
        values = np.sort(part[_END])[::-1]
        left.plot(np.arange(1, len(values) + 1) / len(values), values / np.median(values), label=str(name))
    left.set(yscale="log", xlabel="share of training examples, by D*", ylabel="D* over its median")
    left.legend(frameon=False, title="one network each")
    part = _by_network(examples)[0]
    for column, words in ((_END, "D*"), ("loss", "final loss"), ("score", "mean loss \N{MULTIPLICATION SIGN} D*")):
        mem = part.sort_values(column, ascending=False)["mem"].to_numpy()
        first = np.arange(10, len(mem) + 1)
        right.plot(first / len(mem), np.cumsum(mem)[9:] / first, label=words)
    right.axhline(part["mem"].mean(), color="black", lw=0.8, ls="--", label="all")
    right.set(
        xlabel="share of examples that is taken first", ylabel="their mean memorization", xscale="log", ylim=(0, 1)
    )
    right.legend(frameon=False, loc="upper right")
    return figure


def _draw_images(examples: pd.DataFrame, pictures: np.ndarray) -> Figure:
    """The images with the largest and smallest D*, and those with the largest score, each with its memorization."""
    part = _by_network(examples)[0].set_index("example")
    rows = {
        "largest D*": part[_END].nlargest(12).index,
        "smallest D*": part[_END].nsmallest(12).index,
        "largest mean loss \N{MULTIPLICATION SIGN} D*": part["score"].nlargest(12).index,
    }
    figure, axes = figure_of(3, 12, (9, 3.4))
    for line, (name, chosen) in zip(axes, rows.items(), strict=True):
        for ax, i in zip(line, chosen, strict=True):
            ax.imshow(pictures[i], cmap="gray_r")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            ax.set_title(f"{part['label'][i]}: {part['mem'][i]:.2f}", fontsize=8)
        line[0].set_ylabel(name, fontsize=8, rotation=0, ha="right", va="center")
    figure.suptitle(f"one network on MNIST, {_N_EXAMPLES:,}; above each image its label: its memorization", fontsize=9)
    return figure
