"""The audit of a fine-tune: one model, a pair and eight, kept and gone on with, and what is refused."""

import numpy as np
import pytest
from language.simulate import planted, simulated
from language.texts_by_hand import random_documents

from byheart.language import few
from byheart.language.design import Design
from byheart.language.finetune import ask, audit_finetune
from byheart.language.tokens import tokenize, trained

torch = pytest.importorskip("torch")

N = 60
GAIN = 0.5


@pytest.fixture(scope="module")
def design():
    return planted(N, [1] * 12 + [3] * 12, n_models=8, seed=1)


@pytest.fixture(scope="module")
def logs(design):
    return simulated(design, 0, np.full(N, GAIN), np.full(24, 0.7), noise=0.1)


def test_one_model_tells_of_groups_and_spans(design, logs, tmp_path):
    calls = []

    def train(k):
        calls.append(k)
        return logs.log_probability[k], logs.correct[k]

    found = audit_finetune(train, design, store=tmp_path, n_models=1, before=np.full(design.documents.n_tokens, -31.0))
    assert calls == [0]
    pair, row = design.of_pairs([0]), logs.log_probability[0]
    assert found.groups.equals(few.single(pair, row).groups)
    copies = [len(span.copies) for span in design.spans]
    assert found.dose["memorization"].equals(few.single(pair, row, copies, unit="spans").groups["memorization"])
    assert found.dose["group"].tolist() == ["spans of 1 copy", "spans of 3 copies"]
    assert found.estimates is None
    assert found.documents["probability_inside"].notna().any()
    on = found.spans["on"] == 1
    assert found.spans.loc[~on, "log_p_on"].isna().all()
    assert found.spans.loc[on, "log_p_off"].isna().all()
    assert found.spans["log_p_before"].to_numpy() == pytest.approx(-62)
    assert "1 fine-tune," in found.headline()
    assert "spans of 3 copies" in found.headline()


def test_eight_models_tell_of_single_documents_as_the_estimates_do(design, logs, tmp_path):
    found = audit_finetune(lambda k: logs.log_probability[k], design, store=tmp_path)
    assert found.estimates.documents.equals(design.estimate(logs.log_probability).documents)
    assert found.documents["log_probability"].mean() == pytest.approx(GAIN, abs=0.15)
    assert (found.documents["log_probability_low"] < found.documents["log_probability_high"]).all()
    assert found.groups is None
    assert "8 fine-tunes," in found.headline()


def test_a_call_that_was_killed_goes_on_and_more_models_take_those_that_are_there(design, logs, tmp_path):
    calls, seen = [], []

    def train(k):
        calls.append(k)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return logs.log_probability[k]

    audit_finetune(train, design, store=tmp_path, n_models=1)
    with pytest.raises(KeyboardInterrupt):
        audit_finetune(train, design, store=tmp_path, n_models=4)
    found = audit_finetune(train, design, store=tmp_path, n_models=4, on_progress=lambda *done: seen.append(done))
    assert calls == [0, 1, 2, 2, 3]
    assert np.array_equal(found.logs.log_probability, logs.log_probability[:4])
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    other = planted(N, [1] * 12 + [3] * 12, n_models=8, seed=2)
    with pytest.raises(ValueError, match="of other seed of the design"):
        audit_finetune(train, other, store=tmp_path)


class Bigrams(torch.nn.Module):
    """A causal model, called as those of Transformers are, with a dropout."""

    def __init__(self, n=9):
        super().__init__()
        self.table, self.dropout = torch.nn.Embedding(n, n), torch.nn.Dropout(0.5)

    def get_input_embeddings(self):
        return self.table

    def forward(self, input_ids):
        return {"logits": self.dropout(self.table(input_ids))}


class Encoder(Bigrams):
    """A network that has read the token that it is asked about."""

    def forward(self, input_ids):
        own = self.table(input_ids)
        return {"logits": own + own.mean(dim=1, keepdim=True)}


