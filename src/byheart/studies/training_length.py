"""Does longer training make the bump of test loss larger, at m = 4, with a warm-up of 5 % of the steps?

Source: Henighan et al. 2023, appendix (number of epochs at m = 4).
"""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from byheart.config import TrainConfig
from byheart.plots import losses_by
from byheart.store import Runs
from byheart.studies.study import (
    N_SEEDS,
    Bump,
    Claim,
    Finding,
    Scale,
    Study,
    judged,
    mean_losses,
    not_run,
    setup,
    share,
)
from byheart.sweep import grid

_STEPS: dict[Scale, tuple[int, ...]] = {
    "quick": (1_000, 4_000, 16_000),
    "medium": (1_000, 2_000, 5_000, 15_000, 50_000),
    "paper": (2_000, 5_000, 15_000, 50_000, 100_000),
}
_T = (30, 100, 200, 300, 500, 1_000, 2_000)
_PAPER_T = (100, 500, 1_000, 2_000, 5_000, 10_000)
_APPENDIX = "Henighan et al. 2023, appendix, m = 4"


def _configs(scale: Scale) -> list[TrainConfig]:
    axes = {"n_steps": _STEPS[scale], "n_examples": _PAPER_T if scale == "paper" else _T}
    return grid(setup(scale, n_hidden=4), axes, range(N_SEEDS[scale]))


def _peaks(runs: Runs) -> pd.DataFrame:
    """The highest test loss over T, by seed (rows) and number of steps (columns)."""
    return runs.table.pivot_table(index="seed", columns="n_steps", values="test_loss", aggfunc="max")


def _longer_is_larger(runs: Runs) -> Finding:
    peaks = _peaks(runs)
    if peaks.shape[1] < 3:
        return not_run("three numbers of steps")
    holds = (peaks.diff(axis=1).iloc[:, 1:] > 0).all(axis=1)
    finding = share(holds.tolist(), "have a higher peak at every longer training")
    means = "; ".join(f"{steps:,}: {peaks[steps].mean():.4g}" for steps in peaks)
    return Finding(f"{finding.ours}; mean peak by steps: {means}", finding.verdict)


def _bump_of_longest(runs: Runs) -> Finding:
    longest = runs.table[runs.table["n_steps"] == runs.table["n_steps"].max()]
    bump = Bump.along(longest, "n_examples")
    if bump is None:
        return not_run("three T with two seeds")
    return judged(str(bump), bump.height > 3, bump.where == "first")


_CLAIMS = (
    Claim(
        "bump",
        "The longest training has a bump along T (more than 3 standard errors high)",
        _APPENDIX,
        "a bump",
        _bump_of_longest,
        refuted_if="test loss is highest at the smallest T",
    ),
    Claim(
        "longer-is-larger",
        "The longer the training, the higher the largest test loss over T",
        _APPENDIX,
        "larger with more epochs",
        _longer_is_larger,
        refuted_if="no dataset's peaks grow with every longer training",
    ),
)


def _figures(runs: Runs) -> dict[str, Figure]:
    return {"training-length": losses_by(runs.table, "n_steps", "{:,} steps")}


def _tables(runs: Runs) -> dict[str, pd.DataFrame]:
    return {"by-steps": mean_losses(runs.table, ["n_steps", "n_examples"])}


STUDY = Study(
    "training-length",
    "Does longer training make the bump of test loss larger (m = 4)?",
    _configs,
    _CLAIMS,
    _figures,
    _tables,
)
