"""Damaged and crafted run files: ``python -m benchmarks.mutations --n 100000`` counts those that are taken for the run.

A file counts as refused if the error is one line that names it, as wrong if it loads with other numbers or words than
were written, and as a crash if anything else is raised. The table is results/reliability/mutations.csv.
"""

from __future__ import annotations

import argparse
import json
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from byheart.own import write_table
from byheart.progress import bar
from byheart.records import Record, write
from byheart.storage import prepare_directory
from byheart.toy.config import TrainConfig
from byheart.toy.runs import Run, load_run, read_header
from byheart.toy.train import train

COLUMNS = ("kind", "tried", "refused", "same", "wrong", "crashed")
_TERABYTE = 2**40
Mutate = Callable[[bytearray, np.random.Generator], bytearray]


def _flip(content: bytearray, rng: np.random.Generator) -> bytearray:
    for place in rng.integers(0, len(content), rng.integers(1, 9)):
        content[place] ^= 1 << int(rng.integers(8))
    return content


def _overwrite(content: bytearray, rng: np.random.Generator) -> bytearray:
    start, length = int(rng.integers(len(content))), int(rng.integers(1, 65))
    content[start : start + length] = rng.bytes(min(length, len(content) - start))
    return content


def _cut_out(content: bytearray, rng: np.random.Generator) -> bytearray:
    start = int(rng.integers(len(content)))
    del content[start : start + int(rng.integers(1, 129))]
    return content


def _insert(content: bytearray, rng: np.random.Generator) -> bytearray:
    start = int(rng.integers(len(content) + 1))
    content[start:start] = rng.bytes(int(rng.integers(1, 129)))
    return content


def _swap(content: bytearray, rng: np.random.Generator) -> bytearray:
    first, second = (int(place) for place in rng.integers(0, len(content), 2))
    one, two = bytes(content[first : first + 16]), bytes(content[second : second + 16])
    content[first : first + len(two)], content[second : second + len(one)] = two, one
    return content


def _lie_about_length(content: bytearray, rng: np.random.Generator) -> bytearray:
    content[:8] = struct.pack("<Q", int(rng.integers(0, 2**63) >> int(rng.integers(63))))
    return content


