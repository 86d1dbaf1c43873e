"""Faults of Todoist: every kind at three rates, refusals of everybody and of one, answers that cost one user only."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from faults.row import Row, require
from faults.trial import USERS, Trial, last_lines
from local.todoist import Fault, FaultKind

_PROMISE = "each user has the context before or after, honestly dated; healed, all is as unbroken"
_SKIPPED = "an item that cannot be read is left out, and nothing else; healed, all is as unbroken"
_SKIPS_AN_ITEM = (FaultKind.ITEM_WITHOUT_ID, FaultKind.UNREADABLE_ITEM)
_RATES = (0.1, 0.5, 1.0)
_DAY = timedelta(days=1)


def fault_of(kind: FaultKind, trial: Trial) -> Fault:
    """A fault of a kind, with other arguments in each trial."""
    pick = trial.chance.choice
    match kind:
        case FaultKind.RATE_LIMITED:
            return Fault.rate_limited(
                pick([1, 66]), header=pick(["seconds", "date", "none"]), body=pick(["json", "text"])
            )
        case FaultKind.SERVER_ERROR:
            return Fault.server_error(pick([408, 425, 500, 502, 503, 504, 520, 524]))
        case FaultKind.INVALID_TOKEN:
            return Fault.invalid_token(pick([401, 403]))
        case FaultKind.SLOW:
            return Fault.slow(pick([0.1, 0.6]), pick([0.0, 0.1, 0.6]))
        case FaultKind.DISCONNECT:
            return Fault.disconnect(in_body=pick([False, True]))
        case _:
            fault: Fault = getattr(Fault, kind)()
            return fault


def at_rates(kind: FaultKind) -> Callable[[Trial], None]:
    """Let 10, 50 and 100 % of Todoist's answers fail in one way, night by night."""

    def run(trial: Trial) -> None:
        trial.todoist.fail_at_rate(_RATES[trial.number % len(_RATES)], fault_of(kind, trial))
        outcome = trial.night()
        trial.todoist.fail_at_rate(0)
        require(outcome.status in (0, 1), f"the exit status is {outcome.status}: {last_lines(outcome.output)}")
        require("Traceback" not in outcome.output, f"a traceback: {last_lines(outcome.output)}")
        trial.require_whole(may_lack=kind in _SKIPS_AN_ITEM)
        require(disconnected(trial) == [], f"disconnected: {disconnected(trial)}")
        trial.recover()

    return run


def disconnected(trial: Trial) -> list[str]:
    """The users who have to connect their accounts again."""
    return [user["user_id"] for user in trial.world.accounts.all() if not user["connected"]]


def refuse_everybody(trial: Trial) -> None:
    """Refuse everybody in several nights, minutes and days apart."""
    now = datetime.now(UTC)
    for later in (timedelta(minutes=10), _DAY, 2 * _DAY):
        for user in USERS:
            trial.todoist.fail(user, Fault.invalid_token())
        trial.world.night(now + later)
    trial.todoist.fail_at_rate(1, Fault.invalid_token())
    outcome = trial.night()
    trial.todoist.fail_at_rate(0)
    trial.require_failed(outcome, "refused", f"{len(USERS)} of {len(USERS)} accounts")
    require(disconnected(trial) == [], f"disconnected: {disconnected(trial)}")
    trial.recover()


def refuse_one(trial: Trial) -> None:
    """Refuse one user on two days, and connect the account again."""
    now = datetime.now(UTC)
    for days, expected in ((0, []), (1, ["ann"])):
        trial.todoist.fail("ann", Fault.invalid_token())
        trial.world.night(now + days * _DAY)
        require(disconnected(trial) == expected, f"after {days} days disconnected: {disconnected(trial)}")
    trial.require_fresh(USERS[1:])
    require(trial.world.accounts.reconnect("ann") == ["ann"], "the account could not be connected again")
    trial.world.night(now + 2 * _DAY)
    trial.require_equal(trial.stage.expected)


def deepen_one(trial: Trial) -> None:
    """Nest one user's answers too deep for a parser."""
    trial.todoist.fail("ann", *[Fault.deep_json()] * 9)
    outcome = trial.night()
    require(outcome.status == 0, f"the night ended with {outcome.status}: {last_lines(outcome.output)}")
    trial.require_whole()
    trial.require_fresh(USERS[1:])
    trial.todoist.heal("ann")
    trial.recover()


def complete_unreadable(trial: Trial) -> None:
    """Send an unreadable item, and then its completion."""
    with trial.bench.new_stage() as stage, stage.trial(trial.number, trial.chance) as own:
        stage.todoist.fail("ann", Fault.unreadable_item())
        own.night()
        stage.todoist.advance("ann", {"items": [{"id": "t9", "content": "water the plants of ann", "checked": True}]})
        own.night()
        own.require_equal(stage.from_nothing())


ROWS = (
    *(
        Row(
            f"{kind.value.replace('_', ' ')}: 10, 50, 100 %",
            "Todoist",
            _SKIPPED if kind in _SKIPS_AN_ITEM else _PROMISE,
            at_rates(kind),
            3,
            int(kind is FaultKind.TRUNCATED_JSON),
        )
        for kind in FaultKind
    ),
    Row(
        "everybody refused, minutes and days apart",
        "Todoist",
        "nobody is disconnected, and the run says so",
        refuse_everybody,
        1,
        1,
    ),
    Row(
        "one account refused on two days", "Todoist", "only it is disconnected; reconnect brings it back", refuse_one
    ),
    Row("one answer nested 200,000 deep", "Todoist", "it costs that user only", deepen_one),
    Row("unreadable item, then its completion", "Todoist", "the completion is not lost", complete_unreadable),
)
