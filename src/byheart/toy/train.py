"""Train one model on one dataset, finite or drawn afresh at every step, and measure it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from byheart.jobs import StoreError
from byheart.provenance import processor, provenance
from byheart.records import SUFFIX, digest, warn_of_version
from byheart.storage import exists, join, prepare_directory
from byheart.toy.config import TrainConfig, learning_rates
from byheart.toy.data import SparseExamples, sample_examples
from byheart.toy.kernels import KERNELS, AdamW, DivergedError, Kernel, Training, choose, kernel_for
from byheart.toy.measures import measure, norm
from byheart.toy.memory import check_memory
from byheart.toy.model import hidden_vectors, initial_weights, loss_scale
from byheart.toy.pace import Pace
from byheart.toy.runs import Run, load_run
from byheart.toy.saved import check_kernel
from byheart.toy.solutions import pentagon, polygon

# Independent random streams of a seed.
_DATA, _TEST, _INIT, _FRESH = range(4)
_LOGS_PER_RUN = 100

OnProgress = Callable[[int, float], None]


def train(
    config: TrainConfig,
    examples: Any = None,
    initial: tuple[Float[np.ndarray, "n_hidden n_features"], Float[np.ndarray, " n_features"]] | None = None,
    *,
    test_examples: Any = None,
    kernel: str | None = None,
    n_threads: int | None = None,
    out: str | Path | None = None,
    on_progress: OnProgress | None = None,
) -> Run:
    """Train the ReLU-output model as the config says, and measure it.

    Args:
        config: What to train.
        examples: Own training examples, one per row (scipy.sparse or array, used as they are), instead of drawn ones.
            Their shape must be (config.n_examples, config.n_features).
        initial: Own initial (W, b) instead of drawn ones.
        test_examples: Own test examples; without them, own training examples have no test loss.
        kernel: One of ``byheart.toy.kernels.KERNELS``; default "cpu", or "torch" for variants of the model.
        n_threads: Most threads that the kernel "cpu" may use, at least 1, and never more than there are cores; default
            all. It uses fewer where more do not pay; the run has the same bits whatever their number.
        out: Directory or URL of an object store in which the run is kept; if it is there already, it is loaded and not
            trained again, with a warning if another kernel or version of byheart made it.
        on_progress: Called several times a second with the steps done so far (of n_steps * n_inits) and the last
            train loss measured.

    Raises:
        ValueError: If the config and the arrays do not fit each other, an array is not finite, or threads are asked for
            that there cannot be, the run takes more bytes than there is memory, or a kernel is asked for by name and
            the run in ``out`` is of another one.
        DivergedError: If the loss becomes NaN or infinite.
        OSError: If the run cannot be written to ``out``; a ``byheart.jobs.StoreError`` if that turns out in the end.

    Warns:
        UserWarning: If own examples have values below 0, which no answer of the model can be.
    """
    asked, kernel = kernel, kernel_for(config.variant, kernel)
    chosen = choose(kernel, config.variant)
    check_threads(n_threads, kernel)
    own = None if examples is None else _own_examples(examples, config, "examples")
    own_test = None if test_examples is None else _own_examples(test_examples, config, "test_examples").expanded()
    if initial is not None:
        initial = _own_weights(initial, config)
    if own is not None and config.n_examples == "inf":
        raise ValueError('n_examples: received "inf" with own examples, accepted: their number')
    data_digest = _data_digest(own, own_test, initial)
    if out is not None:
        directory = prepare_directory(out)
        path = join(directory, config.run_id(data_digest) + SUFFIX)
        if exists(path):
            kept = load_run(path)
            check_kernel(kept.provenance, asked, kernel, path)
            warn_of_version(kept.provenance, directory)
            return kept

    check_memory(config)
    test = own_test if own_test is not None or own is not None else draw_test_examples(config)
    with threads_of(kernel, n_threads):
        run = _train(config, chosen, kernel, own or draw_examples(config), initial, test, data_digest, on_progress)
    if out is not None:
        try:
            run.save(out)
        except OSError as error:
            raise StoreError(str(error)) from error
    return run


def _train(
    config: TrainConfig,
    chosen: Kernel,
    kernel: str,
    drawn: SparseExamples,
    initial: tuple[np.ndarray, np.ndarray] | None,
    test: SparseExamples | None,
    data_digest: str,
    on_progress: OnProgress | None,
) -> Run:
    made_by, started = kernel_provenance(kernel), time.time()
    n_inits = 1 if initial is not None else config.n_inits
    best: _Trained | None = None
    for init in range(n_inits):
        start = initial or _initial_weights(config, drawn, init)
        trained = _Trained(config, chosen, kernel, start, drawn, init, on_progress)
        if best is None or trained.train_loss < best.train_loss:
            best = trained
    assert best is not None
    return Run(
        config=config,
        W=best.W,
        b=best.b,
        hidden=best.hidden,
        repeats=best.viewed.repeats,
        history=best.history,
        snapshots=best.snapshots,
        metrics={
            "train_loss": best.train_loss,
            **measure(config, chosen, best.W, best.b, best.hidden, best.viewed.repeats, test),
            "init_index": float(best.init),
        },
        provenance=made_by | {"wall_seconds": time.time() - started},
        data_digest=data_digest,
    )


def check_threads(n_threads: int | None, kernel: str) -> None:
    """Raise a ValueError that says what is accepted if the kernel cannot be given so many threads."""
    if n_threads is not None and n_threads < 1:
        raise ValueError(f"n_threads: received {n_threads}, accepted: an integer >= 1")
    if n_threads is not None and kernel != "cpu":
        raise ValueError(f'n_threads: received {n_threads} with the kernel "{kernel}", accepted: with "cpu"')


def threads_of(kernel: str, n_threads: int | None) -> AbstractContextManager[None]:
    """Let the kernel use at most so many threads."""
    if kernel != "cpu":
        return nullcontext()
    from byheart.toy.kernels.compile import threads

    return threads(n_threads)


def draw_examples(config: TrainConfig) -> SparseExamples:
    """Draw the training set of a config; where T is infinite, the batch of the first step."""
    if config.n_examples == "inf":
        return _fresh_batch(config, 0)
    return _sample(config, config.n_examples, _stream(config.seed, _DATA), config.repeats)


def draw_test_examples(config: TrainConfig) -> SparseExamples:
    """Draw the fresh test set of a config, from its own random stream."""
    return _sample(config, config.n_test, _stream(config.seed, _TEST))


class _Trained:
    """One model trained from one initialisation, with its history."""

    def __init__(
        self,
        config: TrainConfig,
        kernel: Kernel,
        kernel_name: str,
        start: tuple[Float[np.ndarray, "n_hidden n_features"], Float[np.ndarray, " n_features"]],
        examples: SparseExamples,
        init: int,
        on_progress: OnProgress | None,
    ) -> None:
        self.config, self.kernel, self.examples, self.init = config, kernel, examples, init
        dtype = KERNELS[kernel_name].dtype
        optimizer = AdamW(
            config.beta1,
            config.beta2,
            config.eps,
            config.weight_decay,
            config.decay_bias,
            config.weight_decay_in_gradient,
        )
        W, b = start
        self.training = kernel.start(W.astype(dtype), b.astype(dtype), examples, optimizer, config.reduction)
        self.viewed = draw_test_examples(config) if config.n_examples == "inf" else examples
        self._history: dict[str, list[float]] = {"step": [], "train_loss": [], "W_norm": [], "b_norm": []}
        self._snapshots: dict[str, list[Any]] = {"step": [], "W": [], "b": [], "hidden": []}
        self._run(on_progress)
        self.W, self.b = self.training.W, self.training.b
        self.hidden = hidden_vectors(self.W, self.viewed, config.variant)
        self.train_loss = self._history["train_loss"][-1]
        self.history = {name: np.array(values) for name, values in self._history.items()}
        self.snapshots = {name: np.array(values) for name, values in self._snapshots.items() if values}

    def _run(self, on_progress: OnProgress | None) -> None:
        config, training = self.config, self.training
        rates = learning_rates(config)
        logged = np.linspace(0, config.n_steps, min(_LOGS_PER_RUN, config.n_steps) + 1).astype(int).tolist()
        stops = sorted({*logged, *config.snapshot_steps})
        pace = Pace(most=1) if config.n_examples == "inf" else Pace()
        for stop in stops:
            for first, last in pace.cut(training.step, stop):
                if config.n_examples == "inf":
                    self.examples = _fresh_batch(config, first)
                    training.set_examples(self.examples)
                training.advance(rates[first:last])
                if on_progress is not None and self._history["step"]:
                    on_progress(self.init * config.n_steps + training.step, self._history["train_loss"][-1])
            self._log(training)

    def _log(self, training: Training) -> None:
        step, W, b = training.step, training.W, training.b
        losses = self.kernel.example_losses(W, b, self.examples)
        loss = loss_scale(len(b), self.config.reduction) * float(np.average(losses, weights=self.examples.repeats))
        if not np.isfinite(loss):
            raise DivergedError(step)
        for name, value in zip(self._history, (step, loss, norm(W), norm(b)), strict=True):
            self._history[name].append(value)
        if step in self.config.snapshot_steps:
            snapshot = (
                step,
                W.copy(),
                b.copy(),
                hidden_vectors(W, self.viewed, self.config.variant),
            )
            for name, array in zip(self._snapshots, snapshot, strict=True):
                self._snapshots[name].append(array)


def _fresh_batch(config: TrainConfig, step: int) -> SparseExamples:
    return _sample(config, config.batch_size, _stream(config.seed, _FRESH, step))


def _sample(
    config: TrainConfig, n_examples: int, rng: np.random.Generator, repeats: tuple[int, ...] = ()
) -> SparseExamples:
    return sample_examples(
        n_examples,
        config.n_features,
        config.sparsity,
        rng,
        repeats,
        unit_norm=config.unit_norm,
        keep_empty=config.keep_empty,
    )


def _initial_weights(
    config: TrainConfig, examples: SparseExamples, init: int
) -> tuple[Float[np.ndarray, "n_rows n_features"], Float[np.ndarray, " n_features"]]:
    if config.initialization == "polygon":
        return polygon(examples)
    if config.initialization == "pentagon":
        return pentagon(examples)
    rng = _stream(config.seed, _INIT, init)
    sizes = config.n_hidden, config.n_features
    W, b = initial_weights(*sizes, config.initialization, rng, config.bias_initialization)
    if config.tied:
        return W, b
    decoder, _ = initial_weights(*sizes, config.initialization, rng)
    return np.vstack([W, decoder]), b


def _stream(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _own_examples(examples: Any, config: TrainConfig, name: str) -> SparseExamples:
    training = name == "examples"
    repeats = config.repeats if training else ()
    result = examples if isinstance(examples, SparseExamples) else SparseExamples.from_matrix(examples, repeats)
    if training and config.repeats and tuple(result.repeats[: len(repeats)]) != repeats:
        raise ValueError("repeats: received other counts in examples than in the config, accepted: in one of the two")
    rows_fit = not training or config.n_examples in ("inf", result.n_examples)
    if not rows_fit or result.n_features != config.n_features:
        accepted = f"(n_examples, n_features) = ({config.n_examples}, {config.n_features}) as in the config"
        raise ValueError(
            f"{name}: received shape {(result.n_examples, result.n_features)},"
            f" accepted: {accepted if training else f'rows of n_features = {config.n_features} as in the config'}"
        )
    if n_below := int((result.values < 0).sum()):
        warnings.warn(
            f"{name}: {n_below} of {len(result.values)} nonzero values are below 0; the model's answers never are,"
            " so that the nearest it can come to these is 0",
            stacklevel=3,
        )
    return result


def _own_weights(
    initial: tuple[Any, Any], config: TrainConfig
) -> tuple[Float[np.ndarray, "n_hidden n_features"], Float[np.ndarray, " n_features"]]:
    if len(initial) != 2:
        raise ValueError(f"initial: received {len(initial)} arrays, accepted: the two arrays (W, b)")
    W, b = (np.asarray(array, dtype=np.float64) for array in initial)
    n_rows = config.n_hidden * (1 if config.tied else 2)  # untied: the encoder, then the decoder
    accepted = (n_rows, config.n_features), (config.n_features,)
    if (W.shape, b.shape) != accepted:
        raise ValueError(
            f"initial: received W {W.shape} and b {b.shape}, accepted: W {accepted[0]} and b {accepted[1]}"
        )
    if not (np.isfinite(W).all() and np.isfinite(b).all()):
        raise ValueError("initial: received NaN or infinite weights, accepted: finite values only")
    return W, b


def _data_digest(
    examples: SparseExamples | None, test: SparseExamples | None, initial: tuple[np.ndarray, np.ndarray] | None
) -> str:
    parts = {name: (x.indptr, x.indices, x.values, x.repeats) for name, x in (("X", examples), ("test", test)) if x}
    named = {**parts, "initial": initial} if initial is not None else parts
    return " ".join(f"{name} {digest(*arrays)}" for name, arrays in named.items())


def kernel_provenance(kernel: str) -> dict[str, Any]:
    """Return what makes a run with this kernel here and now."""
    import numba

    device = processor()
    if KERNELS[kernel].device == "cuda":
        from byheart.toy.kernels.gpu import device_name

        device = device_name()
    return provenance("numpy", "numba", kernel=kernel, device=device, n_threads=numba.get_num_threads())
