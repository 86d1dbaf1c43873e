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
from assets.engine.asset import Asset
from assets.engine.errors import OptionsError, ShardFailure, WrongShardCount, raise_failures
from assets.engine.footers import Footers
from assets.engine.graph import Graph
from assets.engine.hashing import hash_of
from assets.engine.materialize import materialize
from assets.engine.plan import Plan, PlannedShard, Planner, Request, Wait, request_by_shard
from assets.engine.results import ShardResult, total
from assets.estimate import AssetEstimate, estimate, planned_units
from assets.options import EVERYTHING, RunOptions
from assets.requests import Requests
from assets.runtime import Runtime
from assets.step_runs import STEP_RUN_PERIOD, STEP_RUNS, step_run_table
from contexts.assembly.history import HISTORY
from contexts.postgres.run_log import AssetRun, StepRun
from contexts.todoist.accounts import FetchScope
from contexts.todoist.event_store import EventStore
from contexts.todoist.refusals import RefusalVerdict

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepRunner:
    """Runs the steps of a graph at one instant.

    resources: the resources of assets, by type (see `Runtime.load_resources`). now: aware, UTC. footers: those that
    all plans of the runner are made from; None if each plan reads them again, as between steps of one process.
    """

    graph: Graph
    runtime: Runtime
    resources: Mapping[type, object]
    now: datetime
    options: RunOptions = EVERYTHING
    footers: Footers | None = None

    @property
    def selected(self) -> tuple[Asset, ...]:
        """The assets that the options select, in the order in which they run."""
        return self.graph.select(self.options.select) if self.options.select else tuple(self.graph)

    @property
    def n_users_with_events(self) -> int:
        """The number of users whose events the source step would fold now."""
        return len(self._requests.with_events())

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
        request, entries, waits = (
            self._requests.of_derived(planner.footers, self.selected),
            list[PlannedShard](),
            list[Wait](),
        )
        for step in self.graph.steps:
            if not (members := self.members(step)):
                continue
            if self.graph.is_source_step(step):
                plan = planner.plan(members, self._requests.of_source(planner.footers))
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
        return self._ready(step, planner, members, self._request(step, planner, members)), planner

    def estimate(self, plan: Plan, planner: Planner, assets: Iterable[Asset]) -> list[AssetEstimate]:
        """Estimate a plan by the throughput of past runs with the same scope and a similar amount of work."""
        assets = tuple(assets)
        throughput = self.runtime.run_log.throughput(self.now, self.options.scope, planned_units(plan, assets))
        return estimate(plan, planner, assets, throughput, self.runtime.tip_writer.prices(self.now))

    def materialize_shards(
        self, step: str, work: Mapping[int, Collection[str]], failures: list[ShardFailure] | None = None
    ) -> Iterator[ShardResult]:
        """Materialize the named assets of some shards as far as they are still stale; yield the result of each.

        work: names of assets by shard. A shard that fails holds up no other one. failures: see `materialize`.
        """
        runner, failed = self.with_footers(self._read_by(step), work), list[ShardFailure]()
        requests = runner._requests_by_shard(step, list(work))
        for shard, names in work.items():
            try:
                plan = runner._plan_shard(step, names, requests[shard])
            except WrongShardCount:
                raise
            except Exception as error:
                failed += [ShardFailure(name, shard, error) for name in names]
            else:
                yield from runner.materialize(plan, failed)
        if failures is None:
            raise_failures(failed)
        else:
            failures += failed

    def _read_by(self, step: str) -> list[Asset]:
        """Return the assets whose footers a plan of a step reads."""
        names = {asset.name for asset in self.graph.steps[step]}
        names = names.union(*map(self.graph.ancestors, names))
        return [asset for asset in self.graph if asset.is_source or asset.name in names]

    def with_footers(self, assets: Iterable[Asset] = (), shards: Iterable[int] = ()) -> StepRunner:
        """Return a runner whose plans are all made from the footers as of now: each is read once.

        assets, shards: whose footers are read at once; others are read when they are needed.
        """
        footers = Footers(self.runtime.shards)
        footers.load(assets, shards)
        return replace(self, footers=footers)

    def _requests_by_shard(self, step: str, shards: Sequence[int]) -> dict[int, Request]:
        """Return the request of each of some shards: Postgres looks for the users of all of them at once."""
        if not shards:
            return {}
        request = self._request(step, self._planner(), self.members(step), shards)
        return request_by_shard(request, shards, self.runtime.shards.n_shards)

    def _plan_shard(self, step: str, names: Collection[str], request: Request) -> Plan:
        """Plan the named assets of one shard; empty if an input became stale after the step was planned."""
        members = [asset for asset in self.members(step) if asset.name in names]
        return self._ready(step, self._planner(), members, request)

    def _request(
        self, step: str, planner: Planner, members: Sequence[Asset], shards: Sequence[int] | None = None
    ) -> Request:
        if self.graph.is_source_step(step):
            return self._requests.of_source(planner.footers, shards)
        return self._requests.of_derived(planner.footers, members, shards)

    def materialize(self, plan: Plan, failures: list[ShardFailure] | None = None) -> Iterator[ShardResult]:
        """Materialize a plan in this process and yield the result of each shard as soon as it is done.

        failures: receives the shards that fail; without it the first error is raised after all other shards.
        """
        return materialize(
            plan,
            self.graph,
            self.runtime.shards,
            resources={**self.resources, EventStore: self._requests.events},
            now=self.now,
            lock=self.runtime.lock,
            failures=failures,
        )

    def begin(self, step: str, run_id: str, started_at: datetime) -> None:
        """Record in the run log that a run began, before its plan is made."""
        self.runtime.run_log.begin_step_run(run_id, step, started_at)

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
        footers = self.footers or Footers(self.runtime.shards)
        asset_runs = [
            self._asset_run(step, self.graph[name], run_id, started_at, footers, shards)
            for name, shards in by_asset.items()
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
        return Planner(self.graph, self.runtime.shards, self.resources, self.now, self.footers)

    @property
    def _requests(self) -> Requests:
        return Requests(self.graph, self.runtime, self.now, self.options)

    def _asset_run(
        self,
        step: str,
        asset: Asset,
        run_id: str,
        started_at: datetime,
        all_footers: Footers,
        results: Sequence[ShardResult],
    ) -> AssetRun:
        footers = all_footers.of_asset(asset)
        version, changed = self._version(asset, run_id, all_footers, results)
        sums = total(results)
        return AssetRun(
            run_id=run_id,
            step=step,
            asset=asset.name,
            started_at=started_at,
            finished_at=datetime.now(UTC),
            n_shards=len(footers),
            n_shards_run=sums.pop("n_shards_run"),
            n_users=sum(footer.n_users for footer in footers.values()),
            n_users_computed=sums.pop("n_users_computed"),
            n_rows=sum(footer.n_rows for footer in footers.values()),
            data_version=version,
            changed=changed,
            counts=sums,
        )

    def _version(
        self, asset: Asset, run_id: str, footers: Footers, results: Iterable[ShardResult]
    ) -> tuple[str, bool]:
        """Return an asset's version, and whether it differs from the last recorded one.

        While a file cannot be read the recorded version stays, and the results of the run tell whether it changed
        anything: an unreadable file is no change, and the first run after its repair compares with that version.
        """
        recorded = self.runtime.run_log.latest_version(asset.name, before=run_id) or hash_of({})
        if footers.has_unreadable(asset):
            return recorded, any(result.changed for result in results)
        read = footers.of_asset(asset)
        version = hash_of({str(shard): footer.data_version for shard, footer in read.items()})
        return version, version != recorded

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
        planner = self._planner()
        if planner.plan([self.graph[task_embeddings.name]]):
            return False
        requests = self._requests
        lost = requests.lost_shards(planner.footers)
        return not lost or lost.isdisjoint(requests.shards_of(requests.due(FetchScope.ALL)))

    def _days_ago(self, n_days: int) -> date:
        return (self.now - timedelta(days=n_days)).date()
