"""The leaderboard on tasks of a few hundred examples: what it writes, that it goes on, and what it refuses."""

import dataclasses
import importlib.util
import sys

import clusters
import numpy as np
import pandas as pd
import pytest

from byheart.datasets import digits
from byheart.memorization import memorization
from byheart.studies import leaderboard as package
from byheart.studies.leaderboard import leaderboard, metrics
from byheart.studies.leaderboard import tables as tables_of_tasks
from byheart.studies.leaderboard.cost import cost_of_audit
from byheart.studies.leaderboard.detectors import detection_job, shares_of
from byheart.studies.leaderboard.page import MARK
from byheart.studies.leaderboard.scores import audit_job
from byheart.studies.leaderboard.tables import reported
from byheart.studies.leaderboard.tasks import TASKS, BagOfWords, ImageCNN, Task, TextCNN, bags_of_words, mlp, shifted

torch = pytest.importorskip("torch")
FAST = {"n_epochs": 60, "batch_size": 50, "learning_rate": 3e-3}


def first_digits():
    data = digits()
    return dataclasses.replace(data, inputs=data.inputs[:400], labels=data.labels[:400])


@pytest.fixture
def tasks(monkeypatch):
    """Two tasks on digits, one of which is the other's variant."""
    short = {"n_epochs": 30, "batch_size": 50}
    found = {
        "base": Task("base", first_digits, lambda: mlp(64, 10), 0.1, FAST),
        "base-stopped": Task("base-stopped", first_digits, lambda: mlp(64, 10), 0.1, short),
    }
    monkeypatch.setattr(package, "TASKS", found)
    monkeypatch.setattr(package, "_BASE", "base")
    monkeypatch.setattr(metrics, "N_RESAMPLES", 10)
    monkeypatch.setattr(package, "cost_of_audit", lambda: cost_of_audit(500))
    return found


@pytest.mark.slow
def test_tables_and_page_of_small_tasks(tasks, tmp_path, monkeypatch):
    monkeypatch.setattr(tables_of_tasks, "_SET_ASIDE", 5)
    table = leaderboard(tmp_path, n_models=10, n_seeds=1, n_workers=2)
    assert list(table)[:3] == ["task", "target", "score"]
    assert set(table["task"]) == {"base", "base-stopped"}
    assert {"memorized", "wrong label"} <= set(table["target"])
    assert table[table["target"] == "wrong label"]["score"].iloc[0] == "kernel_leave_one_out"  # no model: the first row
    assert table["auroc"].between(0, 1).all()
    wrong = table.query("task == 'base' and target == 'wrong label'").set_index("score")
    assert wrong.loc["other_class", "auroc"] > 0.9
    page = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert MARK in page
    for name in ("rankings", "calibration", "tasks", "follows", "cost", "held-out-runs", "provenance"):
        assert f"[{name}]({name}.csv)" in page
        assert len(pd.read_csv(tmp_path / f"{name}.csv"))
    (tmp_path / "README.md").write_text(f"# Mine\n\n{MARK}\nold", encoding="utf-8")
    files = sorted((tmp_path / "runs").rglob("*"))
    times = [file.stat().st_mtime_ns for file in files if file.is_file()]
    provenance = pd.read_csv(tmp_path / "provenance.csv")
    assert provenance["n_runs"].sum() == 2 * (10 + 1 + 1)  # of the truth, held out, audited
    assert "torch" in provenance
    again = leaderboard(tmp_path, n_models=10, n_seeds=1, n_workers=2)  # nothing is trained again
    assert [file.stat().st_mtime_ns for file in files if file.is_file()] == times
    pd.testing.assert_frame_equal(again, table)
    assert (tmp_path / "README.md").read_text(encoding="utf-8").startswith("# Mine")


@pytest.mark.integrations
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Dask's own
def test_a_cluster_trains_and_audits_and_the_same_call_goes_on_here(tasks, tmp_path, monkeypatch):
    cluster = pytest.importorskip("byheart.cluster")
    pytest.importorskip("distributed")
    import cloudpickle

    monkeypatch.setattr(tables_of_tasks, "_SET_ASIDE", 5)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # which no worker has
    out, options = tmp_path / "out", {"n_models": 10, "n_seeds": 1}
    try:
        with clusters.cluster(tmp_path) as processes, cluster.connected(processes.address) as executor:
            there = leaderboard(out, ["base"], executor=executor, **options)
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert len(times) == 10 + 1 + 1  # of the truth, held out, audited
    assert set(there["task"]) == {"base"}
    pd.testing.assert_frame_equal(leaderboard(out, ["base"], n_workers=1, **options), there)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == times


