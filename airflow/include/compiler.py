"""The DAGs, compiled from the asset graph: plan -> compute (one mapped task a shard) -> collect -> publish."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Param, get_current_context, task
from airflow.sdk import Asset as AirflowAsset
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.exceptions import AirflowSkipException

from assets.asset import Asset
from assets.graph import Graph
from contexts.accounts import Look
from contexts.embed import Embedder
from contexts.settings import Settings
from include.policies import HonourRetryAfter, report_late

if TYPE_CHECKING:
    from assets.night import Order

FULL = {"full": Param(True, type="boolean", description="Fetch every active user, not only the likely ones.")}
PARAMS = {
    "select": Param("", type="string", description="Assets of this DAG, with commas; none: all."),
    "user": Param("", type="string", description="Compute these users only, with commas; none: everybody."),
    "shards": Param("", type="string", description="These shards only, as 0-3,7; none: all."),
    "force": Param(False, type="boolean", description="Compute also what is up to date."),
}
"""What a run that is started by hand may be told; each DAG does its own assets, and wakes what follows."""

SIGNALS_OBSERVED = "signals_observed"
GROUP = "feature_to_prompt"


def compile_dags(graph: Graph, settings: Settings) -> dict[str, DAG]:
    """One DAG per step of the graph."""
    return {step: _dag(graph, step, settings) for step in graph.steps}


def schedule_of(graph: Graph, step: str, settings: Settings) -> Any:
    """A cron for the sources; else any of the nearest assets that it reads.

    A step that observes (rows of the store stay fresh when nothing changed) is woken by every fetch, changed or not.
    """
    members = graph.steps[step]
    if any(member.is_source for member in members):
        return settings.materialize_schedule
    wakers = sorted(graph.wakers(step))
    if any(member.observes for member in members):
        wakers = [SIGNALS_OBSERVED, *(name for name in wakers if not graph[name].is_source)]
    return reduce(or_, [_airflow_asset(name) for name in wakers])


def _published(graph: Graph, step: str) -> list[str]:
    """The assets of a step that speak to others: those that the step itself does not read."""
    members = graph.steps[step]
    inside = {edge.asset for member in members for edge in member.inputs}
    return [member.name for member in members if member.name not in inside]


def _airflow_asset(name: str) -> AirflowAsset:
    return AirflowAsset(name=name, group=GROUP)


def _dag(graph: Graph, step: str, settings: Settings) -> DAG:
    members = graph.steps[step]
    is_source = any(member.is_source for member in members)
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
        params=PARAMS | (FULL if is_source else {}),
        deadline=DeadlineAlert(
            reference=DeadlineReference.DAGRUN_QUEUED_AT,
            interval=timedelta(minutes=settings.night_deadline_minutes),
            callback=SyncCallback(report_late, kwargs={"step": step, "minutes": settings.night_deadline_minutes}),
        ),
    ) as dag:
        collected = _work(step, settings, is_source=is_source, queue=_queue(members, settings))
        _publish(_published(graph, step), collected)
        if is_source:
            _announce(collected)
    return dag


def _queue(members: Iterable[Asset], settings: Settings) -> dict[str, Any]:
    """The option that sends a step that embeds to workers of its own, where the settings name their queue."""
    needs_model = any(Embedder in member.resources.values() for member in members)
    return {"queue": settings.embedding_queue} if needs_model and settings.embedding_queue else {}


def _work(step: str, settings: Settings, *, is_source: bool, queue: dict[str, Any]) -> Any:
    """The tasks that make the step's assets; gives what `collect` says of each. queue: of those that compute."""

    @task(task_id="plan", doc_md="Which shards run, why, and what that comes to; from footers and Postgres alone.")
    def plan() -> list[dict[str, Any]]:
        from assets.bill import brief, details, lines
        from assets.definitions import GRAPH
        from assets.night import Night
        from include.notes import write_note
        from include.resources import open_doors

        now, order, run = datetime.now(UTC), _order(settings), get_current_context()["dag_run"]
        with open_doors() as doors:
            night = Night(doors, now, order)
            found, planner = night.plan(step)
            bill = night.bill(found, planner, GRAPH.steps[step])
            night.open(step, run.run_id, run.start_date or now, bill)
            told = night.bill(*night.forecast(), GRAPH) if is_source else bill
        for line in (*lines(told), *details(found, planner, GRAPH.steps[step])):
            print(line)
        write_note(step, run.run_id, brief(told))
        common = {"now": now.isoformat(), "look": order.look}
        return [{**common, "shard": shard, "assets": names} for shard, names in found.shards.items()]

    @task(
        task_id="compute",
        **queue,
        map_index_template="shard {{ work['shard'] }}",
        doc_md="One shard of the assets.",
    )
    def compute(work: dict[str, Any]) -> list[dict[str, Any]]:
        from assets.night import Night
        from assets.records import to_plain
        from include.resources import open_doors

        order = replace(_order(settings), look=Look(work["look"]))
        with open_doors() as doors:
            night = Night(doors, datetime.fromisoformat(work["now"]), order)
            records = list(night.compute(step, work["shard"], work["assets"]))
        for record in records:
            print(record)
        return [to_plain(record) for record in records]

    @task(task_id="collect", trigger_rule="all_done", doc_md="Writes the ledger, and says what changed.")
    def collect(planned: list[Any] | None, computed: Iterable[Any] | None) -> dict[str, dict[str, Any]]:
        from assets.night import Night
        from assets.records import from_plain
        from include.resources import open_doors

        if planned is None:
            raise AirflowSkipException("there is no plan, so nothing was done")
        shards = list(computed or ())
        records = [from_plain(each) for shard in shards for each in shard or ()]
        is_whole = len(shards) == len(planned)
        run, now = get_current_context()["dag_run"], datetime.now(UTC)
        with open_doors() as doors:
            night = Night(doors, now)
            entries = night.close(step, run.run_id, run.start_date or now, records, is_whole=is_whole)
            behind = night.left_behind(step)
        return {
            entry.asset: {
                "speaks": entry.changed or entry.asset in behind,
                "extra": {
                    "data_version": entry.data_version,
                    "n_shards_run": entry.n_shards_run,
                    "n_users": entry.n_users,
                    "n_users_changed": entry.n_users_changed,
                    "n_rows": entry.n_rows,
                    **entry.counts,
                },
            }
            for entry in entries
        }

    planned = plan()
    computed = compute.expand(work=planned)
    # The shards that went well are published, and a leaf that needs all of them fails the run if one did not.
    computed >> EmptyOperator(task_id="every_shard", trigger_rule="none_failed", doc_md="Fails when a shard failed.")
    return collect(cast(Any, planned), cast(Any, computed))


