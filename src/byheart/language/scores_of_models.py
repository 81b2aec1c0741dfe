"""Scores of documents by a trained model: from its log-probabilities, its hidden vectors and its gradients.

Scores of logs are of many models at once. Scores of a model are of documents that it was trained on: these, and no
others, are what a document is compared with where a score compares. Documents are read in batches, and the logits and
gradients of a batch are all that is kept of them; hidden vectors are kept for all tokens, in float32.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Float64, Int64

from byheart.geometry import example_dimensionality, maximal_dimensionality
from byheart.language.design import Design
from byheart.language.rows import in_batches
from byheart.language.scores_of_texts import compressed_bytes, n_tokens

if TYPE_CHECKING:
    import torch

    from byheart.language.model import Transformer

_LEAST_PROBABLE = 0.2  # share of the tokens that Min-K % averages
_LOGITS = 2**23  # of a batch, at most
_GRADIENTS = 2**22  # numbers in the gradients of a batch of documents, at most
_ROWS = 32  # of a document, whose gradient is taken at once
_PREFIXES = 8  # other prefixes that a suffix is read after
_DAMPING = 0.1  # times the mean curvature of a matrix (Grosse et al. 2023, section 2.1)
_LAST_LAYER = ("attention_in", "attention_out", "hidden_in", "hidden_out")


def loss(design: Design, log_probability: np.ndarray) -> Float64[np.ndarray, "n_models n_documents"]:
    """Return the mean loss of each document's tokens (nats), without those that have no value."""
    starts, there = design.documents.starts[:-1], np.isfinite(log_probability)
    sums = np.add.reduceat(np.where(there, log_probability, 0).astype(np.float64), starts, axis=1)
    counts = np.add.reduceat(there.astype(np.float64), starts, axis=1)
    means: Float64[np.ndarray, "n_models n_documents"] = np.divide(
        -sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0
    )
    return means


def loss_over_zlib(design: Design, log_probability: np.ndarray) -> Float64[np.ndarray, "n_models n_documents"]:
    """Return the summed loss of each document (nats) per compressed byte (Carlini et al. 2021)."""
    ratio: Float64[np.ndarray, "n_models n_documents"] = (
        loss(design, log_probability) * n_tokens(design) / compressed_bytes(design)
    )
    return ratio


def min_k(design: Design, log_probability: np.ndarray) -> Float64[np.ndarray, "n_models n_documents"]:
    """Return the mean log-probability of each document's least probable fifth of the tokens (Shi et al. 2023)."""
    values, starts = log_probability.astype(np.float64), design.documents.starts
    means = np.empty((len(values), len(starts) - 1))
    for number, (start, stop) in enumerate(itertools.pairwise(starts)):
        means[:, number] = _mean_of_least(values[:, start:stop])
    return means


def mean_loss(design: Design, training: Mapping[str, np.ndarray]) -> Float64[np.ndarray, "n_models n_documents"]:
    """Return the loss averaged over training, of the tokens that carried loss."""
    return loss(design, training["mean_of_epochs"])


def first_epoch_loss(design: Design, training: Mapping[str, np.ndarray]) -> Float64[np.ndarray, "n_models n_documents"]:
    """Return the loss when the model first read each document."""
    return loss(design, training["first_epoch"])


def loss_drop(design: Design, training: Mapping[str, np.ndarray]) -> Float64[np.ndarray, "n_models n_documents"]:
    """Return the loss when the model first read each document less that after training."""
    return loss(design, training["first_epoch"] - training["log_probability"])


def _mean_of_least(values: np.ndarray) -> np.ndarray:
    """Means of the smallest fifth along the last axis, of one value at least."""
    least = max(1, round(_LEAST_PROBABLE * values.shape[-1]))
    means: np.ndarray = np.sort(values, axis=-1)[..., :least].mean(axis=-1)
    return means


