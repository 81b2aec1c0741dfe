"""Verses learned by heart, and words that become features: the ReLU-output model on the King James Bible.

A verse is the set of its words. The vocabulary is the 2,258 words that occur in at least 20 verses; each weighs
log(number of verses / number of verses with it), and a verse is scaled to unit length. Verses with the same known words
are one example with as many copies (252 of the 30,443 examples have more than one), so that no copy of a training verse
is held out. The 28 verses without a known word, lists of names, have no direction and are left out.

The same model with two hidden units is trained on 12 verses and on 25,000. Measured with seeds 0, 1 and 2:

- 12 verses lie on a ring and all are memorized: train loss 0.04 to 0.06, held out 1.00 (always answering 0 scores 1).
- 25,000 verses make features: train loss 0.957 to 0.958, held out 0.960 to 0.961; the best constant answer, the mean
  verse, scores 0.975 to 0.976. Features are topics, words that occur together, in about five directions:
  "sons"; "hundred, thousand" or "burnt offering"; "you, ye, your"; "thou" with its verbs or "I am"; a formula.
- Verses that occur many times almost word for word are learned by heart there: "And the word of the LORD came unto me,
  saying," or, where they are not held out, "And the LORD spake unto Moses, saying," (73 copies).

Run: ``python examples/king_james.py`` (needs ``pip install byheart[data]``).
"""

from __future__ import annotations

import argparse
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

import byheart as bh
from byheart.datasets import king_james_verses, words_of

MIN_VERSES = 20  # rarer words never become features, but cost as much time as frequent ones
BLUE, VERMILLION = "#0072B2", "#D55E00"  # words and verses, from Okabe and Ito's palette


@dataclass(frozen=True)
class Bags:
    """Distinct sets of words, one unit row each; how many verses have it; reference and text of the first."""

    X: scipy.sparse.csr_array
    copies: np.ndarray
    references: list[str]
    texts: list[str]
    words: np.ndarray

    def take(self, rows: np.ndarray) -> Bags:
        """Return some of the rows, those with the most copies first, as ``TrainConfig.repeats`` wants them."""
        rows = rows[np.argsort(-self.copies[rows], kind="stable")]
        references, texts = ([column[i] for i in rows] for column in (self.references, self.texts))
        return Bags(self.X[rows], self.copies[rows], references, texts, self.words)


@dataclass(frozen=True)
class Fitted:
    """A trained model, what it was trained on, and its squared error on each row (always answering 0 scores 1)."""

    run: bh.Run
    bags: Bags
    losses: np.ndarray
    held_out_losses: np.ndarray


def bags_of_words(verses: list[tuple[str, str]]) -> Bags:
    """Turn verses into distinct unit vectors; verses without any known word are left out."""
    sets = [set(words_of(text)) for _, text in verses]
    every_word, n_verses_with = np.unique([word for words in sets for word in words], return_counts=True)
    known = n_verses_with >= MIN_VERSES
    vocabulary = {word: column for column, word in enumerate(every_word[known])}
    weights = np.log(len(verses) / n_verses_with[known])
    same: dict[tuple[int, ...], list[tuple[str, str]]] = {}  # verses with the same known words
    for verse, words in zip(verses, sets, strict=True):
        if columns := tuple(sorted(vocabulary[word] for word in words if word in vocabulary)):
            same.setdefault(columns, []).append(verse)
    rows = [weights[list(columns)] for columns in same]
    values = np.concatenate([row / np.linalg.norm(row) for row in rows])
    indptr = np.cumsum([0, *map(len, same)])
    X = scipy.sparse.csr_array((values, np.concatenate(list(same)), indptr), shape=(len(same), len(vocabulary)))
    references, texts = zip(*(group[0] for group in same.values()), strict=True)
    return Bags(X, np.array([*map(len, same.values())]), list(references), list(texts), every_word[known])


def fit(bags: Bags, held_out: Bags, n_hidden: int, n_steps: int, n_inits: int, seed: int, out: Path) -> Fitted:
    """Train on these verses, or load the run if it is in ``out`` already."""
    config = bh.TrainConfig(
        n_examples=len(bags.copies),
        n_features=len(bags.words),
        repeats=tuple(bags.copies[bags.copies > 1].tolist()),
        n_hidden=n_hidden,
        n_steps=n_steps,
        learning_rate=1e-2,
        n_inits=n_inits,
        seed=seed,
    )
    run = bh.train(config, bags.X, test_examples=held_out.X, out=out)
    return Fitted(run, bags, bh.example_losses(run, bags.X), bh.example_losses(run, held_out.X))


def print_report(fitted: Fitted) -> None:
    """Print the losses, the verses with the most dimensions to themselves and the words with the most."""
    run, bags, losses, held_out = fitted.run, fitted.bags, fitted.losses, fitted.held_out_losses
    verse_dimensions = bh.example_dimensionality(run.hidden, run.repeats)
    word_dimensions = bh.feature_dimensionality(run.W)
    memorized = (losses < 0.5) & (losses < held_out.min())
    represented = ", ".join(bags.words[bh.represented_features(run.W, run.b)]) or "none"
    print(f"\n{run.repeats.sum():,} verses ({len(losses):,} distinct), {len(bags.words):,} words")
    print(f"loss: train {run.metrics['train_loss']:.4f}, held out {held_out.mean():.4f} (always answering 0: 1)")
    print(f"memorized (loss below 1/2 and below that of every held-out verse): {memorized.sum():,} of {len(losses):,}")
    print("  D_X     loss   copies  verse")
    for i in np.argsort(-verse_dimensions)[:8]:
        text = bags.texts[i] if len(bags.texts[i]) <= 66 else bags.texts[i][:63] + "..."
        print(f"  {verse_dimensions[i]:.4f}  {losses[i]:.3f}  {bags.copies[i]:6}  {bags.references[i]}: {text}")
    top = np.argsort(-word_dimensions)[:10]
    print("words by D_f: " + ", ".join(f"{bags.words[i]} {word_dimensions[i]:.3f}" for i in top))
    print(f"words represented on their own: {represented}")


