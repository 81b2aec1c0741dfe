"""Tables and verdicts on made-up numbers whose answers are known."""

import dataclasses

import pytest

from benchmarks.results import Ceilings, Measurement, Results, Size, SweepTiming
from benchmarks.table import MARK, number, page
from benchmarks.targets import targets

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
    "n_rounds": 3,
    "seconds_per_round": 0.25,
}


def measured(contender, seconds, n_hidden=2, n_examples=10_000, trained_steps=0, **fields):
    size = Size(n_hidden, n_examples, 10_000, 0.999, trained_steps)
    spread = () if seconds is None else (seconds * 0.9, seconds, seconds * 1.2)
    return Measurement(size, contender, spread, 10, {"loss": 0.5, "grad_W": 0.1}, 400_000_000, 150_000_000, **fields)


CEILINGS = Ceilings(200e9, 190e9, 20e9)


def results(*measurements, ceilings=(CEILINGS,), **fields):
    return Results(MACHINE, measurements, ceilings, **fields)


def row(found, part):
    (matching,) = [line.split(" | ") for line in page(found).split("\n") if line.startswith("| m = ") and part in line]
    return tuple(cell.strip(" |") for cell in matching[1:])


def test_the_fastest_of_the_compiled_peers_counts_and_our_kernel_without_skipping():
    found = results(
        measured("byheart", 0.001),
        measured("byheart-dense", 0.010),
        measured("torch-eager", 4.0),
        measured("torch-eager-sparse", 3.0),
        measured("torch-compile", 2.0),
        measured("jax", 1.5),
        measured("jax-sparse", 0.9),
    )
    assert row(found, "m = 2, T = 10,000: over the fastest") == ("at least 80 times", "90 times", "met")
    assert row(found, "m = 2, T = 10,000: over PyTorch eager, as") == ("at least 400 times", "400 times", "met")
    assert row(found, "m = 2, T = 10,000: over PyTorch eager, sp") == ("at least 400 times", "300 times", "not met")
    assert row(found, "m = 2, T = 1,000: over the fastest") == ("at least 80 times", "", "not measured")


def test_a_peer_that_was_not_timed_gives_no_ratio():
    found = results(measured("byheart-dense", 0.01), measured("jax", None, problem="disagrees: loss off by 3 times"))
    assert row(found, "m = 2, T = 10,000: over the fastest")[2] == "not measured"
    text = page(found)
    assert "| disagrees |" in text
    assert "Not timed: JAX jit at m = 2, T = 10,000: disagrees: loss off by 3 times." in text
    assert "| failed |" in page(results(measured("jax", None, problem="killed by SIGKILL")))


def test_shares_are_of_the_best_ceiling_measured():
    # 6 * 2 * 1e8 operations in 10 ms are 120 GFLOP/s; 6 * 512 * 1e8 in 2 s are 153.6 GFLOP/s.
    found = results(
        measured("byheart-dense", 0.010),
        measured("byheart-dense", 2.0, n_hidden=512),
        ceilings=(Ceilings(100e9, 190e9, 20e9), Ceilings(160e9, 192e9, 10e9), Ceilings(150e9, 150e9, 30e9)),
    )
    assert row(found, "share of the multiply-add peak") == ("at least 70 %", "75 %", "met")
    assert row(found, "share of the sgemm rate") == ("at least 75 %", "80 %", "met")
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
    assert row(found, "m = 2, T = 10,000: skipping") == ("at least 5 times", "6 times", "met")
    assert row(found, "m = 2, T = 1,000: skipping")[2] == "not measured"
    assert "| 2 | 10,000 | 50,000 | 2 ms (1.8 to 2.4) | 12 ms (10.8 to 14.4) | 6x |" in page(found)


def test_memory_and_growth_are_judged_at_a_million_examples():
    def at(seconds):
        big = [measured(name, seconds, n_examples=1_000_000) for name in ("byheart", "byheart-dense")]
        small = [measured(name, 0.010) for name in ("byheart", "byheart-dense")]
        return results(*small, *[dataclasses.replace(m, peak_bytes=1_000_000_001) for m in big])

    assert row(at(1.0), "peak memory") == ("at most 1 GB", "1 GB", "not met")
    assert row(at(1.04), "cost per example") == ("at most 1.05 times", "1.04 times", "met")
    assert row(at(1.06), "cost per example")[2] == "not met"


def test_every_target_of_the_issue_is_there():
    assert [target.verdict for target in targets(results())] == ["not measured"] * 19


def test_the_page_names_machine_versions_and_revision_and_counts_the_targets():
    sweep = SweepTiming(100, 10_000, (3, 10), 2, wall_seconds=10.0, kernel_seconds=15.0)
    found = results(measured("byheart-dense", 0.010), measured("jax", 0.9), sweep=sweep)
    text = page(found)
    assert "Some CPU, 2 cores, 24 GiB, no GPU; 2 thread(s); byheart 0.1.0" in text
    assert "revision 0123456789ab, 2026-11-22; load at the start 0.1." in text
    assert "75 % of the workers' time went into steps" in text
    assert "| 2 | 10,000 | 10 ms | 900 ms (JAX jit) | 90x |" in text
    assert "1 of 2 measured targets are met" in text
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
    )
    for block in page(found).split("\n\n"):
        if block.startswith("|"):
            assert len({line.count("|") for line in block.split("\n")}) == 1, block


def test_results_survive_their_file(tmp_path):
    found = results(
        measured("byheart", 0.01), ceilings=(Ceilings(1, 2, 3),), sweep=SweepTiming(1, 2, (3,), 4, 5.0, 6.0)
    )
    found.save(tmp_path / "results.json")
    assert Results.load(tmp_path / "results.json") == found
    (tmp_path / "results.json").write_text('{"machine": {}}')
    with pytest.raises(ValueError, match="accepted: what python -m benchmarks wrote"):
        Results.load(tmp_path / "results.json")


def test_numbers_have_three_digits_and_no_exponent():
    assert [number(x) for x in (0.0123456, 1.0, 99.96, 123.4, 999.7, 12345.6)] == [
        "0.0123", "1", "100", "123", "1,000", "12,346",
    ]  # fmt: skip
