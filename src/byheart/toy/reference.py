"""Values that stand beside those of a run: what others published about the paper's setup, and a ridge of ours."""

from __future__ import annotations

from importlib import resources

import pandas as pd


def paper_reference() -> pd.DataFrame:
    """Return the values read off the paper's main figure, one row per T; NaN where a value is off scale or not given.

    References:
        Henighan et al. 2023, Figure 3 (m = 2, n = 10,000, S = 0.999).
    """
    table = _read("henighan2023_double_descent.csv")
    return pd.DataFrame({name: pd.to_numeric(table[name], errors="coerce") for name in table})


def reproduction_norms() -> pd.DataFrame:
    """Return ||W|| and ||b|| by T of a public reproduction of the paper's setup (one seed), read off its plot."""
    return _read("exact_setup_norms.csv")


def smaller_ridge() -> pd.DataFrame:
    """Return n, m, and T(1 - S) of the highest test loss, errors summed: ours, of results/phase-map/ridge.csv."""
    table = _read("smaller_ridge.csv")
    return table.assign(occurrences=table["n_examples"] * (1 - table["sparsity"]))


def _read(name: str) -> pd.DataFrame:
    with resources.files("byheart.toy").joinpath(name).open() as file:
        return pd.read_csv(file, comment="#")
