"""The double-descent study: its sizes, and its claims on tables whose answer is known."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from byheart.geometry import example_dimensionality, is_regular_polygon
from byheart.studies.catalogue import STUDIES
from byheart.studies.double_descent import _EVERY_T, _MORE_AT_10
from byheart.studies.study import Scale, judge
from byheart.toy.config import TrainConfig
from byheart.toy.reference import paper_reference

STUDY = STUDIES["double-descent"]


def polygon(n: int, radius: float = 1.0) -> np.ndarray:
    angles = 2 * np.pi * np.arange(n) / n
    return (radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)


def verdict(
    claim: str, losses: dict[int, float], hidden=polygon, spread: float = 1e-3, study=STUDY, **columns: object
) -> str:
    """The verdict on runs at the paper's setup with these test losses by T, whose examples form polygons.

    Their largest feature dimensionality is the paper's; columns of their table may be given instead.
    """
    largest = paper_reference().set_index("n_examples")["feature_dim_max"]
    rows = []
    for group, configs in study.groups("paper").items():
        for config in configs:
            if config.n_examples not in losses:
                continue
            loss = losses[config.n_examples] + spread * (config.seed % 4 - 1.5)
            points = hidden(config.n_examples)
            dims, lengths = example_dimensionality(points), np.linalg.norm(points, axis=1)
            row = config.to_dict() | {"group": group, "id": config.run_id(), "train_loss": 0.0, "W_norm": 1.0}
            row["test_loss"] = loss / (config.n_features if config.reduction == "mean" else 1)
            row |= {"example_dimensionality_min": dims.min(), "example_dimensionality_max": dims.max()}
            row |= {"hidden_norm_mean": lengths.mean(), "hidden_norm_max": lengths.max(), "regular": False}
            row["regular"] = is_regular_polygon(points)
            row["n_longer_than_half"] = (lengths > lengths.max() / 2).sum()
            row |= {f"feature_dimensionality_{rank}": 0.0 for rank in (5, 6)}
            row["feature_dimensionality_max"] = largest.get(config.n_examples, 0.0)
            rows.append(row | columns)
    return str(judge(study, {"runs": pd.DataFrame(rows)}).set_index("claim").loc[claim, "verdict"])


@pytest.mark.parametrize(("scale", "at_least", "n_features"), [("quick", 12, 1_000), ("paper", 16, 10_000)])
def test_every_scale_has_four_seeds_of_each_size(scale: Scale, at_least: int, n_features: int):
    configs = STUDY.configs_up_to(scale)
    sizes = {c.n_examples for c in configs}
    assert len(sizes) >= at_least
    for size in sizes:  # runs of more than 100,000 examples take hours
        assert {c.seed for c in configs if c.n_examples == size} >= set(range(4 if float(size) <= 100_000 else 2))
    assert {c.n_features for c in configs} == {n_features}


def test_the_paper_scale_is_the_papers_setup():
    default = TrainConfig(3)
    for config in STUDY.configs_up_to("paper"):
        same = dataclasses.replace(config, n_examples=3, batch_size=default.batch_size, seed=0, snapshot_steps=())
        assert same == default
        assert (config.n_steps, config.warmup_steps, config.learning_rate) == (50_000, 2_500, 1e-3)


def test_a_bump_is_found_and_its_absence_too():
    assert verdict("bump", {30: 1.0, 100: 1.0, 2_000: 1.5, 20_000: 0.99}) == "reproduced"
    assert verdict("bump", {30: 1.5, 100: 1.2, 2_000: 1.0, 20_000: 0.99}) == "differs"
    assert verdict("bump", {30: 1.0, 2_000: 1.01, 20_000: 0.99}, spread=0.5) == "inconclusive"


PAPER = {5: 1.0, 100: 1.0031, 500: 1.0004, 1_000: 1.0006, 2_000: 1.015, 5_000: 0.9994, 10_000: 0.9989, 20_000: 0.9988}
JERMYN = {50: 1.005, 100: 2.0, 1_000: 500.0, 5_000: 5_000.0, 10_000: 100.0, 20_000: 0.9988}


@pytest.mark.parametrize("study", [STUDY, STUDIES["double-descent-averaged"]], ids=["summed", "averaged"])
@pytest.mark.parametrize(
    "claim",
    [
        *("bump", "peak-height", "generalising-onset", "middle-onset", "test-loss-5", "test-loss-20000"),
        "largest-feature",
    ],
)
def test_the_paper_itself_would_be_reproduced(study, claim):
    assert verdict(claim, PAPER, spread=1e-5, study=study) == "reproduced"


@pytest.mark.parametrize("claim", ["peak-height", "generalising-onset", "middle-onset"])
def test_jermyns_replication_would_differ(claim):
    assert verdict(claim, JERMYN, spread=1e-5) == "differs"


@pytest.mark.parametrize("claim", ["pentagon", "decagon", "m-over-T"])
def test_polygons_are_told_from_two_circles(claim):
    def two_circles(n: int) -> np.ndarray:
        hidden = polygon(n, 4.6)
        hidden[:2] *= 0.2
        return hidden

    assert verdict(claim, {5: 1.0, 10: 1.0}, lambda n: polygon(n, 2.29)) == "reproduced"
    assert verdict(claim, {5: 1.0, 10: 1.0}, two_circles) == "differs"


@pytest.mark.parametrize(("n_on_circle", "expected"), [(21, "reproduced"), (30, "differs")])
def test_examples_on_the_ring_are_those_longer_than_half_the_longest(n_on_circle, expected):
    def ring(n: int) -> np.ndarray:
        hidden = polygon(n)
        hidden[n_on_circle:] *= 0.4
        return hidden

    assert verdict("ring", {30: 1.0}, ring) == expected


@pytest.mark.parametrize(
    ("first", "fifth", "sixth", "expected"),
    [(0.27, 0.21, 0.05, "reproduced"), (0.27, 0.21, 0.2, "differs"), (0.4, 0.3, 0.05, "differs")],
)
def test_exactly_five_features_stand_out(first, fifth, sixth, expected):
    features = {"max": first, "5": fifth, "6": sixth}
    columns = {f"feature_dimensionality_{rank}": value for rank, value in features.items()}
    assert verdict("five-features", {20_000: 1.0}, **columns) == expected


def test_examples_give_way_to_features():
    sizes = {5: 1.0, 20_000: 1.0}
    assert verdict("exchange", sizes, feature_dimensionality_max=0.25) == "reproduced"
    assert verdict("exchange", sizes, feature_dimensionality_max=0.0) == "differs"
    assert verdict("exchange", {5: 1.0, 1_000: 1.0}, feature_dimensionality_max=0.25) == "inconclusive"


@pytest.mark.parametrize(("claim", "column"), [("norm-peak", "W_norm"), ("hidden-peak", "hidden_norm_max")])
def test_norms_are_largest_near_30(claim, column):
    assert verdict(claim, {30: 1.0, 2_000: 1.0}, **{column: 1.0}) == "reproduced"
    assert verdict(claim, {200: 1.0, 2_000: 1.0}, **{column: 1.0}) == "differs"


def test_twelve_more_datasets_of_ten_examples():
    groups = STUDY.groups("paper")
    assert {config.n_examples for config in groups[_MORE_AT_10]} == {10}
    assert len([config for config in groups[_EVERY_T] if config.n_examples == 10]) == 4
    assert len([config for config in STUDY.configs_up_to("paper") if config.n_examples == 10]) == 16


def test_infinite_data_at_the_papers_scale_has_batches_that_learn_features():
    of_infinite_data = [config for config in STUDY.configs_up_to("paper") if config.n_examples == "inf"]
    assert {config.batch_size for config in of_infinite_data} == {20_480}
    assert {config.batch_size for config in STUDY.configs_up_to("paper", 500_000)} == {TrainConfig(3).batch_size}
