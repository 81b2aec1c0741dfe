from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from language.texts_by_hand import documents_of


def test_tokens_have_one_number_each_across_documents():
    documents = documents_of(["abc", "de"])
    assert documents.starts.tolist() == [0, 3, 5]
    assert documents.flat.tolist() == [0, 1, 2, 3, 4]
    assert documents.document_of.tolist() == [0, 0, 0, 1, 1]
    assert documents.text_of(1, 0, 1) == "d"
    assert documents.take([1]).texts == ("de",)


@pytest.mark.parametrize(
    ("changes", "received"),
    [
        ({"names": ()}, "received 0 names"),
        ({"vocabulary": 3}, "outside 0 to 2"),
        ({"tokens": (np.array([], dtype=int),)}, "without a token"),
        ({"offsets": (np.array([[0, 1], [1, 2], [2, 2]]),)}, "do not cover"),
        ({"names": (), "texts": (), "tokens": (), "offsets": ()}, "received none"),
    ],
)
def test_what_is_no_text_as_tokens_is_refused(changes, received):
    given = documents_of(["abd"])
    with pytest.raises(ValueError, match="documents: ") as error:
        dataclasses.replace(given, **changes)
    assert received in str(error.value)
