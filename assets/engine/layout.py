"""The number of shards of a root, in a file at the root that every process compares before it uses the rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from json import dumps, loads

from assets.engine.errors import ShardUnreadable
from contexts.files import FileStore

_FILE = "shards.json"


@dataclass(frozen=True)
class Layout:
    """The number of shards. is_moving: rows are being moved to that number, and the files are not complete yet."""

    n_shards: int
    is_moving: bool = False


def read_layout(files: FileStore) -> Layout | None:
    """Return the layout that is stored at the root, None if there is none."""
    path = f"{files.root}/{_FILE}"
    with files.open(path) as file:
        if file is None:
            return None
        content = file.read()
    try:
        layout = Layout(**loads(content))
        if layout.n_shards < 1:
            raise ValueError("not a number of shards")
    except (TypeError, ValueError) as error:
        raise ShardUnreadable(
            f'{path} cannot be read ({error}). Write the number of shards into it, such as {{"n_shards": 16}}'
        ) from error
    return layout


def write_layout(files: FileStore, layout: Layout) -> None:
    """Replace the layout that is stored at the root."""
    with files.replacing(f"{files.root}/{_FILE}") as file:
        file.write(dumps(asdict(layout)).encode())
