"""A user's data as they come: arrays, loaders of every sort, items that are no pairs; the table is always the same."""

import collections

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    Subset,
    TensorDataset,
)

from byheart.network.audit import audit
from byheart.network.calling import call
from byheart.network.counterfactual import counterfactual
from byheart.network.fit import Fit, margins_of
from byheart.network.inputs import as_inputs, inputs_only, tensor_of
from byheart.network.log import TrainingLog

N = 60
X = np.random.default_rng(0).normal(size=(N, 8)).astype(np.float32)
Y = np.random.default_rng(1).integers(0, 3, N)
PAIRS = TensorDataset(torch.tensor(X), torch.tensor(Y))
FRAME = pd.DataFrame(X, columns=list("abcdefgh"))


def network(n_outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, n_outputs))


def same(table: pd.DataFrame, atol: float = 1e-6) -> None:
    expected = audit(network(), (X, Y)).table
    pd.testing.assert_frame_equal(table, expected, check_dtype=False, atol=atol, rtol=1e-4)


@pytest.mark.parametrize(
    "inputs",
    [
        X.astype(np.longdouble),
        X.astype(">f4"),
        X[::-1].copy()[::-1],
        torch.tensor(X, requires_grad=True),
        torch.tensor(X).to_sparse(),
        scipy.sparse.csr_array(X),
        scipy.sparse.coo_matrix(X),
        FRAME,
        FRAME.astype(object),
        FRAME.set_axis(range(100, 100 + N)),
    ],
)
def test_inputs_come_in_every_container(inputs):
    same(audit(network(), (inputs, Y)).table)


@pytest.mark.parametrize("half", [X.astype(np.float16), torch.tensor(X).half(), torch.tensor(X).bfloat16()])
def test_half_precision_is_taken_as_the_model_has_its_weights(half):
    expected = audit(network(), (torch.as_tensor(half).float(), Y)).table
    pd.testing.assert_frame_equal(audit(network(), (half, Y)).table, expected)


@pytest.mark.parametrize(
    "targets",
    [
        Y.astype(np.uint16),
        Y.astype(np.uint64),
        Y.astype(">i4"),
        Y.astype(object),
        Y.tolist(),
        Y[:, None],
        pd.Series(Y, dtype="Int64", index=range(5, 5 + N)),
        Y.astype(np.float32),
        np.eye(3)[Y],
    ],
)
def test_classes_come_in_every_container(targets):
    same(audit(network(), (X, targets)).table)


class Words(Dataset):
    def __len__(self):
        return N

    def __getitem__(self, index):
        return X[index], "abc"[Y[index]]


@pytest.mark.parametrize("shuffle", [False, True])
def test_words_are_labels_and_their_names_are_kept(shuffle, tmp_path):
    loader = DataLoader(Words(), 7, shuffle=shuffle)
    for given in (
        (X, np.array(list("abc"))[Y]),
        (X, pd.Series(np.array(list("abc"))[Y], dtype="category")),
        Words(),
        loader,
    ):
        found = audit(network(), given)
        same(found.table)
        assert found.label_names == ["a", "b", "c"]
        assert any("in the order 0 'a', 1 'b', 2 'c'" in note for note in found.notes)
        assert '"label_names":["a","b","c"]' in found.save(tmp_path / "a.html").read_text()


def trained() -> nn.Module:
    model = network()
    rule = torch.tensor(X[:, :3].argmax(1))
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.tensor(X)), rule).backward()
        optimizer.step()
    return model


def test_words_in_another_order_than_the_outputs_are_refused():
    model, rule = trained(), X[:, :3].argmax(1)
    assert audit(model, (X, np.array(["a", "b", "c"])[rule])).label_names == ["a", "b", "c"]
    words = np.array(["cow", "ant", "bee"])[rule]
    with pytest.raises(
        ValueError, match="targets: received classes in an order .* 'ant' 1, 'bee' 2, 'cow' 0, accepted"
    ):
        audit(model, (X, words))
    ordered = pd.Categorical(words, categories=["cow", "ant", "bee"])
    found = audit(model, (X, ordered))
    assert found.label_names == ["cow", "ant", "bee"]
    assert (found.table["label"] == rule).all()


