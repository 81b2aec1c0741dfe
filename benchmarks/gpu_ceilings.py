"""The GPU's own ceilings: multiply-adds in registers, matrix products, copies."""

from collections.abc import Callable

import torch
import triton
import triton.language as tl


@triton.jit
def multiply_adds(out, factor, term, n_rounds):
    """16 dependent multiply-adds per round on each of 1,024 numbers, eight of them in flight per thread."""
    i = tl.program_id(0) * 1024 + tl.arange(0, 1024)
    x = i.to(tl.float32)
    for _ in range(n_rounds):
        for _ in tl.static_range(16):
            x = x * factor + term
    tl.store(out + i, x)


def ceilings() -> dict[str, float]:
    """Return the most that the GPU does: multiply-adds and products in FLOP/s, copies in bytes/s (read and written)."""

    def rate(work: float, launch: Callable[[], object]) -> float:
        return work / (triton.testing.do_bench(launch, return_mode="median") / 1e3)

    n_programs, n_rounds = 4096, 4096
    out = torch.empty(n_programs * 1024, device="cuda")
    found = {
        "fp32 multiply-adds": rate(
            2 * 16 * n_rounds * out.numel(), lambda: multiply_adds[(n_programs,)](out, 0.5, 0.25, n_rounds)
        )
    }
    A, B = (torch.randn(8192, 8192, device="cuda") for _ in range(2))
    for precision, name in (("highest", "fp32 matrix product"), ("high", "tf32 matrix product")):
        torch.set_float32_matmul_precision(precision)
        found[name] = rate(2 * 8192**3, lambda: A @ B)
    torch.set_float32_matmul_precision("highest")
    source, target = (torch.randn(2**28, device="cuda") for _ in range(2))
    found["copy"] = rate(2 * source.nbytes, lambda: target.copy_(source))
    return found
