"""Steps as the tasks of their DAGs run them, without Airflow: plan, groups of shards and collect."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

from assets.definitions import GRAPH
from assets.engine.plan import Plan
from assets.estimate import AssetEstimate
from assets.groups import group_shards
from assets.runtime import Runtime
from assets.steps import StepRunner
from contexts.postgres.sql import connect
from contexts.settings import Settings
from contexts.todoist.credentials import CredentialCipher


@dataclass(frozen=True)
class Tasks:
    """Runs steps like the tasks of a DAG, each with a runtime of its own."""

    settings: Settings
    cipher: CredentialCipher
    database_url: str
    todoist_url: str
    runner_type: type[StepRunner] = StepRunner

    @contextmanager
    def runner(self, now: datetime) -> Iterator[StepRunner]:
        """A runner as a task opens it."""
        with connect(self.database_url) as connection:
            runtime = Runtime.connect(self.settings, self.cipher, connection, self.todoist_url, n_threads=1)
            yield self.runner_type(GRAPH, runtime, runtime.load_resources(), now)

    def plan(self, runner: StepRunner, step: str) -> tuple[Plan, list[AssetEstimate]]:
        """Plan and estimate a step as its task `plan` does: the fetch estimates the whole night."""
        runner = runner.with_footers()
        plan, planner = runner.plan(step)
        estimates = runner.estimate(plan, planner, GRAPH.steps[step])
        if GRAPH.is_source_step(step):
            runner.estimate(*runner.forecast(), GRAPH)
        return plan, estimates

    def run(self, step: str, now: datetime) -> None:
        """Run a step."""
        with self.runner(now) as runner:
            plan, estimates = self.plan(runner, step)
            runner.start(step, f"{step} {now}", now, plan, estimates)
        results = []
        for group in group_shards(plan, self.settings.task_slots):
            with self.runner(now) as runner:
                results += list(runner.materialize_shards(step, group.shards))
        with self.runner(now) as runner:
            runner = runner.with_footers()
            runner.finish(step, f"{step} {now}", now, results)
            replace(runner, resources=runner.runtime.load_resources()).unchanged_but_needed(step)
