"""A user's data as batches that can be gone through again in the same order: arrays, a Dataset or a DataLoader."""

from __future__ import annotations

import dataclasses
import importlib.util
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
from jaxtyping import Int64, Shaped

from byheart.arrays import as_array, as_labels, whole_numbers
from byheart.datasets import Labelled
from byheart.network.columns import IGNORED, TARGETS, Columns, collate_rows, names_of_classes
from byheart.network.huggingface import names_of_outputs, of_next_token
from byheart.network.loaders import collates_by_default, draws, prepared, rebuilt

if TYPE_CHECKING:
    import torch

_BATCH_SIZE = 512


def require_torch() -> None:
    """Raise an error that says how to install PyTorch, if it is missing."""
    if importlib.util.find_spec("torch") is None:
        raise ModuleNotFoundError('the audit needs PyTorch: pip install "byheart[audit]"')


@dataclass(frozen=True)
class Batch:
    """Some examples: what the model is called with, and what it should answer."""

    first: int
    """How many examples came before."""
    indices: Int64[np.ndarray, " n_examples"]
    """Of these in the dataset."""
    inputs: Any
    targets: torch.Tensor

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.targets)


@dataclass
class Inputs:
    """The batches of a dataset, in its own order, or in that of a sampler of batches.

    Attributes:
        loader: Draws the batches; its ``dataset`` is the user's own.
        notes: What a reader of the results must know of the data.
        label_names: Of the classes, where the data say them; labels that are words are numbered by them.
        order: Indices of the examples as they are drawn, if that is not the dataset's order.
        order_assumed: Whether the order of the classes is not known to be that of the outputs: labels are words, or a
            dataset names them in another order than the model.
        columns: What the model takes of batches that are dicts.
        labelled: Whether batches must have targets.
        feature_names: Of the columns of inputs that are tables, by the name of the input, "" if there is one only.
        parts_note: The note on batches of three parts or more, which belongs to errors, too.
    """

    loader: Any
    notes: list[str] = field(default_factory=list)
    label_names: tuple[str, ...] | None = None
    order: Int64[np.ndarray, " n_examples"] | None = None
    order_assumed: bool = False
    columns: Columns = field(default_factory=Columns)
    labelled: bool = True
    feature_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    parts_note: str = ""

    @property
    def n_examples(self) -> int:
        """How many examples there are."""
        return len(self.loader.dataset) if self.order is None else len(self.order)

    def items(self, indices: Int64[np.ndarray, " n_chosen"]) -> list[Any]:
        """Return the inputs of some examples, as the dataset has them."""
        items = []
        for item in self._drawn(indices):
            if isinstance(item, Mapping):
                items.append({name: value for name, value in item.items() if name not in TARGETS})
            else:
                items.append(_input_of(item) if isinstance(item, (tuple, list)) and len(item) > 1 else item)
        return items

    def take(self, indices: Int64[np.ndarray, " n_chosen"]) -> Inputs:
        """Return the batches of these examples, in this order."""
        from torch.utils.data import DataLoader, IterableDataset

        loader, order = self.loader, np.asarray(indices)
        if isinstance(loader.dataset, IterableDataset):
            chosen = DataLoader(self._drawn(order), loader.batch_size, collate_fn=loader.collate_fn)
        else:  # what a sampler of batches puts together may be all that fits together
            chosen = rebuilt(
                loader, sampler=order.tolist(), batch_size=loader.batch_size or 1, persistent_workers=False
            )
        return dataclasses.replace(self, loader=chosen, notes=[], order=order)

    def in_order(self, values: Shaped[np.ndarray, "n_examples ..."]) -> Shaped[np.ndarray, "n_examples ..."]:
        """Return what was found of the examples as they are drawn in the order of the dataset."""
        return values if self.order is None else values[np.argsort(self.order)]

    def _drawn(self, indices: Int64[np.ndarray, " n_chosen"]) -> list[Any]:
        """The dataset's items, which workers fetch where the data are opened in workers."""
        from torch.utils.data import IterableDataset

        if isinstance(self.loader.dataset, IterableDataset):
            wanted = set(indices.tolist())
            found = {i: item for i, item in enumerate(self.loader.dataset) if i in wanted}
            return [found[i] for i in indices.tolist()]
        if not self.loader.num_workers:
            return [self.loader.dataset[i] for i in indices.tolist()]
        once = {"sampler": indices.tolist(), "batch_size": _BATCH_SIZE, "collate_fn": list, "persistent_workers": False}
        return [item for items in rebuilt(self.loader, **once) for item in items]

    def __iter__(self) -> Iterator[Batch]:
        """Go through the dataset once.

        Raises:
            ValueError: If a batch is no pair of inputs and targets, or there are more or fewer examples than the
                dataset says.
        """
        import torch

        n_examples, first = self.n_examples, 0
        words: set[str] = set()
        for item in self._batches():
            inputs, given = self._split(item)
            if self.label_names is None and are_words(given):
                words |= set(given)
                continue
            targets = torch.as_tensor(numbered(given, self.label_names)).cpu()
            stop = first + (len(targets) if targets.ndim else 1)
            indices = np.arange(first, stop) if self.order is None else self.order[first:stop]
            if not targets.ndim or stop > n_examples:
                received = "a batch with one target for all" if not targets.ndim else f"{stop} examples or more"
                raise ValueError(
                    f"dataset: received {received}, accepted: one target per example, of the {n_examples} that its"
                    " length says"
                )
            yield Batch(first, indices, inputs, targets)
            first = stop
        if words and not first:  # the classes are known only once all labels are
            self.label_names, self.order_assumed = tuple(sorted(words)), True
            self.notes.append(_of_words(self.label_names))
            yield from self
        elif first != n_examples:
            raise ValueError(f"dataset: received {first} examples, accepted: the {n_examples} that its length says")

    def _batches(self) -> Iterator[Any]:
        """Yield what the loader does; rows that torch's default collation makes no batch of are named."""
        batches = iter(self.loader)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except RuntimeError as error:
                if "equal size" not in str(error) or not collates_by_default(self.loader):
                    raise
                raise ValueError(
                    "dataset: received rows of several lengths, accepted: rows of one length, as a DataLoader with"
                    " collate_fn=DataCollatorWithPadding(tokenizer), or a collate_fn of your own, makes them"
                ) from error
            yield batch

    def _split(self, item: Any) -> tuple[Any, Any]:
        """The inputs and the targets of a batch, which is a pair, several inputs and a target last, or a dict."""
        import torch

        if isinstance(item, Mapping):
            by_default = collates_by_default(self.loader)
            inputs, targets, notes = self.columns.split(item, by_default=by_default, labelled=self.labelled)
            self.notes += [note for note in notes if note not in self.notes]
            if targets is None:
                targets = torch.zeros(len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs))
            return inputs, targets
        if not isinstance(item, (tuple, list)) or len(item) < 2:
            raise ValueError(
                f"dataset: received items of type {type(item).__name__}, accepted: (input, target), where the input"
                " may be a dict of tensors; several inputs and a target last; or a dict with the targets as labels"
            )
        inputs, targets = _input_of(item), item[-1]
        self.parts_note = self.columns.by_position(len(item))
        self.notes += [self.parts_note] if self.parts_note and self.parts_note not in self.notes else []
        ids = inputs.get("input_ids") if isinstance(inputs, dict) else inputs
        if (
            ids is not None
            and torch.is_tensor(ids)
            and torch.is_tensor(targets)
            and ids.shape == targets.shape
            and ids.ndim == 2
        ):
            same = bool(((targets == ids) | (targets == IGNORED)).all())
            if same and self.columns.model is not None and of_next_token(self.columns.model, targets, {}):
                raise ValueError(
                    "dataset: received pairs whose targets are the tokens themselves, for a model that generates text,"
                    " accepted: dicts with labels, which are moved by one position, or targets moved already"
                )
        return inputs, targets


