"""The fast kernel: float32, compiled by numba, on all the threads numba is given.

The T x n matrix of outputs never exists. A step of training first takes every target to be 0, which makes the outputs
themselves the errors, and sums over all pairs of examples and features in tiles that stay in registers or cache
(``dense``), most of them skipped, exactly, where that pays (``skipping``); then it corrects the sums at the few nonzero
targets. Up to eight hidden units everything is our own code (``narrow``); with more, products are BLAS's (``wide``).
Once few outputs are active, pairs come from lists of those that can be (``neighbours``).

Work is cut into fixed pieces whose sums are added in a fixed order, so the result has the same bits whatever the number
of threads. Reassociation is allowed so that loops can be vectorised; NaN and infinity are honoured.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32, Float64

from byheart.toy.data import SparseExamples
from byheart.toy.kernels import AdamW, narrow, neighbours, wide
from byheart.toy.kernels.blas import one_blas_thread
from byheart.toy.kernels.losses import example_losses as example_losses
from byheart.toy.model import Reduction, loss_scale

_LIST_FROM_HIDDEN = 3  # with fewer, tiles that are skipped are faster
_LIST_FROM = 1_000_000  # multiplications of a step with W
_LIST_UP_TO = 2_000_000_000  # pairs: an eighth of a byte for each, and what is per example and feature
_LIST_EXAMPLES = 100_000  # at most: up to eight hidden units an eighth of them are summed in float32
_SAMPLE = 128  # examples at most, and an eighth, of which active outputs are counted
_FIRST_LOOK = 1  # step
_LOOK_AGAIN = 8  # steps later, at least
_TRY_AGAIN = 32  # steps later, at least, where lists were made in vain: that takes as long as some steps
_LOOK_LATER = 1.25  # times as many steps, where lists do not pay yet
_LOOK_EVERY = 128  # steps, where they do
_PROBE = 4  # steps, over which the first distances are measured
# Shares of pairs over the square of n_hidden, as fewer hidden units are faster in tiles.
_COMPUTED_AT_MOST = 0.0018  # with lists: as fast as tiles
_COMPUTED_AT_MOST_BY_ANY = 0.12  # of pairs, from nine hidden units on


class Training:
    """One model in training: all pairs at first, and by lists once few outputs are active."""

    def __init__(
        self,
        W: Float[np.ndarray, "n_hidden n_features"],
        b: Float[np.ndarray, " n_features"],
        examples: SparseExamples,
        optimizer: AdamW,
        reduction: Reduction,
    ) -> None:
        self.is_narrow = len(W) <= narrow.MAX_HIDDEN
        self.tiled: narrow.Training | wide.Training
        if self.is_narrow:
            self.tiled = narrow.Training(W, b, examples, optimizer, reduction, True)
        else:
            self.tiled = wide.Training(W, b, examples, optimizer, reduction)
        self.listed: neighbours.Training | wide.Listed | None = None
        self.given, self.n_hidden = (examples, optimizer, reduction), len(W)
        self.before: Float32[np.ndarray, "n_hidden_and_bias n_features"] | None = None
        can_be_named = not self.is_narrow or len(b) <= neighbours.MAX_FEATURES
        n_examples = int(examples.repeats.sum())
        fits = n_examples <= _LIST_EXAMPLES and n_examples * len(b) <= _LIST_UP_TO and can_be_named
        self.may_list = fits and self.tiled.work >= _LIST_FROM and len(W) >= _LIST_FROM_HIDDEN
        self.look_at = _FIRST_LOOK
        if self.may_list:
            self.sample = examples.expanded().to_scipy()[:: max(8, -(-n_examples // _SAMPLE))]

    @property
    def _now(self) -> narrow.Training | wide.Training | neighbours.Training:
        return self.tiled if self.listed is None else self.listed

    @property
    def step(self) -> int:
        """How many steps were taken."""
        return self._now.step

    @property
    def W(self) -> Float32[np.ndarray, "n_hidden n_features"]:
        """The weights, now."""
        return self.listed.parameters[0][:-1] if isinstance(self.listed, neighbours.Training) else self.tiled.W

    @property
    def b(self) -> Float32[np.ndarray, " n_features"]:
        """The bias, now."""
        return self.listed.parameters[0][-1] if isinstance(self.listed, neighbours.Training) else self.tiled.b

    def set_examples(self, examples: SparseExamples) -> None:
        """Train on these examples from the next step on."""
        self._give_up_lists()
        self.before, self.may_list = None, False  # lists would be made anew at every step
        self.tiled.set_examples(examples)

    def gradient(self) -> tuple[Float32[np.ndarray, "n_hidden n_features"], Float32[np.ndarray, " n_features"]]:
        """Return the gradient of the loss with respect to W and b, at the weights now."""
        return self._now.gradient()

    def advance(self, learning_rates: Float64[np.ndarray, " n_steps"]) -> None:
        """Take these steps; see the protocol."""
        last = self.step + len(learning_rates)
        while self.step < last:
            if self.may_list and self.step >= self.look_at:
                self._look()
            stop = min(last, self.look_at) if self.may_list else last
            self._now.advance(learning_rates[len(learning_rates) - (last - self.step) :][: stop - self.step])

    def _look(self) -> None:
        """Go over to lists, or back, if that pays; it depends on the steps taken and the weights alone."""
        most = min(_COMPUTED_AT_MOST * self.n_hidden**2, _COMPUTED_AT_MOST_BY_ANY)
        if self.listed is not None:
            is_first, self.before = self.before is not None, None
            share = self.listed.listed_share if is_first else self.listed.computed_share()
            self.look_at = self.step + _LOOK_EVERY
            if share > most:
                self._give_up_lists()
                self.look_at = self._later(_TRY_AGAIN)
        elif self.before is not None:
            self._list(self.before, _PROBE)
            self.look_at = self.step + 1
        elif self._active_share() < most / 2:  # lists are longer
            self.before, self.look_at = self.tiled.parameters[0], self.step + _PROBE
        else:
            self.look_at = self._later(_LOOK_AGAIN)

    def _active_share(self) -> float:
        """Return the share of outputs that are positive, of some examples."""
        rows = self.tiled.W_transposed
        with one_blas_thread():
            return float(np.mean((self.sample @ rows) @ rows.T > -self.tiled.b))

    def _later(self, n_steps: int) -> int:
        return max(self.step + n_steps, int(_LOOK_LATER * self.step))

    def _list(self, before: Float32[np.ndarray, "n_hidden_and_bias n_features"], n_steps: int) -> None:
        """Go over to lists, with W and b of so many steps ago."""
        if isinstance(self.tiled, wide.Training):
            self.listed = wide.Listed(before, n_steps, self.tiled)
        else:
            self.listed = neighbours.Training(before, n_steps, self.tiled.parameters, self.step, *self.given)

    def _give_up_lists(self) -> None:
        """Go back to tiles, with the weights of now."""
        if isinstance(self.tiled, narrow.Training) and self.listed is not None:
            self.tiled.resume(self.listed.parameters, self.step)
        elif self.listed is not None:
            self.tiled.step = self.listed.step  # the arrays are the same
        self.listed = None


def start(
    W: Float[np.ndarray, "n_hidden n_features"],
    b: Float[np.ndarray, " n_features"],
    examples: SparseExamples,
    optimizer: AdamW,
    reduction: Reduction,
    *,
    skipping: bool = True,
) -> Training | narrow.Training | wide.Training:
    """Begin training from these weights; the arrays given are left as they are.

    Args:
        W: Weights.
        b: Bias.
        examples: What to train on.
        optimizer: AdamW's settings.
        reduction: Of the squared error over features.
        skipping: Whether pairs may be skipped where that pays; the result is the same up to rounding.
    """
    if skipping:
        return Training(W, b, examples, optimizer, reduction)
    if len(W) <= narrow.MAX_HIDDEN:
        return narrow.Training(W, b, examples, optimizer, reduction, skipping)
    return wide.Training(W, b, examples, optimizer, reduction)


def loss_and_gradient(
    W: Float[np.ndarray, "n_hidden n_features"],
    b: Float[np.ndarray, " n_features"],
    examples: SparseExamples,
    reduction: Reduction,
    *,
    skipping: bool = True,
) -> tuple[float, Float32[np.ndarray, "n_hidden n_features"], Float32[np.ndarray, " n_features"]]:
    """Return the mean loss over examples (repeats counted) and its gradient with respect to W and b."""
    gradient = start(W, b, examples, AdamW(), reduction, skipping=skipping).gradient()
    loss = loss_scale(len(b), reduction) * float(np.average(example_losses(W, b, examples), weights=examples.repeats))
    return loss, *gradient
