"""Snapshots of files that are replaced while they are read."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import duckdb
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from object_store import running_s3

from assets.analysis.snapshot import Snapshot
from assets.analysis.views import SHARD_PARTITION, View
from assets.engine.errors import SnapshotError

SCHEMA = pa.schema({"user_id": pa.string(), "version": pa.int64(), "noise": pa.float64()})
VIEW = View("numbers", SCHEMA, "numbers/shard=*/data.parquet", SHARD_PARTITION)


def write(root: str, shard: int, version: int, n_rows: int = 2000) -> None:
    """Write a shard as the engine does: to a scratch file, which then replaces the old file."""
    fs, path = fsspec.core.url_to_fs(root)
    folder = f"{path}/numbers/shard={shard:04d}"
    fs.makedirs(folder, exist_ok=True)
    noise = np.random.default_rng(version).random(n_rows)
    table = pa.table([["ann"] * n_rows, [version] * n_rows, noise], schema=SCHEMA)
    with fs.open(f"{folder}/next.tmp", "wb") as file:
        pq.write_table(table, file, row_group_size=500)
    fs.mv(f"{folder}/next.tmp", f"{folder}/data.parquet")


@pytest.fixture(params=["folder", "file", "memory", "odd"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A DATA_ROOT: a path, a URL, in memory, and a path with the special characters of globs."""
    odd = tmp_path / "a [b] *c"
    odd.mkdir()
    urls = {
        "folder": str(tmp_path),
        "file": f"file://{tmp_path}/",
        "memory": f"memory://{tmp_path.name}",
        "odd": str(odd),
    }
    return urls[request.param]


@pytest.fixture
def snapshot(root: str, tmp_path: Path) -> Iterator[Snapshot]:
    with closing(Snapshot(root, tmp_path / "held")) as snapshot:
        yield snapshot


@pytest.fixture
def connection(snapshot: Snapshot) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        VIEW.create(connection, snapshot.folder)
        yield connection


def shown_versions(connection: duckdb.DuckDBPyConnection) -> list[tuple[int, int, int]]:
    """Shard, version and number of rows, as the view shows them."""
    return connection.execute("SELECT shard, version, count(*) FROM numbers GROUP BY ALL ORDER BY ALL").fetchall()


def test_held_files_do_not_change(root: str, snapshot: Snapshot, connection: duckdb.DuckDBPyConnection) -> None:
    """A file replaced or removed after `hold` is read as it was; the next `hold` shows the change."""
    write(root, 1, version=1)
    write(root, 2, version=1)
    assert snapshot.hold(VIEW.pattern) == 2
    write(root, 1, version=2)
    write(root, 3, version=2)
    fs, path = fsspec.core.url_to_fs(root)
    fs.rm(f"{path.rstrip('/')}/numbers/shard=0002", recursive=True)
    assert shown_versions(connection) == [(1, 1, 2000), (2, 1, 2000)]
    assert snapshot.hold(VIEW.pattern) == 2
    assert shown_versions(connection) == [(1, 2, 2000), (3, 2, 2000)]


def test_before_the_first_file(root: str, snapshot: Snapshot, connection: duckdb.DuckDBPyConnection) -> None:
    """A view is empty before the first file is written; the same view then shows the file."""
    assert snapshot.hold(VIEW.pattern) == 0
    assert shown_versions(connection) == []
    write(root, 7, version=1)
    snapshot.hold(VIEW.pattern)
    assert shown_versions(connection) == [(7, 1, 2000)]


def test_a_file_without_a_declared_column(
    root: str, snapshot: Snapshot, connection: duckdb.DuckDBPyConnection
) -> None:
    """A column that a file lacks is read as nulls, and other files keep their values."""
    write(root, 1, version=1)
    fs, path = fsspec.core.url_to_fs(root)
    folder = f"{path.rstrip('/')}/numbers/shard=0002"
    fs.makedirs(folder, exist_ok=True)
    with fs.open(f"{folder}/data.parquet", "wb") as file:
        pq.write_table(pa.table({"user_id": ["bob"]}), file)
    snapshot.hold(VIEW.pattern)
    assert shown_versions(connection) == [(1, 1, 2000), (2, None, 1)]


