"""The figures of the study."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from byheart.studies.study import Tables
from byheart.toy.figures import figure_of


def figures(tables: Tables) -> dict[str, Figure]:
    """Draw the doses and dimensions of the first corpus, and the reliability and scores of all."""
    first = tables["corpora"]["corpus"].iloc[0]
    doses, repeats, dimensions = (
        tables[name][tables[name]["corpus"] == first] for name in ("dose", "repeats", "superposition")
    )
    return {
        "dose-response": _draw_doses(doses, repeats),
        "reliability": _draw_reliability(tables["reliability"]),
        "scores": _draw_scores(tables["scores"]),
        "superposition": _draw_superposition(dimensions),
    }


def _draw_doses(dose: pd.DataFrame, repeats: pd.DataFrame) -> Figure:
    figure, (left, right) = figure_of(1, 2, size=(7.2, 3.2))
    exact, near = dose[dose["kind"] == "canary"], dose[dose["kind"] == "near-copies"]
    lines = [(exact, "o-", "exact")]
    for changed, rows in near.groupby("changed"):
        lines.append((rows, "s--", f"{100 * float(str(changed)):.0f} % of the words changed"))
    for rows, form, label in lines:
        error = 2 * rows["log_probability_se"]
        left.errorbar(rows["planned"], rows["log_probability"], error, fmt=form, ms=4, label=label)
    for column, form, label in (("bits", "o", "all copies together"), ("document_bits", "s", "one copy's document")):
        right.plot(repeats["n_copies"], repeats[column] / repeats["n_tokens"], form, ms=3, label=label)
    left.set(xlabel="copies", ylabel="memorization (nats per token)")
    right.set(xlabel="copies of a natural repeat", ylabel="memorization (bits per token)")
    for ax in (left, right):
        _in_powers_of_2(ax, 32)
        ax.legend(fontsize=7)
    return figure


def _draw_reliability(table: pd.DataFrame) -> Figure:
    figure, ax = figure_of(size=(4.2, 3.2))
    for (label, score), rows in table.query("unit == 'documents'").groupby(["corpus", "score"], sort=False):
        of_size = rows.groupby("n_models")["reliability"]
        error = 2 * of_size.sem().fillna(0)  # of one set of so many models, none is known
        name = f"{label}, {str(score).replace('_', '-')}"
        ax.errorbar(of_size.mean().index, of_size.mean(), error, fmt="o-", ms=3, label=name)
    _in_powers_of_2(ax, 128, 8)
    ax.set(xlabel="models", ylabel="reliability, documents", ylim=(0, 1))
    ax.legend(fontsize=7)
    return figure


def _draw_scores(table: pd.DataFrame) -> Figure:
    """Rank correlations of cheap scores with memorization, a row for each; the best of the first corpus on top."""
    figure, axes = figure_of(1, 2, size=(7.2, 4.2))
    first = table[table["corpus"] == table["corpus"].iloc[0]]
    order = first.sort_values("correlation_log_probability")["score"].tolist()
    labels = [f"{name.replace('_', ' ')}{' (no model)' if name in _of_text(table) else ''}" for name in order]
    for ax, measure in zip(axes, ("log_probability", "accuracy"), strict=True):
        for label, rows in table.groupby("corpus", sort=False):
            own = rows.set_index("score").loc[order]
            error = 2 * own[f"correlation_{measure}_se"].fillna(0)
            ax.errorbar(
                own[f"correlation_{measure}"], range(len(order)), xerr=error, fmt="o", ms=3, label=str(label), alpha=0.8
            )
        ax.axvline(0, color="black", lw=0.8)
        ax.set(xlabel="rank correlation", title=f"memorization in {measure.replace('_', '-')}")
        ax.set_yticks(range(len(order)), labels if ax is axes[0] else [""] * len(order), fontsize=7)
    axes[0].legend(fontsize=7)
    return figure


def _of_text(table: pd.DataFrame) -> set[str]:
    return set(table.loc[table["needs"] == "texts", "score"])


def _draw_superposition(table: pd.DataFrame) -> Figure:
    figure, (left, right) = figure_of(1, 2, size=(7.2, 3.2))
    for layer in sorted(set(table["layer"])):
        name = "embeddings" if layer == 0 else f"layer {layer}"
        rows = table[(table["layer"] == layer) & (table["kind"] == "canary")].sort_values("planned")
        (line,) = left.plot(rows["planned"], 100 * rows["dimensionality_on"], "o-", ms=3, label=f"{name}, on")
        color = line.get_color()
        left.plot(rows["planned"], 100 * rows["dimensionality_off"], "s:", ms=3, color=color, label=f"{name}, off")
        probe = table[(table["layer"] == layer) & (table["kind"] == "probe")]
        for value in 100 * probe["dimensionality_off"]:
            left.axhline(value, color=color, lw=0.8, ls="--")
        error = 200 * rows["difference_se"]
        right.errorbar(rows["planned"], 100 * rows["difference"], error, fmt="o-", ms=3, label=name)
    right.axhline(0, color="black", lw=0.8)
    left.set(xlabel="copies", ylabel="dimensionality of a context (%)", title="dashed: probes, never planted")
    right.set(xlabel="copies", ylabel="on less off (%), 2 standard errors", title="because of the copies")
    for ax in (left, right):
        _in_powers_of_2(ax, 32)
        ax.legend(fontsize=6)
    return figure


def _in_powers_of_2(ax: Axes, most: int, least: int = 1) -> None:
    ax.set_xscale("log", base=2)
    ticks = [2**k for k in range(least.bit_length() - 1, most.bit_length())]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