def are_words(targets: Any) -> bool:
    """Return whether these are texts, one per example."""
    return isinstance(targets, (tuple, list)) and all(isinstance(word, str) for word in targets)


def _input_of(item: Any) -> Any:
    """The input of (input, target), or the several inputs before the target; a mapping of inputs is a dict."""
    if len(item) > 2:
        return tuple(item[:-1])
    return dict(item[0]) if isinstance(item[0], Mapping) else item[0]


def numbered(targets: Any, label_names: Sequence[str] | None) -> np.ndarray | torch.Tensor:
    """Return targets as numbers, whole ones as int64; words by their place among the names of the classes.

    Raises:
        ValueError: If they are neither, or a word is not among the names.
    """
    import torch

    if torch.is_tensor(targets) and targets.layout == torch.strided and targets.is_floating_point():
        return targets.detach()
    values, words = as_labels(targets, "targets")
    if words is None:
        return values
    unknown = [word for word in words if word not in (label_names or ())]
    if unknown:
        raise ValueError(f"targets: received {unknown[0]!r}, accepted: {', '.join(label_names or ()) or 'numbers'}")
    places: np.ndarray = np.array([list(label_names or ()).index(word) for word in words])[values]
    return places


class _Pairs:
    """Inputs and targets, by row or batch; inputs are a tensor, a sparse matrix of scipy, or a dict of tensors."""

    def __init__(self, inputs: Any, targets: torch.Tensor) -> None:
        self.inputs, self.targets = inputs, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, torch.Tensor]:
        import torch

        if isinstance(self.inputs, dict):
            return {name: values[index] for name, values in self.inputs.items()}, self.targets[index]
        if scipy.sparse.issparse(self.inputs):
            return torch.as_tensor(self.inputs[[index]].toarray()[0]), self.targets[index]
        return self.inputs[index], self.targets[index]

    def __getitems__(self, indices: list[int]) -> tuple[Any, torch.Tensor]:
        """Return a batch, which is what a loader asks for: in memory of its own, since networks may write over it."""
        import torch

        if isinstance(self.inputs, dict):
            return {name: values[indices] for name, values in self.inputs.items()}, self.targets[indices]
        if scipy.sparse.issparse(self.inputs):
            return torch.as_tensor(self.inputs[indices].toarray()), self.targets[indices]
        return self.inputs[indices], self.targets[indices]


