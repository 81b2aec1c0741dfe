"""The callback in a plain loop: what it measures, what it leaves as it was, and what it refuses."""

import itertools
import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, IterableDataset  # noqa: E402

from byheart.language.staircase import EpochStaircase  # noqa: E402

N, VOCABULARY = 60, 12


class Bigrams(nn.Module):
    """A causal model with a dropout, called as those of Transformers are."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, VOCABULARY)
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.Dropout(0.5).eval()

    def forward(self, input_ids, attention_mask=None):
        return {"logits": self.dropout(self.table(input_ids))}


def documents(n=N, seed=0):
    rng = np.random.default_rng(seed)
    return [{"input_ids": rng.integers(0, VOCABULARY, rng.integers(4, 9)).tolist()} for _ in range(n)]


def collate(rows):
    longest = max(len(row["input_ids"]) for row in rows)
    filled = [row["input_ids"] + [-100] * (longest - len(row["input_ids"])) for row in rows]
    labels = torch.tensor(filled)
    return {"input_ids": labels.clamp(min=0), "attention_mask": (labels >= 0).long(), "labels": labels}


def step(model, optimizer, batch):
    labels = batch["labels"]
    logits = model(batch["input_ids"])["logits"][:, :-1]
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def trained(staircase, epochs, model=None, seen=None):
    if model is None:
        torch.manual_seed(0)
        model = Bigrams()
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    loader = DataLoader(staircase.dataset, batch_size=4, shuffle=True, collate_fn=collate)
    for epoch in epochs(model):
        if seen is not None:
            seen[epoch] = []
        for batch in loader:
            if seen is not None:
                seen[epoch] += [tuple(row[row >= 0].tolist()) for row in batch["labels"]]
            step(model, optimizer, batch)
    return model


def staircase(**options):
    return EpochStaircase(documents(), collate=collate, report=None, **options)


def test_documents_are_left_out_of_one_epoch_each_and_training_is_not_changed():
    stairs, seen = staircase(), {}
    model = trained(stairs, lambda model: stairs.epochs(model, 5), seen=seen)
    texts = [tuple(row["input_ids"]) for row in documents()]
    for epoch, rows in seen.items():
        assert sorted(rows) == sorted(texts[d] for d in stairs.rotation.kept(epoch))

    def unmeasured(model):
        for epoch in range(5):
            stairs.dataset.epoch = epoch
            yield epoch

    again = trained(stairs, unmeasured)
    assert torch.equal(model.table.weight, again.table.weight)  # modes and random states were left as found
    assert (model.training, model.dropout.training, model.frozen.training) == (True, True, False)


def test_losses_are_those_of_evaluation_mode_and_the_number_is_of_them():
    stairs = staircase()
    model = trained(stairs, lambda model: stairs.epochs(model, 3))
    logs = torch.log_softmax(model.table.weight, dim=1)
    last = stairs._measured[3]
    assert set(last) == set(stairs.rotation.measured_after(3, last=True).tolist())
    for number, loss in last.items():
        ids = documents()[number]["input_ids"]
        expected = -np.mean([logs[a, b].item() for a, b in itertools.pairwise(ids)])
        assert loss == pytest.approx(expected, abs=1e-6)
    assert len(stairs.result.epochs) == 3
    assert stairs.overhead == pytest.approx(10 * stairs.rotation.n_probes / (9 * (N - 3)))
    assert stairs.plot().axes[0].get_xlabel() == "epochs"


def test_memorization_is_found_and_a_sentence_is_said():
    said = []
    stairs = EpochStaircase(documents(400), collate=collate, report=said.append)
    trained(stairs, lambda model: stairs.epochs(model, 4))
    assert stairs.result.memorized > 0
    assert len(said) == 4
    assert said[-1] == stairs.result.headline()


def test_resumed_training_goes_on_with_what_was_measured(tmp_path):
    whole = staircase(store=tmp_path / "whole.safetensors")
    trained(whole, lambda model: whole.epochs(model, 4))
    killed = staircase(store=tmp_path / "own.safetensors")
    model = _first_epochs(killed, 2)
    resumed = staircase(store=tmp_path / "own.safetensors")
    trained(resumed, lambda model: resumed.epochs(model, 4, first=2), model)
    assert resumed.result.epochs["epoch"].tolist() == [0, 1, 2, 3]
    assert resumed.result.epochs.iloc[:2].equals(whole.result.epochs.iloc[:2])
    assert resumed.notes == ()
    other = staircase(store=tmp_path / "own.safetensors", seed=1)
    with pytest.raises(ValueError, match="of other documents or settings"):
        next(other.epochs(model, 4, first=2))
    changed = EpochStaircase(documents(seed=9), collate=collate, store=tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match="of other documents or settings"):
        next(changed.epochs(model, 4, first=2))
    without = staircase(store=tmp_path / "none.safetensors")
    next(without.epochs(model, 4, first=2))
    assert "beginning of epoch 1, 2" in without.notes[0]


def _first_epochs(stairs, n):
    """Train as if killed after so many epochs of four."""
    torch.manual_seed(0)
    model = Bigrams()

    def killed(model):
        for epoch in stairs.epochs(model, 4):
            if epoch == n:
                return
            yield epoch

    return trained(stairs, killed, model)


class Stream(IterableDataset):
    def __iter__(self):
        yield from documents()


def packed(rows):
    ids = torch.tensor([[token for row in rows for token in row["input_ids"]]])
    return {"input_ids": ids, "labels": ids}


def masked(rows):
    batch = collate(rows)
    return batch | {"input_ids": torch.where(batch["input_ids"] == 0, 1, batch["input_ids"])}


@pytest.mark.parametrize(
    ("dataset", "options", "n_epochs", "message"),
    [
        (Stream(), {}, 3, "dataset: received Stream, a stream, accepted: documents with numbers"),
        ((row for row in documents()), {}, 3, "dataset: received generator, a stream"),
        (documents(39), {}, 3, "documents: received 39, accepted: at least 40"),
        (documents(), {}, 1, "epochs: received 1, accepted: at least 2"),
        (documents(), {"collate": None}, 3, "collate: received none"),
        (documents(), {"collate": packed}, 3, r"labels \(1, \d+\) for 8 documents \(packed\?\), accepted: a row a"),
        (documents(), {"collate": masked}, 3, "labels: received others than input_ids"),
        (documents(), {"collate": lambda rows: {"input_ids": 0}}, 3, "received dict without labels"),
        (documents(), {"batch_size": 0}, 3, "batch_size: received 0"),
        (documents(), {"losses": lambda model, rows: [np.nan] * len(rows)}, 3, "losses: received .* not finite"),
        ([{"input_ids": [1]}] * 40, {}, 3, "documents: received .* without a label"),
    ],
)
def test_what_it_cannot_do_is_refused_by_name(dataset, options, n_epochs, message):
    with pytest.raises(ValueError, match=message):
        next(EpochStaircase(dataset, **{"collate": collate, **options}).epochs(Bigrams(), n_epochs))


def test_random_states_of_all_kinds_are_left():
    def drawn():
        return random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002

    class Noisy(list):
        def __getitem__(self, place):
            drawn()
            return super().__getitem__(place)

    def reseeded():
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)

    reseeded()
    expected = drawn()
    model = Bigrams()
    reseeded()
    next(EpochStaircase(Noisy(documents()), collate=collate).epochs(model, 2))
    assert drawn() == expected


@pytest.mark.slow
def test_workers_that_stay_over_epochs_see_the_epoch():
    stairs = staircase()
    loader = DataLoader(
        stairs.dataset, batch_size=4, shuffle=True, collate_fn=collate, num_workers=2, persistent_workers=True
    )
    texts = [tuple(row["input_ids"]) for row in documents()]
    for epoch in stairs.epochs(Bigrams(), 3):
        rows = [tuple(row[row >= 0].tolist()) for batch in loader for row in batch["labels"]]
        assert sorted(rows) == sorted(texts[d] for d in stairs.rotation.kept(epoch))


class Encoder(Bigrams):
    """A network that has read the token that it is asked about."""

    def forward(self, input_ids, attention_mask=None):
        own = self.table(input_ids)
        return {"logits": own + own.mean(dim=1, keepdim=True)}


@pytest.mark.parametrize(
    ("dataset", "model", "n_epochs", "message"),
    [
        (documents(), Encoder(), 2, "model: received Encoder, which looks at later tokens, accepted: a causal model"),
        (documents(), None, 2, "model: received NoneType, accepted: a causal model"),
        (documents(), "gpt2", 2, "model: received str, accepted: a causal model"),
        (documents(), Bigrams(), 2.5, "epochs: received 2.5, accepted: at least 2, a whole number"),
        (["a text"] * 50, Bigrams(), 2, "dataset: received documents of str that collate cannot join"),
    ],
)
def test_wrong_models_and_documents_are_refused(dataset, model, n_epochs, message):
    with pytest.raises(ValueError, match=message):
        next(EpochStaircase(dataset, collate=collate, report=None).epochs(model, n_epochs))


def test_documents_that_are_longer_than_the_model_reads_are_refused():
    model = Bigrams()
    model.config = type("Config", (), {"max_position_embeddings": 5})()
    with pytest.raises(ValueError, match="documents: received 8 tokens, accepted: up to the model's 5"):
        next(EpochStaircase(documents(), collate=collate, report=None).epochs(model, 2))


@pytest.mark.parametrize(("given", "n"), [("own", 0), ("none", 0), ("drop_last", 56)])
def test_a_loop_that_does_not_go_through_its_dataset_is_refused(given, n):
    stairs = staircase()
    dataset = {"own": documents(), "none": [], "drop_last": stairs.dataset}[given]
    model = Bigrams()
    epochs = stairs.epochs(model, 3)
    next(epochs)
    list(DataLoader(dataset, batch_size=4, collate_fn=collate, drop_last=given == "drop_last"))
    with pytest.raises(ValueError, match=rf"asked staircase.dataset for {n} of 57 documents in epoch 1, accepted") as e:
        next(epochs)
    assert "several processes" in str(e.value)


@pytest.mark.parametrize(("stopped", "counted"), [(3, [0, 1, 2]), (1, [0, 3])])
def test_a_later_epoch_that_is_not_whole_is_not_measured_and_a_note_says_so(stopped, counted):
    """As where training stops at a number of steps: nothing is raised before the model is saved."""
    said = []
    stairs = EpochStaircase(documents(), collate=collate, report=said.append)
    loader = DataLoader(stairs.dataset, batch_size=4, shuffle=True, collate_fn=collate)
    for epoch in stairs.epochs(Bigrams(), 4):
        for number, _ in enumerate(loader):
            if epoch == stopped and number == 4:
                break
    assert stairs.result.epochs["epoch"].tolist() == counted
    (note,) = stairs.notes
    assert note == (
        f"Not measured: the end of epoch {stopped + 1}, since the loop asked staircase.dataset for 20 of 57 documents"
        f" in epoch {stopped + 1}."
    )
    assert note in said
