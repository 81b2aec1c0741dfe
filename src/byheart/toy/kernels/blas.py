"""The library that multiplies matrices for the kernels: called from threads of ours, it must not add its own."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any

import scipy.linalg.cython_blas  # noqa: F401 - the library that compiled code calls; it has to be loaded to be found
import threadpoolctl


@cache
def _libraries() -> Any:
    return threadpoolctl.ThreadpoolController()  # looking them up takes longer than many a step


def one_blas_thread() -> AbstractContextManager[Any]:
    """Let matrix products use one thread each."""
    limited: AbstractContextManager[Any] = _libraries().limit(limits=1, user_api="blas")
    return limited
