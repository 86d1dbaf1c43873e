"""The answer of an LLM: its JSON schema for one context, and the candidates in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator
from strategies import context, contexts

from contexts.assembly.model import Task, UserContext
from tips.answers import N_CANDIDATES, answer_schema, read_answer
from tips.candidates import GeneratedTip, Segment, TaskReference

KNOWN = context("Renew the passport", "Call the plumber", "Buy oat milk", themes={"house": ["t0", "t1"]})
GOOD: Mapping[str, Any] = {
    "kind": "focus",
    "title": "One thing first",
    "body": ["Begin with ", {"task": "t2"}, " before mail."],
    "tasks": ["t3"],
    "theme": None,
    "only_today": False,
}


def read(*, known: UserContext = KNOWN, **changed: Any) -> tuple[list[GeneratedTip], list[str]]:
    return read_answer({"candidates": [{**GOOD, **changed}]}, known)


def body(*parts: Any, language: str = "en") -> tuple[Segment, ...]:
    """The body of a candidate with these parts, in which numbers stand for tasks."""
    known = context("Renew the passport", "Call the plumber", "Buy oat milk", language=language)
    written = [{"task": f"t{part}"} if isinstance(part, int) else part for part in parts]
    [[tip], _] = read(known=known, body=written, tasks=[])
    return tip.body


def task(number: int) -> TaskReference:
    return TaskReference(task=f"t{number - 1}")


class TestAnswerSchema:
    def is_valid(self, known: UserContext = KNOWN, **changed: Any) -> bool:
        answer = {"candidates": [{**GOOD, **changed}] * N_CANDIDATES}
        return Draft202012Validator(answer_schema(known)).is_valid(answer)

    def test_good(self) -> None:
        """An answer with five candidates of the form that the prompt describes is valid."""
        assert self.is_valid()

    @pytest.mark.parametrize(
        "wrong",
        [
            {"kind": "sermon"},
            {"title": "x" * 61},
            {"title": ""},
            {"body": "Begin."},
            {"body": []},
            {"body": ["x"] * 6},
            {"body": ["x" * 111]},
            {"body": [{"task": "t4"}]},
            {"body": [{"task": "t1", "text": "x"}]},
            {"tasks": ["t0"]},
            {"tasks": ["t1"] * 6},
            {"theme": "house"},
            {"only_today": "no"},
            {"link": "x"},
        ],
        ids=str,
    )
    def test_bounds(self, wrong: dict[str, Any]) -> None:
        """Lengths, numbers, and the names of tasks and themes are in the schema."""
        assert not self.is_valid(**wrong)

    def test_number(self) -> None:
        """An answer has as many candidates as the prompt asks for."""
        validator = Draft202012Validator(answer_schema(KNOWN))
        assert not validator.is_valid({"candidates": [GOOD] * (N_CANDIDATES + 1)})
        assert not validator.is_valid({"candidates": [GOOD] * (N_CANDIDATES - 1)})

    def test_fixed(self) -> None:
        """In its fixed form a body is a text, a task and a text, so that it names a task; without tasks, texts."""
        validator = Draft202012Validator(answer_schema(KNOWN, is_fixed=True))
        bodies = {"named": GOOD["body"], "texts": ["Begin ", "it ", "now."], "short": ["Begin ", {"task": "t1"}]}
        answers = {name: {"candidates": [{**GOOD, "body": body}] * N_CANDIDATES} for name, body in bodies.items()}
        assert [name for name, answer in answers.items() if validator.is_valid(answer)] == ["named"]
        assert answer_schema(context(), is_fixed=True) == answer_schema(context())

    def test_nothing_to_name(self) -> None:
        """Without tasks and themes a body is texts alone."""
        assert self.is_valid(context(), body=["Begin."], tasks=[])
        assert not self.is_valid(context(), body=["Begin ", {"task": "t1"}], tasks=[])
        assert not self.is_valid(context(), body=["Begin."], tasks=[], theme="theme1")

    def test_same_for_many_users(self) -> None:
        """The schema depends on the numbers of tasks and themes alone: no text and no id is in it."""
        other = context(Task("a", "x"), Task("b", "y"), Task("c", "z"), themes={"w": ["a", "b"]})
        assert json.dumps(answer_schema(KNOWN)) == json.dumps(answer_schema(other))

    @settings(max_examples=60, deadline=None)
    @given(contexts())
    def test_any_context(self, known: UserContext) -> None:
        """The schema of any context is a JSON schema."""
        Draft202012Validator.check_schema(answer_schema(known))


class TestReadAnswer:
    def test_good(self) -> None:
        """A candidate has ids in place of short names; the tasks that it names come first."""
        [tip], complaints = read(theme="theme1")
        assert complaints == []
        assert tip.body == ("Begin with ", TaskReference(task="t1"), " before mail.")
        assert (tip.task_ids, tip.theme, tip.only_today) == (("t1", "t2"), "h0", False)

    @pytest.mark.parametrize("answer", [None, [], {}, "x", {"candidates": []}, {"candidates": "x"}, {"tips": [GOOD]}])
    def test_no_candidates(self, answer: Any) -> None:
        """An answer without candidates is complained about."""
        assert read_answer(answer, KNOWN) == ([], ["the answer has no candidates"])

    @pytest.mark.parametrize(
        ("wrong", "complaint"),
        [
            ({"body": ["Begin ", {"task": "t4"}]}, "tasks ['t4'] are not in the context"),
            ({"tasks": ["6X7rM8997g3RQmvh"]}, "are not in the context"),
            ({"theme": "h0"}, "theme is no id"),
            ({"body": ["Begin with t2 now."]}, "reference to a task or theme inside a text"),
            ({"title": "Do T1 now"}, "title holds a reference"),
            ({"body": ["First ", {"task": "t1"}, ", then ", {"task": "t1"}]}, "names a task twice"),
            ({"body": [{"task": "t1"}]}, "1 to 280 characters"),
            ({"body": ["x " * 150]}, "1 to 280 characters"),
            ({"body": ["Just ", {"task": "t2"}, " call the", {"task": "t3"}, " plumber"]}, "body copies words"),
            ({"body": ["Begin with t", "2 now."]}, "reference to a task or theme inside a text"),
            ({"body": ["Now go to example", ".com"]}, "a link"),
            ({"body": ["See evil", {"task": "t2"}, " . example"]}, "a link"),
        ],
        ids=str,
    )
    def test_complaints(self, wrong: dict[str, Any], complaint: str) -> None:
        """A candidate that breaks a rule is left out, with the reason."""
        good, complaints = read(**wrong)
        assert (good, len(complaints)) == ([], 1)
        assert complaint in complaints[0]

    def test_one_bad(self) -> None:
        """A bad candidate costs none of the others."""
        good, complaints = read_answer({"candidates": [GOOD, 7, {**GOOD, "kind": "sermon"}, GOOD]}, KNOWN)
        assert (len(good), [each[:11] for each in complaints]) == (2, ["candidate 2", "candidate 3"])


class TestParts:
    """The parts of a body, as they are joined to sentences."""

    def test_blanks(self) -> None:
        """A missing blank beside a task is added, and none where a sentence has none."""
        assert body("Begin", 1, "today") == ("Begin ", task(1), " today")
        assert body("First:", 1, ", then", 2, ".") == ("First: ", task(1), ", then ", task(2), ".")
        assert body("One", 1, 2) == ("One ", task(1), " ", task(2))
        assert body("Commencez par l’", 1, " !", language="fr") == ("Commencez par l’", task(1), " !")
        assert body("ابدأ بـ", 1, " الآن", language="ar") == ("ابدأ بـ", task(1), " الآن")

    def test_texts_alone(self) -> None:
        """Between two texts without a task a missing blank is added after a word or a sentence."""
        assert body("Begin now.", "Stop at", "noon.") == ("Begin now. Stop at noon.",)
        assert body("Videz l’", "évier, ", 1, language="fr") == ("Videz l’évier, ", task(1))

    def test_without_blanks(self) -> None:
        """A language without blanks between words gets none."""
        assert body("まず", 1, "から始めましょう。", language="ja") == ("まず", task(1), "から始めましょう。")

    @pytest.mark.parametrize(("opening", "closing"), [('"', '"'), ("„", "“"), ("«", "»"), ("「", "」"), ("'", "'")])
    def test_quotation_marks(self, opening: str, closing: str) -> None:
        """A pair of quotation marks around a task is taken out, because its title gets some."""
        made = body(f"Begin {opening}", 1, f"{closing} now")
        assert made == ("Begin ", task(1), " now")
