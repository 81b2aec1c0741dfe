"""Did an edit make a model forget? The same spans under the model before and after it, paired, and what it cost.

A model that no longer recites a span may still know it: so spans can be taught again, beside spans that were never
learned. Spans that come back in fewer steps than these were hidden, not gone. That is asked only of spans that were
known before and are no longer; known is what is recited, or more probable than a span that was never learned would be.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64

from byheart.language.collate import IGNORED
from byheart.language.forget import check_training, relearn
from byheart.language.labelled import Row, check_rows, recitation
from byheart.language.spans import snapped
from byheart.language.tokens import tokenize

_DRAWS = 2_000  # of the bootstrap
_TAIL = 0.025
_ENOUGH = 10  # spans never learned, which as a rule vary little enough to tell a bound
_FALL = 1.0  # in log10: a span whose p_z fell less than tenfold is not forgotten, though its greedy recitation may tip
_ACCEPTED = 'accepted: a JSON list of strings, or of {"prefix": "...", "text": "..."}'


@dataclass(frozen=True, eq=False)
class Forgotten:
    """A model before and after an edit.

    Attributes:
        summary: A row per measure: ``measure``, ``n`` (spans or held-out texts), ``before``, ``after``, their
            ``difference``, and its 95 % interval ``low``, ``high``, NaN for one span or text. Measures are "recited"
            (share of spans), "log10 p_z" (mean over spans) and, with held-out text, "held-out loss" (nats per token).
        spans: A row per span: ``n_tokens``; ``log10_p_before``, ``log10_p_after``, ``recited_before`` and
            ``recited_after``; ``log10_p_known``, the log10 p_z above which the model before knew it though it did not
            recite it, since the best of as many spans of the kind of ``never`` would lie above it at an error rate of
            2.5 %, NaN where these are too few to tell (see ``compared``); ``known``, whether it recited it or lay above
            that; ``lost``, whether it was known and is no longer: not recited, its p_z a tenth or less, and, if it was
            never recited, no more probable than such spans; with relearning ``steps`` of those that were lost, infinite
            for one that was given up, else NaN.
        relearned: With relearning, if spans were lost, a row for these ("lost") and one for those never learned:
            ``spans``, ``n``, ``given_up``, and the mean number of ``steps`` with its interval ``low``, ``high``, NaN
            for one span; those given up count as ``max_steps``. Else None.
        ratio: With ``relearned``, the steps of lost spans over the steps of those never learned, and its 95 % interval,
            NaN where one of both is a single span.
        n_never: Number of spans that were never learned.
    """

    summary: pd.DataFrame
    spans: pd.DataFrame
    relearned: pd.DataFrame | None
    ratio: tuple[float, float, float] | None
    n_never: int = 0

    @property
    def compared(self) -> bool:
        """Whether every span could be compared with such as were never learned.

        Of few of these, or of some that vary much, the best of others may lie anywhere: the bound is then above
        probability 1, and no span can pass it.
        """
        return bool(self.spans["log10_p_known"].notna().all())

    def headline(self) -> str:
        """Say what is recited, what the edit cost, and whether the spans that were lost are gone or hidden."""
        rows = {row["measure"]: row for row in self.summary.to_dict("records")}
        recited, p_z = rows["recited"], rows["log10 p_z"]
        said = (
            f"Of {recited['n']} spans, {recited['before']:.0%} were recited before and {recited['after']:.0%} after;"
            f" sampling writes them 10^{round(p_z['difference'], 1) + 0.0:.1f} times as often"
            f"{_interval(p_z['low'], p_z['high'], '10^{:.1f}')}."
        )
        if "held-out loss" in rows:
            rise, low, high = (100 * np.expm1(rows["held-out loss"][name]) for name in ("difference", "low", "high"))
            said += f" Held-out perplexity: {rise:+.1f} %{_interval(low, high, '{:+.1f}')}."
        return f"{said} {self._verdict()}"

    def _verdict(self) -> str:
        """Say what was known before, what of it was lost, and whether that is gone or hidden, in sentences."""
        spans = self.spans
        known, lost = spans["known"].to_numpy(), spans["lost"].to_numpy()
        logs = [spans[f"log10_p_{side}"].to_numpy() for side in ("before", "after")]
        if np.array_equal(logs[0], logs[1]):
            same = "gives every span the same probability as the model before: nothing was forgotten."
            return f"The model after the edit {same}"
        if not known.any():
            first = "The model before the edit recited none of them (in this spelling)"
            if others := self._of_others(known, logs):
                return f"{first}.{others}"
            beyond = " and gave none a clearly higher probability than spans it never saw" if self.compared else ""
            return f"{first}{beyond}: there is no sign that it knew them."
        some = spans["log10_p_known"].notna().any()
        beyond = " (recited, or far more probable than spans never learned)" if some else " (recited)"
        first = f"Known before{beyond}: {known.sum()}; "
        if not lost.any():
            differences = (logs[1] - logs[0])[known]
            _, high = _interval_of(differences, np.ones(len(differences)), seed=0)
            less = ", though they are less probable" if high < 0 else ""
            return f"{first}none of them was forgotten{less}.{self._of_others(known, logs)}"
        still = known.sum() - lost.sum()
        first += f"no longer known: {lost.sum()}{f' (still known: {still})' if still else ''}."
        if self.ratio is None:
            return first + self._of_others(known, logs)
        ratio, low, high = self.ratio
        assert self.relearned is not None
        given_up = dict(zip(self.relearned["spans"], self.relearned["given_up"], strict=True))
        interval = f"({low:.2f} to {high:.2f})" if np.isfinite(low) else "(no interval)"
        if high < 1 and not given_up["lost"]:  # steps of those never learned that were given up are more still
            verdict = "they were hidden, not gone"
        elif any(given_up.values()):
            verdict = "max_steps ended too many to tell whether they were hidden"
        else:
            verdict = "nothing says that they were hidden" if low > 0.5 else "too few to tell whether they were hidden"
        return (
            f"{first} Taught again, those no longer known take {ratio:.2f} times {interval} the steps of spans never"
            f" learned: {verdict}."
        )

    def _of_others(self, known: np.ndarray, logs: Sequence[np.ndarray]) -> str:
        """Say how many spans that were not recited before fell, where nothing says whether they were known."""
        open_ = ~known & self.spans["log10_p_known"].isna().to_numpy()
        n_fell = int((open_ & (logs[0] - logs[1] >= _FALL)).sum())
        if not n_fell:
            return ""
        more = f"{max(_ENOUGH, 2 * self.n_never) - self.n_never}{' more' if self.n_never else ''}"
        longer = ", or longer," if self.n_never >= _ENOUGH else ""
        return (
            f" Of those not recited before, {n_fell} fell to a tenth or less: about {more}{longer} spans never learned"
            " (never) would tell whether these were known."
        )


def _interval(low: float, high: float, form: str) -> str:
    low, high = (round(value, 1) + 0.0 for value in (low, high))  # no -0.0
    return f" ({form.format(low)} to {form.format(high)})" if np.isfinite(low) else " (no interval)"


def forgotten(
    before: Any,
    after: Any,
    rows: Sequence[Row],
    *,
    held_out: Sequence[Row] = (),
    never: Sequence[Row] = (),
    learning_rate: float = 3e-4,
    max_steps: int = 200,
    batch_size: int = 16,
    seed: int = 0,
) -> Forgotten:
    """Compare a causal model before and after an edit, on the same spans and the same held-out text.

    Intervals are of a bootstrap over spans, or held-out texts, each with both models' values. They are of one model and
    one edit: they do not say how another training would have turned out.

    Args:
        before: A causal model of Transformers, or any module that returns logits for ``input_ids``.
        after: The same model after the edit.
        rows: A span each, with what precedes it, as ``span_rows`` makes them; labels are -100 outside of the span.
        held_out: Text that neither was trained on, as ``text_rows`` makes it, to tell what the edit cost.
        never: Spans of the same kind that were never trained on: they say which of ``rows`` were known, though not
            recited (which takes about ten, see ``Forgotten.compared``), and the edited model is taught those that it
            lost, and these, each span alone (see ``relearn``).
        learning_rate: Of that training.
        max_steps: Steps after which a span is given up.
        batch_size: Rows at once.
        seed: Of the bootstrap.

    Raises:
        ValueError: If there is no row, one is there twice, one of ``rows`` is in ``never``, a number is out of range,
            or a model's answers are not finite.
        ModuleNotFoundError: If PyTorch is missing.
    """
    if seed < 0:
        raise ValueError(f"seed: received {seed}, accepted: an integer >= 0")
    check_training(learning_rate, max_steps)
    taught = _each_once(rows, "spans")
    if len(never) and taught & _each_once(never, "never"):
        raise ValueError("never: received one of the spans, accepted: spans that were never trained on")
    sides = [
        recitation(model, rows, batch_size, "spans", name) for model, name in ((before, "before"), (after, "after"))
    ]
    log10 = [side["log_probability"].to_numpy() / np.log(10) for side in sides]
    recited = [side["recited"].to_numpy().astype(float) for side in sides]
    ones = np.ones(len(rows))
    summary = [_paired("recited", recited, ones, seed), _paired("log10 p_z", log10, ones, seed)]
    if len(held_out):
        told = [
            recitation(model, held_out, batch_size, "held_out", name)
            for model, name in ((before, "before"), (after, "after"))
        ]
        n_tokens = told[0]["n_tokens"].to_numpy(dtype=float)
        losses = [-side["log_probability"].to_numpy() / n_tokens for side in told]
        summary.append(_paired("held-out loss", losses, n_tokens, seed))
    columns: dict[str, Any] = {"n_tokens": sides[0]["n_tokens"]}
    for side, logs, said in zip(("before", "after"), log10, sides, strict=True):
        columns |= {f"log10_p_{side}": logs, f"recited_{side}": said["recited"]}
    never_learned = [
        recitation(model, never, batch_size, "never", name)
        for model, name in ((before, "before"), (after, "after"))
        if len(never)
    ]
    columns["known"], columns["lost"], columns["log10_p_known"] = _known_and_lost(sides, never_learned)
    relearned = ratio = None
    if len(never):
        lost = np.flatnonzero(columns["lost"]).tolist()
        columns["steps"] = np.full(len(rows), np.nan)
        if len(lost):
            both = ([rows[i] for i in lost], never)
            steps = [relearn(after, own, learning_rate=learning_rate, max_steps=max_steps) for own in both]
            columns["steps"][lost] = steps[0]
            relearned, ratio = _relearned(steps, max_steps, seed)
    return Forgotten(pd.DataFrame(summary), pd.DataFrame(columns), relearned, ratio, len(never))


def _each_once(rows: Sequence[Row], what: str) -> set[bytes]:
    """The tokens of rows, none of which may be there twice: it would count as two that are independent."""
    found: dict[bytes, int] = {}  # the same tokens before it, and the same of its own
    for number, (tokens, labels) in enumerate(check_rows(rows, what)):
        first = found.setdefault(tokens.tobytes() + b"|" + labels.tobytes(), number)
        if first != number:
            raise ValueError(f"{what}: received number {first + 1} again as number {number + 1}, accepted: each once")
    return {tokens.tobytes() for tokens, _ in check_rows(rows, what)}


def _known_and_lost(
    sides: Sequence[pd.DataFrame], never: Sequence[pd.DataFrame]
) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """Which spans were known before the edit, which of these are no longer after it, and the bound in log10 p_z.

    See ``Forgotten``. Where those never learned tell no bound of the model after, that of the model before holds.
    """
    bounds = [_bound(side, never[i]) if never else np.full(len(side), np.nan) for i, side in enumerate(sides)]
    bounds[1] = np.where(np.isnan(bounds[1]), bounds[0], bounds[1])
    above = [side["log_probability"].to_numpy() > bound for side, bound in zip(sides, bounds, strict=True)]
    recited = [side["recited"].to_numpy(dtype=bool) for side in sides]
    fall = (sides[0]["log_probability"] - sides[1]["log_probability"]).to_numpy() / np.log(10)
    known = recited[0] | above[0]
    lost = known & ~recited[1] & (fall >= _FALL) & (recited[0] | ~above[1])
    return known, lost, bounds[0] / np.log(10)


def _bound(spans: pd.DataFrame, never: pd.DataFrame) -> Float64[np.ndarray, " n"]:
    """The log-probability (nats) below which the best of as many spans that were never learned would stay.

    It is that of a prediction from the mean and the variance of these, per token and weighted by tokens, at 2.5 % for
    all spans together (Bonferroni). Spans that are shorter than those on average vary more, as means of fewer tokens;
    longer ones are held to vary as these do, since the words of a text are hard or easy together. NaN where there is
    but one, and where the bound is not below probability 1, which no span can pass.
    """
    from scipy.stats import t  # slow to import

    n, n_tokens = len(never), spans["n_tokens"].to_numpy(dtype=float)
    if n < 2:
        return np.full(len(spans), np.nan)
    weights = never["n_tokens"].to_numpy(dtype=float)
    others = never["log_probability"].to_numpy() / weights
    mean = np.average(others, weights=weights)
    of_a_token = (weights * (others - mean) ** 2).sum() / (n - 1)
    spread = np.sqrt(of_a_token * (1 / np.minimum(n_tokens, weights.mean()) + 1 / weights.sum()))
    bound = mean + t.ppf(1 - _TAIL / len(spans), n - 1) * spread
    return np.where(bound < 0, bound * n_tokens, np.nan)


def _paired(measure: str, sides: Sequence[np.ndarray], weights: np.ndarray, seed: int) -> dict[str, Any]:
    """Compare weighted means over the same units, before and after."""
    n, differences = len(weights), sides[1] - sides[0]
    low, high = _interval_of(differences, weights, seed)
    if measure == "recited" and (differences == differences[0]).all():  # a bootstrap knows no other outcome
        rest = 1 - _TAIL ** (1 / n)  # share of others that so many spans may have missed
        low, high = max(differences[0] - rest, -1), min(differences[0] + rest, 1)
    means = [float(np.average(values, weights=weights)) for values in sides]
    found = {"measure": measure, "n": n, "before": means[0], "after": means[1], "difference": means[1] - means[0]}
    return found | {"low": float(low), "high": float(high)}


def _interval_of(differences: np.ndarray, weights: np.ndarray, seed: int) -> tuple[float, float]:
    """A 95 % interval of a weighted mean of paired differences by the bootstrap; NaN of a single one."""
    n = len(weights)
    if n == 1:
        return np.nan, np.nan
    drawn = np.random.default_rng(seed).integers(n, size=(_DRAWS, n))
    total = weights[drawn].sum(axis=1)
    low, high = np.quantile((differences * weights)[drawn].sum(axis=1) / total, [_TAIL, 1 - _TAIL])
    return float(low), float(high)


def _relearned(
    steps: Sequence[np.ndarray], max_steps: int, seed: int
) -> tuple[pd.DataFrame, tuple[float, float, float]]:
    """Mean steps of spans and of those never learned, and their ratio."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    drawn = []
    for name, own in zip(("lost", "never learned"), steps, strict=True):
        capped = np.minimum(own, max_steps)
        means = capped[rng.integers(len(capped), size=(_DRAWS, len(capped)))].mean(axis=1)
        low, high = np.quantile(means, [_TAIL, 1 - _TAIL]) if len(own) > 1 else (np.nan, np.nan)
        row = {"spans": name, "n": len(own), "given_up": int(np.isinf(own).sum()), "steps": float(capped.mean())}
        rows.append(row | {"low": float(low), "high": float(high)})
        drawn.append(means)
    if not drawn[1].all():
        raise ValueError("never: received spans that the edited model recites, accepted: spans that it never learned")
    low, high = np.quantile(drawn[0] / drawn[1], [_TAIL, 1 - _TAIL])
    if min(map(len, steps)) == 1:
        low = high = np.nan
    return pd.DataFrame(rows), (rows[0]["steps"] / rows[1]["steps"], float(low), float(high))


