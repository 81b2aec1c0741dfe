"""What a fine-tune of your own memorized: you train, as you always do, on what a design says; this asks your models.

With one model, the draw of the design tells about groups of documents and spans, since it was random which were in;
with eight, single documents. What a model says is kept when it is there, so that a call that was killed goes on.
"""

from __future__ import annotations

import functools
import json
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float32, Float64

from byheart.language import few
from byheart.language.as_found import check_causal, left_as_found
from byheart.language.design import Design, Place
from byheart.language.differences import Places
from byheart.language.estimates import Estimates
from byheart.language.extraction import extraction_from
from byheart.language.extras import require
from byheart.language.logs import Logs
from byheart.language.rows import in_batches
from byheart.language.scores import document_scores
from byheart.progress import bar_for_a_person
from byheart.records import Record, Records, digest
from byheart.storage import prepare_directory

_TEXT_SCORES = ["ngram_surprisal", "unigram_surprisal", "n_tokens"]
_POSITIONS = 4096  # whose logits are held at once, at most, if a row is not longer


@dataclass(frozen=True, eq=False)
class Finetune:
    """What fine-tuned models memorized.

    Attributes:
        design: Who was trained on what: the design's first models.
        models: Numbers of the models that were trained.
        logs: What each says of every token (n_models rows).
        before: What the model said before it was fine-tuned (one row), if it was given.
        documents: With one model or a pair, a row per document: inside (whether the first was trained on it),
            probability_inside and probability (see ``few.Single``); with more, memorization with 90 % intervals (see
            ``few.shrunk``). None where too few documents were drawn.
        groups: Of documents, a row per group, with one model or a pair (see ``few.Single``); else None.
        dose: Of spans, a row per number of copies, with one model or a pair: the same; else None.
        spans: A row per span (see ``extraction``), and log_p_before; ``on``, the share of models that have it on.
        estimates: With four models or more, else None.
        seconds: That training each model took, as long as this machine saw it.
        notes: What was not estimated, in sentences.
    """

    design: Design
    models: tuple[int, ...]
    logs: Logs
    before: Logs | None
    documents: pd.DataFrame | None
    groups: pd.DataFrame | None
    dose: pd.DataFrame | None
    spans: pd.DataFrame
    estimates: Estimates | None
    seconds: tuple[float, ...]
    notes: tuple[str, ...]

    def headline(self) -> str:
        """Say what was memorized, and what it cost to know."""
        if self.estimates is not None:
            said = self.estimates.headline()
        else:
            tables = [table for table in (self.groups, self.dose) if table is not None]
            said = " ".join(_words(row) for table in tables for row in table.to_dict("records"))
            said = said or "Nothing was drawn at random, so that nothing can be said."
        minutes = sum(self.seconds) / 60
        return f"{said} {len(self.models)} fine-tune{'s' * (len(self.models) > 1)}, {minutes:.1f} minutes."


def _words(row: dict[Any, Any]) -> str:
    if not np.isfinite(row["memorization"]):
        return f"Memorization of {row['group']}: not told, since all or none of it was trained on."
    interval = f" ({row['low']:.2f} to {row['high']:.2f})" if np.isfinite(row["low"]) else " (no interval)"
    return f"Memorization of {row['group']}: {row['memorization']:.2f} nats per token{interval}."


