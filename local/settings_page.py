"""The page docs/settings.md, made from the settings that the programs declare: `python -m local.settings_page`."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import ByteSize
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from contexts.settings import CredentialSettings, DatabaseSettings, Settings, SharedSettings
from serving.settings import ServingSettings

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"

_INTRODUCTION = """\
# Settings

All settings are environment variables. A program reads its settings when it starts, one group after the other, and
stops at the first group with wrong or missing ones: it names each of them with the values that are allowed. This page
is made from the declarations in `contexts/settings.py` and `serving/settings.py`: `python -m local.settings_page`
writes it again, and a test compares it with them.

Inside Airflow, Postgres is the connection `context_store`, and Todoist the HTTP connection `todoist` (without a host
it is the real API); the variables `DATABASE_URL` and `TODOIST_API_URL` are for the service and the commands. The key
and the address of the LLM are in the provider's own variables: `OPENAI_API_KEY`, `OPENAI_BASE_URL`,
`ANTHROPIC_API_KEY`, `OLLAMA_BASE_URL`. A duration with a default such as `06:00:00` is written as
hours:minutes:seconds; all others are numbers in the unit that their row names.
"""

_SECTIONS: tuple[tuple[str, str, type[BaseSettings]], ...] = (
    ("Postgres", "For the service and the commands outside Airflow.", DatabaseSettings),
    ("Stored tokens", "For the pipeline, the service and the commands.", CredentialSettings),
    ("The pipeline and the service", "Set them to the same values for both.", SharedSettings),
    ("The pipeline", "For Airflow's tasks and `python -m assets`.", Settings),
    ("The service", "For `python -m serving`.", ServingSettings),
)


def settings_page() -> str:
    """Return the page as Markdown: a table for each program, with the default and the allowed values."""
    return "\n".join([_INTRODUCTION, *(_section(*section) for section in _SECTIONS)])


def _section(title: str, readers: str, kind: type[BaseSettings]) -> str:
    inherited = {name for base in kind.__bases__ for name in getattr(base, "model_fields", {})}
    rows = [_row(name, field) for name, field in kind.model_fields.items() if name not in inherited]
    return "\n".join([f"## {title}\n", f"{readers}\n", "| variable | default | |", "|---|---|---|", *rows, ""])


def _row(name: str, field: FieldInfo) -> str:
    allowed = "; ".join(_allowed(field))
    meaning = f"{field.description} ({allowed})" if allowed else field.description
    return f"| `{name.upper()}` | {_default(field)} | {str(meaning).replace('|', '&#124;')} |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    if field.default is None:
        return "none"
    return f"`{_written(field.default)}`" if field.default != "" else "empty"


def _allowed(field: FieldInfo) -> Iterator[str]:
    """Yield the values that a setting accepts: its choices, or its bounds."""
    if get_origin(field.annotation) is Literal:
        yield ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    for sign, attribute in ((">", "gt"), ("≥", "ge"), ("<", "lt"), ("≤", "le")):
        for bound in (getattr(each, attribute, None) for each in field.metadata):
            if bound is not None:
                yield f"{sign} {_written(_as_default(bound, field))}"


def _as_default(bound: Any, field: FieldInfo) -> Any:
    """Return a bound in the type of the default, so that both are written in the same unit."""
    return ByteSize(bound) if isinstance(field.default, ByteSize) else bound


def _written(value: Any) -> str:
    """Return a value as it is written in the environment."""
    if isinstance(value, ByteSize):
        return value.human_readable(separator="").replace(".0", "")
    if isinstance(value, timedelta):
        minutes, seconds = divmod(int(value.total_seconds()), 60)
        return f"{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    PAGE.write_text(settings_page())
