"""Copies: found whatever the batches, not found where there are none, in the units of the data."""

import numpy as np
import pytest
import torch

from byheart.network.copies import CopyFinder, groups_of_copies
from byheart.network.inputs import as_inputs

RNG = np.random.default_rng(0)
IMAGES = RNG.random((200, 8, 8)).astype(np.float32)
TEXTS = RNG.integers(0, 500, (200, 40))


def found(inputs, batch_size=64, labels=None):
    finder = CopyFinder(len(inputs))
    chunks = [np.arange(i, min(i + batch_size, len(inputs))) for i in range(0, len(inputs), batch_size)]
    for chunk in chunks:
        finder.look(inputs[chunk[0] : chunk[-1] + 1])
    for chunk in chunks:
        finder.add(inputs[chunk[0] : chunk[-1] + 1], chunk)
    return finder.finish(labels)


@pytest.mark.parametrize(
    "inputs", [IMAGES, IMAGES.reshape(200, -1), TEXTS, TEXTS[:, :5]], ids=["2d", "1d", "text", "few"]
)
@pytest.mark.parametrize("batch_size", [1, 7, 200])
def test_the_same_inputs_are_copies(inputs, batch_size):
    inputs = inputs.copy()
    inputs[[3, 150]] = inputs[9]
    copies, copy_of, notes = found(inputs, batch_size)
    assert np.flatnonzero(copies).tolist() == [3, 9, 150]
    assert copies[[3, 9, 150]].tolist() == [2, 2, 2]
    assert copy_of[[3, 9, 150]].tolist() == [9, 3, 3]
    assert (copy_of[copies == 0] == -1).all()
    assert notes[0].startswith("3 of 200 examples have copies")


@pytest.mark.parametrize("inputs", [IMAGES, IMAGES.reshape(200, -1) * 10.0 ** np.arange(-32, 32)], ids=["2d", "units"])
def test_a_hair_of_noise_makes_a_near_copy(inputs):
    inputs = inputs.copy()
    inputs[5] = inputs[100] + 0.02 * inputs.std(axis=0) * RNG.normal(size=inputs[0].shape)
    copies, copy_of, _ = found(inputs)
    assert np.flatnonzero(copies).tolist() == [5, 100]
    assert copy_of[[5, 100]].tolist() == [100, 5]


def test_one_changed_token_makes_a_near_copy_and_half_of_them_none():
    texts = TEXTS.copy()
    texts[5], texts[6] = texts[100], texts[101]
    texts[5, 20], texts[6, ::2] = 777, RNG.integers(0, 500, 20)
    copies, copy_of, _ = found(texts)
    assert np.flatnonzero(copies).tolist() == [5, 100]
    assert copy_of[5] == 100


@pytest.mark.parametrize("width", [1, 2, 4, 16, 100])
@pytest.mark.parametrize("draw", [RNG.normal, RNG.uniform, RNG.standard_cauchy], ids=["normal", "uniform", "cauchy"])
def test_there_are_hardly_any_near_copies_by_chance(width, draw):
    copies, _, _ = found(draw(size=(2_000, width)).astype(np.float32), 500)
    assert (copies > 0).mean() < 0.005


