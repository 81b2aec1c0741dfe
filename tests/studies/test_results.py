"""The verdicts in results/ are those that the claims compute from the numbers kept beside them."""

from pathlib import Path

import pandas as pd
import pytest

from byheart.studies import STUDIES
from byheart.toy.config import TrainConfig
from byheart.toy.figures import is_paper_setup
from byheart.toy.runs import Header, Runs

RESULTS = Path(__file__).parents[2] / "results"
# Claims that the numbers of runs.csv alone do not decide.
NEED_WEIGHTS: dict[str, set[str]] = {
    "double-descent": {"exchange", "pentagon", "m-over-T", "decagon", "ring", "five-features", "hidden-peak"},
    "double-descent-averaged": {"exchange", "pentagon", "m-over-T", "decagon", "ring", "five-features", "hidden-peak"},
    "double-descent-m4": {"exchange"},
    "repeats": {
        "few-repeats",
        "replaces-one-feature",
        "each-is-stored",
        "each-replaces-one",
        "five-of-many",
        "law",
        "more-at-small-T",
    },
    "polygons": {
        "small-T-regular",
        "eight-fails",
        "two-circles",
        "radius",
        "biases",
        "best-of-inits-memorised",
        "best-of-inits-regular",
    },
    "middle-regime": {"clusters"},
    "two-views": {"exchange", "empty-middle", "overfit-is-readable", "told-apart"},
}


def recorded(name: str) -> Runs:
    """The runs whose numbers are in a study's runs.csv, without their weights."""
    configs = {c.run_id(): c for scale in ("quick", "medium", "paper") for c in STUDIES[name].configs(scale)}
    table = pd.read_csv(RESULTS / name / "runs.csv")
    metrics = [column for column in table if column not in {*TrainConfig.__dataclass_fields__, "id", "wall_seconds"}]
    return Runs(
        [
            Header(
                path=Path("not in git") / f"{row['id']}.safetensors",
                config=configs[row["id"]],
                metrics={column: None if pd.isna(row[column]) else float(row[column]) for column in metrics},
                provenance={"wall_seconds": row["wall_seconds"]},
                data_digest="",
                arrays_digest="",
            )
            for _, row in table.iterrows()
        ]
    )


@pytest.mark.parametrize("name", list(STUDIES))
def test_verdicts_follow_from_the_numbers_beside_them(name):
    runs, claims = recorded(name), STUDIES[name].claims
    at_paper_setup = is_paper_setup(runs) and all(h.config.n_steps == 50_000 for h in runs.headers)
    kept = pd.read_csv(RESULTS / name / "verdicts.csv").set_index("claim")
    assert list(kept.index) == [claim.id for claim in claims if at_paper_setup or not claim.paper_setup_only]
    need_weights = set()
    for claim in claims:
        if claim.id not in kept.index:
            continue
        row = kept.loc[claim.id]
        for column in ("statement", "source", "paper", "refuted_if"):
            assert getattr(claim, column) == row[column], (claim.id, column)
        try:
            found = claim.test(runs)
        except ValueError as error:
            if not str(error).startswith("run file: received"):
                raise
            need_weights.add(claim.id)  # which are not in git
            continue
        assert (found.ours, found.verdict) == (row["ours"], row["verdict"]), claim.id
    assert need_weights == NEED_WEIGHTS.get(name, set())
