"""Ground truth: many models, each trained without some of the examples, and what they know of those they never saw.

One model = one file in the store, written as it is finished, so that the same call goes on where it stopped.

Source: Feldman and Zhang 2020, "What neural networks memorize and why".
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import loky
import numpy as np
from jaxtyping import Bool, Float, Float64
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from byheart.jobs import process_pool
from byheart.memorization import Memorization, balanced_subsets, influence, memorization, smoothed_memorization
from byheart.network.fit import Fit, margins_of
from byheart.network.inputs import as_inputs
from byheart.toy.runs import SUFFIX, digest, prepare_directory, write_atomically

_SECONDS_PER_REPORT = 0.25
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

    Raises:
        ValueError: If the mask is no matrix of bools, or the margins are not finite and of its shape.
    """

    train_mask: Bool[np.ndarray, "n_models n_examples"]
    margins: Float[np.ndarray, "n_models n_examples"]

    def __post_init__(self) -> None:
        mask, margins = np.asarray(self.train_mask), np.asarray(self.margins)
        if mask.ndim != 2 or mask.dtype != bool or not mask.size:
            raise ValueError(
                f"train_mask: received {mask.dtype} of shape {mask.shape}, accepted: bools, (n_models, n_examples)"
            )
        if margins.shape != mask.shape or margins.dtype.kind not in "biuf" or not np.isfinite(margins).all():
            wrong = f"shape {margins.shape}" if margins.shape != mask.shape else "numbers that are not finite"
            raise ValueError(f"margins: received {wrong}, accepted: finite, of the mask's shape {mask.shape}")

    @cached_property
    def memorization(self) -> Memorization:
        """Feldman and Zhang's memorization of every example, of right answers, with standard errors."""
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
    seed: int = 0,
    n_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Counterfactual:
    """Train models on balanced random subsets of a dataset, and find what each knows of the examples it never saw.

    Args:
        fit: Trains on the examples with these indices, from this seed; returns a torch classifier, or a score per
            example of the whole dataset that is above 0 where the answer is right. ``Fit`` is one for a plain module.
        dataset: What indices refer to, and what classifiers are tried on: a ``Dataset``, or a pair of arrays; without
            augmentation.
        n_models: How many; ``Memorization.headline`` says what they tell. One is enough for ``audit(held_out=...)``,
            memorization needs enough to have each example in and out of two training sets.
        fraction: Share of the examples that each is trained on.
        store: Directory of what each model knows of each example, made if missing; models that are there already are
            not trained again. Another dataset, target, subset, seed or setting of a ``Fit`` is noticed; changed inputs
            or a changed function are not, and need another directory.
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
    if n_workers is not None and n_workers < 1:
        raise ValueError(f"n_workers: received {n_workers}, accepted: at least 1")
    n_examples = _size(dataset)
    mask = balanced_subsets(n_examples, n_models, fraction, seed, fewest=0)
    store = prepare_directory(store)
    paths = [store / f"model-{k:04d}{SUFFIX}" for k in range(n_models)]
    common = f"{_digest_targets(dataset)}-{fit.settings if isinstance(fit, Fit) else ''}"
    subsets = [f"{digest(mask[k])}-{seed + k}-{common}" for k in range(n_models)]
    found = {k: _load(paths[k], subsets[k], n_examples) for k in range(n_models) if paths[k].exists()}
    todo = [k for k in range(n_models) if k not in found]
    size = min(n_workers or loky.cpu_count(), max(len(todo), 1))
    own = process_pool(size, _start_worker) if executor is None else None
    pool: Any = executor or own
    failures: dict[int, Exception] = {}
    futures: dict[Future[None], int] = {}
    try:
        for k in todo:
            job = (fit, dataset, np.flatnonzero(mask[k]), seed + k, paths[k], subsets[k])
            futures[pool.submit(_fit_one, *job)] = k
        waiting = set(futures)
        while waiting:
            if on_progress is not None:
                on_progress(n_models - len(waiting), n_models)
            ended, waiting = wait(waiting, timeout=_SECONDS_PER_REPORT, return_when=FIRST_COMPLETED)
            for future in ended:
                error = future.exception()
                if isinstance(error, OSError):  # the disk, not the model: the others would fail as well
                    raise error
                if isinstance(error, Exception):
                    failures[futures[future]] = error
    finally:
        for future in futures:
            future.cancel()
        if own is not None:
            own.shutdown(kill_workers=True)
    done = [k for k in range(n_models) if k not in failures]
    margins = [found[k] if k in found else _load(paths[k], subsets[k], n_examples) for k in done]
    result = Counterfactual(mask[done], np.stack(margins)) if done else None
    if result is None or failures:
        raise CounterfactualError(failures, result)
    if on_progress is not None:
        on_progress(n_models, n_models)
    return result


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    import torch

    torch.set_num_threads(1)


def _fit_one(fit: FitFunction, dataset: Any, indices: np.ndarray, seed: int, path: Path, subset: str) -> None:
    result = fit(indices, seed)
    margins = margins_of(result, dataset) if hasattr(result, "named_modules") else np.asarray(result, dtype=np.float64)
    n_examples = _size(dataset)
    if margins.shape != (n_examples,):
        raise ValueError(
            f"fit: received a result of shape {margins.shape}, accepted: a torch module, or one score per example,"
            f" ({n_examples},)"
        )
    if not np.isfinite(margins).all():
        raise ValueError(f"fit: received scores that are not finite (example {int(np.isfinite(margins).argmin())})")
    header = {"subset": subset, "margins": digest(margins)}
    write_atomically(path, save({"margins": margins}, metadata=header))


def _load(path: Path, subset: str, n_examples: int) -> np.ndarray:
    try:
        with safe_open(path, framework="numpy") as file:
            header, margins = file.metadata() or {}, file.get_tensor("margins")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"store: received {path} ({error}), accepted: a whole file as byheart wrote it") from error
    if header.get("subset") != subset or margins.shape != (n_examples,):
        raise ValueError(
            f"store: received {path} of other data, targets, fraction, seed or settings of Fit, accepted: an empty"
            " directory, or one of the same call"
        )
    if header.get("margins") != digest(margins):
        raise ValueError(f"store: received {path}, whose contents do not match its digest, accepted: a whole file")
    return np.asarray(margins)


def _digest_targets(dataset: Any) -> str:
    """Digest of all targets; of a dataset that has none, nothing."""
    if isinstance(dataset, (tuple, list)) and len(dataset) == 2:
        return digest(np.asarray(dataset[1]))
    try:
        targets = [np.asarray(batch.targets.cpu()) for batch in as_inputs(dataset)]
    except (ValueError, TypeError):
        return ""
    return digest(*targets)


def _size(dataset: Any) -> int:
    """Number of examples of a dataset, a loader's, or a pair of arrays."""
    if isinstance(dataset, (tuple, list)) and len(dataset) == 2:
        return len(dataset[1])
    inner = getattr(dataset, "dataset", dataset)
    if not hasattr(inner, "__len__"):
        raise ValueError(f"dataset: received {type(dataset).__name__} without a length, accepted: a sized one")
    return len(inner)