def test_padding_does_not_matter():
    short, tokens = [5, 7, 9], RNG.integers(1, 99, (6, 20))
    finder, batches = CopyFinder(8), []
    for first, width in ((0, 5), (4, 30)):
        ids, mask = np.zeros((4, width), dtype=np.int64), np.zeros((4, width), dtype=np.int64)
        ids[0, :3], mask[0, :3] = short, 1
        for row in (1, 2, 3):
            ids[row, : min(width, 20)], mask[row, : min(width, 20)] = tokens[row + first // 4 * 2, :width], 1
        batches.append(({"input_ids": torch.as_tensor(ids), "attention_mask": torch.as_tensor(mask)}, first))
    for batch, _ in batches:
        finder.look(batch)
    for batch, first in batches:
        finder.add(batch, np.arange(first, first + 4))
    copies, copy_of, _ = finder.finish()
    assert np.flatnonzero(copies).tolist() == [0, 4]
    assert copy_of[[0, 4]].tolist() == [4, 0]


def test_texts_and_things_without_numbers():
    words = ["to be", "or not", "to be", "that"] * 2
    finder = CopyFinder(4)
    for step in (finder.look, lambda texts: finder.add(texts, np.arange(4))):
        step(words[:4])
    assert finder.finish()[0].tolist() == [1, 0, 1, 0]
    finder = CopyFinder(2)
    finder.look([object(), object()])
    finder.add([object(), object()], np.arange(2))
    assert finder.finish()[0].tolist() == [0, 0]


def test_equal_numbers_of_another_sign_of_zero_are_the_same():
    inputs = IMAGES[:50].copy()
    inputs[7], inputs[8] = 0.0, -0.0
    assert found(inputs)[0][[7, 8]].tolist() == [1, 1]


def test_groups_number_the_examples_where_there_are_no_copies():
    inputs, labels = IMAGES.copy(), np.arange(200) % 3
    np.testing.assert_array_equal(groups_of_copies(as_inputs((inputs, labels))), np.arange(200))
    inputs[[50, 60]] = inputs[2]
    groups = groups_of_copies(as_inputs((inputs, labels)))
    assert len(np.unique(groups)) == 198
    assert groups[50] == groups[60] == groups[2]


@pytest.mark.parametrize("n_copied", [20, 100, 300])
def test_many_near_copies_are_found_too(n_copied):
    rng = np.random.default_rng(1)
    inputs = rng.normal(size=(1_000, 20, 20)).astype(np.float32)
    inputs[:n_copied] = inputs[500 : 500 + n_copied] + 0.01 * rng.normal(size=(n_copied, 20, 20))
    copies, copy_of, _ = found(inputs)
    assert (copies[:n_copied] == 1).all()
    assert (copy_of[:n_copied] == np.arange(500, 500 + n_copied)).all()
    assert copies.sum() == 2 * n_copied


def test_inputs_that_are_not_finite_are_found_if_they_are_the_same():
    inputs = IMAGES.copy()
    inputs[4, 0, 0] = np.nan
    inputs[90] = inputs[4]
    assert np.flatnonzero(found(inputs)[0]).tolist() == [4, 90]


def test_a_query_with_two_documents_is_no_copy():
    batches = {"query": torch.as_tensor(TEXTS[[0] * 50]), "document": torch.as_tensor(TEXTS[:50])}
    finder = CopyFinder(50)
    finder.look(batches)
    finder.add(batches, np.arange(50))
    assert not finder.finish()[0].any()


@pytest.mark.parametrize("size", [5, 8, 15, 30])
@pytest.mark.parametrize("n_dimensions", [2, 5, 20])
@pytest.mark.parametrize("width", [0.05, 0.2])
@pytest.mark.parametrize("draw", ["normal", "uniform"])
def test_rows_of_small_clusters_are_no_copies(size, n_dimensions, width, draw):
    rng = np.random.default_rng(2)
    sizes = np.maximum(rng.poisson(size, 1_500 // size), 5)  # fewer far from all others look as copies do
    of_cluster = getattr(rng, draw)(size=(sizes.sum(), n_dimensions))
    inputs = np.repeat(rng.normal(size=(len(sizes), n_dimensions)), sizes, axis=0) + width * of_cluster
    assert (found(inputs.astype(np.float32))[0] > 0).mean() <= 0.004


@pytest.mark.parametrize("n_dimensions", [5, 10, 30])
@pytest.mark.parametrize("n_copies", [1, 3, 9])
def test_rows_of_a_table_with_a_jitter_of_a_hundredth_are_copies(n_dimensions, n_copies):
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(1_500, n_dimensions))
    copied = [inputs[:50] + 0.01 * rng.normal(size=(50, n_dimensions)) for _ in range(n_copies)]
    copies, _, _ = found(np.concatenate([inputs, *copied]).astype(np.float32))
    assert (copies[1_500:] > 0).mean() > 0.97
    assert (copies[50:1_500] == 0).all()


def test_copies_in_clusters_are_found():
    rng = np.random.default_rng(4)
    inputs = np.repeat(rng.normal(size=(100, 10)), 15, axis=0) + 0.2 * rng.normal(size=(1_500, 10))
    inputs[:50] = inputs[1_000:1_050] + 0.005 * rng.normal(size=(50, 10))
    copies, copy_of, _ = found(inputs.astype(np.float32))
    assert copies.sum() == 100
    np.testing.assert_array_equal(copy_of[:50], np.arange(1_000, 1_050))


@pytest.mark.parametrize("odd", [9, 60, 150])
def test_of_several_copies_one_with_another_label_is_named(odd):
    inputs, labels, same = IMAGES.copy(), np.zeros(200, dtype=np.int64), [9, 60, 150]
    inputs[same], labels[odd] = inputs[9], 1
    copies, copy_of, _ = found(inputs, labels=labels)
    assert (copies[same] == 2).all()
    assert [copy_of[i] for i in same if i != odd] == [odd, odd]
    assert copy_of[odd] == min(i for i in same if i != odd)
    assert copies.sum() == 6


def test_a_near_copy_with_another_label_is_named_before_the_same_input():
    inputs, labels = IMAGES.copy(), np.zeros(200, dtype=np.int64)
    inputs[[30, 31]] = inputs[20]
    inputs[[40, 41]] = inputs[20] + 0.005 * RNG.normal(size=inputs[0].shape)
    labels[41] = 1
    copies, copy_of, _ = found(inputs, labels=labels)
    assert (copies[[20, 30, 31, 40, 41]] == 4).all()
    assert copy_of[[20, 30, 31, 40, 41]].tolist() == [41, 41, 41, 41, 40]
