from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from language.texts_by_hand import documents_of, random_documents

from byheart.geometry import example_dimensionality, maximal_dimensionality
from byheart.language import scores_of_models
from byheart.language.design import Design
from byheart.language.documents import Documents
from byheart.language.model import ModelConfig, Transformer, draw
from byheart.language.scores import SCORES
from byheart.language.scores_of_models import (
    document_gradients,
    example_dimensionality_of_contexts,
    gradient_norm,
    information_gain,
    maximal_dimensionality_of_contexts,
    min_k_plus_plus,
    prior_aware,
    residual_dimensionality,
    self_influence,
)

MODEL_SCORES = {name: score.of for name, score in SCORES.items() if score.needs == "model"}
SOME = np.array([9, 1, 4, 5, 0, 7])


def model_of(documents: Documents, seed: int = 0, n_layers: int = 2, context: int = 8) -> Transformer:
    """Its parameters are as before training, times two: surer of what it says."""
    config = ModelConfig(n_layers, 8, 2, context)
    parameters = {name: 2 * values for name, values in draw(config, documents.vocabulary, seed).items()}
    return Transformer(config, documents.vocabulary, parameters)


@pytest.fixture
def design():
    """Some documents take two or three rows of eight tokens."""
    return Design(random_documents(10, seed=1), n_models=4, context=8)


