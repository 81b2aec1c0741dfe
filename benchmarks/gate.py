"""How often does `byheart audit diff --noise` call noise a change, and a change noise? On digits, four minutes.

``python -m benchmarks.gate`` trains a network of 512 hidden units with several seeds on clean labels, longer, and on
labels of which 3 % are wrong, audits each with a log and a held-out run of its own, draws (before, after, noise) at
random from these, and prints how often each p-value is small. The draws share trainings: shares are good to a few
hundredths. The tables are in docs/audit.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import binom
from torch import nn

import byheart as bh
from byheart.datasets import Labelled, digits

N_SEEDS = 10
N_WRONG = 54  # 3 % of 1,797
N_DRAWS = 100
_TRAININGS = {"30 epochs": (30, False), "100 epochs": (100, False), "100 epochs, wrong labels": (100, True)}
_PAIRS = (
    ("30 epochs", "30 epochs"),
    ("100 epochs", "100 epochs"),
    ("100 epochs, wrong labels", "100 epochs, wrong labels"),
    ("30 epochs", "100 epochs"),
    ("100 epochs", "100 epochs, wrong labels"),
)
_GATES = ("other_class > 0", "other_class > 1", "probability > 0.9", "margin < 0")


def planted(data: Labelled) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels of which some are wrong, and which."""
    rng = np.random.default_rng(7)
    chosen, labels = rng.choice(len(data), N_WRONG, replace=False), data.labels.copy()
    labels[chosen] = (labels[chosen] + rng.integers(1, 10, N_WRONG)) % 10
    return labels, np.sort(chosen)


def audits(data: Labelled, labels: np.ndarray, n_epochs: int, seed: int) -> dict[str, pd.DataFrame]:
    """Train with a seed, and return the tables of an audit with a held-out run and of one without."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))
    fit, log = bh.Fit(net, data.inputs, labels, n_epochs=n_epochs), bh.TrainingLog(len(data))
    model = fit(np.arange(len(data)), seed, log)
    inside = np.random.default_rng(1_000 + seed).random((1, len(data))) < 0.6
    held_out = bh.margins_of(fit(np.flatnonzero(inside), 500 + seed), (data.inputs, labels))
    runs = {"held-out run": bh.Counterfactual(inside, held_out[None]), "top 1 %": None}
    given = (data.inputs, labels)
    return {
        name: bh.audit(model, given, log=log, held_out=run, most_shown=1, detector=False).table
        for name, run in runs.items()
    }


def small(
    before: Sequence[pd.DataFrame], after: Sequence[pd.DataFrame], n_noise: int, same: bool, rng: np.random.Generator
) -> tuple[float, float]:
    """Return how often the p-value is below 0.01 and below 0.05."""
    found = []
    for _ in range(N_DRAWS):
        first, *noise = rng.permutation(N_SEEDS)[: n_noise + 1]
        second = rng.choice([k for k in range(N_SEEDS) if not same or k not in (first, *noise)])
        compared = bh.changes(before[first], after[second], [before[k] for k in noise]).noise
        assert compared is not None
        found.append(compared.p_value)
    return float(np.mean(np.array(found) < 0.01)), float(np.mean(np.array(found) < 0.05))


def sign_test_of_flags(tables: Sequence[pd.DataFrame]) -> float:
    """Return how often the plain sign test of the flags, which takes examples as independent, is below 0.01."""
    flags = [table["flagged"].to_numpy() for table in tables]
    found = []
    for before, after, noise in itertools.permutations(flags, 3):
        only_after, only_noise = int((after & ~noise & ~before).sum()), int((noise & ~after & ~before).sum())
        found.append(binom.sf(only_after - 1, only_after + only_noise, 0.5) < 0.01)
    return float(np.mean(found))


def main() -> None:
    """Train, and print three tables in Markdown."""
    data = digits()
    wrong, chosen = planted(data)
    tables: Mapping[str, list[dict[str, pd.DataFrame]]] = {
        name: [audits(data, wrong if is_wrong else data.labels, n_epochs, seed) for seed in range(N_SEEDS)]
        for name, (n_epochs, is_wrong) in _TRAININGS.items()
    }
    rng = np.random.default_rng(0)
    print("| before | after | audits | p < 0.01 with 1, 3, 5 of noise | p < 0.05 |\n|---|---|---|---|---|")
    for one, two in _PAIRS:
        for kind in ("held-out run", "top 1 %"):
            before, after = ([table[kind] for table in tables[name]] for name in (one, two))
            shares = [small(before, after, n, one == two, rng) for n in (1, 3, 5)]
            cells = [", ".join(f"{share[level]:.2f}" for share in shares) for level in (0, 1)]
            print(f"| {one} | {two} | {kind} | {' | '.join(cells)} |")
    print(
        "\n| before | after | pairs with an example apart | such examples | p_value_new < 0.01 |\n|---|---|--:|--:|--:|"
    )
    for one, two in _PAIRS:
        found = [
            bh.changes(tables[one][i]["held-out run"], tables[two][j]["held-out run"])
            for i in range(N_SEEDS)
            for j in range(N_SEEDS)
            if one != two or i != j
        ]
        apart = np.array([((c.table["change"] != "no longer") & c.table["apart"]).sum() for c in found])
        p_values = np.array([c.p_value_new for c in found])
        print(f"| {one} | {two} | {(apart > 0).mean():.2f} | {apart.mean():.1f} | {(p_values < 0.01).mean():.2f} |")
    print(f"\n| training | {' | '.join(_GATES)} |\n|---|{'--:|' * len(_GATES)}")
    for name, made in tables.items():
        counts = [[len(table["held-out run"].query(gate)) for table in made] for gate in _GATES]
        print(f"| {name} | {' | '.join(f'{min(found)} to {max(found)}' for found in counts)} |")
    hits = [int((table["held-out run"]["other_class"].to_numpy()[chosen] > 0).sum()) for table in tables[name]]
    naive = [f"{sign_test_of_flags([table['held-out run'] for table in made]):.2f}" for made in tables.values()]
    print(f"\nplain sign test of the flags of three seeds, p < 0.01: {', '.join(naive)}")
    print(f"other_class > 0 of the {N_WRONG} wrong labels: {min(hits)} to {max(hits)}")


if __name__ == "__main__":
    main()
