"""The studies' claims on tables whose answer is known, and every study in a form that takes seconds."""

import dataclasses
import math
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from byheart.studies import Study, reproduce
from byheart.studies.catalogue import STUDIES
from byheart.studies.middle_regime import _families
from byheart.studies.readme import MARK
from byheart.studies.study import Tables, judge, read_tables, train_toy
from byheart.toy.config import TrainConfig, log_spaced_steps
from byheart.toy.reference import paper_reference
from byheart.toy.runs import Header, Runs

RESULTS = Path(__file__).parents[2] / "results"
TOY = [name for name, study in STUDIES.items() if study.train is train_toy]
ASKED_FOR = {
    "double-descent",
    "phase-map",
    "phase-map-averaged",
    "weight-decay",
    "training-length",
    "generalisation-scale",
    "features-held",
    "repeats",
    "polygons",
    "middle-regime",
    "discrepancy",
    "as-published",
    "capacity",
    "variants",
    "two-views",
    "analytic",
    "mnist",
    "wrong-labels",
    "text-memorization",
    "text-double-descent",
    "staircase",
    "finetune",
    "forget",
}


def shortened(study: Study) -> Study:
    """The study's quick scale with 60 features, 20 steps, two seeds, and up to six training sets of up to 300."""

    def small(config: TrainConfig) -> TrainConfig:
        snapshots = log_spaced_steps(20, 4) if config.snapshot_steps else ()
        changed = {"n_features": 60, "n_steps": 20, "warmup_steps": None if config.warmup_steps else 0, "n_test": 50}
        if config.n_examples != "inf" and config.repeats:
            changed["n_examples"] = min(config.n_examples, 200)
        return dataclasses.replace(config, **changed, batch_size=50, snapshot_steps=snapshots)

    def groups(scale: str) -> dict[str, list[TrainConfig]]:
        found = {}
        for label, configs in study.groups("quick").items():
            own = list(dict.fromkeys(small(config) for config in configs if config.seed <= 1))
            sizes = sorted({float(config.n_examples) for config in own if config.n_examples != "inf"})[:6]
            found[label] = [c for c in own if c.n_examples == "inf" or (c.n_examples in sizes and c.n_examples <= 300)]
        return {label: configs for label, configs in found.items() if configs}

    return dataclasses.replace(study, groups=groups)


def test_all_studies_that_were_asked_for_are_there():
    assert set(STUDIES) >= ASKED_FOR


@pytest.mark.slow
@pytest.mark.parametrize("name", TOY)
def test_a_study_runs_small_and_judges_every_claim(name, tmp_path):
    study = shortened(STUDIES[name])
    verdicts = reproduce(study, "quick", tmp_path, n_workers=1)
    assert list(verdicts["claim"]) == [claim.id for claim in study.claims if not claim.paper_setup_only]
    assert set(verdicts["verdict"]) <= {"reproduced", "differs", "inconclusive"}
    assert all(verdicts["ours"].str.len() > 0)
    readme = (tmp_path / "README.md").read_text()
    assert study.question in readme
    assert all(statement.replace("|", "\\|") in readme for statement in verdicts["statement"])
    for image in tmp_path.glob("*.png"):
        assert f"({image.name})" in readme
    assert list(tmp_path.glob("*.png"))
    tables = read_tables(tmp_path.glob("*.csv"))
    assert set(tables["runs"]["id"]) == {config.run_id() for config in study.configs_up_to("quick")}
    pd.testing.assert_frame_equal(judge(study, tables), tables["verdicts"])


