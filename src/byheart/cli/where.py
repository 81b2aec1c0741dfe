"""Where jobs are computed: options that all commands which run jobs share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Where:
    """On cores of this machine, or on the workers of a Dask scheduler."""

    n_workers: int | None = None
    """Cores to use; default all."""
    cluster: str | None = None
    """Address of a Dask scheduler, such as tcp://HOST:8786, whose workers compute instead; they need the same version
    of byheart and the same directory."""

    @contextmanager
    def executor(self, resources: Mapping[str, float] | None = None) -> Iterator[Executor | None]:
        """Connect to the cluster if there is one; ``resources`` are what each job takes of a worker's."""
        if self.cluster is None:
            yield None
            return
        from byheart.cluster import connected

        with connected(self.cluster, resources) as found:
            yield found