def min_k_plus_plus(
    design: Design, model: Transformer, documents: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Return the mean over each document's lowest fifth of the tokens of (log p - mean) / deviation.

    Mean and standard deviation are those of the log-probability of a token drawn from the model at this place.

    References:
        Zhang et al. 2024, "Min-K%++", arXiv 2404.02936, equation 3.
    """
    import torch

    def standardised(of_all: torch.Tensor, of_target: torch.Tensor) -> torch.Tensor:
        p = of_all.exp()
        mean = (p * of_all).sum(dim=1)
        deviation = (p * (of_all - mean[:, None]).square()).sum(dim=1).sqrt()
        return (of_target - mean) / deviation.clamp(min=torch.finfo(deviation.dtype).eps)

    tokens = _of_tokens(design, model, documents, standardised)
    return np.array([_mean_of_least(tokens[design.documents.document_of == number]) for number in documents])


def example_dimensionality_of_contexts(
    design: Design, model: Transformer, documents: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Return D_X = |h|^2 / sum_j (h/|h| . h_j)^2, averaged over each document's contexts, in [0, 1].

    A context is what stands in a row before a token; h is the normalised vector that the output is read from, and j
    runs over the contexts of all given documents.

    References:
        Henighan et al. 2023; see ``byheart.geometry.example_dimensionality``.
    """
    tokens, states = _states(design, model, documents)
    return _means(design, documents, tokens, example_dimensionality(states))


def maximal_dimensionality_of_contexts(
    design: Design, model: Transformer, documents: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Return D*, the leverage of the same vectors, averaged over each document's contexts, in [0, 1].

    References:
        C. Olah, comment in Henighan et al. 2023; see ``byheart.geometry.maximal_dimensionality``.
    """
    tokens, states = _states(design, model, documents)
    return _means(design, documents, tokens, maximal_dimensionality(states))


def residual_dimensionality(
    design: Design, model: Transformer, documents: Int64[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Return D* of each context times |p - y|^2, averaged over each document's contexts, in [0, 2].

    p are the predicted probabilities of the next token, y is 1 for the one that follows. The audit's score of this
    name, for tokens.
    """
    tokens, states = _states(design, model, documents)
    residual = _of_tokens(
        design, model, documents, lambda of_all, own: (2 * of_all).exp().sum(dim=1) - 2 * own.exp() + 1
    )
    return _means(design, documents, tokens, maximal_dimensionality(states) * residual[tokens])


def gradient_norm(design: Design, model: Transformer, documents: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Return the length of the gradient of each document's mean loss, by all parameters of the model.

    Its square is self-influence by TracIn with one checkpoint, the last (Pruthi et al. 2020), which ranks alike.

    References:
        Paul et al. 2021 (GraNd).
    """
    found = np.empty(len(documents))
    for places, gradients in document_gradients(design, model, documents):
        squares = sum(values.double().square().flatten(1).sum(dim=1) for values in gradients.values())
        found[places] = np.sqrt(np.asarray(squares))
    return found


def self_influence(design: Design, model: Transformer, documents: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Return g^T (F + damping)^-1 g of each document, g the gradient of its mean loss by the last layer's matrices.

    F, the second moment of the documents' gradients, is taken as diagonal in the basis of the Kronecker factors of each
    matrix, with the moments of the gradients along that basis (as in EK-FAC). The factors are the second moments of the
    rows and columns of the documents' gradients, as in Shampoo, and not those of activations. Damping is a tenth of the
    mean moment. How much training once more on the document would change its own loss, up to a factor.

    References:
        Koh and Liang 2017; Gupta et al. 2018 (Shampoo); George et al. 2018 (EK-FAC); Grosse et al. 2023.
    """
    import torch

    def passed() -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
        for places, gradients in document_gradients(design, model, documents):
            yield places, {name: gradients[name][:, -1] for name in _LAST_LAYER}

    sides: dict[str, list[torch.Tensor]] = {}
    for _, gradients in passed():
        for name, g in gradients.items():
            factors = torch.einsum("dio,djo->ij", g, g).double(), torch.einsum("dio,dip->op", g, g).double()
            sides[name] = [old + new for old, new in zip(sides.get(name, (0, 0)), factors, strict=True)]
    bases = {name: [torch.linalg.eigh(factor)[1].float() for factor in own] for name, own in sides.items()}

    def rotated() -> Iterator[tuple[np.ndarray, dict[str, torch.Tensor]]]:
        for places, gradients in passed():
            yield places, {n: (bases[n][0].T @ g @ bases[n][1]).double().square() for n, g in gradients.items()}

    moments: dict[str, torch.Tensor] = {}
    for _, squares in rotated():
        for name, values in squares.items():
            moments[name] = moments.get(name, 0) + values.sum(dim=0) / len(documents)
    found = np.empty(len(documents))
    for places, squares in rotated():
        parts = [
            (values / (moments[name] + _DAMPING * moments[name].mean()).clamp(min=torch.finfo(torch.double).tiny))
            for name, values in squares.items()
        ]
        found[places] = sum(part.flatten(1).sum(dim=1).numpy() for part in parts)
    return found


def prior_aware(design: Design, model: Transformer, documents: Int64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Return how much likelier each document's second half is after its own first half than after others' (nats/token).

    log p(suffix | prefix) less the logarithm of the mean of p(suffix | other prefix), per token of the suffix. Only the
    first row of a long document is split. The eight other prefixes are beginnings of other documents, cut to the length
    of its own so that the suffix stays where it is; where a document is too short, the next one is strung to it.
    Documents follow each other by their checksums, so that their order and copies do not matter. NaN for a document of
    one token, or if no two differ.

    The paper asks the same, whether a suffix is tied to its prefix or likely after many, and makes a yes or no of it
    for large models' samples; the prefixes, and the difference as a score, are ours.

    References:
        Tiwari, Trachtenberg and Suh 2026, "Prior-Aware Memorization", arXiv 2602.18733.
    """
    import torch

    texts = [design.documents.tokens[number].astype(np.int64) for number in documents]
    distinct = sorted({text.tobytes() for text in texts}, key=lambda text: (zlib.crc32(text), text))
    place_of = {text: place for place, text in enumerate(distinct)}
    line = [np.frombuffer(text, dtype=np.int64) for text in distinct]
    n_others = min(_PREFIXES, len(line) - 1)
    found = np.full(len(documents), np.nan)
    rows = [text[: design.context] for text in texts]
    told = [number for number, row in enumerate(rows) if len(row) >= 2] if n_others else []
    told.sort(key=lambda number: len(rows[number]))
    output = model.weights["tokens"][: model.vocabulary]
    at_once = max(1, _LOGITS // (design.documents.vocabulary * design.context * (n_others + 1)))
    for first in range(0, len(told), at_once):
        batch = told[first : first + at_once]
        longest = len(rows[batch[-1]])
        inputs = np.full((len(batch), n_others + 1, longest + 1), model.vocabulary)
        is_suffix = np.zeros(inputs.shape[::2], dtype=bool)
        for own, number in enumerate(batch):
            row, place = rows[number], place_of[texts[number].tobytes()]
            half = len(row) // 2
            inputs[own, :, 1 : 1 + len(row)] = row
            is_suffix[own, 1 + half : 1 + len(row)] = True
            for other in range(1, n_others + 1):
                inputs[own, other, 1 : 1 + half] = _strung(line, place, other, half)
        targets = torch.from_numpy(inputs)[..., 1:]
        where = torch.from_numpy(is_suffix[:, None, 1:]).expand(targets.shape)
        with torch.no_grad():
            states = model.hidden(torch.from_numpy(inputs[..., :-1]).flatten(0, 1))[-1].unflatten(0, targets.shape[:2])
            logits = states[where] @ output.T
            own_logit = logits.gather(1, targets[where][:, None])[:, 0]
            of_tokens = torch.zeros(targets.shape, dtype=torch.double)
            of_tokens[where] = (own_logit - logits.logsumexp(dim=1)).double()
            sums = of_tokens.sum(dim=2)
            prior = sums[:, 1:].logsumexp(dim=1) - np.log(n_others)
            found[batch] = ((sums[:, 0] - prior) / where[:, 0].sum(dim=1)).numpy()
    return found


def _strung(line: list[np.ndarray], own: int, other: int, size: int) -> Int64[np.ndarray, " size"]:
    """So many tokens of the documents in line, without its own, from the one that stands so far behind it."""
    parts: list[np.ndarray] = []
    for step in itertools.count():
        if sum(map(len, parts)) >= size:
            return np.concatenate([*parts, np.zeros(0, dtype=np.int64)])[:size]
        behind = 1 + (other - 1 + step) % (len(line) - 1)
        parts.append(line[(own + behind) % len(line)])
    raise AssertionError


def information_gain(
    design: Design, model: Transformer, documents: Int64[np.ndarray, " n"], reference: Transformer
) -> Float64[np.ndarray, " n"]:
    """Return how much more a model knows of each document's tokens than a reference, beyond what it would (nats).

    Per token x, log p(x)/q(x) + KL(q || p): the gain at the token less the one expected of a token drawn from the
    reference q; averaged over each document's tokens.

    Args:
        design: Holds the documents.
        model: Was trained on them.
        documents: Their numbers.
        reference: Was not: a second training, of the same kind.

    References:
        Tao and Shokri 2025, "(Token-level) InfoRMIA", arXiv 2510.05582. The paper's mixture of references is here one
        reference, and its population at a place all tokens of the vocabulary.
    """
    import torch

    found = np.empty(design.documents.n_tokens)
    others = _passes(design, reference, documents)
    for (tokens, states, targets), (_, other_states, _) in zip(_passes(design, model, documents), others, strict=True):
        with torch.no_grad():
            p, q = (
                (own @ network.weights["tokens"][: network.vocabulary].T).log_softmax(dim=1)
                for own, network in ((states, model), (other_states, reference))
            )
            gain = p - q
            own_gain = gain.gather(1, targets[:, None])[:, 0]
            found[tokens] = (own_gain - (q.exp() * gain).sum(dim=1)).numpy()
    tokens = np.flatnonzero(np.isin(design.documents.document_of, documents))
    return _means(design, documents, tokens, found[tokens])


def document_gradients(
    design: Design, model: Transformer, documents: Int64[np.ndarray, " n"]
) -> Iterator[tuple[Int64[np.ndarray, " n_batch"], dict[str, torch.Tensor]]]:
    """Yield the gradients of the mean losses of some documents, each by itself, and their places in ``documents``.

    Each document has a copy of the model in a stack, so that all gradients of a batch take one pass.
    """
    import torch

    from byheart.language.stacked import Stack

    size = sum(values.numel() for values in model.weights.values())
    n_copies = min(len(documents), max(1, _GRADIENTS // size))
    stack = Stack(model.config, model.vocabulary, [0] * n_copies)
    with torch.no_grad():
        for name, values in stack.weights.items():
            values.copy_(model.weights[name])
    rows = _rows(design, documents)
    lengths = np.diff(design.documents.starts)[documents]
    order = np.argsort(lengths, kind="stable")
    for first in range(0, len(order), n_copies):
        places = order[first : first + n_copies]
        own = [rows[place] for place in places]
        total: dict[str, torch.Tensor] = {}
        for at in range(0, max(map(len, own)), _ROWS):
            stack.train_on(*_of_copies(design, [pieces[at : at + _ROWS] for pieces in own], n_copies), 1.0)
            for name, values in stack.weights.items():
                part = values.grad[: len(places)]
                total[name] = total[name] + part if name in total else part.clone()
        scale = torch.from_numpy(lengths[places]).float()
        yield places, {name: values / scale.view(-1, *[1] * (values.ndim - 1)) for name, values in total.items()}


def _of_copies(
    design: Design, rows: list[list[np.ndarray]], n_copies: int
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """What each copy of a model reads, where its targets are, and the targets; copies beyond the rows have none."""
    import torch

    longest = max(len(row) for own in rows for row in own)
    inputs = np.full((n_copies, max(map(len, rows)), longest + 1), design.documents.vocabulary)
    for copy, own in enumerate(rows):
        for number, row in enumerate(own):
            inputs[copy, number, 1 : 1 + len(row)] = row
    following = torch.from_numpy(inputs[..., 1:]).flatten(1)
    where = [torch.nonzero(own < design.documents.vocabulary)[:, 0] for own in following]
    targets = [own[at] for own, at in zip(following, where, strict=True)]
    return torch.from_numpy(inputs[..., :-1].copy()), where, targets


def _rows(design: Design, documents: Int64[np.ndarray, " n"]) -> list[list[np.ndarray]]:
    """The tokens of each document in rows, as models read them."""
    return [
        [
            design.documents.tokens[d][at : at + design.context]
            for at in range(0, len(design.documents.tokens[d]), design.context)
        ]
        for d in documents
    ]


def _passes(
    design: Design, model: Transformer, documents: Int64[np.ndarray, " n"]
) -> Iterator[tuple[np.ndarray, torch.Tensor, torch.Tensor]]:
    """Yield numbers of tokens, the normalised vectors that they are predicted from, and the tokens, in batches."""
    import torch

    chosen = np.isin(np.arange(len(design.documents)), documents)
    rows = [row for row in design.rows if chosen[row.document]]
    at_once = max(1, _LOGITS // (design.documents.vocabulary * design.context))
    for tokens, inputs, there in in_batches(design, rows, at_once):
        with torch.no_grad():
            states = model.hidden(torch.from_numpy(inputs))[-1]
        yield tokens, states[torch.from_numpy(there)], torch.from_numpy(design.documents.flat[tokens])


def _of_tokens(
    design: Design,
    model: Transformer,
    documents: Int64[np.ndarray, " n"],
    of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Float64[np.ndarray, " n_tokens"]:
    """Compute a value of each token from the log-probabilities of all tokens there, and its own; elsewhere NaN."""
    import torch

    found = np.full(design.documents.n_tokens, np.nan)
    output = model.weights["tokens"][: model.vocabulary]
    for tokens, states, targets in _passes(design, model, documents):
        with torch.no_grad():
            of_all = (states @ output.T).log_softmax(dim=1)
            found[tokens] = of(of_all, of_all.gather(1, targets[:, None])[:, 0]).numpy()
    return found


def _states(
    design: Design, model: Transformer, documents: Int64[np.ndarray, " n"]
) -> tuple[Int64[np.ndarray, " n_chosen"], Float32[np.ndarray, "n_chosen width"]]:
    """The tokens of some documents, and the normalised vectors that they are predicted from."""
    batches = [(tokens, states.numpy()) for tokens, states, _ in _passes(design, model, documents)]
    return np.concatenate([tokens for tokens, _ in batches]), np.concatenate([states for _, states in batches])


def _means(
    design: Design, documents: Int64[np.ndarray, " n"], tokens: np.ndarray, values: np.ndarray
) -> Float64[np.ndarray, " n"]:
    """Means over the tokens of each document."""
    of, n = design.documents.document_of[tokens], len(design.documents)
    means: Float64[np.ndarray, " n"] = np.bincount(of, values, n)[documents] / np.bincount(of, minlength=n)[documents]
    return means
