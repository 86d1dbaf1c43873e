"""Rules to compare: how the LLM is called, and how far events of webhooks are believed."""

from __future__ import annotations

from dataclasses import dataclass

from assets.tips_ahead import AheadSettings
from contexts.settings import EventsMode

_NO_LIMIT = 10**9


@dataclass(frozen=True)
class Rule:
    """One rule.

    wait_s: seconds that a request waits for the LLM. ahead: None: nothing is written ahead.
    is_for_everybody: a set is written for each user, however improbable a request is. has_batches: requests to the
    LLM that can wait go into batches. events: how far events of webhooks are believed. past_miss_rate: of two weeks
    of audits before the simulation; None: there are none. audit_days: days over which the last audits before the
    simulation are spread. has_llm: without it candidates are made by rules.
    """

    name: str
    wait_s: float = 0.0
    ahead: AheadSettings | None = None
    is_for_everybody: bool = False
    has_batches: bool = False
    events: EventsMode = "off"
    past_miss_rate: float | None = None
    audit_days: int = 1
    has_llm: bool = True

    @property
    def writes_for_new_users(self) -> bool:
        """Whether the service has sets written for new users before their first request."""
        return self.ahead is not None or self.wait_s > 0


_AHEAD = AheadSettings(max_calls=_NO_LIMIT, max_cost_usd=_NO_LIMIT)

DEFAULT_RULE = Rule("now", ahead=_AHEAD)

RULES = (
    Rule("LLM_WAIT=6", wait_s=6.0),
    DEFAULT_RULE,
    Rule("batch", ahead=_AHEAD, has_batches=True),
    Rule("nobody ahead"),
    Rule("everybody", ahead=_AHEAD, is_for_everybody=True),
)
"""The rules to compare: waiting, as before tips were ahead; the default; batches; and the two trivial ones."""

LOST = 0.01
"""The share of events that do not arrive."""

EVENT_RULES = (
    Rule("off", has_llm=False),
    Rule("hints", events="hints", past_miss_rate=LOST, has_llm=False),
    Rule("trusted", events="trusted", past_miss_rate=LOST, has_llm=False),
    Rule("trusted-evidence", events="trusted", past_miss_rate=0.0, audit_days=7, has_llm=False),
    Rule("trusted-first-week", events="trusted", has_llm=False),
)
"""Rules of believing events: two weeks before had lost as many as the week does, or none, or events begin now."""
