"""How much of a dimension the contexts of memorized spans hold: superposition, in language models.

A toy model that memorizes gives every example a direction, shared with few others; one that generalises gives
directions to features, and examples hold next to nothing. Here the examples are *contexts*: what stands in a row
before a token, which the model reads to predict it. The hidden vector h_i of a context has the dimensionality
D_i = |h_i|^2 / sum_j (h_i/|h_i| . h_j)^2, and since each span is on in half of the models, the difference between on
and off is caused by its own copies.

The sum runs over a population of contexts, and D depends on it: it is the same for all models and spans, and holds each
context once. A passage of 32 copies would otherwise share its directions with its own copies, and seem to hold as
little as 1/32 of what it holds. So every span enters with its first place alone, and copies elsewhere, which differ
only in what stands before the passage, do not enter. Equal beginnings of rows, such as the empty one, are one context.

A longer vector holds more, and so does one in a direction of its own. The last layer is normalised, so that vectors
differ in direction there; before it, both count.

Source: Henighan et al. 2023, "Superposition, Memorization, and Double Descent", section "Experiment setup"
(dimensionality of training examples). Contexts, and the comparison of on and off, are ours.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Float64, Int64

from byheart.geometry import example_dimensionality
from byheart.language.design import Design
from byheart.language.differences import Places, mean_where
from byheart.language.ensemble import Ensemble
from byheart.language.logs import Logs
from byheart.language.rows import in_batches

if TYPE_CHECKING:
    from byheart.language.model import Transformer

_ROWS_PER_BATCH = 64
_NATS = float(np.log(2))  # in a bit
_FEWEST = 3  # spans that a rank correlation is told of
_PLANTED = ("canary", "near-copies", "probe")


@dataclass(frozen=True, eq=False)
class Superposition:
    """What dimensions contexts hold.

    Layer 0 is the embeddings, of token and position; the last layer is normalised, as it is read. Errors are over
    models: a jackknife over the pairs of complements.

    Attributes:
        dimensionality: A row per layer, kind of span, number of copies (planned) and share of words changed: n_spans,
            without those that models of fewer than two pairs tell of with the span on, or with it off;
            dimensionality_on and dimensionality_off, mean D of their contexts over models with the span on and off, in
            [0, 1]; difference and difference_se; spread, the standard deviation over models of a model's mean, on or
            off (NaN where models measure different spans). A probe's bit does nothing: its difference is what chance
            gives. The kind "ordinary" has a row for the documents' other contexts, n_spans documents of them, on where
            the model trains on the document.
        correlation: A row per layer and kind ("canary"; "repeat", which are all that was not planted; "both"): n_spans;
            rank_correlation of memorization in bits with D of the span's contexts while it is on, in [-1, 1], and its
            error ``_se``; rank_correlation_difference and ``_se``, the same with on less off in place of D. NaN for
            fewer than three spans. Bits are those of all models, D is that of the measured ones.
        n_models: Number of models that were measured.
        n_contexts: Number of contexts of the population.
        width: Entries of a hidden vector. All D of a model together are at most that.
    """

    dimensionality: pd.DataFrame
    correlation: pd.DataFrame
    n_models: int
    n_contexts: int
    width: int


def superposition(ensemble: Ensemble, *, n_models: int = 16, n_ordinary: int = 20_000, seed: int = 0) -> Superposition:
    """Measure what dimensions the contexts of spans hold, on against off, per layer.

    Memory is bounded by ``n_ordinary`` and the spans: a model at a time, each layer in float32.

    Args:
        ensemble: The trained models.
        n_models: Models to measure, even and at least 4: the first ones; all, if there are fewer.
        n_ordinary: Contexts of no span that are part of the population, at least 1, drawn evenly from those of all
            documents that are in a random half of the models; all, if there are fewer.
        seed: Seed of that draw.

    Raises:
        ValueError: If a number is out of range, the ensemble has fewer than four models, or a model's file is damaged.

    References:
        Henighan et al. 2023, "Superposition, Memorization, and Double Descent".
    """
    if n_models < 4 or n_models % 2:
        raise ValueError(f"n_models: received {n_models}, accepted: an even number >= 4")
    if ensemble.design.n_models < 4:
        raise ValueError(f"ensemble: received {ensemble.design.n_models} models, accepted: at least 4")
    n_models = min(n_models, ensemble.design.n_models)
    contexts = Contexts.of(ensemble.design, n_ordinary, seed)
    states = (contexts.states(ensemble.model(number)) for number in range(n_models))
    return compared(contexts, states, ensemble.logs)


@dataclass(frozen=True, eq=False)
class Contexts:
    """The population of contexts, and which of them are whose.

    A unit is a span, in the design's order, or after them a document. A span's contexts are those of the tokens of its
    first place. A document's are those in the population that occur nowhere else, of tokens in no span; documents that
    are not in a random half of the models have none.

    Attributes:
        design: The design of the spans and documents.
        tokens: A token that each context stands before, by its number among all tokens; the first one in order.
        unit_of: Units, each as often as it has contexts.
        members: Those contexts, by their places in ``tokens``.
    """

    design: Design
    tokens: Int64[np.ndarray, " n_contexts"]
    unit_of: Int64[np.ndarray, " n_members"]
    members: Int64[np.ndarray, " n_members"]

    @classmethod
    def of(cls, design: Design, n_ordinary: int = 20_000, seed: int = 0) -> Contexts:
        """Return the contexts of all spans, and at most so many ordinary ones.

        Raises:
            ValueError: If ``n_ordinary`` is below 1.
        """
        if n_ordinary < 1:
            raise ValueError(f"n_ordinary: received {n_ordinary}, accepted: an integer >= 1")
        number = _numbered(design)
        own = [np.arange(design.documents.n_tokens)[design.tokens_of(span.places[0])] for span in design.spans]
        of_spans = np.concatenate([*own, np.zeros(0, dtype=np.int64)])
        ordinary = (np.array(design.roles) == "random")[design.documents.document_of] & (design.span_of < 0)
        ordinary[of_spans] = False
        others = np.setdiff1d(number[ordinary], number[of_spans])
        if len(others) > n_ordinary:
            others = np.random.default_rng([seed, 5]).choice(others, n_ordinary, replace=False)
        kept = np.union1d(number[of_spans], others)
        _, first, counts = np.unique(number, return_index=True, return_counts=True)
        place = np.full(len(first), -1)
        place[kept] = np.arange(len(kept))
        alone = np.flatnonzero(ordinary & (counts[number] == 1) & (place[number] >= 0))
        unit_of = np.repeat(np.arange(len(own)), np.array([len(tokens) for tokens in own], dtype=np.int64))
        return cls(
            design,
            first[kept],
            np.concatenate([unit_of, len(own) + design.documents.document_of[alone]]),
            place[number[np.concatenate([of_spans, alone])]],
        )

    @property
    def on(self) -> Bool[np.ndarray, "n_models n_units"]:
        """In which model a span is on, and which model trains on a document."""
        return np.concatenate([self.design.span_mask, self.design.document_mask], axis=1)

    @property
    def valid(self) -> Bool[np.ndarray, "n_models n_units"]:
        """Models that tell of a unit: of a span, those that train on the document of its place, or all if none does."""
        documents = [span.places[0].document for span in self.design.spans]
        never = np.array(self.design.roles)[documents] == "never"
        told = self.design.document_mask[:, documents] | never
        return np.concatenate([told, np.ones_like(self.design.document_mask)], axis=1)

    def states(self, model: Transformer) -> Float32[np.ndarray, "n_layers_and_1 n_contexts width"]:
        """Return a model's hidden vectors of all contexts, after the embeddings and after each layer."""
        import torch

        place = np.full(self.design.documents.n_tokens, -1)
        place[self.tokens] = np.arange(len(self.tokens))
        rows = [row for row in self.design.rows if (place[self.design.tokens_of(row)] >= 0).any()]
        found = None
        for tokens, inputs, there in in_batches(self.design, rows, _ROWS_PER_BATCH):
            chosen = place[tokens] >= 0
            with torch.no_grad():
                layers = [layer[there][chosen].numpy() for layer in model.hidden(torch.from_numpy(inputs))]
            if found is None:
                found = np.empty((len(layers), len(self.tokens), layers[0].shape[1]), dtype=np.float32)
            found[:, place[tokens[chosen]]] = layers
        assert found is not None
        return found

    def mean_dimensionality(
        self, states: Float32[np.ndarray, "n_layers n_contexts width"]
    ) -> Float64[np.ndarray, "n_layers n_units"]:
        """Average D over the contexts of each unit, per layer; NaN for a unit without any."""
        n_units = len(self.design.spans) + len(self.design.documents)
        counts = np.bincount(self.unit_of, minlength=n_units)
        sums = [
            np.bincount(self.unit_of, example_dimensionality(layer)[self.members], minlength=n_units)
            for layer in states
        ]
        return np.where(counts > 0, np.stack(sums) / np.maximum(counts, 1), np.nan)