def audit_finetune(
    train: Callable[[int], Any],
    design: Design,
    *,
    store: str | Path,
    n_models: int | None = None,
    before: Any = None,
    groups: Sequence[Any] | None = None,
    beginning: int | None = None,
    batch_size: int = 16,
    on_progress: Callable[[int, int], None] | None = None,
) -> Finetune:
    """Train models by a function of your own, and say what they memorized.

    ``train(k)`` trains model k on what the design gives it, ``design.collate(k)``, and returns a causal model of
    Transformers, or a pair of it and its tokenizer, which is then checked to be the design's; or the natural logarithms
    of the probabilities of all of the design's tokens, (n_tokens), or a pair of these and whether each is the most
    probable token. Every call begins with the same weights. Training costs ``n_models`` fine-tunes, asking a forward
    pass over the different documents for each.

    Args:
        train: Your function; called in this process, for one model after the other.
        design: Who trains on what, with the tokens of the model's own tokenizer (``tokenize``).
        store: Directory where what each model says is kept; models that are there are not trained again, so that
            another way of training needs another directory.
        n_models: Models to train, 1 or an even number: the first of the design; default all of them. One tells of
            groups, 8 of single documents.
        before: The model before it is fine-tuned, or anything that ``train`` may return; asked before anything is
            trained.
        groups: A label for each document; default all in one group.
        beginning: Token that every row begins with, as in ``design.collate(k, beginning=...)``.
        batch_size: Rows that a model is asked about at once, at most.
        on_progress: Called with the number of models that are done, and of all.

    Raises:
        ValueError: If there are not so many models, what ``train`` returns is none of the above, or the network of the
            call before, or says the same as another model, or the store holds models of another design.
        ModuleNotFoundError: If PyTorch is missing.
        OSError: If the store cannot be written.
    """
    require("torch")
    if not callable(train) or hasattr(train, "parameters"):
        raise ValueError(f"train: received {type(train).__name__}, accepted: a function that trains model k")
    wanted = design.n_models if n_models is None else n_models
    if not 1 <= wanted <= design.n_models or (wanted > 1 and wanted % 2):
        raise ValueError(f"n_models: received {wanted}, accepted: 1, or an even number up to {design.n_models}")
    if groups is not None and len(groups) != len(design.documents):
        raise ValueError(
            f"groups: received {len(groups)}, accepted: {len(design.documents)}, a label for each document"
        )
    used = design.of_pairs(range(max(1, wanted // 2)))
    records = Records(prepare_directory(store))
    beginning = design.documents.vocabulary if beginning is None else beginning
    identity = design.identity | {"beginning": beginning}

    def of(model: int) -> dict[str, Any]:
        return identity | {"bits": digest(design.document_mask[model], design.span_mask[model])}

    last: weakref.ref[Any] | None = None

    def fresh(model: int) -> Any:
        nonlocal last
        given = train(model)
        network = given[0] if isinstance(given, tuple) and given else given
        if hasattr(network, "parameters"):
            if last is not None and last() is network:
                raise ValueError(
                    f"train: received the same network as in the call before, as model {model}, which would know what"
                    " both were trained on, accepted: a network that is made or copied anew in every call"
                )
            last = weakref.ref(network)
        return given

    def asked(said: Callable[[], Any]) -> Record:
        began = time.perf_counter()
        given = said()
        seconds = time.perf_counter() - began
        logs = _logs_of(given, design, beginning, batch_size)
        arrays = {"log_probability": logs.log_probability[0]}
        if logs.correct is not None:
            arrays["correct"] = logs.correct[0]
        return Record(arrays, {"seconds": json.dumps(seconds)})

    base = None
    if before is not None:  # first: it may be the very network that is trained
        base = _stacked([records.read_or_compute("before", lambda: asked(lambda: before), identity)])
    kept = []
    with bar_for_a_person("fine-tunes") as advance:
        for model in range(wanted):
            key, said = f"model-{model:04d}", functools.partial(fresh, model)
            kept.append(records.read_or_compute(key, functools.partial(asked, said), of(model)))
            *others, own = (record.arrays["log_probability"] for record in kept)
            if any(np.array_equal(own, other) for other in others):
                raise ValueError(
                    f"train: received a model {model} that says the same of every token as one before it, accepted:"
                    " models that were each trained on what the design gives (and another store: this one holds them)"
                )
            advance(model + 1, wanted, f"{model + 1} of {wanted}")
            if on_progress is not None:
                on_progress(model + 1, wanted)
    seconds = tuple(float(json.loads(record.header["seconds"])) for record in kept)
    return _judged(used, tuple(range(wanted)), _stacked(kept), base, groups, seconds)


def _stacked(kept: Sequence[Record]) -> Logs:
    correct = [record.arrays.get("correct") for record in kept]
    known = [values for values in correct if values is not None]
    return Logs(
        np.stack([record.arrays["log_probability"] for record in kept]),
        np.stack(known) if len(known) == len(kept) else None,
    )


def _judged(
    design: Design,
    models: tuple[int, ...],
    logs: Logs,
    before: Logs | None,
    groups: Sequence[Any] | None,
    seconds: tuple[float, ...],
) -> Finetune:
    notes: list[str] = []
    numbers = np.array(models)
    scores = _scores(design, before)
    documents = of_groups = dose = estimates = None
    drawn = "random" in design.roles
    if len(models) <= 2:
        if drawn:
            try:
                found = few.single(design, logs.log_probability, groups, scores=scores)
                documents = found.units
            except ValueError as error:  # too few to fit to
                notes.append(f"Single documents are not told: {error}.")
                found = few.single(design, logs.log_probability, groups)
            of_groups = found.groups
        if design.spans:
            numbers_of = [len(span.copies) for span in design.spans]
            copies = [f"spans of {n} cop{'y' if n == 1 else 'ies'}" for n in numbers_of]
            table = few.single(design, logs.log_probability, copies, unit="spans").groups
            dose = table[table["n_in"] + table["n_out"] > 0].reset_index(drop=True)
    else:
        estimates = design.estimate(logs)
        try:
            documents = few.shrunk(design, logs, scores)
        except ValueError as error:
            notes.append(f"Single documents are not told with the help of scores: {error}.")
    spans = extraction_from(design, numbers, logs)
    spans["on"] = design.span_mask[numbers].mean(axis=0) if design.spans else np.zeros(0)
    places = Places.of(design)
    if before is not None:
        spans["log_p_before"] = places.per_span(places.sums(before.log_probability))[0]
    return Finetune(design, models, logs, before, documents, of_groups, dose, spans, estimates, seconds, tuple(notes))


def _scores(design: Design, before: Logs | None) -> Float64[np.ndarray, "n_documents n_scores"]:
    """What is known of documents before anything is trained."""
    table = document_scores(design, names=_TEXT_SCORES).to_numpy(dtype=np.float64)
    if before is None:
        return table
    starts = design.documents.starts
    sums = np.add.reduceat(before.log_probability[0], starts[:-1], dtype=np.float64)
    return np.column_stack([table, sums / np.diff(starts)])


def _logs_of(given: Any, design: Design, beginning: int, batch_size: int) -> Logs:
    """What a function returned, as log-probabilities: one row."""
    tokenizer = None
    if isinstance(given, tuple) and len(given) == 2 and hasattr(given[0], "parameters"):
        given, tokenizer = given
    if hasattr(given, "parameters"):
        if tokenizer is not None:
            _check_tokenizer(tokenizer, design)
        return ask(given, design, beginning, batch_size)
    values, correct = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
    try:
        row = np.asarray(values, dtype=np.float32)
        right = None if correct is None else np.asarray(correct, dtype=bool)
    except (TypeError, ValueError):
        row, right = np.zeros(0, np.float32), None
    n_tokens = design.documents.n_tokens
    if row.shape != (n_tokens,) or (right is not None and right.shape != row.shape):
        raise ValueError(
            f"train: received {type(given).__name__}, accepted: a causal model, it and its tokenizer, or natural"
            f" logarithms of the probabilities of {n_tokens} tokens"
        )
    if not (np.isfinite(row) & (row <= 1e-4)).all():
        raise ValueError("train: received some that are no natural logarithms of probabilities, accepted: finite ones")
    return Logs(np.minimum(row, 0)[None], None if right is None else right[None])


def _check_tokenizer(tokenizer: Any, design: Design) -> None:
    documents = design.documents
    for name, text, tokens in zip(documents.names, documents.texts, documents.tokens, strict=True):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if list(ids) != tokens.tolist():
            raise ValueError(
                f"tokenizer: received one that cuts {name!r} otherwise than the design, accepted: the one that"
                " made the design's documents (tokenize(names, texts, tokenizer))"
            )


def ask(model: Any, design: Design, beginning: int | None = None, batch_size: int = 16) -> Logs:
    """Return what a causal model of Transformers says of every token of all documents, as one row.

    The model is asked in evaluation mode on its own device, and left as it was. Rows that are the same are asked once.

    Args:
        model: Called with input_ids; its output has logits.
        design: Whose documents.
        beginning: Token that every row begins with; default the one after the vocabulary.
        batch_size: Rows at once, at most.

    Raises:
        ValueError: If the model is not causal, has no vector for a token, or rows are longer than it reads.
    """
    import torch

    check_causal(model)
    beginning = design.documents.vocabulary if beginning is None else beginning
    if beginning < 0:
        raise ValueError(f"beginning: received {beginning}, accepted: the number of a token, from 0 on")
    known = n_known(model)
    largest = max(beginning, int(design.documents.flat.max()))
    if known is not None and largest >= known:
        what = "beginning" if beginning >= known else "documents"
        raise ValueError(
            f"{what}: received token {largest}, of which the model has none, accepted: below {known} (for beginning,"
            " the tokenizer's bos_token_id, or its eos_token_id or pad_token_id where it has none)"
        )
    reads, longest = context_of(model), max(row.stop - row.start for row in design.rows)
    if reads is not None and longest > reads:
        raise ValueError(f"context: received rows of {longest} tokens, accepted: up to the model's {reads}")
    device = next(model.parameters()).device
    found: Float32[np.ndarray, " n_tokens"] = np.zeros(design.documents.n_tokens, dtype=np.float32)
    correct: Bool[np.ndarray, " n_tokens"] = np.zeros(design.documents.n_tokens, dtype=bool)
    same = _same(design)
    with left_as_found(model):
        at_once = max(1, min(batch_size, _POSITIONS // longest))
        for tokens, inputs, there in in_batches(design, [rows[0] for rows in same.values()], at_once):
            targets = np.zeros_like(inputs)
            targets[there] = design.documents.flat[tokens]
            rows = torch.from_numpy(np.where(inputs == design.documents.vocabulary, beginning, inputs)).to(device)
            output = model(input_ids=rows)
            logits = output["logits"] if isinstance(output, dict) else output.logits
            own = torch.from_numpy(targets).to(device)
            logs = logits.gather(2, own[..., None])[..., 0].float() - torch.logsumexp(logits.float(), dim=-1)
            found[tokens] = np.minimum(logs.cpu().numpy(), 0)[there]
            correct[tokens] = (logits.argmax(dim=-1) == own).cpu().numpy()[there]
    for first, *others in same.values():
        for other in others:
            for values in (found, correct):
                values[design.tokens_of(other)] = values[design.tokens_of(first)]
    return Logs(found[None], correct[None])


def _same(design: Design) -> dict[bytes, list[Place]]:
    """Rows by what they say."""
    found: dict[bytes, list[Place]] = {}
    for row in design.rows:
        found.setdefault(design.documents.flat[design.tokens_of(row)].tobytes(), []).append(row)
    return found


def n_known(model: Any) -> int | None:
    """Return the number of tokens that a model has vectors for, if it says so."""
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    return getattr(embeddings, "num_embeddings", None)


def context_of(model: Any) -> int | None:
    """Return the number of tokens that a model reads at once, if it says so."""
    config = getattr(model, "config", None)
    names = ("max_position_embeddings", "n_positions", "context")  # the last is that of our own
    return next((found for name in names if (found := getattr(config, name, None))), None)
