from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import LETTERS, NOON, ToyPipeline

from assets.engine.erase import erase
from assets.engine.errors import ShardsFailed
from assets.engine.hashing import shard_of
from assets.engine.index import Index

ERASED, SECRET = "ann-who-leaves", "xylophone"
TEXTS = {
    ERASED: [SECRET, f"tune the {SECRET}", ""],
    "bob": ["buy milk", ""],
    "cem": [""],
    **{f"user-{n}": [f"letter {n}"] for n in range(6)},
}
"""The letters of each user; an empty text has no words, and cem has no others."""


def materialized(root: str | None, texts: Mapping[str, Sequence[str]], n_shards: int = 2) -> ToyPipeline:
    """Return a pipeline with letters of these texts and named by them, after a run; ERASED's page expires first."""
    pipeline = ToyPipeline(root, n_shards)
    for user, user_texts in texts.items():
        pipeline.post_office.join(user)
        for number, text in enumerate(user_texts):
            opens_at = NOON + timedelta(days=1 if user == ERASED else 2)
            pipeline.post_office.write(user, f"{number} {text}", text, opens_at, [text, "label"])
    pipeline.run()
    return pipeline


@pytest.fixture
def pipeline(tmp_path: Path) -> ToyPipeline:
    """Nine users in two shards, after a run."""
    return materialized(str(tmp_path), TEXTS)


@pytest.fixture
def pipeline_without(tmp_path: Path) -> ToyPipeline:
    """The same pipeline as if the erased user had never existed."""
    return materialized(str(tmp_path / "other"), {user: own for user, own in TEXTS.items() if user != ERASED})


def erase_users(pipeline: ToyPipeline, *users: str) -> int:
    return erase(pipeline.graph, pipeline.shards, users)


def contents(pipeline: ToyPipeline) -> dict[tuple[str, int], Any]:
    """Return the rows and the footer of each shard, without the time of writing and the versions of the inputs."""
    shards: dict[tuple[str, int], Any] = {}
    for asset in pipeline.graph:
        for footer in pipeline.shards.footers(asset):
            with pipeline.shards.open(asset, footer.shard) as opened:
                rows = opened.read(asset.schema.names).to_pylist() if opened else []
            shards[asset.name, footer.shard] = rows, replace(footer, materialized_at=NOON, inputs={})
    return shards


def texts_in(path: Path) -> Iterator[str]:
    """Yield a file's name and bytes and, of Parquet, the decoded rows, statistics and footer."""
    raw = path.read_bytes()
    yield str(path)
    yield raw.decode("latin-1")
    if raw.startswith(b"PAR1"):
        file = pq.ParquetFile(path)
        yield str(file.read().to_pylist())
        metadata = file.metadata.metadata or {}
        yield str(metadata)
        yield b64decode(metadata[b"users"]).decode("latin-1")
        yield str(Index.unpack(b64decode(metadata[b"users"])).users)
        yield str([file.metadata.row_group(group).to_dict() for group in range(file.metadata.num_row_groups)])


def traces(pipeline: ToyPipeline, *words: str) -> set[str]:
    """Return the files that contain one of the words."""
    files = (path for path in Path(pipeline.root).rglob("*") if path.is_file())
    return {
        str(path.relative_to(pipeline.root))
        for path in files
        if any(word in text for word in words for text in texts_in(path))
    }


def test_the_search_finds_every_trace(pipeline: ToyPipeline) -> None:
    """Before a user is erased, the search finds them in every asset of their shard."""
    shard = f"shard={shard_of(ERASED, 2):04d}"
    assert traces(pipeline, ERASED) == {f"{each.name}/{shard}/data.parquet" for each in pipeline.graph}
    assert traces(pipeline, SECRET) == traces(pipeline, ERASED)


def test_no_trace_of_an_erased_user_is_left(pipeline: ToyPipeline) -> None:
    """An erased user's id and texts are in no file, raw or decoded; the erased rows are counted."""
    assert erase_users(pipeline, ERASED) == 3 + 2 + 1
    assert traces(pipeline, ERASED, SECRET) == set()
    assert erase_users(pipeline, ERASED) == 0


