"""A toy pipeline: users of a post office write letters, from which words and pages are derived."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from inspect import Parameter, Signature
from typing import Annotated, Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from assets.engine.asset import Asset, Output, Users, WorkUnit, asset
from assets.engine.checks import Check
from assets.engine.graph import Graph
from assets.engine.materialize import materialize
from assets.engine.parquet import Footer, Shards
from assets.engine.plan import Plan, Planner, Request, build_request
from assets.engine.results import ShardResult

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
TIME = pa.timestamp("us", "UTC")
LETTERS = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("letter_id", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("opens_at", TIME),
        pa.field("labels", pa.list_(pa.string())),
    ]
)
WORDS = pa.schema(
    [
        ("user_id", pa.string()),
        ("letter_id", pa.string()),
        ("n_words", pa.int64()),
        ("vector", pa.list_(pa.float16())),
    ]
)
PAGES = pa.schema([("page", pa.string()), ("user_id", pa.string()), ("valid_until", TIME)])
SHELF = pa.schema([("user_id", pa.string()), ("page", pa.string())])

Row = dict[str, Any]

_root_numbers = itertools.count()


class PostOffice:
    """The outside world: each user's changes in order, and the position up to which a reader confirmed them."""

    def __init__(self) -> None:
        self.changes: dict[str, list[tuple[str, Row | None]]] = {}
        self.confirmed: dict[str, int] = {}
        self.before_confirm: Callable[[], None] = lambda: None

    def join(self, user: str) -> None:
        """Add a user without letters."""
        self.changes.setdefault(user, [])

    def write(
        self, user: str, letter_id: str, text: str, opens_at: datetime | None = None, labels: Iterable[str] = ()
    ) -> None:
        """Write a letter, or replace it; before `opens_at` its page says that it is closed."""
        self.join(user)
        self.changes[user].append((letter_id, {"text": text, "opens_at": opens_at, "labels": list(labels)}))

    def discard(self, user: str, letter_id: str) -> None:
        """Discard a letter, which need not exist."""
        self.join(user)
        self.changes[user].append((letter_id, None))

    def leave(self, user: str) -> None:
        """Remove a user, who need not exist."""
        self.changes.pop(user, None)
        self.confirmed.pop(user, None)

    def confirm(self, positions: Mapping[str, int]) -> None:
        """Confirm each user's changes up to a position."""
        self.before_confirm()
        self.confirmed |= positions


class Model:
    """A versioned resource."""

    def __init__(self, version: str = "1") -> None:
        self.version = version


class Calls(dict[str, list[list[str]]]):
    """A resource without a version that records the users of each call, by asset."""

    def add(self, name: str, users: Iterable[str]) -> None:
        """Record a call."""
        self.setdefault(name, []).append(sorted(set(users)))