def test_a_study_leaves_its_tables_and_figures_and_a_persons_words(tmp_path):
    study = dataclasses.replace(shortened(STUDIES["double-descent"]))
    (tmp_path / "README.md").write_text(f"# A person's words\n\n{MARK}\nold\n")
    with ThreadPoolExecutor(1) as pool:
        reproduce(study, "quick", tmp_path, max_examples=5, executor=pool)
    tables = {f"{name}.csv" for name in ("runs", "verdicts", "cost", "by-size", "dimensionalities", "vectors")}
    assert {p.name for p in tmp_path.iterdir()} == {
        "runs",
        "README.md",
        "overview.png",
        "double-descent.png",
        "norms.png",
    } | tables
    assert pd.read_csv(tmp_path / "cost.csv")["n_runs"].sum() == len(pd.read_csv(tmp_path / "runs.csv")) == 6
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("# A person's words\n")
    assert "old" not in text.split(MARK)[1]
    assert "byheart reproduce double-descent --scale quick --max-examples 5" in text


@pytest.mark.parametrize(
    ("name", "n_runs", "limit", "parts"),
    [
        ("double-descent", 8, "max_examples", (4, 5, 6)),
        ("as-published", 12, "max_examples", (4, 5, 6)),
        ("phase-map-averaged", 32, "max_seeds", (1, 2)),
    ],
)
def test_runs_whose_files_are_gone_are_added_to_as_if_all_had_run_at_once(tmp_path, name, n_runs, limit, parts):
    study = shortened(STUDIES[name])
    with ThreadPoolExecutor(1) as pool:
        reproduce(study, "quick", tmp_path / "whole", **{limit: parts[-1]}, executor=pool)
        for most in (*parts, parts[-1]):  # the last adds nothing
            reproduce(study, "quick", tmp_path / "parts", **{limit: most}, add=most > parts[0], executor=pool)
            shutil.rmtree(tmp_path / "parts" / "runs")
    whole, parts = (read_tables((tmp_path / name).glob("*.csv")) for name in ("whole", "parts"))
    assert set(whole) == set(parts)
    assert len(parts["runs"]) == parts["cost"]["n_runs"].sum() == n_runs
    for name in set(whole) - {"runs", "cost"}:
        pd.testing.assert_frame_equal(parts[name], whole[name], rtol=1e-3)  # spreads of rounded values
    pd.testing.assert_frame_equal(
        parts["runs"].drop(columns="wall_seconds"), whole["runs"].drop(columns="wall_seconds"), check_like=True
    )
    assert f"--{limit.replace('_', '-')} {most}" in (tmp_path / "parts" / "README.md").read_text()
    assert "--add" not in (tmp_path / "parts" / "README.md").read_text()


def test_runs_are_added_only_to_tables_that_the_command_would_make_too(tmp_path):
    study = shortened(STUDIES["double-descent"])
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ValueError, match="without a README.md of results, accepted: what reproduce left"):
            reproduce(study, "quick", tmp_path, add=True, executor=pool)
        reproduce(study, "quick", tmp_path, max_examples=4, executor=pool)
        with pytest.raises(ValueError, match="with 2 runs that are none of this command, accepted: the scale,"):
            reproduce(study, "quick", tmp_path, max_examples=3, add=True, executor=pool)
        with pytest.raises(ValueError, match="add: received polygons, accepted: a study of which tables can be added"):
            reproduce("polygons", "quick", tmp_path, add=True, executor=pool)


def test_a_name_that_no_study_has_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="study: received 'triple-descent', accepted: double-descent, "):
        reproduce("triple-descent", "quick", tmp_path)
    with pytest.raises(ValueError, match="max_examples: received 2, accepted: at least 3"):
        reproduce("double-descent", "quick", tmp_path, max_examples=2)
    with pytest.raises(ValueError, match="max_seeds: received 0, accepted: at least 1"):
        reproduce("double-descent", "quick", tmp_path, max_seeds=0)
    with pytest.raises(ValueError, match="max_seeds: received 1 with mnist, accepted: with other studies"):
        reproduce("mnist", "quick", tmp_path, max_seeds=1)


