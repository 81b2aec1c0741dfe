"""Shapes and types are checked while the tests run; everything else is shared through cases.py."""

from __future__ import annotations

from collections.abc import Iterator

import jaxtyping
import pytest
import threadpoolctl
from beartype import BeartypeConf, beartype
from hypothesis import settings

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as for mypy

# The kernels are left out: the hook would wrap what numba compiles.
_CHECKED = [f"byheart.{name}" for name in ("toy.data", "geometry", "toy.model", "toy.config", "toy.runs", "records")]
_hook = jaxtyping.install_import_hook(_CHECKED, "conftest.typechecker")

settings.register_profile("byheart", deadline=None, max_examples=50, derandomize=True, database=None)
settings.load_profile("byheart")


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Take the annotations' checks away, as users run without them: the code's own errors must then speak."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="module")
def one_blas_thread() -> Iterator[None]:
    """Keep NumPy's small products on one thread: on a busy machine its threads would wait for each other."""
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield
