"""Compiles the DAGs from the asset graph: plan -> compute (one mapped task per shard) -> collect -> publish."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, get_current_context, task
from airflow.sdk import Asset as AirflowAsset
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.exceptions import AirflowSkipException
from airflow.utils.types import DagRunType

from assets.engine.asset import Asset
from assets.engine.graph import Graph
from contexts.settings import Settings
from contexts.themes.embed import Embedder
from contexts.todoist.accounts import FetchScope
from include.alerts import failure_notifier, report_late
from include.parameters import PARAMS, parameters_of, read_parameters
from include.pods import embedding_executor_config
from include.policies import HonourRetryAfter

if TYPE_CHECKING:
    from assets.steps import RunOptions, StepRunner

OBSERVATIONS = {"fetch_signals": "signals_observed", "compute_context": "contexts_observed"}
"""The Airflow Asset that a step always publishes, by step: it observed its data, changed or not."""

GROUP = "feature_to_prompt"


def compile_dags(graph: Graph, settings: Settings) -> dict[str, DAG]:
    """Return one DAG per step of the graph."""
    return {step: _dag(graph, step, settings) for step in graph.steps}


def schedule_of(graph: Graph, step: str, settings: Settings) -> Any:
    """Return a cron expression for the source step, and the triggering Airflow Assets for any other step.

    Without an LLM the step that writes tips ahead has no schedule.

    A step that observes is triggered by every observation of the step before it, changed or not: unchanged rows of
    the store become fresh again, and tips are written for those who will ask next.
    """
    if graph.is_source_step(step):
        return settings.materialize_schedule
    if any(member.on_demand for member in graph.steps[step]) and settings.llm_model is None:
        return None
    triggers = sorted(graph.triggers(step))
    if any(member.observes for member in graph.steps[step]):
        observed = _observed_step(graph, step)
        others = [name for name in triggers if graph[name].step != observed]
        triggers = [OBSERVATIONS[observed], *others]
    return reduce(or_, [_airflow_asset(name) for name in triggers])


def _observed_step(graph: Graph, step: str) -> str:
    """Return the last step before an observing one whose observations are published."""
    ancestors = {graph[name].step for member in graph.steps[step] for name in graph.ancestors(member.name)}
    return [name for name in graph.steps if name in ancestors - {step} and name in OBSERVATIONS][-1]


def _inlets(graph: Graph, step: str) -> list[AirflowAsset]:
    """Return the assets of other steps that a step reads: Airflow's UI shows the step as their consumer."""
    members = graph.steps[step]
    names = {edge.asset for member in members for edge in member.inputs} - {member.name for member in members}
    return [_airflow_asset(name) for name in sorted(names)]


def _airflow_asset(name: str) -> AirflowAsset:
    return AirflowAsset(name=name, group=GROUP)


def _dag(graph: Graph, step: str, settings: Settings) -> DAG:
    members, is_source = graph.steps[step], graph.is_source_step(step)
    with DAG(
        dag_id=step,
        schedule=schedule_of(graph, step, settings),
        catchup=False,
        max_active_runs=1,
        tags=["feature-to-prompt"],
        description=" / ".join(member.name for member in members),
        doc_md="\n\n".join(f"**{member.name}**: {member.function.__doc__}" for member in members),
        default_args={
            "owner": "contexts",
            "retries": 2,
            "retry_delay": timedelta(minutes=1),
            "retry_policy": HonourRetryAfter(),
        },
        params=parameters_of(is_source=is_source),
        allowed_run_types=_run_types(is_source=is_source),
        deadline=DeadlineAlert(
            reference=DeadlineReference.DAGRUN_QUEUED_AT,
            interval=timedelta(minutes=settings.night_deadline_minutes),
            callback=SyncCallback(report_late, kwargs={"step": step, "minutes": settings.night_deadline_minutes}),
        ),
        on_failure_callback=failure_notifier(step, settings),
    ) as dag:
        options = {"inlets": _inlets(graph, step), **_queue(members, settings)}
        collected = _work(step, is_source=is_source, options=options)
        _publish([member.name for member in members], collected)
        if step in OBSERVATIONS:
            _publish_observation(OBSERVATIONS[step], collected)
        if is_source:
            _check_refusals(collected)
    return dag


def _run_types(*, is_source: bool) -> list[Any]:
    """Return the types of run that make sense.

    A backfill does not: each of its runs would fetch the present, not the past.
    """
    trigger = DagRunType.SCHEDULED if is_source else DagRunType.ASSET_TRIGGERED
    return [trigger, DagRunType.MANUAL, DagRunType.OPERATOR_TRIGGERED, DagRunType.ASSET_MATERIALIZATION]


def _queue(members: Iterable[Asset], settings: Settings) -> dict[str, Any]:
    """Return the task options for embedding workers, if the step embeds: the queue and the pod of the settings."""
    if not any(Embedder in member.resources.values() for member in members):
        return {}
    options = {"queue": settings.embedding_queue, "executor_config": embedding_executor_config(settings)}
    return {name: value for name, value in options.items() if value}


