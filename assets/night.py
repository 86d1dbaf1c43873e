"""What the steps of a night do, whoever starts them: Airflow's tasks, a command, a test."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

from assets.asset import Asset, Users
from assets.bill import Line, bill
from assets.calibration import calibrate_model
from assets.definitions import GRAPH, context_store, task_embeddings
from assets.doors import Doors
from assets.errors import OrderError
from assets.ledger import LEDGER, LEDGER_DAYS, ledger_table
from assets.materialize import asked, execute
from assets.plan import Plan, Planner, Request
from assets.records import Record, total
from assets.versions import hash_of, shard_of
from contexts.accounts import Look
from contexts.ledger import Entry, Page

log = logging.getLogger(__name__)

_MOST_SHARDS = 1024


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

    def forecast(self) -> tuple[Plan, Planner]:
        """What all steps would run one after the other, as things stand; reads footers and Postgres only."""
        planner, chosen = self._planner(), self.order.selected
        found = planner.plan([each for each in chosen if each.is_source], self._source_request())
        looked = self._request()
        looked = replace(looked, look=looked.look | found.request.look)
        rest = planner.plan([each for each in chosen if not each.is_source], looked, before=found)
        return planner.ready(replace(found, entries=(*found, *rest)), chosen), planner

    def plan(self, step: str) -> tuple[Plan, Planner]:
        """What a step is to run.

        A shard whose inputs are about to change is left out: the asset that changes them wakes this step again.
        """
        members = self.order.of(step)
        if not members:
            known = ", ".join(each.name for each in GRAPH.steps[step])
            raise OrderError(f"'{','.join(self.order.select)}' names no asset of {step}. It has: {known}")
        planner = self._planner()
        found = planner.plan(members, self._source_request() if _is_source(step) else self._request())
        return planner.ready(found, members), planner

    def bill(self, plan: Plan, planner: Planner, assets: Iterable[Asset]) -> list[Line]:
        """What a plan comes to, going by the pace of past runs."""
        return bill(plan, planner, assets, self.doors.ledger.pace(self.now))

    def compute(self, step: str, shard: int, names: Collection[str]) -> Iterator[Record]:
        """Do what the step's plan says of one shard: the assets named and no others, as far as they are still behind;
        nothing if an input fell behind since the plan was made.
        """
        members, planner = [each for each in self.order.of(step) if each.name in names], self._planner()
        request = self._source_request(shard) if _is_source(step) else self._request(shard)
        yield from self.execute(planner.ready(planner.plan(members, request), members))

    def execute(self, plan: Plan) -> Iterator[Record]:
        """Do what a plan says, in this process; a record for each shard as soon as it is done."""
        doors = self.doors
        return execute(plan, GRAPH, doors.shards, resources=doors.resources, now=self.now, lock=doors.lock)

    def open(self, step: str, run_id: str, started_at: datetime, lines: Iterable[Line]) -> None:
        """Write into the ledger what is planned."""
        planned = {each.work: each.n_units for each in lines if each.work and each.n_units is not None}
        self.doors.ledger.open_page(Page(run_id, step, started_at, planned=planned))

    def close(
        self, step: str, run_id: str, started_at: datetime, records: Iterable[Record], *, is_whole: bool = True
    ) -> list[Entry]:
        """Write the log and the ledger: an entry for every asset of the step, also when none of its shards ran.

        is_whole: whether all that was planned was done; else the run is recorded as one that did not get to its end.

        An asset counts as changed when it is not what the log said last, so that a change by a run that failed later
        is told by the next one.
        """
        by_asset: dict[str, list[Record]] = {member.name: [] for member in GRAPH.steps[step]}
        for record in records:
            by_asset[record.asset].append(record)
        entries = [self._entry(step, GRAPH[name], run_id, started_at, own) for name, own in by_asset.items()]
        for entry in entries:
            self.doors.ledger.write(entry)
        page = self._page(step, run_id, started_at, by_asset, entries)
        self.doors.ledger.close_page(page if is_whole else replace(page, finished_at=None, saved={}))
        self._tidy(step)
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

    def _request_of(self, users: Users, shard: int | None) -> Request:
        asked_for = self.order.shards if shard is None else (shard,)
        return asked(
            self.doors.shards.n_shards,
            users,
            only_shards=asked_for or None,
            only_users=self.order.users or None,
            force=self.order.force,
        )

    def _source_request(self, shard: int | None = None) -> Request:
        """Users who are due, and the shards of those who do not exist any more.

        A shard that was lost is made anew for all of its users, or the others would lose what is theirs.
        """
        self._check_order()
        due, lost = self._due(self.order.look, shard), self._lost_shards(shard)
        if lost and self.order.look is not Look.EVERYBODY:
            everybody = self._due(Look.EVERYBODY, shard)
            due = {**due, **{user: at for user, at in everybody.items() if self._shards_of([user]) <= lost}}
        request = self._request_of(due, shard)
        if request.only is not None and lost.intersection(request.look):
            raise OrderError(
                f"shard {min(lost & request.look)} of the sources has no file yet: a run for single users would leave"
                f" all others out. Run it for the shard first: --shards {min(lost & request.look)}"
            )
        return (
            request if request.shards is not None else replace(request, look=request.look | self._shards_to_clear())
        )

    def _request(self, shard: int | None = None) -> Request:
        """All users, and a look at the shards of those who were fetched since their rows were stored."""
        self._check_order()
        observed = self.doors.accounts.observed(shard=shard, n_shards=self.doors.shards.n_shards)
        request = self._request_of(observed, shard)
        if request.shards is not None:
            return request
        return replace(request, look=self._shards_of(self.doors.accounts.observed_since_stored()))

    def _check_order(self) -> None:
        unknown = set(self.order.users) - self.doors.accounts.known(self.order.users)
        if unknown:
            raise OrderError(f"there is no user '{min(unknown)}'. See: python -m contexts.accounts list")
        n_shards = self.doors.shards.n_shards
        if self.order.shards and max(self.order.shards) >= n_shards:
            wrong = max(self.order.shards)
            raise OrderError(f"there is no shard {wrong}: with N_SHARDS={n_shards} they are 0-{n_shards - 1}")

    def _lost_shards(self, shard: int | None) -> frozenset[int]:
        wanted = range(self.doors.shards.n_shards) if shard is None else [shard]
        sources = [each for each in GRAPH if each.is_source]
        return frozenset(
            each for each in wanted if any(self.doors.shards.is_lost(source, each) for source in sources)
        )

    def _shards_to_clear(self) -> frozenset[int]:
        """Shards that hold users who do not exist any more."""
        held = {
            user
            for member in GRAPH
            if member.is_source
            for footer in self.doors.shards.readable_footers(member)
            for user in footer.index.users
        }
        return self._shards_of(held - self.doors.accounts.known(held))

    def _shards_of(self, users: Iterable[str]) -> frozenset[int]:
        return frozenset(shard_of(user, self.doors.shards.n_shards) for user in users)

    def _due(self, look: Look, shard: int | None) -> Users:
        settings, n_shards = self.doors.settings, self.doors.shards.n_shards
        until = settings.next_run(self.now)
        return self.doors.accounts.due(
            self.now, until, look=look, sla=settings.freshness_sla, shard=shard, n_shards=n_shards
        )

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
        """What is to be done once a run: the threshold of a new model, the requests' page, what is too old."""
        doors = self.doors
        if task_embeddings in GRAPH.steps[step]:
            calibrate_model(doors.shards, doors.store, doors.embedder.version)
            doors.vectors.expire(self._days_ago(doors.settings.embedding_cache_days))
        if _is_source(step):
            doors.ledger.add_request_pages(self.now)
        if context_store in GRAPH.steps[step]:
            doors.history.expire(self._days_ago(doors.settings.context_history_days), doors.accounts.known)
        try:
            doors.shards.write_beside(LEDGER, ledger_table(doors.ledger.pages(self.now - LEDGER_DAYS)))
        except OSError as error:  # analysts read an older one; the run itself is done
            log.warning("the ledger's Parquet was not written: %s", error)

    def _days_ago(self, n: int) -> date:
        return (self.now - timedelta(days=n)).date()


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
        if not low.isdigit() or not (high or low).isdigit() or not int(low) <= int(high or low) < _MOST_SHARDS:
            raise OrderError(f"'{part}' is no shard and no range of shards. Write them as 0-3,7")
        yield from range(int(low), int(high or low) + 1)
