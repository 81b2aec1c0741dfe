"""What docs/security.md promises: no pickle from files, no network unasked, no foreign script in a page."""

from __future__ import annotations

import ast
import re
import socket
from pathlib import Path

import plotly.offline
import pytest

import byheart
from byheart.toy.config import TrainConfig
from byheart.toy.page import write_report
from byheart.toy.train import train

SOURCES = sorted(Path(byheart.__file__).parent.rglob("*.py"))
# What runs code that stands in a file or a text, by the last names of the call.
RUNS_CODE = {"eval", "exec", "compile", "pickle.load", "pickle.loads", "Unpickler", "marshal.loads", "yaml.load",
             "joblib.load", "dill.loads", "cloudpickle.loads", "torch.load", "os.system", "read_pickle"}  # fmt: skip
# What the process itself has pickled, for itself or for workers that it started or named.
OWN = {
    ("workers.py", "pickle.loads(pickle.dumps(error))"),
    ("workers.py", "pickle.loads(content)"),
    ("cluster.py", "pickle.loads(content)"),
}


def called(tree: ast.AST):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def test_nothing_in_a_file_is_ever_run():
    for path in SOURCES:
        for node, name in called(ast.parse(path.read_text(encoding="utf-8"))):
            whole = ".".join(name.split(".")[-2:])
            if (whole in RUNS_CODE or name in RUNS_CODE) and (path.name, ast.unparse(node)) not in OWN:
                pytest.fail(f"{path.name}, line {node.lineno}: {ast.unparse(node)}")
            if name in ("np.load", "numpy.load"):
                assert not any(keyword.arg == "allow_pickle" for keyword in node.keywords), path
            if name.endswith(("subprocess.run", "Popen")):
                assert not any(keyword.arg == "shell" for keyword in node.keywords), path


def test_the_search_finds_what_it_looks_for():
    found = {
        name for _, name in called(ast.parse("import torch, pickle\ntorch.load('x')\npickle.loads(b'')\neval('1')"))
    }
    assert found == {"torch.load", "pickle.loads", "eval"}


def test_models_are_never_downloaded_and_bring_no_code():
    for path in SOURCES:
        for node, name in called(ast.parse(path.read_text(encoding="utf-8"))):
            if name.endswith("from_pretrained"):
                assert any(
                    keyword.arg is None and ast.unparse(keyword.value) == "settings" for keyword in node.keywords
                )
    text = (Path(byheart.__file__).parent / "language/reciters.py").read_text(encoding="utf-8")
    assert "local_files_only" in text
    assert "trust_remote_code=True" not in text


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_training_and_its_page_ask_no_network_and_the_page_holds_no_address(tmp_path, no_network):
    config = TrainConfig(n_examples=3, n_features=30, sparsity=0.9, n_steps=20, n_test=10)
    train(config, kernel="reference", out=tmp_path)
    page = write_report(tmp_path, tmp_path / "report.html").read_text(encoding="utf-8")
    own = page.replace(plotly.offline.get_plotlyjs(), "")
    assert len(own) < len(page)
    assert "default-src 'none'" in own
    loads = re.compile(r"""<(?:script|link|img|iframe|object|embed)[^>]*(?:src|href|data)\s*=\s*["']?(?!["']|data:)""")
    assert not loads.search(own)
    assert "fetch(" not in own
    assert "@import" not in own
