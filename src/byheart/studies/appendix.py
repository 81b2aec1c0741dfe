"""Do weight decay and longer training change the bump, at m = 4, where optimisation fails less than at m = 2?

Two studies, each of one setting and its values. With squared errors summed over features, as stated, and averaged, as
the paper most likely did (study discrepancy). A warm-up takes 5 % of the steps where their number is varied.

Source: Henighan et al. 2023, appendix (weight decay, and number of epochs, at m = 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import pandas as pd

from byheart.claims import Bump, Claim, Finding, judge_bump, judged, not_run, share
from byheart.studies.readme import sizes_of
from byheart.studies.study import (
    N_SEEDS,
    SMALLEST,
    SMALLEST_T,
    WORDS_OF_REDUCTION,
    Captioned,
    Scale,
    Study,
    Tables,
    setup,
)
from byheart.toy.config import TrainConfig
from byheart.toy.figures import losses_by
from byheart.toy.model import Reduction
from byheart.toy.runs import Runs, summed
from byheart.toy.sweep import grid
from byheart.toy.tables import mean_losses, table_of

_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_STEPS: dict[Scale, tuple[int, ...]] = {
    "quick": (750, 3_000, 12_000),
    "medium": (1_000, 2_000, 5_000, 15_000, 50_000),
    "paper": (2_000, 5_000, 15_000, 50_000, 100_000),
}
_VALUES: dict[str, dict[Scale, tuple[float, ...]]] = {
    "weight_decay": {"quick": _DECAYS[::2], "medium": _DECAYS, "paper": _DECAYS},
    "n_steps": dict(_STEPS),
}
_T = (30, 100, 200, 300, 500, 1_000, 2_000)
_PAPER_T = (100, 500, 1_000, 2_000, 5_000, 10_000)
_APPENDIX = "Henighan et al. 2023, appendix, m = 4"


def _groups(field: str, scale: Scale) -> dict[str, list[TrainConfig]]:
    """The configs by reduction."""
    paper = (*_PAPER_T, 20_000) if field == "weight_decay" else _PAPER_T
    sizes = {"quick": SMALLEST_T, "medium": _T, "paper": paper}[scale]
    # a warm-up of None is 5 % of the steps
    smallest = SMALLEST | ({"warmup_steps": None} if field == "n_steps" else {})
    base = setup(scale, n_hidden=4, **(smallest if scale == "quick" else {}))
    axes = {field: _VALUES[field][scale], "n_examples": sizes}
    return {
        words: grid(base, {**axes, "reduction": (reduction,)}, range(N_SEEDS[scale]))
        for reduction, words in WORDS_OF_REDUCTION.items()
    }


def _with(tables: Tables, reduction: Reduction) -> pd.DataFrame:
    """The runs with this reduction, losses summed over features."""
    return summed(tables["runs"].query("reduction == @reduction"))


def _peaks(table: pd.DataFrame, field: str) -> tuple[pd.DataFrame, str]:
    """The highest test loss over T, by seed (rows) and value of a field (columns), and the means in words."""
    peaks = table.pivot_table(index="seed", columns=field, values="test_loss", aggfunc="max")
    form = "{:,}" if field == "n_steps" else "{:g}"
    return peaks, "; ".join(f"{form.format(value)}: {peaks[value].mean():.4g}" for value in peaks)


def _bump(where: str, missing: str, reduction: Reduction, tables: Tables) -> Finding:
    table = _with(tables, reduction)
    largest = table["n_steps"].max()
    return judge_bump(table.query(where, local_dict={"largest": largest}), missing)


def _less_decay_larger_bump(reduction: Reduction, tables: Tables) -> Finding:
    peaks, means = _peaks(_with(tables, reduction), "weight_decay")
    if not {1e-4, 1e-2, 1.0} <= set(peaks):
        return not_run("weight decays 1e-4, 1e-2 and 1")
    holds = (peaks[1e-4] > peaks[1e-2]) & (peaks[1e-2] > peaks[1.0])
    finding = share(holds.tolist(), "have a higher peak at 1e-4 than at 1e-2, and there than at 1")
    return finding.also(f"mean peak by weight decay: {means}")


def _longer_is_larger(reduction: Reduction, tables: Tables) -> Finding:
    peaks, means = _peaks(_with(tables, reduction), "n_steps")
    if peaks.shape[1] < 3:
        return not_run("three numbers of steps")
    holds = (peaks.diff(axis=1).iloc[:, 1:] > 0).all(axis=1)
    finding = share(holds.tolist(), "have a higher peak at every longer training")
    return finding.also(f"mean peak by steps: {means}")


def _gone(reduction: Reduction, tables: Tables) -> Finding:
    by_decay = dict(list(_with(tables, reduction).groupby("weight_decay")))
    usual, bump = (Bump.along(by_decay[d], "n_examples") if d in by_decay else None for d in (1e-2, 1.0))
    if bump is None or usual is None or usual.height <= 3:
        return not_run("a bump at weight decay 1e-2, and the same T at weight decay 1")
    return judged(str(bump), bump.height < 2, bump.height > 3)


_Test = Callable[[Reduction, Tables], Finding]
_Words = tuple[str, str, str, _Test, str]  # id, statement, the paper's value, test, what refutes it


def _claims(words: Iterable[_Words]) -> list[Claim]:
    """Claims on the runs with squared errors summed, then those on the runs with squared errors averaged."""
    return [
        Claim(
            f"{name}-{reduction}",
            f"{statement}; {also}",
            _APPENDIX,
            paper,
            partial(test, reduction),
            refuted_if=refuted,
        )
        for reduction, also in WORDS_OF_REDUCTION.items()
        for name, statement, paper, test, refuted in words
    ]


_OF_DECAY: tuple[_Words, ...] = (
    (
        "bump",
        "At weight decay 1e-2 test loss has a bump along T (more than 3 standard errors high)",
        "a bump",
        partial(_bump, "weight_decay == 0.01", "weight decay 1e-2 at three T, two seeds"),
        "test loss is highest at the smallest T",
    ),
    (
        "less-decay-larger-bump",
        "The less weight decay, the higher the largest test loss over T",
        "larger with less decay",
        _less_decay_larger_bump,
        "no dataset's peaks are in that order",
    ),
    (
        "gone-at-1",
        "Weight decay 1.0 removes the bump (less than 2 standard errors high)",
        "gone",
        _gone,
        "a bump of more than 3 standard errors is left",
    ),
)
_OF_LENGTH: tuple[_Words, ...] = (
    (
        "bump",
        "The longest training has a bump along T (more than 3 standard errors high)",
        "a bump",
        partial(_bump, "n_steps == @largest", "three T with two seeds"),
        "test loss is highest at the smallest T",
    ),
    (
        "longer-is-larger",
        "The longer the training, the higher the largest test loss over T",
        "larger with more epochs",
        _longer_is_larger,
        "no dataset's peaks grow with every longer training",
    ),
)


def _study(name: str, question: str, field: str, form: str, words: Iterable[_Words]) -> Study:
    def tables(groups: Mapping[str, Runs]) -> dict[str, pd.DataFrame]:
        runs = table_of(groups)
        return {"runs": runs, table: mean_losses(summed(runs), ["reduction", field, "n_examples"])}

    words_of_field = {"n_steps": "number of steps"}.get(field, field.replace("_", " "))

    def figures(found: Tables) -> dict[str, Captioned]:
        runs = summed(found["runs"])
        caption = (
            "Test loss, summed over features, against the number of training examples T, a line for each"
            f" {words_of_field}. Left: trained on squared errors summed over features;"
            " right: averaged. Dots are means over seeds, bars one standard error either way; lines stand a little"
            f" apart so that bars can be told. {sizes_of(runs, (field, 'reduction', 'n_examples'))}"
        )
        return {name: Captioned(losses_by(runs, field, form, WORDS_OF_REDUCTION), caption)}

    table = f"by-{field.removeprefix('n_').replace('_', '-')}"
    return Study(name, question, partial(_groups, field), tables, _claims(words), figures)


WEIGHT_DECAY = _study(
    "weight-decay",
    "Does weight decay remove the bump of test loss (m = 4)?",
    "weight_decay",
    "weight decay {:g}",
    _OF_DECAY,
)
TRAINING_LENGTH = _study(
    "training-length",
    "Does longer training make the bump of test loss larger (m = 4)?",
    "n_steps",
    "{:,} steps",
    _OF_LENGTH,
)