def _numbered(design: Design) -> Int64[np.ndarray, " n_tokens"]:
    """The number of the context before each token; rows that begin alike have equal ones."""
    following: dict[tuple[int, int], int] = {}  # the context after a context and one more token
    found = np.zeros(design.documents.n_tokens, dtype=np.int64)
    for row in design.rows:
        tokens, context = design.tokens_of(row), 0
        for at, token in enumerate(design.documents.flat[tokens].tolist(), tokens.start):
            found[at] = context
            context = following.setdefault((context, token), len(following) + 1)
    return np.unique(found, return_inverse=True)[1].reshape(-1)  # without those that no token follows


def compared(contexts: Contexts, states: Iterable[np.ndarray], logs: Logs) -> Superposition:
    """Compare contexts in models with their span on and off, from hidden vectors of any kind.

    Args:
        contexts: The population.
        states: Of each of the design's first models, in whole pairs of complements, the hidden vectors of all contexts
            in each layer: arrays of shape (n_layers, n_contexts, width).
        logs: What all models say of every token, for memorization in bits.
    """
    rows, width = [], 0
    for layers in states:
        rows.append(contexts.mean_dimensionality(layers))
        width = layers.shape[2]
    scores = np.stack(rows)
    n_models = len(scores)
    on, valid = contexts.on[:n_models], contexts.valid[:n_models] & np.isfinite(scores[:, 0])
    sides = [_without_each_pair(scores, rows) for rows in (on & valid, ~on & valid)]
    told = np.isfinite(sides[0]).all(axis=(0, 1)) & np.isfinite(sides[1]).all(axis=(0, 1))
    table = _dimensionality(contexts.design, scores, valid, sides, told)
    correlation = _correlation(contexts.design, logs, sides, told)
    return Superposition(table, correlation, n_models, len(contexts.tokens), width)


