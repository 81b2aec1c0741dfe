"""Scores of documents and of places under every model, and how they differ between models with a bit on and off.

A document's tokens in a span only count in models with the span on: what a document teaches where nothing of it is
masked is what is asked (Zhang et al. 2021), and a span's bit would be most of the noise of what it covers.

A span is measured at its places. A place only counts in models that train on its document, so that a span's bit is not
mixed with its document's. Places differ in difficulty, and each model sees others of them: the scores at a place are
taken less the mean of its two bits, before a model's places are averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float64, Int64

from byheart.language.design import Design, Place
from byheart.language.logs import Logs

_FEWEST = 100  # degrees of freedom from which on a correlation within pairs is told


@dataclass(frozen=True, eq=False)
class Difference:
    """Means of models with a bit on and with it off, for each unit; NaN where no model tells.

    Attributes:
        on: Mean over the models with the bit on.
        off: Mean over those with it off.
        standard_error: Of ``on - off``, over models (see ``standard_error``); NaN for fewer than two of a kind.
        n_on: Models with the bit on.
        n_off: Models with it off.
    """

    on: Float64[np.ndarray, " n_units"]
    off: Float64[np.ndarray, " n_units"]
    standard_error: Float64[np.ndarray, " n_units"]
    n_on: Int64[np.ndarray, " n_units"]
    n_off: Int64[np.ndarray, " n_units"]

    @property
    def difference(self) -> Float64[np.ndarray, " n_units"]:
        """What the bit does to the score."""
        found: Float64[np.ndarray, " n_units"] = self.on - self.off
        return found


def compare(scores: np.ndarray, on: np.ndarray, valid: np.ndarray | None = None) -> Difference:
    """Compare models with a bit on and off, unit by unit.

    Args:
        scores: A score of every model (rows) and unit.
        on: Where the bit is on.
        valid: Models that tell of a unit; default all.
    """
    valid = np.ones_like(on) if valid is None else valid
    sides = (on & valid, ~on & valid)
    mean_on, mean_off = (mean_where(scores, rows) for rows in sides)
    error = standard_error(_residuals(scores, *sides), *sides)
    return Difference(mean_on, mean_off, error, sides[0].sum(axis=0), sides[1].sum(axis=0))


def standard_error(residuals: np.ndarray, on: np.ndarray, off: np.ndarray) -> Float64[np.ndarray, " n_units"]:
    """Return the standard errors of differences between models with a bit on and off: Welch's, mended for pairs.

    What a model owes to the other documents' bits is the opposite for its complement, which has this unit's bit the
    other way: the two errors of a pair add up, and Welch's errors, which take models as independent, can be too small
    by a factor of 1.4. The correlation within pairs is estimated over all units at once. It is taken as 0 where they
    are too few to tell it, and for what all units of a model have in common.

    With 16 models or more, stated errors are within 7 % of those in simulations; with 8, those of spans of several
    copies are 4 to 12 % too small.

    Args:
        residuals: Deviation of each model from those with the same bit, freed from the loss by fitting their mean; NaN
            where there are none.
        on: Models with the bit on that tell of a unit.
        off: Those with it off.
    """
    squares = [mean_where(residuals**2, rows & np.isfinite(residuals)) for rows in (on, off)]
    n_on, n_off = np.maximum(on.sum(axis=0), 1), np.maximum(off.sum(axis=0), 1)
    variance = squares[0] / n_on + squares[1] / n_off
    both = (on | off)[0::2] & (on | off)[1::2]
    n_pairs = both.sum(axis=0)
    of_model = mean_where(residuals.T, np.isfinite(residuals).T)
    own = residuals - of_model[:, None]
    products = np.where(both, own[0::2] * own[1::2], 0).sum(axis=0)
    told = np.isfinite(variance) & np.isfinite(products) & (n_pairs >= 2)
    if (n_pairs - 1)[told].sum() >= _FEWEST:
        total = (n_pairs * (squares[0] + squares[1]) / 2)[told].sum()
        correlation = products[told].sum() / max(total, np.finfo(float).tiny)
        variance -= n_pairs * correlation * (squares[0] + squares[1]) / (n_on * n_off)
    found: Float64[np.ndarray, " n_units"] = np.sqrt(np.maximum(variance, 0))
    return found


def _residuals(scores: np.ndarray, on: np.ndarray, off: np.ndarray) -> Float64[np.ndarray, "n_models n_units"]:
    """Deviations from the mean of the same bit, as large as those from the true mean; NaN for a model on its own."""
    found = np.full(scores.shape, np.nan)
    for rows in (on, off):
        n = rows.sum(axis=0)
        scale = np.sqrt(n / np.where(n >= 2, n - 1, np.nan))
        found = np.where(rows, (scores - mean_where(scores, rows)) * scale, found)
    return found


def mean_where(scores: np.ndarray, rows: np.ndarray) -> Float64[np.ndarray, " n_units"]:
    """Return the mean of each column over some of its rows; NaN where there are none."""
    n = rows.sum(axis=0)
    total = np.where(rows, scores, 0).sum(axis=0, dtype=np.float64)
    found: Float64[np.ndarray, " n_units"] = np.where(n > 0, total / np.maximum(n, 1), np.nan)
    return found


@dataclass(frozen=True, eq=False)
class Places:
    """Places that spans are measured at, in the order of the spans.

    Attributes:
        design: Design of the spans.
        places: The places.
        span_of: Number of each place's span.
    """

    design: Design
    places: tuple[Place, ...]
    span_of: Int64[np.ndarray, " n_places"]

    @classmethod
    def of(cls, design: Design) -> Places:
        """Return the places of all spans."""
        found = [(number, place) for number, span in enumerate(design.spans) for place in span.places]
        return cls(
            design, tuple(place for _, place in found), np.array([number for number, _ in found], dtype=np.int64)
        )

    @cached_property
    def valid(self) -> Bool[np.ndarray, "n_models n_places"]:
        """Models that train on the place's document; all of them for one that none trains on."""
        documents = [place.document for place in self.places]
        never = np.array(self.design.roles)[documents] == "never"
        found: np.ndarray = self.design.document_mask[:, documents] | never
        return found

    @property
    def n_tokens(self) -> Int64[np.ndarray, " n_places"]:
        """Number of tokens of each place."""
        return np.array([place.stop - place.start for place in self.places], dtype=np.int64)

    def sums(self, values: np.ndarray) -> Float64[np.ndarray, "n_models n_places"]:
        """Sum values of tokens over the tokens of each place."""
        if not self.places:
            return np.zeros((len(values), 0))
        tokens = np.concatenate(
            [np.arange(self.design.documents.n_tokens)[self.design.tokens_of(p)] for p in self.places]
        )
        starts = np.cumsum([0, *self.n_tokens[:-1]])
        found: np.ndarray = np.add.reduceat(values[:, tokens], starts, axis=1, dtype=np.float64)
        return found

    def recited(self, logs: Logs) -> Float64[np.ndarray, "n_models n_places"]:
        """Return where every token of a place is the most probable one; NaN if it is not known."""
        if logs.correct is None:
            return np.full((len(logs.log_probability), len(self.places)), np.nan)
        found: Float64[np.ndarray, "n_models n_places"] = (self.sums(logs.correct) == self.n_tokens).astype(np.float64)
        return found

    def per_span(self, values: np.ndarray) -> Float64[np.ndarray, "n_rows n_spans"]:
        """Average values of places over those of each span, without those that are NaN."""
        return _mean_by_span(values, np.isfinite(values), self.span_of, len(self.design.spans))

    def shares(self, values: np.ndarray, counts: np.ndarray) -> Float64[np.ndarray, " n_spans"]:
        """Average values of models and places over those of each span that count."""
        n, total = (
            _by_span(array, self.span_of, len(self.design.spans)).sum(axis=0)
            for array in (counts, np.where(counts, values, 0))
        )
        return np.where(n > 0, total / np.maximum(n, 1), np.nan)

    def compare(self, scores: np.ndarray, models: np.ndarray | None = None) -> Difference:
        """Compare models with each span on and off, by their scores at its places.

        Args:
            scores: A score of every model and place.
            models: Numbers of the models to use, perhaps with repeats; default all.
        """
        return compare_places(scores, self.span_of, self.valid, self.design.span_mask, models)