def _work(step: str, *, is_source: bool, options: dict[str, Any]) -> Any:
    """Add the tasks that run the step; return the output of `collect`. options: of the computing task."""

    @task(task_id="plan", doc_md="Plans the shards to run from footers and Postgres, with reasons and an estimate.")
    def plan() -> list[dict[str, Any]]:
        from assets.reports import estimate_note, estimate_table, shard_lines
        from include.notes import write_note

        run, now = get_current_context()["dag_run"], datetime.now(UTC)
        options = _options(is_source=is_source)
        with _step_runner(now, options) as runner:
            if run.run_type == "scheduled":
                runner = runner.scheduled(run.start_date or now)
            step_plan, planner = runner.plan(step)
            members = runner.graph.steps[step]
            estimates = runner.estimate(step_plan, planner, members)
            runner.start(step, run.run_id, run.start_date or now, step_plan, estimates)
            shown = runner.estimate(*runner.forecast(), runner.graph) if is_source else estimates
            for line in (*estimate_table(shown), *shard_lines(step_plan, planner, members)):
                print(line)
        write_note(step, run.run_id, estimate_note(shown))
        common = {"now": now.isoformat(), "scope": runner.options.scope}
        return [{**common, "shard": shard, "assets": names} for shard, names in step_plan.by_shard.items()]

    @task(
        task_id="compute",
        **options,
        map_index_template="shard {{ work['shard'] }}",
        doc_md="Materializes the planned assets of one shard.",
    )
    def compute(work: dict[str, Any]) -> list[dict[str, Any]]:
        options = replace(_options(is_source=is_source), scope=FetchScope(work["scope"]))
        with _step_runner(datetime.fromisoformat(work["now"]), options) as runner:
            results = list(runner.materialize_shard(step, work["shard"], work["assets"]))
        for result in results:
            print(result)
        return [result.to_json() for result in results]

    @task(task_id="collect", trigger_rule="all_done", doc_md="Records the run and decides which assets to publish.")
    def collect(planned: list[Any] | None, computed: Iterable[Any] | None) -> dict[str, dict[str, Any]]:
        from assets.engine.results import ShardResult

        if planned is None:
            raise AirflowSkipException("there is no plan, so nothing ran")
        shards = list(computed or ())
        results = [ShardResult.from_json(result) for shard in shards for result in shard or ()]
        is_complete = len(shards) == len(planned)
        run, now = get_current_context()["dag_run"], datetime.now(UTC)
        with _step_runner(datetime.fromisoformat(planned[0]["now"]) if planned else now) as runner:
            asset_runs = runner.finish(step, run.run_id, run.start_date or now, results, is_complete=is_complete)
            # `finish` may have calibrated the model, and its calibration is a resource.
            runner = replace(runner, resources=runner.runtime.load_resources(), now=now)
            needed = runner.unchanged_but_needed(step)
        return {
            asset_run.asset: {
                "should_publish": asset_run.changed or asset_run.asset in needed,
                "extra": {
                    "data_version": asset_run.data_version,
                    "code_version": runner.graph[asset_run.asset].code_version,
                    "n_shards_run": asset_run.n_shards_run,
                    "n_users": asset_run.n_users,
                    "n_users_computed": asset_run.n_users_computed,
                    "n_rows": asset_run.n_rows,
                    **asset_run.counts,
                },
            }
            for asset_run in asset_runs
        }

    planned = plan()
    computed = compute.expand(work=planned)
    # Successful shards are published even if others failed; this leaf then fails the run.
    computed >> EmptyOperator(task_id="every_shard", trigger_rule="none_failed", doc_md="Fails if a shard failed.")
    return collect(cast(Any, planned), cast(Any, computed))


def _publish(names: Iterable[str], collected: Any) -> None:
    """Add for each asset a task with the outlet, skipped (and so without an event) if there is nothing to publish.

    An asset is published if it changed, or if a step that it triggers is stale, as after a failure.
    """
    for name in names:
        outlet = _airflow_asset(name)

        @task(
            task_id=f"publish_{name}",
            outlets=[outlet],
            doc_md=f"Triggers the readers of {name} if it changed or one of them is stale.",
        )
        def publish(outcome: dict[str, Any], *, outlet: AirflowAsset = outlet, outlet_events: Any = None) -> None:
            if not outcome[outlet.name]["should_publish"]:
                raise AirflowSkipException(f"{outlet.name} did not change, and no downstream step is stale")
            outlet_events[outlet].extra = outcome[outlet.name]["extra"]

        publish(collected)


def _publish_observation(name: str, collected: Any) -> None:
    """Add a task that always publishes that data was observed: what depends on it may be due without a change."""
    outlet = _airflow_asset(name)

    @task(task_id=f"publish_{name}", outlets=[outlet], doc_md=f"Publishes {name}, whether or not anything changed.")
    def publish(outcome: dict[str, Any], *, outlet_events: Any = None) -> None:
        outlet_events[outlet].extra = {name: each["extra"] for name, each in outcome.items()}

    publish(collected)


def _check_refusals(collected: Any) -> None:
    """Add a leaf that fails the run if Todoist refused most accounts; everything else of the run is published."""

    @task(task_id="refusals", doc_md="Fails the run if Todoist refused the tokens of most accounts.")
    def check(outcome: dict[str, Any]) -> None:
        from contexts.todoist.refusals import RefusalVerdict

        RefusalVerdict.of(each["extra"] for each in outcome.values()).raise_if_outage()

    check(collected)


@contextmanager
def _step_runner(now: datetime, options: RunOptions | None = None) -> Iterator[StepRunner]:
    """Open the runtime and yield a runner of the pipeline's graph; imports are late to keep DAG parsing light."""
    from assets.definitions import GRAPH
    from assets.steps import RunOptions, StepRunner
    from include.runtime import open_runtime

    with open_runtime() as runtime:
        yield StepRunner(GRAPH, runtime, runtime.load_resources(), now, options or RunOptions())


def _options(*, is_source: bool) -> RunOptions:
    """Return the options that the parameters of the current run name; OptionsError if they are wrong.

    The scope of a scheduled run follows from the run log, see `StepRunner.scheduled`.
    """
    from assets.steps import RunOptions

    run: Any = get_current_context()["dag_run"]
    given = read_parameters(run.conf or {}, parameters_of(is_source=is_source))
    scope = FetchScope.ALL if given.get("full", True) else FetchScope.LIKELY
    return RunOptions.parse(scope, **{name: given[name] for name in PARAMS})
