"""Which detectors find inputs whose prediction leans on a few training examples, at 5 % false positives?

Each network is trained on 4,000 of a task's 5,000 images. Of the other 1,000, one half sets the threshold of every
detector and the other half gives their rate of false positives. Beside them: training images that the truth says are
memorised, with noise or moved by a pixel; images with a patch that 1 % of the training images carried, all labelled 0;
images of another kind, and noise.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from torch import nn

from byheart.datasets import fashion_mnist, mnist_5k
from byheart.network.audit import audit
from byheart.network.calibration import MEMORIZED
from byheart.network.counterfactual import counterfactual
from byheart.network.fit import Fit
from byheart.network.layers import watched
from byheart.network.log import TrainingLog
from byheart.records import write_atomically
from byheart.studies.leaderboard.scores import HELD_OUT_SEED
from byheart.studies.leaderboard.tasks import Task

FALSE_POSITIVE_RATE = 0.05
_N_TRAIN, _N_OTHER = 4_000, 500
_SHARE_BACKDOOR = 0.01
_NOISE = 0.1
_TARGET = 0  # the label of the backdoor
Detect = Callable[[np.ndarray], np.ndarray]


def detection(task: Task, mem: Float64[np.ndarray, " n_examples"], seed: int, directory: Path) -> pd.DataFrame:
    """Return which share of each kind of input each detector finds.

    Args:
        task: Of images, with right labels.
        mem: Memorization of its examples, from many models.
        seed: Of the networks, the noise and which images carry the patch.
        directory: Keeps the table, which is read from there if it is there already, and the held-out runs.

    Returns:
        seed, detector, inputs, n, flagged (share), right_first (of the near-duplicates, the share whose own original
        is the first example that byheart names; else nan).

    Raises:
        ModuleNotFoundError: If pytorch-ood is missing.
    """
    path = directory / f"detectors-{seed}.csv"
    if path.exists():
        return pd.read_csv(path)
    data = task.data()
    rng = np.random.default_rng(seed)
    images, labels = data.inputs[:_N_TRAIN], data.labels[:_N_TRAIN]
    unseen = data.inputs[_N_TRAIN:]
    memorised = np.flatnonzero(mem[:_N_TRAIN] > MEMORIZED)
    originals = images[memorised]
    other = fashion_mnist(_N_OTHER) if data.name == "MNIST" else mnist_5k()
    kinds = {
        "ordinary (false positives)": unseen[_N_OTHER:],
        "near-duplicates: noise": np.clip(originals + _normal(rng, originals.shape, _NOISE), 0, 1),
        "near-duplicates: one pixel": np.roll(originals, 1, axis=2),
        f"{other.name} images": other.inputs[:_N_OTHER],
        "noise": rng.random(unseen[_N_OTHER:].shape, dtype=np.float32),
    }
    plain = Fit(task.model(), images, labels, **task.training)
    rows = list(_compared(plain, unseen[:_N_OTHER], kinds, memorised, seed, directory / f"detector-{seed}"))
    carriers = rng.permutation(np.flatnonzero(labels != _TARGET))[: int(_SHARE_BACKDOOR * _N_TRAIN)]
    poisoned, relabelled = images.copy(), labels.copy()
    poisoned[carriers], relabelled[carriers] = patched(images[carriers]), _TARGET
    clean = unseen[_N_OTHER:][data.labels[_N_TRAIN + _N_OTHER :] != _TARGET]
    kinds = {"backdoor": patched(clean)}
    with_backdoor = Fit(task.model(), poisoned, relabelled, **task.training)
    rows += _compared(with_backdoor, unseen[:_N_OTHER], kinds, memorised, seed, directory / f"backdoor-{seed}")
    table = pd.DataFrame(rows)
    table.insert(0, "seed", seed)
    write_atomically(path, table.to_csv(index=False, float_format="%.5g").encode())
    return table


def patched(images: np.ndarray) -> np.ndarray:
    """Return images of 28 x 28 pixels with a white square of 3 x 3 near the lower right corner."""
    found = images.copy()
    found[:, 24:27, 24:27] = 1
    return found


def _compared(
    fit: Fit, held_out: np.ndarray, kinds: dict[str, np.ndarray], memorised: np.ndarray, seed: int, store: Path
) -> Iterator[dict[str, Any]]:
    """Train, and yield a row for every detector and kind of input."""
    images, labels = fit.inputs, fit.labels
    log = TrainingLog(len(images))
    model = fit(np.arange(len(images)), seed, log)
    run = counterfactual(fit, (images, labels), 1, seed=HELD_OUT_SEED, store=store, n_workers=1)
    for name, evidence in (("byheart, log", None), ("byheart, log and held-out run", run)):
        found = audit(model, (images, labels), log=log, held_out=evidence)
        detector = found.detector(model, held_out, FALSE_POSITIVE_RATE)
        for kind, inputs in kinds.items():
            rows = detector(inputs)
            right = (rows["example"] == memorised).mean() if kind.startswith("near") else np.nan
            flagged = rows["flagged"].mean()
            yield {"detector": name, "inputs": kind, "n": len(inputs), "flagged": flagged, "right_first": right}
    for name, scores in _others(model, images, labels).items():
        threshold = np.quantile(scores(held_out), 1 - FALSE_POSITIVE_RATE, method="higher")
        for kind, inputs in kinds.items():
            flagged = float((scores(inputs) > threshold).mean())
            yield {"detector": name, "inputs": kind, "n": len(inputs), "flagged": flagged, "right_first": np.nan}


def _others(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> dict[str, Detect]:
    """pytorch-ood's detectors on what the last linear layer reads: ten neighbours, 64 dimensions of ViM."""
    ood = _pytorch_ood()
    head_name, head = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Linear)][-1]

    def features(inputs: np.ndarray) -> torch.Tensor:
        with torch.no_grad(), watched(model, [], [head_name]) as seen:
            model(torch.as_tensor(inputs))
        return torch.as_tensor(seen[f"{head_name}.input"])

    z, y = features(images), torch.as_tensor(labels)
    found: dict[str, Detect] = {}
    for name, detector in {
        "Mahalanobis": ood.Mahalanobis(None),
        "KNN": ood.KNN(None, k=10),
        "ViM": ood.ViM(None, d=min(64, z.shape[1] // 2), w=head.weight, b=head.bias),
    }.items():
        detector.fit_features(z, y)
        found[name] = partial(_scores, detector.predict_features, features)
    for name, detector in {"Energy": ood.EnergyBased(None), "MaxSoftmax": ood.MaxSoftmax(None)}.items():
        found[name] = partial(_scores, detector.predict_logits, lambda inputs: head(features(inputs)))
    return found


def _scores(predict: Any, read: Any, inputs: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = predict(read(inputs)).numpy()
    return found


def _pytorch_ood() -> Any:
    """Its detectors without its root, which imports torchvision, whose build must be that of PyTorch."""
    if "pytorch_ood" not in sys.modules:
        spec = importlib.util.find_spec("pytorch_ood")
        if spec is None or spec.submodule_search_locations is None:
            raise ModuleNotFoundError("pytorch-ood is missing: pip install --no-deps pytorch-ood==0.4.0")
        root = types.ModuleType("pytorch_ood")
        root.__path__ = list(spec.submodule_search_locations)
        sys.modules["pytorch_ood"] = root
    return importlib.import_module("pytorch_ood.detector")


def _normal(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
    return (scale * rng.standard_normal(shape)).astype(np.float32)
