"""The fine-tune's claims on made-up tables whose answer is known, its design, and a Trainer with a tiny model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from byheart.language.finetune import audit_finetune
from byheart.studies.finetune import STUDY, Setting, _tables, auroc, design_of, trainer

CLAIMS = {claim.id: claim for claim in STUDY.claims}


def spans(gain=12.0, off=0.0, lora=0.9, seed=0):
    """Twenty spans on and twenty off for each number of copies, and forty probes; LoRA learns a share of it."""
    rows = []
    for how, share in (("full", 1.0), ("lora", lora)):
        for n_copies in (0, 1, 4, 16):
            for k in range(40):
                on = int(n_copies > 0 and k % 2 == 0)
                before = -40 + 3 * np.sin(k // 2 + 0.1)
                learned = share * gain * np.log2(1 + n_copies) if on else off * n_copies
                rows.append((how, seed, f"v{k}", n_copies, on, before, min(before + learned, -0.01), 0.0, 1.0, 1))
    names = ["how", "seed", "verse", "n_copies", "on", "log_p_before", "log_p", "recited", "minutes", "n_epochs"]
    return {"spans": pd.DataFrame(rows, columns=names)}


@pytest.mark.parametrize(
    ("claim", "bad"),
    [
        ("tells-full", {"gain": 0.0}),
        ("tells-lora", {"gain": 0.0}),
        ("controls", {"off": 1.0}),
        ("dose", {"gain": -1.0}),
        ("lora-less", {"lora": 1.1}),
    ],
)
def test_a_claim_is_judged_by_its_table(claim, bad):
    assert CLAIMS[claim].test(spans()).verdict == "reproduced"
    assert CLAIMS[claim].test(spans(**bad)).verdict == "differs"


def test_what_was_not_run_is_not_judged():
    table = spans()["spans"]
    for claim in ("tells-lora", "lora-less"):
        assert CLAIMS[claim].test({"spans": table[table["how"] == "full"]}).verdict == "inconclusive"


def test_areas_are_of_single_fine_tunes():
    """Levels of fine-tunes differ; a span off in one is not to be told from a span on in another."""
    one, other = spans()["spans"], spans(seed=1)["spans"]
    other["log_p"] -= 100
    both = pd.concat([one, other], ignore_index=True)
    assert CLAIMS["tells-full"].test({"spans": both}).ours.startswith("area 1.000")


def test_the_area_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    higher, lower = rng.integers(0, 6, 30) + 1, rng.integers(0, 6, 40)
    pairs = higher[:, None] - lower[None, :]
    assert auroc(higher, lower) == pytest.approx(((pairs > 0) + (pairs == 0) / 2).mean())


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("how", ["full", "lora"])
def test_a_trainer_learns_what_is_on_and_nothing_else(how, tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("peft")
    import torch

    from byheart.datasets import king_james_verses
    from byheart.language.tokens import trained

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    own = trained([text for _, text in king_james_verses()[:300]], 400)
    own.add_special_tokens(["<s>"])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=own, bos_token="<s>")
    design = design_of(tokenizer, 6, 0)
    assert [len(span.copies) for span in design.spans] == [0] * 6 + [1] * 6 + [4] * 6 + [16] * 6
    assert {len(tokens) for tokens in design.documents.tokens} == {24}
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=401, bos_token_id=400, **sizes))
    before = [values.clone() for values in model.parameters()]
    setting = Setting(how, 6, 0, n_epochs=6)
    monkeypatch.setattr("byheart.studies.finetune._LEARNING_RATE", {"full": 1e-2, "lora": 5e-2})
    audited = audit_finetune(
        trainer(model, tokenizer, design, setting), design, store=tmp_path, n_models=1, before=model, beginning=400
    )
    assert all(map(torch.equal, before, model.parameters()))  # it was a copy that was trained
    table = _tables({how: {setting: audited}})["spans"]
    gained = (table["log_p"] - table["log_p_before"]).groupby([table["on"], table["n_copies"]]).mean()
    assert gained[1, 16] > gained[0, 16] + {"full": 5, "lora": 1}[how]  # of a model without a past
    assert not table.loc[table["n_copies"] == 0, "on"].any()