def span_rows(
    tokenizer: Any, spans: Sequence[str | tuple[str, str]], *, prefix: int = 16, head: Sequence[int] = ()
) -> list[dict[str, np.ndarray]]:
    """Return rows of spans, each with what precedes it, for ``forgotten``, ``gradient_ascent`` and ``relearn``.

    Args:
        tokenizer: A fast tokenizer of Hugging Face, or what else ``tokenize`` takes.
        spans: Pairs of what precedes the span and the span itself, or strings, of which the first tokens precede it.
        prefix: Number of tokens that precede the span in a string, at least 1.
        head: Tokens that the model reads before every text, such as ``Reciter.head``.

    Raises:
        ValueError: If there is no span, or one has no token after those that precede it.
        ModuleNotFoundError: If the package tokenizers is missing.
    """
    if prefix < 1:
        raise ValueError(f"prefix: received {prefix}, accepted: an integer >= 1")
    if not spans:
        raise ValueError("spans: received none, accepted: at least one")
    for span in spans:
        if not isinstance(span, str) and not (
            isinstance(span, tuple) and len(span) == 2 and all(isinstance(part, str) for part in span)
        ):
            raise ValueError(f"spans: received {span!r:.60}, accepted: texts, or pairs of what precedes one and itself")
    pairs = [("", span) if isinstance(span, str) else span for span in spans]
    documents = tokenize([f"span {i}" for i in range(len(pairs))], ["".join(pair) for pair in pairs], tokenizer)
    rows = []
    for number, (before, text) in enumerate(pairs):
        tokens = documents.tokens[number]
        start = prefix if isinstance(spans[number], str) else 0
        if before and text.strip():
            start = snapped(documents, number, len(before), len(before + text)).start
        if start >= len(tokens) or not text.strip() or (start == 0 and not head):
            raise ValueError(
                f"spans: received {text!r:.60} with {min(start, len(tokens))} of {len(tokens)} tokens before it,"
                f" accepted: spans of more than {prefix} tokens, or with a prefix, and a text"
            )
        labels = np.where(np.arange(len(tokens)) >= start, tokens, IGNORED)
        first = np.array(head, dtype=np.int64)
        rows.append({"input_ids": np.append(first, tokens), "labels": np.append(np.full(len(first), IGNORED), labels)})
    return rows


