"""What the study claims, and how its table judges each claim. Registered before the runs that are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from byheart.claims import Claim, Finding, compare, judged, lies_within, one_digit
from byheart.studies.forget.runs import ASCENT, ASCENT_EARLY, ASCENT_RETAINING, EDITED, SINKS, TRAINED
from byheart.studies.study import Tables

FORGOTTEN, RECITED, RISE = 0.05, 0.95, 0.15
ORACLE, OTHER = "span mask", "span mask, other seed"
KFAC = tuple(arm for arm in EDITED if arm.startswith("K-FAC"))
DECAYS = tuple(arm for arm in TRAINED if arm.startswith("weight decay"))
PREVENTIVE = tuple(arm for arm in TRAINED if arm not in ("plain", ORACLE, OTHER, *SINKS))
LARGE_SINKS = "sinks 0.5"
_OURS = "ours"
_GHOSAL = "Ghosal et al. 2025, arXiv 2507.09937"
_MERULLO = (
    "Merullo et al. 2025, arXiv 2510.24256 (OLMo-2 of 1 B: 98.5 % to 2.8 %, perplexity 23.2 to 26.5; second-hand)"
)


def of_arm(tables: Tables, arm: str, column: str, kind: str = "exact") -> pd.Series[float]:
    """Return a column of an arm, by seed."""
    table = tables["arms"]
    rows = table[(table["arm"] == arm) & (table["kind"] == kind)]
    return rows.set_index("seed")[column]


def mean_and_error(values: pd.Series[float]) -> tuple[float, float]:
    """Return the mean over seeds and its standard error, infinite for one seed."""
    told = values.to_numpy(dtype=np.float64)
    error = float(told.std(ddof=1) / np.sqrt(len(told))) if len(told) > 1 else np.inf
    return float(told.mean()), error if np.isfinite(error) else np.inf


def forgets(tables: Tables, arm: str) -> bool | None:
    """Return whether an arm meets the bar: at most 5 % recited at a rise of at most 15 %; None if it may or may not."""
    recited = lies_within(*mean_and_error(of_arm(tables, arm, "recited_on")), high=FORGOTTEN)
    rise = lies_within(*mean_and_error(of_arm(tables, arm, "rise")), high=RISE)
    if recited and rise:
        return True
    return False if recited is False or rise is False else None


def mildest(tables: Tables) -> str:
    """Return the K-FAC edit that keeps most of those that bring recitation to 5 % on average, or else the strongest."""
    found = [arm for arm in KFAC if of_arm(tables, arm, "recited_on").mean() <= FORGOTTEN]
    return found[0] if found else KFAC[-1]


def _in_words(tables: Tables, arm: str) -> str:
    recited, rise = (of_arm(tables, arm, name) for name in ("recited_on", "rise"))
    error = one_digit(100 * mean_and_error(rise)[1])
    return f"{arm} {100 * recited.mean():.0f} % at {100 * rise.mean():+.1f} \N{PLUS-MINUS SIGN} {error} %"


def _bar(arms: Sequence[str]) -> Callable[[Tables], Finding]:
    def test(tables: Tables) -> Finding:
        plain = of_arm(tables, "plain", "recited_on")
        enough = plain.mean() >= RECITED
        found = [forgets(tables, arm) for arm in arms]
        words = "; ".join(_in_words(tables, arm) for arm in arms)
        start = f"from {100 * plain.mean():.0f} %{'' if enough else ', too few to decide,'} to: "
        return judged(start + words, enough and True in found, enough and all(value is False for value in found))

    return test


def _no_decay(tables: Tables) -> Finding:
    found = [forgets(tables, arm) for arm in DECAYS]
    words = "; ".join(_in_words(tables, arm) for arm in DECAYS)
    return judged(words, all(value is False for value in found), True in found)


def _ratio(tables: Tables, arm: str) -> pd.Series[float]:
    return of_arm(tables, arm, "steps_on") / of_arm(tables, arm, "steps_off")


def _steps_in_words(tables: Tables, arm: str) -> str:
    on, off = (of_arm(tables, arm, f"steps_{side}").mean() for side in ("on", "off"))
    ratio, error = mean_and_error(_ratio(tables, arm))
    return f"{arm}: {on:.1f} steps against {off:.1f}, ratio {ratio:.2f} \N{PLUS-MINUS SIGN} {one_digit(error)}"


def _hidden(arm_of: Callable[[Tables], str]) -> Callable[[Tables], Finding]:
    def test(tables: Tables) -> Finding:
        arm = arm_of(tables)
        ratio = _ratio(tables, arm)
        fewer = lies_within(*mean_and_error(ratio), high=1)
        return judged(_steps_in_words(tables, arm), fewer is True, fewer is False)

    return test


def _isolated(tables: Tables) -> Finding:
    """What is recited with a passage's own sinks, less what is recited without any."""
    words, found = [], []
    for arm in SINKS:
        within, without = (of_arm(tables, arm, name) for name in ("recited_with_sinks", "recited_on"))
        words.append(f"{arm} {100 * within.mean():.0f} % with its own sinks, {100 * without.mean():.0f} % without")
        found.append(lies_within(*mean_and_error(within - without), low=0.5))
    return judged("; ".join(words), True in found, all(value is False for value in found))


