"""From texts to tokens: a tokenizer trained on the texts, or one that is given, and where every token stands.

Where a tokenizer says that a token stands is not trusted: the characters are found by decoding, since tokenizers shift
them at spaces, and at characters of several bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from byheart.language.documents import Documents
from byheart.language.extras import require

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_FEWEST = 257  # a token for every byte, and one that is learned
_PENDING = 16  # tokens without a match after which a text is not given back; a character has a few


def trained(texts: Sequence[str], vocabulary: int = 1024) -> Tokenizer:
    """Train a byte-level tokenizer on texts: pairs that are most frequent become tokens (byte-pair encoding).

    Args:
        texts: What to train on.
        vocabulary: Number of tokens at most, at least 257; short texts give fewer.

    Raises:
        ValueError: If ``vocabulary`` is out of range.
        ModuleNotFoundError: If the package tokenizers is missing.

    References:
        Sennrich, Haddow and Birch 2016; Radford et al. 2019 (bytes).
    """
    if vocabulary < _FEWEST:
        raise ValueError(f"vocabulary: received {vocabulary}, accepted: an integer >= {_FEWEST}")
    require("tokenizers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    settings: dict[str, Any] = {"vocab_size": vocabulary, "initial_alphabet": alphabet, "show_progress": False}
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(**settings))
    return tokenizer


def tokenize(
    names: Sequence[str],
    texts: Sequence[str],
    tokenizer: Any = None,
    vocabulary: int = 1024,
    notes: Sequence[str] = (),
) -> Documents:
    """Cut texts into tokens.

    Args:
        names: A name for every text.
        texts: The texts.
        tokenizer: A ``tokenizers.Tokenizer``, the path of its tokenizer.json, or a fast tokenizer of Hugging Face;
            default one trained on the texts.
        vocabulary: Number of tokens of one that is trained.
        notes: What was assumed when the texts were read.

    Raises:
        ValueError: If a text is empty or has no name, or the tokenizer cannot give back a text as it is.
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If the package tokenizers is missing.
    """
    require("tokenizers")
    if len(names) != len(texts):
        raise ValueError(f"documents: received {len(names)} names of {len(texts)} texts, accepted: as many")
    for name, text in zip(names, texts, strict=True):
        if not text:
            raise ValueError(f"documents: received {name!r}, which is empty, accepted: texts")
    own = trained(texts, vocabulary) if tokenizer is None else _opened(tokenizer)
    try:
        encoded = [encoding.ids for encoding in own.encode_batch(list(texts), add_special_tokens=False)]
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exceptions
        raise ValueError(f"tokenizer: received texts that it cannot cut ({error}), accepted: one that can") from None
    tokens = tuple(np.array(ids, dtype=np.int64) for ids in encoded)
    offsets = tuple(_offsets(own, *row) for row in zip(names, texts, encoded, strict=True))
    size = 1 + max(own.get_vocab().values())  # numbers may be left out
    return Documents(tuple(names), tuple(texts), tokens, offsets, size, tuple(notes))


def _opened(tokenizer: Any) -> Tokenizer:
    """Open a tokenizer, without what would cut the texts or fill them up."""
    from tokenizers import Tokenizer

    if isinstance(tokenizer, (str, Path)):
        if not Path(tokenizer).is_file():
            raise FileNotFoundError(f"tokenizer: received {tokenizer}, accepted: the path of a tokenizer.json")
        try:
            tokenizer = Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exceptions
            raise ValueError(f"tokenizer: received {tokenizer} ({error}), accepted: a tokenizer.json") from None
    inner = getattr(tokenizer, "backend_tokenizer", tokenizer)  # of a fast tokenizer of Hugging Face
    if not isinstance(inner, Tokenizer):
        raise ValueError(
            f"tokenizer: received {type(tokenizer).__name__}, accepted: a tokenizers.Tokenizer, the path of a"
            " tokenizer.json, or a fast tokenizer of Hugging Face"
        )
    if inner.padding or inner.truncation:
        inner = Tokenizer.from_str(inner.to_str())  # the user's own stays as it is
        inner.no_padding()
        inner.no_truncation()
    return inner


def _offsets(tokenizer: Tokenizer, name: str, text: str, ids: list[int]) -> Int64[np.ndarray, "n_tokens 2"]:
    """Find the characters of every token: what is decoded up to a token is how the text begins.

    A token that ends within a character of several bytes counts as ending before it; the character is its last token's.
    What is not found is decoded again after the token before it, since decoders treat the first one specially.
    """

    def decoded(first: int, stop: int) -> str:
        said: str = tokenizer.decode(ids[first:stop], skip_special_tokens=False)
        return said

    ends, at = [], 0
    base = 0  # of the tokens decoded together
    for number in range(len(ids)):
        said = decoded(base, number + 1)
        whole = not said.endswith("\ufffd") or number + 1 == len(ids)  # that character may be one that is not yet whole
        found = said if whole and said and text.startswith(said, at) else ""
        if not found and whole and base:
            before, after = decoded(base - 1, base), decoded(base - 1, number + 1)
            new = after[len(before) :] if after.startswith(before) else ""
            found = new if text.startswith(new, at) else ""
        if not found and "\ufffd" not in said and not said.startswith(" ") and text.startswith(" " + said, at):
            found = " " + said  # some decoders leave out the space at the beginning
        if found or not said:
            at, base = at + len(found), number + 1
        ends.append(at)
        if whole and number - base > _PENDING:
            break
    if at != len(text) or base != len(ids):
        where = text[at : at + 20]
        raise ValueError(
            f"tokenizer: received {name!r}, of which it does not give back {where!r} (character {at}), accepted: a"
            " tokenizer that leaves texts as they are, such as a byte-level one"
        )
    return np.stack([np.array([0, *ends[:-1]]), np.array(ends)], axis=1).astype(np.int64)
