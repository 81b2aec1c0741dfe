"""Before and after an edit: paired numbers, rows of spans and texts, and the command on models of Transformers."""

import dataclasses
import json
import types

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

from language.tiny_causal import rows_of, trained_on, untrained  # noqa: E402

from byheart.cli import main  # noqa: E402
from byheart.cli.forgotten import _spelled, _told  # noqa: E402
from byheart.language.forgotten import (  # noqa: E402
    _known_and_lost,
    _paired,
    _relearned,
    forgotten,
    span_rows,
    spans_of_file,
    text_rows,
)
from byheart.language.labelled import recitation  # noqa: E402
from byheart.language.tokens import trained  # noqa: E402

WORDS = "the quick brown fox jumps over a lazy dog while seven wizards make toxic brew for evil queens and jacks"


@pytest.fixture(scope="module")
def pair():
    rows = rows_of(10)
    return rows, trained_on(rows), untrained()


def test_the_numbers_are_those_of_either_model(pair):
    rows, before, after = pair
    held_out = rows_of(12, seed=5, prefix=1)
    found = forgotten(before, after, rows, held_out=held_out)
    summary = found.summary.set_index("measure")
    sides = [recitation(model, rows) for model in (before, after)]
    assert summary.loc["recited", ["before", "after", "difference"]].tolist() == [1, 0, -1]
    expected = [side["log_probability"].mean() / np.log(10) for side in sides]
    assert summary.loc["log10 p_z", ["before", "after"]].tolist() == pytest.approx(expected)
    told = [recitation(model, held_out) for model in (before, after)]
    losses = [-side["log_probability"].sum() / side["n_tokens"].sum() for side in told]
    assert summary.loc["held-out loss", ["before", "after"]].tolist() == pytest.approx(losses)
    assert (summary["low"] <= summary["difference"]).all()
    assert (summary["difference"] <= summary["high"]).all()
    assert found.spans["recited_before"].all()
    assert found.relearned is None
    assert "100% were recited before and 0% after" in found.headline()
    assert "Held-out perplexity: " in found.headline()


def test_the_same_model_twice_is_no_difference(pair):
    rows, before, _ = pair
    summary = forgotten(before, before, rows, held_out=rows_of(4, seed=5)).summary
    assert (summary["difference"] == 0).all()
    assert summary.set_index("measure").loc["recited", "low"] == pytest.approx(-(1 - 0.025 ** (1 / 10)))


def test_the_interval_is_of_paired_differences():
    rng = np.random.default_rng(0)
    level = rng.normal(0, 10, 200)  # differs between spans far more than the edit does
    row = _paired("log10 p_z", [level, level - 1 + rng.normal(0, 0.1, 200)], np.ones(200), seed=0)
    assert row["low"] < -1 < row["high"]
    assert row["high"] - row["low"] < 0.05
    covered = 0
    for seed in range(200):
        values = rng.normal(-1, 1, 40)
        row = _paired("log10 p_z", [np.zeros(40), values], np.ones(40), seed)
        covered += row["low"] <= -1 <= row["high"]
    assert covered > 175


def test_of_one_span_there_is_no_interval(pair):
    rows, before, after = pair
    found = forgotten(before, after, rows[:1], held_out=rows[1:2])
    assert found.summary["low"].isna().tolist() == [False, True, True]
    assert found.headline().count("(no interval)") == 2


def test_long_texts_weigh_more():
    row = _paired("held-out loss", [np.zeros(2), np.array([1.0, 4.0])], np.array([3.0, 1.0]), seed=0)
    assert row["difference"] == pytest.approx(1.75)


def test_relearning_is_beside_spans_that_were_never_learned(pair):
    rows, before, _ = pair
    found = forgotten(before, before, rows, never=rows_of(6, seed=8), learning_rate=1e-2)
    assert found.relearned is None  # nothing is hidden where nothing was edited
    assert found.spans["known"].all()
    assert not found.spans["lost"].any()
    assert found.spans["steps"].isna().all()
    assert "gives every span the same probability as the model before: nothing was forgotten." in found.headline()


