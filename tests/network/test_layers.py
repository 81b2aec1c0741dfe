"""What is seen of layers: each kind in each layout against NumPy, calls, padding, the head and wrappers around it."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from byheart.network.audit import audit
from byheart.network.head import how_made
from byheart.network.layers import tensor_of_output, unwrapped

N = 12


def dimensionalities(h: np.ndarray, counted: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """D* = h^T (H^T H)^+ h and D_X = |h|^2 / sum_j (h^ . h_j)^2 of rows, each summed over an example's positions."""
    h = np.asarray(h, dtype=np.float64)
    counted = np.ones(h.shape[:2], dtype=bool) if counted is None else counted
    rows = h[counted]
    held = np.einsum("ij,jk,ik->i", rows, np.linalg.pinv(rows.T @ rows, rcond=1e-12, hermitian=True), rows)
    lengths = np.linalg.norm(rows, axis=1)
    units = rows / np.maximum(lengths, 1e-300)[:, None]
    own = lengths**2 / np.maximum(np.square(units @ rows.T).sum(axis=1), 1e-300)
    found = np.zeros((2, *h.shape[:2]))
    found[:, counted] = held, own
    return found[0].sum(axis=1), found[1].sum(axis=1)


def check(found, h, counted=None) -> None:
    table = found.table
    expected = dimensionalities(h, counted)
    np.testing.assert_allclose(table["maximal_dimensionality"], expected[0], atol=1e-4)
    np.testing.assert_allclose(table["example_dimensionality"], expected[1], rtol=1e-3, atol=1e-6)


def labels(n: int = N) -> torch.Tensor:
    return torch.arange(n) % 3


class Block(nn.Module):
    """Normalised, mixed and added to itself, with the units last."""

    def __init__(self, n_units: int) -> None:
        super().__init__()
        self.norm, self.mix = nn.LayerNorm(n_units), nn.Linear(n_units, n_units)

    def forward(self, x):
        return x + torch.relu(self.mix(self.norm(x)))


class ConvBlock(nn.Module):
    """As in residual networks: what the second normalisation gives is added to and rectified in place."""

    def __init__(self, n_units: int) -> None:
        super().__init__()
        self.conv, self.norm, self.relu = (
            nn.Conv2d(n_units, n_units, 3, padding=1),
            nn.BatchNorm2d(n_units),
            nn.ReLU(True),
        )

    def forward(self, x):
        h = self.norm(self.conv(x))
        h += x
        return self.relu(h)


class FirstOf(nn.Module):
    """A user's own module with a forward of its own around attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x)


class ChannelsLast(nn.Conv1d):
    """A convolution whose own forward moves the channels behind."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def encoder(**options) -> nn.Module:
    return nn.TransformerEncoderLayer(4, 2, 8, **options)


