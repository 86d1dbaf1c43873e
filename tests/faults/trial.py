"""A stage, which is a pipeline after its first night with changes waiting at Todoist, and trials on copies of it."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import psycopg
from psycopg import sql
from world import WordVectors, World

from assets.definitions import GRAPH
from assets.engine.hashing import shard_of
from contexts.assembly.explain import context_versions
from contexts.assembly.history import HISTORY
from contexts.postgres.migrate import migrate
from contexts.postgres.sql import connect
from contexts.themes.calibrations import Calibrations
from contexts.themes.cluster import Calibration
from contexts.todoist.client import Todoist
from contexts.todoist.credentials import Credentials, new_key
from faults.child import Child, Outcome, Point
from faults.pipeline import ATTEMPT_TIMEOUT_S, TOTAL_TIMEOUT_S, command, environment_of
from faults.row import require
from local.postgres import create_database
from local.todoist import LocalTodoist, running_todoist

USERS = ("ann", "bob", "cem", "dan", "eve")
N_SHARDS = 2
ASSETS = tuple(GRAPH.assets)
_THRESHOLD, _N_CALIBRATION_TEXTS = 0.4, 10_000

_T = TypeVar("_T")
_numbers = itertools.count()


class Bench:
    """The servers, the folder and the random numbers of a matrix.

    server: the URL of a Postgres. postgres_folder: its data, if the matrix may stop it. stage_names: of the shared
    stages, each of which has a folder and a database of its name.
    """

    def __init__(self, folder: Path, server: str, seed: int, postgres_folder: Path | None = None) -> None:
        self.folder, self.server, self.seed, self.postgres_folder = folder, server, seed, postgres_folder
        self._stack = ExitStack()
        self._opened: dict[type, Any] = {}
        self.stage_names: set[str] = set()

    def __enter__(self) -> Bench:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def once(self, kind: type[_T], open_it: Callable[[Bench], AbstractContextManager[_T]]) -> _T:
        """Return what several rows share: opened for the first of them, closed at the end of the matrix."""
        if kind not in self._opened:
            self._opened[kind] = self._stack.enter_context(open_it(self))
        opened: _T = self._opened[kind]
        return opened

    @cached_property
    def stage(self) -> Stage:
        """The stage of all trials that leave Todoist as it is."""
        stage = self._stack.enter_context(self.new_stage())
        self.stage_names.add(stage.name)
        return stage

    @contextmanager
    def new_stage(self) -> Iterator[Stage]:
        """A stage of its own, for a trial that changes what Todoist has."""
        todoist = LocalTodoist(full_limit=100_000, incremental_limit=100_000)
        with running_todoist(todoist) as url:
            yield Stage(self, todoist, url)


class Stage:
    """A database and a folder after a first night; since then every user has changed something at Todoist."""

    def __init__(self, bench: Bench, todoist: LocalTodoist, todoist_url: str) -> None:
        self.bench, self.todoist, self.todoist_url, self.key = bench, todoist, todoist_url, new_key()
        self.name = f"faults_{bench.seed}_{next(_numbers)}"
        self.root = bench.folder / self.name
        self._outcomes: dict[str, Outcome] = {}
        self._expected: dict[Collection[str], Expected] = {}
        for user in USERS:
            todoist.load(f"token-of-{user}", _document(user), user=user)
        database = self.new_database(self.name)
        with connect(database) as connection:
            self.fill(connection, USERS)
            self.world(connection, self.root).night_of(self.run(database, self.root, "materialize"))
        for user in USERS:
            todoist.advance(user, _changes(user))

    def once(self, key: str, run: Callable[[], Outcome]) -> Outcome:
        """Return the outcome of a run that is the same for all trials."""
        if key not in self._outcomes:
            self._outcomes[key] = run()
        return self._outcomes[key]

    def new_database(self, name: str, template: str | None = None) -> str:
        """Create a database, empty with all tables or as a copy, and return its URL."""
        if template is None:
            url = create_database(self.bench.server, name, replace=True)
            with connect(url) as connection:
                migrate(connection)
            return url
        with connect(self.bench.server) as connection:
            statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            connection.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        return self.bench.server.replace("/postgres?", f"/{name}?", 1)

    @staticmethod
    def database_of(root: Path) -> str:
        """The name of a trial's database, which is that of its folder."""
        return root.name

    def drop_database(self, name: str) -> None:
        """Drop a database with its connections."""
        with connect(self.bench.server) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))

    def fill(self, connection: psycopg.Connection[Any], users: Collection[str]) -> None:
        """Add accounts, and a calibration that no later run replaces."""
        world = self.world(connection, self.root)
        for user in users:
            credentials = Credentials(f"token-of-{user}")
            world.accounts.add(user, email=f"{user}@example.org", timezone="UTC", credentials=credentials)
        Calibrations(connection).set(WordVectors().version, Calibration(_THRESHOLD), _N_CALIBRATION_TEXTS)

    def world(self, connection: psycopg.Connection[Any], root: Path, n_shards: int = N_SHARDS) -> StagedWorld:
        """The pipeline over a database and a folder of this stage."""
        client = Todoist(self.todoist_url, total_timeout=TOTAL_TIMEOUT_S, attempt_timeout=ATTEMPT_TIMEOUT_S)
        return StagedWorld(
            connection, self.todoist, client, root, n_shards=n_shards, key=self.key, threshold=_THRESHOLD
        )

    def environment(self, database: str, root: Path, n_shards: int = N_SHARDS) -> dict[str, str]:
        """The settings of the pipeline over a database and a folder."""
        return environment_of(
            DATA_ROOT=root,
            N_SHARDS=n_shards,
            DATABASE_URL=database,
            CREDENTIALS_KEYS=self.key,
            TODOIST_API_URL=self.todoist_url,
        )

    def run(self, database: str, root: Path, *arguments: str) -> Outcome:
        """Run a command in a child process."""
        return Child(command, arguments, self.environment(database, root)).wait()

    def from_nothing(self, users: Collection[str] = USERS) -> Expected:
        """The state that one night from nothing makes of what Todoist has now."""
        name = f"{self.name}_nothing_{next(_numbers)}"
        database, root = self.new_database(name), self.bench.folder / name
        with connect(database) as connection:
            self.fill(connection, users)
            world = self.world(connection, root)
            began = time.monotonic()
            world.night_of(self.run(database, root, "materialize"))
            expected = Expected(world.stored_state(), world.plain_contexts(), time.monotonic() - began)
        self.drop_database(name)
        shutil.rmtree(root)
        return expected

    @property
    def expected(self) -> Expected:
        """The state from nothing, for trials that leave Todoist as it is."""
        return self.expected_of(USERS)

    def expected_of(self, users: Collection[str]) -> Expected:
        """The state from nothing with some of the users."""
        if users not in self._expected:
            self._expected[users] = self.from_nothing(users)
        return self._expected[users]

    @contextmanager
    def trial(self, number: int, chance: Random) -> Iterator[Trial]:
        """A trial on a copy of the stage; what Todoist was told to do wrong ends with it."""
        name = f"{self.name}_{next(_numbers)}"
        database, root = self.new_database(name, template=self.name), self.bench.folder / name
        shutil.copytree(self.root, root)
        trial = Trial(self, number, chance, database, root)
        try:
            yield trial
        finally:
            self.todoist.fail_at_rate(0)
            for user in USERS:
                self.todoist.heal(user)
            trial.close()
            self.drop_database(name)
            shutil.rmtree(root, ignore_errors=True)


