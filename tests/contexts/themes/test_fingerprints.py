"""The identity of a saved model."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from contexts.themes.fingerprints import fingerprint


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder of a user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def save(folder: Path, weights: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_equal_files_have_one_fingerprint(memory: Path, tmp_path: Path) -> None:
    """Copies of a model in different folders have the same fingerprint, and other weights a different one."""
    one, copy, other = (save(tmp_path / name, weights) for name, weights in (("a", b"1"), ("b", b"1"), ("c", b"2")))
    assert fingerprint(one) == fingerprint(copy) != fingerprint(other)


def test_changed_files_are_hashed_again(memory: Path, tmp_path: Path) -> None:
    """A file that is replaced by one of the same size and time of modification changes the fingerprint."""
    folder = save(tmp_path / "model", b"1")
    before, stat = fingerprint(folder), (folder / "model.safetensors").stat()
    save(folder, b"2")
    os.utime(folder / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert fingerprint(folder) != before


def test_unchanged_files_are_not_read_again(memory: Path, tmp_path: Path) -> None:
    """The remembered fingerprint of unchanged files is used; a broken memory is replaced."""
    folder = save(tmp_path / "model", b"1")
    computed = fingerprint(folder)
    [remembered] = [path for path in memory.rglob("*") if path.is_file()]
    remembered.write_text("0123456789ab")
    assert fingerprint(folder) == "0123456789ab"
    remembered.write_text("half")
    assert fingerprint(folder) == computed == remembered.read_text()


def test_without_a_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be remembered, the files are hashed."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(fingerprint(save(tmp_path / "model", b"1"))) == 12
