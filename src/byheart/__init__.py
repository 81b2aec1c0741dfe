"""byheart: what does a neural network know by heart, and where does it keep it?"""

from byheart.config import TrainConfig as TrainConfig
from byheart.config import learning_rates as learning_rates
from byheart.config import log_spaced_steps as log_spaced_steps
from byheart.data import SparseExamples as SparseExamples
from byheart.data import sample_examples as sample_examples
from byheart.geometry import example_dimensionality as example_dimensionality
from byheart.geometry import feature_dimensionality as feature_dimensionality
from byheart.geometry import maximal_dimensionality as maximal_dimensionality
from byheart.kernels import DivergedError as DivergedError
from byheart.store import Run as Run
from byheart.store import Runs as Runs
from byheart.store import load_run as load_run
from byheart.store import open_runs as open_runs
from byheart.sweep import SweepError as SweepError
from byheart.sweep import grid as grid
from byheart.sweep import sweep as sweep
from byheart.train import example_losses as example_losses
from byheart.train import represented_features as represented_features
from byheart.train import train as train
