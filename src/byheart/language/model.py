"""The language model: a small decoder-only transformer, written to be read. ``stacked`` computes the same, faster.

Embeddings of tokens and positions; per layer, attention to what came before and a network of one hidden layer, each on
normalised inputs and added to them; the output is read by the embeddings of the tokens (Radford et al. 2019, without
biases, with root-mean-square normalisation). Token number ``vocabulary`` stands for the beginning of a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import nn
from torch.nn import functional as F


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a transformer.

    Raises:
        ValueError: If a number is out of range.
    """

    n_layers: int = 1
    """At least 1."""
    width: int = 64
    """Entries of the vector that stands for a token; a multiple of the number of heads."""
    n_heads: int = 4
    """Of the attention; at least 1."""
    context: int = 128
    """Tokens that are read at once, at least 2."""

    def __post_init__(self) -> None:
        for name, least in (("n_layers", 1), ("width", 1), ("n_heads", 1), ("context", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: received {getattr(self, name)}, accepted: an integer >= {least}")
        if self.width % self.n_heads:
            raise ValueError(f"width: received {self.width}, accepted: a multiple of n_heads, {self.n_heads}")


def shapes(config: ModelConfig, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the parameters; those of layers have the number of layers as their first axis."""
    n, w = config.n_layers, config.width
    return {
        "tokens": (vocabulary + 1, w),
        "positions": (config.context, w),
        "attention_norm": (n, w),
        "attention_in": (n, w, 3 * w),
        "attention_out": (n, w, w),
        "hidden_norm": (n, w),
        "hidden_in": (n, w, 4 * w),
        "hidden_out": (n, 4 * w, w),
        "norm": (w,),
    }


def draw(config: ModelConfig, vocabulary: int, seed: int) -> dict[str, torch.Tensor]:
    """Draw the parameters of a model before training: normal, and 1 for the gains of norms."""
    generator = torch.Generator().manual_seed(seed)
    parameters = {}
    for name, shape in shapes(config, vocabulary).items():
        if name.endswith("norm"):
            parameters[name] = torch.ones(shape)
            continue
        if name in ("tokens", "positions"):
            deviation = 0.02 * math.sqrt(64 / config.width) * (4 if name == "tokens" else 1)
        else:
            deviation = shape[-2] ** -0.5 / (math.sqrt(2 * config.n_layers) if name.endswith("out") else 1)
        parameters[name] = torch.randn(shape, generator=generator) * deviation
    return parameters


class Transformer(nn.Module):
    """One model.

    Args:
        config: Sizes.
        vocabulary: Number of tokens; a row begins with this number.
        parameters: Parameters by name, as ``draw`` returns them.
    """

    def __init__(self, config: ModelConfig, vocabulary: int, parameters: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.config, self.vocabulary = config, vocabulary
        self.weights = nn.ParameterDict(parameters)

    def hidden(
        self, inputs: Int[torch.Tensor, "n_rows n_tokens"]
    ) -> list[Float[torch.Tensor, "n_rows n_tokens width"]]:
        """Return what is known at every token after the embeddings and after each layer; the last is normalised."""
        w, width = self.weights, self.config.width
        x = w["tokens"][inputs] + w["positions"][: inputs.shape[1]]
        states = [x]
        for layer in range(self.config.n_layers):
            read = F.rms_norm(x, (width,), w["attention_norm"][layer]) @ w["attention_in"][layer]
            q, k, v = (part.unflatten(-1, (self.config.n_heads, -1)).transpose(1, 2) for part in read.chunk(3, -1))
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
            x = x + seen @ w["attention_out"][layer]
            hidden = F.relu(F.rms_norm(x, (width,), w["hidden_norm"][layer]) @ w["hidden_in"][layer])
            x = x + hidden @ w["hidden_out"][layer]
            states.append(x)
        states[-1] = F.rms_norm(x, (width,), w["norm"])
        return states

    def forward(
        self, inputs: Int[torch.Tensor, "n_rows n_tokens"]
    ) -> Float[torch.Tensor, "n_rows n_tokens vocabulary"]:
        """Return the logits of the token after every token; the beginning is none of them."""
        logits: torch.Tensor = self.hidden(inputs)[-1] @ self.weights["tokens"][: self.vocabulary].T
        return logits