class OpenedInWorkers(Dataset):
    file = None

    def __len__(self):
        return N

    def __getitem__(self, index):
        return OpenedInWorkers.file[index], int(Y[index])

    @staticmethod
    def open(_worker):
        OpenedInWorkers.file = torch.tensor(X)


def stacked(rows):
    return torch.stack([x for x, _ in rows]), torch.tensor([int(y) for _, y in rows])


@pytest.mark.slow
@pytest.mark.parametrize("shuffle", [False, True])
def test_data_that_are_opened_in_workers_are_read_there(shuffle):
    generator = torch.Generator().manual_seed(3)
    loader = DataLoader(
        OpenedInWorkers(),
        16,
        shuffle=shuffle,
        num_workers=1,
        worker_init_fn=OpenedInWorkers.open,
        generator=generator,
        collate_fn=stacked,
        timeout=60,
    )
    state = generator.get_state()
    same(audit(network(), loader).table)
    assert torch.equal(generator.get_state(), state)


def test_options_of_a_loader_outlive_the_shuffling():
    options = {"num_workers": 2, "timeout": 7, "prefetch_factor": 3, "persistent_workers": True, "collate_fn": stacked}
    options |= {"worker_init_fn": OpenedInWorkers.open, "generator": torch.Generator().manual_seed(3)}
    loader = DataLoader(PAIRS, 16, shuffle=True, drop_last=True, multiprocessing_context="forkserver", **options)
    rebuilt = as_inputs(loader).loader
    assert rebuilt is not loader
    for name in (*options, "batch_size", "multiprocessing_context", "pin_memory"):
        if name != "generator":
            assert getattr(rebuilt, name) == getattr(loader, name), name
    assert rebuilt.generator is not loader.generator
    assert torch.equal(rebuilt.generator.get_state(), loader.generator.get_state())


class Buckets(Sampler):
    """Batches of examples whose first number is alike, in an order that is drawn anew each time."""

    def __init__(self, without: int = 0):
        self.without = without

    def __iter__(self):
        batches = np.array_split(np.argsort(X[:, 0])[self.without :], 7)
        yield from (batches[k].tolist() for k in torch.randperm(7))

    def __len__(self):
        return 7


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))

    def forward(self, x):
        return self.net(x.reshape(len(x), -1)[:, :8])


def of_one_length(rows):
    lengths = {len(x) for x, _ in rows}
    assert len(lengths) == 1
    return stacked(rows)


class Ragged(Dataset):
    """As many zeros behind an input as its bucket says."""

    def __init__(self):
        self.bucket = {int(i): k for k, part in enumerate(np.array_split(np.argsort(X[:, 0]), 7)) for i in part}

    def __len__(self):
        return N

    def __getitem__(self, index):
        return torch.cat([torch.tensor(X[index]), torch.zeros(self.bucket[index])]), Y[index]


@pytest.mark.parametrize("ragged", [False, True])
def test_batches_that_a_sampler_puts_together_stay_together(ragged):
    dataset, collate = (Ragged(), of_one_length) if ragged else (PAIRS, None)
    loader = DataLoader(dataset, batch_sampler=Buckets(), collate_fn=collate)
    log = TrainingLog.from_losses(np.arange(float(N))[None])
    model, state = Flat(), torch.get_rng_state()
    found = audit(model, loader, log=log, curvature=not ragged)
    assert torch.equal(torch.get_rng_state(), state)
    expected = audit(model, (X, Y), log=log)
    table = found.table.drop(columns="input_curvature", errors="ignore")
    pd.testing.assert_frame_equal(table, expected.table, atol=1e-6, rtol=1e-4)
    np.testing.assert_array_equal(found.listed, expected.listed)
    np.testing.assert_array_equal(found.neighbours, expected.neighbours)
    np.testing.assert_array_equal(found.carriers.examples, expected.carriers.examples)
    np.testing.assert_allclose(found.carriers.inputs, expected.carriers.inputs, atol=1e-6)
    np.testing.assert_allclose(margins_of(model, loader), margins_of(model, (X, Y)), atol=1e-5)


