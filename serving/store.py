"""Postgres for the request path: users are read and decisions written in batches, everything else one by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg

from contexts.assembly.model import Reaction, TaskGroups
from contexts.assembly.store import StoredContext, is_fresh, reactions_since
from contexts.clock import CLOCK_DIFFERENCE
from contexts.postgres.sql import queries
from contexts.todoist.accounts import Account
from contexts.todoist.zones import valid_zone
from serving.batcher import Batcher
from serving.deliveries import Deliveries
from serving.metrics import Metrics
from serving.pools import create_pool
from serving.row_formats import Report, Unreadable, check_candidates, counted_in
from tips.features import are_features_possible
from tips.served import is_about
from tips.sets import CandidateOrigin, CandidateSet, next_midnight

if TYPE_CHECKING:
    from tips.generator import LLMUsage

ContextSource = Literal["stored", "inline", "stale", "none"]
LLMStatus = Literal["called", "skipped", "fallback"]
KnownBy = Literal["fetch", "events"]
"""What tells as of when a context is known: a fetch, or the silence of trusted events since."""

CallPlace = Literal["request", "behind", "ahead"]
"""Where the LLM is called: while a request waits for it, behind an answer, or ahead of any request."""

_SQL = queries("serving", "asyncpg")
_CONTEXTS = queries("contexts", "asyncpg")
_ACCOUNTS = queries("accounts", "asyncpg")

_READ_USERS: str = _SQL.read_users.sql
_WRITE_DECISION: str = _SQL.write_decision.sql

STATEMENT_WAITING_SHARE = 1 / 8
"""Share of the time limit of a statement that a read or a decision may wait before it begins."""

_TIP_SESSIONS = 4
"""Connections for reads of users and the log of decisions: two for each of the ways of a request."""

TIP_SETTINGS: Mapping[str, str] = {
    # A decision lost in a crash of Postgres costs one reward; waiting for the disk would cost every request.
    "synchronous_commit": "off",
    # Planned once for each connection: a new plan each time costs several times its execution. The plan is one of
    # lookups by keys, also if the tables were small or empty when it was made.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
}
"""Settings of the sessions that read users and log decisions; they run no other statements."""

_SHORTEST_DAY = timedelta(hours=22)
"""Candidates that expire sooner than this are not for the next day, which ends later, also if a clock is changed."""


@dataclass(frozen=True, slots=True)
class UserState:
    """The state of a user that a request reads first: time zone, freshness and last candidates, no context text.

    connection_number: of the Todoist account that the context and the candidates are from; None if the user is
    inactive or not connected, and then there are none. is_refused: whether Todoist refused the account in the last
    run that asked it. materialized_at: the time of the last fetch that the context agrees with. known_as_of: the
    context shows the user's tasks as they were then; None without a context. ended_ids: tasks of the context that
    were completed or deleted since that fetch, as an event says.
    """

    user_id: str
    timezone: str
    connection_number: int | None
    is_refused: bool
    materialized_at: datetime | None
    valid_until: datetime | None
    context_hash: str | None
    known_as_of: datetime | None
    last_candidates: CandidateSet | None
    ended_ids: frozenset[str] = frozenset()

    @property
    def account_key(self) -> str:
        """The user and the account: work for one account is not shared with work for an earlier one."""
        return f"{self.user_id} {self.connection_number}"

    @property
    def known_by(self) -> KnownBy:
        """What tells as of when the user's tasks are known."""
        is_later = self.known_as_of is not None and self.known_as_of != self.materialized_at
        return "events" if is_later else "fetch"

    @property
    def zone(self) -> ZoneInfo:
        """The user's time zone; UTC if it is unknown."""
        return _zone(self.timezone)

    def age(self, now: datetime) -> timedelta | None:
        """The time since the user's signals were known; None without a context."""
        return now - self.known_as_of if self.known_as_of else None

    def is_fresh(self, now: datetime, sla: timedelta) -> bool:
        """Whether there is a context that may be used."""
        return self.known_as_of is not None and is_fresh(self.known_as_of, self.valid_until, now, sla)

    def current_candidates(self, now: datetime) -> CandidateSet | None:
        """The last candidates, if they were made for the stored context and this day, and are not yet to be replaced.

        None also if one of them is about a task that has ended since. The pipeline can have written them in the
        evening for the next day: then they expire after this midnight.
        """
        last = self.last_candidates
        if last is None or last.context_hash != self.context_hash or now >= min(last.expires_at, last.renew_at):
            return None
        if self.ended_ids and any(is_about(tip, self.ended_ids) for tip in last.tips):
            return None
        is_close = last.expires_at - now < _SHORTEST_DAY
        return last if is_close or last.expires_at <= next_midnight(self.zone, now)[0] else None

    def without_context(self) -> UserState:
        """The same user without a context and candidates."""
        return replace(
            self,
            materialized_at=None,
            valid_until=None,
            context_hash=None,
            known_as_of=None,
            last_candidates=None,
        )

    def with_context(self, stored: StoredContext) -> UserState:
        """The same user with another context; events tell of it only if it was read as the same one."""
        is_same = (stored.materialized_at, stored.context_hash) == (self.materialized_at, self.context_hash)
        return replace(
            self,
            known_as_of=self.known_as_of if is_same else stored.materialized_at,
            materialized_at=stored.materialized_at,
            valid_until=stored.valid_until,
            context_hash=stored.context_hash,
        )


