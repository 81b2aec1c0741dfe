"""Do few examples form a regular polygon, or two circles? How often, and what escapes the failure?

Source: Henighan et al. 2023, Figure 2, and the comment on two circles there; "Optimization Failure" (Ryan 2025).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from byheart.claims import Claim, Finding, along, compare, judged, not_run
from byheart.colors import BLUE, GREY, PURPLE, VERMILION, YELLOW
from byheart.geometry import arrangement, lengths_apart
from byheart.studies.readme import sizes_of
from byheart.studies.study import Captioned, Scale, Study, Tables, setup
from byheart.toy.config import TrainConfig
from byheart.toy.figures import EXAMPLES, figure_of, vectors
from byheart.toy.runs import Run, Runs
from byheart.toy.solutions import polygon_radius
from byheart.toy.sweep import grid
from byheart.toy.tables import table_of, vectors_of
from byheart.toy.train import draw_examples

_T: dict[Scale, tuple[int, ...]] = {
    "quick": (3, 4, 5, 6, 7, 8, 10, 12, 15),
    "medium": tuple(range(3, 16)),
    "paper": tuple(range(3, 16)),
}
_N_SEEDS: dict[Scale, int] = {"quick": 8, "medium": 100, "paper": 100}
_ESCAPE_T = 8
_PLAIN = "the paper's settings"
_MEMORIZED = 1e-3  # train loss; one example of fifteen that is not memorized adds 1/15
_COLORS = {
    "regular polygon": BLUE,
    "two circles": VERMILION,
    "some at the origin": PURPLE,
    "shared direction": YELLOW,
    "other": GREY,
}
_FIGURE_2 = "Henighan et al. 2023, Figure 2"


def _groups(scale: Scale) -> dict[str, list[TrainConfig]]:
    """The paper's settings, and at T = 8 changes that may escape the failure."""
    base, seeds = setup(scale), range(_N_SEEDS[scale])
    ways_out: dict[str, tuple[float, ...]] = {
        "learning_rate": (3e-3, 1e-2),
        "n_inits": (5,),
        "weight_decay": (0.0,),
        "n_steps": (4 * base.n_steps,),
    }
    changed = {
        f"{field} {value}": grid(base, {"n_examples": (_ESCAPE_T,), field: (value,)}, seeds)
        for field, values in ways_out.items()
        for value in values
    }
    return {_PLAIN: grid(base, {"n_examples": _T[scale]}, seeds), **changed}


def _memorized(run: Run) -> bool:
    return (run.metrics["train_loss"] or 0.0) < _MEMORIZED


def _bias(run: Run) -> float:
    """-b_f / x_f of the features that one example alone has, x_f its value there: the least-squares slope."""
    X = draw_examples(run.config).to_scipy()
    alone = np.asarray((X > 0).sum(axis=0)).ravel() == 1
    x, b = np.asarray(X.sum(axis=0)).ravel()[alone], run.b[alone]
    return float(-(b @ x) / (x @ x))


def _outcomes(runs: Runs) -> pd.DataFrame:
    rows = []
    for run in runs:
        lengths = np.linalg.norm(run.hidden, axis=1)
        long, short, at_origin = lengths_apart(run.hidden)
        rows.append(
            {
                "n_examples": int(run.config.n_examples),
                "seed": run.config.seed,
                "arrangement": arrangement(run.hidden),
                "memorized": _memorized(run),
                "radius": lengths[long].mean(),
                "n_long": long.sum(),
                "n_short": short.sum(),
                "n_at_origin": at_origin.sum(),
                "short_to_long": lengths[short].mean() / lengths[long].mean() if short.any() else np.nan,
                "bias": _bias(run),
            }
        )
    return pd.DataFrame(rows)


def _small_are_regular(tables: Tables) -> Finding:
    table = tables["outcomes"]
    share = (table["arrangement"] == "regular polygon").astype(float).groupby(table["n_examples"]).mean()
    chosen = share[share.index.isin((3, 4, 5, 6))]
    if len(chosen) < 4 or table["seed"].nunique() < 4:
        return not_run("T = 3 to 6, four seeds")
    return judged(f"share of regular polygons: {along(share, '.0%')}", chosen.min() >= 0.9, chosen.max() < 0.5)


