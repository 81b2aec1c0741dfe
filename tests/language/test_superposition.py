from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from language.simulate import simulated
from language.texts_by_hand import design_with_spans, documents_of

from byheart.geometry import example_dimensionality
from byheart.language.design import Design, Place, Span
from byheart.language.ensemble import EnsembleConfig, train
from byheart.language.superposition import Contexts, compared, superposition

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    store = tmp_path_factory.mktemp("models")
    config = EnsembleConfig(n_layers=2, width=8, n_heads=2, n_epochs=20, batch_size=4)
    with ThreadPoolExecutor(1) as executor:
        return train(design_with_spans(10), config, store=store, executor=executor)


def planted(lengths: list[int], n_copies: list[int], n_models: int = 8) -> Design:
    """Canaries of so many tokens and copies, each copy after a letter that no other text begins with; six more texts.

    All models train on the canaries' documents. The last text is a probe.
    """
    texts, spans = [], []
    for number, (length, copies) in enumerate(zip(lengths, n_copies, strict=True)):
        places = tuple(Place(len(texts) + copy, 1, 1 + length) for copy in range(copies))
        texts += [LETTERS[len(texts) + copy] + LETTERS[number] * length for copy in range(copies)]
        spans.append(Span(f"span {number}", "canary", places, settings={"n_copies": copies}))
    roles = ("always",) * len(texts) + ("random",) * 5 + ("never",)
    texts += [LETTERS[-1 - other] + "abc" for other in range(6)]
    spans.append(Span("abc", "probe", (), (Place(len(texts) - 1, 1, 4),), {"n_copies": 0}))
    return Design(documents_of(texts, LETTERS), tuple(spans), n_models, roles=roles)


def built(contexts: Contexts) -> list[np.ndarray]:
    """Hidden vectors of every model: a span's contexts have a direction of their own while it is on; else all share."""
    design, width = contexts.design, 1 + len(contexts.design.spans)
    found = []
    for on in design.span_mask:
        states = np.zeros((1, len(contexts.tokens), width), dtype=np.float32)
        states[..., 0] = 1
        for span in np.flatnonzero(on):
            if design.spans[span].kind == "canary":
                own = contexts.members[contexts.unit_of == span]
                states[0, own, 0], states[0, own, 1 + span] = 0, 1
        found.append(states)
    return found


