"""The study of MNIST in a form that takes seconds, and its claims on tables whose answer is known."""

import dataclasses
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from byheart.datasets import idx_folder, mnist_5k
from byheart.studies import mnist, reproduce
from byheart.studies.mnist import STUDY, Network
from byheart.studies.readme import MARK, write_summary
from byheart.studies.study import judge, read_tables

N = 200


@pytest.fixture
def idx(tmp_path):
    """A folder with sixty images in the format of MNIST's 60,000."""
    data, folder = mnist_5k(), tmp_path / "sixty"
    folder.mkdir()
    images, labels = (255 * data.inputs[:60]).round().astype(np.uint8), data.labels[:60].astype(np.uint8)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        head = struct.pack(f">2xBB{array.ndim}I", 8, array.ndim, *array.shape)
        (folder / f"train-{name}-ubyte").write_bytes(head + array.tobytes())
    return folder


def few(scale: str, folder=None) -> dict[str, list[Network]]:
    """Two hundred images, few networks, and the folder."""
    own = [Network("MNIST", N, seed, n_models=5) for seed in (0, 1)]
    asked = mnist._groups(scale, folder)
    folder = "folder sixty, 60"
    return {f"MNIST, {N}": own, folder: asked[folder], mnist._BY_SIZE: [Network("MNIST", 50, 0), *own]}


@pytest.mark.slow
def test_the_study_runs_small_judges_every_claim_and_goes_on(idx, tmp_path):
    calls, out = [], tmp_path / "results" / "mnist"
    study = dataclasses.replace(STUDY, groups=few)
    verdicts = reproduce(study, "quick", str(out), folder=str(idx), n_workers=2, on_progress=calls.append)
    assert list(verdicts["claim"]) == [claim.id for claim in STUDY.claims]
    assert (calls[-1].n_finished, calls[-1].n_runs) == (9, 9)
    tables = read_tables(out.glob("*.csv"))
    pd.testing.assert_frame_equal(judge(STUDY, tables), tables["verdicts"])
    assert set(tables["by-size"]["n_examples"]) == {50, N}
    assert tables["by-size"]["largest"].max() <= 1 + 1e-9  # a leverage
    assert tables["by-epoch"]["epoch"].max() == 30
    assert set(tables["by-dataset"]["dataset"]) == {f"MNIST, {N}", "folder sixty, 60"}
    assert tables["cost"]["n_runs"].sum() == 9
    assert tables["cost"]["wall_hours"].min() > 0
    page = (out / "README.md").read_text(encoding="utf-8").split(MARK)[1]
    assert f"byheart reproduce mnist --scale quick --folder {idx}" in page
    assert f"2 on MNIST, {N}, 1 on folder sixty, 60; truth: 5 networks" in page
    for name in ("sorted", "images"):
        assert (out / f"{name}.png").stat().st_size > 10_000
    assert len(write_summary(tmp_path / "results")) == len(STUDY.claims)  # of a study without runs of the toy model
    records = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    pd.testing.assert_frame_equal(reproduce(study, "quick", out, folder=idx, n_workers=2), verdicts)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == records


def test_scales_differ_and_a_folder_is_a_dataset_of_its_own(idx):
    quick, medium, paper = (STUDY.groups_up_to(scale) for scale in ("quick", "medium", "paper"))
    assert list(quick) == ["MNIST, 5,000", "by size"]
    assert list(medium) == ["MNIST, 5,000", "Fashion-MNIST, 5,000", "by size"]
    assert list(paper) == ["MNIST, 5,000", "Fashion-MNIST, 5,000", "Fashion-MNIST, 60,000", "by size"]
    assert STUDY.groups_up_to("quick", folder=idx)["folder sixty, 60"] == [Network(idx, 60, 0)]
    assert {network.n_models for network in medium["MNIST, 5,000"]} == {48}
    assert {network.n_examples for network in medium["by size"]} == {500, 1_000, 2_000, 5_000}


def test_what_a_study_does_not_take_or_lacks_is_said(idx, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="max_examples: received 100 with mnist, accepted: with other studies"):
        reproduce("mnist", "quick", tmp_path, max_examples=100)
    with pytest.raises(
        ValueError, match="folder: received '.*sixty' with polygons, accepted: with mnist, text-memorization$"
    ):
        reproduce("polygons", "quick", tmp_path, folder=idx)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r'mnist needs torch: pip install "byheart\[audit\]"'):
        reproduce("mnist", "quick", tmp_path)


