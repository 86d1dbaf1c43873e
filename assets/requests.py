"""The requests of steps: the users to fetch, to observe and to write tips for, from Postgres and the footers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from assets.engine.asset import Asset, RowDigests, Users
from assets.engine.errors import OptionsError
from assets.engine.footers import Footers
from assets.engine.graph import Graph
from assets.engine.hashing import shard_of
from assets.engine.plan import Request, build_request
from assets.options import RunOptions
from assets.runtime import Runtime
from contexts.todoist.accounts import FetchScope
from contexts.todoist.event_store import EventStore


@dataclass(frozen=True)
class Requests:
    """Builds the requests of one run at one instant (aware, UTC)."""

    graph: Graph
    runtime: Runtime
    now: datetime
    options: RunOptions

    def _build_request(self, users: Users, shards: Sequence[int] | None) -> Request:
        shards = self.options.only_shards if shards is None else shards
        return build_request(
            self.runtime.shards.n_shards,
            users,
            only_shards=shards or None,
            only_users=self.options.only_users or None,
            force=self.options.force,
        )

    def of_source(self, footers: Footers, shards: Sequence[int] | None = None) -> Request:
        """Return the request of a source step: users due for a fetch or with events, shards with removed users.

        A lost shard is fetched for all of its users, because its file would otherwise hold the due users only. Users
        with restored rows are fetched, too: their contexts would otherwise be published as of the last fetch.
        """
        self._check_options()
        due = {**self.with_events(shards), **self.due(self.options.scope, shards)}
        lost, restored = self.lost_shards(footers, shards), self._restored_users(footers, shards)
        if lost or restored:
            everybody = self.due(FetchScope.ALL, shards)
            missing = {user for user in everybody if self.shards_of([user]) <= lost} | restored
            due = {**due, **{user: at for user, at in everybody.items() if user in missing}}
        request = self._build_request(due, shards)
        if request.only_users is not None and (refused := lost & request.observe_shards):
            raise OptionsError(
                f"shard {min(refused)} of the sources has no file yet: a run for single users would drop all other"
                f" users of the shard. Run the whole shard first: --shards {min(refused)}"
            )
        if request.only_shards is not None:
            return request
        return replace(
            request, observe_shards=request.observe_shards | self._shards_with_removed_users(footers, lost)
        )

    def of_derived(self, footers: Footers, assets: Sequence[Asset], shards: Sequence[int] | None = None) -> Request:
        """Return the request of derived assets: all users, observed in shards with an outdated row in the store.

        Restored rows are older than the last fetch of their user, so they are not published as of that fetch. If
        an asset works on demand, tips are demanded for users who will probably ask for one before the next run.
        """
        self._check_options()
        n_shards = self.runtime.shards.n_shards
        fetched = self.runtime.accounts.observations(self.now, shards=shards, n_shards=n_shards)
        restored = self._restored_users(footers, shards)
        request = self._build_request({user: at for user, at in fetched.at.items() if user not in restored}, shards)
        if not self.options.is_restricted:
            request = replace(request, due=fetched.outdated)
        if any(asset.on_demand for asset in assets):
            request = replace(request, demanded=self._demanded(shards))
        if request.only_shards is not None:
            return request
        return replace(request, observe_shards=self.shards_of(fetched.outdated))

    def _demanded(self, shards: Sequence[int] | None) -> Users:
        """Return the users for whom tips are to be written ahead, with the instant of their probable next request."""
        settings, n_shards = self.runtime.settings, self.runtime.shards.n_shards
        next_run = settings.next_run(self.now)
        demand = self.runtime.tip_writer.demand(self.now, next_run, shards=shards, n_shards=n_shards)
        only = self.options.only_users
        return {user: at for user, at in demand.items() if not only or user in only}

    def _check_options(self) -> None:
        unknown = set(self.options.only_users) - self.runtime.accounts.existing(self.options.only_users)
        if unknown:
            raise OptionsError(f"there is no user '{min(unknown)}'. See: python -m contexts accounts list")
        n_shards = self.runtime.shards.n_shards
        if self.options.only_shards and max(self.options.only_shards) >= n_shards:
            shard = max(self.options.only_shards)
            raise OptionsError(f"there is no shard {shard}: with N_SHARDS={n_shards} they are 0-{n_shards - 1}")
        for user in self.options.only_users if self.options.only_shards else ():
            if (shard := shard_of(user, n_shards)) not in self.options.only_shards:
                raise OptionsError(f"user '{user}' is in shard {shard}, which --shards leaves out")

    def lost_shards(self, footers: Footers, shards: Sequence[int] | None = None) -> frozenset[int]:
        """Return the shards in which a source has no file."""
        shards = range(self.runtime.shards.n_shards) if shards is None else shards
        sources = [asset for asset in self.graph if asset.is_source]
        footers.load(sources, shards)
        return frozenset(number for number in shards if not all(footers.exists(source, number) for source in sources))

    def _restored_users(self, footers: Footers, shards: Sequence[int] | None) -> frozenset[str]:
        """Return the users whose stored rows are not those that their sync token continues, as after a restore."""
        n_shards = self.runtime.shards.n_shards
        saved = self.runtime.accounts.rows_digests(shards=shards, n_shards=n_shards)
        shards = range(n_shards) if shards is None else shards
        continued = [asset for asset in self.graph if "previous_digests" in asset.reserved]
        footers.load(continued, shards)
        stored: dict[int, RowDigests] = {}
        for asset in continued:
            for number in shards:
                if footer := footers.readable(asset, number):
                    stored[number] = footer.row_digests
        shard_by_user = {user: shard_of(user, n_shards) for user in saved}
        return frozenset(
            user
            for user, number in shard_by_user.items()
            if number in stored and stored[number].get(user) != saved[user]
        )

    def _shards_with_removed_users(self, footers: Footers, lost: frozenset[int]) -> frozenset[int]:
        """Return the shards with rows of removed users in a source, or in any asset if a source is lost."""
        stored = {
            user
            for asset in self.graph
            if asset.is_source or lost
            for shard, footer in footers.of_asset(asset).items()
            if asset.is_source or shard in lost
            for user in footer.index.users
        }
        return self.shards_of(stored - self.runtime.accounts.existing(stored))

    def shards_of(self, users: Iterable[str]) -> frozenset[int]:
        """Return the shards of some users."""
        return frozenset(shard_of(user, self.runtime.shards.n_shards) for user in users)

    def due(self, scope: FetchScope, shards: Sequence[int] | None = None) -> Users:
        """Return the users to fetch."""
        settings, n_shards = self.runtime.settings, self.runtime.shards.n_shards
        next_run = settings.next_run(self.now)
        return self.runtime.accounts.due(
            self.now,
            next_run,
            scope=scope,
            sla=settings.freshness_sla,
            events=self.runtime.events.mode,
            shards=shards,
            n_shards=n_shards,
        )

    @property
    def events(self) -> EventStore:
        """The store of events; in a run that fetches everybody, no event stands in for a call."""
        events = self.runtime.events
        return events.without_folding() if self.options.scope is FetchScope.ALL else events

    def with_events(self, shards: Sequence[int] | None = None) -> Users:
        """Return the users whose events are to be folded."""
        return self.events.users_to_fold(self.now, shards=shards, n_shards=self.runtime.shards.n_shards)
