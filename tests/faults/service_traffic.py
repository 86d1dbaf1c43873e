"""An hour of mixed traffic in less time: users, mistakes, attackers and outages, and a process that does not grow."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import Random

import orjson

from contexts.todoist.credentials import Credentials
from faults.load import Caller, Reply
from faults.row import Row, require
from faults.service import RunningService, ServiceTrial, service_trial
from local.llm import Behaviour
from local.todoist import Fault

_SECONDS = float(os.environ.get("TRAFFIC_SECONDS") or 60)
_RATE = 60.0
_N_PARTS = 10
_MAX_GROWTH_MIB, _MAX_GROWTH_FILES = 12.0, 8
_EXPECTED_STATUSES = {200, 401, 404, 409, 422, 503}
_REACTIONS = ("accepted", "done", "snoozed", "dismissed")
_AGE = "UPDATE context_store SET materialized_at = materialized_at - INTERVAL '7 hours' WHERE user_id = ANY(%s)"


@dataclass
class Traffic:
    """The traffic of one trial.

    statuses: the number of replies by status; 0 counts those without a response, as of clients that leave.
    """

    service: RunningService
    trial: ServiceTrial
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    decisions: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        token = self.service.service.token
        self.chance: Random = self.trial.chance
        self.caller = Caller(self.service.port, token)
        self.hasty = Caller(self.service.port, token, timeout_s=0.003)
        self.stranger = Caller(self.service.port, "a-wrong-token-of-somebody")
        self.mix: list[tuple[int, Callable[[], Awaitable[Reply]]]] = [
            (60, self.tip),
            (12, self.tip_of_cold_user),
            (10, self.reaction),
            (5, self.context),
            (4, lambda: self.stranger.tip(self.chance.choice(self.trial.ready))),
            (2, lambda: self.caller.tip("nobody")),
            (3, lambda: self.caller.request("POST", "/v1/decisions/nothing/reaction", b"{")),
            (4, lambda: self.hasty.tip(self.chance.choice(self.trial.ready))),
        ]

    async def tip(self) -> Reply:
        """Request a tip of a user with candidates."""
        reply = await self.caller.tip(self.chance.choice(self.trial.ready))
        self.latencies.append(reply.seconds)
        if reply.status == 200:
            self.decisions.append(reply.json["decision_id"])
        return reply

    async def tip_of_cold_user(self) -> Reply:
        """Request a tip that may need the LLM."""
        return await self.caller.tip(self.chance.choice(self.trial.cold))

    async def reaction(self) -> Reply:
        """React to a tip, perhaps for the second time."""
        decision = self.chance.choice(self.decisions or ["00000000-0000-0000-0000-000000000000"])
        body = orjson.dumps({"reaction": self.chance.choice(_REACTIONS)})
        return await self.caller.request("POST", f"/v1/decisions/{decision}/reaction", body)

    async def context(self) -> Reply:
        """Read a stored context."""
        return await self.caller.request("GET", f"/v1/users/{self.chance.choice(self.trial.ready)}/context")

    async def run(self, seconds: float) -> None:
        """Send requests at `_RATE` for `seconds`, and wait for the last reply."""
        weights, kinds = zip(*self.mix, strict=True)
        started, tasks = time.perf_counter(), []
        for number in range(int(_RATE * seconds)):
            await asyncio.sleep(max(0.0, started + number / _RATE - time.perf_counter()))
            [kind] = self.chance.choices(kinds, weights)
            tasks.append(asyncio.create_task(self._count(kind())))
        await asyncio.gather(*tasks)
        for caller in (self.caller, self.hasty, self.stranger):
            await caller.close()

    def figures(self) -> list[str]:
        """The number of replies by status, and the latency of tips of users with candidates."""
        seconds = sorted(self.latencies)
        p50, p99 = (1e3 * seconds[int(share * len(seconds))] for share in (0.5, 0.99))
        return [
            f"{self.statuses.total():,} requests in {_SECONDS:.0f} s: {dict(sorted(self.statuses.items()))}",
            f"tips of users with candidates p50 {p50:,.1f} ms and p99 {p99:,.0f} ms",
        ]

    async def _count(self, request: Awaitable[Reply]) -> None:
        self.statuses[(await request).status] += 1


def disturb(trial: ServiceTrial, number: int) -> None:
    """Let one thing go wrong for the part of the traffic with this number; the next part begins with the remedy."""
    trial.proxy.heal()
    trial.todoist.fail_at_rate(0)
    trial.llm.behaviour = Behaviour.GOOD
    some = trial.chance.sample(trial.ready, 20)
    trial.connection.execute(_AGE, [some])
    match number % 5:
        case 1:
            trial.todoist.fail_at_rate(0.5, Fault.server_error(503))
        case 2:
            trial.llm.behaviour = trial.chance.choice([Behaviour.GARBAGE, Behaviour.SERVER_ERROR, Behaviour.LINKS])
        case 3:
            trial.proxy.cut()
        case 4:
            for user in some[:5]:
                timezone, token = "UTC", f"token-of-{user}"
                trial.accounts.add(
                    user, email=f"{user}@example.org", timezone=timezone, credentials=Credentials(token)
                )


def mixed_traffic(trial: ServiceTrial) -> str:
    """Send traffic part by part, and compare the process after the first parts and after the last ones."""
    service = trial.start()
    traffic, memory, files, connections = Traffic(service, trial), list[float](), list[int](), list[int]()
    for number in range(_N_PARTS):
        disturb(trial, number)
        asyncio.run(traffic.run(_SECONDS / _N_PARTS))
        memory.append(service.memory_mib())
        files.append(service.n_open_files())
        connections.append(trial.proxy.n_connections)
    unexpected = {status: n for status, n in traffic.statuses.items() if status not in {0, *_EXPECTED_STATUSES}}
    require(not unexpected, f"unexpected statuses: {unexpected}")
    early, late = max(memory[2:5]), max(memory[-3:])
    require(late - early < _MAX_GROWTH_MIB, f"memory grew: {[round(each) for each in memory]} MiB")
    require(max(files[-3:]) - max(files[:4]) <= _MAX_GROWTH_FILES, f"open files grew: {files}")
    require(max(connections[-3:]) <= max(connections[:4]) + 1, f"connections to Postgres grew: {connections}")
    return ", ".join(
        [
            *traffic.figures(),
            f"memory {memory[0]:.0f} at first, then {early:.0f} -> {late:.0f} MiB",
            f"open files {max(files[:4])} -> {max(files[-3:])}",
            f"connections to Postgres {max(connections[:4])} -> {max(connections[-3:])}",
        ]
    )


ROWS = (
    Row(
        "an hour of mixed traffic, made shorter (TRAFFIC_SECONDS=n)",
        "service: traffic",
        "memory, open files and connections do not grow, and no error is unexpected",
        mixed_traffic,
        open=service_trial,
    ),
)
