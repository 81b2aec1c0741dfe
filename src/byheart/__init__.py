"""byheart: what does a neural network know by heart, and where does it keep it?"""

from importlib.metadata import version as _version

from byheart import language as language
from byheart.geometry import example_dimensionality as example_dimensionality
from byheart.geometry import feature_dimensionality as feature_dimensionality
from byheart.geometry import maximal_dimensionality as maximal_dimensionality
from byheart.memorization import Memorization as Memorization
from byheart.memorization import influence as influence
from byheart.memorization import memorization as memorization
from byheart.memorization import smoothed_memorization as smoothed_memorization
from byheart.network.audit import Audit as Audit
from byheart.network.audit import audit as audit
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

__version__ = _version("byheart")
