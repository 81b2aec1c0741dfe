"""An edit that makes a language model forget what few texts use: weights along which the loss hardly curves are
dropped.

For each matrix W of the hidden layers, the curvature of the loss on ordinary text (its Fisher information) is taken as
the product of two small matrices: A, the mean of a a^T over inputs a of the layer, and G, the mean of g g^T over
gradients g of the loss at its outputs. In the eigenvectors of both, every entry of W has a curvature of its own, the
product of two eigenvalues. Directions that many texts share curve the loss on average; those that recite one text do
not. The edit keeps the entries of highest curvature that have a share of all of it, and sets the others to 0. No span
is named.

Sources: Martens and Grosse 2015 (K-FAC); Merullo et al. 2025, arXiv 2510.24256 (the edit).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from byheart.language.as_found import left_as_found
from byheart.language.collate import IGNORED
from byheart.language.extras import require
from byheart.language.labelled import Row, batches_of, check_readable, logits_of

if TYPE_CHECKING:
    import torch

_MLP = ("mlp", "feed_forward", "ffn", "fc1", "fc2")  # parts of the names of hidden layers


@dataclass(frozen=True, eq=False)
class Curvature:
    """The curvature of the loss along the weights of some layers, as two factors each.

    Attributes:
        inputs: By the name of the layer, the mean of a a^T over its inputs a, (n_in, n_in).
        gradients: The mean of g g^T over the gradients g at its outputs, (n_out, n_out).
        n_tokens: Number of tokens that the means are over.
    """

    inputs: Mapping[str, torch.Tensor]
    gradients: Mapping[str, torch.Tensor]
    n_tokens: int

    def edited(self, model: Any, keep: float) -> tuple[Any, pd.DataFrame]:
        """Return a copy of the model without the weights of lowest curvature, and what was kept.

        Args:
            model: The model that the curvature is of.
            keep: Share of each layer's curvature that is kept, in (0, 1]; at 1 nothing changes.

        Returns:
            The copy, and a row per layer: ``layer``, ``n_weights``, ``n_kept`` and ``norm_kept``, the share of the
            squared weights that is left.

        Raises:
            ValueError: If ``keep`` is out of range.
        """
        import torch

        if not 0 < keep <= 1:
            raise ValueError(f"keep: received {keep}, accepted: above 0, at most 1")
        own, rows = copy.deepcopy(model), []
        modules = dict(own.named_modules())
        with torch.no_grad():
            for name, module in ((name, modules[name]) for name in self.inputs):
                (curve_in, basis_in), (curve_out, basis_out) = (
                    torch.linalg.eigh(factor[name].double()) for factor in (self.inputs, self.gradients)
                )
                weight = _as_linear(module).double()
                entries = basis_out.T @ weight @ basis_in
                curvature = curve_out.clamp(min=0)[:, None] * curve_in.clamp(min=0)
                order = curvature.flatten().argsort(descending=True)
                share = curvature.flatten()[order].cumsum(0) / curvature.sum()
                n_kept = len(order) if keep == 1 else int((share < keep).sum()) + 1
                kept = torch.zeros_like(curvature, dtype=torch.bool).flatten()
                kept[order[:n_kept]] = True
                left = basis_out @ (entries * kept.view_as(entries)) @ basis_in.T
                norm = float((left**2).sum() / (weight**2).sum())
                _as_linear(module).copy_(left)
                rows.append({"layer": name, "n_weights": len(order), "n_kept": n_kept, "norm_kept": norm})
        return own, pd.DataFrame(rows)


def curvature(
    model: Any, rows: Sequence[Row], *, layers: Sequence[str] | None = None, batch_size: int = 8, seed: int = 0
) -> Curvature:
    """Measure the curvature of the loss along a model's hidden layers, on ordinary text like what it was trained on.

    Targets are drawn from what the model itself predicts, as the Fisher information asks for. Costs a forward and a
    backward pass over the rows, and the eigenvectors of two square matrices per layer.

    Args:
        model: A causal model of Transformers, or any module that returns logits for ``input_ids``.
        rows: Each with "input_ids", the tokens of a text; of rows with "labels", only tokens with a label count.
        layers: Names of linear layers; default all whose name says that they are of an MLP.
        batch_size: Rows at once.
        seed: Of the draw of targets.

    Raises:
        ValueError: If there is no row, or no such layer.
        ModuleNotFoundError: If PyTorch is missing.
    """
    require("torch")
    import torch

    modules = _chosen(model, layers)
    check_readable(model, rows)
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    inputs: dict[str, Any] = dict.fromkeys(modules, 0.0)
    gradients: dict[str, Any] = dict.fromkeys(modules, 0.0)
    n_tokens = 0
    with left_as_found(model), torch.enable_grad():
        for batch in batches_of(rows, batch_size, device):
            there = (batch["labels"] != IGNORED)[:, 1:]
            with _seen(modules) as seen:
                logits = logits_of(model, batch)[:, :-1][there]
            drawn = torch.multinomial(logits.detach().float().softmax(-1), 1, generator=generator)
            loss = -logits.float().log_softmax(-1).gather(1, drawn).sum()
            found = torch.autograd.grad(loss, [output for _, output in seen.values()])
            n_tokens += len(drawn)
            for (name, (read, _)), gradient in zip(seen.items(), found, strict=True):
                a, g = (values.detach()[:, :-1][there].double() for values in (read, gradient))
                inputs[name] = inputs[name] + a.T @ a
                gradients[name] = gradients[name] + g.T @ g
    return Curvature(
        {name: values / n_tokens for name, values in inputs.items()},
        {name: values / n_tokens for name, values in gradients.items()},
        n_tokens,
    )


def kfac_edit(
    model: Any,
    rows: Sequence[Row],
    *,
    keep: float = 0.8,
    layers: Sequence[str] | None = None,
    batch_size: int = 8,
    seed: int = 0,
) -> Any:
    """Return a copy of a causal model without the weights of its hidden layers along which the loss hardly curves.

    What it costs in loss on text that is not recited depends on the model: compare the two with ``forgotten``. To try
    several values of ``keep``, measure the ``curvature`` once.

    Args:
        model: A causal model of Transformers, or any module that returns logits for ``input_ids``; it stays as it is.
        rows: Ordinary text like what it was trained on, as ``curvature`` takes it: some thousand tokens or more.
        keep: Share of each layer's curvature that is kept, in (0, 1].
        layers: Names of linear layers; default all whose name says that they are of an MLP.
        batch_size: Rows at once.
        seed: Of the draw of targets.

    Raises:
        ValueError: If ``keep`` is out of range, or there is no row or no such layer.
        ModuleNotFoundError: If PyTorch is missing.

    References:
        Merullo et al. 2025, "From memorization to reasoning in the spectrum of loss curvature", arXiv 2510.24256.
    """
    if not 0 < keep <= 1:  # before the work
        raise ValueError(f"keep: received {keep}, accepted: above 0, at most 1")
    return curvature(model, rows, layers=layers, batch_size=batch_size, seed=seed).edited(model, keep)[0]


def _chosen(model: Any, layers: Sequence[str] | None) -> dict[str, Any]:
    """The layers to edit, by name."""
    from torch import nn

    linear = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    }
    wanted = [name for name in linear if _is_mlp(name)] if layers is None else list(layers)
    if missing := [name for name in wanted if name not in linear]:
        raise ValueError(f"layers: received {missing[0]!r}, accepted: linear layers such as {', '.join([*linear][:3])}")
    if not wanted:
        raise ValueError(
            f"layers: received a {type(model).__name__} without a linear layer that is called mlp, accepted: names of"
            f" linear layers such as {', '.join([*linear][:3]) or 'none, which it has'}"
        )
    return {name: linear[name] for name in wanted}


def _is_mlp(name: str) -> bool:
    return any(part.startswith(_MLP) for part in name.split("."))


def _as_linear(module: Any) -> Any:
    """A view of a layer's weights with a row per output; GPT-2's have a column."""
    return module.weight.T if type(module).__name__ == "Conv1D" else module.weight


@contextmanager
def _seen(modules: Mapping[str, Any]) -> Iterator[dict[str, tuple[Any, Any]]]:
    """Note what layers read and write while a model runs; what they write has a gradient, frozen or not."""
    seen: dict[str, tuple[Any, Any]] = {}

    def noting(name: str) -> Any:
        def note(module: Any, read: tuple[Any, ...], output: Any) -> Any:
            output = output if output.requires_grad else output.detach().requires_grad_()
            seen[name] = read[0], output
            return output

        return note

    hooks = [module.register_forward_hook(noting(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
