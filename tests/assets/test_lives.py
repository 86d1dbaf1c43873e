"""The whole pipeline over real doors: however the nights went, the end is that of one night from nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from world import NOON, WordVectors, World

from assets.definitions import GRAPH
from assets.errors import CheckFailed
from assets.graph import Graph
from assets.materialize import materialize
from contexts.accounts import Accounts
from contexts.cluster import Clusterer
from contexts.embed import Embedder
from contexts.migrate import migrate
from contexts.sql import connect
from contexts.store import ContextStore
from contexts.todoist import Credentials, Todoist
from contexts.vault import Vault
from local import postgres
from local.todoist import Fault, LocalTodoist, running

USERS = ("ann", "bob", "cem")
TEXTS = ("buy milk", "buy bread", "buy red apples", "call the bank", "call the dentist", "write to the bank")
ZONES = {"ann": "UTC", "bob": "Asia/Tokyo", "cem": "America/Los_Angeles"}

_names = itertools.count()

users = st.sampled_from(USERS)
tasks = st.sampled_from([f"t{number}" for number in range(5)])
EVENTS = st.one_of(
    st.tuples(st.just("write"), users, tasks, st.sampled_from(TEXTS)),
    st.tuples(st.just("due"), users, tasks, st.integers(-2, 9)),
    st.tuples(st.just("complete"), users, tasks),
    st.tuples(st.just("react"), users, st.sampled_from(["done", "dismissed"])),
    st.tuples(st.just("sleep"), st.sampled_from([1, 7, 24, 60])),
    st.tuples(st.just("code"), st.sampled_from(sorted(GRAPH.assets)), st.sampled_from(["a", "b"])),
    st.tuples(st.just("model"), st.sampled_from(["one", "two"])),
    st.tuples(st.just("threshold"), st.sampled_from([0.3, 0.5])),
    st.tuples(st.just("leave"), users),
)
RUNS = st.fixed_dictionaries(
    {},
    optional={
        "select": st.sampled_from([["todoist_tasks"], ["+task_embeddings"], ["task_clusters+"], ["context_store"]]),
        "only_users": st.lists(users, min_size=1, max_size=2),
        "only_shards": st.sampled_from([[0], [1]]),
        "force": st.just(value=True),
        "dies": st.sampled_from(["tokens", "embedder", "clusterer", "store"]),
        "fails": users,
    },
)


class Died(Exception):
    """The machine is gone."""


class DyingAccounts(Accounts):
    """Dies between the rows and their sync tokens."""

    def save(self, *_: Any, **__: Any) -> None:
        raise Died


class DyingEmbedder(WordVectors):
    def encode(self, texts: Sequence[str], done: Any = None) -> Any:
        raise Died


class DyingClusterer(Clusterer):
    def labels(self, vectors: Any) -> Any:
        raise Died


class DyingStore(ContextStore):
    """Dies after the rows were written, before anybody knows."""

    def upsert(self, *arguments: Any) -> tuple[int, int]:
        super().upsert(*arguments)
        raise Died


class Life(World):
    """A world in which things happen, and runs of parts that may die."""

    now: datetime = NOON
    graph: Graph = GRAPH

    def happens(self, what: str, *details: Any) -> None:
        getattr(self, f"_{what}")(*details)

    def run(self, *, dies: str = "", fails: str = "", **options: Any) -> None:
        """Every step in order; `dies`: the door that breaks; `fails`: whose fetch Todoist does not answer."""
        known = self.accounts.known(USERS)
        if fails in known:
            self.todoist.fail(fails, *[Fault.html_page()] * 9)
        try:
            for step, members in self.graph.steps.items():
                names = [member.name for member in members]
                asked = options.get("select")
                chosen = names if asked is None else [n for n in names if n in {a.name for a in GRAPH.select(asked)}]
                due = self.accounts.due(self.now, self.now + timedelta(hours=4))
                wide = {} if "only_users" in options else {"only_shards": range(self.n_shards)}  # as a night looks
                given = {
                    **wide,
                    **options,
                    "select": chosen,
                    "users": due if step == "fetch_signals" else self.accounts.observed(),
                }
                materialize(self.graph, self.shards, resources=self.doors(dies), now=self.now, **given)
        except Died:
            assert dies
        except CheckFailed:  # a part was forced before what it reads was made; a night leaves such shards out
            assert options.keys() >= {"select", "force"}
        if fails in known:  # whatever it was not asked for must not fail later
            self.todoist.heal(fails)

    def doors(self, dies: str) -> dict[type, object]:
        found = self.resources
        if dies == "tokens":
            found[Accounts] = DyingAccounts(self.connection, Vault([self.key]))
        elif dies == "embedder":
            found[Embedder] = DyingEmbedder(self.embedder.model)
        elif dies == "clusterer":
            found[Clusterer] = DyingClusterer(self.embedder.version, self.threshold)
        elif dies == "store":
            found[ContextStore] = DyingStore(self.connection)
        return found

    def ends(self) -> dict[str, Any]:
        """All that is stored, with themes called by their members."""
        tables = {name: self.rows(name) for name in GRAPH.assets}
        members: dict[str, dict[str, list[str]]] = {}
        for row in tables["task_clusters"]:
            members.setdefault(row["user_id"], {}).setdefault(row["cluster_id"], []).append(row["task_id"])
        names = {user: {old: "+".join(sorted(own)) for old, own in ids.items()} for user, ids in members.items()}
        for row in tables["task_clusters"]:
            row["cluster_id"] = row["cluster_id"] and names[row["user_id"]][row["cluster_id"]]
        for row in tables["user_contexts"]:
            row |= _called(row, names.get(row["user_id"], {})) | {"context_hash": "", "row_version": ""}
        for row in tables["context_store"]:
            row["context_hash"] = ""
        sql = "SELECT user_id, context_json, themes, valid_until FROM context_store ORDER BY user_id"
        stored = [
            {
                "user_id": user,
                **_called({"context_json": text, "themes": themes}, names.get(user, {})),
                "valid_until": until,
            }
            for user, text, themes, until in self.connection.execute(sql)
        ]
        return {**tables, "store": stored}

    def _write(self, user: str, task: str, text: str) -> None:
        self.todoist.advance(user, {"items": [{"id": task, "content": text}]})

    def _due(self, user: str, task: str, days: int) -> None:
        date = (self.now + timedelta(days=days)).date().isoformat()
        self.todoist.advance(user, {"items": [{"id": task, "content": "buy milk", "due": {"date": date}}]})

    def _complete(self, user: str, task: str) -> None:
        self.todoist.advance(user, {"items": [{"id": task, "content": "x", "checked": True}]})

    def _react(self, user: str, reaction: str) -> None:
        if user in self.accounts.known([user]):
            self.connection.execute(
                "WITH d AS (INSERT INTO decisions (decision_id, user_id, decided_at, tip_kind, theme)"
                " VALUES (gen_random_uuid(), %s, %s, 'quick_win', '') RETURNING decision_id)"
                " INSERT INTO reactions SELECT decision_id, %s, %s FROM d",
                [user, self.now, reaction, self.now],
            )

    def _sleep(self, hours: int) -> None:
        self.now += timedelta(hours=hours)

    def _code(self, name: str, version: str) -> None:
        changed = replace(self.graph[name], code_version=version)
        self.graph = Graph.of([changed if each.name == name else each for each in self.graph])

    def _model(self, name: str) -> None:
        self.embedder = WordVectors(name)

    def _threshold(self, threshold: float) -> None:
        self.threshold = threshold

    def _leave(self, user: str) -> None:
        self.accounts.remove(user)


def _called(row: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    """A context and the groups of its tasks with other ids of themes, in the order of these."""
    context, groups = json.loads(row["context_json"]), json.loads(row["themes"])
    for theme in context["themes"]:
        theme["id"] = ids[theme["id"]]
    for theme in groups["themes"]:
        theme["theme_id"] = ids[theme["theme_id"]]
    context["themes"].sort(key=lambda theme: theme["id"])
    groups["themes"].sort(key=lambda theme: theme["theme_id"])
    return {"context_json": context, "themes": groups}


@contextmanager
def life(server: str, todoist: LocalTodoist, url: str) -> Iterator[Life]:
    """A life over a database and a folder of its own, and the Todoist at `url`."""
    database = postgres.create_database(server, f"life_{next(_names)}")
    with connect(database) as connection, TemporaryDirectory() as folder:
        migrate(connection)
        yield Life(connection, todoist, Todoist(url, patience=0.1, read_timeout=2), Path(folder) / "data")


def join(one: Life, members: Iterable[str]) -> None:
    for user in members:
        credentials = Credentials(f"token-of-{user}")
        one.accounts.add(user, email=f"{user}@example.org", timezone=ZONES[user], credentials=credentials)


@settings(max_examples=20, deadline=None, phases=[Phase.explicit, Phase.generate])  # a shrunk life takes minutes
@given(st.lists(st.tuples(st.lists(EVENTS, max_size=4), RUNS), min_size=1, max_size=4))
@example([([("write", "ann", "t9", "call the bank")], {"dies": "tokens"}), ([("leave", "bob")], {"dies": "store"})])
@example([([("model", "two")], {"only_users": ["ann"]}), ([("model", "one")], {"dies": "clusterer"})])
@example([([("sleep", 24)], {"fails": "bob"}), ([("code", "task_clusters", "a")], {"only_shards": [0]})])
@example(
    [
        ([("complete", "cem", "t0")], {"select": ["todoist_tasks"]}),
        ([], {"select": ["task_clusters+"], "force": True}),
    ]
)
def test_any_life_ends_as_from_nothing(
    server: str, events: list[tuple[list[tuple[Any, ...]], dict[str, Any]]]
) -> None:
    """Whatever changed, failed, died or was forced in between, the end is that of one night from nothing."""
    todoist = LocalTodoist(full_limit=10_000, incremental_limit=10_000)
    with running(todoist) as url, life(server, todoist, url) as lived:
        for user in USERS:
            items = [{"id": f"t{number}", "content": text} for number, text in enumerate(TEXTS)]
            todoist.load(f"token-of-{user}", _document(items, ZONES[user]), user=user)
        join(lived, USERS)
        lived.run()
        for changes, options in events:
            for change in changes:
                lived.happens(*change)
            lived.run(**options)
        lived.run()
        with life(server, todoist, url) as fresh:
            join(fresh, sorted(lived.accounts.known(USERS)))
            fresh.now, fresh.embedder, fresh.threshold = lived.now, lived.embedder, lived.threshold
            _copy_reactions(lived, fresh)
            fresh.run()
            made, wanted = lived.ends(), fresh.ends()
            for name in wanted:
                assert [row for row in made[name] if row not in wanted[name]] == [], name
                assert made[name] == wanted[name], name


def _document(items: list[dict[str, Any]], zone: str) -> dict[str, Any]:
    user = {"id": "1", "lang": "en", "tz_info": {"timezone": zone}}
    return {"full_sync": True, "sync_token": "x", "items": items, "projects": [], "sections": [], "user": user}


def _copy_reactions(one: Life, other: Life) -> None:
    sql = "SELECT decision_id, user_id, decided_at, tip_kind, theme FROM decisions"
    with other.connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO decisions (decision_id, user_id, decided_at, tip_kind, theme) VALUES (%s, %s, %s, %s, %s)",
            one.connection.execute(sql).fetchall(),
        )
        cursor.executemany(
            "INSERT INTO reactions VALUES (%s, %s, %s)",
            one.connection.execute("SELECT decision_id, reaction, reacted_at FROM reactions").fetchall(),
        )


@pytest.fixture
def settled(world: World, account: Callable[..., Any]) -> dict[str, dict[str, str | None]]:
    """Each task's cluster of forty users, before a task was added to each, and after."""
    world.n_shards = 4  # of fewer users than the check on how many change at once asks for
    rng = np.random.default_rng(7)
    words = [[f"{topic}{n}" for n in range(6)] for topic in ("buy", "call", "mend", "write", "plan", "clean")]
    said = [" ".join(rng.choice(words[n % 6], 3)) for n in range(40 * 26)]
    for user in range(40):
        world.add(f"user-{user:02}", account(*said[user * 26 : user * 26 + 25]))
    world.night()
    before = _clusters(world)
    for user in range(40):
        item = {"id": "new", "content": said[user * 26 + 25]}
        world.todoist.advance(f"user-{user:02}", {"items": [item]})
    world.night(NOON + timedelta(minutes=1))
    return {"before": before, "after": _clusters(world)}


def _clusters(world: World) -> dict[str, str | None]:
    return {f"{row['user_id']}/{row['task_id']}": row["cluster_id"] for row in world.rows("task_clusters")}


def test_clusters_keep_their_ids(settled: dict[str, dict[str, str | None]]) -> None:
    """When every user adds a task, at most 3 % of the other tasks come to be in a cluster of another id."""
    before, after = settled["before"], settled["after"]
    moved = [task for task, cluster in before.items() if after[task] != cluster]
    assert len(after) == len(before) + 40
    assert len(set(before.values())) > 40
    assert len(moved) <= 0.03 * len(before)
