"""Sets of candidates as they are stored, made in the same way by the service and by the pipeline. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from contexts.assembly.model import UserContext
from tips.candidates import GENERIC_TIP, GeneratedTip, Tip
from tips.features import features_of
from tips.rules import rule_based_tips
from tips.served import with_tasks
from tips.validity import subject_hash

CandidateAuthor = Literal["llm", "kept", "rules", "generic"]
"""The author of candidates: an LLM, an LLM that wrote them for an earlier set (kept), rules, or none (generic)."""

LLM_AUTHORS: frozenset[CandidateAuthor] = frozenset({"llm", "kept"})
"""The authors of sets with tips that an LLM wrote."""

CandidateOrigin = Literal["ahead", "behind", "waited", "kept", "rules", "generic"]
"""The way in which a set was made: the LLM wrote it ahead of any request, behind an answer, or while a request
waited; its tips were kept from an earlier set; rules made it; or it is the generic tip, which is not stored."""

WrittenOrigin = Literal["ahead", "behind", "waited"]
"""The origins of sets that the LLM wrote."""

MIN_VALID_TIPS = 2
"""With this many tips still valid after a change of the context, the LLM is not called."""

REUSE_PERIOD = timedelta(days=1)
"""Time after the user's next midnight during which tips of the LLM are reused if they are still valid."""

HashedTip = tuple[Tip, str]
"""A tip and the hash of its subject; an empty hash makes it invalid at the next change of the context."""


@dataclass(frozen=True, slots=True)
class CandidateSet:
    """Candidates as they are stored.

    made_at: the newest set of a user is used, and no other.
    expires_at: from then on only tips that are still valid are used.
    renew_at: from then on the LLM is called for new tips.
    kept_from: for a set of kept tips, the id of the set for which the LLM wrote them.
    tips: JSON objects.
    features: float32, a row for each tip, without the features of the clock.
    subject_hashes: a hash for each tip; empty if they were not read.
    """

    set_id: UUID | None
    context_hash: str
    author: CandidateAuthor
    origin: CandidateOrigin
    kept_from: UUID | None
    made_at: datetime
    expires_at: datetime
    renew_at: datetime
    tips: Sequence[str]
    kinds: Sequence[str]
    themes: Sequence[str]
    features: bytes
    subject_hashes: Sequence[str] = ()

    @property
    def is_by_llm(self) -> bool:
        """Whether an LLM wrote tips of this set."""
        return self.author in LLM_AUTHORS

    @property
    def written_as(self) -> UUID | None:
        """The id of the set for which the LLM wrote the tips; None if it wrote none of them."""
        return self.set_id if self.author == "llm" else self.kept_from


def next_midnight(zone: ZoneInfo, now: datetime) -> tuple[datetime, date]:
    """The end of the user's day, and its date: tips may speak of "today"."""
    today = now.astimezone(zone).date()
    return datetime.combine(today + timedelta(days=1), time(), zone), today


def generated_with_hashes(tips: Sequence[GeneratedTip], context: UserContext, today: date) -> list[HashedTip]:
    """Tips that the LLM wrote for a context on a day, with their subject hashes."""
    return [(tip, subject_hash(tip, context, today if tip.only_today else None)) for tip in tips]


def with_rule_based(valid: Sequence[HashedTip], context: UserContext) -> list[HashedTip]:
    """Return the valid tips, and rule-based tips of the other kinds.

    Rule-based tips have no subject hash, so the next change of the context makes them again.
    """
    kinds = {tip.kind for tip, _ in valid}
    return [*valid, *((tip, "") for tip in rule_based_tips(context) if tip.kind not in kinds)]


def written_set(
    tips: Sequence[GeneratedTip],
    context: UserContext,
    *,
    set_id: UUID,
    context_hash: str,
    origin: WrittenOrigin,
    zone: ZoneInfo,
    now: datetime,
    made_at: datetime,
) -> CandidateSet:
    """The set of the tips that the LLM wrote for a context. now: an instant of the user's day that they are for."""
    midnight, today = next_midnight(zone, now)
    return new_set(
        generated_with_hashes(tips, context, today),
        context,
        set_id=set_id,
        context_hash=context_hash,
        author="llm",
        origin=origin,
        made_at=made_at,
        expires_at=midnight,
        renew_at=midnight + REUSE_PERIOD,
    )


def generic_set(now: datetime) -> CandidateSet:
    """The only candidate for a user without a context: the generic tip."""
    return new_set(
        [(GENERIC_TIP, "")],
        None,
        set_id=None,
        context_hash="",
        author="generic",
        origin="generic",
        made_at=now,
        expires_at=now,
        renew_at=now,
    )


def new_set(
    tips: Sequence[HashedTip],
    context: UserContext | None,
    *,
    set_id: UUID | None,
    context_hash: str,
    author: CandidateAuthor,
    origin: CandidateOrigin,
    made_at: datetime,
    expires_at: datetime,
    renew_at: datetime,
    kept_from: UUID | None = None,
) -> CandidateSet:
    """A set of tips for a context; None for the generic tip."""
    alone = [tip for tip, _ in tips]
    return CandidateSet(
        set_id=set_id,
        context_hash=context_hash,
        author=author,
        origin=origin,
        kept_from=kept_from,
        made_at=made_at,
        expires_at=expires_at,
        renew_at=renew_at,
        tips=[with_tasks(tip, context).model_dump_json() for tip in alone],
        kinds=[tip.kind for tip in alone],
        themes=[tip.theme or "" for tip in alone],
        features=features_of(alone, context).tobytes(),
        subject_hashes=[stored_hash for _, stored_hash in tips],
    )
