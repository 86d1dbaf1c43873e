"""Time zones as Todoist reports them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import psycopg
import pytest

from contexts.todoist.zones import valid_zone, zone_of

NOVEMBER, JULY = datetime(2026, 11, 23, 12, tzinfo=UTC), datetime(2026, 7, 1, 12, tzinfo=UTC)
OFFSETS = [*range(-12 * 60, 15 * 60, 60), -570, -210, 210, 270, 330, 345, 390, 525, 570, 630, 765]
"""The offsets of all zones without daylight saving time, in minutes."""


def at_offset(minutes: int, **more: Any) -> dict[str, Any]:
    """Return the `tz_info` of an offset without the name of a zone."""
    sign = 1 if minutes >= 0 else -1
    hours, rest = divmod(abs(minutes), 60)
    name = f"GMT {'+' if sign > 0 else '-'}{hours}:{rest:02}"
    return {"timezone": name, "hours": sign * hours, "minutes": sign * rest, **more}


@pytest.mark.parametrize("minutes", OFFSETS)
def test_offset(minutes: int) -> None:
    """An offset in place of a name gives a zone that has this offset outside daylight saving time."""
    zone = ZoneInfo(str(zone_of(at_offset(minutes, is_dst=0))))
    winter = next(at for at in (NOVEMBER, JULY) if not at.astimezone(zone).dst())
    assert winter.astimezone(zone).utcoffset() == timedelta(minutes=minutes)


def test_read_alike(database_url: str) -> None:
    """Python, Postgres and DuckDB read every such zone alike, in winter and in summer."""
    zones = [zone_of(at_offset(minutes)) for minutes in OFFSETS]
    with psycopg.connect(database_url) as connection, duckdb.connect() as analysts:
        for zone in zones:
            for at in (NOVEMBER, JULY):
                expected = at.astimezone(ZoneInfo(str(zone))).replace(tzinfo=None)
                [found] = connection.execute("SELECT %s AT TIME ZONE %s", (at, zone)).fetchone() or ()
                [same] = analysts.execute("SELECT timezone(?, ?)", [zone, at]).fetchone() or ()
                assert (found, same) == (expected, expected)


@pytest.mark.parametrize(
    ("tz_info", "zone"),
    [
        ({"timezone": "Europe/Berlin", "hours": 5}, "Europe/Berlin"),
        ({"timezone": "GMT -3:00", "hours": -3, "minutes": 0, "is_dst": 0}, "Etc/GMT+3"),
        ({"timezone": "GMT -3:00"}, "Etc/GMT+3"),
        ({"timezone": "GMT +5:30", "hours": 5.0, "minutes": 30.0}, "Asia/Kolkata"),
        ({"timezone": "?", "gmt_string": "+05:45"}, "Asia/Kathmandu"),
        ({"timezone": "GMT +0:00"}, "Etc/GMT"),
        ({"hours": -3, "minutes": 30}, "America/St_Johns"),
        ({"hours": -2, "minutes": -30, "is_dst": 1}, "America/St_Johns"),
        ({"timezone": "GMT -3:17", "hours": -3, "minutes": -17}, None),
        ({"timezone": "GMT +27:00"}, None),
        ({"hours": float("nan"), "minutes": 0}, None),
        ({"hours": 1e308, "minutes": 0}, None),
        ({"hours": 10**400, "minutes": 0}, None),
        ({"hours": True}, None),
        ({"hours": "3"}, None),
        ({"timezone": ["Europe/Berlin"]}, None),
        ({}, None),
    ],
    ids=str,
)
def test_forms(tz_info: dict[str, Any], zone: str | None) -> None:
    """A name counts first, then the numbers, then the texts of the offset; anything else is no zone."""
    assert zone_of(tz_info) == zone


@pytest.mark.parametrize("name", ["Mars/Olympus", "", None, 5, "../../etc/passwd", "Europe", "a\x00b", "\ud800"])
def test_invalid_name(name: object) -> None:
    """A name that tzdata does not have is no zone, whatever it contains."""
    assert valid_zone(name) is None
