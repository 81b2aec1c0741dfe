"""From texts to what is memorized of them: canaries planted, repeats found, models trained, estimates made and kept.

What is left in a directory: ``design.safetensors``, the trained models in ``models/``, ``estimates.safetensors``, and
its tables as CSV. ``report`` draws the page from the directory alone.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from byheart.language.canaries import planted, planted_spans
from byheart.language.design import Design, Role, Span
from byheart.language.documents import Documents
from byheart.language.ensemble import Ensemble, EnsembleConfig, kept, train
from byheart.language.estimates import Estimates
from byheart.language.extraction import extraction
from byheart.language.spans import given_spans, join_near_copies, near_copies, repeated_spans
from byheart.language.texts import Texts
from byheart.language.tokens import tokenize, trained
from byheart.own import as_they_were, write_json, write_table

if TYPE_CHECKING:
    import pandas as pd

DESIGN = "design.safetensors"
_ENOUGH_MODELS = 8
_TABLES = ("documents", "spans", "dose", "reliability", "chance")


@dataclass(frozen=True)
class CounterfactualConfig:
    """What is measured of a corpus.

    Raises:
        ValueError: If a number is out of range.
    """

    models: int = 32
    """Number of models, even, at least 8; each trains on half of the documents."""
    vocabulary: int = 1024
    """Tokens of the tokenizer that is trained on the texts, at least 257."""
    context: int = 128
    """Tokens that a model reads at once, at least 8; longer documents are cut."""
    min_tokens: int = 8
    """Length from which a repeated passage is a span, at least 2."""
    join_near_copies: bool = False
    """Whether near-copies of a span (other case, punctuation, edition) are switched off with it."""
    canaries: int = 4
    """Planted random texts for every number of copies (1, 2, 4 ... 32), which calibrate the rest; 0 plants none."""
    seed: int = 0
    """Seed of who trains on what, of what is planted, and of training."""

    def __post_init__(self) -> None:
        if self.models < _ENOUGH_MODELS or self.models % 2:
            raise ValueError(f"models: received {self.models}, accepted: an even number >= {_ENOUGH_MODELS}")
        for name, least in (("vocabulary", 257), ("context", 8), ("min_tokens", 2), ("canaries", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: received {getattr(self, name)}, accepted: an integer >= {least}")


@dataclass(frozen=True, eq=False)
class Found:
    """What was found of a corpus.

    Attributes:
        ensemble: The trained models, with the design that they follow.
        estimates: What is memorized.
        extraction: How many tries every span takes to come out.
        near_copies: Places where a near-copy of a span stands that is not switched off with it.
        notes: What was assumed, in sentences.
    """

    ensemble: Ensemble
    estimates: Estimates
    extraction: pd.DataFrame
    near_copies: pd.DataFrame
    notes: tuple[str, ...]


def design_of(
    texts: Texts, config: CounterfactualConfig, spans: Sequence[Any] | None = None, tokenizer: Any = None
) -> tuple[Design, pd.DataFrame]:
    """Plant canaries, cut texts into tokens, find spans, and return the design, and the near-copies of its spans.

    Args:
        texts: The corpus.
        config: What is planted and sought.
        spans: Strings, or (document, first character, last character) each; default all repeated passages.
        tokenizer: A tokenizer, or the path of its file; default one trained on the texts.

    Raises:
        ValueError: If a span occurs nowhere or overlaps another one, there are too few documents, or the tokenizer
            cannot represent a text.
        ModuleNotFoundError: If a package is missing; the message is the command that installs it.
    """
    if len(texts.texts) < 4:
        raise ValueError(
            f"documents: received {len(texts.texts)}, accepted: at least 4, so that half of them say something (see"
            " --split)"
        )
    names, all_texts = texts.names, texts.texts
    roles: tuple[Role, ...] = ()
    plants = None
    if config.canaries:
        plants = planted(names, all_texts, seed=config.seed, n_per_count=config.canaries)
        names, all_texts, roles = plants.names, plants.texts, plants.roles
    if tokenizer is None:  # of what is planted it knows nothing: words planted often would become tokens of their own
        tokenizer = trained(texts.texts, config.vocabulary)
    documents = tokenize(names, all_texts, tokenizer, notes=texts.notes)
    own = documents.take(range(len(texts.texts)))  # what is planted comes last
    found = repeated_spans(own, config.min_tokens) if spans is None else given_spans(own, spans)
    near = near_copies(own, found)
    if config.join_near_copies:
        found = join_near_copies(own, found, near)
        near = near.iloc[:0]
    every: tuple[Span, ...] = (*found, *(planted_spans(documents, plants) if plants else ()))
    design = Design(documents, every, config.models, config.seed, roles, config.context)
    return design, near


def counterfactual(
    texts: Texts,
    config: CounterfactualConfig | None = None,
    training: EnsembleConfig | None = None,
    *,
    out: str | Path,
    spans: Sequence[Any] | None = None,
    tokenizer: Any = None,
    name: str = "",
    n_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: Callable[[float, float], None] | None = None,
) -> Found:
    """Find what small language models memorize of a corpus, by training many on random halves of it.

    Args:
        texts: The corpus.
        config: What is measured; default ``CounterfactualConfig()``.
        training: How the models are made; default ``EnsembleConfig()``.
        out: Directory for all results; models that are there are not trained again.
        spans: Strings, or (document, first character, last character) each; default all repeated passages.
        tokenizer: A tokenizer, or the path of its file; default one trained on the texts.
        name: Name of the corpus, for the page; default that of the directory.
        n_workers: Processes, one core each; default all cores.
        executor: Where to train instead: any ``concurrent.futures.Executor``.
        on_progress: Called a few times a second with the models' worth of training that is done, and of all.

    Raises:
        ValueError: If the texts or spans cannot be used, or ``out`` has results of other texts or settings.
        OSError: If ``out`` cannot be written.
        ModuleNotFoundError: If a package is missing; the message is the command that installs it.
        JobsError: After all other models are finished, if some failed.

    References:
        Zhang et al. 2021, "Counterfactual memorization in neural language models".
    """
    out, config = Path(out), config or CounterfactualConfig()
    design, near = design_of(texts, config, spans, tokenizer)
    notes = _notes(design, near, config, spans, tokenizer)
    ensemble = train(
        design, training, store=out / "models", n_workers=n_workers, executor=executor, on_progress=on_progress
    )
    design.save(out / DESIGN)
    estimates = design.estimate(ensemble.logs)
    estimates.save(out / "estimates.safetensors")
    extracted = extraction(design, ensemble.logs)
    for table in _TABLES:
        write_table(out / f"{table}.csv", getattr(estimates, table), float_format="%.6g")
    write_table(out / "extraction.csv", extracted, float_format="%.6g")
    write_table(out / "near-copies.csv", near)
    about = {
        "name": os.fsencode(name or out.resolve().name).decode(errors="backslashreplace"),
        "notes": notes,
        "settings": dataclasses.asdict(config) | dataclasses.asdict(ensemble.config),
        "provenance": ensemble.provenance,
    }
    write_json(out / "about.json", about)
    return Found(ensemble, estimates, extracted, near, notes)


def opened(directory: str | Path) -> Ensemble:
    """Return the models that ``counterfactual`` left in a directory, with their design and what they say.

    Raises:
        ValueError: If the directory is none of these, or a file is missing or damaged.
    """
    directory = Path(directory)
    if not (directory / DESIGN).is_file():
        raise ValueError(f"directory: received {directory}, accepted: one that byheart counterfactual wrote")
    settings = json.loads((directory / "about.json").read_text())["settings"]
    own = {field.name: settings[field.name] for field in dataclasses.fields(EnsembleConfig)}
    return kept(Design.load(directory / DESIGN), EnsembleConfig(**own), directory / "models")


def report(directory: str | Path, path: str | Path) -> Path:
    """Write the page about a directory that ``counterfactual`` left, and return its path.

    Raises:
        ValueError: If a file is missing or damaged.
        OSError: If the page cannot be written.
    """
    import pandas as pd

    from byheart.language.page import write_page

    directory = Path(directory)
    design = Design.load(directory / DESIGN)
    estimates = Estimates.load(directory / "estimates.safetensors")
    about = json.loads((directory / "about.json").read_text())
    return write_page(
        Path(path),
        design,
        estimates,
        title=f"What {design.n_models} small language models know by heart of {about['name']}",
        notes=about["notes"],
        settings=about["settings"] | about["provenance"][0],
        extraction=as_they_were(pd.read_csv(directory / "extraction.csv")),
    )


def _notes(
    design: Design, near: pd.DataFrame, config: CounterfactualConfig, spans: Sequence[Any] | None, tokenizer: Any
) -> tuple[str, ...]:
    """What was done to the texts and spans, in sentences."""
    documents = design.documents
    notes = [*documents.notes]
    if tokenizer is not None:
        notes.append(f"The tokenizer was given; it has {documents.vocabulary} tokens.")
    elif documents.vocabulary < config.vocabulary:
        notes.append(f"The texts give {documents.vocabulary} tokens, fewer than the {config.vocabulary} asked for.")
    if len(design.rows) > len(documents):
        cut = len({row.document for row in design.rows if row.start})
        notes.append(f"{cut} documents are longer than {config.context} tokens: they are read in pieces.")
    places = [place for span in design.spans for place in span.places]
    if cut := sum(place.start // config.context < (place.stop - 1) // config.context for place in places):
        notes.append(f"{cut} places of spans lie in two pieces or more: none is read together with the one before.")
    given = [] if spans is None else [span for span in design.spans if span.kind == "given"]
    asked = {" ".join(text.split()) for text in _asked(documents, spans or ())}
    if moved := [span for span in given if " ".join(span.text.split()) not in asked]:
        notes.append(
            f"{len(moved)} spans begin or end within a token: they are measured with all of it, such as"
            f" {moved[0].text!r:.60}."
        )
    if overlapping := sum(bool(span.measured) for span in given):
        notes.append(f"{overlapping} spans have copies that overlap: all are off together, only the first is measured.")
    planted_tokens = sum(len(documents.tokens[i]) for i, role in enumerate(design.roles) if role != "random")
    if 2 * planted_tokens > documents.n_tokens:
        notes.append(
            f"More is planted ({planted_tokens} tokens) than the texts hold ({documents.n_tokens - planted_tokens}):"
            " models learn that too; fewer --canaries plant less, 0 none."
        )
    if len(near):
        notes.append(
            f"{near['span'].nunique()} spans have near-copies that stay on when the span is off ({len(near)} places):"
            " what these give away does not count as the span's memorization; --join-near-copies switches them off too."
        )
    return tuple(notes)


def _asked(documents: Documents, spans: Sequence[Any]) -> Iterator[str]:
    for span in [spans] if isinstance(spans, str) else spans:
        if isinstance(span, str):
            yield span
        else:
            name, start, stop = span
            yield documents.texts[documents.names.index(name)][start:stop]
