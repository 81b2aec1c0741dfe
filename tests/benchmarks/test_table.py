"""Tables, verdicts and rows in words on made-up numbers whose answers are known."""

import dataclasses
from pathlib import Path

import pytest

from benchmarks.results import (
    KINDS,
    Ceilings,
    Measurement,
    Results,
    Size,
    SweepTiming,
    TrainedRun,
    Wait,
    file_of,
    kind_here,
)
from benchmarks.summary import FRONT, load_all, rows_in_words, with_rows, write_all
from benchmarks.summary import page as summary
from benchmarks.table import MARK, duration, number, page
from benchmarks.targets import fastest_whole, targets, whole_seconds

ROOT = Path(__file__).parents[2]

MACHINE = {
    "byheart": "0.1.0",
    "git_revision": "0123456789ab",
    "python": "3.11.7",
    "numpy": "2.4.6",
    "numba": "0.68.1",
    "kernel": "cpu",
    "device": "Some CPU, 2 cores",
    "n_threads": 2,
    "started": "2026-11-22T15:00:00Z",
    "memory_bytes": 24 * 2**30,
    "gpu": "",
    "load_before": 0.1,
    "libraries": {"torch": "2.13.0", "jax": "0.10.2"},
    "instructions": "avx512",
    "n_calls": 1,
    "n_features": 10_000,
    "sparsity": 0.999,
    "n_rounds": 3,
    "seconds_per_round": 0.25,
}


def measured(contender, seconds, n_hidden=2, n_examples=10_000, trained_steps=0, run_steps=0, **fields):
    size = Size(n_hidden, n_examples, 10_000, 0.999, trained_steps, run_steps or trained_steps)
    spread = () if seconds is None else (seconds * 0.9, seconds, seconds * 1.2)
    return Measurement(size, contender, spread, 10, {"loss": 0.5, "grad_W": 0.1}, 400_000_000, 150_000_000, **fields)


CEILINGS = Ceilings(200e9, 190e9, 20e9)


def results(*measurements, ceilings=(CEILINGS,), **fields):
    return Results(MACHINE, measurements, ceilings, **fields)


def row(found, part):
    lines = summary({"avx512": found}).split("## Targets")[1].split("\n")
    (matching,) = [line.split(" | ") for line in lines if line.startswith("| ") and part in line]
    return tuple(cell.strip(" |") for cell in matching[1:])


def test_the_fastest_peer_counts_and_our_kernel_without_skipping():
    found = results(
        measured("byheart", 0.001),
        measured("byheart-dense", 0.010),
        measured("torch-eager", 4.0),
        measured("torch-compile", 2.0),
        measured("jax-sparse", 0.9),
    )
    assert row(found, "m = 2, T = 10,000, random weights: over") == ("at least 80 times", "90 times", "met")
    assert row(found, "m = 2, T = 1,000, random weights: over") == ("at least 80 times", "", "not measured")
    eager = results(measured("byheart-dense", 0.010), measured("jax", 0.9), measured("torch-eager", 0.7))
    assert row(eager, "m = 2, T = 10,000, random weights: over") == ("at least 80 times", "70 times", "not met")


def test_at_trained_weights_byheart_is_compared_as_it_is():
    found = results(
        measured("byheart-dense", 0.010, n_hidden=8),
        measured("jax", 0.1, n_hidden=8),
        measured("byheart", 0.005, n_hidden=8, trained_steps=1_000),
        measured("byheart-dense", 0.010, n_hidden=8, trained_steps=1_000),
        measured("jax", 0.1, n_hidden=8, trained_steps=1_000),
    )
    assert row(found, "m = 8, T = 10,000, trained") == ("at least 12 times", "20 times", "met")


def test_the_least_of_three_cells_counts_and_all_three_must_be_there():
    def at(*ratios):
        cells = zip((10, 100, 1_000), ratios, strict=False)
        return results(
            *(
                measured(name, seconds, n_hidden=32, n_examples=T)
                for T, ratio in cells
                for name, seconds in (("byheart-dense", 1.0), ("jax", ratio))
            )
        )

    assert row(at(1.5, 1.25, 2.0), "m = 32, T = 10, 100 and 1,000") == ("at least 1.3 times", "1.25 times", "not met")
    assert row(at(1.5, 1.35, 2.0), "m = 32, T = 10, 100 and 1,000")[2] == "met"
    assert row(at(1.5, 1.35), "m = 32, T = 10, 100 and 1,000")[2] == "not measured"


END = Size(2, 10_000, 10_000, 0.999, 50_000, 50_000)
RUN = TrainedRun(END, (10_000, 50_000), 100.0, 0.01)


