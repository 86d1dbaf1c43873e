"""The step runner: plans, runs and records the steps of the graph, for Airflow's tasks, commands and tests alike."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

from assets.calibration import calibrate_model
from assets.definitions.context_store import context_store
from assets.definitions.task_embeddings import task_embeddings
from assets.definitions.tip_candidates import tip_candidates
from assets.engine.asset import Asset, RowDigests, Users
from assets.engine.errors import OptionsError, ShardFailure
from assets.engine.graph import Graph
from assets.engine.hashing import hash_of, shard_of
from assets.engine.materialize import materialize
from assets.engine.plan import Plan, PlannedShard, Planner, Request, Wait, build_request
from assets.engine.results import ShardResult, total
from assets.estimate import AssetEstimate, estimate, footers_of
from assets.runtime import Runtime
from assets.step_runs import STEP_RUN_PERIOD, STEP_RUNS, step_run_table
from contexts.assembly.history import HISTORY
from contexts.postgres.run_log import AssetRun, StepRun
from contexts.settings import MAX_SHARDS
from contexts.todoist.accounts import FetchScope
from contexts.todoist.event_store import EventStore
from contexts.todoist.refusals import RefusalVerdict

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunOptions:
    """The part of the pipeline to run.

    scope: the users to fetch. select: expressions for assets, empty for all. only_users, only_shards: restrict the
    run to these, empty for no restriction. force: compute up-to-date users, too.
    """

    scope: FetchScope = FetchScope.ALL
    select: tuple[str, ...] = ()
    only_users: tuple[str, ...] = ()
    only_shards: tuple[int, ...] = ()
    force: bool = False

    @classmethod
    def parse(
        cls, scope: FetchScope, *, select: str = "", user: str = "", shards: str = "", force: bool = False
    ) -> RunOptions:
        """Parse options as people type them: comma-separated names, shards as `0-3,7`; OptionsError if malformed."""
        return cls(scope, _names(select), _names(user), tuple(_numbers(shards)), force)

    @property
    def is_restricted(self) -> bool:
        """Whether the options leave out assets, users or shards."""
        return bool(self.select or self.only_users or self.only_shards)


@dataclass(frozen=True)
class StepRunner:
    """Runs the steps of a graph at one instant.

    resources: the resources of assets, by type (see `Runtime.load_resources`). now: aware, UTC.
    """

    graph: Graph
    runtime: Runtime
    resources: Mapping[type, object]
    now: datetime
    options: RunOptions = RunOptions()

    @property
    def selected(self) -> tuple[Asset, ...]:
        """The assets that the options select, in the order in which they run."""
        return self.graph.select(self.options.select) if self.options.select else tuple(self.graph)

    @property
    def n_users_with_events(self) -> int:
        """The number of users whose events the source step would fold now."""
        return len(self._with_events(None))

    def members(self, step: str) -> tuple[Asset, ...]:
        """Return the selected assets of one step."""
        selected = self.selected
        return tuple(asset for asset in self.graph.steps[step] if asset in selected)

    def scheduled(self, started_at: datetime) -> StepRunner:
        """Return the runner of a scheduled run: nightly if the last night hour has had no night yet, however late."""
        last_night = self.runtime.settings.last_night(started_at)
        had_night = self.runtime.run_log.had_night(last_night, before=started_at)
        scope = FetchScope.LIKELY if had_night else FetchScope.NIGHTLY
        return replace(self, options=replace(self.options, scope=scope))

    def forecast(self) -> tuple[Plan, Planner]:
        """Plan all steps one after the other, as of now; reads only footers and Postgres."""
        planner, names = self._planner(), {asset.name for asset in self.selected}
        request, entries, waits = self._request(planner, self.selected), list[PlannedShard](), list[Wait]()
        for step in self.graph.steps:
            if not (members := self.members(step)):
                continue
            if self.graph.is_source_step(step):
                plan = planner.plan(members, self._source_request(planner))
                # The fetches planned here are observed downstream.
                shards = request.observe_shards | plan.request.observe_shards
                request = replace(request, observe_shards=shards)
            else:
                plan = self._ready(step, planner, members, request, before=entries, assumed=names)
            entries += plan.entries
            waits += plan.waits
        return Plan(tuple(entries), request, tuple(waits)), planner

    def plan(self, step: str) -> tuple[Plan, Planner]:
        """Plan one step.

        Users whose inputs are about to change are left out: the asset that changes them triggers this step again.
        """
        members = self.members(step)
        if not members:
            names = ", ".join(asset.name for asset in self.graph.steps[step])
            raise OptionsError(f"'{','.join(self.options.select)}' names no asset of {step}. It has: {names}")
        planner = self._planner()
        request = (
            self._source_request(planner) if self.graph.is_source_step(step) else self._request(planner, members)
        )
        return self._ready(step, planner, members, request), planner

    def estimate(self, plan: Plan, planner: Planner, assets: Iterable[Asset]) -> list[AssetEstimate]:
        """Estimate a plan by the throughput of past runs with the same scope."""
        throughput = self.runtime.run_log.throughput(self.now, self.options.scope)
        return estimate(plan, planner, assets, throughput, self.runtime.tip_writer.prices(self.now))

    def materialize_shard(self, step: str, shard: int, names: Collection[str]) -> Iterator[ShardResult]:
        """Materialize the named assets of one shard as far as they are still stale.

        Does nothing if an input became stale after the step was planned.
        """
        members, planner = [asset for asset in self.members(step) if asset.name in names], self._planner()
        is_source = self.graph.is_source_step(step)
        request = self._source_request(planner, shard) if is_source else self._request(planner, members, shard)
        yield from self.materialize(self._ready(step, planner, members, request))

    def materialize(self, plan: Plan, failures: list[ShardFailure] | None = None) -> Iterator[ShardResult]:
        """Materialize a plan in this process and yield the result of each shard as soon as it is done.

        failures: receives the shards that fail; without it the first error is raised after all other shards.
        """
        return materialize(
            plan,
            self.graph,
            self.runtime.shards,
            resources={**self.resources, EventStore: self._events},
            now=self.now,
            lock=self.runtime.lock,
            failures=failures,
        )

    def start(
        self, step: str, run_id: str, started_at: datetime, plan: Plan, estimates: Iterable[AssetEstimate]
    ) -> None:
        """Record the planned work of a run in the run log, and the shards in which the step began to wait."""
        planned = {line.work: line.n_units for line in estimates if line.work and line.n_units is not None}
        fetches = self.graph.is_source_step(step) and not self.options.is_restricted
        scope = self.options.scope if fetches else None
        self.runtime.run_log.start_step_run(StepRun(run_id, step, started_at, planned=planned, scope=scope))
        if not self.options.only_users:  # the run of one user does not know of the others
            shards = {entry.shard for entry in plan} | {wait.shard for wait in plan.waits}
            self.runtime.run_log.record_waits(step, shards, plan.stale_upstream, self.now)

    def finish(
        self,
        step: str,
        run_id: str,
        started_at: datetime,
        results: Iterable[ShardResult],
        *,
        is_complete: bool = True,
    ) -> list[AssetRun]:
        """Record a run in the run log and do the step's housekeeping; return a row for every asset of the step.

        The refused tokens of a fetch are judged here, at the instant of the runner: use the one of the shards.

        An asset counts as changed if its version differs from the last recorded one, so a change made by a run that
        failed later is reported by the next run. is_complete: whether all planned shards ran; otherwise, and after an
        outage of Todoist, the run is recorded as unfinished.
        """
        by_asset: dict[str, list[ShardResult]] = {asset.name: [] for asset in self.graph.steps[step]}
        for result in results:
            by_asset[result.asset].append(result)
        asset_runs = [
            self._asset_run(step, self.graph[name], run_id, started_at, shards) for name, shards in by_asset.items()
        ]
        for asset_run in asset_runs:
            self.runtime.run_log.write_asset_run(asset_run)
        step_run = self._step_run(step, run_id, started_at, by_asset, asset_runs)
        verdict = RefusalVerdict.of(run.counts for run in asset_runs)
        is_done = is_complete and not verdict.is_outage
        self.runtime.run_log.finish_step_run(step_run if is_done else replace(step_run, finished_at=None, saved={}))
        self._judge_refusals(verdict, is_complete=is_complete)
        self._housekeeping(step)
        return asset_runs

    def _judge_refusals(self, verdict: RefusalVerdict, *, is_complete: bool) -> None:
        """Disconnect accounts that were refused again, unless most of the run's were; `RefusalVerdict` raises then.

        A run that did not finish and saw few accounts proves nothing: its refusals have no consequences.
        """
        if verdict.is_outage:
            self.runtime.accounts.discard_refusals(self.now)
        elif verdict.n_refused and (is_complete or verdict.has_evidence):
            for user in self.runtime.accounts.confirm_refusals(self.now):
                log.warning(
                    "user %s: disconnected, Todoist refused the token on two days. See docs/operations.md", user
                )

    def unchanged_but_needed(self, step: str) -> set[str]:
        """Return the assets that must be published even if unchanged, because a step that they trigger is stale.

        After a failure or a change of model a downstream step has work to do that no changed asset would trigger.
        Steps that observe are triggered by every fetch, so only the step directly before them publishes for them.
        `finish` may calibrate the model: call this on a runner whose resources were loaded after it.
        """
        planner = self._planner()
        derived = [asset for asset in self.graph if not asset.is_source and not asset.on_demand]
        stale = {asset.name for asset in derived if planner.plan([asset])}
        return {
            asset.name
            for asset in self.graph.steps[step]
            if any(
                self._publishes_for(asset, self.graph[name]) for name in self.graph.descendants(asset.name) & stale
            )
        }

    def _publishes_for(self, asset: Asset, reader: Asset) -> bool:
        """Whether publishing an asset is how the step of a stale descendant gets triggered."""
        if asset.step == reader.step:
            return False
        is_nearest = asset.name in self.graph.triggers(reader.step) and not asset.is_source
        return is_nearest or not any(member.observes for member in self.graph.steps[reader.step])

    def _ready(
        self,
        step: str,
        planner: Planner,
        members: Sequence[Asset],
        request: Request,
        *,
        before: Collection[PlannedShard] = (),
        assumed: Iterable[str] = (),
    ) -> Plan:
        """Plan `members` of a step without the users who wait. before, assumed: see `Planner`."""
        plan = planner.plan(members, request, before)
        waits = planner.waits(members, plan, assumed)
        other = [wait for wait in waits if self.graph[wait.asset].step != step]
        overdue = self._overdue(step) if other else frozenset()
        ready = [wait for wait in waits if wait not in other or wait.shard not in overdue]
        plan = planner.without_waiting(plan, members, ready, before)
        return replace(plan, stale_upstream=frozenset(wait.shard for wait in other))

    def _overdue(self, step: str) -> frozenset[int]:
        """Return the shards in which a step no longer waits for earlier steps.

        Only a step that observes has such a bound: its rows must stay fresh, be it with the themes of before.
        """
        if not any(member.observes for member in self.graph.steps[step]):
            return frozenset()
        if not (bound := self.runtime.settings.themes_wait):
            return frozenset(range(self.runtime.shards.n_shards))
        waiting = self.runtime.run_log.waiting_since(step)
        return frozenset(shard for shard, since in waiting.items() if self.now - since >= bound)

    def _planner(self) -> Planner:
        return Planner(self.graph, self.runtime.shards, self.resources, self.now)

    def _build_request(self, users: Users, shard: int | None) -> Request:
        shards = self.options.only_shards if shard is None else (shard,)
        return build_request(
            self.runtime.shards.n_shards,
            users,
            only_shards=shards or None,
            only_users=self.options.only_users or None,
            force=self.options.force,
        )

    def _source_request(self, planner: Planner, shard: int | None = None) -> Request:
        """Return the request of a source step: users due for a fetch or with events, shards with removed users.

        A lost shard is fetched for all of its users, because its file would otherwise hold the due users only. Users
        with restored rows are fetched, too: their contexts would otherwise be published as of the last fetch.
        """
        self._check_options()
        due = {**self._with_events(shard), **self._due(self.options.scope, shard)}
        lost, restored = self._lost_shards(shard), self._restored_users(planner, shard)
        if lost or restored:
            everybody = self._due(FetchScope.ALL, shard)
            missing = {user for user in everybody if self._shards_of([user]) <= lost} | restored
            due = {**due, **{user: at for user, at in everybody.items() if user in missing}}
        request = self._build_request(due, shard)
        if request.only_users is not None and (refused := lost & request.observe_shards):
            raise OptionsError(
                f"shard {min(refused)} of the sources has no file yet: a run for single users would drop all other"
                f" users of the shard. Run the whole shard first: --shards {min(refused)}"
            )
        if request.only_shards is not None:
            return request
        return replace(
            request, observe_shards=request.observe_shards | self._shards_with_removed_users(planner, lost)
        )

    def _request(self, planner: Planner, assets: Sequence[Asset], shard: int | None = None) -> Request:
        """Return the request of derived assets: all users, observed where a fetch is newer than the stored row.

        Restored rows are older than the last fetch of their user, so they are not published as of that fetch. If
        an asset works on demand, tips are demanded for users who will probably ask for one before the next run.
        """
        self._check_options()
        fetched = self.runtime.accounts.observed(shard=shard, n_shards=self.runtime.shards.n_shards)
        restored = self._restored_users(planner, shard)
        request = self._build_request({user: at for user, at in fetched.items() if user not in restored}, shard)
        if any(asset.on_demand for asset in assets):
            request = replace(request, demanded=self._demanded(shard))
        if request.only_shards is not None:
            return request
        return replace(request, observe_shards=self._shards_of(self.runtime.accounts.observed_since_stored(self.now)))

    def _demanded(self, shard: int | None) -> Users:
        """Return the users for whom tips are to be written ahead, with the instant of their probable next request."""
        settings, n_shards = self.runtime.settings, self.runtime.shards.n_shards
        next_run = settings.next_run(self.now)
        demand = self.runtime.tip_writer.demand(self.now, next_run, shard=shard, n_shards=n_shards)
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

    def _lost_shards(self, shard: int | None) -> frozenset[int]:
        """Return the shards in which a source has no file."""
        shards = range(self.runtime.shards.n_shards) if shard is None else [shard]
        sources = [asset for asset in self.graph if asset.is_source]
        return frozenset(
            number for number in shards if not all(self.runtime.shards.exists(source, number) for source in sources)
        )

    def _restored_users(self, planner: Planner, shard: int | None) -> frozenset[str]:
        """Return the users whose stored rows are not those that their sync token continues, as after a restore."""
        n_shards = self.runtime.shards.n_shards
        saved = self.runtime.accounts.rows_digests(shard=shard, n_shards=n_shards)
        stored: dict[int, RowDigests] = {}
        for asset in (asset for asset in self.graph if "previous_digests" in asset.reserved):
            for number in range(n_shards) if shard is None else [shard]:
                if footer := planner.readable_footer(asset, number):
                    stored[number] = footer.row_digests
        shard_by_user = {user: shard_of(user, n_shards) for user in saved}
        return frozenset(
            user
            for user, number in shard_by_user.items()
            if number in stored and stored[number].get(user) != saved[user]
        )

    def _shards_with_removed_users(self, planner: Planner, lost: frozenset[int]) -> frozenset[int]:
        """Return the shards with rows of removed users in a source, or in any asset if a source is lost."""
        stored = {
            user
            for asset in self.graph
            if asset.is_source or lost
            for shard, footer in footers_of(planner, asset).items()
            if asset.is_source or shard in lost
            for user in footer.index.users
        }
        return self._shards_of(stored - self.runtime.accounts.existing(stored))

    def _shards_of(self, users: Iterable[str]) -> frozenset[int]:
        return frozenset(shard_of(user, self.runtime.shards.n_shards) for user in users)

    def _due(self, scope: FetchScope, shard: int | None) -> Users:
        settings, n_shards = self.runtime.settings, self.runtime.shards.n_shards
        next_run = settings.next_run(self.now)
        return self.runtime.accounts.due(
            self.now,
            next_run,
            scope=scope,
            sla=settings.freshness_sla,
            events=self.runtime.events.mode,
            shard=shard,
            n_shards=n_shards,
        )

    @property
    def _events(self) -> EventStore:
        """The store of events; in a run that fetches everybody, no event stands in for a call."""
        events = self.runtime.events
        return events.without_folding() if self.options.scope is FetchScope.ALL else events

    def _with_events(self, shard: int | None) -> Users:
        """Return the users whose events are to be folded."""
        return self._events.users_to_fold(self.now, shard=shard, n_shards=self.runtime.shards.n_shards)

    def _asset_run(
        self, step: str, asset: Asset, run_id: str, started_at: datetime, results: Iterable[ShardResult]
    ) -> AssetRun:
        footers = self.runtime.shards.readable_footers(asset)
        version = hash_of({str(footer.shard): footer.data_version for footer in footers})
        sums = total(results)
        return AssetRun(
            run_id=run_id,
            step=step,
            asset=asset.name,
            started_at=started_at,
            finished_at=datetime.now(UTC),
            n_shards=len(footers),
            n_shards_run=sums.pop("n_shards_run"),
            n_users=sum(footer.n_users for footer in footers),
            n_users_computed=sums.pop("n_users_computed"),
            n_rows=sum(footer.n_rows for footer in footers),
            data_version=version,
            changed=version != (self.runtime.run_log.latest_version(asset.name, before=run_id) or hash_of({})),
            counts=sums,
        )

    def _step_run(
        self,
        step: str,
        run_id: str,
        started_at: datetime,
        results: Mapping[str, Iterable[ShardResult]],
        asset_runs: Iterable[AssetRun],
    ) -> StepRun:
        runs = {run.asset: run for run in asset_runs}
        done: dict[str, float] = {}
        saved: dict[str, float] = {}
        seconds: dict[str, float] = {}
        for asset in self.graph.steps[step]:
            if asset.work is None:
                continue
            unit, shards, run = asset.work.name, list(results[asset.name]), runs[asset.name]
            done[unit] = sum(result.counts.get(unit, result.n_users_computed) for result in shards)
            saved[unit] = max(0, (run.n_users if asset.work.per == "user" else run.n_rows) - done[unit])
            seconds[unit] = round(sum(result.seconds for result in shards), 3)
        return StepRun(
            run_id,
            step,
            started_at,
            finished_at=datetime.now(UTC),
            n_users=max(run.n_users for run in runs.values()),
            done=done,
            saved=saved,
            seconds=seconds,
        )

    def _housekeeping(self, step: str) -> None:
        """Calibrate a new model, record the requests, clean up batches, delete expired vectors and contexts."""
        runtime, settings = self.runtime, self.runtime.settings
        names = {asset.name for asset in self.graph.steps[step]}
        if task_embeddings.name in names:
            is_provisional = not self._has_all_vectors()
            calibrate_model(
                runtime.shards, runtime.calibrations, runtime.embedder.version, is_provisional=is_provisional
            )
            runtime.vector_cache.expire(self._days_ago(settings.embedding_cache_days))
        if self.graph.is_source_step(step):
            runtime.run_log.add_request_days(self.now)
            runtime.events.judge(self.now)
            runtime.events.expire(self.now)
        if context_store.name in names:
            with runtime.lock(HISTORY, 0):  # no rows move to other shards meanwhile
                runtime.shards.check_layout()
                runtime.history.expire(self._days_ago(settings.context_history_days), runtime.accounts.existing)
        if tip_candidates.name in names:
            runtime.tip_writer.finish_batches()
        try:
            runs = runtime.run_log.step_runs_since(self.now - STEP_RUN_PERIOD)
            runtime.shards.write_table(STEP_RUNS, step_run_table(runs))
        except OSError as error:  # analysts read the previous table; the run itself is done
            log.warning("the Parquet table of step runs was not written: %s", error)

    def _has_all_vectors(self) -> bool:
        """Whether the shards of all active users have been fetched, and all their tasks have vectors."""
        if self._planner().plan([self.graph[task_embeddings.name]]):
            return False
        lost = self._lost_shards(None)
        return not lost or lost.isdisjoint(self._shards_of(self._due(FetchScope.ALL, None)))

    def _days_ago(self, n_days: int) -> date:
        return (self.now - timedelta(days=n_days)).date()


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def _numbers(text: str) -> Iterator[int]:
    for part in _names(text):
        low, _, high = part.partition("-")
        if not _is_number(low) or not _is_number(high or low) or not int(low) <= int(high or low) < MAX_SHARDS:
            raise OptionsError(f"'{part}' is neither a shard nor a range of shards. Write them as 0-3,7")
        yield from range(int(low), int(high or low) + 1)