def _as_it_is(batch: Any) -> Any:
    """A batch that is one already; a function of a module, so that worker processes can have it."""
    return batch


def as_inputs(data: Any, batch_size: int = _BATCH_SIZE, model: Any = None, *, labelled: bool = True) -> Inputs:
    """Return the batches of a dataset.

    Args:
        data: A torch ``Dataset`` or ``DataLoader`` of (input, target), a list of such pairs, a pair of arrays (of
            anything that ``byheart.arrays`` takes; inputs may be a dict of arrays), or a ``Labelled``. Items and
            batches may be dicts (``byheart.network.columns``), such as those of a ``datasets.Dataset``. A loader that
            shuffles is gone through in the order of its dataset, one with a sampler of batches batch by batch as that
            puts them together; one that draws a part of the data, or some examples more often than others, is refused.
            Of an ``IterableDataset`` the length must be known, and every pass give the same.
        batch_size: Of data that do not come in batches.
        model: Which is called with them: of dicts it gets the columns that it takes.
        labelled: Whether dicts must have targets.

    Raises:
        ValueError: If this is none of them, is empty, or inputs and targets differ in number.
    """
    if not isinstance(batch_size, (int, np.integer)) or batch_size < 1:
        raise ValueError(f"batch_size: received {batch_size!r}, accepted: a whole number, at least 1")
    of_outputs = names_of_outputs(model)
    found = _inputs(data, batch_size, of_outputs)
    found.columns, found.labelled = Columns(model), labelled
    if found.label_names is None:
        found.label_names = of_outputs
    elif of_outputs is not None and found.label_names != of_outputs:
        found.order_assumed = True
        found.notes.append(
            f"The data name the classes {listed(found.label_names)}, and the model's id2label names its outputs"
            f" {listed(of_outputs)}: the numbers of the data are taken for those of the outputs."
        )
    return found


def _inputs(data: Any, batch_size: int, of_outputs: Sequence[str] | None) -> Inputs:
    """The batches of a dataset, of which columns are not yet chosen; words are numbered as the outputs are named."""
    import torch
    from torch.utils.data import DataLoader, IterableDataset

    label_names = None
    if isinstance(data, Labelled):
        label_names, data = data.label_names, (data.inputs, data.labels)
    if isinstance(data, DataLoader):
        return _of_loader(data)
    if isinstance(data, (tuple, list)) and data and all(isinstance(part, DataLoader) for part in data):
        raise ValueError(f"dataset: received {len(data)} DataLoaders, accepted: one")
    if isinstance(data, Mapping) and data and all(hasattr(part, "features") for part in data.values()):
        splits = ", ".join(f"[{name!r}]" for name in data)
        raise ValueError(
            f"dataset: received {type(data).__name__} with several splits, accepted: one of them, {splits}"
        )
    pair = is_pair(data)
    for method in ("train_dataloader", "get_train_dataloader"):  # Lightning's, and the Trainer's of Transformers
        if callable(getattr(data, method, None)):
            raise ValueError(f"dataset: received {type(data).__name__}, accepted: what its {method}() returns")
    if pair and isinstance(data, list) and all(isinstance(item, tuple) for item in data):
        raise ValueError(
            "dataset: received a list of two tuples, accepted: a tuple (inputs, targets) of arrays, or pairs of more"
            " examples"
        )
    if pair:
        names = _feature_names(data[0])
        data, words = _pairs(data[0], data[1], of_outputs)
        assumed = words is not None and of_outputs is None
        loader = _not_empty(DataLoader(data, batch_size, collate_fn=_as_it_is), data)
        notes = [_of_words(words)] if words is not None and assumed else []
        return Inputs(loader, notes, words or label_names, order_assumed=assumed, feature_names=names)
    is_dataset = hasattr(data, "__len__") and (hasattr(data, "__getitem__") or isinstance(data, IterableDataset))
    is_array = torch.is_tensor(data) or any(hasattr(data, name) for name in ("to_numpy", "__array__", "toarray"))
    if not is_dataset or is_array or isinstance(data, (str, bytes, Mapping)):
        raise ValueError(
            f"dataset: received {type(data).__name__}, accepted: a torch Dataset or DataLoader, or a pair of arrays"
            " (inputs, targets)"
        )
    return Inputs(
        _not_empty(DataLoader(data, batch_size, collate_fn=collate_rows), data), label_names=names_of_classes(data)
    )