def test_a_whole_run_is_the_trapezoid_of_a_peers_steps_and_the_clock_of_ours():
    found = results(
        measured("jax", 0.3),
        measured("jax", 0.1, trained_steps=10_000, run_steps=50_000),
        measured("jax", 0.2, trained_steps=50_000),
        measured("torch-compile", 0.1),
        measured("torch-compile", 0.001, trained_steps=2_000),  # of another run
        measured("torch-compile", 0.001, trained_steps=50_000),  # not timed at every point
        runs=(RUN,),
    )
    assert whole_seconds(found, RUN, "jax") == pytest.approx(10_000 * 0.2 + 40_000 * 0.15)
    assert whole_seconds(found, RUN, "torch-compile") is None
    assert fastest_whole(found, RUN) == (pytest.approx(8_000), "jax")
    assert row(found, "a whole run, m = 2") == ("at least 120 times", "80 times", "not met")
    assert "| 2 | 10,000 | 50,000 | 100 s |  | 2.22 h (JAX jit) | 80x | 2 |" in page(found)
    faster = dataclasses.replace(found, runs=(dataclasses.replace(RUN, wall_seconds=50.0),))
    assert row(faster, "a whole run, m = 2")[2] == "met"


def test_where_a_peer_disagrees_the_steps_before_and_after_stand_for_those():
    run = dataclasses.replace(RUN, points=(10_000, 40_000, 50_000))

    def whole(*seconds):
        steps = zip((0, *run.points), seconds, strict=True)
        timed = [measured("jax", s, trained_steps=n, run_steps=50_000 if n else 0) for n, s in steps]
        return whole_seconds(results(*timed, runs=(run,)), run, "jax")

    assert whole(0.2, 0.2, 0.1, None) == pytest.approx(10_000 * 0.2 + 30_000 * 0.15 + 10_000 * 0.1)
    assert whole(0.2, None, 0.1, 0.1) == pytest.approx(40_000 * 0.15 + 10_000 * 0.1)
    assert whole(None, 0.2, 0.1, 0.1) is None
    assert whole(0.2, 0.2, None, None) is None  # of the second half nothing is known


WAITS = {
    "help": Wait(0.5, 0.4),
    "first": Wait(7.9, 8.1),
    "wider": Wait(4.0, 4.1),
    "again": Wait(1.3, 1.2),
    "idle": Wait(4.0, 7.0),
    "busy": Wait(11.0, 7.0),
    "small": Wait(0.02, 0.019),
    "dense": Wait(0.006, 0.012),
    "look": Wait(0.004, 0.011),
}


def test_waits_are_judged_by_cpu_time_but_for_those_of_the_clock():
    sweep = SweepTiming(200, 2_000, (3, 10), 2, wall_seconds=6.1, kernel_seconds=10.0)
    found = results(waits=WAITS, sweep=sweep)
    assert row(found, "first run") == ("at most 8 s", "8.1 s", "not met")
    assert row(found, "then m = 8") == ("at most 3 s", "2.9 s", "met")
    assert row(found, "100 steps, its steps included") == ("at most 20 ms", "19 ms", "met")
    assert row(found, "beside one busy process") == ("at most 2.5 times", "2.75 times", "not met")
    assert row(found, "a look at the train loss") == ("at most 1 times", "0.917 times", "met")
    assert row(found, "--help") == ("at most 0.5 s", "0.4 s", "met")
    assert row(found, "a sweep of small runs, over") == ("at most 0.6 times", "0.61 times", "not met")


def test_the_share_of_one_product_is_at_the_best_rate_of_numpy():
    # 2 * 128 * 1e8 operations at 190 GFLOP/s take 0.135 s
    found = results(measured("byheart", 0.2, n_hidden=128, trained_steps=100))
    assert row(found, "share of a step that one product takes") == ("at least 60 %", "67.4 %", "met")


def test_a_peer_that_was_not_timed_gives_no_ratio():
    found = results(measured("byheart-dense", 0.01), measured("jax", None, problem="disagrees: loss off by 3 times"))
    assert row(found, "m = 2, T = 10,000, random weights: over")[2] == "not measured"
    text = page(found)
    assert "| disagrees |" in text
    assert "Not timed: JAX jit at m = 2, T = 10,000: disagrees: loss off by 3 times." in text
    assert "| failed |" in page(results(measured("jax", None, problem="killed by SIGKILL")))


