"""Ctrl-C, once and twice, at random moments of every verb of the command line, from the first imports on."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from benchmarks.faults.scene import Command, Found, Scene
from benchmarks.servers import wait_for

_MOST_SECONDS_IN = 10.0  # of a moment, after the first imports
_MOST_SECONDS_BETWEEN = 0.3  # of two interrupts
_TRIES = 5  # until an interrupt falls before the end of a short command
_RESULTS = Path(__file__).parents[2] / "results"
_ENDLESS = ("--n-features", "50", "--sparsity", "0.8", "--n-steps", "100000000", "--out", "endless")
_WORDS = (
    "sheep",
    "gate",
    "river",
    "old",
    "tree",
    "under",
    "sleeps",
    "and",
    "the",
    "a",
    "jumps",
    "many",
    "over",
    "grey",
)


class Verbs:
    """The verbs of the command line, each with arguments that keep it busy, in a directory that has what they need."""

    def __init__(self, scene: Scene) -> None:
        self._scene, self.directory, store = scene, scene.directory, scene.directory / "undisturbed"
        draw = random.Random(0)
        texts = [" ".join(draw.choices(_WORDS, k=60)) for _ in range(6_000)]
        (self.directory / "text.txt").write_text("\n\n".join(texts[:200]))
        (self.directory / "training.txt").write_text("\n\n".join(texts))
        (self.directory / "output.txt").write_text("\n\n".join(texts[::60]))
        shutil.copytree(_RESULTS / "double-descent", self.directory / "results" / "double-descent")
        self.arguments: dict[str, tuple[object, ...]] = {
            "train": ("--n-examples", "3", *_ENDLESS),
            "sweep": ("--n-examples", "3", "4", "5", *_ENDLESS),
            "reproduce": ("double-descent", "--scale", "medium"),
            "verdicts": ("results",),
            "report": (store,),
            "audit": ("digits",),
            "leaderboard": (),
            "counterfactual": ("text.txt", "--n-epochs", "1000", "--canaries", "0"),
            "recite": ("model", "text.txt"),
            "copied": ("output.txt", "--from", "training.txt"),
            "store check": (store,),
            "store merge": ("merged", store),
        }

    def missing(self, verb: str) -> str:
        """Why a verb cannot be tried here, or nothing."""
        needed = {
            "audit": ("torch", "sklearn"),
            "leaderboard": ("torch", "mlxtend"),
            "counterfactual": ("torch", "tokenizers"),
            "recite": ("torch", "transformers"),
            "copied": ("pydivsufsort",),
        }
        absent = [package for package in needed.get(verb, ()) if find_spec(package) is None]
        return f"needs {', '.join(absent)}" if absent else ""

    def start(self, verb: str) -> Command:
        """Start a command with this verb."""
        if verb == "recite" and not (self.directory / "model").exists():
            _save_a_small_model(self.directory / "model", (self.directory / "text.txt").read_text())
        return self._scene.start(*verb.split(), *self.arguments[verb])


def _save_a_small_model(folder: Path, text: str) -> None:
    """Save an untrained language model as people save theirs."""
    import transformers

    from byheart.language.tokens import trained

    transformers.PreTrainedTokenizerFast(tokenizer_object=trained([text], 300)).save_pretrained(folder)
    sizes = {"n_positions": 256, "n_embd": 64, "n_layer": 2, "n_head": 4}
    config = transformers.GPT2Config(vocab_size=300, bos_token_id=None, eos_token_id=None, **sizes)
    transformers.GPT2LMHeadModel(config).save_pretrained(folder)


def interrupted(scene: Scene, found: Found, start: Callable[[], Command], times: int) -> None:
    """Interrupt a command once or twice; it ends with status 130, one line, and no process that lives on."""
    longest = _MOST_SECONDS_IN
    for _ in range(_TRIES):
        command = start()
        wait_for(lambda command=command: _imports(command))
        time.sleep(scene.random.uniform(0, longest))
        for number in range(times):
            time.sleep(number * scene.random.uniform(0, _MOST_SECONDS_BETWEEN))
            with contextlib.suppress(ProcessLookupError):
                os.killpg(command.process.pid, signal.SIGINT)
        answer = command.answer()
        found.n_old_processes += command.count_old_processes()
        if not answer.is_done:
            break
        longest /= 2
    found.n_tried += 1
    found.count(answer, answer.is_one_line(130, "^interrupted"))


def _imports(command: Command) -> bool:
    """Whether a command is past the start of Python itself, or has ended."""
    try:
        loaded = Path(f"/proc/{command.process.pid}/maps").read_text()
    except OSError:
        return True
    return "_multiarray_umath" in loaded or command.process.poll() is not None
