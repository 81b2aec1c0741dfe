"""How memorization grows with copies, what a near-copy is worth, and what chance looks like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float64, Int64

from byheart.language.design import Design, models_of
from byheart.language.differences import Places, mean_where, measures_of
from byheart.language.logs import Logs

_DRAWS = 200  # of the bootstrap
_LEVEL = (2.5, 97.5)


def dose_table(design: Design, logs: Logs, places: Places, spans: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Average planted spans by their number of copies, and weigh near-copies in exact ones.

    The memorization (log-probability) of near-copies is looked up on the curve of exact copies, which is made monotone
    and interpolated in the logarithm of their number (below the smallest number, in proportion to it). Copies are those
    that measured models train on (``n_seen``), of exact and near ones alike.

    Args:
        design: Who was trained on what.
        logs: Log-probabilities of its models.
        places: Places of its spans.
        spans: Table of the spans.
        seed: Of the bootstrap, over canaries and pairs of models.

    Returns:
        kind, planned, changed: A row for each setting of canaries and near-copies.
        n_spans, n_seen: How many there are, and how many copies models train on.
        log_probability, accuracy, recited: Mean memorization, recited as a difference of shares; ``_se`` over spans.
        equivalent, worth, worth_low, worth_high: Exact copies that give the same, divided by near-copies, with a 95 %
            interval; for near-copies only. At the end of the curve it is a lower bound, and ``beyond`` is true.
    """
    planted = spans[spans["kind"].isin(["canary", "near-copies"]) & spans["planned"].notna()]
    table = planted.assign(recited=planted["recited_on"] - planted["recited_off"])
    groups = [(key, group) for key, group in table.groupby(["kind", "planned", "changed"], dropna=False)]
    rows = []
    for (kind, planned, changed), group in groups:
        row = {"kind": kind, "planned": planned, "changed": changed, "n_spans": len(group)}
        row["n_seen"] = group["n_seen"].mean()
        for name in ("log_probability", "accuracy", "recited"):
            row[name] = group[name].mean()
            spread = group[name].std() if len(group) > 1 else group.get(f"{name}_se", pd.Series(np.nan)).mean()
            row[f"{name}_se"] = spread / np.sqrt(len(group))
        rows.append(row)
    columns = ["kind", "planned", "changed", "n_spans", "n_seen"]
    columns += [name + end for name in ("log_probability", "accuracy", "recited") for end in ("", "_se")]
    found = pd.DataFrame(rows, columns=columns)
    members = [group.index.to_numpy() for _, group in groups]
    return pd.concat([found, _worth(design, logs, places, found, members, seed)], axis=1)


def _worth(
    design: Design, logs: Logs, places: Places, dose: pd.DataFrame, members: Sequence[np.ndarray], seed: int
) -> pd.DataFrame:
    n_rows = len(dose)
    found = pd.DataFrame({name: np.full(n_rows, np.nan) for name in ("equivalent", "worth", "worth_low", "worth_high")})
    found["beyond"] = False
    exact, near = (np.flatnonzero(dose["kind"] == kind) for kind in ("canary", "near-copies"))
    if not len(exact) or not len(near):
        return found
    seen = dose["n_seen"].to_numpy()
    effects = dose["log_probability"].to_numpy()
    found.loc[near, "equivalent"] = equivalent(seen[exact], effects[exact], effects[near])
    found["worth"] = found["equivalent"] / seen
    found.loc[near, "beyond"] = (
        found.loc[near, "equivalent"] >= equivalent(seen[exact], effects[exact], np.array([np.inf]))[0]
    )
    scores = places.sums(logs.log_probability) / places.n_tokens
    rng, draws = np.random.default_rng(seed), []
    for _ in range(_DRAWS):
        pairs = rng.integers(design.n_models // 2, size=design.n_models // 2)
        of_span = places.compare(scores, models_of(pairs)).difference
        drawn = [of_span[rng.choice(rows, len(rows))] for rows in members]
        means = np.array(
            [values[np.isfinite(values)].mean() if np.isfinite(values).any() else np.nan for values in drawn]
        )
        told = exact[np.isfinite(means[exact])]
        draws.append(equivalent(seen[told], means[told], means[near]) / seen[near] if len(told) else near * np.nan)
    found.loc[near, ["worth_low", "worth_high"]] = np.nanpercentile(np.stack(draws), _LEVEL, axis=0).T
    return found


def equivalent(
    copies: Float64[np.ndarray, " n_doses"], effects: Float64[np.ndarray, " n_doses"], given: np.ndarray
) -> Float64[np.ndarray, " n_given"]:
    """Return how many exact copies give these effects: the least number that does, and none below zero.

    Args:
        copies: Numbers of exact copies, above 0.
        effects: What each number does.
        given: Effects to look up; from the top of the curve on, the number of copies where it begins.
    """
    from scipy.optimize import isotonic_regression  # slow to import

    order = np.argsort(copies)
    copies, curve = copies[order], np.maximum(isotonic_regression(effects[order]).x, 0)
    first = np.append(True, np.diff(curve) > 0)  # of equal ones, the fewest copies
    copies, curve = copies[first], curve[first]
    found = np.exp(np.interp(given, curve, np.log(copies)))
    below = given < curve[0]
    in_proportion = copies[0] * np.maximum(given, 0) / max(curve[0], np.finfo(float).tiny)
    equivalents: Float64[np.ndarray, " n_given"] = np.where(below, in_proportion, found)
    return equivalents


def chance_table(design: Design, logs: Logs, places: Places) -> pd.DataFrame:
    """Say what is measured where nothing was learned: at probes, and at canaries in models with them off.

    Returns:
        what: "probe" or "canary, off".
        n_spans: How many there are.
        log_probability, accuracy: Mean over spans of their mean over models (nats per token, share of tokens).
        log_probability_spread, accuracy_spread: Standard deviation over spans of the same.
    """
    kinds = np.array([span.kind for span in design.spans])
    rows = []
    for what, kind, counts in (
        ("probe", "probe", places.valid),
        ("canary, off", "canary", places.valid & ~design.span_mask[:, places.span_of]),
    ):
        chosen: Int64[np.ndarray, " n_chosen"] = np.flatnonzero(kinds == kind)
        row: dict[str, object] = {"what": what, "n_spans": len(chosen)}
        for name, values in measures_of(logs).items():
            at_places = mean_where(places.sums(values) / places.n_tokens, counts)
            of_spans = places.per_span(at_places[None])[0][chosen]
            told = of_spans[np.isfinite(of_spans)]
            row[name] = told.mean() if len(told) else np.nan
            row[f"{name}_spread"] = told.std(ddof=1) if len(told) > 1 else np.nan
        rows.append(row)
    return pd.DataFrame(rows)
