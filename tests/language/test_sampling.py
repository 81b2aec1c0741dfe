from __future__ import annotations

import numpy as np
import pytest
import torch
from language.texts_by_hand import random_documents

from byheart.language.design import Design, Place
from byheart.language.model import ModelConfig, Transformer, draw
from byheart.language.sampling import predicted, sampled_count

DESIGN = Design(random_documents(3, shortest=12), context=8)
SAMPLERS = [(1.0, None), (0.5, None), (1.0, 4)]


@pytest.fixture(scope="module")
def model():
    vocabulary = DESIGN.documents.vocabulary
    return Transformer(ModelConfig(1, 8, 2, 8), vocabulary, draw(ModelConfig(1, 8, 2, 8), vocabulary, 0))


def said(model, place):
    """Log-probabilities of a place's tokens, after what precedes them in their row."""
    start = place.start // 8 * 8
    tokens = torch.from_numpy(DESIGN.documents.tokens[place.document][start : place.stop])
    inputs = torch.cat([torch.tensor([DESIGN.documents.vocabulary]), tokens[:-1]])
    with torch.no_grad():
        every = torch.log_softmax(model(inputs[None])[0].double(), -1)
    return every.gather(1, tokens[:, None])[place.start - start :, 0].numpy()


@pytest.mark.parametrize("place", [Place(0, 0, 2), Place(1, 3, 6), Place(2, 9, 11)])
def test_one_pass_tells_the_probability_of_a_span(model, place):
    assert predicted(model, DESIGN, place) == pytest.approx(np.exp(said(model, place).sum()), rel=1e-5)


@pytest.mark.parametrize(("temperature", "top_k"), SAMPLERS)
def test_samples_come_as_often_as_predicted(model, temperature, top_k):
    for place in (Place(0, 1, 2), Place(1, 2, 4)):
        p = predicted(model, DESIGN, place, temperature=temperature, top_k=top_k)
        n = 20_000
        count = sampled_count(model, DESIGN, place, n, temperature=temperature, top_k=top_k)
        assert abs(count - n * p) <= 5 * np.sqrt(n * p * (1 - p)) + 1e-9


def test_greedy_is_the_most_probable_token(model):
    found = [predicted(model, DESIGN, Place(0, at, at + 1), temperature=0) for at in range(8)]
    assert set(found) <= {0.0, 1.0}


def test_a_span_that_is_cut_by_a_row_is_refused(model):
    with pytest.raises(ValueError, match="which the end of a row cuts"):
        predicted(model, DESIGN, Place(0, 6, 10))
