"""The claims on attractors, on made-up tables whose verdicts are known."""

import itertools

import pandas as pd
import pytest

from byheart.studies.attractors import STUDY

T = (5, 8, 10, 100, 5_000)
KEYS = list(itertools.product(("sum", "mean"), T, range(4)))


def attractors_of(t: int, kinds: dict[int, list[tuple]]) -> list[tuple]:
    """Rows of kind, first, second, share_of_two at this T."""
    return kinds.get(t, [("mixture", 0, 1, 0.2)] * 3)


EXAMPLES = {t: [("example", i, i + 1, 0.5) for i in range(t)] for t in (5, 8, 10)}
FIVE_FEATURES = {5_000: [("feature", i, i + 1, 1.0) for i in range(5)]}
FIVE_MIDDLES = {5_000: [("mixture", i, (i + 1) % 5, 0.9) for i in range(5)]}


def tables(kinds: dict[int, list[tuple]], **counts) -> dict[str, pd.DataFrame]:
    """The tables of four datasets for each T and reduction, test loss highest at T = 100."""
    runs = pd.DataFrame(KEYS, columns=["reduction", "n_examples", "seed"]).assign(
        group="every T", sparsity=0.99, n_features=1_000, train_loss=1.0, test_loss_se=0.0
    )
    runs["test_loss"] = (1 + (runs["n_examples"] == 100)) / (1 + 999 * (runs["reduction"] == "mean"))
    rows, found = [], []
    for reduction, t, seed in KEYS:
        own = attractors_of(t, kinds)
        key = {"reduction": reduction, "n_examples": t, "seed": seed}
        n = {f"n_{kind}": sum(row[0] == kind for row in own) for kind in ("example", "feature", "mixture", "origin")}
        n |= {"n_attractors": len(own) - n["n_origin"], "unsettled": 0.0, "n_memorized": t * (t <= 10)}
        n |= {"n_stable": n["n_example"], "n_represented": 5, "n_on_border": 5}
        rows.append({**key, **n, **counts})
        found += [{**key, **dict(zip(("kind", "first", "second", "share_of_two"), row, strict=True))} for row in own]
    training = pd.DataFrame(
        {**dict(zip(("reduction", "n_examples", "seed"), key, strict=True)), "step": step, "n_attractors": n}
        for key in KEYS
        if key[1] in (5, 100, 5_000)
        for step, n in ((0, 1), (100, 4), (1_000, 2 if key[1] == 100 else 5))
    )
    repeats = [(r, seed, r == 20, r == 20, r / 20) for r in (1, 20) for seed in range(4)]
    return {
        "runs": runs,
        "counts": pd.DataFrame(rows),
        "attractors": pd.DataFrame(found),
        "training": training,
        "repeats": pd.DataFrame(repeats, columns=["repeats", "seed", "owns", "on_border", "overlap"]),
    }


def verdicts(found: dict[str, pd.DataFrame]) -> dict[str, str]:
    return {claim.id: claim.test(found).verdict for claim in STUDY.claims}


def test_what_the_question_expects():
    found = verdicts(tables(EXAMPLES | FIVE_FEATURES))
    differing = {"middles-of-examples", "five-middles", "nothing-is-an-attractor"}
    assert {name for name, verdict in found.items() if verdict == "differs"} == differing
    assert set(found.values()) == {"differs", "reproduced"}


def test_what_theory_expects():
    origin = [("origin", -1, -1, 0.0)]
    kinds = {t: rows + [("mixture", 0, 1, 0.3)] * t + origin for t, rows in EXAMPLES.items()}
    found = verdicts(tables(kinds | FIVE_MIDDLES))
    assert {name for name, verdict in found.items() if verdict == "differs"} == {
        "nothing-else-attracts",
        "five-features",
    }
    assert set(found.values()) == {"differs", "reproduced"}


@pytest.mark.parametrize(
    "rows",
    [
        FIVE_MIDDLES[5_000][:4],  # four only
        [("mixture", 0, 1, 0.9)] * 5,  # the same two features in each
        [(kind, first, second, 0.4) for kind, first, second, _ in FIVE_MIDDLES[5_000]],  # mostly of other features
        [("feature", *row[1:]) for row in FIVE_MIDDLES[5_000]],
    ],
)
def test_what_are_no_five_middles(rows):
    assert verdicts(tables(EXAMPLES | {5_000: rows}))["five-middles"] == "differs"


def test_an_example_at_the_peak_refutes_its_claim():
    found = verdicts(tables(EXAMPLES | {100: [("example", 0, 1, 0.5)], **FIVE_FEATURES}))
    assert found["neither-at-the-peak"] == "differs"


@pytest.mark.parametrize(
    ("counts", "claim"),
    [({"unsettled": 0.2}, "no-cycles"), ({"n_stable": -1}, "closed-form"), ({"n_on_border": 4}, "features-on-borders")],
)
def test_what_refutes_theory(counts, claim):
    assert verdicts(tables(EXAMPLES | FIVE_FEATURES, **counts))[claim] == "differs"


def test_a_repeated_example_without_an_attractor():
    found = tables(EXAMPLES)
    found["repeats"]["owns"] = False
    assert verdicts(found)["repeated-example"] == "differs"
    found["repeats"]["owns"] = found["repeats"]["seed"] == 0
    assert verdicts(found)["repeated-example"] == "inconclusive"