# Layer, positions, axes that it reads, axes that it gives; it reads four units.
KINDS = {
    "linear": (lambda: nn.Linear(4, 5), (), "nu", "nu"),
    "linear, sequences": (lambda: nn.Linear(4, 5), (7,), "npu", "npu"),
    "linear, sequences first": (lambda: nn.Linear(4, 5), (7,), "pnu", "pnu"),
    "linear, as many positions as examples": (lambda: nn.Linear(4, 5), (N,), "npu", "npu"),
    "linear, sequences first, as many": (lambda: nn.Linear(4, 5), (N,), "pnu", "pnu"),
    "linear, places": (lambda: nn.Linear(4, 5), (3, 6), "nppu", "nppu"),
    "layer norm": (lambda: nn.LayerNorm(4), (7,), "npu", "npu"),
    "layer norm, sequences first": (lambda: nn.LayerNorm(4), (7,), "pnu", "pnu"),
    "conv1d": (lambda: nn.Conv1d(4, 5, 3), (7,), "nup", "nup"),
    "conv1d, as many positions as examples": (lambda: nn.Conv1d(4, 5, 3, padding=1), (N,), "nup", "nup"),
    "conv1d, units last": (lambda: ChannelsLast(4, 5, 3), (8,), "npu", "npu"),
    "transposed conv1d": (lambda: nn.ConvTranspose1d(4, 5, 3), (7,), "nup", "nup"),
    "conv2d": (lambda: nn.Conv2d(4, 5, 2), (3, 6), "nupp", "nupp"),
    "conv3d": (lambda: nn.Conv3d(4, 5, 2), (3, 2, 4), "nuppp", "nuppp"),
    "batch norm": (lambda: nn.BatchNorm1d(4), (), "nu", "nu"),
    "batch norm, sequences": (lambda: nn.BatchNorm1d(4), (7,), "nup", "nup"),
    "batch norm, images": (lambda: nn.BatchNorm2d(4), (3, 6), "nupp", "nupp"),
    "group norm": (lambda: nn.GroupNorm(2, 4), (7,), "nup", "nup"),
    "max pool 1d": (lambda: nn.MaxPool1d(2), (7,), "nup", "nup"),
    "average pool 2d": (lambda: nn.AvgPool2d(2), (4, 6), "nupp", "nupp"),
    "adaptive pool": (lambda: nn.AdaptiveAvgPool1d(3), (7,), "nup", "nup"),
    "upsample": (lambda: nn.Upsample(scale_factor=2), (3, 6), "nupp", "nupp"),
    "relu of conv1d": (lambda: nn.Sequential(nn.Conv1d(4, 5, 3), nn.ReLU()), (7,), "nup", "nup"),
    "relu in place of conv1d": (lambda: nn.Sequential(nn.Conv1d(4, 5, 3), nn.ReLU(True)), (7,), "nup", "nup"),
    "gelu and dropout of linear": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Dropout()),
        (7,),
        "pnu",
        "pnu",
    ),
    "residual block": (lambda: ConvBlock(4), (3, 6), "nupp", "nupp"),
    "channels-last block": (lambda: Block(4), (3, 6), "nppu", "nppu"),
    "block, sequences first": (lambda: Block(4), (7,), "pnu", "pnu"),
    "lstm": (lambda: nn.LSTM(4, 5), (7,), "pnu", "pnu"),
    "lstm, batch first": (lambda: nn.LSTM(4, 5, batch_first=True), (7,), "npu", "npu"),
    "lstm, batch first, as many": (lambda: nn.LSTM(4, 5, batch_first=True), (N,), "npu", "npu"),
    "gru, both directions": (lambda: nn.GRU(4, 3, 2, bidirectional=True), (N,), "pnu", "pnu"),
    "transformer layer": (encoder, (7,), "pnu", "pnu"),
    "transformer layer, batch first": (lambda: encoder(batch_first=True), (7,), "npu", "npu"),
    "transformer, as many": (
        lambda: nn.TransformerEncoder(encoder(), 2, enable_nested_tensor=False),
        (N,),
        "pnu",
        "pnu",
    ),
}


def arranged(x: torch.Tensor, axes: str) -> torch.Tensor:
    """Move examples, positions and units, which come in this order, to where the axes say."""
    places = iter(range(1, x.ndim - 1))
    return x.permute([0 if a == "n" else x.ndim - 1 if a == "u" else next(places) for a in axes])


def rows(h: torch.Tensor, axes: str) -> torch.Tensor:
    """The reverse: (n_examples, n_positions, n_units)."""
    positions = [i for i, a in enumerate(axes) if a == "p"]
    return h.permute([axes.index("n"), *positions, axes.index("u")]).reshape(
        h.shape[axes.index("n")], -1, h.shape[axes.index("u")]
    )


class Around(nn.Module):
    """A layer in its layout, what follows it, and a classifier of its mean over positions."""

    def __init__(self, layer: nn.Module, reads: str, gives: str, n_units: int, then: str) -> None:
        super().__init__()
        self.layer, self.out = layer, nn.Linear(n_units, 3)
        self.reads, self.gives, self.then = reads, gives, then

    def forward(self, x):
        x = arranged(x, self.reads)
        if self.then == "input changed":
            x = x.clone()
        h = tensor_of_output(self.layer, self.layer(x))
        if self.then == "relu in place":
            h = h.relu_()
        elif self.then == "added to in place":
            h += 3.0
        elif self.then == "input changed":
            x.mul_(0)
        elif self.then == "called twice":
            h = h + tensor_of_output(self.layer, self.layer(x * 2 - 1))
        return self.out(rows(h, self.gives).mean(dim=1))


