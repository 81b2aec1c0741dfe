"""What only the compiled kernel has: scratch memory, threads, the GIL, and steps that Ctrl-C must not wait for."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numba
import numpy as np
import pytest
from cases import CASES, Case, case
from processes import PATIENCE, running

from byheart.toy import pace
from byheart.toy.data import sample_examples
from byheart.toy.kernels import AdamW, compile, cpu, losses, narrow, neighbours, skipping, tickets, wide

# Blocks of features and groups of examples (narrow), groups and passes (wide): several, and a last one that is smaller.
NARROW = [(1, 1100, 300), (2, 2500, 700), (2, 60, 9001), (8, 40, 1025), (3, 2100, 40)]
WIDE = [(17, 1100, 300), (17, 60, 4100), (9, 2100, 20), (400, 700, 30)]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = numba.get_num_threads()
    yield
    numba.set_num_threads(before)


def large(n_hidden: int, n_features: int, n_examples: int) -> Case:
    rng = np.random.default_rng(n_hidden)
    W, b = (
        rng.normal(0, 0.3, (n_hidden, n_features)).astype(np.float32),
        rng.normal(0, 0.1, n_features).astype(np.float32),
    )
    return Case(W, b, sample_examples(n_examples, n_features, 0.9, rng, repeats=(3,)))


def trained(problem: Case, stretches: list[int], skip: bool = True) -> list[bytes]:
    """The bits of the weights after as many steps, taken in these stretches."""
    training = cpu.start(problem.W, problem.b, problem.examples, AdamW(), "sum", skipping=skip)
    for n_steps in stretches:
        training.advance(np.full(n_steps, 1e-3))
    assert np.isfinite(training.W).all()
    return [training.W.tobytes(), training.b.tobytes()]


def everything(problem: Case) -> list[bytes]:
    """The bits of all that the kernel computes."""
    bits = trained(problem, [5])
    arrays = [cpu.example_losses(problem.W, problem.b, problem.examples)]
    for skip in (True, False):
        arrays += cpu.loss_and_gradient(problem.W, problem.b, problem.examples, "sum", skipping=skip)
    return bits + [np.asarray(a).tobytes() for a in arrays]


def fill_scratch_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory comes with NaN in it, or counts and answers that change what is done."""

    def filled(shape: tuple[int, ...], dtype: type = np.float32) -> np.ndarray:
        memory, kind = compile.empty(shape, dtype), np.dtype(dtype).kind
        most = 0 if kind in "fb" else np.iinfo(dtype).max
        memory[...] = {"f": np.nan, "i": min(2**59, most), "u": most, "b": False}[kind]
        return memory

    for module in (losses, narrow, wide, skipping, neighbours, tickets):
        monkeypatch.setattr(module, "empty", filled)


@pytest.mark.parametrize("name", CASES[::3])
def test_scratch_memory_is_written_before_it_is_read(name, monkeypatch):
    expected = everything(case(name))
    fill_scratch_memory(monkeypatch)
    assert everything(case(name)) == expected


