"""``import byheart`` and ``byheart --help`` stay light: what they import, each in a process of its own."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "triton", "jax", "numba", "llvmlite", "matplotlib", "plotly", "jinja2", "PIL", "xarray", "sklearn")
HEAVY += ("tokenizers", "rapidfuzz", "pydivsufsort", "byheart.language.page")
HEAVY += ("scipy.stats", "scipy.optimize", "loky", "rich", "byheart.toy.page", "byheart.network.page")
PUBLIC = {
    *("Audit", "Changes", "Counterfactual", "CounterfactualError", "Detector", "DivergedError", "Fit", "Memorization"),
    *("Run", "Runs", "SparseExamples", "SweepError", "TrainConfig", "TrainingLog", "audit", "audit_outputs"),
    *("changes", "counterfactual"),
    *("example_dimensionality", "example_losses", "feature_dimensionality", "grid", "influence", "learning_rates"),
    *("load_run", "log_spaced_steps", "margins_of", "maximal_dimensionality", "memorization", "open_runs"),
    *("represented_features", "reproduce", "sample_examples", "smoothed_memorization", "sweep", "train"),
}


def printed(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_it_imports_without_what_is_heavy_or_optional():
    program = f"""
import sys
class Blocked:
    def find_spec(self, name, path, target=None):
        if name in {HEAVY}:
            raise ImportError(name)
sys.meta_path.insert(0, Blocked())
import byheart
print(byheart.__version__, *sorted(name for name in dir(byheart) if hasattr(byheart, name)))
"""
    version, *names = printed(program)
    assert version[0].isdigit()
    assert set(names) >= PUBLIC


@pytest.mark.parametrize("words", [None, ["--help"], ["sweep", "--help"], ["train", "--n-examples", "x"]])
def test_nothing_heavy_is_imported_before_it_is_needed(words):
    program = "import byheart, sys\n"
    if words is not None:
        program = f"""
import contextlib, io, sys
from byheart.cli import main
ignored = io.StringIO()
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(ignored), contextlib.redirect_stderr(ignored):
    main({words})
"""
    imported = printed(program + f"print(*(name for name in {HEAVY} if name in sys.modules))")
    assert imported == []


def test_the_public_names_are_all_that_there_is():
    program = "import byheart, types; print(*(n for n, v in vars(byheart).items() if not n.startswith('_')"
    program += " and not isinstance(v, types.ModuleType)))"
    assert set(printed(program)) == PUBLIC
