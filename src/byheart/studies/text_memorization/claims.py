"""The claims of the study, and how tables of numbers judge them.

A claim on several corpora is reproduced if it holds for every one, and differs if for none. Where a mean over models or
spans is compared with a target, two standard errors either way have to lie on one side.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd

from byheart.claims import Claim, Finding, judged, lies_within, not_run, one_digit
from byheart.studies.study import Tables

_MANY_COPIES = 10
_MANY_MODELS = 32
_FEWEST_SAMPLED = 50
_FEWEST_SETS = 3  # of models
_MANY_TO_HOLD = 8  # copies from which a canary's contexts should hold more
_PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


_Test = Callable[[pd.DataFrame], tuple[str, "bool | None"]]
"""Says what the table of one corpus shows, and whether the claim holds there: None if it cannot be told."""


def _of_corpora(name: str, test: _Test) -> Callable[[Tables], Finding]:
    """Reproduced if the claim holds for every corpus, differs if for none."""

    def of_tables(tables: Tables) -> Finding:
        table = tables[name]
        labels = tables["corpora" if "corpora" in tables else name]["corpus"].unique()  # also of those without a row
        found = {str(label): test(table[table["corpus"] == label]) for label in labels}
        said = [words if len(found) == 1 else f"{label}: {words}" for label, (words, _) in found.items()]
        holds = [own for _, own in found.values()]
        return judged("; ".join(said), all(own is True for own in holds), all(own is False for own in holds))

    return of_tables


def _mean(values: pd.Series[float]) -> tuple[float, float]:
    """The mean, and its standard error: 0 for one value."""
    found = values.to_numpy(dtype=float)
    return float(found.mean()), float(found.std(ddof=1) / math.sqrt(len(found))) if len(found) > 1 else 0.0


def _with_error(value: float, error: float, form: str = ".3f") -> str:
    return f"{value:{form}} {_PLUS_MINUS} {one_digit(error)}"


def _each(rows: pd.DataFrame, value: str, error: str, form: str, scale: float = 1.0) -> str:
    """Values with their errors, by the number of copies."""
    found = rows[[value, error, "planned"]].to_numpy(dtype=float) * [scale, scale, 1]
    return ", ".join(f"{_with_error(v, e, form)} at {planned:g}" for v, e, planned in found)


def _all_of(held: list[bool | None]) -> bool | None:
    return False if False in held else None if None in held else True


def _documents(score: str, least: float) -> _Test:
    def test(table: pd.DataFrame) -> tuple[str, bool | None]:
        rows = table[(table["unit"] == "documents") & (table["score"] == score)]
        found = rows.loc[rows["n_models"] == _MANY_MODELS, "reliability"]
        if len(found) < _FEWEST_SETS:
            return f"fewer than {_FEWEST_SETS} sets of {_MANY_MODELS} models", None
        value, error = _mean(found)
        by_size = ", ".join(
            f"{mean:.2f} at {n}" for n, mean in rows.groupby("n_models")["reliability"].mean().dropna().items()
        )
        words = f"{_with_error(value, error)} over {len(found)} sets of {_MANY_MODELS} models ({by_size})"
        return words, lies_within(value, error, least)

    return test


def _errors(table: pd.DataFrame) -> tuple[str, bool | None]:
    rows = table[(table["unit"] == "documents") & (table["n_models"] == _MANY_MODELS)]
    said, held = [], []
    for score, ratios in rows.groupby("score")["error_ratio"]:
        value, error = _mean(ratios)
        said.append(f"{_with_error(value, error)} ({str(score).replace('_', '-')})")
        held.append(lies_within(value, error, 0.97, 1.03) if len(ratios) >= _FEWEST_SETS else None)
    if not said:
        return f"no {_MANY_MODELS} models", None
    return f"stated over split-half: {', '.join(said)}, sets of {_MANY_MODELS} models", _all_of(held)


def _eight(table: pd.DataFrame) -> tuple[str, bool | None]:
    found = table[table["score"] == "log_probability"].dropna(subset=["correlation"])
    if len(found) < _FEWEST_SETS:
        return _too_few_eights(table), None
    value, error = _mean(found["correlation"])
    alone, scores = (float(found[f"correlation_{by}_only"].mean()) for by in ("models", "scores"))
    words = f"{_with_error(value, error)} over {len(found)} sets of eight ({alone:.3f} by the models alone,"
    return f"{words} {scores:.3f} by the scores alone)", lies_within(value, error, 0.92)


def _coverage(table: pd.DataFrame) -> tuple[str, bool | None]:
    found = table.groupby("score")["coverage"].agg(["mean", "sem", "count"])
    if found["count"].min() < _FEWEST_SETS:
        return _too_few_eights(table), None
    said, held = [], []
    for score, mean, error in zip(found.index, found["mean"], found["sem"], strict=True):
        said.append(f"{_with_error(100 * mean, 100 * error, '.1f')} % ({score.replace('_', '-')})")
        held.append(lies_within(mean, error, 0.88, 0.92))
    return ", ".join(said), _all_of(held)


def _too_few_eights(table: pd.DataFrame) -> str:
    words = f"fewer than {_FEWEST_SETS} sets of eight models that tell of enough documents"
    return f"{words} (of {table['n_told'].median():.0f}, in the median of {len(table) // 2} sets)"


def _one(table: pd.DataFrame) -> tuple[str, bool | None]:
    if not len(table):
        return "no group of documents that a single model tells of", None
    n = int(table["n_models"].sum())
    held = float(np.average(table["held"], weights=table["n_models"]))
    scatter, stated = (float(np.sqrt(np.mean(table[name] ** 2))) for name in ("scatter", "stated"))
    _, error = _mean(table["held"])
    unexplained = (table["scatter"] ** 2 - table["stated_of_run"] ** 2).sum()
    between = 100 * math.sqrt(max(unexplained, 0) / (table["truth"] ** 2).sum())
    words = f"{_with_error(100 * held, 100 * error, '.1f')} % of {n} intervals, of {len(table)} groups"
    words = (
        f"{words} (estimates scatter by {scatter:.3f} nats, {stated:.3f} are stated; runs differ by {between:.1f} %)"
    )
    return words, lies_within(held, error, 0.93)


def _masked(table: pd.DataFrame) -> tuple[str, bool | None]:
    off, probe = table[table["kind"] == "canary"], table[table["kind"] == "probe"]
    if not len(off) or not len(probe):
        return "no canaries", None
    at_chance, by_chance = (float(probe[name].iloc[0]) for name in ("log_probability", "accuracy"))
    error = float(probe["log_probability_se"].iloc[0])
    by_copies = _each(off, "log_probability", "log_probability_se", ".2f")
    words = f"log-probability {by_copies} copies, {_with_error(at_chance, error, '.2f')} of probes;"
    words += f" accuracy up to {off['accuracy'].max():.3f}, {by_chance:.3f} of probes"
    near = bool((off["log_probability"] - at_chance).abs().max() <= 0.3)
    return words, near and bool(off["accuracy"].max() <= 0.002)


def _natural(table: pd.DataFrame) -> tuple[str, bool | None]:
    found = table.query("n_copies >= @_MANY_COPIES").dropna(subset=["document_bits"])
    if len(found) < 2:
        return f"{len(found)} repeats of {_MANY_COPIES} copies or more", None
    ratio, error = _mean(found["document_bits"] / found["bits"])
    words = (
        f"{len(found)} repeats: {found['bits'].mean():.1f} bits by the span's bit, {found['document_bits'].mean():.2f}"
        f" by one copy's document (ratio {_with_error(ratio, error)}); recited by"
        f" {100 * found['recited_on'].mean():.0f} %"
    )
    return words, lies_within(ratio, error, high=0.05)


def _worth(changed: float, low: float, high: float) -> _Test:
    def test(table: pd.DataFrame) -> tuple[str, bool | None]:
        found = table[(table["kind"] == "near-copies") & (table["changed"] == changed) & ~table["beyond"]]
        if not len(found):
            return "not measured", None
        value, *ends = (float(found[name].mean()) for name in ("worth", "worth_low", "worth_high"))
        by_count = ", ".join(f"{w:.2f} of {int(n)}" for n, w in zip(found["planned"], found["worth"], strict=True))
        words = f"{value:.2f} exact copies each ({by_count}; interval {ends[0]:.2f} to {ends[1]:.2f})"
        outside = ends[0] > high or ends[1] < low
        return words, True if low <= value <= high else False if outside else None

    return test


def _chosen_on_first(tables: Tables) -> Finding:
    """How well the score that is best on the first corpus does on the others, beside the best of each."""
    found = {str(corpus): _correlations(rows) for corpus, rows in tables["scores"].groupby("corpus", sort=False)}
    (first, own_scores), *others = found.items()
    if not own_scores:
        return not_run("two models or more whose scores are compared")
    chosen = max(own_scores, key=lambda name: own_scores[name][0])
    words = [f"chosen on {first}: {chosen} {_with_error(*own_scores[chosen], '.2f')}"]
    held: list[bool | None] = []
    for corpus, scores in others:
        if chosen not in scores:
            words.append(f"{corpus}: not measured")
            held.append(None)
            continue
        best = max(scores, key=lambda name: scores[name][0])
        (value, error), (own, own_error) = scores[best], scores[chosen]
        words.append(
            f"{corpus}: {_with_error(own, own_error, '.2f')}, best is {best} {_with_error(value, error, '.2f')}"
        )
        held.append(lies_within(value - own, 0 if best == chosen else math.hypot(error, own_error), high=0.05))
    holds, fails = (bool(held) and all(own is answer for own in held) for answer in (True, False))
    return judged("; ".join(words), holds, fails)


def _correlations(rows: pd.DataFrame, measure: str = "log_probability") -> dict[str, tuple[float, float]]:
    """Rank correlations with memorization, and their standard errors, of the scores that have them."""
    columns = rows[["score", f"correlation_{measure}", f"correlation_{measure}_se"]].dropna()
    return {str(name): (float(value), float(error)) for name, value, error in columns.itertuples(index=False)}


def _correlates(score: str) -> _Test:
    def test(table: pd.DataFrame) -> tuple[str, bool | None]:
        found, of_accuracy = _correlations(table), _correlations(table, "accuracy")
        if score not in found or score not in of_accuracy:
            return "not measured with two models or more", None
        words = f"{_with_error(*found[score], '.2f')} (accuracy {_with_error(*of_accuracy[score], '.2f')})"
        return words, lies_within(*found[score], 0.5)

    return test


def _samples(table: pd.DataFrame) -> tuple[str, bool | None]:
    if len(table) < _FEWEST_SAMPLED:
        return f"{len(table)} spans that come out often enough to sample", None
    held = (table["low"] <= table["count"]) & (table["count"] <= table["high"])
    error = math.sqrt(0.05 * 0.95 / len(table))  # of a share of 95 %
    return f"{_with_error(100 * held.mean(), 100 * error, '.1f')} % of {len(table)}", bool(held.mean() >= 0.94)


def _dimensions(table: pd.DataFrame) -> tuple[str, bool | None]:
    """On less off of canaries of many copies, in every layer, and whether it grows with copies."""
    canaries = table.query("kind == 'canary'").dropna(subset=["difference_se"])
    said, above, grows = [], [], []
    for layer, rows in canaries.groupby("layer"):
        by_copies = rows.sort_values("planned")
        many = by_copies[by_copies["planned"] >= _MANY_TO_HOLD]
        if not len(many):
            continue
        above.append(bool((many["difference"] > 2 * many["difference_se"]).all()))
        ends = by_copies[["difference", "difference_se"]].to_numpy(dtype=float)[[0, -1]]
        grows.append(bool(ends[1, 0] - ends[0, 0] > 2 * np.hypot(*ends[:, 1])))
        words = _each(by_copies, "difference", "difference_se", ".1f", scale=1e4)
        gain = 100 * (many["dimensionality_on"].mean() / many["dimensionality_off"].mean() - 1)
        said.append(f"layer {layer}: {words} copies ({gain:+.0f} % from {_MANY_TO_HOLD} copies on)")
    if not said:
        return "no canaries of many copies", None
    probes = table.query("kind == 'probe'").dropna(subset=["difference_se"])
    if len(probes):
        ratio = float((probes["difference"] / probes["difference_se"]).abs().max())
        said.append(f"probes at most {ratio:.1f} standard errors from 0")
    words = f"ten-thousandths of a dimension, on less off: {'; '.join(said)}"
    return words, False if not any(above) else True if all(above) and all(grows) else None


_OWN, _REFUTED = "byheart's own target", "our value, two standard errors either way, lies on the other side"
_SHILOV = "Shilov, Meeus and de Montjoye 2024, arXiv 2405.15523 (fine-tuned models of 1 B parameters)"
CLAIMS = (
    Claim(
        "documents-log-probability",
        "32 models tell the memorization of documents in log-probability reliably",
        _OWN,
        "reliability at least 0.94",
        _of_corpora("reliability", _documents("log_probability", 0.94)),
        refuted_if=_REFUTED,
    ),
    Claim(
        "documents-accuracy",
        "32 models tell the memorization of documents in token accuracy reliably",
        _OWN,
        "reliability at least 0.80",
        _of_corpora("reliability", _documents("accuracy", 0.80)),
        refuted_if=_REFUTED,
    ),
    Claim(
        "standard-errors",
        "Stated standard errors are those that halves of the models show",
        _OWN,
        "within 3 %",
        _of_corpora("reliability", _errors),
        refuted_if="a ratio is further off by two standard errors",
    ),
    Claim(
        "eight-models",
        "Eight models with cheap scores agree with many models on documents (log-probability)",
        _OWN,
        "correlation at least 0.92",
        _of_corpora("few", _eight),
        refuted_if=_REFUTED,
    ),
    Claim(
        "eight-models-intervals",
        "90 % intervals of eight models hold what many models say",
        _OWN,
        "88 to 92 %",
        _of_corpora("few", _coverage),
        refuted_if=_REFUTED,
    ),
    Claim(
        "one-model",
        "95 % intervals of group means from one model hold what many models say",
        _OWN,
        "at least 93 % of groups",
        _of_corpora("single", _one),
        refuted_if=_REFUTED,
    ),
    Claim(
        "cheap-scores",
        "The cheap score that tells most of documents on one corpus does so on others",
        _OWN,
        "rank correlation at most 0.05 below that of the best score there",
        _chosen_on_first,
        refuted_if="on every other corpus, another score is better by more than 0.05, by two standard errors",
    ),
    Claim(
        "dimensionality-of-documents",
        "The contexts of memorized documents hold larger fractions of a dimension",
        "Henighan et al. 2023 (toy models)",
        "rank correlation of D_X and log-probability memorization of at least 0.5",
        _of_corpora("scores", _correlates("example_dimensionality")),
        refuted_if=_REFUTED,
    ),
    Claim(
        "prior-aware",
        "That a document's end is likelier after its own beginning than after others' tells how memorized it is",
        "Tiwari et al. 2026, arXiv 2602.18733 (no counterfactual truth there)",
        "rank correlation with log-probability memorization of at least 0.5",
        _of_corpora("scores", _correlates("prior_aware")),
        refuted_if=_REFUTED,
    ),
    Claim(
        "masked-canaries",
        "Canaries that are switched off are at chance: like probes that were never planted",
        _OWN,
        "accuracy at most 0.002, log-probability within 0.3 nats of probes",
        _of_corpora("chance", _masked),
        refuted_if="a mean lies on the other side",
    ),
    Claim(
        "natural-repeats",
        "What occurs ten times is memorized, but no single copy of it counts",
        "Meeus et al. 2025, arXiv 2506.20481 (self-influence of duplicates falls)",
        "a copy's document bit gives next to nothing of the span's",
        _of_corpora("repeats", _natural),
        refuted_if="a copy's document bit gives more than a twentieth of the span's, by two standard errors",
    ),
    Claim(
        "near-copies-10",
        "A near-copy with a tenth of its words changed is worth part of an exact copy",
        _SHILOV,
        "0.60 to 0.65",
        _of_corpora("dose", _worth(0.1, 0.60, 0.65)),
        refuted_if="our interval lies outside",
    ),
    Claim(
        "near-copies-50",
        "A near-copy with half of its words changed is worth a little",
        _SHILOV,
        "0.15 to 0.20",
        _of_corpora("dose", _worth(0.5, 0.15, 0.20)),
        refuted_if="our interval lies outside",
    ),
    Claim(
        "extraction",
        "One pass predicts how often sampling brings out a span word for word",
        "Hayes et al. 2024, arXiv 2410.19482",
        "95 % of counts in their 95 % bands",
        _of_corpora("extraction", _samples),
        refuted_if="less than 94 % of counts lie in their bands",
    ),
    Claim(
        "superposition",
        "Contexts of memorized spans hold more of a dimension than never-trained ones, the more the more copies",
        "Henighan et al. 2023 (toy models: memorized examples hold large fractions of a dimension; for text, ours)",
        "on less off above 0 by two standard errors from 8 copies on, in every layer, and larger at most copies than"
        " at one",
        _of_corpora("superposition", _dimensions),
        refuted_if="the difference from 8 copies on is above 0 by two standard errors in no layer",
    ),
)