def is_pair(data: Any) -> bool:
    """Whether data are inputs and targets, rather than a list of two rows."""
    return (
        isinstance(data, (tuple, list))
        and len(data) == 2
        and not (isinstance(data, list) and all(isinstance(row, Mapping) for row in data))
    )


def _pairs(inputs: Any, targets: Any, of_outputs: Sequence[str] | None) -> tuple[_Pairs, tuple[str, ...] | None]:
    """A dataset of inputs and targets, and the names of the classes if targets are words: the outputs', if known."""
    named = {f"inputs[{name!r}]": part for name, part in inputs.items()} if isinstance(inputs, Mapping) else {}
    check_indexes({**(named or {"inputs": inputs}), "targets": targets})
    if isinstance(inputs, Mapping):
        inputs = {str(name): tensor_of(values, f"inputs[{name!r}]") for name, values in inputs.items()}
        lengths = {len(values) for values in inputs.values()}
        if len(lengths) != 1:
            raise ValueError(f"inputs: received arrays of {sorted(lengths)} rows, accepted: as many rows in each")
        n_inputs = lengths.pop()
    else:
        inputs = scipy.sparse.csr_array(inputs) if scipy.sparse.issparse(inputs) else tensor_of(inputs, "inputs")
        if not inputs.ndim:
            raise ValueError("inputs: received a single number, accepted: one input per example")
        n_inputs = inputs.shape[0]
    values, words = as_labels(targets, "targets")
    if not values.ndim or n_inputs != len(values):
        received = f"{len(values)} targets" if values.ndim else "a single target"
        raise ValueError(f"dataset: received {n_inputs} inputs and {received}, accepted: one target per input")
    if words is not None and of_outputs is not None:
        values, words = np.asarray(numbered(targets, of_outputs)), tuple(of_outputs)
    return _Pairs(inputs, _shared(values)), words


def check_indexes(given: Mapping[str, Any]) -> None:
    """Refuse tables and columns whose indexes differ, since their rows are paired by position.

    What has no index, as an array has none, goes with any.

    Args:
        given: By the names that the caller calls them.

    Raises:
        ValueError: If two of them have other indexes, or the same in another order.
    """
    indexes = {name: getattr(values, "index", None) for name, values in given.items()}
    found: dict[str, Any] = {n: index for n, index in indexes.items() if hasattr(index, "equals")}  # not list.index
    first = next(iter(found), "")
    for name, index in found.items():
        if not found[first].equals(index):
            raise ValueError(
                f"{first}, {name}: received tables or columns with different indexes, accepted: the same index in the"
                " same order, or .to_numpy() of both to pair them by position"
            )


def _feature_names(inputs: Any) -> dict[str, tuple[str, ...]]:
    """The names of a table's columns, where they are words; those of a dict of tables by its own."""
    if isinstance(inputs, Mapping):
        return {str(name): names for name, part in inputs.items() for names in _feature_names(part).values()}
    names = getattr(inputs, "column_names", getattr(inputs, "columns", ()))  # Arrow's, and those of pandas and polars
    is_table = not callable(names) and len(names) > 0 and all(isinstance(name, str) for name in names)
    return {"": tuple(names)} if is_table else {}


def _of_words(names: Sequence[str]) -> str:
    return f"Labels are words: the network's outputs are taken to be in the order {listed(names)}."


