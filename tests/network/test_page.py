"""The page: what is on it, that nothing a user supplies becomes markup, and that it asks for no network."""

import dataclasses
import json
import re
import shutil
import subprocess

import markupsafe
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from byheart.datasets import digits
from byheart.network.audit import Audit, audit
from byheart.network.log import TrainingLog
from byheart.network.page.summary import worst
from byheart.network.score_table import scores_from
from byheart.network.verdicts import VERDICTS
from byheart.page.encoding import decode


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
    assert set(found.table["score"].nlargest(20).index) <= set(found.listed)
    assert shown["shown"].keys() == {str(i) for i in found.shown}
    assert shown["reasons"].keys() == shown["nearest"].keys() == {str(i) for i in found.listed}
    assert all(e["image"].startswith("data:image/png;base64,") for e in shown["shown"].values())
    assert shown["label_names"] == list(data.label_names)
    assert "A title" in page
    assert "uncalibrated" in page
    assert not re.search(r"https?://", page.replace("http://www.w3.org/2000/svg", ""))


def test_the_numbers_of_all_examples_are_on_the_page(tmp_path):
    found = audit(small(), digits().take(np.arange(150)), "2", most_shown=5)
    assert len(found.listed) < 100
    shown = embedded(found.save(tmp_path / "a.html").read_text())
    columns = {name: decode(encoded) for name, encoded in shown["columns"].items()}
    assert set(shown["titles"]) <= set(columns)
    for name in ("label", "prediction", "flagged", "copies"):
        np.testing.assert_array_equal(columns[name], found.table[name])
    for name in ("score", "loss", "margin", "wrong_label"):
        np.testing.assert_allclose(columns[name], found.table[name], rtol=1e-6)
    np.testing.assert_array_equal(columns["copy_of"] - 1, found.table["copy_of"])
    named = [shown["verdicts"][int(place)]["name"] for place in columns["verdict"]]
    assert named == found.table["verdict"].tolist()
    assert [v["count"] for v in shown["verdicts"]] == found.table["verdict"].value_counts()[list(VERDICTS)].tolist()


def test_of_very_many_examples_those_that_are_listed_are_on_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr("byheart.network.page._MOST_ROWS", 100)
    found = audit(small(), digits().take(np.arange(150)), "2", most_shown=5)
    page = found.save(tmp_path / "a.html").read_text()
    shown = embedded(page)
    np.testing.assert_array_equal(decode(shown["columns"]["index"]), np.sort(found.listed))
    np.testing.assert_array_equal(decode(shown["columns"]["label"]), found.table["label"][np.sort(found.listed)])
    assert f"{len(found.listed)} of 150 examples are on this page" in page


def test_the_page_of_a_regression_shows_targets_and_no_options_of_classes(tmp_path):
    rng = np.random.default_rng(0)
    inputs = pd.DataFrame(rng.normal(size=(40, 3)).astype(np.float32), columns=["age", "<b>", "height"])
    net = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))
    targets = rng.normal(size=40).astype(np.float32)
    found = audit(net, (inputs, targets), loss="mse")
    np.testing.assert_allclose(found.table["target"], targets)
    with torch.no_grad():
        np.testing.assert_allclose(found.table["prediction"], net(torch.tensor(inputs.to_numpy()))[:, 0], rtol=1e-5)
    page = found.save(tmp_path / "a.html").read_text()
    shown = embedded(page)
    np.testing.assert_allclose(decode(shown["columns"]["target"]), targets, rtol=1e-6)
    assert "label" not in shown["columns"]
    assert "Which labels are wrong?" not in page
    assert f"target {targets[found.listed[0]]:.4g}, answered" in page
    assert re.fullmatch(r"age: \S+, <b>: \S+, height: \S+", shown["shown"]["0"]["text"])
    assert "<b>:" not in page
    assert (found.table["verdict"] == "ordinary").all()
    assert "not called memorized" in page
    assert "For example" not in page
    logged = audit(net, (inputs, targets), loss="mse", log=TrainingLog.from_losses(rng.random((2, 40))))
    assert "called memorized below. This is a ranking" in logged.save(tmp_path / "b.html").read_text()


def test_the_page_says_how_many_of_the_flagged_are_answered_wrongly():
    found = audit(small(), digits().take(np.arange(150)), "2", most_shown=5)
    table = found.table.assign(flagged=np.arange(150) < 3)
    table["prediction"] = np.where(np.arange(150) < 2, (table["label"] + 1) % 10, table["label"])
    answer = worst(dataclasses.replace(found, table=table), found.label_names)[0]["answer"]
    assert answer.endswith("2 of them the network answers wrongly now.")
    right = worst(dataclasses.replace(found, table=table.assign(prediction=table["label"])), found.label_names)
    assert "wrongly" not in right[0]["answer"]


