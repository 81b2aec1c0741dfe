"""The log of losses: averages, and what it refuses."""

import json

import numpy as np
import pytest
import torch

from byheart.network.log import TrainingLog


def test_batches_in_any_order_are_averaged():
    rng = np.random.default_rng(0)
    losses = rng.random((5, 20))
    log = TrainingLog(20)
    for epoch in losses:
        order = rng.permutation(20)
        for batch in np.array_split(order, 3):
            log.record(torch.tensor(batch), torch.tensor(epoch[batch], requires_grad=True))
    np.testing.assert_allclose(log.mean_loss, losses.mean(axis=0))
    np.testing.assert_allclose(TrainingLog.from_losses(losses).mean_loss, losses.mean(axis=0))
    assert (log.counts == 5).all()


def test_an_example_twice_in_a_batch_counts_twice():
    log = TrainingLog(1)
    log.record([0, 0], [1.0, 3.0])
    assert log.mean_loss.tolist() == [2]


def test_a_data_map_is_read(tmp_path):
    logits = np.random.default_rng(0).normal(size=(2, 3, 4))
    for epoch in range(2):
        order = [2, 0, 1] if epoch else [0, 1, 2]
        lines = [
            json.dumps({"guid": f"x{i}", f"logits_epoch_{epoch}": logits[epoch, i].tolist(), "gold": i}) for i in order
        ]
        (tmp_path / f"dynamics_epoch_{epoch}.jsonl").write_text("\n".join(lines))
    log = TrainingLog.from_data_map(sorted(tmp_path.iterdir()))
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits).reshape(6, 4), torch.tensor([0, 1, 2] * 2), reduction="none"
    )
    np.testing.assert_allclose(log.mean_loss, expected.reshape(2, 3).mean(0).numpy())
    (tmp_path / "dynamics_epoch_1.jsonl").write_text('{"guid": "x0"}')
    with pytest.raises(ValueError, match="line 1"):
        TrainingLog.from_data_map(sorted(tmp_path.iterdir()))


ROWS = [{"guid": f"id {i}", "logits_epoch_0": [0.1 * i, 1.0, -1.0], "gold": i % 3} for i in range(5)]


def lines(rows=ROWS, **options):
    return "".join(json.dumps(row, **options) + "\n" for row in rows)


def with_guids(character):
    return lines([row | {"guid": f"{character}{i}"} for i, row in enumerate(ROWS)], ensure_ascii=False)


@pytest.mark.parametrize(
    "text",
    [
        lines().replace("\n", "\r\n"),
        lines().rstrip("\n"),
        "\ufeff" + lines(),
        lines() + "\n \n",
        lines().replace("\n", "\n\n", 1),
        with_guids("\u2028"),
        with_guids("\x85"),
        with_guids("\x1e"),
        with_guids("\u00e9"),
    ],
)
def test_a_data_map_is_read_as_other_programs_write_it(tmp_path, text):
    (tmp_path / "a.jsonl").write_bytes(text.encode())
    logits = torch.tensor([row["logits_epoch_0"] for row in ROWS], dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(logits, torch.arange(5) % 3, reduction="none")
    np.testing.assert_allclose(TrainingLog.from_data_map([tmp_path / "a.jsonl"]).mean_loss, expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lines([ROWS[0] | {"gold": -1}]), "a.jsonl, line 1: received gold -1 with logits .*, accepted"),
        (lines([ROWS[0] | {"gold": 3}]), "line 1: received gold 3"),
        (lines([ROWS[0] | {"gold": 0.5}]), "line 1: received .*, accepted: an object with guid"),
        (lines([ROWS[0] | {"guid": [1]}]), "line 1: received .*, accepted: an object with guid"),
        (lines([ROWS[0] | {"logits_epoch_0": [float("nan"), 1]}]), "line 1: received gold 0 with logits .nan"),
        (lines([ROWS[0] | {"logits_epoch_0": [[1, 2]]}]), "line 1: received gold 0"),
        ("\n" + lines() + lines(ROWS[:1]), "line 7: received guid 'id 0' again, accepted: each once"),
        ("[1]\n", "line 1: received .*, accepted: an object"),
        ("\n\n", "a.jsonl: received no examples"),
    ],
)
def test_a_data_map_with_a_fault_is_refused_by_line(tmp_path, text, message):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        TrainingLog.from_data_map([tmp_path / "a.jsonl"])
    assert "\n" not in str(error.value)


def test_a_data_map_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(with_guids("\u00e9").encode("latin-1"))
    with pytest.raises(ValueError, match="a.jsonl: received bytes that are no text .*, accepted: UTF-8"):
        TrainingLog.from_data_map([tmp_path / "a.jsonl"])


def test_losses_come_in_every_container():
    values = np.arange(6.0).reshape(2, 3)
    for losses in (
        values.tolist(),
        torch.tensor(values, requires_grad=True),
        values[:, ::-1][:, ::-1],
        values.astype(">f4"),
    ):
        np.testing.assert_array_equal(TrainingLog.from_losses(losses).mean_loss, values.mean(axis=0))
    log = TrainingLog(3)
    log.record(np.array([2, 0], np.uint16), torch.tensor([1.0, 2.0], requires_grad=True).bfloat16())
    log.record(torch.tensor([1]), [3])
    assert log.mean_loss.tolist() == [2, 3, 1]
    with pytest.raises(ValueError, match="losses: received words"):
        log.record([0], ["high"])


@pytest.mark.parametrize(
    ("indices", "losses", "message"),
    [
        ([0, 1], [1.0], "shapes"),
        ([0], 1.0, "reduction"),
        ([0.5], [1.0], "float64"),
        ([3], [1.0], "accepted: 0 to 2"),
        ([-1], [1.0], "accepted: 0 to 2"),
        ([1], [float("nan")], "nan of example 1"),
    ],
)
def test_nonsense_is_refused(indices, losses, message):
    log = TrainingLog(3)
    with pytest.raises(ValueError, match=message):
        log.record(indices, losses)
    assert log.counts.sum() == 0


def test_examples_that_were_never_recorded_are_named():
    log = TrainingLog(3)
    log.record([0], [1.0])
    with pytest.raises(ValueError, match=r"2 of 3 examples \(the first: 1\)"):
        _ = log.mean_loss
    with pytest.raises(ValueError, match="at least 1"):
        TrainingLog(0)
