"""Kernels are compiled wherever the package lies."""

from __future__ import annotations

import subprocess
import sys

import pytest

_NOWHERE_TO_KEEP_THEM = """
from numba.core.caching import CacheImpl
for kind in (CacheImpl, *CacheImpl.__subclasses__()):
    kind._locator_classes = []
import byheart.toy.train
from byheart.toy.kernels.compile import relu
print(relu(-1), relu(2))
"""


@pytest.mark.slow
def test_kernels_that_cannot_be_kept_are_compiled_all_the_same():
    """As of an installation that is read-only, for a user without a home."""
    done = subprocess.run([sys.executable, "-c", _NOWHERE_TO_KEEP_THEM], capture_output=True, text=True, check=False)
    assert done.stdout == "0.0 2.0\n", done.stderr
    assert "NUMBA_CACHE_DIR names another" in done.stderr