@pytest.mark.parametrize("name", TOY)
def test_of_every_size_there_are_at_most_so_many_seeds_as_are_asked_for(name):
    study = STUDIES[name]
    for most in (1, 2):
        seeds = {config.seed for config in study.configs_up_to("quick", max_seeds=most)}
        assert seeds == set(range(most))
    assert set(study.configs_up_to("quick", max_seeds=1_000)) == set(study.configs_up_to("quick"))


@pytest.mark.parametrize("name", TOY)
def test_claims_are_data_and_scales_differ(name):
    study = STUDIES[name]
    assert len({claim.id for claim in study.claims}) == len(study.claims)
    for claim in study.claims:
        assert claim.statement
        assert claim.source
        assert claim.paper
        assert claim.refuted_if
    for scale in ("quick", "medium", "paper"):
        groups = study.groups(scale)
        assert all(len(set(configs)) == len(configs) > 0 for configs in groups.values())
        assert len({config.seed for config in study.configs_up_to(scale)}) >= 2
    configs = {scale: study.configs_up_to(scale) for scale in ("quick", "medium")}
    assert len(configs["medium"]) > len(configs["quick"])
    work = {scale: sum(c.n_steps * c.n_features for c in found) for scale, found in configs.items()}
    assert work["quick"] < work["medium"]


def of_one_run(tables: Tables) -> Tables:
    """What is left of the tables with one training set of one size."""
    first, found = tables["runs"].iloc[0], {}
    for name, table in tables.items():
        for column in ("n_examples", "seed"):
            table = table[table[column] == first[column]] if column in table else table
        found[name] = table.head(1)
    return found


@pytest.mark.parametrize("name", TOY)
def test_runs_that_are_missing_are_not_judged(name):
    """With the runs of one configuration, no claim is reproduced or refuted but by what these runs show."""
    tables = of_one_run(read_tables((RESULTS / name).glob("*.csv")))
    verdicts = judge(STUDIES[name], tables)
    assert set(verdicts["verdict"]) <= {"inconclusive"}, verdicts[["claim", "verdict", "ours"]]


def made_up(name: str, scale: str, loss, keep=lambda config: True, **metrics) -> Tables:
    """The tables of a study's runs, if they had this test loss and these metrics: numbers, or functions of the config.

    With a little spread of test loss over seeds; not of studies that look at weights.
    """
    usual = dict.fromkeys(("train_loss", "W_norm", "b_norm", "example_dimensionality_mean"), 1.0)
    usual |= {"n_features_represented": 0.0, "feature_dimensionality_max": 0.1}

    def header(config: TrainConfig) -> Header:
        found = {key: value(config) if callable(value) else value for key, value in (usual | metrics).items()}
        found["test_loss"] = loss(config) * (1 + 1e-3 * (config.seed % 4 - 1.5))
        return Header(Path(f"{config.run_id()}.safetensors"), config, found, {"wall_seconds": 1.0}, "")

    groups = {
        label: Runs([header(config) for config in configs if keep(config)])
        for label, configs in STUDIES[name].groups(scale).items()
    }
    return STUDIES[name].tables({label: runs for label, runs in groups.items() if len(runs)})


def verdicts_of(name: str, tables: Tables) -> dict[str, str]:
    verdicts = judge(STUDIES[name], tables)
    return dict(zip(verdicts["claim"], verdicts["verdict"], strict=True))


def bump(config: TrainConfig, height: float) -> float:
    """One at both ends, 1 + height in the middle (log scale) of T from 30 to 2,000."""
    x = (math.log(config.n_examples) - math.log(245)) / math.log(3)
    return 1 + height * math.exp(-(x**2))


def averaged(loss):
    """The loss as runs that average over features report it."""
    return lambda c: loss(c) / (c.n_features if c.reduction == "mean" else 1)


def test_weight_decay_that_removes_the_bump():
    def loss(c: TrainConfig) -> float:
        return bump(c, max(-math.log10(c.weight_decay), 0)) * c.n_examples ** (-1e-3 * (c.weight_decay == 1))

    found = verdicts_of("weight-decay", made_up("weight-decay", "medium", averaged(loss)))
    assert len(found) == 6
    assert set(found.values()) == {"reproduced"}


def test_weight_decay_that_does_nothing():
    found = verdicts_of("weight-decay", made_up("weight-decay", "medium", averaged(lambda c: bump(c, 2))))
    for reduction in ("sum", "mean"):
        assert found[f"less-decay-larger-bump-{reduction}"] == found[f"gone-at-1-{reduction}"] == "differs"


@pytest.mark.parametrize(("sign", "expected"), [(1, "reproduced"), (-1, "differs")])
def test_longer_training_and_the_bump(sign, expected):
    tables = made_up("training-length", "medium", averaged(lambda c: bump(c, math.log(c.n_steps) ** sign)))
    found = verdicts_of("training-length", tables)
    assert found["longer-is-larger-sum"] == found["longer-is-larger-mean"] == expected


def test_a_ridge_is_found_along_both_axes():
    def ridge(c: TrainConfig) -> float:
        return 1 + 5 * math.exp(-((math.log(c.n_examples) - math.log(30 * c.n_hidden)) ** 2))

    for name in ("phase-map", "phase-map-averaged"):
        found = verdicts_of(name, made_up(name, "medium", averaged(ridge)))
        assert {found[claim] for claim in ("more-data-hurts", "bigger-model-hurts", "ridge")} == {"reproduced"}
    flat = verdicts_of("phase-map", made_up("phase-map", "medium", lambda c: 1 / c.n_examples + 1 / c.n_hidden))
    assert {flat[claim] for claim in ("more-data-hurts", "bigger-model-hurts")} == {"differs"}
    below = verdicts_of("phase-map", made_up("phase-map", "medium", lambda c: ridge(c) / 10))
    assert (below["more-data-hurts"], below["ridge"]) == ("reproduced", "inconclusive")


@pytest.mark.parametrize(
    ("scale_of", "expected"),
    [
        (
            lambda c: 1 / (1 - c.sparsity),
            {"weight-decay-does-not-matter": "reproduced", "ten-occurrences-m2": "reproduced"},
        ),
        (lambda c: 100 * (c.weight_decay / 1e-2) ** 0.17, {"weight-decay-does-not-matter": "differs"}),
        (
            lambda c: 100 * (c.weight_decay / 1e-2) ** 0.5,
            {"weight-decay-does-not-matter": "inconclusive"},
        ),  # never at 1
        (
            lambda c: (1 if c.n_hidden == 2 else 10) / (1 - c.sparsity),  # with more hidden units beyond the range
            {"ten-occurrences-m2": "reproduced", "ten-occurrences-m4": "differs"},
        ),
        (lambda c: (c.seed % 2 + 0.5) / (1 - c.sparsity), {"ten-occurrences-m2": "inconclusive"}),
        (  # one dataset in which nothing jumps
            lambda c: (1 if c.seed else 10) / (1 - c.sparsity),
            {"ten-occurrences-m2": "inconclusive", "weight-decay-does-not-matter": "inconclusive"},
        ),
    ],
)
def test_what_sets_the_generalisation_scale(scale_of, expected):
    scale = "medium" if "ten-occurrences-m4" in expected else "quick"  # which has m = 2 alone
    largest = lambda c: 0.25 if c.n_examples >= 9 * scale_of(c) else 0.01  # noqa: E731
    found = verdicts_of(
        "generalisation-scale",
        made_up("generalisation-scale", scale, lambda c: 1.0, feature_dimensionality_max=largest),
    )
    assert {claim: found[claim] for claim in expected} == expected


def discrepancy(of_paper) -> dict[str, str]:
    """The verdicts on runs with the paper's curve where ``of_paper(config)``, with Jermyn's elsewhere."""

    def loss(c: TrainConfig) -> float:
        occurrences = c.n_examples * (1 - c.sparsity)
        if of_paper(c):
            return 0.99 if occurrences > 4.9 else 1.01
        return 0.99 if occurrences > 9.9 else 100.0 if occurrences > 0.5 else 1.01

    return verdicts_of("discrepancy", made_up("discrepancy", "paper", averaged(loss)))


