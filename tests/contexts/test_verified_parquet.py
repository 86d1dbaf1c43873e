"""Parquet files in which no damage stays unnoticed."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contexts.verified_parquet import DamagedFile, n_footer_bytes, open_parquet, read_metadata, write_parquet

N_FLIPS = 300


def table_of(n_rows: int) -> pa.Table:
    """Texts, lists, half floats and nulls of several users."""
    vectors = np.random.default_rng(1).normal(size=(n_rows, 8)).astype(np.float16)
    return pa.table(
        {
            "user_id": [f"user-{n // 5}" for n in range(n_rows)],
            "text": [None if n % 7 == 0 else f"text {n}" for n in range(n_rows)],
            "labels": [["a", "b"][: n % 3] for n in range(n_rows)],
            "vector": pa.array(list(vectors), pa.list_(pa.float16())),
        }
    )


def written(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    write_parquet(file, table, {"asset": "letters"}, **{"compression": "zstd", "row_group_size": 100, **options})
    return file.getvalue()


def read(content: bytes) -> tuple[pa.Table, dict[bytes, bytes]]:
    parquet = open_parquet(io.BytesIO(content))
    return parquet.read(), parquet.metadata.metadata


def outcome(content: bytes, expected: object) -> str:
    try:
        return "equal" if read(content) == expected else "different"
    except DamagedFile:
        return "damaged"


@pytest.mark.parametrize("n_rows", [0, 1, 250])
@pytest.mark.parametrize("options", [{}, {"use_dictionary": ["user_id"]}, {"compression": "none"}])
def test_round_trip(n_rows: int, options: dict[str, Any]) -> None:
    """A table of any size is read as it was written, with its metadata, also from the end of the file alone."""
    table = table_of(n_rows)
    content = written(table, **options)
    parquet, metadata = read(content)
    assert parquet.equals(table)
    assert metadata[b"asset"] == b"letters"
    assert read_metadata(content[-n_footer_bytes(content[-8:]) :]).metadata == metadata


def test_other_readers(tmp_path: Path) -> None:
    """Readers that know nothing of the digests read the file, and see Parquet's own checksums."""
    table, path = table_of(250), tmp_path / "data.parquet"
    content = written(table)
    path.write_bytes(content)
    assert pq.read_table(path).equals(table)
    assert duckdb.sql(f"SELECT count(*), count(text), sum(len(labels)) FROM '{path}'").fetchall() == [(250, 214, 249)]
    start = open_parquet(io.BytesIO(content)).metadata.row_group(0).column(3).data_page_offset
    path.write_bytes(content[: start + 60] + bytes([content[start + 60] ^ 1]) + content[start + 61 :])
    with pytest.raises(OSError, match="CRC checksum verification failed"):
        pq.read_table(path, columns=["vector"], page_checksum_verification=True)


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_flipped_bits(compression: str) -> None:
    """A file with any flipped bit has the data that was written, or is refused."""
    content = written(table_of(250), compression=compression)
    expected, chance = read(content), random.Random(7)
    outcomes = []
    for _ in range(N_FLIPS):
        position, bit = chance.randrange(len(content)), chance.randrange(8)
        flipped = content[position] ^ (1 << bit)
        outcomes.append(outcome(content[:position] + bytes([flipped]) + content[position + 1 :], expected))
    assert set(outcomes) <= {"equal", "damaged"}
    assert outcomes.count("damaged") > 0.95 * N_FLIPS


def test_every_byte_of_the_footer() -> None:
    """A flipped bit in any byte of the footer is refused, or leaves the data as they are."""
    content = written(table_of(20))
    expected, n_bytes = read(content), n_footer_bytes(content[-8:])
    for position in range(len(content) - n_bytes, len(content)):
        flipped = content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :]
        assert outcome(flipped, expected) in ("equal", "damaged"), position


def test_files_cut_short_or_foreign() -> None:
    """A file that is cut short anywhere, and one that is no Parquet file, is refused."""
    content = written(table_of(20))
    for n_bytes in range(0, len(content) - 1, 7):
        with pytest.raises(DamagedFile):
            read(content[:n_bytes])
    for foreign in (b"", b"PAR1", b"<html>Service unavailable</html>", bytes(100)):
        with pytest.raises(DamagedFile):
            read(foreign)


def test_files_without_digests() -> None:
    """A file that was written without digests is read."""
    file, table = io.BytesIO(), table_of(20)
    pq.write_table(table, file)
    assert open_parquet(file).read().equals(table)


def test_only_what_is_read_is_verified() -> None:
    """Damage in one column leaves the other columns readable: only the bytes of the columns read are read."""
    table = table_of(250)
    content = written(table)
    start = open_parquet(io.BytesIO(content)).metadata.row_group(1).column(1).data_page_offset
    parquet = open_parquet(io.BytesIO(content[:start] + bytes([content[start] ^ 1]) + content[start + 1 :]))
    assert parquet.read(["user_id", "vector"]).equals(table.select(["user_id", "vector"]))
    assert parquet.read_row_group(0, ["text"]).equals(table.select(["text"]).slice(0, 100))
    with pytest.raises(DamagedFile, match="are not those that were written"):
        parquet.read(["text"])