@pytest.mark.parametrize("then", ["nothing", "relu in place", "added to in place", "called twice"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_of_each_kind_holds_what_numpy_says(kind, then):
    make, positions, reads, gives = KINDS[kind]
    torch.manual_seed(0)
    layer = make().eval()
    x = torch.randn(N, *positions, 4)
    with torch.no_grad():
        inputs = [arranged(x, reads)] + ([arranged(x, reads) * 2 - 1] if then == "called twice" else [])
        given = [rows(tensor_of_output(layer, layer(part.clone())), gives) for part in inputs]
    found = audit(Around(layer, reads, gives, given[0].shape[-1], then), (x, labels()), "layer", batch_size=7)
    check(found, torch.cat(given, dim=1))
    assert found.width == {"layer": given[0].shape[-1]}
    assert any("more than once" in note for note in found.notes) == (then == "called twice")


WRAPPERS = {
    "none": lambda model: model,
    "DataParallel": nn.DataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "inside another": lambda model: nn.Sequential(nn.Identity(), model),
}


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_no_precision_or_wrapper_changes_what_a_layer_holds(kind, dtype, wrapper):
    make, positions, reads, gives = KINDS[kind]
    torch.manual_seed(0)
    layer = make().eval().to(dtype)
    x = torch.randn(N, *positions, 4).to(dtype)
    torch.backends.mha.set_fastpath_enabled(False)  # it rounds otherwise, and modules with hooks do not take it
    with torch.no_grad():
        given = rows(tensor_of_output(layer, layer(arranged(x, reads))), gives)
    model = WRAPPERS[wrapper](Around(layer, reads, gives, given.shape[-1], "relu in place").to(dtype))
    name = "1.layer" if wrapper == "inside another" else "layer"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.compile
        found = audit(model, (x, labels()), name)
    torch.backends.mha.set_fastpath_enabled(True)
    h = given.double().numpy()
    distinct = np.linalg.svd(h.reshape(-1, h.shape[-1]), compute_uv=False)
    assert distinct[-1] > 1e-3 * distinct[0] or kind.startswith(("layer norm", "channels-last", "block", "transformer"))
    check(found, h)


@pytest.mark.parametrize("kind", ["linear", "conv1d", "conv2d", "linear, sequences first"])
def test_what_a_layer_reads_is_copied_before_it_is_overwritten(kind):
    make, positions, reads, _ = KINDS[kind]
    torch.manual_seed(0)
    x = torch.randn(N, *positions, 4)
    model = Around(make(), reads, KINDS[kind][3], 5, "input changed")
    check(audit(model, (x, labels()), "layer.input"), rows(arranged(x, reads), reads))


def test_what_the_head_reads_is_copied_before_it_is_overwritten():
    class Overwrites(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.out = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            z = self.body(x)
            made = self.out(z)
            z.zero_()
            return made.div_(2)

    torch.manual_seed(0)
    model, x = Overwrites(), torch.randn(N, 4)
    z = model.body(x).detach()
    found = audit(model, (x, labels())).table
    check(audit(model, (x, labels())), z[:, None])
    residuals = (model.out(z) / 2).softmax(dim=1).detach() - nn.functional.one_hot(labels(), 3)
    np.testing.assert_allclose(found["gradient_norm"], residuals.norm(dim=1) * z.norm(dim=1), rtol=1e-5)


def test_attention_gives_its_first_output():
    torch.manual_seed(0)
    x = torch.randn(N, 7, 4)

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.own, self.out = FirstOf(), nn.Linear(4, 3)

        def forward(self, x):
            return self.out(self.own(x)[0].mean(dim=1))

    model = Mean().eval()
    h = model.own(x)[0].detach()
    check(audit(model, (x, labels()), "own.attention"), h)
    with pytest.raises(ValueError, match="layer own: received tuple, accepted: a layer that gives one"):
        audit(model, (x, labels()), "own")


def test_a_model_that_writes_into_its_inputs_is_seen_as_it_is():
    torch.manual_seed(0)
    x = torch.randn(N, 4)
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 3))
    kept = x.clone()
    check(audit(model, (x, labels())), model[:3](x.clone()).detach()[:, None])
    assert torch.equal(x, kept)


def test_packed_sequences_have_the_positions_that_they_have():
    lengths = torch.arange(N) % 5 + 1

    class Packed(nn.Module):
        def __init__(self, batch_first):
            super().__init__()
            self.rnn, self.out = nn.GRU(4, 5, batch_first=batch_first), nn.Linear(5, 3)

        def forward(self, x, lengths):
            x = x if self.rnn.batch_first else x.transpose(0, 1)
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, self.rnn.batch_first, enforce_sorted=False)
            return self.out(self.rnn(packed)[1][0])

    torch.manual_seed(0)
    x = torch.randn(N, 6, 4)
    given = torch.utils.data.TensorDataset(x, lengths, labels())
    counted = (torch.arange(6) < lengths[:, None]).numpy()
    for batch_first in (True, False):
        model = Packed(batch_first)
        alone = nn.GRU(4, 5, batch_first=True)
        alone.load_state_dict(model.rnn.state_dict())
        check(audit(model, given, "rnn"), alone(x)[0].detach(), counted)


class Opaque(nn.Module):
    def forward(self, x):
        return torch.tanh(x)


