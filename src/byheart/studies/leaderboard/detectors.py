"""Which detectors find inputs whose prediction leans on a few training examples, at 5 % false positives?

Each network is trained on 4,000 of a task's 5,000 images. Of the other 1,000, one half sets the threshold of every
detector and the other half gives their rate of false positives. Beside them: training images that the truth says are
memorized, with noise or moved by a pixel; images with a patch that 1 % of the training images carried, all labelled 0;
images of another kind, and noise.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float64
from torch import nn

from byheart.datasets import fashion_mnist, mnist_5k
from byheart.jobs import Job, Report
from byheart.memorization import balanced_subsets
from byheart.network.audit import audit
from byheart.network.calibration import MEMORIZED
from byheart.network.counterfactual import Counterfactual
from byheart.network.fit import Fit, margins_of, recorded
from byheart.network.layers import watched
from byheart.network.log import TrainingLog
from byheart.records import Record, digest
from byheart.studies.leaderboard.scores import HELD_OUT_SEED
from byheart.studies.leaderboard.tasks import Task

FALSE_POSITIVE_RATE = 0.05
_N_TRAIN, _N_OTHER = 4_000, 500
_SHARE_BACKDOOR = 0.01
_NOISE = 0.1
_TARGET = 0  # the label of the backdoor
Detect = Callable[[np.ndarray], np.ndarray]


def detection_job(task: Task, mem: Float64[np.ndarray, " n_examples"], seed: int) -> Job:
    """Return the job of finding which share of each kind of input each detector flags; see ``shares_of``.

    Args:
        task: A task of images, with right labels.
        mem: Memorization of its examples, from many models.
        seed: Seed of the networks, the noise and which images carry the patch.

    Raises:
        ModuleNotFoundError: If pytorch-ood is missing.
    """
    _pytorch_ood()
    data, _, fit = task.load()
    identity = {"dataset": digest(data.inputs, data.labels, mem), "settings": fit.settings, "seed": seed}
    return Job(f"detectors-{seed}", _detect, (task, mem, seed), identity)


def shares_of(record: Record) -> pd.DataFrame:
    """Return a row per detector and kind of input.

    The columns are seed, detector, inputs, n, flagged (share), right_first (of the near-duplicates, the share whose
    own original is the first example that byheart names; else nan).
    """
    return pd.DataFrame(json.loads(record.header["rows"]))


def _detect(task: Task, mem: np.ndarray, seed: int, *, n_threads: int | None, report: Report) -> Record:
    with recorded(n_threads) as header:
        rows = [{"seed": seed, **row} for row in _rows(task, mem, seed)]
    return Record({}, header | {"rows": json.dumps(rows)})


def _rows(task: Task, mem: np.ndarray, seed: int) -> Iterator[dict[str, Any]]:
    data = task.data()
    rng = np.random.default_rng(seed)
    images, labels = data.inputs[:_N_TRAIN], data.labels[:_N_TRAIN]
    unseen = data.inputs[_N_TRAIN:]
    memorized = np.flatnonzero(mem[:_N_TRAIN] > MEMORIZED)
    originals = images[memorized]
    noise = (_NOISE * rng.standard_normal(originals.shape)).astype(np.float32)
    other = fashion_mnist(_N_OTHER) if data.name == "MNIST" else mnist_5k()
    kinds = {
        "ordinary (false positives)": unseen[_N_OTHER:],
        "near-duplicates: noise": np.clip(originals + noise, 0, 1),
        "near-duplicates: one pixel": np.roll(originals, 1, axis=2),
        f"{other.name} images": other.inputs[:_N_OTHER],
        "noise": rng.random(unseen[_N_OTHER:].shape, dtype=np.float32),
    }
    plain = Fit(task.model(), images, labels, **task.training)
    yield from _compared(plain, unseen[:_N_OTHER], kinds, memorized, seed)
    carriers = rng.permutation(np.flatnonzero(labels != _TARGET))[: int(_SHARE_BACKDOOR * _N_TRAIN)]
    poisoned, relabelled = images.copy(), labels.copy()
    poisoned[carriers], relabelled[carriers] = patched(images[carriers]), _TARGET
    clean = unseen[_N_OTHER:][data.labels[_N_TRAIN + _N_OTHER :] != _TARGET]
    kinds = {"backdoor": patched(clean)}
    with_backdoor = Fit(task.model(), poisoned, relabelled, **task.training)
    yield from _compared(with_backdoor, unseen[:_N_OTHER], kinds, memorized, seed)


def patched(images: np.ndarray) -> np.ndarray:
    """Return images of 28 x 28 pixels with a white square of 3 x 3 near the lower right corner."""
    found = images.copy()
    found[:, 24:27, 24:27] = 1
    return found


def _compared(
    fit: Fit, held_out: np.ndarray, kinds: dict[str, np.ndarray], memorized: np.ndarray, seed: int
) -> Iterator[dict[str, Any]]:
    """Train, and yield a row for every detector and kind of input."""
    images, labels = fit.inputs, fit.labels
    log = TrainingLog(len(images))
    model = fit(np.arange(len(images)), seed, log)
    seen = balanced_subsets(len(images), 1, 0.6, HELD_OUT_SEED, fewest=0)
    margins = margins_of(fit(np.flatnonzero(seen[0]), HELD_OUT_SEED), (images, labels))
    run = Counterfactual(seen, margins[None])
    for name, evidence in (("byheart, log", None), ("byheart, log and held-out run", run)):
        found = audit(model, (images, labels), log=log, held_out=evidence)
        detector = found.detector(model, held_out, FALSE_POSITIVE_RATE)
        for kind, inputs in kinds.items():
            rows = detector(inputs)
            right = (rows["example"] == memorized).mean() if kind.startswith("near") else np.nan
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
        with torch.no_grad(), watched(model, [f"{head_name}.input"]) as seen:
            model(torch.as_tensor(inputs))
        return seen[f"{head_name}.input"][0]

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
