"""What the results were measured on."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path
from typing import Any

from benchmarks.config import BenchConfig
from benchmarks.contenders import CONTENDERS
from byheart.toy.train import _provenance as provenance


def describe(config: BenchConfig, n_threads: int) -> dict[str, Any]:
    """Return device, memory, load, versions, git revision, date and settings."""
    libraries = sorted({CONTENDERS[name].library for name in config.contenders} - {""})
    return provenance("cpu") | {
        "n_threads": n_threads,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpu": _gpu(),
        "load_before": os.getloadavg()[
            0
        ],  # of others: whatever they compute, threads that wait for each other lose most
        "libraries": {name: importlib.metadata.version(name) for name in libraries},
        "n_rounds": config.n_rounds,
        "seconds_per_round": config.seconds_per_round,
    }


def _gpu() -> str:
    """The models that the NVIDIA driver names; empty if there is none."""
    files = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
    names = [
        line.split(":", 1)[1].strip() for file in files for line in file.read_text().splitlines() if "Model" in line
    ]
    return ", ".join(names)