class Open(nn.Module):
    """A function between two layouts, whose axes nothing tells."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.own, self.out = nn.Conv2d(4, 5, 2), Opaque(), nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.own(self.conv(x).permute(0, 2, 3, 1)).mean(dim=(1, 2)))


def test_axes_that_stay_open_are_asked_for():
    torch.manual_seed(0)
    model, x = Open(), torch.randn(N, 4, 4, 6)
    h = torch.tanh(model.conv(x)).detach()
    with pytest.raises(ValueError, match=r"layer own: received \(12, 3, 5, 5\), .* units, accepted: with axes="):
        audit(model, (x, labels()), "own")
    for axes in ("nhwu", {"own": "nppu"}):
        check(audit(model, (x, labels()), "own", axes=axes), h.flatten(2).transpose(1, 2))
    check(audit(model, (x, labels()), "own", axes="npuu"), h.permute(0, 2, 3, 1).flatten(2))
    for axes, message in (
        ("nhu", r"axes: received 'nhu' for the \(12, 3, 5, 5\) of layer own, accepted: a letter for each axis"),
        ("nnhu", "axes: received 'nnhu'"),
        ("nhwp", "axes: received 'nhwp'"),
        (
            "hnwu",
            r"layer own: received \(12, 3, 5, 5\) for a batch of 12 examples, read as 'hnwu', accepted: 12 along n",
        ),
        ({"conv": "nuhw"}, "axes: received those of 'conv', accepted: of own"),
        (3, "axes: received 3, accepted: letters"),
    ):
        with pytest.raises(ValueError, match=message):
            audit(model, (x, labels()), "own", axes=axes)


def test_what_reads_a_tensor_tells_its_axes():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.own, self.second = nn.Conv1d(4, 5, 3), Opaque(), nn.Conv1d(5, 6, 3)
            self.out = nn.Linear(6, 3)

        def forward(self, x):
            return self.out(self.second(self.own(self.first(x) + 1)).mean(dim=2))

    torch.manual_seed(0)
    model, x = Functional(), torch.randn(N, 4, 9)
    check(audit(model, (x, labels()), "own"), torch.tanh(model.first(x) + 1).detach().transpose(1, 2))


class Frames(nn.Module):
    """Frames of a clip put beside examples, each by itself through a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.out = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return self.out(self.own(x.reshape(-1, 4)).reshape(*x.shape[:2], 6).mean(dim=1))


class Parts(nn.Module):
    """A layer that sees half of the examples."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.out = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = self.own(x[::2])
        return self.out(torch.cat([h, h])[: len(x)])


class Widths(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act, self.a, self.b = nn.ReLU(), nn.Linear(4, 6), nn.Linear(6, 5)
        self.out = nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.act(self.b(self.act(self.a(x)))))


class Forgotten(nn.Module):
    """A recurrent layer that takes examples for time, since batch_first was forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.out = nn.LSTM(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.own(x)[0].mean(dim=1))


