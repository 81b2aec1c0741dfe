from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from byheart.language import tokens
from byheart.language.tokens import tokenize, trained

CORPUS = [
    "the cat sat on the mat. " * 3,
    "naïve café 日本語 \N{THUMBS UP SIGN} the end",
    "\N{ARABIC LETTER ALEF}\nthe  cat",
]
TOKENIZER = trained(CORPUS, 300)


def check(documents):
    for number, (text, offsets) in enumerate(zip(documents.texts, documents.offsets, strict=True)):
        assert (offsets[:, 0] <= offsets[:, 1]).all()
        assert (offsets[1:, 0] == offsets[:-1, 1]).all()
        assert documents.text_of(number, 0, len(offsets)) == text


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20), min_size=1, max_size=3
    )
)
def test_tokens_cover_any_text(texts):
    documents = tokenize([str(i) for i in range(len(texts))], texts, TOKENIZER)
    check(documents)


@settings(max_examples=30, deadline=None)
@given(st.text(alphabet=" abcthe.\n", min_size=1, max_size=30))
def test_each_token_stands_where_its_own_text_is(text):
    documents = tokenize("a", [text], TOKENIZER)
    for token, (start, stop) in zip(documents.tokens[0], documents.offsets[0], strict=True):
        assert TOKENIZER.decode([int(token)]) == text[start:stop]


def test_replacement_characters_are_text_too():
    check(tokenize("ab", ["\N{REPLACEMENT CHARACTER}x\N{REPLACEMENT CHARACTER}", "a"], TOKENIZER))


def test_the_same_texts_give_the_same_tokens():
    a, b = (tokenize("abc", CORPUS, vocabulary=280) for _ in range(2))
    assert np.array_equal(a.flat, b.flat)
    assert a.vocabulary == 280
    check(a)


def test_a_tokenizer_may_be_a_file_or_one_of_hugging_face(tmp_path):
    TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    expected = tokenize("abc", CORPUS, TOKENIZER)
    assert np.array_equal(tokenize("abc", CORPUS, tmp_path / "tokenizer.json").flat, expected.flat)

    class Fast:
        backend_tokenizer = TOKENIZER

    assert np.array_equal(tokenize("abc", CORPUS, Fast()).flat, expected.flat)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="accepted: a tokenizer.json"):
        tokenize("a", ["a"], tmp_path / "other.json")
    with pytest.raises(FileNotFoundError, match="accepted: the path"):
        tokenize("a", ["a"], tmp_path / "missing.json")
    with pytest.raises(ValueError, match="received int"):
        tokenize("a", ["a"], 3)


def words(**settings):
    tokenizer = Tokenizer(models.WordLevel({"the": 0, "cat": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    for name, value in settings.items():
        setattr(tokenizer, name, value)
    return tokenizer


@pytest.mark.parametrize(
    ("tokenizer", "text"),
    [
        (words(), "the dog"),  # an unknown word
        (words(normalizer=normalizers.Lowercase()), "The cat"),
        (words(), "the  cat"),  # two spaces
    ],
)
def test_a_tokenizer_that_changes_the_text_is_refused(tokenizer, text):
    with pytest.raises(ValueError, match="received 'a', of which it does not give back"):
        tokenize("a", [text], tokenizer)


def test_spaces_that_decoders_drop_are_found():
    tokenizer = Tokenizer(models.BPE({"▁": 0, "a": 1, "▁a": 2}, [("▁", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    documents = tokenize("a", ["a a aa"], tokenizer)
    check(documents)
    assert [documents.text_of(0, i, i + 1) for i in range(4)] == ["a", " a", " a", "a"]


def test_several_spaces_are_found_that_a_decoder_drops_at_the_beginning():
    tokenizer = Tokenizer(models.BPE({"▁": 0, "a": 1, "▁a": 2, "\n": 3}, [("▁", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    documents = tokenize("a", ["a  a\n   aa"], tokenizer)
    check(documents)
    assert [documents.text_of(0, i, i + 1) for i in range(3)] == ["a", " ", " a"]


def test_pieces_of_words_are_found():
    tokenizer = Tokenizer(
        models.WordPiece({"[UNK]": 0, "cat": 1, "##s": 2, "the": 3, ".": 4, "##e": 5}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    documents = tokenize("a", ["the catse cat."], tokenizer)
    check(documents)
    assert [documents.text_of(0, i, i + 1) for i in range(6)] == ["the", " cat", "s", "e", " cat", "."]
    with pytest.raises(ValueError, match="does not give back ' dog"):
        tokenize("a", ["the dog"], tokenizer)


@pytest.mark.parametrize("from_file", [True, False])
def test_texts_are_neither_cut_nor_filled_up(tmp_path, from_file):
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=400)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    given_one = tmp_path / "tokenizer.json" if from_file else tokenizer
    assert np.array_equal(tokenize("abc", CORPUS, given_one).flat, tokenize("abc", CORPUS, TOKENIZER).flat)
    assert tokenizer.truncation["max_length"] == 3  # as it was


def test_special_tokens_are_not_added_but_found_in_the_text():
    tokenizer = Tokenizer.from_str(TOKENIZER.to_str())
    tokenizer.add_special_tokens(["[CLS]"])
    number = tokenizer.token_to_id("[CLS]")
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", number)])
    documents = tokenize("ab", ["the cat", "the[CLS]cat"], tokenizer)
    check(documents)
    assert [number in row for row in documents.tokens] == [False, True]
    assert documents.vocabulary == number + 1


def test_a_tokenizer_that_fails_or_leaves_numbers_out():
    tokenizer = Tokenizer(models.WordLevel({"the": 0, "cat": 9}))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert tokenize("a", ["the cat"], tokenizer).vocabulary == 10
    with pytest.raises(ValueError, match="received texts that it cannot cut .*UNK"):
        tokenize("a", ["the dog"], tokenizer)
    with pytest.raises(ValueError, match="received texts that it cannot cut"):
        tokenize("a", ["\ud800"], TOKENIZER)


def test_a_long_text_that_is_not_given_back_is_refused_at_once(monkeypatch):
    lowered = Tokenizer.from_str(TOKENIZER.to_str())
    lowered.normalizer = normalizers.Lowercase()
    longest = []
    monkeypatch.setattr(tokens, "_opened", lambda _: Spy())

    class Spy:
        encode_batch = lowered.encode_batch

        def decode(self, ids, **settings):
            longest.append(len(ids))
            return lowered.decode(ids, **settings)

    with pytest.raises(ValueError, match="does not give back ' The cat"):
        tokenize("a", ["the mat. The cat " * 200], lowered)
    assert max(longest) < 30


@pytest.mark.parametrize("vocabulary", [0, 256])
def test_fewer_tokens_than_bytes_are_refused(vocabulary):
    with pytest.raises(ValueError, match=f"received {vocabulary}, accepted: an integer >= 257"):
        tokenize("a", ["a"], vocabulary=vocabulary)


def test_empty_texts_are_refused():
    with pytest.raises(ValueError, match="received 'b', which is empty"):
        tokenize("ab", ["a", ""], TOKENIZER)


def test_every_text_has_a_name():
    with pytest.raises(ValueError, match="documents: received 2 names of 1 texts, accepted: as many"):
        tokenize(["a", "b"], ["the cat"], TOKENIZER)
