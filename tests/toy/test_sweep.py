"""Sweeps of real processes, killed, interrupted and resumed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from byheart.toy.config import TrainConfig
from byheart.toy.runs import load_run, open_runs
from byheart.toy.sweep import Progress, SweepError, grid, sweep
from byheart.toy.train import train

_BASE = TrainConfig(n_examples=10, n_features=300, sparsity=0.97, n_test=20, n_steps=50)
_PATIENCE = 180.0  # seconds for anything to happen on a busy machine
_ENDLESS = 20_000_000  # steps that take longer than that


def configs_of(n_steps: int, seeds: int = 6) -> list[TrainConfig]:
    return grid(TrainConfig(n_examples=10, n_features=300, sparsity=0.97, n_test=20, n_steps=n_steps), {}, range(seeds))


_SCRIPT = """
import dataclasses
import sys
from byheart.toy.config import TrainConfig
from byheart.toy.sweep import SweepError, grid, sweep

def main():
    out, n_steps, seeds, endless = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    base = TrainConfig(n_examples=10, n_features=300, sparsity=0.97, n_test=20, n_steps=n_steps)
    configs = grid(base, {}, range(seeds))
    if endless:
        configs[0] = dataclasses.replace(base, n_steps=endless, warmup_steps=None)
    def report(p):
        print(p.n_finished, p.work_done / max(p.work_total, 1), flush=True)
    try:
        sweep(configs, out, n_workers=2, on_progress=report)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(130)

if __name__ == "__main__":
    main()
