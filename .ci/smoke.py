"""Is what lies in dist/ what a user should get? ``make smoke`` asks: the files, an installation by itself, its extras.

Takes the wheel and the source distribution that ``make dist`` made, and the newest versions of all dependencies. Extras
are resolved, not installed, and of ``constraints.txt`` only the version of PyTorch is asked for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROGRAM = """
import byheart as bh
from byheart.toy.reference import paper_reference
run = bh.train(bh.TrainConfig(n_examples=5, n_features=100, sparsity=0.9, n_steps=200))
assert run.metrics["train_loss"] < 1
assert len(paper_reference()) > 10  # a table that is part of the package
bh.sweep([run.config], "runs")
"""


def main() -> None:
    """Check what lies in dist/, and end with status 1 at the first thing that is wrong."""
    (wheel,), (source,) = ROOT.glob("dist/*.whl"), ROOT.glob("dist/*.tar.gz")
    assert f"-{PROJECT['version']}" in wheel.name, f"{wheel.name}: not version {PROJECT['version']}"
    in_wheel, in_source, in_tree = files_of_wheel(wheel), files_of_source(source), files_of_tree()
    assert in_wheel == in_tree, f"wheel against src/: {sorted(in_wheel ^ in_tree)}"
    assert in_source >= in_tree, f"missing in the source distribution: {sorted(in_tree - in_source)}"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)  # outside the repository, so that nothing of it is found by accident
        run(sys.executable, "-m", "build", "--quiet", "--wheel", "--outdir", folder / "again", unpacked(source, folder))
        (again,) = (folder / "again").glob("*.whl")
        assert files_of_wheel(again) == in_wheel, "the source distribution builds another wheel"
        run(sys.executable, "-m", "venv", folder / "venv")
        python, byheart = (folder / "venv" / "bin" / program for program in ("python", "byheart"))
        run(python, "-m", "pip", "install", "--quiet", "--upgrade", "pip")
        run(python, "-m", "pip", "install", "--quiet", wheel)
        assert run(byheart, "--version", cwd=folder) == f"byheart {PROJECT['version']}\n"
        assert "reproduce" in run(byheart, "--help", cwd=folder)
        run(python, "-W", "error", "-c", PROGRAM, cwd=folder)
        run(byheart, "report", "runs", "--out", "report.html", cwd=folder)  # needs templates, styles and scripts
        assert (folder / "report.html").stat().st_size > 10_000
        (folder / "torch.txt").write_text(
            "\n".join(pin for pin in (ROOT / "constraints.txt").read_text().split() if pin.startswith("torch=="))
        )
        for extra in PROJECT["optional-dependencies"]:
            if extra == "dev":  # a contributor's, which is installed with constraints.txt
                continue
            wanted = f"{wheel}[{extra}]"
            run(python, "-m", "pip", "install", "--quiet", "--dry-run", "-c", folder / "torch.txt", wanted)
            print(f"extra {extra}: resolves")
    print(f"{wheel.name}, {source.name}: {len(in_wheel)} files of the package, installs and works")


def files_of_wheel(path: Path) -> set[str]:
    """Return the package's files in a wheel."""
    return {name for name in zipfile.ZipFile(path).namelist() if name.startswith("byheart/")}


def files_of_source(path: Path) -> set[str]:
    """Return the package's files in a source distribution."""
    with tarfile.open(path) as archive:
        names = (member.name.partition("/src/")[2] for member in archive.getmembers() if member.isfile())
        return {name for name in names if name.startswith("byheart/")}


def files_of_tree() -> set[str]:
    """Return the package's files in git."""
    return {name.removeprefix("src/") for name in run("git", "ls-files", "src/byheart", cwd=ROOT).split()}


def unpacked(source: Path, folder: Path) -> Path:
    """Unpack a source distribution, and return its folder."""
    with tarfile.open(source) as archive:
        archive.extractall(folder, filter="data")
    return folder / source.name.removesuffix(".tar.gz")


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command without this process's own packages, and return what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


if __name__ == "__main__":
    main()