def _control(tables: Tables) -> Finding:
    ratio = (_ratio(tables, ORACLE) + _ratio(tables, OTHER)) / 2
    return compare(ratio.to_numpy(), 1, 0.2, ".2f").also(_steps_in_words(tables, ORACLE))


def _distances(tables: Tables, arm: str, kind: str = "exact") -> pd.Series[float]:
    """Distance to the oracle, in units of that of another oracle, over seeds."""
    other = of_arm(tables, OTHER, "distance", kind).mean()
    return of_arm(tables, arm, "distance", kind) / other


def _distance_in_words(tables: Tables, arm: str, kind: str = "exact") -> str:
    mean, error = mean_and_error(_distances(tables, arm, kind))
    return f"{arm} {mean:.1f} \N{PLUS-MINUS SIGN} {one_digit(error)}"


def _nearest(tables: Tables) -> Finding:
    """Every edit after training, against another model that never learned the spans."""
    arms = (ASCENT, ASCENT_RETAINING, ASCENT_EARLY, mildest(tables))
    found = [lies_within(*mean_and_error(_distances(tables, arm)), low=1.5) for arm in arms]
    other = of_arm(tables, OTHER, "distance").mean()
    words = f"in units of {other:.2f} nats per token: " + ", ".join(_distance_in_words(tables, arm) for arm in arms)
    return judged(words, all(value is True for value in found), any(value is False for value in found))


def _of_plain(arm: str, kind: str, low: float = 0, high: float = np.inf) -> Callable[[Tables], Finding]:
    """Distance to the oracle as a share of the plain model's, less the distance between oracles from both."""

    def test(tables: Tables) -> Finding:
        own, plain, other = (of_arm(tables, name, "distance", kind) for name in (arm, "plain", OTHER))
        share = (own - other) / (plain - other)
        mean, error = mean_and_error(share)
        recited = of_arm(tables, arm, "recited_on", kind).mean()
        words = (
            f"{100 * mean:.0f} \N{PLUS-MINUS SIGN} {one_digit(100 * error)} % of the plain model's distance;"
            f" {100 * recited:.0f} % recited (plain: {100 * of_arm(tables, 'plain', 'recited_on', kind).mean():.0f} %)"
        )
        within = lies_within(mean, error, low, high)
        return judged(words, within is True, within is False)

    return test


