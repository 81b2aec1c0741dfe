"""What a result says of where it comes from."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import byheart
from byheart.provenance import provenance

ROOT = Path(byheart.__file__).parents[2]


def test_versions_device_and_time_are_recorded_in_order():
    found = provenance("numpy", "pandas", kernel="cpu", n_threads=2)
    assert list(found) == [
        "byheart", "git_revision", "python", "numpy", "pandas", "kernel", "n_threads", "device", "started",
    ]  # fmt: skip
    assert found["numpy"] == metadata.version("numpy")
    assert found["python"] == sys.version.split()[0]
    assert found["device"].endswith("cores")


def test_a_device_may_be_named_and_keeps_its_place():
    found = provenance(kernel="gpu", device="a GPU", n_threads=1)
    assert found["device"] == "a GPU"
    assert list(found)[3:] == ["kernel", "device", "n_threads", "started"]


def test_the_revision_is_that_of_the_source_tree_if_there_is_one():
    revision = provenance()["git_revision"]
    if not (ROOT / ".git").exists():
        assert revision is None
        return
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert head.startswith(revision.removesuffix("+"))
