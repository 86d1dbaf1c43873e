"""The bodies of a step's tasks: plan, compute a group of shards, collect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from airflow.sdk import get_current_context

from assets.definitions import GRAPH
from assets.engine.errors import ShardFailure, error_of, failure_lines, raise_failures
from assets.groups import Group, GroupOutcome, group_shards, run_groups, worthwhile_groups
from assets.options import EVERYTHING, RunOptions
from assets.reports import estimate_note, estimate_table, shard_lines
from assets.steps import StepRunner
from contexts.postgres.run_log import AssetRun
from contexts.todoist.accounts import FetchScope
from contexts.todoist.refusals import RefusalVerdict
from include.alerts import notifier_problem
from include.notes import write_note
from include.parameters import PARAMS, parameters_of, read_parameters
from include.policies import TriedByPlan
from include.runtime import open_runtime

_OUTCOME = "outcome"
"""The key of a group's outcome, both of its XCom and in the state that a retry reads."""


@dataclass(frozen=True)
class Extras:
    """The extras of the Airflow Asset events of a run, by asset.

    published: the assets whose event is sent, because they changed or an asset that reads them is stale.
    """

    by_asset: dict[str, dict[str, Any]]
    published: tuple[str, ...]

    @property
    def is_outage(self) -> bool:
        """Whether Todoist refused the tokens of most accounts."""
        return RefusalVerdict.of(self.by_asset.values()).is_outage


def plan_step(step: str, *, is_source: bool, has_own_workers: bool) -> list[dict[str, Any]] | Extras:
    """Plan a step, and do its work at once if it is one group at most.

    Returns what to publish if the step is done. Otherwise returns the arguments `work` of `compute_group`, one for
    each group; they include those of a single group of which a shard failed here.
    has_own_workers: whether the tasks that compute have a queue, a pool or a pod of their own.
    """
    now, run = datetime.now(UTC), _dag_run()
    with _step_runner(now) as runner:
        runner.begin(step, run.run_id, run.start_date or now)
        runner = _with_scope(replace(runner.with_footers(), options=_options(is_source=is_source)))
        groups, tried, failures = _plan_groups(runner, step, is_source=is_source), None, list[ShardFailure]()
        if not groups or (len(groups) == 1 and not has_own_workers):
            tried, failures = run_groups(partial(runner.materialize_shards, step), groups, show=print)
            if not failures and not tried.is_outage:
                return _finish(runner, step, [tried])
            print(*failure_lines(failures), "The task `compute` goes on from here.", sep="\n")
    common = {
        "now": now.isoformat(),
        "scope": runner.options.scope,
        "tried": tried and tried.to_json(now.isoformat()),
        "failure": TriedByPlan.because_of(error_of(failures)).to_json() if failures else None,
    }
    return [
        {**common, "label": f"{number} of {len(groups)}: {group}", "shards": group.to_json()}
        for number, group in enumerate(groups, start=1)
    ]


def _with_scope(runner: StepRunner) -> StepRunner:
    run = _dag_run()
    return runner.scheduled(run.start_date or runner.now) if run.run_type == "scheduled" else runner


def _plan_groups(runner: StepRunner, step: str, *, is_source: bool) -> list[Group]:
    """Plan a step, show and record the plan, and return its groups."""
    run = _dag_run()
    step_plan, planner = runner.plan(step)
    members = runner.graph.steps[step]
    estimates = runner.estimate(step_plan, planner, members)
    runner.start(step, run.run_id, run.start_date or runner.now, step_plan, estimates)
    shown = runner.estimate(*runner.forecast(), runner.graph) if is_source else estimates
    for line in (*estimate_table(shown), *shard_lines(step_plan, planner, members)):
        print(line)
    if problem := notifier_problem(runner.runtime.settings):
        print(problem)
    groups = group_shards(step_plan, worthwhile_groups(estimates, runner.runtime.settings.task_slots))
    if groups:
        write_note(step, run.run_id, "\n\n".join(filter(None, [problem, estimate_note(shown)])))
    return groups


def compute_group(step: str, work: Mapping[str, Any], *, is_source: bool) -> None:
    """Materialize a group of shards, print the result of each, and raise the failures at the end.

    work: as `plan_step` returns it. The outcome is pushed to `collect_step` even if shards fail; the next try reads
    it, and runs the shards that are left. If a shard failed while `plan_step` ran the group, that was the first try,
    so this call only raises TriedByPlan, and the second try follows after the delay of a retry.
    """
    context: Any = get_current_context()
    planned_at, state = work["now"], context["task_state_store"]

    def keep(outcome: GroupOutcome) -> None:
        state.set(_OUTCOME, outcome.to_json(planned_at))

    before, tried = (GroupOutcome.from_json(each, planned_at) for each in (state.get(_OUTCOME), work["tried"]))
    if before is None and tried and work["failure"]:
        context["ti"].xcom_push(_OUTCOME, work["tried"])
        keep(tried)
        raise TriedByPlan.from_json(work["failure"])
    options = replace(_options(is_source=is_source), scope=FetchScope(work["scope"]))
    with _step_runner(datetime.fromisoformat(planned_at), options) as runner:
        groups = [Group.from_json(work["shards"])]
        materialize = partial(runner.materialize_shards, step)
        outcome, failures = run_groups(materialize, groups, before or tried or GroupOutcome(), keep, show=print)
    context["ti"].xcom_push(_OUTCOME, outcome.to_json(planned_at))
    if failures:
        keep(outcome)
    raise_failures(failures)


def collect_step(step: str, planned: list[dict[str, Any]]) -> Extras:
    """Record the run of a step, do its housekeeping, and return what to publish."""
    numbers = range(len(planned))
    pushed = get_current_context()["ti"].xcom_pull(task_ids="compute", key=_OUTCOME, map_indexes=numbers)
    read = [GroupOutcome.from_json(outcome, planned[0]["now"]) for outcome in pushed]
    outcomes = [outcome for outcome in read if outcome]
    now = datetime.fromisoformat(planned[0]["now"]) if planned else datetime.now(UTC)
    with _step_runner(now) as runner:
        is_complete = len(outcomes) == len(planned) and not any(outcome.failed for outcome in outcomes)
        return _finish(runner, step, outcomes, is_complete=is_complete)


def _finish(runner: StepRunner, step: str, outcomes: list[GroupOutcome], *, is_complete: bool = True) -> Extras:
    run, now = _dag_run(), datetime.now(UTC)
    runner = runner.with_footers()
    results = [result for outcome in outcomes for result in outcome.results]
    asset_runs = runner.finish(step, run.run_id, run.start_date or now, results, is_complete=is_complete)
    # `finish` may have calibrated the model, and its calibration is a resource.
    runner = replace(runner, resources=runner.runtime.load_resources(), now=now)
    needed = runner.unchanged_but_needed(step)
    return Extras(
        {asset_run.asset: _extra(asset_run, runner) for asset_run in asset_runs},
        tuple(each.asset for each in asset_runs if each.changed or each.asset in needed),
    )


def _extra(run: AssetRun, runner: StepRunner) -> dict[str, Any]:
    return {
        "data_version": run.data_version,
        "code_version": runner.graph[run.asset].code_version,
        "n_shards_run": run.n_shards_run,
        "n_users": run.n_users,
        "n_users_computed": run.n_users_computed,
        "n_rows": run.n_rows,
        **run.counts,
    }


@contextmanager
def _step_runner(now: datetime, options: RunOptions = EVERYTHING) -> Iterator[StepRunner]:
    """Open the runtime and yield a runner of the pipeline's graph."""
    with open_runtime() as runtime:
        yield StepRunner(GRAPH, runtime, runtime.load_resources(), now, options)


def _dag_run() -> Any:
    return get_current_context()["dag_run"]


def _options(*, is_source: bool) -> RunOptions:
    """Return the options that the parameters of the current run name; OptionsError if they are wrong.

    The scope of a scheduled run follows from the run log, see `StepRunner.scheduled`.
    """
    given = read_parameters(_dag_run().conf or {}, parameters_of(is_source=is_source))
    scope = FetchScope.ALL if given.get("full", True) else FetchScope.LIKELY
    return RunOptions.parse(scope, **{name: given[name] for name in PARAMS})
