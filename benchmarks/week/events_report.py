"""The comparison of rules of believing Todoist's events as a table and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.week.event_channel import CUT_OFF, trusted_share
from benchmarks.week.events import EventsResult
from benchmarks.week.truth import Share, age_percentiles, share_of
from benchmarks.week.workload import MONDAY


def print_events(results: Sequence[EventsResult], until: datetime, console: Console) -> None:
    """Print a column for each rule, when trust began and ended, and what a cut-off of the channel did."""
    table = Table(title="Todoist's events", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("", no_wrap=True)
    for result in results:
        table.add_column(result.week.name, justify="right")
    columns = [list(_cells(result, until)) for result in results]
    for cells in zip(*columns, strict=True):
        table.add_row(cells[0][0], *(text for _, text in cells))
    console.print(table)
    for result in results:
        for line in _trust_lines(result):
            console.print(f"{result.week.name}: {line}", markup=False)


def save_events(results: Sequence[EventsResult], until: datetime, path: Path) -> None:
    """Write all figures as one JSON object, by rule."""
    document = {result.week.name: _to_json(result, until) for result in results}
    path.write_text(json.dumps(document, indent=2, default=str) + "\n")


def _cells(result: EventsResult, until: datetime) -> Iterator[tuple[str, str]]:
    week, answers, channel = result.week, result.answers, result.channel
    yield "requests", f"{week.n_requests:,}"
    yield "Todoist calls", f"{week.n_todoist:,}"
    yield "  of one call a request", f"{week.n_todoist / week.n_requests:.0%}"
    for cause, n in week.todoist.items():
        yield f"  {cause}", f"{n:,}"
    yield "answers that miss a change older than 6 h", _share(_old(result))
    yield "answers that miss any change", _share(share_of(answers, [bool(answer.missed) for answer in answers]))
    newest = age_percentiles([answer.missed[0] for answer in answers if answer.missed])
    yield "age of the newest missed, p50 / p99", " / ".join(map(_hours, newest)) if newest else "none"
    oldest = [answer.missed[-1] for answer in answers if answer.missed]
    yield "age of the oldest missed, at most", _hours(max(oldest)) if oldest else "none"
    by_events = sum(answer.known_by == "events" for answer in answers) / len(answers)
    yield "answers known by events", f"{by_events:.0%}"
    yield "time in which events are trusted", f"{trusted_share(result.trust, MONDAY, until):.0%}"
    counts = result.pipeline_counts
    yield "events folded / dropped", f"{counts.get('events_folded', 0):,} / {counts.get('events_dropped', 0):,}"
    yield "changes audited / missed", f"{counts.get('changes_audited', 0):,} / {counts.get('changes_missed', 0):,}"
    yield "bound of the miss rate, at the end", f"{channel.miss_rate_bound:.2%}"
    yield "days between two audits, at the end", f"{channel.audit_every / timedelta(days=1):.0f}"


def _trust_lines(result: EventsResult) -> Iterator[str]:
    """When trust changed, and after a cut-off the calls of each day and the last answer that missed an old change."""
    for change in result.trust:
        yield f"{change.at:%A %H:%M} " + ("trusted" if change.is_trusted else f"not trusted: {change.reason}")
    if result.cut_off_at is None:
        return
    ends = [change for change in result.trust if not change.is_trusted and change.at > result.cut_off_at]
    if ends:
        yield f"cut off {result.cut_off_at:%A %H:%M} for 24 h, noticed after {_hours(ends[0].at - result.cut_off_at)}"
    else:
        yield f"cut off {result.cut_off_at:%A %H:%M} for 24 h, not noticed"
    for day, (n_calls, n_requests) in enumerate(zip(result.calls_by_day, result.requests_by_day, strict=True)):
        at = MONDAY + timedelta(days=day)
        yield f"{at:%A} {n_calls:,} calls for {n_requests:,} requests, {n_calls / max(1, n_requests):.0%}"
    lost = [each for each in result.answers if _misses_cut_off_change(each.at, each.missed, result.cut_off_at)]
    last = max((each.at for each in lost), default=None)
    yield f"{len(lost)} answers miss a change of the cut-off that is older than 6 h" + (
        f", the last {_hours(last - result.cut_off_at)} after it began" if last else ""
    )


def _misses_cut_off_change(at: datetime, missed: Sequence[timedelta], cut_off_at: datetime) -> bool:
    """Whether an answer misses a change that was made during the cut-off, and is older than 6 h."""
    old = [at - age for age in missed if age > timedelta(hours=6)]
    return any(cut_off_at <= changed_at < cut_off_at + CUT_OFF for changed_at in old)


def _old(result: EventsResult) -> Share:
    return share_of(result.answers, [answer.misses_old for answer in result.answers])


def _share(share: Share) -> str:
    return f"{share.value:.1%} ({share.low:.1%} - {share.high:.1%})"


def _hours(duration: timedelta) -> str:
    return f"{duration / timedelta(hours=1):.1f} h"


def _to_json(result: EventsResult, until: datetime) -> dict[str, Any]:
    return {
        "table": {name.strip(): text for name, text in _cells(result, until)},
        "old_share": asdict(_old(result)),
        "trust": [asdict(change) for change in result.trust],
        "calls_by_day": result.calls_by_day,
        "requests_by_day": result.requests_by_day,
        "pipeline_counts": result.pipeline_counts,
        "lines": list(_trust_lines(result)),
    }
