"""Sets of candidates as the service and the pipeline store them."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from tip_examples import KNOWN, tip

from tips.candidates import GeneratedTip
from tips.features import N_STATIC
from tips.rules import rule_based_tips
from tips.served import read_tip
from tips.sets import CandidateSet, generic_set, new_set, next_midnight, with_rule_based, written_set
from tips.validity import still_valid, subject_hash

NOW = datetime(2026, 11, 23, 18, 10, tzinfo=UTC)
KATHMANDU = ZoneInfo("Asia/Kathmandu")
ONE, OTHER = UUID(int=1), UUID(int=2)


def generated(task_id: str, *, only_today: bool = False) -> GeneratedTip:
    return GeneratedTip(**tip(task_ids=(task_id,)).model_dump(), only_today=only_today)


def written(*tips: GeneratedTip, **changed: Any) -> CandidateSet:
    values = {"set_id": ONE, "context_hash": "h", "origin": "ahead", "zone": KATHMANDU, "now": NOW, "made_at": NOW}
    return written_set(tips, KNOWN, **values | changed)


def kept(candidates: CandidateSet) -> CandidateSet:
    return new_set(
        [(read_tip(candidates.tips[0]), candidates.subject_hashes[0])],
        KNOWN,
        set_id=OTHER,
        context_hash="i",
        author="kept",
        origin="kept",
        made_at=NOW,
        expires_at=NOW,
        renew_at=NOW,
        kept_from=candidates.written_as,
    )


@pytest.mark.parametrize(
    ("zone", "midnight", "today"),
    [
        ("UTC", datetime(2026, 11, 24, tzinfo=UTC), date(2026, 11, 23)),
        ("Asia/Kathmandu", datetime(2026, 11, 23, 18, 15, tzinfo=UTC), date(2026, 11, 23)),
        ("Asia/Tokyo", datetime(2026, 11, 24, 15, tzinfo=UTC), date(2026, 11, 24)),
    ],
)
def test_next_midnight(zone: str, midnight: datetime, today: date) -> None:
    """The user's day ends at the next midnight of the user's own zone."""
    assert next_midnight(ZoneInfo(zone), NOW) == (midnight, today)


class TestWrittenSet:
    def test_periods(self) -> None:
        """Tips of the LLM are used as they are until the user's midnight, and reused for a day after it."""
        candidates = written(generated("t0"))
        assert candidates.expires_at == datetime(2026, 11, 23, 18, 15, tzinfo=UTC)
        assert candidates.renew_at == datetime(2026, 11, 24, 18, 15, tzinfo=UTC)

    def test_columns(self) -> None:
        """A set has one tip, kind, theme, row of features and subject hash for each tip."""
        candidates = written(generated("t0"), generated("t1"))
        sizes = [candidates.tips, candidates.kinds, candidates.themes, candidates.subject_hashes]
        assert [len(column) for column in sizes] == [2] * 4
        assert len(candidates.features) == 4 * 2 * N_STATIC

    def test_day(self) -> None:
        """A tip for today is valid on the user's day only, a tip for any day also on the next one."""
        candidates = written(generated("t0", only_today=True), generated("t1"))
        tips = [read_tip(stored) for stored in candidates.tips]

        def valid(day: int) -> list[str]:
            found = still_valid(tips, candidates.subject_hashes, KNOWN, date(2026, 11, day))
            return [task_id for each, _ in found for task_id in each.task_ids]

        assert (valid(23), valid(24)) == (["t0", "t1"], ["t1"])

    @pytest.mark.parametrize("origin", ["ahead", "behind", "waited"])
    def test_origin(self, origin: str) -> None:
        """Sets of equal tips are the same whether they were written ahead, behind an answer or in a request."""
        assert written(generated("t0"), origin=origin).tips == written(generated("t0")).tips
        assert written(generated("t0"), origin=origin).author == "llm"


class TestKept:
    def test_written_as(self) -> None:
        """A set of kept tips names the set that the LLM wrote, also if it was kept from a set of kept tips."""
        first = written(generated("t0"))
        assert first.written_as == ONE
        assert kept(first).written_as == ONE
        assert kept(kept(first)).written_as == ONE
        assert kept(first).is_by_llm

    def test_rules_beside_valid_tips(self) -> None:
        """Rule-based tips of the other kinds are added, without a subject hash."""
        own = tip(task_ids=("t0",))
        tips = with_rule_based([(own, subject_hash(own, KNOWN))], KNOWN)
        assert tips[0] == (own, subject_hash(own, KNOWN))
        assert [stored_hash for _, stored_hash in tips[1:]] == [""] * (len(tips) - 1)
        kinds = [each.kind for each, _ in tips]
        assert len(kinds) == len(set(kinds))
        assert set(kinds) == {own.kind} | {each.kind for each in rule_based_tips(KNOWN)}


def test_generic() -> None:
    """The generic tip is a set of its own that is not stored, and that no LLM wrote."""
    candidates = generic_set(NOW)
    assert (candidates.set_id, candidates.kinds, candidates.origin) == (None, ["generic"], "generic")
    assert candidates.written_as is None
