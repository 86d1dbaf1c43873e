"""Faults of accounts at the service: replaced, refused and unserved ones, and neighbours that hang or are huge."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from contexts.todoist.credentials import Credentials
from faults.load import Reply
from faults.row import Row, require
from faults.service import RunningService, ServiceTrial, service_trial, wait_until
from local.server import running_server
from local.todoist import Fault

_AGE = "UPDATE context_store SET materialized_at = materialized_at - %s::INTERVAL WHERE user_id = ANY(%s)"
_NEW = "Pack the tent"
_MIB = 2**20
_numbers = itertools.count()


def replaced_without_todoist(trial: ServiceTrial) -> str:
    """Replace an account whose new one hangs, behind two services that know the former one."""
    services, user = [trial.start(todoist_timeout=1), trial.start(todoist_timeout=1)], trial.ready[0]
    former = _texts(services[0], user)
    _replace(trial, user, *[Fault.slow(delay_s=60)] * 20)  # the services look for new accounts, too
    replies = [service.tip(user) for service in services]
    _require_sources(replies, "none")
    _require_without(former, replies)
    require(services[0].request("GET", f"/v1/users/{user}/context").status == 404, "the former context is shown")
    require(_texts(services[0], trial.ready[1]), "another user has no context")
    return f"2 services, {_milliseconds(replies)}"


def replaced_during_a_fetch(trial: ServiceTrial) -> str:
    """Replace an account while the former one answers a request."""
    service, user = trial.start(), trial.ready[0]
    former = _texts(service, user)
    trial.rows(_AGE + " RETURNING user_id", "7 hours", [user])
    trial.todoist.fail(user, Fault.slow(delay_s=1))
    n_calls = len(trial.todoist.calls)
    with service.connect() as client:
        head = (
            f"POST /v1/users/{user}/tip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.service.token}\r\n\r\n"
        )
        client.sendall(head.encode())
        wait_until(lambda: len(trial.todoist.calls) > n_calls, "the former account was not fetched")
        _replace(trial, user)
        reply = service.tip(user)
        client.recv(2**16)
    _require_sources([reply], "inline", "stored")  # stored, if the service has noticed the new account
    _require_without(former, [reply])
    require(_NEW in str(_texts(service, user)), "the context is not that of the new account")
    return _milliseconds([reply])


def replaced_during_a_cooldown(trial: ServiceTrial) -> str:
    """Replace an account that Todoist refuses."""
    service, user = trial.start(), trial.ready[0]
    trial.rows(_AGE + " RETURNING user_id", "7 hours", [user])
    trial.todoist.fail(user, *[Fault.invalid_token()] * 3)
    refused = [service.tip(user) for _ in range(3)]
    _require_sources(refused, "none")
    _replace(trial, user)
    reply = service.tip(user)
    _require_sources([reply], "inline", "stored")
    return f"refused {_milliseconds(refused)}; then {_milliseconds([reply])}"


def unserved(statement: str) -> Any:
    """Return a trial of users who are not served from some moment on."""

    def run(trial: ServiceTrial) -> str:
        service, users = trial.start(), trial.cold[:20]
        former = [text for user in users[:3] for text in _texts(service, user)]
        n_llm = len(trial.llm.calls)
        trial.rows(statement + " RETURNING user_id", users)
        load = service.together(users)
        _require_sources(load.replies, "none")
        _require_without(former, load.replies)
        statuses = {service.request("GET", f"/v1/users/{user}/context").status for user in users}
        require(statuses == {404}, f"contexts are shown: {statuses}")
        require(len(trial.llm.calls) == n_llm, "their texts were sent to the LLM")
        _require_sources([service.tip(trial.ready[0])], "stored")
        return f"{load.figures()}; no call of the LLM"

    return run


def revoked(trial: ServiceTrial) -> str:
    """Let users with stale contexts revoke the access."""
    service, users = trial.start(), trial.cold[:20]
    trial.rows(_AGE + " RETURNING user_id", "7 hours", [*users, *trial.ready[:20]])
    for user in users:
        trial.todoist.fail(user, *[Fault.invalid_token()] * 3)
    n_llm = len(trial.llm.calls)
    load = service.together(users)
    _require_sources(load.replies, "none")
    require(len(trial.llm.calls) == n_llm, "their texts were sent to the LLM")
    others = service.together(trial.ready[:20])
    _require_sources(others.replies, "inline")
    return f"{load.figures()}; others: {others.figures()}"


def too_old(trial: ServiceTrial) -> str:
    """Let contexts be eight days old while Todoist is silent, and others seven hours."""
    service, users = trial.start(todoist_timeout=1), trial.ready[:10]
    trial.rows(_AGE + " RETURNING user_id", "8 days", users[:5])
    trial.rows(_AGE + " RETURNING user_id", "7 hours", users[5:])
    trial.todoist.fail_at_rate(1, Fault.slow(delay_s=60))
    old, stale = service.together(users[:5]), service.together(users[5:])
    _require_sources(old.replies, "none")
    _require_sources(stale.replies, "stale")
    return f"8 days: {old.figures()}; 7 hours: {stale.figures()}"


def one_hangs(trial: ServiceTrial) -> str:
    """Ask for one user, whose account hangs, twenty times, and for others after that."""
    service, user = trial.start(todoist_timeout=1), trial.ready[0]
    trial.rows(_AGE + " RETURNING user_id", "7 hours", trial.ready[:11])
    trial.todoist.fail(user, *[Fault.slow(delay_s=60)] * 20)
    n_calls = len(trial.todoist.calls)
    hanging = [service.tip(user) for _ in range(20)]
    n_hanging = len(trial.todoist.calls) - n_calls
    _require_sources(hanging, "stale")
    require(n_hanging <= 6, f"the hanging account was asked {n_hanging} times")
    others = service.together(trial.ready[1:11])
    _require_sources(others.replies, "inline")
    return f"20 requests, {n_hanging} calls; last one {1e3 * hanging[-1].seconds:.0f} ms; others: {others.figures()}"


def all_hang(trial: ServiceTrial) -> str:
    """Let Todoist be silent while 200 users with stale contexts ask."""
    service = trial.start(todoist_timeout=1)
    trial.rows(_AGE + " RETURNING user_id", "7 hours", trial.ready)
    trial.todoist.fail_at_rate(1, Fault.slow(delay_s=60))
    n_calls = len(trial.todoist.calls)
    first = service.together(trial.ready[:20])
    began = len(trial.todoist.calls)
    rest = service.offer(trial.ready[20:], rate=30, seconds=5)
    _require_sources([*first.replies, *rest.replies], "stale")
    n_later = len(trial.todoist.calls) - began
    require(n_later <= 5, f"{n_later} calls of a Todoist that is down")
    waited_ms, at_once_ms = first.quantile_ms(0.5), rest.quantile_ms(0.5)
    require(at_once_ms < waited_ms, f"stale tips took {at_once_ms:.0f} ms, those that waited {waited_ms:.0f} ms")
    return f"{began - n_calls} calls until the circuit opened, {n_later} after; then {rest.figures()}"


def huge(kind: str) -> Any:
    """Return a trial of accounts with a response that is too large, of a kind of `_HugeTodoist`."""

    def run(trial: ServiceTrial) -> str:
        with _huge_todoist() as url:
            service = trial.start(todoist_api_url=url, todoist_timeout=5)
            users = [f"huge-{number}" for number in range(6)]
            for user in users:
                _add(trial, user, f"{kind}-{user}")
            service.tip(trial.ready[0])
            before = service.memory_mib()
            load = service.together(users)
            _require_sources(load.replies, "none")
            peak = service.memory_mib() - before
            require(peak < 150, f"the memory grew by {peak:.0f} MiB")
            _add(trial, "small", "small-account")
            _require_sources([service.tip("small")], "inline")
            _require_sources([service.tip(trial.ready[0])], "stored")
            return f"{load.figures()}; memory {before:.0f} -> {before + peak:.0f} MiB"

    return run


def large_beside_hits(trial: ServiceTrial) -> str:
    """Let eight accounts of 3 MB be read while 50 hits a second are answered."""
    with _huge_todoist() as url:
        service = trial.start(todoist_api_url=url, todoist_timeout=30, request_budget=60)
        users = [f"large-{number}" for number in range(8)]
        for user in users:
            _add(trial, user, f"large-{user}")
        quiet = service.offer(trial.ready, rate=50, seconds=3)
        before, began = service.memory_mib(), time.monotonic()
        clients = [service.connect() for _ in users]
        for client, user in zip(clients, users, strict=True):
            token = service.service.token
            head = f"POST /v1/users/{user}/tip HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
            client.sendall(head.encode())
        beside = service.offer(trial.ready, rate=50, seconds=3)
        answers = [client.recv(2**16).split(b"\r\n")[0] for client in clients]
        seconds = time.monotonic() - began
        require(set(answers) == {b"HTTP/1.1 200 OK"}, f"not all were answered: {Counter(answers)}")
        require(beside.statuses == quiet.statuses, f"hits were not answered: {beside.statuses}")
        hit_s = 1e-3 * beside.quantile_ms(0.5)
        require(hit_s < seconds / 4, f"hits took {hit_s:.1f} s, the accounts {seconds:.1f} s")
        return (
            f"8 accounts in {seconds:.1f} s; hits beside them: {beside.figures()}; alone: {quiet.figures()};"
            f" memory {before:.0f} -> {service.memory_mib():.0f} MiB"
        )


@contextmanager
def _huge_todoist() -> Iterator[str]:
    """A Todoist whose responses depend on the token: small, large, endless, 30 MB, or a gigabyte in gzip."""
    bomb = gzip.compress(bytes(1024 * _MIB), 9)

    async def sync(request: Request) -> Response:
        token = request.headers["authorization"].removeprefix("Bearer ")
        kind = token.partition("-")[0]
        if kind == "small":
            return JSONResponse(_document(3))
        if kind == "large":
            return JSONResponse(_document(5_000))

        async def body() -> AsyncIterator[bytes]:
            parts = [bomb[at : at + 2**16] for at in range(0, len(bomb), 2**16)]
            for part in parts if kind == "bomb" else itertools.repeat(b" " * 2**16, 480 if kind == "30" else 10**9):
                yield part
                await asyncio.sleep(0)  # for the end of the connection to be seen

        return StreamingResponse(body(), headers={"Content-Encoding": "gzip"} if kind == "bomb" else {})

    app = Starlette(routes=[Route("/api/v1/sync", sync, methods=["POST"])])
    with running_server(app, 0) as url:
        yield url


def _document(n_tasks: int) -> dict[str, Any]:
    items = [
        {"id": f"t{number}", "content": f"{_NEW} {number}", "description": "x" * 400, "added_by_uid": "1"}
        for number in range(n_tasks)
    ]
    user = {"id": "1", "lang": "en", "tz_info": {"timezone": "UTC"}}
    return {"full_sync": True, "sync_token": "x", "items": items, "projects": [], "sections": [], "user": user}


def _add(trial: ServiceTrial, user: str, token: str) -> None:
    trial.accounts.add(user, email="x@example.org", timezone="UTC", credentials=Credentials(token))


def _replace(trial: ServiceTrial, user: str, *faults: Fault) -> None:
    """Connect a user to a different account."""
    name = f"other-{next(_numbers)}"
    trial.todoist.load(f"token-of-{name}", _document(3), user=name)
    trial.todoist.fail(name, *faults)
    _add(trial, user, f"token-of-{name}")


def _texts(service: RunningService, user: str) -> list[str]:
    """The titles of the tasks in a user's context."""
    tasks = service.request("GET", f"/v1/users/{user}/context").json["context"]["tasks"]
    return [view["title"] for views in tasks.values() for view in views]