def begins(design: Design, token: int) -> bytes:
    """What a model reads before it predicts a token."""
    document = int(design.documents.document_of[token])
    at = token - int(design.documents.starts[document])
    return bytes(design.documents.tokens[document][at // design.context * design.context : at].tolist())


def test_each_distinct_context_is_there_once():
    design = dataclasses.replace(design_with_spans(8, n_documents=30), context=4)
    contexts = Contexts.of(design)
    before = [begins(design, token) for token in contexts.tokens]
    assert len(set(before)) == len(before)
    every = {begins(design, int(token)) for token in range(design.documents.n_tokens) if design.span_of[token] < 0}
    first = {begins(design, t) for s in design.spans for t in np.arange(1_000)[design.tokens_of(s.places[0])].tolist()}
    assert set(before) == every | first
    assert (np.bincount(contexts.unit_of)[: len(design.spans)] == 2).all()


def test_copies_of_a_span_do_not_share_its_dimension():
    contexts = Contexts.of(planted([2, 2], [1, 8]))
    table = compared(contexts, built(contexts), simulated(contexts.design, 0, np.zeros(15), np.zeros(3))).dimensionality
    canaries = table[table["kind"] == "canary"]
    assert canaries["planned"].tolist() == [1, 8]
    assert canaries["dimensionality_on"].tolist() == pytest.approx([1 / 2, 1 / 2])


def test_hidden_vectors_are_those_of_each_context_read_alone(trained):
    design, model = trained.design, trained.model(3)
    contexts = Contexts.of(design)
    alone = []
    for token in contexts.tokens:
        inputs = torch.tensor([[design.documents.vocabulary, *begins(design, token)]])
        with torch.no_grad():
            alone.append([layer[0, -1].numpy() for layer in model.hidden(inputs)])
    alone = np.array(alone).transpose(1, 0, 2)
    states = contexts.states(model)
    assert np.allclose(states, alone, atol=1e-5)
    found = contexts.mean_dimensionality(states)
    for layer, vectors in enumerate(alone):
        own = contexts.members[contexts.unit_of == 2]
        assert found[layer, 2] == pytest.approx(example_dimensionality(vectors)[own].mean(), rel=1e-4)
        assert example_dimensionality(states[layer]).sum() <= 8 * (1 + 1e-9)


def test_a_context_orthogonal_to_all_others_has_a_dimension():
    contexts = Contexts.of(planted([1], [2]))
    states = np.zeros((1, len(contexts.tokens), 3))
    states[..., 0] = 1
    (own,) = contexts.members[contexts.unit_of == 0]
    states[0, own] = 0, 0.1, 0
    found = contexts.mean_dimensionality(states)[0]
    assert found[0] == pytest.approx(1)
    assert found[1] == pytest.approx(1 / (len(contexts.tokens) - 1))
    assert np.isnan(found[2])  # the canary's document is always read: it has no ordinary contexts


def test_the_difference_between_on_and_off_is_recovered():
    design = planted([1, 2, 3], [1, 2, 4], n_models=12)
    contexts = Contexts.of(design)
    found = compared(contexts, built(contexts), simulated(design, 0, np.zeros(13), np.zeros(4)))
    table = found.dimensionality.set_index(["kind", "planned"])
    apart = design.span_mask[:, :3] @ np.array([1, 2, 3])
    shared = 1 / (len(contexts.tokens) - apart)  # D of contexts that share a direction
    for span, planned in enumerate([1, 2, 4]):
        row, on = table.loc[("canary", planned)], design.span_mask[:, span]
        assert row["dimensionality_on"] == pytest.approx(1 / (span + 1))
        assert row["dimensionality_off"] == pytest.approx(shared[~on].mean())
        assert row["difference"] == pytest.approx(1 / (span + 1) - shared[~on].mean())
        assert row["difference_se"] == pytest.approx(shared[~on].std(ddof=1) / 6**0.5)  # one of each pair is off
    probe = table.loc[("probe", 0)]
    on = design.span_mask[:, 3]
    assert probe["difference"] == pytest.approx(shared[on].mean() - shared[~on].mean())
    assert probe["spread"] == pytest.approx(shared.std(ddof=1))
    ordinary = table.loc["ordinary"].iloc[0]
    assert ordinary["n_spans"] == 5
    assert (ordinary["dimensionality_on"] + ordinary["dimensionality_off"]) / 2 == pytest.approx(shared.mean())
    assert (found.n_models, found.n_contexts, found.width) == (12, len(contexts.tokens), 5)


def test_documents_without_spans_have_ordinary_contexts_only():
    design = dataclasses.replace(planted([1], [1]), spans=())
    contexts = Contexts.of(design)
    found = compared(contexts, built(contexts), simulated(design, 0, np.zeros(7), np.zeros(0)))
    assert found.dimensionality["kind"].tolist() == ["ordinary"]
    assert (found.correlation["n_spans"] == 0).all()
    assert found.correlation.filter(like="rank").isna().all(axis=None)


def test_a_span_is_measured_in_models_that_train_on_its_document():
    design = dataclasses.replace(planted([2], [1], n_models=24), roles=("random",) * 6 + ("never",))
    contexts = Contexts.of(design)
    states = built(contexts)
    for vectors, inside in zip(states, design.document_mask[:, 0], strict=True):
        vectors[:] = vectors if inside else vectors[..., :1] * 0 + np.eye(3, dtype=np.float32)[0]
    table = compared(contexts, states, simulated(design, 0, np.zeros(7), np.zeros(2))).dimensionality
    assert table.set_index("kind").loc["canary", "dimensionality_on"] == pytest.approx(1 / 2)


def test_where_a_span_is_measured_is_not_ordinary():
    design = planted([2], [1])
    probe = dataclasses.replace(design.spans[1], measured=(Place(2, 1, 4),))  # a document of half of the models
    contexts = Contexts.of(dataclasses.replace(design, spans=(design.spans[0], probe)))
    of_probe, of_document = (contexts.members[contexts.unit_of == unit] for unit in (1, 2 + 2))
    assert len(of_probe) == 3
    assert len(of_document) == 0  # its first token stands after nothing, as those of all


def test_rank_correlation_with_bits():
    lengths = [1, 2, 3, 4]
    design = planted(lengths, [1] * 4)
    contexts = Contexts.of(design)
    for power, expected in ((-2, 1), (0, -1)):  # bits grow as the length to the power plus 1, D as 1 / length
        gains = np.append(10 * np.array(lengths, dtype=float) ** power, 0)
        logs = simulated(design, 0, np.zeros(10), gains, noise=0)
        row = compared(contexts, built(contexts), logs).correlation.set_index("kind").loc["canary"]
        assert row["n_spans"] == 4
        assert row["rank_correlation"] == row["rank_correlation_difference"] == pytest.approx(expected)
        assert row["rank_correlation_se"] == 0


def test_order_of_models_and_spans_does_not_matter(trained):
    design = trained.design
    contexts = Contexts.of(design)
    states = [contexts.states(trained.model(number)) for number in range(10)]
    whole = compared(contexts, states, trained.logs)
    pairs = [3, 0, 4, 1, 2]
    models = [model for pair in pairs for model in (2 * pair, 2 * pair + 1)]
    logs = dataclasses.replace(
        trained.logs, log_probability=trained.logs.log_probability[models], correct=trained.logs.correct[models]
    )
    other = compared(Contexts.of(design.of_pairs(pairs)), [states[model] for model in models], logs)
    for name in ("dimensionality", "correlation"):
        columns = getattr(whole, name).columns[1:]
        ours, theirs = (getattr(run, name)[columns].select_dtypes("number").to_numpy() for run in (whole, other))
        assert np.allclose(ours, theirs, equal_nan=True)
    turned = Contexts.of(dataclasses.replace(design, spans=design.spans[::-1]))
    n = len(design.spans)
    assert np.array_equal(turned.tokens, contexts.tokens)
    assert np.allclose(
        turned.mean_dimensionality(states[0])[:, :n][:, ::-1], contexts.mean_dimensionality(states[0])[:, :n]
    )


def test_a_small_ensemble_from_end_to_end(trained):
    found = superposition(trained)
    table = found.dimensionality
    assert found.n_models == 10
    assert table["layer"].tolist() == [0, 0, 1, 1, 2, 2]
    assert set(table["kind"]) == {"given", "ordinary"}
    assert table[["dimensionality_on", "dimensionality_off"]].stack().between(0, 1).all()
    assert (table["difference_se"] > 0).all()
    assert set(found.correlation.query("n_spans > 0")["kind"]) == {"repeat", "both"}
    again = superposition(trained)
    assert table.equals(again.dimensionality)
    assert found.correlation.equals(again.correlation)
    few = superposition(trained, n_models=4, n_ordinary=3)
    spans = Contexts.of(trained.design)
    n_own = len(np.unique(spans.members[spans.unit_of < len(trained.design.spans)]))
    assert (few.n_models, few.n_contexts) == (4, n_own + 3)


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"n_models": 3}, "n_models: received 3"),
        ({"n_models": 2}, "n_models: received 2"),
        ({"n_ordinary": 0}, "n_ord"),
    ],
)
def test_settings_out_of_range_are_refused(trained, options, received):
    with pytest.raises(ValueError, match=received):
        superposition(trained, **options)
