"""Files that are replaced atomically and durably."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import fsspec
import pytest

from contexts.files import FileStore


@pytest.fixture(params=["folder", "file", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> FileStore:
    """A root as people write it: a folder, or an fsspec URL."""
    urls = {"folder": str(tmp_path), "file": f"file://{tmp_path}/", "memory": f"memory://{tmp_path.name}"}
    return FileStore(urls[request.param])


@pytest.fixture
def local(tmp_path: Path) -> FileStore:
    return FileStore(str(tmp_path))


def write(files: FileStore, name: str, content: bytes) -> str:
    path = f"{files.root}/{name}"
    with files.replacing(path) as file:
        file.write(content)
    return path


def read(files: FileStore, path: str) -> bytes | None:
    with files.open(path) as file:
        return file.read() if file else None


def names(files: FileStore, folder: str) -> list[str]:
    return sorted(path.rsplit("/", 1)[-1] for path in files.children(f"{files.root}/{folder}"))


class Renames:
    """Stands in front of `os.replace`: a list of what happened, and renames that can fail."""

    def __init__(self) -> None:
        self.fails = False
        self.calls: list[str] = []
        self._replace = os.replace

    def __call__(self, source: str, target: str) -> None:
        if self.fails:
            raise OSError(errno.EIO, "the disk is gone")
        self.calls.append("rename")
        self._replace(source, target)


@pytest.fixture
def renames(monkeypatch: pytest.MonkeyPatch) -> Renames:
    renames = Renames()
    monkeypatch.setattr(os, "replace", renames)
    return renames


class TestOpen:
    def test_a_missing_file_is_none(self, files: FileStore) -> None:
        """A file that does not exist is None, in a folder that exists and in one that does not."""
        write(files, "a/data", b"old")
        assert [read(files, f"{files.root}/{name}") for name in ("a/other", "b/data")] == [None, None]

    def test_an_error_inside_the_block_is_not_a_missing_file(self, files: FileStore) -> None:
        """A FileNotFoundError that the block raises reaches the caller."""
        path = write(files, "a/data", b"old")
        with pytest.raises(FileNotFoundError, match="of the block"), files.open(path):
            raise FileNotFoundError("of the block")


class TestReplacing:
    def test_a_written_file_can_be_read(self, files: FileStore) -> None:
        """A file holds the bytes that were written last, and its folders are created."""
        path = write(files, "a/b/data", b"old and long")
        assert read(files, path) == b"old and long"
        assert write(files, "a/b/data", b"new") == path
        assert read(files, path) == b"new"
        assert names(files, "a/b") == ["data"]

    def test_the_old_file_stays_until_the_block_ends(self, files: FileStore) -> None:
        """While the new file is written, and after it was, a reader who opened the old one reads the old one."""
        path = write(files, "a/data", b"old")
        with files.replacing(path) as file:
            file.write(b"new")
            assert read(files, path) == b"old"
        assert read(files, path) == b"new"

    def test_an_open_file_stays_readable(self, local: FileStore) -> None:
        """A reader who opened a file before it was replaced reads the old bytes to the end."""
        path = write(local, "a/data", b"old")
        with local.open(path) as opened:
            write(local, "a/data", b"new")
            assert opened
            assert opened.read() == b"old"

    @pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
    def test_a_block_that_raises_changes_nothing(self, files: FileStore, error: type[BaseException]) -> None:
        """If the block raises, the old file stays, no scratch file is left, and a new path stays free."""
        path = write(files, "a/data", b"old")
        for target in (path, f"{files.root}/a/other"):
            with pytest.raises(error, match="broken off"), files.replacing(target) as file:
                file.write(b"half of the n")
                raise error("broken off")
        assert read(files, path) == b"old"
        assert names(files, "a") == ["data"]

    def test_a_rename_that_fails_changes_nothing(self, local: FileStore, renames: Renames) -> None:
        """If the last step fails, the old file stays and no scratch file is left."""
        path = write(local, "a/data", b"old")
        renames.fails = True
        with pytest.raises(OSError, match="the disk is gone"):
            write(local, "a/data", b"new")
        assert read(local, path) == b"old"
        assert names(local, "a") == ["data"]

    def test_writers_do_not_share_a_scratch_file(self, files: FileStore) -> None:
        """Of two writers of one path at the same time the last one wins, with a whole file."""
        path = f"{files.root}/a/data"
        with files.replacing(path) as first, files.replacing(path) as second:
            first.write(b"first")
            second.write(b"second")
        assert read(files, path) == b"first"
        assert names(files, "a") == ["data"]


class TestDurability:
    @pytest.fixture
    def calls(self, renames: Renames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """Syncs of files (with their size) and folders (by name below the root) among the renames."""

        def fsync(descriptor: int) -> None:
            synced = os.fstat(descriptor)
            folders = (path for path in (tmp_path, *tmp_path.rglob("*")) if path.is_dir())
            name = next((path.relative_to(tmp_path) for path in folders if path.stat().st_ino == synced.st_ino), None)
            renames.calls.append(f"sync {name or f'{synced.st_size} bytes'}")

        monkeypatch.setattr(os, "fsync", fsync)
        return renames.calls

    def test_the_file_is_synced_before_the_rename_and_the_folder_after_it(
        self, local: FileStore, tmp_path: Path, calls: list[str]
    ) -> None:
        """All bytes are on the disk before the new name is, and the new name when the block has ended."""
        (tmp_path / "a").mkdir()
        write(local, "a/data", b"new")
        assert calls == ["sync 3 bytes", "rename", "sync a"]

    def test_new_folders_are_synced_in_their_parents(self, local: FileStore, calls: list[str]) -> None:
        """A folder that was created for the file is durable, too."""
        write(local, "a/b/data", b"new")
        assert calls == ["sync 3 bytes", "rename", "sync a/b", "sync a", "sync ."]

    def test_files_elsewhere_are_not_synced(self, tmp_path: Path, calls: list[str]) -> None:
        """On a file system that is no local disk nothing is synced."""
        elsewhere = FileStore(f"memory://{tmp_path.name}")
        assert not elsewhere.is_local
        write(elsewhere, "a/data", b"new")
        assert calls == []


class TestLeftovers:
    def test_scratch_files_are_removed(self, files: FileStore) -> None:
        """Scratch files of writers that died are removed, in this folder only; files set aside stay."""
        path = write(files, "a/data", b"old")
        aside = files.set_aside(path)
        others = [write(files, name, b"kept") for name in ("a/data", "a/b/dead.tmp", "b/dead.tmp")]
        write(files, "a/dead.tmp", b"half of a f")
        files.remove_leftovers(f"{files.root}/a")
        assert all(read(files, each) == b"kept" for each in others)
        assert names(files, "a") == sorted(["b", "data", aside.rsplit("/", 1)[-1]])

    def test_by_suffix(self, files: FileStore) -> None:
        """Every suffix that is given is removed, and no other file."""
        for name in ("one.tmp", "two.aside", "three.tmp.parquet"):
            write(files, f"a/{name}", b"")
        files.remove_leftovers(f"{files.root}/a", (".tmp", ".aside"))
        assert names(files, "a") == ["three.tmp.parquet"]

    def test_without_a_folder(self, files: FileStore) -> None:
        """In a folder that does not exist there is nothing to remove."""
        files.remove_leftovers(f"{files.root}/a")

    @pytest.mark.parametrize("name", ["data[eu]", "data*", "what?"])
    def test_a_root_may_have_any_name(self, tmp_path: Path, name: str) -> None:
        """Leftovers are also found in a folder whose name looks like a pattern, and in no other folder."""
        (tmp_path / "data").mkdir()
        (tmp_path / "data/dead.tmp").touch()
        files = FileStore(str(tmp_path / name))
        write(files, "dead.tmp", b"")
        files.remove_leftovers(files.root)
        assert files.children(files.root) == []
        assert (tmp_path / "data/dead.tmp").exists()


class TestSetAside:
    def test_the_path_becomes_free(self, files: FileStore) -> None:
        """A file set aside keeps its bytes under another name, however often."""
        asides = [files.set_aside(write(files, "a/data", content)) for content in (b"one", b"two")]
        assert [read(files, aside) for aside in asides] == [b"one", b"two"]
        assert read(files, f"{files.root}/a/data") is None

    def test_a_missing_file(self, files: FileStore) -> None:
        """A file that does not exist cannot be set aside; the error names it."""
        with pytest.raises(FileNotFoundError, match="a/data"):
            files.set_aside(f"{files.root}/a/data")


class TestRemove:
    def test_a_file(self, files: FileStore) -> None:
        """One file is removed, its neighbours stay."""
        files.remove(write(files, "a/data", b""))
        write(files, "a/other", b"")
        assert names(files, "a") == ["other"]

    def test_a_folder(self, files: FileStore) -> None:
        """A folder is removed with everything in it, and a folder that does not exist is no error."""
        for name in ("a/b/data", "a/data", "c/data"):
            write(files, name, b"")
        files.remove_folder(f"{files.root}/a")
        files.remove_folder(f"{files.root}/a")
        assert names(files, "") == ["c"]


def test_listings_are_fresh(files: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing shows what other processes wrote meanwhile: no cached listing is used."""
    write(files, "a/one", b"")
    assert names(files, "a") == ["one"]
    filesystem, _ = fsspec.core.url_to_fs("file://" if files.is_local else "memory://")
    invalidated: list[None] = []
    monkeypatch.setattr(type(filesystem), "invalidate_cache", lambda self, path=None: invalidated.append(None))
    assert names(files, "a") == ["one"]
    assert names(files, "nothing") == []
    assert len(invalidated) == 2