def text_rows(
    tokenizer: Any, texts: Sequence[str], *, context: int = 128, head: Sequence[int] = ()
) -> list[dict[str, np.ndarray]]:
    """Return rows of texts, cut into pieces: ordinary text for ``kfac_edit``, text to retain, or to hold out.

    Args:
        tokenizer: A fast tokenizer of Hugging Face, or what else ``tokenize`` takes.
        texts: The texts; pieces of a single token are left out.
        context: Tokens of a piece at most, at least 2.
        head: Tokens that the model reads before every text, such as ``Reciter.head``.

    Raises:
        ValueError: If nothing is left, or a number is out of range.
        ModuleNotFoundError: If the package tokenizers is missing.
    """
    if context < 2:
        raise ValueError(f"context: received {context}, accepted: an integer >= 2")
    if not texts:
        raise ValueError("texts: received none, accepted: at least one")
    documents = tokenize([f"text {i}" for i in range(len(texts))], texts, tokenizer)
    pieces = [own[at : at + context] for own in documents.tokens for at in range(0, len(own), context)]
    found = [{"input_ids": np.append(np.array(head, dtype=np.int64), piece)} for piece in pieces if len(piece) > 1]
    if not found:
        raise ValueError("texts: received single tokens, accepted: texts of two tokens or more")
    return found


def spans_of_file(path: str | Path) -> list[str | tuple[str, str]]:
    """Read spans from a JSON list of strings, or of objects with "prefix" and "text", as ``span_rows`` takes them.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such list, or a span is there twice: the same text after the same prefix, as they stand.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"spans: received {path}, accepted: a JSON file")
    try:
        given = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"spans: received {path} ({error}), {_ACCEPTED}") from None
    if not isinstance(given, list) or not given:
        raise ValueError(f"spans: received {path}, which is no list with a span, {_ACCEPTED}")
    found: list[str | tuple[str, str]] = []
    firsts: dict[str | tuple[str, str], int] = {}
    for number, span in enumerate(given):
        if isinstance(span, dict) and {name: type(value) for name, value in span.items()} == {
            "prefix": str,
            "text": str,
        }:
            found.append((span["prefix"], span["text"]))
        elif isinstance(span, str):
            found.append(span)
        else:
            raise ValueError(f"spans: received {json.dumps(span):.80} in {path}, {_ACCEPTED}")
        if (first := firsts.setdefault(found[-1], number)) != number:
            raise ValueError(
                f"spans: received {json.dumps(span):.60} in {path} twice, as numbers {first + 1} and {number + 1},"
                " accepted: each once"
            )
    return found
