from __future__ import annotations

from benchmarks import listing


def test_a_store_of_a_few_runs_is_listed(tmp_path):
    row = listing.measure(3, tmp_path)
    assert row["n_runs"] == 3
    assert row["cpu_seconds"] > 0
    assert len(list(tmp_path.iterdir())) == 3
