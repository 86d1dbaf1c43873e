from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import time
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from object_store import running_s3

from assets.engine.asset import Asset, Users, asset
from assets.engine.errors import SchemaError, ShardUnreadable
from assets.engine.footers import Footers
from assets.engine.hashing import DIGEST_BYTES
from assets.engine.index import Index
from assets.engine.parquet import Footer, Shards

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
LETTERS = pa.schema([("user_id", pa.string()), ("text", pa.string()), ("labels", pa.list_(pa.string()))])
VECTORS = pa.schema([("user_id", pa.string()), ("n", pa.int64()), ("vector", pa.list_(pa.float16()))])


@asset(step="fetch", schema=LETTERS, code_version="1")
def letters(users: Users) -> pa.Table:
    return LETTERS.empty_table()


@asset(step="embed", schema=VECTORS, code_version="1", opaque=("vector",))
def vectors(users: Users) -> pa.Table:
    return VECTORS.empty_table()


def rows(*texts: str) -> pa.Table:
    """Return one letter of each of several users."""
    users = [f"user-{number}" for number in range(len(texts))]
    return pa.table([users, list(texts), [["a", text] for text in texts]], schema=LETTERS)


def index_of(table: pa.Table, of: Asset = letters, opaque_digest: bytes = bytes(DIGEST_BYTES)) -> Index:
    index = Index.from_table(table, [name for name in of.versioned if name in table.column_names])
    return index.with_opaque(sorted(of.opaque), [opaque_digest] * len(index))


def footer_of(
    table: pa.Table, of: Asset = letters, opaque_digest: bytes = bytes(DIGEST_BYTES), **facts: Any
) -> Footer:
    """Return a footer of the table, in shard 0 of 2. opaque_digest: of the inputs of the opaque columns."""
    defaults: dict[str, Any] = {
        "shard": 0,
        "n_shards": 2,
        "recipe": {"code": "1"},
        "inputs": {},
        "materialized_at": NOON,
    }
    return Footer.from_index(of, index=index_of(table, of, opaque_digest), **{**defaults, **facts})


def write(shards: Shards, *texts: str, shard: int = 0) -> Footer:
    footer = footer_of(rows(*texts), shard=shard, n_shards=shards.n_shards)
    shards.write(letters, rows(*texts), footer)
    return footer


def texts_in(shards: Shards, shard: int = 0) -> list[str] | None:
    with shards.open(letters, shard) as opened:
        return opened.read(["text"])["text"].to_pylist() if opened else None


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return Shards(str(tmp_path), 2)


