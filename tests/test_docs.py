"""The docs do what they say: every block of Python runs, every command exists, every link leads somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
DOCS = sorted(
    path.relative_to(ROOT) for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"))
)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path: Path, kind: str) -> list[str]:
    return [text for found, text in _BLOCK.findall((ROOT / path).read_text(encoding="utf-8")) if found == kind]


def commands(path: Path, program: str) -> list[list[str]]:
    """The lines of a document's blocks that call a program, without their comments."""
    lines = [line for text in blocks(path, "") for line in text.splitlines() if line.startswith(f"{program} ")]
    return [shlex.split(line, comments=True)[1:] for line in lines]


def a_network() -> dict[str, Any]:
    """What the reader of the audit's docs has at hand: a trained classifier, its data, new inputs, a loop."""
    torch = pytest.importorskip("torch")
    import torchvision_operators  # noqa: F401 -- before the trainers
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    inputs = (rng.normal(size=(3, 20))[labels] + rng.normal(size=(60, 20))).astype(np.float32)
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))
    return {
        "torch": torch,
        "DataLoader": DataLoader,
        "cross_entropy": nn.functional.cross_entropy,
        "model": model,
        "dataset": TensorDataset(torch.tensor(inputs), torch.tensor(labels)),
        "state_dicts": [model.state_dict()],
        "held_out_inputs": rng.normal(size=(40, 20)).astype(np.float32),
        "x": rng.normal(size=(5, 20)).astype(np.float32),
        "images": [(image, label) for image, label in zip(torch.randn(12, 3, 32, 32), [0, 1, 2] * 4, strict=True)],
    }


def with_trainers(dataset: Any) -> dict[str, Any]:
    """What the reader who trains with Transformers or Lightning has at hand."""
    datasets = pytest.importorskip("datasets")
    pl = pytest.importorskip("lightning.pytorch")
    transformers = pytest.importorskip("transformers")
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers

    inner = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "yes": 2, "no": 3}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="[PAD]", unk_token="[UNK]")
    texts = [" ".join(["yes", "no", "no"][: 1 + i % 3]) for i in range(12)]
    rows = {"text": texts, "label": [i % 2 for i in range(12)]}
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = transformers.BertConfig(vocab_size=4, pad_token_id=0, **sizes)

    class Classifier(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(20, 3)

        def forward(self, x: Any) -> Any:
            return self.net(x)

        def training_step(self, batch: Any, _: int) -> Any:
            return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return torch.utils.data.DataLoader(dataset, batch_size=10, shuffle=True)

    return {
        "classifier": transformers.BertForSequenceClassification(config),
        "tokenizer": tokenizer,
        "train_dataset": datasets.Dataset.from_dict(rows).map(lambda row: tokenizer(row["text"])),
        "lit_module": Classifier(),
        "datamodule": Data(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in DOCS if blocks(path, "python")], ids=str)
@pytest.mark.filterwarnings("default")  # a reader's own warnings are no errors
def test_every_block_of_python_runs(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = a_network()
    if path == Path("docs/audit.md"):
        namespace |= with_trainers(namespace["dataset"])
    for text in blocks(path, "python"):
        exec(compile(text, str(path), "exec"), namespace)


@pytest.mark.parametrize("path", DOCS, ids=str)
def test_every_command_exists(path):
    from byheart.cli import _parse as parse

    for arguments in commands(path, "byheart"):
        parse(arguments)


@pytest.mark.parametrize("path", DOCS, ids=str)
def test_every_target_of_make_exists(path):
    makefile = (ROOT / "Makefile").read_text()
    for (target,) in commands(path, "make"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("path", DOCS, ids=str)
def test_every_link_to_a_file_leads_to_one(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", (ROOT / path).read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (ROOT / path.parent / target).exists(), target


@pytest.mark.parametrize("path", [Path("README.md"), Path("docs/architecture.md"), Path("CONTRIBUTING.md")], ids=str)
def test_every_file_that_is_named_exists(path):
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", (ROOT / path).read_text(encoding="utf-8")):
        places = (ROOT / name, ROOT / "src/byheart" / name)
        assert any(place.exists() for place in places), name
