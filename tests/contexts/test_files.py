"""Files that are replaced atomically and durably."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from time import time

import pytest
from object_store import ObjectStore, running_s3

from contexts.files import FileFault, FileStore


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

    def test_removals_are_synced(self, local: FileStore, calls: list[str]) -> None:
        """A file that was removed or renamed does not come back with a power loss: its folder is synced."""
        path = write(local, "a/data", b"new")
        write(local, "a/dead.tmp", b"")
        calls.clear()
        local.remove_leftovers(f"{local.root}/a")
        local.set_aside(path)
        local.remove(write(local, "a/data", b"new"))
        local.remove_folder(f"{local.root}/a")
        written = ["sync 3 bytes", "rename", "sync a"]
        assert calls == ["sync a", "rename", "sync a", *written, "sync a", "sync ."]

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

    def test_by_age(self, local: FileStore, tmp_path: Path) -> None:
        """Younger files than the given age are spared: their writers may be alive."""
        for name, hours in (("old.tmp", 2), ("young.tmp", 0)):
            (tmp_path / name).touch()
            changed_at = time() - hours * 3600
            os.utime(tmp_path / name, (changed_at, changed_at))
        local.remove_leftovers(local.root, older_than=timedelta(hours=1))
        assert names(local, "") == ["young.tmp"]

    def test_without_a_folder(self, files: FileStore) -> None:
        """In a folder that does not exist there is nothing to remove."""
        files.remove_leftovers(f"{files.root}/a")
        assert files.children(files.root) == []

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


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with running_s3(monkeypatch) as store:
        yield store


class TestObjectStore:
    """Files in S3, which other machines write to at the same time."""

    def test_nothing_is_remembered(self, s3: ObjectStore) -> None:
        """Every answer is about the bucket as it is now, also after another process added and removed files."""
        files, others = FileStore(f"{s3.root}/data"), FileStore(f"{s3.root}/data")
        path = f"{files.root}/a/one"
        assert (names(files, "a"), files.exists(path), read(files, path)) == ([], False, None)
        s3.put("data/a/one", b"first")
        assert (names(files, "a"), files.exists(path), read(files, path)) == (["one"], True, b"first")
        s3.put("data/a/one", b"second, and longer")
        assert (read(files, path), files.last_bytes(path, 6)) == (b"second, and longer", b"longer")
        others.remove(path)
        assert (names(files, "a"), files.exists(path), read(files, path)) == ([], False, None)
        assert files.last_bytes(path, 6) is None

    def test_a_file_replaced_while_it_is_read(self, s3: ObjectStore) -> None:
        """A reader sees one version of a file that is replaced meanwhile, with all its bytes."""
        files = FileStore(f"{s3.root}/data")
        path = write(files, "a/one", b"old" * 100_000)
        with files.open(path) as opened:
            write(files, "a/one", b"new")
            assert opened
            assert opened.read() == b"old" * 100_000
        assert read(files, path) == b"new"

    def test_writing_is_one_request(self, s3: ObjectStore) -> None:
        """A file is replaced by one PUT; a writer that dies before it leaves nothing, so nothing is swept."""
        files = FileStore(f"{s3.root}/data")
        s3.requests.clear()
        files.sweep(f"{files.root}/a")
        write(files, "a/one", b"new")
        with pytest.raises(ValueError, match="broken off"), files.replacing(f"{files.root}/a/one") as file:
            file.write(b"half of a f")
            raise ValueError("broken off")
        assert s3.requests == [("PUT", "data/a/one")]
        assert read(files, f"{files.root}/a/one") == b"new"

    def test_many_ends_at_once(self, s3: ObjectStore) -> None:
        """The ends of several files are read, also of an empty one; a file that does not exist is None."""
        files = FileStore(f"{s3.root}/data")
        paths = [write(files, name, content) for name, content in (("a/one", b"first"), ("a/two", b"second"))]
        s3.put("data/a/empty", b"")
        empty, missing = f"{files.root}/a/empty", f"{files.root}/a/missing"
        ends = files.last_bytes_of(dict.fromkeys([*paths, empty, missing], 3))
        assert list(ends.values()) == [b"rst", b"ond", b"", None]

    def test_versions(self, s3: ObjectStore) -> None:
        """A listing shows all files below a folder with their versions, and a replaced file has another one."""
        files = FileStore(f"{s3.root}/data")
        one, two = write(files, "a/b/one", b"first"), write(files, "a/two", b"second")
        before = files.versions(f"{files.root}/a")
        write(files, "a/two", b"third")
        after = files.versions(f"{files.root}/a")
        assert before.keys() == after.keys() == {one, two}
        assert before[one] == after[one] != ""
        assert before[two] != after[two]
        assert files.versions(f"{files.root}/b") == {}

    def test_an_empty_file(self, s3: ObjectStore) -> None:
        """An empty file is read as such."""
        s3.put("data/a/one", b"")
        files = FileStore(f"{s3.root}/data")
        assert (read(files, f"{files.root}/a/one"), files.last_bytes(f"{files.root}/a/one", 8)) == (b"", b"")

    @pytest.mark.parametrize(("status", "code"), [(503, "SlowDown"), (500, "InternalError"), (403, "AccessDenied")])
    def test_a_store_that_does_not_answer(self, s3: ObjectStore, status: int, code: str) -> None:
        """Throttling, faults and refusals are named; they are neither a missing file nor the fault of one file."""
        files = FileStore(f"{s3.root}/data")
        path = write(files, "a/one", b"old")
        s3.fail(status, code)
        for call in (
            lambda: read(files, path),
            lambda: files.exists(path),
            lambda: files.last_bytes(path, 8),
            lambda: names(files, "a"),
            lambda: write(files, "a/one", b"new"),
        ):
            with pytest.raises(FileFault, match=rf"{files.root}/a.* cannot be \w+: \S+") as raised:
                call()
            assert not raised.value.is_of_one_file
        s3.fail(None)
        assert read(files, path) == b"old"

    def test_no_connection(self, s3: ObjectStore) -> None:
        """A store that cannot be reached is named with the file."""
        files = FileStore(f"{s3.root}/data")
        s3.stop()
        with pytest.raises(FileFault, match=rf"{files.root}/a/one cannot be read: .*check the disk or the object"):
            read(files, f"{files.root}/a/one")


class TestFaults:
    """Faults of a disk, each one sentence with the path, the fault and the remedy."""

    @pytest.mark.parametrize(
        ("number", "remedy"),
        [
            (errno.ENOSPC, "No space left on device. Free space"),
            (errno.EDQUOT, "Disk quota exceeded. Free space"),
            (errno.EROFS, "Read-only file system. Mount that file system for writing"),
            (errno.EACCES, "Permission denied. Give the user of this process the right"),
            (errno.EIO, "Input/output error. Run it again; if the fault stays, check the disk"),
        ],
    )
    def test_writing(self, local: FileStore, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str) -> None:
        """A disk that refuses a file is named with the remedy, and the old file stays."""
        path = write(local, "a/data", b"old")

        def refuse(source: str, target: str) -> None:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch, pytest.raises(FileFault) as raised:
            patch.setattr(os, "replace", refuse)
            write(local, "a/data", b"new")
        assert str(raised.value).startswith(f"{path} cannot be written: {remedy}")
        assert raised.value.errno == number
        assert read(local, path) == b"old"
        assert names(local, "a") == ["data"]

    def test_a_folder_in_the_place_of_a_file(self, local: FileStore, tmp_path: Path) -> None:
        """A folder where a file belongs is named, for readers and writers, and is the fault of this file alone."""
        (tmp_path / "a/data/inside").mkdir(parents=True)
        path = f"{local.root}/a/data"
        for call in (
            lambda: read(local, path),
            lambda: local.last_bytes(path, 8),
            lambda: write(local, "a/data", b""),
        ):
            with pytest.raises(FileFault, match=f"{path} .*There is a folder where a file belongs") as raised:
                call()
            assert raised.value.is_of_one_file

    def test_a_file_in_the_place_of_a_folder(self, local: FileStore, tmp_path: Path) -> None:
        """A file where a folder belongs is named."""
        (tmp_path / "a").touch()
        for call in (lambda: write(local, "a/data", b""), lambda: read(local, f"{local.root}/a/data")):
            with pytest.raises(FileFault, match=f"{local.root}/a/data .*a file where a folder belongs"):
                call()


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
