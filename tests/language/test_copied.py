"""Spans of an output that stand in texts, against a search by hand."""

import unicodedata

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from byheart.cli import main
from byheart.language import Texts, copied
from byheart.language.copied import _composed

_ALPHABET = "ab\n\r \te\u0301\u00e9\U0001f600\ud7ff\u4e2d\u00a0\uffff\U0010ffff"
_STRINGS = st.text(alphabet=_ALPHABET, max_size=40).filter(str.strip)


def _one(text):
    return unicodedata.normalize("NFC", " ".join(("x" + text + "x").split()).removeprefix("x").removesuffix("x"))


@settings(max_examples=150, deadline=None)
@given(_STRINGS, st.lists(_STRINGS, min_size=1, max_size=3), st.integers(1, 4))
def test_every_copy_and_place_is_the_same_text_and_none_is_missed(output, texts, least):
    assume(len(_one(output.strip())) >= least)
    names = tuple(f"file{n}" for n in range(len(texts)))
    found = copied(output, Texts(names, tuple(texts)), min_characters=least, n_passages=2)
    by_name = dict(zip(names, texts, strict=True))
    for copy in found.copies.itertuples():
        assert output[copy.start : copy.stop] == copy.text
        assert len(_one(copy.text)) == copy.n_characters >= least
        places = found.places[found.places["copy"] == copy.Index]
        assert len(places) == copy.n_places
        for place in places.itertuples():
            assert _one(by_name[place.name][place.start : place.stop]) == _one(copy.text)
        total = sum(_one(text).startswith(_one(copy.text), at) for text in texts for at in range(len(_one(text))))
        assert copy.n_places == total
    covered = np.zeros(len(output), dtype=bool)
    for copy in found.copies.itertuples():
        covered[copy.start : copy.stop] = True
    for start in range(len(output)):
        for stop in range(start + 1, len(output) + 1):
            piece = output[start:stop]
            if piece != piece.strip() or len(_one(piece)) < least:
                continue
            if any(_one(piece) in _one(text) for text in texts):
                assert covered[start:stop].all()


def test_a_planted_copy_is_found_across_other_line_ends():
    rng = np.random.default_rng(0)
    words = [f"w{n}" for n in range(5_000)]
    training = "\r\n".join(" ".join(rng.choice(words, 8)) for _ in range(200))
    planted = training[3_000:3_200]
    output = " ".join(rng.choice(words, 40)) + " " + "\n".join(planted.split()) + " " + " ".join(rng.choice(words, 40))
    found = copied(output, Texts(("a",), (training,)), held_out=Texts(("b",), (" ".join(rng.choice(words, 2_000)),)))
    assert len(found.copies) == 1
    assert found.copies.loc[0, "n_characters"] >= len(" ".join(planted.split()))
    assert found.copies.loc[0, "chance"] == pytest.approx(1 / 21)
    assert max(found.chance_shares) == 0
    assert 0.2 < found.share < 0.6
    assert "1, the longest of" in found.headline()


def test_passages_of_the_files_are_sought_outside_themselves():
    rng = np.random.default_rng(1)
    once = " ".join(str(n) for n in rng.integers(0, 10**9, 500))
    alone = copied(once[:300], Texts(("a",), (once,)))
    twice = copied(once[:300], Texts(("a", "b"), (once, once)))
    assert max(alone.chance_longest) < 20
    assert min(alone.chance_shares) == 0 == max(alone.chance_shares)
    assert np.mean(twice.chance_shares) > 0.9
    assert any("held out" in note for note in alone.notes)


@pytest.mark.parametrize("wrong", [{"min_characters": 0}, {"n_passages": 0}, {"max_places": 0}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: received 0, accepted"):
        copied("a", Texts(("a",), ("a",)), **wrong)


def test_a_blank_output_is_refused():
    with pytest.raises(ValueError, match="output: received a blank text"):
        copied(" \n", Texts(("a",), ("a",)))


def test_an_output_that_is_shorter_than_a_copy_is_refused():
    with pytest.raises(ValueError, match="output: received 5 characters, accepted: at least min_characters, 50"):
        copied("a \n b c", Texts(("a",), ("a b c " * 40,)))


def test_passages_that_are_shorter_than_a_copy_tell_no_chance():
    text = " ".join(f"w{n}" for n in range(100))
    found = copied(
        text[:200], Texts(("a",), (text,)), held_out=Texts(("b",), ("another text of some sixty characters, " * 2,))
    )
    assert found.copies["n_characters"].max() == 200 > found.passage_characters >= 50
    assert np.isnan(found.copies["chance"]).all()
    assert f"held-out passages of {found.passage_characters} characters" in found.headline()
    short = copied(text[:200], Texts(("a",), (text,)), held_out=Texts(("b",), ("another text",)))
    assert "too short to tell chance" in short.headline()


@pytest.mark.parametrize(
    ("output", "texts", "more", "accepted"),
    [
        (None, Texts(("a",), ("abc",)), {}, "output: received NoneType, accepted: a text"),
        ("abc", ["abc"], {}, "texts: received list, accepted: Texts"),
        ("abc", Texts(("a",), ("abc",)), {"held_out": "abc"}, "held_out: received str, accepted: Texts"),
        ("abc", Texts(("a",), ("abc",)), {"seed": -1}, "seed: received -1, accepted"),
    ],
)
def test_what_is_no_text_is_refused(output, texts, more, accepted):
    with pytest.raises(ValueError, match=accepted):
        copied(output, texts, min_characters=1, **more)


def test_the_command_refuses_an_output_of_several_documents_and_folders(tmp_path, capsys):
    (tmp_path / "two.jsonl").write_text('{"text": "one"}\n{"text": "two"}\n', encoding="utf-8")
    (tmp_path / "one.txt").write_text("a text", encoding="utf-8")
    for output, files, said in (("two.jsonl", "one.txt", "of 2 documents"), ("one.txt", ".", "a folder")):
        assert main(["copied", str(tmp_path / output), "--from", str(tmp_path / files)]) == 2
        assert said in capsys.readouterr().err


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="abe\u0301\u0323\u0331\u00e9\u212b\u0958\u1100\u1161\u11a8\uac00\u09c7\u09be \n", max_size=12))
def test_a_text_is_composed_as_unicode_says_and_every_character_knows_where_it_stood(text):
    new, began, width = _composed(text)
    assert new == unicodedata.normalize("NFC", text)
    assert len(new) == len(began) == len(width)
    stops = began + width
    for first in range(len(new)):
        for stop in range(first + 1, len(new) + 1):
            piece = text[began[first:stop].min() : stops[first:stop].max()]
            assert new[first:stop] in unicodedata.normalize("NFC", piece)


def test_a_copy_in_another_form_of_unicode_is_found_where_it_stands():
    words = "Élève où êtes-vous déjà allé après l'été à la forêt dernière, mon frère aîné et très âgé?"
    for form, other in (("NFC", "NFD"), ("NFD", "NFC")):
        file = "# " + unicodedata.normalize(form, words) + " #"
        output = "> " + unicodedata.normalize(other, words) + " <"
        found = copied(output, Texts(("a",), (file,)))
        (copy,), (place,) = found.copies.to_dict("records"), found.places.to_dict("records")
        assert copy["text"] == output[2:-2]
        assert file[place["start"] : place["stop"]] == file[2:-2]
        assert copy["n_characters"] == len(words) == found.longest


def test_the_longest_match_is_said_where_nothing_is_a_copy():
    found = copied("the quick brown fox", Texts(("a",), ("a quick brown dog",)), min_characters=15)
    assert found.longest == len("quick brown")
    assert "(none; longest match 11)" in found.headline()
