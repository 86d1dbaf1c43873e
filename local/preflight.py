"""The check of a local run's settings, before the run deletes or starts anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

from contexts.settings import Settings, SettingsError, misspelt_names, read_settings
from local.paths import display_path
from local.scenario import ScenarioError, check_users
from serving.settings import ServingSettings

_OWN_VARIABLES = ("SAMPLE_USERS", "TODOIST_API_TOKEN", "OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY")
"""Variables that a run reads beside the settings; their misspelt names are found, too."""

_ANY_TOKEN = "x" * 32


def check_environment(folder: Path) -> None:
    """Raise SettingsError, with a line for each wrong setting of the environment and of a run in a folder."""
    if lines := list(dict.fromkeys(_wrong(os.environ, folder))):
        raise SettingsError("\n".join(lines))


def _wrong(environment: Mapping[str, str], folder: Path) -> Iterator[str]:
    yield from misspelt_names(environment, ServingSettings, others=_OWN_VARIABLES)
    model = environment.get("LLM_MODEL") or None
    checks: list[Callable[[], object]] = [
        partial(read_settings, Settings, llm_model=model),
        # A run makes the tokens of its service, and has an LLM in any case.
        partial(read_settings, ServingSettings, service_tokens=_ANY_TOKEN, llm_model=model or "local"),
        partial(check_users, environment),
    ]
    for check in checks:
        try:
            check()
        except (SettingsError, ScenarioError) as error:
            yield from str(error).splitlines()
    if model:
        yield from _wrong_model(model)
    yield from _wrong_folders(environment, folder)


def _wrong_model(model: str) -> Iterator[str]:
    # Imported here, because the libraries of the providers take longer to load than everything else.
    from tips.gguf import check_model
    from tips.models import LLMError

    try:
        check_model(model)
    except LLMError as error:
        yield from str(error).splitlines()


def _wrong_folders(environment: Mapping[str, str], folder: Path) -> Iterator[str]:
    model = environment.get("EMBEDDING_MODEL", "")
    if Path(model).is_absolute() and not Path(model).is_dir():
        yield f"EMBEDDING_MODEL={model}: there is no such folder"
    data = folder / "data"
    if environment.get("DATA_ROOT", str(data)) != str(data):
        yield (
            f"DATA_ROOT={environment['DATA_ROOT']}: a local run keeps its data in {display_path(data)}."
            " Unset DATA_ROOT, or name another folder: python -m local --folder FOLDER"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        yield f"{display_path(folder)} cannot be written: {error.strerror}"
