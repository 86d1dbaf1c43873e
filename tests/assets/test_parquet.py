from __future__ import annotations

import errno
import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from assets.asset import Asset, Users, asset
from assets.digests import SIZE
from assets.errors import SchemaError, ShardUnreadable
from assets.index import Index
from assets.parquet import Footer, Shards

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
    """Letters of one user each."""
    users = [f"user-{number}" for number in range(len(texts))]
    return pa.table([users, list(texts), [["a", text] for text in texts]], schema=LETTERS)


def index_of(table: pa.Table, of: Asset = letters, mark: bytes = bytes(SIZE)) -> Index:
    index = Index.of(table, [name for name in of.plain if name in table.column_names])
    return index.also(sorted(of.opaque), [mark] * len(index))


def footer_of(table: pa.Table, of: Asset = letters, mark: bytes = bytes(SIZE), **facts: Any) -> Footer:
    """A footer that fits the table, in shard 0 of 2. mark: of what the opaque columns follow from."""
    known: dict[str, Any] = {
        "shard": 0,
        "n_shards": 2,
        "recipe": {"code": "1"},
        "inputs": {},
        "materialized_at": NOON,
    }
    return Footer.of(of, index=index_of(table, of, mark), **{**known, **facts})


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
    """DATA_ROOT as people write it: a folder, or an fsspec URL."""
    urls = {"folder": str(tmp_path), "file": f"file://{tmp_path}", "memory": f"memory://{tmp_path.name}"}
    return urls[request.param]


def test_what_was_written_is_read(root: str) -> None:
    """Under a folder or any URL, a shard gives back its rows and its footer, and others are not there."""
    shards = Shards(root, 2)
    footer = write(shards, "one", "two")
    with shards.open(letters, 0) as opened:
        assert opened
        assert opened.footer == footer
        assert opened.read(LETTERS.names).equals(rows("one", "two"))
    assert texts_in(shards, 1) is None
    assert shards.footer(letters, 1) is None


def test_a_shard_is_replaced(root: str) -> None:
    """A second write replaces the first, wholly, and leaves nothing else in the folder."""
    shards = Shards(root, 2)
    write(shards, "a long letter", "and another")
    write(shards, "short")
    assert texts_in(shards) == ["short"]
    filesystem, path = fsspec.core.url_to_fs(root)
    assert [each.rsplit(path, 1)[1] for each in filesystem.find(path)] == ["/letters/shard=0000/data.parquet"]


def test_a_path_tells_asset_and_shard(tmp_path: Path) -> None:
    """A shard's file is <root>/<asset>/shard=0007/data.parquet, whether or not the root ends with a slash."""
    wanted = f"{tmp_path}/letters/shard=0007/data.parquet"
    assert Shards(str(tmp_path), 16).path("letters", 7) == wanted
    assert Shards(f"{tmp_path}/", 16).path("letters", 7) == wanted


def test_any_parquet_reader_reads_a_shard(shards: Shards) -> None:
    """A shard is plain Parquet: other tools see exactly the asset's columns."""
    write(shards, "one")
    assert pq.read_table(shards.path("letters", 0), partitioning=None).to_pylist() == [
        {"user_id": "user-0", "text": "one", "labels": ["a", "one"]}
    ]


def test_a_footer_survives_the_file(shards: Shards) -> None:
    """Versions, inputs, counts, times and users without rows are read from the footer as they were written."""
    made_from = {"user-0": b"0" * SIZE, "zoë": b"1" * SIZE, "bob": b"2" * SIZE}
    index = Index.of(rows("one"), LETTERS.names, made_from)
    recipe, later = {"code": "2", "model": "m1"}, NOON + timedelta(hours=1, microseconds=1)
    footer = Footer.of(letters, 0, 2, index, recipe, {"stamps": "abc"}, NOON)
    shards.write(letters, rows("one"), replace(footer, valid_until=later))
    read = shards.footer(letters, 0)
    assert read == replace(footer, valid_until=later)
    assert (read.recipe, read.inputs, read.materialized_at) == (recipe, {"stamps": "abc"}, NOON)
    assert (read.n_rows, read.n_users, read.valid_until) == (1, 3, later)
    assert read.index.known() == made_from
    assert read.index.rows_of(["user-0"]) == 1