def listed(names: Sequence[str]) -> str:
    """The first ten classes in words, with their numbers."""
    return ", ".join(f"{number} {name!r}" for number, name in enumerate(names[:10])) + (", ..." if names[10:] else "")


def _of_loader(loader: Any) -> Inputs:
    """The batches of a user's loader, in the order of its dataset if its batches do not say another."""
    from torch.utils.data import IterableDataset, RandomSampler, SequentialSampler

    loader = prepared(loader)
    dataset, sampler, notes = loader.dataset, loader.sampler, []
    label_names = names_of_classes(dataset)
    if isinstance(dataset, IterableDataset) and hasattr(dataset, "__len__") and loader.batch_size is not None:
        in_order = not loader.num_workers and not loader.drop_last  # each worker would give all of it
        return Inputs(_not_empty(loader if in_order else rebuilt(loader, num_workers=0), dataset))
    if (loader.batch_size is None and loader.batch_sampler is None) or not hasattr(dataset, "__len__"):
        raise ValueError("dataset: received a DataLoader without batches or order, accepted: one of a sized Dataset")
    _not_empty(loader, dataset)
    if loader.batch_size is None:
        batches = draws(loader.batch_sampler, dataset, "batch_sampler")
        order = np.array([index for batch in batches for index in batch])
        return Inputs(
            rebuilt(loader, batch_sampler=batches),
            label_names=label_names,
            order=None if (np.diff(order) == 1).all() else order,
        )
    known = type(sampler).__module__.split(".")[0] in ("torch", "accelerate")
    if known and isinstance(sampler, RandomSampler) and not sampler.replacement and len(sampler) == len(dataset):
        shuffles = True
    elif isinstance(sampler, SequentialSampler):
        shuffles = False
    else:
        shuffles = (np.diff(draws(sampler, dataset, "sampler")) != 1).any()
    if shuffles or loader.drop_last:
        notes.append("The loader shuffles or drops examples; they were taken in the order of its dataset.")
    if shuffles or loader.drop_last or loader.generator is not None or loader.persistent_workers:
        loader = rebuilt(loader)  # with workers of its own, since a training may be using the loader's
    return Inputs(loader, notes, label_names)


def inputs_only(data: Any, batch_size: int = _BATCH_SIZE, model: Any = None) -> Iterator[Any]:
    """Yield batches of inputs, of a dataset whose targets are not looked at, or of an array, tensor or dict of them."""
    import torch

    if isinstance(data, Mapping):
        values = {str(name): tensor_of(value, f"inputs[{name!r}]") for name, value in data.items()}
        lengths = {len(value) if value.ndim else 0 for value in values.values()}
        if len(lengths) != 1 or lengths == {0}:
            raise ValueError(f"inputs: received arrays of {sorted(lengths)} rows, accepted: as many rows in each")
        split = {name: value.split(batch_size) for name, value in values.items()}
        columns = Columns(model)
        for parts in zip(*split.values(), strict=True):
            yield columns.split(dict(zip(split, parts, strict=True)), by_default=False, labelled=False)[0]
        return

    if torch.is_tensor(data) or any(hasattr(data, name) for name in ("to_numpy", "__array__", "toarray")):
        tensor = tensor_of(data, "inputs")
        if not tensor.ndim or not len(tensor):
            raise ValueError(
                "inputs: received none, accepted: at least one, in a dataset or along an array's first axis"
            )
        yield from tensor.split(batch_size)
        return
    inputs = as_inputs(data, batch_size, model, labelled=False)
    if inputs.order is not None:
        raise ValueError("inputs: received a DataLoader in another order than its dataset's, accepted: the dataset")
    yield from (batch.inputs for batch in inputs)


def tensor_of(values: Any, name: str, *, detached: bool = True) -> torch.Tensor:
    """Return a dense tensor, without gradient unless asked, which shares memory where it can and is not written to.

    Raises:
        ValueError: If these are no numbers (see ``byheart.arrays.as_array``).
    """
    import torch

    if torch.is_tensor(values) and values.layout == torch.strided and not values.is_nested:
        return values.detach() if detached else values
    array = as_array(values, name)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:  # torch has few operations on these
        array = whole_numbers(array, name)
    return _shared(array)


def _shared(array: np.ndarray) -> torch.Tensor:
    """A tensor of an array's memory; nothing is written to it, so that it may be read-only."""
    import torch

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.as_tensor(array)


def _not_empty(loader: Any, dataset: Any) -> Any:
    if not len(dataset):
        raise ValueError("dataset: received no examples, accepted: at least one")
    return loader
