"""Does longer training make the bump of test loss larger, at m = 4, with a warm-up of 5 % of the steps?

With squared errors summed over features, as stated, and averaged, as the paper most likely did (study discrepancy).

Source: Henighan et al. 2023, appendix (number of epochs at m = 4).
"""

from __future__ import annotations

from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from byheart.studies.study import (
    N_SEEDS,
    SMALLEST,
    SMALLEST_T,
    WORDS_OF_REDUCTION,
    Claim,
    Finding,
    Scale,
    Study,
    judge_bump,
    losses_with,
    mean_losses,
    not_run,
    peaks_by,
    setup,
    share,
)
from byheart.toy.config import TrainConfig
from byheart.toy.figures import losses_by
from byheart.toy.model import Reduction
from byheart.toy.runs import Runs, summed
from byheart.toy.sweep import grid

_STEPS: dict[Scale, tuple[int, ...]] = {
    "quick": (750, 3_000, 12_000),
    "medium": (1_000, 2_000, 5_000, 15_000, 50_000),
    "paper": (2_000, 5_000, 15_000, 50_000, 100_000),
}
_T = (30, 100, 200, 300, 500, 1_000, 2_000)
_PAPER_T = (100, 500, 1_000, 2_000, 5_000, 10_000)
_APPENDIX = "Henighan et al. 2023, appendix, m = 4"


def _configs(scale: Scale) -> list[TrainConfig]:
    sizes = {"quick": SMALLEST_T, "medium": _T, "paper": _PAPER_T}[scale]
    axes = {"n_steps": _STEPS[scale], "n_examples": sizes, "reduction": list(WORDS_OF_REDUCTION)}
    # a warm-up of None is 5 % of the steps
    base = setup(scale, n_hidden=4, **({**SMALLEST, "warmup_steps": None} if scale == "quick" else {}))
    return grid(base, axes, range(N_SEEDS[scale]))


def _longer_is_larger(reduction: Reduction, runs: Runs) -> Finding:
    peaks = peaks_by(losses_with(runs, reduction), "n_steps")
    if peaks.shape[1] < 3:
        return not_run("three numbers of steps")
    holds = (peaks.diff(axis=1).iloc[:, 1:] > 0).all(axis=1)
    finding = share(holds.tolist(), "have a higher peak at every longer training")
    means = "; ".join(f"{steps:,}: {peaks[steps].mean():.4g}" for steps in peaks)
    return Finding(f"{finding.ours}; mean peak by steps: {means}", finding.verdict)


def _bump_of_longest(reduction: Reduction, runs: Runs) -> Finding:
    table = losses_with(runs, reduction)
    longest = table[table["n_steps"] == table["n_steps"].max()]
    return judge_bump(longest, "three T with two seeds")


def _claims(reduction: Reduction) -> tuple[Claim, ...]:
    words = WORDS_OF_REDUCTION[reduction]
    return (
        Claim(
            f"bump-{reduction}",
            f"The longest training has a bump along T (more than 3 standard errors high); {words}",
            _APPENDIX,
            "a bump",
            partial(_bump_of_longest, reduction),
            refuted_if="test loss is highest at the smallest T",
        ),
        Claim(
            f"longer-is-larger-{reduction}",
            f"The longer the training, the higher the largest test loss over T; {words}",
            _APPENDIX,
            "larger with more epochs",
            partial(_longer_is_larger, reduction),
            refuted_if="no dataset's peaks grow with every longer training",
        ),
    )


def _figures(runs: Runs) -> dict[str, Figure]:
    return {"training-length": losses_by(summed(runs.table), "n_steps", "{:,} steps", WORDS_OF_REDUCTION)}


def _tables(runs: Runs) -> dict[str, pd.DataFrame]:
    return {"by-steps": mean_losses(summed(runs.table), ["reduction", "n_steps", "n_examples"])}


STUDY = Study(
    "training-length",
    "Does longer training make the bump of test loss larger (m = 4)?",
    _configs,
    (*_claims("sum"), *_claims("mean")),
    _figures,
    _tables,
)
