"""Faults of the service under load: overload, clients that leave, a Postgres that is slow, silent, cut, read-only."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from faults.load import Caller, Load
from faults.row import Row, require
from faults.service import RunningService, ServiceTrial, service_trial, wait_until

CAPACITY = 50.0
"""Decisions a second of a Postgres that is slowed down."""

_SECONDS = 8.0
_BUDGET_S = 8.0
_LATE_MS = 500.0
"""Milliseconds within which most refusals are sent while nothing works."""

_WELL_S = 5.0
_AGE = "UPDATE context_store SET materialized_at = materialized_at - INTERVAL '7 hours' WHERE user_id = ANY(%s)"


@dataclass(frozen=True)
class Loads:
    """A load with the time of its decisions. late_s: seconds from its last request to its last reply."""

    load: Load
    trial: ServiceTrial
    began_at: datetime
    ended_at: datetime
    late_s: float

    @classmethod
    def sent(cls, trial: ServiceTrial, send: Callable[[], Load]) -> Loads:
        """Send a load."""
        began_at, started = datetime.now(UTC), time.perf_counter()
        load = send()
        late_s = time.perf_counter() - started - load.seconds
        return cls(load, trial, began_at, datetime.now(UTC), late_s)

    def check_log(self, decision_ids: set[str] | None = None) -> None:
        """Every answered decision is logged as delivered, and every other one of the load is marked before long."""
        answered = list(self.load.decision_ids if decision_ids is None else decision_ids)
        delivered = "SELECT count(*) FROM decisions WHERE delivered AND decision_id = ANY(%s::UUID[])"
        n_missing = len(answered) - self.trial.one(delivered, answered)
        require(n_missing == 0, f"{n_missing} of {len(answered)} answered decisions are not logged as delivered")
        unanswered = (
            "SELECT count(*) FROM decisions WHERE delivered AND decided_at BETWEEN %s AND %s"
            " AND NOT decision_id = ANY(%s::UUID[])"
        )
        wait_until(
            lambda: self.trial.one(unanswered, self.began_at, self.ended_at, answered) == 0,
            "decisions that reached no client are logged as delivered",
        )

    def figures(self, service: RunningService, before_mib: float, well_s: float) -> str:
        """The load, the recovery and the memory in a sentence."""
        n_logged, n_marked = self.trial.rows(
            "SELECT count(*), count(*) FILTER (WHERE NOT delivered) FROM decisions"
            " WHERE decided_at BETWEEN %s AND %s",
            self.began_at,
            self.ended_at,
        )[0]
        return (
            f"{self.load.figures()}; {n_logged:,} decisions logged, {n_marked:,} of them undelivered;"
            f" well {well_s:.1f} s after; memory {before_mib:.0f} -> {service.memory_mib():.0f} MiB"
        )


def light_load(trial: ServiceTrial) -> str:
    """Offer a load that the service holds."""
    service = trial.start()
    before = service.memory_mib()
    load = service.offer(trial.ready, rate=50, seconds=3)
    require(load.statuses == {200: 150}, f"not all were answered: {load.statuses}")
    n_logged = trial.one("SELECT count(*) FROM decisions")
    require(n_logged == 150, f"{n_logged} decisions were logged")
    return f"{load.figures()}; memory {before:.0f} -> {service.memory_mib():.0f} MiB"


def overload(factor: int) -> Callable[[ServiceTrial], str]:
    """A trial of `factor` times the load that a slow Postgres holds."""

    def run(trial: ServiceTrial) -> str:
        service = trial.start()
        service.offer(trial.ready, rate=50, seconds=1)
        trial.slow_decisions(1 / CAPACITY)
        before = service.memory_mib()
        sent = Loads.sent(trial, lambda: service.offer(trial.ready, rate=factor * CAPACITY, seconds=_SECONDS))
        well_s = sent.late_s + service.seconds_until_well(trial.ready)
        load = sent.load
        _check_refusals(load)
        n_answered = len(load.of(200))
        require(
            n_answered > 0.6 * CAPACITY * load.seconds,
            f"only {n_answered} of {CAPACITY * load.seconds:.0f} possible answers: {load.figures()}",
        )
        require(well_s < _WELL_S, f"well only {well_s:.1f} s after the load")
        sent.check_log()
        return sent.figures(service, before, well_s)

    return run


def many_need_the_llm(trial: ServiceTrial) -> str:
    """Let a thousand users need new tips at once, from an LLM that takes a second."""
    trial.llm.seconds = 1.0
    service = trial.start(max_requests=2000, max_connections=2000)
    before = service.memory_mib()
    sent = Loads.sent(trial, lambda: service.together(trial.cold))
    load = sent.load
    _check_budget(service)
    n_answered, kinds = len(load.of(200)), [reply.json["llm"] for reply in load.of(200)]
    require(set(load.statuses) <= {200, 503}, f"unexpected statuses: {load.statuses}")
    require(kinds.count("called") >= 1, "the LLM wrote for nobody")
    require(n_answered >= 32, f"only {n_answered} were answered")
    well_s = service.seconds_until_well(trial.ready)
    sent.check_log()
    written = f"{kinds.count('called')} by the LLM, {kinds.count('fallback')} by rules"
    return f"{written}; {sent.figures(service, before, well_s)}"


def many_are_stale(trial: ServiceTrial) -> str:
    """Let five hundred contexts be too old at once, while Todoist takes a second for each."""
    trial.connection.execute(_AGE, [trial.cold[:500]])
    service = trial.start()
    before = service.memory_mib()
    sent = Loads.sent(trial, lambda: service.offer(trial.cold[:500], rate=100, seconds=5))
    load = sent.load
    _check_budget(service)
    require(set(load.statuses) <= {200, 503}, f"unexpected statuses: {load.statuses}")
    well_s = service.seconds_until_well(trial.ready)
    require(well_s < _WELL_S, f"well only {well_s:.1f} s after the load")
    sent.check_log()
    return sent.figures(service, before, well_s)


def slow_statements(trial: ServiceTrial) -> str:
    """Let every statement wait for 300 ms before it reaches Postgres."""
    service = trial.start()
    trial.proxy.delay_s = 0.3
    before = service.memory_mib()
    sent = Loads.sent(trial, lambda: service.offer(trial.ready, rate=100, seconds=_SECONDS))
    load = sent.load
    _check_budget(service)
    n_answered = len(load.of(200))
    require(n_answered > 0.5 * len(load.replies), f"only {n_answered} were answered: {load.figures()}")
    trial.proxy.heal()
    well_s = service.seconds_until_well(trial.ready)
    require(well_s < _WELL_S, f"well only {well_s:.1f} s after")
    sent.check_log()
    return sent.figures(service, before, well_s)


def silent_postgres(trial: ServiceTrial) -> str:
    """Let Postgres say nothing while requests go on, and then go on itself."""
    service = trial.start(request_budget=4)
    service.offer(trial.ready, rate=50, seconds=1)
    before = service.memory_mib()
    trial.proxy.is_silent = True
    sent = Loads.sent(trial, lambda: service.offer(trial.ready, rate=100, seconds=_SECONDS))
    load = sent.load
    trial.proxy.heal()
    well_s = service.seconds_until_well(trial.ready)
    require(load.statuses == {503: len(load.replies)}, f"answered without Postgres: {load.statuses}")
    require(
        load.quantile_ms(1.0, 503) < 1e3 * (4 + 1.5), f"the last refusal took {load.quantile_ms(1.0, 503):.0f} ms"
    )
    require(load.quantile_ms(0.5, 503) < _LATE_MS, f"half of the refusals took {load.quantile_ms(0.5, 503):.0f} ms")
    require(well_s < _WELL_S, f"well only {well_s:.1f} s after Postgres")
    sent.check_log()
    return sent.figures(service, before, well_s)


def cut_connections(trial: ServiceTrial) -> str:
    """Break all connections to Postgres every second while requests go on."""
    service = trial.start()
    caller = Caller(service.port, service.service.token)
    before = service.memory_mib()

    async def requests() -> Load:
        load, started = Load(), time.perf_counter()
        for number in range(int(100 * _SECONDS)):
            await asyncio.sleep(max(0.0, started + number / 100 - time.perf_counter()))
            if number % 100 == 50:
                trial.proxy.cut()
            load.replies.append(await caller.tip(trial.ready[number % len(trial.ready)]))
        load.seconds = time.perf_counter() - started
        await caller.close()
        return load

    sent = Loads.sent(trial, lambda: asyncio.run(requests()))
    load = sent.load
    require(set(load.statuses) <= {200, 503}, f"unexpected statuses: {load.statuses}")
    n_failed = len(load.of(503))
    require(n_failed <= 2 * _SECONDS, f"{n_failed} requests failed for {_SECONDS:.0f} cuts")
    well_s = service.seconds_until_well(trial.ready)
    require(well_s < _WELL_S, f"well only {well_s:.1f} s after")
    sent.check_log()
    return sent.figures(service, before, well_s)


def read_only_postgres(trial: ServiceTrial) -> str:
    """Let Postgres refuse writes for some seconds, as a primary does that was replaced by another server."""
    service = trial.start()
    service.offer(trial.ready, rate=50, seconds=1)
    before = service.memory_mib()
    try:
        _set_read_only(trial, True)
        sent = Loads.sent(trial, lambda: service.offer(trial.ready, rate=50, seconds=3))
    finally:
        _set_read_only(trial, False)
    well_s = service.seconds_until_well(trial.ready)
    load = sent.load
    late = load.replies[len(load.replies) // 2 :]
    require({reply.status for reply in late} == {503}, f"answered without a log: {load.statuses}")
    require(well_s < _WELL_S, f"well only {well_s:.1f} s after")
    sent.check_log()
    return sent.figures(service, before, well_s)


def clients_leave(trial: ServiceTrial) -> str:
    """Let half of the clients leave: before, while and after their decision is written by a slow Postgres."""
    service = trial.start()
    trial.slow_decisions(1 / CAPACITY)
    token = service.service.token
    hasty = [Caller(service.port, token, timeout_s=seconds) for seconds in (0.005, 0.02, 0.05, 0.1, 0.3)]
    patient = Caller(service.port, token)

    async def requests() -> tuple[Load, Load]:
        stay, leave, tasks, started = Load(), Load(), [], time.perf_counter()

        async def send(caller: Caller, load: Load, user: str) -> None:
            load.replies.append(await caller.tip(user))

        for number in range(400):
            await asyncio.sleep(max(0.0, started + number / (2 * CAPACITY) - time.perf_counter()))
            caller, load = (patient, stay) if number % 2 else (hasty[number // 2 % len(hasty)], leave)
            tasks.append(asyncio.create_task(send(caller, load, trial.ready[number % len(trial.ready)])))
        await asyncio.gather(*tasks)
        stay.seconds = leave.seconds = time.perf_counter() - started
        for caller in (patient, *hasty):
            await caller.close()
        return stay, leave

    leave = Load()

    def send_all() -> Load:
        stay, left = asyncio.run(requests())
        leave.replies += left.replies
        return stay

    before = service.memory_mib()
    sent = Loads.sent(trial, send_all)
    stay, well_s = sent.load, service.seconds_until_well(trial.ready)
    n_left = len(leave.of(0))
    require(n_left >= 50, f"only {n_left} clients left")
    require(len(stay.of(200)) > 0.5 * len(stay.replies), f"clients that stayed: {stay.statuses}")
    sent.check_log(stay.decision_ids | leave.decision_ids)
    return f"{n_left} clients left; the others: {sent.figures(service, before, well_s)}"


def one_bad_decision(trial: ServiceTrial) -> str:
    """Let Postgres refuse the decisions of one user among many that are written together."""
    service = trial.start()
    trial.slow_decisions(1 / CAPACITY)
    trial.connection.execute(
        "CREATE OR REPLACE FUNCTION be_slow() RETURNS TRIGGER LANGUAGE plpgsql AS $$ BEGIN"
        f" IF new.user_id = '{trial.ready[7]}' THEN RAISE numeric_value_out_of_range; END IF;"
        f" PERFORM pg_sleep({0.1 / CAPACITY}); RETURN new; END $$"
    )
    before = service.memory_mib()
    sent = Loads.sent(trial, lambda: service.together(trial.ready[:40]))
    load = sent.load
    n_answered = len(load.of(200))
    require(n_answered == 39, f"{n_answered} of 39 good decisions were answered: {load.statuses}")
    sent.check_log()
    return sent.figures(service, before, 0.0)


def _set_read_only(trial: ServiceTrial, is_on: bool) -> None:
    """Let all sessions of the server be read-only, or not."""
    trial.connection.execute("SET default_transaction_read_only = off")
    trial.connection.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if is_on else 'off'}".encode())
    trial.connection.execute("SELECT pg_reload_conf()")


def _check_refusals(load: Load) -> None:
    """Refusals say when to come back, and most come long before an answer would: the machine may be busy."""
    refused = load.of(503)
    require(set(load.statuses) <= {200, 503}, f"unexpected statuses: {load.statuses}")
    silent = [reply for reply in refused if "retry-after" not in reply.headers]
    require(not silent, f"{len(silent)} refusals without Retry-After")
    refused_ms, answered_ms = load.quantile_ms(0.5, 503), load.quantile_ms(0.5)
    require(refused_ms < answered_ms / 2, f"refused in {refused_ms:.0f} ms, answered in {answered_ms:.0f} ms")


def _check_budget(service: RunningService) -> None:
    """No response was later than the budget, by the service's log: the process of the clients may be busier."""
    slowest_ms = max(float(milliseconds) for milliseconds in re.findall(r" ms=([\d.]+)", service.log()))
    require(slowest_ms < 1e3 * (_BUDGET_S + 1), f"a response took {slowest_ms:.0f} ms")


