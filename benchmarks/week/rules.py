"""Rules by which the LLM is called: while a request waits, behind an answer, or ahead of probable requests."""

from __future__ import annotations

from dataclasses import dataclass

from assets.tips_ahead import AheadSettings

_NO_LIMIT = 10**9
_FOR_EVERYBODY = 1e12
"""A worth of an answer for which a set is written however improbable the request."""


@dataclass(frozen=True)
class Rule:
    """One rule. wait_s: seconds that a request waits for the LLM; ahead: None: nothing is written ahead."""

    name: str
    wait_s: float = 0.0
    ahead: AheadSettings | None = None


DEFAULT_RULE = Rule("now", ahead=AheadSettings(max_calls=_NO_LIMIT, max_cost_usd=_NO_LIMIT))

RULES = (
    Rule("LLM_WAIT=6", wait_s=6.0),
    DEFAULT_RULE,
    Rule("nobody ahead"),
    Rule("everybody", ahead=AheadSettings(value=_FOR_EVERYBODY, max_calls=_NO_LIMIT, max_cost_usd=_NO_LIMIT)),
)
"""The rules to compare: waiting, as before tips were written ahead; the default; and the two trivial ones."""