def draw(fits: list[Fitted], path: Path) -> None:
    """Draw word vectors and verse vectors, one row per training set."""
    figure = Figure(figsize=(9, 4.35 * len(fits)), layout="constrained", dpi=200)
    axes = figure.subplots(len(fits), 2, squeeze=False)
    axes[0, 0].set_title("words: the columns of W")
    axes[0, 1].set_title("verses: hidden vectors h = W x")
    panels: list[tuple[Axes, np.ndarray, np.ndarray, list[str], str]] = []
    for (left, right), fitted in zip(axes, fits, strict=True):
        run = fitted.run
        losses = f"train loss {run.metrics['train_loss']:.3f}, held out {run.metrics['test_loss']:.3f}"
        left.set_ylabel(f"{run.config.n_examples:,} verses\n{losses}", fontsize=11)
        plane = np.linalg.svd(run.W, full_matrices=False)[0][:, :2]  # for two hidden units, a rotation
        verse_dimensions = bh.example_dimensionality(run.hidden, run.repeats)
        panels.append((left, run.W.T @ plane, bh.feature_dimensionality(run.W), fitted.bags.words.tolist(), BLUE))
        panels.append((right, run.hidden @ plane, verse_dimensions, fitted.bags.references, VERMILLION))
    for ax, points, *_, colour in panels:
        few = len(points) <= 100
        ax.scatter(points[:, 0], points[:, 1], s=24 if few else 4, color=colour, alpha=1 if few else 0.2, linewidths=0)
        reach = 1.3 * np.abs(points).max()
        ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", xticks=[], yticks=[])
        ax.spines[:].set_color("#BBBBBB")
        ax.plot(0, 0, "+", color="black", markersize=5, zorder=4)
    figure.draw_without_rendering()  # lays the panels out, so that labels can be measured
    figure.set_layout_engine("none")
    for ax, points, dimensions, names, colour in panels:
        _label(ax, points, dimensions, names, colour)
    figure.savefig(path)


def _label(ax: Axes, points: np.ndarray, dimensions: np.ndarray, names: list[str], colour: str) -> None:
    """Name up to 14 points, those of highest dimensionality first, with no two labels or marks touching."""
    directions = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-30)
    max_cosine = 1 if colour == BLUE else 0.95  # of many verses along one direction, only the first is named
    inwards = (-7, -14) if len(points) <= 100 else ()  # the inside of a ring is empty
    named: list[int] = []
    boxes: list[Bbox] = []
    for i in np.argsort(-dimensions)[:2_000]:
        if len(named) == 14 or dimensions[i] < 0.1 * dimensions.max():
            break
        if any(directions[i] @ directions[j] > max_cosine for j in named):
            continue
        mark = Bbox(ax.transData.transform(points[[i, i]])).padded(7)
        for x, y in [*(d * directions[i] for d in (7, 14, 21, *inwards)), (0, 7), (0, -7)]:
            note = ax.annotate(
                names[i],
                points[i],
                (x, y),
                textcoords="offset points",
                fontsize=8,
                ha="center" if abs(x) < abs(y) / 3 else "left" if x > 0 else "right",
                va="center" if abs(y) < abs(x) / 3 else "bottom" if y > 0 else "top",
            )
            box = note.get_window_extent().padded(3)
            inside = ax.bbox.contains(*box.min) and ax.bbox.contains(*box.max)
            if inside and not any(new.overlaps(old) for new in (box, mark) for old in boxes):
                ax.scatter(points[i, 0], points[i, 1], s=28, color=colour, edgecolors="black", linewidths=0.7, zorder=3)
                named.append(i)
                boxes += [box, mark]
                break
            note.remove()


def main(
    small: int = 12,
    large: int = 25_000,
    n_steps: int = 3_000,
    n_hidden: int = 2,
    seed: int = 0,
    out: Path = Path("runs/king-james"),
) -> None:
    """Train on a few and on many verses of the King James Bible.

    Args:
        small: Distinct verses in the small training set.
        large: Distinct verses in the large training set; the rest is held out from both.
        n_steps: Steps on the large set; the small one, where they cost next to nothing, gets four times as many.
        n_hidden: Hidden units, at least 2.
        seed: Seed of the choice of verses and of the initial weights.
        out: Directory for the two runs and the figure.
    """
    if n_hidden < 2:
        raise ValueError(f"n_hidden: received {n_hidden}, accepted: at least 2 (the figure is a plane)")
    bags = bags_of_words(king_james_verses())
    order = np.random.default_rng(seed).permutation(len(bags.references))
    if not 1 <= small <= large <= len(order) - 2:
        raise ValueError(f"received small {small}, large {large}, accepted: 1 <= small <= large <= {len(order) - 2}")
    held_out = bags.take(order[large:])
    few = fit(bags.take(order[:small]), held_out, n_hidden, 4 * n_steps, 8, seed, out)
    many = fit(bags.take(order[:large]), held_out, n_hidden, n_steps, 1, seed, out)
    for fitted in (few, many):
        print_report(fitted)
    draw([few, many], out / "king_james.png")
    print(f"\nfigure: {out / 'king_james.png'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=inspect.getdoc(main), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, parameter in inspect.signature(main).parameters.items():
        flag, default = f"--{name.replace('_', '-')}", parameter.default
        parser.add_argument(flag, type=type(default), default=default, help=f"default: {default}")
    try:
        main(**vars(parser.parse_args()))
    except (ValueError, ModuleNotFoundError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
