"""What an audit takes beyond the three passes through the network: seconds and memory, in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import torch
from torch import nn

from byheart.network.audit import audit

_N_INPUTS, _N_HIDDEN, _N_CLASSES, _BATCH_SIZE = 784, 512, 10, 512
_REPEATS = 3


def cost_of_audit(n_examples: int = 60_000) -> pd.DataFrame:
    """Audit a network of 512 hidden units on random data, three times.

    Returns:
        n_examples; forward_seconds: of three passes; audit_seconds; beyond_seconds: the difference; beyond_megabytes:
            by how much the largest memory of the process rose over that of the passes.
    """
    code = f"from byheart.studies.leaderboard.cost import _main; _main({n_examples})"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return pd.DataFrame(json.loads(found.stdout))


def _main(n_examples: int) -> None:
    rng = np.random.default_rng(0)
    inputs = rng.random((n_examples, _N_INPUTS), dtype=np.float32)
    labels = rng.integers(0, _N_CLASSES, n_examples)
    model = nn.Sequential(nn.Linear(_N_INPUTS, _N_HIDDEN), nn.ReLU(), nn.Linear(_N_HIDDEN, _N_CLASSES))
    rows = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        with torch.no_grad():
            for _ in range(3):
                for batch in torch.as_tensor(inputs).split(_BATCH_SIZE):
                    model(batch)
        forward = time.perf_counter() - start
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.perf_counter()
        audit(model, (inputs, labels), batch_size=_BATCH_SIZE)
        seconds = time.perf_counter() - start
        rose = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        rows.append(
            {
                "n_examples": n_examples,
                "forward_seconds": forward,
                "audit_seconds": seconds,
                "beyond_seconds": seconds - forward,
                "beyond_megabytes": rose / 1024,
            }
        )
    print(json.dumps(rows))
