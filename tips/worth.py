"""The probability of a request from which on a set of candidates is worth its price, see docs/tips-ahead.md. Pure."""

from __future__ import annotations

_SHARE_INVALID = 0.2
"""Share of the sets with fewer than two tips that are still valid at the request for which the set was written."""


def least_probability(value: float, price: float = 1.0) -> float:
    """The least probability of a request for which the LLM writes a set; above 1 if no set is worth its price.

    value: the worth of an answer from the LLM's tips instead of rule-based ones. price: of the call. Both are in
    prices of a call during a request.
    """
    return price / ((1 - _SHARE_INVALID) * (1 + value))