def table(n=5_000, seeds=2, **columns) -> pd.DataFrame:
    """Networks of which a tenth of the examples is memorized, with what is given instead of noise."""
    rng = np.random.default_rng(0)
    parts = []
    for seed in range(seeds):
        mem = (np.arange(n) < n / 10).astype(float)
        fixed = {"seed": seed, "n_examples": n, "n_models": 5, "label": np.arange(n) % 10}
        part = pd.DataFrame({**fixed, "example": np.arange(n), "mem": mem, "loss": 0.0, "mean_loss": 0.0})
        for epoch in (0, 1, 2, 5, 10, 30):
            part[f"D*_{epoch}"] = rng.uniform(0.5, 1.5, n)
            part[f"wrong_{epoch}"] = rng.random(n) < 0.05
        part["score"] = rng.random(n)
        for name, make in columns.items():
            part[name.replace("D_", "D*_")] = make(part)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def verdict(claim: str, examples: pd.DataFrame, **more: pd.DataFrame) -> str:
    """The verdict on the tables that the study makes of these examples."""
    groups = {f"MNIST, {len(examples):,}": examples, **more, mnist._BY_SIZE: examples}
    return next(c for c in STUDY.claims if c.id == claim).test(STUDY.tables(groups)).verdict


def test_claims_on_known_answers():
    noise = table()
    assert verdict("top-memorized", noise) == "differs"  # a tenth of the top is, as of all
    assert verdict("top-memorized", table(D_30=lambda p: 1 + p["mem"])) == "reproduced"
    assert verdict("weighted-tells", noise) == "differs"
    assert verdict("weighted-tells", table(score=lambda p: p["mem"])) == "reproduced"
    assert verdict("of-training", noise) == "reproduced"
    assert verdict("of-training", table(D_30=lambda p: p["D*_0"])) == "differs"
    assert verdict("errors-spread", noise) == "reproduced"
    unlike = table(wrong_1=lambda p: p["D*_1"] > 1.45)
    assert verdict("errors-spread", unlike) == "differs"
    assert verdict("errors-spread", noise, fashion=unlike) == "inconclusive"  # on one dataset only


def test_few_examples_cannot_have_far_outliers():
    far = {"D_30": lambda p: np.where(np.arange(len(p)) == 0, 90, 1.0)}
    assert verdict("outliers", table(**far)) == "inconclusive"
    assert verdict("outliers", table(n=60_000, seeds=1, **far)) == "reproduced"
    assert verdict("outliers", table(n=60_000, seeds=1)) == "differs"


def test_figures_are_of_the_tables_thinned_to_what_is_seen():
    examples = table(D_30=lambda p: np.arange(5_000, 0, -1.0))
    tables = STUDY.tables({"MNIST, 5,000": examples, mnist._BY_SIZE: examples})
    curves = tables["sorted"].groupby("curve", sort=False)
    assert list(curves.groups) == ["D* over its median", "D*", "final loss", "mean loss \N{MULTIPLICATION SIGN} D*"]
    assert curves.size().between(100, 200).all()
    assert (curves["share"].max() == 1).all()
    assert tables["sorted"]["value"].iloc[0] == pytest.approx(5_000 / 2_500.5)
    by_D = curves.get_group("D*")
    np.testing.assert_allclose(by_D["value"], np.minimum(1, 0.1 / by_D["share"]))  # the memorized have the largest
    shown = tables["images"]
    assert shown.groupby("row").size().tolist() == [12, 12, 12]
    assert shown["example"][:12].tolist() == list(range(12))
    figures = STUDY.figures(tables)
    assert set(figures) == {"sorted", "images"}
    left, right = figures["sorted"].figure.axes
    assert left.get_xlabel() == "share of training examples, largest D* first"
    assert [len(ax.get_legend_handles_labels()[1]) for ax in (left, right)] == [
        tables["by-dataset"]["dataset"].nunique(),
        4,
    ]
    assert all("seed 0" in shown.caption for shown in figures.values())


def test_a_folder_named_like_a_dataset_is_the_folder(idx, tmp_path, monkeypatch):
    (tmp_path / "MNIST").symlink_to(idx)
    monkeypatch.chdir(tmp_path)
    network, built_in = Network(Path("MNIST"), 60, 0), Network("MNIST", 60, 0)
    expected = idx_folder(idx)
    np.testing.assert_array_equal(mnist._load(network.dataset, 60).inputs, expected.inputs)
    assert network.on != built_in.on
    assert network.key != built_in.key
