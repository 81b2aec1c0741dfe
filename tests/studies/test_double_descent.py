"""The double-descent study: its sizes, and its claims on runs whose answer is known."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from byheart.studies import STUDIES, judge, reproduce
from byheart.studies.study import Scale
from byheart.toy.config import TrainConfig
from byheart.toy.figures import paper_reference
from byheart.toy.runs import Run, Runs, open_runs

STUDY = STUDIES["double-descent"]
PENTAGON = np.stack([np.cos(2 * np.pi * np.arange(5) / 5), np.sin(2 * np.pi * np.arange(5) / 5)], axis=1)


def polygon(n: int, radius: float = 1.0) -> np.ndarray:
    angles = 2 * np.pi * np.arange(n) / n
    return (radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)).astype(np.float32)


def made_up_runs(directory, losses: dict[int, float], hidden=polygon, spread: float = 1e-3, study=STUDY) -> Runs:
    """Runs at the paper's setup with chosen test losses, whose examples form polygons and whose features are noise.

    The largest feature dimensionality that is said of them is the paper's.
    """
    largest = paper_reference().set_index("n_examples")["feature_dim_max"]
    for config in study.configs("paper"):
        if config.n_examples not in losses:
            continue
        loss = losses[config.n_examples] + spread * (config.seed % 4 - 1.5)
        loss /= config.n_features if config.reduction == "mean" else 1
        W = np.random.default_rng(config.seed).normal(0, 0.001, (2, 10_000)).astype(np.float32)
        Run(
            config=dataclasses.replace(config, snapshot_steps=()),
            W=W,
            b=np.zeros(10_000, np.float32),
            hidden=hidden(config.n_examples),
            repeats=np.ones(config.n_examples, np.int64),
            history={"step": np.zeros(1)},
            metrics={
                "train_loss": 0.0,
                "test_loss": loss,
                "W_norm": 1.0,
                "b_norm": 1.0,
                "example_dimensionality_mean": 2 / config.n_examples,
                "n_features_represented": 0.0,
                "feature_dimensionality_max": float(largest.get(config.n_examples, 0.0)),
            },
        ).save(directory)
    return open_runs(directory)


def verdict(runs: Runs, claim: str) -> str:
    table = judge(STUDY, runs).set_index("claim")
    return str(table.loc[claim, "verdict"])


@pytest.mark.parametrize(("scale", "at_least", "n_features"), [("quick", 12, 1_000), ("paper", 16, 10_000)])
def test_every_scale_has_four_seeds_of_each_size(scale: Scale, at_least: int, n_features: int):
    configs = STUDY.configs(scale)
    sizes = {c.n_examples for c in configs}
    assert len(sizes) >= at_least
    assert all({c.seed for c in configs if c.n_examples == size} >= {0, 1, 2, 3} for size in sizes)
    assert {c.n_features for c in configs} == {n_features}


def test_the_paper_scale_is_the_papers_setup():
    default = TrainConfig(3)
    for config in STUDY.configs("paper"):
        same = dataclasses.replace(config, n_examples=3, seed=0, snapshot_steps=())
        assert same == default
        assert (config.n_steps, config.warmup_steps, config.learning_rate) == (50_000, 2_500, 1e-3)


def test_a_bump_is_found_and_its_absence_too(tmp_path):
    bump = made_up_runs(tmp_path / "bump", {30: 1.0, 100: 1.0, 2_000: 1.5, 20_000: 0.99})
    assert verdict(bump, "bump") == "reproduced"
    falling = made_up_runs(tmp_path / "falling", {30: 1.5, 100: 1.2, 2_000: 1.0, 20_000: 0.99})
    assert verdict(falling, "bump") == "differs"
    noisy = made_up_runs(tmp_path / "noisy", {30: 1.0, 2_000: 1.01, 20_000: 0.99}, spread=0.5)
    assert verdict(noisy, "bump") == "inconclusive"


@pytest.mark.parametrize("study", [STUDY, STUDIES["double-descent-averaged"]], ids=["summed", "averaged"])
def test_the_paper_itself_would_be_reproduced(tmp_path, study):
    losses = {5: 1.0, 100: 1.0031, 500: 1.0004, 1_000: 1.0006, 2_000: 1.015, 5_000: 0.9994, 10_000: 0.9989}
    losses |= {20_000: 0.9988}
    runs = made_up_runs(tmp_path, losses, spread=1e-5, study=study)
    claims = ("bump", "peak-height", "generalising-onset", "middle-onset", "test-loss-5", "test-loss-20000")
    for claim in (*claims, "largest-feature"):
        assert verdict(runs, claim) == "reproduced", claim


def test_jermyns_replication_would_differ(tmp_path):
    losses = {50: 1.005, 100: 2.0, 1_000: 500.0, 5_000: 5_000.0, 10_000: 100.0, 20_000: 0.9988}
    runs = made_up_runs(tmp_path, losses, spread=1e-5)
    for claim in ("peak-height", "generalising-onset", "middle-onset"):
        assert verdict(runs, claim) == "differs", claim


def test_polygons_are_told_from_two_circles(tmp_path):
    def two_circles(n: int) -> np.ndarray:
        hidden = polygon(n, 4.6)
        hidden[:2] *= 0.2
        return hidden

    regular = made_up_runs(tmp_path / "regular", {5: 1.0, 10: 1.0}, lambda n: polygon(n, 2.29))
    irregular = made_up_runs(tmp_path / "irregular", {5: 1.0, 10: 1.0}, two_circles)
    for claim in ("pentagon", "decagon", "m-over-T"):
        assert verdict(regular, claim) == "reproduced", claim
        assert verdict(irregular, claim) == "differs", claim


def test_the_study_runs_small_and_leaves_its_tables_and_figures(tmp_path):
    verdicts = reproduce(STUDY, "quick", tmp_path, max_examples=5)
    assert (verdicts.set_index("claim").loc["pentagon", "verdict"]) in ("reproduced", "inconclusive")
    tables = {"README.md", "runs.csv", "verdicts.csv", "cost.csv", "by-size.csv"}
    assert {p.name for p in tmp_path.iterdir()} == {"runs", "double-descent.png", "norms.png"} | tables
    assert pd.read_csv(tmp_path / "cost.csv")["n_runs"].sum() == 12
    assert len(pd.read_csv(tmp_path / "runs.csv")) == 12
