"""Tips ahead in batches: submitted and collected over HTTP, through failures on either side, paid once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from scribe import ask_daily
from world import NOON, World, run_step

from assets.options import RunOptions
from assets.runtime import tip_writer
from assets.steps import StepRunner
from assets.tips_ahead import AheadSettings, TipWriter
from contexts.settings import Settings
from contexts.todoist.credentials import CredentialCipher, Credentials
from local.llm import BatchFault, LocalLLM, running_llm
from tips.batches import CandidateBatches
from tips.generator import LLMGenerator

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LATER = NOON + 9 * HOUR
"""A request that a batch at noon is made for: after the next run, before the next night."""

SECRET = b"secret of the mark"
MODEL = "openai:gpt-5-mini"


@dataclass
class Provider:
    """The LLM of the world's pipeline behind HTTP, with batches, and the clock of both."""

    world: World
    llm: LocalLLM

    def night(self, now: datetime) -> dict[str, int]:
        """Run every step at an instant; return the counts of the step that writes tips."""
        self.world.clock = lambda: now
        sums: dict[str, int] = {}
        for result in self.world.night(now)["tip_candidates"]:
            for name, n in result.counts.items():
                sums[name] = sums.get(name, 0) + n
        return {name: n for name, n in sums.items() if n}

    def sets(self) -> list[str]:
        """The users for whom tips were written ahead, in the order of the sets."""
        sql = "SELECT user_id FROM candidate_sets WHERE origin = 'ahead' AND author = 'llm' ORDER BY made_at, user_id"
        return [user for (user,) in self.world.connection.execute(sql)]

    def outcomes(self) -> list[str | None]:
        """The outcome of each batch on record, the oldest first; None: under way."""
        return [
            row[0] for row in self.world.connection.execute("SELECT outcome FROM llm_batches ORDER BY created_at")
        ]