def test_a_footer_of_fewer_users(shards: Shards) -> None:
    """A footer that holds another index says that one's users, rows, versions and times, and else what it said."""
    index = index_of(rows("one", "two"))
    footer = Footer.of(letters, 0, 2, index, {"code": "2"}, {"stamps": "abc"}, NOON)
    left = footer.holding(index.without({"user-1"}))
    assert left == Footer.of(letters, 0, 2, index_of(rows("one")), {"code": "2"}, {"stamps": "abc"}, NOON)


def test_all_footers_of_an_asset(shards: Shards) -> None:
    """The footers of an asset are those of the shards that there are, in order."""
    assert shards.footers(letters) == []
    write(shards, "second", shard=1)
    assert [footer.shard for footer in shards.footers(letters)] == [1]
    write(shards, "first", shard=0)
    assert [footer.shard for footer in shards.footers(letters)] == [0, 1]


def test_data_version_is_of_rows_only() -> None:
    """Time, inputs and recipe leave the data_version alone; another value in a row does not."""
    footer = footer_of(rows("one"))
    later = replace(footer, materialized_at=NOON + timedelta(1), inputs={"stamps": "x"}, recipe={"code": "2"})
    assert footer.data_version == later.data_version
    assert footer.data_version != footer_of(rows("two")).data_version


def test_an_opaque_column_has_the_version_of_what_it_follows_from() -> None:
    """Whoever reads an opaque column sees another version when that changed, and not when only its values did."""

    def edge(value: float = 1.0, **facts: Any) -> str:
        table = pa.table([["ann"], [1], [[value]]], schema=VECTORS)
        return footer_of(table, vectors, **facts).edge_version(["user_id", "vector"])

    assert edge() == edge(value=0.5) == edge(materialized_at=NOON + timedelta(1), recipe={"code": "2"})
    assert edge() != edge(mark=b"m" * SIZE)


def test_opaque_columns_are_no_part_of_the_data_version() -> None:
    """The data_version does not change with what an opaque column follows from."""
    table = pa.table([["ann"], [1], [[1.0]]], schema=VECTORS)
    one, other = footer_of(table, vectors), footer_of(table, vectors, b"m" * SIZE)
    assert one.data_version == other.data_version
    assert one != other


def test_a_column_that_the_file_lacks_is_another_version() -> None:
    """An edge that asks for a column which a shard of older code has not got sees other data once it has it."""
    older = footer_of(
        rows("one").drop_columns(["labels"]),
        of=asset(step="f", schema=LETTERS.remove(2), code_version="1")(letters.function),
    )
    assert older.edge_version(["user_id", "labels"]) != footer_of(rows("one")).edge_version(["user_id", "labels"])
    assert older.edge_version(["user_id", "text"]) == footer_of(rows("one")).edge_version(["user_id", "text"])


def test_plain_columns_do_not_see_the_recipe() -> None:
    """Whoever reads no opaque column does not notice another recipe."""
    table = pa.table([["ann"], [1], [[1.0]]], schema=VECTORS)
    one, other = footer_of(table, vectors), footer_of(table, vectors, recipe={"code": "2"})
    assert one.edge_version(["user_id", "n"]) == other.edge_version(["user_id", "n"])


def test_a_reader_keeps_the_file_that_it_opened(root: str) -> None:
    """Who opened a shard goes on reading its old rows, footer and all, while it is replaced."""
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
    """A local disk with room for so many bytes a file, that may also die before a rename."""

    protocol = ("fulldisk",)
    room: ClassVar[int | None] = None
    renames: ClassVar[bool] = True

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if "w" in mode and self.room is not None:
            return _Narrow(self._strip_protocol(path), self.room)
        return super()._open(path, mode, **options)

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        if not self.renames:
            raise OSError(errno.EIO, "the machine is gone")
        super().mv(path1, path2, **options)


