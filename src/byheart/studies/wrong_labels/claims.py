"""What the study claims, each claim judged from its tables."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from byheart.claims import Claim, Finding, judged, one_digit
from byheart.network.verdicts import SUSPECTED_SHARE
from byheart.studies.study import Tables
from byheart.studies.wrong_labels.networks import SHARE_WRONG

_TOLERANCE = 0.05


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


CLAIMS = (
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
