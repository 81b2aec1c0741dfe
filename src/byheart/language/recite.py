"""What of a text does a model recite? Windows of the text, beside four controls without which a number means nothing.

A window is a prefix of 16, 32 or 64 tokens of the text and the 50 tokens that follow. Its p_z is the probability that
sampling at temperature 1 from all tokens writes these 50; it counts as recited where p_z is at least 0.001: about 700
samples write it at least once with probability 1/2. Greedy: the most probable token is right 50 times in a row.

Sources: Carlini et al. 2023, arXiv 2202.07646 (greedy, 50 tokens); Hayes et al. 2024, arXiv 2410.19482 (p_z); Cooper et
al. 2025, arXiv 2505.12546 (windows, 0.001); Künsch 1989 (block bootstrap).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float64, Int64

from byheart.language.as_found import check_causal
from byheart.language.controls_of_texts import invented, twin
from byheart.language.documents import Documents
from byheart.language.exchange import token_places
from byheart.language.extras import require
from byheart.language.finetune import n_known
from byheart.language.reciters import Reciter
from byheart.language.scores_of_texts import ngram_log_probability
from byheart.language.tokens import tokenize

PREFIXES = (16, 32, 64)
LENGTH = 50  # tokens of a continuation
RECITED = 0.001  # p_z from which a window counts as recited
CONTROLS = ("wrong prefix", "twin", "never published", "n-gram")
_BLOCK, _OVERLAP = 512, 64  # tokens that are read at once, of which so many are read again
_DRAWS = 2_000
_TAIL = 0.025


@dataclass(frozen=True, eq=False)
class Recitation:
    """What a model recites of a text.

    Attributes:
        text, model: Names.
        documents: The text, as one document with its tokens.
        log_probability: Of each token (nats), given up to 512 tokens before it.
        first: Whether each token is the model's first guess there.
        windows: A row a window: start, stop (tokens of the continuation), log_p_16, log_p_32, log_p_64 (nats),
            greedy_16 and so on, edit_distance (of the greedy continuation of 64 tokens: tokens to change over tokens),
            and for each control its log_p, as in "log_p wrong prefix"; missing where the text gives no such window.
        notes: What was assumed, in sentences.
        white_space: How the text's white space was spelled, a key of ``spellings``: the way that the model knows best.
        seconds: Processor time; that of text never published, which texts share, counts for the first of them.
    """

    text: str
    model: str
    documents: Documents
    log_probability: Float64[np.ndarray, " n_tokens"]
    first: Bool[np.ndarray, " n_tokens"]
    windows: pd.DataFrame
    notes: tuple[str, ...]
    white_space: str
    seconds: float
    seed: int = field(default=0)

    def longest(self) -> tuple[int, int]:
        """First and last token (exclusive) of the longest run of first guesses."""
        edges = np.flatnonzero(np.diff(np.r_[0, self.first.astype(np.int8), 0]))
        runs = edges.reshape(-1, 2)
        if not len(runs):
            return 0, 0
        start, stop = runs[np.argmax(runs[:, 1] - runs[:, 0])].tolist()
        return start, stop

    def tokens(self) -> pd.DataFrame:
        """Return a row per token: text, model, token, start, stop (characters), id, log_probability (nats), first."""
        places = token_places(self.documents).rename(columns={"document": "text"}).drop(columns="position")
        places.insert(1, "model", self.model)
        return places.assign(log_probability=self.log_probability, first=self.first)

    def row(self) -> dict[str, Any]:
        """Return the text's row of the table text x model."""
        windows, (start, stop) = self.windows, self.longest()
        recited = self.recited("log_p_64")
        low, high = interval(recited.astype(np.float64), self.seed)
        return {
            "text": self.text,
            "model": self.model,
            "n_tokens": len(self.first),
            "n_characters": len(self.documents.texts[0]),
            "n_windows": len(windows),
            "loss": -float(self.log_probability.mean()),
            "accuracy": float(self.first.mean()),
            **{f"recited_{n}": float(self.recited(f"log_p_{n}").mean()) for n in PREFIXES},
            "recited_64_low": low,
            "recited_64_high": high,
            "greedy_64": float(windows["greedy_64"].mean()),
            "log10_p_z_highest": float(windows["log_p_64"].max() / np.log(10)),
            "longest_run": stop - start,
            "edit_distance": float(windows["edit_distance"].mean()),
            "loss_64": -float(windows["log_p_64"].mean() / LENGTH),
            **{f"recited {name}": self._share(f"log_p {name}") for name in CONTROLS},
            **{f"loss {name}": -float(windows[f"log_p {name}"].mean() / LENGTH) for name in CONTROLS},
            "cpu_seconds": self.seconds,
            "seed": self.seed,
            "white_space": self.white_space,
        }

    def recited(self, column: str) -> Bool[np.ndarray, " n"]:
        """Whether each window that there is counts as recited."""
        found: Bool[np.ndarray, " n"] = self.windows[column].dropna().to_numpy() >= np.log(RECITED)
        return found

    def _share(self, column: str) -> float:
        found = self.recited(column)
        return float(found.mean()) if len(found) else float("nan")

    def headline(self) -> str:
        """Say in a sentence what is recited, beside its controls."""
        row, recited = self.row(), self.recited("log_p_64")
        beside = ", ".join(
            f"{name} {self.recited(f'log_p {name}').sum()} of {len(self.recited(f'log_p {name}'))}" for name in CONTROLS
        )
        return (
            f"{self.model} recites {recited.sum()} of {len(recited)} windows of {self.text} after 64 tokens"
            f" ({row['recited_64']:.1%}, {row['recited_64_low']:.1%} to {row['recited_64_high']:.1%});"
            f" controls: {beside}. Longest run of first guesses: {row['longest_run']} tokens."
        )