@pytest.mark.parametrize("size", NARROW + WIDE)
def test_scratch_memory_of_large_problems_is_written_before_it_is_read(size, monkeypatch):
    expected = everything(large(*size))
    fill_scratch_memory(monkeypatch)
    assert everything(large(*size)) == expected


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@pytest.mark.parametrize("size", NARROW + WIDE)
def test_the_bits_do_not_depend_on_the_number_of_threads(size, monkeypatch):
    for module in (losses, narrow, wide):
        monkeypatch.setattr(module, "_SERIAL_BELOW", 0)
    problem, results = large(*size), []
    for n_threads in (1, 2, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(n_threads)
        results.append(everything(problem))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("size", NARROW + WIDE)
def test_the_bits_are_the_same_from_run_to_run(size):
    assert everything(large(*size)) == everything(large(*size))


@pytest.mark.parametrize("size", [(2, 60, 40), (2, 60, 700), (17, 60, 700)])
def test_the_bits_do_not_depend_on_how_the_steps_are_cut_into_stretches(size):
    problem = large(*size)
    assert trained(problem, [80]) == trained(problem, [1] * 80) == trained(problem, [3, 10, 60, 7])


@pytest.mark.parametrize("n_hidden", [1, 2, 3, 8])
def test_with_and_without_skipping_the_gradient_is_the_same_up_to_rounding(n_hidden):
    problem = large(n_hidden, 150, 1500)
    exact, result = (
        cpu.loss_and_gradient(problem.W, problem.b, problem.examples, "sum", skipping=skip) for skip in (False, True)
    )
    assert result[0] == exact[0]
    assert any(r.tobytes() != e.tobytes() for r, e in zip(result[1:], exact[1:], strict=True))  # it did skip
    for r, e in zip(result[1:], exact[1:], strict=True):
        np.testing.assert_allclose(r, e, atol=1e-5 * np.abs(e).max())


def seem_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is done seems to take a thousand seconds, so it is done in the smallest pieces."""
    monkeypatch.setattr(pace, "perf_counter", itertools.count(0.0, 1000.0).__next__)
    for module in (losses, narrow, wide):
        monkeypatch.setattr(module, "_SHORT", -1)
    monkeypatch.setattr(narrow, "_WORK_PER_UNIT", 0)


@pytest.mark.parametrize("size", [*NARROW, *WIDE, (64, 33, 5000)])
def test_the_bits_do_not_depend_on_how_long_anything_takes(size, monkeypatch):
    problem, rng = large(*size), np.random.default_rng(0)
    expected = everything(problem)
    moments = np.cumsum(rng.exponential(rng.choice([1e-4, 0.03, 3.0], 100_000)))
    monkeypatch.setattr(pace, "perf_counter", iter(moments.tolist()).__next__)
    assert everything(problem) == expected
    seem_slow(monkeypatch)
    assert everything(problem) == expected


@pytest.mark.parametrize("n_threads", [1, 2])
def test_on_a_slow_machine_losses_are_left_after_every_chunk(n_threads, monkeypatch):
    numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
    seem_slow(monkeypatch)
    monkeypatch.setattr(losses, "_SERIAL_BELOW", 0)
    pieces, run = [], losses.side_by_side
    monkeypatch.setattr(losses, "side_by_side", lambda *a: (pieces.append((int(a[2][0]), a[3])), run(*a)))
    for n_hidden, n_chunks in ((2, 22), (17, 9)):  # of 32 examples, and an eighth of all
        problem = large(n_hidden, 60, 700)
        pieces.clear()
        assert len(cpu.example_losses(problem.W, problem.b, problem.examples)) == 700
        starts = range(0, n_chunks, numba.get_num_threads())  # one for each thread
        assert pieces == [(first, min(first + starts.step, n_chunks)) for first in starts]


@pytest.mark.parametrize("size", [(2, 1000, 500), (17, 1000, 200)])
def test_other_python_threads_run_while_the_kernel_does(size, monkeypatch):
    monkeypatch.setattr(narrow, "_CHECK_ORDER_EVERY", 10**9)
    monkeypatch.setattr(pace.Pace, "cut", lambda pace, first, last, multiple=1: [(first, last)])
    problem = large(*size)
    training = cpu.start(problem.W, problem.b, problem.examples, AdamW(), "sum")
    training.advance(np.full(2, 1e-6))
    for doubling in range(15):  # until the compiled code is long enough for this thread to get its turns
        n_steps, turns, before = 100 * 2**doubling, 0, training.step
        busy = threading.Thread(target=training.advance, args=(np.full(n_steps, 1e-6),))
        busy.start()
        while busy.is_alive():
            time.sleep(0.001)
            turns += 1
        assert training.step == before + n_steps
        if turns > 8:  # with the GIL held there would be one for each of one or two calls, however long
            return
    pytest.fail(f"{turns} turns in {n_steps} steps")


@pytest.mark.parametrize("n_hidden", [2, 9])
def test_the_outputs_of_all_examples_are_never_in_memory_at_once(n_hidden):
    n_examples, n_features = 3_000, 10_000
    examples = sample_examples(n_examples, n_features, 0.999, np.random.default_rng(0))
    W, b = np.zeros((n_hidden, n_features), np.float32), np.zeros(n_features, np.float32)
    tracemalloc.start()
    cpu.start(W, b, examples, AdamW(), "sum")
    cpu.example_losses(W, b, examples)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    of_threads = 4e6 * numba.config.NUMBA_NUM_THREADS  # each has pieces of its own, whatever the number of examples
    assert peak < n_examples * n_features * 4 / 15 + of_threads


_LONG_STEP = """
import signal, sys
import numpy as np
from byheart.toy.data import sample_examples
from byheart.toy.kernels import AdamW, cpu, narrow, wide

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may have been told to ignore it
n_hidden, n_examples, n_features, skip = map(int, sys.argv[1:])
rng = np.random.default_rng(0)
W, b = rng.normal(size=(n_hidden, n_features)).astype(np.float32), rng.normal(size=n_features).astype(np.float32)
for module in (narrow, wide):
    module._SHORT = -1
cpu.start(W[:, :90], b[:90], sample_examples(256, 90, 0.9, rng), AdamW(), "sum").advance(np.ones(1))  # compiles

module = narrow if n_hidden <= 8 else wide
run = module.side_by_side

def told(*arguments):
    print(arguments[3], flush=True)  # up to which unit this piece goes
    return run(*arguments)

module.side_by_side = told
training = cpu.start(W, b, sample_examples(n_examples, n_features, 1 - 10 / n_features, rng), AdamW(), "sum",
                     skipping=bool(skip))
try:
    training.advance(np.ones(1))
finally:  # a step ends with new weights
    print("not finished" if np.array_equal(training.W, W) else "finished")
"""


# Steps of several seconds, on a machine of a few cores; and the units that make one.
@pytest.mark.parametrize(
    ("size", "n_units"),
    [((2, 200_000, 100_000, 0), 1666), ((2, 200_000, 100_000, 1), 1764), ((64, 20_000, 60_000, 0), 2988)],
)
def test_ctrl_c_ends_a_long_step_in_its_midst(size, n_units):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with running(sys.executable, "-c", _LONG_STEP, *size, **pipes) as process:
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert process.returncode == -signal.SIGINT
    *pieces, end = out.splitlines()
    assert end == "not finished"
    assert all(int(last) < n_units for last in [first, *pieces])


_MILLION = """
import sys
from pathlib import Path
import numpy as np
from byheart.toy.data import sample_examples
from byheart.toy.kernels import AdamW, cpu

n_examples, n_features, n_hidden = 1_000_000, 10_000, 2
rng = np.random.default_rng(0)
W, b = rng.normal(size=(n_hidden, n_features)).astype(np.float32), np.zeros(n_features, np.float32)
examples = sample_examples(n_examples, n_features, 0.999, rng)
training = cpu.start(W, b, examples, AdamW(), "sum", skipping=bool(int(sys.argv[1])))
training.advance(np.full(2, 1e-3))
(peak,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024)
"""


@pytest.mark.large
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux how much memory the process had")
@pytest.mark.parametrize("skip", [0, 1])
def test_a_million_examples_are_trained_on_in_a_gigabyte(skip):
    done = subprocess.run([sys.executable, "-c", _MILLION, str(skip)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 0 < int(done.stdout) <= 1e9, f"{int(done.stdout) / 1e9:.2f} GB"


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are thought of from the start, for the smallest runs."""
    for name, value in (("_LIST_FROM", 0), ("_FIRST_LOOK", 4), ("_LOOK_EVERY", 16)):
        monkeypatch.setattr(cpu, name, value)


@pytest.fixture
def listed(looks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are made at the first look, and kept."""
    for name in ("_COMPUTED_AT_MOST", "_COMPUTED_AT_MOST_BY_ANY"):
        monkeypatch.setattr(cpu, name, 1.0)
    monkeypatch.setattr(cpu.Training, "_active_share", lambda self: 0.0)


def memorizing(n_hidden: int = 4, n_features: int = 200, n_examples: int = 300) -> Case:
    """Few outputs are active."""
    given = large(n_hidden, n_features, n_examples)
    return Case(given.W, given.b - 1, given.examples)


def with_lists(given: Case, stretches: list[int]) -> tuple[list[bytes], list[bool]]:
    """The bits of the weights after as many steps, and after each stretch whether there are lists."""
    training, by_lists = cpu.Training(given.W, given.b, given.examples, AdamW(), "sum"), []
    for n_steps in stretches:
        training.advance(np.full(n_steps, 1e-3))
        by_lists.append(training.listed is not None)
    return [rows.tobytes() for rows in training._now.parameters], by_lists


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize("n_hidden", [4, 9])
@pytest.mark.parametrize("at_most", [1e-9, 1.0])
def test_the_bits_do_not_depend_on_stretches_where_lists_are_taken_up_and_given_up(at_most, n_hidden, monkeypatch):
    monkeypatch.setattr(cpu, "_COMPUTED_AT_MOST", at_most)
    for module in (narrow, neighbours, wide):
        monkeypatch.setattr(module, "_SERIAL_BELOW", 0)
    given = memorizing(n_hidden)
    expected, _ = with_lists(given, [60])
    with compile.threads(1):
        assert with_lists(given, [60])[0] == expected
    of_single_steps, by_lists = with_lists(given, [1] * 60)
    assert of_single_steps == expected
    assert with_lists(given, [5, 9, 0, 33, 13])[0] == expected
    # The first look is before step 4, lists are made 4 steps later and looked at after one.
    assert by_lists.index(True) == 4 + 4
    assert by_lists[9] == all(by_lists[8:]) == (at_most == 1)
    if at_most < 1:  # made in vain, they are not made again soon
        assert by_lists.index(True, 9) == 9 + cpu._TRY_AGAIN + 4


@pytest.mark.usefixtures("looks")
def test_where_many_outputs_are_active_there_are_no_lists():
    given = large(4, 200, 300)
    assert not any(with_lists(Case(given.W, given.b + 1, given.examples), [1] * 60)[1])


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize("n_hidden", [4, 9])
def test_steps_before_in_and_after_lists_are_those_of_tiles(n_hidden, monkeypatch):
    given, results = memorizing(n_hidden), []
    for skip in (False, True):
        training = cpu.start(given.W, given.b, given.examples, AdamW(eps=1.0), "sum", skipping=skip)
        for at_most in (1.0, 1e-9):
            training.advance(np.full(20, 0.1))
            assert not skip or (training.listed is not None) == (at_most == 1.0)
            monkeypatch.setattr(cpu, "_COMPUTED_AT_MOST", 1e-9)
            monkeypatch.setattr(cpu, "_LOOK_EVERY", 1)
        monkeypatch.setattr(cpu, "_COMPUTED_AT_MOST", 1.0)
        results.append((training.W, training.b))
    for ours, tiles, before in zip(*results[::-1], (given.W, given.b), strict=True):
        assert np.abs(ours - before).max() > 1e-3
        np.testing.assert_allclose(ours, tiles, atol=1e-5)


@pytest.mark.usefixtures("listed")
def test_lists_of_wide_models_share_arrays_with_tiles_and_leave_nothing_behind():
    given, made = memorizing(12), []
    training = cpu.Training(given.W, given.b, given.examples, AdamW(), "sum")
    units, first = training.tiled.units_of_step, None
    for _ in range(2):
        training.advance(np.full(3, 1e-3))
        training._list(training.tiled.parameters[0], 3)
        assert all(one is other for one, other in zip(training.listed.state, training.tiled.state, strict=True))
        assert training.listed.team is not training.tiled.team
        made.append(training.listed.units_of_step)
        first = first or weakref.ref(training.listed)
        training._give_up_lists()
        assert first() is None
        assert training.tiled.lists is None
        assert training.tiled.units_of_step == units
    assert made[0] == made[1] > units


@pytest.mark.usefixtures("listed")
@pytest.mark.parametrize("n_hidden", [4, 9])
def test_lists_are_given_up_with_the_same_weights_and_moments_when_the_examples_change(n_hidden):
    given = memorizing(n_hidden)
    training = cpu.Training(given.W, given.b, given.examples, AdamW(), "sum")
    training.advance(np.full(30, 1e-3))
    assert training.listed is not None
    before = training._now.parameters
    training.set_examples(sample_examples(50, 200, 0.9, np.random.default_rng(0)))
    assert training.listed is None
    assert training.step == training.tiled.step == 30
    for one, other in zip(training.tiled.parameters, before, strict=True):
        assert np.array_equal(one, other)
    training.advance(np.full(30, 1e-3))
    assert training.listed is None
