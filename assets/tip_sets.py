"""Tips ahead of requests on their way into the table of candidates, whichever way the LLM was asked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg

from contexts.assembly.model import UserContext
from contexts.clock import CLOCK_DIFFERENCE, Clock
from contexts.postgres.sql import queries
from tips.sets import written_set

if TYPE_CHECKING:
    from tips.generator import Generation

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TipRequest:
    """A probable request for a tip, with the context as of the day of the request."""

    user_id: str
    connection_number: int
    context: UserContext
    context_hash: str
    likely_at: datetime

    @property
    def zone(self) -> ZoneInfo:
        """The user's time zone."""
        return ZoneInfo(self.context.profile.timezone)

    @property
    def day(self) -> date:
        """The user's date at the request."""
        return self.likely_at.astimezone(self.zone).date()


class TipSets:
    """The stored sets of candidates, and the record of the calls that made them."""

    def __init__(self, connection: psycopg.Connection[Any], *, clock: Clock, new_id: Callable[[], UUID]) -> None:
        self._connection = connection
        self._clock = clock
        self._new_id = new_id
        self._sql = queries("serving")

    def store(self, request: TipRequest, generation: Generation, called_at: datetime) -> bool:
        """Store the tips that the LLM wrote for a request, if any, and record the call, if there was one.

        Returns whether a set was stored.
        """
        set_id = self._store(request, generation) if generation.tips else None
        if generation.usage is not None:
            self._sql.write_llm_call(
                self._connection,
                called_at=called_at,
                user_id=request.user_id,
                candidate_set_id=set_id,
                place="ahead",
                **vars(generation.usage),
            )
        return set_id is not None

    def _store(self, request: TipRequest, generation: Generation) -> UUID | None:
        """Store a set; None if the account was replaced or removed meanwhile, or Postgres refuses a value of it."""
        candidates = written_set(
            generation.tips,
            request.context,
            set_id=(set_id := self._new_id()),
            context_hash=request.context_hash,
            origin="ahead",
            zone=request.zone,
            now=request.likely_at,
            made_at=self._clock(),
        )
        try:
            with self._connection.transaction():
                is_written = self._sql.write_candidates(
                    self._connection,
                    user_id=request.user_id,
                    connection_number=request.connection_number,
                    clock_difference=CLOCK_DIFFERENCE,
                    candidate_set_id=set_id,
                    **{name: getattr(candidates, name) for name in _SET_COLUMNS},
                )
        except psycopg.DataError as error:  # its message can hold the user's texts
            log.warning("user %s: tips written ahead are not stored, %s", request.user_id, type(error).__name__)
            return None
        return set_id if is_written else None


_SET_COLUMNS = (
    "context_hash", "author", "origin", "kept_from", "made_at", "expires_at", "renew_at", "tips", "subject_hashes",
    "kinds", "themes", "features",
)  # fmt: skip