class OneSequence(nn.Module):
    """A recurrent layer that is given examples as if they were the positions of one sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.own, self.out = nn.GRU(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.out(self.own(x)[0])


@pytest.mark.parametrize(
    ("model", "shape", "layer", "message"),
    [
        (OneSequence(), (4,), "own", r"layer own: received \(12, 5\), whose .* whether GRU was given one example"),
        (Frames(), (7, 4), "own", r"layer own: received \(84, 6\) for a batch of 12 examples"),
        (Parts(), (4,), "own", r"layer own: received \(6, 6\) for a batch of 12 examples"),
        (Widths(), (4,), "act", "layer act: received calls with 6 and 5 units in one forward pass, accepted"),
        (Forgotten(), (7, 4), "own", r"layer own: received \(12, 7, 5\) for a batch of 12 examples, read as 'pnu'"),
    ],
)
@pytest.mark.parametrize("targets", [labels(), torch.randn(N, 3)])
def test_rows_that_are_not_the_examples_are_refused(model, shape, layer, message, targets):
    with pytest.raises(ValueError, match=message):
        audit(model, (torch.randn(N, *shape), targets), layer)


class Tagger(nn.Module):
    """Tokens and places embedded, mixed position by position, and classified each, or all of a text together."""

    def __init__(self, together: bool = False, padding_idx: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.word, self.place = nn.Embedding(20, 6, padding_idx), nn.Embedding(30, 6)
        self.mix, self.out, self.together = nn.Sequential(nn.Linear(6, 5), nn.GELU()), nn.Linear(5, 3), together

    def forward(self, input_ids, attention_mask=None):
        h = self.mix(self.word(input_ids) + self.place(torch.arange(input_ids.shape[1])))
        real = (input_ids > 0)[..., None]
        return self.out((h * real).sum(dim=1) / real.sum(dim=1)) if self.together else self.out(h)


class Texts(torch.utils.data.Dataset):
    def __init__(self, width: int, tags: bool, mask: bool) -> None:
        rng = np.random.default_rng(0)
        self.lengths = rng.integers(2, 6, N)
        self.real = np.arange(width) < self.lengths[:, None]
        self.ids = torch.zeros(N, width, dtype=torch.long)
        self.ids[torch.tensor(self.real)] = torch.tensor(rng.integers(1, 20, self.real.sum()))
        self.tags = torch.where(torch.tensor(self.real), self.ids % 3, -100)
        self.targets, self.mask = (self.tags if tags else labels()), mask

    def __len__(self):
        return N

    def __getitem__(self, index):
        masked = {"attention_mask": torch.tensor(self.real[index]).long()} if self.mask else {}
        return {"input_ids": self.ids[index], **masked}, self.targets[index]


PADDED = {
    "attention_mask": (Tagger(together=True), {"mask": True, "tags": False}, {}),
    "-100": (Tagger(), {"mask": False, "tags": True}, {}),
    "padding_idx": (Tagger(True, padding_idx=0), {"mask": False, "tags": False}, {}),
    "mask=": (Tagger(together=True), {"mask": False, "tags": False}, "array"),
    "mask= says": (Tagger(together=True), {"mask": False, "tags": False}, "lengths"),
    "what mask=": (Tagger(padding_idx=0), {"mask": True, "tags": True}, "function"),
}


@pytest.mark.parametrize("width", [5, N, 15])
@pytest.mark.parametrize("kind", PADDED)
def test_padding_holds_nothing_however_far_texts_are_padded(kind, width):
    model, options, given = PADDED[kind]
    texts = Texts(width, **options)
    masks = {
        "array": {"mask": texts.real},
        "lengths": {"mask": texts.lengths},
        "function": {"mask": lambda inputs: (inputs["input_ids"] != 0).sum(dim=1)},
    }
    options = {"show": lambda item: "a text", "batch_size": 5}
    found = audit(model, texts, "mix", **options, **(masks[given] if given else {}))
    h = model.mix(model.word(texts.ids) + model.place(torch.arange(width))).detach()
    check(found, h, texts.real)
    assert sum(kind in note for note in found.notes) == 1
    everything = audit(model, texts, "mix", mask=False, **options)
    check(everything, h)
    assert any("mask=False" in note for note in everything.notes)


def test_padding_may_hold_what_is_no_number():
    texts = Texts(8, tags=False, mask=True)
    model = Tagger(together=True)
    with torch.no_grad():
        model.word.weight[0] = torch.nan
    model.forward = lambda input_ids, attention_mask: model.out(
        torch.nan_to_num(model.mix(model.word(input_ids))).mean(dim=1)
    )
    h = model.mix(model.word(texts.ids)).detach()
    check(audit(model, texts, "mix", show=lambda item: ""), h, texts.real)
    with pytest.raises(ValueError, match="NaN or infinite activations of example 0"):
        audit(model, texts, "mix", show=lambda item: "", mask=False)


@pytest.mark.parametrize("mask", [np.zeros((N, 5), dtype=bool), np.zeros(N, dtype=int)])
def test_a_mask_in_which_nothing_counts_is_refused(mask):
    model = nn.Sequential(nn.Linear(4, 3), nn.Flatten(), nn.Linear(15, 3))
    with pytest.raises(ValueError, match="mask: received one in which no position counts"):
        audit(model, (torch.randn(N, 5, 4), labels()), "0", mask=mask)


def test_without_a_mask_a_note_says_that_all_positions_count():
    found = audit(Tagger(together=True), Texts(8, tags=False, mask=False), "mix", show=lambda item: "")
    assert any("All positions count: nothing says which of them are padding" in note for note in found.notes)
    assert not any("positions" in note for note in audit(Tagger(True), Texts(8, False, False), show=str).notes)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (
            np.ones((N, 3), bool) * np.array([1, 1, 0], bool),
            r"layer mix: received 8 positions and a mask of 3, accepted",
        ),
        (np.ones((N, 9), bool), r"layer mix: received 8 positions and a mask of 9, accepted"),
        (np.arange(N) + 9, r"layer mix: received 8 positions and a mask of 20"),
        (np.ones((N + 1, 8)), r"mask: received float64 of shape \(13, 8\), accepted: ones and zeros of shape \(12, "),
        (np.full((N, 8), 0.5), "mask: received other numbers than 0 and 1"),
        (lambda inputs: torch.ones(3, 8), r"mask: received float32 of shape \(3, 8\)"),
    ],
)
def test_a_mask_of_other_positions_is_refused(mask, message):
    texts = Texts(8, tags=False, mask=False)
    with pytest.raises(ValueError, match=message):
        audit(Tagger(together=True), texts, "mix", mask=mask, show=lambda item: "")


class Siamese(nn.Module):
    """Two texts through one tower, and their difference classified."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.word, self.mix, self.out = nn.Embedding(20, 6), nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, input_ids, attention_mask, others):
        return self.out(self.mix(self.word(input_ids)).mean(dim=1) - self.mix(self.word(others)).mean(dim=1))


