"""The bandit's features of a candidate."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import context, contexts
from tip_examples import tip

from contexts.assembly.model import BUCKETS, Task, UserContext
from tips.candidates import GENERIC_TIP, KINDS, Tip
from tips.features import ARMS, N_CLOCK, N_FEATURES, N_STATIC, N_WORD_SUMS, features_of, with_clock
from tips.rules import rule_based_tips

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)  # a Monday
KNOWN = context(
    Task("late", "a", 4, due_date="2026-11-20", deadline_date="2026-11-30"),
    Task("today", "b", due_date="2026-11-23", duration_minutes=5),
    Task("some", "c", is_recurring=True),
    Task("other", "d"),
    themes={"big": ["late", "today", "some"]},
)


def static(one: Tip, known: UserContext | None = KNOWN) -> list[float]:
    return [float(each) for each in features_of([one], known)[0]]


def differing(one: Tip, other: Tip, known: UserContext = KNOWN, otherwise: UserContext | None = None) -> list[int]:
    """The columns in which two candidates differ."""
    pairs = zip(static(one, known), static(other, otherwise or known), strict=True)
    return [column for column, (a, b) in enumerate(pairs) if a != b]


class TestShape:
    @settings(max_examples=80, deadline=None)
    @given(
        known=contexts(),
        title=st.text(min_size=1, max_size=80),
        body=st.text(min_size=1, max_size=280),
        data=st.data(),
    )
    def test_any_tip(self, known: UserContext, title: str, body: str, data: st.DataObject) -> None:
        """Any candidates of any context have a row each: finite, small, and the same every time."""
        ids = [view.id for views in known.tasks.values() for view in views]
        about = data.draw(st.lists(st.sampled_from(ids), max_size=5)) if ids else []
        theme = data.draw(st.sampled_from([None, *(each.id for each in known.themes)]))
        kind = data.draw(st.sampled_from(ARMS))
        mine = Tip.model_construct(kind=kind, title=title, body=body, task_ids=tuple(about), theme=theme)
        tips = [*rule_based_tips(known), mine, GENERIC_TIP]
        made = features_of(tips, known)
        assert (made.shape, made.dtype) == ((len(tips), N_STATIC), np.float32)
        assert np.isfinite(made).all()
        assert np.abs(made).max() < 20
        assert (features_of(tips, known) == made).all()
        assert (features_of(tips[::-1], known) == made[::-1]).all()

    def test_no_context(self) -> None:
        """The generic tip has features without a context, and no candidates have an empty table."""
        assert np.isfinite(static(GENERIC_TIP, None)).all()
        assert features_of([], KNOWN).shape == (0, N_STATIC)
        assert with_clock(features_of([], KNOWN)[None], [NOON]).shape == (1, 0, N_FEATURES)

    def test_number_of_features(self) -> None:
        """The posterior stays small: at most 64 features."""
        assert N_FEATURES <= 64


class TestKindAndTasks:
    def test_kinds(self) -> None:
        """The first column is 1; then each kind has its own column, the generic tip too."""
        assert list(ARMS) == [*KINDS, "generic"]
        rows = [static(tip(kind=kind)) for kind in ARMS]
        assert [row[0] for row in rows] == [1.0] * len(ARMS)
        assert [row[1 : 1 + len(ARMS)] for row in rows] == np.eye(len(ARMS)).tolist()

    @pytest.mark.parametrize(
        ("task_ids", "bucket"),
        [
            (("late",), "overdue"),
            (("today",), "today"),
            (("some",), "someday"),
            (("some", "today"), "today"),
            ((), None),
        ],
    )
    def test_bucket(self, task_ids: tuple[str, ...], bucket: str | None) -> None:
        """The bucket is that of the most pressing task, whatever the order of the tasks."""
        start = 1 + len(ARMS)
        assert static(tip(task_ids=task_ids))[start : start + len(BUCKETS)] == [each == bucket for each in BUCKETS]

    def test_of_tasks(self) -> None:
        """Urgency, number, quick, recurring and deadline are features of the tip's tasks."""
        start = 1 + len(ARMS) + len(BUCKETS)
        expected = {ids: static(tip(task_ids=ids))[start : start + 5] for ids in [("late",), ("today", "some"), ()]}
        assert expected[("late",)] == pytest.approx([1.0, 0.2, 0, 0, 1])
        assert expected[("today", "some")] == pytest.approx([0.0, 0.4, 1, 1, 0])
        assert expected[()] == [0] * 5

    def test_theme(self) -> None:
        """Having a theme, and the theme's share of all open tasks, are two columns."""
        with_it = static(tip(theme="h0"))
        assert [with_it[column] for column in differing(tip(), tip(theme="h0"))] == pytest.approx([1.0, 0.75])