class Decision(NamedTuple):
    """A row of `decisions`, in the order of the statement's columns; sql/migrations describes them."""

    decision_id: UUID
    user_id: str
    decided_at: datetime
    tip_kind: str
    theme: str
    context_hash: str | None
    candidate_set_id: UUID | None
    source: ContextSource
    llm: LLMStatus
    materialized_at: datetime | None
    policy_version: str
    seed: int
    chosen: int
    propensities: Sequence[float]
    features: bytes
    origin: CandidateOrigin
    set_age_s: float | None


class Store:
    """The tables of the request path, read and written through two connection pools."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        tip_pool: asyncpg.Pool,
        deliveries: Deliveries,
        metrics: Metrics,
        *,
        report: Report,
        max_wait_s: float,
        reaction_days: int = 90,
        believes_events: bool = False,
    ) -> None:
        """tip_pool: for the read of the user and the log of the decision, which every tip needs, see `open_store`.

        deliveries: is told of decisions that were written for requests that have ended meanwhile.
        report: called for each row that cannot be read.
        max_wait_s: time that a read or a decision may wait for its statement; beyond it new ones are refused.
        reaction_days: number of days of reactions in a context.
        believes_events: whether the silence of trusted events counts as freshness.
        """
        self.pool = pool
        self._believes_events = believes_events
        self.deliveries = deliveries
        self.report = report
        self._metrics = metrics
        self._tip_pool = tip_pool
        self._reaction_days = reaction_days
        self._reads: Batcher[str, UserState | None] = Batcher(
            self._read_users, max_wait_s=max_wait_s, is_at_fault=is_about_values
        )
        self._decisions: Batcher[Decision, None] = Batcher(
            self._write_decisions,
            max_wait_s=max_wait_s,
            is_at_fault=is_about_values,
            on_abandoned=lambda decision: deliveries.undelivered(decision.decision_id),
        )

    def show(self) -> None:
        """Show the queues and the pools in the metrics."""
        metrics = self._metrics
        metrics.watch_queues(
            {
                "reads": lambda: self._reads.n_waiting,
                "decisions": lambda: self._decisions.n_waiting,
                "undelivered": lambda: self.deliveries.n_waiting,
            }
        )
        metrics.watch_pools({"requests": self.pool, "tips": self._tip_pool})

    def check_load(self) -> None:
        """Raise Overloaded if a request that begins now would be refused later, after work was done for it."""
        self._reads.check()
        self._decisions.check()

    async def read_user(self, user_id: str) -> UserState | None:
        """A user's state; None if there is no such user. Raises Overloaded."""
        return await self._reads.submit(user_id)

    async def write_decision(self, decision: Decision) -> None:
        """Log a decision; when this returns, reactions to it are accepted. Raises Overloaded.

        If the caller is cancelled, the decision is not written or is marked as undelivered.
        """
        await self._decisions.submit(decision)

    async def close(self, timeout_s: float) -> None:
        """Wait for the decisions that are being written, and store the remaining marks, for at most `timeout_s`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s / 2):
                await self._decisions.close()
        await self.deliveries.close(deadline - loop.time())

    async def read_context(self, user: UserState) -> StoredContext | None:
        """A user's row of `context_store`; None if it is not from the account of this state."""
        row = await _SQL.read_context(self.pool, user_id=user.user_id, connection_number=user.connection_number)
        return None if row is None else StoredContext(user_id=user.user_id, **dict(row))

    async def read_subject_hashes(self, candidates: CandidateSet) -> list[str]:
        """The subject hash of each tip of a stored set."""
        return list(await _SQL.read_subject_hashes(self.pool, candidate_set_id=candidates.set_id) or ())

    async def read_account(self, user_id: str) -> Mapping[str, Any] | None:
        """The columns of an account that an assembly needs; None if it must not be fetched."""
        row: Mapping[str, Any] | None = await _SQL.read_account(self.pool, user_id=user_id)
        return row

    async def save_credentials(self, account: Account, sealed: str) -> None:
        """Store an account's renewed credentials."""
        await _ACCOUNTS.save_credentials(self.pool, **_key(account), credentials=sealed)

    async def read_groups(self, account: Account) -> str:
        """The task groups of the last clustering as JSON, see `contexts.assembly.model.TaskGroups`."""
        return await _SQL.read_groups(self.pool, **_key(account)) or TaskGroups().to_json()

    async def read_reactions(self, user_id: str, now: datetime) -> tuple[Reaction, ...]:
        """The user's reactions to tips that belong in a context assembled at `now`."""
        since = reactions_since(now, self._reaction_days)
        rows = [dict(row) async for row in _CONTEXTS.reactions_since(self.pool, since=since, user_ids=[user_id])]
        return tuple(Reaction(**{name: row[name] for name in row if name != "user_id"}) for row in rows)

    async def save_owner(self, account: Account, todoist_user_id: str) -> None:
        """Store whose Todoist an account is."""
        await _ACCOUNTS.save_owner(self.pool, **_key(account), todoist_user_id=todoist_user_id)

    async def save_timezone(self, account: Account, timezone: str) -> None:
        """Store the user's time zone."""
        await _ACCOUNTS.save_timezone(self.pool, [{**_key(account), "timezone": timezone}])

    async def write_context(self, row: StoredContext, account: Account) -> bool:
        """Store a context; False if a newer context, or one of a newer account, stays.

        account: that the context was made from.
        """
        is_written = await _SQL.write_context(
            self.pool,
            **_key(account),
            materialized_at=row.materialized_at,
            context_json=row.context_json,
            context_hash=row.context_hash,
            valid_until=row.valid_until,
            groups_json=row.groups_json,
            row_version=row.row_version,
            clock_difference=CLOCK_DIFFERENCE,
        )
        return bool(is_written)

    async def write_candidates(self, user: UserState, candidates: CandidateSet) -> bool:
        """Append a set of candidates; False if the user's account was replaced or removed meanwhile."""
        is_written = await _SQL.write_candidates(
            self.pool,
            candidate_set_id=candidates.set_id,
            user_id=user.user_id,
            connection_number=user.connection_number,
            context_hash=candidates.context_hash,
            author=candidates.author,
            origin=candidates.origin,
            kept_from=candidates.kept_from,
            made_at=candidates.made_at,
            clock_difference=CLOCK_DIFFERENCE,
            expires_at=candidates.expires_at,
            renew_at=candidates.renew_at,
            tips=candidates.tips,
            subject_hashes=candidates.subject_hashes,
            kinds=candidates.kinds,
            themes=candidates.themes,
            features=candidates.features,
        )
        if is_written:
            self._metrics.candidate_sets.labels(candidates.origin).inc()
        return bool(is_written)

    async def has_written_set(self, user: UserState) -> bool:
        """Whether the LLM ever wrote candidates for the user's account."""
        key = {"user_id": user.user_id, "connection_number": user.connection_number}
        return bool(await _SQL.has_written_set(self.pool, **key))

    async def will_ask_again(self, user: UserState, at: datetime, threshold: float) -> bool:
        """Whether a user who asks at `at` will ask again that day with a probability of at least `threshold`."""
        return bool(await _SQL.will_ask_again(self.pool, user_id=user.user_id, at=at, threshold=threshold))

    async def renew_sooner(self, user: UserState, renew_at: datetime, latest: datetime) -> None:
        """Let the account's newest set be renewed at `renew_at`, if it is to be renewed between that and `latest`."""
        key = {"user_id": user.user_id, "connection_number": user.connection_number}
        await _SQL.renew_sooner(self.pool, **key, renew_at=renew_at, latest=latest)

    async def write_llm_call(
        self, user_id: str, set_id: UUID | None, usage: LLMUsage, called_at: datetime, place: CallPlace
    ) -> None:
        """Record one call of the LLM. set_id: the candidates that it wrote; None if there are none."""
        await _SQL.write_llm_call(
            self.pool,
            called_at=called_at,
            user_id=user_id,
            candidate_set_id=set_id,
            model=usage.model,
            outcome=usage.outcome,
            n_requests=usage.n_requests,
            input_tokens=usage.input_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.output_tokens,
            cost_usd=usage.cost_usd,
            seconds=usage.seconds,
            place=place,
        )

    async def read_new_accounts(self, max_accounts: int) -> dict[str, int]:
        """Of the accounts that were connected last, those without a context, the newest first.

        Returns the connection number of each user.
        """
        rows = _SQL.read_new_accounts(self.pool, max_accounts=max_accounts)
        return {row["user_id"]: row["connection_number"] async for row in rows}

    async def remove_user(self, user_id: str) -> bool:
        """Delete a user with every row that belongs to them; False if there is no such user."""
        async with self.pool.acquire() as connection, connection.transaction():
            await _ACCOUNTS.lock_user(connection, user_id=user_id)
            await _ACCOUNTS.remove_context(connection, user_id=user_id)
            is_removed = bool(await _SQL.remove_user(connection, user_id=user_id))
            # Once more, because a run may have written it while the user still existed.
            await _ACCOUNTS.remove_context(connection, user_id=user_id)
            return is_removed

    async def read_and_log(
        self, user_ids: Sequence[str], decide: Callable[[Sequence[UserState | None]], Sequence[Decision]]
    ) -> None:
        """Read users, and log the decisions that `decide` makes for them, over one connection.

        decide: gets the state of each user, None for an unknown one; it may be called again, if nothing was written.
        """
        try:
            await self._read_and_log(user_ids, decide)
        except asyncpg.ReadOnlySQLTransactionError:  # nothing was written, and the next connection is another one
            await self._read_and_log(user_ids, decide)

    async def _read_and_log(
        self, user_ids: Sequence[str], decide: Callable[[Sequence[UserState | None]], Sequence[Decision]]
    ) -> None:
        async with self._tip_pool.acquire() as connection:
            if decisions := decide(await self._users(connection, user_ids)):
                await connection.executemany(_WRITE_DECISION, decisions)

    async def _read_users(self, user_ids: Sequence[str]) -> list[UserState | None]:
        return await self._users(self._tip_pool, user_ids)

    async def _users(self, connection: Any, user_ids: Sequence[str]) -> list[UserState | None]:
        rows = await connection.fetch(_READ_USERS, self._believes_events, list(set(user_ids)))
        are_possible = are_features_possible([row["features"] for row in rows if row["features"] is not None])
        users = {row[0]: self._user_state(row, are_possible) for row in rows}
        return [users.get(user_id) for user_id in user_ids]

    async def _write_decisions(self, decisions: Sequence[Decision]) -> list[None]:
        try:
            await self._tip_pool.executemany(_WRITE_DECISION, decisions)
        except asyncpg.ReadOnlySQLTransactionError:  # as above
            await self._tip_pool.executemany(_WRITE_DECISION, decisions)
        return [None] * len(decisions)

    def _user_state(self, row: Sequence[Any], are_possible: bool) -> UserState:
        user_id, timezone, number, is_refused, materialized_at, valid_until, context_hash, *more = row
        known_as_of, *candidates, ended_ids = more
        return UserState(
            user_id,
            timezone,
            number,
            bool(is_refused),
            materialized_at,
            valid_until,
            context_hash,
            known_as_of,
            self._candidates(are_possible, *candidates) if candidates[0] is not None else None,
            frozenset(ended_ids),
        )

    def _candidates(self, are_possible: bool, set_id: UUID, *columns: Any) -> CandidateSet | None:
        """A user's last candidates; none if their row cannot be read, so that new ones are made."""
        candidates = CandidateSet(set_id, *columns)
        try:
            check_candidates(
                set_id,
                candidates.tips,
                candidates.kinds,
                candidates.themes,
                candidates.features,
                are_features_possible=are_possible,
            )
        except Unreadable as error:
            self.report(error)
            return None
        return candidates