class Couples(Texts):
    def __getitem__(self, index):
        inputs, target = super().__getitem__(index)
        return inputs | {"others": self.ids[(index + 1) % N]}, target


def test_two_sequences_need_a_mask_for_both():
    texts, model = Couples(8, tags=False, mask=True), Siamese()
    with pytest.raises(ValueError, match="mask: received attention_mask for mix, which is called for more than one"):
        audit(model, texts, "mix", show=lambda item: "")
    both = np.hstack([texts.real, np.roll(texts.real, -1, axis=0)])
    h = [model.mix(model.word(ids)).detach() for ids in (texts.ids, texts.ids.roll(-1, 0))]
    check(audit(model, texts, "mix", mask=both, show=lambda item: ""), torch.cat(h, dim=1), both)


def test_the_mask_of_an_encoder_is_none_of_the_decoder():
    class Both(Texts):
        def __getitem__(self, index):
            inputs, target = super().__getitem__(index)
            return inputs | {"decoder_input_ids": self.ids[index]}, target

    model = Tagger(together=True)
    model.forward = lambda input_ids, attention_mask, decoder_input_ids: Tagger.forward(model, decoder_input_ids)
    with pytest.raises(ValueError, match="mask: received attention_mask beside decoder_input_ids, accepted: mask= for"):
        audit(model, Both(8, tags=False, mask=True), "mix", show=lambda item: "")