class Expected:
    """A state to compare with. seconds: the duration of the night that made it."""

    def __init__(self, state: dict[str, Any], contexts: dict[str, Any], seconds: float) -> None:
        self.state, self.contexts, self.seconds = state, contexts, seconds


class StagedWorld(World):
    """A world whose nights are commands."""

    @staticmethod
    def night_of(outcome: Outcome) -> None:
        """Require that a night of a stage, which nothing breaks, succeeds."""
        require(outcome.status == 0, f"an unbroken night ended with {outcome.status}: {outcome.output[-2000:]}")

    def plain_contexts(self) -> dict[str, Any]:
        """Return the stored contexts by user, without the ids of themes, which depend on their history."""
        return {user: _plain(row["context_json"]) for user, row in self.stored().items()}


class Trial:
    """One copy of a stage, to break.

    number: of the trial in its row. chance: seeded random numbers.
    """

    def __init__(self, stage: Stage, number: int, chance: Random, database: str, root: Path) -> None:
        self.stage, self.number, self.chance = stage, number, chance
        self.database, self.root = database, root
        self.bench, self.todoist = stage.bench, stage.todoist
        self.connection = connect(database)
        self.world = stage.world(self.connection, root)
        self.before = self.world.stored()
        self.contexts_before = self.world.plain_contexts()
        self._children: list[Child] = []

    def reconnect(self) -> None:
        """Connect again after Postgres was away."""
        self.connection.close()
        self.connection = connect(self.database)
        self.world = self.stage.world(self.connection, self.root)

    def close(self) -> None:
        """End the children that are left, and the connection."""
        for child in self._children:
            child.kill_if_running()
        self.connection.close()

    def begin_from_nothing(self) -> None:
        """Let the pipeline have accounts and nothing else, as before its first night."""
        self.connection.close()
        self.stage.drop_database(self.stage.database_of(self.root))
        self.stage.new_database(self.stage.database_of(self.root))
        shutil.rmtree(self.root)
        self.reconnect()
        self.stage.fill(self.connection, USERS)
        self.before, self.contexts_before = {}, {}

    def start(
        self, *arguments: Any, point: Point | None = None, call: Callable[..., object] = command, n_shards: int = 0
    ) -> Child:
        """Start a command, or another function, in a child process."""
        environment = self.stage.environment(self.database, self.root, n_shards or N_SHARDS)
        child = Child(call, arguments, environment, point)
        self._children.append(child)
        return child

    def run(self, *arguments: str, point: Point | None = None, n_shards: int = 0) -> Outcome:
        """Run a command in a child process to its end."""
        return self.start(*arguments, point=point, n_shards=n_shards).wait()

    def night(self, point: Point | None = None) -> Outcome:
        """Run a night in a child process."""
        return self.run("materialize", point=point)

    def path(self, asset: str, shard: int = 0) -> Path:
        """The file of an asset, or of the newest day of the history."""
        if asset == HISTORY:
            return max(self.root.glob(f"{HISTORY}/day=*/shard={shard:04d}/data.parquet"))
        return self.root / asset / f"shard={shard:04d}" / "data.parquet"

    def users_in(self, shard: int) -> list[str]:
        """The users of a shard."""
        return [user for user in USERS if shard_of(user, N_SHARDS) == shard]

    def require_whole(self, *, may_lack: bool = False) -> None:
        """Require that every file can be read and that each stored context is the one before or the one after.

        may_lack: a context may also be the one after without one of its tasks.
        """
        self.require_whole_rows()
        stored, contexts = self.world.stored(), self.world.plain_contexts()
        for user, row in stored.items():
            digest = hashlib.sha256(row["context_json"].encode()).hexdigest()
            require(digest == row["context_hash"], f"the context of {user} does not have its hash")
            is_old = contexts[user] == self.contexts_before.get(user)
            after = self.stage.expected.contexts.get(user)
            require(
                is_old or contexts[user] == after or (may_lack and _lacks_one(contexts[user], after)),
                f"the context of {user} is neither the one before nor the one after: {row['context_json']}",
            )
            if is_old:
                claimed, was = row["fetched_at"], self.before[user]["fetched_at"]
                require(claimed == was, f"the old context of {user} claims to be of {claimed}")

    def require_whole_rows(self) -> None:
        """Require that every file of an asset can be read."""
        for asset in ASSETS:
            self.world.rows(asset)

    def require_fresh(self, users: Collection[str]) -> None:
        """Require that these users have their new contexts."""
        contexts = self.world.plain_contexts()
        behind = [user for user in users if contexts.get(user) != self.stage.expected.contexts.get(user)]
        require(not behind, f"held up: {', '.join(behind)}")

    def recover(self, *, users: Collection[str] = USERS) -> None:
        """Run a normal night, which must succeed and end as an unbroken pipeline from nothing."""
        outcome = self.night()
        require(outcome.status == 0, f"the next night ended with {outcome.status}: {last_lines(outcome.output)}")
        self.require_equal(self.stage.expected_of(users))

    def require_equal(self, expected: Expected) -> None:
        """Require the state of an unbroken pipeline, and a history that ends with the stored contexts."""
        state = self.world.stored_state()
        for name, wanted in expected.state.items():
            others = [row for row in state[name] if row not in wanted] or [
                row for row in wanted if row not in state[name]
            ]
            require(state[name] == wanted, f"{name} differs from a pipeline from nothing: {str(others)[:600]}")
        for user, row in self.world.stored().items():
            stored = {version.context_hash for version in self.world.history.versions_of(user)}
            require(row["context_hash"] in stored, f"the history lacks the stored context of {user}")
            newest = context_versions(self.world.history, user)[-1].context_hash
            require(newest == row["context_hash"], f"`why` of {user} does not end with the stored context")

    def require_failed(self, outcome: Outcome, *words: str) -> None:
        """Require exit status 1 and a message with these words, not a traceback."""
        require(outcome.status == 1, f"the exit status is {outcome.status}: {last_lines(outcome.output)}")
        require("Traceback" not in outcome.output, f"a traceback: {last_lines(outcome.output)}")
        for word in words:
            require(word in outcome.output, f"the message lacks '{word}': {last_lines(outcome.output)}")


