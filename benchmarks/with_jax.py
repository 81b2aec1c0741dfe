"""The steps in JAX, on the CPU: ``jax.grad`` and AdamW, many steps in one compiled loop whose state is donated.

Tried and not faster: one call per step, rows padded to one length or ``segment_sum`` instead of BCOO, and W^T h as a
sum over hidden units.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.sparse import BCOO

from benchmarks.problem import Problem, Weights
from byheart.toy.kernels import AdamW

State = tuple[Any, Any, Any, jax.Array]  # (W, b), its first and second moments, the number of steps taken


class Jax:
    """JAX: h from dense X, or from the sparse X that JAX offers (BCOO)."""

    def __init__(self, problem: Problem, sparse: bool) -> None:
        rows = problem.examples.to_scipy()
        self.X = jnp.asarray(rows.toarray())
        self.rows = BCOO.from_scipy_sparse(rows) if sparse else self.X
        self.problem = problem

    def loss_and_gradient(self) -> tuple[float, Weights]:
        """Return loss and gradient at the problem's weights."""
        loss, (grad_W, grad_b) = _loss_and_gradient((self.problem.W, self.problem.b), self.rows, self.X)
        return float(loss), (np.asarray(grad_W), np.asarray(grad_b))

    def restart(self, optimizer: AdamW, learning_rate: float) -> None:
        """Go back to the problem's weights and to step 0."""
        # Arrays of their own, as the loop takes over the memory of what it is given.
        W, b = self.problem.W, self.problem.b
        first, second = ((jnp.zeros_like(W), jnp.zeros_like(b)) for _ in range(2))
        self.state: State = ((jnp.array(W), jnp.array(b)), first, second, jnp.float32(0))
        self.steps = functools.partial(_steps, optimizer=optimizer, learning_rate=learning_rate)

    def advance(self, n_steps: int) -> None:
        """Take the steps."""
        self.state = jax.block_until_ready(self.steps(self.state, self.rows, self.X, n_steps))

    def weights(self) -> Weights:
        """Return W and b, now."""
        W, b = self.state[0]
        return np.asarray(W), np.asarray(b)


def _loss(parameters: Any, rows: Any, X: jax.Array) -> jax.Array:
    W, b = parameters
    return jnp.square(jax.nn.relu((rows @ W.T) @ W + b) - X).sum() / len(X)


_loss_and_gradient = jax.jit(jax.value_and_grad(_loss))


@functools.partial(jax.jit, static_argnames=("optimizer", "learning_rate"), donate_argnums=0)
def _steps(state: State, rows: Any, X: jax.Array, n_steps: int, optimizer: AdamW, learning_rate: float) -> State:
    o = optimizer

    def step(_: Any, state: State) -> State:
        parameters, first, second, taken = state
        gradient = jax.grad(_loss)(parameters, rows, X)
        taken = taken + 1
        first = jax.tree.map(lambda m, g: o.beta1 * m + (1 - o.beta1) * g, first, gradient)
        second = jax.tree.map(lambda v, g: o.beta2 * v + (1 - o.beta2) * g * g, second, gradient)
        bias1, bias2 = 1 - o.beta1**taken, 1 - o.beta2**taken

        def update(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
            step = (m / bias1) / (jnp.sqrt(v / bias2) + o.eps)
            return p * (1 - learning_rate * o.weight_decay) - learning_rate * step

        return jax.tree.map(update, parameters, first, second), first, second, taken

    final: State = jax.lax.fori_loop(0, n_steps, step, state)
    return final