def _without_each_pair(scores: np.ndarray, rows: np.ndarray) -> Float64[np.ndarray, "n_pairs_and_1 n_layers n_units"]:
    """Means over some models of each unit; first over all of them, then without each pair of complements."""
    every = np.arange(len(scores))
    return np.stack(
        [
            np.stack([mean_where(scores[kept, layer], rows[kept]) for layer in range(scores.shape[1])])
            for kept in (every[every // 2 != pair] for pair in range(-1, len(scores) // 2))
        ]
    )


def _jackknife(values: np.ndarray) -> Any:
    """The standard error of ``values[0]``, from the values without each pair of models that follow it."""
    n = len(values) - 1
    return np.sqrt((n - 1) / n * np.square(values[1:] - values[1:].mean(axis=0)).sum(axis=0))


def _dimensionality(
    design: Design, scores: np.ndarray, valid: np.ndarray, sides: list[np.ndarray], told: np.ndarray
) -> pd.DataFrame:
    settings = [(span.kind, *(span.settings.get(k, np.nan) for k in ("n_copies", "changed"))) for span in design.spans]
    units = pd.DataFrame(
        [*settings, *[("ordinary", np.nan, np.nan)] * len(design.documents)], columns=["kind", "planned", "changed"]
    )
    rows = []
    for key, group in units[told].groupby(["kind", "planned", "changed"], dropna=False):
        own = group.index.to_numpy()
        on, off = (side[:, :, own].mean(axis=2) for side in sides)
        spread = scores[:, :, own].mean(axis=2).std(axis=0, ddof=1) if valid[:, own].all() else on[0] * np.nan
        errors = _jackknife(on - off)
        for layer in range(scores.shape[1]):
            row = dict(zip(units.columns, key, strict=True)) | {"layer": layer, "n_spans": len(own)}
            row |= {"dimensionality_on": on[0, layer], "dimensionality_off": off[0, layer]}
            row |= {"difference": on[0, layer] - off[0, layer], "difference_se": errors[layer]}
            rows.append(row | {"spread": spread[layer]})
    columns = ["layer", *units.columns, "n_spans", "dimensionality_on", "dimensionality_off"]
    table = pd.DataFrame(rows, columns=[*columns, "difference", "difference_se", "spread"])
    return table.sort_values(["layer", *units.columns], ignore_index=True)


def _correlation(design: Design, logs: Logs, sides: list[np.ndarray], told: np.ndarray) -> pd.DataFrame:
    from scipy.stats import spearmanr  # slow to import

    places = Places.of(design)
    scores = places.sums(logs.log_probability) / _NATS
    every = np.arange(design.n_models)
    bits = np.stack(
        [places.compare(scores, every[every // 2 != pair]).difference for pair in range(-1, len(sides[0]) - 1)]
    )
    kinds = np.array([span.kind for span in design.spans], dtype=object)
    usable = told[: len(kinds)] & np.isfinite(bits).all(axis=0)
    canary, repeat = (kinds == "canary") & usable, ~np.isin(kinds, _PLANTED) & usable
    rows = []
    for layer in range(sides[0].shape[1]):
        on, off = (side[:, layer] for side in sides)
        for kind, chosen in (("canary", canary), ("repeat", repeat), ("both", canary | repeat)):
            own = np.flatnonzero(chosen)
            row: dict[str, Any] = {"layer": layer, "kind": kind, "n_spans": len(own)}
            for name, values in (("rank_correlation", on), ("rank_correlation_difference", on - off)):
                ranks = np.full(len(bits), np.nan)
                if len(own) >= _FEWEST:
                    pairs = zip(values[:, own], bits[:, own], strict=True)
                    ranks = np.array([spearmanr(*pair).statistic if _vary(*pair) else np.nan for pair in pairs])
                row |= {name: ranks[0], f"{name}_se": _jackknife(ranks)}
            rows.append(row)
    return pd.DataFrame(rows)


def _vary(*values: np.ndarray) -> bool:
    return all(np.ptp(own) > 0 for own in values)
