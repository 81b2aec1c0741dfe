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
from benchmarks.config import BenchConfig
from benchmarks.measure import _plan, _problem, benchmark
from benchmarks.problem import Problem
from benchmarks.results import Results, Size
from byheart.toy.data import sample_examples
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
    large_examples=(),
    trained_examples=(),
    trained_hidden=(),
    trained_steps=20,
    sweep_runs=0,
    sweep_steps=20,
)
TINY_WORDS = ["--n-hidden", "2", "--n-examples", "20", "--n-features", "200", "--sparsity", "0.98"]
TINY_WORDS += ["--n-rounds", "2", "--seconds-per-round", "0.01", "--n-threads", "1", "--trained-steps", "20"]
TINY_WORDS += ["--large-examples", "--trained-hidden", "--sweep-steps", "20"]
OURS = ["--contenders", "byheart", "byheart-dense"]


@pytest.mark.slow
def test_bench_checks_times_and_keeps_what_it_measured(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [*TINY_WORDS, "--contenders", "byheart", "byheart-dense", "torch-eager", "--trained-examples", "30"]
    arguments += ["--sweep-runs", "2", "--out", "out"]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "## Targets" in printed.out
    results = Results.load(tmp_path / "out" / "results.json")
    timed = {(m.contender, m.size.n_examples, m.size.trained_steps): m for m in results.measurements}
    assert set(timed) == {
        *((name, 20, 0) for name in ("byheart", "byheart-dense", "torch-eager")),
        *((name, 30, 20) for name in ("byheart", "byheart-dense")),
    }
    for measurement in timed.values():
        assert measurement.problem == ""
        assert len(measurement.seconds) == 2
        assert min(measurement.seconds) > 0
        assert 0 < max(measurement.errors.values()) <= 1
        assert measurement.peak_bytes >= measurement.base_bytes > 50e6
    assert len(results.ceilings) == 2
    assert results.best_ceilings().fma > results.best_ceilings().copy > 1e8
    assert results.sweep is not None
    assert 0 < results.sweep.efficiency < 1
    assert (tmp_path / "out" / "README.md").read_text() == printed.out
    assert "| 2 | 20 |" in printed.out
    assert len(list((tmp_path / "runs" / "benchmark").glob("*.safetensors"))) == 1

    (tmp_path / "out" / "README.md").unlink()
    assert main(["--tables-only", "--out", "out"]) == 0
    assert (tmp_path / "out" / "README.md").read_text() == printed.out


def test_no_timing_without_agreement(monkeypatch, tmp_path):
    def shifted(problem, dtype, optimizer, n_threads):
        truth = answer(problem, dtype, optimizer, n_threads)
        return dataclasses.replace(truth, grad_b=truth.grad_b + 0.01 * np.abs(truth.grad_b).max())

    monkeypatch.setattr(measure, "answer", shifted)
    found = list(benchmark(dataclasses.replace(TINY, runs=tmp_path), lambda *_: None))[-1]
    assert len(found.measurements) == 2
    for measurement in found.measurements:
        assert measurement.problem.startswith("disagrees: grad_b off by")
        assert (measurement.seconds, measurement.steps_per_round) == ((), 0)


def test_trained_weights_are_kept_and_found(tmp_path):
    config = dataclasses.replace(TINY, runs=tmp_path / "runs")
    size = Size(2, 20, 200, 0.98, trained_steps=20)
    shares = []
    first = _problem(config, size, shares.append)
    assert shares[-1] == 1
    again = _problem(config, size, lambda share: pytest.fail("trained again"))
    assert np.array_equal(first.W, again.W)
    assert np.array_equal(first.examples.to_scipy().toarray(), again.examples.to_scipy().toarray())
    untrained = _problem(config, dataclasses.replace(size, trained_steps=0), lambda share: pytest.fail("trained"))
    assert not np.array_equal(first.W, untrained.W)


def test_the_plan_has_every_size_once_and_only_byheart_where_peers_would_not_fit():
    config = dataclasses.replace(
        TINY,
        n_hidden=(2, 16),
        contenders=("byheart", "torch-eager"),
        large_examples=(20, 500),
        trained_examples=(20,),
        trained_hidden=(2, 3),
    )
    plan = _plan(config)
    assert [(s.n_hidden, s.n_examples, s.trained_steps, len(names)) for s, names in plan] == [
        (2, 20, 20, 1),
        (3, 20, 20, 1),
        (2, 20, 0, 2),
        (16, 20, 0, 2),
        (2, 500, 0, 1),
    ]


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
    command = [sys.executable, "-m", "benchmarks", *words, *OURS, "--trained-examples", "--sweep-runs", "0"]
    command += ["--out", tmp_path / "out", "--runs", tmp_path / "runs"]
    marked = partial(processes_with, f"BYHEART_TEST={tmp_path}")
    environment = os.environ | {"BYHEART_TEST": str(tmp_path)}
    with running(*command, stderr=subprocess.PIPE, env=environment, cwd=ROOT) as process:
        wait_until(lambda: len(marked()) == 4 or process.poll() is not None)  # parent, ceilings, two contenders
        time.sleep(3)  # until they are asked for steps
        assert process.poll() is None, process.stderr.read()
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)  # far less than a round
    assert process.returncode == 130
    assert err.strip() == f"interrupted; the sizes measured so far are kept in {tmp_path}/out"
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
        (["--sweep-runs", "-1"], "received -1", "integer >= 0"),
        (["--trained-steps", "0"], "received 0", "integer >= 1"),
        (["--tables-only"], "results.json", "a results.json that python -m benchmarks wrote"),
        (
            ["--n-hidden", "--trained-examples", "--trained-hidden", "--large-examples", "--sweep-runs", "0"],
            "sweep_runs: received 0",
            "a size to measure",
        ),
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