class _Narrow(io.FileIO):
    def __init__(self, path: str, room: int) -> None:
        super().__init__(path, "wb")
        self._room = room

    def write(self, data: Any) -> int:
        self._room -= super().write(bytes(data)[: self._room])
        if not self._room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(bytes(data))


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shards]:
    """Shards on a disk that can fail."""
    fsspec.register_implementation("fulldisk", FullDisk, clobber=True)
    monkeypatch.setattr(FullDisk, "room", None)
    monkeypatch.setattr(FullDisk, "renames", True)
    yield Shards(f"fulldisk://{tmp_path}", 2)
    FullDisk.clear_instance_cache()


@pytest.mark.parametrize(("fact", "value"), [("room", 1), ("room", 100), ("renames", False)])
def test_a_write_that_dies_leaves_the_old_file(
    disk: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fact: str, value: object
) -> None:
    """A write that dies in the middle, or just before the rename, leaves the old shard byte for byte."""
    old = write(disk, "old")
    file = tmp_path / "letters/shard=0000/data.parquet"
    before = file.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(FullDisk, fact, value)
        with pytest.raises(OSError, match=r"No space left|machine is gone"):
            write(disk, "new", "newer")
    assert file.read_bytes() == before
    assert disk.footer(letters, 0) == old
    assert texts_in(disk) == ["old"]


