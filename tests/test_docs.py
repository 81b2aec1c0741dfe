"""The docs do what they say: every block of Python runs, every command exists, every link leads somewhere.

A block's language says what is asked of it. ``python``: all blocks of a page run in their order, in one namespace that
has what the page's reader has at hand. ``sh`` or none: commands of programs that we know; those of byheart and make are
parsed. ``json``, ``yaml``: it is read. ``text``: nothing. A block that cannot run stands after a line
``<!-- not run: why -->``; there are few.
"""

from __future__ import annotations

import json
import re
import shlex
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision_operators  # noqa: F401 -- before timm, which a block of docs/audit.md imports
import yaml

ROOT = Path(__file__).parents[1]
DOCS = sorted(
    path.relative_to(ROOT) for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/reference/*.md"))
)
PROGRAMS = {"byheart", "dask", "git", "make", "pip", "python", "npm", "twine"}
MOST_NOT_RUN = 3
_BLOCK = re.compile(
    r"^(?P<mark><!-- not run: .+ -->\n\n?)?(?P<indent> *)```(?P<kind>\w*)[^`\n]*\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


def blocks(path: Path, *kinds: str, run: bool = True) -> list[str]:
    """The blocks of a document in these languages; with ``run=False``, those that are marked as not run."""
    found = _BLOCK.finditer((ROOT / path).read_text(encoding="utf-8"))
    return [
        textwrap.dedent(block["text"]) for block in found if block["kind"] in kinds and bool(block["mark"]) is not run
    ]


def command_lines(path: Path) -> list[list[str]]:
    """The lines of a document's blocks of commands, without their comments; a program's folder is left out."""
    lines: list[str] = []
    for text in blocks(path, "", "sh"):
        every = text.replace("\\\n", "").splitlines()
        typed = [line.removeprefix("$ ") for line in every if line.startswith("$ ")]  # the rest is what they print
        lines += typed or every
    words = [shlex.split(line, comments=True) for line in lines]
    return [[Path(program).name, *arguments] for program, *arguments in filter(None, words)]


def commands(path: Path, program: str) -> list[list[str]]:
    """The arguments of a program's calls in a document."""
    return [arguments for name, *arguments in command_lines(path) if name == program]


def a_network() -> dict[str, Any]:
    """What the reader of the audit's docs has at hand: a trained classifier, its data, new inputs, a loop."""
    torch = pytest.importorskip("torch")
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    inputs = (rng.normal(size=(3, 20))[labels] + rng.normal(size=(60, 20))).astype(np.float32)
    model = nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        features = model[:2](torch.tensor(inputs))
        probabilities = model[2](features).softmax(dim=1)
    return {
        "torch": torch,
        "DataLoader": DataLoader,
        "cross_entropy": nn.functional.cross_entropy,
        "model": model,
        "dataset": TensorDataset(torch.tensor(inputs), torch.tensor(labels)),
        "state_dicts": [model.state_dict()],
        "held_out_inputs": rng.normal(size=(40, 20)).astype(np.float32),
        "x": rng.normal(size=(5, 20)).astype(np.float32),
        "labels": labels,
        "h": features.numpy(),
        "p": probabilities.numpy(),
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
    if path == Path("docs/cluster.md"):
        namespace["__name__"] = "__main__"  # as of a script, from which processes are started
    if path == Path("docs/audit.md"):
        namespace |= with_trainers(namespace["dataset"])
    for text in blocks(path, "python"):
        exec(compile(text, str(path), "exec"), namespace)


@pytest.mark.parametrize("path", DOCS, ids=str)
def test_every_block_is_of_a_kind_that_is_checked(path):
    kinds = [block["kind"] for block in _BLOCK.finditer((ROOT / path).read_text(encoding="utf-8"))]
    assert set(kinds) <= {"", "sh", "python", "json", "yaml", "text"}
    fences = re.findall(r"^ *```", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * len(kinds)  # none is overlooked
    for text in blocks(path, "json"):
        json.loads(text)
    for text in blocks(path, "yaml"):
        yaml.safe_load(text)


def test_few_blocks_are_not_run():
    every = ("", "sh", "python", "json", "yaml")
    assert sum(len(blocks(path, *every, run=False)) for path in DOCS) <= MOST_NOT_RUN


@pytest.mark.parametrize("path", DOCS, ids=str)
def test_every_program_is_known(path):
    assert {program for program, *_ in command_lines(path)} <= PROGRAMS


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


NAMES_FILES = [Path("README.md"), Path("docs/architecture.md"), Path("CONTRIBUTING.md"), Path("RELEASING.md")]


@pytest.mark.parametrize("path", NAMES_FILES, ids=str)
def test_every_file_that_is_named_exists(path):
    for name in re.findall(r"`([\w/]+(?:\.py|/))`", (ROOT / path).read_text(encoding="utf-8")):
        places = (ROOT / name, ROOT / "src/byheart" / name)
        assert any(place.exists() for place in places), name
