from __future__ import annotations

import numpy as np
import pytest
from language.simulate import planted

from byheart.language.rows import in_batches


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_every_token_is_predicted_once_from_what_stands_before_it_in_its_row(at_once):
    design = planted(7, [1, 2], size=11, n_models=4, context=4)
    flat, seen = design.documents.flat, []
    for tokens, inputs, there in in_batches(design, design.rows, at_once):
        assert len(inputs) <= at_once
        assert (inputs[:, 0] == design.documents.vocabulary).all()
        rows, columns = np.nonzero(there)
        for number, row, column in zip(tokens, rows, columns, strict=True):
            assert inputs[row, 1 : column + 1].tolist() == flat[number - column : number].tolist()
            assert column == (number - design.documents.starts[design.documents.document_of[number]]) % 4
        seen += tokens.tolist()
    assert sorted(seen) == list(range(design.documents.n_tokens))


def test_only_the_rows_asked_for_are_read():
    design = planted(5, [1], size=11, n_models=4, context=4)
    rows = design.rows[3:6]  # of the second document
    (tokens,) = [tokens for tokens, _, _ in in_batches(design, rows, 10)]
    assert sorted(tokens) == list(range(11, 22))