def test_shares_are_of_the_best_ceiling_measured():
    # 6 * 2 * 1e8 operations in 10 ms are 120 GFLOP/s
    found = results(
        measured("byheart-dense", 0.010),
        ceilings=(Ceilings(100e9, 190e9, 20e9), Ceilings(160e9, 192e9, 10e9), Ceilings(150e9, 150e9, 30e9)),
    )
    assert row(found, "share of the multiply-add peak") == ("at least 70 %", "75 %", "met")
    with_peer = dataclasses.replace(found, measurements=(*found.measurements, measured("jax", 0.9)))
    assert "| 10 ms | 900 ms (JAX jit) | 90x | 120x |" in page(with_peer)  # 7.5 ms at the peak
    assert found.best_ceilings() == Ceilings(160e9, 192e9, 30e9)
    assert "| multiply-add (float32, in registers) | 160 GFLOP/s | 100 to 160 |" in page(found)


def test_skipping_is_judged_at_trained_weights_only():
    found = results(
        measured("byheart", 0.010),
        measured("byheart-dense", 0.010),
        measured("byheart", 0.002, trained_steps=50_000),
        measured("byheart-dense", 0.012, trained_steps=50_000),
    )
    assert row(found, "m = 2, T = 10,000, trained weights: skipping") == ("at least 5 times", "6 times", "met")
    assert row(found, "m = 2, T = 1,000, trained weights: skipping")[2] == "not measured"
    line = "| 2 | 10,000 | 50,000 of 50,000 |  | 2 ms (1.8 to 2.4) | 12 ms (10.8 to 14.4) |  | 6x |"
    assert line in page(found)
    assert line.replace("|  | 2 ms", "| 1 % | 2 ms") in page(dataclasses.replace(found, runs=(RUN,)))


def test_memory_and_growth_are_judged_at_a_million_examples():
    def at(seconds):
        big = [measured(name, seconds, n_examples=1_000_000) for name in ("byheart", "byheart-dense")]
        small = [measured(name, 0.010) for name in ("byheart", "byheart-dense")]
        return results(*small, *[dataclasses.replace(m, peak_bytes=1_000_000_001) for m in big])

    assert row(at(1.0), "peak memory") == ("at most 1 GB", "1 GB", "not met")
    assert row(at(1.04), "cost per example") == ("at most 1.05 times", "1.04 times", "met")
    assert row(at(1.06), "cost per example")[2] == "not met"


def test_every_target_of_the_issue_is_there():
    assert [target.verdict for target in targets(results())] == ["not measured"] * 26


def test_the_page_names_machine_versions_and_revision_and_counts_the_targets():
    sweep = SweepTiming(100, 10_000, (3, 10), 2, wall_seconds=10.0, kernel_seconds=15.0)
    found = results(measured("byheart-dense", 0.010), measured("jax", 0.9), sweep=sweep)
    text = page(found)
    assert "# Benchmark, AVX-512" in text
    assert "Some CPU, 2 cores, AVX-512, 24 GiB, no GPU; 2 thread(s); byheart 0.1.0" in text
    assert "revision 0123456789ab, 2026-11-22; load at the start 0.1." in text
    assert "75 % of the workers' time went into steps" in text
    assert "| 2 | 10,000 | 10 ms | 900 ms (JAX jit) | 90x |" in text
    assert "1 of 3 measured targets are met with AVX-512." in summary({"avx512": found})
    assert row(found, "share of the multiply-add peak")[2] == "not met"
    assert "GPU: NVIDIA H100, not measured here" in page(
        dataclasses.replace(found, machine={**MACHINE, "gpu": "NVIDIA H100"})
    )


def test_nothing_measured_makes_a_page_too():
    assert page(results()).startswith(f"{MARK}\n# Benchmark")


def test_the_rows_of_a_table_have_as_many_cells_as_its_header():
    found = results(
        *(measured(name, 0.01) for name in ("byheart", "byheart-dense", "torch-eager", "jax")),
        *(measured(name, 0.1, n_examples=1_000_000) for name in ("byheart", "byheart-dense")),
        measured("byheart", 0.01, trained_steps=7),
        ceilings=(Ceilings(1e11, 1e11, 1e10),),
        waits=WAITS,
        runs=(RUN,),
    )
    for block in (page(found) + summary({"avx512": found, "avx2": found})).split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.strip().split("\n")}) == 1, block


def test_results_survive_their_file(tmp_path):
    found = results(
        measured("byheart", 0.01),
        ceilings=(Ceilings(1, 2, 3),),
        sweep=SweepTiming(1, 2, (3,), 4, 5.0, 6.0),
        waits=WAITS,
        runs=(RUN,),
    )
    path = file_of(tmp_path, "avx2")
    found.save(path)
    assert Results.load(path) == found
    path.write_text('{"machine": {}}')
    with pytest.raises(ValueError, match="accepted: what python -m benchmarks wrote"):
        Results.load(path)