def compare_places(
    scores: np.ndarray,
    span_of: Int64[np.ndarray, " n_places"],
    valid: Bool[np.ndarray, "n_models n_places"],
    span_mask: Bool[np.ndarray, "n_models n_spans"],
    models: np.ndarray | None = None,
) -> Difference:
    """Compare models with each span on and off, by scores at places of which each only counts in some models.

    Args:
        scores: A score of every model and place.
        span_of: Span of each place, in order; one without a place is NaN.
        valid: Where a score counts.
        span_mask: Which span is on in which model.
        models: Numbers of the models to use; default all.
    """
    if models is not None:
        scores, valid, span_mask = scores[models], valid[models], span_mask[models]
    n_spans = span_mask.shape[1]
    on, off = span_mask[:, span_of] & valid, ~span_mask[:, span_of] & valid
    centre = (mean_where(scores, on) + mean_where(scores, off)) / 2
    told = np.isfinite(centre)
    per_model = _mean_by_span(scores - centre, valid & told, span_of, n_spans)
    level = _mean_by_span(centre[None], told[None], span_of, n_spans)[0]
    residuals = _residuals(scores, on, off)
    residuals = _mean_by_span(residuals, np.isfinite(residuals), span_of, n_spans)
    counts = np.isfinite(per_model)
    sides = (span_mask & counts, ~span_mask & counts)
    mean_on, mean_off = (level + mean_where(per_model, rows) for rows in sides)
    error = standard_error(residuals, *sides)
    return Difference(mean_on, mean_off, error, sides[0].sum(axis=0), sides[1].sum(axis=0))