def test_the_one_change_is_named():
    found = discrepancy(lambda c: c.eps * (c.n_features if c.reduction == "mean" else 1) > 5e-6)
    # The norms of these runs, and the losses to the fourth digit, are nobody's.
    nobodys = {"norm-peak", "the-papers-curve", "averaged-bump", "level-norm", "norm-of-b"}
    assert {claim for claim, verdict in found.items() if verdict != "reproduced"} == nobodys


def test_another_cause_refutes_it():
    found = discrepancy(lambda c: c.weight_decay_in_gradient)
    assert {found[claim] for claim in ("mean-is-the-papers", "eps-is-the-papers", "nothing-else")} == {"differs"}
    assert found["as-stated-is-jermyns"] == "reproduced"


def test_a_low_loss_at_one_size_leaves_the_question_open():
    assert discrepancy(lambda c: not c.decay_bias)["nothing-else"] == "inconclusive"


@pytest.mark.parametrize(
    ("spread", "factor", "curve", "peak"),
    [
        (1e-4, 1, "reproduced", "reproduced"),
        (1e-2, 1, "inconclusive", "inconclusive"),
        (1e-4, 1.01, "differs", "reproduced"),
    ],
)
def test_the_papers_curve_needs_a_small_spread(spread, factor, curve, peak):
    paper = paper_reference().set_index("n_examples")["test_loss"].fillna(1.1)

    def loss(c: TrainConfig) -> float:
        return factor * paper[c.n_examples] * (1 + (spread - 1e-3) * (c.seed % 4 - 1.5)) / c.n_features

    tables = made_up("discrepancy", "paper", loss, lambda c: c.reduction == "mean" and c.eps == 1e-8)
    found = verdicts_of("discrepancy", tables)
    assert (found["the-papers-curve"], found["averaged-bump"]) == (curve, peak)


@pytest.mark.parametrize(
    ("growth", "times", "expected"), [(0.4, 3, "reproduced"), (0.0, 1, "differs"), (0.1, 10, "differs")]
)
def test_norms_as_jermyn_saw_them(growth, times, expected):
    """As stated the norm of W grows as T^growth and that of b is so many times larger; averaged W is level."""
    tables = made_up(
        "discrepancy",
        "paper",
        averaged(lambda c: 1.0),
        W_norm=lambda c: c.n_examples**growth if c.reduction == "sum" else 20.0,
        b_norm=lambda c: float(times) if c.reduction == "sum" else 1.0,
    )
    found = verdicts_of("discrepancy", tables)
    assert found["level-norm"] == found["norm-of-b"] == expected


@pytest.mark.parametrize(("n_features", "expected"), [(0, "differs"), (5, "reproduced")])
def test_a_broken_polygon_does_not_generalise(n_features, expected):
    rows = [
        (t, seed, start, 1.5 if start == "drawn" else 0.99, 0.9, n_features, 1e-3)
        for t in (30, 100, 300)
        for seed in (0, 1)
        for start in ("drawn", "built")
    ]
    names = ["n_examples", "seed", "initialization", "test_loss", "train_loss", "n_features_represented"]
    runs = pd.DataFrame(rows, columns=[*names, "learning_rate"]).assign(sparsity=0.99, n_features=1_000)
    tables = read_tables((RESULTS / "middle-regime").glob("*.csv")) | {"runs": runs, "families": _families(runs)}
    claim = next(claim for claim in STUDIES["middle-regime"].claims if claim.id == "sudden")
    assert claim.test(tables).verdict == expected


def table_of_rows(columns: str, *rows: tuple) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns.split())


