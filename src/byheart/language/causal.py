"""The small transformer called as those of Transformers are, with the matrices of its hidden layers as modules.

What edits a causal model of anyone (``kfac_edit``, ``gradient_ascent``, ``relearn``, ``forgotten``) takes it too.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn import functional as F

from byheart.language.model import Transformer


class Causal(nn.Module):
    """A copy of a small transformer that takes ``input_ids`` and returns logits.

    Token number ``vocabulary`` stands for the beginning of a row; it is never predicted.

    Args:
        transformer: The model, such as ``Ensemble.model`` returns; it stays as it is.
    """

    def __init__(self, transformer: Transformer) -> None:
        super().__init__()
        self.config, self.vocabulary = transformer.config, transformer.vocabulary
        own = {name: values.detach().clone() for name, values in transformer.weights.items()}
        self.mlp_in, self.mlp_out = (_linear(own.pop(name)) for name in ("hidden_in", "hidden_out"))
        self.weights = nn.ParameterDict({name: nn.Parameter(values) for name, values in own.items()})

    def forward(
        self, input_ids: Int[torch.Tensor, "n_rows n_tokens"], attention_mask: Any = None
    ) -> Float[torch.Tensor, "n_rows n_tokens vocabulary"]:
        """Return the logits of the token after every token; rows are filled up at their ends, so no mask is needed."""
        w, width, n_heads = self.weights, self.config.width, self.config.n_heads
        x = w["tokens"][input_ids] + w["positions"][: input_ids.shape[1]]
        for layer, (mlp_in, mlp_out) in enumerate(zip(self.mlp_in, self.mlp_out, strict=True)):
            read = F.rms_norm(x, (width,), w["attention_norm"][layer]) @ w["attention_in"][layer]
            q, k, v = (part.unflatten(-1, (n_heads, -1)).transpose(1, 2) for part in read.chunk(3, -1))
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
            x = x + seen @ w["attention_out"][layer]
            x = x + mlp_out(F.relu(mlp_in(F.rms_norm(x, (width,), w["hidden_norm"][layer]))))
        logits: torch.Tensor = F.rms_norm(x, (width,), w["norm"]) @ w["tokens"][: self.vocabulary].T
        return logits


def _linear(weights: torch.Tensor) -> nn.ModuleList:
    """A linear layer for each of some matrices, whose rows are inputs."""
    layers = nn.ModuleList()
    for matrix in weights:
        layer = nn.Linear(*matrix.shape, bias=False)
        layer.weight = nn.Parameter(matrix.T.contiguous())
        layers.append(layer)
    return layers
