"""Rules by which the LLM is called: while a request waits, behind an answer, or ahead of probable requests."""

from __future__ import annotations

from dataclasses import dataclass

from assets.tips_ahead import AheadSettings

_NO_LIMIT = 10**9


@dataclass(frozen=True)
class Rule:
    """One rule.

    wait_s: seconds that a request waits for the LLM. ahead: None: nothing is written ahead.
    is_for_everybody: a set is written for each user, however improbable a request is.
    """

    name: str
    wait_s: float = 0.0
    ahead: AheadSettings | None = None
    is_for_everybody: bool = False


_AHEAD = AheadSettings(max_calls=_NO_LIMIT, max_cost_usd=_NO_LIMIT)

DEFAULT_RULE = Rule("now", ahead=_AHEAD)

RULES = (
    Rule("LLM_WAIT=6", wait_s=6.0),
    DEFAULT_RULE,
    Rule("nobody ahead"),
    Rule("everybody", ahead=_AHEAD, is_for_everybody=True),
)
"""The rules to compare: waiting, as before tips were written ahead; the default; and the two trivial ones."""
