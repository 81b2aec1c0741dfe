"""The definition: loss, gradient and AdamW in plain NumPy, in the precision of the weights it is given.

With residual r = ReLU(W^T h + b) - x and a = [W^T h + b > 0], the loss is mean_i sum_f r_if^2 and, writing
d = 2 r a / T for its derivative with respect to the pre-activation,

    dL/db = sum_i d_i,    dL/dW = sum_i (h_i d_i^T + (W d_i) x_i^T).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64

from byheart.toy.data import SparseExamples
from byheart.toy.kernels import AdamW, DivergedError
from byheart.toy.model import Reduction, loss_scale, outputs


def example_losses(
    W: Float[np.ndarray, "n_hidden n_features"], b: Float[np.ndarray, " n_features"], examples: SparseExamples
) -> Float64[np.ndarray, " n_examples"]:
    """Return the squared error of each distinct example, summed over features."""
    X = examples.to_scipy().toarray().astype(W.dtype)
    return np.asarray(np.square(outputs(W, b, X) - X).sum(axis=1), dtype=np.float64)


def loss_and_gradient(
    W: Float[np.ndarray, "n_hidden n_features"],
    b: Float[np.ndarray, " n_features"],
    examples: SparseExamples,
    reduction: Reduction,
) -> tuple[float, Float[np.ndarray, "n_hidden n_features"], Float[np.ndarray, " n_features"]]:
    """Return the mean loss over examples (repeats counted) and its gradient with respect to W and b."""
    X = examples.expanded().to_scipy().toarray().astype(W.dtype)
    scale = loss_scale(W.shape[1], reduction) / len(X)
    h = X @ W.T
    z = h @ W + b
    residual = np.maximum(z, 0) - X
    d = np.where(z > 0, residual, 0) * (2 * scale)
    return scale * float(np.square(residual).sum()), h.T @ d + (d @ W.T).T @ X, d.sum(axis=0)


class _Training:
    def __init__(
        self,
        W: Float[np.ndarray, "n_hidden n_features"],
        b: Float[np.ndarray, " n_features"],
        examples: SparseExamples,
        optimizer: AdamW,
        reduction: Reduction,
    ) -> None:
        self.W, self.b = W.copy(), b.copy()
        self.first_moments = [np.zeros_like(W), np.zeros_like(b)]
        self.second_moments = [np.zeros_like(W), np.zeros_like(b)]
        self.step = 0
        self.examples, self.optimizer, self.reduction = examples, optimizer, reduction

    def set_examples(self, examples: SparseExamples) -> None:
        self.examples = examples

    def advance(self, learning_rates: Float64[np.ndarray, " n_steps"]) -> None:
        o = self.optimizer
        decays = (o.weight_decay, o.weight_decay if o.decay_bias else 0.0)
        for learning_rate in learning_rates.tolist():
            loss, *gradients = loss_and_gradient(self.W, self.b, self.examples, self.reduction)
            if not np.isfinite(loss):
                raise DivergedError(self.step)
            self.step += 1
            for p, g, m, v, decay in zip(
                (self.W, self.b), gradients, self.first_moments, self.second_moments, decays, strict=True
            ):
                if o.decay_in_gradient:
                    g, decay = g + decay * p, 0.0
                m += (1 - o.beta1) * (g - m)
                v += (1 - o.beta2) * (g * g - v)
                m_hat = m / (1 - o.beta1**self.step)
                v_hat = v / (1 - o.beta2**self.step)
                p *= 1 - learning_rate * decay
                p -= learning_rate * m_hat / (np.sqrt(v_hat) + o.eps)


start = _Training