def _eight_fails(tables: Tables) -> Finding:
    table = tables["outcomes"].query("n_examples == @_ESCAPE_T")
    if len(table) < 4:
        return not_run("four datasets at T = 8")
    counts = table["arrangement"].value_counts()
    n = len(table)
    failed = 1 - counts.get("regular polygon", 0) / n
    error = float(np.sqrt(failed * (1 - failed) / n))
    ours = f"{failed:.0%} \N{PLUS-MINUS SIGN} {error:.0%} of {n} are no regular octagon: " + ", ".join(
        f"{count} {name}" for name, count in counts.items()
    )
    return judged(ours, failed - 2 * error > 0, failed == 0)


def _two_circles(tables: Tables) -> Finding:
    table = tables["outcomes"].query("n_examples == @_ESCAPE_T")
    circles = table[table["arrangement"] == "two circles"]
    if len(circles) < 4:
        return not_run("four datasets on two circles at T = 8")
    finding = compare(circles["short_to_long"].to_numpy(), 0.4, 0.2, ".2f")
    kinds = circles[["n_long", "n_short", "n_at_origin"]].value_counts().head(4).reset_index()
    shown = ", ".join(f"{k.n_long}, {k.n_short}, {k.n_at_origin} in {k.count}" for k in kinds.itertuples())
    ours = f"{len(circles)} of {len(table)} datasets; ratio {finding.ours}; long, short and at the origin: {shown}"
    return Finding(ours, finding.verdict)


def _regular_memorized(tables: Tables) -> pd.DataFrame:
    """The T-gons that hold all examples: radius over the least one, bias over what the radius R asks for, R^2 - 1."""
    table = tables["outcomes"].query("arrangement == 'regular polygon' and memorized")
    least = table["n_examples"].map(polygon_radius)
    return table.assign(
        radius=table["radius"] / least,
        bias=table["bias"] / (table["radius"] ** 2 - 1),
        bias_to_least=table["bias"] / (least**2 - 1),
    )


def _by_size(table: pd.DataFrame, column: str) -> str:
    return along(table.groupby("n_examples")[column].mean(), ".3f")


def _radius(tables: Tables) -> Finding:
    table = _regular_memorized(tables)
    if len(table) < 4:
        return not_run("four regular polygons that are memorized")
    finding = compare(table.groupby("seed")["radius"].mean().to_numpy(), 1, 0.05, ".3f")
    return finding.also(_by_size(table, "radius"))


def _biases(tables: Tables) -> Finding:
    table = _regular_memorized(tables).query("n_examples >= 5")  # a square needs none
    if len(table) < 4:
        return not_run("four regular polygons of five or more examples that are memorized")
    finding = compare(table.groupby("seed")["bias"].mean().to_numpy(), 1, 0.05, ".3f")
    return finding.also(f"{_by_size(table, 'bias')}; to that of the least radius: {_by_size(table, 'bias_to_least')}")


def _escapes(groups: Mapping[str, Runs]) -> pd.DataFrame:
    """At T = 8: the share of regular octagons, and of memorized datasets, by setting."""
    rows = []
    for setting, runs in groups.items():
        chosen = list(runs.where(n_examples=_ESCAPE_T))
        if chosen:
            regular = np.mean([arrangement(run.hidden) == "regular polygon" for run in chosen])
            rows.append((setting, len(chosen), regular, np.mean([_memorized(run) for run in chosen])))
    return pd.DataFrame(rows, columns=["setting", "seeds", "regular", "memorized"])


def _best_of_five(outcome: str, words: str) -> Claim:
    def test(tables: Tables) -> Finding:
        table = tables["escapes"].set_index("setting")
        if not {_PLAIN, "n_inits 5"} <= set(table.index):
            return not_run("T = 8, one and five initialisations")
        before, after = (float(str(table.loc[name, outcome])) for name in (_PLAIN, "n_inits 5"))
        n = int(table["seeds"].min())
        ours = f"{outcome} at T = 8: " + ", ".join(f"{share:.0%} with {name}" for name, share in table[outcome].items())
        error = float(np.sqrt((before * (1 - before) + after * (1 - after)) / n))
        gain = after - before
        return judged(ours, gain > 2 * error, gain < -2 * error)

    return Claim(
        f"best-of-inits-{outcome}",
        f"T = 8: the best of five initialisations {words} more often than one",
        "Henighan et al. 2023 (several seeds, lowest train loss); the numbers are new",
        "more often",
        test,
        refuted_if="it does so less often by two standard errors",
    )


