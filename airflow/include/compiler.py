"""Compiles the DAGs from the asset graph: plan -> compute (one mapped task per group of shards) -> collect.

A step whose work is a single group ends with `plan`, which does it.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, AssetAlias, task
from airflow.sdk import Asset as AirflowAsset
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped
from airflow.utils.types import DagRunType

from assets.engine.asset import Asset
from assets.engine.graph import Graph
from contexts.settings import Settings
from contexts.themes.embed import Embedder
from include.alerts import failure_notifier, report_late
from include.parameters import parameters_of
from include.pods import embedding_executor_config
from include.policies import HonourRetryAfter

if TYPE_CHECKING:
    from include.step_tasks import Extras

OBSERVATIONS = {"fetch_signals": "signals_observed", "compute_context": "contexts_observed"}
"""The Airflow Asset that a step always publishes, by step: the step observed its data, changed or not."""

GROUP = "feature_to_prompt"

_OTHER_TASKS = 2
"""Number of tasks of a run that can be under way beside its groups."""


def compile_dags(graph: Graph, settings: Settings) -> dict[str, DAG]:
    """Return one DAG per step of the graph."""
    return {step: _dag(graph, step, settings) for step in graph.steps}


def schedule_of(graph: Graph, step: str, settings: Settings) -> Any:
    """Return the schedule of a step's DAG.

    It is a cron expression for the source step, None for the step that writes tips if there is no LLM, and the
    Airflow Assets that trigger any other step. A step that observes is triggered by every observation of the step
    before it, whether data changed or not: contexts that a midnight has changed are assembled, and tips are written
    for the users who will probably ask next.
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
    """Return the last of the steps before an observing one that publish their observations."""
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
        max_active_tasks=settings.task_slots + _OTHER_TASKS,
        tags=["feature-to-prompt"],
        description=" / ".join(member.name for member in members),
        doc_md="\n\n".join(f"**{member.name}**: {member.function.__doc__}" for member in members),
        default_args={
            "owner": "contexts",
            "retries": 2,
            "retry_delay": settings.retry_delay,
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
        inlets, workers = _inlets(graph, step), _workers(members, settings)
        collected = _work(step, members, is_source=is_source, inlets=inlets, workers=workers)
        if is_source:
            _check_refusals(collected)
    return dag


def _run_types(*, is_source: bool) -> list[Any]:
    """Return the allowed types of run: all but backfills, whose runs would fetch the present, not the past."""
    trigger = DagRunType.SCHEDULED if is_source else DagRunType.ASSET_TRIGGERED
    return [trigger, DagRunType.MANUAL, DagRunType.OPERATOR_TRIGGERED, DagRunType.ASSET_MATERIALIZATION]


def _workers(members: Iterable[Asset], settings: Settings) -> dict[str, Any]:
    """Return the task options for embedding workers, if the step embeds: queue, pool and pod of the settings."""
    if not any(Embedder in member.resources.values() for member in members):
        return {}
    options = {
        "queue": settings.embedding_queue,
        "pool": settings.embedding_pool,
        "executor_config": embedding_executor_config(settings),
    }
    return {name: value for name, value in options.items() if value}


def _work(
    step: str,
    members: Iterable[Asset],
    *,
    is_source: bool,
    inlets: list[AirflowAsset],
    workers: dict[str, Any],
) -> Any:
    """Add the tasks that run the step; return the output of `collect`. workers: options of the task for groups."""
    names = [member.name for member in members]
    # Aliases, because a task that succeeds always publishes an asset that is itself its outlet.
    outlets = [AssetAlias(name) for name in (*names, *filter(None, [OBSERVATIONS.get(step)]))]
    after_plan = ["compute", "every_shard", "collect", *(["refusals"] if is_source else [])]

    @task(
        task_id="plan",
        outlets=outlets,
        doc_md="Plans the shards to run from footers and Postgres, with reasons and an estimate. A single group is"
        " materialized here, and the step is done.",
    )
    def plan(outlet_events: Any = None) -> list[dict[str, Any]]:
        from include.step_tasks import plan_step

        planned = plan_step(step, is_source=is_source, has_own_workers=bool(workers))
        if isinstance(planned, list):
            return planned
        _publish(step, planned, outlet_events)
        raise DownstreamTasksSkipped(tasks=after_plan)  # type: ignore[no-untyped-call]

    @task(
        task_id="compute",
        inlets=inlets,
        **workers,
        map_index_template="{{ work['label'] }}",
        doc_md="Materializes a group of shards. A retry runs the shards that failed.",
    )
    def compute(work: dict[str, Any]) -> None:
        from include.step_tasks import compute_group

        compute_group(step, work, is_source=is_source)

    @task(
        task_id="collect",
        trigger_rule="all_done",
        outlets=outlets,
        doc_md=f"Records the run, and publishes {', '.join(names)} if they changed or a reader is stale.",
    )
    def collect(planned: list[Any] | None, outlet_events: Any = None) -> dict[str, Any]:
        from include.step_tasks import collect_step

        if planned is None:
            raise AirflowSkipException("there is no plan, so nothing ran")
        extras = collect_step(step, planned)
        _publish(step, extras, outlet_events)
        if is_source and not extras.is_outage:
            raise DownstreamTasksSkipped(tasks=["refusals"])  # type: ignore[no-untyped-call]
        return extras.by_asset

    planned = plan()
    computed = compute.expand(work=planned)
    # Successful shards are published even if others failed; this leaf then fails the run.
    computed >> EmptyOperator(task_id="every_shard", trigger_rule="none_failed", doc_md="Fails if a shard failed.")
    collected = collect(cast(Any, planned))
    computed >> collected
    return collected


def _publish(step: str, extras: Extras, outlet_events: Any) -> None:
    """Add the Airflow Asset events of a step to those that the running task sends when it succeeds."""
    for name in extras.published:
        outlet_events[AssetAlias(name)].add(_airflow_asset(name), extra=extras.by_asset[name])
    if step in OBSERVATIONS:
        name = OBSERVATIONS[step]
        outlet_events[AssetAlias(name)].add(_airflow_asset(name), extra=extras.by_asset)


def _check_refusals(collected: Any) -> None:
    """Add a leaf that fails the run if Todoist refused most accounts; everything else of the run is published."""

    @task(task_id="refusals", doc_md="Fails the run if Todoist refused the tokens of most accounts.")
    def check(extras: dict[str, dict[str, Any]]) -> None:
        from contexts.todoist.refusals import RefusalVerdict

        RefusalVerdict.of(extras.values()).raise_if_outage()

    check(collected)