def test_curvature_follows_the_order_of_the_dataset():
    sizes = torch.tensor(np.geomspace(1, 30, N)[:, None], dtype=torch.float32)  # the larger, the flatter the loss
    data, model = TensorDataset(torch.tensor(X) * sizes, torch.tensor(Y)), nn.Sequential(nn.Linear(8, 3))
    loaders = DataLoader(data, N), DataLoader(data, batch_sampler=[list(range(N))[::-1]])
    found = [np.log(audit(model, loader, curvature=True).table["input_curvature"] + 1e-9) for loader in loaders]
    assert np.corrcoef(*found)[0, 1] > 0.9  # not 1: their random directions differ


def test_an_example_is_named_by_its_place_in_the_dataset():
    x = X.copy()
    x[17] = np.nan
    dataset = TensorDataset(torch.tensor(x), torch.tensor(Y))
    reversed_batches = DataLoader(dataset, batch_sampler=[list(range(k, k - 10, -1)) for k in range(N - 1, 0, -10)])
    with pytest.raises(ValueError, match="inputs: received nan in column 0 of example 17, .*; layer 2.input has NaN"):
        audit(network(), reversed_batches, layer="0")


@pytest.mark.parametrize("sampler", [range(N), range(N - 1, -1, -1), RandomSampler(PAIRS, generator=torch.Generator())])
def test_samplers_that_draw_each_example_once_are_taken_in_the_order_of_the_dataset(sampler):
    same(audit(network(), DataLoader(PAIRS, 16, sampler=sampler)).table)


class Stream(IterableDataset):
    def __init__(self, n: int = N):
        self.n = n

    def __iter__(self):
        return iter([(torch.tensor(x), int(y)) for x, y in zip(X, Y, strict=True)])

    def __len__(self):
        return self.n


@pytest.mark.parametrize("given", [Stream(), DataLoader(Stream(), 16), DataLoader(Stream(), 16, drop_last=True)])
def test_streams_of_known_length_are_taken(given):
    same(audit(network(), given).table)


def test_pairs_in_a_list_are_a_dataset():
    same(audit(network(), [(X[i], int(Y[i])) for i in range(N)]).table)
    same(audit(network(), list(zip(torch.tensor(X), torch.tensor(Y), strict=True))).table)


class Unsized(IterableDataset):
    def __iter__(self):
        return iter(Stream())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (DataLoader(PAIRS, 8, sampler=RandomSampler(PAIRS, replacement=True)), "a RandomSampler, accepted: one that"),
        (DataLoader(PAIRS, batch_sampler=Buckets(without=1)), "a batch_sampler, accepted: one that draws each example"),
        (DataLoader(PAIRS, batch_sampler=[[0, 1], [1, 2]]), "a batch_sampler, accepted"),
        (DataLoader(PAIRS, batch_sampler=BatchSampler(range(9), 2, False)), "a batch_sampler, accepted"),
        (DataLoader(PAIRS, batch_size=None), "without batches or order"),
        (DataLoader(Unsized(), 4), "without batches or order"),
        (Unsized(), "dataset: received Unsized, accepted"),
        (Stream(N - 1), f"received {N} examples or more, accepted: .* of the {N - 1}"),
        (Stream(N + 1), f"received {N} examples, accepted: the {N + 1}"),
        (zip(X, Y, strict=True), "dataset: received zip, accepted"),
        ([(X[0], 0), (X[1], 1)], "a list of two tuples, accepted"),
        (FRAME, "dataset: received DataFrame, accepted"),
        (torch.tensor(X), "dataset: received Tensor, accepted"),
        (scipy.sparse.csr_array(X), "dataset: received csr_array, accepted"),
        ({"x": X, "y": Y}, "dataset: received dict, accepted"),
        ((FRAME[["a", "b"]].to_records(index=False), Y), "inputs: received a structured array with the fields a, b"),
        ((FRAME.assign(a="red"), Y), r"inputs, column 'a': received words \('red'\)"),
        ((["a text"] * N, Y), "inputs: received words"),
        ((np.ma.masked_greater(X, 1), Y), "inputs: received a masked value of example"),
        (
            (X, pd.Series([*"ab"] * 29 + ["a", None], dtype="category")),
            f"targets: received no label of example {N - 1}",
        ),
        ((X, 3), f"{N} inputs and a single target"),
        ((3, Y), "inputs: received a single number"),
        (({"x": X, "z": X[1:]}, Y), r"inputs: received arrays of \[59, 60\] rows"),
        (DataLoader(PAIRS, 6, collate_fn=lambda rows: (stacked(rows)[0], {"boxes": 1})), "targets: received dict"),
        (DataLoader(PAIRS, 6, collate_fn=lambda rows: (stacked(rows)[0], 1)), "a batch with one target for all"),
    ],
)
def test_what_is_no_data_is_refused_in_one_line(given, message):
    with pytest.raises(ValueError, match=message) as error:
        audit(network(), given)
    assert "\n" not in str(error.value)


