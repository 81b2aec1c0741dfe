"""The page: what is on it, that nothing a user supplies becomes markup, and that it asks for no network."""

import json
import re

import markupsafe
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from byheart.datasets import digits
from byheart.network.audit import audit
from byheart.network.score_table import scores_from


def small(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def embedded(page: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_page_lists_the_examples_with_the_largest_scores(tmp_path):
    data = digits().take(np.arange(150))
    found = audit(small(), data, "2", most_shown=20)
    path = found.save(tmp_path / "a.html", title="A title")
    page = path.read_text()
    shown = embedded(page)
    assert [e["index"] for e in shown["examples"]] == found.table["score"].sort_values(ascending=False).index[
        :20
    ].tolist()
    assert all(e["image"].startswith("data:image/png;base64,") for e in shown["examples"])
    assert shown["label_names"] == list(data.label_names)
    assert "A title" in page
    assert "uncalibrated" in page
    assert not re.search(r"https?://", page.replace("http://www.w3.org/2000/svg", ""))


def test_the_nearest_examples_are_nearest_in_angle():
    data = digits().take(np.arange(90))
    model = small()
    found = audit(model, data, "2", batch_size=32, most_shown=90)
    hidden = model[:3](torch.tensor(data.inputs)).detach().numpy()
    unit = hidden / np.linalg.norm(hidden, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    chosen = np.array([70, 3, 40])
    np.testing.assert_array_equal(found.nearest(chosen), np.argsort(-cosines[chosen], axis=1)[:, :3])


class Texts(Dataset):
    def __init__(self, words: str):
        self.words = words

    def __len__(self):
        return 12

    def __getitem__(self, index):
        return {"text": f"{self.words} {index}", "x": torch.full((4,), float(index % 5))}, index % 2


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 3)
        self.head = nn.Linear(3, 2)

    def forward(self, text, x):
        assert len(text) == len(x)
        return self.head(torch.relu(self.body(x)))


NASTY = "</script><script>alert(1)</script> <img src=x onerror=alert(2)> \u2028 {{ 7 * 7 }}"


def test_nothing_a_user_supplies_becomes_markup(tmp_path):
    found = audit(Reader(), Texts(NASTY), "body", show=lambda item: item["text"])
    path = found.save(tmp_path / "a.html", title=NASTY, label_names=[NASTY, "b"])
    page = path.read_text()
    assert page.count("<script") == 2
    assert "<img src=x" not in page
    assert "{{ 7" in page
    shown = embedded(page)
    assert shown["examples"][0]["text"].startswith(NASTY)
    assert shown["label_names"][0] == NASTY


def test_a_title_that_is_no_text_is_spelled_out(tmp_path):
    path = audit(small(), digits().take(np.arange(20))).save(tmp_path / "a.html", title="net\udce9.py")
    assert "net\\udce9.py" in path.read_text()


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), (3, 8, 8), (8, 8, 3)])
def test_images_are_recognised_by_their_shape(tmp_path, shape):
    inputs = np.random.default_rng(0).normal(size=(10, *shape)).astype(np.float32)
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 2))
    path = audit(model, (inputs, np.arange(10) % 2)).save(tmp_path / "a.html")
    assert "image" in embedded(path.read_text())["examples"][0]


def test_rows_of_numbers_are_shown_as_text(tmp_path):
    inputs = np.random.default_rng(0).normal(size=(10, 20)).astype(np.float32)
    path = audit(nn.Sequential(nn.Linear(20, 1)), (inputs, inputs.sum(1))).save(tmp_path / "a.html")
    assert embedded(path.read_text())["examples"][0]["text"].endswith(", ...")


def test_the_name_must_be_a_pages(tmp_path):
    found = audit(small(), digits().take(np.arange(20)))
    with pytest.raises(ValueError, match=r"path: received .*\.csv"):
        found.save(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"path: received .*\.safetensors with title, accepted"):
        found.save(tmp_path / "a.safetensors", title="A title")
    assert found.save(tmp_path / "made" / "a.html").is_file()


def test_long_texts_are_cut(tmp_path):
    found = audit(Reader(), Texts("x" * 3_000), "body", show=lambda item: item["text"])
    assert {len(text) for text in found.shown.values()} == {2_000}


def test_every_score_is_explained_and_can_be_sorted_by(tmp_path):
    data = digits().take(np.arange(60))
    model = small()
    found = audit(model, data, "[12]", checkpoints=[model.state_dict()], curvature=True)
    page = found.save(tmp_path / "a.html").read_text()
    columns = [column for score in scores_from(found.evidence) for column in score.columns(found.layers)]
    assert set(embedded(page)["sortable"]) == {"score", *columns}
    for score in scores_from(found.evidence):
        assert f"<dt>{score.name}</dt><dd>{markupsafe.escape(score.sentence)}</dd>" in page
