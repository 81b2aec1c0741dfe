"""Files whole or not at all: threads, processes that were killed, pipes, and stores that are no directory."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from byheart import storage
from byheart.records import Record, Records, read, read_headers
from byheart.storage import exists, join, name_of, names, place, prepare_directory, read_start, remove, write_atomically


def left_in(directory):
    return sorted(path.name for path in directory.iterdir())


def test_many_threads_write_one_file_and_each_reader_sees_one_whole(tmp_path):
    contents = [bytes([number]) * 200_000 for number in range(8)]
    target = tmp_path / "one"
    write_atomically(target, contents[0])
    seen, done = set(), threading.Event()

    def look():
        while not done.is_set():
            seen.add(target.read_bytes())

    reader = threading.Thread(target=look)
    reader.start()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: [write_atomically(target, content) for _ in range(3)], contents))
    done.set()
    reader.join()
    assert seen <= set(contents)
    assert left_in(tmp_path) == ["one"]


def test_names_of_temporary_files_need_no_process_id(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 7)  # as in two containers
    assert len({storage._temporary_name() for _ in range(1000)}) == 1000


_WRITER = """
import os, sys, time
os.fsync = lambda descriptor: (print("written", flush=True), time.sleep(600))
from pathlib import Path
from byheart.storage import write_atomically
write_atomically(Path(sys.argv[1]) / "one", b"x" * 1000)
"""


def test_what_a_killed_writer_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        (temporary,) = left_in(tmp_path)
        prepare_directory(tmp_path)
        assert left_in(tmp_path) == [temporary]
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    assert left_in(tmp_path) == [temporary]
    (tmp_path / ".byheart-notes.tmp").write_text("a person's")
    prepare_directory(tmp_path)
    assert left_in(tmp_path) == [".byheart-notes.tmp"]


def test_a_temporary_file_that_was_cleaned_away_is_written_again(tmp_path, monkeypatch):
    locked = fcntl.flock
    cleaned = []

    def clean_first(file, how):
        if not cleaned:
            cleaned.extend(tmp_path.iterdir())
            cleaned[0].unlink()
        locked(file, how)

    monkeypatch.setattr(fcntl, "flock", clean_first)
    write_atomically(tmp_path / "one", b"content")
    assert (tmp_path / "one").read_bytes() == b"content"
    assert left_in(tmp_path) == ["one"]


def test_a_pipe_and_a_folder_are_named_and_nobody_waits_for_them(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "nowhere")
    Records(tmp_path).write("good", Record({"x": np.ones(2)}, {}))
    found = {name_of(path): header for path, header in read_headers(tmp_path)}
    assert isinstance(found["good.safetensors"], dict)
    for name in ("pipe", "folder", "link"):
        assert f"{name}.safetensors" in str(found[f"{name}.safetensors"])
    assert "it is no regular file" in str(found["pipe.safetensors"])
    with pytest.raises(ValueError, match=r"pipe\.safetensors \(it is no regular file\)"):
        read(tmp_path / "pipe.safetensors")
    with pytest.raises(ValueError, match=r"received .*pipe\.safetensors, which is there and no whole file"):
        Records(tmp_path).write("pipe", Record({}, {}))


def test_a_store_in_memory_holds_what_a_directory_holds(tmp_path):
    url = f"memory://store-{time.time_ns()}"
    for where in (tmp_path / "new", url):
        records = Records(where)
        assert records.keys() == []
        assert "a" not in records
        prepare_directory(where)
        for key in "ba":
            records.write(key, Record({"x": np.arange(3)}, {"long": "é" * 20_000}), {"seed": 1})
        assert records.keys() == ["a", "b"]
        assert "a" in records
        assert records.read("a").arrays["x"].tolist() == [0, 1, 2]
        records.check("a", {"seed": 1})
        assert [name_of(path) for path, _ in read_headers(where)] == ["a.safetensors", "b.safetensors"]
        assert all(isinstance(header, dict) for _, header in read_headers(where))
        write_atomically(join(place(where), "empty.safetensors"), b"")
        assert [isinstance(header, ValueError) for _, header in read_headers(where)] == [False, False, True]
        assert read_start(records.path("empty"), 10) == (b"", 0)
        remove(records.path("a"))
        assert not exists(records.path("a"))
        assert names(records.directory, ".safetensors") == ["b.safetensors", "empty.safetensors"]


def test_what_cannot_be_written_is_named_and_not_its_temporary_file(tmp_path):
    for target in (tmp_path / "missing" / "a", tmp_path / "file" / "a"):
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match=r"^out: received .*/a \((No such file|Not a dir).*\), accepted: a writable"):
            write_atomically(target, b"content")


def test_places_are_paths_or_urls_of_object_stores(tmp_path):
    assert place(f"file://{tmp_path}") == tmp_path
    assert place("memory://runs/") == "memory://runs"
    for url in ("sftp://host/runs", "http://host/runs", "//x://y", "://x"):
        with pytest.raises(ValueError, match="store: received .*, accepted: a directory, or s3://"):
            place(url)
    for url in ("memory:/runs", Path("memory://runs"), "s3:runs", "s3://", "memory:///"):
        with pytest.raises(ValueError, match=r"store: received .*, accepted: (s3|memory)://BUCKET/DIRECTORY"):
            place(url)
    for nothing in ("", "a\0b"):
        with pytest.raises(ValueError, match="store: received '.*', accepted: a directory, or a URL"):
            place(nothing)


def test_what_a_store_raises_is_one_line(monkeypatch):
    class Broken:
        def __getattr__(self, name):
            raise RuntimeError("no credentials\nwere found")

    monkeypatch.setattr(storage, "_of_protocol", lambda protocol, process: Broken())
    with pytest.raises(OSError, match="RuntimeError: no credentials were found"):
        names("memory://x", "")
    with pytest.raises(OSError, match="out: received memory://x .*no credentials were found"):
        prepare_directory("memory://x")


def test_a_system_without_posix_is_named_in_one_line():
    """As Windows, which has no fcntl."""
    program = "import sys; sys.modules['fcntl'] = None; from byheart.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", program, "train", "--n-examples", "3"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "byheart: system: received Windows, accepted: Linux, macOS, or WSL on Windows\n"
