"""A bound for the calls of the LLM that are under way."""

from __future__ import annotations

from datetime import date

from contexts.assembly.model import UserContext
from tips.generator import CandidateGenerator, Generation


class BoundedGenerator:
    """A generator that writes nothing, at once, while `max_calls` others are under way.

    Nobody waits for a turn: the request takes rule-based candidates instead, and a later one calls the LLM.
    """

    def __init__(self, generator: CandidateGenerator, max_calls: int) -> None:
        self._generator = generator
        self._max_calls = max_calls
        self._n_calls = 0

    async def generate(self, context: UserContext, today: date, *, timeout_s: float) -> Generation:
        """Good candidates, or none; see `CandidateGenerator`."""
        if self._n_calls >= self._max_calls:
            return Generation((), None)
        self._n_calls += 1
        try:
            return await self._generator.generate(context, today, timeout_s=timeout_s)
        finally:
            self._n_calls -= 1
