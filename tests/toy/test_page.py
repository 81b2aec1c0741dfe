import dataclasses
import html
import json
import re
import shutil
import subprocess

import numpy as np
import plotly.offline
import pytest

from byheart.attractors import find_attractors
from byheart.geometry import example_dimensionality, feature_dimensionality
from byheart.page import asset
from byheart.page.encoding import decode
from byheart.toy.config import TrainConfig
from byheart.toy.page import _SCRIPTS as SCRIPTS
from byheart.toy.page import write_report
from byheart.toy.page.contents import allowances, collect_basins, collect_run, pick, principal_axes, x_axis
from byheart.toy.runs import Run, open_runs
from byheart.toy.train import train

BASE = TrainConfig(n_examples=5, n_features=50, sparsity=0.9, n_steps=100, n_test=40, snapshot_steps=(0, 10, 100))
HOSTILE = '</script><script>alert("x")</script>'


def made_up(digest="", device="a processor", test_loss=1.5, **fields):
    """A run of random arrays: the report draws what it is given."""
    config = dataclasses.replace(BASE, **fields)
    rng = np.random.default_rng(config.seed)
    T = config.n_test if config.n_examples == "inf" else config.n_examples
    n_kept = len(config.snapshot_steps)
    shapes = {"W": (config.n_hidden, config.n_features), "b": (config.n_features,), "hidden": (T, config.n_hidden)}
    arrays = {name: rng.normal(size=(n_kept + 1, *shape)).astype(np.float32) for name, shape in shapes.items()}
    steps = np.linspace(0, config.n_steps, 101).astype(int)
    logged = {name: rng.random(len(steps)) + 0.5 for name in ("train_loss", "W_norm", "b_norm")}
    metrics = {
        "train_loss": 0.25,
        "test_loss": test_loss,
        "test_loss_se": None if test_loss is None else 0.01,
        "W_norm": 2.0,
        "b_norm": 3.0,
        "n_features_represented": 1.0,
        "feature_dimensionality_max": 0.3,
        "example_dimensionality_max": 0.4,
        "example_dimensionality_mean": 0.1,
    }
    repeats = np.ones(T, dtype=np.int64)
    repeats[: len(config.repeats)] = config.repeats
    return Run(
        config=config,
        **{name: array[-1] for name, array in arrays.items()},
        repeats=repeats,
        history={"step": steps, **logged},
        metrics=metrics,
        snapshots={"step": np.array(config.snapshot_steps), **{k: a[:-1] for k, a in arrays.items()}} if n_kept else {},
        provenance={"byheart": "0.1.0", "device": device, "kernel": "cpu", "wall_seconds": 60.0},
        data_digest=digest,
    )


VARIED = {
    "one run": [made_up()],
    "several T, seeds and infinity": [made_up(n_examples=t, seed=s) for t in (3, 5, 300, "inf") for s in (0, 1)],
    "only infinity": [made_up(n_examples="inf")],
    "no test loss": [made_up(digest="ab12" * 16, test_loss=None)],
    "no snapshots": [made_up(snapshot_steps=())],
    "other axes": [made_up(weight_decay=w, n_hidden=m) for w, m in [(0.0, 1), (0.01, 4), (1.0, 2), (1.0, 4)]],
    "several m": [made_up(n_hidden=m, seed=s) for m in (2, 4, 16) for s in (0, 1)],
    "weight decays from 0 on": [made_up(weight_decay=w) for w in (0.0, 1e-4, 0.1)],
    "several m at infinite T": [made_up(n_hidden=m, n_examples="inf") for m in (2, 3)],
    "mixed n_features": [made_up(n_features=n, n_examples=t) for n in (50, 70) for t in (5, 9)],
    "repeats": [made_up(repeats=r) for r in [(), (4,), (2, 3)]],
    "far off scale": [made_up(n_examples=t, test_loss=loss) for t, loss in [(3, 5_000.0), (9, 0.2)]],
    "one feature, one example": [made_up(n_features=1, n_examples=1, n_hidden=1)],
}


@pytest.fixture(params=VARIED)
def directory(request, tmp_path):
    return saved(VARIED[request.param], tmp_path / "runs")


def saved(runs, directory):
    for run in runs:
        run.save(directory)
    return directory


def page_of(directory, tmp_path):
    return write_report(directory, tmp_path / "report.html").read_text(encoding="utf-8")


def data_in(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)[1])


