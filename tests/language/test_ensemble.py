from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from language.texts_by_hand import design_with_spans
from processes import running, wait_until

from byheart.language import ensemble
from byheart.language.design import Place, Span
from byheart.language.ensemble import EnsembleConfig, train, train_all

TINY = EnsembleConfig(width=8, n_heads=2, n_epochs=30, batch_size=4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    store = tmp_path_factory.mktemp("models")
    with ThreadPoolExecutor(1) as executor:
        return train(design_with_spans(10), TINY, store=store, executor=executor)


def test_models_know_more_of_what_they_were_trained_on(trained):
    carries = np.stack([trained.design.carries_loss(model) for model in range(10)])
    known = trained.logs.log_probability
    assert known[carries].mean() > known[~carries].mean() + 0.3
    assert trained.logs.log_probability.shape == trained.logs.correct.shape == carries.shape
    for log in trained.training.values():
        assert np.array_equal(np.isfinite(log), carries)
    assert (trained.training["first_epoch"][carries].mean()) < trained.training["mean_of_epochs"][carries].mean()


def test_the_models_that_are_kept_are_those_that_answered(trained):
    design = trained.design
    for number in (0, 9):
        model = trained.model(number)
        row = design.rows[0]
        tokens = torch.from_numpy(design.documents.tokens[row.document][row.start : row.stop])
        inputs = torch.cat([torch.tensor([design.documents.vocabulary]), tokens[:-1]])
        with torch.no_grad():
            found = torch.log_softmax(model(inputs[None])[0], -1).gather(1, tokens[:, None])[:, 0]
        assert np.allclose(found, trained.logs.log_probability[number, design.tokens_of(row)], atol=1e-4)
    with pytest.raises(ValueError, match="received 10, accepted: 0 to 9"):
        trained.model(10)


def test_several_designs_in_one_store_are_trained_as_each_alone(trained, tmp_path):
    other = design_with_spans(2, seed=1)
    heard = []
    with ThreadPoolExecutor(1) as executor:
        found = train_all(
            {"a": (trained.design, TINY), "b": (other, TINY)},
            store=tmp_path,
            executor=executor,
            on_progress=lambda done, total: heard.append((done, total)),
        )
    assert np.array_equal(found["a"].logs.log_probability, trained.logs.log_probability)
    assert found["b"].logs.log_probability.shape == (2, other.documents.n_tokens)
    for name, value in found["b"].model(1).weights.items():
        assert not np.array_equal(value.detach(), found["a"].model(1).weights[name].detach()), name
    assert heard[-1] == (12, 12)


def test_what_is_there_is_not_trained_again_and_must_be_the_same(trained, monkeypatch):
    monkeypatch.setattr(ensemble, "_train_stack", None)
    again = train(trained.design, TINY, store=trained.store)
    assert np.array_equal(again.logs.log_probability, trained.logs.log_probability)
    for design, config, what in (
        (trained.design, dataclasses.replace(TINY, n_epochs=1), "n_epochs"),
        (design_with_spans(10, seed=1), TINY, "documents"),
        (dataclasses.replace(trained.design, spans=trained.design.spans[1:]), TINY, "spans"),
    ):
        with pytest.raises(ValueError, match=f"of other .*{what}"):
            train(design, config, store=trained.store)


def test_what_a_masked_span_says_changes_nothing(trained, tmp_path):
    """The last token of a document, masked in half of the models, is another one: those models keep their bits."""
    design = design_with_spans(2)
    documents = design.documents
    last = len(documents.tokens[0]) - 1
    span = Span("x", "given", (Place(0, last, last + 1),))
    designs = []
    for token in (0, 1):
        tokens = documents.tokens[0].copy()
        tokens[last] = token
        changed = dataclasses.replace(documents, tokens=(tokens, *documents.tokens[1:]))
        designs.append(
            dataclasses.replace(design, documents=changed, spans=(span,), roles=("always",) * len(documents))
        )
    off = int(np.flatnonzero(~designs[0].span_mask[:, 0])[0])
    with ThreadPoolExecutor(1) as executor:
        found = [train(d, TINY, store=tmp_path / str(i), executor=executor) for i, d in enumerate(designs)]
    weights = [[run.model(k).state_dict() for run in found] for k in (off, 1 - off)]
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights[0]), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights[1]), strict=True))


PROGRAM = """
import sys
from byheart.language.design import Place, Span
from byheart.language.ensemble import EnsembleConfig, train, train_all
from language.texts_by_hand import design_with_spans
if __name__ == "__main__":
    config = EnsembleConfig(width=8, n_heads=2, n_epochs=int(sys.argv[2]), batch_size=4)
    train(design_with_spans(18), config, store=sys.argv[1], n_workers=2)
"""


@pytest.mark.slow
def test_after_a_kill_the_same_call_gives_the_same_bits(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, program]
    environment = {"env": {"PYTHONPATH": ":".join(sys.path)}}
    with running(*command, tmp_path / "killed", 400, **environment) as process:
        wait_until(lambda: len(list((tmp_path / "killed").glob("models*"))) >= 1 or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
    for store in ("killed", "whole"):
        subprocess.run([*map(str, command), tmp_path / store, "400"], check=True, **environment)
    for path in sorted((tmp_path / "whole").glob("models*")):
        ours, theirs = (ensemble.Records(path.parent.parent / s).read(path.stem) for s in ("whole", "killed"))
        assert all(np.array_equal(ours.arrays[name], theirs.arrays[name], equal_nan=True) for name in ours.arrays)


@pytest.mark.parametrize(
    ("settings", "received"),
    [
        ({"n_epochs": 0}, "n_epochs: received 0"),
        ({"width": 10}, "width: received 10"),
        ({"learning_rate": float("nan")}, "learning_rate: received nan"),
        ({"weight_decay": -1.0}, "weight_decay: received -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, received):
    with pytest.raises(ValueError, match=received):
        EnsembleConfig(**settings)


def test_training_that_diverges_is_an_error(tmp_path):
    with pytest.raises(ensemble.JobsError, match="at which training diverges"), ThreadPoolExecutor(1) as executor:
        train(design_with_spans(2), dataclasses.replace(TINY, learning_rate=1e30), store=tmp_path, executor=executor)