def test_of_several_numbers_per_example_there_is_no_column_of_targets():
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    assert not {"target", "prediction"} & set(audit(nn.Sequential(nn.Linear(4, 4)), (x, x), loss="mse").table)


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.of_image, self.of_patient = nn.Linear(64, 8), nn.Linear(2, 8)
        self.head = nn.Linear(16, 10)

    def forward(self, image, patient):
        parts = [self.of_image(image.flatten(1)), self.of_patient(patient)]
        return self.head(torch.relu(torch.cat(parts, dim=1)))


def test_of_mixed_inputs_the_picture_and_the_numbers_are_shown(tmp_path):
    data = digits().take(np.arange(40))
    patients = pd.DataFrame({"age": np.arange(40.0), "weight": np.full(40, 70.0)}, dtype=np.float32)
    found = audit(Both(), ({"image": data.inputs.reshape(40, 8, 8), "patient": patients}, data.labels))
    shown = embedded(found.save(tmp_path / "a.html").read_text())["shown"]
    assert shown["7"]["image"].startswith("data:image/png")
    assert shown["7"]["text"] == "patient: age: 7, weight: 70"
    found.save(tmp_path / "a.safetensors")
    assert Audit.load(tmp_path / "a.safetensors") == found


def test_names_of_columns_are_those_of_any_table():
    pyarrow = pytest.importorskip("pyarrow")
    x = np.random.default_rng(0).normal(size=(12, 50)).astype(np.float32)
    tables = {"few": x[:, :2], "many": x}
    for name, values in tables.items():
        table = pyarrow.table({f"c{k}": values[:, k] for k in range(values.shape[1])})
        text = audit(nn.Sequential(nn.Linear(values.shape[1], 2)), (table, np.arange(12) % 2)).shown[0]
        assert text.startswith(f"c0: {x[0, 0]:.4g}, c1: ")
        assert text.count("c") == min(values.shape[1], 40)
        assert text.endswith(", ...") == (name == "many")


def test_a_function_may_show_a_picture_and_a_text():
    found = audit(small(), digits().take(np.arange(20)), show=lambda item: (np.ones((9, 9)), "words"))
    picture, text = found.shown[0]
    assert (picture.shape, text) == ((9, 9), "words")


class OfWords(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(2, 6), nn.Linear(6, 2)

    def forward(self, texts):
        return self.head(torch.relu(self.body(torch.tensor([[len(t), t.count("a")] for t in texts]).float())))


def test_texts_go_to_the_model_and_onto_the_page_as_they_are(tmp_path):
    texts = [f"{'a' * (k % 7)} text {NASTY}" for k in range(20)]
    found = audit(OfWords(), [(text, k % 2) for k, text in enumerate(texts)])
    page = found.save(tmp_path / "a.html").read_text()
    assert embedded(page)["shown"]["3"]["text"] == texts[3]
    assert "<img src=x" not in page


def test_large_pictures_are_kept_small():
    inputs = np.random.default_rng(0).normal(size=(6, 3, 240, 320)).astype(np.float32)
    found = audit(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 2)), (inputs, np.arange(6) % 2))
    assert {shown.shape for shown in found.shown.values()} == {(120, 160, 3)}


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
    assert page.count("<script") == 3
    assert "<img src=x" not in page
    assert "{{ 7" in page
    shown = embedded(page)
    assert shown["shown"]["0"]["text"].startswith(NASTY)
    assert shown["label_names"][0] == NASTY


def test_a_title_that_is_no_text_is_spelled_out(tmp_path):
    path = audit(small(), digits().take(np.arange(20))).save(tmp_path / "a.html", title="net\udce9.py")
    assert "net\\udce9.py" in path.read_text()


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), (3, 8, 8), (8, 8, 3)])
def test_images_are_recognised_by_their_shape(tmp_path, shape):
    inputs = np.random.default_rng(0).normal(size=(10, *shape)).astype(np.float32)
    model = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 2))
    path = audit(model, (inputs, np.arange(10) % 2)).save(tmp_path / "a.html")
    assert "image" in embedded(path.read_text())["shown"]["0"]


