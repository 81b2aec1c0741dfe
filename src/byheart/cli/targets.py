"""What ``byheart audit`` is given: a function in a user's file, data that install like a package, or a table."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from byheart.datasets import Labelled, digits, fashion_mnist, mnist_5k
from byheart.network.audit import audit
from byheart.network.counterfactual import counterfactual
from byheart.network.export import require_pyarrow
from byheart.network.fit import Fit
from byheart.network.ids import ID
from byheart.network.inputs import require_torch
from byheart.network.log import TrainingLog
from byheart.own import as_it_was

BUILT_IN: Mapping[str, Callable[[], Labelled]] = {
    "mnist": mnist_5k,
    "fashion-mnist": partial(fashion_mnist, 5_000),
    "digits": digits,
}


def checked_spec(spec: str) -> tuple[Path, str]:
    """Return the file and the function of ``FILE.py:function``.

    Raises:
        ValueError: If it is no such text, or there is no such file.
    """
    file, _, name = spec.rpartition(":")
    path = Path(file)
    if name.isidentifier() and path.suffix == ".py" and not path.is_file():
        raise ValueError(f"target: received {spec!r}, but there is no file {path}, accepted: FILE.py:function")
    if not name.isidentifier() or path.suffix != ".py":
        raise ValueError(f"target: received {spec!r}, accepted: FILE.py:function, {', '.join(BUILT_IN)}, or diff A B")
    return path, name


@contextmanager
def loaded(spec: str) -> Iterator[dict[str, Any]]:
    """Yield the arguments of ``audit`` that a function in a file gives.

    The file is run as Python runs one: what stands beside it can be imported, and it sees no options of ours in
    ``sys.argv``. Afterwards, what it and its neighbours defined is forgotten, so that another file may have neighbours
    of the same names.

    Args:
        spec: ``FILE.py:function``. The function takes nothing, and returns (model, dataset), or a dict of arguments of
            ``audit`` by name with "model" and "dataset" among them.

    Raises:
        ValueError: If the file or the function is missing, one of them raises, or the function returns neither.
    """
    path, name = checked_spec(spec)
    directory, before = path.resolve().parent, dict(sys.modules)
    try:
        found = _called(spec, path, name)
        if isinstance(found, tuple) and len(found) == 2:
            found = {"model": found[0], "dataset": found[1]}
        if not isinstance(found, dict) or not {"model", "dataset"} <= set(found):
            raise ValueError(
                f"target: received {type(found).__name__} from {spec!r}, accepted: (model, dataset), or a dict of the"
                ' arguments of bh.audit with "model" and "dataset"'
            )
        accepted = list(inspect.signature(audit).parameters)
        if unknown := [str(given) for given in found if given not in accepted]:
            raise ValueError(f"target: received {', '.join(unknown)} from {spec!r}, accepted: {', '.join(accepted)}")
        yield found
    finally:
        for module in [own for own in sys.modules if own not in before and _lies_in(sys.modules[own], directory)]:
            del sys.modules[module]
        if path.stem in before:
            sys.modules[path.stem] = before[path.stem]


def _called(spec: str, path: Path, name: str) -> Any:
    """What the function in the file returns; whatever either raises is an error that says where."""
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    directory, arguments = str(path.resolve().parent), sys.argv
    sys.modules[path.stem] = module  # what the file defines can then be sent to other processes
    sys.path.insert(0, directory)
    sys.argv = [str(path)]
    try:
        module_spec.loader.exec_module(module)
        function = getattr(module, name, None)
        if callable(function):
            return function()
    except (Exception, SystemExit) as error:
        words = " ".join(str(error).split())
        frames = traceback.extract_tb(error.__traceback__)
        where = [
            f"{Path(f.filename).name} line {f.lineno}" for f in frames if Path(f.filename).parent == Path(directory)
        ]
        raised = f"{type(error).__name__} in {where[-1]}" if where else type(error).__name__
        raise ValueError(f"target: received {spec!r}, which raised {raised}: {words}") from error
    finally:
        sys.argv = arguments
        if directory in sys.path:  # not the first of them if the file added its own
            sys.path.remove(directory)
    raise ValueError(f"target: received {spec!r} without such a function, accepted: one that {path} defines")


def _lies_in(module: Any, directory: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and directory in Path(file).resolve().parents


def built_in(
    name: str, seed: int, held_out: Path | None, on_progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Train a network of 512 hidden units on data that install like a package, and return the arguments of ``audit``.

    Args:
        name: One of ``BUILT_IN``.
        seed: Of the weights and the order of batches.
        held_out: Where to keep a held-out run, for which a second network is trained; None for no such run.
        on_progress: Called with the number of held-out runs done, and of all.

    References:
        C. Olah, comment in Henighan et al. 2023 (the network).
    """
    require_torch()
    from torch import nn

    data = BUILT_IN[name]()
    n_inputs = int(np.prod(data.inputs.shape[1:]))
    model = nn.Sequential(nn.Flatten(), nn.Linear(n_inputs, 512), nn.ReLU(), nn.Linear(512, len(data.label_names)))
    fit = Fit(model, data.inputs, data.labels)
    log = TrainingLog(len(data))
    found: dict[str, Any] = {"model": fit(np.arange(len(data)), seed, log), "dataset": data, "log": log}
    if held_out is not None:
        found["held_out"] = counterfactual(
            fit, (data.inputs, data.labels), 1, store=held_out, seed=seed + 1, on_progress=on_progress
        )
    return found


def read_table(path: str | Path) -> pd.DataFrame:
    """Return the table of an audit that ``byheart audit --table`` wrote; ids and names of classes are words.

    Raises:
        ValueError: If there is no such file, or it is no such table.
        ModuleNotFoundError: If it is Parquet and pyarrow is missing; the message says how to install it.
    """
    try:
        if str(path).endswith(".parquet"):
            require_pyarrow()
            return pd.read_parquet(path, engine="pyarrow").set_index("example")
        table = pd.read_csv(path, index_col="example", keep_default_na=False, na_values=[""])
        of_words = [str(name) for name in table if name == ID or str(name).endswith("_name")]
        if of_words:  # 007, NA and True are ids and classes
            as_text = pd.read_csv(path, usecols=of_words, dtype=str, keep_default_na=False)
            for name in of_words:
                table[name] = as_text[name].map(as_it_was).to_numpy()
        return table
    except (OSError, ValueError, KeyError) as error:
        words = " ".join(str(error).split())
        raise ValueError(
            f"table: received {path} ({words}), accepted: a table as byheart audit --table writes it"
        ) from error