def whole(seconds, instructions):
    machine = {**MACHINE, "instructions": instructions}
    run = dataclasses.replace(RUN, wall_seconds=seconds)
    cells = [measured("jax", 0.15, trained_steps=step, run_steps=50_000) for step in (10_000, 50_000)]
    start = [measured("byheart", 0.01), measured("jax", 0.15)]
    start = [dataclasses.replace(m, peak_bytes=n) for m, n in zip(start, (232_000_000, 1_761_000_000), strict=True)]
    sweep = SweepTiming(200, 2_000, (3, 10), 2, wall_seconds=18.0, kernel_seconds=31.0)
    return Results(machine, (*start, *cells), waits=WAITS, runs=(run,), sweep=sweep)


def test_a_newcomer_reads_four_rows_with_two_columns_per_kind_of_machine():
    header, _, *rows = rows_in_words({"avx512": whole(75.0, "avx512"), "avx2": whole(150.0, "avx2")}).split("\n")
    assert header == "| what you wait for | byheart, AVX-512 | beside it | byheart, AVX2 | beside it |"
    first, small, long, memory = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in rows)
    assert first[1:3] == ["7.9 s", "1.3 s from then on"]
    assert small[1] == "200 runs of 2,000 steps on 2 core(s): 18 s"
    assert small[2] == "31 s: nothing but their steps, on one core"
    assert long[1] == "75 s"
    assert long[2] == "2.08 h, 100 times as long: JAX jit, the fastest of PyTorch and JAX"
    assert long[3] == "2.5 min"
    assert long[4].startswith("2.08 h, 50 times as long")
    assert memory[1:3] == ["232 MB", "1,761 MB: the least that one of them takes"]
    assert "not measured" in rows_in_words({"avx2": results()})


def test_every_kind_has_a_page_and_only_what_is_between_the_marks_of_a_readme_is_replaced(tmp_path):
    directory = tmp_path / "benchmarks"
    directory.mkdir()
    with pytest.raises(ValueError, match="results-KIND.json, accepted: what python -m benchmarks wrote"):
        load_all(directory)
    for name, seconds in (("avx2", 150.0), ("avx512", 75.0)):
        whole(seconds, name).save(file_of(directory, name))
    front = tmp_path / "README.md"
    front.write_text(f"# A\n\n{FRONT[0]}\nold\n{FRONT[1]}\n\n## After\n")
    text = write_all(directory, front)
    assert (directory / "README.md").read_text() == text
    assert "[AVX-512](avx512.md), [AVX2](avx2.md)" in text
    assert (directory / "avx2.md").read_text().startswith(f"{MARK}\n# Benchmark, AVX2")
    assert front.read_text().startswith(f"# A\n\n{FRONT[0]}\n| what you wait for |")
    assert front.read_text().endswith(f"{FRONT[1]}\n\n## After\n")
    assert "old" not in front.read_text()
    assert "targets are met with AVX-512; " in front.read_text()
    (tmp_path / "other.md").write_text("no marks")
    write_all(directory, tmp_path / "other.md")
    assert (tmp_path / "other.md").read_text() == "no marks"


def test_readme_and_pages_say_what_the_results_say():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(text.count(mark) == 1 for mark in FRONT)
    there = [kind for kind in KINDS if file_of(ROOT / "benchmarks", kind).exists()]
    if there:
        found = load_all(ROOT / "benchmarks")
        assert with_rows(text, found) == text
        assert (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8") == summary(found)
        for kind in there:
            assert (ROOT / "benchmarks" / f"{kind}.md").read_text(encoding="utf-8") == page(found[kind])


def test_the_kind_of_a_machine_is_its_widest_instructions(monkeypatch):
    assert kind_here() in KINDS
    for features, kind in (("+avx2,+avx512f", "avx512"), ("+avx2,-avx512f", "avx2"), ("+neon", "other")):
        monkeypatch.setattr("numba.config.CPU_FEATURES", features)
        assert kind_here() == kind


def test_times_are_in_the_unit_in_which_a_person_says_them():
    assert [duration(s) for s in (0.000_02, 0.02, 7.9, 119.0, 150.0, 7_300.0)] == [
        "20 µs", "20 ms", "7.9 s", "119 s", "2.5 min", "2.03 h",
    ]  # fmt: skip


def test_numbers_have_three_digits_and_no_exponent():
    assert [number(x) for x in (0.0123456, 1.0, 99.96, 123.4, 999.7, 12345.6)] == [
        "0.0123", "1", "100", "123", "1,000", "12,346",
    ]  # fmt: skip