def test_a_job_is_of_its_data_and_settings(tasks):
    jobs = [audit_job(task, seed) for task in tasks.values() for seed in (0, 1)]
    assert [job.key for job in jobs] == 2 * ["audit-0", "audit-1"]
    assert all(job.all_cores for job in jobs)  # what is timed has the machine to itself
    assert len({tuple(job.identity.values()) for job in jobs}) == 4
    assert jobs[0].identity["dataset"] == jobs[2].identity["dataset"]


def test_too_few_models_are_refused_before_any_is_trained(tmp_path):
    with pytest.raises(ValueError, match="n_models: received 4, accepted: at least 5"):
        leaderboard(tmp_path, n_models=4)


def test_a_task_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"tasks: received 'mnist', accepted: mnist-mlp, mnist-cnn"):
        leaderboard(tmp_path, ["mnist"])


def test_the_reported_half_is_fixed_and_half():
    assert reported(5_000).sum() == 2_500
    np.testing.assert_array_equal(reported(101), reported(101))


def test_the_tasks_are_those_asked_for():
    names = set(TASKS)
    for data in ("mnist", "mnist-wrong", "fashion", "fashion-wrong", "verses"):
        assert {f"{data}-mlp", f"{data}-cnn"} <= names
    assert {f"fashion-wrong-mlp-{how}" for how in ("decay", "augmented", "stopped")} <= names


def test_networks_answer_with_a_logit_per_class():
    images, words = torch.rand(3, 28, 28), torch.tensor([[1, 5, -1], [2, -1, -1], [2_257, 0, 1]])
    assert ImageCNN()(images).shape == mlp(784, 10)(images).shape == (3, 10)
    assert TextCNN(6)(words).shape == mlp(3_000, 6)(words).shape == (3, 6)


def test_bags_count_words_and_leave_the_end_out():
    found = bags_of_words(np.array([[1, 1, 0, -1], [-1, -1, -1, -1]]))
    assert found[0, :2].tolist() == [1, 2]
    assert found.sum() == 3
    assert BagOfWords()(torch.tensor([[4, -1]]))[0, 4] == 1


def test_shifted_images_are_moved_whole():
    image = torch.zeros(1, 28, 28)
    image[0, 10:14, 10:14] = torch.rand(4, 4)
    torch.manual_seed(0)
    moved = shifted(image.expand(50, 28, 28))
    places = moved.flatten(1).argmax(dim=1)
    assert torch.equal(moved.flatten(1).sort(dim=1).values, image.flatten().sort().values.expand(50, -1))
    assert 5 < len(places.unique()) <= 25


@pytest.mark.slow
def test_detectors_beside_each_other(monkeypatch):
    if importlib.util.find_spec("pytorch_ood") is None:
        pytest.skip("pytorch-ood is not installed")
    monkeypatch.setattr("byheart.studies.leaderboard.detectors._N_TRAIN", 600)
    monkeypatch.setattr("byheart.studies.leaderboard.detectors._N_OTHER", 100)
    mnist = TASKS["mnist-mlp"].data()
    few = dataclasses.replace(mnist, inputs=mnist.inputs[:800], labels=mnist.labels[:800])
    monkeypatch.setattr(
        "byheart.studies.leaderboard.detectors.fashion_mnist", lambda n: mnist
    )  # its package may be missing
    task = Task("few", lambda: few, lambda: mlp(784, 10), 0.0, FAST)
    correct = np.random.default_rng(0).random((8, 800)) < 0.5
    inside = np.arange(8)[:, None] % 2 == np.arange(800) % 2
    mem = memorization(correct.astype(float), inside).mem
    job = detection_job(task, mem, 0)
    table = shares_of(job.compute(*job.args, n_threads=None, report=None))
    assert set(table["detector"]) == {
        "byheart, log", "byheart, log and held-out run", "Mahalanobis", "KNN", "ViM", "Energy", "MaxSoftmax"
    }  # fmt: skip
    assert table["flagged"].between(0, 1).all()
    ordinary = table[table["inputs"].str.startswith("ordinary")]
    assert (ordinary["flagged"] < 0.25).all()
    assert table["right_first"].notna().sum() == 4
    assert detection_job(task, mem, 0).identity == job.identity
    assert detection_job(task, 1 - mem, 0).identity != job.identity