def toy_graph(*others: Asset, checks: Mapping[str, Check] | None = None, **code_versions: str) -> Graph:
    """Return the graph of letters, words, pages and other assets.

    checks, code_versions: by asset; the code versions of words and pages, which are numbers, change their rows.
    """

    def options(name: str) -> dict[str, Any]:
        check = (checks or {}).get(name)
        return {"code_version": code_versions.get(name, "1"), "checks": (check,) if check else ()}

    @asset(step="fetch", schema=LETTERS, work=WorkUnit("calls", per="user"), **options("letters"))
    def letters(previous: pa.Table, users: Users, post_office: PostOffice) -> Output:
        """All letters of all users; users without stored letters are fetched from their first change on."""
        rows = {(row["user_id"], row["letter_id"]): row for row in previous.to_pylist()}
        stored = {user for user, _ in rows}
        n_read = 0
        for user in users:
            since = post_office.confirmed.get(user, 0) if user in stored else 0
            if not since:
                rows = {key: row for key, row in rows.items() if key[0] != user}
            for letter_id, letter in post_office.changes[user][since:]:
                n_read += 1
                rows.pop((user, letter_id), None)
                if letter:
                    rows[user, letter_id] = {"user_id": user, "letter_id": letter_id, **letter}
        current = [row for row in rows.values() if row["user_id"] in post_office.changes]
        positions = {user: len(post_office.changes[user]) for user in users}
        return Output(
            pa.Table.from_pylist(current, schema=LETTERS),
            counts={"calls": len(users), "letters_read": n_read},
            after_write=lambda _: post_office.confirm(positions),
        )

    @asset(
        step="embed", schema=WORDS, opaque=("vector",), work=WorkUnit("texts_embedded", per="row"), **options("words")
    )
    def words(letters: Annotated[pa.Table, "user_id", "letter_id", "text"], model: Model, calls: Calls) -> pa.Table:
        """The number of words of each letter that has any."""
        calls.add("words", letters["user_id"].to_pylist())
        rows = []
        for row in letters.to_pylist():
            if n_words := len(row["text"].split()) * int(code_versions.get("words", "1")):
                rows.append({**row, "n_words": n_words, "vector": [n_words * int(model.version)]})
        return pa.Table.from_pylist(rows, schema=WORDS)

    @asset(step="print", schema=PAGES, work=WorkUnit("pages_printed", per="user"), **options("pages"))
    def pages(
        letters: Annotated[pa.Table, "user_id", "letter_id", "opens_at"],
        words: Annotated[pa.Table, "user_id", "letter_id", "n_words", "vector"],
        now: datetime,
        calls: Calls,
    ) -> pa.Table:
        """A page for each user, valid until their next letter opens."""
        opening = {(row["user_id"], row["letter_id"]): row["opens_at"] for row in letters.to_pylist()}
        lines: dict[str, list[str]] = {user: [] for user, _ in opening}
        calls.add("pages", lines)
        for row in words.to_pylist():
            if (row["user_id"], row["letter_id"]) not in opening:  # `words` may be older than `letters`
                continue
            opens_at = opening[row["user_id"], row["letter_id"]]
            state = "open" if opens_at is None or opens_at <= now else "closed"
            vector = ",".join(map(str, row["vector"]))
            lines[row["user_id"]].append(f"{row['letter_id']}:{row['n_words']}:{vector}:{state}")
        later = {
            user: [at for (owner, _), at in opening.items() if owner == user and at and at > now] for user in lines
        }
        code = code_versions.get("pages", "1")
        rows = [
            {"user_id": user, "page": f"{code}|{' '.join(own)}", "valid_until": min(later[user], default=None)}
            for user, own in lines.items()
        ]
        return pa.Table.from_pylist(rows, schema=PAGES)

    return Graph.from_assets([letters, words, pages, *others])


@asset(step="hand", schema=SHELF, code_version="1")
def shelf(pages: Annotated[pa.Table, "user_id", "page"], previous: pa.Table, users: Users, calls: Calls) -> pa.Table:
    """The pages of the users observed, and the previous pages of all others: a reader that observes."""
    calls.add("shelf", users)
    observed = pa.array(sorted(users), pa.string())
    kept = previous.filter(pc.invert(pc.is_in(previous["user_id"], observed)))
    return pa.concat_tables([kept, pages.filter(pc.is_in(pages["user_id"], observed))])


def reader(
    name: str, *inputs: str, schema: pa.Schema, columns: Sequence[str] | None = None, step: str = "read"
) -> Asset:
    """Return an asset that returns the first of its inputs; without inputs it is a source, which cannot run.

    columns: read from each input; by default those of the schema.
    """

    def function(**tables: pa.Table) -> pa.Table:
        return tables[inputs[0]]

    parameters: dict[str, Any] = dict.fromkeys(inputs, Annotated[pa.Table, *(columns or schema.names)])
    function.__name__ = name
    function.__annotations__ = parameters = parameters or {"users": Users}
    function.__signature__ = Signature([Parameter(each, Parameter.KEYWORD_ONLY) for each in parameters])  # type: ignore[attr-defined]
    return asset(step=step, schema=schema, code_version="1")(function)