def last_lines(text: str) -> str:
    """Return the end of an output, on one line."""
    return " | ".join(line.strip() for line in text.strip().splitlines()[-6:])[-700:]


def _plain(context_json: str) -> Any:
    context = json.loads(context_json)
    for theme in context["themes"]:
        theme.pop("id")
    context["themes"].sort(key=str)
    return context


def _lacks_one(context: Any, whole: Any) -> bool:
    """Whether a context has all tasks of another one but one of them."""
    titles, all_titles = (
        {task["title"] for tasks in each["tasks"].values() for task in tasks} for each in (context, whole)
    )
    return titles < all_titles and len(titles) == len(all_titles) - 1


def _document(user: str) -> dict[str, Any]:
    """A full answer of Todoist for a user."""
    texts = (f"call the dentist of {user}", "buy milk", "buy bread", f"write to {user}", "call the bank")
    items = [{"id": f"t{number}", "content": text} for number, text in enumerate(texts)]
    items[4]["due"] = {"date": "2031-05-01"}  # type: ignore[assignment]
    return {
        "full_sync": True,
        "sync_token": "x",
        "items": items,
        "projects": [],
        "sections": [],
        "labels": [],
        "user": {"id": "1", "lang": "en", "tz_info": {"timezone": "UTC"}},
    }


def _changes(user: str) -> dict[str, Any]:
    """A new task, a reworded one, a completed one and a moved date."""
    return {
        "items": [
            {"id": "t9", "content": f"water the plants of {user}"},
            {"id": "t1", "content": "buy oat milk"},
            {"id": "t3", "content": f"write to {user}", "checked": True},
            {"id": "t4", "content": "call the bank", "due": {"date": "2031-06-01"}},
        ]
    }