def test_a_user_without_rows_is_erased(pipeline: ToyPipeline) -> None:
    """A user without rows in an asset is erased from its footer."""
    assert traces(pipeline, "cem") >= {f"words/shard={shard_of('cem', 2):04d}/data.parquet"}
    erase_users(pipeline, "cem")
    assert traces(pipeline, "cem") == set()


def test_other_users_are_as_if_the_user_had_never_existed(
    pipeline: ToyPipeline, pipeline_without: ToyPipeline
) -> None:
    """The rows, versions and expiry of all others are those of a root that never had the user."""
    erase_users(pipeline, ERASED)
    assert contents(pipeline) == contents(pipeline_without)


def test_data_pages_are_as_if_the_user_had_never_existed(
    pipeline: ToyPipeline, pipeline_without: ToyPipeline
) -> None:
    """The bytes of a file before its footer are those that would have been written without the user."""
    erase_users(pipeline, ERASED)
    for each in pipeline.graph:
        files = [Path(one.shards.path(each.name, shard_of(ERASED, 2))) for one in (pipeline, pipeline_without)]
        ends = [-8 - int.from_bytes(file.read_bytes()[-8:-4], "little") for file in files]
        data = [file.read_bytes()[:end] for file, end in zip(files, ends, strict=True)]
        assert data[0] == data[1]
        assert len(data[0]) > 100


def test_the_next_run_computes_no_user(pipeline: ToyPipeline) -> None:
    """The next run after an erasure computes no user and leaves nothing to do."""
    erase_users(pipeline, ERASED)
    pipeline.post_office.leave(ERASED)
    results = pipeline.run()
    assert pipeline.calls == {}
    assert {result.n_users_computed for result in results if result.asset != "letters"} <= {0}
    assert not any(result.changed for result in results)
    assert pipeline.plans() == {}
    assert traces(pipeline, ERASED, SECRET) == set()


def test_an_erased_user_who_is_observed_comes_back(pipeline: ToyPipeline) -> None:
    """An erased user who is observed again is computed alone, even if all inputs are the same as before."""
    before = contents(pipeline)
    erase_users(pipeline, ERASED)
    pipeline.run()
    assert pipeline.calls == {"words": [[ERASED]], "pages": [[ERASED]]}
    assert contents(pipeline) == before


def test_other_shards_are_left_alone(pipeline: ToyPipeline) -> None:
    """Files of other shards than the user's are not touched."""
    others = [Path(pipeline.shards.path(each.name, 1 - shard_of(ERASED, 2))) for each in pipeline.graph]
    before = [(file.read_bytes(), file.stat().st_mtime_ns) for file in others]
    erase_users(pipeline, ERASED)
    assert [(file.read_bytes(), file.stat().st_mtime_ns) for file in others] == before


def test_erasing_an_unknown_user_changes_nothing(pipeline: ToyPipeline) -> None:
    """Erasing a user without rows anywhere, or no user, touches no file."""
    before = pipeline.files()
    assert erase_users(pipeline, "zoe") == erase_users(pipeline) == 0
    assert pipeline.files() == before


def test_several_users_are_erased_at_once(pipeline: ToyPipeline) -> None:
    """Users of several shards, even all users of a shard, are erased together."""
    assert {shard_of(user, 2) for user in TEXTS} == {0, 1}
    erase_users(pipeline, *TEXTS)
    assert traces(pipeline, *TEXTS, SECRET, "milk", "letter 1") == set()
    assert {(tuple(rows), footer.n_users) for rows, footer in contents(pipeline).values()} == {((), 0)}


