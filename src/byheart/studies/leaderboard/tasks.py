"""The tasks of the leaderboard: a labelled dataset, a network, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import nn

from byheart.datasets import Labelled, fashion_mnist, king_james, mnist_5k, with_wrong_labels
from byheart.network.fit import Fit

N_EXAMPLES = 5_000
SHARE_WRONG = 0.05
_LONG = {"n_epochs": 80}  # until nearly all training examples are answered, as MNIST's are after 30
_N_WORDS = 3_000  # more than the vocabulary of ``king_james``, which has 2,258 words


@dataclass(frozen=True)
class Task:
    """A dataset fitted by a network in one way.

    Attributes:
        name: Of the task, and of its directory.
        data: Returns the dataset.
        share_wrong: Of the labels that are replaced by wrong ones.
        model: Returns the network, untrained.
        training: Options of ``Fit``.
    """

    name: str
    data: Callable[[], Labelled]
    model: Callable[[], nn.Module]
    share_wrong: float = 0.0
    training: dict[str, Any] = field(default_factory=dict)

    def load(self) -> tuple[Labelled, Bool[np.ndarray, " n_examples"], Fit]:
        """Return the data with their wrong labels, which labels those are, and what trains on them."""
        data, wrong = with_wrong_labels(self.data(), self.share_wrong, seed=0)
        return data, wrong, Fit(self.model(), data.inputs, data.labels, **self.training)


class BagOfWords(nn.Module):
    """Numbers of words, -1 after the end of a text, as how often each word occurs."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return counts of shape (n_examples, n_words)."""
        counts = torch.zeros(len(x), _N_WORDS)
        return counts.scatter_add_(1, x.clamp(min=0), (x >= 0).float())


def bags_of_words(inputs: np.ndarray) -> np.ndarray:
    """Return how often each word occurs in each text."""
    found: np.ndarray = BagOfWords()(torch.as_tensor(inputs)).numpy()
    return found


class ImageCNN(nn.Module):
    """Two convolutions with stride 2 and two linear layers, for images of 28 x 28 pixels."""

    def __init__(self, n_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.fc1 = nn.Linear(32 * 49, 128)
        self.fc2 = nn.Linear(128, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits of shape (n_examples, n_classes)."""
        x = torch.relu(self.conv1(x[:, None]))
        x = torch.relu(self.conv2(x))
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class TextCNN(nn.Module):
    """Word vectors, a convolution over three words, the largest value of each channel, a linear layer (Kim 2014)."""

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.words = nn.Embedding(_N_WORDS, 64)
        self.conv = nn.Conv1d(64, 128, 3, padding=1)
        self.fc = nn.Linear(128, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits of shape (n_examples, n_classes)."""
        vectors = self.words(x.clamp(min=0)) * (x >= 0)[:, :, None]
        return self.fc(torch.relu(self.conv(vectors.transpose(1, 2))).amax(dim=2))


def mlp(n_inputs: int, n_classes: int) -> nn.Module:
    """Return a network of one hidden layer of 512 units."""
    first = nn.Flatten() if n_inputs != _N_WORDS else BagOfWords()
    return nn.Sequential(first, nn.Linear(n_inputs, 512), nn.ReLU(), nn.Linear(512, n_classes))


def shifted(images: torch.Tensor) -> torch.Tensor:
    """Move each image by up to two pixels each way, with black coming in."""
    n, height, width = images.shape
    padded = nn.functional.pad(images, (2, 2, 2, 2))
    down, right = torch.randint(0, 5, (2, n))
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.arange(width)
    return padded[torch.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _verses() -> Labelled:
    return king_james(N_EXAMPLES)[0]


def _tasks() -> dict[str, Task]:
    garments = partial(fashion_mnist, N_EXAMPLES)
    images, networks = (("mnist", mnist_5k), ("fashion", garments)), (("mlp", partial(mlp, 784, 10)), ("cnn", ImageCNN))
    lengths: dict[str, dict[str, Any]] = {"mnist": {}, "fashion": _LONG}
    tasks = [
        Task(f"{name}{suffix}-{network}", data, model, share, lengths[name])
        for name, data in images
        for suffix, share in (("", 0.0), ("-wrong", SHARE_WRONG))
        for network, model in networks
    ]
    for name, training in (
        ("decay", {"weight_decay": 1.0, **_LONG}),
        ("augmented", {"augment": shifted, **_LONG}),
        ("stopped", {"n_epochs": 5}),
    ):
        tasks.append(Task(f"fashion-wrong-mlp-{name}", garments, partial(mlp, 784, 10), SHARE_WRONG, training))
    tasks += [
        Task("verses-mlp", _verses, partial(mlp, _N_WORDS, 6)),
        Task("verses-cnn", _verses, partial(TextCNN, 6)),
    ]
    return {task.name: task for task in tasks}


TASKS = _tasks()
