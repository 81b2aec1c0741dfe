"""Counterfactual models: what they say of planted wrong labels, and that nothing finished is lost."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from byheart.memorization import balanced_subsets
from byheart.network.counterfactual import Counterfactual, CounterfactualError, counterfactual
from byheart.network.fit import Fit, margins_of, recorded
from byheart.network.log import TrainingLog


def blobs(n: int = 60, wrong: tuple[int, ...] = (4, 21)) -> tuple[np.ndarray, np.ndarray]:
    """Three clusters in fifty dimensions; some examples have another cluster's label."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    inputs = (rng.normal(size=(3, 50))[labels] + rng.normal(size=(n, 50)) * 0.7).astype(np.float32)
    labels[list(wrong)] = (labels[list(wrong)] + 1) % 3
    return inputs, labels


def nearest(data):
    """A model that knows by heart what it saw: 1 where it was seen, else 1 if the nearest seen example agrees."""

    def fit(indices, seed):
        inputs, labels = data
        distances = np.square(inputs[:, None] - inputs[indices]).sum(axis=2)
        answers = labels[indices][distances.argmin(axis=1)]
        return np.where(answers == labels, 1.0, -1.0)

    return fit


def test_wrong_labels_are_memorized_and_right_ones_are_not(tmp_path):
    data = blobs()
    model = nn.Sequential(nn.Linear(50, 64), nn.ReLU(), nn.Linear(64, 3))
    found = counterfactual(Fit(model, *data, n_epochs=100, batch_size=20, learning_rate=3e-3), data, 20, store=tmp_path)
    mem = found.memorization.mem
    assert mem[[4, 21]].min() > 0.9
    assert np.delete(mem, [4, 21]).mean() < 0.1
    assert np.corrcoef(found.smoothed.mem, mem)[0, 1] > 0.9
    np.testing.assert_allclose(np.diag(found.influence()[0]), mem)


def test_margins_are_the_models(tmp_path):
    data = blobs()
    fit = Fit(nn.Sequential(nn.Linear(50, 3)), *data, n_epochs=2)
    found = counterfactual(fit, data, 5, store=tmp_path, seed=3, n_workers=1)
    model = fit(np.flatnonzero(found.train_mask[2]), 5)
    np.testing.assert_allclose(found.margins[2], margins_of(model, data))
    np.testing.assert_array_equal(found.train_mask, balanced_subsets(60, 5, 0.6, 3))
    right = model(torch.tensor(data[0])).argmax(1).numpy() == data[1]
    np.testing.assert_array_equal(found.margins[2] > 0, right)


def test_the_same_call_goes_on_where_it_stopped(tmp_path):
    data, calls = blobs(), []

    def fit(indices, seed):
        calls.append(seed)
        if seed == 3 and len(calls) < 8:
            raise RuntimeError("out of luck")
        return nearest(data)(indices, seed)

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(
            CounterfactualError, match=r"1 model\(s\) failed; the first, 3: RuntimeError: out of luck"
        ) as error:
            counterfactual(fit, data, 5, store=tmp_path, executor=pool)
        assert error.value.finished is not None
        np.testing.assert_array_equal(error.value.finished.train_mask, balanced_subsets(60, 5, fewest=0)[[0, 1, 2, 4]])
        assert len(list(tmp_path.glob("model-*"))) == 4
        calls.extend([-1] * 8)
        counterfactual(fit, data, 5, store=tmp_path, executor=pool)
        assert calls[13:] == [3]
        before = len(calls)
        progress = []
        more = counterfactual(
            fit, data, 10, store=tmp_path, executor=pool, on_progress=lambda done, of: progress.append((done, of))
        )
        assert len(calls) == before + 5
        assert progress[-1] == (10, 10)
    assert more.margins.shape == (10, 60)