def run_assets(
    graph: Graph,
    shards: Shards,
    *,
    resources: Mapping[type, object],
    now: datetime,
    users: Users | None = None,
    select: Iterable[str] | None = None,
    **options: Any,
) -> list[ShardResult]:
    """Plan and materialize the selected assets, or all. users: to observe; options: see `build_request`."""
    chosen = graph if select is None else graph.select(select)
    plan = Planner(graph, shards, resources, now).plan(chosen, build_request(shards.n_shards, users or {}, **options))
    return list(materialize(plan, graph, shards, resources=resources, now=now))


class ToyPipeline:
    """A graph over one root with its post office, its model, the calls of the last run, and the time.

    root: any fsspec URL; by default a new one in memory.
    """

    def __init__(self, root: str | None = None, n_shards: int = 1, graph: Graph | None = None) -> None:
        self.root = root or f"memory://toy-{next(_root_numbers)}"
        self.shards = Shards(self.root, n_shards)
        self.graph = graph or toy_graph()
        self.post_office, self.model, self.calls = PostOffice(), Model(), Calls()
        self.now = NOON

    @property
    def resources(self) -> dict[type, object]:
        return {PostOffice: self.post_office, Model: self.model, Calls: self.calls}

    @property
    def users(self) -> dict[str, datetime]:
        """All users of the post office, to be observed now."""
        return dict.fromkeys(self.post_office.changes, self.now)

    @property
    def planner(self) -> Planner:
        return Planner(self.graph, self.shards, self.resources, self.now)

    def use(self, *assets: str | Asset) -> None:
        """Replace the graph by some of its assets, given by name, and by others."""
        self.graph = Graph.from_assets([self.graph[each] if isinstance(each, str) else each for each in assets])

    def request(self, *users: str, **options: Any) -> Request:
        """Return the request to observe users now; options: see `build_request`."""
        return build_request(self.shards.n_shards, dict.fromkeys(users, self.now), **options)

    def plan(self, request: Request | None = None, select: Iterable[str] | None = None) -> Plan:
        """Plan the selected assets, or all; without a request no user is observed."""
        return self.planner.plan(self.graph if select is None else self.graph.select(select), request)

    def plans(self) -> dict[str, dict[int, str]]:
        """Return the reason of every stale shard, by asset and shard."""
        plans = {each.name: self.planner.plan([each]) for each in self.graph}
        return {name: {entry.shard: entry.reason for entry in plan} for name, plan in plans.items() if plan}

    def materialize(self, plan: Plan) -> list[ShardResult]:
        self.calls.clear()
        return list(materialize(plan, self.graph, self.shards, resources=self.resources, now=self.now))

    def run(self, **options: Any) -> list[ShardResult]:
        """Run all assets for all users; options: see `run_assets`."""
        self.calls.clear()
        defaults = {"resources": self.resources, "now": self.now, "users": self.users}
        return run_assets(self.graph, self.shards, **{**defaults, **options})

    def footer(self, name: str, shard: int = 0) -> Footer:
        """Return the footer of a shard that exists."""
        footer = self.shards.footer(self.graph[name], shard)
        assert footer
        return footer

    def rows(self, name: str, *columns: str) -> list[Row]:
        """Return the rows of an asset, shard by shard; all columns by default."""
        rows: list[Row] = []
        for shard in range(self.shards.n_shards):
            with self.shards.open(self.graph[name], shard) as opened:
                if opened:
                    rows += opened.read(columns or self.graph[name].schema.names).to_pylist()
        return rows

    def users_in(self, name: str) -> set[str]:
        return {row["user_id"] for row in self.rows(name, "user_id")}

    def files(self) -> dict[str, bytes]:
        """Return the content of every file under the root."""
        filesystem, path = fsspec.core.url_to_fs(self.root)
        return {file: filesystem.cat_file(file) for file in filesystem.find(path)}
