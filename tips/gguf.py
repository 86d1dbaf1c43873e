"""A GGUF file as an LLM: llama.cpp's server in a process of its own, which ends with the process that started it.

`python -m tips.gguf PATH` is that process. It reads the server's key from its input, prints its address, and serves
on the loopback interface until its input ends.
"""

from __future__ import annotations

import atexit
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic_ai.models import Model
from pydantic_ai.providers.openai import OpenAIProvider

from tips.bounded_http import bounded_client
from tips.models import LlamaCppModel, LLMError, without_retries

_PREFIX = "gguf:"

_CONTEXT_TOKENS = 8192
"""Tokens of a prompt and its answer: the instructions, the largest context, one repair."""

_STOP_S = 5.0


@contextmanager
def opened_model(name: str) -> Iterator[str | Model]:
    """The model that LLM_MODEL names: `gguf:PATH` is served until the block ends; any other name is returned.

    Raises LLMError if the file is no model or xllamacpp is not installed.
    """
    if not name.startswith(_PREFIX):
        yield name
        return
    with _running_server(_checked_path(name)) as server:
        yield server.model()


def check_model(name: str) -> None:
    """Raise LLMError if LLM_MODEL names a model that cannot be used, as far as can be told without a call of it."""
    if name.startswith(_PREFIX):
        _checked_path(name)
    else:
        without_retries(name)


def lasting_model(name: str) -> str | Model:
    """The model that LLM_MODEL names, as in `opened_model`, but served until this process ends.

    Each call makes a new client of the same server, because a client belongs to one event loop.
    """
    return _lasting_server(name).model() if name.startswith(_PREFIX) else name


@dataclass(frozen=True)
class _Server:
    path: Path
    address: str
    key: str

    def model(self) -> Model:
        provider = OpenAIProvider(base_url=f"{self.address}/v1", api_key=self.key, http_client=bounded_client())
        return LlamaCppModel(self.path.stem, provider=provider)


@cache
def _lasting_server(name: str) -> _Server:
    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(_running_server(_checked_path(name)))


def _checked_path(name: str) -> Path:
    path = Path(name.removeprefix(_PREFIX)).resolve()
    if not path.is_file():
        raise LLMError(f"LLM_MODEL={name}: there is no such file")
    if find_spec("xllamacpp") is None:
        raise LLMError(f"LLM_MODEL={name}: xllamacpp is not installed. Install it: pip install xllamacpp")
    return path


@contextmanager
def _running_server(path: Path) -> Iterator[_Server]:
    """A server for a file, in a child process that ends with the block."""
    key = secrets.token_urlsafe(32)
    process = subprocess.Popen(  # noqa: S603 - no shell, and the path is an argument
        [sys.executable, "-m", "tips.gguf", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[1],
        text=True,
        start_new_session=True,  # Ctrl-C in a terminal is for the parent, which then ends the child
    )
    assert process.stdin and process.stdout
    try:
        process.stdin.write(f"{key}\n")
        process.stdin.flush()
        if not (address := process.stdout.readline().strip()):
            raise LLMError(f"LLM_MODEL={_PREFIX}{path}: llama.cpp cannot load this file")
        yield _Server(path, address, key)
    finally:
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _serve(path: str, key: str) -> None:
    """Serve a file, print the address, and return when the input ends."""
    from xllamacpp import CommonParams, Server

    parameters: Any = CommonParams()
    parameters.model.path = path
    parameters.n_ctx, parameters.n_parallel = _CONTEXT_TOKENS, 1
    parameters.hostnames, parameters.port, parameters.api_keys = ["127.0.0.1"], 0, [key]
    parameters.ui = False
    server = Server(parameters)
    print(server.listening_address, flush=True)  # noqa: T201 - the parent reads it
    sys.stdin.read()
    os._exit(0)  # a server that is deleted first finishes the answers under way, for minutes


if __name__ == "__main__":
    _serve(sys.argv[1], sys.stdin.readline().strip())