def _key(account: Account) -> dict[str, Any]:
    return {"user_id": account.user_id, "connection_number": account.connection_number}


def is_about_values(error: Exception) -> bool:
    """Whether Postgres or its driver refused a value, so that other values may be accepted."""
    return isinstance(error, asyncpg.DataError | asyncpg.IntegrityConstraintViolationError | ValueError)


@lru_cache(maxsize=1024)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(valid_zone(name) or "UTC")


@asynccontextmanager
async def open_store(
    url: str,
    metrics: Metrics,
    *,
    n_connections: int,
    timeout_s: float,
    reaction_days: int = 90,
    believes_events: bool = False,
) -> AsyncIterator[Store]:
    """A store with pools of its own. timeout_s: upper bound for each statement. believes_events: see `Store`."""
    async with (
        create_pool(url, n_connections=n_connections, timeout_s=timeout_s) as pool,
        create_pool(url, n_connections=_TIP_SESSIONS, timeout_s=timeout_s, server_settings=TIP_SETTINGS) as tip_pool,
    ):
        deliveries, max_wait_s = Deliveries(pool, metrics), timeout_s * STATEMENT_WAITING_SHARE
        store = Store(
            pool,
            tip_pool,
            deliveries,
            metrics,
            report=counted_in(metrics),
            max_wait_s=max_wait_s,
            reaction_days=reaction_days,
            believes_events=believes_events,
        )
        store.show()
        yield store
