"""A candidate for a tip: its limits and its JSON."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from tip_examples import tip

from tips.candidates import TaskReference, Tip


class TestTip:
    def test_on_one_line(self) -> None:
        """Line breaks and the narrow spaces of French become blanks: the text is corrected, not refused."""
        made = tip("  Prêt\u202f? ", "First this.\nThen\u00a0that.\u2028")
        assert (made.title, made.body) == ("Prêt ?", ("First this. Then that.",))

    @pytest.mark.parametrize(
        "wrong",
        [
            {"title": ""},
            {"title": " \n"},
            {"title": "x" * 81},
            {"body": ""},
            {"body": "x" * 281},
            {"body": ["x" * 141, TaskReference(task="t1"), "x" * 140], "task_ids": ("t1",)},
            {"body": [TaskReference(task="t1")], "task_ids": ("t1",)},
            {"body": ["Begin ", TaskReference(task="t1")], "task_ids": ("t2",)},
            {"body": ["x", TaskReference(task="t1")] * 4, "task_ids": ("t1",)},
            {"body": 7},
            {"task_ids": tuple("abcdef")},
            {"kind": "advert"},
            {"link": "x"},
        ],
        ids=str,
    )
    def test_limits(self, wrong: dict[str, Any]) -> None:
        """A tip that is empty, too long, of an unknown kind or has an unknown field is refused."""
        with pytest.raises(ValidationError):
            tip(**wrong)

    def test_segments(self) -> None:
        """Between a text and a task one blank stays as it is; the ends of the body are trimmed."""
        made = tip(body=["  Pay\n", TaskReference(task="t1"), "  first. "], task_ids=("t1",))
        assert made.body == ("Pay ", TaskReference(task="t1"), " first.")
        assert (made.named_tasks, made.texts, made.wording) == (("t1",), ("Pay ", " first."), "Pay first.")

    def test_adjacent_texts(self) -> None:
        """Texts that follow each other are one text."""
        made = tip(body=["Pay ", " it", ", ", TaskReference(task="t1"), "", " to", "day."], task_ids=("t1",))
        assert made.body == ("Pay it, ", TaskReference(task="t1"), " today.")

    def test_stored(self) -> None:
        """A tip survives a round trip through JSON."""
        made = tip(body=["Begin ", TaskReference(task="t1"), "."], task_ids=("t1", "t0"), theme="h0")
        assert Tip.model_validate_json(made.model_dump_json()) == made
