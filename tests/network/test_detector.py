"""The detector: its rate of false positives, near-duplicates of what was planted, and what it refuses."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import byheart as bh


def blobs(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, 3, n)
    centres = np.eye(3, 20) * 4
    return (centres[labels] + rng.normal(size=(n, 20))).astype(np.float32), labels.astype(np.int64)


@pytest.fixture(scope="module")
def memorizing():
    """A network that has twelve wrong labels by heart, and which these are."""
    rng = np.random.default_rng(0)
    x, y = blobs(300, rng)
    wrong = np.arange(12)
    y[wrong] = (y[wrong] + 1) % 3
    fit = bh.Fit(nn.Sequential(nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 3)), x, y, 100, 20, 3e-3)
    log = bh.TrainingLog(300)
    model = fit(np.arange(300), 0, log)
    audit = bh.audit(model, (x, y), log=log)
    assert (audit.table["prediction"] == y).all()
    return audit, x, wrong, model


def test_ordinary_inputs_are_flagged_at_the_rate_that_was_asked_for(memorizing):
    audit, _, _, model = memorizing
    rng = np.random.default_rng(1)
    for rate in (0.05, 0.3):
        detector = audit.detector(model, blobs(1_000, rng)[0], rate)
        found = detector(blobs(2_000, rng)[0])
        assert found["flagged"].mean() == pytest.approx(rate, abs=0.03)
        assert (found["p_value"] <= rate).mean() == pytest.approx(rate, abs=0.03)
        assert (found["flagged"] == (found["p_value"] <= rate)).mean() > 0.99


def test_near_duplicates_of_wrong_labels_are_found_and_explained(memorizing):
    audit, x, wrong, model = memorizing
    rng = np.random.default_rng(2)
    near = x[wrong] + 0.05 * rng.normal(size=(len(wrong), 20)).astype(np.float32)
    detector = audit.detector(model, blobs(500, rng))
    found = detector(torch.tensor(near))
    assert found["flagged"].mean() > 0.8
    assert (found["example"] == wrong).mean() > 0.9
    why = detector.explain(near, n=3)
    first = why.groupby("input").first()
    assert (first["example"] == wrong).mean() > 0.9
    assert (why["label"] == why["prediction"]).all()
    np.testing.assert_array_equal(why["score"], audit.table["score"][why["example"]])
    assert why.groupby("input")["share"].sum().max() <= 1 + 1e-9
    assert (why.groupby("input").size() <= 3).all()


def test_nonsense_is_refused(memorizing):
    audit, _, _, model = memorizing
    x = blobs(30, np.random.default_rng(0))[0]
    with pytest.raises(ValueError, match="received 1.5, accepted: between 0 and 1"):
        audit.detector(model, x, 1.5)
    with pytest.raises(ValueError, match="received 10 inputs, accepted: at least 19"):
        audit.detector(model, x[:10])
    detector = audit.detector(model, x)
    for call in (detector, detector.explain):
        for nothing in (x[:0], np.array(1.0)):
            with pytest.raises(ValueError, match="inputs: received none"):
                call(nothing)
        with pytest.raises(ValueError, match="the model raises RuntimeError: mat1 and mat2"):
            call(x[:, :3])
        with pytest.raises(ValueError, match=r"outputs of shape \(20, 3\)|accepted: a batch|mat1 and mat2"):
            call(x[0])
    regression = nn.Sequential(nn.Linear(20, 1))
    with pytest.raises(ValueError, match="accepted: one of a classifier"):
        bh.audit(regression, (x, x[:, 0]), loss="mse").detector(regression, x)


def test_another_network_is_refused(memorizing):
    audit, x, _, model = memorizing
    trained_on = copy.deepcopy(model)
    trained_on[2].bias.data[0] += 1e-6
    wider = nn.Sequential(nn.Linear(20, 130), nn.ReLU(), nn.Linear(130, 3))
    for other in (trained_on, wider, x):
        with pytest.raises(ValueError, match="model: received a .* that is not the audited network, accepted: the one"):
            audit.detector(other, x)
    audit.detector(copy.deepcopy(model), x)


def test_an_audit_without_what_a_detector_needs_says_so(memorizing):
    _, x, _, model = memorizing
    small = bh.audit(model, (x, np.zeros(300, np.int64)), detector=False)
    assert small.carriers is None
    with pytest.raises(ValueError, match="made with detector=False"):
        small.detector(model, x)
    known_to_all = bh.Counterfactual(np.arange(300)[None] < 200, np.ones((1, 300)))
    nothing = bh.audit(model, (x, np.zeros(300, np.int64)), held_out=known_to_all)
    none = dataclasses.replace(nothing.carriers, examples=np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="no example counts as memorized"):
        dataclasses.replace(nothing, carriers=none).detector(model, x)


def test_a_layer_wider_than_the_data_carries_as_written_out(tmp_path):
    x, y = blobs(60, np.random.default_rng(4))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 200), nn.ReLU(), nn.Linear(200, 3))
    bh.audit(model, (x, y)).save(tmp_path / "audit.safetensors")
    audit = bh.Audit.load(tmp_path / "audit.safetensors")
    found = audit.detector(model, x + 1)(x)
    with torch.no_grad():
        Z = model[:2](torch.tensor(x)).double().numpy()
    moment = Z.T @ Z
    ridge = 1e-3 * np.trace(moment) / 200 * np.eye(200)
    weights = np.minimum(audit.table["score"].rank(pct=True).to_numpy() / 0.9, 1) ** 10
    carried = np.maximum(Z @ np.linalg.solve(moment + ridge, Z.T), 0) * np.where(weights > 1e-3, weights, 0)
    carried *= y == found["prediction"].to_numpy()[:, None]
    np.testing.assert_allclose(found["score"], carried.max(axis=1), rtol=1e-6)


def test_a_detector_of_a_network_that_was_trained_on_is_refused(memorizing):
    audit, x, _, model = memorizing
    model = copy.deepcopy(model)
    detector = audit.detector(model, blobs(500, np.random.default_rng(3))[0])
    detector(x[:5])
    with torch.no_grad():
        model[2].bias[0] += 1e-3
    for use in (detector, detector.explain):
        with pytest.raises(
            ValueError, match="not the audited network, accepted: the one that was audited, with the same"
        ):
            use(x[:5])


def test_a_number_of_explanations_below_one_is_refused(memorizing):
    audit, x, _, model = memorizing
    detector = audit.detector(model, blobs(500, np.random.default_rng(3))[0])
    with pytest.raises(ValueError, match="n: received -1, accepted: at least 1"):
        detector.explain(x[:5], n=-1)


def test_one_input_without_an_axis_of_examples_is_refused_with_the_way_out(memorizing):
    audit, x, _, model = memorizing
    detector = audit.detector(model, blobs(100, np.random.default_rng(3))[0])
    assert len(detector(x[0][None])) == 1
    with pytest.raises(ValueError, match=r"of one input x, x\[None\]"):
        detector(x[0])
    y = np.arange(300) % 2
    one = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 1))
    detector = bh.audit(one, (x, y)).detector(one, x)
    assert len(detector(x[0][None])) == 1
    with pytest.raises(ValueError, match=r"of one input x, x\[None\]"):
        detector(x[0])


def test_what_is_not_finite_in_a_new_input_is_said_to_be_there(memorizing):
    audit, x, _, model = memorizing
    new = x[:20].copy()
    new[4, 2] = np.nan
    detector = audit.detector(model, blobs(100, np.random.default_rng(3))[0])
    with pytest.raises(ValueError, match="inputs: received nan in column 2 of example 4, accepted: finite"):
        detector(new)