def test_leftovers_are_removed(pipeline: ToyPipeline) -> None:
    """Files set aside and scratch files of dead writers are removed in the user's shard, and in no other."""
    own, other = shard_of(ERASED, 2), 1 - shard_of(ERASED, 2)
    for each in pipeline.graph:
        for shard in (own, other):
            folder = Path(pipeline.shards.path(each.name, shard)).parent
            (folder / "dead.tmp").write_text(f"half of a letter of {ERASED}")
    asides = [Path(pipeline.shards.set_aside(pipeline.graph["letters"], shard)) for shard in (own, other)]
    erase_users(pipeline, ERASED)
    assert [file.exists() for file in asides] == [False, True]
    assert {path.parent.name for path in Path(pipeline.root).rglob("*.tmp")} == {f"shard={other:04d}"}


def test_a_shard_set_aside_is_erased(pipeline: ToyPipeline) -> None:
    """In a shard that has no files but those set aside, these are removed."""
    for each in pipeline.graph:
        pipeline.shards.set_aside(each, shard_of(ERASED, 2))
    assert erase_users(pipeline, ERASED) == 0
    assert traces(pipeline, ERASED, SECRET) == set()


def test_files_of_older_code_are_erased(pipeline: ToyPipeline) -> None:
    """A user is erased from files whose columns are missing or of a different type in the current code."""
    graph = pipeline.graph
    schema = LETTERS.remove(4).append(pa.field("labels", pa.string())).append(pa.field("n", pa.int8()))
    newer = {name: replace(graph[name], code_version="2") for name in ("words", "pages")}
    pipeline.use(replace(graph["letters"], schema=schema, code_version="2"), *newer.values())
    assert erase_users(pipeline, ERASED) == 6
    assert traces(pipeline, ERASED, SECRET) == set()
    pipeline.graph = graph
    pipeline.post_office.leave(ERASED)
    pipeline.run()
    assert pipeline.calls == {}
    assert pipeline.plans() == {}


def test_a_stale_shard_stays_stale(pipeline: ToyPipeline) -> None:
    """An erasure does not hide the changes of other users that are still to be computed."""
    shard = shard_of(ERASED, 2)
    changed = next(user for user in TEXTS if user != ERASED and shard_of(user, 2) == shard)
    pipeline.post_office.write(changed, "new", "something new today")
    pipeline.run(users={changed: NOON}, select=["letters"])
    erase_users(pipeline, ERASED)
    assert pipeline.plans() == {"words": {shard: "data"}, "pages": {shard: "data"}}
    pipeline.run(users={})
    assert pipeline.calls == {"words": [[changed]], "pages": [[changed]]}


def test_an_unreadable_file_is_not_erased(pipeline: ToyPipeline) -> None:
    """An unreadable file raises an error with the command to rebuild it; once set aside, it is removed."""
    shard = shard_of(ERASED, 2)
    file = Path(pipeline.shards.path("words", shard))
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ShardsFailed, match=f"rebuild words --shard {shard}"):
        erase_users(pipeline, ERASED)
    pipeline.shards.set_aside(pipeline.graph["words"], shard)
    erase_users(pipeline, ERASED)
    assert traces(pipeline, ERASED, SECRET) == set()


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["ann", "bob", "cem", "dan", "eve"]),
        st.lists(st.sampled_from(["", "one", "two"]), max_size=2),
    ),
    st.sets(st.sampled_from(["ann", "bob", "cem", "zoe"])),
)
def test_any_erasure_is_as_if_the_users_had_never_existed(texts: dict[str, list[str]], erased: set[str]) -> None:
    """After any erasure the other users are as if the erased ones had never existed, and none is computed again."""
    MemoryFileSystem.store.clear()
    pipeline = materialized(None, texts)
    erase_users(pipeline, *erased)
    other = materialized(None, {user: own for user, own in texts.items() if user not in erased})
    expected, shards = contents(other), contents(pipeline)
    assert {key: shards[key] for key in expected} == expected
    assert all(rows == [] for key, (rows, _) in shards.items() if key not in expected)
    pipeline.post_office = other.post_office
    pipeline.run()
    assert pipeline.calls == {}
    assert pipeline.plans() == {}