def test_rows_of_numbers_are_shown_as_text(tmp_path):
    inputs = np.random.default_rng(0).normal(size=(10, 20)).astype(np.float32)
    path = audit(nn.Sequential(nn.Linear(20, 1)), (inputs, inputs.sum(1))).save(tmp_path / "a.html")
    assert embedded(path.read_text())["shown"]["0"]["text"].endswith(", ...")


def test_the_name_must_be_a_pages(tmp_path):
    found = audit(small(), digits().take(np.arange(20)))
    with pytest.raises(ValueError, match=r"path: received .*\.txt"):
        found.save(tmp_path / "a.txt")
    with pytest.raises(ValueError, match=r"path: received .*\.safetensors with title, accepted"):
        found.save(tmp_path / "a.safetensors", title="A title")
    assert found.save(tmp_path / "made" / "a.html").is_file()


@pytest.mark.parametrize("n", [1, 2, 5])
def test_few_examples_have_a_page_a_figure_and_a_place_in_a_notebook(tmp_path, n):
    found = audit(small(), digits().take(np.arange(n)))
    assert embedded(found.save(tmp_path / "a.html").read_text())["n_examples"] == n
    assert "What did it memorize?" in found._repr_html_()
    found.plot().savefig(tmp_path / "a.png")


def test_where_nothing_is_memorized_the_page_says_so(tmp_path):
    found = audit(small(), digits().take(np.arange(60)))
    table = found.table.assign(flagged=False)
    page = dataclasses.replace(found, table=table).save(tmp_path / "a.html").read_text()
    assert "Of no example it is more likely than not." in page
    assert 'data-flagged="yes"' not in page


def test_ids_are_on_the_page(tmp_path):
    found = audit(small(), digits().take(np.arange(9)), ids=[f"{k}<i>.png" for k in range(9)])
    page = found.save(tmp_path / "a.html").read_text()
    assert embedded(page)["ids"] == [f"{k}<i>.png" for k in range(9)]
    assert "<i>" not in page


def test_long_texts_are_cut(tmp_path):
    found = audit(Reader(), Texts("x" * 3_000), "body", show=lambda item: item["text"])
    assert {len(text) for text in found.shown.values()} == {2_000}


def test_every_score_is_explained_and_can_be_sorted_by(tmp_path):
    data = digits().take(np.arange(60))
    model = small()
    found = audit(model, data, "[12]", checkpoints=[model.state_dict()], curvature=True)
    page = found.save(tmp_path / "a.html").read_text()
    columns = [column for score in scores_from(found.evidence) for column in score.columns(found.layers)]
    assert set(embedded(page)["sortable"]) == {"score", "copies", *columns}
    for score in scores_from(found.evidence):
        assert f"<dt>{score.title} ({score.name})</dt><dd>{markupsafe.escape(score.sentence)}</dd>" in page


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHOOSE = """
const choose = (id, property, value) => {
  const control = document.getElementById(id);
  control[property] = value;
  control.dispatchEvent(new Event("input"));
};
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", lambda t: t.index[:24]),  # more are shown on demand
        ('document.getElementById("more").click()', lambda t: t.index[:48]),
        (
            'choose("label", "value", "3"); choose("only-wrong", "checked", true); choose("sort", "value", "index")',
            lambda t: sorted(t.index[(t["label"] == 3) & (t["prediction"] != 3)]),
        ),
        ('choose("search", "value", "A05")', lambda t: t.index[t["id"].str.startswith("a05")]),
        ('choose("sort", "value", "loss")', lambda t: t.sort_values("loss", ascending=False).index[:24]),
        (
            """document.querySelector("button[value='not learned']").click(); choose("sort", "value", "index")""",
            lambda t: sorted(t.index[t["verdict"] == "not learned"])[:24],
        ),
    ],
    ids=["as it opens", "more", "wrong answers of a class", "search", "sort", "verdict"],
)
def test_a_browser_shows_the_rows_that_are_chosen(tmp_path, script, expected):
    found = audit(small(), digits().take(np.arange(60)), ids=[f"a{k:03}.png" for k in range(60)])
    page = found.save(tmp_path / "a.html")
    page.write_text(page.read_text().replace("</body>", f"<script>{CHOOSE}{script}</script></body>"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    shown = done.stdout.partition('id="examples"')[2].partition('id="more"')[0]
    chosen = list(expected(found.table.sort_values("score", ascending=False, kind="stable")))
    assert [int(number) for number in re.findall(r'class="soft">number (\d+)', shown)] == chosen
    assert chosen
