"""What the steps of a night do, whoever starts them: Airflow's tasks, a command, a test."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from assets.asset import Asset, Users
from assets.bill import Line, bill
from assets.definitions import GRAPH, context_store, task_embeddings
from assets.definitions.calibration import calibrate_model
from assets.definitions.ledger import LEDGER, LEDGER_DAYS, ledger_table
from assets.doors import Doors
from assets.errors import OrderError
from assets.materialize import asked, execute
from assets.plan import Plan, Planner, Request
from assets.records import Record, total
from assets.versions import hash_of, shard_of
from contexts.accounts import Look
from contexts.ledger import Entry, Page


@dataclass(frozen=True)
class Order:
    """What somebody wants done. look: whom to fetch. select: assets, all by default. users, shards: no others. force:
    also what is up to date.
    """

    look: Look = Look.EVERYBODY
    select: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    shards: tuple[int, ...] = ()
    force: bool = False

    @classmethod
    def read(cls, look: Look, *, select: str = "", user: str = "", shards: str = "", force: bool = False) -> Order:
        """An order as people write it: names with commas, shards as `0-3,7`. OrderError says what cannot be read."""
        return cls(look, _names(select), _names(user), tuple(_numbers(shards)), force)

    @property
    def selected(self) -> tuple[Asset, ...]:
        """The assets asked for, in order of work."""
        return GRAPH.select(self.select) if self.select else tuple(GRAPH)

    def of(self, step: str) -> tuple[Asset, ...]:
        """The assets asked for of one step."""
        return tuple(each for each in GRAPH.steps[step] if each in self.selected)


EVERYTHING = Order()


@dataclass(frozen=True)
class Night:
    """The steps over some doors, at an instant (aware, UTC)."""

    doors: Doors
    now: datetime
    order: Order = EVERYTHING

    def forecast(self) -> list[Line]:
        """The bill of all steps one after the other, as things stand; reads footers and Postgres, writes nothing."""
        planner = self._planner()
        plan = planner.plan(self.order.selected, self._source_request())
        return self._bill(plan, planner, self.order.selected)

    def plan(self, step: str) -> tuple[Plan, list[Line]]:
        """What a step is to run, and its bill.

        A shard whose inputs are about to change is left out: the asset that changes them wakes this step again.
        """
        members = self.order.of(step)
        if not members:
            known = ", ".join(each.name for each in GRAPH.steps[step])
            raise OrderError(f"'{','.join(self.order.select)}' names no asset of {step}. It has: {known}")
        if task_embeddings.name in GRAPH.wakers(step):
            calibrate_model(self.doors.shards, self.doors.store, self.doors.embedder.version)
        planner = self._planner()
        found = planner.plan(members, self._source_request() if _is_source(step) else self._request())
        shards = {each.shard for each in found}
        ready = {shard for shard in shards if planner.waits_for(members, shard) is None}
        plan = replace(found, entries=tuple(each for each in found if each.shard in ready))
        return plan, self._bill(plan, planner, members)

    def compute(self, step: str, shard: int, names: Collection[str]) -> Iterator[Record]:
        """Do what the step's plan says of one shard: the assets named and no others, as far as they are still behind;
        nothing if an input fell behind since the plan was made.
        """
        members, planner = [each for each in self.order.of(step) if each.name in names], self._planner()
        if planner.waits_for(GRAPH.steps[step], shard):
            return
        request = self._request_of(self._users(step, shard), frozenset([shard]))
        yield from self.execute(planner.plan(members, request))

    def execute(self, plan: Plan) -> Iterator[Record]:
        """Do what a plan says, in this process; a record for each shard as soon as it is done."""
        return execute(plan, GRAPH, self.doors.shards, resources=self.doors.resources, now=self.now)

    def open(self, step: str, run_id: str, started_at: datetime, lines: Iterable[Line]) -> None:
        """Write into the ledger what is planned."""
        planned = {each.work: each.n_units for each in lines if each.work and each.n_units is not None}
        self.doors.ledger.open_page(Page(run_id, step, started_at, planned=planned))

    def close(self, step: str, run_id: str, started_at: datetime, records: Iterable[Record]) -> list[Entry]:
        """Write the log and the ledger: an entry for every asset of the step, also when none of its shards ran.

        An asset counts as changed when it is not what the log said last, so that a change by a run that failed later
        is told by the next one.
        """
        by_asset: dict[str, list[Record]] = {member.name: [] for member in GRAPH.steps[step]}
        for record in records:
            by_asset[record.asset].append(record)
        entries = [self._entry(step, GRAPH[name], run_id, started_at, own) for name, own in by_asset.items()]
        for entry in entries:
            self.doors.ledger.write(entry)
        self.doors.ledger.close_page(self._page(step, run_id, started_at, by_asset, entries))
        self._tidy(step)
        self.doors.shards.write_beside(LEDGER, ledger_table(self.doors.ledger.pages(self.now - LEDGER_DAYS)))
        return entries

    def left_behind(self, step: str) -> set[str]:
        """The assets of a step that must speak though they did not change, because whoever they wake is behind.

        After a failure or a change of model somebody down the line has work to do that no news will tell of. Steps
        that observe are woken by every fetch, so only the step right before them speaks for them.
        """
        planner = self._planner()
        behind = {each.name for each in GRAPH if not each.is_source and planner.plan([each])}
        return {
            member.name
            for member in GRAPH.steps[step]
            if any(_speaks_for(member, GRAPH[name]) for name in GRAPH.descendants(member.name) & behind)
        }

    def _planner(self) -> Planner:
        return Planner(GRAPH, self.doors.shards, self.doors.resources, self.now)

    def _bill(self, plan: Plan, planner: Planner, assets: Iterable[Asset]) -> list[Line]:
        return bill(plan, planner, assets, self.doors.ledger.pace(self.now))

    def _request_of(self, users: Users, shards: frozenset[int] | None = None) -> Request:
        named = shards if shards is not None else (frozenset(self.order.shards) or None)
        unknown = set(self.order.users) - self.doors.accounts.known(self.order.users)
        if unknown:
            raise OrderError(f"there is no user '{min(unknown)}'. See: python -m contexts.accounts list")
        return asked(
            self.doors.shards.n_shards,
            users,
            only_shards=named,
            only_users=self.order.users or None,
            force=self.order.force,
        )

    def _source_request(self) -> Request:
        """Users who are due, and the shards in which there is something else to look at."""
        request = self._request_of(self._due())
        return (
            request if request.shards is not None else replace(request, look=request.look | self._shards_to_clear())
        )

    def _request(self) -> Request:
        """All users, and a look at the shards of those who were fetched since their rows were stored."""
        request = self._request_of(self.doors.accounts.observed())
        news = {shard_of(user, self.doors.shards.n_shards) for user in self.doors.accounts.observed_since_stored()}
        return request if request.shards is not None else replace(request, look=frozenset(news))

    def _shards_to_clear(self) -> frozenset[int]:
        """Shards that hold users who do not exist any more."""
        held: dict[int, set[str]] = {}
        for member in self.order.selected:
            for footer in self.doors.shards.readable_footers(member) if member.is_source else ():
                held.setdefault(footer.shard, set()).update(footer.index.users)
        known = self.doors.accounts.known(set().union(*held.values()))
        return frozenset(shard for shard, users in held.items() if users - known)

    def _due(self, look: Look | None = None, **spread: int) -> Users:
        settings = self.doors.settings
        return self.doors.accounts.due(
            self.now,
            settings.next_run(self.now),
            look=look or self.order.look,
            sla=settings.freshness_sla,
            shard=spread.get("shard"),
            n_shards=self.doors.shards.n_shards,
        )

    def _users(self, step: str, shard: int) -> Users:
        n_shards = self.doors.shards.n_shards
        if _is_source(step):
            # A shard that was lost is made anew for all of its users, or the others would lose what is theirs.
            is_lost = any(self.doors.shards.footer(member, shard) is None for member in GRAPH.steps[step])
            return self._due(Look.EVERYBODY if is_lost else None, shard=shard)
        return self.doors.accounts.observed(shard=shard, n_shards=n_shards)

    def _entry(self, step: str, asset: Asset, run_id: str, started_at: datetime, records: Iterable[Record]) -> Entry:
        footers = self.doors.shards.readable_footers(asset)
        version = hash_of({str(footer.shard): footer.data_version for footer in footers})
        sums = total(records)
        return Entry(
            run_id=run_id,
            step=step,
            asset=asset.name,
            started_at=started_at,
            finished_at=datetime.now(UTC),
            n_shards=len(footers),
            n_shards_run=sums.pop("n_shards_run"),
            n_users=sum(footer.n_users for footer in footers),
            n_users_changed=sums.pop("n_users_changed"),
            n_rows=sum(footer.n_rows for footer in footers),
            data_version=version,
            changed=version != (self.doors.ledger.latest_version(asset.name, before=run_id) or hash_of({})),
            counts=sums,
        )

    def _page(
        self,
        step: str,
        run_id: str,
        started_at: datetime,
        records: Mapping[str, Iterable[Record]],
        entries: Iterable[Entry],
    ) -> Page:
        sizes = {entry.asset: entry for entry in entries}
        done: dict[str, float] = {}
        saved: dict[str, float] = {}
        seconds: dict[str, float] = {}
        for asset in GRAPH.steps[step]:
            if asset.work is None:
                continue
            work = asset.work.count
            own = list(records[asset.name])
            done[work] = sum(each.counts.get(work, each.n_users_changed) for each in own)
            entry = sizes[asset.name]
            saved[work] = max(0, (entry.n_users if asset.work.per == "user" else entry.n_rows) - done[work])
            seconds[work] = round(sum(each.seconds for each in own), 3)
        return Page(
            run_id,
            step,
            started_at,
            finished_at=datetime.now(UTC),
            n_users=max(entry.n_users for entry in entries),
            done=done,
            saved=saved,
            seconds=seconds,
        )

    def _tidy(self, step: str) -> None:
        """After a fetch the request path's day goes into the ledger; after the store, what is too old goes."""
        if _is_source(step):
            self.doors.ledger.add_request_pages(self.now)
        if context_store in GRAPH.steps[step]:
            oldest = self.now - timedelta(days=self.doors.settings.context_history_days)
            self.doors.history.expire(oldest.date())


def _speaks_for(asset: Asset, reader: Asset) -> bool:
    if asset.step == reader.step:
        return False
    is_nearest = asset.name in GRAPH.wakers(reader.step) and not asset.is_source
    return is_nearest or not any(member.observes for member in GRAPH.steps[reader.step])


def _is_source(step: str) -> bool:
    return any(member.is_source for member in GRAPH.steps[step])


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _numbers(text: str) -> Iterator[int]:
    for part in _names(text):
        low, _, high = part.partition("-")
        if not low.isdigit() or not (high or low).isdigit() or int(high or low) < int(low):
            raise OrderError(f"'{part}' is no shard and no range of shards. Write them as 0-3,7")
        yield from range(int(low), int(high or low) + 1)