class Rows(Dataset):
    """Items are dicts, as those of text collections."""

    def __len__(self):
        return N

    def __getitem__(self, index):
        return {"text": f"text {index}", "x": X[index].tolist(), "label": int(Y[index])}


def to_pairs(rows):
    return {"x": torch.tensor([row["x"] for row in rows])}, torch.tensor([row["label"] for row in rows])


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x, other=None):
        return self.net(x)


class Encoded(collections.UserDict):
    """A mapping that is no dict, as a tokenizer returns."""


def test_items_that_are_dicts_are_made_pairs_by_the_loader(tmp_path):
    loader = DataLoader(Rows(), 16, collate_fn=to_pairs)
    model = Named()
    found = audit(model, loader)
    np.testing.assert_allclose(found.table["loss"], audit(network(), (X, Y)).table["loss"], rtol=1e-4)
    assert found.shown[3].startswith("text: text 3 | x: ")
    assert "text 3" in found.save(tmp_path / "a.html").read_text()
    assert len(found.detector(model, loader)(loader)) == N


@pytest.mark.parametrize("kind", [dict, collections.OrderedDict, Encoded])
def test_inputs_may_be_mappings(kind, tmp_path):
    loader = DataLoader(PAIRS, 16, collate_fn=lambda rows: (kind(x=stacked(rows)[0]), stacked(rows)[1]))
    items = [(kind(x=torch.tensor(x)), int(y)) for x, y in zip(X, Y, strict=True)]
    expected = audit(network(), (X, Y)).table["loss"]
    given = [loader, (kind(x=X), Y)] + ([items] if kind is not Encoded else [])  # torch collates no UserDict
    for data in given:
        found = audit(Named(), data)
        np.testing.assert_allclose(found.table["loss"], expected, rtol=1e-4)
        found.save(tmp_path / "a.html")


def test_what_moves_itself_and_named_tuples_reach_the_model_as_they_are():
    packed = nn.utils.rnn.pack_sequence([torch.ones(2, 4), torch.ones(1, 4)])
    output, _ = call(nn.LSTM(4, 3), packed)
    assert output.data.shape == (3, 3)
    point = collections.namedtuple("point", "x y")

    class Model(nn.Module):
        def forward(self, p):
            return p.x + p.y

    assert call(Model(), {"p": point(torch.ones(2), torch.ones(2))}).tolist() == [2, 2]


class Looks(Dataset):
    def __init__(self, look):
        self.look = look

    def __len__(self):
        return N

    def __getitem__(self, index):
        return self.look(index), int(Y[index])


class Thing:
    def __str__(self):
        return "a thing\nof two lines"


def palette(_index):
    from PIL import Image

    image = Image.new("P", (8, 8))
    image.putpalette([250, 10, 10])
    return image


def with_nan(_index):
    return np.where(np.eye(8) > 0, np.nan, np.arange(8.0))


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (lambda i: torch.tensor(X[i]).bfloat16(), str),
        (lambda i: {"x": torch.tensor(X[i]), "words": "a b"}, str),
        (lambda i: (torch.tensor(X[i]), {"a": 1}), str),
        (lambda i: ("words", torch.ones(3, 8, 8)), tuple),
        (lambda i: {"pixels": torch.ones(1, 8, 8).bfloat16()}, np.ndarray),
        (lambda i: torch.complex(torch.ones(8, 8), torch.ones(8, 8)), str),
        (lambda i: [1, 2, 3], str),
        (lambda i: 7, str),
        (lambda i: None, str),
        (lambda i: Thing(), str),
        (lambda i: torch.zeros(0), str),
        (palette, np.ndarray),
        (with_nan, np.ndarray),
        (lambda i: np.full((8, 8), np.nan), np.ndarray),
    ],
)
def test_every_item_can_be_shown(look, expected, tmp_path):
    def collate(rows):
        return torch.tensor(X[: len(rows)]), torch.tensor([y for _, y in rows])

    found = audit(network(), DataLoader(Looks(look), 16, collate_fn=collate), most_shown=3)
    assert all(isinstance(shown, expected) for shown in found.shown.values())
    assert found.save(tmp_path / "a.html").is_file()
    assert found.save(tmp_path / "a.safetensors").is_file()


