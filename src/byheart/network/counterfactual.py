"""Ground truth: many models, each trained without some of the examples, and what they know of those they never saw.

One model = one file in the store, written as it is finished, so that the same call goes on where it stopped.

Source: Feldman and Zhang 2020, "What neural networks memorize and why".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import InitVar, dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from byheart import jobs
from byheart.arrays import as_array, as_labels
from byheart.jobs import Job, Report
from byheart.memorization import Memorization, balanced_subsets, influence, memorization, smoothed_memorization
from byheart.network.copies import groups_of_copies
from byheart.network.fit import Fit, margins_of, recorded
from byheart.network.inputs import as_inputs, is_pair
from byheart.network.refusals import refuse_inverted, refuse_no_margins
from byheart.records import Record, Records, digest

_LARGEST = 0.1  # share of the examples that may be in a training set together or not at all
FitFunction = Callable[[np.ndarray, int], Any]


class CounterfactualError(RuntimeError):
    """Some models could not be trained; all others are finished and kept.

    Attributes:
        failures: What was raised, by number of the model.
        finished: The other models, None if there are none.
    """

    def __init__(self, failures: dict[int, Exception], finished: Counterfactual | None = None) -> None:
        number, error = min(failures.items())
        words = " ".join(str(error).split()) or "no message"
        super().__init__(f"{len(failures)} model(s) failed; the first, {number}: {type(error).__name__}: {words}")
        self.failures, self.finished = failures, finished


@dataclass(frozen=True, eq=False)
class Counterfactual:
    """Models that were trained without some of the examples.

    Attributes:
        train_mask: Which model was trained on which example.
        margins: Of each model on each example, above 0 where its answer is right; or what ``fit`` returned.

    Args:
        computed: Whether mask and margins were made by ``counterfactual``, which looks at what ``fit`` returns itself;
            else they are looked at here.

    Raises:
        ValueError: If the mask is no matrix of bools, or inverted by the margins; or these are not finite and of its
            shape, or show that they are probabilities, their logarithms or losses (``byheart.network.refusals``).
    """

    train_mask: Bool[np.ndarray, "n_models n_examples"]
    margins: Float[np.ndarray, "n_models n_examples"]
    computed: InitVar[bool] = False

    def __post_init__(self, computed: bool) -> None:
        mask, margins = as_array(self.train_mask, "train_mask"), as_array(self.margins, "margins")
        object.__setattr__(self, "train_mask", mask)
        object.__setattr__(self, "margins", margins)
        if mask.ndim != 2 or mask.dtype != bool or not mask.size:
            raise ValueError(
                f"train_mask: received {mask.dtype} of shape {mask.shape}, accepted: bools, (n_models, n_examples)"
            )
        if margins.shape != mask.shape or margins.dtype.kind not in "biuf" or not np.isfinite(margins).all():
            wrong = f"shape {margins.shape}" if margins.shape != mask.shape else "numbers that are not finite"
            raise ValueError(f"margins: received {wrong}, accepted: finite, of the mask's shape {mask.shape}")
        if not computed:
            refuse_no_margins(margins.astype(np.float64), mask, "margins")
            refuse_inverted(margins.astype(np.float64), mask)

    def __repr__(self) -> str:
        """Return how many models there are, how often they answer right, and how many examples are memorized."""
        return "Counterfactual: " + "; ".join(f"{name} {value}" for name, value in self._numbers().items())

    def _repr_html_(self) -> str:
        """Return the same as a table for notebooks."""
        rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in self._numbers().items())
        return f"<table>{rows}</table>"

    def _numbers(self) -> dict[str, str]:
        right, inside = self.margins > 0, self.train_mask
        shares = {"right on examples trained on": right[inside], "on others": right[~inside]}
        try:
            memorized = self.memorization.headline()
        except ValueError as error:  # too few models
            memorized = f"unknown ({error})"
        return {
            "models": f"{len(inside):,}",
            "examples": f"{inside.shape[1]:,}, {inside.mean():.0%} of them in each training set",
            **{name: f"{found.mean():.1%}" if found.size else "none" for name, found in shares.items()},
            "memorization": memorized,
        }

    @cached_property
    def memorization(self) -> Memorization:
        """Feldman and Zhang's memorization of every example, of right answers, with standard errors.

        Raises:
            ValueError: If an example is in, or left out of, fewer than two training sets.
        """
        n_in, n_models = self.train_mask.sum(axis=0), len(self.train_mask)
        few = np.minimum(n_in, n_models - n_in)
        if few.min() < 2:
            example = int(few.argmin())
            raise ValueError(
                f"n_models: received {n_models}, of which {n_in[example]} were trained on example {example}, accepted:"
                " enough that two or more were and two or more were not; a single run is for"
                " bh.audit(held_out=)"
            )
        return memorization((self.margins > 0).astype(float), self.train_mask)

    @cached_property
    def smoothed(self) -> Memorization:
        """The same from margins, which takes fewer models (see ``smoothed_memorization``)."""
        return smoothed_memorization(self.margins, self.train_mask)

    def influence(
        self, scores: Float[np.ndarray, "n_models n_targets"] | None = None
    ) -> tuple[Float64[np.ndarray, "n_targets n_examples"], Float64[np.ndarray, "n_targets n_examples"]]:
        """Return how much each example helps each target to be answered, with standard errors.

        Args:
            scores: Of each model on each target; default right answers on the examples themselves.
        """
        return influence((self.margins > 0).astype(float) if scores is None else scores, self.train_mask)


def counterfactual(
    fit: FitFunction,
    dataset: Any,
    n_models: int = 48,
    fraction: float = 0.6,
    *,
    store: str | Path,
    groups: Any = None,
    seed: int = 0,
    n_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Counterfactual:
    """Train models on balanced random subsets of a dataset, and find what each knows of the examples it never saw.

    Args:
        fit: Trains on the examples with these indices, from this seed; returns a torch classifier, or a score per
            example of the whole dataset that is above 0 where the answer is right. ``Fit`` is one for a plain module.
        dataset: What indices refer to, and what classifiers are tried on: a ``Dataset``, a ``DataLoader``, a
            ``datasets.Dataset``, or a pair of arrays; without augmentation.
        n_models: How many; ``Memorization.headline`` says what they tell. One is enough for ``audit(held_out=...)``,
            memorization needs enough to have each example in and out of two training sets.
        fraction: Share of the examples that each is trained on.
        store: Directory of what each model knows of each example, made if missing; models that are there already are
            not trained again. Another dataset, target, subset, seed or setting of a ``Fit`` is noticed; changed inputs
            or a changed function are not, and need another directory.
        groups: A number for each example; those of one number are in a training set together or not at all. Default the
            copies among the inputs (``byheart.network.copies``), each of which would give the others away; False for
            none, as in the paper. Data that are no batches of inputs and targets have none.
        seed: Of the subsets; model k is fitted with seed + k.
        n_workers: Processes, one core each; default all cores.
        executor: Where to train instead: any ``concurrent.futures.Executor``; it is left running.
        on_progress: Called a few times a second with the number of models done, and of all.

    Raises:
        ValueError: If a number lies outside its range, or the store has models of another call.
        OSError: If the store cannot be written.
        CounterfactualError: After all other models are finished, if ``fit`` raised for some.
        KeyboardInterrupt: On Ctrl-C, at once; finished models are kept.

    References:
        Feldman and Zhang 2020, section 3 (the subset estimator, with fraction 0.7).
    """
    if hasattr(dataset, "batch_sampler"):  # a loader, whose running workers could not be sent to other processes
        dataset = as_inputs(dataset).loader
    _, group = np.unique(_groups(dataset, groups), return_inverse=True)
    largest = int(np.bincount(group).max())
    if largest > max(_LARGEST * len(group), 2):
        raise ValueError(
            f"groups: received one of {largest} of {len(group)} examples, accepted: groups of at most a tenth of them,"
            " so that training sets have about the same size; groups=False takes each example by itself"
        )
    mask = balanced_subsets(int(group.max()) + 1, n_models, fraction, seed, fewest=0)[:, group]
    records = Records(store)
    common = {"targets": _digest_targets(dataset), "settings of Fit": fit.settings if isinstance(fit, Fit) else ""}
    todo = [
        Job(
            f"model-{k:04d}",
            _fit_one,
            (fit, dataset, np.flatnonzero(mask[k]), seed + k),
            identity={"subset": digest(mask[k]), "seed": seed + k, **common},
        )
        for k in range(n_models)
    ]

    def report(p: jobs.Progress) -> None:
        assert on_progress is not None
        on_progress(p.n_finished, p.n_jobs)

    failures = jobs.run(
        todo, records, n_workers=n_workers, executor=executor, on_progress=None if on_progress is None else report
    )
    failed = {todo.index(failure.job): failure.error for failure in failures}
    done = [k for k in range(n_models) if k not in failed]
    margins = [records.read(todo[k].key).arrays["margins"] for k in done]
    result = Counterfactual(mask[done], np.stack(margins), computed=True) if done else None
    if result is None or failed:
        raise CounterfactualError(failed, result)
    return result


def _fit_one(
    fit: FitFunction, dataset: Any, indices: np.ndarray, seed: int, *, n_threads: int | None, report: Report
) -> Record:
    """Train one model in a worker, on so many threads, and return its margins."""
    with recorded(n_threads) as header:
        result = fit(indices, seed)
        if result is None:
            raise ValueError("fit: received a function that returns nothing, accepted: one that returns its model")
        is_model = hasattr(result, "named_modules")
        margins = margins_of(result, dataset) if is_model else as_array(result, "fit").astype(np.float64)
    n_examples = _size(dataset)
    if margins.shape != (n_examples,):
        raise ValueError(
            f"fit: received a result of shape {margins.shape}, accepted: a torch module, or one score per example,"
            f" ({n_examples},)"
        )
    if not np.isfinite(margins).all():
        raise ValueError(f"fit: received scores that are not finite (example {int(np.isfinite(margins).argmin())})")
    if not is_model:
        refuse_no_margins(margins[None], np.isin(np.arange(n_examples), indices)[None], "fit")
    return Record({"margins": margins}, header)


def _digest_targets(dataset: Any) -> str:
    """Digest of all targets, one by one, so that batches do not matter; of a dataset that has none, nothing."""
    if is_pair(dataset):
        values, words = as_labels(dataset[1], "targets")
        return digest(*map(np.asarray, values if words else as_array(dataset[1], "targets")), *_bytes_of(words or ()))
    try:
        data = as_inputs(dataset)
        targets = [np.asarray(target) for batch in data for target in batch.targets.cpu()]
        words = data.label_names if data.order_assumed else ()
        return digest(*(targets[i] for i in data.in_order(np.arange(len(targets)))), *_bytes_of(words or ()))
    except (ValueError, TypeError):
        return ""


def _groups(dataset: Any, given: Any) -> Int64[np.ndarray, " n_examples"]:
    """A number for each example; of copies the same one."""
    n_examples = _size(dataset)
    if given is not None and given is not False:
        groups = as_array(given, "groups")
        if groups.shape != (n_examples,) or groups.dtype.kind not in "iu":
            raise ValueError(
                f"groups: received {groups.dtype} of shape {groups.shape}, accepted: a whole number for each example,"
                f" ({n_examples},)"
            )
        return groups
    if given is False:
        return np.arange(n_examples)
    try:
        return groups_of_copies(as_inputs(dataset))
    except (ValueError, TypeError) as error:  # a dataset that only ``fit`` understands
        words = " ".join(str(error).split())
        warnings.warn(f"copies were not looked for ({words}); groups=False says that none matter", stacklevel=3)
        return np.arange(n_examples)


def _bytes_of(words: Sequence[str]) -> list[np.ndarray]:
    return [np.frombuffer(word.encode(), np.uint8) for word in words]


def _size(dataset: Any) -> int:
    """Number of examples of a dataset, a loader's, or a pair of arrays."""
    if is_pair(dataset):
        return len(dataset[1])
    inner = dataset.dataset if hasattr(dataset, "batch_sampler") else dataset  # a DataLoader counts batches
    if not hasattr(inner, "__len__"):
        raise ValueError(f"dataset: received {type(dataset).__name__} without a length, accepted: a sized one")
    return len(inner)
