"""The steps in PyTorch: autograd and ``torch.optim.AdamW(fused=True)``, eager or by ``torch.compile``.

Tried and not faster on the CPU: ``foreach`` or a compiled AdamW, ``mode="max-autotune"``, CSR products for
``embedding_bag``.
"""

from __future__ import annotations

import torch
from torch.nn.functional import embedding_bag, mse_loss

from benchmarks.problem import Problem, Weights
from byheart.toy.kernels import AdamW

_UNROLLED_UP_TO = 8


class Torch:
    """PyTorch: eager or compiled, h from dense or from sparse X.

    Compiled for the CPU and with sparse X, W^T h of up to eight hidden units is written as a sum over them, which the
    compiler can fuse with all that follows, so that the pre-activations never reach memory.
    """

    def __init__(self, problem: Problem, compiled: bool, sparse: bool, device: str = "cpu") -> None:
        e = problem.examples
        starts = e.indptr.astype(e.indices.dtype)
        X, features, values, starts = (
            torch.from_numpy(array).to(device) for array in (e.to_scipy().toarray(), e.indices, e.values, starts)
        )
        n_hidden, n_examples = len(problem.W), e.n_examples
        unrolled = compiled and sparse and n_hidden <= _UNROLLED_UP_TO and device == "cpu"

        def loss(W: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            if sparse:
                h = embedding_bag(
                    features, W.T, starts, mode="sum", per_sample_weights=values, include_last_offset=True
                )
            else:
                h = X @ W.T
            if unrolled:
                z = b + h[:, 0, None] * W[0]
                for k in range(1, n_hidden):
                    z = z + h[:, k, None] * W[k]
            else:
                z = torch.addmm(b, h, W)
            return mse_loss(torch.relu_(z), X, reduction="sum") / n_examples

        self.loss = torch.compile(loss, fullgraph=True) if compiled else loss
        self.problem, self.device = problem, device
        self.restart(AdamW(), 0.0)

    def loss_and_gradient(self) -> tuple[float, Weights]:
        """Return loss and gradient at the problem's weights."""
        W, b = self._parameters()
        loss = self.loss(W, b)
        loss.backward()
        assert W.grad is not None
        assert b.grad is not None
        return loss.item(), (W.grad.numpy(force=True), b.grad.numpy(force=True))

    def restart(self, optimizer: AdamW, learning_rate: float) -> None:
        """Go back to the problem's weights and to step 0."""
        self.W, self.b = self._parameters()
        self.optimizer = torch.optim.AdamW(
            [self.W, self.b],
            lr=learning_rate,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            fused=True,
        )

    def advance(self, n_steps: int) -> None:
        """Take the steps."""
        for _ in range(n_steps):
            self.optimizer.zero_grad()
            self.loss(self.W, self.b).backward()
            self.optimizer.step()
        if self.device == "cuda":
            torch.cuda.synchronize()

    def weights(self) -> Weights:
        """Return W and b, now."""
        return self.W.numpy(force=True), self.b.numpy(force=True)

    def _parameters(self) -> list[torch.Tensor]:
        return [torch.tensor(a, device=self.device, requires_grad=True) for a in (self.problem.W, self.problem.b)]