def test_where_nothing_was_known_nothing_is_hidden(pair):
    rows, _, after = pair
    found = forgotten(untrained(seed=3), after, rows, never=rows_of(10, seed=9), learning_rate=1e-2)
    assert found.relearned is None
    said = "The model before the edit recited none of them (in this spelling)"
    assert found.compared
    assert f"{said} and gave none a clearly higher probability than spans it never saw: there is" in found.headline()
    assert "hidden" not in found.headline()
    alone = forgotten(untrained(seed=3), after, rows[:1])
    assert not alone.compared
    assert f"{said}: there is no sign that it knew them." in alone.headline()
    fell = dataclasses.replace(
        forgotten(untrained(seed=3), after, rows),
        spans=found.spans.assign(log10_p_after=found.spans["log10_p_before"] - 41.0, log10_p_known=np.nan),
    )
    hint = f"{said}. Of those not recited before, 10 fell to a tenth or less: about {{}} spans never learned (never)"
    assert hint.format("10") in fell.headline()
    assert hint.format("8 more") in dataclasses.replace(fell, n_never=2).headline()
    assert hint.format("12 more, or longer,") in dataclasses.replace(fell, n_never=12).headline()


def test_few_spans_that_were_never_learned_tell_no_bound(pair):
    """Two of them that differ by 0.5 nats per token: the bound of 20 spans is above probability 1."""
    spans, never = _said([-12.6] * 20, False), _said([-18.0, -15.0] * 10, False)  # 6 tokens each
    gone = _said([-480.0] * 20, False)
    for n, compared in ((0, False), (1, False), (2, False), (10, True)):
        both = [never[:n]] * 2 if n else []
        known, lost, bound = _known_and_lost([spans, gone], both)
        assert np.isfinite(bound).tolist() == [compared] * 20
        assert not known.any()
        assert not lost.any()
    rows, _, after = pair
    found = forgotten(untrained(seed=3), after, rows, never=rows_of(2, seed=9))
    table = found.spans.assign(log10_p_known=np.nan, log10_p_after=found.spans["log10_p_before"] - 34.0)
    found = dataclasses.replace(found, spans=table)
    assert not found.compared
    assert "about 8 more spans never learned (never) would tell" in found.headline()


def test_the_bound_is_that_of_a_prediction_and_wider_for_shorter_spans():
    from scipy.stats import t

    never = _said(np.linspace(-66.0, -54.0, 10), False)
    per_token = never["log_probability"] / 6
    expected = per_token.mean() + t.ppf(1 - 0.025 / 3, 9) * per_token.std() * np.sqrt(1.1)
    spans = _said([-60.0] * 3, False).assign(n_tokens=[6, 3, 60])
    bound = _known_and_lost([spans, spans], [never, never])[2] * np.log(10) / spans["n_tokens"]
    assert bound[0] == pytest.approx(expected)
    assert bound[2] == pytest.approx(expected)
    assert bound[1] - per_token.mean() == pytest.approx((expected - per_token.mean()) * np.sqrt(2.1 / 1.1))


def test_spans_and_those_never_learned_of_other_lengths_are_hardly_ever_taken_for_known():
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(300):
        tables = []
        for n, shortest, longest in ((8, 3, 60), (10, 5, 40)):
            n_tokens = rng.integers(shortest, longest, n)
            logs = [rng.normal(-10, 2, k).sum() for k in n_tokens]
            tables.append(pd.DataFrame({"n_tokens": n_tokens, "log_probability": logs, "recited": False}))
        false += _known_and_lost([tables[0]] * 2, [tables[1]] * 2)[0].any()
    assert false < 0.05 * 300


def _said(logs, recited):
    return pd.DataFrame({"n_tokens": 6, "log_probability": logs, "recited": recited})


def test_known_is_what_is_recited_or_more_probable_than_any_that_was_never_learned():
    never = _said(np.linspace(-66.0, -54.0, 10), False)
    before = _said([-1.0, -1.0, -1.0, -20.0, -20.0, -50.0, -60.0], [True, True, True, False, False, False, False])
    after = _said([-2.0, -40.0, -90.0, -90.0, -24.0, -90.0, -90.0], [False, False, False, False, False, False, False])
    known, lost, _ = _known_and_lost([before, after], [never, never])
    assert known.tolist() == [True] * 5 + [False] * 2
    # the first one only tipped, less than tenfold; the fifth is still far above those never learned
    assert lost.tolist() == [False, True, True, True, False, False, False]
    wild = _said(np.linspace(-600.0, -1.0, 10), False)  # tells no bound of the model after: that before holds
    assert _known_and_lost([before, after], [never, wild])[1].tolist() == lost.tolist()
    known, lost, _ = _known_and_lost([before, after], [never[:1], never[:1]])  # one tells no bound
    assert known.tolist() == [True] * 3 + [False] * 4
    assert lost.tolist() == [False, True, True] + [False] * 4


def test_hardly_any_span_of_the_kind_of_those_never_learned_counts_as_known():
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(300):
        own, never = (_said(rng.normal(-60, 6, n), False) for n in (8, 8))
        false += _known_and_lost([own, own], [never, never])[0].any()
    assert false < 0.05 * 300