def test_the_next_write_removes_leftovers(disk: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a dead write left behind is gone after the next one; files set aside stay."""
    write(disk, "old")
    disk.set_aside(letters, 0)
    with monkeypatch.context() as patch:
        patch.setattr(FullDisk, "room", 50)
        with pytest.raises(OSError, match="No space left"):
            write(disk, "new")
    folder = tmp_path / "letters/shard=0000"
    assert [path.suffix for path in sorted(folder.iterdir())].count(".tmp") == 1
    write(disk, "newest")
    assert sorted(path.suffix for path in folder.iterdir()) == [".aside", ".parquet"]
    assert texts_in(disk) == ["newest"]


@pytest.mark.parametrize("name", ["data[eu]", "data*", "what?"])
def test_a_root_may_have_any_name(tmp_path: Path, name: str) -> None:
    """Leftovers are found in a folder whose name looks like a pattern, too, and in no other folder."""
    shards = Shards(str(tmp_path / name), 2)
    write(shards, "old")
    left = tmp_path / name / "letters/shard=0000/dead.tmp"
    left.touch()
    write(shards, "new")
    assert not left.exists()
    assert texts_in(shards) == ["new"]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-20])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def text(file: Path) -> None:
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
    stamp = replace(footer_of(table, shard=1), asset="stamps").to_metadata()
    pq.write_table(table.replace_schema_metadata(stamp), file)


def no_index(file: Path) -> None:
    stamp = footer_of(rows("one"), shard=1).to_metadata()
    pq.write_table(rows("one").replace_schema_metadata({"asset": stamp["asset"]}), file)


def half_index(file: Path) -> None:
    stamp = replace(footer_of(rows("one"), shard=1), packed=index_of(rows("one")).pack()[:200]).to_metadata()
    pq.write_table(rows("one").replace_schema_metadata(stamp), file)


def other_shard(file: Path) -> None:
    shutil.copy(file.parent.parent / "shard=0000" / "data.parquet", file)


@pytest.mark.parametrize(
    "spoil", [cut, empty, text, no_footer, other_footer, half_footer, list_footer, no_index, other_asset, other_shard]
)
def test_a_spoilt_file_names_the_mend(shards: Shards, tmp_path: Path, spoil: Any) -> None:
    """A file cut short, foreign, of another asset or shard: the error names file, asset and the command to type."""
    write(shards, "one")
    write(shards, "two", shard=1)
    spoil(tmp_path / "letters/shard=0001/data.parquet")
    with pytest.raises(ShardUnreadable) as raised:
        texts_in(shards, 1)
    said = str(raised.value)
    assert shards.path("letters", 1) in said
    assert "letters" in said.replace(shards.path("letters", 1), "")
    assert said.endswith("python -m assets rebuild letters --shard 1")
    assert texts_in(shards, 0) == ["one"]


def test_a_spoilt_index_names_the_mend(shards: Shards, tmp_path: Path) -> None:
    """A file whose index of users is broken names shard, asset and mend when somebody asks whom it holds."""
    write(shards, "one", shard=1)
    half_index(tmp_path / "letters/shard=0001/data.parquet")
    footer = shards.footer(letters, 1)
    assert footer
    with pytest.raises(ShardUnreadable, match=r"^shard 1 of letters .*python -m assets rebuild letters --shard 1$"):
        assert footer.index


def test_spoilt_rows_name_the_mend(shards: Shards) -> None:
    """A file whose footer is whole but whose rows are not names the mend when the rows are read."""
    write(shards, *map(str, range(5000)))
    file = Path(shards.path("letters", 0))
    content = file.read_bytes()
    file.write_bytes(content[:4] + bytes(2000) + content[2004:])
    with shards.open(letters, 0) as opened:
        assert opened
        assert opened.footer.n_rows == 5000
        with pytest.raises(ShardUnreadable, match=r"(?s)letters .*python -m assets rebuild letters --shard 0$"):
            opened.read(["user_id"])


def test_another_number_of_shards_is_refused(tmp_path: Path) -> None:
    """Shards written with another N_SHARDS are refused with both numbers and the two ways out."""
    write(Shards(str(tmp_path), 2), "one", shard=1)
    with pytest.raises(ShardUnreadable, match=r"shard=0001.* N_SHARDS=2, now it is 4\. Set it back, or .*DATA_ROOT"):
        Shards(str(tmp_path), 4).footer(letters, 1)


@pytest.mark.parametrize(
    ("stored", "found", "wanted"),
    [
        (LETTERS.remove(1), "missing", "string"),
        (LETTERS.set(1, pa.field("text", pa.int64())), "int64", "string"),
        (LETTERS.set(1, pa.field("text", pa.large_string())), "large_string", "string"),
    ],
)
def test_another_schema_names_the_mend(shards: Shards, stored: pa.Schema, found: str, wanted: str) -> None:
    """A stored column that is missing or of another type is named with both types and the command to type."""
    shards.write(letters, stored.empty_table(), footer_of(rows()))
    with shards.open(letters, 0) as opened:
        assert opened
        assert opened.read(["user_id"]).column_names == ["user_id"]
        with pytest.raises(SchemaError) as raised:
            opened.read(["user_id", "text"])
    said = str(raised.value)
    assert f"of letters: column 'text' is {found}, wanted {wanted}." in said
    assert shards.path("letters", 0) in said
    assert said.endswith("python -m assets rebuild letters --shard 0")


def test_all_that_is_stored_can_be_read(shards: Shards) -> None:
    """What a shard of older code holds can be read as it is, other columns and types than declared and all."""
    older = pa.table({"user_id": ["user-0"], "colour": ["red"], "text": [7]})
    shards.write(letters, older, footer_of(rows("one")))
    with shards.open(letters, 0) as opened:
        assert opened
        assert opened.read_all().equals(older)


def test_columns_come_as_asked_for(shards: Shards) -> None:
    """Some columns of a shard come in the order asked for, without the file's footer hanging on them."""
    write(shards, "one")
    with shards.open(letters, 0) as opened:
        assert opened
        table = opened.read(["text", "user_id"])
    assert table.column_names == ["text", "user_id"]
    assert table.schema.metadata is None


def test_set_aside_makes_a_shard_missing(root: str) -> None:
    """A shard set aside counts as missing; its file stays under another name, however often."""
    shards = Shards(root, 2)
    asides = set()
    for text in ("one", "two"):
        write(shards, text)
        asides.add(shards.set_aside(letters, 0))
        assert texts_in(shards) is None
    filesystem, _ = fsspec.core.url_to_fs(root)
    assert len(asides) == 2
    assert all(filesystem.exists(aside) for aside in asides)


def test_nothing_to_set_aside(shards: Shards) -> None:
    """Setting aside a shard that is not there is refused with its path."""
    with pytest.raises(ShardUnreadable, match=r"letters/shard=0001/data\.parquet does not exist"):
        shards.set_aside(letters, 1)
