from __future__ import annotations

import numpy as np
import pytest
import torch
from language.texts_by_hand import random_documents
from torch.nn import functional as F

from byheart.geometry import example_dimensionality, maximal_dimensionality
from byheart.language.design import Design
from byheart.language.model import ModelConfig, Transformer, draw
from byheart.language.scores_of_models import MEANINGS, scores_of_model

DESIGN = Design(random_documents(12, shortest=5, longest=20), (), 2, context=8)
SIZES = ModelConfig(1, 8, 2, 8)
MODEL = Transformer(SIZES, DESIGN.documents.vocabulary, draw(SIZES, DESIGN.documents.vocabulary, 0))


def rows_of(number):
    """Inputs and targets of each row of a document."""
    tokens = torch.from_numpy(DESIGN.documents.tokens[number])
    for row in tokens.split(DESIGN.context):
        yield torch.cat([torch.tensor([DESIGN.documents.vocabulary]), row[:-1]])[None], row


@pytest.fixture(scope="module")
def found():
    return scores_of_model(MODEL, DESIGN)


def test_all_scores_are_there_for_every_document(found):
    assert list(found) == list(MEANINGS)
    assert found.notna().all().all()


def test_min_k_plus_plus_token_by_token(found):
    for number in range(len(DESIGN.documents)):
        values = []
        for inputs, targets in rows_of(number):
            said = torch.log_softmax(MODEL(inputs)[0].double(), -1).detach().numpy()
            for at, target in enumerate(targets):
                mean = (np.exp(said[at]) * said[at]).sum()
                deviation = np.sqrt((np.exp(said[at]) * (said[at] - mean) ** 2).sum())
                values.append((said[at, target] - mean) / deviation)
        least = sorted(values)[: max(1, round(0.2 * len(values)))]
        assert found["min_k_plus_plus"][number] == pytest.approx(np.mean(least), rel=1e-3)


def test_gradient_norms_are_those_of_the_mean_loss(found):
    for number in (0, 5, 11):
        MODEL.zero_grad()
        n = len(DESIGN.documents.tokens[number])
        for inputs, targets in rows_of(number):
            (F.cross_entropy(MODEL(inputs)[0], targets, reduction="sum") / n).backward()
        norm = sum(float(p.grad.double().square().sum()) for p in MODEL.parameters()) ** 0.5
        assert found["gradient_norm"][number] == pytest.approx(norm, rel=1e-4)


def test_dimensionalities_are_of_the_hidden_vectors_of_all_tokens(found):
    hidden, errors = [], []
    for number in range(len(DESIGN.documents)):
        for inputs, targets in rows_of(number):
            with torch.no_grad():
                hidden.append(MODEL.hidden(inputs)[-1][0].numpy())
                share = torch.softmax(MODEL(inputs)[0].double(), -1)
            errors.append(((share - F.one_hot(targets, share.shape[-1])) ** 2).sum(-1).numpy())
    own = DESIGN.documents.document_of == 3
    every, error = np.concatenate(hidden), np.concatenate(errors)
    assert found["dimensionality"][3] == pytest.approx(example_dimensionality(every)[own].mean(), rel=1e-4)
    largest = maximal_dimensionality(every)
    assert found["maximal_dimensionality"][3] == pytest.approx(largest[own].mean(), rel=1e-4)
    assert found["residual_dimensionality"][3] == pytest.approx((largest * error)[own].mean(), rel=1e-4)


def test_what_follows_from_any_beginning_has_no_tie_to_its_own():
    alike = Design(DESIGN.documents.take([0] * 6), (), 2, context=8)
    np.testing.assert_allclose(scores_of_model(MODEL, alike, ["prior_aware"])["prior_aware"], 0, atol=1e-6)


def test_unknown_scores_are_refused():
    with pytest.raises(ValueError, match="names: received 'loss', accepted: min_k_plus_plus"):
        scores_of_model(MODEL, DESIGN, ["loss"])