def _publish(names: Iterable[str], collected: Any) -> None:
    """For each asset a task with the outlet, skipped when it has nothing to say: no event then.

    It speaks when it changed, and when whoever it wakes is behind, as after a failure.
    """
    for name in names:
        outlet = _airflow_asset(name)

        @task(task_id=f"publish_{name}", outlets=[outlet], doc_md=f"Wakes what reads {name}, if it changed.")
        def publish(said: dict[str, Any], *, outlet: AirflowAsset = outlet, outlet_events: Any = None) -> None:
            if not said[outlet.name]["speaks"]:
                raise AirflowSkipException(f"{outlet.name} did not change, and nobody is behind")
            outlet_events[outlet].extra = said[outlet.name]["extra"]

        publish(collected)


def _announce(collected: Any) -> None:
    """Signals were looked at, changed or not: what is unchanged is fresh again."""
    outlet = _airflow_asset(SIGNALS_OBSERVED)

    @task(task_id=f"publish_{SIGNALS_OBSERVED}", outlets=[outlet], doc_md="Says that signals were looked at.")
    def publish(said: dict[str, Any], *, outlet_events: Any = None) -> None:
        outlet_events[outlet].extra = {name: each["extra"] for name, each in said.items()}

    publish(collected)


def _order(settings: Settings) -> Order:
    """What the run is to do: a scheduled one fetches by its hour, any other does as its parameters say."""
    from assets.night import Order

    airflow_context = get_current_context()
    run, params = airflow_context["dag_run"], airflow_context["params"]
    if run.run_type == "scheduled":
        return Order(Look.NIGHT if settings.is_night(run.run_after) else Look.LIKELY)
    look = Look.EVERYBODY if params.get("full", True) else Look.LIKELY
    return Order.read(look, **{name: params[name] for name in PARAMS})