def test_colours_of_a_palette_are_shown():
    rows = DataLoader(Looks(palette), N, collate_fn=lambda rows: (torch.tensor(X), torch.tensor(Y)))
    assert next(iter(audit(network(), rows).shown.values())).shape == (8, 8, 3)


def test_only_inputs_may_be_of_every_kind_too():
    for given in (X[::-1], FRAME, scipy.sparse.csr_array(X), torch.tensor(X, requires_grad=True)):
        assert sum(len(batch) for batch in inputs_only(given, 7)) == N
    with pytest.raises(ValueError, match="in another order than its dataset's"):
        list(inputs_only(DataLoader(PAIRS, batch_sampler=Buckets())))
    assert tensor_of(np.array([2**15], np.uint16), "x").tolist() == [2**15]


def test_a_fit_takes_them_all():
    one = Fit(network(), X, Y, n_epochs=1)(np.arange(20), 0)
    words = np.array(list("abc"))[Y]
    for inputs, labels in (
        (FRAME, words),
        (torch.tensor(X, requires_grad=True), Y.astype(np.uint16)),
        (X[::-1][::-1], Y),
    ):
        other = Fit(network(), inputs, labels, n_epochs=1)(torch.arange(20), 0)
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    np.testing.assert_array_equal(margins_of(one, (FRAME, words)), margins_of(one, (X, Y)))
    with pytest.raises(ValueError, match="labels: received shape .* from -1 on, accepted"):
        Fit(network(), X, Y - 1)


def test_targets_of_a_store_are_words_or_numbers(tmp_path):
    def fit(indices, seed):
        return torch.ones(N, requires_grad=True)

    words = np.array(list("abc"))[Y]
    options = {"n_models": 2, "store": tmp_path, "executor": InProcess()}
    assert counterfactual(fit, (X, words), **options).margins.dtype == np.float64
    with pytest.raises(ValueError, match="of other targets"):
        counterfactual(fit, (X, words[::-1]), **options)
    with pytest.raises(ValueError, match="of other targets"):
        counterfactual(fit, (X, np.array(list("abd"))[Y]), **options)
    order = np.random.default_rng(0).permutation(N)
    batches = DataLoader(PAIRS, batch_sampler=np.array_split(order, 5))
    counterfactual(fit, PAIRS, n_models=2, store=tmp_path / "b", executor=InProcess())
    counterfactual(fit, batches, n_models=2, store=tmp_path / "b", executor=InProcess())  # the same targets


class InProcess:
    """An executor that runs what it is given at once."""

    def submit(self, function, *arguments, **options):
        import concurrent.futures

        future = concurrent.futures.Future()
        future.set_result(function(*arguments, **options))
        return future