@pytest.fixture(params=["folder", "file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return DATA_ROOT as people write it: a folder or an fsspec URL."""
    urls = {"folder": str(tmp_path), "file": f"file://{tmp_path}", "memory": f"memory://{tmp_path.name}"}
    return urls[request.param]


def test_a_written_shard_can_be_read(root: str) -> None:
    """Under a folder or any URL a shard has the rows and the footer written, and other shards do not exist."""
    shards = Shards(root, 2)
    footer = write(shards, "one", "two")
    with shards.open(letters, 0) as opened:
        assert opened
        assert opened.footer == footer
        assert opened.read(LETTERS.names).equals(rows("one", "two"))
    assert texts_in(shards, 1) is None
    assert shards.footer(letters, 1) is None


def test_a_shard_is_replaced(root: str) -> None:
    """A second write replaces the first, and leaves no other file in the folder."""
    shards = Shards(root, 2)
    write(shards, "a long letter", "and another")
    write(shards, "short")
    assert texts_in(shards) == ["short"]
    filesystem, path = fsspec.core.url_to_fs(root)
    assert [each.rsplit(path, 1)[1] for each in filesystem.find(path)] == [
        "/letters/shard=0000/data.parquet",
        "/shards.json",
    ]


def test_a_path_has_asset_and_shard(tmp_path: Path) -> None:
    """A shard's file is <root>/<asset>/shard=0007/data.parquet, whether or not the root ends with a slash."""
    expected = f"{tmp_path}/letters/shard=0007/data.parquet"
    assert Shards(str(tmp_path), 16).path("letters", 7) == expected
    assert Shards(f"{tmp_path}/", 16).path("letters", 7) == expected


def test_any_parquet_reader_reads_a_shard(shards: Shards) -> None:
    """A shard is plain Parquet with exactly the asset's columns."""
    write(shards, "one")
    assert pq.read_table(shards.path("letters", 0), partitioning=None).to_pylist() == [
        {"user_id": "user-0", "text": "one", "labels": ["a", "one"]}
    ]


def test_a_written_footer_can_be_read(shards: Shards) -> None:
    """Versions, inputs, counts, times and users without rows are read from the footer as written."""
    input_digests = {"user-0": b"0" * DIGEST_BYTES, "zoë": b"1" * DIGEST_BYTES, "bob": b"2" * DIGEST_BYTES}
    index = Index.from_table(rows("one"), LETTERS.names, input_digests)
    recipe, later = {"code": "2", "model": "m1"}, NOON + timedelta(hours=1, microseconds=1)
    footer = Footer.from_index(letters, 0, 2, index, recipe, {"stamps": "abc"}, NOON)
    shards.write(letters, rows("one"), replace(footer, valid_until=later))
    read = shards.footer(letters, 0)
    assert read == replace(footer, valid_until=later)
    assert (read.recipe, read.inputs, read.materialized_at) == (recipe, {"stamps": "abc"}, NOON)
    assert (read.n_rows, read.n_users, read.valid_until) == (1, 3, later)
    assert read.index.input_digests_by_user() == input_digests
    assert read.index.rows_of(["user-0"]) == 1


def test_a_footer_of_fewer_users(shards: Shards) -> None:
    """A footer with a new index has the users, rows, versions and expiry of that index, and is otherwise equal."""
    index = index_of(rows("one", "two"))
    footer = Footer.from_index(letters, 0, 2, index, {"code": "2"}, {"stamps": "abc"}, NOON)
    fewer = footer.with_index(index.without({"user-1"}))
    assert fewer == Footer.from_index(letters, 0, 2, index_of(rows("one")), {"code": "2"}, {"stamps": "abc"}, NOON)


def test_all_footers_of_an_asset(shards: Shards) -> None:
    """The footers of an asset are those of its existing shards, in order."""
    assert shards.footers(letters) == []
    write(shards, "second", shard=1)
    assert [footer.shard for footer in shards.footers(letters)] == [1]
    write(shards, "first", shard=0)
    assert [footer.shard for footer in shards.footers(letters)] == [0, 1]


def test_the_data_version_covers_rows_only() -> None:
    """Time, inputs and recipe leave the data_version unchanged; a different value in a row changes it."""
    footer = footer_of(rows("one"))
    later = replace(footer, materialized_at=NOON + timedelta(1), inputs={"stamps": "x"}, recipe={"code": "2"})
    assert footer.data_version == later.data_version
    assert footer.data_version != footer_of(rows("two")).data_version


def test_an_opaque_column_has_the_version_of_its_inputs() -> None:
    """The version of an opaque column changes with its inputs, and not with its values."""

    def edge(value: float = 1.0, **facts: Any) -> str:
        table = pa.table([["ann"], [1], [[value]]], schema=VECTORS)
        return footer_of(table, vectors, **facts).edge_version(["user_id", "vector"])

    assert edge() == edge(value=0.5) == edge(materialized_at=NOON + timedelta(1), recipe={"code": "2"})
    assert edge() != edge(opaque_digest=b"m" * DIGEST_BYTES)


def test_opaque_columns_are_no_part_of_the_data_version() -> None:
    """The data_version does not change with the inputs of an opaque column."""
    table = pa.table([["ann"], [1], [[1.0]]], schema=VECTORS)
    one, other = footer_of(table, vectors), footer_of(table, vectors, b"m" * DIGEST_BYTES)
    assert one.data_version == other.data_version
    assert one != other


def test_a_missing_column_has_a_version_of_its_own() -> None:
    """An edge with a column that a shard of older code lacks has a different version once the column exists."""
    older = footer_of(rows("one").drop_columns(["labels"]), of=replace(letters, schema=LETTERS.remove(2)))
    assert older.edge_version(["user_id", "labels"]) != footer_of(rows("one")).edge_version(["user_id", "labels"])
    assert older.edge_version(["user_id", "text"]) == footer_of(rows("one")).edge_version(["user_id", "text"])


def test_versioned_columns_do_not_depend_on_the_recipe() -> None:
    """A different recipe does not change the version of an edge without opaque columns."""
    table = pa.table([["ann"], [1], [[1.0]]], schema=VECTORS)
    one, other = footer_of(table, vectors), footer_of(table, vectors, recipe={"code": "2"})
    assert one.edge_version(["user_id", "n"]) == other.edge_version(["user_id", "n"])


def test_an_open_shard_is_not_affected_by_a_write(root: str) -> None:
    """An open shard keeps its old footer and rows while its file is replaced."""
    shards = Shards(root, 2)
    old = write(shards, *["old"] * 1000)
    with shards.open(letters, 0) as opened:
        assert opened
        write(shards, *["new"] * 10)
        assert opened.footer == old
        assert set(opened.read(["text"])["text"].to_pylist()) == {"old"}
        assert len(opened.read(["user_id"])) == 1000
    assert texts_in(shards) == ["new"] * 10


class FullDisk(LocalFileSystem):  # type: ignore[misc]
    """A local disk that can run out of space for a file."""

    protocol = ("fulldisk",)
    bytes_per_file: ClassVar[int | None] = None

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if "w" in mode and self.bytes_per_file is not None:
            return _LimitedFile(self._strip_protocol(path), self.bytes_per_file)
        return super()._open(path, mode, **options)


class _LimitedFile(io.FileIO):
    """A file that can hold a number of bytes."""

    def __init__(self, path: str, n_bytes: int) -> None:
        super().__init__(path, "wb")
        self._n_bytes_left = n_bytes

    def write(self, data: Any) -> int:
        self._n_bytes_left -= super().write(bytes(data)[: self._n_bytes_left])
        if not self._n_bytes_left:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(bytes(data))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shards]:
    """Yield shards on a disk that can be full."""
    fsspec.register_implementation("fulldisk", FullDisk, clobber=True)
    monkeypatch.setattr(FullDisk, "bytes_per_file", None)
    yield Shards(f"fulldisk://{tmp_path}", 2)
    FullDisk.clear_instance_cache()


@pytest.mark.parametrize("n_bytes", [1, 100])
def test_a_failed_write_keeps_the_old_file(
    disk: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_bytes: int
) -> None:
    """A write that fails in the middle leaves the old shard byte for byte."""
    old = write(disk, "old")
    file = tmp_path / "letters/shard=0000/data.parquet"
    before = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(FullDisk, "bytes_per_file", n_bytes)
        with pytest.raises(OSError, match="No space left"):
            write(disk, "new", "newer")
    assert file.read_bytes() == before
    assert disk.footer(letters, 0) == old
    assert texts_in(disk) == ["old"]


def test_a_write_removes_scratch_files(disk: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed write removes its scratch file, and the next write that of a killed writer; files set aside stay."""
    write(disk, "old")
    disk.set_aside(letters, 0)
    folder = tmp_path / "letters/shard=0000"
    with monkeypatch.context() as patch:
        patch.setattr(FullDisk, "bytes_per_file", 50)
        with pytest.raises(OSError, match="No space left"):
            write(disk, "new")
    assert [path.suffix for path in folder.iterdir()] == [".aside"]
    (folder / "killed.tmp").touch()
    write(disk, "newest")
    assert sorted(path.suffix for path in folder.iterdir()) == [".aside", ".parquet"]
    assert texts_in(disk) == ["newest"]


@pytest.mark.parametrize("name", ["data[eu]", "data*", "what?"])
def test_a_root_can_have_any_name(tmp_path: Path, name: str) -> None:
    """Scratch files are removed from a folder whose name looks like a pattern."""
    shards = Shards(str(tmp_path / name), 2)
    write(shards, "old")
    scratch = tmp_path / name / "letters/shard=0000/dead.tmp"
    scratch.touch()
    write(shards, "new")
    assert not scratch.exists()
    assert texts_in(shards) == ["new"]


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def html(file: Path) -> None:
    file.write_text("<html>Service unavailable</html>")


def no_footer(file: Path) -> None:
    pq.write_table(rows("one"), file)


def other_footer(file: Path) -> None:
    pq.write_table(rows("one").replace_schema_metadata({"asset": "laptop 7"}), file)


def half_footer(file: Path) -> None:
    pq.write_table(rows("one").replace_schema_metadata({"asset": '{"asset": "letters"}'}), file)


def list_footer(file: Path) -> None:
    pq.write_table(rows("one").replace_schema_metadata({"asset": "[]"}), file)


def other_asset(file: Path) -> None:
    table = pa.table([["ann"], ["x"], [["y"]]], schema=LETTERS)
    metadata = replace(footer_of(table, shard=1), asset="stamps").to_metadata()
    pq.write_table(table.replace_schema_metadata(metadata), file)


def no_index(file: Path) -> None:
    metadata = footer_of(rows("one"), shard=1).to_metadata()
    pq.write_table(rows("one").replace_schema_metadata({"asset": metadata["asset"]}), file)


def half_index(file: Path) -> None:
    footer = replace(footer_of(rows("one"), shard=1), packed=index_of(rows("one")).pack()[:200])
    pq.write_table(rows("one").replace_schema_metadata(footer.to_metadata()), file)


def other_shard(file: Path) -> None:
    shutil.copy(file.parent.parent / "shard=0000" / "data.parquet", file)


@pytest.mark.parametrize(
    "spoil",
    [truncated, empty, html, no_footer, other_footer, half_footer, list_footer, no_index, other_asset, other_shard],
)
def test_an_unreadable_file_is_refused(shards: Shards, tmp_path: Path, spoil: Any) -> None:
    """A truncated or foreign file, or one of a different asset or shard, raises an error with file, asset and fix."""
    write(shards, "one")
    write(shards, "two", shard=1)
    spoil(tmp_path / "letters/shard=0001/data.parquet")
    with pytest.raises(ShardUnreadable) as raised:
        texts_in(shards, 1)
    message = str(raised.value)
    assert shards.path("letters", 1) in message
    assert "letters" in message.replace(shards.path("letters", 1), "")
    assert message.endswith("python -m assets rebuild letters --shard 1")
    assert texts_in(shards, 0) == ["one"]


def test_an_unreadable_shard_exists(shards: Shards) -> None:
    """A shard with an unreadable file exists, and is left out of the readable footers."""
    write(shards, "one")
    truncated(Path(shards.path("letters", 0)))
    assert [Footers(shards).exists(letters, shard) for shard in (0, 1)] == [True, False]
    write(shards, "two", shard=1)
    assert [footer.shard for footer in shards.readable_footers(letters)] == [1]


def test_an_unreadable_index_is_refused(shards: Shards, tmp_path: Path) -> None:
    """A broken index of users raises an error with shard, asset and fix when it is read."""
    write(shards, "one", shard=1)
    half_index(tmp_path / "letters/shard=0001/data.parquet")
    footer = shards.footer(letters, 1)
    assert footer
    with pytest.raises(ShardUnreadable, match=r"^shard 1 of letters .*python -m assets rebuild letters --shard 1$"):
        assert footer.index


def test_unreadable_rows_are_refused(shards: Shards) -> None:
    """Broken rows below a good footer raise an error with the fix when they are read."""
    write(shards, *map(str, range(5000)))
    file = Path(shards.path("letters", 0))
    content = file.read_bytes()
    file.write_bytes(content[:4] + bytes(2000) + content[2004:])
    with shards.open(letters, 0) as opened:
        assert opened
        assert opened.footer.n_rows == 5000
        with pytest.raises(ShardUnreadable, match=r"(?s)letters .*python -m assets rebuild letters --shard 0$"):
            opened.read(["user_id"])


def test_a_folder_in_the_place_of_a_file(shards: Shards, tmp_path: Path) -> None:
    """A folder in the place of one shard's file is named with its remedy; other shards stay readable."""
    write(shards, "one")
    (tmp_path / "letters/shard=0001/data.parquet").mkdir(parents=True)
    assert texts_in(shards, 0) == ["one"]
    for call in (lambda: texts_in(shards, 1), lambda: shards.footer(letters, 1)):
        with pytest.raises(ShardUnreadable, match=r"shard=0001/data\.parquet cannot be read: .*move it away\.$"):
            call()
    assert [footer.shard for footer in shards.readable_footers(letters)] == [0]


def test_a_footer_replaced_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A footer that is replaced by a longer one between two reads of an object store is read again, as it is now."""
    with running_s3(monkeypatch) as store:
        shards = Shards(f"{store.root}/data", 2)
        monkeypatch.setattr("assets.engine.metadata._TAIL_BYTES", 100)
        write(shards, "old")
        texts = iter([["newer"] * 500, ["newest"] * 2000])

        def replace_file(request: dict[str, Any]) -> None:
            is_read = request["REQUEST_METHOD"] == "GET" and "data.parquet" in request["PATH_INFO"]
            if is_read and (new := next(texts, None)):
                write(shards, *new)

        store.before = replace_file
        footer = shards.footer(letters, 0)
        assert footer
        assert footer.n_rows == 2000
        assert texts_in(shards) == ["newest"] * 2000


def test_an_object_store_that_throttles_is_not_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object store that asks to slow down makes no shard unreadable: nobody is told to rebuild it."""
    with running_s3(monkeypatch) as store:
        shards = Shards(f"{store.root}/data", 2)
        write(shards, "one")
        store.fail(503, "SlowDown")
        for call in (lambda: texts_in(shards), lambda: shards.readable_footers(letters)):
            with pytest.raises(OSError, match="cannot be read: SlowDown") as raised:
                call()
            assert "rebuild" not in str(raised.value)


def test_scratch_files_beside_a_table(shards: Shards, tmp_path: Path) -> None:
    """Old scratch files beside a table that is no asset are removed by the next write; those of live writers stay."""
    shards.write_table("counts", rows("one"))
    for name, hours in (("dead.tmp", 2), ("alive.tmp", 0)):
        (tmp_path / "counts" / name).touch()
        changed_at = time() - hours * 3600
        os.utime(tmp_path / "counts" / name, (changed_at, changed_at))
    shards.write_table("counts", rows("two"))
    assert sorted(path.name for path in (tmp_path / "counts").iterdir()) == ["alive.tmp", "data.parquet"]


def test_a_different_number_of_shards_is_refused(tmp_path: Path) -> None:
    """Shards written with a different N_SHARDS are refused with both numbers and both fixes."""
    write(Shards(str(tmp_path), 2), "one", shard=1)
    with pytest.raises(
        ShardUnreadable, match=r"shard=0001.* N_SHARDS=2, but N_SHARDS is 4 here\. Set N_SHARDS=2 .*reshard 4"
    ):
        Shards(str(tmp_path), 4).footer(letters, 1)


@pytest.mark.parametrize(
    ("stored", "found", "expected"),
    [
        (LETTERS.remove(1), "missing", "string"),
        (LETTERS.set(1, pa.field("text", pa.int64())), "int64", "string"),
        (LETTERS.set(1, pa.field("text", pa.large_string())), "large_string", "string"),
    ],
)
def test_a_different_schema_is_refused(shards: Shards, stored: pa.Schema, found: str, expected: str) -> None:
    """A stored column that is missing or of a different type raises an error with both types and the fix."""
    shards.write(letters, stored.empty_table(), footer_of(rows()))
    with shards.open(letters, 0) as opened:
        assert opened
        assert opened.read(["user_id"]).column_names == ["user_id"]
        with pytest.raises(SchemaError) as raised:
            opened.read(["user_id", "text"])
    message = str(raised.value)
    assert f"of letters: column 'text' is {found}, expected {expected}." in message
    assert shards.path("letters", 0) in message
    assert message.endswith("python -m assets rebuild letters --shard 0")


def test_all_stored_columns_can_be_read(shards: Shards) -> None:
    """A shard of older code can be read with its own columns and types."""
    older = pa.table({"user_id": ["user-0"], "colour": ["red"], "text": [7]})
    shards.write(letters, older, footer_of(rows("one")))
    with shards.open(letters, 0) as opened:
        assert opened
        assert opened.read_all().equals(older)


def test_columns_are_in_the_requested_order(shards: Shards) -> None:
    """Some columns of a shard are read in the requested order, and without the file's metadata."""
    write(shards, "one")
    with shards.open(letters, 0) as opened:
        assert opened
        table = opened.read(["text", "user_id"])
    assert table.column_names == ["text", "user_id"]
    assert table.schema.metadata is None


def test_a_shard_set_aside_is_missing(root: str) -> None:
    """A shard set aside is missing; each of its files stays under a name of its own."""
    shards = Shards(root, 2)
    asides = set()
    for text in ("one", "two"):
        write(shards, text)
        asides.add(shards.set_aside(letters, 0))
        assert texts_in(shards) is None
    filesystem, _ = fsspec.core.url_to_fs(root)
    assert len(asides) == 2
    assert all(filesystem.exists(aside) for aside in asides)


def test_a_missing_shard_cannot_be_set_aside(shards: Shards) -> None:
    """Setting a shard aside that does not exist is refused with its path."""
    with pytest.raises(ShardUnreadable, match=r"letters/shard=0001/data\.parquet does not exist"):
        shards.set_aside(letters, 1)
