"""Time zones as Todoist reports them, as names that Python, Postgres and DuckDB read alike. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import copysign
from typing import Any, TypeGuard
from zoneinfo import ZoneInfo

_OFFSET = re.compile(r"(?:GMT|UTC)?\s*([+-])(\d{1,2})(?::?(\d\d))?", re.ASCII | re.IGNORECASE)

_MIN_HOURS, _MAX_HOURS = -12, 14
"""The whole hours for which tzdata has a zone `Etc/GMT...`; the sign in its name is the opposite one."""

_FIXED_ZONES = {
    -570: "Pacific/Marquesas",
    210: "Asia/Tehran",
    270: "Asia/Kabul",
    330: "Asia/Kolkata",
    345: "Asia/Kathmandu",
    390: "Asia/Yangon",
    525: "Australia/Eucla",
    570: "Australia/Darwin",
}
"""Zones without daylight saving time whose offset is not a whole hour, by the offset in minutes."""

_DAYLIGHT_SAVING_ZONES = {
    (-210, False): "America/St_Johns",
    (-150, True): "America/St_Johns",
    (630, False): "Australia/Lord_Howe",
    (630, True): "Australia/Adelaide",
    (765, False): "Pacific/Chatham",
    (825, True): "Pacific/Chatham",
}
"""Other zones whose offset is not a whole hour, by the offset in minutes and whether daylight saving time is on."""


def valid_zone(name: object) -> str | None:
    """Return the name of an existing time zone, or None if `name` is not one."""
    try:
        return ZoneInfo(name).key if isinstance(name, str) and name else None
    except (KeyError, ValueError, OSError):
        return None


def zone_of(tz_info: Mapping[str, Any]) -> str | None:
    """Return the IANA name of a user's `tz_info`, or None if it names no zone and no offset.

    Todoist gives a name, or an offset such as `GMT -3:00` with the current `hours` and `minutes` from UTC and
    `is_dst`. An offset becomes a zone that has it: `Etc/GMT+3` for whole hours.
    """
    if name := valid_zone(tz_info.get("timezone")):
        return name
    texts = (_offset_in_text(tz_info.get(key)) for key in ("timezone", "gmt_string"))
    offsets = (minutes for minutes in (_offset_in_numbers(tz_info), *texts) if minutes is not None)
    minutes = next(offsets, None)
    return None if minutes is None else _zone_at(minutes, is_dst=bool(tz_info.get("is_dst")))


def _zone_at(minutes: int, *, is_dst: bool) -> str | None:
    hours, rest = divmod(minutes, 60)
    if rest == 0 and _MIN_HOURS <= hours <= _MAX_HOURS:
        return f"Etc/GMT{-hours:+d}" if hours else "Etc/GMT"
    return _FIXED_ZONES.get(minutes) or _DAYLIGHT_SAVING_ZONES.get((minutes, is_dst))


def _offset_in_numbers(tz_info: Mapping[str, Any]) -> int | None:
    """Return the offset in minutes by the fields `hours` and `minutes`; the sign of the hours counts for both."""
    hours, minutes = tz_info.get("hours"), tz_info.get("minutes", 0)
    if not (_is_whole(hours) and _is_whole(minutes)):
        return None
    sign = copysign(1, hours or minutes)
    return int(sign * (abs(hours) * 60 + abs(minutes)))


def _is_whole(value: object) -> TypeGuard[int | float]:
    """Return whether a value is a whole number of hours or minutes, and less than 60."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 60 and float(value).is_integer()


def _offset_in_text(text: object) -> int | None:
    match = _OFFSET.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        return None
    sign, hours, minutes = match.groups()
    return int(f"{sign}1") * (int(hours) * 60 + int(minutes or 0))