def test_an_interrupt_keeps_what_is_finished(tmp_path):
    data, started = blobs(), threading.Event()

    def progress(done, of):
        if done >= 2:
            raise KeyboardInterrupt

    def fit(indices, seed):
        started.wait(0.2)
        return nearest(data)(indices, seed)

    with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt):
        counterfactual(fit, data, 10, store=tmp_path, executor=pool, on_progress=progress)
    assert 2 <= len(list(tmp_path.glob("model-*"))) < 10
    assert not list(tmp_path.glob(".*"))


def test_the_same_seed_gives_the_same_weights_and_leaves_the_random_state():
    data = blobs()
    fit = Fit(nn.Sequential(nn.Linear(50, 3)), *data, n_epochs=1)
    state = torch.get_rng_state()
    logs = TrainingLog(60), TrainingLog(60)
    first, second = (fit(np.arange(60), 7, log) for log in logs)
    assert torch.equal(first[0].weight, second[0].weight)
    assert not torch.equal(first[0].weight, fit(np.arange(60), 8)[0].weight)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(logs[0].mean_loss, logs[1].mean_loss)


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_epochs": 0}, "n_epochs: received 0"),
        ({"batch_size": 0}, "batch_size: received 0"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"model": Odd()}, "received Odd without reset_parameters"),
        ({"labels": np.zeros(60)}, "labels: received float64, accepted: integers"),
        ({"labels": np.zeros(3)}, "inputs, labels: received 60 and 3"),
        ({"model": nn.Sequential}, "model: received <class .*accepted: a torch module"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    inputs, labels = blobs()
    settings = {"model": nn.Sequential(nn.Linear(50, 3)), "inputs": inputs, "labels": labels} | options
    with pytest.raises(ValueError, match=message):
        Fit(**settings)


def test_other_settings_need_another_store(tmp_path):
    inputs, labels = blobs()
    model = nn.Sequential(nn.Linear(50, 3))
    with ThreadPoolExecutor(1) as pool:
        counterfactual(Fit(model, inputs, labels, 1), (inputs, labels), 1, store=tmp_path, executor=pool)
        for other in (
            Fit(model, inputs, labels, 2),
            Fit(nn.Sequential(nn.Linear(50, 3), nn.ReLU()), inputs, labels, 1),
        ):
            with pytest.raises(ValueError, match="of other settings of Fit, accepted"):
                counterfactual(other, (inputs, labels), 1, store=tmp_path, executor=pool)


@pytest.mark.parametrize(
    ("mask", "margins", "message"),
    [
        (np.ones(4, bool), np.ones(4), r"train_mask: received bool of shape \(4,\)"),
        (np.ones((1, 4), int), np.ones((1, 4)), "train_mask: received int64"),
        (np.ones((1, 4), bool), np.ones((1, 5)), r"margins: received shape \(1, 5\), accepted: finite"),
        (np.ones((1, 4), bool), np.full((1, 4), np.nan), "margins: received numbers that are not finite"),
    ],
)
def test_other_runs_of_ones_own_are_refused(mask, margins, message):
    with pytest.raises(ValueError, match=message):
        Counterfactual(mask, margins)


def test_nonsense_is_refused(tmp_path):
    data = blobs()
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(CounterfactualError, match=r"shape \(3,\)"):
            counterfactual(lambda i, s: np.zeros(3), data, 5, store=tmp_path / "a", executor=pool)
        with pytest.raises(CounterfactualError, match="received a function that returns nothing, accepted: one that"):
            counterfactual(lambda i, s: None, data, 5, store=tmp_path / "a", executor=pool)
        with pytest.raises(CounterfactualError, match="not finite"):
            counterfactual(lambda i, s: np.full(60, np.nan), data, 5, store=tmp_path / "a", executor=pool)
        counterfactual(nearest(data), data, 5, store=tmp_path / "a", executor=pool)
        with pytest.raises(ValueError, match="of other subset, seed, accepted: an empty directory"):
            counterfactual(nearest(data), data, 5, store=tmp_path / "a", seed=1, executor=pool)
        with pytest.raises(ValueError, match="of other targets, accepted: an empty directory"):
            counterfactual(nearest(data), blobs(wrong=()), 5, store=tmp_path / "a", executor=pool)
        path = tmp_path / "a" / "model-0001.safetensors"
        path.write_bytes(path.read_bytes()[:-8])
        with pytest.raises(ValueError, match="a whole file"):
            counterfactual(nearest(data), data, 5, store=tmp_path / "a", executor=pool)
    with pytest.raises(ValueError, match="n_workers"):
        counterfactual(nearest(data), data, 5, store=tmp_path / "b", n_workers=0)
    with pytest.raises(ValueError, match="without a length"):
        counterfactual(nearest(data), iter([]), 5, store=tmp_path / "b")


def test_a_record_says_what_made_it_and_how_long_it_took():
    before = torch.get_num_threads()
    try:
        with recorded(1) as header:
            assert torch.get_num_threads() == 1
            header["more"] = "words"
    finally:
        torch.set_num_threads(before)
    made_by = json.loads(header["provenance"])
    assert (made_by["n_threads"], header["more"]) == (1, "words")
    assert {"byheart", "git_revision", "numpy", "torch", "device", "started"} <= set(made_by)
    assert made_by["wall_seconds"] >= 0


def test_a_subset_is_as_long_as_it_is(tmp_path):
    inputs, labels = blobs()
    whole = TensorDataset(torch.tensor(inputs), torch.tensor(labels))
    asked = []

    def fit(indices, seed):
        asked.extend(indices)
        return np.ones(40)

    with ThreadPoolExecutor(1) as pool:
        for dataset in (Subset(whole, range(40)), DataLoader(Subset(whole, range(40)), batch_size=7)):
            found = counterfactual(fit, dataset, 5, store=tmp_path, executor=pool)
            assert found.margins.shape == (5, 40)
    assert max(asked) < 40


def test_it_says_how_many_models_there_are_and_what_they_know():
    inside = np.array([[True, False], [False, True]] * 4)
    found = Counterfactual(inside, np.where(inside, 1.0, [-1.0, 1.0]))  # the first example is known by heart
    assert repr(found).startswith(
        "Counterfactual: models 8; examples 2, 50% of them in each training set; right on examples trained on 100.0%;"
        " on others 50.0%; memorization Underpowered"
    )
    assert found._repr_html_().startswith("<table><tr><th>models</th><td>8</td></tr>")
    alone = repr(Counterfactual(inside[:1], np.ones((1, 2))))
    assert "memorization unknown (" in alone


def test_copies_are_in_or_out_together_unless_one_says_otherwise(tmp_path):
    rng = np.random.default_rng(0)
    inputs, labels = rng.normal(size=(60, 30)).astype(np.float32), np.arange(60) % 2
    inputs[[7, 50]] = inputs[3]

    def fit(indices, seed):
        return np.ones(60)

    together = counterfactual(fit, (inputs, labels), 10, store=tmp_path / "a", n_workers=1).train_mask
    assert (together[:, [7, 50]] == together[:, [3]]).all()
    alone = counterfactual(fit, (inputs, labels), 10, store=tmp_path / "b", groups=False, n_workers=1).train_mask
    np.testing.assert_array_equal(alone, balanced_subsets(60, 10, fewest=0))
    own = np.arange(60) // 2
    found = counterfactual(fit, (inputs, labels), 10, store=tmp_path / "c", groups=own, n_workers=1).train_mask
    assert (found[:, ::2] == found[:, 1::2]).all()
    for groups in (np.arange(60) // 20, np.arange(59), np.ones(60)):
        with pytest.raises(ValueError, match="groups: received"):
            counterfactual(fit, (inputs, labels), 10, store=tmp_path / "d", groups=groups, n_workers=1)
