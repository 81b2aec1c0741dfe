"""The figures of the study."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from byheart.studies.study import Captioned, Tables
from byheart.toy.figures import figure_of


def figures(tables: Tables) -> dict[str, Captioned]:
    """Draw the doses and dimensions of the first corpus, and the reliability and scores of all."""
    corpora = tables["corpora"]
    first = corpora["corpus"].iloc[0]
    doses, repeats, dimensions = (
        tables[name][tables[name]["corpus"] == first] for name in ("dose", "repeats", "superposition")
    )
    of_first = f"{corpora['n_models'].iloc[0]} models of {corpora['n_parameters'].iloc[0]:,} parameters on {first}"
    of_each = {row.corpus: f"{row.n_models} models on {row.corpus}" for row in corpora.itertuples()}
    scores = tables["scores"].dropna(subset="correlation_log_probability")  # of few documents there is none
    spans = " to ".join(map(str, sorted({doses["n_spans"].min(), doses["n_spans"].max()})))
    return {
        "dose-response": Captioned(
            _draw_doses(doses, repeats),
            "Left: memorization of planted passages in log-probability, by the number of their copies, exact or with"
            f" some words changed, a mean over {spans} passages for each dot. Right: bits for each token of passages"
            " that the corpus itself repeats, a dot each, because of all copies and of one copy's document."
            f" {of_first}; bars are two standard errors over passages.",
        ),
        "reliability": Captioned(
            _draw_reliability(tables["reliability"]),
            "Reliability of the memorization of documents: the share of its variance over documents that is not"
            f" chance of the models, by how many models tell it, out of {'; '.join(of_each.values())}. Dots are means"
            " over sets of so many models, bars two standard errors over these sets; where there is one set, there is"
            " no bar.",
        ),
        "scores": Captioned(
            _draw_scores(scores),
            "Rank correlation, over documents, of cheap scores with memorization, whose truth is from"
            f" {'; '.join(of_each[name] for name in scores['corpus'].unique())}; bars are two standard errors over the"
            " models that a score was computed of, where it was of several.",
        ),
        "superposition": Captioned(
            _draw_superposition(dimensions),
            "Left: the share of a dimension that the contexts of planted passages hold, by the number of copies, in"
            " models that trained on them (on) and others (off). Right: the difference. A mean over"
            f" {spans} passages for each dot. {of_first}; bars are two standard errors over models.",
        ),
    }


def _draw_doses(dose: pd.DataFrame, repeats: pd.DataFrame) -> Figure:
    figure, (left, right) = figure_of(1, 2, size=(7.2, 4))
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
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1))
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
    ax.legend()
    return figure


def _draw_scores(table: pd.DataFrame) -> Figure:
    """Rank correlations of cheap scores with memorization, a row for each; the best of the first corpus on top."""
    figure, axes = figure_of(1, 2, size=(7.2, 4.2), sharex=True)
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
        ax.set_yticks(range(len(order)), labels if ax is axes[0] else [""] * len(order), fontsize=8)
    axes[0].legend()
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
        ax.legend()
    return figure


def _in_powers_of_2(ax: Axes, most: int, least: int = 1) -> None:
    ax.set_xscale("log", base=2)
    ticks = [2**k for k in range(least.bit_length() - 1, most.bit_length())]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