class TestPast:
    @staticmethod
    def moved(before: list[tuple[str, str, str]], one: Tip) -> list[float]:
        """The changes that reactions cause in the columns of a candidate, without the zeros."""
        known, then = (context("a", "b", themes={"x": ["t0", "t1"]}, reactions=each) for each in ([], before))
        return [static(one, then)[at] - static(one, known)[at] for at in differing(one, one, known, then)]

    def test_of_the_kind(self) -> None:
        """Reactions to a kind of tip change two columns of candidates of this kind, and no others."""
        done = [("focus", "", "done")] * 5
        mean, much = self.moved(done, tip())
        assert mean == pytest.approx(0.5)
        assert much > 0
        assert self.moved(done, tip(kind="plan")) == []

    def test_of_the_theme(self) -> None:
        """Reactions to tips about a theme change candidates about this theme."""
        done = [("plan", "h0", "done")] * 5
        assert len(self.moved(done, tip(theme="h0"))) == 2
        assert self.moved(done, tip()) == []
        assert self.moved(done, tip(theme="h0")) == self.moved([("focus", "", "done")] * 5, tip())

    def test_good_and_bad(self) -> None:
        """Better reactions give higher values, more of them as well; `ignored` counts with a reward of 0."""
        means = [
            self.moved([("focus", "", each)] * 5, tip())[0] for each in ("done", "accepted", "snoozed", "dismissed")
        ]
        assert means == sorted(means, reverse=True)
        assert means[-1] < 0
        assert self.moved([("focus", "", "done")], tip())[0] < means[0]
        assert len(self.moved([("focus", "", "ignored")] * 5, tip())) == 1


class TestText:
    def test_different_texts(self) -> None:
        """Candidates that differ only in words differ in features."""
        titles = [
            "Begin now",
            "Stop now",
            "Later is fine",
            "Fang jetzt an",
            "今日はこれから",
            "Begin when?",
            "Begin 5 things",
        ]
        rows = {tuple(static(tip(title))) for title in titles}
        assert len(rows) == len(titles)

    def test_case_and_punctuation(self) -> None:
        """Case and punctuation do not change the features."""
        assert differing(tip("begin now", "Rest, then."), tip("Begin NOW", "rest. Then,")) == []

    @pytest.mark.parametrize(
        ("title", "expected"),
        [("Begin now", [0, 0]), ("Begin now?", [1, 0]), ("Begin 2 now", [0, 1]), ("Why ٣?", [1, 1])],
    )
    def test_questions_and_numbers(self, title: str, expected: list[int]) -> None:
        """A question and a number have a column each."""
        assert static(tip(title))[-N_WORD_SUMS - 2 : -N_WORD_SUMS] == expected


class TestClock:
    @staticmethod
    def clock(kind: str, at: datetime) -> list[float]:
        """The columns of the clock for a candidate, in the order of the kinds."""
        return [float(each) for each in with_clock(features_of([tip(kind=kind)], KNOWN)[None], [at])[0, 0, N_STATIC:]]

    def test_static_part(self) -> None:
        """The static features come first, unchanged."""
        made = features_of(rule_based_tips(KNOWN), KNOWN)
        [whole] = with_clock(made[None], [NOON])
        assert whole.shape == (len(made), N_FEATURES)
        assert whole.dtype == np.float32
        assert (whole[:, :N_STATIC] == made).all()

    @pytest.mark.parametrize(
        ("hour", "minute", "sine", "cosine"),
        [(0, 0, 0, 1), (6, 0, 1, 0), (12, 0, 0, -1), (18, 0, -1, 0), (3, 0, 0.7071, 0.7071)],
    )
    def test_hours(self, hour: int, minute: int, sine: float, cosine: float) -> None:
        """The hour is a point on a circle: morning and evening are opposite, midnight has no jump."""
        assert self.clock("overdue", NOON.replace(hour=hour, minute=minute))[:2] == pytest.approx(
            [sine, cosine], abs=1e-4
        )
        before, after = (
            np.array(self.clock("plan", at)) for at in (NOON.replace(hour=23, minute=59), NOON.replace(hour=0))
        )
        assert np.abs(before - after).max() < 0.01

    def test_columns_of_the_kind(self) -> None:
        """Only the columns of the candidate's kind hold the clock, in the order of the kinds."""
        for at, kind in enumerate(ARMS):
            made = self.clock(kind, NOON)
            own = made[N_CLOCK * at : N_CLOCK * (at + 1)]
            assert own == pytest.approx([0, -1, 0], abs=1e-6)
            assert sum(map(abs, made)) == pytest.approx(sum(map(abs, own)))

    @pytest.mark.parametrize(
        ("zone", "at", "weekend"),
        [
            ("UTC", datetime(2026, 11, 27, 23, 30, tzinfo=UTC), 0),
            ("Europe/Berlin", datetime(2026, 11, 27, 23, 30, tzinfo=UTC), 1),
            ("America/New_York", datetime(2026, 11, 28, 3, 0, tzinfo=UTC), 0),
            ("Asia/Tokyo", datetime(2026, 11, 29, 16, 0, tzinfo=UTC), 0),
            ("UTC", datetime(2026, 11, 29, 16, 0, tzinfo=UTC), 1),
        ],
    )
    def test_weekend(self, zone: str, at: datetime, weekend: int) -> None:
        """Saturday and Sunday are those of the user's own time zone."""
        assert self.clock("overdue", at.astimezone(ZoneInfo(zone)))[2] == weekend
