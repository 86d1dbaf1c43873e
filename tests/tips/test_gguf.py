"""A GGUF file as an LLM, in a process of its own."""

from __future__ import annotations

import asyncio
import os
from datetime import date
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from strategies import context

from contexts.assembly.model import Task
from tips.generator import LLMGenerator
from tips.gguf import opened_model
from tips.models import LLMError
from tips.violations import violations

KNOWN = context(
    Task("a", "Renew the passport", due_date="2026-11-20", priority=4),
    Task("b", "Call the plumber", duration_minutes=10),
    Task("c", "Learn to whistle"),
)


def test_other_names() -> None:
    """Any other model is returned as it is, without a process."""
    with opened_model("openai:gpt-5-mini") as model:
        assert model == "openai:gpt-5-mini"


def test_no_file(tmp_path: Path) -> None:
    """A file that does not exist is refused with the setting and its value."""
    name = f"gguf:{tmp_path / 'none.gguf'}"
    with pytest.raises(LLMError, match="there is no such file"), opened_model(name):
        pass


def test_no_model(tmp_path: Path) -> None:
    """A file that is no model is refused; without the library, the message says how to install it."""
    file = tmp_path / "model.gguf"
    file.write_bytes(b"x")
    reason = "cannot load this file" if find_spec("xllamacpp") else "xllamacpp is not installed"
    with pytest.raises(LLMError, match=reason), opened_model(f"gguf:{file}"):
        pass


@pytest.mark.llm
@pytest.mark.skipif("LLM_GGUF" not in os.environ, reason="LLM_GGUF names no file")
def test_real_model() -> None:
    """A real model is called within its process, which has ended afterwards; whatever it writes is checked."""
    with opened_model(f"gguf:{os.environ['LLM_GGUF']}") as model:
        children = psutil.Process().children(recursive=True)
        generator = LLMGenerator(model, timeout_s=500)
        made = asyncio.run(generator.generate(KNOWN, date(2026, 11, 23), timeout_s=500))
    assert made.usage is not None
    assert made.usage.outcome in ("answered", "repaired", "invalid")
    assert made.usage.input_tokens and made.usage.output_tokens
    assert not [violation for tip in made.tips for violation in violations(tip, KNOWN)]
    assert children and not [child for child in children if child.is_running()]