CLAIMS = (
    Claim(
        "bar-after-training",
        "An edit after training brings recitation from 95 % or more to 5 % or less, at a rise of the held-out"
        " perplexity of 15 % or less",
        _OURS,
        "at least one of three kinds of gradient ascent and the K-FAC edit",
        _bar(EDITED),
        refuted_if="each misses one of the two, two standard errors either way",
    ),
    Claim(
        "bar-kfac",
        "The K-FAC edit does, with one of the shares of curvature tried",
        _MERULLO,
        "at most 5 % at a rise of at most 15 %",
        _bar(KFAC),
        refuted_if="with each share it misses one of the two, two standard errors either way",
    ),
    Claim(
        "bar-in-training",
        "Another way of training than by a mask does",
        _OURS,
        "at least one of deduplication, goldfish loss and weight decay",
        _bar(PREVENTIVE),
        refuted_if="each misses one of the two, two standard errors either way",
    ),
    Claim(
        "weight-decay",
        "Weight decay alone does not",
        _OURS,
        "0.3 and 1 both miss one of the two",
        _no_decay,
        refuted_if="one of them meets both, two standard errors either way",
    ),
    Claim(
        "control",
        "A model that never learned the spans takes as many steps to be taught them as to be taught others like them",
        _OURS,
        "ratio 1, to within 0.2",
        _control,
        refuted_if="the mean ratio, two standard errors either way, is not within 0.2 of 1",
    ),
    *(
        Claim(
            f"hidden-{name}",
            f"After {words}, spans come back in fewer steps than spans that were never learned: they were hidden",
            _OURS,
            "ratio below 1",
            _hidden(arm_of),
            refuted_if="the ratio, two standard errors either way, is above 1",
        )
        for name, words, arm_of in (
            ("ascent", "gradient ascent", lambda tables: ASCENT),
            ("ascent-retaining", "gradient ascent that retains other text", lambda tables: ASCENT_RETAINING),
            ("ascent-early", "gradient ascent that stops once no span is recited", lambda tables: ASCENT_EARLY),
            ("kfac", "the mildest K-FAC edit that brings recitation to 5 % (or the strongest)", mildest),
        )
    ),
    Claim(
        "nearest",
        "No edit after training leaves spans as a model that never learned them has them",
        _OURS,
        "each at least 1.5 times as far from such a model as another such model is",
        _nearest,
        refuted_if="one is nearer than 1.5 times, two standard errors either way",
    ),
    Claim(
        "one-copy",
        "Of spans that deduplication leaves one copy of, next to nothing is known",
        _OURS,
        "at most a tenth of the plain model's distance to the oracle",
        _of_plain("deduplication", "exact", high=0.1),
        refuted_if="it is more than a tenth, two standard errors either way",
    ),
    Claim(
        "near-copies",
        "Exact deduplication leaves spans known whose copies differ in a word",
        _OURS,
        "at least half of the plain model's distance to the oracle",
        _of_plain("deduplication", "near-copies", low=0.5),
        refuted_if="it is less than half, two standard errors either way",
    ),
    Claim(
        "near-deduplication",
        "Deduplication of near-copies does not",
        _OURS,
        "at most a quarter of the plain model's distance to the oracle",
        _of_plain("near-deduplication", "near-copies", high=0.25),
        refuted_if="it is more than a quarter, two standard errors either way",
    ),
    Claim(
        "bar-sinks",
        "Memorization sinks that are dropped after training do",
        _GHOSAL,
        "at most 5 % at a rise of at most 15 %, with a quarter or a half of the neurons as sinks",
        _bar(tuple(SINKS)),
        refuted_if="both miss one of the two, two standard errors either way",
    ),
    Claim(
        "sinks-isolate",
        "What is dropped with the sinks was kept there: a passage is recited with its own sinks, and not without",
        _GHOSAL,
        "at least 50 percentage points more with them, with a quarter or a half of the neurons as sinks",
        _isolated,
        refuted_if="both differ by less, two standard errors either way",
    ),
    Claim(
        "sinks-half",
        "Without the sinks, half of the neurons, at most half of what was memorized is left",
        f"{_GHOSAL} (at least half of the gap in loss is closed; second-hand)",
        "at most half of the plain model's distance to the oracle",
        _of_plain(LARGE_SINKS, "exact", high=0.5),
        refuted_if="it is more than half, two standard errors either way",
    ),
    Claim(
        "hidden-sinks",
        "After its sinks, half of the neurons, are dropped, spans come back in fewer steps than spans that were never"
        " learned: the other neurons hide them",
        _OURS,
        "ratio below 1",
        _hidden(lambda tables: LARGE_SINKS),
        refuted_if="the ratio, two standard errors either way, is above 1",
    ),
    Claim(
        "goldfish",
        "The goldfish loss stops recitation, not knowledge: most of a span's tokens are still known",
        "ours; Hans et al. 2024, arXiv 2406.10209 (recitation)",
        "at least half of the plain model's distance to the oracle",
        _of_plain("goldfish loss", "exact", low=0.5),
        refuted_if="it is less than half, two standard errors either way",
    ),
)
