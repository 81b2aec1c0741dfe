"""Rows with labels: what a model says of them, one by one and in batches, and which rows are refused."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from language.tiny_causal import VOCABULARY, rows_of, untrained  # noqa: E402

from byheart.language.as_found import check_causal  # noqa: E402
from byheart.language.labelled import batches_of, check_readable, check_rows, recitation  # noqa: E402


def test_a_row_is_judged_by_its_labels_alone_in_any_batch():
    model = untrained()
    rows = [*rows_of(3, length=10), *rows_of(2, seed=1, length=6), {"input_ids": [3, 4, 5]}]
    together, alone = (recitation(model, rows, size) for size in (4, 1))
    assert together["n_tokens"].tolist() == [6, 6, 6, 2, 2, 2]
    assert together["log_probability"].to_numpy() == pytest.approx(alone["log_probability"].to_numpy(), abs=1e-4)
    with torch.no_grad():
        logs = model(torch.tensor(rows[0]["input_ids"])[None])[0].log_softmax(-1)
    expected = sum(float(logs[t - 1, rows[0]["input_ids"][t]]) for t in range(4, 10))
    assert together["log_probability"][0] == pytest.approx(expected, abs=1e-4)


def test_recited_is_what_greedy_decoding_writes():
    model = untrained()
    row = [7, 8]
    for _ in range(5):
        with torch.no_grad():
            row.append(int(model(torch.tensor([row]))[0, -1].argmax()))
    labels = [-100, -100, *row[2:]]
    other = [*row[:-1], (row[-1] + 1) % VOCABULARY]
    rows = [{"input_ids": row, "labels": labels}, {"input_ids": other, "labels": [-100, -100, *other[2:]]}]
    assert recitation(model, rows)["recited"].tolist() == [True, False]


def test_rows_are_filled_up_where_nothing_counts():
    (batch,) = batches_of([{"input_ids": [1, 2, 3]}, {"input_ids": [4, 5]}], 2)
    assert batch["labels"].tolist() == [[1, 2, 3], [4, 5, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "spans: received none"),
        ([{"input_ids": [1]}], "row 0, which has no token to predict"),
        ([{"input_ids": [1, 2], "labels": [1, -100]}], "row 0, which has no token to predict"),
        ([{"input_ids": [1, 2], "labels": [1, 3]}], "labels of other tokens"),
        ([{"input_ids": [1, 2], "labels": [1, 2, 3]}], "accepted: input_ids in a line"),
        ([{"text": "a"}], "received a dict as row 0, accepted: a dict of input_ids"),
    ],
)
def test_rows_that_cannot_be_used_are_named(rows, message):
    with pytest.raises(ValueError, match=message):
        recitation(untrained(), rows, what="spans")


def test_a_model_that_diverged_or_has_a_decoder_is_refused():
    model = untrained()
    with torch.no_grad():
        model.weights["norm"].fill_(np.nan)
    with pytest.raises(ValueError, match="after: received a model whose probabilities are not finite"):
        recitation(model, rows_of(2), name="after")
    model.config = type("Config", (), {"is_encoder_decoder": True})()
    with pytest.raises(ValueError, match="accepted: a causal model"):
        recitation(model, rows_of(2))


class Encoder(torch.nn.Module):
    """A network that has read the token that it is asked about."""

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.Parameter(
            torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0))
        )

    def forward(self, input_ids, attention_mask=None):
        own = self.weights[input_ids]
        logits = own + own.mean(dim=1, keepdim=True)
        logits[..., 7] = torch.finfo(logits.dtype).min  # a token that it never writes
        return logits


class Tiny(torch.nn.Module):
    """A causal network of two tokens that needs to be told more than these."""

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.Parameter(torch.eye(2))

    def forward(self, input_ids, speaker):
        return self.weights[input_ids].cumsum(dim=1) * speaker[..., None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_encoder_is_told_in_any_precision_whatever_it_masks(dtype):
    with pytest.raises(ValueError, match="looks at later tokens"):
        check_causal(Encoder().to(dtype))
    check_causal(untrained().to(torch.bfloat16))


def test_a_network_is_asked_with_a_batch_of_its_own():
    batch = {name: torch.tensor([[1, 0, 1, 0]]) for name in ("input_ids", "labels", "speaker")}
    batch["names"] = ["what a collator adds, and is no tensor"]
    batch["labels"] = torch.tensor([[-100, 0, 1, -100]])  # the end is filled up: nothing is said of it
    check_causal(Tiny(), batch)
    with pytest.raises(ValueError, match=r"does not take input_ids alone \(.*speaker"):
        check_causal(Tiny())


def test_a_network_that_looks_at_later_tokens_is_refused_and_a_causal_one_left_as_it_was():
    model = untrained().train()
    before = torch.get_rng_state()
    check_causal(model)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    for given, said in (
        (Encoder(), "received Encoder, which looks at later tokens, accepted: a causal model"),
        ("gpt2", "received str, accepted: a causal model"),
        (None, "received NoneType"),
        (torch.nn.Embedding(4, 2), "received Embedding"),
    ):
        with pytest.raises(ValueError, match=said):
            check_readable(given, rows_of(2))


@pytest.mark.parametrize("row", [{"input_ids": [1.5, 2.5, 3.5]}, {"input_ids": [-5, 2, 3]}, "abc", [1, 2, 3], {}])
def test_what_is_no_row_of_tokens_is_refused(row):
    with pytest.raises(ValueError, match="rows: received .*accepted: .*input_ids"):
        check_rows([row])
