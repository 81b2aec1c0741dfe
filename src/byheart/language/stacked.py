"""Several models trained side by side, as one: the parameters of all are one array, and every step is one call for all.

The same mathematics as ``model``. Logits are computed for the targets that carry loss, and for no others: what a masked
target is cannot change a bit of any gradient.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch.nn import functional as F

from byheart.language.model import ModelConfig, draw, shapes


class Stack:
    """The parameters of several models, views of one array, and their gradients likewise.

    Args:
        config: Sizes of each model.
        vocabulary: Number of tokens.
        seeds: Seed of each model's parameters.
    """

    def __init__(self, config: ModelConfig, vocabulary: int, seeds: list[int]) -> None:
        self.config, self.vocabulary, self.n_models = config, vocabulary, len(seeds)
        drawn = [draw(config, vocabulary, seed) for seed in seeds]
        together = {name: torch.stack([own[name] for own in drawn]) for name in shapes(config, vocabulary)}
        self.flat = torch.cat([values.flatten() for values in together.values()]).requires_grad_()
        self.flat.grad = torch.zeros_like(self.flat)
        self.weights: dict[str, torch.Tensor] = {}
        at = 0
        for name, values in together.items():
            view = self.flat.detach()[at : at + values.numel()].view(values.shape).requires_grad_()
            view.grad = self.flat.grad[at : at + values.numel()].view(values.shape)
            self.weights[name] = view
            at += values.numel()

    def parameters_of(self, model: int) -> dict[str, torch.Tensor]:
        """Return a copy of the parameters of one of the models."""
        return {name: values[model].detach().clone() for name, values in self.weights.items()}

    def hidden(
        self,
        inputs: Int[torch.Tensor, "n_models n_rows n_tokens"],
        active: Float[torch.Tensor, "n_models n_rows n_neurons"] | None = None,
    ) -> Float[torch.Tensor, "n_models n_rows*n_tokens width"]:
        """Return what each model knows at every token of its rows, normalised, before the output is read.

        Args:
            inputs: The rows of each model.
            active: What the neurons of every hidden layer are multiplied by in each row; default nothing.
        """
        w, (n_models, n_rows, n_tokens), width = self.weights, inputs.shape, self.config.width
        own = torch.arange(n_models)[:, None] * (self.vocabulary + 1)
        x = F.embedding(inputs.flatten(1) + own, w["tokens"].flatten(0, 1))
        x = (x.view((*inputs.shape, width)) + w["positions"][:, None, :n_tokens]).flatten(1, 2)
        heads = (n_models * n_rows, n_tokens, 3, self.config.n_heads, width // self.config.n_heads)
        for layer in range(self.config.n_layers):
            read = torch.bmm(_normalised(x, w["attention_norm"][:, layer]), w["attention_in"][:, layer])
            q, k, v = read.view(heads).permute(2, 0, 3, 1, 4).unbind()
            seen = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(x.shape)
            x = torch.baddbmm(x, seen, w["attention_out"][:, layer])
            hidden = F.relu(torch.bmm(_normalised(x, w["hidden_norm"][:, layer]), w["hidden_in"][:, layer]))
            if active is not None:
                hidden = (hidden.unflatten(1, (n_rows, n_tokens)) * active[:, :, None]).flatten(1, 2)
            x = torch.baddbmm(x, hidden, w["hidden_out"][:, layer])
        return _normalised(x, w["norm"])

    def train_on(
        self,
        inputs: Int[torch.Tensor, "n_models n_rows n_tokens"],
        where: list[Int[torch.Tensor, " n_targets"]],
        targets: list[Int[torch.Tensor, " n_targets"]],
        scale: float,
        active: Float[torch.Tensor, "n_models n_rows n_neurons"] | None = None,
    ) -> list[Float[torch.Tensor, " n_targets"]]:
        """Set the gradients of the scaled sum of each model's losses, and return the targets' log-probabilities.

        Args:
            inputs: The rows of each model, the beginning first, filled up at their ends.
            where: Of each model, the tokens (row times row length plus place) whose targets carry loss.
            targets: Those targets.
            scale: What each target's loss is multiplied by.
            active: What the neurons of every hidden layer are multiplied by in each row; default nothing.
        """
        assert self.flat.grad is not None
        self.flat.grad.zero_()
        hidden = self.hidden(inputs, active)
        read = [states[own] for states, own in zip(hidden, where, strict=True)]
        grad, found = torch.zeros_like(hidden), []
        with torch.no_grad():
            for model, (states, own, target) in enumerate(zip(read, where, targets, strict=True)):
                if not len(target):  # a step without a row of this model
                    found.append(torch.zeros(0))
                    continue
                output = self.weights["tokens"][model, : self.vocabulary]
                logits = states @ output.T
                log_probability = _log_probability(logits, target)
                found.append(log_probability)
                by_logit = logits.sub_(_at(logits, target) - log_probability[:, None]).exp_().mul_(scale)
                by_logit[torch.arange(len(target)), target] -= scale
                grad[model, own] = by_logit @ output
                self.weights["tokens"].grad[model, : self.vocabulary].addmm_(by_logit.T, states)
        hidden.backward(grad)
        return found

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def answers(
        self, inputs: Int[torch.Tensor, "n_rows n_tokens"], targets: Int[torch.Tensor, "n_rows n_tokens"]
    ) -> tuple[Float[torch.Tensor, "n_models n_rows n_tokens"], Any]:
        """Return every model's log-probability of each target, and whether it is the most probable token."""
        states = self.hidden(inputs.expand(self.n_models, *inputs.shape))
        log_probability = torch.empty((self.n_models, *targets.shape))
        correct = torch.empty((self.n_models, *targets.shape), dtype=torch.bool)
        for model in range(self.n_models):
            logits = states[model] @ self.weights["tokens"][model, : self.vocabulary].T
            log_probability[model] = _log_probability(logits, targets.flatten()).view(targets.shape)
            correct[model] = logits.argmax(-1).view(targets.shape) == targets
        return log_probability, correct


def adamw(stack: Stack, weight_decay: float) -> torch.optim.AdamW:
    """Return the optimizer of all models: their parameters are one array."""
    return torch.optim.AdamW([stack.flat], lr=1.0, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True)


def learning_rate(step: int, n_steps: int, peak: float, warmup: float = 0.05) -> float:
    """Return the rate of a step: it rises over the first share of the steps, and falls to 0 along a cosine."""
    rising = max(1, round(warmup * n_steps))
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising + 1) / (n_steps - rising + 1)))


def _normalised(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x, x.shape[-1:]) * gain[:, None]


def _at(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return logits.gather(1, targets[:, None])


def _log_probability(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return _at(logits, targets).squeeze(1) - logits.logsumexp(-1)