def test_every_run_is_on_the_page(directory, tmp_path):
    page = page_of(directory, tmp_path)
    runs = open_runs(directory)
    assert {run["id"] for run in data_in(page)["report"]["runs"]} == {header.id for header in runs.headers}
    assert page.count("<tr data-run=") == len(runs)
    assert f"{len(runs)} run" in page


@pytest.mark.skipif(shutil.which("node") is None, reason="drawing without a browser needs node")
def test_every_figure_can_be_drawn_and_holds_no_nan(directory, tmp_path):
    script = "".join(map(asset, SCRIPTS[:-1]))  # page.js needs a page
    script += """
    const { report, paper } = JSON.parse(require("fs").readFileSync(0, "utf8"));
    const runs = decodeAll(report.runs);
    const drawn = [];
    for (const run of runs) {
      const group = runs.filter((other) => other.group_label === run.group_label);
      for (const range of ["near", "full"]) drawn.push(sweepFigures.main(group, range, report.x, paper));
      drawn.push(sweepFigures.norms(group, report.x), runFigures.history(run));
      drawn.push({ data: [], layout: sweepFigures.mainShapes(group, run.x, report.x) });
      for (const kind of ["feature", "example"]) {
        const set = run[`${kind}s`];
        const [x, y] = [0, 1].map((k) => set.xy.filter((_, i) => i % 2 === k));
        drawn.push(runFigures.vectors({ ...set, x, y }, kind, "", 1, ["", ""]));
      }
      const none = { x: [], y: [], index: [] };
      if (run.basins) drawn.push(runFigures.basins(run.basins, none, none));
    }
    for (const figure of drawn) {
      if (!figure.layout) throw new Error("no layout");
      for (const { x, y } of figure.data) {
        if (x.length !== y.length) throw new Error("x and y differ in length");
        for (const value of [...x, ...y]) {
          if (value !== null && !Number.isFinite(value)) throw new Error(`${value} in a figure`);
        }
      }
      JSON.stringify(figure.layout, (key, value) => {
        if (typeof value === "number" && !Number.isFinite(value)) throw new Error(`${value} in layout ${key}`);
        return value;
      });
    }
    console.log(drawn.length);
    """
    data = data_in(write_report(directory, tmp_path / "report.html", basins=True).read_text(encoding="utf-8"))
    done = subprocess.run(["node", "-e", script], input=json.dumps(data), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    with_plane = [run for run in data["report"]["runs"] if run["basins"]]
    assert int(done.stdout) == 7 * len(open_runs(directory)) + len(with_plane)


def test_every_cell_of_a_plane_flows_to_the_attractor_it_says(tmp_path):
    run = train(dataclasses.replace(BASE, n_steps=2_000))
    found = collect_basins(run)
    n, radius = found["n_across"], found["radius"]
    cells = decode(found["cells"]).reshape(n, n).astype(int)
    centres = radius * ((2 * np.arange(n) + 1) / n - 1)
    x, y = np.meshgrid(centres, centres)
    assert ((cells > 0) == (np.hypot(x, y) <= radius)).all()
    for row, column in [(n // 2, 3), (3, n // 2), (n // 2 + 9, n // 2 - 5)]:  # rows from below, x along a row
        end = find_attractors(run.W, run.b, np.array([[centres[column], centres[row]]])).hidden[0]
        said = found["attractors"][cells[row, column] - 2]
        assert (said["x"], said["y"]) == pytest.approx(tuple(end), abs=1e-2 * radius)
    assert sum(one["plane"] for one in found["attractors"]) == pytest.approx(1 - found["unsettled"], abs=1e-5)


def test_planes_are_shown_if_asked_for_and_of_models_that_have_one(tmp_path):
    runs = saved(
        [made_up(), made_up(n_hidden=3), made_up(hidden_relu=True), made_up(digest="ab12" * 16)], tmp_path / "runs"
    )
    assert 'id="attracting"' not in page_of(runs, tmp_path)
    page = write_report(runs, tmp_path / "report.html", basins=True).read_text(encoding="utf-8")
    assert 'id="attracting"' in page
    drawn = data_in(page)["report"]["runs"]
    assert [run["n_hidden"] for run in drawn if run["basins"]] == [2]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([{}], "n_examples"),
        ([{"seed": s} for s in (0, 1, 2)], "n_examples"),
        ([{"n_examples": t, "n_hidden": m} for t in (3, 5) for m in (2, 3, 4)], "n_examples"),
        ([{"n_hidden": m, "seed": s} for m in (2, 3) for s in range(3)], "n_hidden"),
        ([{"n_hidden": m, "weight_decay": w} for m in (2, 3) for w in (0.0, 0.1, 1.0)], "weight_decay"),
        ([{"n_hidden": m, "weight_decay": w} for m in (2, 3) for w in (0.0, 0.1)], "n_hidden"),
        ([{"decay_bias": b} for b in (True, False)], "n_examples"),
        ([{"repeats": r} for r in ((2,), (3,))], "n_examples"),
    ],
)
def test_what_was_swept_stands_along_x(tmp_path, fields, expected):
    assert x_axis(open_runs(saved([made_up(**own) for own in fields], tmp_path / "runs"))) == expected


def test_a_sweep_over_m_is_one_curve_and_a_table_in_its_order(tmp_path):
    runs = [made_up(n_hidden=m, weight_decay=w) for w in (0.1, 0.01) for m in (16, 2, 4)]
    page = page_of(saved(runs, tmp_path / "runs"), tmp_path)
    report = data_in(page)["report"]
    assert report["x"] == {"name": "n_hidden", "short": "m", "title": "hidden units m"}
    assert [axis["name"] for axis in report["axes"]] == ["weight_decay"]
    assert [run["x"] for run in report["runs"]] == [2, 4, 16] * 2
    assert "Test loss against the number of hidden units m" in page
    assert "<th>m</th><th>seed</th>" in page
    assert "<b>hidden units m</b> = 2 · 4 · 16" in page


def test_the_page_fetches_nothing(tmp_path):
    page = page_of(saved(VARIED["several T, seeds and infinity"], tmp_path / "runs"), tmp_path)
    library = plotly.offline.get_plotlyjs()
    assert library in page  # inlined whole
    own = page.replace(library, "")
    fetches = r"https?:|//[a-z0-9-]+\.[a-z]|@import|url\(|\bsrc\s*=|fetch\(|XMLHttpRequest|import\("
    assert not re.search(fetches, own, re.IGNORECASE)
    assert re.findall(r'href\s*=\s*"([^"]*)"', own) == ["data:,"]
    assert "default-src 'none'" in own  # and the browser holds the library to it
    assert "showSendToCloud: false" in own  # the library's own offer to upload a figure is switched off
    assert 'plotlyServerURL: ""' in own


def test_text_from_runs_is_escaped(tmp_path):
    page = page_of(saved([made_up(device=HOSTILE)], tmp_path / "a <b> & c"), tmp_path)
    assert HOSTILE not in page
    assert html.escape(HOSTILE, quote=False).replace('"', "&#34;") in page
    assert "<h1>a &lt;b&gt; &amp; c</h1>" in page
    scripts = page.replace(plotly.offline.get_plotlyjs(), "").count("</script>")
    assert scripts == 2 + len(SCRIPTS)  # the library, the data, ours


def test_the_same_runs_give_the_same_bytes(directory, tmp_path):
    pages = [write_report(directory, tmp_path / name).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]


def test_vectors_and_dimensionalities_survive_the_page(tmp_path):
    run = made_up(n_examples=9)
    (drawn,) = data_in(page_of(saved([run], tmp_path / "runs"), tmp_path))["report"]["runs"]
    np.testing.assert_allclose(decode(drawn["features"]["xy"]).reshape(-1, 2), run.W.T, atol=1e-4)
    np.testing.assert_allclose(decode(drawn["examples"]["norm"]), np.linalg.norm(run.hidden, axis=1), rtol=1e-6)
    expected = example_dimensionality(run.hidden)
    np.testing.assert_allclose(decode(drawn["examples"]["dimensionality"]), expected, atol=1e-5)
    pooled = np.repeat(decode(drawn["example_dims"]["value"]), decode(drawn["example_dims"]["count"]).astype(int))
    np.testing.assert_allclose(pooled, np.sort(expected), atol=5.001e-4)
    frames = drawn["snapshots"]
    np.testing.assert_allclose(decode(frames["examples"][1]).reshape(-1, 2), run.snapshots["hidden"][1], atol=1e-4)
    curves = decode(frames["feature_curves"]).reshape(-1, len(BASE.snapshot_steps))
    shown = decode(frames["feature_curve_index"]).astype(int)
    np.testing.assert_allclose(curves[:, 2], feature_dimensionality(run.snapshots["W"][2])[shown], atol=1e-5)


def test_a_wide_hidden_layer_is_seen_from_its_two_longest_directions():
    hidden = np.zeros((6, 4), dtype=np.float32)
    hidden[:3, 2], hidden[3:5, 0], hidden[5, 1] = 5, 2, 1
    axes, share = principal_axes(hidden)
    np.testing.assert_allclose(axes, np.eye(4)[:, [2, 0]], atol=1e-12)
    assert share == pytest.approx((75 + 8) / (75 + 8 + 1))


def test_pick_keeps_the_largest_and_what_it_must_and_fills_up_at_random():
    norms = np.random.default_rng(1).permutation(1_000).astype(float)
    always = np.flatnonzero(norms == 0)
    picked = pick(norms, 90, always)
    assert len(picked) == len(set(picked.tolist())) == 90
    assert set(np.flatnonzero(norms >= 970)) | set(always) <= set(picked)
    others = norms[picked][norms[picked] < 970]
    assert 400 < others.mean() < 570  # not the next largest
    np.testing.assert_array_equal(pick(norms[:90], 90), np.arange(90))


def test_a_sweep_of_the_papers_size_stays_small(tmp_path):
    big = made_up(n_features=10_000, n_examples=20_000, n_steps=50_000, snapshot_steps=tuple(range(24)))
    headers = open_runs(saved([big], tmp_path / "runs")).headers
    sizes = {count: len(json.dumps(collect_run(big, *allowances(headers * count)))) for count in (64, 128, 256)}
    assert all(count * size + len(plotly.offline.get_plotlyjs()) < 25e6 for count, size in sizes.items())
    assert sizes[64] > 2 * sizes[256]  # few runs are shown more fully


def test_other_axes_are_listed_in_order_and_every_run_knows_its_place(tmp_path):
    data = data_in(page_of(saved(VARIED["other axes"], tmp_path / "runs"), tmp_path))["report"]
    assert data["axes"] == [{"name": "weight_decay", "values": ["0.0", "0.01", "1.0"]}]
    places = [(*run["group"], run["x"]) for run in data["runs"]]
    assert places == [(0, 1), (1, 4), (2, 2), (2, 4)]


def test_the_papers_values_are_drawn_only_behind_its_own_setup(tmp_path, monkeypatch):
    like_paper = made_up(n_features=10_000, sparsity=0.999, n_steps=50_000, n_examples="inf")
    with_paper = data_in(page_of(saved([like_paper], tmp_path / "paper"), tmp_path))
    rows = {row["n_examples"]: row for row in with_paper["paper"]}
    assert rows[None]["test_loss"] == pytest.approx(0.9987)  # T infinite
    assert rows[3.0]["test_loss"] is None  # off its scale
    other = data_in(page_of(saved([made_up()], tmp_path / "other"), tmp_path))
    assert other["paper"] is None


def test_repeats_are_named_and_none_comes_first(tmp_path):
    data = data_in(page_of(saved(VARIED["repeats"], tmp_path / "runs"), tmp_path))["report"]
    values = ["none", "1 example 2 times, 1 example 3 times", "1 example 4 times"]
    assert data["axes"] == [{"name": "repeats", "values": values}]
    assert data["runs"][1]["examples"]["repeats"] == {"0": 2, "1": 3}


def test_runs_with_own_data_differ_by_it_and_have_no_zero_loss(tmp_path):
    runs = [made_up(digest=c * 64, test_loss=None) for c in "ab"] + [made_up()]
    data = data_in(page_of(saved(runs, tmp_path / "runs"), tmp_path))["report"]
    assert [axis["name"] for axis in data["axes"]] == ["data"]
    assert sorted(str(run["zero_loss"]) for run in data["runs"]) == ["1.0", "None", "None"]


def test_the_header_sums_the_cost_and_names_the_setup(tmp_path):
    page = page_of(saved(VARIED["several T, seeds and infinity"], tmp_path / "runs"), tmp_path)
    assert "8.0 minutes of wall time, summed over 8 runs" in page
    assert "<b>training examples T</b> = 3 · 5 · 300 · ∞" in page
    assert "<b>sparsity</b> = 0.9<" in page


def test_a_run_without_snapshots_says_how_to_get_them(tmp_path):
    page = page_of(saved(VARIED["no snapshots"], tmp_path / "runs"), tmp_path)
    assert "--snapshot-steps" in page
    assert data_in(page)["report"]["runs"][0]["snapshots"] is None


def test_an_empty_directory_is_refused_and_nothing_is_written(tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(ValueError, match=r"runs: received .*runs with no run files, accepted: "):
        write_report(tmp_path / "runs", tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
