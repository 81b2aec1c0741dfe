"""Does weight decay remove the bump of test loss, at m = 4, where optimisation fails less than at m = 2?

With squared errors summed over features, as stated, and averaged, as the paper most likely did (study discrepancy).

Source: Henighan et al. 2023, appendix (weight decay at m = 4).
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
    Bump,
    Claim,
    Finding,
    Scale,
    Study,
    judge_bump,
    judged,
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

_DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_T = (30, 100, 200, 300, 500, 1_000, 2_000)
_PAPER_T = (100, 500, 1_000, 2_000, 5_000, 10_000, 20_000)
_APPENDIX = "Henighan et al. 2023, appendix, m = 4"


def _configs(scale: Scale) -> list[TrainConfig]:
    decays = _DECAYS[::2] if scale == "quick" else _DECAYS
    sizes = {"quick": SMALLEST_T, "medium": _T, "paper": _PAPER_T}[scale]
    axes = {"n_examples": sizes, "weight_decay": decays, "reduction": list(WORDS_OF_REDUCTION)}
    base = setup(scale, n_hidden=4, **(SMALLEST if scale == "quick" else {}))
    return grid(base, axes, range(N_SEEDS[scale]))


def _at_decay(runs: Runs, reduction: Reduction, decay: float) -> pd.DataFrame:
    table = losses_with(runs, reduction)
    return table[table["weight_decay"] == decay]


def _less_decay_larger_bump(reduction: Reduction, runs: Runs) -> Finding:
    peaks = peaks_by(losses_with(runs, reduction), "weight_decay")
    if not {1e-4, 1e-2, 1.0} <= set(peaks):
        return not_run("weight decays 1e-4, 1e-2 and 1")
    holds = (peaks[1e-4] > peaks[1e-2]) & (peaks[1e-2] > peaks[1.0])
    finding = share(holds.tolist(), "have a higher peak at 1e-4 than at 1e-2, and there than at 1")
    means = "; ".join(f"{decay:g}: {peaks[decay].mean():.4g}" for decay in peaks)
    return Finding(f"{finding.ours}; mean peak by weight decay: {means}", finding.verdict)


def _present(reduction: Reduction, runs: Runs) -> Finding:
    return judge_bump(_at_decay(runs, reduction, 1e-2), "weight decay 1e-2 at three T, two seeds")


def _gone(reduction: Reduction, runs: Runs) -> Finding:
    usual, bump = (Bump.along(_at_decay(runs, reduction, decay), "n_examples") for decay in (1e-2, 1.0))
    if bump is None or usual is None or usual.height <= 3:
        return not_run("a bump at weight decay 1e-2, and the same T at weight decay 1")
    return judged(str(bump), bump.height < 2, bump.height > 3)


def _claims(reduction: Reduction) -> tuple[Claim, ...]:
    words = WORDS_OF_REDUCTION[reduction]
    return (
        Claim(
            f"bump-{reduction}",
            f"At weight decay 1e-2 test loss has a bump along T (more than 3 standard errors high); {words}",
            _APPENDIX,
            "a bump",
            partial(_present, reduction),
            refuted_if="test loss is highest at the smallest T",
        ),
        Claim(
            f"less-decay-larger-bump-{reduction}",
            f"The less weight decay, the higher the largest test loss over T; {words}",
            _APPENDIX,
            "larger with less decay",
            partial(_less_decay_larger_bump, reduction),
            refuted_if="no dataset's peaks are in that order",
        ),
        Claim(
            f"gone-at-1-{reduction}",
            f"Weight decay 1.0 removes the bump (less than 2 standard errors high); {words}",
            _APPENDIX,
            "gone",
            partial(_gone, reduction),
            refuted_if="a bump of more than 3 standard errors is left",
        ),
    )


def _figures(runs: Runs) -> dict[str, Figure]:
    return {"weight-decay": losses_by(summed(runs.table), "weight_decay", "weight decay {:g}", WORDS_OF_REDUCTION)}


def _tables(runs: Runs) -> dict[str, pd.DataFrame]:
    return {"by-weight-decay": mean_losses(summed(runs.table), ["reduction", "weight_decay", "n_examples"])}


STUDY = Study(
    "weight-decay",
    "Does weight decay remove the bump of test loss (m = 4)?",
    _configs,
    (*_claims("sum"), *_claims("mean")),
    _figures,
    _tables,
)
