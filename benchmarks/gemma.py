"""Gemma 3 270M by hand: are the log-probabilities of ``byheart recite gemma3-270m`` those of the file's weights?

``python -m benchmarks.gemma`` reads the matrices from the GGUF file and computes the forward pass in NumPy, without
Transformers' model, configuration or loader: what both share is the tokenizer, and the package gguf, which turns blocks
of 4 to 8 bits into numbers. It prints how far both are apart on 600 tokens, more than the model's sliding window.
Two minutes of a core and 4 GB; the package and its terms: docs/language.md.

Source: Gemma Team 2025, arXiv 2503.19786 (norms, attention, five local layers to a global one).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from byheart.language import reciter
from byheart.language.books import book
from byheart.language.packaged import path_of

_GLOBAL = 6  # every sixth layer reads all that came before
_BASES = {False: 10_000.0, True: 1_000_000.0}  # of the rotary angles, by whether a layer is global


def main() -> None:
    """Read the file, compute and compare."""
    import gguf

    opened = reciter("gemma3-270m")
    ids = opened.tokenizer(book("gpl-3")[:4_000], add_special_tokens=False)["input_ids"]
    tokens = np.array([*opened.head, *ids][:601])
    theirs = opened.read(tokens[None, len(opened.head) :], len(tokens) - 1)[0][0]
    del opened  # a gigabyte
    reader = gguf.GGUFReader(path_of("gemma3-270m"))
    weights = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
    said = {
        name: reader.fields[f"gemma3.{name}"].contents()
        for name in ("block_count", "attention.head_count", "attention.sliding_window", "rope.freq_base")
    }
    assert said["rope.freq_base"] == _BASES[True]
    mine = _log_probabilities(weights, tokens, said)
    apart = np.abs(mine - theirs)
    print(f"{len(mine)} tokens: loss {-mine.mean():.4f} by hand, {-theirs.mean():.4f} by recite")
    print(f"apart by {apart.mean():.1e} on average, {apart.max():.1e} at most, within the window and beyond it:")
    window = said["attention.sliding_window"]
    print(f"{apart[:window].max():.1e}, {apart[window:].max():.1e}")


def _log_probabilities(weights: dict[str, np.ndarray], tokens: np.ndarray, said: dict[str, Any]) -> np.ndarray:
    """The log-probability of every token but the first."""
    n = len(tokens)
    x = weights["token_embd.weight"][tokens] * weights["token_embd.weight"].shape[1] ** 0.5
    back = np.arange(n)[:, None] - np.arange(n)
    for layer in range(said["block_count"]):
        own = {
            name.split(".", 2)[2].removesuffix(".weight"): w
            for name, w in weights.items()
            if name.startswith(f"blk.{layer}.")
        }
        reads_all = (layer + 1) % _GLOBAL == 0
        seen = (back >= 0) if reads_all else (back >= 0) & (back < said["attention.sliding_window"])
        read = _normed(x, own["attn_norm"])
        q = (read @ own["attn_q"].T).reshape(n, said["attention.head_count"], -1)
        k, v = ((read @ own[f"attn_{name}"].T)[:, None] for name in "kv")  # one of each, for all heads
        q, k = (_turned(_normed(a, own[f"attn_{b}_norm"]), _BASES[reads_all]) for a, b in ((q, "q"), (k, "k")))
        scores = np.einsum("ihd,jd->hij", q, k[:, 0]) * q.shape[-1] ** -0.5
        scores = np.where(seen, scores, -np.inf)
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        attended = np.einsum("hij,jd->ihd", scores / scores.sum(-1, keepdims=True), v[:, 0]).reshape(n, -1)
        x = x + _normed(attended @ own["attn_output"].T, own["post_attention_norm"])
        read = _normed(x, own["ffn_norm"])
        hidden = _gelu(read @ own["ffn_gate"].T) * (read @ own["ffn_up"].T)
        x = x + _normed(hidden @ own["ffn_down"].T, own["post_ffw_norm"])
    x, found = _normed(x, weights["output_norm.weight"]), np.empty(n - 1)
    for place, target in enumerate(tokens[1:]):
        logits = (weights["token_embd.weight"] @ x[place]).astype(np.float64)
        found[place] = logits[target] - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    return found


def _normed(x: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Root-mean-square normalised; in the file 1 is added to the gains already."""
    found: np.ndarray = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * gain
    return found


def _turned(x: np.ndarray, base: float) -> np.ndarray:
    """Rotary positions: entry i and entry i + d/2 are turned together."""
    half = x.shape[-1] // 2
    angles = np.arange(len(x))[:, None, None] * base ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    found: np.ndarray = np.concatenate(
        [a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], axis=-1
    ).astype(np.float32)
    return found


def _gelu(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3)))
    return found


if __name__ == "__main__":
    main()