_CLAIMS = (
    Claim(
        "small-T-regular",
        "T = 3 to 6: the examples form a regular T-gon (nine of ten datasets or more)",
        _FIGURE_2,
        "triangle, pentagon, hexagon",
        _small_are_regular,
        refuted_if="at each of these T fewer than half do",
    ),
    Claim(
        "eight-fails",
        "T = 8: some datasets end without a regular octagon",
        f"{_FIGURE_2} and the comment on two circles",
        "6 points on a large circle, 2 on a small one",
        _eight_fails,
        refuted_if="all datasets form a regular octagon",
    ),
    Claim(
        "two-circles",
        "T = 8: where the examples lie on two circles, the smaller has 0.4 of the radius of the larger",
        "Olah and Henighan, comment on two circles in Henighan et al. 2023",
        "0.4 (read off; tolerance 0.2)",
        _two_circles,
    ),
    Claim(
        "radius",
        "A regular T-gon has the least radius at which its examples can be told apart, 1/sqrt(1 - cos(2 pi/T))",
        "derived from Henighan et al. 2023",
        "ratio 1 (tolerance 0.05)",
        _radius,
    ),
    Claim(
        "biases",
        "The bias of a feature that one example of a regular T-gon has (T of 5 or more) is -(R^2 - 1) x, R the radius",
        "derived from Henighan et al. 2023",
        "ratio 1 (tolerance 0.05)",
        _biases,
    ),
    _best_of_five("memorized", "memorizes all eight examples"),
    _best_of_five("regular", "ends in a regular octagon"),
)


def _figures(tables: Tables) -> dict[str, Captioned]:
    table, shown = tables["outcomes"], dict(list(tables["vectors"].groupby("n_examples")))
    sizes = sorted(set(table["n_examples"]))
    figure, axes = figure_of(2, 1, size=(7, 4.2), height_ratios=[1, 0.18])
    shares = pd.crosstab(table["n_examples"], table["arrangement"], normalize="index")
    bottom = np.zeros(len(shares))
    for name, color in _COLORS.items():
        if name in shares:
            axes[0].bar([str(t) for t in shares.index], shares[name], bottom=bottom, color=color, label=name)
            bottom += shares[name].to_numpy()
    memorized = table.groupby("n_examples")["memorized"].mean()
    axes[0].plot([str(t) for t in memorized.index], memorized, "ko-", ms=4, lw=1, label="all memorized")
    axes[0].set(xlabel="training examples T", ylabel="share of datasets")
    axes[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    axes[1].axis("off")
    for k, t in enumerate(sizes):
        inset = axes[1].inset_axes((k / len(sizes), 0, 0.95 / len(sizes), 1))
        vectors(shown[t][["x", "y"]].to_numpy(), inset, EXAMPLES)
        inset.set_title(f"T = {t}", fontsize=8)
    caption = (
        "Bars: in which arrangement the hidden vectors of T training examples end, as shares of datasets; black: the"
        f" share that memorizes all its examples (train loss below {_MEMORIZED:g}). Below: the hidden vectors of the"
        f" first dataset at each T. {sizes_of(tables['runs'].query('group == @_PLAIN'), of='T')}"
    )
    return {"polygons": Captioned(figure, caption)}


def _tables(groups: Mapping[str, Runs]) -> dict[str, pd.DataFrame]:
    plain = groups[_PLAIN]
    outcomes = _outcomes(plain)
    counts = pd.crosstab(outcomes["n_examples"], outcomes["arrangement"]).reset_index()
    first = [next(iter(plain.where(n_examples=size))) for size in counts["n_examples"]]
    return {
        "runs": table_of(groups),
        "outcomes": outcomes,
        "counts": counts,
        "escapes": _escapes(groups),
        "vectors": vectors_of(first, ["example"]),
    }


STUDY = Study(
    "polygons",
    "Do few examples form a regular polygon or two circles, and what escapes the failure?",
    _groups,
    _tables,
    _CLAIMS,
    _figures,
)