def test_a_model_is_asked_about_every_token_and_left_as_it_was(design):
    torch.manual_seed(0)
    model = Bigrams()
    state = torch.get_rng_state()
    found = ask(model, design, beginning=8, batch_size=7)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    logs = torch.log_softmax(model.table.weight, dim=1).detach().numpy()
    for place in design.rows:
        tokens = design.documents.flat[design.tokens_of(place)]
        before = np.append(8, tokens[:-1])
        assert found.log_probability[0, design.tokens_of(place)] == pytest.approx(logs[before, tokens], abs=1e-5)
        assert np.array_equal(found.correct[0, design.tokens_of(place)], logs[before].argmax(1) == tokens)


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        (
            lambda k: None,
            {},
            "train: received NoneType, accepted: a causal model, it and its tokenizer, or natural log",
        ),
        (lambda k: np.zeros(3), {}, "train: received ndarray, accepted: a causal model"),
        (lambda k: np.full(360, 2.0), {}, "train: received some that are no natural logarithms"),
        (lambda k: Bigrams(), {"beginning": 50}, "beginning: received token 50, of which the model has none"),
        (lambda k: Bigrams(4), {"beginning": 0}, "documents: received token 5, of which the model has none"),
        (
            lambda k: (Bigrams(), lambda text, **options: {"input_ids": [0]}),
            {"beginning": 8},
            "tokenizer: received one that cuts 'd0' otherwise than the design",
        ),
        (lambda k: Encoder(), {"beginning": 8}, "model: received Encoder, which looks at later tokens"),
        (lambda k: Bigrams(), {"beginning": -1}, "beginning: received -1, accepted: the number of a token"),
        (None, {}, "train: received NoneType, accepted: a function that trains model k"),
        (torch.nn.Linear(1, 1), {}, "train: received Linear, accepted: a function that trains model k"),
        (lambda k: None, {"n_models": 3}, "n_models: received 3, accepted: 1, or an even number up to 8"),
        (lambda k: None, {"n_models": 0}, "n_models: received 0"),
        (lambda k: None, {"groups": ["a", "b"]}, "groups: received 2, accepted: 60, a label for each document"),
    ],
)
def test_what_cannot_be_audited_is_refused_by_name(design, tmp_path, train, options, message):
    with pytest.raises(ValueError, match=message):
        audit_finetune(train, design, store=tmp_path, **options)


def test_a_tokenizer_that_cuts_only_the_last_document_otherwise_is_refused(design, tmp_path):
    documents = design.documents
    ids = iter([*(own.tolist() for own in documents.tokens[:-1]), [0]])

    def train(k):
        return Bigrams(), lambda text, **options: {"input_ids": next(ids)}

    with pytest.raises(ValueError, match=f"cuts '{documents.names[-1]}' otherwise than the design"):
        audit_finetune(train, design, store=tmp_path, beginning=8)


def test_the_model_before_is_asked_before_it_is_trained(tmp_path):
    design, model = Design(random_documents(60), n_models=2), Bigrams(10)
    expected = ask(model, design, beginning=9).log_probability

    def train(k):
        with torch.no_grad():
            model.table.weight[:, 0] += 1
        return model

    found = audit_finetune(train, design, store=tmp_path, n_models=1, before=model, beginning=9)
    assert np.array_equal(found.before.log_probability, expected)
    assert not np.array_equal(found.logs.log_probability, expected)


def test_few_documents_give_no_probabilities_but_a_note(tmp_path):
    small = Design(planted(N, []).documents.take(range(8)), n_models=2)
    found = audit_finetune(lambda k: np.full(48, -1.0 - k), small, store=tmp_path)
    assert found.documents is None
    (note,) = found.notes
    assert note.startswith("Single documents are not told: scores: received 4 units to fit to, accepted: at least 10")
    assert found.spans.empty


def test_a_network_that_is_trained_further_in_every_call_is_refused(design, tmp_path):
    own = Bigrams()

    def further(k):
        torch.nn.init.normal_(own.table.weight, generator=torch.Generator().manual_seed(k))
        return own

    with pytest.raises(
        ValueError, match="train: received the same network as in the call before, as model 1, .*copied anew"
    ):
        audit_finetune(further, design, store=tmp_path, beginning=8, n_models=2)


def test_models_that_say_the_same_are_refused(design, tmp_path):
    row = np.full(design.documents.n_tokens, -1.0)
    with pytest.raises(ValueError, match="train: received a model 1 that says the same of every token"):
        audit_finetune(lambda k: row, design, store=tmp_path, n_models=2)


def test_of_a_single_document_nothing_is_told(tmp_path):
    own = Design(tokenize(["a"], ["one document"], trained(["one document"], 257)), n_models=2)
    found = audit_finetune(lambda k: np.full(own.documents.n_tokens, -1.0), own, store=tmp_path, n_models=1)
    assert "Memorization of all: not told, since all or none of it was trained on." in found.headline()
