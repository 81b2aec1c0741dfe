"""byheart: what does a neural network know by heart, and where does it keep it?

A name's module is imported when the name is first used, so that ``import byheart`` and ``byheart --help`` take no
longer than NumPy does.
"""

import sys as _sys
from importlib import import_module as _import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

if (getattr(_sys, "argv", None) or [""])[0].rsplit("/")[-1] == "byheart" or _sys.orig_argv[1:3] == ["-m", "byheart"]:
    from byheart import interrupts as _interrupts

    _interrupts.answer()  # as a command, before anything that takes a while

# At once, as a module that is imported later would take the place of the function of its name.
from byheart.memorization import Memorization as Memorization
from byheart.memorization import influence as influence
from byheart.memorization import memorization as memorization
from byheart.memorization import smoothed_memorization as smoothed_memorization

if _TYPE_CHECKING:
    __version__: str
    from byheart import datasets as datasets
    from byheart import language as language
    from byheart.attractors import find_attractors as find_attractors
    from byheart.geometry import example_dimensionality as example_dimensionality
    from byheart.geometry import feature_dimensionality as feature_dimensionality
    from byheart.geometry import maximal_dimensionality as maximal_dimensionality
    from byheart.network.audit import Audit as Audit
    from byheart.network.audit import audit as audit
    from byheart.network.callbacks import lightning_callback as lightning_callback
    from byheart.network.callbacks import trainer_callback as trainer_callback
    from byheart.network.changes import Changes as Changes
    from byheart.network.changes import changes as changes
    from byheart.network.counterfactual import Counterfactual as Counterfactual
    from byheart.network.counterfactual import CounterfactualError as CounterfactualError
    from byheart.network.counterfactual import counterfactual as counterfactual
    from byheart.network.detector import Detector as Detector
    from byheart.network.fit import Fit as Fit
    from byheart.network.fit import margins_of as margins_of
    from byheart.network.log import TrainingLog as TrainingLog
    from byheart.network.outputs import audit_outputs as audit_outputs
    from byheart.studies import reproduce as reproduce
    from byheart.toy.basins import attractors_of as attractors_of
    from byheart.toy.config import TrainConfig as TrainConfig
    from byheart.toy.config import learning_rates as learning_rates
    from byheart.toy.config import log_spaced_steps as log_spaced_steps
    from byheart.toy.data import SparseExamples as SparseExamples
    from byheart.toy.data import sample_examples as sample_examples
    from byheart.toy.kernels import DivergedError as DivergedError
    from byheart.toy.measures import example_losses as example_losses
    from byheart.toy.measures import represented_features as represented_features
    from byheart.toy.runs import Run as Run
    from byheart.toy.runs import Runs as Runs
    from byheart.toy.runs import load_run as load_run
    from byheart.toy.runs import open_runs as open_runs
    from byheart.toy.sweep import SweepError as SweepError
    from byheart.toy.sweep import grid as grid
    from byheart.toy.sweep import sweep as sweep
    from byheart.toy.train import train as train

_NAMES = {
    "attractors": "find_attractors",
    "geometry": "example_dimensionality feature_dimensionality maximal_dimensionality",
    "network.audit": "Audit audit",
    "network.callbacks": "lightning_callback trainer_callback",
    "network.changes": "Changes changes",
    "network.counterfactual": "Counterfactual CounterfactualError counterfactual",
    "network.detector": "Detector",
    "network.fit": "Fit margins_of",
    "network.log": "TrainingLog",
    "network.outputs": "audit_outputs",
    "studies": "reproduce",
    "toy.basins": "attractors_of",
    "toy.config": "TrainConfig learning_rates log_spaced_steps",
    "toy.data": "SparseExamples sample_examples",
    "toy.kernels": "DivergedError",
    "toy.measures": "example_losses represented_features",
    "toy.runs": "Run Runs load_run open_runs",
    "toy.sweep": "SweepError grid sweep",
    "toy.train": "train",
}
_MODULES = ("datasets", "language")
_HOMES = {name: f"byheart.{module}" for module, names in _NAMES.items() for name in names.split()}


def __getattr__(name: str) -> _Any:
    if name == "__version__":
        return _version("byheart")
    if name in _MODULES:
        return _import_module(f"byheart.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'byheart' has no attribute {name!r}")
    found = globals()[name] = getattr(_import_module(_HOMES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES, *_MODULES, "__version__"})
