"""Real servers on this machine that benchmarks start and end: a Dask cluster, a store that speaks S3, a small disk."""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_SECONDS_TO_START = 100.0
_S3_KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@dataclass
class Dask:
    """A scheduler and its workers."""

    address: str
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)


@contextmanager
def dask(n_workers: int = 2, environment: Mapping[str, str] | None = None) -> Iterator[Dask]:
    """Start a Dask scheduler with workers of one thread on this machine, and end them after the block.

    Args:
        n_workers: Number of workers.
        environment: Variables of all of them beside this process's own.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, ExitStack() as stack:
        found = Path(folder) / "scheduler.json"
        own = ("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", found)
        one = ("worker", "--scheduler-file", found, "--nthreads", "1", "--no-nanny", "--local-directory", folder)
        variables = os.environ | dict(environment or {})
        processes = []
        for what, *options in (own, *[one] * n_workers):
            command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--no-dashboard", *map(str, options)]
            quiet = subprocess.DEVNULL
            process = subprocess.Popen(command, stdout=quiet, stderr=quiet, env=variables, cwd=folder)
            processes.append(stack.enter_context(process))
            stack.callback(_end, process)
        wait_for(lambda: found.exists() and '"address"' in found.read_text())
        import distributed

        address = json.loads(found.read_text())["address"]
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(n_workers, timeout=_SECONDS_TO_START)
        yield Dask(address, processes[0], processes[1:])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)


@contextmanager
def s3() -> Iterator[tuple[str, Proxy]]:
    """Start a server that speaks S3, with one bucket behind a proxy; yield the bucket's URL, and the proxy."""
    port, quiet = _free_port(), subprocess.DEVNULL
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with (
        subprocess.Popen(command, stdout=quiet, stderr=quiet) as process,
        Proxy(port, _port_of_s3()) as proxy,
        ExitStack() as stack,
    ):
        stack.callback(process.kill)
        settings = _S3_KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}"}
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        stack.callback(_set_back, before)
        wait_for(lambda: _answers(port))
        import boto3

        boto3.client("s3").create_bucket(Bucket="bucket")
        yield "s3://bucket", proxy


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@functools.cache
def _port_of_s3() -> int:
    """The same for all servers of this process, which keeps its connections to one address."""
    return _free_port()


def _set_back(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _answers(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


class Proxy:
    """A port of this machine that leads to another one, until it is cut; a cut one refuses and drops connections."""

    def __init__(self, to: int, port: int) -> None:
        self._to, self.port, self._open = to, port, set[socket.socket]()
        self._server = self._listen()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *error: object) -> None:
        self.cut()

    def cut(self) -> None:
        """Refuse what comes, and drop what is open."""
        for each in (self._server, *self._open.copy()):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def mend(self) -> None:
        """Lead there again."""
        self._server = self._listen()

    def _listen(self) -> socket.socket:
        server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._serve, args=(server,), daemon=True).start()
        return server

    def _serve(self, server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                theirs, _ = server.accept()
                try:
                    ours = socket.create_connection(("127.0.0.1", self._to))
                except OSError:
                    theirs.close()
                    continue
                self._open |= {theirs, ours}
                for one, other in ((theirs, ours), (ours, theirs)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while content := one.recv(65_536):
                other.sendall(content)
        for each in (one, other):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open -= {one, other}


@contextmanager
def small_disk(directory: Path, n_bytes: int) -> Iterator[None]:
    """Mount a disk of so many bytes in memory on a directory, and remove it after the block."""
    directory.mkdir()
    _run("mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", directory)
    try:
        yield
    finally:
        _run("umount", "-l", directory)


def remount(directory: Path, *options: str) -> None:
    """Change a small disk: "size=BYTES", "ro" or "rw"."""
    _run("mount", "-o", ",".join(("remount", *options)), directory)


def why_no_disk() -> str:
    """Why no small disk can be mounted here, or nothing."""
    if not Path("/proc/mounts").exists():
        return "needs Linux"
    try:
        with tempfile.TemporaryDirectory() as folder, small_disk(Path(folder) / "disk", 2**16):
            return ""
    except (OSError, subprocess.CalledProcessError):
        return "needs to be root, to mount a disk"


def _run(*command: Any) -> None:
    subprocess.run([*map(str, command)], check=True, capture_output=True)


def wait_for(happens: Any, seconds: float = _SECONDS_TO_START) -> bool:
    """Wait until something happens, and return whether it did in so many seconds."""
    end = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