def test_a_span_that_is_no_longer_recited_is_judged_apart_from_those_that_are(pair):
    rows, before, after = pair
    found = forgotten(before, after, rows, never=rows_of(6, seed=8), learning_rate=1e-2)
    assert found.relearned["spans"].tolist() == ["lost", "never learned"]
    assert found.relearned["n"].tolist() == [10, 6]
    lost = np.arange(10) < 1
    logs = found.spans["log10_p_before"] - 41.0 * lost
    spans = found.spans.assign(lost=lost, log10_p_after=logs, recited_after=~lost)
    table, ratio = _relearned([np.array([3.0]), np.array([6.0, 8.0])], 200, seed=0)
    said = dataclasses.replace(found, spans=spans, relearned=table, ratio=ratio).headline()
    assert "10; no longer known: 1 (still known: 9)." in said
    assert "take 0.43 times (no interval) the steps of spans never learned: too few to tell" in said
    none = spans.assign(lost=False, log10_p_after=found.spans["log10_p_before"] - 41.0)
    said = dataclasses.replace(found, spans=none, relearned=None, ratio=None).headline()
    assert "none of them was forgotten, though they are less probable." in said


def test_spans_that_are_there_twice_are_refused(pair, tmp_path):
    rows, before, after = pair
    with pytest.raises(ValueError, match="spans: received number 2 again as number 11, accepted: each once"):
        forgotten(before, after, [*rows, rows[1]])
    with pytest.raises(ValueError, match="never: received number 1 again as number 2"):
        forgotten(before, after, rows, never=[rows_of(1, seed=8)[0]] * 2)
    (tmp_path / "spans.json").write_text(json.dumps(["a b", "c", "a\nb", "a b"]), encoding="utf-8")
    with pytest.raises(ValueError, match='received "a b" in .* twice, as numbers 1 and 4'):
        spans_of_file(tmp_path / "spans.json")


def test_spans_of_one_text_and_code_that_is_indented_otherwise_are_not_the_same(tmp_path):
    pairs = [("Call me", " Ishmael. Some years"), ("Call me Ishmael.", " Some years"), "if a:\n  b", "if a:\n    b"]
    written = [own if isinstance(own, str) else {"prefix": own[0], "text": own[1]} for own in pairs]
    (tmp_path / "spans.json").write_text(json.dumps(written), encoding="utf-8")
    assert spans_of_file(tmp_path / "spans.json") == pairs
    before = types.SimpleNamespace(tokenizer=(own := trained(["a b c d"], 257)), model=Likes(own.encode(" ").ids[0]))
    before.head = ()
    found, rows, _ = _spelled(before, before, pairs[2:], [], 1)
    assert found != "single spaces"  # in which both are the same
    assert len({row["input_ids"].tobytes() for row in rows}) == 2
    assert _spelled(before, before, pairs[2:3], pairs[3:], 1)[0] == found


@pytest.mark.parametrize(
    ("spans", "verdict"),
    [(4, "they were hidden, not gone"), (20, "nothing says that they were hidden")],
)
def test_a_verdict_follows_from_the_steps(pair, spans, verdict):
    rows, before, after = pair
    rng = np.random.default_rng(1)
    table, ratio = _relearned([spans + rng.integers(0, 3, 30), 20 + rng.integers(0, 3, 30)], 200, seed=0)
    found = dataclasses.replace(forgotten(before, after, rows), relearned=table, ratio=ratio)
    assert verdict in found.headline()
    wide = dataclasses.replace(found, ratio=(0.9, 0.3, 1.5))
    assert "too few to tell" in wide.headline()


def test_spans_that_are_given_up_count_as_the_last_step():
    table, (ratio, _, _) = _relearned([np.array([10, np.inf]), np.array([20.0, 20.0])], 50, seed=0)
    assert table["spans"].tolist() == ["lost", "never learned"]
    assert table["given_up"].tolist() == [1, 0]
    assert ratio == 30 / 20
    with pytest.raises(ValueError, match="never: received spans that the edited model recites"):
        _relearned([np.array([1.0]), np.array([0.0])], 50, seed=0)