def _mean_by_span(
    values: np.ndarray, counts: np.ndarray, span_of: np.ndarray, n_spans: int
) -> Float64[np.ndarray, "n_models n_spans"]:
    """Average over the places of each span that count; NaN where none does."""
    n, total = (_by_span(array, span_of, n_spans) for array in (counts, np.where(counts, values, 0)))
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def _by_span(values: np.ndarray, span_of: np.ndarray, n_spans: int) -> Float64[np.ndarray, "n_models n_spans"]:
    """Sum over the places of each span."""
    total = np.zeros((len(values), n_spans))
    if len(span_of):
        spans, starts = np.unique(span_of, return_index=True)
        total[:, spans] = np.add.reduceat(values, starts, axis=1, dtype=np.float64)
    return total


@dataclass(frozen=True, eq=False)
class Parts:
    """Documents in parts: the tokens of each document that are in no span, and those in each of its spans.

    Attributes:
        design: Design of the documents.
        part_of: Part of each token, or -1 for a token that is left out.
        document_of: Document of each part.
        span_of: Span of each part; -1 for none.
    """

    design: Design
    part_of: Int64[np.ndarray, " n_tokens"]
    document_of: Int64[np.ndarray, " n_parts"]
    span_of: Int64[np.ndarray, " n_parts"]

    @classmethod
    def of(cls, design: Design, tokens: Bool[np.ndarray, " n_tokens"] | None = None) -> Parts:
        """Return the parts of all documents, or of some of their tokens."""
        documents, spans = design.documents.document_of, design.span_of
        chosen = np.ones(len(spans), dtype=bool) if tokens is None else tokens
        keys, part_of = np.unique(documents * (len(design.spans) + 1) + spans + 1, return_inverse=True)
        document_of, span_of = np.divmod(keys, len(design.spans) + 1)
        return cls(design, np.where(chosen, part_of, -1), document_of, span_of - 1)

    @property
    def valid(self) -> Bool[np.ndarray, "n_models n_parts"]:
        """Models whose scores of a part count: all if it is in no span, else those with the span on."""
        on = np.concatenate([self.design.span_mask, np.ones((self.design.n_models, 1), dtype=bool)], axis=1)
        found: np.ndarray = on[:, self.span_of]
        return found

    @cached_property
    def n_tokens(self) -> Int64[np.ndarray, " n_documents"]:
        """Number of tokens of each document that are not left out."""
        chosen = self.design.documents.document_of[self.part_of >= 0]
        return np.bincount(chosen, minlength=len(self.design.documents)).astype(np.int64)

    def sums(self, values: np.ndarray) -> Float64[np.ndarray, "n_models n_parts"]:
        """Sum values of tokens over the tokens of each part."""
        chosen = self.part_of >= 0
        of, n_parts = self.part_of[chosen], len(self.document_of)
        return np.stack([np.bincount(of, row[chosen], n_parts) for row in values]).astype(np.float64)

    def means(
        self, values: np.ndarray, models: np.ndarray | slice = slice(None)
    ) -> Float64[np.ndarray, "n_models n_documents"]:
        """Return means over the tokens of each document under some models; NaN if one of them is in a span that is off.

        Args:
            values: Values of tokens, a row for each of these models.
            models: Their numbers; default all.
        """
        sums = np.where(self.valid[models] | ~self._told, self.sums(values), np.nan)
        return self._by_document(sums) / np.where(self.n_tokens > 0, self.n_tokens, np.nan)

    def compare(self, sums: np.ndarray, models: np.ndarray | slice = slice(None)) -> Difference:
        """Compare models that train on each document with those that do not, by their means over its tokens.

        Every part of a document counts as its number of tokens, and is compared among the models in which it counts.

        Args:
            sums: What ``sums`` returned, of all models.
            models: Numbers of the models to use; default all.
        """
        sums, valid = sums[models], self.valid[models]
        inside = self.design.document_mask[models]
        of_part = inside[:, self.document_of]
        sides = (of_part & valid, ~of_part & valid)
        residuals, counts = _residuals(sums, *sides), []
        means = []
        for rows, of_document in zip(sides, (inside, ~inside), strict=True):
            n = rows.sum(axis=0)
            # A part that fewer models tell of weighs more in each of them.
            weight = of_document.sum(axis=0)[self.document_of] / np.maximum(n, 1)
            residuals = np.where(rows, residuals * weight, residuals)
            n_of_part = np.where(self._told, n, len(sums))
            fewest = np.full(len(self.n_tokens), len(sums))
            np.minimum.at(fewest, self.document_of, n_of_part)
            counts.append(np.minimum(fewest, of_document.sum(axis=0)))
            means.append(self._by_document(mean_where(sums, rows)[None])[0])
        residuals = self._by_document(np.where(valid, residuals, 0))
        residuals = np.where(np.minimum(*counts) >= 2, residuals, np.nan)
        size = np.where(self.n_tokens > 0, self.n_tokens, np.nan)
        error = standard_error(residuals / size, inside, ~inside)
        return Difference(means[0] / size, means[1] / size, error, *counts)

    @cached_property
    def _told(self) -> Bool[np.ndarray, " n_parts"]:
        """Parts that have a token."""
        found: np.ndarray = np.bincount(self.part_of[self.part_of >= 0], minlength=len(self.document_of)) > 0
        return found

    def _by_document(self, of_parts: np.ndarray) -> Float64[np.ndarray, "n_rows n_documents"]:
        """Sum over the parts of each document that have a token; parts are in the order of their documents."""
        starts = np.searchsorted(self.document_of, np.arange(len(self.n_tokens)))
        found: np.ndarray = np.add.reduceat(np.where(self._told, of_parts, 0), starts, axis=1)
        return found


def measures_of(logs: Logs) -> dict[str, np.ndarray]:
    """Return the values of tokens that measures are means of: NaN for accuracy if it is not known."""
    correct = np.full(logs.log_probability.shape, np.nan, np.float32) if logs.correct is None else logs.correct
    return {"accuracy": correct, "log_probability": logs.log_probability}
