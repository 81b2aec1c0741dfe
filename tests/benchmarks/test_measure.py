"""The benchmark from end to end on a tiny grid, what stops a timing, and that no process is left behind."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from processes import PATIENCE, running, wait_until

from benchmarks import measure
from benchmarks.__main__ import main
from benchmarks.agreement import answer
from benchmarks.child import ChildError, Process
from benchmarks.config import FIRST_STEPS, TURN_SECONDS, TURN_STEPS, BenchConfig
from benchmarks.measure import _at_start, _plan, _steps_per_turn, benchmark, near_the_fastest
from benchmarks.problem import Problem
from benchmarks.results import Measurement, Results, Size, Wait, file_of, kind_here
from byheart.toy.data import sample_examples
from byheart.toy.kernels import AdamW, cpu
from byheart.toy.model import initial_weights

ROOT = Path(__file__).parents[2]

TINY = BenchConfig(
    n_hidden=(2,),
    n_examples=(20,),
    n_features=200,
    sparsity=0.98,
    contenders=("byheart", "byheart-dense"),
    n_rounds=2,
    seconds_per_round=0.01,
    n_threads=1,
    large_examples=(30,),
    trained=("2:20:40",),
    points=(10,),
    sweep_runs=2,
    sweep_steps=20,
    only=("steps",),
)
TINY_WORDS = ["--n-hidden", "2", "--n-examples", "20", "--n-features", "200", "--sparsity", "0.98"]
TINY_WORDS += ["--n-rounds", "2", "--seconds-per-round", "0.01", "--n-threads", "1", "--large-examples", "30"]
TINY_WORDS += ["--trained", "2:20:40", "--points", "10", "--sweep-runs", "2", "--sweep-steps", "20"]
OURS = ["--contenders", "byheart", "byheart-dense"]


@pytest.mark.slow
def test_bench_checks_times_and_keeps_what_it_measured(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("benchmarks.waits.measured", lambda n_threads: {"first": Wait(7.0, 7.5), "again": Wait(1, 1)})
    arguments = [*TINY_WORDS, "--contenders", "byheart", "byheart-dense", "torch-eager", "--out", "out"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "## Targets" in printed.out
    path = file_of(tmp_path / "out", kind_here())
    results = Results.load(path)
    timed = {(m.contender, m.size.n_examples, m.size.trained_steps): m for m in results.measurements}
    assert set(timed) == {
        *((name, 20, 0) for name in ("byheart", "byheart-dense", "torch-eager")),
        *((name, 20, 40) for name in ("byheart", "byheart-dense", "torch-eager")),
        *((name, 20, 10) for name in ("byheart", "torch-eager")),
        *((name, 30, 0) for name in ("byheart", "byheart-dense")),
    }
    for measurement in timed.values():
        assert measurement.problem == ""
        assert len(measurement.seconds) == 2
        assert min(measurement.seconds) > 0
        assert 0 < max(measurement.errors.values()) <= 1
        assert measurement.peak_bytes >= measurement.base_bytes > 50e6
    assert len(results.ceilings) == 4
    assert results.best_ceilings().fma > results.best_ceilings().copy > 1e8
    assert results.sweep is not None
    assert 0 < results.sweep.efficiency < 1
    (run,) = results.runs
    assert (run.size.trained_steps, run.points) == (40, (10, 40))
    assert run.wall_seconds > 0
    assert 0 < run.active < 1
    assert (tmp_path / "out" / "README.md").read_text() == printed.out
    text = (tmp_path / "out" / f"{kind_here()}.md").read_text()
    assert "| 2 | 20 | 10 of 40 |" in text

    (tmp_path / "out" / "README.md").unlink()
    assert main(["--tables-only", "--out", "out"]) == 0
    assert (tmp_path / "out" / "README.md").read_text() == printed.out

    before = path.read_text()
    assert main([*arguments, "--go-on"]) == 0  # everything is there
    assert path.read_text() == before.replace('"n_calls": 1', '"n_calls": 2')
    path.write_text(before.replace('"numpy": "', '"numpy": "0'))
    capsys.readouterr()
    assert main([*arguments, "--go-on"]) == 2
    assert "go_on: received results with numpy 0" in capsys.readouterr().err


def test_no_timing_without_agreement(monkeypatch):
    def shifted(problem, dtype, optimizer, n_threads):
        truth = answer(problem, dtype, optimizer, n_threads)
        return dataclasses.replace(truth, grad_b=truth.grad_b + 0.01 * np.abs(truth.grad_b).max())

    monkeypatch.setattr(measure, "answer", shifted)
    found = list(benchmark(TINY, lambda *_: None))[-1]
    assert len(found.measurements) == 2
    for measurement in found.measurements:
        assert measurement.problem.startswith("disagrees: grad_b off by")
        assert (measurement.seconds, measurement.steps_per_round) == ((), 0)


@pytest.mark.slow
def test_a_run_begins_with_the_weights_of_its_start_and_an_interrupted_one_is_finished():
    config = dataclasses.replace(TINY, only=("trained",), contenders=("byheart",), points=(10, 30, 99))
    *_, whole = benchmark(config, lambda *_: None)
    assert [m.size.trained_steps for m in whole.measurements] == [0, 40, 30, 10]  # 99 is beyond its end
    assert [m.size.run_steps for m in whole.measurements] == [0, 40, 40, 40]
    interrupted = dataclasses.replace(whole, measurements=whole.measurements[:2])
    *_, finished = benchmark(config, lambda *_: None, interrupted)
    assert [m.size for m in finished.measurements] == [m.size for m in whole.measurements]
    assert finished.measurements[:2] == whole.measurements[:2]
    assert [run.active for run in finished.runs] == [run.active for run in whole.runs]
    assert finished.machine["n_calls"] == 2


def test_results_of_another_revision_are_not_gone_on_with():
    first = next(benchmark(TINY, lambda *_: None))
    other = dataclasses.replace(first, machine={**first.machine, "git_revision": "0123"})
    with pytest.raises(ValueError, match="go_on: received results with git_revision 0123, accepted: those with"):
        next(benchmark(TINY, lambda *_: None, other))
    revision = first.machine["git_revision"].removesuffix("+") + "+"
    changed = dataclasses.replace(first, machine={**first.machine, "git_revision": revision})
    assert next(benchmark(TINY, lambda *_: None, changed)).machine["n_calls"] == 2  # the results themselves are changes


def test_the_plan_has_every_size_once_and_a_run_follows_its_start():
    config = dataclasses.replace(
        TINY,
        only=("sweep", "trained", "steps", "large"),
        n_hidden=(2, 16),
        n_examples=(10, 20),
        trained=("16:20:40", "16:20:50", "4:30:5:100"),
        large_examples=(20, 500),
    )
    sizes = list(_plan(config))
    assert sizes[0] == "sweep"
    assert [(s.n_hidden, s.n_examples, s.run_steps) for s in sizes[1:]] == [
        *((16, 20, 0), (16, 20, 40), (16, 20, 50), (4, 30, 0), (4, 30, 5)),
        *((2, 10, 0), (2, 20, 0), (16, 10, 0), (2, 500, 0)),
    ]
    assert sizes[4] == Size(4, 30, 100, 0.96)  # as many active features
    assert list(_plan(dataclasses.replace(config, only=("waits",)))) == ["waits"]


def test_dense_torch_is_timed_at_the_smallest_width_and_byheart_alone_with_many_examples():
    config = dataclasses.replace(TINY, n_hidden=(2, 16), large_examples=(500,))
    assert len(_at_start(Size(2, 20, 200, 0.98), config)) == 8
    assert set(_at_start(Size(16, 20, 200, 0.98), config)) == {
        *("byheart", "byheart-dense", "torch-eager-sparse", "torch-compile-sparse", "jax", "jax-sparse")
    }
    assert set(_at_start(Size(2, 500, 200, 0.98), config)) == {"byheart", "byheart-dense"}


def test_peers_that_are_near_the_fastest_go_on_to_trained_weights():
    start = Size(2, 20, 200, 0.98)
    seconds = {"byheart": 0.001, "jax": 1.0, "jax-sparse": 1.49, "torch-eager": 1.5}
    found = [Measurement(start, name, (value,)) for name, value in seconds.items()]
    results = Results({}, (*found, Measurement(start, "torch-compile", problem="killed")))
    assert near_the_fastest(results, start) == ["jax", "jax-sparse"]
    assert near_the_fastest(Results({}), start) == []


class _Even:
    """Stands for a process whose steps all take as long."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.asked = seconds, []

    def ask(self, command: str, n_steps: int) -> dict[str, float]:
        assert command == "advance"
        self.asked.append(n_steps)
        return {"seconds": n_steps * self.seconds}