def of_each_row(design: Design, model: Transformer, document: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Hidden vectors and log-probabilities of all tokens, a row by itself, without padding."""
    found = []
    tokens = design.documents.tokens[document]
    for at in range(0, len(tokens), design.context):
        row = torch.tensor([model.vocabulary, *tokens[at : at + design.context].tolist()])[None]
        found.append((model.hidden(row[:, :-1])[-1][0], model(row[:, :-1])[0].log_softmax(-1)))
    return found


def of_targets(design: Design, model: Transformer, document: int) -> torch.Tensor:
    of_all = torch.cat([values for _, values in of_each_row(design, model, document)])
    return of_all[torch.arange(len(of_all)), torch.tensor(design.documents.tokens[document])]


def slow_gradient(design: Design, model: Transformer, document: int) -> dict[str, torch.Tensor]:
    names, values = zip(*model.weights.items(), strict=True)
    gradients = torch.autograd.grad(-of_targets(design, model, document).mean(), values)
    return dict(zip(names, gradients, strict=True))


def test_gradients_of_documents_are_those_of_each_by_itself(design, monkeypatch):
    monkeypatch.setattr(scores_of_models, "_GRADIENTS", 3 * 2_000)  # several batches
    monkeypatch.setattr(scores_of_models, "_ROWS", 2)  # and rows of a document apart
    model = model_of(design.documents)
    seen = []
    for places, gradients in document_gradients(design, model, SOME):
        seen += places.tolist()
        for row, place in enumerate(places):
            slow = slow_gradient(design, model, SOME[place])
            for name, values in slow.items():
                assert gradients[name][row].numpy() == pytest.approx(values.numpy(), rel=1e-4, abs=1e-5), name
    assert sorted(seen) == list(range(len(SOME)))


def test_gradient_norm_by_autograd(design):
    model = model_of(design.documents)
    slow = [
        np.sqrt(sum(float(g.square().sum()) for g in slow_gradient(design, model, document).values()))
        for document in SOME
    ]
    assert gradient_norm(design, model, SOME).tolist() == pytest.approx(slow, rel=1e-5)


def test_self_influence_by_its_definition(design):
    model = model_of(design.documents)
    total = np.zeros(len(SOME))
    for name in ("attention_in", "attention_out", "hidden_in", "hidden_out"):
        g = np.stack([slow_gradient(design, model, document)[name][-1].double().numpy() for document in SOME])
        left = np.linalg.eigh(sum(own @ own.T for own in g))[1]
        right = np.linalg.eigh(sum(own.T @ own for own in g))[1]
        squares = np.stack([(left.T @ own @ right) ** 2 for own in g])
        moment = squares.mean(axis=0)
        total += (squares / (moment + 0.1 * moment.mean())).sum(axis=(1, 2))
    assert self_influence(design, model, SOME) == pytest.approx(total, rel=1e-3)


def test_undamped_self_influences_are_one_per_dimension_on_average(design, monkeypatch):
    """With many documents and no damping, each direction of each matrix is worth 1 on average."""
    monkeypatch.setattr(scores_of_models, "_DAMPING", 0.0)
    documents = random_documents(30, seed=2)
    design, model = Design(documents, context=8), model_of(documents, n_layers=1)
    n_parameters = sum(model.weights[name][-1].numel() for name in scores_of_models._LAST_LAYER)
    found = self_influence(design, model, np.arange(30))
    assert 0.5 * n_parameters < found.mean() <= n_parameters * (1 + 1e-6)


def test_min_k_plus_plus_token_by_token(design):
    model = model_of(design.documents)
    slow = []
    for document in SOME:
        of_all = torch.cat([values for _, values in of_each_row(design, model, document)]).detach().double()
        values = []
        for token, own in zip(design.documents.tokens[document], of_all, strict=True):
            p = own.exp()
            mean = sum(p[k] * own[k] for k in range(len(own)))
            variance = sum(p[k] * (own[k] - mean) ** 2 for k in range(len(own)))
            values.append(float((own[token] - mean) / variance**0.5))
        slow.append(np.mean(sorted(values)[: max(1, round(0.2 * len(values)))]))
    assert min_k_plus_plus(design, model, SOME).tolist() == pytest.approx(slow, rel=1e-4)


def test_dimensionalities_are_means_over_contexts_of_the_given_documents(design):
    model = model_of(design.documents)
    parts = [of_each_row(design, model, document) for document in SOME]
    states = torch.cat([h for rows in parts for h, _ in rows]).detach().numpy()
    p = torch.cat([of_all for rows in parts for _, of_all in rows]).exp().detach().numpy()
    y = np.eye(design.documents.vocabulary)[np.concatenate([design.documents.tokens[d] for d in SOME])]
    owner = np.repeat(SOME, np.diff(design.documents.starts)[SOME])

    def means(values: np.ndarray) -> list[float]:
        return [values[owner == document].mean() for document in SOME]

    D_X, D_star = example_dimensionality(states), maximal_dimensionality(states)
    weighted = D_star * np.square(p - y).sum(axis=1)
    assert example_dimensionality_of_contexts(design, model, SOME).tolist() == pytest.approx(means(D_X), rel=1e-4)
    assert maximal_dimensionality_of_contexts(design, model, SOME).tolist() == pytest.approx(means(D_star), rel=1e-4)
    assert residual_dimensionality(design, model, SOME).tolist() == pytest.approx(means(weighted), rel=1e-4)
    sizes = np.diff(design.documents.starts)[SOME]
    assert maximal_dimensionality_of_contexts(design, model, SOME) @ sizes == pytest.approx(8, rel=1e-4)  # the width


def test_prior_aware_by_reading_suffixes_after_other_beginnings():
    """Documents are as long as each other, so that each other's beginning is read as it is."""
    documents = documents_of(["abcd", "bade", "hgfe"])
    design, model = Design(documents), model_of(documents)

    def read(prefix: str, suffix: str) -> float:
        row = torch.tensor([["abcdefgh ".index(c) for c in prefix + suffix]])
        row = torch.cat([torch.tensor([[model.vocabulary]]), row], dim=1)
        of_all = model(row[:, :-1])[0].log_softmax(-1).detach()
        return float(sum(of_all[at, row[0, at + 1]] for at in range(len(prefix), len(prefix + suffix))))

    slow = []
    for own in documents.texts:
        prior = [read(other[:2], own[2:]) for other in documents.texts if other != own]
        slow.append((read(own[:2], own[2:]) - np.log(np.mean(np.exp(prior)))) / 2)
    assert prior_aware(design, model, np.arange(3)).tolist() == pytest.approx(slow, rel=1e-4)


def test_prior_aware_is_nought_for_a_model_that_knows_its_place_alone():
    class Blind(Transformer):
        def hidden(self, inputs: torch.Tensor) -> list[torch.Tensor]:
            return super().hidden(torch.full_like(inputs, self.vocabulary))

    documents = random_documents(12, seed=4)
    design, seeing = Design(documents, context=8), model_of(documents)
    blind = Blind(seeing.config, seeing.vocabulary, dict(seeing.weights))
    assert prior_aware(design, blind, np.arange(12)) == pytest.approx(0, abs=1e-5)
    assert np.abs(prior_aware(design, seeing, np.arange(12))).max() > 0.1


def test_prior_aware_copies_count_once_and_single_tokens_have_none():
    texts = ["abcd", "bade", "hgfe"]
    model = model_of(documents_of(texts))
    once = prior_aware(Design(documents_of(texts)), model, np.arange(3))
    more = prior_aware(Design(documents_of([*texts, texts[0], texts[0]])), model, np.arange(5))
    assert more.tolist() == pytest.approx(once[[0, 1, 2, 0, 0]].tolist(), rel=1e-4)
    assert np.isnan(prior_aware(Design(documents_of(["a", "bcd"])), model, np.arange(2))[0])
    assert np.isnan(prior_aware(Design(documents_of(["abc", "abc"])), model, np.arange(2))).all()


def test_information_gain_is_what_the_model_knows_beyond_the_reference(design):
    model, reference = model_of(design.documents), model_of(design.documents, seed=1)
    slow = []
    for document in SOME:
        p, q = (
            torch.cat([values for _, values in of_each_row(design, network, document)]).detach().double()
            for network in (model, reference)
        )
        tokens = torch.tensor(design.documents.tokens[document])
        own = (p - q)[torch.arange(len(tokens)), tokens]
        divergence = (q.exp() * (q - p)).sum(dim=1)
        slow.append(float((own + divergence).mean()))
    assert information_gain(design, model, SOME, reference).tolist() == pytest.approx(slow, rel=1e-4, abs=1e-6)
    assert information_gain(design, model, SOME, model) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", MODEL_SCORES)
def test_scores_of_models_follow_the_order_of_documents_and_see_no_others(name, design):
    """Nor do they see who is in: a design of other models, with the documents in another order, says the same."""
    model = model_of(design.documents)
    found = MODEL_SCORES[name](design, model, SOME)
    order = np.array([2, 5, 0, 3, 1, 4])
    alone = Design(design.documents.take(SOME[order]), n_models=2, seed=9, context=design.context)
    assert MODEL_SCORES[name](alone, model, np.arange(6)).tolist() == pytest.approx(found[order].tolist(), rel=1e-3)


@pytest.mark.parametrize("name", MODEL_SCORES)
def test_batches_do_not_change_scores(name, design, monkeypatch):
    model = model_of(design.documents)
    found = MODEL_SCORES[name](design, model, SOME)
    monkeypatch.setattr(scores_of_models, "_LOGITS", 1)
    monkeypatch.setattr(scores_of_models, "_GRADIENTS", 1)
    monkeypatch.setattr(scores_of_models, "_ROWS", 1)
    assert MODEL_SCORES[name](design, model, SOME).tolist() == pytest.approx(found.tolist(), rel=1e-3)


@pytest.mark.parametrize("name", ["min_k_plus_plus", "gradient_norm", "prior_aware"])
def test_a_sure_model_has_finite_scores(name, design):
    model = model_of(design.documents)
    with torch.no_grad():
        model.weights["tokens"].mul_(1_000)
    assert np.isfinite(MODEL_SCORES[name](dataclasses.replace(design, seed=1), model, SOME)).all()