def _digit(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Change a digit of the header, as of a metric, a shape, an offset or a digest."""
    stop = 8 + int.from_bytes(content[:8], "little")
    places = [place for place in range(8, stop) if chr(content[place]).isdigit()]
    content[places[int(rng.integers(len(places)))]] = ord(str(rng.integers(10)))
    return content


def _claim_terabytes(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Give an array a size of terabytes, in a header that is well formed."""
    stop = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:stop])
    names = [name for name in header if name != "__metadata__"]
    array = header[names[int(rng.integers(len(names)))]]
    size = _TERABYTE << int(rng.integers(8))
    array |= {"shape": [size // 4], "data_offsets": [array["data_offsets"][0], array["data_offsets"][0] + size]}
    words = json.dumps(header).encode()
    words += b" " * (-len(words) % 8)
    return bytearray(struct.pack("<Q", len(words)) + words + content[stop:])


MUTATIONS: dict[str, Mutate] = {
    "bits flipped": _flip,
    "bytes overwritten": _overwrite,
    "bytes cut out": _cut_out,
    "bytes inserted": _insert,
    "blocks swapped": _swap,
    "a digit of the header": _digit,
    "another length of the header": _lie_about_length,
    "an array of terabytes": _claim_terabytes,
}


def small_run() -> Run:
    """Return a trained run with all that a file can hold."""
    config = TrainConfig(n_examples=3, n_features=20, sparsity=0.8, n_steps=20, n_test=10, snapshot_steps=(0, 20))
    return train(config, kernel="reference")


def crafted(run: Run) -> Iterator[tuple[str, Record]]:
    """Yield records with right digests that are no run of their config."""
    good = run.to_record()
    arrays, header = dict(good.arrays), dict(good.header)
    for name, array in arrays.items():
        yield f"without {name}", Record({k: v for k, v in arrays.items() if k != name}, header)
        yield f"{name} longer", Record(arrays | {name: np.concatenate([array, array[-1:]])}, header)
        yield f"{name} empty", Record(arrays | {name: array[:0]}, header)
        yield f"{name} of a number", Record(arrays | {name: array.reshape(-1)[:1].reshape(())}, header)
        yield f"{name} as int8", Record(arrays | {name: array.astype(np.int8)}, header)
        if array.dtype.kind == "f":
            yield f"{name} with NaN", Record(arrays | {name: np.full_like(array, np.nan)}, header)
    yield "another array", Record(arrays | {"more": np.ones(2)}, header)
    yield "repeats of 0", Record(arrays | {"repeats": 0 * arrays["repeats"]}, header)
    yield "steps that fall", Record(arrays | {"history.step": arrays["history.step"][::-1].copy()}, header)
    for name in header:
        yield f"no {name}", Record(arrays, {k: v for k, v in header.items() if k != name})
    for name in ("config", "metrics", "provenance"):
        for words in ("", "[]", "1", "null", '"x"', "{", "{}" if name == "config" else "[[]]", "[" * 100_000):
            yield f"{name} {words[:9]}", Record(arrays, header | {name: words})
    for field, value in _WRONG_FIELDS:
        config = json.loads(header["config"]) | {field: value}
        yield f"{field} {str(value)[:9]}", Record(arrays, header | {"config": json.dumps(config)})
    for value in ("x", [1], {"a": 1}, True, float("nan"), float("inf")):
        yield f"a metric {value}", Record(arrays, header | {"metrics": json.dumps({"train_loss": value})})
    for value in ("x", [1], {}):
        yield f"wall_seconds {value}", Record(arrays, header | {"provenance": json.dumps({"wall_seconds": value})})


_WRONG_FIELDS: tuple[tuple[str, Any], ...] = (
    ("n_examples", 10**6),
    ("n_examples", [3]),
    ("n_examples", None),
    ("n_features", 10**12),
    ("n_features", "20"),
    ("n_hidden", 3),
    ("n_hidden", -1),
    ("n_steps", 10**400),
    ("sparsity", 2),
    ("sparsity", "high"),
    ("snapshot_steps", [1, 2]),
    ("snapshot_steps", 7),
    ("repeats", [0]),
    ("repeats", {"a": 1}),
    ("unheard_of", 1),
)


class Trial:
    """A directory with one run file, into which mutants are written."""

    def __init__(self, directory: Path) -> None:
        self.run = small_run()
        self.path = Path(self.run.save(directory))
        self.content = self.path.read_bytes()
        self.seconds = 0.0
        """Of the slowest file."""

    def outcome(self, content: bytes, path: Path | None = None) -> str:
        """Return what becomes of a file with this content: refused, same, wrong or crashed."""
        path = path or self.path
        path.write_bytes(content)
        started = time.process_time()
        try:
            outcomes = {self._of(path, read_header), self._of(path, load_run)}
        finally:
            self.seconds = max(self.seconds, time.process_time() - started)
        return next(name for name in ("crashed", "wrong", "refused", "same") if name in outcomes)

    def _of(self, path: Path, read: Callable[[Path], Any]) -> str:
        try:
            found = read(path)
        except ValueError as error:
            return "refused" if str(path) in str(error) and "\n" not in str(error) else "crashed"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is counted
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            return "crashed"
        names = ("config", "metrics", "provenance", "data_digest", "id")
        same = all(getattr(found, name) == getattr(self.run, name) for name in names)
        return "same" if same and (not isinstance(found, Run) or _bits(found) == _bits(self.run)) else "wrong"


def _bits(run: Run) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in run.to_record().arrays.items()}


def try_all(
    n: int, seed: int, directory: Path, advance: Callable[[int], None], cut_every: int = 1
) -> tuple[pd.DataFrame, float]:
    """Try so many random mutants, the file cut short, and the crafted files.

    Args:
        n: Number of random mutants.
        seed: Of what is changed.
        directory: Empty, for the files.
        advance: Called with the number of files tried.
        cut_every: Bytes between the places where the file is cut; 1 cuts at each.

    Returns:
        A row per kind with counts by outcome, and the CPU seconds of the slowest file.
    """
    trial, counts = Trial(directory), Counter[tuple[str, str]]()
    kinds = list(MUTATIONS)
    for number in range(n):
        rng = np.random.default_rng([seed, number])
        kind = kinds[number % len(kinds)]
        mutant = bytes(MUTATIONS[kind](bytearray(trial.content), rng))
        counts[kind, trial.outcome(mutant)] += 1
        if number % 100 == 0:
            advance(number)
    for length in range(0, len(trial.content), cut_every):
        counts["cut short", trial.outcome(trial.content[:length])] += 1
    trial.path.unlink()
    for _, record in crafted(trial.run):
        path = directory / "crafted" / trial.path.name
        path.unlink(missing_ok=True)
        write(path, record)
        counts["right digest, wrong contents", trial.outcome(path.read_bytes(), path)] += 1
    table = pd.DataFrame(
        [
            (
                kind,
                *(sum(counts[kind, o] for o in group) for group in (COLUMNS[2:], *((name,) for name in COLUMNS[2:]))),
            )
            for kind in dict.fromkeys(kind for kind, _ in counts)
        ],
        columns=list(COLUMNS),
    )
    return table, trial.seconds


def main() -> int:
    """Try, print and write the table, and return 1 if a file was taken wrongly or crashed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutations", description=__doc__)
    parser.add_argument("--n", type=int, default=100_000, help="number of random mutants (default: 100,000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is changed")
    parser.add_argument("--out", type=Path, default=Path("results/reliability"), help="directory of mutations.csv")
    given = parser.parse_args()
    prepare_directory(given.out)
    with tempfile.TemporaryDirectory() as directory, bar("mutants") as advance:
        table, seconds = try_all(given.n, given.seed, Path(directory), lambda done: advance(done, given.n, ""))
    write_table(given.out / "mutations.csv", table)
    print(table.to_string(index=False))
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{table['tried'].sum():,} files; at most {seconds:.3f} s of CPU for one; {megabytes:.0f} MB of memory at most"
    )
    return int(bool(table[["wrong", "crashed"]].to_numpy().sum()))


if __name__ == "__main__":
    sys.exit(main())
