"""How the CPU kernels are compiled.

Reassociation is allowed so that loops can be vectorised. NaN and infinity are honoured, but for ``np.isfinite``, which
the compiler may fold to True as x - x == 0: write ``abs(x) < np.inf``.
"""

from __future__ import annotations

import numba
import numpy as np

_OPTIONS = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
serial = numba.njit(**_OPTIONS)
parallel = numba.njit(parallel=True, **_OPTIONS)

_ZERO = np.float32(0)


@serial
def relu(z):  # type: ignore[no-untyped-def]
    """Return max(z, 0), and NaN for NaN."""
    return _ZERO if _ZERO > z else z  # noqa: SIM300 - this way round a NaN passes through
