"""Markdown as a reader of the file sees it."""

import numpy as np
import pandas as pd

from byheart import markdown


def test_a_table_is_escaped_and_its_numbers_are_short():
    text = markdown.table(("a", "b"), [("x | y", 0.123456), (None, float("nan")), (np.float64(2), 1_000)])
    assert text.splitlines() == ["| a | b |", "|---|---|", "| x \\| y | 0.123 |", "|  |  |", "| 2 | 1000 |"]


def test_a_data_frame_is_a_table_without_its_index():
    text = markdown.table_of(pd.DataFrame({"test_loss": [1.5], "name": ["a"]}))
    assert text.splitlines() == ["| test loss | name |", "|---|---|", "| 1.5 | a |"]


def test_text_above_the_mark_is_a_persons_and_is_kept(tmp_path):
    page = tmp_path / "README.md"
    markdown.write_below("<!-- mark -->", ["made"], page, "# Title")
    assert page.read_text(encoding="utf-8") == "# Title\n\n<!-- mark -->\n\nmade\n"
    page.write_text("# Words of mine\n\n<!-- mark -->\nold\n", encoding="utf-8")
    markdown.write_below("<!-- mark -->", ["new", "er"], page, "# Title")
    assert page.read_text(encoding="utf-8") == "# Words of mine\n\n<!-- mark -->\n\nnew\n\ner\n"


def test_words_of_unknown_origin_stay_text_in_one_line():
    assert markdown.escape("AMD EPYC, 2 cores") == "AMD EPYC, 2 cores"
    assert markdown.escape("a\n\n# b | [x](y) <script> *c* \\") == r"a \# b \| \[x\](y) &lt;script> \*c\* \\"
    assert markdown.table(("a",), [("one\ntwo\r\nthree",)]).splitlines()[2:] == ["| one two three |"]