@pytest.mark.parametrize(("fewer", "expected"), [(0, "reproduced"), (1, "differs")])
def test_stored_examples_each_replace_a_feature(fewer, expected):
    """In two datasets, one example repeated five times and k of them repeated 20 times, up to five are stored."""
    cases = [(1, 5), (1, 20), (2, 20), (3, 20), (5, 20), (8, 20)]
    rows = [(k, r, seed, min(k, 5) - fewer, 5 - min(k, 5)) for k, r in cases for seed in (0, 1)]
    tables = {"stored": table_of_rows("n_repeated repeats seed n_stored n_features", *rows)}
    claims = {claim.id: claim for claim in STUDIES["repeats"].claims}
    for name in ("replaces-one-feature", "each-is-stored", "each-replaces-one", "five-of-many"):
        assert claims[name].test(tables).verdict == expected, name


@pytest.mark.parametrize(
    ("threshold", "few", "law", "small"),
    [
        (lambda t: max(0.4 * t / 1_000, 3.5), "reproduced", "reproduced", "reproduced"),
        (lambda t: 0, "differs", "differs", "differs"),
        (lambda t: t / 1_000, "reproduced", "differs", "reproduced"),
        (lambda t: math.inf, "inconclusive", "inconclusive", "reproduced"),
    ],
)
def test_where_a_repeated_example_is_memorized(threshold, few, law, small):
    from byheart.studies import repeats

    rows = [
        (repeats._ONE if t == 3_000 else repeats._OTHERS, t, r, seed, r > threshold(t))
        for t in (1_000, 3_000, 10_000)
        for r in (1, 2, 3, 4, 5, 6, 8, 10, 20)
        for seed in range(4)
    ]
    boundary = table_of_rows("group n_examples repeats seed memorized", *rows)
    tables = {"boundary": boundary, "thresholds": repeats._thresholds(boundary)}
    tables["runs"] = pd.DataFrame({"n_features": [1_000]})
    claims = {claim.id: claim for claim in STUDIES["repeats"].claims}
    found = [claims[name].test(tables).verdict for name in ("few-repeats", "law", "more-at-small-T")]
    assert found == [few, law, small]


@pytest.mark.parametrize(("failing", "expected"), [(0, "differs"), (1, "inconclusive"), (50, "reproduced")])
def test_octagons_that_fail(failing, expected):
    rows = [(8, seed, "regular polygon" if seed >= failing else "two circles") for seed in range(100)]
    claim = next(claim for claim in STUDIES["polygons"].claims if claim.id == "eight-fails")
    assert claim.test({"outcomes": table_of_rows("n_examples seed arrangement", *rows)}).verdict == expected


@pytest.mark.parametrize(
    ("n_on_top", "n_features", "expected"), [(2, 5, "reproduced"), (1, 5, "differs"), (2, 0, "differs")]
)
def test_repeated_examples_and_features_are_told_apart(n_on_top, n_features, expected):
    rows = [(2, n_on_top, n_features, 2, seed) for seed in (0, 1)]
    budgets = table_of_rows("n_repeated n_on_top n_features n_known seed", *rows)
    claim = next(claim for claim in STUDIES["two-views"].claims if claim.id == "told-apart")
    assert claim.test({"budgets": budgets}).verdict == expected


@pytest.mark.parametrize(
    ("up_to", "expected"),
    [
        (lambda rate: {3e-4: 10, 1e-3: 20, 3e-3: 40}[rate], "reproduced"),
        (lambda rate: 10, "differs"),
        (lambda rate: {3e-4: 6, 1e-3: 10, 3e-3: 10}[rate], "inconclusive"),
    ],
)
def test_what_adam_reaches(up_to, expected):
    tables = made_up(
        "analytic",
        "medium",
        lambda c: 1.0,
        lambda c: c.n_examples != "inf",
        train_loss=lambda c: 1e-6 if c.n_examples <= up_to(c.learning_rate) else 0.05,
    )
    assert verdicts_of("analytic", tables)["reach"] == expected