@pytest.mark.parametrize(
    ("seconds", "long", "short"),
    [(0.001, 250, 250), (0.01, TURN_STEPS, 25), (1.0, round(TURN_SECONDS), 1), (30.0, 1, 1)],
)
def test_turns_with_lists_are_long_enough_to_make_them_and_no_others_are(seconds, long, short):
    trained = Size(32, 1_000, 1_000, 0.99, 300, 300)
    for name, size, expected in (
        ("byheart", trained, long),
        ("byheart-dense", trained, short),
        ("jax", trained, short),
        ("byheart", trained.start, short),
    ):
        child = _Even(seconds)
        assert _steps_per_turn(child, name, size, BenchConfig()) == expected
        assert child.asked[0] == (FIRST_STEPS if name == "byheart" and size == trained else 1)


@pytest.mark.parametrize("n_hidden", [5, 12])
def test_lists_are_made_before_the_first_turn_is_timed(n_hidden):
    rng = np.random.default_rng(0)
    W, b = rng.normal(size=(n_hidden, 1_000)), np.full(1_000, -6.0)
    training = cpu.start(W, b, sample_examples(1_000, 1_000, 0.997, rng), AdamW(), "sum")
    training.advance(np.full(1, 1e-6))  # the rate of a turn
    assert training.listed is None
    training.advance(np.full(FIRST_STEPS, 1e-6))
    assert training.listed is not None