def test_queries_while_shards_are_replaced(tmp_path: Path) -> None:
    """While shards are replaced as fast as possible, every query returns whole shards, without an error."""
    root, finished = str(tmp_path / "data"), Event()
    for shard in range(4):
        write(root, shard, version=0)

    def replace_shards() -> None:
        version = 0
        while not finished.is_set():
            version += 1
            for shard in range(4):
                write(root, shard, version, n_rows=2000 + version % 7 * 100)

    writer = Thread(target=replace_shards)
    with closing(Snapshot(root, tmp_path / "held")) as snapshot, duckdb.connect() as connection:
        VIEW.create(connection, snapshot.folder)
        writer.start()
        try:
            versions = set()
            for _ in range(60):
                snapshot.hold(VIEW.pattern)
                result = shown_versions(connection)
                assert [(shard, n_rows) for shard, _, n_rows in result] == [
                    (number, 2000 + version % 7 * 100) for number, (_, version, _) in enumerate(result)
                ]
                versions.add(result[0][1])
        finally:
            finished.set()
            writer.join()
    assert len(versions) > 3  # the writer was at work meanwhile


def test_descriptors_are_closed(tmp_path: Path) -> None:
    """Repeated holds keep one descriptor open per file; `close` closes all of them."""
    before = len(os.listdir("/dev/fd"))
    with closing(Snapshot(str(tmp_path), tmp_path / "held")) as snapshot:
        for version in range(5):
            for shard in range(3):
                write(str(tmp_path), shard, version, n_rows=1)
            snapshot.hold(VIEW.pattern)
        assert len(os.listdir("/dev/fd")) == before + 3
    assert len(os.listdir("/dev/fd")) == before


def test_more_files_than_may_be_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The soft limit of open files rises up to the hard limit; beyond it an error shows numbers and command."""
    for shard in range(3):
        write(str(tmp_path), shard, 1, n_rows=1)
    new_limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: new_limits.append(limits))
    for hard in (4096, 130):
        monkeypatch.setattr(resource, "getrlimit", lambda _, hard=hard: (100, hard))
        with closing(Snapshot(str(tmp_path), tmp_path / f"held-{hard}")) as snapshot:
            if hard == 4096:
                assert [snapshot.hold(VIEW.pattern) for _ in range(2)] == [3, 3]
                assert set(new_limits) == {(134, 4096)}
            else:
                with pytest.raises(SnapshotError, match=r"3 files .* 131 open files, .* is 130.*ulimit -Hn 134"):
                    snapshot.hold(VIEW.pattern)


READ_MANY_FILES = """
import sys
from contextlib import closing
from pathlib import Path
import duckdb
from assets.analysis.snapshot import Snapshot
from test_snapshot import VIEW
with closing(Snapshot(sys.argv[1], Path(sys.argv[2]))) as snapshot, duckdb.connect() as connection:
    VIEW.create(connection, snapshot.folder)
    for _ in range(2):
        snapshot.hold(VIEW.pattern)
        print(connection.execute("SELECT count(*), sum(version) FROM numbers").fetchone())
"""


def test_many_files_under_a_low_limit(tmp_path: Path) -> None:
    """300 files are read, twice, although the soft limit is 256 open files."""
    for shard in range(300):
        write(str(tmp_path), shard, 1, n_rows=1)
    paths = os.pathsep.join([os.getcwd(), str(Path(__file__).parent), str(Path(__file__).parents[2])])
    limited = ["bash", "-c", 'ulimit -Sn 256; exec "$0" -c "$@"']
    process = subprocess.run(
        [*limited, sys.executable, READ_MANY_FILES, str(tmp_path), str(tmp_path / "held")],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
    )
    assert process.stdout.splitlines() == ["(300, 300)"] * 2, process.stderr


def test_an_object_store_that_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An object store that refuses or cannot be reached is named with the files that were asked for."""
    with running_s3(monkeypatch) as store, closing(Snapshot(f"{store.root}/data", tmp_path / "held")) as snapshot:
        write(f"{store.root}/data", 0, 1)
        assert snapshot.hold(VIEW.pattern) == 1
        store.fail(503, "SlowDown")
        with pytest.raises(SnapshotError, match=r"numbers/.* cannot be read: .*SlowDown"):
            snapshot.hold(VIEW.pattern)
        store.fail(None)
        store.stop()
        with pytest.raises(SnapshotError, match=r"numbers/.* cannot be read: "):
            snapshot.hold(VIEW.pattern)
