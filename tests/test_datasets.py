"""Datasets: what is in the files, and what is said of files that are missing or damaged."""

import gzip
import struct

import numpy as np
import pytest

from byheart import datasets
from byheart.datasets import (
    Labelled,
    digits,
    fashion_mnist,
    idx_folder,
    king_james,
    mnist_5k,
    with_wrong_labels,
    words_of,
)


def write_idx(path, array: np.ndarray) -> None:
    content = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for stem, n in (("train", 6), ("t10k", 2)):
        write_idx(tmp_path / f"{stem}-images-idx3-ubyte.gz", rng.integers(0, 256, (n, 3, 4), dtype=np.uint8))
        write_idx(tmp_path / f"{stem}-labels-idx1-ubyte", np.arange(n, dtype=np.uint8))
    return tmp_path


def test_digits_and_mnist_are_what_they_say():
    small, large = digits(), mnist_5k()
    assert small.inputs.shape == (1_797, 8, 8)
    assert large.inputs.shape == (5_000, 28, 28)
    assert np.bincount(large.labels).tolist() == [500] * 10
    for data in (small, large):
        assert data.inputs.min() == 0
        assert data.inputs.max() == 1
        assert len({row.tobytes() for row in data.inputs}) == len(data)
    assert len(set(large.labels[:100])) == 10  # not sorted by class


def test_verses_are_numbers_of_their_words():
    data, texts = king_james(500)
    assert data.inputs.shape == (500, 48)
    assert len(texts) == len(data) == 500
    assert set(data.labels) <= set(range(len(data.label_names)))
    known: dict[int, str] = {}
    for row, text in zip(data.inputs, texts, strict=True):
        words = words_of(text.split(":", 1)[1])[:48]  # after the reference
        assert (row >= 0).sum() == len(words)  # -1 after the end
        for number, word in zip(row, words, strict=False):
            assert number == 0 or known.setdefault(int(number), word) == word  # one word per number
    beginning = [label for label, text in zip(data.labels, texts, strict=True) if "Jesus" in text]
    assert set(beginning) == {4, 5} or min(beginning) >= 3  # in the New Testament only
    with pytest.raises(ValueError, match="n_examples: received 0, accepted: 1 to 31102"):
        king_james(0)


def test_a_changed_mnist_file_is_refused(monkeypatch):
    monkeypatch.setattr(datasets, "_MNIST_5K_SHA256", "0" * 64)
    with pytest.raises(ValueError, match="accepted: 0000"):
        mnist_5k()


def test_idx_files_are_read_zipped_or_not(folder):
    train = idx_folder(folder)
    assert train.inputs.shape == (6, 3, 4)
    assert train.labels.tolist() == list(range(6))
    assert idx_folder(folder, 2, split="test").inputs.shape == (2, 3, 4)
    assert fashion_mnist(3, folder=folder).label_names[2] == "pullover"
    np.testing.assert_array_equal(idx_folder(folder, 4).inputs, train.inputs[:4])


def test_nonsense_is_refused_in_one_line(folder):
    with pytest.raises(FileNotFoundError, match="apt-get install"):
        fashion_mnist(folder=folder / "nowhere")
    with pytest.raises(ValueError, match="split: received 'valid'"):
        idx_folder(folder, split="valid")
    with pytest.raises(ValueError, match="n_examples: received 7, accepted: 1 to 6"):
        idx_folder(folder, 7)
    write_idx(folder / "train-labels-idx1-ubyte", np.arange(5, dtype=np.uint8))
    with pytest.raises(ValueError, match="one label each"):
        idx_folder(folder)
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="received no train-labels-idx1-ubyte"):
        idx_folder(folder)


@pytest.mark.parametrize("keep", [0, 3, 10, 40])
def test_truncated_files_are_refused(folder, keep):
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: min(keep, len(whole) - 1)])
        with pytest.raises(ValueError, match="received") as error:
            idx_folder(folder)
        assert "\n" not in str(error.value)
        (folder / name).write_bytes(whole)


@pytest.mark.parametrize("fraction", [0.0, 0.05, 1.0])
def test_wrong_labels_are_wrong_and_all_others_right(fraction):
    data = Labelled("made up", np.zeros((200, 1), np.float32), np.arange(200) % 4, ("a", "b", "c", "d"))
    changed, wrong = with_wrong_labels(data, fraction)
    assert wrong.sum() == 200 * fraction
    np.testing.assert_array_equal(changed.labels != data.labels, wrong)
    assert changed.labels.max() < 4
    with pytest.raises(ValueError, match="fraction"):
        with_wrong_labels(data, 1.5)