def test_a_child_that_dies_is_reported_with_its_last_words(tmp_path):
    with Process("byheart", 1, False, tmp_path) as child:
        with pytest.raises(ChildError, match="no-such-file"):
            child.ask("build", problem=str(tmp_path / "no-such-file.npz"))
        with pytest.raises(ChildError):
            child.ask("memory")
    with Process("", 1, True, tmp_path) as child:
        child.process.kill()
        with pytest.raises(ChildError, match=r"killed by SIGKILL \(out of memory\?\)"):
            child.ask("memory")


def test_a_child_ends_with_its_parent_even_in_the_midst_of_a_step(tmp_path):
    rng = np.random.default_rng(0)
    given = Problem(*initial_weights(2, 200, "xavier_normal", rng), sample_examples(100, 200, 0.98, rng))
    given.save(tmp_path / "problem.npz")
    with Process("byheart", 1, False, tmp_path) as child:
        child.ask("build", problem=str(tmp_path / "problem.npz"))
        child.ask("start", learning_rate=1e-3)
        child.send("advance", n_steps=1_000_000_000)
        time.sleep(0.5)
        assert child.process.poll() is None
        child.process.stdin.close()
        assert child.process.wait(timeout=PATIENCE) == 0  # far less than it was asked for


@pytest.mark.slow
def test_ctrl_c_ends_a_round_in_its_midst_and_leaves_no_process(tmp_path):
    words = [word if word != "0.01" else "3600" for word in TINY_WORDS]  # seconds per round
    command = [sys.executable, "-m", "benchmarks", *words, *OURS, "--only", "steps", "--out", tmp_path / "out"]
    marked = partial(processes_with, f"BYHEART_TEST={tmp_path}")
    environment = os.environ | {"BYHEART_TEST": str(tmp_path)}
    with running(*command, stderr=subprocess.PIPE, env=environment, cwd=ROOT) as process:
        wait_until(lambda: len(marked()) == 4 or process.poll() is not None)  # parent, ceilings, two contenders
        time.sleep(3)  # until they are asked for steps
        assert process.poll() is None, process.stderr.read()
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)  # far less than a round
    assert process.returncode == 130
    assert (
        err.strip() == f"interrupted; the sizes measured so far are kept in {tmp_path}/out: --go-on measures the rest"
    )
    wait_until(lambda: marked() == [])


def processes_with(variable):
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended, or another user's
            found += [process.name] if variable.encode() in (process / "environ").read_bytes().split(b"\0") else []
    return found


@pytest.mark.parametrize(
    ("arguments", "received", "accepted"),
    [
        (["--n-hidden", "0"], "received (0,)", "integers >= 1"),
        (["--n-examples", "10", "-1"], "received (10, -1)", "integers >= 1"),
        (["--n-examples", "ten"], "ten", "int"),
        (["--sparsity", "1"], "received 1.0", "0 <= sparsity < 1"),
        (["--n-rounds", "0"], "received 0", "integer >= 1"),
        (["--n-threads", "0"], "received 0", "integer >= 1"),
        (["--seconds-per-round", "nan"], "received nan", "finite number > 0"),
        (["--contenders", "fortran"], "received fortran", "byheart-dense"),
        (["--contenders", "byheart", "byheart"], "received byheart, byheart", "each contender once"),
        (["--sweep-runs", "0"], "received 0", "integer >= 1"),
        (["--points", "0"], "received (0,)", "integers >= 1"),
        (["--trained", "2:10"], "received 2:10", "m:T:steps or m:T:steps:n"),
        (["--trained", "2:10:0"], "received 2:10:0", "m:T:steps or m:T:steps:n"),
        (["--trained", "2:10:x"], "received 2:10:x", "m:T:steps or m:T:steps:n"),
        (["--trained", "2:10:20:5"], "received 2:10:20:5", "n above the number of active features"),
        (["--n-hidden"], "received ()", "at least one"),
        (["--only", "lunch"], "lunch", "waits, sweep, trained, steps, large"),
        (["--only", "large", "--contenders", "jax"], "received jax", "one of byheart, byheart-dense"),
        (["--tables-only"], "results-KIND.json", "what python -m benchmarks wrote"),
        (["--go-on"], f"results-{kind_here()}.json", "what python -m benchmarks wrote"),
        (["--bogus", "1"], "received --bogus 1", "options of this command"),
    ],
)
def test_bad_input_is_answered_in_one_line_and_with_status_2(
    capsys, tmp_path, monkeypatch, arguments, received, accepted
):
    monkeypatch.chdir(tmp_path)
    contenders = [] if "--contenders" in arguments else ["--contenders", "byheart"]
    try:
        status = main([*contenders, *arguments])
    except SystemExit as error:
        status = error.code
    printed = capsys.readouterr()
    assert (status, printed.out) == (2, "")
    assert printed.err.count("\n") == 1, printed.err
    assert received in printed.err
    assert accepted in printed.err
    assert list(tmp_path.iterdir()) == []
