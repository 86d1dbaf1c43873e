"""A context and tips about it, for tests."""

from __future__ import annotations

import json
from typing import Any

from strategies import context

from contexts.assembly.model import UserContext
from tips.candidates import Tip

BODY = "Ten minutes without interruption are a good beginning."
KNOWN = context("Renew the passport", "Call the plumber", "Buy oat milk", themes={"house and garden": ["t0", "t1"]})


def tip(title: str = "One thing at a time", body: str = BODY, **fields: Any) -> Tip:
    """A valid tip, with some fields changed."""
    return Tip(**{"kind": "focus", "title": title, "body": body, **fields})


def context_json(context: UserContext) -> str:
    """A context as the assembler serializes it."""
    document = context.model_dump(mode="json", exclude_defaults=True) | {"version": context.version}
    return json.dumps(document, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