def test_a_cell_is_called_for_each_position():
    class Cell(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.out = nn.LSTMCell(4, 5), nn.Linear(5, 3)

        def forward(self, x):
            state = None
            for t in range(x.shape[1]):
                state = self.cell(x[:, t], state)
            return self.out(state[0])

    torch.manual_seed(0)
    model, x, lengths = Cell(), torch.randn(N, 6, 4), np.arange(N) % 6 + 1
    state, h = None, []
    for t in range(6):
        state = model.cell(x[:, t], state)
        h.append(state[0].detach())
    check(audit(model, (x, labels()), "cell"), torch.stack(h, dim=1))
    check(audit(model, (x, labels()), "cell", mask=lengths), torch.stack(h, dim=1), np.arange(6) < lengths[:, None])


class Adapted(nn.Module):
    """A linear layer with a low-rank adapter beside it, as LoRA has."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base_layer, self.scale = base, 2.0
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x)) * self.scale


class Headed(nn.Module):
    """What follows the head, and layers of its shape that run after it or beside it."""

    def __init__(self, after) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.beside = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3)
        self.after = after

    def forward(self, x):
        z = torch.tanh(self.body(x))
        made = self.after(self.head(z))
        self.beside(z)
        return made


@pytest.mark.parametrize(
    ("after", "note"),
    [
        (lambda out: out, None),
        (lambda out: out.clone(), None),
        (lambda out: out.reshape(-1, 3, 1)[..., 0], None),
        (lambda out: out.T.contiguous().T, None),
        (lambda out: out.div_(0.3), "scale"),
        (lambda out: out * torch.tensor([1.0, -2.0, 3.0]) + 1, "scale"),
        (lambda out: out.log_softmax(dim=1), "softmax"),
        (lambda out: out.softmax(dim=1), "softmax"),
        (lambda out: 30 * torch.tanh(out / 3), "activation"),
        (lambda out: out.relu_(), "activation"),
    ],
)
def test_the_head_is_what_makes_the_output(after, note):
    torch.manual_seed(1)
    model, x = Headed(after), torch.randn(40, 4)
    found = audit(model, (x, labels(40)), loss="cross_entropy")
    assert found.layers == ["head.input"]
    assert found.carriers.head == "head"
    check(found, torch.tanh(model.body(x)).detach()[:, None])
    told = [n for n in found.notes if "last linear layer is head" in n]
    assert len(told) == (note is not None)
    assert all(note in n for n in told)


def test_a_head_may_have_one_position_as_an_axis():
    class Query(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.out = nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.out(self.body(x)[:, None])[:, 0]

    torch.manual_seed(0)
    model, x = Query(), torch.randn(N, 4)
    found = audit(model, (x, labels()))
    assert "head" in found.evidence
    check(found, model.body(x).detach()[:, None])
    np.testing.assert_allclose(
        found.table["gradient_norm"],
        (model(x).softmax(dim=1) - nn.functional.one_hot(labels(), 3)).norm(dim=1).detach()
        * model.body(x).norm(dim=1).detach(),
        rtol=1e-5,
    )


def test_another_output_leaves_the_head_open():
    torch.manual_seed(1)
    model, given = Headed(lambda out: out + torch.sin(9 * out)), (torch.randn(40, 4), labels(40))
    with pytest.raises(
        ValueError, match="head: received a Headed whose output none .* accepted: head= one of head, beside"
    ):
        audit(model, given)
    named = audit(model, given, head="head")
    assert named.layers == ["head.input"]
    assert "head" in named.evidence
    assert any("not that of the head head" in note for note in named.notes)
    without = audit(model, given, "body")
    assert "head" not in without.evidence
    assert any("are left out" in note for note in without.notes)
    assert "head" not in audit(Headed(lambda out: out), given, "body", head=False).evidence
    for head, message in (
        ("nothing", "head: received 'nothing', accepted: body, head, beside, or head=False"),
        ("body", r"head: received 'body' with an output of shape \(40, 6\), accepted: one of the network's shape"),
        (False, "layer: received none with head=False"),
        (3, "head: received 3, accepted: the name of a module"),
    ):
        with pytest.raises(ValueError, match=message):
            audit(model, given, head=head)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_adapters_are_seen_through_in_any_precision(dtype):
    torch.manual_seed(0)
    x = torch.randn(40, 4, dtype=dtype)
    plain = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    model = nn.Sequential(plain[0], plain[1], Adapted(plain[2])).to(dtype)
    found = audit(model, (x, labels(40)), show=lambda item: "")
    assert found.layers == ["2.input"]
    check(found, model[:2](x).detach().double()[:, None])


def test_adapters_are_seen_through():
    torch.manual_seed(0)
    x = torch.randn(40, 4)
    plain = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))
    model = nn.Sequential(plain[0], plain[1], Adapted(plain[2]))
    found = audit(model, (x, labels(40)))
    assert found.layers == ["2.input"]
    check(found, plain[:2](x).detach()[:, None])
    merged = copy.deepcopy(plain)
    merged[2].weight.data += 2 * model[2].up.weight.data @ model[2].down.weight.data
    expected = audit(merged, (x, labels(40))).table
    for name in expected.select_dtypes("number"):
        np.testing.assert_allclose(found.table[name], expected[name], rtol=1e-3, atol=1e-5, err_msg=name)


class Views(nn.Module):
    """The mean of one head's answers to two views of an input."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.out = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        return (self.out(torch.tanh(self.body(x))) + self.out(torch.tanh(self.body(-x) + 1))) / 2


def test_a_head_that_is_called_twice_is_looked_at_in_both():
    torch.manual_seed(0)
    model, x = Views(), torch.randn(40, 4)
    found = audit(model, (x, labels(40)))
    views = torch.tanh(model.body(x)), torch.tanh(model.body(-x) + 1)
    assert found.layers == ["out.input"]
    check(found, torch.stack(views, dim=1).detach())
    assert "head" not in found.evidence
    assert any("No linear layer alone makes the output" in note for note in found.notes)
    assert any("more than once" in note for note in found.notes)
    with pytest.raises(ValueError, match="head: received 'out', which is called 2 times"):
        audit(model, (x, labels(40)), head="out")


class LastToken(nn.Module):
    """As language models classify: every position has logits, and those of the last token are taken."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.word, self.rnn, self.score = nn.Embedding(20, 6), nn.GRU(6, 5, batch_first=True), nn.Linear(5, 3)

    def forward(self, ids):
        return self.score(self.rnn(self.word(ids))[0])[torch.arange(len(ids)), (ids > 0).sum(dim=1) - 1]


def test_a_head_at_one_position_reads_that_position():
    texts = Texts(9, tags=False, mask=False)
    model = LastToken()
    found = audit(model, (texts.ids, labels()), batch_size=5)
    z = model.rnn(model.word(texts.ids))[0].detach()[np.arange(N), texts.lengths - 1]
    assert found.layers == ["score.input"]
    check(found, z[:, None])
    same = nn.Sequential(nn.Linear(5, 3))
    same[0].load_state_dict(model.score.state_dict())
    expected = audit(same, (z, labels())).table
    for name in ("ridge_leave_one_out", "gradient_dimensionality", "gradient_norm"):
        np.testing.assert_allclose(found.table[name], expected[name], rtol=1e-4, atol=1e-5)
    flagged = found.detector(model, texts.ids.repeat(3, 1))(texts.ids)
    assert (flagged["prediction"] == found.table["prediction"]).all()


@pytest.mark.parametrize("wrapper", ["DataParallel", "compiled", "compiled inside"])
def test_wrappers_are_seen_through(wrapper):
    torch.manual_seed(0)
    x = torch.randn(40, 4)
    plain = nn.Sequential(nn.Sequential(nn.Linear(4, 6), nn.Tanh()), nn.Linear(6, 3))
    expected = audit(plain, (x, labels(40)), "0.0", checkpoints=[plain.state_dict()])
    model = copy.deepcopy(plain)
    if wrapper == "DataParallel":
        model = nn.DataParallel(model)
    elif wrapper == "compiled":
        model = torch.compile(model, backend="eager")
    else:
        model[0].compile(backend="eager")
        model(x)
    found = audit(model, (x, labels(40)), "0.0", checkpoints=[model.state_dict()])
    np.testing.assert_array_equal(found.table[list(expected.table)], expected.table)
    assert found.carriers.head == "1"
    assert len(found.detector(model, torch.randn(40, 4))(x)) == 40
    if wrapper != "compiled inside":
        prefix = "module." if wrapper == "DataParallel" else "_orig_mod."
        assert audit(model, (x, labels(40)), f"{prefix}0.0").layers == ["0.0"]
        assert unwrapped(model) is not model


@pytest.mark.filterwarnings("ignore")
def test_scripted_models_are_refused_by_name():
    model, x = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval(), torch.randn(N, 4)
    scripted = torch.jit.script(model)
    for given in (scripted, torch.jit.trace(model, x), torch.jit.freeze(scripted)):
        for layer in (None, "0"):
            with pytest.raises(ValueError, match="model: received a TorchScript module .* accepted: the torch module"):
                audit(given, (x, labels()), layer)
    around = nn.Sequential(scripted, nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"layer: received '0.0' of a TorchScript module"):
        audit(around, (x, labels()), "0.0")
    check(audit(around, (x, labels())), model(x).detach()[:, None])


def test_quantised_models_have_their_layers_looked_at():
    torch.manual_seed(0)
    x = torch.randn(N, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(
            nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).eval(), {nn.Linear}, dtype=torch.qint8
        )
        for given in (x, x.double().numpy()):
            found = audit(model, (given, labels()))
            assert found.layers == ["2.input"]
            check(found, model[:2](x)[:, None])
            check(audit(model, (given, labels()), "0"), model[0](x)[:, None])


def test_quantised_activations_are_taken_as_the_numbers_they_stand_for():
    class Quantised(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.out = nn.Linear(4, 6), nn.Linear(6, 3)
            self.grid = Grid()

        def forward(self, x):
            return self.out(self.grid(self.first(x)).dequantize())

    class Grid(nn.Module):
        def forward(self, x):
            return torch.quantize_per_tensor(x, 0.1, 0, torch.qint32)

    torch.manual_seed(0)
    x = torch.randn(N, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Quantised()
        check(audit(model, (x, labels()), "grid"), (model.first(x) / 0.1).round().detach()[:, None] * 0.1)


def test_how_an_output_follows_from_a_layer():
    made = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    other = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    assert how_made(made, made) == "equal"
    assert how_made(made + 0.01 * other, made) is None
    assert how_made(other, made) is None
    assert how_made(made[:2] * 3, made[:2]) is None  # two rows fit any scale and shift
    assert how_made(-made.abs(), made) is None


class SequenceFirst(nn.Module):
    """A recurrent classifier of sequences first that answers at the last step, before or after its head."""

    def __init__(self, before: bool):
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.head, self.before = nn.LSTM(4, 5), nn.Linear(5, 3), before

    def forward(self, x):
        out, _ = self.lstm(x.movedim(1, 0))
        return self.head(out[-1]) if self.before else self.head(out)[-1]


@pytest.mark.parametrize("n_steps", [3, 20])
def test_the_head_is_found_where_sequences_come_first(n_steps):
    x = torch.randn(20, n_steps, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(20) % 3
    before, after = (audit(SequenceFirst(kind), (x, y)) for kind in (True, False))
    assert before.layers == after.layers == ["head.input"]
    pd.testing.assert_frame_equal(before.table, after.table, atol=1e-5)
    with torch.no_grad():
        vectors = SequenceFirst(True).lstm(x.movedim(1, 0))[0][-1].double().numpy()
    leverage = np.diag(vectors @ np.linalg.pinv(vectors))
    np.testing.assert_allclose(after.table["maximal_dimensionality"], leverage, atol=1e-4)


class Tied(nn.Module):
    def __init__(self, module: bool):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.middle = nn.Embedding(6, 4), nn.Linear(4, 4)
        self.out = nn.Linear(4, 6, bias=False) if module else None
        if self.out is not None:
            self.out.weight = self.embedding.weight

    def forward(self, ids):
        h = self.middle(self.embedding(ids).mean(1)).tanh()
        return self.out(h) if self.out is not None else nn.functional.linear(h, self.embedding.weight)


def test_a_head_that_is_a_function_is_noted_and_as_a_module_it_is_found():
    ids, y = torch.arange(60).reshape(20, 3) % 6, torch.arange(20) % 6
    function = audit(Tied(False), (ids, y))
    assert "head" not in function.evidence
    assert any("F.linear, a function, is none" in note for note in function.notes)
    assert "head" in audit(Tied(True), (ids, y)).evidence