@pytest.fixture
def provider(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """A provider whose batches take an hour."""
    llm = LocalLLM(clock=lambda: world.clock())
    llm.batches.seconds = HOUR.total_seconds()
    with running_llm(llm) as url:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{url}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", "key")
        world.n_shards, world.clock = 1, lambda: NOON
        world.new_generator = lambda: LLMGenerator(MODEL, timeout_s=30.0, mark_secret=SECRET)
        world.new_batches = lambda model: CandidateBatches(model, mark_secret=SECRET)
        world.batch_model = MODEL
        yield Provider(world, llm)


def add(world: World, account: Any, *users: str, at: datetime = LATER) -> None:
    """Add users who ask daily at the time of day of `at`."""
    for user in users:
        world.add(user, account(f"call the dentist of {user}", "water the plants"))
        ask_daily(world, user, at)


def test_two_runs(world: World, account: Any, provider: Provider) -> None:
    """A run submits one batch for all who ask after the next run; a later one stores the tips, deletes the files."""
    add(world, account, "ann", "bob")
    assert provider.night(NOON) == {"tips_submitted": 2}
    assert (len(provider.llm.batches.batches), len(provider.llm.batches.files), provider.sets()) == (1, 1, [])
    assert provider.night(NOON + 2 * HOUR)["tips_collected"] == 2
    assert provider.sets() == ["ann", "bob"]
    assert provider.llm.batches.files == {}
    assert [row["user_id"] for row in world.rows("tip_candidates")] == ["ann", "bob"]
    calls = world.connection.execute("SELECT outcome, place, input_tokens > 0, called_at, seconds FROM llm_calls")
    assert calls.fetchall() == [("answered", "ahead", True, NOON, 7200.0)] * 2


def test_price(world: World, account: Any, provider: Provider) -> None:
    """A request in a batch is recorded at half the cost of the same call at once."""
    add(world, account, "ann")
    provider.night(NOON)
    provider.night(NOON + 2 * HOUR)
    [(in_batch, input_tokens)] = world.connection.execute("SELECT cost_usd, input_tokens FROM llm_calls").fetchall()
    world.connection.execute("DELETE FROM llm_calls")
    world.connection.execute("DELETE FROM candidate_sets")
    world.batch_model = None
    add(world, account, "bob", at=NOON + 3 * HOUR)
    provider.night(NOON + 2 * HOUR)
    [(at_once, input_tokens_at_once)] = world.connection.execute(
        "SELECT cost_usd, input_tokens FROM llm_calls WHERE user_id = 'bob'"
    ).fetchall()
    assert in_batch / input_tokens == pytest.approx(at_once / input_tokens_at_once / 2, rel=0.1)


def test_under_way(world: World, account: Any, provider: Provider) -> None:
    """A user with a request in a batch under way gets no other set, and the batch is collected when it is over."""
    provider.llm.batches.seconds = 5 * HOUR.total_seconds()
    add(world, account, "ann")
    provider.night(NOON)
    assert provider.night(NOON + 2 * HOUR) == {"tips_under_way": 1}
    assert provider.night(NOON + 8 * HOUR)["tips_collected"] == 1
    assert len(provider.llm.calls) == 1


def test_soon(world: World, account: Any, provider: Provider) -> None:
    """Those who ask before the next run get their tips at once, beside a batch for the others."""
    add(world, account, "ann", at=NOON + HOUR)
    add(world, account, "bob")
    assert provider.night(NOON) == {"tips_written": 1, "tips_submitted": 1}
    assert provider.sets() == ["ann"]


def test_same_prompt(world: World, account: Any, provider: Provider) -> None:
    """A batch sends the bytes that a call at once sends for the same context."""
    add(world, account, "ann")
    provider.night(NOON)
    provider.night(NOON + 2 * HOUR)
    world.batch_model = None
    world.connection.execute("DELETE FROM candidate_sets")
    assert provider.night(LATER - HOUR)["tips_written"] == 1
    in_batch, at_once = (call.prompt for call in provider.llm.calls)
    assert in_batch == at_once


def test_expired(world: World, account: Any, provider: Provider) -> None:
    """The finished answers of an expired batch are used, and the others are written later."""
    provider.llm.batches.fault = BatchFault.EXPIRING
    add(world, account, "ann", "bob")
    provider.night(NOON)
    assert provider.night(NOON + 8 * HOUR) == {"tips_under_way": 2}
    counts = provider.night(NOON + 25 * HOUR)
    assert (counts["tips_collected"], counts["tips_left_out"]) == (1, 1)
    assert (provider.outcomes()[0], len(provider.llm.calls)) == ("expired", 1)
    provider.llm.batches.fault = BatchFault.NONE
    provider.night(NOON + 32 * HOUR)
    assert set(provider.sets()) == {"ann", "bob"}


def test_partly_failing(world: World, account: Any, provider: Provider) -> None:
    """A request that fails in a batch costs that user's tips only."""
    provider.llm.batches.fault = BatchFault.FAILING
    add(world, account, "ann", "bob")
    provider.night(NOON)
    counts = provider.night(NOON + 2 * HOUR)
    assert (counts["tips_collected"], counts["tips_failed"]) == (1, 1)
    assert provider.sets() == ["ann"]
    assert provider.llm.batches.files == {}


def test_submitted_but_not_recorded(world: World, account: Any, provider: Provider) -> None:
    """A batch whose submission was never confirmed is found by its id and collected: it is paid once."""
    provider.llm.batches.fault = BatchFault.UNANSWERED
    add(world, account, "ann")
    assert provider.night(NOON) == {"tips_left_out": 1}
    provider.llm.batches.fault = BatchFault.NONE
    assert provider.night(NOON + 2 * HOUR)["tips_collected"] == 1
    assert (len(provider.llm.batches.batches), len(provider.llm.calls)) == (1, 1)
    assert provider.llm.batches.files == {}


def test_uploaded_but_not_submitted(world: World, account: Any, provider: Provider) -> None:
    """The uploaded requests of a batch that was never created are deleted, and its users get tips after that."""
    provider.llm.batches.fault = BatchFault.UNCREATED
    add(world, account, "ann")
    provider.night(NOON)
    assert len(provider.llm.batches.files) == 1
    provider.llm.batches.fault = BatchFault.NONE
    provider.night(NOON + 2 * HOUR)
    assert provider.llm.batches.files == {}
    assert provider.outcomes() == ["not submitted"]
    assert provider.night(LATER - HOUR)["tips_written"] == 1


def test_provider_down(world: World, account: Any, provider: Provider) -> None:
    """A batch that cannot be collected, because the provider is down, is collected by a later run."""
    add(world, account, "ann")
    provider.night(NOON)
    provider.llm.batches.fault = BatchFault.DOWN
    assert provider.night(NOON + 2 * HOUR) == {"tips_under_way": 1}
    provider.llm.batches.fault = BatchFault.NONE
    assert provider.night(NOON + 6 * HOUR)["tips_collected"] == 1


def test_undeleted_files(world: World, account: Any, provider: Provider) -> None:
    """Files that the provider does not delete are deleted by a later run."""
    add(world, account, "ann")
    provider.night(NOON)
    provider.llm.batches.fault = BatchFault.UNDELETED
    assert provider.night(NOON + 2 * HOUR)["tips_collected"] == 1
    assert provider.llm.batches.files
    provider.llm.batches.fault = BatchFault.NONE
    provider.night(NOON + 6 * HOUR)
    assert provider.llm.batches.files == {}
    assert len(provider.sets()) == 1


def test_removed_user(world: World, account: Any, provider: Provider) -> None:
    """The answer about a user who was removed meanwhile is dropped unread, and the provider keeps no file of it."""
    add(world, account, "ann", "bob")
    provider.night(NOON)
    assert world.accounts.held_at_provider_until("ann") == NOON + DAY
    world.accounts.remove("ann")
    assert provider.night(NOON + 2 * HOUR)["tips_collected"] == 1
    assert provider.sets() == ["bob"]
    assert provider.llm.batches.files == {}
    assert world.accounts.held_at_provider_until("bob") is None


def test_removed_last_user(world: World, account: Any, provider: Provider) -> None:
    """A batch whose only user was removed is cancelled before it asks the LLM, and its file deleted."""
    provider.llm.batches.seconds = DAY.total_seconds()
    add(world, account, "ann")
    provider.night(NOON)
    world.accounts.remove("ann")
    provider.night(NOON + 2 * HOUR)
    provider.night(NOON + 4 * HOUR)
    assert (provider.outcomes(), provider.llm.calls, provider.llm.batches.files) == (["cancelled"], [], {})


def test_replaced_account(world: World, account: Any, provider: Provider) -> None:
    """The answer about an account that was replaced meanwhile is not stored."""
    add(world, account, "ann")
    provider.night(NOON)
    world.todoist.load("another-token", account("sing"), user="ann-2")
    world.accounts.add("ann", email="ann@example.org", timezone="UTC", credentials=Credentials("another-token"))
    assert provider.night(NOON + 2 * HOUR)["tips_failed"] == 1
    assert provider.sets() == []


def test_written_meanwhile(world: World, account: Any, provider: Provider) -> None:
    """The answer of a batch does not replace tips that the LLM wrote for the user after its submission."""
    add(world, account, "ann", "bob")
    provider.night(NOON)
    provider.llm.batches.seconds = 0
    world.connection.execute(
        """INSERT INTO candidate_sets (candidate_set_id, user_id, context_hash, author, origin, made_at, expires_at,
               renew_at, tips, subject_hashes, kinds, themes, features, connection_number)
           SELECT gen_random_uuid(), 'ann', 'h', 'llm', 'behind', %s, %s, %s, '{}', '{}', '{}', '{}', '',
                  connection_number
           FROM todoist_accounts WHERE user_id = 'ann'""",
        (NOON + HOUR, NOON + DAY, NOON + DAY),
    )
    counts = provider.night(NOON + 2 * HOUR)
    assert (counts["tips_collected"], counts["tips_superseded"]) == (1, 1)
    assert provider.sets() == ["bob"]


@pytest.mark.parametrize("is_off", [False, True])
def test_no_more_batches(world: World, account: Any, provider: Provider, is_off: bool) -> None:
    """A batch under way is collected, also after tips are no longer written in batches, or not ahead at all."""
    add(world, account, "ann")
    provider.night(NOON)
    world.batch_model = None
    if is_off:
        world.new_generator = None
    assert provider.night(NOON + 2 * HOUR)["tips_collected"] == 1
    assert provider.llm.batches.files == {}


def test_budget(world: World, account: Any, provider: Provider) -> None:
    """Requests in batches count as calls of the day on which they are submitted."""
    world.ahead = AheadSettings(max_calls=1)
    add(world, account, "ann", "bob")
    assert provider.night(NOON) == {"tips_submitted": 1, "tips_left_out": 1}
    assert "tips_submitted" not in provider.night(NOON + timedelta(minutes=10))


def test_budget_of_dollars(world: World, account: Any, provider: Provider) -> None:
    """A batch is as large as the day's dollars allow at the mean price of past calls, those under way included."""
    world.ahead = AheadSettings(max_cost_usd=0.008)
    add(world, account, "ann", "bob", "cem")
    world.connection.execute(
        "INSERT INTO llm_calls (called_at, user_id, model, outcome, n_requests, seconds, cost_usd, place)"
        " VALUES (%s, 'ann', 'test:scribe', 'answered', 1, 0.5, 0.003, 'ahead')",
        (NOON - 2 * DAY,),
    )
    assert provider.night(NOON) == {"tips_submitted": 2, "tips_left_out": 1}
    assert "tips_submitted" not in provider.night(NOON + timedelta(minutes=10))


def test_removed_before_the_submission(world: World, account: Any, provider: Provider) -> None:
    """The context of a user who is removed after the plan, or who has another account by then, is not submitted."""
    add(world, account, "ann", "bob", "cem")

    def new_batches(model: str) -> CandidateBatches:
        world.accounts.remove("ann")
        world.accounts.set_active("bob", active=False)
        return CandidateBatches(model, mark_secret=SECRET)

    world.new_batches = new_batches
    assert provider.night(NOON) == {"tips_submitted": 1, "tips_left_out": 2}
    [file] = provider.llm.batches.files.values()
    assert [name for name in ("ann", "bob", "cem") if f"of {name}".encode() in file.content] == ["cem"]


def test_nobody_left_before_the_submission(world: World, account: Any, provider: Provider) -> None:
    """A batch whose only user is removed before its submission is not created."""
    add(world, account, "ann")

    def new_batches(model: str) -> CandidateBatches:
        world.accounts.remove("ann")
        return CandidateBatches(model, mark_secret=SECRET)

    world.new_batches = new_batches
    assert provider.night(NOON) == {"tips_left_out": 1}
    assert (provider.outcomes(), provider.llm.batches.files) == (["not submitted"], {})


def edit_answers(provider: Provider, now: datetime, change: Callable[[list[dict[str, Any]]], str]) -> None:
    """Let the only batch end at an instant, with other lines in its file of answers."""
    provider.world.clock = lambda: now
    [batch_id] = provider.llm.batches.batches
    provider.llm.batches.batch(batch_id)
    file_id = provider.llm.batches.batches[batch_id]["output_file_id"]
    file = provider.llm.batches.files[file_id]
    content = change([json.loads(line) for line in file.content.splitlines()]).encode()
    provider.llm.batches.files[file_id] = replace(file, content=content)


def test_too_large_an_answer(world: World, account: Any, provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch whose answers are larger than a run reads is lost, its files are deleted, and the step goes on."""
    monkeypatch.setattr("tips.batches._MAX_ANSWER_BYTES", 4096)
    add(world, account, "ann")
    provider.night(NOON)
    edit_answers(provider, NOON + 2 * HOUR, lambda lines: json.dumps(lines[0]) + "\n" + " " * 4096)
    world.batch_model = None
    provider.night(NOON + 2 * HOUR)
    assert (provider.outcomes(), provider.llm.batches.files) == (["lost"], {})


def test_line_separators(world: World, account: Any, provider: Provider) -> None:
    """A tip with a line separator of Unicode costs nobody else's tips."""
    add(world, account, "ann", "bob")
    provider.night(NOON)

    def change(lines: list[dict[str, Any]]) -> str:
        part = lines[0]["response"]["body"]["output"][0]["content"][0]
        part["text"] = part["text"].replace(" ", "\u2028", 1)
        return "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)

    edit_answers(provider, NOON + 2 * HOUR, change)
    provider.night(NOON + 2 * HOUR)
    assert "bob" in provider.sets()


def test_answers_of_other_requests(world: World, account: Any, provider: Provider) -> None:
    """Answers to requests that nobody made are dropped, and of two answers to one request one is used."""
    add(world, account, "ann", "bob")
    provider.night(NOON)

    def change(lines: list[dict[str, Any]]) -> str:
        return "\n".join(map(json.dumps, [*lines, lines[0], {**lines[1], "custom_id": "other"}]))

    edit_answers(provider, NOON + 2 * HOUR, change)
    assert provider.night(NOON + 2 * HOUR)["tips_collected"] == 2
    assert provider.sets() == ["ann", "bob"]


def test_run_that_dies_between_two_answers(world: World, account: Any, provider: Provider) -> None:
    """Answers that a run stored before it died are kept, and the next run stores the others: each is paid once."""
    add(world, account, "ann", "bob")
    provider.night(NOON)
    world.connection.execute(
        """CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'died'; END $$;
           CREATE TRIGGER die BEFORE UPDATE ON llm_batch_requests FOR EACH ROW
           WHEN (NEW.user_id = 'bob') EXECUTE FUNCTION die()"""
    )
    with pytest.raises(psycopg.errors.RaiseException):
        provider.night(NOON + 2 * HOUR)
    world.connection.execute("DROP TRIGGER die ON llm_batch_requests")
    assert provider.sets() == ["ann"]
    assert provider.night(NOON + 3 * HOUR)["tips_collected"] == 1
    assert provider.sets() == ["ann", "bob"]
    assert world.connection.execute("SELECT count(*) FROM llm_calls").fetchone() == (2,)


def test_context_of_another_version(world: World, account: Any, provider: Provider) -> None:
    """A request whose context the present version cannot read is given up, and the others of the batch are stored."""
    add(world, account, "ann", "bob")
    provider.night(NOON)
    world.connection.execute(
        """UPDATE llm_batch_requests SET context_json = '{"version": 0}' WHERE user_id = 'ann'"""
    )
    assert provider.night(NOON + 2 * HOUR)["tips_collected"] == 1
    assert (provider.sets(), provider.outcomes(), provider.llm.batches.files) == (["bob"], ["completed"], {})


def test_files_that_are_never_deleted(world: World, account: Any, provider: Provider) -> None:
    """A batch that was collected stays so on record if the provider never deletes its files."""
    add(world, account, "ann")
    provider.night(NOON)
    provider.llm.batches.fault = BatchFault.UNDELETED
    provider.night(NOON + 2 * HOUR)
    world.new_generator = None
    provider.night(NOON + 40 * HOUR)
    assert provider.outcomes() == ["completed"]


def test_records(world: World, account: Any, provider: Provider) -> None:
    """Nothing of a collected batch stays but its records, without contexts, and these for a week."""
    add(world, account, "ann")
    provider.night(NOON)
    provider.night(NOON + 2 * HOUR)
    assert world.connection.execute("SELECT context_json FROM llm_batch_requests").fetchall() == [(None,)]
    world.new_generator = None
    provider.night(NOON + 8 * DAY)
    assert provider.outcomes() == []


def test_unusable_answer(world: World, account: Any, provider: Provider) -> None:
    """An answer without good tips is no set, and no repair is requested."""
    provider.llm.behaviour = lambda _: json.dumps({"candidates": []})
    add(world, account, "ann")
    provider.night(NOON)
    assert provider.night(NOON + 2 * HOUR)["tips_failed"] == 1
    assert len(provider.llm.calls) == 1


def test_settings(world: World, account: Any, provider: Provider) -> None:
    """TIPS_AHEAD=batch submits batches of LLM_MODEL, which a pipeline without both settings collects."""
    provider.llm.batches.seconds = 0
    add(world, account, "ann")
    with_batches = {"llm_model": MODEL, "tips_ahead": "batch"}
    for now, options, n_sets in ((NOON, with_batches, 0), (NOON + 2 * HOUR, {}, 1)):
        settings = Settings.model_validate({"n_shards": 1, "data_root": str(world.root), **options})
        writer = tip_writer(settings, world.connection, CredentialCipher([world.key]))
        runtime = replace(world.runtime, tip_writer=writer)
        for step in world.graph.steps:
            resources = {**world.resources, TipWriter: writer}
            run_step(StepRunner(world.graph, runtime, resources, now, RunOptions()), step, f"{step} {now}")
        assert len(provider.llm.batches.batches) == 1
        assert len(provider.sets()) == n_sets
    assert provider.llm.batches.files == {}
