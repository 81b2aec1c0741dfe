"""The figure for a paper: it shows what the table says, of pictures, texts and numbers."""

import io

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch import nn

from byheart.datasets import digits
from byheart.network.audit import audit
from byheart.network.counterfactual import Counterfactual

mpl.use("agg")


def words(figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))


def test_scores_and_the_worst_examples():
    found = audit(network(), digits().take(np.arange(150)))
    figure = found.plot()
    figure.savefig(io.BytesIO(), format="pdf")
    assert figure._repr_png_().startswith(b"\x89PNG")  # in a notebook
    histogram, *others = figure.axes
    assert sum(bar.get_height() for bar in histogram.patches) == 150
    assert sum(len(axes.images) for axes in others) == 2 + (found.table["verdict"] == "suspected wrong label").sum()
    first = found.shown[int(found.table["score"].idxmax())]
    np.testing.assert_array_equal(others[0].images[0].get_array(), first)
    assert "Most memorized" in words(figure)
    assert "Suspected wrong labels" in words(figure)


def test_with_a_held_out_run_estimates_have_intervals():
    rng, data = np.random.default_rng(0), digits().take(np.arange(150))
    runs = Counterfactual(rng.random((4, 150)) < 0.6, rng.normal(size=(4, 150)))
    found = audit(network(), data, held_out=runs)
    axes = found.plot().axes[0]
    drawn = np.concatenate([line.get_ydata() for line in axes.lines])
    np.testing.assert_allclose(np.sort(drawn), np.sort(found.table["estimate"]))
    assert len(axes.collections) == 1


def test_of_numbers_targets_and_answers_are_written():
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    figure = audit(nn.Sequential(nn.Linear(4, 1)), (x, x[:, 0] ** 2), loss="mse").plot()
    figure.savefig(io.BytesIO())
    assert "Largest errors" in words(figure)
    assert "answered" in words(figure)


@pytest.mark.parametrize("text", ["costs $5 or $6_{x", "\\frac{", "<b>"])
def test_a_text_is_no_formula(text):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(1, 2)

        def forward(self, texts):
            return self.head(torch.tensor([[float(len(each))] for each in texts]))

    figure = audit(Words(), [(text + "!" * k, k % 2) for k in range(8)]).plot()
    figure.savefig(io.BytesIO())
    assert text[:5].replace("$", r"\$") in words(figure)
