"""The data and networks of the study, and how a network is trained on data with planted wrong labels."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from byheart.datasets import Labelled, digits, fashion_mnist, king_james, mnist_5k
from byheart.network.log import TrainingLog

if TYPE_CHECKING:
    import torch
    from torch import nn

SHARE_WRONG = 0.03
_N_EXAMPLES = 5_000
_N_TABULAR = 2_000


@dataclass(frozen=True)
class Network:
    """A network that is trained on data with planted wrong labels, for a short or a long time.

    Attributes:
        data: Name of the data.
        kind: Name of the network.
        n_epochs: Of training.
        seed: Of the planted labels, the weights and the batches.
        share_wrong: Of the labels that are replaced.
    """

    data: str
    kind: str
    n_epochs: int
    seed: int
    share_wrong: float = SHARE_WRONG

    @property
    def name(self) -> str:
        """What it is, without the seed."""
        return f"{self.data}, {self.kind}, {self.n_epochs} epochs"

    @property
    def key(self) -> str:
        """Name of its record."""
        clean = "" if self.share_wrong else "-clean"
        return f"{self.name.replace(', ', '-').replace(' ', '-').lower()}{clean}-{self.seed}"


def trained(
    network: Network,
    data: Labelled,
    indices: Int64[np.ndarray, " n_chosen"],
    seed: int,
    log: TrainingLog | None = None,
) -> nn.Module:
    """A network with the initial weights of its own kind, trained by AdamW in batches of 100."""
    import torch

    torch.manual_seed(seed)
    model = _KINDS[network.kind](data).train()
    rate = 5e-4 if network.kind == "BERT" else 1e-3
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    inputs, labels, chosen = torch.as_tensor(data.inputs), torch.as_tensor(data.labels), torch.as_tensor(indices)
    for _ in range(network.n_epochs):
        for rows in chosen[torch.randperm(len(chosen))].split(100):
            losses = torch.nn.functional.cross_entropy(model(inputs[rows]), labels[rows], reduction="none")
            optimizer.zero_grad(set_to_none=True)
            losses.mean().backward()
            optimizer.step()
            if log is not None:
                log.record(rows, losses)
    return model.eval()


def _tabular() -> Labelled:
    """Sixteen columns, and four classes that overlap: what a network of tanh units says, with noise."""
    rng = np.random.default_rng(50)
    rows = rng.normal(size=(_N_TABULAR, 16)).astype(np.float32)
    hidden = np.tanh(rows @ rng.normal(size=(16, 24)) / 2)
    outputs = hidden @ rng.normal(size=(24, 4)) + 0.3 * rng.normal(size=(_N_TABULAR, 4))
    return Labelled("tabular", rows, outputs.argmax(axis=1), ("a", "b", "c", "d"))


def _verses() -> Labelled:
    return king_james(_N_EXAMPLES)[0]


def _mlp(n_inputs: int, n_classes: int) -> nn.Module:
    from byheart.studies.leaderboard.tasks import mlp

    return mlp(n_inputs, n_classes)


def _deep(n_inputs: int, n_classes: int) -> nn.Module:
    from torch import nn

    sizes = (n_inputs, 128, 128)
    layers = [module for one, two in itertools.pairwise(sizes) for module in (nn.Linear(one, two), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(128, n_classes))


def _cnn(n_classes: int) -> nn.Module:
    from byheart.studies.leaderboard.tasks import ImageCNN

    return ImageCNN(n_classes)


def _text_cnn(n_classes: int) -> nn.Module:
    from byheart.studies.leaderboard.tasks import TextCNN

    return TextCNN(n_classes)


def _resnet(n_classes: int) -> nn.Module:
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"embedding_size": 32, "hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    config = ResNetConfig(num_channels=1, num_labels=n_classes, **sizes)
    return _called_with(ResNetForImageClassification(config), lambda x: {"pixel_values": x[:, None]})


def _bert(n_classes: int) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 256}
    config = BertConfig(vocab_size=3_001, num_labels=n_classes, max_position_embeddings=128, **sizes)
    return _called_with(
        BertForSequenceClassification(config),
        lambda x: {"input_ids": x.clamp(min=-1) + 1, "attention_mask": (x >= 0).long()},
    )


def _called_with(model: nn.Module, keywords: Callable[[torch.Tensor], dict[str, torch.Tensor]]) -> nn.Module:
    """The logits of a model of transformers, which takes its inputs by name."""
    from torch import nn

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.model(**keywords(x)).logits
            return found

    return Logits()


DATA: dict[str, Callable[[], Labelled]] = {
    "digits": digits,
    "MNIST": mnist_5k,
    "Fashion-MNIST": functools.partial(fashion_mnist, _N_EXAMPLES),
    "tabular": _tabular,
    "verses": _verses,
}
_KINDS: dict[str, Callable[[Labelled], nn.Module]] = {
    "MLP": lambda data: _mlp(3_000 if data.inputs.dtype.kind == "i" else data.inputs[0].size, len(data.label_names)),
    "deep MLP": lambda data: _deep(data.inputs[0].size, len(data.label_names)),
    "CNN": lambda data: (_text_cnn if data.inputs.dtype.kind == "i" else _cnn)(len(data.label_names)),
    "ResNet": lambda data: _resnet(len(data.label_names)),
    "BERT": lambda data: _bert(len(data.label_names)),
}
