"""The table of scores agrees with the docs and with itself."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from byheart.network.score_table import SCORES, scores_from

DOCS = Path(__file__).parents[2] / "docs" / "audit.md"
IN_AN_AUDIT = [score for score in SCORES.values() if "inputs" not in score.evidence]


def test_the_docs_have_the_same_table():
    text = DOCS.read_text(encoding="utf-8")
    rows = [line for line in text.split("## The table")[1].split("\n\n")[1].splitlines() if line.startswith("| `")]
    results = tuple(
        f"| `{name}`"
        for name in ("id", "label", "target", "verdict", "score", "flagged", "estimate", "other_label", "copies")
    )
    expected = {
        f"| `{score.name}` | {score.meaning} | {score.source} |".replace("*", "\\*").replace("|  |", "| |")
        for score in IN_AN_AUDIT
    }
    assert {row for row in rows if not row.startswith(results)} == expected
    for score in SCORES.values():
        assert f"`{score.name}`" in text


def test_scores_of_inputs_are_no_part_of_an_audit():
    everything = set().union(*(score.evidence for score in IN_AN_AUDIT))
    assert scores_from(everything) == IN_AN_AUDIT
    assert [score.name for score in scores_from({"model"})] == [
        "loss", "example_dimensionality", "maximal_dimensionality"
    ]  # fmt: skip


@pytest.mark.parametrize("score", SCORES.values(), ids=SCORES)
def test_every_row_is_whole(score):
    assert score.meaning[0] == score.meaning[0].lower() or score.meaning.startswith("D")
    assert not score.meaning.endswith(".")
    assert score.sentence.endswith(".")
    assert score.sentence.startswith(score.meaning[0].upper())
    assert score.columns(["a"]) == [score.name]
    n_columns = 2 if score.by_layer else 1
    assert len(score.columns(["a", "b"])) == n_columns
    table = pd.DataFrame({column: [k, 3.0] for k, column in enumerate(score.columns(["a", "b"]))})
    np.testing.assert_allclose(score.values(table, ["a", "b"]), [(n_columns - 1) / 2, 3])