class TestHostilePaths:
    """Characters that file systems take for patterns."""

    @pytest.mark.parametrize("scheme", ["", "memory://"])
    def test_root(self, tmp_path: Path, scheme: str) -> None:
        """Files of a root with characters of a pattern are replaced, set aside and removed without its neighbours."""
        files, neighbour = (FileStore(f"{scheme}{tmp_path}/{name}") for name in ("prod*[1]?", "prod-other1x"))
        for store in (files, neighbour):
            write(store, "day/data", b"old")
            write(store, "day/data", b"new")
        path = f"{files.root}/day/data"
        assert read(files, path) == b"new"
        files.set_aside(path)
        assert read(files, path) is None
        files.remove_folder(f"{files.root}/day")
        assert files.children(f"{files.root}/day") == []
        assert read(neighbour, f"{neighbour.root}/day/data") == b"new"

    def test_target_is_a_folder(self, tmp_path: Path) -> None:
        """A local file cannot replace a folder, and leaves nothing in it."""
        files = FileStore(str(tmp_path))
        (tmp_path / "data").mkdir()
        with pytest.raises(OSError, match="data"):
            write(files, "data", b"new")
        assert list((tmp_path / "data").iterdir()) == []
        assert [path.name for path in tmp_path.iterdir()] == ["data"]