def test_a_span_begins_where_its_text_does():
    tokenizer = trained([WORDS], 300)
    rows = span_rows(
        tokenizer, [("the quick brown", " fox jumps"), ("the quick brown ", "fox jumps"), WORDS], head=(7,)
    )
    for row in rows:
        assert row["input_ids"][0] == 7
        assert row["labels"][0] == -100
        kept = row["labels"] != -100
        assert (row["labels"][kept] == row["input_ids"][kept]).all()
    said = [tokenizer.decode(row["labels"][row["labels"] != -100].tolist()) for row in rows]
    assert said[:2] == [" fox jumps", " fox jumps"]
    assert (rows[2]["labels"][1:] == -100).sum() == 16


def test_texts_are_cut_into_pieces():
    tokenizer = trained([WORDS], 300)
    n = len(tokenizer.encode(WORDS).ids)
    rows = text_rows(tokenizer, [WORDS, WORDS], context=n - 2)
    assert [len(row["input_ids"]) for row in rows] == [n - 2, 2] * 2
    assert len(text_rows(tokenizer, [WORDS], context=n - 1)) == 1  # a piece of one token predicts nothing


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: span_rows(t, []), "spans: received none"),
        (lambda t: span_rows(t, ["the quick"]), "accepted: spans of more than 16 tokens"),
        (lambda t: span_rows(t, [("the", "  ")]), "accepted: spans of more than"),
        (lambda t: span_rows(t, [("", "quick")]), "with 0 of"),
        (lambda t: span_rows(t, [WORDS], prefix=0), "prefix: received 0"),
        (lambda t: text_rows(t, []), "texts: received none"),
        (lambda t: text_rows(t, ["a"]), "texts: received single tokens"),
        (lambda t: text_rows(t, [WORDS], context=1), "context: received 1"),
    ],
)
def test_bad_texts_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(trained([WORDS], 300))