def test_a_part_of_the_data_is_a_subset():
    found = audit(network(), DataLoader(Subset(PAIRS, range(40)), 16, shuffle=True)).table
    pd.testing.assert_frame_equal(found, audit(network(), (X[:40], Y[:40])).table, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("error", [KeyError("mask"), AttributeError("no such part"), AssertionError("odd length")])
def test_what_a_model_raises_is_said_to_be_the_models(error):
    class Broken(nn.Module):
        def forward(self, x):
            raise error

    with pytest.raises(ValueError, match=f"the model raises {type(error).__name__}: ") as found:
        call(Broken(), torch.zeros(2, 3))
    assert found.value.__cause__ is error


def test_tables_whose_indexes_differ_are_not_paired_by_position():
    table, labels = pd.DataFrame(X.reshape(len(X), -1)), pd.Series(Y)
    assert len(as_inputs((table, labels)).loader.dataset) == len(X)
    for other in (labels[::-1], labels.set_axis(np.arange(len(Y)) + 1)):
        with pytest.raises(ValueError, match="inputs, targets: received tables or columns with different indexes"):
            as_inputs((table, other))
        with pytest.raises(ValueError, match=r"inputs\['a'\], targets: received tables or columns with different"):
            as_inputs(({"a": table, "b": X}, other))
        with pytest.raises(ValueError, match="inputs, ids: received tables or columns with different indexes"):
            audit(network(), (table, labels), ids=other.index.to_series())
    for without in (labels[::-1].to_numpy(), labels.tolist()):
        assert len(as_inputs((table, without)).loader.dataset) == len(X)


class Weighted(nn.Module):
    """Takes labels that it has no use for, as models of Transformers do."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x, labels=None):
        return self.net(x)


def test_a_note_says_which_of_several_parts_was_taken_for_the_targets():
    weighted = TensorDataset(torch.tensor(X), torch.tensor(Y), torch.arange(N) % 3)
    found = audit(Weighted(), weighted)
    (note,) = [note for note in found.notes if "parts" in note]
    assert note == (
        "Batches have 3 parts: the last is taken for the targets, and those before it are given to the model's forward"
        " in their order, as x, labels. labels is a name of targets: are they last?"
    )
    np.testing.assert_array_equal(found.table["label"], np.arange(N) % 3)
    assert not [note for note in audit(network(), PAIRS).notes if "parts" in note]


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_what_is_not_finite_in_an_input_is_said_to_be_there(value):
    broken = X.copy()
    broken[17, 3] = value
    for given in ((broken, Y), DataLoader(TensorDataset(torch.tensor(broken), torch.tensor(Y)), 7)):
        with pytest.raises(ValueError, match=f"inputs: received {value} in column 3 of example 17, .*; layer 2.input"):
            audit(network(), given)

    class Named(Weighted):
        def forward(self, x, more):
            return self.net(x + more.mean((1, 2))[:, None])

    images = np.zeros((N, 2, 4), np.float32)
    images[5, 1, 2] = value
    with pytest.raises(ValueError, match=rf"inputs: received {value} at \[1, 2\] of 'more' of example 5, accepted"):
        audit(Named(), ({"x": X, "more": images}, Y))
    infinite = network()
    with torch.no_grad():
        infinite[0].weight[:] = torch.nan
    with pytest.raises(ValueError, match="layer 2.input: received NaN or infinite activations of example 0, accepted"):
        audit(infinite, (X, Y))


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_numbers_become_the_models_own_type(kind):
    found = audit(network().to(kind), (X, Y), "0")
    expected = audit(network().to(kind), (torch.tensor(X).to(kind), Y), "0")
    pd.testing.assert_frame_equal(found.table, expected.table, atol=1e-6)
    mixed = nn.Sequential(network(), nn.Identity())
    mixed.register_buffer("other", torch.zeros(1, dtype=kind))
    same(audit(mixed, (X, Y)).table)


@pytest.mark.parametrize(
    "first", [nn.Linear(8, 6), nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 6, 8), nn.Flatten())]
)
def test_whole_numbers_are_not_put_on_a_scale(first):
    whole = (255 * X).astype(np.int64)
    model = nn.Sequential(first, nn.Linear(6, 3))
    with pytest.raises(ValueError, match="inputs: received torch.int64, on which .*accepted: floating-point numbers"):
        audit(model, (whole, Y))


def test_two_whole_numbers_per_example_may_be_numbers():
    two = np.stack([Y, Y + 1], 1)
    with pytest.raises(ValueError, match="loss='mse' for numbers"):
        audit(network(), (X, two))
    found = audit(network(2), (X, two), loss="mse")
    with torch.no_grad():
        expected = (network(2)(torch.tensor(X)) - torch.tensor(two)).square().mean(1)
    np.testing.assert_allclose(found.table["loss"], expected, rtol=1e-5)


def test_autocast_around_an_audit_changes_nothing():
    with torch.autocast("cpu", torch.bfloat16):
        found = audit(network(), (X, Y)).table
    same(found)
    assert not torch.is_autocast_enabled("cpu")


def test_an_error_on_batches_of_three_parts_says_which_was_taken_for_the_targets():
    x, y = torch.randn(30, 4), torch.arange(30) % 3
    data = torch.utils.data.TensorDataset(x, y, torch.rand(30))
    with pytest.raises(
        ValueError, match=r"takes 2 positional arguments but 3 were given.*\(Batches have 3 parts: the last"
    ):
        audit(torch.nn.Sequential(torch.nn.Linear(4, 3)), data)
