"""The verdicts in results/ are those that the claims compute from the numbers kept beside them."""

from pathlib import Path

import pandas as pd
import pytest

from byheart.config import TrainConfig
from byheart.plots import is_paper_setup
from byheart.store import Header, Runs
from byheart.studies import STUDIES
from byheart.studies.study import verdict_row

RESULTS = Path(__file__).parents[2] / "results"


def recorded(name: str) -> Runs:
    """The runs whose numbers are in a study's runs.csv, without their weights."""
    configs = {c.run_id(): c for scale in ("quick", "medium", "paper") for c in STUDIES[name].configs(scale)}
    table = pd.read_csv(RESULTS / name / "runs.csv")
    metrics = [column for column in table if column not in {*TrainConfig.__dataclass_fields__, "id", "wall_seconds"}]
    return Runs(
        [
            Header(
                path=RESULTS / name / "runs" / f"{row['id']}.safetensors",
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
    runs, claims = recorded(name), {claim.id: claim for claim in STUDIES[name].claims}
    kept = pd.read_csv(RESULTS / name / "verdicts.csv").set_index("claim")
    expected = [claim.id for claim in STUDIES[name].claims if not claim.paper_setup_only or is_paper_setup(runs)]
    assert list(kept.index) == expected
    for identifier, row in kept.iterrows():
        try:
            found = verdict_row(claims[str(identifier)], runs)
        except ValueError as error:
            if not str(error).startswith("run file: received"):
                raise
            continue  # a claim that needs weights, which are not in git
        assert found["verdict"] == row["verdict"], (identifier, found["ours"], row["ours"])
        assert found["statement"] == row["statement"]
