"""``import byheart`` and ``byheart --help`` stay light: what they import, each in a process of its own."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import byheart

HEAVY = ("torch", "triton", "jax", "numba", "llvmlite", "matplotlib", "plotly", "jinja2", "PIL", "xarray", "sklearn")
HEAVY += ("transformers", "lightning", "datasets", "accelerate", "tokenizers", "rapidfuzz", "pydivsufsort")
HEAVY += ("byheart.language.page",)
HEAVY += ("scipy.stats", "scipy.optimize", "loky", "rich", "byheart.toy.page", "byheart.network.page")
AT_FIRST_USE = (*HEAVY, "pandas", "scipy.special", "scipy.linalg", "byheart.network.audit", "byheart.language")
PUBLIC = {
    *("Audit", "Changes", "Counterfactual", "CounterfactualError", "Detector", "DivergedError", "Fit", "Memorization"),
    *("Run", "Runs", "SparseExamples", "SweepError", "TrainConfig", "TrainingLog", "audit", "audit_outputs"),
    *("attractors_of", "changes", "counterfactual", "find_attractors"),
    *("example_dimensionality", "example_losses", "feature_dimensionality", "grid", "influence", "learning_rates"),
    *(
        "lightning_callback",
        "load_run",
        "log_spaced_steps",
        "margins_of",
        "maximal_dimensionality",
        "memorization",
        "open_runs",
    ),
    *("represented_features", "reproduce", "sample_examples", "smoothed_memorization", "sweep", "train"),
    "trainer_callback",
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
    imported = printed(program + f"print(*(name for name in {AT_FIRST_USE} if name in sys.modules))")
    assert imported == []


def test_the_public_names_are_all_that_there_is():
    program = "import byheart, types; print(*(n for n in dir(byheart) if not n.startswith('_')"
    program += " and not isinstance(getattr(byheart, n), types.ModuleType)))"
    assert set(printed(program)) == PUBLIC


def test_editors_and_type_checkers_are_told_of_the_same_names():
    tree = ast.parse(Path(byheart.__file__).read_text(encoding="utf-8"))
    imported = [
        node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module.startswith("byheart")
    ]
    homes = {name.name: node.module for node in imported for name in node.names if node.module != "byheart"}
    assert homes.keys() == PUBLIC
    for name, module in homes.items():
        assert getattr(byheart, name) is getattr(importlib.import_module(module), name)


def test_modules_that_the_docs_name_come_with_byheart():
    program = "import byheart; print(byheart.datasets.__name__, byheart.language.__name__)"
    assert printed(program) == ["byheart.datasets", "byheart.language"]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        byheart.trian  # noqa: B018
