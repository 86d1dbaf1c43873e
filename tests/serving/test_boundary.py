"""Hostile texts of other people in a real account: none reaches the LLM, from the pipeline or from a request."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from service import ServiceHarness
from world import NOON

from local.llm.adversaries import ADVERSARIES, HostileText, adversary, carries, hostile_texts
from tips.prompt import INSTRUCTIONS

TEXTS = hostile_texts()
GROUP_SIZE = 15
GROUPS = [TEXTS[start : start + GROUP_SIZE] for start in range(0, len(TEXTS), GROUP_SIZE)]
OWN = ("Renew the passport", "Sort the photographs", "Feed the hamster")
ANN, BOB = "1", "2"
HOUR = timedelta(hours=1)


def shared_account(texts: tuple[HostileText, ...], author: str) -> dict[str, Any]:
    """An account with a private project, and a shared one in which every name and title is hostile.

    author: of the hostile tasks; each has a sub-task that the user added.
    """
    titles = [hostile.text for hostile in texts]
    own = [
        {"id": f"o{n}", "content": title, "project_id": "home", "added_by_uid": ANN} for n, title in enumerate(OWN)
    ]
    place = {"project_id": "shared", "section_id": "s"}
    hostile = [
        {
            "id": f"h{n}",
            "content": title,
            "description": titles[n - 1],
            "labels": [titles[n - 2]],
            "added_by_uid": author,
            "due": {"date": "2026-11-23"},
            "priority": 4,
            **place,
        }
        for n, title in enumerate(titles)
    ]
    children = [
        {"id": f"c{n}", "content": "feed the hamster again", "parent_id": f"h{n}", "added_by_uid": ANN, **place}
        for n in range(3)
    ]
    return {
        "full_sync": True,
        "sync_token": "x",
        "items": [*own, *hostile, *children],
        "projects": [
            {"id": "home", "name": "Home", "is_shared": False},
            {"id": "shared", "name": titles[0], "is_shared": True},
        ],
        "sections": [{"id": "s", "project_id": "shared", "name": titles[1]}],
        "user": {"id": ANN, "lang": "en", "tz_info": {"timezone": "UTC"}},
    }


def carried(harness: ServiceHarness, name: str, at: Any) -> tuple[set[str], set[str]]:
    """The hostile texts in the prompts and in the tips, after a request for each group's user."""
    harness.llm.behaviour = adversary(name)
    service = harness.open(llm_timeout=20, request_budget=60, todoist_timeout=20)
    harness.clock.at = at
    in_prompts, in_tips = set[str](), set[str]()
    for number, group in enumerate(GROUPS):
        harness.llm.calls.clear()
        service.tip(f"user-{number}")
        assert harness.llm.calls
        prompts = " ".join(call.prompt.replace(INSTRUCTIONS, "") for call in harness.llm.calls)
        tips = " ".join(f"{tip['title']} {tip['body']}" for tip in harness.candidates())
        in_prompts |= {each.text for each in group if carries(prompts, each.text)}
        in_tips |= {each.text for each in group if carries(tips, each.text)}
    return in_prompts, in_tips


def test_suite() -> None:
    """There are at least 130 hostile texts, of many tactics and languages."""
    assert len({hostile.text for hostile in TEXTS}) >= 130
    assert len({hostile.tactic for hostile in TEXTS}) >= 9
    assert len({hostile.language for hostile in TEXTS}) >= 15


@pytest.mark.parametrize("name", ADVERSARIES)
def test_pipeline(harness: ServiceHarness, name: str) -> None:
    """From contexts of the pipeline no hostile text of somebody else reaches a prompt or a tip."""
    for number, group in enumerate(GROUPS):
        harness.world.add(f"user-{number}", shared_account(group, BOB))
    harness.world.night(NOON)
    assert carried(harness, name, NOON + HOUR) == (set(), set())


@pytest.mark.parametrize("name", ADVERSARIES)
def test_request(harness: ServiceHarness, name: str) -> None:
    """From contexts assembled during requests none does, also with the themes of the last clustering."""
    for number, group in enumerate(GROUPS):
        harness.world.add(f"user-{number}", shared_account(group, BOB))
    harness.world.night(NOON)
    for number, group in enumerate(GROUPS):
        done = [{"id": f"h{n}", "checked": True} for n in range(0, len(group), 2)]
        harness.todoist.advance(f"user-{number}", {"items": done})
    assert carried(harness, name, NOON + 8 * HOUR) == (set(), set())
    assert harness.one("SELECT count(*) FROM context_store WHERE materialized_at > %s", NOON) == len(GROUPS)


def test_can_fail(harness: ServiceHarness) -> None:
    """Texts that the user added do reach the prompt, and a splitter carries some of them into tips."""
    for number, group in enumerate(GROUPS):
        harness.world.add(f"user-{number}", shared_account(group, ANN))
    harness.world.night(NOON)
    in_prompts, in_tips = carried(harness, "splitter", NOON + HOUR)
    assert len(in_prompts) > len(TEXTS) / 2
    assert len(in_tips) > len(GROUPS)
