"""The folder of a local run, and what a run leaves for the next one, which continues it."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from assets.engine.layout import read_layout
from contexts.files import FileStore
from contexts.todoist.credentials import new_key
from local.clock import utc_now
from local.environment_file import write_private
from local.paths import display_path
from local.processes import kill_left_over
from local.scenario import ScenarioError, selected_users


class FolderInUse(Exception):
    """A different run has its files in the folder; the message names the folder."""


@dataclass(frozen=True)
class RunState:
    """What the next run needs of this one, besides its files.

    began_at: the time at which the first of the runs that continue each other began.
    users: the variable that selects the users, such as USERS=25.
    digest: the hash of the users that the variable selects, such as the contents of a file with users.
    key: encrypts the API tokens in the context store.
    n_shards: the number of shards of the Parquet files; None before there are any.
    n_changes: the number of the last night before which the accounts were changed.
    has_past: whether the past of the users was played for analysts.
    """

    began_at: datetime
    users: str
    digest: str
    key: str
    n_shards: int | None = None
    n_changes: int = 1
    has_past: bool = False


@dataclass
class LocalRun:
    """A run in its folder.

    is_continued: whether an earlier run is continued. is_lasting: whether a later run can continue this one.
    """

    folder: Path
    state: RunState
    is_continued: bool
    is_lasting: bool = True

    @property
    def todoist_file(self) -> Path:
        """The file in which the local Todoist keeps its state."""
        return self.folder / "todoist.sqlite"

    def describe(self, next_night: int | None = None) -> str:
        """A line that says whether the last run is continued. next_night: the number of the next night, if any."""
        if not self.is_continued:
            return f"A new run ({self.state.users}) in {display_path(self.folder)}, without data of earlier ones"
        began = f"{self.state.began_at:%Y-%m-%d %H:%M} UTC"
        night = f" with night {next_night}" if next_night else ""
        return f"Continuing the run of {began} ({self.state.users}){night}; FRESH=1 begins again"

    def save(self, **changed: object) -> None:
        """Change the state, and write it for the next run, which continues a lasting run from now on."""
        self.state = replace(self.state, **changed)  # type: ignore[arg-type]
        if not self.is_lasting:
            return
        fields = asdict(self.state) | {"began_at": self.state.began_at.isoformat()}
        write_private(self.folder / _FILE, json.dumps(fields, indent=2) + "\n")


_FILE = "run.json"
_REMOVED = (_FILE, "todoist.sqlite", "todoist.sqlite-journal", "nights.json", "tips.json")


@contextmanager
def local_run(folder: Path, environment: Mapping[str, str], *, is_lasting: bool = True) -> Iterator[LocalRun]:
    """Lock a folder, and continue the last run in it; begin a new one if there is none, or if FRESH is set.

    A new run removes the data of the last one. A run that is not lasting is always new.

    Raises FolderInUse if a different run uses the folder, and ScenarioError if the last run has different users or
    shards and FRESH is not set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        kill_left_over(folder)
        users, contents = selected_users(environment)
        digest = sha256(contents).hexdigest()
        if is_lasting and not is_set(environment, "FRESH") and (last := _last_state(folder)) is not None:
            _check_same(last, folder, users, digest, environment.get("N_SHARDS"))
            yield LocalRun(folder, last, is_continued=True)
        else:
            _remove_data(folder)
            state = RunState(utc_now(), users, digest, new_key())
            yield LocalRun(folder, state, is_continued=False, is_lasting=is_lasting)


def is_set(environment: Mapping[str, str], name: str) -> bool:
    """Whether a switch such as ONCE=1 is on."""
    return environment.get(name, "") not in ("", "0")


def _last_state(folder: Path) -> RunState | None:
    try:
        fields = json.loads((folder / _FILE).read_text())
        last = RunState(**fields | {"began_at": datetime.fromisoformat(fields["began_at"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        raise ScenarioError(
            f"{display_path(folder / _FILE)} cannot be read, so the last run cannot be continued."
            " FRESH=1 begins again."
        ) from None
    layout = read_layout(FileStore(str(folder / "data")))
    return replace(last, n_shards=layout.n_shards) if layout else last  # the rows may have been moved since


def _check_same(last: RunState, folder: Path, users: str, digest: str, n_shards: str | None) -> None:
    wrong = []
    if users != last.users:
        wrong.append(f"{users}: the last run in {display_path(folder)} has {last.users}.")
    elif digest != last.digest:
        wrong.append(f"{users}: these are different users than those of the last run in {display_path(folder)}.")
    if n_shards and last.n_shards and n_shards != str(last.n_shards):
        wrong.append(f"N_SHARDS={n_shards}: the data of the last run in {display_path(folder)} has {last.n_shards}.")
    if wrong:
        raise ScenarioError("\n".join(f"{line} FRESH=1 removes that run and begins again." for line in wrong))


def _remove_data(folder: Path) -> None:
    """Remove what a run leaves, its state first: a run that is killed here cannot be continued."""
    for name in _REMOVED:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "data", ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUse(
                f"`make run`, `make cluster` or `make services` is already running in {display_path(folder)}."
                " End it first."
            ) from None
        yield