ROWS = (
    Row("50 requests a second", "service: load", "all are answered", light_load, open=service_trial, n_quick=1),
    Row(
        "twice the load that a slow Postgres holds",
        "service: load",
        "the capacity is answered, the rest refused at once; no decision that nobody got counts",
        overload(2),
        open=service_trial,
    ),
    Row(
        "ten times the load that a slow Postgres holds",
        "service: load",
        "the capacity is answered, the rest refused at once; well within 5 s",
        overload(10),
        open=service_trial,
    ),
    Row(
        "1,000 users need an LLM that takes a second, at once",
        "service: load",
        "no response after the budget",
        many_need_the_llm,
        open=service_trial,
    ),
    Row(
        "500 contexts are too old at once",
        "service: load",
        "no response after the budget; well within 5 s",
        many_are_stale,
        open=service_trial,
    ),
    Row(
        "every statement takes 300 ms longer",
        "service: load",
        "requests are answered together, within the budget",
        slow_statements,
        open=service_trial,
    ),
    Row(
        "Postgres is silent for 8 s",
        "service: load",
        "most requests are refused at once, none after the budget; well within 5 s",
        silent_postgres,
        open=service_trial,
    ),
    Row(
        "connections to Postgres break every second",
        "service: load",
        "one request fails for each at most, and no answer is lost",
        cut_connections,
        open=service_trial,
    ),
    Row(
        "Postgres becomes read-only for 3 s",
        "service: load",
        "no tip without a logged decision; well within 5 s",
        read_only_postgres,
        open=service_trial,
    ),
    Row(
        "half of the clients leave",
        "service: load",
        "their decisions are not made, or are marked as undelivered; the others get their tips",
        clients_leave,
        open=service_trial,
    ),
    Row(
        "one decision of a batch is refused by Postgres",
        "service: load",
        "all others of the batch are answered",
        one_bad_decision,
        open=service_trial,
    ),
)
