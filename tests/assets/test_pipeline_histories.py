"""Histories of the whole pipeline: whatever happened in between, the end equals one night from nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from emptied import EmptiedConnection
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from switchable import SwitchableApp
from world import NOON, WordVectors, World

from assets.definitions import GRAPH
from assets.engine.errors import OptionsError, ShardsFailed
from assets.engine.footers import Footers
from assets.engine.graph import Graph
from assets.options import RunOptions
from contexts.assembly.store import ContextStore
from contexts.themes.cluster import Calibration, Clusterer
from contexts.themes.embed import Embedder
from contexts.todoist.accounts import Accounts, FetchScope
from contexts.todoist.client import Todoist
from contexts.todoist.credentials import CredentialCipher, Credentials
from local.todoist import Fault, LocalTodoist

USERS = ("ann", "bob", "cem")
TEXTS = ("buy milk", "buy bread", "buy red apples", "call the bank", "call the dentist", "write to the bank")
ZONES = {"ann": "UTC", "bob": "Asia/Tokyo", "cem": "America/Los_Angeles"}

users = st.sampled_from(USERS)
tasks = st.sampled_from([f"t{number}" for number in range(5)])
EVENTS = st.one_of(
    st.tuples(st.just("write"), users, tasks, st.sampled_from(TEXTS)),
    st.tuples(st.just("schedule"), users, tasks, st.integers(-2, 9)),
    st.tuples(st.just("complete"), users, tasks),
    st.tuples(st.just("react"), users, st.sampled_from(["done", "dismissed"])),
    st.tuples(st.just("wait"), st.sampled_from([1, 7, 24, 60])),
    st.tuples(st.just("change_code"), st.sampled_from(sorted(GRAPH.assets)), st.sampled_from(["a", "b"])),
    st.tuples(st.just("change_model"), st.sampled_from(["one", "two"])),
    st.tuples(st.just("change_threshold"), st.sampled_from([0.3, 0.5])),
    st.tuples(st.just("lose_shard"), st.sampled_from(sorted(GRAPH.assets)), st.sampled_from([0, 1])),
    st.tuples(st.just("remove"), users),
)
RUNS = st.fixed_dictionaries(
    {},
    optional={
        "scope": st.sampled_from(FetchScope),
        "select": st.sampled_from(
            [("todoist_tasks",), ("+task_embeddings",), ("task_clusters+",), ("context_store",)]
        ),
        "only_users": st.lists(users, min_size=1, max_size=2).map(tuple),
        "only_shards": st.sampled_from([(0,), (1,)]),
        "force": st.just(value=True),
        "dies_in": st.sampled_from(["tokens", "embedder", "clusterer", "store"]),
        "unfetchable": users,
        "paused": st.sampled_from(["embed_tasks", "cluster_tasks", "compute_context"]),
    },
)


class Died(Exception):
    """The process was killed."""


class DyingAccounts(Accounts):
    """Dies after the rows are written and before their sync tokens are."""

    def save_sync_states(self, *_: Any, **__: Any) -> None:
        raise Died


class DyingEmbedder(WordVectors):
    def encode(self, texts: Sequence[str], on_batch: Any = None) -> Any:
        raise Died


class DyingClusterer(Clusterer):
    def group(self, vectors: Any, users: Any) -> Any:
        raise Died


class DyingStore(ContextStore):
    """Dies after the rows of Postgres are written and before the shard is."""

    def upsert(self, *arguments: Any) -> tuple[int, int]:
        super().upsert(*arguments)
        raise Died


class PipelineHistory(World):
    """A world with events, and runs of parts of the pipeline that may die."""

    now: datetime = NOON

    def happen(self, event: str, *details: Any) -> None:
        getattr(self, f"_{event}")(*details)

    def run_night(self, *, dies_in: str = "", unfetchable: str = "", paused: str = "", **options: Any) -> None:
        """Run every selected step but a paused one.

        dies_in: the resource that kills the run. unfetchable: a user without a fetch.
        """
        existing = self.accounts.existing(USERS)
        if unfetchable in existing:
            self.todoist.fail(unfetchable, *[Fault.html_page()] * 9)
        try:
            self.run(self.now, RunOptions(**options), self._resources_that_die(dies_in), paused)
        except Died:
            assert dies_in
        except ShardsFailed as failed:
            assert dies_in
            assert {type(failure.error) for failure in failed.failures} == {Died}
        except OptionsError as error:  # a lost shard has to be fetched as a whole first, or the user was removed
            assert "only_users" in options, error
            assert re.search("has no file yet|there is no user|is in shard", str(error)), error
        if unfetchable in existing:  # faults that were not used must not hit a later run
            self.todoist.heal(unfetchable)

    def _resources_that_die(self, dies_in: str) -> dict[type, object] | None:
        dying: dict[str, dict[type, object]] = {
            "tokens": {Accounts: DyingAccounts(self.connection, CredentialCipher([self.key]))},
            "embedder": {Embedder: DyingEmbedder(self.embedder.model)},
            "clusterer": {Clusterer: DyingClusterer(self.embedder.version, Calibration(self.threshold))},
            "store": {ContextStore: DyingStore(self.connection)},
        }
        return {**self.resources, **dying[dies_in]} if dies_in else None

    def _write(self, user: str, task: str, text: str) -> None:
        self.todoist.advance(user, {"items": [{"id": task, "content": text}]})

    def _schedule(self, user: str, task: str, days: int) -> None:
        date = (self.now + timedelta(days=days)).date().isoformat()
        self.todoist.advance(user, {"items": [{"id": task, "content": "buy milk", "due": {"date": date}}]})

    def _complete(self, user: str, task: str) -> None:
        self.todoist.advance(user, {"items": [{"id": task, "content": "x", "checked": True}]})

    def _react(self, user: str, reaction: str) -> None:
        if user in self.accounts.existing([user]):
            self.connection.execute(
                "WITH d AS (INSERT INTO decisions (decision_id, user_id, decided_at, tip_kind, theme)"
                " VALUES (gen_random_uuid(), %s, %s, 'quick_win', '') RETURNING decision_id)"
                " INSERT INTO reactions SELECT decision_id, %s, %s FROM d",
                [user, self.now, reaction, self.now],
            )

    def _wait(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    def _change_code(self, name: str, version: str) -> None:
        changed = replace(self.graph[name], code_version=version)
        self.graph = Graph.from_assets([changed if asset.name == name else asset for asset in self.graph])

    def _change_model(self, name: str) -> None:
        self.embedder = WordVectors(name)

    def _change_threshold(self, threshold: float) -> None:
        self.threshold = threshold

    def _lose_shard(self, name: str, shard: int) -> None:
        if Footers(self.shards).exists(GRAPH[name], shard):
            self.shards.set_aside(GRAPH[name], shard)

    def _remove(self, user: str) -> None:
        self.accounts.remove(user)


@contextmanager
def open_pipeline_history(database: EmptiedConnection, todoist: LocalTodoist, url: str) -> Iterator[PipelineHistory]:
    """A history over an emptied database, a new folder, and the Todoist at `url`."""
    with TemporaryDirectory() as folder:
        yield PipelineHistory(
            database.open(), todoist, Todoist(url, total_timeout=0.1, attempt_timeout=30), Path(folder) / "data"
        )


def add_accounts(history: PipelineHistory, members: Iterable[str]) -> None:
    for user in members:
        credentials = Credentials(f"token-of-{user}")
        history.accounts.add(user, email=f"{user}@example.org", timezone=ZONES[user], credentials=credentials)


@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.generate])  # shrinking takes minutes
@given(st.lists(st.tuples(st.lists(EVENTS, max_size=4), RUNS), min_size=1, max_size=4))
@example(
    [([("write", "ann", "t9", "call the bank")], {"dies_in": "tokens"}), ([("remove", "bob")], {"dies_in": "store"})]
)
@example(
    [([("change_model", "two")], {"only_users": ("ann",)}), ([("change_model", "one")], {"dies_in": "clusterer"})]
)
@example(
    [
        ([("write", "ann", "t9", "call the bank"), ("complete", "ann", "t0")], {"paused": "embed_tasks"}),
        ([("wait", 7), ("schedule", "ann", "t1", 1)], {"paused": "embed_tasks"}),
        ([("complete", "bob", "t0"), ("wait", 7)], {"paused": "cluster_tasks"}),
    ]
)
@example([([("wait", 24)], {"unfetchable": "bob"}), ([("change_code", "task_clusters", "a")], {"only_shards": (0,)})])
@example([([("lose_shard", "todoist_tasks", 0)], {"scope": FetchScope.LIKELY}), ([], {"only_users": ("ann", "bob")})])
@example(
    [
        ([("complete", "cem", "t0")], {"select": ("todoist_tasks",)}),
        ([], {"select": ("task_clusters+",), "force": True}),
    ]
)
@example(
    [([*(("remove", user) for user in USERS), *(("lose_shard", "todoist_tasks", shard) for shard in (0, 1))], {})]
)
def test_any_history_ends_as_from_nothing(
    emptied_connection: EmptiedConnection,
    second_emptied_connection: EmptiedConnection,
    todoist_server: tuple[SwitchableApp, str],
    events: list[tuple[list[tuple[Any, ...]], dict[str, Any]]],
) -> None:
    """Whatever changed, failed, died or was forced in between, the end equals that of one night from nothing."""
    todoist = LocalTodoist(full_limit=10_000, incremental_limit=10_000)
    server, url = todoist_server
    server.app = todoist.app
    with open_pipeline_history(emptied_connection, todoist, url) as history:
        for user in USERS:
            items = [{"id": f"t{number}", "content": text} for number, text in enumerate(TEXTS)]
            todoist.load(f"token-of-{user}", _document(items, ZONES[user]), user=user)
        add_accounts(history, USERS)
        history.run_night()
        for changes, options in events:
            for change in changes:
                history.happen(*change)
            history.run_night(**options)
        history.run_night()
        with open_pipeline_history(second_emptied_connection, todoist, url) as fresh:
            add_accounts(fresh, sorted(history.accounts.existing(USERS)))
            fresh.now, fresh.embedder, fresh.threshold = history.now, history.embedder, history.threshold
            _copy_reactions(history, fresh)
            fresh.run_night()
            end, expected = history.stored_state(), fresh.stored_state()
            for name in expected:
                assert [row for row in end[name] if row not in expected[name]] == [], name
                assert end[name] == expected[name], name


def _document(items: list[dict[str, Any]], zone: str) -> dict[str, Any]:
    user = {"id": "1", "lang": "en", "tz_info": {"timezone": zone}}
    return {"full_sync": True, "sync_token": "x", "items": items, "projects": [], "sections": [], "user": user}


def _copy_reactions(source: PipelineHistory, target: PipelineHistory) -> None:
    sql = "SELECT decision_id, user_id, decided_at, tip_kind, theme FROM decisions"
    with target.connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO decisions (decision_id, user_id, decided_at, tip_kind, theme) VALUES (%s, %s, %s, %s, %s)",
            source.connection.execute(sql).fetchall(),
        )
        cursor.executemany(
            "INSERT INTO reactions VALUES (%s, %s, %s)",
            source.connection.execute("SELECT decision_id, reaction, reacted_at FROM reactions").fetchall(),
        )


@pytest.fixture
def cluster_ids(world: World, account: Callable[..., Any]) -> dict[str, dict[str, str | None]]:
    """The cluster of each task of forty users, before and after each of them adds a task."""
    world.n_shards = 4  # so few users per shard that the check on changed users does not apply
    rng = np.random.default_rng(7)
    words = [[f"{topic}{n}" for n in range(6)] for topic in ("buy", "call", "mend", "write", "plan", "clean")]
    texts = [" ".join(rng.choice(words[n % 6], 3)) for n in range(40 * 26)]
    for user in range(40):
        world.add(f"user-{user:02}", account(*texts[user * 26 : user * 26 + 25]))
    world.night()
    before = _cluster_ids(world)
    for user in range(40):
        item = {"id": "new", "content": texts[user * 26 + 25]}
        world.todoist.advance(f"user-{user:02}", {"items": [item]})
    world.night(NOON + timedelta(minutes=1))
    return {"before": before, "after": _cluster_ids(world)}


def _cluster_ids(world: World) -> dict[str, str | None]:
    return {f"{row['user_id']}/{row['task_id']}": row["cluster_id"] for row in world.rows("task_clusters")}


def test_clusters_keep_their_ids(cluster_ids: dict[str, dict[str, str | None]]) -> None:
    """If every user adds a task, at most 3 % of the other tasks move to a cluster with a different id."""
    before, after = cluster_ids["before"], cluster_ids["after"]
    moved = [task for task, cluster in before.items() if after[task] != cluster]
    assert len(after) == len(before) + 40
    assert len(set(before.values())) > 40
    assert len(moved) <= 0.03 * len(before)