def _require_sources(replies: list[Reply], *sources: str) -> None:
    found = Counter(reply.json.get("source") or reply.status for reply in replies)
    require(bool(found) and set(found) <= set(sources), f"instead of {' or '.join(sources)} tips: {dict(found)}")


def _require_without(texts: list[str], replies: list[Reply]) -> None:
    shown = [text for text in texts for reply in replies if text in reply.body.decode()]
    require(not shown, f"{len(shown)} texts that must not be shown")


def _milliseconds(replies: list[Reply]) -> str:
    return f"answered in {max(1e3 * reply.seconds for reply in replies):.0f} ms at most"


def _row(fault: str, promise: str, run: object, n_quick: int = 0) -> Row:
    return Row(fault, "service: accounts", promise, run, open=service_trial, n_quick=n_quick)  # type: ignore[arg-type]


_NOTHING_SHOWN = "generic tips, 404 for contexts, no call of the LLM"
_CUT_OFF = "cut off while it is read; memory stays; others are served"

ROWS = (
    _row(
        "an account is replaced, the new one hangs", "nothing of the former one", replaced_without_todoist, n_quick=1
    ),
    _row("an account is replaced while it is fetched", "the new one's context stays", replaced_during_a_fetch),
    _row("an account is replaced during its cool-down", "the new one is fetched at once", replaced_during_a_cooldown),
    _row(
        "20 users are deactivated",
        _NOTHING_SHOWN,
        unserved("UPDATE users SET active = FALSE WHERE user_id = ANY(%s)"),
    ),
    _row(
        "20 users are disconnected",
        _NOTHING_SHOWN,
        unserved("UPDATE todoist_accounts SET connected = FALSE WHERE user_id = ANY(%s)"),
    ),
    _row("20 users revoked the access", "generic tips once stale, no call of the LLM; others are served", revoked),
    _row("contexts of eight days, Todoist silent", "generic tips; those of seven hours are stale ones", too_old),
    _row("one account hangs, asked 20 times", "soon asked no more; all others are assembled", one_hangs),
    _row("Todoist is silent for 200 users", "stale tips at once, after few calls", all_hang),
    _row("six responses of 30 MB", _CUT_OFF, huge("30")),
    _row("six responses without end", _CUT_OFF, huge("endless")),
    _row("six responses of 1 GB in 1 MB of gzip", _CUT_OFF, huge("bomb")),
    _row("eight accounts of 3 MB at once", "assembled, while hits are answered", large_beside_hits),
)