@pytest.mark.parametrize("content", ["", "{}", "[]", "[1]", '[{"text": "a"}]', '[{"prefix": 1, "text": "a"}]'])
def test_a_file_of_spans_is_a_list(tmp_path, content):
    (tmp_path / "spans.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match="accepted: a JSON list of strings, or of"):
        spans_of_file(tmp_path / "spans.json")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model that has learned two spans, and the same before it did, saved as people save theirs."""
    import transformers

    where = tmp_path_factory.mktemp("models")
    own = trained([WORDS], 300)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=own)
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=own.get_vocab_size(), n_positions=64, n_embd=32, n_layer=1, n_head=2,
        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, bos_token_id=None, eos_token_id=None)  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    for name in ("fresh", "learned"):
        tokenizer.save_pretrained(where / name)
        model.save_pretrained(where / name)
        ids = torch.tensor(own.encode(WORDS).ids)[None]
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(60):
            optimizer.zero_grad()
            model(ids, labels=ids).loss.backward()
            optimizer.step()
    other = transformers.PreTrainedTokenizerFast(tokenizer_object=trained([WORDS], 270))
    other.save_pretrained(where / "other")
    model.save_pretrained(where / "other")
    return where


@pytest.mark.integrations
@pytest.mark.filterwarnings("default")
def test_the_command_compares_two_folders(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = WORDS.split()
    pairs = [{"prefix": " ".join(words[:3]), "text": " " + " ".join(words[3:9])}, WORDS]
    (tmp_path / "spans.json").write_text(json.dumps(pairs), encoding="utf-8")
    (tmp_path / "never.json").write_text(json.dumps([" ".join(words[::-1])]), encoding="utf-8")
    (tmp_path / "other.txt").write_text(" ".join(words[::2]), encoding="utf-8")
    arguments = ["--spans", "spans.json", "--never", "never.json", "--held-out", "other.txt", "--learning-rate", "0.01"]
    assert main(["forgotten", str(folders / "learned"), str(folders / "fresh"), *arguments]) == 0
    out, err = capsys.readouterr()
    assert "Of 2 spans, 100% were recited before and 0% after" in out
    assert "Taught again" in out
    assert not err
    assert {file.name for file in (tmp_path / "forgotten").iterdir()} == {"summary.csv", "spans.csv", "relearned.csv"}
    assert "White space of the spans: single spaces." in out
    assert main(["forgotten", str(folders / "learned"), str(folders / "learned"), *arguments]) == 0
    assert "nothing was forgotten" in capsys.readouterr().out
    assert {file.name for file in (tmp_path / "forgotten").iterdir()} == {"summary.csv", "spans.csv"}


@pytest.mark.integrations
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("arguments", "accepted"),
    [
        (["MODEL"], "byheart forgotten A B --spans FILE"),
        (["MODEL", "MODEL"], "byheart forgotten A B --spans FILE"),
        (["MODEL", "MODEL", "--spans", "none.json"], "accepted: a JSON file"),
        (["MODEL", "no/such-model", "--spans", "spans.json"], "hf download no/such-model"),
        (["MODEL", "OTHER", "--spans", "spans.json"], "accepted: the same model after an edit"),
        (["MODEL", "MODEL", "--spans", "spans.json", "--held-out", "none.txt"], "texts: received none.txt"),
        (["MODEL", "MODEL", "--spans", "spans.json", "--max-steps", "0"], "max_steps: received 0"),
        (["MODEL", "MODEL", "--spans", "spans.json", "--prefix", "99"], "accepted: spans of more than 99 tokens"),
        (["MODEL", "MODEL", "--spans", "long.json"], "accepted: up to the model's 64"),
    ],
)
def test_bad_input_is_one_line_and_status_2(folders, tmp_path, monkeypatch, capsys, arguments, accepted):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spans.json").write_text(json.dumps([WORDS]), encoding="utf-8")
    (tmp_path / "long.json").write_text(json.dumps([" ".join([WORDS] * 9)]), encoding="utf-8")
    names = {"MODEL": str(folders / "learned"), "OTHER": str(folders / "other")}
    assert main(["forgotten", *(names.get(word, word) for word in arguments)]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1, err
    assert accepted in err
    assert not (tmp_path / "forgotten").exists()


def test_spans_that_were_trained_on_are_no_spans_that_never_were(pair):
    rows, before, after = pair
    with pytest.raises(ValueError, match="never: received one of the spans, accepted"):
        forgotten(before, after, rows, never=[*rows_of(3, seed=9), rows[2]])


def test_too_few_steps_give_no_verdict(pair):
    rows, before, after = pair
    found = forgotten(before, after, rows, never=rows_of(10, seed=9), learning_rate=1e-6, max_steps=2)
    assert found.relearned["given_up"].tolist() == [10, 10]
    assert "max_steps ended too many" in found.headline()


@pytest.mark.parametrize("span", [5, ("a", "b", "c"), ("a", 5), None])
def test_what_is_no_span_is_refused(span):
    with pytest.raises(ValueError, match="spans: received .*, accepted: texts, or pairs"):
        span_rows(trained([WORDS], 300), [span])


class Likes(torch.nn.Module):
    """A model that expects one token everywhere."""

    def __init__(self, token):
        super().__init__()
        self.logits = torch.nn.Parameter(10.0 * torch.eye(300)[token])

    def forward(self, input_ids, attention_mask=None):
        return self.logits.expand(*input_ids.shape, -1)


@pytest.mark.parametrize("white", ["\n", " "])
def test_held_out_lines_are_joined_or_stay_as_the_model_says_best(white):
    tokenizer = trained(["a b c d"], 257)
    (token,) = tokenizer.encode(white).ids
    before = types.SimpleNamespace(tokenizer=tokenizer, model=Likes(token), head=())
    rows = _told(before, ["a\r\nb\r\n\r\nc\nd\ne\n"], 128)
    assert [tokenizer.decode(row["input_ids"]).strip() for row in rows] == [f"a{white}b", f"c{white}d{white}e"]


@pytest.mark.parametrize(("white", "way"), [("\n", "line ends"), (" ", "single spaces"), ("\r", "as it stands")])
def test_white_space_of_spans_is_spelled_as_the_model_before_knows_it(white, way):
    tokenizer = trained(["a b c d"], 257)
    (token,) = tokenizer.encode(white).ids
    before = types.SimpleNamespace(tokenizer=tokenizer, model=Likes(token), head=())
    found, rows, note = _spelled(before, before, [("a", "\r\nb"), ("c\r\nd", "\r\n e")], [], 1)
    assert found.startswith(way)
    assert way in note
    assert "knows best of single spaces (" in note
    expected = {"\n": "c\nd\n e", " ": "c d e", "\r": "c\r\nd\r\n e"}[white]
    assert tokenizer.decode(rows[1]["input_ids"]) == expected
    assert "White space of the spans: single spaces." in _spelled(before, before, [("a", "b")], [], 1)[2]
    assert "The model after" not in note


def test_a_model_after_that_knows_another_spelling_better_is_said_to():
    tokenizer = trained(["a b c d"], 257)
    before, after = (
        types.SimpleNamespace(tokenizer=tokenizer, model=Likes(tokenizer.encode(white).ids[0]), head=())
        for white in (" ", "\n")
    )
    found, _, note = _spelled(before, after, [("a", "\nb\n")], [], 1)
    assert found == "single spaces"
    assert " The model after knows them best as line ends \\n: 0% recited, -" in note
    assert "nats per token, in place of 0%, -" in note