def _in_lines(text: str) -> str:
    return re.sub(r"\r\n|\r", "\n", text)


def _in_paragraphs(text: str) -> str:
    return re.sub(r"\s+", lambda white: "\n\n" if white[0].count("\n") > 1 else " ", _in_lines(text))


SPELLINGS: dict[str, Callable[[str], str]] = {
    "single spaces": lambda text: re.sub(r"\s+", " ", text),
    "a line per paragraph": _in_paragraphs,
    "line ends \\n": _in_lines,
    "as it stands": lambda text: text,
}
"""Ways of spelling the white space of a text, or of a part of one."""
_JOINED = ("single spaces", "a line per paragraph")  # without white space at the ends of a text


def spellings(text: str) -> dict[str, str]:
    """Return the ways in which a text's white space may have stood in what a model read, none of them twice.

    A model that learned wrapped lines by heart hardly knows them with spaces in place of the line ends, and the other
    way round.

    Args:
        text: As it stands in a file.
    """
    found: dict[str, str] = {}
    for way, spell in SPELLINGS.items():
        spelled = spell(text.strip() if way in _JOINED else text)
        if spelled not in found.values():
            found[way] = spelled
    return found


def interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return a 95 % interval of a mean over windows by the bootstrap of blocks of neighbours.

    Where all windows are the same, resampling says nothing: the bound is then the exact one of independent windows.

    Args:
        values: Of the windows, in their order, in [0, 1].
        seed: Seed of the draws.
    """
    n = len(values)
    if (values == values[0]).all() and values[0] in (0, 1):
        bound = _TAIL ** (1 / n)
        return (0.0, 1 - bound) if values[0] == 0 else (bound, 1.0)
    size = max(1, round(n ** (1 / 3)))
    starts = np.random.default_rng(seed).integers(0, n, (_DRAWS, -(-n // size)))
    rows = ((starts[..., None] + np.arange(size)) % n).reshape(_DRAWS, -1)[:, :n]
    low, high = np.quantile(values[rows].mean(axis=1), [_TAIL, 1 - _TAIL])
    return float(low), float(high)


def recite(
    reciter: Reciter,
    texts: Mapping[str, str],
    *,
    n_windows: int = 40,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Recitation]:
    """Measure what a model recites of texts, with all controls.

    A text with line ends is tried with its white space spelled in each of the ways of ``spellings``, and told of in the
    one in which most windows are recited, or, where no two differ in that, the one whose tokens are most probable.
    That is a choice of the highest of up to four shares, which intervals do not know of.

    Args:
        reciter: The model, from ``byheart.language.reciter``.
        texts: By name, with their lines as they stand.
        n_windows: Windows of a text at most, spread evenly, without overlap of what is continued; at least 2.
        seed: Seed of the controls and the bootstrap.
        on_progress: Called with the texts done and their number.

    Raises:
        ValueError: If a text is too short for two windows, the tokenizer does not give it back, the model reads too
            few tokens at once, is not causal, lacks a token or says what is not finite, its weights are in half
            precision on a processor, or a number is out of range.
        ModuleNotFoundError: If a package is missing.
    """
    require("rapidfuzz")
    if not isinstance(reciter, Reciter):
        raise ValueError(f"reciter: received {type(reciter).__name__}, accepted: what byheart.language.reciter returns")
    if not isinstance(texts, Mapping) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"texts: received {type(texts).__name__}, accepted: a dict of texts by name")
    if seed < 0:
        raise ValueError(f"seed: received {seed}, accepted: an integer >= 0")
    if not isinstance(n_windows, int | np.integer) or n_windows < 2:
        raise ValueError(f"n_windows: received {n_windows}, accepted: an integer >= 2")
    if not texts:
        raise ValueError("texts: received none, accepted: at least one")
    needed = len(reciter.head) + max(PREFIXES) + LENGTH
    if reciter.context < needed:
        raise ValueError(f"model: received a context of {reciter.context} tokens, accepted: at least {needed}")
    dtype, device = reciter.model.dtype, reciter.model.device
    if device.type == "cpu" and dtype.itemsize < 4:
        raise ValueError(f"model: received {dtype} on a CPU, accepted: float32 (`model.float()`)")
    check_causal(reciter.model)
    found, unpublished = [], _Unpublished(reciter, seed)
    for name, text in texts.items():
        found.append(_recite(reciter, name, text, n_windows, seed, unpublished))
        if on_progress is not None:
            on_progress(len(found), len(texts))
    return found


def _recite(reciter: Reciter, name: str, text: str, n_windows: int, seed: int, unpublished: _Unpublished) -> Recitation:
    began = time.process_time()
    if not text.strip():
        raise ValueError(f"text: received {name}, which is empty, accepted: a text with words")
    white_space, documents, note = _spelled(reciter, name, text, n_windows)
    tokens, longest = documents.flat, max(PREFIXES)
    starts = _starts(name, tokens, n_windows)
    n = len(starts)
    columns: dict[str, Any] = {"start": starts, "stop": starts + LENGTH}
    for size in PREFIXES[:-1]:
        logs, first = reciter.read(_cut(tokens, starts, size), LENGTH)
        columns[f"log_p_{size}"], columns[f"greedy_{size}"] = logs.sum(axis=1), first.all(axis=1)
    rows = _cut(tokens, starts, longest)
    after = reciter.continue_after(rows[:, :longest], rows[:, longest:])
    columns[f"log_p_{longest}"], columns[f"greedy_{longest}"] = (
        after.log_probability.sum(axis=1),
        after.first.all(axis=1),
    )
    columns["edit_distance"] = _edits(after.written, rows[:, longest:])
    columns["log_p wrong prefix"] = after.after_other.sum(axis=1)
    columns["log_p twin"] = _of_twin(reciter, documents, starts, seed)
    columns["log_p never published"] = unpublished.log_p(n)
    columns["log_p n-gram"] = _of_ngram(documents, starts)
    has_twin = bool(np.isfinite(columns["log_p twin"]).any())
    log_probability, first_guess = _whole(reciter, tokens)
    guessing = float(np.log(reciter.model.config.get_text_config().vocab_size))
    worse = -float(log_probability.mean()) > guessing
    notes = (
        "Weights are read as float32, whatever they are kept in.",
        f"p_z is of sampling at temperature 1 from all tokens, {LENGTH} tokens; recited: p_z of {RECITED} or more.",
        note,
        *(
            [
                f"The loss of {name} is above {guessing:.2f} nats, that of guessing among all tokens: is the tokenizer"
                " another model's?"
            ]
            * worse
        ),
        *([f"{name} has no twin: none of its windows has a name or number to swap."] * (not has_twin)),
    )
    seconds = time.process_time() - began
    table = pd.DataFrame(columns)
    return Recitation(
        name, reciter.name, documents, log_probability, first_guess, table, notes, white_space, seconds, seed
    )


def _starts(name: str, tokens: np.ndarray, n_windows: int) -> Int64[np.ndarray, " n"]:
    """Where the continuations begin, spread evenly."""
    longest = max(PREFIXES)
    n = min(n_windows, (len(tokens) - longest) // LENGTH)
    if n < 2:
        raise ValueError(f"text: received {name} of {len(tokens)} tokens, accepted: at least {longest + 2 * LENGTH}")
    return np.linspace(longest, len(tokens) - LENGTH, n).astype(np.int64)


def _readable(reciter: Reciter, documents: Documents) -> Documents:
    """Refuse a token that the model does not have, which would read beyond its table."""
    known, largest = n_known(reciter.model), int(documents.flat.max())
    if known is not None and largest >= known:
        raise ValueError(
            f"tokenizer: received token {largest}, of which the model has none, accepted: below {known}, as its own"
            " tokenizer gives"
        )
    return documents


def _spelled(reciter: Reciter, name: str, text: str, n_windows: int) -> tuple[str, Documents, str]:
    """The spelling of white space in which a model recites most of a text, the text so, and a sentence on it."""
    ways, refused = {}, None
    for way, own in spellings(text).items():
        try:
            ways[way] = _readable(reciter, tokenize([name], [own], reciter.tokenizer))
        except ValueError as error:  # tokenizers that know no line ends were trained without them
            refused = refused or error
    if refused and not ways:
        raise refused
    known = {}
    for way, documents in ways.items():
        rows = _cut(documents.flat, _starts(name, documents.flat, n_windows), max(PREFIXES))
        logs = reciter.read(rows, LENGTH)[0].sum(axis=1)
        if not np.isfinite(logs).all():
            raise ValueError(
                "model: received one whose probabilities are not finite, accepted: one that did not diverge"
            )
        known[way] = (float((logs >= np.log(RECITED)).mean()), float(logs.mean()))
    best = max(known, key=lambda way: known[way])
    if len(ways) == 1:
        return best, ways[best], f"White space of {name}: {best}."
    tried = ", ".join(f"{way} ({known[way][0]:.0%} recited)" for way in ways)
    return best, ways[best], f"White space of {name}: {best}, which the model knows best of {tried}."


def _cut(tokens: np.ndarray, starts: np.ndarray, size: int) -> Int64[np.ndarray, "n_windows length"]:
    return np.asarray(tokens[starts[:, None] + np.arange(-size, LENGTH)], dtype=np.int64)


def _edits(written: np.ndarray, right: np.ndarray) -> list[float]:
    from rapidfuzz.distance import Levenshtein

    return [Levenshtein.distance(a.tolist(), b.tolist()) / LENGTH for a, b in zip(written, right, strict=True)]


class _Unpublished:
    """Windows of text that nobody published, the same for all texts: each is read once."""

    def __init__(self, reciter: Reciter, seed: int) -> None:
        self._reciter, self._seed = reciter, seed
        self._found = np.zeros(0)

    def log_p(self, n_windows: int) -> Float64[np.ndarray, " n_windows"]:
        """Return the log-probability of the continuation in each of the first windows."""
        size = max(PREFIXES) + LENGTH
        if n_windows > len(self._found):
            text = invented(8 * n_windows * size, self._seed)
            tokens = self._reciter.tokenizer(text, add_special_tokens=False)["input_ids"]
            rows = np.array(tokens[: n_windows * size], dtype=np.int64).reshape(n_windows, size)
            new = self._reciter.read(rows[len(self._found) :], LENGTH)[0].sum(axis=1)
            self._found = np.concatenate([self._found, new])
        return self._found[:n_windows]


def _of_twin(reciter: Reciter, documents: Documents, starts: np.ndarray, seed: int) -> Float64[np.ndarray, " n"]:
    """Log-probability of the twin's continuations that differ from the text's, after the twin's prefixes."""
    changed, moved = twin(documents.texts[0], seed)
    other = tokenize(["twin"], [changed], reciter.tokenizer)
    tokens = np.searchsorted(other.offsets[0][:, 0], moved[documents.offsets[0][starts, 0]])
    found = np.full(len(starts), np.nan)
    fits = (tokens >= max(PREFIXES)) & (tokens + LENGTH <= other.n_tokens)
    rows, old = _cut(other.flat, tokens[fits], max(PREFIXES)), _cut(documents.flat, starts[fits], 0)
    differ = (rows[:, -LENGTH:] != old).any(axis=1)
    if differ.any():
        found[np.flatnonzero(fits)[differ]] = reciter.read(rows[differ], LENGTH)[0].sum(axis=1)
    return found


def _of_ngram(documents: Documents, starts: np.ndarray) -> Float64[np.ndarray, " n"]:
    """Log-probability of each continuation by an n-gram model of the rest of the text."""
    edges = np.unique(np.r_[0, starts, starts + LENGTH, documents.n_tokens])
    logs = ngram_log_probability(documents.flat, edges, documents.vocabulary)
    sums = np.add.reduceat(logs, edges[:-1])
    return np.asarray(sums[np.searchsorted(edges, starts)], dtype=np.float64)


def _whole(reciter: Reciter, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read all of a text in overlapping blocks; the first token, without a head, counts as equally likely as any."""
    block = min(_BLOCK, reciter.context - len(reciter.head))
    n_first = 0 if reciter.head else 1
    logs, first = np.full(len(tokens), -np.log(reciter.model.config.vocab_size)), np.zeros(len(tokens), dtype=bool)
    done = n_first
    while done < len(tokens):
        start = max(0, done - _OVERLAP)
        stop = min(len(tokens), start + block)
        (new,), (right,) = reciter.read(tokens[None, start:stop], stop - done)
        logs[done:stop], first[done:stop] = new, right
        done = stop
    return logs, first