"""


class Sweeping:
    """A sweep in a process of its own."""

    def __init__(self, out: Path, n_steps: int, seeds: int = 6, endless: int = 0) -> None:
        script = out.parent / "script.py"
        script.write_text(_SCRIPT)
        self.out, self.log = out, out.parent / "log"
        with self.log.open("w") as log:
            arguments = [sys.executable, str(script), str(out), str(n_steps), str(seeds), str(endless)]
            self.process = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def files(self) -> dict[str, tuple[int, int, bytes]]:
        paths = sorted(self.out.glob("*.safetensors"))
        return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in paths}

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + _PATIENCE
        while not holds():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.01)

    def until_in_flight(self, finished: int = 0) -> None:
        """Wait until so many runs are finished and another one is under way."""

        def holds() -> bool:
            lines = [line.split() for line in self.log.read_text().splitlines() if line[:1].isdigit()]
            if not lines or len(lines[-1]) < 2:
                return False
            n_finished, work = int(lines[-1][0]), float(lines[-1][1])
            return n_finished >= finished and work * 6 > n_finished + 0.05

        self.until(holds)

    def workers(self) -> list[int]:
        return [pid for pid in children(self.process.pid) if "byheart.workers" in command(pid)]

    def end(self) -> int:
        return self.process.wait(timeout=_PATIENCE)


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def gone(pids: list[int]) -> bool:
    end = time.monotonic() + _PATIENCE
    while any("byheart.workers" in command(pid) for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def n_steps_for(seconds: float) -> int:
    """Steps that take one worker so long on this machine, now."""
    config = TrainConfig(n_examples=10, n_features=300, sparsity=0.97, n_test=20, n_steps=20_000)
    train(config)
    began = time.perf_counter()
    train(config)
    return max(1000, int(20_000 * seconds / (time.perf_counter() - began)))


@pytest.fixture
def sweeping():
    """Start sweeps that are killed, with their workers, when the test ends, however it does."""
    started: list[Sweeping] = []

    def start(*arguments, **options) -> Sweeping:
        started.append(Sweeping(*arguments, **options))
        return started[-1]

    yield start
    for one in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGKILL)
        one.process.wait()


@pytest.fixture(scope="module")
def n_steps() -> int:
    return n_steps_for(0.7)


def assert_same_results(out: Path, expected: Path) -> None:
    names = sorted(path.name for path in expected.glob("*.safetensors"))
    assert sorted(path.name for path in out.glob("*.safetensors")) == names
    for name in names:
        one, other = load_run(out / name), load_run(expected / name)
        assert one.metrics == other.metrics
        for array in ("W", "b", "hidden"):
            assert getattr(one, array).tobytes() == getattr(other, array).tobytes()
        assert all(one.history[key].tobytes() == other.history[key].tobytes() for key in other.history)


linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="watches processes through /proc")


@pytest.mark.slow
@linux
def test_a_sweep_killed_in_mid_flight_goes_on_where_it_stopped_to_the_same_bits(tmp_path, sweeping, n_steps):
    killed = sweeping(tmp_path / "killed", n_steps)
    killed.until_in_flight(finished=1)
    workers = killed.workers()
    assert workers
    killed.process.kill()
    killed.end()
    assert gone(workers), "workers must not train on after their parent was killed"
    finished = killed.files()
    assert 1 <= len(finished) < 6

    again = sweeping(tmp_path / "killed", n_steps)
    assert again.end() == 0, again.log.read_text()
    files = again.files()
    assert len(files) == 6
    assert {name: files[name] for name in finished} == finished, "finished runs must not be touched"
    assert len(open_runs(tmp_path / "killed")) == 6

    sweep(configs_of(n_steps), tmp_path / "whole", n_workers=1)
    assert_same_results(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
@linux
@pytest.mark.parametrize("everyone", [True, False], ids=["as Ctrl-C in a terminal does", "to the sweep alone"])
def test_an_interrupt_is_answered_during_a_run_and_keeps_finished_runs(tmp_path, sweeping, everyone):
    running = sweeping(tmp_path / "runs", 1_000, endless=_ENDLESS)
    running.until(lambda: "\n5 " in running.log.read_text())  # all but the endless one are finished
    workers = running.workers()
    if everyone:
        os.killpg(running.process.pid, signal.SIGINT)
    else:
        running.process.send_signal(signal.SIGINT)
    assert running.end() == 130, running.log.read_text()
    assert running.log.read_text().splitlines()[-1] == "interrupted", "and nothing else is printed"
    assert gone(workers)
    assert len(open_runs(tmp_path / "runs")) == 5
    assert [path.name for path in (tmp_path / "runs").iterdir() if path.suffix != ".safetensors"] == []


@pytest.mark.slow
@linux
def test_if_a_worker_is_killed_its_run_is_tried_again_and_all_finish(tmp_path, sweeping, n_steps):
    running = sweeping(tmp_path / "runs", 2 * n_steps)
    running.until_in_flight(finished=1)
    finished = running.files()
    os.kill(running.workers()[0], signal.SIGKILL)
    assert running.end() == 0, running.log.read_text()
    files = running.files()
    assert len(files) == 6
    assert {name: files[name] for name in finished} == finished
    sweep(configs_of(2 * n_steps), tmp_path / "whole", n_workers=2)
    assert_same_results(tmp_path / "runs", tmp_path / "whole")


@pytest.mark.slow
@linux
def test_a_run_whose_worker_is_killed_again_and_again_is_reported_and_not_tried_for_ever(tmp_path, sweeping, n_steps):
    running = sweeping(tmp_path / "runs", 20 * n_steps, seeds=1)
    for _ in range(2):
        workers: list[int] = []
        seen = len(running.log.read_text())

        def under_way(seen: int = seen) -> bool:
            lines = running.log.read_text()[seen:].splitlines()
            return any(float(line.split()[1]) > 0.001 for line in lines[:-1] if line.startswith("0 "))

        running.until(under_way)
        workers = running.workers()
        os.kill(workers[0], signal.SIGKILL)
        assert gone(workers[:1])
        time.sleep(0.5)
    assert running.end() == 1
    assert "SweepError: 1 run(s) failed" in running.log.read_text()
    assert "killed" in running.log.read_text().splitlines()[-1]


def test_a_run_that_diverges_is_reported_at_the_end_and_the_others_finish(tmp_path):
    configs = grid(_BASE, {"learning_rate": [1e-3, 1e30, 1e-2]}, seeds=(0, 1))
    with pytest.raises(SweepError, match=r"2 run\(s\) failed") as error:
        sweep(configs, tmp_path, n_workers=2)
    failures = error.value.failures
    assert [failure.config.learning_rate for failure in failures] == [1e30, 1e30]
    assert {failure.config for failure in failures} == {config for config in configs if config.learning_rate == 1e30}
    for failure in failures:
        assert "NaN or infinite at step" in failure.reason
        assert "\n" not in failure.reason
    assert "learning_rate=1e+30" in str(error.value)
    runs = open_runs(tmp_path)
    assert sorted(header.config.learning_rate for header in runs.headers) == [1e-3, 1e-3, 1e-2, 1e-2]


def test_a_sweep_returns_the_runs_asked_for_and_loads_those_that_are_there(tmp_path):
    configs = grid(_BASE, {"n_examples": [3, 5, "inf"], "batch_size": [8]}, seeds=(0, 1))
    first = sweep(configs[:4], tmp_path, n_workers=2)
    assert len(first) == 4
    before = {header.id: header.path.stat().st_mtime_ns for header in first.headers}
    runs = sweep([*configs, configs[0]], tmp_path, n_workers=2)
    assert {header.config for header in runs.headers} == set(configs)
    assert {header.id: header.path.stat().st_mtime_ns for header in runs.headers if header.id in before} == before
    assert runs.dataset["train_loss"].sizes == {"n_examples": 3, "seed": 2}
    assert np.isfinite(runs.dataset["train_loss"]).all()


def test_the_number_of_workers_does_not_change_the_bits(tmp_path):
    configs = grid(_BASE, {"n_hidden": [2, 3]}, seeds=(0, 1))
    for n_workers in (1, 2):
        sweep(configs, tmp_path / str(n_workers), n_workers=n_workers)
    assert_same_results(tmp_path / "1", tmp_path / "2")


def test_the_longest_run_goes_first(tmp_path):
    configs = grid(_BASE, {"n_steps": [50, 5000, 500], "n_hidden": [2, 8]})
    runs = sweep(configs, tmp_path, n_workers=1)
    ended = sorted(runs.headers, key=lambda header: header.path.stat().st_mtime_ns)
    work = [header.config.n_steps * (1 + header.config.n_hidden) for header in ended]
    assert work == sorted(work, reverse=True)


def test_large_runs_share_all_cores_and_their_results_do_not_depend_on_that(tmp_path, monkeypatch):
    configs = grid(_BASE, {"n_examples": [5, 40]})
    sweep(configs, tmp_path / "small", n_workers=2)
    monkeypatch.setattr(sys.modules["byheart.toy.sweep"], "_LARGE_PAIRS_PER_STEP", 40 * 300)
    sweep(configs, tmp_path / "large", n_workers=2)
    assert_same_results(tmp_path / "large", tmp_path / "small")
    threads = {h.config.n_examples: h.provenance["n_threads"] for h in open_runs(tmp_path / "large").headers}
    assert threads[5] == 1
    assert threads[40] == min(2, os.cpu_count() or 1)


def test_progress_rises_from_nothing_to_everything(tmp_path):
    seen: list[Progress] = []
    sweep(grid(_BASE, {"n_steps": [20_000, 50]}), tmp_path, n_workers=1, on_progress=seen.append)
    assert seen[0].n_finished == 0
    assert seen[-1].n_finished == seen[-1].n_runs == 2
    assert seen[-1].work_done == pytest.approx(seen[-1].work_total)
    done = [progress.work_done for progress in seen]
    assert done == sorted(done)
    again: list[Progress] = []
    sweep(grid(_BASE, {"n_steps": [20_000, 50]}), tmp_path, n_workers=1, on_progress=again.append)
    assert again[-1].n_finished == 2


def test_an_empty_sweep_has_no_runs(tmp_path):
    assert len(sweep([], tmp_path)) == 0


def test_a_grid_has_all_combinations_of_its_axes_and_seeds():
    configs = grid(_BASE, {"n_examples": [3, "inf"], "weight_decay": [0, 0.1]}, seeds=range(3))
    assert len(set(configs)) == 12
    assert {(c.n_examples, c.weight_decay, c.seed) for c in configs} == {
        (t, d, s) for t in (3, "inf") for d in (0.0, 0.1) for s in range(3)
    }
    assert all(config.n_features == 300 for config in configs)


def test_a_default_warm_up_follows_the_number_of_steps():
    assert [c.warmup_steps for c in grid(_BASE, {"n_steps": [100, 1000]})] == [5, 50]
    chosen = TrainConfig(n_examples=5, n_steps=100, warmup_steps=7)
    assert [c.warmup_steps for c in grid(chosen, {"n_steps": [100, 1000]})] == [7, 7]


def test_axes_and_workers_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"axes: received \['n_hiden'\], accepted: \["):
        grid(_BASE, {"n_hiden": [2]})
    with pytest.raises(ValueError, match=r"sparsity: received 1\.5"):
        grid(_BASE, {"sparsity": [0.9, 1.5]})
    with pytest.raises(ValueError, match="n_workers: received 0, accepted: an integer >= 1"):
        sweep([_BASE], tmp_path, n_workers=0)


def test_a_damaged_run_in_the_way_is_told_before_anything_is_trained(tmp_path):
    (path,) = [header.path for header in sweep([_BASE], tmp_path, n_workers=1).headers]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=path.name):
        sweep(grid(_BASE, {}, seeds=(0, 1)), tmp_path, n_workers=1)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_place_that_cannot_be_written_is_told_before_anything_is_trained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        sweep([_BASE], tmp_path / "file" / "runs")


def test_batches_vary_only_where_there_are_batches():
    assert len(grid(_BASE, {"n_examples": ["inf"], "batch_size": [8, 16]})) == 2
    for sizes in ([3], [3, "inf"]):
        with pytest.raises(
            ValueError, match="batch_size: received 8, 16 with n_examples 3, accepted: several values only"
        ):
            grid(_BASE, {"n_examples": sizes, "batch_size": [8, 16]})
